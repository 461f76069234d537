"""`Pipeline`: transforms in order, torchvision's among them; which are under control; and transforms as data."""
from __future__ import annotations

import enum
import functools
import inspect
import operator
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from fastcore.basics import camel2snake, noop
from fastcore.foundation import L
from PIL import Image
from torch import Tensor

from minifast import markers
from minifast.arguments import kept_arguments, lookup
from minifast.data.transform import (DisplayedTransform, InplaceTransform, ItemTransform, Overloads, RandTransform,
                                     Step, Transform, dispatch, is_declared, is_sample, keyed, registered,
                                     registered_as, retain, typedispatch)
from minifast.limits import TRANSFORM, Kind, check_arguments
from minifast.markers import TensorBase, TensorImage, TensorImageBase, TensorMask, plain, retain_type
from minifast.torch_core import one_hot, to_cpu, to_device, to_float, to_half, to_np

__all__ = ['DisplayedTransform', 'InplaceTransform', 'ItemTransform', 'Overloads', 'Pipeline', 'RandTransform',
           'Transform', 'compose_tfms', 'dispatch', 'gather_attrs', 'is_known', 'keyed', 'mk_transform', 'retain',
           'transform_config', 'transform_from_config', 'typedispatch']


class Pipeline:
    """Transforms applied one after the other, sorted by `order`; indexes and iterates like a list of them.

    An attribute that it does not have is looked for on its transforms: `pipeline.vocab`; and each transform is an
    attribute under its snake-case class name: `pipeline.categorize`.

    Args:
        funcs: one or several transforms, functions or transform types; another pipeline's are shared.
        split_idx: 0 in training, 1 in validation: transforms with another `split_idx` of their own are left out.
        as_item: True hands samples (tuples) to the transforms as a whole.
    """

    def __init__(self, funcs: Any = None, split_idx: int | None = None, as_item: bool | None = None) -> None:
        self.split_idx, self.as_item = split_idx, as_item
        if isinstance(funcs, Pipeline):
            self.fs = L(funcs.fs)
        else:
            funcs = [] if funcs is None else funcs if isinstance(funcs, (list, tuple, L)) else [funcs]
            self.fs = L(_in_order(mk_transform(f) for f in funcs))

    def setup(self, items: Any = None, train_setup: bool = False) -> None:
        """Set up each transform with the items as those before it leave them."""
        tfms, self.fs = list(self.fs), L()
        try:
            for done, tfm in enumerate(tfms):
                self.add(tfm, items, train_setup)
        except Exception:
            self.fs = L(tfms)
            raise

    def add(self, ts: Any, items: Any = None, train_setup: bool = False) -> None:
        """Set up one or several transforms with `items` and put them where their `order` says."""
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
            return (Step(functools.partial(self, split_idx=self.split_idx), ('generator',) * self.takes_generator),)
        steps = (f.step(self.split_idx) if isinstance(f, Transform) else
                 Step(functools.partial(f, split_idx=self.split_idx), ('generator',) * f.takes_generator)
                 for f in self.fs)
        return tuple(step for step in steps if step is not None)

    def decode(self, o: Any, full: bool = True, split_idx: int | None = None) -> Any:
        """Undo the transforms, last first; unless `full`, only as far as it takes until `o` can show itself."""
        split_idx = self.split_idx if split_idx is None else split_idx
        for f in reversed(self.fs):
            if not full and _is_showable(o):
                return o
            o = f.decode(o, split_idx=split_idx)
        return o

    def show(self, o: Any, ctx: Any = None, **kwargs: Any) -> Any:
        """Decode `o` until it can show itself and show it in `ctx`."""
        o = self.decode(o, full=False)
        for part in [o] if hasattr(o, 'show') or not is_sample(o) else o:
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
    return hasattr(o, 'show') or (is_sample(o) and all(hasattr(part, 'show') for part in o))


def compose_tfms(x: Any, tfms: Iterable, is_enc: bool = True, reverse: bool = False, **kwargs: Any) -> Any:
    """Apply all transforms to `x`, in reverse order if `reverse`, their decodes unless `is_enc`."""
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
        parts = tuple(x) if is_sample(x) else (x,)
        seen = [_as_torchvision(part, parts) for part in parts]
        new = self.tfm(tuple(seen)) if len(seen) > 1 else (self.tfm(seen[0]),)
        new = tuple(_as_ours(n, part) for n, part in zip(new, parts))
        return new if is_sample(x) else new[0]

    def decode(self, x: Any, **kwargs: Any) -> Any:
        """Nothing is undone."""
        return x

    def _pictures(self, x: Any) -> Any:
        if is_sample(x):
            return tuple(self._pictures(part) for part in x)
        if isinstance(x, TensorImageBase):
            return _as_ours(self.tfm(plain(x)), x)
        return _as_ours(self.tfm(x), x) if isinstance(x, Image.Image) else x

    def __repr__(self) -> str:
        return repr(self.tfm)


