"""Code: whose it is, and its digest, the same in every process and another one once a class or function was changed."""
from __future__ import annotations

import functools
import hashlib
import inspect
import sys
from collections.abc import Iterator
from types import CodeType, ModuleType
from typing import Any

__all__ = ['code_digest', 'is_of_the_user', 'package_of']


def package_of(thing: Any) -> str:
    """The package that a class, a function or an object's class was defined in; '' where that is not said."""
    return (getattr(thing, '__module__', None) or '').split('.')[0]


@functools.cache
def is_of_the_user(module: str) -> bool:
    """Whether a module is the script or lies beside it: it is not minifast's, Python's own or an installed one."""
    package = module.split('.')[0]
    if package == '__main__':
        return True
    if package == 'minifast' or package in sys.stdlib_module_names:
        return False
    files = [getattr(sys.modules.get(name), '__file__', None) or '' for name in (module, package)]
    return not any(folder in file for folder in ('site-packages', 'dist-packages') for file in files)


def code_digest(thing: Any) -> str:
    """A digest of a class or function: its code, its plain values, and those of what it names.

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
