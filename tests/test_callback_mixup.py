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
