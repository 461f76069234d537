"""Laws of the losses: fastai's values, gradients and decoding; errors that say what fits."""
from __future__ import annotations

import copy
import json
import re
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from make_fastai_numbers import LOSSES, loss_inputs, loss_run
from small_learner import learner
from torch import nn

import minifast.losses as losses
from minifast.losses import (BCEWithLogitsLossFlat, BaseLoss, CrossEntropyLossFlat, DiceLoss, FocalLossFlat, L1LossFlat,
                             LabelSmoothingCrossEntropy, LabelSmoothingCrossEntropyFlat, MSELossFlat, fit_weights)
from minifast.torch_core import TensorCategory, TensorImage

NUMBERS = json.loads((Path(__file__).parent / 'data' / 'losses.json').read_text(encoding='utf-8'))['numbers']


@pytest.mark.parametrize('label', LOSSES)
def test_loss_equals_fastai(label):
    """Value, gradient, values without reduction, activation and decoding are fastai's."""
    got, want = loss_run(losses, *LOSSES[label]), NUMBERS[label]
    assert got.keys() == want.keys()
    for key in want:
        torch.testing.assert_close(torch.tensor(got[key]), torch.tensor(want[key]), rtol=1e-6, atol=1e-6, msg=key)


def test_cross_entropy_flat_is_torchs_to_the_bit():
    """Flattening copies nothing, so a plain loop and ours see one value and one gradient."""
    pred, targ = loss_inputs('class')
    ours, theirs = pred.clone().requires_grad_(), pred.clone().requires_grad_()
    CrossEntropyLossFlat()(ours, targ).backward()
    F.cross_entropy(theirs, targ).backward()
    assert torch.equal(ours.grad, theirs.grad)


def test_loss_of_a_volume_equals_torchs():
    """The class axis is moved without mixing up the others: 3d segmentation too."""
    pred, targ = torch.rand(2, 3, 4, 5, 6), torch.randint(0, 3, (2, 4, 5, 6))
    torch.testing.assert_close(CrossEntropyLossFlat(axis=1)(pred, targ), F.cross_entropy(pred, targ))


def test_loss_takes_marked_tensors_and_gives_a_plain_one():
    """Markers go no further than the loss's door."""
    pred, targ = loss_inputs('class')
    assert type(CrossEntropyLossFlat()(TensorImage(pred), TensorCategory(targ))) is torch.Tensor


@pytest.mark.parametrize('dtype', [torch.uint8, torch.int8, torch.int32], ids=str)
def test_class_targets_of_any_integer_type(dtype):
    """Small integer class indices are widened."""
    pred, targ = loss_inputs('class')
    assert torch.equal(CrossEntropyLossFlat()(pred, targ.to(dtype)), CrossEntropyLossFlat()(pred, targ))


@pytest.mark.parametrize('dtype', [torch.int64, torch.uint8, torch.bool, torch.float64], ids=str)
@pytest.mark.parametrize('make', [MSELossFlat, L1LossFlat, losses.BCELossFlat, BCEWithLogitsLossFlat])
def test_targets_that_are_numbers_become_float32(make, dtype):
    """Of whatever type they are: value, gradient and their type are those of float32 targets; unless told otherwise."""
    pred, targ = torch.rand(4, 1), torch.tensor([0, 1, 1, 0])
    found = []
    for y in (targ.to(dtype), targ.float()):
        x = pred.clone().requires_grad_()
        loss = make()(x, y)
        loss.backward()
        found.append((loss.detach(), x.grad))
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(*found))
    assert make(floatify=False)(pred.double(), targ.double()).dtype == torch.float64


@pytest.mark.parametrize('make', [MSELossFlat, L1LossFlat, losses.BCELossFlat, BCEWithLogitsLossFlat])
def test_losses_of_numbers_follow_the_axis(make):
    """Each number's own loss comes in the order of the axes behind the move, as those of the classes do."""
    pred, targ = torch.rand(2, 3, 4), torch.randint(0, 2, (2, 3, 4))
    for axis in (1, -1):
        loss = make(axis=axis, reduction='none')
        assert torch.equal(loss(pred, targ), loss.func(pred, targ.float()).movedim(axis, -1).reshape(-1))


def test_masks_may_carry_a_channel_axis():
    """[B,1,H,W] class indices are [B,H,W] class indices."""
    pred, targ = loss_inputs('mask')
    loss = CrossEntropyLossFlat(axis=1)
    assert torch.equal(loss(pred, targ[:, None]), loss(pred, targ))


