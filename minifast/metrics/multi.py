"""Scores of a whole epoch for several labels an item, for rankings and for regression, with scikit-learn's values.

They keep predictions and targets until `value` is read. What only scikit-learn computes (`sample_weight`,
`multi_class='ovo'`, `max_fpr`) is left to it; it has to be installed then.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from minifast.metrics.base import AccumMetric, ActivationType
from minifast.metrics.scores import (_average, _check_average, _fbeta, _jaccard, _matthews, _precision, _recall,
                                     _sklearn, _squared_gap)

__all__ = ['APScoreBinary', 'APScoreMulti', 'BrierScoreMulti', 'ExplainedVariance', 'F1ScoreMulti', 'FBetaMulti',
           'HammingLossMulti', 'JaccardMulti', 'MatthewsCorrCoefMulti', 'PearsonCorrCoef', 'PrecisionMulti', 'R2Score',
           'RecallMulti', 'RocAuc', 'RocAucBinary', 'RocAucMulti', 'SpearmanCorrCoef']


# ---------------------------------------------------------------- several labels an item

def _of_labels(preds: Tensor, targs: Tensor, score: Callable, labels: Sequence[int] | None,
               average: str | None) -> Tensor:
    preds, targs = preds.bool(), targs.bool()
    if labels is not None:
        preds, targs = preds[:, labels], targs[:, labels]
    dim = 1 if average == 'samples' else 0
    tp, n_pred, n_targ = (o.sum(dim).double() for o in (preds & targs, preds, targs))
    return _average(score, tp, n_pred, n_targ, average)


def _multi(name: str, score: Callable, thresh: float, sigmoid: bool, labels: Any, average: str | None,
           sample_weight: Any, **kwargs: Any) -> AccumMetric:
    _check_average(name, average, ('micro', 'macro', 'weighted', 'samples', None))
    activation = ActivationType.Sigmoid if sigmoid else ActivationType.No
    if sample_weight is not None:
        return _sklearn(name, thresh=thresh, activation=activation, flatten=False, labels=labels, average=average,
                        sample_weight=sample_weight, **kwargs)
    func = partial(_of_labels, score=partial(score, **kwargs), labels=labels, average=average)
    return AccumMetric(func, activation=activation, thresh=thresh, flatten=False, name=name)


def F1ScoreMulti(thresh: float = 0.5, sigmoid: bool = True, labels: Sequence[int] | None = None, pos_label: int = 1,
                 average: str | None = 'macro', sample_weight: Any = None) -> AccumMetric:
    """Harmonic mean of precision and recall, for several labels an item.

    Args:
        thresh: a label counts as predicted from this probability on.
        sigmoid: predictions are logits.
        labels: the columns to look at, default all.
        pos_label: has no effect.
        average: 'micro', 'macro', 'weighted', 'samples' (over items instead of labels), or None for one number a label.
        sample_weight: of each item (by scikit-learn).
    """
    return _multi('f1_score', _fbeta, thresh, sigmoid, labels, average, sample_weight)


def FBetaMulti(beta: float, thresh: float = 0.5, sigmoid: bool = True, labels: Sequence[int] | None = None,
               pos_label: int = 1, average: str | None = 'macro', sample_weight: Any = None) -> AccumMetric:
    """`F1ScoreMulti` with recall weighing `beta` times as much as precision."""
    return _multi('fbeta_score', _fbeta, thresh, sigmoid, labels, average, sample_weight, beta=beta)


def PrecisionMulti(thresh: float = 0.5, sigmoid: bool = True, labels: Sequence[int] | None = None, pos_label: int = 1,
                   average: str | None = 'macro', sample_weight: Any = None) -> AccumMetric:
    """Which share of the predicted labels is right; arguments as in `F1ScoreMulti`."""
    return _multi('precision_score', _precision, thresh, sigmoid, labels, average, sample_weight)


def RecallMulti(thresh: float = 0.5, sigmoid: bool = True, labels: Sequence[int] | None = None, pos_label: int = 1,
                average: str | None = 'macro', sample_weight: Any = None) -> AccumMetric:
    """Which share of the labels was found; arguments as in `F1ScoreMulti`."""
    return _multi('recall_score', _recall, thresh, sigmoid, labels, average, sample_weight)


def JaccardMulti(thresh: float = 0.5, sigmoid: bool = True, labels: Sequence[int] | None = None, pos_label: int = 1,
                 average: str | None = 'macro', sample_weight: Any = None) -> AccumMetric:
    """Intersection over union of predicted and true labels; arguments as in `F1ScoreMulti`."""
    return _multi('jaccard_score', _jaccard, thresh, sigmoid, labels, average, sample_weight)


def _cells(name: str, func: Callable, thresh: float, sigmoid: bool, sample_weight: Any) -> AccumMetric:
    activation = ActivationType.Sigmoid if sigmoid else ActivationType.No
    if sample_weight is not None:
        return _sklearn(name, thresh=thresh, activation=activation, flatten=False, sample_weight=sample_weight)
    return AccumMetric(func, activation=activation, thresh=thresh, flatten=True, name=name)


def HammingLossMulti(thresh: float = 0.5, sigmoid: bool = True, labels: Any = None,
                     sample_weight: Any = None) -> AccumMetric:
    """Share of wrong labels; `labels` has no effect."""
    return _cells('hamming_loss', _squared_gap, thresh, sigmoid, sample_weight)


def BrierScoreMulti(thresh: float = 0.5, sigmoid: bool = True, sample_weight: Any = None,
                    pos_label: int | None = None) -> AccumMetric:
    """Mean squared difference of predicted and true labels, over all labels; `pos_label` has no effect."""
    return _cells('brier_score_loss', _squared_gap, thresh, sigmoid, sample_weight)


def _matthews_cells(preds: Tensor, targs: Tensor) -> Tensor:
    return _matthews(torch.bincount(targs.long() * 2 + preds.long(), minlength=4).view(2, 2).double())


def MatthewsCorrCoefMulti(thresh: float = 0.5, sigmoid: bool = True, sample_weight: Any = None) -> AccumMetric:
    """Correlation of predicted and true labels, over all labels of all items."""
    return _cells('matthews_corrcoef', _matthews_cells, thresh, sigmoid, sample_weight)


# ---------------------------------------------------------------- rankings

def _ranks(x: Tensor) -> Tensor:
    """Ranks from 1 of a vector; equal values share the mean of their ranks."""
    _, place, counts = torch.unique(x, return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2).double()[place]


def _roc_auc(preds: Tensor, targs: Tensor) -> Tensor:
    """Area under the ROC curve of scores [N] for targets 0/1 [N]: how often a positive outranks a negative."""
    positive = targs.bool()
    n_pos = positive.sum()
    n_neg = len(positive) - n_pos
    return (_ranks(preds)[positive].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg)  # nan where a class is missing


def _average_precision(preds: Tensor, targs: Tensor) -> Tensor:
    """Precision averaged over the recall steps of scores [N] for targets 0/1 [N]."""
    preds, order = preds.sort(descending=True)
    found = targs[order].double().cumsum(0)
    last = torch.cat([preds[1:] != preds[:-1], torch.ones(1, dtype=torch.bool)])  # equal scores are taken together
    found, taken = found[last], (torch.arange(len(preds)) + 1)[last]
    recall_steps = torch.diff(found, prepend=found.new_zeros(1)) / found[-1].clamp(min=1)
    return (recall_steps * found / taken).sum()


def _of_columns(preds: Tensor, targs: Tensor, score: Callable, average: str | None) -> Tensor:
    """A ranking score for [N,L] scores and 0/1 targets, averaged over the columns."""
    if average == 'micro':
        return score(preds.flatten(), targs.flatten())
    if average == 'samples':
        preds, targs, average = preds.T, targs.T, 'macro'
    scores = torch.stack([score(p, t) for p, t in zip(preds.unbind(1), targs.unbind(1))])
    if average is None:
        return scores
    weights = targs.double().sum(0) if average == 'weighted' else torch.ones_like(scores)
    return (scores * weights).sum() / weights.sum()


def _of_classes(preds: Tensor, targs: Tensor, average: str | None) -> Tensor:
    one_hot = targs.flatten()[:, None] == torch.arange(preds.shape[1])
    if preds.shape[1] == 2:
        return _roc_auc(preds[:, 1], one_hot[:, 1])
    return _of_columns(preds, one_hot, _roc_auc, average)


_AVERAGES = ('micro', 'macro', 'weighted', 'samples', None)


def RocAuc(axis: int = -1, average: str | None = 'macro', sample_weight: Any = None, max_fpr: float | None = None,
           multi_class: str = 'ovr') -> AccumMetric:
    """Area under the ROC curve of each class against the others, for one label an item.

    Args:
        axis: of the classes in the predictions (logits).
        average: over classes: 'micro', 'macro', 'weighted', or None for one number a class.
        sample_weight: of each item (by scikit-learn).
        max_fpr: only up to this false positive rate (by scikit-learn).
        multi_class: 'ovr', or 'ovo' for each class against each other (by scikit-learn).
    """
    _check_average('RocAuc, multi_class', multi_class, ('ovr', 'ovo'))
    _check_average('RocAuc', average, _AVERAGES)
    if sample_weight is not None or max_fpr is not None or multi_class == 'ovo':
        return _sklearn('roc_auc_score', axis=axis, activation=ActivationType.Softmax, flatten=False, average=average,
                        sample_weight=sample_weight, max_fpr=max_fpr, multi_class=multi_class)
    return AccumMetric(partial(_of_classes, average=average), dim_argmax=axis, activation=ActivationType.Softmax,
                       flatten=False, name='roc_auc_score')


def RocAucBinary(axis: int = -1, average: str | None = 'macro', sample_weight: Any = None,
                 max_fpr: float | None = None, multi_class: str = 'raise') -> AccumMetric:
    """Area under the ROC curve of the last of two classes; `average` and `multi_class` have no effect."""
    if sample_weight is not None or max_fpr is not None:
        return _sklearn('roc_auc_score', axis=axis, activation=ActivationType.BinarySoftmax, average=average,
                        sample_weight=sample_weight, max_fpr=max_fpr, multi_class=multi_class)
    return AccumMetric(_roc_auc, dim_argmax=axis, activation=ActivationType.BinarySoftmax, name='roc_auc_score')


def RocAucMulti(sigmoid: bool = True, average: str | None = 'macro', sample_weight: Any = None,
                max_fpr: float | None = None) -> AccumMetric:
    """Area under the ROC curve of each label, for several labels an item; `average` as in `F1ScoreMulti`."""
    _check_average('RocAucMulti', average, _AVERAGES)
    activation = ActivationType.Sigmoid if sigmoid else ActivationType.No
    if sample_weight is not None or max_fpr is not None:
        return _sklearn('roc_auc_score', activation=activation, flatten=False, is_class=False, average=average,
                        sample_weight=sample_weight, max_fpr=max_fpr)
    return AccumMetric(partial(_of_columns, score=_roc_auc, average=average), activation=activation, flatten=False,
                       name='roc_auc_score')


def APScoreBinary(axis: int = -1, average: str | None = 'macro', pos_label: int = 1,
                  sample_weight: Any = None) -> AccumMetric:
    """Average precision of the last of two classes; `average` has no effect."""
    if sample_weight is not None or pos_label != 1:
        return _sklearn('average_precision_score', axis=axis, activation=ActivationType.BinarySoftmax, average=average,
                        pos_label=pos_label, sample_weight=sample_weight)
    return AccumMetric(_average_precision, dim_argmax=axis, activation=ActivationType.BinarySoftmax,
                       name='average_precision_score')


def APScoreMulti(sigmoid: bool = True, average: str | None = 'macro', pos_label: int = 1,
                 sample_weight: Any = None) -> AccumMetric:
    """Average precision of each label, for several labels an item; `average` as in `F1ScoreMulti`."""
    _check_average('APScoreMulti', average, _AVERAGES)
    activation = ActivationType.Sigmoid if sigmoid else ActivationType.No
    if sample_weight is not None:
        return _sklearn('average_precision_score', activation=activation, flatten=False, is_class=False,
                        average=average, sample_weight=sample_weight)
    return AccumMetric(partial(_of_columns, score=_average_precision, average=average), activation=activation,
                       flatten=False, name='average_precision_score')


# ---------------------------------------------------------------- regression

def _explained(preds: Tensor, targs: Tensor, centred: bool) -> Tensor:
    preds, targs = preds.double(), targs.double()
    rest = (targs - preds) - ((targs - preds).mean() if centred else 0)
    return 1 - rest.square().sum() / (targs - targs.mean()).square().sum()


def ExplainedVariance(sample_weight: Any = None) -> AccumMetric:
    """Which share of the targets' variance the predictions explain, a constant offset aside."""
    if sample_weight is not None:
        return _sklearn('explained_variance_score', is_class=False, sample_weight=sample_weight)
    return AccumMetric(partial(_explained, centred=True), name='explained_variance_score')


