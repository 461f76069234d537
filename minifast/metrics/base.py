"""What a metric is: `reset`, `accumulate(learn)` for each batch, `value`, `name`.

The metrics here keep sums (or lists) on the device and never wait for it while batches run; `value` is a number on the
device or the host, the same on all ranks. Reading `value` is a collective operation when several processes train.
"""
from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from fastcore.basics import class2attr
from fastcore.foundation import L
from torch import Tensor, nn

from minifast.arguments import tells_near_match
from minifast.distributed import gather, gather_rows, reducing
from minifast.losses import BaseLoss, BCEWithLogitsLossFlat, level_of, takes_classes
from minifast.terminal import described
from minifast.torch_core import find_bs, flatten_check, plain

__all__ = ['AccumMetric', 'ActivationType', 'AvgLoss', 'AvgMetric', 'LossMetric', 'LossMetrics',
           'Metric', 'TorchMetric', 'ValueMetric', 'as_classes', 'mk_metric', 'mk_metrics', 'sum_over_ranks']


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum of a tensor over all processes; `x` itself in one process."""
    return gather(x[None]).sum(0) if reducing() else x


def _rows_of_all_ranks(batches: list[Tensor], n_items: int) -> Tensor | None:
    """The rows of all processes in the order of the data set; None where nobody has any.

    Args:
        batches: this process's rows.
        n_items: of how many items they are.
    """
    rows = torch.cat(batches) if batches else None
    if not reducing():
        return rows
    each = len(rows) // n_items if n_items and len(rows) % n_items == 0 else 1
    if rows is not None and each > 1:  # an item's rows stay together
        rows = rows.view(n_items, each, *rows.shape[1:])
    found = gather_rows(rows)
    return found if found is None or each <= 1 else found.flatten(0, 1)


def _func_name(func: Callable) -> str:
    while hasattr(func, 'func'):
        func = func.func
    return getattr(func, '__name__', type(func).__name__)


# ---------------------------------------------------------------- two classes by one output

_judging: list[Any] = []
"""The loss function of the learner whose batch a function is called for: it says what one output column means."""


def as_classes(pred: Tensor, axis: int, loss_func: Any = None) -> Tensor:
    """Predictions whose largest element along `axis` is the class, also where two classes share one output column.

    Args:
        pred: [..., C at `axis`, ...]; with C = 1 a second column is put before it: the level above which it means 1.
        axis: of the classes.
        loss_func: says that level: 0 for logits (BCEWithLogitsLoss), 0.5 for probabilities (BCELoss). Where it is none
            that is known, numbers that all lie in 0..1 are probabilities.
    """
    pred = plain(pred)
    if pred.ndim == 0 or pred.shape[axis] != 1 or not pred.is_floating_point():
        return pred
    loss_func = _judging[-1] if loss_func is None and _judging else loss_func
    level = _level(pred, loss_func)
    return pred if level is None else torch.cat([level.to(pred).expand_as(pred), pred], axis)


def _level(pred: Tensor, loss_func: Any) -> Tensor | None:
    """The output above which the answer is 1, None where the column stands for the one class that there is."""
    if isinstance(loss_func, BCEWithLogitsLossFlat):
        return torch.logit(torch.tensor(float(loss_func.thresh)))
    func = loss_func.func if isinstance(loss_func, BaseLoss) else loss_func
    level = level_of(func)
    if level is not None:
        return torch.tensor(level)
    if isinstance(loss_func, BaseLoss) or isinstance(func, nn.modules.loss._Loss) or takes_classes(func):
        return None
    inside = (pred >= 0).all() & (pred <= 1).all()
    return torch.where(inside, 0.5, 0.)


class Metric:
    """Blueprint of a metric: a subclass defines `accumulate`, `value`, and `reset` where it keeps something.

    Example:
        >>> class Largest(Metric):
        ...     def reset(self): self.found = 0.
        ...     def accumulate(self, learn): self.found = max(self.found, float(learn.pred.max()))
        ...     @property
        ...     def value(self): return self.found
        >>> learn = Learner(dls, learn.model, metrics=[accuracy, Largest()])
        >>> _, _, largest = learn.validate()
    """

    def __repr__(self) -> str:
        return described(self, lambda metric: metric.name)

    def reset(self) -> None:
        """Forget everything, before an epoch of training or validation."""

    def accumulate(self, learn: Any) -> None:
        """Take in one batch: `learn` has `pred`, `y`, `xb`, `yb`, `loss` and `to_detach`."""

    @property
    def value(self) -> Any:
        """The metric over the batches since `reset`."""
        raise NotImplementedError(f'{type(self).__name__} does not define value')

    @property
    def name(self) -> str:
        """The column's name: the class name in snake case, without Metric."""
        return class2attr(self, 'Metric')


