"""Exact, or told: what hangs on samplers, loaders, data sets, callbacks, losses, metrics and modules is carried over a
kill to the same bits, and what cannot be is named before the training starts."""
from __future__ import annotations

import itertools
import random
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader as Torch
from torch.utils.data import BatchSampler, RandomSampler, WeightedRandomSampler

from minifast.callback.checkpoint import CheckpointCallback, newest_checkpoint
from minifast.callback.core import Callback
from minifast.callback.data import CollectDataCallback
from minifast.callback.hook import ActivationStats
from minifast.callback.mixup import CutMix, MixUp
from minifast.callback.progress import CSVLogger
from minifast.callback.recorder import Recorder
from minifast.callback.schedule import ParamScheduler, SchedCos
from minifast.callback.tracker import (EarlyStoppingCallback, ReduceLROnPlateau, SaveModelCallback,
                                       TerminateOnNaNCallback, TrackerCallback)
from minifast.callback.training import EMACallback, GradientAccumulation
from minifast.data.core import DataLoaders
from minifast.data.load import DataLoader
from minifast.hidden import Baselines
from minifast.learner import Learner
from minifast.metrics import AvgMetric, accuracy
from minifast.optimizer import Adam
from minifast.seeds import set_seed
from minifast.tensorfile import copied, storable
from minifast.training_state import (_hidden_state, generators, inexact_loaders, load_training_state, set_generators,
                                     start_hidden, training_state)
from tests.resume.training import Kill, differences, same

N = 32
X = torch.randn(N, 6, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 3, (N,), generator=torch.Generator().manual_seed(1))
SHARED = np.random.default_rng(0)
"""A generator of the script, used by name."""


def draws(kind):
    """A new generator of a kind."""
    return {'torch': lambda: torch.Generator().manual_seed(3), 'numpy': lambda: np.random.default_rng(3),
            'legacy': lambda: np.random.RandomState(3), 'python': lambda: random.Random(3)}[kind]()


def number(g):
    """One number of a generator of any kind."""
    return float(torch.rand(1, generator=g)) if isinstance(g, torch.Generator) else g.random()


class Rows(torch.utils.data.Dataset):
    """Rows, noisy where there is a generator."""

    def __init__(self, rng=None):
        self.rng = rng

    def __len__(self):
        return N

    def __getitem__(self, i):
        return X[i] + (0 if self.rng is None else number(self.rng)), Y[i]


class Order:
    """A sampler of the user's: draws as it is read, or counts its passes."""

    def __init__(self, rng=None, lazily=False):
        self.inner, self.lazily, self.passes = {'any name': [rng]}, lazily, 0

    def __len__(self):
        return N

    def __iter__(self):
        self.passes += 1
        rng = self.inner['any name'][0] or random.Random(self.passes)
        if self.lazily:
            return (int(number(rng) * N) for _ in range(N))
        return iter(sorted(range(N), key=lambda i: number(rng)))


class Says:
    """A loader that says where it stands and goes on from there."""

    def __init__(self):
        self.at, self.rng = 0, torch.Generator().manual_seed(3)

    def __len__(self):
        return 4

    def __iter__(self):
        while self.at < 4:
            rows = torch.randint(0, N, (8,), generator=self.rng)
            self.at += 1
            yield X[rows], Y[rows]
        self.at = 0

    def state_dict(self):
        return {'at': self.at, 'rng': self.rng.get_state()}

    def load_state_dict(self, state):
        self.at = state['at']
        self.rng.set_state(state['rng'])


def make(train=None, valid=None, loss=F.cross_entropy, model=None, path='.', metrics=accuracy):
    """A silent learner, always with the same weights."""
    torch.manual_seed(1)
    model = model() if model else nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(.2),
                                                nn.Linear(16, 3))
    train = DataLoader(Rows(), bs=8, shuffle=True) if train is None else train
    learn = Learner(DataLoaders(train, valid or DataLoader(Rows(), bs=8)), model, loss, Adam, lr=.01, metrics=metrics,
                    path=path)
    learn.remove_cb(learn.progress)
    learn.logger = lambda row: None
    return learn


def end(learn, cbs=()):
    """Everything that must be the same at the end."""
    kept = [{k: v for k, v in vars(cb).items() if k in getattr(cb, 'compared', ())} for cb in cbs]
    return storable({'model': dict(learn.model.state_dict()), 'opt': learn.opt.state_dict(),
                     'values': [list(row) for row in learn.recorder.values], 'losses': list(learn.recorder.losses),
                     'kept': kept})


def other_streams(n):
    """The seed of the run, which a resume compares, and global generators that stand `n` numbers further on."""
    set_seed(7)
    for _ in range(n):
        torch.rand(1), random.random(), np.random.rand()


