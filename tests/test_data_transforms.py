"""Laws of finding, splitting, labelling and categories: fastai's results on the same input, and clear refusals."""
from __future__ import annotations

import json
import os
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fastcore.foundation import L
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from minifast.data import transforms as t
from minifast.data.categorize import CategoryMap, MultiCategory
from minifast.data.core import Datasets, TfmdDL
from minifast.markers import TensorCategory, TensorImage, TensorImageBW, TensorMask, TensorMultiCategory

FASTAI = json.loads((Path(__file__).parent / 'data' / 'data_rooms.json').read_text())
"""What fastai 2.8.12 gave for the same calls."""

ITEMS = list(range(10))
PATHS = [f'd/{split}/{label}/{i}.png' for i, (split, label) in enumerate(
    [('train', 'a'), ('valid', 'a'), ('train', 'b'), ('test', 'b'), ('valid', 'b')])]


def frame():
    import pandas as pd
    return pd.DataFrame({'f': list('abcde'), 'l': ['x y', 'y', 'z x', 'x', 'z'],
                         'is_valid': [False, True, False, True, False], 's': ['t', 'v', 'w', 't', 'v']})


# ---------------------------------------------------------------- finding

@pytest.fixture
def folder(tmp_path):
    for name in ('b/2.png', 'b/10.PNG', 'a/1.jpg', 'a/._1.jpg', 'a/note.txt', '.hidden/x.png', 'c.gif',
                 'a/.ipynb_checkpoints/1.jpg'):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return tmp_path


def names(found, root):
    return [str(p.relative_to(root)) for p in found]


def test_get_image_files_sorted_without_hidden(folder):
    """By folder and name, suffixes in any case, hidden files and folders left out."""
    assert names(t.get_image_files(folder), folder) == ['c.gif', 'a/1.jpg', 'b/10.PNG', 'b/2.png']
    assert type(t.get_image_files(folder)).__name__ == 'L'


def test_get_files_folders_recurse_extensions(folder):
    """`folders` chooses among the first level, `recurse=False` stays there, extensions filter."""
    assert names(t.get_image_files(folder, folders=['b']), folder) == ['b/10.PNG', 'b/2.png']
    assert names(t.get_image_files(folder, folders=['.', 'a']), folder) == ['c.gif', 'a/1.jpg']
    assert names(t.get_files(folder, recurse=False), folder) == ['c.gif']
    assert names(t.get_text_files(folder), folder) == ['a/note.txt']
    assert names(t.ImageGetter('b')(folder), folder) == ['b/10.PNG', 'b/2.png']
    assert names(t.FileGetter('a', extensions='.txt')(folder), folder) == ['a/note.txt']


@pytest.mark.skipif(not hasattr(os, 'symlink'), reason='no symbolic links here')
def test_get_files_follows_a_looping_link_once(folder):
    """A link that leads back does not make files twice."""
    (folder / 'a' / 'loop').symlink_to(folder, target_is_directory=True)
    assert len(t.get_image_files(folder)) == 4


def test_get_files_refuses_what_is_no_folder(folder):
    """A missing folder and a file are told apart, with the path."""
    with pytest.raises(FileNotFoundError, match='missing'):
        t.get_files(folder / 'missing')
    with pytest.raises(NotADirectoryError, match='c.gif'):
        t.get_files(folder / 'c.gif')


# ---------------------------------------------------------------- splitting

@pytest.mark.parametrize('name, splitter', [
    ('RandomSplitter', t.RandomSplitter(seed=42)), ('RandomSplitter30', t.RandomSplitter(0.3, seed=1)),
    ('RandomSubsetSplitter', t.RandomSubsetSplitter(0.5, 0.2, seed=42)), ('EndSplitter', t.EndSplitter()),
    ('EndSplitterFirst', t.EndSplitter(0.3, False)), ('IndexSplitter', t.IndexSplitter([3, 1])),
    ('TrainTestSplitter', t.TrainTestSplitter(0.3, random_state=5)),
    ('MaskSplitter', t.MaskSplitter([i % 3 == 0 for i in ITEMS])), ('FuncSplitter', t.FuncSplitter(lambda i: i > 6))])
