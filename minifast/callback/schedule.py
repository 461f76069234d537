"""Hyper-parameters as pure functions of the position in the fit, and the search for a learning rate."""
from __future__ import annotations

import collections
import copy
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from fastcore.foundation import L
from torch import Tensor

from minifast.callback.core import Callback, CancelFitException, CancelValidException
from minifast.torch_core import looking

__all__ = ['LRFinder', 'ParamScheduler', 'SchedCos', 'SchedExp', 'SchedLin', 'SchedNo', 'SchedPoly', 'SuggestedLRs',
           'SuggestionMethod', '_Annealer', 'annealer', 'combine_scheds', 'combined_cos', 'lr_find', 'minimum',
           'plot_lr_find', 'plot_sched', 'sched_cos', 'sched_exp', 'sched_lin', 'sched_no', 'slide', 'steep', 'valley']

Schedule = Callable[[float], Any]
"""Position 0-1 -> a value, or an array with one value a parameter group."""


# ---------------------------------------------------------------- schedules

class _Annealer:
    """A function of (start, end, position) with its ends fixed: called with the position alone."""

    def __init__(self, f: Callable, start: Any, end: Any) -> None:
        self.f, self.start, self.end = f, start, end

    def __call__(self, pos: float) -> Any:
        return self.f(self.start, self.end, pos)


def annealer(f: Callable) -> Callable[[Any, Any], _Annealer]:
    """Turn `f(start, end, pos)` into a maker of schedules from `start` to `end`."""
    @functools.wraps(f)
    def make(start: Any, end: Any) -> _Annealer:
        return _Annealer(f, start, end)
    return make


def sched_lin(start: Any, end: Any, pos: float) -> Any:
    """A straight line."""
    return start + pos * (end - start)


def sched_cos(start: Any, end: Any, pos: float) -> Any:
    """Half a cosine: flat at both ends."""
    return start + (1 + math.cos(math.pi * (1 - pos))) * (end - start) / 2


def sched_no(start: Any, end: Any, pos: float) -> Any:
    """`start` all the time."""
    return start


def sched_exp(start: Any, end: Any, pos: float) -> Any:
    """The same factor every step."""
    return start * (end / start) ** pos


def SchedLin(start: Any, end: Any) -> _Annealer:
    """Linear schedule from `start` to `end`."""
    return _Annealer(sched_lin, start, end)


def SchedCos(start: Any, end: Any) -> _Annealer:
    """Cosine schedule from `start` to `end`."""
    return _Annealer(sched_cos, start, end)


def SchedNo(start: Any, end: Any) -> _Annealer:
    """Constant schedule at `start`."""
    return _Annealer(sched_no, start, end)


def SchedExp(start: Any, end: Any) -> _Annealer:
    """Exponential schedule from `start` to `end`."""
    return _Annealer(sched_exp, start, end)


def SchedPoly(start: Any, end: Any, power: float) -> Schedule:
    """Polynomial schedule from `start` to `end`: `pos ** power` of the way."""
    def _inner(pos: float) -> Any:
        return start + (end - start) * pos ** power
    return _inner


def combine_scheds(pcts: Sequence[float], scheds: Sequence[Schedule]) -> Schedule:
    """Schedules one after the other; the i-th takes the share `pcts[i]` of the whole.

    Raises:
        ValueError: the shares do not sum to 1, or there is not one a schedule.
    """
    if len(pcts) != len(scheds) or not math.isclose(sum(pcts), 1, abs_tol=1e-5):
        raise ValueError(f'combine_scheds needs one share for each of the {len(scheds)} schedules, together 1; '
                         f'got {list(pcts)}')
    starts = [0., *np.cumsum(pcts)]

    def _inner(pos: float) -> Any:
        i = 0
        while i < len(scheds) - 1 and pos >= starts[i + 1]:
            i += 1
        return scheds[i](min((pos - starts[i]) / (starts[i + 1] - starts[i]), 1.))
    return _inner


def combined_cos(pct: float, start: Any, middle: Any, end: Any) -> Schedule:
    """A cosine from `start` to `middle` over the share `pct`, then one from `middle` to `end`."""
    if pct in (0, 1):
        return SchedCos(start, middle) if pct else SchedCos(middle, end)
    return combine_scheds([pct, 1 - pct], [SchedCos(start, middle), SchedCos(middle, end)])


