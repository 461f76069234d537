"""The order of a loader's items: a pure function of (seed, epoch, rank), so that any batch can be found again."""
from __future__ import annotations

import copy
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from minifast.hidden import Baselines, Hidden
from minifast.seeds import fork_rng, get_random_states, keyed_generator, seeded, set_random_states

__all__ = ['BATCH', 'ITEM', 'ORDER', 'ORDER_NAMES', 'ItemKeys', 'Position', 'chunks', 'iterate_seeded',
           'order', 'order_state', 'order_untouched', 'read_order', 'share', 'tell_epoch']

ORDER, ITEM, BATCH = 1, 2, 3
"""What a seed is derived for; the first part of every key, so that no two uses share a stream."""

ORDER_NAMES = ('sampler', 'batch_sampler', 'get_idxs', 'sample', 'shuffle_fn')
"""The attributes of a loader that decide about the order of its items."""


@dataclass(frozen=True)
class Position:
    """Where a loader stands: all its state.

    Attributes:
        seed: everything random is derived from it.
        epoch: which pass over the data.
        batch: how many batches of the pass are done.
        stream: of a stream, where those who read it stand by then; None: that is to be found by reading.
    """

    seed: int
    epoch: int = 0
    batch: int = 0
    stream: dict[str, Any] | None = None


def order(n: int, seed: int, epoch: int) -> list[int]:
    """A permutation of `range(n)`, a function of (`seed`, `epoch`)."""
    return torch.randperm(n, generator=keyed_generator(seed, ORDER, epoch)).tolist()  # sync: none, drawn on the CPU


def share(indices: Sequence[int], rank: int = 0, n_ranks: int = 1, even: bool = True) -> list[int]:
    """Rank `rank`'s part of an order: every `n_ranks`-th index.

    Args:
        indices: the order of all.
        rank, n_ranks: which part of how many.
        even: all ranks get the same number (the first indices are repeated at the end), as steps in lockstep need.
    """
    indices = list(indices)
    missing = -len(indices) % n_ranks
    if even and missing and indices:
        indices += (indices * (missing // len(indices) + 1))[:missing]
    return indices[rank::n_ranks]


class ItemKeys:
    """Gives each index of a pass the key of everything random about that item.

    An index that comes a second time (sampling with replacement) gets another key. A key is cheap, and its seed is not:
    of the items of a batch of many processes few are this one's.

    Args:
        epoch: the number of the pass.
    """

    def __init__(self, epoch: int) -> None:
        self.epoch, self.seen = epoch, {}

    def __call__(self, index: Any) -> tuple[int, ...]:
        """The key of the next occurrence of `index`, for `key_seed(seed, *key)`."""
        number = int(index) if hasattr(index, '__index__') else zlib.crc32(repr(index).encode())
        again = self.seen.get(number, 0)
        self.seen[number] = again + 1
        return (ITEM, self.epoch, number, again) if again else (ITEM, self.epoch, number)


def chunks(indices: Iterable[Any], bs: int, drop_last: bool) -> Iterator[list[Any]]:
    """Lists of `bs` of the `indices`; the last one is shorter, or left out if `drop_last`."""
    chunk: list = []
    for index in indices:
        chunk.append(index)
        if len(chunk) == bs:
            yield chunk
            chunk = []
    if chunk and not drop_last:
        yield chunk


def read_order(iterable: Iterable[Any], seed: int) -> Iterable[Any]:
    """All of `iterable`, a user's sampler, read with the global generators seeded by `seed` and put back; lazily where
    it has no length."""
    if not hasattr(iterable, '__len__'):
        return iterate_seeded(iterable, seed)
    with seeded(seed):
        return list(iterable)


def iterate_seeded(iterable: Iterable[Any], seed: int) -> Iterator[Any]:
    """Iterate over `iterable`, which may draw from the global generators, with a stream of its own from `seed`."""
    with fork_rng():
        with seeded(seed):
            iterator, states = iter(iterable), get_random_states()
    while True:
        with fork_rng():
            set_random_states(**states)
            try:
                o = next(iterator)
            except StopIteration:
                return
            states = get_random_states()
        yield o


# ---------------------------------------------------------------- what samplers hold of their own

def _what_orders(dl: Any) -> Hidden:
    return Hidden(dl, Baselines(everything=True), only=ORDER_NAMES, stop=[dl.dataset])


def order_state(dl: Any) -> dict[str, Any]:
    """What decides about the next order of the loader `dl` beside its position: generators and numbers of a sampler."""
    return copy.deepcopy(_what_orders(dl).state())


@contextmanager
def order_untouched(dl: Any, began: dict[str, Any] | None = None) -> Iterator[None]:
    """Draw an order in the block and put back what samplers hold of their own.

    Args:
        dl: the loader.
        began: `order_state` when a pass began, to draw its order once more.
    """
    where, state = _what_orders(dl), order_state(dl)
    if began:
        where.load(began)
    try:
        yield
    finally:
        where.load(state)


def tell_epoch(dl: Any) -> None:
    """Call `set_epoch` of the samplers of the loader `dl` that have one, as torch's distributed sampler needs it."""
    for sampler in (dl.sampler, dl.batch_sampler, getattr(dl.batch_sampler, 'sampler', None)):
        if hasattr(sampler, 'set_epoch'):
            sampler.set_epoch(dl.state_dict()['epoch'])
