"""Laws of the metrics: fastai's values and names, whole-set scores, what is accepted as a metric."""
from __future__ import annotations

import json
import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from make_fastai_numbers import METRICS, metric_batches, metric_run
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import sklearn.metrics as skm

from minifast import basics, metrics
from minifast.callback.recorder import AvgSmoothLoss
from minifast.losses import BCELossFlat, BCEWithLogitsLossFlat, CrossEntropyLossFlat
from minifast.metrics import (AccumMetric, AvgLoss, AvgMetric, Dice, DiceMulti, F1Score, F1ScoreMulti,
                              FBetaMulti, JaccardCoeffMulti, LossMetrics, Metric, Perplexity, RocAuc, RocAucMulti,
                              TorchMetric, ValueMetric, accuracy, accuracy_multi, foreground_acc, mk_metric, mk_metrics,
                              mse, optim_metric, rmse, skm_to_fastai, top_k_accuracy)
from minifast.torch_core import TensorImage, TensorMask

NUMBERS = json.loads((Path(__file__).parent / 'data' / 'metrics.json').read_text(encoding='utf-8'))['numbers']


def batch(pred, targ, loss=0., **kwargs):
    """What a metric sees of a learner."""
    return SimpleNamespace(pred=pred, y=targ, yb=(targ,), loss=torch.as_tensor(loss), to_detach=lambda x: x.detach(),
                           **kwargs)


def over(metric, kind='class'):
    """The value of a metric over all batches of a kind."""
    metric.reset()
    for pred, targ, loss in metric_batches(kind):
        metric.accumulate(batch(pred, targ, loss))
    return metric.value


@pytest.mark.filterwarnings('ignore:No positive class found')  # scikit-learn's word on an item without labels
@pytest.mark.parametrize('label', METRICS)
def test_metric_equals_fastai(label):
    """Column name and value over batches of different sizes are fastai's."""
    got, want = metric_run(basics, mk_metric, *METRICS[label]), NUMBERS[label]
    assert got['name'] == want['name']
    torch.testing.assert_close(torch.tensor(got['value']).double(), torch.tensor(want['value']).double(),
                               rtol=1e-6, atol=1e-6)


def test_average_is_weighted_by_batch_size():
    """The mean over items, not over batches."""
    metric = AvgMetric(accuracy)
    for pred, n in (([[0., 1.]], 1), ([[1., 0.]] * 3, 3)):
        metric.accumulate(batch(torch.tensor(pred), torch.ones(n).long()))
    assert metric.value == 0.25


def test_average_of_half_precision_is_kept_in_single():
    """Sums of halves would stop growing early."""
    metric = AvgMetric(lambda pred, targ: torch.ones((), dtype=torch.float16))
    for _ in range(5):
        metric.accumulate(batch(torch.zeros(1000, 1), torch.zeros(1000)))
    assert metric.value == 1. and metric.value.dtype == torch.float32


def test_value_is_none_before_a_batch():
    """An epoch without batches has no value."""
    for metric in (AvgMetric(mse), AvgLoss(), AccumMetric(mse), F1Score(), DiceMulti(), Perplexity(), rmse):
        metric.reset()
        assert metric.value is None


def test_accumulating_keeps_no_graph():
    """A metric must not hold the graph of the predictions alive."""
    pred = torch.rand(4, 3, requires_grad=True)
    for metric in (AvgMetric(lambda p, t: p.sum()), AvgLoss(), AvgSmoothLoss(), RocAuc(), Dice(),
                   AccumMetric(mse, flatten=False)):
        metric.reset()
        metric.accumulate(batch(pred * 2, torch.tensor([0, 1, 1, 0]), loss=(pred * 2).sum()))
        kept = [v for v in vars(metric).values() if isinstance(v, torch.Tensor)] + list(getattr(metric, 'preds', []))
        kept += getattr(metric, '_kept', [])
        assert kept and not any(t.requires_grad for t in kept)


