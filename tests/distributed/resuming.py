"""Run by torchrun, or alone: a training that is killed and goes on; see `main` for the arguments.

Each rank draws from its own random stream (dropout), gathers gradients over two batches and has batch norm, so that it
holds much that no other rank has.
"""
from __future__ import annotations

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path

import torch
from torch import nn
from training import BS, loaders, weights

from minifast.callback.checkpoint import CheckpointCallback
from minifast.callback.core import Callback
from minifast.callback.training import EMA, GradientAccumulation
from minifast.distributed import rank_distrib
from minifast.learner import Learner
from minifast.optimizer import Adam
from minifast.seeds import set_seed


class Own(Callback):
    """Something that each rank draws for itself and keeps, and that goes into the weights."""

    order = 2

    def __init__(self):
        self.drawn = torch.zeros(())

    def before_batch(self):
        if self.learn.training:
            self.drawn = .5 * self.drawn + torch.rand(())
            self.learn.xb = (self.learn.xb[0] + .1 * self.drawn,)


class Ends(Callback):
    """Ends this process, or what is asked of it, when step number `at` of the fit is over."""

    order, run_valid, identifies_run = 900, False, False
    not_carried = ('*',)

    def __init__(self, how, at, rank):
        self.how, self.at, self.rank, self.n = how, at, rank, 0

    def after_batch(self):
        if self.learn.train_iter == self.at and rank_distrib() == self.rank:
            {'kill': lambda: os.kill(os.getpid(), signal.SIGKILL),
             'term': lambda: os.kill(os.getpid(), signal.SIGTERM),
             'fail': self._fail}[self.how]()

    def _fail(self):
        raise OSError('the disk is gone')


def net(plain):
    """Layers without anything of a rank's own, or with batch norm and dropout."""
    torch.manual_seed(3 + rank_distrib())
    if plain:
        return nn.Sequential(nn.Flatten(), nn.Linear(108, 6), nn.Tanh(), nn.Linear(6, 4))
    return nn.Sequential(nn.Flatten(), nn.Linear(108, 6), nn.BatchNorm1d(6), nn.Dropout(.3), nn.Linear(6, 4))


class Seen(Callback):
    """Notes what this rank is given, with the step it belongs to."""

    order, run_valid, identifies_run = 5, False, False
    not_carried = ('*',)

    def before_fit(self):
        self.rows = []

    def before_batch(self):
        own = [] if getattr(self.learn.dl, 'stands_in', False) else self.learn.xb[0].flatten(1)[:, 0].tolist()
        self.rows.append([self.learn.epoch, self.learn.iter, own])


def train(folder, plain, how='', at=-1, rank=0, every=1, n_epoch=3):
    """What is left of a fit that goes on from what is in the folder."""
    learn = Learner(loaders(n=BS * 3 + 7), net(plain), nn.CrossEntropyLoss(), opt_func=partial(Adam, wd=.01), lr=.02)
    learn.remove_cb(learn.progress)
    learn.logger = lambda row: None
    set_seed(5 + rank_distrib())
    seen = Seen()
    cbs = [seen] + ([] if plain else [Own(), EMA(.8), GradientAccumulation(2 * BS)])
    ends = [Ends(how, at, rank)] if how else []
    checkpoint = CheckpointCallback(folder, every=every or None, minutes=None if every else 60)
    learn.fit(n_epoch, cbs=[*cbs, *ends, checkpoint], resume=True)
    state = [float(v) for b in learn.model.buffers() for v in b.flatten()]
    return {'weights': weights(learn).tolist(), 'buffers': state, 'rows': [list(row) for row in learn.recorder.values], 'seen': seen.rows,
            'drawn': torch.rand(3).tolist()}


def main(out, folder, *how):
    """Train in `folder`, and write what was left of rank r to `out`_r.json.

    Args:
        out: start of the names.
        folder: of the checkpoints.
        how: 'plain' or 'own', then how a rank ends ('kill', 'term', 'fail'), at which step, which rank, and how often
            a checkpoint is due (0: never by itself).
    """
    kind, *ending = how
    keys = 'how', 'at', 'rank', 'every'
    ending = {key: value if key == 'how' else int(value) for key, value in zip(keys, ending)}
    told = train(Path(folder), kind == 'plain', **ending)
    Path(f'{out}_{rank_distrib()}.json').write_text(json.dumps(told), encoding='utf-8')


if __name__ == '__main__':
    torch.use_deterministic_algorithms(True)
    main(*sys.argv[1:])
