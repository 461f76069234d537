"""The law: a training that was killed at any moment, resumed, killed again and resumed ends in the bits of one that was
never stopped. A small grid here; the full one carries the mark `faults`."""
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from minifast.callback.checkpoint import CheckpointCallback, checkpoints_in, newest_checkpoint
from minifast.callback.core import Callback, CancelFitException
from minifast.callback.hook import ActivationStats
from minifast.callback.progress import CSVLogger, ProgressCallback
from minifast.callback.recorder import Recorder
from minifast.callback.tracker import SaveModelCallback, TerminateOnNaNCallback
from minifast.callback.training import EMA
from minifast.seeds import fork_rng, set_seed
from minifast.tensorfile import DamagedFileError, read_tensors
from tests.resume.training import (DEFAULTS, Kill, differences, killed_and_resumed, make_learner, outcome, reads, run,
                                   undisturbed)
from tests.small_learner import Interrupt, learner

ROOT = Path(__file__).resolve().parents[2]


def check(spec, folder, kills, workers=None):
    same = {k: v for k, v in spec.items() if k in ('loader', 'fit', 'cbs', 'epochs')}
    if spec.get('loader', 'ours') != 'ours' and workers:
        same['workers'] = workers[0]  # random data come out of torch's workers otherwise than without
    text = json.dumps(same, sort_keys=True)
    found = outcome(killed_and_resumed(spec, folder, kills, workers))
    found = differences(undisturbed(text), found)
    assert not found, f'{spec} {kills} {workers}: {found} differ'


# ---------------------------------------------------------------- the grid

@pytest.mark.parametrize('kills', [[(1, 'after_backward')], [(3, 'after_loss'), (2, 'before_step')],
                                   [(9, 'after_step'), (3, 'before_batch')], [(8, 'after_backward'), (8, 'after_pred')],
                                   [(1, 'before_validate'), (1, 'after_validate')],
                                   [(2, 'after_epoch'), (1, 'before_train')], [(1, 'after_fit')]],
                         ids=lambda kills: ' then '.join(f'{event} {at}' for at, event in kills))
@pytest.mark.parametrize('every', [1, 4, 'epoch'])
def test_a_killed_training_resumes_to_the_same_bits(tmp_path, kills, every):
    """Any hook, any interval, once or twice: weights, optimizer, recorder, predictions and generators are the same."""
    check({'every': every}, tmp_path, kills)


@pytest.mark.parametrize('loader', ['torch', 'torch with generator', 'stream'])
@pytest.mark.parametrize('kills', [[(3, 'after_backward'), (5, 'after_loss')], [(8, 'after_step')]])
def test_a_foreign_torch_loader_resumes_to_the_same_bits(tmp_path, loader, kills):
    """It is made again from the generators as they were when the epoch began, or put back by its own state."""
    check({'loader': loader}, tmp_path, kills)


@pytest.mark.parametrize('fit', ['one_cycle', 'fine_tune'])
def test_pictures_with_all_augmentation_resume_to_the_same_bits(tmp_path, fit):
    """Crops and flips of items, light and geometry of batches, a user's own transform, workers that change."""
    check({'loader': 'pictures', 'fit': fit, 'every': 2}, tmp_path, [(5, 'after_backward'), (6, 'after_backward')],
          workers=[2, 0, 0])


@pytest.mark.tally
@pytest.mark.parametrize('at, batches', [(1, 0), (4, 3), (6, 5), (9, 2), (18, 5)])
def test_nothing_is_replayed_and_no_item_read_twice(tmp_path, at, batches):
    """Killed in a batch: the resumed training reads that batch and those behind it, and none that was trained on."""
    reads.clear()
    run({})
    whole = list(reads)
    reads.clear()
    with pytest.raises(ZeroDivisionError):
        run({'folder': str(tmp_path), 'every': 1, 'kill_at': at, 'kill_in': 'after_backward'})
    before = len(reads)
    assert reads == whole[:8 * at]
    run({'folder': str(tmp_path), 'every': 1, 'resume': True, 'seed': 99})
    assert reads[before:] == whole[8 * (at - 1):] and (at - 1) % 6 == batches


