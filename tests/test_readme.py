"""Everything in the README is run, or looked up: code, diff, commands and pictures."""
from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from minifast.cli import build_parser, main
from minifast.demo import write_digits

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / 'README.md').read_text(encoding='utf-8')


def blocks(language: str, text: str = README) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf'```{language}\n(.*?)```', text, re.DOTALL)


COMMANDS = [line for block in blocks('console') for line in block.splitlines() if line.startswith('minifast ')]


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """A folder with the digits in it, as a reader who ran the six lines has."""
    folder = tmp_path_factory.mktemp('readme')
    write_digits(folder / 'digits')
    return folder


@pytest.fixture(scope='module')
def few(folder) -> Path:
    """A folder with a few of the digits, for what need not learn anything."""
    for file in (folder / 'digits').rglob('*.png'):
        if int(file.stem) < 8:
            copy = folder / 'few' / 'digits' / file.parent.name / file.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    return folder / 'few'


def run(code: str, folder: Path) -> subprocess.CompletedProcess:
    """Run code as a script of its own in a folder."""
    done = subprocess.run([sys.executable, '-c', code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def test_six_lines_make_the_picture(folder):
    """The first block has six lines and ends in a figure of ten digits; the committed picture is of that figure."""
    code = blocks('python')[0]
    assert len(code.strip().splitlines()) == 6
    done = run(code + "\nassert len(plt.gcf().axes) == 10\nplt.savefig('digits.png', dpi=70)", folder)
    assert 'error_rate' in done.stdout
    assert (folder / 'digits.png').exists()


def test_diff_from_fastai_has_five_lines_and_its_new_side_runs(few):
    """Only the import line differs, and the script runs."""
    lines = blocks('diff')[0].strip('\n').splitlines()
    assert len(lines) == 5
    old = [line[1:] for line in lines if line[0] == '-']
    new = [line[1:] for line in lines if line[0] == '+']
    assert [line.replace('fastai', 'minifast') for line in old] == new == ['from minifast.vision.all import *']
    run('\n'.join(line[1:] for line in lines if line[0] != '-'), few)


def test_a_long_run_goes_on_where_it_stopped(few):
    """The block runs behind the imports of the first; run again it finds the finished training."""
    lines = [*blocks('python')[0].splitlines()[:2], *blocks('python')[1].splitlines()]
    code = '\n'.join(lines).replace('fit_one_cycle(3', 'fit_one_cycle(1')
    assert 'starts from scratch' in run(code, few).stdout
    assert 'resumed from' in run(code, few).stdout and any((few / 'decoded').iterdir())


def test_make_commands_are_in_the_makefile_and_ci_runs_the_tests():
    """Each `make x` of the README is a target; `.ci/run` calls exactly `make test`."""
    targets = re.findall(r'^([a-z]+):', (ROOT / 'Makefile').read_text(encoding='utf-8'), re.MULTILINE)
    assert set(re.findall(r'^make (\w+)$', README, re.MULTILINE)) <= set(targets)
    commands = [line for line in (ROOT / '.ci' / 'run').read_text(encoding='utf-8').splitlines() if line[:1] not in '#']
    assert commands[-1] == 'exec make test'


USED = """
dls = block.dataloaders('digits', item_tfms=Resize(16), bs=16, num_workers=0)
assert dls.one_batch()[0].shape == (16, 1, 16, 16)
learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(256, 10)), metrics=Worst())
learn.fit(5, cbs=StopWhenGood(at=100.))
assert len(learn.recorder.values) == 1 and learn.recorder.values[0][2] > 0
"""


def test_what_contributing_shows_runs(few):
    """Callback, metric and block are what they say; the commands are there."""
    text = (ROOT / 'CONTRIBUTING.md').read_text(encoding='utf-8')
    run('\n'.join([*blocks('python', text), USED]), few)
    targets = re.findall(r'^([a-z][a-z -]*):', (ROOT / 'Makefile').read_text(encoding='utf-8'), re.MULTILINE)
    named = re.findall(r'`make ([a-z -]+?)(?: [A-Z]+=\S+)?`', text) + re.findall(r'^make ([a-z]+)', text, re.MULTILINE)
    assert len(named) > 5 and {one for line in named for one in line.split()} <= {
        one for line in targets for one in line.split()}


def test_shell_commands_parse():
    """Each `minifast ...` line is understood by the command line."""
    assert len(COMMANDS) >= 4
    for line in COMMANDS:
        build_parser().parse_args(shlex.split(line)[1:])


def test_shell_commands_run(few, monkeypatch, capsys):
    """The commands do what they say, one after the other."""
    monkeypatch.chdir(few)
    for line in COMMANDS:
        argv = shlex.split(line)[1:] + (['--size', '32', '--epochs', '1', '--lr', '1e-3'] if 'train' in line else [])
        assert main(argv) == 0, line
    assert 'model.pth' in capsys.readouterr().out


def test_links_and_pictures_are_there():
    """Every relative link leads to a file of the repository; pictures are small."""
    for target in re.findall(r'\]\(([^)#]+)\)', README):
        if not target.startswith('http'):
            assert (ROOT / target).is_file(), target
            assert (ROOT / target).stat().st_size < 400_000
