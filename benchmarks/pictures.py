"""JPEGs to read: windows of the two photographs that come with scikit-learn, or drawn where it is missing."""
from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance

classes = ('amber', 'blue')


def _photographs() -> list[Image.Image]:
    try:
        from sklearn.datasets import load_sample_images
    except ImportError:
        return [_drawn(0), _drawn(1)]
    return [Image.fromarray(pixels) for pixels in load_sample_images().images]


def _drawn(seed: int) -> Image.Image:
    """Noise and circles, 640x427: about as hard to compress as a photograph."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (54, 80, 3), dtype=np.uint8)).resize((640, 427))
    draw = ImageDraw.Draw(coarse)
    for x, y, r, *colour in rng.integers(0, 256, (60, 6)).tolist():
        draw.ellipse((2 * x, y, 2 * x + r // 3, y + r // 3), fill=tuple(colour))
    noise = rng.normal(0, 6, (427, 640, 3))
    return Image.fromarray(np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8))


def make_pictures(folder: Path, n_train: int, n_valid: int, size: tuple[int, int]) -> Path:
    """`folder/{train,valid}/<class>/<i>.jpg`, quality 90, half of each class; `size` is (width, height).

    The class is a faint tint, so that a model has something to learn.
    """
    photographs, rng = _photographs(), random.Random(0)
    for split, n in (('train', n_train), ('valid', n_valid)):
        for i in range(n):
            picture, label = photographs[rng.randrange(2)], classes[i % 2]
            share = rng.uniform(.75, 1)
            w, h = int(picture.width * share), int(picture.height * share)
            left, top = rng.randint(0, picture.width - w), rng.randint(0, picture.height - h)
            window = picture.resize(size, box=(left, top, left + w, top + h))
            window = ImageEnhance.Brightness(window).enhance(rng.uniform(.7, 1.2))
            red, green, blue = window.split()
            tinted = [red.point(lambda v: min(255, v + 12)), green, blue] if label == 'amber' else \
                [red, green, blue.point(lambda v: min(255, v + 12))]
            path = folder / split / label / f'{i:05d}.jpg'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.merge('RGB', tinted).save(path, quality=90)
    return folder
