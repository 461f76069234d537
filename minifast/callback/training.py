"""Changes to the training: short epochs, gradients added up or clipped, frozen batch norm, averaged weights."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from minifast.arguments import tells_near_match
from minifast.callback.core import (Callback, CancelBatchException, CancelEpochException, CancelTrainException,
                                    CancelValidException, _cast_tensor)
from minifast.distributed import ask
from minifast.sharding import in_shares, own_part, share_like, whole_model
from minifast.torch_core import batchnorm_types, find_bs

__all__ = ['BnFreeze', 'CastToTensor', 'EMA', 'EMACallback', 'GradientAccumulation', 'GradientClip',
           'ShortEpochCallback', 'SkipToEpoch', 'bn_types', 'set_bn_eval']

bn_types = batchnorm_types


class ShortEpochCallback(Callback):
    """Runs only a part of each epoch, to see whether everything works.

    Args:
        pct: the part of the batches, 0-1.
        short_valid: shorten the validation too.

    Example:
        >>> learn.fit(1, cbs=ShortEpochCallback(pct=0.1))  # a tenth of an epoch, to see whether all works
    """

    @tells_near_match
    def __init__(self, pct: float = 0.01, short_valid: bool = True) -> None:
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

    Several processes count the items of all, and send their gradients to each other only where a step follows.

    Args:
        n_acc: items a step, of all processes together.

    Example:
        >>> dls = ImageDataLoaders.from_folder(path, valid_pct=0.2, bs=8, item_tfms=Resize(224))
        >>> learn.fit(1, cbs=GradientAccumulation(n_acc=64))  # as with bs=64
    """

    order, run_valid = 6, False  # before the loss scaler and the clipping, which belong to a whole step

    @tells_near_match
    def __init__(self, n_acc: int = 32) -> None:
        self.n_acc, self.count = n_acc, 0

    def before_fit(self) -> None:
        self.count = 0

    def _items(self) -> int:
        """Items of the batch, of all processes."""
        learn = self.learn
        return find_bs(learn.yb) if learn.ranks is None else learn.ranks.n_items

    def before_batch(self) -> None:
        learn = self.learn
        if learn.ranks is not None:
            most = learn.ranks.n_ranks * (getattr(learn.dl, 'batch_size', None) or self.n_acc)
            learn.ranks.sync = self.count + most >= self.n_acc or learn.iter + 1 >= learn.n_iter

    def after_loss(self) -> None:
        self.learn.loss_grad = self.learn.loss_grad * (self._items() / self.n_acc)

    def before_step(self) -> None:
        learn = self.learn
        bs = self._items()
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
        """Go on from `state`, a `state_dict()`."""
        self.count = state['count']


class GradientClip(Callback):
    """Scales the gradients down where their norm is larger than `max_norm`.

    Args:
        max_norm: of all gradients together.
        norm_type: which norm; `inf` is the largest absolute value.

    Example:
        >>> learn.fit(1, cbs=GradientClip(max_norm=0.1))
    """

    order = 11  # behind the loss scaler, which has unscaled them by then

    @tells_near_match
    def __init__(self, max_norm: float = 1., norm_type: float = 2.0) -> None:
        self.max_norm, self.norm_type = max_norm, norm_type

    def before_step(self) -> None:
        weights = list(self.model.parameters())
        if not in_shares(self.learn.own_model):
            nn.utils.clip_grad_norm_(weights, self.max_norm, self.norm_type)
            return
        ask()  # the norm is put together of parts
        if self.norm_type != float('inf'):
            nn.utils.clip_grad_norm_(weights, self.max_norm, self.norm_type)
            return
        parts = [own_part(p.grad) for p in weights if p.grad is not None]  # some may be empty, which torch cannot take
        own = [part.abs().max() for part in parts if part.numel()]
        largest = torch.stack(own).max() if own else torch.zeros((), device=weights[0].device)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        nn.utils.clip_grads_with_norm_(weights, self.max_norm, largest)


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
    """Keeps the running statistics of frozen batch norm layers as they are during training.

    Example:
        >>> learn.fine_tune(1, cbs=BnFreeze)
    """

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


