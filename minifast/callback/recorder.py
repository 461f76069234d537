"""What was measured: losses, learning rates and one row of metrics an epoch."""
from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from fastcore.foundation import L
from torch import Tensor

from minifast.arguments import tells_near_match
from minifast import show
from minifast.callback.core import Callback
from minifast.markers import plain
from minifast.metrics import AvgLoss, Metric
from minifast.run.history import History
from minifast.show import short
from minifast.terminal import counted, described

__all__ = ['AvgSmoothLoss', 'Recorder', 'format_time']


def format_time(seconds: float) -> str:
    """`seconds` as `MM:SS`, or `H:MM:SS` from one hour on."""
    seconds = int(seconds)
    hours, minutes, seconds = seconds // 3600, seconds // 60 % 60, seconds % 60
    return f'{hours}:{minutes:02d}:{seconds:02d}' if hours else f'{minutes:02d}:{seconds:02d}'


class AvgSmoothLoss(Metric):
    """The training loss smoothed exponentially over steps, without its bias towards zero; this process's own.

    A step only keeps its loss, a scalar on the device; the smoothing is done for all kept ones at once when somebody
    looks, so that no step waits for the device.

    Args:
        beta: weight of the past, 0-1.
    """

    @tells_near_match
    def __init__(self, beta: float = 0.98) -> None:
        self.beta = beta
        self.reset()

    def reset(self) -> None:
        """Start anew."""
        self._kept: list[Tensor] = []
        self._average, self._smoothed, self._tensors = 0., [], []

    def accumulate(self, learn: Any) -> None:
        """Add one step."""
        self._kept.append(learn.loss.detach())

    @property
    def count(self) -> int:
        """Steps seen."""
        return len(self._smoothed) + len(self._kept)

    def smoothed(self) -> list[float]:
        """The smoothed loss after every step, on the host."""
        if self._kept:
            kept, self._kept = [loss if loss.ndim == 0 else loss.mean() for loss in map(plain, self._kept)], []
            beta, average, first = self.beta, self._average, len(self._smoothed) + 1
            for step, loss in enumerate(torch.stack(kept).double().tolist(), first):  # sync: somebody looks
                average = beta * average + (1 - beta) * loss
                self._smoothed.append(average / (1 - beta ** step))
            self._average = average
        return self._smoothed

    @property
    def losses(self) -> list[Tensor]:
        """The smoothed loss after every step, 0-d float32 tensors on the CPU."""
        new = self.smoothed()[len(self._tensors):]
        if new:
            self._tensors.extend(torch.tensor(new, dtype=torch.float32).unbind())
        return self._tensors

    @losses.setter
    def losses(self, losses: Iterable[Tensor]) -> None:
        self._kept, self._tensors = [], list(losses)
        self._smoothed = [float(loss) for loss in self._tensors]  # sync: none, they are on the host

    @property
    def value(self) -> Tensor | None:
        """The smoothed loss now, a 0-d tensor on the CPU; None before the first step."""
        smoothed = self.smoothed()
        return torch.tensor(smoothed[-1]) if smoothed else None

    def state_dict(self) -> dict[str, Any]:
        """The losses so far and the running average."""
        losses = torch.tensor(self.smoothed(), dtype=torch.float32)
        return {'average': self._average, 'losses': losses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`, a `state_dict()`."""
        self.losses, self._average = state['losses'].unbind(), state['average']


def _to_host(values: Iterable[Any]) -> list[Any]:
    """Metric values with all device scalars turned into Python floats by one transfer."""
    values = list(values)
    scalars = [v.detach().double() for v in values if isinstance(v, Tensor) and v.numel() == 1]
    if scalars:
        device = scalars[0].device
        found = iter(torch.stack([v.reshape(()).to(device) for v in scalars]).tolist())  # sync: one row an epoch
        values = [next(found) if isinstance(v, Tensor) and v.numel() == 1 else v for v in values]
    return values


def _maybe_item(metric: Metric) -> Any:
    """The value of a metric, as a Python number where it is one."""
    return _to_host([metric.value])[0]


class Recorder(Callback):
    """Records the smoothed training loss of every step and one row of numbers an epoch.

    What was recorded is that of the last fit: a validation or prediction shows its own row to the hooks while it runs
    and puts the training's back when it ends. Its row is then in `learn.final_record`, and `learn.validate` returns it.
    Where nothing was trained yet, it stays here too.

    Args:
        add_time: end each logged row with the epoch's duration.
        train_metrics: measure the metrics on the training batches too.
        valid_metrics: measure them on the validation set.
        beta: smoothing of the training loss.

    Attributes:
        history: the rows of all fits of the learner by name, see `History`: `history['accuracy']` is a column.
        metric_names: the columns, `['epoch', 'train_loss', 'valid_loss', *metrics, 'time']`, known once a fit began.
        values: one `L` an epoch, without epoch and time; None where a part of the epoch was cancelled.
        log: the row of the running epoch, with epoch and time.
        losses: smoothed training loss of every step, 0-d tensors.
        lrs: learning rate of the last parameter group at every step.
        iters: number of steps done at the end of every epoch.

    Example:
        >>> learn.fit(2)
        >>> learn.recorder.metric_names
        ['epoch', 'train_loss', 'valid_loss', 'accuracy', 'time']
        >>> len(learn.recorder.values), len(learn.recorder.losses) == 2 * len(dls.train)
        (2, True)
        >>> learn.recorder.plot_loss()
    """

    order, remove_on_fetch, identifies_run = 50, True, False
    _set_aside: dict[str, Any] | None = None
    _last_loss: Any = None
    _left_out = _in_history = False
    _of_a_fit = ('metric_names', 'values', 'log', 'lrs', 'iters', 'smooth_loss', 'hps')

    @tells_near_match
    def __init__(self, add_time: bool = True, train_metrics: bool = False, valid_metrics: bool = True,
                 beta: float = 0.98) -> None:
        self.add_time, self.train_metrics, self.valid_metrics = add_time, train_metrics, valid_metrics
        self.loss, self.smooth_loss = AvgLoss(), AvgSmoothLoss(beta)
        self.lrs, self.iters, self.values, self.log = [], [], [], L()
        self.history, self._fit = History(), 0
        self.cancel_train = self.cancel_valid = False
        self._measuring: tuple[Metric, ...] = ()
        self._warned = False

    @property
    def losses(self) -> list[Tensor]:
        """The smoothed training loss after every step."""
        return self.smooth_loss.losses

    @losses.setter
    def losses(self, losses: Iterable[Tensor]) -> None:
        self.smooth_loss.losses = losses

    @property
    def _train_mets(self) -> L:
        return L() if self.cancel_train else L([self.smooth_loss, *(self.metrics if self.train_metrics else ())])

    @property
    def _valid_mets(self) -> L:
        return L() if self.cancel_valid or not self.valid_metrics else L([self.loss, *self.metrics])

    def before_fit(self) -> None:
        self._set_aside = None
        if not self.learn.fitting and self.smooth_loss.count:
            self._set_aside = {name: vars(self)[name] for name in self._of_a_fit if name in vars(self)}
            self.smooth_loss = copy.copy(self.smooth_loss)
        self.lrs, self.iters, self.values = [], [], []
        self._in_history = self.learn.fitting and not self.learn.searching
        if self._in_history:
            self._fit = self.history[-1]['fit'] + 1 if len(self.history) else 0
        names = [metric.name for metric in self.metrics]
        if self.train_metrics and self.valid_metrics:
            names = [f'{part}_{name}' for part in ('train', 'valid') for name in ('loss', *names)]
        elif self.valid_metrics:
            names = ['train_loss', 'valid_loss', *names]
        else:
            names = ['train_loss', *(f'train_{name}' if self.train_metrics else name for name in names)]
        self.metric_names = L(['epoch', *names, *(['time'] if self.add_time else [])])
        self.smooth_loss.reset()
        self._warned = False

    def before_epoch(self) -> None:
        self.cancel_train = self.cancel_valid = False
        self.start_epoch = time.time()
        self.log = L(self.epoch)

    def before_train(self) -> None:
        self._measuring = tuple(self._train_mets)
        for met in self._measuring[1:]:
            met.reset()

    def before_validate(self) -> None:
        self._measuring = tuple(self._valid_mets)
        for met in self._measuring:
            met.reset()

    def after_cancel_batch(self) -> None:
        self._left_out = self.learn.loss is self._last_loss  # cancelled before it had a loss of its own

    def after_batch(self) -> None:
        learn = self.learn
        if self._left_out or not len(learn.yb):
            self._left_out = False
            return
        self._last_loss = learn.loss
        met = None
        try:
            for met in self._measuring:
                met.accumulate(learn)
        except (TypeError, AttributeError, ValueError, AssertionError) as error:
            if met is None or isinstance(learn.pred, Tensor):
                raise
            raise TypeError(f'the metric {met.name} fails on what the model gives, a {type(learn.pred).__name__}, with '
                            f'{error!r}: give it the output that it measures, such as lambda pred, *y: {met.name}'
                            '(pred["logits"], *y) for a dict or (pred[0], y[0]) for several outputs') from error
        if learn.training:
            self.lrs.append(learn.opt.param_groups[-1]['lr'])

    def after_cancel_train(self) -> None:
        self.cancel_train = True

    def after_cancel_validate(self) -> None:
        self.cancel_valid = True

    def _leave_empty(self, n: int) -> None:
        self.log += [None] * n  # what follows stays in its column

    def after_cancel_epoch(self) -> None:
        self._leave_empty(len(self.metric_names) - self.add_time - len(self.log))

    def after_train(self) -> None:
        self.log += _to_host(met.value for met in self._train_mets)
        if self.cancel_train:
            self._leave_empty(1 + len(self.metrics) * bool(self.train_metrics))
        self._warn_of_nan()

    def _warn_of_nan(self) -> None:
        """Say once a fit that the loss is no number any more: training goes on, as the script wants it, not unseen."""
        smoothed = self.smooth_loss.smoothed()
        if smoothed and not math.isfinite(smoothed[-1]) and not self._warned:
            self._warned = True
            first = next(i for i, loss in enumerate(smoothed) if not math.isfinite(loss))
            warnings.warn(f'the training loss is not finite since step {first} of this fit, and so are the weights: '
                          'cbs=TerminateOnNaNCallback() stops before such a step and names its items', stacklevel=2)

    def after_validate(self) -> None:
        self.log += _to_host(met.value for met in self._valid_mets)
        if self.cancel_valid and self.valid_metrics:
            self._leave_empty(1 + len(self.metrics))

    def after_epoch(self) -> None:
        self.learn.final_record = self.log[1:].copy()
        self.values.append(self.learn.final_record)
        duration_s = time.time() - self.start_epoch
        if self._in_history:
            self._add_to_history(duration_s)
        if self.add_time:
            self.log.append(format_time(duration_s))
        self.logger(self.log)
        self.iters.append(self.smooth_loss.count)

    def _add_to_history(self, duration_s: float) -> None:
        names, row = self.metric_names[:len(self.metric_names) - self.add_time], {'fit': self._fit}
        for i, name in enumerate(names):
            taken = sum(known == name or known.startswith(f'{name} (') for known in (*row, 'time'))
            # two metrics of one name are two columns
            row[f'{name} ({taken + 1})' if taken else name] = self.log[i] if i < len(self.log) else None
        self.history.rows.append({**row, 'time': round(duration_s, 3)} if self.add_time else row)

    def rows_of_fit(self) -> list[list[Any]]:
        """The rows of this fit as they were logged, those before a resume among them; None of a validation."""
        rows = self.history.rows[-len(self.values):] if self._in_history and self.values else []
        return [[format_time(cell) if name == 'time' else cell for name, cell in row.items() if name != 'fit']
                for row in rows]

    def to_df(self) -> Any:
        """`history` as a pandas DataFrame, one row an epoch.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        return self.history.to_df()

    def cleanup_fit(self) -> None:
        self._last_loss, self._left_out = None, False
        vars(self).update(self._set_aside or {})
        self._set_aside = None

    def state_dict(self) -> dict[str, Any]:
        """Everything recorded so far in this fit, and the rows of those before, for a checkpoint."""
        return {'lrs': self.lrs, 'iters': self.iters, 'values': [list(row) for row in self.values],
                'smooth_loss': self.smooth_loss.state_dict(), 'log': list(self.log),
                'history': [dict(row) for row in self.history], 'fit': self._fit}

    @tells_near_match
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`, a `state_dict()`."""
        self.lrs, self.iters = list(state['lrs']), list(state['iters'])
        self.values, self.log = [L(row) for row in state['values']], L(state['log'])
        self.smooth_loss.load_state_dict(state['smooth_loss'])
        if 'history' in state:  # earlier releases kept none
            self.history, self._fit = History(state['history']), state['fit']

    @property
    def n_epochs(self) -> int:
        """Epochs of the last fit, 0 before the first; a validation is none."""
        return sum(map(bool, self.iters))

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What IPython shows; the repr of a callback is the name of its class, by which lists of them are read."""
        printer.text(described(self, Recorder._words))

    def _words(self) -> str:
        if not self.n_epochs:
            return 'no fit yet'
        numbers = ', '.join(f'{name} {short(x)}' for name, x in zip(self.metric_names[1:], self.values[-1]))
        return f'{counted(self.n_epochs, "epoch")}, at the end {numbers}'

    plot_loss = show.plot_loss
    plot_metrics = show.plot_metrics
    plot_sched = show.plot_sched
    plot_lr_find = show.plot_lr_find
