"""The container of a tensor file: its structure and checksums are checked before anything in it is interpreted.

There is one reader: what is checked here is where `tensorindex` and `tensorvalues` find their bytes, nobody opens or
parses the file a second time.
"""
from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from minifast.hardware import crc32
from minifast.terminal import visible

__all__ = ['ASK', 'SEAL', 'DamagedFileError', 'Records', 'UnsafeFileError', 'records_of', 'way_out']

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
    """What the reader of a refusal may do; exports of fastai are recognised."""
    if b'fastai' in bytes(data[:1 << 20]):
        return ('It looks like an export of fastai. To convert it: under fastai, in the session that made it, '
                "learn.save('model', with_opt=False); then under minifast build the same learner, "
                "learn.load('model', with_opt=False) and learn.export()")
    return ASK
