"""Functions chosen by the types of arguments; `Transform`, typed and reversible; `Pipeline`, transforms in a row."""
from __future__ import annotations

import collections.abc
import inspect
import operator
import pathlib
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from fastcore.basics import camel2snake, noop
from fastcore.foundation import L
from PIL import Image
from torch import Tensor

from minifast.arguments import kept_arguments, lookup, refuse_unknown
from minifast.codetext import KEYED, keyed, registered
from minifast.markers import TensorBase, TensorImageBase, as_torchvision, from_torchvision, plain, retain_type
from minifast.torch_core import check_kwargs, constructor_signature

__all__ = ['DisplayedTransform', 'InplaceTransform', 'ItemTransform', 'Overloads', 'Pipeline', 'RandTransform',
           'Transform', 'compose_tfms', 'dispatch', 'gather_attrs', 'is_known', 'keyed', 'mk_transform', 'retain',
           'typedispatch']

# ---------------------------------------------------------------- functions chosen by types

_FAR = 1 << 20
"""Rank of a match by `object` or by an abstract base class, behind every class of the argument's own ancestry."""


class _Overload(NamedTuple):
    """One function of a table.

    Attributes:
        func: the function.
        types: for each parameter that chooses, the classes it takes.
        takes_self: the first parameter is the transform itself.
        returns: the class the result is marked as; `object`: as the argument was, where that is the narrower class;
            None: the result stays as it is.
    """

    func: Callable
    types: tuple[tuple[type, ...], ...]
    takes_self: bool
    returns: type | None


class Overloads:
    """Functions of one name; which one runs is decided once for each combination of argument types and remembered.

    As a class attribute it binds like a method. Later functions replace earlier ones of the same types; those of a
    class come before those of its bases.

    Args:
        name: for messages.
        parents: the tables of the base classes, nearest first.
        n_args: how many arguments choose; None: all that are annotated.
    """

    _version = 0  # counts additions to any table: what was decided before may no longer hold

    def __init__(self, name: str, parents: tuple[Overloads, ...] = (), n_args: int | None = 1) -> None:
        self.name, self.parents, self.n_args = name, parents, n_args
        self.entries: list[_Overload] = []
        self._decided: dict[Any, _Overload | None] = {}
        self._decided_at = -1

    def add(self, func: Callable[..., Any], takes_self: bool = False) -> Overloads:
        """Add `func`, a method if `takes_self`; its annotations say what it is for, without one it is for anything."""
        if isinstance(func, staticmethod):
            func, takes_self = func.__func__, False
        choosing, returns = _signature_types(func, takes_self, self.n_args)
        self.entries.append(_Overload(func, choosing, takes_self, returns))
        Overloads._version += 1
        return self

    def find(self, *classes: type[Any]) -> _Overload | None:
        """The overload for arguments of these `classes`, None where there is none."""
        if self._decided_at != Overloads._version:
            self._decided, self._decided_at = {}, Overloads._version
        try:
            return self._decided[classes]
        except KeyError:
            found = self._decided[classes] = self._decide(classes)
            return found

    def __getitem__(self, classes: type | tuple[type, ...]) -> Callable:
        """The function for arguments of these classes, of whatever class those left out are: `show_batch[object]`.

        Raises:
            KeyError: there is none.
        """
        classes = classes if isinstance(classes, tuple) else (classes,)
        most = max((len(entry.types) for entry in self.all_entries()), default=0)
        found = self.find(*classes, *[object] * (most - len(classes)))
        if found is None:
            raise KeyError(f'{self.name} has no function for ({", ".join(c.__name__ for c in classes)}), only for '
                           f'{self.describe()}')
        return found.func

    def all_entries(self) -> list[_Overload]:
        """Own functions, then those of the base classes."""
        return [*reversed(self.entries), *(entry for parent in self.parents for entry in parent.all_entries())]

    def _decide(self, classes: tuple[type, ...]) -> _Overload | None:
        ranked = [(_ranks(entry.types, classes), entry) for entry in self.all_entries()]
        fitting = [(ranks, entry) for ranks, entry in ranked if ranks is not None]
        return min(fitting, key=lambda pair: pair[0])[1] if fitting else None

    def __get__(self, obj: Any, owner: type | None = None) -> Any:
        return self if obj is None else partial(self.call_for, obj)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the overload for these arguments."""
        return self._fitting(args).func(*args, **kwargs)

    def call_for(self, obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the overload for the types of `args` as a method of `obj`, with `kwargs`."""
        found = self._fitting(args)
        return found.func(obj, *args, **kwargs) if found.takes_self else found.func(*args, **kwargs)

    def _fitting(self, args: tuple) -> _Overload:
        found = self.find(*map(type, args[:self.n_args]))
        if found is None:
            seen = ', '.join(type(a).__name__ for a in args[:self.n_args])
            raise TypeError(f'{self.name} has no function for ({seen}), only for {self.describe()}')
        return found

    def describe(self) -> str:
        """The types there are functions for, as text."""
        return '; '.join(', '.join('|'.join(c.__name__ for c in options) for options in entry.types) or 'anything'
                         for entry in self.all_entries())

    def __len__(self) -> int:
        return len(self.all_entries())

    def __getstate__(self) -> dict:
        return {**self.__dict__, '_decided': {}, '_decided_at': -1}


