"""The whole state of a training as plain data, and putting it back: what an exact resume needs.

A training is at a *position*: `{'where': 'epoch' | 'train' | 'validate', 'epoch': e, 'batch': b, ...}`, that is before
epoch `e`, in its training part with `b` batches done, or in its validation part.
"""
from __future__ import annotations

import platform
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import IterableDataset

from minifast import __version__
from minifast.checkpoint import check_model_state, check_opt_state, load_opt_state
from minifast.lookup import lookup
from minifast.seeds import get_random_states, set_random_states
from minifast.tensorfile import copied, storable
from minifast.torch_core import get_model

__all__ = ['ReplayedLoader', 'environment', 'generators', 'git_revision', 'inexact_loaders', 'load_training_state',
           'set_generators', 'training_state']

FORMAT, VERSION = 'minifast-training', 1


def own_loader(dl: Any) -> bool:
    """Whether the loader is one of ours, whose batches are a function of (seed, epoch, batch)."""
    return hasattr(dl, 'begin')


def _keeps_state(obj: Any) -> bool:
    # asked of the class: Callback and the loaders pass missing attributes on to other objects
    return callable(getattr(type(obj), 'state_dict', None)) and callable(getattr(type(obj), 'load_state_dict', None))


# ---------------------------------------------------------------- generators

def _loader_generators(dl: Any) -> list[torch.Generator]:
    """The generators that a foreign torch loader was given, each once."""
    owners = [dl, getattr(dl, 'sampler', None), getattr(dl, 'batch_sampler', None),
              getattr(getattr(dl, 'batch_sampler', None), 'sampler', None)]
    found = [getattr(owner, 'generator', None) for owner in owners if not own_loader(dl)]
    found = [g for g in found if isinstance(g, torch.Generator)]
    return [g for i, g in enumerate(found) if all(g is not other for other in found[:i])]


def generators(dls: Any = (), states: dict[str, Any] | None = None) -> dict[str, Any]:
    """The states of Python's, numpy's and torch's global generators, and of those the loaders `dls` were given.

    Args:
        dls: loaders.
        states: what `get_random_states` returned earlier; default: the states now.
    """
    states = storable(get_random_states() if states is None else states, 'the generators')
    return {'global': states, 'loaders': [[g.get_state() for g in _loader_generators(dl)] for dl in dls]}


def set_generators(states: dict[str, Any], dls: Any = ()) -> None:
    """Put back what `generators` returned."""
    found = dict(states['global'])
    kind, keys, *rest = found['numpy_state']
    found['numpy_state'] = (kind, keys.numpy().astype(np.uint32), *rest)  # sync: a state of the host
    version, numbers, gauss = found['random_state']
    found['random_state'] = (version, tuple(numbers), gauss)
    cuda = found.get('torch_cuda_state')
    if cuda is not None and len(cuda) != torch.cuda.device_count():
        warnings.warn(f'the checkpoint has generator states of {len(cuda)} GPUs, here are {torch.cuda.device_count()}: '
                      "the model's randomness on them starts anew", stacklevel=2)
        found['torch_cuda_state'] = None
    set_random_states(**found)
    for dl, own in zip(dls, states['loaders']):
        for generator, state in zip(_loader_generators(dl), own):
            generator.set_state(state)


# ---------------------------------------------------------------- foreign loaders

class ReplayedLoader:
    """A foreign loader that goes on at batch `start`: the batches before are drawn again and thrown away.

    Args:
        dl: the loader.
        start: batches to pass over; None yields nothing at all.
        before: called before the loader's iterator is made.
        after: called when it stands at `start`.
        state: for a loader with `load_state_dict`: its state, and nothing is passed over.
    """

    def __init__(self, dl: Any, start: int | None, before: Any, after: Any, state: dict | None = None) -> None:
        self.dl, self.start, self.before, self.after, self.state = dl, start, before, after, state

    def __len__(self) -> int:
        return len(self.dl)

    def __iter__(self) -> Iterator[Any]:
        if self.start is None:
            return
        self.before()
        if self.state is not None:
            self.dl.load_state_dict(self.state)
        batches = iter(self.dl)
        for _ in range(self.start if self.state is None else 0):
            next(batches, None)
        self.after()
        yield from batches

    def __getattr__(self, name: str) -> Any:
        return lookup(self, name, 'dl')


