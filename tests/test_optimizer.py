"""Laws of the optimizers: fastai's numbers and face, torch's speed, torch optimizers untouched."""
from __future__ import annotations

import copy
import json
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from fastcore.foundation import L
from make_fastai_numbers import OPTIMIZERS, optimizer_run
from torch import nn

import minifast.optimizer as optimizers
from minifast.optimizer import (SGD, Adam, Hypers, Lookahead, Optimizer, OptimWrapper, RAdam, RMSProp, _update,
                                as_optimizer, average_grad, debias, detuplify_pg, momentum_step, ranger, set_item_pg,
                                sgd_step, weight_decay)
from minifast.torch_core import norm_bias_params

NUMBERS = json.loads((Path(__file__).parent / 'data' / 'optimizers.json').read_text(encoding='utf-8'))['numbers']
EVERY = [Adam, SGD, partial(SGD, mom=0.9, wd=0.1), RMSProp, partial(RMSProp, mom=0.9), RAdam, optimizers.QHAdam,
         optimizers.Larc, optimizers.Lamb, ranger, partial(OptimWrapper, opt=torch.optim.AdamW)]


def label_of(opt_func):
    """A short name for a test's id."""
    return ''.join(filter(str.isalnum, getattr(opt_func, '__name__', repr(opt_func))))[-40:]


def small_model() -> nn.Sequential:
    """Two linear layers with a batch norm between."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))


def groups_of(model: nn.Sequential) -> list[list[nn.Parameter]]:
    """A group of parameters for each layer."""
    return [list(layer.parameters()) for layer in model]


def train(model: nn.Module, opt, n_steps: int = 4) -> list[torch.Tensor]:
    """A few steps on fixed data; the parameters afterwards."""
    generator = torch.Generator().manual_seed(2)
    for _ in range(n_steps):
        model(torch.randn(8, 4, generator=generator)).square().mean().backward()
        opt.step()
        opt.zero_grad()
    return [p.detach().clone() for p in model.parameters()]


def params_with_grad() -> list[torch.Tensor]:
    """Two parameters whose gradient is one everywhere."""
    made = [torch.full((2,), float(i + 1), requires_grad=True) for i in range(2)]
    for p in made:
        p.grad = torch.ones(2)
    return made


def one_by_one(params, named: Optimizer) -> Optimizer:
    """The step functions of a named optimizer, called as a user's own: for one parameter after the other."""
    def users(cb):
        return lambda p, **values: cb(p, **values)
    hypers = {name: value for name, value in named.hypers[0].items() if name != 'lr'}
    return Optimizer(params, cbs=[users(cb) for cb in named.cbs], lr=[hyper['lr'] for hyper in named.hypers], **hypers)


# ---------------------------------------------------------------- numbers

@pytest.mark.parametrize('label', OPTIMIZERS)
def test_named_optimizer_steps_equal_fastai(label):
    """Every parameter after each of 8 steps is fastai's to 1e-6, through a schedule, freezing late and no-decay."""
    name, kwargs = OPTIMIZERS[label]
    ours = optimizer_run(partial(getattr(optimizers, name), **kwargs))
    for step, (got, want) in enumerate(zip(ours, NUMBERS[label], strict=True)):
        for p, q in zip(got, want, strict=True):
            torch.testing.assert_close(torch.tensor(p), torch.tensor(q), rtol=1e-6, atol=1e-6, msg=f'step {step}')


