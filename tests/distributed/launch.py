"""Starts scripts by torchrun, every one under a time limit; and the tensors that they leave."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent


def run_together(n, script, *args, cwd, timeout_s=120, restarts=0, strategy='ddp'):
    """Run a script by torchrun on `n` processes, or alone for 1; returns its standard output.

    torchrun starts all of them again, at most `restarts` times, when one of them ends with an error.

    Where it fails or takes longer, the test fails with the end of what it said, and none of its processes stays.
    """
    path = os.pathsep.join([str(HERE.parent.parent), os.environ.get('PYTHONPATH', '')])
    torchrun = ['-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={n}',
                f'--max_restarts={restarts}'] if n > 1 else []
    environ = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': path, 'MPLBACKEND': 'Agg', 'STRATEGY': strategy}
    started = subprocess.Popen([sys.executable, *torchrun, str(script), *map(str, args)], cwd=cwd, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, env=environ)
    try:
        out, err = started.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGTERM)  # torchrun ends its workers
        out, err = started.communicate(timeout=60)
        raise AssertionError(f'{script} takes longer than {timeout_s} s on {n} processes:\n{err[-3000:]}') from None
    assert started.returncode == 0, err[-5000:]
    return out


def by_rank(n, script, folder, *args, **kwargs):
    """What each rank wrote."""
    run_together(n, HERE / script, folder, *args, cwd=folder, **kwargs)
    return [json.loads((folder / f'rank_{rank}.json').read_text(encoding='utf-8')) for rank in range(n)]


EXACT = {'seen', 'targets', 'targets0', 'targets1', 'decoded0', 'decoded1', 'x0', 'x1', 'n_steps'}
"""What is the same bit for bit; elsewhere floating-point numbers are summed in another order."""


def assert_same(name, alone, together):
    """What a part of `training.py` gave on several processes is what it gave on one; returns the largest difference."""
    assert alone.keys() == together.keys()
    largest = 0.
    for what, value in alone.items():
        found = together[what]
        if what in EXACT:
            assert torch.equal(found, value), what
        elif not (name == 'sum' and what == 'row'):  # a sum reported as a mean over batches is of their size
            largest = max(largest, float((found.double() - value.double()).abs().max()))
            torch.testing.assert_close(found, value, rtol=2e-6, atol=1e-6, msg=lambda text: f'{what}: {text}')
    return largest
