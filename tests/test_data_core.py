"""Laws of data sets and loaders side by side: subsets, decoding, showing, new items, delegation, foreign loaders."""
from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from fastcore.foundation import L
from small_learner import pictures
from torch import Tensor
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import TensorDataset

from minifast.data.block import DataBlock, TransformBlock
from minifast.data.core import (DataLoaders, Datasets, TfmdDL, TfmdLists, decode_at, get_show_batch_func, show_at,
                                test_set)
from minifast.data.showing import show_results
from minifast.data.transform import Pipeline, Transform, typedispatch
from minifast.data.transforms import Categorize, IntToFloatTensor, Normalize, ToTensor, get_c
from minifast.losses import MSELossFlat
from minifast.markers import TensorCategory, TensorImage
from minifast.vision.core import PILImage

WORDS = ['ant', 'bee', 'cow', 'ape', 'bat', 'cat']


class Sound(TensorImage):
    """A type of a user's own."""


def picture(word):
    return PILImage.create(np.full((6, 6, 3), ord(word[1]), np.uint8))


def initial(word):
    return word[0]


def datasets(**kwargs):
    return Datasets(WORDS, [[picture], [initial, Categorize()]], splits=[[0, 1, 2, 3], [4, 5]], **kwargs)


def loaders(**kwargs):
    return datasets().dataloaders(**{'bs': 2, 'num_workers': 0, 'device': 'cpu', 'after_item': [ToTensor],
                                     'after_batch': [IntToFloatTensor(), Normalize.from_stats([0.5] * 3, [0.2] * 3)],
                                     **kwargs})


class Flavoured(TfmdDL):
    """A loader of a user's own, which takes more."""

    def __init__(self, *args, flavour='none', **kwargs):
        super().__init__(*args, **kwargs)
        self.flavour = flavour


@pytest.mark.parametrize('make', [
    lambda **kwargs: loaders(dl_type=Flavoured, **kwargs),
    lambda **kwargs: datasets(dl_type=Flavoured).dataloaders(bs=2, device='cpu', **kwargs),
    lambda **kwargs: DataBlock((TransformBlock(dl_type=Flavoured), TransformBlock)).dataloaders(
        WORDS, bs=2, device='cpu', **kwargs),
    lambda **kwargs: DataBlock((TransformBlock, TransformBlock)).dataloaders(
        WORDS, bs=2, device='cpu', dl_type=Flavoured, **kwargs)],
    ids=['asked for', 'of the data sets', 'of a block', 'of a data block'])
def test_a_loader_of_a_users_own_is_told_what_it_alone_takes(make, recwarn):
    """Wherever its class was named; nothing is left out, and so nothing is warned of."""
    dls = make(flavour='salt')
    assert [(type(dl), dl.flavour) for dl in dls] == [(Flavoured, 'salt')] * 2 and not recwarn.list


# ---------------------------------------------------------------- lists and data sets

def test_tfmdlists_index_by_int_list_slice_and_mask():
    """One item transformed, or an L of several."""
    lists = TfmdLists([1, 2, 3], lambda x: x * 10)
    assert lists[1] == 20 and list(lists[[0, 2]]) == [10, 30] and list(lists[1:]) == [20, 30]
    assert list(lists[[True, False, True]]) == [10, 30] and list(lists) == [10, 20, 30] and len(lists) == 3


def test_an_item_that_no_transform_takes_is_refused_with_the_types_that_are():
    """Each by its name, once; one transform may take several."""
    lists = TfmdLists([1], [lambda x: x, lambda x: x], types=[(int, str), float, int], do_setup=False)
    assert lists.infer_idx(2) == 0 and lists.infer_idx(2.) == 1
    with pytest.raises(TypeError, match='one of the types float, int, str is expected and a list was given'):
        lists.infer_idx([])


def test_tfmdlists_of_a_table_gives_rows():
    """The items of a DataFrame are its rows."""
    import pandas as pd
    lists = TfmdLists(pd.DataFrame({'a': [1, 2, 3]}), lambda row: row['a'] + 1, splits=[[2, 0], [1]])
    assert lists[0] == 2 and list(lists.train) == [4, 2] and list(lists.valid) == [3]


