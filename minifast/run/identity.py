"""What makes a training the one it is, as plain data: data, model, loss, optimizer, schedule, transforms, settings.

A `RunIdentity` is taken once a fit, before the fit changes anything. Nothing in it is ever run: it is compared. It is
made of the fingerprints of objects, numbers as they are, arrays as checksums, functions by name; and of what is known
of the items without reading one: names, labels, sizes, times and contents of files.
"""
from __future__ import annotations

import enum
import functools
import hashlib
import inspect
import json
import os
import re
import sys
import time
import types
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from fastcore.foundation import L
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Subset

from minifast.arguments import kept_arguments
from minifast.codetext import code_digest, package_of, public_module
from minifast.data.config import transform_config
from minifast.data.stream import kind_of
from minifast.data.transform import Pipeline
from minifast.data.transforms import AttrGetter, ColReader, ItemGetter, RegexLabeller
from minifast.distributed import num_distrib
from minifast.environment import environment
from minifast.hardware import crc32
from minifast.plaindata import GENERATORS
from minifast.seeds import fork_rng
from minifast.sharding import outline_of
from minifast.torch_core import get_model
from minifast.training_state import own_loader

__all__ = ['UNKNOWN', 'Column', 'Files', 'RunIdentity', 'Tables', 'columns_of', 'fingerprint', 'is_path',
           'note_what_moved', 'pairs_of', 'read_tables', 'run_identity']


# ---------------------------------------------------------------- fingerprints of objects

UNKNOWN = '~'
"""Stands for what cannot be told, or changes by itself: it differs from nothing."""

ARRAY_BYTES = 64 << 20
"""Arrays up to this size are read whole, larger ones in parts."""

_libraries = ('torch', 'torchvision', 'minifast', 'fastai', 'fastcore', 'timm', 'numpy', 'builtins', 'functools')


def _name_of(x: Any) -> str:
    """The import name of a class or function, without the room where it is ours, as it may lie in another one tomorrow;
    what the script itself defines goes by its own name alone."""
    package, module = package_of(x), public_module(x) or 'builtins'
    name = getattr(x, '__qualname__', type(x).__name__)
    if package == 'minifast':
        return f'{package}.{name}'
    return name if module in ('__main__', '__mp_main__', 'builtins') else f'{module}.{name}'


def _from_a_library(x: Any) -> bool:
    return (package_of(x) or 'builtins') in _libraries


def _digest(texts: Iterable[Any]) -> str:
    return hashlib.sha256('\n'.join(map(str, texts)).encode('utf-8', 'surrogatepass')).hexdigest()[:16]


def _code(f: Any) -> dict[str, str]:
    """What a function of the user's does, under a name that says which Python compiled it."""
    code = getattr(f, '__code__', None)
    if code is None or _from_a_library(f):
        return {}
    return {f'code {sys.version_info.major}.{sys.version_info.minor}': code_digest(code)}


def _array(x: Tensor | np.ndarray) -> str:
    """Kind, shape and a checksum; of a large array the checksum is over 256 parts of it."""
    shape, kind = list(x.shape), str(x.dtype).removeprefix('torch.')
    try:
        if isinstance(x, Tensor):
            x = x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()  # sync: once a fit
        data = np.ascontiguousarray(x).reshape(-1).view(np.uint8)
    except (RuntimeError, TypeError, ValueError, NotImplementedError):
        return f'{kind} {shape}'  # sparse, quantized, objects
    if data.nbytes > ARRAY_BYTES:
        starts = np.linspace(0, data.nbytes - 65536, 256).astype(np.int64)
        crc = functools.reduce(lambda crc, at: crc32(data[at:at + 65536], crc), starts, 0)
    else:
        crc = crc32(data) if data.nbytes else 0
    return f'{kind} {shape} {crc:08x}'


def _rows_of(table: Any) -> list[str]:
    return [' | '.join(map(str, row)) for row in table.itertuples(index=False)]


