"""Archives that may come from anybody: extracted into one folder and nowhere else, whole or not at all.

Nothing here rests on the filters of Python's `tarfile`, of which some releases can be led out of the folder (before
3.11.13, 3.12.11 and 3.13.4). Every member is written by ourselves, as a new file in folders that we made; links come
last, when nothing is written any more, and only those whose way, walked within the archive, stays in it.
"""
from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

__all__ = ['MAX_RATIO', 'disk_name', 'extract_archive', 'links_stay']

MAX_RATIO = 200
"""An archive that unpacks to more than a GiB and to more than this many times its own size is refused."""
_ALWAYS = 2 ** 30
_CHUNK = 2 ** 20
_LARGEST_HEADER = 2 ** 24
_ERRORS = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, gzip.BadGzipFile, struct.error, EOFError,
           NotImplementedError, RuntimeError, UnicodeError, OverflowError)
"""What damaged, encrypted or unknown archives raise."""


class _Member(NamedTuple):
    """One entry of an archive: `kind` is one of `stat`'s, 0 for a hard link; `target` is that of a link."""

    name: str
    kind: int
    size: int
    program: bool
    modified: float | None
    target: str
    source: Any


class _Tree:
    """The folder that grows, and what the archive has put there: `made` is path -> kind, in parts from the top."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.left, self.limit = folder, limit, limit
        self.made: dict[tuple[str, ...], int] = {}
        self.links: dict[tuple[str, ...], str] = {}

    def path(self, parts: tuple[str, ...]) -> Path:
        """Where it is on the disk."""
        return self.folder.joinpath(*parts)

    def take(self, n: int) -> None:
        """`n` bytes are about to be written.

        Raises:
            ValueError: they are more than such an archive may become.
        """
        self.left -= n
        if self.left < 0:
            raise ValueError(f'the archive unpacks to more than {self.limit:,} bytes, which is more than the disk has '
                             f'left, or {MAX_RATIO} times its size (minifast.data.archives.MAX_RATIO): '
                             'it was not extracted')

    def make_folder(self, parts: tuple[str, ...]) -> None:
        """The folder and those above it.

        Raises:
            ValueError: one of them is something else.
        """
        for n in range(1, len(parts) + 1):
            here = parts[:n]
            if here in self.links or self.made.get(here, stat.S_IFDIR) != stat.S_IFDIR:
                raise _refused('a member', '/'.join(parts), f'below {"/".join(here)!r}, which is no folder')
            if here not in self.made:
                _make(os.mkdir, self.path(here), '/'.join(parts))
                self.made[here] = stat.S_IFDIR

    def check_new(self, parts: tuple[str, ...], name: str, kind: int) -> None:
        """Refuse what would take the place of something else; a file may be there twice, the later one counts."""
        self.make_folder(parts[:-1])
        there = stat.S_IFLNK if parts in self.links else self.made.get(parts)
        if there is not None and not there == stat.S_IFREG == (kind or stat.S_IFREG):
            raise _refused('a member', name, 'twice, and not as a file both times')
        if self.made.pop(parts, None) is not None:
            self.path(parts).unlink()


def disk_name(name: str) -> str:
    """`name` as this system writes it on the disk: one without UTF-8 has the same bytes under other characters."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return os.fsdecode(name.encode('utf-8', 'surrogatepass'))
    return name


def _letters(name: str) -> str:
    return os.fsencode(name).decode('utf-8', 'surrogateescape')


_SPELLINGS = (_letters, str.casefold, lambda name: unicodedata.normalize('NFC', _letters(name)),
              lambda name: unicodedata.normalize('NFC', _letters(name)).casefold())
"""What disks may take for the same name."""


def _leaving(links: dict[tuple[str, ...], str]) -> tuple[str, ...] | None:
    """The first link that does not stay below the top, None if all do, whichever names the disk takes for the same."""
    for spelt in _SPELLINGS:
        known = {tuple(map(spelt, parts)): spelt(target) for parts, target in links.items()}
        for parts in links:
            if not _stays(tuple(map(spelt, parts)), known):
                return parts
    return None


