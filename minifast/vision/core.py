"""Pictures, masks, points and boxes: opening, scaling to the picture, showing, and becoming tensors."""
from __future__ import annotations

import io
import json
import math
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from fastcore.foundation import L
from PIL import Image
from torch import Tensor

from minifast.codetext import keyed, registered
from minifast.data.collate import Slots, Target
from minifast.data.transform import RandTransform, Transform
from minifast.data.transforms import ToTensor
from minifast.losses import CrossEntropyLossFlat, MSELossFlat
from minifast.markers import (TensorBase, TensorImage, TensorImageBase, TensorImageBW, TensorMask, TensorMultiCategory,
                              cast, plain, retain_type, tensor)
from minifast.show import show_image
from minifast.terminal import visible
from minifast.vision.decode import (BadImageError, ScaledPixels, Turn, WaitingJpeg, array_pixels, decode_image,
                                    opened_image, read_image_file, scale_for, to_mode)

__all__ = ['AddMaskCodes', 'BBoxLabeler', 'BILINEAR', 'BadImageError', 'Image', 'LabeledBBox', 'NEAREST', 'OpenImage',
           'OpenMask', 'PILBase', 'PILImage', 'PILImageBW', 'PILMask', 'PointScaler', 'TensorBBox', 'TensorPoint',
           'TensorPointCreate', 'ToTensor', 'cifar_stats', 'get_annotations', 'image2tensor', 'imagenet_stats',
           'load_image', 'mnist_stats', 'to_image']

BILINEAR, NEAREST = Image.Resampling.BILINEAR, Image.Resampling.NEAREST

imagenet_stats = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
"""Mean and standard deviation a channel of ImageNet, of pixels in 0..1."""
cifar_stats = ([0.491, 0.482, 0.447], [0.247, 0.243, 0.261])
"""Mean and standard deviation a channel of CIFAR-10."""
mnist_stats = ([0.131], [0.308])
"""Mean and standard deviation of MNIST."""


# ---------------------------------------------------------------- small methods that scripts call on any Pillow image

def gives_methods_to(*classes: type[Any]) -> Callable[[type[Any]], type[Any]]:
    """Class decorator: what is public in the class becomes a method of these `classes` too, unless they have the name.

    fastai patches its methods into Pillow's images and into its tensors, and scripts call them there
    (`Image.open(file).to_thumb(64)`, `TensorImage(x).rotate(p=1.)`). Pillow's class is not ours, and the marked tensors
    lie on the ground floor, which knows nothing of geometry and light. This is the one place that adds to a class of
    another room.
    """
    def given(methods: type) -> type:
        for name, method in vars(methods).items():
            for cls in classes:
                if not name.startswith('_') and not hasattr(cls, name):
                    setattr(cls, name, method)
        return methods
    return given


@gives_methods_to(Image.Image)
class _PillowMethods:
    """What Pillow's own image class can do besides."""

    n_px = property(lambda self: self.size[0] * self.size[1], doc='Number of pixels.')
    shape = property(lambda self: (self.size[1], self.size[0]), doc='(height, width).')
    aspect = property(lambda self: self.size[0] / self.size[1], doc='Width over height.')

    def reshape(self, h: int, w: int, resample: int = 0) -> Image.Image:
        """Resize to `h` x `w` pixels; `resample` is Pillow's filter, default the nearest pixel."""
        return self.resize((w, h), resample=resample)

    def to_bytes_format(self, format: str = 'png') -> bytes:
        """The bytes of a file of this `format`, as Pillow calls it."""
        file = io.BytesIO()
        self.save(file, format=format)
        return file.getvalue()

    def to_thumb(self, h: int, w: int | None = None) -> Image.Image:
        """A copy no larger than `h` x `w` pixels (`w` default: `h`), the aspect kept."""
        small = self.copy()
        small.thumbnail((h if w is None else w, h))
        return small

    def resize_max(self, resample: int = 0, max_px: int | None = None, max_h: int | None = None,
                   max_w: int | None = None) -> Image.Image:
        """Resize, aspect kept, so that none of the limits given is exceeded.

        Args:
            resample: Pillow's filter, default the nearest pixel.
            max_px: most pixels in all.
            max_h: largest height.
            max_w: largest width.
        """
        h, w = self.size[1], self.size[0]
        if max_px and h * w > max_px:
            ratio = math.sqrt(max_px / (h * w))
            h, w = h * ratio, w * ratio
        if max_h and h > max_h:
            h, w = max_h, max_h * w / h
        if max_w and w > max_w:
            h, w = max_w * h / w, max_w
        return self.resize((round(w), round(h)), resample=resample)


