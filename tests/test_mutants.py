"""The list of faults that `make test-mutants` puts in, which must fit the code as it stands, and how runs end."""
from __future__ import annotations

import ast
import os
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from tools.mutants import __main__ as mutants
from tools.mutants import recorded, trees
from tools.mutants.faults import FAULTS
from tools.mutants.operations import Fault, default, drop, instead, returns, start, swapped, without_with


def test_faults_each_changes_the_code_that_stands():
    """A fault whose function was renamed or rewritten is an error here, not a fault that nobody puts in any more."""
    assert len(FAULTS) >= 150
    before = {}
    for fault in FAULTS:
        mutant = fault.applied()
        if mutant.file not in before:
            before[mutant.file] = ast.dump(ast.parse(mutant.file.read_text(encoding='utf-8')))
        assert ast.dump(ast.parse(mutant.code)) != before[mutant.file], fault.target


def test_faults_a_target_that_is_gone_is_an_error():
    """Nothing is passed over in silence."""
    for fault in (Fault('no_such_function', returns('1'), ''), Fault('Learner.no_such_method', returns('1'), ''),
                  Fault('Learner.freeze', instead('self.nothing()', 'pass'), '')):
        with pytest.raises(LookupError):
            fault.applied()


def test_operations_do_what_they_say():
    """Each on a small function of the package, seen in the new text."""
    made = {name: Fault('Learner.fit_flat_cos', operation, name).applied().code for name, operation in {
        'default': default('pct_start', '0.125'), 'drop': drop('self.fit'), 'start': start('lr = 7'),
        'swapped': swapped('lr', 'wd'), 'instead': instead('lr / div_final', 'lr * div_final')}.items()}
    assert 'pct_start: float = 0.125' in made['default'] and 'lr = 7\n' in made['start']
    assert 'lr, wd = wd, lr\n' in made['swapped'] and '(lr * div_final)' in made['instead']
    assert made['drop'].count('self.fit(') == made['start'].count('self.fit(') - 1
    assert 'torch.no_grad' not in Fault('Loop._do_epoch_validate', without_with('torch.no_grad'), '').applied().code


@pytest.mark.parametrize('fails', [True, False])
def test_the_test_that_noticed_a_change_is_asked_first_and_has_to_fail_again(fails, tmp_path, monkeypatch):
    """In a later run; where it passes now, the others are asked as if nothing were known."""
    monkeypatch.setattr(recorded, 'FOLDER', tmp_path)
    change, known, own = ('f', '-    a', '+    b'), 'tests/test_x.py::test_known', {'tests/test_own.py': {'t': 1.}}
    recorded.Killers().note(change, known)
    killers = recorded.Killers()
    assert killers.of(change) == known and killers.of((*change, '+')) == ''
    verdicts, met = object.__new__(mutants.Verdicts), []
    verdicts.killers, verdicts.names, verdicts.killed, verdicts.unfit = killers, [change], {}, set()
    verdicts.record = SimpleNamespace(seconds={known: 1.}, limit_s=lambda test: 60.)

    def alone(i, tests):
        met.append(tests)
        if fails:
            verdicts.killed[i] = known
    monkeypatch.setattr(verdicts, '_alone', alone)
    monkeypatch.setattr(verdicts, '_own', lambda i: own)
    verdicts._first_meeting(0)
    assert met == [{'tests/test_x.py': {known: 60.}}, own][:2 - fails]


@pytest.mark.skipif(not Path('/proc/self/environ').exists(), reason='what processes run is read where Linux tells it')
def test_what_a_run_leaves_behind_is_ended(tmp_path):
    """In its process group, and in a session of its own; nothing of another run."""
    sleep, tree, other = ['sleep', '60'], tmp_path / '0', tmp_path / '01'
    run = subprocess.Popen(sleep, start_new_session=True)
    left, others = (subprocess.Popen(sleep, start_new_session=True, env={**os.environ, trees._RUN: str(of)})
                    for of in (tree, other))
    try:
        trees._end_what_is_left(run.pid, tree)
        assert run.wait(10) == left.wait(10) == -signal.SIGKILL
        assert others.poll() is None
    finally:
        others.kill()
        others.wait()
