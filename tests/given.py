"""Which arguments the tests ever give a value of their own: the calls in the test files, read without running them."""
from __future__ import annotations

import ast
import functools
import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import minifast.vision.all as public

ELSEWHERE = {
    'minifast.torch_core': 'tools under the names that old scripts import',
    'minifast.distributed': 'need several processes, see tests/distributed',
    'minifast.callback.distributed': 'need several processes, see tests/distributed',
    'minifast.show': 'how a figure looks', 'minifast.data.showing': 'how a figure looks',
    'minifast.callback.wandb': 'what a service is sent, see its own room',
    'minifast.callback.mlflow': 'what a service is sent, see its own room',
    'minifast.callback.tensorboard': 'what a service is sent, see its own room'}
"""Rooms whose arguments decide neither about a training nor about its data."""

OPTIONS_ELSEWHERE = frozenset('figsize cmap title imsize ax nrows ncols cols suptitle'.split())
"""How a figure looks."""

WITHOUT_EFFECT = {
    **{(name, 'p'): 'what is done is always done, in fastai too' for name in (
        'AffineCoordTfm', 'HSVTfm', 'LightingTfm', 'SpaceTfm', 'RandomCrop', 'Resize', 'RandomResizedCrop',
        'RandomResizedCropGPU')},
    **{(name, 'pos_label'): 'its docstring says so' for name in (
        'F1ScoreMulti', 'FBetaMulti', 'PrecisionMulti', 'RecallMulti', 'JaccardMulti')},
    ('RocAucBinary', 'multi_class'): 'its docstring says so',
    ('SeparableBlock', 'base_width'): 'its docstring says so',
    ('TimmBody', 'pretrained'): 'its docstring says so', ('TimmBody', 'n_in'): 'its docstring says so',
    ('Learner.distrib_ctx', 'in_notebook'): 'taken as fastai takes it, and without meaning',
    ('TfmdLists', 'use_list'): 'items are never made a list, for scripts that say False',
    ('DataLoader', 'pin_memory_device'): "torch's too looks at the device of now",
}
"""Arguments that are taken and change nothing, with the reason."""

TESTS = Path(__file__).resolve().parent


def doors() -> dict[str, tuple[Callable, set[str]]]:
    """What users call, as `Learner.fit`: the function, and the names that a call of it may go by.

    A class that inherits its constructor is another name of the class that has it.
    """
    objects = {name: obj for name, obj in vars(public).items() if not name.startswith('_')}
    objects = {name: obj for name, obj in objects.items()
               if callable(obj) and (getattr(obj, '__module__', '') or '').startswith('minifast')}
    found: dict[Any, tuple[str, Callable, set[str]]] = {}

    def add(name: str, func: Any, called: str) -> None:
        func = inspect.unwrap(func, stop=lambda f: hasattr(f, '__signature__'))  # which shows what is handed on
        if inspect.isfunction(func) and func.__module__.startswith('minifast'):
            found.setdefault(func, (name, func, set()))[2].add(called)
    for name, obj in objects.items():
        if not inspect.isclass(obj):
            add(name, getattr(obj, 'func', obj), name)
            continue
        if '__init__' in vars(obj):
            add(name, vars(obj)['__init__'], name)
        for method, value in vars(obj).items():
            if not method.startswith('_') or method == '__call__':
                add(f'{name}.{method}', getattr(value, '__func__', value), method)
    for name, obj in objects.items():
        if inspect.isclass(obj):
            add(name, obj.__init__, name)
    return {name: (func, names) for name, func, names in found.values()}


def options(func: Callable) -> dict[str, tuple[int | None, Any]]:
    """Argument -> its place (None: by keyword only) and its default, of those that have one."""
    parameters = list(inspect.signature(func).parameters.values())
    if parameters and parameters[0].name in ('self', 'cls'):
        parameters = parameters[1:]
    return {p.name: (i if p.kind is p.POSITIONAL_OR_KEYWORD else None, p.default)
            for i, p in enumerate(parameters) if p.default is not p.empty and not p.name.startswith('_')}


