"""`DataLoader`: items to batches to the device, the same batches for any number of workers."""
from __future__ import annotations

import copy
import itertools
import operator
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import torch
from fastcore.basics import Inf
from fastcore.foundation import L
from torch import Tensor
from torch.utils.data import DistributedSampler, IterableDataset, Subset, TensorDataset

from minifast.arguments import known_kwargs, lookup
from minifast.codetext import keyed
from minifast.data.cache import OpenedPictures, PictureCache
from minifast.data.collate import (BatchRequest, FetchedBatch, SkipItemException, Slots, Target, add_note,
                                   collate_error, fa_collate, fa_convert)
from minifast.data.sampler import (BATCH, ORDER, ORDER_NAMES, ItemKeys, Position, chunks, order, order_state,
                                   order_untouched, read_order, tell_epoch)
from minifast.data.showing import repr_of_loader
from minifast.data.stream import Reading, evened, kind_of, own_shuffle, read
from minifast.data.transform import Pipeline, Step, bound, is_known
from minifast.data.transforms import ByteTable
from minifast.data.workers import ProcessPool, Workers, choose_workers, fork_cpu_rng, in_threads, seed_cpu, workers_of
from minifast.distributed import Share, of_one_process, on_own
from minifast.hidden import find
from minifast.markers import plain, retain_types
from minifast.seeds import SampleGenerator, key_seed, seeded
from minifast.terminal import say, visible, warn
from minifast.torch_core import defaults, length_of, retain_type, to_device

__all__ = ['DataLoader', 'SkipItemException', 'collate_error', 'fa_collate', 'fa_convert', 'why_empty']

_hooks = ('wif', 'before_iter', 'after_item', 'before_batch', 'after_batch', 'after_iter')
hook_names = (*_hooks, 'create_item', 'create_batch', 'retain', 'get_idxs', 'sample', 'shuffle_fn', 'do_batch',
              'do_item')
"""What can be given to a loader as a keyword argument, or overridden."""
_stays_here = ('after_batch', 'before_iter', 'after_iter', '_pool', '_next', '_ordered', '_pass')
"""What worker processes are not sent, besides what decides about the order: it is used in the loader's own only."""


# ---------------------------------------------------------------- what is decided about a pass

@dataclass(frozen=True)
class Plan:
    """All that is decided about a pass, once, when it begins.

    Item transforms are those of that moment, as in worker processes, though their attributes may change later where
    items are made in the calling process. Batch transforms may be exchanged and changed between batches: what the plan
    says of them is decided anew where `batch_of` tells a change.

    Attributes:
        subsets: the indices of subsets around the data set, outermost first.
        elements: (items, steps) for each element of a sample, or one such pair for samples that are no tuples; None:
            `create_item` makes samples.
        item: the steps of a sample; None: `do_item` is the user's own and makes it all.
        tensors: whole tensors that batches are slices of; None: there is more to do than to slice.
        slots: pixels go straight to their place in the batch.
        batch: the steps of a batch, on the device, in the order they run.
        batch_keyed: generators are handed to them; else the global ones are seeded and put back.
        batch_draws: some of them draw from one, and so need the seeds of their samples.
        batch_of: what `batch` was made of.
        keyed: the same of items: there is no global generator to be seeded for each of them.
        draws: items draw at all.
        unknown: what may draw from the global generators, by name.
        workers: where batches are made; None: to be decided by the time that the first one takes.
    """

    subsets: tuple[Any, ...]
    elements: list[tuple[Any, tuple[Step, ...]]] | tuple[Any, tuple[Step, ...]] | None
    item: tuple[Step, ...] | None
    tensors: tuple[Tensor, ...] | None
    slots: bool
    keyed: bool
    draws: bool
    unknown: tuple[str, ...]
    workers: Workers | None
    batch: tuple[Step, ...]
    batch_keyed: bool
    batch_draws: bool
    batch_of: tuple

    def why(self, dl: Any) -> dict[str, str]:
        """What `show_plan` prints, by its first word; put together when it is asked for, as names of transforms tell
        numbers that may lie on a GPU."""
        where = self.workers or Workers('here')
        made_in = {'here': 'the calling process', 'threads': f'{where.n} threads',
                   'processes': f'{where.n} worker processes ({where.method})'}[where.kind]
        if dl._workers is None:
            made_in += ', until a first batch was timed' if self.workers is None else (
                ', for the time the first batch took')
        order = type(dl.sampler or dl.batch_sampler).__name__ if dl.sampler or dl.batch_sampler else (
            'shuffled, keyed by (seed, epoch)' if dl.shuffle else 'as they are')
        lines = {'order': order, 'made in': made_in}
        if self.tensors is not None:
            lines['create_batch'] = 'slices of whole tensors'
        else:
            hooks = ('create_item', 'after_item', 'before_batch', 'create_batch')
            lines |= {hook: _named(getattr(dl, hook)) for hook in hooks}
        if dl.cache is not None:
            lines['cache'] = repr(dl.cache)
        lines['randomness'] = 'from generators handed to the transforms' if not self.unknown else (
            f'global generators seeded for each item, because of {", ".join(self.unknown)}')
        lines['to'] = str(dl.device or 'nowhere (CPU)')
        after = dl.after_batch
        lines['after_batch'] = _named(_bytes_first(after, dl.device) if isinstance(after, Pipeline) else after)
        return lines


