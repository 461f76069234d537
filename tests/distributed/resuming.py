"""Run by torchrun, or alone: trainings that are killed and go on; see `main` for the argument.

Each rank draws from its own random stream (dropout), gathers gradients over two batches and has batch norm, so that it
holds much that no other rank has.
"""
from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path

import torch
from torch import nn
from training import BS, loaders, weights

from minifast.callback.checkpoint import CheckpointCallback
from minifast.callback.core import Callback
from minifast.callback.training import EMA, GradientAccumulation
from minifast.distributed import num_distrib, rank_distrib, setup_distrib
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


CLOCKS = []
"""What ends this process; no attribute, which a checkpoint would carry on."""


class Ends(Callback):
    """Ends a rank's process, or has it end, when step number `at` of the fit is over; `times` times in all.

    How often it was done is kept in the file `log`, since the job may be started again. 'anytime' is a kill at a random
    moment within `within_s` seconds from the first step on.
    """

    order, run_valid, identifies_run = 900, False, False
    not_carried = ('*',)

    def __init__(self, how, log, at=0, rank=0, times=1, within_s=.5):
        self.how, self.log, self.at, self.rank, self.times, self.within_s = how, log, at, rank, times, within_s

    def _end(self):
        done = len(self.log.read_text()) if self.log.exists() else 0
        rank = (done * 7 + 3) % 5 % max(num_distrib(), 1) if self.how == 'anytime' else self.rank
        if done >= self.times or rank_distrib() != rank or CLOCKS:
            return
        if self.how == 'anytime':
            CLOCKS.append(self)
            threading.Timer(random.SystemRandom().uniform(0, self.within_s), self._kill).start()
            return
        with self.log.open('a') as log:
            log.write('.')
        if self.how == 'fail':
            raise OSError('the disk is gone')
        os.kill(os.getpid(), {'kill': signal.SIGKILL, 'term': signal.SIGTERM}[self.how])

    def _kill(self):
        with self.log.open('a') as log:
            log.write('.')
        os.kill(os.getpid(), signal.SIGKILL)

    def after_batch(self):
        if self.how == 'anytime' or self.learn.train_iter == self.at:
            self._end()


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

    def __init__(self, slow_s):
        self.slow_s = slow_s

    def before_fit(self):
        self.rows = []

    def before_batch(self):
        time.sleep(self.slow_s)
        own = [] if getattr(self.learn.dl, 'stands_in', False) else self.learn.xb[0].flatten(1)[:, 0].tolist()
        self.rows.append([self.learn.epoch, self.learn.iter, own])


def train(folder, kind, ends=None, every=1, n_epoch=3, slow_s=0.):
    """What is left of a fit that goes on from what is in the folder."""
    plain = kind == 'plain'
    n = BS * 3 + (7 if plain else 8)  # batch norm wants two items of each of four
    learn = Learner(loaders(n=n), net(plain), nn.CrossEntropyLoss(), opt_func=partial(Adam, wd=.01), lr=.02,
                    strategy=os.environ.get('STRATEGY', 'ddp'))
    learn.remove_cb(learn.progress)
    learn.logger = lambda row: None
    set_seed(5 + rank_distrib())
    seen = Seen(slow_s)
    cbs = [seen, GradientAccumulation(2 * BS), *([] if plain else [Own(), EMA(.8)])]
    cbs += [] if ends is None else [Ends(log=Path(folder + '.log'), **ends)]
    checkpoint = CheckpointCallback(folder, every=every or None, minutes=None if every else 60, keep=100)
    learn.fit_one_cycle(n_epoch, cbs=[*cbs, checkpoint], resume=True)
    buffers = [float(v) for b in learn.model.buffers() for v in b.flatten()]
    return {'weights': weights(learn).tolist(), 'buffers': buffers, 'seen': seen.rows,
            'rows': [list(row) for row in learn.recorder.values], 'drawn': torch.rand(3).tolist()}


def main(jobs):
    """Do the jobs in their order, each `{'out': NAME, ...}` with arguments of `train`; what was left of rank r is
    written to NAME_r.json. Started again, what was done is passed over."""
    for job in jobs:
        out = Path(f'{job.pop("out")}_{rank_distrib()}.json')
        told = train(**job)
        out.write_text(json.dumps(told), encoding='utf-8')


if __name__ == '__main__':
    torch.use_deterministic_algorithms(True)
    setup_distrib(timeout_s=float(sys.argv[2]) if len(sys.argv) > 2 else 600)
    main(json.loads(sys.argv[1]))
