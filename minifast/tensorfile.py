"""Tensor files: written whole or not at all, verified before anything in them is used, unable to run code.

A tensor file is what `torch.save` writes (a zip of one small index and the raw tensors), holding nothing but tensors,
numbers, texts and containers of them. Files written here carry a seal, a checksum over every byte, in the zip's
comment; plain `torch.load` reads them all the same. Files from elsewhere are checked record by record.
"""
from __future__ import annotations

import errno
import itertools
import mmap
import os
import pickletools
import re
import secrets
import struct
import time
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from fastcore.foundation import L
from torch import Tensor, nn

from minifast.torch_core import plain

__all__ = ['DamagedFileError', 'UnsafeFileError', 'copied', 'read_tensors', 'storable', 'sweep_temporaries', 'write_atomic']


class UnsafeFileError(ValueError):
    """The file holds, or may hold, more than data: it is not read."""


class DamagedFileError(ValueError):
    """The file is not what was once written: it is not read."""


# ---------------------------------------------------------------- writing

_SEAL = b'minifast crc32 %08x'
_session = secrets.token_hex(4)  # tells this process's temporary files from those of a dead one with the same pid
_counter = itertools.count()
_TEMPORARY = re.compile(r'\..+\.(\d+)-([0-9a-f]{8})-\d+\.tmp')

_WAYS_OUT = {
    errno.ENOSPC: 'free some space or choose a folder on another disk',
    errno.EDQUOT: 'your quota is used up: delete something or choose another folder',
    errno.EROFS: 'the file system is read-only: choose another folder',
    errno.EACCES: 'choose a folder that you may write to, or change its permissions',
    errno.EPERM: 'choose a folder that you may write to, or change its permissions',
    errno.ENOENT: 'the folder does not exist (any more): make it, or choose another',
    errno.ENOTDIR: 'a part of the path is a file: choose another folder',
    errno.EISDIR: 'a folder has that name: choose another name',
    errno.EIO: 'the disk reports errors: choose a folder on another disk',
    errno.ENAMETOOLONG: 'choose a shorter name'}


