"""Weights with the state of their optimizer: saved, checked before anything is changed, loaded."""
from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from minifast.distributed import rank_distrib
from minifast.sharding import in_shares, is_share, own_part, share_like, whole_state
from minifast.tensorfile import DamagedFileError, UnsafeFileError, copied, read_tensors, storable, write_atomic
from minifast.terminal import listed
from minifast.torch_core import batchnorm_types, get_model

__all__ = ['DamagedFileError', 'UnsafeFileError', 'check_model_state', 'check_opt_state', 'load_model',
           'load_opt_state', 'save_model']


def save_model(file: str | Path | BinaryIO, model: nn.Module, opt: Any, with_opt: bool = True) -> None:
    """Write the weights of `model`, and the state of `opt` if there is one and `with_opt`, to a tensor file.

    The file is replaced in one move: whatever happens, it is the old one or the new one. Plain `torch.load` reads it:
    `{'model': state_dict, 'opt': state_dict}`, or the model's state dict alone. Of several processes the first writes;
    a model in shares is put together for it, which needs all of them.

    Args:
        file: a path, or an open binary stream.
        model: the model; of a wrapped one what is inside.
        opt: the optimizer, or None.
        with_opt: write its state too.

    Raises:
        OSError: the storage failed; the old file is untouched.
        TypeError: the state holds what a tensor file cannot.
    """
    model, with_opt = get_model(model), with_opt and opt is not None
    if rank_distrib() and not in_shares(model):
        return
    state, opt_state = model.state_dict(), opt.state_dict() if with_opt else None
    if in_shares(model):
        state, opt_state = whole_state(state), whole_state(opt_state)
    if rank_distrib():
        return
    state = storable(state, 'the model\'s state')
    if with_opt:
        state = {'model': state, 'opt': storable(opt_state, 'the optimizer\'s state')}
    write_atomic(file, state)


def load_model(file: str | Path | BinaryIO, model: nn.Module, opt: Any, with_opt: bool = True,
               device: Any = None, strict: bool = True) -> None:
    """Read into `model` and `opt` what `save_model`, fastai's `learn.save` or `torch.save(state_dict)` wrote.

    Everything is checked before anything is changed. Nothing in the file is ever run.

    Args:
        file: the file, or an open binary stream.
        model: gets the weights; it stays on its device.
        opt: gets the optimizer's state.
        with_opt: read the optimizer's state too.
        device: accepted for old scripts; the weights go to where the model is.
        strict: the names in the file and the model must be the same.

    Raises:
        FileNotFoundError, DamagedFileError, UnsafeFileError: as `read_tensors`.
        ValueError: the weights or the optimizer's state do not fit.
    """
    state = read_tensors(file)
    if not isinstance(state, dict):
        raise ValueError(f'{file} holds a {type(state).__name__}, not the weights of a model')
    has_opt = 'model' in state and 'opt' in state and isinstance(state['model'], dict)
    model, model_state = get_model(model), state['model'] if has_opt else state
    check_model_state(model, model_state, file, strict=strict)
    if has_opt and with_opt and opt is not None:
        check_opt_state(opt, state['opt'], file)
    load_weights(model, model_state, file, strict=strict)
    if has_opt and with_opt and opt is not None:
        load_opt_state(opt, state['opt'], file)
    elif with_opt and not has_opt:
        warnings.warn(f'{file} holds no optimizer state: the optimizer starts anew (with_opt=False says that you '
                      'know)', stacklevel=3)


def _load(target: Any, state: dict, file: Any, **kwargs: Any) -> None:
    try:
        target.load_state_dict(state, **kwargs)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f'{file} does not fit {type(target).__name__}: {error}') from error


def load_weights(model: nn.Module, state: dict[Any, Any], file: Any, strict: bool = True) -> None:
    """Fill a model with weights that were checked.

    Raises:
        ValueError: they do not fit.
    """
    if in_shares(model):
        kept, own = copy.copy(state), model.state_dict()  # with the versions of the modules
        kept.update((name, share_like(value, own.get(name))) for name, value in state.items())
        state = kept
    make_room(model, state)
    _load(model, state, file, strict=strict)


