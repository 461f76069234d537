"""What each argument says it changes is changed, second part: doors of a training, callbacks, losses, layers."""
from __future__ import annotations

import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_learner import learner
from torch import nn

import minifast.vision.all as public
import minifast.vision.learner as room
from minifast.callback.checkpoint import CheckpointCallback, newest_checkpoint
from minifast.callback.core import Callback
from minifast.callback.recorder import AvgSmoothLoss, Recorder
from minifast.callback.resume import checkpoints_in
from minifast.layers import NormType
from minifast.learner import Learner

G = torch.Generator().manual_seed(0)


# ---------------------------------------------------------------- passed on

PASSED_ON = {
    'loss_func': F.mse_loss, 'opt_func': public.SGD, 'lr': .5, 'splitter': lambda m: [list(m.parameters())],
    'metrics': public.error_rate, 'path': 'somewhere', 'model_dir': 'elsewhere', 'wd': .3, 'wd_bn_bias': True,
    'train_bn': False, 'moms': (.5, .4, .5), 'strategy': None}


class Asked(Exception):
    """Ends a call as soon as the arguments are known."""


def asked_of(monkeypatch, target, name, call):
    """The keyword arguments that `call` hands to `target.name`."""
    found = {}

    def stub(*args, **kwargs):
        found.update(kwargs)
        raise Asked
    monkeypatch.setattr(target, name, stub)
    with pytest.raises(Asked):
        call()
    return found


def picture_loaders():
    items = torch.utils.data.TensorDataset(torch.rand(8, 3, 32, 32, generator=G), torch.tensor([0, 1] * 4))
    return public.DataLoaders(*[torch.utils.data.DataLoader(items, 4) for _ in range(2)])


@pytest.mark.parametrize('door, more', [('vision_learner', {}), ('unet_learner', {})])
def test_learner_doors_hand_on_what_is_the_learners(door, more, monkeypatch):
    """Each argument of `Learner` that they have, by its value."""
    found = asked_of(monkeypatch, room, 'Learner', lambda: getattr(public, door)(
        picture_loaders(), public.xresnet18, n_out=2, pretrained=False, **PASSED_ON))
    assert {name: found[name] for name in PASSED_ON} == PASSED_ON


HEAD = {'concat_pool': False, 'pool': False, 'lin_ftrs': [7], 'ps': .3, 'first_bn': False, 'bn_final': True,
        'lin_first': True, 'y_range': (0, 1)}
BODY = {'cut': -1, 'init': nn.init.zeros_, 'custom_head': nn.Flatten(), 'n_in': 1, 'weights': 'a file', **HEAD}


@pytest.mark.parametrize('arch, made_by', [(public.xresnet18, 'create_vision_model'), ('test_resnet',
                                                                                       'create_timm_model')])
def test_vision_learner_hands_on_what_is_the_models(arch, made_by, monkeypatch):
    """To the maker of torchvision's and ours, and to timm's."""
    seen = []

    def stub(*args, **kwargs):
        seen.append({**kwargs, **({'cut': args[2]} if len(args) > 2 else {})})
        raise Asked
    monkeypatch.setattr(room, made_by, stub)
    with pytest.raises(Asked):
        public.vision_learner(picture_loaders(), arch, n_out=2, pretrained=False, **BODY)
    assert {name: seen[0][name] for name in BODY} == BODY


FITS = {'fit_one_cycle': (), 'fit_flat_cos': (), 'fit_sgdr': (2,), 'fit': ()}


@pytest.mark.parametrize('name', [name for name in FITS if name != 'fit'])
def test_scheduled_fits_hand_on_what_is_the_fits(name, monkeypatch):
    """`wd`, `cbs`, `reset_opt`, `start_epoch`, `checkpoint`, `resume`, `run`."""
    learn, cb = learner(), Callback()
    given = {'wd': .3, 'reset_opt': True, 'start_epoch': 1, 'checkpoint': 'folder', 'resume': 'anyway', 'run': 'a'}
    found = asked_of(monkeypatch, Learner, 'fit', lambda: getattr(learn, name)(2, *FITS[name], cbs=cb, **given))
    assert {k: found[k] for k in given} == given and cb in list(found['cbs'])


