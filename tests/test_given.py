"""Every argument of every public door changes what it says it changes: none is left without a test unseen."""
from __future__ import annotations

import ast

import pytest
from given import WITHOUT_EFFECT, Given, doors, never_given, options


def test_every_argument_is_given_another_value_by_a_test():
    """But for those of `WITHOUT_EFFECT`, which change nothing, and of rooms that are tested elsewhere."""
    assert not set(never_given()), 'arguments that no test gives: write one'


def test_doors_and_arguments_are_found():
    """Functions, constructors, inherited ones, methods; the table names none that is not there."""
    found = doors()
    assert {'Learner', 'Learner.fit_one_cycle', 'DataBlock', 'ImageDataLoaders.from_folder', 'Adam', 'MixUp', 'Resize',
            'CrossEntropyLossFlat', 'ConvLayer', 'combined_cos', 'F1Score', 'RandomSplitter'} <= set(found)
    assert options(found['Learner'][0])['lr'][0] is not None and 'self' not in options(found['Learner'][0])
    known = {(name, option) for name, (func, _) in found.items() for option in options(func)}
    assert set(WITHOUT_EFFECT) <= known


@pytest.mark.parametrize('code, seen', [
    ('def test():\n    fit(1, lr=2)', True), ('def test():\n    learn.fit(1, 2)', True),
    ('def test():\n    partial(fit, lr=2)', True), ('TABLE = [("fit", (1,), {"lr": 2})]', True),
    ('TABLE = {"lr": 2}\ndef test():\n    fit(1, **TABLE)', True), ('class A(fit):\n    def __init__(self):\n'
     '        super().__init__(1, lr=2)', True), ('def test():\n    fit(1, lr=.5)', False),
    ('def test():\n    fit(1)', False), ('def test():\n    other(1, lr=2)', False),
    ('def test():\n    fit(*args)', False),
    ('@parametrize("f", ["fit"])\ndef test(f):\n    f(1, lr=2)', True),
    ('def test():\n    f = partial(fit, 1)\n    f(lr=2)', True), ('def test():\n    fit(1)\n    f(lr=2)', False)])
def test_calls_are_read(tmp_path, code, seen):
    """By keyword, by place, in tables and behind `**`; not where it is the default."""
    ast.parse(code)
    (tmp_path / 'a.py').write_text(code)
    assert Given([tmp_path / 'a.py'], {'fit'}).varied({'fit'}, 'lr', 1, .5) is seen


@pytest.mark.parametrize('code, seen', [
    ('def test():\n    Fit(1)(1, lr=2)', True), ('def test():\n    fit = Fit(1)\n    fit(1, 2)', True),
    ('def test():\n    Fit(1, lr=2)(1)', False), ('def test():\n    fit(1, lr=2)', False)])
def test_calls_of_what_was_just_made_are_read(tmp_path, code, seen):
    """As those of its `__call__`, which nobody writes."""
    (tmp_path / 'a.py').write_text(code)
    assert Given([tmp_path / 'a.py'], {'Fit'}).varied({'__call__'}, 'lr', 1, .5) is seen