@pytest.mark.parametrize('label', [label for label in OPTIMIZERS if label != 'ranger'])
def test_list_step_equals_its_step_functions_one_parameter_at_a_time(label):
    """The fast step of a named optimizer is what `Optimizer(cbs=its cbs)` does slowly."""
    name, kwargs = OPTIMIZERS[label]

    def composed(groups, lr):
        return one_by_one(groups, getattr(optimizers, name)(groups, lr=lr, **kwargs))
    fast, slow = optimizer_run(partial(getattr(optimizers, name), **kwargs)), optimizer_run(composed)
    for got, want in zip(fast, slow, strict=True):
        for p, q in zip(got, want, strict=True):
            torch.testing.assert_close(torch.tensor(p), torch.tensor(q), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('opt_func', [
    torch.optim.SGD, partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    partial(torch.optim.AdamW, weight_decay=0.1), partial(torch.optim.Adam, fused=True),
    partial(partial(torch.optim.RMSprop), alpha=0.8), torch.optim.Adagrad],
    ids=str)
def test_torch_optimizer_runs_bit_identical_to_a_plain_loop(opt_func):
    """A torch class or partial under our face changes no bit, not even for parameters marked no-decay."""
    plain, wrapped = small_model(), small_model()
    opt = as_optimizer(opt_func, L(wrapped.parameters()), lr=0.05)
    for p in norm_bias_params(wrapped):
        opt.state[p]['do_wd'] = False
    want = train(plain, opt_func(plain.parameters(), lr=0.05))
    for got, expected in zip(train(wrapped, opt), want, strict=True):
        assert torch.equal(got, expected)


def test_no_weight_decay_where_do_wd_is_false():
    """With zero gradients a decaying parameter shrinks and one with `do_wd=False` keeps its bits."""
    for opt_func in (Adam, partial(SGD, wd=0.1), partial(RAdam, wd=0.1)):
        decays, stays = params_with_grad()
        opt = opt_func([decays, stays], lr=0.1)
        opt.state[stays]['do_wd'] = False
        for p in (decays, stays):
            p.grad.zero_()
        opt.step()
        assert (decays < 1).all() and torch.equal(stays, torch.full((2,), 2.))


def test_parameter_without_gradient_is_left_alone():
    """No gradient: no step, no decay, no state."""
    for opt_func in EVERY:
        moved, left = params_with_grad()
        left.grad = None
        opt = opt_func([moved, left], lr=0.1)
        opt.step()
        assert torch.equal(left, torch.full((2,), 2.)) and not torch.equal(moved, torch.ones(2))


def test_sgd_made_without_momentum_ignores_a_schedule_of_mom():
    """As in fastai, one-cycle schedules move `mom` and plain SGD stays plain."""
    scheduled, plain = params_with_grad()[:1], params_with_grad()[:1]
    a, b = SGD(scheduled, lr=0.1), SGD(plain, lr=0.1)
    for _ in range(3):
        a.set_hyper('mom', 0.9)
        a.step()
        b.step()
    assert torch.equal(scheduled[0], plain[0])


def test_momentum_scheduled_to_zero_and_back_equals_the_step_functions():
    """A step with `mom` 0 leaves its gradient as the average, whichever kernel ran it."""
    fast, slow = params_with_grad()[:1], params_with_grad()[:1]
    named = SGD(fast, lr=0.1, mom=0.9)
    composed = Optimizer(slow, cbs=[weight_decay, average_grad, momentum_step], lr=0.1, mom=0.9)
    for i, mom in enumerate((0.9, 0., 0.5)):
        for opt, p in ((named, fast[0]), (composed, slow[0])):
            p.grad = torch.full((2,), 1. + i)
            opt.set_hyper('mom', mom)
            opt.step()
    torch.testing.assert_close(fast[0], slow[0])


# ---------------------------------------------------------------- hypers

@pytest.mark.parametrize('opt_func', EVERY, ids=label_of)
def test_hypers_writing_changes_what_the_step_uses(opt_func):
    """`hypers[i][k] = v`, `set_hyper` and `param_groups` show and set one and the same number."""
    opt = opt_func(groups_of(small_model()), lr=0.1)
    opt.hypers[1]['lr'] = 0.5
    assert [h['lr'] for h in opt.hypers] == [0.1, 0.5, 0.1] == [g['lr'] for g in opt.param_groups]
    opt.set_hyper('lr', [1, 2, 3])
    assert [g['lr'] for g in opt.param_groups] == [1, 2, 3]
    opt.param_groups[2]['lr'] = 7
    assert opt.hypers[2]['lr'] == 7 and 'params' not in opt.hypers[2]
    opt.set_hypers(lr=0.25, mom=0.5)
    assert {h['lr'] for h in opt.hypers} == {0.25} and {h['mom'] for h in opt.hypers} == {0.5}


def test_hypers_are_those_of_fastai():
    """Adam's hypers have fastai's names and defaults, and behave as dicts do."""
    hyper = Adam([torch.ones(1, requires_grad=True)], lr=0.1).hypers[0]
    assert dict(hyper) == {'lr': 0.1, 'mom': 0.9, 'sqr_mom': 0.99, 'eps': 1e-5, 'wd': 0.01}
    assert repr(hyper) == repr(dict(hyper)) and {**hyper} == dict(hyper) and len(hyper) == 5


def test_set_hyper_slice_spreads_as_fastai():
    """`slice(lo, hi)` is geometric over the groups, `slice(hi)` gives the last group `hi` and the others a tenth."""
    opt = Adam(groups_of(small_model()), lr=slice(1e-4, 1e-2))
    torch.testing.assert_close([h['lr'] for h in opt.hypers], [1e-4, 1e-3, 1e-2])
    opt.set_hyper('lr', slice(1e-2))
    torch.testing.assert_close([h['lr'] for h in opt.hypers], [1e-3, 1e-3, 1e-2])


def test_set_hyper_takes_numpy_numbers_and_arrays():
    """Schedules hand in numpy; torch's kernels take Python numbers."""
    import numpy as np
    opt = Adam(groups_of(small_model()), lr=0.1)
    opt.set_hyper('lr', np.array([1., 2., 3.], dtype=np.float32))
    opt.set_hyper('mom', np.float32(0.5))
    assert [h['lr'] for h in opt.hypers] == [1., 2., 3.] and type(opt.hypers[0]['mom']) is float


def test_set_hyper_wrong_length_says_how_many_groups():
    """Two rates for three groups: the message has both numbers."""
    with pytest.raises(ValueError, match='2 values for .lr., but the optimizer has 3 parameter groups'):
        Adam(groups_of(small_model()), lr=[0.1, 0.2])


def test_wrapper_unknown_hyper_names_the_near_match():
    """A misspelt hyper-parameter of a torch optimizer is refused by name."""
    opt = OptimWrapper(list(small_model().parameters()), torch.optim.SGD, lr=0.1)
    with pytest.raises(ValueError, match=r"no hyper-parameter 'momm', did you mean 'mom'\?"):
        opt.set_hyper('momm', 0.1)


def test_wrapper_without_momentum_takes_a_schedule_of_mom():
    """One cycle on Adagrad: `mom` is recorded and has no effect."""
    opt = OptimWrapper(list(small_model().parameters()), torch.optim.Adagrad, lr=0.1)
    opt.set_hyper('mom', 0.9)
    assert opt.hypers[-1]['mom'] == 0.9


def test_wrapper_maps_torch_names_to_short_ones():
    """`betas`, `momentum`, `weight_decay` and `alpha` are `mom`, `sqr_mom` and `wd`; writing keeps the tuple."""
    opt = OptimWrapper(list(small_model().parameters()), torch.optim.AdamW, lr=0.1, betas=(0.8, 0.9), weight_decay=0.2)
    hyper = opt.hypers[0]
    assert (hyper['mom'], hyper['sqr_mom'], hyper['wd']) == (0.8, 0.9, 0.2)
    opt.set_hypers(mom=0.7, wd=0.1)
    assert opt.param_groups[0]['betas'] == (0.7, 0.9) and opt.param_groups[0]['weight_decay'] == 0.1


def test_a_view_of_a_group_has_the_names_that_it_is_told():
    """`torch_names`: short -> the group's own, in reading, writing, listing, deleting; without them the group's."""
    group = {'params': [1], 'lr': .1, 'betas': (.8, .9)}
    view = Hypers(group, torch_names={'mom': 'betas__0', 'rate': 'lr'})
    assert dict(view) == {'rate': .1, 'mom': .8, 'betas__1': .9} and len(view) == 3
    view['mom'], view['rate'] = .5, .2
    assert group == {'params': [1], 'lr': .2, 'betas': (.5, .9)}
    assert dict(Hypers(group)) == {'lr': .2, 'betas': (.5, .9)}
    del view['rate']
    assert group == {'params': [1], 'betas': (.5, .9)}


def test_wrapper_has_the_short_names_that_it_is_told():
    """`hp_map`, in place of the usual one."""
    opt = OptimWrapper(list(small_model().parameters()), torch.optim.SGD, hp_map={'momentum': 'impetus'}, lr=.1,
                       momentum=.9, weight_decay=.2)
    assert (opt.hypers[0]['impetus'], opt.hypers[0]['weight_decay']) == (.9, .2)
    opt.set_hyper('impetus', .3)
    assert opt.param_groups[0]['momentum'] == .3 and not {'mom', 'momentum', 'wd'} & set(opt.hypers[0])


def test_wrapper_hands_parameters_on_untouched_where_it_is_told_so():
    """`convert_groups=False`; else lists of lists become torch's groups."""
    groups, seen = groups_of(small_model()), []

    def make(params, **kwargs):
        seen.append(params)
        return torch.optim.SGD(params if isinstance(params[0], dict) else params[0], **kwargs)
    for convert_groups, n_groups in ((True, 3), (False, 1)):
        opt = OptimWrapper(groups, make, convert_groups=convert_groups, lr=.1)
        assert len(opt.param_groups) == n_groups
    assert seen[1] is groups and [group['params'] for group in seen[0]] == groups


def test_group_tuples_spread_and_set():
    """`detuplify_pg` spreads tuples and drops params; `set_item_pg` sets one element."""
    group = {'params': [1], 'lr': 0.1, 'betas': (0.8, 0.9)}
    assert detuplify_pg(group) == {'lr': 0.1, 'betas__0': 0.8, 'betas__1': 0.9}
    assert set_item_pg(group, 'betas__1', 0.5)['betas'] == (0.8, 0.5)


# ---------------------------------------------------------------- freezing and state

@pytest.mark.parametrize('opt_func', EVERY, ids=label_of)
def test_freeze_to_sets_requires_grad_and_spares_forced_training(opt_func):
    """Frozen groups need no gradient, norm layers marked `force_train` do, unfreezing undoes it."""
    model = small_model()
    opt = opt_func(groups_of(model), lr=0.1)
    for p in model[1].parameters():
        opt.state[p]['force_train'] = True
    opt.freeze()
    assert opt.frozen_idx == 2
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True, True, True]
    opt.freeze_to(1)
    assert [p.requires_grad for p in model[0].parameters()] == [False, False] and opt.frozen_idx == 1
    opt.unfreeze()
    assert all(p.requires_grad for p in model.parameters()) and opt.frozen_idx == 0


