"""The events of the loop, the exceptions that leave parts of it, the callback base class, the compiled hook table."""
from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from operator import attrgetter
from types import SimpleNamespace
from typing import Any

import torch
from fastcore.basics import noop
from fastcore.foundation import L
from torch import Tensor

from minifast.arguments import lookup, near_match
from minifast.distributed import (gather_objects, gather_rows, host_group, is_shared, num_distrib, on_own,
                                  rank_distrib, reducing)
from minifast.losses import fit_weights
from minifast.seeds import get_random_states as get_random_states
from minifast.seeds import set_random_states as set_random_states
from minifast.torch_core import (apply, default_device, detuplify, find_bs, leaves_of, plain, retain_type, to_concat,
                                 to_cpu)

__all__ = ['Callback', 'CancelBackwardException', 'CancelBatchException', 'CancelEpochException', 'CancelFitException',
           'CancelStepException', 'CancelTrainException', 'CancelValidException', 'FetchPredsCallback',
           'GatherPredsCallback', 'TrainEvalCallback', 'before_batch_cb', 'compile_hooks', 'event', 'events',
           'hooks_of']

events = ('after_create', 'before_fit', 'before_epoch', 'before_train', 'before_batch', 'after_pred', 'after_loss',
          'before_backward', 'after_cancel_backward', 'after_backward', 'before_step', 'after_cancel_step',
          'after_step', 'after_cancel_batch', 'after_batch', 'after_cancel_train', 'after_train', 'before_validate',
          'after_cancel_validate', 'after_validate', 'after_cancel_epoch', 'after_epoch', 'after_cancel_fit',
          'after_fit', 'cleanup_fit')
"""Every event in the order of the loop."""

event = SimpleNamespace(**{name: name for name in events})
"""The events as attributes, so that a typing mistake fails: `learn(event.before_fit)`."""

loop_variables = ('dl iter n_iter xb yb pred loss loss_grad training epoch n_epoch train_iter pct_train start_batch '
                  '_n_inp _device final_record').split()
"""What the loop keeps on the learner while it runs, and what a look from within it must leave as it was."""

inner_events = frozenset(events[events.index('before_batch'):events.index('after_batch') + 1]) - {'after_cancel_step'}
"""Events inside a batch: `run_train` and `run_valid` decide about these alone."""


class CancelException(Exception):
    """Leaves a part of the loop on purpose; never an error."""


class CancelFitException(CancelException):
    """Stop training and go on with `after_cancel_fit`, `after_fit`.

    Example:
        >>> class Enough(Callback):
        ...     def after_batch(self):
        ...         if self.training and self.loss < 0.1: raise CancelFitException
        >>> learn.fit(2, cbs=Enough())
    """


class CancelEpochException(CancelException):
    """Skip the rest of this epoch."""


class CancelTrainException(CancelException):
    """Skip the rest of this epoch's training part; validation follows."""


class CancelValidException(CancelException):
    """Skip the rest of this epoch's validation part.

    Example:
        >>> class Sometimes(Callback):
        ...     def before_validate(self):
        ...         if self.epoch % 5: raise CancelValidException  # each fifth epoch is measured
        >>> learn.fit(2, cbs=Sometimes())
    """


class CancelBatchException(CancelException):
    """Skip the rest of this batch, its update included.

    Example:
        >>> class Skip(Callback):
        ...     def before_batch(self):
        ...         if self.training and len(self.y) < 8: raise CancelBatchException
        >>> learn.fit(1, cbs=Skip())
    """


class CancelBackwardException(CancelException):
    """Skip the backward pass; the step follows."""


class CancelStepException(CancelException):
    """Skip the optimizer's step; the gradients are zeroed all the same."""


