"""Bodies: where an architecture is cut, how its body is split into parameter groups, how many channels it takes."""
from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from fastcore.foundation import L
from torch import Tensor, nn

from minifast.arguments import tells_near_match
from minifast.torch_core import params
from minifast.vision.core import imagenet_stats
from minifast.vision.models import tvm, xresnet

__all__ = ['TimmBody', 'body_of', 'cut_model', 'default_split', 'first_layer', 'has_pool_type', 'meta_of',
           'model_meta', 'update_first_layer']


# ---------------------------------------------------------------- cutting

def has_pool_type(m: nn.Module) -> bool:
    """Whether `m` is a pooling layer (a class named `...Pool1d`, `...Pool2d` or `...Pool3d`) or has one inside."""
    return any(re.search(r'Pool[123]d$', type(layer).__name__) for layer in m.modules())


def cut_model(model: nn.Module, cut: int | Callable[[nn.Module], nn.Module]) -> nn.Module:
    """The children of `model` before index `cut` as an `nn.Sequential`, or `cut(model)` where `cut` is a function.

    Raises:
        TypeError: `cut` is neither an int nor a function.
    """
    if isinstance(cut, int):
        return nn.Sequential(*list(model.children())[:cut])
    if callable(cut):
        return cut(model)
    raise TypeError(f'cut={cut!r}: give the index of the first child to leave out, or a function model -> body')


@tells_near_match
def body_of(model: nn.Module, n_in: int = 3, pretrained: bool = True,
            cut: int | Callable[[nn.Module], nn.Module] | None = None) -> nn.Module:
    """The body of an image model: [B,n_in,H,W] -> features [B,nf,h,w].

    Args:
        model: a whole model, taking 3 channels.
        n_in: input channels; for other than 3 the first layer is replaced.
        pretrained: keep what the first layer has learnt when it is replaced.
        cut: see `cut_model`; default: before the last child that pools.

    Raises:
        ValueError: no child pools, so it is not known where to cut.
    """
    update_first_layer(model, n_in, pretrained)
    if cut is None:
        pooling = [i for i, child in enumerate(model.children()) if has_pool_type(child)]
        if not pooling:
            names = [name for name, _ in model.named_children()]
            raise ValueError(f'{type(model).__name__} has no pooling layer to cut before; give cut=: the index of the '
                             f'first child that belongs to the head, or a function model -> body. Children: {names}')
        cut = pooling[-1]
    return cut_model(model, cut)


# ---------------------------------------------------------------- the first layer

def first_layer(model: nn.Module) -> tuple[nn.Module, nn.Module, str]:
    """The layer that holds the first parameter of `model`, the module that holds the layer, and its name there."""
    path = next(model.named_parameters())[0].rpartition('.')[0]
    parent, _, name = path.rpartition('.')
    return model.get_submodule(path), model.get_submodule(parent), name


def update_first_layer(model: nn.Module, n_in: int, pretrained: bool) -> None:
    """Replace the first convolution by one for `n_in` channels.

    Where `pretrained`, one channel gets the sum of the learnt three (a grey picture weighs as much as a colour one),
    two channels get one and a half times the first two, and more get zeros beyond the third.

    Raises:
        ValueError: the first layer is no `nn.Conv2d` of 3 channels.
    """
    if n_in == 3:
        return
    layer, parent, name = first_layer(model)
    if not isinstance(layer, nn.Conv2d) or layer.in_channels != 3:
        raise ValueError(f'n_in={n_in} needs a model whose first layer is a Conv2d of 3 channels; '
                         f'{type(model).__name__} starts with {layer}')
    new = nn.Conv2d(n_in, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation,
                    layer.groups, layer.bias is not None, layer.padding_mode)
    if pretrained:
        _keep_learnt(new.weight.data, layer.weight.data)
    setattr(parent, name, new)


def _keep_learnt(new: Tensor, learnt: Tensor) -> None:
    """Fill the weight [F,n_in,h,w] of a new first layer from the learnt [F,3,h,w]."""
    n_in = new.shape[1]
    if n_in == 1:
        new.copy_(learnt.sum(dim=1, keepdim=True))
    elif n_in == 2:
        new.copy_(learnt[:, :2] * 1.5)
    else:
        new[:, :3] = learnt
        new[:, 3:].zero_()


# ---------------------------------------------------------------- parameter groups

def default_split(m: nn.Sequential) -> L:
    """Two parameter groups: body `m[0]` and head."""
    return L(m[0], m[1:]).map(params)


def _split_at(i: int, m: nn.Sequential) -> L:
    """Three parameter groups: the body cut before child `i`, and the head."""
    return L(m[0][:i], m[0][i:], m[1:]).map(params)


_resnet_split = partial(_split_at, 6)


def _split_inside(i: int, m: nn.Sequential) -> L:
    """Three parameter groups: the body's first child cut before its child `i`, and the head."""
    return L(m[0][0][:i], m[0][0][i:], m[1:]).map(params)


_default_meta: dict[str, Any] = {'cut': None, 'split': default_split}


def _meta(cut: int, split: Callable[[nn.Module], Sequence], **more: Any) -> dict[str, Any]:
    return {'cut': cut, 'split': split, 'stats': imagenet_stats, **more}


def _table() -> dict[Callable, dict[str, Any]]:
    families = {
        'resnet18 resnet34 resnet50 resnet101 resnet152': (-2, _resnet_split),
        'squeezenet1_0 squeezenet1_1': (-1, partial(_split_inside, 5)),
        'densenet121 densenet161 densenet169 densenet201': (-1, partial(_split_inside, 7)),
        'vgg11_bn vgg13_bn vgg16_bn vgg19_bn': (-2, partial(_split_inside, 22)),
        'alexnet': (-2, partial(_split_inside, 6)),
    }
    table = {getattr(tvm, name): _meta(cut, split, weights='DEFAULT')
             for names, (cut, split) in families.items() for name in names.split()}
    for name in 'xresnet18 xresnet34 xresnet50 xresnet101 xresnet152'.split():
        table[getattr(xresnet, name)] = _meta(-4, partial(_split_at, 3))
    return table


model_meta: dict[Callable, dict[str, Any]] = _table()
"""For each known architecture: `cut` (see `body_of`), `split` (model -> parameter groups), `stats` of the pictures
its weights were trained on, and `weights`, the name of torchvision's best. Add an entry for one of your own."""


def meta_of(arch: Callable | str) -> dict[str, Any]:
    """The entry of `model_meta`; for an unknown architecture: two parameter groups, cut before the last pooling."""
    return model_meta.get(arch, _default_meta)


# ---------------------------------------------------------------- timm

class TimmBody(nn.Module):
    """A timm model as a body; `needs_pool` says whether a head must pool its features."""

    def __init__(self, model: nn.Module, pretrained: bool = True, cut: int | Callable | None = None,
                 n_in: int = 3) -> None:
        """
        Args:
            model: a timm model with `num_classes=0`.
            pretrained: has no effect, as timm has loaded the weights.
            cut: see `cut_model`; default: the whole model.
            n_in: has no effect, as timm has made the first layer.
        """
        super().__init__()
        self.needs_pool = model.default_cfg.get('pool_size', None) is not None
        self.model = model if cut is None else cut_model(model, cut)

    def forward(self, x: Tensor) -> Tensor:
        """Features [B,nf,h,w], or [B,nf] where the model pools itself."""
        return self.model.forward_features(x) if self.needs_pool else self.model(x)
