"""The recorder keeps what the last fit measured: looking at the model does not erase it."""
from __future__ import annotations

import sys
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pytest
import torch
from small_learner import Interrupt, Losses, learner, pictures

from minifast.callback import core
from minifast.callback.core import Callback, CancelBatchException, CancelEpochException, CancelValidException
from minifast.callback.hook import ActivationStats
from minifast.callback.recorder import AvgSmoothLoss, Recorder
from minifast.callback.schedule import ParamScheduler, SchedLin
from minifast.data.core import DataLoaders
from minifast.interpret import Interpretation
from minifast.metrics import Metric, accuracy, error_rate


def record(learn):
    """All that a recorder tells of a training."""
    recorder = learn.recorder
    return {'names': list(recorder.metric_names), 'values': [list(row) for row in recorder.values],
            'log': list(recorder.log), 'losses': [float(x) for x in recorder.losses], 'lrs': list(recorder.lrs),
            'iters': list(recorder.iters), 'smooth': float(learn.smooth_loss), 'hps': dict(recorder.hps)}


def draw(learn):
    """All pictures of a recorder, one of them with the drawn numbers."""
    plt.close('all')
    ax = learn.recorder.plot_loss(skip_start=0)
    learn.recorder.plot_sched()
    return [line.get_ydata().tolist() for a in (*learn.recorder.plot_metrics(), ax) for line in a.lines]


looks = {'validate': lambda learn: learn.validate(), 'validate on training': lambda learn: learn.validate(0),
         'get_preds': lambda learn: learn.get_preds(), 'with loss': lambda learn: learn.get_preds(with_loss=True),
         'lr_find': lambda learn: learn.lr_find(num_it=6, show_plot=False),
         'interpretation': lambda learn: Interpretation.from_learner(learn),
         'two': lambda learn: (learn.validate(), learn.get_preds())}


@pytest.mark.parametrize('name', looks)
def test_looking_leaves_the_record_and_its_plots(name):
    """Rows, names, losses, rates and plots are those of the fit, whatever was looked at behind it."""
    learn = learner(metrics=[accuracy, error_rate])
    learn.fit_one_cycle(2)
    before, drawn = record(learn), draw(learn)
    looks[name](learn)
    assert record(learn) == before and draw(learn) == drawn
    learn.fit_one_cycle(1)
    assert len(learn.recorder.values) == 1 and len(learn.recorder.losses) == 4


def test_looking_at_pictures_leaves_the_record(tmp_path):
    """So do a prediction of one item, drawn results and augmented predictions, between the phases of a training."""
    learn = pictures(tmp_path)
    learn.logger = lambda row: None
    learn.fit_one_cycle(2)
    before = record(learn)
    learn.predict(next(tmp_path.glob('*/*.png'))), learn.show_results(), learn.tta(n=2)
    assert record(learn) == before


def test_a_look_returns_its_row_and_leaves_it_in_final_record():
    """Where fastai's users find it: what `validate` returns, and `learn.final_record` behind any pass."""
    learn = learner(metrics=accuracy)
    learn.fit(2)
    assert list(learn.final_record) == list(learn.recorder.values[-1]) and len(learn.final_record) == 3
    row = learn.validate()
    assert list(row) == list(learn.final_record) == list(learn.recorder.final_record) and len(row) == 2
    assert list(row) == pytest.approx(list(learn.recorder.values[-1][1:]))
    learn.recorder.values[-1][1] = 0.
    learn.get_preds()
    assert list(learn.final_record) == pytest.approx(list(row))


def test_hooks_of_a_look_see_its_own_row():
    """While a validation runs, the recorder is that of the validation."""
    seen = []
    learn = learner(metrics=accuracy)
    learn.fit(2)
    see = Callback(after_epoch=lambda self: seen.append((len(self.recorder.values), list(self.recorder.metric_names))))
    see.order = 60
    learn.validate(cbs=see)
    assert seen == [(1, ['epoch', 'train_loss', 'valid_loss', 'accuracy', 'time'])]


def test_without_a_training_a_look_stays_in_the_recorder():
    """A learner that only looks keeps the row of the last pass, as scripts on loaded learners read it."""
    learn = learner(metrics=accuracy)
    learn.get_preds()
    row = learn.validate()
    assert [list(r) for r in learn.recorder.values] == [list(row)]


