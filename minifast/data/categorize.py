"""Targets: categories, several categories, numbers, and how they are shown."""
from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable
from operator import index
from typing import Any, ClassVar

import numpy as np
import torch
from fastcore.foundation import CollBase, L
from torch import Tensor

from minifast.data.transform import DisplayedTransform
from minifast.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat, MSELossFlat
from minifast.markers import TensorCategory, TensorMultiCategory, cast, plain, tensor
from minifast.show import show_title

__all__ = ['Categorize', 'Category', 'CategoryMap', 'EncodedMultiCategorize', 'MultiCategorize', 'MultiCategory',
           'OneHotEncode', 'RegressionSetup', 'ShowTitle', 'TitledFloat', 'TitledInt', 'TitledStr', 'TitledTuple']


# ---------------------------------------------------------------- values that show themselves

class ShowTitle:
    """Mix-in: shown as a title above a picture, or as a cell of a table."""

    _show_args: ClassVar[dict[str, Any]] = {'label': 'text'}

    def show(self, ctx: Any = None, **kwargs: Any) -> Any:
        """Write the value above the axis `ctx`, or into a table's row."""
        return show_title(str(self), ctx=ctx, **{**self._show_args, **kwargs})


class TitledInt(int, ShowTitle):
    """An int that shows itself."""


class TitledFloat(float, ShowTitle):
    """A float that shows itself."""


class TitledStr(str, ShowTitle):
    """A str that shows itself."""


class TitledTuple(tuple, ShowTitle):
    """A tuple that shows itself."""


class Category(str, ShowTitle):
    """The name of a class."""

    _show_args: ClassVar[dict[str, Any]] = {'label': 'category'}


class MultiCategory(L):
    """The names of several classes."""

    def __getitem__(self, k: Any) -> Any:
        """A name, or those of a slice, of several places (list, array, tensor) or of a mask."""
        return super().__getitem__(k.tolist() if isinstance(k, (Tensor, np.ndarray, np.generic)) else k)

    def show(self, ctx: Any = None, sep: str = ';', color: str = 'black', **kwargs: Any) -> Any:
        """Write the names above the axis `ctx`, joined by `sep`."""
        return show_title(sep.join(map(str, self)), ctx=ctx, color=color, **kwargs)


# ---------------------------------------------------------------- classes

class CategoryMap(CollBase):
    """The classes, indexed by their code, and `o2i`, their codes.

    Args:
        col: labels, repeated ones and missing ones (NaN) included; a pandas Series keeps the order of its categories.
        sort: sort the classes.
        add_na: put '#na#' first, for labels that are not among the classes.
        strict: leave out categories of a Series that do not occur.
    """

    def __init__(self, col: Any, sort: bool = True, add_na: bool = False, strict: bool = False) -> None:
        items = self._categories(col, strict)
        if items is None:
            items = list(dict.fromkeys(o for o in _labels(col) if o == o))  # NaN is not equal to itself
            if sort:
                items = _sorted(items)
        self.items = L(['#na#', *items] if add_na else items)
        codes = {o: i for i, o in enumerate(self.items)}
        self.o2i = defaultdict(int, codes) if add_na else codes

    @staticmethod
    def _categories(col: Any, strict: bool) -> list | None:
        categories = getattr(getattr(col, 'dtype', None), 'categories', None)
        if categories is None:
            return None
        occurring = set(col.unique()) if strict else None
        return [o for o in categories if occurring is None or o in occurring]

    def __getitem__(self, k: Any) -> Any:
        """The class of a code; an `L` of those of a slice, of several codes (list, array, tensor) or of a mask."""
        k = k.tolist() if isinstance(k, (Tensor, np.ndarray)) else k  # sync: names are looked up on the host
        if isinstance(k, slice):
            return L(self.items[k])
        if not isinstance(k, (list, tuple, L, range)):
            return self.items[int(k) if isinstance(k, float) and k.is_integer() else index(k)]
        if len(k) and all(isinstance(o, (bool, np.bool_)) for o in k):
            if len(k) != len(self.items):
                raise IndexError(f'a mask of {len(k)} for {len(self.items)} classes: give one True or False a class')
            return L(o for o, chosen in zip(self.items, k) if chosen)
        return L(self[o] for o in k)

    def map_objs(self, objs: Iterable) -> L:
        """The codes of classes."""
        return L(self.o2i[o] for o in objs)

    def map_ids(self, ids: Iterable) -> L:
        """The classes of codes."""
        return L(self[i] for i in ids)

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Iterable) and not isinstance(other, str) and list(self) == list(other)

    __hash__ = None


