"""What the callbacks of experiment trackers share: the settings of a run, and its numbers without waiting each step."""
from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from minifast.arguments import kept_arguments
from minifast.callback.core import Callback
from minifast.torch_core import find_bs, length_of

__all__ = ['ExperimentLogger', 'Step', 'settings_of']


def _plain_value(value: Any) -> Any:
    """Numbers, texts and None as they are, lists of them too; of anything else its name or text."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain_value(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain_value(v) for k, v in value.items()}
    if isinstance(value, nn.Module):
        return type(value).__name__
    return getattr(value, '__name__', None) or str(value)


def settings_of(learn: Any) -> dict[str, Any]:
    """What a training of `learn` is made of, as nested numbers and texts: learner, callbacks, data, model, device."""
    own = {'model': type(learn.model).__name__, 'loss_func': learn.own_loss, 'opt_func': learn.opt_func}
    for name in ('lr', 'wd', 'moms', 'train_bn', 'wd_bn_bias', 'metrics', 'path', 'model_dir', 'arch', 'n_out',
                 'pretrained', 'normalize'):
        if name in vars(learn) or hasattr(type(learn), name):
            own[name] = getattr(learn, name)
    own['metrics'] = [metric.name for metric in learn.metrics]
    train = learn.dls.train
    settings = {'Learner': _plain_value(own),
                **{repr(cb): _plain_value(kept_arguments(cb)) or True for cb in learn.cbs},
                'batch size': getattr(train, 'bs', None) or getattr(train, 'batch_size', None),
                'batch per epoch': length_of(train),
                'model parameters': sum(p.numel() for p in learn.model.parameters()),
                'epochs': learn.n_epoch}
    first = next(learn.model.parameters(), None)
    settings['device'] = first.device.type if first is not None else 'cpu'
    if learn.opt is not None:
        settings['frozen'], settings['frozen idx'] = bool(learn.opt.frozen_idx), learn.opt.frozen_idx
    for name in ('after_item', 'before_batch', 'after_batch'):
        if hasattr(train, name):
            settings[f'dls.{name}'] = str(getattr(train, name))
    return settings


class Step(NamedTuple):
    """The numbers of one training step.

    Attributes:
        train_iter: steps done in this fit, this one included.
        time_s: when it ended, seconds since 1970.
        epoch: position in epochs, a fraction.
        train_loss, raw_loss: smoothed, and of this batch alone.
        items_a_second: training speed of this batch.
        hypers: `lr_0`, `mom_0`, ...: hyper-parameters by group.
    """

    train_iter: int
    time_s: float
    epoch: float
    train_loss: float
    raw_loss: float
    items_a_second: float
    hypers: dict[str, float]


class ExperimentLogger(Callback):
    """Base of the callbacks that send a training's numbers somewhere; it only watches.

    Losses stay on the device and are fetched together, at most once in `flush_s` seconds and at the end of an epoch.
    Only fits are logged, by the first process only. A subclass says where things go: `start`, `log_steps`, `log_epoch`,
    `finish`; and where a resumed training goes on: `place`, which `start` then finds in `goes_on`.

    Attributes:
        goes_on: what `place` returned at the checkpoint that the training is resumed from, else empty.
    """

    order, remove_on_fetch, watches_only, only_rank0 = 51, True, True, True  # behind the recorder
    not_carried = ('goes_on', '_active', '_started', '_waiting', '_completed', '_last_flush_s', '_batch_began_s')
    flush_s = 2.
    _active = _started = False
    _n_recorded = 0
    goes_on: dict[str, Any] = {}

    def start(self) -> None:
        """A fit starts; a resumed one is at its place already."""

    def place(self) -> dict[str, Any]:
        """Where the numbers go, as data; all until now are sent."""
        return {}

    def log_steps(self, steps: Sequence[Step]) -> None:
        """Training `steps` since the last call."""

    def log_epoch(self, numbers: dict[str, float]) -> None:
        """An epoch has ended with these `numbers`: its columns of the table but epoch, time and training loss."""

    def finish(self, completed: bool) -> None:
        """The fit has ended; `completed` is False after an error or Ctrl-C."""

    def before_fit(self) -> None:
        self.run = self.learn.fitting and not self.learn.searching
        if self.run:
            self._waiting: list[tuple] = []
            self._n_recorded, self._completed, self._active = 0, False, True
            self._last_flush_s = time.monotonic()
            self._started, self.goes_on = False, {}

    def before_epoch(self) -> None:
        # not before_fit: there a resumed training does not yet know where it goes on
        self.start_once()

    def start_once(self) -> None:
        """Call `start` if this fit is logged and it was not called yet; a fresh fit's first checkpoint needs it."""
        if self._active and not self._started:
            self.start()
            self._started = True

    def before_batch(self) -> None:
        self._batch_began_s = time.perf_counter()

    def after_batch(self) -> None:
        learn = self.learn
        n_recorded = learn.recorder.smooth_loss.count
        if not learn.training or n_recorded == self._n_recorded:  # in validation, or a batch that was left out
            return
        self._n_recorded = n_recorded
        speed = find_bs(learn.xb) / max(time.perf_counter() - self._batch_began_s, 1e-9)
        hypers = {f'{name}_{i}': float(value) for i, hyper in enumerate(learn.opt.hypers)
                  for name, value in hyper.items() if isinstance(value, (int, float)) and not isinstance(value, bool)}
        self._waiting.append((learn.train_iter, time.time(), learn.epoch + (learn.iter + 1) / learn.n_iter, n_recorded,
                              learn.loss.detach(), speed, hypers))
        if time.monotonic() - self._last_flush_s >= self.flush_s:
            self._flush()

    def _flush(self) -> None:
        waiting, self._waiting, self._last_flush_s = self._waiting, [], time.monotonic()
        if waiting:
            smooth = self.learn.recorder.losses
            raw: list[Tensor] = [loss.float().mean() for *_, loss, _, _ in waiting]
            raw_losses = torch.stack(raw).tolist()  # sync: at most once in flush_s
            self.log_steps([Step(step, when_s, epoch, float(smooth[n - 1]), loss, speed, hypers)
                            for (step, when_s, epoch, n, _, speed, hypers), loss in zip(waiting, raw_losses)])

    def after_train(self) -> None:
        self._flush()

    def after_epoch(self) -> None:
        recorder = self.learn.recorder
        numbers = {name: float(value) for name, value in zip(recorder.metric_names, recorder.log)
                   if name not in ('epoch', 'train_loss', 'time') and isinstance(value, (int, float, Tensor))}
        self.log_epoch(numbers)

    def after_fit(self) -> None:
        self._completed = True

    def cleanup_fit(self) -> None:
        if self._active:
            self._active = False
            if self._started:
                self._started = False
                self._flush()
                self.finish(self._completed)

    def state_dict(self) -> dict[str, Any]:
        """Where the numbers go; what waits is sent now, so that none is lost or sent twice over a resume."""
        if self._started:
            self._flush()
        return {'place': self.place() if self._started else self.goes_on, 'n_recorded': self._n_recorded}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`, a `state_dict()`."""
        self._n_recorded = state['n_recorded']
        if not self._started:
            self.goes_on = state['place']
