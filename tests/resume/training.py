"""The small training that the resume tests kill: data, learner, a fault, and what must come out the same.

As a program, `python -m tests.resume.training SPEC` runs one attempt of a training (SPEC is JSON) in a process of its
own and writes weights, optimizer, recorder and predictions at its end.
"""
from __future__ import annotations

import functools
import json
import os
import random
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import Dataset

from minifast.callback.checkpoint import CheckpointCallback
from minifast.callback.core import Callback
from minifast.callback.fp16 import AMPMode, MixedPrecision
from minifast.callback.mixup import MixUp
from minifast.callback.training import EMACallback, GradientAccumulation
from minifast.data.block import CategoryBlock, DataBlock
from minifast.data.core import DataLoaders
from minifast.data.load import DataLoader
from minifast.data.transform import Transform
from minifast.data.transforms import RandomSplitter
from minifast.learner import Learner
from minifast.markers import TensorImage
from minifast.metrics import accuracy
from minifast.optimizer import Adam
from minifast.seeds import set_seed
from minifast.tensorfile import copied, storable, write_atomic
from minifast.vision.augment import FlipItem, RandomResizedCrop, aug_transforms
from minifast.vision.core import PILImage
from minifast.vision.data import ImageBlock

DEFAULTS: dict[str, Any] = {
    'loader': 'ours', 'workers': 0, 'fit': 'fit', 'cbs': [], 'epochs': 3, 'every': 4, 'seed': 7, 'resume': False,
    'kill_at': None, 'kill_in': 'after_backward', 'how': 'error', 'folder': None, 'out': None, 'background': True,
    'device': None, 'reproducible': False}


reads: list[int] = []
"""The training items read in this process since it was cleared, in order."""


class Numbers(Dataset):
    """48 rows; each read adds noise of all three generators, as a user's own transform would."""

    def __init__(self, n: int, noisy: bool) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x, self.y = torch.randn(n, 6, generator=generator), torch.randint(0, 3, (n,), generator=generator)
        self.noisy = noisy

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple:
        x = self.x[i]
        if self.noisy:
            reads.append(int(i))
            x = x + 0.1 * (random.random() + np.random.rand() + torch.rand(6))
        return x, self.y[i]


def shake(b: tuple) -> tuple:
    """A batch transform that draws from torch's generator."""
    return b[0] * (1 + 0.1 * torch.rand(1, device=b[0].device)), *b[1:]


