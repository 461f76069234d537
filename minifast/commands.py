"""What the commands of the command line do: train, predict, check, env. `cli.py` parses and calls."""
from __future__ import annotations

import argparse
import csv
import importlib.metadata
import importlib.util
import json
import logging
import os
import platform
import signal
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision

from minifast import __version__
from minifast.arguments import near_match
from minifast.callback.core import Callback
from minifast.data.transforms import get_image_files
from minifast.distributed import num_distrib, rank_distrib
from minifast.environment import git_revision
from minifast.hardware import fast_paths, keep_freed_memory
from minifast.learner import load_learner
from minifast.metrics import error_rate
from minifast.seeds import set_seed
from minifast.terminal import printable, say, say_once
from minifast.torch_core import default_device
from minifast.vision.augment import Resize, aug_transforms
from minifast.vision.data import ImageDataLoaders
from minifast.vision.decode import BadImageError
from minifast.vision.learner import vision_learner
from minifast.vision.models.weights import WeightsNotFoundError
from minifast.vision.utils import check_folder, verify_image

__all__ = ['PictureFolder', 'UserMistake', 'check', 'environment', 'look_at_folder', 'predict', 'print_table',
           'show_environment', 'train']

MODEL_NAME = 'model.pth'


class UserMistake(Exception):
    """Something the user can mend; its message is the one sentence that the user sees."""


# ---------------------------------------------------------------- the folder of pictures

class PictureFolder(NamedTuple):
    """What a folder of pictures holds.

    Attributes:
        path: the folder.
        train: name of the training folder inside, None where the classes lie directly in `path`.
        valid: name of the validation folder inside, None likewise.
        counts: pictures a class (of the training part, where there are two).
    """

    path: Path
    train: str | None
    valid: str | None
    counts: dict[str, int]


def _classes_in(folder: Path) -> dict[str, int]:
    """Pictures a class in a folder of classes; the class of a picture is the name of the folder it lies in."""
    files = get_image_files(folder)
    loose = [file for file in files if file.parent == folder]
    if loose:
        raise UserMistake(f'{loose[0]} lies directly in {folder}: move each picture into a folder named after its '
                          'class')
    return dict(sorted(Counter(file.parent.name for file in files).items()))


def look_at_folder(path: Path) -> PictureFolder:
    """Find out how a user's folder is laid out, before anything is trained.

    Raises:
        UserMistake: there is no such folder, or nothing in it that a classifier could be trained on.
    """
    how = 'give a folder that holds one folder of pictures a class, for example pets/cat/1.jpg and pets/dog/1.jpg'
    if not path.exists():
        raise UserMistake(f'{path} does not exist: {how}')
    if not path.is_dir():
        raise UserMistake(f'{path} is a file: {how}')
    names = {child.name for child in path.iterdir() if child.is_dir()}
    train = 'train' if 'train' in names else None
    valid = next((name for name in ('valid', 'val', 'validation') if name in names), None) if train else None
    counts = _classes_in(path / train if valid else path)
    if not counts:
        raise UserMistake(f'{path} holds no pictures: {how}')
    if len(counts) == 1:
        raise UserMistake(f'{path} holds pictures of one class only, {next(iter(counts))!r}: a classifier needs two '
                          'classes or more, each in a folder of its own')
    if valid:
        unknown = sorted(set(_classes_in(path / valid)) - set(counts))
        if unknown or not _classes_in(path / valid):
            what = f'the class {unknown[0]!r}, which {path / train} does not' if unknown else 'no pictures'
            raise UserMistake(f'{path / valid} holds {what}: give both folders the same classes')
    elif sum(counts.values()) < 10:
        raise UserMistake(f'{path} holds {sum(counts.values())} pictures: 10 is the least to train and to check with')
    return PictureFolder(path, train if valid else None, valid, counts)


# ---------------------------------------------------------------- train