def trained(make_learner, cbs, folder=None, every=1, kill=None, resume=False, streams=0, epochs=3):
    """One attempt: its learner and callbacks; `kill` is (call, hook)."""
    learn, cbs = make_learner(), cbs()
    other_streams(streams)
    extra = [] if folder is None else [CheckpointCallback(folder, every=every)]
    extra += [] if kill is None else [Kill(*kill, 'error')]
    try:
        learn.fit(epochs, cbs=[*cbs, *extra], resume=resume)
    except ZeroDivisionError:
        assert kill is not None
    return learn, cbs


def check(make_learner, folder, cbs=list, every=1, kills=((7, 'after_step'), (3, 'after_pred')), epochs=3):
    """Killed and resumed, once or more, ends as undisturbed; returns the callbacks of the last attempt."""
    expected = end(*trained(make_learner, cbs, epochs=epochs))
    found = None
    for i, kill in enumerate((*kills, None)):
        found = trained(make_learner, cbs, folder, every, kill, resume=i > 0, streams=50 * i, epochs=epochs)
    wrong = differences(expected, end(*found))
    assert not wrong, wrong
    return found


# ---------------------------------------------------------------- generators

def ours(workers=0, **kwargs):
    return DataLoader(Rows(), bs=8, num_workers=workers, **kwargs)


def torchs(workers=0, **kwargs):
    return Torch(Rows(), **({} if 'batch_sampler' in kwargs else {'batch_size': 8}), num_workers=workers, **kwargs)


ORDERS = {'RandomSampler': lambda k: {'sampler': RandomSampler(range(N), generator=draws('torch'))},
          'WeightedRandomSampler': lambda k: {'sampler': WeightedRandomSampler(torch.ones(N), N,
                                                                               generator=draws('torch'))},
          'own': lambda k: {'sampler': Order(draws(k))}, 'lazy': lambda k: {'sampler': Order(draws(k), True)},
          'counting': lambda k: {'sampler': Order()},
          'batch_sampler': lambda k: {'batch_sampler': BatchSampler(Order(draws(k)), 8, False)}}
KINDS = ('torch', 'numpy', 'legacy', 'python')
GRID = [(loader, order, kind, workers, every) for loader, order, kind, workers, every in itertools.product(
    (ours, torchs), ORDERS, KINDS, (0, 2), (1, 'epoch'))
    if kind == 'torch' or order in ('own', 'lazy', 'batch_sampler')]


def order_case(case, folder):
    loader, order, kind, workers, every = case
    check(lambda: make(loader(workers, **ORDERS[order](kind))), folder, every=every)


@pytest.mark.parametrize('case', [c for c in GRID if c[3] == 0 and c[2] in ('torch', 'numpy')],
                         ids=lambda c: ' '.join(map(str, (c[0].__name__, *c[1:]))))
def test_what_a_sampler_draws_from_is_carried(case, tmp_path):
    """Killed in the middle of an epoch, twice; from step and from epoch checkpoints."""
    order_case(case, tmp_path)


@pytest.mark.faults
def test_all_samplers_generators_and_workers(tmp_path, counted):
    """The whole grid, with workers."""
    done = 0
    for i, case in enumerate(GRID):
        order_case(case, tmp_path / str(i))
        done += 1
        counted(done, len(GRID))


def test_the_orders_of_the_epochs_differ():
    """Else nothing above would be seen: each sampler gives another order each epoch, and other weights than no
    sampler."""
    for make_order in ORDERS.values():
        dl, found = ours(**make_order('numpy')), []
        for epoch in range(2):
            dl.begin(1, epoch)
            found.append([tuple(y.tolist()) for _, y in dl])
        assert found[0] != found[1]


@pytest.mark.parametrize('loader', [ours, torchs])
@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('kind', ['torch', 'numpy'])
def test_a_data_set_with_a_generator_of_its_own(loader, workers, kind, tmp_path):
    """In our loader it is keyed by the item, in torch's it goes on where it stood."""
    def learner():
        dl = loader(workers, shuffle=True)
        dl.dataset.rng = draws(kind)
        return make(dl)
    check(learner, tmp_path)


def test_a_data_sets_generator_gives_the_same_items_for_any_workers():
    """And is left as it was in the training's own process."""
    found = []
    for workers in (0, 2):
        dl = ours(workers)
        dl.dataset.rng = np.random.default_rng(3)
        for epoch in (0, 1):
            dl.begin(5, epoch)
            found.append(torch.cat([x for x, _ in dl]))
        assert dl.dataset.rng.random() == np.random.default_rng(3).random()
    assert torch.equal(found[0], found[2]) and torch.equal(found[1], found[3]) and not torch.equal(found[0], found[1])
    assert len((found[0] - X)[:, 0].unique()) > N - 3


