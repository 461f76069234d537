"""Functions, reshapes and ranges as layers."""
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from minifast.torch_core import Module, TensorBase

__all__ = ['Debugger', 'Flatten', 'Lambda', 'PartialLambda', 'ResizeBatch', 'SigmoidRange', 'ToTensorBase', 'View',
           'sigmoid_range']


class Lambda(Module):
    """A layer that calls `func`.

    Args:
        func: takes the layer's input.
    """

    def __init__(self, func: Callable[[Tensor], Tensor]) -> None:
        self.func = func

    def forward(self, x: Tensor) -> Tensor:
        """`func(x)`."""
        return self.func(x)

    def extra_repr(self) -> str:
        """The function's name."""
        return getattr(self.func, '__name__', repr(self.func))


class PartialLambda(Lambda):
    """A layer that calls `func` with fixed keyword arguments.

    Args:
        func: takes the layer's input.
        **kwargs: given to it each time.
    """

    def __init__(self, func: Callable, **kwargs: Any) -> None:
        self.func, self.repr = partial(func, **kwargs), f'{func.__name__}, {kwargs}'

    def extra_repr(self) -> str:
        """The function's name and arguments."""
        return self.repr


class Flatten(Module):
    """[B,...] -> [B,N], or -> [B*N] if `full`.

    Args:
        full: give up the batch axis too.
    """

    def __init__(self, full: bool = False) -> None:
        self.full = full

    def forward(self, x: Tensor) -> Tensor:
        """Flatten `x`."""
        return x.reshape(-1) if self.full else x.flatten(1)

    def extra_repr(self) -> str:
        """The setting."""
        return f'full={self.full}'


class ToTensorBase(Module):
    """Mark the input as `tensor_cls`.

    Args:
        tensor_cls: a marker class.
    """

    def __init__(self, tensor_cls: type = TensorBase) -> None:
        self.tensor_cls = tensor_cls

    def forward(self, x: Tensor) -> Tensor:
        """The marked tensor."""
        return self.tensor_cls(x)


class View(Module):
    """Reshape to `size`.

    Args:
        *size: of the output, batch included; one may be -1.
    """

    def __init__(self, *size: int) -> None:
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Reshape `x`."""
        return x.view(self.size)


class ResizeBatch(Module):
    """Reshape each item of the batch to `size`.

    Args:
        *size: of one item.
    """

    def __init__(self, *size: int) -> None:
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """[B,...] -> [B,*size]."""
        return x.view(x.shape[0], *self.size)


class Debugger(Module):
    """Stop in the debugger when the model passes here."""

    def forward(self, x: Tensor) -> Tensor:
        """`x`, after the debugger has been left."""
        breakpoint()
        return x


def sigmoid_range(x: Tensor, low: float, high: float) -> Tensor:
    """A sigmoid between `low` and `high`."""
    return torch.sigmoid(x) * (high - low) + low


class SigmoidRange(Module):
    """`sigmoid_range` as a layer.

    Args:
        low: where the sigmoid starts.
        high: where it ends.
    """

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def forward(self, x: Tensor) -> Tensor:
        """Values between `low` and `high`."""
        return sigmoid_range(x, self.low, self.high)

    def extra_repr(self) -> str:
        """The range."""
        return f'low={self.low}, high={self.high}'
