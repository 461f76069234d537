"""Runs in a real local MLflow store."""
from __future__ import annotations

import warnings

import pytest
import torch
from small_learner import Interrupt, learner

from minifast.callback.mlflow import MLflowCallback
from minifast.metrics import accuracy
from minifast.run.history import read_run

with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    import mlflow
pytestmark = pytest.mark.filterwarnings('ignore')  # MLflow's own


@pytest.fixture
def client(tmp_path):
    """A store in a database of the test's own."""
    mlflow.set_tracking_uri(f'sqlite:///{tmp_path}/mlflow.db')
    client = mlflow.MlflowClient()
    client.create_experiment('digits', artifact_location=(tmp_path / 'artifacts').as_uri())
    yield client
    while mlflow.active_run():
        mlflow.end_run()


def test_mlflow_logs_settings_steps_and_epochs(client, tmp_path):
    """One finished run with the settings, the loss of every step and the metrics of every epoch; the run's own file
    says the same."""
    learn = learner(metrics=accuracy)
    learn.fit_one_cycle(2, 1e-2, cbs=MLflowCallback('digits', run_name='first', tags={'who': 'test'}),
                        run=tmp_path / 'run')
    run, = client.search_runs([client.get_experiment_by_name('digits').experiment_id])
    assert run.info.status == 'FINISHED' and run.info.run_name == 'first' and run.data.tags['who'] == 'test'
    assert run.data.params['batch size'] == '8' and run.data.params['Learner.model'] == 'Sequential'
    losses = client.get_metric_history(run.info.run_id, 'train_loss')
    assert [m.step for m in losses] == list(range(1, 9)) and mlflow.active_run() is None
    torch.testing.assert_close([m.value for m in losses], [float(loss) for loss in learn.recorder.losses])
    found = client.get_metric_history(run.info.run_id, 'accuracy')
    assert [m.step for m in found] == [4, 8]
    torch.testing.assert_close([m.value for m in found], [row[2] for row in learn.recorder.values])
    history = read_run(tmp_path / 'run').history
    for name in ('valid_loss', 'accuracy'):
        assert [m.value for m in client.get_metric_history(run.info.run_id, name)] == history[name]
    torch.testing.assert_close([losses[3].value, losses[7].value], history['train_loss'])


def test_mlflow_uses_the_active_run_for_several_fits(client):
    """Two fits in one active run follow each other; the run stays open for its owner."""
    experiment = client.get_experiment_by_name('digits').experiment_id
    learn = learner(cbs=MLflowCallback())
    with mlflow.start_run(experiment_id=experiment) as run:
        learn.fit(1), learn.fit(1)
        assert mlflow.active_run() is not None
    assert [m.step for m in client.get_metric_history(run.info.run_id, 'train_loss')] == list(range(1, 9))


def test_mlflow_registers_the_export(client, tmp_path):
    """The model in the registry is minifast's export, a file without code."""
    learn = learner(path=tmp_path)
    for _ in range(2):
        learn.fit(1, cbs=MLflowCallback('digits', registered_model='mine'))
    versions = client.search_model_versions("name='mine'")
    assert sorted(int(v.version) for v in versions) == [1, 2]
    assert [f.path for f in client.list_artifacts(versions[0].run_id, 'model')] == ['model/export.pkl']


def test_mlflow_marks_an_interrupted_run_as_failed(client):
    """Ctrl-C ends the run as FAILED with the steps there were; searches leave no run."""
    learn = learner(cbs=MLflowCallback('digits'))
    learn.lr_find(num_it=6, show_plot=False), learn.validate()
    with pytest.raises(KeyboardInterrupt):
        learn.fit(1, cbs=Interrupt('before_batch', at=2))
    run, = client.search_runs([client.get_experiment_by_name('digits').experiment_id])
    assert run.info.status == 'FAILED' and len(client.get_metric_history(run.info.run_id, 'train_loss')) == 2


@pytest.mark.parametrize('every, kills, owned', [(3, (6, 1), True), ('epoch', (3, 9), True), (3, (6,), False)])
def test_mlflow_of_a_resumed_training_equals_that_of_an_undisturbed_one(every, kills, owned, client, tmp_path):
    """One run, finished at the end, with each step and epoch once."""
    from minifast.callback.checkpoint import CheckpointCallback
    experiment = client.get_experiment_by_name('digits').experiment_id

    def fit(folder=None, kill=None, resume=False):
        learn = learner(metrics=accuracy)
        cbs = [MLflowCallback('digits')]
        cbs += [] if folder is None else [CheckpointCallback(folder, every=every)]
        cbs += [] if kill is None else [Interrupt('after_batch', at=kill)]
        torch.manual_seed(1)
        try:
            learn.fit(2, cbs=cbs, resume=resume)
        except KeyboardInterrupt:
            assert kill is not None
    fit()
    active = None if owned else client.create_run(experiment).info.run_id
    for i, kill in enumerate((*kills, None)):
        if owned:
            fit(tmp_path / 'c', kill, i > 0)
        else:
            with mlflow.start_run(run_id=active):
                fit(tmp_path / 'c', kill, i > 0)
    killed, whole = client.search_runs([experiment], order_by=['attributes.start_time DESC'])
    assert killed.info.status == whole.info.status == 'FINISHED'
    for name in whole.data.metrics:
        rows, expected = ([(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
                          for run in (killed, whole))
        assert rows == expected, name
    assert {'train_loss', 'accuracy', 'epoch', 'lr_0'} <= whole.data.metrics.keys()
