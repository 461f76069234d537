"""The folder of a run: who is using it, which files are whose, and what is moved aside, swept up or left alone."""
from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import socket
import sys
from pathlib import Path

import pytest

from minifast.run import folder as room
from minifast.run.folder import LOCK, FolderInUseError, RunFolder, as_folder, checkpoints_in, shares_of


def name(n):
    return f'checkpoint-{n:06d}.pth'


def touch(folder, *names):
    """Empty files, or folders where a name ends with a slash."""
    folder.mkdir(parents=True, exist_ok=True)
    for one in names:
        (folder / one).mkdir() if one.endswith('/') else (folder / one).write_text(one)
    return folder


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def own(folder, *files):
    """Checkpoints (number, fit) written by a run."""
    for n, fit in files:
        folder.own(name(n), fit)
        touch(folder.path, name(n))


def handles():
    """The files that this process has open, by number."""
    found = []
    for n in range(256):
        with contextlib.suppress(OSError):
            os.fstat(n), found.append(n)
    return found


@pytest.fixture
def using(tmp_path):
    """Folders that are in use, until the test is over."""
    made = []

    def use(path=tmp_path / 'c'):
        made.append(RunFolder(path))
        made[-1].take()
        return made[-1]
    yield use
    for folder in made:
        folder.release()


# ---------------------------------------------------------------- names

@pytest.mark.parametrize('path', [True, 3, None, ['a'], b'a'])
def test_what_is_no_folder_is_told_with_the_way_out(path):
    """Where a callback was given, or True."""
    with pytest.raises(TypeError, match=f'{re.escape(repr(path))} is no folder: give the name of one; .* into cbs='):
        as_folder(path)
    assert as_folder('a') == as_folder(Path('a')) == Path('a') == RunFolder('a').path


def test_checkpoints_are_in_the_order_of_their_numbers(tmp_path):
    """The newest first, however many digits; nothing else is one."""
    touch(tmp_path, 'checkpoint-9.pth', 'checkpoint-000010.pth', 'checkpoint-2.pth', 'checkpoint-x.pth',
          'checkpoint-.pth', 'xcheckpoint-1.pth', 'checkpoint-1.pth.old', 'checkpoint-1-shares/', '.checkpoint-3.pth')
    assert [path.name for path in checkpoints_in(str(tmp_path))] == [
        'checkpoint-000010.pth', 'checkpoint-9.pth', 'checkpoint-2.pth']
    assert checkpoints_in(tmp_path / 'none') == []
    assert shares_of(tmp_path / 'checkpoint-000010.pth') == tmp_path / 'checkpoint-000010-shares'


def test_a_number_is_used_once(tmp_path):
    """Those of files that were moved aside too."""
    folder = RunFolder(tmp_path)
    assert folder.next_number() == 1
    touch(tmp_path, name(4))
    assert folder.next_number() == 5
    touch(tmp_path / 'earlier-001', name(7)), touch(tmp_path / 'later', name(9))
    assert folder.next_number() == 8


# ---------------------------------------------------------------- files of several runs

def test_what_killed_trainings_left_is_swept_up_and_nothing_else(tmp_path):
    """Files half written, and tensors of a checkpoint whose own file is not there."""
    half = [f'.{one}.12-ab.tmp' for one in (name(1), 'run-0a.jsonl', 'items-0a.json')]
    kept = ['.other.12-ab.tmp', f'.{name(2)}.tmp', name(3), 'a.tmp', 'run-0a.jsonl', '.run-xy.jsonl.1.tmp']
    touch(tmp_path, *half, *kept, 'checkpoint-000003-shares/', 'checkpoint-000004-shares/', 'checkpoint-x-shares/')
    touch(tmp_path / 'checkpoint-000004-shares', '0', '1')
    RunFolder(tmp_path).sweep()
    assert names_in(tmp_path) == sorted([*kept, 'checkpoint-000003-shares', 'checkpoint-x-shares'])