def test_splitters_give_fastais_split(name, splitter):
    """The same call gives the same indices in the same order."""
    assert [list(part) for part in splitter(ITEMS)] == FASTAI[name]


def test_splitters_by_folder_and_column_give_fastais_split():
    """Grandparent folders, one or several names; columns, true, equal or among."""
    assert [list(p) for p in t.GrandparentSplitter()(PATHS)] == FASTAI['GrandparentSplitter']
    assert [list(p) for p in t.GrandparentSplitter(train_name=('train', 'test'))(PATHS)] == FASTAI['Grandparent2']
    df = frame()
    assert [list(p) for p in t.ColSplitter()(df)] == FASTAI['ColSplitter']
    assert [list(p) for p in t.ColSplitter('s', on='v')(df)] == FASTAI['ColSplitterOn']
    assert [list(p) for p in t.ColSplitter('s', on=['v', 'w'])(df)] == FASTAI['ColSplitterOnL']
    with pytest.raises(TypeError, match='DataFrame'):
        t.ColSplitter()(ITEMS)


def test_random_splitter_leaves_the_global_generator():
    """A split with a seed of its own changes nothing for what follows."""
    before = torch.get_rng_state()
    t.RandomSplitter(seed=1)(ITEMS)
    assert torch.equal(before, torch.get_rng_state())


def test_file_splitter_reads_names(tmp_path):
    """The names listed in a file are the validation set."""
    listed = tmp_path / 'valid.txt'
    listed.write_text('1.png\n4.png\n')
    assert [list(p) for p in t.FileSplitter(listed)([Path(p) for p in PATHS])] == [[0, 2, 3], [1, 4]]


# ---------------------------------------------------------------- labelling

def test_labellers_give_fastais_labels():
    """Folder, pattern, columns."""
    assert t.parent_label('x/cat/1.png') == 'cat'
    assert t.RegexLabeller(r'^(.*)_\d+.jpg$')('great_pyrenees_173.jpg') == FASTAI['regex'][0]
    with pytest.raises(ValueError, match='no label in'):
        t.RegexLabeller('(z+)')('abc')
    row = frame().iloc[0]
    readers = [t.ColReader('f', pref='p/', suff='.png'), t.ColReader('l', label_delim=' '), t.ColReader(['f', 's']),
               t.ColReader(0)]
    for row in (row, next(frame().itertuples(index=False)), dict(row)):
        if isinstance(row, dict):
            readers.pop()  # it has names and no places
        found = [list(o) if not isinstance(o, str) else o for o in (r(row) for r in readers)]
        assert found == FASTAI['ColReader'][:len(readers)]


def test_category_map_gives_fastais_vocab():
    """Sorted, as they come, with '#na#', in a Series' own order, booleans, and numbers without NaN."""
    import pandas as pd
    ordered = pd.Series(pd.Categorical(['m', 'l', 'm'], categories=['l', 'm', 's'], ordered=True))
    made = [t.CategoryMap(['b', 'a', 'c', 'a']), t.CategoryMap(['b', 'a'], sort=False),
            t.CategoryMap(['b', 'a'], add_na=True), t.CategoryMap(ordered), t.CategoryMap([True, False]),
            t.CategoryMap([3, 1, float('nan')])]
    assert [list(m) for m in made] == FASTAI['vocab']
    assert list(t.CategoryMap(ordered, strict=True)) == ['l', 'm']
    assert made[0].o2i == {'a': 0, 'b': 1, 'c': 2} and made[0] == ['a', 'b', 'c']
    assert made[2].o2i['unseen'] == 0 and list(made[0].map_ids([2, 0])) == ['c', 'a']


def test_category_map_mixed_labels_are_explained():
    """Labels of several types have no order."""
    with pytest.raises(TypeError, match='int, str'):
        t.CategoryMap(['a', 1])


