"""Nested values, devices, randomness, modules and parameters: what many rooms need of torch."""
from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import itertools
import os
from collections import UserDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import GeneratorType, SimpleNamespace
from typing import Any

import torch
from fastcore.foundation import L
from fastcore.imports import in_notebook
from torch import Tensor, nn

from minifast.arguments import check_kwargs, near_match
from minifast.codetext import keyed
from minifast.distributed import gather, num_distrib, rank_distrib
from minifast.distributed import barrier as distrib_barrier
from minifast.markers import (TensorBase, TensorCategory, TensorFlowField, TensorImage, TensorImageBase, TensorImageBW,
                              TensorMask, TensorMultiCategory, TitledTensorScalar, array, cast, plain, retain_type,
                              tensor)
from minifast.seeds import get_random_states, key_seed, keyed_generator, no_random, seeded, set_random_states, set_seed
from minifast.show import show_image as show_image
from minifast.show import show_images as show_images
from minifast.show import show_title as show_title
from minifast.show import show_titled_image as show_titled_image
from minifast.show import subplots as subplots
from minifast.terminal import say

__all__ = ['Module', 'TensorBase', 'TensorCategory', 'TensorFlowField', 'TensorImage', 'TensorImageBW',
           'TensorImageBase', 'TensorMask', 'TensorMultiCategory', 'TitledTensorScalar', 'apply', 'apply_init',
           'apply_leaf', 'array', 'batch_to_samples', 'batchnorm_types', 'bn_bias_params', 'cast', 'check_kwargs',
           'concat', 'cond_init', 'default_device', 'defaults', 'detach_parallel', 'detuplify', 'display_df',
           'distrib_barrier', 'doc', 'fields_of', 'find_bs', 'find_device', 'flatten_check', 'get_empty_df',
           'get_first', 'get_model', 'get_random_states', 'grad_module', 'init_default', 'ismin_torch', 'item_find',
           'join_path_file', 'key_seed', 'keyed_generator', 'length_of', 'logit', 'make_cross_image',
           'master_bar', 'maybe_gather', 'near_match', 'nested_reorder', 'no_random', 'norm_bias_params', 'norm_types',
           'notmax_torch', 'np_func', 'num_distrib', 'one_hot', 'one_hot_decode', 'one_param', 'params', 'plain',
           'progress_bar', 'rank_distrib', 'requires_grad', 'retain_type', 'seeded', 'set_random_states', 'set_seed',
           'split_model', 'tensor', 'to_concat', 'to_cpu', 'to_detach', 'to_device', 'to_float', 'to_half', 'to_np',
           'to_parallel', 'trainable_params', 'unsqueeze', 'unsqueeze_']


def _cpu_count() -> int:
    """Cores this process may use; a container's limit counts, the machine's size does not."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


defaults = SimpleNamespace(cpus=_cpu_count(), device=None, use_cuda=None, lr=1e-3, activation=nn.ReLU, callbacks=[])
"""Settings read when a Learner or a DataLoader is made. `device=None` means: the best accelerator there is."""

norm_types = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
              nn.LayerNorm)
batchnorm_types = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


# ---------------------------------------------------------------- nested values

_LISTS = (list, tuple, L)


def is_listy(x: Any) -> bool:
    """Whether `x` is a list, tuple, L, slice or generator. Fastcore's asks `typing`, at microseconds a leaf."""
    return isinstance(x, (list, tuple, L, slice, GeneratorType))


def fields_of(x: Any) -> dict[str, Any] | None:
    """What `x` holds by name, if it is a dict (`UserDict` too) or a dataclass, without fields of None; else None."""
    if isinstance(x, Tensor) or type(x) in (tuple, list):
        return None  # at once: asked of each part of each batch
    if isinstance(x, (dict, UserDict)):
        return dict(x)
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        found = {field.name: getattr(x, field.name, None) for field in dataclasses.fields(x)}
        return {name: value for name, value in found.items() if value is not None}
    return None


