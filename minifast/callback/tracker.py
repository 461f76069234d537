"""Decisions by a measured number: save the best model, stop early, lower the learning rate, stop at NaN."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minifast.arguments import near_match, tells_near_match
from minifast.callback.core import Callback, CancelBatchException, CancelFitException
from minifast.sharding import own_part
from minifast.terminal import listed, say, say_once

__all__ = ['EarlyStoppingCallback', 'ReduceLROnPlateau', 'SaveModelCallback', 'TerminateOnNaNCallback',
           'TrackerCallback']


class TerminateOnNaNCallback(Callback):
    """Ends the fit when the loss or a gradient is NaN or infinite, before the weights are touched, and names the items.

    Where some inputs of the batch are not finite themselves, their items are named, else all of the batch. A step waits
    for the device once, or twice where gradients are looked at. In float16 the gradients are left to the loss scaler,
    which meets infinite ones by design and skips the step itself.

    Args:
        skip: leave out the batch and go on instead of ending the fit; the batch does not count in the recorder.
        grads: look at the gradients too.

    Example:
        >>> learn.fit(1, cbs=TerminateOnNaNCallback())
    """

    order, run_valid = -9, False

    @tells_near_match
    def __init__(self, skip: bool = False, grads: bool = True) -> None:
        self.skip, self.grads = skip, grads
        self.items: list[str] = []

    def after_loss(self) -> None:
        learn = self.learn
        if len(learn.yb) and not bool(learn.loss_grad.detach().isfinite().all()):  # sync: what this callback is for
            self._leave('the loss')

    def before_step(self) -> None:
        scaler = getattr(self.learn, 'scaler', None)
        if not self.grads or (scaler is not None and scaler.is_enabled()):
            return
        grads = [p.grad for group in self.learn.opt.param_groups for p in group['params'] if p.grad is not None]
        grads = [part for part in map(own_part, grads) if part.numel()]  # what one rank finds all hear of
        if grads and not math.isfinite(_largest(grads)):
            self._leave('a gradient')

    def _leave(self, what: str) -> None:
        learn = self.learn
        learn.opt.zero_grad()
        self.items = self._suspects()
        items = listed(self.items, 8, " and {} more, all in the callback's `items`")
        named = f'. Its items: {items}' if items else ''
        say(f'epoch {learn.epoch}, batch {learn.iter}: {what} is not finite; '
            f'{"the batch is left out" if self.skip else "training ends"}, the weights are those of the step before'
            f'{named}')
        if not self.skip:
            raise CancelFitException
        learn.yb = ()  # a batch without targets is not recorded, so that the smoothed loss stays a number
        raise CancelBatchException

    def _suspects(self) -> list[str]:
        """The items of the batch, where the loader knows them: those whose inputs are not finite, if there are any."""
        names = self.dl.last_items() if hasattr(self.dl, 'last_items') else []
        bad = [~x.detach().flatten(1).isfinite().all(1) for x in self.learn.xb
               if isinstance(x, Tensor) and x.is_floating_point() and x.ndim > 1 and len(x) == len(names)]
        wrong = torch.stack(bad).any(0).tolist() if bad else []  # sync: the fit ends here, or the batch
        return [name for name, is_bad in zip(names, wrong) if is_bad] or names


def _largest(grads: Iterable[Tensor]) -> float:
    """The largest absolute value in all tensors; NaN if there is one."""
    norms = torch._foreach_norm(list(grads), float('inf'))
    return float(torch.stack([norm.float().to(norms[0].device) for norm in norms]).max())  # sync: what it is for


class TrackerCallback(Callback):
    """Keeps the best value of one column of the table of epochs.

    Only a fit counts: `validate`, `get_preds` and `lr_find` change nothing.

    Args:
        monitor: a name of `recorder.metric_names`.
        comp: `comp(value, best)` says whether a value is better, such as np.less; default: less for names with
            'loss' or 'error' in them, else greater.
        min_delta: by how much a value must be better to count.
        reset_on_fit: forget the best value when a fit starts.

    Attributes:
        best: the best value so far in this fit (in all fits with `reset_on_fit=False`).
        new_best: whether the last epoch has improved it.

    Raises:
        ValueError: when a fit starts and `monitor` is no column; the message names those there are.

    Example:
        >>> class Told(TrackerCallback):
        ...     def after_epoch(self):
        ...         super().after_epoch()
        ...         if self.new_best: print('the best so far')
        >>> learn.fit(1, cbs=Told(monitor='valid_loss'))
    """

    order, remove_on_fetch, _only_train_loop = 60, True, True

    @tells_near_match
    def __init__(self, monitor: str = 'valid_loss', comp: Callable[[Any, Any], Any] | None = None,
                 min_delta: float = 0., reset_on_fit: bool = True) -> None:
        if comp is None:
            comp = np.less if 'loss' in monitor or 'error' in monitor else np.greater
        if comp == np.less:
            min_delta *= -1
        self.monitor, self.comp, self.min_delta, self.reset_on_fit = monitor, comp, min_delta, reset_on_fit
        self.best, self.new_best = None, False

    def before_fit(self) -> None:
        self.run = self.learn.fitting and not self.learn.searching
        if not self.run:
            return
        if self.reset_on_fit or self.best is None:
            self.best, self.new_best = (float('inf') if self.comp == np.less else -float('inf')), False
        columns = [name for name in self.recorder.metric_names[1:] if name != 'time']
        if self.monitor not in columns:
            raise ValueError(f'{type(self).__name__} monitors {self.monitor!r}, which is not measured'
                             f'{near_match(self.monitor, columns)}; there are {", ".join(columns)}')
        self.idx = columns.index(self.monitor)

    def after_epoch(self) -> None:
        value = self._value()
        self.new_best = value is not None and bool(self.comp(value - self.min_delta, self.best))
        if self.new_best:
            self.best = value

    def _value(self) -> float | None:
        """What the last epoch measured; None where its validation was cancelled."""
        row = self.recorder.values[-1]
        return row[self.idx] if self.idx < len(row) else None

    def state_dict(self) -> dict[str, Any]:
        """The best value and the patience used up, for a checkpoint."""
        return {name: vars(self)[name] for name in ('best', 'new_best', 'wait') if name in vars(self)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`, a `state_dict()`."""
        vars(self).update(state)


