"""Laws of the loader: one stream of batches for any number and kind of workers, from any batch on, leaving no trace."""
from __future__ import annotations

import copy
import dataclasses
import functools
import multiprocessing
import os
import pickle
import random
import signal
import threading
import time

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset, WeightedRandomSampler
from torch.utils.data import DataLoader as TorchLoader

from minifast.data.collate import Slots, collate_error, new_pixels
from minifast.data.core import Datasets, TfmdDL, TfmdLists
from minifast.data.load import DataLoader, SkipItemException, _one_ahead, fa_collate, why_empty
from minifast.data.transform import Pipeline, RandTransform, Transform
from minifast.data.sampler import ItemKeys, Position, order, order_state, order_untouched, share
from minifast.data.transforms import Categorize, IntToFloatTensor, Normalize, ToTensor
from minifast.data.workers import _Failure, choose_workers, find_unpicklable, in_threads
from minifast.markers import TensorCategory, TensorImage
from minifast.seeds import get_random_states


def to_image(i):
    return TensorImage(torch.full((3, 4, 4), float(i)))


def to_label(i):
    return str(i % 3)


class Noise(Transform):
    """A user's transform that draws from all three global generators."""

    order = 6

    def encodes(self, x: TensorImage):
        return x + torch.rand(1) + random.random() + np.random.rand()


class Shift(RandTransform):
    """A user's transform in the `before_call` style."""

    order = 7

    def before_call(self, b, split_idx):
        self.by = random.random()

    def encodes(self, x: TensorImage):
        return x + self.by


class BatchNoise(Transform):
    def encodes(self, x: TensorImage):
        return x + torch.rand(len(x), 1, 1, 1) + np.random.rand()


class Squares(Dataset):
    """A torch data set of the user's own, random too."""

    def __len__(self):
        return 20

    def __getitem__(self, i):
        return torch.tensor([i * i, random.random() + np.random.rand()]) + torch.rand(1), i


def noisy_loader(**kwargs):
    splits = [list(range(20)), list(range(20, 24))]
    dsets = Datasets(list(range(24)), [[to_image], [to_label, Categorize()]], splits=splits)
    kwargs = {'bs': 4, 'shuffle': True, 'drop_last': True, 'num_workers': 0, **kwargs}
    return TfmdDL(dsets.train, after_item=[Noise(), Shift()], after_batch=[BatchNoise()], **kwargs)


def same(a, b):
    pairs = [(x, y) for p, q in zip(a, b) for x, y in zip(p, q)]
    return len(a) == len(b) and all(torch.equal(x, y) and type(x) is type(y) for x, y in pairs)


def run(dl, seed=5, epoch=1, start=0):
    dl.begin(seed, epoch, start)
    return list(dl)


# ---------------------------------------------------------------- the same batches everywhere

@pytest.fixture(scope='module')
def reference():
    return run(noisy_loader())


@pytest.mark.parametrize('n, context', [(1, 'fork'), (2, 'fork'), (5, 'fork'), (2, 'thread')])
def test_batches_are_the_same_for_any_workers(reference, n, context):
    """User transforms that draw from random, numpy and torch, on items and batches, change nothing in this."""
    assert same(reference, run(noisy_loader(num_workers=n, multiprocessing_context=context)))


@pytest.mark.slow
@pytest.mark.parametrize('context', ['spawn', 'forkserver'])
def test_batches_are_the_same_for_any_start_method(reference, context):
    """However worker processes are started, and in the second pass of workers that stay."""
    dl = noisy_loader(num_workers=2, multiprocessing_context=context)
    assert same(reference, run(dl)) and same(reference, run(dl))


def test_batches_of_keyed_transforms_in_threads():
    """Transforms of ours take their generator as an argument and run in threads, to the same bits."""
    from minifast.vision.augment import FlipItem, RandomResizedCrop
    from minifast.vision.core import PILImage
    pixels = np.random.RandomState(0).randint(0, 255, (12, 20, 24, 3), dtype=np.uint8)
    data = [(PILImage.create(p), i) for i, p in enumerate(pixels)]
    made = []
    for kwargs in ({'num_workers': 0}, {'num_workers': 3, 'multiprocessing_context': 'thread'}):
        dl = TfmdDL(data, bs=4, shuffle=True, after_item=[RandomResizedCrop(8), FlipItem(), ToTensor()], **kwargs)
        made.append(run(dl))
        assert dl._pass.plan.keyed
    assert same(*made)


class Own(RandTransform):
    """A user's transform that says it draws from the generator it is handed alone."""

    keyed, supports, order = True, (TensorImage,), 6

    def draw(self, sample, split_idx, generator):
        return float(torch.rand((), generator=generator))

    def apply(self, x, params):
        return x + params


class Silent(Own):
    """One that is derived from it and says nothing."""


def test_declared_transforms_of_the_user_run_in_threads(capsys):
    """To the same bits as in the calling process; one that says nothing gets processes."""
    data = [(to_image(i), i) for i in range(12)]
    made, plans = [], []
    for own, kwargs in ((Own, {'num_workers': 0}), (Own, {'num_workers': 3, 'multiprocessing_context': 'thread'}),
                        (Silent, {'num_workers': 2, 'multiprocessing_context': 'thread'})):
        dl = TfmdDL(data, bs=4, shuffle=True, after_item=[own(split_idx=None)], **kwargs)
        made.append(run(dl))
        dl.show_plan()
        plans.append(capsys.readouterr().out)
    assert same(made[0], made[1]) and '3 threads' in plans[1] and 'handed to the transforms' in plans[1]
    assert 'worker processes' in plans[2] and 'because of after_item: Silent' in plans[2]


@pytest.mark.parametrize('cpus, own, where', [(2, False, '2 threads'), (3, True, '3 worker processes'),
                                              (4, False, '4 threads'), (5, False, '5 worker processes')])
def test_workers_nobody_asked_for_are_a_few_threads_where_all_code_is_ours(cpus, own, where, monkeypatch, capsys):
    """Else processes; the plan says which, and batches are the same."""
    from minifast.data import workers
    from minifast.torch_core import defaults
    monkeypatch.setattr(workers, 'worth_s', -1e6)  # as if making batches took for ever
    monkeypatch.setattr(defaults, 'cpus', cpus)
    data = [(torch.full((3,), i), i) for i in range(24)]
    after = [lambda x: x] if own else []
    dl = TfmdDL(data, bs=2, shuffle=True, num_workers=None, device='cpu', after_item=after)
    assert same(run(dl), run(TfmdDL(data, bs=2, shuffle=True, num_workers=0, after_item=after)))
    dl.show_plan()
    assert where in capsys.readouterr().out and dl.num_workers == cpus


def test_batches_of_own_datasets_are_keyed_too():
    """A torch data set that draws from the global generators gives the same items for any workers."""
    kwargs = {'bs': 3, 'shuffle': True}
    assert same(run(DataLoader(Squares(), **kwargs)), run(DataLoader(Squares(), num_workers=2, **kwargs)))


