"""Losses that know how their predictions become probabilities (`activation`) and answers (`decodes`)."""
from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minifast.arguments import tells_near_match
from minifast.torch_core import Module, check_kwargs, plain

__all__ = ['BCELossFlat', 'BCEWithLogitsLossFlat', 'BaseLoss', 'CrossEntropyLossFlat', 'DiceLoss', 'FocalLoss',
           'FocalLossFlat', 'L1LossFlat', 'LabelSmoothingCrossEntropy', 'LabelSmoothingCrossEntropyFlat', 'MSELossFlat']


# ---------------------------------------------------------------- what the outputs of torch's losses mean

_on_classes = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss, F.cross_entropy, F.nll_loss, F.multi_margin_loss)
_levels = {nn.BCEWithLogitsLoss: 0., F.binary_cross_entropy_with_logits: 0., nn.BCELoss: 0.5,
           F.binary_cross_entropy: 0.5}


def _is_of(loss_func: Any, known: Any) -> bool:
    return isinstance(loss_func, known) if isinstance(known, type) else loss_func is known


def takes_classes(loss_func: Any) -> bool:
    """Whether a loss is one of torch's on class indices: the largest output tells the class."""
    return any(_is_of(loss_func, known) for known in _on_classes)


def level_of(loss_func: Any) -> float | None:
    """The output above which a loss of torch's on zeros and ones means 1; None for any other loss."""
    return next((level for known, level in _levels.items() if _is_of(loss_func, known)), None)


# ---------------------------------------------------------------- the losses

def fit_weights(loss_func: Any, dtype: torch.dtype) -> None:
    """Give the class weights of a loss the dtype of the model: numpy's, as scikit-learn makes them, are float64."""
    func = getattr(loss_func, 'func', loss_func)
    for module in func.modules() if isinstance(func, nn.Module) else ():
        for name in ('weight', 'pos_weight'):
            weight = module._buffers.get(name)
            if weight is not None and weight.dtype == torch.float64 != dtype:
                setattr(module, name, weight.to(dtype))


_SMALL_INTS = (torch.int8, torch.int16, torch.int32, torch.uint8)


def _seen(x: Any) -> str:
    return f'{list(x.shape)} {str(x.dtype).removeprefix("torch.")}' if isinstance(x, Tensor) else type(x).__name__


