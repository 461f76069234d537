"""The index of a tensor file, a small pickle, taken as plain data: no name in it is looked up, nothing in it is called.

A closed set of instructions and names is known. First the instructions are followed; what they would call is only
noted (`_Call`). Then a walk makes tensors of the notes, each on bytes of the file that were checked before, and lets
nothing through that is no data. Both take time and memory in proportion to the file.
"""
from __future__ import annotations

import math
import struct
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minifast.tensorguard import ASK, UnsafeFileError, way_out

__all__ = ['KEY_PARTS', 'LAYOUTS', 'ODD_KEYS', 'Instructions', 'Values', 'quantized_dtypes']

_DEPTH_LIMIT, _DIMENSIONS, _WIDE = 100, 64, 1 << 63
KEY_PARTS, ODD_KEYS = 32, 1000
"""How long a tuple may be that is a key of a dict, and how many keys of one may be tuples, reals or large numbers."""
_MALFORMED = (ValueError, TypeError, LookupError, AttributeError, RuntimeError, OverflowError, struct.error)
LAYOUTS = {str(x): x for x in (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr,
                               torch.sparse_bsc)}
"""Name -> layout, of the sparse tensors that files hold."""
quantized_dtypes = frozenset({torch.qint8, torch.quint8, torch.qint32})
"""The quantized numbers that files hold."""
_QUANTIZED = quantized_dtypes | {torch.quint4x2, torch.quint2x4}


# ---------------------------------------------------------------- following the instructions

class _Name:
    """A name in the index. `make`: what a call of it is worth, given the walk and the arguments."""

    def __init__(self, make: Callable | None = None) -> None:
        self.make = make


