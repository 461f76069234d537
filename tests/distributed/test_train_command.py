"""`minifast train --nproc N`: the command starts itself N times, and it looks to the user as one."""
from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from launch import HERE

from minifast.cli import main
from minifast.demo import write_digits

FAST = ['--weights', 'none', '--size', '32', '--bs', '4', '--lr', '2e-3', '--no-flip', '--workers', '0']


@pytest.fixture(scope='module')
def digits(tmp_path_factory) -> Path:
    """A folder with 40 pictures of each of two digits; its name has spaces."""
    folder = tmp_path_factory.mktemp('pictures of digits')
    all_digits = write_digits(folder / 'all')
    for name in '07':
        (folder / name).mkdir()
        for file in sorted((all_digits / name).iterdir())[:40]:
            shutil.copy(file, folder / name)
    shutil.rmtree(all_digits)
    return folder


def start(folder, *words):
    """The command in a process of its own, in the folder of the pictures' parent."""
    environ = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(HERE.parent.parent), 'MPLBACKEND': 'Agg'}
    return subprocess.Popen([sys.executable, '-m', 'minifast', 'train', str(folder), *FAST, *map(str, words)],
                            cwd=folder.parent, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ)


def ended(process, timeout_s=120):
    """Exit code, stdout and stderr; where it takes longer none of its processes stays."""
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.terminate()  # which ends its workers
        process.communicate(timeout=60)
        raise
    return process.returncode, out, err


def test_several_processes_look_like_one(digits, tmp_path, capsys):
    """One table, one model that knows the digits, one history; exit code 0; and nothing else is said or left."""
    code, out, err = ended(start(digits, '--nproc', 2, '--epochs', 6, '--out', tmp_path / 'out'))
    assert code == 0, err
    lines = [line for line in out.splitlines() if line.strip()]
    assert lines[0] == '2 classes, 64 pictures to train and 16 to validate; resnet18 at 32 px on cpu, 2 processes'
    assert [line.split()[0] for line in lines[1:8]] == ['epoch', *'012345']
    assert re.fullmatch(r'error rate \d+\.\d%; model and history are in .*out', lines[8])
    assert lines[9].startswith('now: minifast predict') and len(lines) == 10
    assert not re.sub(r'.*\r|\s', '', err)  # bars are wiped
    assert sorted(f.name for f in (tmp_path / 'out').iterdir()) == ['history.csv', 'model.pth']
    header, *rows = csv.reader((tmp_path / 'out' / 'history.csv').read_text(encoding='utf-8').splitlines())
    assert header[:4] == ['epoch', 'train_loss', 'valid_loss', 'error_rate']
    assert [row[0] for row in rows] == list('012345')
    assert lines[8].startswith(f'error rate {float(rows[-1][3]):.1%}')
    assert main(['predict', str(tmp_path / 'out' / 'model.pth'), str(digits)]) == 0
    told = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    right = sum(Path(digits.parent, *line[:-2]).parent.name == line[-2] for line in told)
    assert len(told) == 80 and right > 60  # by chance: 40


@pytest.mark.dist
def test_a_picture_that_one_process_cannot_read_is_told_once(digits, tmp_path):
    """As one process tells it, whichever of them met it; exit code 2, and no folder."""
    shutil.copytree(digits, tmp_path / 'p')
    (tmp_path / 'p' / '0' / '003.png').write_text('no picture')
    code, out, err = ended(start(tmp_path / 'p', '--nproc', 3, '--out', tmp_path / 'out'))
    assert code == 2, err
    assert err.count('cannot be read') == 1 and 'Traceback' not in err and 'rank' not in err
    assert 'p/0/003.png cannot be read as a picture' in err and not (tmp_path / 'out').exists()


@pytest.mark.dist
@pytest.mark.parametrize('number, code, told', [
    (signal.SIGINT, 130, 'stopped by Ctrl-C'), (signal.SIGTERM, 143, 'stopped by SIGTERM'),
    (signal.SIGKILL, 137, 'rank 1 of 2 processes was ended: Signal 9')])
def test_what_ends_one_ends_all_and_is_told_once(digits, tmp_path, number, code, told):
    """Ctrl-C and the ending of the command; a worker that the system kills. No process and no folder is left."""
    process = start(digits, '--nproc', 2, '--epochs', 1000, '--out', tmp_path / 'out')
    while process.stdout.readline()[:2] != '0 ':
        assert process.poll() is None
    listed = subprocess.run(['ps', '--ppid', str(process.pid), '-o', 'pid='], capture_output=True, text=True)
    workers = list(map(int, listed.stdout.split()))
    assert len(workers) == 2
    os.kill(workers[1] if number == signal.SIGKILL else process.pid, number)
    found, _, err = ended(process)
    assert found == code and err.count('no model was written') == 1 and told in err and 'Traceback' not in err, err
    assert not (tmp_path / 'out').exists()
    assert not any(Path(f'/proc/{pid}').exists() for pid in workers)
