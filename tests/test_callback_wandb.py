"""Runs of Weights & Biases in offline mode, read back from the file that a sync would upload."""
from __future__ import annotations

import json
import warnings
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from small_learner import Interrupt, learner, pictures, same, weights

from minifast.callback.core import Callback, CancelFitException
from minifast.callback.tracker import SaveModelCallback
from minifast.callback.wandb import WandbCallback, log_dataset, log_model
from minifast.metrics import accuracy
from minifast.run.history import read_run

with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    import wandb
pytestmark = pytest.mark.filterwarnings('ignore')  # wandb's own


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """A run that stays on this machine."""
    monkeypatch.setenv('WANDB_SILENT', 'true')
    yield wandb.init(mode='offline', dir=str(tmp_path), project='test')
    wandb.finish()


def raw_records(data):
    """The records of a LevelDB log, the format of the file: blocks of 32 KiB, records in parts with 7-byte heads."""
    at, parts = 7, []  # behind wandb's own head
    while at + 7 <= len(data):
        if (room := 32768 - at % 32768) < 7:
            at += room
            continue
        length, kind = int.from_bytes(data[at + 4:at + 6], 'little'), data[at + 6]
        parts.append(data[at + 7:at + 7 + length])
        at += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            yield b''.join(parts)
            parts = []


def records(tmp_path):
    """The rows of history and the artifacts in the file of the finished run."""
    from wandb.proto import wandb_internal_pb2
    wandb.finish()
    wandb.teardown()  # the process that writes the file ends
    file, = tmp_path.glob('wandb/offline-run-*/*.wandb')
    rows, artifacts = [], []
    for data in raw_records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof('record_type') == 'history':
            rows.append({item.key or '.'.join(item.nested_key): json.loads(item.value_json)
                         for item in record.history.item})
        artifact = record.request.log_artifact.artifact if record.HasField('request') else record.artifact
        if artifact.name:
            artifacts.append((artifact.type, artifact.name))
    return rows, artifacts


def test_wandb_logs_steps_and_epochs(offline, tmp_path):
    """Each step has its losses and rates, each epoch its metrics, the run its settings; its own file says the same."""
    learn = learner(metrics=accuracy)
    learn.fit_one_cycle(2, 1e-2, cbs=WandbCallback(log_preds=False), run=tmp_path / 'run')
    assert wandb.config['batch size'] == 8 and wandb.config['Learner']['opt_func'] == 'SGD'
    rows, _ = records(tmp_path)
    steps = [row for row in rows if 'train_loss' in row]
    torch.testing.assert_close([row['train_loss'] for row in steps], [float(x) for x in learn.recorder.losses])
    torch.testing.assert_close([row['lr_0'] for row in steps], learn.recorder.hps['lr'])
    assert [row['_step'] for row in steps] == list(range(8))
    torch.testing.assert_close([row['accuracy'] for row in rows if 'accuracy' in row],
                               [row[2] for row in learn.recorder.values])
    history = read_run(tmp_path / 'run').history
    for name in ('valid_loss', 'accuracy'):
        assert [row[name] for row in rows if name in row] == history[name]
    torch.testing.assert_close([steps[3]['train_loss'], steps[7]['train_loss']], history['train_loss'])


def test_wandb_second_fit_goes_on_behind_the_first(offline, tmp_path):
    """Steps and epochs of a second fit in the same run follow those of the first."""
    learn = learner(cbs=WandbCallback(log_preds=False))
    learn.fit(1), learn.fit(1)
    rows, _ = records(tmp_path)
    steps = [row['_step'] for row in rows if 'train_loss' in row]
    assert len(steps) == 8 and steps == sorted(set(steps))
    assert max(row['epoch'] for row in rows if 'epoch' in row) == 2


def test_wandb_without_a_run_says_what_to_do():
    """The callback needs `wandb.init()` first."""
    with pytest.raises(ValueError, match=r'wandb.init\(\)'):
        learner().fit(1, cbs=WandbCallback())


def test_wandb_of_a_resumed_training_goes_on_where_the_run_stands(offline, tmp_path):
    """In the run that goes on: each step and each epoch is there once, in order, with an undisturbed one's values."""
    from minifast.callback.checkpoint import CheckpointCallback
    for kill in (3, None):
        learn = learner(metrics=accuracy)
        cbs = [WandbCallback(log_preds=False), CheckpointCallback(tmp_path / 'c', every=2)]
        torch.manual_seed(1)
        try:
            learn.fit(2, cbs=[*cbs, *([] if kill is None else [Interrupt('after_batch', at=kill)])],
                      resume=kill is None)
        except KeyboardInterrupt:
            assert kill == 3
    twin = learner(metrics=accuracy)
    torch.manual_seed(1)
    twin.fit(2)
    rows, _ = records(tmp_path)
    steps = [row for row in rows if 'train_loss' in row]
    assert [row['_step'] for row in steps] == list(range(8))
    torch.testing.assert_close([row['train_loss'] for row in steps], [float(x) for x in twin.recorder.losses])
    torch.testing.assert_close([row['accuracy'] for row in rows if 'accuracy' in row],
                               [row[2] for row in twin.recorder.values])
    assert max(row['epoch'] for row in rows if 'epoch' in row) == 2