class _Fingerprints:
    """One description of an object, in which each thing is looked at once: so it ends where objects hold each other."""

    def __init__(self) -> None:
        self.seen: dict[int, Any] = {}  # the things themselves are held, else another may get the same id
        self.depth, self.left = 0, 100_000

    def __call__(self, x: Any) -> Any:
        if x is None or type(x) in (bool, int):
            return x
        if isinstance(x, str):
            x = os.path.basename(x) if os.path.isabs(x) and os.path.exists(x) else str(x)
            return x if len(x) <= 200 else f'{x[:40]}... ({len(x)} letters, {_digest([x])})'
        if isinstance(x, float):
            return float(x) if np.isfinite(x) else str(float(x))
        if isinstance(x, np.generic):
            return self(x.item())  # sync: none, on the host
        if isinstance(x, enum.Enum):
            return f'{type(x).__name__}.{x.name}'
        if isinstance(x, np.ndarray) and x.dtype.hasobject:
            return self(x.tolist())  # sync: none, on the host
        if isinstance(x, (Tensor, np.ndarray)):
            return _array(x)
        if isinstance(x, PurePath):
            return x.name  # a folder that was moved is the same
        if isinstance(x, (torch.dtype, torch.device, range, slice, bytes)):
            return str(x)
        self.left -= 1
        if id(x) in self.seen or self.depth > 12 or self.left < 0:
            return {'class': _name_of(type(x))}
        self.seen[id(x)] = x
        self.depth += 1
        try:
            return self._nested(x)
        except (AttributeError, TypeError, ValueError, RuntimeError, RecursionError):
            return {'class': _name_of(type(x))}  # an object that does not want to be looked at
        finally:
            self.depth -= 1

    def _nested(self, x: Any) -> Any:
        if isinstance(x, Mapping):
            if len(x) > 50:
                return f'{len(x)} entries {_digest([json.dumps([[str(k), v] for k, v in x.items()], default=self)])}'
            return {str(k): self(v) for k, v in x.items()}
        if isinstance(x, (set, frozenset)):
            x = sorted(x, key=repr)
        if isinstance(x, (list, tuple, L)):
            if len(x) > 20:
                return f'{len(x)} elements {_digest([json.dumps(list(x), default=self)])}'
            return [self(v) for v in x]
        if isinstance(x, functools.partial):
            return {'function': self(x.func), 'args': self(x.args), **{k: self(v) for k, v in x.keywords.items()}}
        if isinstance(x, type):
            return {'class': _name_of(x)}
        if isinstance(x, types.MethodType):
            return {'function': _name_of(x), **_code(x.__func__), 'of': self(x.__self__)}
        if callable(x) and hasattr(x, '__qualname__'):
            return {'function': _name_of(x), **_code(x), **self._bound(x)}
        if isinstance(x, nn.Module):
            return self.module(x)
        if isinstance(x, re.Pattern):
            return {'class': _name_of(type(x)), 'pattern': self(x.pattern), 'flags': x.flags}
        if isinstance(x, GENERATORS) or not hasattr(x, '__dict__'):
            return {'class': _name_of(type(x))}
        if hasattr(x, 'iloc'):
            return f'{len(x)} rows {_digest(_rows_of(x))}'
        return {'class': _name_of(type(x)), **self.attributes(x)}

    def _bound(self, f: Any) -> dict[str, Any]:
        """What a function of the user's was made with: its defaults and what it closes over."""
        if _from_a_library(f):
            return {}
        names = getattr(getattr(f, '__code__', None), 'co_freevars', ())
        cells = {name: cell.cell_contents for name, cell in zip(names, getattr(f, '__closure__', None) or ())}
        defaults = {name: p.default for name, p in inspect.signature(f).parameters.items()
                    if p.default is not p.empty}
        return {name: self(value) for name, value in {**defaults, **cells}.items()}

    def attributes(self, x: Any) -> dict[str, Any]:
        return {name: self(value) for name, value in vars(x).items() if not name.startswith('__')}

    def module(self, m: nn.Module) -> dict[str, Any]:
        """A loss: its settings and its numbers."""
        tensors = {name: t for name, t in (*m._parameters.items(), *m._buffers.items()) if t is not None}
        return {'class': _name_of(type(m)), **_code_of_forward(m), **_own_settings(m),
                **{name: self(t) for name, t in tensors.items()},
                **{name: self(child) for name, child in m._modules.items() if child is not None}}


def _code_of_forward(m: nn.Module) -> dict[str, str]:
    return {} if _from_a_library(type(m)) else _code(type(m).forward)


def _own_settings(m: nn.Module) -> dict[str, Any]:
    """The numbers, texts and functions that a module keeps as attributes."""
    kept = {name: value for name, value in vars(m).items() if not name.startswith('_') and name != 'training'}
    one = _Fingerprints()
    return {name: one(value) for name, value in kept.items()
            if value is None or isinstance(value, (bool, int, float, str, tuple, types.FunctionType,
                                            types.BuiltinFunctionType, functools.partial))}