@pytest.mark.parametrize('end', [KeyboardInterrupt, RuntimeError])
def test_a_look_that_fails_leaves_the_record(end):
    """Ctrl-C and errors in the middle of a look put the record back too."""
    learn = learner(metrics=accuracy)
    learn.fit_one_cycle(2)
    before = record(learn)
    with pytest.raises(end):
        if end is KeyboardInterrupt:
            learn.validate(cbs=Interrupt('after_pred'))
        else:
            learn.get_preds(dl=[(torch.zeros(2, 7), torch.zeros(2).long())])
    assert record(learn) == before


@pytest.mark.parametrize('event_name', ['after_batch', 'after_validate', 'after_epoch', 'after_fit'])
def test_a_look_inside_a_fit_leaves_the_record(event_name):
    """A validation from within a hook changes neither the rows nor the final record of the fit around it."""
    rows = []

    def look(self):
        if self.recorder.add_time and (self.learn.training or event_name != 'after_batch'):  # not inside its own look
            rows.append(self.learn.validate())
    fork_rng = Callback(**{event_name: look})
    fork_rng.order = 70
    learn, twin = learner(metrics=accuracy, cbs=fork_rng), learner(metrics=accuracy)
    for each in (learn, twin):
        torch.manual_seed(1)
        each.fit_one_cycle(2)
    ours, theirs = record(learn), record(twin)
    ours['log'].pop(), theirs['log'].pop()  # seconds
    assert ours == theirs and list(learn.final_record) == list(twin.final_record)
    assert rows and all(len(row) == 2 for row in rows)


def test_what_callbacks_watched_in_a_fit_stays_behind_a_look():
    """A schedule and statistics of activations that are attached for good keep what the fit gave them."""
    learn = learner(cbs=[ParamScheduler({'lr': SchedLin(.1, .01)}), ActivationStats()])
    learn.fit(1)
    hps, n = dict(learn.recorder.hps), len(learn.activation_stats.stats)
    learn.validate(), learn.get_preds()
    assert learn.recorder.hps == hps == learn.param_scheduler.hps and len(hps['lr']) == 4
    assert len(learn.activation_stats.stats) == n == 4


@pytest.mark.parametrize('where, row', [('Train', [None, 1, 1]), ('Valid', [1, None, None]), ('Epoch', [None] * 3)])
def test_a_cancelled_part_leaves_its_columns_empty_and_the_others_in_place(where, row):
    """So a tracker of `valid_loss` reads the validation loss, and the plots can be drawn."""
    def cancel(self):
        if self.epoch and self.training == (where != 'Valid'):
            raise getattr(core, f'Cancel{where}Exception')
    learn = learner(metrics=accuracy, cbs=Callback(after_pred=cancel))
    learn.fit(2)
    first, second = learn.recorder.values
    assert [value if value is None else 1 for value in second] == row and None not in first
    if where == 'Train':
        assert list(second)[1:] == pytest.approx(list(learn.validate(cbs=None)))
    learn.recorder.plot_metrics(), learn.recorder.plot_loss(skip_start=0)
    assert len(learn.recorder.log) == len(learn.recorder.metric_names)


def test_a_batch_that_is_cancelled_before_its_loss_is_not_recorded():
    """The loss and the predictions of the batch before are not counted again, in training and in validation."""
    def cancel(self):
        if self.iter % 2:
            raise CancelBatchException
    losses = Losses()
    learn = learner(metrics=accuracy, cbs=[Callback(before_batch=cancel), losses])
    learn.fit(1)
    assert len(losses.seen) == len(learn.recorder.losses) == len(learn.recorder.lrs) == 2
    kept = [b for i, b in enumerate(learn.dls.valid) if i % 2 == 0]
    cancelled = learn.validate()
    learn.remove_cb(learn.callback)
    assert list(cancelled) == pytest.approx(list(learn.validate(dl=kept)))


