"""Guards in front of tensor files: structure, checksums and index are checked before anything interprets the file."""
from __future__ import annotations

import pickletools
import re
import struct
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from minifast.hardware import crc32
from minifast.terminal import visible

__all__ = ['ASK', 'SEAL', 'DamagedFileError', 'Tidy', 'UnsafeFileError', 'stand_ins', 'verify']

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


_INDEX_LIMIT = 256 << 20
_DEPTH_LIMIT = 100
_OWN = {'collections OrderedDict', 'torch._utils _rebuild_tensor_v2', 'torch._utils _rebuild_tensor',
        'torch._utils _rebuild_parameter', 'torch.storage UntypedStorage', 'torch Size', 'torch device'}
_FASTAI = {'fastcore.foundation L', 'numpy.core.multiarray scalar', 'numpy._core.multiarray scalar', 'numpy dtype',
           '_codecs encode'}
_STORAGE = re.compile(r'torch ((Double|Float|Half|BFloat16|Long|Int|Short|Char|Byte|Bool|ComplexFloat|ComplexDouble)'
                      r'Storage|(float|int|uint|bfloat|complex|bool)\d*)')
ASK = 'Ask its author for a file that holds tensors only'


def verify(path: Path, stream: BinaryIO, data: memoryview) -> tuple[int, Counter]:
    """Check structure, checksums and index; returns the number of opcodes in the index, and how many records there are
    of each size."""
    if data[:4] != b'PK\x03\x04':
        raise UnsafeFileError(f'{path} is no tensor file but {_kind(data)}. {_way_out(data)}')
    try:
        with zipfile.ZipFile(stream) as archive:
            records, comment = archive.infolist(), archive.comment
    except (zipfile.BadZipFile, ValueError, IndexError, NotImplementedError, struct.error, OverflowError,
            EOFError) as error:
        raise DamagedFileError(f'{path} is damaged or cut short ({error}): take an older copy, or save it again'
                               ) from error
    spans = _check_records(path, data, records, comment)
    index = next(r for r in records if r.filename.endswith('/data.pkl') and r.filename.count('/') == 1)
    start, end = spans[index.filename]
    return _check_index(path, bytes(data[start:end])), Counter(r.file_size for r in records)


def _check_records(path: Path, data: memoryview, records: list[zipfile.ZipInfo],
                   comment: bytes) -> dict[str, tuple[int, int]]:
    """Where each record's bytes lie, after checking that all is as `torch.save` writes it and every checksum."""
    names = [r.filename for r in records]
    top = {name.split('/')[0] for name in names}
    if len(top) != 1 or f'{next(iter(top))}/data.pkl' not in names or len(set(names)) != len(names):
        raise UnsafeFileError(f'{path} is a zip, but not one written by torch.save. {ASK}')
    for name in names:
        if '\\' in name or ':' in name or name.startswith('/') or '..' in name.split('/'):
            raise UnsafeFileError(f'{path} holds a record called {name!r}, which points out of the file. {ASK}')
        if name.partition('/')[2].split('/')[0] in ('code', 'constants.pkl'):
            raise UnsafeFileError(f'{path} is a TorchScript archive, which is a program. {ASK}')
    tail = len(data) - 22 - len(comment)
    if tail < 0 or data[tail:tail + 4] != b'PK\x05\x06':
        raise DamagedFileError(f'{path} has bytes behind its end: take an older copy, or save it again')
    sealed = _check_seal(path, data, comment)
    spans, before = {}, 0
    for r in sorted(records, key=lambda r: r.header_offset):
        if r.compress_type != zipfile.ZIP_STORED or r.compress_size != r.file_size or r.flag_bits & 1:
            raise UnsafeFileError(f'{path}: the record {r.filename!r} is compressed or encrypted, tensor files are '
                                  f'not (it may unpack to any size). {ASK}')
        head = bytes(data[r.header_offset:r.header_offset + 30])
        if r.header_offset < before or len(head) < 30 or head[:4] != b'PK\x03\x04':
            raise DamagedFileError(f'{path}: the record {r.filename!r} is not where it should be')
        name_length, extra_length = struct.unpack('<HH', head[26:30])
        start = r.header_offset + 30 + name_length + extra_length
        end = before = start + r.file_size
        if bytes(data[r.header_offset + 30:][:name_length]).decode('cp437') != _as_cp437(r) or end > tail:
            raise DamagedFileError(f'{path}: the record {r.filename!r} does not fit into the file')
        if not sealed and crc32(data[start:end]) != r.CRC:
            raise DamagedFileError(f'{path} is damaged: the checksum of its record {r.filename!r} does not fit. Take '
                                   'an older copy, or save it again')
        spans[r.filename] = (start, end)
    return spans


def _as_cp437(record: zipfile.ZipInfo) -> str:
    """A record's name as its bytes read in the alphabet that knows all bytes."""
    return record.orig_filename.encode('utf-8' if record.flag_bits & 0x800 else 'cp437', 'replace').decode('cp437')


def _check_seal(path: Path, data: memoryview, comment: bytes) -> bool:
    """Whether the file carries a seal, which then fits: a checksum over all bytes before it."""
    if not comment:
        return False
    body = crc32(b'\0\0', crc32(data[:len(data) - len(comment) - 2]))
    if comment != SEAL % body:
        raise DamagedFileError(f'{path} is damaged: its checksum does not fit. Take an older copy, or save it again')
    return True


