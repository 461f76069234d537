"""Hyper-parameters as pure functions of the position in the fit, and the search for a learning rate."""
from __future__ import annotations

import collections
import copy
import functools
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from fastcore.foundation import L
from torch import Tensor, nn

from minifast.arguments import tells_near_match
from minifast.callback.core import Callback, CancelFitException, CancelValidException, kept_loop_variables
from minifast.data.load import why_empty
from minifast.data.workers import fork_cpu_rng
from minifast.hidden import find, keeps_state
from minifast.seeds import fork_rng
from minifast.show import plot_lr_find
from minifast.torch_core import length_of

__all__ = ['LRFinder', 'ParamScheduler', 'SchedCos', 'SchedExp', 'SchedLin', 'SchedNo', 'SchedPoly',
           'SuggestedLRs', 'SuggestionMethod', 'annealer', 'combine_scheds', 'combined_cos', 'lr_find', 'minimum',
           'sched_cos', 'sched_exp', 'sched_lin', 'sched_no', 'slide', 'steep', 'valley']

Schedule = Callable[[float], Any]
"""Position 0-1 -> a value, or an array with one value a parameter group."""


# ---------------------------------------------------------------- schedules

class _Annealer:
    """A function of (start, end, position) with its ends fixed: called with the position alone."""

    def __init__(self, f: Callable, start: Any, end: Any) -> None:
        self.f, self.start, self.end = f, start, end

    def __call__(self, pos: float) -> Any:
        return self.f(self.start, self.end, pos)


def annealer(f: Callable[..., Any]) -> Callable[[Any, Any], _Annealer]:
    """Turn `f(start, end, pos)` into a maker of schedules from `start` to `end`."""
    @functools.wraps(f)
    def make(start: Any, end: Any) -> _Annealer:
        return _Annealer(f, start, end)
    return make


def sched_lin(start: Any, end: Any, pos: float) -> Any:
    """A straight line from `start` (at `pos` 0) to `end` (at 1)."""
    return start + pos * (end - start)


def sched_cos(start: Any, end: Any, pos: float) -> Any:
    """Half a cosine from `start` (at `pos` 0) to `end` (at 1): flat at both ends."""
    return start + (1 + math.cos(math.pi * (1 - pos))) * (end - start) / 2


def sched_no(start: Any, end: Any, pos: float) -> Any:
    """`start` all the time, whatever `end` and `pos`."""
    return start


def sched_exp(start: Any, end: Any, pos: float) -> Any:
    """From `start` (at `pos` 0) to `end` (at 1) by the same factor every step; `start` must not be 0."""
    return start * (end / start) ** pos


def SchedLin(start: Any, end: Any) -> _Annealer:
    """Linear schedule from `start` to `end`.

    Example:
        >>> [SchedLin(1., 0.)(pos) for pos in (0., 0.5, 1.)]
        [1.0, 0.5, 0.0]
    """
    return _Annealer(sched_lin, start, end)


def SchedCos(start: Any, end: Any) -> _Annealer:
    """Cosine schedule from `start` to `end`.

    Example:
        >>> [round(SchedCos(1., 0.)(pos), 2) for pos in (0., 0.25, 0.5, 1.)]
        [1.0, 0.85, 0.5, 0.0]
    """
    return _Annealer(sched_cos, start, end)


def SchedNo(start: Any, end: Any) -> _Annealer:
    """Constant schedule at `start`; `end` is there for the signature of the others."""
    return _Annealer(sched_no, start, end)


def SchedExp(start: Any, end: Any) -> _Annealer:
    """Exponential schedule from `start` to `end`.

    Example:
        >>> [round(SchedExp(1., 0.01)(pos), 4) for pos in (0., 0.5, 1.)]
        [1.0, 0.1, 0.01]
    """
    return _Annealer(sched_exp, start, end)


