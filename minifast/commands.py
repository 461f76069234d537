"""What the commands of the command line do: train, predict, check, env. `cli.py` parses and calls."""
from __future__ import annotations

import argparse
import csv
import importlib.metadata
import importlib.util
import logging
import math
import os
import platform
import signal
import sys
import tempfile
import time
import uuid
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision

from minifast import __version__
from minifast.arguments import near_match
from minifast.callback.core import Callback
from minifast.data.transforms import get_image_files
from minifast.distributed import PeerError, gather_objects, num_distrib, rank_distrib
from minifast.environment import git_revision
from minifast.hardware import fast_paths, keep_freed_memory
from minifast.learner import load_learner
from minifast.metrics import error_rate
from minifast.plugins import load_plugin
from minifast.run.folder import FolderInUseError
from minifast.seeds import set_seed
from minifast.tensorfile import DamagedFileError
from minifast.terminal import listed, print_table, say, say_json, say_once
from minifast.torch_core import default_device
from minifast.vision.augment import Resize, aug_transforms
from minifast.vision.data import ImageDataLoaders
from minifast.vision.decode import BadImageError
from minifast.vision.learner import vision_learner
from minifast.vision.models.weights import WeightsNotFoundError
from minifast.vision.utils import PictureFolder, look_at_folder, survey_folder, why_unreadable

__all__ = ['UserMistake', 'check', 'check_writable', 'environment', 'predict', 'show_environment', 'train']

MODEL_NAME = 'model.pth'
FINE_TUNE_LR, SCRATCH_LR = 2e-3, 3e-3
"""Highest learning rates where none is asked for: that of `Learner.fine_tune`, and of 2e-3, 3e-3 and 5e-3 the best for
400 digits from scratch in the usual three epochs (34, 12 and 15 % error, means of three seeds)."""
PEER_LEAVES_S = 20
"""How long a process that ends for another one's error waits to be ended with it."""
_LEFT_OUT = r'\d+ items were left out as they cannot be read'
"""How the warning of a loader begins that skips them."""


class UserMistake(Exception):
    """Something the user can mend; its message is the one sentence that the user sees."""


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


def check_writable(out: Path) -> None:
    """Refuse an output folder `out` that cannot be written, before the training rather than after it."""
    if out.exists() and not out.is_dir():
        raise UserMistake(f'--out {out} is a file: give a folder')
    there = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
    if not os.access(there, os.W_OK):
        raise UserMistake(f'--out {out}: {there} is not writable: give another folder')


def _picture_folder(args: argparse.Namespace) -> PictureFolder:
    """The folder to train on; what is wrong with it is told in the words of `minifast check`."""
    with _user_mistakes(ValueError):
        folder = look_at_folder(args.folder, **({} if args.valid_pct is None else {'valid_pct': args.valid_pct}))
    if args.valid_pct is not None and folder.valid:
        raise UserMistake(f'--valid-pct {args.valid_pct:g}: {folder.path / folder.valid} holds the pictures to '
                          f'validate with: leave --valid-pct out, or move them to {folder.path / folder.train}')
    if folder.findings:
        raise UserMistake(f'{folder.findings[0].path} {folder.findings[0].reason}')
    return folder


def _callbacks(names: list[str]) -> list[Callback]:
    """The callbacks of `--cb`, made without arguments."""
    found = []
    for name in names:
        try:
            found.append(load_plugin(name)())
        except (ValueError, ImportError, TypeError) as error:
            raise UserMistake(f'--cb {name}: {error}') from error
    return found


def _loaders(args: argparse.Namespace, folder: PictureFolder) -> Any:
    most = folder.n_train // max(num_distrib(), 1)
    where = {name: getattr(folder, name) for name in (('train', 'valid') if folder.valid else ('valid_pct',))}
    make = partial(ImageDataLoaders.from_folder, folder.path, **where, seed=args.seed, item_tfms=Resize(args.size),
                   batch_tfms=aug_transforms(do_flip=not args.no_flip), bs=min(args.bs, most),
                   num_workers=args.workers, on_error='skip' if args.skip_bad else 'raise')
    dls = make()
    # a class of few pictures may have none left to train with, and is still one to validate
    return dls if len(dls.vocab) == len(folder.counts) else make(vocab=list(folder.counts))


