"""Checkpoints of a training that can be killed at any moment and goes on to the same bits."""
from __future__ import annotations

import json
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch
from torch import Tensor

from minifast.callback.core import Callback, TrainEvalCallback
from minifast.callback.recorder import Recorder
from minifast.distributed import rank_distrib
from minifast.hardware import to_memory_format
from minifast.run_folder import FolderInUseError, RunFolder, checkpoints_in
from minifast.run_identity import Difference, differences, note_what_moved, read_tables, run_identity
from minifast.seeds import get_random_states
from minifast.tensorfile import Copies, DamagedFileError, UnsafeFileError, read_tensors, write_atomic
from minifast.training_state import (ReplayedLoader, generators, inexact_loaders, load_training_state, own_loader,
                                     set_generators, training_state)

__all__ = ['CheckpointCallback', 'FolderInUseError', 'checkpoints_in', 'fit_was_done', 'newest_checkpoint']


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


def fit_was_done(learn: Any, resume: bool | str = True, **asked: Any) -> bool:
    """For `fit`: take the folder of the checkpoints and, with `resume`, find out where to go on.

    Args:
        learn: the learner, with the fit's callbacks and its optimizer.
        resume: whether to go on from what is in the folder; 'anyway': also from another data set, model, loss or
            optimizer.
        asked: what the fit was asked for: `n_epoch`, `lr`, `wd`, `start_epoch`.

    Returns:
        Whether this very fit has been completed before; the learner is then as it was at its end.

    Raises:
        ValueError: no callback says where the checkpoints are, or those there are another run's.
        FolderInUseError: another training is using the folder.
        OSError: the folder cannot be written to.
    """
    if resume not in (True, False, 'anyway') and resume is not None:
        raise ValueError(f"resume={resume!r}: give True, False, or 'anyway' to go on with what another data set, model, "
                         'loss or optimizer has left')
    cbs = [cb for cb in learn.cbs if isinstance(cb, CheckpointCallback)]
    if resume and not cbs:
        raise ValueError('resume=True needs to know where the checkpoints are: give checkpoint=FOLDER to the same call, '
                         'or a CheckpointCallback among cbs')
    done = False
    for cb in cbs if not hasattr(learn, 'lr_finder') else []:
        done = cb.begin(resume, asked, first=cbs[0] if cb is not cbs[0] else None) or done
    return done


_runs_here: set[str] = set()
"""The runs that learners of this process have been part of."""


def _position_of(path: Path, state: Any) -> dict[str, Any]:
    """The position in a checkpoint.

    Raises:
        ValueError: the file holds something else.
    """
    at = state.get('position') if isinstance(state, dict) else None
    if not isinstance(at, dict) or not {'phase', 'where', 'epoch', 'batch', 'done', 'n_epoch', 'n_iter'} <= at.keys():
        raise ValueError(f'{path} is no checkpoint of a training: for weights alone there is learn.load')
    return at


def _channels_last(state: dict[str, Any]) -> bool:
    pictures = [x for x in state.values() if isinstance(x, Tensor) and x.ndim == 4]
    return any(x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous() for x in pictures)


