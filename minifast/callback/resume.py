"""Whether a folder's checkpoints are those of the fit that starts: found, compared, passed over or gone on from."""
from __future__ import annotations

import json
import os
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from minifast.callback.core import Callback, TrainEvalCallback
from minifast.data.stream import kind_of
from minifast.distributed import rank_distrib
from minifast.hardware import to_memory_format
from minifast.run.differences import Difference, differences
from minifast.run.folder import RunFolder, checkpoints_in, shares_of
from minifast.run.identity import RunIdentity, read_tables, run_identity
from minifast.tensorfile import DamagedFileError, UnsafeFileError, read_tensors
from minifast.torch_core import length_of
from minifast.training_state import joined, load_training_state, of_rank

__all__ = ['newest_checkpoint']


def newest_checkpoint(folder: str | Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint in `folder` that is whole, and its state; None where there is no checkpoint at all.

    A damaged one is named in a warning and passed over.

    Raises:
        DamagedFileError: there are checkpoints and none is whole.
    """
    return _newest(folder, ())


def _newest(folder: str | Path, but: Collection[Path]) -> tuple[Path, dict[str, Any]] | None:
    paths = checkpoints_in(folder)
    for path in paths:
        try:
            if path not in but:
                return path, read_tensors(path)
        except (DamagedFileError, UnsafeFileError, OSError) as error:
            warnings.warn(f'passed over: {error}', stacklevel=3)
    if paths:
        raise DamagedFileError(f'none of the {len(paths)} checkpoints in {folder} is whole: to start from scratch, '
                               'leave out resume=True or name another folder')
    return None


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


class _ResumingCallback(Callback):
    """The half of `CheckpointCallback` that reads: which run a folder is of, and where it goes on.

    Args:
        path: the folder.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self._folder = RunFolder(path)
        self.path = self._folder.path
        self._identity: RunIdentity | None = None
        self._asked: dict[str, Any] = {}
        self._then: dict[str, Any] = {}
        self._without: tuple[str, ...] = ()
        self._resuming, self._of_fit = False, ()
        self._found: tuple[Path, dict[str, Any]] | None = None
        self._broken: set[Path] = set()  # checkpoints whose tensors, in a folder of shares, are not whole
        self._resumed: tuple[Path, dict[str, Any]] | None = None

    # ------------------------------------------------------------ asked by fit

    @property
    def _run(self) -> dict[str, Any]:
        """What the learner has done in this folder: its run, how many fits it has completed, whether one broke off."""
        return self.learn.checkpoint_runs.setdefault(os.path.realpath(self.path),
                                                     {'run': None, 'fits': 0, 'broken_off': False})

    @property
    def _phase(self) -> int:
        return self._run['fits']

    def _note_run(self, **changes: Any) -> None:
        self._run.update(run=self._folder.run, **changes)
        _runs_here.add(self._folder.run)

    def begin(self, resume: bool | str, asked: dict[str, Any], of_fit: Sequence[Callback] = (),
              first: _ResumingCallback | None = None) -> bool:
        """Take the folder for the fit that starts; returns whether this fit was already done by then.

        Args:
            resume: go on from what is there.
            asked: what the fit was asked for.
            of_fit: the callbacks that come and go with it.
            first: another callback, which decides where the fit goes on; this one only writes.
        """
        self._found, self._then, self._without = None, {}, ()
        self._asked, self._resuming, self._of_fit = asked, bool(resume), of_fit
        if rank_distrib() == 0:
            self._folder.take()
        self._identity = run_identity(self.learn, asked)
        if first is not None:
            self._folder.adopt(first._folder.run)
        elif self._run['run'] is not None:
            self._folder.adopt(self._run['run'])
        if not resume or first is not None:
            return False
        ranks = self.learn.ranks
        while True:
            what, found, then, without = self._look_for(resume) if ranks is None else ranks.from_first(
                lambda: self._look_for(resume), True)
            try:
                state = None if found is None else self._whole(*found)
            except (DamagedFileError, UnsafeFileError, FileNotFoundError) as error:  # of shares: all ranks meet it
                warnings.warn(f'passed over: {error}', stacklevel=4)
                self._broken.add(found[0])
                continue
            self._then, self._without = then, without
            return self._go_by(what, found and (found[0], state))

    def _look_for(self, resume: bool | str) -> tuple[str, tuple[Path, dict] | None, dict, tuple]:
        """What is to be done with the fit that starts; of several processes the first one looks for all of them.

        Returns:
            'begin', 'begin anew', 'pass over' or 'go on'; path and state of the checkpoint, if any; what it says of
            its run; what is not taken from it.
        """
        nothing = None, {}, ()
        newest = _newest(self.path, self._broken)
        if newest is None:
            print(f'no checkpoint in {self.path}: training starts from scratch')
            return 'begin', *nothing
        if _position_of(*newest)['phase'] < self._phase:
            return 'begin', *nothing
        found = self._at_this_fit(*newest)
        if found is None:
            self._tell_blind()
            return 'pass over', *nothing
        differ = self._differences(*found)
        if any(difference.severe for difference in differ) and resume != 'anyway':
            other = self._run_moved_aside()
            if other is None and self._may_begin_anew(newest[1], differ):
                return 'begin anew', *nothing
            if other is None:
                self._refuse(found[0], differ)
            found, differ = other, self._differences(*other)
        path, state = found
        over = self._is_over(state['position'], passed=_position_of(*newest)['phase'] > self._phase)
        without = self._tell(path, state, differ, over)
        return 'pass over' if over else 'go on', found, self._then, without

    def _whole(self, path: Path, state: dict[str, Any]) -> dict[str, Any]:
        """The state for this process, with the tensors that lie in a folder of shares.

        Raises:
            DamagedFileError, UnsafeFileError, FileNotFoundError: these are not what was written, on all processes.
        """
        ranks = self.learn.ranks
        whole = of_rank(state, *((0, 1) if ranks is None else (ranks.rank, ranks.n_ranks)), path)
        if not whole.pop('in_shares', False):
            return whole
        from minifast.shards import load_cut  # torch.distributed.checkpoint takes long to import
        try:
            return joined(whole, load_cut(shares_of(path), self.learn.own_model))
        except (KeyError, TypeError) as error:
            raise DamagedFileError(f'{path} and {shares_of(path)} are not of one checkpoint: {error!r}') from error

    def _go_by(self, what: str, found: tuple[Path, dict] | None) -> bool:
        """Do what `_look_for` says; returns whether the fit was done before."""
        over = what == 'pass over'
        self._resuming = what != 'begin anew'
        if found is None:
            self._run['fits'] += over
            return over
        path, state = found
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
            if candidate in self._broken:
                continue
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
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise ValueError(f'{path} does not say which run it is of, as checkpoints do: {error!r}') from error
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
        raise ValueError(f'{path} is of another run: {first}. Give each run a folder of its own (with folds, one '
                         f"a fold: checkpoint=f'{self.path}/{{fold}}'), or say resume='anyway' to go on with this one "
                         'all the same')

    def _tell(self, path: Path, state: dict[str, Any], differ: list[Difference], over: bool) -> tuple[str, ...]:
        """A warning for each difference, with what counts; nothing is changed by then.

        Returns:
            What is not taken from the checkpoint: 'opt', 'loss_func'.
        """
        if not self._then:
            warnings.warn(f'{path} is of an earlier release and does not say which data, model and settings it was '
                          'made with: nothing can be compared', stacklevel=6)
        for difference in differ:
            if not self._is_expected(difference, state['position']):
                warnings.warn(f'resuming from {path}: {difference}; {self._what_counts(difference, over)}',
                              stacklevel=6)
        names = {'optimizer': 'opt', 'loss': 'loss_func'}
        return tuple(names[difference.part] for difference in differ
                     if difference.severe and difference.part in names)

    def _is_expected(self, difference: Difference, at: dict[str, Any]) -> bool:
        """More epochs for a finished fit whose settings do not depend on their number: its bits are the same."""
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
        if difference.what == 'number of processes':
            streams = kind_of(getattr(self.learn.dls.train, 'dataset', None)) is not None
            order = 'a stream is shared out otherwise' if streams else 'the order of the data is the same'
            return (f'{order}; numbers are summed in another order, and what a process draws for itself, as for '
                    'dropout, is drawn anew')
        return {'data': 'the data of now count from here on',
                'model': 'the weights of the checkpoint go into this model',
                'loss': 'the loss of now counts from here on',
                'optimizer': 'the optimizer of now counts and starts anew',
                'environment': 'the training goes on with what is here, its bits may be others'
                }.get(difference.part, 'the new one counts from here on')

    # ------------------------------------------------------------ a fit that was done

    def _tell_blind(self) -> None:
        warnings.warn(f'fit number {self._phase + 1} of this learner was done before and is passed over, but the '
                      f'checkpoint of its end is not in {self.path} (earlier releases kept none): until the fit that '
                      'goes on, the learner is as untrained as it is now, and so is what is saved, exported or '
                      'measured before', stacklevel=5)

    def _pass_over(self, path: Path, state: dict[str, Any]) -> None:
        """Leave the learner as it was at the end of this fit."""
        learn, at = self.learn, state['position']
        recorder = vars(learn).get('recorder')
        learn.fitting = True  # to the recorder this is a fit, whose rows take the place of the one before
        try:
            for cb in learn.cbs:
                if isinstance(cb, TrainEvalCallback) or cb is recorder:  # the model to its device, the table's columns
                    cb.before_fit()
        finally:
            learn.fitting = False
        learn.n_epoch = at['n_epoch']
        if _channels_last(state['model']):
            to_memory_format(learn, torch.channels_last)
        load_training_state(learn, state, path, leaving=self._of_fit)
        for dl, kept in zip(learn.dls, state['loaders']):
            if kept is not None:
                dl.load_state_dict(kept)
        learn.epoch = max(at['epoch'] - 1, 0)
        learn.training = bool((state.get('run') or {}).get('training'))
        learn.model.train(learn.training)
        self._note_run(fits=self._phase + 1, broken_off=False)
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
        if rank_distrib() == 0:
            print(f'resumed from {path}: this fit {said}{fewer}; nothing to do{row}')

    # ------------------------------------------------------------ going on

    def _position_now(self, state: dict[str, Any]) -> dict[str, Any]:
        """Where the fit goes on: as many items into the epoch as it was, whatever the batches are now."""
        at = dict(state['position'])
        sizes = [parts.get('settings', {}).get('batch size of training') for parts in (self._then,
                                                                                       self._identity.parts)]
        n_iter = length_of(self.learn.dls.train)
        if all(isinstance(size, int) for size in sizes) and sizes[0] != sizes[1]:
            for name in ('batch', 'loader_batch'):
                at[name] = at[name] * sizes[0] // sizes[1]
        if n_iter is not None:  # else a stream, which does not say
            at['batch'], at['loader_batch'] = min(at['batch'], n_iter), min(at['loader_batch'], n_iter)
        return at

    def _load(self, again: bool = False) -> None:
        """Put everything back; what the script says otherwise now than then counts from here on."""
        path, state = self._resumed
        learn, then, now = self.learn, self._then.get('schedule', {}), self._identity.parts['schedule']
        load_training_state(learn, state, path, without=self._without, again=again)
        if not self._then:
            return
        for name in ('lr', 'wd'):
            if then.get(name) != now.get(name):
                for hyper, said in zip(learn.opt.hypers, self._hypers):
                    hyper.update({k: v for k, v in said.items() if k == name})
        at = self._position_now(state)
        n_iter = length_of(learn.dls.train)
        if (at['n_epoch'], at['n_iter']) != (learn.n_epoch, n_iter):
            within = at['batch'] / n_iter if at['where'] == 'train' and n_iter else 0.
            learn.pct_train = (at['epoch'] + within) / max(learn.n_epoch, 1)
