"""Where batches are made: in the calling process, in threads, or in worker processes of torch's own loader."""
from __future__ import annotations

import copy
import functools
import pickle
import random
import traceback
import types
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import Dataset, IterableDataset

from minifast.data.collate import BatchRequest, FetchedBatch, add_note
from minifast.plaindata import get_generator, seed_generator, set_generator
from minifast.terminal import listed

__all__ = ['ProcessPool', 'Workers', 'choose_workers', 'find_unpicklable', 'fork_cpu_rng', 'in_threads',
           'seed_cpu', 'workers_of']


# ---------------------------------------------------------------- where, and how many

class Workers(NamedTuple):
    """Where batches are made.

    Attributes:
        kind: 'here', in the calling process, 'threads' or 'processes'.
        n: how many.
        method: how processes are started.
    """

    kind: str
    n: int = 0
    method: str = ''


worth_s = 1.
"""Worker processes are started where they save at least this many seconds an epoch."""
MAX_THREADS = 4
"""So many workers are threads where nothing else was said."""


def _takes_threads(dl: Any, n: int, known: bool) -> bool:
    """Whether `n` workers are threads: they hand batches over as they are, where processes start anew each epoch and
    copy (measured with two, over the calling process: 1.08 of its CPU time against 1.32).

    Only where all code is ours (`known`), and unasked only for a CPU, as a training that launches kernels for a GPU
    would wait for Python's lock, and only for a few, as that lock bounds how much they make.
    """
    if dl.multiprocessing_context is not None:
        return known and dl.multiprocessing_context == 'thread'
    return known and dl._workers is None and n <= MAX_THREADS and (dl.device is None or dl.device.type == 'cpu')


def choose_workers(dl: Any, batch_s: float, cpus: int, known: bool) -> int:
    """How many workers to use, from the seconds that the first batch took.

    Worker processes cost their start in every epoch (most where they are spawned), and on small data that is more
    than they give. Batches are the same either way, so nothing but time hangs on this choice.

    Args:
        dl: the loader.
        batch_s: seconds that its first batch took to make.
        cpus: cores; there are no more workers than these, nor than 16.
        known: whether all code that makes items is ours, so that threads will do.
    """
    try:
        n_batches = len(dl) - 1
    except TypeError:
        return 0
    n = min(16, cpus, n_batches)
    if n < 2:
        return 0
    workers = workers_of(dl, n, known)
    quick = workers.kind == 'threads' or workers.method == 'fork'
    start_s = 0.05 + 0.02 * n if quick else 3. + 0.5 * n
    return n if n_batches * batch_s * (1 - 1 / n) - start_s > worth_s else 0


def workers_of(dl: Any, n: int, known: bool) -> Workers:
    """Where `n` workers of the loader `dl` work; `known` as in `choose_workers`."""
    if not n:
        return Workers('here')
    if _takes_threads(dl, n, known):
        return Workers('threads', n)
    method = dl.multiprocessing_context
    if method is not None and method != 'thread' and not isinstance(method, str):
        method = method.get_start_method()
    return Workers('processes', n, torch.multiprocessing.get_start_method() if method in (None, 'thread') else method)


# ---------------------------------------------------------------- the global generators around an item

def seed_cpu(seed: int, own: Sequence[Any] = ()) -> None:
    """Seed Python's, numpy's and torch's CPU generator, and those of a data set's `own`, with `seed`; those of devices
    are left to the batch transforms."""
    random.seed(seed)
    np.random.seed(seed & 0xffffffff)
    torch.default_generator.manual_seed(seed)
    for g in own:
        seed_generator(g, seed)


@contextmanager
def fork_cpu_rng(own: Sequence[Any] = ()) -> Iterator[None]:
    """Put the global CPU generators, and those of a data set's `own`, back behind the block."""
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    own_states = [get_generator(g) for g in own]
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])
        for g, state in zip(own, own_states):
            set_generator(g, state)


# ---------------------------------------------------------------- threads

def in_threads(make: Callable[[BatchRequest], FetchedBatch], jobs: Iterable[BatchRequest], n_threads: int,
               ahead: int) -> Iterator[FetchedBatch]:
    """Make the batches of `jobs` with `make` in `n_threads` threads, in order, each up to `ahead` in advance."""
    waiting: deque = deque()
    pool = ThreadPoolExecutor(n_threads, thread_name_prefix='minifast-data')
    try:
        for job in jobs:
            waiting.append(pool.submit(make, job))
            if len(waiting) > n_threads * ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


# ---------------------------------------------------------------- processes

class _WorkerTraceback(Exception):
    """Where in a worker process an error was raised."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


class _Failure:
    """An error on its way from a worker process, of the type it was raised as wherever that can travel."""

    def __init__(self, error: Exception) -> None:
        self.text = ''.join(traceback.format_exception(type(error), error, error.__traceback__))
        try:
            copy.copy(error)  # the other side has to make it again from its arguments
            pickle.dumps(error)
            self.error = error
        except Exception as problem:
            self.error = RuntimeError(f'{type(error).__name__}: {error}')
            add_note(self.error, f'(a {type(error).__name__} cannot be sent between processes: {problem})')
            for note in getattr(error, '__notes__', []):
                add_note(self.error, note)

    def pin_memory(self) -> _Failure:
        """Nothing to pin."""
        return self


class _Jobs(Dataset):
    """What torch's loader takes for a data set: asked for a job, it makes the batch."""

    def __init__(self, make: Callable[[BatchRequest], FetchedBatch]) -> None:
        self.make = make

    def __getitem__(self, job: BatchRequest) -> FetchedBatch | _Failure:
        try:
            return self.make(job)
        except Exception as error:
            return _Failure(error)


