"""The folder of a run: its lines, who may write there, how it goes on behind a resume."""
from __future__ import annotations

import json
import math
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from small_learner import Interrupt, learner, pictures

from minifast.callback import core, runlog
from minifast.callback.checkpoint import CheckpointCallback
from minifast.callback.core import Callback, CancelFitException
from minifast.callback.runlog import RunLogger
from minifast.callback.schedule import ParamScheduler
from minifast.callback.training import GradientClip
from minifast.metrics import ValueMetric, accuracy
from minifast.optimizer import Adam
from minifast.run.history import read_run
from minifast.seeds import set_seed


def lines(folder):
    """The lines of a run's file."""
    return [json.loads(line) for line in (folder / 'run.jsonl').read_text().splitlines()]


def measured(history):
    """Rows without what is another each time."""
    return [{name: value for name, value in row.items() if name != 'time'} for row in history]


def test_a_run_tells_what_it_is_and_what_each_epoch_measured(tmp_path):
    """Settings, environment and revision; the numbers of the recorder; best epoch and duration at the end."""
    set_seed(5)
    learn = learner(metrics=accuracy, opt_func=Adam)
    learn.fit_one_cycle(3, 1e-2, pct_start=.3, wd=.2, run=tmp_path / 'first')
    run, fit, *epochs, end = lines(tmp_path / 'first')
    assert run['kind'] == 'run' and run['name'] == 'first' and run['format'] == 1 and run['began'] <= fit['began']
    assert fit['config']['fit'] == {'n_epoch': 3, 'start_epoch': 0, 'lr': pytest.approx(1e-2), 'wd': .2}
    model = {'class': 'Sequential', 'parameters': 436, 'trained parameters': 436}
    assert model.items() <= fit['config']['model'].items()
    assert fit['config']['settings']['seed'] == 5 and fit['config']['settings']['metrics'] == ['accuracy']
    assert fit['config']['data']['training']['n'] == 32 and fit['config']['optimizer']['class'] == 'minifast.Adam'
    assert fit['environment'].keys() >= {'minifast', 'torch', 'python', 'platform', 'device', 'precision', 'processes'}
    assert fit['git'] is None or len(fit['git']) == 40
    rows = [[epoch['metrics'][name] for name in ('train_loss', 'valid_loss', 'accuracy')] for epoch in epochs]
    assert rows == [list(row) for row in learn.recorder.values]
    assert [epoch['epoch'] for epoch in epochs] == [0, 1, 2] and all(epoch['time'] > 0 for epoch in epochs)
    best = max(range(3), key=lambda i: rows[i][2])
    assert end['best'] == {'metric': 'accuracy', 'epoch': best, 'value': rows[best][2]} and end['epochs'] == 3
    assert end['state'] == 'finished' and sum(epoch['time'] for epoch in epochs) <= end['duration_s'] + .01 < 60
    found = read_run(tmp_path / 'first')
    assert found.history.rows == learn.recorder.history.rows and found.state == 'finished' and not found.problems


@pytest.mark.parametrize('fit', [lambda learn, **k: learn.fit(1, **k), lambda learn, **k: learn.fit_one_cycle(1, **k),
                                 lambda learn, **k: learn.fit_flat_cos(1, **k),
                                 lambda learn, **k: learn.fit_sgdr(1, 1, **k),
                                 lambda learn, **k: learn.fine_tune(1, lr_mult=1, **k)])
def test_each_way_to_fit_takes_a_run(fit, tmp_path, monkeypatch):
    """A relative folder lies where the script runs; both fits of `fine_tune` are one run."""
    monkeypatch.chdir(tmp_path)
    learn = learner(splitter=lambda model: [[model[1].weight], [model[1].bias]])
    fit(learn, run='runs/a')
    run = read_run('runs/a')
    assert run.state == 'finished' and run.history.rows == learn.recorder.history.rows
    assert [fit['more'] for fit in run.fits] == ([True, False] if len(run.fits) > 1 else [False])
    assert len(run.fits) == len({row['fit'] for row in learn.recorder.history})


