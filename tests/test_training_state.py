"""The state of a training as plain data: what is in it under which name, what is put back where, and of which rank."""
from __future__ import annotations

import re
import warnings
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from small_learner import learner, same
from torch import nn
from torch.utils.data import DataLoader as Torch
from torch.utils.data import Subset

from minifast import training_state as room
from minifast.callback.core import Callback
from minifast.callback.training import EMACallback, GradientAccumulation
from minifast.data.load import DataLoader
from minifast.hidden import Baselines
from minifast.optimizer import SGD
from minifast.training_state import (ReplayedLoader, begin_loader, generators, inexact_loaders, joined,
                                     load_training_state, of_rank, own_loader, put_back_generators, said_states,
                                     set_generators, start_hidden, together, training_state)

AT = {'where': 'train', 'epoch': 1, 'batch': 2, 'done': False, 'phase': 0, 'n_epoch': 4, 'n_iter': 4}


def drawn(generator, n=3):
    """The next numbers of a generator of torch's, which goes on by them."""
    return torch.rand(n, generator=generator).tolist()


def trained():
    """A learner behind an epoch."""
    learn = learner()
    learn.fit(1, lr=.1)
    return learn


# ---------------------------------------------------------------- loaders

class Loader:
    """A loader of somebody else's that tells what it is asked for."""

    name = 'mine'

    def __init__(self, told):
        self.told = told

    def __len__(self):
        return 4

    def __iter__(self):
        self.told.append('begins')
        return iter(range(4))


class Says(Loader):
    """One that says where it stands."""

    at = 0

    def state_dict(self):
        return {'at': self.at}

    def load_state_dict(self, state):
        self.at = state['at']
        self.told.append(f'at {self.at}')


@pytest.mark.parametrize('start, state, batches, wanted', [
    (0, None, [0, 1, 2, 3], ['before', 'begins', 'after']), (3, None, [3], ['before', 'begins', 'after']),
    (9, None, [], ['before', 'begins', 'after']), (None, None, [], []),
    (3, {'at': 3}, [0, 1, 2, 3], ['before', 'at 3', 'begins', 'after'])])
def test_a_foreign_loader_goes_on_behind_the_batches_that_were_given(start, state, batches, wanted):
    """Those before are drawn and thrown away, or it is told where to go on; else it is the loader that it was."""
    told = []
    dl = ReplayedLoader(Says(told), start, lambda: told.append('before'), lambda: told.append('after'), state)
    assert list(dl) == batches and told == wanted
    assert len(dl) == 4 and dl.name == 'mine'


class Kept:
    """What says a number, and keeps what it is given."""

    x = torch.zeros(1)

    def state_dict(self):
        return {'x': self.x}

    def load_state_dict(self, state):
        self.x = state['x']


class Order:
    """A sampler with a generator, a count of its own and an object that says its state."""

    def __init__(self):
        self.rng, self.n_passes, self.kept = torch.Generator().manual_seed(3), 0, Kept()

    def __len__(self):
        return 8

    def __iter__(self):
        self.n_passes += 1
        return iter(torch.randperm(8, generator=self.rng).tolist())


class Shake:
    """A transform of batches with a generator of its own."""

    def __init__(self):
        self.rng = torch.Generator().manual_seed(4)

    def __call__(self, b):
        return b


def loaders():
    """A loader of each kind: ours, torch's, one that says its state, a list."""
    ours = DataLoader(range(8), 4, sampler=Order(), after_batch=Shake(), num_workers=0)
    return ours, Torch(range(8), 4, sampler=Order()), Says([]), [1, 2]


