"""How two runs differ, in words: what is alike though spelled otherwise, what is severe, and what is told first."""
from __future__ import annotations

import pytest

from minifast.run.differences import Difference, differences, in_short
from minifast.run.identity import UNKNOWN, Column, RunIdentity


def parts(**changed):
    """The parts of a run."""
    return {'data': {'items': {}}, 'model': {'modules': {}}, 'loss': {}, 'optimizer': {}, 'schedule': {},
            'transforms': {}, 'settings': {'number of processes': 1}, 'environment': {'torch': '2.9'}, **changed}


def told(then, now, tables=None, keepers=()):
    """What is said, and whether it is severe."""
    return [(str(found), found.severe) for found in differences(then, RunIdentity(now), tables, keepers)]


ALIKE = {
    'the same': ({'a': [1, {'b': 2}]}, {'a': [1, {'b': 2}]}), 'not known then': ({'a': UNKNOWN}, {'a': 1}),
    'not known now': ({'a': [1, {'b': 'x'}]}, {'a': [1, {'b': UNKNOWN}]}),
    'of the script, imported now': ({'class': 'Net'}, {'class': 'train.Net'}),
    'imported then': ({'made by': {'function': 'lib.train.net'}}, {'made by': {'function': 'train.net'}}),
    'a room that has moved': ({'a': 'minifast.optimizer.lists.SGD(1)'}, {'a': 'minifast.SGD(1)'}),
    'rooms in a text': ({'a': 'x minifast.a.B minifast.c.d.E'}, {'a': 'x minifast.B minifast.E'}),
    'a layer before its first batch': ({'a': 'nn.Linear(~)'}, {'a': 'nn.Linear(2, 3)'}),
    'a layer behind it': ({'a': 'nn.Conv(2, size=(3, 3))'}, {'a': 'nn.Conv(~)'}),
    'a layer before it with brackets now': ({'a': 'nn.Conv(~)'}, {'a': 'nn.Conv(2, size=(3, 3))'}),
    'compiled by another Python': ({'code 3.9': 'x'}, {'code 3.11': 'y'}), 'compiled now': ({}, {'code 3.11': 'y'})}
UNLIKE = {
    'a number': ({'a': 1}, {'a': 2}, "'a' was 1 and is 2"), 'none': ({'a': None}, {'a': 0}, "'a' was null and is 0"),
    'deep': ({'a': [1, {'b': 2}]}, {'a': [1, {'b': 3}]}, "'a' [1] 'b' was 2 and is 3"),
    'another length': ({'a': [1, 2]}, {'a': [1]}, "'a' was [1, 2] and is [1]"),
    'another kind': ({'a': [1]}, {'a': {'b': 1}}, """'a' was [1] and is {"b": 1}"""),
    'came': ({}, {'a': 1}, "'a' was not there and is 1"), 'went': ({'a': 'x'}, {}, "'a' was x and is not there"),
    'a name that is none of code': ({'mode': 'max'}, {'mode': 'lib.max'}, "'mode' was max and is lib.max"),
    'part of a name': ({'class': 'Net'}, {'class': 'SubNet'}, "'class' was Net and is SubNet"),
    'a class and none': ({'class': 'Net'}, {'class': None}, "'class' was Net and is null"),
    'another layer': ({'a': 'nn.Conv(~)'}, {'a': 'nn.Linear(2)'}, "'a' was nn.Conv(~) and is nn.Linear(2)"),
    'a room of others': ({'a': 'my.minifast_x.A'}, {'a': 'my.A'}, "'a' was my.minifast_x.A and is my.A"),
    'another class of ours': ({'a': 'minifast.x.A'}, {'a': 'minifast.x.B'}, "'a' was minifast.x.A and is minifast.x.B"),
    'long': ({'a': 'x' * 121}, {'a': 'y' * 120}, f"'a' was {'x' * 110}... and is {'y' * 120}"),
    'two': ({'a': 1, 'b': 1}, {'a': 2, 'b': 2}, "'a' was 1 and is 2 (and 1 more differences)"),
    'code beside': ({'a': 1, 'code 3': 'x'}, {'a': 2, 'code 3': 'y'}, "'a' was 1 and is 2")}


@pytest.mark.parametrize('kind', ALIKE)
def test_what_cannot_be_told_apart_is_no_difference(kind):
    """Of another spelling, of another Python, or not known: whatever part it is of."""
    then, now = ALIKE[kind]
    for part in ('optimizer', 'loss', 'model'):
        assert told(parts(**{part: then}), parts(**{part: now})) == []
    assert told(parts(settings={'x': then}), parts(settings={'x': now, 'number of processes': 1})) == []


