"""Laws of labels: what is empty is told before training, with its row and column; what is hardly meant is a warning."""
from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from fastcore.foundation import L

from minifast.data.block import CategoryBlock, DataBlock, MultiCategoryBlock, RegressionBlock, TransformBlock
from minifast.data.core import Datasets
from minifast.data.categorize import column_named, is_missing, labels_of, place_of
from minifast.data.transforms import (Categorize, ColReader, ColSplitter, GrandparentSplitter, IndexSplitter,
                                      ItemGetter, MaskSplitter, MultiCategorize, RegexLabeller)

EMPTY = [np.nan, None, pd.NA, float('nan'), np.float32('nan'), pd.NaT]


def _datasets(labels, block=CategoryBlock, valid=(), **columns):
    """Data sets of a table whose rows are called 100, 101, ..."""
    table = pd.DataFrame({'label': labels, **columns}, index=range(100, 100 + len(labels)))
    reader = columns.pop('reader', None) or ColReader(['label', *columns] if columns else 'label')
    return DataBlock((TransformBlock, block), get_y=reader, splitter=IndexSplitter(valid)).datasets(table)


def _said(make) -> str:
    """All warnings of a call in one text."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        make()
    return ' '.join(str(w.message) for w in told)


@pytest.mark.parametrize('empty', EMPTY, ids=repr)
def test_empty_is_what_no_value_stands_in(empty):
    """Every way to write that there is nothing; zero and an empty text are something."""
    assert is_missing(empty)
    assert not any(is_missing(o) for o in (0, 0., False, '', 'nan', [], torch.zeros(2), np.zeros(2)))


@pytest.mark.parametrize('empty', EMPTY[:3], ids=repr)
@pytest.mark.parametrize('valid', [(), (1,)], ids=['training', 'validation'])
@pytest.mark.parametrize('block', [CategoryBlock, CategoryBlock(vocab=['a', 'b']), MultiCategoryBlock])
def test_empty_label_is_refused_before_training_with_row_and_column(empty, valid, block):
    """In training and validation rows, with classes that were given and without."""
    labels = ['a', empty, 'b']
    if block is MultiCategoryBlock:
        labels = [['a'], empty, ['a', 'b']]
    with pytest.raises(ValueError, match=r"row 101 of column 'label' has no label.*df\.dropna\(subset=\['label'\]\)"):
        _datasets(labels, block, valid)


@pytest.mark.parametrize('column', [
    pd.array([1, None, 2], dtype='Int64'), pd.array([True, None, False], dtype='boolean'),
    pd.Categorical(['a', None, 'b']), [1., np.nan, 2.]], ids=['Int64', 'boolean', 'category', 'float'])
def test_empty_label_of_every_kind_of_column(column):
    """pandas' own kinds of columns write emptiness each in its way."""
    with pytest.raises(ValueError, match='row 101'):
        _datasets(column)


def test_labels_of_pandas_own_kinds_are_classes():
    """Int64, booleans and categories without a gap are labels as they are."""
    for column, vocab in ((pd.array([2, 1, 2], dtype='Int64'), [1, 2]), ([True, False, True], [False, True]),
                          (pd.Categorical(['b', 'a', 'b']), ['a', 'b']), (pd.array(['x', 'y', 'x'], dtype='string'),
                                                                        ['x', 'y'])):
        dsets = _datasets(column)
        assert list(dsets.vocab) == vocab and [int(y) for _, y in dsets] == [vocab.index(o) for o in column]


def test_empty_label_is_a_class_with_add_na():
    """`add_na` says that something may be missing."""
    dsets = _datasets(['a', np.nan, 'b', None], CategoryBlock(add_na=True))
    assert list(dsets.vocab) == ['#na#', 'a', 'b'] and [int(y) for _, y in dsets] == [1, 0, 2, 0]