def test_what_loaders_hold_is_taken_and_put_back_kind_by_kind():
    """Generators and data of the order, those of what is done to batches, the state of a loader that says it."""
    ours, torchs, says, plain = dls = loaders()
    baselines, rngs = Baselines(), [ours.sampler.rng, ours.after_batch.rng, torchs.sampler.rng]
    generators(dls, baselines=baselines)
    ours.sampler.n_passes = torchs.sampler.n_passes = says.at = 5
    ours.sampler.kept.x = torchs.sampler.kept.x = torch.ones(1)
    state = generators(dls, baselines=baselines)
    assert [sorted(part) for part in state['loaders']] == [['batches', 'order'], ['order'], ['asked'], ['order']]
    assert state['loaders'][2:] == [{'asked': {'at': 5}}, {'order': []}]
    first = [drawn(rng) for rng in rngs]

    def now(**kwargs):
        ours.sampler.n_passes = torchs.sampler.n_passes = says.at = 9
        ours.sampler.kept.x = torchs.sampler.kept.x = torch.full((1,), 9.)
        for rng in rngs:
            drawn(rng)
        kwargs.pop('then', lambda: set_generators(state, dls, baselines, **kwargs))()
        put_back = {'order': drawn(rngs[0]) == first[0], 'batches': drawn(rngs[1]) == first[1],
                    "torch's order": drawn(rngs[2]) == first[2], 'data': ours.sampler.n_passes == 5,
                    "torch's data": torchs.sampler.n_passes == 5, 'kept': ours.sampler.kept.x == 1,
                    "torch's kept": torchs.sampler.kept.x == 1, 'said': says.at == 5}
        return [name for name, done in put_back.items() if done]
    everything = ['order', 'batches', "torch's order", 'data', "torch's data", 'kept', "torch's kept", 'said']
    assert now() == everything
    assert now(kinds=('generators',)) == ['order', "torch's order"] and now(kinds=('batches',)) == ['batches']
    assert now(kinds=('data',)) == ['data', "torch's data"]
    assert now(kinds=('asked',)) == ['kept', "torch's kept", 'said']

    def begin(asked):
        for i, dl in enumerate(dls):
            begin_loader(dl, i, state, baselines, asked)
    assert now(then=lambda: begin(False)) == ['order', "torch's order", 'data', "torch's data", 'kept']
    assert now(then=lambda: begin(True)) == [name for name in everything if name != 'batches']


def test_the_generators_that_earlier_releases_kept_of_torchs_loaders_are_put_back():
    """A list: the loader's own, its sampler's, its batch sampler's, each once; ours had none."""
    one, other = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)
    dl = Torch(range(8), 4, sampler=torch.utils.data.RandomSampler(range(8), generator=other), generator=one)
    states = [g.get_state() for g in (one, other)]
    wanted = drawn(one), drawn(other)
    now = generators()['global']
    set_generators({'global': now, 'loaders': [states]}, [dl])
    assert (drawn(one), drawn(other)) == wanted
    ours = DataLoader(range(8), 4, sampler=Order(), num_workers=0)
    ours.generator = one
    set_generators({'global': now, 'loaders': [states]}, [ours])
    assert drawn(one) != wanted[0]


def test_what_the_checkpoint_holds_of_a_loader_and_has_no_place_is_told():
    """With the loader's kind and the way to where it was."""
    with_rng = Loader([])
    with_rng.order = Order()
    state = generators([with_rng])
    with pytest.warns(UserWarning, match=r'^resuming: the checkpoint holds a state of the loader Loader that has no '
                                         r'place here: order.rng is not there any more; the training will not go on '
                                         'as it would have$'):
        set_generators(state, [Loader([])])


def test_generators_of_other_gpus_are_left_out_and_told():
    """As many as there are go on; else the randomness on them starts anew."""
    states = generators()
    states['global']['torch_cuda_state'] = [torch.zeros(16, dtype=torch.uint8)] * 3
    torch.rand(1), np.random.rand(1)
    with pytest.warns(UserWarning, match='generator states of 3 GPUs, here are 0'):
        set_generators(states)
    found = generators()['global']
    assert same(found['numpy_state'], states['global']['numpy_state'])
    assert torch.equal(found['torch_state'], states['global']['torch_state'])


@pytest.mark.parametrize('dl, why', [
    (lambda: DataLoader(iter(range(8)), 4),
     r'loader 1 \(DataLoader\) draws from dataset \(range_iterator\), which cannot be put back: an'),
    (lambda: Loader([]), r'loader 1 \(Loader\) has neither state_dict/load_state_dict nor begin\('),
    (lambda: Says([]), None), (lambda: [1, 2], None), (lambda: (1, 2), None)])
def test_a_loader_that_cannot_go_on_within_an_epoch_is_told_by_its_number(dl, why):
    """What is read to its end can be read once; whoever says a state, and plain batches, can be put back."""
    told = inexact_loaders([[1], dl()])
    assert len(told) == (why is not None)
    if why:
        assert re.match(why, told[0])