class _Sealed:
    """Passes `torch.save`'s bytes on to a stream, with a running checksum.

    After a failed write it pretends to go on: torch's writer must not be left in the middle of a file. The error is
    raised by `close`.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.crc, self.error, self.tail = stream, 0, None, b''

    def write(self, data: Any) -> int:
        data = memoryview(data).cast('B')
        if self.error is None:
            try:
                # the last two bytes, the length of the zip's comment, are known at the end only
                whole = self.tail + bytes(data) if len(data) < 64 else None
                if whole is None:
                    self._pass_on(self.tail)
                    self._pass_on(data[:-2])
                    self.tail = bytes(data[-2:])
                else:
                    self._pass_on(whole[:-2])
                    self.tail = whole[-2:]
            except OSError as error:
                self.error = error
        return len(data)

    def _pass_on(self, data: Any) -> None:
        self.crc = zlib.crc32(data, self.crc)
        self.stream.write(data)

    def flush(self) -> None:
        """Nothing: `close` does it."""

    def close(self) -> None:
        if self.error is not None:
            raise self.error
        self.crc = zlib.crc32(self.tail, self.crc)
        seal = _SEAL % self.crc
        self.stream.write(len(seal).to_bytes(2, 'little') + seal)


def _write(obj: Any, stream: BinaryIO) -> None:
    sealed = _Sealed(stream)
    torch.save(obj, sealed)
    sealed.close()


def _sync_folder(folder: Path) -> None:
    if os.name == 'posix':
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def storable(x: Any, where: str = 'it') -> Any:
    """`x` as a tensor file can hold it: arrays become tensors, list- and dict-like objects plain ones.

    Args:
        x: nested tensors, arrays, numbers, texts, None.
        where: what `x` is, for the error.

    Raises:
        TypeError: something else is in it; the message says what and where.
    """
    if isinstance(x, Tensor):
        x = plain(x)
        return x.detach() if type(x) in (Tensor, nn.Parameter) else x.detach().as_subclass(Tensor)
    if isinstance(x, np.ndarray) and x.dtype.kind in 'biufc':
        return torch.from_numpy(x.astype(np.int64) if x.dtype.kind == 'u' and x.itemsize > 1 else x.copy())
    if isinstance(x, np.generic):
        return x.item()  # sync: numpy numbers live on the host
    if isinstance(x, OrderedDict) and hasattr(x, '_metadata'):
        kept = OrderedDict((k, storable(v, f'{where}[{k!r}]')) for k, v in x.items())
        kept._metadata = x._metadata
        return kept
    if isinstance(x, dict):
        return {k: storable(v, f'{where}[{k!r}]') for k, v in x.items()}
    if isinstance(x, torch.Size) or x is None or type(x) in (bool, int, float, str, bytes, torch.dtype, torch.device):
        return x
    if isinstance(x, tuple):
        return tuple(storable(v, f'{where}[{i}]') for i, v in enumerate(x))
    if isinstance(x, (list, L)):
        return [storable(v, f'{where}[{i}]') for i, v in enumerate(x)]
    for kind in (str, bool, int, float):
        if isinstance(x, kind):
            return kind(x)
    if isinstance(x, Path):
        return x.as_posix()
    raise TypeError(f'{where} is a {type(x).__name__}, which no tensor file can hold: keep tensors, numbers, texts, '
                    'lists and dicts there')


def copied(x: Any) -> Any:
    """`x` with every tensor copied to the CPU, as a thread may write it or a training may keep it."""
    if isinstance(x, OrderedDict) and hasattr(x, '_metadata'):
        kept = OrderedDict((k, copied(v)) for k, v in x.items())
        kept._metadata = x._metadata
        return kept
    if isinstance(x, dict):
        return {k: copied(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)) and not isinstance(x, torch.Size):
        return type(x)([copied(v) for v in x])
    return x.detach().to('cpu', copy=True) if isinstance(x, Tensor) else x  # sync: a file is written or read


def write_atomic(path: str | Path | BinaryIO, obj: Any) -> None:
    """Write a tensor file so that at every moment, a crash or a full disk included, `path` is the old file or the new.

    The bytes go to a temporary file in the same folder, then to the disk, then the name is moved. A symbolic link is
    followed, so the file system is that of the link's target.

    Args:
        path: the file, or an open binary stream (which is simply written to).
        obj: tensors, numbers, texts, None and lists, tuples, dicts of them.

    Raises:
        OSError: the storage failed; the message names file, cause and way out, and the old file is untouched.
    """
    if not isinstance(path, (str, Path)):
        return _write(obj, path)
    path = Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}-{_session}-{next(_counter)}.tmp')
    try:
        try:
            with open(temporary, 'xb') as stream:
                _write(obj, stream)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        except BaseException:
            _remove(temporary)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        way_out = _WAYS_OUT.get(error.errno, 'choose another folder')
        kept = 'The file there is the last good one, untouched. ' if path.exists() else ''
        raise OSError(error.errno, f'{path} could not be written: {error.strerror or error}. {kept}Way out: {way_out}'
                      ) from error
    return None


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # the storage that failed to write may fail to delete; the first error is the one to tell
        return


def sweep_temporaries(folder: str | Path, stale_s: float = 3600.) -> list[Path]:
    """Delete temporary files that killed processes left in `folder`; returns them.

    Files of living processes stay, unless they are older than `stale_s` seconds (a process number is used again).
    """
    swept = []
    for path in Path(folder).glob('.*.tmp'):
        found = _TEMPORARY.fullmatch(path.name)
        if not found or found[2] == _session:
            continue
        try:
            stale = time.time() - path.stat().st_mtime > stale_s
            if stale or int(found[1]) == os.getpid() or not _alive(int(found[1])):
                path.unlink()
                swept.append(path)
        except FileNotFoundError:  # another process swept it
            continue
    return swept


def _alive(pid: int) -> bool:
    if os.name != 'posix':
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


# ---------------------------------------------------------------- reading

_INDEX_LIMIT = 256 << 20
_DEPTH_LIMIT = 100
_OWN = {'collections OrderedDict', 'torch._utils _rebuild_tensor_v2', 'torch._utils _rebuild_tensor',
        'torch._utils _rebuild_parameter', 'torch.storage UntypedStorage', 'torch Size', 'torch device'}
_FASTAI = {'fastcore.foundation L', 'numpy.core.multiarray scalar', 'numpy._core.multiarray scalar', 'numpy dtype',
           '_codecs encode'}
_STORAGE = re.compile(r'torch ((Double|Float|Half|BFloat16|Long|Int|Short|Char|Byte|Bool|ComplexFloat|ComplexDouble)'
                      r'Storage|(float|int|uint|bfloat|complex|bool)\d*)')
_ASK = 'Ask its author for a file that holds tensors only'


def read_tensors(path: str | Path | BinaryIO) -> Any:
    """Read a tensor file after verifying all of it. What is no tensor file is refused; nothing in a file is ever run.

    Args:
        path: the file, or an open binary stream.

    Returns:
        What was written. The tensors lie on the CPU; those of a file are mapped from it, so copy what you keep.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: bytes are missing or changed.
        UnsafeFileError: it is another kind of file (a pickle, say), or claims what no honest file claims.
    """
    if not isinstance(path, (str, Path)):
        return _read_stream(path)
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, f'{path} is a folder: name a file in it')
    with open(path, 'rb') as stream:
        size = os.fstat(stream.fileno()).st_size
        if size == 0:
            raise DamagedFileError(f'{path} is empty: take an older copy, or save it again')
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data, memoryview(data) as view:
            n_opcodes = _verify(path, stream, view)
    try:
        with torch.serialization.safe_globals(_stand_ins()):
            found = torch.load(path, map_location='cpu', weights_only=True, mmap=True)
    except Exception as error:  # whatever torch refuses in whatever way, it is the file's fault
        raise UnsafeFileError(f'{path} is refused: {str(error).splitlines()[0] if str(error) else error!r}. {_ASK}'
                              ) from error
    return _Tidy(path, n_opcodes, size).tidy(found)


def _read_stream(stream: BinaryIO) -> Any:
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'stream.pth'
        path.write_bytes(stream.read())
        return copied(read_tensors(path))


def _verify(path: Path, stream: BinaryIO, data: memoryview) -> int:
    """Check structure, checksums and index; returns the number of opcodes in the index."""
    if data[:4] != b'PK\x03\x04':
        raise UnsafeFileError(f'{path} is no tensor file but {_kind(data)}. {_way_out(data)}')
    try:
        with zipfile.ZipFile(stream) as archive:
            records, comment = archive.infolist(), archive.comment
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error, OverflowError, EOFError) as error:
        raise DamagedFileError(f'{path} is damaged or cut short ({error}): take an older copy, or save it again'
                               ) from error
    spans = _check_records(path, data, records, comment)
    index = next(r for r in records if r.filename.endswith('/data.pkl') and r.filename.count('/') == 1)
    start, end = spans[index.filename]
    return _check_index(path, bytes(data[start:end]))


def _check_records(path: Path, data: memoryview, records: list[zipfile.ZipInfo],
                   comment: bytes) -> dict[str, tuple[int, int]]:
    """Where each record's bytes lie, after checking that all is as `torch.save` writes it and every checksum."""
    names = [r.filename for r in records]
    top = {name.split('/')[0] for name in names}
    if len(top) != 1 or f'{next(iter(top))}/data.pkl' not in names or len(set(names)) != len(names):
        raise UnsafeFileError(f'{path} is a zip, but not one written by torch.save. {_ASK}')
    for name in names:
        if '\\' in name or ':' in name or name.startswith('/') or '..' in name.split('/'):
            raise UnsafeFileError(f'{path} holds a record called {name!r}, which points out of the file. {_ASK}')
        if name.split('/')[1] in ('code', 'constants.pkl'):
            raise UnsafeFileError(f'{path} is a TorchScript archive, which is a program. {_ASK}')
    tail = len(data) - 22 - len(comment)
    if tail < 0 or data[tail:tail + 4] != b'PK\x05\x06':
        raise DamagedFileError(f'{path} has bytes behind its end: take an older copy, or save it again')
    sealed = _check_seal(path, data, comment)
    spans, before = {}, 0
    for r in sorted(records, key=lambda r: r.header_offset):
        if r.compress_type != zipfile.ZIP_STORED or r.compress_size != r.file_size or r.flag_bits & 1:
            raise UnsafeFileError(f'{path}: the record {r.filename!r} is compressed or encrypted, tensor files are '
                                  f'not (it may unpack to any size). {_ASK}')
        head = bytes(data[r.header_offset:r.header_offset + 30])
        if r.header_offset < before or len(head) < 30 or head[:4] != b'PK\x03\x04':
            raise DamagedFileError(f'{path}: the record {r.filename!r} is not where it should be')
        name_length, extra_length = struct.unpack('<HH', head[26:30])
        start = r.header_offset + 30 + name_length + extra_length
        end = before = start + r.file_size
        if bytes(data[r.header_offset + 30:][:name_length]) != r.orig_filename.encode() or end > tail:
            raise DamagedFileError(f'{path}: the record {r.filename!r} does not fit into the file')
        if not sealed and zlib.crc32(data[start:end]) != r.CRC:
            raise DamagedFileError(f'{path} is damaged: the checksum of its record {r.filename!r} does not fit. Take '
                                   'an older copy, or save it again')
        spans[r.filename] = (start, end)
    return spans


