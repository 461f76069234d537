"""The loop: fit, epoch, batch, forward, loss, backward, step, with a hook around each."""
from __future__ import annotations

import math
import warnings
from collections import UserDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from fastcore.foundation import L
from torch import Tensor, nn

from minifast.arguments import lookup, near_match, tells_near_match
from minifast.callback.checkpoint import CheckpointCallback, fit_was_done
from minifast.callback.core import (
    Callback,
    CancelBackwardException,
    CancelBatchException,
    CancelEpochException,
    CancelException,
    CancelFitException,
    CancelStepException,
    CancelTrainException,
    CancelValidException,
    compile_hooks,
    events,
    hooks_of,
    inner_events,
    kept_loop_variables,
)
from minifast.callback.recorder import Recorder
from minifast.callback.runlog import RunLogger
from minifast.data.load import why_empty
from minifast.distributed import num_distrib
from minifast.inference import inputs_and_targets
from minifast.losses import wrong_targets
from minifast.markers import unmarked
from minifast.metrics import mk_metrics
from minifast.optimizer.groups import Coverage, as_optimizer, each_once
from minifast.torch_core import detuplify, length_of, norm_bias_params, plain, to_device
from minifast.training_state import ReplayedLoader

if TYPE_CHECKING:
    from minifast.callback.progress import ProgressCallback
    from minifast.data.core import DataLoaders
    from minifast.optimizer.groups import _BaseOptimizer

__all__ = ['Loop']

parts = {part: (f'before_{part}', f'after_cancel_{part}', f'after_{part}')
         for part in ('fit', 'epoch', 'train', 'validate', 'batch', 'backward', 'step')}
"""The events around each part of the loop."""

loop_starts = frozenset(('before_fit', 'before_epoch', 'before_train', 'before_batch', 'before_validate'))
loop_ends = frozenset(('after_batch', 'after_train', 'after_validate', 'after_epoch', 'after_fit'))


