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
import re
import secrets
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from fastcore.foundation import L
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.serialization import config

from minifast.hardware import crc32
from minifast.sharding import is_share
from minifast.tensorguard import (ASK, KEY_PARTS, LAYOUTS, ODD_KEYS, SEAL, DamagedFileError, Instructions,
                                  UnsafeFileError, Values, records_of)
from minifast.torch_core import plain

__all__ = ['Copies', 'DamagedFileError', 'UnsafeFileError', 'copied', 'read_tensors', 'storable', 'way_out_of',
           'write_atomic']


# ---------------------------------------------------------------- writing

_session = secrets.token_hex(4)  # tells this process's temporary files from those of a dead one with the same pid
_counter = itertools.count()

_WAYS_OUT = {
    errno.ENOSPC: 'free some space or choose a folder on another disk',
    errno.EDQUOT: 'your quota is used up: delete something or choose another folder',
    errno.EROFS: 'the file system is read-only: choose another folder',
    errno.EACCES: 'choose a folder that you may write to, or change its permissions',
    errno.EPERM: 'choose a folder that you may write to, or change its permissions',
    errno.ENOENT: 'the folder does not exist (any more): make it, or choose another',
    errno.ENOTDIR: 'a part of the path is a file: choose another folder',
    errno.EFBIG: 'files may not become so large here: raise the limit or choose another file system',
    errno.EIO: 'the disk reports errors: choose a folder on another disk',
    errno.ENAMETOOLONG: 'choose a shorter name'}


def way_out_of(error: OSError) -> str:
    """What to do about a storage that does not take a file and says `error`."""
    return _WAYS_OUT.get(error.errno, 'choose another folder')


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
        self.crc = crc32(data, self.crc)
        self.stream.write(data)

    def flush(self) -> None:
        """Nothing: `close` does it."""

    def close(self) -> None:
        if self.error is not None:
            raise self.error
        self.crc = crc32(self.tail, self.crc)
        seal = SEAL % self.crc
        self.stream.write(len(seal).to_bytes(2, 'little') + seal)


def _write(obj: Any, stream: BinaryIO) -> None:
    sealed, obj = _Sealed(stream), _one_kind_each(obj)
    with config.patch('save.compute_crc32', False):  # the seal is over all bytes: one checksum is enough
        torch.save(obj, sealed)
    sealed.close()


def _one_kind_each(obj: Any) -> Any:
    """`obj`, its tensors copied if some are other kinds of numbers on the same bytes, which `torch.save` refuses."""
    kinds: dict[int, torch.dtype] = {}

    def clash(x: Any) -> bool:
        if isinstance(x, dict):
            return any(map(clash, x.values()))
        if isinstance(x, (list, tuple)):
            return any(map(clash, x))
        if not isinstance(x, Tensor) or x.layout is not torch.strided or not x.untyped_storage().nbytes():
            return False
        return kinds.setdefault(x.untyped_storage().data_ptr(), x.dtype) != x.dtype
    return Copies()(obj) if clash(obj) else obj


def _sync_folder(folder: Path) -> None:
    if os.name == 'posix':
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


_SMALL = re.compile(r'torch\.(u?int[1-7]|quint4x2|quint2x4)')
_USUAL = {torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8,
          torch.bool}
_SHOW_A_BATCH = "the model has layers without a shape: let it see a batch first, learn.model(learn.dls.one_batch()[0])"


def _unstorable(x: Tensor) -> str | None:
    """Why no file can hold this tensor so that it comes back equal, and the way out; None where one can."""
    usual = type(x) in (Tensor, nn.Parameter) and x.dtype in _USUAL and x.layout is torch.strided
    if usual and not x.is_nested and x.device.type != 'meta':
        return None  # as nearly all, and there may be thousands
    if is_lazy(x):
        return f'a tensor without a shape: {_SHOW_A_BATCH}'
    if type(x).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return f'a {type(x).__name__}, whose numbers lie in other tensors: keep those'
    if x.is_nested:
        return 'a nested tensor: keep its values and offsets'
    if x.device.type == 'meta':
        return "a tensor on the device 'meta', which has no numbers: model.to_empty(device='cpu') and fill it"
    if x.layout is not torch.strided and str(x.layout) not in LAYOUTS:
        return f'a tensor of the layout {x.layout}: keep x.to_dense()'
    if _SMALL.fullmatch(str(x.dtype)):
        return f'a tensor of {x.dtype}, which torch cannot copy or save: keep x.view(torch.uint8)'
    if x.is_quantized and x.qscheme() not in (torch.per_tensor_affine, torch.per_channel_affine):
        return f'a tensor quantized by {x.qscheme()}: keep x.int_repr() and its scales'
    return None


