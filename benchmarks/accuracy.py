"""What the fast paths do to accuracy: the same small training over five seeds, in float32, in the hardware's fast
precision, and on the pictures of torchvision's recipe.

    python -m benchmarks.accuracy [--rounds 5] [--size small|full]

Handwritten digits as JPEGs of 375x375 pixels, trained from scratch at 64 px: every picture is decoded at half its size.
"""
from __future__ import annotations

import contextlib
import io
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from benchmarks.pipeline import mean, std
from benchmarks.rounds import as_script

side, bs, big = 64, 32, 375


def write_digits(folder: Path, n_train: int, n_valid: int) -> Path:
    """`folder/{train,valid}/<digit>/<i>.jpg`: scikit-learn's scans of real handwriting, enlarged."""
    from sklearn.datasets import load_digits
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.images))[:n_train + n_valid]
    for place, i in enumerate(order):
        file = folder / ('train' if place < n_train else 'valid') / str(digits.target[i]) / f'{place:05d}.jpg'
        file.parent.mkdir(parents=True, exist_ok=True)
        grey = Image.fromarray((digits.images[i] * (255 / 16)).round().astype(np.uint8))
        grey.resize((big, big), Image.Resampling.BICUBIC).convert('RGB').save(file, quality=90)
    return folder


def _torchvision_loaders(folder: Path) -> list:
    """The same crops by Pillow and torchvision: full decode, antialiased resize."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2
    geometry = {'train': [v2.RandomResizedCrop(side, scale=(0.35, 1), antialias=True)],
                'valid': [v2.Resize(int(side * 1.14), antialias=True), v2.CenterCrop(side)]}
    last = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std), v2.ToPureTensor()]
    return [torch.utils.data.DataLoader(ImageFolder(folder / split, v2.Compose([*tfms, *last])), bs,
                                        shuffle=split == 'train', drop_last=split == 'train')
            for split, tfms in geometry.items()]


def _loaders(folder: Path, ours: bool) -> object:
    from minifast.vision.all import DataLoaders, ImageDataLoaders, Normalize, RandomResizedCrop
    if not ours:
        return DataLoaders(*_torchvision_loaders(folder))
    return ImageDataLoaders.from_folder(folder, item_tfms=RandomResizedCrop(side, min_scale=0.35), bs=bs, num_workers=0,
                                        batch_tfms=Normalize.from_stats(mean, std), device=torch.device('cpu'))


def accuracy_of(folder: Path, seed: int, epochs: int, ours: bool, precision: str) -> float:
    """Train a resnet18 and return its share of right answers on the validation pictures."""
    from minifast.vision.all import accuracy, resnet18, set_seed, vision_learner
    set_seed(seed)
    learn = vision_learner(_loaders(folder, ours), resnet18, pretrained=False, n_out=10, metrics=accuracy,
                           loss_func=F.cross_entropy, precision=precision)
    with contextlib.redirect_stdout(io.StringIO()):
        learn.fit_one_cycle(epochs, 2e-3)
    return learn.recorder.values[-1][-1]


contestants: dict[str, dict] = {"minifast, precision='fp32'": dict(ours=True, precision='fp32'),
                                "minifast, precision='auto'": dict(ours=True, precision='auto'),
                                "torchvision's pictures, precision='fp32'": dict(ours=False, precision='fp32')}


def compare(seeds: int, train: Callable[..., float]) -> str:
    """A Markdown table: accuracy over the seeds, and its difference to float32 with the noise of that difference."""
    found = {name: [train(seed=seed, **settings) for seed in range(seeds)] for name, settings in contestants.items()}
    base = next(iter(found.values()))
    lines = ['| | accuracy | difference to the first | twice its standard error |', '|---|---|---|---|']
    for name, each in found.items():
        gap = statistics.mean(each) - statistics.mean(base)
        error = 2 * (sum(statistics.variance(o) / seeds for o in (each, base)) ** .5 if seeds > 1 else float('nan'))
        lines.append(f'| {name} | **{statistics.mean(each):.4f}** | {gap:+.4f} | {error:.4f} |')
    return '\n'.join(lines)


def report(rounds: int = 5, peers: bool = False, size: str = 'small') -> str:
    """The table as Markdown; a round is a seed."""
    torch.set_num_threads(1)
    n_train, n_valid, epochs = {'tiny': (64, 32, 1), 'small': (600, 600, 4), 'full': (1200, 597, 6)}[size]
    with tempfile.TemporaryDirectory() as temporary:
        folder = write_digits(Path(temporary), n_train, n_valid)
        what = f'{n_train} + {n_valid} digits at {side} px, {epochs} epochs, {rounds} seeds'
        rows = compare(rounds, lambda **settings: accuracy_of(folder, epochs=epochs, **settings))
    return f'### Accuracy of a resnet18 from scratch ({what})\n\n{rows}'


if __name__ == '__main__':
    as_script(report, __doc__, 5)