@pytest.mark.parametrize('name', FITS)
def test_fits_begin_at_the_epoch_anew_and_are_checkpointed_as_told(name, tmp_path):
    """`start_epoch`: the epochs before are passed over; `reset_opt`: a new optimizer; `checkpoint`: a folder."""
    learn = learner(lr=.1)
    fit, more = getattr(learn, name), FITS[name]
    fit(1, *more)
    before = learn.opt
    fit(1, *more)
    assert learn.opt is before
    fit(1, *more, reset_opt=True)
    assert learn.opt is not before
    n = 6 if name == 'fit_sgdr' else 3
    fit(2 if name == 'fit_sgdr' else 3, *more, start_epoch=n - 1, checkpoint=tmp_path)
    assert len(learn.recorder.values) == 1 and newest_checkpoint(tmp_path)[1]['position']['epoch'] == n


def test_what_a_learner_is_told_is_what_it_trains_with():
    """`moms` of the schedule, `train_bn` of frozen norm layers, `default_cbs` of the class's own callbacks."""
    learn = learner(moms=(.6, .5, .6))
    learn.fit_one_cycle(1, .1)
    assert (max(learn.recorder.hps['mom']), min(learn.recorder.hps['mom'])) == pytest.approx((.6, .5), abs=.02)
    for train_bn in (True, False):
        model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(108), nn.Linear(108, 4))
        learn = learner(model=model, train_bn=train_bn, splitter=lambda m: [list(m[:2].parameters()),
                                                                             list(m[2:].parameters())])
        learn.freeze()
        assert model[1].weight.requires_grad is train_bn
    dls, model = picture_loaders(), nn.Linear(1, 1)
    assert len(Learner(dls, model, F.mse_loss, default_cbs=False).cbs) == 0 < len(Learner(dls, model, F.mse_loss).cbs)


# ---------------------------------------------------------------- callbacks

def step_norms(norm, **options):
    """The norms of the gradients that are stepped with."""
    found = []

    class Look(Callback):
        order = 90

        def before_step(self):
            found.append(torch.cat([p.grad.flatten() for p in self.model.parameters()]).norm(norm).item())
    learner().fit(1, .1, cbs=[Look(), *([public.GradientClip(**options)] if options else [])])
    return found


@pytest.mark.parametrize('norm_type', [1., 2., math.inf])
def test_gradients_are_clipped_in_the_norm_that_is_told(norm_type):
    """`norm_type`: that norm of all gradients together is `max_norm`."""
    assert step_norms(norm_type, max_norm=.01, norm_type=norm_type) == pytest.approx([.01] * 4, rel=1e-3)
    assert min(step_norms(norm_type)) > .02


def test_lr_finder_walks_the_range_that_is_told():
    """`start_lr` to `end_lr` in equal factors; `stop_div` ends a search that explodes."""
    learn = learner()
    learn.fit(9, cbs=public.LRFinder(start_lr=1e-4, end_lr=1e-2, num_it=20, stop_div=False))
    lrs = np.array(learn.recorder.lrs)
    assert (lrs[0], len(lrs)) == (pytest.approx(1e-4), 20)
    np.testing.assert_allclose(lrs[1:] / lrs[:-1], 100**(1 / 20), rtol=1e-4)
    for stop_div, n in ((True, range(2, 30)), (False, range(30, 31))):
        learn = learner()
        learn.fit(99, cbs=public.LRFinder(start_lr=1., end_lr=1e4, num_it=30, stop_div=stop_div))
        assert len(learn.recorder.lrs) in n


class Script(Callback):
    """Writes what is measured in an epoch, in place of what was."""

    order = Recorder.order + 5

    def __init__(self, column, values):
        self.column, self.measured = column, values

    def after_epoch(self):
        self.learn.recorder.values[-1][self.column] = self.measured[self.epoch]


TRACKED = [1., .5, .4, .45, .42, .3]


