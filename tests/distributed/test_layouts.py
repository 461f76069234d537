"""Worlds of 8, 64 and 1,024 processes, in one: whose item is whose, and what one of so many does.

torch's fake process group has the size of a world and sends nothing: what is gathered are this process's own numbers,
once for each rank, and what is summed is its own.
"""
from __future__ import annotations

import tracemalloc

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.data import TensorDataset

from minifast.callback import distributed as room
from minifast.callback.core import Callback
from minifast.data.core import DataLoaders
from minifast.data.load import DataLoader
from minifast.distributed import of_one_process, on_own, teardown_distrib
from minifast.learner import Learner
from minifast.sharding import is_share, own_part

WORLDS = [8, 64, pytest.param(1024, marks=pytest.mark.dist)]
SIZES = [8, 64, 1024]


@pytest.fixture
def world(monkeypatch):
    """A function that makes this process the rank `rank` of `n`; one world at a time."""
    def enter(n, rank=0):
        teardown_distrib()
        monkeypatch.setenv('WORLD_SIZE', str(n))
        monkeypatch.setenv('RANK', str(rank))
        dist.init_process_group('fake', store=FakeStore(), rank=rank, world_size=n)
    new_group = dist.new_group
    monkeypatch.setattr(dist, 'new_group', lambda *args, **kwargs: new_group(*args, **{**kwargs, 'backend': 'fake'}))
    yield enter
    teardown_distrib()


# ---------------------------------------------------------------- the shares of the data

@pytest.mark.parametrize('n', WORLDS)
def test_each_item_is_one_ranks_and_no_rank_has_two_more_than_another(n):
    """Of every batch of all, the last one too, which is not full; each rank counts the same batches."""
    n_items, bs = 2 * n * 2 + n + 3, 2
    whole = DataLoader(TensorDataset(torch.arange(n_items)), bs * n, shuffle=True)
    whole.begin(3, 1)
    wanted = [b[0].tolist() for b in whole]
    shares = []
    for rank in range(n):
        dl = DataLoader(TensorDataset(torch.arange(n_items)), bs, shuffle=True)
        dl.share_out(rank, n, fill=True)
        dl.begin(3, 1)
        shares.append([[] if dl.stands_in else b[0].tolist() for b in dl])
        assert len(dl) == len(shares[-1]) == len(wanted) == 3
    for number, batch in enumerate(wanted):
        parts = [share[number] for share in shares]
        assert sorted(sum(parts, [])) == sorted(batch)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    everything = sorted(i for share in shares for part in share for i in part)
    assert everything == list(range(n_items))


def test_a_rank_draws_seeds_for_its_own_items_and_keeps_one_order(monkeypatch):
    """As many seeds as it has items, and the same memory, which is set by the data and not by the world."""
    from minifast.data import load
    found = {}
    for n in (8, 1024):
        dl, made, key_seed = DataLoader(range(4096), 4096 // n, shuffle=True), [], load.key_seed
        dl.share_out(n - 1, n)
        with monkeypatch.context() as patched:
            patched.setattr(load, 'key_seed', lambda seed, *key: made.append(key[0]) or key_seed(seed, *key))
            dl.begin(1, 1)
            requests = list(dl._jobs(dl._next))
        assert [len(request.pairs) for request in requests] == [4096 // n]
        tracemalloc.start()
        list(dl._jobs(dl._next))
        found[n] = made.count(load.ITEM), tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert (found[8][0], found[1024][0]) == (512, 4)
    assert found[1024][1] < 1.05 * found[8][1]


@pytest.mark.parametrize('n', SIZES)
def test_the_batch_of_all_is_what_was_said_or_refused(n, monkeypatch):
    """`global_bs` is the sum of what the processes have, and never rounded."""
    monkeypatch.setenv('WORLD_SIZE', str(n))
    for per_rank in (1, 3, 32):
        assert of_one_process(per_rank * n) == per_rank
        assert DataLoader(range(9), global_bs=per_rank * n).bs == per_rank
    for uneven in (n - 1, n + 1, 3 * n // 2):
        with pytest.raises(ValueError, match=f'global_bs={uneven} cannot be shared out evenly by {n} processes'):
            of_one_process(uneven)


# ---------------------------------------------------------------- one of many trains

def net():
    """Some weights."""
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


class Alone(Callback):
    """DDP's mean of gradients where the others have none, which the fake process group does not know."""

    order = -99  # behind the trainer, which wraps the model

    def before_train(self):
        def mean(state, bucket):
            done = torch.futures.Future()
            done.set_result(bucket.buffer() / dist.get_world_size())
            return done
        self.learn.wrapped.register_comm_hook(None, mean)


@pytest.mark.parametrize('n', SIZES)
def test_one_of_many_weighs_its_gradients_as_one_of_so_many(world, n, monkeypatch):
    """The weights of a plain loop over its share, at an n-fold learning rate: what is summed is its own alone, an n-th
    of the mean. The last batch of all is not full."""
    g = torch.Generator().manual_seed(1)
    data = TensorDataset(torch.randn(5 * n, 5, generator=g), torch.randint(0, 3, (5 * n,), generator=g))
    rank, model = n - 1, net()
    opt = torch.optim.SGD(model.parameters(), .125)
    for start in (0, 2 * n, 4 * n):
        x, y = (t[start:start + 2 * n][rank::n] for t in data.tensors)
        nn.functional.cross_entropy(model(x), y).backward()
        opt.step()
        opt.zero_grad()
    world(n, rank)
    monkeypatch.setattr(room, '_settle', lambda wrapped: None)  # sums, which the fake process group cannot
    learn = Learner(DataLoaders(DataLoader(data, global_bs=2 * n, drop_last=False)), net(), nn.CrossEntropyLoss(),
                    torch.optim.SGD, lr=.125 * n)
    learn.remove_cb(learn.progress)
    learn.fit(1, cbs=Alone())
    assert learn.ranks.n_ranks == n and learn.ranks.n_items == n
    for found, wanted in zip(learn.model.parameters(), model.parameters()):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-7)


class Seen(Callback):
    """What a training is in the middle of a batch."""

    order = -99

    def before_fit(self):
        self.losses, self.sends_buffers = [], set()

    def after_loss(self):
        if self.training:
            own = self.learn.own_loss(self.pred.detach(), *self.yb)
            self.losses.append((float(self.loss.detach()), float(own)))
            self.sends_buffers.add(self.learn.wrapped.broadcast_buffers)


@pytest.mark.parametrize('rank', [0, 7])
def test_what_is_measured_of_a_model_are_the_buffers_of_the_first_and_the_loss_of_all(world, rank, monkeypatch):
    """A rank keeps its own statistics through a training part, and takes the first one's before and behind it; the loss
    of a batch is the mean of all, as large as a rank's own where all have the same."""
    world(8, rank)
    sent = []
    monkeypatch.setattr(dist, 'broadcast', lambda x, src, *args, **kwargs: sent.append((tuple(x.shape), src)))
    monkeypatch.setattr(room, '_settle', lambda wrapped: None)
    data = TensorDataset(torch.randn(48, 5), torch.randint(0, 3, (48,)))
    learn = Learner(DataLoaders(DataLoader(data, global_bs=24), DataLoader(data, global_bs=24)),
                    nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 3)), nn.CrossEntropyLoss())
    learn.remove_cb(learn.progress)
    learn.fit(1, cbs=[Alone(), seen := Seen()])
    assert seen.sends_buffers == {False} and {src for _, src in sent} == {0}
    assert sent[:3] == sent[-3:] == [((7,), 0), ((7,), 0), ((), 0)]
    assert len(seen.losses) == 2
    for of_all, own in seen.losses:
        assert of_all == pytest.approx(own, rel=1e-5)


