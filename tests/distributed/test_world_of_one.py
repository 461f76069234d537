"""A group of one process: a model in shares, its files and its trainings, with nobody to wait for."""
from __future__ import annotations

import re

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.utils.data import TensorDataset

from minifast import distributed, sharding, shards
from minifast.callback.checkpoint import CheckpointCallback, newest_checkpoint
from minifast.callback.core import Callback
from minifast.callback.training import EMA, GradientClip
from minifast.checkpoint import load_model, save_model
from minifast.data.core import DataLoaders
from minifast.data.load import DataLoader
from minifast.distributed import (ask, barrier, from_first, gather, gather_objects, gather_on_first, gather_rows,
                                  on_own, rank0_first, reducing, setup_distrib, teardown_distrib)
from minifast.learner import Learner
from minifast.optimizer import Adam
from minifast.sharding import (cut, in_shares, is_share, outline_of, own_part, put_in_shares, share_like, units_of,
                               whole, whole_model, whole_state)
from minifast.shards import load_cut, load_sharded, load_shares, save_sharded, save_shares
from minifast.training_state import training_state


@pytest.fixture
def alone():
    """A group of this process."""
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    setup_distrib()
    yield
    teardown_distrib()


@pytest.fixture
def asked():
    """How often it was asked whether all are well."""
    found = []
    distributed.before_collective.append(lambda: found.append(1))
    yield found
    distributed.before_collective.pop()


def net():
    """Some weights, always the same."""
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 3))


def mesh_of(model):
    """Of a model in shares."""
    return next(model.parameters()).device_mesh


# ---------------------------------------------------------------- a model in shares

def test_a_model_in_shares_is_the_same_object_with_the_same_names_and_numbers(alone):
    """Its parameters are cut along the first axis; a copy without numbers is of the classes it was made of."""
    model, like = net(), net()
    names = list(model.state_dict())
    model[0].weight.data = model[0].weight.data.T.contiguous().T  # torch broadcasts what lies in one piece
    model[3].weight.requires_grad_(False)
    put_in_shares(model)
    assert in_shares(model) and not in_shares(like) and list(model.state_dict()) == names
    for p, wanted in zip(model.parameters(), like.parameters()):
        assert is_share(p) and p.placements == (Shard(0),) and torch.equal(whole(p), wanted)
        assert own_part(p).data_ptr() == p.to_local().data_ptr()
    assert isinstance(model, nn.Sequential) and type(outline_of(model)) is nn.Sequential and outline_of(like) is like
    outline = dict(outline_of(model).named_parameters())
    assert {p.device.type for p in outline.values()} == {'meta'}
    assert [p.requires_grad for p in outline.values()] == [p.requires_grad for p in model.parameters()]
    x = torch.randn(4, 5)
    torch.testing.assert_close(model(x), like(x))


def test_each_unit_is_gathered_on_its_own_and_a_call_is_told_before_it(alone):
    """Behind a forward pass what others see are the parts again."""
    model, told = net(), []
    put_in_shares(model, nn.Linear)
    assert [in_shares(m) for m in model.modules()] == [True, True, False, False, True]
    sharding.before_forward.append(lambda: told.append(is_share(model[0].weight)))
    try:
        model(torch.ones(2, 5))
    finally:
        sharding.before_forward.pop()
    assert told == [True] and all(is_share(p) for p in model.parameters())


@pytest.mark.parametrize('change, says', [
    (lambda: nn.ReLU(), "a model without parameters cannot be trained in shares: strategy='ddp'"),
    (lambda: nn.LazyLinear(2), 'layers without a shape: let it see a batch first'),
    (lambda: nn.Linear(2, 2, device='meta'), r"weight, bias lie on the device 'meta' and have no numbers"),
    (lambda: nn.ParameterDict({'a': nn.Parameter(torch.tensor(1.))}), '^a are single numbers, which cannot be cut'),
    (lambda: nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1).double()),
     'Sequential has parameters of torch.float32, torch.float64, which cannot be gathered as one'),
    (lambda: nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1).double().requires_grad_(False)), None)])
def test_a_model_that_cannot_be_cut_is_refused_before_it_is_changed(alone, change, says):
    """With what to do; what is not trained may be of another kind of numbers."""
    model = change()
    if says is None:
        put_in_shares(model)
        return
    with pytest.raises(ValueError, match=says):
        put_in_shares(model)
    assert not in_shares(model)


