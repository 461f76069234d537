"""Randomness: seeds, the states of the global generators, and numbers that are a function of (seed, epoch, index)."""
from __future__ import annotations

import os
import random
from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ['SampleGenerator', 'fork_rng', 'get_random_states', 'key_seed', 'keyed_generator', 'no_random',
           'rand_by_sample', 'randn_by_sample', 'seeded', 'set_random_states', 'set_seed']


def set_seed(s: int, reproducible: bool = False) -> None:
    """Seed Python's, numpy's and torch's generators.

    Args:
        s: the seed, any non-negative int.
        reproducible: also choose deterministic algorithms in torch and cuDNN (slower on a GPU).

    Example:
        >>> set_seed(42)
        >>> first = torch.rand(2)
        >>> set_seed(42)
        >>> torch.equal(first, torch.rand(2))
        True
    """
    global _last_look
    _last_look = None  # what is looked at from here on is the same each time
    torch.manual_seed(s)
    random.seed(s)
    np.random.seed(s % (2 ** 32))
    if reproducible:
        # cuBLAS reads this when its first handle is made; without it deterministic algorithms raise on CUDA
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False


def get_random_states() -> dict[str, Any]:
    """The states of Python's, numpy's and torch's global generators and of cuDNN's switches."""
    states = {'random_state': random.getstate(), 'numpy_state': np.random.get_state(),
              'torch_state': torch.get_rng_state(), 'torch_cuda_state': None,
              'torch_deterministic': torch.backends.cudnn.deterministic,
              'torch_benchmark': torch.backends.cudnn.benchmark}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states['torch_cuda_state'] = torch.cuda.get_rng_state_all()
    return states


def set_random_states(random_state: Any, numpy_state: Any, torch_state: Tensor, torch_cuda_state: Any = None,
                      torch_deterministic: bool = False, torch_benchmark: bool = False) -> None:
    """Put back what `get_random_states` returned: `set_random_states(**states)`.

    Args:
        random_state: of Python's `random`.
        numpy_state: of `numpy.random`.
        torch_state: of torch's CPU generator, uint8.
        torch_cuda_state: of each GPU's generator; None leaves them.
        torch_deterministic, torch_benchmark: cuDNN's switches.
    """
    random.setstate(random_state)
    np.random.set_state(numpy_state)
    torch.set_rng_state(torch_state)
    if torch_cuda_state is not None:
        torch.cuda.set_rng_state_all(torch_cuda_state)
    torch.backends.cudnn.deterministic = torch_deterministic
    torch.backends.cudnn.benchmark = torch_benchmark


@contextmanager
def fork_rng(anew: bool = False):
    """Leave no trace in the randomness: the global generators are put back afterwards, also after an error.

    Args:
        anew: where nothing was drawn since the last such block, go on from its end: passes of Monte Carlo dropout
            must not draw the same numbers each time.
    """
    global _last_look
    states = get_random_states()
    if anew and _last_look is not None and _same_streams(states, _last_look[0]):
        set_random_states(**_last_look[1])
    try:
        yield
    finally:
        if anew:
            _last_look = states, get_random_states()
        set_random_states(**states)
        if states['torch_cuda_state'] is None and torch.cuda.is_available():
            # no GPU had been used: its stream begins, whenever it does, with the seed from before and none of the block
            torch.cuda.manual_seed_all(torch.initial_seed())


_last_look: tuple[dict[str, Any], dict[str, Any]] | None = None
"""The states of the generators before and at the end of the last block that looked anew."""


def _same_streams(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether torch's generators stand at the same place."""
    return all(torch.equal(x, y) for x, y in zip([a['torch_state'], *(a['torch_cuda_state'] or [])],
                                                 [b['torch_state'], *(b['torch_cuda_state'] or [])]))


@contextmanager
def no_random(seed: int = 42, reproducible: bool = True):
    """Run the block after `set_seed(seed, reproducible)`; the global generators, and the switches of torch and cuDNN,
    are put back."""
    algorithms = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        with fork_rng():
            set_seed(seed, reproducible=reproducible)
            yield
    finally:
        torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)


