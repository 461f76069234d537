"""An exponential moving average of the weights, used for validation."""
from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from minifast.arguments import tells_near_match
from minifast.callback.core import Callback

__all__ = ['EMA', 'EMACallback']


class EMA(Callback):
    """Keeps an exponential moving average of weights and floating buffers, and validates with it.

    The average takes the model's place from the start of a validation until the epoch ends, so that what callbacks
    save for a good number is what was measured; then the trained weights come back, however the epoch or the fit ended.
    Once trained, `validate` and `get_preds` use the average too while the callback is attached, and exports hold it.
    The average starts anew with each fit, from the weights at its start epoch.

    Source: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992.
    """

    order = 70  # after_epoch behind callbacks that save (61) and stop (63); after_step order does not matter

    @tells_near_match
    def __init__(self, decay: float = 0.9998, start_epoch: int = 0, validate_ema: bool = True,
                 replace_weights: bool = False, warmup: bool = False) -> None:
        """
        Args:
            decay: weight of the past at each step, 0-1.
            start_epoch: average from this epoch on.
            validate_ema: validate with the average.
            replace_weights: leave the average in the model when a fit ends as it should.
            warmup: at step t use at most the decay (1+t)/(10+t), so that the first steps are forgotten.
        """
        self.decay, self.start_epoch, self.validate_ema = decay, start_epoch, validate_ema
        self.replace_weights, self.warmup = replace_weights, warmup
        self.average: list[Tensor] | None = None
        self.swapped, self.n_steps, self._fresh = False, 0, False

    def _tensors(self) -> list[Tensor]:
        """Parameters and buffers of the model, in the order of the average."""
        return [t.detach() for t in (*self.learn.model.parameters(), *self.learn.model.buffers())]

    def before_fit(self) -> None:
        self.run = not self.learn.searching
        self._fresh = self.run

    def before_train(self) -> None:
        self._show_trained()
        if self._fresh and self.learn.epoch >= self.start_epoch:
            self.average, self.n_steps, self._fresh = [t.clone() for t in self._tensors()], 0, False

    def after_step(self) -> None:
        if self._fresh or self.average is None:
            return
        decay = min(self.decay, (1 + self.n_steps) / (10 + self.n_steps)) if self.warmup else self.decay
        self.n_steps += 1
        pairs = list(zip(self.average, self._tensors()))
        floating = [pair for pair in pairs if pair[0].is_floating_point()]
        torch._foreach_lerp_([a for a, _ in floating], [t for _, t in floating], 1 - decay)
        for average, t in pairs:
            if not average.is_floating_point():
                average.copy_(t)

    @torch.no_grad()
    def _swap(self) -> None:
        # values, not tensors: compiled graphs and the optimizer hold on to the parameters' memory
        for average, t in zip(self.average, self._tensors()):
            kept = t.clone()
            t.copy_(average)
            average.copy_(kept)
        self.swapped = not self.swapped

    def _is_to_stand_in(self) -> bool:
        waiting = self._fresh and self.learn.fitting
        return self.validate_ema and self.average is not None and not self.swapped and not waiting

    def before_validate(self) -> None:
        if self._is_to_stand_in():
            self._swap()

    def _show_trained(self) -> None:
        if self.swapped:
            self._swap()

    def after_epoch(self) -> None:
        self._show_trained()

    def after_cancel_fit(self) -> None:
        self._show_trained()  # before callbacks load a best model in after_fit

    def after_fit(self) -> None:
        if self.replace_weights and self.learn.fitting and self.average is not None:
            self._swap()
            self.average, self.swapped = None, False

    def cleanup_fit(self) -> None:
        self._show_trained()

    @contextmanager
    def as_measured(self) -> Iterator[None]:
        """The average in the model's place, where validations have it."""
        swaps = self._is_to_stand_in()
        if swaps:
            self._swap()
        try:
            yield
        finally:
            if swaps:
                self._swap()

    def averaged_model(self) -> nn.Module:
        """A copy of the model with the average as its weights.

        Raises:
            ValueError: there is no average yet.
        """
        if self.average is None:
            raise ValueError(f'no average yet: it starts with epoch {self.start_epoch} of a fit')
        model = copy.deepcopy(self.learn.model)
        if not self.swapped:
            with torch.no_grad():
                for t, average in zip((*model.parameters(), *model.buffers()), self.average):
                    t.copy_(average)
        return model

    def state_dict(self) -> dict[str, Any]:
        """The average, and whether it stands in the model just now, for a checkpoint."""
        return {'average': self.average, 'n_steps': self.n_steps, 'swapped': self.swapped, 'fresh': self._fresh}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        average = state['average']
        if average is not None:
            average = [a.detach().clone().to(t.device) for a, t in zip(average, self._tensors(), strict=True)]
        self.average, self.n_steps, self.swapped = average, state['n_steps'], state['swapped']
        self._fresh = state['fresh']


EMACallback = EMA