def test_numbers_of_two_kinds_lie_in_units_of_their_own(alone):
    """Where units part them they are gathered apart."""
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1).double())
    put_in_shares(model, lambda m: getattr(m, 'weight', None) is model[1].weight)
    assert [in_shares(m) for m in model.modules()] == [True, False, True]


@pytest.mark.parametrize('units, wanted', [
    (None, ['']), (1, ['3', '1', '0', '']), (24, ['3', '0', '']), (25, ['0', '']), (43, ['']),
    (nn.Linear, ['3', '0', '']), ((nn.Linear, nn.BatchNorm1d), ['3', '1', '0', '']), ([nn.BatchNorm1d], ['1', '']),
    (lambda m: isinstance(m, nn.Tanh) or m.weight.ndim == 2, ['3', '0', ''])])
def test_units_are_elements_of_some_size_or_whatever_is_said(units, wanted):
    """Inner ones first, the whole last; what has no parameters is none."""
    assert [name for name, _ in units_of(net(), units)] == wanted


def test_what_is_in_shares_comes_together_and_what_is_not_stays(alone, asked):
    """In whatever nest; a state dict stays one, with its notes; on all, or on the first and on the CPU."""
    model = net()
    plain = model[0].weight.detach().clone()
    put_in_shares(model)
    share = model[0].weight
    for on_all in (False, True):
        found = whole(share, on_all)
        assert not is_share(found) and not found.requires_grad and torch.equal(found, plain)
    assert whole(3) == 3 and whole(plain) is plain
    state = {'a': [share, (plain, 1)], 'b': None}
    found = whole_state(state)
    assert torch.equal(found['a'][0], plain) and found['a'][1] == (plain, 1) and type(found['a'][1]) is tuple
    assert state['a'][0] is share and found['b'] is None and len(asked) == 1
    states = model.state_dict()
    assert whole_state(states)._metadata == states._metadata and list(whole_state(states)) == list(states)


def test_a_whole_tensor_is_cut_as_another_is(alone):
    """Where that is in shares and has its shape; else it is as it was."""
    model = net()
    put_in_shares(model)
    weight, x = model[0].weight, torch.randn(7, 5, requires_grad=True)
    found = share_like(x, weight)
    assert is_share(found) and found.placements == weight.placements and torch.equal(whole(found), x.detach())
    for same_, like in ((x, x), (weight, weight), (3, weight), (torch.ones(5, 7), weight), (x, None)):
        assert share_like(same_, like) is same_


def test_room_is_cut_as_a_model_is(alone):
    """Along the first axis, of the kind of numbers that is asked for; whole where the model is whole."""
    model = net()
    for like, kind in ((model, torch.Tensor), (model, DTensor)):
        if kind is DTensor:
            put_in_shares(model)
        found = cut(torch.Size((4, 3)), torch.float64, like)
        assert type(found) is kind and found.shape == (4, 3) and found.dtype == torch.float64
    assert found.placements == (Shard(0),) and found.device_mesh == mesh_of(model)


def test_a_whole_copy_is_of_the_weights_and_stands_as_the_model_stands(alone):
    """Frozen or not, training or not, with buffers that no state dict holds; it trains on its own."""
    model = net()
    model[1].register_buffer('mask', torch.ones(2), persistent=False)
    put_in_shares(model)
    model[3].weight.requires_grad_(False)
    model[1].eval()
    with torch.no_grad():
        own_part(model[0].weight).fill_(7)
    model[1].mask.fill_(3)
    found = whole_model(model)
    assert not in_shares(found) and not any(is_share(p) for p in found.parameters())
    assert found[0].weight.unique().tolist() == [7] and found[1].mask.tolist() == [3, 3]
    assert found[1].mask is not model[1].mask and found[1].running_mean is not model[1].running_mean
    assert [p.requires_grad for p in found.parameters()] == [p.requires_grad for p in model.parameters()]
    assert [m.training for m in found.modules()] == [m.training for m in model.modules()]
    foreign = nn.Linear(2, 2)
    fully_shard(foreign, mesh=mesh_of(model))
    with pytest.raises(ValueError, match='was put in shares outside of minifast'):
        whole_model(foreign)
    plain = net()
    assert whole_model(plain) is not plain and torch.equal(whole_model(plain)[0].weight, plain[0].weight)


