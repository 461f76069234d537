"""Laws of metrics over several processes."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


def by_two_processes(script, *args):
    """Run a script by torchrun."""
    path = os.pathsep.join([str(HERE.parent.parent), os.environ.get('PYTHONPATH', '')])
    done = subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2', str(script),
         *map(str, args)], capture_output=True, text=True, timeout=120,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': path})
    assert done.returncode == 0, done.stderr[-3000:]


def test_metric_over_ranks_equals_the_whole_set(tmp_path):
    """Two processes with unequal shares of the batches read the value that one process has for all of them."""
    by_two_processes(HERE / 'metrics_by_ranks.py', tmp_path / 'values.json')
    numbers = json.loads((HERE.parent / 'data' / 'metrics.json').read_text(encoding='utf-8'))['numbers']
    for label, value in json.loads((tmp_path / 'values.json').read_text(encoding='utf-8')).items():
        assert value == pytest.approx(numbers[label]['value'], rel=1e-6), label


REDUCTIONS = """
import sys, time
import torch, torch.distributed as dist
from minifast.distributed import barrier, gather, is_distributed, num_distrib, rank0_first, rank_distrib
from minifast.torch_core import maybe_gather, to_detach

assert not is_distributed() and gather(torch.ones(2)).tolist() == [1, 1]
dist.init_process_group('gloo')
rank, log = rank_distrib(), sys.argv[1]
assert is_distributed() and num_distrib() == 2 and rank == dist.get_rank()
x = torch.tensor([[1., 2], [3, 4]]) + 10 * rank
assert gather(x).tolist() == maybe_gather(x).tolist() == [[1, 2], [3, 4], [11, 12], [13, 14]]
assert gather(x, axis=1).tolist() == maybe_gather(x, 1).tolist() == [[1, 2, 11, 12], [3, 4, 13, 14]]
assert gather(x.T).tolist() == [[1, 3], [2, 4], [11, 13], [12, 14]]  # not contiguous
assert gather(torch.tensor(rank)).tolist() == [0, 1]
assert to_detach([x])[0].shape == (4, 2) and to_detach([x], gather=False)[0].shape == (2, 2)

def told(word, number=0):
    if rank == 0:
        time.sleep(.3)
    with open(log, 'a') as stream:
        stream.write(f'{rank}{word}{number} ')
    return word

assert rank0_first(told, 'a', number=7) == 'a'
barrier()
dist.destroy_process_group()
"""


def test_ranks_gather_in_their_order_and_the_first_goes_first(tmp_path):
    """Numbers, rows and columns; one process alone keeps what it has."""
    (tmp_path / 'script.py').write_text(REDUCTIONS, encoding='utf-8')
    by_two_processes(tmp_path / 'script.py', tmp_path / 'log')
    assert (tmp_path / 'log').read_text() == '0a7 1a7 '