def to_image(x: Any) -> Image.Image:
    """A tensor [C,H,W] or array [H,W,C] `x`, uint8 or float in 0..1, as a Pillow image; four channels are CMYK."""
    if isinstance(x, Image.Image):
        return x
    if isinstance(x, Tensor):
        x = plain(x).permute(1, 2, 0).cpu().numpy()  # sync: Pillow lives on the host
    if x.dtype.kind == 'f':
        x = (x * 255).astype(np.uint8)
    if x.shape[-1] == 4:
        return Image.frombytes('CMYK', (x.shape[1], x.shape[0]), np.ascontiguousarray(x).tobytes())
    return Image.fromarray(x[..., 0] if x.shape[-1] == 1 else x)


@registered
def load_image(fn: Any, mode: str | None = None, codes: bool = False) -> Image.Image:
    """Open a picture, upright, converted to `mode`.

    Args:
        fn: path, bytes, BytesIO or any open binary file, Pillow image, array [H,W(,C)] or tensor.
        mode: Pillow's mode ('RGB', 'L', 'RGBA', ...), None for the file's own.
        codes: the picture is a mask of class codes, see `decode_image`.

    Raises:
        BadImageError: it cannot be read; the message names the file and a way out.
    """
    loaded = _load(fn, mode, codes)
    return Image.fromarray(loaded) if isinstance(loaded, np.ndarray) else loaded


def _load(fn: Any, mode: str | None, codes: bool) -> np.ndarray | Image.Image:
    """The one way in for a picture, in whatever form: uint8 [H,W(,3)] or a Pillow image, upright, in `mode`."""
    if (file := _file(fn)) is not None:
        return decode_image(file[0], mode, path=file[1], codes=codes)
    if isinstance(fn, PILBase) and fn.pixels is not None and mode in (None, fn.mode):
        return fn
    if isinstance(fn, Image.Image):
        return opened_image(fn, mode, codes)
    if isinstance(fn, (np.ndarray, Tensor)):
        pixels = array_pixels(_tensor_pixels(fn) if isinstance(fn, Tensor) else fn, codes)
        kind = 'L' if pixels.ndim == 2 else {2: 'LA', 3: 'RGB', 4: 'RGBA'}[pixels.shape[-1]]
        return pixels if mode in (None, kind) else to_mode(Image.fromarray(pixels), mode, None, codes)
    raise TypeError(f'{type(fn).__name__} is no picture: give a path, bytes, an open binary file, a Pillow image, an '
                    'array [H,W,C] or a tensor [C,H,W]')


def _file(fn: Any) -> tuple[bytes, Any] | None:
    """What is in a file and how it is called, of a path, bytes or an open binary file; None for another form."""
    if isinstance(fn, (str, os.PathLike)):
        return read_image_file(fn), fn
    if isinstance(fn, (bytes, bytearray, memoryview)):
        return bytes(fn), None
    if not hasattr(fn, 'read'):
        return None
    if hasattr(fn, 'seek'):
        fn.seek(0)  # as Pillow does: it may have been read before
    return fn.read(), getattr(fn, 'name', None)


@registered
def image2tensor(img: Any) -> Tensor:
    """A Pillow image or array `img` as a uint8 tensor [C,H,W] of its own memory."""
    x = tensor(np.array(img))
    return (x.unsqueeze(-1) if x.ndim == 2 else x).permute(2, 0, 1)


# ---------------------------------------------------------------- pictures as Pillow images