def inexact_loaders(dls: Any) -> list[str]:
    """Why a resume in the middle of an epoch would not be exact, one sentence a loader that cannot be carried."""
    found = []
    for i, dl in enumerate(dls):
        what = f'loader {i} ({type(dl).__name__})'
        if own_loader(dl) or _keeps_state(dl):
            continue
        if isinstance(dl, TorchLoader):
            if isinstance(dl.dataset, IterableDataset):
                found.append(f'{what} reads a stream: what it yields again after a restart is up to the stream')
            elif dl.num_workers and dl.persistent_workers:
                found.append(f'{what} keeps its workers: random transforms go on in them and cannot be put back')
        elif not isinstance(dl, Sequence):
            found.append(f'{what} has neither state_dict/load_state_dict nor begin(seed, epoch, start_batch)')
    return found


# ---------------------------------------------------------------- taking the state

def environment(learn: Any = None) -> dict[str, Any]:
    """What a training ran on: versions, device, precision, and the git revision of the script where there is one."""
    env = {'minifast': __version__, 'torch': str(torch.__version__), 'python': platform.python_version(),
           'platform': platform.platform(), 'script': Path(sys.argv[0]).name,
           'git': git_revision(Path(sys.argv[0] or '.').resolve().parent)}
    if learn is not None:
        first = next(learn.model.parameters(), None)
        env['device'] = str(first.device) if first is not None else 'cpu'
        precision = vars(learn).get('mixed_precision')
        env['precision'] = 'float32' if precision is None else f'mixed ({getattr(precision, "amp_mode", "")})'
    return env


def git_revision(folder: Path) -> str | None:
    """The commit that is checked out around `folder`, None where none is; read from the files of git."""
    for above in (folder, *folder.parents):
        git = above / '.git'
        if git.is_file():  # of a further working tree or a submodule: says where its own is
            git = above / git.read_text().removeprefix('gitdir: ').strip()
        if not (git / 'HEAD').is_file():
            continue
        head = (git / 'HEAD').read_text().strip()
        name = head.removeprefix('ref: ')
        shared = git / (git / 'commondir').read_text().strip() if (git / 'commondir').is_file() else git
        if name == head:
            return head
        if (shared / name).is_file():
            return (shared / name).read_text().strip()
        packed = shared / 'packed-refs'
        lines = packed.read_text().splitlines() if packed.is_file() else []
        return next((line.split()[0] for line in lines if line.endswith(f' {name}')), None)
    return None


def _buffers_apart(model: nn.Module) -> dict[str, Tensor]:
    """Buffers that the model does not count as its state; a training may depend on them all the same."""
    kept = set(model.state_dict())
    return {name: b for name, b in model.named_buffers() if name not in kept}


def _callbacks(learn: Any) -> dict[str, Any]:
    """The callbacks that keep a state, by name; a second one of the same name gets a number."""
    found: dict[str, Any] = {}
    for cb in learn.cbs:
        if _keeps_state(cb):
            name, n = cb.name, 1
            while name in found:
                n += 1
                name = f'{cb.name}#{n}'
            found[name] = cb
    return found


def _metric_state(metric: Any) -> dict[str, Any]:
    """What a metric has gathered: its attributes that are data."""
    kept = {}
    for name, value in vars(metric).items():
        try:
            kept[name] = storable(value)
        except TypeError:
            continue  # functions and other objects are settings, not something gathered
    return kept


def _measures_training(learn: Any) -> bool:
    # otherwise metrics start anew with every validation, and what they hold is of no further use
    return getattr(vars(learn).get('recorder'), 'train_metrics', False)


