"""Callbacks of published packages that import fastai run on minifast by `import minifast.as_fastai`, unedited.

The packages come with `pip install minifast[test-plugins]`, and `make test-plugins` runs what is marked `plugins`.
"""
from __future__ import annotations

import importlib
import json
import sys
import warnings

import pytest
import torch

from minifast.test_utils import synth_learner


@pytest.fixture
def as_fastai():
    """fastai means minifast inside the test; afterwards it means what it meant before."""
    if 'fastai' in sys.modules:
        pytest.skip('fastai itself is imported in this process')
    modules, finders = set(sys.modules), list(sys.meta_path)
    sys.modules.pop('minifast.as_fastai', None)
    importlib.import_module('minifast.as_fastai')
    yield
    sys.meta_path[:] = finders
    for name in set(sys.modules) - modules:
        if name.split('.')[0] in ('fastai', 'dvclive', 'optuna_integration') or name == 'minifast.as_fastai':
            del sys.modules[name]


def quiet(**kwargs):
    """A small learner that prints nothing."""
    learn = synth_learner(**kwargs)
    learn.remove_cb(learn.progress)
    learn.logger = lambda row: None
    return learn


def imported(module):
    """A plugin package's module; what other packages warn about is theirs."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return importlib.import_module(module)


@pytest.mark.plugins
@pytest.mark.filterwarnings('ignore')
def test_dvclive_logs_fit_and_fine_tune(as_fastai, tmp_path, monkeypatch):
    """dvclive's callback writes one step an epoch, finds `fine_tune` on the stack and takes both phases as one run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('DVC_NO_ANALYTICS', '1')
    dvclive = imported('dvclive')
    callback = imported('dvclive.fastai').DVCLiveCallback
    live = dvclive.Live(dir='live', save_dvc_exp=False, report=None, dvcyaml=None)
    learn = quiet(cbs=callback(live=live), metrics=mean_distance)
    learn.lr_find(num_it=4, show_plot=False)
    learn.fine_tune(2, freeze_epochs=1)
    learn.get_preds()
    summary = json.loads((tmp_path / 'live' / 'metrics.json').read_text())
    assert summary['step'] == 2 and {'train', 'eval', 'mean_distance'} <= summary.keys() | summary['eval'].keys()
    rows = (tmp_path / 'live' / 'plots' / 'metrics' / 'train' / 'loss.tsv').read_text().splitlines()
    assert len(rows) == 1 + 3
    assert 'batch_size: 16' in (tmp_path / 'live' / 'params.yaml').read_text()


@pytest.mark.plugins
@pytest.mark.filterwarnings('ignore')
def test_optuna_prunes_a_bad_trial_and_lets_a_good_one_end(as_fastai):
    """optuna's callback stops a fit by CancelFitException and raises TrialPruned from `after_fit`; the learner is
    usable afterwards."""
    optuna = imported('optuna')
    callback = imported('optuna_integration.fastaiv2.fastaiv2').FastAIV2PruningCallback
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    learners = []

    def objective(trial):
        torch.manual_seed(1)
        learn = quiet(lr=0.1 if trial.number == 0 else 1e-7)
        learners.append(learn)
        learn.fit(4, cbs=callback(trial, monitor='valid_loss'))
        return float(learn.recorder.values[-1][1])
    study = optuna.create_study(pruner=optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=0))
    study.optimize(objective, n_trials=2)
    assert [trial.state.name for trial in study.trials] == ['COMPLETE', 'PRUNED']
    assert sorted(study.trials[0].intermediate_values) == [0, 1, 2, 3]
    assert sorted(study.trials[1].intermediate_values) == [0]
    learners[1].fit(1, 0.1)
    assert len(learners[1].recorder.values) == 1


def test_wandb_integration_module_is_for_fastai_1(as_fastai):
    """wandb's own module imports `fastai.callbacks` of fastai 1, which minifast has no more than fastai 2 has; the
    callback for fastai 2 is `fastai.callback.wandb.WandbCallback`."""
    imported('wandb')
    with pytest.raises(ModuleNotFoundError, match='fastai.callbacks'):
        importlib.import_module('wandb.integration.fastai')
    assert importlib.import_module('fastai.callback.wandb').WandbCallback.__module__ == 'minifast.callback.wandb'


def mean_distance(preds, targets):
    """A metric."""
    return (preds - targets).abs().mean()