def tracked(cb, values=TRACKED, column=1, n_fits=1, **kwargs):
    """The learner and callback after fits in which `values` were measured."""
    learn = learner(metrics=public.accuracy, **kwargs)
    for _ in range(n_fits):
        learn.fit(len(values), 1., cbs=[Script(column, values), cb])
    return learn, cb


class Counts(Callback):
    """Epochs, and the rate at the end of each."""

    order = 99

    def __init__(self):
        self.rates = []

    def after_epoch(self):
        self.rates.append(self.opt.hypers[-1]['lr'])


@pytest.mark.parametrize('kind', ['EarlyStoppingCallback', 'ReduceLROnPlateau', 'SaveModelCallback'])
def test_trackers_look_at_what_they_are_told(kind, tmp_path):
    """`monitor`, `comp`, `min_delta`, `reset_on_fit`: the best value, and when it was."""
    make = partial(getattr(public, kind), **({} if kind == 'SaveModelCallback' else {'patience': 99}))
    assert tracked(make(), path=tmp_path)[1].best == .3
    assert tracked(make(comp=np.greater), path=tmp_path)[1].best == 1.
    assert tracked(make(min_delta=.25), path=tmp_path)[1].best == .5
    assert tracked(make(monitor='accuracy'), column=2, path=tmp_path)[1].best == 1.
    assert tracked(make(monitor='accuracy', comp=np.less), column=2, path=tmp_path)[1].best == .3
    for reset_on_fit, best in ((True, .7), (False, .3)):
        cb = make(reset_on_fit=reset_on_fit)
        learn, _ = tracked(cb, path=tmp_path)
        learn.fit(2, 1., cbs=[Script(1, [.9, .7]), cb])
        assert cb.best == best


def test_a_change_smaller_than_min_delta_is_none():
    """A value has to be better than the best one by it."""
    for min_delta, best in ((0., .3), (.15, .3), (.25, .5), (.8, 1.)):
        _, cb = tracked(public.TrackerCallback(min_delta=min_delta), TRACKED)
        assert cb.best == best


@pytest.mark.parametrize('kind', ['MixUp', 'CutMix'])
def test_mixing_is_as_even_as_alpha_says(kind):
    """Small: nearly one of the two; large: nearly half of each, as far as a cut box lies in the picture."""
    shares = []

    class Look(Callback):
        order = 99
        run_valid = False

        def after_batch(self):
            shares.extend(torch.as_tensor(self.learn.cbs.filter(lambda cb: type(cb).__name__ == kind)[0].lam)
                          .flatten().tolist())
    uneven = {}
    for alpha in (.05, 50.):
        shares.clear()
        learner().fit(15, .01, cbs=[getattr(public, kind)(alpha), Look()])
        uneven[alpha] = np.mean([abs(share - .5) for share in shares])
    assert uneven[.05] > uneven[50.] + .06


def test_checkpoints_are_written_by_the_clock_where_minutes_are_told(tmp_path, monkeypatch):
    """At the first edge behind so many minutes, and not before."""
    now, written = [0.], []
    monkeypatch.setattr('minifast.callback.checkpoint.time', SimpleNamespace(monotonic=lambda: now[0]))

    class Clock(Callback):
        order = 999
        run_valid = False

        def after_batch(self):
            now[0] += 50.  # seconds

    class Look(Callback):
        order = 2000
        run_valid = False

        def after_batch(self):
            written.append(len(checkpoints_in(tmp_path)))
    learner().fit(1, .1, cbs=[CheckpointCallback(tmp_path, every=None, minutes=2, background=False, keep=9), Clock(),
                              Look()])
    assert written == [1, 1, 2, 2]  # that of the start; 150 s > 2 min


