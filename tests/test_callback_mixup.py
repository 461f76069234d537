"""MixUp and CutMix blend as fastai does and leave no trace."""
from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from small_learner import Interrupt, Losses, data, learner
from torch import nn

from minifast.callback.core import Callback, CancelBatchException, CancelFitException, CancelTrainException
from minifast.callback.mixup import CutMix, MixUp, reduce_loss
from minifast.losses import CrossEntropyLossFlat

FASTAI = json.loads((Path(__file__).parent / 'data' / 'fastai_callbacks.json').read_text())


@pytest.mark.parametrize('name, cb', [('mixup', MixUp), ('mixup_1', lambda: MixUp(1.)), ('cutmix', CutMix)])
def test_mix_gives_the_losses_of_fastai(name, cb):
    """From the same seed the same weights and partners are drawn, and every loss is fastai's."""
    learn, losses = learner(), Losses()
    torch.manual_seed(11)
    learn.fit(2, lr=.1, cbs=[losses, cb()])
    torch.testing.assert_close(losses.seen, FASTAI['fits'][name], rtol=1e-5, atol=1e-6)


class See(Callback):
    """Keeps what the model and the loss see of the first training batch."""

    order, run_valid = 5, False

    def before_batch(self):
        if self.train_iter == 0:
            self.x_seen, self.y_seen = self.learn.x, self.learn.y


@pytest.mark.parametrize('loss_func', [nn.CrossEntropyLoss(), F.cross_entropy, nn.CrossEntropyLoss(reduction='sum'),
                                       partial(F.cross_entropy, label_smoothing=.1), CrossEntropyLossFlat()])
def test_mixup_of_classes_blends_the_losses(loss_func):
    """With class indices the loss is the blend of the losses on both targets, for torch's own losses too."""
    learn, cb, see, losses = learner(loss_func=loss_func), MixUp(), See(), Losses()
    learn.fit(1, lr=0., cbs=[cb, see, losses, keep := Keep(cb)])
    pred, lam, y, y1 = learn.model(see.x_seen).detach(), keep.lam, see.y_seen, keep.y1
    plain = loss_func.func if isinstance(loss_func, partial) else F.cross_entropy
    kwargs = {'reduction': 'none', **(loss_func.keywords if isinstance(loss_func, partial) else {})}
    blended = lam * plain(pred, y, **kwargs) + (1 - lam) * plain(pred, y1, **kwargs)
    wanted = reduce_loss(blended, getattr(loss_func, 'reduction', 'mean'))
    assert losses.seen[0] == pytest.approx(float(wanted), rel=1e-5)


class Keep(Callback):
    """Keeps the first draw of a MixUp."""

    order, run_valid = 6, False

    def __init__(self, mix):
        self.mix = mix

    def before_batch(self):
        if self.train_iter == 0:
            self.lam, self.y1 = self.mix.lam, self.mix.yb1[0]


def test_mixup_of_numbers_blends_the_targets():
    """Floating targets are blended themselves, item by item as the pictures are."""
    x, y = data()
    learn = learner(model=nn.Sequential(nn.Flatten(), nn.Linear(108, 1)), loss_func=Mean())
    cb, see = MixUp(), See()
    learn.dls = [[(x, x.mean((1, 2, 3))[:, None])]] * 2
    learn.dls = type('Loaders', (list,), {'train': property(lambda s: s[0]), 'device': None})(learn.dls)
    learn.fit(1, lr=0., cbs=[cb, see])
    torch.testing.assert_close(see.y_seen, see.x_seen.mean((1, 2, 3))[:, None])
    assert ((cb.lam >= .5) & (cb.lam <= 1)).all()


class Mean(nn.Module):
    """Squared error."""

    def forward(self, pred, targ):
        return ((pred - targ) ** 2).mean()


def test_mixup_of_class_indices_for_an_unknown_loss_says_what_to_do():
    """Integer targets cannot be blended: the error names `y_int`."""
    learn = learner(loss_func=lambda pred, y: F.cross_entropy(pred, y))
    with pytest.raises(ValueError, match='y_int'):
        learn.fit(1, cbs=MixUp)