def test_freeze_one_group_is_refused():
    """Without a splitter there is nothing to freeze, and the message says what to give."""
    with pytest.raises(ValueError, match='splitter'):
        Adam(list(small_model().parameters()), lr=0.1).freeze()


def test_freeze_everything_warns():
    """Freezing past the last group is allowed and said."""
    opt = Adam(groups_of(small_model()), lr=0.1)
    with pytest.warns(UserWarning, match='whole model is frozen'):
        opt.freeze_to(3)


def test_all_params_gives_parameter_group_state_hypers():
    """Tuples as in fastai, by slice or index of groups, and only those with a gradient if asked."""
    model = small_model()
    opt = Adam(groups_of(model), lr=[1, 2, 3])
    p, group, state, hyper = opt.all_params()[2]
    assert p is model[1].weight and list(group) == list(model[1].parameters()) and hyper['lr'] == 2
    state['do_wd'] = False
    assert opt.state[p] == {'do_wd': False}
    assert len(opt.all_params(slice(1, None))) == 4 and len(opt.all_params(-1)) == 2
    assert len(opt.all_params(with_grad=True)) == 0


def test_param_lists_can_be_replaced():
    """As mixed precision with master copies does: the next step moves the new tensors."""
    old, new = params_with_grad()
    opt = SGD([old], lr=0.5)
    opt.param_lists = [[new]]
    opt.step()
    assert torch.equal(old, torch.ones(2)) and torch.equal(new, torch.full((2,), 1.5))


