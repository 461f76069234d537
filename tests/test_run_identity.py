"""What a run is told apart by: fingerprints of objects, items without reading one, and what changes by itself."""
from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import json
import random
import re
import sys
import zlib
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from fastcore.foundation import L
from small_learner import learner
from torch import nn
from torch.utils.data import ConcatDataset, Subset, TensorDataset
from torch.utils.data import DataLoader as TorchLoader
from torchvision.transforms.v2 import ColorJitter

from minifast.callback.core import Callback
from minifast.callback.schedule import ParamScheduler, SchedLin
from minifast.data.core import DataLoaders, Datasets, TfmdLists
from minifast.data.load import DataLoader
from minifast.data.transform import Pipeline, Transform, mk_transform
from minifast.data.transforms import ColReader, ItemGetter, RegexLabeller, parent_label
from minifast.optimizer import SGD, Adam
from minifast.run import identity as room
from minifast.run.differences import differences
from minifast.run.identity import (UNKNOWN, Column, Files, columns_of, fingerprint, is_path, note_what_moved,
                                   read_tables, run_identity)
from minifast.seeds import set_seed

PYTHON = 'code {}.{}'.format(*sys.version_info)


def sha(text):
    """The digest that stands for a long text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def of(learn, **asked):
    """The identity of a fit of two epochs."""
    learn.create_opt()
    return run_identity(learn, {'n_epoch': 2, **asked})


def on(train, valid=None, ours=True, **kwargs):
    """A learner on these data sets, through our loaders or torch's."""
    learn = learner()
    kind = functools.partial(DataLoader, bs=4) if ours else functools.partial(TorchLoader, batch_size=4)
    learn.dls = DataLoaders(kind(train, **kwargs), kind(train if valid is None else valid))
    return learn


# ---------------------------------------------------------------- fingerprints

class Colour(enum.Enum):
    RED = 1


class Scaled:
    def __init__(self, much):
        self.much = much
        setattr(self, '__hidden', 1)

    def apply(self, x):
        return x * self.much


class Slotted:
    __slots__ = ('x',)


class Shy:
    """Does not want to be looked at."""

    def __getattribute__(self, name):
        if name == '__dict__':
            raise RuntimeError
        return super().__getattribute__(name)


class Margin(nn.Module):
    """A loss of the user's."""

    def __init__(self, margin):
        super().__init__()
        self.margin, self._cache, self.inner, self.none = margin, 3, nn.ReLU(), None
        self.register_buffer('w', torch.ones(1))
        self.register_buffer('off', None)

    def forward(self, pred, y):
        return pred


