"""From a list of samples to one batch: each tensor of the batch is one contiguous block."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from fastcore.foundation import L
from torch import Tensor
from torch.utils.data import default_collate, default_convert, get_worker_info

from minifast.data.slots import making, new_block
from minifast.data.transform import keyed
from minifast.markers import plain, retain_type, unmarked

__all__ = ['SkipItemException', 'collate_error', 'fa_collate', 'fa_convert']


class SkipItemException(Exception):
    """Raise it while an item is made to leave the item out of its batch."""


def _block(tensors: Sequence[Tensor]) -> Tensor:
    """Stacked in one new block, in a worker process in memory that the loader's process sees without a copy."""
    first, slots = tensors[0], getattr(making, 'slots', None)
    if slots is not None:
        with unmarked():
            filled = slots.filled_by(tensors)
        if filled is not None:
            return filled
    tensors = [plain(t) for t in tensors]
    if get_worker_info() is None or first.device.type != 'cpu' or first.layout != torch.strided:
        return torch.stack(tensors)
    if any(t.shape != first.shape for t in tensors):
        return torch.stack(tensors)  # raises
    return torch.stack(tensors, out=new_block((len(tensors), *first.shape), first.dtype))


@keyed
def fa_collate(t: Sequence) -> Any:
    """A list of samples as one batch: tensors, arrays and numbers stacked, containers gone into, text listed.

    Marker types are those of the first sample. Samples of a type torch knows how to collate
    (`torch.utils.data._utils.collate.default_collate_fn_map`) are left to torch.

    Raises:
        TypeError: there is something that cannot be stacked, such as a picture that is no tensor yet.
        RuntimeError: tensors of different sizes.
    """
    first = t[0]
    if isinstance(first, Tensor):
        return retain_type(_block(t), first)
    if isinstance(first, np.ndarray) and first.dtype.kind not in 'SUO':
        return _block([torch.from_numpy(np.ascontiguousarray(o)) for o in t])
    if isinstance(first, (str, bytes)):
        return list(t)
    if isinstance(first, Mapping):
        return type(first)({key: fa_collate([o[key] for o in t]) for key in first})
    if isinstance(first, (Sequence, L)):
        if any(len(o) != len(first) for o in t):
            raise TypeError(f'samples of different lengths cannot form a batch: {sorted({len(o) for o in t})} elements')
        parts = [fa_collate(list(part)) for part in zip(*t)]
        return type(first)(*parts) if hasattr(first, '_fields') else type(first)(parts)
    try:
        return default_collate(list(t))
    except TypeError as error:
        raise TypeError(f'{type(first).__name__} cannot form a batch: let item_tfms turn it into a tensor '
                        '(ToTensor for pictures), or give create_batch=') from error


@keyed
def fa_convert(t: Any) -> Any:
    """One ready batch with its arrays and numbers as tensors."""
    if isinstance(t, (np.ndarray, Tensor, str, Mapping)):
        return t if isinstance(t, Tensor) else default_convert(t)
    if isinstance(t, Sequence):
        parts = [fa_convert(o) for o in t]
        return type(t)(*parts) if hasattr(t, '_fields') else type(t)(parts)
    return default_convert(t)


def collate_error(error: Exception, samples: Sequence, names: Sequence[str] | None = None) -> Exception:
    """`error` with a note of which samples do not fit together, and what to do, where that is what went wrong.

    Args:
        names: what each sample is called in the message.
    """
    if 'equal size' not in str(error):  # torch's words for tensors that cannot be stacked
        return error
    first = samples[0]
    if not isinstance(first, (tuple, list)):
        first, samples = (first,), [(o,) for o in samples]
    for place, part in enumerate(first):
        for number, sample in enumerate(samples):
            if len(sample) <= place:
                continue
            shape, other = getattr(part, 'shape', None), getattr(sample[place], 'shape', None)
            if shape != other:
                a, b = (names[0], names[number]) if names else ('sample 0', f'sample {number}')
                return noted(error, f'element {place} ({type(part).__name__}) has shape {_size(shape)} in {a} and '
                                    f'{_size(other)} in {b}: {_way_out(part)}')
    return error


def _way_out(part: Any) -> str:
    own = getattr(type(part), 'unlike_sizes', None)
    if own is not None:
        return own
    if getattr(part, 'ndim', 0) >= 2:
        return 'give an item transform that makes all the same size, such as item_tfms=Resize(224)'
    return ('a batch needs as many numbers of each item: let get_y give as many, or fill them up in before_batch= or '
            'create_batch= of the loaders')


def _size(shape: Any) -> str:
    return 'none' if shape is None else 'x'.join(map(str, shape)) or '[]'


def noted(error: BaseException, note: str) -> BaseException:
    """`error` with a note under its message; in Python 3.10, which has no notes, behind its message."""
    if hasattr(error, 'add_note'):
        error.add_note(note)
    elif error.args and isinstance(error.args[0], str):
        error.args = (f'{error.args[0]}\n{note}', *error.args[1:])
    return error