def test_resume_at_a_batch_gives_the_remaining_batches(reference):
    """`begin(seed, epoch, b)` goes on with batch b, to the bit, and `state_dict` says where a pass stands."""
    for workers in (0, 2):
        assert same(reference[3:], run(noisy_loader(num_workers=workers), start=3))
    dl = noisy_loader()
    dl.begin(5, 1)
    batches = iter(dl)
    next(batches), next(batches)
    state = dl.state_dict()
    assert state == {'seed': 5, 'epoch': 1, 'batch': 2}
    again = noisy_loader()
    again.load_state_dict(state)
    assert same(reference[2:], list(again))


def test_epochs_and_seeds_differ_and_repeat():
    """Another epoch or seed, other batches; the same, the same."""
    dl = noisy_loader()
    assert same(run(dl), run(dl)) and not same(run(dl), run(dl, epoch=2)) and not same(run(dl), run(dl, seed=6))


def test_looking_leaves_no_trace():
    """A pass, one_batch and a sampler draw nothing from the global generators, and change nothing of a pass begun."""
    torch.manual_seed(3)
    before = get_random_states()
    dl = noisy_loader()
    dl.begin(5, 1)
    first = dl.one_batch()
    second = dl.one_batch()
    batches = list(dl)
    weighted = DataLoader(Squares(), bs=4, sampler=WeightedRandomSampler([1.] * 20, 8))
    list(weighted), weighted.one_batch()
    after = get_random_states()
    assert before['random_state'] == after['random_state'] and torch.equal(before['torch_state'], after['torch_state'])
    assert (before['numpy_state'][1] == after['numpy_state'][1]).all()
    assert not torch.equal(first[0], second[0])
    assert same(batches, run(noisy_loader()))


@pytest.mark.parametrize('n_workers', [0, 2])
def test_items_of_the_batch_handed_out_last_are_named_in_whatever_epoch(n_workers):
    """By their indices in the order of the batch, the last short batch too; before the first there are none."""
    dl = DataLoader(list(range(10)), bs=4, shuffle=True, num_workers=n_workers)
    assert dl.last_items() == []
    for seed, epoch in ((5, 0), (5, 3), (6, 3)):
        dl.begin(seed, epoch)
        for batch in dl:
            assert dl.last_items() == [f'item {i}' for i in batch.tolist()]
    assert dl.state_dict() == {'seed': 6, 'epoch': 3, 'batch': 3}


def test_a_loader_that_nobody_has_read_stands_at_a_beginning():
    """It has a state, by which another one goes on: from the first batch."""
    dl, other = (DataLoader(list(range(10)), bs=4, num_workers=0) for _ in range(2))
    state = dl.state_dict()
    assert state.keys() == {'seed', 'epoch', 'batch'} and (state['epoch'], state['batch']) == (0, 0)
    other.load_state_dict(state)
    assert [batch.tolist() for batch in other] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_set_seed_repeats_a_pass_by_hand():
    """Without `begin` the seed set last decides, and passes differ."""
    passes = []
    for _ in range(2):
        torch.manual_seed(9)
        dl = noisy_loader()
        passes.append([list(dl), list(dl)])
    assert same(passes[0][0], passes[1][0]) and same(passes[0][1], passes[1][1]) and not same(*passes[0])


def test_order_is_a_permutation_and_pure():
    """Every index once; a function of (n, seed, epoch)."""
    assert sorted(order(50, 1, 2)) == list(range(50)) and order(50, 1, 2) == order(50, 1, 2) != order(50, 1, 3)


def test_share_gives_every_rank_its_part():
    """Together the ranks see everything; with `even` all the same number."""
    parts = [share(range(10), rank, 3) for rank in range(3)]
    assert {len(p) for p in parts} == {4} and {i for p in parts for i in p} == set(range(10))
    assert [share(range(4), r, 3, even=False) for r in range(3)] == [[0, 3], [1], [2]]
    assert share([], 1, 3) == []


def test_item_keys_differ_for_repeats():
    """An index drawn twice in an epoch is augmented twice, differently; its keys do not depend on the others."""
    keys = ItemKeys(0)
    first, other, second = keys(3), keys(4), keys(3)
    assert len({first, other, second}) == 3 and ItemKeys(0)(4) == other


# ---------------------------------------------------------------- samplers, streams, sizes

def test_sampler_and_batch_sampler_are_honoured():
    """Their indices, in their order, and their length."""
    data = list(zip(range(10), range(10)))
    dl = DataLoader(data, bs=2, sampler=[7, 1, 3])
    assert [x.tolist() for x, _ in dl] == [[7, 1], [3]] and len(dl) == 2
    dl = DataLoader(data, batch_sampler=[[9, 8, 7], [0]])
    assert [x.tolist() for x, _ in dl] == [[9, 8, 7], [0]] and len(dl) == 2
    assert [x.tolist() for x, _ in dl.new(num_workers=1)] == [[9, 8, 7], [0]]
    with pytest.raises(ValueError, match='shuffle and sampler'):
        DataLoader(data, bs=2, shuffle=True, sampler=[1])


@pytest.mark.parametrize('kwargs, n', [({'bs': 3}, 4), ({'bs': 3, 'drop_last': True}, 3), ({'bs': 3, 'n': 4}, 2),
                                       ({'batch_size': 5}, 2), ({}, 10)])
def test_len_is_the_number_of_batches(kwargs, n):
    """With and without a last batch, with `n`, with torch's name, and of ready batches."""
    dl = DataLoader(list(range(10)), **kwargs)
    assert len(dl) == n == len(list(dl))


class Stream(IterableDataset):
    def __iter__(self):
        for i in range(10):
            yield torch.tensor([i + random.random()])


def test_streams_are_read_once_whatever_the_workers():
    """A data set without indices is one stream: the same batches in the caller and with workers, also on a resume."""
    whole = run(DataLoader(Stream(), bs=4))
    assert [len(b) for b in whole] == [4, 4, 2]
    for workers in (0, 1, 2):
        dl = DataLoader(Stream(), bs=4, num_workers=workers)
        assert all(torch.equal(a, b) for a, b in zip(whole, run(dl), strict=True))
        assert all(torch.equal(a, b) for a, b in zip(whole[1:], run(dl, start=1), strict=True))
    assert [len(b) for b in DataLoader(Stream(), bs=4, drop_last=True)] == [4, 4]
    assert [len(b) for b in DataLoader(Stream(), bs=4, n=6)] == [4, 2]
    with pytest.raises(ValueError, match='no indices'):
        DataLoader(Stream(), bs=4, shuffle=True)


def test_items_may_come_from_a_function_alone():
    """`create_item` without a data set: up to `n` items, or until it ends; resumed, it is asked for all of them."""
    for workers in (0, 1):
        dl = DataLoader(create_item=lambda i: torch.tensor(random.random()), n=6, bs=4, num_workers=workers)
        whole, rest = run(dl), run(dl, start=1)
        assert [len(b) for b in whole] == [4, 2] and len(set(torch.cat(whole).tolist())) == 6
        assert torch.equal(rest[0], whole[1]) and len(rest) == 1
    numbers = iter(range(5))
    assert [b.tolist() for b in DataLoader(create_item=lambda i: next(numbers), bs=2)] == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize('owner, name', [(DataLoader, hook) for hook in (
    'create_item', 'do_item', 'after_item', 'before_batch', 'create_batch', 'do_batch', 'retain', 'after_batch')]
    + [(Datasets, '__getitem__'), (TfmdLists, '__getitem__')])
