"""Parameters that ask for a gradient and that no optimizer holds are told of; those held twice are stepped once."""
from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from small_learner import learner
from torch import nn

from minifast.optimizer import SGD, Adam
from minifast.torch_core import params


class Net(nn.Module):
    """A body, a head, and a scale that splitters forget."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.scale = nn.Linear(108, 8), nn.Linear(8, 4), nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.head(self.body(x.flatten(1)).relu()) * self.scale


def forgets(m):
    return [params(m.body), params(m.head)]


@pytest.mark.parametrize('opt_func', [SGD, Adam, torch.optim.SGD])
def test_a_parameter_that_the_splitter_forgets_is_told_once(opt_func):
    """When the optimizer is made, with its name, and not again for the same ones."""
    learn = learner(model=Net(), splitter=forgets, opt_func=opt_func)
    with pytest.warns(UserWarning, match='no optimizer holds the parameters scale') as told:
        learn.create_opt()
        learn.fit(1), learn.fit(1)
    assert len(told) == 1
    learn.splitter = lambda m: [*forgets(m), [m.scale]]
    learn.create_opt()
    learn.fit(1, .1)
    assert float(learn.model.scale.detach()) != 1


def test_frozen_on_purpose_is_silent_and_thawed_behind_is_told():
    """`requires_grad_(False)` says that it is meant; what asks for a gradient later is told at the next fit."""
    learn = learner(model=Net(), splitter=forgets)
    learn.model.scale.requires_grad_(False)
    learn.fit(1)
    learn.freeze()
    learn.fit(1)
    learn.model.scale.requires_grad_(True)
    with pytest.warns(UserWarning, match='scale'):
        learn.fit(1)


@pytest.mark.parametrize('change', [lambda m: setattr(m, 'head', nn.Linear(8, 4)), lambda m: Net()])
def test_a_replaced_head_or_model_is_refused_with_the_way_out(change):
    """The optimizer still holds what is gone, so training would leave the new parameters alone."""
    learn = learner(model=Net())
    learn.fit(1)
    learn.model = change(learn.model) or learn.model
    for fit in (learn.fit, learn.fit_one_cycle):
        with pytest.raises(ValueError, match='head.weight.*create_opt'):
            fit(1)
    before = learn.model.head.weight.detach().clone()
    learn.fit(1, .1, reset_opt=True)
    assert not torch.equal(before, learn.model.head.weight)


def test_a_module_that_was_added_is_told():
    """Nothing is gone, but the new one is not trained."""
    learn = learner(model=Net())
    learn.fit(1)
    learn.model.extra = nn.Linear(2, 2)
    with pytest.warns(UserWarning, match='extra.weight, extra.bias'):
        learn.fit(1)


def test_a_loss_with_parameters_is_told_unless_the_splitter_has_them():
    """Its centres stay where they are otherwise; held beside the model's they are no sign of a changed model."""
    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.centre = nn.Parameter(torch.zeros(4))

        def forward(self, p, y):
            return F.cross_entropy(p + self.centre, y)
    loss = Loss()
    with pytest.warns(UserWarning, match='centre of the loss function') as told:
        learn = learner(model=Net(), loss_func=loss)
        learn.create_opt()
        assert len(told) == 1  # at once, as a parameter of the model is
        learn.fit(1)
    assert len(told) == 1
    learn = learner(model=Net(), loss_func=loss, splitter=lambda m: [params(m), params(loss)])
    learn.fit(1, .1)
    assert loss.centre.detach().abs().sum() > 0
    learn.model.extra = nn.Linear(2, 2)
    with pytest.warns(UserWarning, match='extra'):
        learn.fit(1)


def tied():
    """Two layers with one weight."""
    layers = nn.Linear(108, 108, bias=False), nn.Linear(108, 108, bias=False), nn.Linear(108, 4)
    net = nn.Sequential(nn.Flatten(), *layers)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.linspace(-.1, .1, p.numel()).view_as(p))
    net[2].weight = net[1].weight
    return net


@pytest.mark.parametrize('splitter', [lambda m: [[m[1].weight], [m[2].weight, *m[3].parameters()]],
                                      lambda m: [m[1].weight, m[2].weight, *m[3].parameters()]])
def test_a_parameter_that_a_splitter_returns_twice_is_stepped_once(splitter):
    """It is told, and training ends in the bits of one that has it once."""
    learn = learner(model=tied(), splitter=splitter)
    with pytest.warns(UserWarning, match='more than once'):
        learn.fit(1, .1)
    twin = learner(model=tied())
    twin.fit(1, .1)
    assert all(torch.equal(a, b) for a, b in zip(learn.model.parameters(), twin.model.parameters(), strict=True))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        learn.fit(1)
    assert not told