@registered
class PILBase(Image.Image):
    """A Pillow image that can be created from anything, shown, and turned into a tensor.

    A decoded JPEG stays the array it was decoded into (`pixels`) until something of Pillow needs Pillow's own copy;
    resizing and `ToTensor` never do. Subclasses set `_open_args` (how `create` opens), `_show_args` (how `show` draws)
    and `_tensor_cls`.

    Args:
        im: a Pillow image to become, its storage shared until one of the two is written to; None for an empty one.
    """

    _show_args: ClassVar[dict[str, Any]] = {'cmap': 'viridis'}
    _open_args: ClassVar[dict[str, Any]] = {'mode': 'RGB'}
    _tensor_cls: ClassVar[type[Tensor]] = TensorImage
    _im = None
    _held: np.ndarray | None = None
    _waiting: WaitingJpeg | None = None
    slots: Slots | None = None
    """Where its pixels go when it is resized, while a batch is made."""

    def __init__(self, im: Image.Image | None = None) -> None:
        super().__init__()
        if im is not None:
            self._share(im)

    def _share(self, im: Image.Image) -> None:
        """Become `im`, sharing its storage until one of the two is written to."""
        if isinstance(im, PILBase) and im.pixels is not None:
            self._set_pixels(im.pixels)
            self.info = im.info
            return
        im.load()
        self._im, self._mode, self._size = im.im, im.mode, im.size
        self.palette, self.info, self._exif = im.palette, im.info, im._exif
        self.readonly = im.readonly = 1  # Pillow copies before it writes

    @property
    def pixels(self) -> np.ndarray | None:
        """uint8 [H,W,3] or [H,W], in any order in memory, as long as Pillow holds no copy of its own, else None."""
        if self._waiting is not None:
            self._held, self._waiting = self._waiting.decode(), None
        return self._held

    def scaled(self, crop: tuple[int, int], target: tuple[int, int]) -> ScaledPixels | None:
        """A JPEG still to be decoded at a part of its size, for `crop` pixels of it to become `target` pixels.

        Args:
            crop: (width, height) of the part that is needed, in pixels of the picture.
            target: (width, height) that it will be resized to.

        Returns:
            None where the picture has to be decoded in full.
        """
        return None if self._waiting is None else self._waiting.scaled(scale_for(crop, target))

    def window(self, box: Sequence[int]) -> tuple[np.ndarray, Turn] | None:
        """What is within `box`, (left, top, right, bottom), of a JPEG still to be decoded, see `WaitingJpeg.window`."""
        return None if self._waiting is None else self._waiting.window(box)

    def mirrored(self) -> PILBase | None:
        """A JPEG still to be decoded, mirrored left and right; None where the pixels are there already."""
        if self._waiting is None:
            return None
        made = self._wait_for(self._waiting.mirrored())
        made.slots = self.slots
        return made

    def _set_pixels(self, pixels: np.ndarray) -> None:
        self._held, self._waiting, self._im = pixels, None, None
        self._mode, self._size = 'L' if pixels.ndim == 2 else 'RGB', (pixels.shape[1], pixels.shape[0])

    @classmethod
    def from_pixels(cls, pixels: np.ndarray) -> PILBase:
        """A picture that holds the uint8 array `pixels` [H,W,3] or [H,W] itself, not a copy."""
        made = cls.__new__(cls)
        PILBase.__init__(made)
        made._set_pixels(pixels)
        return made

    @classmethod
    def deferred(cls, fn: Any) -> PILBase:
        """As `create(fn)`, but a JPEG is decoded when its pixels are needed, and no larger than they are."""
        usual = cls._open_args == {'mode': 'RGB'} and cls.create.__func__ is PILBase.create.__func__
        file = _file(fn) if usual else None
        if file is None:
            return cls.create(fn)
        waiting = WaitingJpeg.of(*file)
        return cls._wrap(decode_image(file[0], path=file[1])) if waiting is None else cls._wait_for(waiting)

    @classmethod
    def _wait_for(cls, waiting: WaitingJpeg) -> PILBase:
        made = cls.__new__(cls)
        PILBase.__init__(made)
        made._waiting, made._mode, made._size = waiting, 'RGB', waiting.size
        return made

    @classmethod
    @keyed
    def create(cls, fn: Any, **kwargs: Any) -> PILBase:
        """A picture from a path, bytes, open binary file, Pillow image, array [H,W(,C)] or tensor.

        Args:
            fn: the source; each form of a picture gives the same pixels. Tensors are [C,H,W] (plain ones also
                [H,W,C]); 16 bits, and floats in 0..1, are scaled to 0..255; truth values are black and white.
            **kwargs: over `_open_args`: `mode`, Pillow's mode to convert to.

        Raises:
            BadImageError: the file cannot be read; the message names it and a way out.
            ValueError: an array's shape or values are no picture's.

        Example:
            >>> PILImage.create(np.zeros((60, 90, 3), np.uint8))
            PILImage mode=RGB size=90x60
        """
        args = {'codes': issubclass(cls, PILMask), **cls._open_args, **kwargs}
        return cls._wrap(_load(fn, args.pop('mode', None), args.pop('codes'), **args))

    @classmethod
    def _wrap(cls, source: np.ndarray | Image.Image) -> PILBase:
        if isinstance(source, np.ndarray) and source.dtype == np.uint8 and (source.ndim == 2 or source.shape[-1] == 3):
            return cls.from_pixels(source)
        return cls(Image.fromarray(source) if isinstance(source, np.ndarray) else source)

    def _to_pillow(self) -> None:
        """Hand the pixels over to Pillow: from here on its copy is the only one, as it may be written to."""
        if self._im is None and self.pixels is not None:
            self._im, self._held = Image.fromarray(np.ascontiguousarray(self.pixels)).im, None

    @property
    def im(self) -> Any:
        """Pillow's storage; settable."""
        self._to_pillow()
        return Image.Image.im.fget(self)

    @im.setter
    def im(self, core: Any) -> None:
        self._im, self._held, self._waiting = core, None, None

    def load(self) -> Any:
        """Pillow's access object; called by every method of Pillow before it touches the storage."""
        self._to_pillow()
        return super().load()

    def _new(self, im: Any) -> Image.Image:
        """What Pillow's methods (`resize`, `crop`, `rotate`, ...) return keeps our class."""
        new = super()._new(im)
        new.__class__ = type(self)
        return new

    @property
    def __array_interface__(self) -> dict:
        if self.pixels is None:
            return super().__array_interface__
        interface = self.pixels.__array_interface__
        return {**interface, 'data': (interface['data'][0], True)}  # not to be written to, as with Pillow's own

    def __getstate__(self) -> list:
        pillows = {*Image.Image().__dict__, '_held', '_waiting', 'slots'}
        return [*super().__getstate__(), {k: v for k, v in self.__dict__.items() if k not in pillows}]

    def __setstate__(self, state: list) -> None:
        super().__setstate__(state[:5])
        self.__dict__.update(state[5])

    def show(self, ctx: Any = None, **kwargs: Any) -> Any:
        """Draw on the matplotlib axis `ctx` (or a new one) and return the axis; `kwargs` are of `show_image`."""
        return show_image(self, ctx=ctx, **{**self._show_args, **kwargs})

    def to_tensor(self) -> Tensor:
        """The pixels as `_tensor_cls`, uint8 [C,H,W]."""
        return self._tensor_cls(self._planes())

    def _planes(self) -> Tensor:
        """uint8 [C,H,W], sharing the memory of a picture that is a transform's own."""
        if self.pixels is None:
            return image2tensor(self)
        pixels = self.pixels if self.pixels.flags.writeable else self.pixels.copy()
        return torch.from_numpy(pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels[None])

    def __repr__(self) -> str:
        return f'{type(self).__name__} mode={self.mode} size={self.size[0]}x{self.size[1]}'


