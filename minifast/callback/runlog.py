"""A run's folder: what was asked for, where it ran and what each epoch measured, as lines of JSON."""
from __future__ import annotations

import datetime
import errno
import json
import math
import numbers
import os
import secrets
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch.nn.parameter import is_lazy

from minifast.callback.core import Callback
from minifast.callback.tracking import ExperimentLogger
from minifast.codetext import package_of
from minifast.distributed import num_distrib
from minifast.environment import environment, git_revision
from minifast.plaindata import digest
from minifast.run.folder import as_folder
from minifast.run.history import FILE, FORMAT, KEYS, main_metric
from minifast.run.identity import fingerprint, run_identity
from minifast.tensorfile import way_out_of
from minifast.terminal import say, warn

__all__ = ['RunLogger']

PART_CHARACTERS = 32 << 10
"""How long a part of the settings may be; of a longer one a checksum is kept."""


def _now() -> str:
    now = datetime.datetime.now(datetime.timezone.utc)
    return now.isoformat(timespec='milliseconds').replace('+00:00', 'Z')


def _number(x: Any) -> float | int | None:
    """A finite number, else None."""
    if isinstance(x, bool) or not isinstance(x, numbers.Real) or not math.isfinite(x):
        return None
    return int(x) if isinstance(x, numbers.Integral) else float(x)


# ---------------------------------------------------------------- what a fit is made of

def _peaks(sched: Callable) -> list[float] | None:
    """The highest values of a schedule of ours, one a group or one for all; those of others are not known."""
    if package_of(sched if hasattr(sched, '__qualname__') else type(sched)) != 'minifast':
        return None
    return np.max([np.ravel(sched(i / 1000)) for i in range(1001)], axis=0).tolist()  # sync: none, on the host


def _asked(learn: Any) -> dict[str, Any]:
    """What the fit was asked for; `lr` is the highest rate of the last parameter group, and `lrs` are those of all."""
    hypers = learn.opt.hypers
    lrs = [hyper.get('lr') for hyper in hypers]
    for cb in learn.cbs:
        scheds = vars(cb).get('scheds')
        lrs = isinstance(scheds, Mapping) and 'lr' in scheds and _peaks(scheds['lr']) or lrs
    wd = next((hypers[-1][name] for name in ('wd', 'weight_decay') if name in hypers[-1]), None)
    return {'n_epoch': learn.n_epoch, 'start_epoch': learn.start_epoch, 'lr': lrs[-1], 'wd': wd,
            **({'lrs': lrs} if len(set(lrs)) > 1 else {})}


def _model(learn: Any, structure: Mapping[str, Any]) -> dict[str, Any]:
    model = learn.own_model
    known = [p for p in model.parameters() if not is_lazy(p)]
    told = {name: vars(learn)[name] for name in ('arch', 'pretrained', 'n_out', 'normalize') if name in vars(learn)}
    return {'class': type(model).__name__, **told, 'parameters': sum(p.numel() for p in known),
            'trained parameters': sum(p.numel() for p in known if p.requires_grad),
            'structure': digest(structure).hex()[:16]}


def _config_of(learn: Any) -> dict[str, Any]:
    """What the fit that runs is made of, as plain data of bounded size: what was asked for, model, data, loss,
    optimizer, schedule, transforms, and settings, among them the seed and the callbacks.

    Nothing is drawn and no item is made; names, sizes and, where these are little, contents of files are looked at.
    """
    parts = dict(run_identity(learn, {}).parts)
    data = dict(parts['data'], folder=getattr(learn.dls, 'path', None))
    data['items'] = {split: {column: {name: value for name, value in told.items() if name != 'times'}
                             for column, told in columns.items()} for split, columns in data['items'].items()}
    found = {'fit': _asked(learn), 'model': _model(learn, parts['model']), 'data': data}
    found |= {name: parts[name] for name in ('loss', 'optimizer', 'schedule', 'transforms', 'settings')}
    return {name: _bounded(part) for name, part in found.items()}


def _bounded(part: Any) -> Any:
    part = fingerprint(part)  # finite numbers, short texts and lists
    text = json.dumps(part)
    return part if len(text) <= PART_CHARACTERS else {'characters': len(text), 'digest': digest(part).hex()[:16]}


# ---------------------------------------------------------------- the callback

