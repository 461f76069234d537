"""The law: a resume takes over what is its own and nothing else. Another data set, model, loss or optimizer is an error
that names the first difference; another setting is one warning; what is unchanged says nothing and changes no bit."""
import inspect
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastcore.foundation import L
from PIL import Image
from torch import nn
from torch.utils.data import ConcatDataset, Subset, TensorDataset
from torch.utils.data import DataLoader as TorchLoader
from torchvision.transforms import v2
from torchvision import transforms as v1

import minifast.vision.all as public
from minifast.arguments import kept_arguments
from minifast.callback.checkpoint import CheckpointCallback, FolderInUseError, checkpoints_in, newest_checkpoint
from minifast.callback.core import Callback
from minifast.callback.fp16 import AutoPrecision, MixedPrecision
from minifast.callback.hook import ActivationStats
from minifast.callback.mixup import CutMix, MixUp
from minifast.callback.progress import CSVLogger, ProgressCallback, ShowGraphCallback
from minifast.callback.schedule import ParamScheduler, SchedLin
from minifast.callback.tensorboard import TensorBoardCallback
from minifast.callback.tracker import (EarlyStoppingCallback, ReduceLROnPlateau, SaveModelCallback,
                                       TerminateOnNaNCallback)
from minifast.callback.training import BnFreeze, EMACallback, GradientAccumulation, GradientClip
from minifast.data.categorize import CategoryMap
from minifast.data.core import DataLoaders, Datasets
from minifast.data.load import DataLoader
from minifast.learner import Learner
from minifast.losses import CrossEntropyLossFlat, FocalLossFlat
from minifast.metrics import accuracy
from minifast.optimizer import SGD, Adam
from minifast.run import differences as room
from minifast.run import identity
from minifast.run.folder import LOCK, RunFolder
from minifast.seeds import fork_rng, set_seed
from minifast.tensorfile import read_tensors, write_atomic
from minifast.vision.augment import Brightness, Resize
from minifast.vision.data import ImageDataLoaders
from tests.resume.training import Kill, differences, outcome, same

ROOT = Path(__file__).resolve().parents[2]
X = torch.randn(48, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(48) % 3


class Rows(torch.utils.data.Dataset):
    """Rows as a user's data set keeps them; counts what was read, and keeps it."""

    def __init__(self, x=X, y=Y):
        self.x, self.y, self.n_read, self.kept = x, y, 0, {}

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        self.n_read += 1
        return self.kept.setdefault(int(i), (self.x[i], self.y[i]))


def net(act=nn.ReLU, width=16, p=0.2, out=3):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, width), nn.BatchNorm1d(width), act(), nn.Dropout(p), nn.Linear(width, out))


def make(train=None, valid=None, bs=8, torch_loader=False, model=None, **kwargs):
    train, valid = Rows() if train is None else train, Rows(X[:16], Y[:16]) if valid is None else valid
    if torch_loader:
        dls = DataLoaders(TorchLoader(train, batch_size=bs, shuffle=True), TorchLoader(valid, batch_size=8))
    else:
        dls = DataLoaders(DataLoader(train, bs=bs, shuffle=True), DataLoader(valid, bs=8))
    learn = Learner(dls, net() if model is None else model, **{
        'loss_func': F.cross_entropy, 'lr': 0.01, 'metrics': accuracy,
        'splitter': lambda m: [list(m[:2].parameters()), list(m[2:].parameters())], **kwargs})
    learn.remove_cb(learn.progress)
    learn.logger = lambda row: None
    return learn


def train(learn, folder, kill=None, resume=False, fit='fit', seed=7, every='epoch', keep=3, cbs=(), **kwargs):
    """A fit of four epochs; returns what was said."""
    cbs = [*cbs, CheckpointCallback(folder, every=every, keep=keep)]
    cbs += [Kill(*kill)] if kill else []
    set_seed(seed)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter('always')
        try:
            getattr(learn, fit)(kwargs.pop('n_epoch', 4), cbs=cbs, resume=resume, **kwargs)
        except ZeroDivisionError:
            pass
    return [str(w.message) for w in found]


def undisturbed(n_epoch):
    """The outcome of a fit that nobody disturbs."""
    with fork_rng():
        learn = make()
        set_seed(7)
        learn.fit(n_epoch)
        return outcome(learn)


def steps_of(learn):
    return len(learn.recorder.losses)


# ---------------------------------------------------------------- other data

def pictures(folder, labels=None):
    draw = np.random.RandomState(0)
    for c in ('cat', 'dog', 'owl'):
        (folder / c).mkdir(parents=True)
        for i in range(6):
            Image.fromarray(draw.randint(0, 255, (9, 9, 3), np.uint8)).save(folder / c / f'{i}.png')
    return folder


def on_pictures(folder, **kwargs):
    dls = ImageDataLoaders.from_folder(folder, valid_pct=0.25, **{'seed': 42, 'item_tfms': Resize(8), 'bs': 4,
                                                                  'num_workers': 0, 'device': 'cpu', **kwargs})
    return on_loaders(dls)


def on_loaders(dls):
    torch.manual_seed(1)
    learn = Learner(dls, nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 3)))
    learn.remove_cb(learn.progress)
    learn.logger = lambda row: None
    return learn


def edited_in_place(d):
    file = d / 'dog' / '3.png'
    data, stat = bytearray(file.read_bytes()), file.stat()
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


CHANGES = {
    'added': (lambda d: Image.new('RGB', (9, 9)).save(d / 'cat' / '00.png'), 'cat/00.png new'),
    'removed': (lambda d: (d / 'owl' / '5.png').unlink(), 'owl/5.png gone'),
    'renamed': (lambda d: (d / 'cat' / '0.png').rename(d / 'cat' / 'z.png'), 'cat/z.png new; cat/0.png gone'),
    'edited': (lambda d: Image.new('RGB', (9, 9)).save(d / 'dog' / '3.png'), r'dog/3.png, \d+ bytes, label dog'),
    'edited, same size and time': (edited_in_place, r'dog/3.png, \d+ bytes, label dog, has other contents\. Give each'),
    'relabelled': (lambda d: (d / 'cat').rename(d / 'zebra'), 'zebra'),
    'moved to another class': (lambda d: (d / 'cat' / '0.png').rename(d / 'dog' / 'm.png'), 'dog/m.png new')}


@pytest.mark.tally
@pytest.mark.parametrize('change', CHANGES)
def test_changed_pictures_are_refused_and_named(tmp_path, change):
    """Before anything is changed: the weights of the learner stay as they were."""
    d = pictures(tmp_path / 'd')
    train(on_pictures(d), tmp_path / 'c', kill=(2, 'before_validate'))
    edit, named = CHANGES[change]
    edit(d)
    learn = on_pictures(d)
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    with pytest.raises(ValueError, match=f'of another run: .*{named}.*folder of its own.*anyway'):
        train(learn, tmp_path / 'c', resume=True)
    assert same(before, dict(learn.model.state_dict())) and learn.opt.state_dict()['state'] == {
        k: v for k, v in learn.opt.state_dict()['state'].items() if set(v) <= {'do_wd', 'force_train'}}


@pytest.mark.tally
@pytest.mark.parametrize('how', ['unchanged', 'moved', 'copied', 'relative'])
def test_the_same_pictures_elsewhere_are_the_same_data(tmp_path, how, monkeypatch):
    """A data set that was moved, or copied so that its times are others, is resumed without a word."""
    d = pictures(tmp_path / 'd')
    train(on_pictures(d), tmp_path / 'c', kill=(2, 'before_validate'))
    if how == 'moved':
        d = d.rename(tmp_path / 'elsewhere')
    elif how == 'copied':
        d = Path(shutil.copytree(d, tmp_path / 'deep' / 'copy', copy_function=shutil.copyfile))
    elif how == 'relative':
        monkeypatch.chdir(tmp_path)
        d = Path('d')
    assert not train(on_pictures(d), tmp_path / 'c', resume=True)


def test_a_split_that_is_another_is_refused(tmp_path):
    """The same pictures, other validation items."""
    d = pictures(tmp_path / 'd')
    train(on_pictures(d), tmp_path / 'c', kill=(2, 'before_validate'))
    with pytest.raises(ValueError, match=r'training item \d+ was .* and is .*same items, in another order or split'):
        train(on_pictures(d, seed=43), tmp_path / 'c', resume=True)


