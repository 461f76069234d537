"""Nested values: lists, tuples, dicts and dataclasses of tensors, walked and mapped, joined and taken apart."""
from __future__ import annotations

import copy
import dataclasses
from collections import UserDict
from collections.abc import Callable, Iterator
from types import GeneratorType
from typing import Any

import torch
from fastcore.foundation import L
from torch import Tensor

from minifast.markers import plain, retain_type

__all__ = ['apply', 'as_tuple', 'batch_to_samples', 'concat', 'detuplify', 'fields_of', 'find_bs', 'get_first',
           'is_listy', 'item_find', 'leaves_of', 'nested_reorder', 'to_concat', 'tree_map']


_LISTS = (list, tuple, L)


def is_listy(x: Any) -> bool:
    """Whether `x` is a list, tuple, L, slice or generator. Fastcore's asks `typing`, at microseconds a leaf."""
    return isinstance(x, (list, tuple, L, slice, GeneratorType))


def fields_of(x: Any) -> dict[str, Any] | None:
    """What a dict (`UserDict` too) or a dataclass holds by name, without fields of None; None for anything else."""
    if isinstance(x, Tensor) or type(x) in (tuple, list):
        return None  # at once: asked of each part of each batch
    if isinstance(x, (dict, UserDict)):
        return dict(x)
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        found = {field.name: getattr(x, field.name, None) for field in dataclasses.fields(x)}
        return {name: value for name, value in found.items() if value is not None}
    return None


def _with_fields(x: Any, values: dict[str, Any]) -> Any:
    """A copy of a dict or dataclass with other values: a library's own class of outputs stays what it is."""
    made = copy.copy(x)
    for name, value in values.items():
        if isinstance(x, (dict, UserDict)):
            made[name] = value
        else:
            object.__setattr__(made, name, value)  # frozen ones too
    return made


def as_tuple(x: Any) -> tuple:
    """The elements of a list or tuple; anything else is the only one."""
    return tuple(x) if is_listy(x) else (x,)


def leaves_of(x: Any) -> Iterator[Any]:
    """The leaves of nested lists, tuples, L, dicts and dataclasses, in the order in which `tree_map` comes to them."""
    named = fields_of(x)
    if named is not None or isinstance(x, _LISTS):
        for part in x if named is None else named.values():
            yield from leaves_of(part)
    else:
        yield x


def tree_map(func: Callable, x: Any, *others: Any) -> Any:
    """`func` of each leaf of `x` and of those in its place in `others`, in containers of the types of `x`'s.

    Containers are lists, tuples, L, dicts and dataclasses; what is none, None too, is a leaf.

    Raises:
        ValueError: a list of `others` is not as long.
        KeyError: a dict of `others` lacks a name.
    """
    if isinstance(x, Tensor):
        return func(x, *others)
    named = fields_of(x)
    if named is not None:
        others = [fields_of(o) for o in others]
        mapped = {k: tree_map(func, v, *[o[k] for o in others]) for k, v in named.items()}
        return mapped if type(x) is dict else _with_fields(x, mapped)
    if isinstance(x, _LISTS):
        mapped = [tree_map(func, *parts) for parts in zip(x, *others, strict=True)]
        return type(x)(*mapped) if hasattr(x, '_fields') else type(x)(mapped)
    return func(x, *others)


def apply(func: Callable, x: Any, *args: Any, **kwargs: Any) -> Any:
    """`tree_map` of `func(leaf, *args, **kwargs)` over the leaves of `x`."""
    return tree_map(lambda leaf: func(leaf, *args, **kwargs), x)


def to_concat(xs: list, dim: int = 0) -> Any:
    """A list of equally nested tensors concatenated along `dim`; what cannot be comes back as one flat list."""
    return tree_map(lambda *parts: _joined(parts, dim), *xs) if xs else xs


def _joined(xs: tuple, dim: int) -> Any:
    first = xs[0]
    if not isinstance(first, Tensor):
        return [o for x in xs for o in as_tuple(x)]
    if first.ndim == 0:
        return retain_type(torch.stack([plain(x) for x in xs]), first)
    if any(x.shape[1:] != first.shape[1:] for x in xs) and dim == 0:
        return L(o for x in xs for o in x)
    return retain_type(torch.cat([plain(x) for x in xs], dim=dim), first)


def item_find(x: Any, idx: int = 0) -> Any:
    """The `idx`-th leaf found by walking down the first elements of a nested structure."""
    while not isinstance(x, Tensor):
        named = fields_of(x)
        parts = x if named is None else list(named.values())
        if not is_listy(parts):
            break
        if len(parts) == 0:
            return None
        x = parts[idx]
    return x


def find_bs(b: Any) -> int:
    """The length of the first tensor in a nested batch."""
    found = b[0] if type(b) is tuple and b else b
    found = plain(found if isinstance(found, Tensor) else item_find(found))
    return found.shape[0] if isinstance(found, Tensor) and found.ndim else len(found)


def concat(*parts: Any) -> list:
    """The elements of all lists in one list."""
    return [o for part in parts for o in part]


def batch_to_samples(b: Any, max_n: int = 10) -> Any:
    """Turn a batch of stacked tensors into a list of its first `max_n` samples."""
    if isinstance(b, Tensor):
        return [retain_type(o, b) for o in plain(b)[:max_n]]
    return L(batch_to_samples(part, max_n) for part in b).zip()


def detuplify(x: Any) -> Any:
    """The only element of a tuple of one, None for an empty one, anything else as it is."""
    if isinstance(x, (tuple, list)) and len(x) < 2:
        return x[0] if x else None
    return x


def nested_reorder(t: Any, idxs: Any) -> Any:
    """Every tensor or L of a nested structure indexed by `idxs`."""
    if isinstance(t, (Tensor, L)):
        return t[idxs]
    return type(t)(nested_reorder(o, idxs) for o in t) if is_listy(t) else t


def get_first(c: Any) -> Any:
    """The first element of a container, the object itself where it is none."""
    return c[0] if is_listy(c) else c
