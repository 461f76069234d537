"""Models for pictures: the body of an architecture with its weights, a head on it, U-Nets, and their recipes."""
from __future__ import annotations

import functools
import importlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torchvision
from fastcore.foundation import L
from torch import Tensor, nn
from typing_extensions import TypedDict, Unpack

from minifast.arguments import as_size, check_kwargs, near_match, tells_near_match
from minifast.callback.hook import num_features_model
from minifast.layers import AdaptiveConcatPool2d, Flatten, LinBnDrop, NormType, SigmoidRange
from minifast.terminal import warn
from minifast.torch_core import apply_init, params
from minifast.vision.core import imagenet_stats
from minifast.vision.models import tvm, xresnet
from minifast.vision.models.unet import DynamicUnet, UnetArguments
from minifast.vision.models.weights import (as_weights_file, cached_file, channels_of, check_fit, fetch_weights,
                                            fill_body, guarded_reads, named_weights, read_weights, state_of)

__all__ = ['TimmBody', 'add_head', 'arch_from_name', 'arch_name', 'body_of',
           'create_body', 'create_cnn_model', 'create_head', 'create_timm_model', 'create_unet_model',
           'create_vision_model', 'cut_model', 'default_split', 'first_layer', 'has_pool_type', 'meta_of', 'model_meta',
           'model_recipe', 'update_first_layer']

Arch = Callable[..., nn.Module]
Func = TypeVar('Func', bound=Callable)
_arch_homes = ('torchvision.models', 'minifast.vision.models.xresnet')


# ---------------------------------------------------------------- architectures by name

def arch_name(arch: Arch | str) -> str | None:
    """A name that `arch_from_name` turns into `arch` again; None for a function of your own.

    `torchvision.models.resnet18`, `minifast.vision.models.xresnet.xresnet18`, or timm's own name.
    """
    if isinstance(arch, str):
        return arch
    for home in _arch_homes:
        if vars(importlib.import_module(home)).get(getattr(arch, '__name__', '')) is arch:
            return f'{home}.{arch.__name__}'
    return None


def arch_from_name(arch: Arch | str) -> Arch | str:
    """The function that `arch`, a dotted name of `arch_name`, means; anything else, a timm name too, is returned.

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


# ---------------------------------------------------------------- where a body ends

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
    """Replace the first convolution of a model by one for other channels.

    Where `pretrained`, one channel gets the sum of the learnt three (a grey picture weighs as much as a colour one),
    two channels get one and a half times the first two, and more get zeros beyond the third.

    Args:
        model: changed in place.
        n_in: input channels; 3 leaves it as it is.
        pretrained: keep what the layer has learnt; False starts anew.

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


