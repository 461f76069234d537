"""`minifast demo`: what a pretrained body is worth, shown on real scans of handwritten digits."""
from __future__ import annotations

import gc
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from fastcore.basics import noop
from PIL import Image
from torchvision.models import resnet18

from minifast.callback.progress import ProgressCallback
from minifast.data.block import CategoryBlock, DataBlock
from minifast.data.core import DataLoaders
from minifast.data.transforms import FuncSplitter, get_image_files, parent_label
from minifast.metrics import accuracy
from minifast.seeds import set_seed
from minifast.terminal import print_table
from minifast.vision.augment import Resize, aug_transforms
from minifast.vision.core import PILImage
from minifast.vision.data import ImageBlock
from minifast.vision.learner import vision_learner

__all__ = ['digit_loaders', 'run_demo', 'write_digits']

PER_CLASS = 5
EPOCHS = 5
"""Few, for both sides: the body saves epochs as well as pictures, so with more of them scratch comes nearer."""
LR = 4e-3
"""Of 2e-3, 4e-3 and 6e-3 the best for a training from scratch; the body is given the same."""
SEEDS = 10
"""So few pictures make one training a matter of luck: what is shown is a mean, with how far the trainings lie apart."""


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
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def digit_loaders(folder: Path, classes: str, per_class: int | None = None, bs: int = 32, turned: bool = False) -> Any:
    """Loaders of some digits.

    Args:
        folder: what `write_digits` returned.
        classes: the digits, as one word: `'01234'`.
        per_class: pictures a class to train with, the others validate; default: all but the last 20.
        bs: pictures a batch.
        turned: each picture four times, turned by 0, 90, 180 and 270 degrees, a class for each digit and angle; those
            to train with also a little rotated, zoomed, warped and lit. The items are then lists of file and degrees.
    """
    files = [file for file in get_image_files(folder) if file.parent.name in classes]
    counts = {name: sum(file.parent.name == name for file in files) for name in classes}

    def validates(file: Path) -> bool:
        return int(file.stem) >= (per_class or counts[file.parent.name] - 20)

    common = {'blocks': (ImageBlock, CategoryBlock), 'item_tfms': Resize(32)}
    if not turned:
        block = DataBlock(get_y=parent_label, splitter=FuncSplitter(validates), **common)
        return block.dataloaders(files, bs=bs, val_bs=128, num_workers=0)
    block = DataBlock(get_x=lambda item: PILImage.create(item[0]).rotate(item[1]),
                      get_y=lambda item: f'{parent_label(item[0])} turned by {item[1]}',
                      splitter=FuncSplitter(lambda item: validates(item[0])), **common,
                      batch_tfms=aug_transforms(do_flip=False, max_rotate=25, min_zoom=0.7, max_zoom=1.3))
    return block.dataloaders([[file, degrees] for file in files for degrees in (0, 90, 180, 270)], bs=bs, val_bs=128,
                             num_workers=0)


def _trained(dls: Any, seed: int, precision: str, body: dict | None = None, quiet: bool = True) -> Any:
    """A learner that was trained on `dls`, from the weights of a body or from nothing, for as many epochs.

    The head is one linear layer: so few pictures cannot train two.
    """
    set_seed(seed)
    learn = vision_learner(dls, resnet18, pretrained=False, lin_ftrs=[], metrics=accuracy, precision=precision)
    if quiet:
        learn.remove_cb(ProgressCallback)
        learn.logger = noop
    if body is None:
        learn.fit_one_cycle(EPOCHS + 1, LR)
    else:
        learn.model[0].load_state_dict(body)
        learn.fine_tune(EPOCHS, LR, lr_mult=5)
    return learn


def _accuracies(few: Any, precision: str, body: dict | None = None) -> list[float]:
    """The accuracy on the validation pictures of `few`, looked at once behind each training; one a seed."""
    found = []
    for seed in range(SEEDS):
        found.append(_trained(DataLoaders(few.train), seed, precision, body).validate(dl=few.valid)[-1])
        gc.collect()  # a learner and its callbacks know each other: their memory is not given back at once
    return found


def _save_grid(learn: Any, file: Path) -> None:
    """A grid of validation pictures, the label above the prediction."""
    import matplotlib.pyplot as plt
    learn.show_results(max_n=12, nrows=3, ncols=4, figsize=(6, 5.4))
    plt.gcf().savefig(file, dpi=100)
    plt.close()


def run_demo(out: Path, precision: str = 'auto') -> tuple[list[float], list[float]]:
    """Train on 5 pictures a class, from a body that has seen other digits and from nothing; print and save.

    Args:
        out: the folder for the pictures, the model and the grid of predictions.
        precision: see `vision_learner`.

    Returns:
        The accuracies on the digits 5-9 with transfer, and those without, one a seed.
    """
    import matplotlib
    matplotlib.use('Agg')  # the grid goes to a file; a demo opens no window
    start = time.perf_counter()
    digits = write_digits(out / 'digits')
    print(f'1,797 scans of handwritten digits are in {digits}\n')

    set_seed(42)
    print('1. A resnet18 learns the digits 0-4, upright and turned by 90, 180 and 270 degrees: 20 classes')
    teacher = vision_learner(digit_loaders(digits, '01234', bs=64, turned=True), resnet18, pretrained=False,
                             metrics=accuracy, precision=precision)
    teacher.fit_one_cycle(5, 2e-3)
    body = teacher.model[0].state_dict()

    few = digit_loaders(digits, '56789', per_class=PER_CLASS, bs=8)
    print(f'\n2. Its body learns the digits 5-9 from {PER_CLASS} pictures each: fine_tune({EPOCHS})')
    learn = _trained(few, 0, precision, body, quiet=False)

    print(f'\n3. The same with {SEEDS} seeds, and from scratch with the same pictures and head, for as many epochs, at '
          f'the learning\n   rate that is best for it ({LR:g})')
    tuned, scratch = _accuracies(few, precision, body), _accuracies(few, precision)
    print(f'\nAccuracy on {len(few.valid_ds)} other pictures of the digits 5-9\n')
    _print_worth(tuned, scratch)
    print()
    for file in [few.valid_ds.items[i] for i in (0, len(few.valid_ds) // 2, -1)]:
        name, index, probabilities = learn.predict(file)
        print(f'{file} is a {name} with probability {float(probabilities[index]):.2f}')
    _save_grid(learn, out / 'predictions.png')
    learn.path = out
    print(f'\nA grid of predictions: {out / "predictions.png"}\nThe model:             {learn.export("digits.pth")}\n'
          f'{time.perf_counter() - start:.0f} s in all')
    return tuned, scratch


def _print_worth(tuned: list[float], scratch: list[float]) -> None:
    """A row a seed, then mean and standard deviation over the seeds."""
    with_body, without = np.array(tuned), np.array(scratch)
    worth = 100 * (with_body - without)
    rows = [[f'seed {seed}', f'{a:.1%}', f'{b:.1%}', f'{c:+.1f} points']
            for seed, (a, b, c) in enumerate(zip(with_body, without, worth, strict=True))]
    print_table([['', 'the body that knows 0-4', 'from scratch', 'worth of transfer'], *rows,
                 ['mean', f'{with_body.mean():.1%}', f'{without.mean():.1%}', f'{worth.mean():+.1f} points'],
                 ['spread', f'{100 * with_body.std(ddof=1):.1f}', f'{100 * without.std(ddof=1):.1f}',
                  f'{worth.std(ddof=1):.1f} points']])
