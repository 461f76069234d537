"""Which parameters an optimizer holds: each once, and all that ask for a gradient, or else somebody is told."""
from __future__ import annotations

import warnings
from typing import Any

from fastcore.foundation import L
from torch import nn

from minifast.terminal import listed

__all__ = ['Coverage', 'each_once']


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
