"""Checkpoints of a training that can be killed at any moment and goes on to the same bits."""
from __future__ import annotations

import json
import signal
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

from torch import Tensor

from minifast.arguments import tells_near_match
from minifast.callback.core import Callback
from minifast.callback.resume import _ResumingCallback, newest_checkpoint
from minifast.distributed import CHECKPOINT, LEAVING, barrier, rank_distrib
from minifast.run.folder import FolderInUseError, RunFolder, checkpoints_in, shares_of
from minifast.run.identity import note_what_moved
from minifast.seeds import get_random_states
from minifast.tensorfile import Copies, copied, write_atomic
from minifast.torch_core import length_of
from minifast.training_state import (
    ReplayedLoader,
    baselines_of,
    begin_loader,
    generators,
    inexact_loaders,
    own_loader,
    put_back_generators,
    set_generators,
    start_hidden,
    storable_states,
    together,
    training_state,
)

__all__ = ['CheckpointCallback', 'FolderInUseError', 'checkpoints_in', 'fit_was_done', 'newest_checkpoint']


def fit_was_done(learn: Any, resume: bool | str = True, cbs: Sequence[Callback] = (), **asked: Any) -> bool:
    """For `fit`: take the folder of the checkpoints and, with `resume`, find out where to go on.

    Args:
        learn: the learner, with the fit's callbacks and its optimizer.
        resume: whether to go on from what is in the folder; 'anyway': also from another data set, model, loss or
            optimizer.
        cbs: the callbacks that come and go with this fit.
        asked: what the fit was asked for: `n_epoch`, `lr`, `wd`, `start_epoch`.

    Returns:
        Whether this very fit has been completed before; the learner is then as it was at its end.

    Raises:
        ValueError: no callback says where the checkpoints are, or those there are another run's.
        FolderInUseError: another training is using the folder.
        OSError: the folder cannot be written to.
    """
    if resume not in (True, False, 'anyway') and resume is not None:
        raise ValueError(f"resume={resume!r}: give True, False, or 'anyway' to go on with what another data set, "
                         'model, loss or optimizer has left')
    writing = [cb for cb in learn.cbs if isinstance(cb, CheckpointCallback)]
    if learn.ranks is not None:
        learn.ranks.check_same({'number of CheckpointCallbacks, of which the first process writes,': len(writing)})
    if resume and not writing:
        raise ValueError('resume=True needs to know where the checkpoints are: give checkpoint=FOLDER to the same '
                         'call, or a CheckpointCallback among cbs')
    done = False
    for cb in [] if learn.searching else writing:
        done = cb.begin(resume, asked, cbs, first=writing[0] if cb is not writing[0] else None) or done
    return done


# ---------------------------------------------------------------- how: into the folder, meanwhile

class _Writer:
    """Writes the checkpoints of one fit into a run's folder, in a thread of its own where that is wanted.

    Args:
        folder: the run's folder.
        keep: how many of the newest to keep.
        background: write copies in a thread, so that training goes on meanwhile.
    """

    def __init__(self, folder: RunFolder, keep: int, background: bool) -> None:
        self.folder, self.keep, self._number = folder, keep, folder.next_number()
        self._pool = ThreadPoolExecutor(1, 'checkpoint') if background else None
        self._pending: Future | None = None
        self._copies = Copies()

    def next_file(self) -> Path:
        """The name for the next checkpoint."""
        self._number += 1
        return self.folder.path / f'checkpoint-{self._number:06d}.pth'

    def write(self, file: Path, state: dict[str, Any], must: bool = False) -> None:
        """Write a state; at once if `must`, which also makes a failing storage an error. What came before is done."""
        if self._pool is not None and not must:
            # a copy, because the next step changes the tensors; on the host, where the thread writes from. The one
            # before is written by now, so its memory can be used again
            self._pending = self._pool.submit(self._write_file, file, self._copies(state))
            return
        self._pending = Future()
        try:
            self._pending.set_result(self._write_file(file, state))
        except OSError as error:
            if must:
                raise
            self._pending.set_exception(error)

    def _write_file(self, file: Path, state: dict[str, Any]) -> None:
        fit = state['position']['phase']
        self.folder.own(file.name, fit)
        write_atomic(file, state)
        self.folder.retire(self.keep, fit)

    def finish(self) -> bool:
        """Wait for the thread; a storage that failed is told, and the training goes on.

        Returns:
            Whether what was written last is there.
        """
        pending, self._pending = self._pending, None
        try:
            if pending is not None:
                pending.result()
        except OSError as error:
            warnings.warn(f'no checkpoint: {error}. The training goes on', stacklevel=3)
            return False
        return True

    def close(self) -> None:
        """Wait for what is being written; the thread ends."""
        self.finish()
        if self._pool is not None:
            self._pool.shutdown()


