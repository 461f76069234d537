"""Loaders that draw their items: what is drawn is a function of (seed, epoch), as often as the weights say."""
from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from minifast.callback.data import CollectDataCallback, PartialDL, WeightedDL
from minifast.data.block import CategoryBlock, DataBlock, TransformBlock
from minifast.data.core import Datasets
from minifast.data.transforms import IndexSplitter
from minifast.test_utils import synth_learner

SPLITS = [list(range(100)), list(range(100, 120))]


def numbers(**kwargs):
    return Datasets(list(range(120)), [[float]], splits=SPLITS, **kwargs)


def drawn(dl, seed=5, epoch=2, start=0):
    dl.begin(seed, epoch, start)
    return [int(i) for b in dl for i in b[0]]


@pytest.mark.parametrize('workers', [0, 1, 3])
@pytest.mark.parametrize('way', ['weighted', 'partial'])
def test_what_is_drawn_is_a_function_of_seed_and_epoch(way, workers):
    """For any number of workers, from any batch on, whatever the global generators; each epoch draws anew."""
    given = {'weighted': {'wgts': range(100)}, 'partial': {'partial_n': 24}}[way]
    dl = getattr(numbers(), f'{way}_dataloaders')(bs=8, num_workers=workers, device='cpu', **given).train
    whole = drawn(dl)
    torch.manual_seed(workers)
    np.random.seed(workers)
    assert drawn(dl) == whole and drawn(dl, start=2) == whole[16:]
    assert drawn(dl, epoch=3) != whole and drawn(dl, seed=6) != whole
    assert len(whole) == len(dl) * 8 == {'weighted': 96, 'partial': 24}[way]
    reference = getattr(numbers(), f'{way}_dataloaders')(bs=8, num_workers=0, device='cpu', **given).train
    assert drawn(reference) == whole


def test_items_are_drawn_as_often_as_their_weights_say():
    """Over 200 epochs; an item of weight zero never; validation sees each item once, in order."""
    dls = numbers().weighted_dataloaders([0, 3] + [1] * 98, bs=10, num_workers=0, device='cpu')
    counts = Counter(i for epoch in range(200) for i in drawn(dls.train, epoch=epoch))
    share = 200 * 100 / 101
    assert counts[0] == 0 and abs(counts[1] - 3 * share) < 5 * (3 * share) ** .5
    assert max(abs(counts[i] - share) for i in range(2, 100)) < 5 * share ** .5
    assert drawn(dls.valid) == SPLITS[1]


def test_weights_belong_to_their_items():
    """A loader made of one keeps them for the same items and leaves them for others; without shuffling none count."""
    dls = numbers().weighted_dataloaders([0] * 99 + [1], bs=10, num_workers=0, device='cpu')
    assert set(drawn(dls.train.new())) == {99}
    assert drawn(dls.train.new(shuffle=False, drop_last=False)) == SPLITS[0]
    assert drawn(dls.test_dl(list(range(7)))) == list(range(7))
    with pytest.raises(ValueError, match='3 weights for 100 items'):
        numbers().weighted_dataloaders([1, 2, 3])


def test_a_part_is_drawn_without_replacement_and_changes():
    """All items come up in time; the last batch may be short; a part larger than all is all."""
    dls = numbers().partial_dataloaders(25, bs=10, num_workers=0, device='cpu', drop_last=False)
    parts = [drawn(dls.train, epoch=epoch) for epoch in range(60)]
    assert all(len(set(part)) == len(part) == 25 for part in parts) and len(dls.train) == 3
    assert set().union(*parts) == set(SPLITS[0]) and drawn(dls.valid) == SPLITS[1]
    assert sorted(drawn(PartialDL(numbers().valid, bs=5, partial_n=30, num_workers=0))) == SPLITS[1]


def test_a_block_takes_weights_for_all_items():
    """Those of validation items are passed over, and the block's own transforms are kept."""
    block = DataBlock((TransformBlock, CategoryBlock), splitter=IndexSplitter([0, 1]), get_y=lambda i: 'ab'[i % 2],
                      item_tfms=[lambda x: x], get_x=float)
    dls = block.weighted_dataloaders(list(range(10)), [9, 9, 1, 0, 1, 0, 1, 0, 1, 0], bs=4, num_workers=0, device='cpu')
    assert isinstance(dls.train, WeightedDL) and {i % 2 for i in drawn(dls.train)} == {0}
    assert drawn(dls.valid) == [0, 1] and len(dls.train.after_item.fs) == 2
    with pytest.raises(ValueError, match='3 weights for 10 items'):
        block.weighted_dataloaders(list(range(10)), [1, 2, 3])


def test_batches_of_a_fit_are_collected():
    """Inputs, targets, predictions and loss of each batch, detached."""
    learn = synth_learner(n_trn=3, n_val=2, cbs=CollectDataCallback())
    with learn.no_bar(), learn.no_logging():
        learn.fit(2)
    assert len(learn.collect_data.data) == 10
    (x,), (y,), pred, loss = learn.collect_data.data[0]
    assert x.shape == y.shape == pred.shape and not pred.requires_grad
    assert torch.equal(loss, torch.nn.functional.mse_loss(pred, y))
