"""MixUp and CutMix: training on blends of two pictures and their targets."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions.beta import Beta

from minifast.arguments import tells_near_match
from minifast.callback.core import Callback
from minifast.data.sampler import BATCH
from minifast.data.workers import fork_cpu_rng, seed_cpu
from minifast.layers import NoneReduce
from minifast.seeds import key_seed
from minifast.torch_core import plain

__all__ = ['CutMix', 'MixHandler', 'MixUp', 'reduce_loss']


def reduce_loss(loss: Tensor, reduction: str = 'mean') -> Tensor:
    """The mean or the sum of `loss`, or with any other `reduction` the loss as it is."""
    return loss.mean() if reduction == 'mean' else loss.sum() if reduction == 'sum' else loss


def _takes_classes(loss_func: Any) -> bool:
    """Whether the targets are class indices, which cannot be blended, so that the losses must be."""
    func = loss_func.func if isinstance(loss_func, partial) else loss_func
    known = isinstance(func, (nn.CrossEntropyLoss, nn.NLLLoss)) or func in (F.cross_entropy, F.nll_loss)
    return getattr(loss_func, 'y_int', known)


class MixHandler(Callback):
    """What MixUp and its kin share: a loss function that blends while training, put back afterwards.

    Where the loss takes class indices (it has `y_int`, or is torch's cross entropy) the losses of both targets are
    blended; elsewhere the targets themselves. A subclass sets `lam` (weight of the batch's own targets) and `yb1` (the
    other targets) in `before_batch`. The draws are a function of the fit's seed, the epoch and the number of the batch
    where the loader is ours or several processes train, and come from torch's global stream where it is not.

    Of several processes each draws for the batch of all and blends its own items, so that the partner of an item is the
    same for any number of processes. For that every process gets the inputs and targets of all in each step: an
    all_gather of `(n_ranks - 1) / n_ranks` of the batch of all.

    Args:
        alpha: both parameters of the Beta distribution the weights are drawn from, above 0.
    """

    run_valid = False
    not_carried = ('stack_y', 'old_lf', '_replaced', 'lam', 'yb1')  # of the running batch, or put back by hooks

    @tells_near_match
    def __init__(self, alpha: float = 0.5) -> None:
        self.alpha, self.distrib = alpha, Beta(torch.tensor(float(alpha)), torch.tensor(float(alpha)))
        self.stack_y, self.old_lf, self._replaced = False, None, False

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        learn, seed = self.learn, self.learn.fit_seed
        seed = learn.ranks.seed if seed is None and learn.ranks is not None else seed
        if seed is None:
            yield
            return
        with fork_cpu_rng():
            seed_cpu(key_seed(seed, BATCH, learn.epoch, learn.iter, 2))
            yield

    def _of_all(self, parts: tuple) -> tuple[list[Tensor], slice | Tensor]:
        """The tensors of the batch of all processes, and which of their rows are this one's."""
        parts, ranks = [plain(part) for part in parts], self.learn.ranks
        return (parts, slice(None)) if ranks is None else ranks.batch_of_all(parts)

    def before_train(self) -> None:
        names = [type(cb).__name__ for cb in self.learn.cbs if isinstance(cb, MixHandler) and cb.run]
        if len(names) > 1:
            raise ValueError(f'{" and ".join(names)} both blend the items and targets of a batch, so they cannot train '
                             'together: give the fit one of them')
        self.stack_y = _takes_classes(self.learn.loss_func)
        if self.stack_y:
            self.old_lf, self.learn.loss_func, self._replaced = self.learn.loss_func, self.lf, True

    def after_train(self) -> None:
        if self._replaced:
            self.learn.loss_func, self._replaced = self.old_lf, False

    def cleanup_fit(self) -> None:
        MixHandler.after_train(self)

    def lf(self, pred: Tensor, *yb: Tensor) -> Tensor:
        """The old loss of `pred` on both targets, `yb` and the others, blended by `lam` for each item and reduced as
        the old one does."""
        if not self.learn.training:
            return self.old_lf(pred, *yb)
        with NoneReduce(self.old_lf) as lf:
            other, own = lf(pred, *self.yb1), lf(pred, *yb)
        return reduce_loss(torch.lerp(other, own, _for_items(self.lam, own)),
                           getattr(self.old_lf, 'reduction', 'mean'))

    def _blend_targets(self) -> None:
        yb = [plain(y) for y in self.learn.yb]
        if not all(y.is_floating_point() for y in yb):
            kinds = ', '.join(str(y.dtype) for y in yb)
            raise ValueError(f'{type(self).__name__} would blend targets of {kinds}: if the loss function takes class '
                             'indices, set `loss_func.y_int = True` on it')
        self.learn.yb = tuple(torch.lerp(y1, y, _for_items(self.lam, y)) for y1, y in zip(self.yb1, yb))


def _for_items(lam: Tensor, like: Tensor) -> Tensor:
    """`lam` [B] or [1] shaped to weight `like`: [B,...], or [B*n] with n values an item."""
    if len(lam) > 1 and like.ndim == 1 and len(like) > len(lam):
        return lam.repeat_interleave(len(like) // len(lam))
    return lam.view(-1, *[1] * (like.ndim - 1)).to(like.dtype)


class MixUp(MixHandler):
    """Blends each item with another one of the batch.

    Args:
        alpha: as for `MixHandler`.

    Source: Zhang et al., "mixup: beyond empirical risk minimization", arXiv 1710.09412.

    Example:
        >>> learn.fit_one_cycle(5, cbs=MixUp())
    """

    @tells_near_match
    def __init__(self, alpha: float = .4) -> None:
        super().__init__(alpha)

    def before_batch(self) -> None:
        learn, n_inp = self.learn, len(self.learn.xb)
        parts, own = self._of_all((*learn.xb, *learn.yb))
        bs, device = len(parts[n_inp]), learn.xb[0].device
        with self._drawing():
            lam, shuffle = self.distrib.sample((bs,)), torch.randperm(bs)
        lam, shuffle = (o[own].to(device, non_blocking=True) for o in (lam, shuffle))
        self.lam = torch.maximum(lam, 1 - lam)  # the own item weighs more, so no pair comes twice
        self.yb1 = tuple(y[shuffle] for y in parts[n_inp:])
        learn.xb = tuple(torch.lerp(x[shuffle], x[own], _for_items(self.lam, x)) for x in parts[:n_inp])
        if not self.stack_y:
            self._blend_targets()


class CutMix(MixHandler):
    """Pastes a rectangle of another picture of the batch into each picture.

    Args:
        alpha: as for `MixHandler`.

    Source: Yun et al., "CutMix: regularization strategy to train strong classifiers with localizable features",
    arXiv 1905.04899.

    Example:
        >>> learn.fit(1, cbs=CutMix(alpha=1.))
    """

    @tells_near_match
    def __init__(self, alpha: float = 1.) -> None:
        super().__init__(alpha)

    def before_batch(self) -> None:
        learn = self.learn
        (x_BCHW, *targets), own = self._of_all((learn.xb[0], *learn.yb))
        bs, _, h, w = x_BCHW.shape
        with self._drawing():
            lam = self.distrib.sample((1,))
            shuffle = torch.randperm(bs)[own].to(x_BCHW.device, non_blocking=True)
            x1, y1, x2, y2 = self.rand_bbox(w, h, lam)
        pasted = x_BCHW[own].clone()  # the loader may still own the batch
        pasted[..., y1:y2, x1:x2] = x_BCHW[..., y1:y2, x1:x2][shuffle]
        learn.xb = (pasted, *learn.xb[1:])
        self.yb1 = tuple(y[shuffle] for y in targets)
        self.lam = torch.full((1,), 1 - (x2 - x1) * (y2 - y1) / (w * h), device=x_BCHW.device)
        if not self.stack_y:
            self._blend_targets()

    def rand_bbox(self, W: int, H: int, lam: Tensor) -> tuple[int, int, int, int]:
        """Left, top, right, bottom in pixels of a rectangle of the area `1 - lam`, cut off at the border.

        Args:
            W, H: the picture's size.
            lam: 0-1, shape [1].
        """
        side = torch.sqrt(1. - lam)
        # drawn on the CPU, so the corners are plain numbers without waiting for the device
        half_w, half_h = (int(torch.round(size * side)) // 2 for size in (W, H))  # sync: none, on the CPU
        centre_x, centre_y = (int(torch.randint(0, size, (1,))) for size in (W, H))  # sync: none, on the CPU
        return (max(centre_x - half_w, 0), max(centre_y - half_h, 0), min(centre_x + half_w, W),
                min(centre_y + half_h, H))
