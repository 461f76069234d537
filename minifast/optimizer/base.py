"""fastai's face on optimizers: hypers and freezing by parameter group, whichever optimizer does the arithmetic."""
from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np
import torch
from fastcore.basics import even_mults
from fastcore.foundation import L
from torch import Tensor

__all__ = ['Hypers', 'Optimizer', 'detuplify_pg', 'set_item_pg']

def detuplify_pg(d: Mapping[str, Any]) -> dict[str, Any]:
    """A torch parameter group without its params, each tuple spread over `name__0`, `name__1`, ..."""
    spread: dict[str, Any] = {}
    for name, value in d.items():
        if name != 'params' and isinstance(value, (list, tuple)):
            spread.update({f'{name}__{i}': v for i, v in enumerate(value)})
        elif name != 'params':
            spread[name] = value
    return spread


def set_item_pg(pg: dict, k: str, v: Any) -> dict:
    """Set `pg[k]`, where `name__1` means the second element of the tuple `name`."""
    name, _, i = k.partition('__')
    pg[name] = tuple(v if j == int(i) else old for j, old in enumerate(pg[name])) if i else v
    return pg


class Hypers(MutableMapping):
    """The hyper-parameters of one parameter group as a dict. It is a view: writing changes the next step."""

    __slots__ = ('_group', '_torch_names')

    def __init__(self, group: dict[str, Any], torch_names: Mapping[str, str] | None = None) -> None:
        """
        Args:
            group: the torch parameter group that holds the values.
            torch_names: short name -> name in the group, for those that differ.
        """
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
    def hypers(self) -> L:
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
        """`set_hyper` for every keyword."""
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


def _update(state: dict, new: Any = None) -> dict:
    """Merge what a step function returned into the parameter's state; anything but a dict is ignored."""
    if isinstance(new, dict):
        state.update(new)
    return state


class Optimizer(_BaseOptimizer, torch.optim.Optimizer):
    """An optimizer composed of step functions, and the base of the named ones; it is a `torch.optim.Optimizer`.

    `state[p]` holds what the steps keep (`grad_avg`, `sqr_avg`, `step`) and two settings: `do_wd` False means no weight
    decay for `p`, `force_train` True means `p` trains while its group is frozen.

    Example:
        >>> w = torch.ones(2, requires_grad=True); w.grad = torch.ones(2)
        >>> def sign_step(p, lr, **kwargs): p.data.sub_(p.grad.sign() * lr)
        >>> Optimizer([w], cbs=[sign_step], lr=0.5).step(); w.tolist()
        [0.5, 0.5]
    """

    _keep_on_clear = ('force_train', 'do_wd')

    def __init__(self, params: Any, cbs: Callable | Iterable[Callable], train_bn: bool | None = None,
                 **defaults: Any) -> None:
        """
        Args:
            params: parameters, a list of lists of them (one for each group), or torch's list of dicts.
            cbs: step functions, called in turn for each parameter with a gradient.
            train_bn: has no effect here; it belongs to the Learner.
            defaults: hyper-parameters, each a number, a list or a slice as in `set_hyper`.
        """
        if train_bn is not None:
            warnings.warn('train_bn has no effect on an optimizer: give it to the Learner', stacklevel=2)
        self.cbs = L(cbs)
        for cb in self.cbs:
            defaults = {**getattr(getattr(cb, 'func', cb), 'defaults', {}), **defaults}
        super().__init__(_as_groups(params), {})
        own = [dict(group) for group in self.param_groups]
        self.set_hypers(**defaults)
        for group, given in zip(self.param_groups, own):  # what the caller wrote into a group wins over the defaults
            group.update(given)

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> Any:
        """One step; `closure` re-evaluates the model first, as in torch."""
        loss = _evaluate(closure)
        for group in self.param_groups:
            hypers = dict(Hypers(group))
            for p in group['params']:
                if p.grad is None:
                    continue
                state = self.state[p]
                for cb in self.cbs:
                    state = _update(state, cb(p, **{**state, **hypers}))
        return loss

    def clear_state(self) -> None:
        """Forget averages and counts; `do_wd` and `force_train` stay."""
        for p, _, state, _ in self.all_params():
            self.state[p] = {k: state[k] for k in self._keep_on_clear if k in state}

    def state_dict(self) -> dict[str, Any]:
        """Torch's format. What is kept for parameters that no group holds, such as frozen norm layers, is no part of
        it."""
        everything, held = self.state, {p for group in self.param_groups for p in group['params']}
        try:
            self.state = {p: values for p, values in everything.items() if p in held or not isinstance(p, Tensor)}
            return super().state_dict()
        finally:
            self.state = everything

    def load_state_dict(self, sd: dict[str, Any]) -> None:
        """Load a state made by `state_dict()` (torch's format), or one saved by fastai (`hypers` and a list `state`).

        Raises:
            ValueError: the groups or their sizes differ.
        """
        if 'hypers' in sd:
            sd = self._from_fastai(sd)
        super().load_state_dict(sd)
        self._after_load()

    def _after_load(self) -> None:
        """For subclasses whose state has to live in a certain form."""

    def _from_fastai(self, sd: dict[str, Any]) -> dict[str, Any]:
        packed = super().state_dict()['param_groups']
        n_params = sum(len(group['params']) for group in packed)
        if len(sd['hypers']) != len(packed) or len(sd['state']) != n_params:
            raise ValueError(f'the saved optimizer has {len(sd["hypers"])} groups and {len(sd["state"])} parameters, '
                             f'this one {len(packed)} and {n_params}')
        groups = [{**group, **hyper} for group, hyper in zip(packed, sd['hypers'])]
        return {'state': dict(enumerate(sd['state'])), 'param_groups': groups}

    def __getstate__(self) -> dict[str, Any]:
        # torch keeps three attributes only; a copy of ours also needs its step functions and settings
        own = {k: v for k, v in self.__dict__.items() if not k.startswith('_optimizer_')}
        return {**own, **super().__getstate__()}

    def __repr__(self) -> str:
        return _BaseOptimizer.__repr__(self)


def _evaluate(closure: Callable | None) -> Any:
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()
