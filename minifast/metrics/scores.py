"""Scores of a whole epoch by scikit-learn and scipy, under fastai's names; both are imported when a score is made.

Predictions and targets are kept on the device and go to the host once, for `value`. The scores' names are
scikit-learn's: `F1Score` is the column `f1_score`.

Source: scikit-learn, `sklearn.metrics`; scipy, `scipy.stats`.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minifast.arguments import tells_near_match
from minifast.metrics.base import AccumMetric, ActivationType

__all__ = ['APScoreBinary', 'APScoreMulti', 'BalancedAccuracy', 'BrierScore', 'BrierScoreMulti', 'CohenKappa',
           'ExplainedVariance', 'F1Score', 'F1ScoreMulti', 'FBeta', 'FBetaMulti', 'HammingLoss', 'HammingLossMulti',
           'Jaccard', 'JaccardMulti', 'MatthewsCorrCoef', 'MatthewsCorrCoefMulti', 'PearsonCorrCoef', 'Precision',
           'PrecisionMulti', 'R2Score', 'Recall', 'RecallMulti', 'RocAuc', 'RocAucBinary', 'RocAucMulti',
           'SpearmanCorrCoef', 'skm_to_fastai']


def skm_to_fastai(func: Callable[..., Any], is_class: bool = True, thresh: float | None = None, axis: int = -1,
                  activation: str | None = None, **kwargs: Any) -> AccumMetric:
    """A function of scikit-learn's `sklearn.metrics` as a metric.

    Args:
        func: `func(y_true, y_pred, **kwargs)` on numpy arrays.
        is_class: the predictions are classes along `axis`; the largest counts.
        thresh: the predictions are probabilities of labels; those that reach it count.
        axis: of the classes.
        activation: one of `ActivationType`; default sigmoid with a `thresh`.
        kwargs: for `func`, or for `AccumMetric`.

    Example:
        >>> import sklearn.metrics
        >>> score = skm_to_fastai(sklearn.metrics.fbeta_score, beta=2, average='macro')
        >>> score(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 1, 0, 0]))
        0.7738095238095238
    """
    if activation is None:
        activation = ActivationType.Sigmoid if is_class and thresh is not None else ActivationType.No
    return AccumMetric(func, dim_argmax=axis if is_class and thresh is None else None, activation=activation,
                       thresh=thresh, to_np=True, invert_arg=True, **kwargs)


def _score(name: str, **kwargs: Any) -> AccumMetric:
    """`sklearn.metrics.<name>` as a metric."""
    import sklearn.metrics as skm
    return skm_to_fastai(getattr(skm, name), **kwargs)


def _averaged(name: str, average: str | None, allowed: Sequence[str | None], **kwargs: Any) -> AccumMetric:
    """A score with an average, whose name is checked now and not at the end of the first epoch."""
    if average not in allowed:
        raise ValueError(f'{name}: average={average!r} is none of {", ".join(map(repr, allowed))}')
    return _score(name, average=average, **kwargs)


# ---------------------------------------------------------------- one label an item

def _single(name: str, axis: int, average: str | None, **kwargs: Any) -> AccumMetric:
    # nothing divided by nothing is 0, as it is by default, and no warning every epoch
    return _averaged(name, average, ('binary', 'micro', 'macro', 'weighted', None), axis=axis, zero_division=0,
                     **kwargs)


@tells_near_match
def F1Score(axis: int = -1, labels: Sequence[int] | None = None, pos_label: int = 1, average: str | None = 'binary',
            sample_weight: Any = None) -> AccumMetric:
    """Harmonic mean of precision and recall, for one label an item.

    Args:
        axis: of the classes in the predictions.
        labels: the classes to look at, default those that occur.
        pos_label: the class that `average='binary'` looks at.
        average: 'binary', 'micro', 'macro', 'weighted', or None for one number a class.
        sample_weight: one number for each item of the validation set, in its order; default: all weigh the same.

    Example:
        >>> learn = vision_learner(dls, resnet18, metrics=F1Score(average='macro'))
    """
    return _single('f1_score', axis, average, labels=labels, pos_label=pos_label, sample_weight=sample_weight)


@tells_near_match
def FBeta(beta: float, axis: int = -1, labels: Sequence[int] | None = None, pos_label: int = 1,
          average: str | None = 'binary', sample_weight: Any = None) -> AccumMetric:
    """`F1Score` with recall weighing `beta` times as much as precision.

    `axis`, `labels`, `pos_label`, `average` and `sample_weight` as for `F1Score`.

    Example:
        >>> learn = vision_learner(dls, resnet18, metrics=FBeta(beta=2, average='macro'))  # recall counts twice
    """
    return _single('fbeta_score', axis, average, beta=beta, labels=labels, pos_label=pos_label,
                   sample_weight=sample_weight)


@tells_near_match
def Precision(axis: int = -1, labels: Sequence[int] | None = None, pos_label: int = 1, average: str | None = 'binary',
              sample_weight: Any = None) -> AccumMetric:
    """Which share of what was predicted as a class is right.

    `axis`, `labels`, `pos_label`, `average` and `sample_weight` as for `F1Score`.

    Example:
        >>> learn = vision_learner(dls, resnet18, metrics=[Precision(average='macro'), Recall(average='macro')])
    """
    return _single('precision_score', axis, average, labels=labels, pos_label=pos_label, sample_weight=sample_weight)


@tells_near_match
def Recall(axis: int = -1, labels: Sequence[int] | None = None, pos_label: int = 1, average: str | None = 'binary',
           sample_weight: Any = None) -> AccumMetric:
    """Which share of a class was found.

    `axis`, `labels`, `pos_label`, `average` and `sample_weight` as for `F1Score`.

    Example:
        >>> learn = vision_learner(dls, resnet18, metrics=Recall(average='macro'))
    """
    return _single('recall_score', axis, average, labels=labels, pos_label=pos_label, sample_weight=sample_weight)


@tells_near_match
def Jaccard(axis: int = -1, labels: Sequence[int] | None = None, pos_label: int = 1, average: str | None = 'binary',
            sample_weight: Any = None) -> AccumMetric:
    """Intersection over union of predicted and true items of a class.

    `axis`, `labels`, `pos_label`, `average` and `sample_weight` as for `F1Score`.

    Example:
        >>> learn = vision_learner(dls, resnet18, metrics=Jaccard(average='macro'))
    """
    return _single('jaccard_score', axis, average, labels=labels, pos_label=pos_label, sample_weight=sample_weight)


@tells_near_match
def BalancedAccuracy(axis: int = -1, sample_weight: Any = None, adjusted: bool = False) -> AccumMetric:
    """Mean recall over the classes that occur; `adjusted` puts chance at 0.

    `axis` and `sample_weight` as for `F1Score`.

    Example:
        >>> learn = vision_learner(dls, resnet18, metrics=[accuracy, BalancedAccuracy()])
    """
    return _score('balanced_accuracy_score', axis=axis, sample_weight=sample_weight, adjusted=adjusted)


@tells_near_match
def CohenKappa(axis: int = -1, labels: Sequence[int] | None = None, weights: str | None = None,
               sample_weight: Any = None) -> AccumMetric:
    """Agreement beyond chance; `weights` 'linear' or 'quadratic' make distant classes count more.

    `axis`, `labels` and `sample_weight` as for `F1Score`.

    Example:
        >>> learn = vision_learner(dls, resnet18, metrics=CohenKappa(weights='quadratic'))
    """
    return _score('cohen_kappa_score', axis=axis, labels=labels, weights=weights, sample_weight=sample_weight)


@tells_near_match
def MatthewsCorrCoef(sample_weight: Any = None, axis: int = -1) -> AccumMetric:
    """Correlation of predicted and true classes, -1 to 1. `sample_weight` and `axis` as for `F1Score`.

    Example:
        >>> learn = vision_learner(dls, resnet18, metrics=MatthewsCorrCoef())
    """
    return _score('matthews_corrcoef', axis=axis, sample_weight=sample_weight)


@tells_near_match
def HammingLoss(axis: int = -1, sample_weight: Any = None) -> AccumMetric:
    """Share of wrong classes. `axis` and `sample_weight` as for `F1Score`."""
    return _score('hamming_loss', axis=axis, sample_weight=sample_weight)


@tells_near_match
def BrierScore(axis: int = -1, sample_weight: Any = None, pos_label: int | None = None) -> AccumMetric:
    """Mean squared difference of predicted and true class of two: of the answer, not its probability, as in fastai.

    `axis` and `sample_weight` as for `F1Score`; `pos_label`, default 1, is the target that a prediction of 1 means.
    """
    return _score('brier_score_loss', axis=axis, sample_weight=sample_weight, pos_label=pos_label)


def _roc_auc(targs: np.ndarray, probs: np.ndarray, **kwargs: Any) -> float:
    """scikit-learn's, which takes one column for two classes and learns the classes from the columns."""
    from sklearn.metrics import roc_auc_score
    if probs.shape[1] == 2:
        return roc_auc_score(targs, probs[:, 1], **kwargs)
    return roc_auc_score(targs, probs, labels=np.arange(probs.shape[1]), **kwargs)


