"""Who has the documents alone gets there: their own commands, word by word, in an environment that was empty.

The wheel is installed as `pip install minifast` would, with all that it needs and nothing else, far from the checkout.
`make test-newcomer`: minutes, most of them for PyTorch.
"""
from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'tools'))

import dist  # noqa: E402

pytestmark = pytest.mark.newcomer

FENCED = re.compile(r'(?:`([\w/.-]+)`:\n\n)?```(\w+)\n(.*?)^```', re.MULTILINE | re.DOTALL)


class Page:
    """A page of the documents, and its blocks of code."""

    def __init__(self, name: str) -> None:
        self.text = (ROOT / name).read_text(encoding='utf-8')

    def code(self, language: str, holds: str = '') -> str:
        """The first block of a language that holds a text."""
        return next(code for _, kind, code in FENCED.findall(self.text) if kind == language and holds in code)

    def commands(self, holds: str) -> list[str]:
        """The lines of the console block that holds a text."""
        return [line.removeprefix('$ ') for line in self.code('console', holds).splitlines()]

    def files(self) -> dict[str, str]:
        """The files that the page says to write: the block behind "in `file`:"."""
        return {file: code for file, _, code in FENCED.findall(self.text) if file}


@pytest.fixture(scope='module')
def place(tmp_path_factory) -> Path:
    """The folder with the empty environment, and nothing else."""
    place = tmp_path_factory.mktemp('newcomer')
    wheel, _ = dist.build(place, place / 'dist')
    dist.environment(place / 'env', sys.executable, wheel)
    return place


@pytest.fixture
def shell(place, tmp_path, weights):
    """`shell(command)` runs a line in an empty folder, with the environment's programs alone: what it printed."""
    env = {'PATH': f'{place / "env" / "bin"}{os.pathsep}/usr/bin{os.pathsep}/bin', 'HOME': str(tmp_path / 'home'),
           'TORCH_HOME': str(weights), 'MPLBACKEND': 'Agg', 'LANG': 'C.UTF-8'}
    (tmp_path / 'work').mkdir()

    def run(command: str, status: int = 0) -> str:
        done = subprocess.run(shlex.split(command), cwd=tmp_path / 'work', env=env, check=False, capture_output=True,
                              text=True)
        assert done.returncode == status, f'{command}\n{done.stdout}{done.stderr}'
        return done.stdout
    run.folder, run.env = tmp_path / 'work', env
    assert 'site-packages' in run('python -c "import minifast; print(minifast.__file__)"')
    return run


@pytest.fixture(scope='module')
def weights(place) -> Path:
    """A `TORCH_HOME` in which the file lies that torchvision would download: what is drawn by chance stands in."""
    code = ('import os, torch; from torchvision.models import ResNet18_Weights as W, resnet18; torch.manual_seed(0)\n'
            f'to = os.path.join({str(place / "torch")!r}, "hub", "checkpoints"); os.makedirs(to)\n'
            'torch.save(resnet18().state_dict(), os.path.join(to, W.DEFAULT.url.split("/")[-1]))')
    subprocess.run([place / 'env' / 'bin' / 'python', '-c', code], check=True)
    return place / 'torch'


def drawn(folder: Path) -> Path:
    """Pictures as somebody has them: three classes, JPEG and PNG, of several sizes; returns one of them."""
    from PIL import Image, ImageDraw
    for i, kind in enumerate(('ball', 'box', 'stripe')):
        (folder / kind).mkdir(parents=True)
        for n in range(24):
            picture = Image.new('RGB', (150 + 3 * n, 120 + 5 * i), (40 + 5 * n, 90, 120))
            draw, at = ImageDraw.Draw(picture), 10 + n
            if kind == 'ball':
                draw.ellipse((at, at, at + 70, at + 70), fill='yellow')
            elif kind == 'box':
                draw.rectangle((at, at, at + 70, at + 60), fill='red')
            else:
                draw.line((0, at, 140, 110 - at), fill='white', width=9)
            picture.save(folder / kind / f'{kind} {n:02d}.{"jpg" if n % 3 else "png"}')
    return folder / 'ball' / 'ball 00.png'


