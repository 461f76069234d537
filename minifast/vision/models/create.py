"""Whole models: body and head, U-Nets, and timm's models, and their recipes."""
from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import torchvision
from torch import nn

from minifast import layers
from minifast.arguments import as_size, near_match, tells_near_match
from minifast.callback.hook import num_features_model
from minifast.vision.models import tvm, xresnet
from minifast.vision.models.body import TimmBody, body_of, meta_of, update_first_layer
from minifast.vision.models.head import add_head
from minifast.vision.models.unet import DynamicUnet
from minifast.vision.models.weights import (as_weights_file, cached_file, channels_of, check_fit, fetch_weights,
                                            fill_body, guarded_reads, named_weights, read_weights, state_of)

__all__ = ['arch_from_name', 'arch_name', 'create_body', 'create_cnn_model', 'create_timm_model', 'create_unet_model',
           'create_vision_model', 'model_recipe']

Arch = Callable[..., nn.Module]
_arch_homes = ('torchvision.models', 'minifast.vision.models.xresnet')


# ---------------------------------------------------------------- architectures by name

def arch_name(arch: Arch | str) -> str | None:
    """A name that `arch_from_name` turns into this architecture again; None for a function of your own.

    `torchvision.models.resnet18`, `minifast.vision.models.xresnet.xresnet18`, or timm's own name.
    """
    if isinstance(arch, str):
        return arch
    for home in _arch_homes:
        if vars(importlib.import_module(home)).get(getattr(arch, '__name__', '')) is arch:
            return f'{home}.{arch.__name__}'
    return None


def arch_from_name(arch: Arch | str) -> Arch | str:
    """The function that a dotted name of `arch_name` means; anything else, a timm name too, comes back as it is.

    Raises:
        ValueError: there is no such architecture in that module.
    """
    home, _, name = arch.rpartition('.') if isinstance(arch, str) else ('', '', '')
    if home not in _arch_homes:
        return arch
    known = tvm.__all__ if home == _arch_homes[0] else xresnet.__all__
    if name not in known:
        raise ValueError(f'{home} has no architecture {name!r}{near_match(name, known)}')
    return getattr(importlib.import_module(home), name)


def _is_torchvision(arch: Arch) -> bool:
    name = getattr(arch, '__name__', '')
    return name in torchvision.models.list_models() and torchvision.models.get_model_builder(name) is arch


# ---------------------------------------------------------------- bodies with their weights

@tells_near_match
def create_body(model: nn.Module | Arch, n_in: int = 3, pretrained: bool = True,
                cut: int | Callable[[nn.Module], nn.Module] | None = None) -> nn.Module:
    """The body of an image model: [B,n_in,H,W] -> features [B,nf,h,w].

    Args:
        model: a whole model, taking 3 channels; or the function that makes it (`resnet18`), as in earlier releases.
        n_in: input channels; for other than 3 the first layer is replaced.
        pretrained: keep what the first layer has learnt when it is replaced; of a function, load its weights.
        cut: see `cut_model`; default: before the last child that pools.

    Raises:
        ValueError: no child pools, so it is not known where to cut.
        WeightsNotFoundError: the pretrained weights are not to be had.
    """
    return (body_of(model, n_in, pretrained, cut) if isinstance(model, nn.Module)
            else _body(model, pretrained, None, cut, n_in))


def _body(arch: Arch, pretrained: bool, weights: Any, cut: int | Callable | None, n_in: int) -> nn.Module:
    """The body of an architecture, filled with the weights that were asked for."""
    meta = meta_of(arch)
    cut = meta['cut'] if cut is None else cut
    if weights is not None and not pretrained:
        warnings.warn(f'weights={weights!r} are loaded although pretrained=False; leave them away for a random start',
                      stacklevel=3)
    file = as_weights_file(weights)
    if file is not None:
        return _filled_body(arch, state_of(read_weights(file)), str(file), cut, n_in)
    wanted = meta.get('weights') if weights is None and pretrained else weights
    if _is_torchvision(arch):
        if not pretrained and weights is None:
            return body_of(arch(weights=None), n_in, False, cut)
        chosen = named_weights(arch, wanted)
        return _filled_body(arch, state_of(fetch_weights(chosen.url)), str(cached_file(chosen.url)), cut, n_in)
    if weights is not None and 'weights' not in meta:
        raise ValueError(f'{getattr(arch, "__name__", arch)} has no named weights; got weights={weights!r}: '
                         'give the path of a file')
    model = arch(weights=wanted) if 'weights' in meta else arch(pretrained=pretrained)
    return body_of(model, n_in, pretrained, cut)