@pytest.mark.parametrize('kind', UNLIKE)
def test_what_is_another_is_named_with_what_it_was_and_is(kind):
    """The first of a part, by the way to it, and how many more there are."""
    then, now, words = UNLIKE[kind]
    assert told(parts(optimizer=then), parts(optimizer=now)) == [(f'the optimizer {words}', True)]
    model = 'it is another model, or one with another number of outputs'
    assert told(parts(model={'settings': then}), parts(model={'settings': now})) == [
        (f"the model 'settings' {words}: {model}", True)]
    then, now = (parts(settings={'number of processes': 1, 'x': x}) for x in (then, now))
    assert told(then, now) == [(f"the x {words.partition(' (and')[0]}", False)]


def test_a_difference_says_what_was_and_what_is():
    """As values too, each under its part and its name; another item is none of two values."""
    then = parts(model={'modules': {'a': 'x'}}, optimizer={'b': 1}, loss={'c': 1}, schedule={'lr': .1})
    now = parts(model={'modules': {'a': 'y'}}, optimizer={'b': 2}, loss={'c': 2}, schedule={'lr': .2},
                data={'items': {}, 'vocab': 3})
    found = [(one.part, one.what, one.then, one.now, one.severe)
             for one in differences(then, RunIdentity(now), None)]
    assert found == [('data', 'data', 'not there', 3, True), ('model', 'model', 'x', 'y', True),
                     ('loss', 'loss', 1, 2, True), ('optimizer', 'optimizer', 1, 2, True),
                     ('schedule', 'lr', .1, .2, False)]


def test_code_alone_is_a_warning():
    """It may do the same."""
    then, now = ({'inner': {'code 3.11': x, 'a': 1}} for x in 'xy')
    for part in ('loss', 'optimizer', 'model'):
        found, = differences(parts(**{part: then}), RunIdentity(parts(**{part: now})), None)
        assert (str(found), found.severe) == (f"the {part} 'inner': its code is not what it was", False)
        assert (found.part, found.what) == (part, part)


def test_another_loss_function_is_a_setting_and_another_loss_object_another_run():
    """A function has no state that another one could take."""
    one, other, thing = {'function': 'a'}, {'function': 'b'}, {'class': 'C'}
    for then, now, severe in ((one, other, False), (one, thing, True), (thing, one, True),
                              (thing, {'class': 'D'}, True), ({'class': 'x'}, 'y', True), ('function', one, True)):
        assert [found[1] for found in told(parts(loss=then), parts(loss=now))] == [severe]


def test_of_another_torch_the_kinds_of_modules_are_compared():
    """How it prints them may have changed; of the same one each setting counts."""
    then, now = ({'modules': {'a': f'nn.Linear({x})'}, 'weights': {'w': 'f'}} for x in '12')
    assert [found[1] for found in told(parts(model=then), parts(model=now))] == [True]
    newer = {'torch': '3.0'}
    assert told(parts(model=then), parts(model=now, environment=newer)) == [
        ('torch was 2.9 and is 3.0', False)]
    earlier = {k: v for k, v in parts(model=then).items() if k != 'environment'}
    assert told(earlier, parts(model=now)) == [('torch was not there and is 2.9', False)]
    words = [found[0] for found in told(parts(model=then), parts(model={'modules': {'a': 'nn.Conv(1)'}},
                                                                 environment=newer))]
    assert words[0] == ("the model 'modules' 'a' was nn.Linear and is nn.Conv (and 1 more differences): it is another "
                        'model, or one with another number of outputs')


def test_a_part_that_an_earlier_release_did_not_write_is_none():
    """Every part may be missing."""
    now = parts(model={'modules': {}, 'a': 1}, loss={'b': 2}, optimizer={'c': 3}, schedule={'d': 4}, transforms={},
                settings={'e': 5, 'number of processes': 1})
    missing = 'was not there and is'
    assert told({}, now) == [(f"the model 'a' {missing} 1: it is another model, or one with another number of outputs",
                              True), (f"the loss 'b' {missing} 2", True), (f"the optimizer 'c' {missing} 3", True),
                             (f'd {missing} 4', False), (f'e {missing} 5', False), (f'torch {missing} 2.9', False)]
    assert told({}, parts(settings={'number of processes': 2}, environment={'torch': UNKNOWN})) == [
        ('number of processes was 1 and is 2', False)]