@tells_near_match
def RocAuc(axis: int = -1, average: str | None = 'macro', sample_weight: Any = None, max_fpr: float | None = None,
           multi_class: str = 'ovr') -> AccumMetric:
    """Area under the ROC curve of each class against the others, for one label an item.

    Args:
        axis: of the classes in the predictions (logits).
        average: over more than two classes: 'micro', 'macro', 'weighted', or None for one number a class.
        sample_weight: as for `F1Score`.
        max_fpr: only up to this false positive rate, for two classes.
        multi_class: 'ovr', or 'ovo' for each class against each other.

    Example:
        >>> learn = vision_learner(dls, resnet18, metrics=RocAuc())  # three classes or more
    """
    if multi_class not in ('ovr', 'ovo'):
        raise ValueError(f"RocAuc: multi_class={multi_class!r} is none of 'ovr', 'ovo'")
    return skm_to_fastai(_roc_auc, axis=axis, activation=ActivationType.Softmax, flatten=False, average=average,
                         sample_weight=sample_weight, max_fpr=max_fpr, multi_class=multi_class, name='roc_auc_score')


@tells_near_match
def RocAucBinary(axis: int = -1, average: str | None = 'macro', sample_weight: Any = None,
                 max_fpr: float | None = None, multi_class: str = 'raise') -> AccumMetric:
    """Area under the ROC curve of the last of two classes; `average` and `multi_class` have no effect.

    `axis`, `sample_weight` and `max_fpr` as for `RocAuc`.

    Example:
        >>> learn = vision_learner(dls, resnet18, metrics=RocAucBinary())  # two classes
    """
    return _score('roc_auc_score', axis=axis, activation=ActivationType.BinarySoftmax, average=average,
                  sample_weight=sample_weight, max_fpr=max_fpr, multi_class=multi_class)


