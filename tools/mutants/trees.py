"""Copies of the tree in which the tests run, each run in a process of its own that has the slow imports done."""
from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from queue import Queue

__all__ = ['ROOT', 'Ran', 'Trees', 'room_of', 'test_files']

ROOT = Path(__file__).resolve().parents[2]

ABOUT_THE_TEXT = ['tests/test_architecture.py', 'tests/test_readme.py', 'tests/test_namespaces.py', 'tests/test_nbs.py',
                  'tests/test_benchmarks.py', 'tests/test_mutants.py', 'tests/test_mutants_noticed.py']
"""Tests that look at the text of the package instead of running it: they would notice any change."""

_OPTIONS = ['-q', '--disable-plugin-autoload', '-p', 'no:cacheprovider', '-p', 'no:faulthandler']

_RUN = 'MINIFAST_MUTANTS_TREE'
"""In the environment of a run, and of all that it starts: its copy of the tree."""

_BETWEEN_TESTS_S = 120
"""A process that neither begins nor ends a test for so long hangs, in an import or in a fixture."""

Ran = dict[str, tuple[str, float]]
"""Test -> 'passed', 'failed' or, where it never came to an end, 'time'; and its seconds."""


def room_of(file: Path) -> str:
    """`minifast/data/load.py` -> `data.load`."""
    parts = file.relative_to(ROOT / 'minifast').with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def test_files() -> list[str]:
    """The test files that run the package, from the root of the tree."""
    found = (f.relative_to(ROOT).as_posix() for f in sorted((ROOT / 'tests').rglob('test_*.py')))
    return [f for f in found if f not in ABOUT_THE_TEXT]


class _Chosen:
    """A pytest plugin: runs the chosen tests in their order, tells what came out, ends the process where one hangs."""

    def __init__(self, limits_s: Mapping[str, float], told: Path, coverage=None) -> None:
        self.limits_s, self.place = limits_s, {test: i for i, test in enumerate(limits_s)}
        self.told, self.coverage, self.failed = told, coverage, False

    def _tell(self, *words) -> None:
        with self.told.open('a', encoding='utf-8') as stream:
            stream.write('\t'.join(map(str, words)) + '\n')

    def pytest_collection_modifyitems(self, items: list) -> None:
        """Without choices all tests run."""
        if self.place:
            items[:] = sorted((i for i in items if i.nodeid in self.place), key=lambda i: self.place[i.nodeid])

    def pytest_runtest_logreport(self, report) -> None:
        """The setup, the test and the teardown report apart."""
        self.failed |= report.failed

    def pytest_runtest_protocol(self, item) -> Iterator[None]:
        """Around each test."""
        self._tell('begins', item.nodeid)
        if self.coverage is not None:
            self.coverage.switch_context(item.nodeid)
            self.coverage.set_option('run:context', item.nodeid)  # what a forked process starts with
        faulthandler.dump_traceback_later(self.limits_s.get(item.nodeid, 1800), exit=True, file=sys.__stderr__)
        self.failed, start = False, time.monotonic()
        yield
        faulthandler.dump_traceback_later(_BETWEEN_TESTS_S, exit=True, file=sys.__stderr__)
        self._tell('failed' if self.failed else 'passed', item.nodeid, time.monotonic() - start)


_Chosen.pytest_runtest_protocol.pytest_impl = {'hookwrapper': True}  # pytest.hookimpl, before pytest is imported


def _run_tests(tree: str, tests: dict[str, dict[str, float]], first_failure: bool, coverage_file: str | None) -> None:
    """In a process of its own: pytest on the copy, file by file, so that a file is read only when its turn comes."""
    os.setsid()
    multiprocessing.set_start_method(None, force=True)  # a child of the fork server has that as its default
    os.chdir(tree)
    sys.path[:0] = [tree]
    os.environ['PYTHONPATH'] = tree
    os.environ[_RUN] = tree
    with open(f'{tree}.log', 'w') as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    faulthandler.dump_traceback_later(_BETWEEN_TESTS_S, exit=True, file=sys.__stderr__)
    coverage = _started(tree, coverage_file) if coverage_file else None
    import pytest
    worst = 0
    for file, limits_s in tests.items():
        plugin = _Chosen(limits_s, Path(f'{tree}.told'), coverage)
        # 5: nothing to run in this file
        worst = max(worst, int(pytest.main([*_OPTIONS, *(['-x'] if first_failure else []), file], [plugin])) % 5)
        if worst and first_failure:
            break
    if coverage is not None:
        coverage.stop()
        coverage.save()
    os._exit(worst)