ME = __name__
FOUR = np.arange(4, dtype=np.float32)
CRC = f'{zlib.crc32(FOUR.tobytes()):08x}'
own_name = type('A', (), {'__module__': '__main__'})
PLAIN = {
    'none': (None, None), 'true': (True, True), 'number': (3, 3), 'text': ('text', 'text'), 'float': (.5, .5),
    'nan': (float('nan'), 'nan'), 'inf': (-float('inf'), '-inf'), 'long': ('x' * 200, 'x' * 200),
    'longer': ('y' * 201, f'{"y" * 40}... (201 letters, {sha("y" * 201)})'), 'numpy': (np.float32(.5), .5),
    'numpy int': (np.int64(3), 3), 'enum': (Colour.RED, 'Colour.RED'), 'dtype': (torch.float16, 'torch.float16'),
    'device': (torch.device('cpu'), 'cpu'), 'range': (range(3), 'range(0, 3)'), 'bytes': (b'x', "b'x'"),
    'slice': (slice(1, 2), 'slice(1, 2, None)'), 'path': (PurePosixPath('/a/b'), 'b'), 'gone': ('/no/such', '/no/such'),
    'relative': ('tests', 'tests'), 'objects': (np.array(['a', None], object), ['a', None]),
    'array': (FOUR, f'float32 [4] {CRC}'), 'tensor': (torch.from_numpy(FOUR).reshape(2, 2), f'float32 [2, 2] {CRC}'),
    'strided': (torch.from_numpy(np.stack([FOUR, FOUR], 1))[:, 0], f'float32 [4] {CRC}'),
    'parameter': (nn.Parameter(torch.from_numpy(FOUR)), f'float32 [4] {CRC}'),
    'strided array': (np.stack([FOUR, FOUR], 1)[:, 0], f'float32 [4] {CRC}'),
    'half': (torch.zeros(2, dtype=torch.bfloat16), f'bfloat16 [2] {zlib.crc32(bytes(4)):08x}'),
    'scalar': (torch.tensor(True), f'bool [] {zlib.crc32(bytes([1])):08x}'),
    'empty': (torch.zeros(0, 3), 'float32 [0, 3] 00000000'), 'sparse': (torch.eye(2).to_sparse(), 'float32 [2, 2]'),
    'dict': ({1: .5, 'a': [FOUR]}, {'1': .5, 'a': [f'float32 [4] {CRC}']}),
    '50 entries': ({i: i for i in range(50)}, {str(i): i for i in range(50)}),
    '51 entries': ({i: PurePosixPath(f'a/{i}') for i in range(51)},
                   f'51 entries {sha(json.dumps([[str(i), str(i)] for i in range(51)]))}'),
    'set': ({'b', 'a'}, ['a', 'b']), 'frozen set': (frozenset('ba'), ['a', 'b']), 'tuple': ((1, 'a'), [1, 'a']),
    '20 elements': (L(range(20)), list(range(20))),
    '21 elements': ([PurePosixPath(f'a/{i}') for i in range(21)],
                    f'21 elements {sha(json.dumps([str(i) for i in range(21)]))}'),
    'partial': (functools.partial(F.relu, 1, inplace=True),
                {'function': {'function': 'torch.nn.functional.relu'}, 'args': [1], 'inplace': True}),
    'builtin': (len, {'function': 'len'}), 'class': (int, {'class': 'int'}), "script's": (own_name(), {'class': 'A'}),
    'class of mine': (Scaled, {'class': f'{ME}.Scaled'}), 'slots': (Slotted(), {'class': f'{ME}.Slotted'}),
    'pattern': (re.compile('x' * 201, re.I), {'class': 're.Pattern', 'flags': 34,
                                               'pattern': f'{"x" * 40}... (201 letters, {sha("x" * 201)})'}),
    'generator': (random.Random(0), {'class': 'random.Random'}), 'stream': (iter([1]), {'class': 'list_iterator'}),
    'torch generator': (torch.Generator(), {'class': 'torch.Generator'}),
    'object': (Scaled(2), {'class': f'{ME}.Scaled', 'much': 2}),
    'shy': (Shy(), {'class': f'{ME}.Shy'}), 'ours': (SGD, {'class': 'minifast.SGD'}),
    'table': (pd.DataFrame({'a': [1, 2], 'b': ['x', 'y']}), f'2 rows {sha("1 | x" + chr(10) + "2 | y")}'),
    "torch's loss": (nn.BCEWithLogitsLoss(torch.from_numpy(FOUR)),
                     {'class': 'torch.nn.modules.loss.BCEWithLogitsLoss', 'reduction': 'mean',
                      'weight': f'float32 [4] {CRC}'})}


@pytest.mark.parametrize('kind', PLAIN)
def test_a_fingerprint_is_plain_data_that_says_the_value(kind):
    """Numbers and short texts as they are, arrays by a checksum, long things by their number and a digest."""
    x, told = PLAIN[kind]
    assert fingerprint(x) == told and type(fingerprint(x)) is type(told)
    assert json.loads(json.dumps(fingerprint(x))) == told


def test_a_folder_that_was_moved_is_the_same(tmp_path):
    """An absolute name of what is there counts by its last part, as a path does."""
    (tmp_path / 'data').mkdir()
    assert fingerprint(str(tmp_path / 'data')) == fingerprint(tmp_path / 'data') == 'data'


def test_a_function_is_its_name_its_code_and_what_it_was_made_with():
    """Defaults and what it closes over; of a function of a library its name says all."""
    def made(power, factor=3):
        def f(x, more=2):
            return x * factor ** power + more
        return f
    one, again, other = (fingerprint(made(*given)) for given in ((1,), (1, 3), (2,)))
    digest = one.pop(PYTHON)
    assert one == {'function': f'{ME}.{made.__qualname__}.<locals>.f', 'more': 2, 'power': 1, 'factor': 3}
    assert again == {**one, PYTHON: digest} and other == {**again, 'power': 2}
    assert fingerprint(made)['factor'] == 3 and fingerprint(F.dropout) == {'function': 'torch.nn.functional.dropout'}
    assert fingerprint(lambda x, power=1: x).items() >= {'power': 1}.items()
    assert fingerprint(functools.cache(made)) == {'function': f'{ME}.{made.__qualname__}', 'factor': 3}
    assert fingerprint(Scaled(2).apply).items() >= {'function': f'{ME}.Scaled.apply',
                                                    'of': {'class': f'{ME}.Scaled', 'much': 2}}.items()