class CheckpointCallback(Callback):
    """Writes the whole state of the training from time to time; `learn.fit(..., resume=True)` goes on from the newest.

    The resumed training ends in the same bits as one that was never stopped. Ctrl-C and SIGTERM are answered at the
    next batch edge: a checkpoint is written, then a script ends (exit status 143 for SIGTERM) and a notebook keeps a
    usable learner; a second signal stops at once. A storage that fails in the middle of a training is told in a
    warning, and the training goes on.

    A folder belongs to one run at a time. The fits of one learner are one run (`fine_tune` is two fits): a resumed
    script passes over those that were done, and the learner is then as it was at their end. What is resumed is
    compared first: another data set, model, loss or optimizer is an error that names the first difference, another
    setting is told in a warning. A run that does not resume moves the files of earlier runs into a subfolder. Nothing
    that another run has written is deleted.

    Example:
        >>> learn.fit_one_cycle(5, cbs=CheckpointCallback('checkpoints', every=500))
        >>> learn.fit_one_cycle(5, cbs=CheckpointCallback('checkpoints', every=500), resume=True)  # after a crash
    """

    order, remove_on_fetch = 1000, True  # behind all others, whose work of the event is then in the state

    def __init__(self, path: str | Path, every: int | str | None = 'epoch', minutes: float | None = None,
                 keep: int = 3, background: bool = True) -> None:
        """
        Args:
            path: the folder; made if it is not there.
            every: a number of steps, or 'epoch'; None with `minutes`.
            minutes: a checkpoint at the first batch edge after so many minutes.
            keep: how many of the newest to keep; more than one helps when a disk spoils the newest. The last one of
                each fit that was completed is kept beside them.
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
        self._resumed: tuple[Path, dict[str, Any]] | None = None
        self._active = self._resuming = False
        self._folder, self._identity = RunFolder(path), None
        self._then: dict[str, Any] = {}
        self._without: tuple[str, ...] = ()
        self._replaced_handlers: dict[int, Any] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._pending: Future | None = None
        self._copies = Copies()

    # ------------------------------------------------------------ asked by fit

    @property
    def _run(self) -> dict[str, Any]:
        """What the learner has done in this folder: its run, how many fits it has completed, whether one broke off."""
        return self.learn.checkpoint_runs.setdefault(os.path.realpath(self.path),
                                                     {'run': None, 'fits': 0, 'broken_off': False})

    @property
    def _phase(self) -> int:
        return self._run['fits']

    def begin(self, resume: bool | str, asked: dict[str, Any], first: CheckpointCallback | None = None) -> bool:
        """Take the folder for the fit that starts; returns whether this fit was already done by then.

        Args:
            resume: go on from what is there.
            asked: what the fit was asked for.
            first: another callback, which decides where the fit goes on; this one only writes.
        """
        self._found, self._then, self._without = None, {}, ()
        self._asked, self._resuming = asked, bool(resume)
        if rank_distrib() == 0:
            self._folder.take()
        self._identity = run_identity(self.learn, asked)
        if first is not None:
            self._folder.adopt(first._folder.run)
        elif self._run['run'] is not None:
            self._folder.adopt(self._run['run'])
        return bool(resume) and first is None and self._look_for(resume)

    def _look_for(self, resume: bool | str) -> bool:
        newest = newest_checkpoint(self.path)
        if newest is None:
            print(f'no checkpoint in {self.path}: training starts from scratch')
            return False
        if _position_of(*newest)['phase'] < self._phase:
            return False
        found = self._at_this_fit(*newest)
        if found is None:
            self._pass_over_blindly()
            return True
        differ = self._differences(*found)
        if any(difference.severe for difference in differ) and resume != 'anyway':
            other = self._run_moved_aside()
            if other is None and self._may_begin_anew(newest[1], differ):
                self._resuming = False
                return False
            if other is None:
                self._refuse(found[0], differ)
            found, differ = other, self._differences(*other)
        path, state = found
        over = self._is_over(state['position'], passed=_position_of(*newest)['phase'] > self._phase)
        self._tell(path, state, differ, over)
        if isinstance(state.get('run'), dict):
            self._folder.adopt(state['run']['id'])
        if over:
            self._pass_over(path, state)
        else:
            self._found = found
        return over

    def _at_this_fit(self, path: Path, state: dict[str, Any]) -> tuple[Path, dict[str, Any]] | None:
        """The last checkpoint of the fit that would start now, in a folder whose newest checkpoint is given."""
        if _position_of(path, state)['phase'] <= self._phase:
            return path, state
        run = state.get('run')
        of_run = RunFolder(path.parent).files_of(run['id']) if isinstance(run, dict) else {}
        names = [name for name, fit in of_run.items() if fit == self._phase]
        for candidate in [path.parent / names[-1]] if names else checkpoints_in(path.parent):
            try:
                found = read_tensors(candidate)
                if _position_of(candidate, found)['phase'] == self._phase:
                    return candidate, found
            except (DamagedFileError, UnsafeFileError, OSError) as error:
                warnings.warn(f'passed over: {error}', stacklevel=6)
        return None

    def _is_over(self, at: dict[str, Any], passed: bool) -> bool:
        """Whether nothing is left to do of the fit; one that others came behind is never taken up again."""
        n_epoch = self._asked['n_epoch']
        beyond = at['epoch'] > n_epoch or (at['epoch'] == n_epoch and at['where'] != 'epoch')
        return passed or beyond or (at['done'] and n_epoch <= at['n_epoch'])

    # ------------------------------------------------------------ is it the same run?

    def _differences(self, path: Path, state: dict[str, Any]) -> list[Difference]:
        """How the fit that starts differs from the one of a checkpoint."""
        self._then, run = {}, state.get('run')
        if not isinstance(run, dict):
            return []
        try:
            then = json.loads(run['identity'])
            tables = read_tables(RunFolder(path.parent).read(f'items-{run["items"]}.json'), then['data']['items'])
            keepers = {*state['callbacks'], *(cb.name for cb in self.learn.cbs if hasattr(type(cb), 'state_dict'))}
            found = differences(then, self._identity, tables, keepers)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f'{path} does not say in a way that could be read which run it is of: {error!r}') from error
        self._then = then
        return found

    def _run_moved_aside(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint of a run with this data set, model, loss and optimizer that was moved aside for
        another one, as folds of one script do; its files are then back in their place."""
        for folder in self._folder.moved_aside():
            try:
                newest = newest_checkpoint(folder)
            except DamagedFileError:
                continue
            found = None if newest is None else self._at_this_fit(*newest)
            if found is None or any(difference.severe for difference in self._differences(*found)) or not self._then:
                continue
            self._folder.bring_back(folder)
            print(f'{self.path} has held several runs: this fit goes on with the one of {folder.name}')
            return self.path / found[0].name, read_tensors(self.path / found[0].name)
        return None

    def _may_begin_anew(self, newest: dict[str, Any], differ: list[Difference]) -> bool:
        """Whether the folder's run is complete and of another learner of this very process, and has other data and
        nothing else: then this one is the next of several (a fold, say), and not a run whose data have changed."""
        others_data = all(difference.part == 'data' for difference in differ if difference.severe)
        complete = newest['position']['done'] and newest['run']['id'] in _runs_here
        return others_data and complete and self._run['run'] is None

    def _refuse(self, path: Path, differ: list[Difference]) -> NoReturn:
        first = next(difference for difference in differ if difference.severe)
        raise ValueError(f'{path} is of another run: {first}. Give each run a folder of its own (with folds, one a fold: '
                         f"checkpoint=f'{self.path}/{{fold}}'), or say resume='anyway' to go on with this one all the "
                         'same')

    def _tell(self, path: Path, state: dict[str, Any], differ: list[Difference], over: bool) -> None:
        """A warning for each difference, with what counts; nothing is changed by then."""
        if not self._then:
            warnings.warn(f'{path} is of an earlier release and does not say which data, model and settings it was made '
                          'with: nothing can be compared', stacklevel=6)
        for difference in differ:
            if not self._is_expected(difference, state['position']):
                warnings.warn(f'resuming from {path}: {difference}; {self._what_counts(difference, over)}',
                              stacklevel=6)
        names = {'optimizer': 'opt', 'loss': 'loss_func'}
        self._without = tuple(names[difference.part] for difference in differ
                              if difference.severe and difference.part in names)

    def _is_expected(self, difference: Difference, at: dict[str, Any]) -> bool:
        """More epochs for a finished fit whose settings do not depend on their number: nothing is other than it would
        have been."""
        scheduled = any(name.startswith('schedule of') for name in self._identity.parts['schedule'])
        return (difference.what == 'n_epoch' and at['done'] and not scheduled
                and self._asked['n_epoch'] > at['n_epoch'])

    def _what_counts(self, difference: Difference, over: bool) -> str:
        if over and not difference.severe:
            return 'that fit is done, and what it was done with counts'
        if difference.what == 'seed':
            return 'the random streams of the checkpoint go on, the new seed has no effect on this fit'
        if difference.what == 'batch size of training':
            return 'the new one counts from here on, the position is kept by the number of items'
        return {'data': 'the data of now count from here on', 'model': 'the weights of the checkpoint go into this model',
                'loss': 'the loss of now counts from here on',
                'optimizer': 'the optimizer of now counts and starts anew',
                'environment': 'the training goes on with what is here, its bits may be others'
                }.get(difference.part, 'the new one counts from here on')

    # ------------------------------------------------------------ a fit that was done

    def _pass_over_blindly(self) -> None:
        warnings.warn(f'fit number {self._phase + 1} of this learner was done before and is passed over, but the '
                      f'checkpoint of its end is not in {self.path} (earlier releases kept none): until the fit that '
                      'goes on, the learner is as untrained as it is now, and so is what is saved, exported or measured '
                      'before', stacklevel=5)
        self._run['fits'] += 1

    def _pass_over(self, path: Path, state: dict[str, Any]) -> None:
        """Leave the learner as it was at the end of this fit."""
        learn, at = self.learn, state['position']
        for cb in learn.cbs:
            if isinstance(cb, (TrainEvalCallback, Recorder)):  # the model to its device, the columns of the table
                cb.before_fit()
        learn.n_epoch = at['n_epoch']
        if _channels_last(state['model']):
            to_memory_format(learn, torch.channels_last)
        load_training_state(learn, state, path)
        for dl, kept in zip(learn.dls, state['loaders']):
            if kept is not None:
                dl.load_state_dict(kept)
        learn.epoch = max(at['epoch'] - 1, 0)
        learn.training = bool((state.get('run') or {}).get('training'))
        learn.model.train(learn.training)
        self._run.update(run=self._folder.run, fits=self._phase + 1, broken_off=False)
        _runs_here.add(self._folder.run)
        recorder = vars(learn).get('recorder')
        row = ''
        if recorder is not None and recorder.values:
            learn.final_record = recorder.values[-1].copy()
            cells = zip(recorder.metric_names, [len(recorder.values) - 1, *recorder.values[-1]])
            row = '; its last row: ' + ', '.join(f'{name} {value:.6g}' if isinstance(value, float) else
                                                 f'{name} {value}' for name, value in cells)
        said = f'was finished: {at["epoch"]} of {at["n_epoch"]} epochs' if at['done'] else (
            f'is in epoch {at["epoch"]} already')
        asked = self._asked['n_epoch']
        fewer = f'. {asked} epochs are asked for now' if asked < at['epoch'] else ''
        print(f'{path}: this fit {said}{fewer}; nothing to do{row}')

    # ------------------------------------------------------------ the fit

    def before_fit(self) -> None:
        learn = self.learn
        self._active = learn.fitting and not hasattr(learn, 'lr_finder')
        if not self._active:
            return
        if self._identity is None:  # a fit that is not our own
            self.begin(False, {'n_epoch': learn.n_epoch})
        for why in inexact_loaders(learn.dls):
            warnings.warn(f'a resume in the middle of an epoch will not be exact: {why}', stacklevel=2)
        if rank_distrib() == 0:
            self._move_in()
        self._number = self._folder.next_number()
        self._signal, self._waiting, self._written_at, self._epoch_generators = None, None, None, None
        self._validation_generators, self._resumed, self._done_epochs = None, self._found, learn.start_epoch
        self._pool = ThreadPoolExecutor(1, 'checkpoint') if self.background else None
        self._pending, self._copies = None, Copies()
        self._replaced_handlers = self._take_signals()
        self._last_s = time.monotonic()
        if self._resumed is not None:
            self._go_to_position()
        else:
            self._write(self._position('epoch', learn.start_epoch), must=True)

    def _move_in(self) -> None:
        """Make the folder this run's: files of earlier runs are moved aside, and none of them is ever deleted."""
        self._folder.sweep()
        run = self._run
        if run['run'] is None and not self._resuming:
            moved = self._folder.move_aside()
            if moved is not None:
                warnings.warn(f'{self.path} held the checkpoints of an earlier run, and this fit starts from scratch: '
                              f'they are in {moved} now (checkpoint={str(moved)!r}, resume=True goes on from them)',
                              stacklevel=3)
        elif run['broken_off'] and self._found is None:
            self._folder.leave_alone(self._phase)
        run.update(run=self._folder.run, broken_off=True)
        _runs_here.add(self._folder.run)
        items = f'items-{self._identity.tables_digest}.json'
        if self._identity.tables and not (self.path / items).is_file():
            self._folder.write(items, self._identity.tables_json())
        self._run_part = {'id': self._folder.run, 'items': self._identity.tables_digest,
                          'identity': json.dumps(self._identity.parts)}

    def _go_to_position(self) -> None:
        path, state = self._resumed
        learn, at = self.learn, self._position_now(state)
        self._hypers = [{name: hyper[name] for name in ('lr', 'wd') if name in hyper} for hyper in learn.opt.hypers]
        self._load()
        self._epoch_generators, self._written_at = state['epoch_generators'], self._key(state['position'])
        self._done_epochs = learn.start_epoch = at['epoch']
        learn.start_batch = at['batch'] if at['where'] == 'train' else 0
        if at['where'] == 'epoch':
            self._resumed = None  # all is done: an epoch that starts is as in any other fit
        if at['n_iter'] != len(learn.dls.train) and not self._then:
            warnings.warn(f'{path} was made with {at["n_iter"]} batches an epoch, now there are '
                          f'{len(learn.dls.train)}: the training will not go on as it would have', stacklevel=2)
        print(f'resumed from {path}: epoch {at["epoch"]}, batch {at["batch"]}')

    def _position_now(self, state: dict[str, Any]) -> dict[str, Any]:
        """Where the fit goes on: as many items into the epoch as it was, whatever the batches are now."""
        at = dict(state['position'])
        sizes = [parts.get('settings', {}).get('batch size of training') for parts in (self._then,
                                                                                       self._identity.parts)]
        n_iter = len(self.learn.dls.train)
        if all(isinstance(size, int) for size in sizes) and sizes[0] != sizes[1]:
            for name in ('batch', 'loader_batch'):
                at[name] = at[name] * sizes[0] // sizes[1]
        at['batch'], at['loader_batch'] = min(at['batch'], n_iter), min(at['loader_batch'], n_iter)
        return at

    def _load(self) -> None:
        """Put everything back; what the script says otherwise now than then counts from here on."""
        path, state = self._resumed
        learn, then, now = self.learn, self._then.get('schedule', {}), self._identity.parts['schedule']
        load_training_state(learn, state, path, without=self._without)
        if not self._then:
            return
        for name in ('lr', 'wd'):
            if then.get(name) != now.get(name):
                for hyper, said in zip(learn.opt.hypers, self._hypers):
                    hyper.update({k: v for k, v in said.items() if k == name})
        at = self._position_now(state)
        if (at['n_epoch'], at['n_iter']) != (learn.n_epoch, len(learn.dls.train)):
            within = at['batch'] / len(learn.dls.train) if at['where'] == 'train' else 0.
            learn.pct_train = (at['epoch'] + within) / max(learn.n_epoch, 1)

    def before_train(self) -> None:
        if not self._active:
            return
        if self._resumed is None:
            self._epoch_generators = generators(self.learn.dls)
            return
        # the hooks of before_epoch and before_train have run again: what they changed is put back once more
        state = self._resumed[1]
        learn, at = self.learn, self._position_now(state)
        if at['where'] == 'validate':
            learn.dl = ReplayedLoader(learn.dl, None, None, None)
            return
        self._load()
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
            self._load()
            self._resumed = None
        self._validation_generators = generators(self.learn.dls)

    def after_train(self) -> None:
        if self._active and len(self.learn.dls) < 2:
            self._done_epochs = self.learn.epoch + 1

    def after_validate(self) -> None:
        if self._active:
            self._done_epochs = self.learn.epoch + 1

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
        # a fit that was stopped early has done fewer epochs than it was asked for, and is done all the same
        at = self._position('epoch', self._done_epochs, done=True)
        if self._key(at) != self._written_at:
            self._write(at)
        self._run.update(fits=self._phase + 1, broken_off=False)

    def cleanup_fit(self) -> None:
        if not self.learn.fitting and self._identity is None:
            return
        active, self._active = self._active, False
        identity, self._identity = self._identity, None
        self._found = self._resumed = None
        try:
            for signum, handler in self._replaced_handlers.items():
                signal.signal(signum, handler)
            self._replaced_handlers = {}
            self._finish_writing()
            if self._pool is not None:
                self._pool.shutdown()
            self._pool, self._copies = None, Copies()
            if active:
                note_what_moved(identity)
        finally:
            self._folder.release()

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
        state['run'] = {**self._run_part, 'training': bool(self.learn.model.training)}
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
        fit = state['position']['phase']
        self._folder.own(file.name, fit)
        write_atomic(file, state)
        self._folder.retire(self.keep, fit)

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
