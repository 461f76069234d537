"""How time and memory grow with the number of entries: listing a folder, splitting, labelling, ordering an epoch.

    python -m benchmarks.growth [--size small|full]

`full` goes to 1,000,000 entries; the files are empty.
"""
from __future__ import annotations

import gc
import math
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.rounds import as_script, measure

sizes = {'tiny': (100, 1000), 'small': (1000, 10_000, 100_000), 'full': (1000, 10_000, 100_000, 1_000_000)}


def make_tree(folder: Path, n: int) -> Path:
    """`n` empty files in ten folders."""
    for c in range(10):
        (folder / f'class{c}').mkdir()
    for i in range(n):
        (folder / f'class{i % 10}' / f'{i:07d}.jpg').touch()
    return folder


def steps(folder: Path) -> dict[str, Callable[[Any], Any]]:
    """Each step takes what the one before it gave."""
    from minifast.vision.all import (
        CategoryBlock, DataBlock, RandomSplitter, TransformBlock, get_image_files, parent_label)
    # nothing opens the files: they are empty
    block = DataBlock(blocks=(TransformBlock, CategoryBlock), splitter=RandomSplitter(seed=1), get_y=parent_label)

    def first_indices(datasets: Any) -> Any:
        loader = datasets.dataloaders(bs=64, num_workers=0, device=torch.device('cpu')).train
        loader.begin(1, 1)
        return loader.get_idxs()

    items: list = []

    def list_files(_: Any) -> list:
        items[:] = get_image_files(folder)
        return items

    return {'get_image_files': list_files, 'RandomSplitter': lambda files: RandomSplitter(seed=1)(files),
            'DataBlock.datasets (split, label, vocab)': lambda _: block.datasets(items),
            'dataloaders and the order of an epoch': first_indices}


def _peak_bytes(f: Callable[[Any], Any], given: Any) -> int:
    """The most Python memory taken while `f` runs."""
    gc.collect()
    tracemalloc.start()
    try:
        f(given)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def exponent(xs: list[float], ys: list[float]) -> float:
    """The slope of log y over log x between the last two points: 1 is linear."""
    return math.log(ys[-1] / ys[-2]) / math.log(xs[-1] / xs[-2])


def report(rounds: int = 1, peers: bool = False, size: str = 'small') -> str:
    """The tables as Markdown."""
    torch.set_num_threads(1)
    counts = sizes[size]
    seconds: dict[str, list[float]] = {}
    memory: dict[str, list[float]] = {}
    for n in counts:
        with tempfile.TemporaryDirectory() as temporary:
            given = None
            for name, step in steps(make_tree(Path(temporary), n)).items():
                made = []
                # once: paths keep their parsed parts, so a second time would be cheaper
                seconds.setdefault(name, []).append(measure(lambda: made.append(step(given))).cpu_s)
                memory.setdefault(name, []).append(_peak_bytes(step, given) if n <= 100_000 else math.nan)
                given = made[-1]
    head = '| | ' + ' | '.join(f'{n:,}' for n in counts)
    rule = '|---' * (len(counts) + 2) + '|'
    time_lines = [f'{head} | exponent |', rule]
    for name, each in seconds.items():
        cells = ' | '.join(f'{s * 1e6 / n:,.1f}' for s, n in zip(each, counts))
        time_lines.append(f'| {name} | {cells} | {exponent(list(counts), each):.2f} |')
    traced = [n for n in counts if n <= 100_000]
    memory_lines = ['| | ' + ' | '.join(f'{n:,}' for n in traced) + ' |', '|---' * (len(traced) + 1) + '|']
    for name, each in memory.items():
        memory_lines.append(f'| {name} | ' + ' | '.join(f'{b / n:,.0f}' for b, n in zip(each, traced)) + ' |')
    return '\n\n'.join(('### CPU us an entry, by the number of entries (exponent 1: linear)', '\n'.join(time_lines),
                        '### Peak Python memory, bytes an entry', '\n'.join(memory_lines)))


if __name__ == '__main__':
    as_script(report, __doc__, 1)
