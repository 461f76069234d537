"""Tensors and plain containers made of what the index of a tensor file says.

Each tensor lies on bytes of the file that were checked before, and nothing gets through that is no data. Time and
memory are in proportion to the file.
"""
from __future__ import annotations

import math
import struct
import warnings
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minifast.tensorguard import ASK, UnsafeFileError
from minifast.tensorindex import DTYPE, MALFORMED, PER_CHANNEL, PER_TENSOR, Call, Object, Storage

__all__ = ['LAYOUTS', 'Values', 'quantized_dtypes']

_DEPTH_LIMIT, _DIMENSIONS, _WIDE = 100, 64, 1 << 63
LAYOUTS = {str(x): x for x in (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr,
                               torch.sparse_bsc)}
"""Name -> layout, of the sparse tensors that files hold."""
quantized_dtypes = frozenset({torch.qint8, torch.quint8, torch.qint32})
"""The quantized numbers that files hold."""
_QUANTIZED = quantized_dtypes | {torch.quint4x2, torch.quint2x4}
_NUMPY = {'f8': 'd', 'f4': 'f', 'f2': 'e', 'i8': 'q', 'i4': 'i', 'i2': 'h', 'i1': 'b', 'u8': 'Q', 'u4': 'I', 'u2': 'H',
          'u1': 'B', 'b1': '?'}
_SCALARS = frozenset({str, int, float, bool, type(None), bytes, torch.dtype})
_MADE = _SCALARS | {Tensor, nn.Parameter, torch.Size, torch.device}