def test_datasets_make_tuples_split_and_decode():
    """A sample has an element a list of transforms; subsets keep transforms, vocab and order."""
    dsets = datasets()
    assert len(dsets) == 6 and dsets.n_subsets == 2 and dsets.n_inp == 1
    x, y = dsets.train[1]
    assert type(x) is PILImage and type(y) is TensorCategory and list(dsets.vocab) == ['a', 'b', 'c']
    assert decode_at(dsets, 5)[1] == 'c' and dsets.valid.items == ['bat', 'cat'] and dsets.valid.split_idx == 1
    assert [y for _, y in dsets[[0, 2]]] == [0, 2]
    both = Datasets(WORDS, [[picture], [initial], [len]], splits=[[0, 1], [2]], n_inp=2, dl_type=TfmdDL)
    for part in (both.train, both.valid, both.new_empty(), both.subset(1)):
        assert part.n_inp == 2 and part._dl_type is TfmdDL
    assert both.test_set(WORDS).n_inp == 2 and test_set(dsets, WORDS, with_labels=True).n_inp == 1
    assert len(dsets.new_empty()) == 0 and list(dsets.new_empty().vocab) == ['a', 'b', 'c']


def test_datasets_vocab_is_that_of_the_training_items():
    """A label that only validation has is an error that names it and the known ones."""
    with pytest.raises(KeyError, match="'z' not included in the training dataset"):
        Datasets(['ab', 'zz'], [[initial, Categorize()]], splits=[[0], [1]]).valid[0]


def test_datasets_overlapping_splits_are_found():
    """How often an item occurs that is in two splits."""
    assert list(Datasets([1, 2, 3], [[str]], splits=[[0, 1], [1, 2]]).overlapping_splits()) == [2]


def test_setup_error_names_transform_and_item():
    """A transform that fails on the first item is named with what it was given."""
    def fails(x):
        raise OSError('no such thing')
    with pytest.raises(OSError, match='no such thing') as caught:
        TfmdLists(['item-one'], [str, fails])
    told = '\n'.join([str(caught.value), *getattr(caught.value, '__notes__', [])])  # Python 3.10 has no notes
    assert 'fails' in told and 'item-one' in told


def test_set_split_idx_is_put_back():
    """Inside the block validation items are augmented, behind it no more."""
    dsets = Datasets([1, 2], [[Transform(lambda x: x + 10, split_idx=0)]], splits=[[0], [1]])
    valid = dsets.valid
    with valid.set_split_idx(0):
        assert valid[0] == (12,)
    assert valid[0] == (2,)


def test_test_set_starts_where_the_items_type_fits():
    """A word goes through all transforms, a picture is opened no more; labels only where asked for."""
    dsets = datasets()
    assert type(test_set(dsets, ['cow'])[0][0]) is PILImage and len(test_set(dsets, ['cow'])[0]) == 1
    assert type(test_set(dsets, [picture('cow')])[0][0]) is PILImage
    assert test_set(dsets, ['cow'], with_labels=True)[0][1] == 2
    with pytest.raises(TypeError, match='a float was given'):
        test_set(dsets, [1.5])


def test_a_test_set_of_nothing_has_all_transforms():
    """There is no item that says where to begin, so that what is put into it goes the whole way."""
    lists = TfmdLists(WORDS, [picture, ToTensor()])
    assert [f.name for f in lists.test_set([]).tfms.fs] == [f.name for f in lists.tfms.fs]
    assert len(lists.test_set([picture('cow')]).tfms.fs) == len(lists.tfms.fs) - 1


def test_new_items_start_at_the_first_transform_that_takes_them():
    """A path may be told as a text or the other way round, also where paths come out of a transform on the way."""
    named = TfmdLists(['a', 'b'], [lambda o: f'{o}.png', lambda o: (o,)])
    numbered = TfmdLists([1, 2], [lambda i: Path(f'{i}.png'), lambda o: (o,)])
    assert [named.infer_idx(x) for x in ('a', Path('a'), ('a.png',))] == [0, 0, 2]
    assert [numbered.infer_idx(x) for x in (3, Path('3.png'), '3.png', ('3.png',))] == [0, 1, 1, 2]
    assert named.infer(Path('c')) == ('c.png',) and numbered.infer('c.png') == ('c.png',)
    with pytest.raises(TypeError, match='one of the types .*Path, int, tuple is expected and a float was given'):
        numbered.infer_idx(1.5)


# ---------------------------------------------------------------- loaders

def test_dataloaders_are_shuffled_and_full_in_training_only():
    """The training loader shuffles and drops a last batch that is not full, unless told otherwise."""
    dls = loaders(bs=3)
    assert (len(dls.train), len(dls.valid)) == (1, 1) and dls.train.shuffle and not dls.valid.shuffle
    assert len(loaders(bs=3, drop_last=False).train) == 2 and loaders(val_bs=1).valid.bs == 1
    assert [y.tolist() for _, y in dls.valid] == [[1, 2]]


