"""Transforms of the geometry of a batch on its device, all of it in one resampling."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from fastcore.foundation import L
from torch import Tensor

from minifast.arguments import as_size
from minifast.data.pipeline import RandTransform, registered
from minifast.markers import TensorImage, TensorMask, plain
from minifast.vision import affine
from minifast.vision.affine import Draw
from minifast.vision.bytewarp import can_warp_bytes
from minifast.vision.item_tfms import random_window
from minifast.vision.light_tfms import is_ours, joined_name, to_augment
from minifast.vision.points import TensorPoint
from minifast.vision.resize import PadMode

__all__ = ['AffineCoordTfm', 'CropWindow', 'DeterministicDihedral', 'DeterministicDraw', 'DeterministicFlip',
           'Dihedral', 'Flip', 'RandomResizedCropGPU', 'Rotate', 'Warp', 'WarpCoord', 'Zoom']

Size = int | tuple[int, int] | None
_matrices = (affine.flip_mat, affine.dihedral_mat, affine.rotate_mat, affine.zoom_mat, affine.warp_mat)
"""What draws from the generator it is given."""


class WarpCoord:
    """A perspective warp as a coordinate function: draws its matrices, moves positions by them."""

    def __init__(self, magnitude: float = 0.2, p: float = 0.5, draw_x: Draw = None, draw_y: Draw = None,
                 batch: bool = False) -> None:
        self.mat = partial(affine.warp_mat, magnitude=magnitude, p=p, draw_x=draw_x, draw_y=draw_y, batch=batch)


class CropWindow:
    """One window for a whole batch, as a matrix: at random in training, the middle in validation."""

    def __init__(self, min_scale: float, max_scale: float, ratio: tuple[float, float], valid_scale: float) -> None:
        self.scale, self.ratio, self.valid_scale = (min_scale, max_scale), ratio, valid_scale

    def mat(self, x: Tensor, split_idx: int | None, align_corners: bool | None,
            generator: torch.Generator | None) -> Tensor:
        """Matrices [B,3,3] that show the window in full."""
        h, w = x.shape[-2:]
        if split_idx:
            fitted = (min(w, int(h * self.ratio[1])), min(h, int(w / self.ratio[0])))
            nw, nh = (max(int(side * self.valid_scale), 1) for side in fitted)
            left, top = (w - nw) // 2, (h - nh) // 2
        else:
            (nw, nh), (left, top) = random_window((w, h), self.scale, self.ratio, generator)
        rows = []
        for whole, part, start in ((w, nw, left), (h, nh, top)):
            if align_corners and whole > 1:  # from pixel centre to pixel centre
                whole, part = whole - 1, part - 1
            rows.append((part / whole, 2 * start / whole - 1 + part / whole))
        (sx, cx), (sy, cy) = rows
        return torch.tensor([[sx, 0, cx], [0, sy, cy], [0, 0, 1]]).expand(x.shape[0], 3, 3)


@registered
class AffineCoordTfm(RandTransform):
    """A chain of flips, rotations, zooms and warps of pictures, masks, points and boxes, read from the pixels once.

    Args:
        aff_fs: functions of the batch that return matrices [B,3,3] or None.
        coord_fs: functions of positions [B,...,2] in -1..1; called with `invert=True` for points; a method
            `before_call(x)`, if there is one, is called first with the batch.
        size: a side, or (height, width), of the result; also in validation.
        mode: how pixels are read: 'bilinear', 'nearest', 'bicubic'.
        pad_mode: what lies outside, one of `PadMode`.
        mode_mask: how masks are read.
        align_corners: see `affine.resample`.
    """

    order = 30
    split_idx = None
    supports = (TensorImage, TensorMask, TensorPoint)

    def __init__(self, aff_fs: Callable | Sequence[Callable] | None = None,
                 coord_fs: Callable | Sequence[Callable] | None = None, size: Size = None, mode: str = 'bilinear',
                 pad_mode: str = PadMode.Reflection, mode_mask: str = 'nearest', align_corners: bool | None = None,
                 p: float = 1., nm: str | None = None) -> None:
        super().__init__(p=p, nm=nm)
        self.aff_fs, self.coord_fs = L(aff_fs), L(coord_fs)
        self.size = None if size is None else as_size(size)
        self.mode, self.pad_mode, self.mode_mask = mode, pad_mode, mode_mask
        self.align_corners, self.nm = align_corners, nm
        self.parts = [self]

    @property
    def takes_generator(self) -> bool:
        """Whether all randomness comes from the generator handed over: not with functions of the user's own."""
        known = all(isinstance(f, CropWindow) or is_ours(f, _matrices) for f in self.aff_fs)
        return known and all(isinstance(f, WarpCoord) and is_ours(f.mat, _matrices) for f in self.coord_fs)

    @property
    def on_bytes(self) -> bool:
        """Whether uint8 pictures on the CPU are moved faster than floats."""
        return self.takes_generator and self.mode in ('bilinear', 'nearest') and can_warp_bytes()

    @property
    def name(self) -> str:
        """The class and its arguments, or the classes that were joined."""
        return joined_name(self, super().name)

    def compose(self, tfm: AffineCoordTfm) -> None:
        """Do what `tfm` does afterwards, in the same resampling."""
        self.aff_fs, self.coord_fs = self.aff_fs + tfm.aff_fs, self.coord_fs + tfm.coord_fs
        self.parts = self.parts + tfm.parts
        if tfm.size is not None and (self.size is None or isinstance(tfm, RandomResizedCropGPU)):
            self.size = tfm.size

    def draw(self, sample: Any, split_idx: int | None, generator: torch.Generator | None) -> tuple | None:
        """(matrices [B,3,3] or None, further functions of positions); None where nothing is to be done."""
        x = to_augment(sample)
        # random numbers are drawn and matrices multiplied on the CPU; `probe` has the batch's shape and no memory
        probe = torch.empty(1).expand(x.shape)
        mats, moves = [], []
        for f in self.aff_fs:
            if isinstance(f, CropWindow):
                mats.append(f.mat(probe, split_idx, self.align_corners, generator))
            elif not split_idx:
                ours = isinstance(f, partial) and f.func in _matrices
                made = f(probe, generator=generator) if ours else f(x)
                mats += [] if made is None else [plain(made).cpu()]  # sync: only for matrices of the user's own
        warps = []
        for f in [] if split_idx else self.coord_fs:
            if not isinstance(f, WarpCoord):
                if hasattr(f, 'before_call'):
                    f.before_call(x)
                moves.append(f)
            elif moves:
                moves.append(partial(_move_by, f.mat(probe, generator=generator)))
            else:
                warps.append(f.mat(probe, generator=generator))
        m = affine.homography(tuple(x.shape[-2:]), mats, warps)
        return None if m is None and not moves and self.size is None else (m, tuple(moves))

    def apply(self, x: Tensor, params: tuple) -> Tensor:
        """`x` moved by what was drawn."""
        m, moves = params
        return affine.move(x, m, self.size, self.mode, self.mode_mask, self.pad_mode, self.align_corners, moves)


