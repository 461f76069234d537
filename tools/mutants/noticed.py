"""Faults of the list with a test that notices each, short enough for every run of the tests.

`python -m tools.mutants.noticed --seed 1 --n 40` draws them and writes `tests/data/faults_noticed.json`;
tests/test_mutants_noticed.py puts each into the loaded package, in a process of its own, and runs its one test.
"""
from __future__ import annotations

import argparse
import ast
import functools
import importlib
import inspect
import json
import multiprocessing
import os
import random
import re
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from tools.mutants.faults import FAULTS
from tools.mutants.operations import Fault, Mutant
from tools.mutants.trees import ROOT, room_of

__all__ = ['NOTICED', 'Runner', 'fault_of', 'put_in']

NOTICED = ROOT / 'tests' / 'data' / 'faults_noticed.json'
LIMIT_S = 60.


# ---------------------------------------------------------------- into the loaded package

def _function_at(obj: Any, names: list[str]) -> FunctionType:
    for name in names:
        obj = inspect.getattr_static(obj, name)
        obj = obj.fget if isinstance(obj, property) else getattr(obj, '__func__', obj)
        obj = inspect.unwrap(obj) if callable(obj) else obj
    if not isinstance(obj, FunctionType):
        raise LookupError(f'{".".join(names)} is no function')
    return obj


def _code_at(code: CodeType, names: list[str]) -> CodeType:
    for name in names:
        code = next(c for c in code.co_consts if isinstance(c, CodeType) and c.co_name == name)
    return code


def _node_at(tree: ast.AST, names: list[str]) -> Any:
    for name in names:
        tree = next(n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and n.name == name)
    return tree


def put_in(mutant: Mutant) -> None:
    """Give the function of a mutant, in the loaded package, its code and its defaults.

    Raises:
        LookupError: the target is no function of a module, or its decorators are what changes.
    """
    parts = mutant.file.relative_to(ROOT).with_suffix('').parts
    module = importlib.import_module('.'.join(parts[:-1] if parts[-1] == '__init__' else parts))
    names = mutant.qualname.split('/')[-1].split('.')
    function, tree = _function_at(module, names), ast.parse(mutant.code)
    code = _code_at(compile(tree, str(mutant.file), 'exec'), names)
    if code.co_freevars != function.__code__.co_freevars:
        raise LookupError(f'{mutant.qualname} sees other variables')
    args = _node_at(tree, names).args

    def value(node: ast.expr) -> Any:
        return eval(compile(ast.Expression(node), str(mutant.file), 'eval'), function.__globals__)
    function.__code__ = code
    function.__defaults__ = tuple(map(value, args.defaults)) or None
    function.__kwdefaults__ = {a.arg: value(d) for a, d in zip(args.kwonlyargs, args.kw_defaults) if d} or None


# ---------------------------------------------------------------- running the tests

def _run(mutant: Mutant | None, tests: tuple[str, ...], log: str) -> None:
    """In a process of its own: pytest with the fault put in; the exit status says what came out."""
    os.setsid()
    multiprocessing.set_start_method(None, force=True)
    os.chdir(ROOT)
    with open(log, 'w') as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    import pytest
    if mutant is not None:
        put_in(mutant)
    options = ['-x', '-q', '-p', 'no:cacheprovider']
    status = int(pytest.main([*options, *tests]))
    print(f'\n{time.process_time()} s of CPU', flush=True)
    os._exit(status)


@functools.cache
def _by_key() -> dict[tuple[str, str], Fault]:
    return {(fault.target, fault.why): fault for fault in FAULTS}


def fault_of(target: str, why: str) -> Fault:
    """The fault of the list with this target and this law.

    Raises:
        LookupError: it is not there any more: draw the faults anew.
    """
    try:
        return _by_key()[target, why]
    except KeyError:
        raise LookupError(f'{target}: "{why}" is no fault of the list: run python -m tools.mutants.noticed') from None


class Runner:
    """Runs tests in processes that have the slow imports done."""

    def __init__(self) -> None:
        self.context = multiprocessing.get_context('forkserver')
        self.context.set_forkserver_preload(['minifast.vision.all', 'pytest', 'sklearn.metrics'])

    def run(self, mutant: Mutant | None, tests: tuple[str, ...]) -> tuple[int | None, str, float]:
        """pytest's exit status (None: it took too long), what it wrote, and seconds of CPU."""
        with tempfile.NamedTemporaryFile(suffix='.log') as log:
            process = self.context.Process(target=_run, args=(mutant, tests, log.name))
            process.start()
            process.join(LIMIT_S)
            if process.exitcode is None:
                process.kill()
                process.join()
                return None, 'too long', LIMIT_S
            text = Path(log.name).read_text(errors='replace')
            return process.exitcode, text, float((re.findall(r'^(\S+) s of CPU$', text, re.M) or [0.])[-1])


def _noticed_by(runner: Runner, fault: Fault, longest_s: float) -> str | None:
    """The first test of the fault's room that notices it, and in less than so many seconds; None if there is none."""
    from tools.mutants.__main__ import named_after
    mutant = fault.applied()
    file = named_after(room_of(mutant.file))
    if file is None:  # no file of its own: the tests that import the room take minutes
        return None
    status, text, _ = runner.run(mutant, (file,))
    found = re.search(r'^FAILED (.+?)(?: - .*)?$', text, re.M) if status == 1 else None
    if found is None:
        return None
    status, _, took = runner.run(mutant, (found[1],))
    alone, _, _ = runner.run(None, (found[1],))
    return found[1] if (status, alone) == (1, 0) and took < longest_s else None


def main() -> None:
    """Draw faults until there are enough with a short test, and write them down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--n', type=int, default=40)
    parser.add_argument('--longest', type=float, default=4., help='seconds of CPU of a test')
    given = parser.parse_args()
    drawn, runner, found = random.Random(given.seed).sample(FAULTS, len(FAULTS)), Runner(), []
    with ThreadPoolExecutor(2) as pool:
        def look(fault: Fault) -> str | None:
            return _noticed_by(runner, fault, given.longest) if len(found) < given.n else None
        tests = pool.map(look, drawn)
        for fault, test in zip(drawn, tests):
            print(f'{fault.target:>40}  {test or "-"}', flush=True)
            if test is not None and len(found) < given.n:
                found.append({'target': fault.target, 'why': fault.why, 'test': test})
                NOTICED.write_text(json.dumps(found, indent=1) + '\n', encoding='utf-8')


if __name__ == '__main__':
    sys.exit(main())
