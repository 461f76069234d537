"""`make dist` and `make pythons`: what is published is built, and the tests run on what is installed from it.

The wheel and the source archive come to `dist/`. The wheel is installed into an environment of its own, and the tests
of the archive, in a folder without the package beside them, run on that: what a file is missing from the wheel is
missing there too. `--pythons` does the same with every Python at hand, and a part of the tests. Each environment holds
a PyTorch, and goes when its tests have run.
"""
from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / 'dist'
OLDEST = 3, 10

ABOUT_THE_SOURCE = ('architecture readme nbs namespaces benchmarks mutants mutants_noticed types given elsewhere docs '
                    'newcomer').split()
"""Tests that look at the files of a checkout, its package's among them."""

PART = ['tests/test_loop.py', 'tests/test_data_core.py', 'tests/test_vision_learner.py', 'tests/test_checkpoint.py',
        'tests/test_export.py', 'tests/test_optimizer.py', 'tests/test_cli.py', 'tests/resume/test_kinds.py']
"""What is run on each of several Pythons: a training, its files, its data and its command, in a minute or two."""


def run(*command: object, cwd: Path = ROOT, quiet: bool = True, **env: str) -> None:
    """Run a command; where it fails, print what it has said and end with its exit status."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, check=False, env={**os.environ, **env}, text=True,
                          stdout=subprocess.PIPE if quiet else None, stderr=subprocess.STDOUT if quiet else None)
    if done.returncode:
        sys.exit(f'{done.stdout or ""}{command[0]} ended with {done.returncode}')


def environment(folder: Path, python: str, *packages: object) -> Path:
    """Make an environment with packages in it; returns its interpreter."""
    run(python, '-m', 'venv', folder)
    made = folder / ('Scripts' if os.name == 'nt' else 'bin') / 'python'
    run(made, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', *packages)
    return made


def build(folder: Path, to: Path = DIST) -> tuple[Path, Path]:
    """Build the wheel and the source archive, checked as the package index checks them; returns both."""
    shutil.rmtree(to, ignore_errors=True)
    python = environment(folder / 'build', sys.executable, 'build>=1.2', 'twine>=6.0')
    run(python, '-m', 'build', '--outdir', to, ROOT)
    (wheel,), (archive,) = to.glob('*.whl'), to.glob('*.tar.gz')
    run(python, '-m', 'twine', 'check', '--strict', wheel, archive)
    return wheel, archive


def test(wheel: Path, archive: Path, folder: Path, python: str, pytest: list[str]) -> None:
    """Run tests of the archive on the installed wheel."""
    with tarfile.open(archive) as packed:
        packed.extractall(folder / 'source', filter='data')
    source, = (folder / 'source').iterdir()
    shutil.rmtree(source / 'minifast')
    installed = environment(folder / 'installed', python, f'{wheel}[test]')
    left_out = [f'--ignore=tests/test_{name}.py' for name in ABOUT_THE_SOURCE]
    run(installed, '-I', '-c', f'import minifast; assert "site-packages" in minifast.__file__; '
                               f'print("minifast", minifast.__version__, "on", {python!r})', cwd=source, quiet=False)
    run(installed, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-n', 'auto', '--maxprocesses', '4',
        '--dist', 'loadfile', *left_out, *pytest, cwd=source, quiet=False)


def pythons() -> list[str]:
    """The interpreters at hand that minifast runs on, one of each version: on the path, and pyenv's."""
    places = [*os.environ.get('PATH', '').split(os.pathsep),
              *map(str, (Path.home() / '.pyenv' / 'versions').glob('*/bin'))]
    found: dict[tuple[int, ...], str] = {}
    for place in places:
        for file in sorted(Path(place).glob('python3.*')) if place else []:
            named = re.fullmatch(r'python3\.(\d+)', file.name)
            works = named and subprocess.run([file, '-c', ''], check=False, capture_output=True).returncode == 0
            if works and (3, int(named[1])) >= OLDEST:
                found.setdefault((3, int(named[1])), str(file))
    return [found[version] for version in sorted(found)]


def main() -> None:
    """Parse the command line; what is not known goes to pytest."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--pythons', action='store_true', help='with every Python at hand, a part of the tests')
    given, pytest = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix='minifast-dist-') as name:
        folder = Path(name)
        wheel, archive = build(folder)
        for i, python in enumerate(pythons() if given.pythons else [sys.executable]):
            test(wheel, archive, folder / str(i), python, pytest or (PART if given.pythons else ['tests']))
            shutil.rmtree(folder / str(i))


if __name__ == '__main__':
    main()
