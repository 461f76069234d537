"""`python -m tools.mutants --n 100 --seed 1`: which faults do the tests notice, and which go by?

One run of the whole suite records which test runs which lines. Then each mutant is put into a copy of the tree and
meets the test that noticed it in an earlier run, then its room's own tests, those that run its statement first and the
fastest first, up to the first that fails; then the fastest of the other tests that run its statement (these at once
where no test file is named after the room). What is left meets all of these, many mutants at once; alone, those of
these tests that failed.
"""
from __future__ import annotations

import argparse
import difflib
import os
import sys
import time
from collections import defaultdict
from collections.abc import Collection
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from tools.mutants.recorded import Killers, Record
from tools.mutants.trees import ROOT, Trees, room_of, test_files


# ---------------------------------------------------------------- which tests a mutant meets

def named_after(room: str) -> str | None:
    """The test file named after a room, or after the folder it lies in."""
    parts = room.split('.')
    files = (f'tests/test_{"_".join(parts[:n])}.py' for n in range(len(parts), 0, -1))
    return next((f for f in files if f in test_files()), None)


Tests = dict[str, dict[str, float]]
"""Test file -> its tests in their order, each with the seconds it may take."""


class Verdicts:
    """Runs mutants; `killed[i]` says which test noticed mutant i, `unseen` which ones no test runs."""

    def __init__(self, mutants: list[Any], trees: Trees, record: Record, jobs: int) -> None:
        self.mutants, self.trees, self.record, self.jobs = mutants, trees, record, jobs
        self.killers, self.names = Killers(), [_changed_lines(mutant) for mutant in mutants]
        self.killed: dict[int, str] = {}
        self.unfit: set[str] = set()
        self.met_all: set[int] = set()  # which have been in the last stage
        self.seen: list[list[str]] = []
        self.unseen: set[int] = set()
        self.own_file: list[str | None] = []
        for i, mutant in enumerate(mutants):  # here and not in the threads, in which Python 3.11 cannot parse safely
            seen, any_does = record.tests_of(mutant.file, mutant.line)
            self.seen.append(seen)
            self.own_file.append(named_after(room_of(mutant.file)))
            if not any_does:
                self.unseen.add(i)

    def run(self, quick: bool, enough: float) -> None:
        """All of them; those again whose killer fails without any mutant too. The last stage ends where the share of
        those noticed is `enough`."""
        left = range(len(self.mutants))
        with ThreadPoolExecutor(self.jobs) as pool:
            while left:
                list(pool.map(self._first_meeting, left))
                if not quick:
                    few = [(i, self._fastest(self._others(i), 20)) for i in left
                           if i not in self.killed and self.own_file[i]]
                    list(pool.map(lambda pair: self._alone(*pair), few))
                    self.met_all.difference_update(left)  # they meet other tests now
                    for group in self._groups([i for i in range(len(self.mutants))
                                               if i not in self.killed and i not in self.met_all]):
                        if len(self.killed) < enough * len(self.mutants):
                            self.met_all.update(group)
                            self._together(group, pool)
                files = sorted({by.partition('::')[0] for by in self.killed.values() if '::' in by})
                unfit = set().union(*pool.map(self._unfit, files))
                self.unfit |= unfit
                left = [i for i, by in self.killed.items() if by in unfit]
                for i in left:
                    print(f'{self.killed[i]} fails without a mutant too: {i} runs again', flush=True)
                    del self.killed[i]

    def _first_meeting(self, i: int) -> None:
        """With the test that noticed the same change in an earlier run, then with its room's own."""
        known = self.killers.of(self.names[i])
        if known in self.record.seconds and known not in self.unfit:
            self._alone(i, {known.partition('::')[0]: {known: self.record.limit_s(known)}})
        if i not in self.killed:
            self._alone(i, self._own(i))

    def _own(self, i: int) -> Tests:
        """The tests of the file named after the room, those that run the statement first; without such a file the
        fastest of all that run it."""
        own, seen = self.own_file[i], self.seen[i]
        if own is None:
            return self._fastest(self._others(i), 20)
        tests = self._limited(own, seen) | self._limited(own, set(self.record.tests_in(own)) - set(seen))
        return {own: tests} if tests else {}

    def _others(self, i: int) -> Tests:
        """The tests of other rooms that run the statement."""
        files = {test.partition('::')[0] for test in self.seen[i]} - {self.own_file[i]}
        limited = ((file, self._limited(file, self.seen[i])) for file in sorted(files))
        return {file: tests for file, tests in limited if tests}

    def _fastest(self, tests: Tests, seconds: float) -> Tests:
        """Of the test files that take the least time, as many tests as take so long together."""
        took, chosen = self.record.seconds, {}
        for file in sorted(tests, key=lambda f: sum(took[test] for test in tests[f])):
            for test, limit in tests[file].items():
                if (seconds := seconds - took[test]) > 0:
                    chosen.setdefault(file, {})[test] = limit
        return chosen

    def _limited(self, file: str | None, tests: Collection[str]) -> dict[str, float]:
        return {test: self.record.limit_s(test) for test in sorted(tests, key=self.record.seconds.__getitem__)
                if test.startswith(f'{file}::') and test not in self.unfit}

    def _alone(self, i: int, tests: Tests) -> None:
        if not tests:
            return
        mutant, start = self.mutants[i], time.monotonic()
        passed, ran = self.trees.run({mutant.file: mutant.code}, tests)
        if not passed:
            self.killed[i] = next((t for t, (outcome, _) in ran.items() if outcome != 'passed'), 'none could be read')
            self.killers.note(self.names[i], self.killed[i])
        print(f'{i:>4} {"goes by" if passed else "killed "} {time.monotonic() - start:>4.0f} s, '
              f'test {len(ran):>4} of {sum(map(len, tests.values())):>4}: {room_of(mutant.file)}:{mutant.line} '
              f'{mutant.qualname} {mutant.why} {self.killed.get(i, "")}', flush=True)

    def _groups(self, left: list[int]) -> list[list[int]]:
        """Mutants of one group lie in different files."""
        groups: list[list[int]] = []
        for i in left:
            free = (g for g in groups if all(self.mutants[j].file != self.mutants[i].file for j in g))
            group = next(free, None)
            groups.append([i]) if group is None else group.append(i)
        return groups

    def _together(self, group: list[int], pool: Executor) -> None:
        """A whole group meets the tests that run any of its statements; alone, each then those that failed."""
        changes = {self.mutants[i].file: self.mutants[i].code for i in group}
        others, union = {i: self._others(i) for i in group}, defaultdict(set)
        for tests in others.values():
            for file, chosen in tests.items():
                union[file] |= chosen.keys()
        files, n = list(union), 4 * self.jobs
        parts = [{file: self._limited(file, union[file]) for file in files[k::n]} for k in range(n)]
        start, failed = time.monotonic(), set().union(*pool.map(partial(self._failing, changes), parts))
        print(f'{len(group)} at once, {sum(map(len, union.values()))} tests: {len(failed)} fail, '
              f'{time.monotonic() - start:.0f} s', flush=True)

        def suspected(i: int) -> None:
            self._alone(i, {file: {test: limit for test, limit in tests.items() if test in failed}
                            for file, tests in others[i].items() if not failed.isdisjoint(tests)})
        list(pool.map(suspected, group))

    def _failing(self, changes: dict[Path, str], tests: Tests) -> set[str]:
        """Which tests do not pass; all of a file that cannot be read."""
        failed: set[str] = set()
        while tests:
            passed, ran = self.trees.run(changes, tests, first_failure=False)
            failed |= {test for test, (outcome, _) in ran.items() if outcome != 'passed'}
            left = {file: {test: limit for test, limit in chosen.items() if test not in ran}
                    for file, chosen in tests.items()}
            left = {file: chosen for file, chosen in left.items() if chosen}
            if passed:
                break
            if not ran:  # the first file cannot be read, and nothing of what is left was
                return failed.union(*left.values())
            tests = left
        return failed

    def _unfit(self, file: str) -> set[str]:
        """The tests that killed a mutant and fail without one, the faster tests of the file before them."""
        took, killers = self.record.seconds, {by for by in self.killed.values() if by.startswith(f'{file}::')}
        longest = max(took[test] for test in killers)
        tests = self._limited(file, [test for test in self.record.tests_in(file) if took[test] <= longest])
        return self._failing({}, {file: tests}) & killers