def test_metrics_take_marked_tensors():
    """Pictures and masks come as markers and plain numbers leave."""
    pred, targ = TensorImage(torch.rand(2, 3, 4, 4)), TensorMask(torch.randint(0, 3, (2, 4, 4)))
    for metric in (DiceMulti(), Dice(), AvgMetric(partial(accuracy, axis=1)), AvgMetric(foreground_acc)):
        metric.reset()
        metric.accumulate(batch(pred, targ))
        assert type(metric.value) is torch.Tensor


# ---------------------------------------------------------------- functions

def test_top_k_accuracy_counts_targets_among_the_k_best():
    """At k = 1 it is the accuracy, along any axis; at k = C it is 1."""
    pred, targ = torch.rand(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 0, 1])
    assert top_k_accuracy(pred, targ, k=1) == accuracy(pred, targ) and top_k_accuracy(pred, targ, k=4) == 1
    pixels = torch.rand(2, 4, 3, 3)
    mask = torch.randint(0, 4, (2, 3, 3))
    assert top_k_accuracy(pixels, mask, k=1, axis=1) == accuracy(pixels, mask, axis=1)


def test_accuracy_multi_uses_thresh_and_sigmoid():
    """Without the sigmoid, predictions are probabilities."""
    pred, targ = torch.tensor([[0.4, 0.6]]), torch.tensor([[1, 1]])
    assert accuracy_multi(pred, targ) == 1 and accuracy_multi(pred, targ, sigmoid=False) == 0.5
    assert accuracy_multi(pred, targ, thresh=0.3, sigmoid=False) == 1


def test_wrong_sizes_say_both():
    """The message of a metric on unequal sizes has both numbers."""
    with pytest.raises(AssertionError, match='8 elements, targets 4'):
        mse(torch.rand(4, 2), torch.rand(4))


# ---------------------------------------------------------------- whole-set scores

@pytest.mark.parametrize('average', ['micro', 'macro', 'weighted', 'samples'])
@pytest.mark.parametrize('name', ['f1_score', 'jaccard_score', 'precision_score', 'recall_score'])
def test_multi_label_scores_equal_scikit_learn_on_random_sets(name, average):
    """Random sets, labels that never occur and items without labels included."""
    made = {'f1_score': metrics.F1ScoreMulti, 'jaccard_score': metrics.JaccardMulti,
            'precision_score': metrics.PrecisionMulti, 'recall_score': metrics.RecallMulti}[name](average=average)
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        preds, targs = (torch.rand(12, 5, generator=generator) > 0.7 for _ in range(2))
        preds[:, 0] = targs[:, 0] = False
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # scikit-learn warns where it divides nothing by nothing
            want = getattr(skm, name)(targs.numpy(), preds.numpy(), average=average)
        assert float(made(preds, targs)) == pytest.approx(float(want))


@pytest.mark.parametrize('seed', range(4))
def test_single_label_scores_equal_scikit_learn_on_random_sets(seed):
    """Classes that occur only among predictions or targets, or not at all."""
    generator = torch.Generator().manual_seed(seed)
    preds, targs = torch.randint(0, 4, (20,), generator=generator), torch.randint(1, 6, (20,), generator=generator)
    for made, want in ((F1Score(average='macro'), partial(skm.f1_score, average='macro')),
                       (metrics.Jaccard(average='weighted'), partial(skm.jaccard_score, average='weighted')),
                       (metrics.CohenKappa(weights='linear'), partial(skm.cohen_kappa_score, weights='linear')),
                       (metrics.MatthewsCorrCoef(), skm.matthews_corrcoef),
                       (metrics.Recall(average=None, labels=[1, 3]),
                        partial(skm.recall_score, average=None, labels=[1, 3])),
                       (metrics.HammingLoss(), skm.hamming_loss)):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            expected = want(targs.numpy(), preds.numpy())
        torch.testing.assert_close(torch.as_tensor(made(preds, targs)).double(), torch.as_tensor(expected).double())


