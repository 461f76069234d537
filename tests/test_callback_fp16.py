"""Mixed precision is entered and left with every batch, however the batch ends."""
from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from small_learner import Interrupt, deep, learner, same, weights

from minifast.callback import fp16
from minifast.callback.core import (
    Callback, CancelBatchException, CancelEpochException, CancelFitException, CancelStepException, CancelTrainException,
)
from minifast.callback.fp16 import AMPMode, AutoPrecision, MixedPrecision
from minifast.callback.training import GradientAccumulation, GradientClip
from minifast.data.core import DataLoaders
from minifast.hardware import FastPaths


class See(Callback):
    """Keeps what the model gives and whether autocast is on in each event."""

    order = 5

    def __init__(self):
        self.kinds, self.on = set(), {}

    def before_fit(self):
        self.handle = self.model[-1].register_forward_hook(lambda m, i, o: self.kinds.add(o.dtype))

    def after_pred(self):
        self.on['after_pred'] = torch.is_autocast_enabled('cpu')

    def before_backward(self):
        self.on['before_backward'] = torch.is_autocast_enabled('cpu')

    def cleanup_fit(self):
        self.handle.remove()


def test_bf16_on_a_cpu_runs_the_model_in_bfloat16():
    """The model's layers give bfloat16, the loss and the weights are float32, autocast is off in the backward pass."""
    learn, see = learner().to_bf16(), See()
    learn.fit(1, lr=.1, cbs=see)
    assert see.kinds == {torch.bfloat16} and see.on == {'after_pred': True, 'before_backward': False}
    assert learn.loss is None and {p.dtype for p in learn.model.parameters()} == {torch.float32}
    assert len(learn.recorder.losses) == 4 and learn.get_preds()[0].dtype == torch.float32


def test_fp16_on_a_cpu_just_runs_in_float32():
    """A script that asks for float16 trains on a machine without a GPU to the bits of a float32 training."""
    learn, twin = learner().to_fp16(), learner()
    learn.fit(2, lr=.1), twin.fit(2, lr=.1)
    assert same(weights(learn), weights(twin)) and hasattr(learn, 'mixed_precision')
    assert not hasattr(learn.to_fp32(), 'mixed_precision')


@pytest.mark.parametrize('leave', [KeyboardInterrupt, RuntimeError, CancelBatchException, CancelTrainException,
                                   CancelEpochException, CancelFitException])
@pytest.mark.parametrize('event_name', ['before_batch', 'after_pred', 'after_loss', 'before_backward', 'before_step'])
def test_autocast_is_off_however_a_batch_ends(leave, event_name):
    """No exit from a batch leaves autocast on, and the next training is that of an undisturbed twin."""
    class Leave(Callback):
        order = 99
    at = Leave()

    def raise_it():
        if learn.training:
            raise leave
    learn, twin = learner(n=16).to_bf16(), learner(n=16).to_bf16()
    setattr(at, event_name, raise_it)
    before = weights(learn)
    try:
        learn.fit(1, lr=0., cbs=at)
    except (KeyboardInterrupt, RuntimeError) as error:
        assert type(error) is leave
    assert not torch.is_autocast_enabled('cpu') and learn.scaler is None
    learn.model.load_state_dict(before)
    learn.fit(1, lr=.1), twin.fit(1, lr=.1)
    assert same(weights(learn), weights(twin))


def test_mixed_precision_refuses_what_it_does_not_know():
    """An unknown mode is a ValueError, an unknown GradScaler argument a TypeError with the near match."""
    with pytest.raises(ValueError, match="'fp16' or 'bf16'"):
        MixedPrecision('fp8')
    with pytest.raises(TypeError, match="did you mean 'init_scale'"):
        MixedPrecision(init_scal=2.)
    assert MixedPrecision('bf16').amp_mode is AMPMode.BF16


def test_mixed_precision_works_with_accumulation_and_clipping_on_many_fits():
    """The callbacks work together, with one instance over several fits."""
    learn = learner(model=deep(), bs=4, cbs=[GradientAccumulation(16), GradientClip, MixedPrecision('bf16')])
    learn.fit(1), learn.fit(1)
    with pytest.raises(KeyboardInterrupt):
        learn.fit(1, cbs=Interrupt('after_pred'))
    learn.fit(1)
    assert all(p.isfinite().all() for p in learn.model.parameters())


# ---------------------------------------------------------------- loss scaling; on a GPU it is in tests/gpu

@pytest.mark.parametrize('mode, device, scaled', [('fp16', 'cuda', True), ('fp16', 'mps', True),
                                                  ('bf16', 'cuda', False), ('fp16', 'cpu', False),
                                                  ('bf16', 'cpu', False)])
@pytest.mark.parametrize('asked', [None, True, False])
def test_loss_is_scaled_in_float16_on_accelerators(mode, device, scaled, asked, monkeypatch):
    """Its small gradients would be lost; bfloat16 and float32 need none, and `enabled=False` says no."""
    made = []

    def scaler(where, enabled=True, **kwargs):
        made.append((where, enabled, kwargs))
    monkeypatch.setattr(fp16, 'GradScaler', scaler)
    monkeypatch.setattr(fp16, 'autocast', lambda *args, **kwargs: None)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda: True)
    cb = MixedPrecision(mode, init_scale=4., **({} if asked is None else {'enabled': asked}))
    parameter = SimpleNamespace(device=torch.device(device))
    cb.learn = SimpleNamespace(model=SimpleNamespace(parameters=lambda: iter([parameter])))
    cb.before_fit()
    assert made == [(device, scaled and asked is not False, {'init_scale': 4.})]


