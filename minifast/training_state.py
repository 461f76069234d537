"""The whole state of a training as plain data, and putting it back: what an exact resume needs.

A training is at a *position*: `{'where': 'epoch' | 'train' | 'validate', 'epoch': e, 'batch': b, ...}`, that is before
epoch `e`, in its training part with `b` batches done, or in its validation part. It depends on model and optimizer, and
on what loaders, callbacks, loss function, metrics and modules hold beside them.
"""
from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from fastcore.foundation import L
from torch import Tensor, nn
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import IterableDataset

from minifast.arguments import lookup
from minifast.checkpoint import check_model_state, check_opt_state, load_opt_state, load_weights, make_room
from minifast.codetext import package_of
from minifast.data.load import DataLoader
from minifast.data.sampler import ORDER_NAMES
from minifast.data.stream import kind_of
from minifast.distributed import barrier, from_first, gather_on_first
from minifast.environment import environment
from minifast.hidden import Baselines, Hidden, appends, find, keeps_state
from minifast.seeds import get_random_states, set_random_states
from minifast.sharding import in_shares, is_share, share_like
from minifast.tensorfile import copied, storable
from minifast.terminal import listed
from minifast.torch_core import get_model

__all__ = ['ReplayedLoader', 'baselines_of', 'begin_loader', 'generators', 'inexact_loaders', 'joined',
           'load_training_state', 'of_rank', 'own_loader', 'put_back_generators', 'said_states', 'set_generators',
           'start_hidden', 'storable_states', 'together', 'training_state']

FORMAT, VERSION = 'minifast-training', 1


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


BASE_NAMES = frozenset(vars(DataLoader(range(1), bs=1)))
"""The attributes that every loader of ours has."""


def own_loader(dl: Any) -> bool:
    """Whether the loader `dl` is one of ours, whose batches are a function of (seed, epoch, batch)."""
    return hasattr(dl, 'begin')


# ---------------------------------------------------------------- what loaders hold

def baselines_of(learn: Any) -> Baselines:
    """How the parts of the training of `learn` stood when they were first looked at, kept on the learner."""
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
    """`states` of `get_random_states`, by default those of now, as a tensor file can hold them."""
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
    """Why a resume within an epoch would not be exact: a sentence for each of `dls` that cannot be put back."""
    found = []
    for i, dl in enumerate(dls):
        what = f'loader {i} ({type(dl).__name__})'
        if keeps_state(dl) and not own_loader(dl):
            continue
        if isinstance(dl, TorchLoader) and kind_of(dl.dataset) is not None:
            found.append(f'{what} reads a stream, where minifast.data.load.DataLoader(dataset) goes on from any batch')
            continue
        opaque = [o for part in _order(dl, Baselines()) for o in find(dl, **part.where).opaque]
        if isinstance(getattr(dl, '__dict__', {}).get('dataset'), Iterator):
            opaque.append(('dataset', type(dl.dataset).__name__))
        if opaque:
            found.append(f'{what} draws from {_listed(opaque)}, which cannot be put back: an object with '
                         'state_dict/load_state_dict, or one whose attributes are numbers and generators, can')
        elif own_loader(dl):
            kind = kind_of(getattr(dl, 'dataset', None))
            why = kind and kind.why_inexact(dl.dataset)
            found += [f'{what} reads a stream, and {why}'] if why else []
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


def _hidden_state(learn: Any) -> dict[str, Any]:
    """What callbacks without a `state_dict`, loss function, metrics and modules hold: generators, changed data."""
    found = {name: hidden.state() for name, (_, hidden) in _parts(learn).items()}
    return {name: state for name, state in found.items() if state}


def _load_hidden_state(learn: Any, state: dict[str, Any], kinds: Sequence[str] = ALL,
                      leaving: Sequence[Any] = ()) -> None:
    """Put back what `_hidden_state` returned; what has no place here is named in a warning.

    Args:
        state: what `_hidden_state` returned.
        kinds: put back these kinds alone.
        leaving: callbacks, or classes of some, that go at once: what has no place in them is no loss.
    """
    for name, (owner, hidden) in _parts(learn).items():
        if name in state:
            lost = hidden.load(state[name], kinds)
            _tell_lost(name, () if any(owner is cb or type(owner) is cb for cb in leaving) else lost)