def _ranks(wanted: tuple[tuple[type, ...], ...], classes: tuple[type, ...]) -> tuple[int, ...] | None:
    """How far each argument's class is from what is wanted, None where one does not fit."""
    if len(wanted) > len(classes):
        return None
    ranks = [min((_rank(option, cls) for option in options), default=_FAR + 1) for options, cls in zip(wanted, classes)]
    return None if any(r > _FAR for r in ranks) else (*ranks, *[_FAR] * (len(classes) - len(ranks)))


def _rank(option: type, cls: type) -> int:
    if option is object:
        return _FAR
    mro = cls.__mro__
    if option in mro:
        return mro.index(option)
    try:
        return _FAR - 1 if issubclass(cls, option) else _FAR + 1
    except TypeError:  # a Protocol that is not runtime-checkable
        return _FAR + 1


def _signature_types(func: Callable, takes_self: bool,
                     n_args: int | None) -> tuple[tuple[tuple[type, ...], ...], type | None]:
    """(classes of each choosing parameter, class of the result) from the annotations of a function."""
    target = func.__init__ if inspect.isclass(func) else func
    try:
        names = [p.name for p in inspect.signature(func).parameters.values()
                 if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and (n_args or p.default is p.empty)]
    except (TypeError, ValueError):  # built-in functions tell nothing
        return ((object,),) * (n_args or 0), object
    names = (names[1:] if takes_self else names)[:n_args]
    hints = {} if inspect.isclass(func) else _hints(target, names, strict=takes_self or n_args is None)
    if n_args is None:
        while names and names[-1] not in hints:
            names.pop()
    choosing = tuple(_classes(hints.get(name, object)) for name in names) or ((object,),) * (n_args or 0)
    returns = hints.get('return', object)
    returns = _classes(returns)[0] if returns is not type(None) else None
    return choosing, returns


def _hints(func: Callable, names: list[str], strict: bool) -> dict[str, Any]:
    """The annotations of `names` and of the result; postponed ones are looked up where the function was defined.

    Raises:
        TypeError: a parameter's class is not to be found there, and the function is written to be chosen by it.
    """
    found, written = {}, getattr(func, '__annotations__', {})
    spaces = getattr(inspect.unwrap(func), '__globals__', {}), {}
    if isinstance(func, types.FunctionType):
        cells = zip(func.__code__.co_freevars, func.__closure__ or ())
        spaces[1].update((name, cell.cell_contents) for name, cell in cells if cell != types.CellType())
    for name in [name for name in (*names, 'return') if name in written]:
        one = types.SimpleNamespace(__annotations__={name: written[name]})
        try:
            found.update(typing.get_type_hints(one, *spaces))
        except NameError as error:
            if strict and name != 'return':
                where = getattr(func, '__qualname__', func)
                raise TypeError(f'the annotation of {name!r} in {where} chooses what it is applied to, and '
                                f'{error.name!r} cannot be found at module level: define that class there, or leave '
                                'out `from __future__ import annotations`') from error
    return found


def _classes(hint: Any) -> tuple[type, ...]:
    """The classes an annotation stands for; unions and (old style) tuples stand for several."""
    if hint in (Any, inspect.Parameter.empty, object):
        return (object,)
    if hint is None:
        return (type(None),)
    if isinstance(hint, (tuple, list)):
        return tuple(c for h in hint for c in _classes(h))
    if isinstance(hint, type) and typing.get_origin(hint) is None:
        return (hint,)
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return tuple(c for h in typing.get_args(hint) for c in _classes(h))
    if origin is typing.Annotated:
        return _classes(typing.get_args(hint)[0])
    if isinstance(origin, type):
        return (origin,)
    if isinstance(hint, typing.TypeVar):
        return _classes(hint.__bound__ or object)
    return (collections.abc.Callable,) if hint is typing.Callable else (object,)


_functions: dict[str, Overloads] = {}