class Watcher(Callback):
    """Looks at everything in every hook, draws from all generators, and validates and predicts in between."""

    run_valid = True

    def look(self):
        with torch.no_grad(), fork_rng():
            self.seen = [float(p.sum()) for p in self.learn.model.parameters()]
            torch.rand(3), random.random(), np.random.rand()
            set_seed(5)

    def after_epoch(self):
        self.look()
        if self.learn.fitting:
            with fork_rng():
                self.learn.predict_twin()


for event in ('before_fit', 'before_epoch', 'before_batch', 'after_pred', 'after_loss', 'after_backward', 'after_step',
              'after_batch', 'after_validate', 'after_fit'):
    setattr(Watcher, event, Watcher.look)


@pytest.mark.tally
@pytest.mark.parametrize('cbs', [Watcher, lambda: ActivationStats(with_hist=True), lambda: CSVLogger('log.csv'),
                                 lambda: SaveModelCallback(every_epoch=True), TerminateOnNaNCallback, ProgressCallback,
                                 lambda: Recorder(train_metrics=True)],
                         ids=['watcher', 'hooks', 'log', 'save', 'nan', 'bar', 'training metrics'])
def test_who_only_watches_changes_no_bit(tmp_path, cbs):
    """Neither callbacks that look, nor a bar, a log, metrics of the training, saved files."""
    learn = make_learner(DEFAULTS)
    learn.path = tmp_path
    cb = cbs()
    if isinstance(cb, Recorder):
        learn.remove_cb(learn.recorder)
    learn.add_cb(cb)
    learn.predict_twin = lambda: make_learner(DEFAULTS).validate()
    set_seed(7)
    learn.fit(3)
    found = outcome(learn)
    found['values'] = [[row[0], *row[-2:]] for row in found['values']]  # without metrics of the training
    assert not differences(undisturbed('{}'), found)


@pytest.mark.tally
def test_more_validation_changes_no_bit(tmp_path):
    """Another learner with the same weights validates, predicts and searches its rate between the epochs."""
    class Validates(Callback):
        def after_epoch(self):
            with fork_rng():
                twin = make_learner(DEFAULTS)  # seeds by itself
            twin.model.load_state_dict(self.learn.model.state_dict())
            twin.validate()
            twin.get_preds()
            twin.lr_find(num_it=3, show_plot=False)
    learn = make_learner(DEFAULTS)
    set_seed(7)
    learn.fit(3, cbs=Validates)
    found = outcome(learn)
    assert not differences(undisturbed('{}'), found)


@pytest.mark.parametrize('cbs', [['mixup'], ['accumulate'], ['ema'], ['bf16'], ['mixup', 'accumulate', 'ema']],
                         ids='+'.join)
def test_callbacks_with_a_state_resume_to_the_same_bits(tmp_path, cbs):
    """MixUp, a half-done accumulation, averaged weights, mixed precision."""
    check({'cbs': cbs, 'every': 1}, tmp_path, [(4, 'after_batch'), (5, 'after_pred')])


@pytest.mark.parametrize('kills', [[(3, 'after_backward')], [(8, 'after_backward')],
                                   [(4, 'after_backward'), (6, 'after_backward'), (4, 'after_backward')],
                                   [(1, 'after_fit')]], ids=str)
def test_both_phases_of_fine_tune_resume_to_the_same_bits(tmp_path, kills):
    """Killed while frozen, between the phases, while unfrozen: the schedule and the frozen groups are as they were."""
    check({'fit': 'fine_tune', 'every': 2}, tmp_path, kills)


