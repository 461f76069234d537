"""The average of the weights is exact, stands in for them in validation only, and never mixes with them."""
from __future__ import annotations

import copy

import pytest
import torch
from small_learner import Interrupt, deep, learner, pictures, same, weights

from minifast.callback.core import Callback, CancelFitException, CancelValidException, as_measured
from minifast.callback.training import EMA, EMACallback
from minifast.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from minifast.export import to_torch
from minifast.learner import load_learner


class Follow(Callback):
    """Works the average out by hand and keeps the weights that validation sees."""

    order, run_valid = 80, False

    def __init__(self, decay):
        self.decay, self.validated = decay, []

    def before_train(self):
        if self.epoch == 0:
            self.average = weights(self.learn)

    def after_step(self):
        for name, t in self.model.state_dict().items():
            if t.is_floating_point():
                self.average[name] = torch.lerp(self.average[name], t, 1 - self.decay)
            else:
                self.average[name] = t.clone()

    def after_validate(self):
        self.validated.append(weights(self.learn))


def test_ema_validates_with_the_exact_average_and_trains_without():
    """Weights and statistics of the average are those of the formula; the training is that without the callback."""
    torch.manual_seed(1)
    learn, follow = learner(model=deep(), cbs=EMA(decay=.9)), Follow(.9)
    learn.fit(2, lr=.1, cbs=follow)
    torch.testing.assert_close(follow.validated[-1], follow.average)
    torch.manual_seed(1)
    twin = learner(model=deep())
    twin.fit(2, lr=.1)
    assert same(weights(learn), weights(twin)) and not same(follow.validated[-1], weights(twin))
    torch.testing.assert_close(learn.ema.averaged_model().state_dict(), follow.average)


def test_ema_after_the_fit_validates_and_predicts_with_the_average():
    """`validate` and `get_preds` use the average while the callback is attached and leave the weights alone."""
    learn = learner(cbs=EMACallback(decay=.9))
    learn.fit(2, lr=.1)
    trained, row = weights(learn), learn.recorder.values[-1][1]
    assert learn.validate()[0] == pytest.approx(row)
    wanted = learn.ema.averaged_model()(learn.dls[1].dataset.tensors[0]).softmax(1).detach()
    torch.testing.assert_close(learn.get_preds()[0], wanted)
    assert same(trained, weights(learn)) and not learn.ema.swapped


@pytest.mark.parametrize('stop', [False, True])
def test_ema_saves_as_best_what_was_measured(stop, tmp_path, capsys):
    """SaveModelCallback keeps the average of the best epoch, also where the fit is stopped early."""
    learn, follow = learner(path=tmp_path, cbs=EMA(decay=.5)), Follow(.5)
    save = SaveModelCallback(comp=lambda a, b: b == -float('inf'))  # the first epoch counts as the best
    learn.fit(3, lr=.1, cbs=[follow, save] + [EarlyStoppingCallback(comp=lambda a, b: False)] * stop)
    assert same(weights(learn), follow.validated[0]) and not learn.ema.swapped
    capsys.readouterr()


@pytest.mark.parametrize('leave', [KeyboardInterrupt, CancelValidException, CancelFitException])
@pytest.mark.parametrize('event_name', ['before_validate', 'after_pred', 'after_epoch'])
def test_ema_gives_the_trained_weights_back_however_a_validation_ends(leave, event_name):
    """The weights behind the fit are those of training without the callback."""
    class Leave(Callback):
        order = 69

        def raise_it(self):
            if not self.training:
                raise leave
    if leave is CancelValidException and event_name == 'after_epoch':
        leave = KeyboardInterrupt
    learn, twin, at = learner(cbs=EMA(decay=.5)), learner(), Leave()
    setattr(at, event_name, at.raise_it)
    try:
        learn.fit(1, lr=.1, cbs=at)
    except KeyboardInterrupt:
        assert leave is KeyboardInterrupt
    twin.fit(1, lr=.1)
    assert same(weights(learn), weights(twin)) and not learn.ema.swapped


