"""Learners for pictures: a pretrained body, a fresh head, the data normalized as the body knows it."""
from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from fastcore.foundation import L
from torch import nn
from typing_extensions import Unpack

from minifast.callback.core import Callback
from minifast.callback.fp16 import AutoPrecision, MixedPrecision
from minifast.data.core import DataLoaders
from minifast.data.transforms import Normalize, get_c
from minifast.interpret import plot_top_losses
from minifast.learner import Learner
from minifast.optimizer import Adam
from minifast.terminal import warn
from minifast.torch_core import check_kwargs, defaults
from minifast.vision.data import show_results
from minifast.vision.models.create import _resnet_split as _resnet_split  # private in fastai, and taken from here too
from minifast.vision.models.create import (HeadAndMore, HeadArguments, TimmBody, UnetLearnerArguments, add_head,
                                           arch_from_name, create_body, create_cnn_model, create_head,
                                           create_timm_model, create_unet_model, create_vision_model, cut_model,
                                           default_split, hands_on, has_pool_type, head_arguments, meta_of, model_meta,
                                           model_recipe)
from minifast.vision.models.create import update_first_layer as _update_first_layer  # noqa: F401
from minifast.vision.models.weights import WeightsNotFoundError

__all__ = ['TimmBody', 'WeightsNotFoundError', 'add_head', 'cnn_learner', 'create_body', 'create_cnn_model',
           'create_head', 'create_timm_model', 'create_unet_model', 'create_vision_model', 'cut_model', 'default_split',
           'has_pool_type', 'model_meta', 'plot_top_losses', 'show_results', 'unet_learner', 'vision_learner']


def _add_norm(dls: DataLoaders, meta: dict[str, Any], pretrained: bool, n_in: int = 3) -> None:
    """Append `Normalize` with the statistics the weights were trained with, where the data have no `Normalize` yet.

    Plain torch loaders have no batch transforms; what their dataset yields is taken as normalized.
    """
    stats = meta.get('stats')
    if not pretrained or stats is None or n_in != len(stats[0]) or not hasattr(dls, 'after_batch'):
        return
    if not any(isinstance(tfm, Normalize) for tfm in dls.after_batch.fs):
        dls.add_tfms([Normalize.from_stats(*stats)], 'after_batch')


def _outputs(dls: DataLoaders, n_out: int | None) -> int:
    """How many numbers the model gives for an item: `n_out`, else what the data say."""
    n_out = get_c(dls) if n_out is None else n_out
    if not n_out:
        raise ValueError('n_out is not given and the data do not tell it: pass n_out=, or set dls.c')
    return n_out


_precisions: dict[str, Callable[[], Callback] | None] = {
    'auto': AutoPrecision, 'fp32': None, 'bf16': partial(MixedPrecision, 'bf16'), 'fp16': MixedPrecision}


def _with_precision(cbs: Any, precision: str) -> L:
    """The user's callbacks behind that of the precision; one of their own takes its place."""
    if precision not in _precisions:
        raise ValueError(f'precision={precision!r} is none of {", ".join(_precisions)}')
    own = L(cbs)
    if _precisions[precision] is None or any(isinstance(cb, MixedPrecision) or (
            isinstance(cb, type) and issubclass(cb, MixedPrecision)) for cb in own):
        return own
    return L(_precisions[precision]()) + own


def _finish(learn: Learner, arch: Any, normalize: bool, n_out: int, pretrained: bool, recipe: dict | None,
            **settings: Any) -> Learner:
    """Freeze a pretrained body, keep the arguments on the learner, where trackers read them."""
    if pretrained:
        learn.freeze()
    settings = dict(arch=arch, normalize=normalize, n_out=n_out, pretrained=pretrained, recipe=recipe, **settings)
    for name, value in settings.items():
        setattr(learn, name, value)
    return learn


