"""Random generators and data of many types as plain data that a tensor file can hold, and back."""
from __future__ import annotations

import collections
import hashlib
import random
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from fastcore.foundation import L
from torch import Tensor, nn

__all__ = ['CONTAINERS', 'FIXED', 'GENERATORS', 'MAPPINGS', 'PLAIN', 'SEQUENCES', 'decode', 'digest', 'encode',
           'get_generator', 'is_generator', 'make_generator', 'restored', 'seed_generator', 'set_generator']


# ---------------------------------------------------------------- generators

GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, np.random.BitGenerator, random.Random)


def is_generator(x: Any) -> bool:
    """Whether `x` is a random generator with a state: torch's, numpy's (either kind, or its bits) or Python's."""
    return isinstance(x, GENERATORS) and not isinstance(x, random.SystemRandom)


def get_generator(g: Any) -> dict[str, Any]:
    """The state of the generator `g` as plain data."""
    if isinstance(g, torch.Generator):
        return {'kind': 'torch', 'device': str(g.device), 'state': g.get_state()}
    if isinstance(g, random.Random):
        return {'kind': 'python', 'state': encode(g.getstate())}
    if isinstance(g, np.random.RandomState):
        return {'kind': 'legacy', 'state': encode(g.get_state(legacy=False))}
    bits = g.bit_generator if isinstance(g, np.random.Generator) else g
    return {'kind': 'numpy' if bits is not g else 'bits', 'state': encode(bits.state)}


def set_generator(g: Any, found: dict[str, Any]) -> None:
    """Put `g` into the state that `get_generator` returned, `found`.

    Raises:
        ValueError, TypeError: it is the state of another kind of generator.
    """
    if isinstance(g, torch.Generator):
        g.set_state(found['state'])
        return
    state = decode(found['state'])
    if isinstance(g, random.Random):
        g.setstate(state)
    elif isinstance(g, np.random.RandomState):
        g.set_state(state)
    else:
        (g.bit_generator if isinstance(g, np.random.Generator) else g).state = state


def make_generator(found: dict[str, Any]) -> Any:
    """A new generator in the state that `get_generator` returned, `found`."""
    kind = found['kind']
    if kind in ('numpy', 'bits'):
        bits = getattr(np.random, decode(found['state'])['bit_generator'])()
        g = np.random.Generator(bits) if kind == 'numpy' else bits
    else:
        g = {'torch': lambda: torch.Generator(found.get('device', 'cpu')), 'python': random.Random,
             'legacy': np.random.RandomState}[kind]()
    set_generator(g, found)
    return g


def seed_generator(g: Any, seed: int) -> None:
    """Let a generator `g` of any kind begin anew from `seed`, 0 to 2**63."""
    if isinstance(g, torch.Generator):
        g.manual_seed(seed)
    elif isinstance(g, random.Random):
        g.seed(seed)
    elif isinstance(g, np.random.RandomState):
        g.seed(seed & 0xffffffff)
    else:
        bits = g.bit_generator if isinstance(g, np.random.Generator) else g
        bits.state = type(bits)(seed).state


# ---------------------------------------------------------------- data

PLAIN = (bool, int, float, complex, str, bytes, type(None))
FIXED = (torch.Size, torch.dtype, torch.device)
SEQUENCES = {list: 'list', tuple: 'tuple', L: 'L', set: 'set', frozenset: 'frozenset', collections.deque: 'deque'}
CONTAINERS = (*SEQUENCES, range, Tensor, np.ndarray)
MAPPINGS = (dict, collections.OrderedDict, collections.Counter, collections.defaultdict)


def encode(x: Any) -> Any:
    """The data `x` as a tensor file can hold it, so that `decode` gives the same types back. Tensors are not copied.

    Raises:
        TypeError: there is something in it that is no data.
    """
    if isinstance(x, bool) or x is None or type(x) in (float, str, bytes) or isinstance(x, FIXED):
        return x
    if type(x) is int:
        return x if -2 ** 63 <= x < 2 ** 63 else {'is': 'int', 'text': hex(x)}
    if type(x) is complex:
        return {'is': 'complex', 'parts': [x.real, x.imag]}
    if isinstance(x, nn.Parameter):
        raise TypeError('a parameter belongs to its model')
    if isinstance(x, Tensor):
        return x.detach().as_subclass(Tensor)
    if isinstance(x, (np.ndarray, np.generic)):
        return _encode_array(np.asarray(x), isinstance(x, np.generic))
    if isinstance(x, MAPPINGS):
        return {'is': 'dict', 'keys': [encode(k) for k in x], 'values': [encode(v) for v in x.values()]}
    kind = SEQUENCES.get(type(x)) or ('tuple' if isinstance(x, tuple) else None)
    if kind == 'list' and len(x) > 100 and len(types_in := set(map(type, x))) == 1 and types_in <= {int, float}:
        try:
            return {'is': 'numbers', 'values': torch.tensor(x, dtype=torch.int64 if int in types_in else torch.float64)}
        except (OverflowError, ValueError, RuntimeError):  # larger than 64 bits
            pass
    if kind is not None:
        values = [encode(v) for v in (sorted(x, key=repr) if kind in ('set', 'frozenset') else x)]
        return values if kind == 'list' else {'is': kind, 'values': values, 'most': getattr(x, 'maxlen', None)}
    if isinstance(x, PurePath):
        return {'is': 'path', 'text': str(x)}
    raise TypeError(f'a {type(x).__name__} is no data')


