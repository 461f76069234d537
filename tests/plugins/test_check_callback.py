"""The contract between loop and callback, as a function: right callbacks pass it, each way to break it is found, and
every callback of minifast keeps it."""
from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from functools import partial

import pytest
import torch
from torch import nn

import minifast.callback
from minifast.callback.core import Callback, CancelBatchException
from minifast.data.core import DataLoaders
from minifast.learner import Learner
from minifast.losses import CrossEntropyLossFlat
from minifast.test_utils import synth_learner
from minifast.testing import check_callback

# ---------------------------------------------------------------- right and wrong ones


class Counts(Callback):
    """Counts batches."""

    def before_fit(self):
        self.n = 0

    def after_batch(self):
        self.n += 1


class NoSuper(Callback):
    """Never calls `super().__init__()` and changes the loss."""

    def __init__(self):
        self.factor = 0.5

    def after_loss(self):
        if self.training:
            self.learn.loss_grad = self.loss_grad * self.factor


class LeavesLogger(Callback):
    """Replaces the logger and leaves it."""

    def before_fit(self):
        self.learn.logger = print


class LeavesLoggerOnCtrlC(Callback):
    """Puts the logger back in `after_fit` only, which an interruption skips."""

    def before_fit(self):
        self.before, self.learn.logger = self.learn.logger, (lambda row: None)

    def after_fit(self):
        self.learn.logger = self.before


class LeavesHooks(Callback):
    """Hooks the model in each fit."""

    def before_fit(self):
        self.model.register_forward_hook(lambda *args: None)


class WrapsLoss(Callback):
    """Wraps the loss function once more in each fit."""

    def before_fit(self):
        self.learn.loss_func = partial(self.learn.loss_func)


class LeavesGradients(Callback):
    """Cancels a batch behind the backward pass, again and again."""

    def after_backward(self):
        raise CancelBatchException


class Meddles(Callback):
    """Claims to watch and scales the weights."""

    def after_step(self):
        with torch.no_grad():
            next(self.model.parameters()).mul_(0.9)


class DrawsFromTorch(Callback):
    """Claims to watch and draws from the global generator, which shifts every later dropout."""

    def before_batch(self):
        torch.rand(1)


class SecondFitFails(Callback):
    """Works once."""

    def before_fit(self):
        assert not hasattr(self, 'opened'), 'opened twice'
        self.opened = True


class CountsAndScales(Callback):
    """A counter decides about the loss; it is carried without being asked."""

    def __init__(self):
        self.n = 0

    def after_loss(self):
        if self.training:
            self.n += 1
            self.learn.loss_grad = self.loss_grad / self.n


class SaysTooLittle(CountsAndScales):
    """Says its state, and forgets the counter."""

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        """Nothing."""


class Iterates(Callback):
    """Keeps what no checkpoint can carry, which is told."""

    def __init__(self):
        self.factors = iter([1 / n for n in range(1, 1000)])

    def after_loss(self):
        if self.training:
            self.learn.loss_grad = self.loss_grad * next(self.factors)


def test_check_callback_kills_and_resumes():
    """What is carried or told passes; a state_dict that says too little is found."""
    check_callback(CountsAndScales)
    check_callback(Iterates)
    with pytest.raises(AssertionError, match='killed and resumed has another'):
        check_callback(SaysTooLittle)
    check_callback(SaysTooLittle, resumes=False)


def test_check_callback_kills_also_where_an_epoch_has_two_batches():
    """The shortest one that has a middle."""
    def make_learner(cbs=None):
        return synth_learner(n_trn=2, cbs=cbs)
    assert len(make_learner().dls.train) == 2
    check_callback(CountsAndScales, make_learner)
    with pytest.raises(AssertionError, match='killed and resumed has another'):
        check_callback(SaysTooLittle, make_learner)


@pytest.mark.parametrize('callback', [Counts, Counts(), NoSuper, LeavesGradients, lambda: Counts()])
def test_check_callback_passes_callbacks_that_keep_the_contract(callback):
    """A class, an instance and a function that makes one are taken; what changes training on purpose passes."""
    learn = check_callback((lambda: callback) if isinstance(callback, Callback) else callback)
    assert isinstance(learn, Learner)


@pytest.mark.parametrize('callback, message', [(LeavesLogger, 'after fit 1: logger was'), (WrapsLoss, 'loss_func'),
                                               (LeavesLoggerOnCtrlC, 'after Ctrl-C: logger'),
                                               (LeavesHooks, 'model hooks was 0 and is 1'),
                                               (SecondFitFails, 'opened twice')])
def test_check_callback_names_the_broken_rule(callback, message):
    """The message says which state was left, and when."""
    with pytest.raises(AssertionError, match=message):
        check_callback(callback)


def test_check_callback_watching_means_the_same_bits():
    """`watches_only` compares the weights with a run without the callback."""
    check_callback(Counts, watches_only=True)
    with pytest.raises(AssertionError, match='only watches changed a'):
        check_callback(Meddles, watches_only=True)


