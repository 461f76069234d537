"""Convolutions and what belongs around them: norms, initialisation, pooling, upsampling, self attention."""
from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.init import kaiming_normal_, kaiming_uniform_, normal_, xavier_uniform_
from torch.nn.utils import spectral_norm
from torch.nn.utils.parametrizations import weight_norm

from minifast.torch_core import Module

__all__ = ['AdaptiveAvgPool', 'AvgPool', 'BatchNorm', 'BatchNorm1dFlat', 'ConvLayer', 'InstanceNorm', 'MaxPool', 'Mish',
           'MishJit', 'NormType', 'PixelShuffle_ICNR', 'PooledSelfAttention2d', 'SelfAttention', 'SimpleSelfAttention',
           'Swish', 'SwishJit', 'icnr_init', 'init_linear', 'inplace_relu', 'mish', 'sigmoid', 'sigmoid_', 'swish',
           'trunc_normal_', 'vleaky_relu']


class NormType(Enum):
    """Which norm a `ConvLayer` has; the `Zero` kinds start with weight 0, so a residual branch starts as nothing."""

    Batch, BatchZero, Weight, Spectral, Instance, InstanceZero = range(1, 7)


Mish = MishJit = nn.Mish
Swish = SwishJit = nn.SiLU
inplace_relu = partial(nn.ReLU, inplace=True)


def mish(x: Tensor, inplace: bool = False) -> Tensor:
    """`x * tanh(softplus(x))`."""
    return F.mish(x, inplace=inplace)


def swish(x: Tensor, inplace: bool = False) -> Tensor:
    """`x * sigmoid(x)`."""
    return F.silu(x, inplace=inplace)


def sigmoid(input: Tensor, eps: float = 1e-7) -> Tensor:
    """Sigmoid clamped to `(eps, 1-eps)`, so that its logarithm is finite."""
    return input.sigmoid().clamp(eps, 1 - eps)


def sigmoid_(input: Tensor, eps: float = 1e-7) -> Tensor:
    """`sigmoid` in place."""
    return input.sigmoid_().clamp_(eps, 1 - eps)


def vleaky_relu(input: Tensor, inplace: bool = True) -> Tensor:
    """Leaky ReLU with slope 0.3."""
    return F.leaky_relu(input, negative_slope=0.3, inplace=inplace)


# ---------------------------------------------------------------- norms

def _n_dimensional(name: str, ndim: int) -> type[nn.Module]:
    if ndim not in (1, 2, 3):
        raise ValueError(f'ndim={ndim}: nn.{name} layers exist for 1, 2 and 3 dimensions')
    return getattr(nn, f'{name}{ndim}d')


def _get_norm(prefix: str, nf: int, ndim: int = 2, zero: bool = False, **kwargs: Any) -> nn.Module:
    norm = _n_dimensional(prefix, ndim)(nf, **kwargs)
    if norm.affine:
        nn.init.constant_(norm.bias, 1e-3)
        nn.init.constant_(norm.weight, 0. if zero else 1.)
    return norm


def BatchNorm(nf: int, ndim: int = 2, norm_type: NormType = NormType.Batch, **kwargs: Any) -> nn.Module:
    """`nn.BatchNorm{ndim}d` for `nf` channels, weight 1 (or 0 for `NormType.BatchZero`) and bias 0.001."""
    return _get_norm('BatchNorm', nf, ndim, zero=norm_type == NormType.BatchZero, **kwargs)


def InstanceNorm(nf: int, ndim: int = 2, norm_type: NormType = NormType.Instance, affine: bool = True,
                 **kwargs: Any) -> nn.Module:
    """`nn.InstanceNorm{ndim}d` for `nf` channels, initialised as `BatchNorm` is."""
    return _get_norm('InstanceNorm', nf, ndim, zero=norm_type == NormType.InstanceZero, affine=affine, **kwargs)


class BatchNorm1dFlat(nn.BatchNorm1d):
    """`nn.BatchNorm1d` over the last axis of a tensor of any rank, [..., C]."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [..., C]."""
        return super().forward(x.reshape(-1, x.shape[-1])).view(x.shape)


# ---------------------------------------------------------------- initialisation

_KAIMING = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Mish, nn.SiLU)
_XAVIER = (nn.Sigmoid, nn.Tanh)
_KAIMING_FUNCTIONS = (F.relu, F.relu_, F.relu6, F.leaky_relu, F.leaky_relu_, mish, swish)
_XAVIER_FUNCTIONS = (torch.sigmoid, torch.tanh, F.sigmoid, F.tanh, sigmoid, sigmoid_)


def _init_for(act_func: Any) -> Callable | None:
    """The initialisation that suits the activation after a layer; a `__default_init__` on its class decides first."""
    own = getattr(type(act_func), '__default_init__', None) or getattr(act_func, '__default_init__', None)
    if own is not None:
        return own
    if isinstance(act_func, _KAIMING) or act_func in _KAIMING_FUNCTIONS:
        return kaiming_uniform_
    return xavier_uniform_ if isinstance(act_func, _XAVIER) or act_func in _XAVIER_FUNCTIONS else None


