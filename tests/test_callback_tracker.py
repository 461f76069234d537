"""Callbacks that decide by a measured number: the best model is kept, training stops when it should."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from small_learner import Interrupt, Losses, data, deep, learner, linear, same, weights
from torch import nn

from minifast.callback.core import Callback, CancelValidException
from minifast.callback.schedule import ParamScheduler, SchedNo
from minifast.callback.tracker import (
    EarlyStoppingCallback, ReduceLROnPlateau, SaveModelCallback, TerminateOnNaNCallback, TrackerCallback,
)
from minifast.data.core import DataLoaders
from minifast.data.load import DataLoader
from minifast.metrics import accuracy, error_rate
from minifast.optimizer import SGD


class Script(Callback):
    """Makes validation losses up: the recorder sees these values, epoch by epoch."""

    order = 55

    def __init__(self, values):
        self.values, self.n = values, 0

    def after_epoch(self):
        self.recorder.values[-1][1] = self.values[self.n]
        self.n += 1


class Never(Callback):
    """Leaves every validation."""

    def before_validate(self):
        raise CancelValidException


# ---------------------------------------------------------------- trackers

@pytest.mark.parametrize('monitor, comp, min_delta, values, news', [
    ('valid_loss', None, 0., [3., 2., 2., 4., 1.], [1, 1, 0, 0, 1]),
    ('valid_loss', None, .5, [3., 2.6, 2.4, 1.], [1, 0, 1, 1]),
    ('valid_loss', np.greater, 0., [3., 2., 4.], [1, 0, 1]),
    ('valid_loss', None, 0., [float('nan'), 2.], [0, 1])])
def test_tracker_knows_when_a_value_is_the_best(monitor, comp, min_delta, values, news):
    """`new_best` follows the comparison, beyond `min_delta`; NaN is never best."""
    class Seen(TrackerCallback):
        def after_epoch(self):
            super().after_epoch()
            seen.append(int(self.new_best))
    seen = []
    learner().fit(len(values), cbs=[Script(values), Seen(monitor, comp, min_delta)])
    assert seen == news


def test_tracker_of_an_unknown_name_says_which_there_are():
    """A misspelt monitor is a ValueError with the columns and the near match."""
    with pytest.raises(ValueError, match="did you mean 'valid_loss'.*accuracy"):
        learner(metrics=accuracy).fit(1, cbs=TrackerCallback('valid_los'))


def test_tracker_forgets_the_best_only_if_asked():
    """`reset_on_fit=False` carries the best value over fits; `validate` and `lr_find` never reset it."""
    learn, kept = learner(), TrackerCallback(reset_on_fit=False)
    learn.fit(1, cbs=[Script([.25]), kept])
    learn.fit(1, cbs=[Script([.5]), kept])
    assert kept.best == .25
    learn, cb = learner(cbs=TrackerCallback), None
    cb = learn.tracker
    learn.fit(1)
    best = cb.best
    learn.validate(), learn.lr_find(num_it=6, show_plot=False)
    assert cb.best == best and cb.run


def test_tracker_passes_over_an_epoch_without_validation():
    """Where the validation was cancelled there is no value, hence no verdict."""
    stop = EarlyStoppingCallback(patience=1)
    learn = learner()
    learn.fit(3, cbs=[Never(), stop])
    assert len(learn.recorder.values) == 3 and stop.wait == 0


def test_tracker_goes_on_from_its_state():
    """`state_dict` carries best value and patience."""
    one, two = EarlyStoppingCallback(), EarlyStoppingCallback()
    one.best, one.wait = .5, 3
    two.load_state_dict(one.state_dict())
    assert (two.best, two.wait) == (.5, 3)


@pytest.mark.parametrize('patience, values, epochs', [(1, [3., 2., 2.5, 1.], 3), (2, [3., 4., 2., 3., 3., 1.], 5),
                                                      (3, [3., 2., 1.], 3)])
def test_early_stopping_waits_as_long_as_told(patience, values, epochs, capsys):
    """Training ends after `patience` epochs in a row without improvement."""
    learn = learner()
    learn.fit(len(values), cbs=[Script(values), EarlyStoppingCallback(patience=patience)])
    assert len(learn.recorder.values) == epochs
    assert ('early stopping' in capsys.readouterr().out) == (epochs < len(values))


def test_reduce_lr_divides_every_groups_rate(capsys):
    """Each plateau divides the learning rates, not below `min_lr`."""
    learn = learner(splitter=lambda m: [[m[1].weight], [m[1].bias]])
    learn.fit(5, lr=slice(1e-2, 1.), cbs=[Script([1.] * 5), ReduceLROnPlateau(factor=10, min_lr=2e-3)])
    assert [h['lr'] for h in learn.opt.hypers] == pytest.approx([2e-3, 2e-3])
    assert learn.recorder.lrs[::4] == pytest.approx([1., 1., .1, .01, 2e-3])
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == ['0.1', '0.01', '0.002']
    learner().fit(2, lr=1., cbs=[Script([1.] * 2), ReduceLROnPlateau(factor=3)])
    assert capsys.readouterr().out.endswith('lowered to 0.333333\n')


# ---------------------------------------------------------------- the best model

def test_save_model_loads_the_best_weights_at_the_end(tmp_path, capsys):
    """Behind the fit the model is that of the best epoch, and so is the file."""
    class Keep(Callback):
        def after_epoch(self):
            kept.append(weights(self.learn))
    kept, learn = [], learner(path=tmp_path)
    save = SaveModelCallback(fname='best')
    learn.fit(4, lr=.1, cbs=[Keep(), Script([3., 1 / 3, 2., 4.]), save])
    assert same(weights(learn), kept[1])
    assert save.last_saved_path == tmp_path / 'models' / 'best.pth' and save.best == 1 / 3
    assert learner(path=tmp_path).load('best', with_opt=False)
    assert 'epoch 1: best valid_loss so far, 0.333333; model saved\n' in capsys.readouterr().out


def test_save_model_keeps_the_best_over_both_phases_of_fine_tune(tmp_path, capsys):
    """A model of the frozen phase that no later epoch beats is the one that is left."""
    class Keep(Callback):
        def after_epoch(self):
            kept.append(weights(self.learn))
    def halves(m):
        return [list(m[:2].parameters()), list(m[2:].parameters())]
    kept, learn = [], learner(path=tmp_path, model=deep(), splitter=halves)
    learn.fine_tune(2, .1, freeze_epochs=2, cbs=[Keep(), Script([3., 1., 2., 2.]), SaveModelCallback()])
    assert same(weights(learn), kept[1]) and not same(kept[1], kept[3])
    learn.fit(1, cbs=[Script([5.]), cb := SaveModelCallback()])
    assert cb.best == 5., 'a fit of its own starts anew'
    capsys.readouterr()


@pytest.mark.parametrize('every, names', [(True, 'm_0 m_1 m_2'), (2, 'm_0 m_2')])
def test_save_model_every_epoch_writes_numbered_files(every, names, tmp_path):
    """`every_epoch` saves by number and loads nothing."""
    learn = learner(path=tmp_path)
    learn.fit(3, cbs=SaveModelCallback(fname='m', every_epoch=every))
    assert sorted(f.stem for f in (tmp_path / 'models').glob('*.pth')) == names.split()


def test_save_model_at_end_saves_what_the_fit_ended_with(tmp_path, capsys):
    """`at_end` writes the last weights and leaves them in the model."""
    learn = learner(path=tmp_path)
    learn.fit(2, lr=.1, cbs=[Script([1., 2.]), SaveModelCallback(at_end=True, with_opt=True)])
    assert same(weights(learn), weights(learner(path=tmp_path).load('model')))
    with pytest.raises(ValueError, match='exclude'):
        SaveModelCallback(at_end=True, every_epoch=True)
    capsys.readouterr()


def test_save_model_attached_for_good_does_nothing_outside_a_fit(tmp_path, capsys):
    """`validate`, `lr_find` and a fit without a better model neither write nor load a file."""
    learn = learner(path=tmp_path, cbs=SaveModelCallback)
    before = weights(learn)
    learn.validate(), learn.lr_find(num_it=6, show_plot=False)
    learn.save_model.monitor = 'valid_loss'
    learn.fit(1, lr=0., cbs=[Script([float('nan')])])
    assert same(before, weights(learn)) and not list(tmp_path.rglob('*.pth'))


# ---------------------------------------------------------------- NaN

class Poison(Callback):
    """Makes the loss or a gradient NaN in batch `at`."""

    order, run_valid = -20, False

    def __init__(self, at, what='loss', value=float('nan')):
        self.at, self.what, self.value = at, what, value

    def after_loss(self):
        if self.what == 'loss' and self.train_iter == self.at:
            self.learn.loss_grad = self.loss_grad * self.value
            self.learn.loss = self.loss * self.value

    def after_backward(self):
        if self.what == 'grad' and self.train_iter == self.at:
            next(self.model.parameters()).grad[0, 0] = self.value


@pytest.mark.tally
@pytest.mark.parametrize('what', ['loss', 'grad'])
@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_terminate_on_nan_stops_before_the_update(what, value, capsys):
    """The weights are those after the last good batch, bit for bit, and the batch is named."""
    class Short(Callback):
        def before_step(self):
            self.n = getattr(self, 'n', 0) + 1
            self.learn.opt.set_hyper('lr', .1 if self.n <= 2 else 0.)
    learn, twin = learner(), learner()
    learn.fit(2, lr=.1, cbs=[Poison(2, what, value), TerminateOnNaNCallback])
    twin.fit(1, lr=.1, cbs=Short)
    assert same(weights(learn), weights(twin)) and learn.train_iter == 2
    assert all(p.grad is None or not p.grad.any() for p in learn.model.parameters())
    assert 'epoch 0, batch 2' in capsys.readouterr().out


def test_terminate_on_nan_skips_if_asked(capsys):
    """`skip` leaves the batch out and goes on; the smoothed loss stays a number."""
    learn = learner()
    learn.fit(1, lr=.1, cbs=[Poison(1), TerminateOnNaNCallback(skip=True), seen := Losses()])
    assert len(seen.seen) == 3 and len(learn.recorder.losses) == 3 == len(learn.recorder.lrs)
    assert torch.isfinite(learn.smooth_loss) and all(p.isfinite().all() for p in learn.model.parameters())
    assert 'left out' in capsys.readouterr().out


def shuffled(x, y, num_workers):
    """A learner on our own loader, which knows its items."""
    items = list(zip(x, y))
    learn = learner()
    learn.dls = DataLoaders(DataLoader(items, bs=8, shuffle=True, num_workers=num_workers), DataLoader(items, bs=8))
    return learn


@pytest.mark.tally
@pytest.mark.parametrize('num_workers', [0, 2])
def test_terminate_on_nan_names_the_items_whose_inputs_are_not_finite(num_workers, capsys):
    """Wherever a shuffled loader puts them."""
    x, y = data()
    x[[5, 17]] = float('nan')
    named = []
    stop = TerminateOnNaNCallback(skip=True)
    shuffled(x, y, num_workers).fit(1, cbs=[stop, Callback(
        after_batch=lambda self: named.extend(stop.items) or stop.items.clear())])
    assert sorted(name.split(' (')[0] for name in named) == ['item 17', 'item 5']
    assert 'Its items: item ' in capsys.readouterr().out


@pytest.mark.parametrize('inputs', ['one number a row', 'codes', 'a picture beside numbers'])
def test_terminate_on_nan_looks_at_inputs_of_every_shape(inputs, capsys):
    """What is no row of numbers names nothing, and all items are told; pictures are looked at whole."""
    x, y = data()
    pictures = torch.zeros(32, 3, 2, 2)
    pictures[9, 2, 1, 1] = float('inf')
    first = {'one number a row': x[:, 0, 0, 0], 'codes': y[:, None], 'a picture beside numbers': pictures}[inputs]

    class Takes(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = linear()

        def forward(self, first, x):
            return self.last(x)
    items = list(zip(first, x, y))
    learn = learner(model=Takes())
    learn.dls = DataLoaders(DataLoader(items, bs=8), DataLoader(items, bs=8))
    learn.fit(1, cbs=[Poison(1), stop := TerminateOnNaNCallback()])
    named = [name.split(' (')[0] for name in stop.items]
    assert named == (['item 9'] if inputs == 'a picture beside numbers' else [f'item {i}' for i in range(8, 16)])
    assert 'epoch 0, batch 1' in capsys.readouterr().out


def test_terminate_on_nan_names_all_items_of_a_batch_with_finite_inputs(capsys):
    """The names are those of the rows that were on the device."""
    x, y = data()
    rows = []
    shuffled(x, y, 0).fit(1, cbs=[Poison(2), stop := TerminateOnNaNCallback(), Callback(
        before_batch=lambda self: rows.append([next(i for i in range(32) if torch.equal(x[i], row))
                                               for row in self.x]))])
    assert len(rows) == 3 and [name.split(' (')[0] for name in stop.items] == [f'item {i}' for i in rows[-1]]
    assert all(name in capsys.readouterr().out for name in stop.items[:1])


@pytest.mark.parametrize('bs, more', [(8, ''), (9, " and 1 more, all in the callback's `items`\n"),
                                      (32, " and 24 more, all in the callback's `items`\n")])
def test_terminate_on_nan_names_eight_items_and_says_where_the_others_are(bs, more, capsys):
    """All of them are kept."""
    learn = learner()
    learn.dls = DataLoaders(*[DataLoader(list(zip(*data())), bs=bs, num_workers=0)] * 2)
    learn.fit(1, cbs=[Poison(0), stop := TerminateOnNaNCallback()])
    said = capsys.readouterr().out.partition('Its items: ')[2]
    assert said.startswith(', '.join(stop.items[:8])) and said.endswith(more) and len(stop.items) == bs
    assert not any(item in said for item in stop.items[8:])


def test_a_loss_that_is_not_finite_is_told_once_a_fit():
    """Nobody asked for the fit to end, so it goes on; it does not do so silently."""
    learn = learner()
    with pytest.warns(UserWarning, match='not finite since step 2 of this fit') as told:
        learn.fit(2, lr=.1, cbs=Poison(2))
    assert len(told) == 1


def test_terminate_on_nan_only_watches():
    """Where everything is finite, not one bit changes."""
    learn, twin = learner(), learner()
    learn.fit(2, lr=.1, cbs=TerminateOnNaNCallback)
    twin.fit(2, lr=.1)
    assert same(weights(learn), weights(twin))


def test_trackers_after_an_interrupt_run_again(tmp_path, capsys):
    """A fit stopped by Ctrl-C leaves the callbacks usable."""
    learn = learner(path=tmp_path, cbs=[SaveModelCallback(), EarlyStoppingCallback(patience=9)])
    with pytest.raises(KeyboardInterrupt):
        learn.fit(2, cbs=Interrupt('after_step', at=5))
    with pytest.raises(KeyboardInterrupt), learn.added_cbs(Interrupt('after_step')):
        learn.lr_find(num_it=8, show_plot=False)
    assert learn.save_model.run and learn.early_stopping.run
    learn.fit(2)
    assert len(learn.recorder.values) == 2 and learn.save_model.best < float('inf')
    capsys.readouterr()


def test_schedulers_win_over_a_plateau():
    """A scheduled rate is set anew at every batch, as in fastai."""
    learn = learner(model=linear(), opt_func=SGD, loss_func=nn.CrossEntropyLoss())
    learn.fit(2, cbs=[ParamScheduler({'lr': SchedNo(.5, .5)}), Script([1., 1.]), ReduceLROnPlateau()])
    assert learn.recorder.lrs == [.5] * 8


# ---------------------------------------------------------------- which way is better, and how long to wait

@pytest.mark.parametrize('monitor, smaller', [('valid_loss', True), ('train_loss', True), ('error_rate', True),
                                              ('accuracy', False), ('f1_score', False)])
def test_tracker_knows_which_way_is_better(monitor, smaller):
    """Less for losses and errors, more for the rest; `min_delta` is how much better it must be."""
    tracker = TrackerCallback(monitor, min_delta=.1)
    assert bool(tracker.comp(1, 2)) == smaller
    assert bool(tracker.comp(.85 - tracker.min_delta, 1.)) == smaller
    assert not tracker.comp(.95 - tracker.min_delta, 1.) and not tracker.comp(1.05 - tracker.min_delta, 1.)


def _with_rows(cb, rows, fits=1, **kwargs):
    """Fits whose epochs measure the numbers `rows`; returns the epochs that ran and the rate at each."""
    class Say(Callback):
        order = 59

        def after_epoch(self):
            row = self.learn.recorder.values[-1]
            row[1] = row[2] = rows[min(self.epoch, len(rows) - 1)]
            ran.append((self.epoch, self.opt.hypers[-1]['lr']))
    ran, learn = [], learner(metrics=error_rate, **kwargs)
    for _ in range(fits):
        learn.fit(len(rows), lr=.1, cbs=[Say(), cb])
    return ran, learn


def test_early_stopping_in_a_second_fit_waits_as_long_as_in_the_first(capsys):
    """Nothing is left of the patience that was used up."""
    ran, _ = _with_rows(EarlyStoppingCallback(patience=2), [1., 2., 2., 2., 2.], fits=2)
    assert [epoch for epoch, _ in ran] == [0, 1, 2, 0, 1, 2]
    capsys.readouterr()


@pytest.mark.parametrize('patience, rows, stopped', [(2, [3., 4., 2., 4., 4., 4.], 5), (1, [3., 2., 1., 1.5, 0.], 4),
                                                     (3, [1., 2., 2., .5, 2., 2., 2., 9.], 7)])
def test_early_stopping_counts_anew_after_an_improvement(patience, rows, stopped, capsys):
    """`patience` epochs in a row without one."""
    ran, _ = _with_rows(EarlyStoppingCallback(patience=patience), rows)
    assert len(ran) == stopped
    capsys.readouterr()


def test_reduce_lr_waits_lowers_and_waits_again(capsys):
    """With patience 2, factor 10 and a floor: after two epochs without improvement, then after two more."""
    rows = [1., 2., 2., 2., 2., 2., 2., .5, 2., 2.]
    ran, learn = _with_rows(ReduceLROnPlateau(patience=2, min_lr=2e-3), rows)
    assert [lr for _, lr in ran] == pytest.approx([.1, .1, .1, .01, .01, .002, .002, .002, .002, .002])
    ran, _ = _with_rows(ReduceLROnPlateau(patience=1, factor=2.), [1., 2., 2., .5, .4])
    assert [lr for _, lr in ran] == pytest.approx([.1, .1, .05, .025, .025])
    capsys.readouterr()


def test_save_model_by_error_rate_keeps_the_smaller(tmp_path, capsys):
    """The weights of the epoch with the smallest error are back at the end."""
    class Keep(Callback):
        order = 58

        def after_epoch(self):
            kept.append({k: v.clone() for k, v in self.model.state_dict().items()})
    kept, rows = [], [.5, .2, .4]
    save = SaveModelCallback(monitor='error_rate')

    class Say(Callback):
        order = 59

        def after_epoch(self):
            self.learn.recorder.values[-1][2] = rows[self.epoch]
    learn = learner(metrics=error_rate, path=tmp_path)
    learn.fit(3, lr=.1, cbs=[Keep(), Say(), save])
    assert all(torch.equal(v, kept[1][k]) for k, v in learn.model.state_dict().items())
    capsys.readouterr()


@pytest.mark.parametrize('with_opt', [True, False])
def test_save_model_writes_the_optimizer_where_it_is_told(with_opt, tmp_path, capsys):
    """Else the weights alone."""
    learn = learner(path=tmp_path)
    learn.fit(1, lr=.1, cbs=SaveModelCallback(with_opt=with_opt))
    held = torch.load(tmp_path / 'models' / 'model.pth', weights_only=True)
    assert ('opt' in held) == with_opt
    capsys.readouterr()


def test_early_stopping_that_keeps_the_best_waits_anew_in_each_fit(capsys):
    """reset_on_fit=False: the best of the fit before is still the best, the patience it used up is not."""
    ran, _ = _with_rows(EarlyStoppingCallback(patience=2, reset_on_fit=False), [1., 2., 2., 2.], fits=2)
    assert [epoch for epoch, _ in ran] == [0, 1, 2, 0, 1]
    capsys.readouterr()


@pytest.mark.parametrize('again', [1, 2])
def test_epochs_without_improvement_are_counted_anew_in_each_fit(again, capsys):
    """Though the best value of the fit before stays: a second fit has its patience, and no more than that."""
    stop, plateau = (make(patience=2, reset_on_fit=False) for make in (EarlyStoppingCallback, ReduceLROnPlateau))
    for n, values in ((2, [1., 2.]), (again, [2.] * again)):
        learn = learner()
        learn.fit(n, lr=.1, cbs=[Script(values), stop, plateau])
    said = capsys.readouterr().out
    assert ('early stopping' in said) == ('rate lowered' in said) == (again == 2)
    assert learn.opt.hypers[-1]['lr'] == (.1 if again == 1 else .01)
