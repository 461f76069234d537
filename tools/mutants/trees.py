"""Copies of the tree in which the tests run, each run in a process of its own that has the slow imports done."""
from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from queue import Queue

__all__ = ['ABOUT_THE_TEXT', 'ROOT', 'Trees']

ROOT = Path(__file__).resolve().parents[2]

ABOUT_THE_TEXT = ['tests/test_architecture.py', 'tests/test_readme.py', 'tests/test_namespaces.py', 'tests/test_nbs.py',
                  'tests/test_benchmarks.py', 'tests/test_mutants.py', 'tests/test_mutants_noticed.py']
"""Tests that look at the text of the package instead of running it: they would notice any change."""


def _run_tests(tree: str, files: tuple[str, ...], log: str) -> None:
    """In a process of its own: pytest on the copy; the exit status says what came out."""
    os.setsid()
    multiprocessing.set_start_method(None, force=True)  # a child of the fork server has that as its default
    os.chdir(tree)
    sys.path[:0] = [tree]
    os.environ['PYTHONPATH'] = tree
    with open(log, 'w') as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    import pytest
    skipped = [f'--ignore={f}' for f in ABOUT_THE_TEXT] if not files else []
    options = ['-x', '-q', '-p', 'no:cacheprovider', '-m', 'not slow and not faults and not plugins']
    os._exit(int(pytest.main([*options, *skipped, *files])))


class Trees:
    """Copies of the tree, one for each run at a time."""

    def __init__(self, n: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix='mutants-'))
        self.free: Queue[Path] = Queue()
        ignore = shutil.ignore_patterns('.git', '.venv*', '__pycache__', '*.egg-info', 'demo', '.hypothesis', '*.so')
        for i in range(n):
            shutil.copytree(ROOT, self.folder / str(i), ignore=ignore)
            self.free.put(self.folder / str(i))
        # the parent of the runs has the slow imports done; it never runs torch, so it may be forked
        self.context = multiprocessing.get_context('forkserver')
        self.context.set_forkserver_preload(['torch', 'torchvision', 'numpy', 'PIL.Image', 'pytest', 'sklearn.metrics'])
        self.took: dict[tuple[str, ...], float] = {}

    def run(self, changes: dict[Path, str], files: tuple[str, ...], limit_s: float | None = None) -> tuple[str, str]:
        """('passed' | 'failed' | 'time', first failing test) of the tests with the changes in place."""
        tree = self.free.get()
        try:
            for file, code in changes.items():
                self._write(tree, file, code)
            log = f'{tree}.log'
            process = self.context.Process(target=_run_tests, args=(str(tree), files, log))
            process.start()
            process.join(limit_s)
            if process.exitcode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.join()
                return 'time', f'still running after {limit_s:.0f} s'
            if process.exitcode in (0, 5):  # 5: nothing to run in these files
                return 'passed', ''
            return 'failed', _first_failure(Path(log).read_text(errors='replace'))
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

    def baseline(self, files: tuple[str, ...]) -> float:
        """Seconds that the tests take on the unchanged tree.

        Raises:
            SystemExit: they fail there, so that they can tell nothing.
        """
        if files not in self.took:
            start = time.monotonic()
            outcome, failure = self.run({}, files)
            if outcome != 'passed':
                raise SystemExit(f'these tests fail without any mutant: {failure or files}')
            self.took[files] = time.monotonic() - start
        return self.took[files]

    def remove(self) -> None:
        """Delete the copies."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _first_failure(text: str) -> str:
    found = re.search(r'^(FAILED|ERROR) (\S+)', text, re.M)
    return found[2] if found else (text.strip().splitlines() or ['no output'])[-1][:100]