def test_a_metric_that_does_not_know_several_outputs_is_named():
    """A model's dict or tuple reaches metrics as it is; one that cannot take it is named, with the way out."""
    class Both(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = torch.nn.Linear(108, 4)

        def forward(self, x):
            return {'logits': self.lin(x.flatten(1))}

    def loss(p, y):
        return torch.nn.functional.cross_entropy(p['logits'], y)
    with pytest.raises(TypeError, match='the metric accuracy fails on what the model gives, a dict'):
        learner(model=Both(), loss_func=loss, metrics=accuracy).fit(1)
    learn = learner(model=Both(), loss_func=loss, metrics=lambda p, y: accuracy(p['logits'], y))
    learn.fit(1)
    assert 0 <= learn.recorder.values[-1][2] <= 1


class _Batches(Metric):
    """How many batches it has seen since it was reset."""

    name = 'batches'

    def reset(self):
        self.n = 0

    def accumulate(self, learn):
        self.n += 1

    @property
    def value(self):
        return self.n


def test_metrics_start_anew_with_every_part_of_every_epoch():
    """Four training and four validation batches, in each of three epochs."""
    learn = learner(metrics=_Batches())
    learn.remove_cb(learn.recorder).add_cb(Recorder(train_metrics=True))
    learn.fit(3)
    rows = [dict(zip(learn.recorder.metric_names[1:], row)) for row in learn.recorder.values]
    assert [(row['train_batches'], row['valid_batches']) for row in rows] == [(4, 4)] * 3


def test_the_rate_that_is_recorded_is_the_last_groups():
    """The head's, where the body has another one."""
    learn = learner(splitter=lambda m: [[m[1].weight], [m[1].bias]])
    learn.fit(1, lr=slice(1e-4, 1e-2))
    assert learn.recorder.lrs == [1e-2] * 4


def test_the_smoothed_loss_is_fastais_average():
    """The average of the losses, each weighing 0.98 of the one behind it, without its bias towards zero."""
    losses, learn = Losses(), learner()
    learn.fit(2, lr=.1, cbs=losses)
    average, expected = 0., []
    for step, loss in enumerate(losses.seen, 1):
        average = .98 * average + .02 * loss
        expected.append(average / (1 - .98 ** step))
    torch.testing.assert_close([float(loss) for loss in learn.recorder.losses], expected, rtol=1e-5, atol=1e-6)


def test_smoothed_losses_that_are_set_are_those_that_are_read():
    """Older scripts put a list in; the next step comes behind."""
    smooth = AvgSmoothLoss(.9)
    smooth.losses = [torch.tensor(1.), torch.tensor(2.)]
    assert [float(x) for x in smooth.losses] == [1., 2.] and smooth.count == 2 and float(smooth.value) == 2.
    smooth.accumulate(SimpleNamespace(loss=torch.tensor(5.)))
    assert smooth.count == 3 and [float(x) for x in smooth.losses][:2] == [1., 2.] and len(smooth.losses) == 3


def test_plot_loss_draws_both_losses_unless_told_otherwise():
    """The training's by step, the validation's by epoch."""
    learn = learner()
    learn.fit(2)
    assert len(learn.recorder.plot_loss(skip_start=0).lines) == 2
    plt.close('all')
    assert len(learn.recorder.plot_loss(skip_start=0, with_valid=False).lines) == 1


@pytest.mark.parametrize('asked, shape', [({}, (1, 3)), ({'nrows': 3}, (3, 1)), ({'ncols': 2}, (2, 2))], ids=str)
def test_metrics_are_drawn_in_as_many_rows_and_columns_as_asked(asked, shape):
    """One axis for the losses and one a metric, in a figure of the size that is asked for."""
    learn = learner(metrics=[accuracy, error_rate])
    learn.fit(1)
    axes = learn.recorder.plot_metrics(**asked, figsize=(4, 5))
    assert [ax.get_title() for ax in axes] == ['train_loss and valid_loss', 'accuracy', 'error_rate']
    assert axes[0].get_subplotspec().get_gridspec().get_geometry() == shape
    assert tuple(axes[0].figure.get_size_inches()) == (4, 5)


@pytest.mark.parametrize('train, valid, names', [
    (False, True, ['train_loss', 'valid_loss', 'accuracy', 'error_rate']),
    (True, False, ['train_loss', 'train_accuracy', 'train_error_rate']),
    (True, True, ['train_loss', 'train_accuracy', 'train_error_rate', 'valid_loss', 'valid_accuracy',
                  'valid_error_rate']),
    (False, False, ['train_loss', 'accuracy', 'error_rate'])])
@pytest.mark.parametrize('time', [True, False])
def test_the_header_names_what_is_measured_as_fastai_does(train, valid, names, time):
    """Losses and metrics by the part that they are of, where both or training alone measure them."""
    learn = learner(metrics=[accuracy, error_rate])
    learn.remove_cb(learn.recorder).add_cb(Recorder(add_time=time, train_metrics=train, valid_metrics=valid))
    learn.recorder.before_fit()
    assert list(learn.recorder.metric_names) == ['epoch', *names, *(['time'] if time else [])]


def test_a_recorder_tells_how_many_epochs_there_were_and_how_the_last_one_ended():
    """In IPython; a validation is no epoch, and its repr stays the name by which lists of callbacks are read."""
    from IPython.lib.pretty import pretty
    learn = learner(metrics=accuracy)
    recorder = learn.recorder
    assert pretty(recorder) == 'Recorder: no fit yet' and repr(recorder) == 'Recorder'
    learn.validate()
    assert recorder.n_epochs == 0 and pretty(recorder) == 'Recorder: no fit yet'
    learn.fit(1)
    learn.validate()
    row = [f'{x:.3g}' for x in recorder.values[-1]]
    assert pretty(recorder) == ('Recorder: 1 epoch, at the end train_loss {}, valid_loss {}, accuracy {}'.format(*row))
    learn.fit(2)
    assert recorder.n_epochs == 2 and pretty(recorder).startswith('Recorder: 2 epochs, ')


# ---------------------------------------------------------------- rows by name

def test_history_has_the_rows_of_all_fits_by_name():
    """Fit, epoch, the table's columns and seconds; looks leave no row, and what a fit measured stays when metrics
    change."""
    learn = learner(metrics=accuracy)
    history = learn.recorder.history
    assert len(history) == 0 and history.columns == [] and repr(history) == 'History()'
    learn.fit(2)
    rows = [list(row) for row in learn.recorder.values]
    for look in looks.values():
        look(learn)
    learn.metrics = error_rate
    learn.fit(1)
    rows += [list(row) for row in learn.recorder.values]
    assert history is learn.recorder.history and len(history) == 3
    assert history['fit'] == [0, 0, 1] and history['epoch'] == [0, 1, 0]
    assert history['train_loss'] == [row[0] for row in rows] and history['valid_loss'] == [row[1] for row in rows]
    assert history['accuracy'] == [rows[0][2], rows[1][2], None] and history['error_rate'] == [None, None, rows[2][2]]
    assert history.columns == ['fit', 'epoch', 'train_loss', 'valid_loss', 'accuracy', 'error_rate', 'time']
    assert all(type(seconds) is float and 0 <= seconds < 60 for seconds in history['time'])
    assert history[-1] == history.rows[2] and [row['epoch'] for row in history[1:]] == [1, 0]
    assert [row['fit'] for row in history] == [0, 0, 1] and repr(history).split() == [
        cell for row in history._cells() for cell in row if cell]


def test_history_of_a_part_that_was_cancelled_is_none_there():
    """What follows stays in its column."""
    class NoValidation(Callback):
        def before_validate(self):
            raise CancelValidException

    class NoEpoch(Callback):
        order = 40

        def before_batch(self):
            if self.epoch == 1:
                raise CancelEpochException
    learn = learner(metrics=accuracy)
    learn.fit(1, cbs=NoValidation)
    learn.fit(2, cbs=NoEpoch)
    history = learn.recorder.history
    assert [value is None for value in history['valid_loss']] == [True, False, True]
    assert [value is None for value in history['accuracy']] == [True, False, True]
    assert history['train_loss'][0] is not None and history['epoch'] == [0, 0, 1]
    assert history.best('accuracy') is history[1]
    learn.dls = DataLoaders(learn.dls.train)  # nothing to validate on
    learn.fit(1)
    assert history[-1]['valid_loss'] is history[-1]['accuracy'] is None and history[-1]['train_loss'] > 0


def test_history_of_training_metrics_goes_by_the_tables_names():
    """`train_metrics=True`, without time, as the columns say."""
    learn = learner(metrics=accuracy)
    learn.remove_cb(learn.recorder).add_cb(Recorder(train_metrics=True, add_time=False))
    learn.fit(1)
    assert learn.recorder.history.columns == ['fit', *learn.recorder.metric_names]
    assert list(learn.recorder.history[0].values()) == [0, 0, *learn.recorder.values[0]]


def test_history_becomes_a_table_where_pandas_is_there(monkeypatch):
    """With the same columns and numbers; without pandas an error names the extra."""
    learn = learner(metrics=accuracy)
    learn.fit(2)
    table = learn.recorder.to_df()
    assert list(table.columns) == learn.recorder.history.columns and len(table) == 2
    assert table['accuracy'].tolist() == learn.recorder.history['accuracy']
    assert list(learner().recorder.to_df().columns) == []
    monkeypatch.setitem(sys.modules, 'pandas', None)
    with pytest.raises(ModuleNotFoundError, match=r'minifast\[pandas\]'):
        learn.recorder.to_df()