def _filled_body(arch: Arch, state: dict, source: str, cut: int | Callable | None, n_in: int) -> nn.Module:
    model = arch(weights=None) if _is_torchvision(arch) else arch(pretrained=False)
    channels = channels_of(state, n_in)
    body = body_of(model, channels, False, cut)
    fill_body(body, model, state, source)
    if channels != n_in:
        update_first_layer(body, n_in, pretrained=True)
    return body


# ---------------------------------------------------------------- whole models

@tells_near_match
def create_vision_model(arch: Arch | str, n_out: int, pretrained: bool = True, weights: Any = None,
                        cut: int | Callable | None = None, n_in: int = 3,
                        init: Callable | None = nn.init.kaiming_normal_, custom_head: nn.Module | None = None,
                        concat_pool: bool = True, pool: bool = True, lin_ftrs: Sequence[int] | None = None,
                        ps: float | Sequence[float] = 0.5, first_bn: bool = True, bn_final: bool = False,
                        lin_first: bool = False, y_range: Sequence[float] | None = None) -> nn.Sequential:
    """`Sequential(body, head)` of an architecture: [B,n_in,H,W] -> [B,n_out].

    Args:
        arch: a function that makes a model (`resnet18`), its dotted name (see `arch_name`), or a timm name.
        n_out: numbers to predict for each item.
        pretrained: load the weights that the architecture is known for.
        weights: which: a torchvision enum member or its name, or the path of a file with a state dict.
        cut: where the body ends, see `create_body`; default: as `model_meta` says.
        n_in: input channels.
        init: for the weights of the head.
        custom_head: a head of your own; takes the body's features.
        concat_pool, pool, lin_ftrs, ps, first_bn, bn_final, lin_first, y_range: see `create_head`.

    Raises:
        WeightsNotFoundError: the pretrained weights are not to be had.
        ValueError: the weights do not fit; the architecture cannot be cut or takes no other channels.
    """
    arch = arch_from_name(arch)
    head_args = dict(init=init, concat_pool=concat_pool, pool=pool, lin_ftrs=lin_ftrs, ps=ps, first_bn=first_bn,
                     bn_final=bn_final, lin_first=lin_first, y_range=y_range)
    if isinstance(arch, str):
        return create_timm_model(arch, n_out, cut, pretrained, n_in, custom_head=custom_head, weights=weights,
                                 **head_args)[0]
    body = _body(arch, pretrained, weights, cut, n_in)
    nf = num_features_model(nn.Sequential(*body.children())) if custom_head is None else None
    return add_head(body, nf, n_out, head=custom_head, **head_args)


def create_timm_model(arch: str, n_out: int, cut: int | Callable | None = None, pretrained: bool = True, n_in: int = 3,
                      init: Callable | None = nn.init.kaiming_normal_, custom_head: nn.Module | None = None,
                      concat_pool: bool = True, pool: bool = True, lin_ftrs: Sequence[int] | None = None,
                      ps: float | Sequence[float] = 0.5, first_bn: bool = True, bn_final: bool = False,
                      lin_first: bool = False, y_range: Sequence[float] | None = None, weights: Any = None,
                      **kwargs: Any) -> tuple[nn.Sequential, dict[str, Any]]:
    """`Sequential(TimmBody, head)` and timm's configuration (`mean`, `std`, ...) of an architecture known to timm.

    Args:
        arch: timm's name.
        cut: has no effect, as timm leaves its own head away.
        pool: has no effect, as timm says whether its features need pooling.
        weights: the path of a file, in place of timm's own.
        kwargs: for `timm.create_model`.
        n_out, pretrained, n_in, init, custom_head: see `create_vision_model`.
        concat_pool, lin_ftrs, ps, first_bn, bn_final, lin_first, y_range: see `create_head`.

    Whatever file timm reads on the way (`checkpoint_path`, `pretrained_cfg`, its caches), tensors alone are read of it.

    Raises:
        ImportError: timm is not installed.
        ValueError: a file holds more than tensors, or values that no weights have.
    """
    try:
        import timm
    except ImportError as error:
        hint = f'; for torchvision\'s own give the function: models.{arch}' if hasattr(torchvision.models, arch) else ''
        raise ImportError(f'arch={arch!r} is a name of the timm library, which is not installed: '
                          f'pip install "minifast[timm]"{hint}') from error
    file = as_weights_file(weights)
    if weights is not None and file is None:
        raise ValueError(f'weights={weights!r}: timm names its weights behind a dot ({arch}.TAG); or give the path of '
                         'a file')
    state = None if file is None else state_of(read_weights(file))
    with guarded_reads() as seen:
        model = timm.create_model(arch, pretrained=pretrained and file is None, num_classes=0, in_chans=n_in, **kwargs)
    for name, found in seen.items():
        for part in (found, *(o for o in found.values() if isinstance(o, Mapping))):
            check_fit(model, part, name)
    body = TimmBody(model, pretrained, None, n_in)
    if state is not None:
        fill_body(body, model, state, str(file))
    whole = add_head(body, model.num_features, n_out, init=init, head=custom_head, concat_pool=concat_pool,
                     pool=body.needs_pool, lin_ftrs=lin_ftrs, ps=ps, first_bn=first_bn, bn_final=bn_final,
                     lin_first=lin_first, y_range=y_range)
    return whole, model.default_cfg