def typedispatch(func: Callable[..., Any]) -> Overloads:
    """Decorator: add `func` to the functions of its name, chosen by the types of the annotated arguments.

    The functions of one name form one table, wherever they are defined; so a plugin adds a way of showing its own
    types to the loaders' `show_batch` and `show_results`.

    Example:
        >>> class Spectrum(TensorBase): pass
        >>> @typedispatch
        ... def show_batch(x: Spectrum, y, samples, ctxs=None, max_n=9, **kwargs): ...
    """
    name = func.__qualname__.split('.<locals>.')[-1]
    table = _functions.get(name)
    if table is None:
        table = _functions[name] = Overloads(name, n_args=None)
        table.__doc__, table.__name__ = func.__doc__, name
    return table.add(func)


dispatch = typedispatch
"""`typedispatch` under the name of later releases."""


# ---------------------------------------------------------------- samples, and the classes of their parts

_methods = ('encodes', 'decodes', 'setups')


def _name_of(o: Any) -> str:
    return getattr(o, '__qualname__', None) or getattr(o, '__name__', None) or type(o).__name__


def _is_sample(x: Any) -> bool:
    """Tuples are samples or batches, of which each element is transformed; named tuples are items."""
    return isinstance(x, tuple) and not hasattr(x, '_fields')


def retain(new: Any, old: Any, returns: type[Any] | None = object) -> Any:
    """`new` in the class of `old` where that is the narrower one, or in `returns` where an annotation says so.

    So a function that computes on a `TensorImage` and gets a plain tensor back, or on a `PILImage` and gets one of
    Pillow's own, still returns a `TensorImage` or `PILImage`. Numbers and text are left alone.
    """
    wanted = type(old) if returns is object else returns
    if wanted is None or type(new) is wanted or new is None:
        return new
    if returns is object:
        if isinstance(new, Tensor):
            return retain_type(new, old) if isinstance(old, type(new)) else new
        if not isinstance(old, type(new)) or wanted.__module__ == 'builtins' or type(new) is object:
            return new
    if isinstance(new, wanted) or not isinstance(wanted, type) or wanted.__module__ in ('typing', 'builtins'):
        return new
    if isinstance(new, Tensor) and issubclass(wanted, Tensor):
        return new.as_subclass(wanted)
    if isinstance(new, np.ndarray) and issubclass(wanted, np.ndarray):
        return new.view(wanted)
    return wanted(new) if issubclass(wanted, type(new)) else new


def _short(value: Any) -> Any:
    """A tensor as its few numbers, anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    return [round(v, 4) for v in value.flatten()[:8].tolist()]


# ---------------------------------------------------------------- transforms

class _Namespace(dict):
    """The body of a transform class, in which several `encodes` become one table instead of the last one."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name in _methods and callable(value) and not isinstance(value, Overloads):
            table = self.get(name) or Overloads(name)
            value = table.add(value, takes_self=isinstance(value, types.FunctionType))
        super().__setitem__(name, value)


class _TransformMeta(type):
    @classmethod
    def __prepare__(mcs, name: str, bases: tuple, **kwargs: Any) -> _Namespace:
        return _Namespace()

    def __new__(mcs, name: str, bases: tuple, namespace: dict) -> _TransformMeta:
        cls = super().__new__(mcs, name, bases, dict(namespace))
        for method in _methods:
            above = tuple(vars(base)[method] for base in cls.__mro__[1:] if method in vars(base))
            if method in namespace or above:
                table = namespace.get(method) or Overloads(method)
                # each base's table already knows its own bases, so the nearest are enough
                table.parents = above[:1] if len(bases) == 1 else above
                type.__setattr__(cls, method, table)
        if 'encodes' in namespace:
            takes = any(_takes(entry.func, 'target') for entry in namespace['encodes'].entries)
            type.__setattr__(cls, 'takes_target', takes)
        if namespace.get('keyed'):
            cls.was_keyed()
        else:
            type.__setattr__(cls, 'keyed', False)  # said of a class, not of its subclasses, whose code may be another's
        return cls

    def was_keyed(cls) -> None:
        """Take down what the class consists of now: functions that are added later are not meant."""
        tables = [table for method in _methods if (table := getattr(cls, method, None)) is not None]
        functions = [entry.func for table in tables for entry in table.all_entries()]
        type.__setattr__(cls, '_keyed_functions', tuple(functions))
        if not vars(cls).get('keyed'):
            type.__setattr__(cls, 'keyed', True)
        called = [vars(cls).get('__call__'), *functions]
        if 'takes_generator' not in vars(cls) and any(_takes(f, 'generator') for f in called):
            type.__setattr__(cls, 'takes_generator', True)

    def __setattr__(cls, name: str, value: Any) -> None:
        if name in _methods and isinstance(value, types.FunctionType):
            cls._register(value, name)
        else:
            super().__setattr__(name, value)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        func = args[0] if len(args) == 1 and not kwargs else None
        if isinstance(func, types.FunctionType) and func.__code__.co_varnames[:1] == ('self',):
            if func.__name__ not in _methods:
                raise TypeError(f'@{cls.__name__} adds a way to encode, decode or set up and is on a function called '
                                f'{func.__name__!r}: call it one of {", ".join(_methods)}')
            cls._register(func, func.__name__)
            return cls
        try:
            return super().__call__(*args, **kwargs)
        except TypeError:
            refuse_unknown(cls.__init__, cls.__name__, kwargs)  # with the nearest name
            raise

    __signature__ = constructor_signature

    def _register(cls, func: Callable, name: str) -> None:
        if name not in vars(cls):
            type.__setattr__(cls, name, Overloads(name))
        vars(cls)[name].add(func, takes_self=True)
        if name == 'encodes' and not _takes(func, 'target'):
            type.__setattr__(cls, 'takes_target', False)


