"""What the tests on a GPU rely on: the device, and kernels that give the same bits each time.

`MINIFAST_TEST_DEVICE=cpu` runs those that have a meaning there on the CPU, to try the tests themselves.
"""
from __future__ import annotations

import gc
import os

import pytest
import torch

os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')  # read when a process makes its first cuBLAS handle
NO_GPU = 'torch.cuda.is_available() is False: needs a GPU, and to be run by make test-gpu'


@pytest.fixture
def device():
    """The GPU, as the learner names it."""
    name = os.environ.get('MINIFAST_TEST_DEVICE', 'cuda')
    if name == 'cuda' and not torch.cuda.is_available():
        pytest.skip(NO_GPU)
    return torch.device('cuda', torch.cuda.current_device()) if name == 'cuda' else torch.device(name)


@pytest.fixture
def cuda(device):
    """The GPU, for what has no meaning elsewhere."""
    if device.type != 'cuda':
        pytest.skip('only a GPU has this')
    return device


@pytest.fixture
def reproducible(device):
    """Deterministic kernels in full float32, and torch's switches put back."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled(),
              cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32)
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = True, False, False, False
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before[2:]


@pytest.fixture
def allocated(cuda):
    """`allocated()` is the bytes of the living tensors on the GPU."""
    def count() -> int:
        gc.collect()
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()
    return count
