"""Transforms of one sample before it is put into a batch: everything that makes pictures the same size, and flips."""
from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from PIL import Image

from minifast.arguments import as_side, as_size
from minifast.data.pipeline import RandTransform, keyed, registered
from minifast.markers import TensorImage, TensorMask
from minifast.vision.core import BILINEAR, NEAREST, PILMask
from minifast.vision.points import TensorPoint, picture_size, size_around
from minifast.vision.resize import PadMode, ResizeMethod, as_wh, crop_pad, dihedral

__all__ = ['CropPad', 'DihedralItem', 'FlipItem', 'OldRandomCrop', 'RandomCrop', 'RandomResizedCrop', 'RatioResize',
           'Resize', 'integer', 'random_window', 'uniforms']

_MOVABLE = (Image.Image, TensorPoint)
_MIRRORED = (Image.Image, TensorPoint, TensorImage, TensorMask)


def uniforms(n: int, generator: torch.Generator | None) -> list[float]:
    """`n` numbers in 0..1."""
    return torch.rand(n, generator=generator).tolist()  # sync: none, drawn on the CPU


def integer(uniform: float, low: int, high: int) -> int:
    """A number in 0..1 as an integer in low..high, both included."""
    return low + min(int(uniform * (high - low + 1)), high - low)


@registered
class FlipItem(RandTransform):
    """Mirror left and right with probability `p`: pictures, masks, points and boxes of the sample together."""

    supports = _MIRRORED

    def __init__(self, p: float = 0.5) -> None:
        super().__init__(p=p)

    def draw(self, sample: Any, split_idx: int | None, generator: torch.Generator | None) -> int | None:
        """1 to mirror, None to leave the sample alone."""
        return 1 if uniforms(1, generator)[0] < self.p else None

    def apply(self, x: Any, k: int) -> Any:
        """`x` mirrored."""
        return dihedral(x, k)


@registered
class DihedralItem(FlipItem):
    """One of the eight symmetries of a square, each as likely, with probability `p`."""

    def __init__(self, p: float = 1., nm: str | None = None) -> None:
        RandTransform.__init__(self, p=p, nm=nm)
        self.nm = nm

    def draw(self, sample: Any, split_idx: int | None, generator: torch.Generator | None) -> int | None:
        """The symmetry 0..7, None to leave the sample alone."""
        coin, which = uniforms(2, generator)
        return integer(which, 0, 7) if coin < self.p else None


@keyed
class _Window(RandTransform):
    """A window cut out of all parts of a sample by numbers that are drawn once; pictures of another size than the first
    get their own window by the same numbers."""

    supports = _MOVABLE
    split_idx = None
    order = 1
    pad_mode = PadMode.Zeros
    resamples = (BILINEAR, NEAREST)
    n_draws = 0

    def draws(self, split_idx: int | None) -> bool:
        """Whether the window is not the same each time."""
        return super().draws(split_idx) and self.n_draws > 0 and not split_idx

    def draw(self, sample: Any, split_idx: int | None, generator: torch.Generator | None) -> tuple:
        """The numbers, None in validation, and the size of the picture that points and boxes belong to."""
        return None if split_idx else uniforms(self.n_draws, generator), picture_size(sample)

    def window(self, orig: tuple[int, int], draws: list[float] | None) -> tuple:
        """(size, top_left, final size or None) for a picture of size `orig`, all (width, height)."""
        raise NotImplementedError(f'{type(self).__name__} says nowhere which window it cuts out: write window()')

    def apply(self, x: Any, drawn: tuple) -> Any:
        """The window of `x`, resized."""
        draws, picture = drawn
        orig = x.size if isinstance(x, Image.Image) else size_around(x, picture)
        size, top_left, final = self.window(orig, draws)
        resample = self.resamples[1] if isinstance(x, PILMask) else self.resamples[0]
        return self.finish(crop_pad(x, size, top_left, orig, self.pad_mode, resample, final), final)

    def finish(self, resized: Any, final: tuple[int, int] | None) -> Any:
        """What becomes of a part of the sample that was cut out and resized to `final`."""
        return resized