def test_every_write_is_a_whole_line_and_nothing_is_kept_back(tmp_path):
    """Whoever looks while the training runs finds all epochs so far, and a run that is not finished."""
    seen = []

    class Looks(Callback):
        order = 99

        def after_batch(self):
            text = (tmp_path / 'a' / 'run.jsonl').read_text()
            assert text.endswith('\n')
            run = read_run(tmp_path / 'a')
            assert run.state == 'unfinished' and not run.problems and run.duration_s >= 0
            seen.append(len(run.history))
    learner().fit(2, run=tmp_path / 'a', cbs=Looks)
    assert seen == [0] * 8 + [1] * 8


def test_a_fit_that_breaks_off_says_so_and_the_next_one_goes_on(tmp_path):
    """By Ctrl-C; a fit that a callback ends early is finished."""
    learn = learner(metrics=accuracy)
    with pytest.raises(KeyboardInterrupt):
        learn.fit(3, run=tmp_path / 'a', cbs=Interrupt('after_epoch'))
    assert read_run(tmp_path / 'a').state == 'stopped' and lines(tmp_path / 'a')[-1]['epochs'] == 2
    learn.fit(2, run=tmp_path / 'a', cbs=Stops)
    run = read_run(tmp_path / 'a')
    assert run.state == 'finished' and [row['fit'] for row in run.history] == [0, 0, 1]
    assert run.duration_s == pytest.approx(sum(line['duration_s'] for line in lines(tmp_path / 'a')
                                               if line['kind'] == 'end'))


class Stops(Callback):
    """Ends the fit behind its first epoch."""

    order = 99

    def after_epoch(self):
        raise CancelFitException


def test_what_is_no_fit_writes_nothing(tmp_path):
    """`lr_find`, `validate`, `get_preds`, between two fits of one run and before the first."""
    learn = learner(cbs=RunLogger(tmp_path / 'a'))

    def look():
        learn.lr_find(num_it=6, show_plot=False), learn.validate(), learn.get_preds()
    look()
    assert not (tmp_path / 'a').exists()
    learn.fit(1), look()
    before = lines(tmp_path / 'a')
    learn.fit(1)
    assert lines(tmp_path / 'a')[:len(before)] == before and len(read_run(tmp_path / 'a').history) == 2


def test_another_run_is_never_written_over(tmp_path, capsys):
    """Neither by another learner nor by the next start of the script, which get folders of their own, and say so."""
    for n in range(3):
        learn = learner()
        learn.fit(1, run=tmp_path / 'a')
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == ['a', 'a-2', 'a-3'] and capsys.readouterr().out.count('holds another run') == 2
    learn.fit(1, run=tmp_path / 'a')
    assert [len(read_run(tmp_path / name).history) for name in found] == [1, 1, 2]
    assert len({lines(tmp_path / name)[0]['id'] for name in found}) == 3


def test_runs_of_one_learner_are_told_apart(tmp_path):
    """Three rates, one learner: each folder has its own rows, whose fits are numbered from 0."""
    learn = learner()
    for lr in (1e-3, 1e-2, 1e-1):
        learn.fit_one_cycle(1, lr, run=tmp_path / f'{lr:g}')
    for n, lr in enumerate((1e-3, 1e-2, 1e-1)):
        run = read_run(tmp_path / f'{lr:g}')
        assert run.fits[0]['config']['fit']['lr'] == pytest.approx(lr) and len(run.fits) == 1
        row, = run.history
        assert row['fit'] == 0 and row['valid_loss'] == learn.recorder.history['valid_loss'][n]


def test_rates_are_the_highest_of_the_schedule_else_those_asked_for(tmp_path):
    """Of each parameter group, where they differ; of a schedule of the user's, which is not called, the learner's."""
    learn = learner(splitter=lambda model: [[model[1].weight], [model[1].bias]])
    learn.fit_one_cycle(1, slice(1e-3, 1e-1), pct_start=.3, run=tmp_path / 'a')
    learn.fit(1, slice(1e-4, 1e-2), run=tmp_path / 'a'), learn.fit(1, .5, run=tmp_path / 'a')
    learn.fit(1, .25, run=tmp_path / 'a', cbs=ParamScheduler({'lr': lambda pct: 7.}))
    asked = [{k: line['config']['fit'].get(k) for k in ('lr', 'lrs')} for line in lines(tmp_path / 'a')
             if line['kind'] == 'fit']
    assert asked[0] == {'lr': pytest.approx(1e-1), 'lrs': pytest.approx([1e-3, 1e-1])}
    assert asked[1:] == [{'lr': 1e-2, 'lrs': [1e-4, 1e-2]}, {'lr': .5, 'lrs': None}, {'lr': .25, 'lrs': None}]


