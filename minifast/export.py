"""A learner taken elsewhere: as one file of data, as a plain `nn.Module`, as ONNX.

The file has all that prediction needs, as tensors and JSON, never code; `docs/export_format.md` tells the format. The
module is of normalisation, model and activation, and needs no minifast.
"""
from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import Dataset

from minifast.arguments import tells_near_match
from minifast.callback.channelslast import ChannelsLast
from minifast.callback.core import as_measured
from minifast.callback.fp16 import AutoPrecision
from minifast.checkpoint import check_model_state, load_weights
from minifast.data.core import DataLoaders, Datasets, TfmdDL, TfmdLists
from minifast.data.transform import Pipeline
from minifast.data.transforms import IntToFloatTensor, Normalize
from minifast.describe import (build_kinds, build_loss, build_model, build_pipeline, build_types, describe_kinds,
                               describe_loss, describe_model, describe_pipeline, describe_types, refusing)
from minifast.distributed import rank_distrib
from minifast.environment import environment
from minifast.hardware import fast_paths
from minifast.limits import EXPORT, check_tree
from minifast.sharding import in_shares, whole_model
from minifast.tensorfile import UnsafeFileError, read_tensors, storable, write_atomic
from minifast.terminal import warn
from minifast.torch_core import default_device, get_model

__all__ = ['FORMAT', 'VERSION', 'export_learner', 'read_export', 'to_onnx', 'to_torch']

FORMAT, VERSION = 'minifast-export', 1
_JSON_LIMIT, _VALUES_LIMIT, _CONTAINERS_LIMIT = 64 << 20, 1 << 22, 1 << 18
_STAGES = ('after_item', 'before_batch', 'after_batch')


# ---------------------------------------------------------------- writing

