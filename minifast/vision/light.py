"""The light of a batch: brightness, contrast, saturation as one affine map of the logits, hue in HSV; and erasing."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from fastcore.foundation import L
from torch import Tensor

from minifast.codetext import registered
from minifast.data.transform import RandTransform
from minifast.markers import TensorImage, plain, retain_type
from minifast.seeds import randn_by_sample
from minifast.vision.core import gives_methods_to, to_augment
from minifast.vision.crop import uniforms
from minifast.vision.geometry import Draw, draw_values, is_ours, joined_name

__all__ = ['Brightness', 'Contrast', 'GREY_WEIGHTS', 'HSVTfm', 'Hue', 'Light', 'LightMethods', 'LightingTfm',
           'RandomErasing', 'Saturation', 'SpaceTfm', 'apply_light', 'brightness_light', 'contrast_light',
           'cutout_gaussian', 'grayscale', 'hsv2rgb', 'hue_shift', 'in_hsv', 'in_logits', 'logit', 'norm_apply_denorm',
           'rgb2hsv', 'saturation_light', 'shift_hue']

GREY_WEIGHTS = (0.2989, 0.5870, 0.1140)
"""Shares of red, green and blue in the luma of ITU-R BT.601."""


class Light(NamedTuple):
    """An affine map of logits: `scale * x + offset`, with `mix` of each channel's own value and the rest of its grey.

    `scale` and `offset` are [B]; `mix` [B] is 1 for own colours and 0 for grey, None where no saturation was drawn.
    """

    scale: Tensor
    offset: Tensor
    mix: Tensor | None = None

    def then(self, other: Light) -> Light:
        """This map and then the `other`, as one map: grey weights sum to nearly 1, so scale and mix commute."""
        mix = other.mix if self.mix is None else self.mix if other.mix is None else self.mix * other.mix
        return Light(self.scale * other.scale, self.offset * other.scale + other.offset, mix)


def logit(x: Tensor) -> Tensor:
    """The inverse of the sigmoid for `x` in 0..1; 0 and 1 are taken as 1e-7 away from themselves."""
    x = x.clamp(1e-7, 1 - 1e-7)
    return -(1 / x - 1).log()


def brightness_light(x: Tensor, max_lighting: float = 0.2, p: float = 0.75, draw: Draw = None, batch: bool = False,
                     generator: torch.Generator | None = None) -> Light:
    """Brightness 0.5*(1-max_lighting)..0.5*(1+max_lighting) with probability `p`; 0.5 leaves a picture as it is.

    Args:
        x, p, batch, generator: as for `draw_values`.
        max_lighting: largest change, 0..1.
        draw: 0..1, 0.5 being as it was, instead of a value at random, see `Draw`.
    """
    change = draw_values(x, 0.5 * (1 - max_lighting), 0.5 * (1 + max_lighting), draw, p, 0.5, batch, generator)
    return Light(torch.ones_like(change), logit(change))


def _log_uniform(x: Tensor, largest: float, draw: Draw, p: float, neutral: float, batch: bool,
                 generator: torch.Generator | None) -> Tensor:
    """Values of 1-largest..1/(1-largest), uniform in their logarithm."""
    if draw is not None:
        return draw_values(x, 0, 0, draw, p, neutral, batch, generator)
    low = math.log(1 - largest)
    coin_and_value = draw_values(x, low, -low, None, p, math.nan, batch, generator).exp()
    return torch.nan_to_num(coin_and_value, nan=neutral)


def contrast_light(x: Tensor, max_lighting: float = 0.2, p: float = 0.75, draw: Draw = None, batch: bool = False,
                   generator: torch.Generator | None = None) -> Light:
    """Contrast of 1-max_lighting..1/(1-max_lighting) with probability `p`; 1 leaves a picture as it is.

    Args:
        x, p, batch, generator: as for `draw_values`.
        max_lighting: largest change, 0 up to below 1.
        draw: a factor, instead of one at random, see `Draw`.
    """
    change = _log_uniform(x, max_lighting, draw, p, 1., batch, generator)
    return Light(change, torch.zeros_like(change))


def saturation_light(x: Tensor, max_lighting: float = 0.2, p: float = 0.75, draw: Draw = None, batch: bool = False,
                     generator: torch.Generator | None = None) -> Light:
    """Saturation of 1-max_lighting..1/(1-max_lighting) with probability `p`; 1 leaves a picture as it is, 0 is grey.

    `x`, `max_lighting`, `p`, `draw`, `batch` and `generator` as for `contrast_light`.
    """
    change = _log_uniform(x, max_lighting, draw, p, 1., batch, generator)
    return Light(torch.ones_like(change), torch.zeros_like(change), change)


def grayscale(x: Tensor) -> Tensor:
    """The luma of RGB pictures `x`, [B,3,H,W] to [B,1,H,W] (ITU-R BT.601)."""
    x = plain(x)
    weights = torch.tensor(GREY_WEIGHTS, dtype=x.dtype).to(x.device, non_blocking=True)  # new_tensor waits for a GPU
    return torch.einsum('bchw,c->bhw', x, weights).unsqueeze(1)


def apply_light(x: Tensor, light: Light) -> Tensor:
    """Pictures `x` [B,C,H,W] in 0..1 (or uint8) in another `light`, all of it in one pass over the logits."""
    b = plain(x)
    on_device = [None if v is None else v.to(b.device, non_blocking=True)[:, None, None, None] for v in light]
    values = logit(b if b.is_floating_point() else b.float() / 255)
    scale, offset, mix = (None if v is None else v.to(values.dtype) for v in on_device)
    if mix is not None:
        values = values * mix + grayscale(values) * (1 - mix)
    values = torch.addcmul(offset, values, scale).sigmoid()
    return retain_type(values if b.is_floating_point() else (values * 255).round().to(torch.uint8), x)


# ---------------------------------------------------------------- hue

def rgb2hsv(img: Tensor) -> Tensor:
    """RGB pictures `img` [B,3,H,W] in 0..1 as hue, saturation and value, each in 0..1."""
    r, g, b = img.unbind(1)
    value, lowest = img.amax(1), img.amin(1)
    spread = value - lowest
    flat = spread == 0
    divisor = torch.where(flat, torch.ones_like(spread), spread)
    saturation_ = spread / torch.where(flat, torch.ones_like(value), value)
    from_green = torch.where(value == g, 2 + (b - r) / divisor, 4 + (r - g) / divisor)
    hue_ = torch.where(value == r, (g - b) / divisor, from_green)
    return torch.stack([(hue_ / 6).remainder(1) * ~flat, saturation_, value], 1)


def hsv2rgb(img: Tensor) -> Tensor:
    """Pictures `img` of hue, saturation and value [B,3,H,W], each in 0..1, as RGB."""
    h, s, v = img.unbind(1)
    channels = []
    for n in (5, 3, 1):
        k = (n + h * 6).remainder(6)
        channels.append(v - v * s * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, 1)


def hue_shift(x: Tensor, max_hue: float = 0.1, p: float = 0.75, draw: Draw = None, batch: bool = False,
              generator: torch.Generator | None = None) -> Tensor:
    """Turns of the colour circle [B]: 1-max_hue..1/(1-max_hue) with probability `p`, else 0 (a whole turn is none).

    Args:
        x, p, batch, generator: as for `draw_values`.
        max_hue: largest change, as a part of the circle, 0 up to below 1.
        draw: a part of the circle, instead of one at random, see `Draw`.
    """
    return _log_uniform(x, max_hue, draw, p, 0., batch, generator)


def shift_hue(x: Tensor, shift: Tensor) -> Tensor:
    """RGB pictures `x` [B,3,H,W] in 0..1 (or uint8) with their hue turned by `shift` [B] of the colour circle."""
    b = plain(x)
    values = rgb2hsv(b if b.is_floating_point() else b.float() / 255)
    values[:, 0] = (values[:, 0] + shift.to(values)[:, None, None]).remainder(1)
    values = hsv2rgb(values)
    return retain_type(values if b.is_floating_point() else (values * 255).round().to(b.dtype), x)


# ---------------------------------------------------------------- the same as methods of TensorImage

def in_logits(x: Tensor, func: Callable[[Tensor], Tensor]) -> Tensor:
    """`func` applied to the logits of the pixels of `x`, which are in 0..1."""
    return retain_type(torch.sigmoid(func(logit(plain(x)))), x)


def in_hsv(x: Tensor, func: Callable[[Tensor], Tensor]) -> Tensor:
    """`func` applied to hue, saturation and value of the pixels of `x`, RGB [B,3,H,W] in 0..1."""
    return retain_type(hsv2rgb(func(rgb2hsv(plain(x)))), x)


@gives_methods_to(TensorImage)
class LightMethods:
    """What pictures can do besides: batches in another light, by hand, for a try."""

    lighting, hsv = in_logits, in_hsv

    def brightness(self: Tensor, max_lighting: float = 0.2, p: float = 0.75, draw: Draw = None, batch: bool = False,
                   generator: torch.Generator | None = None) -> Tensor:
        """Change the brightness of samples of a batch.

        `max_lighting`, `p`, `draw` and `batch` as for `Brightness`; `generator` as for `draw_values`.
        """
        return apply_light(self, brightness_light(self, max_lighting, p, draw, batch, generator))

    def contrast(self: Tensor, max_lighting: float = 0.2, p: float = 0.75, draw: Draw = None, batch: bool = False,
                 generator: torch.Generator | None = None) -> Tensor:
        """Change the contrast of samples of a batch.

        `max_lighting`, `p`, `draw` and `batch` as for `Contrast`; `generator` as for `draw_values`.
        """
        return apply_light(self, contrast_light(self, max_lighting, p, draw, batch, generator))

    def saturation(self: Tensor, max_lighting: float = 0.2, p: float = 0.75, draw: Draw = None, batch: bool = False,
                   generator: torch.Generator | None = None) -> Tensor:
        """Change the saturation of samples of a batch.

        `max_lighting`, `p`, `draw` and `batch` as for `Saturation`; `generator` as for `draw_values`.
        """
        return apply_light(self, saturation_light(self, max_lighting, p, draw, batch, generator))

    def hue(self: Tensor, max_hue: float = 0.1, p: float = 0.75, draw: Draw = None, batch: bool = False,
            generator: torch.Generator | None = None) -> Tensor:
        """Change the hue of samples of a batch.

        `max_hue`, `p`, `draw` and `batch` as for `Hue`; `generator` as for `draw_values`.
        """
        return shift_hue(self, hue_shift(self, max_hue, p, draw, batch, generator))


# ---------------------------------------------------------------- transforms

_tabled = (brightness_light, contrast_light)
_lights = (*_tabled, saturation_light, hue_shift)
"""What draws from the generator it is given; the first of them treat each value of a channel alike."""


@registered
class SpaceTfm(RandTransform):
    """Functions applied to pictures in another space of colours.

    Args:
        fs: functions of a batch; a method `before_call(x)`, if there is one, is called first with the batch.
        space_fn: called with (picture, function): goes to the space, applies the function, and comes back.
        p: shown in the name; each function draws by a probability of its own.
        nm: a name instead of the class's.
    """

    order = 40
    supports = (TensorImage,)

    def __init__(self, fs: Callable[..., Any] | Sequence[Callable[..., Any]],
                 space_fn: Callable[[Tensor, Callable[..., Any]], Tensor], p: float = 1.,
                 nm: str | None = None) -> None:
        super().__init__(p=p, nm=nm)
        self.fs, self.space_fn, self.nm = L(fs), space_fn, nm
        self.parts = [self]

    @property
    def takes_generator(self) -> bool:
        """Whether all randomness comes from the generator handed over: not with functions of the user's own."""
        return all(is_ours(f, _lights) for f in self.fs)

    @property
    def bytewise(self) -> bool:
        """Whether each value of a channel is treated alike: not where channels are mixed."""
        return self.takes_generator and all(f.func in _tabled for f in self.fs)

    @property
    def name(self) -> str:
        """The class and its arguments, or the classes that were joined."""
        return joined_name(self, super().name)

    def compose(self, tfm: SpaceTfm) -> None:
        """Do what `tfm` does afterwards, in the same pass."""
        self.fs, self.parts = self.fs + tfm.fs, self.parts + tfm.parts

    def draw(self, sample: Any, split_idx: int | None, generator: torch.Generator | None) -> list[Any]:
        """What each function needs: a drawn value for ours, the prepared function itself for the user's.

        Args:
            sample: a batch, with or without targets; its pictures count, else its first tensor.
            split_idx: has no effect.
            generator: as for `draw_values`; functions of the user's own are not given it.
        """
        x = to_augment(sample)
        probe = torch.empty(1).expand(x.shape)
        drawn = []
        for f in self.fs:
            if isinstance(f, partial) and f.func in _lights:
                drawn.append(f(probe, generator=generator))
            else:
                if hasattr(f, 'before_call'):
                    f.before_call(x)
                drawn.append(f)
        return drawn

    def apply(self, x: Tensor, drawn: list[Any]) -> Tensor:
        """The functions in `drawn` applied to `x` one after the other in their space."""
        def _all(values: Tensor) -> Tensor:
            for f in drawn:
                values = f(values)
            return values
        return retain_type(self.space_fn(x, _all), x)


