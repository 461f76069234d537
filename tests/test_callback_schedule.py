"""Schedules are pure functions with fastai's numbers; the search for a learning rate leaves no trace."""
from __future__ import annotations

import copy
import json
import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from small_learner import Interrupt, deep, learner, same, weights
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from minifast.callback.core import Callback
from minifast.callback.schedule import (
    LRFinder, ParamScheduler, SchedCos, SchedExp, SchedLin, SchedNo, SchedPoly, SuggestionMethod, _Annealer, annealer,
    combine_scheds, combined_cos, lr_find, minimum, sched_lin, slide, steep, valley,
)
from minifast.data.core import DataLoaders
from minifast.learner import Learner
from minifast.optimizer import Adam

FASTAI = json.loads((Path(__file__).parent / 'data' / 'fastai_callbacks.json').read_text())


# ---------------------------------------------------------------- schedules

MADE = {'lin': SchedLin(2., 10.), 'cos': SchedCos(2., 10.), 'no': SchedNo(2., 10.), 'exp': SchedExp(2., 10.),
        'poly': SchedPoly(2., 10., 3), 'one_cycle': combined_cos(.25, .01 / 25, .01, 1e-7),
        'three': combine_scheds([.25, .25, .5], [SchedLin(1., 2.), SchedCos(2., 0.), SchedExp(1., 4.)]),
        'groups': combined_cos(.25, np.array([.1, .2]), np.array([1., 2.]), np.array([0., .5]))}


@pytest.mark.parametrize('name', MADE)
def test_schedules_give_the_values_of_fastai(name):
    """Each schedule has fastai's value at every position, ends and joints included."""
    got = np.array([MADE[name](p) for p in FASTAI['positions']])
    np.testing.assert_allclose(got, FASTAI['schedules'][name], rtol=1e-6, atol=1e-9)


def test_annealer_makes_a_schedule_of_a_function():
    """`annealer(f)(start, end)` is a schedule with f's values, and the schedules are of that kind."""
    made = annealer(sched_lin)(1., 3.)
    assert made(.5) == 2. and isinstance(made, _Annealer) and isinstance(SchedCos(0, 1), _Annealer)


@pytest.mark.parametrize('pct, at, value', [(0., 0., 2.), (1., 1., 2.), (1., 0., 1.), (0., 1., 3.)])
def test_combined_cos_with_an_empty_part_leaves_it_out(pct, at, value):
    """A part of length zero has no say, not even at its edge."""
    assert combined_cos(pct, 1., 2., 3.)(at) == pytest.approx(value)


@pytest.mark.parametrize('pcts', [[.5], [.5, .6], [-.5, 1.5]])
def test_combine_scheds_with_wrong_shares_says_so(pcts):
    """Shares that are no division of the whole are refused."""
    with pytest.raises(ValueError, match='together 1'):
        combine_scheds(pcts, [SchedNo(1, 1)] * 2)


@pytest.mark.parametrize('name, fit', [('one_cycle', lambda learn: learn.fit_one_cycle(2, 1e-2)),
                                       ('flat_cos', lambda learn: learn.fit_flat_cos(2, 1e-2)),
                                       ('sgdr', lambda learn: learn.fit_sgdr(2, 1, 1e-2))])
def test_fit_sets_the_hyper_parameters_of_fastai_at_every_step(name, fit):
    """`recorder.hps` holds exactly what was scheduled, step by step as fastai sets it."""
    learn = learner()
    fit(learn)
    assert learn.recorder.hps.keys() == FASTAI['fits'][name].keys()
    for hyper, values in FASTAI['fits'][name].items():
        np.testing.assert_allclose(learn.recorder.hps[hyper], values, rtol=1e-5, atol=1e-9)


def test_param_scheduler_after_an_interrupt_has_handed_over_what_it_set():
    """A fit that was stopped by Ctrl-C can be plotted as far as it went."""
    learn = learner()
    with pytest.raises(KeyboardInterrupt):
        learn.fit(1, cbs=[ParamScheduler({'lr': SchedLin(1., 0.)}), Interrupt('before_batch', at=3)])
    assert learn.recorder.hps['lr'] == [1., .75, .5]