class _History(Callback):
    """Keeps the row of every epoch, over both phases of `fine_tune`, and the items that could not be read."""

    order = 60  # behind the Recorder, which makes the row

    def __init__(self) -> None:
        self.rows: list[list] = []
        self.skipped: set[str] = set()
        self.begun = False

    def before_fit(self) -> None:
        self.begun = True

    def after_epoch(self) -> None:
        self.rows.append(list(self.recorder.log))
        for dl in self.learn.dls:
            self.skipped |= {str(dl.dataset.items[index]) for index, *_ in dl.skipped}


@contextmanager
def _user_mistakes(*kinds: type[Exception]) -> Iterator[None]:
    """Errors of these kinds say what the user can mend; their message is enough."""
    try:
        yield
    except BadImageError as error:
        raise UserMistake(f'{error.path} cannot be read as a picture ({error.reason}): mend or remove it, or give '
                          '--skip-bad; minifast check FOLDER lists every such file') from error
    except kinds as error:
        raise UserMistake(str(error)) from error


def _learner(args: argparse.Namespace, dls: Any, arch: Any, weights: dict[str, Any]) -> Any:
    """A learner for the command line's choice of model and weights."""
    try:
        return vision_learner(dls, arch, metrics=error_rate, cut=args.cut, **weights)
    except WeightsNotFoundError as error:
        raise UserMistake(f'{error}; on the command line: --weights FILE or --weights none') from error
    except ValueError as error:
        raise UserMistake(f'{error}{"; on the command line: --cut N" if "give cut=" in str(error) else ""}') from error
    except Exception as error:  # whatever a model raises of which the wrong part is left
        if args.cut is None:
            raise
        raise UserMistake(f'--cut {args.cut}: what comes before this child of {args.arch} takes no pictures '
                          f'({type(error).__name__}: {error}): give another number') from error


