"""What each argument says it changes is changed: tables of arguments, kind by kind; `tests/given.py` knows which
arguments no test gives."""
from __future__ import annotations

import inspect
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from make_fastai_numbers import ramp

import minifast.vision.all as public
import sklearn.metrics as skm


# ---------------------------------------------------------------- optimizers

def stepped(opt, n=4):
    """The parameters after some steps, the second of which is not decayed."""
    a, b = opt.param_groups[0]['params']
    opt.state[b]['do_wd'] = False
    for step in range(n):
        for i, p in enumerate((a, b)):
            p.grad = p.detach() * .5 + ramp(*p.shape, phase=step + i)
        opt.step()
    return torch.cat([p.detach().flatten() for p in (a, b)])


def parameters():
    return [ramp(3, 2).requires_grad_(), ramp(2, phase=1).requires_grad_()]


HYPERS = {'mom': .5, 'sqr_mom': .7, 'eps': .3, 'wd': .2, 'beta': 3., 'nu_1': .4, 'nu_2': .6, 'trust_coeff': .3}
OPTIMIZERS = ('SGD', 'RMSProp', 'Adam', 'RAdam', 'QHAdam', 'Larc', 'Lamb', 'ranger')
SETTINGS = [(name, option) for name in OPTIMIZERS
            for option in inspect.signature(getattr(public, name)).parameters if option in HYPERS]


@pytest.mark.parametrize('name, option', SETTINGS)
def test_a_hyper_parameter_given_to_an_optimizer_is_the_one_it_steps_with(name, option):
    """As one that is set later, and not as the default."""
    make, value = getattr(public, name), HYPERS[option]
    base = {'mom': .9} if name in ('SGD', 'RMSProp') else {'trust_coeff': .5} if name == 'Larc' else {}
    given, default = (make(parameters(), lr=.1, **{**base, **more}) for more in ({option: value}, {}))
    later = make(parameters(), lr=.1, **base)
    for group in later.param_groups:
        group[option] = value
    assert given.hypers[0][option] == value != default.hypers[0][option]
    found = stepped(given, 8)
    assert torch.equal(found, stepped(later, 8)) and not torch.equal(found, stepped(default, 8))


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_weight_decay_is_of_the_weights_or_in_the_gradient(name):
    """`decouple_wd=False` is a gradient with `wd * p` added; True a weight made smaller by `lr * wd` of itself first."""
    make = getattr(public, name)
    for decouple_wd in (True, False):
        opt, plain = (make(parameters(), lr=.1, wd=.3, decouple_wd=decouple_wd) for _ in range(2))
        (p, _), (q, _) = (o.param_groups[0]['params'] for o in (opt, plain))
        plain.state[q]['do_wd'] = False
        grad = ramp(*p.shape, phase=3)
        p.grad, q.grad = grad.clone(), grad.clone()
        if decouple_wd:
            q.data.mul_(1 - .1 * .3)
        else:
            q.grad += .3 * q.detach()
        opt.step(), plain.step()
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


# ---------------------------------------------------------------- whole-set scores

G = torch.Generator().manual_seed(0)
CLASSES, TRUE = torch.randint(0, 3, (40,), generator=G), torch.randint(0, 3, (40,), generator=G)
BINARY, TRUE_BINARY = torch.randint(0, 2, (40,), generator=G), torch.randint(0, 2, (40,), generator=G)
LABELS, TRUE_LABELS = torch.rand(40, 4, generator=G) > .6, torch.rand(40, 4, generator=G) > .6
PROBABILITIES = torch.rand(40, 4, generator=G)
SCORES, FLOATS = torch.rand(40, generator=G), torch.rand(40, generator=G)
WEIGHT = torch.rand(40, generator=G).numpy()

OF_LABELS = [(name.replace('Multi', ''), skl, {'beta': 2.} if 'Beta' in name else {}) for name, skl in (
    ('F1ScoreMulti', 'f1_score'), ('FBetaMulti', 'fbeta_score'), ('PrecisionMulti', 'precision_score'),
    ('RecallMulti', 'recall_score'), ('JaccardMulti', 'jaccard_score'))]
MACRO = {'average': 'macro'}

