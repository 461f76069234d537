"""Cropping, padding and resizing one sample: pictures, masks, points and boxes together."""
from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from minifast.arguments import as_size
from minifast.data.bytetable import opencv
from minifast.markers import TensorImageBase, cast, plain
from minifast.vision.bytewarp import in_planes
from minifast.vision.core import BILINEAR, PILBase
from minifast.vision.decode import MIRROR, TURNS, ScaledPixels, Turn
from minifast.vision.points import TensorBBox, TensorPoint

__all__ = ['PadMode', 'ResizeMethod', 'as_wh', 'crop_pad', 'dihedral', 'flip_lr']


class PadMode:
    """What lies outside of a picture: 'zeros' (black), 'border' (the edge repeated), 'reflection' (mirrored)."""

    Zeros, Border, Reflection = 'zeros', 'border', 'reflection'


class ResizeMethod:
    """How a picture gets another aspect: 'squish' (stretched), 'crop' (cut), 'pad' (filled up)."""

    Squish, Crop, Pad = 'squish', 'crop', 'pad'


Box = tuple[int, int, int, int]
_PIXELS = 1 << 28
_pad_modes = {'zeros': 'constant', 'border': 'edge', 'reflection': 'reflect'}


def as_wh(size: int | tuple[int, int]) -> tuple[int, int]:
    """(width, height) of a size given as a side or as (height, width), see `as_size`."""
    return as_size(size)[::-1]


def crop_pad(x: Any, size: tuple[int, int], top_left: tuple[int, int], orig_size: tuple[int, int],
             pad_mode: str = PadMode.Zeros, resample: int = BILINEAR, resize_to: tuple[int, int] | None = None) -> Any:
    """Cut a window out of a picture, filling what lies outside, and resize it; points and boxes follow.

    Args:
        x: Pillow image, TensorPoint or TensorBBox (scaled to -1..1).
        size: (width, height) of the window.
        top_left: (left, top) of the window, may be negative.
        orig_size: (width, height) that `size` and `top_left` are measured in.
        pad_mode: one of `PadMode`.
        resample: Pillow's filter.
        resize_to: (width, height) of the result.

    Raises:
        ValueError: the window or the result has more than 2**28 pixels.
    """
    # a description that was read, or a picture of an odd shape: 'pad' makes a window as flat as the result is
    if max(size[0] * size[1], 0 if resize_to is None else resize_to[0] * resize_to[1]) > _PIXELS:
        raise ValueError(f'a picture of {orig_size} pixels (width, height) would become a window of {tuple(size)}, '
                         f'resized to {resize_to}: more than {_PIXELS:,} pixels are not made. Take a smaller size, or '
                         "another method than 'pad'")
    if isinstance(x, TensorPoint):
        return _crop_points(x, size, top_left, orig_size, resize_to)
    if not isinstance(x, Image.Image):
        raise TypeError(f'crop_pad takes pictures, points and boxes, not {type(x).__name__}')
    (left, top), to = top_left, tuple(size if resize_to is None else resize_to)
    box = (max(left, 0), max(top, 0), min(left + size[0], orig_size[0]), min(top + size[1], orig_size[1]))
    outside = (box[0] - left, box[1] - top, left + size[0] - box[2], top + size[1] - box[3])
    if any(outside):
        return _resize(x, _pad(_array_of(x)[box[1]:box[3], box[0]:box[2]], outside, pad_mode), resample, to)
    made = _crop_jpeg(x, box, to, resample) if isinstance(x, PILBase) else None
    if made is not None:
        return made
    resizes = to != (box[2] - box[0], box[3] - box[1])
    # from whatever holds them the same pixels come out, also in the last bit
    if getattr(x, 'pixels', None) is not None or resizes and resample == BILINEAR and x.mode == 'RGB':
        return _resize(x, _array_of(x)[box[1]:box[3], box[0]:box[2]], resample, to)
    # two steps, as `resize(box=...)` would let pixels from outside of the window in at its edges
    x = x if box == (0, 0, *x.size) else x.crop(box)
    return x.resize(to, resample) if resizes else x