def meta_of(arch: Callable[..., Any] | str) -> dict[str, Any]:
    """The entry of `model_meta` for `arch`; for an unknown one: two parameter groups, cut before the last pooling."""
    return model_meta.get(arch, _default_meta)


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

    Example:
        >>> body = create_body(resnet18(weights=None))
        >>> body(torch.rand(2, 3, 224, 224)).shape
        torch.Size([2, 512, 7, 7])
    """
    return (body_of(model, n_in, pretrained, cut) if isinstance(model, nn.Module)
            else _body(model, pretrained, None, cut, n_in))


def _body(arch: Arch, pretrained: bool, weights: Any, cut: int | Callable | None, n_in: int) -> nn.Module:
    """The body of an architecture, filled with the weights that were asked for."""
    meta = meta_of(arch)
    cut = meta['cut'] if cut is None else cut
    if weights is not None and not pretrained:
        warn(f'weights={weights!r} are loaded although pretrained=False; leave them away for a random start')
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


# ---------------------------------------------------------------- heads

@tells_near_match
def create_head(nf: int, n_out: int, lin_ftrs: Sequence[int] | None = None, ps: float | Sequence[float] = 0.5,
                pool: bool = True, concat_pool: bool = True, first_bn: bool = True, bn_final: bool = False,
                lin_first: bool = False, y_range: Sequence[float] | None = None) -> nn.Sequential:
    """A head for features [B,nf,h,w] (or [B,nf] without `pool`): pooling, then blocks of norm, dropout, linear, ReLU.

    Args:
        nf: channels of the features.
        n_out: numbers to predict for each item.
        lin_ftrs: sizes of the hidden layers, default one of 512; `[]` for none.
        ps: dropout of each block; a single number is that of the last block, the others get half of it.
        pool: start with pooling.
        concat_pool: pool by maximum and mean side by side, which doubles the features, instead of by mean.
        first_bn: batch norm in the first block.
        bn_final: batch norm on the output.
        lin_first: linear layer before norm and dropout in each block.
        y_range: (low, high) of a sigmoid on the output, for regression.

    Raises:
        ValueError: `ps` has neither one number nor one for each block.

    Example:
        >>> create_head(512, 10)(torch.rand(4, 512, 7, 7)).shape
        torch.Size([4, 10])
    """
    sizes = [nf * 2 if pool and concat_pool else nf, *([512] if lin_ftrs is None else lin_ftrs), n_out]
    n_blocks, ps = len(sizes) - 1, list(L(ps))
    if len(ps) == 1:
        ps = [ps[0] / 2] * (n_blocks - 1) + ps
    if len(ps) != n_blocks:
        raise ValueError(f'ps={ps} has {len(ps)} numbers for {n_blocks} dropouts (lin_ftrs={lin_ftrs}): '
                         'give one for each, or a single one')
    layers: list[nn.Module] = []
    if pool:
        layers += [AdaptiveConcatPool2d() if concat_pool else nn.AdaptiveAvgPool2d(1), Flatten()]
    # a linear layer that comes first has its block's dropout behind it: the first one then stands before all blocks
    if lin_first:
        layers.append(nn.Dropout(ps.pop(0)))
    for i, (n_in, n_block, p) in enumerate(zip(sizes[:-1], sizes[1:], ps)):
        last = i == n_blocks - 1
        layers += LinBnDrop(n_in, n_block, bn=first_bn or i > 0, p=p, act=None if last else nn.ReLU(inplace=True),
                            lin_first=lin_first)
    if lin_first:
        layers.append(nn.Linear(sizes[-2], n_out))
    if bn_final:
        layers.append(nn.BatchNorm1d(n_out, momentum=0.01))
    if y_range is not None:
        layers.append(SigmoidRange(*y_range))
    return nn.Sequential(*layers)


class HeadArguments(TypedDict, total=False):
    """What `create_head` takes beside the sizes: the type of `**` in functions that hand it on."""

    concat_pool: bool
    pool: bool
    lin_ftrs: Sequence[int] | None
    ps: float | Sequence[float]
    first_bn: bool
    bn_final: bool
    lin_first: bool
    y_range: Sequence[float] | None


class HeadAndMore(HeadArguments, total=False, extra_items=Any):
    """Those of `HeadArguments`, and what another function takes, such as `timm.create_model`."""


def head_arguments(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """All of `HeadArguments`, those that are not `given` as `create_head` has them; and what else was given."""
    known = inspect.signature(create_head).parameters
    return ({name: given.get(name, known[name].default) for name in HeadArguments.__annotations__},
            {name: value for name, value in given.items() if name not in HeadArguments.__annotations__})


def hands_on(source: Callable[..., Any], names: Any, after: str | None = None,
             more: bool = False) -> Callable[[Func], Func]:
    """Decorate a function that hands its `**` on to `source`.

    `help` and `inspect.signature` show the arguments one by one, with the defaults and the words that they have there;
    an unknown one is refused with the nearest.

    Args:
        source: the function that takes them.
        names: a `TypedDict` of them, by which type checkers know them.
        after: the argument that they stand behind, where they may also be given by position.
        more: there may be others beside them, and the decorated function decides about those.
    """
    def decorate(func: Func) -> Func:
        *own, rest = inspect.signature(func).parameters.values()
        known = inspect.signature(source).parameters
        at = len(own) if after is None else [p.name for p in own].index(after) + 1
        kind = rest.KEYWORD_ONLY if after is None else rest.POSITIONAL_OR_KEYWORD
        handed = [known[name].replace(kind=kind, annotation=hint.__forward_arg__)
                  for name, hint in names.__annotations__.items()]
        shown = inspect.signature(func).replace(parameters=[
            *own[:at], *handed, *own[at:], *([rest.replace(annotation='Any')] if more else [])])

        @functools.wraps(func)
        def door(*args: Any, **kwargs: Any) -> Any:
            if not more:
                check_kwargs(func.__name__, kwargs, shown.parameters)
            if len(args) > at:
                given = shown.bind(*args, **kwargs).arguments
                args, kwargs = (), {**given, **given.pop(rest.name, {})}
            return func(*args, **kwargs)
        door.__signature__ = shown
        door.__doc__ = _with_words_of(source, names, inspect.getdoc(func))
        return door
    return decorate


def _with_words_of(source: Callable, names: Any, doc: str | None) -> str | None:
    """A docstring in whose arguments the line that begins with `**` is replaced by what `source` says about `names`.

    Without the indentation of the code, which Python 3.13 takes away already.
    """
    words = re.findall(r'^ {4}(\w[\w, ]*):( .*(?:\n {8}.*)*)', inspect.getdoc(source) or '', re.MULTILINE)
    about = [(told, text) for told, text in words if set(told.split(', ')) & set(names.__annotations__)]
    lines = '\n'.join(f'    {told}:{text}' for told, text in about)
    return doc and re.sub(r'^ {4}\*\*.*(\n {8}.*)*', lambda _: lines, doc, flags=re.MULTILINE)


@hands_on(create_head, HeadArguments, after='head')
def add_head(body: nn.Module, nf: int | None, n_out: int, init: Callable[..., Any] | None = nn.init.kaiming_normal_,
             head: nn.Module | None = None, **arguments: Unpack[HeadArguments]) -> nn.Sequential:
    """`Sequential(body, head)`, the head's layers initialised with `init`.

    Args:
        body: gives features [B,nf,h,w].
        nf: channels of the features; not needed with a `head`.
        n_out: numbers to predict for each item.
        init: for the weights of all layers of the head but the norms; None leaves them.
        head: a head of your own; default: `create_head` with the other arguments.
        **arguments: of `create_head`.
    """
    if head is None:
        head = create_head(nf, n_out, **arguments)
    if init is not None:
        apply_init(head, init)
    return nn.Sequential(body, head)


# ---------------------------------------------------------------- whole models

class TimmBody(nn.Module):
    """A timm model as a body; `needs_pool` says whether a head must pool its features.

    Args:
        model: a timm model with `num_classes=0`.
        pretrained: has no effect, as timm has loaded the weights.
        cut: see `cut_model`; default: the whole model.
        n_in: has no effect, as timm has made the first layer.
    """

    def __init__(self, model: nn.Module, pretrained: bool = True, cut: int | Callable[..., Any] | None = None,
                 n_in: int = 3) -> None:
        super().__init__()
        self.needs_pool = model.default_cfg.get('pool_size', None) is not None
        self.model = model if cut is None else cut_model(model, cut)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures `x` [B,n_in,H,W] -> features [B,nf,h,w], or [B,nf] where the model pools itself."""
        features = getattr(self.model, 'forward_features', None)  # a part of a model has none
        return features(x) if features is not None and self.needs_pool else self.model(x)