class _Kind(_Name):
    """The name of a kind of storage; numbers of `dtype` lie in it, bytes where that is None."""

    def __init__(self, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.dtype = dtype
        self.itemsize = 1 if dtype is None else dtype.itemsize


class _Call:
    """What the index says to call."""

    __slots__ = ('args', 'name')

    def __init__(self, name: _Name, args: tuple) -> None:
        self.name, self.args = name, args


class _Object:
    """An object that the index makes first and fills afterwards: fastcore's `L`, an old parameter, numpy's dtype."""

    __slots__ = ('args', 'name', 'state')

    def __init__(self, name: _Name, args: tuple) -> None:
        self.name, self.args, self.state = name, args, None


class _Storage:
    """A record that tensors lie in.

    Attributes:
        key: its name.
        kind: what is in it.
        n: how many numbers of this kind.
    """

    __slots__ = ('key', 'kind', 'n')

    def __init__(self, key: str, kind: _Kind, n: int) -> None:
        self.key, self.kind, self.n = key, kind, n


class Instructions:
    """The instructions of a pickle, followed.

    Attributes:
        at: the byte behind those that were read.
        storages: name -> `_Storage`, as the index mentions them.
    """

    def __init__(self, path: Path, data: bytes, at: int = 0) -> None:
        self.path, self.data, self.at = path, data, at
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, _Storage] = {}
        self.odd_keys: Counter = Counter()
        self.spent: dict[int, list] = {}

    def follow(self) -> Any:
        """What the next pickle in the data describes, with notes of the calls in it.

        Raises:
            UnsafeFileError: there is an instruction or a name that no tensor file needs.
        """
        data, steps = self.data, _STEPS
        self.stack, self.marks, self.memo = [], [], {}
        try:
            while True:
                step = steps[data[self.at]]
                self.at += 1
                if step is None:
                    return self.stack.pop()
                step(self)
        except UnsafeFileError:
            raise
        except _MALFORMED as error:
            raise UnsafeFileError(f'{self.path}: its index is malformed ({error!r:.200}). {ASK}') from error

    # ------------------------------------------------------------ bytes

    def take(self, n: int) -> bytes:
        end = self.at + n
        if end > len(self.data):
            raise ValueError('cut short')
        found, self.at = self.data[self.at:end], end
        return found

    def line(self) -> str:
        end = self.data.index(b'\n', self.at)
        found, self.at = self.data[self.at:end], end + 1
        return found.decode('utf-8')

    def size4(self) -> int:
        return int.from_bytes(self.take(4), 'little')

    def since_mark(self) -> list:
        start = self.marks.pop()
        found = self.stack[start:]
        del self.stack[start:]
        return found

    # ------------------------------------------------------------ instructions

    def refuse(self) -> None:
        raise UnsafeFileError(f'{self.path} holds objects, not only tensors (instruction {self.data[self.at - 1]:#x} '
                              f'of its index). {way_out(self.data)}')

    def protocol(self) -> None:
        self.at += 1

    def name(self) -> None:
        name = f'{self.line()} {self.line()}'
        found = _NAMES.get(name)
        if found is None:
            raise UnsafeFileError(f'{self.path} names {name.replace(" ", ".")!r:.200}, which is no tensor: reading it '
                                  f'as Python does could run any code. {way_out(self.data)}')
        self.stack.append(found)

    def call(self) -> None:
        args, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, _Name) or type(args) is not tuple:
            raise ValueError('a call of something that is no name')
        if name is _ORDERED:
            self.stack.append(self.ordered(*args))
        elif name in (_DTYPE, _PARAMETER):
            self.stack.append(_Object(name, args))
        elif name.make is None:
            raise ValueError('a call of a name that is no function')
        else:
            self.stack.append(_Call(name, args))

    def new(self) -> None:
        args, name = self.stack.pop(), self.stack.pop()
        if name not in (_L, _PARAMETER) or type(args) is not tuple:
            raise ValueError('a new object of a name that is no class')
        self.stack.append(_Object(name, args))

    def ordered(self, pairs: Any = ()) -> OrderedDict:
        made = OrderedDict()
        if type(pairs) is list:
            # Python 2 wrote the items so. A list is taken once: the next one would be a copy for four bytes of file
            if id(pairs) in self.spent:
                raise ValueError('one list fills two dicts')
            self.spent[id(pairs)] = pairs
        elif pairs != ():
            raise ValueError('a dict of something that is no list')
        for pair in pairs:
            if type(pair) not in (list, tuple) or len(pair) != 2:
                raise ValueError('an item that is no pair')
            made[self.key(pair[0], made)] = pair[1]
        return made

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is OrderedDict and type(state) is dict:
            if '_metadata' in state:
                target._metadata = state['_metadata']
        elif type(target) is _Object and target.state is None:
            target.state = state
        else:
            raise ValueError('a state for something that has none')

    def stored(self) -> None:
        kind_of_id, kind, key, _, n, *view = self.stack.pop()
        if kind_of_id != 'storage' or not isinstance(kind, _Kind) or view not in ([], [None]):
            raise ValueError('a record of something that is no storage')
        if type(key) is not str or type(n) is not int or not 0 <= n < _WIDE:
            raise ValueError(f'a storage of {n!r:.50} numbers')
        known = self.storages.get(key)
        if known is None:
            known = self.storages[key] = _Storage(key, kind, n)
        elif known.kind is not kind or known.n != n:  # the same bytes seen as other numbers
            known = _Storage(key, kind, n)
        self.stack.append(known)

    def key(self, key: Any, target: dict) -> Any:
        """`key` as a key of `target`: made-up numbers and tuples can all have one hash, so there are few of them."""
        if type(key) is str or (type(key) is int and -1 << 32 < key < 1 << 32) or key is None or type(key) is bool:
            return key
        parts = key if type(key) is tuple and len(key) <= KEY_PARTS else (key,)
        if not all(type(part) in (str, int, float, bool, type(None)) for part in parts):
            raise ValueError(f'a {type(key).__name__} as a key of a dict')
        self.odd_keys[id(target)] += 1
        self.odd_keys['all'] += 1
        if self.odd_keys[id(target)] > ODD_KEYS or self.odd_keys['all'] > 100 * ODD_KEYS:
            raise ValueError(f'more than {ODD_KEYS} tuples or large numbers as keys of a dict')
        return key

    def set_items(self, items: list) -> None:
        target, check = self.stack[-1], self.key
        if type(target) not in (dict, OrderedDict) or len(items) % 2:
            raise ValueError('items for something that is no dict')
        for i in range(0, len(items), 2):
            key = items[i]
            target[key if type(key) is str else check(key, target)] = items[i + 1]

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def append(self, items: list) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError('elements for something that is no list')
        self.stack[-1].extend(items)

    def last(self, n: int) -> None:
        if len(self.stack) < n:
            raise ValueError('a tuple of more than there is')
        self.stack[-n:] = [tuple(self.stack[-n:])]

    def remember(self, number: int) -> None:
        self.memo[number] = self.stack[-1]