def test_soft_targets_go_through_unflattened():
    """`flatten=False` passes class probabilities on to torch."""
    pred, targ = torch.rand(4, 3), torch.rand(4, 3).softmax(1)
    assert torch.equal(CrossEntropyLossFlat(flatten=False)(pred, targ), F.cross_entropy(pred, targ))


def test_reduction_can_be_set():
    """One number an item with `'none'`, and back."""
    for make in (CrossEntropyLossFlat, FocalLossFlat, LabelSmoothingCrossEntropyFlat, LabelSmoothingCrossEntropy):
        loss = make()
        loss.reduction = 'none'
        assert loss(*loss_inputs('class')).shape == (4,)
        loss.reduction = 'sum'
        assert loss(*loss_inputs('class')).ndim == 0


def test_activation_and_decodes_follow_the_axis():
    """Probabilities sum to one over the class axis and the answer is its largest, for every class loss."""
    pred, _ = loss_inputs('mask')
    for make in (CrossEntropyLossFlat, FocalLossFlat, LabelSmoothingCrossEntropyFlat, DiceLoss):
        loss = make(axis=1)
        torch.testing.assert_close(loss.activation(pred).sum(1), torch.ones(2, 4, 5))
        assert torch.equal(loss.decodes(pred), pred.argmax(1))


def test_losses_without_activation_leave_predictions_alone():
    """Regression decodes to what the model said."""
    x = torch.rand(3)
    assert MSELossFlat().activation(x) is x and L1LossFlat().decodes(x) is x
    assert torch.equal(BCEWithLogitsLossFlat(thresh=0.3).decodes(torch.tensor([0.2, 0.4])), torch.tensor([False, True]))


@pytest.mark.parametrize('loss, pred, targ, words', [
    (CrossEntropyLossFlat(), torch.rand(2, 3, 4, 5), torch.zeros(2, 4, 5).long(),
     r'\[2, 3, 4, 5\] float32 and targets \[2, 4, 5\] int64.*24 rows of 5 classes.*there are 40; is axis=-1'),
    (CrossEntropyLossFlat(), torch.rand(4, 3), torch.rand(4), 'integer type.*BCEWithLogitsLossFlat'),
    (FocalLossFlat(), torch.rand(4, 3), torch.rand(4, 3), r'FocalLossFlat: predictions \[4, 3\] float32'),
    (MSELossFlat(), torch.rand(4, 2), torch.rand(4), r'MSELossFlat.*8 predicted.*there are 4.*n_out'),
    (BCEWithLogitsLossFlat(), torch.rand(4, 2), torch.zeros(4, 3), r'8 predicted.*there are 12'),
    (DiceLoss(), torch.rand(2, 3, 4, 5), torch.zeros(2, 3, 4, 5), 'axis 1 need class indices.*not one-hot'),
], ids=['axis', 'float class', 'focal', 'mse', 'bce', 'dice'])
def test_mismatch_says_what_was_seen_and_what_is_meant(loss, pred, targ, words):
    """Sizes that cannot fit are a ValueError with both sizes and a hint."""
    with pytest.raises(ValueError, match=words):
        loss(pred, targ)


def test_wrong_kinds_are_refused_by_name():
    """Tuples, misspelt keywords and a flattened pos_weight."""
    with pytest.raises(TypeError, match='predictions are a tuple'):
        CrossEntropyLossFlat()((torch.rand(2, 3),), torch.zeros(2).long())
    with pytest.raises(TypeError, match="CrossEntropyLossFlat.*'wieght', did you mean 'weight'"):
        CrossEntropyLossFlat(wieght=torch.ones(3))
    with pytest.raises(TypeError, match="MSELossFlat.*'reductoin', did you mean 'reduction'"):
        MSELossFlat(reductoin='sum')
    with pytest.raises(ValueError, match='pos_weight'):
        BCEWithLogitsLossFlat(pos_weight=torch.ones(2), flatten=True)


def test_loss_moves_its_weights_and_can_be_copied():
    """`to` moves the inner loss, a deep copy is independent, `func` is torch's loss."""
    loss = FocalLossFlat(weight=torch.ones(3))
    loss.to(torch.float64)
    assert loss.func.weight.dtype == torch.float64
    other = copy.deepcopy(loss)
    other.reduction = 'sum'
    assert loss.reduction == 'mean' and 'FocalLoss' in repr(loss)