class _FromLearner:
    """Reads one attribute of the learner on a callback; a value set on the callback shadows it (no `__set__`)."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, cb: Callback | None, owner: type) -> Any:
        if cb is None:
            return self
        if cb.learn is None:
            raise AttributeError(f'{type(cb).__name__} reads {self.name!r} from its learner and has none yet: '
                                 'give it to a Learner, or to fit(cbs=...)')
        return getattr(cb.learn, self.name)


class Callback:
    """Bends the training loop without editing it: override the hooks you need.

    A hook reads the learner as if its attributes were its own (`self.pred`, `self.epoch`, `self.model`) and changes
    it through `self.learn`: `self.learn.xb = ...`. Setting `self.xb` only shadows it on the callback. A hook leaves a
    part of the loop by raising one of the Cancel exceptions. A subclass need not call `super().__init__()`.

    A checkpoint carries a callback over a kill, without being asked: attributes that are data (numbers, texts, tensors,
    arrays, lists, dicts) where the training has changed them, random generators, objects with
    `state_dict`/`load_state_dict`, and files opened to be appended to. What it cannot carry (iterators, other open
    files, objects of other packages) is named in a warning before the training starts. A callback that defines
    `state_dict` and `load_state_dict` is asked instead; `testing.check_callback` tests either. See `docs/plugins.md`.

    Args:
        **hooks: event -> a function of the callback, in place of a class: `Callback(after_epoch=f)`.

    Attributes:
        order: hooks of one event run by rising order, equal ones as they were added. TrainEvalCallback has -10,
            Recorder 50, ProgressCallback and ParamScheduler 60.
        run: False silences the callback until the fit ends.
        run_train, run_valid: whether the hooks inside a batch run in training and in validation.
        remove_on_fetch: whether FetchPredsCallback takes the callback off while it predicts.
        only_rank0: of several processes that train together only the first runs the hooks, as suits what prints, writes
            or sends. Whatever a hook predicts or measures is then the first process's own work.
        watches_only: the callback changes nothing about the training, so a resume with or without it is as exact.
        identifies_run: a run with it, or with other arguments of it, is another run; False for what changes nothing or
            is told apart otherwise, as schedules are. Of a class derived from one of ours it is taken to be true.
        not_carried: names of attributes that a checkpoint leaves alone, such as a time or a folder of this process.
        learn: the learner, None before the callback is given to one.

    Example:
        >>> class PrintLoss(Callback):
        ...     def after_epoch(self):
        ...         print(self.epoch, self.recorder.values[-1])
    """

    order: int = 0
    run: bool = True
    run_train: bool = True
    run_valid: bool = True
    remove_on_fetch: bool = False
    only_rank0: bool = False
    watches_only: bool = False
    identifies_run: bool = True
    not_carried: tuple[str, ...] = ()
    learn: Any = None

    # What hooks read most of the learner, each as an attribute of its own; everything else is looked for there too.
    model = _FromLearner()
    opt = _FromLearner()
    loss_func = _FromLearner()
    dls = _FromLearner()
    metrics = _FromLearner()
    recorder = _FromLearner()
    path = _FromLearner()
    model_dir = _FromLearner()
    logger = _FromLearner()
    create_mbar = _FromLearner()
    training = _FromLearner()  # whether it is a training batch
    n_epoch = _FromLearner()
    epoch = _FromLearner()
    dl = _FromLearner()  # of the part of the epoch that runs
    n_iter = _FromLearner()  # batches in it
    iter = _FromLearner()
    train_iter = _FromLearner()  # training batches of this fit so far
    pct_train = _FromLearner()  # 0..1
    xb = _FromLearner()  # inputs of the batch, a tuple
    yb = _FromLearner()  # its targets, a tuple
    x = _FromLearner()  # the input, where it is one
    y = _FromLearner()
    pred = _FromLearner()
    loss_grad = _FromLearner()  # is differentiated
    loss = _FromLearner()  # is reported
    smooth_loss = _FromLearner()

    def __init__(self, **hooks: Callable[[Callback], Any]) -> None:
        """Take hooks as functions of the callback: `Callback(after_epoch=lambda self: print(self.epoch))`.

        Raises:
            TypeError: a keyword is no event.
        """
        for name, hook in hooks.items():
            if name not in events:
                raise TypeError(f'{type(self).__name__}: {name!r} is no event{near_match(name, events)}')
            setattr(self, name, hook.__get__(self))

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in vars(cls):
            if name not in events and re.match('(before|after|begin)_', name) and callable(getattr(cls, name)):
                guess = near_match(re.sub('^begin_', 'before_', name), events)
                if guess:
                    warnings.warn(f'{cls.__name__}.{name} looks like an event and is none{guess}', stacklevel=2)

    def __repr__(self) -> str:
        return type(self).__name__

    def __call__(self, event_name: str) -> Any:
        """Run the hook of one event as the loop would; the loop itself runs the compiled table."""
        result = None
        if _wants(self, event_name):
            result = getattr(self, event_name)()
        if event_name == 'after_fit':
            self.run = True
        return result

    def __getattr__(self, name: str) -> Any:
        return lookup(self, name, 'learn')

    @property
    def name(self) -> str:
        """The learner's attribute that holds the callback: the class name in snake case without `_callback`."""
        stem = re.sub('Callback$', '', type(self).__name__) or 'Callback'
        return re.sub('([a-z0-9])([A-Z])', r'\1_\2', re.sub('(.)([A-Z][a-z]+)', r'\1_\2', stem)).lower()

    def as_measured(self) -> AbstractContextManager:
        """Around what hands the model on for predictions, as an export does: it is to stand there as validation has it.

        A callback that validates with other weights than it trains puts them in the model here, and behind it the
        trained ones.
        """
        return nullcontext()

    def after_create(self) -> None:
        """The learner is made."""

    def before_fit(self) -> None:
        """A fit (or `validate`, `get_preds`, `predict`) starts; `n_epoch` is known."""

    def before_epoch(self) -> None:
        """An epoch starts; `epoch` is its number."""

    def before_train(self) -> None:
        """The training part of an epoch starts; `dl` is the training loader."""

    def before_batch(self) -> None:
        """A batch is on the device as `xb`, `yb`; `iter` is its number."""

    def after_pred(self) -> None:
        """The model's output is in `pred`."""

    def after_loss(self) -> None:
        """The loss is in `loss_grad` (back-propagated) and `loss` (reported); in validation too."""

    def before_backward(self) -> None:
        """`loss_grad` is about to be back-propagated."""

    def after_cancel_backward(self) -> None:
        """The backward pass was left by CancelBackwardException."""

    def after_backward(self) -> None:
        """The gradients are in the parameters' `.grad`."""

    def before_step(self) -> None:
        """The optimizer is about to step."""

    def after_cancel_step(self) -> None:
        """The step was left by CancelStepException."""

    def after_step(self) -> None:
        """The parameters are updated, the gradients not yet zeroed."""

    def after_cancel_batch(self) -> None:
        """The batch was left by CancelBatchException."""

    def after_batch(self) -> None:
        """The batch is done, whether cancelled or not."""

    def after_cancel_train(self) -> None:
        """The training part was left by CancelTrainException."""

    def after_train(self) -> None:
        """The training part of the epoch is done."""

    def before_validate(self) -> None:
        """The validation part of an epoch starts; `dl` is its loader."""

    def after_cancel_validate(self) -> None:
        """The validation part was left by CancelValidException."""

    def after_validate(self) -> None:
        """The validation part of the epoch is done."""

    def after_cancel_epoch(self) -> None:
        """The epoch was left by CancelEpochException."""

    def after_epoch(self) -> None:
        """The epoch is done and recorded."""

    def after_cancel_fit(self) -> None:
        """The fit was left by CancelFitException."""

    def after_fit(self) -> None:
        """The fit is done; the callbacks given to it are still attached. Not run after an error or Ctrl-C."""

    def cleanup_fit(self) -> None:
        """The fit has ended in whatever way, an error and Ctrl-C included: put back here what you have changed."""


