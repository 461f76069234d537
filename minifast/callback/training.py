"""Small changes to the training: short epochs, gradients added up or clipped, frozen batch norm."""
from __future__ import annotations

from typing import Any

import torch
from torch import nn

from minifast.arguments import tells_near_match
from minifast.callback.core import (Callback, CancelBatchException, CancelEpochException, CancelTrainException,
                                    CancelValidException, _cast_tensor)
from minifast.torch_core import batchnorm_types, find_bs

__all__ = ['BnFreeze', 'CastToTensor', 'GradientAccumulation', 'GradientClip', 'ShortEpochCallback', 'SkipToEpoch',
           'bn_types', 'set_bn_eval']

bn_types = batchnorm_types


class ShortEpochCallback(Callback):
    """Runs only a part of each epoch, to see whether everything works."""

    @tells_near_match
    def __init__(self, pct: float = 0.01, short_valid: bool = True) -> None:
        """
        Args:
            pct: the part of the batches, 0-1.
            short_valid: shorten the validation too.
        """
        self.pct, self.short_valid = pct, short_valid

    def after_batch(self) -> None:
        if self.iter / self.n_iter < self.pct:
            return
        if self.training:
            raise CancelTrainException
        if self.short_valid:
            raise CancelValidException


class GradientAccumulation(Callback):
    """Adds the gradients of several batches up before a step: large batches on a small device.

    A step is made once `n_acc` items have been seen, and at the end of an epoch with what is there by then, averaged
    over the items it has; so batches of 4 with `n_acc=16` train like batches of 16 (batch norm aside).
    """

    order, run_valid = 6, False  # before the loss scaler and the clipping, which belong to a whole step

    @tells_near_match
    def __init__(self, n_acc: int = 32) -> None:
        """
        Args:
            n_acc: items a step.
        """
        self.n_acc, self.count = n_acc, 0

    def before_fit(self) -> None:
        self.count = 0

    def after_loss(self) -> None:
        self.learn.loss_grad = self.learn.loss_grad * (find_bs(self.learn.yb) / self.n_acc)

    def before_step(self) -> None:
        learn = self.learn
        bs = find_bs(learn.yb)
        learn.loss_grad = learn.loss_grad.detach() * (self.n_acc / bs)  # callbacks behind see the batch's own loss
        self.count += bs
        if self.count < self.n_acc:
            if learn.iter + 1 < learn.n_iter:
                raise CancelBatchException
            grads = [p.grad for group in learn.opt.param_groups for p in group['params'] if p.grad is not None]
            torch._foreach_mul_(grads, self.n_acc / self.count)
        self.count = 0

    def cleanup_fit(self) -> None:
        self.count = 0

    def state_dict(self) -> dict[str, Any]:
        """The items seen since the last step, for a checkpoint; it holds the gradients anyway."""
        return {'count': self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.count = state['count']


class GradientClip(Callback):
    """Scales the gradients down where their norm is larger than `max_norm`."""

    order = 11  # behind the loss scaler, which has unscaled them by then

    @tells_near_match
    def __init__(self, max_norm: float = 1., norm_type: float = 2.0) -> None:
        """
        Args:
            max_norm: of all gradients together.
            norm_type: which norm; `inf` is the largest absolute value.
        """
        self.max_norm, self.norm_type = max_norm, norm_type

    def before_step(self) -> None:
        nn.utils.clip_grad_norm_(self.model.parameters(), self.max_norm, self.norm_type)


def set_bn_eval(m: nn.Module, use_eval: bool = True) -> None:
    """Put the frozen batch norm layers inside `m` into evaluation mode, or back into training mode.

    Args:
        m: searched through.
        use_eval: evaluation mode.
    """
    for layer in m.modules():
        if layer is not m and isinstance(layer, bn_types):
            first = next(layer.parameters(), None)
            if first is not None and not first.requires_grad:
                layer.train(not use_eval)


class BnFreeze(Callback):
    """Keeps the running statistics of frozen batch norm layers as they are during training."""

    def before_train(self) -> None:
        set_bn_eval(self.model)


class CastToTensor(Callback):
    """Hands the model tensors without markers, which the loop does by itself: for scripts that name this callback."""

    order = 9

    def before_batch(self) -> None:
        self.learn.xb, self.learn.yb = _cast_tensor(self.xb), _cast_tensor(self.yb)


class SkipToEpoch(Callback):
    """Leaves out the epochs before number `epoch`; `fit(start_epoch=)` does so without their events."""

    order = 70

    @tells_near_match
    def __init__(self, epoch: int = 0) -> None:
        self.skip_to = epoch

    def before_epoch(self) -> None:
        if self.epoch < self.skip_to:
            raise CancelEpochException