def test_files_of_a_run_are_moved_aside_together_and_the_rest_stays(tmp_path):
    """Each time into a new folder; nothing to move, no folder."""
    folder, theirs = RunFolder(tmp_path), ['checkpoint-x.pth', 'notes.txt', 'run.jsonl']
    touch(tmp_path, 'run-0a.jsonl', *theirs)
    assert folder.move_aside() is None and folder.moved_aside() == []
    ours = [name(1), 'items-0b.json', 'run-0a.jsonl']
    touch(tmp_path, *ours[:2], 'checkpoint-000001-shares/')
    touch(tmp_path, 'earlier-000')
    assert folder.move_aside() == tmp_path / 'earlier-001'
    touch(tmp_path, name(2))
    assert folder.move_aside() == tmp_path / 'earlier-002'
    assert names_in(tmp_path / 'earlier-001') == sorted([*ours, 'checkpoint-000001-shares'])
    assert names_in(tmp_path / 'earlier-002') == [name(2)]
    assert names_in(tmp_path) == sorted([*theirs, 'earlier-000', 'earlier-001', 'earlier-002'])
    assert [path.name for path in folder.moved_aside()] == ['earlier-002', 'earlier-001']  # no file
    touch(tmp_path, name(3))
    folder.bring_back(tmp_path / 'earlier-001')
    assert names_in(tmp_path) == sorted([*theirs, *ours, 'checkpoint-000001-shares', 'earlier-000', 'earlier-002',
                                         'earlier-003'])
    assert names_in(tmp_path / 'earlier-003') == [name(3)]
    touch(tmp_path / 'earlier-003', 'mine')
    folder.bring_back(tmp_path / 'earlier-003')
    assert names_in(tmp_path / 'earlier-003') == ['mine'] and (tmp_path / name(3)).exists()


def test_the_list_of_a_run_is_moved_last(tmp_path, monkeypatch):
    """While it is not there, nothing of the run is deleted."""
    moved, rename = [], Path.rename
    monkeypatch.setattr(Path, 'rename', lambda self, to: (moved.append(self.name), rename(self, to)))
    touch(tmp_path, 'run-0a.jsonl', 'items-0a.json', name(1))
    RunFolder(tmp_path).move_aside()
    assert moved == [name(1), 'items-0a.json', 'run-0a.jsonl']


def test_a_run_knows_its_checkpoints_by_its_list(tmp_path):
    """Those that are there, oldest first; lines that are none are passed over, and the last of a name counts."""
    folder = RunFolder(tmp_path)
    own(folder, (10, 1), (9, 0))
    lines = ['[1]', '{', '3', '["checkpoint-x.pth", 0]', '[3, 0]', f'["{name(9)}", "0"]', f'["{name(9)}", true]',
             f'["{name(8)}", 0]', f'["{name(9)}", 2]', 'null', f'["{name(10)}", 1, 2]', '"ab"']
    with (tmp_path / f'run-{folder.run}.jsonl').open('a') as stream:
        stream.write('\n'.join(lines) + '\n')
    found = RunFolder(tmp_path).files_of(folder.run)
    assert list(found.items()) == [(name(9), 2), (name(10), 1)] and RunFolder(tmp_path).files_of('none') == {}
    other = RunFolder(tmp_path)
    assert re.fullmatch('[0-9a-f]{12}', other.run) and other.run != folder.run
    other.adopt(folder.run)
    assert (other.run, other.files) == (folder.run, found)