PILBase.create.__func__.takes_pictures = True  # one that a user has written may not


@registered
class PILImage(PILBase):
    """A colour picture; becomes a `TensorImage`.

    Example:
        >>> picture = PILImage.create('cat.jpg')
        >>> picture.size, picture.mode
        ((40, 34), 'RGB')
    """


@registered
class PILImageBW(PILImage):
    """A grey picture; becomes a `TensorImageBW`.

    Example:
        >>> PILImageBW.create(files[0]).mode
        'L'
    """

    _show_args: ClassVar[dict[str, Any]] = {'cmap': 'Greys'}
    _open_args: ClassVar[dict[str, Any]] = {'mode': 'L'}
    _tensor_cls: ClassVar[type[Tensor]] = TensorImageBW


@registered
class PILMask(PILBase):
    """A segmentation mask of class codes 0..255; palette pictures give their indices; becomes a `TensorMask` [H,W].

    Example:
        >>> PILMask.create(np.zeros((60, 90), np.uint8))
        PILMask mode=L size=90x60
    """

    _show_args: ClassVar[dict[str, Any]] = {'alpha': 0.5, 'cmap': 'tab20'}
    _open_args: ClassVar[dict[str, Any]] = {'mode': 'L'}
    _tensor_cls: ClassVar[type[Tensor]] = TensorMask

    def to_tensor(self) -> Tensor:
        """The codes as a `TensorMask`, uint8 [H,W]."""
        return self._tensor_cls(self._planes()[0])


