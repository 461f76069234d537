"""Transforms of the light of a batch on its device, all of it in one pass; and erasing."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from fastcore.foundation import L
from torch import Tensor

from minifast.data.pipeline import RandTransform, registered
from minifast.markers import TensorImage, plain, retain_type
from minifast.vision import lighting
from minifast.vision.affine import Draw
from minifast.vision.item_tfms import uniforms
from minifast.vision.points import first_picture

__all__ = ['Brightness', 'Contrast', 'HSVTfm', 'Hue', 'LightingTfm', 'RandomErasing', 'Saturation', 'SpaceTfm',
            'cutout_gaussian', 'is_ours', 'joined_name', 'norm_apply_denorm', 'to_augment']


def to_augment(sample: Any) -> Tensor:
    """The pictures of a batch, or else its first tensor: what random numbers are drawn for.

    Raises:
        TypeError: there is no tensor.
    """
    x = first_picture(sample)
    if not isinstance(x, Tensor):
        raise TypeError(f'there is no tensor in {type(sample).__name__} to augment: is ToTensor among the transforms?')
    return x


def is_ours(f: Any, functions: Sequence[Callable]) -> bool:
    """Whether `f` is one of these functions with values given as data: it draws from the generator handed over."""
    return isinstance(f, partial) and f.func in functions and not any(map(callable, f.keywords.values()))


def joined_name(tfm: Any, name: str) -> str:
    """`name`, or the classes that were joined into the transform."""
    return name if len(tfm.parts) == 1 else ' + '.join(type(part).__name__ for part in tfm.parts)


# ---------------------------------------------------------------- light

_tabled = (lighting.brightness_light, lighting.contrast_light)
_lights = (*_tabled, lighting.saturation_light, lighting.hue_shift)
"""What draws from the generator it is given; the first of them treat each value of a channel alike."""


@registered
class SpaceTfm(RandTransform):
    """Functions applied to pictures in another space of colours.

    Args:
        fs: functions of a batch; a method `before_call(x)`, if there is one, is called first with the batch.
        space_fn: called with (picture, function): goes to the space, applies the function, and comes back.
    """

    order = 40
    supports = (TensorImage,)

    def __init__(self, fs: Callable | Sequence[Callable], space_fn: Callable[[Tensor, Callable], Tensor], p: float = 1.,
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

    def draw(self, sample: Any, split_idx: int | None, generator: torch.Generator | None) -> list:
        """What each function needs: a drawn value for ours, the prepared function itself for the user's."""
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

    def apply(self, x: Tensor, drawn: list) -> Tensor:
        """The functions applied one after the other in their space."""
        def _all(values: Tensor) -> Tensor:
            for f in drawn:
                values = f(values)
            return values
        return retain_type(self.space_fn(x, _all), x)


@registered
class LightingTfm(SpaceTfm):
    """Functions applied to the logits of pictures; brightness, contrast and saturation in one pass."""

    def __init__(self, fs: Callable | Sequence[Callable], p: float = 1., nm: str | None = None) -> None:
        super().__init__(fs, lighting.in_logits, p=p, nm=nm)

    def apply(self, x: Tensor, drawn: list) -> Tensor:
        """All lights as one where they are ours, in turn where some are not."""
        if all(isinstance(d, lighting.Light) for d in drawn):
            total = drawn[0]
            for light in drawn[1:]:
                total = total.then(light)
            return lighting.apply_light(x, total)
        for d in drawn:
            x = lighting.apply_light(x, d) if isinstance(d, lighting.Light) else lighting.in_logits(x, d)
        return x


@registered
class Brightness(LightingTfm):
    """Brightness changed by up to `max_lighting` with probability `p`; `draw` gives 0..1 instead, 0.5 being
    unchanged."""

    def __init__(self, max_lighting: float = 0.2, p: float = 0.75, draw: Draw = None, batch: bool = False) -> None:
        super().__init__(partial(lighting.brightness_light, max_lighting=max_lighting, p=p, draw=draw, batch=batch), p)
        self.max_lighting, self._draw, self.batch = max_lighting, draw, batch


@registered
class Contrast(LightingTfm):
    """Contrast changed by up to `max_lighting` with probability `p`; `draw` gives a factor instead, 1 being
    unchanged."""

    def __init__(self, max_lighting: float = 0.2, p: float = 0.75, draw: Draw = None, batch: bool = False) -> None:
        super().__init__(partial(lighting.contrast_light, max_lighting=max_lighting, p=p, draw=draw, batch=batch), p)
        self.max_lighting, self._draw, self.batch = max_lighting, draw, batch


@registered
class Saturation(LightingTfm):
    """Saturation changed by up to `max_lighting` with probability `p`; `draw` gives a factor instead, 0 being grey."""

    def __init__(self, max_lighting: float = 0.2, p: float = 0.75, draw: Draw = None, batch: bool = False) -> None:
        super().__init__(partial(lighting.saturation_light, max_lighting=max_lighting, p=p, draw=draw, batch=batch), p)
        self.max_lighting, self._draw, self.batch = max_lighting, draw, batch


@registered
class HSVTfm(SpaceTfm):
    """Functions applied to hue, saturation and value of pictures."""

    def __init__(self, fs: Callable | Sequence[Callable], p: float = 1., nm: str | None = None) -> None:
        super().__init__(fs, lighting.in_hsv, p=p, nm=nm)


@registered
class Hue(HSVTfm):
    """Hue turned by up to `max_hue` of the colour circle with probability `p`; `draw` gives turns instead."""

    def __init__(self, max_hue: float = 0.1, p: float = 0.75, draw: Draw = None, batch: bool = False) -> None:
        super().__init__(partial(lighting.hue_shift, max_hue=max_hue, p=p, draw=draw, batch=batch), p=p)
        self.max_hue, self._draw, self.batch = max_hue, draw, batch

    def apply(self, x: Tensor, drawn: list) -> Tensor:
        """`x` with its hue turned."""
        return lighting.shift_hue(x, drawn[0])


# ---------------------------------------------------------------- erasing

def cutout_gaussian(x: Tensor, areas: Sequence[tuple[int, int, int, int]],
                    generator: torch.Generator | None = None) -> Tensor:
    """Fill each (top, bottom, left, right) of `x` [...,H,W] with noise of mean 0 and deviation 1, in place."""
    for top, bottom, left, right in areas:
        hole = plain(x)[..., top:bottom, left:right]
        hole.copy_(torch.randn(hole.shape, generator=generator), non_blocking=True)
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
        sl: smallest part of the area that is erased, 0..1.
        sh: largest part, shared among the rectangles.
        min_aspect: smallest aspect of a rectangle; the largest is its inverse.
        max_count: most rectangles.

    Source: Zhong et al., "Random erasing data augmentation", 2017.
    """

    order = 100
    supports = (TensorImage,)

    def __init__(self, p: float = 0.5, sl: float = 0., sh: float = 0.3, min_aspect: float = 0.3,
                 max_count: int = 1) -> None:
        super().__init__(p=p)
        self.sl, self.sh, self.min_aspect, self.max_count = sl, sh, min_aspect, max_count

    def draw(self, sample: Any, split_idx: int | None, generator: torch.Generator | None) -> tuple | None:
        """The rectangles and the generator of the noise; None to leave the batch alone."""
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

    def apply(self, x: Tensor, params: tuple) -> Tensor:
        """`x` with its rectangles erased."""
        return cutout_gaussian(x, *params)