def _with_fields(x: Any, values: dict[str, Any]) -> Any:
    """A copy of a dict or dataclass with other values: a library's own class of outputs stays what it is."""
    made = copy.copy(x)
    for name, value in values.items():
        if isinstance(x, (dict, UserDict)):
            made[name] = value
        else:
            object.__setattr__(made, name, value)  # frozen ones too
    return made


def as_tuple(x: Any) -> tuple[Any, ...]:
    """The elements of a list or tuple; anything else is the only one."""
    return tuple(x) if is_listy(x) else (x,)


def leaves_of(x: Any) -> Iterator[Any]:
    """The leaves of nested lists, tuples, L, dicts and dataclasses, in the order in which `tree_map` comes to them."""
    named = fields_of(x)
    if named is not None or isinstance(x, _LISTS):
        for part in x if named is None else named.values():
            yield from leaves_of(part)
    else:
        yield x


def tree_map(func: Callable[..., Any], x: Any, *others: Any) -> Any:
    """`func` of each leaf of `x` and of those in its place in `others`, in containers of the types of `x`'s.

    Containers are lists, tuples, L, dicts and dataclasses; what is none, None too, is a leaf.

    Raises:
        ValueError: a list of `others` is not as long.
        KeyError: a dict of `others` lacks a name.
    """
    if isinstance(x, Tensor):
        return func(x, *others)
    named = fields_of(x)
    if named is not None:
        others = [fields_of(o) for o in others]
        mapped = {k: tree_map(func, v, *[o[k] for o in others]) for k, v in named.items()}
        return mapped if type(x) is dict else _with_fields(x, mapped)
    if isinstance(x, _LISTS):
        mapped = [tree_map(func, *parts) for parts in zip(x, *others, strict=True)]
        return type(x)(*mapped) if hasattr(x, '_fields') else type(x)(mapped)
    return func(x, *others)


def apply(func: Callable[..., Any], x: Any, *args: Any, **kwargs: Any) -> Any:
    """`tree_map` of `func(leaf, *args, **kwargs)` over the leaves of `x`."""
    return tree_map(lambda leaf: func(leaf, *args, **kwargs), x)


def to_concat(xs: list[Any], dim: int = 0) -> Any:
    """The equally nested parts `xs` as one, their tensors concatenated along `dim`.

    What cannot be joined (leaves that are no tensors, rows of other shapes along `dim=0`) comes back as one flat list.
    """
    return tree_map(lambda *parts: _joined(parts, dim), *xs) if xs else xs


def _joined(xs: tuple, dim: int) -> Any:
    first = xs[0]
    if not isinstance(first, Tensor):
        return [o for x in xs for o in as_tuple(x)]
    if first.ndim == 0:
        return retain_type(torch.stack([plain(x) for x in xs]), first)
    if any(x.shape[1:] != first.shape[1:] for x in xs) and dim == 0:
        return L(o for x in xs for o in x)
    return retain_type(torch.cat([plain(x) for x in xs], dim=dim), first)


def item_find(x: Any, idx: int = 0) -> Any:
    """The leaf of `x` found by going down to part `idx` of each container; None where one on the way is empty."""
    while not isinstance(x, Tensor):
        named = fields_of(x)
        parts = x if named is None else list(named.values())
        if not is_listy(parts):
            break
        if len(parts) == 0:
            return None
        x = parts[idx]
    return x


def find_bs(b: Any) -> int:
    """The length of the first tensor in the nested batch `b`: its first axis is that of the samples."""
    found = b[0] if type(b) is tuple and b else b
    found = plain(found if isinstance(found, Tensor) else item_find(found))
    return found.shape[0] if isinstance(found, Tensor) and found.ndim else len(found)


def concat(*parts: Any) -> list[Any]:
    """The elements of all lists `parts` in one list."""
    return [o for part in parts for o in part]


def batch_to_samples(b: Any, max_n: int = 10) -> Any:
    """The batch `b`, of stacked tensors, as a list of its first `max_n` samples; nested as the batch is."""
    if isinstance(b, Tensor):
        return [retain_type(o, b) for o in plain(b)[:max_n]]
    return L(batch_to_samples(part, max_n) for part in b).zip()


