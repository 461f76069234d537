"""`DataLoader`: items to batches to the device, the same batches for any number of workers."""
from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from fastcore.basics import Inf
from torch.utils.data import IterableDataset

from minifast.arguments import known_kwargs
from minifast.data.cache import OpenedPictures, PictureCache
from minifast.data.collate import SkipItemException, collate_error, fa_collate, fa_convert
from minifast.data.making import BatchMaker
from minifast.data.pipeline import Pipeline, is_known, keyed
from minifast.data.plan import bytes_first, choose_workers, describe_plan, takes_threads, unknown_parts, whole_tensors
from minifast.data.sampler import (BATCH, ORDER, ORDER_NAMES, ItemKeys, Position, chunks, order, order_state,
                                   order_untouched, tell_epoch, whole)
from minifast.data.workers import HostBatch, Job, ProcessPool, in_threads, seed_cpu, set_aside
from minifast.hidden import find
from minifast.lookup import lookup
from minifast.seeds import key_seed, seeded
from minifast.terminal import say, warn
from minifast.torch_core import defaults, length_of, retain_type, to_device

__all__ = ['DataLoader', 'SkipItemException', 'collate_error', 'fa_collate', 'fa_convert', 'why_empty']

_hooks = ('wif', 'before_iter', 'after_item', 'before_batch', 'after_batch', 'after_iter')
hook_names = (*_hooks, 'create_item', 'create_batch', 'retain', 'get_idxs', 'sample', 'shuffle_fn', 'do_batch',
              'do_item')
"""What can be given to a loader as a keyword argument, or overridden."""
_stays_here = ('get_idxs', 'sample', 'shuffle_fn', 'before_iter', 'after_iter', 'after_batch', 'sampler',
               'batch_sampler', '_pool', '_next', '_ordered', '_began', 'it')
"""What worker processes are not sent: it is used in the loader's own process only."""


_main_process = ('after_batch', 'before_iter', 'after_iter', '_pool', '_ordered', '_own_generators', '_began', 'it')


