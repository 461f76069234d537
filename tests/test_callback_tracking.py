"""What experiment loggers are told, whichever service they send it to: settings, steps, epochs, how a fit ended."""
from __future__ import annotations

import time

import pytest
import torch
from small_learner import Interrupt, learner

from minifast.callback import core, tracking
from minifast.callback.core import Callback, CancelBatchException
from minifast.callback.tracking import ExperimentLogger, settings_of
from minifast.callback.training import GradientClip
from minifast.data.core import DataLoaders
from minifast.data.load import DataLoader
from minifast.metrics import accuracy


class Log(ExperimentLogger):
    """Keeps what it is told."""

    def __init__(self):
        self.told, self.steps, self.epochs = [], [], []

    def start(self):
        self.told.append('start')

    def log_steps(self, steps):
        self.told.append(len(steps))
        self.steps += steps

    def log_epoch(self, numbers):
        self.told.append('epoch')
        self.epochs.append(numbers)

    def finish(self, completed):
        self.told.append(completed)


def test_settings_are_those_of_the_training():
    """By the names that a service shows, as numbers and texts; of our own loaders and of torch's."""
    learn = learner(metrics=accuracy, cbs=GradientClip(.5), lr=.3, wd=.1)
    seen = []
    learn.fit(2, cbs=Callback(before_fit=lambda self: seen.append(settings_of(self.learn))))
    found, = seen
    own = found['Learner']
    assert (own['model'], own['opt_func'], own['lr'], own['wd']) == ('Sequential', 'SGD', .3, .1)
    assert own['metrics'] == ['accuracy'] and own['train_bn'] is True and own['wd_bn_bias'] is False
    assert own.keys() == {'model', 'loss_func', 'opt_func', 'lr', 'wd', 'moms', 'train_bn', 'wd_bn_bias', 'metrics',
                          'path', 'model_dir'} and own['loss_func'].startswith('FlattenedLoss of CrossEntropyLoss')
    assert own['moms'] == [.95, .85, .95] and own['model_dir'] == 'models'
    assert found['GradientClip'] == {'max_norm': .5, 'norm_type': 2.}
    n = sum(p.numel() for p in learn.model.parameters())
    assert {k: found[k] for k in ('batch size', 'batch per epoch', 'model parameters', 'epochs', 'device', 'frozen',
                                  'frozen idx')} == {
        'batch size': 8, 'batch per epoch': 4, 'model parameters': n, 'epochs': 2, 'device': 'cpu', 'frozen': False,
        'frozen idx': 0}
    assert not [k for k in found if k.startswith('dls.')]
    items = list(learn.dls.train.dataset)
    learn.dls = DataLoaders(DataLoader(items, bs=5), DataLoader(items, bs=5))
    assert settings_of(learn)['batch size'] == 5 and settings_of(learn)['batch per epoch'] == 7


@pytest.mark.parametrize('flush_s, parts', [(9999., [4]), (0., [1, 1, 1, 1])])
def test_steps_are_told_with_the_numbers_of_the_recorder(flush_s, parts, monkeypatch):
    """Positions from the first step to the last, losses smoothed and raw, rates by group; an epoch's columns behind."""
    monkeypatch.setattr(Log, 'flush_s', flush_s)
    raw, began = [], time.time()
    learn = learner(metrics=accuracy)
    learn.fit(2, lr=.1, cbs=[log := Log(), Callback(after_loss=lambda self: raw.append(float(self.loss.detach()))
                                                   if self.learn.training else None)])
    assert log.told == ['start', *parts, 'epoch', *parts, 'epoch', True]
    assert [s.train_iter for s in log.steps] == [*range(1, 9)]
    assert [s.epoch for s in log.steps] == [.25, .5, .75, 1., 1.25, 1.5, 1.75, 2.]
    assert [s.raw_loss for s in log.steps] == raw and [s.train_loss for s in log.steps] == learn.recorder.losses
    assert all(s.hypers['lr_0'] == .1 and s.hypers.keys() >= {'lr_0', 'mom_0', 'wd_0'} for s in log.steps)
    assert all(began <= s.time_s <= time.time() and 0 < s.items_a_second < 8e9 for s in log.steps)
    assert [s.time_s for s in log.steps] == sorted(s.time_s for s in log.steps)
    assert [[*numbers] for numbers in log.epochs] == [['valid_loss', 'accuracy']] * 2
    assert [[*numbers.values()] for numbers in log.epochs] == [row[1:] for row in learn.recorder.values]


def test_speed_is_items_over_seconds(monkeypatch):
    """Of one batch, from its beginning."""
    clock = iter(range(1000))
    monkeypatch.setattr(tracking.time, 'perf_counter', lambda: next(clock) / 2)
    learner().fit(1, cbs=(log := Log()))
    assert [s.items_a_second for s in log.steps] == [16.] * 4


def test_what_is_no_step_of_a_fit_is_not_told():
    """Batches that are left out, `lr_find`, predictions, validation by hand, other processes than the first."""
    learn = learner(cbs=(log := Log()))

    class Leaves(Callback):
        def before_batch(self):
            if self.learn.training and self.train_iter == 2:
                raise CancelBatchException
    learn.lr_find(num_it=3, show_plot=False), learn.get_preds(), learn.validate()
    assert not log.told and not log.steps
    learn.fit(1, cbs=Leaves)
    assert len(log.steps) == len(learn.recorder.losses) == 3


def test_only_the_first_process_tells(monkeypatch):
    """The others train in silence."""
    for rank, n in ((1, 0), (0, 4)):
        monkeypatch.setattr(core, 'num_distrib', lambda: 2)
        monkeypatch.setattr(core, 'rank_distrib', lambda rank=rank: rank)
        learner().fit(1, cbs=(log := Log()))
        assert len(log.steps) == n


@pytest.mark.parametrize('event', ['before_train', 'before_batch', 'after_step', 'before_validate'])
def test_the_end_of_a_fit_is_told_once_and_how_it_was(event):
    """After Ctrl-C too, with all steps that were done; the next fit starts anew."""
    learn = learner(cbs=(log := Log()))
    with pytest.raises(KeyboardInterrupt):
        learn.fit(2, cbs=Interrupt(event))
    assert log.told[0] == 'start' and log.told[-1] is False and log.told.count('start') == 1
    assert len(log.steps) == len(learn.recorder.losses)
    log.told.clear(), log.steps.clear()
    learn.fit(1)
    assert log.told == ['start', 4, 'epoch', True] and [s.train_iter for s in log.steps] == [1, 2, 3, 4]
    assert log.state_dict()['place'] == {} and torch.is_grad_enabled()
