"""Channels-last changes where numbers lie in memory and nothing else."""
from __future__ import annotations

import copy

import pytest
import torch
from small_learner import deep, learner, weights

from minifast.callback.channelslast import ChannelsLast
from minifast.callback.fp16 import AMPMode
from minifast.hardware import to_memory_format
from minifast.optimizer import Adam


def is_last(learn):
    """Whether the convolution's weight has its channels last."""
    return learn.model[0].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize('device', ['cpu', pytest.param('cuda', marks=[pytest.mark.gpu, pytest.mark.skipif(
    not torch.cuda.is_available(), reason='torch.cuda.is_available() is False: needs a GPU')])])
def test_channels_last_trains_the_same_also_behind_other_fits(device):
    """In between fits in the usual format the optimizer's state follows the weights."""
    model = deep()
    model[3].p = 0.
    learn, twin = (learner(model=copy.deepcopy(model), opt_func=Adam) for _ in range(2))
    for each in (learn, twin):
        each.dls.device = torch.device(device)
        each.fit(1)
    learn.add_cb(ChannelsLast)
    learn.fit(1), twin.fit(1)
    assert is_last(learn) and not is_last(twin)
    torch.testing.assert_close(weights(learn), weights(twin), rtol=1e-3, atol=1e-4)  # sums in another order
    state = learn.opt.state[learn.model[0].weight]
    assert all(v.is_contiguous(memory_format=torch.channels_last) for v in state.values()
               if isinstance(v, torch.Tensor) and v.ndim == 4)
    learn.remove_cb(ChannelsLast)
    to_memory_format(learn, torch.contiguous_format)
    learn.fit(1)
    assert learn.model[0].weight.is_contiguous()


@pytest.mark.parametrize('last', [True, False])
def test_a_fit_that_was_done_is_passed_over_into_the_format_of_then(last, tmp_path):
    """Weights and the optimizer's state lie as they did at its end, so that what follows is the same."""
    first, second = learner(model=deep(), opt_func=Adam), learner(model=deep(), opt_func=Adam)
    first.fit(1, checkpoint=tmp_path, cbs=ChannelsLast() if last else None)
    second.fit(1, checkpoint=tmp_path, cbs=ChannelsLast() if last else None, resume=True)
    assert is_last(first) == is_last(second) == last and second.model[0].weight.is_contiguous() != last
    assert all(torch.equal(a, b) for a, b in zip(weights(first).values(), weights(second).values()))


def test_the_door_keeps_the_precision_unless_it_is_asked_for_bfloat16():
    """One callback, however often it is called; `to_contiguous` takes it off."""
    for asked in (None, False):
        learn = learner(model=deep()).to_channelslast(to_bf16=asked)
        assert [type(cb) for cb in learn.cbs].count(ChannelsLast) == 1 and not hasattr(learn, 'mixed_precision')
    learn = learn.to_channelslast(to_bf16=True)
    assert [type(cb) for cb in learn.cbs].count(ChannelsLast) == 1
    assert learn.mixed_precision.amp_mode == AMPMode.BF16
    assert not hasattr(learn.to_contiguous(), 'channels_last') and hasattr(learn, 'mixed_precision')
