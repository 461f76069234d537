"""Laws over kinds of models, losses and optimizers: what trains is checkpointed and resumes to the same bits, inside of
an epoch and between, or is refused before it trains."""
import re
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from minifast.callback.checkpoint import CheckpointCallback, checkpoints_in, newest_checkpoint
from minifast.callback.core import Callback
from minifast.callback.mixup import CutMix, MixUp
from minifast.data.core import DataLoaders
from minifast.learner import Learner
from minifast.losses import BaseLoss, CrossEntropyLossFlat, LabelSmoothingCrossEntropy
from minifast.optimizer import SGD, Adam, Lookahead, OptimWrapper, RAdam, ranger
from minifast.tensorfile import read_tensors, write_atomic
from minifast.torch_core import trainable_params

DATA = Path(__file__).resolve().parents[1] / 'data'


class Net(nn.Module):
    """Four pictures of 1x4x4 to three classes, with norm layers, a teacher outside of the training, and any buffer."""

    def __init__(self, held=None, frozen=()):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.teacher = nn.Sequential(nn.Linear(16, 3), nn.BatchNorm1d(3)).requires_grad_(False)
        self.register_buffer('held', held)
        self.register_buffer('apart', torch.ones(1).expand(3), persistent=False)
        for name, p in self.named_parameters():
            if any(part in name for part in frozen):
                p.requires_grad_(False)

    def forward(self, x):
        return self.last(F.relu(self.norm(self.first(x.flatten(1))))) + 0 * self.teacher(x.flatten(1)).detach()


class Learned(nn.Module):
    """A loss that learns: a temperature, and how often it was asked."""

    reduction, y_int = 'mean', True

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer('n', torch.zeros((), dtype=torch.int64))

    def forward(self, pred, target):
        if self.training:
            self.n += 1
        return F.cross_entropy(pred * self.scale * (1 + self.n / 100), target, reduction=self.reduction)


class Instead(Callback):
    """Puts a loss of its own, and a wrapper around the model, in the place of the user's while a fit runs."""

    def before_fit(self):
        loss, model = self.learn.loss_func, self.learn.model
        self.own = loss, model
        self.learn.loss_func = lambda pred, *yb: 2 * loss(pred, *yb)
        self.learn.model = nn.Sequential(model)

    def cleanup_fit(self):
        self.learn.loss_func, self.learn.model = self.own


def make(folder, net=Net, loss=CrossEntropyLossFlat, opt=Adam, splitter=trainable_params):
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(0)
    items = TensorDataset(torch.randn(24, 1, 4, 4, generator=g), torch.randint(0, 3, (24,), generator=g))
    loaders = [DataLoader(items, 4, shuffle=shuffle, generator=torch.Generator().manual_seed(1)) for shuffle in (1, 0)]
    learn = Learner(DataLoaders(*loaders), net(), loss(), opt_func=opt, path=folder, splitter=splitter, lr=1e-2)
    learn.remove_cb(learn.progress)
    learn.logger = lambda row: None
    return learn


class Stop(Callback):
    """Ends the training in the middle of its second epoch."""

    def after_step(self):
        if self.learn.epoch == 1 and self.learn.iter == 2:
            raise ZeroDivisionError


def state_of(learn):
    loss = learn.loss_func
    loss = loss if isinstance(loss, nn.Module) else getattr(loss, 'func', None)
    return {**learn.model.state_dict(), **(loss.state_dict() if isinstance(loss, nn.Module) else {})}


def check(folder, cbs=list, **kinds):
    whole = make(folder, **kinds)
    whole.fit(3, cbs=cbs())
    with pytest.raises(ZeroDivisionError):
        make(folder, **kinds).fit(3, cbs=[*cbs(), Stop(), CheckpointCallback(folder / 'c', every=1)])
    again = make(folder, **kinds)
    again.fit(3, cbs=[*cbs(), CheckpointCallback(folder / 'c', every=1)], resume=True)
    for (name, a), b in zip(state_of(whole).items(), state_of(again).values(), strict=True):
        a, b = (x.to_dense() if x.layout is not torch.strided else x for x in (a, b))
        assert torch.equal(*(x.contiguous().reshape(-1).view(torch.uint8) for x in (a, b))), name
    again.save('m')
    loaded = make(folder, **kinds).load('m')
    assert str(loaded.opt.state_dict()) == str(again.opt.state_dict())


def learned_of_ours():
    loss = BaseLoss(Learned)
    loss.y_int = True
    return loss


LOSSES = {
    'ours': CrossEntropyLossFlat, 'weighted': lambda: nn.CrossEntropyLoss(weight=torch.tensor([1., 2., 3.])),
    'ours, weighted': lambda: CrossEntropyLossFlat(weight=torch.tensor([1., 2., 3.])),
    'a function': lambda: F.cross_entropy, 'a partial': lambda: partial(F.cross_entropy, label_smoothing=.1),
    'a lambda': lambda: lambda p, y: F.cross_entropy(p, y),
    'smoothing': LabelSmoothingCrossEntropy, 'learned': Learned, 'learned, of ours': learned_of_ours,
    'a partial of a learned one': lambda: partial(Learned()), 'a method': lambda: Learned().forward}
