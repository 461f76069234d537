"""Cropping, padding, resizing and mirroring one sample: pictures, masks, points and boxes together, by one draw."""
from __future__ import annotations

import math
import threading
import warnings
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from minifast.arguments import as_side, as_size
from minifast.codetext import keyed, registered
from minifast.data.collate import Slots, new_pixels
from minifast.data.transform import RandTransform
from minifast.hardware import opencv
from minifast.markers import TensorImage, TensorImageBase, TensorMask, cast, plain
from minifast.vision.core import BILINEAR, NEAREST, PILBase, PILMask, TensorBBox, TensorPoint, picture_size, size_around
from minifast.vision.decode import MIRROR, TURNS, ScaledPixels, Turn

__all__ = ['CropPad', 'DihedralItem', 'FlipItem', 'OldRandomCrop', 'PadMode', 'RandomCrop', 'RandomResizedCrop',
           'RatioResize', 'Resize', 'ResizeMethod', 'as_wh', 'crop_pad', 'dihedral', 'flip_lr', 'integer',
           'random_window', 'uniforms']


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
    """(width, height) of a `size` given as a side or as (height, width), see `as_size`."""
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
        return type(x).from_pixels(_antialiased(pixels, turn.of_size(to), turn, x.slots))
    return None


def _pad(pixels: np.ndarray, by: tuple[int, int, int, int], pad_mode: str) -> np.ndarray:
    around = [(by[1], by[3]), (by[0], by[2])] + [(0, 0)] * (pixels.ndim - 2)
    try:
        return np.pad(pixels, around, mode=_pad_modes[pad_mode])
    except KeyError:
        raise ValueError(f'pad_mode {pad_mode!r} is none of {sorted(_pad_modes)}') from None


def _resize(like: Image.Image, pixels: np.ndarray, resample: int, to: tuple[int, int]) -> Image.Image:
    """uint8 [H,W(,C)] resized, as the class of `like`; bilinear by torch's vector code: Pillow's pixels, +-1."""
    if (pixels.shape[1], pixels.shape[0]) != to:
        if resample != BILINEAR or pixels.dtype != np.uint8 or pixels.ndim != 3:
            made = Image.fromarray(np.ascontiguousarray(pixels)).resize(to, resample)
            return type(like)(made) if isinstance(like, PILBase) else made
        pixels = _antialiased(pixels, to, slots=getattr(like, 'slots', None))
    if isinstance(like, PILBase) and pixels.dtype == np.uint8 and (pixels.ndim == 2 or pixels.shape[2] == 3):
        return type(like).from_pixels(pixels)
    made = Image.fromarray(np.ascontiguousarray(pixels))
    return type(like)(made) if isinstance(like, PILBase) else made


def _antialiased(pixels: np.ndarray, to: tuple[int, int], turn: Turn = TURNS[0],
                 slots: Slots | None = None) -> np.ndarray:
    """uint8 [H,W,C] resized bilinearly to (width, height) and turned; its planes lie one after the other."""
    pixels = pixels if pixels.flags.writeable else pixels.copy()
    source = torch.from_numpy(pixels.transpose(2, 0, 1)[None])  # numpy's views take a third of the time of torch's
    # F.interpolate would give planes whatever comes in, which takes half as long again; the numbers are the same
    resized, made = _scratch(source.shape[1], to, source.stride(1) == 1)
    torch._C._nn._upsample_bilinear2d_aa(source, (to[1], to[0]), False, None, None, out=resized)
    if turn in (TURNS[0], MIRROR):
        return _in_planes(made, turn.mirror_x, slots)
    return _in_planes(np.ascontiguousarray(turn.of(made)), slots=slots)


def _in_planes(pixels: np.ndarray, mirrored: bool = False, slots: Slots | None = None) -> np.ndarray:
    """uint8 [H,W,C] with its planes one after the other in memory, in `slots` if given; mirrored left and right."""
    planes, cv2 = new_pixels((pixels.shape[2], *pixels.shape[:2]), slots), opencv()
    if cv2 is None or not pixels.flags.c_contiguous:
        planes[:] = (pixels[:, ::-1] if mirrored else pixels).transpose(2, 0, 1)
    else:
        cv2.split(cv2.flip(pixels, 1) if mirrored else pixels, list(planes))  # numpy and torch take ten times as long
    return planes.transpose(1, 2, 0)


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
    """A picture, mask, points or boxes `x` mirrored left and right."""
    return dihedral(x, 1)


def dihedral(x: Any, k: int) -> Any:
    """Symmetry `k`, 0..7, of a square, of `TURNS`, applied to a picture, mask, points or boxes `x`."""
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


# ---------------------------------------------------------------- transforms of one sample

