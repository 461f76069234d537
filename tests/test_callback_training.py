"""Accumulated and clipped gradients, short epochs, frozen batch norm."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small_learner import Interrupt, deep, learner, same, weights
from torch import nn

from minifast.callback import fp16, mixup, schedule, tracker, training
from minifast.callback.channelslast import ChannelsLast
from minifast.callback.core import Callback, CancelTrainException
from minifast.callback.hook import ActivationStats, HookCallback
from minifast.callback.training import (BnFreeze, CastToTensor, GradientAccumulation, GradientClip,
                                        ShortEpochCallback, SkipToEpoch, set_bn_eval)

FASTAI = json.loads((Path(__file__).parent / 'data' / 'fastai_callbacks.json').read_text())
HERE = {'ChannelsLast': ChannelsLast, 'HookCallback': HookCallback, 'ActivationStats': ActivationStats}
WATCH_TRAINING_ONLY = {'TerminateOnNaNCallback'}


@pytest.mark.parametrize('name', FASTAI['attributes'])
def test_callbacks_run_in_the_order_of_fastai(name):
    """`order`, `run_train`, `run_valid` and `remove_on_fetch` of every callback are fastai's."""
    rooms = (fp16, mixup, schedule, tracker, training)
    cls = HERE.get(name) or next(getattr(room, name) for room in rooms if hasattr(room, name))
    wanted = FASTAI['attributes'][name]
    wanted['run_valid'] &= name not in WATCH_TRAINING_ONLY
    assert {attr: getattr(cls, attr) for attr in wanted} == wanted


# ---------------------------------------------------------------- accumulation

