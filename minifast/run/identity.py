"""What makes a training the one it is, as plain data: data, model, loss, optimizer, schedule, transforms, settings.

A `RunIdentity` is taken once a fit, before the fit changes anything. Nothing in it is ever run: it is compared.
"""
from __future__ import annotations

import functools
import json
import os
import types
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from fastcore.foundation import L
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Subset

from minifast.arguments import kept_arguments
from minifast.codetext import package_of
from minifast.data.pipeline import Pipeline, transform_config
from minifast.environment import environment
from minifast.plaindata import GENERATORS
from minifast.run.fingerprint import (UNKNOWN, code_of_forward, digest, fingerprint, from_a_library, name_of,
                                      own_settings)
from minifast.run.items import Column, Files, Tables, columns_of, is_path, pairs_of
from minifast.seeds import looking
from minifast.torch_core import get_model
from minifast.training_state import own_loader

__all__ = ['RunIdentity', 'note_what_moved', 'read_tables', 'run_identity']


# ---------------------------------------------------------------- what changes by itself

_moving: dict[int, tuple[weakref.ref, set[str]]] = {}


class _Watched:
    """Objects whose attributes are part of the identity, and what they were when a fit began."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, Callable[[Any], dict], dict[str, Any]]] = []

    def __call__(self, obj: Any, describe: Callable[[Any], dict]) -> dict[str, Any]:
        """`describe(obj)`, without what changed by itself in an earlier fit of this process."""
        found = describe(obj)
        self.seen.append((obj, describe, found))
        ref, names = _moving.get(id(obj), (lambda: None, set()))
        return {k: UNKNOWN if ref() is obj and k in names else v for k, v in found.items()}


def note_what_moved(identity: RunIdentity) -> None:
    """A fit has ended: attributes that changed meanwhile (a cache, a counter) are no part of who the run is."""
    for obj, describe, then in identity.watched.seen:
        now = describe(obj)
        moved = {name for name in then if now.get(name) != then[name]} | (now.keys() - then.keys())
        if moved:
            try:
                ref = weakref.ref(obj, lambda _, key=id(obj): _moving.pop(key, None))
            except TypeError:  # a list or a tuple of the user's
                continue
            known = _moving.get(id(obj))
            _moving[id(obj)] = ref, moved | (known[1] if known and known[0]() is obj else set())
    identity.watched.seen.clear()


# ---------------------------------------------------------------- the parts

_splits = ('training', 'validation')


def _split_name(i: int) -> str:
    return _splits[i] if i < 2 else f'loader {i}'


def _is_ours(ds: Any) -> bool:
    return package_of(type(ds)) == 'minifast'


def _own_data(ds: Any) -> dict[str, Any]:
    """The attributes of a data set, loader or sampler of the user's that are data; functions are its transforms."""
    if not hasattr(ds, '__dict__') or _is_ours(ds):
        return {}
    kept = {k: v for k, v in vars(ds).items()
            if not _acts(v) and not isinstance(v, GENERATORS) and not k.startswith('__')}
    kept = {k: v for k, v in kept.items() if k not in ('dataset', 'datasets', 'indices', 'data_source', 'samples')}
    return {k: fingerprint(v) for k, v in kept.items() if not _names_files(v, ds)}


def _acts(x: Any) -> bool:
    return callable(x) and not isinstance(x, (Tensor, np.ndarray))


def _bases(ds: Any) -> list[str]:
    """Where the files may lie that a data set of the user's names: its attributes that are folders."""
    own = vars(ds).values() if hasattr(ds, '__dict__') else ()
    return ['', *(os.fspath(v) for v in own if isinstance(v, (str, PurePath)) and os.path.isdir(v))]


def _names_files(x: Any, ds: Any) -> bool:
    return isinstance(x, (list, tuple, L)) and len(x) > 0 and (
        is_path(x[0], _bases(ds)) or (isinstance(x[0], tuple) and len(x[0]) > 0 and is_path(x[0][0], _bases(ds))))


def _below(ds: Any) -> list[Any]:
    """A data set and those that it is a part or a sum of."""
    return [ds, *(inner for part in (getattr(ds, 'datasets', None) or [getattr(ds, 'dataset', None)])
                  if part is not None for inner in _below(part))] if isinstance(ds, (Subset, ConcatDataset)) else [ds]


def _one_split(dl: Any, name: str, files: Files, watched: _Watched, tables: Tables) -> dict[str, Any]:
    ds = getattr(dl, 'dataset', None)
    ds = dl if ds is None else ds
    columns = columns_of(ds) or {}
    n = getattr(dl, 'n', None) if own_loader(dl) else None
    if columns:
        tables[name] = {key: files.add(key, values[:n]) for key, values in columns.items()}
    found: dict[str, Any] = {'class': name_of(type(ds)), 'n': len(ds) if hasattr(ds, '__len__') else None}
    for depth, part in enumerate(_below(ds)):
        key = 'data set' + "'s data set" * depth
        found[key] = watched(part, _own_data) if not isinstance(part, (list, tuple, L)) else {}
        for attribute, value in (vars(part).items() if found[key] is not None and hasattr(part, '__dict__') else ()):
            if not _is_ours(part) and attribute != 'samples' and _names_files(value, part):
                tables[f'{name} {attribute}'] = {key: files.add(f'{attribute} {key}', values, _bases(part))
                                                 for key, values in pairs_of(value).items()}
    samplers = [s for s in (getattr(dl, 'sampler', None), getattr(dl, 'batch_sampler', None)) if s is not None]
    found['order'] = [{'class': name_of(type(s)), **watched(s, _own_sampling)} for s in samplers]
    found['draw'] = [fingerprint(vars(dl).get(k)) for k in ('wgts', 'partial_n')] if own_loader(dl) else []
    return found