def test_settings_are_those_of_the_user_and_of_bounded_size(tmp_path):
    """The loss that a callback puts in the place of the user's is not told; values are finite; long parts are
    checksums."""
    class Halves(Callback):
        def before_fit(self):
            self.learn.loss_func = lambda pred, y: self.learn.own_loss(pred, y) / 2

        def cleanup_fit(self):
            self.learn.loss_func = self.learn.own_loss
    learn = learner(loss_func=(loss := torch.nn.CrossEntropyLoss(label_smoothing=.1)), cbs=[GradientClip(.3), Halves])
    learn.fit(1, run=tmp_path / 'a')
    config = lines(tmp_path / 'a')[1]['config']
    assert config['loss']['class'].endswith('CrossEntropyLoss') and config['loss']['label_smoothing'] == .1
    assert config['settings']['callback gradient_clip']['max_norm'] == .3 and learn.loss_func is loss

    class Large(Callback):
        def __init__(self, note, rate):
            self.note, self.rate = note, rate
    learner(cbs=Large({f'n{i}': {f'm{j}': 'x' * 150 for j in range(40)} for i in range(40)}, math.inf)).fit(
        1, run=tmp_path / 'b')
    text = (tmp_path / 'b' / 'run.jsonl').read_text()
    assert len(text) < 100_000 and 'Infinity' not in text and not read_run(tmp_path / 'b').problems
    assert lines(tmp_path / 'b')[1]['config']['settings'].keys() == {'characters', 'digest'}


def test_facts_of_pictures_are_told(tmp_path):
    """How many, which classes, in which order and split, of which folder."""
    learn = pictures(tmp_path / 'flowers')
    learn.logger = lambda row: None
    learn.fit(1, run=tmp_path / 'a')
    data = lines(tmp_path / 'a')[1]['config']['data']
    assert data['training']['n'] == data['validation']['n'] == 8 and data['vocab'] == ['dark', 'light']
    assert data['folder'] == 'flowers' and data['items']['training']['item']['n'] == 8
    assert not [name for name in data['items']['training']['item'] if name == 'times']


def test_what_is_no_finite_number_is_null(tmp_path):
    """NaN, infinite, a tensor, a text; a metric by the name of a column is one beside it."""
    values = {'nan': math.nan, 'inf': -math.inf, 'matrix': torch.eye(2), 'text': 'good', 'count': 3, 'fit': .25,
              'time': .5, 'valid_loss': .75}
    learn = learner(metrics=[ValueMetric(lambda value=value: value, name) for name, value in values.items()])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        learn.fit(1, run=tmp_path / 'a')
    row, = read_run(tmp_path / 'a').history
    assert [row[name] for name in ('nan', 'inf', 'matrix', 'text', 'count')] == [None] * 4 + [3]
    assert (row['fit'], row['fit (2)'], row['time (2)'], row['valid_loss (2)']) == (0, .25, .5, .75)
    assert learn.recorder.history[0]['text'] == 'good'


# ---------------------------------------------------------------- killed and resumed

class Snapshot(Callback):
    """Copies the folders at an event, which is what a kill there leaves behind."""

    order = 2000

    def __init__(self, source, target, event_name, at):
        self.source, self.target, self.at, self.n = source, target, at, 0
        setattr(self, event_name, self._copy)

    def _copy(self):
        if self.n == self.at:
            shutil.copytree(self.source, self.target)
        self.n += 1


@pytest.mark.filterwarnings('ignore:.*the callback snapshot')
@pytest.mark.filterwarnings('ignore:.*a resume will not be exact')
@pytest.mark.parametrize('event, at', [('after_batch', 1), ('after_batch', 12), ('after_epoch', 0), ('after_fit', 0),
                                       ('before_fit', 1), ('after_batch', 20), ('after_batch', 22), ('cleanup_fit', 1)])
