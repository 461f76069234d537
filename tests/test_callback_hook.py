"""Hooks see what runs through a model and leave when they are told to."""
from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from small_learner import Interrupt, data, deep, learner, linear, same, weights
from torch import nn

from minifast.callback import hook as hook_room
from minifast.callback.hook import (
    ActivationStats, Hook, HookCallback, Hooks, dummy_eval, has_params, hook_output, hook_outputs, layer_info,
    model_sizes, module_summary, num_features_model, total_params,
)


def n_hooks(model):
    """Hooks that are registered anywhere in a model."""
    return sum(len(m._forward_hooks) + len(m._backward_hooks) for m in model.modules())


# ---------------------------------------------------------------- hooks

def test_hook_keeps_what_its_function_returns():
    """`stored` is the function's result on module, input and output; removed, the hook sees nothing more."""
    model, x = deep().eval(), data()[0]
    with Hook(model[0], lambda m, i, o: (m, i[0].shape, o.mean())) as hook:
        out = model(x)
        assert hook.stored[:2] == (model[0], x.shape) and not hook.stored[2].requires_grad and out.requires_grad
    stored = hook.stored
    model(x)
    assert hook.stored is stored and n_hooks(model) == 0 and hook.removed


def test_hook_output_keeps_activations_and_gradients():
    """The output, and with `grad` its gradient, also where an in-place layer follows."""
    model, (x, y) = deep().eval(), data()
    act, grad, flat = hook_output(model[1]), hook_output(model[1], grad=True), hook_output(model[4], grad=True)
    with act, grad, flat:
        h = model[1](model[0](x)).detach().requires_grad_()
        nn.functional.cross_entropy(model[2:](h.clone()), y).backward()
        wanted = h.grad
        nn.functional.cross_entropy(model(x), y).backward()
    torch.testing.assert_close(act.stored, torch.relu(h.detach()))  # the in-place ReLU behind has changed it
    torch.testing.assert_close(grad.stored[0], wanted)
    assert flat.stored[0].shape == (32, 64) and n_hooks(model) == 0


def test_hooks_hand_over_the_module_that_they_watch():
    """Forward with its inputs and output, backward with the gradient of its output and no inputs."""
    model, seen = deep().eval(), []
    with Hook(model[0], lambda *args: seen.append(args)), Hook(model[0], lambda *args: seen.append(args), False):
        out = model[0](data()[0])
        out.sum().backward()
    (module, (x,), y), (again, none, (grad,)) = seen
    assert module is again is model[0] and torch.equal(x, data()[0]) and torch.equal(y, out) and none == ()
    assert torch.equal(grad, torch.ones_like(out))


@pytest.mark.parametrize('cpu', [False, True])
@pytest.mark.parametrize('gather', [False, True])
def test_hooks_bring_what_they_keep_where_it_is_asked_for(cpu, gather, monkeypatch):
    """To the memory of the host, and from all processes: inputs and outputs alike."""
    asked = []
    monkeypatch.setattr(hook_room, 'to_detach', lambda x, cpu, gather: (asked.append((cpu, gather)), x)[1])
    model = deep().eval()
    with Hook(model[0], lambda m, i, o: o, cpu=cpu, gather=gather):
        model(data()[0])
    assert asked == [(cpu, gather)] * 2
    asked.clear()
    with Hook(model[0], lambda m, i, o: o, detach=False):
        model(data()[0])
    assert asked == []
    learner(n=8, bs=8).fit(1, 0., cbs=HookCallback(hook=lambda m, i, o: o, cpu=cpu))
    assert asked == [(cpu, False)] * 4  # a batch for training and one for validation


def test_hooks_watch_many_modules():
    """One hook a module, as a list."""
    model, x = deep(), data()[0]
    with hook_outputs(model) as hooks:
        model(x)
        assert len(hooks) == 6 and hooks.stored[-1].shape == (32, 4) and hooks[0].stored.shape == (32, 4, 4, 4)
    with Hooks([model[0]], lambda m, i, o: 1) as hooks:
        model(x)
    assert list(hooks.stored) == [1] and n_hooks(model) == 0


# ---------------------------------------------------------------- sizes

def test_sizes_leave_the_model_as_it_was():
    """Shapes are found without touching modes, statistics or random streams."""
    body = nn.Sequential(deep()[:3], nn.MaxPool2d(16))
    body.train(), body[0][1].eval()
    state, rng = weights(type('L', (), {'model': body})), torch.get_rng_state()
    assert [tuple(s) for s in model_sizes(body, (64, 64))] == [(1, 4, 62, 62), (1, 4, 3, 3)]
    assert num_features_model(body) == 4 and dummy_eval(body).shape == (1, 4, 3, 3)
    assert [body.training, body[0][0].training, body[0][1].training] == [True, True, False]
    assert same(state, body.state_dict()) and torch.equal(rng, torch.get_rng_state())


def test_num_features_of_a_model_that_always_fails_raises_its_error():
    """Where no size helps, the model's own error is seen."""
    with pytest.raises(RuntimeError):
        num_features_model(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(7, 7)))


def test_counts_of_parameters():
    """Numbers, whether they are trained, and whether there are any."""
    layer = nn.Linear(3, 2).requires_grad_(False)
    assert total_params(layer) == (8, False) and total_params(nn.Linear(3, 2)) == (8, True)
    assert total_params(nn.ReLU()) == (0, False) and has_params(layer) and not has_params(nn.ReLU())