def test_ranking_scores_equal_scikit_learn_with_ties():
    """Equal scores are one step of the curve."""
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        scores = torch.randint(0, 6, (30, 3), generator=generator) / 5
        targs = torch.rand(30, 3, generator=generator) > 0.6
        for average in ('macro', 'micro', 'weighted'):
            assert float(RocAucMulti(average=average)(scores, targs)) == pytest.approx(
                skm.roc_auc_score(targs.numpy(), scores.numpy(), average=average))
            assert float(metrics.APScoreMulti(average=average)(scores, targs)) == pytest.approx(
                skm.average_precision_score(targs.numpy(), scores.numpy(), average=average))


def test_arguments_only_scikit_learn_knows_go_to_it():
    """`sample_weight` and one-against-one are computed there, under the same name."""
    weights = [1.] * 8 + [2.] * 8
    assert over(F1Score(average='macro', sample_weight=weights)) != over(F1Score(average='macro'))
    ovo = RocAuc(multi_class='ovo')
    assert 0 <= over(ovo) <= 1 and ovo.name == 'roc_auc_score'


def test_skm_to_fastai_wraps_a_function_of_scikit_learn():
    """Targets first, numpy arrays, argmax or threshold."""
    metric = skm_to_fastai(skm.accuracy_score)
    assert float(over(metric)) == pytest.approx(float(over(AvgMetric(accuracy)))) and metric.name == 'accuracy_score'


def test_a_metric_of_ones_own_sees_the_learner_of_each_batch():
    """What derives from `AccumMetric` and keeps values in its own way gets the learner beside them."""
    class Scaled(AccumMetric):
        def accum_values(self, preds, targs, learn=None):
            super().accum_values(preds * learn.scale, targs, learn)
    metric = Scaled(lambda preds, targs: preds.sum().item())
    for scale in (10., 100.):
        metric.accumulate(batch(torch.ones(2), torch.ones(2), scale=scale))
    assert metric.value == 220.


def test_roc_auc_of_two_classes_looks_at_the_second():
    """The case of two classes, which scikit-learn refuses in this form."""
    assert over(RocAuc(), 'binary') == over(metrics.RocAucBinary(), 'binary')


def test_binary_average_on_more_classes_is_refused():
    """The message says which averages there are."""
    with pytest.raises(ValueError, match="average='binary'. Please choose another average setting"):
        over(F1Score())
    with pytest.raises(ValueError, match="average='makro' is none of"):
        F1Score(average='makro')


def test_ignored_pixels_count_as_no_class():
    """Targets outside the classes neither crash the counting nor enter a class."""
    pred = torch.zeros(1, 2, 1, 4)
    pred[:, 1] = 1.
    metric = JaccardCoeffMulti()
    metric.accumulate(batch(pred, torch.tensor([[[1, 1, 255, -100]]])))
    assert metric.value == 0.5  # two right of four predicted


def test_dice_multi_subclass_computes_from_inter_and_union():
    """As fastai's users write their own intersection over union."""
    class IOU(DiceMulti):
        @property
        def value(self):
            return sum(self.inter[c] / (self.union[c] - self.inter[c]) for c in self.inter if self.union[c] > 0) / 3

        @property
        def name(self):
            return 'iou'
    own = IOU()
    value = over(own, 'mask')
    present = sum(u > 0 for u in own.union.values())
    assert value * 3 / present == pytest.approx(float(over(JaccardCoeffMulti(), 'mask'))) and own.name == 'iou'


def test_dice_of_nothing_is_nan():
    """No foreground predicted and none true: there is nothing to measure."""
    metric = Dice()
    metric.accumulate(batch(torch.tensor([[[[1.]], [[0.]]]]), torch.zeros(1, 1, 1).long()))
    assert metric.value.isnan()


def test_accum_metric_called_with_predictions_measures_them_alone():
    """A call forgets what was kept before."""
    metric = F1ScoreMulti()
    over(metric, 'multi')
    assert metric(torch.tensor([[True, False]]), torch.tensor([[True, False]])) == 0.5
    assert rmse(torch.tensor([1., 3.]), torch.tensor([1., 1.])) == pytest.approx(2**0.5)