@tells_near_match
def APScoreBinary(axis: int = -1, average: str | None = 'macro', pos_label: int = 1,
                  sample_weight: Any = None) -> AccumMetric:
    """Average precision of the last of two classes; `average` has no effect.

    `axis` and `sample_weight` as for `F1Score`; `pos_label` is the target that stands for that class.

    Example:
        >>> learn = vision_learner(dls, resnet18, metrics=APScoreBinary())  # two classes
    """
    return _score('average_precision_score', axis=axis, activation=ActivationType.BinarySoftmax, average=average,
                  pos_label=pos_label, sample_weight=sample_weight)


# ---------------------------------------------------------------- several labels an item

_AVERAGES = ('micro', 'macro', 'weighted', 'samples', None)


def _of_labels(sigmoid: bool) -> str:
    return ActivationType.Sigmoid if sigmoid else ActivationType.No


def _multi(name: str, thresh: float, sigmoid: bool, average: str | None, **kwargs: Any) -> AccumMetric:
    return _averaged(name, average, _AVERAGES, thresh=thresh, activation=_of_labels(sigmoid), flatten=False,
                     zero_division=0, **kwargs)


@tells_near_match
def F1ScoreMulti(thresh: float = 0.5, sigmoid: bool = True, labels: Sequence[int] | None = None, pos_label: int = 1,
                 average: str | None = 'macro', sample_weight: Any = None) -> AccumMetric:
    """Harmonic mean of precision and recall, for several labels an item.

    Args:
        thresh: a label counts as predicted from this probability on.
        sigmoid: predictions are logits.
        labels: the columns to look at, default all.
        pos_label: has no effect.
        average: 'micro', 'macro', 'weighted', 'samples' (over items instead of labels), or None for one number a label.
        sample_weight: one number for each item of the validation set, in its order; default: all weigh the same.

    Example:
        >>> learn = vision_learner(dls, resnet18, metrics=[accuracy_multi, F1ScoreMulti(thresh=0.3)])  # several labels
    """
    return _multi('f1_score', thresh, sigmoid, average, labels=labels, sample_weight=sample_weight)


