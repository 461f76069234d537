"""Rows by name, the folder of a run read as what anybody may have put there, and curves of several runs."""
from __future__ import annotations

import json
import math
import os
import sys

import matplotlib.pyplot as plt
import pytest
from small_learner import learner

from minifast.metrics import accuracy
from minifast.run import history as room
from minifast.run.history import History, _lower_is_better, find_runs, main_metric, plot_runs, read_run

ROWS = [{'fit': 0, 'epoch': 0, 'train_loss': 1., 'valid_loss': .9, 'accuracy': .25, 'time': 1.5},
        {'fit': 1, 'epoch': 0, 'train_loss': .8, 'valid_loss': .7, 'accuracy': .75, 'time': 2.},
        {'fit': 1, 'epoch': 1, 'train_loss': .6, 'valid_loss': .8, 'accuracy': math.nan, 'time': 2.5}]


def write(folder, *lines, end=b'\n'):
    """A run's file of these lines."""
    folder.mkdir(parents=True, exist_ok=True)
    data = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    (folder / 'run.jsonl').write_bytes(b'\n'.join(data) + end)
    return folder


def run(name='a', began='2026-01-01T00:00:00.000Z'):
    return {'kind': 'run', 'format': 1, 'id': 'x', 'name': name, 'began': began}


def fit(number=0, more=False, **config):
    return {'kind': 'fit', 'fit': number, 'config': config, 'environment': {}, 'git': None, 'began': '', 'more': more}


def epoch(number, fit=0, time=1., **metrics):
    return {'kind': 'epoch', 'fit': fit, 'epoch': number, 'metrics': metrics, 'time': time}


def end(fit=0, state='finished', **more):
    return {'kind': 'end', 'fit': fit, 'state': state, **more}


# ---------------------------------------------------------------- rows

def test_columns_and_rows_are_reached_by_name_and_number():
    """An unknown name is an error with the nearest one; a slice is a history again."""
    history = History(ROWS)
    assert history['accuracy'][:2] == [.25, .75] and history[0] == ROWS[0] and len(history[1:]) == 2
    assert isinstance(history[1:], History) and history.columns == list(ROWS[0])
    with pytest.raises(KeyError, match="'acuracy' was not measured, did you mean 'accuracy'.*there are fit, epoch"):
        history['acuracy']
    ROWS[0]['epoch'] = 0
    history[0]['epoch'] = 7
    assert ROWS[0]['epoch'] == 0
    table = history._repr_html_()
    assert table.count('<tr>') == 4 and '<th>valid_loss</th>' in table and '<td>0.25</td>' in table
    assert '<script>' not in History([{'<script>': '<script>'}])._repr_html_()


def test_best_is_the_lowest_of_losses_and_errors_and_the_highest_of_the_rest():
    """By name; what is no finite number is never best; by default the first metric counts, else the validation loss."""
    history = History(ROWS)
    assert history.best('valid_loss') is history[1] and history.best('accuracy') is history[1]
    assert history.best('train_loss') is history.best('epoch') is history[2]
    assert history.best() is history[1] and History().best() is None and History([{'a': None}]).best('a') is None
    with pytest.raises(KeyError):
        history.best('f1')
    lower = ['valid_loss', 'error_rate', 'rmse', '_rmse', 'mse', 'mae', 'msle', 'exp_rmspe', 'hamming_loss',
             'brier_score', 'perplexity', 'mean_distance']
    assert [name for name in lower if not _lower_is_better(name)] == []
    higher = ['accuracy', 'f1_score', 'dice', 'roc_auc_score', 'jaccard_coeff', 'mcc', 'maelstrom', 'r2_score']
    assert [name for name in higher if _lower_is_better(name)] == []
    assert main_metric(['fit', 'epoch', 'train_loss', 'train_f1', 'valid_loss', 'valid_f1', 'time']) == 'valid_f1'
    assert main_metric(['epoch', 'train_loss', 'valid_loss']) == 'valid_loss'
    assert main_metric(['epoch', 'train_loss']) == 'train_loss' and main_metric(['epoch']) is None


