"""The whole state of a training as plain data, and putting it back: what an exact resume needs.

A training is at a *position*: `{'where': 'epoch' | 'train' | 'validate', 'epoch': e, 'batch': b, ...}`, that is before
epoch `e`, in its training part with `b` batches done, or in its validation part.
"""
from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from minifast.carried import (baselines_of, generators, hidden_state, load_hidden_state, own_loader, said_states,
                              set_generators)
from minifast.checkpoint import check_model_state, check_opt_state, load_opt_state, load_weights, make_room
from minifast.environment import environment
from minifast.hidden import keeps_state
from minifast.lookup import lookup
from minifast.tensorfile import copied, storable
from minifast.torch_core import get_model

__all__ = ['ReplayedLoader', 'load_training_state', 'training_state']

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


def _measures_training(learn: Any, position: dict[str, Any]) -> bool:
    # elsewhere metrics start anew with what follows, and what they hold is of no further use
    return position['where'] == 'train' and getattr(vars(learn).get('recorder'), 'train_metrics', False)


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
    model = get_model(learn.own_model)
    params = list(model.parameters())
    return {
        'format': FORMAT, 'version': VERSION, 'environment': environment(learn), 'position': dict(position),
        'fit_seed': learn.fit_seed, 'train_iter': learn.train_iter,
        'model': storable(model.state_dict(), "the model's state"),
        'buffers': storable(_buffers_apart(model), "the model's buffers"),
        'loss_func': _loss_state(learn, learn.own_loss),
        'acting_loss': _loss_state(learn, learn.loss_func) if learn.loss_func is not learn.own_loss else {},
        'grads': {i: storable(p.grad, 'a gradient') for i, p in enumerate(params) if p.grad is not None},
        'trained': [p.requires_grad for p in params],
        'opt': storable(learn.opt.state_dict(), "the optimizer's state"),
        'frozen_idx': getattr(learn.opt, 'frozen_idx', 0),
        'callbacks': {name: storable(cb.state_dict(), f'the state_dict of {type(cb).__name__}')
                      for name, cb in said_states(learn).items()},
        'metrics': [_metric_state(m) for m in learn.metrics] if _measures_training(learn, position) else [],
        'loaders': [storable(dl.state_dict(), f'the state_dict of {type(dl).__name__}')
                    if keeps_state(dl) and not own_loader(dl) else None for dl in learn.dls],
        'generators': generators(learn.dls, baselines=baselines_of(learn)), 'epoch_generators': epoch_generators,
        'hidden': hidden_state(learn),
        'watchers': {name: storable(cb.state_dict(), f'the state_dict of {type(cb).__name__}')
                     for name, cb in said_states(learn, watches_only=True).items()},
    }


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
    load_hidden_state(learn, state.get('hidden', {}), leaving=leaving)
    set_generators(state['generators'], learn.dls, baselines_of(learn))


def _tell_other_callbacks(learn: Any, state: dict[str, Any]) -> None:
    ours = said_states(learn)
    for name in sorted(set(ours) ^ set(state['callbacks'])):
        here = 'is attached here and was not then' if name in ours else 'was attached then and is not here'
        warnings.warn(f'resuming: the callback {name} {here}; the training will not go on as it would have',
                      stacklevel=4)


def _gradient(p: Tensor, grad: Tensor) -> Tensor:
    # an embedding may have a sparse gradient, which its optimizer wants sparse
    return torch.empty_like(p).copy_(grad) if grad.layout is torch.strided else grad.to(p.device)


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
