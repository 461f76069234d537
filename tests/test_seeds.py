"""Laws of seeds, and of numbers that are a sample's own."""
from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from scipy import stats

from minifast.seeds import (SampleGenerator, get_random_states, key_seed, no_random, rand_by_sample, randn_by_sample,
                            set_random_states, set_seed)


@pytest.mark.parametrize('seed', [0, 5, 64, 2 ** 32 - 1, 2 ** 32 + 7, 2 ** 40])
def test_a_seed_is_that_of_every_library(seed):
    """Each draws as if it alone had been seeded; numpy takes the lower 32 bits."""
    set_seed(seed)
    drawn = random.random(), np.random.rand(), torch.rand(1).item()
    assert drawn == (random.Random(seed).random(), np.random.RandomState(seed % 2 ** 32).rand(),
                     torch.rand(1, generator=torch.Generator().manual_seed(seed)).item())


@pytest.fixture
def switches():
    """Those of torch and cuDNN that choose algorithms, read; they are as before in the end."""
    def read():
        return (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled(),
                torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark)
    algorithms, warn_only, deterministic, benchmark = read()
    yield read
    torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = deterministic, benchmark


def drawn():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_no_random_is_a_seeded_block_that_leaves_no_trace(switches):
    """`seed` is that of `set_seed`, `reproducible` chooses deterministic algorithms; both in the block alone."""
    torch.backends.cudnn.benchmark = True
    before = switches()
    for seed, reproducible in ((42, True), (3, True), (3, False)):
        set_seed(seed)
        wanted = drawn()
        set_seed(0)
        with no_random(seed, reproducible=reproducible):
            assert drawn() == wanted
            assert switches() == ((True, True, True, False) if reproducible else before)
        assert switches() == before
        after = drawn()
        set_seed(0)
        assert after == drawn()
    with no_random():
        assert switches() == (True, True, True, False)
        by_default = drawn()
    set_seed(42)
    assert drawn() == by_default


def test_random_states_are_put_back_as_they_are_given(switches, monkeypatch):
    """Generators, those of GPUs where they are given, and cuDNN's switches, which are off unless told."""
    set_seed(5)
    states, wanted = get_random_states(), drawn()
    gpus = []
    monkeypatch.setattr(torch.cuda, 'set_rng_state_all', gpus.append)
    for deterministic, benchmark in ((True, False), (False, True)):
        set_random_states(states['random_state'], states['numpy_state'], states['torch_state'],
                          torch_cuda_state=['a', 'b'], torch_deterministic=deterministic, torch_benchmark=benchmark)
        assert drawn() == wanted and switches()[2:] == (deterministic, benchmark)
    set_random_states(states['random_state'], states['numpy_state'], states['torch_state'])
    assert switches()[2:] == (False, False) and gpus == [['a', 'b']] * 2


def test_numbers_by_sample_are_each_samples_own():
    """Whoever stands beside it; uniform, another one each time; of a generator that knows no samples in a row."""
    keys = [key_seed(0, i) for i in range(4000)]

    def numbers(keys):
        generator = SampleGenerator(5, keys)
        return torch.cat([rand_by_sample(2, len(keys), generator), rand_by_sample(1, len(keys), generator)])
    many = numbers(keys)
    assert torch.equal(many[:, 17::3], numbers(keys[17::3])) and many.dtype == torch.float32
    assert many.min() >= 0 and many.max() < 1 and len(many.unique()) > 11_900
    for row in many:
        assert stats.kstest(row.double(), 'uniform').pvalue > .001
    assert torch.corrcoef(many).fill_diagonal_(0).abs().max() < .05
    plain_generator = torch.Generator().manual_seed(5)
    assert torch.equal(rand_by_sample(2, 3, SampleGenerator(5, keys)), torch.rand(2, 3, generator=plain_generator))
    assert torch.equal(torch.rand(3, generator=SampleGenerator(5, keys)),
                       torch.rand(3, generator=plain_generator.manual_seed(5)))


def test_normal_numbers_by_sample_are_each_samples_own():
    """Noise over a picture does not depend on the pictures beside it."""
    keys = [key_seed(0, i) for i in range(50)]
    many = randn_by_sample((50, 3, 40), SampleGenerator(5, keys))
    assert torch.equal(many[1::2], randn_by_sample((25, 3, 40), SampleGenerator(6, keys[1::2])))
    assert stats.kstest(many.flatten().double(), 'norm').pvalue > .001
    assert torch.equal(randn_by_sample((3, 4), SampleGenerator(5, keys)),
                       torch.randn(3, 4, generator=torch.Generator().manual_seed(5)))
