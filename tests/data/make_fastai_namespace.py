"""Writes the public names of `fastai.vision.all`, each under the module it comes from, to `fastai_namespace.json`.

    python tests/data/make_fastai_namespace.py

Run where fastai 2.8.12 is installed. fastcore's HTTP and XML names are left out.
"""
from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path

ASIDE = ('fastcore.net', 'fastcore.xml')


def home_of(name: str, value: object) -> str:
    """The module that a name comes from."""
    if inspect.ismodule(value):
        return 'modules'
    if getattr(getattr(value, 'func', None), '__module__', None) in ASIDE:
        return ASIDE[1]  # HTML tags are partials of one function
    return getattr(value, '__module__', None) or type(value).__module__


def main() -> None:
    """Write the names."""
    found: dict[str, list[str]] = {}
    for name, value in vars(importlib.import_module('fastai.vision.all')).items():
        home = home_of(name, value)
        if not name.startswith('_') and home not in ASIDE:
            found.setdefault(home, []).append(name)
    text = json.dumps({home: ' '.join(sorted(found[home])) for home in sorted(found)}, indent=0)
    Path(__file__).with_name('fastai_namespace.json').write_text(text + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