def test_batches_have_markers_and_go_through_all_transforms():
    """A float picture and int64 classes, normalized."""
    x, y = loaders().valid.one_batch()
    assert type(x) is TensorImage and x.dtype == torch.float32 and type(y) is TensorCategory and y.dtype == torch.long
    torch.testing.assert_close(x[0, 0, 0, 0].as_subclass(torch.Tensor), torch.tensor((ord('a') / 255 - 0.5) / 0.2))


def test_attributes_are_found_down_the_chain_and_may_be_set():
    """dls -> training loader -> data set -> pipeline -> transform; what is set on dls stays there."""
    dls = loaders()
    assert list(dls.vocab) == ['a', 'b', 'c'] and dls.c == 3 == get_c(dls) and dls.n_inp == 1 and dls.bs == 2
    assert dls.categorize.decode(torch.tensor(1)) == 'b' and type(dls.loss_func).__name__ == 'BaseLoss' or dls.loss_func
    dls.vocab, dls.c, dls.loss_func = ['x'], 1, MSELossFlat()
    assert dls.vocab == ['x'] and get_c(dls) == 1 and list(dls.train.vocab) == ['a', 'b', 'c']
    with pytest.raises(AttributeError, match='DataLoaders'):
        dls.nothing


def test_decode_batch_undoes_everything():
    """uint8 pixels and the class's name."""
    dls = loaders()
    b = dls.valid.one_batch()
    (x, y), *_ = dls.valid.decode_batch(b)
    assert y == 'b' and abs(int(x[0, 0, 0]) - ord('a')) <= 1
    plain = tuple(t.as_subclass(torch.Tensor) for t in b)
    assert dls.valid.decode_batch(plain)[0][1] == 'b'  # marker types are known from the loader's own batches


def test_test_dl_of_new_items():
    """1-tuples without labels, pairs with; changed arguments go through; nothing is shuffled or dropped."""
    dls = loaders()
    assert [len(b) for b in dls.test_dl(WORDS)] == [1, 1, 1]
    labelled = dls.test_dl(WORDS, with_labels=True, bs=4)
    assert [len(b[1]) for b in labelled] == [4, 2] and list(labelled.vocab) == ['a', 'b', 'c']
    x, = dls.test_dl([picture('ant')]).one_batch()
    torch.testing.assert_close(x[0], loaders().test_dl(['ant']).one_batch()[0][0])


def twice(x):
    return 2 * x


@pytest.mark.parametrize('left_out, wanted', [(None, 12), (0, 12), (1, 6), (2, 3)])
def test_new_items_skip_as_many_transforms_as_is_said(left_out, wanted):
    """`rm_type_tfms` of a loader, `rm_tfms` of data sets; for each element, where it is a list."""
    dsets = Datasets([1, 2], [[twice, twice], [twice]])
    assert dsets.dataloaders(bs=2, device='cpu').test_dl([3], rm_type_tfms=left_out).one_batch()[0].tolist() == [wanted]
    assert test_set(dsets, [3], rm_tfms=left_out)[0] == (wanted,)
    assert test_set(dsets.tls[0], [3], rm_tfms=left_out)[0] == wanted
    assert test_set(dsets, [3], rm_tfms=[left_out, 1], with_labels=True)[0] == (wanted, 3)


def test_decode_batch_goes_as_far_as_is_said():
    """`full=False` stops at what can show itself."""
    class Told(str):
        def show(self, ctx=None, **kwargs):
            return ctx

    class Tell(Transform):
        def encodes(self, x: str):
            return len(x)

        def decodes(self, x: Tensor):
            return Told('a' * int(x))

    def shout(x: str):
        return x.lower()
    dl = TfmdDL(TfmdLists(['a', 'aa'], [Transform(shout, str.upper), Tell]), bs=2, num_workers=0)
    samples = [dl.decode_batch(dl.one_batch(), full=full) for full in (True, False)]
    assert [list(s) for s in samples] == [['A', 'AA'], ['a', 'aa']]


def test_add_tfms_to_some_loaders():
    """A transform is put where its order says, in the loaders named."""
    dls = loaders()
    dls.add_tfms([Transform(lambda x: x, order=50)], 'after_batch', 'valid')
    assert len(dls.train.after_batch) == 2 and [f.order for f in dls.valid.after_batch] == [10, 50, 99]


