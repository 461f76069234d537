"""`Transform`: a typed, reversible function on items and batches, and its kinds."""
from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from fastcore.foundation import L
from torch import Tensor

from minifast.arguments import kept_arguments, refuse_unknown
from minifast.data.dispatch import Overloads
from minifast.markers import retain_type as _retain_marker
from minifast.torch_core import check_kwargs, constructor_signature

__all__ = ['DisplayedTransform', 'InplaceTransform', 'ItemTransform', 'RandTransform', 'Transform', 'is_sample',
           'keyed', 'retain']

_methods = ('encodes', 'decodes', 'setups')
_T = TypeVar('_T')


# ---------------------------------------------------------------- what is said of code: what it draws from, its name

_declared: dict[int, Any] = {}
"""By identity, so that neither a subclass nor a wrapper that copies attributes has what was said of another."""
_registered: dict[str, Any] = {}
"""What files may name, by its name."""


def keyed(f: _T) -> _T:
    """Decorator: declare that a function draws from no global generator (`random`, `numpy.random`, torch's), nor calls
    anything that does. Of a class it says so of making and calling its instances, and not of its subclasses'.

    Loaders made of such functions alone may use threads, and do not seed the global generators for each item.

    Example:
        >>> @keyed
        ... def label(file): return file.name.split('_')[0]
    """
    _declared[id(f)] = f
    if isinstance(f, _TransformMeta):
        f._declare()
    return f


def is_declared(f: Any) -> bool:
    """Whether `keyed` was said of this very function or class."""
    return _declared.get(id(f)) is f


def registered(o: _T) -> _T:
    """Decorator for what is minifast's own: it is `keyed`, and files may name it.

    Exports call it by its name alone, so it may move from room to room, and nothing is imported to find it.

    Raises:
        ValueError: another thing has that name.
    """
    if _registered.setdefault(o.__name__, o) is not o:
        raise ValueError(f'{o.__name__!r} stands for {_registered[o.__name__]!r} in files: give the other another name')
    return keyed(o)


def registered_as(name: str) -> Any:
    """What files call by this name, None for nothing."""
    return _registered.get(name)


def _name_of(o: Any) -> str:
    return getattr(o, '__qualname__', None) or getattr(o, '__name__', None) or type(o).__name__


def is_sample(x: Any) -> bool:
    """Tuples are samples or batches, of which each element is transformed; named tuples are items."""
    return isinstance(x, tuple) and not hasattr(x, '_fields')


def retain(new: Any, old: Any, returns: type | None = object) -> Any:
    """`new` in the class of `old` where that is the narrower one, or in `returns` where an annotation says so.

    So a function that computes on a `TensorImage` and gets a plain tensor back, or on a `PILImage` and gets one of
    Pillow's own, still returns a `TensorImage` or `PILImage`. Numbers and text are left alone.
    """
    wanted = type(old) if returns is object else returns
    if wanted is None or type(new) is wanted or new is None:
        return new
    if returns is object:
        if isinstance(new, Tensor):
            return _retain_marker(new, old) if isinstance(old, type(new)) else new
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
        if namespace.get('keyed'):
            cls._declare()
        else:
            type.__setattr__(cls, 'keyed', False)  # said of a class, not of its subclasses, whose code may be another's
        return cls

    def _declare(cls) -> None:
        """Take down what the class consists of now: functions that are added later are not meant."""
        tables = [table for method in _methods if (table := getattr(cls, method, None)) is not None]
        functions = [entry.func for table in tables for entry in table.all_entries()]
        type.__setattr__(cls, '_keyed_functions', tuple(functions))
        if not vars(cls).get('keyed'):
            type.__setattr__(cls, 'keyed', True)
        if 'takes_generator' not in vars(cls) and any(map(_has_generator, [vars(cls).get('__call__'), *functions])):
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


def _has_generator(f: Any) -> bool:
    return inspect.isfunction(f) and 'generator' in inspect.signature(f).parameters


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
    def input_types(self) -> tuple[type, ...] | None:
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
        """Undo the transform, for showing."""
        return self._apply('decodes', x, *args, **kwargs) if self._is_for(split_idx) else x

    def _is_for(self, split_idx: int | None) -> bool:
        return self.split_idx is None or split_idx == self.split_idx

    def setup(self, items: Any = None, train_setup: bool = False) -> Any:
        """Prepare from the items (`setups`), of which only the training ones are looked at if `train_setup`."""
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
        if type(x) is tuple or is_sample(x):
            done = tuple([self._apply(name, o, *args, **kwargs) for o in x])
            return done if type(x) is tuple else type(x)(done)
        table = self._table(name)
        found = None if table is None else table.find(type(x))
        if found is None:
            return x
        new = found.func(self, x, *args, **kwargs) if found.takes_self else found.func(x, *args, **kwargs)
        return retain(new, x, found.returns)


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
    """

    _retain = True

    def _apply(self, name: str, x: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_sample(x):
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
    """

    do, nm, supports, split_idx = True, None, (), 0
    takes_generator = False

    def __init__(self, p: float = 1., nm: str | None = None, before_call: Callable | None = None,
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
        """Whether what it does to a sample of this split is not the same each time."""
        return self._is_for(split_idx)

    def draw(self, sample: Any, split_idx: int | None, generator: torch.Generator | None) -> Any:
        """The parameters for one sample or batch, None to leave it alone."""
        return () if self.p == 1. or float(torch.rand(1, generator=generator)) < self.p else None

    def apply(self, x: Any, params: Any) -> Any:
        """`x`, an element whose class is in `supports`, transformed with what was drawn."""
        return x

    def before_call(self, b: Any, split_idx: int | None) -> None:
        """Set `self.do` and whatever `encodes` reads, for one sample or batch."""
        self.do = self.p == 1. or float(torch.rand(1)) < self.p

    def __call__(self, b: Any, split_idx: int | None = None, generator: torch.Generator | None = None,
                 **kwargs: Any) -> Any:
        if not self._is_for(split_idx):
            return b
        if type(self).draw is RandTransform.draw:
            self.before_call(b, split_idx=split_idx)
            return super().__call__(b, split_idx=split_idx, **kwargs) if self.do else b
        params = self.draw(b, split_idx, generator)
        return b if params is None else self._apply_drawn(b, params)

    def _apply_drawn(self, x: Any, params: Any) -> Any:
        if type(x) is tuple or is_sample(x):
            done = tuple([self._apply_drawn(o, params) for o in x])
            return done if type(x) is tuple else type(x)(done)
        table = self._table('encodes')
        added = None if table is None else table.find(type(x))
        if added is not None:  # a type that user code has added
            new = added.func(self, x) if added.takes_self else added.func(x)
            return retain(new, x, added.returns)
        return retain(self.apply(x, params), x) if isinstance(x, self.supports) else x
