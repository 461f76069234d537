"""When a checkpoint is written, by whom, and what a storage or a signal does to it: asked of the callback itself."""
from __future__ import annotations

import os
import signal
import threading
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from small_learner import learner, same

from minifast.callback import checkpoint as room
from minifast.callback.checkpoint import CheckpointCallback, _Signals, _Writer, checkpoints_in, fit_was_done
from minifast.callback.core import Callback
from minifast.data.load import DataLoader
from minifast.distributed import CHECKPOINT, LEAVING
from minifast.run.folder import RunFolder
from minifast.tensorfile import read_tensors


class Ranks:
    """What a callback sees of the other processes."""

    def __init__(self, wished=0, between=True):
        self.wished, self.is_between_steps, self.wishes, self.rank, self.n_ranks = wished, between, [], 1, 2

    def check_same(self, facts):
        self.facts = facts

    def from_first(self, make):
        return make()


def keeper(tmp_path, ranks=None, training=True, **kwargs):
    """A callback in the middle of a fit, and what it wrote: positions, answers."""
    cb = CheckpointCallback(tmp_path, **kwargs)
    cb._active = cb._proven = True
    cb._last_s = 0.
    cb.learn, done = SimpleNamespace(ranks=ranks, training=training, train_iter=1, iter=0, n_iter=9, epoch=3,
                                     dl=SimpleNamespace(num_workers=0), dls=SimpleNamespace(train=range(9))), []
    cb._write = lambda position, must=False, random_states=None: done.append(
        (position['where'], position['epoch'], position['batch'], position['done']))
    cb._position = lambda where, epoch, batch=0, done=False: {'where': where, 'epoch': epoch, 'batch': batch,
                                                              'done': done}
    cb._answer_signal = lambda: done.append('answered')
    return cb, done


# ---------------------------------------------------------------- when

def test_a_checkpoint_is_written_every_so_many_steps_of_the_training(tmp_path):
    """Behind the batch that makes them full; a validation has no steps, but what is due is written there."""
    cb, done = keeper(tmp_path, every=3)
    for i in range(1, 8):
        cb.learn.train_iter, cb.learn.iter = i, i - 1
        cb.after_batch()
    assert done == [('train', 3, 3, False), 'answered', ('train', 3, 6, False), 'answered']
    cb.learn.training, cb.learn.train_iter = False, 9
    cb.after_batch()
    assert len(done) == 4
    cb._active, cb.learn.training = False, True
    cb.after_batch()
    assert len(done) == 4
    cb, done = keeper(tmp_path)
    cb.learn.train_iter = 0
    cb.after_batch()
    cb.after_epoch()
    assert done == [('epoch', 4, 0, False), 'answered']


@pytest.mark.parametrize('training, where', [(True, ('train', 3, 1, False)), (False, ('validate', 3, 9, False))])
def test_a_signal_is_answered_behind_the_batch_that_runs(tmp_path, training, where):
    """In a validation too, which is begun anew; of several processes nobody leaves the others in a validation."""
    cb, done = keeper(tmp_path, training=training)
    cb._signals.pending = signal.SIGTERM
    cb.after_batch()
    assert done == [where, 'answered']
    cb, done = keeper(tmp_path, Ranks(LEAVING), training=training)
    cb.after_batch()
    assert done == ([where, 'answered'] if training else [])


def test_of_several_processes_what_is_due_waits_for_the_step(tmp_path):
    """While gradients are not sent they have no place in a checkpoint; it is not forgotten."""
    ranks = Ranks(between=False)
    cb, done = keeper(tmp_path, ranks, every=2)
    cb.learn.train_iter = 2
    cb.after_batch()
    assert not done
    ranks.is_between_steps, cb.learn.train_iter, cb.learn.iter = True, 3, 2
    cb.after_batch()
    cb.after_batch()
    assert done == [('train', 3, 3, False), 'answered']