# ---------------------------------------------------------------- its files

def stepped(model, n=2):
    """The model's optimizer behind some steps."""
    opt = Adam(list(model.parameters()), .1)
    for _ in range(n):
        model(torch.ones(4, 5) * torch.arange(4.)[:, None]).square().sum().backward()
        opt.step()
        opt.zero_grad()
    return opt


def test_a_file_of_a_model_in_shares_is_that_of_a_whole_one(alone, tmp_path):
    """And goes into either, with the optimizer's averages cut as the weights are."""
    model, plain = net(), net()
    put_in_shares(model)
    opt, plain_opt = stepped(model), stepped(plain)
    save_model(tmp_path / 'shares', model, opt), save_model(tmp_path / 'whole', plain, plain_opt)
    a, b = torch.load(tmp_path / 'shares'), torch.load(tmp_path / 'whole')
    assert list(a['model']) == list(b['model'])
    for name in a['model']:
        torch.testing.assert_close(a['model'][name], b['model'][name])
    fresh = net()
    put_in_shares(fresh)
    fresh_opt = stepped(fresh, 1)
    load_model(tmp_path / 'whole', fresh, fresh_opt)
    for p, own in zip(fresh.parameters(), plain.parameters()):
        assert is_share(p) and torch.equal(whole(p), own)
        average, wanted = fresh_opt.state[p]['sqr_avg'], plain_opt.state[own]['sqr_avg']
        assert is_share(average) and torch.equal(whole(average), wanted)


def test_parts_are_read_into_parts_by_whoever_has_them(alone, tmp_path, asked):
    """Tensors by name, cut as a model is; a model with its optimizer; a nested state."""
    model = net()
    put_in_shares(model)
    opt = stepped(model)
    n = len(asked)
    save_sharded(tmp_path / 'named', {'w': model[0].weight.detach(), 'h': torch.arange(6.).half().reshape(3, 2)})
    found = load_cut(tmp_path / 'named', model)
    assert len(asked) > n + 1
    assert sorted(found) == ['h', 'w'] and all(is_share(x) and x.placements == (Shard(0),) for x in found.values())
    assert torch.equal(whole(found['w']), whole(model[0].weight)) and found['h'].dtype == torch.float16
    assert torch.equal(whole(found['h']), torch.arange(6.).half().reshape(3, 2))
    assert all(type(x) is torch.Tensor for x in load_cut(str(tmp_path / 'named'), net()).values())
    save_shares(tmp_path / 'model', model, opt)
    fresh = net()
    put_in_shares(fresh)
    fresh_opt = stepped(fresh, 1)
    load_shares(tmp_path / 'model', fresh, fresh_opt)
    for p, own in zip(fresh.parameters(), model.parameters()):
        assert torch.equal(whole(p), whole(own))
        assert torch.equal(whole(fresh_opt.state[p]['grad_avg']), whole(opt.state[own]['grad_avg']))


def test_hosts_agree_on_what_is_read_and_written(alone, tmp_path, monkeypatch):
    """By their own group, so that what goes wrong on one is told to all; one process without a group needs none."""
    given = []
    for name in ('load', 'save', 'async_save'):
        monkeypatch.setattr(dcp, name, lambda *args, own=getattr(dcp, name), name=name, **kwargs: given.append(
            (name, kwargs['process_group'], kwargs['no_dist'])) or own(*args, **kwargs))
    state = {'x': torch.ones(2)}
    save_sharded(tmp_path / 'a', state)
    saving = save_sharded(tmp_path / 'b', state, background=True)
    assert saving.result() == tmp_path / 'b' and saving.done()
    assert load_sharded(tmp_path / 'b', None)['x'].tolist() == [1, 1]
    host, behind = distributed.host_group(), shards._group_behind()
    assert given == [('save', host, False), ('async_save', behind, False), ('load', host, False)] and host is not behind
    teardown_distrib()
    given.clear()
    save_sharded(tmp_path / 'c', state, background=True).result()
    load_sharded(tmp_path / 'c', None)
    assert given == [('save', None, True), ('load', None, True)]


