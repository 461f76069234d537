"""Ways to put one fault into a function: by its name and on its syntax tree, so that a fault survives a move.

A target is a qualified name, `DataLoader.new` or `get_files`, in whichever room of the package it lies; where two rooms
have the name, the part of the module that tells them apart is put before it: `metrics/accuracy`.
"""
from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import libcst as cst

__all__ = ['Fault', 'Mutant', 'assigned', 'constant', 'default', 'drop', 'instead', 'returns', 'source_of', 'start',
           'swapped', 'undecorated', 'without_keyword', 'without_with']

PACKAGE = Path(__file__).resolve().parents[2] / 'minifast'

Operation = Callable[[cst.CSTNode], cst.CSTNode]


@dataclass(frozen=True)
class Mutant:
    """A file with one change in it."""

    file: Path
    qualname: str
    line: int
    code: str
    why: str = ''


@dataclass(frozen=True)
class Fault:
    """One fault of meaning: where, what, and the law that it breaks."""

    target: str
    operation: Operation
    why: str

    def applied(self) -> Mutant:
        """The file it lies in with the fault in it.

        Raises:
            LookupError: the target is not there, or nothing in it changes: the code moved on and the list did not.
        """
        file, qualname = _find(self.target)
        changer = _Changer(qualname, self.operation)
        text = file.read_text(encoding='utf-8')
        changed = _parsed(file).visit(changer).code
        if not changer.found or changed == text:
            raise LookupError(f'{self.target}: the fault "{self.why}" changes nothing')
        line = next(i for i, (a, b) in enumerate(zip(text.splitlines(), changed.splitlines()), 1) if a != b)
        return Mutant(file, self.target, line, changed, self.why)


@cache
def _parsed(file: Path) -> cst.Module:
    return cst.parse_module(file.read_text(encoding='utf-8'))


@cache
def _names() -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for file in sorted(PACKAGE.rglob('*.py')):
        for name in _defined(ast.parse(file.read_text(encoding='utf-8')).body, ''):
            found.setdefault(name, []).append(file)
    return found