@pytest.mark.parametrize('opt_func', EVERY, ids=label_of)
def test_state_survives_save_and_load_bit_for_bit(opt_func, tmp_path):
    """Two optimizers, one fed with the other's saved state, train on identically; the file needs no pickled code."""
    model = small_model()
    opt = opt_func(groups_of(model), lr=0.1)
    opt.state[model[0].bias]['do_wd'] = False
    train(model, opt, n_steps=7)
    torch.save(opt.state_dict(), tmp_path / 'opt.pt')
    other = copy.deepcopy(model)
    loaded = opt_func(groups_of(other), lr=0.9)
    loaded.load_state_dict(torch.load(tmp_path / 'opt.pt', weights_only=True))
    loaded.state[other[0].bias]['do_wd'] = False
    for got, want in zip(train(other, loaded), train(model, opt), strict=True):
        assert torch.equal(got, want)


def test_load_takes_a_state_saved_by_fastai():
    """`{'hypers', 'state'}` with fastai's names continues as our own state does."""
    model = small_model()
    opt = Adam(groups_of(model), lr=0.1)
    train(model, opt)
    theirs = {'hypers': [dict(h) for h in opt.hypers],
              'state': [{**state, 'step': int(state['step'])} for _, _, state, _ in opt.all_params()]}
    other = copy.deepcopy(model)
    loaded = Adam(groups_of(other), lr=0.7)
    loaded.load_state_dict(copy.deepcopy(theirs))
    for got, want in zip(train(other, loaded), train(model, opt), strict=True):
        assert torch.equal(got, want)