def test_base_loss_wraps_users_own():
    """Any loss class or function that makes one can be flattened."""
    loss = BaseLoss(partial(nn.HuberLoss, delta=0.5), is_2d=False, floatify=True)
    pred, targ = torch.rand(4, 1), torch.tensor([0, 1, 0, 1])
    torch.testing.assert_close(loss(pred, targ), F.huber_loss(pred[:, 0], targ.float(), delta=0.5))
    pred, targ = torch.rand(2, 5, 3), torch.randint(0, 3, (2, 5))  # the classes come last, targets stay integers
    wanted = F.cross_entropy(pred.view(10, 3), targ.view(10))
    torch.testing.assert_close(BaseLoss(nn.CrossEntropyLoss)(pred, targ), wanted)
    torch.testing.assert_close(BaseLoss(nn.CrossEntropyLoss, axis=1)(pred.movedim(2, 1), targ), wanted)
    unflat = BaseLoss(nn.CrossEntropyLoss, axis=1, flatten=False)
    assert unflat.flatten is False and repr(unflat) == 'FlattenedLoss of CrossEntropyLoss()'


@pytest.mark.parametrize('loss, pred, targ, words, wrong_rows', [
    (CrossEntropyLossFlat(), torch.rand(4, 3), torch.tensor([0, 1, 2, 3]),
     r'targets \[4\] hold the codes 0, 1, 2, 3, and the loss function takes 0..2 \(3 classes are predicted\)', [3]),
    (CrossEntropyLossFlat(), torch.rand(20, 3), torch.arange(20),
     r'codes 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, \.\.\. 19, and', [*range(3, 20)]),
    (CrossEntropyLossFlat(), torch.rand(4, 3), torch.tensor([0, -1, 2, -100]), 'codes -100, -1, 0, 2, and', [1]),
    (CrossEntropyLossFlat(axis=1), torch.rand(1, 2, 1, 2), torch.tensor([[[0, 255]]]), 'div_mask=255', [0]),
    (CrossEntropyLossFlat(axis=1), torch.rand(1, 2, 1, 3), torch.tensor([[[0, 255, 1]]]), 'ignore_index=255', [0]),
    (CrossEntropyLossFlat(axis=1), torch.rand(1, 2, 1, 2), torch.tensor([[[0, 2]]]), 'let get_y give a mask', [0]),
    (BCEWithLogitsLossFlat(), torch.rand(2, 3), torch.tensor([[0, 1, 2], [0, 0, 0]]), r'takes 0..1 \(yes or no\)', [0]),
])
def test_codes_that_no_class_has_are_named(loss, pred, targ, words, wrong_rows):
    """What the targets hold, what the loss takes, and the way out of a mask's usual mistakes."""
    said, rows = losses.wrong_targets(loss, pred, targ)
    assert re.search(words, said) and rows == wrong_rows


def test_codes_that_fit_are_not_complained_of():
    """Nor the code that counts for nothing, nor what is no tensor."""
    loss, pred = CrossEntropyLossFlat(ignore_index=7), torch.rand(2, 3)
    for targ in (torch.tensor([0, 2]), torch.tensor([7, 2]), [0, 9], None, torch.tensor(9)):
        assert losses.wrong_targets(loss, pred, targ) is None
    assert losses.wrong_targets(loss, [pred], torch.tensor([9, 9])) is None
    assert losses.wrong_targets(loss, torch.rand(3), torch.tensor([9, 9, 9])) is None
    assert losses.wrong_targets(nn.BCELoss(), torch.rand(2, 1), torch.tensor([[0.], [1.]])) is None


@pytest.mark.parametrize('make', [
    lambda w: CrossEntropyLossFlat(weight=w), lambda w: FocalLossFlat(weight=w),
    lambda w: nn.CrossEntropyLoss(weight=w),
    lambda w: LabelSmoothingCrossEntropy(weight=w), lambda w: nn.NLLLoss(weight=w)])
def test_class_weights_of_float64_take_the_models_type(make):
    """scikit-learn's class weights are float64: they train as float32 ones do, and a float64 model keeps them."""
    weights = torch.tensor([1., 2., 3., 4.], dtype=torch.float64)
    learn, twin = learner(loss_func=make(weights)), learner(loss_func=make(weights.float()))
    learn.fit(1), twin.fit(1)
    assert torch.equal(learn.model[1].weight, twin.model[1].weight) and learn.validate() == twin.validate()
    double = make(weights)
    fit_weights(double, torch.float64)
    assert getattr(double, 'func', double).weight.dtype == torch.float64
