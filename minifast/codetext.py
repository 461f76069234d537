"""Code: whose it is; what is said of it (`keyed`, `registered`); its digest, another one once it was changed."""
from __future__ import annotations

import functools
import hashlib
import inspect
import sys
from collections.abc import Iterator
from types import CodeType, ModuleType
from typing import Any, TypeVar

__all__ = ['KEYED', 'code_digest', 'is_of_the_user', 'keyed', 'package_of', 'public_module', 'registered',
           'registered_as']


def package_of(thing: Any) -> str:
    """The package that `thing`, a class, a function or an object's class, was defined in; '' where that is not said."""
    return (getattr(thing, '__module__', None) or '').split('.')[0]


def public_module(thing: Any) -> str:
    """The module that `thing`, a class or function, is imported from; '' where that is not said.

    It is what files call it by: what a package keeps in rooms of its own may lie in others tomorrow. `pathlib.Path`
    says `pathlib._local` in Python 3.13, and `pathlib` in those before and behind it.
    """
    module, name = getattr(thing, '__module__', None) or '', getattr(thing, '__qualname__', '')
    package, _, room = module.rpartition('.')
    while package and room.startswith('_') and getattr(sys.modules.get(package), name, None) is thing:
        module, (package, _, room) = package, package.rpartition('.')
    return module


@functools.cache
def is_of_the_user(module: str) -> bool:
    """Whether the module called `module` is the script or lies beside it, and not minifast's, Python's or installed."""
    package = module.split('.')[0]
    if package == '__main__':
        return True
    if package == 'minifast' or package in sys.stdlib_module_names:
        return False
    files = [getattr(sys.modules.get(name), '__file__', None) or '' for name in (module, package)]
    return not any(folder in file for folder in ('site-packages', 'dist-packages') for file in files)


# ---------------------------------------------------------------- what is said of it: what it draws from, its name

_T = TypeVar('_T')

KEYED: dict[int, Any] = {}
"""What `keyed` was said of, by identity: not a subclass, nor a wrapper that copies attributes."""
_registered: dict[str, Any] = {}
"""What files may name, by its name."""


def keyed(f: _T) -> _T:
    """Decorator: declare that the function `f` draws from no global generator, nor calls anything that does.

    Global are those of `random`, `numpy.random` and torch. Said of a class, it is of making and calling its instances,
    and not of its subclasses'.

    Loaders made of such functions alone may use threads, and do not seed the global generators for each item.

    Example:
        >>> @keyed
        ... def label(file): return file.name.split('_')[0]
    """
    KEYED[id(f)] = f
    if hasattr(type(f), 'was_keyed'):  # a class whose metaclass takes down what it consists of at this moment
        f.was_keyed()
    return f


def registered(o: _T) -> _T:
    """Decorator for `o`, a class or function of minifast's own: it is `keyed`, and files may name it.

    Exports call it by its name alone, so it may move from room to room, and nothing is imported to find it.

    Raises:
        ValueError: another thing has that name.
    """
    if _registered.setdefault(o.__name__, o) is not o:
        raise ValueError(f'{o.__name__!r} stands for {_registered[o.__name__]!r} in files: give the other another name')
    return keyed(o)


def registered_as(name: str) -> Any:
    """What files call `name`, None for nothing."""
    return _registered.get(name)


# ---------------------------------------------------------------- its digest

def code_digest(thing: Any) -> str:
    """A digest of `thing`, a class or function: its code, its plain values, and those of what it names.

    What it names counts as far as that is code of the same package or of the user's own; of a code object alone what
    is defined in it. Of everything else the name stands for it, so versions of packages have to be told beside. Names,
    comments, docstrings of functions and places in the file do not count where Python does not keep them in the code.
    """
    text = _text(thing, package_of(thing), set())
    return hashlib.blake2b(text.encode(errors='surrogatepass'), digest_size=16).hexdigest()


def _text(thing: Any, package: str, seen: set[int]) -> str:
    def inner(o: Any) -> str:
        return _text(o, package, seen)

    if isinstance(thing, (staticmethod, classmethod)):
        return type(thing).__name__ + inner(thing.__func__)
    thing = getattr(thing, '__func__', thing)  # of a bound method
    if thing is None or type(thing) in (bool, int, float, complex, str, bytes):
        return repr(thing)
    if isinstance(thing, (list, tuple)):
        return f'[{",".join(map(inner, thing))}]'
    if isinstance(thing, (set, frozenset)):
        return f'{{{",".join(sorted(map(inner, thing)))}}}'  # sets of text have another order in each process
    if isinstance(thing, dict):
        return f'{{{",".join(f"{key}:{inner(value)}" for key, value in sorted(thing.items(), key=str))}}}'
    if isinstance(thing, CodeType):
        n_arguments = thing.co_argcount + thing.co_kwonlyargcount
        return inner([thing.co_code, thing.co_names, thing.co_varnames[:n_arguments], thing.co_consts])
    if isinstance(thing, property):
        return inner([thing.fget, thing.fset])
    if isinstance(thing, functools.partial):
        return inner([thing.func, thing.args, thing.keywords])
    name = f'{getattr(thing, "__module__", "")}.{getattr(thing, "__qualname__", type(thing).__qualname__)}'
    if id(thing) in seen or not _followed(getattr(thing, '__module__', None), package):
        return name
    seen.add(id(thing))
    if isinstance(thing, type):
        return name + inner([thing.__bases__, {key: value for key, value in vars(thing).items() if key not in _NOISE}])
    if inspect.isfunction(thing):
        return name + inner([thing.__code__, thing.__defaults__, thing.__kwdefaults__,
                             [_content(cell) for cell in thing.__closure__ or ()], _named(thing, package)])
    return name


_NOISE = {'__dict__', '__weakref__', '__doc__', '__module__', '__firstlineno__', '__static_attributes__',
          '__annotations__', '__annotate__', '__annotate_func__', '__annotations_cache__', '__abstractmethods__',
          '_abc_impl'}


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet filled
        return None


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _names(const)


def _named(function: Any, package: str) -> dict[str, Any]:
    """The globals that a function names, and what it names of modules among them."""
    names = set(_names(function.__code__))
    found = {name: function.__globals__[name] for name in names if name in function.__globals__}
    for module in [o for o in found.values() if isinstance(o, ModuleType) and _followed(o.__name__, package)]:
        found |= {f'{module.__name__}.{name}': vars(module)[name] for name in names if name in vars(module)}
    return found


def _followed(module: str | None, package: str) -> bool:
    """Whether code of this module is the package's, or of the user's own."""
    if not module or module.split('.')[0] in ('builtins', 'minifast'):
        return False
    return module.split('.')[0] == package or is_of_the_user(module)