def test_inside_a_data_set_lie_those_that_it_is_made_of():
    """Each once, also where one holds itself."""
    data = SimpleNamespace()
    data.dataset = data
    inner = Subset([1, 2], [0])
    outer = Subset(inner, [0])
    assert [id(x) for x in room._datasets(Torch(outer))] == [id(x) for x in (outer, inner, inner.dataset)]
    assert room._datasets(SimpleNamespace(dataset=data)) == [data] and room._datasets([1]) == []
    assert own_loader(DataLoader([1], 1)) and not own_loader(Torch([1]))


# ---------------------------------------------------------------- callbacks, losses, metrics

class Counts(Callback):
    """Says a number."""

    name = 'counts'

    def __init__(self, n=0):
        self.n = n

    def state_dict(self):
        return {'n': self.n}

    def load_state_dict(self, state):
        self.n = state['n']


class Watches(Counts):
    watches_only = True


def test_callbacks_that_say_their_state_are_named_apart_and_watchers_on_their_own():
    """A second and a third of one name get a number, in the order that they were attached in."""
    learn = learner(cbs=[Counts(1), Watches(2), Counts(3), Callback(), Counts(4), Watches(5)])
    assert {name: cb.n for name, cb in said_states(learn).items() if isinstance(cb, Counts)} == {
        'counts': 1, 'counts#2': 3, 'counts#3': 4}
    watching = {name: cb.n for name, cb in said_states(learn, watches_only=True).items() if isinstance(cb, Counts)}
    assert watching == {'counts': 2, 'counts#2': 5}
    assert not any(isinstance(cb, Watches) for cb in said_states(learn).values())


class Counting(GradientAccumulation):
    """What a user derives from a callback of ours that says its state, with more to it."""

    def __init__(self):
        super().__init__(16)
        self.seen, self.rng = 0, torch.Generator().manual_seed(5)


class CountsMore(Counts):
    """A user's, which says its state itself."""

    def __init__(self):
        super().__init__()
        self.seen, self.rng = 0, torch.Generator().manual_seed(6)


def test_what_is_added_to_a_callback_of_ours_is_carried_beside_what_that_says():
    """A user's own that says its state is believed; generators are carried of both."""
    ours, own = Counting(), CountsMore()
    learn = learner(cbs=[ours, own])
    start_hidden(learn)
    ours.seen = ours.count = own.seen = 7
    hidden = room._hidden_state(learn)
    data = {name: [steps for steps, _ in state.get('data', ())] for name, state in hidden.items()}
    assert data == {'the callback counting': [[['attribute', 'seen']]], 'the callback counts': []}
    assert all([steps for steps, _ in state['generators']] == [[['attribute', 'rng']]] for state in hidden.values())


def test_generators_alone_are_put_back_where_only_they_are_asked_for():
    """Those of callbacks and of loaders, not what was counted."""
    ours = Counting()
    learn = learner(cbs=ours)
    learn.dls.loaders[0] = loaders()[0]
    start_hidden(learn)
    ours.seen = 1
    state = {'hidden': room._hidden_state(learn), 'generators': generators(learn.dls)}
    rngs = ours.rng, learn.dls[0].sampler.rng, learn.dls[0].after_batch.rng
    wanted, ours.seen = [drawn(rng) for rng in rngs], 2
    put_back_generators(learn, state)
    assert [drawn(rng) for rng in rngs] == wanted and ours.seen == 2
    room._load_hidden_state(learn, state['hidden'])
    assert ours.seen == 1


def test_a_part_that_goes_with_a_fit_that_is_passed_over_loses_nothing():
    """Of other parts what has no place is told by the part's name."""
    learn = learner(cbs=[one := Counting()])
    state = {'the callback counting': {'data': [[[['attribute', 'gone'], ['key', 'a']], 1]]}}
    with pytest.warns(UserWarning, match='a state of the callback counting that has no place here: gone'):
        room._load_hidden_state(learn, state)
    for leaving in ([one], [Counting]):
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            room._load_hidden_state(learn, state, leaving=leaving)


