"""Laws of metrics over several processes."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


def test_metric_over_ranks_equals_the_whole_set(tmp_path):
    """Two processes with unequal shares of the batches read the value that one process has for all of them."""
    root = HERE.parent.parent
    path = os.pathsep.join([str(root), os.environ.get('PYTHONPATH', '')])
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': path}
    done = subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2',
         str(HERE / 'metrics_by_ranks.py'), str(tmp_path / 'values.json')], capture_output=True,
        text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    numbers = json.loads((HERE.parent / 'data' / 'metrics.json').read_text(encoding='utf-8'))['numbers']
    for label, value in json.loads((tmp_path / 'values.json').read_text(encoding='utf-8')).items():
        assert value == pytest.approx(numbers[label]['value'], rel=1e-6), label
