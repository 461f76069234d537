"""What an object holds between two calls, found by looking: generators wherever they hang, attributes that are data.

Objects that say their own state are asked; of open files it is kept how long they are; what cannot be carried is named.

An attribute counts as state where the training has changed it. What the script has set and nobody changed stays as the
script sets it, so a setting that a user changes before a resume is not undone by the checkpoint.
"""
from __future__ import annotations

import functools
import io
import math
import os
import sys
import types
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from minifast.codetext import is_of_the_user, package_of
from minifast.plaindata import (CONTAINERS, FIXED, MAPPINGS, PLAIN, SEQUENCES, decode, digest, encode, get_generator,
                                is_generator, make_generator, restored, set_generator)

__all__ = ['Baselines', 'Found', 'Hidden', 'OUTLETS', 'Place', 'appends', 'find', 'keeps_state', 'path_of']


def keeps_state(obj: Any) -> bool:
    """Whether `obj` says its state and takes it back; asked of the class, as instances may pass attributes on."""
    return callable(getattr(type(obj), 'state_dict', None)) and callable(getattr(type(obj), 'load_state_dict', None))


# ---------------------------------------------------------------- looking

OUTLETS = frozenset(
    'aim clearml comet_ml dvc dvclive fastprogress IPython ipywidgets logging loguru matplotlib mlflow neptune optuna '
    'plotly rich swanlab tensorboard tensorboardX tqdm trackio visdom wandb'.split())
"""Packages whose objects take what a training sends and decide nothing in it."""

_FRAMES = frozenset('fastcore minifast numpy torch torchvision'.split())
"""Packages whose objects are no state of the user's: what of theirs changes has a state of its own."""

_LONG, _DEEP, _MANY = 10_000, 8, 200_000
"""Longer containers, deeper nests and more objects than these are data sets, not settings."""

_module_registries = frozenset(name for name in vars(nn.Module()) if name != 'training') | {'training'}


@functools.lru_cache(None)
def _of_the_user(cls: type) -> bool:
    """Whether a class is the script's own, whose attributes may be looked at and set."""
    package = package_of(cls)
    if package in _FRAMES or package in OUTLETS:
        return False
    return is_of_the_user(cls.__module__ or '') or cls is types.SimpleNamespace or package == 'argparse'


Steps = tuple[tuple[str, Any], ...]


def path_of(steps: Steps) -> str:
    """`steps` as they are written in Python: `.sampler.rngs[0]` without the first dot."""
    return ''.join(f'.{key}' if how == 'attribute' else f'[{key!r}]' for how, key in steps).lstrip('.')


def _is_large(x: Any) -> bool:
    # what has a gradient's history is an activation
    large = isinstance(x, (Tensor, np.ndarray)) and math.prod(x.shape) > 100_000
    return large or getattr(x, 'grad_fn', None) is not None


class Place(NamedTuple):
    """Something found: the way to it, `steps`, and the thing itself, `value`."""

    steps: Steps
    value: Any

    @property
    def path(self) -> str:
        """The way as it is written in Python."""
        return path_of(self.steps)


class Found:
    """What `find` has found in one owner.

    Attributes:
        generators, data, asked, files: the places of each kind.
        opaque: (path, what it is) of what cannot be carried.
    """

    def __init__(self) -> None:
        self.generators: list[Place] = []
        self.data: list[Place] = []
        self.asked: list[Place] = []
        self.files: list[Place] = []
        self.opaque: list[tuple[str, str]] = []


def find(owner: Any, skip: Iterable[str] = (), only: Iterable[str] | None = None, stop: Iterable[Any] = (),
         data: bool = True) -> Found:
    """Look through the attributes of `owner`, and of what hangs on it, for hidden state.

    Nothing is called or asked: only what lies in the objects is read.

    Args:
        owner: where to look.
        skip: names of the owner's own attributes to pass over.
        only: names of the owner's own attributes to look at; those that are data themselves are settings.
        stop: objects that others look after; the search ends at them.
        data: look for data, files and opaque objects too, not for generators alone.
    """
    search = _Search(stop, data)
    if isinstance(owner, (functools.partial, types.MethodType)):
        search.value(owner, ())
    else:
        search.attributes(owner, (), frozenset(skip), only)
    return search.found