def test_new_empty_keeps_what_was_learned():
    """Loaders for predictions: no items, the same vocab, transforms and markers."""
    empty = loaders().new_empty()
    assert len(empty.train_ds) == 0 and list(empty.vocab) == ['a', 'b', 'c']
    assert [len(b[0]) for b in empty.test_dl(['cow', 'ant'])] == [2]


def test_loaders_without_items_decode_as_those_that_they_were_made_of():
    """What the parts of a batch are is known from these, as there is no batch to look at."""
    dls = loaders()
    b, new = dls.valid.one_batch(), dls.new_empty()
    wanted = dls.valid.decode_batch(b)
    plain = tuple(t.as_subclass(Tensor) for t in b)
    for dl in (dls.new_empty().valid, dls.valid.new(new.valid_ds), dls.valid.new(new.valid_ds, bs=7)):
        (x, y), *_ = dl.decode_batch(plain)
        assert type(x) is TensorImage and torch.equal(x, wanted[0][0]) and y == wanted[0][1]


def test_normalize_without_statistics_is_shared_by_all_loaders():
    """Measured once, on the training loader."""
    dls = loaders(after_batch=[IntToFloatTensor(), Normalize()])
    assert dls.train.after_batch[1] is dls.valid.after_batch[1] and dls.train.after_batch[1].mean is not None


def test_from_dsets_gives_each_loader_its_own_arguments():
    """Tuples are handed out, transforms are shared."""
    data = TensorDataset(torch.arange(10.), torch.arange(10))
    dls = DataLoaders.from_dsets(data, data, bs=4, num_workers=0, n=(8, 5))
    assert (len(dls.train), len(dls.valid)) == (2, 2) and len(list(dls.valid)[1][0]) == 1


def test_loaders_survive_copying():
    """Copies and pickles ask nobody else for the protocols of copying."""
    dls = copy.deepcopy(loaders())
    assert list(dls.vocab) == ['a', 'b', 'c'] and len(dls.one_batch()) == 2


# ---------------------------------------------------------------- foreign loaders

def foreign():
    data = TensorDataset(torch.rand(10, 3, 8, 8), torch.arange(10))
    return DataLoaders(TorchLoader(data, batch_size=4, shuffle=True), TorchLoader(data, batch_size=4))


def test_torch_loaders_are_left_as_they_are():
    """Their batches are theirs; looking draws nothing; what they do not tell is absent."""
    dls = foreign()
    before = torch.get_rng_state()
    x, y = dls.one_batch()
    assert torch.equal(before, torch.get_rng_state()) and type(x) is torch.Tensor
    assert dls.device is None and len(dls) == 2 and not hasattr(dls, 'vocab') and not hasattr(dls, 'c')
    assert getattr(dls, 'n_inp', None) is None and dls.cuda() is dls and len(dls.train_ds) == 10
    assert [len(b[0]) for b in dls.test_dl(dls.valid_ds, bs=5)] == [5, 5]


def test_the_plan_of_all_loaders_names_each_and_those_of_torch(capsys):
    """By what they are for; what is not ours is left as it is."""
    items = TensorDataset(torch.arange(4.))
    DataLoaders(TfmdDL(items, bs=2), TorchLoader(items), [1, 2]).show_plan()
    out = capsys.readouterr().out
    assert out.startswith('training:\norder ') and out.endswith(
        '\nvalidation:\nDataLoader, left as it is\nloader 2:\nlist, left as it is\n')


def test_torch_loaders_show_their_pictures():
    """A batch of pictures is drawn, with its classes above."""
    axs = foreign().show_batch(max_n=2)
    assert len(axs) == 2 and all(ax.images for ax in axs)


@pytest.mark.parametrize('named', [True, False])
def test_classes_of_a_foreign_data_set_are_shown_by_their_names(named):
    """Where it has them, as those of torchvision do; else by their numbers."""
    import minifast.vision.data  # noqa: F401  registers how pictures are shown
    items = TensorDataset(torch.rand(4, 3, 8, 8), torch.tensor([2, 0, 1, 2]))
    if named:
        items.classes = ['ant', 'bee', 'cat']
    axs = DataLoaders(TorchLoader(items, 4), TorchLoader(items, 4)).show_batch(max_n=4)
    assert [ax.get_title() for ax in axs] == (['cat', 'ant', 'bee', 'cat'] if named else ['2', '0', '1', '2'])


# ---------------------------------------------------------------- showing