def _own_sampling(sampler: Any) -> dict[str, Any]:
    if not hasattr(sampler, '__dict__'):
        return {'data': fingerprint(sampler)}
    told_elsewhere = ('data_source', 'dataset', 'generator', 'sampler', 'batch_size', 'drop_last')
    return {k: fingerprint(v) for k, v in vars(sampler).items()
            if k not in told_elsewhere and not isinstance(v, GENERATORS)}


def _data(learn: Any, watched: _Watched) -> tuple[dict[str, Any], Tables]:
    files, tables = Files(), {}
    found = {_split_name(i): _one_split(dl, _split_name(i), files, watched, tables)
             for i, dl in enumerate(learn.dls)}
    files.look()
    vocab = getattr(learn.dls, 'vocab', None)
    found['vocab'] = fingerprint(list(vocab) if hasattr(vocab, '__iter__') and not isinstance(vocab, str) else vocab)
    found['items'] = {name: {key: column.digests() for key, column in columns.items()}
                      for name, columns in tables.items()}
    return found, tables


def _model(model: nn.Module, watched: _Watched) -> dict[str, Any]:
    def lazy(x: Tensor | None) -> bool:
        return x is not None and (x.is_nested or isinstance(x, (nn.UninitializedParameter, nn.UninitializedBuffer)))
    modules, own, code = {}, {}, {}
    for name, m in model.named_modules():
        if from_a_library(type(m)):
            told = UNKNOWN if any(map(lazy, (*m._parameters.values(), *m._buffers.values()))) else m.extra_repr()
            modules[name] = f'{name_of(type(m)).replace(".Lazy", ".")}({told})'
        else:
            modules[name], own[name], code[name] = name_of(type(m)), watched(m, own_settings), code_of_forward(m)
    tensors = {name: UNKNOWN if lazy(t) else f'{str(t.dtype).removeprefix("torch.")} {list(t.shape)}'
               for name, t in model.state_dict(keep_vars=True).items() if isinstance(t, Tensor)}
    return {'modules': modules, 'weights': tensors, 'settings': own, 'code': code}


def _optimizer(learn: Any) -> dict[str, Any]:
    opt = getattr(learn.opt, 'opt', learn.opt)
    func, given = learn.opt_func, {}
    while isinstance(func, functools.partial):
        func, given = func.func, {**func.keywords, **given}
    given = {name: value for name, value in given.items() if name not in ('lr', 'wd', 'weight_decay')}
    made_by = {'class': name_of(type(func))} if isinstance(func, torch.optim.Optimizer) else fingerprint(func)
    # what the state of each parameter says since it was made; told where they are not as usual
    unusual = {name: value for name, value in (('wd_bn_bias', True), ('train_bn', False))
               if bool(getattr(learn, name)) is value}
    return {'class': name_of(type(opt)), 'made by': made_by, 'arguments': fingerprint(given),
            'groups': [len(group['params']) for group in learn.opt.param_groups], **unusual}


def _schedule(learn: Any, asked: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: fingerprint(value) for name, value in asked.items()}
    for cb in learn.cbs:
        scheds = vars(cb).get('scheds')
        if isinstance(scheds, Mapping):
            found.update({f'schedule of {name}': _course(f) for name, f in scheds.items()})
    return found


def _course(f: Callable) -> Any:
    """A schedule by its values: nine of them where it is ours and so a pure function, else as any function."""
    if not from_a_library(f if hasattr(f, '__qualname__') else type(f)):
        return fingerprint(f)
    try:
        values = [np.asarray(f(i / 8), dtype=float) for i in range(9)]
    except (TypeError, ValueError, IndexError, ZeroDivisionError, OverflowError):
        return fingerprint(f)
    return [[float(f'{v:.6g}') for v in value.ravel()] if value.ndim else float(f'{value:.6g}') for value in values]


def _transforms(learn: Any) -> dict[str, Any]:
    found: dict[str, dict] = {}
    for i, dl in enumerate(learn.dls):
        kept = {name: vars(dl).get(name) for name in ('after_item', 'before_batch', 'after_batch', 'create_batch')
                } if own_loader(dl) else {'collate_fn': getattr(dl, 'collate_fn', None)}
        ds = getattr(dl, 'dataset', None)
        for k, tl in enumerate(vars(ds).get('tls', ()) if hasattr(ds, '__dict__') else ()):
            kept[f'transforms of element {k}'] = tl.tfms
        for part in _below(ds):
            if hasattr(part, '__dict__') and not _is_ours(part):
                kept.update({k: v for k, v in vars(part).items() if _acts(v)})
        for name, value in kept.items():
            if value is not None:
                found.setdefault(name, {})[_split_name(i)] = _transform(value)
    return found


