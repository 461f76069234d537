"""The command line: what it writes, what it prints, its exit codes, and one sentence for every mistake of a user."""
from __future__ import annotations

import csv
import json
import logging
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from minifast import __version__
from minifast.cli import build_parser, main

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
    assert '24 pictures to train and 8 to check' in said and 'learning rate' in said


def test_train_repeats_exactly_with_the_same_seed(trained, tmp_path):
    """The same command on the same pictures ends in the same numbers."""
    assert main(['train', str(trained.parent / 'pictures'), '--out', str(tmp_path / 'again'), *FAST]) == 0
    first, second = ([row[:-1] for row in history(out)] for out in (trained, tmp_path / 'again'))  # without the time
    assert first == second


@pytest.mark.parametrize('option, value, words', [
    ('--lr', 'fast', ['--lr', 'fast', 'auto']), ('--lr', '-1', ['--lr']), ('--lr', 'nan', ['nan']),
    ('--lr', '0', ['--lr']), ('--epochs', '0', ['--epochs', 'at least 1']), ('--epochs', '2.5', ['2.5']),
    ('--size', '8', ['--size', 'at least 16']), ('--bs', '1', ['--bs']), ('--valid-pct', '1.5', ['--valid-pct']),
    ('--arch', 'resnet19', ['resnet19', 'resnet1']), ('--weights', 'nowhere.pth', ['nowhere.pth', 'none'])])
def test_train_bad_option_is_one_sentence(tmp_path, capsys, option, value, words):
    """A wrong value is named together with what would do, before anything is trained."""
    draw(tmp_path / 'p')
    fails(['train', tmp_path / 'p', '--out', tmp_path / 'out', option, value], capsys, *words)
    assert not (tmp_path / 'out').exists()


def make_missing(folder: Path) -> None:
    """No such folder."""


def make_empty(folder: Path) -> None:
    """A folder without anything."""
    folder.mkdir()


def make_file(folder: Path) -> None:
    """A file instead of a folder."""
    folder.write_text('no folder')


def make_one_class(folder: Path) -> None:
    """Pictures of one class only."""
    draw(folder, 'red')


def make_loose(folder: Path) -> None:
    """A picture outside of all classes."""
    draw(folder)
    Image.new('RGB', (9, 9)).save(folder / 'loose.png')


def make_few(folder: Path) -> None:
    """Too few pictures to part with some."""
    draw(folder, n=2)


def make_unknown_valid(folder: Path) -> None:
    """A class in valid that train does not have."""
    draw(folder / 'train')
    draw(folder / 'valid', 'red green', n=2)


def make_broken(folder: Path) -> None:
    """A picture that is none."""
    draw(folder)
    (folder / 'red' / '3.png').write_bytes(b'these bytes are no picture')


