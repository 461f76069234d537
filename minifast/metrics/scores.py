"""Scores of a whole epoch for one label an item, with scikit-learn's values and column names.

They count a confusion matrix on the device, so they need no memory however large the set. A `sample_weight` is left to
scikit-learn, which has to be installed then.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from minifast.metrics.base import AccumMetric, ActivationType, sum_over_ranks
from minifast.torch_core import flatten_check, plain

__all__ = ['BalancedAccuracy', 'BrierScore', 'CohenKappa', 'ConfusionMetric', 'F1Score', 'FBeta', 'HammingLoss',
           'Jaccard', 'MatthewsCorrCoef', 'Precision', 'Recall', 'skm_to_fastai']


def skm_to_fastai(func: Callable, is_class: bool = True, thresh: float | None = None, axis: int = -1,
                  activation: str | None = None, **kwargs: Any) -> AccumMetric:
    """A function of scikit-learn's `sklearn.metrics` as a metric.

    Args:
        func: `func(y_true, y_pred, **kwargs)` on numpy arrays.
        is_class: the predictions are classes along `axis`; the largest counts.
        thresh: the predictions are probabilities of labels; those that reach it count.
        axis: of the classes.
        activation: one of `ActivationType`; default sigmoid with a `thresh`.
        kwargs: for `func`, or for `AccumMetric`.
    """
    if activation is None:
        activation = ActivationType.Sigmoid if is_class and thresh is not None else ActivationType.No
    return AccumMetric(func, dim_argmax=axis if is_class and thresh is None else None, activation=activation,
                       thresh=thresh, to_np=True, invert_arg=True, **kwargs)


def _sklearn(name: str, **kwargs: Any) -> AccumMetric:
    """`sklearn.metrics.<name>`, imported now."""
    try:
        import sklearn.metrics as skm
    except ImportError as error:
        raise ImportError(f'{name} with these arguments needs scikit-learn: pip install scikit-learn') from error
    return skm_to_fastai(getattr(skm, name), **kwargs)


# ---------------------------------------------------------------- counting single labels

class ConfusionMetric(AccumMetric):
    """A function of the confusion matrix of an epoch."""

    def __init__(self, func: Callable[[Tensor], Any], axis: int = -1, name: str | None = None) -> None:
        """
        Args:
            func: takes the matrix [target class, predicted class], float64 on the CPU; its last row and column
                count what is none of the model's classes.
            axis: of the classes in the predictions.
            name: of the column.
        """
        super().__init__(func, dim_argmax=axis, name=name)

    def reset(self) -> None:
        """Forget the counts."""
        self.counts: Tensor | None = None

    def accumulate(self, learn: Any) -> None:
        """Count one batch."""
        pred = plain(learn.pred).detach()
        self._count(pred.argmax(dim=self.dim_argmax), learn.y, pred.shape[self.dim_argmax])

    def accum_values(self, preds: Tensor, targs: Tensor, learn: Any = None) -> None:
        """Count predicted classes and target classes of any equal size."""
        preds, targs = plain(preds), plain(targs)
        largest = torch.stack([preds.max(), targs.max()]).max()
        self._count(preds, targs, int(largest) + 1)  # sync: without a class axis the number of classes is in the data

    def _count(self, preds: Tensor, targs: Tensor, n: int) -> None:
        preds, targs = flatten_check(preds.detach(), plain(targs).detach())
        side = max(n + 1, 0 if self.counts is None else len(self.counts))
        # what is no class, such as an ignored pixel, counts in the last row and column
        preds, targs = (torch.where((o >= 0) & (o < n), o, side - 1).long() for o in (preds, targs))
        batch = torch.zeros(side * side, dtype=torch.int64, device=preds.device)
        batch.scatter_add_(0, targs * side + preds, torch.ones_like(preds))
        batch = batch.view(side, side)
        self.counts = batch if self.counts is None else batch + _grown(self.counts, side)

    @property
    def value(self) -> Any:
        """What `func` gives for the counts since `reset`; None before a batch."""
        if self.counts is None:
            return None
        return self.func(self._host_counts())

    def _host_counts(self) -> Tensor:
        return sum_over_ranks(self.counts).cpu().double()  # sync: once an epoch


def _grown(counts: Tensor, side: int) -> Tensor:
    """The same counts in a larger matrix, the outsiders still last."""
    if len(counts) == side:
        return counts
    grown = counts.new_zeros(side, side)
    keep = torch.tensor([*range(len(counts) - 1), side - 1], device=counts.device)
    grown[keep[:, None], keep] = counts
    return grown


def _present(counts: Tensor) -> Tensor:
    """The matrix of the classes that occur among targets or predictions."""
    occur = counts.sum(0) + counts.sum(1) > 0
    return counts[occur][:, occur]


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b > 0, a / b.clamp(min=1e-300), 0.)


def _precision(tp: Tensor, n_pred: Tensor, n_targ: Tensor) -> Tensor:
    return _ratio(tp, n_pred)


def _recall(tp: Tensor, n_pred: Tensor, n_targ: Tensor) -> Tensor:
    return _ratio(tp, n_targ)


def _fbeta(tp: Tensor, n_pred: Tensor, n_targ: Tensor, beta: float = 1.) -> Tensor:
    return _ratio((1 + beta**2) * tp, beta**2 * n_targ + n_pred)


def _jaccard(tp: Tensor, n_pred: Tensor, n_targ: Tensor) -> Tensor:
    return _ratio(tp, n_pred + n_targ - tp)


def _average(score: Callable, tp: Tensor, n_pred: Tensor, n_targ: Tensor, average: str | None) -> Tensor:
    if average == 'micro':
        return score(tp.sum(), n_pred.sum(), n_targ.sum())
    scores = score(tp, n_pred, n_targ)
    if average is None:
        return scores
    return _ratio((scores * n_targ).sum(), n_targ.sum()) if average == 'weighted' else scores.mean()


def _check_average(name: str, average: str | None, allowed: tuple) -> None:
    if average not in allowed:
        raise ValueError(f'{name}: average={average!r} is none of {", ".join(map(repr, allowed))}')


def _of_counts(counts: Tensor, score: Callable, name: str, labels: Sequence[int] | None, pos_label: int,
               average: str | None) -> Tensor:
    n_pred, n_targ, tp = counts.sum(0), counts.sum(1), counts.diag()
    if average == 'binary':
        n_present = int((n_pred + n_targ > 0).sum())
        if n_present > 2:
            raise ValueError(f"{name}: average='binary' looks at class {pos_label} of two, and {n_present} classes "
                             "occur: use average='macro', 'micro' or 'weighted'")
        labels = [pos_label] if pos_label < len(tp) - 1 else [-1]
        average = 'macro'
    chosen = n_pred + n_targ > 0 if labels is None else torch.tensor([o if o < len(tp) - 1 else -1 for o in labels])
    return _average(score, tp[chosen], n_pred[chosen], n_targ[chosen], average)


def _single(name: str, score: Callable, axis: int, labels: Any, pos_label: int, average: str | None,
            sample_weight: Any, **kwargs: Any) -> AccumMetric:
    _check_average(name, average, ('binary', 'micro', 'macro', 'weighted', None))
    if sample_weight is not None:
        return _sklearn(name, axis=axis, labels=labels, pos_label=pos_label, average=average,
                        sample_weight=sample_weight, **kwargs)
    func = partial(_of_counts, score=partial(score, **kwargs), name=name, labels=labels, pos_label=pos_label,
                   average=average)
    return ConfusionMetric(func, axis=axis, name=name)


def F1Score(axis: int = -1, labels: Sequence[int] | None = None, pos_label: int = 1, average: str | None = 'binary',
            sample_weight: Any = None) -> AccumMetric:
    """Harmonic mean of precision and recall, for one label an item.

    Args:
        axis: of the classes in the predictions.
        labels: the classes to look at, default those that occur.
        pos_label: the class that `average='binary'` looks at.
        average: 'binary', 'micro', 'macro', 'weighted', or None for one number a class.
        sample_weight: of each item (by scikit-learn).
    """
    return _single('f1_score', _fbeta, axis, labels, pos_label, average, sample_weight)


def FBeta(beta: float, axis: int = -1, labels: Sequence[int] | None = None, pos_label: int = 1,
          average: str | None = 'binary', sample_weight: Any = None) -> AccumMetric:
    """`F1Score` with recall weighing `beta` times as much as precision."""
    return _single('fbeta_score', _fbeta, axis, labels, pos_label, average, sample_weight, beta=beta)


def Precision(axis: int = -1, labels: Sequence[int] | None = None, pos_label: int = 1, average: str | None = 'binary',
              sample_weight: Any = None) -> AccumMetric:
    """Which share of what was predicted as a class is right; arguments as in `F1Score`."""
    return _single('precision_score', _precision, axis, labels, pos_label, average, sample_weight)


def Recall(axis: int = -1, labels: Sequence[int] | None = None, pos_label: int = 1, average: str | None = 'binary',
           sample_weight: Any = None) -> AccumMetric:
    """Which share of a class was found; arguments as in `F1Score`."""
    return _single('recall_score', _recall, axis, labels, pos_label, average, sample_weight)


def Jaccard(axis: int = -1, labels: Sequence[int] | None = None, pos_label: int = 1, average: str | None = 'binary',
            sample_weight: Any = None) -> AccumMetric:
    """Intersection over union of predicted and true items of a class; arguments as in `F1Score`."""
    return _single('jaccard_score', _jaccard, axis, labels, pos_label, average, sample_weight)


def _balanced_accuracy(counts: Tensor, adjusted: bool = False) -> Tensor:
    recalls = (counts.diag() / counts.sum(1))[counts.sum(1) > 0]
    score, chance = recalls.mean(), 1 / len(recalls)
    return (score - chance) / (1 - chance) if adjusted else score


def BalancedAccuracy(axis: int = -1, sample_weight: Any = None, adjusted: bool = False) -> AccumMetric:
    """Mean recall over the classes that occur; `adjusted` puts chance at 0."""
    if sample_weight is not None:
        return _sklearn('balanced_accuracy_score', axis=axis, sample_weight=sample_weight, adjusted=adjusted)
    return ConfusionMetric(partial(_balanced_accuracy, adjusted=adjusted), axis, 'balanced_accuracy_score')


def _cohen_kappa(counts: Tensor, labels: Sequence[int] | None = None, weights: str | None = None) -> Tensor:
    counts = _present(counts) if labels is None else counts[torch.tensor(labels)][:, torch.tensor(labels)]
    distance = (torch.arange(len(counts))[:, None] - torch.arange(len(counts))).abs().double()
    cost = distance if weights == 'linear' else distance**2 if weights == 'quadratic' else (distance > 0).double()
    expected = counts.sum(1)[:, None] * counts.sum(0) / counts.sum()
    return 1 - (cost * counts).sum() / (cost * expected).sum()


def CohenKappa(axis: int = -1, labels: Sequence[int] | None = None, weights: str | None = None,
               sample_weight: Any = None) -> AccumMetric:
    """Agreement beyond chance; `weights` 'linear' or 'quadratic' make distant classes count more."""
    if sample_weight is not None:
        return _sklearn('cohen_kappa_score', axis=axis, labels=labels, weights=weights, sample_weight=sample_weight)
    _check_average('CohenKappa, weights', weights, (None, 'linear', 'quadratic'))
    return ConfusionMetric(partial(_cohen_kappa, labels=labels, weights=weights), axis, 'cohen_kappa_score')


def _matthews(counts: Tensor) -> Tensor:
    n_pred, n_targ, n = counts.sum(0), counts.sum(1), counts.sum()
    agree = counts.diag().sum() * n - (n_pred * n_targ).sum()
    return _ratio(agree, ((n**2 - (n_pred**2).sum()) * (n**2 - (n_targ**2).sum())).sqrt())


def MatthewsCorrCoef(sample_weight: Any = None, axis: int = -1) -> AccumMetric:
    """Correlation of predicted and true classes, -1 to 1."""
    if sample_weight is not None:
        return _sklearn('matthews_corrcoef', axis=axis, sample_weight=sample_weight)
    return ConfusionMetric(_matthews, axis, 'matthews_corrcoef')


def HammingLoss(axis: int = -1, sample_weight: Any = None) -> AccumMetric:
    """Share of wrong classes."""
    if sample_weight is not None:
        return _sklearn('hamming_loss', axis=axis, sample_weight=sample_weight)
    return ConfusionMetric(lambda counts: 1 - counts.diag().sum() / counts.sum(), axis, 'hamming_loss')


def _squared_gap(preds: Tensor, targs: Tensor) -> Tensor:
    return (preds.double() - targs.double()).square().mean()


def BrierScore(axis: int = -1, sample_weight: Any = None, pos_label: int | None = None) -> AccumMetric:
    """Mean squared difference of predicted and true class of two: of the answer, not its probability, as in fastai."""
    if sample_weight is not None or pos_label is not None:
        return _sklearn('brier_score_loss', axis=axis, sample_weight=sample_weight, pos_label=pos_label)
    return AccumMetric(_squared_gap, dim_argmax=axis, name='brier_score_loss')