def _storable_tensor(x: Tensor, where: str) -> Tensor:
    why_not = _unstorable(x)
    if why_not is not None:
        raise TypeError(f'{where} is {why_not}')
    x = x.detach() if type(x) in (Tensor, nn.Parameter) else plain(x).detach().as_subclass(Tensor)
    # files of ours hold numbers as they are, not what is to be made of them
    return x.resolve_conj().resolve_neg() if x.is_conj() or x.is_neg() else x


def _storable_array(x: np.ndarray, where: str) -> Tensor:
    x = x.astype(x.dtype.newbyteorder('='))  # a copy; torch knows this machine's order only
    if x.dtype.kind == 'u' and 1 < x.itemsize < 8:
        x = x.astype(np.int64)
    try:
        return torch.from_numpy(x)
    except TypeError as error:
        raise TypeError(f'{where} is an array of {x.dtype}, which torch has not: keep x.astype(float)') from error


def storable(x: Any, where: str = 'it', depth: int = 0) -> Any:
    """`x` as a tensor file can hold it: arrays become tensors, list- and dict-like objects plain ones.

    What this lets through, `read_tensors` gives back equal.

    Args:
        x: nested tensors, arrays, numbers, texts, None.
        where: what `x` is, for the error.
        depth: how deep it lies.

    Raises:
        TypeError: something else is in it; the message says what and where.
    """
    if isinstance(x, Tensor):
        return _storable_tensor(x, where)
    if type(x) in _LEAVES:
        return x
    if depth > _DEPTH_LIMIT:
        raise TypeError(f'{where[:200]} lies {depth} lists or dicts deep, or holds itself')
    if isinstance(x, np.ndarray) and x.dtype.kind in 'biufc':
        return _storable_array(x, where)
    if isinstance(x, np.generic):
        return storable(x.item(), where, depth + 1)  # sync: numpy numbers live on the host
    if isinstance(x, dict):
        kept = OrderedDict() if isinstance(x, OrderedDict) and hasattr(x, '_metadata') else {}
        kept.update((key, v if type(v) in _LEAVES else storable(v, f'{where}[{k!r}]', depth + 1))
                    for key, (k, v) in zip(_storable_keys(x, where), x.items()))
        if hasattr(x, '_metadata'):
            kept._metadata = _versions(x._metadata)
        return kept
    if isinstance(x, tuple):
        return tuple(_storable_elements(x, where, depth))
    if isinstance(x, (list, L)):
        return _storable_elements(x, where, depth)
    for kind in (str, bool, int, float):
        if isinstance(x, kind):
            return _storable_number(kind(x), where)
    if isinstance(x, Path):
        return x.as_posix()
    raise TypeError(f'{where} is a {type(x).__name__}, which no tensor file can hold: keep tensors, numbers, texts, '
                    'lists and dicts there')


_DEPTH_LIMIT, _BIT_LIMIT = 80, 2000
_LEAVES = {type(None), bool, float, str, bytes, torch.dtype, torch.device, torch.Size}


def _storable_elements(x: Any, where: str, depth: int) -> list:
    return [v if type(v) in _LEAVES else storable(v, f'{where}[{i}]', depth + 1) for i, v in enumerate(x)]


def _storable_number(x: Any, where: str) -> Any:
    if type(x) is int and x.bit_length() > _BIT_LIMIT:
        raise TypeError(f'{where} is a number of {x.bit_length()} bits, no tensor file can hold it: keep str(x)')
    return x


def _storable_keys(x: dict, where: str) -> Iterator[Any]:
    """The keys of a dict, as `read_tensors` takes them back."""
    odd = 0
    for key in x:
        if type(key) is str:
            yield key
            continue
        parts = [storable(part) if isinstance(part, (str, int, float, np.generic)) else part
                 for part in (key if isinstance(key, tuple) else (key,))]
        if len(parts) > KEY_PARTS or not all(type(part) in (str, bool, int, float, type(None)) for part in parts):
            raise TypeError(f'{where} has {key!r:.80}, a {type(key).__name__}, as a key, which no tensor file can '
                            'hold: take texts and numbers as keys')
        odd += isinstance(key, tuple) or type(parts[0]) is float or (type(parts[0]) is int and abs(parts[0]) >> 32 > 0)
        if odd > ODD_KEYS:
            raise TypeError(f'{where} has more than {ODD_KEYS} keys that are neither texts nor whole numbers: take '
                            'texts')
        yield tuple(parts) if isinstance(key, tuple) else parts[0]