# ---------------------------------------------------------------- what came out

def change_of(mutant: Any) -> str:
    """The mutant as a diff."""
    old = mutant.file.read_text(encoding='utf-8').splitlines(keepends=True)
    name = mutant.file.relative_to(ROOT).as_posix()
    return ''.join(difflib.unified_diff(old, mutant.code.splitlines(keepends=True), name, name, n=1))


def report(verdicts: Verdicts, equivalent: dict[int, str], seconds: float) -> int:
    """Print the table by room and the survivors as diffs; returns how many survived that are not equivalent."""
    rooms: dict[str, list[int]] = defaultdict(list)
    for i, mutant in enumerate(verdicts.mutants):
        rooms[room_of(mutant.file)].append(i)
    alive = [i for i in range(len(verdicts.mutants)) if i not in verdicts.killed and i not in equivalent]
    for i in alive:
        mutant = verdicts.mutants[i]
        print(f'\n--- survived: {i} {mutant.qualname}: {mutant.why}{"no test runs it" * (i in verdicts.unseen)}\n'
              + change_of(mutant))
    print(f'\n{"room":<28} killed of equivalent')
    for room, ids in sorted(rooms.items()):
        print(f'{room:<28} {sum(i in verdicts.killed for i in ids):>6} {len(ids):>2} '
              f'{sum(i in equivalent for i in ids):>10}')
    n = len(verdicts.mutants) - len(equivalent)
    print(f'{len(verdicts.killed)} of {n} killed ({len(verdicts.killed) / max(n, 1):.1%}), '
          f'{len(equivalent)} equivalent, {len(alive)} survived, {seconds:.0f} s')
    return len(alive)


def main() -> None:
    """Parse the command line, run, report; the exit status is 1 where the share that was killed is below `--least`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seed', type=int, default=1, help='of the sample')
    parser.add_argument('--n', type=int, default=100, help='mutants in the sample')
    parser.add_argument('--faults', action='store_true', help='the committed list of faults of meaning instead')
    parser.add_argument('--only', default='', help='of the rooms and functions whose name holds this')
    parser.add_argument('--jobs', type=int, default=os.cpu_count() or 1, help='runs at a time')
    parser.add_argument('--quick', action='store_true', help='only the tests of the mutant\'s own room')
    parser.add_argument('--enough', type=float, default=1., help='leave the last stage at this share of noticed ones')
    parser.add_argument('--least', type=float, default=0., help='exit with 1 below this share of killed ones')
    args = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS='1', MPLBACKEND='Agg')
    from tools.mutants.equivalent import EQUIVALENT
    from tools.mutants.faults import mutants_of_meaning
    from tools.mutants.sample import sampled
    mutants = [m for m in mutants_of_meaning() if args.only in f'{room_of(m.file)}:{m.qualname}'
               ] if args.faults else sampled(args.seed, args.n, args.only)
    start, trees = time.monotonic(), Trees(args.jobs)
    try:
        verdicts = Verdicts(mutants, trees, Record(trees, args.jobs), args.jobs)
        verdicts.run(args.quick, args.enough)
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
