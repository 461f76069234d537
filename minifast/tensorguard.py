"""The reader of tensor files, in three steps.

The container is a zip, whose structure and checksums are checked before anything in it is interpreted. Its index is a
small pickle, which is taken as plain data: of a closed set of instructions and names; no name is looked up, what the
instructions would call is only noted. Of the notes tensors and plain containers are made, on bytes of the file that
were checked.

There is one reader: nobody opens or parses a file a second time. Time and memory are in proportion to the file.
"""
from __future__ import annotations

import math
import re
import struct
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from minifast.hardware import crc32
from minifast.terminal import visible

__all__ = ['ASK', 'KEY_PARTS', 'LAYOUTS', 'ODD_KEYS', 'SEAL', 'DamagedFileError', 'Instructions', 'Kind', 'Records',
           'UnsafeFileError', 'Values', 'quantized_dtypes', 'records_of', 'way_out']

# ---------------------------------------------------------------- the container

SEAL = b'minifast crc32 %08x'
"""The zip's comment in files of ours: a checksum over all bytes before it."""


class _FileError(ValueError):
    """Its message, which may quote names from the file, is `visible`."""

    def __str__(self) -> str:
        return visible(super().__str__())


class UnsafeFileError(_FileError):
    """The file holds, or may hold, more than data: it is not read."""


class DamagedFileError(_FileError):
    """The file is not what was once written: it is not read."""


ASK = 'Ask its author for a file that holds tensors only'
_AGAIN = 'take an older copy, or save it again'
_END, _END64, _LOCATOR64 = struct.Struct('<4s4H2LH'), struct.Struct('<4sQ2H2L4Q'), struct.Struct('<4sLQL')
_ENTRY, _HEAD = struct.Struct('<4s6H3L5H2L'), struct.Struct('<4s5H3L2H')
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF


class Records(NamedTuple):
    """Where the records of a tensor file lie.

    Attributes:
        index: first byte of the index and the one behind it.
        data: name of a tensor record -> first byte and the one behind it.
        swapped: the numbers are big-endian.
    """

    index: tuple[int, int]
    data: dict[str, tuple[int, int]]
    swapped: bool


class _Entry(NamedTuple):
    name: bytes
    size: int
    crc: int
    at: int

    def __str__(self) -> str:
        return repr(self.name.decode('utf-8', 'backslashreplace'))


def records_of(path: Path, data: memoryview) -> Records:
    """The records of a zip as `torch.save` writes it, after checking its structure and every checksum.

    Args:
        path: named in messages.
        data: all bytes of the file.

    Raises:
        DamagedFileError: bytes are missing or changed.
        UnsafeFileError: it is another kind of file.
    """
    if data[:4] != b'PK\x03\x04':
        raise UnsafeFileError(f'{path} is no tensor file but {_kind(data)}. {way_out(data)}')
    try:
        n_entries, start, end, sealed = _directory(path, data)
        entries = list(_entries(path, data, n_entries, start, end))
    except (struct.error, IndexError) as error:
        raise DamagedFileError(f'{path} is damaged or cut short ({error}): {_AGAIN}') from error
    top = _check_names(path, [entry.name for entry in entries])
    spans = _spans(path, data, entries, start, sealed)
    order = spans.get(top + b'/byteorder')
    prefix = top + b'/data/'
    return Records(spans[top + b'/data.pkl'],
                   {name[len(prefix):].decode('utf-8', 'backslashreplace'): span for name, span in spans.items()
                    if name.startswith(prefix)},
                   order is not None and data[order[0]:order[1]] == b'big')