@registered
class LightingTfm(SpaceTfm):
    """Functions applied to the logits of pictures, brightness, contrast and saturation in one pass.

    `fs`, `p` and `nm` as for `SpaceTfm`.
    """

    def __init__(self, fs: Callable[..., Any] | Sequence[Callable[..., Any]], p: float = 1.,
                 nm: str | None = None) -> None:
        super().__init__(fs, in_logits, p=p, nm=nm)

    def apply(self, x: Tensor, drawn: list[Any]) -> Tensor:
        """All lights in `drawn` as one on `x` where they are ours, in turn where some are not."""
        if all(isinstance(d, Light) for d in drawn):
            total = drawn[0]
            for light in drawn[1:]:
                total = total.then(light)
            return apply_light(x, total)
        for d in drawn:
            x = apply_light(x, d) if isinstance(d, Light) else in_logits(x, d)
        return x


@registered
class Brightness(LightingTfm):
    """Change the brightness of each picture, to 0.5*(1-max_lighting)..0.5*(1+max_lighting).

    Args:
        max_lighting: largest change, 0..1.
        p: probability for each sample.
        draw: 0..1, 0.5 being as it was, instead of a value at random, see `Draw`.
        batch: all samples of a batch alike.

    Example:
        >>> tfms = [Brightness(max_lighting=0.3), Contrast(max_lighting=0.3)]
        >>> dls = ImageDataLoaders.from_folder(path, valid_pct=0.2, item_tfms=Resize(64), batch_tfms=tfms)
    """

    def __init__(self, max_lighting: float = 0.2, p: float = 0.75, draw: Draw = None, batch: bool = False) -> None:
        super().__init__(partial(brightness_light, max_lighting=max_lighting, p=p, draw=draw, batch=batch), p)
        self.max_lighting, self._draw, self.batch = max_lighting, draw, batch


