"""What a training runs on, for exports, checkpoints and bug reports: versions, device, precision, git revision."""
from __future__ import annotations

import os
import platform
import re
import stat
import sys
from pathlib import Path
from typing import Any

import torch

from minifast import __version__

__all__ = ['environment', 'git_revision']


def environment(learn: Any = None) -> dict[str, Any]:
    """What a training ran on: versions, git revision of the script; device and precision where `learn` is given."""
    env = {'minifast': __version__, 'torch': str(torch.__version__), 'python': platform.python_version(),
           'platform': platform.platform(), 'script': Path(sys.argv[0]).name,
           'git': git_revision(os.path.dirname(os.path.realpath(sys.argv[0])) if sys.argv[0] else '.')}
    if learn is not None:
        first = next(learn.model.parameters(), None)
        env['device'] = str(first.device) if first is not None else 'cpu'
        precision = vars(learn).get('mixed_precision')
        env['precision'] = 'float32' if precision is None else f'mixed ({getattr(precision, "amp_mode", "")})'
    return env


# ---------------------------------------------------------------- git, read from its files: nothing of it is started

_HASH = re.compile(rb'[0-9a-f]{40}|[0-9a-f]{64}')
_REF = re.compile(rb'refs(/(?!\.)[^\x00-\x20\x7f~^:?*\[\\/]+(?<!\.lock)(?<!\.))+')
"""The name of a ref as git checks it; `..` and `@{` are looked for beside."""
_OF_A_TREE = (b'refs/bisect/', b'refs/worktree/', b'refs/rewritten/')
"""Refs that each working tree has of its own."""
_LINE, _PACKED = 1 << 12, 1 << 26


def git_revision(folder: str | Path = '.') -> str | None:
    """The commit that is checked out around `folder`; None where none is, or what is there cannot be made out.

    A folder may have come from elsewhere, its `.git` with it: refs are read inside of git's own folder only, no link
    leads out of it, and nothing but the hexadecimal digits of a hash is ever returned.
    """
    try:
        folder = os.path.realpath(os.fsencode(folder))
        while not os.path.lexists(os.path.join(folder, b'.git')) or (git := _git_folder(folder)) is None:
            if folder == os.path.dirname(folder):
                return None
            folder = os.path.dirname(folder)
        return _commit(git)
    except (OSError, ValueError, RuntimeError):  # unreadable, a name that is none, a loop of links
        return None


def _git_folder(folder: bytes) -> bytes | None:
    """The folder of git's that belongs to a working tree, None if what is called `.git` is none."""
    git = os.path.join(folder, b'.git')
    if os.path.isfile(git):  # of a further working tree or a submodule: says where its own is
        told = _read(git, _LINE) or b''
        if not told.startswith(b'gitdir: '):
            return None
        git = os.path.join(folder, told.removeprefix(b'gitdir: ').rstrip(b'\r\n'))
    git = os.path.realpath(git)
    return git if os.path.isfile(os.path.join(git, b'HEAD')) else None


def _commit(git: bytes) -> str | None:
    shared = git
    if (told := _read_inside(git, b'commondir', _LINE)) is not None:
        shared = os.path.realpath(os.path.join(git, told.rstrip(b'\r\n')))
        if os.path.commonpath([shared, git]) != shared:  # a working tree's folder lies in that of its repository
            return None
    said = _read_inside(git, b'HEAD', _LINE)
    for _ in range(5):  # as many names of names as git follows
        if said is None or not said.startswith(b'ref:'):
            break
        name = said.removeprefix(b'ref:').strip()
        if not _REF.fullmatch(name) or b'..' in name or b'@{' in name:
            return None
        home = git if name.startswith(_OF_A_TREE) else shared
        said = _read_inside(home, name, _LINE)
        if said is None:
            said = _packed(shared, name)
    said = (said or b'').strip().lower()
    return said.decode() if _HASH.fullmatch(said) else None


def _packed(shared: bytes, name: bytes) -> bytes | None:
    lines = (_read_inside(shared, b'packed-refs', _PACKED) or b'').splitlines()
    return next((words[0] for line in lines if len(words := line.split(b' ')) == 2 and words[1] == name), None)


def _read_inside(git: bytes, name: bytes, limit: int) -> bytes | None:
    """What a file of git's holds, None if there is none, or it is a link to somewhere else."""
    path = os.path.realpath(os.path.join(git, name))
    return _read(path, limit) if os.path.commonpath([path, git]) == git else None


def _read(path: bytes, limit: int) -> bytes | None:
    """A regular file of at most `limit` bytes; a pipe would keep us waiting, a device may do anything."""
    if not os.path.isfile(path):
        return None
    with open(os.open(path, os.O_RDONLY | getattr(os, 'O_NONBLOCK', 0) | getattr(os, 'O_BINARY', 0)), 'rb') as file:
        status = os.fstat(file.fileno())
        return file.read(limit) if stat.S_ISREG(status.st_mode) and status.st_size <= limit else None