def test_empty_label_of_items_that_are_no_rows():
    """A list of pairs and a function of the user's: the item is named."""
    pairs = [('f0', 'a'), ('f1', None), ('f2', 'b')]
    with pytest.raises(ValueError, match=r"item 1 \(\('f1', None\)\) has no label"):
        Datasets(pairs, [[ItemGetter(0)], [ItemGetter(1), Categorize()]])
    with pytest.raises(ValueError, match=r'item 0 \(f1\) has no label.*get_y'):
        Datasets(['f0', 'f1'], [[str], [dict(f0='a').get, Categorize()]], splits=[[0], [1]])


def test_label_function_that_fails_is_told_with_its_item():
    """Its own error stays, with the item in a note."""
    with pytest.raises(IndexError) as caught:
        Datasets(['a_1', 'b'], [[str], [lambda o: o.split('_')[1], Categorize()]])
    assert 'item 1 (b)' in str(getattr(caught.value, '__notes__', caught.value))


def test_several_labels_in_a_cell():
    """An empty text is no label; an empty cell and a number are told with the column."""
    split = ColReader('label', label_delim=' ')

    def make(labels):
        table = pd.DataFrame({'label': labels})
        return DataBlock((TransformBlock, MultiCategoryBlock), get_y=split, splitter=IndexSplitter([])).datasets(table)
    assert [y.tolist() for _, y in make(['a b', '', 'b'])] == [[1, 1], [0, 0], [0, 1]]
    with pytest.raises(ValueError, match="row 1 of column 'label'.*write ''"):
        make(['a b', np.nan, 'b'])
    with pytest.raises(TypeError, match="column 'label' holds 1 .*label_delim"):
        make([1, 2, 3])


@pytest.mark.parametrize('row, name', [(('a', 1), 1), (['a', 1], 1), ({0: 'a', 1: 1}, 1),
                                       (pd.Series({'l': 'a', 'n': 1}), 'n')], ids=['tuple', 'list', 'dict', 'table'])
def test_a_column_by_its_number_is_split_in_rows_of_every_kind(row, name):
    """What cannot be split is told with the column's name, where columns have names."""
    assert ColReader(0, label_delim=' ')(row) == ['a']
    with pytest.raises(TypeError, match=f"column {name!r} holds 1 .*label_delim=' ' splits text"):
        ColReader(1, label_delim=' ')(row)


def test_lists_of_labels_that_are_something_else():
    """A name becomes letters, zeros and ones become the classes 0 and 1: both are warned of, real lists are not."""
    assert 'MultiCategoryBlock takes a list' in _said(lambda: _datasets(['cat', 'dog'], MultiCategoryBlock))
    assert 'encoded=True' in _said(lambda: _datasets([0, 1], MultiCategoryBlock, other=[1, 0]))
    assert 'encoded=True' in _said(lambda: _datasets([[0, 1, 0], [1, 0, 0]], MultiCategoryBlock))
    assert 'encoded=True' in _said(lambda: _datasets([['0', '1'], ['1', '0']], MultiCategoryBlock))
    assert 'encoded=True' in _said(lambda: _datasets([torch.eye(2)[0], torch.eye(2)[1]], MultiCategoryBlock))
    for fine in ([[0], [1]], [[0, 1], [1]], [['a', 'b'], ['b', 'c']], [[0, 1], [1, 2]], [[], ['a']]):
        assert _said(lambda fine=fine: _datasets(fine, MultiCategoryBlock)) == ''
    with pytest.raises(TypeError, match="row 100 of column 'label' has the label 1 .*CategoryBlock"):
        _datasets([1, 2], MultiCategoryBlock)
    with pytest.raises(TypeError, match='MultiCategoryBlock'):
        _datasets([['a'], ['b']], CategoryBlock)


def test_encoded_labels_are_as_many_as_classes():
    """Columns of zeros and ones with a name each; another number of them, or a gap, is told by row."""
    block = MultiCategoryBlock(encoded=True, vocab=['a', 'b'])
    assert [y.tolist() for _, y in _datasets([0, 1], block, other=[1, 1])] == [[0, 1], [1, 1]]
    with pytest.raises(ValueError, match=r'row 100 of column .*3 zeros and ones'):
        _datasets([0, 1], MultiCategoryBlock(encoded=True, vocab=['a', 'b', 'c']), other=[1, 1])
    with pytest.raises(ValueError, match=r"row 101 of column \['label', 'other'\] has no label"):
        _datasets([0., np.nan], block, other=[1, 1])


