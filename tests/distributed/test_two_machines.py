"""Two machines on one: network namespaces joined by a cable that is pulled in the middle of a training."""
from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest
from launch import HERE, run_together
from test_resuming import told

NAMES, ADDRESSES = ('minifast-a', 'minifast-b'), ('10.231.7.1', '10.231.7.2')


def ip(*args):
    """Run `ip`; returns whether it could."""
    try:
        return subprocess.run(['ip', *args], capture_output=True, timeout=30).returncode == 0
    except OSError:
        return False


def pull(is_up):
    """The cable of the second machine."""
    assert ip('-n', NAMES[1], 'link', 'set', 'cable1', 'up' if is_up else 'down')


@pytest.fixture
def machines():
    """Two namespaces with an address each."""
    names = [name for name in NAMES if ip('netns', 'add', name)]
    try:
        cable = 'link', 'add', 'cable0', 'netns', NAMES[0], 'type', 'veth', 'peer', 'name', 'cable1', 'netns', NAMES[1]
        if len(names) < 2 or not ip(*cable):
            pytest.skip('network namespaces (ip netns add, from iproute2) are not permitted here: not run')
        for i, (name, address) in enumerate(zip(NAMES, ADDRESSES)):
            assert ip('-n', name, 'addr', 'add', f'{address}/24', 'dev', f'cable{i}')
            assert ip('-n', name, 'link', 'set', f'cable{i}', 'up') and ip('-n', name, 'link', 'set', 'lo', 'up')
        yield
    finally:
        for name in names:
            ip('netns', 'del', name)


def start(i, jobs, cwd):
    """torchrun on machine i, started again by its supervisor as long as it fails."""
    torchrun = [sys.executable, '-m', 'torch.distributed.run', '--nnodes=2', '--nproc_per_node=1', '--max_restarts=3',
                '--rdzv_backend=c10d', f'--rdzv_endpoint={ADDRESSES[0]}:29517', '--rdzv_id=two',
                f'--rdzv_conf=is_host={1 - i},join_timeout=120', f'--local_addr={ADDRESSES[i]}',
                str(HERE / 'resuming.py'), json.dumps(jobs), '12']
    environ = {**os.environ, 'GLOO_SOCKET_IFNAME': f'cable{i}', 'TORCH_DISABLE_SHARE_RDZV_TCP_STORE': '1',
               'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'Agg',
               'PYTHONPATH': os.pathsep.join([str(HERE.parent.parent), os.environ.get('PYTHONPATH', '')])}
    supervisor = 'for i in 1 2 3 4 5 6 7 8; do "$@" && exit 0; sleep 1; done; exit 1'
    with (cwd / f'machine{i}.log').open('w') as log:
        return subprocess.Popen(['ip', 'netns', 'exec', NAMES[i], 'bash', '-c', supervisor, 'supervisor', *torchrun],
                                cwd=cwd, env=environ, stdout=log, stderr=log, start_new_session=True)


@pytest.mark.dist
def test_a_pulled_cable_changes_nothing(machines, tmp_path):
    """One machine is cut off for longer than a collective may take, and comes back: the same bits."""
    job = {'kind': 'own', 'n_epoch': 8}
    run_together(2, HERE / 'resuming.py', json.dumps([{**job, 'out': 'whole', 'folder': 'w'}]), cwd=tmp_path)
    jobs = [{**job, 'out': 'part', 'folder': 'p', 'slow_s': .3}]
    running = [start(i, jobs, tmp_path) for i in range(2)]
    try:
        until = time.monotonic() + 120
        while len(list(tmp_path.glob('p/checkpoint-*.pth'))) < 5:
            assert time.monotonic() < until, (tmp_path / 'machine0.log').read_text()[-3000:]
            time.sleep(.2)
        pull(False)
        n_cut = len(list(tmp_path.glob('p/checkpoint-*.pth')))
        time.sleep(20)
        assert len(list(tmp_path.glob('p/checkpoint-*.pth'))) <= n_cut + 2  # nobody goes on alone
        pull(True)
        assert [p.wait(240) for p in running] == [0, 0], (tmp_path / 'machine0.log').read_text()[-3000:]
    finally:
        for p in running:
            if p.poll() is None:
                os.killpg(p.pid, 15)
                p.wait(60)
    assert 'resumed from' in (tmp_path / 'machine0.log').read_text() + (tmp_path / 'machine1.log').read_text()
    assert told(tmp_path, 'part', 2) == told(tmp_path, 'whole', 2)
    print('a pulled cable survived 1/1')
