"""Metrics under fastai's names: functions of a batch and overlaps of masks here, scores of an epoch beside them."""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minifast.arguments import tells_near_match
from minifast.metrics.base import (AccumMetric, ActivationType, AvgLoss, AvgMetric, LossMetric,
                                   LossMetrics, Metric, TorchMetric, ValueMetric, as_classes, mk_metric, mk_metrics,
                                   sum_over_ranks)
from minifast.metrics.scores import (APScoreBinary, APScoreMulti, BalancedAccuracy, BrierScore, BrierScoreMulti,
                                     CohenKappa, ExplainedVariance, F1Score, F1ScoreMulti, FBeta, FBetaMulti,
                                     HammingLoss, HammingLossMulti, Jaccard, JaccardMulti, MatthewsCorrCoef,
                                     MatthewsCorrCoefMulti, PearsonCorrCoef, Precision, PrecisionMulti, R2Score, Recall,
                                     RecallMulti, RocAuc, RocAucBinary, RocAucMulti, SpearmanCorrCoef, skm_to_fastai)
from minifast.torch_core import flatten_check, plain

__all__ = ['APScoreBinary', 'APScoreMulti', 'AccumMetric', 'ActivationType', 'AvgLoss', 'AvgMetric',
           'BalancedAccuracy', 'BrierScore', 'BrierScoreMulti', 'CohenKappa', 'Dice', 'DiceMulti',
           'ExplainedVariance', 'F1Score', 'F1ScoreMulti', 'FBeta', 'FBetaMulti', 'HammingLoss', 'HammingLossMulti',
           'Jaccard', 'JaccardCoeff', 'JaccardCoeffMulti', 'JaccardMulti', 'LossMetric', 'LossMetrics',
           'MatthewsCorrCoef', 'MatthewsCorrCoefMulti', 'Metric', 'PearsonCorrCoef', 'Perplexity', 'Precision',
           'PrecisionMulti', 'R2Score', 'Recall', 'RecallMulti', 'RocAuc', 'RocAucBinary', 'RocAucMulti',
           'SpearmanCorrCoef', 'TorchMetric', 'ValueMetric', 'accuracy', 'accuracy_multi', 'error_rate', 'exp_rmspe',
           'foreground_acc', 'mae', 'mk_metric', 'mk_metrics', 'mse', 'msle', 'optim_metric', 'perplexity', 'rmse',
           'skm_to_fastai', 'top_k_accuracy']


# ---------------------------------------------------------------- classification

def _scores(inp: Tensor, targ: Tensor, axis: int) -> Tensor:
    """Predictions with an axis of classes."""
    alone = inp.ndim == 1 and inp.is_floating_point() and inp.shape == targ.shape
    return as_classes(inp[:, None] if alone else inp, axis)


def accuracy(inp: Tensor, targ: Tensor, axis: int = -1) -> Tensor:
    """Share of items whose largest prediction is the target.

    Args:
        inp: predictions, [..., C at `axis`, ...]; one column (or [N]) means class 1 where it is above 0, or above 0.5
            where it holds probabilities, see `as_classes`.
        targ: class indices, as many as there are rows of classes.
        axis: of the classes.

    Example:
        >>> accuracy(torch.tensor([[2., 1.], [0., 3.]]), torch.tensor([0, 0])).item()
        0.5
    """
    pred, targ = flatten_check(_scores(inp, targ, axis).argmax(dim=axis), targ)
    return (pred == targ).float().mean()


def error_rate(inp: Tensor, targ: Tensor, axis: int = -1) -> Tensor:
    """One minus `accuracy(inp, targ, axis)`.

    Example:
        >>> error_rate(torch.tensor([[2., 1.], [0., 3.]]), torch.tensor([0, 0])).item()
        0.5
    """
    return 1 - accuracy(inp, targ, axis=axis)


def top_k_accuracy(inp: Tensor, targ: Tensor, k: int = 5, axis: int = -1) -> Tensor:
    """Share of items whose target is among the `k` largest predictions.

    Args:
        inp: predictions, [..., C at `axis`, ...].
        targ: class indices, one for each row of classes.
        k: how many of the largest count.
        axis: of the classes.

    Raises:
        ValueError: there are fewer than `k` classes.

    Example:
        >>> learn = vision_learner(dls, resnet18, metrics=[accuracy, partial(top_k_accuracy, k=2)])
    """
    scores = _scores(inp, targ, axis)
    if k > scores.shape[axis]:
        raise ValueError(f'top_k_accuracy: k={k} of {scores.shape[axis]} classes: give a smaller k, such as '
                         'partial(top_k_accuracy, k=2)')
    best = scores.topk(k=k, dim=axis).indices
    targ = plain(targ).reshape(best.narrow(axis, 0, 1).shape)  # [B,1] would broadcast
    return (best == targ).any(dim=axis).float().mean()


