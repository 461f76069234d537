"""Marker tensors: a class that says what a tensor means, without arithmetic of its own."""
from __future__ import annotations

from collections.abc import Callable, Sized
from typing import Any, ClassVar

import numpy as np
import torch
from fastcore.foundation import L
from PIL import Image
from torch import Tensor

from minifast.codetext import keyed, registered

__all__ = ['TensorBase', 'TensorCategory', 'TensorFlowField', 'TensorImage', 'TensorImageBW', 'TensorImageBase',
           'TensorMask', 'TensorMultiCategory', 'TitledTensorScalar', 'array', 'cast', 'explode_types', 'plain',
           'retain_meta', 'retain_type', 'retain_types', 'tensor']


_without_markers = torch._C._disabled_torch_function_impl
"""Runs a function of torch as if its arguments carried no marker."""

unmarked = torch._C.DisableTorchFunctionSubclass
"""`with unmarked():` markers are plain tensors inside, at a plain tensor's speed: for what runs every step or item."""

_view_names = (
    '__getitem__ __reversed__ as_strided bfloat16 broadcast_to byte cat char chunk clone concat concatenate contiguous '
    'cpu cuda detach diagonal double dsplit expand expand_as flatten flip fliplr flipud float half hsplit index_select '
    'int long movedim moveaxis narrow permute pin_memory repeat reshape rot90 select short split split_with_sizes '
    'squeeze stack swapaxes swapdims t take_along_dim tensor_split tile to transpose type type_as unbind unflatten '
    'unsqueeze unfold view view_as view_copy vsplit hstack vstack dstack adjoint roll').split()
_views = {getattr(owner, name) for owner in (Tensor, torch) for name in _view_names if hasattr(owner, name)} | {
    getattr(Tensor, name).__get__ for name in ('T', 'mT', 'H', 'mH', 'data')}
"""What shows, moves, copies or joins the elements of a picture and leaves them a picture."""


