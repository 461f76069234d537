"""Monte Carlo dropout: on in predictions with the callback, off again behind them."""
from __future__ import annotations

import itertools

import pytest
import torch
from small_learner import data, deep, learner

from minifast.callback.core import GatherPredsCallback
from minifast.callback.preds import MCDropoutCallback
from minifast.seeds import set_seed


def test_predictions_vary_with_dropout_left_on_and_only_then():
    """Batch norm stays as it is in evaluation; the predictions before and after are the same bits."""
    learn = learner(model=deep())
    before, stats = learn.get_preds()[0], learn.model[1].running_mean.clone()
    draws = [learn.get_preds(cbs=MCDropoutCallback())[0] for _ in range(20)]
    assert not torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], before)
    assert torch.equal(learn.get_preds()[0], before) and not learn.model[3].training
    assert torch.equal(learn.model[1].running_mean, stats)
    spread = torch.stack(draws).std(0)
    assert spread.min() > 0 and (torch.stack(draws).mean(0) - before).abs().mean() < .1


def test_looks_at_an_unchanged_stream_go_on_and_leave_it_alone():
    """As in a user's own callback: each pass draws other numbers, a new seed starts over, training draws what it
    would."""
    learn = learner(model=deep())
    runs = []
    for looks in (0, 3):
        set_seed(5)
        drawn = [learn.get_preds(cbs=MCDropoutCallback())[0] for _ in range(looks)]
        runs.append((drawn, torch.rand(3), learn.get_preds(cbs=MCDropoutCallback())[0]))
    assert torch.equal(runs[0][1], runs[1][1]) and torch.equal(runs[0][2], runs[1][2])
    assert not any(torch.equal(a, b) for a, b in itertools.combinations([*runs[1][0], runs[1][2]], 2))
    set_seed(5)
    assert torch.equal(learn.get_preds(cbs=MCDropoutCallback())[0], runs[1][0][0])


def test_validation_in_a_fit_has_dropout_too():
    """The callback in a fit changes the validation losses, and no weight before the second epoch."""
    weights, losses = [], []
    for cbs in (None, MCDropoutCallback()):
        set_seed(0)
        learn = learner(model=deep(), cbs=cbs)
        learn.fit(1)
        weights.append(torch.cat([p.flatten() for p in learn.model.parameters()]).detach())
        losses.append(learn.recorder.values[-1][1])
    assert torch.equal(*weights) and losses[0] != losses[1]


@pytest.mark.parametrize('with_input', [False, True])
@pytest.mark.parametrize('with_loss', [False, True])
def test_gathered_tensors_are_listed_in_their_order(with_input, with_loss):
    """Inputs and losses where they were asked for, predictions and targets always."""
    learn = learner()
    gather = GatherPredsCallback(with_input=with_input, with_loss=with_loss)
    with learn.loss_not_reduced():
        learn.validate(cbs=gather)
    x, y = data()
    preds = learn.model.eval()(x)
    wanted = [*[x] * with_input, preds, y, *[torch.nn.functional.cross_entropy(preds, y, reduction='none')] * with_loss]
    for got, want in zip(gather.all_tensors(), wanted, strict=True):
        torch.testing.assert_close(got, want.detach())