def fingerprint(x: Any) -> Any:
    """`x` as plain data that another process can compare.

    Numbers and texts stay as they are, arrays become checksums; functions count by name, objects by class and
    attributes, generators, files and the like by their class.
    """
    return _Fingerprints()(x)


# ---------------------------------------------------------------- items, without reading one

CONTENT_BYTES, CONTENT_FILES, LOOK_S = 32 << 20, 5000, 5.
"""Contents are looked at up to these sums; seconds for labels, and for sizes."""


@dataclass
class Column:
    """One thing about every item of a split, in order: what it is called, and where it is a file, about that file.

    Attributes:
        texts: what each item is called.
        sizes: bytes of its file; empty, or None for an item, where there is none.
        times: when that was written, nanoseconds since 1970; likewise.
        contents: its CRC-32; likewise, and where files are many or large.
    """

    texts: list[str]
    sizes: list[int | None] = field(default_factory=list)
    times: list[int | None] = field(default_factory=list)
    contents: list[int | None] = field(default_factory=list)

    def digests(self) -> dict[str, Any]:
        """The column for a checkpoint, which does not hold all of it."""
        return {'n': len(self.texts), **{name: _digest(values) for name, values in vars(self).items()}}

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
    if x is None:  # it took too long
        return UNKNOWN
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


def columns_of(ds: Any) -> dict[str, list[Any]] | None:
    """What is known about the items of the data set `ds` without reading one of them: name -> one value an item."""
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


def pairs_of(items: Sequence[Any]) -> dict[str, list[Any]]:
    """`items` that are pairs as items and labels, other items as they are."""
    if len(items) and all(isinstance(item, (tuple, list)) and len(item) > 1 for item in items):
        return {'item': [item[0] if len(item) == 2 else list(item[:-1]) for item in items],
                'label': [item[-1] for item in items]}
    return {'item': list(items)}


def _through(tls: Sequence, n_inp: int) -> dict[str, list]:
    """The items and their labels, as the functions in front of the pipelines tell them."""
    items = tls[0].items
    table = hasattr(items, 'iloc')
    found = {'item': _rows_of(items) if table else list(items)}
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
    with fork_rng():
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
    if type(f) in (AttrGetter, ColReader, ItemGetter):
        return f
    funcs = [entry.func for entry in f.encodes.entries] if '_name' in vars(f) else []
    if len(funcs) != 1 or not isinstance(funcs[0], (types.FunctionType, functools.partial, RegexLabeller)):
        return None
    # without a choice by types the function itself says the same in a third of the time
    return funcs[0] if package_of(funcs[0]) == 'minifast' else f


def _is_a_name(x: Any) -> bool:
    simple = (str, bool, int, float, PurePath, np.generic)
    return isinstance(x, simple) or (isinstance(x, (list, tuple, L)) and all(isinstance(o, simple) for o in x))


class Files:
    """Columns of files of all splits: named from the folder that they share, so that it may lie elsewhere."""

    def __init__(self) -> None:
        self.columns: dict[str, list[tuple[Column, list[str]]]] = {}

    def add(self, name: str, values: Sequence[Any], bases: Sequence[str] = ('',)) -> Column:
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
            root = os.path.commonprefix([min(every), max(every)]).rfind('/') + 1 if every else 0
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


# ---------------------------------------------------------------- the identity

# ---------------------------------------------------------------- what changes by itself

_moving: dict[int, tuple[weakref.ref, set[str]]] = {}


