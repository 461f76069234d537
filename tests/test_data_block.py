"""Laws of DataBlock: the same data sets as said, numbers that must fit, and a summary that walks the real way."""
from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image

from minifast.data.block import (CategoryBlock, DataBlock, MultiCategoryBlock, RegressionBlock, TransformBlock)
from minifast.data.core import TfmdDL
from minifast.data.transform import Pipeline, Transform
from minifast.data.transforms import (ColReader, ColSplitter, IndexSplitter, ItemGetter, RandomSplitter, ToTensor,
                                      get_image_files, parent_label)
from minifast.losses import BaseLoss
from minifast.markers import TensorCategory, TensorImage, TensorMultiCategory
from minifast.vision.augment import Resize
from minifast.vision.core import PILImage
from minifast.vision.data import ImageBlock


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp('pictures')
    pixels = np.random.RandomState(0)
    for label in ('cat', 'dog'):
        (root / label).mkdir()
        for i in range(5):
            Image.fromarray(pixels.randint(0, 255, (20 + i, 24, 3), dtype=np.uint8)).save(root / label / f'{i}.png')
    return root


def pet_block(**kwargs):
    return DataBlock(**{'blocks': (ImageBlock, CategoryBlock), 'get_items': get_image_files, 'get_y': parent_label,
                        'splitter': RandomSplitter(seed=42), 'item_tfms': Resize(16), **kwargs})


def test_dataloaders_from_a_folder(folder):
    """Pictures and classes, split as said."""
    dls = pet_block().dataloaders(folder, bs=4, num_workers=0, device='cpu')
    x, y = dls.one_batch()
    assert type(x) is TensorImage and x.shape == (4, 3, 16, 16) and x.dtype == torch.float32
    assert 0 <= x.min() <= x.max() <= 1
    assert type(y) is TensorCategory and list(dls.vocab) == ['cat', 'dog'] and dls.c == 2
    assert len(dls.train_ds) == 8 and len(dls.valid_ds) == 2 and isinstance(dls.loss_func, BaseLoss)
    assert list(dls.path.parts) == [] and type(dls.train) is TfmdDL
    assert pet_block().dataloaders(folder, path=folder / 'cat').path == folder / 'cat'
    assert pet_block().weighted_dataloaders(folder, [1] * 10, path=folder / 'dog').path == folder / 'dog'


def test_block_transforms_of_one_kind_the_last_counts():
    """Item transforms given later take the place of those of the same class; `new` starts from the blocks' own."""
    block = pet_block(item_tfms=[Resize(8), Resize(16)])
    assert [type(t).__name__ for t in block.item_tfms] == ['ToTensor', 'Resize'] and block.item_tfms[1].size == (16, 16)
    assert [type(t).__name__ for t in block.new(item_tfms=None).item_tfms] == ['ToTensor']
    first, second = (lambda x: x), (lambda x: x)
    assert len(pet_block(item_tfms=[first, second]).item_tfms) == 3


def test_dataloaders_transforms_for_these_loaders_only(folder):
    """`dataloaders(item_tfms=, batch_tfms=)` take the place of the block's own, once."""
    block = pet_block()
    assert block.dataloaders(folder, bs=2, num_workers=0, item_tfms=Resize(8)).one_batch()[0].shape[-1] == 8
    assert block.dataloaders(folder, bs=2, num_workers=0).one_batch()[0].shape[-1] == 16


def test_blocks_of_table_columns():
    """Several labels in a column, a number, and two inputs."""
    import pandas as pd
    df = pd.DataFrame({'x': [1, 2, 3], 'tags': ['a b', 'b', ''], 'n': [0.5, 1.5, 2.5], 'valid': [False, False, True]})
    block = DataBlock((TransformBlock, MultiCategoryBlock, RegressionBlock), n_inp=1, splitter=ColSplitter('valid'),
                      getters=[ColReader('x'), ColReader('tags', label_delim=' '), ColReader('n')])
    dsets = block.datasets(df)
    x, tags, n = dsets.train[0]
    assert x == 1 and type(tags) is TensorMultiCategory and tags.tolist() == [1., 1.] and n == 0.5
    assert dsets.valid[0][1].tolist() == [0., 0.] and dsets.n_inp == 1 and list(dsets.vocab) == ['a', 'b']
    xs, ys, ns = block.dataloaders(df, bs=2, num_workers=0).one_batch()
    assert ys.shape == (2, 2) and ns.dtype == torch.float32