@pytest.mark.parametrize('add_na', [False, True])
def test_labels_that_know_their_classes_are_categorized_in_their_order(add_na):
    """A Series of categories: also those that no item has; of any other the classes found, sorted."""
    import pandas as pd
    labels, na = pd.Series(['m', 'l', 'm'] * 5), ['#na#'] * add_na
    known = pd.Series(pd.Categorical(labels, categories=['m', 's', 'l'], ordered=True))
    for column, classes in ((known, ['m', 's', 'l']), (labels, ['l', 'm'])):
        tfm = t.Categorize(add_na=add_na)
        tfm.setups(column)
        assert list(tfm.vocab) == [*na, *classes] and tfm.c == len(tfm.vocab)
        assert int(tfm('l')) == tfm.vocab.o2i['l'] == len(na) + classes.index('l')


def test_categorize_there_and_back():
    """A label becomes an int64 code and decodes to text that shows itself."""
    tfm = t.Categorize(vocab=['b', 'a'])
    tfm.setup(None)
    code = tfm('b')
    assert type(code) is TensorCategory and code.dtype == torch.long and code == 1 and tfm.c == 2
    assert tfm.decode(code) == 'b' and isinstance(tfm.decode(code), t.Category)
    with pytest.raises(KeyError, match="'z' not included in the training dataset.*'a', 'b'"):
        tfm('z')


@pytest.mark.parametrize('tfm, label, named', [
    (t.Categorize, 'z', "Label 'z'"), (t.MultiCategorize, ['a', 'z'], "Label 'z'"),
    (t.MultiCategorize, ['y', 'a', 'z'], "Labels 'y', 'z'"),
    (t.MultiCategorize, np.array(['y', 'z']), "Labels 'y', 'z'")])
def test_labels_that_no_class_has_are_named_with_the_classes_and_the_way_out(tfm, label, named):
    """One or several of them: those that are not known, and those alone."""
    made = tfm(vocab=['a', 'b'])
    made.setup(None)
    with pytest.raises(KeyError) as refused:
        made(label)
    assert refused.value.args == (f"{named} not included in the training dataset, which has 2 classes: 'a', 'b'. Give "
                                  'CategoryBlock(vocab=...) with all of them, or add_na=True',)


def test_multi_categorize_and_one_hot():
    """Labels of the training items, zeros and ones, and back."""
    dsets = Datasets([['a', 'c'], ['b'], []], [[noop], [noop, t.MultiCategorize(), t.OneHotEncode()]])
    hot = dsets[0][1]
    assert type(hot) is TensorMultiCategory and hot.tolist() == [1., 0., 1.] and dsets[2][1].tolist() == [0., 0., 0.]
    assert list(dsets.decode(dsets[0])[1]) == ['a', 'c'] and list(dsets.vocab) == ['a', 'b', 'c'] and dsets.c == 3


def noop(x):
    return x


@pytest.mark.parametrize('dls, n', [
    (SimpleNamespace(vocab=['a', 'b', 'c']), 3), (SimpleNamespace(vocab=CategoryMap(['a', 'b'])), 2),
    (SimpleNamespace(vocab=[['x', 'y', 'z'], ['a', 'b']]), 2), (SimpleNamespace(vocab=L(['x'], L('a', 'b'))), 2),
    (SimpleNamespace(vocab=['a'], c=7), 7), (SimpleNamespace(vocab=None), 0), ([], 0)])
def test_a_model_gives_a_number_for_each_class_of_the_last_vocabulary(dls, n):
    """What `c` says comes first; without either there is none."""
    assert t.get_c(dls) == n


def test_encoded_and_regression_targets():
    """Ready zeros and ones keep their columns' names; numbers become float32."""
    tfm = t.EncodedMultiCategorize(['x', 'y'])
    assert list(tfm.decode(tfm([0, 1]))) == ['y'] and tfm([0, 1]).dtype == torch.float32
    number, pair = t.RegressionSetup(), t.RegressionSetup()
    number.setup([1., 2.])
    pair.setup([(1, 2)])
    assert (number.c, pair.c) == (1, 2) and number(3).dtype == torch.float32
    assert number.decode(number(3)) == 3. and pair.decode(torch.tensor([1., 2.])) == (1., 2.)
    with pytest.raises(ValueError, match='vocab='):
        t.EncodedMultiCategorize(None)


