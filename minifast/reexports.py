"""Names that scripts take from another room than their own: `from fastai.callback.schedule import Learner`.

fastai's modules begin with star imports and put their methods on `Learner`, so each of them has names of many others.
"""
from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from functools import partial
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

__all__ = ['RoomFinder']


class RoomFinder:
    """Finds the modules of a package as Python does, and gives each a `__getattr__` when it has run.

    One finder instead of a line in each room: those stay what they are, also for type checkers, and nothing is
    imported until a name is missed.
    """

    def find_spec(self, fullname: str, path: Sequence[str] | None = None,
                  target: ModuleType | None = None) -> ModuleSpec | None:
        """The spec of a room; None for all other modules, which leaves them to Python's own finders.

        Args:
            fullname: dotted name of the module.
            path, target: as Python's import system hands them to its finders.
        """
        if not fullname.startswith('minifast.'):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = partial(_run, spec.loader.exec_module)
        return spec


def _run(exec_module: Any, module: ModuleType) -> None:
    exec_module(module)
    vars(module).setdefault('__getattr__', partial(_elsewhere, module.__name__))


def _elsewhere(module: str, name: str) -> Any:
    """A name that a module does not define itself: a public one of all rooms together, else a method of `Learner`."""
    is_package = '__path__' in vars(sys.modules[module])
    # a package is asked for its submodules too, which Python imports after we have said no
    if not name.startswith('_') and not (is_package and importlib.util.find_spec(f'{module}.{name}')):
        namespace = importlib.import_module('minifast.vision.all')
        if name in vars(namespace):
            return vars(namespace)[name]
        if callable(method := getattr(getattr(namespace, 'Learner', None), name, None)):
            return method
    raise AttributeError(f'module {module!r} has no attribute {name!r}', name=name)


# by name: after a reload the finder in place is of an older class
if not any(type(finder).__module__ == __name__ for finder in sys.meta_path):
    sys.meta_path.insert(0, RoomFinder())