def test_a_history_is_shown_as_a_table():
    """To six digits, a gap where nothing was measured, the time last; in letters, whatever a metric is called."""
    history = History([{'fit': 0, 'time': 1.5, 'loss': .123456789}, {'fit': 10, 'loss': None, 'a\x1b<b>': 'x'}])
    assert history.columns == ['fit', 'loss', 'a\x1b<b>', 'time'] and history['a\x1b<b>'] == [None, 'x']
    head, one, two = str(history).splitlines()
    assert [line.split() for line in (one, two)] == [['0', '0.123457', '1.5'], ['10', 'x']]
    assert one.startswith('  0  0.123457  ') and two.startswith(' 10            ')
    assert len(head) == len(one) == len(two)
    assert head.startswith('fit      loss  ') and head.endswith('<b>  time') and '\x1b' not in head
    cells = '<td>0</td><td>0.123457</td><td></td><td>1.5</td>', '<td>10</td><td></td><td>x</td><td></td>'
    table = history._repr_html_()
    assert table.startswith('<table><tr><th>fit</th><th>loss</th><th>') and table.count('<th>') == 4
    assert table.endswith(''.join(f'<tr>{row}</tr>' for row in cells) + '</table>') and '&lt;b&gt;</th>' in table
    assert (repr(History()), History().columns, len(History())) == ('History()', [], 0)


def test_the_best_of_equals_is_the_first():
    """What was not measured in a row is passed over."""
    rows = [{'a': .5}, {'b': 1}, {'a': 2, 'n': 1}, {'a': 2, 'n': 2}, {'a': math.inf}, {'a': '9'}]
    history = History(rows)
    assert history.best('a') is history[2] and history.best() is history[2] and history.best('n') is history[3]
    assert History([{'valid_loss': 2.}, {'valid_loss': 1.}, {'valid_loss': 1}]).best() == {'valid_loss': 1.}


def test_a_history_is_a_data_frame(monkeypatch):
    """With its columns in order; without pandas the way out is named."""
    frame = History([{'time': 1., 'a': 2}, {'b': 3}]).to_df()
    assert list(frame.columns) == ['a', 'b', 'time'] and frame['a'][0] == 2 and math.isnan(frame['a'][1])
    monkeypatch.setitem(sys.modules, 'pandas', None)
    with pytest.raises(ModuleNotFoundError, match='to_df needs pandas: pip install "minifast.pandas."; without it'):
        History().to_df()


# ---------------------------------------------------------------- folders

def test_a_run_is_read_from_its_lines(tmp_path):
    """Fits in order, whichever line came first; seconds of fits that have an end, else of their epochs."""
    folder = write(tmp_path / 'a', run(), fit(more=True), epoch(0, accuracy=.5), end(duration_s=9.),
                   fit(1), epoch(0, 1, time=2., accuracy=.6), epoch(1, 1, time=3., accuracy=None))
    found = read_run(folder)
    assert (found.name, found.state, found.duration_s, found.problems) == ('a', 'unfinished', 14., [])
    assert found.history['accuracy'] == [.5, .6, None] and found.history['fit'] == [0, 1, 1]
    assert found.path == folder and read_run(folder / 'run.jsonl').history.rows == found.history.rows
    assert read_run(write(tmp_path / 'b', run(), fit(more=True), end())).state == 'unfinished'
    assert read_run(write(tmp_path / 'c', run(), fit(), end(state='stopped'))).state == 'stopped'
    assert read_run(write(tmp_path / 'd', run(), fit(), end(), {'kind': 'resumed', 'fit': 0})).state == 'unfinished'
    with pytest.raises(FileNotFoundError, match='run=FOLDER'):
        read_run(tmp_path / 'none')