class Values:
    """Makes tensors and plain containers of what `Instructions.follow` returned.

    Args:
        path: named in messages.
        storage: name of a record, bytes, dtype -> those bytes of it as a `torch.UntypedStorage`, in this machine's
            order. It raises ValueError where the record is missing or smaller.
        n_index: bytes of the index.
        size: bytes of the file.
    """

    def __init__(self, path: Path, storage: Callable, n_index: int, size: int) -> None:
        self.path, self.storage = path, storage
        self.unfolded = 4 * n_index + 1_000_000  # a list may be mentioned many times: whoever walks it meets all
        # a view takes no memory, but whoever looks at all of its numbers, or copies them, takes time and memory
        self.claims = 20 * size + (1 << 30)
        self.seen: dict[int, tuple] = {}
        self.views: dict[tuple, Tensor] = {}
        self.storages: dict[tuple, torch.UntypedStorage] = {}
        self.encoded: dict[str, bytes] = {}

    def make(self, x: Any) -> Any:
        """The values.

        Raises:
            UnsafeFileError: they are nested or large beyond reason, or something that is no data.
        """
        try:
            value, _, _ = self._value(x, 0)
        except UnsafeFileError:
            raise
        except (*MALFORMED, RecursionError) as error:
            raise UnsafeFileError(f'{self.path} is refused: {error!s:.300}. {ASK}') from error
        return value

    def _value(self, x: Any, depth: int) -> tuple[Any, int, int]:
        """The value, how many values it unfolds to, and how deep it is nested."""
        if type(x) in _SCALARS:
            return x, 1, 0
        found = self.seen.get(id(x))
        if found is None:
            if depth > _DEPTH_LIMIT:
                raise UnsafeFileError(f'{self.path}: its contents are nested beyond reason. {ASK}')
            self.seen[id(x)] = (x, None, 0, _DEPTH_LIMIT)  # itself within itself is too deep
            found = self.seen[id(x)] = (x, *self._fresh(x, depth + 1))
        _, value, n, height = found
        if n > self.unfolded or depth + height > _DEPTH_LIMIT:
            raise UnsafeFileError(f'{self.path}: its contents are nested or repeated beyond reason. {ASK}')
        return value, n, height

    def _fresh(self, x: Any, depth: int) -> tuple[Any, int, int]:
        kind = type(x)
        if kind is dict or kind is OrderedDict:
            if hasattr(x, '_metadata'):
                x._metadata = self._versions(x._metadata)
            return x, *self._fill(x, x.items(), depth)
        if kind is list:
            return x, *self._fill(x, enumerate(x), depth)
        if kind is tuple:
            parts = list(x)
            n, height = self._fill(parts, enumerate(x), depth)
            return tuple(parts), n, height
        if kind is Call:
            value = getattr(self, x.name.make)(*x.args)
            if type(value) in _MADE:
                return value, 1, 0
            kind = type(value)
        if kind is Object and x.name.make is not None:
            value = getattr(self, x.name.make)(x)
            return self._value(value, depth) if type(value) is list else (value, 1, 0)
        raise UnsafeFileError(f'{self.path} holds a {kind.__name__.strip("_")}, which has no place in a tensor file. '
                              f'{ASK}')

    def _fill(self, target: Any, items: Any, depth: int) -> tuple[int, int]:
        n, height = 1, 0
        for key, x in list(items):
            if type(x) in _SCALARS:
                n += 1
                continue
            target[key], n_part, height_part = self._value(x, depth)
            n, height = n + n_part, max(height, height_part + 1)
        return n, height

    def _versions(self, metadata: Any) -> OrderedDict:
        # a module's version may change how its weights are read; anything else in there may change what is done
        found = self.seen.get(id(metadata))
        if found is None:
            items = metadata.items() if isinstance(metadata, dict) else ()
            versions = OrderedDict((k, {'version': v['version']}) for k, v in items
                                   if type(v) is dict and type(v.get('version')) is int)
            found = self.seen[id(metadata)] = (metadata, versions)
        return found[1]

    # ------------------------------------------------------------ what calls are worth

    def _part(self, x: Any, kind: type) -> Any:
        value = getattr(self, x.name.make)(*x.args) if type(x) is Call else x
        if type(value) is not kind:
            raise ValueError(f'{type(value).__name__.strip("_")} where {kind.__name__} should be')
        return value

    def _view(self, storage: Any, offset: Any, size: Any, stride: Any, dtype: torch.dtype | None = None,
             requires_grad: Any = False, hooks: Any = None, metadata: Any = None) -> Tensor:
        """A tensor on a record; the same view of the same record is the same tensor."""
        if type(storage) is not Storage:
            raise ValueError('a tensor on something that is no record')
        dtype = storage.kind.dtype if dtype is None else dtype
        size, stride = self._numbers(size), self._numbers(stride)
        if not isinstance(dtype, torch.dtype) or dtype in _QUANTIZED or type(requires_grad) is not bool or hooks:
            raise ValueError('a tensor with settings that no tensor has')
        n_bytes = storage.n * storage.kind.itemsize
        claimed = self._claimed(offset, size, stride, n_bytes // dtype.itemsize) * dtype.itemsize
        bits = self._bits(metadata)
        key = storage.key, n_bytes, dtype, offset, size, stride, requires_grad, bits
        found = self.views.get(key)
        if found is None:
            self._claim(claimed, size)
            found = torch.empty(0, dtype=dtype).set_(self._bytes(storage, dtype), offset, size, stride)
            found = found.conj() if 'conj' in bits else found
            found = torch._neg_view(found) if 'neg' in bits else found
            self.views[key] = found.requires_grad_() if requires_grad else found
        return self.views[key]

    def _claim(self, n_bytes: int, size: Any) -> None:
        self.claims -= n_bytes
        if self.claims < 0:
            raise ValueError(f'a tensor of shape {list(size)} is larger than the bytes there are for it')

    def _bytes(self, storage: Storage, dtype: torch.dtype) -> torch.UntypedStorage:
        # a byte order depends on the kind of number, so the kind counts
        key = storage.key, storage.n * storage.kind.itemsize, dtype
        found = self.storages.get(key)
        if found is None:
            found = self.storages[key] = self.storage(*key)
        return found

    def _numbers(self, x: Any) -> tuple[int, ...]:
        x = self._part(x, torch.Size) if type(x) is Call else x
        # looked at before anything is done with it: a tuple of millions may be mentioned again and again
        if type(x) not in (tuple, torch.Size) or len(x) > _DIMENSIONS:
            raise ValueError('a shape that is no shape')
        return x

    @staticmethod
    def _claimed(offset: Any, size: tuple, stride: tuple, n: int) -> int:
        """How many numbers a view shows, after checking that each of them is one of the `n` that there are."""
        if len(size) != len(stride) or type(offset) is not int or not 0 <= offset <= n:
            raise ValueError('a tensor that starts behind its bytes')
        claimed, last = 1, offset
        for s, step in zip(size, stride):
            if type(s) is not int or type(step) is not int or not (0 <= s < _WIDE and 0 <= step < _WIDE):
                raise ValueError(f'a shape of {s!r:.50} with a step of {step!r:.50}')
            claimed *= s
            last += (s - 1) * step
        if claimed and last >= n:
            raise ValueError(f'a tensor of shape {list(size)} is larger than the bytes there are for it')
        return claimed

    @staticmethod
    def _bits(metadata: Any) -> tuple[str, ...]:
        if metadata is None or (type(metadata) is dict and not metadata):
            return ()
        if type(metadata) is not dict or not set(metadata) <= {'conj', 'neg'}:
            raise ValueError('a tensor with settings that no tensor has')
        return tuple(name for name in ('conj', 'neg') if metadata.get(name) is True)

    def _tensor_1(self, storage: Any, offset: Any, size: Any, stride: Any) -> Tensor:
        return self._view(storage, offset, size, stride)

    def _tensor_2(self, storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any,
                 metadata: Any = None) -> Tensor:
        return self._view(storage, offset, size, stride, None, requires_grad, hooks, metadata)

    def _tensor_3(self, storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any, dtype: Any,
                 metadata: Any = None) -> Tensor:
        return self._view(storage, offset, size, stride, dtype, requires_grad, hooks, metadata)

    def _parameter(self, data: Any, requires_grad: Any, hooks: Any) -> nn.Parameter:
        if type(requires_grad) is not bool:
            raise ValueError('a parameter with settings that no parameter has')
        return nn.Parameter(self._part(data, Tensor), requires_grad)

    def _old_parameter(self, x: Object) -> Tensor:
        # as torch wrote them in 2017: a state of five begins with the weight
        args = x.state if type(x.state) is tuple and len(x.state) == 5 else x.args
        return self._part(args[0], Tensor)

    def _quantized(self, storage: Any, offset: Any, size: Any, stride: Any, settings: Any, requires_grad: Any,
                  hooks: Any) -> Tensor:
        dtype = storage.kind.dtype if type(storage) is Storage else None
        if dtype not in quantized_dtypes or type(settings) is not tuple or not 3 <= len(settings) <= 4 or hooks:
            raise ValueError('a quantized tensor with settings that none has')
        size, stride = self._numbers(size), self._numbers(stride)
        claimed = self._claimed(offset, size, stride, storage.n) * dtype.itemsize
        self._claim(claimed if claimed <= storage.n * dtype.itemsize else self.claims + 1, size)
        scheme, scale, zero, *axis = settings
        if scheme is PER_TENSOR and not axis:
            made = torch._empty_affine_quantized(size, scale=scale, zero_point=zero, dtype=dtype)
        elif scheme is PER_CHANNEL and axis and type(axis[0]) is int and 0 <= axis[0] < len(size):
            scale, zero = self._part(scale, Tensor), self._part(zero, Tensor)
            if not scale.shape == zero.shape == size[axis[0]:axis[0] + 1]:
                raise ValueError('a quantized tensor with another number of scales than channels')
            made = torch._empty_per_channel_affine_quantized(size, scales=scale, zero_points=zero, axis=axis[0],
                                                             dtype=dtype)
        else:
            raise ValueError('a quantized tensor of a scheme that is not known')
        return made.set_(self._bytes(storage, dtype), offset, size, stride)

    def _sparse(self, layout: Any, parts: Any) -> Tensor:
        layout = self._part(layout, torch.layout)
        if type(parts) is not tuple or not 3 <= len(parts) <= 4:
            raise ValueError('a sparse tensor of other parts than those have')
        if layout is torch.sparse_coo:
            indices, values, size, coalesced = *parts, *(None,) * (4 - len(parts))
            tensors, make = (indices, values), partial(torch.sparse_coo_tensor, is_coalesced=coalesced)
        else:
            *tensors, size = parts
            make = partial(torch.sparse_compressed_tensor, layout=layout)
        tensors = [self._part(x, Tensor) for x in tensors]
        size = self._numbers(size)
        if math.prod(size) >= _WIDE:
            raise ValueError(f'a sparse tensor of shape {list(size)}')
        for x in tensors:  # each of their numbers is looked at
            self._claim(x.numel() * x.element_size(), size)
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', 'Sparse')  # that they are new, once a process
            return make(*tensors, size, check_invariants=True)

    def _layout(self, name: Any) -> torch.layout:
        return LAYOUTS[name if type(name) is str else None]

    def _shape(self, x: Any) -> torch.Size:
        numbers = x if type(x) is list and len(x) <= _DIMENSIONS else self._numbers(x)
        if not all(type(n) is int and 0 <= n < _WIDE for n in numbers):
            raise ValueError('a shape that is no shape')
        return torch.Size(numbers)

    def _device(self, kind: Any, number: Any = None) -> torch.device:
        if type(kind) is not str or len(kind) > 30 or not (number is None or type(number) is int):
            raise ValueError('a device that is no device')
        return torch.device(kind) if number is None else torch.device(kind, number)

    def _encode(self, text: Any, encoding: Any) -> bytes:
        if type(text) is not str or encoding not in ('latin1', b'latin1'):
            raise ValueError('bytes in an alphabet that no file of tensors uses')
        if text not in self.encoded:  # a text of megabytes may be mentioned again and again
            self.encoded[text] = text.encode('latin1')
        return self.encoded[text]

    def _no_bytes(self) -> bytes:
        return b''

    def _number(self, dtype: Any, raw: Any = b'') -> float | int | bool:
        raw = raw if type(raw) is bytes else self._part(raw, bytes)
        if type(dtype) is not Object or dtype.name is not DTYPE or not len(dtype.args) == 3:
            raise ValueError('a number of a kind that is not known')
        order = '>' if type(dtype.state) is tuple and dtype.state[1:2] == ('>',) else '<'
        return struct.unpack(order + _NUMPY[dtype.args[0]], raw)[0]

    def _items(self, x: Object) -> list:
        found = x.state.get('items', []) if type(x.state) is dict else None
        if type(found) is not list:
            raise ValueError('an L without a list')
        return found