def make_truncated(folder: Path) -> None:
    """A picture cut short."""
    draw(folder)
    whole = (folder / 'red' / '3.png').read_bytes()
    (folder / 'red' / '3.png').write_bytes(whole[:len(whole) // 2])


@pytest.mark.parametrize('make, words', [
    (make_missing, ['does not exist']), (make_empty, ['holds no pictures']), (make_file, ['is a file']),
    (make_one_class, ['one class only', 'red']), (make_loose, ['loose.png', 'folder named after its class']),
    (make_few, ['4 pictures', '10']), (make_unknown_valid, ['green']),
    (make_broken, ['red/3.png', 'mend or remove']), (make_truncated, ['red/3.png', 'mend or remove'])])
def test_train_bad_folder_is_one_sentence_and_writes_nothing(tmp_path, capsys, make, words):
    """Whatever is wrong with the folder: the path, what is wrong, what to do; exit code 2; no output folder."""
    folder = tmp_path / 'p'
    make(folder)
    fails(['train', folder, '--out', tmp_path / 'out', *FAST], capsys, folder, *words)
    assert not (tmp_path / 'out').exists()


def test_train_output_that_is_a_file_is_refused_before_training(tmp_path, capsys):
    """An output folder that cannot be made is found out at the start."""
    (tmp_path / 'out').write_text('')
    fails(['train', draw(tmp_path / 'p'), '--out', tmp_path / 'out', *FAST], capsys, tmp_path / 'out', 'is a file')


def test_train_without_network_names_the_file_and_the_ways_out(tmp_path, capsys, monkeypatch):
    """No cached weights and no network: the wanted file, where it goes, and the two other ways."""
    def unreachable(*args, **kwargs):
        raise OSError('no route to host')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    monkeypatch.setattr('minifast.vision.models.weights.open_url', unreachable)
    fails(['train', draw(tmp_path / 'p'), '--out', tmp_path / 'out'], capsys, 'resnet18-', tmp_path / 'home',
          '--weights FILE', '--weights none')
    assert not (tmp_path / 'out').exists()


def test_train_weights_file_that_is_none_is_one_sentence(tmp_path, capsys):
    """A weights file that holds no tensors is named."""
    (tmp_path / 'w.pth').write_text('no weights')
    fails(['train', draw(tmp_path / 'p'), '--out', tmp_path / 'out', '--weights', tmp_path / 'w.pth'], capsys, 'w.pth')
    assert not (tmp_path / 'out').exists()


def test_train_on_several_processes_refuses_before_any_is_started(tmp_path, capsys, monkeypatch):
    """More processes than pictures or GPUs, or one that torchrun has started: what to give instead."""
    argv = ['train', draw(tmp_path / 'p'), '--out', tmp_path / 'out', *FAST, '--nproc']
    fails([*argv, '10'], capsys, '--nproc 10', '19 pictures', '--nproc 9 or less')
    fails([*argv, '0'], capsys, '--nproc', 'at least 1')
    monkeypatch.setattr('torch.cuda.device_count', lambda: 3)
    fails([*argv, '4'], capsys, '3 GPUs', '--nproc 3 or less', 'CUDA_VISIBLE_DEVICES=')
    monkeypatch.setenv('RANK', '1')
    fails([*argv, '2'], capsys, 'RANK=1', 'torchrun', 'leave --nproc out')
    assert not (tmp_path / 'out').exists()


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
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as torch's has handlers of its own
        if self.error:
            raise self.error


def test_train_on_several_processes_starts_itself_with_the_same_words(tmp_path, monkeypatch):
    """By torch's launcher, on this machine, once; the processes know by their run that they are started, and train."""
    launched = Launched(monkeypatch)
    monkeypatch.delenv('OMP_NUM_THREADS')
    before = signal.getsignal(signal.SIGTERM)
    words = ['train', str(draw(tmp_path / 'p')), '--out', str(tmp_path / 'out'), *FAST, '--nproc', '2']
    assert main(words) == 0
    config = launched.config
    assert (launched.entrypoint, launched.given) == (sys.executable, ('-m', 'minifast', *words))
    assert (config.min_nodes, config.max_nodes, config.nproc_per_node, config.max_restarts) == (1, 1, 2, 0)
    assert (config.rdzv_backend, config.rdzv_endpoint) == ('c10d', 'localhost:0')
    assert os.environ['OMP_NUM_THREADS'] == str(max(os.cpu_count() // 2, 1))
    assert signal.getsignal(signal.SIGTERM) is before and logging.getLogger().isEnabledFor(logging.ERROR)
    launched.given = None
    monkeypatch.setenv('TORCHELASTIC_RUN_ID', config.run_id)
    assert main(words) == 0
    assert launched.given is None and (tmp_path / 'out' / 'model.pth').exists()


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
    """Not what it did to the others. The last line says what and where, with that process's exit code."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    error = ChildFailedError('x', {rank: failure(tmp_path, rank, **what) for rank, what in failures.items()})
    launched = Launched(monkeypatch, error)
    launch = launched.launch

    def launch_and_log(*words):
        for rank in range(3):
            folder = Path(launched.config.logs_specs.root_log_dir, 'run', 'attempt_0', str(rank))
            folder.mkdir(parents=True)
            (folder / 'stderr.log').write_text('\n'.join(f'line {i}' for i in range(40)) + '\nlast words\n')
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
        assert (lines[0], lines[-2], len(lines)) == ('line 11', 'last words', 31)
    assert not Path(launched.config.logs_specs.root_log_dir).exists()


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


def test_predict_bad_model_file_is_one_sentence(trained, tmp_path, capsys):
    """A missing file, a text, a pickle, half a model: refused by name, and no code in them runs."""
    picture = trained.parent / 'pictures' / 'red' / '0.png'
    (tmp_path / 'text.pth').write_text('no model')
    (tmp_path / 'pickle.pkl').write_bytes(pickle.dumps({'model': print}))
    whole = (trained / 'model.pth').read_bytes()
    (tmp_path / 'half.pth').write_bytes(whole[:len(whole) // 2])
    for name in ('missing.pth', 'text.pth', 'pickle.pkl', 'half.pth'):
        fails(['predict', tmp_path / name, picture], capsys, tmp_path / name)


def test_predict_bad_picture_is_one_sentence(trained, tmp_path, capsys):
    """A missing picture, a broken one, an empty folder."""
    (tmp_path / 'broken.jpg').write_bytes(b'no picture')
    (tmp_path / 'empty').mkdir()
    for name, word in (('missing.jpg', 'does not exist'), ('broken.jpg', 'cannot be read'), ('empty', 'no pictures')):
        fails(['predict', trained / 'model.pth', tmp_path / name], capsys, tmp_path / name, word)


# ---------------------------------------------------------------- check, env, the program itself

def test_check_exit_code_says_whether_something_is_wrong(tmp_path, capsys):
    """0 for a good folder, 1 and the file's name for one with a broken picture, 2 for none."""
    draw(tmp_path / 'good')
    assert main(['check', str(tmp_path / 'good')]) == 0
    make_broken(tmp_path / 'bad')
    assert main(['check', str(tmp_path / 'bad')]) == 1
    assert '3.png' in capsys.readouterr().out
    fails(['check', tmp_path / 'missing'], capsys, 'missing')


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
    weights = tmp_path / 'hub' / 'checkpoints'
    weights.mkdir(parents=True)
    for name in ('resnet18-b.pth', 'resnet18-a.pth', 'notes.txt'):
        (weights / name).touch()
    assert main(['env', '--json']) == 0
    found = json.loads(capsys.readouterr().out)
    assert found['pretrained weights'] == ['resnet18-a.pth', 'resnet18-b.pth']
    assert list(found) == ['minifast', 'python', 'system', 'versions', 'git revision here', 'devices', 'used device',
                           'fast paths', 'pretrained weights']


@pytest.mark.parametrize('command', ['train', 'predict', 'check', 'demo', 'env'])
def test_help_of_every_command(command, capsys):
    """Every command explains itself and its options."""
    with pytest.raises(SystemExit) as stop:
        main([command, '--help'])
    assert stop.value.code == 0 and f'usage: minifast {command}' in capsys.readouterr().out


def test_every_command_and_every_option_is_explained(monkeypatch, capsys):
    """No name is listed without words beside it: not a command, not an option, not what it is given."""
    monkeypatch.setenv('COLUMNS', '250')

    def listed(*command):
        with pytest.raises(SystemExit):
            main([*command, '--help'])
        rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith('  ')]
        rows = [re.split(' {2,}', row.strip()) for row in rows if row.strip() != 'COMMAND']
        assert all(len(row) == 2 for row in rows), rows
        return [name for name, _ in rows]
    commands = [name for name in listed() if not name.startswith('-')]
    assert commands == ['train', 'predict', 'check', 'runs', 'compare', 'demo', 'env', 'plugins']
    options = {command: listed(command) for command in commands}
    assert options['check'] == ['FOLDER', '-h, --help'] and options['demo'] == ['-h, --help', '--out DIR']


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
    assert told['plugins'].startswith('A line a callback') and 'exit code' in told['check'] and not told['env']


def test_unknown_command_is_one_sentence(capsys):
    """A misspelt command is refused with the list of those there are."""
    fails(['trian'], capsys, 'trian', 'train')


def test_python_m_minifast_is_the_command():
    """`python -m minifast` works where the script folder is not on the PATH, and answers without importing torch."""
    argv = [sys.executable, '-X', 'importtime', '-m', 'minifast', '--version']
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == f'minifast {__version__}'
    assert ' torch\n' not in done.stderr


def test_a_training_that_is_told_nothing_is_tomorrow_that_of_today():
    """Lines in scripts rely on what is not said: these are its defaults."""
    told = vars(build_parser().parse_args(['train', 'pictures']))
    assert {k: v for k, v in told.items() if k not in ('command', 'run')} == {
        'folder': Path('pictures'), 'arch': 'resnet18', 'epochs': 3, 'size': 224, 'bs': 64, 'lr': None,
        'weights': 'imagenet', 'valid_pct': .2, 'no_flip': False, 'workers': None, 'nproc': 1, 'seed': 42,
        'out': Path('minifast-model')}