def _check_index(path: Path, index: bytes) -> int:
    """Refuse every name in the index that is not needed for tensors, before anything interprets it."""
    if len(index) > _INDEX_LIMIT:
        raise UnsafeFileError(f'{path}: its index has {len(index)} bytes. {ASK}')
    n_opcodes = 0
    try:
        for opcode, arg, _ in pickletools.genops(index):
            n_opcodes += 1
            if opcode.name in ('STACK_GLOBAL', 'INST', 'OBJ', 'EXT1', 'EXT2', 'EXT4', 'NEWOBJ_EX', 'PERSID'):
                raise UnsafeFileError(f'{path} holds objects, not only tensors. {_way_out(index)}')
            if opcode.name == 'GLOBAL' and arg not in _OWN and arg not in _FASTAI and not _STORAGE.fullmatch(arg):
                raise UnsafeFileError(f'{path} names {arg.replace(" ", ".")}, which is no tensor: reading it as Python '
                                      f'does could run any code. {_way_out(index)}')
    except UnsafeFileError:
        raise
    except Exception as error:  # pickletools raises whatever the malformed bytes provoke
        raise UnsafeFileError(f'{path}: its index is malformed ({error}). {ASK}') from error
    return n_opcodes


def _kind(data: memoryview) -> str:
    head = bytes(data[:512])
    if head[257:262] == b'ustar':
        return 'a tar archive'
    if head[:2] == b'\x1f\x8b':
        return 'a gzip file'
    if head[:1] == b'\x80' or head[:2] in (b'(d', b'(l', b'cp', b'co', b'cb'):
        return 'a pickle, which could run any code when read'
    return f'a file that starts with {head[:8]!r}'


def _way_out(data: Any) -> str:
    if b'fastai' in bytes(data[:1 << 20]):
        return ('It looks like an export of fastai. To convert it: under fastai, in the session that made it, '
                "learn.save('model', with_opt=False); then under minifast build the same learner, "
                "learn.load('model', with_opt=False) and learn.export()")
    return ASK


class Tidy:
    """Walks what was read: stand-ins of foreign containers become plain ones, absurd claims are refused.

    Attributes:
        storages: address -> bytes of every storage that was seen.
    """

    def __init__(self, path: Path, n_opcodes: int, size: int) -> None:
        # a list may be referred to many times over: what unfolds to far more than was written is an attack
        self.path, self.nodes, self.bytes = path, 20 * n_opcodes + 1000, 16 * size
        self.storages: dict[int, int] = {}

    def __call__(self, x: Any, depth: int = 0) -> Any:
        """`x` with plain containers.

        Raises:
            UnsafeFileError: it is nested or large beyond reason, or holds something that is no data.
        """
        self.nodes -= 1
        if depth > _DEPTH_LIMIT or self.nodes < 0:
            raise UnsafeFileError(f'{self.path}: its contents are nested beyond reason. {ASK}')
        if isinstance(x, Tensor):
            return self._tensor(x)
        if isinstance(x, dict):
            if hasattr(x, '_metadata'):
                x._metadata = self._versions(x._metadata)
            for k, v in x.items():
                if not isinstance(k, (str, int, float, bool, tuple, type(None))):
                    raise UnsafeFileError(f'{self.path}: a dict has {type(k).__name__} as a key. {ASK}')
                x[k] = self(v, depth + 1)
            return x
        if isinstance(x, list):
            x[:] = [self(v, depth + 1) for v in x]
            return x
        if isinstance(x, tuple) and not isinstance(x, torch.Size):
            return tuple([self(v, depth + 1) for v in x])
        if isinstance(x, _SavedL):
            return self(list(vars(x).get('items', [])), depth + 1)
        if x is None or type(x) in (str, int, float, bool, bytes, torch.Size, torch.device, torch.dtype):
            return x
        raise UnsafeFileError(f'{self.path} holds a {type(x).__name__}, which has no place in a tensor file. {ASK}')

    @staticmethod
    def _versions(metadata: Any) -> OrderedDict:
        # a module's version may change how its weights are read; anything else in there may change what is done
        entries = metadata.items() if isinstance(metadata, dict) else ()
        return OrderedDict((k, {'version': v['version']}) for k, v in entries
                           if isinstance(v, dict) and type(v.get('version')) is int)

    def _tensor(self, x: Tensor) -> Tensor:
        claimed, storage = x.numel() * x.element_size(), x.untyped_storage()
        self.bytes -= claimed
        if storage.nbytes():
            self.storages[storage.data_ptr()] = storage.nbytes()
        if x.layout != torch.strided or claimed > storage.nbytes() or self.bytes < 0:
            raise UnsafeFileError(f'{self.path}: a tensor of shape {list(x.shape)} is larger than the bytes there '
                                  f'are for it. {ASK}')
        return x


class _SavedL:
    """Stands for fastcore's `L` while a file saved by fastai is read."""


class _SavedDtype:
    """Stands for a numpy dtype while a file saved by fastai is read."""

    def __init__(self, code: str, *args: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        """The byte order and alignment, which say nothing here: numbers are little-endian."""


def _saved_number(dtype: _SavedDtype, raw: bytes = b'') -> float | int | bool:
    codes = {'f8': '<d', 'f4': '<f', 'i8': '<q', 'i4': '<i', 'b1': '<?'}
    return struct.unpack(codes[dtype.code], raw)[0]


def stand_ins() -> list[tuple[Any, str]]:
    """What torch may use for the foreign names in files that fastai saved: classes that do nothing."""
    return [(_SavedL, 'fastcore.foundation.L'), (_SavedDtype, 'numpy.dtype'),
            (_saved_number, 'numpy.core.multiarray.scalar'), (_saved_number, 'numpy._core.multiarray.scalar'),
            (OrderedDict, 'collections.OrderedDict')]
