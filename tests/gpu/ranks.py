"""Trains one way named on the command line, and writes what came out; alone, as a group of one, or by torchrun.

`python ranks.py FILE ddp|fsdp|alone bf16|fp32 [compile] [sync_bn]`. On `MINIFAST_TEST_DEVICE` or, by default, the GPU.
"""
from __future__ import annotations

import os
import sys
import tempfile
from functools import partial
from pathlib import Path

os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import TensorDataset

from minifast.callback.checkpoint import CheckpointCallback
from minifast.callback.core import Callback
from minifast.data.core import DataLoaders
from minifast.data.load import DataLoader
from minifast.distributed import is_distributed, num_distrib, rank_distrib
from minifast.learner import Learner
from minifast.metrics import accuracy
from minifast.optimizer import Adam
from minifast.seeds import set_seed
from minifast.sharding import whole

DEVICE = os.environ.get('MINIFAST_TEST_DEVICE', 'cuda')


class Gone(Exception):
    """Ends a training as a crash would."""


class Crash(Callback):
    """Fails in the sixth step."""

    def before_step(self):
        if self.learn.train_iter == 5:
            raise Gone


def learner(given):
    """Convolutions with batch norm on random pictures, 12 a batch of all processes."""
    g = torch.Generator().manual_seed(7)
    items = TensorDataset(torch.randn(44, 3, 16, 16, generator=g), torch.randint(0, 4, (44,), generator=g))
    dls = DataLoaders(*(DataLoader(items, global_bs=12, shuffle=shuffle, drop_last=shuffle, num_workers=0)
                        for shuffle in (True, False)))
    dls.device = torch.device(DEVICE)
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2),
                          nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4))
    strategy = given[0]
    learn = Learner(dls, model, nn.CrossEntropyLoss(), partial(Adam, mom=.9), .01, metrics=accuracy,
                    strategy=None if strategy == 'alone' else strategy)
    if strategy != 'alone':
        learn.to_distributed(sync_bn='sync_bn' in given, strategy=strategy,
                             units=(nn.Conv2d, nn.Linear) if strategy == 'fsdp' else None)
    if 'bf16' in given:
        learn.to_bf16()
    if 'compile' in given:
        learn.compile()
    learn.remove_cb(learn.progress)
    learn.logger = lambda row: None
    return learn


def outcome(learn):
    """Weights, buffers and the last row of the table, on the CPU."""
    found = {name: whole(p.detach(), on_all=True) for name, p in learn.model.named_parameters()}
    found |= {name: b for name, b in learn.model.named_buffers() if b.is_floating_point()}
    found['row'] = torch.tensor(learn.recorder.values[-1], dtype=torch.float64)
    return {name: x.cpu().clone().contiguous() for name, x in found.items()}


def main(file, *given):
    """Three epochs; for one that is resumed, killed in the second and gone on with."""
    torch.use_deterministic_algorithms(True)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if given[0] != 'alone' and not num_distrib():
        dist.init_process_group('nccl' if DEVICE == 'cuda' else 'gloo', store=dist.HashStore(), rank=0, world_size=1)
    learn = learner(given)
    set_seed(5)
    if 'resumed' in given:
        with tempfile.TemporaryDirectory() as folder:
            try:
                learn.fit(3, cbs=[CheckpointCallback(folder, every=2), Crash()])
            except Gone:
                learn = learner(given)
                set_seed(5)
            else:
                raise AssertionError('the crash has not come')
            learn.fit(3, cbs=CheckpointCallback(folder, every=2), resume=True)
    else:
        learn.fit(3)
    found = outcome(learn)
    assert {p.device.type for p in learn.model.parameters()} == {torch.device(DEVICE).type}
    if rank_distrib() == 0:
        save_file(found, Path(file))
    if is_distributed():
        print('backend', dist.get_backend(), 'ranks', dist.get_world_size())
        dist.destroy_process_group()


if __name__ == '__main__':
    main(*sys.argv[1:])