def _labels(col: Any) -> Iterable:
    """Labels as hashable Python values."""
    for o in col.tolist() if isinstance(col, (np.ndarray, Tensor)) else col:
        yield o.item() if isinstance(o, np.generic) or (isinstance(o, Tensor) and o.ndim == 0) else o


def _sorted(items: list) -> list:
    try:
        return sorted(items)
    except TypeError as error:
        kinds = sorted({type(o).__name__ for o in items})
        raise TypeError(f'labels of several types ({", ".join(kinds)}) have no order: let get_y return one type, or '
                        'give CategoryBlock(sort=False)') from error


class Categorize(DisplayedTransform):
    """A label as its code, int64 [].

    Args:
        vocab: the classes; default: those of the training items.
        sort: sort them.
        add_na: add '#na#' as code 0, for labels that are not among them.
    """

    loss_func, order = CrossEntropyLossFlat(), 1
    vocab: CategoryMap | None = None

    def __init__(self, vocab: Iterable | None = None, sort: bool = True, add_na: bool = False) -> None:
        super().__init__()
        self.sort, self.add_na = sort, add_na
        self.vocab = None if vocab is None else CategoryMap(vocab, sort=sort, add_na=add_na)
        if vocab is not None:
            self.c = len(self.vocab)

    def setups(self, dsets: Any) -> None:
        """Collect the classes from the training items."""
        if self.vocab is None and dsets is not None:
            self.vocab = CategoryMap(dsets, sort=self.sort, add_na=self.add_na)
        self.c = len(self.vocab)

    def encodes(self, o: Any) -> TensorCategory:
        """The code of a label.

        Raises:
            KeyError: the training items do not have it.
        """
        return cast(torch.scalar_tensor(self._code(o), dtype=torch.int64), TensorCategory)

    def _code(self, o: Any) -> int:
        try:
            return self.vocab.o2i[o]
        except KeyError as error:
            raise KeyError(_unknown([o], self.vocab)) from error

    def decodes(self, o: Any) -> Category:
        """The class of a code, as text."""
        return Category(self.vocab[o])

    def config_kwargs(self) -> dict[str, Any]:
        """Constructor arguments that give these very codes."""
        classes = list(self.vocab)[1:] if self.add_na else list(self.vocab)
        return {'vocab': classes, 'sort': False, 'add_na': self.add_na}


def _unknown(labels: list, vocab: Iterable) -> str:
    known = list(vocab)
    shown = ', '.join(repr(o) for o in known[:10]) + (', ...' if len(known) > 10 else '')
    return (f'Label{"s" if len(labels) > 1 else ""} {", ".join(repr(o) for o in labels)} not included in the training '
            f'dataset, which has {len(known)} classes: {shown}. Give CategoryBlock(vocab=...) with all of them, or '
            'add_na=True')