# ---------------------------------------------------------------- pixels

def test_to_tensor_of_pillow_pictures():
    """Colour [3,H,W], grey [1,H,W], uint8."""
    colour, grey = t.ToTensor()(Image.new('RGB', (5, 4))), t.ToTensor()(Image.new('L', (5, 4)))
    assert type(colour) is TensorImage and colour.shape == (3, 4, 5) and colour.dtype == torch.uint8
    assert type(grey) is TensorImageBW and grey.shape == (1, 4, 5)
    assert t.ToTensor()('x') == 'x'


def test_int_to_float_scales_pictures_once_and_keeps_codes():
    """uint8 / 255, floats left alone, masks int64, and decoding goes back."""
    tfm, x = t.IntToFloatTensor(), TensorImage(torch.tensor([[0, 255]], dtype=torch.uint8))
    once = tfm(x)
    assert once.tolist() == [[0., 1.]] and torch.equal(tfm(once), once) and type(once) is TensorImage
    assert tfm.decode(once).tolist() == [[0, 255]]
    mask = t.IntToFloatTensor(div_mask=10)(TensorMask(torch.tensor([[20]], dtype=torch.uint8)))
    assert mask.tolist() == [[2]] and mask.dtype == torch.long


def test_normalize_there_and_back_and_from_one_batch():
    """(x - mean) / std in each channel, undone by decode; without statistics they are those of one batch."""
    x = TensorImage(torch.rand(8, 3, 4, 4))
    tfm = t.Normalize.from_stats([0.5, 0.4, 0.3], [0.1, 0.2, 0.3])
    mean, std = torch.tensor([[0.5, 0.4, 0.3], [0.1, 0.2, 0.3]]).view(2, 1, 3, 1, 1)
    expected = (x.as_subclass(torch.Tensor) - mean) / std
    assert torch.equal(tfm(x).as_subclass(torch.Tensor), expected) and type(tfm(x)) is TensorImage
    torch.testing.assert_close(tfm.decode(tfm(x)).as_subclass(torch.Tensor), x.as_subclass(torch.Tensor))
    data = [(TensorImage(torch.rand(3, 4, 4) * 7 + i), i) for i in range(8)]
    b = TfmdDL(data, bs=8, num_workers=0, after_batch=t.Normalize()).one_batch()
    assert abs(float(b[0].mean())) < 1e-5 and abs(float(b[0].std()) - 1) < 0.01
    flat = t.Normalize()
    TfmdDL([(TensorImage(torch.full((3, 4, 4), 7.)), i) for i in range(8)], bs=8, num_workers=0,
           after_batch=flat).one_batch()
    assert (flat.std > 0).all() and torch.equal(flat.mean, torch.full((1, 3, 1, 1), 7.))  # nothing divides by zero
    with pytest.raises(ValueError, match='no statistics'):
        t.Normalize()(x)


@pytest.mark.parametrize('n_stats', [1, 3])
def test_normalize_takes_the_memory_of_one_batch(n_stats):
    """Floats of a batch are the largest piece of memory there is: one is made, there and back, and no other."""
    made = []

    class Notes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made.append(func(*args, **(kwargs or {})))
            return made[-1]
    x, tfm = TensorImage(torch.rand(4, 3, 8, 8)), t.Normalize.from_stats([.5] * n_stats, [.2] * n_stats, cuda=False)
    for change in (tfm, tfm.decode):
        made.clear()
        with Notes():
            change(x)
        places = {o.data_ptr() for o in made if isinstance(o, torch.Tensor) and o.numel() == x.numel()}
        assert len(places - {x.data_ptr()}) == 1


def test_broadcast_vec_lies_along_its_axis():
    """[n] becomes [1,n,1,1]."""
    mean, std = t.broadcast_vec(1, 4, [1, 2, 3], [4, 5, 6], cuda=False)
    assert mean.shape == std.shape == (1, 3, 1, 1)