def test_summary_lists_layers_and_totals():
    """One row a leaf with its shape and parameters; the totals add up; nothing changes."""
    learn = learner(model=deep())
    learn.model[0].requires_grad_(False)
    state = weights(learn)
    rows = layer_info(learn, data()[0])
    assert [row[0] for row in rows] == ['Conv2d', 'BatchNorm2d', 'ReLU', 'Dropout', 'Flatten', 'Linear']
    assert rows[0] == ('Conv2d', 112, False, (1, 4, 4, 4), False) and rows[2] == ('ReLU', '', '', (1, 4, 4, 4), True)
    text = module_summary(learn, data()[0])
    assert [line.rstrip() for line in text.splitlines()] == f"""\
Sequential (Input shape: 32 x 3 x 6 x 6)
{'=' * 76}
Layer (type)         Output Shape         Param #    Trainable
{'=' * 76}
                     32 x 4 x 4 x 4
Conv2d                                    112        False
BatchNorm2d                               8          True
ReLU
Dropout
{'_' * 76}
                     32 x 64
Flatten
{'_' * 76}
                     32 x 4
Linear                                    260        True
{'_' * 76}

Total params: 380
Total trainable params: 268
Total non-trainable params: 112

""".splitlines()
    assert same(state, weights(learn)) and learn.model.training and n_hooks(learn.model) == 0


def test_layers_are_told_for_inputs_of_any_device():
    """Inputs follow the parameters; a model without any runs where they are."""
    learn = SimpleNamespace(model=linear().to('meta'))
    assert [row[:2] for row in layer_info(learn, data()[0])] == [('Flatten', ''), ('Linear', 436)]
    learn = SimpleNamespace(model=nn.Sequential(nn.Flatten()))
    assert list(layer_info(learn, data()[0].to('meta'))) == [('Flatten', '', '', (1, 108), False)]


# ---------------------------------------------------------------- during training

class Shapes(HookCallback):
    """Keeps the shapes of outputs."""

    def hook(self, m, i, o):
        return type(m).__name__, o.shape

    def after_batch(self):
        if self.training and self._watched:
            self.seen = getattr(self, 'seen', 0) + 1
        super().after_batch()


@pytest.mark.parametrize('every, seen', [(None, 8), (3, 3)])
def test_hook_callback_watches_and_takes_its_hooks_off(every, seen):
    """All leaves with parameters are watched, in every (so many) batches, in the first fit and the second."""
    learn, cb = learner(model=deep()), Shapes(every=every)
    for n in (1, 2):
        learn.fit(2, cbs=cb)
        assert cb.seen == n * seen and n_hooks(learn.model) == 0
        assert [name for name, _ in cb.hooks.stored] == ['Conv2d', 'BatchNorm2d', 'Linear']


def test_hook_callback_after_an_interrupt_has_taken_its_hooks_off():
    """Ctrl-C leaves no hook in the model."""
    learn = learner(model=deep())
    with pytest.raises(KeyboardInterrupt):
        learn.fit(1, cbs=[Shapes(), Interrupt('after_pred')])
    assert n_hooks(learn.model) == 0


def test_hook_callback_takes_modules_and_a_function():
    """What to watch and what to keep can be given."""
    learn = learner(model=deep())
    learn.fit(1, cbs=(cb := HookCallback([learn.model[0]], hook=lambda m, i, o: o.shape)))
    assert list(cb.hooks.stored) == [(8, 4, 4, 4)]


def test_activation_stats_are_those_of_the_activations():
    """Mean, deviation, near-zero share and histogram of each watched layer and training batch."""
    learn = learner(model=deep())
    learn.fit(1, lr=0., cbs=(cb := ActivationStats(with_hist=True, include_paramless=True)))
    assert len(cb.stats) == 4 and len(cb.stats[0]) == 6
    x = data()[0][:8]
    out = deep()[:3](x).detach()
    got = cb.stats[0][2]
    assert got['mean'] == pytest.approx(float(out.mean()), rel=1e-5)
    assert got['std'] == pytest.approx(float(out.std()), rel=1e-5)
    assert got['near_zero'] == pytest.approx(float((out <= .05).float().mean()))
    assert torch.equal(got['hist'], out.histc(40, 0, 10))
    assert cb.hist(2).shape == (40, 4) and [len(part) for part in cb.layer_stats(2)] == [4, 4, 4]
    assert len(cb.plot_layer_stats(2)) == 3 and cb.color_dim(2).images and len(cb.plot_hist()) == 6
    with pytest.raises(ValueError, match='with_hist'):
        ActivationStats().hist(0)


def test_activation_stats_of_a_layer_with_several_outputs_are_a_list():
    """An entry for each tensor, in their order, with its own numbers."""
    class Halves(nn.Module):
        def forward(self, x):
            return x, 2 * x + 1

    class Sum(nn.Module):
        def forward(self, both):
            return both[0] + both[1]
    learn = learner(model=nn.Sequential(nn.Flatten(), Halves(), Sum(), nn.Linear(108, 4)))
    learn.fit(1, lr=0., cbs=(cb := ActivationStats(with_hist=True, include_paramless=True)))
    _, halves, total, _ = cb.stats[0]
    x = data()[0][:8]
    for got, wanted in (*zip(halves, (x, 2 * x + 1), strict=True), (total, 3 * x + 1)):
        assert got['mean'] == pytest.approx(float(wanted.mean()), rel=1e-4, abs=1e-6)
        assert got['std'] == pytest.approx(float(wanted.std()), rel=1e-4)
        assert got['near_zero'] == pytest.approx(float((wanted <= .05).float().mean()))
        assert torch.equal(got['hist'], wanted.histc(40, 0, 10))


def test_activation_stats_only_watch():
    """The weights are those of a training without them."""
    learn, twin = learner(), learner()
    learn.fit(1, lr=.1, cbs=ActivationStats), twin.fit(1, lr=.1)
    assert same(weights(learn), weights(twin))