def _takes(f: Any, argument: str) -> bool:
    return inspect.isfunction(f) and argument in inspect.signature(f).parameters


class Step(NamedTuple):
    """A transform as a pass calls it, time and again: what its class and the split decide is decided.

    Attributes:
        call: called with an item, a sample or a batch.
        takes: what it is to be handed besides: 'generator', 'target'.
    """

    call: Callable
    takes: tuple[str, ...] = ()


def bound(steps: Sequence[Step], **given: Any) -> list[Callable[..., Any]]:
    """Steps as functions of one argument, with those of the things given that they take; None is not given."""
    return [partial(call, **{name: given[name] for name in takes if given.get(name) is not None}) if takes else call
            for call, takes in steps]


@registered
class Transform(metaclass=_TransformMeta):
    """A function on items or batches, `encodes`; its inverse for showing, `decodes`; its preparation, `setups`.

    The annotation of the first argument says what it is applied to: anything else passes unchanged. A class may have
    several `encodes`, one a type; `@MyTransform` on a function called `encodes` adds one later. A tuple is a sample:
    each element is transformed. `Transform(func)` makes one of any callable.

    A loader may make its items in threads, which share the global generators, where it knows that none of its
    transforms draws from those. Say so of a class of yours with `keyed = True` in its body: it draws nothing, or from
    the `generator` that it is handed, as an argument of `encodes` (or of `RandTransform.draw`), alone, and it keeps
    nothing of a call. Classes derived from it, and functions added to it, have to say so themselves; of a function,
    the decorator `keyed` says it.

    Args:
        enc: a function, or several, instead of `encodes`.
        dec: likewise for `decodes`.
        split_idx: 0 in training only, 1 in validation only, None in both.
        order: pipelines are sorted by it.

    Attributes:
        order: lower runs earlier.
        train_setup: whether `setups` sees the training items only; None leaves it to the caller.
        keyed: it draws from no global generator.
        takes_generator: a call takes the argument `generator`; found out where `keyed` is said.
        takes_target: `encodes` takes the argument `target`, see `Target`; found out.
        makes_floats: it makes floats in 0..1 of bytes, and may wait until later transforms have worked on the bytes.
        bytewise: it treats each value of a channel alike, whatever is beside it, so that a table of bytes will do.
        on_bytes: it works on bytes on the CPU, and faster than on floats.

    Example:
        >>> class Half(Transform):
        ...     def encodes(self, x: TensorImage): return x / 2
        ...     def decodes(self, x: TensorImage): return x * 2
    """

    split_idx: int | None = None
    init_enc: Any = None
    order: float = 0
    train_setup: bool | None = None
    keyed: bool = False
    takes_generator: bool = False
    takes_target: bool = False
    makes_floats: bool = False
    bytewise: bool = False
    on_bytes: bool = False
    _keyed_functions: tuple = ()

    def __init__(self, enc: Any = None, dec: Any = None, split_idx: int | None = None,
                 order: float | None = None) -> None:
        self.split_idx = self.split_idx if split_idx is None else split_idx
        single = None if enc is None or isinstance(enc, (list, tuple, L)) else enc
        self.order = order if order is not None else getattr(single, 'order', self.order)
        for name, funcs in (('encodes', enc), ('decodes', dec)):
            if funcs is not None:
                table = Overloads(name)
                for func in funcs if isinstance(funcs, (list, tuple, L)) else [funcs]:
                    table.add(func)
                setattr(self, name, table)
        if enc is not None:
            self._name = _name_of(self.encodes.entries[0].func)

    @property
    def name(self) -> str:
        """The function's name, else the class's."""
        return getattr(self, '_name', None) or type(self).__name__

    @property
    def input_types(self) -> tuple[type[Any], ...] | None:
        """The classes the function says it takes, None where it says nothing."""
        table = self._table('encodes') if hasattr(self, '_name') else None
        classes = [c for entry in table.all_entries() for c in entry.types[0]] if table is not None else []
        return tuple(classes) if classes and object not in classes else None

    def __repr__(self) -> str:
        enc, dec = (len(table) if (table := self._table(name)) is not None else 0 for name in ('encodes', 'decodes'))
        return f'{self.name}(enc:{enc},dec:{dec})'

    def __call__(self, x: Any, *args: Any, split_idx: int | None = None, **kwargs: Any) -> Any:
        return self._apply('encodes', x, *args, **kwargs) if self._is_for(split_idx) else x

    def decode(self, x: Any, *args: Any, split_idx: int | None = None, **kwargs: Any) -> Any:
        """Undo the transform of `x`, for showing, if it is for `split_idx`; `args` and `kwargs` go to `decodes`."""
        return self._apply('decodes', x, *args, **kwargs) if self._is_for(split_idx) else x

    def step(self, split_idx: int | None) -> Step | None:
        """How a pass of this `split_idx` calls it, None where it has nothing to do there."""
        takes = ('generator',) * self.takes_generator
        if type(self).__call__ is not Transform.__call__:
            return Step(partial(self, split_idx=split_idx), takes)
        takes += ('target',) * self.takes_target
        return Step(partial(self._apply, 'encodes'), takes) if self._is_for(split_idx) else None

    def _is_for(self, split_idx: int | None) -> bool:
        return self.split_idx is None or split_idx == self.split_idx

    def setup(self, items: Any = None, train_setup: bool = False) -> Any:
        """Prepare from `items` (`setups`), of which only the training ones are looked at if `train_setup`."""
        table = self._table('setups')
        if table is None:
            return None
        train_setup = train_setup if self.train_setup is None else self.train_setup
        items = getattr(items, 'train', items) if train_setup else items
        found = table.find(type(items))
        return None if found is None else found.func(*([self] if found.takes_self else []), items)

    def _table(self, name: str) -> Overloads | None:
        own = self.__dict__.get(name)
        if own is None:
            own = type(self).__dict__.get(name)  # where it nearly always is
            return getattr(type(self), name, None) if own is None else own
        return own if isinstance(own, Overloads) else Overloads(name).add(own)

    def _apply(self, name: str, x: Any, *args: Any, **kwargs: Any) -> Any:
        """What the function of that name for the class of `x` makes of it, or of each element of a sample."""
        cls = type(x)
        if cls is tuple or (isinstance(x, tuple) and _is_sample(x)):
            done = tuple([self._apply(name, o, *args, **kwargs) for o in x])
            return done if cls is tuple else cls(done)
        # as `_table`, which is called no more than it has to be
        table = type(self).__dict__.get(name) if name not in self.__dict__ else None
        table = self._table(name) if table is None else table
        found = None if table is None else table.find(cls)
        if found is None:
            return x
        new = found.func(self, x, *args, **kwargs) if found.takes_self else found.func(x, *args, **kwargs)
        return new if type(new) is cls and found.returns is object else retain(new, x, found.returns)


