"""Loaders whose passes see a draw of the items: by weights, as for rare classes, or a part of them."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch.utils.data import WeightedRandomSampler

from minifast.data.loaders import TfmdDL
from minifast.data.sampler import ORDER, order
from minifast.seeds import keyed_generator

__all__ = ['PartialDL', 'WeightedDL']


class _DrawnDL(TfmdDL):
    """A loader one argument of which, `_draw`, is about its items: a loader of others is made without it."""

    _draw: ClassVar[str]

    def new(self, dataset: Any = None, cls: type | None = None, **kwargs: Any) -> TfmdDL:
        """A loader like this one, of `dataset` if given, with some arguments changed."""
        draw = {self._draw: getattr(self, self._draw)} if dataset is None and cls is None else {}
        return super().new(dataset, cls, **{**draw, **kwargs})


class WeightedDL(_DrawnDL):
    """Where it shuffles, draws as many items as there are, with replacement and as often as their weights say.

    Args:
        dataset: the data set.
        bs: items a batch.
        wgts: a weight an item, of any sum; default: all the same.
        **kwargs: see `TfmdDL`.

    Raises:
        ValueError: there are not as many weights as items.
    """

    _draw = 'wgts'

    def __init__(self, dataset: Any = None, bs: int | None = 64, wgts: Sequence[float] | None = None,
                 **kwargs: Any) -> None:
        super().__init__(dataset, bs=bs, **kwargs)
        self.wgts = None if wgts is None else torch.as_tensor(wgts, dtype=torch.double)
        if wgts is not None and len(wgts) != self.n:
            raise ValueError(f'{len(wgts)} weights for {self.n} items: give one an item')

    def get_idxs(self) -> Any:
        """The indices of a pass, a function of the weights, the seed and the epoch."""
        if self.wgts is None or not self.shuffle:
            return super().get_idxs()
        return list(WeightedRandomSampler(self.wgts, self.n,
                                          generator=keyed_generator(self._at.seed, ORDER, self._at.epoch)))


class PartialDL(_DrawnDL):
    """Draws `partial_n` of the items, another part each epoch, so that an epoch is a short one.

    Args:
        dataset: the data set.
        bs: items a batch.
        partial_n: how many; default: all, as `TfmdDL`.
        **kwargs: see `TfmdDL`.
    """

    _draw = 'partial_n'

    def __init__(self, dataset: Any = None, bs: int | None = 64, partial_n: int | None = None, **kwargs: Any) -> None:
        super().__init__(dataset, bs=bs, **kwargs)
        self.partial_n = min(partial_n, self.n) if partial_n else None

    def get_idxs(self) -> Any:
        """The indices of a pass, a function of the seed and the epoch."""
        if self.partial_n is None:
            return super().get_idxs()
        return order(self.n, self._at.seed, self._at.epoch)[:self.partial_n]

    def __len__(self) -> int:
        return super().__len__() if self.partial_n is None else self._batches_of(self.partial_n)