def test_param_scheduler_restored_goes_on():
    """What `state_dict` gives is all that a new one needs."""
    one, two = (ParamScheduler({'lr': SchedNo(1., 1.)}) for _ in range(2))
    one.hps['lr'] += [.1, .2]
    two.load_state_dict(one.state_dict())
    assert two.hps == {'lr': [.1, .2]} and two.hps['lr'] is not one.hps['lr']


# ---------------------------------------------------------------- suggestions

@pytest.mark.parametrize('search', FASTAI['searches'])
@pytest.mark.parametrize('func', [valley, slide, minimum, steep])
def test_suggestions_are_those_of_fastai(func, search):
    """Every suggestion function finds fastai's learning rate and point on the same search."""
    lr, point = func(torch.tensor(search['lrs']), torch.tensor(search['losses']), 100)
    wanted_lr, wanted_point = search['suggestions'][func.__name__]
    np.testing.assert_allclose([lr, *point], [wanted_lr, *wanted_point], rtol=1e-4)


@pytest.mark.parametrize('func', [valley, slide, minimum, steep])
@pytest.mark.parametrize('n', [1, 2, 3, 13, 16])
def test_suggestions_on_a_short_search_stay_inside_it(func, n):
    """However short the search, the suggestion lies within it (a tenth below for `minimum`)."""
    lrs = torch.logspace(-6, 0, n)
    lr, _ = func(lrs, torch.linspace(2, 1, n), n)
    assert float(lrs[0]) / 11 <= lr <= float(lrs[-1])


def test_steep_is_where_the_loss_falls_fastest():
    """Over the logarithm of the rate, from two points on; one point is itself."""
    assert steep([1., 10.], [3., 2.], 2) == (1., (1., 3.)) and steep([1.], [3.], 1) == (1., (1., 3.))
    assert steep([1., 10., 100.], [3., 2., 0.], 3) == (10., (10., 2.))
    assert steep([1., 10., 1e9], [3., 2., 0.], 3) == (1., (1., 3.))


@pytest.mark.parametrize('n, lr_diff, steps', [(40, 15, 15), (40, 3, 3), (16, 15, 15), (10, 15, 9), (2, 15, 1)])
def test_slide_of_slopes_that_agree_at_once_is_an_interval_from_the_end(n, lr_diff, steps):
    """As wide as told, or as the search is long; the first slope that differs by more than told moves it on."""
    lrs, falling = np.logspace(-6, 0, n), np.linspace(2, 1, n)
    lr, (at, loss) = slide(lrs, falling, n, lr_diff=lr_diff)
    assert lr == at == lrs[n - 1 - steps] and loss == pytest.approx(falling[n - 1 - steps])
    risen = falling + np.where(np.arange(n) == n - 1, 1, 0)  # the last two slopes alone
    assert slide(lrs, risen, n, lr_diff=lr_diff)[0] == lrs[max(n - 1 - steps - 1, 0)]


def test_suggestion_methods_are_the_functions():
    """The names for completion hand out the functions themselves."""
    assert (SuggestionMethod.Valley, SuggestionMethod.Slide, SuggestionMethod.Minimum, SuggestionMethod.Steep) == (
        valley, slide, minimum, steep)


# ---------------------------------------------------------------- lr_find

def everything(learn):
    """All that `lr_find` could leave behind."""
    return {'weights': weights(learn), 'modes': [m.training for m in learn.model.modules()],
            'opt': None if learn.opt is None else copy.deepcopy(learn.opt.state_dict()),
            'grads': [p.grad for p in learn.model.parameters() if p.grad is not None],
            'rng': [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()],
            'recorder': [[float(x) for x in learn.recorder.losses], learn.recorder.lrs, learn.recorder.values,
                         learn.recorder.iters, list(learn.recorder.log), vars(learn.recorder).get('hps')],
            'loop': [vars(learn).get(name) for name in ('epoch', 'n_epoch', 'train_iter', 'pct_train', 'training')],
            'cbs': [cb.name for cb in learn.cbs], 'lr': learn.lr}


