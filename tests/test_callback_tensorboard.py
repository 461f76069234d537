"""Event files that TensorBoard itself reads back."""
from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from small_learner import Interrupt, deep, learner, pictures, same, weights

from minifast.callback.tensorboard import TensorBoardCallback, TensorBoardProjectorCallback, tensorboard_log
from minifast.metrics import accuracy
from minifast.optimizer import Adam
from minifast.run.history import read_run

pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning')


def events(folder):
    """What TensorBoard's own reader finds."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def test_tensorboard_writes_each_step_and_epoch(tmp_path):
    """Every smoothed loss and scheduled rate is there under its step, every metric under the epoch's last step; the
    run's own file says the same."""
    learn = learner(metrics=accuracy, opt_func=Adam)
    learn.fit_one_cycle(2, 1e-2, cbs=TensorBoardCallback(tmp_path, trace_model=False), run=tmp_path / 'run')
    found, history = events(tmp_path), read_run(tmp_path / 'run').history
    assert [e.step for e in found.Scalars('train_loss')] == list(range(1, 9))
    values = [e.value for e in found.Scalars('train_loss')]
    torch.testing.assert_close(values, [float(loss) for loss in learn.recorder.losses])
    torch.testing.assert_close([e.value for e in found.Scalars('lr_0')], learn.recorder.hps['lr'], rtol=1e-5, atol=0.)
    for i, name in enumerate(('valid_loss', 'accuracy'), 1):
        rows = found.Scalars(name)
        assert [e.step for e in rows] == [4, 8]
        torch.testing.assert_close([e.value for e in rows], [row[i] for row in learn.recorder.values])
        torch.testing.assert_close([e.value for e in rows], history[name])
    torch.testing.assert_close([values[3], values[7]], history['train_loss'])


def test_tensorboard_writes_the_graph_and_only_watches(tmp_path):
    """The graph is there, and weights, statistics and random streams are those of a training without it."""
    learn, twin = learner(model=deep()), learner(model=deep())
    torch.manual_seed(1)
    learn.fit(1, cbs=TensorBoardCallback(tmp_path))
    state = torch.get_rng_state()
    torch.manual_seed(1)
    twin.fit(1)
    assert same(weights(learn), weights(twin)) and torch.equal(torch.get_rng_state(), state)
    assert events(tmp_path).Tags()['graph']


def test_tensorboard_is_silent_outside_a_fit(tmp_path):
    """`lr_find`, `validate` and `get_preds` write nothing."""
    learn = learner(cbs=TensorBoardCallback(tmp_path))
    learn.lr_find(num_it=6, show_plot=False), learn.validate(), learn.get_preds()
    assert not list(tmp_path.iterdir())


def test_tensorboard_after_an_interrupt_has_written_what_there_was(tmp_path):
    """The steps before Ctrl-C are in the file, the writer is closed, and the next fit works."""
    learn = learner(cbs=TensorBoardCallback(tmp_path / 'a', trace_model=False))
    with pytest.raises(KeyboardInterrupt):
        learn.fit(1, cbs=Interrupt('before_batch', at=3))
    assert len(events(tmp_path / 'a').Scalars('train_loss')) == 3 and learn.tensor_board.writer is None
    learn.tensor_board.log_dir = tmp_path / 'b'
    learn.fit(1)
    assert len(events(tmp_path / 'b').Scalars('train_loss')) == 4


def test_tensorboard_draws_predictions_and_projects_features(tmp_path):
    """One picture with predictions an epoch, and an embedding of the validation set with its classes' names."""
    learn = pictures(tmp_path / 'data')
    learn.fit(2, cbs=TensorBoardCallback(tmp_path / 'a', trace_model=False, projector=True))
    assert [e.step for e in events(tmp_path / 'a').Images('Sample results')] == [2, 4]
    names = (tmp_path / 'a' / '00004' / 'default' / 'metadata.tsv').read_text().split()
    assert len(names) == 8 and set(names) <= {'dark', 'light'}
    learn.get_preds(cbs=TensorBoardProjectorCallback(tmp_path / 'b', layer=learn.model[1]))
    assert len((tmp_path / 'b' / '00000' / 'default' / 'tensors.tsv').read_text().splitlines()) == 8
    assert not learn.model[1]._forward_hooks