def make_room(model: nn.Module, state: dict[Any, Any]) -> None:
    """Give the tensors of `model` that cannot be filled in place memory that can hold those of `state`."""
    names = [(prefix + ('.' if prefix else '') + name, module._buffers, name, buffer)
             for prefix, module in model.named_modules() for name, buffer in module._buffers.items()]
    for full, buffers, name, buffer in names:
        theirs = state.get(full) if buffer is not None else None
        if isinstance(theirs, Tensor) and buffer.layout is not torch.strided and theirs.layout == buffer.layout:
            buffers[name] = theirs.to(buffer, copy=True)  # torch copies only as many numbers as there are
    for x in (*model.parameters(), *model.buffers()):
        if not is_lazy(x) and x.layout is torch.strided and x.numel() > 1 and 0 in x.stride():
            x.data = x.data.clone(memory_format=torch.contiguous_format)  # one number seen many times cannot be filled


def load_opt_state(opt: Any, state: dict[Any, Any], file: Any) -> None:
    """Read `state`, of `file`, into the optimizer `opt`, as copies: a file stays mapped while its tensors are kept.

    The state goes where the optimizer has its own, else into the memory format of the weight, as fused steps want it.

    Raises:
        ValueError: it does not fit.
    """
    held = getattr(opt, 'opt', opt)  # a wrapper keeps torch's state inside
    before = {p: dict(values) for p, values in held.state.items()}
    _load(opt, {k: v if k == 'state' else copied(v) for k, v in state.items()}, file)
    for p, values in held.state.items():
        placed: dict[int, Tensor] = {}  # a file may name one tensor any number of times
        for name, value in values.items():
            if isinstance(value, Tensor):
                own = before.get(p, {}).get(name)
                if id(value) not in placed:
                    placed[id(value)] = _placed(value, p, own)
                values[name] = placed[id(value)]
            elif isinstance(value, (list, tuple, dict)) and p.device.type == 'cpu':
                values[name] = copied(value)
    for p in before.keys() - held.state.keys():  # torch forgets what is kept for parameters outside of all groups
        held.state[p] = before[p]


def _placed(value: Tensor, p: Tensor, own: Any) -> Tensor:
    if value.layout is not torch.strided or value.is_quantized:
        return copied(value).to(p.device)
    return _place_for(value, p, own).copy_(share_like(value, own if is_share(own) else p))


def _place_for(value: Tensor, p: Tensor, own: Any) -> Tensor:
    like = p if value.shape == p.shape else value
    if (isinstance(own, Tensor) and own.shape == like.shape and own.stride() == like.stride()
            and (own.dtype, own.device) == (value.dtype, value.device)):
        return own
    return torch.empty_like(like, dtype=value.dtype, device=value.device, requires_grad=False)


def _some(names: Iterable) -> str:
    return listed(map(repr, names), 5)


def check_model_state(model: nn.Module, state: Any, file: Any, strict: bool = True) -> None:
    """Refuse weights that do not fit `model`, and name in a warning what fits and is suspicious.

    Args:
        model: what the weights are for.
        state: name -> tensor.
        file: named in messages.
        strict: refuse missing and unexpected names too.

    Raises:
        ValueError: names, shapes or kinds of numbers do not fit, or a variance is negative.
    """
    if not isinstance(state, dict):
        raise ValueError(f'{file} holds a {type(state).__name__} where the weights of a model should be')
    own = model.state_dict()
    missing, unexpected = [k for k in own if k not in state], [k for k in state if k not in own]
    if strict and (missing or unexpected):
        parts = [f'{len(missing)} of its {len(own)} weights are missing: {_some(missing)}'] if missing else []
        parts += [f'{len(unexpected)} are unknown to it: {_some(unexpected)}'] if unexpected else []
        for prefix, wrapper in (('module.', 'a DataParallel wrapper'), ('_orig_mod.', 'what torch.compile returned')):
            if any(str(k).startswith(prefix) for k in unexpected):
                parts.append(f'the names start with {prefix!r}: they were saved from inside {wrapper}')
        raise ValueError(f'{file} does not fit this {type(model).__name__}: ' + '; '.join(parts)
                         + '. Build the model that was saved, or load with strict=False to take what fits')
    suspicious = []
    for name, ours in own.items():
        if isinstance(ours, Tensor) and name in state:
            _check_weight(name, ours, state[name], file, suspicious)
    for name, module in model.named_modules():
        _check_batchnorm(name, module, state, file)
    if suspicious:
        warnings.warn(f'{file}: {_some(suspicious)}', stacklevel=3)