@pytest.mark.parametrize('cbs', [[], [SaveModelCallback(fname='best')]])
def test_wandb_uploads_the_model(cbs, offline, tmp_path, capsys):
    """`log_model` uploads what SaveModelCallback saved, or else the weights at the end."""
    learn = learner(path=tmp_path)
    learn.fit(1, cbs=[*cbs, WandbCallback(log_preds=False, log_model=True)])
    _, artifacts = records(tmp_path)
    assert artifacts == [('model', 'best' if cbs else 'model')]
    capsys.readouterr()


def test_wandb_uploads_the_model_of_a_fit_that_was_left_before_an_epoch_was_over(offline, tmp_path):
    """Without numbers, as there are none yet."""
    class Leave(Callback):
        def after_batch(self):
            raise CancelFitException
    learner(path=tmp_path).fit(1, cbs=[Leave(), WandbCallback(log_preds=False, log_model=True)])
    assert records(tmp_path)[1] == [('model', 'model')]


def test_wandb_uploads_the_file_that_was_saved_and_writes_none(offline, tmp_path, monkeypatch):
    """What SaveModelCallback wrote last goes up as it is: no file is written anew with the weights at the end."""
    sent = []
    monkeypatch.setattr('minifast.callback.wandb.log_model', lambda path, name, metadata: sent.append((path, name)))
    learner(path=tmp_path).fit(2, cbs=[SaveModelCallback(fname='e', every_epoch=True),
                                       WandbCallback(log_preds=False, log_model=True)])
    assert sent == [(tmp_path / 'models/e_1.pth', 'e')]
    assert sorted(f.name for f in (tmp_path / 'models').iterdir()) == ['e_0.pth', 'e_1.pth']


def test_wandb_helpers_refuse_what_is_not_there(offline, tmp_path):
    """A missing folder or file is a ValueError."""
    with pytest.raises(ValueError, match='folder'):
        log_dataset(tmp_path / 'none')
    with pytest.raises(ValueError, match='file'):
        log_model(tmp_path / 'none')


@pytest.mark.parametrize('online', [False, True])
def test_wandb_data_are_an_artifact_with_what_is_told_of_them(online, tmp_path, monkeypatch):
    """Its name is the folder's unless told otherwise, what is told are texts, and saved models stay at home; online
    the run uses it."""
    for name in ('a/1.txt', 'models/m.pth', 'labels.csv'):
        (tmp_path / 'data' / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / 'data' / name).write_text(name)
    kept = {'log_artifact': [], 'use_artifact': []}
    run = SimpleNamespace(offline=not online, **{name: found.append for name, found in kept.items()})
    monkeypatch.setattr('minifast.callback.wandb._run_or_error', lambda name: run)
    log_dataset(tmp_path / 'data', metadata={'n': 3, 'from': tmp_path}, description='mine')
    log_dataset(str(tmp_path / 'data'), name='other')
    first, second = kept['use_artifact' if online else 'log_artifact']
    assert not kept['log_artifact' if online else 'use_artifact']
    assert (first.type, first.name, first.description) == ('dataset', 'data', 'mine')
    assert first.metadata == {'n': '3', 'from': str(tmp_path)} and sorted(first.manifest.entries) == [
        'a/1.txt', 'labels.csv']
    assert (second.name, second.metadata, second.description) == ('other', {}, 'raw dataset')


def test_wandb_logs_predictions_and_the_data(offline, tmp_path):
    """Predictions become a table of pictures, the folder of the data an artifact."""
    learn = pictures(tmp_path / 'data')
    learn.fit(1, cbs=WandbCallback(n_preds=5, log='all', log_dataset=tmp_path / 'data'))
    _, artifacts = records(tmp_path)
    table, = tmp_path.glob('wandb/offline-run-*/files/media/table/Prediction_Samples*.table.json')
    found = json.loads(table.read_text())
    assert found['columns'] == ['Input image', 'Ground_Truth', 'Predictions'] and len(found['data']) == 5
    assert ('dataset', 'data') in artifacts and {row[1] for row in found['data']} <= {'dark', 'light'}
    assert not learn.model._forward_hooks


