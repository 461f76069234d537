"""Where a fit goes on: what is over, what is said and what counts, and at which batch; and which file is the newest."""
from __future__ import annotations

import json
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_learner import learner, same, weights

from minifast.callback import resume as room
from minifast.callback.checkpoint import CheckpointCallback, newest_checkpoint
from minifast.callback.core import Callback
from minifast.callback.schedule import ParamScheduler, SchedLin
from minifast.run.differences import Difference
from minifast.run.folder import RunFolder
from minifast.run.identity import RunIdentity
from minifast.tensorfile import DamagedFileError, read_tensors, write_atomic

AT = {'phase': 0, 'where': 'train', 'epoch': 1, 'batch': 2, 'loader_batch': 4, 'done': False, 'n_epoch': 4, 'n_iter': 8}


def callback(path='c', n_epoch=4, n_iter=8, schedule=(), settings=None, then=None, **learn):
    """A callback that has looked at the run that starts."""
    cb = CheckpointCallback(path)
    cb.learn = SimpleNamespace(**{'checkpoint_runs': {}, 'ranks': None, 'cbs': [], **learn})
    if n_iter != 'none':
        cb.learn.dls = SimpleNamespace(train=[None] * n_iter)
    cb._asked = {'n_epoch': n_epoch}
    cb._identity = RunIdentity({'schedule': dict.fromkeys(schedule), 'settings': settings or {}})
    cb._then = {'settings': then or {}}
    return cb


def differs(what, part='settings', severe=False):
    return Difference(part, what, 1, 2, severe)


# ---------------------------------------------------------------- what is over, what is expected

@pytest.mark.parametrize('at, n_epoch, over', [
    ({}, 4, False), ({'epoch': 3, 'where': 'epoch'}, 3, False), ({'epoch': 3, 'where': 'epoch'}, 4, False),
    ({'epoch': 3}, 3, True), ({'epoch': 4, 'where': 'epoch'}, 3, True), ({'epoch': 2}, 3, False),
    ({'done': True, 'where': 'epoch', 'epoch': 4}, 4, True), ({'done': True, 'where': 'epoch', 'epoch': 4}, 3, True),
    ({'done': True, 'where': 'epoch', 'epoch': 4}, 5, False), ({'done': True, 'where': 'epoch', 'epoch': 2}, 4, True)])
def test_a_fit_is_over_where_nothing_is_left_of_what_is_asked_for(at, n_epoch, over):
    """Done with as many epochs or more, or in a later one; and always where others came behind it."""
    cb = callback(n_epoch=n_epoch)
    assert cb._is_over({**AT, **at}, passed=False) == over and cb._is_over({**AT, **at}, passed=True)


@pytest.mark.parametrize('what, done, schedule, n_epoch, expected', [
    ('n_epoch', True, (), 5, True), ('n_epoch', True, (), 4, False), ('n_epoch', True, (), 3, False),
    ('n_epoch', False, (), 5, False), ('n_epoch', True, ('schedule of lr',), 5, False),
    ('n_epoch', True, ('lr', 'n_epoch'), 5, True), ('lr', True, (), 5, False)])
def test_more_epochs_of_a_fit_that_was_done_are_no_surprise(what, done, schedule, n_epoch, expected):
    """Where no schedule depends on their number: the bits are those of so many from the start."""
    found = callback(n_epoch=n_epoch, schedule=schedule)._is_expected(differs(what, 'schedule'), {**AT, 'done': done})
    assert found == expected


NEW = 'the new one counts from here on'
COUNTS = {
    ('settings', 'seed'): 'the random streams of the checkpoint go on, the new seed has no effect on this fit',
    ('settings', 'batch size of training'): 'the new one counts from here on, the position is kept by the number of '
                                            'items',
    ('settings', 'batch size of validation'): NEW, ('schedule', 'lr'): NEW, ('transforms', 'flip'): NEW,
    ('settings', 'number of processes'): 'the order of the data is the same; numbers are summed in another order, and '
                                         'what a process draws for itself, as for dropout, is drawn anew',
    ('data', 'data'): 'the data of now count from here on', ('model', 'model'): 'the weights of the checkpoint go into '
                                                                                'this model',
    ('loss', 'loss'): 'the loss of now counts from here on',
    ('optimizer', 'optimizer'): 'the optimizer of now counts and starts anew',
    ('environment', 'torch'): 'the training goes on with what is here, its bits may be others'}