def _learning_rate(args: argparse.Namespace, learn: Any) -> float:
    """The learning rate asked for; with `auto` from a trial run of at most a quarter of the training, and near the
    one that is right for most."""
    usual = SCRATCH_LR if args.weights == 'none' else FINE_TUNE_LR
    if args.lr != 'auto':
        return usual if args.lr is None else args.lr
    steps = len(learn.dls.train) * (args.epochs + (args.weights != 'none'))
    trial = min(100, steps // 4)
    if trial < 20:
        say_once(f'learning rate {usual:g}: a trial run takes a quarter of the training and 20 batches at least, and '
                 f'this one has {steps} batches')
        return usual
    say_once(f'looking for a learning rate: a trial run of {trial} batches')
    with learn.no_bar():
        found = learn.lr_find(1e-5, 1, num_it=trial, show_plot=False).valley
    lr = min(max(found, usual / 4), usual * 4)
    say_once(f'learning rate {lr:.2g}' + ('' if lr == found else f', as the {found:.2g} of the trial run lies far off'))
    return lr


def _fit(args: argparse.Namespace, learn: Any, history: _History, cbs: list[Callback]) -> None:
    """Train; the head of pretrained weights alone first."""
    lr, again = _learning_rate(args, learn), {}
    if args.resume:
        again = {'checkpoint': args.out / 'checkpoints', 'resume': True}
    try:
        if args.weights == 'none':
            learn.fit_one_cycle(args.epochs, lr, cbs=[history, *cbs], **again)
        else:
            learn.fine_tune(args.epochs, lr, cbs=[history, *cbs], **again)
    except (ValueError, FolderInUseError, DamagedFileError) as error:
        if not args.resume or history.begun:
            raise
        raise UserMistake(f'--resume: {error}; on the command line: another --out') from error


def _write_model(learn: Any, out: Path, history: _History) -> Path:
    """Export the model and write the history; the folder is made only now."""
    out.mkdir(parents=True, exist_ok=True)
    learn.path = out
    model = learn.export(MODEL_NAME)
    with open(out / 'history.csv', 'w', newline='', encoding='utf-8') as file:
        csv.writer(file).writerows([learn.recorder.metric_names, *history.rows])
    return model


def train(args: argparse.Namespace) -> int:
    """`minifast train` with its parsed `args`: look, load, train, and write the model and its history at the very end.

    Raises:
        UserMistake: a folder, file, model or number that cannot be used; nothing was written.
    """
    folder, arch, weights = _picture_folder(args), _architecture(args.arch), _weights(args.weights)
    cbs = _callbacks(args.cb)
    check_writable(args.out)
    if args.nproc > 1 and not _is_started_here():
        return _train_together(args, folder)
    if rank_distrib() and _is_started_here():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C comes to all at once, and the first tells the others
    set_seed(args.seed)
    dls, history = _loaders(args, folder), _History()
    together = f', {num_distrib()} processes' if num_distrib() > 1 else ''
    say_once(f'{_number(len(folder.counts), "class")}, {_number(len(dls.train_ds), "picture")} to train and '
             f'{len(dls.valid_ds):,} to validate; {args.arch} at {args.size} px on {default_device()}{together}')
    learn = _learner(args, dls, arch, weights)
    with _user_mistakes(), warnings.catch_warnings():
        warnings.filterwarnings('ignore', _LEFT_OUT)  # told once, below
        _fit(args, learn, history, cbs)
    skipped = set().union(*gather_objects(history.skipped))
    if rank_distrib() == 0:
        for file in sorted(skipped):
            _say_skipped(args, file)
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
    n, n_train, n_gpus = args.nproc, folder.n_train, torch.cuda.device_count()
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
    this process.

    The launcher ends all processes, written or not, when the first one leaves. Who has but heard of another's error
    waits to be ended, so that the error itself is told and not the hearsay.
    """
    if not os.environ.get('TORCHELASTIC_ERROR_FILE'):
        return False
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler
    get_error_handler().record_exception(error)
    if isinstance(error, PeerError):
        time.sleep(PEER_LEAVES_S)
    return True


# ---------------------------------------------------------------- predict

def _model_file(path: Path) -> Path:
    """The file of a model: what is named, or the model in a folder that `minifast train` has named."""
    how = 'give a model file that minifast train or learn.export wrote'
    if path.is_dir() and not (path / MODEL_NAME).is_file():
        raise UserMistake(f'{path} is a folder without {MODEL_NAME}: {how}')
    if not path.exists():
        raise UserMistake(f'{path} does not exist: {how}')
    return path / MODEL_NAME if path.is_dir() else path


def _pictures(paths: list[Path]) -> list[Path]:
    """The pictures among files and folders.

    Raises:
        UserMistake: a path that is missing, a folder without pictures.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UserMistake(f'{path} does not exist: give pictures or folders of pictures')
        found = list(get_image_files(path)) if path.is_dir() else [path]
        if not found:
            raise UserMistake(f'{path} holds no pictures: give pictures or folders of pictures')
        files += found
    return files


def _say_skipped(args: argparse.Namespace, file: Any) -> None:
    """One line on stderr for a picture that was passed over."""
    say(f'minifast {args.command}: {file} is left out: {why_unreadable(file) or "it could not be read"}', sys.stderr)


def predict(args: argparse.Namespace) -> int:
    """`minifast predict` with its parsed `args`: a table, or JSON with the probabilities of all classes.

    Returns:
        1 if a picture could not be read, else 0.

    Raises:
        UserMistake: the model file is none, or there are no pictures.
    """
    model = _model_file(args.model)
    with _user_mistakes(ValueError, OSError):
        learn = load_learner(model)
    files = _pictures(args.files)
    dl = learn.dls.test_dl(files, bs=args.bs, num_workers=0, on_error='skip')
    with learn.no_bar(), learn.no_logging(), warnings.catch_warnings():
        warnings.filterwarnings('ignore', _LEFT_OUT)  # told by name, below
        probs, _ = learn.get_preds(dl=dl)
    skipped = {index for index, *_ in dl.skipped}
    vocab, known = [str(name) for name in learn.dls.vocab], [] if probs is None else probs.tolist()
    read = [file for i, file in enumerate(files) if i not in skipped]
    rows = [{'file': str(file), 'prediction': vocab[max(range(len(p)), key=p.__getitem__)], 'probability': max(p),
             'probabilities': dict(zip(vocab, p, strict=True))} for file, p in zip(read, known, strict=True)]
    if args.json:
        say_json(rows)
    elif rows:
        print_table([['file', 'prediction', 'probability'],
                     *([row['file'], row['prediction'], f'{row["probability"]:.1%}'] for row in rows)])
    for index in sorted(skipped):
        _say_skipped(args, files[index])
    return 1 if skipped else 0


def _number(n: int, what: str) -> str:
    """`1 class`, `2 classes`."""
    return f'{n:,} {what}' + ('' if n == 1 else 'es' if what.endswith('s') else 's')


# ---------------------------------------------------------------- check

def check(args: argparse.Namespace) -> int:
    """`minifast check` with its parsed `args`: what a folder holds and one line a finding; 1 if one is serious, else 0.

    The JSON object has these fields: `folder`; `classes` and `valid_classes`, class -> number of pictures (the latter
    empty where what validates is drawn from the former); `imbalance`, pictures of the largest class by those of the
    smallest (null without classes); `pictures`, how many can be read; `smallest` and `largest`, [width, height] in
    pixels (null without pictures); `alpha`, the pictures with an alpha channel; `own`, minifast's own files; `serious`
    and `notes`, how many findings there are; `findings`, each with `kind`, `file`, `what` and `serious`.

    Raises:
        UserMistake: there is no such folder.
    """
    with _user_mistakes(ValueError):
        folder = look_at_folder(args.folder)
    survey = survey_folder(args.folder)
    told = {(f.path, f.kind) for f in folder.findings}
    findings = [*folder.findings, *(f for f in survey.findings if (f.path, f.kind) not in told)]
    sizes = sorted(survey.sizes, key=math.prod)
    n_serious = sum(f.serious for f in findings)
    found = {'folder': str(args.folder), 'classes': folder.counts, 'valid_classes': folder.valid_counts,
             'imbalance': max(folder.counts.values()) / min(folder.counts.values()) if folder.counts else None,
             'pictures': survey.sizes.total(), 'smallest': sizes[0] if sizes else None,
             'largest': sizes[-1] if sizes else None, 'alpha': [str(file) for file in survey.alpha],
             'own': [str(file) for file in survey.own], 'serious': n_serious, 'notes': len(findings) - n_serious,
             'findings': [{'kind': f.kind, 'file': str(f.path), 'what': f.reason, 'serious': f.serious}
                          for f in findings]}
    if args.json:
        say_json(found)
    else:
        _say_check(found)
    return 1 if n_serious else 0


def _say_check(found: dict[str, Any]) -> None:
    """What `check` has found, for people: the data in a line each, the findings as a table, their number."""
    parts = {'to train: ': found['classes'], 'to validate: ': found['valid_classes']}
    for part, counts in parts.items() if found['valid_classes'] else [('', found['classes'])]:
        if counts:
            say(f'{part}{_number(len(counts), "class")}, {_number(sum(counts.values()), "picture")}: '
                + listed((f'{name} {n:,}' for name, n in counts.items()), 10))
    if found['pictures']:
        small, large = ('x'.join(map(str, found[which])) for which in ('smallest', 'largest'))
        say(f'sizes: {"all " + small if small == large else f"{small} to {large}"} pixels')
    if (found['imbalance'] or 0) >= 1.5:
        say(f'imbalance: the largest class has {found["imbalance"]:.1f} times the pictures of the smallest')
    if found['alpha']:
        say(f'alpha: {_number(len(found["alpha"]), "picture")} with a channel that a training does not see')
    if found['own']:
        say(f'passed over: {_number(len(found["own"]), "file")} that minifast has written')
    rows, shown = [], Counter()
    for f in found['findings']:
        shown[f['kind']] += 1
        if f['kind'] not in _MANY or shown[f['kind']] <= 5:
            rows.append([f['kind'], f['file'], f['what']])
    rows += [[kind, f'and {shown[kind] - 5:,} more', '--json names all'] for kind in _MANY if shown[kind] > 5]
    if rows:
        say()
        print_table([['kind', 'file', 'what'], *rows])
    say()
    say(f'{_number(found["serious"], "serious finding")}, {_number(found["notes"], "note")} in {found["folder"]}')


_MANY = ('left out', 'duplicate', 'duplicate across parts')
"""Kinds of findings of which hundreds may be found, and few need to be read."""


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
    """`minifast env` with its parsed `args`: the environment as a table, or as JSON."""
    found = environment()
    if args.json:
        say_json(found)
        return 0
    rows: list[list[str]] = []
    for name, value in found.items():
        inner = value if isinstance(value, dict) else {'': ', '.join(value) or 'none'} if isinstance(value, list) else {
            '': value}
        rows += [[name if i == 0 else '', key, text] for i, (key, text) in enumerate(inner.items())]
    print_table(rows)
    return 0