@registered
class InplaceTransform(Transform):
    """A transform that changes what it is given and whose result is that same object."""

    def _apply(self, name: str, x: Any, *args: Any, **kwargs: Any) -> Any:
        super()._apply(name, x, *args, **kwargs)
        return x


@registered
class DisplayedTransform(Transform):
    """A transform whose name shows the arguments it was made with, where they are attributes of their own name."""

    @property
    def name(self) -> str:
        """The class's name and the arguments."""
        args = {name: _short(value) for name, value in kept_arguments(self).items() if name in vars(self)}
        return f'{super().name} -- {args}' if args else super().name


@registered
class ItemTransform(Transform):
    """A transform that is given a sample as a whole, not each of its elements.

    Set `_retain = False` on a class whose result is not a sample of the same kind.

    Example:
        >>> class Swap(ItemTransform):
        ...     def encodes(self, pair): return pair[1], pair[0]
        >>> Swap()((1, 'a'))
        ('a', 1)
    """

    _retain = True

    def _apply(self, name: str, x: Any, *args: Any, **kwargs: Any) -> Any:
        if not _is_sample(x):
            return super()._apply(name, x, *args, **kwargs)
        table = self._table(name)
        found = None if table is None else table.find(list) or table.find(tuple)
        if found is None:
            return x
        new = found.func(*([self] if found.takes_self else []), list(x), *args, **kwargs)
        if not self._retain:
            return new
        new = tuple(new) if isinstance(new, (list, L)) else new
        return new if type(x) is tuple or not isinstance(new, tuple) else type(x)(new)