def test_old_checkpoints_of_a_fit_go_with_their_tensors_and_the_ends_of_others_stay(tmp_path):
    """The newest ones stay, whichever fit they are of; files of other runs are nobody's to delete."""
    folder = RunFolder(tmp_path)
    own(folder, (1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (6, 2), (7, 2))
    touch(tmp_path, name(8), *(f'checkpoint-{n:06d}-shares/' for n in (1, 5, 6)))
    folder.retire(2, 2)
    assert list(folder.files) == [name(n) for n in (2, 4, 6, 7)]
    assert [path.name for path in checkpoints_in(tmp_path)] == [name(n) for n in (8, 7, 6, 4, 2)]
    assert [path.name for path in tmp_path.glob('*-shares')] == ['checkpoint-000006-shares']
    (tmp_path / name(6)).unlink()
    folder.retire(1, 2)  # another hand was faster
    assert list(folder.files) == [name(n) for n in (2, 4, 7)]


def test_what_is_left_alone_is_never_deleted(tmp_path):
    """By this run and by one that goes on with it."""
    folder = RunFolder(tmp_path)
    own(folder, (1, 0), (2, 1), (3, 1))
    folder.leave_alone(1)
    assert folder.files == {name(1): 0}
    own(folder, (4, 1), (5, 1))
    folder.retire(1, 1)
    assert folder.files == RunFolder(tmp_path).files_of(folder.run) == {name(1): 0, name(5): 1}
    assert [path.name for path in checkpoints_in(tmp_path)] == [name(n) for n in (5, 3, 2, 1)]


def test_a_list_that_is_gone_or_cannot_be_added_to_is_written_whole(tmp_path, monkeypatch):
    """What was half appended is not left to chance."""
    folder = RunFolder(tmp_path)
    own(folder, (1, 0), (2, 0))
    list_of = tmp_path / f'run-{folder.run}.jsonl'
    lines = [f'["{name(n)}", 0]\n' for n in range(1, 6)]
    assert list_of.read_text() == ''.join(lines[:2])
    list_of.unlink()
    own(folder, (3, 0))
    assert list_of.read_text() == ''.join(lines[:3])
    write = os.write
    monkeypatch.setattr(os, 'write', lambda handle, data: write(handle, data[:5]))
    own(folder, (4, 0))
    assert list_of.read_text() == ''.join(lines[:4])
    monkeypatch.undo()
    own(folder, (5, 0))
    assert list_of.read_text() == ''.join(lines)


def test_a_file_is_written_in_one_move_or_not_at_all(tmp_path, monkeypatch):
    """Nothing is left of an attempt that worked; the error of one that did not names file, cause and way out."""
    folder = RunFolder(tmp_path)
    text = 'a\udce9ä'
    folder.write('a', text)
    assert names_in(tmp_path) == ['a'] and (tmp_path / 'a').read_bytes() == b'a\xe9' + 'ä'.encode()
    assert folder.read('a') == text and folder.read('none') is None and folder.read('a\0') is None
    (tmp_path / 'd').mkdir()
    assert folder.read('d') is None
    gone = tmp_path / 'gone'
    with pytest.raises(OSError, match=f'{gone / "a"} could not be written: No such file.*Way out: ') as error:
        RunFolder(gone).write('a', 'x')
    assert error.value.errno == errno.ENOENT


# ---------------------------------------------------------------- one at a time

def test_a_folder_is_of_one_training_until_it_is_released(tmp_path, using):
    """It is made, its user is written down, and both can be done twice."""
    folder = using(tmp_path / 'a' / 'b')
    folder.take()
    note = json.loads((folder.path / LOCK).read_text())
    assert note.keys() == {'process', 'host', 'since', 'script'} and note['process'] == os.getpid()
    assert note['host'] == socket.gethostname() and note['script'] == os.path.basename(sys.argv[0])
    assert re.fullmatch(r'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d', note['since'])
    (tmp_path / 'link').symlink_to(folder.path)
    for path in (folder.path, tmp_path / 'a' / '..' / 'a' / 'b', tmp_path / 'link'):
        with pytest.raises(FolderInUseError, match='in use by another training of this process: give each training a'):
            using(path)
    folder.release()
    assert (folder.path / LOCK).read_text() == ''
    folder.release()
    using(folder.path)


def test_the_child_of_a_fork_has_nothing_to_release(using, monkeypatch):
    """And has to take the folder itself."""
    folder, pid = using(), os.getpid()
    handle = folder._lock
    monkeypatch.setattr(os, 'getpid', lambda: pid + 1)
    folder.release()
    assert folder._lock is None and json.loads((folder.path / LOCK).read_text())['process'] == pid
    os.fstat(handle)  # open still
    monkeypatch.undo()
    folder._lock = handle


@pytest.mark.parametrize('code, locked', [
    (errno.EACCES, False), (errno.EAGAIN, False), (errno.EDEADLK, False), (errno.ENOLCK, None),
    (errno.EOPNOTSUPP, None), (errno.ENOSYS, None), (errno.EINVAL, None), (errno.EIO, OSError)])
def test_a_lock_that_is_taken_is_told_from_one_that_is_not_to_be_had(code, locked, monkeypatch):
    """Any other error is one."""
    def lockf(handle, how):
        assert how == room.fcntl.LOCK_EX | room.fcntl.LOCK_NB
        raise OSError(code, 'no')
    monkeypatch.setattr(room.fcntl, 'lockf', lockf)
    if locked is OSError:
        with pytest.raises(OSError, match='no'):
            room._lock(3)
    else:
        assert room._lock(3) is locked


HERE = {'host': socket.gethostname(), 'process': os.getppid(), 'script': 'a.py', 'since': 'noon'}
REFUSED = r'is in use by process \d+ \(a.py\) on .* since noon: wait for it, end it{}, or name another folder'


@pytest.mark.parametrize('lock, note, shared, refused', [
    (False, HERE, False, REFUSED.format('')), (None, HERE, False, REFUSED.format('')), (True, HERE, False, None),
    (None, {}, False, None), (None, {**HERE, 'process': 1 << 30}, False, None),
    (None, {**HERE, 'host': 'x'}, False, None),
    (None, {**HERE, 'process': os.getpid()}, False, None), (True, {**HERE, 'host': 'x'}, False, None),
    (True, {**HERE, 'host': 'x'}, True, REFUSED.format(', or, if that process is gone, delete .*' + LOCK)),
    (True, HERE, True, None), (True, {}, True, None),
    (False, {}, False, r'in use by process \? \(\?\) on \? since \?: wait')])
def test_a_folder_is_refused_where_another_training_lives(lock, note, shared, refused, tmp_path, using, monkeypatch):
    """By the lock; where there are none, by the process of the note; on a file system of machines by their names."""
    touch(tmp_path / 'c')
    (tmp_path / 'c' / LOCK).write_text(json.dumps(note) if note else '')
    monkeypatch.setattr(room, '_lock', lambda handle: lock)
    monkeypatch.setattr(room, '_shared_by_machines', lambda path: shared)
    if refused is None:
        assert using().path == tmp_path / 'c'
    else:
        before, said = handles(), (tmp_path / 'c' / LOCK).read_text()
        with pytest.raises(FolderInUseError, match=refused):
            using()
        assert handles() == before and (tmp_path / 'c' / LOCK).read_text() == said
        monkeypatch.undo()
        (tmp_path / 'c' / LOCK).write_text('')
        using()  # what was refused holds nothing


@pytest.mark.parametrize('text', ['', '{', '[]', '3', '\xff', 'x' * 5000])
def test_a_note_that_says_nothing_hinders_nobody(text, tmp_path, using):
    """Whoever wrote it; a longer one is gone behind the new one."""
    touch(tmp_path / 'c')
    (tmp_path / 'c' / LOCK).write_text(text, encoding='latin-1')
    assert json.loads((using().path / LOCK).read_text())['process'] == os.getpid()


@pytest.mark.parametrize('path, words', [('file', 'a file has this name: choose another folder'),
                                         ('file/below', 'a file has this name: choose another folder')])
def test_a_name_that_is_taken_by_a_file_is_told(path, words, tmp_path, using):
    """With the folder and the way out, as the error it is."""
    touch(tmp_path, 'file')
    with pytest.raises((FileExistsError, NotADirectoryError),
                       match=f'no checkpoint can be written to {tmp_path / path}: .*Way out: {words}') as error:
        using(tmp_path / path)
    assert error.value.errno in (errno.EEXIST, errno.ENOTDIR)