class _Search:
    def __init__(self, stop: Iterable[Any], data: bool) -> None:
        self.stopped = [o for o in stop if o is not None]  # held, so that no other object gets their identity
        self.seen = {id(o) for o in self.stopped}
        self.data, self.quiet, self.found, self.left = data, False, Found(), _MANY

    def attributes(self, owner: Any, steps: Steps, skip: frozenset = frozenset(), only: Iterable[str] | None = None
                   ) -> None:
        """Look at each attribute of an object, and at what its class and its methods hold."""
        self.seen.add(id(owner))
        if isinstance(owner, types.FunctionType):
            self._function(owner, steps)
            return
        is_module = isinstance(owner, nn.Module)
        if is_module:
            skip = skip | _module_registries
            for name, child in owner._modules.items():
                if child is not None and id(child) not in self.seen:
                    self.attributes(child, (*steps, ('attribute', name)))
        with self._looking_for(self.data and not (is_module and not _of_the_user(type(owner)))):
            for name, value in self._named(owner):
                settings = only is not None and (name not in only or isinstance(value, (*PLAIN, *CONTAINERS)))
                if name not in skip and not settings:
                    self.value(value, (*steps, ('attribute', name)), small=is_module)
        for cls in type(owner).__mro__:
            if _of_the_user(cls):
                self._class(cls, steps)

    def _named(self, owner: Any) -> Iterator[tuple[str, Any]]:
        yield from list(getattr(owner, '__dict__', {}).items())
        for cls in type(owner).__mro__:
            slots = vars(cls).get('__slots__', ())
            for name in (slots,) if isinstance(slots, str) else slots:
                slot = vars(cls).get(name)
                if isinstance(slot, types.MemberDescriptorType):
                    try:
                        yield name, slot.__get__(owner)
                    except AttributeError:  # not set
                        continue

    @contextmanager
    def _looking_for(self, data: bool, quiet: bool = False) -> Iterator[None]:
        before = self.data, self.quiet
        self.data, self.quiet = data, quiet or self.quiet
        try:
            yield
        finally:
            self.data, self.quiet = before

    def _class(self, cls: type, steps: Steps) -> None:
        """Generators that a class keeps, and those that its methods draw from by a name outside."""
        for name, value in list(vars(cls).items()):
            if is_generator(value):
                self.value(value, (*steps, ('attribute', name)))
            elif isinstance(value, types.FunctionType):
                self._function(value, (*steps, ('attribute', name)), generators_alone=True)

    def _function(self, f: Any, steps: Steps, generators_alone: bool = False) -> None:
        outside = {name: f.__globals__[name] for name in f.__code__.co_names if name in f.__globals__}
        outside = {name: value for name, value in outside.items() if is_generator(value)}
        for name, cell in zip(f.__code__.co_freevars, f.__closure__ or ()):
            try:
                value = cell.cell_contents
            except ValueError:  # empty
                continue
            if is_generator(value) or not generators_alone and type(value) not in PLAIN:
                outside[name] = value
        with self._looking_for(data=False):  # what a function sees outside is no attribute of anybody
            for name, value in outside.items():
                self.value(value, (*steps, ('in', name)))

    def value(self, x: Any, steps: Steps, small: bool = False) -> None:
        """Sort one value; `small`: large data do not count, as modules keep activations to be looked at."""
        if type(x) in PLAIN:
            if self.data:
                self.found.data.append(Place(steps, x))
            return
        if id(x) in self.seen or len(steps) > _DEEP or self.left <= 0:
            return
        self.left -= 1
        if is_generator(x):
            self.seen.add(id(x))
            self.found.generators.append(Place(steps, x))
        elif isinstance(x, (Tensor, np.ndarray, np.generic, PurePath, *FIXED)):
            self._leaf(x, steps, small)
        elif isinstance(x, (*MAPPINGS, *SEQUENCES, tuple)):
            self._container(x, steps, small)
        elif isinstance(x, functools.partial):
            for i, part in enumerate((x.func, x.args, x.keywords)):
                self.value(part, (*steps, ('in', i)))
        elif isinstance(x, types.MethodType):
            self.value(x.__self__, (*steps, ('in', 'self')))
            self.value(x.__func__, (*steps, ('in', 'function')))
        elif isinstance(x, types.FunctionType):
            self.seen.add(id(x))
            if package_of(x) not in _FRAMES:
                self._function(x, steps)
        elif isinstance(x, type) or isinstance(x, types.ModuleType):
            return
        else:
            self._object(x, steps)

    def _leaf(self, x: Any, steps: Steps, small: bool) -> None:
        if self.data and not isinstance(x, nn.Parameter) and not (small and _is_large(x)):
            try:
                encode(x)
            except TypeError:
                self.opaque(steps, x)
            else:
                self.found.data.append(Place(steps, x))

    def _container(self, x: Any, steps: Steps, small: bool) -> None:
        self.seen.add(id(x))
        if self.data and not (small and len(x) > 1000):
            try:
                encode(x)
            except TypeError:
                pass
            else:
                self.found.data.append(Place(steps, x))
                return
        if len(x) > _LONG:
            return
        pairs = x.items() if isinstance(x, MAPPINGS) else enumerate(x)
        for key, value in list(pairs):
            if type(value) not in PLAIN or self.data and isinstance(x, (list, *MAPPINGS)):
                self.value(value, (*steps, ('key', key)), small)

    def _object(self, x: Any, steps: Steps) -> None:
        cls = type(x)
        self.seen.add(id(x))
        if self.data and keeps_state(x):
            self.found.asked.append(Place(steps, x))
            self.generators_of(x, steps)
        elif isinstance(x, io.IOBase):
            if self.data and not x.closed and x.writable():
                self.found.files.append(Place(steps, x))
        elif isinstance(x, Iterator):
            self.opaque(steps, x)
        elif isinstance(x, Enum) or package_of(cls) in OUTLETS:
            return
        elif _of_the_user(cls):
            self.attributes(x, steps)
        elif package_of(cls) in _FRAMES:
            self.generators_of(x, steps)
        elif package_of(cls) not in sys.stdlib_module_names:
            self.opaque(steps, x)

    def generators_of(self, x: Any, steps: Steps) -> None:
        """Look for generators alone in an object whose attributes are not ours to set."""
        with self._looking_for(data=False, quiet=True):
            self.attributes(x, steps)

    def opaque(self, steps: Steps, x: Any) -> None:
        """Note what cannot be carried."""
        if not self.quiet and (not isinstance(x, Callable) or isinstance(x, Iterator)):
            self.found.opaque.append((path_of(steps), type(x).__name__))


