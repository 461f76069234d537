"""Parameter groups: fastai's face on hypers and freezing, whoever does the arithmetic; torch's optimizers under it."""
from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from fastcore.basics import even_mults
from fastcore.foundation import L
from torch import Tensor, nn

from minifast.arguments import near_match
from minifast.terminal import listed

__all__ = ['Coverage', 'Hypers', 'OptimWrapper', 'as_optimizer', 'detuplify_pg', 'each_once', 'pytorch_hp_map',
           'set_item_pg']


def detuplify_pg(d: Mapping[str, Any]) -> dict[str, Any]:
    """The torch parameter group `d` without its params, each tuple spread over `name__0`, `name__1`, ..."""
    spread: dict[str, Any] = {}
    for name, value in d.items():
        if name != 'params' and isinstance(value, (list, tuple)):
            spread.update({f'{name}__{i}': v for i, v in enumerate(value)})
        elif name != 'params':
            spread[name] = value
    return spread


def set_item_pg(pg: dict[Any, Any], k: str, v: Any) -> dict[Any, Any]:
    """Set `pg[k]` to `v` and return `pg`, where `k` as `name__1` means the second element of the tuple `name`."""
    name, _, i = k.partition('__')
    pg[name] = tuple(v if j == int(i) else old for j, old in enumerate(pg[name])) if i else v
    return pg


class Hypers(MutableMapping[str, Any]):
    """The hyper-parameters of one parameter group as a dict. It is a view: writing changes the next step.

    Args:
        group: the torch parameter group that holds the values.
        torch_names: short name -> name in the group, for those that differ.
    """

    __slots__ = ('_group', '_torch_names')

    def __init__(self, group: dict[str, Any], torch_names: Mapping[str, str] | None = None) -> None:
        self._group, self._torch_names = group, torch_names or {}

    def __getitem__(self, name: str) -> Any:
        if name == 'params':
            raise KeyError(name)
        key, _, i = self._torch_names.get(name, name).partition('__')
        return self._group[key][int(i)] if i else self._group[key]

    def __setitem__(self, name: str, value: Any) -> None:
        set_item_pg(self._group, self._torch_names.get(name, name), value)

    def __delitem__(self, name: str) -> None:
        del self._group[self._torch_names.get(name, name)]

    def __iter__(self) -> Iterator[str]:
        if not self._torch_names:
            return (name for name in self._group if name != 'params')
        short = {full: name for name, full in self._torch_names.items()}
        return iter(dict.fromkeys(short.get(full, full) for full in detuplify_pg(self._group)))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return repr(dict(self))


def _values_for_groups(name: str, value: Any, n_groups: int) -> list:
    """One value a group from a scalar, a list of the right length or a slice of learning rates."""
    if isinstance(value, slice):
        if value.start:
            value = even_mults(value.start, value.stop, n_groups)
        else:
            value = [value.stop / 10] * (n_groups - 1) + [value.stop]
    if isinstance(value, (list, tuple, L)) or (isinstance(value, (np.ndarray, Tensor)) and value.ndim):
        values = list(value) * (n_groups if len(value) == 1 else 1)
    else:
        values = [value] * n_groups
    if len(values) != n_groups:
        raise ValueError(f'{len(values)} values for {name!r}, but the optimizer has {n_groups} parameter '
                         f'group{"s" if n_groups > 1 else ""}: give one value, one for each group, or slice(lo, hi)')
    # numpy scalars come from schedules; torch's fused kernels take Python numbers only
    return [float(v) if isinstance(v, np.floating) else v for v in values]


