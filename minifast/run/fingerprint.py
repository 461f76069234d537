"""Any object as plain data that another process can compare: numbers as they are, arrays as checksums, functions by
name."""
from __future__ import annotations

import enum
import functools
import hashlib
import inspect
import json
import os
import sys
import types
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from fastcore.foundation import L
from torch import Tensor, nn

from minifast.codetext import code_digest, package_of
from minifast.hardware import crc32
from minifast.plaindata import GENERATORS

__all__ = ['UNKNOWN', 'fingerprint']

UNKNOWN = '~'
"""Stands for what cannot be told, or changes by itself: it differs from nothing."""

ARRAY_BYTES = 64 << 20
"""Arrays up to this size are read whole, larger ones in parts."""

_libraries = ('torch', 'torchvision', 'minifast', 'fastai', 'fastcore', 'timm', 'numpy', 'builtins', 'functools')


def name_of(x: Any) -> str:
    """The import name of a class or function; what the script itself defines goes by its own name alone."""
    module = getattr(x, '__module__', None) or 'builtins'
    name = getattr(x, '__qualname__', type(x).__name__)
    return name if module in ('__main__', '__mp_main__', 'builtins') else f'{module}.{name}'


def from_a_library(x: Any) -> bool:
    return (package_of(x) or 'builtins') in _libraries


def digest(texts: Iterable[Any]) -> str:
    return hashlib.sha256('\n'.join(map(str, texts)).encode('utf-8', 'surrogatepass')).hexdigest()[:16]


def _code(f: Any) -> dict[str, str]:
    """What a function of the user's does, under a name that says which Python compiled it."""
    code = getattr(f, '__code__', None)
    if code is None or from_a_library(f):
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


def rows_of(table: Any) -> list[str]:
    return [' | '.join(map(str, row)) for row in table.itertuples(index=False)]


class _Fingerprints:
    """One description of an object: each thing in it is looked at once, so that it ends where objects know each other,
    and soon."""

    def __init__(self) -> None:
        self.seen: dict[int, Any] = {}  # the things themselves are held, else another may get the same id
        self.depth, self.left = 0, 100_000

    def __call__(self, x: Any) -> Any:
        if x is None or type(x) in (bool, int):
            return x
        if isinstance(x, str):
            x = os.path.basename(x) if os.path.isabs(x) and os.path.exists(x) else str(x)
            return x if len(x) <= 200 else f'{x[:40]}... ({len(x)} letters, {digest([x])})'
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
            return {'class': name_of(type(x))}
        self.seen[id(x)] = x
        self.depth += 1
        try:
            return self._nested(x)
        except (AttributeError, TypeError, ValueError, RuntimeError, RecursionError):
            return {'class': name_of(type(x))}  # an object that does not want to be looked at
        finally:
            self.depth -= 1

    def _nested(self, x: Any) -> Any:
        if isinstance(x, Mapping):
            if len(x) > 50:
                return f'{len(x)} entries {digest([json.dumps([[str(k), v] for k, v in x.items()], default=self)])}'
            return {str(k): self(v) for k, v in x.items()}
        if isinstance(x, (set, frozenset)):
            x = sorted(x, key=repr)
        if isinstance(x, (list, tuple, L)):
            if len(x) > 20:
                return f'{len(x)} elements {digest([json.dumps(list(x), default=self)])}'
            return [self(v) for v in x]
        if isinstance(x, functools.partial):
            return {'function': self(x.func), 'args': self(x.args), **{k: self(v) for k, v in x.keywords.items()}}
        if isinstance(x, type):
            return {'class': name_of(x)}
        if isinstance(x, types.MethodType):
            return {'function': name_of(x), **_code(x.__func__), 'of': self(x.__self__)}
        if callable(x) and hasattr(x, '__qualname__'):
            return {'function': name_of(x), **_code(x), **self._bound(x)}
        if isinstance(x, nn.Module):
            return self.module(x)
        if isinstance(x, GENERATORS) or not hasattr(x, '__dict__'):
            return {'class': name_of(type(x))}
        if hasattr(x, 'iloc'):
            return f'{len(x)} rows {digest(rows_of(x))}'
        return {'class': name_of(type(x)), **self.attributes(x)}

    def _bound(self, f: Any) -> dict[str, Any]:
        """What a function of the user's was made with: its defaults and what it closes over."""
        if from_a_library(f):
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
        return {'class': name_of(type(m)), **code_of_forward(m), **own_settings(m),
                **{name: self(t) for name, t in tensors.items()},
                **{name: self(child) for name, child in m._modules.items() if child is not None}}


def code_of_forward(m: nn.Module) -> dict[str, str]:
    return {} if from_a_library(type(m)) else _code(type(m).forward)


def own_settings(m: nn.Module) -> dict[str, Any]:
    """The numbers, texts and functions that a module keeps as attributes."""
    kept = {name: value for name, value in vars(m).items() if not name.startswith('_') and name != 'training'}
    one = _Fingerprints()
    return {name: one(value) for name, value in kept.items()
            if value is None or isinstance(value, (bool, int, float, str, tuple, types.FunctionType,
                                            types.BuiltinFunctionType, functools.partial))}


def fingerprint(x: Any) -> Any:
    """`x` as plain data that another process can compare: numbers and texts as they are, arrays as checksums,
    functions by name, objects by class and attributes. Generators, files and the like count by their class."""
    return _Fingerprints()(x)
