"""Starts its processes itself, as scripts without torchrun do: no RANK and no WORLD_SIZE in the environment."""
from __future__ import annotations

import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import multiprocessing

N = 2


def train(rank, folder):
    """What process `rank` does: a group of the script's own, then a learner as ever."""
    dist.init_process_group('gloo', init_method=f'file://{folder}/meeting', rank=rank, world_size=N,
                            timeout=timedelta(seconds=60))
    from training import fitted
    torch.use_deterministic_algorithms(True)
    found = fitted()
    if rank == 0:
        save_file({key: value.contiguous() for key, value in found.items()}, Path(folder) / 'sgd.safetensors')
    dist.destroy_process_group()


if __name__ == '__main__':
    assert not {'RANK', 'WORLD_SIZE'} & os.environ.keys()
    multiprocessing.spawn(train, (sys.argv[1],), nprocs=N)
