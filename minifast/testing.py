"""The contract between the loop and a callback, as a function that plugin authors call in their tests."""
from __future__ import annotations

import copy
import io
import tempfile
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

import torch

from minifast.callback.checkpoint import CheckpointCallback
from minifast.callback.core import Callback
from minifast.distributed import num_distrib
from minifast.learner import Learner
from minifast.seeds import set_seed
from minifast.test_utils import synth_learner

__all__ = ['check_callback']


class _Interrupt(Callback):
    """Presses Ctrl-C behind the backward pass of the second batch."""

    order = 1000

    def after_backward(self) -> None:
        if self.iter == 1:
            raise KeyboardInterrupt


def check_callback(make_cb: Callable[[], Callback], make_learner: Callable[..., Learner] = synth_learner,
                   watches_only: bool = False, resumes: bool = True) -> Learner:
    """Check that a callback keeps the contract of the loop.

    It must work when given as a class or an instance, in two fits in a row, in `validate` and `get_preds`, and leave
    logger, loss function, model mode hooks and learner attributes as they were, also after Ctrl-C. A training with it
    that is killed and resumed must end in the weights of one that was not, or what stands in the way must have been
    named in a warning before the training started.

    Under torchrun all processes check together, which shows what waits for another one; the resume is left out there.

    Args:
        make_cb: returns a new callback, usually its class.
        make_learner: returns a new small learner and takes `cbs=`.
        watches_only: the callback claims not to change training; then the weights must be those of a run without it.
        resumes: check the resume; it needs a `make_cb` that makes a new callback each time.

    Returns:
        The learner after the checks, for further assertions.

    Raises:
        AssertionError: a rule is broken; the message says which.

    Example:
        >>> class Halve(Callback):
        ...     def after_loss(self): self.learn.loss_grad = self.loss_grad / 2
        >>> check_callback(Halve)
    """
    torch.manual_seed(0)
    learn = make_learner(cbs=make_cb())
    if 'progress' in vars(learn):
        learn.remove_cb(learn.progress)
    learn.logger = _silent
    cb = learn.cbs[-1]
    assert isinstance(cb, Callback), f'{cb!r} is no Callback'
    assert cb.learn is learn and vars(learn).get(cb.name) is cb, f'learn.{cb.name} is not the callback'
    start, before = copy.deepcopy(learn.model.state_dict()), _settings(learn)
    for n_fit in (1, 2):
        learn.fit(1)
        _assert_same(before, _settings(learn), f'after fit {n_fit}')
    assert learn.validate() is not None, 'validate returned nothing'
    preds, _ = learn.get_preds()
    assert len(preds), 'get_preds returned nothing'
    _assert_same(before, _settings(learn), 'after validate and get_preds')
    try:
        learn.fit(1, cbs=_Interrupt())
    except KeyboardInterrupt:
        _assert_same(before, _settings(learn), 'after Ctrl-C')
        assert all(p.grad is None or not p.grad.any() for p in learn.model.parameters()), 'gradients left by Ctrl-C'
    if watches_only:
        _assert_changes_nothing(make_cb, make_learner, start)
    if resumes and num_distrib() < 2:
        _assert_resumes(make_cb, make_learner)
    learn.remove_cb(cb)
    assert cb.learn is None and cb.name not in vars(learn), 'remove_cb left the callback behind'
    return learn


def _silent(row: Any) -> None:
    """A logger that prints nothing."""


def _settings(learn: Learner) -> dict[str, Any]:
    """What a fit must leave as it found it."""
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
                for m in learn.model.modules())
    return {'logger': learn.logger, 'loss_func': learn.loss_func, 'cbs': [id(cb) for cb in learn.cbs],
            'create_mbar': learn.create_mbar, 'model hooks': hooks, 'model': learn.model,
            'autocast': torch.is_autocast_enabled('cpu'), 'grad mode': torch.is_grad_enabled()}


def _assert_same(before: dict[str, Any], after: dict[str, Any], when: str) -> None:
    for name, value in before.items():
        assert after[name] == value, f'{when}: {name} was {value!r} and is {after[name]!r}; put it back in cleanup_fit'


def _assert_changes_nothing(make_cb: Callable, make_learner: Callable, start: dict[str, torch.Tensor]) -> None:
    ends = []
    for cbs in (None, make_cb()):
        learn = make_learner(cbs=cbs)
        learn.model.load_state_dict(start)
        torch.manual_seed(1)
        with learn.no_bar(), learn.no_logging():
            learn.fit(1)
        ends.append(learn.model.state_dict())
    for name, value in ends[0].items():
        assert torch.equal(value, ends[1][name]), f'a callback that only watches changed {name}'


class _Kill(Callback):
    """Ends the training as a kill would, in the middle of the second epoch."""

    order = 500

    def after_backward(self) -> None:
        if self.epoch == 1 and self.iter == 1:
            raise KeyboardInterrupt


def _assert_resumes(make_cb: Callable, make_learner: Callable) -> None:
    """Train undisturbed, then killed and resumed; the weights are the same, or the difference was announced."""
    if isinstance(make_cb(), Callback) and make_cb() is make_cb():
        return  # one instance: a new process would have a new one
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        ends, start = [], None
        for checkpoint, kill, resume in ((None, False, False), (folder, True, False), (folder, False, True)):
            learn = make_learner(cbs=make_cb())
            learn.logger, start = _silent, start or copy.deepcopy(learn.model.state_dict())
            learn.model.load_state_dict(start)
            set_seed(1)
            cbs = [] if checkpoint is None else [CheckpointCallback(checkpoint, every=1)]
            try:
                with learn.no_bar(), redirect_stdout(io.StringIO()):
                    learn.fit(2, cbs=[*cbs, *([_Kill()] if kill else [])], resume=resume)
            except KeyboardInterrupt:
                continue
            ends.append(learn.model.state_dict())
    if any('will not be exact' in str(warning.message) for warning in told):
        return
    for name, value in ends[0].items():
        assert torch.equal(value, ends[1][name]), (
            f'a training that was killed and resumed has another {name}: what the callback keeps must be attributes '
            'that are data, or in its state_dict and load_state_dict')