def test_load_other_sizes_is_refused():
    """A state for another model raises and does not load half."""
    opt = Adam(groups_of(small_model()), lr=0.1)
    with pytest.raises(ValueError):
        opt.load_state_dict(Adam([torch.ones(1, requires_grad=True)], lr=0.1).state_dict())
    with pytest.raises(ValueError, match='1 groups and 0 parameters, this one 3 and 6'):
        opt.load_state_dict({'hypers': [{}], 'state': []})


@pytest.mark.parametrize('opt_func', EVERY, ids=label_of)
def test_clear_state_forgets_averages(opt_func):
    """After `clear_state` the optimizer steps as a new one; the settings `do_wd` and `force_train` stay."""
    model = small_model()
    opt = opt_func(groups_of(model), lr=0.1)
    opt.state[model[0].bias].update(do_wd=False, force_train=True)
    train(model, opt)
    opt.clear_state()
    assert opt.state[model[0].bias] == {'do_wd': False, 'force_train': True}
    other = copy.deepcopy(model)
    fresh = opt_func(groups_of(other), lr=0.1)
    fresh.state[other[0].bias]['do_wd'] = False
    for got, want in zip(train(model, opt), train(other, fresh), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize('opt_func', EVERY, ids=label_of)
def test_deepcopy_with_its_model_trains_on_identically(opt_func):
    """A copied (model, optimizer) pair has everything: averages, settings, step functions, frozen index."""
    model = small_model()
    opt = opt_func(groups_of(model), lr=0.1)
    train(model, opt)
    opt.freeze_to(1)
    other_model, other = copy.deepcopy((model, opt))
    assert other.frozen_idx == 1
    for got, want in zip(train(other_model, other), train(model, opt), strict=True):
        assert torch.equal(got, want)


def test_closure_is_evaluated_with_gradients():
    """`step(closure)` returns the closure's loss, as torch's optimizers do."""
    for opt_func in EVERY:
        p = torch.ones(2, requires_grad=True)
        opt = opt_func([p], lr=0.1)

        def closure(p=p):
            loss = p.square().sum()
            loss.backward()
            return loss
        assert opt.step(closure).item() == 2 and not torch.equal(p.detach(), torch.ones(2))


# ---------------------------------------------------------------- composing

def test_optimizer_runs_the_users_step_functions_with_state_and_hypers():
    """A step function sees state and hypers by name; a dict it returns becomes state; its `defaults` are hypers."""
    def count(p, seen=0, **kwargs):
        return {'seen': seen + 1}

    def step(p, lr, seen, rate, **kwargs):
        p.data.sub_(lr * rate * seen)
    step.defaults = {'rate': 10.}
    p = params_with_grad()[0]
    opt = partial(Optimizer, cbs=[count, step], mom=0.9)([p], lr=0.1)
    opt.step()
    opt.step()
    assert opt.state[p]['seen'] == 2 and torch.equal(p.detach(), torch.full((2,), -2.))
    assert dict(opt.hypers[0]) == {'rate': 10., 'mom': 0.9, 'lr': 0.1}


def test_optimizer_takes_torchs_dicts_with_their_own_settings():
    """A group given as a dict keeps the hypers it names."""
    a, b = params_with_grad()
    opt = SGD([{'params': [a], 'lr': 0.5}, {'params': [b]}], lr=0.1)
    assert [h['lr'] for h in opt.hypers] == [0.5, 0.1]


def test_torch_scheduler_drives_our_optimizers():
    """They are torch optimizers, so torch's schedulers take them."""
    p = params_with_grad()[0]
    opt = Adam([p], lr=1.)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(opt, gamma=0.1)
    opt.step()
    scheduler.step()
    assert opt.hypers[0]['lr'] == pytest.approx(0.1)


def test_train_bn_on_an_optimizer_warns():
    """It belongs to the Learner."""
    with pytest.warns(UserWarning, match='Learner'):
        Optimizer([torch.ones(1, requires_grad=True)], cbs=[sgd_step], train_bn=False, lr=0.1)


def test_update_merges_dicts_only():
    """What a step function returns is state only if it is a dict."""
    state = {'a': 1}
    assert _update(state, {'b': 2}) == {'a': 1, 'b': 2} and _update(state, torch.ones(1)) is state


def test_debias_is_the_weight_an_average_has_seen():
    """After many steps the weights of a dampened average sum to one."""
    assert debias(0.9, 0.1, 1) == pytest.approx(0.1) and debias(0.9, 0.1, 1000) == pytest.approx(1.)


def test_lookahead_pulls_back_every_k_steps():
    """Between slow steps the weights are the inner optimizer's; at step k they are half way back."""
    p = params_with_grad()[0]
    opt = Lookahead(SGD([p], lr=1.), k=2, alpha=0.5)
    opt.step()
    assert torch.equal(p.detach(), torch.zeros(2))
    opt.step()
    assert torch.equal(p.detach(), torch.zeros(2))  # 1 -> -1 fast, half way between 1 and -1 slow


# ---------------------------------------------------------------- making one

def test_as_optimizer_accepts_what_a_learner_may_be_given():
    """Our classes and functions, torch classes and partials, functions that return a torch optimizer, built ones."""
    def own(params, lr):
        return torch.optim.SGD(params, lr=lr)
    for opt_func in (Adam, ranger, partial(SGD, mom=0.9), torch.optim.SGD, partial(torch.optim.AdamW, eps=1e-3), own,
                     torch.optim.SGD(small_model().parameters(), lr=0.1),
                     OptimWrapper(opt=torch.optim.SGD(small_model().parameters(), lr=0.1))):
        opt = as_optimizer(opt_func, L(small_model().parameters()), lr=0.1)
        assert opt.hypers[0]['lr'] == 0.1 and len(opt.param_lists) == 1 and len(opt.param_lists[0]) == 6


def test_as_optimizer_gives_a_torch_class_the_splitters_groups():
    """A list of lists becomes torch's groups, and a slice their rates."""
    opt = as_optimizer(torch.optim.SGD, groups_of(small_model()), lr=slice(0.1, 1.))
    assert [len(ps) for ps in opt.param_lists] == [2, 2, 2]
    assert opt.hypers[0]['lr'] == pytest.approx(0.1) and opt.hypers[2]['lr'] == pytest.approx(1.)


@pytest.mark.parametrize('wrong', ['adam', 3, lambda params, lr: 'nothing', nn.Linear(1, 1)],
                         ids=['str', 'int', 'fn', 'module'])
def test_as_optimizer_refuses_what_is_none(wrong):
    """The message says what an opt_func is."""
    with pytest.raises(TypeError, match='opt_func|positional|unexpected'):
        as_optimizer(wrong, [torch.ones(1, requires_grad=True)], lr=0.1)


def test_wrapper_needs_parameters_or_a_built_optimizer():
    """Neither and both are refused with both right ways of writing it."""
    for kwargs in ({}, {'params': [1]}, {'opt': torch.optim.SGD},
                   {'params': [1], 'opt': torch.optim.SGD(small_model().parameters(), lr=0.1)}):
        with pytest.raises(ValueError, match=re.escape('OptimWrapper(opt=optimizer)')):
            OptimWrapper(**kwargs)


def test_no_parameters_is_refused():
    """An empty splitter result is named as such."""
    with pytest.raises(ValueError, match='no parameters'):
        Adam([], lr=0.1)


def test_repr_is_a_table_of_groups():
    """One line a group: tensors, trained ones, ones without decay, hypers."""
    model = small_model()
    opt = Adam(groups_of(model), lr=[0.1, 0.2, 0.3])
    for p in norm_bias_params(model):
        opt.state[p]['do_wd'] = False
    opt.freeze()
    lines = repr(opt).splitlines()
    assert lines[0] == 'Adam, frozen up to group 2' and len(lines) == 5
    assert lines[2].split()[:5] == ['0', '2', '30', '0', '1'] and lines[3].split()[4] == '2'
    assert 'OptimWrapper of torch.optim.SGD' in repr(OptimWrapper(list(model.parameters()), torch.optim.SGD, lr=0.1))


def test_grad_scaler_drives_adam_without_waiting():
    """Scaled gradients give the unscaled step, and a step with infinities is skipped inside the kernel."""
    scaled, plain = params_with_grad()[:1], params_with_grad()[:1]
    opt, reference = Adam(scaled, lr=0.1), Adam(plain, lr=0.1)
    scaler = torch.amp.GradScaler('cpu', init_scale=8.)
    scaler.scale(scaled[0].sum()).backward()
    scaled[0].grad.fill_(8.)
    scaler.step(opt)
    scaler.update()
    reference.step()
    torch.testing.assert_close(scaled[0], plain[0])
    before = scaled[0].detach().clone()
    scaler.scale(scaled[0].sum()).backward()
    scaled[0].grad.fill_(float('inf'))
    scaler.step(opt)
    assert torch.equal(scaled[0].detach(), before)


@pytest.mark.parametrize('opt_class, first', (
    (torch.optim.AdamW, {'betas': (.8, .999), 'weight_decay': .3, 'lr': .7}),
    (torch.optim.SGD, {'momentum': .8, 'weight_decay': .3, 'lr': .7}),
    (torch.optim.RMSprop, {'momentum': .8, 'weight_decay': .3, 'lr': .7})))
@pytest.mark.parametrize('built', (False, True))
def test_groups_that_bring_short_names_set_torchs_own(opt_class, first, built):
    """`wd`, `mom` and `lr` of a group are torch's hyper-parameters of other names, listed once and obeyed."""
    groups = [{'params': [torch.ones(2, requires_grad=True)], 'wd': .3, 'mom': .8, 'lr': .7},
              {'params': [torch.ones(2, requires_grad=True)], 'wd': .1}]
    opt = OptimWrapper(opt=opt_class(groups, lr=.5)) if built else OptimWrapper(groups, opt_class, lr=.5)
    assert {name: opt.param_groups[0][name] for name in first} == first
    assert opt.param_groups[1]['weight_decay'] == .1 and opt.param_groups[1]['lr'] == .5
    assert all(list(h).count('wd') == list(h).count('mom') == 1 and len(h) == len(list(h)) for h in opt.hypers)
    assert 'wd' not in opt.param_groups[0] and [h['wd'] for h in opt.hypers] == [.3, .1]
    opt.set_hypers(wd=[.2, .4], mom=.5)
    assert [group['weight_decay'] for group in opt.param_groups] == [.2, .4] and opt.hypers[1]['mom'] == .5
    for group in opt.param_groups:
        group['params'][0].grad = torch.ones(2)
    opt.step()


# ---------------------------------------------------------------- large, alone, loaded, built

@pytest.mark.parametrize('label', [label for label in OPTIMIZERS if label != 'ranger'])
def test_list_step_on_tensors_beyond_the_cache_equals_its_step_functions(label):
    """Lists longer than a core's cache are stepped in parts; no tensor of any part is left out."""
    sizes = [2 ** 15, 2 ** 15, 3, 2 ** 16 + 5, 2 ** 14, 7, 2 ** 16, 2 ** 15]
    (name, kwargs), found = OPTIMIZERS[label], []
    for each in (False, True):
        g = torch.Generator().manual_seed(2)
        params = [torch.randn(n, generator=g).requires_grad_() for n in sizes]
        start = [p.detach().clone() for p in params]
        opt = getattr(optimizers, name)(params, lr=.1, **kwargs)
        opt = one_by_one(params, opt) if each else opt
        for i, p in enumerate(params):
            opt.state[p]['do_wd'] = i % 3 != 0
        for _ in range(3):
            for p in params:
                p.grad = torch.randn(p.shape, generator=g)
            opt.step()
        assert all((p != s).any() for p, s in zip(params, start))
        found.append(params)
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-6)