def _tensor_pixels(x: Tensor) -> np.ndarray:
    """A tensor's values as an array; [C,H,W] becomes [H,W,C]."""
    marker, x = type(x), plain(x).detach().cpu()  # sync: Pillow lives on the host
    if x.ndim == 3 and (issubclass(marker, TensorImage) or (x.shape[0] in (1, 3, 4) and x.shape[2] not in (1, 3, 4))):
        x = x.permute(1, 2, 0)
    return (x.float() if x.dtype == torch.bfloat16 else x).numpy()


# ---------------------------------------------------------------- points and boxes

@registered
class TensorPoint(TensorBase):
    """Points (x, y), float [n,2] or [B,n,2]; in pixels, or -1..1 across the picture once scaled.

    Example:
        >>> TensorPoint.create([[10, 20], [30, 40]])
        TensorPoint([[10., 20.],
                     [30., 40.]])
    """

    # a white rim around the red, which is seen on red; as large as it is seen without a glass
    _show_args: ClassVar[dict[str, Any]] = {'s': 60, 'marker': '.', 'c': 'r', 'edgecolors': 'white', 'linewidths': 0.8}
    torchvision_kind: ClassVar[str] = 'KeyPoints'
    unlike_sizes: ClassVar[str] = ('the pictures of a batch need as many points each: let get_y give as many for each '
                                   'picture, or fill them up in before_batch= of the loaders')

    @classmethod
    @keyed
    def create(cls, t: Any, img_size: tuple[int, int] | None = None) -> TensorPoint:
        """Points in pixels from a list, array or tensor of (x, y).

        Args:
            t: the points.
            img_size: (width, height) of their picture; needed where they are moved without that picture beside them.

        Example:
            >>> TensorPoint.create([(10, 20), (30, 40)]).shape
            torch.Size([2, 2])
        """
        return cls(plain(tensor(t)).reshape(-1, 2).float(), img_size=img_size)

    def show(self, ctx: Any = None, **kwargs: Any) -> Any:
        """Draw the points on the axis `ctx`; those outside of its picture are not seen and do not shrink it.

        `kwargs` are of matplotlib's `scatter`.
        """
        kwargs.pop('figsize', None)
        xy = plain(self).detach().cpu().reshape(-1, 2).numpy()  # sync: shown to a person
        ctx.set_autoscale_on(not ctx.images)
        ctx.scatter(xy[:, 0], xy[:, 1], **{**self._show_args, **kwargs})
        return ctx


