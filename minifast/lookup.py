"""The one way an attribute is looked for elsewhere (Callback -> Learner -> model, DataLoaders -> train -> dataset)."""
from __future__ import annotations

import inspect
from typing import Any

__all__ = ['lookup']

_missing = object()


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
        AttributeError: nobody has it; the message names the classes that were asked.
    """
    cls = type(obj)
    own = inspect.getattr_static(cls, name, _missing)
    if isinstance(own, property):
        return own.__get__(obj, cls)  # raises the property's own error
    asked = [cls.__name__]
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
            asked.append(type(target).__name__)
    raise AttributeError(f'{name!r} was found neither on {" nor on ".join(asked)}', name=name, obj=obj)


def _property_value(obj: object, cls: type, name: str) -> Any:
    """The value of a target that is a class attribute or property of `obj`, None where there is none."""
    own = inspect.getattr_static(cls, name, _missing)
    if own is _missing:
        return None
    return own.__get__(obj, cls) if hasattr(own, '__get__') else own
