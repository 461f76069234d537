"""A learner on a drawn line, for trying out callbacks and for tests."""
from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from minifast.callback.core import Callback
from minifast.data.core import DataLoaders
from minifast.data.load import DataLoader
from minifast.learner import Learner
from minifast.losses import MSELossFlat
from minifast.optimizer import SGD
from minifast.seeds import keyed_generator

__all__ = ['RegModel', 'VerboseCallback', 'synth_dbunch', 'synth_learner']


class VerboseCallback(Callback):
    """Prints the name of every event."""

    def __call__(self, event_name: str) -> Any:
        print(event_name)
        return super().__call__(event_name)


class RegModel(nn.Module):
    """`a * x + b` with two parameters, shape of `x` kept."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(1)), nn.Parameter(torch.randn(1))

    def forward(self, x: Tensor) -> Tensor:
        """`x` [B,1] float -> [B,1]."""
        return x * self.a + self.b


def synth_dbunch(a: float = 2, b: float = 3, bs: int = 16, n_train: int = 10, n_valid: int = 2,
                 device: Any = None) -> DataLoaders:
    """Noisy points on the line `a * x + b`.

    Args:
        a, b: of the line.
        bs: points a batch, float pairs [B,1].
        n_train, n_valid: batches.
        device: where batches go; default: they stay on the CPU.
    """
    def _points(n: int, key: int) -> TensorDataset:
        generator = keyed_generator(0, key)
        x = torch.randn(bs * n, 1, generator=generator)
        return TensorDataset(x, a * x + b + 0.1 * torch.randn(bs * n, 1, generator=generator))
    train = DataLoader(_points(n_train, 0), bs=bs, shuffle=True, num_workers=0)
    valid = DataLoader(_points(n_valid, 1), bs=bs, num_workers=0)
    return DataLoaders(train, valid, device=device)


def synth_learner(n_trn: int = 10, n_val: int = 2, cuda: bool = False, lr: float = 1e-3,
                  data: DataLoaders | None = None, model: nn.Module | None = None, **kwargs: Any) -> Learner:
    """A `Learner` of a line, for trying things out.

    Args:
        n_trn, n_val: batches of the training and of the validation set.
        cuda: train on the GPU; default: on the CPU.
        lr: default learning rate.
        data: other loaders than `synth_dbunch`.
        model: another model than `RegModel`.
        **kwargs: for `Learner`; default: `SGD` with momentum 0.9 and the mean squared error.

    Example:
        >>> learn = synth_learner(cbs=VerboseCallback)
        >>> learn.fit(1)
    """
    device = 'cuda' if cuda else 'cpu'
    data = synth_dbunch(n_train=n_trn, n_valid=n_val, device=device) if data is None else data
    kwargs = {'opt_func': partial(SGD, mom=0.9), 'loss_func': MSELossFlat(), **kwargs}
    return Learner(data, RegModel() if model is None else model, lr=lr, **kwargs)
