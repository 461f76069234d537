"""The layers heads and backbones are made of, and functions that look into models."""
from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from minifast.layers.blocks import (MergeLayer, ProdLayer, ResBlock, SEBlock, SEModule, SeparableBlock, SEResNeXtBlock,
                                    SequentialEx)
from minifast.layers.conv import (AdaptiveAvgPool, AvgPool, BatchNorm, BatchNorm1dFlat, ConvLayer, InstanceNorm,
                                  MaxPool, Mish, MishJit, NormType, PixelShuffle_ICNR, PooledSelfAttention2d,
                                  SelfAttention, SimpleSelfAttention, Swish, SwishJit, icnr_init, init_linear,
                                  inplace_relu, mish, sigmoid, sigmoid_, swish, trunc_normal_, vleaky_relu)
from minifast.layers.shape import (Debugger, Flatten, Lambda, PartialLambda, ResizeBatch, SigmoidRange, ToTensorBase,
                                   View, sigmoid_range)
from minifast.torch_core import Module, apply_init, init_default

__all__ = ['AdaptiveAvgPool', 'AdaptiveConcatPool1d', 'AdaptiveConcatPool2d', 'AvgPool', 'BatchNorm', 'BatchNorm1dFlat',
           'Cat', 'ConvLayer', 'Debugger', 'Embedding', 'Flatten', 'Identity', 'InstanceNorm', 'Lambda', 'LinBnDrop',
           'MaxPool', 'MergeLayer', 'Mish', 'MishJit', 'Module', 'NoneReduce', 'NormType', 'ParameterModule',
           'PartialLambda', 'PixelShuffle_ICNR', 'PoolFlatten', 'PoolType', 'PooledSelfAttention2d', 'ProdLayer',
           'ResBlock', 'ResizeBatch', 'SEBlock', 'SEModule', 'SEResNeXtBlock', 'SelfAttention', 'SeparableBlock',
           'SequentialEx', 'SigmoidRange', 'SimpleCNN', 'SimpleSelfAttention', 'Swish', 'SwishJit', 'TimeDistributed',
           'ToTensorBase', 'View', 'adaptive_pool', 'apply_init', 'children_and_parameters', 'flatten_model',
           'has_children', 'icnr_init', 'in_channels', 'init_default', 'init_linear', 'inplace_relu', 'mish',
           'sequential', 'sigmoid', 'sigmoid_', 'sigmoid_range', 'swish', 'trunc_normal_', 'vleaky_relu']

Identity = nn.Identity


# ---------------------------------------------------------------- pooling and heads

class AdaptiveConcatPool1d(Module):
    """Maximum and mean side by side: [B,C,L] -> [B,2C,size].

    Args:
        size: of the output, default 1.
    """

    def __init__(self, size: int | None = None) -> None:
        self.size = size or 1
        self.ap, self.mp = nn.AdaptiveAvgPool1d(self.size), nn.AdaptiveMaxPool1d(self.size)

    def forward(self, x: Tensor) -> Tensor:
        """Pool `x`."""
        return torch.cat([self.mp(x), self.ap(x)], 1)


class AdaptiveConcatPool2d(Module):
    """Maximum and mean side by side: [B,C,H,W] -> [B,2C,size,size].

    Args:
        size: of the output, default 1.
    """

    def __init__(self, size: int | None = None) -> None:
        self.size = size or 1
        self.ap, self.mp = nn.AdaptiveAvgPool2d(self.size), nn.AdaptiveMaxPool2d(self.size)

    def forward(self, x: Tensor) -> Tensor:
        """Pool `x`."""
        return torch.cat([self.mp(x), self.ap(x)], 1)


class PoolType:
    """Names of the kinds of adaptive pooling."""

    Avg, Max, Cat = 'Avg', 'Max', 'Cat'


def adaptive_pool(pool_type: str) -> type[nn.Module]:
    """The class of 2d adaptive pooling that a `PoolType` names."""
    return {'Avg': nn.AdaptiveAvgPool2d, 'Max': nn.AdaptiveMaxPool2d}.get(pool_type, AdaptiveConcatPool2d)


class PoolFlatten(nn.Sequential):
    """[B,C,H,W] -> [B,C] (2C for `PoolType.Cat`).

    Args:
        pool_type: which pooling.
    """

    def __init__(self, pool_type: str = PoolType.Avg) -> None:
        super().__init__(adaptive_pool(pool_type)(1), Flatten())


class LinBnDrop(nn.Sequential):
    """Batch norm, dropout and a linear layer: [B,n_in] -> [B,n_out].

    Args:
        n_in: input features.
        n_out: output features.
        bn: with a batch norm; the linear layer has no bias then.
        p: of the dropout, 0 for none.
        act: activation after the linear layer.
        lin_first: linear layer and activation before norm and dropout.
    """

    def __init__(self, n_in: int, n_out: int, bn: bool = True, p: float = 0., act: nn.Module | None = None,
                 lin_first: bool = False) -> None:
        layers = [BatchNorm(n_out if lin_first else n_in, ndim=1)] if bn else []
        if p != 0:
            layers.append(nn.Dropout(p))
        linear = [nn.Linear(n_in, n_out, bias=not bn)] + ([act] if act is not None else [])
        super().__init__(*(linear + layers if lin_first else layers + linear))


