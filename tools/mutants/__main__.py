"""`python -m tools.mutants --n 100 --seed 1`: which faults do the tests notice, and which go by?

Each mutant is put into a copy of the tree and meets its room's own tests, then those of the rooms beside it. What is
left meets the whole suite, as many at once as lie in different files; only a group that is noticed is halved, so that
survivors cost little.
"""
from __future__ import annotations

import argparse
import ast
import difflib
import os
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from tools.mutants.trees import ABOUT_THE_TEXT, ROOT, Trees

TESTS = ROOT / 'tests'


# ---------------------------------------------------------------- which tests see a room

def room_of(file: Path) -> str:
    """`minifast/data/load.py` -> `minifast.data.load`."""
    parts = file.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


@cache
def test_files() -> dict[str, set[str]]:
    """Each test file and the rooms it names in its imports."""
    found = {}
    for file in sorted(TESTS.rglob('test_*.py')):
        name = file.relative_to(ROOT).as_posix()
        if name not in ABOUT_THE_TEXT:
            found[name] = _imported(file)
    return found


def _imported(file: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
        if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('minifast'):
            rooms |= {node.module} | {f'{node.module}.{alias.name}' for alias in node.names}
        elif isinstance(node, ast.Import):
            rooms |= {alias.name for alias in node.names if alias.name.startswith('minifast')}
    return rooms


@cache
def users_of(room: str) -> list[str]:
    """The rooms that import this one."""
    return [room_of(f) for f in sorted((ROOT / 'minifast').rglob('*.py')) if room in _imported(f)]


@cache
def own_tests(room: str) -> tuple[str, ...]:
    """The test file named after a room, or after the folder it lies in; else those that import it."""
    parts = room.split('.')[1:]
    for n in range(len(parts), 0, -1):
        file = f'tests/test_{"_".join(parts[:n])}.py'
        if file in test_files():
            return (file,)
    return tuple(f for f, rooms in test_files().items() if room in rooms)


@cache
def neighbours(room: str) -> tuple[str, ...]:
    """The tests that import the room, and the own tests of the rooms that do."""
    direct = {f for f, rooms in test_files().items() if room in rooms}
    beside = {f for user in users_of(room) for f in own_tests(user)}
    return tuple(sorted((direct | beside) - set(own_tests(room))))


# ---------------------------------------------------------------- the stages

class Verdicts:
    """Runs mutants through the stages; `killed[i]` says which test noticed mutant i."""

    def __init__(self, mutants: list[Any], trees: Trees, jobs: int) -> None:
        self.mutants, self.trees, self.jobs = mutants, trees, jobs
        self.killed: dict[int, str] = {}
        self.stage: dict[int, str] = {}

    def _stage(self, name: str, tests_of: Any) -> None:
        left = [i for i in range(len(self.mutants)) if i not in self.killed]

        def one(i: int) -> None:
            mutant = self.mutants[i]
            files = tests_of(room_of(mutant.file))
            if not files:
                return
            limit_s = 5 * self.trees.baseline(files) + 30
            outcome, by = self.trees.run({mutant.file: mutant.code}, files, limit_s)
            if outcome != 'passed':
                self.killed[i], self.stage[i] = by, name
            print(f'{name:<10} {"killed  " if outcome != "passed" else "goes by "} '
                  f'{room_of(mutant.file)}:{mutant.line} {mutant.qualname} {mutant.why} {by}', flush=True)
        with ThreadPoolExecutor(self.jobs) as pool:
            list(pool.map(one, left))

    def _together(self, group: list[int]) -> None:
        changes = {self.mutants[i].file: self.mutants[i].code for i in group}
        outcome, by = self.trees.run(changes, (), 3600)
        print(f'whole suite: {len(group)} at once: {"all go by" if outcome == "passed" else f"noticed by {by}"}',
              flush=True)
        if outcome == 'passed':
            return
        if len(group) == 1:
            self.killed[group[0]], self.stage[group[0]] = by, 'suite'
            return
        self._together(group[:len(group) // 2])
        self._together(group[len(group) // 2:])

    def run(self, whole: bool) -> None:
        """All stages."""
        self._stage('own', own_tests)
        self._stage('neighbours', neighbours)
        if not whole:
            return
        groups: list[list[int]] = []
        for i in (i for i in range(len(self.mutants)) if i not in self.killed):
            for group in groups:
                if all(self.mutants[j].file != self.mutants[i].file for j in group):
                    group.append(i)
                    break
            else:
                groups.append([i])
        with ThreadPoolExecutor(self.jobs) as pool:
            list(pool.map(self._together, groups))


def change_of(mutant: Any) -> str:
    """The mutant as a diff."""
    old = mutant.file.read_text(encoding='utf-8').splitlines(keepends=True)
    name = mutant.file.relative_to(ROOT).as_posix()
    return ''.join(difflib.unified_diff(old, mutant.code.splitlines(keepends=True), name, name, n=1))


def report(verdicts: Verdicts, equivalent: dict[int, str], seconds: float) -> int:
    """Print the table by room and the survivors as diffs; returns how many survived that are not equivalent."""
    rooms: dict[str, list[int]] = defaultdict(list)
    for i, mutant in enumerate(verdicts.mutants):
        rooms[room_of(mutant.file).removeprefix('minifast.')].append(i)
    alive = [i for i in range(len(verdicts.mutants)) if i not in verdicts.killed and i not in equivalent]
    for i in alive:
        print(f'\n--- survived: {verdicts.mutants[i].qualname}: {verdicts.mutants[i].why}\n'
              + change_of(verdicts.mutants[i]))
    print(f'\n{"room":<28} killed of  own neighbours suite equivalent')
    for room, ids in sorted(rooms.items()):
        by = [sum(verdicts.stage.get(i) == stage for i in ids) for stage in ('own', 'neighbours', 'suite')]
        print(f'{room:<28} {sum(by):>6} {len(ids):>2} {by[0]:>4} {by[1]:>10} {by[2]:>5} '
              f'{sum(i in equivalent for i in ids):>10}')
    n = len(verdicts.mutants) - len(equivalent)
    print(f'{len(verdicts.killed)} of {n} killed ({len(verdicts.killed) / max(n, 1):.0%}), '
          f'{len(equivalent)} equivalent, {len(alive)} survived, {seconds:.0f} s')
    return len(alive)


def main() -> None:
    """Parse the command line, run, report; the exit status is 1 where the share that was killed is below `--least`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seed', type=int, default=1, help='of the sample')
    parser.add_argument('--n', type=int, default=100, help='mutants in the sample')
    parser.add_argument('--faults', action='store_true', help='the committed list of faults of meaning instead')
    parser.add_argument('--only', default='', help='faults and rooms whose name holds this')
    parser.add_argument('--jobs', type=int, default=os.cpu_count() or 1, help='runs at a time')
    parser.add_argument('--no-suite', action='store_true', help='leave the whole suite out, for a quick look')
    parser.add_argument('--least', type=float, default=0., help='exit with 1 below this share of killed ones')
    args = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS='1', MPLBACKEND='Agg')
    from tools.mutants.equivalent import EQUIVALENT
    from tools.mutants.faults import mutants_of_meaning
    from tools.mutants.sample import sampled
    mutants = mutants_of_meaning() if args.faults else sampled(args.seed, args.n)
    mutants = [m for m in mutants if args.only in f'{room_of(m.file)}:{m.qualname}']
    start, trees = time.monotonic(), Trees(args.jobs)
    try:
        verdicts = Verdicts(mutants, trees, args.jobs)
        verdicts.run(whole=not args.no_suite)
    finally:
        trees.remove()
    equivalent = {i: why for i, m in enumerate(mutants) if i not in verdicts.killed
                  for lines, why in EQUIVALENT.items() if lines == _changed_lines(m)}
    alive = report(verdicts, equivalent, time.monotonic() - start)
    counted = len(mutants) - len(equivalent)
    sys.exit(counted and 1 - alive / counted < args.least)


def _changed_lines(mutant: Any) -> tuple[str, ...]:
    """What identifies a mutant wherever it lies: its function and the lines taken out and put in."""
    lines = [line for line in change_of(mutant).splitlines()[2:] if line[:1] in '+-']
    return (mutant.qualname, *(line[0] + line[1:].strip() for line in lines))


if __name__ == '__main__':
    main()