def test_accumulation_gives_the_weights_of_fastai():
    """Full windows scale and step as fastai's do."""
    learn = learner()
    learn.fit(1, lr=.1, cbs=GradientAccumulation(16))
    torch.testing.assert_close(learn.model[1].bias.tolist(), FASTAI['fits']['accumulation'], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('n, n_acc', [(32, 16), (32, 32), (28, 16), (30, 12), (4, 16)])
def test_accumulation_trains_like_larger_batches(n, n_acc):
    """Batches of 4 accumulated to `n_acc` train as batches of `n_acc`, the tail of the epoch included."""
    small, large = learner(n=n, bs=4), learner(n=n, bs=n_acc)
    small.fit(2, lr=.1, cbs=GradientAccumulation(n_acc))
    large.fit(2, lr=.1)
    torch.testing.assert_close(weights(small), weights(large), rtol=1e-5, atol=1e-6)


def test_accumulation_reports_each_batchs_own_loss():
    """Neither the recorded loss nor `loss_grad` behind the step carries the scaling."""
    class See(Callback):
        order, run_valid = 90, False

        def after_step(self):
            seen.append((float(self.loss), float(self.loss_grad)))
    seen, learn, twin = [], learner(), learner()
    learn.fit(1, lr=0., cbs=[GradientAccumulation(8), Detach(), See()])
    twin.fit(1, lr=0.)
    assert all(loss == pytest.approx(grad) for loss, grad in seen)
    assert same(list(map(float, learn.recorder.losses)), list(map(float, twin.recorder.losses)))


class Detach(Callback):
    """Takes the loss off its graph behind the backward pass, so that a test may look at it."""

    def after_backward(self):
        self.learn.loss, self.learn.loss_grad = self.loss.detach(), self.loss_grad.detach()


@pytest.mark.parametrize('how', ['interrupt', 'cancel'])
def test_accumulation_left_half_way_leaks_no_gradient_into_the_next_fit(how):
    """What was summed up when a fit ended early is dropped."""
    class Leave(Callback):
        def after_batch(self):
            if self.training and self.iter == 2:
                raise CancelTrainException
    learn = learner(bs=4)
    if how == 'cancel':
        learn.fit(1, lr=.1, cbs=[GradientAccumulation(16), Leave()])
    else:
        with pytest.raises(KeyboardInterrupt):
            learn.fit(1, lr=.1, cbs=[GradientAccumulation(16), Interrupt('after_batch', at=2)])
    assert all(p.grad is None or not p.grad.any() for p in learn.model.parameters())


def test_accumulation_goes_on_from_its_state():
    """The count of items is carried; the gradients are part of every checkpoint."""
    one, two = GradientAccumulation(16), GradientAccumulation(16)
    one.count = 12
    two.load_state_dict(one.state_dict())
    assert two.count == 12 and one.state_dict() == {'count': 12}  # the name that stands in files


# ---------------------------------------------------------------- clipping, short epochs, batch norm

def test_clip_gives_the_weights_of_fastai():
    """Gradients are clipped to the norm that fastai clips to."""
    learn = learner()
    learn.fit(1, lr=.1, cbs=GradientClip(.1))
    torch.testing.assert_close(learn.model[1].bias.tolist(), FASTAI['fits']['clip'], rtol=1e-5, atol=1e-7)


def test_clip_measures_the_norm_it_is_told():
    """The largest value, or a root of squares; smaller gradients stay."""
    class Seen(Callback):
        order = 12

        def before_step(self):
            self.grads = torch.cat([p.grad.flatten() for p in self.model.parameters()])
    for norm_type in (float('inf'), 2., 1.):
        for max_norm, reached in ((.01, True), (1e9, False)):
            learn, seen = learner(n=8), Seen()
            learn.fit(1, cbs=[GradientClip(max_norm, norm_type), seen])
            assert (abs(float(seen.grads.norm(norm_type)) - max_norm) < 1e-3 * max_norm) == reached


def test_clip_acts_on_the_sum_of_accumulated_gradients():
    """Accumulation and clipping together are clipping of the large batch."""
    small, large = learner(bs=4), learner(bs=16)
    small.fit(1, lr=.1, cbs=[GradientClip(.1), GradientAccumulation(16)])
    large.fit(1, lr=.1, cbs=GradientClip(.1))
    torch.testing.assert_close(weights(small), weights(large), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('pct, short_valid, trained, validated',
                         [(.01, True, 2, 2), (.6, True, 6, 6), (.01, False, 2, 8)])
def test_short_epoch_runs_a_part(pct, short_valid, trained, validated):
    """Training, and if asked validation, stop behind the batch that reaches `pct`."""
    class Count(Callback):
        def after_pred(self):
            counts[self.training] += 1
    counts, learn = {True: 0, False: 0}, learner(bs=4)
    learn.fit(1, cbs=[Count(), ShortEpochCallback(pct, short_valid)])
    assert counts == {True: trained, False: validated}


def frozen_model():
    model = nn.Sequential(deep(), nn.BatchNorm1d(4), nn.BatchNorm1d(4, affine=False))
    for p in model[0][1].parameters():
        p.requires_grad_(False)
    return model


def test_bn_freeze_keeps_frozen_statistics_only():
    """Statistics of a frozen batch norm stay, those of a trained one move on."""
    learn = learner(model=frozen_model(), train_bn=False)
    before = weights(learn)
    learn.fit(1, cbs=BnFreeze)
    after = weights(learn)
    assert torch.equal(before['0.1.running_mean'], after['0.1.running_mean'])
    assert not torch.equal(before['1.running_mean'], after['1.running_mean'])


def test_set_bn_eval_both_ways():
    """Frozen layers go into evaluation mode and back; trained ones and those without weights are left."""
    model = frozen_model().train()
    set_bn_eval(model)
    assert [m.training for m in (model[0][1], model[1], model[2])] == [False, True, True]
    set_bn_eval(model, use_eval=False)
    assert model[0][1].training
    set_bn_eval(model[0][1])
    assert model[0][1].training, 'it is what lies inside that is put into evaluation mode'


def test_names_of_other_releases_skip_epochs_and_cast():
    """`SkipToEpoch` leaves out whole epochs; `CastToTensor` hands on plain tensors with equal numbers."""
    seen = []

    class Watch(Callback):
        order = 20

        def before_batch(self):
            seen.append((self.epoch, type(self.xb[0])))
    learner().fit(3, cbs=[SkipToEpoch(2), CastToTensor(), Watch()])
    assert {epoch for epoch, _ in seen} == {2} and {kind for _, kind in seen} == {torch.Tensor}