def test_from_columns_takes_columns_or_what_get_items_makes():
    """`(xs, ys)`, or a function that returns them."""
    block = DataBlock.from_columns(blocks=(TransformBlock, CategoryBlock), splitter=IndexSplitter([2]))
    dsets = block.datasets(([1, 2, 3], ['u', 'v', 'u']))
    assert dsets[1] == (2, 1) and isinstance(block.getters[0], ItemGetter)
    made = DataBlock.from_columns(blocks=(TransformBlock, CategoryBlock), splitter=IndexSplitter([2]),
                                  get_items=lambda n: (range(n), 'uvu')).datasets(3)
    assert made[1] == (1, 1)


def test_methods_of_a_subclass_are_used():
    """A subclass may write its getters as methods."""
    class Words(DataBlock):
        def get_items(self, source):
            return source.split()

        def get_y(self, word):
            return word[-1]
    dsets = Words((TransformBlock, CategoryBlock), splitter=IndexSplitter([0])).datasets('ab cd eb')
    assert dsets[2] == ('eb', 0) and list(dsets.vocab) == ['b', 'd']


def test_pipeline_as_getter():
    """Several functions one after the other are a Pipeline."""
    block = DataBlock((TransformBlock, CategoryBlock), get_y=Pipeline([str.upper, lambda s: s[0]]),
                      splitter=IndexSplitter([0]))
    assert list(block.datasets(['ab', 'cd']).vocab) == ['C']


@pytest.mark.parametrize('kwargs, message', [
    ({'get_y': [str, len]}, r'get_y contains 2 functions, but must contain 1 \(one for each target\)'),
    ({'get_x': [str, len]}, r'get_x contains 2 functions, but must contain 1 \(one for each input\)'),
    ({'getters': [str]}, '1 getters for 2 blocks')])
def test_numbers_of_functions_must_fit(kwargs, message):
    """Each input and target has one getter."""
    with pytest.raises(ValueError, match=message):
        DataBlock((TransformBlock, CategoryBlock), **kwargs)


def test_mistakes_are_named(folder, tmp_path):
    """A mistyped keyword, an empty folder, a splitter that leaves nothing to train on."""
    with pytest.raises(TypeError, match='getitems'):
        DataBlock(getitems=get_image_files)
    with pytest.warns(UserWarning, match="leaves it out, did you mean 'num_workers'"):  # as fastai runs on
        pet_block().dataloaders(folder, num_worker=0)
    with pytest.raises(ValueError, match='no items in .*get_image_files'):
        pet_block().datasets(tmp_path)
    with pytest.raises(ValueError, match='no training items'):
        pet_block(splitter=IndexSplitter(range(10))).datasets(folder)


def test_a_source_without_items_is_told_by_what_it_is(tmp_path):
    """A path as such, anything else by its kind; with the function that found nothing."""
    (tmp_path / 'empty').mkdir()
    for source, block, words in (
            (tmp_path / 'empty', pet_block(), f'{tmp_path / "empty"}: get_items=get_image_files found none'),
            (str(tmp_path / 'empty'), pet_block(), f'{tmp_path / "empty"}: get_items=get_image_files found none'),
            ([], DataBlock(), 'the source (a list)'), ({}, DataBlock(), 'the source (a dict)'),
            ({'a': 1}, DataBlock(get_items=lambda o: []), 'the source (a dict): get_items=')):
        with pytest.raises(ValueError) as caught:
            block.datasets(source)
        assert str(caught.value).startswith(f'no items in {words}')


# ---------------------------------------------------------------- summary

