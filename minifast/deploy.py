"""Models for use without minifast: a plain `nn.Module` of normalisation, model and activation, and ONNX."""
from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minifast.arguments import tells_near_match
from minifast.callback.core import as_measured
from minifast.data.transforms import IntToFloatTensor, Normalize
from minifast.torch_core import get_model

__all__ = ['to_onnx', 'to_torch']


@tells_near_match
def to_torch(learn: Any, activation: bool = True) -> nn.Module:
    """A plain module that takes what the item transforms make and gives what `learn.predict` calls probabilities.

    Input: pictures [B,C,H,W] as uint8 0-255 or as floats 0-1, cropped and resized like the validation items; output:
    predictions. The weights are copies of those that validation measures. The module consists of torch's own classes as
    far as the model does, so `torch.export.export(module, (x,))`, `torch.jit` and ONNX take it, and its `state_dict`
    loads anywhere.

    Args:
        learn: the learner.
        activation: apply the loss function's activation (softmax, sigmoid); False gives the model's raw output.

    Raises:
        ValueError: the activation is neither softmax, sigmoid nor nothing, which no module of torch stands for.

    Example:
        >>> module = to_torch(learn)
        >>> program = torch.export.export(module, (torch.rand(1, 3, 224, 224),))
    """
    parts: list[nn.Module] = []
    mean, std, divisor = _preparation(learn.dls)
    if mean is not None or divisor is not None:
        parts.append(_prepare_module(mean, std, divisor, _opens_grey(learn.dls)))
    # torch.export wants plain contiguous weights
    with as_measured(learn.cbs):
        parts.append(copy.deepcopy(get_model(learn.model)).cpu().to(memory_format=torch.contiguous_format))
    if activation:
        last = _activation_module(learn)
        parts += [] if last is None else [last]
    return nn.Sequential(*parts).eval()


def _preparation(dls: Any) -> tuple[Tensor | None, Tensor | None, float | None]:
    """Mean and std [C] of `Normalize` and the divisor of `IntToFloatTensor` of the validation loader."""
    dl = dls[1] if len(dls) > 1 else dls[0]
    tfms = getattr(getattr(dl, 'after_batch', None), 'fs', ())
    mean = std = divisor = None
    for tfm in tfms:
        if isinstance(tfm, IntToFloatTensor):
            divisor = float(tfm.div)
        elif isinstance(tfm, Normalize):
            mean, std = (t.detach().float().cpu().flatten() for t in (tfm.mean, tfm.std))  # sync: once
    return mean, std, divisor


def _opens_grey(dls: Any) -> bool:
    """Whether the pictures of the data are opened as grey ones, of one channel."""
    tls = getattr(getattr(dls[len(dls) - 1], 'dataset', None), 'tls', ())
    kinds = (getattr(tfm, 'kind', None) for tl in tls[:1] for tfm in tl.tfms.fs)
    return any(getattr(kind, '_open_args', {}).get('mode') == 'L' for kind in kinds)


def _prepare_module(mean: Tensor | None, std: Tensor | None, divisor: float | None, grey: bool) -> nn.Module:
    """Bytes to floats, and `(x - mean) / std` over the channels, as torch's own layers."""
    if mean is None:
        return _ToFloat(divisor)
    if grey and len(mean) > 1:  # statistics of colours make several channels of one
        norm = nn.Conv2d(1, len(mean), 1).eval().requires_grad_(False)
        norm.weight.copy_((1 / std).view(-1, 1, 1, 1))
        norm.bias.copy_(-mean / std)
    else:
        norm = nn.BatchNorm2d(len(mean), eps=0., affine=False).eval()
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(std ** 2)
    return norm if divisor is None else nn.Sequential(_ToFloat(divisor), norm)


class _ToFloat(nn.Module):
    """Bytes 0-255 become floats 0-1, floats stay."""

    def __init__(self, divisor: float) -> None:
        super().__init__()
        self.divisor = divisor

    def forward(self, x: Tensor) -> Tensor:
        return x if x.is_floating_point() else x.float() / self.divisor


def _activation_module(learn: Any) -> nn.Module | None:
    """The module of torch that the loss function's activation is, found by what it does to a few numbers."""
    activation = getattr(learn.own_loss, 'activation', None)
    if activation is None:
        return None
    axis = getattr(learn.own_loss, 'axis', -1)
    probe = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    found = activation(probe)
    for module in (nn.Identity(), nn.Softmax(dim=axis), nn.Softmax(dim=-1), nn.Sigmoid(), nn.LogSoftmax(dim=axis)):
        if torch.equal(module(probe), found):
            return None if isinstance(module, nn.Identity) else module
    raise ValueError(f'the activation of {learn.own_loss!r} is no softmax and no sigmoid: take '
                     'to_torch(learn, activation=False) and append a module of your own')


@tells_near_match
def to_onnx(learn: Any, fname: str | Path, size: tuple[int, ...] | None = None, activation: bool = True) -> Path:
    """Write `to_torch(learn)` as an ONNX file with any number of items a batch.

    Args:
        learn: the learner.
        fname: the file.
        size: of one item, such as (3, 224, 224); default: as the data give it.
        activation: see `to_torch`.

    Raises:
        ImportError: the package onnx is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError('writing ONNX needs two more packages: pip install "minifast[onnx]" onnxscript') from error
    module, path = to_torch(learn, activation), Path(fname)
    if size is None:
        size = tuple(learn.dls.one_batch()[0].shape[1:])
        size = (1, *size[1:]) if _opens_grey(learn.dls) else size
    batch = torch.export.Dim('batch')
    torch.onnx.export(module, (torch.rand(2, *size),), path, dynamo=True, dynamic_shapes=({0: batch},))
    return path