class EMA(Callback):
    """Keeps an exponential moving average of weights and floating buffers, and validates with it.

    The average takes the model's place from the start of a validation until the epoch ends, so that what callbacks
    save for a good number is what was measured; then the trained weights come back, however the epoch or the fit ended.
    Once trained, `validate` and `get_preds` use the average too while the callback is attached, and exports hold it.
    The average starts anew with each fit, from the weights at its start epoch.

    Args:
        decay: weight of the past at each step, 0-1.
        start_epoch: average from this epoch on.
        validate_ema: validate with the average.
        replace_weights: leave the average in the model when a fit ends as it should.
        warmup: at step t use at most the decay (1+t)/(10+t), so that the first steps are forgotten.

    Source: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992.

    Example:
        >>> learn.fit(2, cbs=EMA(decay=0.99))
    """

    order = 70  # after_epoch behind callbacks that save (61) and stop (63); after_step order does not matter

    @tells_near_match
    def __init__(self, decay: float = 0.9998, start_epoch: int = 0, validate_ema: bool = True,
                 replace_weights: bool = False, warmup: bool = False) -> None:
        self.decay, self.start_epoch, self.validate_ema = decay, start_epoch, validate_ema
        self.replace_weights, self.warmup = replace_weights, warmup
        self.average: list[Tensor] | None = None
        self.swapped, self.n_steps, self._fresh = False, 0, False

    def _tensors(self) -> list[Tensor]:
        """Parameters and buffers of the model, in the order of the average."""
        return [t.detach() for t in (*self.learn.model.parameters(), *self.learn.model.buffers())]

    def before_fit(self) -> None:
        self.run = not self.learn.searching
        self._fresh = self.run

    def before_train(self) -> None:
        self._show_trained()
        if self._fresh and self.learn.epoch >= self.start_epoch:
            self.average, self.n_steps, self._fresh = [t.clone() for t in self._tensors()], 0, False

    def after_step(self) -> None:
        if self._fresh or self.average is None:
            return
        decay = min(self.decay, (1 + self.n_steps) / (10 + self.n_steps)) if self.warmup else self.decay
        self.n_steps += 1
        pairs = [(own_part(average), own_part(t)) for average, t in zip(self.average, self._tensors())]
        floating = [pair for pair in pairs if pair[0].is_floating_point()]
        torch._foreach_lerp_([a for a, _ in floating], [t for _, t in floating], 1 - decay)
        for average, t in pairs:
            if not average.is_floating_point():
                average.copy_(t)

    @torch.no_grad()
    def _swap(self) -> None:
        # values, not tensors: compiled graphs and the optimizer hold on to the parameters' memory
        for average, t in zip(self.average, self._tensors()):
            kept = t.clone()
            t.copy_(average)
            average.copy_(kept)
        self.swapped = not self.swapped

    def _is_to_stand_in(self) -> bool:
        waiting = self._fresh and self.learn.fitting
        return self.validate_ema and self.average is not None and not self.swapped and not waiting

    def before_validate(self) -> None:
        if self._is_to_stand_in():
            self._swap()

    def _show_trained(self) -> None:
        if self.swapped:
            self._swap()

    def after_epoch(self) -> None:
        self._show_trained()

    def after_cancel_fit(self) -> None:
        self._show_trained()  # before callbacks load a best model in after_fit

    def after_fit(self) -> None:
        if self.replace_weights and self.learn.fitting and self.average is not None:
            self._swap()
            self.average, self.swapped = None, False

    def cleanup_fit(self) -> None:
        self._show_trained()

    @contextmanager
    def as_measured(self) -> Iterator[None]:
        """The average in the model's place, where validations have it."""
        swaps = self._is_to_stand_in()
        if swaps:
            self._swap()
        try:
            yield
        finally:
            if swaps:
                self._swap()

    def averaged_model(self) -> nn.Module:
        """A copy of the model with the average as its weights.

        Raises:
            ValueError: there is no average yet.
        """
        if self.average is None:
            raise ValueError(f'no average yet: it starts with epoch {self.start_epoch} of a fit')
        swaps = not self.swapped
        if swaps:
            self._swap()
        try:
            return whole_model(self.learn.model)
        finally:
            if swaps:
                self._swap()

    def state_dict(self) -> dict[str, Any]:
        """The average, and whether it stands in the model just now, for a checkpoint."""
        return {'average': self.average, 'n_steps': self.n_steps, 'swapped': self.swapped, 'fresh': self._fresh}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`, a `state_dict()`."""
        average = state['average']
        if average is not None:
            pairs = zip(average, self._tensors(), strict=True)
            average = [share_like(a, t).detach().clone().to(t.device) for a, t in pairs]
        self.average, self.n_steps, self.swapped = average, state['n_steps'], state['swapped']
        self._fresh = state['fresh']


EMACallback = EMA
