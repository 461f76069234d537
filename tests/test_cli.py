"""The command line: what it writes, what it prints, its exit codes, and one sentence for every mistake of a user."""
from __future__ import annotations

import contextlib
import csv
import inspect
import json
import logging
import os
import pickle
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image

from minifast import __version__, commands
from minifast.cli import build_parser, main
from minifast.distributed import PeerError

FAST = ['--weights', 'none', '--size', '32', '--bs', '8', '--epochs', '1', '--lr', '1e-3', '--workers', '0']


def draw(folder: Path, classes: str = 'red blue', n: int = 12) -> Path:
    """A folder of small pictures, each class of one noisy colour."""
    source = random.Random(0)
    for name in classes.split():
        (folder / name).mkdir(parents=True)
        for i in range(n):
            noise = source.randrange(60)
            colour = {'red': (255 - noise, noise, noise), 'blue': (noise, noise, 255 - noise)}.get(name, (noise,) * 3)
            Image.new('RGB', (40, 36), colour).save(folder / name / f'{i}.png')
    return folder


@pytest.fixture(scope='module')
def trained(tmp_path_factory) -> Path:
    """The output folder of a short training on red and blue pictures."""
    base = tmp_path_factory.mktemp('trained with spaces')
    assert main(['train', str(draw(base / 'pictures')), '--out', str(base / 'out'), *FAST]) == 0
    return base / 'out'


def make_broken(folder: Path) -> Path:
    """Pictures of which one is none; returns that one."""
    bad = draw(folder) / 'red' / '3.png'
    bad.write_bytes(b'these bytes are no picture')
    return bad


def history(out: Path) -> list[list[str]]:
    """The rows of an output folder's history, header first."""
    return list(csv.reader((out / 'history.csv').read_text(encoding='utf-8').splitlines()))


def fails(argv: list, capsys, *words: str) -> None:
    """The command ends with exit code 2 and one line on stderr that holds all of `words`."""
    try:
        code = main([str(word) for word in argv])
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr().err.strip()
    last = said.splitlines()[-1]
    assert code == 2 and 'Traceback' not in said
    assert last.startswith('minifast') and all(word in last for word in map(str, words)), said


# ---------------------------------------------------------------- train

def test_train_writes_model_and_history(trained):
    """A training leaves the model and one row an epoch, nothing else."""
    assert sorted(f.name for f in trained.iterdir()) == ['history.csv', 'model.pth']
    header, *rows = history(trained)
    assert header == ['epoch', 'train_loss', 'valid_loss', 'error_rate', 'time'] and len(rows) == 1


def test_train_leaves_no_trace_in_the_pictures_folder(trained):
    """The user's pictures folder holds what it held."""
    assert sorted(f.name for f in (trained.parent / 'pictures').iterdir()) == ['blue', 'red']


def test_train_takes_train_and_valid_folders_and_finds_a_learning_rate(tmp_path, capsys):
    """With folders train and valid the split is the user's; `--lr auto` says what it found."""
    draw(tmp_path / 'p' / 'train')
    draw(tmp_path / 'p' / 'valid', n=4)
    argv = ['train', tmp_path / 'p', '--out', tmp_path / 'out', *FAST]
    argv[argv.index('1e-3')] = 'auto'
    assert main([str(word) for word in argv]) == 0
    said = capsys.readouterr().out
    assert '24 pictures to train and 8 to validate' in said and 'learning rate' in said


def test_train_repeats_exactly_with_the_same_seed(trained, tmp_path, capsys):
    """The same command on the same pictures ends in the same numbers. It says what it has found, its error, and a
    command that works."""
    out = tmp_path / 'it is again'
    assert main(['train', str(trained.parent / 'pictures'), '--out', str(out), *FAST]) == 0
    said = capsys.readouterr().out.splitlines()
    first, second = ([row[:-1] for row in history(folder)] for folder in (trained, out))  # without the time
    assert first == second
    assert said[0] == ('2 classes, 20 pictures to train and 4 to validate; resnet18 at 32 px on '
                       f'{commands.default_device()}')
    assert said[-2] == f'error rate {float(second[-1][-1]):.1%}; model and history are in {out}'
    told, command = said[-1].partition(': ')[::2]
    words = shlex.split(command)
    assert (told, words[0], words[-1]) == ('now', 'minifast', 'PICTURE...')
    assert main([*words[1:-1], str(trained.parent / 'pictures' / 'red' / '0.png')]) == 0


def test_train_without_network_names_the_file_and_the_ways_out(tmp_path, capsys, monkeypatch):
    """No cached weights and no network: the wanted file, where it goes, and the two other ways."""
    def unreachable(*args, **kwargs):
        raise OSError('no route to host')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    monkeypatch.setattr('minifast.vision.models.weights.open_url', unreachable)
    name = 'resnet18-f37072fd.pth'
    fails(['train', draw(tmp_path / 'p'), '--out', tmp_path / 'out'], capsys, (
        f'minifast train: the pretrained weights {name} are not on this machine and could not be downloaded (no route '
        f'to host). Either get https://download.pytorch.org/models/{name} elsewhere and put it at {tmp_path}/home/hub/'
        f'checkpoints/{name}, or give a file of your own (weights=FILE), or start without (pretrained=False); on the '
        'command line: --weights FILE or --weights none'))
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('command', ['train p', 'demo'])
def test_an_output_folder_that_cannot_be_written_is_told_first(command, tmp_path, capsys, monkeypatch):
    """With the folder that does not let it be made."""
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / 'p')
    monkeypatch.setattr('os.access', lambda path, mode: path != tmp_path)
    fails([*command.split(), '--out', 'some/out'], capsys, f'minifast {command.split()[0]}: --out some/out: {tmp_path} '
          'is not writable: give another folder')


def test_a_class_of_few_pictures_is_one_wherever_the_split_puts_them(tmp_path):
    """Also where none of them is left to train with."""
    from minifast.commands import _loaders, _picture_folder
    draw(tmp_path / 'p'), draw(tmp_path / 'p', 'lone', n=1)
    seen = set()
    for seed in ('1', '5'):
        args = build_parser().parse_args(['train', str(tmp_path / 'p'), '--workers', '0', '--seed', seed])
        dls = _loaders(args, _picture_folder(args))
        seen.add('lone' in {file.parent.name for file in dls.train_ds.items})
        assert list(dls.vocab) == ['blue', 'lone', 'red']
        assert len(dls.train_ds) == 20 and list(dls.valid)
    assert seen == {True, False}


@pytest.mark.parametrize('words, ranks, bs, flips', [
    ('--size 48', 1, 20, True), ('--size 32 --bs 7 --no-flip', 1, 7, False), ('--size 32 --bs 64', 2, 10, True)])