def test_what_cannot_be_carried_is_told_before_training_with_its_owner(tmp_path):
    """Open files but those that grow, and objects that nobody can look into; each with its way."""
    with open(tmp_path / 'new', 'w') as new, open(tmp_path / 'rows', 'a') as rows:
        assert start_hidden(learner()) == []

        class Mine(Callback):
            def __init__(self):
                self.rows, self.log, self.left = rows, new, iter([1])
        learn = learner(cbs=Mine())
        told, = start_hidden(learn)
    assert told.startswith('the callback mine (Mine) keeps left (list_iterator), log (an open file), which a '
                                    'checkpoint cannot carry: give it state_dict')


class Knows:
    """A loss of no module that says a state, and has others that say none."""

    def __init__(self):
        self.n = 0

    def __call__(self, pred, y):
        return nn.functional.cross_entropy(pred, y)

    def state_dict(self):
        return {'n': self.n}

    def load_state_dict(self, state):
        self.n = state['n']

    def method(self, pred, y):
        return self(pred, y)


def test_the_state_of_a_loss_is_that_of_what_is_inside_of_it():
    """Of itself, of the function in a partial or wrapper, of the object whose method it is; what is saved elsewhere,
    the model and callbacks, is not a loss's."""
    learn = learner(cbs=(cb := Counts()))
    for loss in (knows := Knows(), SimpleNamespace(func=knows), knows.method):
        assert room._stateful(learn, loss) is knows and room._loss_state(learn, loss) == {'n': 0}
        room._load_loss(learn, loss, {'n': 3}, 'file')
        assert knows.n == 3
        with pytest.warns(UserWarning, match='^file holds no state of the loss function: it stays as'):
            room._load_loss(learn, loss, None, 'file')
        assert knows.n == 3
        knows.n = 0
    for loss in (nn.functional.cross_entropy, cb, SimpleNamespace(func=cb), learn.model, learn.model.forward):
        assert room._stateful(learn, loss) is None and room._loss_state(learn, loss) == {}
        room._load_loss(learn, loss, None, 'file')
    weighted = nn.CrossEntropyLoss(weight=torch.ones(4))
    room._load_loss(learn, weighted, {'weight': torch.arange(4.)}, 'file')
    assert weighted.weight.tolist() == [0, 1, 2, 3]
    room._load_loss(learn, nn.CrossEntropyLoss(), None, 'file')  # it has a state and nothing in it
    bad = SimpleNamespace(func=type('Bad', (Knows,), {'state_dict': lambda self: {'a': {1}}})())
    with pytest.raises(TypeError, match=r"^the loss function's state\['a'\] is a set"):
        room._loss_state(learn, bad)


def test_of_a_metric_its_data_are_kept():
    """Functions and other objects are settings."""
    metric = SimpleNamespace(total=torch.ones(2), n=3, names=['a'], func=len, other=object())
    assert same(room._metric_state(metric), {'total': torch.ones(2), 'n': 3, 'names': ['a']})


def test_buffers_that_the_model_does_not_save_are_kept_beside_it():
    """Under their own names; those that it saves are not kept twice."""
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))
    model[1].register_buffer('mask', torch.ones(2), persistent=False)
    assert list(room._buffers_apart(model)) == ['1.mask']


# ---------------------------------------------------------------- the whole

def test_the_state_has_every_part_under_its_name():
    """In a training part what its metrics have gathered too, and where a stream stands; elsewhere neither."""
    learn = learner(cbs=[Counts(2), Watches(3)], metrics=lambda pred, y: (pred.argmax(1) == y).float().mean(),
                    loss_func=Knows())
    learn.fit(1, lr=.1)
    learn.recorder.train_metrics, learn.fit_seed = True, 11
    learn.model[1].weight.grad = torch.ones(4, 108)
    learn.dl = type('Dl', (), {'begin': None, 'state_dict': lambda self: {'batch': 1, 'stream': {'at': 4}}})()
    state = training_state(learn, AT, {'of': 'before'})
    assert {'format', 'version', 'environment', 'buffers', 'opt', 'generators', 'hidden'} < state.keys()
    assert state['position'] == AT and state['position'] is not AT
    assert (state['fit_seed'], state['train_iter'], state['epoch_generators']) == (11, 4, {'of': 'before'})
    assert state['model']['1.weight'].data_ptr() == learn.model[1].weight.data_ptr()
    assert list(state['grads']) == [0] and state['trained'] == [True, True]
    assert state['stream'] == {'at': 4} and len(state['metrics']) == 1
    assert state['callbacks']['counts'] == {'n': 2} and state['watchers']['counts'] == {'n': 3}
    assert (state['loss_func'], state['acting_loss']) == ({'n': 0}, {}) and state['loaders'] == [None, None]
    for where in ('epoch', 'validate'):
        elsewhere = training_state(learn, {**AT, 'where': where})
        assert 'stream' not in elsewhere and elsewhere['metrics'] == [] and elsewhere['epoch_generators'] is None
    learn.recorder.train_metrics = False
    assert training_state(learn, AT)['metrics'] == []
    learn.dl = Says([])
    assert 'stream' not in training_state(learn, AT)