def _plan_of(dl: DataLoader, opened: OpenedPictures | None = None, here: bool = False) -> Plan:
    """What a pass of this loader does as it stands.

    Args:
        opened: the cache as the pass uses it.
        here: workers or not, the batches are made in the calling process.
    """
    unknown, subsets, dataset = tuple(_unknown_parts(dl)), [], dl.dataset
    while type(dataset) is Subset:
        subsets.append(dataset.indices)
        dataset = dataset.dataset
    plain = all(_own(dl, hook) or _empty(getattr(dl, hook)) for hook in _makes_items) and not dl.prebatched
    after = dl.after_item if opened is None else opened.rest
    item = after.steps() if isinstance(after, Pipeline) else () if _own(dl, 'after_item') else (Step(after),)
    keyed_items, n = dl.indexed and not unknown, 0 if here else dl._workers if dl._workers is not None else dl._chosen
    return Plan(subsets=tuple(subsets), elements=_elements_of(dl, dataset),
                item=item if _own(dl, 'do_item') else None,
                tensors=dataset.tensors if type(dataset) is TensorDataset and plain else None,
                slots=keyed_items and not dl.prebatched and _own(dl, 'do_batch') and _own(dl, 'create_batch'),
                keyed=keyed_items, draws=not keyed_items or getattr(after, 'takes_generator', False),
                unknown=unknown, workers=None if n is None else workers_of(dl, n, keyed_items), **_batch_plan(dl))


def _own(dl: Any, hook: str) -> bool:
    """Whether a hook is still the loader's own."""
    return getattr(getattr(dl, hook), '__func__', None) is _hooks_of_ours[hook]


def _empty(f: Any) -> bool:
    return isinstance(f, Pipeline) and len(f) == 0


def _elements_of(dl: Any, dataset: Any) -> Any:
    elements = getattr(type(dataset), 'elements', None)
    if elements is None or not dl.indexed or not _own(dl, 'create_item') or not _own(dl, 'do_item'):
        return None
    found = elements(dataset)
    if isinstance(found, tuple):
        return found[0], found[1].steps()
    return found and [(items, pipeline.steps()) for items, pipeline in found]


def _batch_plan(dl: Any) -> dict[str, Any]:
    """What a plan says of the batch transforms as they stand."""
    after = dl.after_batch
    if isinstance(after, Pipeline):
        steps = _bytes_first(after, dl.device).steps()
    else:
        steps = () if _own(dl, 'after_batch') else (Step(after),)
    return {'batch': steps, 'batch_keyed': is_known(after), 'batch_of': _batch_of(dl),
            'batch_draws': any('generator' in step.takes for step in steps)}


def _batch_of(dl: Any) -> tuple:
    """All that decides about the steps of a batch: the transforms and what hangs on them, to be compared by `is`."""
    after = dl.after_batch
    fs = getattr(after, 'fs', ())
    hung = itertools.chain.from_iterable(map(dict.values, map(vars, fs)))
    if isinstance(after, MethodType):  # another object each time it is asked for
        after = after.__func__
    return (after, dl._device, getattr(after, 'split_idx', None), *fs, *hung)


_makes_items = ('after_item', 'before_batch', 'create_item', 'create_batch', 'retain', 'do_item', 'do_batch')


def _unknown_parts(dl: Any) -> list[str]:
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