@registered
class RandTransform(DisplayedTransform):
    """A transform with something random in it, by default in training only.

    Ours draw once for a sample and apply what was drawn to all its parts: `draw(sample, split_idx, generator)` returns
    the parameters, or None to leave the sample alone, and `apply(x, params)` uses them on each part whose class is in
    `supports`. No state of a call is kept on the object, and all randomness comes from `generator` (None: torch's
    global one), so they may run in threads.

    The other style works too: `before_call(b, split_idx)` sets what `encodes` reads from `self`, and `self.do` says
    whether to do anything; it may draw from any global generator.

    Args:
        p: probability of doing anything.
        nm: a name instead of the class's.
        before_call: instead of the method of that name.
        **kwargs: `split_idx`, `order`, `enc` and `dec` of `Transform`.
    """

    do, nm, supports, split_idx = True, None, (), 0
    takes_generator = False

    def __init__(self, p: float = 1., nm: str | None = None, before_call: Callable[..., Any] | None = None,
                 **kwargs: Any) -> None:
        check_kwargs(type(self).__name__, kwargs, ('enc', 'dec', 'split_idx', 'order'))
        super().__init__(**kwargs)
        self.p = p
        if nm is not None:
            self.nm = nm
        if before_call is not None:
            self.before_call = before_call

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if 'draw' in vars(cls) and not isinstance(cls.takes_generator, property):
            cls.takes_generator = vars(cls).get('takes_generator', True)

    @property
    def name(self) -> str:
        """`nm`, else the class's name and the arguments."""
        return super().name if self.nm is None else self.nm

    def draws(self, split_idx: int | None) -> bool:
        """Whether what it does to a sample of this `split_idx` is not the same each time."""
        return self._is_for(split_idx)

    def draw(self, sample: Any, split_idx: int | None, generator: torch.Generator | None) -> Any:
        """The parameters for one `sample` or batch of `split_idx`, from `generator`; None to leave it alone."""
        return () if self.p == 1. or float(torch.rand(1, generator=generator)) < self.p else None

    def apply(self, x: Any, params: Any) -> Any:
        """`x`, an element whose class is in `supports`, transformed with what was drawn, `params`."""
        return x

    def before_call(self, b: Any, split_idx: int | None) -> None:
        """Set `self.do` and whatever `encodes` reads, for one sample or batch `b` of `split_idx`."""
        self.do = self.p == 1. or float(torch.rand(1)) < self.p

    def __call__(self, b: Any, split_idx: int | None = None, generator: torch.Generator | None = None,
                 **kwargs: Any) -> Any:
        if not self._is_for(split_idx):
            return b
        if type(self).draw is RandTransform.draw:
            self.before_call(b, split_idx=split_idx)
            return super().__call__(b, split_idx=split_idx, **kwargs) if self.do else b
        return self._drawn(b, split_idx, generator)

    def step(self, split_idx: int | None) -> Step | None:
        """How a pass of this `split_idx` calls it, None where it has nothing to do there."""
        if type(self).__call__ is not RandTransform.__call__ or type(self).draw is RandTransform.draw:
            return super().step(split_idx)
        takes = ('generator',) * self.takes_generator
        return Step(partial(self._drawn, split_idx=split_idx), takes) if self._is_for(split_idx) else None

    def _drawn(self, b: Any, split_idx: int | None, generator: torch.Generator | None = None) -> Any:
        params = self.draw(b, split_idx, generator)
        return b if params is None else self._apply_drawn(b, params)

    def _apply_drawn(self, x: Any, params: Any) -> Any:
        cls = type(x)
        if cls is tuple or (isinstance(x, tuple) and _is_sample(x)):
            done = tuple([self._apply_drawn(o, params) for o in x])
            return done if cls is tuple else cls(done)
        table = self._table('encodes') if hasattr(type(self), 'encodes') or 'encodes' in self.__dict__ else None
        added = None if table is None else table.find(cls)
        if added is not None:  # a type that user code has added
            new = added.func(self, x) if added.takes_self else added.func(x)
            return retain(new, x, added.returns)
        if not isinstance(x, self.supports):
            return x
        new = self.apply(x, params)
        return new if type(new) is cls else retain(new, x)


# ---------------------------------------------------------------- transforms in a row