def test_another_number_of_workers_after_the_resume_changes_no_bit(tmp_path):
    """Two workers, then none, then one."""
    check({'every': 2}, tmp_path, [(5, 'after_backward'), (6, 'after_backward')], workers=[2, 0, 1])


@pytest.mark.tally
@pytest.mark.parametrize('how, status', [('kill', -signal.SIGKILL), ('term', 128 + signal.SIGTERM)])
def test_a_killed_process_resumes_in_a_new_one(tmp_path, how, status):
    """SIGKILL and SIGTERM of a whole process; the new one ends in the same bits. SIGTERM loses no step."""
    spec = {**DEFAULTS, 'fit': 'one_cycle', 'every': 4 if how == 'kill' else 'epoch', 'folder': str(tmp_path / 'c'),
            'out': str(tmp_path / 'out.pth')}

    def start(**changes):
        return subprocess.run([sys.executable, '-m', 'tests.resume.training', json.dumps({**spec, **changes})],
                              cwd=ROOT, capture_output=True, text=True)
    first = start(kill_at=9, how=how)
    assert first.returncode == status, first.stderr
    if how == 'term':
        at = newest_checkpoint(tmp_path / 'c')[1]['position']
        assert (at['where'], at['epoch'], at['batch']) == ('train', 1, 3)
    second = start(resume=True, seed=99)
    assert second.returncode == 0, second.stderr
    expected = undisturbed(json.dumps({'fit': 'one_cycle'}))
    assert not differences(expected, read_tensors(tmp_path / 'out.pth'))
    assert not list((tmp_path / 'c').glob('.*.tmp'))


# ---------------------------------------------------------------- signals

@pytest.mark.tally
@pytest.mark.parametrize('event, position', [('after_backward', ('train', 1, 3)), ('after_loss', ('train', 1, 0)),
                                             ('after_train', ('validate', 0, 6)), ('after_validate', ('epoch', 1, 0))])
def test_ctrl_c_is_answered_at_the_next_batch_edge_and_the_learner_goes_on(default_sigint, tmp_path, event, position):
    """KeyboardInterrupt after a checkpoint at the edge; the learner resumes to the same bits; handlers are back."""
    learn = make_learner(DEFAULTS)
    before = signal.getsignal(signal.SIGINT)
    set_seed(7)
    at = {'after_backward': 9, 'after_loss': 10, 'after_train': 1, 'after_validate': 1}[event]
    with pytest.raises(KeyboardInterrupt):
        learn.fit(3, cbs=[CheckpointCallback(tmp_path), Kill(at, event, 'int')])
    assert signal.getsignal(signal.SIGINT) is before
    found = newest_checkpoint(tmp_path)[1]['position']
    if event != 'after_loss':
        assert (found['where'], found['epoch'], found['batch']) == position
    learn.fit(3, checkpoint=tmp_path, resume=True)
    assert not differences(outcome(learn), undisturbed('{}'))


@pytest.mark.tally
def test_a_second_ctrl_c_stops_at_once(default_sigint, tmp_path):
    """The second signal does not wait for the batch edge."""
    class Twice(Callback):
        def after_backward(self):
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
            reached.append('behind')
    reached = []
    with pytest.raises(KeyboardInterrupt):
        make_learner(DEFAULTS).fit(1, cbs=[CheckpointCallback(tmp_path), Twice])
    assert not reached


def test_a_signal_while_workers_are_awaited_is_answered_at_once(default_sigint, tmp_path):
    """Between two batches the training is at an edge already: no further batch is waited for."""
    learn = make_learner({**DEFAULTS, 'workers': 1})
    set_seed(7)

    class Late(Callback):
        order = 2000

        def after_batch(self):
            if self.training and self.iter == 2:
                os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        learn.fit(3, cbs=[CheckpointCallback(tmp_path), Late])
    assert newest_checkpoint(tmp_path)[1]['position']['batch'] == 3
    learn.fit(3, checkpoint=tmp_path, resume=True)
    assert not differences(outcome(learn), undisturbed('{}'))