def _directory(path: Path, data: memoryview) -> tuple[int, int, int, bool]:
    """How many entries the directory of the zip has, where it starts and ends, and whether the file is sealed."""
    for n_comment in (0, len(SEAL % 0)):
        at = len(data) - _END.size - n_comment
        if at >= 0 and data[at:at + 4] == b'PK\x05\x06':
            _, disk, first, here, n_entries, size, start, comment = _END.unpack_from(data, at)
            if comment == n_comment:
                break
    else:
        raise DamagedFileError(f'{path} is cut short, or has bytes behind its end: {_AGAIN}')
    if n_comment and bytes(data[-n_comment:]) != SEAL % crc32(b'\0\0', crc32(data[:at + _END.size - 2])):
        raise DamagedFileError(f'{path} is damaged: its checksum does not fit. {_AGAIN.capitalize()}')
    end, found = at, (n_entries, size, start)
    if data[max(at - _LOCATOR64.size, 0):at][:4] == b'PK\x06\x07':
        end = _LOCATOR64.unpack_from(data, at - _LOCATOR64.size)[2]
        magic, n_bytes, _, _, disk64, first64, here64, *found = _END64.unpack_from(data, end)
        small = ((n_entries, _FULL16), (size, _FULL32), (start, _FULL32))
        if (magic != b'PK\x06\x06' or end + _END64.size != at - _LOCATOR64.size or n_bytes != _END64.size - 12
                or disk64 or first64 or here64 != found[0]
                or any(own not in (full, real) for (own, full), real in zip(small, found))):
            raise DamagedFileError(f'{path}: its two ends contradict each other: {_AGAIN}')
    elif here != n_entries:
        raise DamagedFileError(f'{path}: its end contradicts itself: {_AGAIN}')
    n_entries, size, start = found
    if disk or first or start + size != end or n_entries * _ENTRY.size > size:
        raise DamagedFileError(f'{path}: its directory is not where it should be: {_AGAIN}')
    return n_entries, start, end, bool(n_comment)


def _entries(path: Path, data: memoryview, n_entries: int, at: int, end: int) -> Iterator[_Entry]:
    """The entries of the zip's directory, none of which is compressed, encrypted or elsewhere."""
    for _ in range(n_entries):
        (magic, _, _, flags, method, _, _, crc, packed, size, n_name, n_extra, n_comment, disk, _, _,
         place) = _ENTRY.unpack_from(data, at)
        middle = at + _ENTRY.size + n_name
        name, extra = bytes(data[at + _ENTRY.size:middle]), bytes(data[middle:middle + n_extra])
        at = middle + n_extra + n_comment
        if magic != b'PK\x01\x02' or at > end or disk:
            raise DamagedFileError(f'{path}: its directory is malformed: {_AGAIN}')
        size, packed, place = _large(extra, size, packed, place)
        entry = _Entry(name, size, crc, place)
        if method or flags & 0x41 or packed != size:
            raise UnsafeFileError(f'{path}: the record {entry} is compressed or encrypted, tensor files are not (it '
                                  f'may unpack to any size). {ASK}')
        yield entry
    if at != end:
        raise DamagedFileError(f'{path}: its directory is longer than it says: {_AGAIN}')


def _large(extra: bytes, *values: int) -> list[int]:
    """Numbers of an entry; those of 4 GB and more stand in its extra field."""
    found, at = list(values), 0
    while _FULL32 in found and at + 4 <= len(extra):
        kind, n = struct.unpack_from('<2H', extra, at)
        if kind == 1:
            wide = iter(struct.unpack_from(f'<{n // 8}Q', extra, at + 4))
            return [next(wide, v) if v == _FULL32 else v for v in found]
        at += 4 + n
    return found


def _check_names(path: Path, names: list[bytes]) -> bytes:
    """The folder that all records lie in; names that another reader may take for another record are refused."""
    tops = {name.partition(b'/')[0] for name in names}
    top = next(iter(tops), b'')
    if len(tops) != 1 or top + b'/data.pkl' not in names:
        raise UnsafeFileError(f'{path} is a zip, but not one written by torch.save. {ASK}')
    if len({name.lower() for name in names}) != len(names):
        raise UnsafeFileError(f'{path} holds two records of one name (up to large and small letters): readers '
                              f'disagree about which counts. {ASK}')
    for name in names:
        parts = name.split(b'/')
        if b'\\' in name or b'\0' in name or not {b'', b'.', b'..'}.isdisjoint(parts) or re.match(rb'[A-Za-z]:', top):
            raise UnsafeFileError(f'{path} holds a record called {name.decode("utf-8", "backslashreplace")!r}, which '
                                  f'points out of the file. {ASK}')
        if parts[1].lower() in (b'code', b'constants.pkl'):
            raise UnsafeFileError(f'{path} is a TorchScript archive, which is a program. {ASK}')
    return top