def _array_of(x: Image.Image) -> np.ndarray:
    """The pixels [H,W(,C)], where possible in the memory they are in."""
    pixels = getattr(x, 'pixels', None)
    return np.asarray(x) if pixels is None else pixels


def _crop_jpeg(x: PILBase, box: Box, to: tuple[int, int], resample: int) -> Image.Image | None:
    """A window of a JPEG that is still to be decoded, None where its pixels are needed in full."""
    size = box[2] - box[0], box[3] - box[1]
    if (scaled := x.scaled(size, to)) is not None:
        return type(x)(_resize_part(scaled, box, resample, to))
    if resample == BILINEAR and to != size and (stored := x.window(box)) is not None:
        pixels, turn = stored
        return type(x).from_pixels(_antialiased(pixels, turn.of_size(to), turn))
    return None


def _pad(pixels: np.ndarray, by: tuple[int, int, int, int], pad_mode: str) -> np.ndarray:
    around = [(by[1], by[3]), (by[0], by[2])] + [(0, 0)] * (pixels.ndim - 2)
    try:
        return np.pad(pixels, around, mode=_pad_modes[pad_mode])
    except KeyError:
        raise ValueError(f'pad_mode {pad_mode!r} is none of {sorted(_pad_modes)}') from None


def _resize(like: Image.Image, pixels: np.ndarray, resample: int, to: tuple[int, int]) -> Image.Image:
    """uint8 [H,W(,C)] resized, as the class of `like`; bilinear by torch's vector code, which gives Pillow's pixels
    (+-1)."""
    if (pixels.shape[1], pixels.shape[0]) != to:
        if resample != BILINEAR or pixels.dtype != np.uint8 or pixels.ndim != 3:
            made = Image.fromarray(np.ascontiguousarray(pixels)).resize(to, resample)
            return type(like)(made) if isinstance(like, PILBase) else made
        pixels = _antialiased(pixels, to)
    if isinstance(like, PILBase) and pixels.dtype == np.uint8 and (pixels.ndim == 2 or pixels.shape[2] == 3):
        return type(like).from_pixels(pixels)
    made = Image.fromarray(np.ascontiguousarray(pixels))
    return type(like)(made) if isinstance(like, PILBase) else made


def _antialiased(pixels: np.ndarray, to: tuple[int, int], turn: Turn = TURNS[0]) -> np.ndarray:
    """uint8 [H,W,C] resized bilinearly to (width, height) and turned; its planes lie one after the other."""
    pixels = pixels if pixels.flags.writeable else pixels.copy()
    source = torch.from_numpy(pixels.transpose(2, 0, 1)[None])  # numpy's views take a third of the time of torch's
    # F.interpolate would give planes whatever comes in, which takes half as long again; the numbers are the same
    resized, made = _scratch(source.shape[1], to, source.stride(1) == 1)
    torch._C._nn._upsample_bilinear2d_aa(source, (to[1], to[0]), False, None, None, out=resized)
    if turn in (TURNS[0], MIRROR):
        return in_planes(made, mirrored=turn.mirror_x)
    return in_planes(np.ascontiguousarray(turn.of(made)))


def _scratch(channels: int, to: tuple[int, int], in_pixels: bool) -> tuple[Tensor, np.ndarray]:
    """Memory for one result of this thread, as a batch of one and as [H,W,C]; what lies in it is copied out at once."""
    key = channels, to, in_pixels
    if getattr(_last, 'key', None) != key:
        memory_format = torch.channels_last if in_pixels else torch.contiguous_format
        with torch.inference_mode(False):  # outlives the caller's mode
            resized = torch.empty((1, channels, to[1], to[0]), dtype=torch.uint8, memory_format=memory_format)
        _last.key, _last.made = key, (resized, resized[0].permute(1, 2, 0).numpy())
    return _last.made


