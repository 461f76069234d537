"""A signal that comes while a fit runs is never swallowed, and never taken from somebody who wants it."""
from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader as TorchLoader

from minifast.callback.checkpoint import CheckpointCallback, newest_checkpoint
from minifast.callback.core import Callback, CancelFitException
from minifast.seeds import get_random_states, set_seed
from minifast.training_state import storable_states
from tests.resume.training import DEFAULTS, Stream, differences, make_learner, outcome, run

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures('default_sigint')
SIGNALS = [signal.SIGINT, signal.SIGTERM]
ENDS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: SystemExit}


class Send(Callback):
    """Sends a signal to this process at the n-th call of a hook."""

    def __init__(self, event, signum, at=1, order=0):
        self.left, self.signum, self.order = at, signum, order
        setattr(self, event, self._send)

    def _send(self):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.signum)


class Stops(Callback):
    """Ends the fit early."""

    order = 63

    def after_epoch(self):
        if self.epoch == 0:
            raise CancelFitException


EVENTS = {'before_fit': 1, 'before_epoch': 3, 'before_train': 3, 'after_train': 3, 'before_validate': 3,
          'after_validate': 3, 'after_epoch': 3, 'after_fit': 1, 'after_cancel_fit': 1}


@pytest.fixture
def handlers():
    """The handlers before; they must be back afterwards."""
    before = [signal.getsignal(s) for s in SIGNALS]
    yield
    assert [signal.getsignal(s) for s in SIGNALS] == before


@pytest.mark.tally
@pytest.mark.parametrize('signum', SIGNALS)
@pytest.mark.parametrize('event, how', [(event, how) for how in ('whole', 'early stopping') for event in EVENTS if (
    event != 'before_fit' and (event, how) != ('after_cancel_fit', 'whole'))])
def test_a_signal_behind_the_last_batch_acts(event, signum, how, tmp_path, handlers):
    """In `after_fit`, in the last epoch's hooks, with early stopping: the signal has its effect, and the callbacks are
    off and the learner resumes."""
    learn = make_learner(DEFAULTS)
    early = how == 'early stopping'
    at = 1 if early else EVENTS[event]
    n_cbs = len(learn.cbs)
    set_seed(7)
    with pytest.raises(ENDS[signum]) as found:
        learn.fit(3, cbs=[CheckpointCallback(tmp_path), Send(event, signum, at), *([Stops()] if early else [])])
    assert len(learn.cbs) == n_cbs and getattr(found.value, 'code', 143) == 143
    assert newest_checkpoint(tmp_path) is not None
    if not early:
        resumed = run({'folder': str(tmp_path), 'resume': True, 'seed': 99, 'every': 'epoch'})
        assert not differences(outcome(resumed), outcome(run({})))


@pytest.mark.parametrize('signum', SIGNALS)
def test_a_fit_without_batches_or_epochs_answers_too(signum, tmp_path, handlers):
    """Nothing runs, and the signal is not lost: no epochs, or training batches that are all left out."""
    for n_epoch, event in ((0, 'after_fit'), (1, 'after_train')):
        learn = make_learner(DEFAULTS)
        learn.all_batches = lambda: None
        with pytest.raises(ENDS[signum]):
            learn.fit(n_epoch, cbs=[CheckpointCallback(tmp_path / event), Send(event, signum)])


@pytest.mark.parametrize('signum', SIGNALS)
def test_a_signal_during_the_first_and_the_last_write_acts(signum, tmp_path, handlers, monkeypatch):
    """While a checkpoint goes to the disk."""
    import minifast.callback.checkpoint as room
    write, calls = room.write_atomic, []

    def slow(path, state):
        calls.append(path)
        if len(calls) == at:
            os.kill(os.getpid(), signum)
        write(path, state)
    monkeypatch.setattr(room, 'write_atomic', slow)
    for at, background in ((1, False), (4, False), (4, True)):
        calls.clear()
        with pytest.raises(ENDS[signum]):
            cb = CheckpointCallback(tmp_path / f'{at} {background}', background=background)
            make_learner(DEFAULTS).fit(3, cbs=cb)
        assert len(calls) == at or at == 4


