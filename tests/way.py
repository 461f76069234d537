"""The way of one batch, measured: `python tests/way.py` lists the rooms it passes, in what order, and how often.

Profiled are `ImageDataLoaders.from_folder` with `aug_transforms`, and the second batch of a training, in which nothing
is made or decided for the first time. Own pictures, one process, so that the numbers are the same on every machine.
Lines are counted without docstrings.
"""
from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
import torch
from PIL import Image

import minifast
from minifast.vision.all import (Callback, CrossEntropyLossFlat, ImageDataLoaders, Learner, Resize, aug_transforms,
                                 set_seed)

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / 'tools'))

from make_architecture import docstring_lines  # noqa: E402

PACKAGE = Path(minifast.__file__).parent


class Profile:
    """Which functions of the package were called, how often, and how often the file changed from call to call."""

    def __init__(self) -> None:
        self.calls: Counter[CodeType] = Counter()
        self.order: list[str] = []
        self.moves, self.last = 0, ''

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        file = frame.f_code.co_filename
        if event != 'call' or not file.startswith(str(PACKAGE)):
            return
        self.calls[frame.f_code] += 1
        if file != self.last:
            self.moves, self.last = self.moves + 1, file
            if file not in self.order:
                self.order.append(file)

    def start(self) -> None:
        """Count from here on."""
        sys.setprofile(self)

    @staticmethod
    def stop() -> None:
        """Count no more."""
        sys.setprofile(None)


def pictures(folder: Path) -> Path:
    """A folder of 32 JPEG files of 128x96 pixels in two classes, half of them for validation."""
    draw = np.random.default_rng(0)
    for split in ('train', 'valid'):
        for label in 'ab':
            (folder / split / label).mkdir(parents=True)
            for i in range(16):
                Image.fromarray(draw.integers(0, 255, (96, 128, 3), np.uint8)).save(folder / split / label / f'{i}.jpg')
    return folder


class EachBatch(Callback):
    """Profiles a training from batch to batch: `batches[i]` from the first event of batch i to that of batch i + 1."""

    order = -100

    def before_fit(self) -> None:
        """Nothing is counted yet."""
        self.batches: list[Profile] = []

    def before_batch(self) -> None:
        """The making of the next batch belongs to this one's profile."""
        Profile.stop()
        self.batches.append(Profile())
        self.batches[-1].start()

    def after_train(self) -> None:
        """The training batches are through."""
        Profile.stop()


def walked(folder: Path) -> tuple[Profile, list[Profile]]:
    """The profiles of making the loaders, and of each batch of one epoch."""
    set_seed(1)
    making, each = Profile(), EachBatch()
    making.start()
    dls = ImageDataLoaders.from_folder(folder, bs=8, num_workers=0, item_tfms=Resize(64),
                                       batch_tfms=aug_transforms(size=48))
    making.stop()
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
                                torch.nn.Linear(4, 2))
    learn = Learner(dls, model, loss_func=CrossEntropyLossFlat())
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, cbs=each)
    return making, each.batches


def lines_of(codes: set[CodeType]) -> dict[str, set[int]]:
    """The lines of these functions, from `def` to the last one, by file; nested ones once, docstrings not at all."""
    found: dict[str, set[int]] = {}
    for code in codes:
        last = max(line for _, _, line in code.co_lines() if line is not None)
        found.setdefault(code.co_filename, set()).update(range(code.co_firstlineno, last + 1))
    return {file: lines - docstring_lines(Path(file).read_text(encoding='utf-8')) for file, lines in found.items()}


def measure() -> dict[str, Any]:
    """The way in numbers; `rooms` maps each file to its lines, the share of them that ran and the calls a batch."""
    with tempfile.TemporaryDirectory() as folder:
        walked(pictures(Path(folder)))  # what is imported at its first use is no part of the way
        making, batches = walked(Path(folder))
    batch = batches[1]
    lines = lines_of(set(making.calls) | set(batch.calls))
    order = [*making.order, *(file for file in batch.order if file not in making.order)]
    rooms = {}
    for file in order:
        text = Path(file).read_text(encoding='utf-8')
        total = len(text.splitlines()) - len(docstring_lines(text))
        calls = sum(n for code, n in batch.calls.items() if code.co_filename == file)
        rooms[Path(file).relative_to(PACKAGE).as_posix()] = {'lines': total, 'ran': len(lines[file]), 'calls': calls}
    return {'rooms': rooms, 'lines that ran': sum(room['ran'] for room in rooms.values()),
            'calls a batch': batch.calls.total(), 'moves': batch.moves}


if __name__ == '__main__':
    found = measure()
    if '--json' in sys.argv:
        print(json.dumps(found))
    else:
        for name, room in found['rooms'].items():
            print(f'{name:28} {room["lines"]:4} lines, {room["ran"] / room["lines"]:4.0%} ran, {room["calls"]:4} calls')
        print(f'{len(found["rooms"])} rooms, {found["lines that ran"]} lines ran, {found["calls a batch"]} calls a '
              f'batch, {found["moves"]} moves')