def detuplify(x: Any) -> Any:
    """The only element of `x`, a tuple or list of one; None for an empty one, anything else as it is."""
    if isinstance(x, (tuple, list)) and len(x) < 2:
        return x[0] if x else None
    return x


def nested_reorder(t: Any, idxs: Any) -> Any:
    """The nested `t` with each tensor or L in it indexed by `idxs`."""
    if isinstance(t, (Tensor, L)):
        return t[idxs]
    return type(t)(nested_reorder(o, idxs) for o in t) if is_listy(t) else t


def get_first(c: Any) -> Any:
    """The first element of `c`, a list, tuple or L; `c` itself where it is none."""
    return c[0] if is_listy(c) else c


# ---------------------------------------------------------------- devices

def default_device(use: bool | int | None = None) -> torch.device:
    """The device new loaders and learners use: `defaults.device`, else the accelerator there is, else the CPU.

    Args:
        use: True insists on an accelerator, False on the CPU; an int is a CUDA ordinal; None leaves the choice.

    Raises:
        ValueError: an accelerator was asked for and there is none.

    Example:
        >>> default_device(False)  # the CPU, whatever there is
        device(type='cpu')
    """
    if use is None and defaults.device is not None:
        return torch.device(defaults.device)
    use = defaults.use_cuda if use is None else use
    found = torch.accelerator.current_accelerator(check_available=True)
    if use is False or (use is None and found is None):
        return torch.device('cpu')
    if found is None:
        raise ValueError(f'default_device({use}) asks for an accelerator and torch {torch.__version__} sees none: '
                         'use default_device(False) for the CPU')
    if use is None or use is True:
        return torch.device(found.type, torch.accelerator.current_device_index())
    return torch.device(found.type, use)


def _to(o: Any, device: torch.device, non_blocking: bool) -> Any:
    if isinstance(o, Tensor):
        moved = o.to(device, non_blocking=non_blocking)
        return moved if moved is o else retain_type(moved, o)
    return o


@keyed
def to_device(b: Any, device: torch.device | str | int | None = None, non_blocking: bool = False) -> Any:
    """Move every tensor of the nested batch `b`; marker types are kept.

    Args:
        b: tensors, also in lists, tuples, dicts and dataclasses; other leaves stay.
        device: default: `default_device()`.
        non_blocking: do not wait for the copy, as `Tensor.to` has it: from pinned memory it runs beside the host.
    """
    device = default_device() if device is None else torch.device(device)
    return apply(_to, b, device, non_blocking)


@keyed
def to_cpu(b: Any) -> Any:
    """The nested `b` with every tensor on the CPU."""
    return to_device(b, 'cpu')


def to_detach(b: Any, cpu: bool = True, gather: bool = True) -> Any:
    """The nested `b` with every tensor plain and without its graph, on the CPU if `cpu`, of all ranks if `gather`.

    Example:
        >>> to_detach([torch.ones(2, requires_grad=True) * 2])[0].requires_grad
        False
    """
    def _one(o: Any) -> Any:
        if not isinstance(o, Tensor):
            return o
        o = plain(o).detach()  # fastai's targets and predictions are plain, too
        o = maybe_gather(o) if gather else o
        return o.cpu() if cpu else o  # sync: the caller asked for host memory
    return apply(_one, b)


@keyed
def to_float(b: Any) -> Any:
    """The nested `b` with every floating tensor as float32."""
    return apply(lambda o: retain_type(o.float(), o) if isinstance(o, Tensor) and o.is_floating_point() else o, b)


@keyed
def to_half(b: Any) -> Any:
    """The nested `b` with every floating tensor as float16."""
    return apply(lambda o: retain_type(o.half(), o) if isinstance(o, Tensor) and o.is_floating_point() else o, b)


