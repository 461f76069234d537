"""Residual, squeeze-and-excitation and separable blocks."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from minifast.layers.conv import AvgPool, ConvLayer, NormType, SimpleSelfAttention
from minifast.torch_core import Module

__all__ = ['MergeLayer', 'ProdLayer', 'ResBlock', 'SEBlock', 'SEModule', 'SEResNeXtBlock', 'SeparableBlock',
           'SequentialEx']


class SequentialEx(Module):
    """Layers in turn; each finds the input of the whole block as `x.orig`.

    Args:
        *layers: in order.
    """

    def __init__(self, *layers: nn.Module) -> None:
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Run the layers."""
        result = x
        for layer in self.layers:
            result.orig = x
            after = layer(result)
            result.orig = after.orig = None  # or each tensor would keep the block's input alive
            result = after
        return result

    def __getitem__(self, i: int | slice) -> nn.Module:
        return self.layers[i]

    def append(self, layer: nn.Module) -> nn.ModuleList:
        """Add a layer at the end."""
        return self.layers.append(layer)

    def extend(self, layers: Sequence[nn.Module]) -> nn.ModuleList:
        """Add layers at the end."""
        return self.layers.extend(layers)

    def insert(self, i: int, layer: nn.Module) -> None:
        """Add a layer before the `i`-th."""
        self.layers.insert(i, layer)


class MergeLayer(Module):
    """In a `SequentialEx`: add the block's input, or concatenate it along the channels if `dense`.

    Args:
        dense: concatenate.
    """

    def __init__(self, dense: bool = False) -> None:
        self.dense = dense

    def forward(self, x: Tensor) -> Tensor:
        """Merge `x` and `x.orig`."""
        return torch.cat([x, x.orig], dim=1) if self.dense else x + x.orig


class ProdLayer(Module):
    """In a `SequentialEx`: multiply with the block's input."""

    def forward(self, x: Tensor) -> Tensor:
        """`x * x.orig`."""
        return x * x.orig


def SEModule(ch: int, reduction: int, act_cls: Callable = nn.ReLU) -> SequentialEx:
    """Weigh the channels of [B,ch,H,W] by what is in them.

    Args:
        ch: channels.
        reduction: how many times fewer channels in between, rounded up to a multiple of 8.
        act_cls: activation in between.

    Source: Hu et al., Squeeze-and-Excitation Networks, https://arxiv.org/abs/1709.01507
    """
    nf = math.ceil(ch // reduction / 8) * 8
    return SequentialEx(nn.AdaptiveAvgPool2d(1), ConvLayer(ch, nf, ks=1, norm_type=None, act_cls=act_cls),
                        ConvLayer(nf, ch, ks=1, norm_type=None, act_cls=nn.Sigmoid), ProdLayer())


class ResBlock(Module):
    """A residual block: [B, expansion*ni, H, W] -> [B, expansion*nf, H/stride, W/stride].

    Source: He et al., https://arxiv.org/abs/1512.03385, with the changes of https://arxiv.org/abs/1812.01187

    Args:
        expansion: 1 for two convolutions, more for a bottleneck of three.
        ni: input channels before expansion.
        nf: output channels before expansion.
        stride: of the block; the shortcut is pooled.
        groups: of the main convolution.
        reduction: of an `SEModule` at the end, None for none.
        nh1: channels after the first of three convolutions.
        nh2: channels before the last convolution.
        dw: main convolution depthwise.
        g2: groups of the last convolution.
        sa: self attention at the end.
        sym: of the self attention.
        norm_type: as in `ConvLayer`; the last norm starts at zero.
        act_cls: makes the activations.
        ndim: 1, 2 or 3 dimensions.
        ks: size of the main kernel.
        pool: makes the pooling of the shortcut.
        pool_first: pool before the shortcut's convolution.
        **kwargs: for every `ConvLayer`.
    """

    def __init__(self, expansion: int, ni: int, nf: int, stride: int = 1, groups: int = 1, reduction: int | None = None,
                 nh1: int | None = None, nh2: int | None = None, dw: bool = False, g2: int = 1, sa: bool = False,
                 sym: bool = False, norm_type: NormType | None = NormType.Batch, act_cls: Callable = nn.ReLU,
                 ndim: int = 2, ks: int = 3, pool: Callable = AvgPool, pool_first: bool = True, **kwargs: Any) -> None:
        norm2 = {NormType.Batch: NormType.BatchZero, NormType.Instance: NormType.InstanceZero}.get(norm_type, norm_type)
        nh2 = nf if nh2 is None else nh2
        nh1 = nh2 if nh1 is None else nh1
        nf, ni = nf * expansion, ni * expansion
        first = dict(norm_type=norm_type, act_cls=act_cls, ndim=ndim, **kwargs)
        last = dict(norm_type=norm2, act_cls=None, ndim=ndim, **kwargs)
        if expansion == 1:
            path = [ConvLayer(ni, nh2, ks, stride=stride, groups=ni if dw else groups, **first),
                    ConvLayer(nh2, nf, ks, groups=g2, **last)]
        else:
            path = [ConvLayer(ni, nh1, 1, **first),
                    ConvLayer(nh1, nh2, ks, stride=stride, groups=nh1 if dw else groups, **first),
                    ConvLayer(nh2, nf, 1, groups=g2, **last)]
        if reduction:
            path.append(SEModule(nf, reduction=reduction, act_cls=act_cls))
        if sa:
            path.append(SimpleSelfAttention(nf, ks=1, sym=sym))
        self.convpath = nn.Sequential(*path)
        shortcut = [ConvLayer(ni, nf, 1, act_cls=None, ndim=ndim, **kwargs)] if ni != nf else []
        if stride != 1:
            shortcut.insert(0 if pool_first else 1, pool(stride, ndim=ndim, ceil_mode=True))
        self.idpath = nn.Sequential(*shortcut)
        self.act = nn.ReLU(inplace=True) if act_cls is nn.ReLU else act_cls()

    def forward(self, x: Tensor) -> Tensor:
        """Convolutions plus shortcut, then the activation."""
        return self.act(self.convpath(x) + self.idpath(x))


def SEBlock(expansion: int, ni: int, nf: int, groups: int = 1, reduction: int = 16, stride: int = 1,
            **kwargs: Any) -> ResBlock:
    """A `ResBlock` with squeeze and excitation."""
    return ResBlock(expansion, ni, nf, stride=stride, groups=groups, reduction=reduction, nh1=nf * 2,
                    nh2=nf * expansion, **kwargs)


def SEResNeXtBlock(expansion: int, ni: int, nf: int, groups: int = 32, reduction: int = 16, stride: int = 1,
                   base_width: int = 4, **kwargs: Any) -> ResBlock:
    """A `ResBlock` with squeeze and excitation and a grouped main convolution of `base_width` channels a group."""
    width = math.floor(nf * (base_width / 64)) * groups
    return ResBlock(expansion, ni, nf, stride=stride, groups=groups, reduction=reduction, nh2=width, **kwargs)


def SeparableBlock(expansion: int, ni: int, nf: int, reduction: int = 16, stride: int = 1, base_width: int = 4,
                   **kwargs: Any) -> ResBlock:
    """A `ResBlock` with squeeze and excitation and a depthwise main convolution; `base_width` has no effect."""
    return ResBlock(expansion, ni, nf, stride=stride, reduction=reduction, nh2=nf * 2, dw=True, **kwargs)