def _started(tree: str, file: str):
    """Coverage of this process and of those it starts, each line with the test that ran it."""
    from coverage import Coverage
    config = Path(f'{tree}.coverage')
    config.write_text(f'[run]\ncore = ctrace\ninclude = {tree}/minifast/*\ndata_file = {file}\nparallel = true\n'
                      'context = ${PYTEST_CURRENT_TEST-}\npatch = _exit, fork\n'
                      'disable_warnings = no-data-collected, trace-changed, couldnt-parse, module-not-measured\n')
    os.environ['COVERAGE_PROCESS_START'] = str(config)
    coverage = Coverage(config_file=str(config))
    coverage.start()
    return coverage


def _end_what_is_left(run: int, tree: Path) -> None:
    """Kill what a run has started and left behind, in sessions of their own too, as torchrun's are."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(run, signal.SIGKILL)
    mark = f'{_RUN}={tree}\0'.encode()
    for process in Path('/proc').glob('[0-9]*'):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if mark in (process / 'environ').read_bytes() + b'\0':
                os.kill(int(process.name), signal.SIGKILL)


class Trees:
    """Copies of the tree, one for each run at a time."""

    def __init__(self, n: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix='mutants-'))
        self.free: Queue[Path] = Queue()
        ignore = shutil.ignore_patterns('.git', '.venv*', '__pycache__', '*.egg-info', 'demo', '.hypothesis', '*.so',
                                        '.mutants')
        for i in range(n):
            shutil.copytree(ROOT, self.folder / str(i), ignore=ignore)
            self.free.put(self.folder / str(i))
        # the parent of the runs has the slow imports done; it never runs torch, so it may be forked
        self.context = multiprocessing.get_context('forkserver')
        self.context.set_forkserver_preload(['torch', 'torchvision', 'numpy', 'PIL.Image', 'pytest', 'sklearn.metrics',
                                              'fastcore.all', 'pdb'])

    def run(self, changes: dict[Path, str], tests: dict[str, dict[str, float]], first_failure: bool = True,
            coverage_file: Path | None = None) -> tuple[bool, Ran]:
        """Whether the tests passed with the changes in place, and what each that was begun did.

        Args:
            changes: file of the tree -> its text.
            tests: test file -> its tests in their order, each with the seconds it may take; all where it names none.
            first_failure: stop there.
            coverage_file: where to write what each test ran; the copies' paths are in it.
        """
        tree = self.free.get()
        told = Path(f'{tree}.told')
        told.write_text('')
        try:
            for file, code in changes.items():
                self._write(tree, file, code)
            process = self.context.Process(target=_run_tests, args=(
                str(tree), tests, first_failure, coverage_file and str(coverage_file)))
            process.start()
            process.join()
            _end_what_is_left(process.pid, tree)
            return process.exitcode == 0, _told(told.read_text(encoding='utf-8'))
        finally:
            for file in changes:
                self._write(tree, file, file.read_text(encoding='utf-8'))
            self.free.put(tree)

    @staticmethod
    def _write(tree: Path, file: Path, code: str) -> None:
        place = tree / file.relative_to(ROOT)
        place.write_text(code, encoding='utf-8')
        # compiled files are told apart by size and whole seconds, which two mutants may share
        for compiled in (place.parent / '__pycache__').glob(f'{place.stem}.*.pyc'):
            compiled.unlink()

    def remove(self) -> None:
        """Delete the copies."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _told(text: str) -> Ran:
    ran: Ran = {}
    for line in text.splitlines():
        outcome, test, *seconds = line.split('\t')
        ran[test] = ('time', 0.) if outcome == 'begins' else (outcome, float(seconds[0]))
    return ran
