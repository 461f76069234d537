"""Tiny drawn data sets for the scripts that run under fastai and minifast; needs neither of them.

Everything is drawn from the numbers in the arguments, so both libraries see the same bytes.
"""
from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

seed = 42
"""The seed of the run; the runner sets it."""

folder = Path('.')
"""Where the scripts draw; the runner sets it to an empty folder."""

COLOURS = {'blue': (40, 60, 220), 'green': (30, 180, 60), 'red': (220, 40, 40)}
SHAPES = ('circle', 'square', 'triangle')


def picture(shape: str, colour: str, key: int, size: tuple[int, int] = (48, 40)) -> tuple[Image.Image, tuple[int, ...]]:
    """A shape on a grey noisy ground, and its box (left, top, right, bottom)."""
    rng = random.Random(f'{shape} {colour} {key}')
    noise = np.random.default_rng(key).integers(90, 150, (size[1], size[0], 3), dtype=np.uint8)
    im = Image.fromarray(noise)
    side = rng.randint(min(size) // 3, min(size) // 2)
    left, top = rng.randint(1, size[0] - side - 2), rng.randint(1, size[1] - side - 2)
    box = (left, top, left + side, top + side)
    draw = ImageDraw.Draw(im)
    if shape == 'circle':
        draw.ellipse(box, fill=COLOURS[colour])
    elif shape == 'square':
        draw.rectangle(box, fill=COLOURS[colour])
    else:
        draw.polygon([(left, top + side), (left + side, top + side), (left + side // 2, top)], fill=COLOURS[colour])
    return im, box


def _save(im: Image.Image, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    im.save(file)


def colour_folders(name: str = 'colours', n_train: int = 8, n_valid: int = 4) -> Path:
    """`train/<colour>/<colour>_<i>.png` and `valid/...`; the class is the colour."""
    path = folder / name
    for part, n, first in (('train', n_train, 0), ('valid', n_valid, 100)):
        for colour in COLOURS:
            for i in range(first, first + n):
                _save(picture(SHAPES[i % 3], colour, i)[0], path / part / colour / f'{colour}_{i}.png')
    return path


def pets(name: str = 'pets', n: int = 6) -> Path:
    """`images/Abyssinian_1.png` (cats, upper case) and `images/beagle_1.png` (dogs): the class is in the file name."""
    path = folder / name
    for breed, (shape, colour) in {'Abyssinian': ('circle', 'red'), 'Bombay': ('square', 'blue'),
                                   'beagle': ('triangle', 'green'), 'great_pyrenees': ('circle', 'blue')}.items():
        for i in range(1, n + 1):
            size = (48, 40) if i % 2 else (36, 52)
            _save(picture(shape, colour, i, size)[0], path / 'images' / f'{breed}_{i}.png')
    return path


def labelled_csv(name: str = 'planet', n: int = 24) -> Path:
    """`train/<i>.png` and `labels.csv` with fname (no suffix), labels ('red circle'), is_valid and area (a share)."""
    path = folder / name
    rows = []
    for i in range(n):
        colour, shape = list(COLOURS)[i % 3], SHAPES[i // 3 % 3]
        im, (left, _, right, _) = picture(shape, colour, i)
        _save(im, path / 'train' / f'im{i:03d}.png')
        rows.append({'fname': f'im{i:03d}', 'labels': f'{colour} {shape}', 'is_valid': i % 4 == 3,
                     'area': round((right - left) ** 2 / (48 * 40), 4)})
    with (path / 'labels.csv').open('w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def camvid(name: str = 'camvid', n: int = 16) -> Path:
    """`images/<i>.png`, `labels/<i>_P.png` (0 ground, 1 round, 2 corners) and `codes.txt`."""
    path = folder / name
    for i in range(n):
        shape = SHAPES[i % 2]
        im, box = picture(shape, list(COLOURS)[i % 3], i)
        mask = Image.new('L', im.size)
        draw = ImageDraw.Draw(mask)
        draw.ellipse(box, fill=1) if shape == 'circle' else draw.rectangle(box, fill=2)
        _save(im, path / 'images' / f'{i:03d}.png')
        _save(mask, path / 'labels' / f'{i:03d}_P.png')
    (path / 'codes.txt').write_text('Ground\nRound\nCorners\n', encoding='utf-8')
    return path


def points(name: str = 'biwi', n: int = 16) -> Path:
    """`<i>.png` with one red disc and `<i>.txt` with its centre 'x y' in pixels."""
    path = folder / name
    for i in range(n):
        im, (left, top, right, bottom) = picture('circle', 'red', i)
        _save(im, path / f'{i:03d}.png')
        (path / f'{i:03d}.txt').write_text(f'{(left + right) / 2} {(top + bottom) / 2}', encoding='utf-8')
    return path


def coco(name: str = 'coco', n: int = 12) -> Path:
    """`train/<i>.png` with one or two shapes and `train.json`, annotations in COCO's form."""
    path = folder / name
    images, annotations = [], []
    for i in range(n):
        im, box = picture(SHAPES[i % 3], 'red', i)
        boxes = [(box, i % 3)]
        if i % 2:
            ImageDraw.Draw(im).rectangle((1, 1, 8, 9), fill=COLOURS['blue'])
            boxes.append(((1, 1, 8, 9), 1))
        _save(im, path / 'train' / f'{i:03d}.png')
        images.append({'id': i, 'file_name': f'{i:03d}.png'})
        annotations += [{'image_id': i, 'bbox': [b[0], b[1], b[2] - b[0], b[3] - b[1]], 'category_id': c}
                        for b, c in boxes]
    text = json.dumps({'images': images, 'annotations': annotations,
                       'categories': [{'id': i, 'name': s} for i, s in enumerate(SHAPES)]})
    (path / 'train.json').write_text(text, encoding='utf-8')
    return path


def digits(n: int = 600) -> tuple[np.ndarray, np.ndarray]:
    """The first `n` of scikit-learn's digits: float32 [n,8,8] in [0,1] and int64 [n]."""
    from sklearn.datasets import load_digits
    data = load_digits()
    return (data.images[:n] / 16).astype(np.float32), data.target[:n].astype(np.int64)


def digit_folder(name: str = 'digits', n: int = 300) -> Path:
    """`<digit>/<i>.png`, 16x16 grey, the first `n` of scikit-learn's digits."""
    path = folder / name
    for i, (x, y) in enumerate(zip(*digits(n))):
        _save(Image.fromarray((x * 255).astype(np.uint8)).resize((16, 16), Image.Resampling.NEAREST),
              path / str(y) / f'{i:04d}.png')
    return path


def names_of(*values: object) -> list[str]:
    """The class names of values: what a script compares of types."""
    return [type(value).__name__ for value in values]