class Embedding(nn.Embedding):
    """`nn.Embedding` with small truncated normal weights.

    Args:
        ni: how many indices.
        nf: size of a vector.
        std: of the weights.
    """

    def __init__(self, ni: int, nf: int, std: float = 0.01) -> None:
        super().__init__(ni, nf)
        trunc_normal_(self.weight.data, std=std)


# ---------------------------------------------------------------- putting layers together

def sequential(*args: Any) -> nn.Sequential:
    """`nn.Sequential` that also takes functions."""
    if len(args) == 1 and isinstance(args[0], OrderedDict):
        return nn.Sequential(*args)
    return nn.Sequential(*(layer if isinstance(layer, nn.Module) else Lambda(layer) for layer in args))


class Cat(nn.ModuleList):
    """Layers side by side on one input, their outputs concatenated.

    Args:
        layers: each gets the input.
        dim: to concatenate along.
    """

    def __init__(self, layers: Sequence[nn.Module], dim: int = 1) -> None:
        super().__init__(layers)
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate what the layers give."""
        return torch.cat([layer(x) for layer in self], dim=self.dim)


class TimeDistributed(Module):
    """Apply `module` to every step along an axis of its inputs.

    Args:
        module: for one step, inputs [B,...].
        low_mem: one step at a time instead of all at once.
        tdim: the axis; all at once works for 1 only.
    """

    def __init__(self, module: nn.Module, low_mem: bool = False, tdim: int = 1) -> None:
        self.module, self.low_mem, self.tdim = module, low_mem, tdim

    def forward(self, *tensors: Tensor, **kwargs: Any) -> Tensor | tuple[Tensor, ...]:
        """[B,T,...] -> [B,T,...]."""
        if self.low_mem or self.tdim != 1:
            steps = [self.module(*step, **kwargs) for step in zip(*(x.unbind(self.tdim) for x in tensors))]
            if isinstance(steps[0], tuple):
                return tuple(torch.stack(part, dim=self.tdim) for part in zip(*steps))
            return torch.stack(steps, dim=self.tdim)
        lead = tensors[0].shape[:2]
        out = self.module(*(x.reshape(-1, *x.shape[2:]) for x in tensors), **kwargs)
        if isinstance(out, tuple):
            return tuple(o.view(*lead, *o.shape[1:]) for o in out)
        return out.view(*lead, *out.shape[1:])


class SimpleCNN(nn.Sequential):
    """Convolutions and a pooled, flat output: [B, filters[0], H, W] -> [B, filters[-1]].

    Args:
        filters: channels before, between and after the convolutions.
        kernel_szs: one for each convolution, default 3.
        strides: one for each convolution, default 2.
        bn: batch norm after all but the last.
    """

    def __init__(self, filters: Sequence[int], kernel_szs: Sequence[int] | None = None,
                 strides: Sequence[int] | None = None, bn: bool = True) -> None:
        n = len(filters) - 1
        kernel_szs, strides = kernel_szs or [3] * n, strides or [2] * n
        layers = [ConvLayer(filters[i], filters[i + 1], kernel_szs[i], stride=strides[i],
                            norm_type=NormType.Batch if bn and i < n - 1 else None) for i in range(n)]
        super().__init__(*layers, PoolFlatten())


# ---------------------------------------------------------------- looking into models and losses

class ParameterModule(Module):
    """A lone parameter as a module, so that it can stand in a list of layers.

    Args:
        p: the parameter.
    """

    def __init__(self, p: nn.Parameter) -> None:
        self.val = p

    def forward(self, x: Tensor) -> Tensor:
        """`x`."""
        return x


def children_and_parameters(m: nn.Module) -> list[nn.Module]:
    """The children of `m`, and the parameters that belong to none of them as `ParameterModule`s."""
    children = list(m.children())
    in_children = {id(p) for child in children for p in child.parameters()}
    return children + [ParameterModule(p) for p in m.parameters() if id(p) not in in_children]


def has_children(m: nn.Module) -> bool:
    """Whether `m` contains modules."""
    return next(m.children(), None) is not None


def flatten_model(m: nn.Module) -> list[nn.Module]:
    """All leaf modules of `m` in order, lone parameters among them."""
    return [leaf for child in children_and_parameters(m) for leaf in flatten_model(child)] if has_children(m) else [m]


def in_channels(m: nn.Module) -> int:
    """The channels the first convolution of `m` takes.

    Raises:
        ValueError: no layer has a weight with four axes.
    """
    for layer in flatten_model(m):
        weight = getattr(layer, 'weight', None)
        if getattr(weight, 'ndim', None) == 4:
            return weight.shape[1]
    raise ValueError(f'{type(m).__name__} has no 2d convolution, so the number of its input channels is unknown')


class NoneReduce:
    """A context in which a loss gives one value for each item: `with NoneReduce(loss) as f: f(pred, targ)`.

    Args:
        loss_func: with an attribute `reduction`, or a function that takes `reduction`.
    """

    def __init__(self, loss_func: Callable) -> None:
        self.loss_func, self.old_red = loss_func, None

    def __enter__(self) -> Callable:
        if not hasattr(self.loss_func, 'reduction'):
            return partial(self.loss_func, reduction='none')
        self.old_red, self.loss_func.reduction = self.loss_func.reduction, 'none'
        return self.loss_func

    def __exit__(self, *exc_info: Any) -> None:
        if self.old_red is not None:
            self.loss_func.reduction = self.old_red
