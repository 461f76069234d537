"""From JPEG files to normalized batches: CPU time an image, in the calling process unless said otherwise.

    python -m benchmarks.pipeline [--rounds 8] [--peers]
"""
from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.peers import has
from benchmarks.pictures import make_pictures
from benchmarks.rounds import as_script, run_rounds, table

bs, side = 32, 224
mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
tasks = ('RandomResizedCrop + flip', 'Resize', 'RandomResizedCrop + aug_transforms')


def _one_pass(loader: Iterable) -> Callable[[], None]:
    def run() -> None:
        for _ in loader:
            pass
    return run


def torchvision_loader(folder: Path, task: str, split: str = 'train') -> Iterable:
    """ImageFolder and v2 transforms in the order torchvision's guide recommends for Pillow."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2
    geometry = [v2.Resize(side, antialias=True), v2.CenterCrop(side)] if task == 'Resize' else \
        [v2.RandomResizedCrop(side, antialias=True), v2.RandomHorizontalFlip()]
    light = []
    if 'aug' in task:  # the nearest it has to aug_transforms: geometry in three resamplings, then light
        geometry += [v2.RandomAffine(10, scale=(1, 1.1)), v2.RandomPerspective(0.2)]
        light = [v2.ColorJitter(0.2, 0.2)]
    tfms = v2.Compose([*geometry, *light, v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True),
                       v2.Normalize(mean, std), v2.ToPureTensor()])
    train = split == 'train'
    return torch.utils.data.DataLoader(ImageFolder(folder / split, tfms), bs, shuffle=train, drop_last=train)


def _block_loader(library: str, folder: Path, task: str, **settings: object) -> Iterable:
    """The training loader of fastai or minifast: the same lines but for the import."""
    if library == 'fastai':
        from fastai.vision.all import (
            FlipItem, ImageDataLoaders, Normalize, RandomResizedCrop, Resize, aug_transforms)
        settings = {'num_workers': 0, **settings}
    else:
        from minifast.vision.all import (
            FlipItem, ImageDataLoaders, Normalize, RandomResizedCrop, Resize, aug_transforms)
        settings = {'num_workers': 0, **settings}
    normalize = Normalize.from_stats(mean, std)
    item_tfms = {'Resize': [Resize(side)], 'RandomResizedCrop + flip': [RandomResizedCrop(side), FlipItem()]}
    augmented = [RandomResizedCrop(side, min_scale=0.35)]
    batch_tfms = [*aug_transforms(), normalize] if 'aug' in task else [normalize]
    dls = ImageDataLoaders.from_folder(folder, item_tfms=item_tfms.get(task, augmented), batch_tfms=batch_tfms, bs=bs,
                                       device=torch.device('cpu'), **settings)
    return dls.train


def difference(folder: Path) -> float:
    """Mean absolute difference, of 255, of minifast's validation pictures to Pillow's full decode, resize and crop."""
    from minifast.vision.all import ImageDataLoaders, Resize, get_image_files
    dls = ImageDataLoaders.from_folder(folder, item_tfms=Resize(side), bs=8, num_workers=0, device=torch.device('cpu'))
    files = list(get_image_files(folder / 'valid'))[:16]
    got = torch.cat([b[0] for b in dls.test_dl(files)]) * 255
    total = 0.
    for file, picture in zip(files, got):
        im = Image.open(file).convert('RGB')
        short = min(im.size)
        left, top = (im.width - short) // 2, (im.height - short) // 2
        im = im.resize((side, side), Image.Resampling.BILINEAR, box=(left, top, left + short, top + short))
        total += np.abs(np.asarray(im).transpose(2, 0, 1) - picture.numpy()).mean()
    return total / len(files)


def _table(folder: Path, task: str, rounds: int, peers: bool, n: int, target: float | None) -> str:
    contestants = {'torchvision ImageFolder + v2': _one_pass(torchvision_loader(folder, task)),
                   'minifast': _one_pass(_block_loader('minifast', folder, task)),
                   'minifast, later epochs with cache=': _one_pass(_block_loader('minifast', folder, task,
                                                                                 cache=folder / 'cache'))}
    if has('fastai', peers):
        contestants['fastai'] = _one_pass(_block_loader('fastai', folder, task))
    base = 'fastai' if 'aug' in task and 'fastai' in contestants else 'torchvision ImageFolder + v2'
    return table(run_rounds(contestants, rounds, warmup=1), base, n, target=target and {'minifast': target})


def _workers(folder: Path, rounds: int, n: int) -> str:
    """What handing a batch over costs: the same pass in the calling process, in threads, in processes."""
    ways = {'in the calling process': {}, '1 thread': dict(num_workers=1, multiprocessing_context='thread'),
            '2 threads': dict(num_workers=2, multiprocessing_context='thread'),
            '1 process': dict(num_workers=1, multiprocessing_context='fork'),
            '2 processes': dict(num_workers=2, multiprocessing_context='fork')}
    contestants = {name: _one_pass(_block_loader('minifast', folder, tasks[0], **settings))
                   for name, settings in ways.items()}
    results = run_rounds(contestants, rounds, warmup=1)
    return table(results, 'in the calling process', n)


def _tensors(rounds: int, n: int) -> str:
    """A pass over pictures of 32x32 in memory, shuffled, in batches of 64."""
    from torch.utils.data import DataLoader, TensorDataset

    from minifast.data.load import DataLoader as Ours
    data = TensorDataset(torch.zeros(n, 3, 32, 32), torch.zeros(n, dtype=torch.long))
    contestants = {"torch's DataLoader": _one_pass(DataLoader(data, 64, shuffle=True)),
                   'minifast': _one_pass(Ours(data, bs=64, shuffle=True))}
    return table(run_rounds(contestants, rounds, warmup=1), "torch's DataLoader", n)


def report(rounds: int = 8, peers: bool = False, size: str = 'small') -> str:
    """The tables as Markdown."""
    torch.set_num_threads(1)
    n = {'tiny': 32, 'small': 128, 'full': 512}[size]
    wanted = {(500, tasks[0]): 1 / 1.9, (500, tasks[1]): 1 / 1.9, (320, tasks[0]): 1 / 2.7, (320, tasks[1]): 1 / 2.7}
    parts = [f'### {100 * n:,} pictures of 32x32 that are in memory (TensorDataset), CPU time an image',
             _tensors(rounds, 100 * n)]
    for w, h in ((500, 375), (320, 240)):
        with tempfile.TemporaryDirectory() as temporary:
            folder = make_pictures(Path(temporary), n, 16, (w, h))
            for task in tasks:
                against_fastai = 'aug' in task and has('fastai', peers)
                target = 1 / 4.5 if against_fastai else wanted.get((w, task))
                parts += [f'### {task}, {side} px of {w}x{h} JPEGs, CPU time an image',
                          _table(folder, task, rounds, peers, n, target)]
            parts.append(f'Pixels of a validation batch differ from Pillow\'s (decode in full, one bilinear resize) by '
                         f'{difference(folder):.3f} of 255 in the mean.')
            if w == 500:
                parts += [f'### Handing batches over ({tasks[0]}, {n} pictures of {w}x{h}; workers are started), CPU '
                          'time an image',
                          _workers(folder, rounds, n)]
    return '\n\n'.join(parts)


if __name__ == '__main__':
    as_script(report, __doc__, 8)
