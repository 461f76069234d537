"""U-Nets on top of any body whose layers are in a row.

Source: Ronneberger et al., arXiv 1505.04597; upsampling by pixel shuffle, Shi et al., arXiv 1609.05158.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import TypedDict

from minifast.arguments import as_size, tells_near_match
from minifast.callback.hook import dummy_eval, model_sizes
from minifast.layers import (BatchNorm, ConvLayer, MergeLayer, NormType, PixelShuffle_ICNR, ResBlock, SelfAttention,
                             SequentialEx, SigmoidRange, ToTensorBase, in_channels)
from minifast.torch_core import Module, apply_init

__all__ = ['DynamicUnet', 'ResizeToOrig', 'UnetBlock']


class UnetBlock(Module):
    """Double the size of the features, put those of the encoder beside them, and convolve twice.

    Args:
        up_in_c: channels from below.
        x_in_c: channels from the encoder.
        hook: its `stored` are the encoder's features where `forward` is not given them.
        final_div: keep all channels; else half of them.
        blur: average after upsampling.
        act_cls: makes the activations.
        self_attention: after the second convolution.
        init: for the weights of the two convolutions.
        norm_type: of the convolutions.
        kwargs: for the two `ConvLayer`s.
    """

    def __init__(self, up_in_c: int, x_in_c: int, hook: Any = None, final_div: bool = True, blur: bool = False,
                 act_cls: Callable[..., Any] = nn.ReLU, self_attention: bool = False,
                 init: Callable[..., Any] | None = nn.init.kaiming_normal_, norm_type: NormType | None = None,
                 **kwargs: Any) -> None:
        self.hook = hook
        self.shuf = PixelShuffle_ICNR(up_in_c, up_in_c // 2, blur=blur, act_cls=act_cls, norm_type=norm_type)
        self.bn = BatchNorm(x_in_c)
        ni = up_in_c // 2 + x_in_c
        nf = ni if final_div else ni // 2
        self.conv1 = ConvLayer(ni, nf, act_cls=act_cls, norm_type=norm_type, **kwargs)
        self.conv2 = ConvLayer(nf, nf, act_cls=act_cls, norm_type=norm_type,
                               xtra=SelfAttention(nf) if self_attention else None, **kwargs)
        self.relu = act_cls()
        apply_init(nn.Sequential(self.conv1, self.conv2), init)

    def forward(self, up_in: Tensor, skip: Tensor | None = None) -> Tensor:
        """Features [B,up_in_c,h,w] and the encoder's [B,x_in_c,2h,2w] -> [B,nf,2h,2w].

        Args:
            up_in: the features from below.
            skip: the encoder's; None: what the hook has stored.
        """
        skip = self.hook.stored if skip is None else skip
        up_out = self.shuf(up_in)
        if skip.shape[-2:] != up_out.shape[-2:]:  # an odd size was halved on the way down
            up_out = F.interpolate(up_out, skip.shape[-2:], mode='nearest')
        return self.conv2(self.conv1(self.relu(torch.cat([up_out, self.bn(skip)], dim=1))))


class ResizeToOrig(Module):
    """In a `SequentialEx`: resize to the height and width of the block's input.

    Args:
        mode: of `torch.nn.functional.interpolate`.
    """

    @tells_near_match
    def __init__(self, mode: str = 'nearest') -> None:
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,h,w] -> [B,C,H,W] where `x.orig` is [B,.,H,W]."""
        if x.orig.shape[-2:] != x.shape[-2:]:
            x = F.interpolate(x, x.orig.shape[-2:], mode=self.mode)
        return x


