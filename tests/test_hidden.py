"""What an object holds between two calls: found wherever it hangs, put back where the training has changed it, named
where it cannot be carried."""
from __future__ import annotations

import argparse
import functools
import random
import types
from collections import deque

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import RandomSampler

from minifast.hidden import Baselines, Hidden, find
from minifast.plaindata import get_generator

OUTSIDE = np.random.default_rng(9)


class Thing:
    """Takes any attributes."""

    def __init__(self, **attributes):
        vars(self).update(attributes)


class Slotted:
    """Without a dict."""

    __slots__ = ('n', 'rng')

    def __init__(self):
        self.n, self.rng = 0, random.Random(1)


def drawing():
    """A function that draws from a generator of its closure."""
    rng = np.random.RandomState(3)
    return lambda: rng.rand()


class ByClass:
    """Draws from a generator of the class, and from one of the module."""

    rng = np.random.default_rng(1)

    def draw(self):
        return self.rng.normal() + OUTSIDE.normal()


def paths(owner, kind='generators', **where):
    return [place.path for place in getattr(find(owner, **where), kind)]


def test_generators_are_found_wherever_they_hang():
    """Any name, lists, dicts, nested and slotted objects, samplers, closures, partials, classes, modules."""
    g = torch.Generator()
    owner = Thing(a=g, again=g, rngs=[np.random.default_rng(0), 3], by_name={'x': random.Random(2)}, slotted=Slotted(),
                  nested=Thing(deep=Thing(r=np.random.RandomState(0))), sampler=RandomSampler([1], generator=
                  torch.Generator()), f=drawing(), part=functools.partial(print, random.Random(3)),
                  net=nn.Sequential(nn.Dropout()), of_class=ByClass())
    owner.net[0].own = np.random.default_rng(4)
    owner.me = owner
    assert paths(owner) == ['a', 'rngs[0]', "by_name['x']", 'slotted.rng', 'nested.deep.r', 'sampler.generator',
                            "f['rng']", 'part[1][0]', 'net.0.own', 'of_class.rng', "of_class.draw['OUTSIDE']"]
    assert paths(Thing(r=random.SystemRandom())) == []


def test_namespaces_are_the_scripts_own_and_objects_of_frames_and_outlets_are_not():
    """Arguments of the command line are carried; of a frame's object generators alone, of a tracker's nothing."""
    found = Thing(args=argparse.Namespace(rng=random.Random(1), n=1),
                  more=types.SimpleNamespace(rng=random.Random(2), n=2))
    assert paths(found) == ['args.rng', 'more.rng'] and paths(found, 'data') == ['args.n', 'more.n']
    for package, generators in (('wandb', []), ('tqdm.auto', []), ('torchvision.x', ['run.rng']),
                                ('minifast.y', ['run.rng'])):
        kind = type('Foreign', (Thing,), {'__module__': package})
        found = Thing(run=kind(rng=random.Random(1), n=1))
        assert paths(found) == generators and paths(found, 'data') == [] and not find(found).opaque


def test_what_the_training_has_changed_is_carried_and_settings_stay():
    """A setting that the script changes before the resume is not undone; references stay the objects they are."""
    model = nn.Linear(2, 2)
    first = Thing(n=0, factor=2., seen=[], best=None, params=list(model.parameters()), own=Thing(k=[0]),
                  t=torch.zeros(2), window=deque([], 3), rng=np.random.default_rng(0))
    known = Hidden(first, Baselines(), stop=[model])
    assert known.start().opaque == []  # the parameters are the model's affair
    first.n, first.best, first.later = 5, np.float32(.5), {'a': 1}
    first.seen.append(torch.ones(1))
    first.own.k[0], first.t[1] = 7, 9.
    first.window.extend([1, 2])
    first.rng.normal()
    state = known.state()
    other = nn.Linear(2, 2)
    second = Thing(n=0, factor=3., seen=[], best=None, params=list(other.parameters()), own=Thing(k=[0]),
                   t=torch.zeros(2), window=deque([], 3), rng=np.random.default_rng(0))
    seen, t = second.seen, second.t
    assert Hidden(second, Baselines(), stop=[other]).load(state) == []
    assert (second.n, second.factor, second.best, second.later) == (5, 3., np.float32(.5), {'a': 1})
    assert second.seen is seen and seen == [torch.ones(1)] and second.t is t and t.tolist() == [0, 9]
    assert second.own.k == [7] and second.window == deque([1, 2]) and second.window.maxlen == 3
    assert second.params[0] is other.weight and second.rng.normal() == first.rng.normal()