class RunLogger(ExperimentLogger):
    """Writes what a training is and what it measures into the folder of a run; `fit(..., run=FOLDER)` is short for it.

    The folder is named after the run, as in `runs/lr 1e-3`; `minifast runs runs` lists such folders, `minifast compare`
    and `plot_runs` put them side by side, `read_run` reads one. Its file `run.jsonl` holds lines of JSON, each written
    whole when it is known: `run` (format, id, name), `fit` (settings, environment, git revision), `epoch` (metrics,
    numbers or null), `resumed`, and `end` (how, best epoch, seconds). A training that was killed has no `end`.

    The fits of one learner into one folder are one run, as the two of `fine_tune`. A training that is resumed from a
    checkpoint goes on in its file; what it had written behind the checkpoint is taken off. Another run is never written
    over: it stays, and this one goes into a folder with a number behind its name. Of several processes the first one
    writes. A storage that fails in the middle of a training is told in a warning, and the training goes on.

    Args:
        path: the folder; made if it is not there.

    Attributes:
        folder: where the run is written, once a fit began.

    Raises:
        OSError: when a fit starts and the folder cannot be written to.

    Example:
        >>> for lr in (1e-3, 1e-2):
        ...     learn = vision_learner(dls, resnet18, metrics=accuracy)
        ...     learn.fine_tune(3, lr, run=f'runs/lr {lr:g}')
        >>> plot_runs('runs', 'accuracy')
    """

    not_carried = ('*',)
    before_batch, after_batch, after_train = Callback.before_batch, Callback.after_batch, Callback.after_train

    def __init__(self, path: str | Path) -> None:
        self.path, self.folder = Path(os.path.abspath(as_folder(path))), None
        self._handle: int | None = None

    # ------------------------------------------------------------ where a run goes on

    @property
    def _known(self) -> dict[str, dict[str, Any]]:
        """Folders that the learner was told to write into -> how far it has come there."""
        return self.learn.logged_runs

    def place(self) -> dict[str, Any]:
        """The folder's name, the run's id, bytes and fits of its file, and the seconds of this fit."""
        return {'folder': self.folder.name, 'id': self._id, 'size': self._size, 'fits': self._fits,
                'seconds': time.monotonic() - self._began_s}

    def start(self) -> None:
        at, resumed = self.goes_on or self._known.get(str(self.path)) or {}, bool(self.goes_on)
        self._began_s, self._ended = time.monotonic() - (at['seconds'] if resumed else 0.), False
        if not (at and self._open(at)):
            self._begin()
            resumed = False
        if resumed:
            self._write('resumed', fit=self._fits - 1, epoch=self.learn.epoch, began=_now(), **self._place_of_work())
        else:
            self._fits += 1
            self._write('fit', fit=self._fits - 1, began=_now(), more=self.learn.fine_tune_phase == 0,
                        config=_config_of(self.learn), **self._place_of_work())
        self._note()

    def _place_of_work(self) -> dict[str, Any]:
        found = environment(self.learn)
        git = found.pop('git') or git_revision()
        return {'environment': {**found, 'processes': max(num_distrib(), 1)}, 'git': git}

    def _open(self, at: Mapping[str, Any]) -> bool:
        """Go on in a run's file, without what is behind `at`; False where it is gone."""
        folder = self.path.with_name(at['folder'])
        try:
            with open(folder / FILE, 'rb') as stream:
                first = json.loads(stream.readline(1 << 16))
                stream.seek(0, os.SEEK_END)
                whole = stream.tell() >= at['size']
            if not (isinstance(first, dict) and first.get('id') == at['id'] and whole):
                raise ValueError('another run is there, or a part of this one')
            self._handle = os.open(folder / FILE, os.O_WRONLY | os.O_APPEND | getattr(os, 'O_BINARY', 0))
            os.ftruncate(self._handle, at['size'])
        except (OSError, ValueError) as error:
            self._close()
            warn(f'the run in {folder} cannot be gone on with ({getattr(error, "strerror", None) or error}): this '
                 'training is written as a new one, from here on')
            return False
        self.folder, self._id, self._size, self._fits = folder, at['id'], at['size'], at['fits']
        return True

    def _begin(self) -> None:
        """Make a folder for a new run, beside those that are there."""
        flags, number = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | getattr(os, 'O_BINARY', 0), 1
        self.folder = self.path
        try:
            while True:
                self.folder.mkdir(parents=True, exist_ok=True)
                try:
                    self._handle = os.open(self.folder / FILE, flags, 0o666)
                    break
                except FileExistsError:
                    number += 1
                    self.folder = self.path.with_name(f'{self.path.name}-{number}')
        except OSError as error:
            raise type(error)(error.errno, f'no run can be written to {self.folder}: {error.strerror or error}. Way '
                                           f'out: {way_out_of(error)}') from error
        if number > 1:
            say(f'{self.path} holds another run: this one is written to {self.folder}')
        self._id, self._size, self._fits = secrets.token_hex(8), 0, 0
        self._write('run', format=FORMAT, id=self._id, name=self.folder.name, began=_now())

    def _note(self) -> None:
        self._known.pop(str(self.path), None)  # the newest is the last
        self._known[str(self.path)] = self.place()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if state['place'] and not self._started:  # a fit that was done is passed over: the next one goes on there
            self._known[str(self.path)] = state['place']

    # ------------------------------------------------------------ lines

    def _write(self, kind: str, **content: Any) -> None:
        """One line, whole or not at all."""
        if self._handle is None:
            return
        line = (json.dumps({'kind': kind, **content}, allow_nan=False) + '\n').encode()
        try:
            if os.write(self._handle, line) < len(line):
                os.ftruncate(self._handle, self._size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._close()
            warnings.warn(f'{self.folder / FILE} could not be written: {error.strerror or error}. The training goes '
                          'on, and is not written there any more', stacklevel=2)
            return
        self._size += len(line)

    def after_epoch(self) -> None:
        row = self.learn.recorder.history[-1]
        metrics = {name: _number(value) for name, value in row.items() if name not in KEYS}
        self._write('epoch', fit=self._fits - 1, epoch=self.learn.epoch, metrics=metrics, time=row.get('time'))

    def after_fit(self) -> None:
        super().after_fit()
        if self._started:  # now, so that the checkpoint of the fit's end is behind it
            self._end('finished')

    def finish(self, completed: bool) -> None:
        if not self._ended:
            self._end('stopped')
        self._close()
        self.goes_on = {}

    def _end(self, state: str) -> None:
        history, self._ended = self.learn.recorder.history, True
        history = history[len(history) - len(self.learn.recorder.values):]  # of this fit
        best, metric = history.best(), main_metric(history.columns)
        told = None if best is None else {'metric': metric, 'epoch': best['epoch'], 'value': _number(best[metric])}
        self._write('end', fit=self._fits - 1, state=state, epochs=len(history), best=told,
                    duration_s=round(time.monotonic() - self._began_s, 3))
        self._note()

    def _close(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)