def test_ema_starts_when_told_and_replaces_if_asked():
    """Before `start_epoch` there is no average; `replace_weights` leaves it in the model."""
    learn, follow = learner(), Follow(.5)
    learn.fit(1, lr=.1, cbs=EMA(start_epoch=1))
    learn = learner()
    learn.fit(2, lr=.1, cbs=[cb := EMA(decay=.5, replace_weights=True), follow])
    assert same(weights(learn), follow.validated[-1]) and cb.average is None
    with pytest.raises(ValueError, match='no average'):
        EMA().averaged_model()


def test_ema_with_warmup_forgets_the_first_steps():
    """With warm-up a short training's average is near the weights, without it near where they began."""
    found = {}
    for warmup in (False, True):
        learn = learner(cbs=EMA(decay=.9999, warmup=warmup))
        learn.fit(2, lr=.1)
        found[warmup] = float((learn.ema.average[0] - learn.model[1].weight.detach()).abs().max())
    assert found[True] < found[False] / 2


def test_ema_takes_no_part_in_lr_find():
    """A search changes neither the average nor whether there is one."""
    learn = learner(cbs=EMA(decay=.9))
    learn.fit(1, lr=.1)
    before = copy.deepcopy(learn.ema.average)
    learn.lr_find(num_it=6, show_plot=False)
    assert same(before, learn.ema.average) and learn.ema.run


def test_ema_goes_on_from_its_state_even_while_swapped():
    """A state taken in the middle of a validation continues to the same bits."""
    class Cut(Callback):
        order = 99

        def after_validate(self):
            if self.epoch == 0:
                states.append((weights(self.learn), copy.deepcopy(self.learn.ema.state_dict())))

    class Paste(Callback):
        order = 99

        def before_fit(self):
            self.learn.model.load_state_dict(states[0][0])
            self.learn.ema.load_state_dict(states[0][1])
    states, whole, rest = [], learner(cbs=EMA(decay=.5)), learner(cbs=EMA(decay=.5))
    whole.fit(2, lr=.1, cbs=Cut)
    assert states[0][1]['swapped']
    rest.fit(2, lr=.1, start_epoch=1, cbs=Paste)
    assert same(weights(whole), weights(rest)) and same(whole.ema.average, rest.ema.average)


def test_ema_after_an_interrupt_works_again():
    """One instance serves many fits."""
    learn = learner(cbs=EMA(decay=.5))
    with pytest.raises(KeyboardInterrupt):
        learn.fit(1, cbs=Interrupt('after_step'))
    learn.fit(1)
    assert learn.ema.n_steps == 4


# ---------------------------------------------------------------- each argument does what it says

def _averages(n_epoch=2, **kwargs):
    """The average after each step by the callback and by hand, [(epoch, callback's, trained weights)]."""
    class Keep(Callback):
        order, run_valid = 90, False

        def after_step(self):
            average = self.learn.ema.average
            kept.append((self.epoch, None if average is None else [t.clone() for t in average],
                         [t.detach().clone() for t in (*self.model.parameters(), *self.model.buffers())]))
    kept, learn = [], learner(cbs=EMA(**kwargs))
    learn.fit(n_epoch, lr=.1, cbs=Keep())
    return kept


def test_ema_default_decay():
    """A number that people rely on: an average over some 5,000 steps."""
    assert EMA().decay == .9998


def test_ema_starts_with_its_epoch():
    """There is no average before; its first one is made of the weights at the start of that epoch."""
    kept = _averages(3, start_epoch=2, decay=.75)
    assert [average is None for _, average, _ in kept] == [epoch < 2 for epoch, _, _ in kept]
    before = [weights for epoch, _, weights in kept if epoch == 1][-1]
    _, average, now = next(entry for entry in kept if entry[0] == 2)
    for a, b, w in zip(average, before, now):
        torch.testing.assert_close(a, torch.lerp(b, w, .25))