class Given:
    """Calls by the last part of their name: (positional values, keyword values) of each, as syntax.

    Counted as calls: `partial(name, ...)`; rows of tables such as `('name', (1, 2), {'option': 3})`;
    `super().__init__` in a class, for what it derives from; a call of what was just made, for its `__call__`. Of a
    `**` it is taken that it may be any dict of that function, or of a table that it reads; of a call by a local
    name, and of any helper in a parametrized test, that it may be of any of the `known` names in that function.
    """

    def __init__(self, files: list[Path], known: set[str]) -> None:
        self.known = known
        self.calls: dict[str, list[tuple[list[ast.expr], dict[str, list[ast.expr]]]]] = defaultdict(list)
        for file in files:
            self._read(ast.parse(file.read_text(encoding='utf-8')))

    def _read(self, tree: ast.Module) -> None:
        tables = {target.id: node.value for node in tree.body if isinstance(node, ast.Assign)
                  for target in node.targets if isinstance(target, ast.Name)}
        for top in tree.body:
            around, names, local = _with_tables(top, tables), None, _locals(top)
            meant = _names_in(around) & self.known if local else set()
            helped = bool(getattr(top, 'decorator_list', ()))
            for node in ast.walk(top):
                if isinstance(node, ast.Call):
                    args, func = node.args, node.func
                    keywords = {k.arg: [k.value] for k in node.keywords if k.arg}
                    if _last(func) == 'partial' and args:
                        func, args = args[0], args[1:]
                    if any(k.arg is None for k in node.keywords):
                        names = _named_values(around) if names is None else names
                        keywords = {**names, **keywords}
                    made_here = _last(func) in local or isinstance(func, ast.Call)
                    by_local = made_here or (helped and _last(func) not in self.known)
                    called = {_last(func), *(('__call__',) if made_here else ())}
                    for name in {*called, *(meant if keywords and by_local else ())}:
                        self.calls[name].append((args if name in called else [], keywords))
                elif isinstance(node, (ast.Tuple, ast.List)):
                    self._row(node.elts)
                elif isinstance(node, ast.Dict):
                    for key, value in zip(node.keys, node.values):
                        self._row([key, value])
                elif isinstance(node, ast.ClassDef):
                    self._class(node)

    def _row(self, cells: list[ast.expr | None]) -> None:
        names = [cell.value if isinstance(cell, ast.Constant) else _last(cell) for cell in cells if cell is not None]
        values = _named_values([cell for cell in cells if isinstance(cell, ast.Dict) or _last_of_call(cell) == 'dict'])
        args = next((cell.elts for cell in cells if isinstance(cell, ast.Tuple)), [])
        for name in names if values or args else ():
            if isinstance(name, str) and name:
                self.calls[name].append((args, values))

    def _class(self, node: ast.ClassDef) -> None:
        for call in ast.walk(node):
            if isinstance(call, ast.Call) and _last(call.func) == '__init__':
                for base in node.bases:
                    self.calls[_last(base)].append((call.args, {k.arg: [k.value] for k in call.keywords if k.arg}))

    def varied(self, names: set[str], option: str, place: int | None, default: Any) -> bool:
        """Whether a call by one of the names gives the option another value than its default."""
        for name in names:
            for args, keywords in self.calls.get(name, ()):
                values = keywords.get(option, [])
                starred = any(isinstance(a, ast.Starred) for a in args)
                if place is not None and place < len(args) and not starred:
                    values = [*values, args[place]]
                if any(not _is(value, default) for value in values):
                    return True
        return False


def _with_tables(top: ast.AST, tables: dict[str, ast.expr]) -> list[ast.AST]:
    """A function and the tables of its module that it reads, and those that these read."""
    found, seen = [top], set()
    for node in found:
        for name in ast.walk(node):
            if isinstance(name, ast.Name) and name.id in tables and name.id not in seen:
                seen.add(name.id)
                found.append(tables[name.id])
    return found


def _locals(top: ast.AST) -> set[str]:
    """The names that a function makes: of its arguments, of what it assigns, of functions in it."""
    if not isinstance(top, ast.FunctionDef):
        return set()
    nodes = list(ast.walk(top))
    return {node.arg for node in nodes if isinstance(node, ast.arg)} | {
        node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)} | {
        node.name for node in nodes if isinstance(node, ast.FunctionDef) and node is not top}


def _names_in(around: list[ast.AST]) -> set[str]:
    nodes = [node for top in around for node in ast.walk(top)]
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)} | {
        node.attr if isinstance(node, ast.Attribute) else node.id for node in nodes
        if isinstance(node, (ast.Attribute, ast.Name))}


def _last(func: Any) -> str:
    return func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else ''


def _last_of_call(node: Any) -> str:
    return _last(node.func) if isinstance(node, ast.Call) else ''


def _named_values(around: list[ast.AST]) -> dict[str, list[ast.expr]]:
    """Values under names in the dicts of a function and of the tables that it reads: what `**` may stand for."""
    found = defaultdict(list)
    for top in around:
        for node in ast.walk(top):
            if isinstance(node, ast.Dict):
                for k, v in zip(node.keys, node.values):
                    if isinstance(k, ast.Constant) and isinstance(k.value, str):
                        found[k.value].append(v)
            elif isinstance(node, ast.Call):
                for k in node.keywords:
                    if k.arg:
                        found[k.arg].append(k.value)
    return found


def _is(value: ast.expr, default: Any) -> bool:
    try:
        return bool(ast.literal_eval(value) == default)
    except (ValueError, TypeError):
        return False


@functools.lru_cache(None)
def given() -> Given:
    """All calls of the tests, but for those that only show that an argument is taken."""
    files = [file for file in sorted(TESTS.rglob('*.py')) if file.name not in ('surface_calls.py', 'surface.py')]
    return Given(files, {name for _, names in doors().values() for name in names})


def never_given() -> Iterator[tuple[str, str]]:
    """(door, argument) that no test gives another value than the default."""
    from test_effects import TOLD
    from test_effects_training import BUILT
    for name, (func, names) in doors().items():
        if func.__module__ in ELSEWHERE:
            continue
        for option, (place, default) in options(func).items():
            if option not in OPTIONS_ELSEWHERE and (name, option) not in {*TOLD, *BUILT, *WITHOUT_EFFECT}:
                if not given().varied(names, option, place, default):
                    yield name, option