def _steps() -> list[Callable | None]:
    """What to do for each byte that can be an instruction; None at the end of a pickle."""
    def push(value: Callable[[Instructions], Any]) -> Callable:
        return lambda s: s.stack.append(value(s))
    known = {
        b'\x80': Instructions.protocol, b'c': Instructions.name, b'R': Instructions.call, b'\x81': Instructions.new,
        b'b': Instructions.build, b'Q': Instructions.stored, b's': Instructions.set_item,
        b'u': lambda s: s.set_items(s.since_mark()), b'a': lambda s: s.append([s.stack.pop()]),
        b'e': lambda s: s.append(s.since_mark()), b'(': lambda s: s.marks.append(len(s.stack)),
        b't': push(lambda s: tuple(s.since_mark())), b'\x85': lambda s: s.last(1), b'\x86': lambda s: s.last(2),
        b'\x87': lambda s: s.last(3), b'N': push(lambda s: None), b'\x88': push(lambda s: True),
        b'\x89': push(lambda s: False), b')': push(lambda s: ()), b']': push(lambda s: []), b'}': push(lambda s: {}),
        b'J': push(lambda s: int.from_bytes(s.take(4), 'little', signed=True)), b'K': push(lambda s: s.take(1)[0]),
        b'M': push(lambda s: int.from_bytes(s.take(2), 'little')),
        b'G': push(lambda s: struct.unpack('>d', s.take(8))[0]),
        b'X': push(lambda s: str(s.take(s.size4()), 'utf-8', 'surrogatepass')),
        b'U': push(lambda s: str(s.take(s.take(1)[0]), 'utf-8')),
        b'\x8a': push(lambda s: int.from_bytes(s.take(s.take(1)[0]), 'little', signed=True)),
        b'h': push(lambda s: s.memo[s.take(1)[0]]), b'j': push(lambda s: s.memo[s.size4()]),
        b'q': lambda s: s.remember(s.take(1)[0]), b'r': lambda s: s.remember(s.size4()), b'.': None}
    return [known.get(bytes([code]), Instructions.refuse) for code in range(256)]


_STEPS = _steps()