@hands_on(create_head, HeadArguments, after='custom_head')
def create_vision_model(arch: Arch | str, n_out: int, pretrained: bool = True, weights: Any = None,
                        cut: int | Callable[..., Any] | None = None, n_in: int = 3,
                        init: Callable[..., Any] | None = nn.init.kaiming_normal_, custom_head: nn.Module | None = None,
                        **head: Unpack[HeadArguments]) -> nn.Sequential:
    """`Sequential(body, head)` of an architecture: [B,n_in,H,W] -> [B,n_out].

    Args:
        arch: a function that makes a model (`resnet18`), its dotted name (see `arch_name`), or a timm name.
        n_out: numbers to predict for each item.
        pretrained: load the weights that the architecture is known for.
        weights: which: a torchvision enum member or its name, or the path of a file with a state dict.
        cut: where the body ends: the index of the first child that belongs to the head, or a function model -> body;
            default: as `model_meta` says.
        n_in: input channels.
        init: for the weights of the head.
        custom_head: a head of your own; takes the body's features.
        **head: of `create_head`.

    Raises:
        WeightsNotFoundError: the pretrained weights are not to be had.
        ValueError: the weights do not fit; the architecture cannot be cut or takes no other channels.

    Example:
        >>> model = create_vision_model(resnet18, n_out=10, pretrained=False)
        >>> model(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 10])
    """
    arch = arch_from_name(arch)
    if isinstance(arch, str):
        return create_timm_model(arch, n_out, cut, pretrained, n_in, init, custom_head, weights=weights, **head)[0]
    body = _body(arch, pretrained, weights, cut, n_in)
    nf = num_features_model(nn.Sequential(*body.children())) if custom_head is None else None
    return add_head(body, nf, n_out, init, custom_head, **head)