def before_batch_cb(f: Callable[[Callback, Any, Any], tuple[Any, ...]]) -> Callback:
    """A callback that replaces each batch by what `f(callback, xb, yb)` returns; for use as a decorator."""
    def before_batch(cb: Callback) -> None:
        cb.learn.xb, cb.learn.yb = f(cb, cb.xb, cb.yb)
    return Callback(before_batch=before_batch)


def _cast_tensor(x: Any) -> Any:
    """A tensor, and the tensors in a tuple, without markers."""
    if isinstance(x, tuple):
        return tuple(_cast_tensor(o) for o in x)
    return plain(x)


def _wants(cb: Callback, event_name: str) -> bool:
    """Whether `cb` runs its hook of this event now, by `run`, `run_train` and `run_valid`."""
    if not cb.run:
        return False
    if event_name not in inner_events:
        return True
    return cb.run_train if getattr(cb, 'training', True) else cb.run_valid


# ---------------------------------------------------------------- the compiled table

_plain_call = Callback.__call__
Hook = tuple[Callback, Callable[[], Any]]


def hooks_of(cbs: Sequence[Callback], event_name: str) -> tuple[Hook, ...]:
    """The (callback, bound hook) pairs of the callbacks `cbs` that the event `event_name` runs, in order.

    A callback takes part where its class, a base class or the object itself overrides the hook. One whose `__call__`
    was replaced (a plugin may patch it, on the base class too) takes part in every event and decides for itself.
    """
    found = []
    for cb in sorted(cbs, key=attrgetter('order')):
        if type(cb).__call__ is not _plain_call:
            found.append((cb, _CallByName(cb, event_name)))
            continue
        hook = getattr(cb, event_name)
        if getattr(hook, '__func__', hook) is not _no_ops[event_name]:
            found.append((cb, hook))
    if num_distrib() > 1:
        found = [(cb, on_own(only_rank0=True)(hook) if cb.only_rank0 else hook) for cb, hook in found
                 if not (cb.only_rank0 and rank_distrib())]
    return tuple(found)