def test_smoothing_and_columns_of_the_recorder_are_those_that_are_told():
    """`beta`: of the running average, debiased; `valid_metrics=False`: no columns of a validation."""
    raw, found = [], {}

    class Look(Callback):
        run_valid = False

        def after_loss(self):
            raw.append(float(self.loss.detach()))
    for beta in (.5, .98):
        learn = learner()
        learn.remove_cb(learn.recorder).add_cb(Recorder(beta=beta))
        raw.clear()
        learn.fit(1, .1, cbs=Look())
        average, expected = 0., []
        for i, loss in enumerate(raw, 1):
            average = beta * average + (1 - beta) * loss
            expected.append(average / (1 - beta**i))
        found[beta] = [float(loss) for loss in learn.recorder.losses]
        assert found[beta] == pytest.approx(expected, rel=1e-5)
    assert found[.5] != found[.98] and AvgSmoothLoss(.5).beta == .5
    learn = learner(metrics=public.accuracy)
    learn.remove_cb(learn.recorder).add_cb(Recorder(valid_metrics=False, train_metrics=True, add_time=False))
    learn.fit(1, .1)
    assert list(learn.recorder.metric_names) == ['epoch', 'train_loss', 'train_accuracy']


def hooked(make):
    """What a hook has kept of a linear layer with a gradient."""
    layer = nn.Linear(3, 2)
    with make(layer) as hook:
        layer(torch.ones(1, 3)).sum().backward()
    return hook.stored


def test_hooks_keep_what_they_are_told():
    """`is_forward=False` and `grad`: gradients; `detach`: without a graph."""
    def keep(m, i, o):
        return o
    for make in (partial(public.Hook, hook_func=keep), public.hook_output):
        assert hooked(make).shape == (1, 2) and not hooked(make).requires_grad
        assert hooked(partial(make, detach=False)).requires_grad
        assert hooked(partial(make, cpu=True)).device.type == 'cpu'
    backward = hooked(lambda m: public.Hook(m, keep, is_forward=False))
    assert torch.equal(backward[0], torch.ones(1, 2)) and torch.equal(hooked(
        lambda m: public.hook_output(m, grad=True))[0], torch.ones(1, 2))

    def many(make):
        def one(m):
            return make([m])
        stored, = hooked(one)
        return stored
    for make in (lambda ms, **k: public.Hooks(ms, keep, **k), public.hook_outputs):
        assert not many(make).requires_grad and many(partial(make, detach=False)).requires_grad
    assert torch.equal(many(partial(public.Hooks, hook_func=keep, is_forward=False))[0], torch.ones(1, 2))
    assert torch.equal(many(partial(public.hook_outputs, grad=True))[0], torch.ones(1, 2))


# ---------------------------------------------------------------- losses

X, Y = torch.randn(6, 4, 3, generator=G), torch.randint(0, 4, (6, 3), generator=G)


@pytest.mark.parametrize('name', ['CrossEntropyLossFlat', 'FocalLossFlat', 'LabelSmoothingCrossEntropyFlat'])
def test_axis_of_a_loss_is_that_of_the_classes(name):
    """Classes in the middle and `axis=1`, or at the end."""
    loss = getattr(public, name)
    torch.testing.assert_close(loss(axis=1)(X, Y), loss()(X.movedim(1, -1), Y))
    assert torch.equal(loss(axis=1).decodes(X), X.argmax(1))


@pytest.mark.parametrize('name', ['BCEWithLogitsLossFlat', 'BCELossFlat', 'MSELossFlat', 'L1LossFlat'])
def test_targets_and_axis_of_a_loss_of_numbers(name):
    """`floatify=False` leaves targets as they are, which torch then refuses; `axis` moves both alike."""
    loss, x, whole = getattr(public, name), torch.rand(4, 3, generator=G), torch.randint(0, 2, (4, 3), generator=G)
    assert loss()(x, whole) == loss()(x, whole.float())
    assert loss(axis=0, reduction='none')(x, whole).tolist() == loss(reduction='none')(x.T, whole.T).tolist()
    assert loss(axis=0, reduction='none')(x, whole).tolist() != loss(reduction='none')(x, whole).tolist()
    seen = []

    class Sees(nn.Module):
        reduction = 'mean'

        def forward(self, inp, targ):
            seen.append(targ.dtype)
            return inp.sum()
    for floatify in (True, False):
        made = loss(floatify=floatify)
        made.func = Sees()
        made(x, whole)
    assert seen == [torch.float32, torch.int64]