@pytest.mark.parametrize('dataset', [Datasets([1, 2, 3, 4], [[float]]), TensorDataset(torch.arange(4))],
                         ids=lambda o: type(o).__name__)
def test_what_a_script_puts_in_the_place_of_a_method_of_the_class_is_called(owner, name, dataset, monkeypatch):
    """Nothing that a plan decides passes over it, neither the steps of samples nor slices of whole tensors."""
    called, original, expected = [], getattr(owner, name), [int(dataset[i][0]) for i in range(4)]

    def patched(self, *args, **kwargs):
        called.append(name)
        return original(self, *args, **kwargs)
    monkeypatch.setattr(owner, name, patched)
    batches = list(DataLoader(dataset, bs=2))
    assert torch.cat([b[0] for b in batches]).tolist() == expected
    assert called or (owner is not DataLoader and not isinstance(dataset, Datasets))


def test_hooks_as_arguments_and_as_overrides():
    """Each hook may be given or overridden."""
    class Mine(DataLoader):
        def create_item(self, s):
            return s * 10

    dl = Mine(list(range(6)), bs=2, after_item=lambda x: x + 1, create_batch=lambda b: list(b),
              before_batch=lambda b: b[::-1], after_batch=lambda b: [*b, 'end'], get_idxs=lambda: [5, 0, 3])
    assert list(dl) == [[1, 51, 'end'], [31, 'end']]
    assert list(DataLoader(list(range(3)), bs=2, do_item=lambda s: torch.tensor(s + 7)))[0].tolist() == [7, 8]
    assert list(DataLoader(list(range(4)), bs=2, collate_fn=sum)) == [1, 5]


def test_skipped_items_leave_their_batch():
    """SkipItemException and None leave an item out."""
    def choose(x):
        if x == 1:
            raise SkipItemException
        return None if x == 2 else torch.tensor(x)
    assert [b.tolist() for b in DataLoader(list(range(5)), bs=3, after_item=choose)] == [[0], [3, 4]]


class Ends(IterableDataset):
    """The numbers below n; whoever asks behind the end is told."""

    def __init__(self, n):
        self.n, self.ends = n, 0

    def __iter__(self):
        self.left, self.ended = iter(range(self.n)), False
        return self

    def __next__(self):
        assert not self.ended, 'asked behind the end'
        try:
            return next(self.left)
        except StopIteration:
            self.ended, self.ends = True, self.ends + 1
            raise


# ---------------------------------------------------------------- mistakes

def test_unknown_argument_names_the_near_one():
    """A mistyped keyword is told and left out, as scripts run on under fastai."""
    with pytest.warns(UserWarning, match="'shufle' and leaves it out, did you mean 'shuffle'"):
        DataLoader([1], shufle=True)
    with pytest.warns(UserWarning, match="did you mean 'after_item'"):
        TfmdDL([1], after_itm=noisy_loader)


@pytest.mark.parametrize('dl, told', [
    (DataLoader([1, 2], bs=3, drop_last=True), '2 items, bs=3, drop_last=True: a last batch that is not full is left '
     'out, and there is no other. Give bs=2 or less where the loaders are made'),
    (DataLoader([], bs=3), '0 items: do get_items and the splitter leave some? A learner that load_learner made '
     'predicts; to train it, give it data: learn.dls = dls'),
    (TorchLoader(Ends(0), batch_size=3), 'no length, bs=3: what it iterates over (Ends) yields nothing, or was used up '
     'by a pass before, as a generator is')], ids=['not full', 'no items', 'no length'])
def test_why_a_loader_is_empty_is_told_with_its_numbers_and_the_way_out(dl, told):
    """Word by word, as users read it."""
    assert why_empty(dl) == told


@pytest.mark.parametrize('n, bs', [(0, 2), (1, 2), (2, 2), (3, 2), (4, 2), (6, 3), (3, 1)])
def test_a_stream_that_has_ended_is_not_asked_again(n, bs):
    """Also where its end is that of a batch, and where the last items are left out."""
    for choose in (lambda x: x, lambda x: x if x < 2 else None):
        dl = DataLoader(Ends(n), bs=bs, after_item=choose, num_workers=0)
        found = [i for batch in dl for i in batch.tolist()]
        assert found == [i for i in range(n) if choose(i) is not None] and dl.dataset.ends == 1


class Broken(Dataset):
    items = ['a.png', 'b.png', 'broken.png']

    def __len__(self):
        return 3

    def __getitem__(self, i):
        if i == 2:
            raise ValueError('bad bytes')
        return torch.tensor(i)


@pytest.mark.parametrize('workers', [0, 2])
def test_error_keeps_its_type_and_names_the_item(workers):
    """The type that was raised, with a note of index and file, from workers too."""
    with pytest.raises(ValueError, match='bad bytes') as caught:
        list(DataLoader(Broken(), bs=2, num_workers=workers))
    assert any('item 2 (broken.png)' in note for note in caught.value.__notes__)


class Held(Exception):
    """An error that cannot be pickled."""

    def __init__(self, text):
        super().__init__(text)
        self.f = lambda: text


class NeedsTwo(Exception):
    """An error that cannot be made again from its arguments."""

    def __init__(self, text, number):
        super().__init__(f'{text} {number}')


@pytest.mark.parametrize('error, kind, text', [
    (ValueError('bad'), ValueError, 'bad'), (Held('bad'), RuntimeError, 'Held: bad'),
    (NeedsTwo('bad', 3), RuntimeError, 'NeedsTwo: bad 3')], ids=lambda o: getattr(o, '__name__', str(o)))
def test_an_error_of_a_worker_comes_as_it_is_or_is_told(error, kind, text):
    """With its notes, and where it cannot be sent with what it was and why not."""
    error.add_note('item 2')
    found = pickle.loads(pickle.dumps(_Failure(error)))
    assert type(found.error) is kind and str(found.error) == text and found.error.__notes__[-1] == 'item 2'
    assert type(error).__name__ in found.text and 'bad' in found.text
    assert [note.partition(': ')[0] for note in found.error.__notes__[:-1]] == [
        f'(a {type(error).__name__} cannot be sent between processes'] * (kind is RuntimeError)


@pytest.mark.parametrize('workers', [0, 2])
def test_on_error_skip_counts_and_lists(workers):
    """Unreadable items are left out, listed, and warned about once a pass."""
    dl = DataLoader(Broken(), bs=2, num_workers=workers, on_error='skip')
    with pytest.warns(UserWarning, match='1 items were left out.*broken.png'):
        assert [b.tolist() for b in dl] == [[0, 1]]
    assert dl.skipped == [(2, 'item 2 (broken.png)', 'ValueError: bad bytes')]


@pytest.mark.parametrize('length, shown', [(299, 'x' * 299), (300, 'x' * 300 + '...'), (999, 'x' * 300 + '...')])
def test_long_items_are_named_in_short(length, shown):
    """As they are below 300 characters."""
    class Named(Broken):
        items = ['a', 'b', 'x' * length]
    dl = DataLoader(Named(), bs=2, on_error='skip')
    with pytest.warns(UserWarning, match='1 items were left out'):
        list(dl)
    assert dl.skipped == [(2, f'item 2 ({shown})', 'ValueError: bad bytes')]