def compile_hooks(cbs: Sequence[Callback]) -> dict[str, tuple[Hook, ...]]:
    """The table `event -> ((callback, bound hook), ...)` of the callbacks `cbs` that the loop runs."""
    return {event_name: hooks_of(cbs, event_name) for event_name in events}


@contextmanager
def kept_loop_variables(learn: Any) -> Iterator[None]:
    """Put the loop's variables back behind the block, those that were not there included."""
    kept = {name: vars(learn)[name] for name in loop_variables if name in vars(learn)}
    try:
        yield
    finally:
        for name in loop_variables:
            vars(learn).pop(name, None)
        vars(learn).update(kept)


@contextmanager
def as_measured(cbs: Sequence[Callback]) -> Iterator[None]:
    """Within it the model is as validation measures it, see `Callback.as_measured`."""
    with ExitStack() as stack:
        for cb in cbs:
            stack.enter_context(cb.as_measured())
        yield


class _CallByName:
    """Stands for the hook of a callback with its own `__call__`."""

    def __init__(self, cb: Callback, event_name: str) -> None:
        self.cb, self.event_name = cb, event_name

    def __call__(self) -> Any:
        return self.cb(self.event_name)


_no_ops = {event_name: vars(Callback)[event_name] for event_name in events}


# ---------------------------------------------------------------- the callbacks that the loop itself needs

class TrainEvalCallback(Callback):
    """Puts the model on the device and into training or evaluation mode, and counts the iterations."""

    order, run_valid, identifies_run = -10, False, False

    def after_create(self) -> None:
        self.learn.n_epoch = 1

    def before_fit(self) -> None:
        learn = self.learn
        learn.epoch, learn.loss = 0, torch.tensor(0.)
        learn.train_iter, learn.pct_train = 0, 0.
        device = getattr(learn.dls, 'device', None) or default_device()
        learn.model.to(device)
        first = next((p for p in learn.model.parameters() if p.is_floating_point()), None)
        for loss in (learn.own_loss, learn.loss_func):  # the second where a callback has put one of its own in place
            if hasattr(loss, 'to'):
                loss.to(device)
                if first is not None:
                    fit_weights(loss, first.dtype)
        if hasattr(learn.model, 'reset'):
            learn.model.reset()

    def before_train(self) -> None:
        self.learn.pct_train = self.epoch / self.n_epoch
        self.model.train()
        self.learn.training = True

    def before_validate(self) -> None:
        self.model.eval()
        self.learn.training = False

    def after_batch(self) -> None:
        # a pure function of the position, not a running sum: a resumed fit sees the same bits
        learn = self.learn
        learn.train_iter += 1
        learn.pct_train = (learn.epoch + (learn.iter + 1) / learn.n_iter) / learn.n_epoch


# ---------------------------------------------------------------- the predictions of a pass