class BaseLoss:
    """A torch loss on flattened predictions and targets.

    Args:
        loss_cls: makes the loss, such as `nn.CrossEntropyLoss`.
        *args: for it.
        axis: of the classes; it is moved to the end.
        flatten: make predictions [N,C] (or [N]) and targets [N].
        floatify: turn targets into float.
        is_2d: keep the class axis of predictions when flattening.
        **kwargs: for `loss_cls`.

    Example:
        >>> BaseLoss(nn.MSELoss, floatify=True, is_2d=False)(torch.ones(2, 1), torch.tensor([1, 3])).item()
        2.0
    """

    def __init__(self, loss_cls: Callable[..., Any], *args: Any, axis: int = -1, flatten: bool = True,
                 floatify: bool = False, is_2d: bool = True, **kwargs: Any) -> None:
        self.axis, self.flatten, self.floatify, self.is_2d = axis, flatten, floatify, is_2d
        if isinstance(loss_cls, type):
            taken = inspect.signature(loss_cls.__init__).parameters
            if not any(p.kind is p.VAR_KEYWORD for p in taken.values()):
                check_kwargs(self._name(loss_cls), kwargs, [*taken, 'axis', 'flatten'])
        self.func = loss_cls(*args, **kwargs)

    def __repr__(self) -> str:
        return f'FlattenedLoss of {self.func}'

    @property
    def reduction(self) -> str:
        """`'mean'`, `'sum'` or `'none'`; settable."""
        return self.func.reduction

    @reduction.setter
    def reduction(self, v: str) -> None:
        self.func.reduction = v

    def __call__(self, inp: Tensor, targ: Tensor, **kwargs: Any) -> Tensor:
        """The loss of the predictions `inp` [..., C at `axis`, ...] for the targets `targ`; `kwargs` go to `func`.

        Raises:
            ValueError: their sizes or types do not fit each other; the message tells what was seen and what is meant.
        """
        self._check_tensors(inp, targ)
        seen = inp, targ = plain(inp), plain(targ)
        if inp.ndim > 1:
            targ = targ.movedim(self.axis, -1) if targ.ndim == inp.ndim else targ
            inp = inp.movedim(self.axis, -1)
        if self.floatify and targ.dtype != torch.float16:
            targ = targ.float()
        elif targ.dtype in _SMALL_INTS:
            targ = targ.long()
        if self.flatten:
            inp = inp.reshape(-1, inp.shape[-1]) if self.is_2d else inp.reshape(-1)
            targ = targ.reshape(-1)
        self._check(inp, targ, *seen)
        if not self._looked:
            self._look(inp, targ)
        return self.func(inp, targ, **kwargs)

    _looked = False

    def _look(self, inp: Tensor, targ: Tensor) -> None:
        """Look once at the values of targets: a device says nothing of a wrong class index, a binary loss never does.

        Raises:
            IndexError: there are others than classes, or than 0..1.
        """
        self._looked = True
        binary = isinstance(self.func, nn.BCEWithLogitsLoss)
        if not targ.numel() or not (binary or (isinstance(self.func, nn.CrossEntropyLoss) and self.is_2d)):
            return
        if targ.is_floating_point() and not binary:
            return
        most = 1 if binary else inp.shape[-1] - 1
        wrong = (targ < 0) | (targ > most)
        if not binary:
            wrong &= targ != self.func.ignore_index
        if wrong.any():  # sync: once for each loss function
            raise IndexError(f'target {targ[wrong].max().item():g} is out of bounds')  # sync: the fit ends here

    def _check_tensors(self, inp: Any, targ: Any) -> None:
        for x, what in ((inp, 'predictions'), (targ, 'targets')):
            if not isinstance(x, Tensor):
                raise TypeError(f'{self._name()} takes tensors and its {what} are a {type(x).__name__}: a model with '
                                'several outputs or targets needs a loss function of your own')

    def _check(self, inp: Tensor, targ: Tensor, seen_inp: Tensor, seen_targ: Tensor) -> None:
        """Refuse what cannot fit. Reads shapes and types only, so the device is never waited for."""
        classes = isinstance(self.func, (nn.CrossEntropyLoss, FocalLoss))
        if classes and self.flatten and targ.is_floating_point():
            meant = 'class indices of an integer type; for several labels an item use BCEWithLogitsLossFlat'
        elif self.flatten and len(inp) != len(targ):
            if self.is_2d:
                meant = (f'one class index for each of the {len(inp)} rows of {inp.shape[-1]} classes predicted, and '
                         f'there are {len(targ)}; is axis={self.axis} the axis of the classes?')
            else:
                meant = (f'one number for each of the {len(inp)} predicted, and there are {len(targ)}; has the model '
                         'as many outputs (n_out) as there are targets an item?')
        else:
            return
        raise ValueError(f'{self._name()}: predictions {_seen(seen_inp)} and targets {_seen(seen_targ)} do not fit. '
                         f'Meant are targets with {meant}')

    def _name(self, loss_cls: type | None = None) -> str:
        return type(self).__name__ if type(self) is not BaseLoss else f'{(loss_cls or type(self.func)).__name__}Flat'

    def to(self, device: torch.device | str) -> BaseLoss:
        """Move the weights of the loss to `device`."""
        if isinstance(self.func, nn.Module):
            self.func.to(device)
        return self

    def activation(self, x: Tensor) -> Tensor:
        """What turns the model's output `x` into predictions; nothing here."""
        return x

    def decodes(self, x: Tensor) -> Tensor:
        """What turns predictions `x` into answers of the targets' kind; nothing here."""
        return x


