"""What each argument says it changes is changed: tables of arguments, kind by kind; `tests/given.py` knows which
arguments no test gives."""
from __future__ import annotations

import inspect
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from make_fastai_numbers import ramp

import minifast.vision.all as public
import sklearn.metrics as skm
from minifast.markers import TensorImage, TensorMask
from minifast.vision.geometry import rotate_mat
from minifast.vision.core import PILImage, PILMask


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
    """`decouple_wd=False` is a gradient with `wd * p` added; True a weight made smaller by `lr * wd` of it first."""
    make = partial(getattr(public, name), mom=.9)
    for decouple_wd in (True, False):
        opt, plain = (make(parameters(), lr=.1, wd=.3, decouple_wd=decouple_wd) for _ in range(2))
        (p, _), (q, _) = (o.param_groups[0]['params'] for o in (opt, plain))
        plain.state[q]['do_wd'] = False
        for step in range(5):  # fewer than Lookahead waits before it looks back
            p.grad, q.grad = (ramp(*p.shape, phase=step) for _ in range(2))
            if decouple_wd:
                q.data.mul_(1 - .1 * .3)
            else:
                q.grad += .3 * q.detach()
            opt.step(), plain.step()
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


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
    assert accumulated(made, SEVERAL.T, ONE_OF) == accumulated(score(), SEVERAL, ONE_OF)
    for half in (slice(20), slice(20, 40)):  # batches are joined along their items
        made.accumulate(SimpleNamespace(pred=SEVERAL[half].T, y=ONE_OF[half]))
    assert made.value == accumulated(score(), torch.cat([SEVERAL, SEVERAL]), torch.cat([ONE_OF, ONE_OF]))


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


@pytest.mark.parametrize('score, name', [
    ('RocAucBinary', 'roc_auc_score'), ('APScoreBinary', 'average_precision_score')])
def test_axis_of_a_curve_of_two_classes_is_that_of_the_classes(score, name):
    """The probability of the second class, wherever the classes stand."""
    wanted = getattr(skm, name)(TRUE_BINARY, SEVERAL[:, :2].softmax(-1)[:, 1])
    for axis, preds in ((0, SEVERAL[:, :2].T), (-1, SEVERAL[:, :2])):
        assert float(accumulated(getattr(public, score)(axis=axis), preds, TRUE_BINARY)) == pytest.approx(wanted)


def test_axis_of_brier_score_is_that_of_the_classes():
    """The answer is taken along it."""
    wanted = skm.brier_score_loss(TRUE_BINARY, SEVERAL[:, :2].argmax(-1))
    for axis, preds in ((0, SEVERAL[:, :2].T), (-1, SEVERAL[:, :2])):
        assert float(accumulated(public.BrierScore(axis=axis), preds, TRUE_BINARY)) == pytest.approx(wanted)


def test_roc_auc_is_weighted_and_cut_as_told():
    """`sample_weight`; `max_fpr`, for two classes."""
    each = SEVERAL.softmax(-1)
    for targs, scores, told, more in ((ONE_OF, each, {'sample_weight': WEIGHT}, {'multi_class': 'ovr'}),
                                      (TRUE_BINARY, SEVERAL[:, :2].softmax(-1)[:, 1], {'max_fpr': .3}, {})):
        found, without = (float(accumulated(public.RocAuc(**options), SEVERAL[:, :3 if more else 2], targs))
                          for options in (told, {}))
        assert found == pytest.approx(skm.roc_auc_score(targs, scores, **told, **more)) and found != without


@pytest.mark.parametrize('score', [public.RocAucMulti, public.APScoreMulti])
def test_sigmoid_of_a_curve_of_labels(score):
    """With it predictions are made probabilities, in the same order; without they are taken as they are."""
    seen = []
    for sigmoid in (True, False):
        metric = score(sigmoid=sigmoid)
        accumulated(metric, LOGITS, TRUE_LABELS)
        seen.append(metric.preds[0])
    assert torch.equal(seen[0], LOGITS.sigmoid()) and torch.equal(seen[1], LOGITS)