class DataLoader(BatchMaker):
    """Makes batches of a data set's items: `item -> after_item`, then `before_batch -> create_batch`, then to the
    device, then `after_batch`.

    Everything random is keyed: an item's by (seed, epoch, index), a batch's by (seed, epoch, batch), the order by
    (seed, epoch). So batches are the same for any number of workers however they are started, a pass can be resumed
    at any batch (`begin`), and the global generators are left as they were. Each hook named above, and `create_item`,
    `get_idxs`, `shuffle_fn`, `do_item`, `do_batch`, `retain`, `sample`, `wif`, `before_iter`, `after_iter`, may be
    given as a keyword argument or overridden.

    Args:
        dataset: anything with `[i]` and `len`, or an iterable.
        bs: items a batch; None: each item is a batch already.
        num_workers: worker processes; 0: none; None: decided by the time the first batch takes (see `show_plan`).
        pin_memory: page-locked host memory; default: where the device is CUDA.
        timeout: seconds without a batch from the workers after which they count as hung, 0 for ever.
        batch_size: torch's name of `bs`.
        shuffle: another order each epoch.
        drop_last: leave out a last batch that is not full.
        indexed: the data set has `[i]`; default: found out.
        n: use the first `n` items.
        device: where batches go; None: they stay on the CPU.
        persistent_workers: keep the workers between epochs; default: where starting them is slow (not with fork).
        sampler: an iterable of indices, instead of `shuffle`.
        batch_sampler: an iterable of lists of indices, instead of `bs`, `shuffle`, `drop_last` and `sampler`.
        prefetch_factor: batches a worker makes ahead, 2 by default.
        multiprocessing_context: 'fork', 'spawn', 'forkserver', or 'thread' for threads, which only loaders without
            user transforms can have (the others get processes); default: threads where `num_workers=None` chose a few
            for a CPU, else torch's start method.
        on_error: 'raise', or 'skip': items that cannot be read (OSError, ValueError) are left out of their batch,
            listed in `skipped`, and warned about at the end of the pass.
        cache: a folder, or a `PictureCache`: pictures are decoded, and resized as far as that draws nothing, once.

    An unknown keyword is left out with a warning that names the nearest one.

    Raises:
        ValueError: arguments that contradict each other.
    """

    def __init__(self, dataset: Any = None, bs: int | None = None, num_workers: int | None = 0,
                 pin_memory: bool | None = None, timeout: float = 600, batch_size: int | None = None,
                 shuffle: bool = False, drop_last: bool = False, indexed: bool | None = None, n: int | None = None,
                 device: Any = None, persistent_workers: bool | None = None, pin_memory_device: str = '',
                 sampler: Iterable | None = None, batch_sampler: Iterable | None = None,
                 prefetch_factor: int | None = None, multiprocessing_context: Any = None, on_error: str = 'raise',
                 cache: str | Path | PictureCache | None = None, **kwargs: Any) -> None:
        torch_names = {'collate_fn': 'create_batch', 'worker_init_fn': 'wif'}
        kwargs = {torch_names.get(name, name): f for name, f in kwargs.items()}
        kwargs = known_kwargs(type(self).__name__, kwargs, [*hook_names, *DataLoader.__init__.__annotations__])
        self.dataset, self.bs, self.shuffle, self.drop_last = dataset, batch_size or bs, shuffle, drop_last
        can_index = hasattr(dataset, '__getitem__') and not isinstance(dataset, IterableDataset)
        self.indexed = can_index if indexed is None else indexed
        self.sampler, self.batch_sampler, self.n = sampler, batch_sampler, length_of(dataset) if n is None else n
        self._listed = batch_sampler is not None  # workers are not sent the sampler itself
        self._check_arguments(num_workers, on_error)
        self.pin_memory, self.timeout, self.prefetch_factor = pin_memory, timeout, prefetch_factor
        self.persistent_workers, self.multiprocessing_context = persistent_workers, multiprocessing_context
        self.on_error, self.skipped = on_error, []
        self.cache = PictureCache(cache) if isinstance(cache, (str, Path)) else cache
        self._cached: OpenedPictures | None = None
        self.num_workers, self.device = num_workers, device
        self._next: Position | None = None
        self._ordered: Callable[[], Any] | None = None
        self._own_generators: list[Any] = []
        self._at, self._passes, self._pool = Position(0), 0, None
        self._began: dict[str, Any] = {}
        self._known, self._draws, self._tensors = False, True, None
        for name, f in kwargs.items():
            if f is not None:
                setattr(self, name, f)

    def _check_arguments(self, num_workers: int | None, on_error: str) -> None:
        if self.bs is None and self.drop_last and self.batch_sampler is None:
            raise ValueError('drop_last needs a batch size: DataLoader(..., bs=64, drop_last=True)')
        if self.shuffle and (self.sampler is not None or self.batch_sampler is not None):
            raise ValueError('shuffle and sampler both say the order: give one of them')
        if not self.indexed and (self.shuffle or self.sampler is not None or self.batch_sampler is not None):
            raise ValueError(f'{type(self.dataset).__name__} has no indices, so it has one order only: leave out '
                             'shuffle and sampler')
        if self.bs is not None and self.bs < 1:
            raise ValueError(f'a batch needs items: bs={self.bs}')
        if num_workers is not None and num_workers < 0:
            raise ValueError(f'num_workers={num_workers}: give 0 or more, or None to have it decided')
        if on_error not in ('raise', 'skip'):
            raise ValueError(f"on_error={on_error!r} is neither 'raise' nor 'skip'")

    def __getattr__(self, name: str) -> Any:
        return lookup(self, name, 'dataset')

    def __getstate__(self) -> dict:
        return {**self.__dict__, '_pool': None}

    # ------------------------------------------------------------ hooks: each may be replaced

    def wif(self, worker_id: int | None = None) -> None:
        """Called in each worker process when it starts."""

    def before_iter(self) -> None:
        """Called before a pass."""

    def after_iter(self) -> None:
        """Called after a pass that ran to its end."""

    @keyed
    def after_item(self, x: Any) -> Any:
        """Item transforms, on one sample."""
        return x

    @keyed
    def before_batch(self, samples: list) -> list:
        """Called with the samples of a batch before they are collated."""
        return samples

    @keyed
    def after_batch(self, b: Any) -> Any:
        """Batch transforms, on the device."""
        return b

    @keyed
    def create_item(self, s: Any) -> Any:
        """The sample at index `s`; of a data set without indices (`s` is None) the next one."""
        if s is None:
            return next(self.it)
        return self.dataset[s]

    @keyed
    def create_batch(self, samples: Any) -> Any:
        """Collate samples; without a batch size, convert one ready batch."""
        return fa_convert(samples) if self.prebatched else fa_collate(samples)

    @keyed
    def retain(self, b: Any, samples: Any) -> Any:
        """Give the parts of a batch the marker types of the samples' parts."""
        if self.prebatched or not samples:
            return b
        return _retain(b, samples[0])

    @keyed
    def do_batch(self, samples: Any) -> Any:
        """Samples to a batch on the CPU."""
        return self.retain(self.create_batch(self.before_batch(samples)), samples)

    def get_idxs(self) -> Any:
        """The indices of a pass, in order."""
        if self.sampler is not None:
            tell_epoch(self)
            return whole(self.sampler, key_seed(self._at.seed, ORDER, self._at.epoch))
        indices = Inf.count if self.n is None else range(self.n)
        return self.shuffle_fn(indices) if self.shuffle else indices

    def sample(self) -> Any:
        """The indices of a pass, in order."""
        return self.get_idxs()

    def shuffle_fn(self, idxs: Sequence) -> list:
        """The indices in the order of this epoch."""
        return [idxs[i] for i in order(len(idxs), self._at.seed, self._at.epoch)]

    # ------------------------------------------------------------ what it is made of

    @property
    def batch_size(self) -> int | None:
        """Items a batch."""
        return self.bs

    @property
    def prebatched(self) -> bool:
        """Whether the data set's items are batches already."""
        return self.bs is None and not self._listed

    @property
    def num_workers(self) -> int:
        """Worker processes or threads; 0 while it is still to be decided."""
        return self._workers if self._workers is not None else self._chosen or 0

    @num_workers.setter
    def num_workers(self, n: int | None) -> None:
        self._workers, self._chosen, self._pool = n, None, None

    @property
    def device(self) -> torch.device | None:
        """Where batches go, None for nowhere."""
        return self._device

    @device.setter
    def device(self, device: Any) -> None:
        self._device = None if device is None else torch.device(device)

    def to(self, device: Any) -> DataLoader:
        """Send batches to `device` from now on."""
        self.device = device
        return self

    def __len__(self) -> int:
        if self.batch_sampler is not None:
            return len(self.batch_sampler)
        n = len(self.sampler) if self.sampler is not None else self.n
        if n is None:
            raise TypeError(f'{type(self.dataset).__name__} does not tell how many items it has')
        return self._batches_of(n)

    def _batches_of(self, n: int) -> int:
        """How many batches `n` items are."""
        if self.bs is None:
            return n
        return n // self.bs if self.drop_last else -(-n // self.bs)

    def new(self, dataset: Any = None, cls: type | None = None, **kwargs: Any) -> DataLoader:
        """A loader like this one, of `dataset` if given, with some arguments changed."""
        same = dict(num_workers=self._workers, pin_memory=self.pin_memory, timeout=self.timeout, bs=self.bs,
                    shuffle=self.shuffle, drop_last=self.drop_last, indexed=self.indexed, device=self.device,
                    persistent_workers=self.persistent_workers, prefetch_factor=self.prefetch_factor,
                    multiprocessing_context=self.multiprocessing_context, on_error=self.on_error, cache=self.cache)
        if dataset is None:
            dataset = self.dataset
            if not {'shuffle', 'sampler', 'batch_sampler'} & set(kwargs):
                same.update(sampler=self.sampler, batch_sampler=self.batch_sampler)
        elif dataset is not self.dataset:
            del same['indexed']
        same.update({name: self.__dict__[name] for name in hook_names if name in self.__dict__})
        if 'batch_size' in kwargs:
            kwargs['bs'] = kwargs.pop('batch_size')
        return (cls or type(self))(dataset, **{**same, **kwargs})

    def show_plan(self) -> None:
        """Print what happens to an item and a batch, where, and why there."""
        for line in describe_plan(self).split('\n'):
            say(line)

    # ------------------------------------------------------------ a pass

    def begin(self, seed: int, epoch: int, start_batch: int = 0) -> None:
        """Say what the next pass runs: everything random of (seed, epoch), from batch `start_batch` on."""
        self._next, self._ordered = Position(seed, epoch, start_batch), None

    def once_ordered(self, f: Callable[[], Any]) -> None:
        """Call `f` in the pass that `begin` was told of, when its order is drawn and no item is made yet.

        A sampler without a length is read as the pass goes on; for such a one `f` is not called.
        """
        self._ordered = f

    def state_dict(self) -> dict[str, int]:
        """Where the running pass stands; `batch` is the number of batches handed out."""
        return dict(vars(self._at))

    def last_items(self) -> list[str]:
        """What the items of the batch handed out last are called: their indices and, where known, their files.

        The order is a function of the position and found again from it, so nothing is kept for this. Empty where no
        batch was handed out, and for data without indices.
        """
        at = self._at
        before = Position(at.seed, at.epoch, at.batch - 1)
        with order_untouched(self, self._began):
            job = next(self._jobs(before), None) if self.indexed and at.batch else None
        return [] if job is None else [self._item_name(index) for index, _ in job.pairs]

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next pass go on where `state_dict` was taken."""
        self.begin(state['seed'], state['epoch'], state['batch'])

    def _own_position(self) -> Position:
        """For looking at the data by hand: a function of the seed set last, another for each pass, nothing drawn."""
        self._passes += 1
        return Position(torch.initial_seed(), self._passes - 1)

    def __iter__(self) -> Iterator:
        position, self._next = self._next or self._own_position(), None
        return self._pass(position)

    def one_batch(self) -> Any:
        """One batch of a pass of its own, made here; leaves no trace in the training.

        Raises:
            ValueError: there is none.
        """
        if self.n is not None and len(self) == 0:
            raise ValueError(f'this loader has no batch: {why_empty(self)}')
        at, waiting, began = self._at, self._next, self._began
        with order_untouched(self):
            return self._one_batch(at, waiting, began)

    def _one_batch(self, at: Position, waiting: Position | None, began: Any) -> Any:
        try:
            if type(self).__iter__ is not DataLoader.__iter__:
                return next(iter(self))
            passing = self._pass(self._own_position(), here=True)
            try:
                return next(passing)
            finally:
                passing.close()
        finally:
            self._at, self._next, self._began = at, waiting, began

    def _pass(self, position: Position, here: bool = False) -> Iterator:
        self._at = position
        self._began = order_state(self)
        self.skipped = []
        self._prepare()
        self._cached = None if self.cache is None else OpenedPictures(self.cache, self.after_item)
        self.before_iter()
        made = self._stream(position, here) if not self.indexed else self._host_batches(position, here)
        ahead = self.device is not None and self.device.type == 'cuda' and not here
        uploaded = _one_ahead(self._upload(host) for host in made) if ahead else map(self._upload, made)
        try:
            for host in uploaded:
                self.skipped += host.skipped
                if host.data is None:
                    continue
                b = self._transformed(host.data, key_seed(position.seed, BATCH, position.epoch, host.number, 1))
                self._at = Position(position.seed, position.epoch, host.number + 1)
                yield b
        finally:
            made.close()  # workers end with the pass, also where it is left in the middle
        self.after_iter()
        if self.skipped:
            _, name, message = self.skipped[0]
            warn(f'{len(self.skipped)} items were left out as they cannot be read, listed in dl.skipped; the first: '
                 f'{name}: {message}')

    def _prepare(self) -> None:
        """Whatever a kind of loader has to do before each pass."""

    def _jobs(self, position: Position) -> Iterator[Job]:
        """The batches still to be made, as lists of indices and seeds."""
        seed, epoch = position.seed, position.epoch
        key = key_seed(seed, ORDER, epoch)
        if self.batch_sampler is not None:
            tell_epoch(self)
            lists: Any = whole(self.batch_sampler, key)
        else:
            with set_aside():
                seed_cpu(key)
                indices = self.sample()
            lists = ([i] for i in indices) if self.bs is None else chunks(indices, self.bs, self.drop_last)
        keys = ItemKeys(seed, epoch) if self._draws else None
        for number, indices in enumerate(lists):
            pairs = [(i, keys(i) if keys else 0) for i in indices]
            if number >= position.batch:
                yield Job(number, key_seed(seed, BATCH, epoch, number), pairs)

    def _once_ordered(self, jobs: Iterator[Job]) -> Iterator[Job]:
        told, self._ordered = self._ordered, None
        order = self.sampler if self.batch_sampler is None else self.batch_sampler
        if order is not None and not hasattr(order, '__len__'):
            return jobs
        first = next(jobs, None)  # draws all of the order
        told()
        return iter(()) if first is None else itertools.chain([first], jobs)

    def _find_generators(self) -> list[Any]:
        """The generators that hang on the data set and on what makes items; what items draw from them is keyed too."""
        return [place.value for place in find(self, skip=(*ORDER_NAMES, *_main_process), data=False).generators]

    def _host_batches(self, position: Position, here: bool) -> Iterator[HostBatch]:
        self._known = not unknown_parts(self)
        self._draws = not self._known or getattr(self.after_item, 'takes_generator', False)
        self._tensors = whole_tensors(self)
        self._own_generators = [] if self._known else self._find_generators()
        jobs = self._jobs(position)
        if self._ordered is not None and not here:
            jobs = self._once_ordered(jobs)
        n = 0 if here else self._workers if self._workers is not None else self._chosen
        make = self._make_pinned if self._pins() else self._make
        if n is None:
            first = next(jobs, None)
            if first is None:
                return
            start = time.perf_counter()
            made = self._make(first)
            spent = time.perf_counter() - start
            yield made
            n = self._chosen = choose_workers(self, spent, defaults.cpus)
        if n == 0:
            yield from map(make, jobs)
        elif takes_threads(self, n, self._known):
            yield from in_threads(make, jobs, n, self.prefetch_factor or 2)
        else:
            yield from self._processes(n).run(jobs)

    def _make_pinned(self, job: Job) -> HostBatch:
        return self._make(job).pin_memory()

    def _processes(self, n: int) -> ProcessPool:
        context = None if self.multiprocessing_context == 'thread' else self.multiprocessing_context
        method = context or torch.multiprocessing.get_start_method()
        persistent = method != 'fork' if self.persistent_workers is None else self.persistent_workers
        plan = (n, context, self._known, id(self.dataset), getattr(self.dataset, 'split_idx', None),
                str(self.__dict__.get('after_item')), str(self.__dict__.get('before_batch')), repr(self.cache))
        if self._pool is not None and self._pool[0] == plan:
            return self._pool[1]
        sent = copy.copy(self)
        for name in _stays_here:
            sent.__dict__.pop(name, None)
        make = sent._make if self.indexed else sent._streamed
        pool = ProcessPool(make, n, persistent, context, not self.indexed, sent.wif, sent._item_name,
                           timeout=self.timeout, pin_memory=self._pins(), prefetch_factor=self.prefetch_factor)
        self._pool = (plan, pool) if persistent and self.indexed else None
        return pool

    def _pins(self) -> bool:
        on_cuda = self.device is not None and self.device.type == 'cuda' and torch.cuda.is_available()
        return on_cuda if self.pin_memory is None else self.pin_memory and torch.cuda.is_available()

    def _stream(self, position: Position, here: bool) -> Iterator[HostBatch]:
        """One stream is read by one process: with workers by one of them, whatever their number."""
        self._known, self._draws = False, True
        self._own_generators = self._find_generators()
        if here or not self._workers:
            yield from self._streamed()
        else:
            yield from self._processes(1).run()

    # ------------------------------------------------------------ to the device

    def _upload(self, host: HostBatch) -> HostBatch:
        if self.device is not None and host.data is not None:
            host.data = to_device(host.data, self.device, non_blocking=self.device.type == 'cuda')
        return host

    def _transformed(self, b: Any, seed: int) -> Any:
        after = self.after_batch
        if isinstance(after, Pipeline) and not len(after):
            return b
        if not is_known(after):
            with seeded(seed):
                return self._after_batch(after, b, seed)
        return self._after_batch(after, b, seed)

    def _after_batch(self, after: Callable, b: Any, seed: int) -> Any:
        if not isinstance(after, Pipeline):
            return after(b)
        return bytes_first(after, self.device)(b, generator=torch.Generator().manual_seed(seed))


def _one_ahead(uploads: Iterator) -> Iterator:
    """Start the next upload before the batch before it is handed out."""
    waiting = next(uploads, None)
    while waiting is not None:
        following = next(uploads, None)
        yield waiting
        waiting = following


def why_empty(dl: Any) -> str:
    """Why a loader of any kind has no batch, with its numbers and the way out."""
    bs = getattr(dl, 'bs', None) or getattr(dl, 'batch_size', None)
    dataset = getattr(dl, 'dataset', None)
    n = getattr(dl, 'n', None) if isinstance(dl, DataLoader) else length_of(dataset)
    if n and bs and n < bs and getattr(dl, 'drop_last', False):
        return (f'{n} items, bs={bs}, drop_last={dl.drop_last}: a last batch that is not full is left out, and there '
                f'is no other. Give bs={n} or less where the loaders are made')
    if n and getattr(dl, 'skipped', None):
        return f'{n} items, bs={bs}, and none of them could be read: dl.skipped lists them'
    if n == 0:
        return ('0 items: do get_items and the splitter leave some? A learner that load_learner made predicts; to '
                'train it, give it data: learn.dls = dls')
    return (f'{"no length" if n is None else f"{n} items"}, bs={bs}: what it iterates over ({type(dataset).__name__}) '
            'yields nothing, or was used up by a pass before, as a generator is')


def _retain(b: Any, like: Any) -> Any:
    if isinstance(b, (tuple, list)) and isinstance(like, (tuple, list)) and len(b) == len(like):
        parts = [_retain(o, p) for o, p in zip(b, like)]
        return type(b)(*parts) if hasattr(b, '_fields') else type(b)(parts)
    return retain_type(b, like)