def SchedPoly(start: Any, end: Any, power: float) -> Schedule:
    """Polynomial schedule from `start` to `end`: `pos ** power` of the way.

    Example:
        >>> [SchedPoly(0., 1., power=2)(pos) for pos in (0., 0.5, 1.)]
        [0.0, 0.25, 1.0]
    """
    def _inner(pos: float) -> Any:
        return start + (end - start) * pos ** power
    return _inner


def combine_scheds(pcts: Sequence[float], scheds: Sequence[Schedule]) -> Schedule:
    """The schedules `scheds` one after the other, each as a whole; the i-th takes the share `pcts[i]` of the time.

    Raises:
        ValueError: the shares are negative, do not sum to 1, or there is not one for each schedule.

    Example:
        >>> warm_up = combine_scheds([0.3, 0.7], [SchedLin(0., 1e-3), SchedCos(1e-3, 0.)])
        >>> warm_up(0.15), warm_up(0.3), warm_up(1.)
        (0.0005, 0.001, 0.0)
        >>> learn.fit(3, cbs=ParamScheduler({'lr': warm_up}))
    """
    shares = [float(share) for share in pcts]
    if len(shares) != len(scheds) or min(shares) < 0 or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise ValueError(f'combine_scheds needs one share for each of the {len(scheds)} schedules, none negative and '
                         f'together 1; got {shares}')
    parts = [(share, sched) for share, sched in zip(shares, scheds) if share > 0]
    starts = [0., *accumulate(share for share, _ in parts)][:-1]

    def _inner(pos: float) -> Any:
        i = max(bisect_right(starts, pos) - 1, 0)
        share, sched = parts[i]
        return sched((pos - starts[i]) / share)
    return _inner


def combined_cos(pct: float, start: Any, middle: Any, end: Any) -> Schedule:
    """A cosine from `start` to `middle` over the share `pct`, then one from `middle` to `end`.

    Example:
        >>> sched = combined_cos(0.25, 0.1, 1., 0.)  # up to 1 in the first quarter, then down to 0
        >>> [round(sched(pos), 2) for pos in (0., 0.25, 1.)]
        [0.1, 1.0, 0.0]
    """
    return combine_scheds([pct, 1 - pct], [SchedCos(start, middle), SchedCos(middle, end)])


