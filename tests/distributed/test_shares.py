"""What each of several processes makes of a loader's batches: laws that need one process only."""
from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from minifast.callback.distributed import _with_synced_norms
from minifast.data.core import DataLoaders, PartialDL, WeightedDL
from minifast.data.load import DataLoader
from minifast.distributed import Share, is_distributed, num_distrib, on_own, rank_distrib
from minifast.learner import Learner

ITEMS = TensorDataset(torch.arange(43))
KINDS = {
    'shuffled': lambda bs: DataLoader(ITEMS, bs, shuffle=True),
    'drop_last': lambda bs: DataLoader(ITEMS, bs, shuffle=True, drop_last=True),
    'again and again': lambda bs: DataLoader(ITEMS, bs, sampler=[0, 1, 1, 5, 1, 0, 7] * 5),
    'weighted': lambda bs: WeightedDL(ITEMS, bs, shuffle=True, wgts=range(1, 44), num_workers=0),
    'partial': lambda bs: PartialDL(ITEMS, bs, partial_n=29, num_workers=0),
    'batch_sampler': lambda bs: DataLoader(ITEMS, batch_sampler=[[3, 1, 4], [1, 5, 9, 2], [6]]),
    'own draws': lambda bs: DataLoader(ITEMS, bs, shuffle=True, after_item=lambda x: (x[0], torch.rand(3)))}


def batches(dl):
    """The batches of epoch 2, each as the rows of what is in it."""
    dl.begin(11, 2)
    return [list(zip(*[part.tolist() for part in b])) for b in dl]


@pytest.mark.parametrize('n_ranks', [2, 3, 4])
@pytest.mark.parametrize('kind', KINDS)
def test_shares_together_are_the_batches_of_one_process(kind, n_ranks):
    """Of each batch every n-th item, drawn from the same keys; and all say the same length."""
    whole, parts = KINDS[kind](12), [KINDS[kind](12 // n_ranks) for _ in range(n_ranks)]
    for rank, dl in enumerate(parts):
        dl.share_out(rank, n_ranks)
    wanted, found = batches(whole), [batches(dl) for dl in parts]
    assert {len(dl) for dl in parts} == {len(whole)} == {len(wanted)}
    for rank in range(n_ranks):
        assert found[rank] == [batch[rank::n_ranks] for batch in wanted if batch[rank::n_ranks]]


@pytest.mark.parametrize('n_ranks', [2, 3, 4])
def test_where_a_rank_has_no_item_others_stand_in_when_it_must_go_along(n_ranks):
    """In training, marked as such; elsewhere the batch is left out."""
    first = TensorDataset(torch.arange(13))
    for rank in range(n_ranks):
        dl = DataLoader(first, 12 // n_ranks)
        dl.share_out(rank, n_ranks)
        assert [dl.stands_in for _ in dl] == ([False, False] if rank == 0 else [False])
        dl.share_out(rank, n_ranks, fill=True)
        marks = [(dl.stands_in, b[0].tolist()) for b in dl]
        assert marks[1] == (rank > 0, [12]) and not marks[0][0] and len(marks) == 2
    assert Share(rank=1, n_ranks=2, fill=True).of([7, 8, 9], 0, set()) == [8]
    noted = set()
    assert Share(rank=3, n_ranks=4, fill=True).of([7, 8, 9], 5, noted) == [7, 8] and noted == {5}


def test_looking_and_what_is_done_alone_need_no_other_process():
    """A batch by hand, and everything in a block of `on_own`; a changed loader keeps its share."""
    dl = DataLoader(ITEMS, 4).new(bs=6)
    dl.share_out(1, 2)
    assert dl.one_batch()[0].tolist() == list(range(6)) and len(dl) == 4
    assert next(iter(dl.new(num_workers=0)))[0].tolist() == [1, 3, 5, 7, 9, 11]
    with on_own():
        assert len(dl) == 8 and next(iter(dl))[0].tolist() == list(range(6))
    assert next(iter(dl))[0].tolist() == [1, 3, 5, 7, 9, 11]


def test_bs_of_all_is_shared_out_by_what_the_environment_says(monkeypatch):
    """Evenly, or an error names the numbers."""
    assert DataLoader(ITEMS, global_bs=12).bs == 12
    monkeypatch.setenv('WORLD_SIZE', '4')
    assert DataLoader(ITEMS, global_bs=12).bs == 3
    with pytest.raises(ValueError, match='global_bs=10 cannot be shared out evenly by 4 processes'):
        DataLoader(ITEMS, global_bs=10)


def test_one_process_is_of_rank_0_and_of_no_number(monkeypatch):
    """As fastai counts: scripts ask `if num_distrib()` whether several were started."""
    for name in ('RANK', 'WORLD_SIZE'):
        monkeypatch.delenv(name, raising=False)
    assert (rank_distrib(), num_distrib(), is_distributed()) == (0, 0, False)
    monkeypatch.setenv('RANK', '1'), monkeypatch.setenv('WORLD_SIZE', '2')
    assert (rank_distrib(), num_distrib(), is_distributed()) == (1, 2, False)


def test_without_a_strategy_one_process_trains_as_ever(monkeypatch):
    """And several are an error, not copies."""
    data = TensorDataset(torch.randn(8, 2), torch.randn(8, 1))
    dls = DataLoaders(DataLoader(data, 4), DataLoader(data, 4))
    learn = Learner(dls, nn.Linear(2, 1), nn.MSELoss(), strategy=None)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
        monkeypatch.setenv('WORLD_SIZE', '2')
        with pytest.raises(RuntimeError, match='2 processes were started and this learner has not joined them'):
            learn.fit(1)


def test_synced_norms_share_what_they_stand_in_for():
    """torch's SyncBatchNorm in the place of batch norm, with its parameters and buffers; names stay."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()), nn.BatchNorm2d(4))
    before, own = dict(model.named_parameters()), [model[1][0], model[2]]
    replaced = _with_synced_norms(model)
    assert [type(model[1][0]), type(model[2])] == [nn.SyncBatchNorm] * 2
    assert all(p is before[name] for name, p in model.named_parameters())
    assert model[1][0].running_mean is own[0].running_mean
    for parent, name, norm in replaced:
        setattr(parent, name, norm)
    assert [model[1][0], model[2]] == own