def _bytes_first(after: Pipeline, device: torch.device | None) -> Pipeline:
    """Batch transforms in the order they run in: on a CPU pictures stay bytes as long as that is faster.

    What `makes_floats` then waits behind the geometry that follows it and says `on_bytes`; not where that resamples in
    validation, so that pixels there are exact. Together with those behind it that are `bytewise` it becomes a table.
    """
    fs = list(after.fs)
    at = next((i for i, f in enumerate(fs) if getattr(f, 'makes_floats', False) and is_known(f)), None)
    if at is None or device is None or device.type != 'cpu':
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


def _named(f: Any) -> str:
    return (f.name or '-') if isinstance(f, Pipeline) else getattr(f, '__qualname__', type(f).__name__)


@dataclass
class _Pass:
    """A pass as it runs, and as it was left.

    Attributes:
        at: where it stands: `batch` is the number of batches handed out.
        began: what decides about the order and is no function of the position, as it was when the pass began.
        opened: the cache as the pass uses it.
        plan: what is done.
        generators: those that hang on the data set and on what makes items; what items draw from them is keyed too.
        stand_ins: the batches of which this process has no items of its own, see `Share`.
        reading: of a stream, who reads it and where they stand.
    """

    at: Position
    began: dict[str, Any] = field(default_factory=dict)
    opened: OpenedPictures | None = None
    plan: Plan | None = None
    generators: Sequence[Any] = ()
    stand_ins: set[int] = field(default_factory=set)
    reading: Reading | None = None