@pytest.mark.parametrize('loader', [ours, torchs])
def test_one_generator_shared_by_sampler_and_callback(loader, tmp_path):
    """The script's only one, handed to both."""
    def learner():
        rng = np.random.default_rng(5)
        learn = make(loader(sampler=Order(rng)))
        learn.rng = rng
        return learn

    class Shakes(Callback):
        def before_batch(self):
            if self.training:
                self.learn.xb = (self.xb[0] + self.learn.rng.normal(),)

        def before_fit(self):
            self.rng = self.learn.rng
    check(learner, tmp_path, lambda: [Shakes()])


@pytest.mark.parametrize('every', [1, 'epoch'])
def test_a_loader_that_says_its_state_is_asked_everywhere(every, tmp_path):
    """As training and as validation loader, at steps and at epochs."""
    check(lambda: make(Says(), Says()), tmp_path, every=every, kills=((6, 'after_step'), (1, 'after_validate')))


def test_set_epoch_of_samplers_is_called():
    """Of the sampler, the batch sampler, and the sampler inside it."""
    class Told(Order):
        def set_epoch(self, epoch):
            self.epoch = epoch
    for make_dl in (lambda s: ours(sampler=s), lambda s: ours(batch_sampler=BatchSampler(s, 8, False))):
        sampler = Told(draws('numpy'))
        dl = make_dl(sampler)
        dl.begin(1, 4)
        list(dl)
        assert sampler.epoch == 4


def test_looking_at_a_batch_leaves_the_sampler_as_it_was():
    """`one_batch`, `last_items`, `lr_find` draw nothing from it."""
    sampler = Order(np.random.default_rng(3))
    dl = ours(sampler=sampler)
    dl.one_batch()
    dl.begin(1, 0)
    running = iter(dl)
    x, _ = next(running)
    named = [int(name.split()[1]) for name in dl.last_items()]
    assert torch.equal(X[named], x)
    expected = Order(np.random.default_rng(3))
    list(expected)
    assert sampler.inner['any name'][0].random() == expected.inner['any name'][0].random() and sampler.passes == 1
    learn = make(ours(sampler=Order(np.random.default_rng(3))))
    learn.lr_find(num_it=6, show_plot=False)
    assert learn.dls.train.sampler.inner['any name'][0].random() == np.random.default_rng(3).random()


class NoisyLoss:
    """Draws from a generator and counts."""

    def __init__(self):
        self.rng, self.calls = np.random.default_rng(2), 0

    def __call__(self, pred, target):
        self.calls += 1
        return F.cross_entropy(pred, target) * (1 + .1 * self.rng.random() + .01 * self.calls)


class LossModule(nn.Module):
    """With a buffer, a parameter and a plain number that the training changes."""

    def __init__(self):
        super().__init__()
        self.register_buffer('running', torch.zeros(()))
        self.scale, self.n = nn.Parameter(torch.ones(())), 0

    def forward(self, pred, target):
        loss = F.cross_entropy(pred, target)
        if pred.requires_grad:
            self.running.lerp_(loss.detach(), .5)
            self.n += 1
            with torch.no_grad():
                self.scale.mul_(1.01)
        return loss * (1 + self.running) * self.scale.detach() * (1 + .1 * self.n)


class Drops(nn.Module):
    """A module with a generator, a counter, a buffer outside the state dict and a plain tensor."""

    def __init__(self):
        super().__init__()
        self.rng, self.n, self.scale = torch.Generator().manual_seed(1), 0, torch.ones(1)
        self.register_buffer('warm', torch.zeros(1), persistent=False)

    def forward(self, x):
        if self.training:
            self.n += 1
            self.warm += .1
            self.scale = self.scale * 1.05
            x = x + torch.rand(x.shape, generator=self.rng) * .1 * self.n
        return x * (1 + self.warm) * self.scale


PARTS = {'loss': lambda: make(loss=NoisyLoss()), 'loss module': lambda: make(loss=LossModule()),
         'loss function': lambda: make(loss=lambda p, y: F.cross_entropy(p, y) * (1 + SHARED.random())),
         'module': lambda: make(model=lambda: nn.Sequential(Drops(), nn.Linear(6, 3)))}


@pytest.mark.filterwarnings('ignore:no optimizer holds the parameters scale')  # a loss may change them by itself
@pytest.mark.parametrize('part', PARTS)
@pytest.mark.parametrize('every', [1, 'epoch'])
def test_losses_and_modules_that_draw_and_count(part, every, tmp_path):
    """Generators, counters, buffers, non-persistent ones too."""
    def learner():
        SHARED.bit_generator.state = np.random.default_rng(11).bit_generator.state
        return PARTS[part]()
    learn, _ = check(learner, tmp_path, every=every)
    state = newest_checkpoint(tmp_path)[1]
    if part == 'loss module':
        assert state['loss_func']['running'] > 0 and state['loss_func']['scale'] != 1
    if part == 'module':
        assert state['buffers']['0.warm'] > 1 and learn.model[0].n == 12