def _weights(text: str) -> dict[str, Any]:
    """The keyword arguments of `vision_learner` for `--weights`."""
    if text in ('imagenet', 'none'):
        return {'pretrained': text == 'imagenet'}
    if not Path(text).is_file():
        raise UserMistake(f'--weights {text}: there is no such file; give imagenet, none, or a file of weights')
    return {'weights': Path(text)}


def _architecture(name: str) -> Any:
    """The model builder for `--arch`: torchvision's function, or a timm name as it is."""
    if name in torchvision.models.list_models(torchvision.models):
        return getattr(torchvision.models, name)
    if importlib.util.find_spec('timm') is not None:
        import timm
        if timm.is_model(name):
            return name
    known = torchvision.models.list_models(torchvision.models)
    raise UserMistake(f'--arch {name}: there is no such model{near_match(name, known)} (torchvision has '
                      f'{len(known)}; for the names of timm: pip install timm)')


def _check_writable(out: Path) -> None:
    """Refuse an output folder that cannot be written, before the training rather than after it."""
    if out.exists() and not out.is_dir():
        raise UserMistake(f'--out {out} is a file: give a folder')
    there = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
    if not os.access(there, os.W_OK):
        raise UserMistake(f'--out {out}: {there} is not writable: give another folder')


def _n_train(args: argparse.Namespace, folder: PictureFolder) -> int:
    """How many pictures are trained on."""
    return int(sum(folder.counts.values()) * (1 if folder.valid else 1 - args.valid_pct))


def _loaders(args: argparse.Namespace, folder: PictureFolder) -> Any:
    most = _n_train(args, folder) // max(num_distrib(), 1)
    where = {'train': folder.train, 'valid': folder.valid} if folder.valid else {'valid_pct': args.valid_pct}
    return ImageDataLoaders.from_folder(
        folder.path, **where, seed=args.seed, item_tfms=Resize(args.size),
        batch_tfms=aug_transforms(do_flip=not args.no_flip), bs=min(args.bs, most), num_workers=args.workers)


class _History(Callback):
    """Keeps the row of every epoch, over both phases of `fine_tune`."""

    order = 60  # behind the Recorder, which makes the row

    def __init__(self) -> None:
        self.rows: list[list] = []

    def after_epoch(self) -> None:
        self.rows.append(list(self.recorder.log))


@contextmanager
def _user_mistakes(*kinds: type[Exception]) -> Iterator[None]:
    """Errors of these kinds say what the user can mend; their message is enough."""
    try:
        yield
    except BadImageError as error:
        raise UserMistake(f'{error.path} cannot be read as a picture ({error.reason}): mend or remove it; '
                          'minifast check FOLDER lists every such file') from error
    except kinds as error:
        raise UserMistake(str(error)) from error


def _learner(dls: Any, arch: Any, weights: dict[str, Any]) -> Any:
    """A learner for the command line's choice of model and weights."""
    try:
        with _user_mistakes(ValueError):
            return vision_learner(dls, arch, metrics=error_rate, **weights)
    except WeightsNotFoundError as error:
        raise UserMistake(f'{error}; on the command line: --weights FILE or --weights none') from error


def _found_lr(learn: Any, epochs: int) -> float:
    """A learning rate from a trial run that is never longer than the training itself."""
    steps = min(100, max(20, len(learn.dls.train) * (epochs + 1)))
    lr = learn.lr_find(num_it=steps, show_plot=False).valley
    say_once(f'learning rate {lr:.2g}, found by a trial run of {steps} batches')
    return lr


def _write_model(learn: Any, out: Path, history: _History) -> Path:
    """Export the model and write the history; the folder is made only now."""
    out.mkdir(parents=True, exist_ok=True)
    learn.path = out
    model = learn.export(MODEL_NAME)
    with open(out / 'history.csv', 'w', newline='', encoding='utf-8') as file:
        csv.writer(file).writerows([learn.recorder.metric_names, *history.rows])
    return model