def test_a_loss_of_the_users_is_its_settings_its_numbers_its_code_and_its_parts():
    """What it hides, and what is not there, is no setting."""
    told = fingerprint(Margin(2.))
    assert set(told) == {'class', PYTHON, 'margin', 'none', 'w', 'inner'} and told['none'] is None
    assert (told['class'], told['margin']) == (f'{ME}.Margin', 2.)
    assert told['inner'] == {'class': 'torch.nn.modules.activation.ReLU', 'inplace': False}
    assert told['w'] == f'float32 [1] {zlib.crc32(np.ones(1, np.float32).tobytes()):08x}'


def test_each_thing_is_looked_at_once_and_so_many_of_them():
    """Objects that hold each other end; what comes beyond the bound is known by its class."""
    ring = [1]
    ring.append(ring)
    assert fingerprint(ring) == [1, {'class': 'list'}]
    two, cls = Scaled(2), {'class': f'{ME}.Scaled'}
    assert fingerprint([two, two, Scaled(2)]) == [{**cls, 'much': 2}, cls, {**cls, 'much': 2}]
    one = room._Fingerprints()
    one.left = 3
    assert one([1, Scaled(2), Scaled(3), Scaled(4), 5]) == [1, {**cls, 'much': 2}, {**cls, 'much': 3}, cls, 5]


def test_of_a_large_array_256_parts_are_read_from_its_start_to_its_end(monkeypatch):
    """Of one that is no larger than the bound each byte."""
    n = 65536 + 255 * 4096
    x = np.random.RandomState(0).randint(0, 256, n, np.uint8)
    monkeypatch.setattr(room, 'ARRAY_BYTES', n)
    assert fingerprint(x) == f'uint8 [{n}] {zlib.crc32(x.tobytes()):08x}'
    monkeypatch.setattr(room, 'ARRAY_BYTES', n - 1)
    parts = b''.join(x[4096 * i:4096 * i + 65536].tobytes() for i in range(256))
    assert fingerprint(x) == fingerprint(torch.from_numpy(x)) == f'uint8 [{n}] {zlib.crc32(parts):08x}'


# ---------------------------------------------------------------- items, without reading one

def test_what_is_a_file(tmp_path, monkeypatch):
    """Any path; a text where there is one of that name, here or below one of the bases; no folder and no oddity."""
    (tmp_path / 'd').mkdir()
    (tmp_path / 'd' / 'a').write_text('a')
    monkeypatch.chdir(tmp_path)
    for x, bases in ((Path('nowhere'), ('',)), ('d/a', ('',)), ('a', ('', 'd')), ('a', (str(tmp_path / 'd'),))):
        assert is_path(x, bases) and is_path(x, [*bases, 'nowhere'])
    for x in ('a', 'd', '', 'b', 'd/a\0', 'a' * 5000, 3, None, ['d/a'], b'd/a'):
        assert not is_path(x)


def test_an_item_in_words():
    """Its name, and the size of its file where there is one; none behind the last."""
    column = Column(['a', 'b'], [1234, None])
    assert [column.tell(i) for i in range(3)] == ['a, 1,234 bytes', 'b', 'none'] and Column(['a']).tell(0) == 'a'


def test_what_takes_too_long_is_not_known(monkeypatch):
    """Each 256 items the clock is looked at; behind the deadline there is None an item."""
    now = [0.]
    monkeypatch.setattr(room, 'time', SimpleNamespace(monotonic=lambda: now[0]))

    def slow(x):
        now[0] += 1
        return x + 1
    assert room._until(300, slow, range(600)) == [*range(1, 513), *[None] * 88]
    assert room._until(600, slow, [7]) == [8] and room._until(512, slow, [7, 8]) == [None, None]


PAIRS = [('a', 0), ('b', 1), ('c', 2)]
UNEQUAL = [['a', 'b'], [('c', 2)]]


