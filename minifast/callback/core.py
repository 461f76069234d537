"""The events of the loop, the exceptions that leave a part of it, the callback base class and the compiled hook
table."""
from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from operator import attrgetter
from types import SimpleNamespace
from typing import Any

import torch
from fastcore.foundation import L
from torch import Tensor

from minifast.arguments import near_match
from minifast.lookup import lookup
from minifast.losses import fit_weights
from minifast.seeds import get_random_states as get_random_states
from minifast.seeds import set_random_states as set_random_states
from minifast.torch_core import default_device, detuplify, find_bs, plain, to_concat

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

inner_events = frozenset(events[events.index('before_batch'):events.index('after_batch') + 1]) - {'after_cancel_step'}
"""Events inside a batch: `run_train` and `run_valid` decide about these alone."""


class CancelException(Exception):
    """Leaves a part of the loop on purpose; never an error."""


class CancelFitException(CancelException):
    """Stop training and go on with `after_cancel_fit`, `after_fit`."""


class CancelEpochException(CancelException):
    """Skip the rest of this epoch."""


class CancelTrainException(CancelException):
    """Skip the rest of this epoch's training part; validation follows."""


class CancelValidException(CancelException):
    """Skip the rest of this epoch's validation part."""


class CancelBatchException(CancelException):
    """Skip the rest of this batch, its update included."""


class CancelBackwardException(CancelException):
    """Skip the backward pass; the step follows."""


class CancelStepException(CancelException):
    """Skip the optimizer's step; the gradients are zeroed all the same."""


class _FromLearner:
    """Reads one attribute of the learner on a callback; a value set on the callback itself shadows it (no
    `__set__`)."""

    def __init__(self, name: str) -> None:
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

    Attributes:
        order: hooks of one event run by rising order, equal ones as they were added. TrainEvalCallback has -10,
        Recorder 50,
            ProgressCallback and ParamScheduler 60.
        run: False silences the callback until the fit ends.
        run_train, run_valid: whether the hooks inside a batch run in training and in validation.
        remove_on_fetch: whether FetchPredsCallback takes the callback off while it predicts.
        watches_only: the callback changes nothing about the training, so a resume with or without it is as exact.
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
    watches_only: bool = False
    not_carried: tuple[str, ...] = ()
    learn: Any = None

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
        """The attribute under which the learner keeps the callback: the class name in snake case without
        `_callback`."""
        stem = re.sub('Callback$', '', type(self).__name__) or 'Callback'
        return re.sub('([a-z0-9])([A-Z])', r'\1_\2', re.sub('(.)([A-Z][a-z]+)', r'\1_\2', stem)).lower()

    def as_measured(self) -> AbstractContextManager:
        """Around what hands the model on for predictions, as an export does: it is to stand there as validation has it.

        A callback that validates with other weights than it trains puts them in the model here, and the trained ones
        back behind it.
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


for _name in ('model training x y xb yb opt dls dl loss loss_grad loss_func pred iter n_iter epoch n_epoch train_iter '
              'pct_train smooth_loss metrics recorder path model_dir logger create_mbar').split():
    setattr(Callback, _name, _FromLearner(_name))


def before_batch_cb(f: Callable[[Callback, Any, Any], tuple]) -> Callback:
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
    """The (callback, bound hook) pairs that one event runs, in order.

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
    return tuple(found)


def compile_hooks(cbs: Sequence[Callback]) -> dict[str, tuple[Hook, ...]]:
    """The table `event -> ((callback, bound hook), ...)` that the loop runs."""
    return {event_name: hooks_of(cbs, event_name) for event_name in events}


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

    order, run_valid = -10, False

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


class GatherPredsCallback(Callback):
    """Keeps predictions and targets of a validation pass, on the CPU.

    Args:
        with_input: keep the inputs too.
        with_loss: keep one loss an item; the loss function must not reduce (`Learner.loss_not_reduced`).
        save_preds: a folder; the predictions of batch i are also written there as a tensor file named i.
        save_targs: the same for the targets.
        with_preds: keep the predictions.
        with_targs: keep the targets.
        concat_dim: the axis along which batches are joined.
    """

    def __init__(self, with_input: bool = False, with_loss: bool = False, save_preds: Any = None,
                 save_targs: Any = None, with_preds: bool = True, with_targs: bool = True, concat_dim: int = 0) -> None:
        self.with_input, self.with_loss = with_input, with_loss
        self.save_preds, self.save_targs = save_preds, save_targs
        self.with_preds, self.with_targs, self.concat_dim = with_preds, with_targs, concat_dim

    def before_validate(self) -> None:
        self.inputs, self.preds, self.targets, self.losses = [], [], [], []

    def before_batch(self) -> None:
        if self.with_input:
            self.inputs.append(self.learn.to_detach(self.xb))

    def after_batch(self) -> None:
        if self.learn.pred is None:
            return
        preds, targets = self.learn.to_detach(self.pred), self.learn.to_detach(self.yb)
        if self.with_preds:
            self.preds.append(preds)
        if self.with_targs:
            self.targets.append(targets)
        if self.save_preds is not None:
            torch.save(preds, self.save_preds / str(self.iter))
        if self.save_targs is not None:
            torch.save(targets[0], self.save_targs / str(self.iter))
        if self.with_loss:
            bs = find_bs(self.yb)
            loss = self.loss if self.loss.numel() == bs else self.loss.view(bs, -1).mean(1)
            self.losses.append(self.learn.to_detach(loss))

    def after_validate(self) -> None:
        self.inputs, self.preds, self.targets = (
            detuplify(to_concat(kept, dim=self.concat_dim)) for kept in (self.inputs, self.preds, self.targets))
        self.losses = to_concat(self.losses)

    def all_tensors(self) -> list[Tensor | tuple | None]:
        """What was kept: [inputs], preds, targets, [losses]; None for preds or targets that were not asked for."""
        kept = [self.inputs] if self.with_input else []
        kept += [self.preds if self.with_preds else None, self.targets if self.with_targs else None]
        return kept + ([self.losses] if self.with_loss else [])


class FetchPredsCallback(Callback):
    """Keeps the predictions on a loader after each validation, in `preds`.

    Args:
        ds_idx: the split to predict where `dl` is None.
        dl: the loader to predict.
        with_input, with_decoded, reorder: as in `Learner.get_preds`.
        cbs: callbacks taken off meanwhile, beside those with `remove_on_fetch`.
    """

    remove_on_fetch = True

    def __init__(self, ds_idx: int = 1, dl: Any = None, with_input: bool = False, with_decoded: bool = False,
                 cbs: Any = None, reorder: bool = True) -> None:
        self.ds_idx, self.dl, self.with_input, self.with_decoded = ds_idx, dl, with_input, with_decoded
        self.cbs, self.reorder = L(cbs), reorder

    def after_validate(self) -> None:
        taken_off = L(cb for cb in self.learn.cbs if cb.remove_on_fetch) + self.cbs
        with self.learn.removed_cbs(taken_off) as learn:
            self.preds = learn.get_preds(ds_idx=self.ds_idx, dl=self.dl, with_input=self.with_input,
                                         with_decoded=self.with_decoded, inner=True, reorder=self.reorder)