def test_a_value_that_is_as_it_began_is_not_in_the_state():
    """Nothing changed, nothing carried; what has no place any more is named."""
    thing = Thing(n=0, seen=[1], big=torch.zeros(5))
    known = Hidden(thing, Baselines())
    known.start()
    assert known.state() == {}
    thing.inner = Thing(k=1)
    lost = Hidden(Thing(n=0), Baselines()).load(known.state())
    assert lost == ['inner.k is not there any more']


@pytest.mark.parametrize('now', [None, 3, 'text', ()])
def test_a_place_where_something_else_is_now_is_named(now):
    """Numbers and generators alike: a script may have put None, a number or another object there."""
    thing = Thing(inner=Thing(k=0, rng=torch.Generator()))
    known = Hidden(thing, Baselines())
    known.start()
    thing.inner.k = 1
    assert Hidden(Thing(inner=now), Baselines()).load(known.state()) == ['inner.k is not there any more',
                                                                         'inner.rng is not there any more']


@pytest.mark.parametrize('now', [random.Random(0), np.random.default_rng(0), np.random.RandomState(0)])
def test_a_generator_of_another_kind_is_named_and_left_as_it_is(now):
    """Its state is of no use there, and the script draws from what it has."""
    before = str(get_generator(now))
    known = Hidden(Thing(rng=torch.Generator()), Baselines()).state()
    assert Hidden(Thing(rng=now), Baselines()).load(known) == ['rng is a generator of another kind now']
    assert str(get_generator(now)) == before


def test_objects_that_say_their_state_are_asked():
    """A module that a callback keeps, and an object with state_dict of the user's."""
    class Says:
        def __init__(self):
            self.n = 0

        def state_dict(self):
            return {'n': self.n}

        def load_state_dict(self, state):
            self.n = state['n'] + 100
    first, second = (Thing(says=Says(), average=nn.Linear(1, 1)) for _ in range(2))
    known = Hidden(first, Baselines())
    known.start()
    first.says.n = 3
    with torch.no_grad():
        first.average.weight.fill_(7)
    assert Hidden(second, Baselines()).load(known.state()) == []
    assert second.says.n == 103 and second.average.weight.item() == 7


@pytest.mark.parametrize('value, told', [(lambda p: iter([1]), True), (lambda p: (i for i in 'ab'), True),
                                         (lambda p: __import__('pytest').Session.__new__(pytest.Session), True),
                                         (lambda p: print, False), (lambda p: Thing, False), (lambda p: torch, False),
                                         (lambda p: __import__('threading').Lock(), False),
                                         (lambda p: __import__('logging').getLogger('a'), False),
                                         (lambda p: torch.distributions.Beta(1., 1.), False),
                                         (lambda p: np.less, False)],
                         ids='iterator generator foreign function class module lock logger distribution ufunc'.split())
def test_what_cannot_be_carried_is_named_and_outlets_are_not(value, told, tmp_path):
    """Iterators and foreign objects; not functions, classes, locks, or what only takes what is sent."""
    found = find(Thing(x=value(tmp_path)))
    assert [path for path, _ in found.opaque] == (['x'] if told else [])


def test_a_file_that_rows_are_appended_to_is_cut_back(tmp_path):
    """To where the checkpoint saw it; one that is too short is named."""
    with open(tmp_path / 'rows', 'a') as file:
        thing = Thing(file=file)
        file.write('one\n')
        state = Hidden(thing, Baselines()).state()
        file.write('two\nthr')
        file.flush()
    with open(tmp_path / 'rows', 'a') as file:
        assert Hidden(Thing(file=file), Baselines()).load(state) == []
        file.write('two\n')
        file.flush()
        assert (tmp_path / 'rows').read_text() == 'one\ntwo\n'
        file.truncate(2)
        assert 'rows are missing' in Hidden(Thing(file=file), Baselines()).load(state)[0]