def test_each_part_is_named_where_it_holds_what_no_file_can(monkeypatch):
    """Whatever it is: the text before the way to it."""
    learn = learner(cbs=[Counts(), Watches()], loss_func=Knows())
    learn.create_opt()
    learn.train_iter = 0
    learn.dls.loaders[0], learn.dl = Says([]), type('Dl', (), {'begin': 1, 'state_dict': lambda self: {'stream': 1}})()
    learn.model[1].weight.grad, told = torch.ones(4, 108), []
    monkeypatch.setattr(room, 'storable', lambda x, where='': told.append(where) or x)
    training_state(learn, AT)
    assert set(told) == {"the model's state", "the model's buffers", "the loss function's state", 'a gradient',
                         "the optimizer's state", 'the state_dict of Counts', 'the state_dict of Watches',
                         'the state_dict of Says', "the data set's state", 'the generators',
                         *(f'the state_dict of {type(cb).__name__}' for cb in said_states(learn).values())}


def test_what_loaders_and_callbacks_have_counted_is_in_the_state():
    """Against how they stood when the learner was first looked at, not when the state is taken."""
    learn = learner(cbs=(cb := Counting()))
    learn.dls.loaders[0] = loaders()[0]
    learn.create_opt()
    learn.train_iter = 0
    start_hidden(learn)
    learn.dls[0].sampler.n_passes = cb.seen = 3
    state = training_state(learn, {**AT, 'where': 'epoch'})
    assert [[steps[-1][-1] for steps, _ in part.get('data', ())] for part in state['generators']['loaders'][0]['order']
            ] == [['n_passes']]
    assert len(state['hidden']['the callback counting']['data']) == 1
    learn.dls[0].sampler.n_passes = cb.seen = 9
    load_training_state(learn, state)
    assert learn.dls[0].sampler.n_passes == cb.seen == 3


def test_a_loss_that_stands_in_for_the_users_is_kept_beside_it():
    """Each with its own state; where nothing stands in there is one."""
    learn = learner(loss_func=Knows())
    learn.create_opt()
    learn.own_loss.n, seen = 1, []

    class Instead(Callback):
        def before_fit(self):
            self.learn.loss_func = Knows()
            self.learn.loss_func.n = 2

        def after_batch(self):
            if not seen:
                seen.append(training_state(self.learn, AT))
                self.learn.own_loss.n = self.learn.loss_func.n = 9
                load_training_state(self.learn, seen[0])
                seen.append((self.learn.own_loss.n, self.learn.loss_func.n))
    learn.fit(1, cbs=Instead())
    assert (seen[0]['loss_func'], seen[0]['acting_loss']) == ({'n': 1}, {'n': 2}) and seen[1] == (1, 2)