class Stream:
    """A loader of the user's: draws its batches as it goes, and says where it stands."""

    def __init__(self) -> None:
        self.dataset, self.at, self.generator = Numbers(48, False), 0, torch.Generator().manual_seed(3)

    def __len__(self) -> int:
        return 6

    def __iter__(self) -> Any:
        while self.at < len(self):
            rows = torch.randint(0, 48, (8,), generator=self.generator)
            self.at += 1
            yield self.dataset.x[rows], self.dataset.y[rows]
        self.at = 0

    def state_dict(self) -> dict[str, Any]:
        return {'at': self.at, 'generator': self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.at = state['at']
        self.generator.set_state(state['generator'])


class Noise(Transform):
    """A transform of the user's on an item, drawing from all three generators."""

    order = 20

    def encodes(self, x: TensorImage) -> TensorImage:
        return x.float().add(random.random() + np.random.rand() + torch.rand(1)).clamp(0, 255).byte()


def picture_loaders(workers: int, device: str) -> DataLoaders:
    """48 and 20 pictures of 12x10, crops and flips of items, light and geometry of batches, and the user's noise."""
    pixels = np.random.RandomState(0).randint(0, 255, (68, 10, 12, 3), np.uint8)
    block = DataBlock(blocks=(ImageBlock, CategoryBlock(vocab=[0, 1, 2])), splitter=RandomSplitter(20 / 68, seed=1),
                      get_x=lambda i: PILImage.create(pixels[i]), get_y=lambda i: i % 3,
                      item_tfms=[FlipItem(), RandomResizedCrop(8), Noise()], batch_tfms=aug_transforms())
    return block.dataloaders(range(68), bs=8, num_workers=workers, device=device)


class Kill(Callback):
    """Ends the training at the `at`-th call of a hook: by an error, SIGKILL, SIGTERM or Ctrl-C."""

    not_carried = ('left',)  # each attempt is killed where it says

    def __init__(self, at: int, event: str, how: str = 'error') -> None:
        self.left, self.how = at, how
        setattr(self, event, self._count)

    def _count(self) -> None:
        self.left -= 1
        if self.left == 0:
            if self.how == 'error':
                raise ZeroDivisionError('killed')
            os.kill(os.getpid(), {'kill': signal.SIGKILL, 'term': signal.SIGTERM, 'int': signal.SIGINT}[self.how])


def make_learner(spec: dict[str, Any]) -> Learner:
    """The learner of a spec; initial weights are always the same."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))
    train, valid, workers = Numbers(48, True), Numbers(20, False), spec['workers']
    if spec['loader'] == 'pictures':
        model = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                              nn.Flatten(), nn.Dropout(0.2), nn.Linear(8, 3))
        dls = picture_loaders(workers, spec['device'] or 'cpu')
    elif spec['loader'] == 'stream':
        dls = DataLoaders(Stream(), DataLoader(valid, bs=8))
    elif spec['loader'] == 'ours':
        dls = DataLoaders(DataLoader(train, bs=8, shuffle=True, num_workers=workers, after_batch=shake),
                          DataLoader(valid, bs=8, num_workers=workers))
    else:
        generator = torch.Generator().manual_seed(3) if spec['loader'] == 'torch with generator' else None
        dls = DataLoaders(TorchLoader(train, batch_size=8, shuffle=True, num_workers=workers, generator=generator),
                          TorchLoader(valid, batch_size=8, num_workers=workers))
    if spec['device'] is not None:
        dls.device = spec['device']
    learn = Learner(dls, model, F.cross_entropy, Adam, lr=0.01, metrics=accuracy,
                    splitter=lambda m: [list(m[:2].parameters()), list(m[2:].parameters())])
    learn.remove_cb(learn.progress)
    learn.logger = lambda row: None
    return learn


def make_callbacks(names: list[str]) -> list[Callback]:
    """Callbacks by name."""
    known = {'ema': lambda: EMACallback(), 'mixup': lambda: MixUp(0.4), 'accumulate': lambda: GradientAccumulation(20),
             'bf16': lambda: MixedPrecision(amp_mode=AMPMode.BF16),
             'fp16': lambda: MixedPrecision(init_scale=2. ** 20, growth_interval=3)}
    return [known[name]() for name in names]


def run(spec: dict[str, Any]) -> Learner:
    """One attempt of the training of `spec`."""
    spec = {**DEFAULTS, **spec}
    learn = make_learner(spec)
    cbs = make_callbacks(spec['cbs'])
    if spec['folder'] is not None:
        cbs.append(CheckpointCallback(spec['folder'], every=spec['every'], background=spec['background']))
    if spec['kill_at'] is not None:
        cbs.append(Kill(spec['kill_at'], spec['kill_in'], spec['how']))
    set_seed(spec['seed'], reproducible=spec['reproducible'])
    kwargs = {'cbs': cbs, 'resume': spec['resume']}
    with warnings.catch_warnings():
        # attempts have other seeds on purpose: the bits must not depend on them, and the warning of it is right
        warnings.filterwarnings('ignore', 'resuming from .*: seed was', UserWarning)
        if spec['fit'] == 'fine_tune':
            learn.fine_tune(spec['epochs'] - 1, base_lr=0.01, freeze_epochs=1, **kwargs)
        elif spec['fit'] == 'one_cycle':
            learn.fit_one_cycle(spec['epochs'], 0.01, **kwargs)
        else:
            learn.fit(spec['epochs'], **kwargs)
    return learn


def outcome(learn: Learner) -> dict[str, Any]:
    """All that must be the same, on the CPU: weights, optimizer, recorder, predictions, the next random numbers."""
    recorder = learn.recorder
    found = {'model': dict(learn.model.state_dict()), 'opt': learn.opt.state_dict(), 'lrs': recorder.lrs,
             'losses': list(recorder.losses), 'values': [list(row) for row in recorder.values],
             'iters': list(recorder.iters),
             'next': [torch.rand(3), torch.tensor(random.random()), torch.tensor(np.random.rand())]}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found['next'].append(torch.rand(3, device='cuda').cpu())
    found['preds'] = learn.get_preds()[0]
    return copied(storable(found))


@functools.lru_cache(None)
def undisturbed(text: str) -> dict[str, Any]:
    """The outcome of a training, a spec as JSON, that nobody kills, without checkpoints; ours without workers."""
    return outcome(run(json.loads(text)))


def killed_and_resumed(spec: dict[str, Any], folder: Path, kills: Sequence[tuple[int, str]],
                       workers: Sequence[int] | None = None, seeds: Sequence[int] = (7, 99, 123, 55)) -> Learner:
    """The learner after attempts that end at the given (hook call, hook) one after another, and a last whole one."""
    learn = None
    attempts = [*kills, None]
    for i, kill in enumerate(attempts):
        attempt = {**spec, 'folder': str(folder), 'resume': i > 0, 'seed': seeds[i]}
        if workers is not None:
            attempt['workers'] = workers[i % len(workers)]
        if kill is not None:
            attempt['kill_at'], attempt['kill_in'] = kill
        try:
            learn = run(attempt)
        except ZeroDivisionError:
            continue
    return learn


def same(a: Any, b: Any) -> bool:
    """Equality of nested data, tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """The parts of two outcomes that are not the same."""
    return [k for k in a if not same(a[k], b[k])]


if __name__ == '__main__':
    made = run(json.loads(sys.argv[1]))
    out = {**DEFAULTS, **json.loads(sys.argv[1])}['out']
    write_atomic(Path(out), outcome(made))