@pytest.mark.parametrize('item, shown', [
    (np.zeros((2, 30)), 'ndarray (2, 30)'), (torch.zeros(3), 'Tensor (3,)'), ('a\nb.png', r'a\nb.png'), (7, '7')])
def test_items_are_named_by_what_they_are(item, shown):
    """Numbers in memory by their class and shape, all else as it is, in letters that move no cursor."""
    class Named(Broken):
        items = ['a', 'b', item]
    with pytest.raises(ValueError, match='bad bytes') as caught:
        list(DataLoader(Named(), bs=2))
    assert caught.value.__notes__ == [f'raised while item 2 ({shown}) was made']


def test_collate_error_names_the_items_and_their_sizes():
    """Pictures of two sizes: which, and what to do."""
    data = [(torch.zeros(3, 4, 4), 0), (torch.zeros(3, 4, 5), 1)]
    with pytest.raises(RuntimeError) as caught:
        list(DataLoader(data, bs=2))
    note = '\n'.join(caught.value.__notes__)
    assert '3x4x4 in item 0' in note and '3x4x5 in item 1' in note and 'Resize' in note
    with pytest.raises(TypeError, match='object cannot form a batch'):
        fa_collate([object(), object()])


def test_a_part_without_a_shape_is_told_as_such():
    """Of what a sample has instead of numbers there is no size; numbers alone have an empty one."""
    error = collate_error(RuntimeError('stack expects each tensor to be equal size'), [(torch.zeros(2),), ('text',)])
    assert error.__notes__[0].startswith('element 0 (Tensor) has shape 2 in sample 0 and none in sample 1: ')
    error = collate_error(RuntimeError('equal size'), [torch.zeros(()), torch.zeros(3, 1)], ['a', 'b'])
    assert error.__notes__[0].startswith('element 0 (Tensor) has shape [] in a and 3x1 in b: ')


def test_lambda_for_spawned_workers_is_named():
    """What cannot be sent to a spawned worker is named with its place, before any worker runs."""
    dl = DataLoader([1, 2, 3, 4], bs=2, num_workers=1, multiprocessing_context='spawn', after_item=lambda x: x)
    with pytest.raises(TypeError, match=r'the lambda at .*test_data_load.py:\d+ cannot be sent to worker processes'):
        list(dl)
    assert find_unpicklable([to_image, {'a': to_label}]) == []


class _LookedInto:
    """Counts how often its attributes are asked for."""

    n = 0

    @property
    def __dict__(self):
        self.__class__.n += 1
        return {'f': _LookedInto.f}

    f = staticmethod(lambda: 1)


def test_what_cannot_be_pickled_is_found_below_anything_looking_once_at_each():
    """In containers, partials, methods and objects that hold each other, however often they are held."""
    o, ring, _LookedInto.n = _LookedInto(), [], 0
    found = find_unpicklable([o, {'a': o}, (o, functools.partial(print, o, key=o)), {o}])
    assert found == find_unpicklable(o) and len(found) == 1 and 'lambda at' in found[0] and _LookedInto.n == 2
    ring.append({'ring': ring})
    assert find_unpicklable(ring) == []


def test_lambda_with_forked_workers_works():
    """Forked workers have the function already."""
    dl = DataLoader([1, 2, 3, 4], bs=2, num_workers=1, multiprocessing_context='fork', after_item=lambda x: x * 2)
    assert [b.tolist() for b in dl] == [[2, 4], [6, 8]]


@pytest.mark.parametrize('kwargs', [{'num_workers': 2}, {'num_workers': 1, 'multiprocessing_context': 'thread'},
                                    {'num_workers': 0}, {'num_workers': None}], ids=str)
def test_one_batch_is_made_here(kwargs):
    """In the calling process and thread, whatever makes the batches of a pass: to look at one starts no worker."""
    dl = DataLoader(range(6), bs=2, after_item=lambda i: torch.tensor([os.getpid(), threading.get_ident()]), **kwargs)
    assert dl.one_batch().tolist() == [[os.getpid(), threading.get_ident()]] * 2


def test_one_batch_of_nothing_is_refused():
    """An empty loader says so."""
    with pytest.raises(ValueError, match='no batch: 2 items, bs=4, drop_last=True'):
        DataLoader([1, 2], bs=4, drop_last=True).one_batch()


# ---------------------------------------------------------------- collating, delegating, planning

def test_collate_keeps_markers_and_containers():
    """Tensors stacked in one block with their marker, numbers as tensors, text listed, containers kept."""
    x, y = to_image(1), TensorCategory(torch.tensor(2))
    b = fa_collate([(x, y, 3, 2.5, 'a', {'k': 1}), (x, y, 4, 3.5, 'b', {'k': 2})])
    assert type(b) is tuple and type(b[0]) is TensorImage and b[0].shape == (2, 3, 4, 4) and b[0].is_contiguous()
    assert type(b[1]) is TensorCategory and b[2].dtype == torch.long and b[3].dtype == torch.float64
    assert b[4] == ['a', 'b'] and b[5]['k'].tolist() == [1, 2]


def test_pictures_in_their_slots_are_collated_without_a_copy():
    """Those that lie in the batch's memory one after the other are the batch; in another order they are copied."""
    slots, samples = Slots(3), []
    for i in range(3):
        place = new_pixels((3, 4, 4), slots)
        place[:] = i
        samples.append((TensorImage(torch.from_numpy(place)), i))
    assert slots.take((3, 4, 4)) is None  # full
    dl = DataLoader(samples, bs=3)
    copied = fa_collate(samples)[0]
    for collated in (fa_collate, dl.create_batch, dl.do_batch):
        b = collated(samples, slots=slots)
        assert b[0].data_ptr() == slots.block.data_ptr() != copied.data_ptr() and type(b[0]) is TensorImage
        assert torch.equal(b[0], copied) and b[1].tolist() == [0, 1, 2]
    assert fa_collate(samples[::-1], slots=slots)[0][0].max() == 2


def test_batches_equal_those_of_torchs_loader():
    """Without transforms and shuffling, bit for bit."""
    data = TensorDataset(torch.randn(10, 3), torch.arange(10))
    ours, torchs = list(DataLoader(data, bs=4)), list(TorchLoader(data, batch_size=4))
    assert all(torch.equal(a, b) for p, q in zip(ours, torchs, strict=True) for a, b in zip(p, q))


class Counted(TensorDataset):
    """Tensors whose items are taken one at a time, which a subclass may ask for."""

    def __getitem__(self, i):
        assert isinstance(i, int)
        return super().__getitem__(i)


@pytest.mark.parametrize('settings', [{}, {'shuffle': True}, {'shuffle': True, 'drop_last': True},
                                      {'sampler': [3, 3, 5, 1, 0]}, {'batch_sampler': [[1, 2], [5], [4, 4, 0]]},
                                      {'num_workers': 2, 'shuffle': True}], ids=str)
@pytest.mark.parametrize('part', [lambda data: data, lambda data: Subset(Subset(data, range(1, 11)),
                                                                         [8, 3, 5, 0, 9, 2, 1])], ids=['all', 'subset'])