def test_long_lists_are_not_walked():
    """A data set of a million items costs nothing; ten thousand are looked through."""
    assert paths(Thing(items=[random.Random(0)] * 10_001), data=False) == []
    assert paths(Thing(items=[None] * 9_999 + [random.Random(0)]), data=False) == ['items[9999]']


@pytest.mark.parametrize('n, kept', [(1000, True), (1001, False)])
def test_large_data_of_a_module_are_not_carried(n, kept):
    """Modules keep activations to be looked at; lists up to a thousand, and all lists elsewhere, are carried."""
    class Net(nn.Module):
        pass
    module = Net()
    module.seen = list(range(n))
    assert ('seen' in paths(module, 'data')) == kept
    assert paths(Thing(seen=list(range(n))), 'data') == ['seen']


def test_classes_and_modules_are_not_looked_into():
    """Whatever they hold belongs to the program; what has a state is asked as an object, not as a class."""
    class Meta(type):
        pass

    class Held(metaclass=Meta):
        rng, n = random.Random(2), 0
    owner = Thing(kind=nn.Linear, by_class=ByClass, room=random, several=[nn.Dropout, np.random], held=Held,
                  rng=random.Random(0))
    found = find(owner)
    assert paths(owner) == ['rng'] and not found.opaque and not found.asked and not found.files
    assert not Hidden(owner, Baselines()).start().opaque


def test_what_an_object_without_a_dict_holds_is_put_back_there():
    """What hangs on it stays the same object, whoever else holds it; what it lacks is given to it."""
    def made(n=0):
        slotted = Slotted()
        slotted.n = Thing(n=n, seen=[])
        return Thing(slotted=slotted)
    owner, again = made(), made()
    known, there = Hidden(owner, Baselines()), again.slotted.n
    seen = there.seen
    known.start()
    owner.slotted.n.n = 3
    owner.slotted.n.seen.append(7)
    state = known.state()
    assert Hidden(again, Baselines()).load(state) == []
    assert again.slotted.n is there and there.n == 3 and there.seen is seen and seen == [7]
    empty = made()
    del empty.slotted.n
    assert Hidden(empty, Baselines()).load({'data': state['data']}) == [
        'slotted.n.n is not there any more', 'slotted.n.seen is not there any more']


def test_generators_of_a_method_are_found_at_its_object_and_in_its_closure():
    """A method of the user's that is kept, as a hook is."""
    rng = np.random.RandomState(3)

    class Draws:
        def __init__(self):
            self.own = random.Random(1)

        def draw(self):
            return rng.rand() + self.own.random()
    owner = Thing(hook=Draws().draw)
    assert [place.value for place in find(owner).generators] == [owner.hook.__self__.own, rng]
    free = types.MethodType(drawing(), Thing())  # bound by hand: its class does not know it
    assert [type(place.value) for place in find(Thing(hook=free)).generators] == [np.random.RandomState]


def test_what_changed_in_objects_inside_containers_is_put_back_there():
    """In lists, tuples, deques and dicts, and in objects without a dict: the containers and objects stay."""
    def made():
        return Thing(several=[Thing(n=0)], pair=(1, Thing(n=0)), queue=deque([Thing(n=0)]), named={'a': Thing(n=0)},
                     slotted=Slotted())

    def all_in(o):
        return [o.several[0], o.pair[1], o.queue[0], o.named['a'], o.slotted]
    first, second = made(), made()
    known, there = Hidden(first, Baselines()), all_in(second)
    known.start()
    for i, thing in enumerate(all_in(first), 1):
        thing.n = i
    assert Hidden(second, Baselines()).load(known.state()) == []
    assert [thing.n for thing in all_in(second)] == [1, 2, 3, 4, 5]
    assert all(thing is before for thing, before in zip(all_in(second), there, strict=True))


def test_generators_below_what_a_function_keeps_are_found():
    """In an object or a container of its closure; a generator itself is found there too."""
    inner, rngs, rng = Thing(rng=random.Random(1)), [np.random.default_rng(0)], random.Random(2)
    owner = Thing(f=lambda: (inner, rngs, rng))
    assert {id(place.value) for place in find(owner).generators} == {id(inner.rng), id(rngs[0]), id(rng)}