@hands_on(create_head, HeadArguments, after='custom_head', more=True)
def create_timm_model(arch: str, n_out: int, cut: int | Callable[..., Any] | None = None, pretrained: bool = True,
                      n_in: int = 3, init: Callable[..., Any] | None = nn.init.kaiming_normal_,
                      custom_head: nn.Module | None = None, weights: Any = None,
                      **kwargs: Unpack[HeadAndMore]) -> tuple[nn.Sequential, dict[str, Any]]:
    """`Sequential(TimmBody, head)` and timm's configuration (`mean`, `std`, ...) of an architecture known to timm.

    Args:
        arch: timm's name.
        n_out: numbers to predict for each item.
        cut: has no effect, as timm leaves its own head away.
        pretrained: load timm's weights.
        n_in: input channels.
        init: for the weights of the head.
        custom_head: a head of your own; takes the body's features.
        **head: of `create_head`; `pool` has no effect, as timm says whether its features need pooling.
        weights: the path of a file, in place of timm's own.
        kwargs: for `timm.create_model`.

    Whatever file timm reads on the way (`checkpoint_path`, `pretrained_cfg`, its caches), tensors alone are read of it.

    Raises:
        ImportError: timm is not installed.
        ValueError: a file holds more than tensors, or values that no weights have.
    """
    head, kwargs = head_arguments(kwargs)
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
    whole = add_head(body, model.num_features, n_out, init, custom_head, **{**head, 'pool': body.needs_pool})
    return whole, model.default_cfg


class UnetLearnerArguments(UnetArguments, total=False):
    """Those of `UnetArguments`, and of the body."""

    n_in: int
    cut: int | Callable[..., Any] | None


@hands_on(DynamicUnet, UnetArguments, after='n_in', more=True)
def create_unet_model(arch: Arch | str, n_out: int, img_size: tuple[int, int], pretrained: bool = True,
                      weights: Any = None, cut: int | Callable[..., Any] | None = None, n_in: int = 3,
                      **kwargs: Unpack[UnetArguments]) -> DynamicUnet:
    """A `DynamicUnet` on the body of an architecture: [B,n_in,H,W] -> [B,n_out,H,W].

    Names in place of `act_cls` (a class of `torch.nn`) and `norm_type` (a `NormType`) are known too.

    Args:
        arch: a function that makes a model (`resnet34`) or its dotted name.
        n_out: output channels.
        img_size: (height, width) of the pictures the layers are laid out for.
        pretrained: load the weights that the architecture is known for.
        weights: which: a torchvision enum member or its name, or the path of a file with a state dict.
        cut: where the body ends: the index of the first child that is left out, or a function model -> body;
            default: as `model_meta` says.
        n_in: input channels.
        **unet: of `DynamicUnet`.
        kwargs: for every `ConvLayer`.
    """
    arch = arch_from_name(arch)
    if isinstance(arch, str):
        raise ValueError(f'a U-Net needs a body whose layers are in a row; {arch!r} is a timm name: '
                         'give a function such as models.resnet34')
    if isinstance(kwargs.get('act_cls'), str):
        kwargs['act_cls'] = getattr(nn, kwargs['act_cls'])
    if isinstance(kwargs.get('norm_type'), str):
        kwargs['norm_type'] = NormType[kwargs['norm_type']]
    return DynamicUnet(_body(arch, pretrained, weights, cut, n_in), n_out, as_size(img_size, 'img_size'), **kwargs)


def create_cnn_model(*args: Any, **kwargs: Any) -> nn.Sequential:
    """`create_vision_model` under the name older code uses; `args` and `kwargs` are handed on."""
    warn('create_cnn_model is now called create_vision_model')
    return create_vision_model(*args, **kwargs)


# ---------------------------------------------------------------- recipes

def model_recipe(builder: Callable[..., Any], arch: Arch | str, **kwargs: Any) -> dict[str, Any] | None:
    """How to build a model again, as data: `{'builder': dotted name, 'kwargs': {...}}`, for files that hold no code.

    Pretrained weights and initialisation are left away: the file brings its own weights.

    Args:
        builder: a function of `minifast.vision.learner` that makes models, such as `create_vision_model`.
        arch: its architecture.
        **kwargs: its other arguments.

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