# ---------------------------------------------------------------- callbacks of the user's

class Counts(Callback):
    """A counter, a list, an array and a tensor decide about the rate."""

    def __init__(self):
        self.n, self.seen, self.array, self.tensor = 0, [], np.zeros(2), torch.zeros(2)

    def before_step(self):
        self.n += 1
        self.seen.append(float(self.loss.detach()))
        self.array[self.n % 2] += 1
        self.tensor += self.n
        for h in self.opt.hypers:
            h['lr'] = .01 / (1 + self.n + sum(self.seen) + self.array[0] + float(self.tensor[0]))


class Noise(Callback):
    """Draws from generators on itself, in a dict, and outside of it."""

    def __init__(self):
        self.rngs = {kind: draws(kind) for kind in KINDS}

    def before_batch(self):
        if self.training:
            self.learn.xb = (self.xb[0] + .1 * sum(map(number, self.rngs.values())) + SHARED.normal(),)


class Later(Callback):
    """Makes its state as it goes: nothing is there before the first epoch."""

    def before_train(self):
        if self.epoch == 0:
            self.rng, self.kept = np.random.default_rng(4), {'scale': [1.]}

    def after_loss(self):
        if self.training:
            self.kept['scale'][0] *= 1.02
            self.learn.loss_grad = self.loss_grad * (self.kept['scale'][0] + self.rng.random())


class Helped(Callback):
    """Keeps its state in an object of the user's, and an average in a module."""

    class Helper:
        def __init__(self):
            self.k = 0

    def __init__(self):
        self.helper, self.twin = self.Helper(), None

    def before_fit(self):
        self.twin = self.twin or nn.Linear(1, 1, bias=False).requires_grad_(False)

    def before_step(self):
        self.helper.k += 1
        self.twin.weight += .01
        for p in self.model.parameters():
            p.grad.mul_(1 + .1 * self.helper.k + float(self.twin.weight.detach()))


class SubclassOfOurs(EMACallback):
    """Inherits a state_dict that knows nothing of the counter."""

    def __init__(self):
        super().__init__(.9)
        self.mine = 0

    def after_loss(self):
        if self.training:
            self.mine += 1
            self.learn.loss_grad = self.loss_grad * (1 + .1 * self.mine)


class Overwritten(Callback):
    """Its hooks of the epoch set anew what the middle of an epoch then changes."""

    def before_train(self):
        self.left = 8.

    def after_loss(self):
        if self.training:
            self.left -= 1
            self.learn.loss_grad = self.loss_grad * self.left


@pytest.mark.parametrize('cb', [Counts, Noise, Later, Helped, SubclassOfOurs, Overwritten])
@pytest.mark.parametrize('every', [1, 4, 'epoch'])
def test_a_callback_whose_attributes_are_data_is_carried_without_being_asked(cb, every, tmp_path):
    """Counters, lists, arrays, tensors, generators, objects, modules."""
    def cbs():
        SHARED.bit_generator.state = np.random.default_rng(11).bit_generator.state
        torch.manual_seed(0)
        return [cb()]
    assert differences(end(*trained(make, cbs)), end(*trained(make, list)))  # it does change the training
    check(make, tmp_path, cbs, every, kills=((7, 'after_step'), (3, 'after_pred'), (1, 'after_validate')))


def test_a_setting_that_the_script_changes_before_the_resume_stays_changed(tmp_path):
    """What the training has not changed is the script's."""
    class Scale(Callback):
        def __init__(self, factor):
            self.factor, self.n, self.settings = factor, 0, {'a': factor}

        def before_step(self):
            self.n += 1
    trained(make, lambda: [Scale(1.)], tmp_path, kill=(7, 'after_step'))
    with pytest.warns(UserWarning, match="'factor' was 1.0 and is 2.0") as told:
        _, (cb,) = trained(make, lambda: [Scale(2.)], tmp_path, resume=True)
    assert all("'factor'" in str(w.message) or "'settings'" in str(w.message) for w in told)
    assert (cb.factor, cb.settings, cb.n) == (2., {'a': 2.}, 12)


def test_a_reference_to_the_model_stays_one(tmp_path):
    """Parameters and data that a callback points to are not replaced by copies; other bits of the optimizer neither."""
    class Points(Callback):
        def before_fit(self):
            self.params, self.groups = list(self.model.parameters()), self.opt.param_groups
            self.hypers, self.values, self.ds = self.opt.hypers, self.recorder.values, self.dls.train.dataset

        def after_fit(self):
            assert self.params[0] is next(self.model.parameters()) and self.ds is self.dls.train.dataset
            assert all(a is b for a, b in zip(self.params, self.opt.param_groups[0]['params']))
    check(make, tmp_path, lambda: [Points()])