_halves = (torch.float16, torch.bfloat16)


class _Average(Metric):
    """A mean over batches, weighted by batch size. `total` and `count` are this process's own."""

    def reset(self) -> None:
        """Start a new mean."""
        self.total, self.count = 0., 0

    def _add(self, value: Any, bs: int) -> None:
        if isinstance(value, Tensor):
            value = plain(value)
            value = value.detach() if value.requires_grad else value
            value = value.float() if value.dtype in _halves else value
        # one operation for the product and the sum
        both = isinstance(self.total, Tensor) and isinstance(value, Tensor)
        self.total = torch.add(self.total, value, alpha=bs) if both else self.total + value * bs
        self.count += bs

    @property
    def value(self) -> Tensor | float | None:
        """The mean so far, a 0-d tensor on the device (a float for functions that give floats); None before a batch."""
        if not reducing():
            return self.total / self.count if self.count else None
        total = torch.as_tensor(self.total, dtype=torch.float32)
        if total.device.type == 'cpu' and torch.distributed.get_backend() == 'nccl':
            total = total.to(torch.accelerator.current_accelerator())
        both = sum_over_ranks(torch.stack([total, total.new_tensor(float(self.count))]))
        return both[0] / both[1] if both[1] else None  # sync: once an epoch


class AvgMetric(_Average):
    """The mean of a function of prediction and targets, weighted by batch size.

    Args:
        func: `func(pred, *yb) -> number`, the mean over a batch.
    """

    def __init__(self, func: Callable[..., Any]) -> None:
        self.func = func
        self.reset()

    def accumulate(self, learn: Any) -> None:
        """Add one batch, `func(learn.pred, *learn.yb)`."""
        _judging.append(getattr(learn, 'loss_func', None))
        try:
            value = self.func(learn.pred, *learn.yb)
        finally:
            _judging.pop()
        if isinstance(value, Metric):
            raise TypeError(f'the metric {self.name} makes a metric when it is called: write metrics=[{self.name}()]')
        self._add(value, find_bs(learn.yb))

    @property
    def name(self) -> str:
        """The function's name."""
        return _func_name(self.func)


class AvgLoss(_Average):
    """The mean loss, weighted by batch size."""

    def __init__(self) -> None:
        self.reset()

    def accumulate(self, learn: Any) -> None:
        """Add one batch, the mean of `learn.loss`."""
        self._add(learn.loss if learn.loss.ndim == 0 else learn.loss.mean(), find_bs(learn.yb))

    @property
    def name(self) -> str:
        """`loss`."""
        return 'loss'


class ValueMetric(Metric):
    """A number computed elsewhere, such as in a callback.

    Args:
        func: gives the value.
        metric_name: of the column, default the function's name.
    """

    @tells_near_match
    def __init__(self, func: Callable[[], Any], metric_name: str | None = None) -> None:
        self.func, self.metric_name = func, metric_name

    @property
    def value(self) -> Any:
        """`func()`."""
        return self.func()

    @property
    def name(self) -> str:
        """`metric_name`."""
        return self.metric_name or _func_name(self.func)