def test_show_batch_draws_samples_with_titles(capsys):
    """One axis a sample, its class above; `show=False` returns what would be drawn."""
    import minifast.vision.data  # noqa: F401  registers how pictures are shown
    dls = loaders()
    axs = dls.valid.show_batch(max_n=2)
    assert [ax.get_title() for ax in axs] == ['b', 'c']
    x, y, samples = dls.valid.show_batch(show=False)
    assert type(x) is TensorImage and type(y) is TensorCategory and samples[0][1] == 'b'


def test_show_batch_unique_shows_one_item_in_many_augmentations():
    """The same item, each time with another draw; the loader is as before."""
    from minifast.vision.augment import RandomResizedCrop
    gradient = PILImage.create(np.arange(20 * 20 * 3, dtype=np.uint8).reshape(20, 20, 3))
    dl = TfmdDL([(gradient, 1), (gradient, 2)], bs=2, num_workers=0, after_item=[RandomResizedCrop(8), ToTensor])
    x, y, _ = dl.show_batch(unique=True, show=False)
    assert y.tolist() == [1, 1] and not torch.equal(x[0], x[1])
    assert sorted(dl.one_batch()[1].tolist()) == [1, 2]


def test_show_results_puts_predictions_below_targets():
    """Green where they agree."""
    import minifast.vision.data  # noqa: F401
    dls = loaders()
    axs = dls.valid.show_results(dls.valid.one_batch(), torch.tensor([1, 0]), max_n=2)
    assert [ax.get_title() for ax in axs] == ['b\nb', 'c\na']


@pytest.mark.parametrize('max_n', [1, 2, 9])
def test_results_that_would_be_shown_are_as_many_as_asked_for(max_n):
    """A prediction a sample, decoded; where there are several outputs, all of them."""
    dl = loaders(bs=4).train
    b = dl.one_batch()
    n = min(max_n, 4)
    for out, parts in ((torch.arange(4) % 2, ['a', 'b', 'a', 'b']), ((torch.arange(4) % 2,), ['a', 'b', 'a', 'b'])):
        x, y, samples, outs = dl.show_results(b, out, max_n=max_n, show=False)
        assert x.shape[0] == y.shape[0] == 4 and len(samples) == len(outs) == n
        assert [tuple(map(str, answer)) for answer in outs] == [(part,) for part in parts[:n]]