def train(args: argparse.Namespace) -> int:
    """`minifast train`: look, load, train, and write the model and its history at the very end.

    Raises:
        UserMistake: a folder, file, model or number that cannot be used; nothing was written.
    """
    folder, arch, weights = look_at_folder(args.folder), _architecture(args.arch), _weights(args.weights)
    _check_writable(args.out)
    if args.nproc > 1 and not _is_started_here():
        return _train_together(args, folder)
    if rank_distrib() and _is_started_here():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C comes to all at once, and the first tells the others
    set_seed(args.seed)
    dls, history = _loaders(args, folder), _History()
    together = f', {num_distrib()} processes' if num_distrib() > 1 else ''
    say_once(f'{len(folder.counts)} classes, {len(dls.train_ds):,} pictures to train and {len(dls.valid_ds):,} to '
             f'check; {args.arch} at {args.size} px on {default_device()}{together}')
    learn = _learner(dls, arch, weights)
    with _user_mistakes():
        lr = _found_lr(learn, args.epochs) if args.lr is None else args.lr
        if args.weights == 'none':
            learn.fit_one_cycle(args.epochs, lr, cbs=history)
        else:
            learn.fine_tune(args.epochs, lr, cbs=history)
    if rank_distrib() == 0:
        model = _write_model(learn, args.out, history)
        say(f'error rate {learn.recorder.values[-1][-1]:.1%}; model and history are in {args.out}')
        say(f'now: minifast predict "{model}" PICTURE...')
    return 0


# ---------------------------------------------------------------- train on several processes

_run_ids = 'minifast-'


def _is_started_here() -> bool:
    """Whether this process is one of those that `_train_together` has started."""
    return os.environ.get('TORCHELASTIC_RUN_ID', '').startswith(_run_ids)


def _check_together(args: argparse.Namespace, folder: PictureFolder) -> None:
    """Refuse what several processes cannot do on this machine, before they are started."""
    n, n_train, n_gpus = args.nproc, _n_train(args, folder), torch.cuda.device_count()
    if 'RANK' in os.environ:
        raise UserMistake(f'--nproc {n}: this process is one of several already (RANK={os.environ["RANK"]} is set, as '
                          'by torchrun): leave --nproc out, or start minifast train without torchrun')
    if n_train < 2 * n:
        raise UserMistake(f'--nproc {n}: {n_train} pictures to train on are fewer than two for each of {n} processes: '
                          f'give --nproc {max(n_train // 2, 1)} or less')
    if 0 < n_gpus < n:
        raise UserMistake(f'--nproc {n}: this machine has {n_gpus} GPUs, one for a process: give --nproc {n_gpus} or '
                          'less, or hide them (CUDA_VISIBLE_DEVICES=) to train on the CPU')


