"""What a loader does where, why there, and how it is printed."""
from __future__ import annotations

import copy
from typing import Any

import torch
from fastcore.foundation import L
from torch.utils.data import Subset, TensorDataset

from minifast.data.bytetable import ByteTable
from minifast.data.pipeline import Pipeline, is_known

__all__ = ['bytes_first', 'choose_workers', 'describe_plan', 'takes_threads', 'unknown_parts',
           'whole_tensors']

_makes_items = ('after_item', 'before_batch', 'create_item', 'create_batch', 'retain', 'do_item', 'do_batch')

worth_s = 1.
"""Worker processes are started where they save at least this many seconds an epoch."""


def unknown_parts(dl: Any) -> list[str]:
    """What of the making of items may draw from the global generators, by name; empty: all randomness is ours."""
    parts = [f'dataset: {name}' for name in _unknown_dataset(dl.dataset)]
    for hook in _makes_items:
        f = getattr(dl, hook)
        fs = f.fs if isinstance(f, Pipeline) else [f]
        parts += [f'{hook}: {getattr(o, "__qualname__", None) or getattr(o, "name", type(o).__name__)}'
                  for o in fs if not is_known(o)]
    return parts


def _unknown_dataset(dataset: Any) -> list[str]:
    if hasattr(type(dataset), 'unknown_transforms'):
        return dataset.unknown_transforms()
    if type(dataset) is Subset:
        return _unknown_dataset(dataset.dataset)
    harmless = (TensorDataset, list, tuple, range, L, torch.Tensor, type(None))
    return [] if type(dataset) in harmless else [type(dataset).__name__]


def whole_tensors(dl: Any) -> tuple[torch.Tensor, ...] | None:
    """The tensors that the loader's batches are plain slices of; None where there is more to do than to slice."""
    dataset = dl.dataset
    while type(dataset) is Subset:
        dataset = dataset.dataset
    steps = (getattr(dl, name) for name in ('create_item', 'do_item', 'after_item', 'before_batch', 'create_batch',
                                            'do_batch', 'retain'))
    ours = ('minifast.data.load', 'minifast.data.making')
    plain = all(len(f) == 0 if isinstance(f, Pipeline) else getattr(f, '__func__', f).__module__ in ours for f in steps)
    return dataset.tensors if type(dataset) is TensorDataset and plain and not dl.prebatched else None


def bytes_first(after: Pipeline, device: torch.device | None) -> Pipeline:
    """Batch transforms in the order they run in: on a CPU pictures stay bytes as long as that is faster.

    What `makes_floats` then waits behind the geometry that follows it and says `on_bytes`; not where that resamples in
    validation, so that pixels there are exact. Together with those behind it that are `bytewise` it becomes a table.
    """
    if device is None or device.type != 'cpu':
        return after
    fs = list(after.fs)
    at = next((i for i, f in enumerate(fs) if getattr(f, 'makes_floats', False) and is_known(f)), None)
    if at is None:
        return after
    end = at + 1
    while end < len(fs) and getattr(fs[end], 'on_bytes', False) and not (after.split_idx and fs[end].size):
        end += 1
    stop = end
    while stop < len(fs) and getattr(fs[stop], 'bytewise', False) and is_known(fs[stop]):
        stop += 1
    arranged = copy.copy(after)
    arranged.fs = L([*fs[:at], *fs[at + 1:end], ByteTable([fs[at], *fs[end:stop]]), *fs[stop:]])
    return arranged


MAX_THREADS = 4
"""So many workers are threads where nothing else was said."""


def takes_threads(dl: Any, n: int, known: bool) -> bool:
    """Whether `n` workers are threads: they hand batches over as they are, where processes start anew each epoch and
    copy (measured with two, over the calling process: 1.08 of its CPU time against 1.32).

    Only where all code is ours (`known`), and unasked only for a CPU, as a training that launches kernels for a GPU
    would wait for Python's lock, and only for a few, as that lock bounds how much they make.
    """
    if dl.multiprocessing_context is not None:
        return known and dl.multiprocessing_context == 'thread'
    return known and dl._workers is None and n <= MAX_THREADS and (dl.device is None or dl.device.type == 'cpu')


def choose_workers(dl: Any, batch_s: float, cpus: int) -> int:
    """How many workers to use, from the seconds that the first batch took.

    Worker processes cost their start in every epoch (most where they are spawned), and on small data that is more
    than they give. Batches are the same either way, so nothing but time hangs on this choice.
    """
    try:
        n_batches = len(dl) - 1
    except TypeError:
        return 0
    n = min(16, cpus, n_batches)
    if n < 2:
        return 0
    threads = takes_threads(dl, n, not unknown_parts(dl))
    method = 'thread' if threads else dl.multiprocessing_context or torch.multiprocessing.get_start_method()
    start_s = 0.05 + 0.02 * n if method in ('fork', 'thread') else 3. + 0.5 * n
    return n if n_batches * batch_s * (1 - 1 / n) - start_s > worth_s else 0


def describe_plan(dl: Any) -> str:
    """The way from an index to a batch on the device, a line a step."""
    unknown, n = unknown_parts(dl), dl.num_workers
    if n and takes_threads(dl, n, not unknown):
        where = f'{n} threads'
    elif n:
        method = dl.multiprocessing_context
        method = torch.multiprocessing.get_start_method() if method in (None, 'thread') else method
        where = f'{n} worker processes ({method})'
    else:
        where = 'the calling process'
    chosen = dl.__dict__.get('_chosen')
    if dl.__dict__.get('_workers') is None:
        where += ', for the time the first batch took' if chosen is not None else ', until a first batch was timed'
    order = type(dl.sampler or dl.batch_sampler).__name__ if dl.sampler or dl.batch_sampler else (
        'shuffled, keyed by (seed, epoch)' if dl.shuffle else 'as they are')
    lines = [f'order        {order}', f'made in      {where}']
    if whole_tensors(dl) is not None:
        lines.append('create_batch slices of whole tensors')
    else:
        for hook in ('create_item', 'after_item', 'before_batch', 'create_batch'):
            lines.append(f'{hook:13}{_named(getattr(dl, hook))}')
    if dl.cache is not None:
        lines.append(f'cache        {dl.cache!r}')
    lines.append('randomness   ' + ('from generators handed to the transforms' if not unknown else
                                    f'global generators seeded for each item, because of {", ".join(unknown)}'))
    lines.append(f'to           {dl.device or "nowhere (CPU)"}')
    after = dl.after_batch
    after = bytes_first(after, dl.device) if isinstance(after, Pipeline) else after
    lines.append(f'after_batch  {_named(after)}')
    return '\n'.join(lines)


def _named(f: Any) -> str:
    if isinstance(f, Pipeline):
        return f.name or '-'
    return getattr(f, '__qualname__', type(f).__name__)
