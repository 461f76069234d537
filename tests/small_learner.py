"""A learner small enough to train in milliseconds, and what a training may change, for the tests of the callbacks."""
from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from minifast.callback.core import Callback
from minifast.data.core import DataLoaders
from minifast.learner import Learner
from minifast.losses import CrossEntropyLossFlat
from minifast.optimizer import SGD


def data(n=32):
    """Pictures [n,3,6,6] and their classes, 0-3."""
    g = torch.Generator().manual_seed(7)
    x, y = torch.randn(32, 3, 6, 6, generator=g), torch.randint(0, 4, (32,), generator=g)
    return x[:n], y[:n]


def linear():
    """A linear model, always with the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Linear(108, 4))


def deep():
    """A model with batch norm and dropout, always with the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(.2), nn.Flatten(),
                             nn.Linear(64, 4))


def learner(n=32, bs=8, model=None, loss_func=None, opt_func=SGD, shuffle=False, **kwargs):
    """A silent learner on plain torch loaders, the training set being the validation set."""
    items = TensorDataset(*data(n))
    dls = DataLoaders(DataLoader(items, bs, shuffle=shuffle), DataLoader(items, bs))
    learn = Learner(dls, linear() if model is None else model, opt_func=opt_func, **kwargs,
                    loss_func=CrossEntropyLossFlat() if loss_func is None else loss_func)
    learn.remove_cb(learn.progress)
    learn.logger = lambda row: None
    return learn


def pictures(folder):
    """A learner on pictures of two classes, through our own loaders."""
    from PIL import Image

    from minifast.vision.augment import Resize
    from minifast.vision.data import ImageDataLoaders
    for name, colour in (('dark', 40), ('light', 200)):
        (folder / name).mkdir(parents=True)
        for i in range(8):
            Image.new('RGB', (20 + i, 24), (colour, colour + i, colour - i)).save(folder / name / f'{i}.png')
    dls = ImageDataLoaders.from_folder(folder, valid_pct=.5, seed=1, item_tfms=Resize(16), bs=4, num_workers=0)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    learn = Learner(dls, nn.Sequential(nn.Conv2d(3, 4, 3), head, nn.Linear(4, 2)), loss_func=CrossEntropyLossFlat())
    learn.remove_cb(learn.progress)
    return learn


def weights(learn):
    """A copy of the model's state."""
    return copy.deepcopy(learn.model.state_dict())


def same(a, b):
    """Whether two nested states hold the same bits."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


class Interrupt(Callback):
    """Presses Ctrl-C in an event of the batch `at`."""

    order = 99

    def __init__(self, event_name, at=1):
        self.at, self.n = at, 0
        setattr(self, event_name, self._press)

    def _press(self):
        self.n += 1
        if self.n > self.at:
            raise KeyboardInterrupt


class Losses(Callback):
    """Keeps the loss of every training batch."""

    run_valid = False

    def before_fit(self):
        self.seen = []

    def after_loss(self):
        self.seen.append(float(self.loss.detach()))
