"""Pictures that were decoded and resized once, kept in files that later epochs map into memory."""
from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import mmap
import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import get_worker_info

from minifast import __version__
from minifast.codetext import code_digest
from minifast.data.config import transform_config
from minifast.data.transform import Pipeline, RandTransform, is_known
from minifast.distributed import num_distrib
from minifast.hardware import crc32, is_running
from minifast.terminal import warn

__all__ = ['OpenedPictures', 'PictureCache', 'fixed_transforms']

_MAGIC = b'minifast picture 2'
_SEAL = struct.Struct('<18sI')
"""Magic and the CRC-32 of all that follows."""
_FIELDS = struct.Struct('<qQqqBIII')
"""What `_source` says of the file, whether channels come first, height, width, channels (0: none)."""
_START = 128
"""Where the pixels begin, aligned for vector code."""


def _source(status: os.stat_result) -> list[int]:
    """What tells that a file is the one it was.

    Size and time of writing are what tools restore; the time of change of the inode (`ctime`) moves with every write
    and rename and cannot be set, the inode's number tells files apart where a rename leaves that time alone.
    """
    return [status.st_size, status.st_ino % 2 ** 64, status.st_mtime_ns, status.st_ctime_ns]


class PictureCache:
    """A folder of pictures as they are after opening and resizing: one file a picture, mapped into memory when read.

    An entry holds a checksum and the size, the times of writing and of change, and the inode of the file it was made
    from, and is written under another name and renamed: one of a file that was changed, or that a kill or a full disk
    cut off, is made again. So is one of a file that was only copied or given other rights: making it once more is
    cheaper than training on a wrong picture. Any number of processes may share the folder. Once it is full nothing more
    is added, which for passes over the same pictures is the best that can be done.

    Args:
        folder: where; made when the first picture is kept. Delete it to get rid of the cache.
        gb: how much it may hold, in 10^9 bytes.
        resized: keep pictures as they are after the first item transforms, as far as those draw nothing; False: as
            they are in their files.
    """

    def __init__(self, folder: str | Path, gb: float = 20., resized: bool = True) -> None:
        self.folder, self.gb, self.resized = Path(folder), gb, resized

    def __repr__(self) -> str:
        return f'PictureCache({str(self.folder)!r}, gb={self.gb:g}, resized={self.resized})'

    def entry(self, file: str | Path, key: str) -> Path:
        """Where a picture made from `file` in the way that `key` describes is kept."""
        named = key.encode() + b'\0' + os.fsencode(os.path.abspath(file))  # a name need not be UTF-8
        digest = hashlib.blake2b(named, digest_size=16).hexdigest()
        return Path(self.folder, digest[:2], digest[2:])

    def find(self, file: str | Path, key: str, status: os.stat_result) -> np.ndarray | None:
        """The picture that `key` describes, made from `file` when it had that `status`, uint8 [H,W] or [H,W,C]; None
        where there is none."""
        try:
            with open(self.entry(file, key), 'rb', buffering=0) as held:
                mapped = mmap.mmap(held.fileno(), 0, access=mmap.ACCESS_COPY)
        except (OSError, ValueError):  # none, or an empty one
            return None
        if len(mapped) < _START:
            return None
        magic, crc = _SEAL.unpack_from(mapped)
        *source, planes, height, width, channels = _FIELDS.unpack_from(mapped, _SEAL.size)
        n = height * width * (channels or 1)
        if magic != _MAGIC or source != _source(status) or len(mapped) != _START + n:
            return None
        if crc32(memoryview(mapped)[_SEAL.size:]) != crc:
            return None
        pixels = np.frombuffer(mapped, np.uint8, n, _START)
        if not channels:
            return pixels.reshape(height, width)
        return (pixels.reshape(channels, height, width).transpose(1, 2, 0) if planes
                else pixels.reshape(height, width, channels))

    def keep(self, file: str | Path, key: str, pixels: np.ndarray, status: os.stat_result) -> None:
        """Keep `pixels`, as `find` gives them for `file`, `key` and `status`, if there is room.

        A storage that fails is told in a warning, and nothing more is kept.
        """
        planes = pixels.ndim == 3 and pixels.transpose(2, 0, 1).flags.c_contiguous
        flat = np.ascontiguousarray(pixels.transpose(2, 0, 1) if planes else pixels).reshape(-1)
        if not self._take(_START + flat.nbytes):
            return
        height, width, channels = (*pixels.shape, 0)[:3]
        fields = _FIELDS.pack(*_source(status), planes, height, width, channels)
        fields = fields.ljust(_START - _SEAL.size, b'\0')
        entry = self.entry(file, key)
        written = entry.with_name(f'{entry.name}.{os.getpid()}-{threading.get_ident()}.tmp')
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
            with open(written, 'wb', buffering=0) as held:
                held.write(_SEAL.pack(_MAGIC, crc32(flat, crc32(fields))) + fields)
                held.write(flat)
            os.replace(written, entry)
        except OSError as error:
            with contextlib.suppress(OSError):
                written.unlink()
            _rooms[self._writer] = 0
            warn(f'{error}: from here on pictures are decoded and not kept')

    def _take(self, n: int) -> bool:
        """Whether there is room for `n` bytes, which then are taken."""
        with _lock:
            room = _rooms.get(self._writer)
            if room is None:
                worker = get_worker_info()
                writers = (1 if worker is None else worker.num_workers) * max(num_distrib(), 1)
                room = max(int(self.gb * 1e9) - self._tidy(), 0) // writers
            elif room == 0:
                return False
            _rooms[self._writer] = room - n if room >= n else 0
        if room < n:
            warn(f'{self.folder} is full ({self.gb:g} GB): the pictures that are not in it are decoded each time. '
                 'Delete it, or give it more: cache=PictureCache(FOLDER, gb=...)')
        return room >= n

    @property
    def _writer(self) -> tuple[int, str]:
        return os.getpid(), os.path.abspath(self.folder)

    def _tidy(self) -> int:
        """How many bytes are in use; what killed processes have left is deleted."""
        used = 0
        for entry in self.folder.glob('??/*'):
            try:
                if entry.suffix != '.tmp' or _running(entry):
                    used += entry.stat().st_size
                else:
                    entry.unlink()
            except OSError:  # another process was quicker
                continue
        return used


