"""Run by torchrun with STRATEGY=fsdp, or alone: a model and Adam's averages where a process may have less memory.

Arguments: a folder for what came out, and how many MB a process may allocate beyond what it has when it starts.
"""
from __future__ import annotations

import json
import os
import re
import resource
import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

from minifast.data.core import DataLoaders
from minifast.data.load import DataLoader
from minifast.distributed import barrier, rank_distrib, setup_distrib
from minifast.learner import Learner
from minifast.optimizer import Adam
from minifast.seeds import set_seed
from minifast.sharding import own_part

WIDTH, DEPTH = 2048, 12
MB = 1 << 20


def allocated():
    """MB of private memory that this process has asked for."""
    status = Path('/proc/self/status').read_text(encoding='ascii')
    return int(re.search(r'VmData:\s+(\d+) kB', status)[1]) >> 10


def main(folder, room):
    """Train two steps within `room` MB, and tell what is held."""
    data = TensorDataset(torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(1)), torch.arange(8) % 2)
    dls = DataLoaders(DataLoader(data, global_bs=4, num_workers=0), DataLoader(data, global_bs=4, num_workers=0))
    setup_distrib(timeout_s=60)
    barrier()
    limit = (allocated() + room) * MB
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    set_seed(2)
    model = nn.Sequential(*[nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(DEPTH)], nn.Linear(WIDTH, 2))
    learn = Learner(dls, model, nn.CrossEntropyLoss(), opt_func=Adam, lr=1e-5, strategy=os.environ['STRATEGY'])
    learn.remove_cb(learn.progress)
    learn.logger = lambda row: None
    learn.fit(1)
    tensors = [*model.parameters(), *(x for values in learn.opt.state.values() for x in values.values()
                                      if isinstance(x, torch.Tensor))]
    held = sum(x.nbytes for x in map(own_part, tensors))
    found = {'all': sum(x.numel() * x.element_size() for x in tensors) / MB, 'held': held / MB,
             'losses': [float(x) for x in learn.recorder.losses], 'peak': allocated() - limit // MB + room}
    (folder / f'rank_{rank_distrib()}.json').write_text(json.dumps(found), encoding='utf-8')


if __name__ == '__main__':
    main(Path(sys.argv[1]), int(sys.argv[2]))
