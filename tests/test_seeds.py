"""Laws of seeds, and of numbers that are a sample's own."""
from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from scipy import stats

from minifast.seeds import SampleGenerator, key_seed, rand_by_sample, randn_by_sample, set_seed


@pytest.mark.parametrize('seed', [0, 5, 64, 2 ** 32 - 1, 2 ** 32 + 7, 2 ** 40])
def test_a_seed_is_that_of_every_library(seed):
    """Each draws as if it alone had been seeded; numpy takes the lower 32 bits."""
    set_seed(seed)
    drawn = random.random(), np.random.rand(), torch.rand(1).item()
    assert drawn == (random.Random(seed).random(), np.random.RandomState(seed % 2 ** 32).rand(),
                     torch.rand(1, generator=torch.Generator().manual_seed(seed)).item())


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