def test_a_killed_run_goes_on_in_its_file(event, at, tmp_path):
    """Killed in either fit of a `fine_tune`, or between: then it is unfinished, and in the end it has all rows once."""
    def train(folder, cbs=(), resume=False):
        torch.manual_seed(1)
        learn = learner(metrics=accuracy, splitter=lambda model: [[model[1].weight], [model[1].bias]])
        learn.fine_tune(2, lr_mult=1, run=folder / 'runs' / 'a', resume=resume,
                        cbs=[CheckpointCallback(folder / 'checkpoints', every=3, background=False), *cbs])
        return learn
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    expected = train(whole, cbs=[Snapshot(whole, killed, event, at)])
    assert read_run(killed / 'runs' / 'a').state == ('finished' if event == 'cleanup_fit' else 'unfinished')
    found = train(killed, resume=True)
    assert [path.name for path in (killed / 'runs').iterdir()] == ['a']
    run = read_run(killed / 'runs' / 'a')
    assert measured(run.history) == measured(expected.recorder.history) == measured(found.recorder.history)
    assert run.state == 'finished' and not run.problems and len(run.fits) == 2
    assert [line['kind'] for line in lines(killed / 'runs' / 'a')].count('end') == 2


def test_a_search_behind_a_resumed_fit_takes_nothing_off(tmp_path):
    """What the checkpoint said counted for that fit alone."""
    def train(cbs=(), resume=False):
        learn = learner(cbs=RunLogger(tmp_path / 'a'))
        learn.fit(3, checkpoint=tmp_path / 'c', cbs=cbs, resume=resume)
        return learn
    with pytest.raises(KeyboardInterrupt):
        train(Interrupt('after_epoch', at=0))
    learn = train(resume=True)
    learn.lr_find(num_it=6, show_plot=False)
    learn.fit(1)
    assert [row['fit'] for row in read_run(tmp_path / 'a').history] == [0, 0, 0, 1]


def test_a_run_whose_file_is_gone_begins_anew_and_says_so(tmp_path):
    """As it does where another run lies there now."""
    def train(**kwargs):
        learner().fit(3, run=tmp_path / 'a', **kwargs)
    with pytest.raises(KeyboardInterrupt):
        train(checkpoint=tmp_path / 'c', cbs=Interrupt('after_epoch'))
    file = tmp_path / 'a' / 'run.jsonl'
    file.write_text('{"kind": "run", "format": 1, "id": "other"}\n' * 99)
    with pytest.warns(UserWarning, match='cannot be gone on with .another run is there.*written as a new one'):
        train(checkpoint=tmp_path / 'c', resume=True)
    assert file.read_text().count('other') == 99 and read_run(tmp_path / 'a-2').history['epoch'] == [1, 2]


def test_a_storage_that_fails_is_told_and_the_training_goes_on(tmp_path, monkeypatch):
    """In the middle in a warning; before the training as an error with the way out."""
    write = runlog.os.write

    def fails(handle, line):
        if b'"epoch": 1' in line:
            return write(handle, line[:20])
        return write(handle, line)
    monkeypatch.setattr(runlog.os, 'write', fails)
    learn = learner()
    with pytest.warns(UserWarning, match='could not be written: No space left on device'):
        learn.fit(3, run=tmp_path / 'a')
    run = read_run(tmp_path / 'a')
    assert len(run.history) == 1 and not run.problems and len(learn.recorder.values) == 3
    (tmp_path / 'file').touch()
    with pytest.raises(OSError, match='no run can be written to .*Way out'):
        learner().fit(1, run=tmp_path / 'file' / 'a')


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    """The others train in silence."""
    monkeypatch.setattr(core, 'num_distrib', lambda: 2)
    for rank in (1, 0):
        monkeypatch.setattr(core, 'rank_distrib', lambda rank=rank: rank)
        learner().fit(1, run=tmp_path / 'a')
        assert (tmp_path / 'a').exists() == (rank == 0)


def test_path_of_a_run_is_taken_as_text_too(tmp_path):
    """And what a callback was given is where it writes."""
    learn = learner(cbs=RunLogger(str(tmp_path / 'x' / 'y')))
    learn.fit(1)
    assert learn.run_logger.folder == tmp_path / 'x' / 'y' == Path(learn.run_logger.path)
