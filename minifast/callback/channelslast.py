"""Pictures with their channels last in memory, the order that convolutions on most hardware are fastest in."""
from __future__ import annotations

import torch

from minifast.callback.core import Callback
from minifast.hardware import to_memory_format

__all__ = ['ChannelsLast']


class ChannelsLast(Callback):
    """Trains in channels-last memory format; shapes and results stay the same.

    The model stays so behind the fit, so that prediction is as fast; `learn.to_contiguous()` undoes it.

    Example:
        >>> learn = Learner(dls, learn.model, cbs=ChannelsLast())  # or learn.to_channelslast()
    """

    order = -1  # before callbacks that take copies of the weights

    def before_fit(self) -> None:
        to_memory_format(self.learn, torch.channels_last)