def test_a_callback_with_a_state_dict_is_asked_instead(tmp_path):
    """Its attributes are its own affair."""
    class Asked(Callback):
        def __init__(self):
            self.n, self.private = 0, 0

        def after_step(self):
            self.n += 1
            self.private += 1

        def state_dict(self):
            return {'n': self.n}

        def load_state_dict(self, state):
            self.n = state['n']
    trained(make, lambda: [Asked()], tmp_path, kill=(7, 'after_step'))
    _, (cb,) = trained(make, lambda: [Asked()], tmp_path, resume=True)
    assert cb.n == 12 and cb.private == 6


@pytest.mark.parametrize('value, kind', [(lambda p: open(p / 'x', 'w'), 'an open file'),
                                         (lambda p: itertools.cycle([1, 2]), 'cycle'),
                                         (lambda p: (i for i in 'abc'), 'generator'),
                                         (lambda p: pytest.Session.__new__(pytest.Session), 'Session')],
                         ids=['file', 'cycle', 'generator', 'foreign'])
def test_what_a_callback_keeps_and_cannot_be_carried_is_named_before_training(value, kind, tmp_path):
    """One warning with callback, attribute and the way out."""
    class Keeps(Callback):
        def __init__(self):
            self.thing, self.n = value(tmp_path), 0

        def before_train(self):
            raise KeyboardInterrupt
    cb = Keeps()
    with pytest.warns(UserWarning) as found, pytest.raises(KeyboardInterrupt):
        make().fit(1, cbs=cb, checkpoint=tmp_path / 'c')
    message, = [str(w.message) for w in found]
    assert all(part in message for part in ('will not be exact', 'keeps', 'thing', kind, 'Keeps', 'load_state_dict'))
    getattr(cb.thing, 'close', lambda: None)()


@pytest.mark.parametrize('dl', [lambda: ours(sampler=Order(iter('ab'))), lambda: torchs(sampler=Order(iter('ab'))),
                                lambda: DataLoader((row for row in zip(X, Y)), bs=8, n=N),
                                lambda: Torch(Rows(), batch_size=8, num_workers=1, persistent_workers=True)],
                         ids=['iterator', 'iterator in torchs', 'stream', 'persistent workers'])
def test_a_loader_that_cannot_be_carried_is_named_before_training(dl, tmp_path):
    """One warning each."""
    class Stops(Callback):
        def before_train(self):
            raise KeyboardInterrupt
    with pytest.warns(UserWarning, match='middle of an epoch will not be exact: loader 0') as found:
        with pytest.raises(KeyboardInterrupt):
            make(dl()).fit(1, cbs=Stops(), checkpoint=tmp_path / 'c')
    assert len(found) == 1


@pytest.mark.parametrize('dl', [lambda: [(X[:8], Y[:8])], lambda: ((X[:8], Y[:8]),), lambda: torchs(), lambda: ours()],
                         ids=['list', 'tuple', 'torchs', 'ours'])
def test_of_loaders_that_are_carried_nothing_is_said(dl):
    """Batches in a row have nothing to carry, and no attributes either."""
    assert inexact_loaders([dl(), dl()]) == []


# ---------------------------------------------------------------- callbacks of ours

class Watched(Callback):
    """The learner's recorder, after the callback itself is taken off."""

    not_carried = ('kept',)

    def before_fit(self):
        self.kept = self.learn.recorder


class Pushed(Callback):
    """Spoils the weights in epoch 1, so that the validation loss does not improve there."""

    def after_train(self):
        if self.epoch == 1:
            with torch.no_grad():
                self.model[-1].weight.add_(3)


OURS = {
    'early stopping': (lambda: [EarlyStoppingCallback(patience=2), Pushed()], lambda cb: (cb.best, cb.wait), 5),
    'reduce': (lambda: [ReduceLROnPlateau(patience=1, factor=2), Pushed()], lambda cb: (cb.best, cb.wait), 5),
    'save': (lambda: [SaveModelCallback(), Pushed()],
             lambda cb: (cb.best, str(cb.last_saved_path), str(cb._best_path)), 4),
    'tracker': (lambda: [TrackerCallback('accuracy')], lambda cb: (cb.best, cb.new_best), 4),
    'ema': (lambda: [EMACallback(.9)], lambda cb: (cb.average, cb.n_steps), 3),
    'accumulation': (lambda: [GradientAccumulation(20)], lambda cb: cb.count, 3),
    'schedule': (lambda: [ParamScheduler({'lr': SchedCos(.01, .001)})], lambda cb: cb.hps, 3),
    'collect': (lambda: [CollectDataCallback()], lambda cb: list(cb.data), 3),
    'stats': (lambda: [ActivationStats(with_hist=True)], lambda cb: [list(map(dict, b)) for b in cb.stats], 3),
    'mixup': (lambda: [MixUp(.4)], lambda cb: None, 3),
    'csv': (lambda: [CSVLogger()], lambda cb: cb._rows, 3),
    'nan': (lambda: [TerminateOnNaNCallback(skip=True)], lambda cb: cb.items, 3),
    'recorder': (lambda: [Watched()],
                 lambda cb: (cb.kept.lrs, cb.kept.iters, list(map(list, cb.kept.values)), list(cb.kept.losses)), 3)}