@tells_near_match
def FBetaMulti(beta: float, thresh: float = 0.5, sigmoid: bool = True, labels: Sequence[int] | None = None,
               pos_label: int = 1, average: str | None = 'macro', sample_weight: Any = None) -> AccumMetric:
    """`F1ScoreMulti` with recall weighing `beta` times as much as precision.

    `thresh`, `sigmoid`, `labels`, `pos_label`, `average` and `sample_weight` as for `F1ScoreMulti`.
    """
    return _multi('fbeta_score', thresh, sigmoid, average, beta=beta, labels=labels, sample_weight=sample_weight)


@tells_near_match
def PrecisionMulti(thresh: float = 0.5, sigmoid: bool = True, labels: Sequence[int] | None = None, pos_label: int = 1,
                   average: str | None = 'macro', sample_weight: Any = None) -> AccumMetric:
    """Which share of the predicted labels is right.

    `thresh`, `sigmoid`, `labels`, `pos_label`, `average` and `sample_weight` as for `F1ScoreMulti`.
    """
    return _multi('precision_score', thresh, sigmoid, average, labels=labels, sample_weight=sample_weight)


@tells_near_match
def RecallMulti(thresh: float = 0.5, sigmoid: bool = True, labels: Sequence[int] | None = None, pos_label: int = 1,
                average: str | None = 'macro', sample_weight: Any = None) -> AccumMetric:
    """Which share of the labels was found.

    `thresh`, `sigmoid`, `labels`, `pos_label`, `average` and `sample_weight` as for `F1ScoreMulti`.
    """
    return _multi('recall_score', thresh, sigmoid, average, labels=labels, sample_weight=sample_weight)


@tells_near_match
def JaccardMulti(thresh: float = 0.5, sigmoid: bool = True, labels: Sequence[int] | None = None, pos_label: int = 1,
                 average: str | None = 'macro', sample_weight: Any = None) -> AccumMetric:
    """Intersection over union of predicted and true labels.

    `thresh`, `sigmoid`, `labels`, `pos_label`, `average` and `sample_weight` as for `F1ScoreMulti`.
    """
    return _multi('jaccard_score', thresh, sigmoid, average, labels=labels, sample_weight=sample_weight)


@tells_near_match
def HammingLossMulti(thresh: float = 0.5, sigmoid: bool = True, labels: Any = None,
                     sample_weight: Any = None) -> AccumMetric:
    """Share of wrong labels; `labels` has no effect. `thresh`, `sigmoid` and `sample_weight` as for `F1ScoreMulti`.

    Example:
        >>> learn = vision_learner(dls, resnet18, metrics=HammingLossMulti(thresh=0.3))  # several labels
    """
    return _score('hamming_loss', thresh=thresh, activation=_of_labels(sigmoid), flatten=False,
                  sample_weight=sample_weight)


