"""Which fast paths this machine has: half precision, memory format, checksums, kept memory; which processes run."""
from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minifast.sharding import in_shares

try:
    from zlib_ng.zlib_ng import crc32
except ImportError:  # no wheel for this machine: the same numbers in six times the time
    from zlib import crc32

__all__ = ['FastPaths', 'crc32', 'fast_paths', 'is_running', 'keep_freed_memory', 'opencv', 'to_memory_format']


class FastPaths(NamedTuple):
    """What is fast on a device: `bf16` autocast, `channels_last` pictures; and `why`, as a sentence."""

    bf16: bool
    channels_last: bool
    why: str


@cache
def fast_paths(device_type: str) -> FastPaths:
    """The fast paths of `device_type`, 'cpu' or 'cuda', judged by the instructions the processor has.

    bfloat16 is fast on CPUs with AMX or AVX512-BF16 (measured: resnet18 trains 4.0x and 1.9x as fast as in float32)
    and on NVIDIA GPUs from Ampere on. Elsewhere it is emulated and slower than float32.
    """
    if device_type == 'cuda' and torch.version.cuda is not None:
        major, minor = torch.cuda.get_device_capability()
        name = f'{torch.cuda.get_device_name()} (compute capability {major}.{minor})'
        return FastPaths(major >= 8, True, f'{name} has {"" if major >= 8 else "no "}fast bfloat16')
    if device_type == 'cpu':
        for is_there, name in ((torch.cpu._is_amx_tile_supported, 'AMX'),
                               (torch.cpu._is_avx512_bf16_supported, 'AVX512-BF16')):
            if is_there():
                return FastPaths(True, True, f'the processor has {name}')
        return FastPaths(False, True, 'the processor has neither AMX nor AVX512-BF16')
    return FastPaths(False, False, f'not measured on {device_type}')


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 1 << 30


@cache
def keep_freed_memory() -> bool:
    """Let glibc's malloc keep up to 1 GB of freed memory for the next batch; returns whether it does.

    Otherwise every large activation is a fresh mapping, and handing pages back and forth costs a CPU training step a
    tenth to a quarter of its time. Results do not change. Left alone where the user has set malloc's thresholds, and
    where the C library is another one.
    """
    chosen = any(name in os.environ for name in ('MALLOC_MMAP_THRESHOLD_', 'MALLOC_TRIM_THRESHOLD_', 'LD_PRELOAD'))
    if chosen or 'glibc.malloc' in os.environ.get('GLIBC_TUNABLES', '') or not sys.platform.startswith('linux'):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, 'mallopt') or not hasattr(libc, 'gnu_get_libc_version'):
        return False
    return bool(libc.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES) and libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES))


@cache
def opencv() -> ModuleType | None:
    """OpenCV, None where it has no wheel for this machine."""
    try:
        import cv2
    except ImportError:
        return None
    return cv2


def is_running(pid: int) -> bool:
    """Whether there is a process of the number `pid`; False where the system cannot tell."""
    if os.name != 'posix':
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def to_memory_format(learn: Any, memory_format: torch.memory_format) -> None:
    """Keep the weights of `learn.model` in `memory_format`, and with them what the optimizer holds for each of them.

    The optimizer follows because torch's fused steps refuse a weight and its averages in different formats. Weights in
    shares stay as they are: they are cut into rows.
    """
    if in_shares(learn.model):
        return
    learn.model.to(memory_format=memory_format)
    if learn.opt is None:
        return
    for group in learn.opt.param_groups:
        for p in group['params']:
            if p.ndim != 4 or p not in learn.opt.state:
                continue
            state = learn.opt.state[p]
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape == p.shape:
                    state[name] = value.contiguous(memory_format=memory_format)