def test_a_rank_tells_its_own_errors_and_each_once(world, monkeypatch):
    """Not those that others have told it, and none of what it does on its own."""
    world(8, 3)
    trainer, told = room.DistributedTrainer(), []
    monkeypatch.setattr(trainer, '_exchange', lambda *args: told.append(args))
    monkeypatch.setattr(room, 'gather_objects', told.append)
    error = ValueError('x')
    trainer.failed(room.PeerError('rank 1 has failed'))
    with on_own():
        trainer.failed(error)
    assert not told
    trainer.failed(error)
    trainer.failed(error)
    assert told == [(room.START, room.FAILED), 'ValueError: x']


# ---------------------------------------------------------------- meshes

@pytest.mark.parametrize('n, per_host', [(8, 8), (64, 8), (1024, 8), (1024, 64)])
def test_a_mesh_shards_within_hosts_and_replicates_between_them(world, n, per_host):
    """Neighbouring ranks share one model; those of one place in each host sum the gradients of one shard."""
    for rank in {0, per_host - 1, n // 2, n - 1}:
        world(n, rank)
        mesh = init_device_mesh('cpu', (n // per_host, per_host), mesh_dim_names=('replicate', 'shard'))
        host, place = divmod(rank, per_host)
        assert tuple(mesh.get_coordinate()) == (host, place)
        assert dist.get_process_group_ranks(mesh.get_group('shard')) == list(range(host * per_host,
                                                                                   (host + 1) * per_host))
        assert dist.get_process_group_ranks(mesh.get_group('replicate')) == list(range(place, n, per_host))


@pytest.mark.parametrize('n', SIZES)
def test_a_sharded_model_leaves_a_rank_its_part_of_the_weights(world, n):
    """An n-th, of its gradients too; what does not come out even is the first ranks'."""
    shapes = [(1024, 16), (1024,), (3, 1024), (3,)]
    for rank in (0, n - 1):
        world(n, rank)
        model = nn.Sequential(nn.Linear(16, 1024), nn.Linear(1024, 3))
        fully_shard(model, mesh=init_device_mesh('cpu', (n,)))
        for p, (rows, *rest) in zip(model.parameters(), shapes):
            each = -(-rows // n)
            own = max(min(rows - each * rank, each), 0)
            assert p.to_local().shape == (own, *rest)


def test_the_own_part_of_a_tensor_in_shares_is_in_its_memory(world):
    """Plain and without a gradient; a tensor that is whole is itself."""
    world(8, 3)
    model = nn.Linear(5, 16)
    whole = model.weight
    assert own_part(whole) is whole and not is_share(whole)
    fully_shard(model, mesh=init_device_mesh('cpu', (8,)))
    part = own_part(model.weight)
    assert is_share(model.weight) and type(part) is torch.Tensor and not part.requires_grad and part.shape == (2, 5)
    part.fill_(7)
    assert model.weight.to_local().tolist() == [[7] * 5] * 2
