"""The geometry of uint8 pictures on the CPU: OpenCV reads whole pixels in fixed point, in half of a float sampler's
time."""
from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from minifast.data.bytetable import opencv
from minifast.data.collate import Slots, new_pixels

__all__ = ['can_warp_bytes', 'in_planes', 'pixel_matrices', 'warp_bytes']


def can_warp_bytes() -> bool:
    """Whether OpenCV is there."""
    return opencv() is not None


def in_planes(pixels: np.ndarray, mirrored: bool = False, slots: Slots | None = None) -> np.ndarray:
    """uint8 [H,W,C] with its planes one after the other in memory, in `slots` if given; mirrored left and right."""
    planes, cv2 = new_pixels((pixels.shape[2], *pixels.shape[:2]), slots), opencv()
    if cv2 is None or not pixels.flags.c_contiguous:
        planes[:] = (pixels[:, ::-1] if mirrored else pixels).transpose(2, 0, 1)
    else:
        cv2.split(cv2.flip(pixels, 1) if mirrored else pixels, list(planes))  # numpy and torch take ten times as long
    return planes.transpose(1, 2, 0)


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