def _versions(metadata: Any) -> OrderedDict:
    """Of the notes beside a state dict, the versions of the modules: all that is ever read of them."""
    return OrderedDict((k, {'version': v['version']}) for k, v in metadata.items()
                       if isinstance(k, str) and isinstance(v, dict) and type(v.get('version')) is int)


class Copies:
    """Copies nested tensors to the CPU, into the memory of the copy before wherever sizes are the same.

    Fresh memory costs several times what copying does. What is the same memory is copied once; what comes from a GPU
    goes into page-locked memory, all of it at once, and is there when the call returns.
    """

    def __init__(self) -> None:
        self.kept: list[Tensor] = []

    def __call__(self, x: Any) -> Any:
        """`x` with every tensor copied; a copy made before is overwritten."""
        before, self.kept, self._seen, self._gpus = iter(self.kept), [], {}, set()
        try:
            return self._copy(x, before)
        finally:
            self._seen = {}
            for gpu in self._gpus:
                torch.cuda.current_stream(gpu).synchronize()  # sync: a file is written from the copy

    def _copy(self, x: Any, before: Iterator[Tensor]) -> Any:
        if isinstance(x, (dict, list, tuple)) and not isinstance(x, torch.Size):
            return _rebuilt(x, lambda v: self._copy(v, before))
        if not isinstance(x, Tensor):
            return x
        if x.layout is not torch.strided or x.is_quantized:
            return x.detach().to('cpu', copy=True)
        view = x.untyped_storage()._cdata, x.storage_offset(), x.shape, x.stride(), x.dtype
        if view not in self._seen:
            own = next(before, None)
            if own is None or own.shape != x.shape or own.dtype != x.dtype or own.stride() != x.stride():
                own = torch.empty_like(x, device='cpu', requires_grad=False, pin_memory=x.is_cuda)
            self.kept.append(own)
            self._seen[view] = own.copy_(x.detach(), non_blocking=x.is_cuda)
            if x.is_cuda:
                self._gpus.add(x.device)
        return self._seen[view]


def _rebuilt(x: Any, change: Callable[[Any], Any]) -> Any:
    """A container like `x` of what `change` makes of its elements."""
    if isinstance(x, dict):
        kept = OrderedDict() if isinstance(x, OrderedDict) else {}
        kept.update((k, change(v)) for k, v in x.items())
        if hasattr(x, '_metadata'):
            kept._metadata = x._metadata
        return kept
    return type(x)([change(v) for v in x])


def copied(x: Any) -> Any:
    """`x` with every tensor in memory of its own on the CPU, as a training may keep it.

    Tensors that share memory do so afterwards: what a file says about its bytes can never make more of them.
    """
    storages: dict[int, torch.UntypedStorage] = {}

    def copy(x: Any) -> Any:
        if isinstance(x, (dict, list, tuple)) and not isinstance(x, torch.Size):
            return _rebuilt(x, copy)
        if not isinstance(x, Tensor):
            return x
        if is_share(x):
            return x.detach().clone()
        if x.layout is not torch.strided or x.is_quantized or x.is_conj() or x.is_neg():
            return x.detach().to('cpu', copy=True)
        storage = x.untyped_storage()
        if storage._cdata not in storages:
            storages[storage._cdata] = storage.clone() if storage.device.type == 'cpu' else storage.cpu()
        return torch.empty(0, dtype=x.dtype).set_(storages[storage._cdata], x.storage_offset(), x.shape, x.stride())
    return copy(x)


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
    if path.exists() and not path.is_file():
        # a device such as /dev/full would be replaced by a file
        kind = 'a folder' if path.is_dir() else 'no regular file'
        raise OSError(errno.EISDIR if path.is_dir() else errno.EINVAL, f'{path} is {kind}: choose another name')
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
        kept = 'The file there is the last good one, untouched. ' if path.exists() else ''
        raise OSError(error.errno, f'{path} could not be written: {error.strerror or error}. {kept}Way out: '
                                   f'{way_out_of(error)}') from error
    return None


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # the storage that failed to write may fail to delete; the first error is the one to tell
        return


# ---------------------------------------------------------------- reading

