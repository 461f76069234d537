"""Targets: labels, read once and refused where they can hardly be meant; categories and numbers; how they are shown."""
from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from operator import index
from typing import Any, ClassVar

import numpy as np
import torch
from fastcore.foundation import CollBase, L
from torch import Tensor

from minifast.arguments import near_match
from minifast.codetext import keyed, registered
from minifast.data.collate import add_note
from minifast.data.transform import DisplayedTransform, is_known
from minifast.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat, MSELossFlat
from minifast.markers import TensorCategory, TensorMultiCategory, cast, plain, tensor
from minifast.show import short, show_title
from minifast.terminal import listed, warn

__all__ = ['Categorize', 'Category', 'CategoryMap', 'EncodedMultiCategorize', 'MultiCategorize', 'MultiCategory',
           'OneHotEncode', 'RegressionSetup', 'ShowTitle', 'TitledFloat', 'TitledInt', 'TitledStr', 'TitledTuple',
           'cheap_labels', 'column_named', 'column_of', 'is_missing', 'labels_of', 'missing_label', 'no_column',
           'place_of', 'warn_of_classes', 'warn_of_lists']


# ---------------------------------------------------------------- values that show themselves

class ShowTitle:
    """Mix-in: shown as a title above a picture, or as a cell of a table."""

    _show_args: ClassVar[dict[str, Any]] = {'label': 'text'}

    def show(self, ctx: Any = None, **kwargs: Any) -> Any:
        """Write the value above the axis `ctx`, or into a table's row; `**kwargs` go to `show_title`."""
        return show_title(short(self), ctx=ctx, **{**self._show_args, **kwargs})


@keyed
class TitledInt(int, ShowTitle):
    """An int that shows itself."""


@keyed
class TitledFloat(float, ShowTitle):
    """A float that shows itself."""


@keyed
class TitledStr(str, ShowTitle):
    """A str that shows itself."""


@keyed
class TitledTuple(tuple, ShowTitle):
    """A tuple that shows itself."""


@keyed
class Category(str, ShowTitle):
    """The name of a class."""

    _show_args: ClassVar[dict[str, Any]] = {'label': 'category'}


@keyed
class MultiCategory(L):
    """The names of several classes."""

    def __getitem__(self, k: Any) -> Any:
        """A name, or those of a slice, of several places (list, array, tensor) or of a mask."""
        return super().__getitem__(k.tolist() if isinstance(k, (Tensor, np.ndarray, np.generic)) else k)

    def show(self, ctx: Any = None, sep: str = ';', color: str | None = None, **kwargs: Any) -> Any:
        """Write the names above the axis `ctx`, joined by `sep`, in `color`; `**kwargs` go to `show_title`."""
        return show_title(sep.join(map(str, self)) or '(none)', ctx=ctx, color=color, **kwargs)


# ---------------------------------------------------------------- classes

@keyed
class CategoryMap(CollBase):
    """The classes, indexed by their code, and `o2i`, their codes.

    Args:
        col: labels, repeated ones and missing ones (NaN) included; a pandas Series keeps the order of its categories.
        sort: sort the classes.
        add_na: put '#na#' first, for labels that are not among the classes.
        strict: leave out categories of a Series that do not occur.

    Example:
        >>> vocab = CategoryMap(['dog', 'cat', 'dog'])
        >>> list(vocab), vocab.o2i['dog'], vocab[0]
        (['cat', 'dog'], 1, 'cat')
    """

    def __init__(self, col: Any, sort: bool = True, add_na: bool = False, strict: bool = False) -> None:
        items = self._categories(col, strict)
        if items is None:
            items = [o for o in dict.fromkeys(_labels(col)) if o is None or not is_missing(o)]
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

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)

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

    def map_objs(self, objs: Iterable[Any]) -> L:
        """The codes of the classes `objs`."""
        return L(self.o2i[o] for o in objs)

    def map_ids(self, ids: Iterable[Any]) -> L:
        """The classes of the codes `ids`."""
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


# ---------------------------------------------------------------- labels as the data give them