def start_hidden(learn: Any) -> list[str]:
    """Note how everything of `learn` stands before the training changes it.

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
    _load_hidden_state(learn, state.get('hidden', {}), kinds=('generators',))
    set_generators(state['generators'], learn.dls, baselines_of(learn), kinds=('generators', 'batches'))


# ---------------------------------------------------------------- taking the state

def _buffers_apart(model: nn.Module) -> dict[str, Tensor]:
    """Buffers that the model does not count as its state; a training may depend on them all the same."""
    kept = set(model.state_dict())
    return {name: b for name, b in model.named_buffers() if name not in kept}


def _metric_state(metric: Any) -> dict[str, Any]:
    """What a metric has gathered: its attributes that are data."""
    kept = {}
    for name, value in vars(metric).items():
        try:
            kept[name] = storable(value)
        except TypeError:
            continue  # functions and other objects are settings, not something gathered
    return kept


def _stateful(learn: Any, loss: Any) -> Any:
    """What of a loss function has a state: itself, the module in a `BaseLoss` or a partial, or whose method it is."""
    for found in (loss, getattr(loss, 'func', None), getattr(loss, '__self__', None)):
        # a callback that stands in for the loss is saved as a callback, the model as the model
        if keeps_state(found) and all(found is not other for other in (learn.model, learn.own_model, *learn.cbs)):
            return found
    return None


def _loss_state(learn: Any, loss: Any) -> dict[str, Any]:
    stateful = _stateful(learn, loss)
    return {} if stateful is None else storable(stateful.state_dict(), "the loss function's state")


_SHARE = 'in shares'


def _apart(x: Any, name: str, shares: dict[str, Tensor]) -> Any:
    """`x` with names in the places of its tensors in shares, which go to `shares`."""
    if is_share(x):
        shares[name] = x.detach()
        return {_SHARE: name}
    if isinstance(x, dict):
        kept = copy.copy(x)  # of its kind, with the versions of the modules
        kept.update((key, _apart(value, f'{name}/{key}', shares)) for key, value in x.items())
        return kept
    if isinstance(x, (list, tuple, L)):
        kind = tuple if isinstance(x, tuple) else list
        return kind(_apart(value, f'{name}/{i}', shares) for i, value in enumerate(x))
    return x


def joined(x: Any, shares: Mapping[str, Tensor]) -> Any:
    """The nested state `x` with the tensors of `shares` in the places where `training_state` has left their names."""
    if isinstance(x, dict):
        if x.keys() == {_SHARE}:
            return shares[x[_SHARE]]
        kept = copy.copy(x)
        kept.update((key, joined(value, shares)) for key, value in x.items())
        return kept
    return type(x)(joined(value, shares) for value in x) if type(x) in (list, tuple) else x


def _measures_training(learn: Any, position: dict[str, Any]) -> bool:
    # elsewhere metrics start anew with what follows, and what they hold is of no further use
    return position['where'] == 'train' and getattr(vars(learn).get('recorder'), 'train_metrics', False)


def _stream_state(learn: Any, position: dict[str, Any]) -> dict[str, Any]:
    """Where those who read a stream stand in the middle of an epoch; nothing for other data."""
    within = position['where'] == 'train' and own_loader(learn.dl)
    state = learn.dl.state_dict().get('stream') if within else None
    return {'stream': storable(state, "the data set's state")} if state else {}


def training_state(learn: Any, position: dict[str, Any], epoch_generators: dict[Any, Any] | None = None,
                   shares: dict[str, Tensor] | None = None) -> dict[str, Any]:
    """Everything that decides how the training goes on, as nested tensors, numbers and texts.

    The tensors are the training's own, not copies.

    Args:
        learn: the learner, between two batches or two epochs.
        position: where the training is; see the module.
        epoch_generators: `generators(learn.dls)` as it was before the epoch's first batch was drawn.
        shares: gets the tensors of which each process has a part; in the state their names stand for them.

    Raises:
        TypeError: the `state_dict` of a callback holds what a file cannot.
    """
    model = get_model(learn.own_model)
    params, shares = list(model.parameters()), {} if shares is None else shares

    def told(part: str, x: Any, where: str) -> Any:
        return storable(_apart(x, part, shares) if in_shares(model) else x, where)
    return {
        'format': FORMAT, 'version': VERSION, 'environment': environment(learn), 'position': dict(position),
        'fit_seed': learn.fit_seed, 'train_iter': learn.train_iter,
        'model': told('model', model.state_dict(), "the model's state"),
        'buffers': storable(_buffers_apart(model), "the model's buffers"),
        'loss_func': _loss_state(learn, learn.own_loss),
        'acting_loss': _loss_state(learn, learn.loss_func) if learn.loss_func is not learn.own_loss else {},
        'grads': {i: told(f'grads/{i}', p.grad, 'a gradient') for i, p in enumerate(params) if p.grad is not None},
        'trained': [p.requires_grad for p in params],
        'opt': told('opt', learn.opt.state_dict(), "the optimizer's state"),
        'frozen_idx': getattr(learn.opt, 'frozen_idx', 0),
        'callbacks': {name: told(f'callbacks/{name}', cb.state_dict(), f'the state_dict of {type(cb).__name__}')
                      for name, cb in said_states(learn).items()},
        'metrics': [_metric_state(m) for m in learn.metrics] if _measures_training(learn, position) else [],
        'loaders': [storable(dl.state_dict(), f'the state_dict of {type(dl).__name__}')
                    if keeps_state(dl) and not own_loader(dl) else None for dl in learn.dls],
        **_stream_state(learn, position),
        'generators': generators(learn.dls, baselines=baselines_of(learn)), 'epoch_generators': epoch_generators,
        'hidden': _hidden_state(learn),
        'watchers': {name: storable(cb.state_dict(), f'the state_dict of {type(cb).__name__}')
                     for name, cb in said_states(learn, watches_only=True).items()},
    }


# ---------------------------------------------------------------- of several processes

_ALIKE = frozenset(('format', 'version', 'environment', 'fit_seed', 'train_iter', 'trained', 'opt', 'frozen_idx'))
"""Parts that the ranks of a training have in common: they take the same steps."""


def together(learn: Any, state: dict[str, Any]) -> dict[str, Any] | None:
    """One state of all ranks of `learn`: the first one's, and under 'ranks' what is not the same on another.

    Generators, statistics of batch norm, gradients that are gathered for a later step, what callbacks keep. Called by
    all ranks at the same place, with the `state` of each.

    Returns:
        The state on the first rank, None on the others.
    """
    weights = {name for name, _ in get_model(learn.own_model).named_parameters(remove_duplicate=False)}
    own = {(part, key): value for part, whole in state.items() if part not in _ALIKE
           for key, value in (whole.items() if isinstance(whole, dict) else [(None, whole)])
           if part != 'model' or key not in weights}
    digests = {name: _digest_of(value) for name, value in own.items()}
    barrier()  # where all are well
    first = from_first(digests)
    differs = {name: own[name] for name, digest in digests.items() if first.get(name) != digest}
    found = gather_on_first((differs, [name for name in first if name not in own]))
    if found is None:
        return None
    return {**state, 'ranks': [{'own': _nested(differs), 'gone': [list(name) for name in gone]}
                               for differs, gone in found]}


def _nested(parts: Mapping[tuple[str, Any], Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for (part, key), value in parts.items():
        nested.setdefault(part, {})[key] = value
    return nested


def of_rank(state: dict[str, Any], rank: int, n_ranks: int, file: Any = 'the checkpoint') -> dict[str, Any]:
    """The state of one of `n_ranks` processes out of that of all.

    Where as many have written it, each gets its own. Else all get the first one's, and of gradients that are gathered
    for a later step the mean, which is what the step would have taken.

    Args:
        state: of all, as `together` made it.
        rank: of the process.
        n_ranks: how many processes there are now.
        file: named in messages.

    Raises:
        ValueError: the file does not say it as `together` does.
    """
    try:
        ranks = state.get('ranks') or [{'own': {}, 'gone': []}]
        state = {part: value for part, value in state.items() if part != 'ranks'}
        if len(ranks) == n_ranks:
            return _with_own(state, ranks[rank])
        if any(isinstance(grad, dict) for grad in state['grads'].values()):  # in shares: they are means
            return state
        each = [_with_own(state, one)['grads'] for one in ranks]
        names = dict.fromkeys(name for grads in each for name in grads)
        return {**state, 'grads': {name: sum(grads[name] for grads in each if name in grads) / len(each)
                                   for name in names}}
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, RuntimeError) as error:
        raise ValueError(f'{file} does not say what each of its processes held: {error!r}') from error


def _with_own(state: dict[str, Any], one: Mapping[str, Any]) -> dict[str, Any]:
    state = dict(state)
    for part, key in one['gone']:
        state[part] = {name: value for name, value in state[part].items() if name != key}
    for part, values in one['own'].items():
        state[part] = {**state.get(part, {}), **values} if None not in values else values[None]
    return state


def _digest_of(x: Any) -> bytes:
    """The same for the same nested tensors, numbers and texts."""
    digest = hashlib.blake2b(digest_size=16)

    def add(x: Any) -> None:
        if isinstance(x, Tensor):
            x = x.detach()
            digest.update(f'{x.dtype}{tuple(x.shape)}{x.layout}'.encode())
            x = x if x.layout is torch.strided else x.to_dense()
            x = x.dequantize() if x.is_quantized else x
            digest.update(x.resolve_conj().cpu().contiguous().flatten().view(torch.uint8).numpy())
        elif isinstance(x, dict):
            for key, value in x.items():
                digest.update(repr(key).encode())
                add(value)
        elif isinstance(x, (list, tuple)):
            digest.update(str(len(x)).encode())
            for value in x:
                add(value)
        else:
            digest.update(repr(x).encode())
    add(x)
    return digest.digest()


# ---------------------------------------------------------------- putting it back

def load_training_state(learn: Any, state: dict[str, Any], file: Any = 'the checkpoint',
                        without: Sequence[str] = (), again: bool = False, leaving: Sequence[Any] = ()) -> None:
    """Put model, optimizer, callbacks, metrics and generators of `learn` into the state of `training_state`.

    Args:
        learn: the learner.
        state: what `training_state` returned.
        file: named in messages.
        without: 'opt' or 'loss_func', to leave those as they are.
        leaving: callbacks of a fit that is passed over, which go at once.
        again: hooks have run since the state was put back first; what was told then is not told again.

    Where the loop goes on is the caller's affair (`CheckpointCallback`), as are foreign loaders.

    Raises:
        ValueError: the state belongs to another model, optimizer or format.
    """
    if not isinstance(state, dict) or state.get('format') != FORMAT or state.get('version') != VERSION:
        raise ValueError(f'{file} is no checkpoint of a training in the format {FORMAT} {VERSION}: '
                         'for weights alone there is learn.load')
    model = get_model(learn.own_model)
    check_model_state(model, state['model'], file)
    if 'opt' not in without:
        check_opt_state(learn.opt, state['opt'], file)
    # copied: what is loaded lives on in optimizer and callbacks, and must not keep the file mapped
    state = {k: v if k in ('model', 'opt') else copied(v) for k, v in state.items()}
    try:
        _load_parts(learn, model, state, file, without, leaving)
        if not again:
            _tell_other_callbacks(learn, state)
    except (KeyError, TypeError, IndexError, AttributeError, RuntimeError) as error:
        raise ValueError(f'{file} does not fit this training: {error!r}') from error


def _load_parts(learn: Any, model: nn.Module, state: dict[str, Any], file: Any, without: Sequence[str],
                leaving: Sequence[Any]) -> None:
    load_weights(model, state['model'], file)
    make_room(model, state['buffers'])
    buffers = dict(model.named_buffers())
    for name, value in state['buffers'].items():
        buffers[name].copy_(value)
    if 'loss_func' not in without:
        _load_loss(learn, learn.own_loss, state['loss_func'], file)
        if learn.loss_func is not learn.own_loss:
            _load_loss(learn, learn.loss_func, state.get('acting_loss'), file)
    if 'opt' not in without:
        load_opt_state(learn.opt, state['opt'], file)
    learn.opt.frozen_idx = state['frozen_idx']
    for i, (p, trained) in enumerate(zip(model.parameters(), state['trained'], strict=True)):
        p.requires_grad_(trained)
        grad = state['grads'].get(i)
        p.grad = None if grad is None else _gradient(p, grad)
    for name, cb in said_states(learn).items():
        if name in state['callbacks']:
            cb.load_state_dict(state['callbacks'][name])
    for name, cb in said_states(learn, watches_only=True).items():
        if name in state.get('watchers', {}):
            cb.load_state_dict(state['watchers'][name])
    # earlier releases kept those of a validation too, which begins anew
    for metric, kept in zip(learn.metrics, state['metrics'] if state['position']['where'] == 'train' else ()):
        vars(metric).update({k: v for k, v in kept.items() if k in _metric_state(metric)})
    learn.fit_seed, learn.train_iter = state['fit_seed'], state['train_iter']
    learn.pct_train = _pct_train(state['position'])
    _load_hidden_state(learn, state.get('hidden', {}), leaving=leaving)
    set_generators(state['generators'], learn.dls, baselines_of(learn))


def _tell_other_callbacks(learn: Any, state: dict[str, Any]) -> None:
    ours = said_states(learn)
    for name in sorted(set(ours) ^ set(state['callbacks'])):
        here = 'is attached here and was not then' if name in ours else 'was attached then and is not here'
        warnings.warn(f'resuming: the callback {name} {here}; the training will not go on as it would have',
                      stacklevel=4)


def _gradient(p: Tensor, grad: Tensor) -> Tensor:
    # an embedding may have a sparse gradient, which its optimizer wants sparse
    return torch.empty_like(p).copy_(share_like(grad, p)) if grad.layout is torch.strided else grad.to(p.device)


def _load_loss(learn: Any, loss: Any, state: dict[str, Any] | None, file: Any) -> None:
    stateful = _stateful(learn, loss)
    if stateful is None:
        return
    if not state and stateful.state_dict():
        # earlier releases wrote none while MixUp or its kin stood in for the loss
        warnings.warn(f'{file} holds no state of the loss function: it stays as it was made here', stacklevel=5)
    elif isinstance(stateful, nn.Module):
        make_room(stateful, state or {})
        stateful.load_state_dict(state or {})
    else:
        stateful.load_state_dict(state)


def _pct_train(position: dict[str, Any]) -> float:
    within = position['batch'] / position['n_iter'] if position['where'] == 'train' and position['n_iter'] else 0.
    return (position['epoch'] + within) / max(position['n_epoch'], 1)
