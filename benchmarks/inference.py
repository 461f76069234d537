"""What `predict` and `get_preds` cost beyond the forward passes, and how much memory predictions take.

    python -m benchmarks.inference [--rounds 6] [--peers]
"""
from __future__ import annotations

import contextlib
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from benchmarks.loop import accuracy, make_batches, make_model
from benchmarks.peers import fastai_learner, has
from benchmarks.pictures import make_pictures
from benchmarks.pipeline import mean, std
from benchmarks.rounds import Timing, as_script, child_arguments, cpu_s, in_child, peak_mb, run_rounds, table, tell
from benchmarks.training import make_model as make_resnet

side = 224


# ---------------------------------------------------------------- one picture

def _plain_predict(file: Path, n: int) -> Callable[[], None]:
    """Open, resize, crop, normalize, forward, softmax with torchvision."""
    from torchvision.models import resnet18
    from torchvision.transforms import v2
    from minifast.vision.models.create import create_vision_model
    model = create_vision_model(resnet18, 2, pretrained=False).eval()
    tfms = v2.Compose([v2.Resize(side), v2.CenterCrop(side), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True),
                       v2.Normalize(mean, std)])

    def run() -> None:
        for _ in range(n):
            with torch.no_grad():
                F.softmax(model(tfms(Image.open(file).convert('RGB'))[None]), dim=1).argmax().item()
    return run


def _plain_forward(n: int) -> Callable[[], None]:
    """The forward pass alone, on a picture that is a normalized tensor already."""
    from torchvision.models import resnet18
    from minifast.vision.models.create import create_vision_model
    model, x = create_vision_model(resnet18, 2, pretrained=False).eval(), torch.randn(1, 3, side, side)

    def run() -> None:
        with torch.no_grad():
            for _ in range(n):
                model(x)
    return run


def _predict(library: str, folder: Path, n: int) -> Callable[[], None]:
    """`learn.predict(path)` of fastai or minifast."""
    if library == 'fastai':
        from fastai.vision.all import ImageDataLoaders, Normalize, Resize, resnet18, vision_learner
    else:
        from minifast.vision.all import ImageDataLoaders, Normalize, Resize, resnet18, vision_learner
    dls = ImageDataLoaders.from_folder(folder, item_tfms=Resize(side), batch_tfms=Normalize.from_stats(mean, std), bs=2,
                                       num_workers=0, device=torch.device('cpu'))
    learn = vision_learner(dls, resnet18, pretrained=False)
    file = next((folder / 'valid').rglob('*.jpg'))

    def run() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            for _ in range(n):
                learn.predict(file)
    return run


# ---------------------------------------------------------------- many rows

def _plain_preds(batches: list, model: nn.Module) -> Callable[[], tuple]:
    """Predictions and targets of all batches, gathered by hand."""

    def run() -> tuple[Tensor, Tensor]:
        model.eval()
        preds, targets = [], []
        with torch.no_grad():
            for x, y in batches:
                preds.append(F.softmax(model(x), dim=1))
                targets.append(y)
        return torch.cat(preds), torch.cat(targets)
    return run


def _get_preds(learn: Any) -> Callable[[], object]:
    learn.remove_cbs([cb for cb in learn.cbs if cb.name == 'progress'])
    return learn.get_preds


def _minifast_learner(batches: Any, model: nn.Module) -> Any:
    from minifast.data.core import DataLoaders
    from minifast.learner import Learner
    from minifast.losses import CrossEntropyLossFlat
    return Learner(DataLoaders(batches, batches), model, CrossEntropyLossFlat(), metrics=accuracy)


# ---------------------------------------------------------------- memory

class _Rows:
    """`n` rows (float [64], 0), as long as the process lives made from the same 512."""

    def __init__(self, n: int) -> None:
        self.n, self.x = n, torch.randn(512, 64)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.x[i % 512], torch.tensor(0)