def _check_weight(name: str, ours: Tensor, theirs: Any, file: Any, suspicious: list[str]) -> None:
    if not isinstance(theirs, Tensor):
        raise ValueError(f'{file}: {name!r} is a {type(theirs).__name__}, not a tensor')
    if not is_lazy(ours):
        if theirs.shape != ours.shape:
            raise ValueError(f'{file}: {name!r} has the shape {list(theirs.shape)}, the model has {list(ours.shape)}: '
                             'it is another model, or one with another number of outputs')
        if not _convertible(theirs, ours):
            raise ValueError(f'{file}: {name!r} holds {_kind(theirs)}, the model {_kind(ours)}: these are no weights '
                             'of it')
        if theirs.dtype != ours.dtype:
            suspicious.append(f'{name} is {theirs.dtype} in the file and {ours.dtype} in the model')
    if not _finite(theirs):
        suspicious.append(f'{name} has values that are not finite')


def _kind(x: Tensor) -> str:
    return f'{x.dtype}' + ('' if x.layout is torch.strided else f' in the layout {x.layout}')


def _convertible(theirs: Tensor, ours: Tensor) -> bool:
    """Whether the numbers can be copied into ours and stay what they are."""
    if theirs.layout != ours.layout or theirs.is_quantized != ours.is_quantized:
        return False
    if theirs.dtype == ours.dtype:
        return True
    if theirs.is_floating_point() != ours.is_floating_point() or theirs.is_complex() != ours.is_complex():
        return False
    try:  # torch has not every conversion between its smallest kinds of numbers
        torch.empty(1, dtype=ours.dtype).copy_(torch.empty(1, dtype=theirs.dtype))
    except RuntimeError:
        return False
    return not theirs.is_quantized


def _numbers(x: Tensor) -> Tensor | None:
    """The numbers of any kind of tensor as one whose sum and minimum torch can tell; None if there are none.

    Of a tensor in shares those of this process.
    """
    x = own_part(x)
    if x.layout is not torch.strided:
        x = x._values() if x.layout is torch.sparse_coo else x.values()
    if x.is_complex():
        x = torch.view_as_real(x.resolve_conj())
    if x.is_floating_point() and x.dtype.itemsize == 1:
        x = x.view(torch.uint8) if x.dtype == torch.float4_e2m1fn_x2 else x.float()
    known = x.numel() and not x.is_quantized and not str(x.dtype).startswith('torch.bits')
    return x if known else None


def _finite(x: Tensor) -> bool:
    x = _numbers(x)
    if x is None or not x.is_floating_point():
        return True
    # a sum is one fast pass; only a sum that is not finite needs the slow look at every number
    return math.isfinite(x.sum().item()) or bool(x.isfinite().all())  # sync: reading a file, on the CPU


def _negative(x: Tensor) -> bool:
    x = _numbers(x)
    return x is not None and x.dtype.is_signed and x.min().item() < 0  # sync: reading a file, on the CPU


def _check_batchnorm(name: str, module: nn.Module, state: dict, file: Any) -> None:
    if not isinstance(module, batchnorm_types):
        return
    for key in ('running_var', 'num_batches_tracked'):
        value = state.get(f'{name}.{key}' if name else key)
        if isinstance(value, Tensor) and _negative(value):
            raise ValueError(f'{file}: {name}.{key} is negative, which no training can make: the file is damaged or '
                             'made up')


# ---------------------------------------------------------------- the optimizer's state

_LIKE_PARAM = {'grad_avg', 'sqr_avg', 'exp_avg', 'exp_avg_sq', 'max_exp_avg_sq', 'momentum_buffer', 'square_avg',
               'grad_sqr_avg', 'slow'}