_last = threading.local()


def _resize_part(scaled: ScaledPixels, box: Box, resample: int, to: tuple[int, int]) -> Image.Image:
    """The window `box` of the full picture, out of a smaller one; its edges may lie within pixels there."""
    pixels, scale, offset = scaled
    h, w = pixels.shape[:2]
    edges = [min((edge + shift) / scale, limit) for edge, shift, limit in zip(box, offset * 2, (w, h, w, h))]
    left, top, right, bottom = math.floor(edges[0]), math.floor(edges[1]), math.ceil(edges[2]), math.ceil(edges[3])
    part = Image.fromarray(np.ascontiguousarray(pixels[top:bottom, left:right]))
    return part.resize(to, resample, box=(edges[0] - left, edges[1] - top, edges[2] - left, edges[3] - top))


def _crop_points(x: Tensor, size: tuple[int, int], top_left: tuple[int, int], orig_size: tuple[int, int],
                 resize_to: tuple[int, int] | None) -> Tensor:
    """Points or boxes in -1..1 of the whole picture, in -1..1 of the window."""
    xy = plain(x)
    orig, window, corner = (xy.new_tensor(o).repeat(xy.shape[-1] // 2) for o in (orig_size, size, top_left))
    moved = cast((xy + 1) * orig / window - corner * 2 / window - 1, type(x))
    moved.__dict__.update(x.__dict__)
    moved.img_size = tuple(size if resize_to is None else resize_to)
    return moved


# ---------------------------------------------------------------- mirroring

def flip_lr(x: Any) -> Any:
    """A picture, mask, points or boxes mirrored left and right."""
    return dihedral(x, 1)


def dihedral(x: Any, k: int) -> Any:
    """One of the eight symmetries of a square, of `TURNS`, applied to a picture, mask, points or boxes."""
    turn = TURNS[k]
    if isinstance(x, TensorPoint):
        return _turned_points(x, turn)
    if isinstance(x, TensorImageBase):
        planes = plain(x).flip([-1] * turn.mirror_x + [-2] * turn.mirror_y)
        return cast(planes.transpose(-1, -2) if turn.swap else planes, type(x))
    if turn == MIRROR and isinstance(x, PILBase) and (waiting := x.mirrored()) is not None:
        return waiting
    if getattr(x, 'pixels', None) is not None:
        pixels = _mirrored(x.pixels, turn)
        return type(x).from_pixels(pixels.swapaxes(0, 1) if turn.swap else pixels)
    for wanted, way in zip(turn, (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM,
                                  Image.Transpose.TRANSPOSE)):
        x = x.transpose(way) if wanted else x
    return x


def _mirrored(pixels: np.ndarray, turn: Turn) -> np.ndarray:
    """A copy of uint8 [H,W(,C)]; numpy's own takes ten times as long."""
    cv2 = opencv()
    if cv2 is not None and pixels.flags.c_contiguous and (turn.mirror_x or turn.mirror_y):
        return cv2.flip(pixels, -1 if turn.mirror_x and turn.mirror_y else int(turn.mirror_x))
    return torch.from_numpy(pixels).flip([1] * turn.mirror_x + [0] * turn.mirror_y).numpy()


def _turned_points(x: Tensor, turn: Turn) -> Tensor:
    signs = plain(x).new_tensor([-1 if turn.mirror_x else 1, -1 if turn.mirror_y else 1])
    xy = plain(x).reshape(*x.shape[:-1], -1, 2) * signs
    xy = xy.flip(-1) if turn.swap else xy
    if isinstance(x, TensorBBox):  # a mirrored box names its corners in the wrong order
        xy = torch.cat([xy.amin(-2, keepdim=True), xy.amax(-2, keepdim=True)], -2)
    moved = cast(xy.reshape(x.shape), type(x))
    moved.__dict__.update(x.__dict__)
    if getattr(x, 'img_size', None) is not None:
        moved.img_size = turn.of_size(tuple(x.img_size))
    return moved
