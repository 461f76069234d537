"""Nothing in a checkpoint is there in vain: each of its parts, found in the file itself, is put back to what a new run
has at that place, and the resume from it must then end in other bits, or say what is wrong."""
from __future__ import annotations

import functools
import random
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import RandomSampler

from minifast.callback.checkpoint import CheckpointCallback, newest_checkpoint
from minifast.callback.core import Callback
from minifast.callback.data import CollectDataCallback
from minifast.callback.ema import EMACallback
from minifast.callback.fp16 import MixedPrecision
from minifast.callback.mixup import MixUp
from minifast.callback.progress import CSVLogger
from minifast.callback.recorder import Recorder
from minifast.callback.schedule import ParamScheduler, SchedCos
from minifast.callback.tracker import (EarlyStoppingCallback, ReduceLROnPlateau, SaveModelCallback,
                                       TerminateOnNaNCallback)
from minifast.callback.training import GradientAccumulation
from minifast.data.core import DataLoaders
from minifast.data.load import DataLoader
from minifast.hidden import path_of
from minifast.learner import Learner
from minifast.metrics import accuracy
from minifast.optimizer import Adam, ranger
from minifast.tensorfile import storable, write_atomic
from tests.resume.test_carried import Drops, LossModule, Order, Rows, Says, draws, number, other_streams
from tests.resume.training import Kill, same

INFORMATIVE = {
    'format': 'which kind of file it is: another is refused, see test_export',
    'version': 'as the format',
    'environment': 'for a reader; what is compared of it is in run.identity',
}
"""Parts that decide nothing about how the training goes on, with the reason."""


# ---------------------------------------------------------------- the parts of a file

def places(state: Any, steps: tuple = (), name: str = '') -> Iterator[tuple[str, tuple]]:
    """(name, steps) of every value in a state; numbered things, as the parameters of a model, share one name."""
    if isinstance(state, dict) and state:
        for key, value in state.items():
            yield from places(value, (*steps, key), f'{name}.{key}' if isinstance(key, str) else f'{name}.*')
    elif _is_found(state):
        for where, _ in state:
            key = path_of(tuple(map(tuple, where)))
            yield f'{name}[{key}]', (*steps, key)
    elif isinstance(state, list) and any(isinstance(value, dict) and value for value in state):
        for i, value in enumerate(state):
            yield from places(value, (*steps, i), f'{name}.*')
    else:
        yield name, steps


def _is_found(state: Any) -> bool:
    """Whether this is what `Hidden.state` writes: pairs of the way to a thing, and its value."""
    return isinstance(state, list) and bool(state) and all(
        isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], list) and pair[0] and all(
            isinstance(step, (list, tuple)) and step[0] in ('attribute', 'key', 'in') for step in pair[0])
        for pair in state)


NOTHING = object()


def value_at(state: Any, steps: tuple) -> Any:
    """What lies at a place; NOTHING if there is no such place."""
    for key in steps:
        if _is_found(state):
            state = next((v for where, v in state if path_of(tuple(map(tuple, where))) == key), NOTHING)
        elif isinstance(state, dict):
            state = state.get(key, NOTHING)
        elif isinstance(state, (list, tuple)) and isinstance(key, int) and key < len(state):
            state = state[key]
        else:
            return NOTHING
    return state


def with_value(state: Any, steps: tuple, value: Any) -> Any:
    """The state with another value, or none, at a place; what is not touched is shared."""
    if not steps:
        return value
    key, rest = steps[0], steps[1:]
    if _is_found(state):
        changed = [[where, with_value(v, rest, value) if path_of(tuple(map(tuple, where))) == key else v]
                   for where, v in state]
        return [pair for pair in changed if pair[1] is not NOTHING]
    if isinstance(state, dict):
        changed = {k: with_value(v, rest, value) if k == key else v for k, v in state.items()}
        return {k: v for k, v in changed.items() if v is not NOTHING}
    return [with_value(v, rest, value) if i == key else v for i, v in enumerate(state)]


# ---------------------------------------------------------------- the trainings

class Net(nn.Module):
    """Six numbers to three classes, with everything that a module may hold."""

    def __init__(self) -> None:
        super().__init__()
        self.drops, self.first, self.norm, self.last = Drops(), nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(F.dropout(F.relu(self.norm(self.first(self.drops(x)))), .2, self.training))


class Said:
    """An object of the user's that says its state."""

    def __init__(self) -> None:
        self.n = 0

    def state_dict(self) -> dict[str, int]:
        return {'n': self.n}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.n = state['n']


class Draws(Callback):
    """Draws from the three global generators and from its own, and counts."""

    def __init__(self) -> None:
        self.rng, self.n, self.said = np.random.default_rng(3), 0, Said()

    def before_batch(self) -> None:
        if self.training:
            self.n += 1
            self.said.n += 1
            noise = random.random() + np.random.rand() + float(torch.rand(1)) + self.rng.random()
            self.learn.xb = (self.xb[0] + .1 * noise * self.n / self.said.n ** .5,)