def test_a_transform_of_both_splits_is_told_once():
    """Where both have changed in the same way; else each."""
    def both(a, b):
        return parts(transforms={'flip': {'training': {'p': a}, 'validation': {'p': b}}})
    assert told(both(1, 1), both(2, 2)) == [("the transform flip 'p' was 1 and is 2", False)]
    assert told(both(1, 1), both(1, 3)) == [("the transform flip 'p' was 1 and is 3", False)]
    two = [parts(transforms={name: {'training': x} for name in ('a', 'b')}) for x in (1, 2)]
    assert told(*two) == [(f'the transform {name} was 1 and is 2', False) for name in 'ab']


@pytest.mark.parametrize('course, words', [
    ([0., .5, 3., 1., 1., 1., 1., 1., 1e-7], '0 ... 3 ... 1e-07'),
    ([[0., i / 8] for i in range(9)], '0 ... 1 ... 1'), ([1.] * 8, [1.] * 8), ('not there', 'not there'),
    ({'function': 'f'}, {'function': 'f'})])
def test_a_schedule_is_told_by_start_top_and_end(course, words):
    """Of the last group; what is none of nine values as it is."""
    assert in_short(course) == words
    found, = told(parts(schedule={'schedule of lr': [7.] * 9}), parts(schedule={'schedule of lr': course}))
    assert found[0].startswith('schedule of lr was 7 ... 7 ... 7 and is ') and not found[1]


def test_callbacks_that_came_or_went_are_told_where_they_change_the_training():
    """Those of ours; what a user's does cannot be told, nor is what its state will tell; one that changed always is."""
    def settings(**callbacks):
        return parts(settings={'number of processes': 1,
                               **{f'callback {name}': {'class': cls, 'n': n} for name, (cls, n) in callbacks.items()}})
    ours, theirs = settings(a=('minifast.A', 1)), settings(a=('mine.A', 1))
    for then, now in ((ours, settings()), (settings(), ours)):
        assert len(told(then, now)) == 1 and told(then, now, keepers=['a']) == []
        assert len(told(then, now, keepers=['b'])) == 1
    assert told(theirs, settings()) == told(settings(), theirs) == []
    for cls in ('minifast.A', 'mine.A'):
        then, now = (settings(a=(cls, n)) for n in (1, 2))
        assert told(then, now) == told(then, now, keepers=['a']) == [("the callback a 'n' was 1 and is 2", False)]
    then, now = ({**found, 'settings': {**found['settings'], 'x': n}} for n, found in enumerate((theirs, settings())))
    assert told(then, now) == [('x was 0 and is 1', False)]  # what is passed over ends nothing
    odd = parts(settings={'callback a': 3, 'number of processes': 1})
    assert told(odd, settings()) == told(settings(), odd) == []


def test_what_is_said_is_letters():
    """Names of files and classes come from elsewhere."""
    assert '\x1b' not in str(Difference('settings', 'a\x1b[31m', 'b', 'c', False))
    assert str(Difference('settings', 'a', [1], None, False)) == 'a was [1] and is null'
    assert str(Difference('settings', 'a', 1, 2, False, 'as said')) == 'as said'


# ---------------------------------------------------------------- items

def run_of(**lists):
    """The parts and tables of a run with these lists of items, in columns."""
    tables = {name: {key: column if isinstance(column, Column) else Column(list(column))
                     for key, column in columns.items()} for name, columns in lists.items()}
    items = {name: {key: c.digests() for key, c in columns.items()} for name, columns in tables.items()}
    return RunIdentity(parts(data={'items': items}), tables)


def items_told(then, now, lost=False):
    found = differences(then.parts, now, None if lost else then.tables)
    assert all((one.part, one.then, one.now) == ('data', None, None) for one in found if one.what != 'data')
    return [(str(one), one.severe) for one in found]


def files(names, sizes=None, times=None, contents=None):
    """A column of files."""
    return Column(list(names), *([None] * len(names) if x is None else list(x) for x in (sizes, times, contents)))


