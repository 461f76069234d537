"""The places of `make test-elsewhere` are there, and what fails in one is told."""
from __future__ import annotations

import subprocess
import sys

import pytest
from tools.elsewhere import PLACES, ROOT, Place, main


@pytest.mark.parametrize('name', [name for name in PLACES if name != 'user'])
def test_a_place_names_tests_that_are_there(name):
    """A file that was renamed would leave its room out unseen."""
    place = PLACES[name]()
    files = [arg for arg in place.pytest if arg.startswith('tests/')]
    assert files and all((ROOT / file).exists() for file in files)


def test_places_are_run_by_name_and_their_outcome_is_told(monkeypatch, capfd, tmp_path):
    """In a process with the place's environment; a failing test, and an unknown name, are errors."""
    (tmp_path / 'test_a.py').write_text('import os\n\ndef test_a():\n    assert os.environ["TZ"] == "nowhere"')
    for zone, code, word in (('nowhere', 0, 'passed'), ('elsewhere', 1, 'FAILED')):
        monkeypatch.setitem(PLACES, 'zone', lambda: Place('a time zone', {'TZ': zone}, pytest=(str(tmp_path),)))
        assert main(['zone']) == code and word in capfd.readouterr().out
    monkeypatch.setitem(PLACES, 'none', lambda: Place('no place', missing='there is none'))
    assert main(['none']) == 0 and 'not run: there is none' in capfd.readouterr().out
    with pytest.raises(SystemExit, match='is none of'):
        main(['mars'])


def test_the_last_test_comes_first_where_asked():
    """`--reverse`, the option of the tests' own conftest."""
    done = subprocess.run([sys.executable, '-m', 'pytest', '--collect-only', '-q', '--reverse', __file__], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.stdout.splitlines()[0].endswith('test_the_last_test_comes_first_where_asked'), done.stdout
