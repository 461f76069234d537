"""Channels-last memory format: the layout in which convolutions are fastest on most hardware."""
from __future__ import annotations

import torch
from torch import Tensor

from minifast.callback.core import Callback

__all__ = ['ChannelsLast']


def _channels_last(x: object) -> object:
    return x.contiguous(memory_format=torch.channels_last) if isinstance(x, Tensor) and x.ndim == 4 else x


class ChannelsLast(Callback):
    """Keeps the model's weights and the pictures [B,C,H,W] in channels-last layout; values do not change."""

    order = -1

    def before_fit(self) -> None:
        self.model.to(memory_format=torch.channels_last)

    def before_batch(self) -> None:
        self.learn.xb = tuple(_channels_last(x) for x in self.xb)