@pytest.mark.parametrize('signum', SIGNALS)
def test_an_ignored_signal_stays_ignored(signum, tmp_path):
    """As under nohup: the training ends by itself."""
    before = signal.signal(signum, signal.SIG_IGN)
    try:
        learn = make_learner(DEFAULTS)
        set_seed(7)
        learn.fit(3, cbs=[CheckpointCallback(tmp_path), Send('after_backward', signum, 4)])
        assert signal.getsignal(signum) == signal.SIG_IGN and len(learn.recorder.values) == 3
    finally:
        signal.signal(signum, before)


@pytest.mark.tally
def test_a_process_started_with_ignored_ctrl_c_trains_to_its_end(tmp_path):
    """By the shell's own means, `trap '' INT`, as nohup and background jobs have it."""
    code = ('import os, signal, sys; from tests.resume.training import run, DEFAULTS, make_learner, Kill; '
            'from minifast.callback.checkpoint import CheckpointCallback; learn = make_learner(DEFAULTS); '
            'learn.fit(2, cbs=[CheckpointCallback(sys.argv[1]), Kill(3, "after_backward", "int")]); '
            'print("epochs", len(learn.recorder.values), signal.getsignal(signal.SIGINT) == signal.SIG_IGN)')
    done = subprocess.run(['sh', '-c', 'trap "" INT; exec "$@"', 'sh', sys.executable, '-c', code, str(tmp_path)],
                          cwd=ROOT, capture_output=True, text=True)
    assert 'epochs 2 True' in done.stdout, done.stderr


@pytest.mark.parametrize('signum', SIGNALS)
@pytest.mark.parametrize('event', ['after_backward', 'after_fit'])
def test_a_handler_of_the_users_is_called_and_decides(signum, event, tmp_path):
    """One that returns lets the training go on; one that raises ends it; afterwards it is in its place."""
    calls = []

    def notes(number, frame):
        calls.append(number)

    def raises(number, frame):
        raise ZeroDivisionError
    for handler in (notes, raises):
        before = signal.signal(signum, handler)
        try:
            learn = make_learner(DEFAULTS)
            cbs = [CheckpointCallback(tmp_path / handler.__name__), Send(event, signum, 1)]
            if handler is raises:
                with pytest.raises(ZeroDivisionError):
                    learn.fit(2, cbs=cbs)
            else:
                learn.fit(2, cbs=cbs)
                assert calls == [signum] and len(learn.recorder.values) == 2
            assert signal.getsignal(signum) is handler
        finally:
            signal.signal(signum, before)


def test_a_handler_that_python_did_not_install_survives(tmp_path, monkeypatch):
    """`getsignal` says None of it, and None cannot be put back: it is not replaced."""
    set_to = []
    monkeypatch.setattr(signal, 'getsignal', lambda signum: None)
    monkeypatch.setattr(signal, 'signal', lambda *args: set_to.append(args))
    make_learner(DEFAULTS).fit(1, cbs=CheckpointCallback(tmp_path))
    assert set_to == []


def test_a_handler_that_is_set_while_the_fit_runs_stays(tmp_path):
    """What somebody set meanwhile is theirs."""
    def mine(number, frame):
        """Nothing."""

    class Sets(Callback):
        def before_train(self):
            signal.signal(signal.SIGTERM, mine)
    before = signal.getsignal(signal.SIGTERM)
    try:
        make_learner(DEFAULTS).fit(1, cbs=[CheckpointCallback(tmp_path), Sets()])
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_outside_the_main_thread_nothing_is_taken(tmp_path, handlers):
    """Python would refuse it; the training runs all the same."""
    before, seen, failed = [signal.getsignal(s) for s in SIGNALS], [], []

    class Looks(Callback):
        def after_step(self):
            seen.append([signal.getsignal(s) for s in SIGNALS] == before)

    def train():
        try:
            make_learner(DEFAULTS).fit(1, cbs=[CheckpointCallback(tmp_path), Looks()])
        except BaseException as error:
            failed.append(error)
    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert not failed and seen == [True] * 6