def test_lookahead_moves_the_slow_weights_by_alpha():
    """slow + alpha*(fast - slow), every k steps; alpha is not one half, so that its other end would be seen."""
    fast = torch.tensor([1., 2.], requires_grad=True)
    opt = Lookahead(SGD([fast], lr=1.), k=2, alpha=.2)
    slow = fast.detach().clone()
    for step in range(1, 5):
        fast.grad = torch.ones(2)
        before = fast.detach().clone()
        opt.step()
        if step % 2:
            torch.testing.assert_close(fast.detach(), before - 1)
        else:
            slow = slow + .2 * (before - 1 - slow)
            torch.testing.assert_close(fast.detach(), slow)


def test_lookahead_leaves_the_state_it_is_given_alone_and_forgets_when_told():
    """Steps after a load go into memory of its own; a cleared optimizer starts with the weights as they are then."""
    def steps(opt, p, n):
        for _ in range(n):
            p.grad = torch.ones(2)
            opt.step()
    p = torch.zeros(2, requires_grad=True)
    opt = Lookahead(SGD([p], lr=1.), k=3)
    steps(opt, p, 4)
    state = opt.state_dict()
    kept = copy.deepcopy(state)
    again = Lookahead(SGD([q := p.detach().clone().requires_grad_()], lr=1.), k=3)
    again.load_state_dict(state)
    steps(again, q, 3)
    assert state['count'] == kept['count'] == 4
    assert all(torch.equal(a, b) for a, b in zip(state['slow_weights'][0], kept['slow_weights'][0]))
    assert again.count == 7 and not torch.equal(again.slow_weights[0][0], kept['slow_weights'][0][0])
    opt.clear_state()
    assert (opt.count, opt.slow_weights) == (0, None)


