"""How a batch, and a batch with its predictions, are shown: defaults that any type with a `show` fits into."""
from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from fastcore.foundation import L

from minifast.data.transform import typedispatch

__all__ = ['get_show_batch_func', 'show_batch', 'show_results']


def _show_columns(columns: Any, ctxs: list, max_n: int, **kwargs: Any) -> list:
    """Show each element of each sample in the context of its sample."""
    for column in columns:
        ctxs = [part.show(ctx=ctx, **kwargs) if hasattr(part, 'show') else _as_title(part, ctx)
                for part, ctx in zip(column[:max_n], ctxs)]
    return ctxs


def _as_title(part: Any, ctx: Any) -> Any:
    from minifast.show import show_title
    shape = getattr(part, 'shape', None)
    return show_title(f'{type(part).__name__} {tuple(shape)}' if shape else str(part), ctx=ctx)


def _columns(samples: Any) -> list[list]:
    return [list(column) for column in zip(*samples)]


@typedispatch
def show_batch(x: Any, y: Any, samples: Any, ctxs: Any = None, max_n: int = 9, **kwargs: Any) -> list:
    """Show up to `max_n` samples of a batch; chosen by the types of `x`, `y` and `samples`, so it can be added to.

    Args:
        x: the inputs of the batch.
        y: its targets.
        samples: decoded samples, each a tuple (or one thing that shows itself).
        ctxs: an axis or table row for each sample.
        **kwargs: go to each element's `show`.

    Returns:
        The contexts drawn on.
    """
    ctxs = list(itertools.repeat(None, max_n)) if ctxs is None else ctxs
    if len(samples) and hasattr(samples[0], 'show'):
        return _show_columns([list(samples)], ctxs, max_n, **kwargs)
    return _show_columns(_columns(samples), ctxs, max_n, **kwargs)


@typedispatch
def show_results(x: Any, y: Any, samples: Any, outs: Any, ctxs: Any = None, max_n: int = 9, **kwargs: Any) -> list:
    """Show up to `max_n` samples with their predictions; chosen by the types of `x`, `y`, `samples` and `outs`.

    Args:
        outs: decoded predictions, one tuple a sample.
        x, y, samples, ctxs, **kwargs: see `show_batch`.

    Returns:
        The contexts drawn on.
    """
    ctxs = list(itertools.repeat(None, max_n)) if ctxs is None else ctxs
    ctxs = _show_columns(_columns(samples), ctxs, max_n, **kwargs)
    return _show_columns(_columns(L(o if isinstance(o, tuple) else (o,) for o in outs)), ctxs, max_n, **kwargs)


def get_show_batch_func(x_typ: type = object, y_typ: type = object, samples_typ: type = object) -> Callable:
    """The `show_batch` for these types."""
    return show_batch.find(x_typ, y_typ, samples_typ).func
