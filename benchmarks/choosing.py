"""What size, architecture and epochs do: one training, of which one thing at a time is another.

    python -m benchmarks.choosing [--rounds 3] [--size small|full]

Handwritten digits as JPEGs of 375x375 pixels, from scratch.
"""
from __future__ import annotations

import contextlib
import io
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy import write_digits
from benchmarks.rounds import as_script, cpu_s

base: dict[str, Any] = dict(arch='resnet18', size=64, epochs=4)
changes: list[dict[str, Any]] = [{}, dict(size=32), dict(size=96), dict(size=128), dict(arch='resnet34'),
                                 dict(arch='resnet50'), dict(epochs=2), dict(epochs=8), dict(epochs=16)]


def trained(folder: Path, seed: int, arch: str, size: int, epochs: int) -> tuple[float, float]:
    """The share of right answers on the validation pictures, and the CPU seconds that it took."""
    from minifast.vision import all as vision
    vision.set_seed(seed)
    dls = vision.ImageDataLoaders.from_folder(folder, bs=32, num_workers=0, device=torch.device('cpu'),
                                              item_tfms=vision.RandomResizedCrop(size, min_scale=0.35))
    learn = vision.vision_learner(dls, getattr(vision, arch), pretrained=False, metrics=vision.accuracy)
    start = cpu_s()
    with contextlib.redirect_stdout(io.StringIO()):
        learn.fit_one_cycle(epochs, 2e-3)
    return learn.recorder.values[-1][-1], cpu_s() - start


def report(rounds: int = 3, peers: bool = False, size: str = 'small') -> str:
    """The table as Markdown; a round is a seed, in which each setting has its turn."""
    torch.set_num_threads(1)
    n_train, n_valid = {'tiny': (64, 32), 'small': (600, 600), 'full': (1200, 597)}[size]
    chosen = [{**base, 'epochs': 1, **change} for change in ({}, {'size': 32})] if size == 'tiny' else [
        {**base, **change} for change in changes]
    found: list[list[tuple[float, float]]] = [[] for _ in chosen]
    with tempfile.TemporaryDirectory() as temporary:
        folder = write_digits(Path(temporary), n_train, n_valid)
        for seed in range(rounds):
            for settings, each in zip(chosen, found, strict=True):
                each.append(trained(folder, seed, **settings))
    lines = ['| architecture | pixels | epochs | accuracy | each seed | CPU time |', '|---|---|---|---|---|---|']
    first = statistics.median(seconds for _, seconds in found[0])
    for settings, each in zip(chosen, found, strict=True):
        right = [share for share, _ in each]
        lines.append(f'| {settings["arch"]} | {settings["size"]} | {settings["epochs"]} | '
                     f'**{statistics.mean(right):.3f}** | {", ".join(f"{share:.3f}" for share in right)} | '
                     f'{statistics.median(seconds for _, seconds in each) / first:.2f} |')
    return f'### minifast on {n_train} + {n_valid} digits from scratch ({rounds} seeds)\n\n' + '\n'.join(lines)


if __name__ == '__main__':
    as_script(report, __doc__, 3)