@pytest.mark.parametrize('part, what', COUNTS)
def test_each_difference_is_told_with_what_counts(part, what, monkeypatch):
    """Of a fit that is over what it was done with, whatever is said now; but not where it is another run."""
    cb, over = callback(), 'that fit is done, and what it was done with counts'
    for severe in (False, True):
        assert cb._what_counts(differs(what, part, severe), over=False) == COUNTS[part, what]
        assert cb._what_counts(differs(what, part, severe), over=True) == (COUNTS[part, what] if severe else over)
    cb.learn.dls.train = SimpleNamespace(dataset='stream')
    monkeypatch.setattr(room, 'kind_of', lambda ds: {'stream': 'a library'}.get(ds))
    shared = COUNTS[part, what].replace('the order of the data is the same', 'a stream is shared out otherwise')
    assert cb._what_counts(differs(what, part), over=False) == shared


def test_what_differs_is_told_and_what_is_another_is_not_taken(tmp_path):
    """One warning each; of an optimizer or a loss that is another, its state is left out."""
    cb, path = callback(schedule=(), n_epoch=5), tmp_path / 'checkpoint-000001.pth'
    found = [differs('lr', 'schedule'), differs('n_epoch', 'schedule'), differs('x', 'optimizer', True),
             differs('y', 'loss', True), differs('z', 'loss'), differs('m', 'model', True)]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        without = cb._tell(path, {'position': {**AT, 'done': True}}, found, over=False)
    assert without == ('opt', 'loss_func')
    assert [str(one.message) for one in said] == [
        f'resuming from {path}: {what} was 1 and is 2; {counts}' for what, counts in (
            ('lr', NEW), ('x', COUNTS['optimizer', 'optimizer']), ('y', COUNTS['loss', 'loss']),
            ('z', COUNTS['loss', 'loss']), ('m', COUNTS['model', 'model']))]
    cb._then = {}
    with pytest.warns(UserWarning, match=f'{path} is of an earlier release .*nothing can be compared') as said:
        assert cb._tell(path, {'position': AT}, [], over=False) == () and len(said) == 1


def test_a_run_that_is_another_is_refused_by_its_first_difference(tmp_path):
    """And the ways out are named."""
    data = Difference('data', 'data', 1, 2, True, 'the pictures are others')
    found = [differs('a'), data, differs('c', 'model', True)]
    with pytest.raises(ValueError, match=f"{tmp_path / 'f'} is of another run: the pictures are others. Give .*"
                                         f"checkpoint=f'{tmp_path}/{{fold}}'.*resume='anyway'"):
        callback(tmp_path)._refuse(tmp_path / 'f', found)


@pytest.mark.parametrize('differ, done, here, fits_before, may', [
    (['data'], True, True, None, True), (['data', 'model'], True, True, None, False),
    (['data'], False, True, None, False), (['data'], True, False, None, False), (['data'], True, True, 'x', False),
    (['model'], True, True, None, False)])
def test_another_fold_of_this_process_begins_anew_in_the_same_folder(differ, done, here, fits_before, may, monkeypatch):
    """With other data and nothing else, behind a run that is complete, and with a learner that is new."""
    monkeypatch.setattr(room, '_runs_here', {'r'} if here else {'s'})
    cb = callback()
    cb._run['run'] = fits_before
    newest = {'position': {'done': done}, 'run': {'id': 'r'}}
    found = [*(differs('a', part, True) for part in differ), differs('lr', 'schedule')]
    assert cb._may_begin_anew(newest, found) == may


# ---------------------------------------------------------------- where it goes on

@pytest.mark.parametrize('then, now, n_iter, batch, loader_batch', [
    (8, 8, 8, 2, 4), (8, 4, 16, 4, 8), (8, 16, 4, 1, 2), (8, 3, 20, 5, 10), (None, 4, 8, 2, 4), (8, None, 8, 2, 4),
    (8, 8, 3, 2, 3), (8, 8, 1, 1, 1), (8, 2, 5, 5, 5)])