class EarlyStoppingCallback(TrackerCallback):
    """Ends the fit when the monitored value has not improved for `patience` epochs.

    Args:
        monitor, comp, min_delta, reset_on_fit: as for `TrackerCallback`.
        patience: epochs in a row without improvement.

    Example:
        >>> learn.fit(20, cbs=EarlyStoppingCallback(monitor='valid_loss', min_delta=0.01, patience=3))
    """

    order = TrackerCallback.order + 3

    @tells_near_match
    def __init__(self, monitor: str = 'valid_loss', comp: Callable[[Any, Any], Any] | None = None,
                 min_delta: float = 0., patience: int = 1, reset_on_fit: bool = True) -> None:
        super().__init__(monitor=monitor, comp=comp, min_delta=min_delta, reset_on_fit=reset_on_fit)
        self.patience, self.wait = patience, 0

    def before_fit(self) -> None:
        super().before_fit()
        if self.run:
            self.wait = 0

    def after_epoch(self) -> None:
        super().after_epoch()
        if self._value() is None:
            return
        self.wait = 0 if self.new_best else self.wait + 1
        if self.wait >= self.patience:
            say_once(f'early stopping: {self.monitor} has not improved since epoch {self.epoch - self.wait}')
            raise CancelFitException


class SaveModelCallback(TrackerCallback):
    """Saves the model whenever the monitored value improves, and loads the best one when the fit ends.

    The two fits of `fine_tune` count as one: the best model of both is kept.

    Args:
        monitor, comp, min_delta, reset_on_fit: as for `TrackerCallback`.
        fname: name for `Learner.save`.
        every_epoch: save every (so many) epochs as `fname_<epoch>` instead; nothing is loaded at the end.
        at_end: save when the fit ends, instead of loading the best model.
        with_opt: with the state of the optimizer.

    Attributes:
        last_saved_path: the file written last.

    Raises:
        ValueError: both `every_epoch` and `at_end`.

    Example:
        >>> learn.fit_one_cycle(5, cbs=SaveModelCallback(monitor='accuracy', fname='best'))
        >>> learn.load('best', with_opt=False)  # what the fit has loaded at its end
    """

    order = TrackerCallback.order + 1

    @tells_near_match
    def __init__(self, monitor: str = 'valid_loss', comp: Callable[[Any, Any], Any] | None = None,
                 min_delta: float = 0., fname: str = 'model', every_epoch: bool | int = False, at_end: bool = False,
                 with_opt: bool = False, reset_on_fit: bool = True) -> None:
        if every_epoch and at_end:
            raise ValueError('every_epoch and at_end exclude each other: choose one')
        super().__init__(monitor=monitor, comp=comp, min_delta=min_delta, reset_on_fit=reset_on_fit)
        self.fname, self.every_epoch, self.at_end, self.with_opt = fname, every_epoch, at_end, with_opt
        self.last_saved_path: Path | None = None
        self._best_path: Path | None = None

    def before_fit(self) -> None:
        best = self.best
        super().before_fit()
        if self.run and self.learn.fine_tune_phase == 1 and best is not None:
            self.best = best
        elif self.run and self.reset_on_fit:
            self._best_path = None

    def _save(self, name: str) -> None:
        self.last_saved_path = self.learn.save(name, with_opt=self.with_opt)

    def after_epoch(self) -> None:
        if self.every_epoch:
            if self.epoch % self.every_epoch == 0:
                self._save(f'{self.fname}_{self.epoch}')
            return
        super().after_epoch()
        if self.new_best:
            say_once(f'epoch {self.epoch}: best {self.monitor} so far, {self.best:.6g}; model saved')
            self._save(self.fname)
            self._best_path = self.last_saved_path

    def after_fit(self) -> None:
        if self.at_end:
            self._save(self.fname)
        elif not self.every_epoch and self._best_path is not None:
            self.learn.load(self.fname, with_opt=self.with_opt)

    def state_dict(self) -> dict[str, Any]:
        """The best value and where the best model lies."""
        return {**super().state_dict(), 'last_saved_path': str(self.last_saved_path or ''),
                'best_path': str(self._best_path or '')}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`, a `state_dict()`."""
        state = dict(state)
        self.last_saved_path, self._best_path = (Path(state[name]) if state[name] else None
                                                 for name in ('last_saved_path', 'best_path'))
        super().load_state_dict({k: v for k, v in state.items() if k not in ('last_saved_path', 'best_path')})


class ReduceLROnPlateau(TrackerCallback):
    """Divides the learning rate of every group when the monitored value has not improved for `patience` epochs.

    Args:
        monitor, comp, min_delta, reset_on_fit: as for `TrackerCallback`.
        patience: epochs in a row without improvement.
        factor: what to divide by.
        min_lr: the learning rate is not lowered below it.

    Example:
        >>> learn.fit(20, 1e-3, cbs=ReduceLROnPlateau(monitor='valid_loss', patience=2, factor=10, min_lr=1e-6))
    """

    order = TrackerCallback.order + 2

    @tells_near_match
    def __init__(self, monitor: str = 'valid_loss', comp: Callable[[Any, Any], Any] | None = None,
                 min_delta: float = 0., patience: int = 1, factor: float = 10., min_lr: float = 0,
                 reset_on_fit: bool = True) -> None:
        super().__init__(monitor=monitor, comp=comp, min_delta=min_delta, reset_on_fit=reset_on_fit)
        self.patience, self.factor, self.min_lr, self.wait = patience, factor, min_lr, 0

    def before_fit(self) -> None:
        super().before_fit()
        if self.run:
            self.wait = 0

    def after_epoch(self) -> None:
        super().after_epoch()
        if self._value() is None:
            return
        self.wait = 0 if self.new_best else self.wait + 1
        if self.wait < self.patience:
            return
        self.wait = 0
        old = self.opt.hypers[-1]['lr']
        for hyper in self.opt.hypers:
            hyper['lr'] = max(hyper['lr'] / self.factor, self.min_lr)
        if self.opt.hypers[-1]['lr'] < old:
            say_once(f'epoch {self.epoch}: learning rate lowered to {self.opt.hypers[-1]["lr"]:.6g}')