def test_classes_that_are_hardly_meant_are_warned_of():
    """An empty text, one single class, names that differ in blanks or capitals."""
    assert 'empty text' in _said(lambda: _datasets(['', 'a']))
    assert "all 3 labels are 'a'" in _said(lambda: _datasets(['a'] * 3))
    assert "'Cat' and 'cat '" in _said(lambda: _datasets(['cat ', 'Cat', 'dog']))
    assert "'a b' and 'a  b'" in _said(lambda: _datasets([['a  b'], ['a b']], MultiCategoryBlock)).replace(
        "'a  b' and 'a b'", "'a b' and 'a  b'")
    for n, more in ((2, False), (3, False), (4, True)):
        said = _said(lambda n=n: _datasets([*'abcd'[:n], *'ABCD'[:n]]))
        assert ("'C' and 'c'" in said) == (n >= 3) and "'d'" not in said and ('; ...' in said) == more
    for fine in (['a', 'b'], ['a'], [1, 2], [True, False]):
        assert _said(lambda fine=fine: _datasets(fine)) == ''
    assert _said(lambda: _datasets([['a'], ['a']], MultiCategoryBlock)) == ''


def test_warnings_point_at_the_line_of_the_user():
    """Not at a line of the package."""
    with pytest.warns(UserWarning, match='empty text') as told:
        Datasets(['', 'a'], [[str], [str, Categorize()]])
    assert told[0].filename == __file__


def test_long_items_are_told_in_short():
    """A message holds the item, or where it is long its beginning."""
    for length, shown in ((199, 'x' * 199), (200, 'x' * 200 + '...'), (5000, 'x' * 200 + '...')):
        assert place_of(Datasets(['a', 'x' * length], [[str]]), 1) == f'item 1 ({shown})'
    assert place_of([1, 2], 1) == 'item 1' and place_of(Datasets([''], [[str]]), 0) == 'item 0'


def test_regression_takes_numbers():
    """Numbers as text and what no tensor can hold are refused by row; NaN, which an own loss may mask, is warned of."""
    assert [float(y) for _, y in _datasets([1, 2.5], RegressionBlock)] == [1, 2.5]
    with pytest.raises(TypeError, match=r"row 101 of column 'label' has the text '2'.*pd\.to_numeric"):
        _datasets([1, '2'], RegressionBlock)
    with pytest.raises(TypeError, match='row 100'):
        _datasets(['1.5', '2.5'], RegressionBlock, valid=[1])
    with pytest.raises(ValueError, match='row 101'):
        _datasets(pd.array([1., None], dtype='Float64'), RegressionBlock)
    assert "row 101 of column 'label' is empty (nan)" in _said(lambda: _datasets([1., np.nan], RegressionBlock))
    assert 'row 101' in _said(lambda: _datasets([1., np.nan], RegressionBlock, other=[1., 2.]))
    assert [y.tolist() for _, y in _datasets([1., 2.], RegressionBlock, other=[3., 4.])] == [[1, 3], [2, 4]]
    for what in ('2.5', None, ['1', '2']):  # of a function of the user's: told with the item that it is met at
        with pytest.raises(TypeError, match='RegressionBlock takes numbers and got'):
            DataBlock((TransformBlock, RegressionBlock), get_y=lambda o, what=what: what).datasets(['a', 'b'])


def test_labels_that_were_given_are_held_against_the_training_items():
    """A class that `vocab` does not have is told before training, where reading labels costs little."""
    with pytest.raises(KeyError, match="row 101 of column 'label': Label 'z' not included"):
        _datasets(['a', 'z', 'b'], CategoryBlock(vocab=['a', 'b']))
    with pytest.raises(KeyError, match="'z' not included"):
        _datasets([['a'], ['a', 'z']], MultiCategoryBlock(vocab=['a', 'b']))
    asked = []
    Datasets(['x', 'y'], [[str], [lambda o: asked.append(o) or 'a', Categorize(vocab=['a'])]])
    assert asked == ['x']  # code of the user's may be slow: it is asked for the type of the first item only