@hands_on(create_head, HeadArguments, after='custom_head', more=True)
def vision_learner(dls: DataLoaders, arch: Callable[..., Any] | str, normalize: bool = True, n_out: int | None = None,
                   pretrained: bool = True, weights: Any = None, loss_func: Callable[..., Any] | None = None,
                   opt_func: Callable[..., Any] = Adam, lr: float | slice = defaults.lr,
                   splitter: Callable[..., Any] | None = None, cbs: Any = None, metrics: Any = None,
                   path: str | Path | None = None, model_dir: str | Path = 'models', wd: float | None = None,
                   wd_bn_bias: bool = False, train_bn: bool = True,
                   moms: tuple[float, float, float] = (0.95, 0.85, 0.95), cut: int | Callable[..., Any] | None = None,
                   init: Callable[..., Any] | None = nn.init.kaiming_normal_, custom_head: nn.Module | None = None,
                   n_in: int = 3, precision: str = 'auto', strategy: str | None = 'ddp',
                   **kwargs: Unpack[HeadAndMore]) -> Learner:
    """A learner for transfer learning: `Sequential(body, head)`, the body frozen where it is pretrained.

    Args:
        dls: the data; plain torch loaders too, a pair of them too.
        arch: `resnet18` or another function that makes a model; a string is a name of timm's.
        normalize: normalize as the pretrained body knows it, where the data do not normalize yet.
        n_out: numbers to predict for each item; default: what the data say.
        pretrained: load the weights that the architecture is known for.
        weights: which: a torchvision enum member or its name, or the path of a file with a state dict.
        loss_func, opt_func, lr, cbs, metrics, path, model_dir, wd, wd_bn_bias, train_bn, moms, strategy: see `Learner`.
        splitter: model -> parameter groups; default: the architecture's own, body in two and head.
        cut: where the body ends: the index of the first child that belongs to the head, or a function model -> body;
            default: as `model_meta` says.
        init: for the weights of the head.
        custom_head: a head of your own; takes the body's features.
        **head: of `create_head`.
        n_in: input channels.
        precision: 'auto' trains in bfloat16 and channels-last where the hardware is fast at it (see `AutoPrecision`);
            'fp32', 'bf16', 'fp16' say it.
        kwargs: for `timm.create_model`.

    Raises:
        WeightsNotFoundError: the pretrained weights are neither in torch's cache nor to be had; says what to do.
        ValueError: the number of outputs is not known.

    Example:
        >>> learn = vision_learner(dls, resnet18, metrics=error_rate)
        >>> learn.fine_tune(3)
    """
    dls, arch = _as_dls(dls), arch_from_name(arch)
    meta, n_out = meta_of(arch), _outputs(dls, n_out)
    head, kwargs = head_arguments(kwargs)
    model_args = dict(init=init, custom_head=custom_head, n_in=n_in, **head)
    if isinstance(arch, str):
        model, cfg = create_timm_model(arch, n_out, cut, pretrained, weights=weights, **model_args, **kwargs)
        meta = {**meta, 'stats': (cfg['mean'], cfg['std'])}
    else:
        check_kwargs('vision_learner', kwargs, inspect.signature(vision_learner).parameters)
        model = create_vision_model(arch, n_out, pretrained=pretrained, weights=weights, cut=cut, **model_args)
    if normalize:
        _add_norm(dls, meta, pretrained, n_in)
    learn = Learner(dls, model, loss_func=loss_func, opt_func=opt_func, lr=lr, splitter=splitter or meta['split'],
                    cbs=_with_precision(cbs, precision), metrics=metrics, path=path, model_dir=model_dir, wd=wd,
                    wd_bn_bias=wd_bn_bias, train_bn=train_bn, moms=moms, strategy=strategy)
    recipe = model_recipe(create_vision_model, arch, n_out=n_out, n_in=n_in, cut=cut, custom_head=custom_head, **head)
    return _finish(learn, arch, normalize, n_out, pretrained, None if kwargs else recipe, n_in=n_in, **kwargs)