def is_missing(o: Any) -> bool:
    """Whether the cell `o` is empty: None, NaN, pandas' <NA> and NaT; an empty text is not."""
    if o is None or type(o).__name__ in ('NAType', 'NaTType'):
        return True
    return isinstance(o, (float, np.floating)) and o != o


def column_named(table: Any, col: str | int) -> Any:
    """The column `col` of a DataFrame `table`, by name or position.

    Raises:
        KeyError: there is none; the message lists those there are.
    """
    if isinstance(col, int) and -len(table.columns) <= col < len(table.columns):
        return table.iloc[:, col]
    if not isinstance(col, int) and col in table.columns:
        return table[col]
    raise KeyError(no_column(col, table.columns))


def no_column(col: Any, columns: Iterable[Any]) -> str:
    """The message for a column `col` that a table does not have: it lists the `columns` there are."""
    names = [str(name) for name in columns]
    shown = listed(map(repr, names), 20, ', ...')
    return f'the table has no column {col!r}{near_match(str(col), names)}; it has {shown}'


def column_of(dsets: Any) -> Any:
    """The columns of a table that the transforms of `dsets` read so far, None where something else makes the labels."""
    reader = next((f for f in reversed(_getters(dsets)) if hasattr(f, 'cols')), None)
    if reader is None or not hasattr(dsets.items, 'iloc'):
        return None
    names = [dsets.items.columns[col] if isinstance(col, int) else col for col in reader.cols]
    return names[0] if len(names) == 1 else names


def place_of(dsets: Any, i: int) -> str:
    """What the `i`-th of the items `dsets` is called in messages: its row and column, or its number and itself."""
    items = getattr(dsets, 'items', None)
    if hasattr(items, 'iloc'):
        column, row = column_of(dsets), items.index[i]
        row = row.item() if isinstance(row, np.generic) else row
        return f'row {row!r}' + ('' if column is None else f' of column {column!r}')
    shown = str(items[i]) if items is not None else ''
    return f'item {i}' + (f' ({shown if len(shown) < 200 else shown[:200] + "..."})' if shown else '')


def labels_of(dsets: Any) -> Iterator[tuple[int, Any]]:
    """(number, label) of all items `dsets`, as the transforms before make them; a column of a table is read as a whole.

    Raises:
        Exception: whatever a getter raises, with a note of the item.
    """
    getters = _getters(dsets)
    whole = getattr(getters[0], 'whole_column', None) if len(getters) == 1 else None
    column = whole(dsets.items) if whole is not None else None
    if column is not None:
        yield from enumerate(column)
        return
    if not hasattr(dsets, 'items'):
        yield from enumerate(dsets.tolist() if isinstance(dsets, (np.ndarray, Tensor)) else dsets)
        return
    for i in range(len(dsets)):
        try:
            label = dsets[i]
        except Exception as error:
            raise add_note(error, f'raised while the label of {place_of(dsets, i)} was read') from None
        yield i, label


def cheap_labels(dsets: Any) -> bool:
    """Whether reading all labels of `dsets` is cheap: names of files, cells of tables, no code of the user's."""
    getters = _getters(dsets)
    return hasattr(dsets, 'items') and bool(getters) and all(is_known(f) for f in getters)


def _getters(dsets: Any) -> list:
    return list(getattr(getattr(dsets, 'tfms', None), 'fs', ()))


def missing_label(dsets: Any, i: int, label: Any, way_out: str = '') -> ValueError:
    """The error for an item without a label.

    Args:
        dsets: the items.
        i: the number of the one.
        label: what it has instead.
        way_out: what else can be done than to leave it out.
    """
    column = column_of(dsets)
    if column is None:
        leave_out = 'let the function of the labels (get_y) return one, or leave such items out'
    else:
        subset = column if isinstance(column, list) else [column]
        leave_out = f'fill the cell, or leave such rows out with df.dropna(subset={subset!r})'
    return ValueError(f'{place_of(dsets, i)} has no label, it is empty ({label!r}): {leave_out}'
                      + (f', or {way_out}' if way_out else ''))


