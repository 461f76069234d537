"""`import minifast.as_fastai` makes `import fastai...` mean minifast in this process.

For packages that name fastai in their import lines and cannot be edited. Modules are not copied: `fastai.learner` is
`minifast.learner`, so a method patched through one name is patched for both.
"""
from __future__ import annotations

import importlib
import importlib.abc
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import fastcore.basics
import fastcore.foundation

import minifast
from minifast.torch_core import defaults

__all__ = ['fastai_version']

fastai_version = '2.8.12'
"""The fastai release whose behaviour minifast follows; packages compare `fastai.__version__` to choose their
patches."""


class _Distribution(importlib.metadata.Distribution):
    """Answers `importlib.metadata.version('fastai')`."""

    def read_text(self, filename: str) -> str | None:
        return f'Metadata-Version: 2.1\nName: fastai\nVersion: {fastai_version}\n' if filename == 'METADATA' else None

    def locate_file(self, path: Any) -> Any:
        raise FileNotFoundError(f'fastai is minifast in this process and has no file {path}')


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds `fastai.<module>` as `minifast.<module>`."""

    def find_spec(self, fullname: str, path: Sequence[str] | None,
                  target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname.split('.')[0] != 'fastai':
            return None
        ours = 'minifast' + fullname[len('fastai'):]
        if importlib.util.find_spec(ours) is None:
            raise ModuleNotFoundError(f'minifast has no module for {fullname!r}', name=fullname)
        return ModuleSpec(fullname, self, is_package=hasattr(importlib.import_module(ours), '__path__'))

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        if spec.name == 'fastai':
            top = ModuleType('fastai', minifast.__doc__)
            top.__version__ = fastai_version
            top.__getattr__ = lambda name: getattr(minifast, name)
            return top
        module = importlib.import_module('minifast' + spec.name[len('fastai'):])
        self.specs[spec.name] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # the import system has just written the alias's spec onto our module: a module keeps the spec it was loaded by
        alias = module.__spec__.name
        if alias in self.specs:
            module.__spec__ = self.specs.pop(alias)

    def find_distributions(self, context: Any = None) -> Iterable[_Distribution]:
        return [_Distribution()] if getattr(context, 'name', None) == 'fastai' else []

    specs: dict[str, ModuleSpec] = {}


def _share_defaults() -> None:
    """Make fastcore's `defaults` ours: fastai has only one of them, and packages take it from either."""
    for module in (fastcore.foundation, fastcore.basics):
        if hasattr(module, 'defaults'):
            for name, value in vars(module.defaults).items():
                vars(defaults).setdefault(name, value)
            module.defaults = defaults


# by name: after a reload the finder in place is of an older class
if not any(type(finder).__module__ == __name__ for finder in sys.meta_path):
    if 'fastai' in sys.modules:
        raise ImportError('fastai itself is already imported in this process: import minifast.as_fastai first')
    sys.meta_path.insert(0, _Finder())
    _share_defaults()