def _transform(tfm: Any) -> Any:
    if isinstance(tfm, Pipeline):
        return [_transform(f) for f in tfm.fs]
    try:
        return transform_config(tfm)
    except (TypeError, AttributeError):
        inner = getattr(tfm, 'tfm', tfm)
    if isinstance(inner, nn.Module) or type(inner).__module__.startswith('torchvision'):
        return repr(inner)
    if isinstance(inner, types.FunctionType) or not hasattr(inner, '__dict__'):
        return fingerprint(inner)
    if '_name' in vars(inner):
        return [fingerprint(entry.func) for entry in inner.encodes.entries]
    # what it was made with; other attributes may be what it drew last
    return {'class': name_of(type(inner)), **_arguments(inner)}


def _arguments(x: Any) -> dict[str, Any]:
    return {name: fingerprint(value) for name, value in kept_arguments(x).items()}


_watchers = tuple(f'minifast.callback.{room}' for room in (
    'core', 'progress', 'recorder', 'tracking', 'tensorboard', 'wandb', 'mlflow', 'data', 'preds', 'hook', 'checkpoint',
    'schedule'))


def _settings(learn: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for i, dl in enumerate(learn.dls):
        of = f'of {_split_name(i)}'
        if own_loader(dl):
            found[f'batch size {of}'] = dl.bs
            found |= {f'shuffle {of}': dl.shuffle, f'drop_last {of}': dl.drop_last}
        else:
            found[f'batch size {of}'] = getattr(dl, 'batch_size', None)
            # what torch's workers draw depends on how many they are
            found |= {f'{name} {of}': getattr(dl, kept, None)
                      for name, kept in (('drop_last', 'drop_last'), ('workers', 'num_workers'))}
    found['precision'] = environment(learn).get('precision')
    found['metrics'] = [str(getattr(m, 'name', m)) for m in learn.metrics]
    seed = torch.initial_seed()
    found['seed'] = seed if seed < 1 << 32 else UNKNOWN  # a larger one nobody chose
    for cb in learn.cbs:
        if type(cb).__module__ not in _watchers:
            found[f'callback {cb.name}'] = {'class': name_of(type(cb)), **_arguments(cb)}
    return found


def _environment(learn: Any) -> dict[str, Any]:
    env = environment(learn)
    device = getattr(learn.dls, 'device', None) or env.get('device', 'cpu')
    return {'torch': env['torch'], 'minifast': env['minifast'], 'git revision': env['git'] or UNKNOWN,
            'python': '.'.join(env['python'].split('.')[:2]), 'device': str(device).split(':')[0]}


@dataclass
class RunIdentity:
    """Who a run is.

    Attributes:
        parts: 'data', 'model', 'loss', 'optimizer', 'schedule', 'transforms', 'settings', 'environment' as plain data.
        tables: what is too long for every checkpoint: the items of each split in order, as columns.
        watched: objects that may change by themselves.
    """

    parts: dict[str, Any]
    tables: Tables = field(default_factory=dict)
    watched: _Watched = field(default_factory=_Watched)

    @property
    def tables_digest(self) -> str:
        """A name for exactly these tables."""
        return digest([json.dumps(self.parts['data']['items'])])

    def tables_json(self) -> str:
        """The tables as a text."""
        return json.dumps({name: {key: vars(column) for key, column in columns.items()}
                           for name, columns in self.tables.items()}, separators=(',', ':'))


def read_tables(text: str | None, digests: Mapping[str, Any]) -> Tables | None:
    """The tables from a text; None where it is not the one that the digests in a checkpoint belong to."""
    try:
        tables = {name: {key: Column(**column) for key, column in columns.items()}
                  for name, columns in json.loads(text or '').items()}
        same = {name: {key: c.digests() for key, c in columns.items()} for name, columns in tables.items()} == digests
    except (ValueError, TypeError, AttributeError, KeyError):
        return None
    return tables if same else None


def run_identity(learn: Any, asked: Mapping[str, Any]) -> RunIdentity:
    """The identity of the fit that is about to start; nothing is drawn and no item is made.

    Args:
        learn: the learner, with its optimizer.
        asked: what the fit was asked for: `n_epoch`, `lr`, `wd`, `start_epoch`.
    """
    watched = _Watched()
    with looking():
        data, tables = _data(learn, watched)
        loss = learn.loss_func
        described = watched(loss, lambda f: fingerprint(f)) if hasattr(loss, '__dict__') else fingerprint(loss)
        parts = {'data': data, 'model': _model(get_model(learn.model), watched), 'loss': described,
                 'optimizer': _optimizer(learn), 'schedule': _schedule(learn, asked), 'transforms': _transforms(learn),
                 'settings': _settings(learn), 'environment': _environment(learn)}
    return RunIdentity(json.loads(json.dumps(parts, default=str)), tables, watched)