def child(contestant: str, n: int) -> Timing:
    """Peak memory above the start, over the size of what is returned: `n` rows of 256 numbers and their targets."""
    torch.set_num_threads(1)
    torch.manual_seed(1)
    model = nn.Linear(64, 256)
    if contestant == 'fastai':
        from fastai.data.load import DataLoader
        from fastai.losses import CrossEntropyLossFlat
    else:
        from minifast.data.load import DataLoader
    few, many = DataLoader(_Rows(2048), bs=512, num_workers=0), DataLoader(_Rows(n), bs=512, num_workers=0)
    if contestant == 'fastai':
        learn = fastai_learner(few, few, model, accuracy)
        learn.loss_func = CrossEntropyLossFlat()
    else:
        learn = _minifast_learner(few, model)
    learn.remove_cbs([cb for cb in learn.cbs if cb.name == 'progress'])
    learn.get_preds(dl=few)
    before, wall, cpu = peak_mb(), time.perf_counter(), cpu_s()
    preds, targets = learn.get_preds(dl=many)
    size_mb = (preds.nbytes + targets.nbytes) / 2 ** 20
    return Timing(time.perf_counter() - wall, cpu_s() - cpu, (peak_mb() - before) / size_mb)


def _memory(rounds: int, peers: bool, n: int) -> str:
    names = ['minifast', *(['fastai'] if has('fastai', peers) else [])]
    results = run_rounds({name: in_child('benchmarks.inference', name, n=n) for name in names}, rounds, 0)
    lines = ['| | peak over the size of the result | target |', '|---|---|---|']
    lines += [f'| {name} | {results[name].median("peak_mb"):.2f} | {"1.10" if name == "minifast" else ""} |'
              for name in names]
    return '\n'.join(lines)


def report(rounds: int = 6, peers: bool = False, size: str = 'small') -> str:
    """The tables as Markdown."""
    torch.set_num_threads(1)
    n, n_batches, n_rows = {'tiny': (1, 8, 4096), 'small': (6, 400, 200_000), 'full': (20, 2000, 1_000_000)}[size]
    batches = make_batches(n_batches)
    preds = {'plain loop': _plain_preds(batches, make_model()),
             'minifast': _get_preds(_minifast_learner(batches, make_model()))}
    if has('fastai', peers):
        from fastai.losses import CrossEntropyLossFlat
        learn = fastai_learner(batches[:1], batches, make_model(), accuracy)
        learn.loss_func = CrossEntropyLossFlat()
        learn.remove_cbs([cb for cb in learn.cbs if cb.name == 'progress'])
        preds['fastai'] = lambda: learn.get_preds(dl=batches)
    pictures = [(torch.randn(16, 3, 96, 96), torch.zeros(16, dtype=torch.int64)) for _ in range(n)]
    nets = [make_resnet().eval() for _ in range(2)]
    large = {'plain loop': _plain_preds(pictures, nets[0]),
             'minifast': _get_preds(_minifast_learner(pictures, nets[1]))}
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_pictures(Path(temporary), 4, 4, (500, 375))
        file = next((folder / 'valid').rglob('*.jpg'))
        one = {'plain: open, resize, forward': _plain_predict(file, n), 'plain: forward alone': _plain_forward(n),
               'minifast': _predict('minifast', folder, n)}
        if has('fastai', peers):
            one['fastai'] = _predict('fastai', folder, n)
        single = run_rounds(one, rounds, 1)
    return '\n\n'.join((
        f'### predict of one 500x375 JPEG (resnet18, {side} px, 1 thread)',
        table(single, 'plain: open, resize, forward', n, unit='ms', target={'minifast': 1.1}),
        '### get_preds (resnet18, batches of 16 at 96 px in memory), CPU time a batch',
        table(run_rounds(large, rounds), 'plain loop', n, unit='ms', target={'minifast': 1.05}),
        '### get_preds (tiny MLP, batches of 64 in memory: the overhead itself), CPU time a batch',
        table(run_rounds(preds, rounds), 'plain loop', n_batches),
        f'### Memory of get_preds ({n_rows:,} rows of 256 numbers)', _memory(1, peers, n_rows)))


if __name__ == '__main__':
    if child_arguments():
        name, given = child_arguments()
        tell(child(name, **given))
    else:
        as_script(report, __doc__, 6)
