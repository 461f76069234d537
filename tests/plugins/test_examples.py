"""The scripts in `examples/` run, and leave what they say."""
from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

from minifast.run.history import read_run

EXAMPLES = Path(__file__).resolve().parents[2] / 'examples'


@pytest.mark.plugins
@pytest.mark.filterwarnings('ignore')  # optuna's own
def test_optuna_study_prunes_and_each_trial_is_a_run(tmp_path, monkeypatch):
    """Of three trials the first is trained to its end and those that lag are ended early; what optuna was told is what
    the runs' files hold."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['optuna_study.py', '3'])
    study = runpy.run_path(str(EXAMPLES / 'optuna_study.py'), run_name='__main__')['study']
    states = [trial.state.name for trial in study.trials]
    assert states[0] == 'COMPLETE' and 'PRUNED' in states and set(states) == {'COMPLETE', 'PRUNED'}
    for trial, state in zip(study.trials, states):
        run = read_run(f'study/trial {trial.number}')
        assert run.state == ('finished' if state == 'COMPLETE' else 'stopped')
        assert list(trial.intermediate_values.values()) == run.history['accuracy']
        assert run.fits[0]['config']['fit']['lr'] == pytest.approx(trial.params['lr'])
    assert study.best_value == max(read_run('study/trial 0').history['accuracy'])


def test_optuna_study_is_as_short_as_it_is_said_to_be():
    """From the function to the last line."""
    text = (EXAMPLES / 'optuna_study.py').read_text(encoding='utf-8')
    study = re.split(r'^(?=def objective)', text, flags=re.MULTILINE)[1]
    assert len([line for line in study.splitlines() if line.strip()]) <= 15