def test_labels_of_a_table_count_and_the_lists_may_be_lost(tmp_path):
    """Labels come from a dict of the script's; where the folder's list of items is gone, the count tells."""
    d = pictures(tmp_path / 'd')
    files = sorted(d.rglob('*.png'))
    labels = {f.name + f.parent.name: f.parent.name for f in files}

    def learner():
        return on_loaders(ImageDataLoaders.from_path_func(
            d, files, lambda f: labels[f.name + f.parent.name], valid_pct=0.25, seed=42, item_tfms=Resize(8), bs=4,
            num_workers=0, device='cpu'))
    train(learner(), tmp_path / 'c', kill=(2, 'before_validate'))
    assert not train(learner(), tmp_path / 'c', kill=(1, 'before_validate'), resume=True)
    labels['3.pngdog'] = 'owl'
    with pytest.raises(ValueError, match='dog/3.png.*label dog and is .*dog/3.png.*label owl'):
        train(learner(), tmp_path / 'c', resume=True)
    for file in (tmp_path / 'c').glob('items-*.json'):
        file.write_text('{')
    with pytest.raises(ValueError, match='list of then is gone'):
        train(learner(), tmp_path / 'c', resume=True)
    labels['3.pngdog'] = 'dog'
    assert not train(learner(), tmp_path / 'c', resume=True)


def touched(x, i=3):
    x = x.clone()
    x[i] += 1
    return x


class Files(torch.utils.data.Dataset):
    """A user's data set of files: a root and names."""

    def __init__(self, root):
        self.root = root
        self.names = sorted(os.listdir(root))
        self.transform = lambda x: x

    def __len__(self):
        return len(self.names)

    def __getitem__(self, i):
        data = (Path(self.root) / self.names[i]).read_bytes()
        return torch.tensor([float(b) for b in data[:6]]), len(data) % 3


def text_files(tmp_path, extra=b''):
    folder = tmp_path / 'texts'
    folder.mkdir(exist_ok=True)
    for i in range(12):
        (folder / f'{i:02d}').write_bytes(bytes([i] * (7 + i)) + (extra if i == 3 else b''))
    return folder


MEMORY = {
    'numbers': (lambda t: Rows(), lambda t: Rows(touched(X)), 'x'),
    'labels': (lambda t: Rows(), lambda t: Rows(X, touched(Y)), 'y'),
    'fold': (lambda t: Subset(Rows(), range(0, 32)), lambda t: Subset(Rows(), range(16, 48)), 'item 0 was 0 and is 16'),
    'numbers below a fold': (lambda t: Subset(Rows(), range(32)), lambda t: Subset(Rows(touched(X)), range(32)), 'x'),
    'tensors': (lambda t: TensorDataset(X, Y), lambda t: TensorDataset(touched(X), Y), 'tensors'),
    'list': (lambda t: list(zip(X, Y)), lambda t: list(zip(touched(X), Y)), 'item 3'),
    'order of a sum': (lambda t: ConcatDataset([Rows(), Rows(touched(X))]),
                       lambda t: ConcatDataset([Rows(touched(X)), Rows()]), 'x'),
    'files of a data set': (lambda t: Files(text_files(t)), lambda t: Files(text_files(t, b'abc')),
                            'training names item 3 was 03, 10 bytes and is 03, 13 bytes'),
    'arrays': (lambda t: Rows(X.numpy(), Y.numpy()), lambda t: Rows(touched(X).numpy(), Y.numpy()), 'x'),
    'class': (lambda t: Rows(), lambda t: type('Others', (Rows,), {})(), 'class')}


@pytest.mark.tally
@pytest.mark.parametrize('torch_loader', [False, True], ids=['ours', "torch's"])
@pytest.mark.parametrize('kind', MEMORY)
def test_changed_data_of_every_kind_are_refused_and_the_same_are_not(tmp_path, kind, torch_loader):
    """Numbers in memory, folds, lists, files that a data set of the user's reads."""
    then, now, named = MEMORY[kind]
    train(make(then(tmp_path), torch_loader=torch_loader), tmp_path / 'c', kill=(2, 'before_validate'))
    assert not train(make(then(tmp_path), torch_loader=torch_loader), tmp_path / 'c', kill=(1, 'before_validate'),
                     resume=True)
    with pytest.raises(ValueError, match=f'of another run: .*{named}'):
        train(make(now(tmp_path), torch_loader=torch_loader), tmp_path / 'c', resume=True)
    said = train(make(now(tmp_path), torch_loader=torch_loader), tmp_path / 'c', resume='anyway')
    assert len(said) == 1 and 'the data of now count' in said[0]


def test_what_a_data_set_does_by_itself_is_no_change(tmp_path):
    """A counter and a cache of the data set, after Ctrl-C in a notebook, with the same objects."""
    learn = make()
    set_seed(7)
    with pytest.raises(KeyboardInterrupt):
        learn.fit(3, cbs=[CheckpointCallback(tmp_path), Kill(9, 'after_step', 'int')])
    assert learn.dls.train.dataset.n_read
    learn.fit(3, checkpoint=tmp_path, resume=True)
    assert not differences(undisturbed(3), outcome(learn))


# ---------------------------------------------------------------- another model, loss, optimizer

def weighted(*w):
    return nn.CrossEntropyLoss(weight=torch.tensor(w))


