"""What an editor knows of scripts, plugins and notebooks: a type checker in its strict mode finds nothing unknown."""
from __future__ import annotations

import json
import re
import shutil
import site
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

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
    (folder / 'pyrightconfig.json').write_text(json.dumps(STRICT), encoding='utf-8')
    ran = subprocess.run([sys.executable, '-m', 'basedpyright', '--outputjson', '--pythonpath', sys.executable],
                         cwd=folder, capture_output=True, text=True)
    told = json.loads(ran.stdout)
    flagged = {file.name: {} for file in folder.glob('*.py')}
    assert told['summary']['filesAnalyzed'] == len(flagged) >= 5, ran.stdout + ran.stderr
    for one in told['generalDiagnostics']:
        flagged[Path(one['file']).name].setdefault(one['range']['start']['line'] + 1, one.get('rule', one['message']))
    return flagged


@pytest.mark.parametrize('file', ['readme.py', *sorted(f.name for f in SAMPLES.glob('*.py') if f.stem != 'mistakes')])
def test_nothing_is_unknown(found, file):
    """On the six lines, in a plugin, in scripts."""
    assert found[file] == {}


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
