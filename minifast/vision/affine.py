"""The geometry of a batch: draw one 3x3 matrix a sample, then resample once.

Flip, rotation, zoom and perspective warp are all homographies, so any chain of them is one matrix M that takes a
position of the output, (x, y) in -1..1 across the picture, to the position of the input it is read from. Pictures
and masks are read at M * grid; points and boxes move by the inverse of M.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minifast.arguments import as_size
from minifast.markers import TensorImage, TensorMask, cast, plain
from minifast.vision.bytewarp import warp_bytes
from minifast.vision.decode import TURNS
from minifast.vision.points import TensorBBox, TensorPoint

__all__ = ['Draw', 'GeometryMethods', 'affine_mat', 'apply_perspective', 'dihedral_mat', 'draw_values', 'find_coeffs',
           'flip_mat', 'homography', 'mask_tensor', 'move', 'move_by', 'move_points', 'resample', 'rotate_mat',
           'warp_mat', 'zoom_mat']

Draw = float | Sequence[float] | Callable[[Tensor], Tensor] | None
"""A value for the whole batch, one a sample, a function of the batch, or None: at random."""


# ---------------------------------------------------------------- drawing

def draw_values(x: Tensor, low: float, high: float, draw: Draw = None, p: float = 1., neutral: float = 0.,
                batch: bool = False, generator: torch.Generator | None = None) -> Tensor:
    """One value a sample of `x`, float32 [B]: uniform in low..high with probability `p`, else `neutral`.

    Args:
        x: the batch; only its length, and its device for the result, are used.
        draw: instead of the uniform values.
        batch: one value for the whole batch.
        generator: a CPU generator, None for torch's global one. Random numbers are drawn on the CPU, so that they
            are the same for every device.
    """
    n = x.shape[0]
    uniform, coin = torch.rand(2, 1 if batch else n, generator=generator)
    if draw is None:
        values = (low + (high - low) * uniform).expand(n)
    elif callable(draw):
        values = plain(draw(x)).cpu().float()  # sync: only for a draw function of the user's own
    elif isinstance(draw, Sequence) or (isinstance(draw, Tensor) and draw.ndim):
        if len(draw) < n:
            raise ValueError(f'draw holds {len(draw)} values for a batch of {n}: give one a sample')
        values = torch.as_tensor(draw[:n], dtype=torch.float32).cpu()  # sync: only for values of the user's own
    else:
        values = torch.full((n,), float(draw))
    if p < 1:
        values = torch.where(coin < p, values, neutral)
    return values.to(x.device, non_blocking=True)


def mask_tensor(x: Tensor, p: float = 0.5, neutral: float = 0., batch: bool = False,
                generator: torch.Generator | None = None) -> Tensor:
    """`x` with each element replaced by `neutral` with probability `1-p` (`batch`: all or none)."""
    if p == 1.:
        return x
    coin = torch.rand(1 if batch else x.shape, generator=generator).to(x.device)
    return torch.where(coin < p, x, torch.full_like(x, neutral))


def affine_mat(*ms: Tensor) -> Tensor:
    """[B,3,3] from the six upper elements, each [B], row by row."""
    zero, one = torch.zeros_like(ms[0]), torch.ones_like(ms[0])
    return torch.stack([*ms[:6], zero, zero, one], 1).view(-1, 3, 3)


def flip_mat(x: Tensor, p: float = 0.5, draw: Draw = None, batch: bool = False,
             generator: torch.Generator | None = None) -> Tensor:
    """Matrices [B,3,3] that mirror left and right with probability `p`; drawn values are 1 (flip) or 0."""
    sign = 1 - 2 * draw_values(x, 1, 1, draw, p, 0., batch, generator)
    zero, one = torch.zeros_like(sign), torch.ones_like(sign)
    return affine_mat(sign, zero, zero, zero, one, zero)


def dihedral_mat(x: Tensor, p: float = 0.5, draw: Draw = None, batch: bool = False,
                 generator: torch.Generator | None = None) -> Tensor:
    """Matrices [B,3,3] of one of the eight symmetries of a square, of `TURNS`, drawn with probability `p`."""
    k = draw_values(x, 0, 8, draw, p, 0., batch, generator).long().clamp(0, 7)
    mirror_x, mirror_y, swap = torch.tensor(TURNS, dtype=torch.float32, device=k.device)[k].unbind(1)
    sign_x, sign_y, zero = 1 - 2 * mirror_x, 1 - 2 * mirror_y, torch.zeros_like(swap)
    return affine_mat(sign_x * (1 - swap), sign_x * swap, zero, sign_y * swap, sign_y * (1 - swap), zero)


def rotate_mat(x: Tensor, max_deg: float = 10, p: float = 0.5, draw: Draw = None, batch: bool = False,
               generator: torch.Generator | None = None) -> Tensor:
    """Matrices [B,3,3] of a rotation by -max_deg..max_deg degrees, drawn with probability `p`."""
    angle = draw_values(x, -max_deg, max_deg, draw, p, 0., batch, generator) * (math.pi / 180)
    zero = torch.zeros_like(angle)
    return affine_mat(angle.cos(), angle.sin(), zero, -angle.sin(), angle.cos(), zero)


def zoom_mat(x: Tensor, min_zoom: float = 1., max_zoom: float = 1.1, p: float = 0.5, draw: Draw = None,
             draw_x: Draw = None, draw_y: Draw = None, batch: bool = False,
             generator: torch.Generator | None = None) -> Tensor:
    """Matrices [B,3,3] of a zoom by min_zoom..max_zoom with probability `p` towards a point drawn in 0..1 of each side.

    Raises:
        ValueError: min_zoom is above max_zoom.
    """
    if min_zoom > max_zoom:
        raise ValueError(f'min_zoom {min_zoom} is above max_zoom {max_zoom}: swap them')
    scale = 1 / draw_values(x, min_zoom, max_zoom, draw, p, 1., batch, generator)
    col = draw_values(x, 0, 1, draw_x, 1., 0., batch, generator)
    row = draw_values(x, 0, 1, draw_y, 1., 0., batch, generator)
    zero = torch.zeros_like(scale)
    return affine_mat(scale, zero, (1 - scale) * (2 * col - 1), zero, scale, (1 - scale) * (2 * row - 1))


def find_coeffs(p1: Tensor, p2: Tensor) -> Tensor:
    """The eight coefficients [B,8,1] of the homographies that take the four points `p2` [B,4,2] to `p1`."""
    zero, one = torch.zeros_like(p1[:, :, 0]), torch.ones_like(p1[:, :, 0])
    x, y = p2[:, :, 0], p2[:, :, 1]
    u, v = p1[:, :, 0], p1[:, :, 1]
    rows_u = torch.stack([x, y, one, zero, zero, zero, -u * x, -u * y], dim=2)
    rows_v = torch.stack([zero, zero, zero, x, y, one, -v * x, -v * y], dim=2)
    return torch.linalg.solve(torch.cat([rows_u, rows_v], 1), torch.cat([u, v], 1).unsqueeze(-1))


def apply_perspective(coords: Tensor, coeffs: Tensor) -> Tensor:
    """Positions [B,...,2] moved by the homographies with the coefficients [B,8,1] of `find_coeffs`."""
    return move_by(coords, square(coeffs))


def square(coeffs: Tensor) -> Tensor:
    """The matrices [B,3,3] with the eight coefficients [B,8,1] of `find_coeffs`."""
    return torch.cat([coeffs[:, :, 0], torch.ones_like(coeffs[:, :1, 0])], 1).view(-1, 3, 3)


def warp_mat(x: Tensor, magnitude: float = 0.2, p: float = 0.5, draw_x: Draw = None, draw_y: Draw = None,
             batch: bool = False, generator: torch.Generator | None = None) -> Tensor:
    """Matrices [B,3,3] of a tilt of the picture plane by -magnitude..magnitude each way, with probability `p`."""
    tx = draw_values(x, -magnitude, magnitude, draw_x, p, 0., batch, generator)
    ty = draw_values(x, -magnitude, magnitude, draw_y, p, 0., batch, generator)
    corners = torch.tensor([[-1., -1], [-1, 1], [1, -1], [1, 1]], device=x.device).expand(len(tx), 4, 2)
    moved = torch.stack([torch.stack([-1 - ty, -1 + ty, 1 + ty, 1 - ty], 1),
                         torch.stack([-1 - tx, 1 + tx, -1 + tx, 1 - tx], 1)], 2)
    return square(find_coeffs(corners, moved))


def homography(size: tuple[int, int], affine: Sequence[Tensor] = (), warps: Sequence[Tensor] = ()) -> Tensor | None:
    """One matrix [B,3,3] for a chain of affine matrices and then warps; None for an empty chain.

    Args:
        size: (height, width) of the input: rotations turn pixels, not the square -1..1.
        affine: matrices [B,3,3], applied to positions last to first.
        warps: matrices [B,3,3], applied first to last.
    """
    total = None
    for m in affine:
        total = m if total is None else total @ m
    h, w = size
    if total is not None and h != w:
        total = total.clone()
        total[:, 0, 1] *= h / w
        total[:, 1, 0] *= w / h
    for m in warps:
        total = m if total is None else m @ total
    return total


# ---------------------------------------------------------------- applying

def move_by(xy: Tensor, m: Tensor) -> Tensor:
    """Positions [B,...,2] under matrices [B,3,3]."""
    flat = xy.reshape(xy.shape[0], -1, 2)
    moved = flat @ m[:, :, :2].transpose(1, 2) + m[:, None, :, 2]
    return (moved[..., :2] / moved[..., 2:]).view(xy.shape)


def _positions(n: int, align_corners: bool, device: torch.device) -> Tensor:
    """Where `n` pixels lie in -1..1."""
    if align_corners and n > 1:
        return torch.linspace(-1, 1, n, device=device)
    return (torch.arange(n, device=device) * 2 + 1) / n - 1


def _grid(m: Tensor | None, x: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """Where each pixel of the output is read, [B,h,w,2]."""
    rows, cols = (_positions(n, align_corners, x.device) for n in size)
    m = torch.eye(3).expand(x.shape[0], 3, 3) if m is None else m
    tilted = m.device.type != 'cpu' or bool((m[:, 2] != torch.tensor([0, 0, 1.])).any())
    m = m.to(x.device, non_blocking=True)
    # each coordinate is the sum of a part of the row and a part of the column: no matrix product for each pixel
    u, v, depth = ((m[:, i, 1:2] * rows + m[:, i, 2:])[:, :, None] + (m[:, i, :1] * cols)[:, None] for i in range(3))
    grid = torch.empty(*u.shape, 2, device=x.device)
    for i, position in enumerate((u, v)):
        grid[..., i].copy_(position.div_(depth) if tilted else position)
    return grid


def _too_coarse(m: Tensor | None, x: Tensor, size: tuple[int, int]) -> float:
    """By how much to shrink `x` before it is sampled, 1 for not at all.

    Bilinear sampling reads four pixels; where the output is less than half as large that skips some, and the picture
    shimmers.
    """
    shrink = min(x.shape[-2] / size[0], x.shape[-1] / size[1]) / 2
    if shrink <= 1 or (m is not None and m.device.type != 'cpu'):
        return 1 if shrink <= 1 else shrink
    corners = torch.tensor([[-1., -1], [-1, 1], [1, -1], [1, 1]]).expand(x.shape[0], 4, 2)
    reach = corners if m is None else move_by(corners, m)
    zoomed = 2 / float(reach.max() - reach.min())
    return shrink if shrink > zoomed else 1


def resample(x: Tensor, m: Tensor | None = None, size: int | tuple[int, int] | None = None, mode: str = 'bilinear',
             pad_mode: str = 'reflection', align_corners: bool | None = True,
             coord_fs: Sequence[Callable] = ()) -> Tensor:
    """Read pictures [B,C,H,W] at the positions the matrices give: the one resampling of a batch.

    Args:
        x: float pictures.
        m: matrices [B,3,3] from output to input positions, None for identity; best on the CPU (no sync).
        size: (height, width) of the output; default: as `x`.
        mode: 'bilinear', 'nearest' or 'bicubic'.
        pad_mode: 'reflection', 'border' or 'zeros' outside of the picture.
        align_corners: whether -1 and 1 are the centres of the corner pixels (True) or their outer edges.
        coord_fs: further functions of positions [B,h,w,2], in -1..1, applied after the matrices.
    """
    size = tuple(x.shape[-2:]) if size is None else as_size(size)
    if mode == 'bilinear':
        shrink = _too_coarse(m, x, size)
        if shrink > 1:
            x = F.interpolate(x, scale_factor=1 / shrink, mode='area', recompute_scale_factor=True)
    coords = _grid(m, x, size, bool(align_corners))
    for f in coord_fs:
        coords = f(coords)
    return F.grid_sample(x, coords.to(x.dtype), mode=mode, padding_mode=pad_mode, align_corners=bool(align_corners))


def move_points(x: Tensor, m: Tensor | None = None, coord_fs: Sequence[Callable] = ()) -> Tensor:
    """Points [B,n,2] in -1..1 moved as `resample` moves the pixels, that is by the inverse."""
    for f in reversed(coord_fs):
        x = f(x, invert=True)
    return x if m is None else move_by(x, torch.linalg.inv(m).to(x.device, x.dtype, non_blocking=True))


def _move_boxes(x: Tensor, m: Tensor | None, coord_fs: Sequence[Callable]) -> Tensor:
    """Boxes [B,n,4]: the smallest upright boxes around the four moved corners."""
    corners = torch.stack([x[..., [0, 1]], x[..., [0, 3]], x[..., [2, 1]], x[..., [2, 3]]], dim=2)
    moved = move_points(corners.flatten(1, 2), m, coord_fs).view(corners.shape)
    return torch.cat([moved.amin(2), moved.amax(2)], -1)


def move(x: Tensor, m: Tensor | None, size: Any, mode: str | None, mode_mask: str, pad_mode: str,
           align_corners: bool | None, coord_fs: Sequence[Callable] = ()) -> Tensor:
    """`x` moved in the way of its marker: pictures and masks resampled, points and boxes by the inverse.

    Args:
        x: a marked batch; see `resample` for the other arguments.
        mode_mask: `mode` for masks.
    """
    b = plain(x)
    if isinstance(x, TensorBBox):
        moved = _move_boxes(b, m, coord_fs)
    elif isinstance(x, TensorPoint):
        moved = move_points(b, m, coord_fs)
    else:
        moved = _move_pixels(b, isinstance(x, TensorMask), m, size, mode or 'bilinear', mode_mask, pad_mode,
                             align_corners, coord_fs)
    moved = cast(moved, type(x)) if type(x) is not Tensor else moved
    if getattr(x, 'img_size', None) is not None:
        moved.img_size = x.img_size
    return moved


def _move_pixels(b: Tensor, is_mask: bool, m: Tensor | None, size: Any, mode: str, mode_mask: str, pad_mode: str,
                 align_corners: bool | None, coord_fs: Sequence[Callable]) -> Tensor:
    mode = mode_mask if is_mask else mode
    if b.dtype == torch.uint8 and b.device.type == 'cpu' and not coord_fs:
        size = tuple(b.shape[-2:]) if size is None else as_size(size)
        on_cpu = torch.eye(3).expand(len(b), 3, 3) if m is None else m
        if mode == 'nearest' or _too_coarse(m, b, size) == 1:
            warped = warp_bytes(b, on_cpu, size, mode, pad_mode, bool(align_corners))
            if warped is not None:
                return warped
    floats = b if b.is_floating_point() else b.float()
    if is_mask and b.ndim == 3:
        return resample(floats[:, None], m, size, mode, pad_mode, align_corners, coord_fs)[:, 0].round().long()
    moved = resample(floats, m, size, mode, pad_mode, align_corners, coord_fs)
    return moved.round().long() if is_mask else moved if b.is_floating_point() else moved.round().to(b.dtype)


# ---------------------------------------------------------------- the same as methods of the marker tensors

class GeometryMethods:
    """What `TensorImage`, `TensorMask`, `TensorPoint` and `TensorBBox` can do: batches moved by hand, for a try.

    The markers live on the ground floor and know nothing of geometry, so the methods are put on them below.
    """

    def affine_coord(self: Tensor, mat: Tensor | None = None, coord_tfm: Callable | None = None,
                     sz: int | tuple[int, int] | None = None, mode: str | None = None, pad_mode: str = 'reflection',
                     align_corners: bool | None = True) -> Tensor:
        """Move a batch by matrices and a function of positions.

        Args:
            mat: [B,2,3] or [B,3,3], from output to input positions.
            coord_tfm: a function of positions in -1..1; for points it is called with `invert=True`.
            sz: (height, width) of the output.
            mode: how pixels are read; default: 'bilinear', 'nearest' for masks.
            pad_mode: 'reflection', 'border' or 'zeros'.
            align_corners: see `resample`.
        """
        if mat is None and coord_tfm is None and sz is None:
            return self
        m = None if mat is None else plain(mat)
        if m is not None and m.shape[1] == 2:
            m = torch.cat([m, m.new_tensor([0, 0, 1.]).expand(len(m), 1, 3)], 1)
        further = () if coord_tfm is None else (coord_tfm,)
        return move(self, m, sz, mode, mode or 'nearest', pad_mode, align_corners, further)

    def _by_mat(self: Tensor, m: Tensor, size: Any = None, mode: str | None = None, pad_mode: str | None = None,
                align_corners: bool | None = True) -> Tensor:
        flat = isinstance(self, TensorPoint) or self.ndim < 3
        m = homography((1, 1) if flat else tuple(self.shape[-2:]), [m])
        return move(self, m, size, mode, mode or 'nearest', pad_mode or 'reflection', align_corners)

    def flip_batch(self: Tensor, p: float = 0.5, draw: Draw = None, size: int | tuple[int, int] | None = None,
                   mode: str | None = None, pad_mode: str | None = None, align_corners: bool = True,
                   batch: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """Mirror samples of a batch, see `Flip`."""
        return self._by_mat(flip_mat(self, p, draw, batch, generator), size, mode, pad_mode, align_corners)

    def dihedral_batch(self: Tensor, p: float = 0.5, draw: Draw = None, size: int | tuple[int, int] | None = None,
                       mode: str | None = None, pad_mode: str | None = None, batch: bool = False,
                       align_corners: bool = True, generator: torch.Generator | None = None) -> Tensor:
        """Turn and mirror samples of a batch, see `Dihedral`."""
        return self._by_mat(dihedral_mat(self, p, draw, batch, generator), size, mode, pad_mode, align_corners)

    def rotate(self: Tensor, size: int | tuple[int, int] | None = None, mode: str | None = None,
               pad_mode: str | None = None, align_corners: bool = True, max_deg: float = 10, p: float = 0.5,
               draw: Draw = None, batch: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """Rotate samples of a batch, see `Rotate`."""
        return self._by_mat(rotate_mat(self, max_deg, p, draw, batch, generator), size, mode, pad_mode, align_corners)

    def zoom(self: Tensor, size: int | tuple[int, int] | None = None, mode: str | None = None,
             pad_mode: str | None = None, align_corners: bool = True, min_zoom: float = 1., max_zoom: float = 1.1,
             p: float = 0.5, draw: Draw = None, draw_x: Draw = None, draw_y: Draw = None, batch: bool = False,
             generator: torch.Generator | None = None) -> Tensor:
        """Zoom into samples of a batch, see `Zoom`."""
        m = zoom_mat(self, min_zoom, max_zoom, p, draw, draw_x, draw_y, batch, generator)
        return self._by_mat(m, size, mode, pad_mode, align_corners)

    def warp(self: Tensor, size: int | tuple[int, int] | None = None, mode: str | None = None,
             pad_mode: str | None = None, align_corners: bool = True, magnitude: float = 0.2, p: float = 0.5,
             draw_x: Draw = None, draw_y: Draw = None, batch: bool = False,
             generator: torch.Generator | None = None) -> Tensor:
        """Tilt samples of a batch, see `Warp`."""
        m = warp_mat(self, magnitude, p, draw_x, draw_y, batch, generator)
        return move(self, m, size, mode, mode or 'nearest', pad_mode or 'reflection', align_corners)


for _name, _method in vars(GeometryMethods).items():
    if callable(_method) and not _name.startswith('__'):
        for _marker in (TensorImage, TensorMask, TensorPoint):
            setattr(_marker, _name, _method)