def _encode_array(x: np.ndarray, scalar: bool) -> Any:
    if x.dtype.kind not in 'biufcMmU':
        raise TypeError(f'an array of {x.dtype} is no data')
    if x.dtype.kind == 'U':
        values: Any = x.ravel().tolist()
    else:
        raw = np.ascontiguousarray(x).reshape(-1)
        values = torch.from_numpy(raw.view(np.uint8).copy())
    return {'is': 'array', 'values': values, 'dtype': x.dtype.str, 'shape': list(x.shape), 'scalar': scalar}


def decode(x: Any) -> Any:
    """What `encode` was given when it returned `x`; tensors are not copied."""
    if isinstance(x, list):
        return [decode(v) for v in x]
    if not isinstance(x, dict):
        return x
    kind = x['is']
    if kind == 'int':
        return int(x['text'], 16)
    if kind == 'complex':
        return complex(*x['parts'])
    if kind == 'dict':
        return {decode(k): decode(v) for k, v in zip(x['keys'], x['values'])}
    if kind == 'numbers':
        return x['values'].tolist()  # sync: none, on the host
    if kind == 'path':
        return Path(x['text'])
    if kind == 'array':
        values = x['values']
        array = np.array(values, x['dtype']) if isinstance(values, list) else values.numpy().view(x['dtype']).copy()
        array = array.reshape(x['shape'])
        return array[()] if x['scalar'] else array
    values = [decode(v) for v in x['values']]
    if kind == 'deque':
        return collections.deque(values, x['most'])
    return {'tuple': tuple, 'L': L, 'set': set, 'frozenset': frozenset}[kind](values)


def digest(encoded: Any) -> bytes:
    """A fingerprint of `encoded` data, by value."""
    h = hashlib.blake2b(digest_size=16)
    _feed(h, encoded)
    return h.digest()


def _feed(h: Any, x: Any) -> None:
    if isinstance(x, Tensor):
        h.update(f't{x.dtype}{tuple(x.shape)}'.encode())
        if x.layout is not torch.strided or x.is_quantized:
            h.update(repr(x).encode())
            return
        flat = x.detach().cpu().contiguous().reshape(-1)  # sync: a checkpoint is written
        h.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b'')
    elif isinstance(x, dict):
        h.update(b'{%d' % len(x))
        for k, v in x.items():
            h.update(repr(k).encode())
            _feed(h, v)
    elif isinstance(x, (list, tuple)):
        h.update(b'[%d' % len(x))
        for v in x:
            _feed(h, v)
    else:
        h.update(f'{type(x).__name__}{x!r};'.encode())


def restored(now: Any, value: Any) -> Any:
    """`value` in the place of `now`: into the same object where that can be, as others may hold it too."""
    if isinstance(now, Tensor) and isinstance(value, Tensor) and not now.is_inference():
        if now.shape == value.shape and now.dtype == value.dtype and now.is_leaf and now.layout is torch.strided:
            with torch.no_grad():
                now.copy_(value)
            return now
        return value.to(now.device)
    if isinstance(now, np.ndarray) and isinstance(value, np.ndarray) and now.flags.writeable:
        if now.shape == value.shape and now.dtype == value.dtype:
            now[...] = value
            return now
    if isinstance(now, dict) and isinstance(value, dict):
        merged = {k: restored(now.get(k), v) for k, v in value.items()}
        now.clear()
        now.update(merged)
        return now
    if isinstance(now, (list, L)) and type(now) is type(value):
        now[:] = [restored(now[i] if i < len(now) else None, v) for i, v in enumerate(value)]
        return now
    if isinstance(now, collections.deque) and isinstance(value, collections.deque):
        now.clear()
        now.extend(value)
        return now
    if type(now) is set and isinstance(value, set):
        now.clear()
        now.update(value)
        return now
    if isinstance(now, tuple) and hasattr(now, '_fields') and isinstance(value, tuple):
        return type(now)(*value)
    return value
