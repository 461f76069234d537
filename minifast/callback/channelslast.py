"""Pictures with their channels last in memory, the order that convolutions on most hardware are fastest in."""
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minifast.callback.core import Callback

__all__ = ['ChannelsLast', 'to_memory_format']


def to_memory_format(learn: Any, memory_format: torch.memory_format) -> None:
    """Keep the model's weights in `memory_format`, and with them what the optimizer holds for each of them.

    The optimizer follows because torch's fused steps refuse a weight and its averages in different formats.
    """
    learn.model.to(memory_format=memory_format)
    if learn.opt is None:
        return
    for group in learn.opt.param_groups:
        for p in group['params']:
            if p.ndim != 4 or p not in learn.opt.state:
                continue
            state = learn.opt.state[p]
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape == p.shape:
                    state[name] = value.contiguous(memory_format=memory_format)


class ChannelsLast(Callback):
    """Trains in channels-last memory format; shapes and results stay the same.

    The model stays so behind the fit, so that prediction is as fast; `learn.to_contiguous()` undoes it.
    """

    order = -1  # before callbacks that take copies of the weights

    def before_fit(self) -> None:
        to_memory_format(self.learn, torch.channels_last)