def test_between_two_batches_of_workers_only_the_global_generators_are_asked(tmp_path, monkeypatch):
    """Where no loader holds one: looking through the loaders takes longer than a small step."""
    asked, look = [], CheckpointCallback._generators
    monkeypatch.setattr(CheckpointCallback, '_generators', lambda self: (asked.append(self), look(self))[1])
    counts = []
    for workers in (0, 1):
        asked.clear()
        make_learner({**DEFAULTS, 'workers': workers}).fit(1, checkpoint=tmp_path / str(workers))
        counts.append(len(asked))
    assert 0 < counts[1] == counts[0] < 6



# ---------------------------------------------------------------- the folder

def test_checkpoints_are_named_kept_and_the_newest_whole_one_wins(tmp_path):
    """`keep` of the newest stay; a damaged newest is named in a warning and the one before is used."""
    run({'folder': str(tmp_path), 'every': 2, 'background': False})
    paths = checkpoints_in(tmp_path)
    assert len(paths) == 3 and paths == sorted(paths, reverse=True)
    data = bytearray(paths[0].read_bytes())
    data[300] ^= 1
    paths[0].write_bytes(data)
    with pytest.warns(UserWarning, match=f'passed over: .*{paths[0].name}'):
        assert newest_checkpoint(tmp_path)[0] == paths[1]
    for path in paths:
        path.write_bytes(b'')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with pytest.raises(DamagedFileError, match='none of the 3 checkpoints'):
            newest_checkpoint(tmp_path)


def test_resume_without_a_checkpoint_starts_from_scratch_and_says_so(tmp_path, capsys):
    """The first run of a script with resume=True is an ordinary one."""
    learn = run({'folder': str(tmp_path / 'new'), 'resume': True})
    assert 'starts from scratch' in capsys.readouterr().out
    assert not differences(outcome(learn), undisturbed('{}'))


@pytest.mark.parametrize('every, at', [('epoch', 7), (1, 10)], ids=['between epochs', 'within one'])
def test_a_resumed_training_shows_its_table_from_the_start(every, at, tmp_path, capsys):
    """What it goes on from, the headings, the rows from before, the rows that come: each once, with its numbers."""
    def fit(cbs=()):
        learn = learner(shuffle=True)  # four batches an epoch
        learn.logger = print
        learn.add_cb(ProgressCallback())
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # torch's own loader
            learn.fit(4, .01, cbs=[CheckpointCallback(tmp_path, every=every), *cbs], resume=True)
        return capsys.readouterr().out.splitlines()
    with pytest.raises(KeyboardInterrupt):
        fit([Interrupt('after_step', at=at)])
    before = capsys.readouterr().out.splitlines()[1:]
    told, *table = fit()
    assert told.startswith('resumed from') and [line.split()[0] for line in table] == ['epoch', '0', '1', '2', '3']
    assert before == table[:len(before)] and len(before) == at // 4 + 1
    learn = learner(shuffle=True)
    learn.logger = print
    learn.add_cb(ProgressCallback())
    learn.fit(1), learn.validate()
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ['epoch', '0']


def test_resume_of_a_finished_training_does_nothing_more(tmp_path):
    """The finished state is loaded, no step is made."""
    run({'folder': str(tmp_path)})
    learn = run({'folder': str(tmp_path), 'resume': True, 'seed': 3})
    assert not differences(outcome(learn), undisturbed('{}'))


def test_more_epochs_go_on_from_a_finished_training(tmp_path):
    """Three epochs, then five: the last two are trained."""
    run({'folder': str(tmp_path)})
    learn = run({'folder': str(tmp_path), 'resume': True, 'epochs': 5})
    assert len(learn.recorder.values) == 5 and len(learn.recorder.losses) == 30


@pytest.mark.parametrize('then, now, told', [([EMA], [], 'was attached then and is not here'),
                                             ([], [EMA], 'is attached here and was not then')])
