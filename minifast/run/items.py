"""The items of a data set as it tells them without reading one: names, labels, sizes, times and contents of files."""
from __future__ import annotations

import functools
import json
import os
import time
import types
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import numpy as np
from fastcore.foundation import L
from torch.utils.data import ConcatDataset, Subset

from minifast.data.pipeline import Pipeline
from minifast.hardware import crc32
from minifast.run.fingerprint import UNKNOWN, digest, fingerprint, rows_of
from minifast.seeds import looking

__all__ = ['Column', 'Files', 'Tables', 'columns_of', 'is_path', 'pairs_of']

CONTENT_BYTES, CONTENT_FILES, LOOK_S = 32 << 20, 5000, 5.
"""Contents are looked at up to these sums; seconds for labels, and for sizes."""

@dataclass
class Column:
    """One thing about every item of a split, in order: what it is called, and where it is a file, about that file."""

    texts: list[str]
    sizes: list[int | None] = field(default_factory=list)
    times: list[int | None] = field(default_factory=list)
    contents: list[int | None] = field(default_factory=list)

    def digests(self) -> dict[str, Any]:
        """The column for a checkpoint, which does not hold all of it."""
        return {'n': len(self.texts), **{name: digest(values) for name, values in vars(self).items()}}

    def tell(self, i: int) -> str:
        """Item `i` in words."""
        if i >= len(self.texts):
            return 'none'
        size = self.sizes[i] if self.sizes else None
        return self.texts[i] + ('' if size is None else f', {size:,} bytes')


Tables = dict[str, dict[str, Column]]
"""A list of items, such as those of training -> what is known of each of them, in columns."""


def is_path(x: Any, bases: Sequence[str] = ('',)) -> bool:
    """Whether `x` names a file: any path does, a text where there is one of that name below one of `bases`."""
    return isinstance(x, PurePath) or (isinstance(x, str) and 0 < len(x) < 4096 and '\0' not in x
                                       and any(os.path.isfile(os.path.join(base, x)) for base in bases))


def _text(x: Any) -> str:
    if isinstance(x, str):
        return x
    return str(x) if isinstance(x, (bool, int, float, PurePath)) else json.dumps(fingerprint(x))


def _until(deadline: float, f: Callable[[Any], Any], xs: Iterable[Any]) -> list[Any]:
    """`f` of each, None from the moment on at which it has taken too long."""
    found: list[Any] = []
    for i, x in enumerate(xs):
        if i % 256 == 0 and time.monotonic() > deadline:
            return found + [None] * (len(xs) - i)
        found.append(f(x))
    return found


def columns_of(ds: Any) -> dict[str, list] | None:
    """What is known about the items of a data set without reading one of them: name -> one value an item."""
    if isinstance(ds, Subset):
        parent = columns_of(ds.dataset)
        indices = [int(i) for i in ds.indices]
        return {'item': indices} if parent is None else {k: [v[i] for i in indices] for k, v in parent.items()}
    if isinstance(ds, ConcatDataset):
        parts = [columns_of(part) for part in ds.datasets]
        if any(part is None or part.keys() != parts[0].keys() for part in parts):
            return None
        return {k: [x for part in parts for x in part[k]] for k in parts[0]}
    if isinstance(ds, (list, L)):
        return pairs_of(ds)
    own = vars(ds) if hasattr(ds, '__dict__') else {}
    if 'tls' in own:
        return _through(ds.tls, ds.n_inp)
    if 'items' in own and isinstance(own.get('tfms'), Pipeline):
        return _through([ds], 1)
    return pairs_of(own['samples']) if isinstance(own.get('samples'), list) else None


def pairs_of(items: Sequence) -> dict[str, list]:
    """Items that are pairs as items and labels, other items as they are."""
    if len(items) and all(isinstance(item, (tuple, list)) and len(item) > 1 for item in items):
        return {'item': [item[0] if len(item) == 2 else list(item[:-1]) for item in items],
                'label': [item[-1] for item in items]}
    return {'item': list(items)}


