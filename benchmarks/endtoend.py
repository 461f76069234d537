"""Fine-tuning a resnet18 on JPEGs from the first file to the last validation: CPU time and peak memory.

    python -m benchmarks.endtoend [--rounds 1] [--peers] [--size small|full]

One epoch with a frozen body and one with all weights, each with its validation; one thread, no workers, weights from
scratch (nothing is downloaded). Each contestant runs in a process of its own. `--size full`: 1,500 pictures.
"""
from __future__ import annotations

import contextlib
import io
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.peers import has
from benchmarks.pictures import classes, make_pictures
from benchmarks.pipeline import mean, std, torchvision_loader
from benchmarks.rounds import Timing, as_script, child_arguments, cpu_s, in_child, peak_mb, run_rounds, table, tell
from benchmarks.training import make_model

px, bs = 224, 32


# ---------------------------------------------------------------- contestants: folder -> what is measured

def _learner(library: str, folder: Path, **settings: object) -> Callable[[], object]:
    """fastai and minifast: the same lines but for the import."""
    if library == 'fastai':
        from fastai.vision.all import ImageDataLoaders, Normalize, RandomResizedCrop, accuracy, resnet18, vision_learner
    else:
        from minifast.vision.all import (
            ImageDataLoaders, Normalize, RandomResizedCrop, accuracy, resnet18, vision_learner)
    dls = ImageDataLoaders.from_folder(folder, item_tfms=RandomResizedCrop(px), bs=bs, num_workers=0,
                                       batch_tfms=Normalize.from_stats(mean, std), device=torch.device('cpu'))
    learn = vision_learner(dls, resnet18, pretrained=False, metrics=accuracy, **settings)
    return lambda: learn.fine_tune(1)


class _Jpegs(torch.utils.data.Dataset):
    """A hand-tuned data set: libjpeg-turbo, then one antialiased uint8 resize of a random window."""

    def __init__(self, folder: Path, split: str) -> None:
        self.files = sorted((folder / split).rglob('*.jpg'))
        self.random = split == 'train'

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        from simplejpeg import decode_jpeg
        from torchvision.transforms.v2 import RandomResizedCrop
        pixels = torch.from_numpy(decode_jpeg(self.files[i].read_bytes())).permute(2, 0, 1)
        top, left, h, w = 0, (pixels.shape[2] - pixels.shape[1]) // 2, pixels.shape[1], pixels.shape[1]
        if self.random:
            top, left, h, w = RandomResizedCrop(px).make_params([pixels]).values()
        window = pixels[None, :, top:top + h, left:left + w]
        x = F.interpolate(window, (px, px), mode='bilinear', antialias=True)[0]
        return (x.flip(-1) if self.random and torch.rand(()) < .5 else x), classes.index(self.files[i].parent.name)


def _plain_tuned(folder: Path) -> Callable[[], None]:
    """A plain loop with every trick by hand."""
    from minifast.hardware import fast_paths, keep_freed_memory
    keep_freed_memory()
    bf16 = fast_paths('cpu').bf16
    model = make_model().to(memory_format=torch.channels_last)
    train = torch.utils.data.DataLoader(_Jpegs(folder, 'train'), bs, shuffle=True, drop_last=True)
    valid = torch.utils.data.DataLoader(_Jpegs(folder, 'valid'), bs)
    scale = torch.tensor([1 / (255 * s) for s in std]).view(3, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(mean, std)]).view(3, 1, 1)

    def forward(x: Tensor) -> Tensor:
        x = torch.addcmul(shift, x.float(), scale).contiguous(memory_format=torch.channels_last)
        with torch.autocast('cpu', torch.bfloat16, enabled=bf16):
            return model(x).float()

    def epoch(opt: torch.optim.Optimizer) -> None:
        model.train()
        schedule = torch.optim.lr_scheduler.OneCycleLR(opt, 1e-3, total_steps=len(train))
        for x, y in train:
            F.cross_entropy(forward(x), y).backward()
            opt.step()
            opt.zero_grad()
            schedule.step()
        model.eval()
        with torch.no_grad():
            right = sum((forward(x).argmax(1) == y).sum() for x, y in valid)
        print(float(right))

    def run() -> None:
        for frozen in (True, False):
            model[0].requires_grad_(not frozen)
            for m in model[0].modules():
                if isinstance(m, nn.BatchNorm2d):
                    m.requires_grad_(True)
            epoch(torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True))
    return run