def test_table_is_read_by_columns():
    """What a column gives as a whole is what its rows give one by one; an own reader is asked row by row."""
    table = pd.DataFrame({'a': ['x y', 'z'], 'n': [1, 2]}, index=['r', 's'])

    class Upper(ColReader):
        def __call__(self, o, **kwargs):
            return super().__call__(o).upper()
    for reader in (ColReader('a'), ColReader(0), ColReader('a', pref='p', suff='.s'), ColReader('a', label_delim=' '),
                   ColReader(-1), ColReader('n'), Upper('a'), ColReader(['a', 'n'])):
        dsets = Datasets(table, [[reader]]).tls[0]
        assert [label for _, label in labels_of(dsets)] == [dsets[0], dsets[1]]
        assert place_of(dsets, 1).startswith("row 's' of column ")
    assert Upper('a').whole_column(table) is None and ColReader(['a', 'n']).whole_column(table) is None


def test_column_that_is_not_there_is_told_with_those_that_are():
    """By name and by position, near names first."""
    table = pd.DataFrame({'file': ['f'], 'label': ['a']})
    for col in ('labels', 7):
        for look in (lambda col=col: column_named(table, col), lambda col=col: ColReader(col)(table.iloc[0]),
                     lambda col=col: ColSplitter(col)(table)):
            with pytest.raises(KeyError, match=f"no column {col!r}.*'file', 'label'"):
                look()
    assert list(column_named(table, -1)) == ['a'] and list(column_named(table, 'file')) == ['f']


def test_column_of_validation_rows_says_yes_or_no():
    """An empty cell and a text count as true for Python: refused with their rows; folds are warned of."""
    def split(values, **kwargs):
        return [list(part) for part in ColSplitter('v', **kwargs)(pd.DataFrame({'v': values}, index=range(5, 8)))]
    for column in ([False, True, False], [0, 1, 0], [0., 1., 0.], pd.array([0, 1, 0], dtype='Int64'),
                   pd.array([False, True, False], dtype='boolean')):
        assert split(column) == [[0, 2], [1]]
    for column in ([False, np.nan, True], [False, None, True], pd.array([0, None, 1], dtype='Int64')):
        with pytest.raises(ValueError, match="column 'v' .* empty in 1 of them, first in row 6"):
            split(column)
    with pytest.raises(ValueError, match="holds text .*ColSplitter"):
        split(['False', 'True', 'False'])
    assert split(['no', 'yes', np.nan], on='yes') == [[0, 2], [1]]
    with pytest.warns(UserWarning, match='folds'):
        assert split([0, 1, 2]) == [[0], [1, 2]]


def test_splitters_that_do_not_fit_their_items():
    """A mask of another length, folders of another name, a pattern without a group."""
    with pytest.raises(ValueError, match='mask of 2 for 3'):
        MaskSplitter([True, False])(range(3))
    with pytest.raises(ValueError, match=r"folder 'train', only in 'Train', 'Valid'"):
        GrandparentSplitter()(['Train/a/1.png', 'Valid/a/2.png'])
    assert [list(s) for s in GrandparentSplitter()(['train/a/1.png'])] == [[0], []]
    with pytest.raises(ValueError, match='has no group: put parentheses'):
        RegexLabeller(r'\d+')


def test_columns_of_unequal_length_are_refused():
    """An item has one of each; nothing is cut."""
    with pytest.raises(ValueError, match='columns of 3 and 2 elements'):
        DataBlock.from_columns(blocks=(TransformBlock, CategoryBlock)).datasets((L(1, 2, 3), ['a', 'b']))


def test_boxes_may_have_labels_of_zero_and_one():
    """What fills up boxes says by `add_na` that its labels are no columns."""
    assert _said(lambda: Datasets([0, 1], [[lambda o: [0, 1], MultiCategorize(add_na=True)]])) == ''