@keyed
def to_np(x: Any) -> Any:
    """The nested `x` with every tensor as a numpy array, on the host and without its graph.

    Example:
        >>> to_np(torch.tensor([1., 2.]))
        array([1., 2.], dtype=float32)
    """
    def _one(o: Any) -> Any:
        return plain(o).detach().cpu().numpy() if isinstance(o, Tensor) else o  # sync: numpy lives on the host
    return apply(_one, x)


def find_device(b: Any) -> torch.device | None:
    """The device of the first tensor in the nested batch `b`, None where there is none."""
    found = item_find(b)
    return found.device if isinstance(found, Tensor) else None


def length_of(x: Any) -> int | None:
    """`len(x)`, None where it has none, as a stream."""
    try:
        return len(x)
    except TypeError:
        return None


# ---------------------------------------------------------------- modules and parameters

def _signature(cls: type) -> inspect.Signature:
    if '_delegated_signature' in vars(cls):
        return vars(cls)['_delegated_signature']
    signature = inspect.signature(cls.__init__)
    return signature.replace(parameters=list(signature.parameters.values())[1:], return_annotation=cls.__name__)


def _delegate_signature(cls: type, signature: inspect.Signature) -> None:
    type.__setattr__(cls, '_delegated_signature', signature)


constructor_signature = property(_signature, _delegate_signature)
"""`__signature__` for metaclasses with a `__call__`, whose `*args` `help` and completion would see: the arguments of
`__init__`, or what fastcore's `@delegates` has put in their place."""


class _CallsSuper(type):
    """Runs `nn.Module.__init__` before the class's own, which then need not."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        module = cls.__new__(cls)
        nn.Module.__init__(module)
        module.__init__(*args, **kwargs)
        return module

    __signature__ = constructor_signature


class Module(nn.Module, metaclass=_CallsSuper):
    """`nn.Module` whose subclasses need not call `super().__init__()`."""

    def __init__(self) -> None:
        """Nothing: the metaclass has initialised the module already."""


def params(m: nn.Module) -> list[nn.Parameter]:
    """All parameters of `m`.

    Example:
        >>> len(params(nn.Linear(2, 3)))
        2
    """
    return list(m.parameters())


def trainable_params(m: nn.Module) -> L:
    """The parameters of `m` that require a gradient.

    Example:
        >>> len(trainable_params(nn.Linear(2, 3)))
        2
    """
    return L(p for p in m.parameters() if p.requires_grad)


def norm_bias_params(m: nn.Module, with_bias: bool = True) -> L:
    """The parameters of all norm layers in `m`, and the biases of the others if `with_bias`."""
    if isinstance(m, norm_types):
        return L(m.parameters())
    found = L(norm_bias_params(child, with_bias) for child in m.children()).concat()
    if with_bias and getattr(m, 'bias', None) is not None:
        found.append(m.bias)
    return found


def bn_bias_params(m: nn.Module, with_bias: bool = True) -> L:
    """`norm_bias_params(m, with_bias)`, under the name older code uses."""
    return norm_bias_params(m, with_bias)


def requires_grad(m: nn.Module) -> bool:
    """Whether the first parameter of `m` requires a gradient."""
    ps = list(m.parameters())
    return ps[0].requires_grad if ps else False


def one_param(m: nn.Module) -> nn.Parameter:
    """The first parameter of `m`."""
    return next(m.parameters())


def get_model(model: nn.Module) -> nn.Module:
    """The module inside what `DataParallel`, `DistributedDataParallel` and `torch.compile` wrapped around `model`."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif '_orig_mod' in getattr(model, '_modules', ()):  # torch._dynamo costs a second to import
            model = model._orig_mod
        else:
            return model


def split_model(model: nn.Sequential, splits: list[nn.Module]) -> list[nn.Sequential]:
    """The children of `model` in groups, each beginning with one of `splits`, children of it in their order."""
    top, groups = list(model.children()), []
    starts = [top.index(m) for m in splits] + [len(top)]
    for lo, hi in itertools.pairwise(starts):
        groups.append(nn.Sequential(*top[lo:hi]))
    return groups