class LossMetric(_Average):
    """The mean of an attribute of the loss function, such as one term of a sum.

    Args:
        attr: set by the loss function at every call.
        nm: of the column, default `attr`.
    """

    @tells_near_match
    def __init__(self, attr: str, nm: str | None = None) -> None:
        self.attr, self.nm = attr, nm
        self.reset()

    def accumulate(self, learn: Any) -> None:
        """Add one batch, the attribute of `learn.loss_func` (0 where it has none)."""
        self._add(getattr(learn.loss_func, self.attr, 0), find_bs(learn.yb))

    @property
    def name(self) -> str:
        """`nm`, else `attr`."""
        return self.attr if self.nm is None else self.nm


def LossMetrics(attrs: str | Iterable[str], nms: str | Iterable[str] | None = None) -> list[LossMetric]:
    """A `LossMetric` for each attribute.

    Args:
        attrs: the attributes, a list or a string of names with commas between, such as 'dice,focal'.
        nms: their columns' names, likewise; default: `attrs`.
    """
    attrs = attrs.split(',') if isinstance(attrs, str) else list(attrs)
    nms = attrs if nms is None else nms.split(',') if isinstance(nms, str) else nms
    return [LossMetric(attr, nm) for attr, nm in zip(attrs, nms)]


class ActivationType:
    """What an `AccumMetric` does to predictions first."""

    No, Sigmoid, Softmax, BinarySoftmax = 'no', 'sigmoid', 'softmax', 'binarysoftmax'


class AccumMetric(Metric):
    """A function of all predictions and targets of an epoch; they are kept on the device and moved once, for `value`.

    Args:
        func: `func(preds, targs, **kwargs) -> number`, on CPU tensors.
        dim_argmax: the class axis, if the index of the largest prediction is wanted.
        activation: one of `ActivationType`; `BinarySoftmax` keeps the last class's probability.
        thresh: turn predictions into whether they reach it.
        to_np: give `func` numpy arrays.
        invert_arg: give `func` targets first, as scikit-learn wants them.
        flatten: flatten predictions and targets.
        name: of the column, default the function's name.
        **kwargs: for `func`.

    Example:
        >>> worst = AccumMetric(lambda preds, targs: (preds - targs).abs().max(), name='worst')
        >>> worst(torch.tensor([1., 2.]), torch.tensor([1., 4.])).item()
        2.0
    """

    def __init__(self, func: Callable[..., Any], dim_argmax: int | None = None, activation: str = ActivationType.No,
                 thresh: float | None = None, to_np: bool = False, invert_arg: bool = False, flatten: bool = True,
                 name: str | None = None, **kwargs: Any) -> None:
        self.func, self.dim_argmax, self.activation = func, dim_argmax, activation
        self.thresh, self.flatten = thresh, flatten
        self._name = _func_name(func) if name is None else name
        self.to_np, self.invert_args, self.kwargs = to_np, invert_arg, kwargs
        self.reset()

    def reset(self) -> None:
        """Forget predictions and targets."""
        self.preds, self.targs, self.n_items = [], [], 0

    def accumulate(self, learn: Any) -> None:
        """Keep one batch, `learn.pred` and `learn.y`, after activation, argmax and threshold."""
        pred = plain(learn.pred).detach()
        if self.dim_argmax is not None:
            pred = as_classes(pred, self.dim_argmax, getattr(learn, 'loss_func', None))
        if self.activation in (ActivationType.Softmax, ActivationType.BinarySoftmax):
            axis = (1 if self.dim_argmax is None else self.dim_argmax) % pred.ndim
            pred = F.softmax(pred, dim=axis)
            if self.activation == ActivationType.BinarySoftmax:
                pred = pred.select(axis, -1)
            elif axis == 0:
                pred = pred.movedim(0, -1)  # batches are joined along their items
        elif self.activation == ActivationType.Sigmoid:
            pred = torch.sigmoid(pred)
        elif self.dim_argmax is not None:
            pred = pred.argmax(dim=self.dim_argmax)
        self.n_items += find_bs(learn.y)
        self.accum_values(pred if self.thresh is None else pred >= self.thresh, learn.y, learn)

    def accum_values(self, preds: Tensor, targs: Tensor, learn: Any = None) -> None:
        """Keep `preds` and `targs` of one batch as they are, but for `flatten`; `learn` is not looked at."""
        preds, targs = plain(preds).detach(), plain(targs).detach()
        if self.flatten:
            preds, targs = flatten_check(preds, targs)
        self.preds.append(preds)
        self.targs.append(targs)

    def __call__(self, preds: Tensor, targs: Tensor) -> Any:
        """The metric of `preds` and `targs` alone; activation, argmax and threshold are left out."""
        self.reset()
        self.accum_values(preds, targs)
        return self.value

    @property
    def value(self) -> Any:
        """What `func` gives for everything since `reset`; None before a batch."""
        preds, targs = (_rows_of_all_ranks(batches, self.n_items) for batches in (self.preds, self.targs))
        if preds is None:
            return None
        preds, targs = preds.cpu(), targs.cpu()  # sync: once an epoch, the function runs on the host
        if self.to_np:
            preds, targs = preds.numpy(), targs.numpy()  # sync: none, both are on the host
        return self.func(*((targs, preds) if self.invert_args else (preds, targs)), **self.kwargs)

    @property
    def name(self) -> str:
        """The column's name; settable."""
        return self._name

    @name.setter
    def name(self, value: str) -> None:
        self._name = value