def test_a_callback_with_a_state_that_came_or_went_is_told_once(tmp_path, then, now, told):
    """With its state; that it is a setting of the training too is no second message."""
    make_learner(DEFAULTS).fit(1, cbs=[cls() for cls in then], checkpoint=tmp_path)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter('always')
        make_learner(DEFAULTS).fit(2, cbs=[cls() for cls in now], checkpoint=tmp_path, resume=True)
    about, = [str(w.message) for w in found if 'ema' in str(w.message).lower()]
    assert f'the callback ema {told}' in about


def test_resume_without_a_folder_and_unfit_arguments_are_errors(tmp_path):
    """One clear sentence each."""
    with pytest.raises(ValueError, match='give checkpoint=FOLDER'):
        make_learner(DEFAULTS).fit(1, resume=True)
    with pytest.raises(ValueError, match='number of steps'):
        CheckpointCallback(tmp_path, every='hour')
    with pytest.raises(ValueError, match='at least one'):
        CheckpointCallback(tmp_path, keep=0)
    for no_folder in ({'checkpoint': True}, {'checkpoint': CheckpointCallback(tmp_path)}, {'run': True}):
        with pytest.raises(TypeError, match='is no folder: give the name of one.*goes into cbs='):
            make_learner(DEFAULTS).fit(1, **no_folder)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    """Resuming with a changed model tells what does not fit."""
    run({'folder': str(tmp_path)})
    learn = make_learner(DEFAULTS)
    learn.model[-1] = torch.nn.Linear(16, 5)
    with pytest.raises(ValueError, match='another number of outputs'):
        learn.fit(4, checkpoint=tmp_path, resume=True)


def test_a_loader_that_cannot_be_carried_is_named_before_training(tmp_path):
    """A generator without state: a warning at the start, not a surprise at the resume."""
    class Stream:
        dataset = None

        def __len__(self):
            return 2

        def __iter__(self):
            return iter([(torch.randn(4, 6), torch.zeros(4, dtype=torch.long))] * 2)
    learn = make_learner(DEFAULTS)
    learn.dls.loaders[0] = Stream()
    with pytest.warns(UserWarning, match='not be exact.*Stream.*neither state_dict'):
        learn.fit(1, checkpoint=tmp_path)


def test_checkpoints_change_no_bit_of_the_training(tmp_path):
    """With and without, after every step and in the background."""
    for background in (True, False):
        learn = run({'folder': str(tmp_path / str(background)), 'every': 1, 'background': background})
        assert not differences(outcome(learn), undisturbed('{}'))


@pytest.mark.parametrize('packed', [False, True], ids=['loose', 'packed'])
def test_a_checkpoint_says_what_it_was_made_with(tmp_path, packed):
    """Versions, device, precision, and the commit of the script's repository, whichever way git keeps it."""
    def git(*args):
        return subprocess.run(['git', '-C', tmp_path, *args], check=True, capture_output=True, text=True).stdout.strip()
    git('init', '-q')
    git('-c', 'user.name=a', '-c', 'user.email=a@b', 'commit', '-q', '--allow-empty', '-m', 'a')
    if packed:
        git('pack-refs', '--all')
    script = tmp_path / 'scripts' / 'train.py'
    script.parent.mkdir()
    script.write_text(f"""if True:
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        from tests.resume.training import run
        run({{'folder': {str(tmp_path / "c")!r}, 'cbs': ['bf16']}})""")
    subprocess.run([sys.executable, script], check=True, capture_output=True)
    made = newest_checkpoint(tmp_path / 'c')[1]['environment']
    assert made['git'] == git('rev-parse', 'HEAD') and made['script'] == 'train.py'
    assert made['torch'] == torch.__version__ and made['device'] == 'cpu' and 'bf16' in made['precision'].lower()
    assert made['python'] == '.'.join(map(str, sys.version_info[:3])) and made['minifast'] and made['platform']