def _through(tls: Sequence, n_inp: int) -> dict[str, list]:
    """The items and their labels, as the functions in front of the pipelines tell them."""
    items = tls[0].items
    table = hasattr(items, 'iloc')
    found = {'item': rows_of(items) if table else list(items)}
    rows = [items.iloc[i] for i in range(min(len(items), 20_000))] if table else found['item']
    for i, tl in enumerate(tls):
        is_input = i < n_inp
        if is_input and len(rows) and is_path(rows[0]):
            continue
        values = _told(tl, rows)
        if values is not None:
            name = ('input' if is_input else 'label') + ('' if i in (0, n_inp) else f' {i}')
            found[name] = values + [None] * (len(items) - len(values))
    return found


def _told(tl: Any, items: Sequence) -> list | None:
    """The items through the leading functions of a pipeline that name something: labels, files; None without such."""
    values, told = list(items), False
    deadline = time.monotonic() + LOOK_S
    with looking():
        for f in map(_namer, tl.tfms.fs):
            if not len(values) or f is None:
                break
            try:
                if not _is_a_name(f(values[0])):
                    break
                values, told = _until(deadline, lambda x, f=f: None if x is None else f(x), values), True
            except Exception:  # a function of the user's that does not want all items: what it says is not known
                break
    return values if told else None


def _namer(f: Any) -> Callable | None:
    """The function of a transform that names something, where it is one; None where it may do more."""
    if type(f).__name__ in ('ColReader', 'RegexLabeller', 'ItemGetter', 'AttrGetter'):
        return f
    funcs = [entry.func for entry in f.encodes.entries] if '_name' in vars(f) else []
    if len(funcs) != 1 or not isinstance(funcs[0], (types.FunctionType, functools.partial)):
        return None
    # without a choice by types the function itself says the same in a third of the time
    return funcs[0] if (getattr(funcs[0], '__module__', '') or '').startswith('minifast.') else f


def _is_a_name(x: Any) -> bool:
    simple = (str, bool, int, float, PurePath, np.generic)
    return isinstance(x, simple) or (isinstance(x, (list, tuple, L)) and all(isinstance(o, simple) for o in x))


class Files:
    """Columns of files of all splits: named from the folder that they share, so that it may lie elsewhere."""

    def __init__(self) -> None:
        self.columns: dict[str, list[tuple[Column, list[str]]]] = {}

    def add(self, name: str, values: Sequence, bases: Sequence[str] = ('',)) -> Column:
        """A column of `values`; what there is to know about files is filled in by `look`.

        Args:
            name: columns of one name share a folder, that of all splits.
            values: one an item.
            bases: folders in which the files may lie.
        """
        first = next((v for v in values if v is not None), None)
        if not is_path(first, bases):
            texts = values if all(type(v) is str for v in values) else [
                UNKNOWN if t is None else t for t in _until(time.monotonic() + LOOK_S, _text, values)]
            return Column(list(texts))
        base = next((b for b in bases if os.path.isfile(os.path.join(b, first))), '')
        paths = [UNKNOWN if v is None else os.path.join(base, v) if base else os.fspath(v) for v in values]
        column = Column([])
        self.columns.setdefault(name, []).append((column, paths))
        return column

    def look(self) -> None:
        """Names, sizes, times and, as far as that is little, contents."""
        deadline = time.monotonic() + LOOK_S
        for columns in self.columns.values():
            every = [path for _, paths in columns for path in paths if path != UNKNOWN]
            root = len(os.path.commonprefix([min(every), max(every)]).rpartition('/')[0] + '/') if every else 0
            for column, paths in columns:
                column.texts = [path if path == UNKNOWN else path[root:] for path in paths]
                stats = _until(deadline, _stat, paths)
                column.sizes = [None if s is None else s.st_size for s in stats]
                column.times = [None if s is None else s.st_mtime_ns for s in stats]
        found = [pair for columns in self.columns.values() for pair in columns]
        sizes = [size for column, _ in found for size in column.sizes]
        few = len(sizes) <= CONTENT_FILES and sum(size or 0 for size in sizes) <= CONTENT_BYTES
        for column, paths in found:
            column.contents = _until(deadline, _checksum, paths) if few else [None] * len(paths)


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (OSError, ValueError):
        return None


def _checksum(path: str) -> int | None:
    try:
        with open(path, 'rb') as stream:
            return crc32(stream.read())
    except (OSError, ValueError):
        return None