def _picture_size(parts: tuple) -> tuple[int, int]:
    """(height, width) of the picture of a sample or batch."""
    for part in parts:
        if isinstance(part, Image.Image):
            return part.size[1], part.size[0]
        if isinstance(part, TensorImageBase):
            return tuple(part.shape[-2:])
    raise TypeError('boxes and points are moved with a picture, and the sample has none')


def _as_torchvision(part: Any, parts: tuple) -> Any:
    from torchvision import tv_tensors
    if isinstance(part, TensorMask):
        return tv_tensors.Mask(plain(part))
    if isinstance(part, TensorImageBase):
        return tv_tensors.Image(plain(part))
    if isinstance(part, Image.Image) and issubclass(getattr(part, '_tensor_cls', object), TensorMask):
        return tv_tensors.Mask(plain(part.to_tensor()))
    kind = getattr(part, 'torchvision_kind', None)
    if kind is None:
        return plain(part) if isinstance(part, Tensor) else part
    size = _picture_size(parts)
    if part.ndim == 3:  # a batch, in -1..1
        scale = plain(part).new_tensor([size[1], size[0]]).repeat(part.shape[-1] // 2)
        flat = ((plain(part) + 1) / 2 * scale).flatten(0, 1)
    else:
        flat = plain(part)
    if kind == 'KeyPoints':
        return tv_tensors.KeyPoints(flat, canvas_size=size)
    return tv_tensors.BoundingBoxes(flat, format='XYXY', canvas_size=size)


def _as_ours(new: Any, old: Any) -> Any:
    """What torchvision returned, as the class of what it was given."""
    if not isinstance(new, Tensor):
        return retain(new, old)
    x = new.as_subclass(Tensor)
    if getattr(old, 'torchvision_kind', None) is not None:
        h, w = new.canvas_size
        if old.ndim == 3:
            x = (x * 2 / x.new_tensor([w, h]).repeat(x.shape[-1] // 2) - 1).view(*old.shape[:2], -1)
        made = x.as_subclass(type(old))
        made.__dict__.update({**old.__dict__, 'img_size': (w, h)})
        return made
    if isinstance(old, TensorBase):
        return retain_type(x, old)
    if isinstance(old, Image.Image):
        return x.as_subclass(getattr(old, '_tensor_cls', TensorImage))
    return x


# ---------------------------------------------------------------- whose randomness is under control

for _marker in vars(markers).values():  # they lie on the ground floor, which knows nothing of files of transforms
    if isinstance(_marker, type) and issubclass(_marker, markers.TensorBase):
        registered(_marker)

_harmless = (str, int, float, bool, len, tuple, list, set, repr, noop, operator.itemgetter, operator.attrgetter,
             operator.methodcaller, pathlib.Path, pathlib.PurePath, pathlib.PosixPath, pathlib.WindowsPath,
             pathlib.PurePosixPath, pathlib.PureWindowsPath, markers.tensor, markers.array,
             markers.plain, markers.cast, to_cpu, to_device, to_float, to_half, to_np, one_hot)
"""Of Python and of the floors below: what draws nothing, called itself or, of a class, by its instances."""
_methods = tuple(f for cls in (pathlib.PurePath, pathlib.Path, markers.TensorBase) for name in dir(cls)
                 if inspect.isfunction(f := getattr(getattr(cls, name), '__func__', getattr(cls, name))))


def is_known(tfm: Any) -> bool:
    """Whether a transform draws from no global generator, as it or its class says (`Transform.keyed`).

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
    if isinstance(tfm, functools.partial):
        return all(is_known(o) for o in (tfm.func, *tfm.args, *tfm.keywords.values()) if callable(o))
    f = getattr(tfm, '__func__', tfm)
    return any(is_declared(o) or any(o is known for known in (*_harmless, *_methods)) for o in (f, type(f)))


# ---------------------------------------------------------------- transforms as data

def transform_config(tfm: Any) -> dict[str, Any]:
    """A transform of ours as json-able data, from which `transform_from_config` makes it again.

    `{'class': name, 'kwargs': constructor arguments}`; a transform that others were composed into has `parts`
    instead; a wrapped function or class method of ours is `{'function': name}`.

    Raises:
        TypeError: it is user code, or holds a value that is not data.
    """
    if isinstance(tfm, Transform) and type(tfm) is Transform and '_name' in vars(tfm):
        funcs = [entry.func for entry in tfm.encodes.entries]
        if len(funcs) != 1:
            raise TypeError(f'{tfm!r} is made of {len(funcs)} functions: make it a Transform class to export it')
        return {'function': _name_in_files(funcs[0])}
    if not isinstance(tfm, Transform) or isinstance(tfm, TorchvisionTransform):
        return {'function': _name_in_files(getattr(tfm, 'tfm', tfm))}
    parts = getattr(tfm, 'parts', [tfm])
    if len(parts) > 1:
        return {'class': _name_in_files(type(tfm)), 'parts': [transform_config(part) for part in parts]}
    kwargs = tfm.config_kwargs() if hasattr(tfm, 'config_kwargs') else _constructor_kwargs(tfm)
    kwargs = {name: _as_data(value, tfm) for name, value in kwargs.items()}
    return {'class': _name_in_files(type(tfm)), 'kwargs': kwargs}


def transform_from_config(config: Mapping[str, Any]) -> Any:
    """The transform that `transform_config` described.

    A name is looked for among what was registered: nothing is imported to decide about it.

    Raises:
        ValueError: the name is none of a transform of ours; an argument is of another kind than it may be; nothing is
            called then.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f'{config!r} describes no transform')
    if 'function' in config:
        return mk_transform(_function(config['function']))
    cls = named_in_file(config['class'])
    if not (isinstance(cls, type) and issubclass(cls, Transform)):
        raise ValueError(f'{config["class"]!r} is no transform of minifast that is loaded '
                         '(`import minifast.vision.all` loads all of them)')
    if 'parts' not in config:
        check_arguments(config['kwargs'], TRANSFORM, Kind())
        return cls(**config['kwargs'])
    parts = config['parts']
    if not isinstance(parts, list) or not 0 < len(parts) <= 100 or any('parts' in part for part in parts):
        raise ValueError('its parts are no list of single transforms')
    parts = [transform_from_config(part) for part in parts]
    total = cls.__new__(cls)
    total.__dict__.update(vars(parts[0]))
    for part in parts[1:]:
        total.compose(part)
    return total


def _constructor_kwargs(tfm: Any) -> dict[str, Any]:
    """The constructor's arguments that are kept as attributes, where they differ from the default."""
    parameters = inspect.signature(type(tfm).__init__).parameters
    return {k: v for k, v in kept_arguments(tfm).items() if not _same(v, parameters[k].default)}


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, (Tensor, np.ndarray)) or isinstance(b, (Tensor, np.ndarray)):
        return a is b
    return type(a) is type(b) and a == b


def _name_in_files(o: Any) -> str:
    """What files call a registered class, function, or class method `create` of a registered class."""
    owner = getattr(o, '__self__', None)
    found, name = (owner, f'{owner.__name__}.{o.__name__}') if isinstance(owner, type) else (o, _plain_name(o))
    known = registered_as(name.partition('.')[0])
    if known is None or (known is not found and known is not type(found)):
        raise TypeError(f'{getattr(o, "__module__", "?")}.{getattr(o, "__qualname__", type(o).__name__)} is code of '
                        'your own, and exports hold data only: it has to be given again when the export is loaded')
    return f'minifast.{name}'


def _plain_name(o: Any) -> str:
    return getattr(o, '__name__', type(o).__name__)


_FILE_NAME = re.compile(r'minifast\.(?:(?:data|vision)\.(?!all\.)[a-z_]+\.|markers\.)?([A-Za-z]\w*(?:\.create)?)')
"""`minifast.Flip`; files of before names were all that counts have the room too, which may be another one now."""


def named_in_file(name: Any) -> Any:
    """What a name that stands in a file means, None where that is nothing of ours that was registered.

    Nothing is imported to decide about it, and no module is asked.

    Args:
        name: of whatever type the file says.
    """
    found = _FILE_NAME.fullmatch(name) if isinstance(name, str) else None
    owner, _, method = found[1].partition('.') if found else ('', '', '')
    known = registered_as(owner)
    if not method:
        return known
    is_opener = isinstance(known, type) and isinstance(inspect.getattr_static(known, method, None), classmethod)
    return getattr(known, method) if is_opener else None


def _function(name: Any) -> Callable:
    """The function of ours that a file may have called on items: a registered one, or what opens a thing."""
    found = named_in_file(name)
    if found is None or (isinstance(found, type) and (issubclass(found, Transform) or hasattr(found, 'create'))):
        raise ValueError(f'{name!r} is no function of minifast for items')
    return found


def _as_data(value: Any, tfm: Any) -> Any:
    """`value` as what json holds."""
    if isinstance(value, enum.Enum):
        return _as_data(value.value, tfm)
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, (str, PurePath)):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): _as_data(v, tfm) for k, v in value.items()}
    if isinstance(value, Transform):
        return transform_config(value)
    if isinstance(value, Iterable) and not isinstance(value, Callable):
        return [_as_data(v, tfm) for v in value]
    raise TypeError(f'{type(tfm).__name__} was made with {value!r}, which cannot be written as data')
