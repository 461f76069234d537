"""Mixed precision: the model runs in float16 or bfloat16 where that is safe, its weights stay float32."""
from __future__ import annotations

from enum import Enum
from typing import Any

import torch
from fastcore.foundation import L
from torch.amp import GradScaler, autocast

from minifast.callback.core import Callback, CancelStepException
from minifast.hardware import fast_paths, keep_freed_memory, to_memory_format
from minifast.torch_core import check_kwargs, to_float

__all__ = ['AMPMode', 'AutoPrecision', 'MixedPrecision']


class AMPMode(Enum):
    """The half-precision types: FP16 needs its loss scaled, BF16 has the range of float32."""

    FP16 = 'fp16'
    BF16 = 'bf16'


class MixedPrecision(Callback):
    """Runs model and loss under torch's autocast, and scales the loss in float16 so that small gradients survive.

    bfloat16 works on GPUs and CPUs. float16 works on accelerators; on a CPU, which has no fast float16, the same script
    runs in float32. Predictions are float32 for the loss and everything behind it. In float16 each step waits for the
    device once, to hear whether the gradients overflowed; in bfloat16 no step waits.

    Args:
        amp_mode: 'fp16' or 'bf16'.
        kwargs: for torch's `GradScaler`, in float16.

    Attributes:
        scales: the loss scale of every step that was made.

    Raises:
        ValueError: an unknown `amp_mode`, or a GPU without bfloat16.
        TypeError: an argument that GradScaler does not take.

    Example:
        >>> learn = Learner(dls, learn.model, cbs=MixedPrecision())  # or learn.to_fp16()
    """

    order = 10
    _scaler_kwargs = ('init_scale', 'growth_factor', 'backoff_factor', 'growth_interval', 'enabled')

    def __init__(self, amp_mode: str | AMPMode = AMPMode.FP16, **kwargs: Any) -> None:
        if not isinstance(amp_mode, AMPMode) and amp_mode not in [mode.value for mode in AMPMode]:
            raise ValueError(f"amp_mode={amp_mode!r}: mixed precision is 'fp16' or 'bf16'")
        check_kwargs('MixedPrecision', kwargs, ('amp_mode', *self._scaler_kwargs))
        self.amp_mode, self.kwargs = AMPMode(amp_mode), kwargs
        self.autocast, self.scales, self._loaded = None, None, None
        self._inside = self._unconfirmed = False

    def before_fit(self) -> None:
        first = next(self.model.parameters(), None)
        device = first.device.type if first is not None else 'cpu'
        dtype = torch.float16 if self.amp_mode is AMPMode.FP16 else torch.bfloat16
        if device == 'cuda' and dtype is torch.bfloat16 and not torch.cuda.is_bf16_supported():
            raise ValueError(f'{torch.cuda.get_device_name()} has no bfloat16: use learn.to_fp16()')
        self.autocast = autocast(device, dtype=dtype, enabled=not (device == 'cpu' and dtype is torch.float16))
        scaled = device != 'cpu' and dtype is torch.float16
        scaled = scaled and self.kwargs.get('enabled', True)
        self.learn.scaler = GradScaler(device, **{**self.kwargs, 'enabled': scaled})
        self.scales, self._unconfirmed = L(), False
        if self._loaded is not None:
            self.learn.scaler.load_state_dict(self._loaded)

    def before_batch(self) -> None:
        self._leave()
        self.autocast.__enter__()
        self._inside = True

    def after_pred(self) -> None:
        self.learn.pred = to_float(self.pred)

    def after_loss(self) -> None:
        self._leave()

    def _leave(self) -> None:
        if self._inside:
            self._inside = False
            self.autocast.__exit__(None, None, None)
        if self._unconfirmed:  # the batch was cancelled between its step and `after_step`
            self.after_step()

    after_batch = after_train = after_cancel_train = after_validate = after_cancel_validate = _leave
    after_cancel_epoch = _leave

    def before_backward(self) -> None:
        self.learn.loss_grad = self.learn.scaler.scale(self.loss_grad)

    def before_step(self) -> None:
        scaler = self.learn.scaler
        # the scaler unscales the gradients and calls `self.step` if all are finite; the loop makes the real step
        self.skipped, self._unconfirmed = True, True
        scaler.step(self)
        if self.skipped:
            raise CancelStepException
        if scaler.is_enabled():
            self.scales.append(scaler.get_scale())

    def after_step(self) -> None:
        self.learn.scaler.update()
        self._unconfirmed = False

    def cleanup_fit(self) -> None:
        self._leave()
        self.autocast, self.learn.scaler, self.scales, self._loaded = None, None, None, None

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups: for the scaler this callback stands for the optimizer."""
        return self.opt.param_groups

    def step(self, *args: Any, **kwargs: Any) -> None:
        """Called by the scaler where the gradients are finite; nothing is done with `args` and `kwargs`."""
        self.skipped = False

    def state_dict(self) -> dict[str, Any]:
        """The loss scale and its counter, for a checkpoint; empty where nothing is scaled."""
        scaler = vars(self.learn).get('scaler') if self.learn is not None else None
        return {'scaler': scaler.state_dict() if scaler is not None else {}, 'scales': list(self.scales or ())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`, a `state_dict()`, in the running fit or else in the next one."""
        scaler = vars(self.learn).get('scaler') if self.learn is not None else None
        if scaler is not None:  # in a running fit; checkpoints of earlier releases know the scaler alone
            self.scales = L(state.get('scales', ()))
        if not state['scaler']:
            return
        if scaler is None:
            self._loaded = state['scaler']
        elif scaler.is_enabled():
            scaler.load_state_dict(state['scaler'])


class AutoPrecision(MixedPrecision):
    """The fast paths of the hardware in training and in-fit validation: bfloat16 and channels-last where they are fast.

    Predictions (`predict`, `get_preds`) stay float32, and so do the weights: what is saved or exported knows nothing
    of it. `learn.to_fp32()` takes it off.
    """

    def __init__(self) -> None:
        super().__init__(AMPMode.BF16)

    def before_fit(self) -> None:
        first = next(self.model.parameters(), None)
        device = first.device.type if first is not None else 'cpu'
        self.paths = fast_paths(device)
        if device == 'cpu':
            keep_freed_memory()
        if self.paths.channels_last:
            to_memory_format(self.learn, torch.channels_last)
        super().before_fit()

    def before_batch(self) -> None:
        if self.paths.bf16 and not self.learn.predicting and not self._too_small():
            super().before_batch()

    def _too_small(self) -> bool:
        """Whether a CPU must not train these pictures in bfloat16.

        oneDNN's bfloat16 gradient of a strided 3x3 convolution over 1x1 maps leaves the weights that only see padding
        uninitialised: often they are NaN (torch 2.15: 65 of 100 runs on used memory, float32 none). Nets that halve
        their maps five times come there with pictures of less than 32 pixels a side; 64 keeps a distance.
        """
        small = (x.ndim == 4 and min(x.shape[-2:]) < 64 for x in self.xb if isinstance(x, torch.Tensor))
        return self.autocast.device == 'cpu' and any(small)