def wrong_targets(loss_func: Any, pred: Any, targ: Any) -> tuple[str, list[int]] | None:
    """In words what is wrong with targets that a loss function took for no classes, and in which rows.

    Args:
        loss_func: a loss on class indices, or on 0 and 1.
        pred: the predictions it was given.
        targ: the targets.

    Returns:
        None where nothing is found out.
    """
    if not isinstance(pred, Tensor) or not isinstance(targ, Tensor) or pred.ndim < 2 or not targ.ndim:
        return None
    func, targ = getattr(loss_func, 'func', loss_func), plain(targ)
    binary = isinstance(func, (nn.BCEWithLogitsLoss, nn.BCELoss))
    n = 2 if binary else pred.shape[getattr(loss_func, 'axis', 1)]
    wrong = (targ < 0) | (targ >= n)
    wrong = wrong & (targ != getattr(func, 'ignore_index', -100))
    if not wrong.any():  # sync: a failure is looked into
        return None
    codes = targ.unique().tolist()  # sync: a failure is looked into
    shown = ', '.join(f'{code:g}' for code in codes[:10]) + (f', ... {codes[-1]:g}' if len(codes) > 10 else '')
    words = f'the targets {list(targ.shape)} hold the codes {shown}, and the loss function takes 0..{n - 1} '
    words += '(yes or no)' if binary else f'({n} classes are predicted)'
    if targ.ndim > 1 and set(codes) <= {0, 255}:
        way = '255 is white in a mask of black and white (of one bit, too), and batch_tfms=IntToFloatTensor(' \
              'div_mask=255) makes it code 1'
    elif targ.ndim > 1:
        way = 'let get_y give a mask whose values are 0, 1, 2, ... (no colours, no shades), or name as many codes' \
              ', MaskBlock(codes=...)'
        if max(codes) == 255 and not (targ[wrong] != 255).any():
            way += '; if 255 marks what does not count: CrossEntropyLossFlat(axis=1, ignore_index=255)'
    else:
        way = 'has the model as many outputs (n_out) as there are classes?'
    return f'{words}: {way}', wrong.reshape(len(targ), -1).any(1).nonzero().flatten().tolist()  # sync: likewise


class _ClassLoss(BaseLoss):
    """A loss on class indices: softmax makes probabilities, the largest is the answer."""

    y_int = True  # targets are class indices: images of them are interpolated by nearest, mixed ones by the loss

    def activation(self, x: Tensor) -> Tensor:
        """Softmax of `x` over the class axis."""
        return F.softmax(x, dim=self.axis)

    def decodes(self, x: Tensor) -> Tensor:
        """The index of the largest prediction in `x` along the class axis."""
        return x.argmax(dim=self.axis)


