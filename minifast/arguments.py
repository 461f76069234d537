"""Unknown keyword arguments, which are refused, or left out with a warning, with the nearest name that was meant."""
from __future__ import annotations

import difflib
import functools
import inspect
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

__all__ = ['check_kwargs', 'near_match', 'tells_near_match']


def near_match(name: str, candidates: Iterable[str]) -> str:
    """`", did you mean 'x'?"` for the candidate nearest to `name`, an empty string where none is near."""
    near = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.6)
    return f', did you mean {near[0]!r}?' if near else ''


def check_kwargs(func_name: str, kwargs: Mapping[str, Any], allowed: Iterable[str]) -> None:
    """Refuse keyword arguments that `func_name` does not take.

    Raises:
        TypeError: naming the first unknown keyword and the nearest allowed one.
    """
    allowed = list(allowed)
    for name in kwargs:
        if name not in allowed:
            raise TypeError(f'{func_name}() got an unexpected keyword argument {name!r}{near_match(name, allowed)}')


def known_kwargs(func_name: str, kwargs: Mapping[str, Any], allowed: Iterable[str],
                 hints: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The keyword arguments that `func_name` knows; for doors where fastai takes any and passes over the rest.

    Each of the others is told in a warning, with the nearest known one, and left out, so that scripts run on.

    Args:
        hints: what else to say about a name: where its meaning is to be had.
    """
    allowed, hints = list(allowed), hints or {}
    known = {}
    for name, value in kwargs.items():
        if name in allowed:
            known[name] = value
            continue
        hint = f'; {hints[name]}' if name in hints else near_match(name, allowed)
        warnings.warn(f'{func_name}() takes no keyword argument {name!r} and leaves it out{hint}',
                      stacklevel=callers_level())
    return known


def callers_level() -> int:
    """The `stacklevel` of the nearest line that is not in this package, seen from who calls this."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get('__name__', '').split('.')[0] == 'minifast':
        level, frame = level + 1, frame.f_back
    return level


def refuse_unknown(func: Callable, func_name: str, kwargs: Mapping[str, Any]) -> None:
    """Refuse keyword arguments that are not in the signature of `func`.

    Raises:
        TypeError: naming the first unknown keyword and the nearest one that is there.
    """
    parameters = inspect.signature(func).parameters.values()
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        check_kwargs(func_name, kwargs, [p.name for p in parameters if p.name != 'self'])


def tells_near_match(func: Callable) -> Callable:
    """Decorate `func` so that an unknown keyword argument is refused with the nearest one it takes.

    For the doors that users knock at; Python alone names the unknown one only.
    """
    parameters = inspect.signature(func).parameters
    names = [name for name in parameters if name != 'self']
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        raise TypeError(f'{func.__qualname__} takes any keyword: call check_kwargs in it')

    @functools.wraps(func)
    def door(*args: Any, **kwargs: Any) -> Any:
        if not kwargs.keys() <= set(names):
            check_kwargs(func.__qualname__.removesuffix('.__init__'), kwargs, names)
        return func(*args, **kwargs)
    return door
