"""Which tests run which lines, and how long each takes: recorded once for a state of the tree, kept in `.mutants`."""
from __future__ import annotations

import ast
import hashlib
import json
import re
import sqlite3
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from tools.mutants.trees import ROOT, Trees, test_files

__all__ = ['Killers', 'Record']

FOLDER = ROOT / '.mutants'

ABOUT_DEFAULTS = 'tests/compat/test_defaults.py'

_PHASE = re.compile(r' \((setup|call|teardown)\)$')
"""What PYTEST_CURRENT_TEST, the context of a process that a test started, has behind the test's name."""


class Record:
    """The lines and the seconds of every test; a file of tests is recorded anew when it or the package changed."""

    def __init__(self, trees: Trees, jobs: int) -> None:
        FOLDER.mkdir(exist_ok=True)
        self.trees = trees
        shared = hashlib.sha256(b''.join(f.read_bytes() for f in _shared_files()))
        names = {}
        for file in test_files():
            whole = shared.copy()
            whole.update((ROOT / file).read_bytes())
            names[file] = FOLDER / f'{Path(file).stem}-{whole.hexdigest()[:16]}'
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(self._made, names, names.values()))
        self.seconds: dict[str, float] = {}
        self._lines: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
        for name in names.values():
            self.seconds |= json.loads(name.with_suffix('.json').read_text())
            for file, test, lines in _lines_in(name.with_suffix('.cov')):
                self._lines[file][test] |= lines

    def _made(self, file: str, name: Path) -> None:
        if name.with_suffix('.json').exists():
            return
        from coverage import Coverage  # of the extra `mutants`
        start, raw = time.monotonic(), name.with_suffix('.raw')
        for old in FOLDER.glob(f'{Path(file).stem}-*'):
            old.unlink()
        passed, ran = self.trees.run({}, {file: {}}, False, raw)
        if not passed and not ran:
            raise SystemExit(f'{file} cannot be read')
        Coverage(data_file=str(name.with_suffix('.cov')), config_file=False).combine(
            [str(f) for f in FOLDER.glob(raw.name + '.*')])
        name.with_suffix('.json').write_text(json.dumps({test: seconds for test, (_, seconds) in ran.items()}))
        failed = [test for test, (outcome, _) in ran.items() if outcome != 'passed']
        print(f'recorded {len(ran):>4} tests of {file}, {time.monotonic() - start:.0f} s'
              + ('' if passed else f'; not passed: {", ".join(failed)}'), flush=True)

    def tests_in(self, file: str | None) -> list[str]:
        """The tests of a test file."""
        return [test for test in self.seconds if test.startswith(f'{file}::')]

    def limit_s(self, test: str) -> float:
        """How long a test may take: well beyond what it took. A fixture that tests of a file share, like an import, is
        paid for by the one that happens to be the first."""
        file = test.partition('::')[0]
        longest = file in _with_shared_fixtures() and max(self.seconds[other] for other in self.tests_in(file))
        return 60 + 10 * max(self.seconds[test], longest)

    def tests_of(self, file: Path, line: int) -> tuple[list[str], bool]:
        """The tests that run the statement at a line, fastest first, and whether any does.

        What runs at import is seen by no test alone: then all tests that run anything in the file. What a fixture of a
        whole test file runs is seen by the first test that uses it: then all tests of that file. Defaults in a header
        are looked at by tests that run nothing.
        """
        recorded = self._lines[file.relative_to(ROOT).as_posix()]
        wanted = _statement(file, line)
        direct = [test for test, lines in recorded.items() if lines & wanted]
        tests = direct if direct and '' not in direct else list(recorded)
        shared = {test.partition('::')[0] for test in tests} & _with_shared_fixtures()
        tests = {*tests, *(test for test in self.seconds if test.partition('::')[0] in shared)}
        if _in_a_header(file, line):
            tests |= set(self.tests_in(ABOUT_DEFAULTS))
        return sorted((t for t in tests if t in self.seconds), key=self.seconds.__getitem__), bool(direct)


class Killers:
    """Which test noticed which change in earlier runs, kept in `.mutants`: it is asked first, and has to fail again."""

    def __init__(self) -> None:
        FOLDER.mkdir(exist_ok=True)
        self._file, self._lock = FOLDER / 'killers.json', threading.Lock()
        self._tests: dict[str, str] = json.loads(self._file.read_text()) if self._file.exists() else {}

    def of(self, change: tuple[str, ...]) -> str:
        """The test that noticed a change, named by its function and its lines; '' where none is known."""
        return self._tests.get(self._key(change), '')

    def note(self, change: tuple[str, ...], test: str) -> None:
        """Keep it, so that a run that is broken off has not run for nothing."""
        with self._lock:
            self._tests[self._key(change)] = test
            written = self._file.with_suffix('.tmp')
            written.write_text(json.dumps(self._tests, indent=0))
            written.replace(self._file)

    @staticmethod
    def _key(change: tuple[str, ...]) -> str:
        return hashlib.sha256('\n'.join(change).encode()).hexdigest()[:24]


def _shared_files() -> list[Path]:
    return [*sorted((ROOT / 'minifast').rglob('*.py')),
            *sorted(f for f in (ROOT / 'tests').rglob('*.py') if not f.name.startswith('test_'))]


def _lines_in(file: Path) -> list[tuple[str, str, set[int]]]:
    from coverage.numbits import numbits_to_nums
    with sqlite3.connect(file) as db:
        rows = db.execute('select path, context, numbits from line_bits join file on file.id = file_id '
                          'join context on context.id = context_id').fetchall()
    return [(f'minifast/{path.rpartition("/minifast/")[2]}', _PHASE.sub('', context), set(numbits_to_nums(bits)))
            for path, context, bits in rows]


@cache
def _with_shared_fixtures() -> set[str]:
    return {file for file in test_files() if 'scope=' in (ROOT / file).read_text(encoding='utf-8')}


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding='utf-8'))


def _innermost(file: Path, line: int) -> ast.stmt | None:
    inner = [n for n in ast.walk(_tree(file)) if isinstance(n, ast.stmt) and n.lineno <= line <= n.end_lineno]
    return max(inner, key=lambda n: (n.lineno, -n.end_lineno), default=None)


def _in_a_header(file: Path, line: int) -> bool:
    return isinstance(_innermost(file, line), ast.FunctionDef)


def _statement(file: Path, line: int) -> set[int]:
    """The lines of the innermost statement at a line, without the statements in it; a function's are those of its body.
    """
    node = _innermost(file, line)
    if node is None:
        return {line}
    body = getattr(node, 'body', None)
    if not body:
        return set(range(node.lineno, node.end_lineno + 1))
    if isinstance(node, ast.FunctionDef):
        return set(range(body[0].lineno, node.end_lineno + 1))
    end = body[0].lineno if line < body[0].lineno else node.end_lineno + 1
    return set(range(node.lineno, max(end, node.lineno + 1)))