class _Rows:
    """Batches of rows put into one tensor on the CPU that is allocated once, where the number of rows is known.

    Args:
        n_rows: how many rows will come, None if that is not known.
        ranks: the place of each row, [n_rows], where they come in another order than they are wanted.
        dim: the axis along which batches are joined.
    """

    def __init__(self, n_rows: int | None, ranks: Tensor | None, dim: int) -> None:
        self.n_rows, self.ranks, self.dim = n_rows, ranks, dim
        self.parts, self.out, self.filled = [], None, 0

    def add(self, x: Any) -> None:
        """Take the rows of one batch."""
        if isinstance(x, Tensor) and x.ndim == 0:
            x = x[None]
        if not (isinstance(x, Tensor) and self.n_rows and self.dim == 0 and not self.parts):
            self.parts.append(to_cpu(x))  # sync: predictions go home
            return
        if self.out is None:
            self.out = torch.empty((self.n_rows, *x.shape[1:]), dtype=x.dtype)
            self.like = retain_type(torch.empty(0), x)
        end = self.filled + len(x)
        if end > self.n_rows or x.shape[1:] != self.out.shape[1:] or x.dtype != self.out.dtype:
            self.parts = [retain_type(self._ordered(self.out[:self.filled]), self.like), to_cpu(x)]  # sync: goes home
            self.out = None
        elif self.ranks is None:
            self.out[self.filled:end].copy_(plain(x))  # sync: predictions go home
        else:
            self.out[self.ranks[self.filled:end]] = plain(x).cpu()  # sync: predictions go home
        self.filled = end

    def _ordered(self, rows: Tensor) -> Tensor:
        """The rows so far in the order in which they came."""
        return rows if self.ranks is None else self.out[self.ranks[:self.filled]]

    def result(self) -> Any:
        """All rows."""
        if self.out is not None:
            rows = self.out if self.filled == self.n_rows else self._ordered(self.out[:self.filled]).clone()
            return retain_type(rows, self.like)
        joined = to_concat(self.parts, dim=self.dim)
        if self.ranks is not None and isinstance(joined, (Tensor, L)) and len(joined) == len(self.ranks):
            order = self.ranks.argsort()
            if isinstance(joined, Tensor):
                return retain_type(plain(joined)[order], joined)
            return joined[order.tolist()]  # sync: an index that is on the CPU anyway
        return joined


class _Stack:
    """`_Rows` for every tensor of nested batches."""

    def __init__(self, make: Callable[[], _Rows]) -> None:
        self.make, self.rows = make, None

    def add(self, x: Any) -> None:
        """Take one batch."""
        if self.rows is None:
            self.rows = apply(lambda _: self.make(), x)
        if isinstance(x, Tensor) and isinstance(self.rows, _Rows):
            self.rows.add(x)
            return
        for rows, leaf in zip(leaves_of(self.rows), leaves_of(x)):
            rows.add(leaf)

    def result(self) -> Any:
        """All batches, nested as they came; a tuple of one is opened."""
        return detuplify(apply(lambda rows: rows.result(), self.rows)) if self.rows is not None else None


def _of_all_ranks(rows: Any, ranks: Tensor | None) -> Any:
    """The rows of all processes on each, nested as they are.

    Args:
        rows: this process's; None where it has none.
        ranks: the place of each row, see `_Rows`.
    """
    made = gather_objects(None if rows is None else apply(lambda x: x[:0] if isinstance(x, Tensor) else x, rows))
    like = next((o for o in made if o is not None), None)
    return None if like is None else _gathered(like if rows is None else rows, ranks)


