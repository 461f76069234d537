"""The layers heads and backbones are made of: norms, convolutions, pooling, attention, blocks; looking into models."""
from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.init import kaiming_normal_, kaiming_uniform_, normal_, xavier_uniform_
from torch.nn.utils import spectral_norm
from torch.nn.utils.parametrizations import weight_norm

from minifast.torch_core import Module, TensorBase, apply_init, init_default

__all__ = ['AdaptiveAvgPool', 'AdaptiveConcatPool1d', 'AdaptiveConcatPool2d', 'AvgPool', 'BatchNorm', 'BatchNorm1dFlat',
           'Cat', 'ConvLayer', 'Debugger', 'Embedding', 'Flatten', 'Identity', 'InstanceNorm', 'Lambda', 'LinBnDrop',
           'MaxPool', 'MergeLayer', 'Mish', 'MishJit', 'Module', 'NoneReduce', 'NormType', 'ParameterModule',
           'PartialLambda', 'PixelShuffle_ICNR', 'PoolFlatten', 'PoolType', 'PooledSelfAttention2d', 'ProdLayer',
           'ResBlock', 'ResizeBatch', 'SEBlock', 'SEModule', 'SEResNeXtBlock', 'SelfAttention', 'SeparableBlock',
           'SequentialEx', 'SigmoidRange', 'SimpleCNN', 'SimpleSelfAttention', 'Swish', 'SwishJit', 'TimeDistributed',
           'ToTensorBase', 'View', 'adaptive_pool', 'apply_init', 'children_and_parameters', 'flatten_model',
           'has_children', 'icnr_init', 'in_channels', 'init_default', 'init_linear', 'inplace_relu', 'mish',
           'sequential', 'sigmoid', 'sigmoid_', 'sigmoid_range', 'swish', 'trunc_normal_', 'vleaky_relu']

# ---------------------------------------------------------------- activations

Identity = nn.Identity
Mish = MishJit = nn.Mish
Swish = SwishJit = nn.SiLU
inplace_relu = partial(nn.ReLU, inplace=True)


def mish(x: Tensor, inplace: bool = False) -> Tensor:
    """`x * tanh(softplus(x))`; `inplace` writes it into `x`."""
    return F.mish(x, inplace=inplace)


def swish(x: Tensor, inplace: bool = False) -> Tensor:
    """`x * sigmoid(x)`; `inplace` writes it into `x`."""
    return F.silu(x, inplace=inplace)


def sigmoid(input: Tensor, eps: float = 1e-7) -> Tensor:
    """Sigmoid of `input` clamped to `(eps, 1-eps)`, so that its logarithm is finite."""
    return input.sigmoid().clamp(eps, 1 - eps)


def sigmoid_(input: Tensor, eps: float = 1e-7) -> Tensor:
    """`sigmoid(input, eps)`, written into `input`."""
    return input.sigmoid_().clamp_(eps, 1 - eps)


def vleaky_relu(input: Tensor, inplace: bool = True) -> Tensor:
    """Leaky ReLU with slope 0.3; `inplace` writes it into `input`."""
    return F.leaky_relu(input, negative_slope=0.3, inplace=inplace)


# ---------------------------------------------------------------- norms

class NormType(Enum):
    """Which norm a `ConvLayer` has; the `Zero` kinds start with weight 0, so a residual branch starts as nothing."""

    Batch, BatchZero, Weight, Spectral, Instance, InstanceZero = range(1, 7)


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
    """`nn.BatchNorm{ndim}d` for `nf` channels, weight 1 and bias 0.001.

    Args:
        nf: channels.
        ndim: 1, 2 or 3 dimensions.
        norm_type: `NormType.BatchZero` starts with weight 0; the other kinds have no effect.
        **kwargs: for torch's layer, such as `momentum`.

    Example:
        >>> BatchNorm(8)(torch.rand(4, 8, 2, 2)).shape
        torch.Size([4, 8, 2, 2])
    """
    return _get_norm('BatchNorm', nf, ndim, zero=norm_type == NormType.BatchZero, **kwargs)