def test_who_has_a_folder_of_pictures_trains_on_it(shell):
    """The tutorial's six lines, and the README's commands, with the name of the folder that is theirs."""
    own = drawn(shell.folder / 'my pictures')
    (shell.folder / 'train.py').write_text(Page('docs/tutorial.md').code('py', 'my pictures'))
    rows = [line.split() for line in shell('python train.py').splitlines()]
    assert [row[0] for row in rows] == ['epoch', '0', 'epoch', '0', '1', '2']
    assert 0 <= float(rows[-1][rows[0].index('error_rate')]) <= 1  # a body that knows nothing, for a minute
    commands = Page('README.md').commands('minifast train')
    printed = {}
    for command in commands:
        theirs = command.replace('digits/7/000.png', f'"my pictures/{own.relative_to(shell.folder / "my pictures")}"')
        printed[command.split()[1]] = shell(theirs.replace('digits', '"my pictures"'))
    assert list(printed) == ['check', 'train', 'predict', 'env']
    assert '3 classes, 72 pictures: ball 24, box 24, stripe 24' in printed['check']
    assert 'error rate' in printed['train'] and 'ball 00.png' in printed['predict']
    assert (shell.folder / 'model' / 'model.pth').exists()


def test_who_has_a_callback_makes_a_package_of_it_and_installs_it(shell, place):
    """The two files and the commands of the page on callbacks; found by its name in the shell and in a script."""
    page = Page('docs/callbacks.md')
    files = page.files()
    assert list(files) == ['my-callbacks/my_callbacks.py', 'my-callbacks/pyproject.toml']
    for name, text in files.items():
        (shell.folder / name).parent.mkdir(exist_ok=True)
        (shell.folder / name).write_text(text)
    install, check = page.commands('pip install ./my-callbacks')
    try:
        shell(install)
        shutil.rmtree(shell.folder / 'my-callbacks')
        assert re.search(r'^stop_at +my_callbacks:StopAt +my-callbacks 0.1 +ok$', shell(check), re.MULTILINE)
        script = ('from minifast.test_utils import synth_learner\nlearn = synth_learner()\n'
                  + page.code('py', 'load_plugin').replace('0.5', '1e9') + 'assert len(learn.recorder.values) == 1\n')
        (shell.folder / 'script.py').write_text(script)
        shell('python script.py')
        own = drawn(shell.folder / 'FOLDER').parent.parent
        command = re.search(r'`(minifast train FOLDER --cb stop_at)`', page.text)[1]
        told = shell(f'{command} --weights none --size 32 --epochs 2 --out out')
        assert own.exists() and 'error rate' in told
    finally:
        shell('pip uninstall --yes my-callbacks')


def test_whose_run_was_killed_runs_the_script_again(shell):
    """The README's script, killed with -9 between two checkpoints and run again, ends in the bits of one left alone."""
    page = Page('README.md')
    script = shell.folder / 'train.py'
    script.write_text('\n'.join([*page.code('python').splitlines()[:2], 'set_seed(1)', "write_digits('digits')",
                                 page.code('python', 'resume=True'),
                                 "torch.save(learn.model.state_dict(), 'end.pth')", '']))
    killed = subprocess.Popen([Path(shell.env['PATH'].split(os.pathsep)[0]) / 'python', 'train.py'], cwd=shell.folder,
                              env=shell.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                              start_new_session=True)
    checkpoints, until = shell.folder / 'checkpoints', time.monotonic() + 300
    while not any(checkpoints.glob('checkpoint-*.pth')) and killed.poll() is None and time.monotonic() < until:
        time.sleep(.05)
    time.sleep(1)
    os.killpg(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL, 'it came to its end, or never to a checkpoint'
    assert not (shell.folder / 'end.pth').exists()
    assert 'resumed from' in shell('python train.py')
    (shell.folder / 'end.pth').rename(shell.folder / 'resumed.pth')
    checkpoints.rename(shell.folder / 'other')
    assert 'resumed from' not in shell('python train.py')
    shell('python -c "import torch; a, b = torch.load(\'end.pth\'), torch.load(\'resumed.pth\'); '
          'assert all(torch.equal(a[k], b[k]) for k in a)"')