# ---------------------------------------------------------------- what the training has changed

class Baselines:
    """How each owner stood when it was first looked at: fingerprints of its data, so that what has changed is known.

    Args:
        everything: nothing is known, so that all data count as changed.
    """

    def __init__(self, everything: bool = False) -> None:
        self.everything = everything  # nothing is known: all counts as changed
        self._kept: dict[int, tuple[Any, dict[str, bytes]]] = {}
        self.found: dict[Any, tuple[Any, Found]] = {}

    def look_anew(self) -> None:
        """A fit starts: what was found once for a fit is looked for again."""
        self.found.clear()

    def __deepcopy__(self, memo: Any) -> Baselines:
        return Baselines()  # of other objects

    def __reduce__(self) -> tuple:
        return Baselines, ()

    def of(self, owner: Any, found: Found) -> dict[str, bytes]:
        """The fingerprints by path of `owner`, in which `found` was found, at the first call; made at that call."""
        if self.everything:
            return {}
        known = self._kept.get(id(owner))
        if known is None or known[0]() is not owner:
            try:
                there: Any = weakref.ref(owner)
            except TypeError:
                def there() -> Any:
                    return owner
            known = there, {place.path: digest(state) for place, state in _states(found)}
            self._kept[id(owner)] = known
        return known[1]


def _states(found: Found) -> Iterator[tuple[Place, Any]]:
    for place in found.data:
        yield place, encode(place.value)
    for place in found.asked:
        yield place, encode(place.value.state_dict())


