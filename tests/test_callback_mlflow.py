"""Runs in a real local MLflow store."""
from __future__ import annotations

import warnings

import pytest
import torch
from small_learner import Interrupt, learner

from minifast.callback.mlflow import MLflowCallback
from minifast.metrics import accuracy

with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    mlflow = pytest.importorskip('mlflow')
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


def test_mlflow_logs_settings_steps_and_epochs(client):
    """One finished run with the settings, the loss of every step and the metrics of every epoch."""
    learn = learner(metrics=accuracy)
    learn.fit_one_cycle(2, 1e-2, cbs=MLflowCallback('digits', run_name='first', tags={'who': 'test'}))
    run, = client.search_runs([client.get_experiment_by_name('digits').experiment_id])
    assert run.info.status == 'FINISHED' and run.info.run_name == 'first' and run.data.tags['who'] == 'test'
    assert run.data.params['batch size'] == '8' and run.data.params['Learner.model'] == 'Sequential'
    losses = client.get_metric_history(run.info.run_id, 'train_loss')
    assert [m.step for m in losses] == list(range(1, 9)) and mlflow.active_run() is None
    torch.testing.assert_close([m.value for m in losses], [float(loss) for loss in learn.recorder.losses])
    found = client.get_metric_history(run.info.run_id, 'accuracy')
    assert [m.step for m in found] == [4, 8]
    torch.testing.assert_close([m.value for m in found], [row[2] for row in learn.recorder.values])


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