def init_linear(m: nn.Module, act_func: Any = None, init: Callable | str | None = 'auto',
                bias_std: float | None = 0.01) -> None:
    """Initialise a linear or convolution layer for the activation that follows it.

    Args:
        m: the layer.
        act_func: the activation, a module or a function; unknown ones leave torch's own initialisation.
        init: a function on the weight, 'auto' to choose by `act_func`, None for torch's own.
        bias_std: standard deviation of the bias, 0 for zeros, None for torch's own.
    """
    if getattr(m, 'bias', None) is not None and bias_std is not None:
        if bias_std != 0:
            normal_(m.bias, 0, bias_std)
        else:
            nn.init.zeros_(m.bias)
    init = _init_for(act_func) if init == 'auto' else init
    if callable(init):
        init(m.weight)


def trunc_normal_(x: Tensor, mean: float = 0., std: float = 1.) -> Tensor:
    """Fill `x` in place with normal numbers folded into two standard deviations."""
    return x.normal_().fmod_(2).mul_(std).add_(mean)


def icnr_init(x: Tensor, scale: int = 2, init: Callable = kaiming_normal_) -> Tensor:
    """A weight for a convolution before `nn.PixelShuffle(scale)` that upsamples without a checkerboard.

    Args:
        x: a weight [C_out, C_in, h, w], C_out a multiple of `scale**2`; only its shape is used.
        scale: of the shuffle.
        init: fills the small weight whose filters are repeated.

    Source: Aitken et al., Checkerboard artifact free sub-pixel convolution, https://arxiv.org/abs/1707.02937
    """
    n_out, n_in, h, w = x.shape
    small = init(x.new_zeros([n_out // scale**2, n_in, h, w])).transpose(0, 1).reshape(n_in, n_out // scale**2, -1)
    return small.repeat(1, 1, scale**2).view(n_in, n_out, h, w).transpose(0, 1)


# ---------------------------------------------------------------- the convolution layer

class ConvLayer(nn.Sequential):
    """Convolution, norm and activation.

    Args:
        ni: input channels.
        nf: output channels.
        ks: kernel size.
        stride: of the convolution.
        padding: default keeps the size at stride 1 (0 where transposed).
        bias: default only without a batch or instance norm.
        ndim: 1, 2 or 3 dimensions.
        norm_type: which norm, None for none.
        bn_1st: norm before activation.
        act_cls: makes the activation, None for none.
        transpose: a transposed convolution.
        init: as in `init_linear`.
        xtra: a layer to append.
        bias_std: as in `init_linear`.
        **kwargs: for the convolution, such as `groups` or `dilation`.
    """

    def __init__(self, ni: int, nf: int, ks: int = 3, stride: int = 1, padding: int | None = None,
                 bias: bool | None = None, ndim: int = 2, norm_type: NormType | None = NormType.Batch,
                 bn_1st: bool = True, act_cls: Callable | None = nn.ReLU, transpose: bool = False,
                 init: Callable | str | None = 'auto', xtra: nn.Module | None = None, bias_std: float | None = 0.01,
                 **kwargs: Any) -> None:
        if padding is None:
            padding = 0 if transpose else (ks - 1) // 2
        batch = norm_type in (NormType.Batch, NormType.BatchZero)
        instance = norm_type in (NormType.Instance, NormType.InstanceZero)
        bias = not (batch or instance) if bias is None else bias
        conv_cls = _n_dimensional('ConvTranspose' if transpose else 'Conv', ndim)
        conv = conv_cls(ni, nf, kernel_size=ks, bias=bias, stride=stride, padding=padding, **kwargs)
        act = None if act_cls is None else act_cls()
        init_linear(conv, act, init=init, bias_std=bias_std)
        if norm_type == NormType.Weight:
            conv = weight_norm(conv)
        elif norm_type == NormType.Spectral:
            conv = spectral_norm(conv)
        after = [act] if act is not None else []
        if batch or instance:
            after.append((BatchNorm if batch else InstanceNorm)(nf, norm_type=norm_type, ndim=ndim))
        super().__init__(conv, *(reversed(after) if bn_1st else after), *([xtra] if xtra else []))


# ---------------------------------------------------------------- pooling and upsampling

def AdaptiveAvgPool(sz: int = 1, ndim: int = 2) -> nn.Module:
    """`nn.AdaptiveAvgPool{ndim}d(sz)`."""
    return _n_dimensional('AdaptiveAvgPool', ndim)(sz)


def MaxPool(ks: int = 2, stride: int | None = None, padding: int = 0, ndim: int = 2,
            ceil_mode: bool = False) -> nn.Module:
    """`nn.MaxPool{ndim}d`; `ceil_mode` keeps the last, partial window."""
    return _n_dimensional('MaxPool', ndim)(ks, stride=stride, padding=padding, ceil_mode=ceil_mode)


def AvgPool(ks: int = 2, stride: int | None = None, padding: int = 0, ndim: int = 2,
            ceil_mode: bool = False) -> nn.Module:
    """`nn.AvgPool{ndim}d`; `ceil_mode` keeps the last, partial window."""
    return _n_dimensional('AvgPool', ndim)(ks, stride=stride, padding=padding, ceil_mode=ceil_mode)


class PixelShuffle_ICNR(nn.Sequential):
    """Upsample [B,ni,H,W] to [B,nf,scale*H,scale*W] by a convolution and a pixel shuffle.

    Args:
        ni: input channels.
        nf: output channels, default `ni`.
        scale: how many times larger.
        blur: average over 2x2 windows afterwards, against checkerboards.
        norm_type: as in `ConvLayer`.
        act_cls: as in `ConvLayer`.
    """

    def __init__(self, ni: int, nf: int | None = None, scale: int = 2, blur: bool = False,
                 norm_type: NormType | None = NormType.Weight, act_cls: Callable | None = nn.ReLU) -> None:
        nf = ni if nf is None else nf
        layer = ConvLayer(ni, nf * scale**2, ks=1, norm_type=norm_type, act_cls=act_cls, bias_std=0)
        conv = layer[0]
        # with a weight norm the assignment goes through the parametrization, which splits it into size and direction
        weight = icnr_init(conv.weight.detach(), scale)
        if norm_type == NormType.Weight:
            conv.weight = weight
        else:
            getattr(conv, 'weight_orig', conv.weight).data.copy_(weight)
        smooth = [nn.ReplicationPad2d((1, 0, 1, 0)), nn.AvgPool2d(2, stride=1)] if blur else []
        super().__init__(layer, nn.PixelShuffle(scale), *smooth)


# ---------------------------------------------------------------- self attention

def _attention_conv(n_in: int, n_out: int, ndim: int) -> ConvLayer:
    return ConvLayer(n_in, n_out, ks=1, ndim=ndim, norm_type=NormType.Spectral, act_cls=None, bias=False)


class SelfAttention(Module):
    """Self attention over all positions of [B,C,...], weighted by a `gamma` that starts at 0.

    Source: Zhang et al., Self-Attention Generative Adversarial Networks, https://arxiv.org/abs/1805.08318

    Args:
        n_channels: C, at least 8.
    """

    def __init__(self, n_channels: int) -> None:
        sizes = (n_channels // 8, n_channels // 8, n_channels)
        self.query, self.key, self.value = (_attention_conv(n_channels, n_out, 1) for n_out in sizes)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,...] -> the same shape."""
        x_BCN = x.flatten(2)
        query, key, value = self.query(x_BCN), self.key(x_BCN), self.value(x_BCN)
        beta_BNN = F.softmax(torch.bmm(query.transpose(1, 2), key), dim=1)
        return (self.gamma * torch.bmm(value, beta_BNN) + x_BCN).view(x.shape)


class PooledSelfAttention2d(Module):
    """Self attention on [B,C,H,W] with keys and values pooled 2x2, as in BigGAN.

    Source: Brock et al., https://arxiv.org/abs/1809.11096

    Args:
        n_channels: C, at least 8.
    """

    def __init__(self, n_channels: int) -> None:
        self.n_channels = n_channels
        sizes = (n_channels // 8, n_channels // 8, n_channels // 2)
        self.query, self.key, self.value = (_attention_conv(n_channels, n_out, 2) for n_out in sizes)
        self.out = _attention_conv(n_channels // 2, n_channels, 2)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] -> the same shape; H and W even."""
        query = self.query(x).flatten(2)
        key, value = F.max_pool2d(self.key(x), 2).flatten(2), F.max_pool2d(self.value(x), 2).flatten(2)
        beta = F.softmax(torch.bmm(query.transpose(1, 2), key), dim=-1)
        attended = torch.bmm(value, beta.transpose(1, 2)).view(-1, self.n_channels // 2, *x.shape[2:])
        return self.gamma * self.out(attended) + x


class SimpleSelfAttention(Module):
    """Self attention on [B,C,...] with one convolution and no softmax.

    Args:
        n_in: C.
        ks: kernel size over the flattened positions.
        sym: keep the weight symmetric; needs `ks=1`.
    """

    def __init__(self, n_in: int, ks: int = 1, sym: bool = False) -> None:
        if sym and ks != 1:
            raise ValueError(f'SimpleSelfAttention: a symmetric weight needs ks=1, not {ks}')
        self.sym, self.n_in = sym, n_in
        conv = nn.Conv1d(n_in, n_in, ks, padding=ks // 2, bias=False)
        kaiming_normal_(conv.weight)
        self.conv = spectral_norm(conv)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,...] -> the same shape."""
        if self.sym:
            with torch.no_grad():  # the stored weight, since the normed one is computed from it
                stored = self.conv.weight_orig
                stored.copy_((stored + stored.transpose(0, 1)) / 2)
        x_BCN = x.flatten(2)
        attended = torch.bmm(torch.bmm(x_BCN, x_BCN.transpose(1, 2)), self.conv(x_BCN))
        return (self.gamma * attended + x_BCN).view(x.shape)