_MOVABLE = (Image.Image, TensorPoint)
_MIRRORED = (Image.Image, TensorPoint, TensorImage, TensorMask)


def uniforms(n: int, generator: torch.Generator | None) -> list[float]:
    """`n` numbers in 0..1, from a CPU `generator`; None for torch's global one."""
    return torch.rand(n, generator=generator).tolist()  # sync: none, drawn on the CPU


def integer(uniform: float, low: int, high: int) -> int:
    """A number `uniform` in 0..1 as an integer in `low`..`high`, both included."""
    return low + min(int(uniform * (high - low + 1)), high - low)


@registered
class FlipItem(RandTransform):
    """Mirror pictures, masks, points and boxes of a sample together, left and right.

    Args:
        p: probability for each sample.

    Example:
        >>> dls = ImageDataLoaders.from_folder(path, valid_pct=0.2, item_tfms=[Resize(64), FlipItem(p=0.5)])
    """

    supports = _MIRRORED

    def __init__(self, p: float = 0.5) -> None:
        super().__init__(p=p)

    def draw(self, sample: Any, split_idx: int | None, generator: torch.Generator | None) -> int | None:
        """1 to mirror, None to leave the `sample` alone; `generator` as for `uniforms`, `split_idx` has no effect."""
        return 1 if uniforms(1, generator)[0] < self.p else None

    def apply(self, x: Any, k: int) -> Any:
        """`x` mirrored; `k` is what was drawn."""
        return dihedral(x, k)


@registered
class DihedralItem(FlipItem):
    """One of the eight symmetries of a square, each as likely.

    Args:
        p: probability for each sample.
        nm: a name instead of the class's.
    """

    def __init__(self, p: float = 1., nm: str | None = None) -> None:
        RandTransform.__init__(self, p=p, nm=nm)
        self.nm = nm

    def draw(self, sample: Any, split_idx: int | None, generator: torch.Generator | None) -> int | None:
        """The symmetry 0..7, None to leave it alone; `sample`, `split_idx` and `generator` as for `FlipItem.draw`."""
        coin, which = uniforms(2, generator)
        return integer(which, 0, 7) if coin < self.p else None


@keyed
class _Window(RandTransform):
    """A window cut out of all parts of a sample by numbers that are drawn once.

    Pictures of another size than the first get their own window by the same numbers.
    """

    supports = _MOVABLE
    split_idx = None
    order = 1
    pad_mode = PadMode.Zeros
    resamples = (BILINEAR, NEAREST)
    n_draws = 0

    def draws(self, split_idx: int | None) -> bool:
        """Whether the window changes from call to call: not in validation (`split_idx` 1)."""
        return super().draws(split_idx) and self.n_draws > 0 and not split_idx

    def draw(self, sample: Any, split_idx: int | None, generator: torch.Generator | None) -> tuple:
        """The numbers, None in validation, and the size of the picture that points and boxes belong to.

        Args:
            sample: a picture and what belongs to it.
            split_idx: 1 is validation.
            generator: as for `uniforms`.
        """
        return None if split_idx else uniforms(self.n_draws, generator), picture_size(sample)

    def window(self, orig: tuple[int, int], draws: list[float] | None) -> tuple:
        """(size, top_left, final size or None) for a picture of size `orig`, all (width, height).

        `draws` are the numbers that were drawn, `n_draws` of them in 0..1; None in validation.
        """
        raise NotImplementedError(f'{type(self).__name__} says nowhere which window it cuts out: write window()')

    def apply(self, x: Any, drawn: tuple) -> Any:
        """The window of `x`, resized; `drawn` is what `draw` returned."""
        draws, picture = drawn
        orig = x.size if isinstance(x, Image.Image) else size_around(x, picture)
        size, top_left, final = self.window(orig, draws)
        resample = self.resamples[1] if isinstance(x, PILMask) else self.resamples[0]
        return self.finish(crop_pad(x, size, top_left, orig, self.pad_mode, resample, final), final)

    def finish(self, resized: Any, final: tuple[int, int] | None) -> Any:
        """What becomes of a part of the sample that was cut out and `resized` to `final`, (width, height)."""
        return resized