class _Watched:
    """Objects whose attributes are part of the identity, and what they were when a fit began."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, Callable[[Any], dict], dict[str, Any]]] = []

    def __call__(self, obj: Any, describe: Callable[[Any], dict]) -> dict[str, Any]:
        """`describe(obj)`, without what changed by itself in an earlier fit of this process."""
        found = describe(obj)
        self.seen.append((obj, describe, found))
        ref, names = _moving.get(id(obj), (lambda: None, set()))
        return {k: UNKNOWN if ref() is obj and k in names else v for k, v in found.items()}


def note_what_moved(identity: RunIdentity) -> None:
    """A fit has ended: attributes that changed since `identity` was taken (a cache, a counter) are no part of it."""
    for obj, describe, then in identity.watched.seen:
        now = describe(obj)
        moved = {name for name in then if now.get(name) != then[name]} | (now.keys() - then.keys())
        if moved:
            try:
                ref = weakref.ref(obj, lambda _, key=id(obj): _moving.pop(key, None))
            except TypeError:  # a list or a tuple of the user's
                continue
            known = _moving.get(id(obj))
            _moving[id(obj)] = ref, moved | (known[1] if known and known[0]() is obj else set())
    identity.watched.seen.clear()


# ---------------------------------------------------------------- the parts

_splits = ('training', 'validation')


def _split_name(i: int) -> str:
    return _splits[i] if i < 2 else f'loader {i}'


def _is_ours(ds: Any) -> bool:
    return package_of(type(ds)) == 'minifast'


def _own_data(ds: Any) -> dict[str, Any]:
    """The attributes of a data set, loader or sampler of the user's that are data; functions are its transforms."""
    kind = kind_of(ds)
    if kind is not None:  # what its library keeps there is of this process
        return {'stream': kind.facts(ds)}
    if not hasattr(ds, '__dict__') or _is_ours(ds):
        return {}
    kept = {k: v for k, v in vars(ds).items()
            if not _acts(v) and not isinstance(v, GENERATORS) and not k.startswith('__')}
    kept = {k: v for k, v in kept.items() if k not in ('dataset', 'datasets', 'indices', 'data_source', 'samples')}
    return {k: fingerprint(v) for k, v in kept.items() if not _names_files(v, ds)}


def _acts(x: Any) -> bool:
    return callable(x) and not isinstance(x, (Tensor, np.ndarray))


def _bases(ds: Any) -> list[str]:
    """Where the files may lie that a data set of the user's names: its attributes that are folders."""
    own = vars(ds).values() if hasattr(ds, '__dict__') else ()
    return ['', *(os.fspath(v) for v in own if isinstance(v, (str, PurePath)) and os.path.isdir(v))]


def _names_files(x: Any, ds: Any) -> bool:
    return isinstance(x, (list, tuple, L)) and len(x) > 0 and (
        is_path(x[0], _bases(ds)) or (isinstance(x[0], tuple) and len(x[0]) > 0 and is_path(x[0][0], _bases(ds))))


def _below(ds: Any) -> list[Any]:
    """A data set and those that it is a part or a sum of."""
    return [ds, *(inner for part in (getattr(ds, 'datasets', None) or [getattr(ds, 'dataset', None)])
                  if part is not None for inner in _below(part))] if isinstance(ds, (Subset, ConcatDataset)) else [ds]


def _one_split(dl: Any, name: str, files: Files, watched: _Watched, tables: Tables) -> dict[str, Any]:
    ds = getattr(dl, 'dataset', None)
    ds = dl if ds is None else ds
    columns = columns_of(ds) or {}
    n = getattr(dl, 'n', None) if own_loader(dl) else None
    if columns:
        tables[name] = {key: files.add(key, values[:n]) for key, values in columns.items()}
    found: dict[str, Any] = {'class': _name_of(type(ds)), 'n': len(ds) if hasattr(ds, '__len__') else None}
    for depth, part in enumerate(_below(ds)):
        key = 'data set' + "'s data set" * depth
        found[key] = watched(part, _own_data) if not isinstance(part, (list, tuple, L)) else {}
        for attribute, value in (vars(part).items() if found[key] is not None and hasattr(part, '__dict__') else ()):
            if not _is_ours(part) and attribute != 'samples' and _names_files(value, part):
                tables[f'{name} {attribute}'] = {key: files.add(f'{attribute} {key}', values, _bases(part))
                                                 for key, values in pairs_of(value).items()}
    samplers = [s for s in (getattr(dl, 'sampler', None), getattr(dl, 'batch_sampler', None)) if s is not None]
    found['order'] = [{'class': _name_of(type(s)), **watched(s, _own_sampling)} for s in samplers]
    found['draw'] = [fingerprint(vars(dl).get(k)) for k in ('wgts', 'partial_n')] if own_loader(dl) else []
    return found


def _own_sampling(sampler: Any) -> dict[str, Any]:
    if not hasattr(sampler, '__dict__'):
        return {'data': fingerprint(sampler)}
    told_elsewhere = ('data_source', 'dataset', 'generator', 'sampler', 'batch_size', 'drop_last')
    return {k: fingerprint(v) for k, v in vars(sampler).items()
            if k not in told_elsewhere and not isinstance(v, GENERATORS)}


