"""MLflow: settings, losses, metrics and the exported model of a training as one run."""
from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minifast.arguments import tells_near_match
from minifast.callback.tracking import ExperimentLogger, Step, settings_of

__all__ = ['MLflowCallback']


def _flat(settings: Mapping[str, Any], prefix: str = '') -> dict[str, str]:
    """Nested settings as `outer.inner` -> text, in the letters that MLflow allows in a name."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        key = ''.join(c if c.isalnum() or c in '_-. /' else '_' for c in f'{prefix}{name}')
        found.update(_flat(value, f'{key}.') if isinstance(value, Mapping) else {key: str(value)[:500]})
    return found


class MLflowCallback(ExperimentLogger):
    """Logs a training to MLflow: into the active run where there is one, else each fit becomes a run of its own.

    Settings become parameters; losses and hyper-parameters metrics by step; the table of epochs metrics at the epoch's
    last step. A run of our own is the active one meanwhile and ends as FINISHED, or as FAILED after an error or Ctrl-C.
    Models are logged as minifast's export, which is data without code, never as a pickle.

    Args:
        experiment: name of the experiment, made if it is not there; default: MLflow's.
        run_name: of a run of our own; default: MLflow's choice.
        log_params: log the settings.
        log_model: log `learn.export()` as the artifact `model/export.pkl` when the fit ends.
        registered_model: also register it as a new version of this model; implies `log_model`.
        tags: of a run of our own.
    """

    @tells_near_match
    def __init__(self, experiment: str | None = None, run_name: str | None = None, log_params: bool = True,
                 log_model: bool = False, registered_model: str | None = None,
                 tags: Mapping[str, str] | None = None) -> None:
        self.experiment, self.run_name, self.log_params = experiment, run_name, log_params
        self.log_model, self.registered_model, self.tags = log_model, registered_model, tags
        self.run_id: str | None = None
        self._steps_in_run: dict[str, int] = {}

    def start(self) -> None:
        import mlflow
        from mlflow.entities import Param
        self._client = mlflow.MlflowClient()
        at, run = self.goes_on, mlflow.active_run()
        self._own_run = run is None
        if run is None:
            run = self._own(at)
        self.run_id = run.info.run_id
        self._step0 = at.get('step0', self._steps_in_run.get(self.run_id, 0))
        # the training that was killed may have logged steps behind its checkpoint: they are there, to the same bits
        self._logged: dict[str, int] | None = {} if self.run_id == at.get('run_id') else None
        if self.log_params:
            # a run keeps the parameters of its first fit: MLflow does not allow to change them
            known = self._client.get_run(self.run_id).data.params
            new = [Param(name, value) for name, value in _flat(settings_of(self.learn)).items() if name not in known]
            for i in range(0, len(new), 100):
                self._client.log_batch(self.run_id, params=new[i:i + 100])

    def _own(self, at: dict[str, Any]) -> Any:
        """A run of our own: the one that a resumed training had, else a new one."""
        import mlflow
        from mlflow.exceptions import MlflowException
        if at.get('own_run'):
            try:
                return mlflow.start_run(run_id=at['run_id'])
            except MlflowException as error:
                warnings.warn(f'MLflowCallback goes on in a new run: {error}', stacklevel=2)
        return mlflow.start_run(experiment_id=self._experiment_id(), run_name=self.run_name, tags=self.tags)

    def place(self) -> dict[str, Any]:
        """The run and the number of its step before this fit."""
        return {'run_id': self.run_id, 'own_run': self._own_run, 'step0': self._step0}

    def _experiment_id(self) -> str | None:
        if self.experiment is None:
            return None
        found = self._client.get_experiment_by_name(self.experiment)
        return self._client.create_experiment(self.experiment) if found is None else found.experiment_id

    def log_steps(self, steps: Sequence[Step]) -> None:
        from mlflow.entities import Metric
        rows = [Metric(name, value, int(step.time_s * 1000), self._step0 + step.train_iter) for step in steps
                for name, value in {'train_loss': step.train_loss, 'raw_loss': step.raw_loss, **step.hypers}.items()]
        self._steps_in_run[self.run_id] = self._step0 + steps[-1].train_iter
        self._log(rows)

    def log_epoch(self, numbers: dict[str, float]) -> None:
        from mlflow.entities import Metric
        now_ms, step = int(time.time() * 1000), self._step0 + self.learn.train_iter
        epoch = {'epoch': float(self.learn.epoch + 1)}
        self._log([Metric(name, value, now_ms, step) for name, value in {**epoch, **numbers}.items()])

    def _log(self, metrics: list) -> None:
        metrics = [metric for metric in metrics if not self._is_logged(metric)]
        for i in range(0, len(metrics), 1000):  # as many as one call takes
            self._client.log_batch(self.run_id, metrics=metrics[i:i + 1000])

    def _is_logged(self, metric: Any) -> bool:
        if self._logged is None:
            return False
        if metric.key not in self._logged:
            history = self._client.get_metric_history(self.run_id, metric.key)
            self._logged[metric.key] = max((old.step for old in history), default=-1)
        return metric.step <= self._logged[metric.key]

    def after_fit(self) -> None:
        super().after_fit()
        if not self._started:  # no epoch was left to train
            return
        if self.log_model or self.registered_model:
            self._log_export()

    def _log_export(self) -> None:
        from mlflow.exceptions import MlflowException
        with tempfile.TemporaryDirectory() as folder:
            file = self.learn.export(Path(folder).resolve() / 'export.pkl')
            self._client.log_artifact(self.run_id, str(file), 'model')
        if self.registered_model is None:
            return
        try:
            self._client.create_registered_model(self.registered_model)
        except MlflowException as error:
            if error.error_code != 'RESOURCE_ALREADY_EXISTS':
                raise
        source = f'{self._client.get_run(self.run_id).info.artifact_uri}/model'
        self._client.create_model_version(self.registered_model, source=source, run_id=self.run_id)

    def finish(self, completed: bool) -> None:
        import mlflow
        if self._own_run:
            mlflow.end_run('FINISHED' if completed else 'FAILED')