def _gathered(rows: Any, ranks: Tensor | None) -> Any:
    if isinstance(rows, tuple):
        return tuple(_gathered(part, ranks) for part in rows)
    if isinstance(rows, dict):
        return {name: _gathered(part, ranks) for name, part in rows.items()}
    if isinstance(rows, Tensor):
        found = gather_rows(plain(rows), host_group())
        return retain_type(found if ranks is None else found[ranks.argsort()], rows)
    parts = gather_objects(list(rows))
    n = sum(map(len, parts))
    found = [parts[i % len(parts)][i // len(parts)] for i in range(n)]
    return L(found if ranks is None else [found[i] for i in ranks.argsort().tolist()])  # sync: on the CPU anyway


class GatherPredsCallback(Callback):
    """Keeps predictions and targets of a validation pass, on the CPU, batch by batch: no more than the result is held.

    Args:
        with_input: keep the inputs too.
        with_loss: keep one loss an item; the loss function must not reduce (`Learner.loss_not_reduced`).
        save_preds: a folder; the predictions of batch i are also written there as a tensor file named i.
        save_targs: the same for the targets.
        with_preds: keep the predictions.
        with_targs: keep the targets.
        concat_dim: the axis along which batches are joined.
        n_rows: how many rows the pass gives, where that is known.
        ranks: the place of each row, [n_rows], where they come in another order than they are wanted.
        act: applied to the predictions where they are, batch by batch.
        decodes: what makes answers (class indices, ...) of them, which are then kept in `decoded`.
    """

    identifies_run = False

    def __init__(self, with_input: bool = False, with_loss: bool = False, save_preds: Any = None,
                 save_targs: Any = None, with_preds: bool = True, with_targs: bool = True, concat_dim: int = 0, *,
                 n_rows: int | None = None, ranks: Tensor | None = None, act: Callable[..., Any] = noop,
                 decodes: Callable[..., Any] | None = None) -> None:
        self.with_input, self.with_loss = with_input, with_loss
        self.save_preds, self.save_targs = save_preds, save_targs
        self.with_preds, self.with_targs, self.concat_dim = with_preds, with_targs, concat_dim
        self.n_rows, self.ranks, self.act, self.decodes = n_rows, ranks, act, decodes

    def before_validate(self) -> None:
        self._last = None
        self._shared = reducing() and is_shared(self.learn.dl)
        n_rows, ranks = self.n_rows, self.ranks
        if self._shared:  # this process's rows, in the order in which they come; all processes' are put in theirs then
            own = slice(rank_distrib(), None, num_distrib())
            n_rows, ranks = None if n_rows is None else len(range(n_rows)[own]), None
        self.inputs, self.preds, self.targets, self.decoded = (
            _Stack(partial(_Rows, n_rows, ranks, self.concat_dim)) for _ in range(4))
        self.losses = _Stack(partial(_Rows, n_rows, ranks, 0))

    def before_batch(self) -> None:
        self._last = self.learn.pred  # a cancelled batch leaves the one before it here

    def after_batch(self) -> None:
        learn = self.learn
        if learn.pred is None or learn.pred is self._last:
            return
        preds, targets = (learn.to_detach(x, cpu=False, gather=False) for x in (learn.pred, learn.yb))
        if self.save_preds is not None:
            torch.save(to_cpu(preds), self.save_preds / str(learn.iter))  # sync: written to a file
        if self.save_targs is not None:
            torch.save(to_cpu(targets[0]), self.save_targs / str(learn.iter))  # sync: written to a file
        preds = self.act(preds)
        if self.with_input:
            detached = learn.to_detach(learn.xb, cpu=False, gather=False)
            self.inputs.add(tuple(retain_type(new, x) for new, x in zip(detached, learn.xb)))
        if self.with_preds:
            self.preds.add(preds)
        if self.decodes is not None:
            self.decoded.add(self.decodes(preds))
        if self.with_targs and len(targets):
            self.targets.add(targets)
        if self.with_loss:
            self.losses.add(learn.to_detach(self._loss_of_items(), cpu=False, gather=False))

    def _loss_of_items(self) -> Tensor:
        if not len(self.learn.yb):
            raise ValueError('with_loss=True needs targets, and the loader has none')
        loss, bs = plain(self.learn.loss), find_bs(self.learn.yb)
        return loss if loss.numel() == bs else loss.view(bs, -1).mean(1)

    def after_validate(self) -> None:
        for name in ('inputs', 'preds', 'targets', 'decoded', 'losses'):
            rows = getattr(self, name).result()
            setattr(self, name, _of_all_ranks(rows, self.ranks) if self._shared else rows)

    def all_tensors(self) -> list[Tensor | tuple[Any, ...] | None]:
        """What was kept: [inputs], preds, targets, [losses]; None for preds or targets that were not asked for."""
        return ([self.inputs] if self.with_input else []) + [self.preds, self.targets] + (
            [self.losses] if self.with_loss else [])


class FetchPredsCallback(Callback):
    """Keeps the predictions on a loader after each validation, in `preds`.

    Args:
        ds_idx: the split to predict where `dl` is None.
        dl: the loader to predict.
        with_input, with_decoded, reorder: as in `Learner.get_preds`.
        cbs: callbacks taken off meanwhile, beside those with `remove_on_fetch`.
    """

    remove_on_fetch, identifies_run = True, False

    def __init__(self, ds_idx: int = 1, dl: Any = None, with_input: bool = False, with_decoded: bool = False,
                 cbs: Any = None, reorder: bool = True) -> None:
        self.ds_idx, self.dl, self.with_input, self.with_decoded = ds_idx, dl, with_input, with_decoded
        self.cbs, self.reorder = L(cbs), reorder

    def after_validate(self) -> None:
        taken_off = L(cb for cb in self.learn.cbs if cb.remove_on_fetch) + self.cbs
        with self.learn.removed_cbs(taken_off) as learn:
            self.preds = learn.get_preds(ds_idx=self.ds_idx, dl=self.dl, with_input=self.with_input,
                                         with_decoded=self.with_decoded, inner=True, reorder=self.reorder)
