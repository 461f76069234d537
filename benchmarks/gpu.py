"""On one GPU, over the same by hand with every trick: a step's overhead, JPEGs to weights, checkpoints, prediction.

    python -m benchmarks.gpu [--json FILE] [--rounds 8] [--size tiny|small]

Seconds on the clock, with the device waited for at both ends of a round. About two minutes on an H100. Without a GPU it
runs on the CPU, which is of use with `--size tiny` alone, to try it. Each table is added to the JSON file when it is
done.
"""
from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.loop import make_batches
from benchmarks.loop import make_model as make_mlp
from benchmarks.pictures import make_pictures
from benchmarks.pipeline import mean, std
from benchmarks.rounds import Result, Timing, cpu_s, machine, ratios, run_rounds, table
from benchmarks.training import make_model as make_resnet

device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
side, n_workers = 224, min(16, len(os.sched_getaffinity(0)))
SIZES = {'tiny': dict(mlp_steps=4, steps=2, bs=4, pictures=16, copies=1),
         'small': dict(mlp_steps=400, steps=40, bs=64, pictures=400, copies=10)}


# ---------------------------------------------------------------- measuring

def _wait() -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize()


def timed(run: Callable[[], object]) -> Callable[[], Timing]:
    """A contestant for `run_rounds`; the device has done its work at both ends."""
    def contestant() -> Timing:
        _wait()
        wall, cpu = time.perf_counter(), cpu_s()
        with contextlib.redirect_stdout(io.StringIO()):
            run()
        _wait()
        return Timing(time.perf_counter() - wall, cpu_s() - cpu)
    return contestant


class Page:
    """Prints each table and adds its numbers to a JSON file.

    Args:
        file: the JSON file, None for none.
        rounds: measured rounds of every contestant.
    """

    def __init__(self, file: Path | None, rounds: int) -> None:
        self.file, self.rounds, self.start = file, rounds, time.perf_counter()
        self.found: dict[str, Any] = {
            'machine': machine(), 'torch': torch.__version__, 'cuda': torch.version.cuda,
            'cudnn': torch.backends.cudnn.version(), 'workers': n_workers, 'tables': {}}
        print(machine(), f'CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}', sep='\n', flush=True)

    def measure(self, title: str, contestants: dict[str, Callable[[], object]], base: str, per: int = 1,
                unit: str = 'ms', rounds: int | None = None, warmup: int = 2) -> None:
        """Rounds of the contestants; `per` steps in each."""
        results = run_rounds({name: timed(run) for name, run in contestants.items()}, rounds or self.rounds, warmup)
        print(f'\n### {title}\n\n{table(results, base, per, unit, "wall_s")}\n\n({self._spent_s():.0f} s)', flush=True)
        over = ratios(results, base, 'wall_s')
        self.found['tables'][title] = {'base': base, 'per': per, 'contestants': {
            name: self._numbers(result, over[name]) for name, result in results.items()}}
        self.found['seconds'] = self._spent_s()
        if self.file is not None:
            self.file.write_text(json.dumps(self.found, indent=1))

    def _spent_s(self) -> float:
        return time.perf_counter() - self.start

    @staticmethod
    def _numbers(result: Result, over: tuple[float, float, float]) -> dict[str, Any]:
        return {'ratio': over[0], 'quartiles': over[1:], 'wall_s': result.wall_s, 'cpu_s': result.cpu_s}


def silent(learn: Any) -> Any:
    """The learner without a bar and a table."""
    learn.remove_cb(learn.progress)
    learn.logger = lambda row: None
    return learn


# ---------------------------------------------------------------- a step on batches that are on the device

def mlp_table(page: Page, steps: int) -> None:
    """A tiny MLP: all of it is overhead of the host."""
    from minifast.data.core import DataLoaders
    from minifast.learner import Learner
    batches = [(x.to(device), y.to(device)) for x, y in make_batches(steps)]

    def plain(scheduled: bool) -> Callable[[], None]:
        model = make_mlp().to(device)
        opt = torch.optim.SGD(model.parameters(), lr=.01, momentum=.9, fused=True)

        def run() -> None:
            schedule = torch.optim.lr_scheduler.OneCycleLR(opt, .01, total_steps=steps) if scheduled else None
            model.train()
            for x, y in batches:
                F.cross_entropy(model(x), y).backward()
                opt.step()
                opt.zero_grad()
                if schedule is not None:
                    schedule.step()
        return run

    def ours() -> Any:
        opt_func = partial(torch.optim.SGD, momentum=.9, fused=True)
        learn = Learner(DataLoaders(batches), make_mlp(), F.cross_entropy, opt_func, lr=.01)
        learn.dls.device = device
        return silent(learn)
    page.measure('A training step of a tiny MLP, batches on the device',
                 {'plain loop': plain(False), 'minifast': partial(ours().fit, 1)}, 'plain loop', steps, 'us',
                 2 * page.rounds)
    page.measure('The same with a one-cycle schedule', {'plain loop + OneCycleLR': plain(True),
                                                        'minifast fit_one_cycle': partial(ours().fit_one_cycle, 1)},
                 'plain loop + OneCycleLR', steps, 'us', 2 * page.rounds)


