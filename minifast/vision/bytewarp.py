"""The geometry of uint8 pictures on the CPU: OpenCV reads whole pixels in fixed point, in half of a float sampler's
time."""
from __future__ import annotations

from functools import cache
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

__all__ = ['can_warp_bytes', 'look_up', 'pixel_matrices', 'warp_bytes']


@cache
def _cv2() -> ModuleType | None:
    try:
        import cv2
    except ImportError:  # no wheel for this machine: torch samples floats
        return None
    return cv2


def can_warp_bytes() -> bool:
    """Whether OpenCV is there."""
    return _cv2() is not None


def look_up(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Each value of uint8 [n] exchanged by what the uint8 table [256] says."""
    cv2 = _cv2()
    return table.take(values) if cv2 is None else cv2.LUT(values.reshape(1, -1), table).reshape(-1)


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
    cv2 = _cv2()
    planes = x[:, None] if x.ndim == 3 else x
    if cv2 is None or mode not in ('bilinear', 'nearest') or planes.shape[1] > 4 or min(*size, *planes.shape[2:]) < 2:
        return None
    reflected = cv2.BORDER_REFLECT_101 if align_corners else cv2.BORDER_REFLECT
    border = {'reflection': reflected, 'border': cv2.BORDER_REPLICATE, 'zeros': cv2.BORDER_CONSTANT}[pad_mode]
    flags = (cv2.INTER_LINEAR if mode == 'bilinear' else cv2.INTER_NEAREST) | cv2.WARP_INVERSE_MAP
    matrices = pixel_matrices(m, tuple(planes.shape[2:]), size, align_corners)
    # [B,H,W,C] is what OpenCV reads; for pictures decoded into arrays that is how they lie in memory anyway
    source = planes.permute(0, 2, 3, 1).contiguous().numpy()
    target = np.empty((len(x), *size, planes.shape[1]), np.uint8)
    for src, dst, matrix in zip(source, target, matrices):
        cv2.warpPerspective(src, matrix, size[::-1], dst=dst, flags=flags, borderMode=border)
    warped = torch.from_numpy(target).permute(0, 3, 1, 2)
    if x.ndim == 3:
        return warped[:, 0]
    return warped.contiguous() if x.is_contiguous() else warped
