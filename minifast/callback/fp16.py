"""Mixed precision: forward and loss in half precision, weights and update in float32."""
from __future__ import annotations

from enum import Enum
from typing import Any

import torch

from minifast.callback.core import Callback, CancelStepException
from minifast.torch_core import to_float

__all__ = ['AMPMode', 'MixedPrecision']


class AMPMode(Enum):
    """The half-precision type: float16 (needs loss scaling) or bfloat16."""

    FP16 = 'fp16'
    BF16 = 'bf16'


class MixedPrecision(Callback):
    """Runs forward and loss under torch's autocast, in training and validation.

    float16 is used on accelerators only, with a `GradScaler`; on a CPU, which has no fast float16, it trains in float32.
    bfloat16 is used wherever the device has it.

    Args:
        amp_mode: 'fp16' or 'bf16'.
        kwargs: for `torch.amp.GradScaler`.

    Attributes:
        scales: the loss scale after every step.
    """

    order = 10

    def __init__(self, amp_mode: str | AMPMode = AMPMode.FP16, **kwargs: Any) -> None:
        self.amp_mode, self.kwargs, self.autocast = AMPMode(amp_mode), kwargs, None

    def before_fit(self) -> None:
        self.device_type = next(self.model.parameters()).device.type
        if self.amp_mode is AMPMode.BF16 and self.device_type == 'cuda' and not torch.cuda.is_bf16_supported():
            raise ValueError(f'{torch.cuda.get_device_name()} has no bfloat16: use learn.to_fp16()')
        fp16 = self.amp_mode is AMPMode.FP16
        self.enabled = not (fp16 and self.device_type == 'cpu')
        self.dtype = torch.float16 if fp16 else torch.bfloat16
        # bfloat16 has float32's range, so only float16 needs its gradients scaled
        scaling = {**self.kwargs, 'enabled': fp16 and self.enabled}
        self.learn.scaler = torch.amp.GradScaler(self.device_type, **scaling)
        self.scales: list[float] = []
        if hasattr(self, '_resumed'):
            self.learn.scaler.load_state_dict(self.__dict__.pop('_resumed'))

    def before_batch(self) -> None:
        if self.enabled:
            self.autocast = torch.autocast(self.device_type, dtype=self.dtype)
            self.autocast.__enter__()

    def after_pred(self) -> None:
        self.learn.pred = to_float(self.pred)

    def after_loss(self) -> None:
        self._leave()

    def after_cancel_batch(self) -> None:
        self._leave()

    def _leave(self) -> None:
        if self.autocast is not None:
            self.autocast.__exit__(None, None, None)
            self.autocast = None

    def before_backward(self) -> None:
        self.learn.loss_grad = self.learn.scaler.scale(self.loss_grad)

    def before_step(self) -> None:
        scaler = self.learn.scaler
        if scaler.is_enabled():
            # the scaler calls step() on what it is given only if no gradient overflowed
            self.skipped = True
            scaler.step(self)
            if self.skipped:
                raise CancelStepException
            self.scales.append(scaler.get_scale())

    def after_step(self) -> None:
        self.learn.scaler.update()

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups: the scaler takes this callback for the optimizer."""
        return self.opt.param_groups

    def step(self, *args: Any, **kwargs: Any) -> None:
        """Called by the scaler where the gradients are finite; the loop then does the real step."""
        self.skipped = False

    def cleanup_fit(self) -> None:
        self._leave()
        self.learn.scaler = None

    def state_dict(self) -> dict[str, Any]:
        """The loss scale and its history."""
        scaler = getattr(self.learn, 'scaler', None)
        return {} if scaler is None else scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`, in a running fit or at the start of the next."""
        if getattr(self.learn, 'scaler', None) is not None:
            self.learn.scaler.load_state_dict(state)
        elif state:
            self._resumed = state