class Hidden:
    """The hidden state of one owner: looked for anew each time, taken as plain data, put back.

    Args:
        owner: a callback, sampler, loss function, ...
        baselines: where it is kept how the owner began.
        where: `skip`, `only`, `stop`, `data` of `find`.
    """

    def __init__(self, owner: Any, baselines: Baselines, **where: Any) -> None:
        self.owner, self.baselines, self.where = owner, baselines, where

    def _find(self) -> Found:
        if self.where.get('data', True):
            return find(self.owner, **self.where)
        # generators alone, of what may be large: found once a fit
        key = id(self.owner), tuple(self.where.get('only') or ())
        if key not in self.baselines.found:
            self.baselines.found[key] = self.owner, find(self.owner, **self.where)
        return self.baselines.found[key][1]

    def start(self) -> Found:
        """Note how the owner stands, if that was not done before."""
        found = self._find()
        self.baselines.of(self.owner, found)
        return found

    def state(self) -> dict[str, Any]:
        """What has changed since the start, and all generators, as plain data; empty where there is nothing."""
        found = self._find()
        began = self.baselines.of(self.owner, found)
        asked = {place.path for place in found.asked}
        changed = [(place, state) for place, state in _states(found)
                   if self.baselines.everything or began.get(place.path) != digest(state)]
        state = {'generators': [[_plain_steps(place.steps), get_generator(place.value)] for place in found.generators],
                 'data': [[_plain_steps(place.steps), s] for place, s in changed if place.path not in asked],
                 'asked': [[_plain_steps(place.steps), s] for place, s in changed if place.path in asked],
                 'files': [[_plain_steps(place.steps), _file_state(place.value)] for place in found.files
                           if appends(place.value)]}
        return {kind: places for kind, places in state.items() if places}

    def load(self, state: dict[str, Any], kinds: Iterable[str] = ('generators', 'data', 'asked', 'files')) -> list[str]:
        """Put back the `kinds` of what `state` returned; returns what has no place here any more, a sentence each."""
        self.start()
        lost = []
        for kind in ('data', 'asked', 'files', 'generators'):  # data first: what follows may hang on it
            places = {place.path: place.value for place in getattr(self._find(), kind)} if kind in state else {}
            for steps, value in state.get(kind, ()) if kind in kinds else ():
                why = self._put(kind, tuple(map(tuple, steps)), value, places)
                if why is not None:
                    lost.append(why)
        return lost

    def _put(self, kind: str, steps: Steps, value: Any, places: dict[str, Any]) -> str | None:
        path = path_of(steps)
        if kind == 'data':
            return None if _set(self.owner, steps, decode(value)) else f'{path} is not there any more'
        if path in places:
            if kind == 'generators':
                if get_generator(places[path])['kind'] != value['kind']:
                    return f'{path} is a generator of another kind now'
                set_generator(places[path], value)
            elif kind == 'asked':
                places[path].load_state_dict(decode(value))
            else:
                return _cut_back(places[path], value, path)
            return None
        if kind == 'generators' and _set(self.owner, steps, make_generator(value)):
            return None
        return f'{path} is not there any more'


def _plain_steps(steps: Steps) -> list[list[Any]]:
    return [[how, key if isinstance(key, (int, str)) else repr(key)] for how, key in steps]


_nowhere = object()


def _has_slot(holder: Any, key: Any) -> bool:
    return any(key in vars(cls).get('__slots__', ()) for cls in type(holder).__mro__)


def _get(holder: Any, how: str, key: Any) -> Any:
    if how == 'attribute':
        found = getattr(holder, '__dict__', {}).get(key, _nowhere)
        if found is _nowhere and isinstance(holder, nn.Module):
            found = holder._modules.get(key, _nowhere)
        if found is _nowhere and _has_slot(holder, key):
            found = getattr(holder, key, _nowhere)
        return found
    if how == 'key' and isinstance(holder, MAPPINGS):
        return holder.get(key, _nowhere)
    if how == 'key' and isinstance(holder, tuple(SEQUENCES)) and isinstance(key, int) and key < len(holder):
        return holder[key]
    return _nowhere


def _set(owner: Any, steps: Steps, value: Any) -> bool:
    """Put a value where the steps lead; False where there is no such place."""
    holder = owner
    for how, key in steps[:-1]:
        holder = _get(holder, how, key)
        if holder is _nowhere:
            return False
    how, key = steps[-1]
    now = _get(holder, how, key)
    if isinstance(now, nn.Parameter) or how == 'in':
        return False
    value = restored(None if now is _nowhere else now, value)
    if value is now:
        return True
    if how == 'attribute':
        if hasattr(holder, '__dict__'):
            vars(holder)[key] = value
        elif _has_slot(holder, key):
            setattr(holder, key, value)
        else:  # another object is there now, or None
            return False
    elif isinstance(holder, MAPPINGS) or isinstance(holder, list) and isinstance(key, int) and key < len(holder):
        holder[key] = value
    else:
        return False
    return True


# ---------------------------------------------------------------- open files

def appends(file: Any) -> bool:
    """Whether rows go behind what the open `file` holds, so that it can be cut back to where a checkpoint saw it."""
    raw = getattr(getattr(file, 'buffer', file), 'raw', getattr(file, 'buffer', file))
    return 'a' in str(getattr(raw, 'mode', getattr(file, 'mode', '')))


def _file_state(file: Any) -> dict[str, Any]:
    file.flush()
    return {'name': str(file.name), 'size': os.fstat(file.fileno()).st_size}


def _cut_back(file: Any, state: dict[str, Any], path: str) -> str | None:
    """Take rows that were written behind the checkpoint off again; the resumed training writes them anew."""
    file.flush()
    size = os.fstat(file.fileno()).st_size
    if Path(file.name).absolute() != Path(state['name']).absolute():
        return f'{path} is another file, {file.name}, and was {state["name"]}'
    if size < state['size']:
        return f'{path}: {file.name} has {size} bytes and had {state["size"]}: rows are missing'
    os.truncate(file.fileno(), state['size'])
    return None