@tells_near_match
def BrierScoreMulti(thresh: float = 0.5, sigmoid: bool = True, sample_weight: Any = None,
                    pos_label: int | None = None) -> AccumMetric:
    """Mean squared difference of predicted and true labels, over all labels: of the answers, not their probabilities.

    `thresh` and `sigmoid` as for `F1ScoreMulti`; `sample_weight` has one number for each label of each item, and
    `pos_label`, default 1, is the target that a predicted label means.
    """
    return _score('brier_score_loss', thresh=thresh, activation=_of_labels(sigmoid), sample_weight=sample_weight,
                  pos_label=pos_label)


@tells_near_match
def MatthewsCorrCoefMulti(thresh: float = 0.5, sigmoid: bool = True, sample_weight: Any = None) -> AccumMetric:
    """Correlation of predicted and true labels, over all labels of all items.

    `thresh` and `sigmoid` as for `F1ScoreMulti`; `sample_weight` has one number for each label of each item.
    """
    return _score('matthews_corrcoef', thresh=thresh, activation=_of_labels(sigmoid), sample_weight=sample_weight)


@tells_near_match
def RocAucMulti(sigmoid: bool = True, average: str | None = 'macro', sample_weight: Any = None,
                max_fpr: float | None = None) -> AccumMetric:
    """Area under the ROC curve of each label, for several labels an item.

    Args:
        sigmoid, average, sample_weight: as for `F1ScoreMulti`.
        max_fpr: only up to this false positive rate.
    """
    return _averaged('roc_auc_score', average, _AVERAGES, activation=_of_labels(sigmoid), flatten=False, is_class=False,
                     sample_weight=sample_weight, max_fpr=max_fpr)


@tells_near_match
def APScoreMulti(sigmoid: bool = True, average: str | None = 'macro', pos_label: int = 1,
                 sample_weight: Any = None) -> AccumMetric:
    """Average precision of each label, for several labels an item.

    `sigmoid`, `average` and `sample_weight` as for `F1ScoreMulti`; `pos_label` has to be 1.
    """
    return _averaged('average_precision_score', average, _AVERAGES, activation=_of_labels(sigmoid), flatten=False,
                     is_class=False, pos_label=pos_label, sample_weight=sample_weight)


# ---------------------------------------------------------------- regression

@tells_near_match
def ExplainedVariance(sample_weight: Any = None) -> AccumMetric:
    """Which share of the targets' variance the predictions explain, a constant offset aside.

    `sample_weight` has one number for each target of the validation set, in its order; default: all weigh the same.
    """
    return _score('explained_variance_score', is_class=False, sample_weight=sample_weight)


@tells_near_match
def R2Score(sample_weight: Any = None) -> AccumMetric:
    """Which share of the targets' variance the predictions explain; `sample_weight` as for `ExplainedVariance`.

    Example:
        >>> R2Score()(torch.tensor([1., 2., 3.]), torch.tensor([1., 2., 3.]))
        1.0
    """
    return _score('r2_score', is_class=False, sample_weight=sample_weight)


def _correlation(name: str, dim_argmax: int | None, kwargs: dict[str, Any]) -> AccumMetric:
    import scipy.stats
    func = getattr(scipy.stats, name)
    return AccumMetric(lambda x, y, **given: func(x, y, **given).statistic, dim_argmax=dim_argmax,
                       **{'name': name, 'to_np': True, **kwargs})


def PearsonCorrCoef(dim_argmax: int | None = None, **kwargs: Any) -> AccumMetric:
    """Linear correlation of predictions and targets.

    `dim_argmax` and `kwargs` as for `AccumMetric`, whose function is `scipy.stats.pearsonr`.
    """
    return _correlation('pearsonr', dim_argmax, kwargs)


def SpearmanCorrCoef(dim_argmax: int | None = None, axis: int = 0, nan_policy: str = 'propagate',
                     **kwargs: Any) -> AccumMetric:
    """Correlation of the ranks of predictions and targets.

    `dim_argmax` and `kwargs` as for `AccumMetric`, whose function is `scipy.stats.spearmanr`.

    Args:
        axis: of the items; has no effect where predictions and targets are flattened.
        nan_policy: what to do about NaN: 'propagate', 'raise' or 'omit'.
    """
    return _correlation('spearmanr', dim_argmax, {'axis': axis, 'nan_policy': nan_policy, **kwargs})