def test_slices_of_tensors_are_the_batches_of_their_items(settings, part, capsys):
    """A `TensorDataset` is sliced a batch at a time, and nobody can tell but by the clock and the plan."""
    tensors = torch.randn(11, 3, 4, 4), TensorImage(torch.randn(11, 2)), torch.arange(11)
    settings = {'bs': None if 'batch_sampler' in settings else 4, **settings}
    made = []
    for kind in (TensorDataset, Counted):
        dl = DataLoader(part(kind(*tensors)), **settings)
        dl.begin(5, 2)
        made.append(list(dl))
        dl.show_plan()
        assert ('slices' in capsys.readouterr().out) == (kind is TensorDataset)
    for sliced, collated in zip(*made, strict=True):
        assert type(sliced) is type(collated) is tuple
        for a, b in zip(sliced, collated, strict=True):
            assert torch.equal(a, b) and type(a) is type(b) and a.stride() == b.stride()


@pytest.mark.parametrize('hook', ['after_item', 'before_batch', 'create_batch', 'create_item', 'do_item'])
def test_a_loader_with_more_to_do_than_slicing_does_it(hook):
    """Any hook of the user's is called."""
    calls, data = [], TensorDataset(torch.arange(6.))
    hooks = {'create_batch': fa_collate, 'create_item': lambda i: data[i], 'do_item': lambda i: data[i]}
    dl = DataLoader(data, bs=3, **{hook: lambda o: calls.append(1) or hooks.get(hook, lambda o: o)(o)})
    assert torch.equal(torch.cat([x for x, in dl]), torch.arange(6.)) and calls


def test_new_changes_what_is_said_and_keeps_the_rest():
    """A loader like this one."""
    dl = DataLoader(list(range(10)), bs=2, after_item=lambda x: x + 1)
    assert [b.tolist() for b in dl.new(bs=5)] == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]
    assert next(iter(dl.new([5, 6]))).tolist() == [6, 7]


def test_attributes_come_from_the_dataset():
    """What a loader has not, its data set may have; a miss names both."""
    dl = DataLoader(Broken(), bs=1)
    assert dl.items == Broken.items
    with pytest.raises(AttributeError, match='DataLoader nor on Broken'):
        dl.nothing


def test_small_data_are_made_without_workers_and_the_plan_says_so(capsys):
    """`num_workers=None` is decided by the first batch; what may draw from the global generators is named."""
    dl = noisy_loader(num_workers=None)
    list(dl)
    dl.show_plan()
    plan = capsys.readouterr().out
    assert dl.num_workers == 0 and 'for the time the first batch took' in plan and 'after_item: Noise' in plan


class OwnDatasets(Datasets):
    """Whose items may be anything."""

    def __getitem__(self, i):
        return super().__getitem__(i)


@pytest.mark.parametrize('make, told', [
    (lambda: Datasets([1, 2], [[ToTensor()], [Categorize()]]), None),
    (lambda: Subset(Subset(Datasets([1, 2], [[ToTensor()]]), [0, 1]), [1]), None),
    (lambda: TfmdLists([1, 2], [ToTensor()]), None), (lambda: TensorDataset(torch.zeros(2)), None),
    (lambda: [1, 2], None),
    (lambda: Datasets([1, 2], [[Noise(), ToTensor()], [to_label]]), 'dataset: Noise, dataset: to_label'),
    (lambda: Subset(Datasets([1, 2], [[Noise()]]), [0]), 'dataset: Noise'),
    (lambda: TfmdLists([1, 2], [Noise()]), 'dataset: Noise'),
    (lambda: OwnDatasets([1, 2], [[ToTensor()]]), 'dataset: OwnDatasets'),
    (lambda: Subset(Broken(), [0]), 'dataset: Broken')])
def test_the_plan_names_what_of_a_data_set_may_draw(make, told, capsys):
    """Transforms of the user's, within subsets too, and data sets of which nobody knows what they do; nothing of
    ours."""
    DataLoader(make(), bs=1).show_plan()
    line, = (line for line in capsys.readouterr().out.splitlines() if line.startswith('randomness'))
    assert line.split(maxsplit=1)[1] == ('from generators handed to the transforms' if told is None else (
        f'global generators seeded for each item, because of {told}'))


class Plus(Transform):
    """Adds a number to pictures that are floats already."""

    def __init__(self, n, **kwargs):
        super().__init__(**kwargs)
        self.n = n

    def encodes(self, x: TensorImage):
        return x + self.n


def test_what_treats_each_value_alike_joins_the_table_of_bytes():
    """On the CPU, where it follows the bytes' becoming floats; statistics of each place do not, nor what is behind."""
    from minifast.data import load as loading
    alike, by_place = (Normalize(torch.full(shape, .5), torch.full(shape, .2))
                       for shape in ((1, 3, 1, 1), (1, 3, 4, 4)))
    for after, in_table in (([alike], 2), ([by_place], 1), ([by_place, alike], 1), ([alike, by_place], 2)):
        fs = [IntToFloatTensor(), *after]
        table, *behind = loading._bytes_first(Pipeline(fs), torch.device('cpu')).fs
        assert list(table.tfms.fs) == fs[:in_table] and behind == fs[in_table:]


def test_nothing_is_decided_after_the_first_batch_of_a_pass(monkeypatch):
    """Whose randomness it is, in what order transforms run, which of them are for the split: once, for all batches."""
    from minifast.data import load as loading
    from minifast.data import transform
    dl = noisy_loader()
    batches = iter(dl)
    next(batches)
    of_loading = ('_plan_of', '_batch_plan', '_bytes_first', '_unknown_parts', 'is_known', 'workers_of')
    for where, names in ((loading, of_loading), (transform, ('is_known', 'mk_transform')), (Transform, ('step',)),
                         (RandTransform, ('step',)), (Pipeline, ('steps',))):
        for name in names:
            monkeypatch.setattr(where, name, lambda *args, name=name: pytest.fail(f'{name} was asked again'))
    assert len(list(batches)) == 4


@pytest.mark.parametrize('change, then', [
    (lambda dl: dl.after_batch.add(Plus(7)), 8), (lambda dl: setattr(dl.after_batch.fs[0], 'n', 5), 5),
    (lambda dl: setattr(dl.after_batch.fs[0], 'split_idx', 1), 0), (lambda dl: dl.after_batch.fs.clear(), 0),
    (lambda dl: setattr(dl, 'after_batch', lambda b: [b[0] + 9]), 9),
    (lambda dl: setattr(dl, 'after_batch', Pipeline([Plus(4), Plus(4)])), 8),
    (lambda dl: setattr(dl.after_batch, 'split_idx', 1), 1)])
def test_batch_transforms_that_are_changed_in_a_pass_act_on_the_next_batch(change, then):
    """Added, taken away, exchanged, or told another number or split, as callbacks do between two batches."""
    dl = TfmdDL([(to_image(0), i) for i in range(6)], bs=2, num_workers=0, after_batch=[Plus(1)])
    batches = iter(dl)
    assert float(next(batches)[0].max()) == 1
    change(dl)
    assert [float(b[0].max()) for b in batches] == [then, then]


@pytest.mark.parametrize('indices', [None, [3, 1, 2], np.array([4, 0, 1, 9])], ids=['all', 'list', 'array'])
@pytest.mark.parametrize('sampler', [None, list(np.arange(3)[::-1]), list(torch.arange(3))],
                         ids=['own', 'numpy', 'torch'])
