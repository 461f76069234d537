"""What fastai code sees of minifast: the same scripts give the same results, the same events, the same names."""
from __future__ import annotations

import importlib
import json
import statistics
import sys
import warnings
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import event_traces  # noqa: E402
import runner  # noqa: E402
import surface  # noqa: E402
from left_out import FASTAI_NAMES, LEFT_OUT, reason_for  # noqa: E402
from plugin_names import NAMES  # noqa: E402

stored = runner.load_stored()
golden = json.loads((HERE.parent / 'data' / 'event_traces.json').read_text(encoding='utf-8'))
TRAINING = [script for script in runner.SCRIPTS if script.startswith('train_')]
NOISE = 0.15
"""How far the accuracy of one short training may lie from fastai's mean over five seeds."""


def test_scripts_all_have_stored_results():
    """Every script ran under fastai, and there are twelve of each kind."""
    assert sorted(stored) == runner.SCRIPTS
    assert len(TRAINING) == 12 and len(runner.SCRIPTS) == 24


@pytest.mark.parametrize('script', [script for script in runner.SCRIPTS if script not in TRAINING])
def test_data_script_gives_what_fastai_gives(script):
    """Shapes, types, vocab, splits and labels are equal, pixels within 1/255 on average."""
    assert runner.differences(runner.run_script(script, 'minifast'), stored[script]) == []


@pytest.mark.parametrize('script', TRAINING)
def test_training_script_gives_what_fastai_gives(script):
    """Columns, shapes and types are equal; the accuracy is fastai's within noise."""
    found = runner.run_script(script, 'minifast')
    assert runner.differences(found, stored[script]) == []
    for key in (key for key in found if key.startswith('score_')):
        theirs = stored[script][key]
        assert found[key] > statistics.mean(theirs) - NOISE, f'{key} is {found[key]}, under fastai {theirs}'


@pytest.mark.slow
@pytest.mark.parametrize('script', [s for s in TRAINING if any(key.startswith('score_') for key in stored[s])])
def test_training_script_accuracy_over_seeds_is_fastais(script):
    """Over five seeds the mean accuracy lies within three standard errors (at least 0.02) of fastai's, or above."""
    runs = [runner.run_script(script, 'minifast', seed) for seed in runner.SEEDS]
    for key in (key for key in runs[0] if key.startswith('score_')):
        ours, theirs = [run[key] for run in runs], stored[script][key]
        error = ((statistics.variance(ours) + statistics.variance(theirs)) / len(ours)) ** 0.5
        assert statistics.mean(ours) > statistics.mean(theirs) - max(3 * error, 0.02), f'{key}: {ours}, fastai {theirs}'


@pytest.fixture(scope='module')
def traces():
    """All event traces under minifast."""
    learner = importlib.import_module('minifast.learner')
    before = learner.defaults.callbacks
    try:
        return event_traces.record('minifast')
    finally:
        learner.defaults.callbacks = before


def test_event_traces_are_fastais(traces):
    """A fit, a validation, predictions, and each Cancel exception raised at each event: the same events in the same
    order as in fastai."""
    different = {name: (found, golden['traces'][name]) for name, found in traces['traces'].items()
                 if found != golden['traces'][name]}
    assert traces['traces'].keys() == golden['traces'].keys()
    assert different == {}


def test_event_attributes_are_fastais(traces):
    """At each event of a fit the counters (epoch, iter, train_iter, pct_train, training) are fastai's."""
    assert traces['attributes'] == golden['attributes']


@pytest.fixture(scope='module')
def report():
    """The surface report of minifast."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # torchvision's and matplotlib's, about how they are called here
        return surface.report('minifast')


@pytest.mark.parametrize('section', ['names', 'attributes', 'keyword arguments', 'names seen once', 're-exports'])
def test_surface_is_whole_but_for_the_listed(report, section):
    """What public code uses is there and works; whatever is not has its reason on the list."""
    _, missing = report[section]
    assert [line for line in missing if reason_for(line) is None] == []


def test_left_out_list_names_nothing_that_is_there(report):
    """The list of what is left out is no longer than it must be."""
    missing = {line.split(' ')[0] for _, lines in report.values() for line in lines}
    assert [name for name in LEFT_OUT if name not in missing] == []


NAMESPACE = json.loads((HERE.parent / 'data' / 'fastai_namespace.json').read_text(encoding='utf-8'))
"""Module -> the names that `fastai.vision.all` has from it."""


def _missing_from_namespace() -> list[tuple[str, str]]:
    public = vars(importlib.import_module('minifast.vision.all'))
    return [(module, name) for module, names in NAMESPACE.items() for name in names.split() if name not in public]


def test_public_names_of_fastai_vision_all_are_there_or_have_a_reason():
    """Each is in `minifast.vision.all`, or on the list, alone or with its module."""
    missing = _missing_from_namespace()
    assert [where for where in missing if not FASTAI_NAMES.keys() & {*where}] == []


def test_list_of_reasons_names_nothing_that_is_there():
    """Each entry of the list is needed."""
    used = {part for where in _missing_from_namespace() for part in where}
    assert sorted(FASTAI_NAMES.keys() - used) == []


@pytest.mark.parametrize('module', NAMES)
def test_names_that_plugins_import_are_where_fastai_has_them(module):
    """`from fastai.learner import _maybe_item` and its kin work with the import line changed."""
    found = importlib.import_module(f'minifast.{module}')
    assert [name for name in NAMES[module].split() if not hasattr(found, name)] == []
