"""Checkpoints of a training that can be killed at any moment and goes on to the same bits."""
from __future__ import annotations

import re
import signal
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

from minifast.arguments import tells_near_match
from minifast.callback.core import Callback
from minifast.distributed import rank_distrib
from minifast.seeds import get_random_states
from minifast.tensorfile import (Copies, DamagedFileError, UnsafeFileError, read_tensors, sweep_temporaries,
                                 write_atomic)
from minifast.training_state import (ReplayedLoader, generators, inexact_loaders, load_training_state, own_loader,
                                     set_generators, training_state)

__all__ = ['CheckpointCallback', 'checkpoints_in', 'fit_was_done', 'newest_checkpoint']

_NAME = re.compile(r'checkpoint-(\d+)\.pth')


def checkpoints_in(folder: str | Path) -> list[Path]:
    """The checkpoints in a folder, the newest first."""
    found = [(int(match[1]), path) for path in Path(folder).glob('checkpoint-*.pth')
             if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def newest_checkpoint(folder: str | Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint in `folder` that is whole, and its state; None where there is no checkpoint at all.

    A damaged one is named in a warning and passed over.

    Raises:
        DamagedFileError: there are checkpoints and none is whole.
    """
    paths = checkpoints_in(folder)
    for path in paths:
        try:
            return path, read_tensors(path)
        except (DamagedFileError, UnsafeFileError, OSError) as error:
            warnings.warn(f'passed over: {error}', stacklevel=2)
    if paths:
        raise DamagedFileError(f'none of the {len(paths)} checkpoints in {folder} is whole: to start from scratch, '
                               'leave out resume=True or name another folder')
    return None


def fit_was_done(learn: Any) -> bool:
    """For `fit(resume=True)`: whether the newest checkpoint lies behind the fit that is about to start.

    Raises:
        ValueError: no callback says where the checkpoints are.
    """
    for cb in learn.cbs:
        if isinstance(cb, CheckpointCallback):
            return cb.look_for()
    raise ValueError('resume=True needs to know where the checkpoints are: give checkpoint=FOLDER to the same call, or '
                     'a CheckpointCallback among cbs')


class CheckpointCallback(Callback):
    """Writes the whole state of the training from time to time; `learn.fit(..., resume=True)` goes on from the newest.

    The resumed training ends in the same bits as one that was never stopped. Ctrl-C and SIGTERM are answered at the
    next batch edge: a checkpoint is written, then a script ends (exit status 143 for SIGTERM) and a notebook keeps a
    usable learner; a second signal stops at once. A storage that fails in the middle of a training is told in a
    warning, and the training goes on.

    Several fits may share a folder (`fine_tune` is two): a resumed script passes over those that were done.

    Example:
        >>> learn.fit_one_cycle(5, cbs=CheckpointCallback('checkpoints', every=500))
        >>> learn.fit_one_cycle(5, cbs=CheckpointCallback('checkpoints', every=500), resume=True)  # after a crash
    """

    order, remove_on_fetch = 1000, True  # behind all others, whose work of the event is then in the state

    @tells_near_match
    def __init__(self, path: str | Path, every: int | str | None = 'epoch', minutes: float | None = None,
                 keep: int = 3, background: bool = True) -> None:
        """
        Args:
            path: the folder; made if it is not there.
            every: a number of steps, or 'epoch'; None with `minutes`.
            minutes: a checkpoint at the first batch edge after so many minutes.
            keep: how many of the newest to keep; more than one helps when a disk spoils the newest.
            background: copy the state and write it in a thread of its own, so that training goes on meanwhile.

        Raises:
            ValueError: `every` or `keep` make no sense.
        """
        if not (every is None or every == 'epoch' or (isinstance(every, int) and every > 0)):
            raise ValueError(f"every={every!r}: give a number of steps, 'epoch', or None together with minutes=")
        if keep < 1:
            raise ValueError(f'keep={keep!r}: at least one checkpoint must be kept')
        self.path, self.every, self.minutes, self.keep, self.background = Path(path), every, minutes, keep, background
        self._found: tuple[Path, dict[str, Any]] | None = None
        self._active = False

    # ------------------------------------------------------------ asked by fit

    @property
    def _phases(self) -> dict[str, int]:
        """How many fits with this folder the learner has completed, kept on the learner by folder."""
        return self.learn.checkpoint_phases

    @property
    def _phase(self) -> int:
        return self._phases.get(str(self.path.absolute()), 0)

    def look_for(self) -> bool:
        """Read the newest checkpoint for the fit that starts; returns whether this fit was already done by then."""
        found = newest_checkpoint(self.path)
        if found is None:
            print(f'no checkpoint in {self.path}: training starts from scratch')
            return False
        phase = found[1]['position']['phase'] if 'position' in found[1] else 0
        if phase > self._phase:
            self._phases[str(self.path.absolute())] = self._phase + 1
            return True
        self._found = found if phase == self._phase else None
        return False

    # ------------------------------------------------------------ the fit

    def before_fit(self) -> None:
        self._active = self.learn.fitting and not hasattr(self.learn, 'lr_finder')
        if not self._active:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        sweep_temporaries(self.path)
        for why in inexact_loaders(self.learn.dls):
            warnings.warn(f'a resume in the middle of an epoch will not be exact: {why}', stacklevel=2)
        self._number = max((int(_NAME.fullmatch(path.name)[1]) for path in checkpoints_in(self.path)), default=0)
        self._signal, self._waiting, self._written_at, self._epoch_generators = None, None, None, None
        self._validation_generators, self._resumed = None, self._found
        self._pool = ThreadPoolExecutor(1, 'checkpoint') if self.background else None
        self._pending: Future | None = None
        self._copies = Copies()
        self._replaced_handlers = self._take_signals()
        self._last_s = time.monotonic()
        if self._resumed is not None:
            self._go_to_position()
        else:
            self._write(self._position('epoch', self.learn.start_epoch), must=True)

    def _go_to_position(self) -> None:
        path, state = self._resumed
        learn, at = self.learn, state['position']
        load_training_state(learn, state, path)
        self._epoch_generators, self._written_at = state['epoch_generators'], self._key(at)
        learn.start_epoch, learn.start_batch = at['epoch'], 0
        if at['done'] and learn.n_epoch <= at['n_epoch']:
            learn.start_epoch = learn.n_epoch
        if at['where'] == 'train':
            learn.start_batch = at['batch']
        elif at['where'] == 'epoch':
            self._resumed = None  # all is done: an epoch that starts is as in any other fit
        if at['n_iter'] != len(learn.dls.train):
            warnings.warn(f'{path} was made with {at["n_iter"]} batches an epoch, now there are '
                          f'{len(learn.dls.train)}: the training will not go on as it would have', stacklevel=2)
        print(f'resumed from {path}: epoch {at["epoch"]}, batch {at["batch"]}')

    def before_train(self) -> None:
        if not self._active:
            return
        if self._resumed is None:
            self._epoch_generators = generators(self.learn.dls)
            return
        # the hooks of before_epoch and before_train have run again: what they changed is put back once more
        path, state = self._resumed
        learn, at = self.learn, state['position']
        if at['where'] == 'validate':
            learn.dl = ReplayedLoader(learn.dl, None, None, None)
            return
        load_training_state(learn, state, path)
        if own_loader(learn.dl):
            learn.dl.begin(learn.fit_seed, at['epoch'], at['loader_batch'])
        else:
            def now() -> None:
                set_generators({**state['generators'], 'loaders': []})
            learn.dl = ReplayedLoader(learn.dl, at['batch'], lambda: set_generators(self._epoch_generators, learn.dls),
                                      now, next(iter(state['loaders']), None))
        self._resumed = None

    def before_validate(self) -> None:
        if not self._active:
            return
        if self._resumed is not None:
            path, state = self._resumed
            load_training_state(self.learn, state, path)
            self._resumed = None
        self._validation_generators = generators(self.learn.dls)

    def before_batch(self) -> None:
        self._waiting = None

    def after_batch(self) -> None:
        if not self._active:
            return
        training = self.learn.training
        due = training and isinstance(self.every, int) and self.learn.train_iter % self.every == 0
        if due or self._signal is not None or self._late(training):
            self._write_here()
        self._answer_signal()
        if getattr(self.learn.dl, 'num_workers', 0) and self.learn.iter + 1 < self.learn.n_iter:
            self._waiting = get_random_states()

    def _late(self, training: bool) -> bool:
        return training and self.minutes is not None and time.monotonic() - self._last_s > 60 * self.minutes

    def _write_here(self, random_states: dict[str, Any] | None = None) -> None:
        learn = self.learn
        if learn.training:
            self._write(self._position('train', learn.epoch, learn.iter + 1), random_states=random_states)
        else:
            self._write(self._position('validate', learn.epoch, len(learn.dls.train)))

    def after_epoch(self) -> None:
        if not self._active:
            return
        if self.every == 'epoch' or self._signal is not None or self._late(True):
            self._write(self._position('epoch', self.epoch + 1))
        self._answer_signal()

    def after_fit(self) -> None:
        if not self._active:
            return
        at = self._position('epoch', self.learn.n_epoch, done=True)
        if self._key(at) != self._written_at:
            self._write(at)
        self._phases[str(self.path.absolute())] = self._phase + 1

    def cleanup_fit(self) -> None:
        self._found = None
        if self._active:
            self._active, self._resumed = False, None
            for signum, handler in self._replaced_handlers.items():
                signal.signal(signum, handler)
            self._finish_writing()
            if self._pool is not None:
                self._pool.shutdown()
            self._copies = Copies()

    # ------------------------------------------------------------ writing

    def _position(self, where: str, epoch: int, batch: int = 0, done: bool = False) -> dict[str, Any]:
        learn = self.learn
        # the loader counts batches that were left out altogether because no item of them could be read
        within = where == 'train' and own_loader(learn.dl)
        return {'where': where, 'epoch': epoch, 'batch': batch, 'done': done, 'phase': self._phase,
                'loader_batch': learn.dl.state_dict()['batch'] if within else batch,
                'n_epoch': learn.n_epoch, 'n_iter': len(learn.dls.train)}

    @staticmethod
    def _key(position: dict[str, Any]) -> tuple:
        return tuple(position[k] for k in ('phase', 'where', 'epoch', 'batch', 'done'))

    def _write(self, position: dict[str, Any], must: bool = False, random_states: dict | None = None) -> None:
        """Write the state; in the background unless `must`, which also makes a failing storage an error."""
        self._finish_writing()
        if self._key(position) == self._written_at or rank_distrib():
            return
        self._written_at, self._last_s = self._key(position), time.monotonic()
        state = training_state(self.learn, position, self._epoch_generators)
        if position['where'] == 'validate':
            state['generators'] = self._validation_generators
        elif random_states is not None:
            state['generators'] = generators(self.learn.dls, random_states)
        self._number += 1
        file = self.path / f'checkpoint-{self._number:06d}.pth'
        if self._pool is None or must:
            self._pending = Future()
            try:
                self._pending.set_result(self._write_file(file, state))
            except OSError as error:
                if must:
                    raise
                self._pending.set_exception(error)
        else:
            # a copy, because the next step changes the tensors; on the host, where the thread writes from. The one
            # before is written by now, so its memory can be used again
            self._pending = self._pool.submit(self._write_file, file, self._copies(state))

    def _write_file(self, file: Path, state: dict[str, Any]) -> None:
        write_atomic(file, state)
        for old in checkpoints_in(self.path)[self.keep:]:
            old.unlink(missing_ok=True)

    def _finish_writing(self) -> None:
        """Wait for the thread; a storage that failed is told, and the training goes on."""
        pending, self._pending = self._pending, None
        if pending is not None:
            try:
                pending.result()
            except OSError as error:
                self._written_at = None
                warnings.warn(f'no checkpoint: {error}. The training goes on', stacklevel=2)

    # ------------------------------------------------------------ signals

    def _take_signals(self) -> dict[int, Any]:
        if threading.current_thread() is not threading.main_thread():
            return {}
        return {signum: signal.signal(signum, self._on_signal) for signum in (signal.SIGINT, signal.SIGTERM)}

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self._signal is not None:
            self._leave(signum)
        self._signal = signum
        if self._waiting is not None:
            # between two batches, waiting for worker processes, which Ctrl-C may have ended: this is the batch edge
            self._write_here(self._waiting)
            self._answer_signal()

    def _answer_signal(self) -> None:
        if self._signal is not None:
            self._finish_writing()
            print(f'stopped by a signal; the checkpoint is in {self.path}')
            self._leave(self._signal)

    def _leave(self, signum: int) -> None:
        handler: Callable | Any = self._replaced_handlers.get(signum)
        if callable(handler):  # Python's own for Ctrl-C, or one of the user's
            handler(signum, None)
        raise SystemExit(128 + signum)