def test_minutes_count_from_the_last_checkpoint_and_in_trainings(tmp_path, monkeypatch):
    """More than so many; without them only signals wish anything, and nothing outside of a fit."""
    now = [0.]
    monkeypatch.setattr(room.time, 'monotonic', lambda: now[0])
    cb, done = keeper(tmp_path, every=None, minutes=2)
    found = []
    for now[0] in (119., 120., 121.):
        found.append(cb._wishes())
    assert found == [0, 0, CHECKPOINT] and cb._is_wished() == CHECKPOINT
    cb.after_batch()
    assert done == [('train', 3, 1, False), 'answered']
    cb.learn.training = False
    assert cb._wishes() == 0
    cb._signals.pending = signal.SIGINT
    assert cb._wishes() == LEAVING
    cb._active = False
    assert cb._wishes() == 0
    cb._active, cb.learn.ranks = True, Ranks(CHECKPOINT)
    assert cb._is_wished() == CHECKPOINT  # as all have heard it
    cb, _ = keeper(tmp_path, every=5)
    assert cb._wishes() == 0


def test_between_two_batches_of_workers_the_edge_is_kept(tmp_path, monkeypatch):
    """The global generators, and those of loaders where they hold any; not behind the last batch, nor where batches are
    made here, nor by one of several processes."""
    monkeypatch.setattr(room, 'get_random_states', lambda: 'global')
    cb, _ = keeper(tmp_path)
    cb._generators = lambda: 'all'

    def waiting(hidden=False, ranks=None, iter_=0, **dl):
        cb._hidden_loaders, cb.learn.dl, cb.learn.ranks, cb.learn.iter = hidden, SimpleNamespace(**dl), ranks, iter_
        cb._waiting = None
        cb.after_batch()
        return cb._waiting
    assert waiting(num_workers=2) == 'global' and waiting(True, num_workers=1) == 'all'
    assert waiting(num_workers=0) is None and waiting() is None and waiting(ranks=Ranks(), num_workers=2) is None
    assert waiting(iter_=7, num_workers=2) == 'global' and waiting(iter_=8, num_workers=2) is None
    cb._waiting = 1
    cb.before_batch()
    assert cb._waiting is None


@pytest.mark.parametrize('found, hidden', [
    ([], False), ([[1]], False), ([{}], False), ([{'order': []}], False), ([{'order': [{'data': 1}]}], False),
    ([[1], {'asked': 1}, {'order': [{}, {'generators': [1]}]}], True), ([{'batches': {'generators': [1]}}], False)])
def test_loaders_are_looked_through_for_generators_of_their_order(tmp_path, found, hidden):
    """Lists are what earlier releases kept of them."""
    cb, _ = keeper(tmp_path)
    cb._epoch_generators = {'loaders': found}
    cb._find_hidden_loaders()
    assert cb._hidden_loaders is hidden


# ---------------------------------------------------------------- what is written

def test_the_state_of_one_process_is_its_own_and_that_of_several_is_put_together(tmp_path, monkeypatch):
    """The first one adds which run it is of, and writes; the others have nothing to write."""
    learn = learner()
    learn.create_opt()
    learn.n_epoch, learn.train_iter, told = 2, 0, []
    monkeypatch.setattr(room, 'together', lambda learn, state: told.append(state) or (
        dict(state, ranks=[]) if len(told) < 2 else None))
    cb = CheckpointCallback(tmp_path)
    cb.learn, cb._run_part, cb._epoch_generators, cb._written_at = learn, {'id': 'x'}, {'of': 1}, None
    cb._before_validation, written = {'hidden': 'before'}, []
    cb._writer = SimpleNamespace(next_file=lambda: f'file {len(written)}', finish=lambda: True,
                                 write=lambda *args: written.append(args))
    at = cb._position('train', 1, 2)
    assert at == {'where': 'train', 'epoch': 1, 'batch': 2, 'done': False, 'phase': 0, 'loader_batch': 2, 'n_epoch': 2,
                  'n_iter': 4}
    cb._write(at)
    (file, state, must), = written
    assert (file, must) == ('file 0', False) and 'ranks' not in state and not told
    assert state['position'] == at and state['run'] == {'id': 'x', 'training': True}
    assert state['epoch_generators'] == {'of': 1} and state['hidden'] == {}
    cb._write(at)
    assert len(written) == 1  # there is nothing new
    learn.model.eval()
    cb._write(cb._position('validate', 1), must=True)
    assert written[1][2] is True and written[1][1]['hidden'] == 'before' and written[1][1]['run']['training'] is False
    learn.ranks = Ranks()
    cb._write(cb._position('epoch', 2))
    assert written[2][1]['ranks'] == [] and len(told) == 1
    cb._write(cb._position('epoch', 2, done=True))
    assert len(written) == 3 and len(told) == 2
    cb._written_at, learn.ranks.from_first = None, lambda make: None  # its storage has failed
    cb._write(cb._position('epoch', 2))
    assert len(told) == 2 and cb._written_at is None