@pytest.mark.parametrize('single', [False, True])
def test_samples_by_steps_are_those_by_hooks(indices, sampler, single):
    """Elements of samples are made in a row; a loader whose `create_item` asks the data set makes the same ones."""
    class Asking(TfmdDL):
        def create_item(self, s):
            return self.dataset[s]
    dsets = Datasets(list(range(24)), [[to_image, Plus(1), Plus(5, split_idx=1)], [to_label, Categorize()]],
                     splits=[list(range(20)), list(range(20, 24))])
    data = dsets.tls[0].subset(0) if single else dsets.train
    data = data if indices is None else Subset(data, indices)
    made = []
    for kind in (TfmdDL, Asking):
        dl = kind(data, bs=2, num_workers=0, sampler=sampler, shuffle=sampler is None,
                  after_item=[Noise(), Shift(), Plus(3, split_idx=0)])
        made.append([b if isinstance(b, tuple) else (b,) for b in run(dl)])
        assert (dl._pass.plan.elements is None) == (kind is Asking)
    assert same(*made)


def test_worker_processes_are_gone_after_a_pass():
    """Also after a pass that was left in the middle."""
    import multiprocessing
    batches = iter(noisy_loader(num_workers=2))
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert not multiprocessing.active_children()


class Lost:
    """Items of which the fourth takes its worker process with it: by leaving, by a signal, or by never answering."""

    items = [f'{i}.png' for i in range(6)]

    def __init__(self, how):
        self.how = how

    def __len__(self):
        return 6

    def __getitem__(self, i):
        if i == 3:
            if self.how == 'hangs':
                time.sleep(60)
            elif self.how == 'exits':
                os._exit(1)
            os.kill(os.getpid(), signal.SIGSEGV if self.how == 'segfaults' else signal.SIGKILL)
        return torch.tensor(i)


@pytest.mark.tally
@pytest.mark.parametrize('how', ['killed', 'segfaults', 'exits', 'hangs'])
def test_a_lost_worker_is_told_in_bounded_time_with_its_items(how):
    """A worker that is gone or silent ends the pass with an error that names batch and files, and leaves no process."""
    dl = DataLoader(Lost(how), bs=2, num_workers=1, timeout=2)
    with pytest.raises(RuntimeError) as caught:
        list(dl)
    assert any('item 3 (3.png)' in note for note in caught.value.__notes__)
    assert not multiprocessing.active_children()
    dl.num_workers = 0
    assert torch.equal(next(iter(dl)), torch.tensor([0, 1]))


# ---------------------------------------------------------------- randomness differs where it should

def _augmented(seed, epoch, **kwargs):
    """What is random about each item, by its index: items and batches in a known order."""
    kwargs = {'bs': 4, 'shuffle': False, 'num_workers': 0, **kwargs}
    dl = TfmdDL(list(range(16)), after_item=[NoiseOf()], after_batch=[BatchNoiseOf()], **kwargs)
    return torch.cat([x for x, in run(dl, seed=seed, epoch=epoch)])


class NoiseOf(Transform):
    """The item's own numbers, from all three generators; what batches add goes into the second column."""

    def encodes(self, x: int):
        return (torch.tensor([torch.rand(()) + random.random() + np.random.rand(), 0.]),)


class BatchNoiseOf(Transform):
    def encodes(self, x: torch.Tensor):
        x = x.clone()
        x[:, 1] = torch.rand(()) + np.random.rand()
        return x


def test_an_item_is_augmented_otherwise_in_each_epoch_and_with_each_seed():
    """Also where the order is the same, so that it is not the shuffling that differs; and no two items alike."""
    first = _augmented(5, 1)
    for other in (_augmented(5, 2), _augmented(6, 1)):
        assert (first[:, 0] != other[:, 0]).all() and not set(first[:, 0].tolist()) & set(other[:, 0].tolist())
        assert not set(first[:, 1].tolist()) & set(other[:, 1].tolist())
    assert len(set(first[:, 0].tolist())) == 16
    assert torch.equal(first, _augmented(5, 1))


def test_each_batch_of_an_epoch_draws_numbers_of_its_own():
    """Four batches, four draws."""
    assert len(set(_augmented(5, 1)[:, 1].tolist())) == 4


def test_our_augmentation_differs_between_epochs_and_between_batches():
    """The same for transforms that are handed a generator: crops of items, turns of batches."""
    from minifast.vision.augment import CropPad, RandomCrop, Rotate
    from minifast.vision.core import PILImage
    pixels = np.random.RandomState(0).randint(0, 255, (40, 40, 3), np.uint8)
    data = [(PILImage.create(pixels),)] * 8
    crops = TfmdDL(data, bs=2, after_item=[RandomCrop(8), ToTensor()])
    a, b = run(crops, epoch=1), run(crops, epoch=2)
    pictures = [tuple(x.flatten().tolist()) for batch in (*a, *b) for x in batch[0]]
    assert len(set(pictures)) > 12  # of 16 crops at 1,089 places
    turns = TfmdDL(data, bs=2, after_item=[CropPad(8), ToTensor()], after_batch=[Rotate(45, p=1., batch=True)])
    turned = [tuple(x.flatten().tolist()) for batch in (*run(turns, epoch=1), *run(turns, epoch=2)) for x in batch[0]]
    assert len(set(turned)) == 8  # one draw for both pictures of a batch, another one for each of eight batches


class KeyedNoise(Transform):
    """Of batches, and says that it draws from the generator that it is handed alone."""

    keyed = True

    def encodes(self, x: torch.Tensor, generator=None):
        return x + torch.rand(len(x), generator=generator)


def test_a_keyed_batch_transform_draws_from_the_generator_of_its_batch():
    """The same numbers in the same batch of the same epoch, others elsewhere, none of the global generator's."""
    dl = DataLoader(torch.zeros(8), bs=4, after_batch=Pipeline([KeyedNoise()]))
    torch.manual_seed(3)
    before, passes = torch.get_rng_state(), [torch.cat(run(dl, *at)) for at in ((5, 1), (5, 2), (6, 1), (5, 1))]
    assert torch.equal(before, torch.get_rng_state())
    assert len(set(torch.cat(passes[:3]).tolist())) == 24 and torch.equal(passes[0], passes[3])
    torch.manual_seed(4)
    assert torch.equal(torch.cat(run(dl, 5, 1)), passes[0])


@pytest.mark.parametrize('size, part, on_bytes', [(None, 'train', True), (None, 'valid', True), (8, 'train', True),
                                                  (8, 'valid', False)])
def test_pictures_stay_bytes_as_long_as_that_is_faster_and_exact(size, part, on_bytes, monkeypatch, capsys):
    """Behind the geometry in training; in validation only where that changes no size, which would resample."""
    from minifast.data.transforms import IntToFloatTensor, Normalize
    from minifast.vision.augment import Rotate
    monkeypatch.setattr('minifast.vision.geometry.can_warp_bytes', lambda: True)
    dsets = Datasets([*range(4)], [[to_image]], splits=[[0, 1], [2, 3]])
    after = [IntToFloatTensor(), Rotate(size=size, p=1.), Normalize.from_stats([.5] * 3, [.2] * 3, cuda=False)]
    dl = TfmdDL(getattr(dsets, part), bs=2, device='cpu', after_batch=after)
    dl.begin(5, 1)
    next(iter(dl))
    dl.show_plan()
    told = capsys.readouterr().out.splitlines()[-1].split(maxsplit=1)[1]
    geometry, floats = told.index('Rotate'), told.index('IntToFloat')
    assert (geometry < floats) == on_bytes and told.index('Normalize') > max(geometry, floats)