def test_wandb_only_watches_and_survives_an_interrupt(offline, tmp_path):
    """The weights are those of a training without it, and after Ctrl-C the next fit logs on."""
    learn, twin = learner(cbs=WandbCallback(log_preds=False)), learner()
    learn.fit(1), twin.fit(1)
    assert same(weights(learn), weights(twin))
    with pytest.raises(KeyboardInterrupt):
        learn.fit(1, cbs=Interrupt('before_batch', at=2))
    learn.fit(1)
    rows, _ = records(tmp_path)
    assert len([row for row in rows if 'train_loss' in row]) == 10


@pytest.mark.parametrize('when', ['after_batch', 'after_epoch'])
def test_wandb_steps_are_those_of_the_run_while_a_fit_goes_on(when, offline, tmp_path):
    """The run's own step counts training batches in both phases of `fine_tune`, and what a callback logs beside falls
    into the row of its step, as under fastai."""
    seen = []

    def log(self):
        seen.append(wandb.run.step)
        if self.training or when == 'after_epoch':
            wandb.log({'mine': 1})
    beside = Callback(**{when: log})
    beside.order = 70
    learn = learner(metrics=accuracy, splitter=lambda m: [[m[1].weight], [m[1].bias]])
    learn.recorder.train_metrics = True
    learn.fine_tune(1, cbs=[WandbCallback(log_preds=False), beside])
    rows, _ = records(tmp_path)
    steps = [row['_step'] for row in rows if 'train_loss' in row]
    assert steps == [0, 1, 2, 3, 5, 6, 7, 8] and all('train_loss' in row for row in rows if 'mine' in row)
    if when == 'after_batch':  # validation batches see the step that stands open
        assert seen == [0, 1, 2, 3, 4, 4, 4, 4, 5, 6, 7, 8, 9, 9, 9, 9]
        assert len([row for row in rows if 'mine' in row]) == 8
    else:
        assert seen == [3, 8]
        table = [row for row in rows if 'train_accuracy' in row]
        assert [row['_step'] for row in table][0] == 3 and {'valid_loss', 'valid_accuracy', 'mine'} <= set(table[0])


def test_wandb_draws_each_kind_of_sample_in_its_way(offline, capsys):
    """Pictures of classes a table, masks laid over, anything else three rows of drawings with their captions."""
    from minifast.callback.wandb import wandb_process
    from minifast.markers import TensorCategory, TensorImage, TensorMask
    picture = TensorImage(torch.tensor([[[0., .5, 1.5]]]).expand(3, 2, 3))
    x, raw = picture[None], torch.zeros(1, 3, 2, 3)
    table = wandb_process(x, TensorCategory(torch.tensor([1])), [(picture, 'cat')], [('dog',)], raw)
    assert list(table) == ['Prediction_Samples']
    table, = table.values()
    assert table.columns == ['Input image', 'Ground_Truth', 'Predictions'] and table.data[0][1:] == ['cat', 'dog']
    assert np.asarray(table.data[0][0].image)[0].tolist() == [[0] * 3, [128] * 3, [255] * 3]
    table = wandb_process(x, TensorCategory(torch.tensor([1])), [(picture, 'cat')], [('dog', 'bird')], raw)
    assert table['Prediction_Samples'].data[0][2] == "('dog', 'bird')"

    target, out = TensorMask(torch.zeros(2, 3).long()), TensorMask(torch.full((2, 3), 2))
    for codes, labels in ((None, '012'), (['sky', 'tree', 'car'], ['sky', 'tree', 'car'])):
        if codes is not None:
            out.codes = codes
        table = wandb_process(x, TensorMask(torch.zeros(1, 2, 3)), [(picture, target)], [(out,)], raw)
        assert list(table) == ['Prediction_Samples']
        table, = table.values()
        assert table.columns == ['Input Image', 'Ground_Truth', 'Predictions']
        plain, *masked = table.data[0]
        assert plain._masks is None
        for image, name, code in zip(masked, ('Ground_Truth', 'Prediction'), (0, 2)):
            (found, mask), = image._masks.items()
            assert found == name and np.asarray(Image.open(mask._path)).tolist() == [[code] * 3] * 2
            assert mask._val['class_labels'] == dict(enumerate(labels))

    class Drawn:
        def __init__(self, name):
            self.name = name

        def show(self, ctx):
            drawn.append(self.name)
            return ctx
    drawn = []
    rows = wandb_process(torch.zeros(1), torch.zeros(1), [(Drawn('in'), Drawn('target'))], [(Drawn('out'),)], raw)
    assert drawn == ['in', 'in', 'out', 'in', 'target']
    assert {name: [image._caption for image in row] for name, row in rows.items()} == {
        'Inputs': ['Input data'], 'Predictions': ['Prediction'], 'Ground_Truth': ['Ground truth']}
    assert not plt.get_fignums()