def test_a_position_of_our_loader_counts_the_batches_that_it_has_passed(tmp_path):
    """Those too that were left out because no item of them could be read."""
    learn = learner()
    learn.n_epoch, cb = 1, CheckpointCallback(tmp_path)
    cb.learn, learn.dl = learn, DataLoader(range(8), 2, num_workers=0)
    learn.dl.begin(1, 0)
    assert len([next(it) for it in [iter(learn.dl)] for _ in range(3)]) == 3
    assert cb._position('train', 0, 2)['loader_batch'] == 3 and cb._position('validate', 0, 2)['loader_batch'] == 2
    cb._run['fits'] = 4
    assert cb._key(cb._position('train', 5, 6, True)) == (4, 'train', 5, 6, True)


def test_the_generators_of_an_edge_are_written_in_the_place_of_those_of_now(tmp_path):
    """The global ones, or all with the loaders', as they were kept."""
    learn = learner()
    learn.create_opt()
    learn.n_epoch, learn.train_iter, written = 1, 0, []
    cb = CheckpointCallback(tmp_path)
    cb.learn, cb._run_part, cb._epoch_generators, cb._written_at = learn, {}, None, None
    cb._writer = SimpleNamespace(next_file=lambda: 'file', finish=lambda: True,
                                 write=lambda *args: written.append(args[1]))
    edge, all_ = room.get_random_states(), cb._generators()
    torch.rand(1)
    for batch, given in enumerate((None, edge, all_)):
        cb._write(cb._position('train', 0, batch), random_states=given)
    now, *kept = (state['generators'] for state in written)
    assert same(kept[0]['global']['torch_state'], all_['global']['torch_state']) and kept[1] is all_
    assert not same(now['global']['torch_state'], all_['global']['torch_state'])
    assert [sorted(state) for state in (now, *kept)] == [['global', 'loaders']] * 3


@pytest.mark.parametrize('must', [False, True])
@pytest.mark.parametrize('rank', [0, 1])
def test_a_file_comes_behind_the_parts_of_all_processes(tmp_path, monkeypatch, must, rank):
    """Where they failed there is none: that is told once, or an error where it must be there."""
    monkeypatch.setattr(room, 'rank_distrib', lambda: rank)
    cb, written = CheckpointCallback(tmp_path), []
    cb._writer = SimpleNamespace(write=lambda *args: written.append(args)) if rank == 0 else None
    state = {'n': 1} if rank == 0 else None
    cb._finish_shares()
    cb._written_at = 'key'
    cb._pending = SimpleNamespace(result=lambda: None), 'file', state, must
    cb._finish_shares()
    assert written == ([('file', {'n': 1, 'in_shares': True}, must)] if rank == 0 else [])
    assert cb._pending is None and cb._written_at == 'key'

    def fails():
        raise OSError('no room')
    cb._pending = SimpleNamespace(result=fails), 'file', state, must
    if must:
        with pytest.raises(OSError, match='^no room$'):
            cb._finish_shares()
    else:
        with pytest.warns(UserWarning, match='^no checkpoint: no room. The training goes on$') if rank == 0 else \
                nullcontext():
            cb._finish_shares()
        assert cb._written_at is None
    assert len(written) == (rank == 0) and cb._pending is None