def test_a_run_is_told_with_its_fits(tmp_path):
    """What each was made with; the last word of a fit counts, and texts that are none, or long, are cut."""
    first = {**fit(2, lr=.1), 'environment': {'torch': '2'}, 'git': 'ab', 'began': 'noon', 'other': 1}
    folder = write(tmp_path / 'a', run(began='x' * 300), first, {**fit(1, more=1), 'git': '', 'began': 3},
                   epoch(0, 2, a=1), epoch(3, 1, b=2), end(2, duration_s=None), end(1, 'stopped', duration_s=0))
    found = read_run(folder)
    assert found.began == 'x' * 200 and found.fits == [
        {'config': {}, 'environment': {}, 'git': None, 'began': '', 'more': True},
        {'config': {'lr': .1}, 'environment': {'torch': '2'}, 'git': 'ab', 'began': 'noon', 'more': False}]
    assert found.history.rows == [{'fit': 1, 'epoch': 3, 'b': 2., 'time': 1.},
                                  {'fit': 2, 'epoch': 0, 'a': 1., 'time': 1.}]
    assert (found.state, found.duration_s, found.problems) == ('finished', 2., [])
    assert type(found.history[0]['b']) is float
    found = read_run(write(tmp_path / 'b', run(began=3), {'kind': 'epoch', 'fit': 0, 'epoch': 0, 'metrics': {}}))
    assert (found.began, found.history.rows, found.duration_s) == ('', [{'fit': 0, 'epoch': 0}], 0.)
    assert found.state == 'unfinished' and found.fits == []
    assert read_run(write(tmp_path / 'c', run(), epoch(0), end())).state == 'finished'
    assert read_run(write(tmp_path / 'd', run(), fit(0), end(), epoch(0, 1))).state == 'unfinished'


@pytest.mark.parametrize('number, taken', [((1 << 31) - 1, True), (1 << 31, False), (0, True), (-1, False),
                                           (True, False)])
def test_numbers_of_fits_and_epochs_are_counts(number, taken, tmp_path):
    """From 0, of 31 bits."""
    for line in (epoch(number, a=1), epoch(0, number, a=1)):
        assert len(read_run(write(tmp_path / 'a', run(), line)).history) == taken


def test_as_many_metrics_as_anybody_has_are_read(tmp_path):
    """A thousand."""
    found = read_run(write(tmp_path / 'a', run(), epoch(0, **{f'm{i}': i for i in range(1000)})))
    assert found.history[0]['m999'] == 999 and found.problems == []


def test_twenty_problems_are_told_and_no_more(tmp_path):
    """How many more there are, where there are."""
    assert [len(read_run(write(tmp_path / 'a', *[b'x'] * n)).problems) for n in (20, 21)] == [20, 21]
    assert read_run(tmp_path / 'a').problems[19:] == ['line 20 of run.jsonl is left out: it is no JSON',
                                                      '1 more lines are left out']


def test_a_line_that_is_too_long_hides_no_other_one(tmp_path, monkeypatch):
    """One that just fits is read; the rest of a longer one is skipped."""
    text = json.dumps(epoch(0, a=1.)).encode()
    monkeypatch.setattr(room, 'LINE_BYTES', len(text))
    for longer, problems in ((b'', []), (b' ', ['line 2 of run.jsonl is left out: it is too long']),
                             (b' ' * 5 * len(text), ['line 2 of run.jsonl is left out: it is too long'])):
        found = read_run(write(tmp_path / 'a', b'{"kind": "run", "format": 1}', text + longer, text, text))
        assert found.problems == problems and len(found.history) == 3 - len(problems)


def test_so_much_of_a_file_is_read_and_no_more(tmp_path, monkeypatch):
    """The line at the bound is cut short, and told; what a long line takes counts."""
    text = json.dumps(epoch(0, a=1.)).encode()
    write(tmp_path / 'a', text, text, text)
    for bound, rows, cut in ((2 * len(text) + 2, 2, 0), (2 * len(text) + 1, 1, 1), (3 * len(text) + 3, 3, 0)):
        monkeypatch.setattr(room, 'MOST_BYTES', bound)
        found = read_run(tmp_path / 'a')
        assert (len(found.history), len(found.problems)) == (rows, cut)
    monkeypatch.setattr(room, 'LINE_BYTES', len(text))
    write(tmp_path / 'b', b'x' * 4 * len(text), text, text)
    assert len(read_run(tmp_path / 'b').history) == 0