def _data(learn: Any, watched: _Watched) -> tuple[dict[str, Any], Tables]:
    files, tables = Files(), {}
    found = {_split_name(i): _one_split(dl, _split_name(i), files, watched, tables)
             for i, dl in enumerate(learn.dls)}
    files.look()
    vocab = getattr(learn.dls, 'vocab', None)
    found['vocab'] = fingerprint(list(vocab) if hasattr(vocab, '__iter__') and not isinstance(vocab, str) else vocab)
    found['items'] = {name: {key: column.digests() for key, column in columns.items()}
                      for name, columns in tables.items()}
    return found, tables


def _model(model: nn.Module, watched: _Watched) -> dict[str, Any]:
    def lazy(x: Tensor | None) -> bool:
        return x is not None and (x.is_nested or isinstance(x, (nn.UninitializedParameter, nn.UninitializedBuffer)))
    modules, own, code = {}, {}, {}
    for name, m in model.named_modules():
        if _from_a_library(type(m)):
            told = UNKNOWN if any(map(lazy, (*m._parameters.values(), *m._buffers.values()))) else m.extra_repr()
            modules[name] = f'{_name_of(type(m)).replace(".Lazy", ".")}({told})'
        else:
            modules[name], own[name], code[name] = _name_of(type(m)), watched(m, _own_settings), _code_of_forward(m)
    tensors = {name: UNKNOWN if lazy(t) else f'{str(t.dtype).removeprefix("torch.")} {list(t.shape)}'
               for name, t in model.state_dict(keep_vars=True).items() if isinstance(t, Tensor)}
    return {'modules': modules, 'weights': tensors, 'settings': own, 'code': code}


def _optimizer(learn: Any) -> dict[str, Any]:
    opt = getattr(learn.opt, 'opt', learn.opt)
    func, given = learn.opt_func, {}
    while isinstance(func, functools.partial):
        func, given = func.func, {**func.keywords, **given}
    given = {name: value for name, value in given.items() if name not in ('lr', 'wd', 'weight_decay')}
    made_by = {'class': _name_of(type(func))} if isinstance(func, torch.optim.Optimizer) else fingerprint(func)
    # what the state of each parameter says since it was made; told where they are not as usual
    unusual = {name: value for name, value in (('wd_bn_bias', True), ('train_bn', False))
               if bool(getattr(learn, name)) is value}
    return {'class': _name_of(type(opt)), 'made by': made_by, 'arguments': fingerprint(given),
            'groups': [len(group['params']) for group in learn.opt.param_groups], **unusual}


def _schedule(learn: Any, asked: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: fingerprint(value) for name, value in asked.items()}
    for cb in learn.cbs:
        scheds = vars(cb).get('scheds')
        if isinstance(scheds, Mapping):
            found.update({f'schedule of {name}': _course(f) for name, f in scheds.items()})
    return found


def _course(f: Callable) -> Any:
    """A schedule by its values: nine of them where it is ours and so a pure function, else as any function."""
    if not _from_a_library(f if hasattr(f, '__qualname__') else type(f)):
        return fingerprint(f)
    try:
        values = [np.asarray(f(i / 8), dtype=float) for i in range(9)]
    except (TypeError, ValueError, IndexError, ZeroDivisionError, OverflowError):
        return fingerprint(f)
    return [[float(f'{v:.6g}') for v in value.ravel()] if value.ndim else float(f'{value:.6g}') for value in values]


def _transforms(learn: Any) -> dict[str, Any]:
    found: dict[str, dict] = {}
    for i, dl in enumerate(learn.dls):
        kept = {name: vars(dl).get(name) for name in ('after_item', 'before_batch', 'after_batch', 'create_batch')
                } if own_loader(dl) else {'collate_fn': getattr(dl, 'collate_fn', None)}
        ds = getattr(dl, 'dataset', None)
        for k, tl in enumerate(vars(ds).get('tls', ()) if hasattr(ds, '__dict__') else ()):
            kept[f'transforms of element {k}'] = tl.tfms
        for part in _below(ds):
            if hasattr(part, '__dict__') and not _is_ours(part):
                kept.update({k: v for k, v in vars(part).items() if _acts(v)})
        for name, value in kept.items():
            if value is not None:
                found.setdefault(name, {})[_split_name(i)] = _transform(value)
    return found


def _transform(tfm: Any) -> Any:
    if isinstance(tfm, Pipeline):
        return [_transform(f) for f in tfm.fs]
    try:
        return transform_config(tfm)
    except (TypeError, AttributeError):
        inner = getattr(tfm, 'tfm', tfm)
    if isinstance(inner, nn.Module) or type(inner).__module__.startswith('torchvision'):
        return repr(inner)
    if isinstance(inner, types.FunctionType) or not hasattr(inner, '__dict__'):
        return fingerprint(inner)
    if '_name' in vars(inner):
        return [fingerprint(entry.func) for entry in inner.encodes.entries]
    # what it was made with; other attributes may be what it drew last
    return {'class': _name_of(type(inner)), **_arguments(inner)}