def test_a_fit_goes_on_behind_as_many_items(then, now, n_iter, batch, loader_batch):
    """Whatever the batches are now, and never behind the end of the epoch; the checkpoint is left as it was."""
    cb = callback(n_iter=n_iter, settings={'batch size of training': now}, then={'batch size of training': then})
    state = {'position': dict(AT)}
    assert cb._position_now(state) == {**AT, 'batch': batch, 'loader_batch': loader_batch} and state == {'position': AT}
    cb._then = {}
    assert cb._position_now(state)['batch'] == min(2, n_iter)


def test_a_stream_goes_on_where_it_was(monkeypatch):
    """It does not say how long it is."""
    cb = callback(settings={'batch size of training': 4}, then={'batch size of training': 8})
    monkeypatch.setattr(room, 'length_of', lambda dl: None)
    assert cb._position_now({'position': AT}) == {**AT, 'batch': 4, 'loader_batch': 8}


@pytest.mark.parametrize('state', [None, [], {}, {'position': 3}, *(
    {'position': {k: v for k, v in AT.items() if k != name}}
    for name in ('phase', 'where', 'epoch', 'batch', 'done', 'n_epoch', 'n_iter'))])
def test_a_file_of_another_kind_is_told(state):
    """With the call for it."""
    with pytest.raises(ValueError, match='a/b.pth is no checkpoint of a training: for weights alone .* learn.load'):
        room._position_of(Path('a/b.pth'), state)
    assert room._position_of(Path('a'), {'position': AT}) is AT


def test_channels_last_is_seen_at_any_of_the_weights_of_pictures():
    """A shape that is the same in both orders says nothing."""
    last = torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last)
    plain, either = torch.ones(2, 3, 4, 4), torch.ones(2, 3, 1, 1)
    assert room._channels_last({'a': plain, 'b': last, 'c': torch.ones(3)})
    for state in ({'a': plain, 'b': either, 'c': torch.ones(3), 'd': 3}, {}):
        assert not room._channels_last(state)


# ---------------------------------------------------------------- which file

def checkpoints(folder, *contents):
    """Files that hold these, or damage where one is None."""
    folder.mkdir(exist_ok=True)
    for n, content in enumerate(contents, 1):
        path = folder / f'checkpoint-{n:06d}.pth'
        path.write_bytes(b'x') if content is None else write_atomic(path, content)
    return folder


def test_the_newest_checkpoint_that_is_whole_is_taken(tmp_path):
    """What is damaged is named in a warning; where nothing is whole it is an error, and none is none."""
    assert newest_checkpoint(checkpoints(tmp_path / 'a')) is None
    path, state = newest_checkpoint(checkpoints(tmp_path / 'b', {'n': 1}, {'n': 2}))
    assert (path.name, state['n']) == ('checkpoint-000002.pth', 2)
    with pytest.warns(UserWarning, match='passed over: .*checkpoint-000003.pth') as said:
        path, state = newest_checkpoint(checkpoints(tmp_path / 'c', {'n': 1}, {'n': 2}, None))
    assert state['n'] == 2 and len(said) == 1 and said[0].filename == __file__
    with pytest.warns(UserWarning, match='passed over'), pytest.raises(
            DamagedFileError, match=f'none of the 2 checkpoints in {tmp_path / "d"} is whole: to start from scratch'):
        newest_checkpoint(checkpoints(tmp_path / 'd', None, None))
    assert room._newest(tmp_path / 'b', {tmp_path / 'b' / 'checkpoint-000002.pth'})[1]['n'] == 1