def _defined(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield prefix + node.name
            yield from _defined(node.body, f'{prefix}{node.name}.')
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                yield from (prefix + n.id for n in ast.walk(target) if isinstance(n, ast.Name))
        elif isinstance(node, (ast.If, ast.Try, ast.With)):
            yield from _defined(node.body, prefix)


def _find(target: str) -> tuple[Path, str]:
    part, _, qualname = target.rpartition('/')
    files = list(dict.fromkeys(f for f in _names().get(qualname, []) if part in f.as_posix()))
    if len(files) != 1:
        where = [f.relative_to(PACKAGE).as_posix() for f in files]
        raise LookupError(f'{target}: {"no such name in the package" if not files else f"in several rooms: {where}"}')
    return files[0], qualname


class _Changer(cst.CSTTransformer):
    """Applies an operation to the definition of a qualified name, nothing else."""

    def __init__(self, qualname: str, operation: Operation) -> None:
        super().__init__()
        self.wanted, self.operation, self.stack, self.found = qualname.split('.'), operation, [], False

    def _enter(self, node: cst.CSTNode) -> bool:
        self.stack.append(node.name.value)
        return self.stack == self.wanted[:len(self.stack)]  # what lies elsewhere is not walked through

    def _leave(self, new: cst.CSTNode) -> cst.CSTNode:
        here, _ = list(self.stack), self.stack.pop()
        if here != self.wanted:
            return new
        self.found = True
        return self.operation(new)

    visit_FunctionDef = visit_ClassDef = _enter

    def leave_FunctionDef(self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef) -> cst.CSTNode:
        return self._leave(updated_node)

    leave_ClassDef = leave_FunctionDef

    def leave_SimpleStatementLine(self, original_node: cst.SimpleStatementLine,
                                  updated_node: cst.SimpleStatementLine) -> cst.CSTNode:
        if self.stack == self.wanted[:-1] and self.wanted[-1] in _assigned_names(updated_node):
            self.found = True
            return self.operation(updated_node)
        return updated_node


def _assigned_names(line: cst.SimpleStatementLine) -> list[str]:
    tree = ast.parse(source_of(line))
    return [n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]


# ---------------------------------------------------------------- trees compared by meaning, not by spaces

_EMPTY = cst.Module([])


def source_of(node: cst.CSTNode) -> str:
    """The text of a node, from the first column."""
    import textwrap
    return textwrap.dedent(_EMPTY.code_for_node(node)).strip()


def _meaning(source: str) -> str | None:
    try:
        return ast.dump(ast.parse(source.strip()))
    except SyntaxError:
        return None


def _is_expression(source: str) -> bool:
    tree = ast.parse(source.strip()).body
    return len(tree) == 1 and isinstance(tree[0], ast.Expr)


def _body_with(function: cst.FunctionDef, statements: list[cst.BaseStatement]) -> cst.FunctionDef:
    old = list(function.body.body)
    docstring = old[:1] if function.get_docstring() else []
    return function.with_changes(body=function.body.with_changes(body=docstring + statements + old[len(docstring):]))


# ---------------------------------------------------------------- the operations

def start(code: str) -> Operation:
    """Statements that run first: `start('n = 1')` ignores the argument n, `start('a, b = b, a')` swaps two."""
    return lambda function: _body_with(function, list(cst.parse_module(code + '\n').body))


def returns(expression: str) -> Operation:
    """The function returns that at once: `returns('x')` makes a transform that does nothing."""
    return start(f'return {expression}')


def default(parameter: str, value: str) -> Operation:
    """Another default for a parameter."""
    def change(function: cst.FunctionDef) -> cst.FunctionDef:
        def one(p: cst.Param) -> cst.Param:
            return p.with_changes(default=cst.parse_expression(value)) if p.name.value == parameter else p
        params = function.params
        return function.with_changes(params=params.with_changes(
            params=[one(p) for p in params.params], kwonly_params=[one(p) for p in params.kwonly_params]))
    return change


def swapped(a: str, b: str) -> Operation:
    """Two arguments change places."""
    return start(f'{a}, {b} = {b}, {a}')


def constant(value: str) -> Operation:
    """Another value for a name that a module or a class assigns."""
    def change(line: cst.SimpleStatementLine) -> cst.SimpleStatementLine:
        statement = line.body[0].with_changes(value=cst.parse_expression(value))
        return line.with_changes(body=[statement, *line.body[1:]])
    return change


class _Instead(cst.CSTTransformer):
    def __init__(self, old: str, new: str, nth: int) -> None:
        super().__init__()
        self.old, self.new, self.nth, self.seen = _meaning(old), new, nth, 0
        assert self.old is not None, f'this is no Python: {old}'
        # a call is an expression and a statement: it is a statement where a statement takes its place
        self.is_statement = not all(_is_expression(text) for text in (old, new))

    def on_leave(self, original_node: cst.CSTNode, updated_node: cst.CSTNode) -> cst.CSTNode:
        updated_node = super().on_leave(original_node, updated_node)
        kind = cst.BaseSmallStatement if self.is_statement else cst.BaseExpression
        if not isinstance(updated_node, kind) or _meaning(source_of(updated_node)) != self.old:
            return updated_node
        self.seen += 1
        if self.nth is not None and self.seen != self.nth + 1:
            return updated_node
        if not self.is_statement:
            # in brackets, so that what stands around binds as before
            return cst.parse_expression(f'({self.new})')
        return cst.parse_module(self.new + '\n').body[0].body[0]


def instead(old: str, new: str, nth: int | None = 0) -> Operation:
    """An expression or a statement becomes another; `nth` counts equal ones, None means all of them."""
    return lambda node: node.visit(_Instead(old, new, nth))


class _Drop(cst.CSTTransformer):
    def __init__(self, what: str, nth: int) -> None:
        super().__init__()
        self.what, self.nth, self.seen = _meaning(what) or what, nth, -1
        self.name = what

    def leave_SimpleStatementLine(self, original_node: cst.SimpleStatementLine,
                                  updated_node: cst.SimpleStatementLine) -> cst.CSTNode:
        if not any(_is_about(s, self.name) for s in updated_node.body):
            return updated_node
        self.seen += 1
        return cst.parse_statement('pass\n') if self.seen == self.nth else updated_node


def _is_about(statement: cst.BaseSmallStatement, name: str) -> bool:
    """Whether a statement calls `name`, assigns to it, or is it."""
    if _meaning(source_of(statement)) == _meaning(name):
        return True
    if isinstance(statement, cst.Expr) and isinstance(statement.value, cst.Call):
        return source_of(statement.value.func) == name
    if isinstance(statement, (cst.Assign, cst.AugAssign)):
        targets = [t.target for t in statement.targets] if isinstance(statement, cst.Assign) else [statement.target]
        return any(source_of(t) == name for t in targets)
    return False


def drop(name: str, nth: int = 0) -> Operation:
    """A statement is forgotten: the call of `name`, the assignment to it, or the statement that reads so."""
    return lambda node: node.visit(_Drop(name, nth))


def assigned(name: str, value: str, nth: int = 0) -> Operation:
    """Another value is assigned to `name`."""
    class Change(cst.CSTTransformer):
        seen = -1

        def leave_Assign(self, original_node: cst.Assign, updated_node: cst.Assign) -> cst.Assign:
            if not any(source_of(t.target) == name for t in updated_node.targets):
                return updated_node
            self.seen += 1
            return updated_node.with_changes(value=cst.parse_expression(value)) if self.seen == nth else updated_node
    return lambda node: node.visit(Change())


def without_keyword(callee: str, keyword: str) -> Operation:
    """Calls of `callee` leave a keyword argument out."""
    class Change(cst.CSTTransformer):
        def leave_Call(self, original_node: cst.Call, updated_node: cst.Call) -> cst.Call:
            if source_of(updated_node.func) != callee:
                return updated_node
            return updated_node.with_changes(args=[a for a in updated_node.args
                                                   if a.keyword is None or a.keyword.value != keyword])
    return lambda node: node.visit(Change())


def undecorated(name: str) -> Operation:
    """A decorator is forgotten."""
    def change(function: cst.FunctionDef) -> cst.FunctionDef:
        return function.with_changes(decorators=[d for d in function.decorators if source_of(d.decorator) != name])
    return change


def without_with(call: str) -> Operation:
    """A `with call():` block runs its body without it."""
    class Change(cst.CSTTransformer):
        def leave_With(self, original_node: cst.With, updated_node: cst.With) -> cst.CSTNode:
            kept = [item for item in updated_node.items if not source_of(item.item).startswith(call)]
            if len(kept) == len(updated_node.items):
                return updated_node
            if kept:
                return updated_node.with_changes(items=kept)
            return cst.If(test=cst.Name('True'), body=updated_node.body)
    return lambda node: node.visit(Change())