class Tuned:
    """A resnet18 trained by hand: bfloat16 autocast, channels-last, fused AdamW, cuDNN trying its algorithms."""

    def __init__(self) -> None:
        self.model = make_resnet().to(device, memory_format=torch.channels_last)
        self.opt = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return F.cross_entropy(self.model(x).float(), y)

    def epoch(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """One pass over batches on the device."""
        self.model.train()
        with trying_algorithms():
            for x, y in batches:
                self.forward(x, y).backward()
                self.opt.step()
                self.opt.zero_grad()


@contextlib.contextmanager
def trying_algorithms() -> Iterator[None]:
    """cuDNN tries its algorithms for each new shape and keeps the fastest."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def resnet_learner(dls: Any, path: Path | None = None, precision: str = 'auto') -> Any:
    """What `vision_learner` makes, with weights from scratch."""
    from torchvision.models import resnet18

    from minifast.vision.learner import vision_learner
    return silent(vision_learner(dls, resnet18, pretrained=False, normalize=False, n_out=2, path=path,
                                 loss_func=F.cross_entropy, precision=precision))


def resnet_tables(page: Page, steps: int, bs: int, folder: Path) -> None:
    """A step of a resnet18, what checkpoints add to it, and prediction, all on batches on the device."""
    from minifast.callback.checkpoint import CheckpointCallback
    from minifast.data.core import DataLoaders
    g = torch.Generator().manual_seed(0)
    batches = [(torch.randn(bs, 3, side, side, generator=g).to(device),
                torch.randint(0, 2, (bs,), generator=g).to(device)) for _ in range(4)] * (steps // 4 + 1)
    batches = batches[:steps]
    dls = DataLoaders(batches, batches)
    dls.device = device
    learn, tuned = resnet_learner(DataLoaders(batches, device=device), folder), Tuned()

    def fit(every: int | None = None, background: bool = True, trying: bool = False) -> Callable[[], None]:
        def run() -> None:
            cbs = None if every is None else CheckpointCallback(folder / 'c', every=every, background=background)
            with trying_algorithms() if trying else contextlib.nullcontext():
                learn.fit(1, cbs=cbs)
        return run
    what = f'resnet18, {bs} pictures of {side} px, bfloat16, channels-last, batches on the device'
    page.measure(f'A training step ({what})', {
        'plain loop, tuned': lambda: tuned.epoch(batches), 'minifast': fit(),
        'minifast, cudnn.benchmark': fit(trying=True)}, 'plain loop, tuned', steps)
    page.measure('The same with checkpoints of the whole training', {
        'minifast': fit(), 'a checkpoint every 10 steps': fit(10), 'the same, written in the loop': fit(10, False)},
        'minifast', steps, rounds=max(page.rounds // 2, 1), warmup=1)
    copies_table(page, learn)
    predicting = resnet_learner(dls, folder)
    predicting.validate()
    model = make_resnet().to(device).eval()

    def plain_predictions() -> None:
        with torch.no_grad():
            preds = torch.cat([F.softmax(model(x), 1) for x, _ in batches]).cpu()
        assert len(preds) == steps * bs
    page.measure('Predictions in float32, batches on the device', {
        'plain loop': plain_predictions, 'minifast get_preds': predicting.get_preds}, 'plain loop', steps)


def copies_table(page: Page, learn: Any) -> None:
    """Weights and averages to the host, as a checkpoint does before the next step: into memory of two kinds."""
    from minifast.tensorfile import Copies
    state = {'model': learn.model.state_dict(), 'opt': learn.opt.state_dict()}
    copies, places = Copies(), {}

    def pinned(o: Any) -> None:
        if isinstance(o, dict):
            for value in o.values():
                pinned(value)
        elif isinstance(o, Tensor):
            if id(o) not in places:
                places[id(o)] = torch.empty_like(o, device='cpu', pin_memory=device.type == 'cuda')
            places[id(o)].copy_(o, non_blocking=True)

    def into_pinned() -> None:
        pinned(state)
        _wait()
    page.measure('The copy that a checkpoint is written from', {
        'as it is': lambda: copies(state), 'into page-locked memory, waited for once': into_pinned}, 'as it is')


# ---------------------------------------------------------------- from JPEG files

def many(folder: Path, n: int, copies: int) -> Path:
    """`n` drawn JPEGs of 500x375 for training, each under `copies` names, and as many for prediction."""
    make_pictures(folder, n, 2, (500, 375))
    for file in sorted((folder / 'train').rglob('*.jpg')):
        for i in range(1, copies):
            os.link(file, file.with_name(f'{file.stem}-{i}.jpg'))
    return folder


class Normal(nn.Module):
    """uint8 pictures as normalized floats, on the device."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer('scale', torch.tensor([1 / (255 * s) for s in std]).view(3, 1, 1))
        self.register_buffer('shift', torch.tensor([-m / s for m, s in zip(mean, std)]).view(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift, x.float(), self.scale).contiguous(memory_format=torch.channels_last)


def torchvision_loader(folder: Path, bs: int, training: bool) -> Any:
    """ImageFolder with v2 transforms, uint8, workers that stay, page-locked memory."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2
    geometry = [v2.RandomResizedCrop(side, antialias=True), v2.RandomHorizontalFlip()] if training else \
        [v2.Resize(side, antialias=True), v2.CenterCrop(side)]
    dataset = ImageFolder(folder / 'train', v2.Compose([*geometry, v2.PILToTensor(), v2.ToPureTensor()]))
    return torch.utils.data.DataLoader(dataset, bs, shuffle=training, drop_last=training, num_workers=n_workers,
                                       persistent_workers=True, pin_memory=device.type == 'cuda', prefetch_factor=4)


def sent(loader: Iterable, normal: Normal) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches on the device, each sent while the one before is worked on."""
    waiting = None
    for x, y in loader:
        following = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
        if waiting is not None:
            yield normal(waiting[0]), waiting[1]
        waiting = following
    if waiting is not None:
        yield normal(waiting[0]), waiting[1]


def ours(folder: Path, bs: int, training: bool, **settings: Any) -> Any:
    """The same pictures through minifast's loaders: one that trains, or one for prediction behind it."""
    from minifast.data.core import DataLoaders
    from minifast.vision.all import FlipItem, ImageDataLoaders, Normalize, RandomResizedCrop, Resize
    item_tfms = [RandomResizedCrop(side), FlipItem()] if training else Resize(side)
    dls = ImageDataLoaders.from_folder(folder, item_tfms=item_tfms, batch_tfms=Normalize.from_stats(mean, std), bs=bs,
                                       device=device, **settings)
    if training:
        return resnet_learner(DataLoaders(dls.train, device=device), folder)
    files = sorted((folder / 'train').rglob('*.jpg'))
    learn = resnet_learner(dls, folder)
    return lambda: learn.get_preds(dl=dls.test_dl(files))


def files_tables(page: Page, folder: Path, bs: int, n: int) -> None:
    """An epoch of training, and predictions, from files."""
    tuned, normal = Tuned(), Normal().to(device)
    loader, rounds = torchvision_loader(folder, bs, True), max(page.rounds // 2, 1)
    own = {f'minifast, num_workers={n_workers}': dict(num_workers=n_workers),
           'minifast, workers that stay': dict(num_workers=n_workers, persistent_workers=True),
           'minifast, as it comes': {}}
    page.measure(f'From {n} JPEGs of 500x375: an epoch (resnet18, {side} px, batch {bs}), a picture', {
        'plain loop, tuned': lambda: tuned.epoch(sent(loader, normal)),
        **{name: partial(ours(folder, bs, True, **settings).fit, 1) for name, settings in own.items()}},
        'plain loop, tuned', n, 'us', rounds, warmup=1)
    del loader
    loader, model = torchvision_loader(folder, bs, False), make_resnet().to(device).eval()

    def plain_predictions() -> None:
        with torch.no_grad():
            torch.cat([F.softmax(model(x), 1) for x, _ in sent(loader, normal)]).cpu()
    page.measure(f'Predictions of {n} JPEGs in float32, a picture', {
        'plain loop': plain_predictions, 'minifast get_preds': ours(folder, bs, False, num_workers=n_workers)},
        'plain loop', n, 'us', rounds, warmup=1)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--json', type=Path)
    parser.add_argument('--rounds', type=int, default=8)
    parser.add_argument('--size', choices=SIZES, default='small')
    arguments = parser.parse_args()
    warnings.simplefilter('ignore')
    size, page = SIZES[arguments.size], Page(arguments.json, arguments.rounds)
    mlp_table(page, size['mlp_steps'])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        resnet_tables(page, size['steps'], size['bs'], folder)
        files_tables(page, many(folder / 'pictures', size['pictures'], size['copies']), size['bs'],
                     size['pictures'] * size['copies'])


if __name__ == '__main__':
    main()