def test_a_state_is_put_back_whole_or_without_what_is_said():
    """Weights, buffers, optimizer, gradients, which weights are trained, callbacks, metrics, counts and generators."""
    learn = learner(cbs=[cb := Counts(2), watch := Watches(3)], loss_func=Knows(),
                    opt_func=partial(SGD, mom=.9),
                    metrics=lambda pred, y: (pred.argmax(1) == y).float().mean())
    learn.model.register_buffer('mask', torch.ones(2), persistent=False)
    learn.fit(1, lr=.1)
    weight, metric = learn.model[1].weight, learn.metrics[0]
    learn.recorder.train_metrics, learn.fit_seed, learn.own_loss.n = True, 11, 4
    weight.grad, metric.total = torch.full((4, 108), 2.), 5.
    weight.requires_grad_(False)
    learn.opt.frozen_idx = 0
    kept = room.copied(room.storable(training_state(learn, AT), 'it'))
    momentum = learn.opt.state[weight]['grad_avg'].clone()

    def spoilt(**kwargs):
        with torch.no_grad():
            weight.zero_(), learn.model.mask.zero_()
        weight.requires_grad_(True)
        weight.grad, learn.model[1].bias.grad = None, torch.ones(4)
        learn.opt.state[weight]['grad_avg'].zero_()
        learn.opt.frozen_idx = 1
        cb.n = watch.n = metric.total = learn.own_loss.n = learn.train_iter = learn.fit_seed = learn.pct_train = 0
        wanted = kept['generators']['global']['torch_state']
        torch.rand(2)
        load_training_state(learn, {**kept, **kwargs.pop('state', {})}, **kwargs)
        assert torch.equal(torch.get_rng_state(), wanted)
        return {'model': torch.equal(weight, kept['model']['1.weight']), 'buffer': learn.model.mask.tolist() == [1, 1],
                'grad': weight.grad is not None and weight.grad.unique().tolist() == [2],
                'none': learn.model[1].bias.grad is None, 'trained': not weight.requires_grad,
                'opt': torch.equal(learn.opt.state[weight]['grad_avg'], momentum),
                'frozen': learn.opt.frozen_idx == 0, 'cb': cb.n == 2, 'watch': watch.n == 3,
                'metric': metric.total == 5., 'loss_func': learn.own_loss.n == 4,
                'count': (learn.train_iter, learn.fit_seed) == (4, 11), 'pct': learn.pct_train == 1.5 / 4}

    def lacks(found):
        return [name for name, there in found.items() if not there]
    assert lacks(spoilt()) == []
    assert lacks(spoilt(without=('opt',))) == ['opt'] and lacks(spoilt(without=('loss_func',))) == ['loss_func']
    elsewhere = {**AT, 'where': 'validate'}
    assert lacks(spoilt(state={'position': elsewhere})) == ['metric', 'pct'] and learn.pct_train == .25
    others = {name: said for name, said in kept['callbacks'].items() if name != 'counts'}
    for callbacks, told in ((others, 'counts is attached here and was not then'),
                            ({**kept['callbacks'], 'other': {}}, 'other was attached then and is not here')):
        changed = {'callbacks': callbacks}
        with pytest.warns(UserWarning, match=f'^resuming: the callback {told}; the training will not go on as'):
            spoilt(state=changed)
        spoilt(state=changed, again=True)


def test_what_was_loaded_is_nobodys_but_the_trainings():
    """What callbacks and the optimizer keep are copies: neither changes what was read, and no file stays mapped."""
    class Keeps(Kept, Callback):
        name = 'keeps'
    learn = learner(cbs=(cb := Keeps()), opt_func=partial(SGD, mom=.9))
    learn.fit(1, lr=.1)
    learn.fit_seed = 1
    state = training_state(learn, AT)
    kept = room.copied(state)
    load_training_state(learn, kept)
    learn.opt.state[learn.model[1].weight]['grad_avg'].fill_(7)
    cb.x += 7
    assert kept['callbacks']['keeps']['x'] == 0
    assert not (kept['opt']['state'][0]['grad_avg'] == 7).any() and cb.x == 7


@pytest.mark.parametrize('change, says', [
    (lambda s: None, 'file is no checkpoint of a training in the format minifast-training 1: for weights'),
    (lambda s: {**s, 'format': 'other'}, 'file is no checkpoint'), (lambda s: {**s, 'version': 2}, 'no checkpoint'),
    (lambda s: {**s, 'opt': None}, 'file holds no optimizer state'),
    (lambda s: {**s, 'model': {}}, 'file does not fit this Sequential'),
    (lambda s: {k: v for k, v in s.items() if k != 'frozen_idx'}, "file does not fit this training: KeyError"),
    (lambda s: {**s, 'trained': [True]}, 'file does not fit this training|argument'),
    (lambda s: {**s, 'grads': {0: torch.ones(7)}}, 'file does not fit this training: RuntimeError')])
def test_a_state_that_does_not_fit_is_refused_with_the_file(change, says):
    """Another format, another model, parts that are not there."""
    learn = trained()
    learn.fit_seed = 1
    state = training_state(learn, AT)
    with pytest.raises(ValueError, match=says):
        load_training_state(learn, change(state), 'file')