def _check_seal(path: Path, data: memoryview, comment: bytes) -> bool:
    """Whether the file carries a seal, which then fits: a checksum over all bytes before it."""
    if not comment:
        return False
    body = zlib.crc32(b'\0\0', zlib.crc32(data[:len(data) - len(comment) - 2]))
    if comment != _SEAL % body:
        raise DamagedFileError(f'{path} is damaged: its checksum does not fit. Take an older copy, or save it again')
    return True


def _check_index(path: Path, index: bytes) -> int:
    """Refuse every name in the index that is not needed for tensors, before anything interprets it."""
    if len(index) > _INDEX_LIMIT:
        raise UnsafeFileError(f'{path}: its index has {len(index)} bytes. {_ASK}')
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
        raise UnsafeFileError(f'{path}: its index is malformed ({error}). {_ASK}') from error
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
    return _ASK


class _Tidy:
    """Walks what was read: markers of foreign containers become plain ones, absurd claims are refused."""

    def __init__(self, path: Path, n_opcodes: int, size: int) -> None:
        # a list may be referred to many times over: what unfolds to far more than was written is an attack
        self.path, self.nodes, self.bytes = path, 20 * n_opcodes + 1000, 16 * size

    def tidy(self, x: Any, depth: int = 0) -> Any:
        self.nodes -= 1
        if depth > _DEPTH_LIMIT or self.nodes < 0:
            raise UnsafeFileError(f'{self.path}: its contents are nested beyond reason. {_ASK}')
        if isinstance(x, Tensor):
            return self._tensor(x)
        if isinstance(x, dict):
            if hasattr(x, '_metadata'):
                x._metadata = self._versions(x._metadata)
            for k, v in x.items():
                if not isinstance(k, (str, int, float, bool, tuple, type(None))):
                    raise UnsafeFileError(f'{self.path}: a dict has {type(k).__name__} as a key. {_ASK}')
                x[k] = self.tidy(v, depth + 1)
            return x
        if isinstance(x, list):
            x[:] = [self.tidy(v, depth + 1) for v in x]
            return x
        if isinstance(x, tuple) and not isinstance(x, torch.Size):
            return tuple([self.tidy(v, depth + 1) for v in x])
        if isinstance(x, _SavedL):
            return self.tidy(list(vars(x).get('items', [])), depth + 1)
        if x is None or type(x) in (str, int, float, bool, bytes, torch.Size, torch.device, torch.dtype):
            return x
        raise UnsafeFileError(f'{self.path} holds a {type(x).__name__}, which has no place in a tensor file. {_ASK}')

    @staticmethod
    def _versions(metadata: Any) -> OrderedDict:
        # a module's version may change how its weights are read; anything else in there may change what is done
        entries = metadata.items() if isinstance(metadata, dict) else ()
        return OrderedDict((k, {'version': v['version']}) for k, v in entries
                           if isinstance(v, dict) and type(v.get('version')) is int)

    def _tensor(self, x: Tensor) -> Tensor:
        claimed = x.numel() * x.element_size()
        self.bytes -= claimed
        if x.layout != torch.strided or claimed > x.untyped_storage().nbytes() or self.bytes < 0:
            raise UnsafeFileError(f'{self.path}: a tensor of shape {list(x.shape)} is larger than the bytes there '
                                  f'are for it. {_ASK}')
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


def _stand_ins() -> list[tuple[Any, str]]:
    return [(_SavedL, 'fastcore.foundation.L'), (_SavedDtype, 'numpy.dtype'),
            (_saved_number, 'numpy.core.multiarray.scalar'), (_saved_number, 'numpy._core.multiarray.scalar'),
            (OrderedDict, 'collections.OrderedDict')]