# ---------------------------------------------------------------- when: signals, beside steps, epochs and minutes

class _Signals:
    """Ctrl-C and SIGTERM while a fit runs: kept for the next batch edge, then what the handlers before would have done.

    Args:
        came: called when the first one comes.

    Attributes:
        pending: the signal that waits for its effect.
    """

    def __init__(self, came: Callable[[], None]) -> None:
        self.pending: int | None = None
        self._came, self._leaving, self._replaced = came, False, {}

    def take(self) -> None:
        """Put our handler in the place of others; not where signals are ignored (nohup), nor where the handler is one
        that Python cannot put back."""
        self.pending, self._leaving, self._replaced = None, False, {}
        if threading.current_thread() is threading.main_thread():
            found = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
            self._replaced = {signum: signal.signal(signum, self._on_signal) for signum, handler in found.items()
                              if handler is not None and handler != signal.SIG_IGN}

    def give_back(self) -> bool:
        """Put the handlers back; returns whether a signal came that no batch edge has answered."""
        for signum, handler in self._replaced.items():
            if signal.getsignal(signum) == self._on_signal:  # else somebody has set another one meanwhile
                signal.signal(signum, handler)
        return self.pending is not None and not self._leaving

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self.pending is not None:
            self.leave(signum)
            return
        self.pending = signum
        self._came()

    def leave(self, signum: int | None = None) -> None:
        """Do what the signal would have done: call the user's handler, which decides what follows, or end."""
        signum = self.pending if signum is None else signum
        handler: Callable | Any = self._replaced.get(signum)
        self._leaving = True
        if not callable(handler):
            raise SystemExit(128 + signum)
        handler(signum, None)  # Python's own for Ctrl-C raises
        self.pending, self._leaving = None, False


# ---------------------------------------------------------------- the callback

