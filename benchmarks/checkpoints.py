"""What checkpoints cost: training with them against none, and reading weights against torch.load.

    python -m benchmarks.checkpoints [--rounds 5] [--peers]
"""
from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.peers import has
from benchmarks.rounds import as_script, run_rounds, table
from benchmarks.training import make_model


def _learner(batches: list) -> Any:
    from minifast.data.core import DataLoaders
    from minifast.learner import Learner
    learn = Learner(DataLoaders(batches), make_model(), F.cross_entropy)
    learn.remove_cb(learn.progress)
    learn.logger = lambda row: None
    return learn


def _fit(batches: list, every: int | None = None) -> Callable[[], None]:
    """An epoch, with a checkpoint of the whole training state at its start and every so many steps.

    Each epoch is a run of its own, in a folder that is deleted behind it: a run keeps the files of those before, and
    memory of the page cache that nothing has given back costs the system as much again as writing into it.
    """
    from minifast.callback.checkpoint import CheckpointCallback
    learn = _learner(batches)

    def fit() -> None:
        with tempfile.TemporaryDirectory() as folder:
            learn.fit(1, cbs=None if every is None else CheckpointCallback(folder, every=every))
    return fit


def _files(folder: Path, batches: list, peers: bool) -> tuple[dict[str, Callable], dict[str, Callable]]:
    """Writing and reading model and optimizer state: torch alone, minifast, fastai."""
    learn = _learner(batches)
    learn.path = folder
    learn.fit(1)
    plain, state = folder / 'plain.pth', {'model': learn.model.state_dict(), 'opt': learn.opt.state_dict()}
    model, opt = make_model(), learn.opt

    def plain_load() -> None:
        loaded = torch.load(plain, weights_only=True)
        model.load_state_dict(loaded['model'])
        opt.load_state_dict(loaded['opt'])

    torch.save(state, plain)
    learn.save('minifast')
    writing = {'torch.save': lambda: torch.save(state, plain), 'minifast save': lambda: learn.save('minifast')}
    reading = {'torch.load + load_state_dict': plain_load, 'minifast load': lambda: learn.load('minifast')}
    if has('fastai', peers):
        from fastai.data.core import DataLoaders
        from fastai.learner import Learner
        other = Learner(DataLoaders(batches, batches), make_model(), F.cross_entropy, path=folder)
        with contextlib.redirect_stdout(io.StringIO()):
            other.fit(1)
        other.save('fastai')
        writing['fastai save'], reading['fastai load'] = lambda: other.save('fastai'), lambda: other.load('fastai')
    return writing, reading


def report(rounds: int = 5, peers: bool = False, size: str = 'small') -> str:
    """The tables as Markdown."""
    torch.set_num_threads(1)
    px, steps, often = {'tiny': (32, 2, 1), 'small': (64, 20, 10), 'full': (64, 100, 10)}[size]
    g = torch.Generator().manual_seed(0)
    batches = [(torch.randn(16, 3, px, px, generator=g), torch.randint(0, 2, (16,), generator=g)) for _ in range(steps)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        training = run_rounds({'no checkpoint': _fit(batches)} | {
            f'a checkpoint every {n} steps': _fit(batches, n) for n in (steps, often)}, rounds, 1)
        writing, reading = _files(folder, batches, peers)
        wrote, read = run_rounds(writing, rounds, 1), run_rounds(reading, rounds, 1)
        size_mb = (folder / 'plain.pth').stat().st_size / 2 ** 20
    return '\n\n'.join((
        f'### Training a resnet18 for an epoch of {steps} steps ({px} px, batch 16), CPU time',
        table(training, 'no checkpoint', unit='ms'),
        f'### Writing weights and optimizer state ({size_mb:.0f} MB), CPU time', table(wrote, 'torch.save', unit='ms'),
        '### The same on the clock', table(wrote, 'torch.save', unit='ms', what='wall_s'),
        '### Reading them, CPU time', table(read, 'torch.load + load_state_dict', unit='ms')))


if __name__ == '__main__':
    as_script(report, __doc__, 5)