class First(nn.Module):
    """Takes a name and numbers."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, name, x):
        return self.net(x)


class Home(nn.Module):
    def __init__(self, act=F.relu, scale=1.):
        super().__init__()
        torch.manual_seed(1)
        self.first, self.second, self.act, self.scale = nn.Linear(6, 16), nn.Linear(16, 3), act, scale

    def forward(self, x):
        return self.second(self.act(self.first(x)) * self.scale)


whole = {'splitter': lambda m: [list(m.parameters())], 'metrics': []}
halves = {'splitter': lambda m: [list(m.first.parameters()), list(m.second.parameters())]}
OTHERS = {
    'activation': (lambda: {}, lambda: {'model': net(nn.Tanh)}, 'model.*ReLU.*Tanh'),
    'dropout': (lambda: {}, lambda: {'model': net(p=.5)}, r'model.*0\.2.*0\.5'),
    'width': (lambda: {}, lambda: {'model': net(width=8)}, 'model.*16.*8'),
    'outputs': (lambda: {}, lambda: {'model': net(out=5)}, 'another number of outputs'),
    'function in a model': (lambda: {'model': Home(), **halves}, lambda: {'model': Home(F.gelu), **halves}, 'gelu'),
    'number in a model': (lambda: {'model': Home(), **halves}, lambda: {'model': Home(scale=2.), **halves}, 'scale'),
    'class weights': (lambda: {'loss_func': weighted(1., 1., 1.)}, lambda: {'loss_func': weighted(1., 2., 1.)}, 'loss'),
    'smoothing': (lambda: {'loss_func': nn.CrossEntropyLoss()},
                  lambda: {'loss_func': nn.CrossEntropyLoss(label_smoothing=.1)}, 'loss.*label_smoothing'),
    'loss of ours': (lambda: {'loss_func': CrossEntropyLossFlat()}, lambda: {'loss_func': FocalLossFlat()}, 'Focal'),
    'optimizer': (lambda: {}, lambda: {'opt_func': partial(SGD, mom=.9)}, 'optimizer.*Adam.*SGD'),
    "torch's optimizer": (lambda: {'opt_func': torch.optim.AdamW}, lambda: {'opt_func': torch.optim.Adam}, 'AdamW'),
    'eps': (lambda: {'opt_func': partial(Adam, eps=1e-5)}, lambda: {'opt_func': partial(Adam, eps=1e-3)}, 'eps'),
    'groups': (lambda: {}, lambda: {'splitter': lambda m: [list(m.parameters())]}, 'groups'),
    'decay of biases': (lambda: {}, lambda: {'wd_bn_bias': True}, 'wd_bn_bias'),
    'frozen norms': (lambda: {'train_bn': False}, lambda: {}, 'train_bn')}


@pytest.mark.tally
@pytest.mark.parametrize('kind', OTHERS)
def test_another_model_loss_or_optimizer_is_refused_and_the_same_is_not(tmp_path, kind):
    """Of like shape, of like state: it is told apart by its structure and settings."""
    then, now, named = OTHERS[kind]
    train(make(**then()), tmp_path, kill=(2, 'before_validate'))
    assert not train(make(**then()), tmp_path, kill=(1, 'before_validate'), resume=True)
    learn = make(**now())
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    with pytest.raises(ValueError, match=f'of another run: .*{named}'):
        train(learn, tmp_path, resume=True)
    assert same(before, dict(learn.model.state_dict()))


@pytest.mark.parametrize('kind', ['class weights', 'optimizer', 'activation'])
def test_anyway_goes_on_with_what_is_here_now(tmp_path, kind):
    """The loss of now with its own weights, an optimizer that starts anew, the weights in the model of now."""
    then, now, _ = OTHERS[kind]
    train(make(**then()), tmp_path, kill=(2, 'before_validate'))
    learn = make(**now())
    said = train(learn, tmp_path, resume='anyway')
    assert len(said) == 1 and len(learn.recorder.values) == 4
    if kind == 'class weights':
        assert learn.loss_func.weight.tolist() == [1, 2, 1]


# ---------------------------------------------------------------- other settings

def by_hand(samples):
    return tuple(map(torch.stack, zip(*samples)))


def loss_of_mine(pred, y):
    return F.cross_entropy(pred, y) * 2


class Mine(Callback):
    def __init__(self, often=1, much=1):
        self.often, self._much = often, much


SETTINGS = {
    "a user's callback": ({'cbs': lambda: [Mine()]}, {'cbs': lambda: [Mine(often=2)]}, "mine 'often' was 1 and is 2"),
    'what it hides': ({'cbs': lambda: [Mine()]}, {'cbs': lambda: [Mine(much=2)]}, "mine 'much' was 1 and is 2"),
    'lr': ({}, {'lr': 1.}, 'lr was 0.01 and is 1.0'),
    'lr of groups': ({}, {'lr': slice(1e-3, 1e-2)}, 'lr was 0.01 and is slice'),
    'wd': ({}, {'wd': .5}, 'wd was null and is 0.5'),
    'lr of one cycle': ({'fit': 'fit_one_cycle'}, {'fit': 'fit_one_cycle', 'lr': .5}, 'schedule of lr was'),
    'a schedule': ({'cbs': lambda: [ParamScheduler({'lr': SchedLin(.1, .2)})]},
                   {'cbs': lambda: [ParamScheduler({'lr': SchedLin(.1, .3)})]}, 'schedule of lr was 0.1'),
    'epochs': ({}, {'n_epoch': 6}, 'n_epoch was 4 and is 6'),
    'fewer epochs': ({}, {'n_epoch': 3}, 'n_epoch was 4 and is 3'),
    'first epoch': ({}, {'start_epoch': 1}, 'start_epoch was 0 and is 1'),
    'seed': ({}, {'seed': 8}, 'seed was 7 and is 8.*random streams of the checkpoint'),
    'batch size': ({}, {'bs': 16}, 'batch size of training was 8 and is 16'),
    'loss function': ({}, {'loss_func': loss_of_mine}, 'loss_of_mine'),
    'clipping': ({'cbs': lambda: [GradientClip(1.)]}, {'cbs': lambda: [GradientClip(.1)]}, 'max_norm'),
    'mixing': ({'cbs': lambda: [MixUp(.4)]}, {'cbs': lambda: [MixUp(.8)]}, 'alpha'),
    'clipping gone': ({'cbs': lambda: [GradientClip(1.)]}, {}, 'gradient_clip'),
    'metrics': ({}, {'metrics': []}, 'metrics')}


def attempt(spec, folder, **kwargs):
    spec = dict(spec)
    learn = make(**{k: spec.pop(k) for k in ('bs', 'loss_func', 'metrics', 'torch_loader') if k in spec})
    spec['cbs'] = spec['cbs']() if 'cbs' in spec else ()
    if spec.get('fit') == 'fit_one_cycle' and 'lr' in spec:
        spec['lr_max'] = spec.pop('lr')
    return learn, train(learn, folder, **spec, **kwargs)


@pytest.mark.tally
@pytest.mark.parametrize('kind', SETTINGS)
def test_a_changed_setting_is_one_warning_and_the_unchanged_ones_are_none(tmp_path, kind):
    """It says what was, what is, and which counts."""
    then, now, named = SETTINGS[kind]
    attempt(then, tmp_path, kill=(2, 'before_validate'))
    assert not attempt(then, tmp_path, kill=(1, 'before_validate'), resume=True)[1]
    said = attempt(now, tmp_path, resume=True)[1]
    assert len(said) == 1 and re.search(named, said[0]), said
    assert 'count' in said[0] or 'go on' in said[0]


@pytest.mark.parametrize('name', ['lr', 'wd'])
def test_a_number_that_a_fit_may_change_makes_no_other_optimizer(tmp_path, name):
    """Given with the optimizer, as `partial(Adam, lr=...)`: another one goes on, where another `eps` is refused."""
    train(make(opt_func=partial(Adam, **{name: .01})), tmp_path, kill=(2, 'before_validate'))
    learn = make(opt_func=partial(Adam, **{name: .02}))
    train(learn, tmp_path, resume=True)
    assert len(learn.recorder.values) == 4


@pytest.mark.parametrize('came', [True, False])
def test_a_callback_with_a_state_that_came_or_went_is_told_once(tmp_path, came):
    """With its state, though the hooks run twice; that it is another setting too is no second warning."""
    then, now = ([], [EMACallback(decay=.5)]) if came else ([EMACallback(decay=.5)], [])
    train(make(), tmp_path, cbs=then, kill=(9, 'before_batch'), every=1)
    found = train(make(), tmp_path, cbs=now, resume=True)
    where = 'is attached here and was not then' if came else 'was attached then and is not here'
    assert found == [f'resuming: the callback ema {where}; the training will not go on as it would have']



def test_what_each_callback_of_ours_is_told_is_compared():
    """Found in the namespace: those that act on a training keep each of their arguments under its name."""
    seen = set()
    for name, kind in vars(public).items():
        if not (inspect.isclass(kind) and issubclass(kind, Callback)) or kind.watches_only or not kind.identifies_run:
            continue
        told = [p for p in inspect.signature(kind).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        made = kind(**{p.name: 1 for p in told if p.default is p.empty})
        if name != 'SkipToEpoch':  # where a fit starts, which is asked of the fit
            assert {p.name for p in told} <= set(kept_arguments(made)), name
            seen |= {p.name for p in told}
    assert {'alpha', 'decay', 'max_norm', 'n_acc', 'patience', 'pct'} <= seen


def test_what_is_derived_from_a_callback_that_only_watches_may_do_more():
    """It is another run with it, or with another argument of it."""
    class Changing(ActivationStats):
        def __init__(self, much=1, **kwargs):
            super().__init__(**kwargs)
            self.much = much

    def callbacks(cb):
        learn = make(cbs=cb)
        learn.create_opt()
        return {k: v for k, v in identity.run_identity(learn, {'n_epoch': 1}).parts['settings'].items()
                if k.startswith('callback')}
    assert callbacks(ActivationStats()) == callbacks(TensorBoardCallback()) == callbacks(None)
    assert callbacks(Changing(2))['callback changing']['much'] == 2
    assert 'callback gradient_clip' in callbacks(GradientClip())


def test_a_class_of_ours_that_has_moved_is_the_same():
    """Checkpoints of earlier releases name the modules in which optimizers, callbacks and losses lived then."""
    learn = make(opt_func=partial(SGD, mom=.9), cbs=[EMACallback(), GradientClip()])
    learn.create_opt()
    now = identity.run_identity(learn, {'n_epoch': 1})
    text = json.dumps(now.parts)
    assert '"minifast.SGD"' in text and '"minifast.EMA"' in text  # the room is not written, and in no digest
    moved = json.loads(text.replace('minifast.SGD', 'minifast.optimizer.lists.SGD').replace(
        'minifast.EMA', 'minifast.callback.ema.EMA'))
    other = json.loads(text.replace('minifast.SGD', 'minifast.Adam'))
    assert json.dumps(moved) != text and [str(found) for found in room.differences(moved, now, None)] == []
    assert 'optimizer' in [found.part for found in room.differences(other, now, None)]


@pytest.mark.parametrize('kind, value', [('lr', 1.), ('wd', .5)])
def test_what_the_script_says_now_counts_from_here_on(tmp_path, kind, value):
    """The optimizer has it in every step behind the resume, at an epoch's edge and in the middle."""
    for i, every in enumerate(('epoch', 4)):
        train(make(), tmp_path / str(i), kill=(15, 'after_step'), every=every)
        learn = make()
        train(learn, tmp_path / str(i), resume=True, every=every, **{kind: value})
        assert learn.opt.hypers[-1][kind] == value and learn.opt.hypers[0][kind] == value
        assert kind != 'lr' or learn.recorder.lrs[-1] == value


def test_what_callbacks_changed_is_carried_where_the_script_did_not_change(tmp_path):
    """A learning rate that was lowered on a plateau stays lowered."""
    def plateau():
        return [ReduceLROnPlateau('valid_loss', min_delta=10., patience=1)]
    train(make(), tmp_path, kill=(3, 'before_validate'), cbs=plateau())
    learn = make()
    assert not train(learn, tmp_path, resume=True, cbs=plateau(), kill=(1, 'after_step'))
    assert learn.opt.hypers[-1]['lr'] < 0.01