_NOT_NEGATIVE = {'sqr_avg', 'exp_avg_sq', 'max_exp_avg_sq', 'square_avg', 'step', 'lr', 'eps'}
_FRESH = 'Load with with_opt=False to start with a fresh optimizer'


def check_opt_state(opt: Any, state: Any, file: Any) -> None:
    """Refuse an optimizer state that does not fit `opt`, and name what fits and is suspicious in a warning.

    Args:
        opt: the optimizer.
        state: torch's format (`param_groups`, `state` by number) or fastai's (`hypers`, `state` as a list).
        file: named in messages.

    Raises:
        ValueError: groups, parameters or shapes differ, or a number is impossible.
    """
    groups = [list(group['params']) for group in opt.param_groups]
    if not isinstance(state, dict) or 'state' not in state or not ('param_groups' in state or 'hypers' in state):
        raise ValueError(f'{file} holds no optimizer state that could be read. {_FRESH}')
    theirs = state['hypers'] if 'hypers' in state else state['param_groups']
    if not isinstance(theirs, list) or not all(isinstance(group, dict) for group in theirs):
        raise ValueError(f'{file}: the parameter groups of its optimizer are malformed. {_FRESH}')
    if len(theirs) != len(groups):
        raise ValueError(f'{file}: its optimizer has {len(theirs)} parameter groups, this one {len(groups)}: was it '
                         f'saved with another splitter? {_FRESH}')
    for i, (group, hypers) in enumerate(zip(groups, theirs)):
        if 'params' in hypers and len(hypers['params']) != len(group):
            raise ValueError(f'{file}: group {i} of its optimizer has {len(hypers["params"])} parameters, this one '
                             f'{len(group)}. {_FRESH}')
        _check_hypers(f'hyper-parameter {{}} of group {i}', hypers, file)
    numbered = enumerate(state['state']) if isinstance(state['state'], list) else state['state'].items()
    by_number = dict(numbered) if 'hypers' in state else _by_place(dict(numbered), theirs)
    params, suspicious = [p for group in groups for p in group], []
    seen: set[int] = set()
    for number, values in by_number.items():
        if not isinstance(number, int) or not 0 <= number < len(params) or not isinstance(values, dict):
            raise ValueError(f'{file}: its optimizer has a state for {number!r}, this one has {len(params)} '
                             f'parameters. {_FRESH}')
        _check_param_state(number, values, params[number], file, suspicious, seen)
    if suspicious:
        warnings.warn(f'{file}: {_some(suspicious)}', stacklevel=3)


def _by_place(states: dict, groups: list[dict]) -> dict:
    """The states by place among all parameters instead of by the number that the groups give them."""
    places = {number: i for i, number in enumerate(n for group in groups for n in group.get('params', ()))}
    return {places.get(number, f'number {number}'): values for number, values in states.items()}


def _check_hypers(what: str, hypers: dict, file: Any) -> None:
    for name, value in hypers.items():
        if isinstance(value, float) and (not math.isfinite(value) or (value < 0 and name in _NOT_NEGATIVE)):
            raise ValueError(f'{file}: the {what.format(repr(name))} is {value}. {_FRESH}')


def _check_param_state(number: int, values: dict, param: Tensor, file: Any, suspicious: list[str],
                       seen: set[int]) -> None:
    for name, value in values.items():
        if not isinstance(value, Tensor):
            continue
        if name in _LIKE_PARAM and value.shape != param.shape:
            raise ValueError(f'{file}: {name!r} of parameter {number} has the shape {list(value.shape)}, the parameter '
                             f'{list(param.shape)}. {_FRESH}')
        if name in _NOT_NEGATIVE and _negative(value):
            raise ValueError(f'{file}: {name!r} of parameter {number} is negative, which no training makes. {_FRESH}')
        if id(value) in seen:  # a file may name one tensor any number of times
            continue
        seen.add(id(value))
        if not _finite(value):
            suspicious.append(f'{name} of the optimizer for parameter {number} has values that are not finite')
