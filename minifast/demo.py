"""`minifast demo`: what a pretrained body is worth, shown on real scans of handwritten digits."""
from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torchvision.models import resnet18

from minifast.commands import print_table
from minifast.data.block import CategoryBlock, DataBlock
from minifast.data.transforms import FuncSplitter, get_image_files, parent_label
from minifast.metrics import accuracy
from minifast.torch_core import set_seed
from minifast.vision.augment import Resize
from minifast.vision.data import ImageBlock
from minifast.vision.learner import vision_learner

__all__ = ['digit_loaders', 'run_demo', 'write_digits']

PER_CLASS = 20
EPOCHS = 3
LR = 4e-3


def write_digits(folder: str | Path) -> Path:
    """Write scikit-learn's 1,797 scans of handwritten digits as `folder/<class>/<n>.png`, once, and return the folder.

    The scans are 8x8 pixels of 17 grey levels and are written as 64x64 pictures; `n` counts within a class from 0.

    Source: the test set of "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository (CC BY 4.0).
    """
    folder = Path(folder)
    if folder.is_dir():
        return folder
    from sklearn.datasets import load_digits
    digits, seen = load_digits(), [0] * 10
    folder.parent.mkdir(parents=True, exist_ok=True)
    # written beside and renamed, so that a folder of this name is always complete
    unfinished = Path(tempfile.mkdtemp(prefix=f'.{folder.name}-', dir=folder.parent))
    try:
        for scan, label in zip(digits.images, digits.target, strict=True):
            file = unfinished / str(label) / f'{seen[label]:03d}.png'
            file.parent.mkdir(exist_ok=True)
            grey = Image.fromarray((scan * (255 / 16)).round().astype(np.uint8))
            grey.resize((64, 64), Image.Resampling.BICUBIC).save(file)
            seen[label] += 1
        unfinished.chmod(0o755)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def digit_loaders(folder: Path, classes: str, per_class: int | None = None, bs: int = 32) -> Any:
    """Loaders of some digits.

    Args:
        folder: what `write_digits` returned.
        classes: the digits, as one word: `'01234'`.
        per_class: pictures a class to train with, the others validate; default: all but the last 20.
        bs: pictures a batch.
    """
    files = [file for file in get_image_files(folder) if file.parent.name in classes]
    counts = {name: sum(file.parent.name == name for file in files) for name in classes}

    def validates(file: Path) -> bool:
        return int(file.stem) >= (per_class or counts[file.parent.name] - 20)

    block = DataBlock(blocks=(ImageBlock, CategoryBlock), get_y=parent_label, splitter=FuncSplitter(validates),
                      item_tfms=Resize(64))
    return block.dataloaders(files, bs=bs, num_workers=0)


def _last_accuracy(learn: Any) -> float:
    return learn.recorder.values[-1][-1]


def _save_grid(learn: Any, file: Path) -> None:
    """A grid of validation pictures, the label above the prediction."""
    import matplotlib.pyplot as plt
    learn.show_results(max_n=12, nrows=3, ncols=4, figsize=(6, 5.4))
    plt.gcf().savefig(file, dpi=100)
    plt.close()


def run_demo(out: Path) -> tuple[float, float]:
    """Train on 20 pictures a class twice, from a body that has seen other digits and from nothing; print and save.

    Args:
        out: the folder for the pictures, the model and the grid of predictions.

    Returns:
        The accuracies on the digits 5-9, with and without transfer.
    """
    import matplotlib
    matplotlib.use('Agg')  # the grid goes to a file; a demo opens no window
    start = time.perf_counter()
    digits = write_digits(out / 'digits')
    print(f'1,797 scans of handwritten digits are in {digits}\n')

    set_seed(42)
    print('1. A resnet18 learns the digits 0-4')
    teacher = vision_learner(digit_loaders(digits, '01234'), resnet18, pretrained=False, metrics=accuracy)
    teacher.fit_one_cycle(2, 5e-3)

    few = digit_loaders(digits, '56789', per_class=PER_CLASS, bs=PER_CLASS)
    print(f'\n2. Its body learns the digits 5-9 from {PER_CLASS} pictures each: fine_tune({EPOCHS})')
    learn = vision_learner(few, resnet18, pretrained=False, metrics=accuracy)
    learn.model[0].load_state_dict(teacher.model[0].state_dict())
    learn.fine_tune(EPOCHS, LR)

    print('\n3. The same pictures, epochs and learning rate from scratch')
    scratch = vision_learner(few, resnet18, pretrained=False, metrics=accuracy)
    scratch.fit_one_cycle(EPOCHS + 1, LR)

    with_transfer, without = _last_accuracy(learn), _last_accuracy(scratch)
    print(f'\nAccuracy on {len(few.valid_ds)} other pictures of the digits 5-9\n')
    print_table([['start', 'accuracy'], ['the body that knows 0-4', f'{with_transfer:.1%}'],
                 ['from scratch', f'{without:.1%}'],
                 ['worth of transfer', f'{100 * (with_transfer - without):+.1f} points']])
    print()
    for file in [few.valid_ds.items[i] for i in (0, len(few.valid_ds) // 2, -1)]:
        name, index, probabilities = learn.predict(file)
        print(f'{file} is a {name} with probability {float(probabilities[index]):.2f}')
    _save_grid(learn, out / 'predictions.png')
    learn.path = out
    print(f'\nA grid of predictions: {out / "predictions.png"}\nThe model:             {learn.export("digits.pth")}\n'
          f'{time.perf_counter() - start:.0f} s in all')
    return with_transfer, without
