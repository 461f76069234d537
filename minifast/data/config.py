"""Transforms as data, and made again from it: what exports, caches and the identity of a run say of them."""
from __future__ import annotations

import enum
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
from torch import Tensor

from minifast.arguments import kept_arguments
from minifast.codetext import registered_as
from minifast.data.transform import TorchvisionTransform, Transform, mk_transform
from minifast.limits import TRANSFORM, Kind, check_arguments

__all__ = ['transform_config', 'transform_from_config']


def transform_config(tfm: Any) -> dict[str, Any]:
    """`tfm`, a transform of ours, as json-able data, from which `transform_from_config` makes it again.

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
    """The transform that `config` describes, as `transform_config` gave it.

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