class Loop:
    """The training loop and its protected methods, which plugins may override; `Learner` adds what users call.

    `fit -> _do_fit -> _do_epoch -> _do_epoch_train | _do_epoch_validate -> all_batches -> one_batch -> _do_one_batch
    -> _do_grad_opt`, each inside `_with_events`. The hooks run from a table that is compiled when a fit or a
    validation starts and when a callback comes or goes.

    Args:
        dls: the loaders; the first one is trained on, the second validated on.
        model: called with the inputs of a batch.
        loss_func: called with the prediction and the targets.
        opt_func, lr, splitter: make the optimizer; see `Learner`.
        metrics: what is measured beside the loss.
        wd: weight decay; None: the optimizer's.
        wd_bn_bias: decay norm layers and biases too.
        train_bn: go on training BatchNorm in frozen groups.
    """

    model: nn.Module
    opt: _BaseOptimizer  # None before the first fit
    cbs: L
    recorder: Recorder
    progress: ProgressCallback

    def __init__(self, dls: Any, model: nn.Module, loss_func: Callable, opt_func: Any, lr: float | slice,
                 splitter: Callable, metrics: Any, wd: float | None, wd_bn_bias: bool, train_bn: bool) -> None:
        self.cbs, self._depth, self._device, self._own = L(), 0, None, None
        self.ranks, self.wrapped = None, None
        self._compile()
        self.training, self.create_mbar, self.logger, self.opt = False, True, print, None
        self.fit_seed, self.start_epoch, self.start_batch = None, 0, 0
        self.fitting, self.checkpoint_runs, self.logged_runs, self.fine_tune_phase = False, {}, {}, None
        self._coverage = Coverage()
        self._end_cleanup()
        self.dls, self.model, self.loss_func, self.metrics = dls, model, loss_func, metrics
        self.opt_func, self.lr, self.splitter = opt_func, lr, splitter
        self.wd, self.wd_bn_bias, self.train_bn = wd, wd_bn_bias, train_bn

    # ------------------------------------------------------------ what the learner is made of

    if not TYPE_CHECKING:  # a type checker flags what is not there, `learn.fit_one_cycel`
        def __getattr__(self, name: str) -> Any:
            return lookup(self, name, 'model')

    @property
    def dls(self) -> DataLoaders:
        """The loaders; may be set between fits."""
        return self._dls

    @dls.setter
    def dls(self, dls: Any) -> None:
        if self.ranks is not None:
            self.ranks.share_out(dls)
        self._dls, self._counted = dls, {}
        self._n_inp = getattr(dls, 'n_inp', None)

    @property
    def metrics(self) -> L:
        """The metrics, each wrapped as a `Metric`."""
        return self._metrics

    @metrics.setter
    def metrics(self, metrics: Any) -> None:
        self._metrics = mk_metrics(metrics)

    @property
    def own_loss(self) -> Any:
        """The loss function that the user gave. While a fit runs, callbacks may have put another in its place."""
        return self._own['loss_func'] if self._own else self.loss_func

    @property
    def own_model(self) -> nn.Module:
        """The model that the user gave, which callbacks may have wrapped for a fit; the one they made in its stead."""
        own = self._own['model'] if self._own else self.model
        return own if own is self.model or any(m is own for m in self.model.modules()) else self.model

    @property
    def x(self) -> Any:
        """The input of the batch, a tuple where there are several."""
        return detuplify(self.xb)

    @property
    def y(self) -> Any:
        """The target of the batch, a tuple where there are several."""
        return detuplify(self.yb)

    @property
    def smooth_loss(self) -> Tensor | None:
        """The recorder's smoothed training loss."""
        return self.recorder.smooth_loss.value

    @property
    def searching(self) -> bool:
        """Whether `lr_find` runs: its steps are no training that is averaged, tracked or saved."""
        return 'lr_finder' in vars(self)

    @property
    def predicting(self) -> bool:
        """Whether the pass that runs makes predictions, as `get_preds` and `tta` do."""
        return 'gather_preds' in vars(self)

    def _name_last(self, name: str) -> None:
        for cb in self.cbs:
            if cb.name == name:
                setattr(self, name, cb)

    def _is_attached(self, cb: Any) -> bool:
        return any(other is cb for other in self.cbs)

    def _grab_cbs(self, cb_cls: type) -> L:
        return L(cb for cb in self.cbs if isinstance(cb, cb_cls))

    def add_cb(self, cb: Callback | type[Any]) -> Loop:
        """Attach `cb`, a callback or its class; it is then also `learn.<its name>`. One that is there stays.

        Example:
            >>> learn.add_cb(GradientClip(0.5))
        """
        cb = cb() if isinstance(cb, type) else cb
        if not isinstance(cb, Callback):
            raise TypeError(f'cbs takes callbacks and got {cb!r}: subclass minifast.callback.core.Callback')
        if self._is_attached(cb):
            return self
        cb.learn = self
        setattr(self, cb.name, cb)
        self.cbs.append(cb)
        self._compile()
        return self

    def remove_cb(self, cb: Callback | type[Any]) -> Loop:
        """Take the callback `cb` off, or all of the class `cb`.

        Example:
            >>> learn.remove_cb(ProgressCallback)  # trains without a bar
        """
        if isinstance(cb, type):
            return self.remove_cbs(self._grab_cbs(cb))
        self.cbs = L(other for other in self.cbs if other is not cb)
        if vars(self).get(cb.name) is cb:
            delattr(self, cb.name)
            self._name_last(cb.name)
        self._compile()
        cb.learn = None
        return self

    def add_cbs(self, cbs: Any) -> Loop:
        """`add_cb` for one, several or no callbacks `cbs`."""
        for cb in L(cbs):
            self.add_cb(cb)
        return self

    def remove_cbs(self, cbs: Any) -> Loop:
        """`remove_cb` for one, several or no callbacks `cbs`."""
        for cb in L(cbs):
            self.remove_cb(cb)
        return self

    @contextmanager
    def added_cbs(self, cbs: Any) -> Iterator[Loop]:
        """Attach the callbacks `cbs`, instances or classes, for the block.

        What is attached already, an instance or a class that has one, is not attached again and stays behind the block.

        Example:
            >>> with learn.added_cbs(MixUp()):
            ...     learn.fit(1)
        """
        there = {type(cb) for cb in self.cbs}
        cbs = [cb() if isinstance(cb, type) else cb for cb in L(cbs) if not (isinstance(cb, type) and cb in there)]
        cbs = L(cb for cb in cbs if not self._is_attached(cb))
        self.add_cbs(cbs)
        try:
            yield self
        finally:
            self.remove_cbs(cbs.filter(self._is_attached))

    @contextmanager
    def removed_cbs(self, cbs: Any) -> Iterator[Loop]:
        """Take the callbacks `cbs`, instances or classes, off for the block; behind it they are back in their places.

        One that is not attached is left alone.
        """
        before, taken = self.cbs, L(cbs)
        cbs = before.filter(lambda cb: any(o is cb or (isinstance(o, type) and isinstance(cb, o)) for o in taken))
        self.remove_cbs(cbs)
        try:
            yield self
        finally:
            self.add_cbs(cbs)
            place = {id(cb): i for i, cb in enumerate(before)}
            self.cbs = self.cbs.sorted(lambda cb: place.get(id(cb), len(place)))
            for cb in cbs:
                self._name_last(cb.name)
            self._compile()

    def ordered_cbs(self, event_name: str) -> list[Callback]:
        """The callbacks that take part in the event `event_name`, in order."""
        return [cb for cb, _ in hooks_of(self.cbs, event_name)]

    # ------------------------------------------------------------ events

    def _compile(self) -> None:
        self._hooks = compile_hooks(self.cbs)
        # an event that nobody hears is not even called; a plugin's own `_call_one` hears all
        patched = type(self)._call_one is not _own_call_one
        self._heard = {name: bool(hooks) or patched for name, hooks in self._hooks.items()}
        self._may_change_loss = self._heard['after_loss'] or self._heard['before_backward']

    def __call__(self, event_name: str | Sequence[str]) -> None:
        """Run one event, or several, as the loop does."""
        if not self._depth:  # driven by hand: classes may have been patched since the table was made
            self._compile()
        for name in L(event_name):
            self._call_one(name)

    def _call_one(self, event_name: str) -> None:
        try:
            hooks = self._hooks[event_name]
        except KeyError:
            raise ValueError(f'{event_name!r} is no event{near_match(event_name, events)}') from None
        inner = event_name in inner_events
        for cb, hook in hooks:
            if cb.run and (not inner or (cb.run_train if self.training else cb.run_valid)):
                try:
                    hook()
                except Exception as error:
                    if not isinstance(error, CancelException) and hasattr(error, 'add_note'):
                        error.add_note(f'raised by callback {type(cb).__name__} in {event_name}')
                    raise
        if event_name == 'after_fit':
            for cb in self.cbs:
                cb.run = True

    def _with_events(self, f: Callable, event_type: str, ex: type[Exception], final: Callable | None = None) -> None:
        before, after_cancel, after = parts[event_type]
        heard = self._heard
        try:
            if heard[before]:
                self._call_one(before)
            f()
        except ex:
            self._call_one(after_cancel)
        if self._heard[after]:  # asked anew: the table may be another by now
            self._call_one(after)
        if final is not None:
            final()

    @contextmanager
    def _running(self) -> Iterator[None]:
        """The outermost frame of a fit or a validation: the table is fresh inside, `cleanup_fit` runs behind it."""
        if not self._depth:
            self._own = {'loss_func': self.loss_func, 'model': self.model}
        self._depth += 1
        self._compile()
        try:
            yield
        except BaseException as error:
            if self.ranks is not None:
                self.ranks.failed(error)
            raise
        finally:
            self._depth -= 1
            for cb in self.cbs:  # after_fit, which does the same, may not have been reached
                cb.run = True
            try:
                self._cleanup(self.ordered_cbs('cleanup_fit')[::-1])
            finally:
                self._own = self._own if self._depth else None

    @contextmanager
    def _inside_a_fit(self) -> Iterator[None]:
        """A validation from within a hook, with a recorder of its own; behind it the loop's variables come back."""
        with self.removed_cbs(cb for cb in self.cbs if cb.remove_on_fetch), self.added_cbs(Recorder(add_time=False)):
            try:
                with kept_loop_variables(self):
                    self(['before_epoch'])
                    yield
                    self(['after_epoch'])
            finally:
                self.model.train(self.training)

    def _cleanup(self, cbs: list[Callback]) -> None:
        """Run `cleanup_fit` of every callback, last attached first, even if one of them fails."""
        if cbs:
            try:
                cbs[0].run = True
                cbs[0].cleanup_fit()
            finally:
                self._cleanup(cbs[1:])

    # ------------------------------------------------------------ the loop

    def _split(self, b: Sequence) -> None:
        n_inp = self._n_inp if self._n_inp is not None else max(len(b) - 1, 1)
        self.xb, self.yb = b[:n_inp], b[n_inp:]

    def _set_device(self, b: Any) -> Any:
        if self._device is None:  # a batch by hand, outside a pass
            self._find_device()
        device = self._device
        with unmarked():
            for o in b:
                if not isinstance(o, Tensor) or o.device != device:
                    break
            else:
                return b
        b = to_device(b, device, non_blocking=True)
        return self._as_tuple(b) if isinstance(b, (dict, UserDict)) else b

    def _as_tuple(self, b: Any) -> tuple:
        xb, yb = inputs_and_targets(b, self.model)
        self._n_inp = len(xb)
        return xb + yb

    def _find_device(self) -> None:
        first = next(self.model.parameters(), None)
        self._device = first.device if first is not None else torch.device(getattr(self._dls, 'device', None) or 'cpu')

    def _backward(self) -> None:
        self.loss_grad.backward()

    def _step(self) -> None:
        self.opt.step()

    def _do_grad_opt(self) -> None:
        self._with_events(self._backward, 'backward', CancelBackwardException)
        self._with_events(self._step, 'step', CancelStepException)
        self.opt.zero_grad()

    def _do_one_batch(self) -> None:
        model = self.model if self.wrapped is None or not self.training else self.wrapped
        self.pred = model(*map(plain, self.xb))
        if self._heard['after_pred']:
            self._call_one('after_pred')
        if len(self.yb):
            try:
                self.loss_grad = self.loss_func(self.pred, *map(plain, self.yb))
            except IndexError as error:
                self._explain_targets(error)
                raise
            # a hook may change loss_grad in place and must not change what is reported; without hooks nobody can
            self.loss = self.loss_grad.clone() if self._may_change_loss else self.loss_grad
        if self._heard['after_loss']:
            self._call_one('after_loss')
        if self.training and len(self.yb):
            self._do_grad_opt()

    def _explain_targets(self, error: IndexError) -> None:
        """Raise anew, with the items, where the targets of the batch are no classes.

        Raises:
            ValueError: they are not.
        """
        found = wrong_targets(self.loss_func, self.pred, self.yb[0])
        if found is not None:
            words, rows = found
            names = self.dl.last_items() if hasattr(self.dl, 'last_items') else []
            names = [names[i] for i in rows[:5]] if len(names) == len(self.yb[0]) else []
            raise ValueError(words + (f'; seen in {", ".join(names)}' if names else '')) from error

    def one_batch(self, i: int, b: Any) -> None:
        """Train or evaluate on the batch `b`, a tuple of inputs and targets, of number `i`."""
        self.iter = i
        self._split(self._set_device(b))
        self._with_events(self._do_one_batch, 'batch', CancelBatchException)

    def all_batches(self) -> None:
        """Train or evaluate on all batches of `self.dl`, whether or not they are as many as it says."""
        start, n = self.start_batch if self.training else 0, self.batches_of(self.dl)
        self.n_iter = math.inf if n is None else n
        batches, i = enumerate(self.dl, start), start - 1
        try:
            for i, b in islice(batches, None if n is None else max(n - start, 0)):
                self.one_batch(i, b)
            for i, b in batches:  # more than were announced: the position in the fit stays at the end of the epoch
                self.n_iter = i + 1
                self.one_batch(i, b)
        finally:
            del batches  # a traceback keeps this frame, and would keep the loader and its workers with it
        if i + 1 != n or not n:
            self._count(i + 1, n)

    def batches_of(self, dl: Any) -> int | None:
        """How many batches `dl` has: as counted in an epoch before, else what it says; None where it says none."""
        counted = self._counted.get(id(dl))
        return length_of(dl) if counted is None else counted[1]

    def _count(self, seen: int, said: int | None) -> None:
        """A pass has ended and the loader gave other than the announced number of batches, or none."""
        dl = self.dl
        if not self.training or isinstance(dl, ReplayedLoader):
            return
        if not seen:
            what = f'the training loader gave no batch in epoch {self.epoch}: {why_empty(dl)}'
            if self.epoch == self.start_epoch:
                raise ValueError(what)
            warnings.warn(what, stacklevel=2)
            return
        if said is not None and getattr(dl, 'skipped', None):
            return  # batches of which no picture could be read; the loader has told
        if said is not None and id(dl) not in self._counted:
            warnings.warn(f'the training loader ({type(dl).__name__}) says that an epoch has {said} batches and gave '
                          f'{seen}: schedules were planned for {said}. A further epoch is planned for {seen}, so that '
                          'they end where they should; a __len__ of the data set that says otherwise is to be mended',
                          stacklevel=2)
        self._counted[id(dl)] = dl, seen
        self.n_iter = seen
        if 'pct_train' in vars(self):
            self.pct_train = (self.epoch + 1) / self.n_epoch

    def _begin(self, dl: Any, start_batch: int = 0) -> None:
        """Make `dl` the running loader and, where it is ours and a fit runs, tell it what is random about this pass."""
        self.dl, self._n_inp = dl, getattr(self._dls, 'n_inp', None)
        self._find_device()
        if self.fit_seed is not None and hasattr(dl, 'begin'):
            dl.begin(self.fit_seed, self.epoch, start_batch)

    def _do_epoch_train(self) -> None:
        self._begin(self.dls.train, self.start_batch)
        self._with_events(self.all_batches, 'train', CancelTrainException)

    def _do_epoch_validate(self, ds_idx: int = 1, dl: Any = None) -> None:
        dl = self.dls[ds_idx] if dl is None else dl
        self._begin(dl)
        with torch.no_grad():
            self._with_events(self.all_batches, 'validate', CancelValidException)

    def _do_epoch(self) -> None:
        self._do_epoch_train()
        self.start_batch = 0
        if len(self.dls) > 1:
            self._do_epoch_validate()

    def _do_fit(self) -> None:
        for epoch in range(self.start_epoch, self.n_epoch):
            self.epoch = epoch
            self._with_events(self._do_epoch, 'epoch', CancelEpochException)

    def _end_cleanup(self) -> None:
        self.dl, self.xb, self.yb, self.pred, self.loss, self.loss_grad = None, (None,), (None,), None, None, None

    # ------------------------------------------------------------ the optimizer

    def _bn_bias_state(self, with_bias: bool) -> list[dict]:
        return [self.opt.state[p] for p in norm_bias_params(self.model, with_bias)]

    def create_opt(self) -> None:
        """Make `self.opt` from `opt_func` and the splitter's parameter groups."""
        if self.ranks is not None:
            self.ranks.prepare()
        if isinstance(self.opt_func, partial) and 'lr' in self.opt_func.keywords:
            self.lr = self.opt_func.keywords['lr']
        groups = each_once(self.splitter(self.model), self.model)
        self.opt = as_optimizer(self.opt_func, groups, lr=self.lr)
        if not self.wd_bn_bias:
            for state in self._bn_bias_state(True):
                state['do_wd'] = False
        if self.train_bn:
            for state in self._bn_bias_state(False):
                state['force_train'] = True
        self._coverage = Coverage(self.opt, self.model)
        self._coverage.check(self.opt, self.model, self.loss_func)

    @tells_near_match
    def fit(self, n_epoch: int, lr: float | slice | None = None, wd: float | None = None, cbs: Any = None,
            reset_opt: bool = False, start_epoch: int = 0, checkpoint: Any = None, resume: bool | str = False,
            run: Any = None) -> None:
        """Train for `n_epoch` epochs, validating after each.

        Args:
            n_epoch: number of epochs.
            lr: learning rate, a number or a `slice` over the parameter groups; default: `self.lr`.
            wd: weight decay; default: `self.wd`, else the optimizer's.
            cbs: callbacks for this fit only.
            reset_opt: start with a new optimizer.
            start_epoch: number of the first epoch, those before it count as done.
            checkpoint: a folder for a checkpoint after every epoch; short for `cbs=CheckpointCallback(folder)`.
            resume: go on from the newest checkpoint there, to the bits of a training that was never stopped. 'anyway':
                also from one of another data set, model, loss or optimizer, which is an error else.
            run: a folder, named after the run, for settings and metrics as lines of JSON, which `minifast compare` and
                `plot_runs` put beside those of others; short for `cbs=RunLogger(folder)`.

        Raises:
            ValueError: the checkpoints there are of another run.
            PeerError: another process of the training has failed.
            RuntimeError: several processes were started and the learner has not joined them.
            FolderInUseError: another training is using the folder.
            OSError: the folder cannot be written to.

        Example:
            >>> learn.fit(1, 1e-3, checkpoint='checkpoints', resume=True)  # goes on if it was killed
        """
        if self.ranks is None and num_distrib() > 1:
            raise RuntimeError(f'{num_distrib()} processes were started and this learner has not joined them, so each '
                               "would train a model of its own: leave strategy='ddp' as it is where the Learner is "
                               'made, or write with learn.distrib_ctx(): around the fit')
        cbs = L(cbs) + (L() if checkpoint is None else L(CheckpointCallback(checkpoint)))
        cbs += L() if run is None else L(RunLogger(run))
        with self.added_cbs(cbs), self._running():
            opt = self.opt
            if reset_opt or opt is None:
                self.create_opt()  # which may say `self.lr`
            lr, wd = self.lr if lr is None else lr, self.wd if wd is None else wd
            try:
                if fit_was_done(self, resume, cbs, n_epoch=n_epoch, lr=lr, wd=wd, start_epoch=start_epoch):
                    return
                if start_epoch < n_epoch:
                    self._check_loaders()
                self._coverage.check(self.opt, self.model, self.own_loss)
            except BaseException:
                self.opt = self.opt if opt is None else opt  # nothing has changed
                raise
            if wd is not None:
                self.opt.set_hypers(wd=wd)
            self.opt.set_hypers(lr=lr)
            self.n_epoch, self.start_epoch, self.start_batch = n_epoch, start_epoch, 0
            ours = any(hasattr(dl, 'begin') for dl in self.dls)
            self.fit_seed = int(torch.randint(2 ** 62, ())) if ours else None  # sync: a host draw, once a fit
            self.fitting = True
            try:
                self._with_events(self._do_fit, 'fit', CancelFitException, self._end_cleanup)
                if self.ranks is not None:
                    self.ranks.fit_ends()
            finally:
                self.opt.zero_grad()  # of half a step, and of a batch cancelled behind its backward pass
                self.fitting = False
                self.fit_seed, self.start_epoch, self.start_batch = None, 0, 0

    def _check_loaders(self) -> None:
        """Refuse a fit that has nothing to train on; tell where there is nothing to measure on."""
        if length_of(self.dls.train) == 0:
            raise ValueError(f'the training loader has no batch: {why_empty(self.dls.train)}')
        if len(self.dls) > 1 and length_of(self.dls[1]) == 0:
            warnings.warn(f'the validation loader has no batch, so that there is no valid_loss and no metric: '
                          f'{why_empty(self.dls[1])}', stacklevel=4)

    def show_training_loop(self) -> None:
        """Print the loop with the callbacks that take part in each event.

        Example:
            >>> learn.show_training_loop()
        """
        depth = 0
        for name in events:
            starts, ends = name in loop_starts, name in loop_ends
            depth -= ends
            print(f'{"  " * depth}{name:22}: {", ".join(map(repr, self.ordered_cbs(name))) or "-"}')
            depth += starts


_own_call_one = Loop._call_one