def init_default(m: nn.Module, func: Callable[..., Any] | None = nn.init.kaiming_normal_) -> nn.Module:
    """Initialise the weight of `m` in place with `func` (None leaves it) and its bias with zeros; returns `m`."""
    if func and isinstance(getattr(m, 'weight', None), Tensor):  # a parametrization keeps a module under this name
        func(m.weight)
    with torch.no_grad():
        if getattr(m, 'bias', None) is not None:
            m.bias.fill_(0.)
    return m


def cond_init(m: nn.Module, func: Callable[..., Any]) -> None:
    """`init_default(m, func)` if `m` is no norm layer and is trained."""
    if not isinstance(m, norm_types) and requires_grad(m):
        init_default(m, func)


def apply_leaf(m: nn.Module, f: Callable[[nn.Module], Any]) -> None:
    """Call `f` on every module in the tree of `m`, the deepest first, `m` last."""
    for child in m.children():
        apply_leaf(child, f)
    f(m)


def apply_init(m: nn.Module, func: Callable[..., Any] = nn.init.kaiming_normal_) -> None:
    """Initialise all layers of `m` but the norm layers with `func`.

    Example:
        >>> apply_init(nn.Linear(2, 3), nn.init.kaiming_normal_)
    """
    apply_leaf(m, lambda layer: cond_init(layer, func))


def flatten_check(inp: Tensor, targ: Tensor) -> tuple[Tensor, Tensor]:
    """`inp` (predictions) and `targ` (targets) flattened, without markers.

    Raises:
        AssertionError: they hold different numbers of elements.

    Example:
        >>> inp, targ = flatten_check(torch.rand(4, 1), torch.rand(4))
        >>> inp.shape
        torch.Size([4])
    """
    inp, targ = plain(inp).contiguous().view(-1), plain(targ).contiguous().view(-1)
    assert len(inp) == len(targ), f'predictions hold {len(inp)} elements, targets {len(targ)}'
    return inp, targ


def unsqueeze(x: Tensor, dim: int = -1, n: int = 1) -> Tensor:
    """`x` with `n` new axes at `dim`."""
    for _ in range(n):
        x = x.unsqueeze(dim)
    return x


def unsqueeze_(x: Tensor, dim: int = -1, n: int = 1) -> Tensor:
    """`x` with `n` new axes at `dim`, in place."""
    for _ in range(n):
        x.unsqueeze_(dim)
    return x


def join_path_file(file: Any, path: Any, ext: str = '') -> Any:
    """`path/file` with the suffix `ext`, its folder made; an open file comes back as it is."""
    if not isinstance(file, (str, Path)):
        return file
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    return path / f'{file}{ext}'


def _version_tuple(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split('+')[0].split('.')[:3] if part.isdigit())


def ismin_torch(min_version: str) -> bool:
    """Whether torch is at least `min_version`."""
    return _version_tuple(torch.__version__) >= _version_tuple(min_version)


def notmax_torch(max_version: str) -> bool:
    """Whether torch is older than `max_version`."""
    return _version_tuple(torch.__version__) < _version_tuple(max_version)


def to_parallel(learn_or_model: Any, device_ids: list[int] | None = None) -> Any:
    """Wrap a model in `nn.DataParallel`: one process, a batch shared out among several GPUs.

    Args:
        learn_or_model: a module, whose wrapper is returned, or a learner, whose model is replaced.
        device_ids: ordinals of the GPUs; default: all.
    """
    if isinstance(learn_or_model, nn.Module):
        return nn.DataParallel(learn_or_model, device_ids=device_ids)
    learn_or_model.model = nn.DataParallel(learn_or_model.model, device_ids=device_ids)
    return learn_or_model


def detach_parallel(learn_or_model: Any) -> Any:
    """Undo `to_parallel`: `learn_or_model` as it is there."""
    if isinstance(learn_or_model, nn.Module):
        return get_model(learn_or_model)
    learn_or_model.model = get_model(learn_or_model.model)
    return learn_or_model