def _move_by(m: Tensor, xy: Tensor, invert: bool = False) -> Tensor:
    return affine.move_by(xy, (torch.linalg.inv(m) if invert else m).to(xy.device, non_blocking=True))


@registered
class Flip(AffineCoordTfm):
    """Mirror left and right with probability `p`; `draw` gives 1 (mirror) or 0 instead."""

    def __init__(self, p: float = 0.5, draw: Draw = None, size: Size = None, mode: str = 'bilinear',
                 pad_mode: str = PadMode.Reflection, align_corners: bool = True, batch: bool = False) -> None:
        super().__init__(partial(affine.flip_mat, p=p, draw=draw, batch=batch), size=size, mode=mode,
                         pad_mode=pad_mode, align_corners=align_corners, p=p)
        self._draw, self.batch = draw, batch


class DeterministicDraw:
    """A `draw` that goes through `vals`, one a batch."""

    def __init__(self, vals: Sequence[float]) -> None:
        self.vals, self.count = vals, -1

    def __call__(self, x: Tensor) -> Tensor:
        """The next value, for all samples of `x`."""
        self.count += 1
        return torch.full((x.shape[0],), float(self.vals[self.count % len(self.vals)]), device=x.device)


@registered
class DeterministicFlip(Flip):
    """Mirror every second batch."""

    def __init__(self, size: Size = None, mode: str = 'bilinear', pad_mode: str = PadMode.Reflection,
                 align_corners: bool = True) -> None:
        super().__init__(1., DeterministicDraw([0, 1]), size, mode, pad_mode, align_corners)