class DynamicUnet(SequentialEx):
    """A U-Net whose way up is laid out from the sizes that the encoder's layers give: [B,n_in,H,W] -> [B,n_out,H,W].

    Args:
        encoder: a body; features are taken before each of its layers that changes the size.
        n_out: output channels.
        img_size: (height, width) to lay out for; other sizes work too.
        blur: average after upsampling, against checkerboards.
        blur_final: also in the last block.
        self_attention: in the third block from the end.
        y_range: (low, high) of a sigmoid on the output.
        last_cross: put the picture itself beside the last features.
        bottle: halve the channels inside the last residual block.
        act_cls: makes the activations.
        init: for the weights of the convolutions.
        norm_type: of the convolutions.
        kwargs: for every `ConvLayer`.
    """

    def __init__(self, encoder: nn.Sequential, n_out: int, img_size: tuple[int, int], blur: bool = False,
                 blur_final: bool = True, self_attention: bool = False, y_range: Sequence[float] | None = None,
                 last_cross: bool = True, bottle: bool = False, act_cls: Callable[..., Any] = nn.ReLU,
                 init: Callable[..., Any] | None = nn.init.kaiming_normal_, norm_type: NormType | None = None,
                 **kwargs: Any) -> None:
        img_size = as_size(img_size, 'img_size')
        sizes = model_sizes(encoder, size=img_size)
        skips = [i for i in range(len(sizes) - 1) if sizes[i][-1] != sizes[i + 1][-1]][::-1]
        args = dict(act_cls=act_cls, norm_type=norm_type, **kwargs)
        x = dummy_eval(encoder, img_size).detach()
        ni = sizes[-1][1]
        middle = nn.Sequential(ConvLayer(ni, ni * 2, **args), ConvLayer(ni * 2, ni, **args)).eval()
        layers = [encoder, BatchNorm(ni), nn.ReLU(), middle]
        with torch.no_grad():
            x = middle(x)
            for i, idx in enumerate(skips):
                last = i == len(skips) - 1
                block = UnetBlock(x.shape[1], sizes[idx][1], final_div=not last, init=init,
                                  blur=blur and (blur_final or not last),
                                  self_attention=self_attention and i == len(skips) - 3, **args).eval()
                layers.append(block)
                x = block(x, x.new_zeros(sizes[idx]))
        ni = x.shape[1]
        if img_size != tuple(sizes[0][-2:]):
            layers.append(PixelShuffle_ICNR(ni, act_cls=act_cls, norm_type=norm_type))
        layers.append(ResizeToOrig())
        if last_cross:
            ni += in_channels(encoder)
            layers += [MergeLayer(dense=True), ResBlock(1, ni, ni, nh2=ni // 2 if bottle else ni, **args)]
        layers.append(ConvLayer(ni, n_out, ks=1, **{**args, 'act_cls': None}))
        apply_init(nn.Sequential(layers[3], layers[-2]), init)
        if y_range is not None:
            layers.append(SigmoidRange(*y_range))
        super().__init__(*layers, ToTensorBase())
        self.skips = skips

    def forward(self, x: Tensor) -> Tensor:
        """Pictures `x` [B,n_in,H,W] -> [B,n_out,H,W].

        The encoder's layers are run one by one and their features handed on, without hooks: nothing stays behind on
        the model between batches, so it can be copied, compiled and run in several threads.
        """
        result, kept = x, {}
        for i, layer in enumerate(self.layers[0]):
            result = layer(result)
            if i in self.skips:
                kept[i] = result
        skips = iter(self.skips)
        for layer in self.layers[1:]:
            if isinstance(layer, UnetBlock):
                result = layer(result, kept.pop(next(skips)))
                continue
            result.orig = x
            after = layer(result)
            result.orig = after.orig = None  # or each tensor would keep the picture alive
            result = after
        return result


class UnetArguments(TypedDict, total=False, extra_items=Any):
    """What `DynamicUnet` takes beside the body and the sizes, and what `ConvLayer` takes.

    The type of `**` in functions that hand it on, which take names for `act_cls` and `norm_type` too.
    """

    blur: bool
    blur_final: bool
    self_attention: bool
    y_range: Sequence[float] | None
    last_cross: bool
    bottle: bool
    act_cls: Callable[..., Any] | str
    init: Callable[..., Any] | None
    norm_type: NormType | str | None
