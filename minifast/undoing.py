"""Where the parts of an augmented picture lie in the picture itself, and predictions brought back to it.

A grid of points travels with each sample through the transforms that move pixels. Where it arrives says how the sample
was moved, whoever moved it and in whichever process: one homography, which is turned round for what was predicted.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minifast.callback.core import Callback
from minifast.codetext import package_of
from minifast.data.core import Datasets, TfmdLists
from minifast.data.transform import Pipeline, RandTransform, TorchvisionTransform
from minifast.markers import TensorImageBase, cast, plain
from minifast.vision.core import TensorBBox, TensorPoint, TensorProbe
from minifast.vision.crop import RandomCrop, RandomResizedCrop
from minifast.vision.geometry import (AffineCoordTfm, CropWindow, RandomResizedCropGPU, find_coeffs, move, move_by,
                                      resample, square)

__all__ = ['Undo', 'place_of_targets']

_GRID = [(x, y) for y in (-1., 0., 1.) for x in (-1., 0., 1.)]
_CORNERS = [0, 2, 6, 8]
_HARMLESS = {'ColorJitter', 'GaussianBlur', 'Grayscale', 'Normalize', 'PILToTensor', 'Resize', 'ToDtype', 'ToImage'}
"""Transforms of torchvision that move nothing, or the same in training and validation."""


def place_of_targets(learn: Any, dl: Any) -> type[Any] | None:
    """The marker class of targets that lie somewhere in the picture (masks, pictures, points, boxes), else None.

    Args:
        learn: knows the kinds of targets where `dl` has none.
        dl: the loader that will be predicted on.
    """
    labelled = len(getattr(dl.dataset, 'tls', ())) > dl.n_inp
    source = dl if labelled else learn.dls[1 if len(learn.dls) > 1 else 0]
    if not hasattr(source, '_batch_kinds'):
        return None
    kinds = source._batch_kinds()
    targets = kinds[source.n_inp:] if isinstance(kinds, tuple) else ()
    places = (TensorImageBase, TensorPoint)
    return next((kind for kind in targets if isinstance(kind, type) and issubclass(kind, places)), None)


def _grid_of(item: Any) -> TensorProbe:
    return TensorProbe(torch.tensor(_GRID))


class Undo(Callback):
    """Takes the grid out of each batch, keeps where it lies without augmentation, and brings predictions back there.

    Args:
        dl: the loader that will be predicted on; `self.dl` is one whose samples carry the grid.
        kind: from `place_of_targets`.

    Raises:
        ValueError: a transform of the loader cannot be undone; the message names it.
    """

    name, order = 'undo', -60

    def __init__(self, dl: Any, kind: type[Any]) -> None:
        self.kind, self.plain, self.at = kind, [], 0
        refused = list(_not_undone(dl, kind))
        if refused:
            raise ValueError(
                f'tta cannot undo {", ".join(refused)}, so that each predicted {kind.__name__} would be averaged with '
                'others of other places: build the loaders without it, or give tta(item_tfms=..., batch_tfms=...) '
                'other transforms (all of them, ToTensor and IntToFloatTensor too)')
        affine = [f for f in _fs(dl.after_batch) if isinstance(f, AffineCoordTfm)]
        self.align_corners = bool(affine and affine[0].align_corners)
        self.dl = dl.new(cache=None)  # its pictures are resized already, which the grid has to see
        dataset = dl.dataset
        # the splits of `dataset` are of all items, and it may hold one of them
        tls = [*dataset.tls, TfmdLists(dataset.items, [_grid_of], split_idx=dataset.split_idx)]
        self.dl.dataset = type(dataset)(tls=tls, n_inp=dataset.n_inp)

    def before_validate(self) -> None:
        """A new pass."""
        self.at = 0

    def before_batch(self) -> None:
        """Take the grid out of the targets."""
        *targets, grid = self.learn.yb
        self.learn.yb, self.grid = tuple(targets), plain(grid).cpu().double()  # sync: matrices are made on the host

    def keep(self, preds: Any) -> Any:
        """Note where the grid lies in this batch of the pass without augmentation; `preds` come back as they are.

        Raises:
            TypeError: the model has several outputs, of which it is not known what lies where.
        """
        if not isinstance(preds, Tensor):
            raise TypeError(f'tta brings one output of the model back to where its {self.kind.__name__} lies, and this '
                            f'model gives a {type(preds).__name__}')
        self.plain.append(self.grid)
        self.size = tuple(preds.shape[-2:])
        return preds

    def back(self, preds: Tensor) -> Tensor:
        """`preds`, a batch of predictions, as they lie in the picture without augmentation.

        Returns:
            Points and boxes as they came; pictures and masks [B,C+1,H,W], the last channel being 1 where the augmented
            picture showed this place and 0 elsewhere.
        """
        m = _moves(self._plain_grid(len(preds)), self.grid).to(torch.float32)
        if issubclass(self.kind, TensorPoint):
            boxes = issubclass(self.kind, TensorBBox)
            marked = cast(preds.reshape(len(preds), -1, 4 if boxes else 2), TensorBBox if boxes else TensorPoint)
            return plain(move(marked, m, None, None, 'nearest', 'zeros', True)).reshape(preds.shape)
        x = preds if preds.ndim == 4 else preds[:, None]
        x = x.float()
        moved = resample(x, m, self.size, pad_mode='border', align_corners=self.align_corners)
        shown = resample(torch.ones_like(x[:, :1]), m, self.size, 'nearest', 'zeros', self.align_corners)
        return torch.cat([moved * shown, shown], 1)

    def _plain_grid(self, n: int) -> Tensor:
        self.plain = torch.cat(self.plain) if isinstance(self.plain, list) else self.plain
        self.at += n
        return self.plain[self.at - n:self.at]

    def mean(self, passes: Callable[[int], Tensor], n: int, preds: Tensor, use_max: bool) -> Tensor:
        """The mean (or largest) of `n` passes over what they showed; `preds` where none did.

        Args:
            passes: the predictions of pass i, from `back`.
            n: how many there are.
            preds: those without augmentation.
            use_max: take the largest.
        """
        places = issubclass(self.kind, TensorPoint)
        total = None
        for i in range(n):
            new = passes(i)
            if use_max and not places:
                new[:, :-1].masked_fill_(new[:, -1:] == 0, -torch.inf)
            total = new if total is None else torch.maximum(total, new) if use_max else total.add_(new)
        if places:
            return total if use_max else total / n
        found, times = total[:, :-1], total[:, -1:]
        found = found if use_max else found / times.clamp(min=1)
        return torch.where(times > 0, found, preds.view(found.shape)).view(preds.shape).to(preds.dtype)


def _moves(before: Tensor, after: Tensor) -> Tensor:
    """The homographies [B,3,3] that take the grid `before` [B,9,2] to where it is `after`.

    Raises:
        ValueError: it was moved in another way.
    """
    m = square(find_coeffs(after[:, _CORNERS], before[:, _CORNERS]))
    gap = float((move_by(before, m) - after).abs().max())  # sync: on the host anyway
    if not gap < 1e-2:
        raise ValueError('tta cannot undo what a function of positions among the batch transforms does: it is no '
                         'rotation, flip, zoom or tilt; give tta(item_tfms=..., batch_tfms=...) without it')
    return m


def _fs(pipeline: Any) -> list:
    """Transforms of a pipeline; a function alone is one, too."""
    return list(pipeline.fs) if isinstance(pipeline, Pipeline) else [pipeline]


def _not_undone(dl: Any, kind: type) -> Iterator[str]:
    """The names of transforms of which it is not known, or known not to be possible, to undo them."""
    if type(dl.dataset).__getitem__ is not Datasets.__getitem__:
        yield type(dl.dataset).__name__
    for f in [f for tl in dl.dataset.tls for f in tl.tfms.fs] + _fs(dl.after_item) + _fs(dl.after_batch):
        if isinstance(f, TorchvisionTransform):
            if type(f.tfm).__name__ not in _HARMLESS:
                yield f.name
        elif isinstance(f, RandTransform) or getattr(f, 'split_idx', None) == 0:
            ours = package_of(type(f)) == 'minifast'
            cuts = isinstance(f, (RandomCrop, RandomResizedCrop, RandomResizedCropGPU)) or any(
                isinstance(part, CropWindow) for part in getattr(f, 'aff_fs', ()))
            if not ours or (cuts and issubclass(kind, TensorPoint)):  # what is cut off cannot be predicted
                yield f.name.split(' -- ')[0]
