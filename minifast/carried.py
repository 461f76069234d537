"""What a training depends on beside model and optimizer: what loaders, callbacks, loss function and modules hold."""
from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import IterableDataset

from minifast.codetext import package_of
from minifast.data.load import DataLoader
from minifast.data.sampler import ORDER_NAMES
from minifast.hidden import Baselines, Hidden, appends, find, keeps_state
from minifast.seeds import get_random_states, set_random_states
from minifast.tensorfile import copied, storable
from minifast.terminal import listed
from minifast.torch_core import get_model

__all__ = ['baselines_of', 'begin_loader', 'generators', 'hidden_state', 'inexact_loaders', 'load_hidden_state',
           'own_loader', 'put_back_generators', 'said_states', 'set_generators', 'start_hidden', 'storable_states']

BASE_NAMES = frozenset(vars(DataLoader(range(1), bs=1)))
"""The attributes that every loader of ours has."""


def own_loader(dl: Any) -> bool:
    """Whether the loader is one of ours, whose batches are a function of (seed, epoch, batch)."""
    return hasattr(dl, 'begin')


# ---------------------------------------------------------------- hidden state, of loaders too

def baselines_of(learn: Any) -> Baselines:
    """How the parts of a training stood when they were first looked at, kept on the learner."""
    return vars(learn).setdefault('_baselines', Baselines())


def _datasets(dl: Any) -> list[Any]:
    """The data set of a loader, and those inside it."""
    found: list[Any] = []
    dataset = getattr(dl, '__dict__', {}).get('dataset')
    while dataset is not None and all(dataset is not other for other in found):
        found.append(dataset)
        dataset = getattr(dataset, '__dict__', {}).get('dataset')
    return found


def _order(dl: Any, baselines: Baselines) -> list[Hidden]:
    """What a pass of the loader draws from when it begins, and torch's loaders while they go on."""
    datasets = _datasets(dl)
    if own_loader(dl):
        own = [name for name in vars(dl) if package_of(type(dl)) != 'minifast' and name not in BASE_NAMES]
        return [Hidden(dl, baselines, only=[*ORDER_NAMES, *own], stop=datasets)]
    if isinstance(dl, TorchLoader):
        # of a data set the generators alone: its other attributes may be large, and copies of it are what workers use
        return [Hidden(dl, baselines, only=ORDER_NAMES, stop=datasets), Hidden(dl, baselines, data=False)]
    return [] if isinstance(dl, (list, tuple)) else [Hidden(dl, baselines, stop=datasets),
                                                     Hidden(dl, baselines, data=False)]


def _of_batches(dl: Any, baselines: Baselines) -> Hidden:
    return Hidden(dl, baselines, only=('after_batch', 'before_iter', 'after_iter'), data=False)


def _loader_state(dl: Any, baselines: Baselines) -> dict[str, Any]:
    if not own_loader(dl) and keeps_state(dl):
        return {'asked': storable(dl.state_dict(), f'the state_dict of {type(dl).__name__}')}
    state = {'order': [part.state() for part in _order(dl, baselines)]}
    if own_loader(dl):  # items draw by their keys; what is about a batch is drawn here, one after the other
        state['batches'] = _of_batches(dl, baselines).state()
    return state


def _load_loader(dl: Any, state: Any, baselines: Baselines, kinds: Sequence[str]) -> None:
    if isinstance(state, list):  # the torch generators that earlier releases knew of
        for generator, found in zip(_known_generators(dl), state):
            generator.set_state(found)
        return
    if 'asked' in state and 'asked' in kinds and keeps_state(dl):
        dl.load_state_dict(copied(state['asked']))
    lost = []
    for part, found in zip(_order(dl, baselines), state.get('order', ())):
        lost += part.load(found, kinds)
    if 'batches' in state and own_loader(dl) and 'batches' in kinds:
        lost += _of_batches(dl, baselines).load(state['batches'])
    _tell_lost(f'the loader {type(dl).__name__}', lost)


def _tell_lost(who: str, lost: Sequence[str]) -> None:
    for why in lost:
        warnings.warn(f'resuming: the checkpoint holds a state of {who} that has no place here: {why}; the training '
                      'will not go on as it would have', stacklevel=5)


def _known_generators(dl: Any) -> list[torch.Generator]:
    owners = [dl, getattr(dl, 'sampler', None), getattr(dl, 'batch_sampler', None),
              getattr(getattr(dl, 'batch_sampler', None), 'sampler', None)]
    found = [getattr(owner, 'generator', None) for owner in owners if not own_loader(dl)]
    found = [g for g in found if isinstance(g, torch.Generator)]
    return [g for i, g in enumerate(found) if all(g is not other for other in found[:i])]


