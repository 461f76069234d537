"""Plain data for tensor files: every type comes back as it was, and every generator draws the same numbers again."""
from __future__ import annotations

import collections
import os
import random
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from fastcore.foundation import L

from minifast.plaindata import (decode, digest, encode, get_generator, make_generator, restored, seed_generator,
                                set_generator)
from minifast.tensorfile import read_tensors, write_atomic

DATA = [None, True, 3, 2 ** 100, -2 ** 63, 1.5, float('inf'), 1 + 2j, 'text', b'bytes', [1, 2], (1, (2, 'x')), {1, 2},
        frozenset('ab'), collections.deque([1, 2], 5), L(1, [2, 3]), {'a': {1: [2]}, (1, 2): 3}, Path('a/b'),
        np.float32(1.5), np.uint64(2 ** 64 - 1), np.arange(6, dtype=np.uint16).reshape(2, 3), np.array(['a', 'bcd']),
        np.array(['2020-01-01'], 'datetime64[D]'), np.zeros((0, 3)), list(range(200)), [.5] * 200, [2 ** 70] * 200]
GENERATORS = {'torch': lambda: torch.Generator().manual_seed(5), 'numpy': lambda: np.random.default_rng(5),
              'legacy': lambda: np.random.RandomState(5), 'python': lambda: random.Random(5),
              'philox': lambda: np.random.Generator(np.random.Philox(5)), 'bits': lambda: np.random.PCG64DXSM(5)}


Place = collections.namedtuple('Place', 'row column')


def draw(g):
    """Five numbers."""
    if isinstance(g, torch.Generator):
        return torch.rand(5, generator=g).tolist()
    if isinstance(g, np.random.BitGenerator):
        return g.random_raw(5).tolist()
    return [g.normal() for _ in range(5)] if hasattr(g, 'normal') else [g.gauss(0, 1) for _ in range(5)]


@pytest.mark.parametrize('x', DATA, ids=lambda x: f'{type(x).__name__} {str(x)[:12]}')
def test_data_come_back_with_type_and_value(x, tmp_path):
    """Through a real file too."""
    write_atomic(tmp_path / 'x.pth', encode(x))
    found = decode(read_tensors(tmp_path / 'x.pth'))
    assert type(found) is type(x)
    if isinstance(x, np.ndarray):
        assert found.dtype == x.dtype and found.shape == x.shape and (found == x).all()
    else:
        assert found == x
    assert digest(encode(found)) == digest(encode(x))


def test_what_is_no_data_is_refused():
    """Functions, objects, parameters, arrays of objects."""
    for x in (print, object(), torch.nn.Parameter(torch.ones(1)), np.array([object()]), [1, [print]]):
        with pytest.raises(TypeError, match='no data|belongs'):
            encode(x)


def test_digest_tells_values_and_types_apart():
    """1, 1.0 and True; a tensor changed in place."""
    assert len({digest(encode(x)) for x in (1, 1., True, '1', [1], (1,), {1: 1})}) == 7
    t = torch.zeros(3)
    before = digest(encode(t))
    t.data[1] = 1
    assert digest(encode(t)) != before


@pytest.mark.parametrize('kind', GENERATORS)
def test_a_generator_goes_on_where_its_state_was_taken(kind, tmp_path):
    """In the same object, in a new one, and seeded."""
    g = GENERATORS[kind]()
    draw(g)
    write_atomic(tmp_path / 'g.pth', get_generator(g))
    expected, state = draw(g), read_tensors(tmp_path / 'g.pth')
    set_generator(g, state)
    assert draw(g) == expected == draw(make_generator(state)) and draw(g) != expected
    seed_generator(g, 2 ** 62 + 3)
    once = draw(g)
    seed_generator(g, 2 ** 62 + 3)
    assert draw(g) == once != expected


def test_values_are_put_into_the_objects_that_are_there():
    """Others may hold them too."""
    inner, array, tensor = {'a': [1]}, np.zeros(2), torch.zeros(2)
    there = [inner, array, tensor]
    held = inner['a']
    assert restored(there, [{'a': [5, 6]}, np.ones(2), torch.ones(2)]) is there
    assert held == [5, 6] and array.tolist() == [1, 1] and tensor.tolist() == [1, 1] and there[0] is inner


def test_a_named_tuple_stays_one_of_its_class():
    """It is saved as a plain tuple, and whoever holds it goes on reading it by name."""
    there = {'at': Place(1, 2), 'plain': (1, 2)}
    restored(there, decode(encode({'at': (5, 6), 'plain': (7, 8)})))
    assert type(there['at']) is Place and there['at'].row == 5 and there['plain'] == (7, 8)
    assert type(there['plain']) is tuple


def test_a_new_generator_of_torch_is_on_the_device_of_the_old_one(monkeypatch):
    """A generator of a GPU is made there again; one of a file that names no device on the CPU."""
    asked, state = [], get_generator(torch.Generator().manual_seed(5))

    class Anywhere(torch.Generator):
        def __new__(cls, device):
            asked.append(device)
            return super().__new__(cls)
    monkeypatch.setattr(torch, 'Generator', Anywhere)
    made = [make_generator(found) for found in (state, {**state, 'device': 'cuda:1'}, {
        name: value for name, value in state.items() if name != 'device'})]
    assert asked == ['cpu', 'cuda:1', 'cpu'] and all(torch.equal(g.get_state(), state['state']) for g in made)


def test_numbers_are_themselves_as_far_as_64_bits_go():
    """Beyond, they are texts; long lists of one kind of number are one tensor."""
    for number in (0, -127, 129, 2 ** 62, -2 ** 62, -2 ** 63, 2 ** 63 - 1):
        assert encode(number) is number
    for number in (2 ** 63, -2 ** 63 - 1, 10 ** 40):
        assert encode(number) == {'is': 'int', 'text': hex(number)}
    for length, whole in ((100, False), (101, True)):
        for value in (1, .5):
            assert isinstance(encode([value] * length), dict) == whole
    assert encode([1, .5] * 100) == [1, .5] * 100 and encode([True] * 200) == [True] * 200


def test_a_file_and_its_place_are_on_the_disk_before_a_write_returns(tmp_path, monkeypatch):
    """First the bytes, then, when the name is there, the folder."""
    synced, sync = [], os.fsync

    def spy(number):
        synced.append((stat.S_ISDIR(os.fstat(number).st_mode), (tmp_path / 'x.pth').exists()))
        sync(number)
    monkeypatch.setattr(os, 'fsync', spy)
    write_atomic(tmp_path / 'x.pth', {'a': 1})
    assert synced == [(False, False), (True, True)]


KINDS = {'list': lambda: [1, 2], 'L': lambda: L(1, 2), 'deque': lambda: collections.deque([1, 2], 5),
         'set': lambda: {1}, 'dict': lambda: {'a': 1},
         'array': lambda: np.ones(2), 'tensor': lambda: torch.ones(2), 'text': lambda: 'ab'}


@pytest.mark.parametrize('now', KINDS)
def test_a_value_of_another_kind_is_put_back_as_it_is(now):
    """What stood in its place keeps what it held."""
    for kind in set(KINDS) - {now}:
        there, value = KINDS[now](), KINDS[kind]()
        found = restored(there, value)
        assert type(found) is type(value) and repr(found) == repr(KINDS[kind]()), kind
        assert repr(there) == repr(KINDS[now]()), kind