def test_check_callback_refuses_what_is_none():
    """An object that is no callback is a TypeError or an AssertionError with its name."""
    with pytest.raises((AssertionError, TypeError), match='dict|Callback'):
        check_callback(dict)


# ---------------------------------------------------------------- all of minifast's own

ABSTRACT = {'Callback', 'ExperimentLogger', 'HookCallback', 'TrackerCallback', 'MixHandler'}
"""Bases without an action of their own."""

INSIDE = {
    'TrainEvalCallback': 'each learner has one, and none can do without',
    'Recorder': 'each learner has one',
    'ProgressCallback': 'each learner has one',
    'DistributedTrainer': 'a learner has one where several processes train; tests/distributed',
    'ShardedTrainer': 'a learner has one where several processes train; tests/distributed',
    'LastWord': 'DistributedTrainer brings it',
    'LRFinder': 'ends its fit by itself; tests of schedules run it',
    'FetchPredsCallback': 'runs get_preds with itself in an epoch; tests of inference run it',
    'GatherPredsCallback': 'get_preds adds and removes it',
    'MixedPrecision': 'autocast changes the dtype of what the check compares; tests/test_callback_fp16.py',
}
"""Those that the loop or another method gives to a learner itself."""


def classes():
    """Every callback class that a room of minifast/callback defines."""
    found = {}
    for module in pkgutil.iter_modules(minifast.callback.__path__):
        room = importlib.import_module(f'minifast.callback.{module.name}')
        for name, cls in inspect.getmembers(room, inspect.isclass):
            if issubclass(cls, Callback) and cls.__module__ == room.__name__ and not name.startswith('_'):
                found[name] = cls
    return found


def pictures_learner(cbs=None):
    """A classifier of 4x4 pictures, body and head, with a batch norm: what mixing, hooks and freezing need."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(48, 1, 4, 4, generator=generator), torch.randint(0, 3, (48,), generator=generator)
    dls = DataLoaders.from_dsets(list(zip(x[:32], y[:32])), list(zip(x[32:], y[32:])), bs=8, num_workers=0)
    model = nn.Sequential(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
                          nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)))
    return Learner(dls, model, loss_func=CrossEntropyLossFlat(), cbs=cbs, lr=1e-3)


def makers(folder):
    """How to make the callbacks that need arguments, by name."""
    from minifast.callback.schedule import ParamScheduler, SchedLin
    found = classes()
    return {
        'ParamScheduler': lambda: ParamScheduler({'lr': SchedLin(1e-3, 1e-4)}),
        'CSVLogger': lambda: found['CSVLogger'](folder / 'history.csv'),
        'SaveModelCallback': lambda: found['SaveModelCallback'](fname=str(folder / 'model')),
        'RunLogger': lambda: found['RunLogger'](folder / 'run'),
        'CheckpointCallback': lambda: found['CheckpointCallback'](folder / 'checkpoint'),
        'WandbCallback': lambda: found['WandbCallback'](log_preds=False),
        'TensorBoardProjectorCallback': lambda: found['TensorBoardProjectorCallback'](log_dir=folder / 'runs'),
        'TensorBoardCallback': lambda: found['TensorBoardCallback'](log_dir=folder / 'runs', log_preds=False,
                                                                    trace_model=False),
        'GradientAccumulation': lambda: found['GradientAccumulation'](n_acc=16),
    }


NEEDS = {'TensorBoardCallback': 'tensorboard', 'TensorBoardProjectorCallback': 'tensorboard', 'WandbCallback': 'wandb',
         'MLflowCallback': 'mlflow'}


@pytest.mark.filterwarnings('ignore::DeprecationWarning')  # of the trackers' own packages
@pytest.mark.parametrize('name', sorted(set(classes()) - ABSTRACT - set(INSIDE)))
def test_every_callback_of_minifast_keeps_the_contract(name, tmp_path, monkeypatch):
    """Each class found in minifast/callback passes `check_callback`; one that comes new is checked without being
    listed."""
    monkeypatch.chdir(tmp_path)
    if name in NEEDS:
        package = importlib.import_module(NEEDS[name])
        if name == 'WandbCallback':
            package.init(mode='offline', dir=tmp_path, settings=package.Settings(console='off', silent=True))
        if name == 'MLflowCallback':
            package.set_tracking_uri(f'sqlite:///{tmp_path}/mlflow.db')
    try:
        check_callback(makers(tmp_path).get(name, classes()[name]), pictures_learner)
    finally:
        if name == 'WandbCallback':  # its run and its process would go on into other tests
            package.finish()
            package.teardown()


def test_lists_of_callbacks_name_only_what_there_is():
    """The lists above do not outlive the classes."""
    assert set(INSIDE) <= set(classes()) and ABSTRACT <= set(classes())
    assert 'minifast.callback' in sys.modules