def test_accum_metric_name_and_arguments():
    """Named by its function, settable, keyword arguments reach the function."""
    metric = AccumMetric(partial(lambda p, t, power: ((p - t).abs()**power).mean(), power=2), name='gap')
    assert float(over(metric, 'float')) == pytest.approx(float(over(AvgMetric(mse), 'float'))) and metric.name == 'gap'
    metric.name = 'other'
    assert metric.name == 'other' and AccumMetric(mse, flatten=False).name == 'mse'


def test_optim_metric_finds_the_best_threshold():
    """The maximum over the argument, or where it is."""
    pred, targ = torch.tensor([0.1, 0.3, 0.35, 0.8]), torch.tensor([0, 1, 1, 1])
    best = optim_metric(partial_accuracy, 'thresh', (0., 1.), get_x=True)
    value, x = best(pred, targ)
    assert value == 1 and 0.1 < x < 0.3 and best.__name__ == 'opt_partial_accuracy'
    assert optim_metric(partial_accuracy, 'thresh', (0., 1.), do_neg=False)(pred, targ) < 0.8


def partial_accuracy(preds, targs, thresh=0.5):
    """Accuracy of 0/1 answers at a threshold."""
    return ((preds > thresh) == targs.bool()).float().mean()


# ---------------------------------------------------------------- what is a metric

def test_mk_metric_takes_functions_metrics_classes_and_torchmetrics():
    """Each becomes a Metric with the right name."""
    import torchmetrics
    own = Dice()
    assert mk_metric(own) is own and mk_metric(Dice).name == 'dice'
    assert mk_metric(accuracy).name == 'accuracy' and mk_metric(partial(accuracy, axis=1)).name == 'accuracy'
    assert mk_metric(nn.L1Loss()).name == 'L1Loss'
    metric = mk_metric(torchmetrics.classification.MulticlassAccuracy(3, average='micro'))
    assert isinstance(metric, TorchMetric) and metric.name == 'multiclass_accuracy'
    assert float(over(metric)) == pytest.approx(float(over(AvgMetric(accuracy))))


def test_mk_metrics_flattens_lists_and_collections():
    """A torchmetrics collection is one column for each member."""
    import torchmetrics
    collection = torchmetrics.MetricCollection([torchmetrics.classification.MulticlassAccuracy(3),
                                                torchmetrics.classification.MulticlassF1Score(3)])
    assert mk_metrics([accuracy, collection]).attrgot('name') == ['accuracy', 'MulticlassAccuracy', 'MulticlassF1Score']
    assert mk_metrics(None) == [] and len(mk_metrics(accuracy)) == 1 and len(mk_metrics(Dice())) == 1
    assert all(0 <= float(over(metric)) <= 1 for metric in mk_metrics(collection))


@pytest.mark.parametrize('wrong', ['accuracy', ['accuracy'], 3, {'a': accuracy}, nn.Linear, dict],
                         ids=lambda wrong: repr(wrong).partition(' at 0x')[0])
def test_what_is_no_metric_is_refused_with_what_is(wrong):
    """A string, a number, a class that is no metric: the message lists what is accepted."""
    with pytest.raises(TypeError, match='a metric is a function of'):
        mk_metrics(wrong)


def test_factory_given_uncalled_says_how_to_call_it():
    """`metrics=[F1Score]` is answered with `F1Score()`."""
    with pytest.raises(TypeError, match=r'write metrics=\[F1Score\(\)\]'):
        mk_metric(F1Score).accumulate(batch(torch.rand(2, 2), torch.zeros(2).long()))


def test_own_metric_needs_accumulate_and_value_only():
    """A user's class works without calling its base; its name comes from the class."""
    class LargestLossMetric(Metric):
        def __init__(self):
            self.largest = 0.

        def accumulate(self, learn):
            self.largest = max(self.largest, float(learn.to_detach(learn.loss)))

        @property
        def value(self):
            return self.largest
    assert over(LargestLossMetric()) > 0 and LargestLossMetric().name == 'largest_loss'
    with pytest.raises(NotImplementedError, match='value'):
        Metric().value  # noqa: B018