@pytest.mark.tally
@pytest.mark.parametrize('torch_loader', [False, True], ids=['ours', "torch's"])
@pytest.mark.parametrize('bs', [3, 16, 48])
def test_another_batch_size_keeps_the_position_by_items(tmp_path, torch_loader, bs):
    """The items of the running epoch are seen once: 32 of 48 are done, the rest follows in the batches of now."""
    train(make(torch_loader=torch_loader), tmp_path, kill=(17, 'after_step'), every=1)  # 4 batches of the third
    learn = make(bs=bs, torch_loader=torch_loader)
    said = train(learn, tmp_path, resume=True)
    per_epoch, done = -(-48 // bs), 32 // bs
    assert len(said) == 1 and 'batch size' in said[0] and len(learn.recorder.values) == 4
    assert steps_of(learn) == 12 + 4 + (per_epoch - done) + per_epoch


# ---------------------------------------------------------------- several fits

SCRIPTS = {
    'three fits': lambda fit, learn: [fit(2), fit(2, 0.02), fit(2)],
    'fine_tune and a fit': lambda fit, learn: [fit(1, tune=True), fit(2)],
    'frozen between': lambda fit, learn: [learn.freeze(), fit(2), learn.unfreeze(), fit(2), learn.freeze(), fit(2)],
    'one cycles': lambda fit, learn: [fit(2, cycle=True), fit(2, cycle=True)]}


def script(kind, folder, resume=False, kill=None, n_fits=None):
    """A script that works between its fits, and what it found there; `kill` counts steps over all fits."""
    found, counts = [], [0]

    class Count(Callback):
        def after_step(self):
            counts[0] += 1
            if counts[0] == kill:
                raise ZeroDivisionError

    set_seed(7)
    learn = make()
    learn.path = folder

    def fit(n, lr=None, tune=False, cycle=False):
        kwargs = {'cbs': Count, 'checkpoint': folder / 'c', 'resume': resume}
        if tune:
            learn.fine_tune(n, freeze_epochs=1, **kwargs)
        else:
            (learn.fit_one_cycle if cycle else learn.fit)(n, lr, **kwargs)
        saved = learn.save('between')
        rate = learn.lr_find(num_it=8, show_plot=False).valley
        found.append({'file': read_tensors(saved), 'rate': rate, 'rows': [list(r) for r in learn.recorder.values],
                      'names': list(learn.recorder.metric_names), 'record': list(learn.final_record),
                      'losses': list(learn.recorder.losses), 'lrs': learn.recorder.lrs, 'random': torch.rand(1),
                      'hps': getattr(learn.recorder, 'hps', None), 'epoch': (learn.epoch, learn.n_epoch),
                      'modes': [m.training for m in learn.model.modules()], 'preds': learn.get_preds()[0],
                      'trained': [p.requires_grad for p in learn.model.parameters()]})
    try:
        SCRIPTS[kind](fit, learn)
    except ZeroDivisionError:
        pass
    return found, counts[0]


BETWEEN = [pytest.param(kind, at, marks=pytest.mark.tally if (kind, at) in (
    ('three fits', 27), ('fine_tune and a fit', 14)) else pytest.mark.faults)
           for kind in SCRIPTS for at in (3, 14, 27, 30)]


@pytest.mark.parametrize('kind, at', BETWEEN)
def test_between_the_fits_of_a_resumed_script_all_is_as_it_was(tmp_path, kind, at):
    """Weights, optimizer, recorder, search, predictions and generators behind each fit, killed anywhere, run twice."""
    whole, n_steps = script(kind, tmp_path / 'whole')
    script(kind, tmp_path / 'k', kill=at)
    script(kind, tmp_path / 'k', resume=True, kill=5)
    again, _ = script(kind, tmp_path / 'k', resume=True)
    rerun, none = script(kind, tmp_path / 'k', resume=True)
    assert len(again) == len(whole) and none == 0
    for found in (again, rerun):
        for a, b in zip(whole, found):
            assert not [k for k in a if not same(a[k], b[k])]


def test_a_lost_end_of_a_fit_is_told(tmp_path):
    """Without the checkpoint of the first fit's end the learner is untrained there, and a warning says so."""
    script('three fits', tmp_path, kill=20)
    for path in checkpoints_in(tmp_path / 'c'):
        if read_tensors(path)['position']['phase'] == 0:
            path.unlink()
    learn = make()
    with pytest.warns(UserWarning, match='fit number 1 .* is passed over.*end is not in'):
        train_again = learn.fit(2, checkpoint=tmp_path / 'c', resume=True)
    assert train_again is None and not steps_of(learn)


def test_a_finished_run_says_so_with_its_last_row(tmp_path, capsys):
    """And a new learner is left as the finished one was."""
    learn = make()
    train(learn, tmp_path)
    again = make()
    assert not train(again, tmp_path, resume=True)
    out = capsys.readouterr().out
    assert 'was finished: 4 of 4 epochs' in out and f'accuracy {learn.recorder.values[-1][-1]:.6g}' in out
    assert same(dict(learn.model.state_dict()), dict(again.model.state_dict()))


@pytest.mark.tally
@pytest.mark.parametrize('kill', [None, (26, 'after_step'), (17, 'after_step')])
def test_fewer_epochs_then_more_train_what_is_missing(tmp_path, kill):
    """5, then 2 (nothing to do, and nothing is written), then 6: six rows, each once."""
    train(make(), tmp_path, kill=kill, n_epoch=5, every=3)
    before = checkpoints_in(tmp_path)
    train(make(), tmp_path, resume=True, n_epoch=2)
    assert checkpoints_in(tmp_path) == before
    learn = make()
    train(learn, tmp_path, resume=True, n_epoch=6)
    found = outcome(learn)
    assert not differences(undisturbed(6), found) and len(found['values']) == 6


def test_a_fit_that_stopped_early_is_done_and_says_how_many_epochs_it_had(tmp_path):
    """Its last checkpoint does not claim the epochs that were not trained."""
    def stop():
        return [EarlyStoppingCallback('valid_loss', min_delta=10., patience=1)]
    learn = make()
    train(learn, tmp_path, cbs=stop(), n_epoch=9)
    at = newest_checkpoint(tmp_path)[1]['position']
    assert at['done'] and at['epoch'] == len(learn.recorder.values) < 9
    again = make()
    train(again, tmp_path, cbs=stop(), n_epoch=9, resume=True)
    assert steps_of(again) == steps_of(learn)


def test_more_epochs_than_a_callback_let_through_are_trained_without_a_word(tmp_path):
    """As many are none more: that another number was asked for then is told."""
    class Shorter(Callback):
        def before_fit(self):
            self.learn.n_epoch = 2
    train(make(), tmp_path, cbs=[Shorter()])
    done = checkpoints_in(tmp_path)
    said, = train(make(), tmp_path, resume=True, n_epoch=2)
    assert 'n_epoch was 4 and is 2; that fit is done' in said and checkpoints_in(tmp_path) == done
    learn = make()
    assert not train(learn, tmp_path, resume=True, n_epoch=3)
    assert not differences(undisturbed(3), outcome(learn))


# ---------------------------------------------------------------- folders

def test_folds_in_one_folder_train_each_on_their_own(tmp_path):
    """And a script of folds that was killed goes on in the fold that it was killed in."""
    def folds(kill=None):
        learns, counts = [], [0]

        class Count(Callback):
            def after_step(self):
                counts[0] += 1
                if counts[0] == kill:
                    raise ZeroDivisionError
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            for k in range(3):
                valid = list(range(k, 48, 3))
                learn = make(Subset(Rows(), [i for i in range(48) if i not in valid]), Subset(Rows(), valid))
                set_seed(k)
                learns.append(learn)
                learn.fit(2, cbs=Count, checkpoint=tmp_path, resume=True)
        return learns, counts[0]
    with pytest.raises(ZeroDivisionError):
        folds(kill=12)
    learns, n = folds()
    rest, none = folds()
    assert n == 3 * 8 - 8  # the first fold is done, the second was in its first epoch
    assert none == 0 and len({learn.model[0].weight[0, 0].item() for learn in learns}) == 3
    for a, b in zip(learns, rest):
        assert same(dict(a.model.state_dict()), dict(b.model.state_dict()))


def test_a_new_run_moves_the_files_of_the_old_one_aside_and_says_so(tmp_path):
    """Twice; the old runs can be resumed where they are, numbers are used once."""
    train(make(), tmp_path / 'c')
    files = {p.name: p.read_bytes() for p in checkpoints_in(tmp_path / 'c')}
    said = train(make(), tmp_path / 'c', kill=(2, 'before_validate'))
    assert len(said) == 1 and 'earlier-001' in said[0]
    train(make(), tmp_path / 'c')
    aside = tmp_path / 'c' / 'earlier-001'
    assert {p.name: p.read_bytes() for p in checkpoints_in(aside)} == files
    assert (tmp_path / 'c' / 'earlier-002').is_dir()
    every = [p.name for p in (tmp_path / 'c').rglob('checkpoint-*.pth')]
    assert len(every) == len(set(every))
    assert not train(make(), aside, resume=True)


def test_an_interrupted_fit_of_the_same_learner_loses_no_file(tmp_path):
    """Run again without resume in a notebook: the checkpoints of the first attempt stay."""
    learn = make()
    train(learn, tmp_path, kill=(15, 'after_step'))
    before = {p.name for p in checkpoints_in(tmp_path)}
    assert not train(learn, tmp_path)
    assert before <= {p.name for p in checkpoints_in(tmp_path)}


def test_fits_of_one_learner_are_one_run_and_nothing_is_moved(tmp_path):
    """Their ends are kept beside the newest."""
    learn = make()
    for _ in range(3):
        assert not train(learn, tmp_path, keep=1, n_epoch=2)
    assert [read_tensors(p)['position']['phase'] for p in checkpoints_in(tmp_path)] == [2, 1, 0]
    assert not list(tmp_path.glob('earlier-*'))


def test_two_callbacks_write_into_two_folders_and_both_can_be_resumed(tmp_path):
    """The first decides where a fit goes on; neither moves or deletes what the other has."""
    def both():
        return [CheckpointCallback(tmp_path / 'b', every=4)]
    train(make(), tmp_path / 'a', kill=(15, 'after_step'), cbs=both())
    learn = make()
    assert not train(learn, tmp_path / 'a', resume=True, cbs=both()) and len(learn.recorder.values) == 4
    assert not list(tmp_path.rglob('earlier-*')) and len(checkpoints_in(tmp_path / 'b')) == 3
    again = make()
    assert not train(again, tmp_path / 'b', resume=True)
    assert same(dict(learn.model.state_dict()), dict(again.model.state_dict()))


def test_a_callback_of_the_learner_writes_in_fits_alone(tmp_path):
    """Searches, validations and predictions between them leave the folder as it is, and unlocked."""
    learn = make(cbs=CheckpointCallback(tmp_path))
    learn.fit(1)
    before = checkpoints_in(tmp_path)
    learn.lr_find(num_it=6, show_plot=False)
    learn.validate()
    learn.get_preds()
    assert checkpoints_in(tmp_path) == before
    folder = RunFolder(tmp_path)
    folder.take()
    folder.release()
    learn.fit(1)
    assert len(checkpoints_in(tmp_path)) > 2


def test_two_trainings_in_one_folder_are_refused(tmp_path):
    """In one process and from another one, a fork's child, which does not give it away; afterwards it is free."""
    seen = []

    class Second(Callback):
        def before_validate(self):
            with pytest.raises(FolderInUseError, match='another training of this process'):
                make().fit(1, checkpoint=tmp_path)
            child = os.fork()
            if child == 0:
                self.learn.checkpoint._folder.release()  # not the child's to give away
                try:
                    RunFolder(tmp_path).take()
                except FolderInUseError as error:
                    os._exit(7 if f'in use by process {os.getppid()}' in str(error) and 'since' in str(error) else 9)
                os._exit(8)
            seen.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    make().fit(1, cbs=Second, checkpoint=tmp_path)
    assert seen == [7]
    folder = RunFolder(tmp_path)
    folder.take()
    folder.release()


@pytest.mark.parametrize('note, told', [
    *[(note, 'process ? (?) on ?') for note in ('', 'no json', '[]', '{}')],
    ('{"process": 7}', 'process 7 (?) on ?'), ('{"script": "a.py", "host": "far"}', 'process ? (a.py) on far')])
def test_of_a_folder_in_use_as_much_is_told_as_its_note_says(note, told, tmp_path):
    """Question marks for the rest, whoever wrote it."""
    held = RunFolder(tmp_path)
    held.take()
    child = os.fork()
    if child == 0:
        (tmp_path / LOCK).write_text(note)  # here, as closing the file gives up the lock of its own process
        try:
            RunFolder(tmp_path).take()
        except FolderInUseError as error:
            (tmp_path / 'said').write_text(str(error))
        os._exit(0)
    os.waitpid(child, 0)
    held.release()
    assert f'is in use by {told} since ?: wait for it' in (tmp_path / 'said').read_text()


def test_a_lock_dies_with_its_process(tmp_path):
    """Killed: the note stays, the lock does not, whoever has the process number now."""
    code = (f'import os, signal; from minifast.run.folder import RunFolder; RunFolder({str(tmp_path)!r}).take(); '
            'os.kill(os.getpid(), signal.SIGKILL)')
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT).returncode == -signal.SIGKILL
    note = json.loads((tmp_path / LOCK).read_text())
    (tmp_path / LOCK).write_text(json.dumps({**note, 'process': os.getppid()}))
    assert not train(make(), tmp_path)