def maybe_gather(x: Tensor, axis: int = 0) -> Tensor:
    """The tensors of all ranks along `axis`; `x` itself in one process."""
    return gather(x, axis)


# ---------------------------------------------------------------- tables and bars

def get_empty_df(n: int) -> Any:
    """`n` empty pandas rows (`Series`) to be filled while a batch is shown as a table."""
    import pandas as pd
    return [pd.Series(dtype='object') for _ in range(n)]


def doc(elt: Any) -> None:
    """Print the signature and the docstring of `elt`, a function, class or method, as `help` does."""
    help(elt)


def display_df(df: Any) -> None:
    """Show the DataFrame `df` in a notebook, print it elsewhere."""
    if not in_notebook():  # IPython being installed does not mean that it is looked at
        for line in df.to_string().split('\n'):
            say(line)
        return
    from IPython.display import HTML, display
    display(HTML(df.to_html()))


def progress_bar(gen: Iterable[Any], total: int | None = None, parent: Any = None, leave: bool = True,
                 **kwargs: Any) -> Iterable[Any]:
    """A tqdm bar under the signature that scripts know.

    Args:
        gen: what is iterated.
        total: the number of steps, where `gen` has no length.
        parent: an outer bar; the new one is drawn below it.
        leave: False clears the bar at the end.
        **kwargs: `desc` or `comment` (the text before the bar), `display=False` (draw nothing); `master` and `unit` are
            accepted and do nothing.
    """
    from tqdm.auto import tqdm
    allowed = ('display', 'comment', 'master', 'desc', 'unit')
    check_kwargs('progress_bar', kwargs, allowed)
    return tqdm(gen, total=total, leave=leave, desc=kwargs.get('desc') or kwargs.get('comment'),
                disable=not kwargs.get('display', True), position=1 if parent is not None else None, dynamic_ncols=True)


def master_bar(gen: Iterable[Any], total: int | None = None, **kwargs: Any) -> Iterable[Any]:
    """The outer of two nested bars; `gen`, `total` and `**kwargs` as in `progress_bar`."""
    return progress_bar(gen, total=total, **kwargs)


# ---------------------------------------------------------------- small things that scripts know by name

@keyed
def one_hot(x: Any, c: int) -> Tensor:
    """Ones at the indices `x` (a number, or several) among `c` classes, uint8 [c]."""
    hot = torch.zeros(c, dtype=torch.uint8)
    hot[torch.as_tensor(list(x) if isinstance(x, L) else plain(x)).long()] = 1
    return hot


def one_hot_decode(x: Any, vocab: Any = None) -> L:
    """Where `x` is 1: the indices, or their names in `vocab`."""
    return L(i if vocab is None else vocab[i] for i, o in enumerate(x) if o == 1)


def logit(x: Tensor) -> Tensor:
    """The inverse of the sigmoid; `x` is kept 1e-7 away from 0 and 1."""
    return torch.logit(x, eps=1e-7)


def np_func(f: Callable[..., Any]) -> Callable[..., Any]:
    """The function of arrays `f` as one of tensors: what goes in is made an array, what comes out a tensor."""
    @functools.wraps(f)
    def of_tensors(*args: Any, **kwargs: Any) -> Tensor:
        return tensor(f(*[to_np(o) if isinstance(o, Tensor) else o for o in args], **kwargs))
    return of_tensors


def grad_module(cls: type[torch.autograd.Function]) -> type[nn.Module]:
    """A module class whose `forward` applies the autograd function `cls`."""
    class FunctionModule(nn.Module):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return cls.apply(*args, **kwargs)
    FunctionModule.__name__, FunctionModule.__doc__ = cls.__name__, cls.__doc__
    return FunctionModule


def make_cross_image(bw: bool = True) -> Tensor:
    """A picture of a cross for trying things out: float [5,5] if `bw`, else [3,5,5], a red row and a green column."""
    picture = torch.zeros(5, 5) if bw else torch.zeros(3, 5, 5)
    row, column = (picture, picture) if bw else (picture[0], picture[1])
    row[2], column[:, 2] = 1, 1
    return picture