# ---------------------------------------------------------------- the geometry of a batch

PICTURES = TensorImage(torch.rand(8, 3, 12, 12, generator=G) + .1)
TURN = dict(max_deg=30, p=1., draw=30.)
GEOMETRY = {
    'Flip': {'p': 1.}, 'DeterministicFlip': {}, 'Dihedral': {'draw': 3}, 'DeterministicDihedral': {},
    'Rotate': {'draw': 10.}, 'Zoom': {'draw': 1.2, 'draw_x': .5, 'draw_y': .5}, 'Warp': {'draw_x': .2, 'draw_y': 0.}}


def turned(name, **options):
    """A transform followed by a rotation by 30 degrees, in the one resampling that the first one's options are of."""
    tfm = getattr(public, name)(**{**GEOMETRY[name], **options})
    tfm.compose(public.Rotate(**TURN))
    return tfm(PICTURES, split_idx=0)


@pytest.mark.parametrize('name', GEOMETRY)
def test_geometry_is_read_as_it_is_told(name):
    """`mode`: nearest gives values that were there; `pad_mode`: zeros lie outside; `size`; `align_corners`."""
    plain = turned(name)
    assert plain.shape == PICTURES.shape and not (plain == 0).any() and not torch.isin(plain, PICTURES).all()
    assert torch.isin(turned(name, mode='nearest'), PICTURES).all()
    assert (turned(name, pad_mode='zeros') == 0).any()
    assert turned(name, size=(7, 9)).shape == (8, 3, 7, 9)
    assert not torch.equal(turned(name, align_corners=False), turned(name, align_corners=True))


DRAWN = {'Flip': {}, 'Dihedral': {'p': 1.}, 'Rotate': {'p': 1.}, 'Zoom': {'p': 1., 'max_zoom': 2.}, 'Warp': {'p': 1.},
         'Brightness': {'p': 1.}, 'Contrast': {'p': 1.}, 'Saturation': {'p': 1.}, 'Hue': {'p': 1.}}


@pytest.mark.parametrize('name', DRAWN)
def test_one_draw_is_for_the_whole_batch_where_it_is_told_so(name):
    """`batch=True`: eight times the same picture stay the same, in each of some batches, which differ."""
    same = TensorImage(PICTURES[:1].expand(8, 3, 12, 12).clone())
    batches = [getattr(public, name)(batch=True, **DRAWN[name])(same, split_idx=0) for _ in range(12)]
    assert all(torch.equal(x[:1].expand_as(x), x) for x in batches)
    assert any(not torch.equal(x, batches[0]) for x in batches)
    single = getattr(public, name)(batch=False, **DRAWN[name])(same, split_idx=0)
    assert not torch.equal(single[:1].expand_as(single), single)


def test_augmentation_hands_its_settings_to_all_its_parts():
    """`mode`, `pad_mode`, `align_corners`, `batch`, `size` of `aug_transforms` are those of each part."""
    settings = dict(mode='nearest', pad_mode='zeros', align_corners=False, size=9)
    for flip_vert in (False, True):
        geometry, light = public.aug_transforms(flip_vert=flip_vert, batch=True, **settings)
        assert [part.batch for part in geometry.parts + light.parts] == [True] * 6
        for part in geometry.parts:
            assert {name: getattr(part, name) for name in settings} == {**settings, 'size': (9, 9)}


def ramps(h, w):
    """A picture whose red is how far right, and whose green how far down a pixel lies, 0..1."""
    y, x = torch.meshgrid(torch.linspace(0, 1, h), torch.linspace(0, 1, w), indexing='ij')
    return TensorImage(torch.stack([x, y, torch.zeros_like(x)])[None])


def spans(x):
    """How much of the width and of the height of `ramps` is seen."""
    return tuple(float(c.max() - c.min()) for c in x[0, :2])


