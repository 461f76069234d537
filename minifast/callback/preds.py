"""Predictions with dropout left on, whose spread tells how sure a model is."""
from __future__ import annotations

from minifast.callback.core import Callback
from minifast.layers import flatten_model

__all__ = ['MCDropoutCallback']


class MCDropoutCallback(Callback):
    """Leaves dropout on in validation and prediction: Monte Carlo dropout.

    Source: Gal and Ghahramani, "Dropout as a Bayesian approximation", ICML 2016.

    Example:
        >>> draws = [learn.get_preds(cbs=MCDropoutCallback())[0] for _ in range(20)]
        >>> torch.stack(draws).std(0)
    """

    identifies_run = False

    def before_validate(self) -> None:
        for layer in self._dropouts():
            layer.train()

    def after_validate(self) -> None:
        for layer in self._dropouts():
            layer.eval()

    def _dropouts(self) -> list:
        return [layer for layer in flatten_model(self.model) if 'dropout' in type(layer).__name__.lower()]