class _Stream(IterableDataset):
    """Likewise for data without indices, which one worker reads from start to end."""

    def __init__(self, stream: Callable[[], Iterator[FetchedBatch]]) -> None:
        self.stream = stream

    def __iter__(self) -> Iterator[FetchedBatch | _Failure]:
        try:
            yield from self.stream()
        except Exception as error:
            yield _Failure(error)


class _Source:
    """A sampler whose jobs are exchanged from pass to pass, as the workers stay."""

    jobs: Iterable[BatchRequest] = ()

    def __iter__(self) -> Iterator[BatchRequest]:
        return iter(self.jobs)


def _kept_in(underway: deque[BatchRequest], jobs: Iterable[BatchRequest]) -> Iterator[BatchRequest]:
    """The jobs, each noted as it is handed to the workers."""
    for job in jobs:
        underway.append(job)
        yield job


def _as_it_is(o: Any) -> Any:
    return o


def _start(wif: Callable | None, worker_id: int) -> None:
    if wif is not None:
        wif(worker_id)


@contextmanager
def _obeyed() -> Iterator[None]:
    """The number of workers was asked for, and what cannot be pickled is told by us: torch's own advice is quiet."""
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'This DataLoader will create .* worker processes in total')
        warnings.filterwarnings('ignore', 'Got pickle error when attempting to start a worker')
        yield


class ProcessPool:
    """Worker processes of torch's loader.

    Args:
        make: makes the batch of a job; or, with `stream`, yields all batches.
        n_workers: number of processes.
        persistent: keep them for the next pass.
        context: 'fork', 'spawn', 'forkserver', a multiprocessing context, or None for the system's default.
        wif: called in each worker with its number.
        name_of: what the item at an index is called in messages.
        **settings: `pin_memory`, `timeout`, `prefetch_factor` for torch's loader.
    """

    def __init__(self, make: Callable[..., Any], n_workers: int, persistent: bool = False, context: Any = None,
                 stream: bool = False, wif: Callable[..., Any] | None = None, name_of: Callable[[Any], str] = str,
                 **settings: Any) -> None:
        self.source, self.make, self.n_workers, self.persistent = _Source(), make, n_workers, persistent
        self.name_of = name_of
        with _obeyed():
            self.loader = TorchLoader(
                _Stream(make) if stream else _Jobs(make), batch_size=None, sampler=None if stream else self.source,
                collate_fn=_as_it_is, num_workers=n_workers, persistent_workers=persistent,
                multiprocessing_context=context, worker_init_fn=functools.partial(_start, wif),
                generator=torch.Generator().manual_seed(0), **settings)

    def _lost(self, underway: Iterable[BatchRequest]) -> str:
        """Which items the workers had in hand: a worker that dies takes finished batches on their way with it."""
        names = [self.name_of(index) for job in underway for index, _ in job.pairs]
        return f'the workers had these items in hand: {listed(names, 32)}; num_workers=0 finds which it is'

    def run(self, jobs: Iterable[BatchRequest] = ()) -> Iterator[FetchedBatch]:
        """The batches of the `jobs`, in order; of a stream, all of them.

        Raises:
            TypeError: something cannot be sent to the workers; the message names it.
            RuntimeError: a worker was killed, or gave no batch in time; a note names the items in hand.
            Exception: what was raised in a worker, as the type it was raised as.
        """
        underway: deque[BatchRequest] = deque()
        self.source.jobs = _kept_in(underway, jobs)
        try:
            with _obeyed():
                iterator = iter(self.loader)
        except (AttributeError, TypeError, pickle.PicklingError) as error:
            culprits = find_unpicklable(self.make)
            if not culprits:
                raise
            raise TypeError(
                f'{", ".join(culprits)} cannot be sent to worker processes that are started by '
                f'{self.loader.multiprocessing_context or torch.multiprocessing.get_start_method()}: define it with '
                '`def` at the top of a module, or use num_workers=0 or multiprocessing_context="fork"') from error
        try:
            while True:
                try:
                    made = next(iterator)
                except StopIteration:
                    return
                except RuntimeError as error:  # torch's word for a worker that is gone or silent
                    add_note(error, self._lost(underway))
                    raise
                if isinstance(made, _Failure):
                    raise made.error from _WorkerTraceback(made.text)
                if underway:
                    underway.popleft()
                yield made
        finally:
            # torch ends workers when its iterator is garbage, which a kept traceback puts off
            if not self.persistent:
                iterator._shutdown_workers()


def find_unpicklable(o: Any) -> list[str]:
    """The functions below `o` that pickle cannot find by name: lambdas and functions defined inside others."""
    found, seen, waiting = {}, set(), [o]
    while waiting and len(seen) < 100_000:
        o = waiting.pop()
        if id(o) in seen or isinstance(o, (str, int, float, bytes, type, Tensor, np.ndarray, types.ModuleType)):
            continue
        seen.add(id(o))
        if isinstance(o, types.FunctionType):
            if '<' in o.__qualname__:
                kind = 'lambda' if o.__name__ == '<lambda>' else f'function {o.__qualname__}'
                found[f'the {kind} at {o.__code__.co_filename}:{o.__code__.co_firstlineno}'] = None
        elif isinstance(o, functools.partial):
            waiting += [o.func, *o.args, *o.keywords.values()]
        elif isinstance(o, types.MethodType):
            waiting += [o.__self__, o.__func__]
        elif isinstance(o, dict):
            waiting += list(o.values())
        elif isinstance(o, (list, tuple, set)):
            waiting += list(o)[:1000]
        else:
            waiting += list(getattr(o, '__dict__', {}).values())
    return list(found)