class CrossEntropyLossFlat(_ClassLoss):
    """`nn.CrossEntropyLoss` for predictions of any rank, [..., C at `axis`, ...], and class indices [...].

    Args:
        *args: for `nn.CrossEntropyLoss`.
        axis: of the classes; 1 for segmentation, [B,C,H,W].
        **kwargs: `weight` [C], `ignore_index`, `reduction`, `label_smoothing`; and `flatten` of `BaseLoss`.

    Example:
        >>> rare_counts_more = CrossEntropyLossFlat(weight=torch.tensor([1., 5.]))
        >>> round(rare_counts_more(torch.tensor([[2., 0.], [2., 0.]]), torch.tensor([0, 1])).item(), 3)
        1.794
    """

    def __init__(self, *args: Any, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(nn.CrossEntropyLoss, *args, axis=axis, **kwargs)


class FocalLoss(Module):
    """Cross entropy that weighs down what is predicted well already.

    Source: Lin et al., Focal Loss for Dense Object Detection, https://arxiv.org/abs/1708.02002

    Args:
        gamma: 0 is cross entropy; larger looks more at hard items.
        weight: one for each class, [C].
        reduction: 'mean', 'sum' or 'none'.
    """

    y_int = True

    @tells_near_match
    def __init__(self, gamma: float = 2.0, weight: Tensor | None = None, reduction: str = 'mean') -> None:
        self.gamma, self.reduction = gamma, reduction
        self.register_buffer('weight', weight)

    def forward(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Logits `inp` [B,C,...] and class indices `targ` [B,...] -> [] (or [B,...] without reduction)."""
        cross_entropy = F.cross_entropy(inp, targ, weight=self.weight, reduction='none')
        return _reduce((1 - torch.exp(-cross_entropy))**self.gamma * cross_entropy, self.reduction)


class FocalLossFlat(_ClassLoss):
    """`FocalLoss` for predictions of any rank, [..., C at `axis`, ...], and class indices [...].

    Args:
        *args: for `FocalLoss`, after `gamma`.
        gamma: as in `FocalLoss`.
        axis: of the classes.
        **kwargs: `weight` [C], `reduction`; and `flatten` of `BaseLoss`.

    Example:
        >>> learn = vision_learner(dls, resnet18, loss_func=FocalLossFlat(gamma=2.))  # hard pictures count more
    """

    def __init__(self, *args: Any, gamma: float = 2.0, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(FocalLoss, *args, gamma=gamma, axis=axis, **kwargs)


class LabelSmoothingCrossEntropy(Module):
    """Cross entropy with a share `eps` of each target spread evenly over all classes.

    Source: Szegedy et al., https://arxiv.org/abs/1512.00567

    Args:
        eps: the share that is spread.
        weight: one for each class, [C]; the spread share is not weighted.
        reduction: 'mean', 'sum' or 'none'.

    Example:
        >>> LabelSmoothingCrossEntropy(eps=0.1)(torch.zeros(2, 4), torch.tensor([0, 3])).item()
        1.386294...
    """

    y_int = True

    @tells_near_match
    def __init__(self, eps: float = 0.1, weight: Tensor | None = None, reduction: str = 'mean') -> None:
        self.eps, self.reduction = eps, reduction
        self.register_buffer('weight', weight)

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Logits `output` [B,C,...] and class indices `target` [B,...] -> [] (or [B,...] without reduction)."""
        log_preds = F.log_softmax(output, dim=1)
        spread = _reduce(-log_preds.sum(dim=1), self.reduction) * self.eps / output.shape[1]
        return spread + (1 - self.eps) * F.nll_loss(log_preds, target.long(), weight=self.weight,
                                                    reduction=self.reduction)

    def activation(self, out: Tensor) -> Tensor:
        """Softmax of `out` over the last axis."""
        return F.softmax(out, dim=-1)

    def decodes(self, out: Tensor) -> Tensor:
        """The index of the largest prediction in `out` along the last axis."""
        return out.argmax(dim=-1)


class LabelSmoothingCrossEntropyFlat(_ClassLoss):
    """`LabelSmoothingCrossEntropy` for predictions of any rank, [..., C at `axis`, ...], and class indices [...].

    Args:
        *args: for `LabelSmoothingCrossEntropy`.
        axis: of the classes.
        **kwargs: `eps`, `weight` [C], `reduction`; and `flatten` of `BaseLoss`.

    Example:
        >>> learn = vision_learner(dls, resnet18, loss_func=LabelSmoothingCrossEntropyFlat(eps=0.1))
    """

    def __init__(self, *args: Any, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(LabelSmoothingCrossEntropy, *args, axis=axis, **kwargs)


class BCEWithLogitsLossFlat(BaseLoss):
    """`nn.BCEWithLogitsLoss` for several labels an item: predictions and 0/1 targets of one size.

    Args:
        *args: for `nn.BCEWithLogitsLoss`.
        axis: of the labels.
        floatify: turn targets into float.
        thresh: a probability above it counts as a label, 0-1.
        **kwargs: `weight`, `pos_weight` [C], `reduction`; and `flatten` of `BaseLoss`.

    Example:
        >>> loss = BCEWithLogitsLossFlat(thresh=0.3, pos_weight=torch.tensor([1., 4.]))
        >>> loss.decodes(loss.activation(torch.tensor([[-2., -0.5]])))
        tensor([[False,  True]])
    """

    def __init__(self, *args: Any, axis: int = -1, floatify: bool = True, thresh: float = 0.5, **kwargs: Any) -> None:
        if kwargs.get('pos_weight') is not None:
            if kwargs.get('flatten'):
                raise ValueError('BCEWithLogitsLossFlat: pos_weight has one number for each label, so predictions '
                                 'cannot be flattened: leave flatten out')
            kwargs['flatten'] = False
        super().__init__(nn.BCEWithLogitsLoss, *args, axis=axis, floatify=floatify, is_2d=False, **kwargs)
        self.thresh = thresh

    def activation(self, x: Tensor) -> Tensor:
        """Sigmoid of `x`."""
        return torch.sigmoid(x)

    def decodes(self, x: Tensor) -> Tensor:
        """Which probabilities in `x` exceed `thresh`, bool."""
        return x > self.thresh


def BCELossFlat(*args: Any, axis: int = -1, floatify: bool = True, **kwargs: Any) -> BaseLoss:
    """`nn.BCELoss` on flattened probabilities and 0/1 targets.

    Args:
        args, kwargs: for `nn.BCELoss`, such as `reduction`; and `flatten` of `BaseLoss`.
        axis, floatify: as for `BaseLoss`.
    """
    return BaseLoss(nn.BCELoss, *args, axis=axis, floatify=floatify, is_2d=False, **kwargs)


def MSELossFlat(*args: Any, axis: int = -1, floatify: bool = True, **kwargs: Any) -> BaseLoss:
    """`nn.MSELoss` on flattened predictions and targets, so that [B,1] and [B] fit.

    Args:
        args, kwargs: for `nn.MSELoss`, such as `reduction`; and `flatten` of `BaseLoss`.
        axis, floatify: as for `BaseLoss`.

    Example:
        >>> MSELossFlat()(torch.tensor([[1.], [3.]]), torch.tensor([1., 1.])).item()
        2.0
    """
    return BaseLoss(nn.MSELoss, *args, axis=axis, floatify=floatify, is_2d=False, **kwargs)


def L1LossFlat(*args: Any, axis: int = -1, floatify: bool = True, **kwargs: Any) -> BaseLoss:
    """`nn.L1Loss` on flattened predictions and targets, so that [B,1] and [B] fit.

    Args:
        args, kwargs: for `nn.L1Loss`, such as `reduction`; and `flatten` of `BaseLoss`.
        axis, floatify: as for `BaseLoss`.

    Example:
        >>> L1LossFlat()(torch.tensor([[1.], [3.]]), torch.tensor([1., 1.])).item()
        1.0
    """
    return BaseLoss(nn.L1Loss, *args, axis=axis, floatify=floatify, is_2d=False, **kwargs)


class DiceLoss:
    """One minus the Dice coefficient of every class of every item, for segmentation.

    Source: Milletari et al., V-Net, https://arxiv.org/abs/1606.04797

    Args:
        axis: of the classes.
        smooth: added above and below the fraction, so that an absent class gives no division by zero.
        reduction: over items and classes: 'mean', 'sum' or 'none'.
        square_in_union: square the predictions below the fraction, for a steeper slope.

    Example:
        >>> learn = unet_learner(dls, resnet18, loss_func=DiceLoss())
    """

    @tells_near_match
    def __init__(self, axis: int = 1, smooth: float = 1e-6, reduction: str = 'sum',
                 square_in_union: bool = False) -> None:
        self.axis, self.smooth, self.reduction, self.square_in_union = axis, smooth, reduction, square_in_union

    def __call__(self, pred: Tensor, targ: Tensor) -> Tensor:
        """Logits `pred` [B,C,...] and class indices `targ` [B,...] -> [] (or [B,C] without reduction).

        Raises:
            ValueError: the targets are no class indices of the predictions' size.
        """
        pred, targ = plain(pred), plain(targ)
        axis = self.axis % pred.ndim
        if pred.shape[:axis] + pred.shape[axis + 1:] != targ.shape:
            raise ValueError(f'DiceLoss: predictions {_seen(pred)} with the classes on axis {self.axis} need class '
                             f'indices of the size without that axis (not one-hot), and the targets are {_seen(targ)}')
        pred, targ = self.activation(pred), self._one_hot(targ, pred.shape[axis], axis)
        dims = [dim for dim in range(1, pred.ndim) if dim != axis]
        inter = (pred * targ).sum(dim=dims)
        union = ((pred**2 if self.square_in_union else pred) + targ).sum(dim=dims)
        return _reduce(1 - (2. * inter + self.smooth) / (union + self.smooth), self.reduction)

    @staticmethod
    def _one_hot(x: Tensor, classes: int, axis: int = 1) -> Tensor:
        return torch.stack([(x == c).long() for c in range(classes)], dim=axis)

    def activation(self, x: Tensor) -> Tensor:
        """Softmax of `x` over the class axis."""
        return F.softmax(x, dim=self.axis)

    def decodes(self, x: Tensor) -> Tensor:
        """The index of the largest prediction in `x` along the class axis."""
        return x.argmax(dim=self.axis)


def _reduce(loss: Tensor, reduction: str) -> Tensor:
    return loss.mean() if reduction == 'mean' else loss.sum() if reduction == 'sum' else loss