def test_lr_find_gives_one_named_suggestion_a_function():
    """The result is a namedtuple in the order of the functions; partials go by their function's name."""
    found = learner().lr_find(num_it=20, show_plot=False, suggest_funcs=(minimum, partial(slide, lr_diff=3), valley))
    assert type(found).__name__ == 'SuggestedLRs' and found._fields == ('minimum', 'slide', 'valley')
    assert all(isinstance(lr, float) and 0 < lr <= 10 for lr in found)


def test_lr_find_takes_functions_whose_names_are_no_names_of_fields():
    """A lambda and the same function twice go by their number."""
    found = learner().lr_find(num_it=20, show_plot=False,
                              suggest_funcs=(lambda lrs, losses, n: (.5, (.5, 1.)), minimum, minimum))
    assert found._fields == ('_0', 'minimum', '_2') and found[0] == .5 and found[1] == found.minimum == found[2]


def test_lr_find_with_every_suggestion_on_twenty_batches_works():
    """A search of 20 batches is long enough for all functions."""
    assert len(learner().lr_find(num_it=20, show_plot=False, suggest_funcs=(valley, slide, minimum, steep))) == 4


@pytest.mark.parametrize('before', ['nothing', 'fit', 'frozen'])
def test_lr_find_leaves_no_trace(before):
    """Weights, buffers, optimizer, recorder, random streams and the loop's variables are as before, bit for bit."""
    model = deep()
    learn = learner(model=model, opt_func=Adam, shuffle=True,
                    splitter=lambda m: [list(m[:2].parameters()), list(m[2:].parameters())])
    if before != 'nothing':
        learn.fit_one_cycle(1, 1e-2)
    if before == 'frozen':
        learn.freeze()
    state = everything(learn)
    learn.lr_find(num_it=7, show_plot=False)
    after = everything(learn)
    if before == 'nothing':  # a recorder that held nothing keeps the search readable
        assert len(after.pop('recorder')[0]) == len(learn.recorder.lrs) > 0 and state.pop('recorder')
    assert same(state, after)
    assert [p.requires_grad for p in learn.model[:1].parameters()] == [before != 'frozen'] * 2


@pytest.mark.parametrize('event_name', ['before_batch', 'after_pred', 'after_backward', 'after_step', 'after_batch'])
def test_lr_find_interrupted_leaves_no_trace(event_name):
    """Ctrl-C inside the search puts everything back, and the next training is that of an undisturbed twin."""
    learn, twin = (learner(model=deep(), opt_func=Adam) for _ in range(2))
    for each in (learn, twin):
        torch.manual_seed(1)
        each.fit(1)
    state, press = everything(learn), Interrupt(event_name)
    with pytest.raises(KeyboardInterrupt), learn.added_cbs(press):
        learn.lr_find(num_it=20, show_plot=False)
    assert same(state, everything(learn)) and not hasattr(learn, 'lr_finder')
    for each in (learn, twin):
        torch.manual_seed(2)
        each.fit(1)
    assert same(weights(learn), weights(twin))


def test_a_search_puts_back_once():
    """What is trained behind it stays, also where the search is told again that it is over."""
    learn, finder = learner(), LRFinder(num_it=6)
    before = weights(learn)
    learn.fit(1, cbs=finder)
    assert same(before, weights(learn))
    learn.fit(1, lr=.1)
    trained = weights(learn)
    finder.cleanup_fit()
    assert same(trained, weights(learn)) and not same(before, trained)