def test_each_option_about_pictures_reaches_the_loaders(words, ranks, bs, flips, tmp_path, monkeypatch):
    """Side, size of a batch, which is no larger than what a process has to train on, mirroring, workers, and the seed
    of the split."""
    monkeypatch.setattr(commands, 'num_distrib', lambda: ranks)
    folder, splits = draw(tmp_path / 'p'), []
    for seed in '1', '2', '1':
        args = build_parser().parse_args(['train', str(folder), '--workers', '0', '--seed', seed, *words.split()])
        dls = commands._loaders(args, commands._picture_folder(args))
        splits.append(sorted(dls.valid_ds.items))
    x, _ = dls.train.one_batch()
    assert x.shape == (bs, 3, args.size, args.size) and dls.train.num_workers == 0
    made = [type(part).__name__ for tfm in dls.train.after_batch.fs for part in getattr(tfm, 'parts', ())]
    assert ('Flip' in made) is flips and 'Brightness' in made
    assert splits[0] == splits[2] != splits[1]


def test_a_name_that_torchvision_has_not_may_be_one_of_timm():
    """A function of the one, a name of the other."""
    assert commands._architecture('resnet34') is torchvision.models.resnet34
    if commands._version('timm'):
        assert commands._architecture('resnet26d') == 'resnet26d'


class Asked(Exception):
    """A training would begin now."""


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """`asked(*words)`: the fit that `minifast train` asks for with these words, its name, arguments and keywords."""
    from minifast.learner import Learner
    folder, told, usual = draw(tmp_path / 'p'), [], inspect.signature(Learner.fine_tune).parameters['base_lr'].default
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / 'w.pth')

    def stub(name):
        def fit(self, *args, **kwargs):
            told.append((name, args, kwargs))
            raise Asked
        monkeypatch.setattr(Learner, name, fit)

    def ask(*words):
        assert main(['train', str(folder), '--size', '32', '--out', str(tmp_path / 'out'), *map(str, words)]) == 1
        return told.pop()
    ask.usual = usual
    stub('fit_one_cycle'), stub('fine_tune')
    return ask


def test_train_asks_for_a_learning_rate_that_suits_the_weights(asked, tmp_path, capsys):
    """That of `fine_tune` for weights that know something; no trial run unless it is asked for."""
    usual = asked.usual
    name, args, kwargs = asked('--weights', tmp_path / 'w.pth', '--epochs', 5)
    assert (name, args, kwargs.keys()) == ('fine_tune', (5, usual), {'cbs'})
    assert asked('--weights', 'none')[:2] == ('fit_one_cycle', (3, 3e-3))
    assert asked('--weights', 'none', '--lr', '0.5')[1] == (3, .5)
    assert 'learning rate' not in capsys.readouterr().out
    assert asked('--weights', tmp_path / 'w.pth', '--lr', 'auto', '--bs', 8)[1] == (3, usual)
    assert capsys.readouterr().out.splitlines()[1] == (
        'learning rate 0.002: a trial run takes a quarter of the training and 20 batches at least, and this one has 8 '
        'batches')
    assert asked('--weights', 'none', '--resume')[2].items() >= {
        'checkpoint': tmp_path / 'out' / 'checkpoints', 'resume': True}.items()


@pytest.mark.parametrize('found, lr, words', [
    (1e-3, 1e-3, 'learning rate 0.001'), (.9, 8e-3, 'learning rate 0.008, as the 0.9 of the trial run lies far off'),
    (1e-6, 5e-4, 'learning rate 0.0005, as the 1e-06 of the trial run lies far off')])
@pytest.mark.parametrize('n, epochs, trial', [(20, 3, 20), (27, 3, 27), (200, 9, 100)])
def test_a_trial_run_is_short_and_what_it_finds_has_bounds(found, lr, words, n, epochs, trial, capsys):
    """At most a quarter of the training and 100 batches; at most four times the usual rate, and a quarter of it."""
    from minifast.commands import _learning_rate

    class Stub:
        dls = types.SimpleNamespace(train=range(n))
        bar = True

        @contextlib.contextmanager
        def no_bar(self):
            self.bar = False
            yield
            self.bar = True

        def lr_find(self, start, end, *, num_it, show_plot):
            assert num_it == trial and not show_plot and not self.bar
            assert start * 10 < 5e-4 and 8e-3 * 10 < end <= 1  # both sides of what it may find
            return types.SimpleNamespace(valley=found)
    args = build_parser().parse_args(['train', 'p', '--lr', 'auto', '--epochs', str(epochs)])
    assert _learning_rate(args, Stub()) == pytest.approx(lr)
    assert capsys.readouterr().out == f'looking for a learning rate: a trial run of {trial} batches\n{words}\n'
    Stub.dls.train = range(79 // (epochs + 1))
    assert _learning_rate(args, Stub()) == 2e-3 and 'trial run takes a quarter' in capsys.readouterr().out


def test_train_tells_where_a_model_can_be_cut(asked, tmp_path, monkeypatch, capsys):
    """By the option of the shell; a wrong place is told, a right one taken."""
    def arch(pretrained=False):
        return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(9, 2))
    monkeypatch.setattr('minifast.commands._architecture', lambda name: arch)
    argv = ['train', tmp_path / 'p', '--weights', 'none', '--arch', 'mine', '--out', tmp_path / 'm']
    fails(argv, capsys, 'Sequential has no pooling layer to cut before', '; on the command line: --cut N')
    fails([*argv, '--cut', 3], capsys, 'minifast train: --cut 3: what comes before this child of mine takes no '
          'pictures (RuntimeError: ', '): give another number')
    assert asked('--weights', 'none', '--cut', 1)[0] == 'fit_one_cycle'


PLUGIN = '''
from minifast.callback.core import Callback

class Stops(Callback):
    order = 2000
    def after_batch(self):
        if self.training and self.epoch == 1:
            raise KeyboardInterrupt

class Wants(Callback):
    def __init__(self, it):
        pass
'''


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    """An installed package with two callbacks."""
    (tmp_path / 'shell_plugins.py').write_text(PLUGIN)
    info = tmp_path / 'shell_plugins-1.2.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text('Metadata-Version: 2.1\nName: shell-plugins\nVersion: 1.2\n')
    (info / 'entry_points.txt').write_text('[minifast.callbacks]\nstops = shell_plugins:Stops\n'
                                           'wants = shell_plugins:Wants\n')
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop('shell_plugins', None)


def test_train_is_stopped_resumed_and_run_again_to_the_same_history(plugins, tmp_path, capsys):
    """A plugin stops it in its second epoch; the same command goes on, and once more changes nothing. A picture that
    cannot be read is passed over and named at the end."""
    bad = make_broken(tmp_path / 'p')
    words = ['train', str(tmp_path / 'p'), *FAST, '--epochs', '2', '--bs', '20', '--skip-bad']
    assert main([*words, '--out', str(tmp_path / 'whole')]) == 0
    assert capsys.readouterr().err == f'minifast train: {bad} is left out: it is text and no picture\n'
    resumed = [*words, '--out', str(tmp_path / 'out'), '--resume']
    assert main([*resumed, '--cb', 'stops']) == 130
    assert [f.name for f in (tmp_path / 'out').iterdir()] == ['checkpoints']
    new = tmp_path / 'p' / 'red' / 'new.png'
    Image.new('RGB', (40, 36)).save(new)
    fails(resumed, capsys, 'minifast train: --resume: ', 'is of another run', '; on the command line: another --out')
    new.unlink()
    for _ in range(2):
        assert main(resumed) == 0
        assert sorted(f.name for f in (tmp_path / 'out').iterdir()) == ['checkpoints', 'history.csv', 'model.pth']
        assert [row[:-1] for row in history(tmp_path / 'out')] == [row[:-1] for row in history(tmp_path / 'whole')]
        out, err = capsys.readouterr()
        assert 'resumed from' in out and err.splitlines()[-1].endswith('is left out: it is text and no picture')
    fails([*words, '--cb', 'wants'], capsys, "minifast train: --cb wants: ", "'it'")


