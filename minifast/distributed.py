"""One process or many: rank, world size and the reductions that are the identity in one process."""
from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ['is_distributed', 'rank_distrib', 'num_distrib', 'barrier', 'gather', 'rank0_first']


def is_distributed() -> bool:
    """Whether a process group is running."""
    return dist.is_available() and dist.is_initialized()


def rank_distrib() -> int:
    """This process's rank; 0 in one process."""
    return int(os.environ.get('RANK', 0))


def num_distrib() -> int:
    """How many processes train together; 0 in one process."""
    return int(os.environ.get('WORLD_SIZE', 0))


def barrier() -> None:
    """Wait for all ranks; nothing to wait for in one process."""
    if is_distributed():
        dist.barrier()


def gather(x: Tensor, axis: int = 0) -> Tensor:
    """The tensors of all ranks concatenated along `axis`; `x` itself in one process."""
    if not is_distributed() or dist.get_world_size() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat([part[None] if part.ndim == 0 else part for part in parts], dim=axis)


def rank0_first(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call `func` on rank 0 first and then on the others, so that a download happens once."""
    if rank_distrib() == 0:
        result = func(*args, **kwargs)
        barrier()
        return result
    barrier()
    return func(*args, **kwargs)