def test_of_an_earlier_fit_a_file_that_is_whole_is_found_without_a_list(tmp_path):
    """The newest of that fit; damaged ones and those that lack tensors are passed over; none where there is none."""
    def of(fit):
        return {'position': {**AT, 'phase': fit}}
    checkpoints(tmp_path, of(0), of(0), None, of(0), of(1))
    cb, newest = callback(tmp_path), tmp_path / 'checkpoint-000005.pth'
    cb._broken = {tmp_path / 'checkpoint-000004.pth'}
    with pytest.warns(UserWarning, match='passed over: .*checkpoint-000003.pth') as said:
        path, state = cb._at_this_fit(newest, of(1))
    assert path.name == 'checkpoint-000002.pth' and state['position']['phase'] == 0 and len(said) == 1
    cb._run['fits'] = 1
    assert cb._at_this_fit(newest, of(1)) == (newest, of(1)) and cb._at_this_fit(newest, of(0)) == (newest, of(0))
    cb._run['fits'] = 0
    checkpoints(tmp_path / 'e', of(2))
    assert cb._at_this_fit(tmp_path / 'e' / 'checkpoint-000001.pth', of(2)) is None


# ---------------------------------------------------------------- in a fit

class Stop(Callback):
    """Ends the process, as far as one can in a test, at a step."""

    not_carried = ('left',)

    def __init__(self, at):
        self.left = at

    def after_step(self):
        self.left -= 1
        if not self.left:
            raise ZeroDivisionError


def fit(folder, n_epoch=2, stop=None, every=1, seen=None, cbs=(), **kwargs):
    """A learner and what was said in a fit of four steps an epoch, which is stopped behind a step."""
    learn = learner(lr=.01)
    if stop is not None:
        cbs = [*cbs, Stop(stop)]
    torch.manual_seed(5)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        try:
            learn.fit(n_epoch, cbs=[*cbs, CheckpointCallback(folder, every=every)], resume=True, **kwargs)
        except ZeroDivisionError:
            pass
    return learn, [str(one.message) for one in said]


@pytest.mark.parametrize('hyper, then, now', [('lr', .01, 1.), ('wd', .1, .5)])
@pytest.mark.parametrize('stop', [2, 5])
def test_what_the_script_says_otherwise_counts_and_the_rest_goes_on(tmp_path, hyper, then, now, stop):
    """The rate of now with the decay that a callback left, and the other way round."""
    class Halved(Callback):
        def after_step(self):
            for group in self.opt.hypers:
                group[other] = .125
    other = 'wd' if hyper == 'lr' else 'lr'
    fit(tmp_path, stop=stop, cbs=[Halved()], **{hyper: then})
    learn, said = fit(tmp_path, stop=1, **{hyper: now})
    assert [group[hyper] for group in learn.opt.hypers] == [now] and learn.opt.hypers[0][other] == .125
    assert len(said) == 1 and f'{hyper} was {then} and is {now}; {NEW}' in said[0]


def test_a_fit_with_another_number_of_epochs_goes_on_at_its_own_share(tmp_path):
    """Schedules go by the share of the fit that is done: of more epochs it is less."""
    seen = []

    class See(Callback):
        def before_batch(self):
            if self.training:
                seen.append(self.pct_train)
    fit(tmp_path, n_epoch=2, stop=7)
    fit(tmp_path, n_epoch=4, cbs=[See()])
    assert seen[0] == pytest.approx((1 + 2 / 4) / 4) and len(seen) == 10
    assert all(a < b for a, b in zip(seen, seen[1:])) and seen[-1] == pytest.approx(15 / 16)


def test_a_fit_that_is_done_is_passed_over_and_leaves_the_learner_as_it_was(tmp_path, capsys):
    """Its weights, its row and its counts; that fewer epochs are asked for now is told."""
    done, said = fit(tmp_path)
    out = capsys.readouterr().out
    assert f'no checkpoint in {tmp_path}: training starts from scratch' in out and said == []
    before = sorted(tmp_path.iterdir())
    for n_epoch, fewer in ((2, ''), (1, '. 1 epochs are asked for now')):
        again, said = fit(tmp_path, n_epoch)
        assert same(weights(again), weights(done)) and (again.epoch, again.n_epoch) == (1, 2)
        assert again.recorder.values == done.recorder.values and again.final_record == done.final_record
        row = ', '.join(f'{name} {value:.6g}' for name, value in zip(('train_loss', 'valid_loss'), done.final_record))
        out = capsys.readouterr().out
        assert (f'resumed from {newest_checkpoint(tmp_path)[0]}: this fit was finished: 2 of 2 epochs{fewer}; nothing '
                f'to do; its last row: epoch 1, {row}\n') in out
        assert (again.training, again.model.training, again.fitting) == (False, False, False)
        assert len(said) == (n_epoch == 1) and all('that fit is done' in one for one in said)
    assert sorted(tmp_path.iterdir()) == before