def test_ema_warmup_forgets_the_first_steps():
    """At step t the decay is (1+t)/(10+t), never more than told."""
    kept = _averages(2, warmup=True, decay=.15)
    start = [t.detach() for t in (*learner().model.parameters(), *learner().model.buffers())]
    for step, (_, average, weights_now) in enumerate(kept):
        decay = min((1 + step) / (10 + step), .15)
        start = [torch.lerp(w, s, decay) for s, w in zip(start, weights_now)]
        for a, b in zip(average, start):
            torch.testing.assert_close(a, b)
    assert (1 + len(kept)) / (10 + len(kept)) > .15 > 1 / 10  # both cases were there


@pytest.mark.parametrize('validate_ema', [True, False])
def test_ema_validates_with_the_weights_it_is_told(validate_ema):
    """validate_ema=False: the average is kept, and the trained weights are validated."""
    learn, follow = learner(cbs=EMA(decay=.5, validate_ema=validate_ema)), Follow(.5)
    learn.fit(1, lr=.1, cbs=follow)
    assert same(follow.validated[0], weights(learn)) != validate_ema
    torch.testing.assert_close(learn.ema.averaged_model().state_dict(), follow.average)


@pytest.mark.parametrize('replace', [True, False])
def test_ema_leaves_the_weights_it_is_told(replace):
    """replace_weights=True: the average is what is left; else what was trained."""
    learn, follow = learner(cbs=EMA(decay=.5, replace_weights=replace)), Follow(.5)
    learn.fit(1, lr=.1, cbs=follow)
    assert same(weights(learn), follow.average) == replace


def test_ema_does_not_change_the_state_it_is_given():
    """Later steps go into tensors of its own."""
    learn = learner(cbs=EMA(decay=.5))
    learn.fit(1, lr=.1)
    state = {**learn.ema.state_dict(), 'fresh': False}
    state['average'] = [t.clone() for t in state['average']]
    before = [t.clone() for t in state['average']]

    class Load(Callback):
        order = 200

        def before_train(self):
            self.learn.ema.load_state_dict(state)
    learn.fit(1, lr=.1, cbs=Load())
    assert all(torch.equal(a, b) for a, b in zip(before, state['average']))
    assert not all(torch.equal(a, b) for a, b in zip(before, learn.ema.average))


@pytest.mark.filterwarnings('ignore:.*load_learner.file, model=')  # which is what the law is not about
@pytest.mark.parametrize('validate_ema', [True, False])
def test_ema_what_is_handed_on_for_predictions_is_what_was_measured(tmp_path, validate_ema):
    """An export and a plain module give the learner's own predictions; the learner goes on with the trained weights."""
    learn = pictures(tmp_path / 'pictures')
    learn.add_cb(EMA(decay=.9, validate_ema=validate_ema)).fit(1, lr=.1)
    preds, trained, x = learn.get_preds()[0], weights(learn), learn.dls.valid.one_batch()[0]
    again = load_learner(learn.export(tmp_path / 'e.pth'), model=copy.deepcopy(learn.model))
    files = learn.dls.valid_ds.items
    torch.testing.assert_close(again.get_preds(dl=again.dls.test_dl(files))[0], preds)
    torch.testing.assert_close(to_torch(learn)(x).detach(), preds[:len(x)], rtol=1e-5, atol=1e-6)
    assert same(trained, weights(learn)) and same(trained, weights(again)) == (not validate_ema)


def test_ema_what_is_handed_on_before_the_average_begins_is_the_trained_model():
    """Validation knows no average before the start epoch, though there is one of the fit before; nor does an export."""
    learn, seen = learner(cbs=EMA(decay=.5, start_epoch=1)), []
    learn.fit(2, lr=.1)

    def look(cb):
        trained = weights(cb.learn)
        with as_measured(cb.learn.cbs):
            seen.append(same(trained, weights(cb.learn)))
    last = Callback(after_epoch=look)
    last.order = 80  # behind the average, which has left the model by then
    learn.fit(2, lr=.1, cbs=last)
    assert learn.ema.average is not None and seen == [True, False]