@pytest.mark.parametrize('ds, told', [
    (Subset(PAIRS, [2, 0]), {'item': ['c', 'a'], 'label': [2, 0]}),
    (Subset(Subset(PAIRS, [2, 1]), torch.tensor([1])), {'item': ['b'], 'label': [1]}),
    (Subset(TensorDataset(torch.ones(3)), np.array([2, 0])), {'item': [2, 0]}),
    (ConcatDataset([PAIRS, PAIRS[:1]]), {'item': ['a', 'b', 'c', 'a'], 'label': [0, 1, 2, 0]}),
    (ConcatDataset(UNEQUAL), None), (ConcatDataset([PAIRS, TensorDataset(torch.ones(1))]), None),
    (ConcatDataset([TensorDataset(torch.ones(1)), PAIRS]), None), (range(3), None),
    (L('a', 'b'), {'item': ['a', 'b']}), (SimpleNamespace(samples=PAIRS), {'item': list('abc'), 'label': [0, 1, 2]}),
    (SimpleNamespace(samples='abc'), None), (SimpleNamespace(items=[1], tfms=[str]), None),
    (TfmdLists([1, 2], [lambda i: f'{i}']), {'item': [1, 2], 'input': ['1', '2']}),
    (TfmdLists([Path('a'), Path('b')], [lambda f: f.name]), {'item': [Path('a'), Path('b')]}),
    (Datasets(['a_1', 'b_2'], [[RegexLabeller('_(.)')], [RegexLabeller('(.)_')]]),
     {'item': ['a_1', 'b_2'], 'input': ['1', '2'], 'label': ['a', 'b']}),
    (Datasets([Path('x/a'), Path('y/b')], [[lambda f: torch.ones(1)], [parent_label]]),
     {'item': [Path('x/a'), Path('y/b')], 'label': ['x', 'y']}),
    (Datasets([(1, 2, 3, 4)], [[ItemGetter(i)] for i in range(4)], n_inp=2),
     {'item': [(1, 2, 3, 4)], 'input': [1], 'input 1': [2], 'label': [3], 'label 3': [4]}),
    (Datasets(pd.DataFrame({'f': ['a', 'b'], 'y': [1, 2]}), [[ColReader('f')], [ColReader('y')]]),
     {'item': ['a | 1', 'b | 2'], 'input': ['a', 'b'], 'label': [1, 2]})])
def test_items_and_labels_are_known_without_reading_one(ds, told):
    """Of a part, of a sum, of rows of a table, and as far as the functions in front of the pipelines tell them."""
    assert columns_of(ds) == told


def test_another_pattern_of_labels_is_another_run():
    """Of the same files and classes: the first label that is another is named."""
    then, now = (of(on(Datasets(['a_b', 'b_a'], [[str.upper], [RegexLabeller(pat)]]))) for pat in ('(.)_', '_(.)'))
    found, = differences(then.parts, now, then.tables)
    assert found.severe and str(found).startswith('training item 0 was a_b, label a and is a_b, label b')


def test_of_a_long_table_the_first_labels_are_known():
    """A row of a table takes long to take out: 20,000 of them are."""
    class Table(list):
        iloc = property(lambda self: self)

        def itertuples(self, index=True):
            return ((i,) for i in self)
    labels = room._through([SimpleNamespace(items=Table(range(20_002)), tfms=Pipeline([lambda i: -i]))], 0)['label']
    assert labels[:2] == [0, -1] and labels[19_998:] == [-19_998, -19_999, None, None]


def test_looking_at_labels_draws_nothing_and_stops_at_what_does_more():
    """A transform that is a class, or two functions, is not asked; the generators are as they were."""
    asked = []

    class Asked(Transform):
        def encodes(self, x):
            asked.append(x)
            return x
    two = Transform([lambda x: x, lambda x: x])
    drawing = Datasets([1, 2], [[lambda i: f'{i}{random.random()}{torch.rand(1).item()}', Asked()]])
    others = [Datasets([1, 2], [[Asked(), lambda i: 'x']]), Datasets([1, 2], [[two]])]
    asked.clear()
    before = random.getstate(), torch.get_rng_state()
    told = columns_of(drawing)['input']
    assert len({*told}) == 2 and told[0][0] == '1' and told == columns_of(drawing)['input']
    assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[1])
    assert [columns_of(ds) for ds in others] == [{'item': [1, 2]}] * 2 and asked == []


CLOCK = SimpleNamespace(now=0., tick=0.)


def slow_label(x):
    CLOCK.now += CLOCK.tick
    return f'label {x}'


def test_labels_that_took_too_long_are_no_difference(monkeypatch):
    """Then or now: storage may be slow once. The clock is looked at each 256 items."""
    monkeypatch.setattr(room, 'time', SimpleNamespace(monotonic=lambda: CLOCK.now))
    ds = Datasets([f'{i}' for i in range(300)], [[str.upper], [slow_label]])
    known = of(on(ds))
    monkeypatch.setattr(CLOCK, 'tick', room.LOOK_S / 255)
    late, names = of(on(ds)), [f'label {i}' for i in range(300)]
    assert known.tables['training']['label'].texts == names
    assert late.tables['training']['label'].texts == names[:256] + [UNKNOWN] * 44
    assert differences(known.parts, late, known.tables) == differences(late.parts, known, late.tables) == []