def test_checkpoints_are_numbered_and_written_here_or_behind(tmp_path, monkeypatch):
    """Behind, what is written is a copy; a failing storage is told or, where it must be, an error."""
    folder = RunFolder(tmp_path)
    folder.take()
    names, threads, own_write = [], [], room.write_atomic
    monkeypatch.setattr(room, 'write_atomic', lambda file, state: threads.append(threading.current_thread().name) or
                        own_write(file, state))
    for background in (False, True):
        writer, x = _Writer(folder, 9, background), torch.zeros(1)
        for must in (False, True):
            names.append(writer.next_file())
            writer.write(names[-1], {'position': {'phase': 0}, 'x': x}, must)
            assert writer.finish()
            x += 1
        writer.close()
        if background:
            with pytest.raises(RuntimeError, match='shutdown'):
                writer.write(writer.next_file(), {'position': {'phase': 0}})
    assert [path.name for path in names] == [f'checkpoint-{i:06d}.pth' for i in (2, 3, 5, 6)]
    assert [read_tensors(path)['x'].item() for path in names] == [0, 1, 0, 1]
    main = threading.current_thread().name
    assert [name.split('_')[0] for name in threads] == [main, main, 'checkpoint', main]

    def fails(file, state):
        raise OSError('no room')
    monkeypatch.setattr(room, 'write_atomic', fails)
    for background in (False, True):
        writer = _Writer(folder, 1, background)
        writer.write(writer.next_file(), {'position': {'phase': 0}})
        with pytest.warns(UserWarning, match='^no checkpoint: no room. The training goes on$'):
            assert not writer.finish()
        assert writer.finish()
        with pytest.raises(OSError, match='no room'):
            writer.write(writer.next_file(), {'position': {'phase': 0}}, True)
        writer._pending = None
        writer.close()
    folder.release()


def test_a_checkpoint_that_was_not_written_is_written_again(tmp_path):
    """Where the one before has failed, the position is no reason to leave it out."""
    cb = CheckpointCallback(tmp_path)
    for there, wanted in ((True, 'key'), (False, None)):
        cb._written_at, cb._writer = 'key', SimpleNamespace(finish=lambda there=there: there)
        cb._finish_writing()
        assert cb._written_at == wanted
    cb._writer = None
    cb._finish_writing()


# ---------------------------------------------------------------- signals

def test_of_several_processes_the_one_that_was_told_leaves_behind_the_others(tmp_path, monkeypatch, capsys):
    """All wait until what the first writes is written; one that heard no signal goes on to hear of it."""
    met = []
    monkeypatch.setattr(room, 'barrier', lambda: met.append('met'))
    for ranks, pending, told in ((Ranks(LEAVING), signal.SIGTERM, ['written', 'met', 'left']),
                                 (Ranks(LEAVING), None, ['written', 'met']), (Ranks(CHECKPOINT), signal.SIGTERM, []),
                                 (None, signal.SIGTERM, ['written', 'left']), (None, None, [])):
        cb = CheckpointCallback(tmp_path)
        met.clear()
        cb._active, cb._signals.pending, cb.learn = True, pending, SimpleNamespace(ranks=ranks, training=False)
        cb._finish_writing, cb._signals.leave = lambda: met.append('written'), lambda: met.append('left')
        cb._answer_signal()
        assert met == told
        assert ('stopped by a signal; the checkpoint is in' in capsys.readouterr().out) is ('left' in told)


def test_a_signal_while_nobody_waits_only_stands(tmp_path):
    """Else the batch edge that it came behind is written and it is answered there."""
    cb, done = keeper(tmp_path)
    cb._write_here = lambda states: done.append(states)
    cb._signal_came()
    assert not done
    cb._waiting = 'edge'
    cb._signal_came()
    assert done == ['edge', 'answered']


def test_signals_are_taken_from_whoever_had_them_and_given_back(monkeypatch):
    """A first one stands, a second one acts at once; the users's handler decides, and without one the process ends."""
    came, told = [], []
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]

    def mine(signum, frame):
        told.append((signum, frame))
    signals = _Signals(lambda: came.append(signals.pending))
    try:
        signal.signal(signal.SIGINT, mine)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signals.take()
        os.kill(os.getpid(), signal.SIGINT)
        assert came == [signal.SIGINT] and not told and signals.pending == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)
        assert told == [(signal.SIGINT, None)] and signals.pending is None and not signals.give_back()
        assert signal.getsignal(signal.SIGINT) is mine and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        signals.take()
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.give_back()  # nobody has answered it
        with pytest.raises(SystemExit) as left:
            signals.leave()
        assert left.value.code == 128 + signal.SIGTERM and not signals.give_back()
        signals.take()
        assert signals.pending is None
        signals.give_back()
    finally:
        signal.signal(signal.SIGINT, before[0]), signal.signal(signal.SIGTERM, before[1])


