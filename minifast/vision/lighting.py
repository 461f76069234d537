"""The light of a batch: brightness, contrast and saturation as one affine map of the logits, hue in HSV."""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from minifast.markers import TensorImage, plain, retain_type
from minifast.vision.affine import Draw, draw_values
from minifast.vision.core import gives_methods_to

__all__ = ['GREY_WEIGHTS', 'Light', 'LightMethods', 'apply_light', 'brightness_light', 'contrast_light', 'grayscale',
           'hsv2rgb', 'hue_shift', 'in_hsv', 'in_logits', 'logit', 'rgb2hsv', 'saturation_light', 'shift_hue']

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
        """This map and then the other, as one map: grey weights sum to nearly 1, so scale and mix commute."""
        mix = other.mix if self.mix is None else self.mix if other.mix is None else self.mix * other.mix
        return Light(self.scale * other.scale, self.offset * other.scale + other.offset, mix)


def logit(x: Tensor) -> Tensor:
    """The inverse of the sigmoid; 0 and 1 are taken as 1e-7 away from themselves."""
    x = x.clamp(1e-7, 1 - 1e-7)
    return -(1 / x - 1).log()


def brightness_light(x: Tensor, max_lighting: float = 0.2, p: float = 0.75, draw: Draw = None, batch: bool = False,
                     generator: torch.Generator | None = None) -> Light:
    """Brightness 0.5*(1-max_lighting)..0.5*(1+max_lighting) with probability `p`; 0.5 leaves a picture as it is."""
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
    """Contrast of 1-max_lighting..1/(1-max_lighting) with probability `p`; 1 leaves a picture as it is."""
    change = _log_uniform(x, max_lighting, draw, p, 1., batch, generator)
    return Light(change, torch.zeros_like(change))


def saturation_light(x: Tensor, max_lighting: float = 0.2, p: float = 0.75, draw: Draw = None, batch: bool = False,
                     generator: torch.Generator | None = None) -> Light:
    """Saturation of 1-max_lighting..1/(1-max_lighting) with probability `p`; 1 leaves a picture as it is, 0 is grey."""
    change = _log_uniform(x, max_lighting, draw, p, 1., batch, generator)
    return Light(torch.ones_like(change), torch.zeros_like(change), change)


def grayscale(x: Tensor) -> Tensor:
    """The luma of RGB pictures, [B,3,H,W] to [B,1,H,W] (ITU-R BT.601)."""
    x = plain(x)
    weights = torch.tensor(GREY_WEIGHTS, dtype=x.dtype).to(x.device, non_blocking=True)  # new_tensor waits for a GPU
    return torch.einsum('bchw,c->bhw', x, weights).unsqueeze(1)


def apply_light(x: Tensor, light: Light) -> Tensor:
    """Pictures [B,C,H,W] in 0..1 (or uint8) in another light, all of it in one pass over the logits."""
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
    """RGB pictures [B,3,H,W] in 0..1 as hue, saturation and value, each in 0..1."""
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
    """Pictures of hue, saturation and value [B,3,H,W] as RGB."""
    h, s, v = img.unbind(1)
    channels = []
    for n in (5, 3, 1):
        k = (n + h * 6).remainder(6)
        channels.append(v - v * s * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, 1)


def hue_shift(x: Tensor, max_hue: float = 0.1, p: float = 0.75, draw: Draw = None, batch: bool = False,
              generator: torch.Generator | None = None) -> Tensor:
    """Turns of the colour circle [B]: 1-max_hue..1/(1-max_hue) with probability `p`, else 0 (a whole turn is none)."""
    return _log_uniform(x, max_hue, draw, p, 0., batch, generator)


def shift_hue(x: Tensor, shift: Tensor) -> Tensor:
    """RGB pictures [B,3,H,W] in 0..1 with their hue turned by `shift` [B] of the colour circle."""
    b = plain(x)
    values = rgb2hsv(b if b.is_floating_point() else b.float() / 255)
    values[:, 0] = (values[:, 0] + shift.to(values)[:, None, None]).remainder(1)
    values = hsv2rgb(values)
    return retain_type(values if b.is_floating_point() else (values * 255).round().to(b.dtype), x)


# ---------------------------------------------------------------- the same as methods of TensorImage

def in_logits(x: Tensor, func: Callable[[Tensor], Tensor]) -> Tensor:
    """`func` applied to the logits of the pixels."""
    return retain_type(torch.sigmoid(func(logit(plain(x)))), x)


def in_hsv(x: Tensor, func: Callable[[Tensor], Tensor]) -> Tensor:
    """`func` applied to hue, saturation and value of the pixels."""
    return retain_type(hsv2rgb(func(rgb2hsv(plain(x)))), x)


@gives_methods_to(TensorImage)
class LightMethods:
    """What pictures can do besides: batches in another light, by hand, for a try."""

    lighting, hsv = in_logits, in_hsv

    def brightness(self: Tensor, max_lighting: float = 0.2, p: float = 0.75, draw: Draw = None, batch: bool = False,
                   generator: torch.Generator | None = None) -> Tensor:
        """Change the brightness of samples of a batch, see `Brightness`."""
        return apply_light(self, brightness_light(self, max_lighting, p, draw, batch, generator))

    def contrast(self: Tensor, max_lighting: float = 0.2, p: float = 0.75, draw: Draw = None, batch: bool = False,
                 generator: torch.Generator | None = None) -> Tensor:
        """Change the contrast of samples of a batch, see `Contrast`."""
        return apply_light(self, contrast_light(self, max_lighting, p, draw, batch, generator))

    def saturation(self: Tensor, max_lighting: float = 0.2, p: float = 0.75, draw: Draw = None, batch: bool = False,
                   generator: torch.Generator | None = None) -> Tensor:
        """Change the saturation of samples of a batch, see `Saturation`."""
        return apply_light(self, saturation_light(self, max_lighting, p, draw, batch, generator))

    def hue(self: Tensor, max_hue: float = 0.1, p: float = 0.75, draw: Draw = None, batch: bool = False,
            generator: torch.Generator | None = None) -> Tensor:
        """Change the hue of samples of a batch, see `Hue`."""
        return shift_hue(self, hue_shift(self, max_hue, p, draw, batch, generator))