_zeros_and_ones = {'0', '1', '0.0', '1.0', 'True', 'False'}


def warn_of_lists(lists: Sequence[Iterable[Any]]) -> None:
    """Warn of `lists` of labels that are hardly meant: names, which become letters, or columns of zeros and ones."""
    name = next((labels for labels in lists if isinstance(labels, str) and len(labels) > 1), None)
    if name is not None:
        warn(f'labels: MultiCategoryBlock takes a list of labels an item and got the text {name!r}, '
             f'whose letters become the classes: let get_y return [{name!r}], or use CategoryBlock; for '
             'several labels in one text give label_delim')
    lengths = {len(labels) for labels in lists}
    seen = {str(o.item() if isinstance(o, Tensor) and o.numel() == 1 else o) for labels in lists for o in labels}
    if len(lengths) == 1 and lengths.pop() > 1 and seen and seen <= _zeros_and_ones:
        warn(f'labels: each item has as many, and all are of {", ".join(sorted(seen))}: such columns of zeros '
             'and ones become the classes 0 and 1, both of which nearly every item has. If they tell which '
             'classes an item is of, give MultiCategoryBlock(encoded=True, vocab=[names of the columns]) '
             '(y_block= of from_df)')


def warn_of_classes(classes: Iterable[Any], n_items: int, several: bool = False) -> None:
    """Warn of classes that are hardly meant: an empty text, one single class, names that differ in blanks or case.

    Args:
        classes: the classes.
        n_items: how many items they were collected from.
        several: an item may have any number of them, so that one class alone makes sense.
    """
    classes = list(classes)
    texts = [o for o in classes if isinstance(o, str)]
    found = []
    if any(not o.strip() for o in texts):
        found.append("one class is an empty text: look at what the labels are made of (parent_label needs a path, a "
                     'regular expression a group, a table a value in each row)')
    if len(classes) == 1 and n_items > 1 and not several:
        found.append(f'all {n_items} labels are {classes[0]!r}: with one class there is nothing to learn')
    alike: dict[str, list] = {}
    for o in texts:
        alike.setdefault(' '.join(o.split()).lower(), []).append(o)
    twins = [names for names in alike.values() if len(names) > 1]
    if twins:
        shown = '; '.join(' and '.join(map(repr, names)) for names in twins[:3]) + ('; ...' if len(twins) > 3 else '')
        found.append(f'classes differ only in blanks or capitals: {shown}. If one is meant, let get_y strip and lower '
                     'its labels')
    for line in found:
        warn(f'labels: {line}')


# ---------------------------------------------------------------- targets

@keyed
class _Target(DisplayedTransform):
    """A target whose labels are looked at once, when it is set up, so that nothing is found out in mid-training."""

    _way_out = ''
    _labels_as_such: frozenset = frozenset()
    """Types of which each object is a label: there may be millions."""
    _read: bool = False
    """Whether `setups` has read the labels of the training items."""

    def setup(self, items: Any = None, train_setup: bool = False) -> Any:
        """Prepare from the training items, then look at the labels of the other subsets.

        Raises:
            ValueError: an item has no label.
        """
        self._read = False
        done = super().setup(items, train_setup)
        for number in range(items.n_subsets if hasattr(items, 'subset') else 0):
            dsets = items.subset(number)
            # with classes that were given nothing has been read yet, and code of the user's may be slow
            if cheap_labels(dsets) if not self._read else number > 0:
                self._check(dsets, training=number == 0)
        return done

    def _check(self, dsets: Any, training: bool) -> None:
        """Look at the labels of a subset that was not read."""
        for _ in self._labels_of(dsets):
            pass

    def _labels_of(self, dsets: Any) -> Iterator[tuple[int, Any]]:
        """(number, label) of all items, each of the kind that this target takes."""
        for i, label in labels_of(dsets):
            if type(label) not in self._labels_as_such:
                if is_missing(label):
                    raise missing_label(dsets, i, label, self._way_out)
                self._take(dsets, i, label)
            yield i, label

    def _take(self, dsets: Any, i: int, label: Any) -> None:
        """Refuse a label of another kind."""