def test_lr_find_leaves_a_loaders_own_generator_alone():
    """A plain loader shuffles on as if there had been no search."""
    items = TensorDataset(torch.randn(16, 4), torch.randint(0, 2, (16,)))
    loader = DataLoader(items, 4, shuffle=True, generator=torch.Generator().manual_seed(5))
    learn = Learner(DataLoaders(loader, loader), nn.Linear(4, 2), loss_func=nn.CrossEntropyLoss())
    state = loader.generator.get_state()
    with learn.no_bar():
        learn.lr_find(num_it=6, show_plot=False)
    assert torch.equal(loader.generator.get_state(), state)


def test_lr_find_inside_is_known_as_lr_finder():
    """Callbacks find out that a search is running by `hasattr(learn, 'lr_finder')`, and only then."""
    class Ask(Callback):
        def before_fit(self):
            self.inside = hasattr(self, 'lr_finder')
    learn, ask = learner(), Ask()
    with learn.added_cbs(ask):
        learn.lr_find(num_it=6, show_plot=False)
        assert ask.inside
        learn.fit(1)
    assert not ask.inside


def test_lr_find_with_an_exploding_loss_stops_and_suggests():
    """A loss that becomes NaN ends the search, and the suggestion comes from what was before."""
    learn = learner()
    found = learn.lr_find(start_lr=1e-3, end_lr=1e80, num_it=30, show_plot=False, suggest_funcs=(valley, minimum))
    assert len(learn.recorder.lr_search[0]) < 30 and all(np.isfinite(found))


def test_lr_find_without_finite_loss_says_so():
    """Where no loss is a number there is nothing to suggest."""
    learn = learner(loss_func=lambda pred, y: pred.sum() * float('nan'))
    with pytest.raises(ValueError, match='no finite loss'):
        learn.lr_find(num_it=6, show_plot=False)


def test_lr_find_takes_a_loader_of_one_batch_and_refuses_one_of_none():
    """As many epochs as it takes for the batches asked for; without a batch there is nothing to search on."""
    learn = learner(n=8, bs=8)
    learn.lr_find(num_it=8, stop_div=False, show_plot=False)
    assert len(learn.recorder.lr_search[0]) == 8
    learn = learner()
    learn.dls = DataLoaders([], learn.dls[1])
    with pytest.raises(ValueError, match='^lr_find needs training batches and the training loader has none: '):
        learn.lr_find(show_plot=False)


def test_lr_find_without_functions_draws_and_returns_none():
    """`suggest_funcs=None` only draws; the picture can be drawn again later."""
    import matplotlib.pyplot as plt
    learn = learner()
    assert learn.lr_find(num_it=20, suggest_funcs=None) is None and len(plt.get_fignums()) == 1
    figure = learn.recorder.plot_lr_find(skip_end=2)
    assert len(figure.axes[0].lines[0].get_xdata()) == len(learn.recorder.lr_search[0]) - 2


def test_lr_finder_as_a_plain_callback_puts_the_weights_back():
    """`fit(cbs=LRFinder())` alone also leaves the model as it was."""
    learn = learner()
    state = weights(learn)
    learn.fit(2, cbs=LRFinder(num_it=7))
    assert same(state, weights(learn)) and len(learn.recorder.lrs) == 7


def test_lr_find_with_a_rate_for_each_group_walks_them_together():
    """Lists give each parameter group its own range; the recorder shows the last group's."""
    learn = learner(splitter=lambda m: [[m[1].weight], [m[1].bias]])
    lr_find(learn, start_lr=[1e-6, 1e-5], end_lr=[1e-3, 1e-2], num_it=8, stop_div=False, show_plot=False)
    lrs = learn.recorder.lr_search[0]
    assert lrs[0] == pytest.approx(1e-5) and lrs[-1] == pytest.approx(1e-5 * 1000 ** (7 / 8))


def test_plot_sched_draws_what_was_scheduled():
    """One axis a hyper-parameter; an unknown name is refused with those there are."""
    learn = learner()
    learn.fit_one_cycle(1, 1e-2)
    assert [ax.get_ylabel() for ax in learn.recorder.plot_sched().flat] == ['lr', 'mom']
    with pytest.raises(ValueError, match="'lr', 'mom'"):
        learn.recorder.plot_sched(keys='wd')


