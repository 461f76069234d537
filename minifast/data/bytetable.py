"""Transforms of single bytes of pictures as one table: worked out for 256 values, looked up for all pixels."""
from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minifast.data.pipeline import Pipeline
from minifast.data.transform import Transform, keyed
from minifast.hardware import keep_freed_memory
from minifast.markers import TensorImage, plain, retain_type
from minifast.torch_core import tree_map

__all__ = ['ByteTable', 'opencv']


@cache
def opencv() -> ModuleType | None:
    """OpenCV, None where it has no wheel for this machine."""
    try:
        import cv2
    except ImportError:
        return None
    return cv2


@keyed
class ByteTable(Transform):
    """Transforms that treat each value of a channel alike, in one pass over the bytes: the same numbers, sooner.

    A batch is exchanged for one whose pictures hold each byte once; what the transforms make of that is the table.

    Args:
        tfms: in their order; the first one makes floats.
    """

    def __init__(self, tfms: Any) -> None:
        super().__init__()
        self.tfms = Pipeline()
        self.tfms.fs += tfms  # in this order, whatever theirs says

    @property
    def name(self) -> str:
        """What the transforms are called."""
        return self.tfms.name

    @property
    def takes_generator(self) -> bool:
        """Whether a generator may be handed to it."""
        return self.tfms.takes_generator

    def __call__(self, b: Any, split_idx: int | None = None, generator: torch.Generator | None = None) -> Any:
        if opencv() is None:
            return self.tfms(b, split_idx=split_idx, generator=generator)
        keep_freed_memory()  # the floats of a batch are the largest piece of memory that comes and goes
        return tree_map(_looked_up, b, self.tfms(tree_map(_probe, b), split_idx=split_idx, generator=generator))


def _is_bytes(x: Any) -> bool:
    marked, x = isinstance(x, TensorImage), plain(x)
    return marked and x.dtype == torch.uint8 and x.ndim == 4 and x.device.type == 'cpu'


def _probe(x: Any) -> Any:
    """In place of pictures others of 16x16 pixels that hold the values 0..255."""
    if not _is_bytes(x):
        return x
    return retain_type(torch.arange(256, dtype=torch.uint8).view(16, 16).repeat(*x.shape[:2], 1, 1), x)


def _looked_up(x: Any, made: Any) -> Any:
    """`made` from a probe of `x`, as large as `x` where that is pictures."""
    return retain_type(_look_up(plain(x), plain(made).flatten(2)), made) if _is_bytes(x) else made


def _look_up(x: Tensor, table: Tensor) -> Tensor:
    """uint8 [B,C,H,W] exchanged for what the table [B,C,256] says, in the same memory format.

    Of one channel (C = 1) the table may make several: statistics of three channels make a grey picture three.
    """
    if not x.is_contiguous():
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        x = x.contiguous()
        return _look_up(x, table).contiguous(memory_format=torch.channels_last if channels_last else
                                             torch.contiguous_format)
    cv2, made = opencv(), np.empty((*table.shape[:2], *x.shape[2:]), table.numpy().dtype)
    planes_of = x.expand(-1, table.shape[1], -1, -1).numpy()
    for planes, rows, targets in zip(planes_of, table.contiguous().numpy(), made):
        for plane, row, target in zip(planes, rows, targets):
            cv2.LUT(plane, row, dst=target)
    return torch.from_numpy(made)