def create_unet_model(arch: Arch | str, n_out: int, img_size: tuple[int, int], pretrained: bool = True,
                      weights: Any = None, cut: int | Callable | None = None, n_in: int = 3, blur: bool = False,
                      blur_final: bool = True, self_attention: bool = False, y_range: Sequence[float] | None = None,
                      last_cross: bool = True, bottle: bool = False, act_cls: Callable | str = nn.ReLU,
                      init: Callable | None = nn.init.kaiming_normal_,
                      norm_type: layers.NormType | str | None = None, **kwargs: Any) -> DynamicUnet:
    """A `DynamicUnet` on the body of an architecture: [B,n_in,H,W] -> [B,n_out,H,W].

    Args:
        arch: a function that makes a model (`resnet34`) or its dotted name.
        img_size: (height, width) of the pictures the layers are laid out for.
        act_cls: makes the activations; or the name of a class of `torch.nn`.
        norm_type: a `NormType` or its name.
        pretrained, weights, cut, n_in: see `create_vision_model`.
        n_out, blur, blur_final, self_attention, y_range, last_cross, bottle, init, kwargs: see `DynamicUnet`.
    """
    arch = arch_from_name(arch)
    if isinstance(arch, str):
        raise ValueError(f'a U-Net needs a body whose layers are in a row; {arch!r} is a timm name: '
                         'give a function such as models.resnet34')
    act_cls = getattr(nn, act_cls) if isinstance(act_cls, str) else act_cls
    norm_type = layers.NormType[norm_type] if isinstance(norm_type, str) else norm_type
    body = _body(arch, pretrained, weights, cut, n_in)
    return DynamicUnet(body, n_out, as_size(img_size, 'img_size'), blur=blur, blur_final=blur_final,
                       self_attention=self_attention, y_range=y_range, last_cross=last_cross, bottle=bottle,
                       act_cls=act_cls, init=init, norm_type=norm_type, **kwargs)


def create_cnn_model(*args: Any, **kwargs: Any) -> nn.Sequential:
    """`create_vision_model` under the name older code uses."""
    warnings.warn('create_cnn_model is now called create_vision_model', stacklevel=2)
    return create_vision_model(*args, **kwargs)


# ---------------------------------------------------------------- recipes

def model_recipe(builder: Callable, arch: Arch | str, **kwargs: Any) -> dict[str, Any] | None:
    """How to build a model again, as data: `{'builder': dotted name, 'kwargs': {...}}`, for files that hold no code.

    Pretrained weights and initialisation are left away: the file brings its own weights.

    Returns:
        None where an argument is code of the user's (an own architecture, head, cut or activation).
    """
    name = arch_name(arch)
    if name is None:
        return None
    encoded = {'arch': name, 'pretrained': False, 'init': None}
    for key, value in kwargs.items():
        if isinstance(value, Enum):
            value = value.name
        elif isinstance(value, type) and getattr(nn, value.__name__, None) is value:
            value = value.__name__
        elif isinstance(value, (Sequence, Path)) and not isinstance(value, str):
            value = [float(o) if not isinstance(o, int) else o for o in value]
        elif value is not None and not isinstance(value, (bool, int, float, str)):
            return None
        encoded[key] = value
    return {'builder': f'minifast.vision.learner.{builder.__name__}', 'kwargs': encoded}
