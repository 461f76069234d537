"""Names that are not what was meant: keyword arguments with the nearest one, attributes of others, sizes."""
from __future__ import annotations

import difflib
import functools
import inspect
import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar

from minifast.terminal import warn

__all__ = ['check_kwargs', 'near_match', 'tells_near_match']


P = ParamSpec('P')
R = TypeVar('R')


def near_match(name: str, candidates: Iterable[str]) -> str:
    """`", did you mean 'x'?"` for the one of the `candidates` nearest to `name`, an empty string where none is near."""
    near = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.6)
    return f', did you mean {near[0]!r}?' if near else ''


def check_kwargs(func_name: str, kwargs: Mapping[str, Any], allowed: Iterable[str]) -> None:
    """Refuse keyword arguments that `func_name` does not take.

    Args:
        func_name: the function, for the message.
        kwargs: the keyword arguments that it got.
        allowed: the names that it takes.

    Raises:
        TypeError: naming the first unknown keyword and the nearest allowed one.
    """
    allowed = list(allowed)
    for name in kwargs:
        if name not in allowed:
            raise TypeError(f'{func_name}() got an unexpected keyword argument {name!r}{near_match(name, allowed)}')


def known_kwargs(func_name: str, kwargs: Mapping[str, Any], allowed: Iterable[str],
                 hints: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The keyword arguments that `func_name` knows; for functions of which fastai's take any and ignore the rest.

    A warning names each of the others, with the nearest known one, and it is left out, so that scripts run on.

    Args:
        func_name: the function, for the warning.
        kwargs: the keyword arguments that it got.
        allowed: the names that it knows.
        hints: what else to say about a name: where its meaning is to be had.
    """
    allowed, hints = list(allowed), hints or {}
    known = {}
    for name, value in kwargs.items():
        if name in allowed:
            known[name] = value
            continue
        hint = f'; {hints[name]}' if name in hints else near_match(name, allowed)
        warn(f'{func_name}() takes no keyword argument {name!r} and leaves it out{hint}')
    return known


def _names_of(func: Callable) -> list[str] | None:
    """The arguments of a function, None where it takes any keyword."""
    parameters = inspect.signature(func).parameters.values()
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    return None if takes_any else [p.name for p in parameters if p.name != 'self']


def kept_arguments(obj: Any) -> dict[str, Any]:
    """The arguments of an object's constructor that it keeps as attributes, under their own names or behind one `_`."""
    try:
        names = inspect.signature(type(obj).__init__).parameters
    except (TypeError, ValueError):  # nothing that was written in Python
        return {}
    return {name: vars(obj)[kept] for name in names for kept in (f'_{name}', name) if kept in vars(obj)}


def refuse_unknown(func: Callable[..., Any], func_name: str, kwargs: Mapping[str, Any]) -> None:
    """Refuse keyword arguments that are not in the signature of `func`.

    Args:
        func: the function; one that takes any keyword refuses none.
        func_name: what it is called in the message.
        kwargs: the keyword arguments that it got.

    Raises:
        TypeError: naming the first unknown keyword and the nearest one that is there.
    """
    names = _names_of(func)
    if names is not None:
        check_kwargs(func_name, kwargs, names)


def tells_near_match(func: Callable[P, R]) -> Callable[P, R]:
    """Decorate `func` so that an unknown keyword argument is refused with the nearest one it takes.

    For what users call; Python alone names the unknown one only.
    """
    names = _names_of(func)
    if names is None:
        raise TypeError(f'{func.__qualname__} takes any keyword: call check_kwargs in it')

    @functools.wraps(func)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        __tracebackhide__ = True  # IPython and pytest leave this frame out of what went wrong behind it
        if not kwargs.keys() <= set(names):
            check_kwargs(func.__qualname__.removesuffix('.__init__'), kwargs, names)
        return func(*args, **kwargs)
    return checked


def as_side(side: Any, name: str = 'size') -> int:
    """A number of pixels as an int, whatever kind of whole number it is: `np.int64(224)`, `224.`, a tensor of one.

    Args:
        side: the number.
        name: what it is called in messages.

    Raises:
        TypeError: it is text, a truth value, or no number.
        ValueError: it is below 1, or no whole number.
    """
    if type(side) is int and side > 0:
        return side
    if isinstance(side, (str, bytes)):
        text = (side if isinstance(side, str) else side.decode(errors='replace')).strip()
        meant = f'give the number, {text}' if text.isdecimal() else 'give a number'
        raise TypeError(f'{name} is the text {side!r}: {meant} (on a command line argparse makes numbers of what has '
                        'type=int)')
    number = side.item() if getattr(side, 'ndim', None) == 0 and hasattr(side, 'item') else side
    if isinstance(number, bool) or not isinstance(number, numbers.Real):
        raise TypeError(f'{name} is {side!r}: give a number of pixels, such as 224, or (height, width)')
    if not math.isfinite(number) or number != int(number) or number < 1:
        raise ValueError(f'{name} is {side!r}: give a whole number of pixels from 1 on')
    return int(number)


def as_size(size: Any, name: str = 'size') -> tuple[int, int]:
    """(height, width) of a size given as a side or as a tuple, list, array or tensor of two.

    Args:
        size: the size, in pixels.
        name: what it is called in messages.

    Raises:
        TypeError: it is, or holds, something else than numbers.
        ValueError: it holds another number of them than two, or one that is no side, see `as_side`.
    """
    if type(size) is tuple and len(size) == 2 and all([type(side) is int and side > 0 for side in size]):
        return size  # as it is stored: asked for each item
    if isinstance(size, (str, bytes, Mapping)) or not hasattr(size, '__len__') or getattr(size, 'ndim', 1) == 0:
        side = as_side(size, name)
        return side, side
    if len(size) != 2:
        raise ValueError(f'{name} is {size!r}: give one side or two, (height, width)')
    return as_side(size[0], name), as_side(size[1], name)


# ---------------------------------------------------------------- attributes that are looked for elsewhere

_missing = object()


class _NotFoundError(AttributeError):
    """Names the nearest attribute when it is shown: `hasattr` asks often, and looking for it takes long."""

    def __init__(self, said: str, name: str, owners: list[Any]) -> None:
        super().__init__(said, name=name)  # with obj= Python would name another one behind it
        self.owners = owners

    def __str__(self) -> str:
        declared = {known for cls in type(self.owners[0]).__mro__ for known in vars(cls).get('__annotations__', ())}
        names = declared.union(*map(dir, self.owners))
        return self.args[0] + near_match(self.name, sorted(known for known in names if not known.startswith('_')))

    def __reduce__(self) -> tuple[Any, ...]:
        return AttributeError, (str(self),)


def lookup(obj: object, name: str, *targets: str) -> Any:
    """Find `name` on the objects that `obj` keeps under the attribute names `targets`, in that order.

    Called from `__getattr__`, so Python has already failed to find `name` on `obj`. Two honesty rules: a property of
    `obj` that failed with its own AttributeError is run again, so that its message is seen and not a misleading "no
    attribute"; and dunder names are never delegated, so that copying and pickling do not reach a foreign object's
    protocol.

    Args:
        obj: the object whose `__getattr__` was called.
        name: the missing attribute.
        targets: attribute names of `obj` to ask; those that are absent or None are left out.

    Raises:
        AttributeError: nobody has it; the message names the classes that were asked, and the nearest attribute.
    """
    cls = type(obj)
    own = inspect.getattr_static(cls, name, _missing)
    if isinstance(own, property):
        return own.__get__(obj, cls)  # raises the property's own error
    asked = [obj]
    if not (name.startswith('__') and name.endswith('__')):
        for target_name in targets:
            target = obj.__dict__.get(target_name)
            if target is None:
                target = _property_value(obj, cls, target_name)
            if target is None:
                continue
            found = getattr(target, name, _missing)
            if found is not _missing:
                return found
            asked.append(target)
    classes = ' nor on '.join(type(owner).__name__ for owner in asked)
    raise _NotFoundError(f'{name!r} was found neither on {classes}', name, asked)


def _property_value(obj: object, cls: type, name: str) -> Any:
    """The value of a target that is a class attribute or property of `obj`, None where there is none."""
    own = inspect.getattr_static(cls, name, _missing)
    if own is _missing:
        return None
    return own.__get__(obj, cls) if hasattr(own, '__get__') else own