def R2Score(sample_weight: Any = None) -> AccumMetric:
    """Which share of the targets' variance the predictions explain."""
    if sample_weight is not None:
        return _sklearn('r2_score', is_class=False, sample_weight=sample_weight)
    return AccumMetric(partial(_explained, centred=False), name='r2_score')


def _pearson(preds: Tensor, targs: Tensor) -> Tensor:
    return torch.corrcoef(torch.stack([preds.double(), targs.double()]))[0, 1]


def _spearman(preds: Tensor, targs: Tensor) -> Tensor:
    return _pearson(_ranks(preds), _ranks(targs))


def PearsonCorrCoef(dim_argmax: int | None = None, **kwargs: Any) -> AccumMetric:
    """Linear correlation of predictions and targets; further arguments as in `AccumMetric`."""
    return AccumMetric(_pearson, dim_argmax=dim_argmax, **{'name': 'pearsonr', **kwargs})


def SpearmanCorrCoef(dim_argmax: int | None = None, axis: int = 0, nan_policy: str = 'propagate',
                     **kwargs: Any) -> AccumMetric:
    """Correlation of the ranks of predictions and targets; `axis` and `nan_policy` have no effect."""
    return AccumMetric(_spearman, dim_argmax=dim_argmax, **{'name': 'spearmanr', **kwargs})