@registered
class CropPad(_Window):
    """Cut the middle out, or put the picture into the middle.

    Args:
        size: a side, or (height, width).
        pad_mode: what lies outside, one of `PadMode`.
    """

    order = 0

    def __init__(self, size: int | tuple[int, int], pad_mode: str = PadMode.Zeros) -> None:
        super().__init__()
        self.size, self.pad_mode = as_size(size), pad_mode

    def window(self, orig: tuple[int, int], draws: list[float] | None) -> tuple:
        """The middle."""
        size = as_wh(self.size)
        return size, ((orig[0] - size[0]) // 2, (orig[1] - size[1]) // 2), None


@registered
class RandomCrop(_Window):
    """Cut `size` out at random, the middle in validation; smaller pictures are put anywhere within black.

    Args:
        size: a side, or (height, width).
    """

    n_draws = 2

    def __init__(self, size: int | tuple[int, int], p: float = 1., nm: str | None = None) -> None:
        super().__init__(p=p, nm=nm)
        self.size, self.nm = as_size(size), nm

    def window(self, orig: tuple[int, int], draws: list[float] | None) -> tuple:
        """Where to cut."""
        size = as_wh(self.size)
        spare = [orig[i] - size[i] for i in (0, 1)]
        if draws is None:
            return size, (spare[0] // 2, spare[1] // 2), None
        return size, tuple(integer(u, min(s, 0), max(s, 0)) for u, s in zip(draws, spare)), None


@registered
class OldRandomCrop(RandomCrop):
    """`RandomCrop` under the name of earlier releases."""


@registered
class Resize(_Window):
    """Make every picture `size` large.

    Args:
        size: a side, or (height, width).
        method: 'crop' cuts off what does not fit (anywhere in training, evenly in validation), 'pad' fills up what
            is missing, 'squish' stretches.
        pad_mode: what 'pad' fills up with, one of `PadMode`.
        resamples: Pillow's filters for pictures and for masks.
    """

    n_draws = 2

    def __init__(self, size: int | tuple[int, int], method: str = ResizeMethod.Crop, pad_mode: str = PadMode.Reflection,
                 resamples: tuple[int, int] = (BILINEAR, NEAREST), p: float = 1., nm: str | None = None) -> None:
        super().__init__(p=p, nm=nm)
        if method not in ('crop', 'pad', 'squish'):
            warnings.warn(f"Resize method {method!r} is none of 'crop', 'pad' and 'squish' (see ResizeMethod): it "
                          'crops', stacklevel=3)
        self.size, self.method, self.pad_mode = as_size(size), method, pad_mode
        self.resamples, self.nm = resamples, nm

    def draws(self, split_idx: int | None) -> bool:
        """Whether the window is not the same each time."""
        return self.method != ResizeMethod.Squish and super().draws(split_idx)

    def window(self, orig: tuple[int, int], draws: list[float] | None) -> tuple:
        """Which part of the picture is kept."""
        (w, h), size = orig, as_wh(self.size)
        if self.method == ResizeMethod.Squish:
            return orig, (0, 0), size
        ratios = (w / size[0], h / size[1])
        ratio = max(ratios) if self.method == ResizeMethod.Pad else min(ratios)
        window = (int(ratio * size[0]), int(ratio * size[1]))
        pcts = (0.5, 0.5) if draws is None else draws
        return window, (int(pcts[0] * (w - window[0])), int(pcts[1] * (h - window[1]))), size


@registered
class RandomResizedCrop(_Window):
    """Cut out a part of random area and aspect and resize it: the usual augmentation for training on ImageNet.

    In validation the whole picture is stretched to `size` and a margin, of which the middle is kept.

    Args:
        size: a side, or (height, width).
        min_scale: smallest part of the area, 0..1.
        ratio: smallest and largest width over height.
        resamples: Pillow's filters for pictures and for masks.
        val_xtra: margin in validation, as a part of `size`, rounded up to 8 pixels.
        max_scale: largest part of the area, 0..1.

    Source: Szegedy et al., "Going deeper with convolutions", 2015.
    """

    n_draws = 22

    def __init__(self, size: int | tuple[int, int], min_scale: float = 0.08,
                 ratio: tuple[float, float] = (3 / 4, 4 / 3), resamples: tuple[int, int] = (BILINEAR, NEAREST),
                 val_xtra: float = 0.14, max_scale: float = 1., p: float = 1., nm: str | None = None) -> None:
        super().__init__(p=p, nm=nm)
        self.size, self.min_scale, self.max_scale, self.ratio = as_size(size), min_scale, max_scale, ratio
        self.resamples, self.val_xtra, self.nm = resamples, val_xtra, nm

    def window(self, orig: tuple[int, int], draws: list[float] | None) -> tuple:
        """Which part of the picture is kept; in validation all of it, with a margin."""
        size = as_wh(self.size)
        if draws is None:
            extra = math.ceil(max(size) * self.val_xtra / 8) * 8
            return orig, (0, 0), (size[0] + extra, size[1] + extra)
        return *_window_by(draws, orig, (self.min_scale, self.max_scale), self.ratio), size

    def finish(self, resized: Any, final: tuple[int, int]) -> Any:
        """The middle, where there is a margin."""
        size = as_wh(self.size)
        if final == size:
            return resized
        return crop_pad(resized, size, ((final[0] - size[0]) // 2, (final[1] - size[1]) // 2), final)


def random_window(orig: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float],
                  generator: torch.Generator | None) -> tuple[tuple[int, int], tuple[int, int]]:
    """(size, top_left) of a window of random area and aspect, each (width, height) in pixels.

    Ten attempts, then the largest window in the middle whose aspect is allowed.
    """
    return _window_by(uniforms(22, generator), orig, scale, ratio)


def _window_by(draws: list[float], orig: tuple[int, int], scale: tuple[float, float],
               ratio: tuple[float, float]) -> tuple[tuple[int, int], tuple[int, int]]:
    w, h = orig
    logs = math.log(ratio[0]), math.log(ratio[1])
    for u_area, u_ratio in zip(draws[2::2], draws[3::2]):
        area = (scale[0] + (scale[1] - scale[0]) * u_area) * w * h
        aspect = math.exp(logs[0] + (logs[1] - logs[0]) * u_ratio)
        nw, nh = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < nw <= w and 0 < nh <= h:
            return (nw, nh), (integer(draws[0], 0, w - nw), integer(draws[1], 0, h - nh))
    if w / h < ratio[0]:
        nw, nh = w, int(w / ratio[0])
    elif w / h > ratio[1]:
        nw, nh = int(h * ratio[1]), h
    else:
        nw, nh = w, h
    nw, nh = max(nw, 1), max(nh, 1)
    return (nw, nh), ((w - nw) // 2, (h - nh) // 2)


@registered
class RatioResize(_Window):
    """Resize so that the longer side is `max_sz` pixels, the aspect kept.

    Args:
        max_sz: pixels of the longer side.
        resamples: Pillow's filters for pictures and for masks.
    """

    def __init__(self, max_sz: int, resamples: tuple[int, int] = (BILINEAR, NEAREST)) -> None:
        super().__init__()
        self.max_sz, self.resamples = as_side(max_sz, 'max_sz'), resamples

    def window(self, orig: tuple[int, int], draws: list[float] | None) -> tuple:
        """The whole picture."""
        w, h = orig
        longer = max(w, h)
        # int() as everywhere in fastai's geometry; never below one pixel
        final = max(int(w * self.max_sz / longer), 1), max(int(h * self.max_sz / longer), 1)
        return orig, (0, 0), final
