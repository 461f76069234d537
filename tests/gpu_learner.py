"""Pictures and learners for the tests on a GPU."""
from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import nn

from minifast.learner import Learner
from minifast.losses import CrossEntropyLossFlat
from minifast.metrics import accuracy
from minifast.vision.augment import Resize
from minifast.vision.data import ImageDataLoaders
from minifast.vision.learner import vision_learner


def make_pictures(folder, n=24, side=80):
    """`n` pictures of smooth noise in two classes, dark and light."""
    rng = np.random.default_rng(0)
    for i in range(n):
        name, base = ('dark', 60) if i % 2 else ('light', 160)
        coarse = Image.fromarray(rng.integers(base - 50, base + 50, (8, 8, 3), dtype=np.uint8))
        (folder / name).mkdir(parents=True, exist_ok=True)
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(folder / name / f'{i:03}.png')
    return folder


def loaders(folder, device=None, side=64, bs=4, **kwargs):
    """Pictures of `side` pixels, a quarter of them for validation."""
    kwargs = {'num_workers': 0, 'item_tfms': Resize(side), **kwargs}
    return ImageDataLoaders.from_folder(folder, valid_pct=.25, seed=1, bs=bs, device=device, **kwargs)


def silent(learn):
    """The learner, saying nothing."""
    learn.remove_cb(learn.progress)
    learn.logger = lambda row: None
    return learn


def resnet(dls, **kwargs):
    """A resnet18 from scratch, always with the same weights."""
    from torchvision.models import resnet18
    torch.manual_seed(5)
    return silent(vision_learner(dls, resnet18, pretrained=False, metrics=accuracy, path=dls.path, **kwargs))


def small(dls, **kwargs):
    """Convolution, batch norm and a head, always with the same weights."""
    torch.manual_seed(6)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                          nn.Linear(8, 2))
    return silent(Learner(dls, model, CrossEntropyLossFlat(), metrics=accuracy, path=dls.path, **kwargs))