@hands_on(create_unet_model, UnetLearnerArguments, more=True)
def unet_learner(dls: DataLoaders, arch: Callable[..., Any], normalize: bool = True, n_out: int | None = None,
                 pretrained: bool = True, weights: Any = None, config: dict[Any, Any] | None = None,
                 loss_func: Callable[..., Any] | None = None, opt_func: Callable[..., Any] = Adam,
                 lr: float | slice = defaults.lr, splitter: Callable[..., Any] | None = None, cbs: Any = None,
                 metrics: Any = None, path: str | Path | None = None, model_dir: str | Path = 'models',
                 wd: float | None = None, wd_bn_bias: bool = False, train_bn: bool = True,
                 moms: tuple[float, float, float] = (0.95, 0.85, 0.95), precision: str = 'auto',
                 strategy: str | None = 'ddp', **kwargs: Unpack[UnetLearnerArguments]) -> Learner:
    """A learner with a `DynamicUnet`, laid out for the size of the pictures in the first batch.

    Args:
        dls: the data: pictures [B,n_in,H,W].
        arch: `resnet34` or another function that makes a model.
        normalize: normalize as the pretrained body knows it, where the data do not normalize yet.
        n_out: output channels; default: what the data say (the number of classes).
        pretrained: load the weights that the architecture is known for.
        weights: which: a torchvision enum member or its name, or the path of a file with a state dict.
        config: older code's way to give the arguments of the model.
        loss_func, opt_func, lr, cbs, metrics, path, model_dir, wd, wd_bn_bias, train_bn, moms, strategy: see `Learner`.
        splitter: model -> parameter groups; default: the architecture's own, body in two and head.
        precision: see `vision_learner`.
        **unet: of `create_unet_model`.
        kwargs: for every `ConvLayer` of the U-Net.

    Raises:
        WeightsNotFoundError: the pretrained weights are neither in torch's cache nor to be had; says what to do.
        ValueError: the number of outputs is not known.

    Example:
        >>> learn = unet_learner(dls, resnet34, metrics=DiceMulti())
        >>> learn.fine_tune(5)
    """
    if config:
        warn('config= is an old way: give its entries to unet_learner directly')
        kwargs = {**config, **kwargs}
    check_kwargs('unet_learner', kwargs, [*inspect.signature(create_unet_model).parameters, *_conv_kwargs])
    dls, arch = _as_dls(dls), arch_from_name(arch)
    meta, n_out = meta_of(arch), _outputs(dls, n_out)
    if normalize:
        _add_norm(dls, meta, pretrained, kwargs.get('n_in', 3))
    batch = dls.one_batch() if hasattr(dls, 'one_batch') else next(iter(dls.train))
    img_size = tuple(batch[0].shape[-2:])
    model = create_unet_model(arch, n_out, img_size, pretrained=pretrained, weights=weights, **kwargs)
    learn = Learner(dls, model, loss_func=loss_func, opt_func=opt_func, lr=lr, splitter=splitter or meta['split'],
                    cbs=_with_precision(cbs, precision), metrics=metrics, path=path, model_dir=model_dir, wd=wd,
                    wd_bn_bias=wd_bn_bias, train_bn=train_bn, moms=moms, strategy=strategy)
    recipe = model_recipe(create_unet_model, arch, n_out=n_out, img_size=img_size,
                          **{k: v for k, v in kwargs.items() if k != 'init'})
    return _finish(learn, arch, normalize, n_out, pretrained, recipe, **kwargs)


_conv_kwargs = ('ks', 'padding', 'bias', 'bn_1st', 'transpose', 'bias_std', 'groups', 'dilation', 'padding_mode')


def _as_dls(dls: Any) -> DataLoaders:
    """The data as they are, a pair of plain loaders as `DataLoaders`."""
    return dls if hasattr(dls, 'train') else DataLoaders(*dls)


def cnn_learner(*args: Any, **kwargs: Any) -> Learner:
    """`vision_learner` under the name older code uses; `args` and `kwargs` are handed on."""
    warn('cnn_learner is now called vision_learner')
    return vision_learner(*args, **kwargs)
