"""A sample of the list of faults, each met by the one test that is known to notice it."""
from __future__ import annotations

import json

import pytest
from tools.mutants.noticed import NOTICED, Runner, fault_of

SAMPLE = json.loads(NOTICED.read_text(encoding='utf-8'))


@pytest.fixture(scope='module')
def runner():
    """Processes that have the slow imports done."""
    return Runner()


@pytest.mark.parametrize('case', SAMPLE, ids=lambda case: f'{case["target"]}: {case["why"]}')
def test_faults_of_the_sample_are_noticed(case, runner):
    """With the fault the test fails; that it passes without is seen where it stands."""
    status, text, _ = runner.run(fault_of(case['target'], case['why']).applied(), (case['test'],))
    assert status == 1, f'{case["test"]} does not see that {case["why"]}: {text[-600:]}'


def test_there_are_enough_faults_in_the_sample():
    """Forty, of many rooms."""
    assert len(SAMPLE) == 40 and len({case['test'].split('::')[0] for case in SAMPLE}) >= 12