ALL = ('generators', 'data', 'asked', 'files', 'batches')
"""The kinds of hidden state."""


def generators(dls: Any = (), states: dict[str, Any] | None = None, baselines: Baselines | None = None
               ) -> dict[str, Any]:
    """The states of Python's, numpy's and torch's global generators, and what the loaders `dls` hold.

    Args:
        dls: loaders.
        states: what `get_random_states` returned earlier; default: the states now.
        baselines: how the loaders began, for what is carried only where it has changed.
    """
    baselines = Baselines() if baselines is None else baselines
    return {'global': storable_states(states), 'loaders': [_loader_state(dl, baselines) for dl in dls]}


def storable_states(states: dict[str, Any] | None = None) -> dict[str, Any]:
    """What `get_random_states` returned, or returns now, as a tensor file can hold it."""
    states = dict(get_random_states() if states is None else states)
    version, numbers, gauss = states['random_state']
    states['random_state'] = version, torch.tensor(numbers), gauss  # 625 numbers, written in one piece
    return storable(states, 'the generators')


def set_generators(states: dict[str, Any], dls: Any = (), baselines: Baselines | None = None,
                   kinds: Sequence[str] = ALL) -> None:
    """Put back what `generators` returned; a state that has no place here is named in a warning.

    Args:
        states: what `generators` returned.
        dls: the loaders, in the same order.
        baselines: how the loaders began.
        kinds: of what the loaders hold only these.
    """
    set_random_states(**_random_states(states['global']))
    baselines = Baselines() if baselines is None else baselines
    for dl, own in zip(dls, states['loaders']):
        _load_loader(dl, own, baselines, kinds)


def begin_loader(dl: Any, i: int, states: dict[str, Any], baselines: Baselines, asked: bool = False) -> None:
    """Put loader number `i` to where a pass of it began, for making the pass again.

    Args:
        dl: the loader.
        i: its place among the loaders.
        states: what `generators` returned before that pass.
        baselines: how the loaders began.
        asked: also hand a loader with `load_state_dict` its state.
    """
    kinds = [kind for kind in ALL if kind != 'batches' and (asked or kind != 'asked' or own_loader(dl))]
    _load_loader(dl, states['loaders'][i], baselines, kinds)


def _random_states(found: dict[str, Any]) -> dict[str, Any]:
    found = dict(found)
    # sync: states of the host
    kind, keys, *rest = found['numpy_state']
    found['numpy_state'] = (kind, keys.numpy().astype(np.uint32), *rest)
    version, numbers, gauss = found['random_state']
    found['random_state'] = (version, tuple(numbers.tolist() if isinstance(numbers, torch.Tensor) else numbers), gauss)
    cuda = found.get('torch_cuda_state')
    if cuda is not None and len(cuda) != torch.cuda.device_count():
        warnings.warn(f'the checkpoint has generator states of {len(cuda)} GPUs, here are {torch.cuda.device_count()}: '
                      "the model's randomness on them starts anew", stacklevel=3)
        found['torch_cuda_state'] = None
    return found


def inexact_loaders(dls: Any) -> list[str]:
    """Why a resume in the middle of an epoch would not be exact, one sentence a loader that cannot be carried."""
    found = []
    for i, dl in enumerate(dls):
        what = f'loader {i} ({type(dl).__name__})'
        if keeps_state(dl) and not own_loader(dl):
            continue
        opaque = [o for part in _order(dl, Baselines()) for o in find(dl, **part.where).opaque]
        if isinstance(getattr(dl, '__dict__', {}).get('dataset'), Iterator):
            opaque.append(('dataset', type(dl.dataset).__name__))
        if opaque:
            found.append(f'{what} draws from {_listed(opaque)}, which cannot be put back: an object with '
                         'state_dict/load_state_dict, or one whose attributes are numbers and generators, can')
        elif own_loader(dl):
            continue
        elif isinstance(dl, TorchLoader):
            if isinstance(dl.dataset, IterableDataset):
                found.append(f'{what} reads a stream: what it yields again after a restart is up to the stream')
            elif dl.num_workers and dl.persistent_workers:
                found.append(f'{what} keeps its workers: random transforms go on in them and cannot be put back')
        elif not isinstance(dl, Sequence):
            found.append(f'{what} has neither state_dict/load_state_dict nor begin(seed, epoch, start_batch)')
    return found


def _listed(opaque: Sequence[tuple[str, str]]) -> str:
    return listed(dict.fromkeys(f'{path} ({kind})' for path, kind in opaque), 4)


def _named(cbs: Any) -> dict[str, Any]:
    """Callbacks by name; a second one of the same name gets a number."""
    found: dict[str, Any] = {}
    for cb in cbs:
        name, n = cb.name, 1
        while name in found:
            n += 1
            name = f'{cb.name}#{n}'
        found[name] = cb
    return found