_lock = threading.Lock()
_rooms: dict[tuple[int, str], int] = {}
"""Bytes that a process may still write into a folder."""


def _running(written: Path) -> bool:
    """Whether the process that writes this file may still be at it; this one has written nothing when it asks."""
    try:
        pid = int(written.suffixes[-2][1:].split('-')[0])
    except (ValueError, IndexError):
        return False
    return pid != os.getpid() and is_running(pid)


# ---------------------------------------------------------------- the way from a file to its pixels, as a key

@functools.cache
def _decoders() -> dict[str, str]:
    """The versions of what decodes and resizes, and a digest of our own code around it."""
    found = {'torch': str(torch.__version__), 'minifast': __version__}
    for name in ('Pillow', 'simplejpeg', 'opencv-python-headless', 'opencv-python'):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    ours, digest = Path(__file__).parent.parent, hashlib.blake2b(digest_size=16)
    for file in sorted([*ours.glob('vision/*.py'), *ours.glob('data/*.py')]):
        digest.update(file.name.encode() + b'\0' + file.read_bytes())
    return {**found, 'code': digest.hexdigest()}


def fixed_transforms(pipeline: Pipeline) -> list[Any]:
    """The first transforms of `pipeline`, as far as they are ours and do the same to a picture each time."""
    fixed = []
    for f in pipeline.fs:
        if not (isinstance(f, RandTransform) and is_known(f)) or f.draws(pipeline.split_idx):
            break
        fixed.append(f)
    return fixed


class OpenedPictures:
    """A cache as one loader uses it.

    Args:
        cache: where pictures are kept.
        after_item: the loader's item transforms.

    Attributes:
        rest: the item transforms that are still to be applied to a sample.
    """

    def __init__(self, cache: PictureCache, after_item: Any) -> None:
        self.cache, self.rest = cache, after_item
        self.steps = Pipeline(split_idx=getattr(after_item, 'split_idx', None))
        if isinstance(after_item, Pipeline) and cache.resized:
            fixed = fixed_transforms(after_item)
            self.steps.fs += fixed
            self.rest = Pipeline(split_idx=after_item.split_idx, as_item=after_item.as_item)
            self.rest.fs += list(after_item.fs)[len(fixed):]
        self.key = json.dumps([_decoders(), self.steps.split_idx if len(self.steps) else None,
                               *map(transform_config, self.steps)])
        self._keys: dict[type, str] = {}  # the whole key of each class that opens, worked out once a pass

    def open(self, file: str | Path, create: Callable[..., Any], wrap: Callable[..., Any]) -> Any:
        """The picture in `file` after the transforms that draw nothing.

        Args:
            create: opens it.
            wrap: makes of its pixels what `create` returns.
        """
        opener = create.__self__
        key = self._keys.get(opener)
        if key is None:
            key = self._keys[opener] = f'{opener.__module__}.{opener.__qualname__} {code_digest(opener)} {self.key}'
        try:
            status = os.stat(file)  # before it is read: it may change meanwhile
        except OSError:
            create(file)  # which says what is wrong
            raise
        pixels = self.cache.find(file, key, status)
        if pixels is None:
            # what they draw has no effect; it must not come from the global generator, which others draw from
            made = self.steps(create(file), generator=torch.Generator())
            if made.mode not in ('RGB', 'L'):
                made.after_steps = True
                return made
            pixels = np.array(made)  # of its own and writable, as what is mapped
            self.cache.keep(file, key, pixels, status)
        made = wrap(pixels)
        made.after_steps = True
        return made

    def check(self, sample: Any) -> None:
        """Refuse a `sample` of which a part would miss the transforms that others come out of the cache with.

        Raises:
            TypeError: it has one.
        """
        for part in sample if isinstance(sample, tuple) else (sample,):
            if not hasattr(part, 'after_steps') and any(isinstance(part, f.supports) for f in self.steps):
                raise TypeError(f'{self.cache!r} keeps pictures that ImageBlock or MaskBlock opened, after '
                                f'{self.steps.name}; this sample also has a {type(part).__name__}, which those '
                                'transforms have to see: give cache=PictureCache(FOLDER, resized=False)')