@registered
class CropPad(_Window):
    """Cut the middle out, or put the picture into the middle.

    Args:
        size: a side, or (height, width).
        pad_mode: what lies outside, one of `PadMode`.

    Example:
        >>> CropPad(20)(PILImage.create(files[0])).size
        (20, 20)
    """

    order = 0

    def __init__(self, size: int | tuple[int, int], pad_mode: str = PadMode.Zeros) -> None:
        super().__init__()
        self.size, self.pad_mode = as_size(size), pad_mode

    def window(self, orig: tuple[int, int], draws: list[float] | None) -> tuple[Any, ...]:
        """The middle of `orig`; `draws` has no effect."""
        size = as_wh(self.size)
        return size, ((orig[0] - size[0]) // 2, (orig[1] - size[1]) // 2), None


@registered
class RandomCrop(_Window):
    """Cut `size` out at random, the middle in validation; smaller pictures are put anywhere within black.

    Args:
        size: a side, or (height, width).
        p: shown in the name; every sample is cropped.
        nm: a name instead of the class's.

    Example:
        >>> dls = ImageDataLoaders.from_folder(path, valid_pct=0.2, item_tfms=RandomCrop(32))
    """

    n_draws = 2

    def __init__(self, size: int | tuple[int, int], p: float = 1., nm: str | None = None) -> None:
        super().__init__(p=p, nm=nm)
        self.size, self.nm = as_size(size), nm

    def window(self, orig: tuple[int, int], draws: list[float] | None) -> tuple[Any, ...]:
        """Where to cut in `orig`: by two `draws`, in the middle without."""
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
        p: shown in the name; every sample is resized.
        nm: a name instead of the class's.

    Example:
        >>> picture = PILImage.create(np.zeros((60, 90, 3), np.uint8))
        >>> Resize(32)(picture, split_idx=1).size, Resize((32, 48), method='pad')(picture).size
        ((32, 32), (48, 32))
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
        """Whether the window changes from call to call: not with 'squish', nor in validation (`split_idx` 1)."""
        return self.method != ResizeMethod.Squish and super().draws(split_idx)

    def window(self, orig: tuple[int, int], draws: list[float] | None) -> tuple[Any, ...]:
        """Which part of `orig` is kept: by two `draws`, the middle without."""
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
        p: shown in the name; every sample is cropped.
        nm: a name instead of the class's.

    Example:
        >>> picture = PILImage.create(np.zeros((600, 900, 3), np.uint8))
        >>> RandomResizedCrop(224, min_scale=0.35)(picture, split_idx=0).size
        (224, 224)

    Source: Szegedy et al., "Going deeper with convolutions", 2015.
    """

    n_draws = 22

    def __init__(self, size: int | tuple[int, int], min_scale: float = 0.08,
                 ratio: tuple[float, float] = (3 / 4, 4 / 3), resamples: tuple[int, int] = (BILINEAR, NEAREST),
                 val_xtra: float = 0.14, max_scale: float = 1., p: float = 1., nm: str | None = None) -> None:
        super().__init__(p=p, nm=nm)
        self.size, self.min_scale, self.max_scale, self.ratio = as_size(size), min_scale, max_scale, ratio
        self.resamples, self.val_xtra, self.nm = resamples, val_xtra, nm

    def window(self, orig: tuple[int, int], draws: list[float] | None) -> tuple[Any, ...]:
        """Which part of `orig` is kept, by 22 `draws`; in validation, where they are None, all of it, with a margin."""
        size = as_wh(self.size)
        if draws is None:
            extra = math.ceil(max(size) * self.val_xtra / 8) * 8
            return orig, (0, 0), (size[0] + extra, size[1] + extra)
        return *_window_by(draws, orig, (self.min_scale, self.max_scale), self.ratio), size

    def finish(self, resized: Any, final: tuple[int, int]) -> Any:
        """The middle of what was `resized` to `final`, where there is a margin."""
        size = as_wh(self.size)
        if final == size:
            return resized
        return crop_pad(resized, size, ((final[0] - size[0]) // 2, (final[1] - size[1]) // 2), final)


def random_window(orig: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float],
                  generator: torch.Generator | None) -> tuple[tuple[int, int], tuple[int, int]]:
    """(size, top_left) of a window of random area and aspect, each (width, height) in pixels.

    Ten attempts, then the largest window in the middle whose aspect is allowed.

    Args:
        orig: (width, height) of the picture.
        scale: smallest and largest part of its area, 0..1.
        ratio: smallest and largest width over height.
        generator: as for `uniforms`.
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

    Example:
        >>> RatioResize(100)(PILImage.create(files[0])).size[0]
        100
    """

    def __init__(self, max_sz: int, resamples: tuple[int, int] = (BILINEAR, NEAREST)) -> None:
        super().__init__()
        self.max_sz, self.resamples = as_side(max_sz, 'max_sz'), resamples

    def window(self, orig: tuple[int, int], draws: list[float] | None) -> tuple[Any, ...]:
        """The whole picture of size `orig`; `draws` has no effect."""
        w, h = orig
        longer = max(w, h)
        # int() as everywhere in fastai's geometry; never below one pixel
        final = max(int(w * self.max_sz / longer), 1), max(int(h * self.max_sz / longer), 1)
        return orig, (0, 0), final
