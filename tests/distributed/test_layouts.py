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
from minifast.distributed import of_one_process, teardown_distrib
from minifast.learner import Learner

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