ITEMS = {
    'another': ({'item': 'abc'}, {'item': 'axc'}, 'training item 1 was b and is x (x new; b gone)'),
    'more': ({'item': 'ab'}, {'item': 'abc'}, 'training item 2 was not there and is c (c new)'),
    'fewer': ({'item': 'abc'}, {'item': 'ab'}, 'training item 2 was c and is not there any more (c gone)'),
    'order': ({'item': 'ab'}, {'item': 'ba'},
              'training item 0 was a and is b (the same items, in another order or split)'),
    'none then': ({}, {'item': 'a'}, 'training item 0 was not there and is a (a new)'),
    'many': ({'item': 'a'}, {'item': 'bcdef'}, 'training item 0 was a and is b (b, c, d and 2 more new; a gone)'),
    'label': ({'item': 'ab', 'label': 'xy'}, {'item': 'ab', 'label': 'xz'},
              'training item 1 was b, label y and is b, label z (the same items, in another order or split)'),
    'size': ({'item': files('ab', [1, 2])}, {'item': files('ab', [1, 3])},
             'training item 1 was b, 2 bytes and is b, 3 bytes and so has other contents'),
    'contents': ({'item': files('ab', [1, 2], None, [5, 6])}, {'item': files('ab', [1, 2], None, [5, 7])},
                 'training item 1, b, 2 bytes, has other contents'),
    'contents though times are the same': (
        {'item': files('a', [1], [3], [5])}, {'item': files('a', [1], [3], [6])},
        'training item 0, a, 1 bytes, has other contents'),
    'an item behind an unknown one': ({'item': 'ab', 'label': [UNKNOWN, 'y']}, {'item': 'ab', 'label': 'xz'},
                                      'training item 1 was b, label y and is b, label z (the same items, in another '
                                      'order or split)')}
SAME_ITEMS = {
    'unknown labels': ({'item': 'ab', 'label': 'xy'}, {'item': 'ab', 'label': [UNKNOWN, 'y']}),
    'labels that were not told then': ({'item': 'ab'}, {'item': 'ab', 'label': 'xy'}),
    'labels that are not told now': ({'item': 'ab', 'label': 'xy'}, {'item': 'ab'}),
    'a copy': ({'item': files('a', [1], [3], [5])}, {'item': files('a', [1], [4], [5])}),
    'sizes not known': ({'item': files('a', [1], [3])}, {'item': files('a', [None], [None])})}


@pytest.mark.parametrize('kind', ITEMS)
def test_the_first_item_that_is_another_is_named(kind):
    """With its label and size; and what is new and gone on the whole."""
    then, now, words = ITEMS[kind]
    assert items_told(run_of(training=then), run_of(training=now)) == [(words, True)]


@pytest.mark.parametrize('kind', SAME_ITEMS)
def test_what_is_not_known_of_an_item_is_no_difference(kind):
    """A label that took too long, a file that was copied."""
    then, now = (run_of(training=columns) for columns in SAME_ITEMS[kind])
    assert then.parts != now.parts and items_told(then, now) == []


def test_another_time_of_an_item_that_was_not_read_is_one_warning():
    """The first; a severe difference behind it counts instead."""
    then, now = (run_of(training={'item': files('abc', [1, 2, 3], times)}, validation={'item': 'x'})
                 for times in ([1, 2, 3], [1, 5, 6]))
    words = 'b has another time of change and the same size; its contents were not compared'
    assert items_told(then, now) == [(words, False)]
    other = run_of(training=now.tables['training'], validation={'item': 'y'})
    assert items_told(then, other) == [('validation item 0 was x and is y (y new; x gone)', True)]
    now.parts['data']['vocab'] = ['a']
    assert items_told(then, now) == [("the data 'vocab' was not there and is [\"a\"]", True)]


def test_of_the_rest_of_the_data_the_first_difference_is_told():
    """Behind the items."""
    then, now = (parts(data={'items': {}, 'vocab': [x], 'training': {'class': x}}) for x in 'ab')
    assert told(then, now) == [("the data 'vocab' [0] was a and is b", True)]
    assert told(parts(data={}), parts()) == []


def test_without_the_list_of_then_the_numbers_are_told():
    """Times alone are no difference then; the first list that is another is named."""
    then = run_of(training={'item': files('abc', [1, 2, 3], [1, 2, 3])}, validation={'item': 'x' * 1234})
    touched = run_of(training={'item': files('abc', [1, 2, 3], [4, 5, 6])}, validation={'item': 'x' * 1234})
    assert items_told(then, touched, lost=True) == []
    gone = ('the list of then is gone from the folder, so that the first difference cannot be named')
    other = run_of(training={'item': files('abc', [1, 2, 3], [1, 2, 3])}, validation={'item': 'y' * 1000})
    assert items_told(then, other, lost=True) == [
        (f'the validation items were 1,234 and are 1,000, and they are others ({gone})', True)]
    none = run_of(training={'item': files('abc', [1, 2, 3], [1, 2, 3])})
    assert items_told(then, none, lost=True) == [
        (f'the validation items were 1,234 and are 0, and they are others ({gone})', True)]
    assert items_told(none, then, lost=True) == [
        (f'the validation items were 0 and are 1,234, and they are others ({gone})', True)]
