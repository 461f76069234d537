"""The folder of a run: who is using it, which of its files are whose, and moving aside what another run has written."""
from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

from minifast.hardware import is_running
from minifast.tensorfile import way_out_of

if os.name == 'posix':
    import fcntl
else:
    import msvcrt

__all__ = ['FolderInUseError', 'RunFolder', 'checkpoints_in', 'shares_of']

_NAME = re.compile(r'checkpoint-(\d+)\.pth')
_OURS = re.compile(r'checkpoint-\d+\.pth|checkpoint-\d+-shares|run-[0-9a-f]+\.jsonl|items-[0-9a-f]+\.json')
_TEMPORARY = re.compile(rf'\.({_OURS.pattern})\..+\.tmp')
LOCK = '.in-use'


class FolderInUseError(RuntimeError):
    """Another training is writing its checkpoints into the folder."""


def as_folder(path: Any) -> Path:
    """`path`, which a user gave as a folder's name.

    Raises:
        TypeError: it is none: `fit(checkpoint=True)`, or a callback that is made already.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f'{path!r} is no folder: give the name of one; a callback that is made already goes into cbs=')
    return Path(path)


def checkpoints_in(folder: str | Path) -> list[Path]:
    """The checkpoints in `folder`, the newest first."""
    found = [(int(match[1]), path) for path in Path(folder).glob('checkpoint-*.pth')
             if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def shares_of(checkpoint: Path) -> Path:
    """Where the tensors of the file `checkpoint` lie of which each process has written its part."""
    return checkpoint.with_name(f'{checkpoint.stem}-shares')


def _number(name: str) -> int:
    return int(_NAME.fullmatch(name)[1])


_LINES = 1000


def _list_name(run: str) -> str:
    return f'run-{run}.jsonl'


def _line(name: str, fit: int) -> str:
    return json.dumps([name, fit]) + '\n'


_held: dict[str, int] = {}
"""Folders that a training of this process uses -> the process, which a fork's child is not."""
_registering = threading.Lock()