BAD = {'no JSON': b'accuracy 0.5', 'a list': b'[1]', 'no UTF-8': b'{"kind": "\xff"}',
       'another coding': '{"a": 1}'.encode('utf-16'),
       'NaN': b'{"kind": "epoch", "fit": 0, "epoch": 0, "metrics": {"a": NaN}}',
       'infinite': b'{"kind": "epoch", "fit": 0, "epoch": 0, "metrics": {"a": 1e999}}',
       'huge': b'{"kind": "epoch", "fit": 0, "epoch": 0, "metrics": {"a": 1' + b'0' * 400 + b'}}',
       'endless': b'{"kind": "epoch", "fit": 0, "epoch": 0, "metrics": {"a": 1' + b'0' * 9000 + b'}}',
       'a text': b'{"kind": "epoch", "fit": 0, "epoch": 0, "metrics": {"a": "1"}}',
       'true': b'{"kind": "epoch", "fit": 0, "epoch": 0, "metrics": {"a": true}}',
       'deep': b'[' * 100_000, 'deeper': b'{"kind": "fit", "config": ' + b'{"a":' * 50_000 + b'1' + b'}' * 50_001,
       'a column that is taken': b'{"kind": "epoch", "fit": 0, "epoch": 0, "metrics": {"fit": 1}}',
       'many metrics': json.dumps(epoch(0, **{f'm{i}': 1 for i in range(1001)})).encode(),
       'no fit': b'{"kind": "epoch", "epoch": 0, "metrics": {}}', 'an unknown kind': b'{"kind": "code"}',
       'a kind that is none': b'{"kind": ["run"]}', 'a negative epoch': json.dumps(epoch(-1)).encode(),
       'a fraction': json.dumps(epoch(.5)).encode(), 'another format': b'{"kind": "run", "format": 2}',
       'no config': b'{"kind": "fit", "fit": 0, "config": 1}', 'an odd end': b'{"kind": "end", "fit": 0, "state": "x"}',
       'too long': b'{"kind": "epoch", "x": "' + b'x' * (1 << 20) + b'"}', 'empty': b'', 'nul': b'\0'}


@pytest.mark.parametrize('name', BAD)
def test_a_line_that_is_none_of_a_run_is_named_and_left_out(name, tmp_path):
    """Those around it count; the message has its number."""
    found = read_run(write(tmp_path / 'a', run(), fit(), epoch(0, a=1.), BAD[name], epoch(1, a=2.), end()))
    assert found.history['a'] == [1., 2.] and found.state == 'finished'
    problem, = found.problems
    assert problem.startswith('line 4 of run.jsonl is left out: ') and len(problem) < 200


def test_a_file_of_nothing_but_faults_is_read_in_bounds(tmp_path, monkeypatch):
    """A few problems are told and the others counted; what is behind the limits is not read; a torn line is named."""
    found = read_run(write(tmp_path / 'a', *[b'x'] * 5000))
    assert len(found.problems) == 21 and found.problems[-1] == '4980 more lines are left out'
    assert found.state == 'unfinished' and not found.history and not found.fits
    whole = [run(), fit(), *(epoch(i, a=1.) for i in range(100))]
    found = read_run(write(tmp_path / 'b', *whole, end=b''))
    assert len(found.history) == 99 and found.problems == ['line 102 of run.jsonl is left out: it is cut short']
    monkeypatch.setattr(room, 'MOST_BYTES', 1000)
    assert 0 < len(read_run(tmp_path / 'b').history) < 20


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='no pipes here')
def test_what_is_no_file_is_not_waited_for(tmp_path):
    """A pipe or a folder in its place, and a link to somewhere else that is not there; none stays open."""
    for name in 'abc':
        (tmp_path / name).mkdir()
    first_free = os.dup(0)
    os.close(first_free)
    os.mkfifo(tmp_path / 'a' / 'run.jsonl')
    (tmp_path / 'b' / 'run.jsonl').mkdir()
    for name in 'ab':
        found = read_run(tmp_path / name)
        assert (found.state, found.name, found.path, found.history.rows) == ('unreadable', name, tmp_path / name, [])
        assert found.problems == ['run.jsonl cannot be read: it is no regular file']
    assert os.dup(0) == first_free
    os.close(first_free)
    (tmp_path / 'c' / 'run.jsonl').symlink_to(tmp_path / 'nowhere')
    assert [found.name for found in find_runs(tmp_path)] == ['a']


def test_runs_are_found_below_a_folder_by_age(tmp_path):
    """Those of folders in it too, down to a bound; not through links; a single run's own folder as well."""
    for name, day in (('new', 3), ('old', 1), ('group/middle', 2), ('a/b/c/d', 4), ('a/b/c/d/e', 5)):
        write(tmp_path / name, run(began=f'2026-01-0{day}T00:00:00.000Z'))
    (tmp_path / 'link').symlink_to(tmp_path / 'new')
    assert [found.name for found in find_runs(tmp_path)] == ['old', 'group/middle', 'new', 'a/b/c/d']
    assert [found.name for found in find_runs(tmp_path / 'new')] == ['new']
    assert find_runs(tmp_path / 'group' / 'middle')[0].path == tmp_path / 'group' / 'middle'
    with pytest.raises(FileNotFoundError, match='is no folder'):
        find_runs(tmp_path / 'none')