# ---------------------------------------------------------------- making the values

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
        except (*_MALFORMED, RecursionError) as error:
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
        if kind is _Call:
            value = x.name.make(self, *x.args)
            if type(value) in _MADE:
                return value, 1, 0
            kind = type(value)
        if kind is _Object and x.name.make is not None:
            value = x.name.make(self, x)
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
        value = x.name.make(self, *x.args) if type(x) is _Call else x
        if type(value) is not kind:
            raise ValueError(f'{type(value).__name__.strip("_")} where {kind.__name__} should be')
        return value

    def view(self, storage: Any, offset: Any, size: Any, stride: Any, dtype: torch.dtype | None = None,
             requires_grad: Any = False, hooks: Any = None, metadata: Any = None) -> Tensor:
        """A tensor on a record; the same view of the same record is the same tensor."""
        if type(storage) is not _Storage:
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

    def _bytes(self, storage: _Storage, dtype: torch.dtype) -> torch.UntypedStorage:
        # a byte order depends on the kind of number, so the kind counts
        key = storage.key, storage.n * storage.kind.itemsize, dtype
        found = self.storages.get(key)
        if found is None:
            found = self.storages[key] = self.storage(*key)
        return found

    def _numbers(self, x: Any) -> tuple[int, ...]:
        x = self._part(x, torch.Size) if type(x) is _Call else x
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

    def tensor_1(self, storage: Any, offset: Any, size: Any, stride: Any) -> Tensor:
        return self.view(storage, offset, size, stride)

    def tensor_2(self, storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any,
                 metadata: Any = None) -> Tensor:
        return self.view(storage, offset, size, stride, None, requires_grad, hooks, metadata)

    def tensor_3(self, storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any, dtype: Any,
                 metadata: Any = None) -> Tensor:
        return self.view(storage, offset, size, stride, dtype, requires_grad, hooks, metadata)

    def parameter(self, data: Any, requires_grad: Any, hooks: Any) -> nn.Parameter:
        if type(requires_grad) is not bool:
            raise ValueError('a parameter with settings that no parameter has')
        return nn.Parameter(self._part(data, Tensor), requires_grad)

    def old_parameter(self, x: _Object) -> Tensor:
        # as torch wrote them in 2017: a state of five begins with the weight
        args = x.state if type(x.state) is tuple and len(x.state) == 5 else x.args
        return self._part(args[0], Tensor)

    def quantized(self, storage: Any, offset: Any, size: Any, stride: Any, settings: Any, requires_grad: Any,
                  hooks: Any) -> Tensor:
        dtype = storage.kind.dtype if type(storage) is _Storage else None
        if dtype not in quantized_dtypes or type(settings) is not tuple or not 3 <= len(settings) <= 4 or hooks:
            raise ValueError('a quantized tensor with settings that none has')
        size, stride = self._numbers(size), self._numbers(stride)
        claimed = self._claimed(offset, size, stride, storage.n) * dtype.itemsize
        self._claim(claimed if claimed <= storage.n * dtype.itemsize else self.claims + 1, size)
        scheme, scale, zero, *axis = settings
        if scheme is _PER_TENSOR and not axis:
            made = torch._empty_affine_quantized(size, scale=scale, zero_point=zero, dtype=dtype)
        elif scheme is _PER_CHANNEL and axis and type(axis[0]) is int and 0 <= axis[0] < len(size):
            scale, zero = self._part(scale, Tensor), self._part(zero, Tensor)
            if not scale.shape == zero.shape == size[axis[0]:axis[0] + 1]:
                raise ValueError('a quantized tensor with another number of scales than channels')
            made = torch._empty_per_channel_affine_quantized(size, scales=scale, zero_points=zero, axis=axis[0],
                                                             dtype=dtype)
        else:
            raise ValueError('a quantized tensor of a scheme that is not known')
        return made.set_(self._bytes(storage, dtype), offset, size, stride)

    def sparse(self, layout: Any, parts: Any) -> Tensor:
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

    def layout(self, name: Any) -> torch.layout:
        return LAYOUTS[name if type(name) is str else None]

    def shape(self, x: Any) -> torch.Size:
        numbers = x if type(x) is list and len(x) <= _DIMENSIONS else self._numbers(x)
        if not all(type(n) is int and 0 <= n < _WIDE for n in numbers):
            raise ValueError('a shape that is no shape')
        return torch.Size(numbers)

    def device(self, kind: Any, number: Any = None) -> torch.device:
        if type(kind) is not str or len(kind) > 30 or not (number is None or type(number) is int):
            raise ValueError('a device that is no device')
        return torch.device(kind) if number is None else torch.device(kind, number)

    def encode(self, text: Any, encoding: Any) -> bytes:
        if type(text) is not str or encoding not in ('latin1', b'latin1'):
            raise ValueError('bytes in an alphabet that no file of tensors uses')
        if text not in self.encoded:  # a text of megabytes may be mentioned again and again
            self.encoded[text] = text.encode('latin1')
        return self.encoded[text]

    def no_bytes(self) -> bytes:
        return b''

    def number(self, dtype: Any, raw: Any = b'') -> float | int | bool:
        raw = raw if type(raw) is bytes else self._part(raw, bytes)
        if type(dtype) is not _Object or dtype.name is not _DTYPE or not len(dtype.args) == 3:
            raise ValueError('a number of a kind that is not known')
        order = '>' if type(dtype.state) is tuple and dtype.state[1:2] == ('>',) else '<'
        return struct.unpack(order + _NUMPY[dtype.args[0]], raw)[0]

    def items(self, x: _Object) -> list:
        found = x.state.get('items', []) if type(x.state) is dict else None
        if type(found) is not list:
            raise ValueError('an L without a list')
        return found