def written(folder, **sizes):
    """Files of these sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, size in sizes.items():
        (folder / name).write_bytes(name.encode() * size)
    return [folder / name for name in sizes]


def test_a_column_of_files_has_names_sizes_times_and_contents(tmp_path):
    """Where an item has none, or the file is gone, they are not known."""
    first, second = written(tmp_path / 'd', a=3, b=5)
    files = Files()
    column = files.add('item', [None, str(first), second, first.parent / 'gone'])
    files.look()
    assert column.texts == [UNKNOWN, 'a', 'b', 'gone'] and column.sizes == [None, 3, 5, None]
    assert column.times == [None, first.stat().st_mtime_ns, second.stat().st_mtime_ns, None]
    assert column.contents == [None, zlib.crc32(b'aaa'), zlib.crc32(b'bbbbb'), None]
    assert column.digests() == {'n': 4, **{name: sha('\n'.join(map(str, getattr(column, name))))
                                           for name in ('texts', 'sizes', 'times', 'contents')}}


def test_names_below_a_base_are_looked_for_in_the_first_that_has_them(tmp_path):
    """And told from the folder that all of them share."""
    for place, size in (('x', 1), ('y', 2)):
        written(tmp_path / place / 'k', a=size)
        written(tmp_path / place / 'm', b=size)
    files = Files()
    column = files.add('item', ['k/a', 'm/b'], ['', str(tmp_path / 'z'), str(tmp_path / 'y'), str(tmp_path / 'x')])
    files.look()
    assert column.texts == ['k/a', 'm/b'] and column.sizes == [2, 2]


@pytest.mark.parametrize('values, texts', [
    (['a', 'b'], ['a', 'b']), ([1, .5, True], ['1', '0.5', 'True']), (['a', None, 2], ['a', UNKNOWN, '2']),
    ([None, None], [UNKNOWN] * 2),
    ([[1, 'a'], (Path('x'),)], ['[1, "a"]', '["x"]']), ([], [])])
def test_a_column_of_no_files_has_names_alone(values, texts):
    """Texts and numbers as they are, other things by their fingerprint."""
    files = Files()
    column = files.add('item', values)
    files.look()
    assert column == Column(texts) and column.sizes == column.times == column.contents == []


@pytest.mark.parametrize('bound, known', [({}, True), ({'CONTENT_FILES': 2}, True), ({'CONTENT_FILES': 1}, False),
                                          ({'CONTENT_BYTES': 8}, True), ({'CONTENT_BYTES': 7}, False)])
def test_contents_are_looked_at_where_files_are_few_and_small(bound, known, tmp_path, monkeypatch):
    """Of all splits together, up to the bounds; names, sizes and times are known all the same."""
    for name, value in bound.items():
        monkeypatch.setattr(room, name, value)
    files = Files()
    columns = [files.add('item', [path]) for path in written(tmp_path, a=3, b=5)]
    files.look()
    assert [column.sizes for column in columns] == [[3], [5]] and [column.texts for column in columns] == [['a'], ['b']]
    assert [column.contents for column in columns] == (
        [[zlib.crc32(b'aaa')], [zlib.crc32(b'bbbbb')]] if known else [[None], [None]])


# ---------------------------------------------------------------- what changes by itself

class Counting(torch.utils.data.Dataset):
    """Counts what was read, and keeps it from the first on."""

    def __init__(self, x=3):
        self.x, self.n_read = x, 0

    def __len__(self):
        return 8

    def __getitem__(self, i):
        self.n_read += 1
        return torch.ones(3, 6, 6), i % 4


def test_what_a_fit_changed_by_itself_is_not_known_and_the_rest_is():
    """Of this very object, from then on, however often something else moves; what has come is no difference either."""
    rows, other = Counting(), Counting()
    learn = on(rows, other)

    def told():
        return {k: of(learn).parts['data'][k]['data set'] for k in ('training', 'validation')}
    assert told() == dict.fromkeys(('training', 'validation'), {'x': 3, 'n_read': 0})
    for change, now in (({'n_read': 5}, {'x': 3, 'n_read': UNKNOWN}),
                        ({'kept': [1]}, {'x': 3, 'n_read': UNKNOWN, 'kept': UNKNOWN})):
        then = of(learn)
        vars(rows).update(change)
        note_what_moved(then)
        assert told() == {'training': now, 'validation': {'x': 3, 'n_read': 0}}
        assert not differences(then.parts, of(learn), None) or 'kept' in change
    rows.x = 4
    assert [d.severe for d in differences(then.parts, of(learn), None)] == [True]


def test_what_is_watched_lives_no_longer_for_it():
    """A list cannot be watched, and hinders no other; of what is gone nothing is remembered."""
    watched, rows = room._Watched(), Counting()
    plain = [1]
    for thing in (plain, rows):
        watched(thing, lambda x: {'n': len(x) if x is plain else x.n_read})
    plain.append(2)
    rows.n_read = 1
    note_what_moved(SimpleNamespace(watched=watched))
    key = id(rows)
    assert watched.seen == [] and room._moving[key][1] == {'n'} and id(plain) not in room._moving
    del rows, thing
    assert key not in room._moving


# ---------------------------------------------------------------- the parts

def test_of_a_data_set_of_the_users_what_is_data_is_told(tmp_path):
    """Not its functions, which are its transforms, nor its generators, nor what is told item by item."""
    rows = Counting()
    vars(rows).update(transform=len, rng=random.Random(0), names=[str(p) for p in written(tmp_path, a=1, b=2)],
                      weights=FOUR, samples=[('a', 0), ('b', 1)], indices=[1], __made=1)
    found = of(on(rows))
    told = {'x': 3, 'n_read': 0, 'weights': f'float32 [4] {CRC}'}
    assert found.parts['data']['training']['data set'] == told
    assert {name: {key: c.texts for key, c in columns.items()} for name, columns in found.tables.items()} == {
        f'{split}{of_what}': columns for split in ('training', 'validation')
        for of_what, columns in (('', {'item': ['a', 'b'], 'label': ['0', '1']}), (' names', {'item': ['a', 'b']}))}
    assert found.parts['transforms']['transform'] == dict.fromkeys(('training', 'validation'), {'function': 'len'})


def test_of_parts_and_sums_each_data_set_below_is_told():
    """In the order of their depth."""
    told = of(on(Subset(ConcatDataset([Counting(1), Counting(2)]), range(12)))).parts['data']['training']
    assert (told['class'], told['n']) == ('torch.utils.data.dataset.Subset', 12)
    deeper = "data set's data set"
    assert told['data set'] == {} and told[deeper] == {'cumulative_sizes': [8, 16]}
    assert [told[deeper + "'s data set" * n]['x'] for n in (1, 2)] == [1, 2] and len(told) == 8


def test_a_loader_that_takes_a_part_or_weighs_is_another():
    """Of ours, by its number of items, weights and share; those items alone are told."""
    learn = on([(f'{i}', i) for i in range(8)], n=3)
    learn.dls.train.wgts, learn.dls.train.partial_n = FOUR, 2
    found = of(learn)
    assert found.tables['training']['item'].texts == ['0', '1', '2'] and found.parts['data']['training']['n'] == 8
    assert found.parts['data']['training']['draw'] == [f'float32 [4] {CRC}', 2]
    assert len(found.tables['validation']['item'].texts) == 8


def test_of_a_data_set_of_ours_the_items_are_told():
    """What else it keeps is how it works; names of files lie below a folder of the data set where it has one."""
    found = of(on(Datasets(['a', 'b'], [[str.upper]])))
    assert found.parts['data']['training']['data set'] == {}
    assert found.tables['training']['item'].texts == ['a', 'b'] and found.tables.keys() == {'training', 'validation'}


def test_files_below_the_folder_of_a_data_set_are_no_setting(tmp_path):
    """Pairs of a name and a label alike; its folder counts by its name."""
    written(tmp_path / 'd', a=1, b=2)
    for listed in (['a', 'b'], (('a', 0), ('b', 1)), L('a', 'b')):
        rows = Counting()
        rows.root, rows.pairs, rows.names = str(tmp_path / 'd'), listed, ['no', 'file']
        found = of(on(rows, Counting()))
        assert found.parts['data']['training']['data set'] == {'x': 3, 'n_read': 0, 'root': 'd',
                                                               'names': ['no', 'file']}
        assert found.tables.keys() == {'training pairs'}
        assert found.tables['training pairs']['item'].sizes == [1, 2]
        assert found.tables['training pairs'].get('label', Column(['0', '1'])).texts == ['0', '1']


def test_a_loader_of_the_users_is_its_own_data_set():
    """Without a length, too; a list of numbers may be a sampler of torch's."""
    class Stream:
        dataset = None

        def __init__(self, seed):
            self.seed = seed

        def __iter__(self):
            return iter(())
    learn = learner()
    learn.dls = DataLoaders(Stream(5), TorchLoader(Counting(), sampler=[2, 0, 1], batch_size=2))
    parts = of(learn).parts
    assert parts['data']['training'] == {'class': f'{ME}.{Stream.__qualname__}', 'n': None, 'data set': {'seed': 5},
                                         'order': [], 'draw': []}
    assert parts['data']['validation']['order'][0] == {'class': 'list', 'data': [2, 0, 1]}
    assert parts['settings']['batch size of training'] is None
    assert {k: v for k, v in parts['settings'].items() if k.endswith('of validation')} == {
        'batch size of validation': 2, 'drop_last of validation': False, 'workers of validation': 0}


