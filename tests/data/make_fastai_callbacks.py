"""Writes fastai_callbacks.json: numbers of fastai's schedules, suggestions, MixUp, CutMix and accumulation.

Run it where fastai is installed: `python tests/data/make_fastai_callbacks.py`.
"""
# ruff: noqa: F403, F405
import json
from pathlib import Path

import numpy as np
import torch
from fastai.callback.all import *
from fastai.callback.schedule import minimum, slide, steep, valley
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import SGD
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

POSITIONS = [0., .01, .1, .2499, .25, .2501, .4, .5, .75, .9, .99, 1.]


def schedules():
    made = {'lin': SchedLin(2., 10.), 'cos': SchedCos(2., 10.), 'no': SchedNo(2., 10.), 'exp': SchedExp(2., 10.),
            'poly': SchedPoly(2., 10., 3), 'one_cycle': combined_cos(.25, .01 / 25, .01, 1e-7),
            'three': combine_scheds([.25, .25, .5], [SchedLin(1., 2.), SchedCos(2., 0.), SchedExp(1., 4.)])}
    groups = combined_cos(.25, np.array([.1, .2]), np.array([1., 2.]), np.array([0., .5]))
    values = {name: [float(sched(p)) for p in POSITIONS] for name, sched in made.items()}
    return {**values, 'groups': [groups(p).tolist() for p in POSITIONS]}


def searches():
    found = []
    for seed in range(6):
        rng = np.random.RandomState(seed)
        lrs = torch.tensor(1e-7 * (1e8) ** (np.arange(85) / 100)).float()
        x = np.log10(lrs.numpy())
        losses = torch.tensor(2 - 1.2 / (1 + np.exp(-3 * (x + 3))) + np.exp(2 * (x - .2)) + rng.randn(85) * .02).float()
        points = {f.__name__: f(lrs, losses, 100) for f in (valley, slide, minimum, steep)}
        made = {name: [float(s), [float(p) for p in point]] for name, (s, point) in points.items()}
        found.append({'lrs': lrs.tolist(), 'losses': losses.tolist(),
                      'suggestions': made})
    return found


def data():
    g = torch.Generator().manual_seed(7)
    return torch.randn(32, 3, 6, 6, generator=g), torch.randint(0, 4, (32,), generator=g)


def model():
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(108, 4))


def learner(n=32, bs=8, **kwargs):
    x, y = data()
    dl = DataLoader(TensorDataset(x[:n], y[:n]), bs)
    return Learner(DataLoaders(dl, dl), model(), loss_func=CrossEntropyLossFlat(), opt_func=SGD, **kwargs)


class Losses(Callback):
    run_valid = False

    def before_fit(self):
        self.seen = []

    def after_loss(self):
        self.seen.append(float(self.loss))


def fits():
    found = {}
    for name, cb in (('mixup', MixUp()), ('cutmix', CutMix()), ('mixup_1', MixUp(1.)), ('plain', None)):
        losses, learn = Losses(), learner()
        torch.manual_seed(11)
        with learn.no_bar(), learn.no_logging():
            learn.fit(2, lr=.1, cbs=[losses] + ([cb] if cb else []))
        found[name] = losses.seen
    learn = learner()
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(2, 1e-2)
        found['one_cycle'] = {k: [float(v) for v in vs] for k, vs in learn.recorder.hps.items()}
        learn.fit_flat_cos(2, 1e-2)
        found['flat_cos'] = {k: [float(v) for v in vs] for k, vs in learn.recorder.hps.items()}
        learn.fit_sgdr(2, 1, 1e-2)
        found['sgdr'] = {k: [float(v) for v in vs] for k, vs in learn.recorder.hps.items()}
    for name, cb in (('accumulation', GradientAccumulation(16)), ('clip', GradientClip(.1))):
        learn = learner()
        with learn.no_bar(), learn.no_logging():
            learn.fit(1, lr=.1, cbs=cb)
        found[name] = learn.model[1].bias.tolist()
    return found


def attributes():
    classes = [ParamScheduler, LRFinder, TerminateOnNaNCallback, TrackerCallback, EarlyStoppingCallback,
               SaveModelCallback, ReduceLROnPlateau, ShortEpochCallback, GradientAccumulation, GradientClip, BnFreeze,
               MixUp, CutMix, MixedPrecision, ChannelsLast, HookCallback, ActivationStats]
    names = ('order', 'run_valid', 'run_train', 'remove_on_fetch')
    return {c.__name__: {name: getattr(c, name, name.startswith('run')) for name in names} for c in classes}


if __name__ == '__main__':
    found = {'positions': POSITIONS, 'schedules': schedules(), 'searches': searches(), 'fits': fits(),
             'attributes': attributes()}
    Path(__file__).with_name('fastai_callbacks.json').write_text(json.dumps(found) + '\n')