def test_window_of_a_batch_has_the_scale_and_ratio_that_are_told():
    """`max_scale` bounds the area, `ratio` the form, `valid_scale` what validation keeps of each side."""
    x, crop = ramps(64, 64), partial(public.RandomResizedCropGPU, 32)
    windows = [spans(crop(min_scale=.05, max_scale=.1)(x, split_idx=0)) for _ in range(40)]
    assert all(w * h < .12 for w, h in windows) and any(w * h > .07 for w, h in windows)
    assert any(w * h > .3 for w, h in (spans(crop(min_scale=.05)(x, split_idx=0)) for _ in range(40)))
    wide = [spans(crop(min_scale=.1, max_scale=.2, ratio=(2., 3.))(x, split_idx=0)) for _ in range(20)]
    assert all(1.8 < w / h < 3.3 for w, h in wide)
    assert spans(crop()(x, split_idx=1)) == pytest.approx((1., 1.), abs=.02)
    assert spans(crop(valid_scale=.5)(x, split_idx=1)) == pytest.approx((.5, .5), abs=.03)
    assert torch.isin(crop(mode='nearest', max_scale=.3)(x, split_idx=0), x).all()


@pytest.mark.parametrize('tfm', [partial(public.RandomResizedCropGPU, 7, max_scale=.5), partial(
    public.AffineCoordTfm, partial(rotate_mat, draw=30., p=1.), size=7)])
def test_masks_are_read_as_they_are_told(tfm):
    """`mode_mask`: nearest keeps the codes, bilinear gives values between them."""
    mask = TensorMask(torch.randint(0, 2, (4, 12, 12), generator=G).float() * 100)
    for mode_mask, between in (('nearest', False), ('bilinear', True)):
        found = tfm(mode_mask=mode_mask)(mask, split_idx=0)
        assert bool(((found != 0) & (found != 100)).any()) is between


def test_affine_functions_of_the_users_own_are_read_as_told():
    """`AffineCoordTfm`: `mode`, `pad_mode`, `align_corners`, `size`."""
    def read(**options):
        return public.AffineCoordTfm(partial(rotate_mat, draw=30., p=1.), **options)(PICTURES, split_idx=0)
    assert torch.isin(read(mode='nearest'), PICTURES).all() and not torch.isin(read(), PICTURES).all()
    assert (read(pad_mode='zeros') == 0).any() and not (read() == 0).any()
    assert read(size=(7, 9)).shape[-2:] == (7, 9)
    assert not torch.equal(read(align_corners=True), read(align_corners=False))


MATRICES = {'flip_mat': 1., 'dihedral_mat': 3., 'rotate_mat': 20., 'zoom_mat': 1.5}


@pytest.mark.parametrize('name', MATRICES)
def test_matrices_are_drawn_as_told(name):
    """`p` of the time, by one draw a `batch`, the `draw`n value, from the `generator`."""
    mat, x, eye = getattr(public, name), torch.empty(1, 1, 1, 1).expand(2000, 3, 4, 4), torch.eye(3)

    def moved(m):
        return (m != eye).flatten(1).any(1)

    def seeded():
        return torch.Generator().manual_seed(5)
    assert not moved(mat(x, p=0.)).any()
    if name != 'dihedral_mat':
        assert moved(mat(x, p=1.)).all()
    expected = .25 * (7 / 8 if name == 'dihedral_mat' else 1)
    assert float(moved(mat(x, p=.25)).float().mean()) == pytest.approx(expected, abs=.04)
    one = mat(x, p=1., batch=True)
    assert torch.equal(one, one[:1].expand_as(one))
    assert torch.equal(mat(x, generator=seeded()), mat(x, generator=seeded()))
    assert not torch.equal(mat(x, generator=seeded()), mat(x, generator=seeded().manual_seed(6)))
    given = mat(x, p=1., draw=MATRICES[name], **({'draw_x': .2, 'draw_y': .2} if name == 'zoom_mat' else {}))
    assert torch.equal(given, given[:1].expand_as(given)) and moved(given).all()