def _spans(path: Path, data: memoryview, entries: list[_Entry], end: int,
           sealed: bool) -> dict[bytes, tuple[int, int]]:
    """Where each record's bytes lie: in order, apart from each other, under the name and size the directory tells."""
    spans, before = {}, 0
    for entry in sorted(entries, key=lambda entry: entry.at):
        head = data[entry.at:entry.at + _HEAD.size]
        if entry.at < before or (not spans and entry.at) or len(head) < _HEAD.size or head[:4] != b'PK\x03\x04':
            raise DamagedFileError(f'{path}: the record {entry} is not where it should be: {_AGAIN}')
        _, _, _, method, _, _, _, packed, size, n_name, n_extra = _HEAD.unpack(head)
        name = entry.at + _HEAD.size
        start = name + n_name + n_extra
        stop = before = start + entry.size
        known = {0, entry.size, _FULL32}  # nothing or all ones where the size is told behind the bytes
        if data[name:name + n_name] != entry.name or method or not {packed, size} <= known or stop > end:
            raise DamagedFileError(f'{path}: the record {entry} does not fit into the file: {_AGAIN}')
        if not sealed and crc32(data[start:stop]) != entry.crc:
            raise DamagedFileError(f'{path} is damaged: the checksum of its record {entry} does not fit. '
                                   f'{_AGAIN.capitalize()}')
        spans[entry.name] = start, stop
    return spans


def _kind(data: memoryview) -> str:
    head = bytes(data[:512])
    if head[257:262] == b'ustar':
        return 'a tar archive'
    if head[:2] == b'\x1f\x8b':
        return 'a gzip file'
    if head[:1] == b'\x80' or head[:2] in (b'(d', b'(l', b'cp', b'co', b'cb'):
        return 'a pickle, which could run any code when read'
    return f'a file that starts with {head[:8]!r}'


def way_out(data: Any) -> str:
    """What the reader of a refusal of `data`, the bytes of a file, may do; exports of fastai are recognised."""
    if b'fastai' in bytes(data[:1 << 20]):
        return ('It looks like an export of fastai. To convert it: under fastai, in the session that made it, '
                "learn.save('model', with_opt=False); then under minifast build the same learner, "
                "learn.load('model', with_opt=False) and learn.export()")
    return ASK


# ---------------------------------------------------------------- the index

KEY_PARTS, ODD_KEYS = 32, 1000
"""How long a tuple may be that is a key of a dict, and how many keys of one may be tuples, reals or large numbers."""
MALFORMED = (ValueError, TypeError, LookupError, AttributeError, RuntimeError, OverflowError, struct.error)
"""What malformed bytes provoke."""


class _Name:
    """A name in the index. `make`: the method of `Values` that tells what a call of it is worth."""

    def __init__(self, make: str | None = None) -> None:
        self.make = make


class Kind(_Name):
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

    def __init__(self, key: str, kind: Kind, n: int) -> None:
        self.key, self.kind, self.n = key, kind, n


