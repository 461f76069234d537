"""`make test-elsewhere`: tests that depend on the machine, run as on another one.

Each place is a run of pytest in a process of its own. What cannot be had here is told, with the reason, and is no
failure. `python -m tools.elsewhere locale reversed` runs two of them; what begins with `-` is for pytest.
"""
from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
FILES = ('test_vision_decode test_vision_core test_data_external test_data_archives test_data_transforms '
         'test_data_cache test_data_labels test_data_load test_terminal test_checkpoint test_export test_plaindata '
         'test_environment test_cli test_hardware test_undoing resume/test_signals resume/test_kinds').split()
"""Rooms that read and write files and names, ask the machine what it has, or start processes."""


class Place(NamedTuple):
    """A machine as this one is not: the environment, what runs the interpreter there, and the tests."""

    what: str
    env: dict[str, str] = {}
    through: tuple[str, ...] = ()
    pytest: tuple[str, ...] = tuple(f'tests/{file}.py' for file in FILES)
    missing: str = ''
    python: str = sys.executable


def as_nobody() -> Place:
    """An ordinary user: `setpriv` to `nobody`, by an interpreter and packages that this user may read."""
    what = 'an ordinary user'
    if os.name != 'posix' or os.geteuid():
        return Place(what, missing='this is one already')
    if shutil.which('setpriv') is None:
        return Place(what, missing='there is no setpriv here')
    through = ('setpriv', '--reuid=65534', '--regid=65534', '--clear-groups')
    home = tempfile.mkdtemp()
    os.chmod(home, 0o777)
    env = {'HOME': home, 'TMPDIR': home, 'PYTHONDONTWRITEBYTECODE': '1',
           'PYTHONPATH': os.pathsep.join([str(ROOT), *site.getsitepackages()])}
    # the interpreter of root may lie where nobody else may look: then the system's of the same version
    named = f'python{sys.version_info[0]}.{sys.version_info[1]}'
    for python in filter(None, (sys.executable, shutil.which(named, path='/usr/local/bin:/usr/bin'))):
        # tests start further processes, and root's rights may last for the first one
        probe = 'import pytest, torch, minifast, subprocess as s, sys; s.run([sys.executable, "-c", ""], check=True)'
        tried = subprocess.run([*through, python, '-c', probe], cwd=ROOT, check=False, env={**os.environ, **env},
                               capture_output=True, text=True)
        if tried.returncode == 0:
            return Place(what, env, through, (*Place('').pytest, '-p', 'no:cacheprovider'), python=python)
    return Place(what, missing=f'nobody but root may run {named} with these packages: {tried.stderr.strip()[-200:]}')


def on_one_core() -> Place:
    """One core of those that are there."""
    if shutil.which('taskset') is None:
        return Place('one core', missing='there is no taskset here')
    return Place('one core', through=('taskset', '-c', str(min(os.sched_getaffinity(0)))),
                 pytest=(*Place('').pytest, 'tests/resume/test_carried.py', 'tests/test_limits.py'))


SIGNALS = ('tests/resume', 'tests/test_interrupts.py',
           '-k', 'ctrl_c or signal or interrupt or however_a_fit_ended or does_by_itself')
PLACES: dict[str, Callable[[], Place]] = {
    'locale': lambda: Place('names in ASCII, and fourteen hours ahead of Greenwich', {
        'LC_ALL': 'C', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0', 'TZ': 'Pacific/Kiritimati'}),
    'reversed': lambda: Place('the last test first', pytest=(
        'tests/', '--reverse', '-n', 'auto', '--maxprocesses', '4', '--dist', 'loadfile')),  # as `make test` runs them
    'user': as_nobody,
    'core': on_one_core,
    'bf16': lambda: Place('a CPU without bfloat16 and wide registers', {
        'ATEN_CPU_CAPABILITY': 'avx2', 'ONEDNN_MAX_CPU_ISA': 'AVX2'}, pytest=tuple(f'tests/{file}.py' for file in (
            'test_hardware', 'test_callback_fp16', 'test_callback_channelslast', 'test_vision_learner'))),
    'nohup': lambda: Place('started with Ctrl-C ignored, as in the background of a shell', through=(
        'sh', '-c', 'trap "" INT; exec "$@"', 'sh'), pytest=SIGNALS),
}


def main(args: Sequence[str]) -> int:
    """Run the places that are named, or all; returns 1 if tests failed in one."""
    names, more = [a for a in args if not a.startswith('-')], [a for a in args if a.startswith('-')]
    unknown = [name for name in names if name not in PLACES]
    if unknown:
        raise SystemExit(f'{unknown[0]!r} is none of {", ".join(PLACES)}')
    outcomes = {}
    for name in names or PLACES:
        place = PLACES[name]()
        print(f'== {name}: {place.what}', flush=True)
        if place.missing:
            outcomes[name] = f'not run: {place.missing}'
            continue
        command = [*place.through, place.python, '-m', 'pytest', '-q', *place.pytest, *more]
        code = subprocess.run(command, cwd=ROOT, env={**os.environ, **place.env}, check=False).returncode
        outcomes[name] = 'passed' if code == 0 else f'FAILED ({code})'
    for name, outcome in outcomes.items():
        print(f'{name:>10}  {outcome}')
    return int(any(outcome.startswith('FAILED') for outcome in outcomes.values()))


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