def test_a_third_loader_is_told_by_its_number():
    """Behind those of training and validation."""
    learn = on(Counting())
    learn.dls.loaders.append(DataLoader(Counting(), bs=3))
    parts = of(learn).parts
    assert 'loader 2' in parts['data'] and parts['settings']['batch size of loader 2'] == 3


class Net(nn.Module):
    """A model of the user's."""

    def __init__(self, scale=2.):
        super().__init__()
        self.scale, self.first = scale, nn.Linear(108, 4)

    def forward(self, x):
        return self.first(x.flatten(1)) * self.scale


def test_a_model_is_its_layers_their_shapes_and_what_a_module_of_the_users_keeps():
    """Of a layer before its first batch its kind: its shapes are nobody's choice yet, and no difference."""
    told = of(learner(model=Net())).parts['model']
    assert told['modules'] == {'': f'{ME}.Net', 'first': 'torch.nn.modules.linear.Linear(in_features=108, '
                                                         'out_features=4, bias=True)'}
    assert told['weights'] == {'first.weight': 'float32 [4, 108]', 'first.bias': 'float32 [4]'}
    assert told['settings'] == {'': {'scale': 2.}} and told['code'].keys() == {''} and told['code']['']
    lazy, made = learner(model=nn.Sequential(nn.Flatten(), nn.LazyLinear(4))), learner()
    told = of(made)
    lazy.opt = made.opt
    then = {**told.parts, 'model': room._model(lazy.model, room._Watched())}
    assert then['model']['modules']['1'] == 'torch.nn.modules.linear.Linear(~)'
    assert then['model']['weights'] == {'1.weight': UNKNOWN, '1.bias': UNKNOWN}
    assert differences(then, told, None) == []