@registered
class Contrast(LightingTfm):
    """Change the contrast of each picture, to 1-max_lighting..1/(1-max_lighting).

    Args:
        max_lighting: largest change, 0..1.
        p: probability for each sample.
        draw: a factor, 1 being as it was, instead of a value at random, see `Draw`.
        batch: all samples of a batch alike.
    """

    def __init__(self, max_lighting: float = 0.2, p: float = 0.75, draw: Draw = None, batch: bool = False) -> None:
        super().__init__(partial(contrast_light, max_lighting=max_lighting, p=p, draw=draw, batch=batch), p)
        self.max_lighting, self._draw, self.batch = max_lighting, draw, batch


@registered
class Saturation(LightingTfm):
    """Change the saturation of each picture, to 1-max_lighting..1/(1-max_lighting).

    Args:
        max_lighting: largest change, 0..1.
        p: probability for each sample.
        draw: a factor, 0 being grey and 1 as it was, instead of one at random, see `Draw`.
        batch: all samples of a batch alike.
    """

    def __init__(self, max_lighting: float = 0.2, p: float = 0.75, draw: Draw = None, batch: bool = False) -> None:
        super().__init__(partial(saturation_light, max_lighting=max_lighting, p=p, draw=draw, batch=batch), p)
        self.max_lighting, self._draw, self.batch = max_lighting, draw, batch