def test_splitters_and_labels_do_not_touch_pythons_or_numpys_generators():
    """Looking for and splitting items leaves all generators as they were."""
    states = random.getstate(), np.random.get_state()[1].copy()
    t.RandomSplitter(seed=3)(ITEMS)
    assert random.getstate() == states[0] and (np.random.get_state()[1] == states[1]).all()


@pytest.mark.parametrize('k, want', (
    (1, 'b'), (-1, 'c'), (torch.tensor(1), 'b'), (np.int64(1), 'b'), (torch.tensor(1.), 'b'), (TensorCategory(2), 'c'),
    (slice(1, None), ['b', 'c']), ([0, 2], ['a', 'c']), ((0, 2), ['a', 'c']), (L(0, 2), ['a', 'c']),
    (torch.tensor([0, 2]), ['a', 'c']), (TensorCategory([2, 0]), ['c', 'a']), (np.array([0, 2]), ['a', 'c']),
    (torch.tensor([True, False, True]), ['a', 'c']), (np.array([False, True, False]), ['b']), ([], []),
    ([True, False, True], ['a', 'c']), (torch.tensor([[0, 1], [2, 2]]), [['a', 'b'], ['c', 'c']])))
@pytest.mark.parametrize('kind', (CategoryMap, MultiCategory))
def test_vocab_takes_whatever_codes_come_as(kind, k, want):
    """One code gives a class; several (list, array, tensor, slice) or a mask give as many; names of an item too."""
    if kind is MultiCategory and isinstance(k, torch.Tensor) and (k.ndim == 2 or k.is_floating_point()):
        return  # not among the ways L can be indexed
    found = kind(['a', 'b', 'c'])[k]
    assert (found if isinstance(found, str) else [o if isinstance(o, str) else list(o) for o in found]) == want


@pytest.mark.parametrize('k, error', ((3, IndexError), ([3], IndexError), ([True], IndexError), (1.5, TypeError),
                                      ('a', TypeError)))
def test_vocab_refuses_what_is_no_code(k, error):
    """No class is made up for a code that there is none for."""
    with pytest.raises(error):
        CategoryMap(['a', 'b', 'c'])[k]


# ---------------------------------------------------------------- order, ends, settings

def test_get_files_are_sorted_whatever_the_file_system_says(tmp_path, monkeypatch):
    """Folders and names come in their order, though the system lists them in another."""
    for folder in ('b', 'a', 'c'):
        (tmp_path / folder).mkdir()
        for name in ('2.png', '10.png', '1.png'):
            (tmp_path / folder / name).touch()
    walk = os.walk

    def shuffled(*args, **kwargs):
        for here, dirs, names in walk(*args, **kwargs):
            dirs.sort(reverse=True)
            yield here, dirs, sorted(names, reverse=True)
    monkeypatch.setattr(os, 'walk', shuffled)
    found = [f.relative_to(tmp_path).as_posix() for f in t.get_image_files(tmp_path)]
    assert found == [f'{folder}/{name}' for folder in 'abc' for name in ('1.png', '10.png', '2.png')]


def test_end_splitter_takes_the_end_it_is_told():
    """The last fifth for validation, or the first."""
    assert [list(part) for part in t.EndSplitter(.2)(range(10))] == [list(range(8)), [8, 9]]
    assert [list(part) for part in t.EndSplitter(.3, valid_last=False)(range(10))] == [list(range(3, 10)), [0, 1, 2]]


def test_train_test_splitter_hands_on_every_argument():
    """Stratified: each class has its share on both sides; a seed repeats; sizes are as told; unshuffled is in order."""
    labels = [0] * 40 + [1] * 10
    train, valid = t.TrainTestSplitter(.2, random_state=1, stratify=labels)(labels)
    assert [sum(labels[i] for i in part) for part in (train, valid)] == [8, 2]
    assert list(valid) == list(t.TrainTestSplitter(.2, random_state=1, stratify=labels)(labels)[1])
    assert list(valid) != list(t.TrainTestSplitter(.2, random_state=2, stratify=labels)(labels)[1])
    train, valid = t.TrainTestSplitter(.2, train_size=.5, shuffle=False)(labels)
    assert list(train) == list(range(25)) and list(valid) == list(range(25, 35))