def test_mixup_weights_a_mask_by_item():
    """A loss with several values an item weights them all by the item's draw."""
    model = nn.Conv2d(3, 4, 1)
    for loss_func in (CrossEntropyLossFlat(axis=1), nn.CrossEntropyLoss()):
        learn, cb = learner(model=model, loss_func=loss_func), MixUp()
        learn.training, cb.learn, learn.xb = True, learn, (torch.randn(4, 3, 2, 2),)
        learn.yb = (torch.randint(0, 4, (4, 2, 2)),)
        cb.before_train(), cb.before_batch()
        pred = model(learn.xb[0])
        one, two = (F.cross_entropy(pred, y, reduction='none').mean((1, 2)) for y in (learn.yb[0], cb.yb1[0]))
        wanted = (cb.lam * one + (1 - cb.lam) * two).mean()
        torch.testing.assert_close(cb.lf(pred, *learn.yb), wanted)
        cb.cleanup_fit()


def test_cutmix_pastes_a_rectangle_and_weights_by_its_area():
    """Each pixel comes from the own or the partner's picture, the partner's share being `1 - lam`; the batch of the
    loader is not written to."""
    learn, cb = learner(), CutMix()
    x, y = data()
    learn.xb, learn.yb, cb.learn, cb.stack_y = (x,), (y,), learn, True
    kept = x.clone()
    for _ in range(20):
        learn.xb = (x,)
        cb.before_batch()
        partner = [int(i) for i in (learn.xb[0] != x).flatten(1).any(1).nonzero()]
        changed = (learn.xb[0] != x).any(1).any(0)
        if partner:
            assert float(changed.float().mean()) == pytest.approx(1 - float(cb.lam), abs=1e-6)
    assert torch.equal(x, kept)


@pytest.mark.parametrize('leave', [None, KeyboardInterrupt, CancelBatchException, CancelTrainException,
                                   CancelFitException, RuntimeError])
@pytest.mark.parametrize('event_name', ['before_batch', 'after_pred', 'after_loss', 'after_backward', 'after_batch'])
def test_mix_puts_the_loss_function_back_however_training_ends(leave, event_name):
    """Behind a fit, and in its validation, the loss function is the user's own."""
    class Leave(Callback):
        order = 99

        def before_validate(self):
            assert self.loss_func is own
    own = CrossEntropyLossFlat()
    learn, at = learner(loss_func=own, n=16), Leave()
    if leave is CancelBatchException and event_name == 'after_batch':
        leave = None  # nothing is left to cancel there
    if leave is not None:
        def raise_it():
            if learn.training:
                raise leave
        setattr(at, event_name, raise_it)
    try:
        learn.fit(1, cbs=[MixUp, at])
    except (KeyboardInterrupt, RuntimeError) as error:
        assert type(error) is leave
    assert learn.loss_func is own and own.reduction == 'mean'


def test_mix_works_on_the_second_fit_and_after_an_interrupt():
    """One instance serves many fits."""
    learn, cb = learner(), MixUp()
    with pytest.raises(KeyboardInterrupt):
        learn.fit(1, cbs=[cb, Interrupt('after_loss')])
    learn.fit(1, cbs=cb), learn.fit(1, cbs=cb)
    assert isinstance(learn.loss_func, CrossEntropyLossFlat) and len(learn.recorder.losses) == 4


def test_reduce_loss_reduces_as_told():
    """'mean', 'sum', or as it is."""
    loss = torch.tensor([1., 3.])
    assert [reduce_loss(loss).item(), reduce_loss(loss, 'sum').item()] == [2., 4.] and reduce_loss(loss, 'none') is loss


def test_two_that_blend_the_same_batch_are_refused():
    """MixUp and CutMix cannot both give the targets of a batch: both are named."""
    with pytest.raises(ValueError, match='MixUp and CutMix both blend'):
        learner(cbs=[MixUp(), CutMix()]).fit(1)
    learn = learner(cbs=[MixUp(), CutMix()])
    learn.cut_mix.run = False
    learn.validate()
    assert isinstance(learn.loss_func, CrossEntropyLossFlat)


# ---------------------------------------------------------------- the rectangle, further inputs, training only

