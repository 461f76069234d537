"""Labels as the data give them, read once before training: what is empty, and what is hardly meant as a label."""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from minifast.arguments import near_match
from minifast.data.collate import noted
from minifast.data.pipeline import is_known
from minifast.terminal import listed, warn

__all__ = ['cheap_labels', 'column_named', 'column_of', 'is_missing', 'labels_of', 'missing_label', 'no_column',
           'place_of', 'tell_of_classes', 'tell_of_lists']


def is_missing(o: Any) -> bool:
    """Whether a cell is empty: None, NaN, pandas' <NA> and NaT; an empty text is not."""
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


def no_column(col: Any, columns: Iterable) -> str:
    """The message for a column `col` that a table does not have: it lists the `columns` there are."""
    names = [str(name) for name in columns]
    shown = listed(map(repr, names), 20, ', ...')
    return f'the table has no column {col!r}{near_match(str(col), names)}; it has {shown}'


def column_of(dsets: Any) -> Any:
    """The columns of a table that the transforms read so far, None where something else makes the labels."""
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
    """(number, label) of all items, as the transforms before make them; a column of a table is read as a whole.

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
            raise noted(error, f'raised while the label of {place_of(dsets, i)} was read') from None
        yield i, label


def cheap_labels(dsets: Any) -> bool:
    """Whether reading all labels costs little: names of files, cells of tables and lists, no code of the user's."""
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


def tell_of_lists(lists: Sequence[Iterable]) -> None:
    """Warn of lists of labels that are hardly meant: names, which become letters, or columns of zeros and ones."""
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


def tell_of_classes(classes: Iterable, n_items: int, several: bool = False) -> None:
    """Warn of classes that are hardly meant: an empty text, one single class, names that differ in blanks or case.

    Args:
        classes: the classes.
        n_items: how many items they were collected from.
        several: an item may have any number of them, so that one class alone makes sense.
    """
    classes = list(classes)
    texts = [o for o in classes if isinstance(o, str)]
    told = []
    if any(not o.strip() for o in texts):
        told.append("one class is an empty text: look at what the labels are made of (parent_label needs a path, a "
                    'regular expression a group, a table a value in each row)')
    if len(classes) == 1 and n_items > 1 and not several:
        told.append(f'all {n_items} labels are {classes[0]!r}: with one class there is nothing to learn')
    alike: dict[str, list] = {}
    for o in texts:
        alike.setdefault(' '.join(o.split()).lower(), []).append(o)
    twins = [names for names in alike.values() if len(names) > 1]
    if twins:
        shown = '; '.join(' and '.join(map(repr, names)) for names in twins[:3]) + ('; ...' if len(twins) > 3 else '')
        told.append(f'classes differ only in blanks or capitals: {shown}. If one is meant, let get_y strip and lower '
                    'its labels')
    for line in told:
        warn(f'labels: {line}')
