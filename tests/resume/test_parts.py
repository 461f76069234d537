"""Nothing in a checkpoint is there in vain: each of its parts, found in the file itself, is put back to what a new run
has at that place, and the resume from it must then end in other bits, or say what is wrong."""
from __future__ import annotations

import functools
import importlib
import pkgutil
import random
import shutil
import tempfile
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

import minifast.callback
from minifast.callback.checkpoint import CheckpointCallback, newest_checkpoint
from minifast.callback.core import Callback, CancelBatchException
from minifast.callback.data import CollectDataCallback
from minifast.callback.fp16 import MixedPrecision
from minifast.callback.progress import CSVLogger
from minifast.callback.recorder import Recorder
from minifast.callback.schedule import ParamScheduler, SchedCos
from minifast.callback.tracker import EarlyStoppingCallback, ReduceLROnPlateau, SaveModelCallback
from minifast.callback.tracking import ExperimentLogger
from minifast.callback.training import EMACallback, GradientAccumulation
from minifast.data.core import DataLoaders
from minifast.data.load import DataLoader
from minifast.hidden import path_of
from minifast.learner import Learner
from minifast.metrics import accuracy
from minifast.optimizer import Adam, ranger
from minifast.tensorfile import storable, write_atomic
from tests.resume.test_carried import Drops, LossModule, Order, Rows, Says, draws, number, other_streams
from tests.resume.training import Kill, same

UNMISSED = {
    'format': 'which kind of file it is: another is refused',
    'version': 'as the format',
    'environment': 'for a reader; what is compared of it is in run.identity',
    'position.n_iter': 'compared with that of now, which counts: test_another_batch_size_keeps_the_position_by_items',
    'opt.param_groups.*.params': 'numbers of the parameters, the same in every run of a model',
    'epoch_generators.global.torch_cuda_state': 'these trainings are on the CPU',
    'generators.global.torch_cuda_state': 'these trainings are on the CPU',
    'epoch_generators.global.torch_deterministic': 'a switch; that of `generators` counts',
    'epoch_generators.global.torch_benchmark': 'a switch; that of `generators` counts',
    'epoch_generators.loaders.*.batches': 'what is about a batch goes on where it stands, in `generators`',
    'epoch_generators.loaders.*.asked': 'a loader that says its state goes on from that of `loaders`',
    'generators.loaders.*.asked.at': 'at an edge of epochs, the only place where it counts, all loaders are at 0',
    'hidden.the callback scaled.data[skipped]': 'is set anew by each step',
    'run.id': 'whose the files of a folder are, see test_identity',
    'run.items': 'the name of the list of items that are compared, see test_identity',
    'watchers.csv_logger.began_at': 'how long the file was before: test_the_csv_file_is_that_of_an_undisturbed_run',
    'callbacks.early_stopping.new_best': 'is found anew at the end of an epoch, before it is looked at',
    'callbacks.reduce_lr_on_plateau.new_best': 'as that of early stopping',
    'callbacks.save_model.new_best': 'as that of early stopping',
}
"""Parts whose value of a new run nobody misses here, with the reason."""


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
    """Draws from the three global generators and from its own, and counts; the last time in a given step."""

    def __init__(self, last: int | None = None) -> None:
        self.last = last
        self.rng, self.n, self.n_valid, self.said = np.random.default_rng(3), 0, 0, Said()

    def before_batch(self) -> None:
        if self.training:
            self.n += 1
            self.said.n += 1
            noise = random.random() + np.random.rand() + float(torch.rand(1)) + self.rng.random()
            self.learn.xb = (self.xb[0] + .1 * noise * (self.n + self.n_valid) / self.said.n ** .5,)
        else:
            self.n_valid += 1
        if self.train_iter == self.last:
            self.run = False


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
                hyper.update({name: value * .9 + .001 for name, value in hyper.items()})
            for _, _, state, _ in self.opt.all_params(slice(-1, None)):
                state['do_wd'] = False
            next(iter(self.opt.all_params(slice(0, 1))))[2]['force_train'] = True
            self.opt.freeze_to(1)