@pytest.mark.parametrize('position, wanted', [
    ({}, 1.5 / 4), ({'where': 'epoch'}, .25), ({'where': 'validate', 'batch': 4}, .25), ({'n_iter': None}, .25),
    ({'n_epoch': 0, 'epoch': 0, 'where': 'epoch'}, 0), ({'n_iter': 8}, 1.25 / 4), ({'n_epoch': 2}, .75)])
def test_the_part_that_is_done_counts_epochs_and_the_batches_of_this_one(position, wanted):
    """Of a stream, which does not say its length, the epochs alone."""
    assert room._pct_train({**AT, **position}) == wanted


def test_a_gradient_lies_as_its_weight_does_and_a_sparse_one_stays_sparse():
    """Fused steps want the one, the optimizers of sparse gradients the other."""
    p = nn.Parameter(torch.zeros(2, 3, 4, 5).contiguous(memory_format=torch.channels_last))
    found = room._gradient(p, torch.ones(2, 3, 4, 5))
    assert found.stride() == p.stride() and not found.requires_grad and found.unique().tolist() == [1]
    sparse = torch.eye(3).to_sparse()
    assert room._gradient(nn.Parameter(torch.zeros(3, 3)), sparse).layout is torch.sparse_coo


# ---------------------------------------------------------------- of several processes

def together_of(learn, states, monkeypatch):
    """What `together` gives on the first of so many processes; on the others it is None."""
    sent, first = [], []
    monkeypatch.setattr(room, 'barrier', lambda: None)
    monkeypatch.setattr(room, 'from_first', lambda o: (first or first.append(o) or first)[0])
    monkeypatch.setattr(room, 'gather_on_first', sent.append)
    assert [together(learn, state) for state in states] == [None] * len(states)
    monkeypatch.setattr(room, 'gather_on_first', lambda o: sent)
    return together(learn, states[0])


def rank_states(learn):
    """The states of three processes: what is the same on all, what is not, what one has and another lacks."""
    model = {'1.weight': torch.ones(4, 108), '1.bias': torch.zeros(4), 'mean': torch.zeros(2)}
    base = {'format': 'f', 'train_iter': 3, 'opt': {'state': 1}, 'model': model, 'generators': {'global': 1, 'own': 2},
            'grads': {0: torch.full((2,), 3.), 1: torch.full((1,), 1.5)}, 'epoch_generators': {'of': 0},
            'metrics': [1, 2], 'hidden': {'a': {'data': [1]}}}
    second = {**base, 'model': {**model, 'mean': torch.ones(2)}, 'generators': {'global': 9, 'own': 2},
              'grads': {0: torch.full((2,), 6.)}, 'epoch_generators': {'of': 1},
              'hidden': {'a': {'data': [2]}, 'b': {}}}
    third = {**base, 'metrics': [2, 1], 'hidden': {}, 'grads': {}}
    return base, second, third


def test_of_all_ranks_is_kept_once_what_they_share_and_each_gets_its_own(monkeypatch):
    """Weights, optimizer and counts are those of the first; the rest of a rank is what it had, bit for bit."""
    learn = trained()
    states = rank_states(learn)
    whole = together_of(learn, states, monkeypatch)
    assert same({k: v for k, v in whole.items() if k != 'ranks'}, states[0])
    own, gone = ([one[what] for one in whole['ranks']] for what in ('own', 'gone'))
    assert own[0] == {} and [sorted(part) for part in own] == [
        [], ['epoch_generators', 'generators', 'grads', 'hidden', 'model'], ['metrics']]
    assert list(own[1]['model']) == ['mean'] and own[1]['generators'] == {'global': 9}
    assert gone == [[], [['grads', 1]], [['grads', 0], ['grads', 1], ['hidden', 'a']]]
    for rank, state in enumerate(states):
        assert same(of_rank(whole, rank, 3), state)