@registered
class Dihedral(AffineCoordTfm):
    """One of the eight symmetries of a square with probability `p`; `draw` gives 0..7 instead."""

    def __init__(self, p: float = 0.5, draw: Draw = None, size: Size = None, mode: str = 'bilinear',
                 pad_mode: str = PadMode.Reflection, batch: bool = False, align_corners: bool = True) -> None:
        super().__init__(partial(affine.dihedral_mat, p=p, draw=draw, batch=batch), size=size, mode=mode,
                         pad_mode=pad_mode, align_corners=align_corners, p=p)
        self._draw, self.batch = draw, batch


@registered
class DeterministicDihedral(Dihedral):
    """The eight symmetries in turn, one a batch."""

    def __init__(self, size: Size = None, mode: str = 'bilinear', pad_mode: str = PadMode.Reflection,
                 align_corners: bool = True) -> None:
        super().__init__(1., DeterministicDraw(range(8)), size, mode, pad_mode, False, align_corners)


@registered
class Rotate(AffineCoordTfm):
    """Rotate by -max_deg..max_deg degrees with probability `p`; `draw` gives degrees instead."""

    def __init__(self, max_deg: float = 10, p: float = 0.5, draw: Draw = None, size: Size = None,
                 mode: str = 'bilinear', pad_mode: str = PadMode.Reflection, align_corners: bool = True,
                 batch: bool = False) -> None:
        super().__init__(partial(affine.rotate_mat, max_deg=max_deg, p=p, draw=draw, batch=batch), size=size,
                         mode=mode, pad_mode=pad_mode, align_corners=align_corners, p=p)
        self.max_deg, self._draw, self.batch = max_deg, draw, batch


@registered
class Zoom(AffineCoordTfm):
    """Zoom by min_zoom..max_zoom towards a random point with probability `p`; `draw`, `draw_x`, `draw_y` give them
    instead."""

    def __init__(self, min_zoom: float = 1., max_zoom: float = 1.1, p: float = 0.5, draw: Draw = None,
                 draw_x: Draw = None, draw_y: Draw = None, size: Size = None, mode: str = 'bilinear',
                 pad_mode: str = PadMode.Reflection, batch: bool = False, align_corners: bool = True) -> None:
        super().__init__(partial(affine.zoom_mat, min_zoom=min_zoom, max_zoom=max_zoom, p=p, draw=draw, draw_x=draw_x,
                                 draw_y=draw_y, batch=batch), size=size, mode=mode, pad_mode=pad_mode,
                         align_corners=align_corners, p=p)
        self.min_zoom, self.max_zoom, self.batch = min_zoom, max_zoom, batch
        self._draw, self.draw_x, self.draw_y = draw, draw_x, draw_y


@registered
class Warp(AffineCoordTfm):
    """Tilt the picture plane by -magnitude..magnitude each way with probability `p`; `draw_x`, `draw_y` give it
    instead."""

    def __init__(self, magnitude: float = 0.2, p: float = 0.5, draw_x: Draw = None, draw_y: Draw = None,
                 size: Size = None, mode: str = 'bilinear', pad_mode: str = PadMode.Reflection, batch: bool = False,
                 align_corners: bool = True) -> None:
        super().__init__(coord_fs=WarpCoord(magnitude, p, draw_x, draw_y, batch), size=size, mode=mode,
                         pad_mode=pad_mode, align_corners=align_corners, p=p)
        self.magnitude, self.draw_x, self.draw_y, self.batch = magnitude, draw_x, draw_y, batch


@registered
class RandomResizedCropGPU(AffineCoordTfm):
    """`RandomResizedCrop` with one window for the whole batch, in the same resampling as the other geometry.

    Args:
        size: a side, or (height, width), of the result.
        min_scale: smallest part of the area, 0..1.
        ratio: smallest and largest width over height of the window.
        mode: how pixels are read.
        valid_scale: part of each side kept in validation.
        max_scale: largest part of the area, 0..1.
        mode_mask: how masks are read.
    """

    def __init__(self, size: int | tuple[int, int], min_scale: float = 0.08,
                 ratio: tuple[float, float] = (3 / 4, 4 / 3), mode: str = 'bilinear', valid_scale: float = 1.,
                 max_scale: float = 1., mode_mask: str = 'nearest', p: float = 1., nm: str | None = None) -> None:
        super().__init__(CropWindow(min_scale, max_scale, ratio, valid_scale), size=as_size(size), mode=mode,
                         mode_mask=mode_mask, align_corners=True, p=p, nm=nm)
        self.min_scale, self.max_scale, self.ratio, self.valid_scale = min_scale, max_scale, ratio, valid_scale
