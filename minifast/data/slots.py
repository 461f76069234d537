"""Where the pixels of an item go while its batch is made: straight to their place in the batch."""
from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

__all__ = ['Slots', 'making', 'new_block', 'new_pixels']

making = threading.local()
"""`making.item` is true in a thread while it makes an item of a batch: what opens files may then leave work for the
transforms behind it, as whatever goes wrong with it still belongs to that item. `making.slots` are the batch's,
`making.cached` is where opened pictures are kept."""


def new_block(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Fresh memory for a batch; in a worker process memory that the loader's process sees without a copy."""
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
        """The next place for uint8 [C,H,W], None where it is none of this size or all are taken."""
        if self.block is None:
            self.block = new_block((self.n, *shape), torch.uint8)
            self.places = self.block.numpy()
        if self.used == self.n or self.places.shape[1:] != shape:
            return None
        self.used += 1
        return self.places[self.used - 1]

    def filled_by(self, tensors: Sequence[Tensor]) -> Tensor | None:
        """The batch [N,C,H,W] where these tensors are what lies in its places one after the other, else None."""
        block, first = self.block, tensors[0]
        if block is None or first.dtype != block.dtype or len(tensors) > self.n:
            return None
        start, step, shape = block.data_ptr(), block[0].numel(), block.shape[1:]
        for i, t in enumerate(tensors):
            if t.data_ptr() != start + i * step or t.shape != shape or not t.is_contiguous():
                return None
        return block[:len(tensors)]


def new_pixels(shape: tuple[int, int, int]) -> np.ndarray:
    """Memory for a picture, uint8 [C,H,W]: its place in the batch that this thread is making, if there is one."""
    slots = getattr(making, 'slots', None)
    place = None if slots is None else slots.take(shape)
    return np.empty(shape, np.uint8) if place is None else place