# ---------------------------------------------------------------- beginning and ending

@pytest.mark.parametrize('kwargs, says', [
    ({'every': 0}, 'every=0: give a number of steps'), ({'every': -1}, 'every=-1'),
    ({'every': 'batch'}, "every='batch'"), ({'every': 1.5}, 'every=1.5'), ({'keep': 0}, 'keep=0: at least one'),
    ({'every': 1, 'keep': 1}, None),
    ({'every': None, 'minutes': 1}, None)])
def test_settings_that_make_no_sense_are_refused(tmp_path, kwargs, says):
    """Before anything is written."""
    with pytest.raises(ValueError, match=says) if says else nullcontext():
        CheckpointCallback(tmp_path, **kwargs)


def test_a_fit_asks_its_callbacks_whether_it_was_done(tmp_path):
    """The first decides where it goes on, the others write; a search for a learning rate asks none."""
    learn, asked = SimpleNamespace(ranks=Ranks(), searching=False, cbs=[]), []
    for resume in ('yes', 3, 'True'):
        with pytest.raises(ValueError, match=f"^resume={resume!r}: give True, False, or 'anyway'"):
            fit_was_done(learn, resume)
    for resume in (True, 'anyway'):
        with pytest.raises(ValueError, match='^resume=True needs to know where'):
            fit_was_done(learn, resume)
    assert not fit_was_done(learn, False) and not fit_was_done(learn, None)

    class Asked(CheckpointCallback):
        def begin(self, resume, asked_, of_fit, first=None):
            asked.append((resume, asked_, of_fit, first))
            return self.done
    one, two = Asked(tmp_path / 'a'), Asked(tmp_path / 'b')
    learn.cbs = [Callback(), one, two]
    for one.done, two.done in ((False, False), (True, False), (False, True)):
        assert fit_was_done(learn, True, ['of fit'], n_epoch=3) is (one.done or two.done)
    assert asked[:2] == [(True, {'n_epoch': 3}, ['of fit'], None), (True, {'n_epoch': 3}, ['of fit'], one)]
    assert learn.ranks.facts == {'number of CheckpointCallbacks, of which the first process writes,': 2}
    assert len(asked) == 6
    learn.searching = True
    assert not fit_was_done(learn, True) and len(asked) == 6


def test_a_fit_leaves_the_callback_as_it_was(tmp_path):
    """Its wishes are no more asked for, the folder is free, and what it knew of the fit is gone."""
    learn, cb = learner(), CheckpointCallback(tmp_path, every=3)
    seen = []
    learn.fit(1, lr=.1, cbs=[cb, Callback(after_epoch=lambda self: seen.append((cb._active, cb._writer is not None)))])
    assert seen == [(True, True)]
    assert (cb._active, cb._identity, cb._writer, cb._found, cb._resumed, cb._waiting, cb._pending) == (
        False, *[None] * 6)
    steps = [read_tensors(path)['position'] for path in checkpoints_in(tmp_path)]
    assert [(at['where'], at['epoch'], at['batch'], at['done']) for at in steps] == [
        ('epoch', 1, 0, True), ('train', 0, 3, False), ('epoch', 0, 0, False)]
    folder = RunFolder(tmp_path)
    folder.take(), folder.release()
    run, = learn.checkpoint_runs.values()
    assert (run['fits'], run['broken_off']) == (1, False)

    class Breaks(Callback):
        def after_step(self):
            raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError):
        learn.fit(1, lr=.1, cbs=[cb, Breaks()])
    assert (run['fits'], run['broken_off']) == (1, True) and not cb._active


def test_a_validation_remembers_how_it_began(tmp_path):
    """Weights, optimizer and gradients do not change in it; the rest is that of its beginning in what is written."""
    learn, cb = learner(), CheckpointCallback(tmp_path)
    seen = []
    learn.fit(1, lr=.1, cbs=[cb, Callback(after_validate=lambda self: seen.append(dict(cb._before_validation)))])
    parts = {'fit_seed', 'train_iter', 'generators', 'epoch_generators', 'hidden', 'callbacks', 'loss_func', 'loaders'}
    assert parts < seen[0].keys() and not {'position', 'model', 'grads', 'opt'} & seen[0].keys()
    cb, done = keeper(tmp_path, Ranks(LEAVING))
    cb._resumed, cb._epoch_generators = None, None
    own, room.training_state = room.training_state, lambda *args: {'position': 1, 'x': 2}
    try:
        cb.before_validate()
        assert cb._before_validation == {'x': 2} and done == [('validate', 3, 9, False), 'answered']
        cb.learn.ranks.wished = 0
        cb.before_validate()
        cb.learn.ranks = None
        cb.before_validate()
        assert len(done) == 2
    finally:
        room.training_state = own