def test_rotation_turns_as_far_as_it_is_told():
    """`max_deg`, to either side."""
    mat = public.rotate_mat(torch.empty(1, 1, 1, 1).expand(2000, 3, 4, 4), max_deg=40, p=1.)
    angle = torch.rad2deg(torch.atan2(mat[:, 0, 1], mat[:, 0, 0]))
    assert -40 <= angle.min() < -38 and 38 < angle.max() <= 40.001


def test_zoom_stays_in_its_range_and_goes_to_the_point_that_is_told():
    """`min_zoom`, `max_zoom`; `draw_x`, `draw_y`: 0.5 is the middle."""
    x = torch.empty(1, 1, 1, 1).expand(2000, 3, 4, 4)
    scale = 1 / public.zoom_mat(x, min_zoom=.5, max_zoom=.8, p=1.)[:, 0, 0]
    assert .5 <= scale.min() < .52 and .78 < scale.max() <= .8001
    middle, corner = (public.zoom_mat(x, draw=2., draw_x=at, draw_y=at, p=1.)[0, :2, 2] for at in (.5, 0.))
    assert torch.allclose(middle, torch.zeros(2), atol=1e-6) and (corner.abs() > .4).all()
    aside = public.zoom_mat(x, draw=2., draw_x=.5, draw_y=0., p=1.)[0, :2, 2]
    assert torch.allclose(aside[0], torch.zeros(()), atol=1e-6) and aside[1] == corner[1]