def test_loss_metrics_average_attributes_of_the_loss():
    """Terms that a loss function leaves on itself are columns."""
    terms, loss_func = LossMetrics('a,b', nms='A,B'), SimpleNamespace()
    for value, n in ((1., 1), (4., 2)):
        loss_func.a, loss_func.b = torch.tensor(value), value * 2
        for term in terms:
            term.accumulate(batch(torch.zeros(n), torch.zeros(n), loss_func=loss_func))
    assert [t.name for t in terms] == ['A', 'B'] and [float(t.value) for t in terms] == [3., 6.]


def test_value_metric_reads_its_function():
    """A number computed elsewhere, named by hand or by the function."""
    def elsewhere():
        return 3
    assert ValueMetric(elsewhere).value == 3 and ValueMetric(elsewhere).name == 'elsewhere'
    assert ValueMetric(elsewhere, 'here').name == 'here'


def test_smooth_loss_is_unbiased_from_the_first_step():
    """One step: its own loss. Constant losses: the constant."""
    metric = AvgSmoothLoss()
    for i in range(3):
        metric.accumulate(batch(torch.zeros(1), torch.zeros(1), loss=2.))
        torch.testing.assert_close(metric.value, torch.tensor(2.))
        assert metric.count == i + 1


def test_fbeta_multi_takes_beta_first():
    """The positional argument of scripts: `FBetaMulti(2.0, average='samples')`."""
    assert 0 < float(over(FBetaMulti(2.0, average='samples'), 'multi')) < 1


# ---------------------------------------------------------------- two classes by one output

LOGITS = torch.tensor([.2, -.1, .8, .4, -3., .1, .3, -.2])
"""All but three lie in 0..1, as probabilities do: only the loss function tells them apart."""
TARGETS = torch.tensor([1, 0, 1, 0, 0, 1, 1, 1])
ONE_OUTPUT = {'accuracy': .75, 'error_rate': .25, 'top': .75, 'f1_score': .8, 'precision_score': .8,
              'recall_score': .8, 'balanced_accuracy_score': (.8 + 2 / 3) / 2, 'roc_auc_score': 2 / 3,
              'matthews_corrcoef': .8 - 1 / 3}


def top(pred, targ):
    return metrics.top_k_accuracy(pred, targ, k=1)


@pytest.mark.parametrize('loss, levelled', (
    (BCEWithLogitsLossFlat(), 0.), (nn.BCEWithLogitsLoss(), 0.), (F.binary_cross_entropy_with_logits, 0.),
    (BCEWithLogitsLossFlat(thresh=.7), .8473), (BCELossFlat(), .5), (nn.BCELoss(), .5)))
@pytest.mark.parametrize('shape', ((-1, 1), (-1,)))
def test_one_output_column_is_two_classes(loss, levelled, shape):
    """What the largest of one column says is what the loss function says: right at the same items as two columns."""
    for lone in (LOGITS[:2], LOGITS):
        pred, targ = lone[:, None] + levelled, TARGETS[:len(lone)].view(shape)
        made = [mk_metric(m) for m in (metrics.accuracy, metrics.error_rate, top)]
        if len(lone) > 2:
            made += [metrics.F1Score(), metrics.Precision(), metrics.Recall(), metrics.BalancedAccuracy(),
                     metrics.RocAucBinary(), metrics.MatthewsCorrCoef()]
        for metric in made:
            metric.reset()
            for part in (slice(0, 2), slice(2, None)):
                if len(pred[part]):
                    metric.accumulate(batch(pred[part], targ[part].float(), loss_func=loss))
            want = ONE_OUTPUT[metric.name] if len(lone) > 2 else float(metric.name != 'error_rate')
            assert float(metric.value) == pytest.approx(want, abs=1e-6), metric.name


@pytest.mark.parametrize('metric', (metrics.Dice(), metrics.JaccardCoeff(), metrics.DiceMulti(),
                                    mk_metric(metrics.foreground_acc)))