@registered
class TensorBBox(TensorPoint):
    """Boxes (left, top, right, bottom), float [n,4] or [B,n,4]; in pixels, or -1..1 once scaled."""

    torchvision_kind: ClassVar[str] = 'BoundingBoxes'
    unlike_sizes: ClassVar[str] = ('the pictures of a batch need as many boxes each: DataBlock(blocks=(ImageBlock, '
                                   'BBoxBlock, BBoxLblBlock)) fills them up, and so does before_batch=bb_pad')

    @classmethod
    @keyed
    def create(cls, x: Any, img_size: tuple[int, int] | None = None) -> TensorBBox:
        """Boxes in pixels from a list, array or tensor of (left, top, right, bottom).

        Args:
            x: the boxes.
            img_size: (width, height) of their picture; needed where they are moved without that picture beside them.
        """
        return cls(plain(tensor(x)).reshape(-1, 4).float(), img_size=img_size)

    def show(self, ctx: Any = None, **kwargs: Any) -> Any:
        """Draw the boxes on the axis `ctx`.

        Args:
            ctx: a matplotlib axis.
            **kwargs: `color`, `text` as a label and `text_size` in points.
        """
        kwargs.pop('figsize', None)
        for box in plain(self).detach().cpu().reshape(-1, 4).tolist():  # sync: shown to a person
            _draw_box(ctx, box, **kwargs)
        return ctx


@registered
class TensorProbe(TensorPoint):
    """Points that travel with a sample to tell how it was moved, in -1..1 from the start."""

    torchvision_kind = None


def _draw_box(ax: Any, box: list[float], color: str = 'white', text: str | None = None, text_size: int = 14) -> None:
    from matplotlib import patches, patheffects

    def _outline(drawn: Any, width: int) -> None:
        drawn.set_path_effects([patheffects.Stroke(linewidth=width, foreground='black'), patheffects.Normal()])

    left, top, right, bottom = box
    frame = patches.Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=color, lw=2)
    _outline(ax.add_patch(frame), 4)
    if text is not None:
        words = ax.text(left, top, visible(text), verticalalignment='top', color=color, fontsize=text_size,
                        weight='bold', clip_on=True)  # else a long name covers the next picture
        _outline(words, 1)


class LabeledBBox(L):
    """Boxes and their labels, `LabeledBBox(boxes, labels)`, shown together."""

    bbox = property(lambda self: self[0], doc='The boxes, a TensorBBox.')
    lbl = property(lambda self: self[1], doc='Their labels, a list of str.')

    def show(self, ctx: Any = None, **kwargs: Any) -> Any:
        """Draw each box with its label; padding ('#na#') is left out.

        `ctx` as for `TensorBBox.show`, and `kwargs`: `color` and `text_size`.
        """
        for box, label in zip(plain(self.bbox), self.lbl):
            if label != '#na#':
                ctx = retain_type(box, self.bbox).show(ctx=ctx, text=label, **kwargs)
        return ctx


def get_annotations(fname: str | Path,
                    prefix: str | None = None) -> tuple[list[str], list[tuple[list[Any], list[Any]]]]:
    """Read a COCO-style json file.

    Args:
        fname: the file.
        prefix: put before each name, such as 'train/'; default: nothing.

    Returns:
        The names of the pictures that have boxes, and for each
        ([[left, top, right, bottom], ...], [label, ...]), in pixels.

    Example:
        >>> names, annotations = get_annotations(path/'train.json')
        >>> annotation_of = dict(zip(names, annotations))
        >>> block = DataBlock(blocks=(ImageBlock, BBoxBlock, BBoxLblBlock), n_inp=1, get_items=get_image_files,
        ...                   get_y=[lambda o: annotation_of[o.name][0], lambda o: annotation_of[o.name][1]])
    """
    found = json.loads(Path(fname).read_bytes())
    classes = {o['id']: o['name'] for o in found['categories']}
    boxes, labels = defaultdict(list), defaultdict(list)
    for o in found['annotations']:
        left, top, width, height = o['bbox']
        boxes[o['image_id']].append([left, top, left + width, top + height])
        labels[o['image_id']].append(classes[o['category_id']])
    names = {o['id']: (prefix or '') + o['file_name'] for o in found['images'] if o['id'] in boxes}
    return list(names.values()), [(boxes[k], labels[k]) for k in names]


# ---------------------------------------------------------------- the picture of a sample