class ParamScheduler(Callback):
    """Sets hyper-parameters before every training batch, each by its schedule.

    Args:
        scheds: hyper-parameter name -> function of the position in the fit, 0-1.

    Attributes:
        hps: name -> the last group's value at every step; also `recorder.hps` once the fit has ended.

    Raises:
        ValueError: when a fit starts and the training loader has no length.

    Example:
        >>> learn.fit(1, cbs=ParamScheduler({'lr': SchedCos(1e-2, 1e-5)}))
    """

    order, run_valid, identifies_run = 60, False, False  # the course of a schedule is compared instead
    _by_position = True

    def __init__(self, scheds: dict[str, Schedule]) -> None:
        self.scheds = scheds
        self.hps: dict[str, list] = {name: [] for name in scheds}
        self._of_last_fit = self.hps

    def before_fit(self) -> None:
        self._of_last_fit, self.hps = self.hps, {name: [] for name in self.scheds}
        learn = self.learn
        if self._by_position and learn.fitting and learn.batches_of(learn.dls.train) is None:
            raise ValueError(f'a schedule needs to know how many batches an epoch has, and the training loader '
                             f'({type(learn.dls.train).__name__}) has no length: give its data set a __len__, or call '
                             'learn.fit(1) first, which counts them')

    def before_batch(self) -> None:
        self._update_val(self.learn.pct_train)

    def _update_val(self, pct: float) -> None:
        opt = self.learn.opt
        for name, sched in self.scheds.items():
            opt.set_hyper(name, sched(pct))

    def after_batch(self) -> None:
        opt = self.learn.opt
        last = opt.hypers_of(-1) if hasattr(opt, 'hypers_of') else opt.hypers[-1]
        for name, values in self.hps.items():
            values.append(last[name])

    def after_fit(self) -> None:
        if hasattr(self.learn, 'recorder'):
            self.learn.recorder.hps = self.hps

    def cleanup_fit(self) -> None:
        if not any(self.hps.values()):  # a validation or prediction: what the fit before it did can be plotted on
            self.hps = self._of_last_fit
        ParamScheduler.after_fit(self)  # an interrupted fit can be plotted too

    def state_dict(self) -> dict[str, Any]:
        """The values so far, for a checkpoint; the schedules are functions of the position and need none."""
        return {'hps': {name: list(values) for name, values in self.hps.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`, a `state_dict()`."""
        self.hps = {name: list(values) for name, values in state['hps'].items()}


# ---------------------------------------------------------------- the search for a learning rate

class _Kept:
    """Copies of everything that training steps change: weights, buffers, gradients, optimizer, callbacks' states.

    The callbacks `recording` the search keep what they recorded.
    """

    def __init__(self, learn: Any, recording: Sequence[Callback]) -> None:
        modules = [m for m in (learn.model, learn.loss_func) if isinstance(m, nn.Module)]
        tensors = [t for m in modules for t in (*m.parameters(), *m.buffers())]
        tensors += [p for group in learn.opt.param_groups for p in group['params']]
        self.tensors = [(t, t.detach().clone(), None if t.grad is None else t.grad.clone())
                        for t in {id(t): t for t in tensors}.values()]
        self.modes = [(m, m.training) for top in modules for m in top.modules()]
        self.opt, self.opt_state = learn.opt, copy.deepcopy(learn.opt.state_dict())
        self.callbacks = [(cb, copy.deepcopy(cb.state_dict())) for cb in learn.cbs
                          if keeps_state(cb) and cb not in recording]

    def put_back(self) -> None:
        """Undo, in place: the parameters stay the same objects."""
        with torch.no_grad():
            for t, value, grad in self.tensors:
                t.copy_(value)
                t.grad = grad
        for m, training in self.modes:
            m.training = training
        self.opt.load_state_dict(self.opt_state)
        for cb, state in self.callbacks:
            cb.load_state_dict(state)


class LRFinder(ParamScheduler):
    """Trains with an exponentially rising learning rate, stops where the loss explodes, and puts the weights back.

    `Learner.lr_find` runs it and also puts back everything around the training.

    Args:
        start_lr, end_lr: the range, walked in equal factors; a list has one for each parameter group.
        num_it: number of batches, 6 at least.
        stop_div: stop when the smoothed loss is four times its lowest value, or is no number.
    """

    _by_position = False  # it counts steps itself

    @tells_near_match
    def __init__(self, start_lr: Any = 1e-7, end_lr: Any = 10, num_it: int = 100, stop_div: bool = True) -> None:
        start_lr, end_lr = (np.array(lr) if isinstance(lr, (list, tuple, L)) else lr for lr in (start_lr, end_lr))
        super().__init__({'lr': SchedExp(start_lr, end_lr)})
        self.num_it, self.stop_div, self._kept = max(num_it, 6), stop_div, None

    def before_fit(self) -> None:
        super().before_fit()
        self._kept = _Kept(self.learn, recording=[self, self.learn.recorder])
        self.best_loss = float('inf')

    def before_batch(self) -> None:
        self._update_val(self.learn.train_iter / self.num_it)

    def after_batch(self) -> None:
        super().after_batch()
        loss = float(self.learn.smooth_loss)  # sync: each step decides whether to go on
        self.best_loss = min(loss, self.best_loss)
        if self.stop_div and not loss <= 4 * self.best_loss:  # true for NaN as well
            raise CancelFitException
        if self.learn.train_iter >= self.num_it:
            raise CancelFitException

    def before_validate(self) -> None:
        raise CancelValidException

    def cleanup_fit(self) -> None:
        super().cleanup_fit()
        if self._kept is not None:
            self._kept.put_back()
            self._kept = None


Suggestion = tuple[float, tuple[float, float]]
"""A learning rate, and the point (learning rate, loss) to mark in the picture."""


def _point(lrs: Any, losses: Any, i: int) -> tuple[float, float]:
    return float(lrs[i]), float(losses[i])


def valley(lrs: Any, losses: Any, num_it: int) -> Suggestion:
    """Half way down the longest falling subsequence of the losses; `lrs`, `losses` and `num_it` as in `slide`.

    Example:
        >>> learn.lr_find(num_it=30, suggest_funcs=(valley, slide), show_plot=False)
    """
    values = [float(loss) for loss in losses]
    longest, end = [1] * len(values), 0
    for i in range(1, len(values)):
        longest[i] = 1 + max((longest[j] for j in range(i) if values[i] < values[j]), default=0)
        end = i if longest[i] > longest[end] else end
    length = longest[end] if longest[end] > 1 else 0
    i = end - length + int(length / 3) + int(length / 6)
    return float(lrs[i]), _point(lrs, losses, i)


def slide(lrs: Any, losses: Any, num_it: int, lr_diff: int = 15, thresh: float = .005,
          adjust_value: float = 1.) -> Suggestion:
    """The last learning rate, seen from the end, before the slopes `lr_diff` steps apart agree within `thresh`.

    Args:
        lrs, losses: the search, shape [n].
        num_it: the number of its batches.
        lr_diff: width of the interval in steps; shorter where the search is.
        thresh: difference of slopes that still counts as equal.
        adjust_value: factor on the suggestion.

    Example:
        >>> learn.lr_find(num_it=30, suggest_funcs=slide, show_plot=False)
    """
    lrs, losses = (np.asarray(values, dtype=float) for values in (lrs, losses))
    n, width = len(lrs), min(lr_diff, len(lrs) - 1)
    slopes = np.gradient(losses) if n > 1 else np.zeros(1)
    found = left = n - 1 - width
    while left >= 0 and abs(slopes[left + width] - slopes[left]) > thresh:
        found, left = left, left - 1
    suggestion = float(lrs[found]) * adjust_value
    return suggestion, (suggestion, float(np.interp(np.log10(suggestion), np.log10(lrs), losses)))


def minimum(lrs: Any, losses: Any, num_it: int) -> Suggestion:
    """A tenth of the learning rate with the lowest loss; `lrs`, `losses` and `num_it` as in `slide`."""
    i = int(np.argmin(np.asarray(losses)))
    return float(lrs[i]) / 10, _point(lrs, losses, i)


def steep(lrs: Any, losses: Any, num_it: int) -> Suggestion:
    """Where the loss falls fastest over log(learning rate); `lrs`, `losses` and `num_it` as in `slide`."""
    if len(lrs) < 2:
        return float(lrs[0]), _point(lrs, losses, 0)
    i = int(np.argmin(np.diff(np.asarray(losses)) / np.diff(np.log(np.asarray(lrs)))))
    return float(lrs[i]), _point(lrs, losses, i)


class SuggestionMethod:
    """The suggestion functions by name: `lr_find(suggest_funcs=(SuggestionMethod.Valley, SuggestionMethod.Slide))`."""

    Valley, Slide, Minimum, Steep = map(staticmethod, (valley, slide, minimum, steep))


@contextmanager
def _no_trace(learn: Any) -> Iterator[None]:
    """Put back what a fit leaves around the training: random streams, optimizer, recorder, the loop's variables."""
    if getattr(getattr(learn.dls, 'device', None), 'type', None) == 'cuda':
        torch.cuda.init()  # else its random stream would start inside the search and could not be put back
    made_here = learn.opt is None
    if made_here:
        learn.create_opt()
    opt, opt_state = learn.opt, copy.deepcopy(learn.opt.state_dict())
    recorder = learn.recorder
    record = {**vars(recorder), 'smooth_loss': copy.copy(recorder.smooth_loss)}
    generators = [place.value for dl in learn.dls for place in find(dl, data=False).generators]
    try:
        with fork_rng(), fork_cpu_rng(generators), kept_loop_variables(learn):
            yield
    finally:
        opt.load_state_dict(opt_state)  # its learning rates, set before the fit began
        learn.opt = None if made_here else opt
        searched = {name: vars(recorder)[name] for name in ('lrs', 'smooth_loss')}
        vars(recorder).clear()
        # where nothing was recorded yet, the search stays readable in `recorder.lrs` and `recorder.losses`
        vars(recorder).update(record if record['lrs'] else {**record, **searched})


class SuggestedLRs(tuple[float, ...]):
    """The learning rates that `lr_find` suggests, in the order of the functions that do, each by its function's name.

    Attributes:
        valley, slide, minimum, steep: where the function of this name was asked for.
    """

    valley: float
    slide: float
    minimum: float
    steep: float

    def __repr__(self) -> str:
        rates = ', '.join(f'{name}={lr:.2e}' for name, lr in zip(self._fields, self))
        return f'{type(self).__name__}({rates})'


def _named(names: list[str], lrs: list[float]) -> SuggestedLRs:
    made = collections.namedtuple('SuggestedLRs', names, rename=True)
    return type('SuggestedLRs', (made, SuggestedLRs), {'__repr__': SuggestedLRs.__repr__})(*lrs)


@tells_near_match
def lr_find(learn: Any, start_lr: Any = 1e-7, end_lr: Any = 10, num_it: int = 100, stop_div: bool = True,
            show_plot: bool = True, suggest_funcs: Any = valley) -> SuggestedLRs:
    """Train with rising learning rates and suggest one; afterwards everything is as before, also after Ctrl-C.

    Args:
        learn: the learner.
        start_lr, end_lr: the range, walked in equal factors.
        num_it: number of batches.
        stop_div: stop when the smoothed loss is four times its lowest value.
        show_plot: draw the loss by learning rate.
        suggest_funcs: functions of (lrs [n], losses [n], num_it) such as `valley`, `slide`, `minimum`, `steep`.

    Returns:
        A namedtuple with one learning rate for each function, None without functions.

    Raises:
        ValueError: the training loader is empty, or no loss was finite.

    Example:
        >>> found = learn.lr_find(suggest_funcs=(valley, slide))
        >>> learn.fit_one_cycle(3, found.valley)
    """
    n = length_of(learn.dls.train)
    if n == 0:
        raise ValueError('lr_find needs training batches and the training loader has none: '
                         f'{why_empty(learn.dls.train)}')
    with _no_trace(learn), learn.no_logging():
        learn.fit(num_it // (n or 1) + 1, cbs=LRFinder(start_lr, end_lr, num_it, stop_div))
        found = list(learn.recorder.lrs), list(learn.recorder.losses)
    learn.recorder.lr_search = found
    names, suggestions = [], []
    if suggest_funcs is not None:
        lrs, losses = _trimmed(*found, num_it)
        for func in L(suggest_funcs):
            names.append(getattr(func, 'func', func).__name__)
            suggestions.append(func(lrs, losses, num_it))
    if show_plot:
        plot_lr_find(learn.recorder, suggestions=[point for _, point in suggestions], nms=names)
    if suggest_funcs is None:
        return None
    return _named(names, [lr for lr, _ in suggestions])


def _trimmed(lrs: list[float], losses: list[Tensor], num_it: int) -> tuple[Tensor, Tensor]:
    """Learning rates and losses, float32 [n], without the first tenth, the last five and what follows a NaN.

    A search that stopped at once is trimmed as far as something is left.
    """
    lrs, losses = torch.tensor(lrs), torch.stack(losses) if losses else torch.empty(0)
    bad = (~losses.isfinite()).nonzero()
    n_finite = int(bad[0]) if len(bad) else len(losses)
    if not n_finite:
        raise ValueError('lr_find saw no finite loss: check the data and the loss function')
    stop = min(n_finite, max(len(losses) - 5, 1))
    start = num_it // 10 if stop - num_it // 10 >= 2 else 0
    return lrs[start:stop], losses[start:stop]
