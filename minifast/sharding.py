"""A model in shares: each of several processes keeps a part of every parameter, by PyTorch's FSDP2; and whole again."""
from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
import torch.distributed.tensor as dtensor
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parameter import is_lazy

from minifast import distributed
from minifast.distributed import rank_distrib
from minifast.terminal import listed

__all__ = ['LEAST_NUMEL', 'Units', 'cut', 'in_shares', 'is_share', 'outline_of', 'own_part', 'put_in_shares',
           'share_like', 'units_of', 'whole', 'whole_model', 'whole_state']

LEAST_NUMEL = 1_000_000
"""Numbers that a part of a model has at least to be gathered on its own: below, a message costs more than it sends."""

Units = int | type | Iterable[type] | Callable[[nn.Module], bool]
"""Which modules are gathered on their own, see `units_of`."""

before_forward: list[Callable[[], None]] = []
"""Called before each forward pass of a model in shares, which needs all processes."""

_outlines: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()
"""A model in shares -> the same without numbers, of the classes it was made of."""


# ---------------------------------------------------------------- tensors

def is_share(x: Any) -> bool:
    """Whether `x` is a tensor of which each process has a part."""
    return isinstance(x, DTensor)


def own_part(x: Tensor) -> Tensor:
    """This process's part of `x`, a tensor in shares, in the same memory; any other tensor as it is."""
    return x.detach().to_local() if isinstance(x, DTensor) else x