def _first_picture(sample: Any) -> Any:
    """The first picture of a nested sample or batch, else its first tensor; None where it has neither."""
    parts, tensor_ = [sample], None
    while parts:
        o = parts.pop(0)
        if isinstance(o, (tuple, list)):
            parts[:0] = o
        elif isinstance(o, (Image.Image, TensorImageBase)):
            return o
        elif tensor_ is None and isinstance(o, Tensor):
            tensor_ = o
    return tensor_


def picture_size(sample: Any) -> tuple[int, int] | None:
    """(width, height) of the first picture of a nested sample or batch, None where it has none."""
    found = _first_picture(sample)
    if isinstance(found, Image.Image):
        return found.size
    return (found.shape[-1], found.shape[-2]) if isinstance(found, TensorImageBase) else None


def size_around(points: Tensor, picture: tuple[int, int] | None) -> tuple[int, int]:
    """(width, height) of the picture that points belong to: of the one beside them, else what they were made with.

    Raises:
        ValueError: there is neither.
    """
    size = picture or getattr(points, 'img_size', None)
    if size is None:
        raise ValueError(f'{type(points).__name__} has no picture beside it and no img_size: give '
                         f'{type(points).__name__}.create(points, img_size=(width, height))')
    return tuple(size)


def to_augment(sample: Any) -> Tensor:
    """The pictures of a batch, or else its first tensor: what random numbers are drawn for.

    Raises:
        TypeError: there is no tensor.
    """
    x = _first_picture(sample)
    if not isinstance(x, Tensor):
        raise TypeError(f'there is no tensor in {type(sample).__name__} to augment: is ToTensor among the transforms?')
    return x


# ---------------------------------------------------------------- transforms of pictures and masks

_picture_classes = {cls.__name__: cls for cls in (PILImage, PILImageBW, PILMask)}


@registered
class OpenImage(Transform):
    """Open a picture as `kind`.

    Args:
        kind: a class with a class method `create`, or the name of one of ours ('PILImage', 'PILImageBW', 'PILMask').
    """

    def __init__(self, kind: type[Any] | str = PILImage) -> None:
        super().__init__()
        self.kind = _picture_classes[kind] if isinstance(kind, str) else kind
        if not callable(getattr(self.kind, 'create', None)):
            raise TypeError(f'{kind!r} opens no pictures: give a class with a class method `create`, or one of '
                            f'{", ".join(_picture_classes)}')

    @property
    def name(self) -> str:
        """`PILImage.create`, or whatever the class is."""
        return f'{self.kind.__name__}.create'

    def config_kwargs(self) -> dict[str, str]:
        """The class by its name.

        Raises:
            TypeError: it is a class of the user's own.
        """
        if _picture_classes.get(self.kind.__name__) is not self.kind:
            raise TypeError(f'{self.kind.__qualname__} is code of your own, and exports hold data only: it has to be '
                            'given again when the export is loaded')
        return {'kind': self.kind.__name__}

    def encodes(self, fn: Any, target: Target | None = None) -> Any:
        """The picture `fn`; in a loader, which hands over a `target`, decoded no sooner and no larger than needed."""
        if target is None or not hasattr(self.kind, 'deferred'):
            return self.kind.create(fn)
        if target.opened is not None and isinstance(fn, (str, Path)):
            made = target.opened.open(fn, self.kind.create, self.kind._wrap)
        else:
            made = self.kind.deferred(fn)
        if isinstance(made, PILBase):
            made.slots = target.slots
        return made


@registered
class OpenMask(OpenImage):
    """Open a mask; the loss that suits it is cross-entropy over the codes of each pixel.

    Args:
        kind: as for `OpenImage`.
    """

    loss_func = CrossEntropyLossFlat(axis=1)

    def __init__(self, kind: type[Any] | str = PILMask) -> None:
        super().__init__(kind)


@registered
class AddMaskCodes(Transform):
    """Keep the names of a mask's codes with it, for showing, and how many there are, for the outputs of a model.

    Args:
        codes: names in the order of the codes, None if they have none.
    """

    def __init__(self, codes: Any = None) -> None:
        super().__init__()
        self.codes = codes
        if codes is not None:
            self.vocab, self.c = codes, len(codes)

    def decodes(self, o: TensorMask) -> TensorMask:
        """The mask `o` with its `codes`."""
        if self.codes is not None:
            o.codes = self.codes
        return o


