"""What an editor knows of scripts, plugins and notebooks: a type checker in its strict mode finds nothing unknown."""
from __future__ import annotations

import inspect
import json
import re
import shutil
import site
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import nbformat
import pytest

from minifast.vision import all as public

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / 'tests' / 'typed'
STRICT = {'typeCheckingMode': 'strict', 'extraPaths': [str(ROOT)], 'include': ['.']}


@pytest.fixture(scope='module')
def found(tmp_path_factory):
    """What is flagged: file -> {line: rule}."""
    folder = tmp_path_factory.mktemp('typed')
    for sample in SAMPLES.glob('*.py'):
        shutil.copy(sample, folder)
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    (folder / 'readme.py').write_text(re.search(r'```python\n(.*?)```', readme, re.DOTALL)[1], encoding='utf-8')
    cells = nbformat.read(ROOT / 'nbs' / '00_quickstart.ipynb', as_version=4).cells
    (folder / 'quickstart.py').write_text('\n\n'.join(cell.source for cell in cells if cell.cell_type == 'code') + '\n',
                                          encoding='utf-8')
    (folder / 'pyrightconfig.json').write_text(json.dumps(STRICT), encoding='utf-8')
    ran = subprocess.run([sys.executable, '-m', 'basedpyright', '--outputjson', '--pythonpath', sys.executable],
                         cwd=folder, capture_output=True, text=True)
    told = json.loads(ran.stdout)
    flagged = {file.name: {} for file in folder.glob('*.py')}
    assert told['summary']['filesAnalyzed'] == len(flagged) >= 6, ran.stdout + ran.stderr
    for one in told['generalDiagnostics']:
        flagged[Path(one['file']).name].setdefault(one['range']['start']['line'] + 1, one.get('rule', one['message']))
    return flagged


@pytest.mark.parametrize('file', ['readme.py', 'quickstart.py',
                                  *sorted(f.name for f in SAMPLES.glob('*.py') if f.stem != 'mistakes')])
def test_nothing_is_unknown(found, file):
    """On the six lines, in a plugin, in scripts, in a notebook that was exported as one."""
    assert found[file] == {}


BARE = re.compile(r'\b(Callable|Sequence|Iterable|Iterator|Mapping|list|dict|tuple|set|type)\b(?!\[)')


def bare(name, thing):
    """The annotations of a callable that do not say what they hold: an editor shows them as unknown."""
    parameters = inspect.signature(thing).parameters
    told = {**{p: str(parameters[p].annotation) for p in parameters},
            'return': str(inspect.signature(thing).return_annotation)}
    return [f'{name}: {p}: {text}' for p, text in told.items() if BARE.search(text)]


def test_public_signatures_say_what_they_hold():
    """`Callable[..., Any]` and not `Callable`, in every function and method of the vision namespace."""
    found, n = [], 0
    for name in dir(public):
        thing = getattr(public, name)
        if not str(getattr(thing, '__module__', '')).startswith('minifast'):
            continue
        members = vars(thing).items() if inspect.isclass(thing) else [('', thing)] if inspect.isfunction(thing) else []
        for member, f in members:
            f = getattr(f, '__func__', f)
            if inspect.isfunction(f) and (member == '__init__' or not member.startswith('_')):
                n += 1
                found += bare(f'{name}.{member}'.rstrip('.'), f)
    assert n > 1000 and not found, found


def test_mistakes_are_flagged_where_they_are(found):
    """A method and arguments that are not there, on the lines that say so."""
    lines = (SAMPLES / 'mistakes.py').read_text(encoding='utf-8').splitlines()
    marked = [i for i, line in enumerate(lines, 1) if '# flagged' in line]
    assert len(marked) > 4 and list(found['mistakes.py']) == marked


def installed_editable():
    """Whether the environment's minifast is a checkout; the checkout itself has metadata too."""
    found = list(distributions(name='minifast', path=site.getsitepackages()))
    return any('"editable": true' in (one.read_text('direct_url.json') or '') for one in found)


@pytest.mark.skipif(not installed_editable(),
                    reason='minifast is installed as it is published, which every editor reads')
def test_an_editable_install_is_a_path_that_editors_read():
    """The Makefile asks for that; what setuptools does else is code that only Python runs."""
    lines = [line for folder in site.getsitepackages() for file in Path(folder).glob('*minifast*.pth')
             for line in file.read_text(encoding='utf-8').splitlines()]
    assert lines and all(Path(line).is_dir() for line in lines), lines