def share_like(x: Any, like: Any) -> Any:
    """`x`, a whole tensor, which every process has, in shares as `like` is in them; anything else as it is."""
    if not isinstance(like, DTensor) or isinstance(x, DTensor) or not isinstance(x, Tensor) or x.shape != like.shape:
        return x
    return distribute_tensor(x.detach().to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def whole(x: Any, on_all: bool = False) -> Any:
    """`x`, and where it is a tensor in shares all of it; every process must ask.

    Args:
        x: anything.
        on_all: give it to every process, on its device; else to the first, on the CPU, and None to the others.
    """
    if not isinstance(x, DTensor):
        return x
    full = x.detach().full_tensor()
    if on_all:
        return full
    return None if rank_distrib() else full.cpu()


def whole_state(state: Any, on_all: bool = False) -> Any:
    """The nested lists and dicts of `state` with `whole` tensors in them, see there for `on_all`; a state dict stays
    one, in its order and with its notes."""
    distributed.ask()
    return _whole_state(state, on_all)


def _whole_state(state: Any, on_all: bool) -> Any:
    if isinstance(state, dict):
        kept = copy.copy(state)  # of its kind, with the versions of the modules
        kept.update((name, _whole_state(value, on_all)) for name, value in state.items())
        return kept
    if type(state) in (list, tuple):
        return type(state)(_whole_state(value, on_all) for value in state)
    return whole(state, on_all)


# ---------------------------------------------------------------- models

def in_shares(model: Any) -> bool:
    """Whether each process keeps a part of `model` only."""
    return isinstance(model, FSDPModule)


def units_of(model: nn.Module, units: Units | None = None) -> Iterator[tuple[str, nn.Module]]:
    """The modules that are gathered on their own, by name; inner ones first, the model itself, named '', last.

    A module can be one if it is called, and none of its parameters belongs to another module too.

    Args:
        model: the whole.
        units: a number: of the elements of `nn.Sequential`, `nn.ModuleList` and `nn.ModuleDict`, so of repeated blocks,
            those with so many parameters, what is gathered inside of them not counted. Classes of modules: all of
            these. A function of a module: those for which it is true. Default: `LEAST_NUMEL`.
    """
    units = LEAST_NUMEL if units is None else units
    places: dict[int, list[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        places.setdefault(id(p), []).append(name)
    elements = {id(child) for m in model.modules() if isinstance(m, (nn.Sequential, nn.ModuleList, nn.ModuleDict))
                for child in m.children()}
    taken: set[int] = set()
    for name, m in reversed(list(model.named_modules())):
        own = {id(p): p for p in m.parameters() if id(p) not in taken}
        if not name:
            yield name, m
        elif (own and type(m).forward is not nn.Module.forward
              and all(place.startswith(f'{name}.') for key in own for place in places[key])
              and _is_wanted(m, units, id(m) in elements, sum(p.numel() for p in own.values()))):
            taken |= own.keys()
            yield name, m


def _is_wanted(m: nn.Module, units: Units, is_element: bool, numel: int) -> bool:
    if isinstance(units, int):
        return is_element and numel >= units
    if isinstance(units, type):
        return isinstance(m, units)
    return isinstance(m, tuple(units)) if isinstance(units, Iterable) else bool(units(m))


def put_in_shares(model: nn.Module, units: Units | None = None) -> None:
    """Let every process keep a part of each parameter of `model`, by torch's `fully_shard`; all processes must call it.

    The numbers are the first process's. The model stays the same object with the same names; its parameters become
    `DTensor`s, cut along the first axis, which are put together for a forward and a backward pass of their unit. So an
    optimizer must be made afterwards.

    Args:
        model: on its device.
        units: see `units_of`.

    Raises:
        ValueError: a parameter cannot be cut; nothing has been changed.
    """
    found = list(units_of(model, units))
    _check(model, [m for _, m in found])
    outline = _outline(model)
    for t in (*model.parameters(), *model.buffers()):
        t.data = t.data.contiguous()
        dist.broadcast(t.detach(), 0)
    mesh = init_device_mesh(next(model.parameters()).device.type, (dist.get_world_size(),))
    for _, m in found:
        # behind a forward pass too, so that what others see of a model are always the parts
        fully_shard(m, mesh=mesh, reshard_after_forward=True)
    model.register_forward_pre_hook(_tell_of_forward, prepend=True)
    _outlines[model] = outline


def _tell_of_forward(model: nn.Module, args: Any) -> None:
    for tell in before_forward:
        tell()


def _check(model: nn.Module, units: list[nn.Module]) -> None:
    named = dict(model.named_parameters())
    if not named:
        raise ValueError("a model without parameters cannot be trained in shares: strategy='ddp'")
    if any(is_lazy(p) for p in named.values()):
        raise ValueError('the model has layers without a shape: let it see a batch first, '
                         'learn.model(learn.dls.one_batch()[0])')
    empty = [name for name, p in named.items() if p.device.type == 'meta']
    if empty:
        raise ValueError(f"{listed(empty, 6)} lie on the device 'meta' and have no numbers: "
                         "model.to_empty(device='cpu') and fill them")
    scalars = [name for name, p in named.items() if p.ndim == 0]
    if scalars:
        raise ValueError(f'{listed(scalars, 6)} are single numbers, which cannot be cut in shares: let them have the '
                         "shape [1], or train with strategy='ddp'")
    taken: set[int] = set()
    for m in units:
        own = [p for p in m.parameters() if id(p) not in taken]
        kinds = {p.dtype for p in own if p.requires_grad}
        if len(kinds) > 1:
            raise ValueError(f'{type(m).__name__} has parameters of {listed(sorted(map(str, kinds)), 4)}, which cannot '
                             'be gathered as one: learn.model.float(), or units= that part them')
        taken |= {id(p) for p in own}


def _outline(model: nn.Module) -> nn.Module:
    """A copy whose parameters have no memory."""
    empty = {id(p): nn.Parameter(p.detach().to('meta'), p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, empty)


def outline_of(model: nn.Module) -> nn.Module:
    """`model`; of one in shares a copy without numbers, of the classes that it was made of."""
    return _outlines.get(model, model)


def cut(shape: torch.Size, dtype: torch.dtype, like: nn.Module) -> Tensor:
    """Room for a tensor of `shape` and `dtype`, in shares as the model `like` is in them, so along the first axis;
    whole where that is whole."""
    mesh = next((p.device_mesh for p in like.parameters() if isinstance(p, DTensor)), None)
    return torch.empty(shape, dtype=dtype) if mesh is None else dtensor.empty(*shape, dtype=dtype, device_mesh=mesh,
                                                                             placements=[dtensor.Shard(0)])


def whole_model(model: nn.Module) -> nn.Module:
    """A copy of `model` that is in no shares, of the classes that it was made of, for every process; all must ask.

    Raises:
        ValueError: it was put in shares elsewhere.
    """
    if not in_shares(model):
        return copy.deepcopy(model)
    if model not in _outlines:
        raise ValueError('the model was put in shares outside of minifast, so that no whole copy can be made: save its '
                         'weights by learn.save, and load them into a learner in one process')
    state, found = whole_state(model.state_dict(), on_all=True), copy.deepcopy(_outlines[model])
    found.load_state_dict(state, assign=True)
    for m, kept in zip(model.modules(), found.modules()):
        kept.training = m.training
        for name, buffer in m._buffers.items():
            kept._buffers[name] = copy.deepcopy(buffer)
    for p, kept in zip(model.parameters(), found.parameters()):
        kept.requires_grad_(p.requires_grad)
    return found