class TorchMetric(Metric):
    """A torchmetrics object (or anything with `update(pred, *targets)`, `compute()` and `reset()`) as a metric.

    Args:
        metric: the object; it is moved to the predictions' device.
        name: of the column, default its class name in snake case.
    """

    @tells_near_match
    def __init__(self, metric: Any, name: str | None = None) -> None:
        self.metric, self._name = metric, name or class2attr(metric, 'Metric')

    def reset(self) -> None:
        """Reset the object."""
        self.metric.reset()

    def accumulate(self, learn: Any) -> None:
        """Update the object with `learn.pred` and the targets `learn.yb`."""
        pred = plain(learn.pred).detach()
        if isinstance(self.metric, nn.Module) and getattr(self.metric, 'device', pred.device) != pred.device:
            self.metric.to(pred.device)
        self.metric.update(pred, *map(plain, learn.yb))

    @property
    def value(self) -> Any:
        """What the object computes."""
        return self.metric.compute()

    @property
    def name(self) -> str:
        """The column's name."""
        return self._name


_ACCEPTED = ('a function of (prediction, target) that returns a number, a Metric, or a torchmetrics object, such as '
             'metrics=[accuracy, F1Score()]')


def mk_metric(m: Any) -> Metric:
    """A `Metric` from whatever a Learner takes as one.

    Args:
        m: a `Metric`, a `Metric` class that needs no arguments, a function, or an object with `update`, `compute` and
            `reset` (torchmetrics).

    Raises:
        TypeError: it is something else.
    """
    if isinstance(m, Metric):
        return m
    if inspect.isclass(m):
        if issubclass(m, Metric) or all(hasattr(m, name) for name in ('update', 'compute', 'reset')):
            return mk_metric(m())
        raise TypeError(f'{m.__name__} is a class that is no Metric; a metric is {_ACCEPTED}')
    if all(callable(getattr(m, name, None)) for name in ('update', 'compute', 'reset')):
        return TorchMetric(m)
    if callable(m):
        return AvgMetric(m)
    raise TypeError(f'{m!r} ({type(m).__name__}) is no metric; a metric is {_ACCEPTED}')


def mk_metrics(metrics: Any) -> L:
    """`Metric`s of `metrics`: one, a list of them, None, or a torchmetrics collection (a column for each member)."""
    if metrics is None:
        return L()
    if isinstance(metrics, nn.ModuleDict) and hasattr(metrics, 'compute'):  # a MetricCollection
        return L([TorchMetric(metric, name) for name, metric in metrics.items()])
    if isinstance(metrics, Iterable) and not isinstance(metrics, (str, dict, nn.Module, Metric)):
        return L([o for m in metrics for o in mk_metrics(m)])
    return L([mk_metric(metrics)])