class Switches(Callback):
    """Sets torch's switches for exact repeats."""

    def after_batch(self) -> None:
        if self.training and self.train_iter == 3:
            torch.backends.cudnn.deterministic = torch.backends.cudnn.benchmark = True


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
    """Gradients that are not finite in two steps, another growth of the loss scale in between, and a step left."""

    order = 12

    def before_backward(self) -> None:
        scaler = self.learn.scaler
        if self.train_iter == 8:
            scaler.set_growth_factor(1.5)
            scaler.set_backoff_factor(.25)
            scaler.set_growth_interval(4)

    def after_backward(self) -> None:
        if self.train_iter in (6, 17):
            self.model.last.bias.grad.fill_(float('inf'))

    def before_step(self) -> None:
        if self.train_iter == 13:
            raise CancelBatchException

    def after_fit(self) -> None:
        self.data = list(self.learn.scaled.scales)


class Noisy:
    """A batch transform that draws from a generator of its own."""

    def __init__(self) -> None:
        self.rng = draws('numpy')

    def __call__(self, b: tuple) -> tuple:
        return b[0] * (1 + .1 * number(self.rng)), *b[1:]


def make(folder: Path, train: Any = None, valid: Any = None, opt: Any = Adam) -> Learner:
    torch.manual_seed(1)
    train = DataLoader(Rows(), bs=8, shuffle=True) if train is None else train
    dls = DataLoaders(train, valid or DataLoader(Rows(), bs=8), device='cpu')
    learn = Learner(dls, Net(), LossModule(), opt, lr=.01, metrics=accuracy, path=folder, splitter=lambda m: [
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


class CountedOrder(Order):
    """A sampler that draws from its own generator and counts its passes."""

    def __iter__(self) -> Iterator[int]:
        self.passes += 1
        rows = [((number(self.inner['any name'][0]) * self.passes) % 1, i) for i in range(len(self))]
        return iter([i for _, i in sorted(rows)])


class Shares(Callback):
    """Draws from the generator of the training set between the epochs; the loader's workers have copies of it."""

    def before_epoch(self) -> None:
        number(self.dls.train.dataset.rng)


def ours() -> DataLoader:
    return DataLoader(Rows(), bs=8, sampler=CountedOrder(draws('numpy')), after_batch=Noisy())


def torchs(sampler: Any = None, workers: int = 0) -> TorchLoader:
    rows = Rows(draws('numpy'))
    return TorchLoader(rows, batch_size=8, sampler=sampler or RandomSampler(rows, generator=draws('torch')),
                       num_workers=workers)


def waiting(patience: int = 4) -> list[Callback]:
    return [EarlyStoppingCallback(patience=patience), ReduceLROnPlateau(patience=3, factor=2), SaveModelCallback(),
            Spoils()]


TRAININGS: dict[str, tuple[Any, ...]] = {
    'tuned': (lambda f: make(f, torchs(GlobalOrder())), lambda: [Tunes(), Switches()], 1, (6, 'after_backward')),
    # in the middle of a sum of three batches
    'accumulating': (lambda f: make(f), lambda: [
        GradientAccumulation(24), Draws(5), EMACallback(.9), ParamScheduler({'lr': SchedCos(.01, .001)}),
        CollectDataCallback(), CSVLogger(), Appends()], 1, (7, 'after_backward')),
    # with a best value of epochs before, and some that were no better
    'waiting': (lambda f: make(f, ours()), lambda: [*waiting(), Draws(), Stands()], 1, (15, 'after_step'), 6),
    # with a loss scale that has grown, and another that some gradients were too large for
    'scaled': (lambda f: make(f, torchs()), lambda: [Scaled(), Overflows()], 1, (15, 'after_backward'), 5),
    'asked': (lambda f: make(f, Says(), Says(), ranger), lambda: [EMACallback(.9), Tunes()], 1, (11, 'after_step')),
    'edge': (lambda f: make(f, ours(), torchs()), lambda: [Draws()], 'epoch', (7, 'after_step')),
    # the signal comes behind the training part of epoch 1, and is answered at the first edge in its validation
    'validating': (lambda f: make(f), lambda: [EMACallback(.9), Draws()], 'epoch', (2, 'after_train', 'term')),
    'second fit': (lambda f: make(f), list, 1, (7, 'after_step'), 'fine_tune'),
    # by early stopping, in the middle of what was asked for
    'done': (lambda f: make(f), lambda: waiting(2), 1, (2, 'cleanup_fit'), 'fine_tune'),
    'workers': (lambda f: make(f, torchs(workers=1)), lambda: [Shares()], 1, (6, 'after_backward')),
}
"""Name: (learner, callbacks, every, kill, number of epochs or the name of a fit)."""


def attempt(name: str, folder: Path, kill: tuple | None = None, checkpoints: Path | None = None,
            resume: bool = False, streams: int = 0) -> dict[str, Any]:
    """One attempt of a training, and all that must be the same at its end."""
    make_learner, make_cbs, every, _, fit = (*TRAININGS[name], 3)[:5]
    learn, cbs = make_learner(folder), make_cbs()
    other_streams(streams)
    every = 'epoch' if resume else every
    extra = [CheckpointCallback(checkpoints, every=every, keep=1, background=False)] if checkpoints else []
    extra += [] if kill is None else [Kill(*kill)]
    try:
        if fit == 'fine_tune':
            learn.fine_tune(4, base_lr=.01, cbs=[*cbs, *extra], resume=resume)
        else:
            learn.fit(fit, cbs=[*cbs, *extra], resume=resume)
    except (ZeroDivisionError, SystemExit):
        assert kill is not None
    finally:
        switches = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
        torch.backends.cudnn.deterministic = torch.backends.cudnn.benchmark = False
    recorder, model = learn.recorder, learn.model
    return storable({
        'model': dict(model.state_dict()), 'opt': learn.opt.state_dict(),
        'modes': [m.training for m in model.modules()],
        'trained': [p.requires_grad for p in model.parameters()], 'frozen_idx': learn.opt.frozen_idx,
        'values': [list(row) for row in recorder.values], 'losses': list(recorder.losses), 'lrs': recorder.lrs,
        'hps': {k: list(v) for k, v in vars(recorder).get('hps', {}).items()}, 'iters': recorder.iters,
        'history': recorder.history.rows,
        'said': [cb.state_dict() for cb in cbs if hasattr(cb, 'state_dict')],
        'gathered': [list(cb.data) for cb in cbs if 'data' in vars(cb)],
        'switches': switches, 'train_iter': learn.train_iter, 'n_epoch': learn.n_epoch,
        'files': {file.name: file.read_text() for file in folder.iterdir() if file.suffix in ('.txt', '.csv')},
        'next': [torch.rand(3), torch.tensor(random.random()), torch.tensor(np.random.rand())]})


@functools.lru_cache(None)
def killed(name: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], Any]:
    """Of a training: what comes out undisturbed, the checkpoint where it was killed, that of a run which has not begun,
    and a function that resumes from a state and returns what comes out."""
    kill, folder = TRAININGS[name][3], Path(tempfile.mkdtemp(dir=FOLDERS.name))
    here = folder / 'here'

    def in_a_folder(like: Path | None, *args: Any) -> dict[str, Any]:
        """An attempt in the same folder each time, which is new or as another has left it."""
        shutil.rmtree(here, ignore_errors=True)
        shutil.copytree(like, here) if like else here.mkdir()
        return attempt(name, here, *args)
    in_a_folder(None, (1, 'before_batch'), here / 'c', False, 11)
    _, new = newest_checkpoint(here / 'c')
    new['epoch_generators'] = new['generators']  # what they would be in a moment
    whole = in_a_folder(None, None, None, False, 3)
    in_a_folder(None, kill, here / 'c', False, 3)
    file, state = newest_checkpoint(here / 'c')
    shutil.copytree(here, folder / 'killed')

    def resumed(changed: dict[str, Any]) -> dict[str, Any]:
        write_atomic(folder / 'killed' / 'c' / file.name, changed)
        return in_a_folder(folder / 'killed', None, here / 'c', True, 50)
    return whole, state, new, resumed


FOLDERS = tempfile.TemporaryDirectory()


def as_new(state: Any, new: Any, steps: tuple) -> Any:
    """A state with what a new run has at a place: its value, no number added up yet, or nothing at all."""
    value = value_at(new, steps)
    if value is NOTHING and isinstance(value_at(state, steps), torch.Tensor):
        value = torch.zeros_like(value_at(state, steps))
    return with_value(state, steps, value)


def needs(name: str, all_steps: list[tuple]) -> bool:
    """Whether a training misses a part of its checkpoint that is as in a new run; False too where it is no other."""
    whole, state, new, resumed = killed(name)
    changed = functools.reduce(lambda state, steps: as_new(state, new, steps), all_steps, state)
    if same(changed, state):
        return False
    try:
        return not same(resumed(changed), whole)
    except Exception:  # the training does not go on unseen, whichever error tells it: warnings are errors here
        return True


quiet = pytest.mark.filterwarnings('ignore:no optimizer holds the parameters scale')  # it changes them by itself


@quiet
@pytest.mark.parametrize('name', TRAININGS)
def test_a_resume_with_every_part_ends_in_the_same_bits(name):
    """Weights, optimizer, rows, callbacks, files, modes, generators."""
    whole, state, _, resumed = killed(name)
    found = resumed(state)
    assert not [part for part in whole if not same(whole[part], found[part])]


@quiet
def test_every_part_of_a_checkpoint_is_missed_where_it_is_as_in_a_new_run():
    """By one training at least; those of UNMISSED alone by none."""
    needed, found = set(), set()
    for name in TRAININGS:
        state, parts = killed(name)[1], {}
        for part, steps in places(state):
            # a callback's switch: most of those that are off have nothing more to do
            name_of = 'hidden.*.data[run]' if part.endswith('.data[run]') else part.lstrip('.')
            parts.setdefault(name_of, []).append(steps)
        found |= parts.keys()
        needed |= {part for part, all_steps in parts.items() if part not in needed and needs(name, all_steps)}
    empty = {part for part in found if any(other.startswith((f'{part}.', f'{part}[')) for other in found)}
    assert found - needed - empty == {part for part in found - empty if reason_of(part)}
    assert not {text for text in UNMISSED if not any(part.startswith(text) for part in found)}


def reason_of(part: str) -> str | None:
    """Why nobody misses a part."""
    return next((reason for text, reason in UNMISSED.items() if part == text or part.startswith(f'{text}.')), None)


ELSEWHERE = {'LRFinder': 'a search for a rate is not resumed', 'AutoPrecision': 'says what MixedPrecision says',
             'DistributedTrainer': 'what it keeps belongs to the running processes',
             'ShardedTrainer': 'what it keeps belongs to the running processes', 'LastWord': 'keeps nothing'}
"""With the reason."""


def test_every_callback_that_says_its_state_is_in_a_training():
    """Those of the package, by discovery; loggers that send rows away are tested in their own rooms."""
    for room in pkgutil.iter_modules(minifast.callback.__path__):
        importlib.import_module(f'minifast.callback.{room.name}')

    def below(cls):
        return {cls}.union(*map(below, cls.__subclasses__()))
    ours = {cls for cls in below(Callback) if cls.__module__.startswith('minifast.') and hasattr(cls, 'state_dict')}
    attached = [Recorder(), *(cb for _, make_cbs, *_ in TRAININGS.values() for cb in make_cbs())]
    missing = {cls.__name__ for cls in ours if not any(isinstance(cb, cls) for cb in attached)
               and not issubclass(cls, ExperimentLogger)}
    assert missing == set(ELSEWHERE)
