"""One process or many: how processes join, and the reductions that are the identity in one process."""
from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DistributedSampler

__all__ = ['CHECKPOINT', 'LEAVING', 'PeerError', 'Share', 'ask', 'barrier', 'from_first', 'gather', 'gather_objects',
           'gather_on_first', 'gather_rows', 'host_group', 'is_alone', 'is_distributed', 'is_rank0_alone', 'is_shared',
           'num_distrib', 'of_one_process', 'on_own', 'pass_of_all', 'rank0_first', 'rank_distrib', 'reducing',
           'setup_distrib', 'teardown_distrib']

_needed = ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')
_host: list[Any] = []
"""Torch's default group, and behind it one of the same processes for numbers on the host; made by `setup_distrib`."""

before_collective: list[Callable[[], None]] = []
"""Called before each collective here: a training asks there whether all ranks are well, see `DistributedTrainer`."""

CHECKPOINT, LEAVING = 1, 2
"""What a rank may wish of all, see `DistributedTrainer.wishes`."""

_own_passes: list[bool] = []
"""For each block of `on_own` that runs, whether it runs in the first process only."""


class PeerError(RuntimeError):
    """Another process of the training has failed; the message names it and its error."""


# ---------------------------------------------------------------- who there is

def is_distributed() -> bool:
    """Whether a process group is running."""
    return dist.is_available() and dist.is_initialized()


def rank_distrib() -> int:
    """This process's rank, in the running group or as the environment says; 0 in one process."""
    return dist.get_rank() if is_distributed() else int(os.environ.get('RANK', 0))


def num_distrib() -> int:
    """How many processes train together, in the running group or as the environment says; 0 in one process."""
    return dist.get_world_size() if is_distributed() else int(os.environ.get('WORLD_SIZE', 0))


def setup_distrib(gpu: int | None = None, timeout_s: float = 600) -> int:
    """Join the processes that were started together, as torchrun does it; returns their number, 1 in one process.

    A group of the script's own stays as it is. Else: NCCL where each process of this machine has a GPU, the one that
    LOCAL_RANK counts; where they are on CPUs, or share a GPU, gloo. All ranks must call it, as each `Learner` does.

    Args:
        gpu: number of the GPU; default: LOCAL_RANK.
        timeout_s: seconds after which a collective that some rank never comes to is an error.

    Raises:
        RuntimeError: WORLD_SIZE says more than one process and the environment does not tell where they meet.
    """
    if num_distrib() < 2 and not is_distributed():
        return 1
    if not is_distributed():
        missing = [name for name in _needed if name not in os.environ]
        if missing:
            raise RuntimeError(f'WORLD_SIZE={num_distrib()} processes are to train together and {", ".join(missing)} '
                               f'{"is" if len(missing) == 1 else "are"} not set, so they cannot meet: start the script '
                               'by torchrun --nproc-per-node N script.py, or take WORLD_SIZE out of the environment')
        local, n_gpus = int(os.environ.get('LOCAL_RANK', 0)) if gpu is None else gpu, torch.cuda.device_count()
        # NCCL refuses two ranks on a GPU, and all ranks must decide alike
        has_own = n_gpus >= int(os.environ.get('LOCAL_WORLD_SIZE', 1))
        if n_gpus:
            torch.cuda.set_device(local if has_own else local % n_gpus)
        _join('nccl' if has_own else 'gloo', timedelta(seconds=timeout_s))
        atexit.register(teardown_distrib)
    if not _host or _host[0] is not dist.group.WORLD:
        _host[:] = dist.group.WORLD, dist.new_group(backend='gloo', timeout=timedelta(seconds=timeout_s))
    return dist.get_world_size()


def _join(backend: str, timeout: timedelta) -> None:
    restarts = os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')
    if restarts == '0' or os.environ.get('GROUP_WORLD_SIZE') != '1':
        dist.init_process_group(backend, timeout=timeout)
        return
    # torchrun keeps its store when it starts processes again, and in it the addresses of those that are gone. The count
    # tells the two apart; on several machines each has its own, and there the store is not to be kept (docs/recipes)
    store, rank, world = next(dist.rendezvous('env://', timeout=timeout))
    dist.init_process_group(backend, store=dist.PrefixStore(f'restart-{restarts}', store), rank=rank, world_size=world,
                            timeout=timeout)


def teardown_distrib() -> None:
    """Leave the other processes."""
    if is_distributed():
        _host.clear()
        dist.destroy_process_group()


# ---------------------------------------------------------------- what a process does on its own

@contextmanager
def on_own(only_rank0: bool = False) -> Iterator[None]:
    """In the block this process predicts and measures all there is itself, and waits for no other.

    Args:
        only_rank0: the other processes do not come here.
    """
    _own_passes.append(only_rank0)
    try:
        yield
    finally:
        _own_passes.pop()


def pass_of_all(dl: Any) -> AbstractContextManager:
    """Around a pass over the loader `dl`: all processes' where it is shared out, else this one's own."""
    return nullcontext() if is_shared(dl) else on_own()


def is_shared(dl: Any) -> bool:
    """Whether each process has another part of what the loader `dl` gives."""
    foreign = isinstance(getattr(dl, 'sampler', None), DistributedSampler)
    return getattr(getattr(dl, 'share', None), 'parts', 1) > 1 or foreign and not is_alone()