def _arguments(x: Any) -> dict[str, Any]:
    return {name: fingerprint(value) for name, value in kept_arguments(x).items()}


def _identifies(cb: Any) -> bool:
    return package_of(type(cb)) != 'minifast' or (cb.identifies_run and not cb.watches_only)


def _settings(learn: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for i, dl in enumerate(learn.dls):
        of = f'of {_split_name(i)}'
        if own_loader(dl):
            found[f'batch size {of}'] = dl.bs and dl.bs * dl.share.n_ranks  # of all processes
            found |= {f'shuffle {of}': dl.shuffle, f'drop_last {of}': dl.drop_last}
        else:
            found[f'batch size {of}'] = getattr(dl, 'batch_size', None)
            # what torch's workers draw depends on how many they are
            found |= {f'{name} {of}': getattr(dl, kept, None)
                      for name, kept in (('drop_last', 'drop_last'), ('workers', 'num_workers'))}
    found['number of processes'] = max(num_distrib(), 1)
    found['precision'] = environment(learn).get('precision')
    found['metrics'] = [str(getattr(m, 'name', m)) for m in learn.metrics]
    seed = torch.initial_seed()
    found['seed'] = seed if seed < 1 << 32 else UNKNOWN  # a larger one nobody chose
    for cb in learn.cbs:
        if _identifies(cb):
            found[f'callback {cb.name}'] = {'class': _name_of(type(cb)), **_arguments(cb)}
    return found


def _environment(learn: Any) -> dict[str, Any]:
    env = environment(learn)
    device = getattr(learn.dls, 'device', None) or env.get('device', 'cpu')
    return {'torch': env['torch'], 'minifast': env['minifast'], 'git revision': env['git'] or UNKNOWN,
            'python': '.'.join(env['python'].split('.')[:2]), 'device': str(device).split(':')[0]}


@dataclass
class RunIdentity:
    """Who a run is.

    Attributes:
        parts: 'data', 'model', 'loss', 'optimizer', 'schedule', 'transforms', 'settings', 'environment' as plain data.
        tables: what is too long for every checkpoint: the items of each split in order, as columns.
        watched: objects that may change by themselves.
    """

    parts: dict[str, Any]
    tables: Tables = field(default_factory=dict)
    watched: _Watched = field(default_factory=_Watched)

    @property
    def tables_digest(self) -> str:
        """A name for exactly these tables."""
        return _digest([json.dumps(self.parts['data']['items'])])

    def tables_json(self) -> str:
        """The tables as a text."""
        return json.dumps({name: {key: vars(column) for key, column in columns.items()}
                           for name, columns in self.tables.items()}, separators=(',', ':'))


def read_tables(text: str | None, digests: Mapping[str, Any]) -> Tables | None:
    """The tables from `text`; None where it is not the one that the `digests` in a checkpoint belong to."""
    try:
        tables = {name: {key: Column(**column) for key, column in columns.items()}
                  for name, columns in json.loads(text or '').items()}
        same = {name: {key: c.digests() for key, c in columns.items()} for name, columns in tables.items()} == digests
    except (ValueError, TypeError, AttributeError, KeyError):
        return None
    return tables if same else None


def run_identity(learn: Any, asked: Mapping[str, Any]) -> RunIdentity:
    """The identity of the fit that is about to start; nothing is drawn and no item is made.

    Args:
        learn: the learner, with its optimizer.
        asked: what the fit was asked for: `n_epoch`, `lr`, `wd`, `start_epoch`.
    """
    watched = _Watched()
    with fork_rng():
        data, tables = _data(learn, watched)
        loss = learn.own_loss
        described = watched(loss, lambda f: fingerprint(f)) if hasattr(loss, '__dict__') else fingerprint(loss)
        parts = {'data': data, 'model': _model(outline_of(get_model(learn.model)), watched), 'loss': described,
                 'optimizer': _optimizer(learn), 'schedule': _schedule(learn, asked), 'transforms': _transforms(learn),
                 'settings': _settings(learn), 'environment': _environment(learn)}
    return RunIdentity(json.loads(json.dumps(parts, default=str)), tables, watched)