def test_flatten_of_a_loss_makes_two_axes():
    """With it the loss sees [N,C] and [N]; without it what it was given."""
    seen = []

    class Sees(nn.Module):
        reduction = 'mean'

        def forward(self, inp, targ):
            seen.append((tuple(inp.shape), tuple(targ.shape)))
            return inp.sum()
    for flatten in (True, False):
        public.BaseLoss(Sees, axis=1, flatten=flatten)(X, Y)
    assert seen == [((18, 4), (18,)), ((6, 3, 4), (6, 3))]


@pytest.mark.parametrize('make', [public.FocalLoss, public.LabelSmoothingCrossEntropy])
def test_reduction_and_weight_of_a_loss(make):
    """'none' is a number an item, of which 'sum' and 'mean' are made; a class without weight counts for nothing."""
    x, y = X[:, :, 0], Y[:, 0]
    each = make(reduction='none')(x, y)
    assert each.shape == (6,)
    torch.testing.assert_close(make(reduction='sum')(x, y), each.sum())
    torch.testing.assert_close(make(reduction='mean')(x, y), each.mean())
    if make is public.FocalLoss:
        weight = torch.tensor([0., 1, 2, 3])
        weighed = make(weight=weight, reduction='none')(x, y)
        # the weight is in the cross entropy, as in fastai
        ce = F.cross_entropy(x, y, weight=weight, reduction='none')
        torch.testing.assert_close(weighed, (1 - torch.exp(-ce))**2 * ce)
        assert not weighed[y == 0].any()


def test_axis_of_dice_is_that_of_the_classes():
    """Of the loss, and of the scores."""
    moved = X.movedim(1, 2)
    torch.testing.assert_close(public.DiceLoss(axis=2)(moved, Y), public.DiceLoss(axis=1)(X, Y))
    binary = torch.randn(6, 2, 3, generator=G)
    for make, x in ((public.Dice, binary), (public.DiceMulti, X)):
        values = []
        for axis, preds in ((1, x), (2, x.movedim(1, 2))):
            metric = make(axis=axis)
            metric.reset()
            metric.accumulate(SimpleNamespace(pred=preds, y=Y % x.shape[1], yb=(Y % x.shape[1],)))
            values.append(float(metric.value))
        assert values[0] == values[1]


def test_functions_of_predictions_look_along_the_axis_that_is_told():
    """`error_rate`, `foreground_acc` and its background."""
    assert public.error_rate(X, Y, axis=1) == public.error_rate(X.movedim(1, -1), Y)
    pred, targ = torch.randn(2, 3, 4, 4, generator=G), torch.randint(0, 3, (2, 4, 4), generator=G)
    hit = pred.argmax(1) == targ
    for background in (0, 1):
        found = public.foreground_acc(pred, targ, bkg_idx=background)
        torch.testing.assert_close(found, hit[targ != background].float().mean())
    torch.testing.assert_close(public.foreground_acc(pred.movedim(1, -1), targ, axis=-1),
                               public.foreground_acc(pred, targ))


def test_the_best_threshold_is_found_as_closely_as_told():
    """`tol`, on a parabola whose top is at .3."""
    def parabola(preds, targs, thresh):
        calls.append(thresh)
        return 1 - (thresh - .3)**2
    for tol in (.2, .001):
        calls = []
        _, x = public.optim_metric(parabola, 'thresh', (0., 1.), tol=tol, get_x=True)(None, None)
        assert abs(x - .3) <= tol and (len(calls) < 8) is (tol == .2)


# ---------------------------------------------------------------- layers

PICTURE = torch.randn(2, 8, 12, 12, generator=G)


def shape_of(layer, x=PICTURE):
    return tuple(layer(x).shape)


