"""Points and boxes: what they are, how they are scaled to the picture and labelled, and how they are drawn."""
from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any, ClassVar

from fastcore.foundation import L
from PIL import Image
from torch import Tensor

from minifast.data.categorize import MultiCategorize
from minifast.data.pipeline import RandTransform, Transform, keyed, registered
from minifast.losses import MSELossFlat
from minifast.markers import TensorBase, TensorImageBase, TensorMultiCategory, cast, plain, retain_type, tensor
from minifast.terminal import visible

__all__ = ['BBoxLabeler', 'LabeledBBox', 'PointScaler', 'TensorBBox', 'TensorPoint', 'TensorPointCreate',
           'first_picture', 'get_annotations', 'picture_size', 'size_around']


@registered
class TensorPoint(TensorBase):
    """Points (x, y), float [n,2] or [B,n,2]; in pixels, or -1..1 across the picture once scaled."""

    _show_args: ClassVar[dict[str, Any]] = {'s': 10, 'marker': '.', 'c': 'r'}
    torchvision_kind: ClassVar[str] = 'KeyPoints'
    unlike_sizes: ClassVar[str] = ('the pictures of a batch need as many points each: let get_y give as many for each '
                                   'picture, or fill them up in before_batch= of the loaders')

    @classmethod
    @keyed
    def create(cls, t: Any, img_size: tuple[int, int] | None = None) -> TensorPoint:
        """Points in pixels from a list, array or tensor of (x, y)."""
        return cls(plain(tensor(t)).reshape(-1, 2).float(), img_size=img_size)

    def show(self, ctx: Any = None, **kwargs: Any) -> Any:
        """Draw the points on the axis `ctx`; those outside of its picture are not seen and do not shrink it."""
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
        """Boxes in pixels from a list, array or tensor of (left, top, right, bottom)."""
        return cls(plain(tensor(x)).reshape(-1, 4).float(), img_size=img_size)

    def show(self, ctx: Any = None, **kwargs: Any) -> Any:
        """Draw the boxes on the axis `ctx`; `text` labels them."""
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
                        weight='bold')
        _outline(words, 1)


class LabeledBBox(L):
    """Boxes and their labels, `LabeledBBox(boxes, labels)`, shown together."""

    bbox = property(lambda self: self[0], doc='The boxes, a TensorBBox.')
    lbl = property(lambda self: self[1], doc='Their labels, a list of str.')

    def show(self, ctx: Any = None, **kwargs: Any) -> Any:
        """Draw each box with its label; padding ('#na#') is left out."""
        for box, label in zip(plain(self.bbox), self.lbl):
            if label != '#na#':
                ctx = retain_type(box, self.bbox).show(ctx=ctx, text=label, **kwargs)
        return ctx


def get_annotations(fname: str | Path, prefix: str | None = None) -> tuple[list[str], list[tuple[list, list]]]:
    """Read a COCO-style json file.

    Returns:
        The names of the pictures that have boxes (`prefix` before each), and for each
        ([[left, top, right, bottom], ...], [label, ...]).
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


# ---------------------------------------------------------------- their transforms

def first_picture(sample: Any) -> Any:
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
    found = first_picture(sample)
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


@registered
class TensorPointCreate(Transform):
    """Points in pixels from a list, array or tensor of (x, y); the loss that suits them is the squared error."""

    loss_func = MSELossFlat()

    def encodes(self, t: Any) -> TensorPoint:
        """The points."""
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
        """`c` is how many numbers a sample has, for the size of a model's output."""
        points = [o for o in dl.dataset[0] if isinstance(o, TensorPoint)] if len(dl.dataset) else []
        if points:
            self.c = points[0].numel()

    def draw(self, sample: Any, split_idx: int | None, generator: Any) -> tuple:
        """The size of the sample's picture; nothing is random."""
        return (picture_size(sample),)

    def apply(self, x: Tensor, params: tuple) -> Tensor:
        """`x` scaled."""
        if isinstance(x, TensorProbe):
            return x
        size = size_around(x, params[0])
        xy = plain(x).reshape(-1, 2)
        xy = xy.flip(1) if self.y_first else xy
        scaled = xy * 2 / xy.new_tensor(size) - 1 if self.do_scale else xy
        return self._marked(scaled, x, size)

    def decode(self, x: Any, split_idx: int | None = None, **kwargs: Any) -> Any:
        """Points and boxes in pixels again, of a sample or alone (then by their `img_size`)."""
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


def _as_it_is(self: MultiCategorize, o: LabeledBBox) -> LabeledBBox:
    return o


# labels that were decoded with their boxes pass through the labels' own transform
MultiCategorize.decodes.add(_as_it_is, takes_self=True)


@registered
class BBoxLabeler(Transform):
    """Put boxes and labels of a sample together as a `LabeledBBox` for showing.

    Args:
        vocab: the labels' names; default: the loader's.
    """

    def __init__(self, vocab: Any = None) -> None:
        super().__init__()
        self.vocab = vocab

    def setups(self, dl: Any) -> None:
        """The labels' names come from the loader."""
        self.vocab = dl.vocab

    def decode(self, x: Any, split_idx: int | None = None, **kwargs: Any) -> Any:
        """Labels become a `LabeledBBox` with the boxes of the same sample."""
        if not isinstance(x, tuple):
            return x
        boxes = next((o for o in x if isinstance(o, TensorBBox)), None)
        done = tuple(LabeledBBox(boxes, [self.vocab[int(i)] for i in o])
                     if isinstance(o, TensorMultiCategory) and boxes is not None else o for o in x)
        return done if type(x) is tuple else type(x)(done)
