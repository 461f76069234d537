"""Accumulated and clipped gradients, short epochs, frozen batch norm."""
from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_learner import Interrupt, deep, learner, same, weights
from torch import nn

from minifast.callback import fp16, mixup, schedule, tracker, training
from minifast.callback.channelslast import ChannelsLast
from minifast.callback.core import Callback, CancelBatchException, CancelTrainException, CancelValidException
from minifast.callback.hook import ActivationStats, HookCallback
from minifast.callback.training import (EMA, BnFreeze, CastToTensor, GradientAccumulation, GradientClip,
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


# ---------------------------------------------------------------- asked of the callbacks themselves

def test_frozen_norms_are_those_inside_whose_own_weights_are_frozen():
    """Not the module that is asked, nor one without weights, nor another layer."""
    free, plain, frozen = nn.BatchNorm1d(2), nn.BatchNorm1d(2, affine=False), nn.BatchNorm1d(2).requires_grad_(False)
    linear = nn.Linear(2, 2).requires_grad_(False)
    set_bn_eval(nn.Sequential(free, nn.Sequential(plain, frozen, linear)))
    assert [m.training for m in (free, plain, frozen, linear)] == [True, True, False, True]
    set_bn_eval(nn.Sequential(frozen), use_eval=False)
    assert frozen.training
    set_bn_eval(frozen)
    assert frozen.training


@pytest.mark.parametrize('pct, n_iter, stops_at', [(.5, 4, 2), (.3, 10, 3), (0., 4, 0), (.01, 4, 1)])
@pytest.mark.parametrize('training, short_valid', [(True, True), (True, False), (False, True), (False, False)])
def test_a_short_epoch_ends_behind_its_part_of_the_batches(pct, n_iter, stops_at, training, short_valid):
    """Each part by its own exception, a validation where it is wanted."""
    cb = ShortEpochCallback(pct, short_valid)
    for i in range(n_iter):
        cb.learn = SimpleNamespace(iter=i, n_iter=n_iter, training=training)
        ends = i >= stops_at and (training or short_valid)
        with pytest.raises(CancelTrainException if training else CancelValidException) if ends else nullcontext():
            cb.after_batch()


@pytest.mark.parametrize('n_acc, left, steps', [(8, 9, True), (9, 1, True), (9, 0, True), (20, 1, False),
                                                (20, 0, True)])
def test_a_step_is_made_where_the_items_are_together_or_the_epoch_is_over(n_acc, left, steps):
    """Batches of four and five: gradients are then the mean of the items there are, each batch's loss its own."""
    cb, p = GradientAccumulation(n_acc), nn.Parameter(torch.zeros(2))
    p.grad = torch.full((2,), 2.)
    cb.count = 4
    cb.learn = SimpleNamespace(ranks=None, yb=(torch.zeros(5),), loss_grad=torch.tensor(n_acc / 5.), iter=9 - left - 1,
                               n_iter=9, opt=SimpleNamespace(param_groups=[{'params': [p, nn.Parameter(p.data)]}]))
    with nullcontext() if steps else pytest.raises(CancelBatchException):
        cb.before_step()
    assert cb.learn.loss_grad == pytest.approx((n_acc / 5) ** 2) and cb.count == (0 if steps else 9)
    assert p.grad.tolist() == pytest.approx([2 * (n_acc / 9 if steps and n_acc > 9 else 1)] * 2)
    cb.learn.loss_grad = torch.tensor(float(n_acc))
    cb.after_loss()
    assert cb.learn.loss_grad == 5
    cb.count = 3
    assert cb.state_dict() == {'count': 3}
    for reset in (cb.before_fit, cb.cleanup_fit):
        cb.load_state_dict({'count': 7})
        assert cb.count == 7
        reset()
        assert cb.count == 0


def average(fitting=True, **kwargs):
    """An average of a model in the middle of a fit, and the model, whose weights are ones and the average's zeros."""
    cb, model = EMA(.5, **kwargs), nn.Linear(2, 1)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(1)
    cb.learn = SimpleNamespace(model=model, fitting=fitting, searching=False, epoch=0)
    cb.average = [torch.zeros(1, 2), torch.zeros(1)]
    return cb, model


@pytest.mark.parametrize('change, stands_in', [
    ({}, True), ({'validate_ema': False}, False), ({'average': None}, False), ({'swapped': True}, False),
    ({'_fresh': True}, False)])
def test_an_average_stands_in_where_there_is_one_of_this_fit(change, stands_in):
    """In validations that want it; outside of a fit that of the last one does."""
    cb, model = average()
    vars(cb).update(change)
    with cb.as_measured():
        assert model.bias.item() == (0 if stands_in else 1)
    assert model.bias.item() == 1
    cb.before_validate()
    assert model.bias.item() == (0 if stands_in else 1)
    cb.after_epoch()
    assert change.get('swapped') or model.bias.item() == 1
    if '_fresh' in change:
        cb.learn.fitting = False
        with cb.as_measured():
            assert model.bias.item() == 0
    with pytest.raises(ZeroDivisionError), cb.as_measured():
        raise ZeroDivisionError
    assert change.get('swapped') or model.bias.item() == 1


def test_an_average_as_a_model_is_a_copy():
    """Whichever of the two stands in the model; before there is one its start is told."""
    cb, model = average(start_epoch=3)
    for _ in range(2):
        found = cb.averaged_model()
        assert found is not model and found.bias.item() == 0 and model.bias.item() == (0 if cb.swapped else 1)
        cb._swap()
    cb.average = None
    with pytest.raises(ValueError, match='^no average yet: it starts with epoch 3 of a fit$'):
        cb.averaged_model()


@pytest.mark.parametrize('replace, fitting, there, left', [
    (True, True, True, 0), (False, True, True, 1), (True, False, True, 1), (True, True, False, 1)])
def test_an_average_is_left_in_the_model_behind_a_fit_that_is_asked_for_it(replace, fitting, there, left):
    """Not behind a prediction; it is then no average any more."""
    cb, model = average(fitting, replace_weights=replace)
    cb.average = cb.average if there else None
    cb.after_fit()
    assert model.bias.item() == left and not cb.swapped and (cb.average is None) is (left == 0 or not there)


def test_an_average_goes_on_from_what_it_has_said():
    """In tensors of its own; of another model's weights it is refused."""
    cb, model = average()
    cb.n_steps, cb._fresh = 4, True
    state = cb.state_dict()
    other, _ = average()
    other.load_state_dict({**state, 'swapped': True})
    assert (other.n_steps, other.swapped, other._fresh) == (4, True, True)
    assert all(map(torch.equal, other.average, cb.average)) and other.average[0] is not cb.average[0]
    with pytest.raises(ValueError, match='zip'):
        other.load_state_dict({**state, 'average': state['average'][:1]})
    other.load_state_dict({**state, 'average': None})
    assert other.average is None and other.n_steps == 4


def test_an_average_begins_anew_with_each_fit_and_takes_counts_as_they_are():
    """From the weights at its start; a search for a rate has none; whole numbers are no average."""
    cb, model = average(start_epoch=1, warmup=True)
    cb.learn.searching = True
    cb.before_fit()
    assert not cb.run and not cb._fresh
    cb.learn.searching = False
    cb.before_fit()
    cb.swapped = False
    cb.before_train()
    assert cb.run and cb._fresh and cb.average[1] == 0
    cb.after_step()
    assert cb.n_steps == 0
    cb.learn.epoch = 1
    model.register_buffer('n', torch.tensor(3))
    cb.before_train()
    assert [t.tolist() for t in cb.average] == [[[1, 1]], [1], 3] and not cb._fresh
    with torch.no_grad():
        model.bias.fill_(11), model.n.fill_(8)
    cb.after_step()
    assert cb.average[1].item() == pytest.approx(10) and cb.average[2] == 8 and cb.n_steps == 1  # decay 1 / 10
    cb.n_steps = 100
    cb.after_step()
    assert cb.average[1].item() == pytest.approx(10.5)  # never more than told


def test_before_any_fit_there_is_no_average_to_say():
    """As a checkpoint in front of the first step has it."""
    assert EMA().state_dict() == {'average': None, 'n_steps': 0, 'swapped': False, 'fresh': False}