def _train_together(args: argparse.Namespace, folder: PictureFolder) -> int:
    """Run this command on `args.nproc` processes, by what torchrun is made of; returns the exit code of them all.

    The first process has the terminal. What ends another one is told here, once; each leaves its error in a file of
    torch's launcher, see `leave_to_launcher`.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch
    _check_together(args, folder)
    # torch's threads would be as many as cores in each
    os.environ.setdefault('OMP_NUM_THREADS', str(max((os.cpu_count() or 1) // args.nproc, 1)))
    numbers = [getattr(signal, name) for name in ('SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT') if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}  # which torch takes for itself
    with tempfile.TemporaryDirectory() as logs:
        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=args.nproc, run_id=f'{_run_ids}{uuid.uuid4()}', max_restarts=0,
            rdzv_backend='c10d', rdzv_endpoint='localhost:0',
            logs_specs=DefaultLogsSpecs(logs, redirects={rank: Std.ALL for rank in range(1, args.nproc)}))
        try:
            logging.disable(logging.ERROR)  # the launcher's own account of what is told below
            elastic_launch(config, sys.executable)('-m', 'minifast', *args.words)
        except ChildFailedError as error:
            return _tell_failure(error, Path(logs))
        except SignalException as stop:
            if stop.sigval == signal.SIGINT:
                raise KeyboardInterrupt from stop
            say(f'minifast train: stopped by {stop.sigval.name}, no model was written', sys.stderr)
            return 128 + stop.sigval
        finally:
            logging.disable(logging.NOTSET)
            for number, handler in before.items():
                signal.signal(number, handler)
    return 0


def _tell_failure(error: Any, logs: Path) -> int:
    """Say what ended the processes: the first error that is not about another one's; returns its exit code."""
    def is_caused(found: tuple[int, Any]) -> tuple[bool, bool]:
        return found[1].exitcode == -signal.SIGTERM, 'PeerError: ' in str(found[1].message)[:200]
    rank, failure = min(error.failures.items(), key=is_caused)
    kind, _, told = (failure.message['message'] if isinstance(failure.message, dict) else '').partition(': ')
    if kind == UserMistake.__name__:
        say(f'minifast train: {told}', sys.stderr)
        return 2
    what = f'rank {rank} of {len(list(logs.glob("*/attempt_0/*/")))} processes'
    if isinstance(failure.message, dict):
        lines = failure.message['extraInfo']['py_callstack'].splitlines()
        what += f' has failed with {kind}'
    else:
        file = next(logs.glob(f'*/attempt_0/{rank}/stderr.log'), None)
        lines = file.read_text(errors='replace').splitlines()[-30:] if file else []
        what += f' was ended: {failure.message}' if failure.exitcode < 0 else f' has ended with {failure.exitcode}'
    for line in lines:
        say(line, sys.stderr)
    say(f'minifast train: {what}; no model was written', sys.stderr)
    return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode


def leave_to_launcher(error: BaseException) -> bool:
    """Write an error that is being handled into the file that torch's launcher has for it; False where none started
    this process."""
    if not os.environ.get('TORCHELASTIC_ERROR_FILE'):
        return False
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler
    get_error_handler().record_exception(error)
    return True


# ---------------------------------------------------------------- predict

