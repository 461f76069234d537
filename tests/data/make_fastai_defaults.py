"""Writes fastai_defaults.json: the default of every argument of fastai's public functions, classes and their methods.

Run it where fastai is installed: `python tests/data/make_fastai_defaults.py`.
"""
# ruff: noqa: F403, F405
import inspect
import json
from pathlib import Path

import fastai
import fastai.vision.all as namespace
from fastai.callback.all import *
from fastai.vision.all import *


def plain(value):
    """A value as JSON has it: numbers, texts and lists of them; functions and classes by name; else None."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return {'value': value}
    if isinstance(value, (list, tuple)):
        parts = [plain(v) for v in value]
        return {'value': [p['value'] for p in parts]} if all(p is not None and 'value' in p for p in parts) else None
    name = getattr(value, '__name__', None)
    return {'name': name} if name and '<' not in name else None


def defaults_of(f):
    try:
        parameters = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):
        return {}
    found = {p.name: plain(p.default) for p in parameters if p.default is not p.empty}
    return {name: value for name, value in found.items() if value is not None}


def recorded():
    """Function or method -> argument -> its default."""
    found = {}
    for name, obj in sorted(vars(namespace).items()):
        if name.startswith('_') or not callable(obj) or not (getattr(obj, '__module__', '') or '').startswith('fastai'):
            continue
        found[name] = defaults_of(obj)
        if inspect.isclass(obj):
            for method in dir(obj):
                f = inspect.getattr_static(obj, method)
                f = f.__func__ if isinstance(f, (classmethod, staticmethod)) else f
                if not method.startswith('_') and inspect.isfunction(f) and f.__module__.startswith('fastai'):
                    found[f'{name}.{method}'] = defaults_of(f)
    return {name: values for name, values in found.items() if values}


def main():
    lines = (f'{json.dumps(name)}: {json.dumps(values, sort_keys=True)}' for name, values in sorted(recorded().items()))
    text = f'{{"fastai": "{fastai.__version__}", "defaults": {{\n' + ',\n'.join(lines) + '\n}}\n'
    Path(__file__).with_name('fastai_defaults.json').write_text(text)


if __name__ == '__main__':
    main()