def InstanceNorm(nf: int, ndim: int = 2, norm_type: NormType = NormType.Instance, affine: bool = True,
                 **kwargs: Any) -> nn.Module:
    """`nn.InstanceNorm{ndim}d` for `nf` channels, initialised as `BatchNorm` is.

    Args:
        nf, ndim, kwargs: as for `BatchNorm`.
        norm_type: `NormType.InstanceZero` starts with weight 0; the other kinds have no effect.
        affine: with weight and bias.
    """
    return _get_norm('InstanceNorm', nf, ndim, zero=norm_type == NormType.InstanceZero, affine=affine, **kwargs)


class BatchNorm1dFlat(nn.BatchNorm1d):
    """`nn.BatchNorm1d` over the last axis of a tensor of any rank, [..., C]."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` [..., C]."""
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


def init_linear(m: nn.Module, act_func: Any = None, init: Callable[..., Any] | str | None = 'auto',
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
    """Fill `x` with normal numbers of `mean` and deviation `std`, folded into two deviations around the mean."""
    return x.normal_().fmod_(2).mul_(std).add_(mean)


def icnr_init(x: Tensor, scale: int = 2, init: Callable[..., Any] = kaiming_normal_) -> Tensor:
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

    Example:
        >>> ConvLayer(3, 16, stride=2)(torch.rand(4, 3, 32, 32)).shape
        torch.Size([4, 16, 16, 16])
    """

    def __init__(self, ni: int, nf: int, ks: int = 3, stride: int = 1, padding: int | None = None,
                 bias: bool | None = None, ndim: int = 2, norm_type: NormType | None = NormType.Batch,
                 bn_1st: bool = True, act_cls: Callable[..., Any] | None = nn.ReLU, transpose: bool = False,
                 init: Callable[..., Any] | str | None = 'auto', xtra: nn.Module | None = None,
                 bias_std: float | None = 0.01, **kwargs: Any) -> None:
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
    """`nn.MaxPool{ndim}d` over windows of `ks` pixels a side; `ceil_mode` keeps the last, partial window.

    `stride` is the way from one window to the next (default: `ks`), `padding` are pixels put around first.
    """
    return _n_dimensional('MaxPool', ndim)(ks, stride=stride, padding=padding, ceil_mode=ceil_mode)


def AvgPool(ks: int = 2, stride: int | None = None, padding: int = 0, ndim: int = 2,
            ceil_mode: bool = False) -> nn.Module:
    """`nn.AvgPool{ndim}d`; `ks`, `stride`, `padding`, `ndim` and `ceil_mode` as for `MaxPool`."""
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

    Example:
        >>> PixelShuffle_ICNR(16, 8)(torch.rand(2, 16, 4, 4)).shape
        torch.Size([2, 8, 8, 8])
    """

    def __init__(self, ni: int, nf: int | None = None, scale: int = 2, blur: bool = False,
                 norm_type: NormType | None = NormType.Weight, act_cls: Callable[..., Any] | None = nn.ReLU) -> None:
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

    Example:
        >>> SelfAttention(8)(torch.rand(2, 8, 4, 4)).shape
        torch.Size([2, 8, 4, 4])
    """

    def __init__(self, n_channels: int) -> None:
        sizes = (n_channels // 8, n_channels // 8, n_channels)
        self.query, self.key, self.value = (_attention_conv(n_channels, n_out, 1) for n_out in sizes)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """`x` [B,C,...] -> the same shape."""
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
        """`x` [B,C,H,W] -> the same shape; H and W even."""
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

    Example:
        >>> SimpleSelfAttention(8)(torch.rand(2, 8, 4, 4)).shape
        torch.Size([2, 8, 4, 4])
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
        """`x` [B,C,...] -> the same shape."""
        if self.sym:
            with torch.no_grad():  # the stored weight, since the normed one is computed from it
                stored = self.conv.weight_orig
                stored.copy_((stored + stored.transpose(0, 1)) / 2)
        x_BCN = x.flatten(2)
        attended = torch.bmm(torch.bmm(x_BCN, x_BCN.transpose(1, 2)), self.conv(x_BCN))
        return (self.gamma * attended + x_BCN).view(x.shape)


# ---------------------------------------------------------------- functions, reshapes and ranges

class Lambda(Module):
    """A layer that calls `func`.

    Args:
        func: takes the layer's input.
    """

    def __init__(self, func: Callable[[Tensor], Tensor]) -> None:
        self.func = func

    def forward(self, x: Tensor) -> Tensor:
        """`func(x)`."""
        return self.func(x)

    def extra_repr(self) -> str:
        """The function's name."""
        return getattr(self.func, '__name__', repr(self.func))


class PartialLambda(Lambda):
    """A layer that calls `func` with fixed keyword arguments.

    Args:
        func: takes the layer's input.
        **kwargs: given to it each time.
    """

    def __init__(self, func: Callable[..., Any], **kwargs: Any) -> None:
        self.func, self.repr = partial(func, **kwargs), f'{func.__name__}, {kwargs}'

    def extra_repr(self) -> str:
        """The function's name and arguments."""
        return self.repr


class Flatten(Module):
    """[B,...] -> [B,N], or -> [B*N] if `full`.

    Args:
        full: give up the batch axis too.

    Example:
        >>> Flatten()(torch.rand(4, 8, 2, 2)).shape
        torch.Size([4, 32])
    """

    def __init__(self, full: bool = False) -> None:
        self.full = full

    def forward(self, x: Tensor) -> Tensor:
        """Flatten `x`."""
        return x.reshape(-1) if self.full else x.flatten(1)

    def extra_repr(self) -> str:
        """The setting."""
        return f'full={self.full}'


class ToTensorBase(Module):
    """Mark the input as `tensor_cls`.

    Args:
        tensor_cls: a marker class.
    """

    def __init__(self, tensor_cls: type[Any] = TensorBase) -> None:
        self.tensor_cls = tensor_cls

    def forward(self, x: Tensor) -> Tensor:
        """`x`, marked."""
        return self.tensor_cls(x)


class View(Module):
    """Reshape to `size`.

    Args:
        *size: of the output, batch included; one may be -1.
    """

    def __init__(self, *size: int) -> None:
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Reshape `x`."""
        return x.view(self.size)


class ResizeBatch(Module):
    """Reshape each item of the batch to `size`.

    Args:
        *size: of one item.
    """

    def __init__(self, *size: int) -> None:
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """`x` [B,...] -> [B,*size]."""
        return x.view(x.shape[0], *self.size)


class Debugger(Module):
    """Stop in the debugger when the model passes here."""

    def forward(self, x: Tensor) -> Tensor:
        """`x`, after the debugger has been left."""
        breakpoint()
        return x


def sigmoid_range(x: Tensor, low: float, high: float) -> Tensor:
    """A sigmoid of `x` between `low` and `high`."""
    return torch.sigmoid(x) * (high - low) + low


class SigmoidRange(Module):
    """`sigmoid_range` as a layer.

    Args:
        low: where the sigmoid starts.
        high: where it ends.

    Example:
        >>> SigmoidRange(0, 5)(torch.tensor([0.])).item()
        2.5
    """

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def forward(self, x: Tensor) -> Tensor:
        """`x` -> values between `low` and `high`."""
        return sigmoid_range(x, self.low, self.high)

    def extra_repr(self) -> str:
        """The range."""
        return f'low={self.low}, high={self.high}'


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

    Example:
        >>> AdaptiveConcatPool2d()(torch.rand(2, 8, 7, 7)).shape
        torch.Size([2, 16, 1, 1])
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
    """The class of 2d adaptive pooling that `pool_type`, one of `PoolType`, names."""
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

    Example:
        >>> LinBnDrop(64, 10, p=0.5, act=nn.ReLU())(torch.rand(4, 64)).shape
        torch.Size([4, 10])
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
    """`nn.Sequential` of `args` that also takes functions."""
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
        """Concatenate what the layers give for `x`."""
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
        """`tensors` [B,T,...], T being axis `tdim` -> [B,T,...]; `kwargs` go to the module as they are."""
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

    Example:
        >>> SimpleCNN([3, 16, 32])(torch.rand(4, 3, 28, 28)).shape
        torch.Size([4, 32])
    """

    def __init__(self, filters: Sequence[int], kernel_szs: Sequence[int] | None = None,
                 strides: Sequence[int] | None = None, bn: bool = True) -> None:
        n = len(filters) - 1
        kernel_szs, strides = kernel_szs or [3] * n, strides or [2] * n
        layers = [ConvLayer(filters[i], filters[i + 1], kernel_szs[i], stride=strides[i],
                            norm_type=NormType.Batch if bn and i < n - 1 else None) for i in range(n)]
        super().__init__(*layers, PoolFlatten())


# ---------------------------------------------------------------- blocks

class SequentialEx(Module):
    """Layers in turn; each finds the input of the whole block as `x.orig`.

    Args:
        *layers: in order.

    Example:
        >>> block = SequentialEx(nn.Linear(8, 8), nn.ReLU(), MergeLayer())  # x + relu(linear(x))
        >>> block(torch.rand(2, 8)).shape
        torch.Size([2, 8])
    """

    def __init__(self, *layers: nn.Module) -> None:
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Run the layers on `x`."""
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
        """Add the module `layer` at the end."""
        return self.layers.append(layer)

    def extend(self, layers: Sequence[nn.Module]) -> nn.ModuleList:
        """Add the modules `layers` at the end."""
        return self.layers.extend(layers)

    def insert(self, i: int, layer: nn.Module) -> None:
        """Add the module `layer` before the `i`-th."""
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


def SEModule(ch: int, reduction: int, act_cls: Callable[..., Any] = nn.ReLU) -> SequentialEx:
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

    Example:
        >>> ResBlock(1, 16, 32, stride=2)(torch.rand(4, 16, 8, 8)).shape
        torch.Size([4, 32, 4, 4])
    """

    def __init__(self, expansion: int, ni: int, nf: int, stride: int = 1, groups: int = 1, reduction: int | None = None,
                 nh1: int | None = None, nh2: int | None = None, dw: bool = False, g2: int = 1, sa: bool = False,
                 sym: bool = False, norm_type: NormType | None = NormType.Batch, act_cls: Callable[..., Any] = nn.ReLU,
                 ndim: int = 2, ks: int = 3, pool: Callable[..., Any] = AvgPool, pool_first: bool = True,
                 **kwargs: Any) -> None:
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
        """Convolutions plus shortcut of `x`, then the activation."""
        return self.act(self.convpath(x) + self.idpath(x))


def SEBlock(expansion: int, ni: int, nf: int, groups: int = 1, reduction: int = 16, stride: int = 1,
            **kwargs: Any) -> ResBlock:
    """A `ResBlock` with squeeze and excitation.

    `expansion`, `ni`, `nf`, `groups`, `reduction`, `stride` and `kwargs` as for `ResBlock`.
    """
    return ResBlock(expansion, ni, nf, stride=stride, groups=groups, reduction=reduction, nh1=nf * 2,
                    nh2=nf * expansion, **kwargs)


def SEResNeXtBlock(expansion: int, ni: int, nf: int, groups: int = 32, reduction: int = 16, stride: int = 1,
                   base_width: int = 4, **kwargs: Any) -> ResBlock:
    """A `ResBlock` with squeeze and excitation and a grouped main convolution.

    `expansion`, `ni`, `nf`, `groups`, `reduction`, `stride` and `kwargs` as for `ResBlock`; `base_width` says how many
    channels a group has for every 64 of `nf`.
    """
    width = math.floor(nf * (base_width / 64)) * groups
    return ResBlock(expansion, ni, nf, stride=stride, groups=groups, reduction=reduction, nh2=width, **kwargs)


def SeparableBlock(expansion: int, ni: int, nf: int, reduction: int = 16, stride: int = 1, base_width: int = 4,
                   **kwargs: Any) -> ResBlock:
    """A `ResBlock` with squeeze and excitation and a depthwise main convolution; `base_width` has no effect.

    `expansion`, `ni`, `nf`, `reduction`, `stride` and `kwargs` as for `ResBlock`.
    """
    return ResBlock(expansion, ni, nf, stride=stride, reduction=reduction, nh2=nf * 2, dw=True, **kwargs)


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

    def __init__(self, loss_func: Callable[..., Any]) -> None:
        self.loss_func, self.old_red = loss_func, None

    def __enter__(self) -> Callable:
        if not hasattr(self.loss_func, 'reduction'):
            return partial(self.loss_func, reduction='none')
        self.old_red, self.loss_func.reduction = self.loss_func.reduction, 'none'
        return self.loss_func

    def __exit__(self, *exc_info: Any) -> None:
        if self.old_red is not None:
            self.loss_func.reduction = self.old_red
