"""The git revision is that of git, and nothing else ever gets out of a folder that may have come from elsewhere."""
from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import nn

from small_learner import learner

from minifast.callback.core import Callback
from minifast.callback.fp16 import AMPMode
from minifast.callback.fp16 import MixedPrecision as OurMixedPrecision
from minifast.environment import environment, git_revision

SECRET = 'b' * 40
"""What a secret looks like that cannot be told from a hash."""
HASH = 'a' * 40
git_is_here = pytest.mark.skipif(shutil.which('git') is None, reason='git is not installed')


def git(folder, *words):
    env = {**os.environ, 'GIT_CONFIG_GLOBAL': os.devnull, 'GIT_CONFIG_SYSTEM': os.devnull,
           **{f'GIT_{who}_{what}': 'x@y' for who in ('AUTHOR', 'COMMITTER') for what in ('NAME', 'EMAIL')}}
    return subprocess.run(['git', '-c', 'protocol.file.allow=always', *words], cwd=folder, env=env, check=True,
                          capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope='module')
def repository(tmp_path_factory):
    """A repository with two branches, a further working tree, and a submodule."""
    base = tmp_path_factory.mktemp('git')
    for name in ('sub', 'main'):
        (base / name).mkdir()
        git(base / name, 'init', '-q', '-b', 'main')
        git(base / name, 'commit', '-q', '--allow-empty', '-m', name)
    git(base / 'main', 'submodule', 'add', '-q', str(base / 'sub'), 'inner')
    git(base / 'main', 'commit', '-q', '-m', 'inner')
    git(base / 'main', 'worktree', 'add', '-q', '-b', os.fsdecode('größe/猫'.encode()), str(base / 'tree'))
    git(base / 'tree', 'commit', '-q', '--allow-empty', '-m', 'more')
    (base / 'main' / 'deep' / 'er').mkdir(parents=True)
    return base


@git_is_here
@pytest.mark.parametrize('state', ['loose', 'packed', 'detached'])
@pytest.mark.parametrize('where', ['main', 'main/deep/er', 'tree', 'main/inner', 'sub'])
def test_the_revision_is_what_git_says(where, state, repository, tmp_path):
    """In a repository, below it, in a further working tree, in a submodule; refs in files, packed, and none."""
    base = tmp_path / 'all of it'
    shutil.copytree(repository, base, symlinks=True)
    for told in (base / 'tree' / '.git', base / 'main' / '.git' / 'worktrees' / 'tree' / 'gitdir'):
        told.write_text(told.read_text().replace(str(repository), str(base)))
    folder = base / where
    if state == 'packed':
        git(folder, 'pack-refs', '--all')
    if state == 'detached':
        git(folder, 'checkout', '-q', '--detach')
    found = git(folder, 'rev-parse', 'HEAD')
    assert git_revision(folder) == git_revision(str(folder)) == found and re.fullmatch('[0-9a-f]{40}', found)


@git_is_here
def test_hashes_of_64_digits_and_names_of_names(tmp_path):
    """SHA-256 repositories, and a ref that names another one."""
    git(tmp_path, 'init', '-q', '-b', 'main', '--object-format=sha256')
    git(tmp_path, 'commit', '-q', '--allow-empty', '-m', 'x')
    git(tmp_path, 'symbolic-ref', 'refs/heads/alias', 'refs/heads/main')
    git(tmp_path, 'symbolic-ref', 'HEAD', 'refs/heads/alias')
    assert git_revision(tmp_path) == git(tmp_path, 'rev-parse', 'HEAD') and len(git_revision(tmp_path)) == 64


def made(folder, head, **files):
    """A project with a `.git` written by hand; beside it a home with secrets."""
    home, project = folder / 'home', folder / 'project'
    for name in ('refs/heads', ''):
        (home / name).mkdir(parents=True, exist_ok=True)
    for name in ('id', 'refs/heads/main', 'HEAD', 'packed-refs'):
        (home / name).write_text(f'{SECRET} refs/heads/main\n' if name == 'packed-refs' else f'{SECRET}\n')
    (project / '.git' / 'refs' / 'heads').mkdir(parents=True)
    for name, text in {'HEAD': head, **files}.items():
        (project / '.git' / name).write_text(text.format(home=home))
    return project


HEADS = ['ref: {home}/id', 'ref: ../../home/id', 'ref: refs/../../../home/id', 'ref: refs/heads/../../../../home/id',
         'ref: refs/heads/../../../home/refs/heads/main', 'ref: /etc/passwd', 'ref: ', 'ref: refs', 'ref: refs/',
         'ref: refs/heads/', 'ref: refs/heads/main.lock', 'ref: refs/.hidden', 'ref: refs/heads/a b', 'ref: HEAD',
         'ref: refs/heads/main\n{home}/id', 'ref: refs//heads', 'ref: refs/heads/@{{1}}', 'ref: packed-refs',
         'ref: refs/heads/\x1b[2K', 'some words', HASH + 'g', HASH[1:], HASH * 2, HASH + '\n' + HASH, '', '\0',
         'x' * 9999, 'ref: refs/heads/' + 'x/' * 3000 + 'x', 'ref: refs/heads/loop', '\udce9', f'gitdir: {HASH}']