class _BaseOptimizer:
    """The methods both kinds of optimizer share. They need `param_groups` (torch's, with real dicts) and `state`."""

    frozen_idx = 0
    _honours_do_wd = True
    param_groups: list[dict[str, Any]]
    state: Any

    def _torch_names(self) -> Mapping[str, str]:
        return {}

    @property
    def hypers(self) -> Sequence[Hypers]:
        """One dict of hyper-parameters for each parameter group; writing into them works."""
        return L([Hypers(group, self._torch_names()) for group in self.param_groups])

    @hypers.setter
    def hypers(self, values: Iterable[Mapping[str, Any]]) -> None:
        for hyper, new in zip(self.hypers, values, strict=True):
            hyper.update(new)

    def hypers_of(self, i: int) -> Hypers:
        """The hyper-parameters of group `i`, as in `hypers[i]`."""
        return Hypers(self.param_groups[i], self._torch_names())

    @property
    def param_lists(self) -> L:
        """The parameters of each group."""
        return L([L(group['params'], use_list=True) for group in self.param_groups])

    @param_lists.setter
    def param_lists(self, lists: Iterable[Iterable[Tensor]]) -> None:
        for group, ps in zip(self.param_groups, lists, strict=True):
            group['params'] = list(ps)

    def all_params(self, n: slice | int = slice(None), with_grad: bool = False) -> L:
        """`(parameter, its group's parameters, state, hypers)` for every parameter of the groups `n`.

        Args:
            n: which groups, a slice or an index.
            with_grad: only parameters that have a gradient now.
        """
        n = slice(n, n + 1 or None) if isinstance(n, int) else n
        found = L([(p, ps, self.state[p], h) for ps, h in zip(self.param_lists[n], self.hypers[n]) for p in ps])
        return found.filter(lambda o: o[0].grad is not None) if with_grad else found

    def set_hyper(self, k: str, v: Any) -> None:
        """Set the hyper-parameter `k` of all groups.

        Args:
            k: its name, such as `lr`, `mom`, `sqr_mom`, `eps`, `wd`.
            v: one value, a list with one value for each group, or a slice: `slice(lo, hi)` spreads geometrically from
                the first group to the last, `slice(hi)` gives `hi` to the last group and `hi/10` to the others.

        Raises:
            ValueError: a list has the wrong length.
        """
        name = self._torch_names().get(k, k)
        if type(v) is float and '__' not in name:  # what a schedule sets before every step
            for group in self.param_groups:
                group[name] = v
            return
        for group, value in zip(self.param_groups, _values_for_groups(k, v, len(self.param_groups))):
            set_item_pg(group, name, value)

    def set_hypers(self, **kwargs: Any) -> None:
        """`set_hyper` for each of `kwargs`: `opt.set_hypers(lr=1e-3, mom=0.9)`."""
        for k, v in kwargs.items():
            self.set_hyper(k, v)

    def freeze_to(self, n: int) -> None:
        """Train the groups from `n` on (negative: counted from the end) and freeze those before.

        Parameters with `state[p]['force_train']` (norm layers, by default) go on training.
        """
        n_groups = len(self.param_groups)
        self.frozen_idx = n if n >= 0 else n_groups + n
        if self.frozen_idx >= n_groups:
            warnings.warn(f'freezing {self.frozen_idx} groups of {n_groups}: the whole model is frozen', stacklevel=2)
        for i, group in enumerate(self.param_groups):
            for p in group['params']:
                p.requires_grad_(i >= self.frozen_idx or self.state[p].get('force_train', False))

    def freeze(self) -> None:
        """Freeze all groups but the last.

        Raises:
            ValueError: there is one group only, so everything would be frozen or nothing.
        """
        if len(self.param_groups) < 2:
            raise ValueError('freeze() needs two parameter groups or more and the optimizer has one: give the Learner '
                             'a splitter (such as default_split) that returns a list of lists of parameters')
        self.freeze_to(-1)

    def unfreeze(self) -> None:
        """Train all groups."""
        self.freeze_to(0)

    def _table_title(self) -> str:
        return type(self).__name__

    def __repr__(self) -> str:
        shown = [name for name, value in (self.hypers[0].items() if self.param_groups else ())
                 if isinstance(value, (int, float)) and not isinstance(value, bool)]
        rows = [['group', 'tensors', 'parameters', 'trained', 'no wd', *shown]]
        for i, (ps, hyper) in enumerate(zip(self.param_lists, self.hypers)):
            states = [self.state[p] for p in ps]
            rows.append([str(i), str(len(ps)), f'{sum(p.numel() for p in ps):,}', f'{sum(p.requires_grad for p in ps)}',
                         str(sum(s.get('do_wd') is False for s in states)) if self._honours_do_wd else '-',
                         *(f'{hyper[name]:.4g}' for name in shown)])
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines = ['  '.join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows]
        return '\n'.join([f'{self._table_title()}, frozen up to group {self.frozen_idx}', *lines])


def _as_groups(params: Any) -> list[dict[str, Any]]:
    """Torch parameter groups from a splitter's list of lists, from dicts, or from one flat list of parameters."""
    params = [params] if isinstance(params, Tensor) else list(params)
    if not params:
        raise ValueError('the optimizer was given no parameters: does the splitter return some, does the model train?')
    if isinstance(params[0], (list, tuple, L)):
        return [{'params': list(ps)} for ps in params]
    return [dict(g) for g in params] if isinstance(params[0], Mapping) else [{'params': params}]


pytorch_hp_map = {'momentum': 'mom', 'weight_decay': 'wd', 'alpha': 'sqr_mom', 'betas__0': 'mom', 'betas__1': 'sqr_mom'}
"""Torch's names of hyper-parameters -> the short names; `betas__0` is the first element of the tuple `betas`."""