def _stays(parts: tuple[str, ...], links: dict[tuple[str, ...], str]) -> bool:
    """Whether the link at `parts` ends below the top, walked step by step through all other links there are.

    Nothing is asked of the disk, so no length of a path and no order of extraction makes a difference.
    """
    at, todo, hops = list(parts[:-1]), [parts[-1]], 0
    while todo:
        step = todo.pop()
        if step in ('', '.'):
            continue
        if step == '..':
            if not at:
                return False
            at.pop()
            continue
        target = links.get((*at, step))
        if target is None:
            at.append(step)
            continue
        hops += 1
        if hops > 40 or target.startswith('/') or '\0' in target or (os.name == 'nt' and set(target) & set('\\:')):
            return False
        todo += target.split('/')[::-1]
    return True


def links_stay(folder: Path) -> bool:
    """Whether every link below `folder` ends below it, wherever the folder is moved to."""
    links = {}
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(parent, name)
            if path.is_symlink():
                links[path.relative_to(folder).parts] = os.readlink(path).replace(os.sep, '/')
    return _leaving(links) is None


def _refused(what: str, name: str, why: str) -> ValueError:
    return ValueError(f'the archive has {what} {name!r} {why}: it was not extracted')


def _make(func: Any, path: Path, name: str, *args: Any) -> Any:
    try:
        return func(path, *args)
    except FileExistsError as error:  # where the disk tells neither A from a nor one way of writing é from another
        raise _refused('a member', name, 'that hits the same file as another of its members') from error


def _parts(name: str, folder: Path) -> tuple[str, ...]:
    """A member's path below the folder, in names as this system has them.

    Raises:
        ValueError: it would lie elsewhere.
    """
    name = disk_name(name)
    for read in (name, name.replace('\\', '/')):  # as this system has it, and as Windows would
        steps = read.split('/')
        if read.startswith('/') or '..' in steps or ':' in steps[0] or '\0' in read:
            raise _refused('a member', name, f'which would be written outside of {folder}')
    return tuple(step for step in name.split('/') if step not in ('', '.'))


# ---------------------------------------------------------------- what is in the archive