class CheckpointCallback(_ResumingCallback):
    """Writes the whole state of the training from time to time; `learn.fit(..., resume=True)` goes on from the newest.

    The resumed training ends in the same bits as one that was never stopped. Ctrl-C and SIGTERM are answered at the
    next batch edge: a checkpoint is written, then a script ends (exit status 143 for SIGTERM) and a notebook keeps a
    usable learner; a second signal stops at once, and one that comes behind the last batch has its effect when the fit
    is over. A handler of the script's own is called, and decides whether the training ends; signals that the process
    ignores (nohup) stay ignored. A storage that fails in the middle of a training is told in a
    warning, and the training goes on.

    Of several processes the first one looks into the folder and writes, one file for all; attach the callback on each.
    As many processes go on to the same bits. Another number goes on at the same step, with the same items in each
    batch and the same optimizer; numbers are then summed in another order, and each process draws on from the first
    one's random stream. A signal to one of them is answered by all behind the training batch that runs, or, in a
    validation, behind it. Of a model in shares (strategy='fsdp') each process writes its own beside that file, into a
    folder that all of them reach, by torch.distributed.checkpoint; while gradients are added up and not sent, a
    checkpoint waits for the step. Any number of processes goes on with any such checkpoint, by any strategy.

    A folder belongs to one run at a time. The fits of one learner are one run (`fine_tune` is two fits): a resumed
    script passes over those that were done, and the learner is then as it was at their end. What is resumed is
    compared first: another data set, model, loss or optimizer is an error that names the first difference, another
    setting is told in a warning. A run that does not resume moves the files of earlier runs into a subfolder. Nothing
    that another run has written is deleted.

    Args:
        path: the folder; made if it is not there.
        every: a number of steps, or 'epoch'; None with `minutes`.
        minutes: a checkpoint at the first batch edge after so many minutes.
        keep: how many of the newest to keep; more than one helps when a disk spoils the newest. The last one of
            each fit that was completed is kept beside them.
        background: copy the state and write it in a thread of its own, so that training goes on meanwhile.

    Raises:
        ValueError: `every` or `keep` make no sense.

    Example:
        >>> learn.fit_one_cycle(5, cbs=CheckpointCallback('checkpoints', every=500))
        >>> learn.fit_one_cycle(5, cbs=CheckpointCallback('checkpoints', every=500), resume=True)  # after a crash
    """

    not_carried = ('*',)
    identifies_run = False
    order, remove_on_fetch = 1000, True  # behind all others, whose work of the event is then in the state

    @tells_near_match
    def __init__(self, path: str | Path, every: int | str | None = 'epoch', minutes: float | None = None,
                 keep: int = 3, background: bool = True) -> None:
        if not (every is None or every == 'epoch' or (isinstance(every, int) and every > 0)):
            raise ValueError(f"every={every!r}: give a number of steps, 'epoch', or None together with minutes=")
        if keep < 1:
            raise ValueError(f'keep={keep!r}: at least one checkpoint must be kept')
        super().__init__(path)
        self.every, self.minutes, self.keep, self.background, self._active = every, minutes, keep, background, False
        self._hidden_loaders, self._due, self._waiting = False, False, None
        self._signals, self._writer, self._pending = _Signals(self._signal_came), None, None

    # ------------------------------------------------------------ the fit

    def before_fit(self) -> None:
        learn = self.learn
        self._active = learn.fitting and not learn.searching
        if not self._active:
            return
        if self._identity is None:  # a fit that is not our own
            self.begin(False, {'n_epoch': learn.n_epoch})
        inexact = [f'a resume in the middle of an epoch will not be exact: {why}' for why in inexact_loaders(learn.dls)]
        inexact += [f'a resume will not be exact: {why}' for why in start_hidden(learn)]
        if rank_distrib() == 0:
            for why in inexact:
                warnings.warn(why, stacklevel=2)
            self._move_in()
            self._writer = _Writer(self._folder, self.keep, self.background)
        if learn.ranks is not None:
            learn.ranks.wishes.append(self._wishes)
        self._waiting, self._written_at, self._epoch_generators = None, None, None
        self._proven = self._due = False
        self._before_validation, self._resumed, self._done_epochs = {}, self._found, learn.start_epoch
        self._signals.take()
        self._last_s = time.monotonic()
        if self._resumed is not None:
            self._go_to_position()
        else:
            for cb in learn.cbs:  # so that a training killed early goes on in the run that it has begun
                if hasattr(type(cb), 'start_once'):
                    cb.start_once()
            self._write(self._position('epoch', learn.start_epoch), must=True)
        self._answer_signal()

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
        self._note_run(broken_off=True)
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
        if at['n_iter'] != length_of(learn.dls.train) and not self._then:
            warnings.warn(f'{path} was made with {at["n_iter"]} batches an epoch, now there are '
                          f'{length_of(learn.dls.train)}: the training will not go on as it would have', stacklevel=2)
        if rank_distrib() == 0:
            print(f'resumed from {path}: epoch {at["epoch"]}, batch {at["batch"]}')

    def before_train(self) -> None:
        if not self._active:
            return
        if self._resumed is None:
            self._epoch_generators = self._generators()
            self._find_hidden_loaders()
            return
        # the hooks of before_epoch and before_train have run again: what they changed is put back once more
        state = self._resumed[1]
        learn, at = self.learn, self._position_now(state)
        if at['where'] == 'validate':
            learn.dl = ReplayedLoader(learn.dl, None, None, None)
            return
        self._load(again=True)
        self._find_hidden_loaders()
        dl, keeps = learn.dl, next(iter(state['loaders']), None)

        def now() -> None:
            put_back_generators(learn, state)
        if own_loader(dl):
            dl.begin(learn.fit_seed, at['epoch'], at['loader_batch'])
            if state.get('stream'):
                dl.load_state_dict({'seed': learn.fit_seed, 'epoch': at['epoch'], 'batch': at['loader_batch'],
                                    'stream': state['stream']})
            if hasattr(dl, 'once_ordered'):
                dl.once_ordered(now)
            begin_loader(dl, 0, self._epoch_generators, baselines_of(learn))
        else:
            def before() -> None:
                set_generators({**self._epoch_generators, 'loaders': []})
                begin_loader(dl, 0, self._epoch_generators, baselines_of(learn))
            learn.dl = ReplayedLoader(dl, at['batch'], before, now, keeps)
        self._resumed = None

    def before_validate(self) -> None:
        if not self._active:
            return
        if self._resumed is not None:
            self._load(again=True)
            self._resumed = None
        # a validation that is broken off is made again from its beginning; weights and optimizer do not change in it
        state = training_state(self.learn, {'where': 'validate'}, self._epoch_generators)
        self._before_validation = copied({part: value for part, value in state.items()
                                          if part not in ('position', 'model', 'grads', 'opt')})
        if self.learn.ranks is not None and self.learn.ranks.wished:
            self._write(self._position('validate', self.learn.epoch, length_of(self.learn.dls.train) or 0))
            self._answer_signal()

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
        if training and not self._proven:
            # the first step makes the optimizer's state: what no file can hold is told now and not after an epoch
            self._proven = bool(training_state(self.learn, self._position('train', self.learn.epoch)))
        self._due = self._due or training and isinstance(self.every, int) and self.learn.train_iter % self.every == 0
        ranks = self.learn.ranks
        alone = ranks is None
        if not alone and not training:  # in which some ranks have fewer batches than others
            return
        if (self._due or self._is_wished()) and (alone or ranks.is_between_steps):
            self._due = False
            self._write_here()
            self._answer_signal()
        if alone and getattr(self.learn.dl, 'num_workers', 0) and self.learn.iter + 1 < self.learn.n_iter:
            self._waiting = self._generators() if self._hidden_loaders else get_random_states()

    def _find_hidden_loaders(self) -> None:
        """Whether loaders hold generators, whose states between two batches then belong to those of the edge."""
        # those of an earlier release are lists
        found = [own for own in self._epoch_generators['loaders'] if isinstance(own, dict)]
        self._hidden_loaders = any(part.get('generators') for own in found for part in own.get('order', ()))

    def _generators(self) -> dict[str, Any]:
        return generators(self.learn.dls, baselines=baselines_of(self.learn))

    def _late(self, training: bool) -> bool:
        return training and self.minutes is not None and time.monotonic() - self._last_s > 60 * self.minutes

    def _wishes(self) -> int:
        if self._active and self._signals.pending is not None:
            return LEAVING
        return CHECKPOINT if self._active and self._late(self.learn.training) else 0

    def _is_wished(self) -> int:
        """Whether the clock or a signal wants a checkpoint here; of several processes, of any, as all have heard."""
        return self._wishes() if self.learn.ranks is None else self.learn.ranks.wished

    def _write_here(self, random_states: dict[str, Any] | None = None) -> None:
        learn = self.learn
        if learn.training:
            self._write(self._position('train', learn.epoch, learn.iter + 1), random_states=random_states)
        else:
            self._write(self._position('validate', learn.epoch, length_of(learn.dls.train) or 0))

    def after_epoch(self) -> None:
        if not self._active:
            return
        if self.every == 'epoch' or self._is_wished():
            self._write(self._position('epoch', self.epoch + 1))
        self._answer_signal()

    def after_fit(self) -> None:
        if not self._active:
            return
        # a fit that was stopped early has done fewer epochs than it was asked for, and is done all the same
        at = self._position('epoch', self._done_epochs, done=True)
        self._write(at)
        self._finish_shares()
        self._run.update(fits=self._phase + 1, broken_off=False)

    def cleanup_fit(self) -> None:
        active, self._active, self._waiting, self._pending = self._active, False, None, None
        ranks = self.learn.ranks
        if ranks is not None and self._wishes in ranks.wishes:
            ranks.wishes.remove(self._wishes)
        identity, self._identity = self._identity, None
        self._found = self._resumed = None
        try:
            writer, self._writer = self._writer, None
            if writer is not None:
                writer.close()
            if active and identity is not None:
                note_what_moved(identity)
        finally:
            self._folder.release()
            if self._signals.give_back():  # the last thing: a signal that waited has its effect here
                print(f'stopped by a signal, behind the last batch; the checkpoints are in {self.path}')
                self._signals.leave()

    # ------------------------------------------------------------ writing

    def _position(self, where: str, epoch: int, batch: int = 0, done: bool = False) -> dict[str, Any]:
        learn = self.learn
        # the loader counts batches that were left out altogether because no item of them could be read
        within = where == 'train' and own_loader(learn.dl)
        return {'where': where, 'epoch': epoch, 'batch': batch, 'done': done, 'phase': self._phase,
                'loader_batch': learn.dl.state_dict()['batch'] if within else batch,
                'n_epoch': learn.n_epoch, 'n_iter': length_of(learn.dls.train)}

    @staticmethod
    def _key(position: dict[str, Any]) -> tuple:
        return tuple(position[k] for k in ('phase', 'where', 'epoch', 'batch', 'done'))

    def _write(self, position: dict[str, Any], must: bool = False, random_states: dict | None = None) -> None:
        """Write the state; in the background unless `must`, which also makes a failing storage an error."""
        self._finish_writing()
        key, ranks = self._key(position), self.learn.ranks

        def next_file() -> Path | None:
            return None if key == self._written_at else self._writer.next_file()
        # asked of the first, whose storage may have failed
        file = next_file() if ranks is None else ranks.from_first(next_file)
        if file is None:
            return
        shares: dict[str, Tensor] = {}
        self._written_at, self._last_s = key, time.monotonic()
        state = training_state(self.learn, position, self._epoch_generators, shares)
        if position['where'] == 'validate':
            state.update(self._before_validation)
        elif random_states is not None:
            state['generators'] = (random_states if 'global' in random_states else
                                   {**self._generators(), 'global': storable_states(random_states)})
        state = state if ranks is None else together(self.learn, state)
        if state is not None:
            state['run'] = {**self._run_part, 'training': bool(self.learn.model.training)}
        if not shares:
            self._complete(file, state, must)
            return
        from minifast.shards import save_sharded  # torch.distributed.checkpoint takes long to import
        saving = save_sharded(shares_of(file), shares, background=True)
        self._pending = saving, file, copied(state), must  # written when the parts are, steps later
        if must or not self.background:
            self._finish_shares()

    def _complete(self, file: Path, state: dict[str, Any] | None, must: bool) -> None:
        if state is not None:  # the first process
            self._writer.write(file, state, must)

    def _finish_shares(self) -> None:
        """Behind the parts of all processes the file that makes a checkpoint of them."""
        if self._pending is None:
            return
        (saving, file, state, must), self._pending = self._pending, None
        try:
            saving.result()
        except OSError as error:
            if must:
                raise
            self._written_at = None
            if rank_distrib() == 0:
                warnings.warn(f'no checkpoint: {error}. The training goes on', stacklevel=3)
            return
        self._complete(file, None if state is None else {**state, 'in_shares': True}, must)

    def _finish_writing(self) -> None:
        self._finish_shares()
        if self._writer is not None and not self._writer.finish():
            self._written_at = None

    # ------------------------------------------------------------ signals

    def _signal_came(self) -> None:
        if self._waiting is not None:
            # between two batches, waiting for worker processes, which Ctrl-C may have ended: this is the batch edge
            self._write_here(self._waiting)
            self._answer_signal()

    def _answer_signal(self) -> None:
        ranks = self.learn.ranks
        if self._is_wished() != LEAVING:
            return
        self._finish_writing()
        if ranks is not None:
            barrier()  # what the first one writes is written
        if self._signals.pending is not None:
            print(f'stopped by a signal; the checkpoint is in {self.path}')
            self._signals.leave()