def _pictures(paths: list[Path]) -> list[Path]:
    """The pictures among files and folders, all of them there and readable.

    Raises:
        UserMistake: a path that is missing, an empty folder, a file that is no picture.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UserMistake(f'{path} does not exist: give pictures or folders of pictures')
        found = list(get_image_files(path)) if path.is_dir() else [path]
        if not found:
            raise UserMistake(f'{path} holds no pictures')
        files += found
    broken = next((file for file in files if not verify_image(file)), None)
    if broken is not None:
        raise UserMistake(f'{broken} cannot be read as a picture: leave it out (minifast check FOLDER says more)')
    return files


def predict(args: argparse.Namespace) -> int:
    """`minifast predict`: a table, or JSON with the probabilities of all classes.

    Raises:
        UserMistake: the model file is none, or a picture cannot be read.
    """
    if not args.model.is_file():
        raise UserMistake(f'{args.model} does not exist: give a model file that minifast train or learn.export wrote')
    with _user_mistakes(ValueError, OSError):
        learn = load_learner(args.model)
    files = _pictures(args.files)
    with learn.no_bar(), learn.no_logging():
        probs, _ = learn.get_preds(dl=learn.dls.test_dl(files, bs=args.bs, num_workers=0))
    vocab = [str(name) for name in learn.dls.vocab]
    rows = [{'file': str(file), 'prediction': vocab[max(range(len(p)), key=p.__getitem__)], 'probability': max(p),
             'probabilities': dict(zip(vocab, p, strict=True))} for file, p in zip(files, probs.tolist(), strict=True)]
    if args.json:
        _say_json(rows)
    else:
        print_table([['file', 'prediction', 'probability'],
                     *([row['file'], row['prediction'], f'{row["probability"]:.1%}'] for row in rows)])
    return 0


def _say_json(found: Any) -> None:
    """JSON for machines: all but ASCII is escaped by its own rules, and the one control character that they leave."""
    print(json.dumps(found, indent=2).replace('\x7f', '\\u007f'))


def print_table(rows: list[list[str]]) -> None:
    """Print rows in columns, as wide as their longest cell; a header is just the first row."""
    rows = [[printable(cell, sys.stdout) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        say('  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


# ---------------------------------------------------------------- check

def check(args: argparse.Namespace) -> int:
    """`minifast check`: one line a finding; 1 if a training would stop or its result be wrong, else 0.

    Raises:
        UserMistake: there is no such folder.
    """
    with _user_mistakes(ValueError):
        findings = check_folder(args.folder)
    harmless = ('left out', 'duplicate')
    print_table([['kind', 'file', 'what'], *([f.kind, str(f.path), f.reason] for f in findings)])
    serious = [f for f in findings if f.kind not in harmless]
    say()
    say(f'{len(serious)} serious findings, {len(findings) - len(serious)} notes in {args.folder}')
    return 1 if serious else 0


# ---------------------------------------------------------------- env

PARTS = ('torch', 'torchvision', 'fastcore', 'tqdm', 'Pillow', 'numpy', 'scikit-learn', 'safetensors', 'matplotlib',
         'simplejpeg', 'zlib-ng', 'opencv-python-headless', 'pandas', 'torchmetrics', 'timm', 'tensorboard', 'wandb',
         'mlflow', 'optuna', 'onnx')


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> list[str]:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    found = [f'cpu ({os.cpu_count()} cores, {torch.get_num_threads()} threads, '
             f'{torch.backends.cpu.get_cpu_capability()})']
    if accelerator is not None:
        name = torch.cuda.get_device_name if accelerator.type == 'cuda' else lambda i: ''
        found += [f'{accelerator.type}:{i} {name(i)}'.rstrip() for i in range(torch.accelerator.device_count())]
    return found


def _fast_paths() -> dict[str, str]:
    """What makes this machine fast, and what would."""
    paths = fast_paths(default_device().type)
    opencv = _version('opencv-python-headless') or _version('opencv-python')
    return {
        'half precision': f'{"bf16" if paths.bf16 else "none"}: {paths.why}',
        'memory format': 'channels last' if paths.channels_last else 'as it comes',
        'freed memory': 'kept for the next batch' if keep_freed_memory() else 'handed back',
        'JPEG decoding': 'simplejpeg (libjpeg-turbo)' if _version('simplejpeg') else 'Pillow: pip install simplejpeg',
        'augmentation on the CPU': 'OpenCV, uint8' if opencv else 'torch: pip install opencv-python-headless',
    }


def environment() -> dict[str, Any]:
    """Versions, devices, fast paths and the weights at hand: what a bug report needs, and nothing private."""
    weights = Path(torch.hub.get_dir()) / 'checkpoints'
    return {
        'minifast': __version__, 'python': platform.python_version(), 'system': platform.platform(),
        'versions': {name: _version(name) or 'not installed' for name in PARTS},
        'git revision here': git_revision() or 'none',
        'devices': _devices(), 'used device': str(default_device()), 'fast paths': _fast_paths(),
        'pretrained weights': sorted(f.name for f in weights.glob('*.pth')) if weights.is_dir() else [],
    }


def show_environment(args: argparse.Namespace) -> int:
    """`minifast env`: the environment as a table, or as JSON."""
    found = environment()
    if args.json:
        _say_json(found)
        return 0
    rows: list[list[str]] = []
    for name, value in found.items():
        inner = value if isinstance(value, dict) else {'': ', '.join(value) or 'none'} if isinstance(value, list) else {
            '': value}
        rows += [[name if i == 0 else '', key, text] for i, (key, text) in enumerate(inner.items())]
    print_table(rows)
    return 0
