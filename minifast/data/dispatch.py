"""Functions chosen by the types of their arguments: the one overload table, and `typedispatch` on top of it."""
from __future__ import annotations

import collections.abc
import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ['Overload', 'Overloads', 'dispatch', 'typedispatch']

_FAR = 1 << 20
"""Rank of a match by `object` or by an abstract base class, behind every class of the argument's own ancestry."""


class Overload(NamedTuple):
    """One function of a table.

    Attributes:
        func: the function.
        types: for each parameter that chooses, the classes it takes.
        takes_self: the first parameter is the transform itself.
        returns: the class the result is marked as; `object`: as the argument was, where that is the narrower class;
            None: the result stays as it is.
    """

    func: Callable
    types: tuple[tuple[type, ...], ...]
    takes_self: bool
    returns: type | None


class Overloads:
    """Functions of one name; which one runs is decided once for each combination of argument types and remembered.

    As a class attribute it binds like a method. Later functions replace earlier ones of the same types; those of a
    class come before those of its bases.

    Args:
        name: for messages.
        parents: the tables of the base classes, nearest first.
        n_args: how many arguments choose; None: all that are annotated.
    """

    _version = 0  # counts additions to any table: what was decided before may no longer hold

    def __init__(self, name: str, parents: tuple[Overloads, ...] = (), n_args: int | None = 1) -> None:
        self.name, self.parents, self.n_args = name, parents, n_args
        self.entries: list[Overload] = []
        self._decided: dict[Any, Overload | None] = {}
        self._decided_at = -1

    def add(self, func: Callable, takes_self: bool = False) -> Overloads:
        """Add a function; the annotations of its parameters say what it is for, no annotation means anything."""
        if isinstance(func, staticmethod):
            func, takes_self = func.__func__, False
        choosing, returns = _signature_types(func, takes_self, self.n_args)
        self.entries.append(Overload(func, choosing, takes_self, returns))
        Overloads._version += 1
        return self

    def find(self, *classes: type) -> Overload | None:
        """The overload for arguments of these classes, None where there is none."""
        if self._decided_at != Overloads._version:
            self._decided, self._decided_at = {}, Overloads._version
        try:
            return self._decided[classes]
        except KeyError:
            found = self._decided[classes] = self._decide(classes)
            return found

    def __getitem__(self, classes: type | tuple[type, ...]) -> Callable:
        """The function for arguments of these classes, of whatever class those left out are: `show_batch[object]`.

        Raises:
            KeyError: there is none.
        """
        classes = classes if isinstance(classes, tuple) else (classes,)
        most = max((len(entry.types) for entry in self.all_entries()), default=0)
        found = self.find(*classes, *[object] * (most - len(classes)))
        if found is None:
            raise KeyError(f'{self.name} has no function for ({", ".join(c.__name__ for c in classes)}), only for '
                           f'{self.describe()}')
        return found.func

    def all_entries(self) -> list[Overload]:
        """Own functions, then those of the base classes."""
        return [*reversed(self.entries), *(entry for parent in self.parents for entry in parent.all_entries())]

    def _decide(self, classes: tuple[type, ...]) -> Overload | None:
        ranked = [(_ranks(entry.types, classes), entry) for entry in self.all_entries()]
        fitting = [(ranks, entry) for ranks, entry in ranked if ranks is not None]
        return min(fitting, key=lambda pair: pair[0])[1] if fitting else None

    def __get__(self, obj: Any, owner: type | None = None) -> Any:
        return self if obj is None else functools.partial(self.call_for, obj)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the overload for these arguments."""
        return self._fitting(args).func(*args, **kwargs)

    def call_for(self, obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the overload for these arguments as a method of `obj`."""
        found = self._fitting(args)
        return found.func(obj, *args, **kwargs) if found.takes_self else found.func(*args, **kwargs)

    def _fitting(self, args: tuple) -> Overload:
        found = self.find(*map(type, args[:self.n_args]))
        if found is None:
            seen = ', '.join(type(a).__name__ for a in args[:self.n_args])
            raise TypeError(f'{self.name} has no function for ({seen}), only for {self.describe()}')
        return found

    def describe(self) -> str:
        """The types there are functions for, as text."""
        return '; '.join(', '.join('|'.join(c.__name__ for c in options) for options in entry.types) or 'anything'
                         for entry in self.all_entries())

    def __len__(self) -> int:
        return len(self.all_entries())

    def __getstate__(self) -> dict:
        return {**self.__dict__, '_decided': {}, '_decided_at': -1}