def test_order_differs_between_epochs_and_seeds():
    """Each is a permutation, and none is the one before."""
    orders = [tuple(order(50, seed, epoch)) for seed in (1, 2) for epoch in range(5)]
    assert len(set(orders)) == 10 and all(sorted(o) == list(range(50)) for o in orders)


def test_an_item_drawn_twice_in_an_epoch_is_augmented_twice():
    """Sampling with replacement: another seed for each time."""
    dl = TfmdDL(list(range(4)), bs=8, sampler=[2] * 8, after_item=[NoiseOf()])
    assert len(set(run(dl)[0][0][:, 0].tolist())) == 8


def test_an_order_is_drawn_once_more_and_leaves_no_trace():
    """`began`: what a sampler held when a pass began; in the end it holds what it did before the block."""
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    samplers = [torch.utils.data.RandomSampler(range(20), generator=g) for g in generators]
    dl, sampler = DataLoader(list(range(20)), bs=2, sampler=samplers[0]), samplers[1]
    began = order_state(dl)
    first, second, third = (list(sampler) for _ in range(3))
    assert [list(dl.sampler), list(dl.sampler)] == [first, second]
    with order_untouched(dl, began):
        assert list(dl.sampler) == first
    with order_untouched(dl):
        assert list(dl.sampler) == third
    assert list(dl.sampler) == third


def test_a_position_is_a_seed_a_pass_and_a_batch():
    """The loader that is brought there goes on as one that was told to begin there."""
    dl, told = DataLoader(list(range(20)), bs=4, shuffle=True), []
    for seed, epoch, batch in ((3, 2, 1), (3, 4, 1), (5, 2, 1), (3, 2, 0)):
        dl.begin(seed, epoch, batch)
        told.append(list(dl))
        dl.load_state_dict(dataclasses.asdict(Position(seed, epoch=epoch, batch=batch)))
        assert repr(list(dl)) == repr(told[-1])
    assert len({repr(batches) for batches in told}) == 4 and repr(told[3][1:]) == repr(told[0])


# ---------------------------------------------------------------- what a loader hands on, and whom it calls

def test_new_keeps_every_argument():
    """Whatever a loader was given, one made from it has."""
    given = {'bs': 3, 'num_workers': 1, 'pin_memory': False, 'timeout': 7, 'shuffle': True, 'drop_last': True,
             'indexed': True, 'device': torch.device('cpu'), 'persistent_workers': True, 'prefetch_factor': 3,
             'multiprocessing_context': 'fork', 'on_error': 'skip', 'cache': 'somewhere', 'wif': print,
             'after_item': str, 'before_batch': list, 'create_batch': list, 'after_batch': tuple}
    dl = DataLoader(list(range(9)), **given)
    for made in (dl.new(), dl.new([1, 2, 3]), dl.new().new()):
        for name in given:
            assert repr(getattr(made, name)) == repr(getattr(dl, name)), name
    sampler = [3, 1, 2]
    assert DataLoader(list(range(9)), bs=2, sampler=sampler).new().sampler is sampler
    assert DataLoader(list(range(9)), bs=2, drop_last=True).new(drop_last=False).drop_last is False


class _Numbered:
    """Called in a worker; leaves a file named after its number."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, worker_id):
        (self.folder / str(worker_id)).touch()


class _Hooked(DataLoader):
    def __init__(self, *args, hook, **kwargs):
        super().__init__(*args, **kwargs)
        self.hook = hook

    def wif(self, worker_id=None):
        super().wif(worker_id)
        self.hook(worker_id)


@pytest.mark.parametrize('make, name', [(DataLoader, 'wif'), (DataLoader, 'worker_init_fn'), (_Hooked, 'hook')])
def test_wif_is_called_in_each_worker_with_its_number(tmp_path, make, name):
    """As torch's `worker_init_fn`, under both names, and as a method."""
    run(make(Squares(), bs=2, num_workers=3, **{name: _Numbered(tmp_path)}))
    assert sorted(f.name for f in tmp_path.iterdir()) == ['0', '1', '2']


class _FailsAt:
    def __init__(self, i):
        self.i = i

    def __len__(self):
        return 12

    def __getitem__(self, i):
        if i == self.i:
            raise ZeroDivisionError(f'item {i}')
        return torch.tensor(i)


@pytest.mark.parametrize('i', [0, 5, 11])
@pytest.mark.parametrize('kwargs', [{}, {'num_workers': 2}])
def test_errors_of_any_batch_are_raised_whoever_makes_it(i, kwargs):
    """The last batches too, which nobody waits behind; `on_error='skip'` hides no mistake in the code."""
    for on_error in ('raise', 'skip'):
        with pytest.raises(ZeroDivisionError, match=f'item {i}'):
            run(DataLoader(_FailsAt(i), bs=3, on_error=on_error, **kwargs))


@pytest.mark.parametrize('at', range(5))
def test_in_threads_raises_the_error_of_any_job_and_loses_none(at):
    """In order, with the error where its batch would have been."""
    def make(job):
        if job == at:
            raise ZeroDivisionError
        return job
    made = in_threads(make, range(5), 2, 2)
    assert [next(made) for _ in range(at)] == list(range(at))
    with pytest.raises(ZeroDivisionError):
        next(made)
    assert list(in_threads(lambda job: job, range(5), 2, 2)) == list(range(5))


class _EpochSampler:
    def __init__(self):
        self.epochs = []

    def set_epoch(self, epoch):
        self.epochs.append(epoch)

    def __len__(self):
        return 4

    def __iter__(self):
        return iter(range(4))


def test_a_sampler_with_set_epoch_is_told_the_epoch():
    """As torch's `DistributedSampler` wants it."""
    sampler = _EpochSampler()
    dl = DataLoader(list(range(4)), bs=2, sampler=sampler)
    for epoch in (0, 3, 4):
        run(dl, epoch=epoch)
    assert sampler.epochs == [0, 3, 4]


@pytest.mark.parametrize('n, bs, drop_last, lengths', [(7, 3, False, [3, 3, 1]), (7, 3, True, [3, 3]),
                                                       (6, 3, False, [3, 3]), (2, 3, True, []), (0, 3, False, [])])
def test_length_is_the_number_of_batches_that_come(n, bs, drop_last, lengths):
    """Full ones, and the rest unless `drop_last`."""
    dl = DataLoader(list(range(n)), bs=bs, drop_last=drop_last)
    assert [len(b) for b in run(dl)] == lengths and len(dl) == len(lengths)


@pytest.mark.parametrize('again', [copy.deepcopy, lambda dl: pickle.loads(pickle.dumps(dl))], ids=['copied', 'pickled'])
def test_a_loader_whose_workers_wait_is_copied_without_them(again):
    """The copy starts its own, and gives the same batches."""
    dl = DataLoader([*range(7)], bs=2, num_workers=2, persistent_workers=True)
    wanted = [b.tolist() for b in dl]
    twin = again(dl)
    assert dl._pool is not None and twin._pool is None and [b.tolist() for b in twin] == wanted


