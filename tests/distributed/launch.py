"""Starts scripts by torchrun, every one under a time limit; and the tensors that they leave."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def run_together(n, script, *args, cwd, timeout_s=120, strategy='ddp'):
    """Run a script by torchrun on `n` processes, or alone for 1; returns its standard output.

    Where it fails or takes longer, the test fails with the end of what it said, and none of its processes stays.
    """
    path = os.pathsep.join([str(HERE.parent.parent), os.environ.get('PYTHONPATH', '')])
    torchrun = ['-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={n}'] if n > 1 else []
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