def test_results_are_shown_sample_by_sample_behind_what_is_right():
    """An answer may be one thing or a tuple of several; no more samples than asked for."""
    shown = []

    class Shown(str):
        def show(self, ctx=None, **kwargs):
            shown.append((ctx, str(self), kwargs))
            return ctx
    samples = [(Shown('x0'), Shown('y0')), (Shown('x1'), Shown('y1')), (Shown('x2'), Shown('y2'))]
    for outs, answers in (([Shown('a0'), Shown('a1'), Shown('a2')], ['a0', 'a1']),
                          ([(Shown('a0'), Shown('b0')), (Shown('a1'), Shown('b1')), (Shown('a2'), Shown('b2'))],
                           ['a0', 'a1', 'b0', 'b1'])):
        shown.clear()
        assert show_results('x', 'y', samples, outs, ctxs=['left', 'right'], max_n=2, alpha=.5) == ['left', 'right']
        assert [name for _, name, _ in shown] == ['x0', 'x1', 'y0', 'y1', *answers]
        assert [ctx for ctx, *_ in shown] == ['left', 'right'] * (len(shown) // 2)
        assert all(kwargs == {'alpha': .5} for *_, kwargs in shown)


def test_show_batch_of_a_users_type_through_typedispatch():
    """A function for the user's own type is chosen."""
    shown = []

    @typedispatch
    def show_batch(x: Sound, y: Tensor, samples: L, ctxs=None, max_n=9, **kwargs):
        shown.append(len(samples))
    TfmdDL([(Sound(torch.rand(2)), 1)] * 4, bs=4, num_workers=0).show_batch(max_n=3)
    assert shown == [3]
    get_show_batch_func(Sound, y_typ=Tensor, samples_typ=L)(None, None, 'ab')
    assert shown == [3, 2]
    for types in [(), (Tensor, Tensor, L), (Sound, str, L), (Sound, Tensor, str)]:  # another class, another function
        assert get_show_batch_func(*types) is not get_show_batch_func(Sound, Tensor, L)


def test_show_at_shows_one_sample():
    """The picture on the axis, the class as its title."""
    ax = show_at(datasets(), 0)
    assert ax.get_title() == 'a'


def test_pipeline_hooks_take_single_functions():
    """`after_batch=f` is a pipeline of one."""
    dl = TfmdDL([1, 2], bs=2, num_workers=0, after_batch=lambda b: b + 1)
    assert isinstance(dl.after_batch, Pipeline) and dl.one_batch().tolist() == [2, 3]
    assert dl.new().one_batch().tolist() == [2, 3]


def test_types_of_a_batch_are_told_as_fastai_tells_them():
    """Nested as the batch is; looking changes nothing, and they may be set."""
    dl = Datasets(['ab', 'cd'], [[lambda o: TensorImage(torch.zeros(3, 2, 2))], [initial, Categorize()]]).dataloaders(
        bs=2, num_workers=0).train
    assert dl._types == {tuple: [TensorImage, TensorCategory]} and dl._types is dl._types
    dl._types = {tuple: [TensorImage]}
    assert dl._types == {tuple: [TensorImage]}


@pytest.mark.parametrize('n_inp', [1, 2, 3])
def test_what_belongs_to_a_data_set_goes_with_its_parts(n_inp):
    """The number of inputs, the kind of loader: in splits, without items, with new ones."""
    class Loader(TfmdDL):
        pass
    dsets = Datasets(range(6), [[lambda i: i], [lambda i: -i], [str]], n_inp=n_inp, splits=[[0, 1, 2], [3, 4, 5]],
                     dl_type=Loader)
    for part in (dsets, dsets.train, dsets.valid, dsets.subset(1), dsets.new_empty(),
                 dsets.test_set([7], with_labels=True)):
        assert part.n_inp == n_inp and len(part.tls) == 3 and part._dl_type is Loader
    without = dsets.test_set([7])
    assert without.n_inp == n_inp == len(without.tls) and without._dl_type is Loader and len(without[0]) == n_inp
    dls = dsets.dataloaders(bs=2, num_workers=0)
    assert {type(dl) for dl in dls} == {type(dls.test_dl([7]))} == {Loader}
    assert [dl.n_inp for dl in (*dls, dls.test_dl([7]), dls.test_dl([7], with_labels=True))] == [n_inp] * 4


# ---------------------------------------------------------------- in a sentence

def test_loaders_and_data_sets_say_what_they_hold_without_a_look_at_it(tmp_path):
    """How many, of what kind and size, how many classes, where to: with the files gone, and no random number drawn."""
    dls = pictures(tmp_path).dls
    for file in tmp_path.rglob('*.png'):
        file.unlink()
    before = torch.get_rng_state()
    assert repr(dls) == 'ImageDataLoaders: 8 + 8 pictures 16x16, 2 classes, bs 4, cpu'
    assert repr(dls.train) == 'TfmdDL: 8 pictures 16x16, 2 classes, bs 4, cpu'
    assert repr(dls.train_ds) == 'Datasets: 8 items (PILImage, TensorCategory), for training, 2 classes'
    assert repr(dls.valid_ds.tls[1]) == 'TfmdLists: 8 items (TensorCategory), for validation, 2 classes'
    assert repr(Datasets(range(1200), [[lambda i: i], [lambda i: i % 3, Categorize()]], splits=[range(1000), [1001, 5]])
                ) == 'Datasets: 1,200 items (int, TensorCategory), split into 1,000 + 2, 3 classes'
    assert torch.equal(before, torch.get_rng_state())


def test_loaders_of_others_say_what_is_known_of_them():
    """Items of torch's loaders and their batch size; a stream; several vocabularies; none of it raises."""
    items = TensorDataset(torch.rand(9, 3), torch.zeros(9))
    assert repr(DataLoaders(TorchLoader(items, 4), TorchLoader(items, 4))) == 'DataLoaders: 9 + 9 items, bs 4, cpu'
    assert repr(DataLoaders(TorchLoader(items, batch_size=None))) == 'DataLoaders: 9 items, cpu'
    assert repr(DataLoaders()) == 'DataLoaders: no loaders'
    assert repr(TfmdDL(iter([1]), bs=2)) == 'TfmdDL: a stream of items, bs 2, cpu'
    for named, classes in (('ab', '2 classes'), ([['a'], ['b', 'c']], '1 and 2 classes')):
        items.vocab = list(named)
        assert repr(TfmdDL(items, bs=2)) == f'TfmdDL: 9 items, {classes}, bs 2, cpu'
    assert repr(TfmdDL.__new__(TfmdDL)).startswith('<minifast.data.core.TfmdDL object at')
