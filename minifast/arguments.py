"""Arguments that are refused with the nearest name that was meant."""
from __future__ import annotations

import difflib
import functools
import inspect
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


def tells_near_match(func: Callable) -> Callable:
    """Decorate `func` so that an unknown keyword argument is refused with the nearest one it takes.

    For the doors that users knock at; Python alone names the unknown one only.
    """
    names = [name for name in inspect.signature(func).parameters if name != 'self']

    @functools.wraps(func)
    def door(*args: Any, **kwargs: Any) -> Any:
        if not kwargs.keys() <= set(names):
            check_kwargs(func.__qualname__.removesuffix('.__init__'), kwargs, names)
        return func(*args, **kwargs)
    return door