# ---------------------------------------------------------------- what the presets set, by batch and by group

RATES = json.loads((Path(__file__).parent / 'data' / 'fastai_rates.json').read_text())


@pytest.fixture(scope='module')
def rates_here():
    """The same presets run by minifast."""
    import make_fastai_rates

    import minifast.vision.all as namespace
    return make_fastai_rates.rates(namespace)


@pytest.mark.parametrize('preset', [name for name in RATES if name != 'decayed'])
def test_presets_set_fastais_rates_momenta_and_decay(preset, rates_here):
    """For every batch and parameter group: learning rate, momentum, weight decay, and how many tensors train."""
    theirs, own = (torch.tensor(found[preset], dtype=torch.float64) for found in (RATES, rates_here))
    torch.testing.assert_close(own, theirs, rtol=1e-5, atol=0)


def test_weight_decay_touches_the_parameters_that_fastai_decays(rates_here):
    """Norm layers and biases are left out, unless they are asked for."""
    assert rates_here['decayed'] == RATES['decayed']
    assert RATES['decayed']['False'] == ['body.0.weight', 'neck.0.weight', 'head.weight']


# ---------------------------------------------------------------- how far the search goes, and what of it counts

class _Looked(Callback):
    """Keeps the rates of the search, and its losses can be told."""

    order, run_valid = 55, False

    def __init__(self, losses=None):
        self.losses, self.rates = losses, []

    def after_batch(self):
        self.rates.append(self.opt.hypers[-1]['lr'])


def _search(**kwargs):
    """(rates of all steps, rates and losses that a suggestion function was handed)."""
    handed, looked = [], _Looked()

    def suggest(lrs, losses, num_it):
        handed.append((lrs.tolist(), losses.tolist(), num_it))
        return valley(lrs, losses, num_it)
    learn = learner(cbs=looked)
    learn.lr_find(show_plot=False, suggest_funcs=suggest, **kwargs)
    return looked.rates, *handed[0], learn


def test_lr_find_walks_a_hundred_steps_from_end_to_end():
    """From 1e-7 to 10 in equal factors, unless other ends or another number of steps are told."""
    rates, lrs, losses, num_it, _ = _search(stop_div=False)
    assert (len(rates), num_it) == (100, 100)
    np.testing.assert_allclose(rates, [1e-7 * 1e8 ** (i / 100) for i in range(100)], rtol=1e-6)
    wanted, looked = rates, _Looked()
    learn = learner(cbs=looked)
    for door in (lambda: lr_find(learn, stop_div=False, show_plot=False),
                 lambda: learn.fit(25, cbs=LRFinder(stop_div=False))):
        looked.rates.clear()
        door()
        np.testing.assert_allclose(looked.rates, wanted, rtol=1e-6)
    rates, *_ = _search(start_lr=1e-4, end_lr=1e-2, num_it=20, stop_div=False)
    np.testing.assert_allclose(rates, [1e-4 * 100 ** (i / 20) for i in range(20)], rtol=1e-6)


@pytest.mark.parametrize('asked, steps', [(5, 6), (6, 6), (7, 7)])
def test_lr_find_takes_six_steps_at_least(asked, steps):
    """Fewer say nothing: they are as many, and walk the whole range."""
    looked = _Looked()
    learner(cbs=looked).lr_find(num_it=asked, stop_div=False, show_plot=False, suggest_funcs=())
    rates = [1e-7 * 1e8 ** (i / steps) for i in range(steps)]
    np.testing.assert_allclose(looked.rates, rates, rtol=1e-6)