def test_fits_are_counted_as_they_are_passed_over(tmp_path):
    """The second fit of a script that is run again goes on in the second."""
    def script(stop=None):
        learn = learner(lr=.01)
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            for cbs in ([], [Stop(stop)] if stop else []):
                learn.fit(1, cbs=cbs, checkpoint=tmp_path, resume=True)
        return learn
    with pytest.raises(ZeroDivisionError):
        script(stop=3)
    learn = script()
    whole = learner(lr=.01)
    whole.fit(1), whole.fit(1)
    assert same(weights(learn), weights(whole))
    assert learn.checkpoint_runs[str(tmp_path.resolve())]['fits'] == 2


def test_a_run_that_was_moved_aside_is_gone_on_with(tmp_path, capsys):
    """By the learner whose run it is, whatever came behind it; the other one goes aside."""
    one, _ = fit(tmp_path, stop=3)
    other = learner(bs=8, lr=.01, loss_func=torch.nn.CrossEntropyLoss(label_smoothing=.5))
    with pytest.warns(UserWarning, match='earlier-001'):
        other.fit(1, cbs=CheckpointCallback(tmp_path, every=1))
    capsys.readouterr()
    again, said = fit(tmp_path)
    out = capsys.readouterr().out
    assert said == [] and f'{tmp_path} has held several runs: this fit goes on with the one of earlier-001' in out
    whole = learner(lr=.01)
    whole.fit(2)
    assert same(weights(again), weights(whole)) and (tmp_path / 'earlier-002').is_dir()


def test_what_says_nothing_of_its_run_is_an_error(tmp_path):
    """With the file, whatever is missing of it."""
    fit(tmp_path, stop=2)
    path, state = newest_checkpoint(tmp_path)
    kept = json.loads(state['run']['identity'])
    for change in ({'identity': '{'}, {'identity': '{}'}, {'identity': json.dumps({**kept, 'data': 3})},
                   {'items': None}):
        run = {k: v for k, v in {**state['run'], **change}.items() if v is not None}
        write_atomic(path, {**state, 'run': run})
        with pytest.raises(ValueError, match=f'{path} does not say which run it is of, as checkpoints do: '):
            fit(tmp_path)
    assert read_tensors(path)['position'] == state['position']


def test_a_schedule_and_more_epochs_are_told(tmp_path):
    """A fit with a schedule is another one over more epochs."""
    fit(tmp_path, 1, cbs=[ParamScheduler({'lr': SchedLin(.1, .2)})])
    learn, said = fit(tmp_path, 2, cbs=[ParamScheduler({'lr': SchedLin(.1, .2)})])
    assert len(said) == 1 and 'n_epoch was 1 and is 2' in said[0] and len(learn.recorder.values) == 2
    learn, said = fit(tmp_path / 'plain', 1)
    assert fit(tmp_path / 'plain', 2)[1] == []


def test_a_callback_that_only_writes_looks_for_nothing(tmp_path):
    """The first callback decides; the second one writes the same run into its own folder."""
    one, two = CheckpointCallback(tmp_path / 'a', every=1), CheckpointCallback(tmp_path / 'b', every=1)
    learn = learner(lr=.01)
    with pytest.raises(ZeroDivisionError):
        learn.fit(1, cbs=[one, two, Stop(2)])
    runs = [newest_checkpoint(tmp_path / name)[1]['run']['id'] for name in 'ab']
    again = [CheckpointCallback(tmp_path / name, every=1) for name in 'ab']
    learn = learner(lr=.01)
    learn.fit(1, cbs=again, resume=True)
    assert {newest_checkpoint(tmp_path / name)[1]['run']['id'] for name in 'ab'} == {runs[0]}
    assert RunFolder(tmp_path / 'a').files_of(runs[0])