def accuracy_multi(inp: Tensor, targ: Tensor, thresh: float = 0.5, sigmoid: bool = True) -> Tensor:
    """Share of right labels, for several labels an item.

    Args:
        inp: predictions, as many as targets.
        targ: 0 or 1 for each label.
        thresh: a label counts as predicted above this probability.
        sigmoid: predictions are logits.

    Example:
        >>> learn = vision_learner(dls, resnet18, metrics=partial(accuracy_multi, thresh=0.2))
    """
    inp, targ = flatten_check(inp, targ)
    return (((inp.sigmoid() if sigmoid else inp) > thresh) == targ.bool()).float().mean()


def foreground_acc(inp: Tensor, targ: Tensor, bkg_idx: int = 0, axis: int = 1) -> Tensor:
    """Share of right pixels among those that are not background.

    Args:
        inp: predictions, [B,C,H,W].
        targ: class indices, [B,H,W] or [B,1,H,W].
        bkg_idx: the index of the background.
        axis: of the classes in `inp`.

    Example:
        >>> learn = unet_learner(dls, resnet18, metrics=partial(foreground_acc, bkg_idx=0))
    """
    targ = plain(targ).squeeze(1)
    foreground = targ != bkg_idx
    # counted, not indexed: indexing with a mask would wait for the device
    return ((as_classes(inp, axis).argmax(dim=axis) == targ) & foreground).sum() / foreground.sum()


# ---------------------------------------------------------------- regression

def mse(inp: Tensor, targ: Tensor) -> Tensor:
    """Mean squared error of `inp` and `targ`, of as many elements, flattened.

    Example:
        >>> mse(torch.tensor([1., 3.]), torch.tensor([1., 1.])).item()
        2.0
    """
    return F.mse_loss(*flatten_check(inp, targ))


def mae(inp: Tensor, targ: Tensor) -> Tensor:
    """Mean absolute error of `inp` and `targ`, of as many elements, flattened.

    Example:
        >>> mae(torch.tensor([1., 3.]), torch.tensor([1., 1.])).item()
        1.0
    """
    inp, targ = flatten_check(inp, targ)
    return (inp - targ).abs().mean()


def msle(inp: Tensor, targ: Tensor) -> Tensor:
    """Mean squared error of `log(1 + x)` of the elements of `inp` and `targ`, all above -1, flattened."""
    inp, targ = flatten_check(inp, targ)
    return F.mse_loss(torch.log(1 + inp), torch.log(1 + targ))


def _rmse(inp: Tensor, targ: Tensor) -> Tensor:
    return F.mse_loss(inp, targ).sqrt()


def _exp_rmspe(inp: Tensor, targ: Tensor) -> Tensor:
    inp, targ = inp.exp(), targ.exp()
    return ((targ - inp) / targ).square().mean().sqrt()


# One column name and one value a set, hence objects and not functions; the names with an underscore are fastai's.
rmse = AccumMetric(_rmse)
"""Root of the mean squared error over the whole set; its column is `_rmse`."""
exp_rmspe = AccumMetric(_exp_rmspe)
"""Root of the mean squared relative error of the exponentials over the whole set; its column is `_exp_rmspe`."""


# ---------------------------------------------------------------- segmentation

class Dice(Metric):
    """Dice coefficient of binary masks over the whole set: [B,2,H,W] and [B,H,W] of 0 and 1.

    Args:
        axis: of the classes.

    Example:
        >>> learn = unet_learner(dls, resnet18, metrics=Dice())  # two codes: background and the thing
    """

    @tells_near_match
    def __init__(self, axis: int = 1) -> None:
        self.axis = axis
        self.reset()

    def reset(self) -> None:
        """Forget the counts."""
        self.inter = self.union = torch.zeros(())

    def accumulate(self, learn: Any) -> None:
        """Count one batch, `learn.pred` and `learn.y`."""
        pred = as_classes(learn.pred, self.axis, getattr(learn, 'loss_func', None)).argmax(dim=self.axis)
        pred, targ = flatten_check(pred, learn.y)
        self.inter = (pred * targ).sum() + self.inter.to(pred.device)
        self.union = (pred + targ).sum() + self.union.to(pred.device)

    def _totals(self) -> tuple[Tensor, Tensor]:
        return sum_over_ranks(self.inter), sum_over_ranks(self.union)

    @property
    def value(self) -> Tensor:
        """`2 * intersection / (predicted + true)`, a 0-d tensor on the device; nan where both are empty."""
        inter, union = self._totals()
        return 2. * inter / union


class JaccardCoeff(Dice):
    """Intersection over union of binary masks over the whole set: [B,2,H,W] and [B,H,W] of 0 and 1.

    Example:
        >>> learn = unet_learner(dls, resnet18, metrics=JaccardCoeff())  # two codes: background and the thing
    """

    @property
    def value(self) -> Tensor:
        """`intersection / union`, a 0-d tensor on the device; nan where both are empty."""
        inter, union = self._totals()
        return inter / (union - inter)