# ---------------------------------------------------------------- putting together

def test_of_one_process_what_is_put_together_is_its_own(alone):
    """In its shape and order; the same without a group."""
    x = torch.arange(6.).reshape(3, 2)
    for _ in range(2):
        assert gather(x) is x and from_first([1]) == [1] and gather_on_first(1) == [1] and gather_objects('a') == ['a']
        assert rank0_first(lambda a, b: (a, b), 1, b=2) == (1, 2)
        barrier()
        with on_own():
            assert not reducing()
        if dist.is_initialized():
            assert reducing() and torch.equal(gather_rows(x), x) and gather_rows(None) is None
            teardown_distrib()
    assert not reducing()


def test_whoever_waits_asks_first_how_the_others_are(alone, asked):
    """But not in what it does on its own."""
    barrier()
    assert len(asked) == 1
    gather_rows(torch.ones(1))
    ask()
    assert len(asked) == 3
    with on_own():
        barrier()
    assert len(asked) == 3


@pytest.mark.parametrize('parts, wanted', [
    ([[0, 3, 6], [1, 4], [2, 5]], [0, 1, 2, 3, 4, 5, 6]), ([[0], [1], None], [0, 1]), ([[0, 2], [1, 3]], [0, 1, 2, 3]),
    ([[0, 1, 2], [3]], [0, 1, 2, 3]), ([None, [0, 1]], [0, 1]), ([None, None], None), ([[0], [1, 2]], [0, 1, 2])])
def test_rows_of_shares_lie_as_in_the_data_and_others_one_behind_the_other(monkeypatch, parts, wanted):
    """A share is every n-th row; whoever has none takes the others' shape."""
    parts = [None if part is None else torch.tensor(part)[:, None] * torch.ones(1, 2) for part in parts]
    monkeypatch.setattr(dist, 'get_backend', lambda group=None: 'gloo')
    for own in parts:
        shapes = [None if part is None else (len(part), (2,), torch.float32) for part in parts]

        def all_gather(found, padded, group=None):
            assert padded.shape == found[0].shape == (max(len(p) for p in parts if p is not None), 2)
            for room, part in zip(found, parts):
                room.zero_()[:0 if part is None else len(part)] = 0 if part is None else part
        monkeypatch.setattr(distributed, 'gather_objects', lambda o, shapes=shapes, own=own: (
            shapes if o == (None if own is None else (len(own), (2,), torch.float32)) else 1 / 0))
        monkeypatch.setattr(dist, 'all_gather', all_gather)
        found = gather_rows(own)
        assert (found is None) if wanted is None else found.tolist() == [[i, i] for i in wanted]


# ---------------------------------------------------------------- trainings

DATA = TensorDataset(torch.randn(22, 5, generator=torch.Generator().manual_seed(1)),
                     torch.randint(0, 3, (22,), generator=torch.Generator().manual_seed(2)))


def learner(strategy, **kwargs):
    """A silent learner."""
    learn = Learner(DataLoaders(DataLoader(DATA, 4, shuffle=True, num_workers=0), DataLoader(DATA, 4, num_workers=0)),
                    net(), nn.CrossEntropyLoss(), Adam, lr=.01, strategy=None, **kwargs)
    if strategy:  # a learner does so by itself where several were started
        learn.to_distributed(strategy=strategy)
    learn.remove_cb(learn.progress)
    learn.logger = lambda row: None
    return learn


class Stop(Callback):
    """An error in a step."""

    def after_step(self):
        if self.train_iter == 7:
            raise ZeroDivisionError


def ends(learn):
    """Weights and measures at the end."""
    return [whole(x) for x in learn.model.state_dict().values()], [list(row) for row in learn.recorder.values]