# ---------------------------------------------------------------- curves

@pytest.fixture(autouse=True)
def closed():
    """No figure outlives its test."""
    yield
    plt.close('all')


def drawn(ax):
    """Name -> values of the curves on an axis."""
    return {line.get_label(): line.get_ydata().tolist() for line in ax.lines}


def test_runs_of_every_kind_are_drawn_together_by_name(tmp_path):
    """Learners, recorders, histories, runs and folders; epochs are whole numbers through all fits."""
    learn = learner(metrics=accuracy)
    learn.fit(2, run=tmp_path / 'runs' / 'first'), learn.fit(1, run=tmp_path / 'runs' / 'first')
    values = learn.recorder.history['accuracy']
    assert len(values) == 3
    given = {'a': learn, 'b': learn.recorder, 'c': learn.recorder.history, 'd': tmp_path / 'runs' / 'first',
             'e': read_run(tmp_path / 'runs' / 'first')}
    ax = plot_runs(given, 'accuracy')
    assert drawn(ax) == dict.fromkeys('abcde', values) and ax.lines[0].get_xdata().tolist() == [0, 1, 2]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list('abcde')
    assert all(tick == int(tick) for tick in ax.get_xticks()) and (ax.get_xlabel(), ax.get_ylabel()) == (
        'epoch', 'accuracy')
    assert drawn(plot_runs(str(tmp_path / 'runs'))) == {'first': values}
    assert list(drawn(plot_runs([learn, learner_of(tmp_path), given['c'], given['d']]))) == [
        'first', 'second', 'run 3', 'first (4)']


def learner_of(folder):
    """A learner whose run is called second."""
    learn = learner(metrics=accuracy)
    learn.fit(1, run=folder / 'second')
    return learn


def test_runs_are_drawn_where_and_what_is_asked_for():
    """On an axis that is given; a gap where nothing was measured; a run without the metric is left out."""
    _, ax = plt.subplots()
    runs = {'a': History(ROWS), 'b': History([{'epoch': 0, 'f1': .5}, {'epoch': 1, 'f1': None}])}
    assert plot_runs(runs, 'valid_loss', ax=ax) is ax and drawn(ax) == {'a': [.9, .7, .8]}
    first, second = drawn(plot_runs(runs, 'f1'))['b']
    assert first == .5 and math.isnan(second)
    with pytest.raises(ValueError, match="no run has measured 'acuracy', did you mean 'accuracy'"):
        plot_runs(runs, 'acuracy')
    with pytest.raises(ValueError, match='there are no rows'):
        plot_runs({})
    with pytest.raises(TypeError, match='a int is no run'):
        plot_runs({'a': 3})


def test_curves_have_names_whatever_is_given(tmp_path):
    """A run's own, else its number; each once."""
    one, two = read_run(write(tmp_path / 'x', run(), epoch(0, a=1.))), History([{'a': 2.}])
    one.name = 'group/x'
    assert drawn(plot_runs(one)) == {'group/x': [1.]} and drawn(plot_runs(two)) == {'run 1': [2.]}
    assert drawn(plot_runs((two, one, tmp_path / 'x', one))) == {'run 1': [2.], 'group/x': [1.], 'x': [1.],
                                                                 'group/x (4)': [1.]}
    assert drawn(plot_runs([str(tmp_path / 'x')])) == {'x': [1.]} and drawn(plot_runs(tmp_path)) == {'x': [1.]}
    given = {3: two, 'b': History([{'b': 1.}]), 'c': History([{'a': 4}, {'a': None}])}
    assert drawn(plot_runs(given, 'a')).keys() == {'3', 'c'}
    ax = plot_runs({'a': History(ROWS)})
    assert ax.get_title() == ax.get_ylabel() == 'accuracy' and ax.lines[0].get_marker() == 'o'


def test_a_folder_without_runs_cannot_be_drawn(tmp_path):
    """And says who writes them."""
    with pytest.raises(ValueError, match='holds no runs'):
        plot_runs(tmp_path)
