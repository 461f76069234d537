"""The augmentations under one roof, and `aug_transforms`, the set that suits most pictures."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from fastcore.foundation import L
from torch import Tensor

from minifast.arguments import tells_near_match
from minifast.data.transform import RandTransform, Transform
from minifast.markers import TensorFlowField, plain
from minifast.vision.core import picture_size
from minifast.vision.crop import (CropPad, DihedralItem, FlipItem, OldRandomCrop, PadMode, RandomCrop,
                                  RandomResizedCrop, RatioResize, Resize, ResizeMethod)
from minifast.vision.crop import _pad_modes as _pad_modes  # as `_slice` and `_get_sz`, for plugin packages
from minifast.vision.geometry import (AffineCoordTfm, DeterministicDihedral, DeterministicDraw, DeterministicFlip,
                                      Dihedral, Flip, RandomResizedCropGPU, Rotate, Warp, Zoom, affine_mat,
                                      apply_perspective, dihedral_mat, find_coeffs, flip_mat, mask_tensor, rotate_mat,
                                      zoom_mat)
from minifast.vision.light import (Brightness, Contrast, HSVTfm, Hue, LightingTfm, RandomErasing, Saturation, SpaceTfm,
                                   cutout_gaussian, grayscale, hsv2rgb, norm_apply_denorm, rgb2hsv)
from minifast.vision.light import _slice as _slice

__all__ = ['AffineCoordTfm', 'Brightness', 'Contrast', 'CropPad', 'DeterministicDihedral', 'DeterministicDraw',
           'DeterministicFlip', 'Dihedral', 'DihedralItem', 'Flip', 'FlipItem', 'HSVTfm', 'Hue', 'LightingTfm',
           'OldRandomCrop', 'PadMode', 'RandTransform', 'RandomCrop', 'RandomErasing', 'RandomResizedCrop',
           'RandomResizedCropGPU', 'RatioResize', 'Resize', 'ResizeMethod', 'Rotate', 'Saturation', 'SpaceTfm', 'Warp',
           'Zoom', 'affine_grid', 'affine_mat', 'apply_perspective', 'aug_transforms', 'cutout_gaussian',
           'dihedral_mat', 'find_coeffs', 'flip_mat', 'grayscale', 'hsv2rgb', 'mask_tensor', 'norm_apply_denorm',
           'rgb2hsv', 'rotate_mat', 'setup_aug_tfms', 'zoom_mat']


def affine_grid(theta: Tensor, size: Sequence[int], align_corners: bool | None = None) -> TensorFlowField:
    """Sampling positions [B,H,W,2] of affine matrices, as torch's `affine_grid` makes them.

    Args:
        theta: [B,2,3], from output to input positions.
        size: of the pictures, [B,C,H,W].
        align_corners: whether -1 and 1 are the centres of the corner pixels (True) or their outer edges (None, False).
    """
    return TensorFlowField(F.affine_grid(plain(theta), list(size), align_corners=align_corners))


def _get_sz(x: Any) -> tuple[int, int]:
    """(width, height) of a picture, of the first one of a sample, or of the one that points belong to."""
    return picture_size(x) or tuple(getattr(x, 'img_size', None) or x.shape[:-3:-1])


def _composed(tfms: list, kind: type) -> list:
    if len(tfms) < 2:
        return tfms
    first, total = tfms[0], kind.__new__(kind)
    total.__dict__.update(first.__dict__)  # the caller's own transforms stay as they were
    for tfm in tfms[1:]:
        total.compose(tfm)
    return [total]


def setup_aug_tfms(tfms: Sequence[Transform]) -> list[Transform]:
    """Join all geometry of `tfms` into one transform, and all light into another; the rest follows as it is."""
    tfms = list(tfms)
    geometry = [t for t in tfms if isinstance(t, AffineCoordTfm)]
    light = [t for t in tfms if isinstance(t, LightingTfm)]
    others = [t for t in tfms if not isinstance(t, (AffineCoordTfm, LightingTfm))]
    return _composed(geometry, AffineCoordTfm) + _composed(light, LightingTfm) + others


@tells_near_match
def aug_transforms(mult: float = 1.0, do_flip: bool = True, flip_vert: bool = False, max_rotate: float = 10.,
                   min_zoom: float = 1., max_zoom: float = 1.1, max_lighting: float = 0.2, max_warp: float = 0.2,
                   p_affine: float = 0.75, p_lighting: float = 0.75, xtra_tfms: Any = None,
                   size: int | tuple[int, int] | None = None, mode: str = 'bilinear',
                   pad_mode: str = PadMode.Reflection, align_corners: bool = True, batch: bool = False,
                   min_scale: float = 1.) -> list[Transform]:
    """Flip, warp, rotation, zoom, brightness and contrast for a batch, as few transforms.

    Args:
        mult: factor on `max_rotate`, `max_lighting` and `max_warp`.
        do_flip: mirror left and right half of the time.
        flip_vert: with `do_flip`: all eight symmetries of a square.
        max_rotate: degrees.
        min_zoom: smallest zoom factor.
        max_zoom: largest zoom factor.
        max_lighting: largest change of brightness and contrast, 0..1.
        max_warp: largest tilt, 0..1.
        p_affine: probability of each of warp, rotation and zoom.
        p_lighting: probability of each of brightness and contrast.
        xtra_tfms: further transforms; geometry and light among them are joined in.
        size: a side, or (height, width), of the result.
        mode: how pixels are read.
        pad_mode: what lies outside, one of `PadMode`.
        align_corners: see `minifast.vision.geometry.resample`.
        batch: one draw for the whole batch.
        min_scale: below 1, a random window of at least this part of the area is cut out of the batch too.

    Example:
        >>> dls = ImageDataLoaders.from_folder(path, valid_pct=0.2, item_tfms=Resize(256),
        ...                                    batch_tfms=aug_transforms(size=224, max_rotate=20., flip_vert=True))
    """
    common = {'size': size if min_scale == 1. else None, 'mode': mode, 'pad_mode': pad_mode, 'batch': batch,
              'align_corners': align_corners}
    tfms: list[Transform] = []
    if do_flip:
        tfms.append((Dihedral if flip_vert else Flip)(p=0.5, **common))
    if max_warp * mult:
        tfms.append(Warp(magnitude=max_warp * mult, p=p_affine, **common))
    if max_rotate * mult:
        tfms.append(Rotate(max_deg=max_rotate * mult, p=p_affine, **common))
    if min_zoom < 1 or max_zoom > 1:
        tfms.append(Zoom(min_zoom=min_zoom, max_zoom=max_zoom, p=p_affine, **common))
    if max_lighting * mult:
        tfms.append(Brightness(max_lighting=max_lighting * mult, p=p_lighting, batch=batch))
        tfms.append(Contrast(max_lighting=max_lighting * mult, p=p_lighting, batch=batch))
    if min_scale != 1.:
        tfms.append(RandomResizedCropGPU(size, min_scale=min_scale, ratio=(1, 1)))
    return setup_aug_tfms(tfms + list(L(xtra_tfms)))