def test_ranks_in_another_number_get_the_state_of_the_first_and_the_mean_of_what_was_to_be_summed(monkeypatch):
    """A gradient that a rank does not have counts as none of it; gradients in shares are means already."""
    learn = trained()
    states = rank_states(learn)
    whole = together_of(learn, states, monkeypatch)
    for rank, n in ((0, 1), (1, 2), (3, 4)):
        found = of_rank(whole, rank, n)
        assert {name: grad.tolist() for name, grad in found['grads'].items()} == {0: [3, 3], 1: [.5]}
        assert same({**found, 'grads': states[0]['grads']}, states[0])
    shared = {**whole, 'grads': {0: {'in shares': 'grads/0'}}}
    assert of_rank(shared, 0, 2)['grads'] == shared['grads']
    alone = {**states[0]}
    assert same(of_rank(alone, 0, 1), alone) and same(of_rank(alone, 1, 2), alone)


@pytest.mark.parametrize('change', [
    {'ranks': 3}, {'ranks': [{}, {}]}, {'ranks': [{'own': {}, 'gone': [['no', 1]]}] * 2},
    {'grads': None, 'ranks': None}, {'ranks': [{'own': 1, 'gone': []}] * 2}])
def test_a_file_that_says_nothing_of_its_ranks_is_refused_by_name(change):
    """Whatever it says instead."""
    with pytest.raises(ValueError, match='^file does not say what each of its processes held: '):
        of_rank({'grads': {}, 'model': {}, **change}, 1, 2, 'file')


X = torch.arange(6.).reshape(2, 3)
DIFFERENT = [X, X + 1, X.reshape(3, 2), X.double(), X.T, X.to_sparse(), X.to(torch.complex64), X.int(), X[:1],
             torch.zeros(0), torch.zeros(0, 2), {'a': X}, {'b': X}, {'a': X, 'b': 1}, [X], [X, X], [[X], X], [X, [X]],
             1, 1., '1', None, True, [1, 2], [2, 1], [[1], 2], [[1, 2]], {}, [], {'a': {}}, {'a': []},
             {1: 2}, {'1': 2}]


def test_states_are_told_apart_by_what_is_in_them():
    """Numbers, their kind, shape and layout, names and nests; not by where they lie or how."""
    digests = [room._digest_of(x) for x in DIFFERENT]
    assert len(set(digests)) == len(DIFFERENT)
    for a, b in ((X, X.clone()), (X, X.T.contiguous().T), ([X, 1], (X, 1)), (X, X.clone().requires_grad_()),
                 ({'a': [X]}, {'a': [X.clone()]}), (X.conj(), X),
                 (X.to(torch.complex64) * 1j, (X.to(torch.complex64) * -1j).conj())):
        assert room._digest_of(a) == room._digest_of(b)


def test_tensors_in_shares_leave_their_names_and_come_back_to_their_places():
    """In whatever nest they lie, whose kinds and notes stay; another tensor stays where it is."""
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = dist.device_mesh.init_device_mesh('cpu', (1,))
        share = dist.tensor.distribute_tensor(torch.arange(4.), mesh, [dist.tensor.Shard(0)]).requires_grad_()
        weights = nn.Linear(1, 1).state_dict()
        weights['weight'] = share
        shares, whole = {}, torch.ones(1)
        state = {'model': weights, 'list': [share, (whole, {'x': share})], 'n': 3}
        left = room._apart(state, 'all', shares)
        assert list(shares) == ['all/model/weight', 'all/list/0', 'all/list/1/1/x']
        assert not any(x.requires_grad for x in shares.values())
        assert left['model']._metadata == weights._metadata and left['model']['weight'] == {
            'in shares': 'all/model/weight'}
        assert type(left['list']) is list and type(left['list'][1]) is tuple and left['list'][1][0] is whole
        back = joined(left, {name: f'<{name}>' for name in shares})
        assert back['list'] == ['<all/list/0>', (whole, {'x': '<all/list/1/1/x>'})] and back['n'] == 3
        assert back['model']['weight'] == '<all/model/weight>' and back['model']._metadata == weights._metadata
        assert list(state['list'][1][1]) == ['x'] and state['list'][0] is share
    finally:
        dist.destroy_process_group()


def test_an_average_of_weights_is_said_by_its_callback():
    """A subclass of ours that says its state is asked as ours are, and what it says is not carried twice."""
    class Average(EMACallback):
        """A user's."""
    learn = learner(cbs=(cb := Average()))
    start_hidden(learn)
    cb.average, cb.n_steps, cb.swapped = [torch.ones(2)], 3, True
    assert 'average' in said_states(learn) and room._hidden_state(learn) == {}