def is_alone() -> bool:
    """Whether a block of `on_own` runs."""
    return bool(_own_passes)


def is_rank0_alone() -> bool:
    """Whether a block of `on_own` runs that the other processes do not come to."""
    return any(_own_passes)


def reducing() -> bool:
    """Whether numbers of several processes are to be put together."""
    return is_distributed() and not _own_passes


@dataclass(frozen=True)
class Share:
    """The part of a loader's batches that one of several processes makes: of a batch of all items `[rank::n_ranks]`.

    The order, and so every item's seed, is that of one process with batches of `bs * n_ranks` items. A batch of a
    user's `batch_sampler` is a batch of all processes.

    Attributes:
        rank: of the process.
        n_ranks: how many processes there are.
        fill: where there is no item for this process in a batch that others have, items of theirs stand in, and the
            loader's `stands_in` is true while the batch is trained on; else the batch is left out.
        any_has: the same for a stream, of which nobody knows how long the others' parts are: told before each batch
            whether this process has one, says whether any has; all call it equally often.
    """

    rank: int = 0
    n_ranks: int = 1
    fill: bool = False
    any_has: Callable[[bool], bool] | None = None

    @property
    def parts(self) -> int:
        """Of how many parts this is one: one in a block of `on_own`, in which a process makes all."""
        return 1 if is_alone() else self.n_ranks

    def of(self, batch: list[Any], number: int, stand_ins: set[int]) -> list[Any]:
        """The part of `batch`; its `number` is added to `stand_ins` where others' items stand in."""
        own = batch[self.rank::self.n_ranks]
        if own or not self.fill:
            return own
        stand_ins.add(number)
        return batch[:2]  # batch norm would refuse one


def of_one_process(global_bs: int) -> int:
    """The batch size of each process where that of all is `global_bs`.

    Raises:
        ValueError: it cannot be shared out evenly.
    """
    n_ranks = max(num_distrib(), 1)
    if global_bs % n_ranks:
        raise ValueError(f'global_bs={global_bs} cannot be shared out evenly by {n_ranks} processes: give a multiple '
                         f'of {n_ranks}, or bs=, which is that of each process')
    return global_bs // n_ranks


# ---------------------------------------------------------------- putting together

def ask() -> None:
    """Ask whether all ranks are well and come to the collective that follows, where a training runs."""
    for asking in before_collective:
        asking()


def barrier() -> None:
    """Wait for all ranks; nothing to wait for in one process."""
    if reducing():
        ask()
        dist.barrier(group=host_group())


def gather(x: Tensor, axis: int = 0) -> Tensor:
    """The tensors of all ranks concatenated along `axis`; `x` itself in one process."""
    if not reducing() or dist.get_world_size() == 1:
        return x
    ask()
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat([part[None] if part.ndim == 0 else part for part in parts], dim=axis)


def gather_objects(o: Any) -> list[Any]:
    """What each rank gives as `o`, in their order; data that pickle takes, between processes of one training."""
    if not is_distributed():
        return [o]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, o, group=host_group())
    return found


def from_first(o: Any) -> Any:
    """What the first rank gives, on all; data that pickle takes. `o` itself in one process."""
    if not is_distributed():
        return o
    found = [o]
    dist.broadcast_object_list(found, src=0, group=host_group())
    return found[0]


def gather_on_first(o: Any) -> list[Any] | None:
    """What each rank gives as `o`, in their order, on the first rank; None on the others. Data that pickle takes."""
    if not is_distributed():
        return [o]
    found = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(o, found, dst=0, group=host_group())
    return found


def host_group() -> Any:
    """The group for numbers on the host; None, the default group, where nobody has joined by `setup_distrib`."""
    return _host[1] if _host and _host[0] is dist.group.WORLD else None


def gather_rows(x: Tensor | None, group: Any = None) -> Tensor | None:
    """The rows of all ranks as they lie in a data set shared out by `rows[rank::n_ranks]`; on every rank.

    Args:
        x: rows [n,...] of this rank; None where it has none.
        group: of the processes; default: all, which must suit the device.

    Returns:
        All rows; one rank's after the other's where their numbers are not those of such shares. None: nobody has any.
    """
    ask()
    shape = None if x is None else (len(x), tuple(x.shape[1:]), x.dtype)
    shapes = gather_objects(shape)
    known = next((s for s in shapes if s is not None), None)
    if known is None:
        return None
    lengths = [0 if s is None else s[0] for s in shapes]
    device = torch.device('cpu') if x is None else x.device
    if x is None and dist.get_backend(group) == 'nccl':
        device = torch.device('cuda', torch.cuda.current_device())
    padded = torch.zeros(max(lengths), *known[1], dtype=known[2], device=device)
    if x is not None:
        padded[:len(x)] = x
    parts = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(parts, padded, group=group)
    n, world = sum(lengths), len(lengths)
    if lengths != [len(range(rank, n, world)) for rank in range(world)]:
        return torch.cat([part[:length] for part, length in zip(parts, lengths)])
    return torch.stack(parts, 1).flatten(0, 1)[:n]


def rank0_first(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call `func(*args, **kwargs)` on rank 0 first and then on the others, so that a download happens once."""
    if rank_distrib() == 0:
        result = func(*args, **kwargs)
        barrier()
        return result
    barrier()
    return func(*args, **kwargs)