class Pipeline:
    """Transforms applied one after the other, sorted by `order`; indexes and iterates like a list of them.

    An attribute that it does not have is looked for on its transforms: `pipeline.vocab`; and each transform is an
    attribute under its snake-case class name: `pipeline.categorize`.

    Args:
        funcs: one or several transforms, functions or transform types; another pipeline's are shared.
        split_idx: 0 in training, 1 in validation: transforms with another `split_idx` of their own are left out.
        as_item: True hands samples (tuples) to the transforms as a whole.

    Example:
        >>> pipe = Pipeline([PILImage.create, Resize(16), ToTensor])
        >>> pipe(files[0]).shape
        torch.Size([3, 16, 16])
    """

    def __init__(self, funcs: Any = None, split_idx: int | None = None, as_item: bool | None = None) -> None:
        self.split_idx, self.as_item = split_idx, as_item
        if isinstance(funcs, Pipeline):
            self.fs = L(funcs.fs)
        else:
            funcs = [] if funcs is None else funcs if isinstance(funcs, (list, tuple, L)) else [funcs]
            self.fs = L(_in_order(mk_transform(f) for f in funcs))

    def setup(self, items: Any = None, train_setup: bool = False) -> None:
        """Set up each transform by `items` as those before leave them, by the training ones if `train_setup`."""
        tfms, self.fs = list(self.fs), L()
        try:
            for done, tfm in enumerate(tfms):
                self.add(tfm, items, train_setup)
        except Exception:
            self.fs = L(tfms)
            raise

    def add(self, ts: Any, items: Any = None, train_setup: bool = False) -> None:
        """Set up one or several transforms `ts` by `items` (`train_setup`: see `setup`) and put them in `order`."""
        for t in ts if isinstance(ts, (list, tuple, L)) else [ts]:
            t = mk_transform(t)
            t.setup(items, train_setup)
            self.fs = L(_in_order([*self.fs, t]))

    def __call__(self, o: Any, split_idx: int | None = None, generator: torch.Generator | None = None) -> Any:
        split_idx = self.split_idx if split_idx is None else split_idx
        for f in self.fs:
            if generator is not None and f.takes_generator:
                o = f(o, split_idx=split_idx, generator=generator)
            else:
                o = f(o, split_idx=split_idx) if not self.as_item else f([*o], split_idx=split_idx)
        return o

    def steps(self) -> tuple[Step, ...]:
        """What a pass calls one after the other, without those that are for another split."""
        if self.as_item or type(self).__call__ is not Pipeline.__call__:
            return (Step(partial(self, split_idx=self.split_idx), ('generator',) * self.takes_generator),)
        steps = (f.step(self.split_idx) if isinstance(f, Transform) else
                 Step(partial(f, split_idx=self.split_idx), ('generator',) * f.takes_generator)
                 for f in self.fs)
        return tuple(step for step in steps if step is not None)

    def decode(self, o: Any, full: bool = True, split_idx: int | None = None) -> Any:
        """Undo the transforms of `split_idx` (None: the own), last first; unless `full`, until `o` can show itself."""
        split_idx = self.split_idx if split_idx is None else split_idx
        for f in reversed(self.fs):
            if not full and _is_showable(o):
                return o
            o = f.decode(o, split_idx=split_idx)
        return o

    def show(self, o: Any, ctx: Any = None, **kwargs: Any) -> Any:
        """Decode `o` until it can show itself and show it in `ctx`; `**kwargs` go to its `show`."""
        o = self.decode(o, full=False)
        for part in [o] if hasattr(o, 'show') or not _is_sample(o) else o:
            if hasattr(part, 'show'):
                ctx = part.show(ctx=ctx, **kwargs)
        return ctx

    @property
    def name(self) -> str:
        """What its transforms are called."""
        return ' -> '.join(f.name for f in self.fs if f.name != 'noop')

    @property
    def takes_generator(self) -> bool:
        """Whether a generator may be handed to it."""
        return any(f.takes_generator for f in self.fs)

    order = 0

    def __repr__(self) -> str:
        return f'Pipeline: {self.name}'

    def __getitem__(self, i: Any) -> Any:
        return self.fs[i]

    def __len__(self) -> int:
        return len(self.fs)

    def __iter__(self) -> Any:
        return iter(self.fs)

    def __bool__(self) -> bool:
        return True  # a pipeline without transforms is still one

    def __getattr__(self, name: str) -> Any:
        own = [f for f in self.__dict__.get('fs', ()) if camel2snake(type(f).__name__) == name]
        if own:
            return own[0] if len(own) == 1 else L(own)
        return gather_attrs(self, name, 'fs')


def _in_order(fs: Iterable) -> list:
    return sorted(fs, key=lambda f: f.order)


def _is_showable(o: Any) -> bool:
    return hasattr(o, 'show') or (_is_sample(o) and all(hasattr(part, 'show') for part in o))


def compose_tfms(x: Any, tfms: Iterable[Any], is_enc: bool = True, reverse: bool = False, **kwargs: Any) -> Any:
    """Apply all `tfms` to `x`, in reverse if `reverse`, their decodes unless `is_enc`; `kwargs` go to each."""
    for f in reversed(list(tfms)) if reverse else tfms:
        x = (f if is_enc else f.decode)(x, **kwargs)
    return x


