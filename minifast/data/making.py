"""Making one batch, wherever that is: the part of a loader that runs in workers."""
from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from minifast.data.collate import SkipItemException, collate_error, noted
from minifast.data.pipeline import Pipeline, keyed
from minifast.data.sampler import BATCH, ITEM, ORDER
from minifast.data.slots import Slots, making
from minifast.data.workers import HostBatch, Job, seed_cpu, set_aside
from minifast.markers import plain, retain_type
from minifast.seeds import key_seed
from minifast.terminal import visible

__all__ = ['BatchMaker']


class BatchMaker:
    """The half of `DataLoader` that turns jobs, lists of (index, seed), into batches on the CPU."""

    @keyed
    def do_item(self, s: Any) -> Any:
        """One sample, ready to be collated; None where it asked to be left out."""
        try:
            return self.after_item(self.create_item(s))
        except SkipItemException:
            return None

    def _make(self, job: Job) -> HostBatch:
        if self._tensors is not None:
            return HostBatch(job.number, self._slices([index for index, _ in job.pairs]))
        if self._known:
            making.slots = None if self.prebatched else Slots(len(job.pairs))  # user code might keep an item
            try:
                return self._assemble(job)
            finally:
                making.slots = None
        with set_aside(self._own_generators):
            return self._assemble(job)

    def _assemble(self, job: Job) -> HostBatch:
        generator = torch.Generator() if self._draws else None
        samples, kept, skipped, ended = [], [], [], False
        for index, seed in job.pairs:
            if not self._known:
                seed_cpu(seed, self._own_generators)
            try:
                sample = self._one_sample(index, generator and generator.manual_seed(seed))
            except SkipItemException:
                continue
            except StopIteration:
                ended = True
                break
            except Exception as error:
                noted(error, f'raised while {self._item_name(index)} was made')
                if self.on_error == 'raise' or not isinstance(error, (OSError, ValueError)):
                    raise
                skipped.append((index, self._item_name(index), f'{type(error).__name__}: {error}'))
                continue
            if sample is not None:
                samples.append(sample)
                kept.append(index)
        if not samples:
            return HostBatch(job.number, None, skipped, ended)
        if not self._known:
            seed_cpu(job.seed, self._own_generators)
        try:
            return HostBatch(job.number, self.do_batch(samples[0] if self.prebatched else samples), skipped, ended)
        except Exception as error:
            if not self.prebatched:
                collate_error(error, samples, [self._item_name(i) for i in kept])
            raise

    def _slices(self, indices: list[int]) -> tuple[Tensor, ...]:
        """A batch of a `TensorDataset`, all items at once."""
        dataset = self.dataset
        while isinstance(dataset, Subset):
            indices, dataset = [dataset.indices[i] for i in indices], dataset.dataset
        at = torch.as_tensor(indices)
        return tuple(retain_type(plain(t)[at.to(t.device, non_blocking=True)], t) for t in self._tensors)

    def _one_sample(self, index: Any, generator: torch.Generator) -> Any:
        if getattr(self.do_item, '__func__', None) is not BatchMaker.do_item:
            return self.do_item(index)
        cached = self._cached
        making.item, making.cached = True, cached
        try:
            sample, after = self.create_item(index), self.after_item
            if cached is not None:
                cached.check(sample)
                after = cached.rest
            return after(sample, generator=generator) if isinstance(after, Pipeline) else after(sample)
        finally:
            making.item, making.cached = False, None

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

    # ------------------------------------------------------------ data without indices

    def _streamed(self) -> Iterator[HostBatch]:
        seed, epoch, start = self._at.seed, self._at.epoch, self._at.batch
        own = self._own_generators
        with set_aside(own):
            seed_cpu(key_seed(seed, ORDER, epoch), own)
            self.it = None if self.dataset is None else iter(self.dataset)  # create_item may need none
        size = self.bs or 1
        for number in itertools.count():
            n = size if self.n is None else max(min(size, self.n - number * size), 0)
            pairs = [(None, key_seed(seed, ITEM, epoch, number * size + i)) for i in range(n)]
            with set_aside(own):
                if number < start and self.it is not None:
                    made = self._passed_over(number, pairs)
                else:
                    made = self._assemble(Job(number, key_seed(seed, BATCH, epoch, number), pairs))
            if made.data is not None and number >= start and not (made.ended and self.drop_last):
                yield made
            if made.ended or not pairs:
                return

    def _passed_over(self, number: int, pairs: list) -> HostBatch:
        """A batch of a stream that was handed out before a resume: read, and not made."""
        made = HostBatch(number, None)
        for _, seed in pairs:
            seed_cpu(seed, self._own_generators)
            made.ended = made.ended or next(self.it, self) is self
        return made
