"""A seeded sample of small faults of syntax: mutmut's operators on the package, without its runner.

mutmut runs mutants by rewriting each function into a switch, which changes signatures, source lines and module names
that this package looks at, and it leaves decorated functions out. Its table of operators is what is worth having.
"""
from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators

from tools.mutants.operations import PACKAGE, Mutant, source_of
from tools.mutants.trees import room_of

__all__ = ['sampled']

_WORDS_FOR_PEOPLE = {'warn', 'print', 'add_note', 'help'}
"""Calls whose texts people read: another letter in them is no fault that a test should look for."""

_NO_ROOMS = {'all', 'basics', 'torch_basics', 'imports', '__init__', '__main__'}
"""Import lists: nothing in them runs."""


class _Places(cst.CSTVisitor):
    """Every node inside a function that an operator changes, with each of its changed forms."""

    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.depth = 0
        self.found: list[tuple[str, int, cst.CSTNode, cst.CSTNode]] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, (cst.Annotation, cst.Raise, cst.Assert, cst.Import, cst.ImportFrom, cst.Decorator)):
            return False
        if isinstance(node, cst.Call) and source_of(node.func).split('.')[-1] in _WORDS_FOR_PEOPLE:
            return False
        if isinstance(node, (cst.FunctionDef, cst.ClassDef)):
            self.stack.append(node.name.value)
            self.depth += isinstance(node, cst.FunctionDef)
        if self.depth and not self._is_docstring(node):
            for kind, operator in mutation_operators:
                if isinstance(node, kind):
                    line = self.get_metadata(PositionProvider, node, None)
                    at = line.start.line if line else 0
                    self.found += [('.'.join(self.stack), at, node, new) for new in operator(node)]
        return True

    def on_leave(self, node: cst.CSTNode) -> None:
        if isinstance(node, (cst.FunctionDef, cst.ClassDef)):
            self.stack.pop()
            self.depth -= isinstance(node, cst.FunctionDef)

    @staticmethod
    def _is_docstring(node: cst.CSTNode) -> bool:
        return isinstance(node, cst.Expr) and isinstance(node.value, cst.BaseString)


def _places(file: Path) -> tuple[cst.Module, list]:
    wrapper = MetadataWrapper(cst.parse_module(file.read_text(encoding='utf-8')))
    visitor = _Places()
    wrapper.visit(visitor)
    return wrapper.module, visitor.found


def rooms() -> Iterator[Path]:
    """The files that hold code."""
    return (f for f in sorted(PACKAGE.rglob('*.py')) if f.stem not in _NO_ROOMS)


def sampled(seed: int, n: int, only: str = '') -> list[Mutant]:
    """`n` mutants of all there are, ordered by a digest of (seed, function, text that goes, text that comes).

    So a sample stays what it is but for the functions that changed: a test that was written for one of its mutants is
    met again after the next commit. With `only`, of those whose name, `data.load:DataLoader.new`, holds this.
    """
    ranked = []
    for file in rooms():
        module, found = _places(file)
        seen: Counter[tuple] = Counter()
        for qualname, line, old, new in found:
            if only not in f'{room_of(file)}:{qualname}':
                continue
            change = (qualname, module.code_for_node(old), module.code_for_node(new))
            seen[change] += 1
            rank = hashlib.sha256(repr((seed, *change, seen[change])).encode()).digest()
            ranked.append((rank, file, qualname, line, old, new, module))
    mutants: dict[tuple, Mutant] = {}
    for _, file, qualname, line, old, new, module in sorted(ranked, key=itemgetter(0)):
        code = module.deep_replace(old, new).code
        if code != module.code and _compiles(code):
            mutants[file, code] = Mutant(file, qualname, line, code)
        if len(mutants) == n:
            break
    return list(mutants.values())


def _compiles(code: str) -> bool:
    try:
        compile(code, 'mutant', 'exec')
    except SyntaxError:
        return False
    return True