def mk_transform(f: Any) -> Any:
    """`f` as a transform: a transform class is instantiated, any other callable wrapped.

    Raises:
        TypeError: `f` cannot be called.
    """
    if isinstance(f, type) and issubclass(f, (Transform, Pipeline)):
        f = f()
    if isinstance(f, (Transform, Pipeline)):
        return f
    if _is_torchvision(f):
        return TorchvisionTransform(f)
    if not callable(f):
        raise TypeError(f'{f!r} is no transform: give a function, a Transform, or a list of them')
    return Transform(f)


def gather_attrs(o: Any, name: str, parts: str) -> Any:
    """The attribute `name` of those of `o.<parts>` that have it: the one, or an `L` of several.

    Raises:
        AttributeError: none has it.
    """
    found = []
    if not name.startswith('_'):
        found = [v for part in o.__dict__.get(parts, ()) if (v := getattr(part, name, None)) is not None]
    if not found:
        return lookup(o, name)  # raises, with a failing property's own error where there is one
    return found[0] if len(found) == 1 else L(found)


# ---------------------------------------------------------------- torchvision's transforms

def _is_torchvision(f: Any) -> bool:
    """Whether `f` is a transform object of torchvision."""
    return type(f).__module__.startswith('torchvision.transforms.')


class TorchvisionTransform(Transform):
    """A transform of torchvision on whole samples or batches.

    Those of `torchvision.transforms.v2` see each part as what it is (`tv_tensors.Image`, `Mask`, `BoundingBoxes`,
    `KeyPoints`), so a flip flips all of them or none, and labels pass. The older ones are given the pictures alone.
    """

    def __init__(self, tfm: Any) -> None:
        super().__init__()
        self.tfm, self._name = tfm, type(tfm).__name__
        self.joint = '.v2.' in type(tfm).__module__

    input_types = None

    def __call__(self, x: Any, split_idx: int | None = None, **kwargs: Any) -> Any:
        if not self.joint:
            return self._pictures(x)
        parts = tuple(x) if _is_sample(x) else (x,)
        seen = [as_torchvision(part, parts) for part in parts]
        new = self.tfm(tuple(seen)) if len(seen) > 1 else (self.tfm(seen[0]),)
        new = tuple(self._ours(n, part) for n, part in zip(new, parts))
        return new if _is_sample(x) else new[0]

    def decode(self, x: Any, **kwargs: Any) -> Any:
        """Nothing is undone."""
        return x

    def _pictures(self, x: Any) -> Any:
        if _is_sample(x):
            return tuple(self._pictures(part) for part in x)
        if isinstance(x, TensorImageBase):
            return self._ours(self.tfm(plain(x)), x)
        return self._ours(self.tfm(x), x) if isinstance(x, Image.Image) else x

    @staticmethod
    def _ours(new: Any, old: Any) -> Any:
        return from_torchvision(new, old) if isinstance(new, Tensor) else retain(new, old)

    def __repr__(self) -> str:
        return repr(self.tfm)


# ---------------------------------------------------------------- whose randomness is under control

_harmless = (str, int, float, bool, len, tuple, list, set, repr, noop, operator.itemgetter, operator.attrgetter,
             operator.methodcaller, pathlib.Path, pathlib.PurePath, pathlib.PosixPath, pathlib.WindowsPath,
             pathlib.PurePosixPath, pathlib.PureWindowsPath)
"""Of Python and fastcore: what draws nothing, called itself or, of a class, by its instances."""
_harmless_methods = tuple(f for cls in (pathlib.PurePath, pathlib.Path, TensorBase) for name in dir(cls)
                          if inspect.isfunction(f := getattr(getattr(cls, name), '__func__', getattr(cls, name))))


def is_known(tfm: Any) -> bool:
    """Whether `tfm`, a transform or function, says that it draws from no global generator (`Transform.keyed`).

    Anything else (user code, torchvision's transforms) may draw from `random`, `numpy.random` or torch.
    """
    if isinstance(tfm, Pipeline):
        return all(is_known(f) for f in tfm.fs)
    if isinstance(tfm, Transform):
        if not tfm.keyed or (isinstance(tfm, RandTransform) and not tfm.takes_generator):
            return False
        tables = [table for name in ('encodes', 'setups') if (table := tfm._table(name)) is not None]
        return all(any(entry.func is f for f in tfm._keyed_functions) or is_known(entry.func)
                   for table in tables for entry in table.all_entries())
    if isinstance(tfm, partial):
        return all(is_known(o) for o in (tfm.func, *tfm.args, *tfm.keywords.values()) if callable(o))
    f = getattr(tfm, '__func__', tfm)
    return any(KEYED.get(id(o)) is o or any(o is known for known in (*_harmless, *_harmless_methods))
               for o in (f, type(f)))