class DataLoader:
    """Makes batches of a data set's items: `item -> after_item`, then `before_batch -> create_batch`, then to the
    device, then `after_batch`.

    Everything random is keyed: a sample's by (seed, epoch, index), also on the device where it stands in a batch; what
    is drawn for a whole batch by (seed, epoch, batch); the order by (seed, epoch). So batches are the same for any
    number of workers however they are started, what is drawn for a sample does not depend on `bs`, a pass can be
    resumed at any batch (`begin`), and the global generators are left as they were. Each hook named above, and
    `create_item`, `get_idxs`, `shuffle_fn`, `do_item`, `do_batch`, `retain`, `sample`, `wif`, `before_iter`,
    `after_iter`, may be given as a keyword argument or overridden.

    Args:
        dataset: anything with `[i]` and `len`, or an iterable. Streams of webdataset and `datasets` are shared out by
            process and worker; their own shuffles are keyed by (seed, epoch).
        bs: items a batch, of each process; None: each item is a batch already.
        global_bs: items a batch of all processes together, instead of `bs`.
        num_workers: worker processes; 0: none; None: decided by the time the first batch takes (see `show_plan`).
        pin_memory: page-locked host memory; default: where the device is CUDA.
        pin_memory_device: taken as torch takes it, and without meaning there too.
        timeout: seconds without a batch from the workers after which they count as hung, 0 for ever.
        batch_size: torch's name of `bs`.
        shuffle: another order each epoch.
        drop_last: leave out a last batch that is not full.
        indexed: the data set has `[i]`; default: found out.
        n: use the first `n` items. A stream with several readers: `len` goes by it, and none reads more.
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
        **kwargs: hooks, see above; an unknown name is left out with a warning that tells the nearest one.

    Raises:
        ValueError: arguments that contradict each other.

    Example:
        >>> dl = DataLoader([(torch.rand(3), n) for n in range(10)], bs=4, shuffle=True)
        >>> [len(y) for x, y in dl]
        [4, 4, 2]
    """

    share = Share()
    stands_in = False
    __repr__ = repr_of_loader

    def __init__(self, dataset: Any = None, bs: int | None = None, num_workers: int | None = 0,
                 pin_memory: bool | None = None, timeout: float = 600, batch_size: int | None = None,
                 shuffle: bool = False, drop_last: bool = False, indexed: bool | None = None, n: int | None = None,
                 device: Any = None, persistent_workers: bool | None = None, pin_memory_device: str = '',
                 sampler: Iterable[Any] | None = None, batch_sampler: Iterable[Any] | None = None,
                 prefetch_factor: int | None = None, multiprocessing_context: Any = None, on_error: str = 'raise',
                 cache: str | Path | PictureCache | None = None, global_bs: int | None = None, **kwargs: Any) -> None:
        torch_names = {'collate_fn': 'create_batch', 'worker_init_fn': 'wif'}
        kwargs = {torch_names.get(name, name): f for name, f in kwargs.items()}
        kwargs = known_kwargs(type(self).__name__, kwargs, [*hook_names, *DataLoader.__init__.__annotations__])
        bs = batch_size or bs if global_bs is None else of_one_process(global_bs)
        self.dataset, self.bs, self.shuffle, self.drop_last = dataset, bs, shuffle, drop_last
        can_index = hasattr(dataset, '__getitem__') and not isinstance(dataset, IterableDataset)
        self.indexed = can_index if indexed is None else indexed
        self.sampler, self.batch_sampler, self.n = sampler, batch_sampler, length_of(dataset) if n is None else n
        self._listed = batch_sampler is not None  # workers are not sent the sampler itself
        self._check_arguments(num_workers, on_error)
        self.pin_memory, self.timeout, self.prefetch_factor = pin_memory, timeout, prefetch_factor
        self.persistent_workers, self.multiprocessing_context = persistent_workers, multiprocessing_context
        self.on_error, self.skipped = on_error, []
        self.cache = PictureCache(cache) if isinstance(cache, (str, Path)) else cache
        self.num_workers, self.device = num_workers, device
        self._next: Position | None = None
        self._ordered: Callable[[], Any] | None = None
        self._pass, self._passes, self._pool = _Pass(Position(0)), 0, None
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
                             f'shuffle and sampler{own_shuffle(self.dataset)}')
        if self.bs is not None and self.bs < 1:
            raise ValueError(f'a batch needs items: bs={self.bs}')
        if num_workers is not None and num_workers < 0:
            raise ValueError(f'num_workers={num_workers}: give 0 or more, or None to have it decided')
        if on_error not in ('raise', 'skip'):
            raise ValueError(f"on_error={on_error!r} is neither 'raise' nor 'skip'")

    def __getattr__(self, name: str) -> Any:
        return lookup(self, name, 'dataset')

    def __getstate__(self) -> dict:
        return {**self.__dict__, '_pool': None, '_pass': _Pass(self._pass.at, self._pass.began),
                'share': replace(self.share, any_has=None)}

    # ------------------------------------------------------------ hooks: each may be replaced

    def wif(self, worker_id: int | None = None) -> None:
        """Called in each worker process when it starts, with its number `worker_id`."""

    def before_iter(self) -> None:
        """Called before a pass."""

    def after_iter(self) -> None:
        """Called after a pass that ran to its end."""

    @keyed
    def after_item(self, x: Any) -> Any:
        """Item transforms, on one sample `x`."""
        return x

    @keyed
    def before_batch(self, samples: list[Any]) -> list[Any]:
        """Called with the `samples` of a batch before they are collated."""
        return samples

    @keyed
    def after_batch(self, b: Any) -> Any:
        """Batch transforms, on the batch `b`, on the device."""
        return b

    @keyed
    def create_item(self, s: Any) -> Any:
        """The sample at index `s`; of a data set without indices (`s` is None) the next one."""
        if s is None:
            return next(self.it)
        return self.dataset[s]

    @keyed
    def do_item(self, s: Any) -> Any:
        """The sample at index `s`, ready to be collated; None where it asked to be left out."""
        try:
            return self.after_item(self.create_item(s))
        except SkipItemException:
            return None

    @keyed
    def create_batch(self, samples: Any, slots: Slots | None = None) -> Any:
        """Collate `samples`, whose pixels may lie in `slots`; without a batch size, convert one ready batch."""
        return fa_convert(samples) if self.prebatched else fa_collate(samples, slots)

    @keyed
    def retain(self, b: Any, samples: Any) -> Any:
        """Give the parts of the batch `b` the marker types of the parts of its `samples`."""
        if self.prebatched or not samples:
            return b
        return retain_types(b, samples[0])

    @keyed
    def do_batch(self, samples: Any, slots: Slots | None = None) -> Any:
        """`samples`, whose pixels may lie in `slots`, to a batch on the CPU."""
        ready = self.before_batch(samples)
        return self.retain(self.create_batch(ready) if slots is None else self.create_batch(ready, slots), samples)

    def get_idxs(self) -> Any:
        """The indices of a pass, in order."""
        if self.sampler is not None:
            tell_epoch(self)
            return read_order(self.sampler, key_seed(self._at.seed, ORDER, self._at.epoch))
        indices = Inf.count if self.n is None else range(self.n)
        return self.shuffle_fn(indices) if self.shuffle else indices

    def sample(self) -> Any:
        """The indices of a pass, in order."""
        return self.get_idxs()

    def shuffle_fn(self, idxs: Sequence[Any]) -> list[Any]:
        """The indices `idxs` in the order of this epoch."""
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

    @property
    def shareable(self) -> bool:
        """Whether several processes can make a part each."""
        if self.indexed:
            return not isinstance(self.sampler, DistributedSampler)
        kind = kind_of(self.dataset)
        return kind is not None and kind.why_not_shared(self.dataset) is None

    def share_out(self, rank: int, n_ranks: int, fill: bool = False,
                  any_has: Callable[[bool], bool] | None = None) -> None:
        """Make this process's `Share(rank, n_ranks, fill, any_has)` of each batch, or of a stream, from now on; `len`
        is the number of batches of all processes."""
        self.share = Share(rank, n_ranks, fill, any_has)

    def __len__(self) -> int:
        if self.batch_sampler is not None:
            return len(self.batch_sampler)
        n = len(self.sampler) if self.sampler is not None else self.n
        if n is None:
            raise TypeError(f'{type(self.dataset).__name__} does not tell how many items it has')
        return self._batches_of(n)

    def _batches_of(self, n: int) -> int:
        """How many batches `n` items are."""
        per_batch = (self.bs or 1) * self.share.parts
        return n // per_batch if self.drop_last else -(-n // per_batch)

    def new(self, dataset: Any = None, cls: type[Any] | None = None, **kwargs: Any) -> DataLoader:
        """A loader like this one, of `dataset` and class `cls` if given, with the arguments in `kwargs` changed."""
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
        made = (cls or type(self))(dataset, **{**same, **kwargs})
        made.share = self.share
        return made

    def show_plan(self) -> None:
        """Print what happens to an item and a batch, where, and why there."""
        for what, told in _plan_of(self).why(self).items():
            say(f'{what:13}{told}')

    # ------------------------------------------------------------ a pass

    def begin(self, seed: int, epoch: int, start_batch: int = 0) -> None:
        """Say what the next pass runs: everything random of (`seed`, `epoch`), from batch `start_batch` on."""
        self._next, self._ordered = Position(seed, epoch, start_batch), None

    def once_ordered(self, f: Callable[[], Any]) -> None:
        """Call `f` in the pass that `begin` was told of, when its order is drawn and no item is made yet.

        A sampler without a length is read as the pass goes on; for such a one `f` is not called.
        """
        self._ordered = f

    @property
    def _at(self) -> Position:
        """Where the running pass stands."""
        return self._pass.at

    def state_dict(self) -> dict[str, Any]:
        """Where the running pass stands; `batch` is the number of batches handed out."""
        at, reading = self._at, self._pass.reading
        found: dict[str, Any] = {'seed': at.seed, 'epoch': at.epoch, 'batch': at.batch}
        return found if reading is None or reading.kind is None else {**found, 'stream': reading.state(at.batch)}

    def last_items(self) -> list[str]:
        """What the items of the batch handed out last are called: their indices and, where known, their files.

        The order is a function of the position and found again from it, so nothing is kept for this. Empty where no
        batch was handed out, and for data without indices.
        """
        at = self._at
        before = Position(at.seed, at.epoch, at.batch - 1)
        with order_untouched(self, self._pass.began):
            job = next(self._jobs(before), None) if self.indexed and at.batch else None
        return [] if job is None else [self._item_name(index) for index, _ in job.pairs]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next pass go on where `state`, a `state_dict()`, was taken."""
        self.begin(state['seed'], state['epoch'], state['batch'])
        if state.get('stream') is not None:
            self._next = replace(self._next, stream=state['stream'])

    def _own_position(self) -> Position:
        """For looking at the data by hand: a function of the seed set last, another for each pass, nothing drawn."""
        self._passes += 1
        return Position(torch.initial_seed(), self._passes - 1)

    def __iter__(self) -> Iterator:
        position, self._next = self._next or self._own_position(), None
        return self._batches(position)

    def another_look(self, **kwargs: Any) -> Any:
        """`new(**kwargs)` for a look at the data, by which this loader has passed once more: each look is another."""
        made = self.new(**kwargs)
        made._passes, self._passes = self._passes, self._passes + 1
        return made

    def one_batch(self) -> Any:
        """One batch of a pass of its own, made here; leaves no trace in the training.

        Raises:
            ValueError: there is none.
        """
        if self.n is not None and len(self) == 0:
            raise ValueError(f'this loader has no batch: {why_empty(self)}')
        running, waiting = self._pass, self._next
        with order_untouched(self), on_own():  # whoever looks need not wait for other processes
            try:
                if type(self).__iter__ is not DataLoader.__iter__:
                    return next(iter(self))
                passing = self._batches(self._own_position(), here=True)
                try:
                    return next(passing)
                finally:
                    passing.close()
            finally:
                self._pass, self._next = running, waiting

    def _batches(self, position: Position, here: bool = False) -> Iterator:
        run = self._pass = _Pass(position, order_state(self))
        self.skipped = []
        self._prepare()
        run.opened = None if self.cache is None else OpenedPictures(self.cache, self.after_item)
        self.before_iter()
        run.plan = _plan_of(self, run.opened, here)
        made = self._host_batches(run, here) if self.indexed else self._stream(run)
        ahead = self.device is not None and self.device.type == 'cuda' and not here
        uploaded = _one_ahead(self._upload(host) for host in made) if ahead else map(self._upload, made)
        try:
            for host in uploaded:
                self.skipped += host.skipped
                if host.data is None:
                    continue
                seed = key_seed(position.seed, BATCH, position.epoch, host.number, 1)
                b = self._transformed(run, host.data, seed, host.seeds)
                self._pass, run.at = run, Position(position.seed, position.epoch, host.number + 1)
                if host.reader is not None:
                    run.reading.handed_out(host.reader)
                self.stands_in = host.number in run.stand_ins
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

    def _jobs(self, position: Position, draws: bool = True) -> Iterator[BatchRequest]:
        """The batches still to be made, as lists of indices and seeds; the seeds are None where nothing draws."""
        seed, epoch = position.seed, position.epoch
        key = key_seed(seed, ORDER, epoch)
        if self.batch_sampler is not None:
            tell_epoch(self)
            lists: Any = read_order(self.batch_sampler, key)
        else:
            with fork_cpu_rng():
                seed_cpu(key)
                indices = self.sample()
            lists = chunks(indices, (self.bs or 1) * self.share.parts, self.drop_last)
        keys, parts = ItemKeys(epoch) if draws else None, self.share.parts
        for number, indices in enumerate(lists):
            own = [(i, keys(i) if keys else None) for i in indices]
            if parts > 1:
                own = self.share.of(own, number, self._pass.stand_ins)
            pairs = [(i, key_seed(seed, *key) if key else None) for i, key in own]
            if number >= position.batch and pairs:
                yield BatchRequest(number, key_seed(seed, BATCH, epoch, number), pairs)

    def _once_ordered(self, jobs: Iterator[BatchRequest]) -> Iterator[BatchRequest]:
        told, self._ordered = self._ordered, None
        order = self.sampler if self.batch_sampler is None else self.batch_sampler
        if order is not None and not hasattr(order, '__len__'):
            return jobs
        first = next(jobs, None)  # draws all of the order
        told()
        return iter(()) if first is None else itertools.chain([first], jobs)

    def _find_generators(self) -> list[Any]:
        return [place.value for place in find(self, skip=(*ORDER_NAMES, *_stays_here, 'it'), data=False).generators]

    def _host_batches(self, run: _Pass, here: bool) -> Iterator[FetchedBatch]:
        plan = run.plan
        run.generators = [] if plan.keyed else self._find_generators()
        jobs = self._jobs(run.at, plan.draws or plan.batch_draws)
        if self._ordered is not None and not here:
            jobs = self._once_ordered(jobs)
        maker = BatchMaker(self, run)
        make = maker.pinned if self._pins() else maker
        if plan.workers is None:
            first = next(jobs, None)
            if first is None:
                return
            start = time.perf_counter()
            made = maker(first)
            spent = time.perf_counter() - start
            yield made
            self._chosen = choose_workers(self, spent, defaults.cpus, plan.keyed)
            run.plan = plan = replace(run.plan, workers=workers_of(self, self._chosen, plan.keyed))
        if plan.workers.kind == 'here':
            yield from map(make, jobs)
        elif plan.workers.kind == 'threads':
            yield from in_threads(make, jobs, plan.workers.n, self.prefetch_factor or 2)
        else:
            yield from self._processes(run, plan.workers.n).run(jobs)

    def _processes(self, run: _Pass, n: int) -> ProcessPool:
        context = None if self.multiprocessing_context == 'thread' else self.multiprocessing_context
        method = context or torch.multiprocessing.get_start_method()
        persistent = method != 'fork' if self.persistent_workers is None else self.persistent_workers
        made_for = (n, context, run.plan.keyed, id(self.dataset), getattr(self.dataset, 'split_idx', None),
                    str(self.__dict__.get('after_item')), str(self.__dict__.get('before_batch')), repr(self.cache))
        if self._pool is not None and self._pool[0] == made_for:
            return self._pool[1]
        sent = copy.copy(self)
        for name in (*ORDER_NAMES, *_stays_here, 'it'):
            sent.__dict__.pop(name, None)
        sent._pass = _Pass(run.at)
        maker = BatchMaker(sent, replace(run, plan=replace(run.plan, batch=(), batch_of=())))
        make = maker if self.indexed else partial(read, maker, run.reading)
        pool = ProcessPool(make, n, persistent, context, not self.indexed, sent.wif, sent._item_name,
                           timeout=self.timeout, pin_memory=self._pins(), prefetch_factor=self.prefetch_factor)
        self._pool = (made_for, pool) if persistent and self.indexed else None
        return pool

    def _pins(self) -> bool:
        on_cuda = self.device is not None and self.device.type == 'cuda' and torch.cuda.is_available()
        return on_cuda if self.pin_memory is None else self.pin_memory and torch.cuda.is_available()

    def _stream(self, run: _Pass) -> Iterator[FetchedBatch]:
        """A stream is read from start to end: with workers each reads a part where its library shares it out, else
        one of them reads all, whatever their number."""
        workers, share = run.plan.workers, self.share
        here = workers is None or workers.kind == 'here'
        run.generators, run.reading = self._find_generators(), Reading.of(self, run.at, 1 if here else workers.n)
        made = read(BatchMaker(self, run), run.reading) if here else self._processes(run, run.reading.n_workers).run()
        made = run.reading.numbered(made, run.at.batch)
        even = share.any_has is not None and share.parts > 1
        yield from evened(made, share.any_has, partial(self._first_of_all, run), run) if even else made

    def _first_of_all(self, run: _Pass) -> FetchedBatch:
        """The first batch of the whole stream, for a process that has none of its own to stand in."""
        with on_own():
            first = BatchMaker(self, replace(run, at=Position(run.at.seed, run.at.epoch)))
            return next(host for host in read(first, Reading.of(self, Position(0), 1)) if host.data is not None)

    def _item_name(self, index: Any) -> str:
        """What an item is called in messages: its index and, where that is known, its path or row."""
        found = (getattr(self.dataset, name, None) for name in ('items', 'samples', 'imgs'))
        items = next((o for o in found if o is not None), None)
        try:
            item = list(items.iloc[index]) if hasattr(items, 'iloc') else items[index]
        except (TypeError, KeyError, IndexError):
            return f'item {index}'
        item = f'{type(item).__name__} {tuple(item.shape)}' if hasattr(item, 'ndim') else visible(item)
        return f'item {index} ({item if len(item) < 300 else item[:300] + "..."})'

    # ------------------------------------------------------------ to the device

    def _upload(self, host: FetchedBatch) -> FetchedBatch:
        if self.device is not None and host.data is not None:
            host.data = to_device(host.data, self.device, non_blocking=self.device.type == 'cuda')
        return host

    def _transformed(self, run: _Pass, b: Any, seed: int, seeds: Sequence[int | None]) -> Any:
        now = _batch_of(self)
        if len(now) != len(run.plan.batch_of) or not all(map(operator.is_, now, run.plan.batch_of)):
            run.plan = replace(run.plan, **_batch_plan(self))
        plan = run.plan
        if not plan.batch:
            return b
        # a seed is None where a transform that draws came in the middle of the pass
        generator = SampleGenerator(seed, () if None in seeds else seeds) if plan.batch_draws else None
        if plan.batch_keyed:
            return _through(plan.batch, b, generator)
        with seeded(seed):
            return _through(plan.batch, b, generator)


def _through(steps: Sequence[Step], b: Any, generator: torch.Generator | None) -> Any:
    for step in bound(steps, generator=generator):
        b = step(b)
    return b


_hooks_of_ours = {hook: vars(DataLoader)[hook] for hook in (*_makes_items, 'after_batch')}
"""As they are written above: a script may put another in the place of one, on an object or on the class."""


# ---------------------------------------------------------------- making one batch, wherever that is

class BatchMaker:
    """Turns jobs, lists of (index, seed), into batches on the CPU; worker processes are sent one.

    Args:
        dl: the loader, whose hooks are called.
        run: the pass.
    """

    def __init__(self, dl: DataLoader, run: _Pass) -> None:
        self.dl, self.plan, self.at, self.opened, self.generators = dl, run.plan, run.at, run.opened, run.generators

    def __call__(self, job: BatchRequest) -> FetchedBatch:
        """The batch of a job."""
        if self.plan.tensors is not None:
            indices, seeds = zip(*job.pairs) if job.pairs else ((), ())
            return FetchedBatch(job.number, self._slices(list(indices)), seeds=seeds)
        if self.plan.keyed:
            return self.assemble(job)
        with fork_cpu_rng(self.generators):
            return self.assemble(job)

    def pinned(self, job: BatchRequest) -> FetchedBatch:
        """The batch of a job in page-locked memory."""
        return self(job).pin_memory()

    def assemble(self, job: BatchRequest) -> FetchedBatch:
        """The batch of a job, drawing from the global generators as they are."""
        dl, plan = self.dl, self.plan
        generator = torch.Generator() if plan.draws else None
        slots = Slots(len(job.pairs)) if plan.slots else None  # not for code of the user's, which might keep an item
        sample_of = self._steps(generator, Target(slots, self.opened))
        samples, kept, seeds, skipped, ended = [], [], [], [], False
        for index, seed in job.pairs:
            if not plan.keyed:
                seed_cpu(seed, self.generators)
            if generator is not None:
                generator.manual_seed(seed)
            try:
                sample = sample_of(index)
            except SkipItemException:
                continue
            except StopIteration:
                ended = True
                break
            except Exception as error:
                add_note(error, f'raised while {dl._item_name(index)} was made')
                if dl.on_error == 'raise' or not isinstance(error, (OSError, ValueError)):
                    raise
                skipped.append((index, dl._item_name(index), f'{type(error).__name__}: {error}'))
                continue
            if sample is not None:
                samples.append(sample)
                kept.append(index)
                seeds.append(seed)
        if not samples:
            return FetchedBatch(job.number, None, skipped, ended)
        if not plan.keyed:
            seed_cpu(job.seed, self.generators)
        try:
            if slots is not None:
                return FetchedBatch(job.number, dl.do_batch(samples, slots), skipped, ended, seeds)
            made = dl.do_batch(samples[0] if dl.prebatched else samples)
            return FetchedBatch(job.number, made, skipped, ended, seeds)
        except Exception as error:
            if not dl.prebatched:
                collate_error(error, samples, [dl._item_name(i) for i in kept])
            raise

    def _steps(self, generator: torch.Generator | None, target: Target) -> Callable[[Any], Any]:
        """From an index to its sample, with what the items of one batch share handed to the steps."""
        dl, plan, opened = self.dl, self.plan, self.opened
        if plan.item is None:
            return dl.do_item
        single = isinstance(plan.elements, tuple)
        elements = [(getattr(items, 'iloc', items), bound(steps, target=target))
                    for items, steps in ([plan.elements] if single else plan.elements or ())]
        after = bound(plan.item, generator=generator)

        def _sample(index: Any) -> Any:
            if elements and (type(index) is int or _is_one(index)):
                for indices in plan.subsets:
                    index = indices[index]
                parts = []
                for items, steps in elements:
                    part = items[int(index)]
                    for step in steps:
                        part = step(part)
                    parts.append(part)
                sample = parts[0] if single else tuple(parts)
            else:
                sample = dl.create_item(index)
            if opened is not None:
                opened.check(sample)
            for step in after:
                sample = step(sample)
            return sample

        return _sample

    def _slices(self, indices: list[int]) -> tuple[Tensor, ...]:
        """A batch of a `TensorDataset`, all items at once."""
        for subset in self.plan.subsets:
            indices = [subset[i] for i in indices]
        at = torch.as_tensor(indices)
        return tuple(retain_type(plain(t)[at.to(t.device, non_blocking=True)], t) for t in self.plan.tensors)


def _is_one(index: Any) -> bool:
    return isinstance(index, (int, np.integer)) or (isinstance(index, Tensor) and index.ndim == 0)


def _one_ahead(uploads: Iterator) -> Iterator:
    """Start the next upload before the batch before it is handed out."""
    waiting = next(uploads, None)
    while waiting is not None:
        following = next(uploads, None)
        yield waiting
        waiting = following


def why_empty(dl: Any) -> str:
    """Why `dl`, a loader of any kind, has no batch, with its numbers and the way out."""
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