def test_who_holds_a_folder_is_told_with_script_machine_and_time(tmp_path, monkeypatch):
    """So that the one who is refused finds the other training, or sees that it is his own."""
    monkeypatch.setattr(sys, 'argv', ['/somewhere/train_pets.py', '--fast'])
    held = RunFolder(tmp_path / 'c')
    held.take()
    child = os.fork()
    if child == 0:
        try:
            RunFolder(tmp_path / 'c').take()
        except FolderInUseError as error:
            (tmp_path / 'said').write_text(str(error))
        os._exit(0)
    os.waitpid(child, 0)
    held.release()
    said = (tmp_path / 'said').read_text()
    who = rf'process {os.getpid()} \(train_pets\.py\) on {re.escape(socket.gethostname())} since '
    assert re.search(rf'c is in use by {who}\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d: wait for it', said), said


@pytest.mark.parametrize('end', ['error', 'int', 'unwritable'])
def test_the_folder_is_free_however_a_fit_ended(tmp_path, end):
    """After an error, after Ctrl-C, after a start that failed."""
    if end == 'unwritable':
        (tmp_path / 'c').mkdir()
        (tmp_path / 'c' / 'checkpoint-000001.pth').mkdir()
        learn = make(metrics=[])
        learn.add_cb(Callback(before_fit=lambda self: 1 / 0))
        with pytest.raises(ZeroDivisionError):
            learn.fit(1, checkpoint=tmp_path / 'c')
    else:
        with pytest.raises((ZeroDivisionError, KeyboardInterrupt)):
            make().fit(1, cbs=[CheckpointCallback(tmp_path / 'c'), Kill(2, 'after_step', end)])
    RunFolder(tmp_path / 'c').take()


def test_temporary_files_of_others_stay_and_those_of_killed_trainings_go(tmp_path):
    """Whatever process number they carry."""
    pid = os.getpid()
    stay = [tmp_path / f'.model.pth.{pid}-0123abcd-0.tmp', tmp_path / '.other.tmp', tmp_path / '.notes.json.1-a.tmp']
    go = [tmp_path / f'.checkpoint-00000{i}.pth.{who}-0123abcd-0.tmp' for i, who in ((7, pid), (8, 1))]
    for path in stay + go:
        path.touch()
    train(make(), tmp_path)
    assert all(p.exists() for p in stay) and not any(p.exists() for p in go)


@pytest.mark.tally
@pytest.mark.parametrize('resume', [False, True])
@pytest.mark.parametrize('path', ['file', 'file/below', '/proc/nope', 'n' * 300])
def test_a_folder_that_cannot_be_written_to_is_an_error_before_training(tmp_path, path, resume):
    """Its own error, with the folder and the way out, whatever the other callbacks clean up."""
    (tmp_path / 'file').write_text('')
    learn = make()
    with pytest.raises(OSError, match='(?s)no checkpoint can be written to.*Way out'):
        learn.fit(1, cbs=[CSVLogger(tmp_path / 'log.csv')], checkpoint=tmp_path / path, resume=resume)
    assert not learn.recorder.lrs


@pytest.mark.tally
@pytest.mark.parametrize('cb', [CSVLogger, ProgressCallback, ShowGraphCallback, EMACallback, MixUp, CutMix, BnFreeze,
                                ActivationStats, GradientAccumulation, MixedPrecision, AutoPrecision,
                                SaveModelCallback, ReduceLROnPlateau, EarlyStoppingCallback,
                                TerminateOnNaNCallback, TensorBoardCallback,
                                lambda: ParamScheduler({'lr': SchedLin(.1, .2)})])
def test_cleaning_up_a_fit_that_never_began_covers_no_error(tmp_path, cb):
    """Every callback of ours puts back what it has changed, and that may be nothing."""
    learn = make(cbs=cb())
    (tmp_path / 'file').write_text('')
    with pytest.raises(OSError, match='no checkpoint can be written'):
        learn.fit(1, checkpoint=tmp_path / 'file')


def test_other_times_of_files_that_were_not_read_are_one_warning(tmp_path, monkeypatch):
    """Many or large files are compared by size; a copy with other times is told once, and is no error."""
    monkeypatch.setattr('minifast.run.identity.CONTENT_FILES', 0)
    d = pictures(tmp_path / 'd')
    train(on_pictures(d), tmp_path / 'c', kill=(2, 'before_validate'))
    assert not train(on_pictures(d), tmp_path / 'c', kill=(1, 'before_validate'), resume=True)
    for file in d.rglob('*.png'):
        os.utime(file, (1, 1))
    said = train(on_pictures(d), tmp_path / 'c', resume=True)
    assert len(said) == 1 and 'another time of change' in said[0]