def test_convolutions_are_built_as_told():
    """`padding`, `bias`, `init`, `bias_std`, and what `ndim` and `norm_type` make of them."""
    layer = partial(public.ConvLayer, 8, 4)
    assert shape_of(layer()) == (2, 4, 12, 12) and shape_of(layer(padding=0)) == (2, 4, 10, 10)
    assert layer()[0].bias is None and layer(bias=True)[0].bias is not None
    assert layer(norm_type=None, bias=False)[0].bias is None
    assert not layer(init=nn.init.zeros_)[0].weight.any()
    plain = layer(norm_type=None, bias_std=0)[0].bias
    spread = public.ConvLayer(8, 4000, norm_type=None, bias_std=.5)[0].bias.detach()
    assert not plain.any() and float(spread.std()) == pytest.approx(.5, rel=.1)


@pytest.mark.parametrize('make, kind', [(public.BatchNorm, 'Batch'), (public.InstanceNorm, 'Instance')])
def test_norms_are_built_as_told(make, kind):
    """`norm_type`: the Zero kind begins with weight 0; `ndim`; `affine`."""
    zero = getattr(NormType, f'{kind}Zero')
    assert make(3).weight.eq(1).all() and make(3, norm_type=zero).weight.eq(0).all()
    assert [type(make(3, ndim=n)).__name__ for n in (1, 2, 3)] == [f'{kind}Norm{n}d' for n in (1, 2, 3)]
    assert make(3, affine=False).weight is None


def test_pools_are_built_as_told():
    """`ks`, `stride`, `padding`, `ceil_mode`, `ndim`, sizes."""
    for make, ours in ((public.MaxPool, F.max_pool2d), (public.AvgPool, F.avg_pool2d)):
        for options in ({'ks': 3}, {'ks': 3, 'stride': 1}, {'ks': 4, 'padding': 1}, {'ks': 5, 'ceil_mode': True}):
            told = {('kernel_size' if k == 'ks' else k): v for k, v in options.items()}
            assert torch.equal(make(**options)(PICTURE), ours(PICTURE, **told))
        assert shape_of(make(ndim=1), PICTURE[0]) == (8, 12, 6) and shape_of(make(ndim=3)) == (2, 4, 6, 6)
    assert shape_of(public.AdaptiveAvgPool(3)) == (2, 8, 3, 3)
    assert shape_of(public.AdaptiveAvgPool(5, ndim=1), PICTURE[0]) == (8, 12, 5)
    assert shape_of(public.AdaptiveConcatPool2d(3)) == (2, 16, 3, 3)
    assert shape_of(public.Cat([nn.Identity(), nn.Identity()], dim=2)) == (2, 8, 24, 12)


def test_other_layers_are_built_as_told():
    """Drop-out and norm of a linear block, spread of an embedding, scale of a shuffle, a small net's convolutions."""
    kinds = [[type(m).__name__ for m in public.LinBnDrop(4, 2, **options)] for options in ({}, {'bn': False},
                                                                                         {'p': .3})]
    assert kinds == [['BatchNorm1d', 'Linear'], ['Linear'], ['BatchNorm1d', 'Dropout', 'Linear']]
    assert public.LinBnDrop(4, 2, p=.3)[1].p == .3
    assert float(public.Embedding(400, 50, std=.5).weight.detach().abs().max()) == pytest.approx(1., abs=.05)
    assert shape_of(public.PixelShuffle_ICNR(8, 4, scale=3)) == (2, 4, 36, 36)
    weight = public.icnr_init(torch.empty(18, 2, 3, 3), scale=3, init=nn.init.normal_)
    assert torch.equal(weight[:9], weight[:1].expand(9, 2, 3, 3)) and not torch.equal(weight[0], weight[9])
    assert not public.icnr_init(torch.empty(4, 2, 3, 3), init=nn.init.zeros_).any()
    net = public.SimpleCNN([3, 4, 5], kernel_szs=[1, 5], strides=[1, 2], bn=False)
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.kernel_size[0], c.stride[0]) for c in convolutions] == [(1, 1), (5, 2)]
    assert not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())