def test_an_optimizer_is_what_made_it_and_with_what():
    """Through partials of partials, the outer counts; not the numbers that a fit is asked for."""
    made = functools.partial(functools.partial(Adam, mom=.5, sqr_mom=.9, lr=1.), mom=.8, wd=.1)
    told = of(learner(opt_func=made)).parts['optimizer']
    assert told == {'class': 'minifast.Adam', 'made by': {'class': 'minifast.Adam'}, 'groups': [2],
                    'arguments': {'mom': .8, 'sqr_mom': .9}}
    told = of(learner(opt_func=functools.partial(torch.optim.SGD, weight_decay=.1, momentum=.5))).parts['optimizer']
    assert told == {'class': 'torch.optim.sgd.SGD', 'made by': {'class': 'torch.optim.sgd.SGD'}, 'groups': [2],
                    'arguments': {'momentum': .5}}


def test_a_schedule_of_ours_is_nine_of_its_values_of_each_group():
    """To six digits; one that gives none is its settings, and one of the user's is never called."""
    told = room._course
    assert told(SchedLin(0., 8 / 3)) == [float(f'{i / 3:.6g}') for i in range(9)]
    assert told(SchedLin(np.array([0., 1.]), np.array([8., 9.]))) == [[i, i + 1.] for i in map(float, range(9))]
    broken = told(SchedLin(None, 1.))
    assert broken == fingerprint(SchedLin(None, 1.)) and broken != told(SchedLin(None, 2.))

    def mine(pos):
        raise AssertionError('it may count, or draw')
    assert told(mine) == fingerprint(mine) and told(mine)[PYTHON]
    learn = learner(cbs=[ParamScheduler({'lr': SchedLin(0., 8.)})])
    assert of(learn, lr=slice(1)).parts['schedule'] == {'n_epoch': 2, 'lr': 'slice(None, 1, None)',
                                                        'schedule of lr': [float(i) for i in range(9)]}


class Shift(Transform):
    """A transform of the user's, which notes what it did last."""

    def __init__(self, much):
        self.much, self.last = much, None

    def encodes(self, x):
        self.last = random.random()
        return x


def test_transforms_are_told_by_their_settings():
    """Of ours and of the user's, functions, modules; not what they drew last."""
    shift = Shift(2)
    shift.last = .3

    def mine(x, by=3):
        return x
    told = room._transform(Pipeline([shift, mine, nn.Dropout(.3)]))
    assert sorted(told, key=str) == sorted([{'class': f'{ME}.Shift', 'much': 2}, [fingerprint(mine)],
                                            [fingerprint(nn.Dropout(.3))]], key=str)
    assert room._transform(mine) == fingerprint(mine) and room._transform(nn.ReLU()) == 'ReLU()'
    jitter = ColorJitter(.25)
    assert room._transform(mk_transform(jitter)) == room._transform(jitter) == repr(jitter)
    assert room._transform(parent_label) == {'function': 'minifast.parent_label'}


