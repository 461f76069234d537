"""The list of faults that `make test-mutants` puts in: it must fit the code as it stands."""
from __future__ import annotations

import ast

import pytest
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