@pytest.mark.tally
def test_no_head_lets_a_file_out(tmp_path, counted):
    """Whatever `HEAD` says: nothing, or a hash that stands in git's own refs."""
    project, safe = made(tmp_path, ''), []
    (project / '.git' / 'refs' / 'heads' / 'main').write_text(HASH)
    (project / '.git' / 'refs' / 'heads' / 'loop').write_text('ref: refs/heads/loop')
    for head in HEADS:
        text = head.replace('{home}', str(tmp_path / 'home')).replace('{{', '{').replace('}}', '}')
        (project / '.git' / 'HEAD').write_text(text, errors='surrogateescape')
        safe.append(git_revision(project) is None)
    counted(sum(safe), len(HEADS))
    assert all(safe), [head for head, ok in zip(HEADS, safe) if not ok]


def _ref_is_a_link(project, home):
    (project / '.git' / 'refs' / 'heads' / 'main').symlink_to(home / 'id')


def _folder_is_a_link(project, home):
    shutil.rmtree(project / '.git' / 'refs')
    (project / '.git' / 'refs').symlink_to(home / 'refs')


def _packed_is_a_link(project, home):
    (project / '.git' / 'packed-refs').symlink_to(home / 'packed-refs')


def _head_is_a_link(project, home):
    (project / '.git' / 'HEAD').unlink()
    (project / '.git' / 'HEAD').symlink_to(home / 'id')


def _common_is_elsewhere(project, home):
    (project / '.git' / 'commondir').write_text(str(home))


def _common_is_a_link(project, home):
    (project / '.git' / 'commondir').symlink_to(home / 'id')


def _common_is_below(project, home):
    (project / '.git' / 'commondir').write_text('refs')


def _ref_is_a_pipe(project, home):
    os.mkfifo(project / '.git' / 'refs' / 'heads' / 'main')


def _head_is_a_pipe(project, home):
    (project / '.git' / 'HEAD').unlink()
    os.mkfifo(project / '.git' / 'HEAD')


def _git_is_a_pipe(project, home):
    shutil.rmtree(project / '.git')
    os.mkfifo(project / '.git')


def _packed_is_a_device(project, home):
    (project / '.git' / 'packed-refs').symlink_to('/dev/zero')


def _ref_is_a_folder(project, home):
    (project / '.git' / 'refs' / 'heads' / 'main').mkdir()


def _ref_is_words(project, home):
    (project / '.git' / 'refs' / 'heads' / 'main').write_text('-----BEGIN PRIVATE KEY-----')


def _packed_is_words(project, home):
    (project / '.git' / 'packed-refs').write_text('s3cr3t refs/heads/main\n')


def _packed_is_bytes(project, home):
    (project / '.git' / 'packed-refs').write_bytes(bytes(range(256)) * 9)


def _packed_is_huge(project, home):
    with open(project / '.git' / 'packed-refs', 'wb') as file:
        file.truncate(2 ** 40)


def _git_is_a_loop(project, home):
    shutil.rmtree(project / '.git')
    (project / '.git').symlink_to(project / '.git')


def _git_says_nothing(project, home):
    shutil.rmtree(project / '.git')
    (project / '.git').write_bytes(b'gitdir: \0\xff')


def _git_is_a_secret(project, home):
    shutil.rmtree(project / '.git')
    (project / '.git').write_text(SECRET)


BROKEN = [o for name, o in sorted(globals().items()) if re.match('_(ref|folder|packed|head|common|git)_', name)]


@pytest.mark.tally
@pytest.mark.parametrize('spoil', BROKEN, ids=lambda o: o.__name__.strip('_'))
@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='no pipes or links on this system')
def test_no_link_pipe_or_broken_file_lets_anything_out(spoil, tmp_path):
    """Links that lead out, pipes that would keep us waiting, devices, files without an end: None."""
    project = made(tmp_path, 'ref: refs/heads/main')
    spoil(project, tmp_path / 'home')
    assert git_revision(project) is None


def test_folders_that_are_none(tmp_path, monkeypatch):
    """Missing, deleted under our feet, with a zero in its name, and without git."""
    assert git_revision(tmp_path / 'none') is None and git_revision('a\0b') is None and git_revision('/') is None
    (tmp_path / 'gone').mkdir()
    monkeypatch.chdir(tmp_path / 'gone')
    (tmp_path / 'gone').rmdir()
    assert git_revision() is None


def test_what_gets_into_exports_and_reports(tmp_path, monkeypatch):
    """Of the script's folder, and of the current one."""
    from minifast.commands import environment as report
    project = made(tmp_path, 'ref: refs/heads/main')
    monkeypatch.setattr(sys, 'argv', [str(project / 'train.py')])
    monkeypatch.chdir(project)
    assert environment()['git'] is None and report()['git revision here'] == 'none'
    (project / '.git' / 'refs' / 'heads' / 'main').write_text(HASH)
    assert environment()['git'] == report()['git revision here'] == HASH and environment()['script'] == 'train.py'
    assert Path(report()['git revision here']).name == HASH


class MixedPrecision(Callback):
    """A user's own, which says no mode."""


@pytest.mark.parametrize('cbs, told', [([], 'float32'), ([OurMixedPrecision('bf16')], f'mixed ({AMPMode.BF16})'),
                                       ([MixedPrecision()], 'mixed ()')])
def test_precision_and_device_of_a_learner_are_told(cbs, told):
    """The mode where the callback says one."""
    found = environment(learner(cbs=cbs))
    assert (found['precision'], found['device']) == (told, 'cpu')


@pytest.mark.parametrize('model, device', [(nn.Linear(1, 1), 'cpu'), (nn.Linear(1, 1, device='meta'), 'meta'),
                                           (nn.ReLU(), 'cpu')])
def test_a_training_was_on_the_device_of_its_model(model, device):
    """Of a model without weights it is the CPU."""
    assert environment(SimpleNamespace(model=model))['device'] == device