class Appends(Callback):
    """A logger as users write them: one line a step."""

    def before_fit(self) -> None:
        self.file = open(self.learn.path / 'lines.txt', 'a')

    def after_step(self) -> None:
        self.file.write(f'{float(self.loss.detach())}\n')

    def cleanup_fit(self) -> None:
        self.file.close()


class Tunes(Callback):
    """Changes all that an optimizer can be told, in its groups and for single parameters, and freezes some."""

    def after_batch(self) -> None:
        if self.training and self.train_iter == 3:
            for hyper in self.opt.hypers:
                hyper.update({name: value * .9 for name, value in hyper.items()})
            last = self.opt.all_params(slice(-1, None), with_grad=False)
            for p, _, state, _ in last:
                state['do_wd'] = False
            for p, _, state, _ in self.opt.all_params(slice(0, 1)):
                state['force_train'] = True
            self.learn.freeze_to(1)


class Switches(Callback):
    """Sets torch's switches for exact repeats."""

    def after_batch(self) -> None:
        if self.training and self.train_iter == 3:
            torch.use_deterministic_algorithms(True)
            torch.backends.cudnn.benchmark = True


class Stands(Callback):
    """Puts a loss of its own, with a state, in the place of the user's while a fit runs."""

    def before_fit(self) -> None:
        self.own, self.learn.loss_func = self.learn.loss_func, LossModule()

    def cleanup_fit(self) -> None:
        self.learn.loss_func = self.own


class Spoils(Callback):
    """Lets the validation loss be worse from epoch 1 on, for those who wait for better ones."""

    def after_train(self) -> None:
        if self.epoch > 0:
            with torch.no_grad():
                self.model.last.weight.add_(1)


class Scaled(MixedPrecision):
    """float16's loss scaling, on a CPU."""

    def before_fit(self) -> None:
        super().before_fit()
        self.learn.scaler = torch.amp.GradScaler('cpu', init_scale=4., growth_interval=3)


class Overflows(Callback):
    """Gradients that are not finite, at a step that the loss scale decides."""

    order = 5

    def after_backward(self) -> None:
        if self.learn.scaler.get_scale() > 16:
            self.model.last.bias.grad.fill_(float('inf'))


class Noisy:
    """A batch transform that draws from a generator of its own."""

    def __init__(self) -> None:
        self.rng = draws('numpy')

    def __call__(self, b: tuple) -> tuple:
        return b[0] * (1 + .1 * number(self.rng)), *b[1:]


def make(folder: Path, train: Any = None, valid: Any = None, opt: Any = Adam, loss: Any = None) -> Learner:
    torch.manual_seed(1)
    train = DataLoader(Rows(), bs=8, shuffle=True) if train is None else train
    learn = Learner(DataLoaders(train, valid or DataLoader(Rows(), bs=8)), Net(), loss or LossModule(), opt, lr=.01,
                    metrics=accuracy, path=folder, splitter=lambda m: [
                        [*m.drops.parameters(), *m.first.parameters(), *m.norm.parameters()], [*m.last.parameters()]])
    learn.remove_cb(learn.progress)
    learn.remove_cb(learn.recorder).add_cb(Recorder(train_metrics=True, add_time=False))
    learn.logger = lambda row: None
    return learn


class GlobalOrder(Order):
    """A sampler that draws from all global generators."""

    def __iter__(self) -> Iterator[int]:
        rows = [(random.random() + np.random.rand() + float(torch.rand(1)), i) for i in range(len(self))]
        return iter([i for _, i in sorted(rows)])


def of_torch(sampler: Any = None) -> Any:
    return TorchLoader(Rows(draws('numpy')), batch_size=8, sampler=sampler or RandomSampler(Rows(), generator=draws('torch')))


TRAININGS: dict[str, tuple[Any, ...]] = {
    # in the middle of a sum of three batches
    'accumulating': (lambda f: make(f), lambda: [
        GradientAccumulation(24), Draws(), EMACallback(.9), ParamScheduler({'lr': SchedCos(.01, .001)}),
        CollectDataCallback(), CSVLogger(), Appends()], 1, (7, 'after_backward')),
    # with a best value of epochs before, and some that were no better
    'waiting': (lambda f: make(f, DataLoader(Rows(), bs=8, sampler=Order(draws('numpy')), after_batch=Noisy())), lambda: [
        EarlyStoppingCallback(patience=3), ReduceLROnPlateau(patience=2, factor=2), SaveModelCallback(), Spoils(),
        Draws(), Stands()], 1, (15, 'after_step'), 5),
    # with a loss scale that has grown, and another that some gradients were too large for
    'scaled': (lambda f: make(f, of_torch()), lambda: [
        Scaled(), Overflows(), TerminateOnNaNCallback(skip=True)], 1, (15, 'after_backward'), 5),
    'tuned': (lambda f: make(f, of_torch(GlobalOrder())), lambda: [Tunes(), Switches()], 1, (6, 'after_backward')),
    'asked': (lambda f: make(f, Says(), Says(), ranger), lambda: [EMACallback(.9)], 1, (11, 'after_step')),
    'validating': (lambda f: make(f), lambda: [EMACallback(.9)], 'epoch', (2, 'after_train', 'term')),
    'second fit': (lambda f: make(f), list, 1, (7, 'after_step'), 'fine_tune'),
    'done': (lambda f: make(f), list, 1, (1, 'cleanup_fit')),
}
"""Name: (learner, callbacks, every, kill, number of epochs or the name of a fit)."""