@pytest.mark.parametrize('name', OURS)
@pytest.mark.parametrize('every', [1, 'epoch'])
def test_every_callback_of_ours_is_resumed_exactly(name, every, tmp_path):
    """What it has gathered at the end is an undisturbed one's; before the kill it is not what a new one has."""
    make_cbs, look, epochs = OURS[name]

    def learner(folder):
        learn = make(path=folder, train=DataLoader(Rows(), bs=8, shuffle=True))
        learn.recorder.add_time = False  # a row's time is another each time
        if name == 'recorder':
            learn.remove_cb(learn.recorder).add_cb(Recorder(train_metrics=True, add_time=False))
        return learn

    def at_the_kill():
        cbs = make_cbs()
        seen = []

        class Looks(Callback):
            order = 999

            def after_batch(self):
                seen.append(storable(look(cbs[0])))
        folder = tmp_path / 'looked'
        trained(lambda: learner(folder), lambda: [*cbs, Looks()], kill=(6, 'after_step'))
        return seen
    seen = at_the_kill()
    if name not in ('mixup', 'nan'):
        assert any(not same(state, seen[0]) or name in ('accumulation', 'csv') and state for state in seen)
    whole, (cb, *_) = trained(lambda: learner(tmp_path / 'whole'), make_cbs, epochs=epochs)
    expected, folder = storable(look(cb)), tmp_path / 'killed'
    for i, kill in enumerate(((7, 'after_step'), (1, 'after_validate'), None)):
        found, (cb, *_) = trained(lambda: learner(folder), make_cbs, tmp_path / 'c', every, kill, i > 0, 7 * i, epochs)
    assert not differences(end(whole), end(found))
    found_state = storable(look(cb))
    if name == 'save':
        expected, found_state = (str(s).replace('whole', 'killed') for s in (expected, found_state))
    assert same(expected, found_state), (expected, found_state)


def test_cutmix_and_all_of_ours_warn_of_nothing(tmp_path):
    """An exact resume with every callback of ours says nothing (warnings are errors here)."""
    def cbs():
        return [cb for name, (make_cbs, _, _) in OURS.items() if name not in ('recorder', 'early stopping', 'mixup')
                for cb in make_cbs()]
    trained(lambda: make(path=tmp_path), cbs, tmp_path / 'c', kill=(7, 'after_step'))
    trained(lambda: make(path=tmp_path), cbs, tmp_path / 'c', resume=True)
    assert CutMix


@pytest.mark.parametrize('every', [1])
def test_a_half_done_accumulation_is_resumed(every, tmp_path):
    """At the checkpoint two of three batches are added up: the count is not 0 and gradients are there."""
    def cbs():
        return [GradientAccumulation(24)]
    trained(make, cbs, tmp_path, every, kill=(7, 'after_backward'), epochs=3)
    state = newest_checkpoint(tmp_path)[1]
    assert state['callbacks']['gradient_accumulation']['count'] == 16 and len(state['grads']) == 6
    assert any(g.any() for g in state['grads'].values()) and state['position']['batch'] == 2
    found = trained(make, cbs, tmp_path, every, resume=True, streams=8)
    assert not differences(end(*trained(make, cbs)), end(*found))


def test_frozen_parts_are_resumed(tmp_path):
    """A callback freezes a layer in the middle: `requires_grad` at the checkpoint is not that of a new model."""
    class Freezes(Callback):
        def after_batch(self):
            if self.training and self.train_iter == 5:
                self.model[0].requires_grad_(False)
                for p in self.model[0].parameters():
                    p.grad = None
    trained(make, lambda: [Freezes()], tmp_path, kill=(7, 'after_step'))
    assert newest_checkpoint(tmp_path)[1]['trained'] == [False, False, True, True, True, True]
    found = trained(make, lambda: [Freezes()], tmp_path, resume=True, streams=9)
    assert not differences(end(*trained(make, lambda: [Freezes()])), end(*found))