def test_a_second_signal_stops_at_once_also_behind_the_last_batch(tmp_path, handlers):
    """Of the same kind or of the other."""
    reached = []

    class Twice(Callback):
        def after_fit(self):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            reached.append('behind')
    with pytest.raises(KeyboardInterrupt):
        make_learner(DEFAULTS).fit(1, cbs=[CheckpointCallback(tmp_path), Twice()])
    assert not reached


def test_a_checkpoint_that_a_signal_asks_for_between_batches_holds_the_generators_of_their_edge(tmp_path):
    """What was drawn since, in whatever waits for the next batch, is drawn again by the one that goes on."""
    learn = make_learner(dict(DEFAULTS))
    seen = []

    class Between(Callback):
        order = 99

        def after_batch(self):
            if self.learn.training and self.train_iter == 2:
                seen.append(get_random_states())
                torch.rand(3), np.random.rand(), random.random()
                keeper._write_here(seen[0])
                keeper._finish_writing()
                seen.append(newest_checkpoint(tmp_path)[1]['generators'])
    keeper = CheckpointCallback(tmp_path)
    learn.fit(1, cbs=[keeper, Between()])
    wanted = storable_states(seen[0])
    assert seen[1].keys() == {'global', 'loaders'} and not differences(wanted, seen[1]['global'])
    assert differences(storable_states(), seen[1]['global'])


def test_a_signal_between_batches_finds_the_samplers_generator_at_their_edge(tmp_path):
    """Workers are sent items ahead: what the sampler has drawn since the last batch came is drawn again."""
    drawn, edges, rngs, keeper = [], [], [], CheckpointCallback(tmp_path)

    class Lazily:
        def __init__(self):
            self.rng = torch.Generator().manual_seed(3)

        def __len__(self):
            return 48

        def __iter__(self):
            for _ in range(48):
                drawn.append(int(torch.randint(48, (), generator=self.rng)))
                if len(drawn) == 35:
                    os.kill(os.getpid(), signal.SIGINT)
                yield drawn[-1]

    class Edge(Callback):
        order = 2000

        def after_batch(self):
            edges.append(keeper._generators()), rngs.append(sampler.rng.get_state())
    learn, sampler = make_learner(DEFAULTS), Lazily()
    learn.dls.loaders[0] = TorchLoader(learn.dls.train.dataset, 8, sampler=sampler, num_workers=1)
    with pytest.raises(KeyboardInterrupt):
        learn.fit(1, cbs=[keeper, Edge()])
    _, state = newest_checkpoint(tmp_path)
    assert state['position']['batch'] == len(edges) and len(drawn) == 35
    assert not differences(edges[-1], state['generators'])
    assert not torch.equal(rngs[-1], sampler.rng.get_state())


def test_a_loader_without_workers_makes_the_batch_that_it_has_begun(tmp_path):
    """A signal that comes meanwhile is answered behind that batch; whoever says nothing of workers has none."""
    made = []

    class Own(Stream):
        def __iter__(self):
            for batch in super().__iter__():
                if self.at == 3:
                    os.kill(os.getpid(), signal.SIGINT)
                made.append(self.at)
                yield batch
    learn = make_learner(DEFAULTS)
    learn.dls.loaders[0] = Own()
    with pytest.raises(KeyboardInterrupt):
        learn.fit(1, checkpoint=tmp_path)
    assert made == [1, 2, 3] and newest_checkpoint(tmp_path)[1]['position']['batch'] == 3
