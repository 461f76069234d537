"""The index of a tensor file, a small pickle, taken as plain data: no name in it is looked up, nothing in it is called.

A closed set of instructions and names is known. The instructions are followed here; what they would call is only noted
(`Call`). `tensorvalues` makes tensors of the notes.
"""
from __future__ import annotations

import struct
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from minifast.tensorguard import ASK, UnsafeFileError, way_out

__all__ = ['DTYPE', 'KEY_PARTS', 'MALFORMED', 'ODD_KEYS', 'PER_CHANNEL', 'PER_TENSOR', 'Call', 'Instructions', 'Kind',
           'Name', 'Object', 'Storage']

KEY_PARTS, ODD_KEYS = 32, 1000
"""How long a tuple may be that is a key of a dict, and how many keys of one may be tuples, reals or large numbers."""
MALFORMED = (ValueError, TypeError, LookupError, AttributeError, RuntimeError, OverflowError, struct.error)
"""What malformed bytes provoke."""


class Name:
    """A name in the index. `make`: the method of `tensorvalues.Values` that tells what a call of it is worth."""

    def __init__(self, make: str | None = None) -> None:
        self.make = make


class Kind(Name):
    """The name of a kind of storage; numbers of `dtype` lie in it, bytes where that is None."""

    def __init__(self, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.dtype = dtype
        self.itemsize = 1 if dtype is None else dtype.itemsize


class Call:
    """What the index says to call."""

    __slots__ = ('args', 'name')

    def __init__(self, name: Name, args: tuple) -> None:
        self.name, self.args = name, args


class Object:
    """An object that the index makes first and fills afterwards: fastcore's `L`, an old parameter, numpy's dtype."""

    __slots__ = ('args', 'name', 'state')

    def __init__(self, name: Name, args: tuple) -> None:
        self.name, self.args, self.state = name, args, None


class Storage:
    """A record that tensors lie in.

    Attributes:
        key: its name.
        kind: what is in it.
        n: how many numbers of this kind.
    """

    __slots__ = ('key', 'kind', 'n')

    def __init__(self, key: str, kind: Kind, n: int) -> None:
        self.key, self.kind, self.n = key, kind, n


class Instructions:
    """The instructions of a pickle, followed.

    Attributes:
        at: the byte behind those that were read.
        storages: name -> `Storage`, as the index mentions them.
    """

    def __init__(self, path: Path, data: bytes, at: int = 0) -> None:
        self.path, self.data, self.at = path, data, at
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}
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
        except MALFORMED as error:
            raise UnsafeFileError(f'{self.path}: its index is malformed ({error!r:.200}). {ASK}') from error

    # ------------------------------------------------------------ bytes

    def _take(self, n: int) -> bytes:
        end = self.at + n
        if end > len(self.data):
            raise ValueError('cut short')
        found, self.at = self.data[self.at:end], end
        return found

    def _line(self) -> str:
        end = self.data.index(b'\n', self.at)
        found, self.at = self.data[self.at:end], end + 1
        return found.decode('utf-8')

    def _size4(self) -> int:
        return int.from_bytes(self._take(4), 'little')

    def _since_mark(self) -> list:
        start = self.marks.pop()
        found = self.stack[start:]
        del self.stack[start:]
        return found

    # ------------------------------------------------------------ instructions

    def _refuse(self) -> None:
        raise UnsafeFileError(f'{self.path} holds objects, not only tensors (instruction {self.data[self.at - 1]:#x} '
                              f'of its index). {way_out(self.data)}')

    def _protocol(self) -> None:
        self.at += 1

    def _name(self) -> None:
        name = f'{self._line()} {self._line()}'
        found = _NAMES.get(name)
        if found is None:
            raise UnsafeFileError(f'{self.path} names {name.replace(" ", ".")!r:.200}, which is no tensor: reading it '
                                  f'as Python does could run any code. {way_out(self.data)}')
        self.stack.append(found)

    def _call(self) -> None:
        args, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, Name) or type(args) is not tuple:
            raise ValueError('a call of something that is no name')
        if name is ORDERED:
            self.stack.append(self._ordered(*args))
        elif name in (DTYPE, PARAMETER):
            self.stack.append(Object(name, args))
        elif name.make is None:
            raise ValueError('a call of a name that is no function')
        else:
            self.stack.append(Call(name, args))

    def _new(self) -> None:
        args, name = self.stack.pop(), self.stack.pop()
        if name not in (L_CLASS, PARAMETER) or type(args) is not tuple:
            raise ValueError('a new object of a name that is no class')
        self.stack.append(Object(name, args))

    def _ordered(self, pairs: Any = ()) -> OrderedDict:
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
            made[self._key(pair[0], made)] = pair[1]
        return made

    def _build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is OrderedDict and type(state) is dict:
            if '_metadata' in state:
                target._metadata = state['_metadata']
        elif type(target) is Object and target.state is None:
            target.state = state
        else:
            raise ValueError('a state for something that has none')

    def _stored(self) -> None:
        kind_of_id, kind, key, _, n, *view = self.stack.pop()
        if kind_of_id != 'storage' or not isinstance(kind, Kind) or view not in ([], [None]):
            raise ValueError('a record of something that is no storage')
        if type(key) is not str or type(n) is not int or not 0 <= n < 1 << 63:
            raise ValueError(f'a storage of {n!r:.50} numbers')
        known = self.storages.get(key)
        if known is None:
            known = self.storages[key] = Storage(key, kind, n)
        elif known.kind is not kind or known.n != n:  # the same bytes seen as other numbers
            known = Storage(key, kind, n)
        self.stack.append(known)

    def _key(self, key: Any, target: dict) -> Any:
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

    def _set_items(self, items: list) -> None:
        target, check = self.stack[-1], self._key
        if type(target) not in (dict, OrderedDict) or len(items) % 2:
            raise ValueError('items for something that is no dict')
        for i in range(0, len(items), 2):
            key = items[i]
            target[key if type(key) is str else check(key, target)] = items[i + 1]

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    def _append(self, items: list) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError('elements for something that is no list')
        self.stack[-1].extend(items)

    def _last(self, n: int) -> None:
        if len(self.stack) < n:
            raise ValueError('a tuple of more than there is')
        self.stack[-n:] = [tuple(self.stack[-n:])]

    def _remember(self, number: int) -> None:
        self.memo[number] = self.stack[-1]


