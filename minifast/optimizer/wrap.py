"""Torch's own optimizers under fastai's face, run exactly as their user wrote them."""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from fastcore.foundation import L
from torch import Tensor

from minifast.arguments import near_match
from minifast.optimizer.base import _as_groups, _BaseOptimizer, detuplify_pg, set_item_pg

__all__ = ['OptimWrapper', 'as_optimizer', 'pytorch_hp_map']

pytorch_hp_map = {'momentum': 'mom', 'weight_decay': 'wd', 'alpha': 'sqr_mom', 'betas__0': 'mom', 'betas__1': 'sqr_mom'}
"""Torch's names of hyper-parameters -> the short names; `betas__0` is the first element of the tuple `betas`."""


class OptimWrapper(_BaseOptimizer):
    """Any torch optimizer under this face. It runs exactly as written: `do_wd` is not looked at.

    Example:
        >>> opt = OptimWrapper([torch.ones(2, requires_grad=True)], torch.optim.SGD, lr=0.1, momentum=0.9)
        >>> opt.hypers[0]['mom']
        0.9
    """

    _honours_do_wd = False

    def __init__(self, params: Any = None, opt: Any = None, hp_map: Mapping[str, str] | None = None,
                 convert_groups: bool = True, **kwargs: Any) -> None:
        """
        Args:
            params: parameters or lists of them, or torch's list of dicts, whose hyper-parameters may have short names;
                None if `opt` is built already.
            opt: a torch optimizer class, a partial of one, or a built optimizer.
            hp_map: torch's names -> short names (default `pytorch_hp_map`).
            convert_groups: turn a list of lists into torch's groups; False passes `params` on untouched.
            kwargs: for the constructor.

        Raises:
            ValueError: neither or both of parameters and a built optimizer are given.
        """
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
        """As `Optimizer.set_hyper`. Where there is no momentum, a `mom` is kept without effect: schedules set it.

        Raises:
            ValueError: the torch optimizer has no such hyper-parameter, or a list has the wrong length.
        """
        if k not in self.bwd_map and k != 'mom' and k not in self.opt.param_groups[0]:
            raise ValueError(f'{type(self.opt).__name__} has no hyper-parameter {k!r}{near_match(k, self.bwd_map)}; '
                             f'it has {", ".join(self.bwd_map)}')
        super().set_hyper(k, v)

    def step(self, closure: Callable | None = None) -> Any:
        """The torch optimizer's step."""
        return self.opt.step() if closure is None else self.opt.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """The torch optimizer's zero_grad."""
        self.opt.zero_grad(set_to_none=set_to_none)

    def clear_state(self) -> None:
        """Forget the torch optimizer's averages and counts."""
        self.opt.state = defaultdict(dict)

    def state_dict(self) -> dict[str, Any]:
        """The torch optimizer's state."""
        return self.opt.state_dict()

    def load_state_dict(self, sd: dict[str, Any]) -> None:
        """Load the torch optimizer's state."""
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