def test_transforms_are_told_split_by_split_and_element_by_element():
    """Those of loaders, of the elements of our data sets, and functions of a data set of the user's below a fold."""
    rows = Counting()
    rows.target = abs
    learn = on(Subset(rows, range(4)), Counting(), after_item=Shift(1))
    told = of(learn).parts['transforms']
    assert told['target'] == {'training': {'function': 'abs'}}
    assert told['after_item'] == {'training': {'class': f'{ME}.Shift', 'much': 1}}
    learn.dls = DataLoaders(DataLoader(Datasets([1, 2], [[Shift(1)], [Shift(2)]]), bs=1),
                            TorchLoader(Counting(), collate_fn=len))
    told = of(learn).parts['transforms']
    assert [told[f'transforms of element {i}'] for i in range(2)] == [
        {'training': [{'class': f'{ME}.Shift', 'much': i}]} for i in (1, 2)]
    assert told['collate_fn'] == {'validation': {'function': 'len'}} and 'target' not in told


@pytest.mark.parametrize('place', ['after_item', 'before_batch', 'after_batch', 'create_batch'])
def test_a_function_of_the_users_is_told_at_each_place_of_a_loader(place):
    """Of the loader that it was given to."""
    def mine(x):
        return x
    told = of(on(Counting(), **{place: mine})).parts['transforms']
    assert 'mine' in str(told[place]['training']) and 'mine' not in str(told[place].get('validation'))
    assert 'mine' not in str({k: v for k, v in told.items() if k != place})


class Often(Callback):
    """A callback of the user's."""

    def __init__(self, often=1):
        self.often, self.counted = often, 0


def test_settings_are_those_of_loaders_callbacks_and_the_seed():
    """A seed that nobody chose is not known."""
    learn = learner(cbs=[Often(3)], metrics=[len, Scaled(1).apply])
    for seed, told in ((7, 7), ((1 << 32) - 1, (1 << 32) - 1), (1 << 32, UNKNOWN)):
        set_seed(7)
        torch.manual_seed(seed)
        settings = of(learn).parts['settings']
        assert settings['seed'] == told
    assert settings['callback often'] == {'class': f'{ME}.Often', 'often': 3}
    assert settings['metrics'] == ['len', 'apply'] and settings['precision'] == 'float32'
    assert room._environment(learn).keys() == {'torch', 'minifast', 'git revision', 'python', 'device'}
    assert room._environment(learn)['python'] == '{}.{}'.format(*sys.version_info)
    learn.dls.device = torch.device('cuda', 1)
    assert room._environment(learn)['device'] == 'cuda'
    learn.dls.device = None
    assert room._environment(learn)['device'] == 'cpu'


# ---------------------------------------------------------------- the whole

def test_the_lists_of_a_run_are_read_again_where_they_are_those_of_the_checkpoint(tmp_path):
    """None where the text is lost, damaged, or of other items."""
    files = [(path, i) for i, path in enumerate(written(tmp_path, a=1, b=2))]
    one, other = of(on(files)), of(on(files[::-1]))
    text, digests = one.tables_json(), one.parts['data']['items']
    assert read_tables(text, digests) == one.tables and one.tables['training'].keys() == {'item', 'label'}
    assert one.tables['training']['item'].sizes == [1, 2]
    assert json.loads(text)['training']['label'] == dataclasses.asdict(Column(['0', '1']))
    for bad in (None, '', '{', '[]', '3', '{"training": 1}', '{"training": {"item": 1}}',
                '{"training": {"item": {"x": 1}}}', '{"training": {"item": {"texts": 1}}}', '{}', other.tables_json()):
        assert read_tables(bad, digests) is None
    assert len({found.tables_digest for found in (one, other, of(on(files)))}) == 2
    assert one.tables_digest == sha(json.dumps(digests))


def test_an_identity_is_json_and_taking_it_draws_nothing():
    """As a checkpoint holds it: what it is compared with has been through a file."""
    learn = learner(loss_func=Margin((1, 2)))
    learn.create_opt()
    before = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].copy()
    found = run_identity(learn, {'n_epoch': 2, 'lr': (1., 2.)})
    assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[1])
    assert (np.random.get_state()[1] == before[2]).all()
    assert found.parts == json.loads(json.dumps(found.parts)) and found.parts['schedule']['lr'] == [1., 2.]
    assert found.parts['loss']['margin'] == [1, 2]
    learn.loss_func.margin = 3
    note_what_moved(found)
    assert of(learn).parts['loss']['margin'] == UNKNOWN and of(learn).parts['loss']['class'] == f'{ME}.Margin'