@pytest.mark.parametrize('opt_func', EVERY, ids=label_of)
def test_clear_state_keeps_what_is_a_setting(opt_func):
    """Which parameters are not decayed, and which train though frozen."""
    model = small_model()
    opt = as_optimizer(opt_func, groups_of(model), lr=.1)
    first = next(model.parameters())
    opt.state[first].update(do_wd=False, force_train=True)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    opt.step()
    opt.clear_state()
    left = {k: v for k, v in opt.state[first].items()}
    assert left == {'do_wd': False, 'force_train': True}


def test_larc_clips_the_rate_where_it_is_told():
    """With clip no tensor takes a larger rate than lr; without, the ratio of the norms alone counts."""
    p = torch.full((4,), 100., requires_grad=True)
    p.grad = torch.full((4,), 1e-3)
    clipped = optimizers.larc_layer_lr(p, lr=.1, trust_coeff=.02, wd=0., eps=1e-8, clip=True)['local_lr']
    free = optimizers.larc_layer_lr(p, lr=.1, trust_coeff=.02, wd=0., eps=1e-8, clip=False)['local_lr']
    assert float(clipped) == pytest.approx(.1) and float(free) == pytest.approx(.1 * .02 * 200 / 2e-3, rel=1e-4)


def test_lamb_limits_the_ratio_to_ten():
    """A large weight with small steps takes steps ten times Adam's, not more."""
    for size, ratio in ((1e4, 10.), (5., 5.)):
        p = torch.full((3,), size, requires_grad=True)
        p.grad = torch.ones(3)
        opt = optimizers.Lamb([p], lr=.1, wd=0., eps=1e-12)
        opt.step()
        torch.testing.assert_close(size - p.detach(), torch.full((3,), .1 * ratio), rtol=1e-3, atol=0)