def test_masks_by_one_output_are_those_of_two(metric):
    """[B,1,H,W] under a binary loss scores as [B,2,H,W] with the same answers."""
    one, targ = LOGITS.view(2, 1, 2, 2), TARGETS.view(2, 2, 2)
    values = []
    for pred in (one, torch.cat([torch.zeros_like(one), one], 1)):
        metric.reset()
        metric.accumulate(batch(pred, targ, loss_func=BCEWithLogitsLossFlat()))
        values.append(float(metric.value))
    assert values[0] == values[1] and 0 < values[0] < 1


def test_one_output_called_by_hand_and_the_one_class_there_is():
    """Numbers in 0..1 are probabilities where no loss says otherwise; with cross entropy one column is one class."""
    probs = LOGITS.sigmoid()
    for pred in (probs[:, None], probs, LOGITS[:, None], LOGITS):
        assert metrics.accuracy(pred, TARGETS) == .75
        assert metrics.accuracy(pred, TARGETS.float()) == .75
    lone = mk_metric(metrics.accuracy)
    lone.accumulate(batch(torch.ones(3, 1), torch.zeros(3).long(), loss_func=CrossEntropyLossFlat()))
    assert lone.value == 1


def test_top_k_takes_targets_as_a_column_and_names_a_k_too_large():
    """[B,1] targets do not broadcast against the others' predictions."""
    pred, targ = torch.eye(4)[[0, 1, 2, 3]], torch.tensor([0, 2, 1, 3])
    assert metrics.top_k_accuracy(pred, targ[:, None], k=1) == metrics.top_k_accuracy(pred, targ, k=1) == .5
    with pytest.raises(ValueError, match='k=5 of 4 classes'):
        metrics.top_k_accuracy(pred, targ)


@pytest.mark.parametrize('background, wanted', [(0, 2 / 3), (1, 1 / 2), (2, 1 / 3), (7, 2 / 4)])
def test_foreground_acc_leaves_out_the_background_it_is_told(background, wanted):
    """Right pixels among the others, whatever was predicted for the background."""
    targ, answers = torch.tensor([[[0, 1, 1, 2]]]), torch.tensor([[[1, 1, 0, 2]]])
    pred = F.one_hot(answers, 3).movedim(-1, 1).float()
    for given in (targ, targ[:, None]):
        assert float(foreground_acc(pred, given, bkg_idx=background)) == pytest.approx(wanted)
    assert float(foreground_acc(pred.movedim(1, -1), targ, axis=-1)) == pytest.approx(2 / 3)


@pytest.mark.parametrize('tol', [None, .1, 1e-4])
def test_optim_metric_comes_as_close_as_it_is_told(tol):
    """0.01 unless told, and with as few calls as that takes."""
    tried = []

    def f(preds, targs, x):
        tried.append(x)
        return -(x - .4321) ** 2
    best, x = optim_metric(f, 'x', (0., 1.), get_x=True, **({} if tol is None else {'tol': tol}))(None, None)
    tol = .01 if tol is None else tol
    assert abs(x - .4321) <= tol and best == f(None, None, x) == max(map(lambda x: -(x - .4321) ** 2, tried))
    shrinkings = next(k for k in range(99) if .618034 ** k <= tol)
    assert len(tried) - 1 == 2 + shrinkings


class _Operations(TorchDispatchMode):
    """Counts the operations that run on tensors."""

    def __init__(self):
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.n += 1
        return func(*args, **(kwargs or {}))


def test_a_batch_is_added_to_an_average_in_one_operation():
    """Each one more is a kernel on a GPU; the sum is that of the products."""
    metric, mode = AvgMetric(lambda pred, targ: pred[0]), _Operations()
    for value in (.5, .25, 3.):
        seen, mode.n = batch(torch.tensor([value]), torch.ones(3)), 0
        with mode:
            metric.accumulate(seen)
    assert mode.n == 2  # the other one is `pred[0]`
    assert float(metric.value) == (.5 + .25 + 3.) / 3
