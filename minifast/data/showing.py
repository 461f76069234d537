"""How a batch, and a batch with its predictions, are shown: defaults that any type with a `show` fits into.

And what loaders and data sets say about themselves in a notebook, without a look at a file or an item.
"""
from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from minifast.arguments import as_size
from minifast.data.categorize import Category
from minifast.data.transform import typedispatch
from minifast.markers import TensorCategory, TensorImage
from minifast.show import show_title
from minifast.terminal import described
from minifast.torch_core import length_of

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
def show_batch(x: Any, y: Any, samples: Any, ctxs: Any = None, max_n: int = 9, **kwargs: Any) -> list[Any]:
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
def show_results(x: Any, y: Any, samples: Any, outs: Any, ctxs: Any = None, max_n: int = 9, **kwargs: Any) -> list[Any]:
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


def get_show_batch_func(x_typ: type[Any] = object, y_typ: type[Any] = object,
                        samples_typ: type[Any] = object) -> Callable[..., Any]:
    """The `show_batch` for inputs, targets and samples of the types `x_typ`, `y_typ` and `samples_typ`."""
    return show_batch.find(x_typ, y_typ, samples_typ).func


class ForeignSamples:
    """What a foreign data set tells about showing its samples: the names of its classes, where it has them."""

    def __init__(self, dataset: Any, n_parts: int) -> None:
        self.classes, self.n_inp = getattr(dataset, 'classes', None), max(n_parts - 1, 1)

    def decode(self, o: Any, full: bool = True) -> tuple[Any, ...]:
        """A sample with its class as text."""
        names = self.classes
        return tuple(Category(names[int(part)] if names is not None else int(part))
                     if isinstance(part, TensorCategory) else part for part in o)


def guessed_kind(x: Any) -> type[Any] | None:
    """What a tensor of a foreign batch seems to be: [B,1 or 3,H,W] pictures, int64 [B] classes."""
    if not isinstance(x, Tensor):
        return None
    if x.ndim == 4 and x.shape[1] in (1, 3):
        return TensorImage
    return TensorCategory if x.dtype == torch.long and x.ndim == 1 else None


# ---------------------------------------------------------------- in a sentence

def repr_of_loaders(dls: Any) -> str:
    """The repr of `DataLoaders`, such as `DataLoaders: 320 + 80 pictures 40x40, 10 classes, bs 32, cpu`."""
    return described(dls, lambda dls: _loader_words(dls.train, ' + '.join(map(_n_items, dls.loaders)), dls.device)
                     if len(dls) else 'no loaders')


def repr_of_loader(dl: Any) -> str:
    """The repr of a loader of ours, such as `TfmdDL: 320 pictures 40x40, 10 classes, bs 32, cpu`."""
    return described(dl, lambda dl: _loader_words(dl, _n_items(dl), dl.device))


def repr_of_items(items: Any) -> str:
    """The repr of `Datasets` and `TfmdLists`: `Datasets: 400 items (PILImage, TensorCategory), 10 classes`."""
    return described(items, _items_words)


def _n_items(dl: Any) -> str:
    n = getattr(dl, 'n', None)
    n = length_of(getattr(dl, 'dataset', dl)) if n is None else n
    return 'a stream of' if n is None else f'{n:,}'


def _loader_words(dl: Any, n: str, device: Any) -> str:
    kinds = _kinds_of_items(getattr(dl, 'dataset', None))
    pictures = bool(kinds) and issubclass(kinds[0], (Image.Image, TensorImage))
    sizes = [tfm.size for tfm in _tfms_of(dl) if getattr(tfm, 'size', None) is not None]
    size = ' {1}x{0}'.format(*as_size(sizes[-1])) if pictures and sizes else ''
    bs = getattr(dl, 'batch_size', None)
    return ', '.join([f'{n} {"pictures" if pictures else "items"}{size}', *classes_words(dl), *[f'bs {bs}'] * bool(bs),
                      str(device or 'cpu')])


def _items_words(items: Any) -> str:
    kinds = ', '.join(kind.__name__ for kind in _kinds_of_items(items))
    parts = [len(range(len(items))[part] if isinstance(part, slice) else part) for part in items.splits]
    split = items.split_idx
    which = ['split into ' + ' + '.join(map('{:,}'.format, parts))] * (split is None and len(parts) > 1 and all(parts))
    which += ['for training' if split == 0 else 'for validation'] * (split is not None)
    return ', '.join([f'{len(items):,} items{kinds and f" ({kinds})"}', *which, *classes_words(items)])


def _kinds_of_items(dataset: Any) -> list[type]:
    """The type of each element of a sample, as far as it was found out when the transforms were set up."""
    return [tl.types[-1] for tl in getattr(dataset, 'tls', [dataset]) if getattr(tl, 'types', None)]


def _tfms_of(dl: Any) -> list[Any]:
    return [tfm for stage in ('after_item', 'after_batch') for tfm in getattr(getattr(dl, stage, None), 'fs', ())]


def classes_words(o: Any) -> list[str]:
    """How many classes there are, for each target that has some; `o` is a data set, a loader, or loaders."""
    places = [(o, 'vocab'), *((tfm, 'vocab') for tfm in _tfms_of(o)), (getattr(o, 'dataset', None), 'classes')]
    vocab = next((found for place, name in places if (found := getattr(place, name, None)) is not None), None)
    if vocab is None:
        return []
    several = len(vocab) and all(hasattr(names, '__len__') and not isinstance(names, str) for names in vocab)
    return [f'{" and ".join(str(len(names)) for names in (vocab if several else [vocab]))} classes']