def test_metrics_being_gathered_in_training_are_resumed(tmp_path):
    """At the checkpoint they have seen a part of the epoch; the row of the epoch is that of an undisturbed one."""
    def learner():
        learn = make()
        learn.remove_cb(learn.recorder).add_cb(Recorder(train_metrics=True, add_time=False))
        return learn
    cbs = list
    trained(learner, cbs, tmp_path, kill=(7, 'after_step'))
    gathered, = newest_checkpoint(tmp_path)[1]['metrics']
    assert any(isinstance(v, (int, float)) and v > 0 or isinstance(v, torch.Tensor) and v.any()
               for v in gathered.values())
    found, _ = trained(learner, cbs, tmp_path, resume=True, streams=9)
    expected, _ = trained(learner, cbs)
    assert not differences(end(expected), end(found))


# ---------------------------------------------------------------- rows

def table(folder):
    """The rows without their last column, the time."""
    return [line.rsplit(',', 1)[0] for line in (folder / 'history.csv').read_text().splitlines()]


class Torn(Callback):
    """Dies between the row of an epoch and the checkpoint, with half a row in the file."""

    order = 70

    def __init__(self, path, epoch):
        self.file_name, self.at = path, epoch

    def after_epoch(self):
        if self.epoch == self.at:
            with open(self.file_name, 'a') as file:
                file.write('7,0.1')
            raise ZeroDivisionError


KILLS = [((9, 'after_step'),), ((10, 'after_step'), (5, 'after_pred')), ((1, 'after_epoch'), (1, 'after_epoch')),
         ((2, 'after_validate'),), ((1, 'before_train'),), ((1, 'after_fit'),), ('torn', (2, 'after_step'))]


def csv_case(folder, append, every, kills, before):
    folder.mkdir(parents=True)
    whole = folder / 'whole'
    for place in (whole, folder / 'killed'):
        place.mkdir()
        if before:
            (place / 'history.csv').write_text('old,rows,of,another,run\n1,2,3,4,0:00' + '\n' * (before == 'whole'))

    def cbs():
        return [CSVLogger(append=append)]
    trained(lambda: make(path=whole), cbs, epochs=4)
    for i, kill in enumerate((*kills, None)):
        torn = [Torn(folder / 'killed' / 'history.csv', 1)] if kill == 'torn' else []
        learn, extra = make(path=folder / 'killed'), [CheckpointCallback(folder / 'c', every=every)]
        other_streams(i)
        try:
            learn.fit(4, cbs=[*cbs(), *extra, *torn, *([Kill(*kill, 'error')] if kill and kill != 'torn' else [])],
                      resume=i > 0)
        except ZeroDivisionError:
            continue
    assert table(folder / 'killed') == table(whole)
    assert sum(line.startswith('epoch,') for line in table(whole)) == (0 if before and append else 1)


@pytest.mark.parametrize('append, before', [(False, ''), (True, ''), (True, 'whole'), (True, 'torn')])
@pytest.mark.parametrize('kills', KILLS[::2], ids=str)
def test_the_csv_file_is_that_of_an_undisturbed_run(append, before, kills, tmp_path):
    """No row lost, none twice, one header, old rows stay."""
    csv_case(tmp_path / 'f', append, 3, kills, before)


@pytest.mark.faults
def test_all_csv_files_are_those_of_undisturbed_runs(tmp_path, counted):
    """Every kill, every interval, every old file."""
    cases = list(itertools.product([False, True], [1, 3, 16, 'epoch'], KILLS, ['', 'whole', 'torn']))
    for done, (append, every, kills, before) in enumerate(cases, 1):
        csv_case(tmp_path / str(done), append, every, kills, before)
        counted(done, len(cases))


def test_a_lost_csv_file_is_written_again(tmp_path):
    """The rows are in the checkpoint."""
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    trained(lambda: make(path=whole), lambda: [CSVLogger()])
    trained(lambda: make(path=killed), lambda: [CSVLogger()], tmp_path / 'c', kill=(9, 'after_step'))
    (killed / 'history.csv').unlink()
    trained(lambda: make(path=killed), lambda: [CSVLogger()], tmp_path / 'c', resume=True)
    assert table(killed) == table(whole)


class JsonLines(Callback):
    """A logger as users write them: one line a step."""

    def __init__(self, name):
        self.name_of_file = name

    def before_fit(self):
        self.file = open(self.name_of_file, 'a')

    def after_step(self):
        self.file.write(f'{{"step": {self.train_iter}, "loss": {float(self.loss.detach())}}}\n')

    def cleanup_fit(self):
        self.file.close()


@pytest.mark.parametrize('every', [1, 3, 'epoch'])
def test_a_users_file_of_rows_is_that_of_an_undisturbed_run(every, tmp_path):
    """Opened to be appended to, it is cut back to where the checkpoint saw it."""
    trained(make, lambda: [JsonLines(tmp_path / 'whole')])
    for i, kill in enumerate(((7, 'after_step'), (3, 'after_pred'), None)):
        trained(make, lambda: [JsonLines(tmp_path / 'killed')], tmp_path / 'c', every, kill, i > 0)
    assert (tmp_path / 'killed').read_text() == (tmp_path / 'whole').read_text()