def training_state(learn: Any, position: dict[str, Any], epoch_generators: dict | None = None) -> dict[str, Any]:
    """Everything that decides how the training goes on, as nested tensors, numbers and texts.

    The tensors are the training's own, not copies.

    Args:
        learn: the learner, between two batches or two epochs.
        position: where the training is; see the module.
        epoch_generators: `generators(learn.dls)` as it was before the epoch's first batch was drawn.

    Raises:
        TypeError: the `state_dict` of a callback holds what a file cannot.
    """
    model = get_model(learn.model)
    params = list(model.parameters())
    loss_state = learn.loss_func.state_dict() if isinstance(learn.loss_func, nn.Module) else {}
    return {
        'format': FORMAT, 'version': VERSION, 'environment': environment(learn), 'position': dict(position),
        'fit_seed': learn.fit_seed, 'train_iter': learn.train_iter,
        'model': storable(model.state_dict(), "the model's state"),
        'buffers': storable(_buffers_apart(model), "the model's buffers"),
        'loss_func': storable(loss_state, "the loss function's state"),
        'grads': {i: p.grad.detach() for i, p in enumerate(params) if p.grad is not None},
        'trained': [p.requires_grad for p in params],
        'opt': storable(learn.opt.state_dict(), "the optimizer's state"),
        'frozen_idx': getattr(learn.opt, 'frozen_idx', 0),
        'callbacks': {name: storable(cb.state_dict(), f'the state_dict of {type(cb).__name__}')
                      for name, cb in _callbacks(learn).items()},
        'metrics': [_metric_state(m) for m in learn.metrics] if _measures_training(learn) else [],
        'loaders': [storable(dl.state_dict(), f'the state_dict of {type(dl).__name__}')
                    if _keeps_state(dl) and not own_loader(dl) else None for dl in learn.dls],
        'generators': generators(learn.dls), 'epoch_generators': epoch_generators,
    }


# ---------------------------------------------------------------- putting it back

def load_training_state(learn: Any, state: dict[str, Any], file: Any = 'the checkpoint',
                        without: Sequence[str] = ()) -> None:
    """Put model, optimizer, callbacks, metrics and generators of `learn` into the state of `training_state`.

    Args:
        learn: the learner.
        state: what `training_state` returned.
        file: named in messages.
        without: 'opt' or 'loss_func', to leave those as they are.

    Where the loop goes on is the caller's affair (`CheckpointCallback`), as are foreign loaders.

    Raises:
        ValueError: the state belongs to another model, optimizer or format.
    """
    if not isinstance(state, dict) or state.get('format') != FORMAT or state.get('version') != VERSION:
        raise ValueError(f'{file} is no checkpoint of a training in the format {FORMAT} {VERSION}: '
                         'for weights alone there is learn.load')
    model = get_model(learn.model)
    check_model_state(model, state['model'], file)
    if 'opt' not in without:
        check_opt_state(learn.opt, state['opt'], file)
    # copied: what is loaded lives on in optimizer and callbacks, and must not keep the file mapped
    state = {k: v if k in ('model', 'opt') else copied(v) for k, v in state.items()}
    try:
        _load_parts(learn, model, state, file, without)
    except (KeyError, TypeError, IndexError, AttributeError, RuntimeError) as error:
        raise ValueError(f'{file} does not fit this training: {error!r}') from error


def _load_parts(learn: Any, model: nn.Module, state: dict[str, Any], file: Any, without: Sequence[str]) -> None:
    model.load_state_dict(state['model'])
    buffers = dict(model.named_buffers())
    for name, value in state['buffers'].items():
        buffers[name].copy_(value)
    if isinstance(learn.loss_func, nn.Module) and 'loss_func' not in without:
        learn.loss_func.load_state_dict(state['loss_func'])
    if 'opt' not in without:
        load_opt_state(learn.opt, state['opt'], file)
    learn.opt.frozen_idx = state['frozen_idx']
    for i, (p, trained) in enumerate(zip(model.parameters(), state['trained'], strict=True)):
        p.requires_grad_(trained)
        grad = state['grads'].get(i)
        p.grad = None if grad is None else torch.empty_like(p).copy_(grad)
    ours = _callbacks(learn)
    for name in sorted(set(ours) ^ set(state['callbacks'])):
        here = 'is attached here and was not then' if name in ours else 'was attached then and is not here'
        warnings.warn(f'resuming: the callback {name} {here}; the training will not go on as it would have',
                      stacklevel=4)
    for name, cb in ours.items():
        if name in state['callbacks']:
            cb.load_state_dict(state['callbacks'][name])
    for metric, kept in zip(learn.metrics, state['metrics']):
        vars(metric).update({k: v for k, v in kept.items() if k in _metric_state(metric)})
    learn.fit_seed, learn.train_iter = state['fit_seed'], state['train_iter']
    learn.pct_train = _pct_train(state['position'])
    set_generators(state['generators'], learn.dls)


def _pct_train(position: dict[str, Any]) -> float:
    within = position['batch'] / position['n_iter'] if position['where'] == 'train' and position['n_iter'] else 0.
    return (position['epoch'] + within) / max(position['n_epoch'], 1)
