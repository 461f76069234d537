"""How a batch, and a batch with its predictions, are shown: defaults that any type with a `show` fits into."""
from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from minifast.data.categorize import Category
from minifast.data.transform import typedispatch
from minifast.markers import TensorCategory, TensorImage
from minifast.show import show_title

__all__ = ['get_show_batch_func', 'show_batch', 'show_results']


def _show(columns: Iterable[Sequence], ctxs: list, max_n: int, **kwargs: Any) -> list:
    """Show each element of each sample in the context of its sample."""
    for column in columns:
        ctxs = [part.show(ctx=ctx, **kwargs) if hasattr(part, 'show') else _as_title(part, ctx)
                for part, ctx in zip(column[:max_n], ctxs)]
    return ctxs


def _as_title(part: Any, ctx: Any) -> Any:
    shape = getattr(part, 'shape', None)
    return show_title(f'{type(part).__name__} {tuple(shape)}' if shape else str(part), ctx=ctx)


@typedispatch
def show_batch(x: Any, y: Any, samples: Any, ctxs: Any = None, max_n: int = 9, **kwargs: Any) -> list:
    """Show up to `max_n` samples of a batch; chosen by the types of `x`, `y` and `samples`, so it can be added to.

    Args:
        x: the inputs of the batch.
        y: its targets.
        samples: decoded samples, each a tuple (or one thing that shows itself).
        ctxs: an axis or table row for each sample.
        max_n: how many at most.
        **kwargs: go to each element's `show`.

    Returns:
        The contexts drawn on.
    """
    ctxs = list(itertools.repeat(None, max_n)) if ctxs is None else ctxs
    alone = len(samples) and hasattr(samples[0], 'show')
    return _show([samples] if alone else zip(*samples), ctxs, max_n, **kwargs)


@typedispatch
def show_results(x: Any, y: Any, samples: Any, outs: Any, ctxs: Any = None, max_n: int = 9, **kwargs: Any) -> list:
    """Show up to `max_n` samples with their predictions; chosen by the types of `x`, `y`, `samples` and `outs`.

    Args:
        outs: decoded predictions, one tuple a sample.
        x, y, samples, ctxs, max_n, **kwargs: see `show_batch`.

    Returns:
        The contexts drawn on.
    """
    ctxs = list(itertools.repeat(None, max_n)) if ctxs is None else ctxs
    outs = [o if isinstance(o, tuple) else (o,) for o in outs]
    return _show([*zip(*samples), *zip(*outs)], ctxs, max_n, **kwargs)


def get_show_batch_func(x_typ: type = object, y_typ: type = object, samples_typ: type = object) -> Callable:
    """The `show_batch` for inputs, targets and samples of the types `x_typ`, `y_typ` and `samples_typ`."""
    return show_batch.find(x_typ, y_typ, samples_typ).func


class ForeignSamples:
    """What a foreign data set tells about showing its samples: the names of its classes, where it has them."""

    def __init__(self, dataset: Any, n_parts: int) -> None:
        self.classes, self.n_inp = getattr(dataset, 'classes', None), max(n_parts - 1, 1)

    def decode(self, o: Any, full: bool = True) -> tuple:
        """A sample with its class as text."""
        names = self.classes
        return tuple(Category(names[int(part)] if names is not None else int(part))
                     if isinstance(part, TensorCategory) else part for part in o)


def guessed_kind(x: Any) -> type | None:
    """What a tensor of a foreign batch seems to be: [B,1 or 3,H,W] pictures, int64 [B] classes."""
    if not isinstance(x, Tensor):
        return None
    if x.ndim == 4 and x.shape[1] in (1, 3):
        return TensorImage
    return TensorCategory if x.dtype == torch.long and x.ndim == 1 else None