@pytest.mark.parametrize('strategy', ['ddp', 'fsdp'])
def test_a_group_of_one_trains_as_one_process_does(tmp_path, strategy):
    """To the same numbers; killed and resumed to the same bits, from a file for all and parts beside it."""
    torch.manual_seed(5)
    plain = learner(None)
    plain.fit(2)
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    try:
        torch.manual_seed(5)
        learn = learner(strategy)
        assert type(learn.ranks).__name__ == {'ddp': 'DistributedTrainer', 'fsdp': 'ShardedTrainer'}[strategy]
        learn.fit(2)
        for found, wanted in zip(ends(learn)[0], ends(plain)[0]):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ends(learn)[1], ends(plain)[1], rtol=1e-4, atol=1e-5)
        torch.manual_seed(5)
        with pytest.raises(ZeroDivisionError):
            learner(strategy).fit(2, cbs=[CheckpointCallback(tmp_path, every=2, background=False), Stop()])
        path, state = newest_checkpoint(tmp_path)
        assert state['ranks'] == [{'own': {}, 'gone': []}] and state['position']['batch'] == 6
        assert path.with_name(f'{path.stem}-shares').is_dir() is (strategy == 'fsdp') is bool(state.get('in_shares'))
        again = learner(strategy)
        again.fit(2, cbs=CheckpointCallback(tmp_path, every=2), resume=True)
        assert all(map(torch.equal, ends(again)[0], ends(learn)[0])) and ends(again)[1] == ends(learn)[1]
    finally:
        teardown_distrib()


def test_what_is_in_shares_leaves_its_name_in_the_state(alone):
    """Under the part and the way to it: weights, gradients, averages of the optimizer and of callbacks."""
    learn, seen = learner('fsdp', cbs=EMA(.5)), []

    def look(self):
        if not seen:
            shares = {}
            at = {'where': 'train', 'epoch': 0, 'batch': 1, 'n_epoch': 1, 'n_iter': 6}
            seen.extend((training_state(self.learn, at, None, shares), shares))
    learn.fit(1, cbs=Callback(after_step=look))
    state, shares = seen
    assert state['model']['0.weight'] == {'in shares': 'model/0.weight'}
    assert state['grads'][0] == {'in shares': 'grads/0'}
    assert state['callbacks']['ema']['average'][0] == {'in shares': 'callbacks/ema/average/0'}
    assert {re.split('[/]', name)[0] for name in shares} == {'model', 'grads', 'opt', 'callbacks'}
    assert 'opt/state/0/sqr_avg' in shares and all(is_share(x) and not x.requires_grad for x in shares.values())


@pytest.mark.parametrize('norm_type', [2., 1., float('inf')])
def test_gradients_in_shares_are_clipped_by_the_norm_of_the_whole(alone, norm_type):
    """Whatever norm; some parameters have no gradient."""
    found = []
    for strategy in (None, 'fsdp'):
        learn = learner(strategy)

        def look(self):
            self.learn.model[3].bias.grad = None
            found.append([whole(p.grad).clone() for p in self.learn.model.parameters() if p.grad is not None])
        torch.manual_seed(3)
        own = distributed.before_collective[:]
        learn.fit(1, cbs=[Callback(before_step=lambda self: setattr(self.learn.model[3].bias, 'grad', None)),
                          GradientClip(.01, norm_type), Callback(after_step=look)])
        assert distributed.before_collective == own
        found[-6:] = [found[-6]]
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)
    norm = torch.linalg.vector_norm(torch.cat([g.flatten() for g in found[1]]), norm_type)
    assert float(norm) == pytest.approx(.01, rel=1e-2)


def test_gradients_that_a_fit_has_added_up_and_not_sent_are_forgotten(alone):
    """They hang on the whole weights of each unit; the parts have their places again."""
    learn = learner('fsdp')
    learn.to_distributed(strategy='fsdp', units=nn.Linear)
    learn.create_opt()
    model, trainer, calls = learn.model, learn.ranks, []
    model.set_requires_gradient_sync(False)
    model(torch.ones(2, 5)).sum().backward()
    model.set_requires_gradient_sync(True)
    trainer._unsent = True
    trainer._forget_unsent()
    assert not trainer._unsent and all(is_share(p) and p.grad is None for p in model.parameters())
    model(torch.ones(2, 5)).sum().backward()
    for p in model.parameters():
        found = whole(p.grad)
        p.grad = None
        p.wanted = found
    model(torch.ones(2, 5)).sum().backward()
    assert all(torch.equal(whole(p.grad), p.wanted) for p in model.parameters())
    model.reset_iter_state = lambda: calls.append(1)
    for trainer._has_run, wanted in ((True, 1), (False, 1)):
        trainer._unwrap()
        assert len(calls) == wanted and not trainer._has_run and trainer._wrapped_for is None