def said_states(learn: Any, watches_only: bool = False) -> dict[str, Any]:
    """The callbacks of `learn` that say their state, by name.

    Args:
        learn: the learner.
        watches_only: those that only watch the training, instead of those it depends on.
    """
    return _named(cb for cb in learn.cbs if keeps_state(cb) and cb.watches_only is watches_only)


# ---------------------------------------------------------------- hidden state of the parts of a training

def _parts(learn: Any) -> dict[str, tuple[Any, Hidden]]:
    """What may hold state of its own beside model, optimizer and loaders, by name, with where to look."""
    baselines, model = baselines_of(learn), get_model(learn.model)
    # in the middle of a batch a callback may stand in for the loss function
    modules = [*model.modules(), *(learn.loss_func.modules() if isinstance(learn.loss_func, nn.Module) else ())]
    datasets = [part for dl in learn.dls for part in (dl, *_datasets(dl))]
    # tensors are the model's where they share its memory
    stop = [learn, learn.opt, learn.dls, learn.loss_func, *learn.cbs, *learn.metrics, *datasets, *modules]
    found = {}
    for name, cb in _named(learn.cbs).items():
        if not (_own(type(cb)) and '*' in cb.not_carried):
            where = {'skip': ('learn', *cb.not_carried), 'stop': [o for o in stop if o is not cb]}
            if keeps_state(cb):
                where = {**where, **_beside_its_state(cb, where['skip'])}
            found[f'the callback {name}'] = cb, Hidden(cb, baselines, **where)
    inside = [learn, learn.opt, learn.dls, *learn.cbs]
    found['the loss function'] = learn.loss_func, Hidden(learn.loss_func, baselines, stop=[*inside, *datasets])
    found['the model'] = model, Hidden(model, baselines, stop=inside)
    for i, metric in enumerate(learn.metrics):
        found[f'metric {i}'] = metric, Hidden(metric, baselines, stop=inside, data=False)
    return found


def _beside_its_state(cb: Any, skip: tuple[str, ...]) -> dict[str, Any]:
    """What to look for in a callback that says its state: generators; and what a subclass adds to one of ours."""
    says = next(cls for cls in type(cb).__mro__ if 'state_dict' in vars(cls))
    if _own(type(cb)) or not _own(says):
        return {'data': False}
    said = set(cb.state_dict())
    return {'skip': (*skip, *(name for name in vars(cb) if name.lstrip('_') in said))}


def _own(cls: type) -> bool:
    return package_of(cls) == 'minifast'


def hidden_state(learn: Any) -> dict[str, Any]:
    """What callbacks without a `state_dict`, loss function, metrics and modules hold: generators, changed data."""
    found = {name: hidden.state() for name, (_, hidden) in _parts(learn).items()}
    return {name: state for name, state in found.items() if state}


def load_hidden_state(learn: Any, state: dict[str, Any], kinds: Sequence[str] = ALL,
                      leaving: Sequence[Any] = ()) -> None:
    """Put back what `hidden_state` returned; what has no place here is named in a warning.

    Args:
        leaving: callbacks, or classes of some, that go at once, so that nothing is lost with what has no place in
            them.
    """
    for name, (owner, hidden) in _parts(learn).items():
        if name in state:
            lost = hidden.load(state[name], kinds)
            _tell_lost(name, () if any(owner is cb or type(owner) is cb for cb in leaving) else lost)


def start_hidden(learn: Any) -> list[str]:
    """Note how everything stands before the training changes it.

    Returns:
        What cannot be carried, one sentence a callback, loss function or model.
    """
    baselines_of(learn).look_anew()
    for dl in learn.dls:
        _loader_state(dl, baselines_of(learn))
    told = []
    for name, (owner, hidden) in _parts(learn).items():
        found = hidden.start()
        files = [(place.path, 'an open file') for place in found.files if not appends(place.value)]
        if (found.opaque or files) and not _own(type(owner)):
            told.append(f'{name} ({type(owner).__name__}) keeps {_listed([*found.opaque, *files])}, which a checkpoint '
                        'cannot carry: give it state_dict and load_state_dict, or keep numbers, tensors, generators '
                        "and files opened with 'a' there")
    return told


def put_back_generators(learn: Any, state: dict[str, Any]) -> None:
    """Put back the generators that `state`, a `training_state` of `learn`, holds, wherever they hang; nothing else."""
    load_hidden_state(learn, state.get('hidden', {}), kinds=('generators',))
    set_generators(state['generators'], learn.dls, baselines_of(learn), kinds=('generators', 'batches'))