@pytest.mark.parametrize('name', ['mish', 'swish', 'vleaky_relu'])
def test_functions_work_in_place_where_told(name):
    """`inplace=True` changes what it is given."""
    function = getattr(public, name)
    for inplace in (True, False):
        x = torch.tensor([-1., 2.])
        y = function(x, inplace=inplace)
        assert torch.equal(x, y) is inplace
    for eps in (1e-7, .1):
        for sigmoid in (public.sigmoid, public.sigmoid_):
            assert sigmoid(torch.tensor([-99., 99.]), eps=eps).tolist() == pytest.approx([eps, 1 - eps])


def counts(layer, kind=nn.Conv2d):
    return [m for m in layer.modules() if isinstance(m, kind)]


def test_residual_blocks_are_built_as_told():
    """Groups, channels between, depthwise, symmetric, kernel, norm, pool."""
    block = partial(public.ResBlock, 4, 2, 2)
    assert shape_of(block()) == (2, 8, 12, 12)
    assert [c.out_channels for c in counts(block(nh1=3, nh2=5))][:3] == [3, 5, 8]
    assert [c.groups for c in counts(block(groups=2))] == [1, 2, 1] and [
        c.groups for c in counts(block(dw=True))] == [1, 2, 1]
    assert [c.groups for c in counts(public.ResBlock(1, 8, 8, g2=4))] == [1, 4]
    assert [c.kernel_size[0] for c in counts(block(ks=5))] == [1, 5, 1]
    assert not counts(block(norm_type=None), nn.BatchNorm2d) and counts(block(), nn.BatchNorm2d)
    for sym in (True, False):
        assert counts(block(sa=True, sym=sym), public.SimpleSelfAttention)[0].sym is sym
    assert counts(block(stride=2, pool=public.MaxPool), nn.MaxPool2d) and not counts(block(stride=2), nn.MaxPool2d)
    assert shape_of(public.ResBlock(1, 8, 8, ndim=1), PICTURE[:, :, 0]) == (2, 8, 12)


def test_squeezing_blocks_are_built_as_told():
    """`reduction`, `groups`, `stride`, `base_width`, the activation between."""
    def squeezed(layer):
        return [c.out_channels for c in counts(layer) if c.kernel_size == (1, 1)]
    assert counts(public.SEModule(64, 2, act_cls=nn.SiLU), nn.SiLU)
    x = torch.randn(1, 64, 8, 8, generator=G)
    for make in (partial(public.SEBlock, 1, 64, 64), partial(public.SEResNeXtBlock, 1, 64, 64),
                 partial(public.SeparableBlock, 1, 64, 64)):
        assert shape_of(make(stride=2), x) == (1, 64, 4, 4)
        assert 8 in squeezed(make(reduction=8)) and 8 not in squeezed(make(reduction=2))
        assert counts(make(act_cls=nn.SiLU), nn.SiLU) and not counts(make(), nn.SiLU)
    assert {c.groups for c in counts(public.SEBlock(1, 64, 64, groups=4))} >= {4}
    widths = [max(c.out_channels for c in counts(public.SEResNeXtBlock(4, 64, 64, base_width=w))
                  if c.kernel_size == (3, 3)) for w in (4, 8)]
    assert widths[1] == 2 * widths[0]


XRESNETS = [name for name in vars(public) if name.startswith(('xresne', 'xse'))]
BUILT = {('GradientClip', 'norm_type'), ('CutMix', 'alpha'), ('MixHandler', 'alpha'),
         *((name, option) for name in XRESNETS for option in ('n_out', 'pretrained'))}
"""(door, argument) of the tables above that are made by loops or by helpers, for `tests/given.py`."""


@pytest.mark.parametrize('name', XRESNETS)
def test_xresnets_have_the_outputs_that_are_told_and_no_weights_but_one(name):
    """`n_out`; `pretrained=True` is refused where no weights were ever published."""
    with torch.device('meta'):
        assert getattr(public, name)(n_out=7)[-1].out_features == 7
    if name != 'xresnet50':
        with pytest.raises(ValueError, match=f'no published weights for {name}'):
            getattr(public, name)(pretrained=True)