class OptimWrapper(_BaseOptimizer):
    """Any torch optimizer under this face. It runs exactly as written: `do_wd` is not looked at.

    Args:
        params: parameters or lists of them, or torch's list of dicts, whose hyper-parameters may have short names;
            None if `opt` is built already.
        opt: a torch optimizer class, a partial of one, or a built optimizer.
        hp_map: torch's names -> short names (default `pytorch_hp_map`).
        convert_groups: turn a list of lists into torch's groups; False passes `params` on untouched.
        kwargs: for the constructor.

    Raises:
        ValueError: neither or both of parameters and a built optimizer are given.

    Example:
        >>> opt = OptimWrapper([torch.ones(2, requires_grad=True)], torch.optim.SGD, lr=0.1, momentum=0.9)
        >>> opt.hypers[0]['mom']
        0.9
    """

    _honours_do_wd = False

    def __init__(self, params: Any = None, opt: Any = None, hp_map: Mapping[str, str] | None = None,
                 convert_groups: bool = True, **kwargs: Any) -> None:
        built = not callable(opt)
        if opt is None or built == (params is not None):
            raise ValueError('OptimWrapper takes parameters and an optimizer class, as in OptimWrapper(params, '
                             'torch.optim.AdamW), or a built optimizer alone, as in OptimWrapper(opt=optimizer)')
        if not built and convert_groups:
            params = list(params)
            params = _as_groups(params) if params and isinstance(params[0], (list, tuple, L, Mapping)) else params
        lr = kwargs.pop('lr', None) if isinstance(kwargs.get('lr'), (slice, list, tuple)) else None
        self.opt = opt if built else opt(params, **kwargs)
        hp_map = pytorch_hp_map if hp_map is None else hp_map
        known = getattr(self.opt, 'defaults', self.opt.param_groups[0])
        names = {name: v for name, v in detuplify_pg(self.opt.param_groups[0]).items()
                 if name.partition('__')[0] in known or name not in hp_map.values()}
        self.fwd_map = {name: hp_map.get(name, name) for name in names}
        self.bwd_map = {short: name for name, short in self.fwd_map.items()}
        self.state: defaultdict[Tensor, dict] = defaultdict(dict)  # do_wd, force_train; torch's own is opt.state
        self.frozen_idx = 0
        for group in self.opt.param_groups:
            self._take_short_names(group)
        if lr is not None:  # torch's constructors take one rate for all groups
            self.set_hyper('lr', lr)

    def _take_short_names(self, group: dict[str, Any]) -> None:
        """What a parameter group brings under a short name (`wd`, `mom`) is torch's hyper-parameter of another name."""
        for short, name in self.bwd_map.items():
            if short in group and short != name:
                set_item_pg(group, name, group.pop(short))

    def _torch_names(self) -> Mapping[str, str]:
        return self.bwd_map

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Torch's own groups, under torch's names; writing works."""
        return self.opt.param_groups

    @param_groups.setter
    def param_groups(self, groups: Iterable[Mapping[str, Any]]) -> None:
        for group, hyper, new in zip(self.opt.param_groups, self.hypers, groups, strict=True):
            group['params'] = list(new.get('params', group['params']))
            hyper.update({k: v for k, v in new.items() if k != 'params'})

    def set_hyper(self, k: str, v: Any) -> None:
        """As `Optimizer.set_hyper(k, v)`. Where there is no momentum, a `mom` is kept without effect: schedules set it.

        Raises:
            ValueError: the torch optimizer has no such hyper-parameter, or a list has the wrong length.
        """
        if k not in self.bwd_map and k != 'mom' and k not in self.opt.param_groups[0]:
            raise ValueError(f'{type(self.opt).__name__} has no hyper-parameter {k!r}{near_match(k, self.bwd_map)}; '
                             f'it has {", ".join(self.bwd_map)}')
        super().set_hyper(k, v)

    def step(self, closure: Callable[..., Any] | None = None) -> Any:
        """The torch optimizer's step; `closure` re-evaluates the model first."""
        return self.opt.step() if closure is None else self.opt.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """The torch optimizer's `zero_grad`; `set_to_none` False makes gradients zeros instead of None."""
        self.opt.zero_grad(set_to_none=set_to_none)

    def clear_state(self) -> None:
        """Forget the torch optimizer's averages and counts."""
        self.opt.state = defaultdict(dict)

    def state_dict(self) -> dict[str, Any]:
        """The torch optimizer's state."""
        return self.opt.state_dict()

    def load_state_dict(self, sd: dict[str, Any]) -> None:
        """Load `sd`, a state of the torch optimizer."""
        self.opt.load_state_dict(sd)

    def _table_title(self) -> str:
        return f'OptimWrapper of torch.optim.{type(self.opt).__name__}'


def _is_torch_class(opt_func: Any) -> bool:
    """Whether `opt_func` is a torch optimizer class that has not our face, or a (nested) partial of one."""
    while isinstance(opt_func, partial):
        opt_func = opt_func.func
    is_class = isinstance(opt_func, type) and issubclass(opt_func, torch.optim.Optimizer)
    return is_class and not issubclass(opt_func, _BaseOptimizer)