@pytest.mark.filterwarnings("ignore:.*the callback interrupt 'at' was")  # each attempt ends elsewhere
@pytest.mark.parametrize('every, kills', [(1, (6, 1)), (3, (6, 1, 4)), ('epoch', (3, 9))])
def test_tensorboard_of_a_resumed_training_equals_that_of_an_undisturbed_one(every, kills, tmp_path, monkeypatch):
    """In the same folder, though none was named: no step and no epoch lost, none twice; another's file stays."""
    from tensorboard.summary.writer import event_file_writer
    # files of one process and second are read in the order of their numbers as texts: the tenth before the ninth
    monkeypatch.setattr(event_file_writer, '_global_uid', event_file_writer.AtomicCounter(0))
    from minifast.callback.checkpoint import CheckpointCallback

    def fit(folder, kill=None, resume=False):
        (tmp_path / folder).mkdir(exist_ok=True)
        made = tmp_path / folder / ('run' if not resume else 'another')
        learn = learner(metrics=accuracy, opt_func=Adam)
        cbs = [TensorBoardCallback(made, trace_model=False, log_preds=False),
               CheckpointCallback(tmp_path / folder / 'c', every=every), *([] if kill is None else [Interrupt(
                   'after_batch', at=kill)])]
        torch.manual_seed(1)
        try:
            learn.fit_one_cycle(2, 1e-2, cbs=cbs, resume=resume)
        except KeyboardInterrupt:
            assert kill is not None
    fit('whole')
    (tmp_path / 'killed' / 'run').mkdir(parents=True)
    others = tmp_path / 'killed' / 'run' / 'notes.txt'
    others.write_text('mine')
    for i, kill in enumerate((*kills, None)):
        fit('killed', kill, i > 0)
    whole, killed = events(tmp_path / 'whole' / 'run'), events(tmp_path / 'killed' / 'run')
    tags = whole.Tags()['scalars']
    assert killed.Tags()['scalars'] == tags and len(tags) > 4 and not (tmp_path / 'killed' / 'another').exists()
    for tag in tags:
        rows, expected = ([(e.step, e.value) for e in found.Scalars(tag)] for found in (killed, whole))
        assert rows == expected, tag
    assert others.read_text() == 'mine'


@pytest.mark.parametrize('n', [1, 2, 5])
def test_samples_of_any_kind_are_drawn_beside_their_predictions(n):
    """The parts that can show themselves, each on an axis of its own: left the sample, right its input with answers."""
    class Part:
        def __init__(self, name):
            self.name = name

        def show(self, ctx):
            drawn.append((self.name, ctx))
    drawn, added = [], []
    samples = [(Part(f'x{i}'), Part(f'y{i}'), i) for i in range(n)]
    outs = [(Part(f'p{i}'), 'text') for i in range(n)]
    writer = SimpleNamespace(add_figure=lambda *args: added.append(args))
    tensorboard_log(object(), object(), samples, outs, writer, 7)
    (tag, figure, step), = added
    assert (tag, step) == ('Sample results', 7)
    assert [name for name, _ in drawn] == [f'{part}{i}' for i in range(n) for part in 'xyxp']
    pairs = [[ax for _, ax in drawn[at:at + 2]] for at in range(0, 4 * n, 2)]
    assert all(a is b and a.figure is figure for a, b in pairs) and len({id(a) for a, _ in pairs}) == 2 * n
    places = [ax.get_subplotspec() for ax, _ in pairs]
    for left, right in zip(places[::2], places[1::2]):
        assert left.rowspan == right.rowspan and left.colspan.start + 1 == right.colspan.start


def test_projecting_that_was_interrupted_leaves_nothing_and_can_be_done_again(tmp_path):
    """No hook, no half of an embedding, no open file."""
    learn = pictures(tmp_path / 'data')
    cb = TensorBoardProjectorCallback(tmp_path / 'b', layer=learn.model[1])
    with pytest.raises(KeyboardInterrupt):
        learn.get_preds(cbs=[cb, Interrupt('after_pred')])
    assert cb.features is None and cb.writer is None and not learn.model[1]._forward_hooks
    cb.log_dir = tmp_path / 'c'
    learn.get_preds(cbs=cb)
    assert len((tmp_path / 'c' / '00000' / 'default' / 'tensors.tsv').read_text().splitlines()) == 8