@pytest.mark.parametrize('h, w', [(4, 12), (12, 4), (7, 7)])
def test_cutmix_pastes_a_rectangle_of_the_drawn_area_into_pictures_of_any_shape(h, w):
    """Within the picture, its sides in the proportion of the picture's, its share what `lam` says, pasted from the
    partner at the same place."""
    mix, sizes = CutMix(), []
    for seed in range(200):
        torch.manual_seed(seed)
        lam = mix.distrib.sample((1,))
        x1, y1, x2, y2 = mix.rand_bbox(w, h, lam)
        assert 0 <= x1 <= x2 <= w and 0 <= y1 <= y2 <= h
        side = float((1 - lam) ** .5)
        # whole pixels, an even number of them, cut off at the border
        assert x2 - x1 <= round(w * side) and y2 - y1 <= round(h * side)
        sizes.append(((x2 - x1) / w, (y2 - y1) / h, side))
    shares = torch.tensor(sizes)
    uncut = (shares[:, :2] - shares[:, 2:]).abs().amin(0)
    assert (uncut < .2).all()
    x = torch.arange(5.)[:, None, None, None].expand(5, 1, h, w).contiguous()
    for seed in range(20):
        torch.manual_seed(seed)
        learn = type('', (), {'xb': (x, x[:, 0, 0, 0]), 'yb': (torch.arange(5),), 'loss_func': None,
                              'fit_seed': None, 'ranks': None})()
        mix.learn, mix.stack_y = learn, True
        mix.before_batch()
        pasted = learn.xb[0]
        assert torch.equal(learn.xb[1], x[:, 0, 0, 0])
        own = (pasted == x).float().mean((1, 2, 3))
        partner = (pasted == mix.yb1[0][:, None, None, None]).float().mean((1, 2, 3))
        for i in range(5):
            if mix.yb1[0][i] != i:
                shares = float(own[i]), float(partner[i])
                assert shares == pytest.approx((float(mix.lam), 1 - float(mix.lam)), abs=1e-6)


def _numbers(mix, n_inputs=1):
    """A learner whose target is a number and whose inputs are `n_inputs` tensors, and what its first batch became."""
    g = torch.Generator().manual_seed(0)
    xs = [torch.randn(8, 1, 6, 6, generator=g) for _ in range(n_inputs)]

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, *xs):
            return sum(x.mean((1, 2, 3)) for x in xs)[:, None] * self.scale
    learn, see = learner(model=Net(), loss_func=nn.MSELoss()), See()
    y = torch.arange(8.)[:, None]
    learn.dls = type('Loaders', (list,), {'train': property(lambda s: s[0]), 'device': None, 'n_inp': n_inputs})(
        [[(*xs, y)]] * 2)
    learn.fit(1, lr=0., cbs=[mix, see])
    return xs, y, see


def test_cutmix_of_numbers_blends_the_targets():
    """y = lam*y + (1-lam)*the partner's, the same weight for all items of the batch."""
    torch.manual_seed(3)
    mix = CutMix()
    _, y, see = _numbers(mix)
    lam = float(mix.lam)
    assert 0 < lam < 1
    torch.testing.assert_close(see.y_seen, lam * y + (1 - lam) * mix.yb1[0])
    assert not torch.equal(see.y_seen, y)


def test_mixup_blends_every_input():
    """Two pictures an item: both become blends with the same partner and weight."""
    mix = MixUp()
    xs, y, see = _numbers(mix, n_inputs=2)
    partner = mix.yb1[0][:, 0].long()
    lam = mix.lam[:, None, None, None]
    assert (partner != torch.arange(8)).any() and len(see.x_seen) == 2
    for x, seen in zip(xs, see.x_seen):
        torch.testing.assert_close(seen, lam * x + (1 - lam) * x[partner])


@pytest.mark.parametrize('mix', [MixUp, CutMix])
def test_mixing_leaves_validation_and_the_learners_loss_alone(mix):
    """What is validated are the items as they are, by the user's own loss, which is back behind each training part."""
    class Look(Callback):
        order = 200

        def before_validate(self):
            losses.append(self.learn.loss_func)

        def after_loss(self):
            if not self.training:
                assert float(self.learn.loss) == pytest.approx(float(F.cross_entropy(self.pred, self.y)), rel=1e-5)
    losses, learn = [], learner()
    own = learn.loss_func
    learn.fit(2, lr=.1, cbs=[mix(), Look()])
    assert losses == [own, own] and learn.loss_func is own


@pytest.mark.parametrize('make', [MixUp, CutMix])
def test_a_look_within_an_epoch_measures_the_loss_itself(make):
    """A validation in a hook of a training batch sees no blend."""
    class Look(Callback):
        run_valid = False

        def after_batch(self):
            self.looked = self.learn.validate()[0]
    learn, twin, look = learner(), learner(), Look()
    learn.fit(1, lr=0., cbs=[make(), look])
    assert look.looked == pytest.approx(twin.validate()[0], rel=1e-6)