STATES = {'SGD': (SGD, set()), 'SGD mom': (partial(SGD, mom=.9), {'grad_avg'}), 'RMSProp': (RMSProp, {'sqr_avg'}),
          'RMSProp mom': (partial(RMSProp, mom=.9), {'grad_avg', 'sqr_avg'}),
          **{cls.__name__: (cls, {'grad_avg', 'sqr_avg', 'step'})
             for cls in (Adam, RAdam, optimizers.QHAdam, optimizers.Lamb)},
          'Larc': (optimizers.Larc, {'grad_avg'}), 'Larc plain': (partial(optimizers.Larc, mom=0.), set())}


@pytest.mark.parametrize('label', STATES)
def test_states_have_fastais_names(label):
    """What is saved is found by these names; settings stand beside the averages."""
    make, names = STATES[label]
    model = small_model()
    opt = make(groups_of(model), lr=.1)
    train(model, opt)
    for p in model.parameters():
        assert set(opt.state[p]) - {'do_wd', 'force_train', 'local_lr'} == names


def test_groups_that_are_set_bring_their_numbers_and_their_parameters():
    """Assigned as torch's schedulers and loaders do: what a group leaves out stays."""
    ps = [nn.Parameter(torch.ones(2)) for _ in range(3)]
    opt = OptimWrapper([[ps[0]], [ps[1]]], torch.optim.SGD, lr=.1, momentum=.9)
    opt.param_groups = [{'lr': .2}, {'params': [ps[1], ps[2]], 'momentum': .5}]
    assert [group['lr'] for group in opt.param_groups] == [.2, .1] == [h['lr'] for h in opt.hypers]
    assert [group['momentum'] for group in opt.param_groups] == [.9, .5]
    assert [len(group['params']) for group in opt.param_groups] == [1, 2] and opt.param_groups[1]['params'][1] is ps[2]


def test_what_else_a_group_of_torchs_says_is_one_of_its_hyper_parameters():
    """Names that torch does not know stay under themselves; short names are torch's own under another name."""
    groups = [{'params': [torch.ones(2, requires_grad=True)], 'wd': .3, 'mom': .8, 'scale': 7}]
    opt = OptimWrapper(groups, torch.optim.SGD, lr=.1)
    assert opt.hypers[0].items() >= {'lr': .1, 'wd': .3, 'mom': .8, 'scale': 7}.items()
    group, = opt.opt.param_groups
    assert group['weight_decay'] == .3 and group['momentum'] == .8 and not {'wd', 'mom'} & group.keys()
    opt.set_hypers(wd=.4, scale=8)
    assert group['weight_decay'] == .4 and group['scale'] == 8 and opt.hypers[0]['scale'] == 8