def test_train_on_several_processes_refuses_before_any_is_started(tmp_path, capsys, monkeypatch):
    """More processes than GPUs, or one that torchrun has started: what to give instead."""
    argv = ['train', draw(tmp_path / 'p'), '--out', tmp_path / 'out', *FAST, '--nproc']
    monkeypatch.setattr('torch.cuda.device_count', lambda: 3)
    fails([*argv, '4'], capsys, 'minifast train: --nproc 4: this machine has 3 GPUs, one for a process: give --nproc '
          '3 or less, or hide them (CUDA_VISIBLE_DEVICES=) to train on the CPU')
    monkeypatch.setenv('RANK', '1')
    fails([*argv, '2'], capsys, 'minifast train: --nproc 2: this process is one of several already (RANK=1 is set, as '
          'by torchrun): leave --nproc out, or start minifast train without torchrun')
    assert not (tmp_path / 'out').exists()


STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


class Launched:
    """In the place of torch's launcher: what it is given, and what it raises."""

    def __init__(self, monkeypatch, error=None):
        self.given, self.error = None, error
        monkeypatch.setattr('torch.distributed.launcher.api.elastic_launch', self)

    def __call__(self, config, entrypoint):
        self.config, self.entrypoint = config, entrypoint
        return self.launch

    def launch(self, *words):
        self.given = words
        for number in STOPPING:
            signal.signal(number, signal.SIG_IGN)  # as torch's has handlers of its own
        if self.error:
            raise self.error