def test_lr_find_goes_through_no_data(monkeypatch):
    """Of the loaders the generators alone are put back; what may be gigabytes is not looked at for them."""
    from minifast import hidden
    seen, encode = [], hidden.encode

    class Table(TensorDataset):
        def __init__(self, *tensors):
            super().__init__(*tensors)
            self.rows, self.array, self.rngs = ['a row'] * 20_000, np.zeros(1000), [np.random.default_rng(0)]
    monkeypatch.setattr(hidden, 'encode', lambda x: seen.append(type(x).__name__) or encode(x))
    learn = learner()
    table = Table(*learn.dls[0].dataset.tensors)
    learn.dls = DataLoaders(*[DataLoader(table, 8)] * 2)
    before = table.rngs[0].bit_generator.state
    learn.lr_find(num_it=6, show_plot=False, suggest_funcs=(), stop_div=False)
    assert not seen and table.rngs[0].bit_generator.state == before


def test_lr_find_leaves_out_the_first_tenth_and_the_last_five():
    """What fastai's suggestions are made of too."""
    rates, lrs, losses, _, learn = _search(stop_div=False, num_it=60)
    np.testing.assert_allclose(lrs, rates[6:-5], rtol=1e-6)
    assert len(losses) == len(lrs) == 49


def test_lr_find_stops_where_the_loss_is_four_times_its_best():
    """Not before, not later; with stop_div=False not at all."""
    *_, learn = _search(num_it=100, end_lr=1e8)
    losses = [float(loss) for loss in learn.recorder.lr_search[1]]
    best = np.minimum.accumulate(losses)
    exploded = [loss > 4 * low for loss, low in zip(losses, best)]
    assert len(losses) < 100 and exploded[-1] and not any(exploded[:-1])
    rates, *_ = _search(num_it=100, end_lr=1e8, stop_div=False)
    assert len(rates) == 100


def test_lr_find_stops_at_the_first_loss_beyond_four_times_its_best():
    """A loss that rises step by step: at the first mean that is beyond, whatever the losses are measured in."""
    for unit in (.5, 1., 8.):
        given = iter([2. * unit] * 5 + [20. * unit] * 95)
        learn = learner(loss_func=lambda pred, targ: pred.mean() * 0 + next(given))
        learn.lr_find(show_plot=False, suggest_funcs=())
        losses = [float(loss) for loss in learn.recorder.lr_search[1]]
        beyond = [loss > 4 * min(losses) for loss in losses]
        assert len(losses) < 12 and beyond == [False] * (len(losses) - 1) + [True] and losses[-1] < 8 * min(losses)


def test_lr_find_gives_gradients_and_modes_back():
    """Gradients that were there are there again, bit for bit, and so is who trains and who evaluates."""
    learn = learner(model=deep())
    learn.create_opt()
    for p in learn.model.parameters():
        p.grad = torch.randn_like(p)
    learn.model[1].eval()
    before = [p.grad.clone() for p in learn.model.parameters()]
    modes = [m.training for m in learn.model.modules()]
    learn.lr_find(num_it=8, show_plot=False)
    after = [p.grad for p in learn.model.parameters()]
    assert all(g is not None and torch.equal(g, b) for g, b in zip(after, before))
    assert [m.training for m in learn.model.modules()] == modes


def test_minimum_is_a_tenth_of_the_best_rate_and_valley_lies_within_it():
    """On a curve made for it."""
    lrs = torch.tensor([10. ** e for e in np.linspace(-6, 0, 61)])
    losses = torch.cat([torch.full((20,), 2.), torch.linspace(2, 1, 30), torch.linspace(1, 9, 11)])
    best = float(lrs[losses.argmin()])
    assert minimum(lrs, losses, 61)[0] == pytest.approx(best / 10)
    assert lrs[20] < valley(lrs, losses, 61)[0] < best


def test_param_scheduler_used_again_holds_the_values_of_the_last_fit():
    """One instance in two fits: four batches each."""
    learn, sched = learner(), ParamScheduler({'lr': SchedLin(.1, .2)})
    for _ in range(2):
        learn.fit(1, cbs=sched)
        assert len(sched.hps['lr']) == len(learn.recorder.hps['lr']) == 4