def test_epochs_count_as_done_behind_their_last_part(tmp_path):
    """Behind the validation; behind the training where there is none."""
    cb, done = keeper(tmp_path)
    cb._done_epochs, cb.learn.epoch = 0, 3
    cb.learn.dls = [1, 2]
    cb.after_train()
    assert cb._done_epochs == 0
    cb.after_validate()
    assert cb._done_epochs == 4
    cb._done_epochs, cb.learn.dls = 0, [1]
    cb.after_train()
    assert cb._done_epochs == 4
    cb._active, cb._done_epochs = False, 0
    cb.after_train(), cb.after_validate(), cb.after_epoch(), cb.after_fit(), cb.before_validate(), cb.before_train()
    assert cb._done_epochs == 0 and not done


def test_the_first_process_alone_moves_into_the_folder(tmp_path, monkeypatch):
    """The others wish with it, and write nothing."""
    monkeypatch.setattr(room, 'rank_distrib', lambda: 1)
    learn, cb = learner(), CheckpointCallback(tmp_path)
    learn.ranks, learn.fitting, learn.n_epoch = Ranks(), True, 1
    learn.ranks.from_first = lambda make: None
    learn.ranks.prepare = lambda: None
    learn.create_opt()
    learn.add_cb(cb)
    cb.before_fit()
    assert cb._writer is None and learn.ranks.wishes == [cb._wishes] and not checkpoints_in(tmp_path)
    cb.cleanup_fit()
    assert learn.ranks.wishes == [] and not cb._active
    cb.cleanup_fit()


# ---------------------------------------------------------------- going on

def going_on(tmp_path, monkeypatch, dl, where='train', n_iter=4, then=None, stream=None):
    """A callback that goes on from a position in epoch 2, and what is put back in which order."""
    cb, done = CheckpointCallback(tmp_path), []
    at = {'where': where, 'epoch': 2, 'batch': 3, 'loader_batch': 5, 'n_iter': n_iter, 'phase': 0, 'done': False}
    state = {'position': at, 'epoch_generators': {'global': 1, 'loaders': [2]}, 'loaders': [{'at': 1}, None]}
    state |= {'stream': stream} if stream else {}
    cb.learn = SimpleNamespace(dl=dl, fit_seed=11, start_epoch=0, start_batch=9, dls=SimpleNamespace(train=range(4)),
                               opt=SimpleNamespace(hypers=[{'lr': 1, 'wd': 2, 'mom': 3}, {'lr': 4}]))
    cb._active, cb._resumed, cb._then = True, ('file', state), then or {}
    cb._epoch_generators = state['epoch_generators']
    cb._position_now = lambda state: state['position']
    cb._load = lambda again=False: done.append(('load', again))
    monkeypatch.setattr(room, 'put_back_generators', lambda *args: done.append(('put back', args[1] is state)))
    monkeypatch.setattr(room, 'set_generators', lambda *args: done.append(('set', args)))
    monkeypatch.setattr(room, 'baselines_of', lambda learn: {'of': learn})
    monkeypatch.setattr(room, 'begin_loader', lambda dl, i, states, baselines: done.append(
        ('begin loader', dl, i, states)) if baselines == {'of': cb.learn} else 1 / 0)
    return cb, done


class Own:
    """What is asked of a loader of ours."""

    def __init__(self, done):
        self.done = done

    def begin(self, *args):
        self.done.append(('begin', *args))

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        self.done.append(('state', state))


class Ordered(Own):
    """One that tells when its order is drawn."""

    def once_ordered(self, f):
        self.done.append('ordered')
        f()