def test_random_subset_splitter_takes_the_shares_it_is_told():
    """Two parts that do not meet."""
    train, valid = t.RandomSubsetSplitter(.5, .2, seed=3)(range(100))
    assert (len(train), len(valid), len(set(train) & set(valid))) == (50, 20, 0)
    assert list(train) == list(t.RandomSubsetSplitter(.5, .2, seed=3)(range(100))[0]) != sorted(train)


def test_col_splitter_looks_for_what_it_is_told():
    """A value, a list of values, a column by position."""
    import pandas as pd
    df = pd.DataFrame({'name': list('abcdef'), 'fold': [0, 1, 2, 0, 1, 2], 'is_valid': [0, 0, 0, 0, 0, 1]})
    assert [list(t.ColSplitter('fold', on)(df)[1]) for on in (1, [1, 2], 0)] == [[1, 4], [1, 2, 4, 5], [0, 3]]
    assert list(t.ColSplitter()(df)[1]) == list(t.ColSplitter(2)(df)[1]) == [5]


def test_vocabularies_keep_the_order_they_are_given():
    """Sorted where they are collected, or where that is asked for; codes follow."""
    assert list(t.CategoryMap(['b', 'a', 'b'])) == ['a', 'b']
    assert list(t.CategoryMap(['b', 'a'], sort=False)) == ['b', 'a']
    assert list(t.MultiCategorize(vocab=['b', 'a']).vocab) == ['b', 'a']
    assert list(t.Categorize(vocab=['b', 'a'], sort=False).vocab) == ['b', 'a']
    assert list(t.EncodedMultiCategorize(['b', 'a']).vocab) == ['b', 'a']
    assert t.MultiCategorize(vocab=['b', 'a']).encodes(['a', 'b']).tolist() == [1, 0]


@pytest.mark.parametrize('labels, named', [(['a', 'z'], ["'z'"]), (['y', 'z'], ["'y'", "'z'"])])
def test_unknown_labels_are_an_error_that_names_them(labels, named):
    """None is dropped; with add_na they are the class that stands for all others."""
    with pytest.raises(KeyError) as caught:
        t.MultiCategorize(vocab=['a', 'b']).encodes(labels)
    assert all(name in str(caught.value) for name in named)
    codes = t.MultiCategorize(vocab=['a', 'b'], add_na=True).encodes(labels).tolist()
    assert codes == [1 if label == 'a' else 0 for label in labels]


def test_decoded_pictures_stay_in_the_range_of_bytes():
    """What an augmentation has pushed below 0 or above 1 is shown as 0 and 255."""
    decoded = t.IntToFloatTensor().decode(TensorImage(torch.tensor([[[-.5, 0., .5, 1., 1.5]]])))
    assert decoded.flatten().tolist() == [0, 0, 127, 255, 255]


def test_int_to_float_divides_by_what_it_is_told():
    """Pictures by `div`, masks by `div_mask`, whole numbers there."""
    tfm = t.IntToFloatTensor(div=50., div_mask=127)
    assert tfm(TensorImage(torch.tensor([[[100, 25]]], dtype=torch.uint8))).flatten().tolist() == [2., .5]
    mask = tfm(TensorMask(torch.tensor([[0, 127, 254, 255]], dtype=torch.uint8)))
    assert mask.tolist() == [[0, 1, 2, 2]] and mask.dtype == torch.int64


@pytest.mark.parametrize('axes', [(0, 2, 3), (0,), (2, 3)])
def test_normalize_measures_over_the_axes_it_is_told(axes):
    """Mean and deviation of one batch over exactly these."""
    x = torch.randn(6, 3, 4, 5, generator=torch.Generator().manual_seed(1)) * 3 + torch.arange(3.)[:, None, None]
    tfm = t.Normalize(axes=axes)
    tfm.setups(type('', (), {'one_batch': lambda self: (TensorImage(x),)})())
    torch.testing.assert_close(tfm.mean, x.mean(axes, keepdim=True))
    torch.testing.assert_close(tfm.std, x.std(axes, keepdim=True) + 1e-7)