@pytest.mark.parametrize('device', ['meta', None], ids=str)
@pytest.mark.parametrize('make', [MixedPrecision, partial(MixedPrecision, 'bf16'), AutoPrecision])
def test_precision_is_that_of_the_models_device(make, device, monkeypatch):
    """The fast paths, autocast and the scaler of where its parameters are; without parameters, of the CPU."""
    asked = []
    paths = FastPaths(False, False, 'told')
    monkeypatch.setattr(fp16, 'fast_paths', lambda device: asked.append(device) or paths)
    monkeypatch.setattr(fp16, 'autocast', lambda device, **kwargs: asked.append(device))
    monkeypatch.setattr(fp16, 'GradScaler', lambda device, **kwargs: asked.append(device))
    cb = make()
    model = torch.nn.Flatten() if device is None else torch.nn.Linear(1, 1, device=device)
    cb.learn = SimpleNamespace(model=model)
    cb.before_fit()
    assert set(asked) == {device or 'cpu'} and len(asked) == 2 + (make is AutoPrecision)


class Scaled(Callback):
    """Puts a loss scaler that works on a CPU behind MixedPrecision, and notes what it does."""

    order, run_valid = MixedPrecision.order + 1, False

    def __init__(self, overflow_at=None, **kwargs):
        self.kwargs, self.overflow_at = kwargs, overflow_at
        self.ratios, self.scales = [], []

    def before_fit(self):
        self.learn.scaler = torch.amp.GradScaler('cpu', **self.kwargs)

    def before_backward(self):
        self.ratios.append(float((self.learn.loss_grad / self.learn.loss).detach()))

    def after_backward(self):
        if self.train_iter == self.overflow_at:
            next(self.model.parameters()).grad.fill_(float('inf'))

    def after_batch(self):
        self.scales.append(self.learn.scaler.get_scale())


@pytest.mark.parametrize('overflow_at', [None, 2])
def test_scaled_training_is_that_without_a_scale_but_for_steps_that_overflow(overflow_at):
    """The loss goes backward times the scale, the step sees gradients without it, the scale moves with every step."""
    scaled = Scaled(overflow_at, init_scale=8., growth_interval=2)
    learn, twin = learner(cbs=MixedPrecision()), learner()
    learn.fit(1, lr=.1, cbs=[scaled, GradientClip(.5)])

    class Leave(Callback):
        order = 90

        def before_step(self):
            if self.train_iter == overflow_at:
                raise CancelStepException
    twin.fit(1, lr=.1, cbs=[Leave(), GradientClip(.5)])
    assert same(weights(learn), weights(twin))
    if overflow_at is None:
        assert scaled.ratios == [8., 8., 16., 16.] and scaled.scales == [8., 16., 16., 32.]
    else:
        assert scaled.ratios == [8., 8., 16., 8.] and scaled.scales[-1] == 8.


@pytest.mark.parametrize('leave', [CancelBatchException, CancelStepException])
def test_a_step_that_another_callback_leaves_is_confirmed_before_the_next_loss_is_scaled(leave):
    """The scale grows at the step that was left: the next gradients are unscaled by what their loss was scaled by."""
    class Leave(Callback):
        order = 90

        def before_step(self):
            if self.train_iter == 1:
                self.opt.zero_grad()
                raise leave
    scaled = Scaled(init_scale=8., growth_interval=2)
    learn, twin = learner(cbs=MixedPrecision()), learner()
    learn.fit(1, lr=.1, cbs=[scaled, Leave()])
    twin.fit(1, lr=.1, cbs=Leave())
    assert same(weights(learn), weights(twin)) and scaled.ratios[:2] == [8., 8.] and scaled.ratios[2] == 16.


def test_predictions_reach_the_loss_in_float32():
    """What the model gives in half precision is float32 for the loss and all behind it."""
    seen, learn = [], learner().to_bf16()
    loss_func = learn.loss_func
    learn.loss_func = lambda pred, y: seen.append(pred.dtype) or loss_func(pred, y)
    learn.fit(1, lr=.1)
    assert set(seen) == {torch.float32}


def test_fast_paths_lay_pictures_out_with_the_channels_last(monkeypatch):
    """Where that is fast, and only there."""
    for fast in (True, False):
        monkeypatch.setattr(fp16, 'fast_paths', lambda device, fast=fast: FastPaths(False, fast, 'told'))
        learn = learner(model=deep())
        learn.fit(1, cbs=AutoPrecision())
        weight = learn.model[0].weight
        assert weight.is_contiguous(memory_format=torch.channels_last) == fast


@pytest.mark.parametrize('size, half', [((64, 64), True), ((64, 63), False), ((63, 64), False), ((6, 6), False),
                                        ((300,), True)], ids=str)
@pytest.mark.parametrize('fast', [True, False])
def test_fast_paths_train_in_bfloat16_what_is_large_enough(fast, size, half, monkeypatch):
    """On a CPU pictures of 64 pixels a side and rows of numbers; predictions are float32."""
    monkeypatch.setattr(fp16, 'fast_paths', lambda device: FastPaths(fast, False, 'told'))
    learn, see = learner(cbs=AutoPrecision()), See()
    learn.model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(2))
    items = torch.utils.data.TensorDataset(torch.randn(8, 3, *size), torch.arange(8) % 2)
    learn.dls = DataLoaders(torch.utils.data.DataLoader(items, 4), torch.utils.data.DataLoader(items, 4))
    learn.fit(1, lr=.1, cbs=see)
    assert see.kinds == {torch.bfloat16 if fast and half else torch.float32}
    see.kinds.clear()
    handle = learn.model[-1].register_forward_hook(lambda m, i, o: see.kinds.add(o.dtype))
    learn.get_preds(), handle.remove()
    assert see.kinds == {torch.float32}