class MultiCategorize(Categorize):
    """Several labels as their codes, int64 [k].

    Args:
        vocab: the classes; default: those of the training items, sorted.
        add_na: add '#na#' as code 0.
    """

    loss_func, order = BCEWithLogitsLossFlat(), 1

    def __init__(self, vocab: Iterable | None = None, add_na: bool = False) -> None:
        super().__init__(vocab=vocab, sort=vocab is None, add_na=add_na)
        vars(self).pop('c', None)  # OneHotEncode tells it, once

    def setups(self, dsets: Any) -> None:
        """Collect the classes from the training items."""
        if self.vocab is None and dsets:
            self.vocab = CategoryMap([label for labels in dsets for label in labels], add_na=self.add_na)

    def encodes(self, o: Any) -> TensorMultiCategory:
        """The codes of labels.

        Raises:
            KeyError: the training items do not have one of them.
        """
        missing = [] if self.add_na else [label for label in o if label not in self.vocab.o2i]
        if missing:
            raise KeyError(_unknown(missing, self.vocab))
        return TensorMultiCategory(torch.tensor([self.vocab.o2i[label] for label in o], dtype=torch.long))

    def decodes(self, o: Any) -> MultiCategory:
        """The classes of codes."""
        return MultiCategory([self.vocab[code] for code in o])

    def config_kwargs(self) -> dict[str, Any]:
        """Constructor arguments that give these very codes."""
        kwargs = super().config_kwargs()
        return {name: kwargs[name] for name in ('vocab', 'add_na')}


class OneHotEncode(DisplayedTransform):
    """Codes [k] as zeros and ones, float32 [c].

    Args:
        c: number of classes; default: what `MultiCategorize` before it knows.
    """

    order = 2

    def __init__(self, c: int | None = None) -> None:
        super().__init__()
        self.c = c

    def setups(self, dsets: Any) -> None:
        """Take over the number of classes."""
        if self.c is None:
            self.c = len(getattr(dsets, 'vocab', None) or [])
        if not self.c:
            warnings.warn('the number of classes is not known: OneHotEncode(c=...)', stacklevel=2)

    def encodes(self, o: Any) -> TensorMultiCategory:
        """Ones at the codes."""
        hot = torch.zeros(self.c)
        hot[plain(tensor(o)).long()] = 1.
        return TensorMultiCategory(hot)

    def decodes(self, o: Any) -> list[int]:
        """Where the ones are."""
        return _ones(o)


def _ones(o: Any) -> list[int]:
    return plain(tensor(o)).bool().nonzero().flatten().tolist()


class EncodedMultiCategorize(Categorize):
    """Labels that come as zeros and ones already, float32 [c].

    Args:
        vocab: the classes, in the order of the columns.
    """

    loss_func, order = BCEWithLogitsLossFlat(), 1

    def __init__(self, vocab: Iterable) -> None:
        if vocab is None:
            raise ValueError('encoded labels do not tell their names: MultiCategoryBlock(encoded=True, vocab=[...])')
        super().__init__(vocab, sort=False)
        self.c = len(self.vocab)

    def encodes(self, o: Any) -> TensorMultiCategory:
        """Zeros and ones as a tensor."""
        return TensorMultiCategory(plain(tensor(o)).float())

    def decodes(self, o: Any) -> MultiCategory:
        """The classes whose column is not zero."""
        return MultiCategory([self.vocab[code] for code in _ones(o)])

    def config_kwargs(self) -> dict[str, Any]:
        """Constructor arguments that give these very columns."""
        return {'vocab': list(self.vocab)}


class RegressionSetup(DisplayedTransform):
    """A number, or several, as float32 [] or [c].

    Args:
        c: how many; default: as the first item has.
    """

    loss_func = MSELossFlat()

    def __init__(self, c: int | None = None) -> None:
        super().__init__()
        self.c = c

    def setups(self, dsets: Any) -> None:
        """Count the numbers of the first item."""
        if self.c is None:
            first = dsets[0] if dsets is not None and len(dsets) else []
            self.c = len(first) if hasattr(first, '__len__') and getattr(first, 'ndim', 1) else 1

    def encodes(self, o: Any) -> Tensor:
        """Numbers as a tensor."""
        return plain(tensor(o)).float()

    def decodes(self, o: Any) -> TitledFloat | TitledTuple:
        """A tensor as a number or several."""
        return TitledFloat(o) if o.ndim == 0 else TitledTuple(o.tolist())