class Instructions:
    """The instructions of a pickle, followed.

    Args:
        path: named in messages.
        data: the bytes of the pickle.
        at: where it begins.

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
        if not isinstance(name, _Name) or type(args) is not tuple:
            raise ValueError('a call of something that is no name')
        if name is ORDERED:
            self.stack.append(self._ordered(*args))
        elif name in (DTYPE, PARAMETER):
            self.stack.append(_Object(name, args))
        elif name.make is None:
            raise ValueError('a call of a name that is no function')
        else:
            self.stack.append(_Call(name, args))

    def _new(self) -> None:
        args, name = self.stack.pop(), self.stack.pop()
        if name not in (L_CLASS, PARAMETER) or type(args) is not tuple:
            raise ValueError('a new object of a name that is no class')
        self.stack.append(_Object(name, args))

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
        elif type(target) is _Object and target.state is None:
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
            known = self.storages[key] = _Storage(key, kind, n)
        elif known.kind is not kind or known.n != n:  # the same bytes seen as other numbers
            known = _Storage(key, kind, n)
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


# the names that are known

ORDERED, DTYPE, L_CLASS, PARAMETER = _Name(), _Name(), _Name('_items'), _Name('_old_parameter')
PER_TENSOR, PER_CHANNEL = _Name(), _Name()
_DTYPES = {name: x for name, x in vars(torch).items() if isinstance(x, torch.dtype)}
_STORAGES = {'Double': torch.float64, 'Float': torch.float32, 'Half': torch.float16, 'BFloat16': torch.bfloat16,
             'Long': torch.int64, 'Int': torch.int32, 'Short': torch.int16, 'Char': torch.int8, 'Byte': torch.uint8,
             'Bool': torch.bool, 'ComplexFloat': torch.complex64, 'ComplexDouble': torch.complex128,
             'QInt8': torch.qint8, 'QUInt8': torch.quint8, 'QInt32': torch.qint32, 'Untyped': None}
_NAMES: dict[str, Any] = {
    'collections OrderedDict': ORDERED, 'torch Size': _Name('_shape'), 'torch device': _Name('_device'),
    'torch._utils _rebuild_tensor': _Name('_tensor_1'), 'torch._utils _rebuild_tensor_v2': _Name('_tensor_2'),
    'torch._utils _rebuild_tensor_v3': _Name('_tensor_3'),
    'torch._utils _rebuild_parameter': _Name('_parameter'), 'torch.nn.parameter Parameter': PARAMETER,
    'torch._utils _rebuild_qtensor': _Name('_quantized'), 'torch per_tensor_affine': PER_TENSOR,
    'torch per_channel_affine': PER_CHANNEL,
    'torch._utils _rebuild_sparse_tensor': _Name('_sparse'),
    'torch.serialization _get_layout': _Name('_layout'),
    '_codecs encode': _Name('_encode'), '__builtin__ bytes': _Name('_no_bytes'),
    'builtins bytes': _Name('_no_bytes'), 'fastcore.foundation L': L_CLASS, 'numpy dtype': DTYPE,
    'numpy.core.multiarray scalar': _Name('_number'), 'numpy._core.multiarray scalar': _Name('_number'),
    **{f'torch {name}': x for name, x in _DTYPES.items()},
    **{f'torch {name}Storage': Kind(x) for name, x in _STORAGES.items()}}
_NAMES['torch.storage UntypedStorage'] = _NAMES['torch UntypedStorage']


# ---------------------------------------------------------------- tensors and plain containers

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

    def __init__(self, path: Path, storage: Callable[..., Any], n_index: int, size: int) -> None:
        self.path, self.storage = path, storage
        self.unfolded = 4 * n_index + 1_000_000  # a list may be mentioned many times: whoever walks it meets all
        # a view takes no memory, but whoever looks at all of its numbers, or copies them, takes time and memory
        self.claims = 20 * size + (1 << 30)
        self.seen: dict[int, tuple] = {}
        self.views: dict[tuple, Tensor] = {}
        self.storages: dict[tuple, torch.UntypedStorage] = {}
        self.encoded: dict[str, bytes] = {}

    def make(self, x: Any) -> Any:
        """The values of `x`, what `Instructions.follow` returned.

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
        if kind is _Call:
            value = getattr(self, x.name.make)(*x.args)
            if type(value) in _MADE:
                return value, 1, 0
            kind = type(value)
        if kind is _Object and x.name.make is not None:
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
        value = getattr(self, x.name.make)(*x.args) if type(x) is _Call else x
        if type(value) is not kind:
            raise ValueError(f'{type(value).__name__.strip("_")} where {kind.__name__} should be')
        return value

    def _view(self, storage: Any, offset: Any, size: Any, stride: Any, dtype: torch.dtype | None = None,
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

    def _old_parameter(self, x: _Object) -> Tensor:
        # as torch wrote them in 2017: a state of five begins with the weight
        args = x.state if type(x.state) is tuple and len(x.state) == 5 else x.args
        return self._part(args[0], Tensor)

    def _quantized(self, storage: Any, offset: Any, size: Any, stride: Any, settings: Any, requires_grad: Any,
                   hooks: Any) -> Tensor:
        dtype = storage.kind.dtype if type(storage) is _Storage else None
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
        if type(dtype) is not _Object or dtype.name is not DTYPE or not len(dtype.args) == 3:
            raise ValueError('a number of a kind that is not known')
        order = '>' if type(dtype.state) is tuple and dtype.state[1:2] == ('>',) else '<'
        return struct.unpack(order + _NUMPY[dtype.args[0]], raw)[0]

    def _items(self, x: _Object) -> list:
        found = x.state.get('items', []) if type(x.state) is dict else None
        if type(found) is not list:
            raise ValueError('an L without a list')
        return found