MIXES = {'alone': list, 'MixUp': lambda: [MixUp()], 'CutMix': lambda: [CutMix()], 'instead': lambda: [Instead()]}


def some_of(first, second, core):
    """All pairs; those that are not in `core` for `make test-faults` only."""
    return [pytest.param(a, b, marks=pytest.mark.tally if (a, b) in core else pytest.mark.faults)
            for a in first for b in second if (a, b) not in UNBLENDABLE]


# MixUp cannot know that these take classes, and says so before the first batch
UNBLENDABLE = {(loss, mix) for loss in ('a lambda', 'a partial of a learned one', 'a method')
               for mix in ('MixUp', 'CutMix')}


@pytest.mark.filterwarnings('ignore:no optimizer holds the parameters scale')  # it is carried, though never trained
@pytest.mark.parametrize('name, mix', some_of(LOSSES, MIXES, [
    ('weighted', 'MixUp'), ('learned', 'instead'), ('learned, of ours', 'alone'), ('a method', 'alone')]))
def test_every_loss_resumes_under_everything_that_stands_in_for_it(tmp_path, name, mix):
    """Losses with buffers, parameters, none; MixUp, CutMix, a plugin's own in their place while the training runs."""
    check(tmp_path, MIXES[mix], loss=LOSSES[name])


@pytest.mark.filterwarnings('ignore:no optimizer holds the parameters scale')
@pytest.mark.parametrize('part, mix', [('loss_func', 'alone'), ('acting_loss', 'other')])
def test_a_checkpoint_without_the_losss_state_is_told_by_its_name(tmp_path, part, mix):
    """As earlier releases wrote it: the loss stays as it was made, and the rest is resumed."""
    def attempt(n, **kwargs):
        learn = make(tmp_path, loss=Learned)
        cbs = [Callback(before_fit=lambda self: setattr(self.learn, 'loss_func', Learned()))] if mix == 'other' else []
        learn.fit(n, cbs=[*cbs, CheckpointCallback(tmp_path / 'c')], **kwargs)
        return learn
    attempt(1)
    path, state = newest_checkpoint(tmp_path / 'c')
    assert state[part]['n']
    write_atomic(path, {**state, part: {}})
    with pytest.warns(UserWarning, match=f'{re.escape(str(path))} holds no state of the loss function: it stays'):
        learn = attempt(2, resume=True)
    assert len(learn.recorder.values) == 2


BUFFERS = {'small floats': lambda: torch.zeros(3).to(torch.float8_e5m2),
           'words': lambda: torch.ones(3).to(torch.uint32),
           'sparse': lambda: torch.eye(3).to_sparse(), 'expanded': lambda: torch.ones(1).expand(40),
           'none': lambda: None}


@pytest.mark.tally
@pytest.mark.parametrize('name', BUFFERS)
def test_every_buffer_resumes(tmp_path, name):
    """Buffers of odd kinds go into the checkpoint and come back."""
    check(tmp_path, net=lambda: Net(BUFFERS[name]()))


OPTIMIZERS = {'Adam': Adam, 'SGD': partial(SGD, mom=.9), 'RAdam': RAdam, 'ranger': ranger,
              'Lookahead': lambda ps, lr: Lookahead(Adam(ps, lr=lr)), 'AdamW of torch': torch.optim.AdamW,
              'wrapped': lambda ps, lr: OptimWrapper(ps, torch.optim.Adagrad, lr=lr)}
FROZEN = {'norm': ['norm'], 'biases': ['bias'], 'all but the last': ['first', 'norm'], 'nothing': []}


def groups(model):
    """Two groups of what is trained; the teacher is in none."""
    return [trainable_params(model.first) + trainable_params(model.norm), trainable_params(model.last)]


@pytest.mark.parametrize('name, frozen', some_of(OPTIMIZERS, FROZEN, [
    ('Adam', 'norm'), ('SGD', 'nothing'), ('ranger', 'biases'), ('AdamW of torch', 'all but the last')]))
def test_every_optimizer_resumes_beside_parameters_that_it_has_not(tmp_path, name, frozen):
    """Frozen norm layers and biases, and a teacher, that no group holds: saved, resumed, frozen and unfrozen."""
    def net():
        return Net(frozen=FROZEN[frozen])
    check(tmp_path, net=net, opt=OPTIMIZERS[name])
    if frozen == 'nothing':
        learn = make(tmp_path, net=net, opt=OPTIMIZERS[name], splitter=groups)
        for change in (learn.freeze, learn.unfreeze):
            change()
            learn.fit(1)
            learn.save('n')
            make(tmp_path, net=net, opt=OPTIMIZERS[name], splitter=groups).load('n')


@pytest.mark.tally
@pytest.mark.parametrize('name, held', [('lazy', None),
                                        ('meta', lambda: torch.ones(2, device='meta')),
                                        ('nested', lambda: torch.nested.nested_tensor([torch.ones(2)]))])