class RunFolder:
    """A folder that one training at a time writes into.

    The lock is the operating system's and dies with the process, however that ends; it is not handed on to forked
    children. Where the file system is shared by machines, and locks with it may not be, the note in the lock file
    counts too.

    Args:
        path: the folder; made by `take`.

    Attributes:
        path: the folder.
        run: the identifier of the run whose files are written.
        files: the run's checkpoints that may be deleted by it: name -> the number of the fit they belong to.
    """

    def __init__(self, path: str | Path) -> None:
        self.path, self.run, self.files = as_folder(path), secrets.token_hex(6), {}
        self._appended: int | None = None  # lines since the list was last written whole; None: it was not
        self._lock: int | None = None
        self._pid, self._key = 0, ''

    # ------------------------------------------------------------ using it

    def take(self) -> None:
        """Make the folder, if need be, and lock it.

        Raises:
            FolderInUseError: another training uses it.
            OSError: it cannot be written to; the message names it and the way out.
        """
        if self._lock is not None and self._pid == os.getpid():
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._key = os.path.realpath(self.path)
            with _registering:
                if _held.get(self._key) == os.getpid():
                    raise FolderInUseError(f'{self.path} is in use by another training of this process: give each '
                                           'training a folder of its own, or end the other one first')
                # opened only behind the look at `_held`: closing the file again would give the lock away
                self._lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
                self._pid = os.getpid()
                self._lock_file()
                _held[self._key] = self._pid
        except OSError as error:
            taken = error.errno in (errno.EEXIST, errno.ENOTDIR)
            way_out = 'a file has this name: choose another folder' if taken else way_out_of(error)
            raise type(error)(error.errno, f'no checkpoint can be written to {self.path}: {error.strerror or error}. '
                                           f'Way out: {way_out}') from error

    def _lock_file(self) -> None:
        handle, self._lock = self._lock, None
        try:
            locked, note = _lock(handle), _note(handle)
            if not locked and (locked is False or _lives(note)):
                self._refuse(note)
            if note.get('host', _host()) != _host() and _shared_by_machines(self.path):
                self._refuse(note, elsewhere=True)
            os.ftruncate(handle, 0)
            text = {'process': os.getpid(), 'host': _host(), 'since': time.strftime('%Y-%m-%d %H:%M:%S'),
                    'script': os.path.basename(sys.argv[0] or 'python')}
            os.pwrite(handle, json.dumps(text).encode(), 0) if hasattr(os, 'pwrite') else None
        except BaseException:
            os.close(handle)
            raise
        self._lock = handle

    def _refuse(self, note: dict[str, Any], elsewhere: bool = False) -> NoReturn:
        who = (f'process {note.get("process", "?")} ({note.get("script", "?")}) on {note.get("host", "?")} since '
               f'{note.get("since", "?")}')
        gone = f', or, if that process is gone, delete {self.path / LOCK}' if elsewhere else ''
        raise FolderInUseError(f'{self.path} is in use by {who}: wait for it, end it{gone}, or name another folder: '
                               'each training needs one of its own')

    def release(self) -> None:
        """Let others use the folder; in a forked child, which never had it, nothing."""
        handle, self._lock = self._lock, None
        if handle is None or os.getpid() != self._pid:
            return
        try:
            os.ftruncate(handle, 0)
        except OSError:  # the storage is gone; the lock goes with the file
            pass
        with _registering:
            _held.pop(self._key, None)
            os.close(handle)

    # ------------------------------------------------------------ what is in it

    def next_number(self) -> int:
        """The number of the next checkpoint: higher than all that are there, those that were moved aside included."""
        folders = [self.path, *self.moved_aside()]
        return 1 + max((_number(path.name) for folder in folders for path in checkpoints_in(folder)), default=0)

    def sweep(self) -> None:
        """Delete what killed trainings left half written. The folder is locked: nobody is writing these now."""
        for path in self.path.glob('.*.tmp'):
            if _TEMPORARY.fullmatch(path.name):
                path.unlink(missing_ok=True)
        whole = {shares_of(file) for file in checkpoints_in(self.path)}
        for path in self.path.glob('checkpoint-*-shares'):
            if _OURS.fullmatch(path.name) and path not in whole:
                shutil.rmtree(path, ignore_errors=True)

    def move_aside(self) -> Path | None:
        """Move the files of earlier runs into a new subfolder; returns it, None where there are none."""
        if not checkpoints_in(self.path):
            return None
        n = 1
        while True:
            target = self.path / f'earlier-{n:03d}'
            try:
                target.mkdir()
                break
            except FileExistsError:
                n += 1
        self._move(self.path, target)
        return target

    def moved_aside(self) -> list[Path]:
        """The subfolders that `move_aside` has made, the newest first."""
        return sorted((path for path in self.path.glob('earlier-*') if path.is_dir()), reverse=True)

    def bring_back(self, earlier: Path) -> None:
        """Go on with the files in the subfolder `earlier`; those here go aside, so that no number is there twice."""
        self.move_aside()
        self._move(earlier, self.path)
        try:
            earlier.rmdir()
        except OSError:  # something else is in it
            return

    @staticmethod
    def _move(source: Path, target: Path) -> None:
        # the list of a run goes last: while it is not there, nothing of the run is deleted
        for path in sorted(path for path in source.iterdir() if _OURS.fullmatch(path.name)):
            path.rename(target / path.name)

    def own(self, name: str, fit: int) -> None:
        """Note that checkpoint `name` of fit number `fit` is about to be written by this run.

        The list of the run has one line a checkpoint. It is written whole from time to time and appended to between;
        a line that a kill cut short is of a checkpoint that was not begun.

        Raises:
            OSError: the storage failed.
        """
        self.files[name] = fit
        if self._appended is None or self._appended >= _LINES or not self._append(_list_name(self.run), name, fit):
            self._appended = None
            self.write(_list_name(self.run), ''.join(_line(*file) for file in self.files.items()))
            self._appended = 0

    def _append(self, to: str, name: str, fit: int) -> bool:
        """Add a line to the list; False where that failed, and the list is to be written whole."""
        try:
            handle = os.open(self.path / to, os.O_WRONLY | os.O_APPEND)
            try:
                line = _line(name, fit).encode()
                done = os.write(handle, line) == len(line)
            finally:
                os.close(handle)
        except OSError:
            return False
        self._appended += 1
        return done

    def retire(self, keep: int, fit: int) -> None:
        """Delete what this run has written but its newest `keep` checkpoints and the last of each fit but `fit`."""
        in_order = sorted(self.files, key=_number)
        last = {self.files[name]: name for name in in_order}
        for name in in_order[:-keep]:
            if self.files[name] == fit or last[self.files[name]] != name:
                (self.path / name).unlink(missing_ok=True)
                shutil.rmtree(shares_of(self.path / name), ignore_errors=True)
                del self.files[name]

    def leave_alone(self, fit: int) -> None:
        """Delete none of the checkpoints that fit number `fit` has written so far."""
        self.files, self._appended = {name: of for name, of in self.files.items() if of != fit}, None

    def adopt(self, run: str) -> None:
        """Go on with the files of `run`, as its list in the folder tells them."""
        self.run, self.files, self._appended = run, self.files_of(run), None

    def files_of(self, run: str) -> dict[str, int]:
        """The checkpoints of the run `run` that are still there, oldest first: name -> number of the fit."""
        files: dict[str, int] = {}
        for line in (self.read(_list_name(run)) or '').splitlines():
            try:
                name, fit = json.loads(line)
            except (ValueError, TypeError):
                continue
            if isinstance(name, str) and _NAME.fullmatch(name) and type(fit) is int:
                files[name] = fit
        return {name: files[name] for name in sorted(files, key=_number) if (self.path / name).is_file()}

    def read(self, name: str) -> str | None:
        """The text of the file `name` of the folder, None where it cannot be read."""
        try:
            return (self.path / name).read_text(encoding='utf-8', errors='surrogateescape')
        except (OSError, ValueError):
            return None

    def write(self, name: str, text: str) -> None:
        """Write `text` as the file `name` of the folder, in one move.

        Raises:
            OSError: the storage failed; the message names file, cause and way out.
        """
        temporary = self.path / f'.{name}.{os.getpid()}-{secrets.token_hex(4)}.tmp'
        try:
            temporary.write_text(text, encoding='utf-8', errors='surrogateescape')
            os.replace(temporary, self.path / name)
        except OSError as error:
            raise OSError(error.errno, f'{self.path / name} could not be written: {error.strerror or error}. Way out: '
                                       f'{way_out_of(error)}') from error