# ---------------------------------------------------------------- transforms of points and boxes

@registered
class TensorPointCreate(Transform):
    """Points in pixels from a list, array or tensor of (x, y); the loss that suits them is the squared error."""

    loss_func = MSELossFlat()

    def encodes(self, t: Any) -> TensorPoint:
        """The points in `t`."""
        return TensorPoint.create(t)


@registered
class PointScaler(RandTransform):
    """Scale points and boxes from pixels to -1..1 across the picture of their sample, and back for showing.

    Args:
        do_scale: False for points that are in -1..1 already.
        y_first: the points are given as (y, x).
    """

    order = 1
    split_idx = None
    supports = (TensorPoint,)

    def __init__(self, do_scale: bool = True, y_first: bool = False) -> None:
        super().__init__()
        self.do_scale, self.y_first = do_scale, y_first

    def setups(self, dl: Any) -> None:
        """`c` is how many numbers a sample of `dl`, a loader, has, for the size of a model's output."""
        points = [o for o in dl.dataset[0] if isinstance(o, TensorPoint)] if len(dl.dataset) else []
        if points:
            self.c = points[0].numel()

    def draw(self, sample: Any, split_idx: int | None, generator: Any) -> tuple[Any, ...]:
        """The size of the picture in `sample`; nothing is random, so `split_idx` and `generator` have no effect."""
        return (picture_size(sample),)

    def apply(self, x: Tensor, params: tuple[Any, ...]) -> Tensor:
        """`x` scaled by `params`, what `draw` returned."""
        if isinstance(x, TensorProbe):
            return x
        size = size_around(x, params[0])
        xy = plain(x).reshape(-1, 2)
        xy = xy.flip(1) if self.y_first else xy
        scaled = xy * 2 / xy.new_tensor(size) - 1 if self.do_scale else xy
        return self._marked(scaled, x, size)

    def decode(self, x: Any, split_idx: int | None = None, **kwargs: Any) -> Any:
        """Points and boxes in pixels again, of a sample `x` or alone (then by their `img_size`).

        `split_idx` and `kwargs` have no effect.
        """
        return self._unscaled(x, picture_size(x))

    def _unscaled(self, x: Any, size: tuple[int, int] | None) -> Any:
        if isinstance(x, tuple):
            done = tuple(self._unscaled(o, size) for o in x)
            return done if type(x) is tuple else type(x)(done)
        size = size or getattr(x, 'img_size', None)
        if not isinstance(x, TensorPoint) or size is None:
            return x
        xy = plain(x).reshape(-1, 2)
        return self._marked((xy + 1) * xy.new_tensor(size) / 2, x, size)

    @staticmethod
    def _marked(xy: Tensor, like: Tensor, size: tuple[int, int]) -> Tensor:
        marked = cast(xy.reshape(-1, 4) if isinstance(like, TensorBBox) else xy, type(like))
        marked.img_size = tuple(size)
        return marked


@registered
class BBoxLabeler(Transform):
    """Put boxes and labels of a sample together as a `LabeledBBox` for showing.

    Args:
        vocab: the labels' names; default: the loader's.
    """

    def __init__(self, vocab: Any = None) -> None:
        super().__init__()
        self.vocab, self._is_given = vocab, vocab is not None

    def setups(self, dl: Any) -> None:
        """The labels' names come from the loader `dl`, unless they were given."""
        if not self._is_given:
            self.vocab = dl.vocab

    def decode(self, x: Any, split_idx: int | None = None, **kwargs: Any) -> Any:
        """Labels become a `LabeledBBox` with the boxes of the same sample `x`.

        `split_idx` and `kwargs` have no effect.
        """
        if not isinstance(x, tuple):
            return x
        boxes = next((o for o in x if isinstance(o, TensorBBox)), None)
        done = tuple(LabeledBBox(boxes, [self.vocab[int(i)] for i in o])
                     if isinstance(o, TensorMultiCategory) and boxes is not None else o for o in x)
        return done if type(x) is tuple else type(x)(done)