def _ranks(wanted: tuple[tuple[type, ...], ...], classes: tuple[type, ...]) -> tuple[int, ...] | None:
    """How far each argument's class is from what is wanted, None where one does not fit."""
    if len(wanted) > len(classes):
        return None
    ranks = [min((_rank(option, cls) for option in options), default=_FAR + 1) for options, cls in zip(wanted, classes)]
    return None if any(r > _FAR for r in ranks) else (*ranks, *[_FAR] * (len(classes) - len(ranks)))


def _rank(option: type, cls: type) -> int:
    if option is object:
        return _FAR
    mro = cls.__mro__
    if option in mro:
        return mro.index(option)
    try:
        return _FAR - 1 if issubclass(cls, option) else _FAR + 1
    except TypeError:  # a Protocol that is not runtime-checkable
        return _FAR + 1


def _signature_types(func: Callable, takes_self: bool,
                     n_args: int | None) -> tuple[tuple[tuple[type, ...], ...], type | None]:
    """(classes of each choosing parameter, class of the result) from the annotations of a function."""
    target = func.__init__ if inspect.isclass(func) else func
    try:
        names = [p.name for p in inspect.signature(func).parameters.values()
                 if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and (n_args or p.default is p.empty)]
    except (TypeError, ValueError):  # built-in functions tell nothing
        return ((object,),) * (n_args or 0), object
    names = (names[1:] if takes_self else names)[:n_args]
    hints = {} if inspect.isclass(func) else _hints(target, names, strict=takes_self or n_args is None)
    if n_args is None:
        while names and names[-1] not in hints:
            names.pop()
    choosing = tuple(_classes(hints.get(name, object)) for name in names) or ((object,),) * (n_args or 0)
    returns = hints.get('return', object)
    returns = _classes(returns)[0] if returns is not type(None) else None
    return choosing, returns


def _hints(func: Callable, names: list[str], strict: bool) -> dict[str, Any]:
    """The annotations of `names` and of the result; postponed ones are looked up where the function was defined.

    Raises:
        TypeError: a parameter's class is not to be found there, and the function is written to be chosen by it.
    """
    found, written = {}, getattr(func, '__annotations__', {})
    spaces = getattr(inspect.unwrap(func), '__globals__', {}), {}
    if isinstance(func, types.FunctionType):
        cells = zip(func.__code__.co_freevars, func.__closure__ or ())
        spaces[1].update((name, cell.cell_contents) for name, cell in cells if cell != types.CellType())
    for name in [name for name in (*names, 'return') if name in written]:
        one = types.SimpleNamespace(__annotations__={name: written[name]})
        try:
            found.update(typing.get_type_hints(one, *spaces))
        except NameError as error:
            if strict and name != 'return':
                where = getattr(func, '__qualname__', func)
                raise TypeError(f'the annotation of {name!r} in {where} chooses what it is applied to, and '
                                f'{error.name!r} cannot be found at module level: define that class there, or leave '
                                'out `from __future__ import annotations`') from error
    return found


def _classes(hint: Any) -> tuple[type, ...]:
    """The classes an annotation stands for; unions and (old style) tuples stand for several."""
    if hint in (Any, inspect.Parameter.empty, object):
        return (object,)
    if hint is None:
        return (type(None),)
    if isinstance(hint, (tuple, list)):
        return tuple(c for h in hint for c in _classes(h))
    if isinstance(hint, type) and typing.get_origin(hint) is None:
        return (hint,)
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return tuple(c for h in typing.get_args(hint) for c in _classes(h))
    if origin is typing.Annotated:
        return _classes(typing.get_args(hint)[0])
    if isinstance(origin, type):
        return (origin,)
    if isinstance(hint, typing.TypeVar):
        return _classes(hint.__bound__ or object)
    return (collections.abc.Callable,) if hint is typing.Callable else (object,)


_functions: dict[str, Overloads] = {}


def typedispatch(func: Callable) -> Overloads:
    """Decorator: add `func` to the functions of its name, chosen by the types of the annotated arguments.

    The functions of one name form one table, wherever they are defined; so a plugin adds a way of showing its own
    types to the loaders' `show_batch` and `show_results`.

    Example:
        >>> @typedispatch
        ... def show_batch(x: MyType, y, samples, ctxs=None, max_n=9, **kwargs): ...
    """
    name = func.__qualname__.split('.<locals>.')[-1]
    table = _functions.get(name)
    if table is None:
        table = _functions[name] = Overloads(name, n_args=None)
        table.__doc__, table.__name__ = func.__doc__, name
    return table.add(func)


dispatch = typedispatch
"""`typedispatch` under the name of later releases."""