_NUMPY = {'f8': 'd', 'f4': 'f', 'f2': 'e', 'i8': 'q', 'i4': 'i', 'i2': 'h', 'i1': 'b', 'u8': 'Q', 'u4': 'I', 'u2': 'H',
          'u1': 'B', 'b1': '?'}
_SCALARS = frozenset({str, int, float, bool, type(None), bytes, torch.dtype})
_MADE = _SCALARS | {Tensor, nn.Parameter, torch.Size, torch.device}
_ORDERED, _DTYPE, _L, _PARAMETER = _Name(), _Name(), _Name(Values.items), _Name(Values.old_parameter)
_PER_TENSOR, _PER_CHANNEL = _Name(), _Name()
_DTYPES = {name: x for name, x in vars(torch).items() if isinstance(x, torch.dtype)}
_STORAGES = {'Double': torch.float64, 'Float': torch.float32, 'Half': torch.float16, 'BFloat16': torch.bfloat16,
             'Long': torch.int64, 'Int': torch.int32, 'Short': torch.int16, 'Char': torch.int8, 'Byte': torch.uint8,
             'Bool': torch.bool, 'ComplexFloat': torch.complex64, 'ComplexDouble': torch.complex128,
             'QInt8': torch.qint8, 'QUInt8': torch.quint8, 'QInt32': torch.qint32, 'Untyped': None}
_NAMES: dict[str, Any] = {
    'collections OrderedDict': _ORDERED, 'torch Size': _Name(Values.shape), 'torch device': _Name(Values.device),
    'torch._utils _rebuild_tensor': _Name(Values.tensor_1), 'torch._utils _rebuild_tensor_v2': _Name(Values.tensor_2),
    'torch._utils _rebuild_tensor_v3': _Name(Values.tensor_3),
    'torch._utils _rebuild_parameter': _Name(Values.parameter), 'torch.nn.parameter Parameter': _PARAMETER,
    'torch._utils _rebuild_qtensor': _Name(Values.quantized), 'torch per_tensor_affine': _PER_TENSOR,
    'torch per_channel_affine': _PER_CHANNEL,
    'torch._utils _rebuild_sparse_tensor': _Name(Values.sparse),
    'torch.serialization _get_layout': _Name(Values.layout),
    '_codecs encode': _Name(Values.encode), '__builtin__ bytes': _Name(Values.no_bytes),
    'builtins bytes': _Name(Values.no_bytes), 'fastcore.foundation L': _L, 'numpy dtype': _DTYPE,
    'numpy.core.multiarray scalar': _Name(Values.number), 'numpy._core.multiarray scalar': _Name(Values.number),
    **{f'torch {name}': x for name, x in _DTYPES.items()},
    **{f'torch {name}Storage': _Kind(x) for name, x in _STORAGES.items()}}
_NAMES['torch.storage UntypedStorage'] = _NAMES['torch UntypedStorage']