class DiceMulti(Metric):
    """Dice coefficient averaged over the classes that occur in the set: [B,C,H,W] and class indices [B,H,W].

    A subclass may compute its `value` from `inter` and `union`.

    Args:
        axis: of the classes.

    Example:
        >>> learn = unet_learner(dls, resnet18, metrics=[DiceMulti(), JaccardCoeffMulti()])
    """

    @tells_near_match
    def __init__(self, axis: int = 1) -> None:
        self.axis = axis
        self.reset()

    def reset(self) -> None:
        """Forget the counts."""
        self.counts: Tensor | None = None

    def accumulate(self, learn: Any) -> None:
        """Count one batch, `learn.pred` and `learn.y`."""
        scores = as_classes(learn.pred, self.axis, getattr(learn, 'loss_func', None)).detach()
        n = scores.shape[self.axis]
        pred, targ = flatten_check(scores.argmax(dim=self.axis), learn.y)
        targ = torch.where((targ >= 0) & (targ < n), targ, n).long()  # what is no class, such as an ignored pixel

        def count(classes: Tensor) -> Tensor:
            return torch.zeros(n + 1, dtype=torch.int64, device=pred.device).scatter_add_(
                0, classes, torch.ones_like(classes))

        counts = torch.stack([count(torch.where(pred == targ, pred, n)), count(pred) + count(targ)])[:, :n]
        self.counts = counts if self.counts is None else self.counts + counts

    def _totals(self) -> tuple[Tensor, Tensor]:
        return tuple(sum_over_ranks(self.counts).cpu().double())  # sync: once an epoch

    @staticmethod
    def _score(inter: Tensor, union: Tensor) -> Tensor:
        return 2. * inter / union

    @property
    def value(self) -> Tensor | None:
        """The mean over classes; None before a batch."""
        if self.counts is None:
            return None
        inter, union = self._totals()
        return self._score(inter[union > 0], union[union > 0]).mean()

    @property
    def inter(self) -> dict[int, float]:
        """Pixels predicted right, by class."""
        return dict(enumerate(self._totals()[0].tolist()))  # sync: asked for numbers

    @property
    def union(self) -> dict[int, float]:
        """Pixels predicted plus pixels true, by class."""
        return dict(enumerate(self._totals()[1].tolist()))  # sync: asked for numbers


class JaccardCoeffMulti(DiceMulti):
    """Intersection over union averaged over the classes that occur (mIoU): [B,C,H,W] and class indices [B,H,W]."""

    @staticmethod
    def _score(inter: Tensor, union: Tensor) -> Tensor:
        return inter / (union - inter)


# ---------------------------------------------------------------- from the loss, and thresholds

class Perplexity(AvgLoss):
    """The exponential of the mean loss.

    Example:
        >>> learn = vision_learner(dls, resnet18, metrics=[accuracy, Perplexity()])
    """

    @property
    def value(self) -> Tensor | None:
        """`exp(mean loss)`; None before a batch."""
        mean = super().value
        return None if mean is None else torch.exp(torch.as_tensor(mean))

    @property
    def name(self) -> str:
        """`perplexity`."""
        return 'perplexity'


perplexity = Perplexity()
"""A `Perplexity` to put into `metrics=`."""


def optim_metric(f: Callable[..., Any], argname: str, bounds: tuple[float, float], tol: float = 0.01,
                 do_neg: bool = True, get_x: bool = False) -> Callable[..., Any]:
    """The metric `f` at the best value of one of its arguments, found by golden section search.

    Args:
        f: `f(preds, targs, **{argname: x}) -> number`.
        argname: the argument, such as `thresh`.
        bounds: smallest and largest value to try.
        tol: how closely to find the best value.
        do_neg: the largest `f` is best; False: the smallest.
        get_x: return `(best, x)` instead of `best`.

    Example:
        >>> best = optim_metric(accuracy_multi, 'thresh', (0.1, 0.9), get_x=True)
        >>> preds, targs = torch.tensor([[1.5, -2.], [0.2, 3.]]), torch.tensor([[1, 0], [0, 1]])
        >>> score, thresh = best(preds, targs)
    """
    golden, sign = (math.sqrt(5) - 1) / 2, -1 if do_neg else 1

    def _best(preds: Tensor, targs: Tensor) -> Any:
        def cost(x: float) -> float:
            return sign * float(f(preds, targs, **{argname: x}))

        lo, hi = bounds
        left, right = hi - golden * (hi - lo), lo + golden * (hi - lo)
        at_left, at_right = cost(left), cost(right)
        while hi - lo > tol:
            if at_left <= at_right:
                hi, right, at_right = right, left, at_left
                left = hi - golden * (hi - lo)
                at_left = cost(left)
            else:
                lo, left, at_left = left, right, at_right
                right = lo + golden * (hi - lo)
                at_right = cost(right)
        best, x = min((at_left, left), (at_right, right))
        return (sign * best, x) if get_x else sign * best

    _best.__name__ = f'opt_{f.__name__}'
    return _best