class _Bounded:
    """A stream of which no header can ask for more memory than `_LARGEST_HEADER`; members are read in chunks."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def read(self, n: int = -1) -> bytes:
        if not 0 <= n <= _LARGEST_HEADER:
            raise tarfile.ReadError('it has a header of an impossible size')
        return self.file.read(n)


def _stream(archive: Path) -> Any:
    with open(archive, 'rb') as file:
        start = file.read(6)
    for magic, opened in ((b'\x1f\x8b', gzip.open), (b'BZh', bz2.open), (b'\xfd7zXZ\0', lzma.open)):
        if start.startswith(magic):
            return opened(archive)
    return open(archive, 'rb')


def _tar_members(tar: tarfile.TarFile) -> Iterator[_Member]:
    for info in tar:
        kind = (stat.S_IFREG if info.isfile() else stat.S_IFDIR if info.isdir() else stat.S_IFLNK if info.issym() else
                0 if info.islnk() else stat.S_IFIFO)
        yield _Member(info.name, kind, info.size if kind == stat.S_IFREG else 0, bool(info.mode & 0o100), info.mtime,
                      info.linkname, lambda info=info: tar.extractfile(info))


def _zip_members(zipped: zipfile.ZipFile) -> Iterator[_Member]:
    for info in zipped.infolist():
        mode = info.external_attr >> 16
        kind = stat.S_IFDIR if info.is_dir() else stat.S_IFMT(mode) or stat.S_IFREG
        target = ''
        if kind == stat.S_IFLNK:
            with zipped.open(info) as file:
                target = os.fsdecode(file.read(4096))
        yield _Member(info.filename, kind, info.file_size, bool(mode & 0o100), None, target,
                      lambda info=info: zipped.open(info))


# ---------------------------------------------------------------- writing it

def _copy(tree: _Tree, parts: tuple[str, ...], member: _Member) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, 'O_NOFOLLOW', 0) | getattr(os, 'O_BINARY', 0)
    # rights as for any file that is made here, no bit of the archive's but that of programs
    descriptor = _make(os.open, tree.path(parts), member.name, flags, 0o777 if member.program else 0o666)
    with open(descriptor, 'wb') as file, member.source() as source:
        while chunk := source.read(_CHUNK):
            tree.take(len(chunk))
            file.write(chunk)
        written = file.tell()
    if written != member.size:
        raise EOFError(f'{member.name!r} has {written:,} of {member.size:,} bytes')
    try:
        if member.modified is not None:
            os.utime(tree.path(parts), (member.modified, member.modified))
    except (OverflowError, ValueError, OSError):  # a time that the disk does not know
        pass


def _write(tree: _Tree, members: Iterator[_Member]) -> None:
    """Folders and files as they come; links are gathered."""
    for member in members:
        tree.take(4096)  # so that a great number of nothings has an end too
        parts = _parts(member.name, tree.folder)
        if member.kind == stat.S_IFDIR or not parts:
            tree.make_folder(parts)
            continue
        tree.check_new(parts, member.name, member.kind)
        if member.kind == stat.S_IFREG:
            _copy(tree, parts, member)
        elif member.kind == 0:
            source = _parts(member.target, tree.folder)
            if tree.made.get(source) != stat.S_IFREG:
                raise _refused('a link', member.name, f'to {member.target!r}, which is no file of it that came before')
            shutil.copy2(tree.path(source), tree.path(parts))  # a file of its own: changing one leaves the other
            tree.take(tree.path(parts).stat().st_size)
        elif member.kind == stat.S_IFLNK:
            tree.links[parts] = disk_name(member.target)
            continue
        else:
            raise _refused('a device or pipe', member.name, 'in it')
        tree.made[parts] = stat.S_IFREG


def _link(tree: _Tree) -> None:
    """Make the links, when all else is there."""
    out = _leaving(tree.links)
    if out is not None:
        raise _refused('a link', '/'.join(out), f'to {tree.links[out]!r}, outside of {tree.folder}')
    for parts, target in tree.links.items():
        _make(lambda path, to: os.symlink(to, path), tree.path(parts), '/'.join(parts), target)


def extract_archive(archive: str | Path, folder: str | Path) -> Path:
    """Extract `archive`, a .tar(.gz|.bz2|.xz), .tgz or .zip, into the empty or new `folder`, and nowhere else.

    Links stay links where their way ends within the folder; hard links become files of their own.

    Raises:
        ValueError: a member or link leads outside or takes another's place, there is a device or pipe, the archive
            unpacks to more than it should, its format is not known, it is damaged (nothing stays in `folder` then), or
            `folder` holds something already.
        OSError: the disk failed; nothing stays either.
    """
    archive, folder = Path(archive), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ValueError(f'{folder} is not empty: name a new folder, so that nothing of yours is mixed up or replaced')
    try:
        limit = min(shutil.disk_usage(folder).free, max(_ALWAYS, MAX_RATIO * archive.stat().st_size))
        tree = _Tree(folder, limit)
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                _write(tree, _zip_members(zipped))
        else:
            with _stream(archive) as stream:
                _write_tar(tree, archive, stream)
        _link(tree)
    except _ERRORS as e:
        shutil.rmtree(folder, ignore_errors=True)
        raise ValueError(f'{archive} could not be extracted ({e}): nothing was kept of it') from e
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _write_tar(tree: _Tree, archive: Path, stream: BinaryIO) -> None:
    try:
        tar = tarfile.open(fileobj=_Bounded(stream), mode='r:')
    except tarfile.ReadError as e:
        raise ValueError(f'{archive} is neither a tar nor a zip archive ({e}): delete it and fetch it again') from e
    with tar:
        _write(tree, _tar_members(tar))
    while chunk := stream.read(_CHUNK):  # the checksum of a compressed stream is behind its last byte
        tree.take(len(chunk))