@registered
class TensorBase(Tensor):
    """A tensor whose class says what it means (a picture, a mask, a class index); the class carries no arithmetic.

    A view, a copy or a move of a marker (`permute`, `x[0]`, `to`, `clone`, `stack` of equals, ...) is marked as it is;
    any other operation returns a plain tensor. Model, loss and transforms work on plain tensors, so that nothing is
    decided where it costs. `TensorImage(x)` marks a tensor, array or list without copying where possible; further
    `attributes` (by name) travel with it and its views.
    """

    @classmethod
    def __torch_function__(cls, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run `func` without markers, and mark what is a view."""
        kwargs = kwargs or {}
        made = _without_markers(func, types, args, kwargs)
        if func not in _views:
            return made
        return _marked_views(made, args[0] if args else kwargs.get('input', kwargs.get('tensors')))

    _show_args: ClassVar[dict[str, Any]] = {}

    def __new__(cls, x: Any, **attributes: Any) -> TensorBase:
        marked = cast(x if isinstance(x, Tensor) else tensor(x), cls)
        marked.__dict__.update(attributes)
        return marked

    @classmethod
    def create(cls, x: Any, **attributes: Any) -> TensorBase:
        """Mark `x`, with `attributes`, as the class itself does when it is called."""
        return cls(x, **attributes)

    def __reduce_ex__(self, protocol: int) -> tuple:
        # through a worker's queue the storage travels shared, the marker and its attributes beside it
        return _rebuild_marker, (type(self), self.as_subclass(Tensor), dict(self.__dict__))

    def __deepcopy__(self, memo: dict) -> TensorBase:
        copied = cast(plain(self).clone(), type(self))
        copied.__dict__.update(self.__dict__)
        return copied


def _marked_views(made: Any, like: Any) -> Any:
    """What a function of `_views` made of `like`, marked as that is; of several tensors, where they are equals."""
    if isinstance(like, (tuple, list)):
        like, others = (like[0], like[1:]) if len(like) else (None, ())
        if any(type(o) is not type(like) for o in others):
            return made
    if not isinstance(like, TensorBase):
        return made
    return tuple([_as_view(o, like) for o in made]) if isinstance(made, (tuple, list)) else _as_view(made, like)


def _as_view(made: Any, like: TensorBase) -> Any:
    if type(made) is not Tensor:  # itself, or a string: `x.type()`
        return made
    made = made.as_subclass(type(like))
    if like.__dict__:
        made.__dict__.update(like.__dict__)
    return made


def _rebuild_marker(cls: type, x: Tensor, attributes: dict[str, Any]) -> Tensor:
    marked = x.as_subclass(cls)
    marked.__dict__.update(attributes)
    return marked


@registered
class TensorImageBase(TensorBase):
    """A picture-like tensor, [..., C, H, W] or [..., H, W]."""

    _show_args: ClassVar[dict[str, Any]] = {'cmap': 'viridis'}

    def show(self, ctx: Any = None, **kwargs: Any) -> Any:
        """Draw on the matplotlib axis `ctx` (or a new one) and return the axis; `**kwargs` go to `show_image`."""
        from minifast.show import show_image
        return show_image(plain(self), ctx=ctx, **{**self._show_args, **kwargs})


@registered
class TensorImage(TensorImageBase):
    """A colour picture, [C,H,W] or [B,C,H,W]; uint8 in 0-255 or float.

    Example:
        >>> picture = TensorImage(torch.rand(3, 8, 8))
        >>> type(picture.clone()).__name__, type(picture * 2).__name__  # what is calculated is a plain tensor
        ('TensorImage', 'Tensor')
    """


@registered
class TensorImageBW(TensorImage):
    """A grey picture, [1,H,W] or [B,1,H,W]."""

    _show_args: ClassVar[dict[str, Any]] = {'cmap': 'Greys'}


@registered
class TensorMask(TensorImageBase):
    """A segmentation mask, int64 or uint8 class codes [H,W] or [B,H,W].

    Example:
        >>> TensorMask(torch.zeros(8, 8, dtype=torch.long)).show()
    """

    _show_args: ClassVar[dict[str, Any]] = {'alpha': 0.5, 'cmap': 'tab20', 'interpolation': 'nearest'}

    def show(self, ctx: Any = None, **kwargs: Any) -> Any:
        """Draw on the axis `ctx` and return it, as any picture; of masks that have names of codes, `codes`, each code
        has the same colour in every mask, and what is none of them is not drawn. `**kwargs` go to `show_image`."""
        mask, codes = self, getattr(self, 'codes', None)
        if codes is not None:
            mask = cast(plain(self).float(), TensorMask)
            mask[mask >= len(codes)] = float('nan')
            kwargs = {'vmin': 0, 'vmax': max(len(codes) - 1, 1), **kwargs}
        ax = super(TensorMask, mask).show(ctx=ctx, **kwargs)
        ax.images[-1].set_gid('mask')
        return ax


@registered
class TensorFlowField(TensorBase):
    """Sampling positions for `grid_sample`, [B,H,W,2] in -1..1."""


@registered
class TensorCategory(TensorBase):
    """Class indices, int64 [] or [B]."""


@registered
class TensorMultiCategory(TensorCategory):
    """Several classes an item: indices [k], or one-hot [B,C]."""


@registered
class TitledTensorScalar(TensorBase):
    """A scalar that is shown as a title."""

    def show(self, ctx: Any = None, **kwargs: Any) -> Any:
        """Write the value above the axis `ctx`, or print it; `**kwargs` go to `show_title`."""
        from minifast.show import short, show_title
        return show_title(short(self.item()), ctx=ctx, **kwargs)  # sync: shown to a person


@keyed
def plain(x: Any) -> Any:
    """The tensor `x` without its marker, on the same storage; what is no tensor comes back as it is."""
    return x if type(x) is Tensor or not isinstance(x, Tensor) else x.as_subclass(Tensor)


@keyed
def cast(x: Tensor, cls: type[Any]) -> Tensor:
    """The storage of `x` marked as `cls`; the attributes of a marker stay."""
    if type(x) is cls:
        return x
    marked = x.as_subclass(cls)
    if x.__dict__ and cls is not Tensor:
        marked.__dict__.update(x.__dict__)
    return marked


def retain_type(new: Any, like: Any) -> Any:
    """Mark the tensor `new` as `like` is marked; anything else comes back as it is."""
    if isinstance(like, TensorBase) and isinstance(new, Tensor) and type(new) is not type(like):
        new = new.as_subclass(type(like))
        new.__dict__.update(like.__dict__)
    return new


@keyed
def tensor(x: Any, *rest: Any, **kwargs: Any) -> Tensor:
    """`torch.tensor` that also takes several numbers, (lists of) arrays, L and pictures; memory is shared if it can.

    Args:
        x: the values; a tensor comes back as it is. Float64 that is no tensor yet becomes float32.
        *rest: further values: `tensor(1, 2)` is `tensor([1, 2])`.
        **kwargs: for `Tensor.to`, such as `dtype` or `device`.

    Example:
        >>> tensor([1, 2]), tensor(1., 2.), tensor(np.zeros(2)).dtype
        (tensor([1, 2]), tensor([1., 2.]), torch.float32)
    """
    if rest:
        x = (x, *rest)
    if isinstance(x, Tensor):
        made = x
    elif isinstance(x, np.ndarray):
        # torch has few operations on uint16 and warns about read-only memory
        x = x.astype(np.int32) if x.dtype == np.uint16 else x
        made = torch.from_numpy(x if x.flags.writeable else x.copy())
    elif isinstance(x, (list, tuple, L)):
        nested = len(x) and isinstance(x[0], (Tensor, np.ndarray))
        made = torch.stack([tensor(o) for o in x]) if nested else torch.tensor(list(x))
    elif hasattr(x, '__array__') or hasattr(x, '__array_interface__'):
        made = tensor(np.array(x))
    else:
        made = torch.tensor(x)
    if made.dtype == torch.float64 and not isinstance(x, Tensor) and 'dtype' not in kwargs:
        made = made.float()  # a list of Python floats means single precision everywhere in training
    return made.to(**kwargs) if kwargs else made


@keyed
def array(a: Any, dtype: Any = None, **kwargs: Any) -> np.ndarray:
    """`np.array(a, dtype=dtype, **kwargs)`, where `a` may also be a generator or a tensor."""
    if isinstance(a, Tensor):
        a = np.asarray(a)  # numpy 2 warns of torch when it is asked for a copy
    taken = isinstance(a, Sized) or hasattr(a, '__array_interface__') or np.isscalar(a)
    return np.array(a if taken else list(a), dtype=dtype, **kwargs)


_listy = (list, tuple, L)


def retain_meta(x: Any, res: Any, as_copy: bool = False) -> Any:
    """`res`, after `res.set_meta(x, as_copy=as_copy)` where it has such a method."""
    if hasattr(res, 'set_meta'):
        res.set_meta(x, as_copy=as_copy)
    return res


def explode_types(o: Any) -> Any:
    """The type of `o`; of a tuple or list `{its type: [the types of its elements]}`."""
    return {type(o): [explode_types(part) for part in o]} if isinstance(o, _listy) else type(o)


def retain_types(new: Any, old: Any = None, typs: Any = None) -> Any:
    """`new` with its tensors marked as those of `old`, or as `typs`, what `explode_types` gave; nested alike."""
    if not isinstance(new, _listy):
        marked = new if old is None else retain_type(new, old)
        marks = isinstance(typs, type) and issubclass(typs, TensorBase) and isinstance(marked, Tensor)
        return cast(marked, typs) if marks and not isinstance(marked, typs) else marked
    if isinstance(typs, dict):
        (container, kinds), = typs.items()
    else:
        container, kinds = type(old) if isinstance(old, type(new)) else type(new), [None] * len(new)
    olds = old if isinstance(old, _listy) and len(old) == len(new) else [None] * len(new)
    parts = [retain_types(n, o, kind) for n, o, kind in zip(new, olds, kinds, strict=True)]
    return container(*parts) if hasattr(container, '_fields') else container(parts)


# ---------------------------------------------------------------- as torchvision knows them

def _picture_size(parts: tuple) -> tuple[int, int]:
    """(height, width) of the picture of a sample or batch."""
    for part in parts:
        if isinstance(part, Image.Image):
            return part.size[1], part.size[0]
        if isinstance(part, TensorImageBase):
            return tuple(part.shape[-2:])
    raise TypeError('boxes and points are moved with a picture, and the sample has none')


def as_torchvision(part: Any, parts: tuple[Any, ...]) -> Any:
    """A part of a sample or batch as what torchvision's transforms know it as (`tv_tensors`); `parts`: all of them."""
    from torchvision import tv_tensors
    if isinstance(part, TensorMask):
        return tv_tensors.Mask(plain(part))
    if isinstance(part, TensorImageBase):
        return tv_tensors.Image(plain(part))
    if isinstance(part, Image.Image) and issubclass(getattr(part, '_tensor_cls', object), TensorMask):
        return tv_tensors.Mask(plain(part.to_tensor()))
    kind = getattr(part, 'torchvision_kind', None)
    if kind is None:
        return plain(part) if isinstance(part, Tensor) else part
    size = _picture_size(parts)
    if part.ndim == 3:  # a batch, in -1..1
        scale = plain(part).new_tensor([size[1], size[0]]).repeat(part.shape[-1] // 2)
        flat = ((plain(part) + 1) / 2 * scale).flatten(0, 1)
    else:
        flat = plain(part)
    if kind == 'KeyPoints':
        return tv_tensors.KeyPoints(flat, canvas_size=size)
    return tv_tensors.BoundingBoxes(flat, format='XYXY', canvas_size=size)


def from_torchvision(new: Tensor, old: Any) -> Any:
    """A tensor that torchvision returned, as the class of what it was given."""
    x = new.as_subclass(Tensor)
    if getattr(old, 'torchvision_kind', None) is not None:
        h, w = new.canvas_size
        if old.ndim == 3:
            x = (x * 2 / x.new_tensor([w, h]).repeat(x.shape[-1] // 2) - 1).view(*old.shape[:2], -1)
        made = x.as_subclass(type(old))
        made.__dict__.update({**old.__dict__, 'img_size': (w, h)})
        return made
    if isinstance(old, TensorBase):
        return retain_type(x, old)
    if isinstance(old, Image.Image):
        return x.as_subclass(getattr(old, '_tensor_cls', TensorImage))
    return x
