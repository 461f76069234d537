"""Collecting the batches of a fit; and, under the name fastai has for them, the loaders that draw their items."""
from __future__ import annotations

from fastcore.foundation import L

from minifast.callback.core import Callback
from minifast.data.core import PartialDL, WeightedDL
from minifast.torch_core import to_detach

__all__ = ['CollectDataCallback', 'PartialDL', 'WeightedDL']


class CollectDataCallback(Callback):
    """Keeps every batch of a fit, mainly for tests.

    Attributes:
        data: (inputs, targets, predictions, loss) a batch, training and validation, on the CPU.
    """

    identifies_run = False

    def before_fit(self) -> None:
        self.data = L()

    def after_batch(self) -> None:
        self.data.append(to_detach((self.xb, self.yb, self.pred, self.loss)))