@registered
class HSVTfm(SpaceTfm):
    """Functions applied to hue, saturation and value of pictures; `fs`, `p` and `nm` as for `SpaceTfm`."""

    def __init__(self, fs: Callable[..., Any] | Sequence[Callable[..., Any]], p: float = 1.,
                 nm: str | None = None) -> None:
        super().__init__(fs, in_hsv, p=p, nm=nm)


@registered
class Hue(HSVTfm):
    """Turn the hue of each picture round the circle of colours.

    Args:
        max_hue: largest change, as a part of the circle: 1-max_hue..1/(1-max_hue), a whole turn being none.
        p: probability for each sample.
        draw: the part, instead of one at random, see `Draw`.
        batch: all samples of a batch alike.

    Example:
        >>> tfms = [Hue(max_hue=0.1), Saturation(max_lighting=0.3)]
        >>> dls = ImageDataLoaders.from_folder(path, valid_pct=0.2, item_tfms=Resize(64), batch_tfms=tfms)
    """

    def __init__(self, max_hue: float = 0.1, p: float = 0.75, draw: Draw = None, batch: bool = False) -> None:
        super().__init__(partial(hue_shift, max_hue=max_hue, p=p, draw=draw, batch=batch), p=p)
        self.max_hue, self._draw, self.batch = max_hue, draw, batch

    def apply(self, x: Tensor, drawn: list[Any]) -> Tensor:
        """`x` with its hue turned by what was `drawn`."""
        return shift_hue(x, drawn[0])