def test_watching_callbacks_may_come_and_go_over_a_resume(tmp_path):
    """They change nothing, so nothing is said (warnings are errors here)."""
    trained(make, lambda: [CSVLogger(tmp_path / 'a.csv')], tmp_path / 'c', kill=(7, 'after_step'))
    trained(make, list, tmp_path / 'c', kill=(2, 'after_step'), resume=True)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        trained(make, lambda: [CSVLogger(tmp_path / 'a.csv')], tmp_path / 'c', resume=True)


def test_a_checkpoint_that_tells_nothing_of_watching_callbacks_goes_on(tmp_path):
    """As those of earlier releases, whoever watches now."""
    learn = make()
    learn.add_cb(CSVLogger(tmp_path / 'a.csv'))
    learn.fit(1)
    at = {'where': 'epoch', 'epoch': 1, 'batch': 0, 'done': True, 'phase': 0, 'n_epoch': 1, 'n_iter': 4}
    state = copied(storable(training_state(learn, at, generators(learn.dls)), 'it'))
    assert list(state['watchers']) == ['csv_logger']
    wanted = copied(dict(learn.model.state_dict()))
    for watchers in ({'watchers': {}}, {}):
        learn.model.load_state_dict({name: torch.zeros_like(value) for name, value in wanted.items()})
        load_training_state(learn, {**{k: v for k, v in state.items() if k != 'watchers'}, **watchers})
        assert same(wanted, dict(learn.model.state_dict()))


def test_pythons_generator_is_one_tensor_in_a_checkpoint_and_numbers_of_earlier_releases_are_taken():
    random.seed(3)
    states = generators()
    assert isinstance(states['global']['random_state'][1], torch.Tensor)
    version, numbers, gauss = states['global']['random_state']
    drawn = random.random()
    for kept in (numbers, tuple(numbers.tolist()), numbers.tolist()):
        set_generators({'global': {**states['global'], 'random_state': (version, kept, gauss)}, 'loaders': []})
        assert random.random() == drawn


def test_what_parts_hold_is_kept_under_their_names():
    """A checkpoint knows the model, the loss function, callbacks and metrics by these names."""
    class Counts(Callback):
        n, name = 0, 'counts'

        def before_batch(self):
            self.n += 1

    class Noise(nn.Linear):
        rng = None

        def forward(self, x):
            self.seen = getattr(self, 'seen', 0) + 1
            return super().forward(x)

    class Loss(nn.CrossEntropyLoss):
        def forward(self, *args):
            self.often = getattr(self, 'often', 0) + 1
            return super().forward(*args)

    class Metric(AvgMetric):
        def __init__(self):
            super().__init__(accuracy)
            self.rng = np.random.default_rng(1)

        def accumulate(self, learn):
            self.rng.random()
            super().accumulate(learn)
    items = list(zip(X, Y))
    learn = Learner(DataLoaders(DataLoader(items, bs=8), DataLoader(items, bs=8)), Noise(6, 3), loss_func=Loss(),
                    metrics=Metric(), cbs=Counts())
    learn.remove_cb(learn.progress)
    learn.logger = lambda row: None
    seen = []
    learn.fit(1, cbs=Callback(after_train=lambda self: seen.append(start_hidden(learn)),
                              after_validate=lambda self: seen.append(_hidden_state(learn))))
    assert seen[0] == [] and seen[1].keys() == {'the callback counts', 'the model', 'the loss function', 'metric 0'}


@pytest.mark.parametrize('kind', ["torch's", 'ours'])
def test_what_a_data_set_keeps_of_its_own_is_not_carried_by_way_of_its_sampler(kind):
    """A sampler holds the data set that it draws from: caches and counters in it may be large, and are its own."""
    class Counting(torch.utils.data.Dataset):
        def __init__(self):
            self.n, self.cache, self.inner = 0, {}, [0]

        def __len__(self):
            return 8

        def __getitem__(self, i):
            self.n += 1
            self.inner.append(int(i))
            return self.cache.setdefault(int(i), X[i])

    class Order(RandomSampler):
        n_passes = 0

        def __iter__(self):
            self.n_passes += 1
            return super().__iter__()
    ds = Counting()
    dl = {"torch's": lambda: Torch(ds, batch_size=4, sampler=Order(ds)),
          'ours': lambda: DataLoader(ds, bs=4, sampler=Order(ds), num_workers=0)}[kind]()
    baselines = Baselines()
    generators([dl], baselines=baselines)
    assert len(list(dl)) == 2 and ds.n >= 8
    carried, = generators([dl], baselines=baselines)['loaders']
    changed = [path for part in carried['order'] for path, _ in part.get('data', ())]
    assert len(changed) == 1 and changed[0][-1][-1] == 'n_passes'
