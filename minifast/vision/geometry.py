"""The geometry of a batch: draw one 3x3 matrix a sample, then resample once.

Flip, rotation, zoom and perspective warp are all homographies, so any chain of them is one matrix M that takes a
position of the output, (x, y) in -1..1 across the picture, to the position of the input it is read from. Pictures
and masks are read at M * grid; points and boxes move by the inverse of M.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from fastcore.foundation import L
from torch import Tensor

from minifast.arguments import as_size
from minifast.codetext import registered
from minifast.data.transform import RandTransform
from minifast.hardware import opencv
from minifast.markers import TensorImage, TensorMask, cast, plain
from minifast.seeds import rand_by_sample
from minifast.vision.core import TensorBBox, TensorPoint, gives_methods_to, to_augment
from minifast.vision.crop import PadMode, random_window
from minifast.vision.decode import TURNS

__all__ = ['AffineCoordTfm', 'CropWindow', 'DeterministicDihedral', 'DeterministicDraw', 'DeterministicFlip',
           'Dihedral', 'Draw', 'Flip', 'GeometryMethods', 'RandomResizedCropGPU', 'Rotate', 'Warp', 'WarpCoord', 'Zoom',
           'affine_mat', 'apply_perspective', 'can_warp_bytes', 'dihedral_mat', 'draw_values', 'find_coeffs',
           'flip_mat', 'homography', 'mask_tensor', 'move', 'move_by', 'move_points', 'pixel_matrices', 'resample',
           'rotate_mat', 'warp_bytes', 'warp_mat', 'zoom_mat']

Draw = float | Sequence[float] | Callable[[Tensor], Tensor] | None
"""A value for the whole batch, one a sample, a function of the batch, or None: at random."""
Size = int | tuple[int, int] | None


# ---------------------------------------------------------------- drawing

def draw_values(x: Tensor, low: float, high: float, draw: Draw = None, p: float = 1., neutral: float = 0.,
                batch: bool = False, generator: torch.Generator | None = None) -> Tensor:
    """One value a sample of `x`, float32 [B]: uniform in low..high with probability `p`, else `neutral`.

    Args:
        x: the batch; only its length, and its device for the result, are used.
        low: smallest value.
        high: largest value.
        draw: instead of the uniform values, see `Draw`; whether a sample gets its own is still drawn by `p`.
        p: probability for each sample.
        neutral: the value that changes nothing.
        batch: one value for the whole batch.
        generator: a CPU generator, None for torch's global one; a sample's own numbers from a `SampleGenerator`.
            Random numbers are drawn on the CPU, so that they are the same for every device.

    Raises:
        ValueError: `draw` holds fewer values than there are samples.
    """
    n = x.shape[0]
    uniform, coin = torch.rand(2, 1, generator=generator) if batch else rand_by_sample(2, n, generator)
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
    """`x` with each element replaced by `neutral` with probability `1-p`.

    Args:
        x: numbers, [B] or [B,...].
        p: probability that an element stays.
        neutral: the value that changes nothing.
        batch: all of them or none.
        generator: as for `draw_values`.
    """
    if p == 1.:
        return x
    coin = torch.rand(1, generator=generator) if batch else rand_by_sample(x[0].numel(), len(x), generator).T
    return torch.where(coin.reshape(-1 if batch else x.shape).to(x.device) < p, x, torch.full_like(x, neutral))


def affine_mat(*ms: Tensor) -> Tensor:
    """[B,3,3] from the six upper elements `ms`, each [B], row by row."""
    zero, one = torch.zeros_like(ms[0]), torch.ones_like(ms[0])
    return torch.stack([*ms[:6], zero, zero, one], 1).view(-1, 3, 3)


def flip_mat(x: Tensor, p: float = 0.5, draw: Draw = None, batch: bool = False,
             generator: torch.Generator | None = None) -> Tensor:
    """Matrices [B,3,3] that mirror left and right with probability `p`.

    Args:
        x, p, batch, generator: as for `draw_values`.
        draw: 1 (mirror) or 0, instead of 1, see `Draw`.
    """
    sign = 1 - 2 * draw_values(x, 1, 1, draw, p, 0., batch, generator)
    zero, one = torch.zeros_like(sign), torch.ones_like(sign)
    return affine_mat(sign, zero, zero, zero, one, zero)


def dihedral_mat(x: Tensor, p: float = 0.5, draw: Draw = None, batch: bool = False,
                 generator: torch.Generator | None = None) -> Tensor:
    """Matrices [B,3,3] of one of the eight symmetries of a square, of `TURNS`, drawn with probability `p`.

    Args:
        x, p, batch, generator: as for `draw_values`.
        draw: the number 0..7 of one in `TURNS`, instead of one at random, see `Draw`.
    """
    k = draw_values(x, 0, 8, draw, p, 0., batch, generator).long().clamp(0, 7)
    mirror_x, mirror_y, swap = torch.tensor(TURNS, dtype=torch.float32, device=k.device)[k].unbind(1)
    sign_x, sign_y, zero = 1 - 2 * mirror_x, 1 - 2 * mirror_y, torch.zeros_like(swap)
    return affine_mat(sign_x * (1 - swap), sign_x * swap, zero, sign_y * swap, sign_y * (1 - swap), zero)


def rotate_mat(x: Tensor, max_deg: float = 10, p: float = 0.5, draw: Draw = None, batch: bool = False,
               generator: torch.Generator | None = None) -> Tensor:
    """Matrices [B,3,3] of a rotation by -max_deg..max_deg degrees, clockwise, drawn with probability `p`.

    Args:
        x, p, batch, generator: as for `draw_values`.
        max_deg: largest angle, degrees.
        draw: degrees, instead of some at random, see `Draw`.

    Example:
        >>> rotate_mat(torch.zeros(1, 3, 8, 8), draw=90., p=1.).round()[0].tolist()
        [[-0.0, 1.0, 0.0], [-1.0, -0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    angle = draw_values(x, -max_deg, max_deg, draw, p, 0., batch, generator) * (math.pi / 180)
    zero = torch.zeros_like(angle)
    return affine_mat(angle.cos(), angle.sin(), zero, -angle.sin(), angle.cos(), zero)


def zoom_mat(x: Tensor, min_zoom: float = 1., max_zoom: float = 1.1, p: float = 0.5, draw: Draw = None,
             draw_x: Draw = None, draw_y: Draw = None, batch: bool = False,
             generator: torch.Generator | None = None) -> Tensor:
    """Matrices [B,3,3] of a zoom by min_zoom..max_zoom with probability `p` towards a point drawn in 0..1 of each side.

    Args:
        x, p, batch, generator: as for `draw_values`.
        min_zoom: smallest factor; below 1 the picture gets smaller.
        max_zoom: largest factor.
        draw: a factor, instead of one at random, see `Draw`.
        draw_x: where the point is, 0..1 from the left, instead of anywhere.
        draw_y: where it is, 0..1 from the top.

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
    """Positions `coords` [B,...,2] moved by the homographies with the `coeffs` [B,8,1] of `find_coeffs`."""
    return move_by(coords, square(coeffs))


def square(coeffs: Tensor) -> Tensor:
    """The matrices [B,3,3] with the eight coefficients [B,8,1] of `find_coeffs`."""
    return torch.cat([coeffs[:, :, 0], torch.ones_like(coeffs[:, :1, 0])], 1).view(-1, 3, 3)


def warp_mat(x: Tensor, magnitude: float = 0.2, p: float = 0.5, draw_x: Draw = None, draw_y: Draw = None,
             batch: bool = False, generator: torch.Generator | None = None) -> Tensor:
    """Matrices [B,3,3] of a tilt of the picture plane by -magnitude..magnitude each way, with probability `p`.

    Args:
        x, p, batch, generator: as for `draw_values`; each way has a draw of its own.
        magnitude: largest tilt: by this part the near side grows and the far side shrinks, 0..1.
        draw_x: the tilt to the side, -1..1, instead of one at random, see `Draw`; positive: the left side is near.
        draw_y: the tilt up or down; positive: the top is near.
    """
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
    """Positions `xy` [B,...,2] under the matrices `m` [B,3,3]."""
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


def _shrink(x: Tensor, size: tuple[int, int]) -> float:
    """By how much a picture is made smaller before it is sampled where that would skip pixels."""
    return min(x.shape[-2] / size[0], x.shape[-1] / size[1]) / 2


def _too_coarse(m: Tensor | None, x: Tensor, size: tuple[int, int]) -> Tensor:
    """Which samples to shrink before they are sampled, bool [B].

    Bilinear sampling reads four pixels; where the output is less than half as large that skips some, and the picture
    shimmers. Whether it does is said of each sample, so that a picture is the same in whatever batch it stands.
    """
    shrink = _shrink(x, size)
    if shrink <= 1 or m is None or m.device.type != 'cpu':
        return torch.full((len(x),), shrink > 1)
    reach = move_by(torch.tensor([[-1., -1], [-1, 1], [1, -1], [1, 1]]).expand(len(x), 4, 2), m)
    return shrink > 2 / (reach.amax((1, 2)) - reach.amin((1, 2)))


def _in_two(which: Tensor, moved: Callable[[Tensor], Tensor]) -> Tensor:
    """`moved(places)` of the samples that are in `which`, bool [B], and of the others, in their order again."""
    parts = [(at, moved(at)) for at in (which.nonzero()[:, 0], (~which).nonzero()[:, 0])]
    made = parts[0][1].new_empty(len(which), *parts[0][1].shape[1:])
    for at, part in parts:
        made[at] = part
    return made


def resample(x: Tensor, m: Tensor | None = None, size: int | tuple[int, int] | None = None, mode: str = 'bilinear',
             pad_mode: str = 'reflection', align_corners: bool | None = True,
             coord_fs: Sequence[Callable[..., Any]] = ()) -> Tensor:
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
        coarse = _too_coarse(m, x, size)
        if coarse.any() and not coarse.all() and not coord_fs:
            return _in_two(coarse, lambda at: resample(x[at], m[at], size, mode, pad_mode, align_corners))
        if coarse.any():
            x = F.interpolate(x, scale_factor=1 / _shrink(x, size), mode='area', recompute_scale_factor=True)
    coords = _grid(m, x, size, bool(align_corners))
    for f in coord_fs:
        coords = f(coords)
    return F.grid_sample(x, coords.to(x.dtype), mode=mode, padding_mode=pad_mode, align_corners=bool(align_corners))


def move_points(x: Tensor, m: Tensor | None = None, coord_fs: Sequence[Callable[..., Any]] = ()) -> Tensor:
    """Points moved as `resample` moves the pixels, that is by the inverse.

    Args:
        x: [B,n,2], in -1..1.
        m: as for `resample`.
        coord_fs: as for `resample`; called with `invert=True`.
    """
    for f in reversed(coord_fs):
        x = f(x, invert=True)
    return x if m is None else move_by(x, torch.linalg.inv(m).to(x.device, x.dtype, non_blocking=True))


def _move_boxes(x: Tensor, m: Tensor | None, coord_fs: Sequence[Callable]) -> Tensor:
    """Boxes [B,n,4]: the smallest upright boxes around the four moved corners."""
    corners = torch.stack([x[..., [0, 1]], x[..., [0, 3]], x[..., [2, 1]], x[..., [2, 3]]], dim=2)
    moved = move_points(corners.flatten(1, 2), m, coord_fs).view(corners.shape)
    return torch.cat([moved.amin(2), moved.amax(2)], -1)


def move(x: Tensor, m: Tensor | None, size: Any, mode: str | None, mode_mask: str, pad_mode: str,
         align_corners: bool | None, coord_fs: Sequence[Callable[..., Any]] = ()) -> Tensor:
    """`x` moved in the way of its marker: pictures and masks resampled, points and boxes by the inverse.

    Args:
        x: a marked batch.
        m, size, pad_mode, align_corners, coord_fs: as for `resample`; points and boxes need `m` and `coord_fs` alone.
        mode: as for `resample`, for pictures; None is 'bilinear'.
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
        coarse = _too_coarse(m, b, size) if mode != 'nearest' else torch.zeros(len(b), dtype=torch.bool)
        if coarse.any() and not coarse.all():
            return _in_two(coarse, lambda at: _move_pixels(b[at], is_mask, m[at], size, mode, mode_mask, pad_mode,
                                                           align_corners, ()))
        if not coarse.any():
            warped = warp_bytes(b, on_cpu, size, mode, pad_mode, bool(align_corners))
            if warped is not None:
                return warped
    floats = b if b.is_floating_point() else b.float()
    if is_mask and b.ndim == 3:
        return resample(floats[:, None], m, size, mode, pad_mode, align_corners, coord_fs)[:, 0].round().long()
    moved = resample(floats, m, size, mode, pad_mode, align_corners, coord_fs)
    return moved.round().long() if is_mask else moved if b.is_floating_point() else moved.round().to(b.dtype)


# ---------------------------------------------------------------- bytes on the CPU

def can_warp_bytes() -> bool:
    """Whether OpenCV is there."""
    return opencv() is not None


def pixel_matrices(m: Tensor, size_in: tuple[int, int], size_out: tuple[int, int], align_corners: bool) -> np.ndarray:
    """Homographies between positions in -1..1 as homographies between pixels, float64 [B,3,3].

    Args:
        m: [B,3,3] from output to input positions.
        size_in: (height, width) of the input.
        size_out: (height, width) of the output.
        align_corners: whether -1 and 1 are the centres of the corner pixels or their outer edges.
    """
    def _to_unit(size: tuple[int, int]) -> np.ndarray:
        h, w = size
        if align_corners:
            return np.array([[2 / (w - 1), 0, -1], [0, 2 / (h - 1), -1], [0, 0, 1]])
        return np.array([[2 / w, 0, 1 / w - 1], [0, 2 / h, 1 / h - 1], [0, 0, 1]])

    return np.linalg.inv(_to_unit(size_in)) @ m.double().numpy() @ _to_unit(size_out)


def warp_bytes(x: Tensor, m: Tensor, size: tuple[int, int], mode: str, pad_mode: str,
               align_corners: bool) -> Tensor | None:
    """Read uint8 pictures [B,C,H,W] or masks [B,H,W] at the positions the matrices give.

    Pixels differ from those of a float sampler by rounding to 1/32 of a pixel and to whole values.

    Args:
        x: on the CPU; the result has its memory format.
        m: [B,3,3] from output to input positions, on the CPU.
        size: (height, width) of the output.
        mode: 'bilinear' or 'nearest'.
        pad_mode: 'reflection', 'border' or 'zeros'.
        align_corners: see `pixel_matrices`.

    Returns:
        None where OpenCV is absent or cannot do it.
    """
    cv2 = opencv()
    planes = x[:, None] if x.ndim == 3 else x
    if cv2 is None or mode not in ('bilinear', 'nearest') or planes.shape[1] > 4 or min(*size, *planes.shape[2:]) < 2:
        return None
    reflected = cv2.BORDER_REFLECT_101 if align_corners else cv2.BORDER_REFLECT
    border = {'reflection': reflected, 'border': cv2.BORDER_REPLICATE, 'zeros': cv2.BORDER_CONSTANT}[pad_mode]
    flags = (cv2.INTER_LINEAR if mode == 'bilinear' else cv2.INTER_NEAREST) | cv2.WARP_INVERSE_MAP
    matrices = pixel_matrices(m, tuple(planes.shape[2:]), size, align_corners)
    target = np.empty((len(x), planes.shape[1], *size), np.uint8)
    # with a fourth channel OpenCV reads aligned pixels, in three quarters of the time
    n, unused = (4 if planes.shape[1] == 3 else planes.shape[1]), np.empty(size, np.uint8)
    pixels, moved = np.empty((*planes.shape[2:], n), np.uint8), np.empty((*size, n), np.uint8)
    for source, goal, matrix in zip(planes.numpy(), target, matrices):
        cv2.merge([*source, source[0]][:n], pixels)
        cv2.warpPerspective(pixels, matrix, size[::-1], moved, flags, border)
        cv2.split(moved, [*goal, unused][:n])
    warped = torch.from_numpy(target)
    if x.ndim == 3:
        return warped[:, 0]
    return warped if x.is_contiguous() else warped.contiguous(memory_format=torch.channels_last)


# ---------------------------------------------------------------- the same as methods of the marker tensors

def _moved(x: Tensor, m: Tensor, size: Any, mode: str | None, pad_mode: str | None, align_corners: bool) -> Tensor:
    """A marked batch moved by affine matrices; points alone do not say what shape their picture has."""
    flat = isinstance(x, TensorPoint) or x.ndim < 3
    m = homography((1, 1) if flat else tuple(x.shape[-2:]), [m])
    return move(x, m, size, mode, mode or 'nearest', pad_mode or 'reflection', align_corners)


@gives_methods_to(TensorImage, TensorMask, TensorPoint)
class GeometryMethods:
    """What pictures, masks, points and boxes can do besides: batches moved by hand, for a try."""

    def affine_coord(self: Tensor, mat: Tensor | None = None, coord_tfm: Callable[..., Any] | None = None,
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

    def flip_batch(self: Tensor, p: float = 0.5, draw: Draw = None, size: int | tuple[int, int] | None = None,
                   mode: str | None = None, pad_mode: str | None = None, align_corners: bool = True,
                   batch: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """Mirror samples of a batch, see `Flip`.

        Args:
            p: probability for each sample.
            draw: 1 (mirror) or 0, instead of 1, see `Draw`.
            size: a side, or (height, width), of the result; default: as it was.
            mode: how pixels are read; default: 'bilinear', 'nearest' for masks.
            pad_mode: what lies outside, one of `PadMode`; default: 'reflection'.
            align_corners: see `resample`.
            batch: all samples of the batch alike.
            generator: as for `draw_values`.
        """
        return _moved(self, flip_mat(self, p, draw, batch, generator), size, mode, pad_mode, align_corners)

    def dihedral_batch(self: Tensor, p: float = 0.5, draw: Draw = None, size: int | tuple[int, int] | None = None,
                       mode: str | None = None, pad_mode: str | None = None, batch: bool = False,
                       align_corners: bool = True, generator: torch.Generator | None = None) -> Tensor:
        """Turn and mirror samples of a batch.

        `p` and `draw` as for `Dihedral`; `size`, `mode`, `pad_mode`, `align_corners`, `batch` and `generator` as for
        `flip_batch`.
        """
        return _moved(self, dihedral_mat(self, p, draw, batch, generator), size, mode, pad_mode, align_corners)

    def rotate(self: Tensor, size: int | tuple[int, int] | None = None, mode: str | None = None,
               pad_mode: str | None = None, align_corners: bool = True, max_deg: float = 10, p: float = 0.5,
               draw: Draw = None, batch: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """Rotate samples of a batch.

        `max_deg`, `p` and `draw` as for `Rotate`; `size`, `mode`, `pad_mode`, `align_corners`, `batch` and `generator`
        as for `flip_batch`.
        """
        return _moved(self, rotate_mat(self, max_deg, p, draw, batch, generator), size, mode, pad_mode, align_corners)

    def zoom(self: Tensor, size: int | tuple[int, int] | None = None, mode: str | None = None,
             pad_mode: str | None = None, align_corners: bool = True, min_zoom: float = 1., max_zoom: float = 1.1,
             p: float = 0.5, draw: Draw = None, draw_x: Draw = None, draw_y: Draw = None, batch: bool = False,
             generator: torch.Generator | None = None) -> Tensor:
        """Zoom into samples of a batch.

        `min_zoom`, `max_zoom`, `p`, `draw`, `draw_x` and `draw_y` as for `Zoom`; `size`, `mode`, `pad_mode`,
        `align_corners`, `batch` and `generator` as for `flip_batch`.
        """
        m = zoom_mat(self, min_zoom, max_zoom, p, draw, draw_x, draw_y, batch, generator)
        return _moved(self, m, size, mode, pad_mode, align_corners)

    def warp(self: Tensor, size: int | tuple[int, int] | None = None, mode: str | None = None,
             pad_mode: str | None = None, align_corners: bool = True, magnitude: float = 0.2, p: float = 0.5,
             draw_x: Draw = None, draw_y: Draw = None, batch: bool = False,
             generator: torch.Generator | None = None) -> Tensor:
        """Tilt samples of a batch.

        `magnitude`, `p`, `draw_x` and `draw_y` as for `Warp`; `size`, `mode`, `pad_mode`, `align_corners`, `batch` and
        `generator` as for `flip_batch`.
        """
        m = warp_mat(self, magnitude, p, draw_x, draw_y, batch, generator)
        return move(self, m, size, mode, mode or 'nearest', pad_mode or 'reflection', align_corners)


# ---------------------------------------------------------------- transforms

def is_ours(f: Any, functions: Sequence[Callable[..., Any]]) -> bool:
    """Whether `f` is one of these functions with values given as data: it draws from the generator handed over."""
    return isinstance(f, partial) and f.func in functions and not any(map(callable, f.keywords.values()))


def joined_name(tfm: Any, name: str) -> str:
    """`name`, or the classes that were joined into the transform."""
    return name if len(tfm.parts) == 1 else ' + '.join(type(part).__name__ for part in tfm.parts)


_matrices = (flip_mat, dihedral_mat, rotate_mat, zoom_mat, warp_mat)
"""What draws from the generator it is given."""


class WarpCoord:
    """A perspective warp among functions of positions: `mat` draws its matrices.

    `magnitude`, `p`, `draw_x`, `draw_y` and `batch` as for `warp_mat`.
    """

    def __init__(self, magnitude: float = 0.2, p: float = 0.5, draw_x: Draw = None, draw_y: Draw = None,
                 batch: bool = False) -> None:
        self.mat = partial(warp_mat, magnitude=magnitude, p=p, draw_x=draw_x, draw_y=draw_y, batch=batch)


class CropWindow:
    """One window for a whole batch, as a matrix: at random in training, the middle in validation.

    `min_scale`, `max_scale`, `ratio` and `valid_scale` as for `RandomResizedCropGPU`.
    """

    def __init__(self, min_scale: float, max_scale: float, ratio: tuple[float, float], valid_scale: float) -> None:
        self.scale, self.ratio, self.valid_scale = (min_scale, max_scale), ratio, valid_scale

    def mat(self, x: Tensor, split_idx: int | None, align_corners: bool | None,
            generator: torch.Generator | None) -> Tensor:
        """Matrices [B,3,3] that show the window in full.

        Args:
            x: the batch [B,...,H,W]; only its shape is used.
            split_idx: 1 is validation.
            align_corners: see `resample`.
            generator: as for `draw_values`.
        """
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
        align_corners: see `resample`.
        p: shown in the name; each function draws by a probability of its own.
        nm: a name instead of the class's.
    """

    order = 30
    split_idx = None
    supports = (TensorImage, TensorMask, TensorPoint)

    def __init__(self, aff_fs: Callable[..., Any] | Sequence[Callable[..., Any]] | None = None,
                 coord_fs: Callable[..., Any] | Sequence[Callable[..., Any]] | None = None, size: Size = None,
                 mode: str = 'bilinear', pad_mode: str = PadMode.Reflection, mode_mask: str = 'nearest',
                 align_corners: bool | None = None, p: float = 1., nm: str | None = None) -> None:
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

    def draw(self, sample: Any, split_idx: int | None, generator: torch.Generator | None) -> tuple[Any, ...] | None:
        """(matrices [B,3,3] or None, further functions of positions); None where nothing is to be done.

        Args:
            sample: a batch, with or without targets; its pictures count, else its first tensor.
            split_idx: 1 is validation, where `size` and `CropWindow` alone have an effect.
            generator: as for `draw_values`; functions of the user's own are not given it.
        """
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
        m = homography(tuple(x.shape[-2:]), mats, warps)
        return None if m is None and not moves and self.size is None else (m, tuple(moves))

    def apply(self, x: Tensor, params: tuple[Any, ...]) -> Tensor:
        """`x` moved by `params`, what was drawn."""
        m, moves = params
        return move(x, m, self.size, self.mode, self.mode_mask, self.pad_mode, self.align_corners, moves)


def _move_by(m: Tensor, xy: Tensor, invert: bool = False) -> Tensor:
    return move_by(xy, (torch.linalg.inv(m) if invert else m).to(xy.device, non_blocking=True))


@registered
class Flip(AffineCoordTfm):
    """Mirror left and right.

    Args:
        p: probability for each sample.
        draw: 1 (mirror) or 0, instead of one at random, see `Draw`.
        size: see `AffineCoordTfm`, as `mode`, `pad_mode` and `align_corners`.
        batch: all samples of a batch alike.

    Example:
        >>> dls = ImageDataLoaders.from_folder(path, valid_pct=0.2, item_tfms=Resize(64), batch_tfms=Flip(p=0.5))
    """

    def __init__(self, p: float = 0.5, draw: Draw = None, size: Size = None, mode: str = 'bilinear',
                 pad_mode: str = PadMode.Reflection, align_corners: bool = True, batch: bool = False) -> None:
        super().__init__(partial(flip_mat, p=p, draw=draw, batch=batch), size=size, mode=mode,
                         pad_mode=pad_mode, align_corners=align_corners, p=p)
        self._draw, self.batch = draw, batch


class DeterministicDraw:
    """A `draw` that goes through values, one a batch.

    Args:
        vals: begun again when they are used up.
    """

    def __init__(self, vals: Sequence[float]) -> None:
        self.vals, self.count = vals, -1

    def __call__(self, x: Tensor) -> Tensor:
        """The next value, for all samples of `x`."""
        self.count += 1
        return torch.full((x.shape[0],), float(self.vals[self.count % len(self.vals)]), device=x.device)


@registered
class DeterministicFlip(Flip):
    """Mirror every second batch; `size`, `mode`, `pad_mode` and `align_corners` as for `AffineCoordTfm`."""

    def __init__(self, size: Size = None, mode: str = 'bilinear', pad_mode: str = PadMode.Reflection,
                 align_corners: bool = True) -> None:
        super().__init__(1., DeterministicDraw([0, 1]), size, mode, pad_mode, align_corners)


@registered
class Dihedral(AffineCoordTfm):
    """One of the eight symmetries of a square, each as likely.

    Args:
        p: probability for each sample.
        draw: the number 0..7 of one in `TURNS`, instead of one at random, see `Draw`.
        size: see `AffineCoordTfm`, as `mode`, `pad_mode` and `align_corners`.
        batch: all samples of a batch alike.

    Example:
        >>> dls = ImageDataLoaders.from_folder(path, valid_pct=0.2, item_tfms=Resize(64), batch_tfms=Dihedral())
    """

    def __init__(self, p: float = 0.5, draw: Draw = None, size: Size = None, mode: str = 'bilinear',
                 pad_mode: str = PadMode.Reflection, batch: bool = False, align_corners: bool = True) -> None:
        super().__init__(partial(dihedral_mat, p=p, draw=draw, batch=batch), size=size, mode=mode,
                         pad_mode=pad_mode, align_corners=align_corners, p=p)
        self._draw, self.batch = draw, batch


@registered
class DeterministicDihedral(Dihedral):
    """The eight symmetries in turn, one a batch.

    `size`, `mode`, `pad_mode` and `align_corners` as for `AffineCoordTfm`.
    """

    def __init__(self, size: Size = None, mode: str = 'bilinear', pad_mode: str = PadMode.Reflection,
                 align_corners: bool = True) -> None:
        super().__init__(1., DeterministicDraw(range(8)), size, mode, pad_mode, False, align_corners)


@registered
class Rotate(AffineCoordTfm):
    """Rotate clockwise by an angle of -max_deg..max_deg.

    Args:
        max_deg: degrees.
        p: probability for each sample.
        draw: degrees, instead of some at random, see `Draw`.
        size: see `AffineCoordTfm`, as `mode`, `pad_mode` and `align_corners`.
        batch: all samples of a batch alike.

    Example:
        >>> pictures = TensorImage(torch.rand(8, 3, 64, 64))
        >>> Rotate(max_deg=30, p=1.)(pictures, split_idx=0).shape
        torch.Size([8, 3, 64, 64])
    """

    def __init__(self, max_deg: float = 10, p: float = 0.5, draw: Draw = None, size: Size = None,
                 mode: str = 'bilinear', pad_mode: str = PadMode.Reflection, align_corners: bool = True,
                 batch: bool = False) -> None:
        super().__init__(partial(rotate_mat, max_deg=max_deg, p=p, draw=draw, batch=batch), size=size,
                         mode=mode, pad_mode=pad_mode, align_corners=align_corners, p=p)
        self.max_deg, self._draw, self.batch = max_deg, draw, batch


@registered
class Zoom(AffineCoordTfm):
    """Zoom towards a point of the picture.

    Args:
        min_zoom: smallest factor; below 1 the picture gets smaller.
        max_zoom: largest factor.
        p: probability for each sample.
        draw: a factor, instead of one at random, see `Draw`.
        draw_x: where the point is, 0..1 from the left, instead of anywhere.
        draw_y: where it is, 0..1 from the top.
        size: see `AffineCoordTfm`, as `mode`, `pad_mode` and `align_corners`.
        batch: all samples of a batch alike.

    Example:
        >>> dls = ImageDataLoaders.from_folder(path, valid_pct=0.2, item_tfms=Resize(64), batch_tfms=Zoom(max_zoom=1.2))
    """

    def __init__(self, min_zoom: float = 1., max_zoom: float = 1.1, p: float = 0.5, draw: Draw = None,
                 draw_x: Draw = None, draw_y: Draw = None, size: Size = None, mode: str = 'bilinear',
                 pad_mode: str = PadMode.Reflection, batch: bool = False, align_corners: bool = True) -> None:
        super().__init__(partial(zoom_mat, min_zoom=min_zoom, max_zoom=max_zoom, p=p, draw=draw, draw_x=draw_x,
                                 draw_y=draw_y, batch=batch), size=size, mode=mode, pad_mode=pad_mode,
                         align_corners=align_corners, p=p)
        self.min_zoom, self.max_zoom, self.batch = min_zoom, max_zoom, batch
        self._draw, self.draw_x, self.draw_y = draw, draw_x, draw_y


@registered
class Warp(AffineCoordTfm):
    """Tilt the plane of the picture, as if it was seen from the side and from above.

    Args:
        magnitude: largest tilt each way: by this part the near side grows and the far side shrinks, 0..1.
        p: probability for each sample and way.
        draw_x: the tilt to the side, -1..1, instead of one at random, see `Draw`; positive: the left side is near.
        draw_y: the tilt up or down; positive: the top is near.
        size: see `AffineCoordTfm`, as `mode`, `pad_mode` and `align_corners`.
        batch: all samples of a batch alike.

    Example:
        >>> dls = ImageDataLoaders.from_folder(path, valid_pct=0.2, item_tfms=Resize(64), batch_tfms=Warp(0.2))
    """

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
        p: shown in the name; a window is cut out of every batch.
        nm: a name instead of the class's.

    Example:
        >>> tfms = [RandomResizedCropGPU(48, min_scale=0.5)]
        >>> dls = ImageDataLoaders.from_folder(path, valid_pct=0.2, item_tfms=Resize(64), batch_tfms=tfms)
    """

    def __init__(self, size: int | tuple[int, int], min_scale: float = 0.08,
                 ratio: tuple[float, float] = (3 / 4, 4 / 3), mode: str = 'bilinear', valid_scale: float = 1.,
                 max_scale: float = 1., mode_mask: str = 'nearest', p: float = 1., nm: str | None = None) -> None:
        super().__init__(CropWindow(min_scale, max_scale, ratio, valid_scale), size=as_size(size), mode=mode,
                         mode_mask=mode_mask, align_corners=True, p=p, nm=nm)
        self.min_scale, self.max_scale, self.ratio, self.valid_scale = min_scale, max_scale, ratio, valid_scale