def test_mask_tensor_replaces_as_told():
    """`p` of the elements stay, the others are `neutral`; `batch`: all or none; by the `generator`."""
    x = torch.ones(4000)
    kept = public.mask_tensor(x, p=.25, neutral=7.)
    assert set(kept.tolist()) == {1., 7.} and float((kept == 1).float().mean()) == pytest.approx(.25, abs=.03)
    found = [public.mask_tensor(x, p=.5, batch=True) for _ in range(30)]
    assert {tuple(m.unique().tolist()) for m in found} == {(0.,), (1.,)}
    alone = public.mask_tensor(torch.ones(1, 40, 50), p=.5)
    assert alone.shape == (1, 40, 50) and float(alone.mean()) == pytest.approx(.5, abs=.1)
    a, b, c = (public.mask_tensor(x, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


# ---------------------------------------------------------------- light, erasing

LIGHTS = {'brightness': {'max_lighting': .4}, 'contrast': {'max_lighting': .4}, 'saturation': {'max_lighting': .4},
          'hue': {'max_hue': .3}}


@pytest.mark.parametrize('name', LIGHTS)
def test_light_methods_of_pictures_do_as_told(name):
    """Larger with `max_*`, one draw a `batch`, repeated by the `generator`."""
    same = TensorImage(PICTURES[:1].expand(8, 3, 12, 12).clamp(.05, .95).clone())

    def change(**options):
        return getattr(same.clone(), name)(**{'p': 1., 'generator': torch.Generator().manual_seed(3), **options})
    largest, = LIGHTS[name]
    assert torch.equal(change(), change())
    assert not torch.equal(change(), change(generator=torch.Generator().manual_seed(4)))
    one = change(batch=True)
    assert torch.equal(one[:1].expand_as(one), one) and not torch.equal(one, same)
    small, large = ((change(**{largest: by}) - same).abs().mean() for by in (.01, LIGHTS[name][largest]))
    assert large > 5 * small > 0


def test_hue_is_turned_by_what_is_drawn():
    """A third of the circle makes red green."""
    red = TensorImage(torch.tensor([.8, .2, .2])[None, :, None, None].expand(1, 3, 4, 4).clone())
    found = public.Hue(draw=1 / 3, p=1.)(red, split_idx=0)[0, :, 0, 0]
    torch.testing.assert_close(found.as_subclass(torch.Tensor), torch.tensor([.2, .8, .2]), atol=1e-4, rtol=0)


def holes(**options):
    """(rows, columns) of what `RandomErasing` erases of 64x64, in 60 draws."""
    found = []
    for _ in range(60):
        erased = public.RandomErasing(p=1., **options)(TensorImage(torch.full((1, 1, 64, 64), 9.)), split_idx=0) != 9
        found.append((int(erased[0, 0].any(1).sum()), int(erased[0, 0].any(0).sum())))
    return found


def test_erased_rectangles_have_the_area_and_the_aspect_that_are_told():
    """`sl` to `sh` of the area; sides differ by no more than `min_aspect` says."""
    small = [h * w / 64**2 for h, w in holes(sl=.05, sh=.1)]
    assert .035 < min(small) and max(small) < .12 and max(h * w / 64**2 for h, w in holes(sh=.5)) > .3
    assert all(abs(h - w) <= 2 for h, w in holes(sl=.1, min_aspect=1.)) and any(
        abs(h - w) > 8 for h, w in holes(sl=.1))


def test_noise_comes_from_the_generator():
    """`cutout_gaussian(generator=...)` repeats, and fills the areas alone."""
    found = [public.cutout_gaussian(torch.zeros(1, 8, 8), [(2, 4, 1, 6)], generator=torch.Generator().manual_seed(s))
             for s in (1, 1, 2)]
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    assert (found[0] != 0).sum() == 10


# ---------------------------------------------------------------- single pictures

NOISE = PILImage.create((torch.rand(40, 60, 3, generator=G) * 255).byte().numpy())


@pytest.mark.parametrize('tfm', [partial(public.Resize, 24), partial(public.RandomResizedCrop, 24),
                                 partial(public.RatioResize, 24)])
def test_pictures_are_resampled_as_told(tfm):
    """`resamples`: of pictures and of masks; nearest gives pixels that were there."""
    pixels = {tuple(p) for p in np.asarray(NOISE).reshape(-1, 3).tolist()}
    for resamples, kept in (((public.NEAREST, public.NEAREST), True), ((public.BILINEAR, public.NEAREST), False)):
        found = np.asarray(tfm(resamples=resamples)(NOISE, split_idx=1)).reshape(-1, 3).tolist()
        assert all(tuple(p) in pixels for p in found) is kept
    mask = PILMask.create((np.asarray(NOISE)[..., 0] > 127).astype(np.uint8) * 200)
    for resample, kept in ((public.NEAREST, True), (public.BILINEAR, False)):
        found = set(np.asarray(tfm(resamples=(public.BILINEAR, resample))(mask, split_idx=1)).ravel().tolist())
        assert (found <= {0, 200}) is kept


def nothing(*args):
    """A function of the user's."""


NAMED = [public.RandTransform, public.AffineCoordTfm, public.DihedralItem, partial(public.RandomCrop, 8),
         partial(public.Resize, 8), partial(public.RandomResizedCrop, 8), partial(public.RandomResizedCropGPU, 8),
         partial(public.SpaceTfm, nothing, nothing), partial(public.LightingTfm, nothing),
         partial(public.HSVTfm, nothing)]


@pytest.mark.parametrize('tfm', NAMED)
def test_a_transform_is_called_what_it_is_told(tfm):
    """`nm` stands where else the class's name does."""
    assert tfm(nm='mine').name == 'mine' and 'mine' in repr(tfm(nm='mine'))
    assert tfm().name.startswith(getattr(tfm, 'func', tfm).__name__)


TOLD = {('RandomErasing', 'sh'), ('RandomErasing', 'min_aspect'), *SETTINGS,
        *((case[0], option) for case in SCORES_TOLD for option in case[5])}
"""(door, argument) of the tables above that are made by loops or by helpers, for `tests/given.py`."""