# ---------------------------------------------------------------- the operating system

def _host() -> str:
    return socket.gethostname()


def _lock(handle: int) -> bool | None:
    """Lock a file for this process alone, children excluded.

    Returns:
        False: another process has it; None: the file system knows no locks.
    """
    try:
        if os.name == 'posix':
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            os.lseek(handle, 1 << 20, os.SEEK_SET)  # apart from the note, which others may read
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            raise
        return None
    return True


def _lives(note: dict[str, Any]) -> bool:
    """Whether the process of a note is still there, where it is one of this machine."""
    if note.get('host') != _host() or note.get('process') in (None, os.getpid()):
        return False
    return is_running(note['process'])


def _note(handle: int) -> dict[str, Any]:
    """What the one who has the folder wrote about itself."""
    try:
        os.lseek(handle, 0, os.SEEK_SET)
        found = json.loads(os.read(handle, 4096) or b'{}')
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


_network = ('nfs', 'cifs', 'smb', 'fuse', 'lustre', 'beegfs', 'gpfs', 'ceph', '9p', 'afs', 'glusterfs', 'ocfs2', 'gfs2')


def _shared_by_machines(path: Path) -> bool:
    """Whether a folder lies on a network file system, as far as the system tells."""
    try:
        mounts = Path('/proc/self/mounts').read_text(errors='surrogateescape').splitlines()
    except OSError:
        return False
    real = os.path.realpath(path) + '/'
    on = max((line.split()[1:3] for line in mounts if len(line.split()) > 2
              and real.startswith(line.split()[1].rstrip('/') + '/')), key=lambda m: len(m[0]), default=['', ''])
    return on[1].startswith(_network)