@registered
class Categorize(_Target):
    """A label as its code, int64 [].

    Args:
        vocab: the classes; default: those of the training items.
        sort: sort them.
        add_na: add '#na#' as code 0, for labels that are not among them.

    Example:
        >>> tfm = Categorize(vocab=['cat', 'dog'])
        >>> tfm('dog'), tfm.decode(tfm('dog'))
        (TensorCategory(1), 'dog')
    """

    loss_func, order = CrossEntropyLossFlat(), 1
    vocab: CategoryMap | None = None

    def __init__(self, vocab: Iterable[Any] | None = None, sort: bool = True, add_na: bool = False) -> None:
        super().__init__()
        self.sort, self.add_na = sort, add_na
        self.vocab = None if vocab is None else CategoryMap(vocab, sort=sort, add_na=add_na)
        if vocab is not None:
            self.c = len(self.vocab)

    _way_out = 'give CategoryBlock(add_na=True), which makes a class of what is missing'
    _labels_as_such = frozenset({str, int, bool})

    def setups(self, dsets: Any) -> None:
        """Collect the classes from the training items `dsets`.

        Raises:
            ValueError: one of them has no label, and `add_na` is not set.
            TypeError: one of them has a list of labels.
        """
        if self.vocab is None and dsets is not None:
            self._read = True
            dtype = None if hasattr(dsets, 'subset') else getattr(dsets, 'dtype', None)
            if getattr(dtype, 'categories', None) is not None:
                labels = dsets  # a Series that knows its classes and their order
            else:
                labels = [label for _, label in self._labels_of(dsets)]
            self.vocab = CategoryMap(labels, sort=self.sort, add_na=self.add_na)
            warn_of_classes(list(self.vocab)[self.add_na:], len(labels))
        self.c = len(self.vocab)

    def _labels_of(self, dsets: Any) -> Iterator[tuple[int, Any]]:
        return labels_of(dsets) if self.add_na else super()._labels_of(dsets)

    def _take(self, dsets: Any, i: int, label: Any) -> None:
        if isinstance(label, (list, tuple, set, L)):
            raise TypeError(f'{place_of(dsets, i)} has the labels {str(label)[:100]} and CategoryBlock takes one an '
                            'item: use MultiCategoryBlock, or let get_y return one')

    def _classes(self, label: Any) -> Iterable:
        """The classes in what an item has as its label."""
        return (label,)

    def _check(self, dsets: Any, training: bool) -> None:
        for i, label in self._labels_of(dsets):
            unknown = [] if self.add_na or not training else [
                name for name in _labels(self._classes(label)) if name not in self.vocab.o2i]
            if unknown:
                raise KeyError(f'{place_of(dsets, i)}: {_unknown(unknown, self.vocab)}')

    def encodes(self, o: Any) -> TensorCategory:
        """The code of the label `o`.

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
        """The class of the code `o`, as text."""
        return Category(self.vocab[o])

    def config_kwargs(self) -> dict[str, Any]:
        """Constructor arguments that give these very codes."""
        classes = list(self.vocab)[1:] if self.add_na else list(self.vocab)
        return {'vocab': classes, 'sort': False, 'add_na': self.add_na}


def _unknown(labels: list, vocab: Iterable) -> str:
    known = list(vocab)
    labels = list(_labels(labels))  # numpy's numbers would be shown with their type
    shown = listed(map(repr, known), 10, ', ...')
    return (f'Label{"s" if len(labels) > 1 else ""} {", ".join(repr(o) for o in labels)} not included in the training '
            f'dataset, which has {len(known)} classes: {shown}. Give CategoryBlock(vocab=...) with all of them, or '
            'add_na=True')


@registered
class MultiCategorize(Categorize):
    """Several labels as their codes, int64 [k].

    Args:
        vocab: the classes; default: those of the training items, sorted.
        add_na: add '#na#' as code 0.

    Example:
        >>> tfm = MultiCategorize(vocab=['blue', 'red', 'round'])
        >>> tfm(['red', 'blue'])
        TensorMultiCategory([1, 0])
    """

    loss_func, order = BCEWithLogitsLossFlat(), 1

    def __init__(self, vocab: Iterable[Any] | None = None, add_na: bool = False) -> None:
        super().__init__(vocab=vocab, sort=vocab is None, add_na=add_na)
        vars(self).pop('c', None)  # OneHotEncode tells it, once

    _way_out = "write '' (or an empty list) where an item has none of the classes"
    _labels_as_such = frozenset()

    def setups(self, dsets: Any) -> None:
        """Collect the classes from the training items `dsets`.

        Raises:
            ValueError: one of them has an empty cell.
            TypeError: the labels of one are no list.
        """
        if self.vocab is None and dsets:
            self._read = True
            lists = [label for _, label in self._labels_of(dsets)]
            if not self.add_na:
                warn_of_lists(lists)
            self.vocab = CategoryMap([name for names in lists for name in names], add_na=self.add_na)
            warn_of_classes(list(self.vocab)[self.add_na:], len(lists), several=True)

    def _labels_of(self, dsets: Any) -> Iterator[tuple[int, Any]]:
        return _Target._labels_of(self, dsets)

    def _take(self, dsets: Any, i: int, label: Any) -> None:
        if not isinstance(label, Iterable) or isinstance(label, Tensor) and not label.ndim:
            raise TypeError(f'{place_of(dsets, i)} has the label {label!r} and MultiCategoryBlock takes a list of '
                            'them: use CategoryBlock for one label an item, or let get_y return a list')
        if not self.add_na and any(is_missing(name) for name in label):
            raise missing_label(dsets, i, label)

    def _classes(self, label: Any) -> Iterable:
        return label

    def encodes(self, o: Any) -> TensorMultiCategory:
        """The codes of the labels `o`.

        Raises:
            KeyError: the training items do not have one of them.
        """
        o = list(_labels(o)) if isinstance(o, (Tensor, np.ndarray)) else o  # elements of a tensor are never equal
        missing = [] if self.add_na else [label for label in o if label not in self.vocab.o2i]
        if missing:
            raise KeyError(_unknown(missing, self.vocab))
        return TensorMultiCategory(torch.tensor([self.vocab.o2i[label] for label in o], dtype=torch.long))

    def decodes(self, o: Any) -> Any:
        """The classes of the codes `o`; what shows itself already, as labels decoded with their boxes, stays."""
        return o if hasattr(o, 'show') else MultiCategory([self.vocab[code] for code in o])

    def config_kwargs(self) -> dict[str, Any]:
        """Constructor arguments that give these very codes."""
        kwargs = super().config_kwargs()
        return {name: kwargs[name] for name in ('vocab', 'add_na')}


@registered
class OneHotEncode(DisplayedTransform):
    """Codes [k] as zeros and ones, float32 [c].

    Args:
        c: number of classes; default: what `MultiCategorize` before it knows.

    Example:
        >>> OneHotEncode(c=3)([2, 0])
        TensorMultiCategory([1., 0., 1.])
    """

    order = 2

    def __init__(self, c: int | None = None) -> None:
        super().__init__()
        self.c = c

    def setups(self, dsets: Any) -> None:
        """Take over the number of classes from `dsets`."""
        if self.c is None:
            self.c = len(getattr(dsets, 'vocab', None) or [])
        if not self.c:
            warnings.warn('the number of classes is not known: OneHotEncode(c=...)', stacklevel=2)

    def encodes(self, o: Any) -> TensorMultiCategory:
        """Ones at the codes `o`."""
        hot = torch.zeros(self.c)
        hot[plain(tensor(o)).long()] = 1.
        return TensorMultiCategory(hot)

    def decodes(self, o: Any) -> list[int]:
        """Where the ones of `o` are."""
        return _ones(o)


def _ones(o: Any) -> list[int]:
    return plain(tensor(o)).bool().nonzero().flatten().tolist()


@registered
class EncodedMultiCategorize(Categorize):
    """Labels that come as zeros and ones already, float32 [c].

    Args:
        vocab: the classes, in the order of the columns.
    """

    loss_func, order = BCEWithLogitsLossFlat(), 1

    def __init__(self, vocab: Iterable[Any]) -> None:
        if vocab is None:
            raise ValueError('encoded labels do not tell their names: MultiCategoryBlock(encoded=True, vocab=[...])')
        super().__init__(vocab, sort=False)
        self.c = len(self.vocab)

    _way_out = 'write 0 where an item is not of a class'
    _labels_as_such = frozenset()

    def _classes(self, label: Any) -> Iterable:
        return ()

    def _take(self, dsets: Any, i: int, label: Any) -> None:
        if not hasattr(label, '__len__') or isinstance(label, str) or len(label) != self.c:
            raise ValueError(f'{place_of(dsets, i)} has the label {str(label)[:100]!r}, and encoded labels are a list '
                             f'of {self.c} zeros and ones, one for each class of vocab')
        if any(is_missing(o) for o in label):
            raise missing_label(dsets, i, label, self._way_out)

    def encodes(self, o: Any) -> TensorMultiCategory:
        """The zeros and ones `o` as a tensor."""
        return TensorMultiCategory(plain(tensor(o)).float())

    def decodes(self, o: Any) -> MultiCategory:
        """The classes whose column in `o` is not zero."""
        return MultiCategory([self.vocab[code] for code in _ones(o)])

    def config_kwargs(self) -> dict[str, Any]:
        """Constructor arguments that give these very columns."""
        return {'vocab': list(self.vocab)}


@registered
class RegressionSetup(_Target):
    """A number, or several, as float32 [] or [c].

    Args:
        c: how many; default: as the first item has.
    """

    loss_func = MSELossFlat()

    def __init__(self, c: int | None = None) -> None:
        super().__init__()
        self.c = c

    def setups(self, dsets: Any) -> None:
        """Count the numbers of the first of the items `dsets`."""
        if self.c is None:
            first = dsets[0] if dsets is not None and len(dsets) else []
            several = hasattr(first, '__len__') and getattr(first, 'ndim', 1) and not isinstance(first, str)
            self.c = len(first) if several else 1

    def _labels_of(self, dsets: Any) -> Iterator[tuple[int, Any]]:
        """NaN passes: a loss function of the user's own may leave it out."""
        no_number = None
        for i, label in labels_of(dsets):
            self._take(dsets, i, label)
            if no_number is None and any(o != o for o in _parts(label)):
                no_number = i
            yield i, label
        if no_number is not None:
            warn(f'labels: {place_of(dsets, no_number)} is empty (nan): a loss that does not leave it out '
                 'becomes nan. Fill it, or leave the item out')

    def _take(self, dsets: Any, i: int, label: Any) -> None:
        for o in _parts(label):
            if isinstance(o, (str, bytes)):
                column = column_of(dsets)
                how = 'float(...) in get_y' if column is None else f'df[{column!r}] = pd.to_numeric(df[{column!r}])'
                raise TypeError(f'{place_of(dsets, i)} has the text {o!r}, and RegressionBlock takes numbers: make '
                                f'them with {how}')
            if is_missing(o) and not isinstance(o, (float, np.floating)):
                raise missing_label(dsets, i, label)

    def encodes(self, o: Any) -> Tensor:
        """The numbers `o` as a tensor.

        Raises:
            TypeError: it is no number.
        """
        try:
            return plain(tensor(o)).float()
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f'RegressionBlock takes numbers and got {str(o)[:100]!r} ({type(o).__name__}): let get_y '
                            'return a number, or a list of them') from error

    def decodes(self, o: Any) -> TitledFloat | TitledTuple:
        """The tensor `o` as a number or several."""
        return TitledFloat(o) if o.ndim == 0 else TitledTuple(o.tolist())


def _parts(label: Any) -> Iterable:
    """The numbers of a label that may be one number or a list, tensor or array of them."""
    if isinstance(label, (list, tuple, L)):
        return label
    if isinstance(label, (np.ndarray, Tensor)) and label.ndim:
        return label.ravel().tolist()
    return (label,)