def test_summary_walks_the_way_of_dataloaders(folder, capsys):
    """The steps it prints are the transforms of the loaders in their order, and it leaves no trace."""
    block = pet_block()
    before = torch.get_rng_state()
    block.summary(folder)
    out = capsys.readouterr().out
    assert torch.equal(before, torch.get_rng_state())
    assert 'Found 10 items\n2 datasets of sizes 8,2\n' in out
    first = re.search(r'(\S+/(cat|dog)/\d.png)', out)
    resize, categorize = re.search('Resize -- {.*?}', out)[0], re.search("Categorize -- {'vocab': \\['cat.*?}", out)[0]
    picture = f'PILImage mode=RGB size=24x{20 + int(first[1][-5])}'
    code = f'TensorCategory({["cat", "dog"].index(first[2])})'
    codes = re.search(r'TensorCategory\(\[.*?\]\)', out)[0]
    assert out[out.index('Building one sample'):] == f"""Building one sample
  Pipeline: PILImage.create
    starting from
      {first[1]}
    applying PILImage.create gives
      {picture}
  Pipeline: parent_label -> {categorize}
    starting from
      {first[1]}
    applying parent_label gives
      {first[2]}
    applying {categorize} gives
      {code}

Final sample: ({picture}, {code})



Building one batch
  Pipeline: {resize} -> ToTensor
    starting from
      ({picture}, {code})
    applying {resize} gives
      (PILImage mode=RGB size=16x16, {code})
    applying ToTensor gives
      (TensorImage of size 3x16x16, uint8, {code})

Adding the next 3 samples

Collating items in a batch

Applying batch_tfms to the batch built
  Pipeline: IntToFloatTensor -- {{'div': 255.0, 'div_mask': 1}}
    starting from
      (TensorImage of size 4x3x16x16, uint8, {codes})
    applying IntToFloatTensor -- {{'div': 255.0, 'div_mask': 1}} gives
      (TensorImage of size 4x3x16x16, float32, {codes})
"""


def test_summary_shows_a_batch_where_it_is_told_to(folder, monkeypatch):
    """`show_batch=True`, with what else it is given; as a rule it draws nothing."""
    shown = []
    monkeypatch.setattr('minifast.data.core.TfmdDL.show_batch', lambda self, **kwargs: shown.append(kwargs))
    pet_block().summary(folder)
    assert not shown
    pet_block().summary(folder, show_batch=True, max_n=3)
    assert shown == [{'max_n': 3}]


def test_summary_error_names_step_item_and_types(folder, capsys):
    """A transform that fails: which, on what item, given what types."""
    class Fails(Transform):
        order = 6

        def encodes(self, x: TensorImage):
            raise ZeroDivisionError('by zero')
    with pytest.raises(ZeroDivisionError) as caught:
        pet_block(item_tfms=[Resize(16), Fails()]).summary(folder)
    note = '\n'.join(caught.value.__notes__)
    assert 'Fails' in note and '.png' in note and '(TensorImage, TensorCategory)' in note
    assert 'applying Fails failed' in capsys.readouterr().out


def test_summary_tells_why_samples_do_not_collate(folder, capsys):
    """Pictures of several sizes: which items, which sizes."""
    with pytest.raises(RuntimeError) as caught:
        pet_block(item_tfms=None).summary(folder)
    assert any('item_tfms=Resize' in note and '3x2' in note for note in caught.value.__notes__)
    assert 'not possible to collate' in capsys.readouterr().out


def test_block_image_class_reaches_the_type_transforms(folder):
    """`ImageBlock(cls)` opens pictures as that class."""
    dsets = pet_block(item_tfms=[ToTensor]).datasets(folder)
    assert type(dsets[0][0]) is PILImage


def test_what_a_folder_holds_is_told_as_far_as_ten_names(tmp_path):
    """Its folders and kinds of files in the order of their names, and that there are more; hidden ones are none."""
    def told():
        with pytest.raises(ValueError) as caught:
            pet_block().datasets(tmp_path)
        return str(caught.value).partition('; ')[2]
    assert told() == 'there is nothing'
    (tmp_path / '.hidden').touch()
    for name in 'lkjihgfedcba':
        (tmp_path / f'c{name}').mkdir()
    listed = ', '.join(f"'c{name}'" for name in 'abcdefghij')
    assert told() == f'there are the folders {listed}, ...'
    for name in ('a.txt', 'b.txt', 'README', 'c.csv'):
        (tmp_path / name).touch()
    assert told() == f"there are the folders {listed}, ... and files of the kinds 'README', .csv, .txt"