def _lightning(folder: Path) -> Callable[[], None]:
    """Lightning as its guides show it: ImageFolder, float32, BatchNorm of the frozen body trained too."""
    import lightning

    class Module(lightning.LightningModule):
        """The model; `frozen` trains its head and BatchNorm only."""

        def __init__(self) -> None:
            super().__init__()
            self.model = make_model()

        def freeze(self, frozen: bool) -> None:
            self.model[0].requires_grad_(not frozen)
            for m in self.model[0].modules():
                if isinstance(m, nn.BatchNorm2d):
                    m.requires_grad_(True)

        def training_step(self, batch: tuple, batch_idx: int) -> Tensor:
            loss = F.cross_entropy(self.model(batch[0]), batch[1])
            self.log('train_loss', loss)
            return loss

        def validation_step(self, batch: tuple, batch_idx: int) -> None:
            pred = self.model(batch[0])
            self.log('valid_loss', F.cross_entropy(pred, batch[1]))
            self.log('accuracy', (pred.argmax(1) == batch[1]).float().mean())

        def configure_optimizers(self) -> dict:
            opt = torch.optim.AdamW([p for p in self.parameters() if p.requires_grad])
            steps = torch.optim.lr_scheduler.OneCycleLR(opt, 1e-3, total_steps=self.trainer.estimated_stepping_batches)
            return {'optimizer': opt, 'lr_scheduler': {'scheduler': steps, 'interval': 'step'}}

    loaders = torchvision_loader(folder, 'RandomResizedCrop + flip'), torchvision_loader(folder, 'Resize', 'valid')
    module = Module()

    def run() -> None:
        with tempfile.TemporaryDirectory() as logs:
            for frozen in (True, False):
                module.freeze(frozen)
                trainer = lightning.Trainer(max_epochs=1, accelerator='cpu', default_root_dir=logs,
                                            num_sanity_val_steps=0, enable_checkpointing=False, log_every_n_steps=1)
                trainer.fit(module, *loaders)
    return run


contestants = {'fastai': lambda folder: _learner('fastai', folder), 'Lightning, untuned': _lightning,
               'plain loop, tuned by hand': _plain_tuned,
               'minifast': lambda folder: _learner('minifast', folder),
               "minifast, precision='fp32'": lambda folder: _learner('minifast', folder, precision='fp32')}


def child(contestant: str, folder: str) -> Timing:
    """Run one contestant; its imports and the making of its model are not measured."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), \
            warnings.catch_warnings():
        warnings.simplefilter('ignore')
        run = contestants[contestant](Path(folder))
        wall, cpu = time.perf_counter(), cpu_s()
        run()
        return Timing(time.perf_counter() - wall, cpu_s() - cpu, peak_mb())


def report(rounds: int = 1, peers: bool = False, size: str = 'small') -> str:
    """The tables as Markdown."""
    n_train, n_valid = {'tiny': (32, 4), 'small': (192, 48), 'full': (1200, 300)}[size]
    chosen = [name for name in contestants if has(name.split(',')[0].lower(), peers) or name[0] in 'pm']
    base = 'fastai' if 'fastai' in chosen else 'plain loop, tuned by hand'
    with tempfile.TemporaryDirectory() as temporary:
        folder = str(make_pictures(Path(temporary), n_train, n_valid, (500, 375)))
        results = run_rounds({name: in_child('benchmarks.endtoend', name, folder=folder) for name in chosen}, rounds, 0)
    hand = {name: results[name] for name in ('plain loop, tuned by hand', 'minifast')}
    what = f'{n_train} + {n_valid} pictures at {px} px, batch {bs}, 1 thread'
    return '\n\n'.join((
        f'### fine_tune of a resnet18, one frozen and one open epoch ({what}), CPU time',
        table(results, base, unit='s', target={'minifast': 1 / 3} if base == 'fastai' else None),
        '### The same, over the plain loop tuned by hand',
        table(hand, 'plain loop, tuned by hand', unit='s', target={'minifast': 1.05}),
        '### Its peak memory', table(results, base, unit='MB', what='peak_mb',
                                     target={'minifast': 1.0} if base == 'fastai' else None)))


if __name__ == '__main__':
    if child_arguments():
        name, given = child_arguments()
        tell(child(name, **given))
    else:
        as_script(report, __doc__, 1)
