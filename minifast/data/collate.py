"""A batch from its job to its tensors: the room for its pictures, its samples collated, each tensor one block."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from fastcore.foundation import L
from torch import Tensor
from torch.utils.data import default_collate, default_convert, get_worker_info

from minifast.codetext import keyed
from minifast.markers import plain, retain_type, unmarked
from minifast.torch_core import apply

__all__ = ['BatchRequest', 'FetchedBatch', 'SkipItemException', 'Slots', 'Target', 'collate_error',
           'fa_collate', 'fa_convert', 'new_block', 'new_pixels']


class SkipItemException(Exception):
    """Raise it while an item is made to leave the item out of its batch."""


class BatchRequest(NamedTuple):
    """One batch to be made.

    Attributes:
        number: which batch of the pass.
        seed: of everything random about the batch as a whole.
        pairs: (index, seed) of each item; the seed is None where nothing draws.
    """

    number: int
    seed: int
    pairs: list


class FetchedBatch:
    """A batch as a worker hands it over.

    Attributes:
        number: which batch of the pass.
        data: the collated batch, None where every item was left out.
        skipped: (index, item, message) of each item left out because of an error.
        ended: the data ended in this batch, where they do not say their number.
        seeds: of each sample in it, as `BatchRequest` has them.
        reader: of a stream: the number of the worker, its batches up to this one, and what its library says of its
            place behind it; None: no batch, but a worker's waiting for its turn.
    """

    reader: tuple[int, int, Any] | None = None

    def __init__(self, number: int, data: Any, skipped: list[Any] | None = None, ended: bool = False,
                 seeds: Sequence[int | None] = ()) -> None:
        self.number, self.data, self.skipped, self.ended, self.seeds = number, data, skipped or [], ended, seeds

    def pin_memory(self) -> FetchedBatch:
        """Called by torch in its pinning thread; its own way would lose the marker types."""
        self.data = apply(_pinned, self.data)
        return self


def _pinned(o: Any) -> Any:
    return retain_type(o.pin_memory(), o) if isinstance(o, Tensor) and o.device.type == 'cpu' else o


# ---------------------------------------------------------------- where the pixels of its items go

def new_block(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Fresh memory for a batch; in a worker process such as the loader's process sees without a copy.

    Args:
        shape: of the batch, its items first.
        dtype: of its numbers.
    """
    if get_worker_info() is None:
        return torch.empty(*shape, dtype=dtype)
    made = torch.empty(0, dtype=dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    return made.set_(torch.UntypedStorage._new_shared(size, device='cpu'), 0, tuple(shape))


class Slots:
    """Room for the pictures of a batch, one after the other; the first one says how large they are.

    Args:
        n: how many items the batch has.
    """

    def __init__(self, n: int) -> None:
        self.n, self.used, self.block, self.places = n, 0, None, None

    def take(self, shape: tuple[int, ...]) -> np.ndarray | None:
        """The next place for uint8 [C,H,W] of this `shape`, None where it is of another size or all are taken."""
        if self.block is None:
            self.block = new_block((self.n, *shape), torch.uint8)
            self.places = self.block.numpy()
        if self.used == self.n or self.places.shape[1:] != shape:
            return None
        self.used += 1
        return self.places[self.used - 1]

    def filled_by(self, tensors: Sequence[Tensor]) -> Tensor | None:
        """The batch [N,C,H,W] where `tensors` are what lies in its places one after the other, else None."""
        block, first = self.block, tensors[0]
        if block is None or first.dtype != block.dtype or len(tensors) > self.n:
            return None
        start, step, shape = block.data_ptr(), block[0].numel(), block.shape[1:]
        for i, t in enumerate(tensors):
            if t.data_ptr() != start + i * step or t.shape != shape or not t.is_contiguous():
                return None
        return block[:len(tensors)]


def new_pixels(shape: tuple[int, int, int], slots: Slots | None = None) -> np.ndarray:
    """Memory for a picture, uint8 [C,H,W] of this `shape`: its place in `slots`, if there are any."""
    place = None if slots is None else slots.take(shape)
    return np.empty(shape, np.uint8) if place is None else place


class Target(NamedTuple):
    """What a loader hands to transforms whose `encodes` has an argument `target`: where the item that they make goes.

    Who has one works for a loader, and may leave work for the transforms behind, as whatever goes wrong with it still
    belongs to that item.

    Attributes:
        slots: room for the item's pixels in its batch.
        opened: where opened pictures are kept.
    """

    slots: Slots | None = None
    opened: Any = None


# ---------------------------------------------------------------- from samples to a batch

def _block(tensors: Sequence[Tensor], slots: Slots | None) -> Tensor:
    """Stacked in one new block, in a worker process in memory that the loader's process sees without a copy."""
    first = tensors[0]
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
def fa_collate(t: Sequence[Any], slots: Slots | None = None) -> Any:
    """A list of samples as one batch: tensors, arrays and numbers stacked, containers gone into, text listed.

    Args:
        t: the samples.
        slots: room that pictures may lie in already.

    Marker types are those of the first sample. Samples of a type torch knows how to collate
    (`torch.utils.data._utils.collate.default_collate_fn_map`) are left to torch.

    Raises:
        TypeError: there is something that cannot be stacked, such as a picture that is no tensor yet.
        RuntimeError: tensors of different sizes.
    """
    first = t[0]
    if isinstance(first, Tensor):
        return retain_type(_block(t, slots), first)
    if isinstance(first, np.ndarray) and first.dtype.kind not in 'SUO':
        return _block([torch.from_numpy(np.ascontiguousarray(o)) for o in t], slots)
    if isinstance(first, (str, bytes)):
        return list(t)
    if isinstance(first, Mapping):
        return type(first)({key: fa_collate([o[key] for o in t], slots) for key in first})
    if isinstance(first, (Sequence, L)):
        if any(len(o) != len(first) for o in t):
            raise TypeError(f'samples of different lengths cannot form a batch: {sorted({len(o) for o in t})} elements')
        parts = [fa_collate(list(part), slots) for part in zip(*t)]
        return type(first)(*parts) if hasattr(first, '_fields') else type(first)(parts)
    try:
        return default_collate(list(t))
    except TypeError as error:
        raise TypeError(f'{type(first).__name__} cannot form a batch: let item_tfms turn it into a tensor '
                        '(ToTensor for pictures), or give create_batch=') from error


@keyed
def fa_convert(t: Any) -> Any:
    """The ready batch `t` with its arrays and numbers as tensors."""
    if isinstance(t, (np.ndarray, Tensor, str, Mapping)):
        return t if isinstance(t, Tensor) else default_convert(t)
    if isinstance(t, Sequence):
        parts = [fa_convert(o) for o in t]
        return type(t)(*parts) if hasattr(t, '_fields') else type(t)(parts)
    return default_convert(t)


def collate_error(error: Exception, samples: Sequence[Any], names: Sequence[str] | None = None) -> Exception:
    """`error` with a note of which samples do not fit together, and what to do, where that is what went wrong.

    Args:
        error: what was raised.
        samples: the samples that were to be a batch.
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
                return add_note(error, f'element {place} ({type(part).__name__}) has shape {_size(shape)} in {a} and '
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


def add_note(error: BaseException, note: str) -> BaseException:
    """`error` with a note under its message; in Python 3.10, which has no notes, behind its message."""
    if hasattr(error, 'add_note'):
        error.add_note(note)
    elif error.args and isinstance(error.args[0], str):
        error.args = (f'{error.args[0]}\n{note}', *error.args[1:])
    return error