# score, scikit-learn's, predictions, targets, what both are told anyway, and what is tried
SCORES_TOLD = [
    *((score, skl, CLASSES, TRUE, {**MACRO, **more}, tried) for score, skl, more in OF_LABELS for tried in (
        {'labels': [0, 2]}, {'average': 'weighted'}, {'sample_weight': WEIGHT})),
    *((score, skl, BINARY, TRUE_BINARY, more, {'pos_label': 0}) for score, skl, more in OF_LABELS),
    *((f'{score}Multi', skl, LABELS, TRUE_LABELS, {**MACRO, **more}, tried) for score, skl, more in OF_LABELS
      for tried in ({'labels': [0, 2]}, {'average': 'micro'}, {'sample_weight': WEIGHT})),
    *((score, skl, CLASSES, TRUE, {}, {'sample_weight': WEIGHT}) for score, skl in (
        ('BalancedAccuracy', 'balanced_accuracy_score'), ('CohenKappa', 'cohen_kappa_score'),
        ('MatthewsCorrCoef', 'matthews_corrcoef'), ('HammingLoss', 'hamming_loss'))),
    ('BalancedAccuracy', 'balanced_accuracy_score', CLASSES, TRUE, {}, {'adjusted': True}),
    ('CohenKappa', 'cohen_kappa_score', CLASSES, TRUE, {}, {'labels': [0, 2]}),
    ('CohenKappa', 'cohen_kappa_score', CLASSES, TRUE, {}, {'weights': 'quadratic'}),
    ('HammingLossMulti', 'hamming_loss', LABELS, TRUE_LABELS, {}, {'sample_weight': WEIGHT}),
    ('MatthewsCorrCoefMulti', 'matthews_corrcoef', BINARY, TRUE_BINARY, {}, {'sample_weight': WEIGHT}),
    *((score, 'brier_score_loss', preds, TRUE_BINARY, {}, tried) for score, preds in (
        ('BrierScore', BINARY), ('BrierScoreMulti', SCORES)) for tried in (
        {'sample_weight': WEIGHT}, {'pos_label': 0})),
    ('RocAucBinary', 'roc_auc_score', SCORES, TRUE_BINARY, {}, {'sample_weight': WEIGHT}),
    ('RocAucBinary', 'roc_auc_score', SCORES, TRUE_BINARY, {}, {'max_fpr': .3}),
    ('APScoreBinary', 'average_precision_score', SCORES, TRUE_BINARY, {}, {'sample_weight': WEIGHT}),
    ('APScoreBinary', 'average_precision_score', SCORES, TRUE_BINARY, {}, {'pos_label': 0}),
    ('RocAucMulti', 'roc_auc_score', PROBABILITIES, TRUE_LABELS, MACRO, {'sample_weight': WEIGHT}),
    ('RocAucMulti', 'roc_auc_score', PROBABILITIES, TRUE_LABELS, MACRO, {'max_fpr': .3}),
    ('APScoreMulti', 'average_precision_score', PROBABILITIES, TRUE_LABELS, MACRO, {'sample_weight': WEIGHT}),
    ('ExplainedVariance', 'explained_variance_score', SCORES, FLOATS, {}, {'sample_weight': WEIGHT}),
    ('R2Score', 'r2_score', SCORES, FLOATS, {}, {'sample_weight': WEIGHT})]


@pytest.mark.parametrize('score, name, preds, targs, anyway, tried', SCORES_TOLD,
                         ids=[f'{case[0]} {next(iter(case[5]))}' for case in SCORES_TOLD])
def test_what_a_score_is_told_reaches_scikit_learn(score, name, preds, targs, anyway, tried):
    """Weights of items, classes to look at, averages: scikit-learn's number, and not the one without."""
    found = torch.as_tensor(getattr(public, score)(**{**anyway, **tried})(preds, targs))
    with_it, without = (torch.as_tensor(getattr(skm, name)(targs.numpy(), preds.numpy(), **told))
                        for told in ({**anyway, **tried}, anyway))
    torch.testing.assert_close(found, with_it)
    assert not torch.equal(found, without)


SEVERAL, ONE_OF = torch.randn(40, 3, generator=G), torch.randint(0, 3, (40,), generator=G)


def accumulated(metric, preds, targs):
    """The value as the loop gets it, from raw predictions."""
    metric.reset()
    metric.accumulate(SimpleNamespace(pred=preds, y=targs))
    return torch.as_tensor(metric.value)


@pytest.mark.parametrize('score', [
    *(partial(getattr(public, name), average='macro') for name in ('F1Score', 'Precision', 'Recall', 'Jaccard')),
    partial(public.FBeta, 2., average='macro'), public.BalancedAccuracy, public.CohenKappa, public.MatthewsCorrCoef,
    public.HammingLoss, public.RocAuc])
def test_axis_of_a_score_is_that_of_the_classes(score):
    """Predictions with their classes first, and with `axis=0`, have the same score as with the classes last."""
    made = score(axis=0)
    assert (made.dim_argmax, score().dim_argmax) == (0, -1)
    if made.activation == 'no':
        assert accumulated(made, SEVERAL.T, ONE_OF) == accumulated(score(), SEVERAL, ONE_OF)


LOGITS = torch.randn(40, 4, generator=G)


@pytest.mark.parametrize('score', [
    public.F1ScoreMulti, partial(public.FBetaMulti, 2.), public.PrecisionMulti, public.RecallMulti,
    public.JaccardMulti, public.HammingLossMulti, public.MatthewsCorrCoefMulti, public.BrierScoreMulti])
def test_thresh_and_sigmoid_of_a_score_say_which_labels_are_predicted(score):
    """`sigmoid=False`: what the model gives are probabilities; `thresh`: from which on a label counts."""
    at_half, at_less = ((LOGITS.sigmoid() >= thresh) for thresh in (.5, .3))
    expected = [score()(x, TRUE_LABELS) for x in (at_half, at_less)]
    assert expected[0] != expected[1]
    for options, preds, want in (({}, LOGITS, 0), ({'sigmoid': False}, LOGITS.sigmoid(), 0),
                                 ({'thresh': .3}, LOGITS, 1),
                                 ({'thresh': .3, 'sigmoid': False}, LOGITS.sigmoid(), 1)):
        assert accumulated(score(**options), preds, TRUE_LABELS) == expected[want]


@pytest.mark.parametrize('score', [public.RocAucMulti, public.APScoreMulti])
def test_sigmoid_of_a_curve_of_labels(score):
    """With it predictions are made probabilities, in the same order; without they are taken as they are."""
    seen = []
    for sigmoid in (True, False):
        metric = score(sigmoid=sigmoid)
        accumulated(metric, LOGITS, TRUE_LABELS)
        seen.append(metric.preds[0])
    assert torch.equal(seen[0], LOGITS.sigmoid()) and torch.equal(seen[1], LOGITS)