class _OfTraining(Transform):
    split_idx = 0

    def encodes(self, x: TensorImage):
        return x + 100


def test_workers_that_wait_see_that_the_split_is_another_one():
    """As for a pass over training items without augmentation and back: what workers of an earlier pass know is old."""
    dsets = Datasets(list(range(8)), [[to_image, _OfTraining()]], splits=[list(range(8)), []])
    dl = TfmdDL(dsets.train, bs=8, num_workers=1, persistent_workers=True, multiprocessing_context='fork')

    def seen():
        return [int(x[0, 0, 0]) for (batch,) in dl for x in batch]
    assert seen() == list(range(100, 108))
    with dl.dataset.set_split_idx(1):
        assert seen() == list(range(8))
    assert seen() == list(range(100, 108))


def _blocks_of_a_worker(samples):
    made = fa_collate(samples)
    return made, [part.is_shared() for part in (made[0], made[1]['x'])]


@pytest.mark.parametrize('workers', [0, 1])
def test_what_a_worker_stacks_lies_where_the_loader_sees_it_without_a_copy(workers):
    """Tensors and arrays of every depth; in the loader's own process there is nobody to share it with."""
    data = [(torch.full((3,), i), {'x': np.full((2, 2), i)}) for i in range(4)]
    dl = DataLoader(data, bs=2, num_workers=workers, create_batch=_blocks_of_a_worker)
    for i, ((first, second), shared) in enumerate(dl):
        assert shared == [bool(workers)] * 2
        assert first[:, 0].tolist() == second['x'][:, 0, 0].tolist() == [2 * i, 2 * i + 1]


@pytest.mark.parametrize('workers', [0, 1])
def test_tensors_of_different_sizes_form_no_batch(workers):
    """Of which sizes they are is told, whoever collates them."""
    with pytest.raises(RuntimeError, match='stack expects each tensor to be equal size'):
        list(DataLoader([torch.zeros(2), torch.zeros(3)], bs=2, num_workers=workers))


@pytest.mark.parametrize('method, cpus, n_batches, n, start_s', [
    ('fork', 4, 100, 4, .05 + .02 * 4), ('fork', 2, 100, 2, .05 + .02 * 2), ('fork', 99, 100, 16, .05 + .02 * 16),
    ('fork', 8, 5, 5, .05 + .02 * 5), ('spawn', 4, 100, 4, 3 + .5 * 4), ('forkserver', 2, 100, 2, 3 + .5 * 2)])
def test_workers_are_chosen_where_they_save_a_second(method, cpus, n_batches, n, start_s):
    """At most 16, one a core, one a batch behind the first; what they cost to start is counted."""
    class Mine(Dataset):  # may draw from the global generators: processes
        def __len__(self):
            return n_batches + 1

        def __getitem__(self, i):
            return torch.tensor(i)
    dl = DataLoader(Mine(), bs=1, multiprocessing_context=method)
    worth = (1 + start_s) / (n_batches * (1 - 1 / n))
    assert choose_workers(dl, worth * 1.001, cpus, False) == n and choose_workers(dl, worth * .999, cpus, False) == 0


def test_threads_start_as_fast_as_forked_processes():
    """What they cost is counted as little, asked for or not."""
    for kwargs in ({'multiprocessing_context': 'thread', 'num_workers': 1}, {'num_workers': None, 'device': 'cpu'}):
        dl = DataLoader([*range(11)], bs=1, **kwargs)
        worth = (1 + .05 + .02 * 4) / (10 * (1 - 1 / 4))
        assert choose_workers(dl, worth * 1.001, 4, True) == 4 and choose_workers(dl, worth * .999, 4, True) == 0


def test_no_workers_are_chosen_for_what_they_cannot_share():
    """One core, one further batch, batches without a number."""
    dl = DataLoader([*range(30)], bs=10)
    assert choose_workers(dl, 1e9, 1, True) == 0 and choose_workers(dl, 1e9, 8, True) == 2
    assert choose_workers(DataLoader([*range(20)], bs=10), 1e9, 8, True) == 0
    assert choose_workers(DataLoader(iter(range(9)), bs=3), 1e9, 8, True) == 0


@pytest.mark.parametrize('n_threads, ahead', [(1, 1), (2, 3), (3, 2)])
def test_threads_make_as_many_batches_ahead_as_told(n_threads, ahead):
    """Behind the one that is handed out, and no more until it is used; all come, in order."""
    taken = []

    def jobs():
        for i in range(20):
            taken.append(i)
            yield i
    batches = in_threads(lambda job: 10 * job, jobs(), n_threads, ahead)
    for i in range(5):
        assert next(batches) == 10 * i and len(taken) == i + 1 + n_threads * ahead
    assert list(batches) == [10 * i for i in range(5, 20)]


def test_batches_that_nobody_waits_for_any_more_are_not_made():
    """Threads end with what they have begun; what was only ordered is dropped."""
    made, go = [], threading.Event()

    def make(job):
        if job:
            go.wait(10)
        made.append(job)
        return job
    batches = in_threads(make, range(20), 1, 5)
    assert next(batches) == 0
    threading.Timer(.2, go.set).start()
    batches.close()
    assert made in ([0], [0, 1])


@pytest.mark.parametrize('n', [0, 1, 4])
def test_the_next_upload_has_begun_when_a_batch_is_handed_out(n):
    """All come, in order, one ahead."""
    begun = []

    def uploads():
        for i in range(n):
            begun.append(i)
            yield i
    for i, batch in enumerate(_one_ahead(uploads())):
        assert batch == i and len(begun) == min(i + 2, n)
    assert begun == [*range(n)]


def test_the_plan_names_whatever_is_called(capsys):
    """Functions and methods by their name, objects that have none by their class, pipelines by their parts."""
    dl = DataLoader([1., 2.], create_item=functools.partial(float), after_item=Plus(1), before_batch=to_label,
                    after_batch=dict().get)
    dl.show_plan()
    told = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert {hook: told[hook] for hook in ('create_item', 'after_item', 'before_batch', 'create_batch', 'after_batch')} \
        == {'create_item': 'partial', 'after_item': 'Plus', 'before_batch': 'to_label',
            'create_batch': 'DataLoader.create_batch', 'after_batch': 'dict.get'}


@pytest.mark.parametrize('ahead', [1, 4])
def test_processes_make_as_many_batches_ahead_as_told(ahead):
    """`prefetch_factor` behind the one that is handed out, and no more until it is used."""
    made = torch.zeros((), dtype=torch.long).share_memory_()

    class Counted(Dataset):
        def __len__(self):
            return 20

        def __getitem__(self, i):
            made.add_(1)
            return i
    batches = iter(DataLoader(Counted(), bs=1, num_workers=1, prefetch_factor=ahead, multiprocessing_context='fork'))
    next(batches)
    deadline = time.monotonic() + 20
    while made < 1 + ahead and time.monotonic() < deadline:
        time.sleep(.01)
    batches.close()
    assert made == 1 + ahead