def as_optimizer(opt_func: Any, params: Any, **hypers: Any) -> _BaseOptimizer:
    """An optimizer with this face from whatever a Learner may be given as `opt_func`.

    Args:
        opt_func: one of our optimizers, a function that returns an optimizer, a torch optimizer class or a partial of
            one (run exactly as written), or an optimizer that is built already (its state is cleared).
        params: what the splitter returns: parameters, or a list of lists of them.
        hypers: for the constructor, `lr` at least.

    Raises:
        TypeError: `opt_func` is, or returns, something else.
    """
    if isinstance(opt_func, (_BaseOptimizer, torch.optim.Optimizer)):
        opt = opt_func if isinstance(opt_func, _BaseOptimizer) else OptimWrapper(opt=opt_func)
        opt.clear_state()
        return opt
    if not callable(opt_func):
        raise TypeError(f'opt_func is {opt_func!r}: give an optimizer such as Adam or SGD, a torch.optim class, or a '
                        'function opt_func(params, lr=...) that returns one')
    opt = OptimWrapper(params, opt_func, **hypers) if _is_torch_class(opt_func) else opt_func(params, **hypers)
    if isinstance(opt, torch.optim.Optimizer) and not isinstance(opt, _BaseOptimizer):
        opt = OptimWrapper(opt=opt)
    if not all(hasattr(opt, name) for name in ('step', 'zero_grad', 'set_hyper', 'freeze_to', 'hypers', 'state')):
        raise TypeError(f'opt_func {opt_func!r} returned {type(opt).__name__}, which is no optimizer')
    return opt


def each_once(params: Any, model: nn.Module) -> Any:
    """What a splitter returned, without repeated parameters: each would be stepped once for each of its places.

    Args:
        params: parameters or a list of lists of them; anything else comes back as it is.
        model: knows their names, for the warning.
    """
    if not isinstance(params, (list, tuple, L)) or not len(params) or isinstance(params[0], dict):
        return params
    nested = isinstance(params[0], (list, tuple, L))
    names = {id(p): name for name, p in model.named_parameters()}
    place: dict[int, int] = {}
    kept, told = [], []
    for i, group in enumerate(params if nested else [params]):
        kept.append([])
        for p in group:
            if id(p) in place:
                told.append(f'{names.get(id(p), "one that is not of the model")} (groups {place[id(p)]} and {i})')
            else:
                place[id(p)] = i
                kept[-1].append(p)
    if not told:
        return params
    warnings.warn(f'the splitter returns parameters more than once: {listed(told, 6)}. Each is trained once, in the '
                  'first of its groups', stacklevel=4)
    return kept if nested else kept[0]


class Coverage:
    """Whether an optimizer holds the parameters of a model and its loss that ask for a gradient.

    Args:
        opt: the optimizer, just made; None: none was made here.
        model: what it was made for.
    """

    def __init__(self, opt: Any = None, model: nn.Module | None = None) -> None:
        self.opt, self._told = opt, []
        self._never_of_model = _held_by(opt) - {id(p) for p in model.parameters()} if opt is not None else set()

    def check(self, opt: Any, model: nn.Module, loss_func: Any) -> None:
        """Tell of parameters that would stay as they are, once for the same ones; frozen ones are meant to.

        Args:
            opt: the optimizer that will train.
            model: what it should hold all parameters of.
            loss_func: may have parameters too.

        Raises:
            ValueError: the optimizer trains parameters that the model has no more, in place of those it has.
        """
        held, named = _held_by(opt), dict(model.named_parameters())
        missing = [name for name, p in named.items() if p.requires_grad and id(p) not in held]
        if missing and opt is self.opt and held - {id(p) for p in named.values()} - self._never_of_model:
            raise ValueError('the model has other parameters than when its optimizer was made: '
                             f'{listed(missing, 6)} would not be trained. Call learn.create_opt() behind a change of '
                             'the model, or give reset_opt=True to fit')
        func = getattr(loss_func, 'func', loss_func)
        if isinstance(func, nn.Module):
            missing += [f'{name} of the loss function' for name, p in func.named_parameters()
                        if p.requires_grad and id(p) not in held]
        if missing and missing != self._told:
            self._told = missing
            warnings.warn(f'no optimizer holds the parameters {listed(missing, 6)}, so they are not trained. Let the '
                          'splitter return all that are to be trained (splitter=lambda m: [params(m.body), '
                          'params(m.head)]), call learn.create_opt() behind a change of the model, or say that it is '
                          'meant: p.requires_grad_(False)', stacklevel=4)


def _held_by(opt: Any) -> set[int]:
    return {id(p) for group in opt.param_groups for p in group['params']}