class ParamScheduler(Callback):
    """Sets hyper-parameters before every training batch.

    Args:
        scheds: hyper-parameter name -> schedule, as in `{'lr': SchedCos(1e-2, 1e-5)}`.

    Attributes:
        hps: name -> the last group's value at every step; `recorder.hps` after the fit.
    """

    order, run_valid = 60, False

    def __init__(self, scheds: dict[str, Schedule]) -> None:
        self.scheds = scheds

    def before_fit(self) -> None:
        self.hps = {name: [] for name in self.scheds}

    def before_batch(self) -> None:
        self._update_val(self.learn.pct_train)

    def _update_val(self, pct: float) -> None:
        opt = self.learn.opt
        for name, sched in self.scheds.items():
            opt.set_hyper(name, sched(pct))

    def after_batch(self) -> None:
        last = self.learn.opt.hypers[-1]
        for name, values in self.hps.items():
            values.append(last[name])

    def after_fit(self) -> None:
        if hasattr(self.learn, 'recorder'):
            self.recorder.hps = self.hps

    def state_dict(self) -> dict[str, Any]:
        """The values so far, for a checkpoint; the schedules are functions of the position and need none."""
        return {'hps': self.hps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.hps = {name: list(values) for name, values in state['hps'].items()}


# ---------------------------------------------------------------- the search for a learning rate

class LRFinder(ParamScheduler):
    """Raises the learning rate exponentially over `num_it` batches and stops where the loss explodes."""

    def __init__(self, start_lr: float = 1e-7, end_lr: float = 10, num_it: int = 100, stop_div: bool = True) -> None:
        self.num_it, self.stop_div = num_it, stop_div
        super().__init__({'lr': SchedExp(start_lr, end_lr)})

    def before_fit(self) -> None:
        super().before_fit()
        self.best_loss = float('inf')

    def before_batch(self) -> None:
        self._update_val(self.train_iter / self.num_it)

    def after_batch(self) -> None:
        super().after_batch()
        loss = float(self.smooth_loss)  # sync: each step decides whether to go on
        self.best_loss = min(loss, self.best_loss)
        if self.stop_div and not loss <= 4 * self.best_loss:  # also true for NaN
            raise CancelFitException
        if self.train_iter >= self.num_it:
            raise CancelFitException

    def before_validate(self) -> None:
        raise CancelValidException


SuggestionMethod = Callable[[Sequence[float], Sequence[float], int], tuple[float, tuple[float, float]]]
"""(learning rates, losses, number of iterations) -> suggestion, point (learning rate, loss) to mark."""


def valley(lrs: Sequence[float], losses: Sequence[float], num_it: int) -> tuple[float, tuple[float, float]]:
    """Half way down the longest valley: the longest falling subsequence of the losses."""
    longest, end = [1] * len(losses), 0
    for i in range(1, len(losses)):
        longest[i] = 1 + max((longest[j] for j in range(i) if losses[i] < losses[j]), default=0)
        end = i if longest[i] > longest[end] else end
    start = end - longest[end]
    third = (end - start) / 3
    i = max(start + int(third) + int(third / 2), 0)
    return float(lrs[i]), (float(lrs[i]), float(losses[i]))


def slide(lrs: Sequence[float], losses: Sequence[float], num_it: int, lr_diff: int = 15, thresh: float = .005,
          adjust_value: float = 1.) -> tuple[float, tuple[float, float]]:
    """Just before the loss turns up, looking from the steep end backwards over intervals of `lr_diff` steps.

    Source: Novetta's "slide rule" for fastai's learning rate finder.
    """
    losses = np.asarray(losses, dtype=float)
    lr_diff = max(1, min(lr_diff, len(losses) // 4))  # a short search has short intervals
    slopes = np.gradient(losses) if len(losses) > 1 else np.zeros(1)
    right, left = -1, -1 - lr_diff
    while left >= -len(losses) and abs(slopes[right] - slopes[left]) > thresh:
        right, left = left, left - lr_diff
    i = min(range(len(losses)), key=lambda i: abs(lrs[i] - lrs[right] * adjust_value))
    return float(lrs[right] * adjust_value), (float(lrs[i]), float(losses[i]))


def minimum(lrs: Sequence[float], losses: Sequence[float], num_it: int) -> tuple[float, tuple[float, float]]:
    """A tenth of the learning rate with the lowest loss."""
    i = int(np.argmin(losses))
    return float(lrs[i]) / 10, (float(lrs[i]), float(losses[i]))


def steep(lrs: Sequence[float], losses: Sequence[float], num_it: int) -> tuple[float, tuple[float, float]]:
    """Where the loss falls fastest over the logarithm of the learning rate."""
    i = int(np.argmin(np.gradient(losses, np.log(lrs)))) if len(losses) > 1 else 0
    return float(lrs[i]), (float(lrs[i]), float(losses[i]))


SuggestedLRs = collections.namedtuple('SuggestedLRs', ['valley'])
"""What `lr_find` returns: one field a suggestion function."""


@contextmanager
def _no_trace(learn: Any) -> Iterator[None]:
    """Put weights, buffers, optimizer, callback states and random streams back behind the block."""
    weights = {name: value.clone() for name, value in learn.model.state_dict().items()}
    states = [(cb, copy.deepcopy(cb.state_dict())) for cb in learn.cbs if _has_state(cb)]
    opt, kept = learn.opt, vars(learn).copy()
    learn.opt = None
    learn.create_opt()
    reused = copy.deepcopy(opt.state_dict()) if learn.opt is opt else None  # opt_func was a built optimizer
    if opt is not None and learn.opt is not opt:
        learn.opt.freeze_to(opt.frozen_idx)
    try:
        with looking():
            yield
    finally:
        learn.model.load_state_dict(weights)
        for cb, state in states:
            cb.load_state_dict(state)
        learn.opt = opt
        if reused is not None:
            opt.load_state_dict(reused)
        for name in ('final_record', 'epoch', 'n_epoch', 'train_iter', 'pct_train', 'lr'):
            if name in kept:
                setattr(learn, name, kept[name])
            else:
                vars(learn).pop(name, None)


def _has_state(cb: Callback) -> bool:
    return callable(getattr(type(cb), 'state_dict', None)) and callable(getattr(type(cb), 'load_state_dict', None))


def lr_find(learn: Any, start_lr: float = 1e-7, end_lr: float = 10, num_it: int = 100, stop_div: bool = True,
            show_plot: bool = True, suggest_funcs: Any = valley) -> tuple | None:
    """Train with rising learning rates and suggest one; afterwards everything is as before.

    Args:
        start_lr, end_lr: the range, walked in equal factors.
        num_it: number of batches.
        stop_div: stop when the smoothed loss is four times its lowest value.
        show_plot: draw the loss by learning rate.
        suggest_funcs: functions such as `valley`, `slide`, `minimum`, `steep`.

    Returns:
        A namedtuple with one learning rate a function, None without functions.

    Raises:
        ValueError: the training loader is empty, or every loss was NaN.
    """
    if not len(learn.dls.train):
        raise ValueError('lr_find needs training batches and the training loader has none (fewer items than bs?)')
    n_epoch = num_it // len(learn.dls.train) + 1
    with _no_trace(learn), learn.no_logging(), learn.no_mbar():
        learn.fit(n_epoch, cbs=LRFinder(start_lr, end_lr, num_it, stop_div))
        lrs, losses = list(learn.recorder.lrs), [float(loss) for loss in learn.recorder.losses]
    learn.recorder.found = (lrs, losses)
    funcs = L(suggest_funcs)
    lrs, losses = _trimmed(lrs, losses, num_it)
    found = {func.__name__: func(lrs, losses, num_it) for func in funcs}
    if show_plot:
        plot_lr_find(learn.recorder, suggestions={name: point for name, (_, point) in found.items()})
    if not funcs:
        return None
    kind = SuggestedLRs if list(found) == ['valley'] else collections.namedtuple('SuggestedLRs', list(found))
    return kind(*(suggestion for suggestion, _ in found.values()))


def _trimmed(lrs: list[float], losses: list[float], num_it: int) -> tuple[list[float], list[float]]:
    """Without the first tenth and the last five steps (as far as there are enough) and from the first NaN on."""
    finite = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), len(losses))
    start, stop = (num_it // 10, min(finite, len(losses) - 5)) if len(losses) > num_it // 10 + 10 else (0, finite)
    if stop <= start:
        start, stop = 0, finite
    if not stop:
        raise ValueError('lr_find saw no finite loss: check the data and the loss function, or lower start_lr')
    return lrs[start:stop], losses[start:stop]


# ---------------------------------------------------------------- pictures

def plot_lr_find(recorder: Any, skip_end: int = 5, return_fig: bool = True,
                 suggestions: dict[str, tuple[float, float]] | None = None, **kwargs: Any) -> Any:
    """Draw the loss by learning rate of the last `lr_find`, and marks for suggestions; returns the figure.

    Raises:
        ValueError: there was no `lr_find`.
    """
    import matplotlib.pyplot as plt
    if not hasattr(recorder, 'found'):
        raise ValueError('plot_lr_find draws the last search: call learn.lr_find() first')
    lrs, losses = recorder.found
    figure, ax = plt.subplots(1, 1)
    ax.plot(lrs[:-skip_end or None], losses[:-skip_end or None])
    ax.set(xscale='log', xlabel='Learning Rate', ylabel='Loss')
    for i, (name, (lr, loss)) in enumerate((suggestions or {}).items()):
        ax.plot(lr, loss, 'o', label=name, c=f'C{i + 1}')
    if suggestions:
        ax.legend(loc='best')
    return figure


def plot_sched(recorder: Any, keys: Any = None, figsize: tuple[float, float] | None = None) -> Any:
    """Draw the scheduled hyper-parameters by step; returns the axes.

    Raises:
        ValueError: the last fit had no schedule.
    """
    import matplotlib.pyplot as plt
    hps: dict[str, list[Tensor]] = getattr(recorder, 'hps', {})
    names = [name for name in (L(keys) if keys is not None else hps) if name in hps]
    if not names:
        raise ValueError(f'plot_sched draws what a schedule set and found {keys or "none"}: use fit_one_cycle or a '
                         'ParamScheduler first')
    columns = min(2, len(names))
    rows = math.ceil(len(names) / columns)
    _, axes = plt.subplots(rows, columns, figsize=figsize or (6 * columns, 4 * rows), squeeze=False)
    for name, ax in zip(names, axes.flat):
        ax.plot(hps[name])
        ax.set(xlabel='step', ylabel=name)
    return axes