@pytest.mark.parametrize('stream', [None, {'at': 4}])
@pytest.mark.parametrize('kind', [Own, Ordered])
def test_a_loader_of_ours_begins_at_its_batch(tmp_path, monkeypatch, kind, stream):
    """By the fit's seed; of a stream where it stood; what it draws from begins as the epoch's did."""
    told = []
    cb, done = going_on(tmp_path, monkeypatch, kind(told), stream=stream)
    dl = cb.learn.dl
    cb.before_train()
    where = [('state', {'seed': 11, 'epoch': 2, 'batch': 5, 'stream': stream})] if stream else []
    assert told == [('begin', 11, 2, 5), *where, *(['ordered'] if kind is Ordered else [])]
    assert done == [('load', True), *([('put back', True)] if kind is Ordered else []),
                    ('begin loader', dl, 0, {'global': 1, 'loaders': [2]})]
    assert cb.learn.dl is dl and cb._resumed is None


def test_a_loader_of_others_draws_its_batches_again(tmp_path, monkeypatch):
    """From how the epoch began, and then as the training was; one that says its state is told that."""
    class Plain(list):
        def load_state_dict(self, state):
            done.append(('state', state))
    cb, done = going_on(tmp_path, monkeypatch, Plain([1, 2, 3, 4]))
    dl = cb.learn.dl
    cb.before_train()
    assert list(cb.learn.dl) == [1, 2, 3, 4] and cb._resumed is None
    began = [('set', ({'global': 1, 'loaders': []},)), ('begin loader', dl, 0, {'global': 1, 'loaders': [2]})]
    assert done == [('load', True), *began, ('state', {'at': 1}), ('put back', True)]
    cb, done = going_on(tmp_path, monkeypatch, [1, 2, 3, 4])
    cb._resumed[1]['loaders'] = []
    cb.before_train()
    assert list(cb.learn.dl) == [4] and [what[0] for what in done] == ['load', 'set', 'begin loader', 'put back']


def test_behind_the_training_part_nothing_is_trained_again(tmp_path, monkeypatch):
    """The validation puts everything back when it begins."""
    cb, done = going_on(tmp_path, monkeypatch, [1, 2, 3], where='validate')
    cb.before_train()
    assert list(cb.learn.dl) == [] and not done and cb._resumed is not None
    monkeypatch.setattr(room, 'training_state', lambda *args: {})
    cb.learn.ranks = None
    cb.before_validate()
    assert done == [('load', True)] and cb._resumed is None


@pytest.mark.parametrize('where, batch', [('train', 3), ('validate', 0), ('epoch', 0)])
def test_a_fit_goes_on_at_its_epoch_and_batch(tmp_path, monkeypatch, capsys, where, batch):
    """It says so once, of several processes the first; rates as the script says them are kept to compare with."""
    for rank in (0, 1):
        monkeypatch.setattr(room, 'rank_distrib', lambda rank=rank: rank)
        cb, done = going_on(tmp_path, monkeypatch, [], where)
        cb._go_to_position()
        assert (cb.learn.start_epoch, cb.learn.start_batch, cb._done_epochs) == (2, batch, 2)
        assert done == [('load', False)]
        assert cb._written_at == (0, where, 2, 3, False) and (cb._resumed is None) is (where == 'epoch')
        assert cb._hypers == [{'lr': 1, 'wd': 2}, {'lr': 4}]
        assert capsys.readouterr().out == ('resumed from file: epoch 2, batch 3\n' if rank == 0 else '')
    cb, _ = going_on(tmp_path, monkeypatch, [], where, n_iter=7)
    with pytest.warns(UserWarning, match='^file was made with 7 batches an epoch, now there are 4: the training will'):
        cb._go_to_position()
    cb, _ = going_on(tmp_path, monkeypatch, [], where, n_iter=7, then={'settings': 1})
    cb._go_to_position()  # it is told what differs


def test_an_epoch_that_begins_notes_what_its_loaders_hold(tmp_path, monkeypatch):
    """Before its first batch is drawn, for whoever goes on within it."""
    cb, done = going_on(tmp_path, monkeypatch, [])
    cb._resumed, cb._generators = None, lambda: {'loaders': [{'order': [{'generators': [1]}]}]}
    cb.before_train()
    assert cb._epoch_generators == cb._generators() and cb._hidden_loaders and not done
    cb._active, cb._epoch_generators = False, None
    cb.before_train()
    assert cb._epoch_generators is None
