"""torchvision's transforms among ours: drawn once for a sample and applied to picture, mask, boxes and points."""
from __future__ import annotations

from typing import Any

from PIL import Image
from torch import Tensor

from minifast.data.transform import Transform, is_sample, retain
from minifast.markers import TensorBase, TensorImage, TensorImageBase, TensorMask, plain, retain_type

__all__ = ['TorchvisionTransform', 'is_torchvision']


def is_torchvision(f: Any) -> bool:
    """Whether `f` is a transform object of torchvision."""
    return type(f).__module__.startswith('torchvision.transforms.')


class TorchvisionTransform(Transform):
    """A transform of torchvision on whole samples or batches.

    Those of `torchvision.transforms.v2` see each part as what it is (`tv_tensors.Image`, `Mask`, `BoundingBoxes`,
    `KeyPoints`), so a flip flips all of them or none, and labels pass. The older ones are given the pictures alone.
    """

    def __init__(self, tfm: Any) -> None:
        super().__init__()
        self.tfm, self._name = tfm, type(tfm).__name__
        self.joint = '.v2.' in type(tfm).__module__

    input_types = None

    def __call__(self, x: Any, split_idx: int | None = None, **kwargs: Any) -> Any:
        if not self.joint:
            return self._pictures(x)
        parts = tuple(x) if is_sample(x) else (x,)
        seen = [_as_torchvision(part, parts) for part in parts]
        new = self.tfm(tuple(seen)) if len(seen) > 1 else (self.tfm(seen[0]),)
        new = tuple(_as_ours(n, part) for n, part in zip(new, parts))
        return new if is_sample(x) else new[0]

    def decode(self, x: Any, **kwargs: Any) -> Any:
        """Nothing is undone."""
        return x

    def _pictures(self, x: Any) -> Any:
        if is_sample(x):
            return tuple(self._pictures(part) for part in x)
        if isinstance(x, TensorImageBase):
            return _as_ours(self.tfm(plain(x)), x)
        return _as_ours(self.tfm(x), x) if isinstance(x, Image.Image) else x

    def __repr__(self) -> str:
        return repr(self.tfm)


def _picture_size(parts: tuple) -> tuple[int, int]:
    """(height, width) of the picture of a sample or batch."""
    for part in parts:
        if isinstance(part, Image.Image):
            return part.size[1], part.size[0]
        if isinstance(part, TensorImageBase):
            return tuple(part.shape[-2:])
    raise TypeError('boxes and points are moved with a picture, and the sample has none')


def _as_torchvision(part: Any, parts: tuple) -> Any:
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


def _as_ours(new: Any, old: Any) -> Any:
    """What torchvision returned, as the class of what it was given."""
    if not isinstance(new, Tensor):
        return retain(new, old)
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