def _steps() -> list[Callable | None]:
    """What to do for each byte that can be an instruction; None at the end of a pickle."""
    def push(value: Callable[[Instructions], Any]) -> Callable:
        return lambda s: s.stack.append(value(s))
    known = {
        b'\x80': Instructions._protocol, b'c': Instructions._name, b'R': Instructions._call, b'\x81': Instructions._new,
        b'b': Instructions._build, b'Q': Instructions._stored, b's': Instructions._set_item,
        b'u': lambda s: s._set_items(s._since_mark()), b'a': lambda s: s._append([s.stack.pop()]),
        b'e': lambda s: s._append(s._since_mark()), b'(': lambda s: s.marks.append(len(s.stack)),
        b't': push(lambda s: tuple(s._since_mark())), b'\x85': lambda s: s._last(1), b'\x86': lambda s: s._last(2),
        b'\x87': lambda s: s._last(3), b'N': push(lambda s: None), b'\x88': push(lambda s: True),
        b'\x89': push(lambda s: False), b')': push(lambda s: ()), b']': push(lambda s: []), b'}': push(lambda s: {}),
        b'J': push(lambda s: int.from_bytes(s._take(4), 'little', signed=True)), b'K': push(lambda s: s._take(1)[0]),
        b'M': push(lambda s: int.from_bytes(s._take(2), 'little')),
        b'G': push(lambda s: struct.unpack('>d', s._take(8))[0]),
        b'X': push(lambda s: str(s._take(s._size4()), 'utf-8', 'surrogatepass')),
        b'U': push(lambda s: str(s._take(s._take(1)[0]), 'utf-8')),
        b'\x8a': push(lambda s: int.from_bytes(s._take(s._take(1)[0]), 'little', signed=True)),
        b'h': push(lambda s: s.memo[s._take(1)[0]]), b'j': push(lambda s: s.memo[s._size4()]),
        b'q': lambda s: s._remember(s._take(1)[0]), b'r': lambda s: s._remember(s._size4()), b'.': None}
    return [known.get(bytes([code]), Instructions._refuse) for code in range(256)]


_STEPS = _steps()


# ---------------------------------------------------------------- the names that are known

ORDERED, DTYPE, L_CLASS, PARAMETER = Name(), Name(), Name('_items'), Name('_old_parameter')
PER_TENSOR, PER_CHANNEL = Name(), Name()
_DTYPES = {name: x for name, x in vars(torch).items() if isinstance(x, torch.dtype)}
_STORAGES = {'Double': torch.float64, 'Float': torch.float32, 'Half': torch.float16, 'BFloat16': torch.bfloat16,
             'Long': torch.int64, 'Int': torch.int32, 'Short': torch.int16, 'Char': torch.int8, 'Byte': torch.uint8,
             'Bool': torch.bool, 'ComplexFloat': torch.complex64, 'ComplexDouble': torch.complex128,
             'QInt8': torch.qint8, 'QUInt8': torch.quint8, 'QInt32': torch.qint32, 'Untyped': None}
_NAMES: dict[str, Any] = {
    'collections OrderedDict': ORDERED, 'torch Size': Name('_shape'), 'torch device': Name('_device'),
    'torch._utils _rebuild_tensor': Name('_tensor_1'), 'torch._utils _rebuild_tensor_v2': Name('_tensor_2'),
    'torch._utils _rebuild_tensor_v3': Name('_tensor_3'),
    'torch._utils _rebuild_parameter': Name('_parameter'), 'torch.nn.parameter Parameter': PARAMETER,
    'torch._utils _rebuild_qtensor': Name('_quantized'), 'torch per_tensor_affine': PER_TENSOR,
    'torch per_channel_affine': PER_CHANNEL,
    'torch._utils _rebuild_sparse_tensor': Name('_sparse'),
    'torch.serialization _get_layout': Name('_layout'),
    '_codecs encode': Name('_encode'), '__builtin__ bytes': Name('_no_bytes'),
    'builtins bytes': Name('_no_bytes'), 'fastcore.foundation L': L_CLASS, 'numpy dtype': DTYPE,
    'numpy.core.multiarray scalar': Name('_number'), 'numpy._core.multiarray scalar': Name('_number'),
    **{f'torch {name}': x for name, x in _DTYPES.items()},
    **{f'torch {name}Storage': Kind(x) for name, x in _STORAGES.items()}}
_NAMES['torch.storage UntypedStorage'] = _NAMES['torch UntypedStorage']