def test_train_on_several_processes_starts_itself_with_the_same_words(tmp_path, monkeypatch):
    """By torch's launcher, on this machine, once; the processes know by their run that they are started, and train."""
    launched, logs = Launched(monkeypatch), []
    launch = launched.launch

    def launch_and_ask(*words):
        logs.append(launched.config.logs_specs.reify({rank: {} for rank in range(2)}))
        launch(*words)
    launched.launch = launch_and_ask
    monkeypatch.delenv('OMP_NUM_THREADS')
    before = [signal.getsignal(number) for number in STOPPING]
    words = ['train', str(draw(tmp_path / 'p')), '--out', str(tmp_path / 'out'), *FAST, '--nproc', '2']
    assert main(words) == 0
    config = launched.config
    assert (launched.entrypoint, launched.given) == (sys.executable, ('-m', 'minifast', *words))
    assert (config.min_nodes, config.max_nodes, config.nproc_per_node, config.max_restarts) == (1, 1, 2, 0)
    assert (config.rdzv_backend, config.rdzv_endpoint) == ('c10d', 'localhost:0')
    assert os.environ['OMP_NUM_THREADS'] == str(max(os.cpu_count() // 2, 1))
    assert [signal.getsignal(number) for number in STOPPING] == before and logging.getLogger().isEnabledFor(
        logging.ERROR)
    for files in (logs[0].stdouts, logs[0].stderrs):  # the first process has the terminal
        assert not files[0] and files[1]
    monkeypatch.setenv('OMP_NUM_THREADS', '3')
    assert main(words) == 0 and os.environ['OMP_NUM_THREADS'] == '3'
    launched.given = None
    monkeypatch.setenv('TORCHELASTIC_RUN_ID', config.run_id)
    assert main(words) == 0
    assert launched.given is None and (tmp_path / 'out' / 'model.pth').exists()


@pytest.mark.parametrize('n_gpus', [0, 10, 11])
def test_as_many_processes_are_started_as_have_two_pictures_and_a_gpu_each(n_gpus, tmp_path, monkeypatch):
    """And not one less: 20 pictures to train on are enough for ten."""
    launched = Launched(monkeypatch)
    monkeypatch.setattr('torch.cuda.device_count', lambda: n_gpus)
    assert main(['train', str(draw(tmp_path / 'p')), '--out', str(tmp_path / 'out'), *FAST, '--nproc', '10']) == 0
    assert launched.config.nproc_per_node == 10


@pytest.mark.parametrize('rank, run, handles, writes', [
    (0, 'minifast-1', True, True), (1, 'minifast-1', False, False), (1, 'of torchrun', True, False)])
def test_of_several_processes_the_first_writes_and_is_stopped(rank, run, handles, writes, tmp_path, monkeypatch,
                                                              capsys):
    """Ctrl-C comes to all that were started here, and the first tells the others; it also names what any of them has
    passed over."""
    from minifast.learner import Learner
    monkeypatch.setenv('TORCHELASTIC_RUN_ID', run)
    monkeypatch.setattr(commands, 'rank_distrib', lambda: rank)
    monkeypatch.setattr(commands, 'gather_objects', lambda mine: [mine, {'b.png'}, {'a.png', 'b.png'}])
    monkeypatch.setattr(Learner, 'fit_one_cycle', lambda learn, *args, **kwargs: vars(learn.recorder).update(
        values=[[1., 1., .125]], metric_names=['epoch', 'train_loss', 'valid_loss', 'error_rate', 'time']))
    before = signal.getsignal(signal.SIGINT)
    try:
        assert main(['train', str(draw(tmp_path / 'p')), '--out', str(tmp_path / 'out'), *FAST]) == 0
        assert signal.getsignal(signal.SIGINT) == (before if handles else signal.SIG_IGN)
    finally:
        signal.signal(signal.SIGINT, before)
    out, err = capsys.readouterr()
    assert (tmp_path / 'out').exists() is writes and ('error rate 12.5%;' in out) is writes
    assert re.findall(r'(\w\.png) is left out', err) == ['a.png', 'b.png'] * writes


def failure(folder, rank, kind=None, message='', exitcode=1):
    """What torch's launcher knows of a process that ended."""
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
    file = folder / f'{rank}.json'
    if kind:
        told = {'message': f'{kind}: {message}',
                'extraInfo': {'py_callstack': f'Traceback ...\n{kind}: \x1b[2J{message}', 'timestamp': '1'}}
        file.write_text(json.dumps({'message': told}))
    return ProcessFailure(rank, 100 + rank, exitcode, str(file))


@pytest.mark.parametrize('failures, code, told', [
    ({0: dict(kind='PeerError', message='rank 1 has failed'), 1: dict(kind='UserMistake', message='p.png: mend it',
                                                                        exitcode=2)}, 2, 'p.png: mend it'),
    ({0: dict(exitcode=-15), 2: dict(kind='ZeroDivisionError', message='by zero')}, 1,
     'rank 2 of 3 processes has failed with ZeroDivisionError; no model was written'),
    ({0: dict(kind='PeerError', message='rank 1 has gone'), 1: dict(exitcode=-9), 2: dict(exitcode=-15)}, 137,
     'rank 1 of 3 processes was ended: Signal 9 (SIGKILL) received by PID 101; no model was written'),
    ({1: dict(exitcode=7)}, 7, 'rank 1 of 3 processes has ended with 7; no model was written')])
def test_train_on_several_processes_tells_the_first_cause_once(tmp_path, monkeypatch, capsys, failures, code, told):
    """Not what it did to the others. The last line says what and where, with that process's exit code; bytes that are
    no text hide none of its last words."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    error = ChildFailedError('x', {rank: failure(tmp_path, rank, **what) for rank, what in failures.items()})
    launched = Launched(monkeypatch, error)
    launch = launched.launch

    def launch_and_log(*words):
        for rank in range(3):
            folder = Path(launched.config.logs_specs.root_log_dir, 'run', 'attempt_0', str(rank))
            folder.mkdir(parents=True)
            lines = [f'line {i}'.encode() for i in range(40)]
            (folder / 'stderr.log').write_bytes(b'\n'.join([*lines, b'last words \xff', b'']))
        launch(*words)
    launched.launch = launch_and_log
    assert main(['train', str(draw(tmp_path / 'p')), '--out', str(tmp_path / 'out'), *FAST, '--nproc', '3']) == code
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == f'minifast train: {told}'
    if code == 2:
        assert len(lines) == 1
    elif code == 1:
        assert lines[:-1] == ['Traceback ...', 'ZeroDivisionError: \\x1b[2Jby zero']
    else:
        assert (lines[0], lines[-2], len(lines)) == ('line 11', 'last words \ufffd', 31)
    assert not Path(launched.config.logs_specs.root_log_dir).exists()


def test_what_stands_for_a_value_is_in_capitals():
    """In the help of every command: small letters are typed as they stand."""
    parsers = build_parser()._subparsers._group_actions[0].choices
    named = [name for parser in parsers.values() for action in parser._actions for name in [action.metavar] if name]
    assert len(parsers) > 4 and len(named) > 15 and all(name.isupper() for name in named), named


@pytest.mark.parametrize('number, code', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_train_on_several_processes_is_stopped_by_a_signal(tmp_path, monkeypatch, capsys, number, code):
    """The exit codes of a shell, and one line."""
    from torch.distributed.elastic.multiprocessing import SignalException
    Launched(monkeypatch, SignalException('stop', signal.Signals(number)))
    assert main(['train', str(draw(tmp_path / 'p')), '--out', str(tmp_path / 'out'), *FAST, '--nproc', '2']) == code
    told, = capsys.readouterr().err.strip().splitlines()
    assert told.endswith('no model was written') and 'stopped by' in told


@pytest.mark.parametrize('code, kind', [(2, 'UserMistake'), (1, 'ZeroDivisionError')])
def test_a_process_of_several_leaves_its_error_to_the_launcher(tmp_path, monkeypatch, capsys, code, kind):
    """In the file that the launcher names, with its traceback; it prints nothing itself."""
    monkeypatch.setenv('TORCHELASTIC_ERROR_FILE', str(tmp_path / 'error.json'))
    if code == 1:
        monkeypatch.setattr('minifast.commands._architecture', lambda arch: 1 / 0)
    folder = tmp_path / 'missing' if code == 2 else draw(tmp_path / 'p')
    assert main(['train', str(folder), *FAST]) == code
    told = json.loads((tmp_path / 'error.json').read_text())['message']
    assert told['message'].startswith(f'{kind}: ') and 'commands.py' in told['extraInfo']['py_callstack']
    assert capsys.readouterr() == ('', '')
    monkeypatch.setattr('minifast.commands.train', lambda args: signal.raise_signal(signal.SIGINT))
    assert main(['train', str(tmp_path)]) == 130 and capsys.readouterr() == ('', '')


def test_train_ctrl_c_ends_with_130_and_writes_nothing(tmp_path):
    """Ctrl-C stops a training with exit code 130, without a traceback and without an output folder."""
    draw(tmp_path / 'p')
    argv = [sys.executable, '-m', 'minifast', 'train', 'p', '--out', 'out', *FAST]
    argv[argv.index('--epochs') + 1] = '1000'
    with subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.readline()  # said just before training
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and 'stopped by Ctrl-C' in said and 'Traceback' not in said
    assert not (tmp_path / 'out').exists()


# ---------------------------------------------------------------- predict

def test_predict_prints_a_table(trained, capsys):
    """A line a picture under a header, for files and folders."""
    pictures = trained.parent / 'pictures'
    assert main(['predict', str(trained / 'model.pth'), str(pictures / 'red' / '0.png'), str(pictures / 'blue')]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ['file', 'prediction', 'probability'] and len(rows) == 13
    assert rows[0].startswith(str(pictures / 'red' / '0.png')) and rows[0].endswith('%')


def test_predict_json_is_for_machines(trained, capsys):
    """`--json` prints one JSON list and nothing else; probabilities of all classes sum to one."""
    picture = str(trained.parent / 'pictures' / 'red' / '1.png')
    assert main(['predict', '--json', str(trained / 'model.pth'), picture]) == 0
    row, = json.loads(capsys.readouterr().out)
    assert row['file'] == picture and set(row['probabilities']) == {'red', 'blue'}
    assert sum(row['probabilities'].values()) == pytest.approx(1)
    assert row['probability'] == max(row['probabilities'].values()) == row['probabilities'][row['prediction']]


def test_predict_passes_over_what_cannot_be_read(trained, tmp_path, capsys):
    """All others are predicted, whether a file or its folder is named; stderr names it, and the exit code is 1. The
    folder that train has named will do for the model in it."""
    bad = make_broken(tmp_path / 'p')
    for named in ([tmp_path / 'p'], sorted((tmp_path / 'p').rglob('*.png'))):
        assert main(['predict', str(trained), '--bs', '5', '--json', *map(str, named)]) == 1
        out, err = capsys.readouterr()
        assert [row['file'] for row in json.loads(out)] == [
            str(f) for f in sorted((tmp_path / 'p').rglob('*.png')) if f != bad]
        assert err == f'minifast predict: {bad} is left out: it is text and no picture\n'
    assert main(['predict', str(trained), str(tmp_path / 'p' / 'red')]) == 1
    assert len(capsys.readouterr().out.splitlines()) == 12
    for words, out in (([], ''), (['--json'], '[]\n')):
        assert main(['predict', str(trained), str(bad), *words]) == 1
        assert capsys.readouterr().out == out


@pytest.mark.parametrize('asked, sizes', [([], [12]), (['--bs', '5'], [5, 5, 2]), (['--bs', '1'], [1] * 12)])
def test_predict_takes_as_many_pictures_at_once_as_asked_for(asked, sizes, trained, capsys, monkeypatch):
    """As there is memory for; the answers are the same."""
    from minifast.loop import Loop
    seen, one_batch = [], Loop.one_batch

    def noted(self, i, b):
        seen.append(len(b[0]))
        return one_batch(self, i, b)
    monkeypatch.setattr(Loop, 'one_batch', noted)
    pictures = str(trained.parent / 'pictures' / 'red')
    assert main(['predict', '--json', str(trained / 'model.pth'), pictures, *asked]) == 0
    assert seen == sizes and len(json.loads(capsys.readouterr().out)) == 12


# ---------------------------------------------------------------- what is wrong, in one sentence

LAYOUT = 'give a folder that holds one folder of pictures a class, for example pets/cat/1.jpg and pets/dog/1.jpg'
NO_MODEL = 'give a model file that minifast train or learn.export wrote'
NO_PICTURES = 'give pictures or folders of pictures'
RATE = 'is no learning rate: give a positive number such as 1e-3, or auto (see minifast train --help)'
TINY = '--weights none --size 32 --bs 20 --workers 0'

REFUSED = {
    'empty': f'empty holds no pictures: {LAYOUT}',
    'one': "one holds pictures of one class only, 'red': a classifier needs two classes or more, each in a folder of "
           'its own',
    'one/red': 'one/red/0.png lies directly in one/red (one of 12): move each picture into a folder named after its '
               'class',
    'loose': 'loose/loose.png lies directly in loose: move each picture into a folder named after its class',
    'few': 'few holds 4 pictures: 10 is the least to train and to validate with',
    'more valid': 'more valid/valid/green is a class of the valid part that the train part does not have: give both '
                  'parts the same classes',
    'no valid': 'no valid/valid holds no pictures: give both parts the same classes'}
"""Folders that cannot be trained on, and why."""

WRONG = {
    '': 'minifast: the following arguments are required: COMMAND (see minifast --help)',
    'trian': "minifast: argument COMMAND: invalid choice: 'trian' (choose from 'train', 'predict', 'check', 'runs', "
             "'compare', 'demo', 'env', 'plugins') (see minifast --help)",
    'train': 'minifast train: the following arguments are required: FOLDER (see minifast train --help)',
    'train good more': "minifast train: 'more' is one word too many (see minifast train --help)",
    'train good --weight none': "minifast train: there is no option '--weight', did you mean '--weights'? (see "
                                'minifast train --help)',
    'train good -x': "minifast train: there is no option '-x' (see minifast train --help)",
    'train good --lr': 'minifast train: argument --lr: expected one argument (see minifast train --help)',
    **{f'train good --lr {text}': f'minifast train: argument --lr: {text!r} {RATE}'
       for text in ('fast', '-1', 'nan', '0', 'inf')},
    **{f'train good {option} {text}': f'minifast train: argument {option}: {text!r} is no whole number of at least '
       f'{least} (see minifast train --help)' for option, text, least in [
           ('--epochs', '0', 1), ('--epochs', '2.5', 1), ('--size', '8', 16), ('--bs', '1', 2), ('--workers', '-1', 0),
           ('--nproc', '0', 1), ('--seed', 'x', 0)]},
    'train good --valid-pct 1.5': "minifast train: argument --valid-pct: '1.5' is no share: give a number between 0 "
                                  'and 1 such as 0.2 (see minifast train --help)',
    'train good --cut x': "minifast train: argument --cut: invalid int value: 'x' (see minifast train --help)",
    'train good --arch resnet19': "minifast train: --arch resnet19: there is no such model, did you mean 'resnet18'? "
                                  '(torchvision has {n_models}; for the names of timm: pip install timm)',
    'train good --weights gone.pth': 'minifast train: --weights gone.pth: there is no such file; give imagenet, none, '
                                     'or a file of weights',
    'train good --weights text': 'minifast train: text is no file of tensors (or holds code, which is never run): text '
                                 "is no tensor file but a file that starts with b'no model'. Ask its author for a file "
                                 'that holds tensors only. Write one with torch.save(model.state_dict(), ...)',
    'train good --out text': 'minifast train: --out text is a file: give a folder',
    'train good --cb gone': "minifast train: --cb gone: no package registers a callback 'gone' in the entry-point "
                            'group minifast.callbacks; there are: none',
    'train good --nproc 11': 'minifast train: --nproc 11: 20 pictures to train on are fewer than two for each of 11 '
                             'processes: give --nproc 10 or less',
    'train good --valid-pct .01': 'minifast train: good holds 24 pictures, of which a share of 0.01 is none to '
                                  'validate with',
    'train good --valid-pct .99': 'minifast train: good holds 24 pictures, of which a share of 0.99 leaves fewer than '
                                  'two to train with',
    'train parts --valid-pct .5': 'minifast train: --valid-pct 0.5: parts/valid holds the pictures to validate with: '
                                  'leave --valid-pct out, or move them to parts/train',
    **{f'{command} gone': f'minifast {command}: gone does not exist: {LAYOUT}' for command in ('train', 'check')},
    **{f'{command} text': f'minifast {command}: text is a file: {LAYOUT}' for command in ('train', 'check')},
    **{f"train '{folder}'": f'minifast train: {why}' for folder, why in REFUSED.items()},
    f'train broken {TINY}': 'minifast train: broken/red/3.png cannot be read as a picture (it is text and no picture): '
                            'mend or remove it, or give --skip-bad; minifast check FOLDER lists every such file',
    'predict': 'minifast predict: the following arguments are required: MODEL, FILE (see minifast predict --help)',
    'predict out': 'minifast predict: the following arguments are required: FILE (see minifast predict --help)',
    'predict gone.pth good': f'minifast predict: gone.pth does not exist: {NO_MODEL}',
    'predict good good': f'minifast predict: good is a folder without model.pth: {NO_MODEL}',
    'predict text good': "minifast predict: text is no tensor file but a file that starts with b'no model'. Ask its "
                         'author for a file that holds tensors only',
    'predict pickle.pkl good': 'minifast predict: pickle.pkl is no tensor file but a pickle, which could run any code '
                               'when read. Ask its author for a file that holds tensors only',
    'predict half.pth good': 'minifast predict: half.pth is cut short, or has bytes behind its end: take an older '
                             'copy, or save it again',
    'predict out good/gone.png': f'minifast predict: good/gone.png does not exist: {NO_PICTURES}',
    'predict out empty': f'minifast predict: empty holds no pictures: {NO_PICTURES}',
    'predict out good --bs 0': "minifast predict: argument --bs: '0' is no whole number of at least 1 (see minifast "
                               'predict --help)',
    'check': 'minifast check: the following arguments are required: FOLDER (see minifast check --help)',
    'check good --jsn': "minifast check: there is no option '--jsn', did you mean '--json'? (see minifast check "
                        '--help)',
    'demo --out text': 'minifast demo: --out text is a file: give a folder',
    'env --jsno': "minifast env: there is no option '--jsno', did you mean '--json'? (see minifast env --help)",
    'plugins --chek': "minifast plugins: there is no option '--chek', did you mean '--check'? (see minifast plugins "
                      '--help)',
    'check good more': "minifast check: 'more' is one word too many (see minifast check --help)",
    **{f'{command} more': f"minifast {command}: 'more' is one word too many (see minifast {command} --help)"
       for command in ('demo', 'env', 'plugins')},
}
"""The wrong ways to call each command, and all that is said."""


@pytest.fixture(scope='module')
def there(tmp_path_factory, trained) -> Path:
    """A folder of pictures of every kind, files that are none, and a model in `out`."""
    there = tmp_path_factory.mktemp('there')
    make_broken(there / 'broken')
    for name in ('good', 'loose', 'parts/train', 'more valid/train', 'no valid/train'):
        draw(there / name)
    draw(there / 'parts' / 'valid', n=2), draw(there / 'more valid' / 'valid', 'red green', n=2)
    draw(there / 'one', 'red'), draw(there / 'few', n=2)
    for name in ('empty', 'no valid/valid'):
        (there / name).mkdir()
    Image.new('RGB', (9, 9)).save(there / 'loose' / 'loose.png')
    shutil.copytree(trained, there / 'out')
    (there / 'text').write_text('no model')
    (there / 'pickle.pkl').write_bytes(pickle.dumps({'model': print}))
    whole = (trained / 'model.pth').read_bytes()
    (there / 'half.pth').write_bytes(whole[:len(whole) // 2])
    return there


@pytest.mark.parametrize('words', WRONG)
def test_a_wrong_call_ends_with_2_and_one_sentence(words, there, monkeypatch, capsys):
    """What is wrong and what would do, on stderr; nothing is written."""
    monkeypatch.chdir(there)
    before = sorted(there.rglob('*'))
    try:
        code = main(shlex.split(words))
    except SystemExit as stop:
        code = stop.code
    told = capsys.readouterr().err
    right = WRONG[words].replace('{n_models}', str(len(torchvision.models.list_models(torchvision.models))))
    # Python 3.12 and later name the choices without quotes
    assert (code, told.replace("'", '')) == (2, right.replace("'", '') + '\n')
    assert sorted(there.rglob('*')) == before


@pytest.mark.parametrize('folder', REFUSED)
def test_what_train_refuses_is_what_check_finds(folder, there, monkeypatch, capsys):
    """In the same words; the exit code is 1."""
    monkeypatch.chdir(there)
    assert main(['check', '--json', folder]) == 1
    found = json.loads(capsys.readouterr().out)
    first = found['findings'][0]
    assert f'{first["file"]} {first["what"]}' == REFUSED[folder] and first['serious']
    assert [f['file'] for f in found['findings'] if f['kind'] == first['kind']] == [first['file']]
    assert set(found['classes']) <= {'red', 'blue'}
    assert main(['check', folder]) == 1
    lines = [re.sub(' {2,}', ' ', line) for line in capsys.readouterr().out.splitlines()]
    assert f'{first["kind"]} {REFUSED[folder]}' in lines


# ---------------------------------------------------------------- check, env, the program itself

def paint(folder, size=(40, 36), mode='RGB', n=1):
    """`n` pictures, no two the same."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        number = len(list(folder.parent.rglob('*.png')))
        Image.new(mode, size, tuple(number // 7 ** k for k in range(len(mode)))).save(folder / f'{number}.png')


def test_check_tells_about_good_data(tmp_path, monkeypatch, capsys):
    """Classes, numbers, sizes, imbalance, alpha channels and files of minifast's own; no header without a table, no bar
    in a file, one of a thing and several."""
    monkeypatch.chdir(tmp_path)
    paint(Path('p/cat'), n=6), paint(Path('p/dog'), n=6)
    assert main(['check', 'p']) == 0
    assert capsys.readouterr() == ('2 classes, 12 pictures: cat 6, dog 6\nsizes: all 40x36 pixels\n\n'
                                   '0 serious findings, 0 notes in p\n', '')
    paint(Path('p/cat'), (20, 90), 'RGBA', n=4), (Path('p') / 'cat' / 'notes.txt').touch()
    for name in ('models/model.pth', 'export.pkl', 'history.csv', 'checkpoints/run-0a.jsonl', 'checkpoints/.in-use'):
        (Path('p') / name).parent.mkdir(exist_ok=True)
        (Path('p') / name).touch()
    assert main(['check', 'p']) == 0
    assert capsys.readouterr().out.splitlines() == [
        '2 classes, 16 pictures: cat 10, dog 6', 'sizes: 40x36 to 20x90 pixels',
        'imbalance: the largest class has 1.7 times the pictures of the smallest',
        'alpha: 4 pictures with a channel that a training does not see',
        'passed over: 5 files that minifast has written', '', 'kind      file             what',
        "left out  p/cat/notes.txt  no picture by its suffix '.txt'", '', '0 serious findings, 1 note in p']
    Path('parts').mkdir()
    shutil.move('p', 'parts/train'), paint(Path('parts/val/dog'), (30, 30), n=1), Path('parts/val/bird').mkdir()
    assert main(['check', 'parts']) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ['to train: 2 classes, 16 pictures: cat 10, dog 6', 'to validate: 1 class, 1 picture: dog 1']
    assert lines[-1] == '1 serious finding, 1 note in parts'


def test_check_sums_up_what_is_found_hundredfold_and_json_names_all(tmp_path, monkeypatch, capsys):
    """Five of a kind are shown."""
    monkeypatch.chdir(tmp_path)
    for name in ('cat', 'dog'):
        paint(Path('p') / name, n=6)
        for i in range(4):
            shutil.copy(next(Path('p', name).glob('*.png')), Path('p', name, f'copy{i}.png'))
    assert main(['check', 'p']) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert sum(line[:1] == ['duplicate'] for line in lines) == 6
    assert ['duplicate', 'and', '3', 'more', '--json', 'names', 'all'] in lines
    assert main(['check', '--json', 'p']) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found.pop('findings')) == found['notes'] == 8
    assert found == {'folder': 'p', 'classes': {'cat': 10, 'dog': 10}, 'valid_classes': {}, 'imbalance': 1,
                     'pictures': 20, 'smallest': [40, 36], 'largest': [40, 36], 'alpha': [], 'own': [], 'serious': 0,
                     'notes': 8}


@pytest.mark.parametrize('n, shown', [(4, 4), (5, 5), (6, 5)])
def test_what_check_leaves_out_is_counted_and_large_numbers_are_read(n, shown, capsys):
    """From the sixth of a kind on; an imbalance from one and a half times on; thousands have a comma."""
    found = {'folder': 'p', 'classes': {'a': 1500, 'b': 1000}, 'valid_classes': {}, 'imbalance': 1.5, 'pictures': 2500,
             'smallest': (4, 3), 'largest': (5, 3), 'alpha': [], 'own': [], 'serious': 0, 'notes': 1200,
             'findings': [{'kind': 'duplicate', 'file': f'p/{i}', 'what': 'as it is'} for i in range(n)]}
    commands._say_check(found)
    out = capsys.readouterr().out
    lines = [re.split(' {2,}', line) for line in out.splitlines()]
    assert sum(line[0] == 'duplicate' and line[-1] == 'as it is' for line in lines) == shown
    assert lines.count(['duplicate', f'and {n - 5} more', '--json names all']) == (n > 5)
    assert lines[0] == ['2 classes, 2,500 pictures: a 1,500, b 1,000'] and lines[1] == ['sizes: 4x3 to 5x3 pixels']
    assert 'imbalance: the largest class has 1.5 times' in out and lines[-1][0].endswith(', 1,200 notes in p')
    commands._say_check({**found, 'imbalance': 1.49, 'largest': (4, 3)})
    out = capsys.readouterr().out
    assert 'imbalance' not in out and 'sizes: all 4x3 pixels' in out


def test_check_shows_a_bar_where_somebody_watches(tmp_path, monkeypatch, capsys):
    """On stderr, with the number of pictures."""
    monkeypatch.setattr('sys.stderr.isatty', lambda: True, raising=False)
    assert main(['check', str(draw(tmp_path / 'p'))]) == 0
    assert '24/24' in capsys.readouterr().err


def test_env_names_versions_devices_and_fast_paths(capsys):
    """What a bug report needs, as a table and as JSON."""
    import torch
    assert main(['env', '--json']) == 0
    found = json.loads(capsys.readouterr().out)
    assert found['minifast'] == __version__ and torch.__version__.startswith(found['versions']['torch'])
    assert found['devices'] and {'JPEG decoding', 'augmentation on the CPU'} <= set(found['fast paths'])
    assert main(['env']) == 0
    assert found['versions']['torch'] in capsys.readouterr().out


def test_env_names_the_weights_at_hand_and_nothing_is_without_a_name(capsys, tmp_path, monkeypatch):
    """Pretrained weights in torch's cache, in order; scripts read the rest by these names too."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    assert main(['env', '--json']) == 0
    assert json.loads(capsys.readouterr().out)['pretrained weights'] == []
    assert main(['env']) == 0 and re.search(r'^pretrained weights +none *$', capsys.readouterr().out, re.MULTILINE)
    weights = tmp_path / 'hub' / 'checkpoints'
    weights.mkdir(parents=True)
    for name in ('resnet18-b.pth', 'resnet18-a.pth', 'notes.txt'):
        (weights / name).touch()
    assert main(['env', '--json']) == 0
    found = json.loads(capsys.readouterr().out)
    assert found['pretrained weights'] == ['resnet18-a.pth', 'resnet18-b.pth']
    assert list(found) == ['minifast', 'python', 'system', 'versions', 'git revision here', 'devices', 'used device',
                           'fast paths', 'pretrained weights']


HERE = {'simplejpeg': '1', 'opencv-python': '4'}
FAST_OR_NOT = [
    (HERE, True, {'half precision': 'bf16: it is so', 'memory format': 'channels last',
                  'freed memory': 'kept for the next batch', 'JPEG decoding': 'simplejpeg (libjpeg-turbo)',
                  'augmentation on the CPU': 'OpenCV, uint8'}),
    ({'opencv-python-headless': '4'}, False, {
        'half precision': 'none: it is so', 'memory format': 'as it comes', 'freed memory': 'handed back',
        'JPEG decoding': 'Pillow: pip install simplejpeg', 'augmentation on the CPU': 'OpenCV, uint8'}),
    ({}, True, {'half precision': 'bf16: it is so', 'memory format': 'channels last',
                'freed memory': 'kept for the next batch', 'JPEG decoding': 'Pillow: pip install simplejpeg',
                'augmentation on the CPU': 'torch: pip install opencv-python-headless'})]


@pytest.mark.parametrize('installed, fast, paths', FAST_OR_NOT)
def test_env_tells_what_is_fast_here_and_what_would_be(installed, fast, paths, monkeypatch, capsys):
    """Each part with its version or its absence; a GPU by its number and name; a table that says each name once."""
    gpu = torch.device('cuda')
    monkeypatch.setattr(commands, '_version', installed.get)
    monkeypatch.setattr(commands, 'fast_paths', lambda kind: types.SimpleNamespace(bf16=fast, channels_last=fast,
                                                                                   why='it is so'))
    monkeypatch.setattr(commands, 'keep_freed_memory', lambda: fast)
    monkeypatch.setattr(commands, 'git_revision', lambda: '')
    monkeypatch.setattr(commands, 'default_device', lambda: torch.device('cpu'))
    monkeypatch.setattr(torch.accelerator, 'current_accelerator',
                        lambda check_available: gpu if fast or not check_available else None)
    monkeypatch.setattr(torch.accelerator, 'device_count', lambda: 2)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda i: f'card {i}')
    found = commands.environment()
    assert found['fast paths'] == paths and list(found['versions']) == list(commands.PARTS)
    assert {name for name, version in found['versions'].items() if version != 'not installed'} == {
        name for name in installed if name in commands.PARTS}
    assert found['devices'][1:] == ['cuda:0 card 0', 'cuda:1 card 1'] * fast
    assert found['devices'][0].startswith(f'cpu ({os.cpu_count()} cores, {torch.get_num_threads()} threads, ')
    assert found['git revision here'] == 'none' and found['used device'] == 'cpu'
    assert found['python'] == '.'.join(map(str, sys.version_info[:3]))
    assert main(['env']) == 0
    lines = [re.split(' {2,}', line.rstrip()) for line in capsys.readouterr().out.splitlines()]
    names = [line[0] for line in lines if line[0]]
    assert names == list(found) and ['devices', ', '.join(found['devices'])] in lines
    assert ['', 'memory format', paths['memory format']] in lines and ['minifast', __version__] in lines


@pytest.mark.parametrize('command', ['train', 'predict', 'check', 'demo', 'env'])
def test_help_of_every_command(command, capsys):
    """Every command explains itself and its options."""
    with pytest.raises(SystemExit) as stop:
        main([command, '--help'])
    assert stop.value.code == 0 and f'usage: minifast {command}' in capsys.readouterr().out


def test_every_command_and_every_option_is_explained(monkeypatch, capsys):
    """No name is listed without words beside it: not a command, not an option, not what it is given."""
    monkeypatch.setenv('COLUMNS', '250')
    told = []

    def listed(*command):
        with pytest.raises(SystemExit):
            main([*command, '--help'])
        text = capsys.readouterr().out
        told.append(text)
        rows = [line for line in text.splitlines() if line.startswith('  ')]
        rows = [re.split(' {2,}', row.strip()) for row in rows if row.strip() != 'COMMAND']
        assert all(len(row) == 2 for row in rows), rows
        return [name for name, _ in rows]
    commands = [name for name in listed() if not name.startswith('-')]
    assert commands == ['train', 'predict', 'check', 'runs', 'compare', 'demo', 'env', 'plugins']
    options = {command: listed(command) for command in commands}
    assert not re.search(r'default: (None|False|\[\])', ''.join(told))
    assert options['check'] == ['FOLDER', '-h, --help', '--json'] and options['demo'] == ['-h, --help', '--out DIR']


@pytest.mark.parametrize('words, name, value', [
    ('train p --epochs 1', 'epochs', 1), ('train p --size 16', 'size', 16), ('train p --bs 2', 'bs', 2),
    ('train p --workers 0', 'workers', 0), ('train p --nproc 1', 'nproc', 1), ('train p --seed 0', 'seed', 0),
    ('train p --seed +7', 'seed', 7), ('predict m f --bs 1', 'bs', 1), ('train p --lr auto', 'lr', 'auto'),
    ('train p --lr 1e-9', 'lr', 1e-9), ('train p --valid-pct .001', 'valid_pct', .001),
    ('train p --cut -2', 'cut', -2), ('train p --cb a --cb b', 'cb', ['a', 'b']),
    ('predict m f g', 'files', [Path('f'), Path('g')]), ('runs d --by loss', 'by', 'loss'),
    ('compare a b --html c.html', 'html', Path('c.html')), ('demo', 'out', Path('demo')),
    *[(f'{words} --json', 'json', True) for words in ('runs d', 'compare a b', 'check d', 'env', 'predict m f')],
    *[(words, 'json', False) for words in ('runs d', 'compare a b', 'check d', 'env', 'predict m f')]])
def test_an_option_takes_the_least_that_it_names(words, name, value):
    """As a number, a path, or a list of what was given."""
    found = vars(build_parser().parse_args(words.split()))[name]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize('option, text', [('--valid-pct', '0'), ('--valid-pct', '1'), ('--valid-pct', 'x'),
                                          ('--valid-pct', 'nan'), ('--seed', '-1'), ('--seed', '')])
def test_an_option_refuses_what_is_beside_its_range(option, text, capsys):
    """The ends of a share are none, and what is no number is told as one."""
    fails(['train', 'p', f'{option}={text}'], capsys, f'argument {option}: {text!r} is no ')


def test_help_tells_each_default_and_shouts_nothing(monkeypatch, capsys):
    """Behind the option, where it has one; capitals are what stands for a value, and JSON."""
    monkeypatch.setenv('COLUMNS', '250')
    parsers = build_parser()._subparsers._group_actions[0].choices
    stand_for = {'COMMAND', 'JSON', 'FOLDER', 'DIR', 'NAME'}
    for parser in parsers.values():
        stand_for |= {action.metavar or action.dest.upper() for action in parser._actions}
    for command, parser in parsers.items():
        with pytest.raises(SystemExit):
            main([command, '--help'])
        text = capsys.readouterr().out
        for action in parser._actions:
            if action.option_strings and action.default not in (None, False, [], '==SUPPRESS=='):
                line = next(line for line in text.splitlines() if line.strip().startswith(action.option_strings[0]))
                assert line.endswith(f'(default: {action.default})'), line
        assert set(re.findall('[A-Z]{2,}', text)) <= stand_for, command
    with pytest.raises(SystemExit):
        main(['train', '--help'])
    rates = f'(default: {commands.FINE_TUNE_LR * 1e3:g}e-3, with --weights none {commands.SCRATCH_LR * 1e3:g}e-3)'
    assert rates in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(['--help'])
    text = capsys.readouterr().out
    assert text.startswith('usage: minifast ') and set(re.findall('[A-Z]{2,}', text)) <= stand_for
    assert re.search(r'Exit codes: 0 \w.*, 1 \w.*, 2 \w.*, 130 Ctrl-C', text)


@pytest.mark.parametrize('words, called', [('demo', ('run_demo', Path('demo'))),
                                           ('demo --out x', ('run_demo', Path('x'))),
                                           ('plugins', ('show_plugins', False)),
                                           ('plugins --check', ('show_plugins', True))])
def test_a_command_of_another_room_is_given_what_was_asked_for(words, called, tmp_path, monkeypatch):
    """And its answer is the exit code; a demo has none."""
    from minifast import demo, plugins
    monkeypatch.chdir(tmp_path)
    told = []
    for room, name in ((demo, 'run_demo'), (plugins, 'show_plugins')):
        monkeypatch.setattr(room, name, lambda given, name=name: told.append((name, given)) or 3)
    assert main(words.split()) == (0 if 'demo' in words else 3) and told == [called]


def test_what_a_command_does_is_told_in_whole_sentences(capsys, monkeypatch):
    """Between its usage and its options, where its line in the list of commands is not enough."""
    monkeypatch.setenv('COLUMNS', '250')
    told = {}
    for command in ('train', 'predict', 'check', 'runs', 'compare', 'demo', 'env', 'plugins'):
        with pytest.raises(SystemExit):
            main([command, '--help'])
        parts = capsys.readouterr().out.split('\n\n')
        assert parts[0].startswith('usage: ')
        told[command] = '\n'.join(part for part in parts[1:] if not re.match('positional arg|options:', part))
    assert all(re.fullmatch(r'[A-Z].*\.', text, re.DOTALL) for text in told.values() if text), told
    assert told['plugins'].startswith('A line a callback') and [name for name in told if not told[name]] == ['env']
    assert all('exit code' in told[command] for command in ('check', 'predict', 'plugins'))


def test_python_m_minifast_is_the_command():
    """`python -m minifast` works where the script folder is not on the PATH, and answers without importing torch."""
    argv = [sys.executable, '-X', 'importtime', '-m', 'minifast', '--version']
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == f'minifast {__version__}'
    assert ' torch\n' not in done.stderr


def test_a_reader_that_has_left_had_what_it_wanted(tmp_path, monkeypatch, capsys):
    """As `head` does: no error, and what is still to be written goes nowhere."""
    def show(args):
        raise BrokenPipeError
    monkeypatch.setattr(commands, 'show_environment', show)
    with open(tmp_path / 'out', 'w') as out:
        monkeypatch.setattr(sys, 'stdout', out)
        assert main(['env']) == 0
        print('the rest', file=out, flush=True)
    assert not (tmp_path / 'out').read_text() and not capsys.readouterr().err


def test_a_training_that_is_told_nothing_is_tomorrow_that_of_today():
    """Lines in scripts rely on what is not said: these are its defaults."""
    told = vars(build_parser().parse_args(['train', 'pictures']))
    assert {k: v for k, v in told.items() if k not in ('command', 'run')} == {
        'folder': Path('pictures'), 'arch': 'resnet18', 'epochs': 3, 'size': 224, 'bs': 64, 'lr': None, 'cut': None,
        'weights': 'imagenet', 'valid_pct': None, 'no_flip': False, 'workers': None, 'nproc': 1, 'seed': 42,
        'skip_bad': False, 'resume': False, 'cb': [], 'out': Path('minifast-model')}


@pytest.mark.parametrize('error, waits', [(PeerError('rank 1 has failed'), 1), (ValueError('mine'), 0)],
                         ids=['peer', 'own'])
def test_a_process_waits_to_be_ended_with_the_error_of_another_one(error, waits, monkeypatch, tmp_path):
    """The launcher tells what the first process that leaves has written: the error, not who has heard of it."""
    written, slept = tmp_path / 'error.json', []
    monkeypatch.setenv('TORCHELASTIC_ERROR_FILE', str(written))
    monkeypatch.setattr(commands.time, 'sleep', slept.append)
    try:
        raise error
    except Exception as caught:
        assert commands.leave_to_launcher(caught)
    assert str(error) in written.read_text() and slept == [commands.PEER_LEAVES_S] * waits
    monkeypatch.delenv('TORCHELASTIC_ERROR_FILE')
    assert not commands.leave_to_launcher(error) and len(slept) == waits
