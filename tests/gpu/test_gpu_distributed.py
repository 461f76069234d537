"""Several processes on a GPU: NCCL with one of them, shares in bfloat16, compiled models; and two on the same GPU."""
from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.distributed.launch import run_together

pytestmark = pytest.mark.gpu
SCRIPT = Path(__file__).with_name('ranks.py')


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A function: what `ranks.py` gave, and what it said; each way run once."""
    @functools.cache
    def of(*given, n=1):
        folder = tmp_path_factory.mktemp('ranks')
        said = run_together(n, SCRIPT, folder / 'out.safetensors', *given, cwd=folder, timeout_s=180)
        return load_file(folder / 'out.safetensors'), said
    return of


def assert_near(expected, found, **tolerance):
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, **tolerance, msg=lambda text: f'{name}: {text}')


@pytest.mark.parametrize('strategy, precision', [('ddp', 'fp32'), ('fsdp', 'fp32'), ('ddp', 'bf16'), ('fsdp', 'bf16')])
def test_a_group_of_one_gives_what_a_process_alone_gives(device, trained, strategy, precision):
    """By NCCL: weights, statistics and the table, in shares too; bfloat16 to its own rounding."""
    (alone, _), (found, said) = trained('alone', precision), trained(strategy, precision)
    assert f'backend {"nccl" if device.type == "cuda" else "gloo"} ranks 1' in said
    assert_near(alone, found, **dict(rtol=2e-2, atol=2e-2) if precision == 'bf16' else dict(rtol=1e-5, atol=1e-6))


def test_bf16_is_another_training_than_fp32(device, trained):
    """What the law above compares would else be the same thing."""
    (full, _), (half, _) = trained('fsdp', 'fp32'), trained('fsdp', 'bf16')
    assert any(not torch.equal(full[name], half[name]) for name in full)


@pytest.mark.parametrize('strategy', ['ddp', 'fsdp'])
def test_compiled_models_train_alike(device, trained, strategy):
    """`learn.compile()` before the fit: kernels are others, the training is the same."""
    (eager, _), (compiled, _) = trained(strategy, 'fp32'), trained(strategy, 'fp32', 'compile')
    assert_near(eager, compiled, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('strategy', ['ddp', 'fsdp'])
def test_a_resume_gives_the_same_bits(device, trained, strategy):
    """An error in the sixth step, gone on with from a file before it."""
    (whole, _), (resumed, _) = trained(strategy, 'bf16'), trained(strategy, 'bf16', 'resumed')
    assert_near(whole, resumed, rtol=0, atol=0)


def test_two_processes_share_a_gpu(device, trained):
    """More processes than GPUs meet by gloo, which all decide alike; batch norm over the batch of all makes them one.
    """
    (alone, _), (found, said) = trained('alone', 'fp32'), trained('ddp', 'fp32', 'sync_bn', n=2)
    assert said.count('backend gloo ranks 2') == 2
    if device.type == 'cuda':  # torch's SyncBatchNorm needs one
        assert_near(alone, found, rtol=1e-4, atol=1e-5)
