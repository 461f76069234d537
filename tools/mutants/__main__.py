"""`python -m tools.mutants --n 100 --seed 1`: which faults do the tests notice, and which go by?

One run of the whole suite records which test runs which lines. Then each mutant is put into a copy of the tree and
meets the tests that run its statement, its room's own first and the fastest first, up to the first that fails.
"""
from __future__ import annotations

import argparse
import difflib
import os
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tools.mutants.recorded import Record
from tools.mutants.trees import ROOT, Trees, test_files


# ---------------------------------------------------------------- which tests a mutant meets

def room_of(file: Path) -> str:
    """`minifast/data/load.py` -> `data.load`."""
    parts = file.relative_to(ROOT / 'minifast').with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def own_tests(room: str) -> str | None:
    """The test file named after a room, or after the folder it lies in."""
    parts = room.split('.')
    files = (f'tests/test_{"_".join(parts[:n])}.py' for n in range(len(parts), 0, -1))
    return next((f for f in files if f in test_files()), None)


class Verdicts:
    """Runs mutants; `killed[i]` says which test noticed mutant i, `unseen` which ones no test runs."""

    def __init__(self, mutants: list[Any], trees: Trees, record: Record, jobs: int, seconds: float) -> None:
        self.mutants, self.trees, self.record, self.jobs, self.seconds = mutants, trees, record, jobs, seconds
        self.killed: dict[int, str] = {}
        self.unseen: set[int] = set()
        self.unfit: set[str] = set()

    def tests_for(self, i: int) -> dict[str, dict[str, float]]:
        """By file: the room's own first, then the fastest; in it those that run the line, then the room's others."""
        mutant = self.mutants[i]
        tests, seen = self.record.tests_of(mutant.file, mutant.line)
        if not seen:
            self.unseen.add(i)
        took, files = self.record.seconds, defaultdict(list)
        for test in tests:
            files[test.partition('::')[0]].append(test)
        own = own_tests(room_of(mutant.file))
        if own:
            files[own] += sorted((t for t in took if t.startswith(f'{own}::') and t not in files[own]), key=took.get)
        left, chosen = self.seconds, {}
        for file in sorted(files, key=lambda f: (f != own, sum(took[t] for t in files[f]))):
            for test in files[file]:
                if test not in self.unfit and left > 0:
                    left -= took[test]
                    chosen.setdefault(file, {})[test] = 20 + 10 * took[test]
        return chosen

    def _meets(self, i: int) -> None:
        mutant, start = self.mutants[i], time.monotonic()
        tests = self.tests_for(i)
        passed, ran = self.trees.run({mutant.file: mutant.code}, tests)
        if not passed:
            by = next((test for test, (outcome, _) in ran.items() if outcome != 'passed'), 'none could be read')
            self.killed[i] = by
        print(f'{i:>4} {"goes by" if passed else "killed "} {time.monotonic() - start:>4.0f} s, '
              f'test {len(ran):>4} of {sum(map(len, tests.values())):>4}: {room_of(mutant.file)}:{mutant.line} '
              f'{mutant.qualname} {mutant.why} {self.killed.get(i, "")}', flush=True)

    def run(self) -> None:
        """All of them; those again whose killer fails in that order of tests without any mutant."""
        left = range(len(self.mutants))
        while left:
            with ThreadPoolExecutor(self.jobs) as pool:
                list(pool.map(self._meets, left))
                unfit = set().union(*pool.map(self._unfit, sorted({by.partition('::')[0] for by in self.killed.values()
                                                                  if '::' in by})))
            self.unfit |= unfit
            left = [i for i, by in self.killed.items() if by in unfit]
            for i in left:
                print(f'{self.killed[i]} fails without a mutant too: {i} runs again', flush=True)
                del self.killed[i]

    def _unfit(self, file: str) -> set[str]:
        """The tests that killed a mutant and fail without one, the faster tests of the file before them."""
        took, killers = self.record.seconds, {by for by in self.killed.values() if by.startswith(f'{file}::')}
        longest = max(took[test] for test in killers)
        tests = sorted((t for t in took if t.startswith(f'{file}::') and took[t] <= longest), key=took.get)
        _, ran = self.trees.run({}, {file: {test: 20 + 10 * took[test] for test in tests}}, first_failure=False)
        return {test for test, (outcome, _) in ran.items() if outcome != 'passed'} & killers


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
    parser.add_argument('--only', default='', help='faults and rooms whose name holds this')
    parser.add_argument('--jobs', type=int, default=os.cpu_count() or 1, help='runs at a time')
    parser.add_argument('--seconds', type=float, default=float('inf'),
                        help='of tests that a mutant meets at most, for a quick look')
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
        verdicts = Verdicts(mutants, trees, Record(trees, args.jobs), args.jobs, args.seconds)
        verdicts.run()
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