# ---------------------------------------------------------------- erasing

def cutout_gaussian(x: Tensor, areas: Sequence[tuple[int, int, int, int]],
                    generator: torch.Generator | None = None) -> Tensor:
    """Fill rectangles of `x` with noise of mean 0 and deviation 1, in place.

    Args:
        x: [...,H,W].
        areas: (top, bottom, left, right) of each, in pixels, bottom and right excluded.
        generator: a CPU generator, None for torch's global one.
    """
    for top, bottom, left, right in areas:
        hole = plain(x)[..., top:bottom, left:right]
        hole.copy_(randn_by_sample(hole.shape, generator), non_blocking=True)
    return x


def norm_apply_denorm(x: Tensor, f: Callable[[Tensor], Tensor], nrm: Any) -> Tensor:
    """`f` applied to `x` normalised by `nrm`, and brought back to 0..1."""
    return plain(nrm.decode(f(nrm(x.clone())))).clamp(0, 1)


def _slice(area: float, sz: int, generator: torch.Generator | None = None) -> tuple[int, int]:
    """Start and end of a stretch of sqrt(area) pixels somewhere in `sz`."""
    bound = round(math.sqrt(area))
    start = int(uniforms(1, generator)[0] * (max(sz - bound, 0) + 1))
    return start, start + bound


@registered
class RandomErasing(RandTransform):
    """Noise over random rectangles of a batch, with probability `p`; after `Normalize`.

    Args:
        p: probability for each batch.
        sl: smallest part of the area that is erased, 0..1.
        sh: largest part, shared among the rectangles.
        min_aspect: smallest aspect of a rectangle; the largest is its inverse.
        max_count: most rectangles.

    Source: Zhong et al., "Random erasing data augmentation", 2017.

    Example:
        >>> tfms = [RandomErasing(p=0.5, sh=0.2)]
        >>> dls = ImageDataLoaders.from_folder(path, valid_pct=0.2, item_tfms=Resize(64), batch_tfms=tfms)
    """

    order = 100
    supports = (TensorImage,)

    def __init__(self, p: float = 0.5, sl: float = 0., sh: float = 0.3, min_aspect: float = 0.3,
                 max_count: int = 1) -> None:
        super().__init__(p=p)
        self.sl, self.sh, self.min_aspect, self.max_count = sl, sh, min_aspect, max_count

    def draw(self, sample: Any, split_idx: int | None, generator: torch.Generator | None) -> tuple[Any, ...] | None:
        """The rectangles and the generator of the noise; None to leave the batch alone.

        Args:
            sample: a batch, with or without targets; its pictures count, else its first tensor.
            split_idx: has no effect.
            generator: a CPU generator, None for torch's global one.
        """
        coin, count = uniforms(2, generator)
        if coin >= self.p:
            return None
        h, w = to_augment(sample).shape[-2:]
        n = 1 + int(count * self.max_count)
        areas = []
        for u_area, u_aspect in zip(uniforms(n, generator), uniforms(n, generator)):
            area = (self.sl + (self.sh - self.sl) * u_area) * h * w / n
            aspect = math.exp((2 * u_aspect - 1) * math.log(1 / self.min_aspect))
            areas.append(_slice(area * aspect, h, generator) + _slice(area / aspect, w, generator))
        return areas, generator

    def apply(self, x: Tensor, params: tuple[Any, ...]) -> Tensor:
        """`x` with its rectangles erased, by `params`, what was drawn."""
        return cutout_gaussian(x, *params)