def read_tensors(path: str | Path | BinaryIO, old: bool = False) -> Any:
    """Read a tensor file after verifying all of it. What is no tensor file is refused; nothing in a file is ever run.

    The file is opened once. What was checked in its memory is what the tensors lie on.

    Args:
        path: the file, or an open binary stream.
        old: take files in the format of torch before 1.6 too, which have no checksums.

    Returns:
        What was written. The tensors lie on the CPU; those of a file are mapped from it, so copy what you keep.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: bytes are missing or changed.
        UnsafeFileError: it is another kind of file (a pickle, say), or claims what no honest file claims.
    """
    if not isinstance(path, (str, Path)):
        return _read(Path(str(getattr(path, 'name', 'the stream'))), bytearray(path.read()), old)
    path = Path(path)
    if (path / '.metadata').exists():
        raise UnsafeFileError(f'{path} is a sharded checkpoint of torch.distributed.checkpoint, whose .metadata is a '
                              'pickle, which can run code. If it is your own: torch.distributed.checkpoint.format_utils'
                              f'.dcp_to_torch_save({str(path)!r}, FILE) makes one file of it that can be read')
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, f'{path} is a folder: name a file in it')
    if path.exists() and not path.is_file():
        raise UnsafeFileError(f'{path} is no regular file')
    with open(path, 'rb') as stream:
        if os.fstat(stream.fileno()).st_size == 0:
            raise DamagedFileError(f'{path} is empty: take an older copy, or save it again')
        # pages are copied when they are written to: tensors may be changed in place, the file never is
        return _read(path, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY), old)


def _read(path: Path, data: Any, old: bool) -> Any:
    if not len(data):
        raise DamagedFileError(f'{path} is empty: take an older copy, or save it again')
    with memoryview(data) as view:
        if old and view[:len(_OLD_MAGIC)] == _OLD_MAGIC:
            found, spans, n_index = _old_index(path, bytes(view))
            swapped = False
        else:
            (start, end), spans, swapped = records_of(path, view)
            n_index = end - start
            if n_index > _INDEX_LIMIT:
                raise UnsafeFileError(f'{path}: its index has {n_index} bytes. {ASK}')
            found = Instructions(path, bytes(view[start:end])).follow()
    whole = torch.frombuffer(data, dtype=torch.uint8).untyped_storage()
    storage = partial(_storage, whole, spans, swapped != (sys.byteorder == 'big'))
    return Values(path, storage, n_index, len(data)).make(found)


def _storage(whole: torch.UntypedStorage, spans: dict[str, tuple[int, int]], swap: bool, key: str, n_bytes: int,
             dtype: torch.dtype) -> torch.UntypedStorage:
    """`n_bytes` of the record `key`, in place where they can be used as they lie there."""
    start, end = spans.get(key, (0, -1))
    if start + n_bytes > end:
        raise ValueError(f'the record {key!r:.50} is missing or smaller than the tensors that should be in it')
    if not n_bytes:
        return torch.UntypedStorage(0)
    found = whole[start:start + n_bytes]
    if swap or found.data_ptr() % dtype.itemsize:
        found = found.clone()
    if swap:
        found.byteswap(dtype)
    return found


_INDEX_LIMIT = 256 << 20
_OLD_MAGIC = b'\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.'


def _old_index(path: Path, data: bytes) -> tuple[Any, dict[str, tuple[int, int]], int]:
    """The contents of a file of torch before 1.6, where their records lie, and how long the index is.

    Such a file has pickles of a magic number, the version, the machine, the contents and the records' names; then each
    record behind its length.
    """
    index = Instructions(path, data)
    _, version, machine, found, names = (index.follow() for _ in range(5))
    if version != 1001 or not isinstance(machine, dict) or machine.get('little_endian') is not True:
        raise UnsafeFileError(f'{path} is of a version or a machine that is not known. {ASK}')
    at, spans = index.at, {}
    n_index = at
    for name in names if isinstance(names, list) else ():
        stored = index.storages.get(name) if isinstance(name, str) else None
        if stored is None or name in spans:
            raise UnsafeFileError(f'{path} holds a record that nothing in it uses. {ASK}')
        start, end = at + 8, at + 8 + stored.n * stored.kind.itemsize
        if end > len(data) or int.from_bytes(data[at:start], 'little') != stored.n:
            raise DamagedFileError(f'{path} is damaged or cut short: take an older copy, or save it again')
        spans[name], at = (start, end), end
    return found, spans, n_index