def test_another_augmentation_is_one_warning(tmp_path):
    """One for both loaders; item transforms of the loader and batch transforms alike."""
    d = pictures(tmp_path / 'd')
    for i, change in enumerate(({'item_tfms': Resize(8, 'squish')}, {'batch_tfms': Brightness(0.3, p=1.)})):
        train(on_pictures(d), tmp_path / str(i), kill=(2, 'before_validate'))
        said = train(on_pictures(d, **change), tmp_path / str(i), resume=True)
        assert len(said) == 1 and 'transform after_' in said[0], said


def test_transforms_of_torchvision_are_known_by_what_they_show(tmp_path):
    """Of both kinds: with another setting it is another transform."""
    d = pictures(tmp_path / 'd')
    for kind in (v1, v2):
        one, again, other = (identity_of(on_pictures(d, item_tfms=[Resize(8), kind.ColorJitter(much)]))
                             .parts['transforms']['after_item'] for much in (.1, .1, .2))
        assert one == again != other
        assert [repr(kind.ColorJitter(.1)) in one[split] for split in ('training', 'validation')] == [True, True]


def test_a_checkpoint_of_an_earlier_release_goes_on_with_one_warning(tmp_path):
    """It holds no identity: that nothing can be compared is said once, and the training goes on."""
    shutil.copy(ROOT / 'tests' / 'data' / 'checkpoint_of_an_earlier_release.pth', tmp_path / 'checkpoint-000003.pth')
    from tests.resume.training import DEFAULTS, make_learner, run
    learn = make_learner(DEFAULTS)
    with pytest.warns(UserWarning, match='earlier release.*nothing can be compared') as found:
        learn.fit(3, checkpoint=tmp_path, resume=True)
    assert len(found) == 1
    whole = run({})
    for a, b in zip(whole.model.parameters(), learn.model.parameters()):
        # another machine wrote the first half: its sums, rounded otherwise, lie 6e-5 apart, an epoch less .13
        torch.testing.assert_close(a, b, rtol=0, atol=1e-3)


def test_an_identity_that_cannot_be_read_is_an_error_that_names_the_file(tmp_path):
    """Made up or written by a later release."""
    train(make(), tmp_path, kill=(2, 'before_validate'))
    path, state = newest_checkpoint(tmp_path)
    write_atomic(path, {**state, 'run': {**state['run'], 'identity': '[]'}})
    with pytest.raises(ValueError, match=path.name):
        train(make(), tmp_path, resume=True)


def test_names_of_files_reach_the_terminal_as_letters(tmp_path):
    """Escape sequences, line ends, and bytes that are no UTF-8."""
    names = ['\x1b[31mred', 'two\nlines', os.fsdecode(b'caf\xe9')]
    then, now = (list(zip(order * 16, X, Y)) for order in (names, names[::-1]))
    train(make(then, then, model=First(), **whole), tmp_path, kill=(2, 'before_validate'))
    with pytest.raises(ValueError, match='of another run') as refused:
        train(make(now, then, model=First(), **whole), tmp_path, resume=True)
    assert str(refused.value).isprintable() and '[31mred' in str(refused.value)


def test_a_function_says_the_same_in_every_process():
    """A set in its code has another order there, which is no change."""
    from minifast.run.identity import fingerprint
    one, turned, other = (fingerprint(eval(f'lambda x: x in {{{numbers}}}')) for numbers in ('0, 8', '8, 0', '0, 1'))
    assert one == turned != other


class Scaled:
    def __init__(self, much):
        self.much = much

    def apply(self, x):
        return x * self.much


def test_a_method_is_what_it_does_and_what_it_is_bound_to():
    """As `get_y=labeller.of`: with another setting of its object it is another function."""
    one, again, other = (identity.fingerprint(Scaled(much).apply) for much in (2, 2, 3))
    assert one == again and other == {**one, 'of': {'class': f'{__name__}.Scaled', 'much': 3}}
    code, = one.keys() - {'function', 'of'}
    assert one['function'] == f'{__name__}.Scaled.apply' and code == 'code {}.{}'.format(*sys.version_info)


def test_of_many_files_none_is_read_and_each_is_asked_once(monkeypatch):
    """An identity costs one look at each file, once a fit."""
    from minifast.run import identity as run_items
    asked = []
    monkeypatch.setattr(run_items, '_checksum', lambda path: 1 / 0)
    monkeypatch.setattr(run_items, '_stat', lambda path: asked.append(path))
    files = run_items.Files()
    names = [Path(f'/nowhere/{i % 10}/{i}.jpg') for i in range(run_items.CONTENT_FILES + 1)]
    column = files.add('item', names)
    files.look()
    assert len(asked) == len(names) and column.texts[:2] == ['0/0.jpg', '1/1.jpg'] and set(column.contents) == {None}


@pytest.mark.parametrize('names, told', [
    (('a.png', 'b.png'), ['a.png', 'b.png']), (('train/a.png', 'valid/b.png'), ['train/a.png', 'valid/b.png']),
    (('d/a.png', 'd/b.png'), ['a.png', 'b.png']), (('d/aa.png', 'd/ab/c.png'), ['aa.png', 'ab/c.png'])])
@pytest.mark.parametrize('absolute', [False, True])
def test_files_are_named_from_the_folder_that_they_share(names, told, absolute, tmp_path, monkeypatch):
    """Relative ones that share none by their whole name."""
    monkeypatch.chdir(tmp_path)
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    files = identity.Files()
    column = files.add('x', [tmp_path / name if absolute else Path(name) for name in names])
    files.look()
    assert column.texts == told and column.sizes == [len(name) for name in names]


@pytest.mark.parametrize('gone', [0, 1, 2])
def test_a_path_that_is_gone_hides_no_other_one(gone, tmp_path, monkeypatch):
    """Names are those of a folder here, of the first base that has them, or of none; what is there has its size."""
    monkeypatch.chdir(tmp_path)
    names = ['a.png', 'b.png', 'c.png']
    (tmp_path / 'd').mkdir()
    for n, name in enumerate(names):
        if n != gone:
            (tmp_path / 'd' / name).write_bytes(bytes(n + 1))
    for folder, bases in ((Path('d'), ('',)), (tmp_path / 'd', ('',)), (Path('d'), ('/nowhere', ''))):
        paths = [folder / name for name in names]
        files = identity.Files()
        column = files.add('item', paths, bases)
        files.look()
        assert column.texts == names and column.sizes == [None if n == gone else n + 1 for n in range(3)]


def test_nothing_is_looked_at_in_a_step(tmp_path, monkeypatch):
    """The identity is taken once a fit, whatever the number of checkpoints."""
    from minifast.callback import resume
    taken = []
    take = resume.run_identity
    monkeypatch.setattr(resume, 'run_identity', lambda *args: taken.append(1) or take(*args))
    train(make(), tmp_path, every=1)
    assert taken == [1]