def attempt(name: str, folder: Path, kill: tuple | None = None, checkpoints: Path | None = None,
            resume: bool = False, streams: int = 0) -> dict[str, Any]:
    """One attempt of a training, and all that must be the same at its end."""
    make_learner, make_cbs, every, _, fit = (*TRAININGS[name], 3)[:5]
    learn, cbs = make_learner(folder), make_cbs()
    other_streams(streams)
    extra = [] if checkpoints is None else [CheckpointCallback(checkpoints, every=every, keep=1, background=False)]
    extra += [] if kill is None else [Kill(*kill)]
    # what a callback says at the end of the fit, before those of the fit are taken off
    said: dict[str, Any] = {}
    gathered: list[Any] = []

    class Listens(Callback):
        order, not_carried = 2000, ('*',)

        def after_fit(self) -> None:
            gathered.extend([list(cb.data) for cb in cbs if isinstance(cb, CollectDataCallback)])
            said.update({str(i): storable(cb.state_dict()) for i, cb in enumerate(cbs) if hasattr(cb, 'state_dict')})
    try:
        if fit == 'fine_tune':
            learn.fine_tune(2, base_lr=.01, cbs=[*cbs, *extra, Listens()], resume=resume)
        else:
            learn.fit(fit, cbs=[*cbs, *extra, Listens()], resume=resume)
    except (ZeroDivisionError, SystemExit):
        assert kill is not None
    finally:
        switches = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = False
    recorder = learn.recorder
    return storable({'model': dict(learn.model.state_dict()), 'opt': learn.opt.state_dict(),
                     'values': [list(row) for row in recorder.values], 'losses': list(recorder.losses),
                     'lrs': recorder.lrs, 'iters': recorder.iters, 'said': said,
                     'switches': switches, 'train_iter': learn.train_iter, 'gathered': gathered,
                     'modes': [m.training for m in learn.model.modules()],
                     'files': {file.name: file.read_text() for file in folder.iterdir() if file.suffix in ('.txt', '.csv')},
                     'trained': [p.requires_grad for p in learn.model.parameters()],
                     'next': [torch.rand(3), torch.tensor(random.random()), torch.tensor(np.random.rand())]})


@functools.lru_cache(None)
def looked_into(name: str) -> tuple[list[str], dict[str, str]]:
    """What is other after a resume with everything (nothing, one hopes), and for each part of the checkpoint what a
    resume without it does: 'as a new run' (the part is no other there), 'other bits', 'told', 'nothing'."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter('error')
        warnings.filterwarnings('ignore', 'no optimizer holds the parameters scale')  # it changes them by itself
        folder, kill = Path(folder), TRAININGS[name][3]
        here = folder / 'here'

        def in_a_folder(like: Path | None, *args: Any) -> dict[str, Any]:
            """An attempt in the same folder each time, which is new or as another has left it."""
            shutil.rmtree(here, ignore_errors=True)
            shutil.copytree(like, here) if like else here.mkdir()
            return attempt(name, here, *args)
        in_a_folder(None, (1, 'before_batch'), here / 'c', False, 11)
        _, new = newest_checkpoint(here / 'c')
        whole = in_a_folder(None, None, None, False, 3)
        in_a_folder(None, kill, here / 'c', False, 3)
        file, state = newest_checkpoint(here / 'c')
        shutil.copytree(here, folder / 'killed')

        def resumed(changed: dict[str, Any]) -> dict[str, Any]:
            write_atomic(folder / 'killed' / 'c' / file.name, changed)
            return in_a_folder(folder / 'killed', None, here / 'c', True, 50)
        wrong = [part for part, value in resumed(state).items() if not same(value, whole[part])]
        found: dict[str, list[tuple]] = {}
        for part, steps in places(state):
            found.setdefault(part.lstrip('.'), []).append(steps)
        outcomes = {}
        for part, all_steps in found.items():
            changed = state
            for steps in all_steps:
                changed = with_value(changed, steps, value_at(new, steps))
            if same(changed, state):
                outcomes[part] = 'as a new run'
                continue
            try:
                outcomes[part] = 'nothing' if same(resumed(changed), whole) else 'other bits'
            except Exception as error:  # whatever it is, the training does not go on unseen
                outcomes[part] = f'told: {error!r}'
        return wrong, outcomes