@pytest.mark.tally
def test_the_same_seed_gives_the_same_bits():
    """`set_seed(s, reproducible=True)` before each of two trainings; another seed gives others."""
    found = []
    was = torch.are_deterministic_algorithms_enabled()
    try:
        for seed in (5, 5, 6):
            learn = make_learner({**DEFAULTS, 'loader': 'pictures'})
            set_seed(seed, reproducible=True)
            learn.fit_one_cycle(2, 0.01)
            found.append(outcome(learn))
    finally:
        torch.use_deterministic_algorithms(was)
    assert not differences(found[0], found[1]) and 'model' in differences(found[0], found[2])


def test_validating_and_predicting_write_no_checkpoint(tmp_path):
    """A callback kept on the learner stays silent outside of fits."""
    learn = make_learner(DEFAULTS)
    learn.add_cb(CheckpointCallback(tmp_path / 'c'))
    learn.validate()
    learn.get_preds()
    assert not (tmp_path / 'c').exists()


def test_a_fit_of_somebody_elses_is_checkpointed_as_ours(tmp_path):
    """By a callback of the learner, where a plugin has put a `fit` of its own in the place of ours."""
    learn = make_learner(DEFAULTS)
    learn.add_cb(CheckpointCallback(tmp_path))
    learn.create_opt()
    learn.n_epoch, learn.fitting = 2, True
    with learn._running():
        learn._with_events(learn._do_fit, 'fit', CancelFitException, learn._end_cleanup)
    at = newest_checkpoint(tmp_path)[1]['position']
    assert (at['n_epoch'], at['epoch'], at['done']) == (2, 2, True)



def test_a_storage_that_fails_in_the_middle_is_told_and_training_goes_on(tmp_path):
    """The folder vanishes: a warning with file and cause; the weights are those of an undisturbed training."""
    import shutil

    class Vanish(Callback):
        def after_batch(self):
            if self.training and self.train_iter == 5:
                shutil.rmtree(tmp_path / 'c')
    learn = make_learner(DEFAULTS)
    set_seed(7)
    with pytest.warns(UserWarning, match=r'no checkpoint: .*could not be written.*The training goes on'):
        learn.fit(3, cbs=[CheckpointCallback(tmp_path / 'c', every=3, background=False), Vanish])
    assert not differences(outcome(learn), undisturbed('{}'))


# ---------------------------------------------------------------- the full grid

FULL = [*itertools.product(
    ['ours', 'torch'], ['fit', 'one_cycle', 'fine_tune'], [[], ['mixup', 'ema'], ['accumulate'], ['bf16', 'mixup']],
    [[0], [2, 0, 4], [0, 2, 0]], ['epoch edge', 'mid-epoch', 'both']), *itertools.product(
    ['pictures'], ['one_cycle', 'fine_tune'], [[], ['bf16', 'mixup', 'ema']],
    [[0], [2, 0, 4], [0, 2, 0]], ['epoch edge', 'mid-epoch', 'both'])]


@pytest.mark.faults
@pytest.mark.parametrize('loader, fit, cbs, workers, where', FULL, ids=str)
def test_the_whole_grid_resumes_to_the_same_bits(tmp_path, loader, fit, cbs, workers, where):
    """{our loader, torch's} x {fit, one cycle, fine_tune} x callbacks x workers before and after x where it is
    killed; torch's loader keeps its number of workers, on which its batches depend."""
    if loader == 'torch':
        workers = workers[:1]
    kills = {'epoch edge': [(1, 'after_epoch'), (1, 'after_epoch')],
             'mid-epoch': [(4, 'after_pred'), (9, 'after_pred')],
             'both': [(6, 'after_batch'), (1, 'after_epoch')]}[where]
    check({'loader': loader, 'fit': fit, 'cbs': cbs, 'every': 1 if where == 'both' else 3}, tmp_path, kills, workers)