_MASK64 = (1 << 64) - 1


def key_seed(seed: int, *key: int) -> int:
    """Mix `seed` and the ints of `key`, such as (epoch, index), into one 63-bit seed; a pure function.

    Neighbouring keys give unrelated seeds (the finaliser of SplitMix64 is applied after every part).
    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    z = seed & _MASK64
    for part in (0x5bd1e995, *key):
        z = (z ^ (part & _MASK64)) + 0x9e3779b97f4a7c15 & _MASK64
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9 & _MASK64
        z = (z ^ (z >> 27)) * 0x94d049bb133111eb & _MASK64
        z ^= z >> 31
    return z >> 1


def keyed_generator(seed: int, *key: int) -> torch.Generator:
    """A torch CPU generator whose whole stream is a function of (`seed`, *`key`), mixed by `key_seed`."""
    return torch.Generator().manual_seed(key_seed(seed, *key))


class SampleGenerator(torch.Generator):
    """The generator of a batch transform: the numbers of a sample are the same in whatever batch it stands.

    What is drawn from it as from any generator is the batch's; `rand_by_sample` and `randn_by_sample` draw for each
    sample from its own key, so that neither the size of a batch nor the number of processes changes a picture.

    Args:
        seed: the batch's.
        keys: a seed a sample.
    """

    def __new__(cls, seed: int, keys: Sequence[int]) -> SampleGenerator:
        return super().__new__(cls)

    def __init__(self, seed: int, keys: Sequence[int]) -> None:
        self.manual_seed(seed)
        self.keys, self.drawn = np.array(keys, np.uint64), 0
        self._made = np.empty((0, len(self.keys)), np.uint64)

    def next_numbers(self, n: int) -> np.ndarray:
        """`n` further 64-bit numbers of each sample, uint64 [n,B]: SplitMix64, whose stream is a counter."""
        start, self.drawn = self.drawn, self.drawn + n
        while len(self._made) < self.drawn:  # a block of them costs hardly more than one
            with np.errstate(over='ignore'):
                count = np.arange(1 + len(self._made), 33 + len(self._made), dtype=np.uint64)[:, None]
                z = self.keys + count * np.uint64(0x9e3779b97f4a7c15)
                z = (z ^ (z >> np.uint64(30))) * np.uint64(0xbf58476d1ce4e5b9)
                z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94d049bb133111eb)
            self._made = np.concatenate([self._made, z ^ (z >> np.uint64(31))])
        return self._made[start:self.drawn]


def rand_by_sample(rows: int, n: int, generator: torch.Generator | None) -> Tensor:
    """Numbers in 0..1, float32 [rows,n].

    Args:
        rows: numbers a sample.
        n: samples.
        generator: from a `SampleGenerator` of so many samples each draws its own; from any other, or torch's global one
            for None, they are drawn one after the other.
    """
    if not isinstance(generator, SampleGenerator) or len(generator.keys) != n:
        return torch.rand(rows, n, generator=generator)
    return torch.from_numpy((generator.next_numbers(rows) >> np.uint64(40)).astype(np.float32) * np.float32(2 ** -24))


def randn_by_sample(shape: Sequence[int], generator: torch.Generator | None) -> Tensor:
    """Numbers of mean 0 and deviation 1, float32 of this `shape`, [B,...]; `generator` as in `rand_by_sample`."""
    if not isinstance(generator, SampleGenerator) or len(generator.keys) != shape[0]:
        return torch.randn(tuple(shape), generator=generator)
    one, made = torch.Generator(), torch.empty(tuple(shape))
    for row, seed in zip(made, generator.next_numbers(1)[0].tolist()):  # sync: none, numbers of the host
        torch.randn(row.shape, generator=one.manual_seed(seed >> 1), out=row)
    return made


@contextmanager
def seeded(seed: int):
    """Run the block with all global generators seeded from `seed`, then put them back.

    For code that draws from `random`, `numpy.random` or `torch` and cannot be handed a generator.
    """
    with fork_rng():
        random.seed(seed)
        np.random.seed(seed & 0xffffffff)
        torch.manual_seed(seed)
        yield