def test_what_no_checkpoint_can_hold_is_refused_before_a_step(tmp_path, name, held):
    """The first checkpoint, before the first batch, tells it."""
    learn = make(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # that nested tensors are new
        if name == 'lazy':
            learn.model.held = nn.LazyLinear(2)
        else:
            learn.model._buffers['held'] = held()
    learn.model.to = lambda *args, **kwargs: learn.model  # none of these can be moved
    before = learn.model.first.weight.clone()
    with pytest.raises(TypeError, match=r"the model's state\['held.*'\] is a .*: "):
        learn.fit(1, cbs=CheckpointCallback(tmp_path / 'c'))
    assert torch.equal(learn.model.first.weight, before) and not checkpoints_in(tmp_path / 'c')


class Holds(Callback):
    """Says what no file can hold."""

    def state_dict(self):
        return {'held': {1, 2}}

    def load_state_dict(self, state):
        """Takes anything."""


class Watches(Holds):
    watches_only = True


class HoldsLoss(Learned):
    def state_dict(self, *args, **kwargs):
        return {'held': {1, 2}}


class HoldsLoader(DataLoader):
    state_dict, load_state_dict = Holds.state_dict, Holds.load_state_dict


@pytest.mark.filterwarnings('ignore:no optimizer holds the parameters scale')
@pytest.mark.parametrize('whose, change', [
    ("the loss function's state", lambda learn: setattr(learn, 'loss_func', HoldsLoss())),
    ("the loss function's state", lambda learn: learn.add_cb(Callback(
        before_fit=lambda self: setattr(self.learn, 'loss_func', HoldsLoss())))),
    ("the model's buffers", lambda learn: learn.model.register_buffer('held', torch.ones(2, device='meta'), False)),
    ('the state_dict of Holds', lambda learn: learn.add_cb(Holds())),
    ('the state_dict of Watches', lambda learn: learn.add_cb(Watches())),
    ('the state_dict of HoldsLoader', lambda learn: learn.dls.loaders.__setitem__(
        0, HoldsLoader(learn.dls.train.dataset, 4)))],
    ids='loss, loss in its place, buffers, callback, watching callback, loader'.split(', '))
def test_it_is_told_who_holds_what_no_checkpoint_can(tmp_path, whose, change):
    """By name, and what of it, before the first step."""
    learn = make(tmp_path)
    learn.model.to = lambda *args, **kwargs: learn.model
    change(learn)
    with pytest.raises(TypeError, match=rf"^{whose}\['held'\] is a "):
        learn.fit(1, cbs=CheckpointCallback(tmp_path / 'c'))
    assert not learn.recorder.losses


class Odd(SGD):
    """An optimizer that keeps what no file can hold, from its first step on."""

    def step(self, closure=None):
        super().step(closure)
        for p in self.param_groups[0]['params']:
            self.state[p]['seen'] = {1, 2}


def test_what_the_first_step_makes_is_looked_at_after_the_first_step(tmp_path):
    """Checkpoints are written once an epoch; that none could be is told after one step."""
    learn = make(tmp_path, opt=Odd)
    with pytest.raises(TypeError, match="the optimizer's state.*'seen'.* is a set"):
        learn.fit(1, cbs=CheckpointCallback(tmp_path / 'c'))
    assert learn.train_iter == 1


def test_the_learner_knows_the_loss_and_the_model_of_its_user(tmp_path):
    """Inside a fit, whatever stands in their place; outside, they are what they are, after an error too."""
    class Look(Callback):
        order = 50

        def after_step(self):
            self.found = self.learn.own_loss, self.learn.own_model, self.learn.loss_func, self.learn.model
            self.preds = self.learn.get_preds(dl=self.learn.dls.valid, with_loss=True)
            raise ZeroDivisionError
    for cb in (MixUp, Instead):
        learn, look = make(tmp_path), Look()
        loss, model = learn.loss_func, learn.model
        with pytest.raises(ZeroDivisionError):
            learn.fit(1, cbs=[cb(), look])
        assert look.found[:2] == (loss, model) and look.found[2] is not loss
        assert (learn.own_loss, learn.own_model, learn.loss_func, learn.model) == (loss, model, loss, model)
        torch.testing.assert_close(look.preds[0].sum(1), torch.ones(24))  # the loss's activation
        assert look.preds[2].shape == (24,)


def test_files_of_the_release_before_are_read():
    """A save, a checkpoint inside an epoch and an export that minifast 0.1.0 wrote."""
    def net():
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    folder = DATA / 'release_0_1_0'
    saved = read_tensors(folder / 'save.pth')
    learn = make(folder, net=net, opt=Adam)
    learn.model_dir = '.'
    learn.load('save')
    assert torch.equal(learn.model[1].weight, saved['model']['1.weight'])
    state = read_tensors(folder / 'checkpoint.pth')
    assert state['format'] == 'minifast-training' and state['position']['where'] == 'train'
    assert torch.equal(state['model']['1.weight'], saved['model']['1.weight'])