def test_the_list_of_a_run_is_appended_to_and_knows_its_checkpoints_wherever_a_kill_cut_it(tmp_path, monkeypatch):
    """Written whole now and then, when it is gone, and behind a line that was cut; never more than was written."""
    monkeypatch.setattr('minifast.run.folder._LINES', 3)
    folder = RunFolder(tmp_path)
    listed = tmp_path / f'run-{folder.run}.jsonl'

    def own(n, fit):
        folder.own(f'checkpoint-{n:06d}.pth', fit)
        (tmp_path / f'checkpoint-{n:06d}.pth').write_bytes(b'')
    whole = []
    monkeypatch.setattr(folder, 'write', lambda *a: (whole.append(a[0]), RunFolder.write(folder, *a)))
    for n in range(1, 7):
        own(n, n // 4)
    files = {f'checkpoint-{n:06d}.pth': n // 4 for n in range(1, 7)}
    assert RunFolder(tmp_path).files_of(folder.run) == files and len(whole) == 2
    folder.retire(2, 1)
    kept = {name: fit for name, fit in files.items() if name[-5] in '356'}
    assert RunFolder(tmp_path).files_of(folder.run) == folder.files == kept
    with listed.open('a') as f:
        f.write('["checkpoint-0000')  # killed here
    other = RunFolder(tmp_path)
    other.adopt(folder.run)
    assert other.files == kept
    (tmp_path / 'checkpoint-000007.pth').write_bytes(b'')  # of somebody else
    other.own('checkpoint-000008.pth', 1)
    (tmp_path / 'checkpoint-000008.pth').write_bytes(b'')
    assert RunFolder(tmp_path).files_of(folder.run) == {**kept, 'checkpoint-000008.pth': 1}
    listed.unlink()
    own(9, 1)
    assert RunFolder(tmp_path).files_of(folder.run) == {**kept, 'checkpoint-000009.pth': 1}


# ---------------------------------------------------------------- what is written down about a run

def identity_of(learn, **asked):
    learn.create_opt()
    set_seed(7)
    return identity.run_identity(learn, {'n_epoch': 2, **asked})


def test_an_identity_says_each_thing_under_its_name():
    """A checkpoint holds it for years: names and values are as written here, nothing is left out."""
    learn = make(cbs=[MixUp(.4)], opt_func=partial(SGD, mom=.9), wd_bn_bias=True, train_bn=False)
    parts = identity_of(learn, lr=.1, wd=None, start_epoch=0).parts
    assert parts['settings'] == {
        'batch size of training': 8, 'batch size of validation': 8, 'shuffle of training': True,
        'shuffle of validation': False, 'drop_last of training': False, 'drop_last of validation': False,
        'metrics': ['accuracy'], 'number of processes': 1, 'precision': 'float32', 'seed': 7,
        'callback mix_up': {'class': 'minifast.MixUp', 'alpha': .4}}
    assert parts['schedule'] == {'n_epoch': 2, 'lr': .1, 'wd': None, 'start_epoch': 0}
    assert parts['loss'] == {'function': 'torch.nn.functional.cross_entropy'}
    assert parts['optimizer'] == {
        'class': 'minifast.SGD', 'made by': {'class': 'minifast.SGD'},
        'arguments': {'mom': .9}, 'groups': [4, 2], 'wd_bn_bias': True, 'train_bn': False}
    assert parts['model']['modules'][''] == 'torch.nn.modules.container.Sequential()'
    assert parts['model']['modules']['3'] == 'torch.nn.modules.dropout.Dropout(p=0.2, inplace=False)'
    assert parts['model']['weights']['0.weight'] == 'float32 [16, 6]'
    assert parts['model']['weights']['1.num_batches_tracked'] == 'int64 []'
    assert parts['data'].keys() == {'training', 'validation', 'vocab', 'items'} and parts['data']['items'] == {}
    of_training = parts['data']['training']
    assert of_training.keys() == {'class', 'n', 'data set', 'order', 'draw'} and of_training['n'] == 48
    assert of_training['class'] == f'{__name__}.Rows' and of_training['draw'] == [None, None]
    assert of_training['data set'].keys() == {'x', 'y', 'n_read', 'kept'} and of_training['order'] == []
    assert parts['environment'].keys() == {'torch', 'minifast', 'git revision', 'python', 'device'}
    assert parts['environment']['device'] == 'cpu' and parts['environment']['torch'] == torch.__version__
    assert parts['environment']['python'] == '{}.{}'.format(*sys.version_info)


def test_an_identity_tells_of_torchs_loaders_what_decides_about_their_batches():
    """Batch size, whether the last one is dropped, the number of workers; the sampler, without its generator."""
    learn = make(torch_loader=True)

    class Weighted(torch.utils.data.WeightedRandomSampler):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.rng, self.other, self.third = torch.Generator(), np.random.default_rng(0), random.Random(0)
    sampler = Weighted(torch.arange(48.), 20, generator=torch.Generator())
    learn.dls.loaders[0] = TorchLoader(Rows(), batch_size=12, sampler=sampler, drop_last=True)
    parts = identity_of(learn).parts
    assert {k: v for k, v in parts['settings'].items() if k.endswith(('training', 'validation'))} == {
        'batch size of training': 12, 'batch size of validation': 8, 'drop_last of training': True,
        'drop_last of validation': False, 'workers of training': 0, 'workers of validation': 0}
    first, batches = parts['data']['training']['order']
    assert first.pop('weights').startswith('float64 [48]')
    assert first.pop('class').endswith('.Weighted') and first == {'num_samples': 20, 'replacement': True}
    assert batches == {'class': 'torch.utils.data.sampler.BatchSampler'} and parts['data']['training']['draw'] == []


def test_several_processes_are_told_by_the_batch_of_all(monkeypatch):
    """The batch size of a run is that of all of them, and another number of them is a setting; files of earlier
    releases say nothing, and were written by one."""
    alone = identity_of(make())
    earlier = {**alone.parts, 'settings': {k: v for k, v in alone.parts['settings'].items() if 'processes' not in k}}
    assert room.differences(earlier, alone, None) == []
    learn = make()
    for dl in learn.dls:
        dl.share_out(1, 2)
    monkeypatch.setenv('WORLD_SIZE', '2')
    together = identity_of(learn)
    assert [str(found) for found in room.differences(earlier, together, None)] == [
        'number of processes was 1 and is 2', 'batch size of training was 8 and is 16',
        'batch size of validation was 8 and is 16']


@pytest.mark.parametrize('listed', [lambda files: files, lambda files: L(*files), tuple,
                                    lambda files: [(str(f), i) for i, f in enumerate(files)]],
                         ids=['paths', 'L', 'tuple', 'pairs of a text and a label'])
def test_a_list_of_files_is_told_by_its_files_and_not_by_where_they_lie(tmp_path, listed):
    """Of a data set of the user's; what else it keeps is told as it is, under its name."""
    told = []
    for place in ('a', 'b'):
        (tmp_path / place).mkdir()
        rows = Rows()
        rows.files, rows.names = listed([*text_files(tmp_path / place).iterdir()]), ['x', 'y']
        told.append(identity_of(make(rows)).parts['data']['training']['data set'])
    assert told[0] == told[1] and told[0].keys() == {'x', 'y', 'n_read', 'kept', 'names'}


def test_what_came_and_what_went_is_told_but_for_callbacks_that_nobody_knows():
    """A callback of ours and any other setting, in either direction; not a user's, nor one whose state says it."""
    plain, ours, own = (identity_of(make(cbs=cbs)) for cbs in ([], [MixUp(.4)], [Mine()]))

    def told(then, now, *keepers):
        return [str(found) for found in room.differences(then, now, None, keepers)]
    for then, now, words in ((ours, plain, 'was {"class": "minifast.MixUp", "alpha": 0.4} and is not there'),
                             (plain, ours, 'was not there and is {"class": "minifast.MixUp", "alpha": 0.4}')):
        assert told(then.parts, now) == [f'callback mix_up {words}'] and not told(then.parts, now, 'mix_up')
    assert not told(own.parts, plain) and not told(plain.parts, own) and not told(plain.parts, plain)
    without = {**plain.parts, 'settings': {k: v for k, v in plain.parts['settings'].items() if k != 'precision'}}
    assert told(without, plain) == ['precision was not there and is float32']


def test_of_a_part_the_first_difference_is_told_and_how_many_more_there_are():
    """Word by word; how many only where there are."""
    now = identity_of(make(opt_func=SGD))
    for change, words in (({'class': 'minifast.Adam'}, "'class' was minifast.Adam and is minifast.SGD"),
                          ({'groups': [4, 1]}, "'groups' [1] was 1 and is 2"),
                          ({'class': 'x' * 121}, f"'class' was {'x' * 110}... and is minifast.SGD"),
                          ({'class': 'minifast.Adam', 'groups': [3, 1]},
                           "'class' was minifast.Adam and is minifast.SGD (and 2 more differences)")):
        then = {**now.parts, 'optimizer': {**now.parts['optimizer'], **change}}
        assert [str(found) for found in room.differences(then, now, None)] == [f'the optimizer {words}']
    weights = {**now.parts['model']['weights'], '0.weight': 'float32 [1, 6]'}
    then = {**now.parts, 'model': {**now.parts['model'], 'weights': weights}}
    assert [str(found) for found in room.differences(then, now, None)] == [
        "the model 'weights' '0.weight' was float32 [1, 6] and is float32 [16, 6]: it is another model, or one with "
        'another number of outputs']


def test_code_is_compared_where_the_same_python_compiled_it():
    """Else nothing can be told, and nothing is."""
    now = identity_of(make(loss_func=loss_of_mine))
    (name, digest), = ((k, v) for k, v in now.parts['loss'].items() if k != 'function')
    assert name == 'code {}.{}'.format(*sys.version_info)
    for then, words in (({name: digest}, []), ({'code 2.7': 'x'}, []), ({'code 2.7': 'x', name: digest}, []), ({}, []),
                        ({name: 'x'}, ['the loss: its code is not what it was'])):
        parts = {**now.parts, 'loss': {'function': now.parts['loss']['function'], **then}}
        assert [str(found) for found in room.differences(parts, now, None)] == words


def test_an_identity_tells_how_torchs_loaders_put_samples_together():
    """Their function for it is a transform, as it may change what is trained on."""
    def told(collate_fn):
        learn = make(torch_loader=True)
        learn.dls.loaders[0] = TorchLoader(Rows(), batch_size=8, collate_fn=collate_fn)
        return identity_of(learn).parts['transforms']['collate_fn']
    default, mine = told(None), told(by_hand)
    assert default.keys() == mine.keys() == {'training', 'validation'}
    assert f'{__name__}.by_hand' in str(mine['training']) and mine['training'] != default['training']
    assert mine['validation'] == default['validation'] == default['training']
    assert 'torch.utils.data._utils.collate.default_collate' in str(default['training'])


@pytest.mark.parametrize('vocab, told', [
    *[(names, ['a', 'b']) for names in (['a', 'b'], L('a', 'b'), ('a', 'b'), CategoryMap(['b', 'a']))],
    ('ab', 'ab'), (7, 7), (None, None)], ids=['list', 'L', 'tuple', 'map', 'text', 'number', 'none'])
def test_a_vocabulary_is_the_list_of_its_names(vocab, told):
    """Whatever holds it; what is no collection is itself."""
    learn = make()
    if vocab is not None:
        learn.dls.vocab = vocab
    assert identity_of(learn).parts['data']['vocab'] == told


def test_files_that_a_data_set_names_are_items_and_no_setting(tmp_path):
    """Below its own folder too: other files are told one by one and elsewhere they are the same."""
    def told(folder):
        files = Files(str(folder))
        assert not os.path.exists(files.names[0])
        return identity_of(make(files, files)).parts['data']
    one = told(text_files(tmp_path))
    assert 'names' not in one['training']['data set'] and 'training names' in one['items']


def test_columns_may_lie_elsewhere_each_on_its_own(tmp_path):
    """Pictures and masks: each column is named from the folder that its files share, in all splits."""
    def told(pictures, masks):
        files, columns = identity.Files(), []
        for name, folder, split in (('item', pictures, 'train'), ('label', masks, 'train'), ('item', pictures, 'valid'),
                                    ('label', masks, 'valid')):
            (folder / split).mkdir(parents=True, exist_ok=True)
            paths = [folder / split / f'{i}.png' for i in range(2)]
            for path in paths:
                path.write_bytes(b'x')
            columns.append(files.add(name, paths))
        files.look()
        return [column.texts for column in columns]
    names = [[f'{split}/{i}.png' for i in range(2)] for split in ('train', 'train', 'valid', 'valid')]
    assert told(tmp_path / 'p', tmp_path / 'm') == told(tmp_path / 'far' / 'p', tmp_path / 'a' / 'b' / 'm') == names


def test_a_schedule_that_is_another_is_told_by_its_ends_and_its_top(tmp_path):
    """Of the last group: the largest rate, as users say it."""
    attempt({'fit': 'fit_one_cycle', 'lr': slice(1e-3, 1e-2)}, tmp_path, kill=(2, 'before_validate'))
    said, = attempt({'fit': 'fit_one_cycle', 'lr': slice(1e-3, .5)}, tmp_path, resume=True)[1]
    assert 'schedule of lr was 0.0004 ... 0.01 ... 1e-07 and is 0.02 ... 0.5 ... 5e-06; the new one counts' in said


def test_a_schedule_of_the_users_is_known_without_being_called():
    """It may count or draw: as any function; one of ours by nine of its values."""
    called = []

    def mine(pos):
        called.append(pos)
        return .1

    def other(pos):
        return .1
    told = [identity_of(make(cbs=[ParamScheduler({'lr': f, 'mom': SchedLin(.1, .2)})])).parts['schedule']
            for f in (mine, mine, other)]
    assert not called and told[0] == told[1] and told[0]['schedule of lr'] != told[2]['schedule of lr']
    assert 'mine' in str(told[0]['schedule of lr'])
    assert told[0]['schedule of mom'] == pytest.approx([.1 + i / 80 for i in range(9)], rel=1e-5)


@pytest.mark.parametrize('fs, told', [
    ([lambda i: str(i)], ['1', '2', '3']), ([lambda i: i + 5., lambda i: torch.tensor(i)], [6., 7., 8.]),
    ([lambda i: torch.tensor(i)], None), ([lambda i: L('a', i), lambda x: x], [L('a', 1), L('a', 2), L('a', 3)]),
    ([lambda i: {1: 'x'}[i]], None)], ids='text, number and tensor, tensor, several, error in some'.split(', '))
def test_labels_are_known_as_far_as_functions_name_something(fs, told):
    """Texts and numbers are told; from the first tensor on, or where a function fails, nothing is made up."""
    columns = identity.columns_of(Datasets([1, 2, 3], [[lambda i: torch.tensor(i)], fs]))
    assert columns == {'item': [1, 2, 3], **({} if told is None else {'label': told})}


@pytest.mark.parametrize('rows, columns', [
    ([(1, 'a'), (2, 'b')], {'item': [1, 2], 'label': ['a', 'b']}),
    ([(1, 2, 'a'), [3, 4, 'b']], {'item': [[1, 2], [3, 4]], 'label': ['a', 'b']}),
    ([(1,), (2,)], {'item': [(1,), (2,)]}), (['ab', 'cd'], {'item': ['ab', 'cd']}), ([], {'item': []})])
def test_pairs_are_items_and_labels(rows, columns):
    """The last of several is the label; the rest is the item."""
    assert identity.columns_of(rows) == columns


def test_lists_that_name_files_are_known_by_their_first_row(tmp_path):
    """Names alone or in front of labels, from anywhere or from a folder of the data set; nothing else is a name."""
    (tmp_path / 'a.txt').write_text('a')
    known, unknown = SimpleNamespace(root=str(tmp_path)), SimpleNamespace(root=3)
    for rows in (['a.txt'], L('a.txt'), [('a.txt', 1)], (('a.txt', 1),)):
        assert identity._names_files(rows, known) and not identity._names_files(rows, unknown)
    assert identity._names_files([(tmp_path / 'a.txt', 1)], unknown) and identity._names_files([tmp_path], unknown)
    for rows in ([], [()], [(1, 'a.txt')], ['b.txt'], 'a.txt', {'a.txt': 1}, [['a.txt']]):
        assert not identity._names_files(rows, known)


@pytest.mark.parametrize('listed', [True, False])
def test_the_last_checkpoint_of_an_earlier_fit_is_that_of_its_own_run(listed, tmp_path, monkeypatch):
    """By the list of the run, of which one file is read; without a list the newest file of that fit there is."""
    from minifast.callback import resume
    folder, phases, read = RunFolder(tmp_path), {}, []
    for n, (fit, own) in enumerate(((0, True), (0, True), (1, True), (1, True), (0, False)), 1):
        path = tmp_path / f'checkpoint-{n:06d}.pth'
        path.write_bytes(b'')
        phases[path] = {'position': {'phase': fit}, **({'run': {'id': folder.run}} if own and listed else {})}
        if own and listed:
            folder.own(path.name, fit)
    monkeypatch.setattr(resume, 'read_tensors', lambda path: read.append(path.name) or phases[path])
    monkeypatch.setattr(resume, '_position_of', lambda path, state: state['position'])
    cb, newest = CheckpointCallback(tmp_path), tmp_path / 'checkpoint-000004.pth'
    monkeypatch.setattr(CheckpointCallback, '_phase', 0)
    found, state = cb._at_this_fit(newest, phases[newest])
    assert int(found.stem[-6:]) == (2 if listed else 5) and state is phases[found] and read == [found.name]
    monkeypatch.setattr(CheckpointCallback, '_phase', 1)
    assert cb._at_this_fit(newest, phases[newest]) == (newest, phases[newest]) and len(read) == 1


def test_objects_are_compared_down_to_a_depth(monkeypatch):
    """Thirteen within each other; what lies deeper is known by its class alone, and so two of them are the same."""
    from minifast.run.identity import fingerprint

    def nested(n, leaf):
        for _ in range(n):
            leaf = [leaf, 'beside']
        return leaf
    for n, told in ((1, True), (13, True), (14, False), (200, False)):
        assert (fingerprint(nested(n, 1)) != fingerprint(nested(n, 2))) == told, n
    assert fingerprint([nested(200, 1), nested(9, 1)]) != fingerprint([nested(200, 1), nested(9, 2)])


@pytest.mark.parametrize('folder, shared', [
    ('/mnt/shared/run', True), ('/mnt/shared', True), ('/mnt/sharedness', False), ('/mnt/shared/local/run', False),
    ('/mnt/win/a/b', True), ('/home/me', False), ('/', False)])
def test_a_folder_is_shared_by_machines_where_its_own_mount_is(folder, shared, monkeypatch):
    """The deepest mount that it lies on counts; lines of another form are passed over, and no list says no."""
    from minifast.run.folder import _shared_by_machines
    mounts = """/dev/sda1 / ext4 rw 0 0
server:/a /mnt/shared nfs4 rw 0 0

odd
//server/b /mnt/win/ cifs rw 0 0
tmpfs /mnt/shared/local tmpfs rw 0 0
"""
    monkeypatch.setattr(Path, 'read_text', lambda self, **kwargs: mounts)
    monkeypatch.setattr(os.path, 'realpath', lambda path: str(path).rstrip('/'))
    assert _shared_by_machines(Path(folder)) == shared

    def gone(self, **kwargs):
        raise FileNotFoundError
    monkeypatch.setattr(Path, 'read_text', gone)
    assert not _shared_by_machines(Path(folder))