def export_learner(learn: Any, fname: str | Path) -> Path:
    """Write the model, the transforms and the classes of `learn` to `fname`; the learner is left as it is.

    Functions and classes of the user's own are written down by name, and asked for when the export is loaded and needs
    them. Optimizer, metrics, callbacks and data are not in the file; the weights are those that validation measures,
    with `EMACallback` the average. Only the first process of several writes; a model in shares needs all of them.

    Raises:
        OSError: the storage failed; an old file is untouched.
    """
    path, model = Path(fname), get_model(learn.own_model)
    if in_shares(model):
        with as_measured(learn.cbs):
            model = whole_model(model)
    if rank_distrib():
        return path
    named: dict[str, list] = {}  # code of the user's
    meta = {'made_with': environment(learn), 'model': describe_model(learn, model),
            'data': _describe_data(learn.dls, named), 'loss': describe_loss(learn.own_loss, named),
            'learner': _settings(learn)}
    _tell_what_to_give(meta, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with as_measured(learn.cbs):
        write_atomic(path, {'format': FORMAT, 'version': VERSION, 'meta': json.dumps(meta, allow_nan=False),
                            'model': storable(model.state_dict(), "the model's state")})
    return path


def _tell_what_to_give(meta: dict[str, Any], path: Path) -> None:
    """Name in a warning what of the user's code `load_learner` will ask for: a model, transforms, a loss."""
    data, loss = meta['data'], meta['loss']
    items = data['items'] or []
    inputs = items if data.get('single') else items[:data['n_inp'] or max(len(items) - 1, 1)]
    configs = [config for item in inputs for config in item['tfms']] + [c for s in _STAGES for c in data.get(s, ())]
    names = [config['user'] for config in configs if 'user' in config]
    given = [] if meta['model']['recipe'] is not None else [f'model={meta["model"]["class"].split(".")[-1]}(...)']
    what = 'predict' if given or names or loss.get('has') else 'measure losses'
    names += [loss['user']] if 'user' in loss else []
    if names:
        given.append(f'functions={{{", ".join(f"{name!r}: ..." for name in dict.fromkeys(names))}}}')
    if given:
        warn(f'{path} holds data, no code, and this learner uses code of your own: to {what} with it, '
             f'load_learner(file, {", ".join(given)})')


def _describe_data(dls: Any, named: dict[str, list]) -> dict[str, Any]:
    """Transforms and classes of the validation loader; of a foreign loader the classes alone."""
    dl = dls[1] if len(dls) > 1 else dls[0]
    own = {name: _plain(vars(dls)[name]) for name in ('vocab', 'c') if name in vars(dls)}
    if 'c' not in own and not hasattr(dls, 'vocab') and isinstance(getattr(dls, 'c', None), int):
        own['c'] = dls.c  # how many numbers an item has was counted in the data, which the export has not
    found = {'set_by_user': own, 'bs': getattr(dl, 'batch_size', None), 'n_inp': getattr(dls, 'n_inp', None)}
    dataset = getattr(dl, 'dataset', None)
    lists = getattr(dataset, 'tls', None) if isinstance(dataset, Datasets) else (
        [dataset] if isinstance(dataset, TfmdLists) else None)
    if lists is None:
        return {**found, 'items': None, 'classes': _plain(getattr(dataset, 'classes', None))}
    items = [{'tfms': describe_pipeline(tl.tfms, named), 'types': describe_types(tl.types)} for tl in lists]
    stages = {stage: getattr(dl, stage) for stage in _STAGES}
    kinds = dl._batch_kinds() if dl._kinds is not None or len(dataset) else None
    return {**found, 'items': items, 'single': isinstance(dataset, TfmdLists), 'kinds': describe_kinds(kinds),
            **{stage: describe_pipeline(tfms, named) if isinstance(tfms, Pipeline) else []
               for stage, tfms in stages.items()}}


def _plain(x: Any) -> Any:
    """Classes as what JSON holds."""
    if x is None or isinstance(x, (bool, int, float)):
        return x
    if isinstance(x, str):
        return str(x)
    if isinstance(x, Mapping):
        return {str(k): _plain(v) for k, v in x.items()}
    if hasattr(x, 'item') and getattr(x, 'ndim', 1) == 0:
        return x.item()  # sync: a class that is a number, once an export
    return [_plain(o) for o in x] if hasattr(x, '__iter__') else str(x)


def _settings(learn: Any) -> dict[str, Any]:
    lr = [learn.lr.start, learn.lr.stop] if isinstance(learn.lr, slice) else learn.lr
    found = {'lr': lr, 'wd': learn.wd, 'moms': list(learn.moms), 'wd_bn_bias': learn.wd_bn_bias,
             'train_bn': learn.train_bn, 'channels_last': _channels_last(learn)}
    return {name: _plain(value) for name, value in found.items()}


def _channels_last(learn: Any) -> bool:
    """Whether predictions run with channels-last weights: the last bits depend on it."""
    if any(isinstance(cb, ChannelsLast) or (isinstance(cb, AutoPrecision) and fast_paths('cpu').channels_last)
           for cb in learn.cbs):
        return True
    return any(p.ndim == 4 and not p.is_contiguous() and p.is_contiguous(memory_format=torch.channels_last)
               for p in learn.model.parameters())


# ---------------------------------------------------------------- reading

def read_export(fname: str | Path, cpu: bool = True, model: nn.Module | None = None,
                functions: Mapping[str, Callable[..., Any]] | None = None) -> dict[str, Any]:
    """The arguments of the `Learner` that was exported: `dls`, `model`, `loss_func`, `path` and settings, and `recipe`.

    Args:
        fname: the file.
        cpu: predict on the CPU; False: where new learners run.
        model: the model to fill, needed where the export tells its class only.
        functions: the author's own functions, transforms and losses by the names that the export tells.

    Raises:
        FileNotFoundError, DamagedFileError, UnsafeFileError: see `minifast.tensorfile.read_tensors`.
        ValueError: it is no export, of a newer format, or needs a model that was not given or does not fit.
    """
    path = Path(fname)
    state, meta = _read(path)
    functions = dict(functions or {})
    model = _model(model, meta['model'], state, path)
    device = 'cpu' if cpu else default_device()
    with refusing(path, 'what it tells of its data makes no sense'):
        dls = _build_data(meta['data'], functions, device, path)
    settings = _read_settings(meta['learner'])
    model.to(device)
    if settings.pop('channels_last', False):
        model.to(memory_format=torch.channels_last)
    learner = {'dls': dls, 'model': model, 'loss_func': build_loss(meta['loss'], functions, path),
               'path': path.parent, **settings}
    return {'learner': learner, 'recipe': meta['model'].get('recipe')}


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights and the JSON of an export, of which every name, type and number has been checked."""
    found = read_tensors(path)
    if not isinstance(found, dict) or found.get('format') != FORMAT:
        raise ValueError(f'{path} is a file of tensors and no export: exports are written by learn.export(); weights '
                         'are read into a learner by learn.load')
    if type(found.get('version')) is not int or not 0 < found['version'] <= VERSION:
        raise ValueError(f'{path} has the export format {found.get("version")!r}, this minifast reads up to {VERSION}: '
                         'install a newer one')
    text = found.get('meta')
    if not isinstance(text, str) or len(text) > _JSON_LIMIT:
        raise UnsafeFileError(f'{path}: the description in it is malformed')
    with refusing(path, 'the description in it is malformed'):
        # in memory each value takes many times what it takes in the text
        if text.count(',') > _VALUES_LIMIT or text.count('[') + text.count('{') > _CONTAINERS_LIMIT:
            raise ValueError('it holds too many values')
        meta = json.loads(text, object_pairs_hook=_each_once, parse_constant=_no_number)
        check_tree(meta)
    parts = ('model', 'loss', 'data', 'learner')
    if not isinstance(meta, dict) or not all(isinstance(meta.get(part), dict) for part in parts):
        raise UnsafeFileError(f'{path}: the description in it lacks one of {", ".join(parts)}')
    with refusing(path, 'the description in it makes no sense'):
        EXPORT.check(meta, '')
    if not isinstance(found.get('model'), dict):
        raise UnsafeFileError(f'{path} holds no weights')
    return found['model'], meta


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of a name given twice one reader takes the first, another the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError('a name is given twice')
    return found


def _no_number(text: str) -> None:
    raise ValueError(f'{text} is no number of JSON')


def _model(model: nn.Module | None, described: dict[str, Any], state: dict[str, Tensor], path: Path) -> nn.Module:
    if model is None and described.get('recipe') is None:
        name = described['class']
        raise ValueError(f'{path} was exported with a model of the class {name}, which is not made by minifast, and '
                         f'exports hold no code: make it and give it, load_learner(file, '
                         f'model={name.split(".")[-1]}(...))')
    if model is None:
        model = build_model(described['recipe'], state, path)
    check_model_state(get_model(model), state, path)
    load_weights(get_model(model), state, path)
    return model.eval()


def _read_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with a list of two rates as a slice, of momenta as a tuple."""
    found = dict(settings)
    if isinstance(found.get('lr'), list):
        found['lr'] = slice(*found['lr'])
    if 'moms' in found:
        found['moms'] = tuple(found['moms'])
    return found


class _NoItems(Dataset):
    """The data of an export of a learner on plain torch loaders: none.

    Args:
        classes: the names of the classes, or None.
    """

    def __init__(self, classes: list | None) -> None:
        self.classes = classes

    def __len__(self) -> int:
        return 0

    def __getitem__(self, i: int) -> Any:
        """
        Raises:
            IndexError: always.
        """
        raise IndexError('an exported learner holds no data')


def _build_data(data: dict[str, Any], functions: Mapping[str, Any], device: Any, path: Path) -> DataLoaders:
    """Empty loaders with the transforms and the classes of the exported ones."""
    bs = data.get('bs') or 64
    if data.get('items') is None:
        classes = data.get('classes')
        dls = DataLoaders(*[TorchLoader(_NoItems(classes), batch_size=bs) for _ in range(2)], device=device)
    else:
        dls = _own_data(data, functions, bs, device, path)
    for name, value in data['set_by_user'].items():
        setattr(dls, name, value)
    return dls


def _own_data(data: dict[str, Any], functions: Mapping[str, Any], bs: int, device: Any, path: Path) -> DataLoaders:
    n_inp = data.get('n_inp')
    if not data.get('single') and (n_inp or 0) > len(data['items']):
        raise UnsafeFileError(f'{path}: the transforms of its items are fewer than n_inp={n_inp}')
    lists = [TfmdLists([], build_pipeline(part['tfms'], functions, path), do_setup=False, split_idx=1,
                       types=build_types(part.get('types'))) for part in data['items']]
    dataset = lists[0] if data.get('single') else Datasets(tls=lists, n_inp=n_inp)
    stages = {stage: build_pipeline(data.get(stage, []), functions, path) for stage in _STAGES}
    loaders = [TfmdDL(dataset, bs=bs, num_workers=0, device=device, do_setup=False, **stages) for _ in range(2)]
    for dl in loaders:
        dl._kinds = build_kinds(data.get('kinds'), path)
    return DataLoaders(*loaders, device=device)


# ---------------------------------------------------------------- models for use without minifast

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
        parts.append(whole_model(get_model(learn.model)).cpu().to(memory_format=torch.contiguous_format))
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

    The weights come to lie beside it, in `FNAME.data`: the two go together.

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
