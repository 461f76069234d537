"""Optimizers whose step works on whole lists of parameters: few kernels a step, fastai's numbers."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.sgd import sgd as torch_sgd

from minifast.arguments import tells_near_match
from minifast.optimizer.base import Optimizer, _evaluate
from minifast.optimizer.steps import (average_grad, average_sqr_grad, debias, l2_reg, lamb_step,
                                      larc_layer_lr, larc_step, momentum_step, qhadam_step, radam_step, rectification,
                                      rms_prop_step, sgd_step, step_stat, weight_decay)

__all__ = ['Lamb', 'Larc', 'QHAdam', 'RAdam', 'RMSProp', 'SGD']

# Devices whose fused Adam and SGD kernels torch has had for long; elsewhere torch chooses.
_FUSED_DEVICES = ('cpu', 'cuda')


def _fused(params: list[Tensor]) -> bool:
    return params[0].device.type in _FUSED_DEVICES and all(p.is_floating_point() for p in params)


# A list that fits into a core's cache: on the CPU several passes over it then cost one pass over memory.
_CPU_PART_NUMEL = 2**16


def _parts(params: list[Tensor]) -> Iterator[slice]:
    """Slices of a list of parameters to step at once: all of it on an accelerator, cache-sized ones on the CPU."""
    start, numel = 0, 0
    for i, p in enumerate(params):
        if numel and p.device.type == 'cpu' and numel + p.numel() > _CPU_PART_NUMEL:
            yield slice(start, i)
            start, numel = i, 0
        numel += p.numel()
    yield slice(start, None)


class _ListOptimizer(Optimizer):
    """An optimizer whose step works on lists of parameters. Its `cbs` say the same for one parameter at a time."""

    _zeros: tuple[str, ...] = ()  # state tensors shaped like the parameter that start at zero
    _counts = False  # keep `step`, the number of steps a parameter has taken
    _one_pass = False  # the step without weight decay reads its lists once, so parts that fit the cache gain nothing

    def __init__(self, params: Any, cbs: list[Callable], decouple_wd: bool, **defaults: Any) -> None:
        self.decouple_wd = decouple_wd
        super().__init__(params, [weight_decay if decouple_wd else l2_reg, *cbs], **defaults)

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> Any:
        """One step; `closure` re-evaluates the model first, as in torch."""
        loss = _evaluate(closure)
        for group in self.param_groups:
            for do_wd, count, params, states in self._alike(group):
                grads = [p.grad for p in params]
                if do_wd and group['wd'] != 0:
                    if self.decouple_wd:
                        torch._foreach_mul_(params, 1 - group['lr'] * group['wd'])
                    else:  # in place, so that a callback after the step sees the same gradients as in fastai
                        torch._foreach_add_(grads, params, alpha=group['wd'])
                self._list_step(group, params, grads, count, *([s[name] for s in states] for name in self._zeros))
        return loss

    def _alike(self, group: dict[str, Any]) -> Iterator[tuple[bool, int, list[Tensor], list[dict]]]:
        """The parameters with a gradient in lists that share weight decay and step count; mostly two lists."""
        lists: dict[tuple[bool, int], tuple[list, list]] = {}
        for p in group['params']:
            if p.grad is None:
                continue
            state = self.state[p]
            for name in self._zeros:
                if name not in state:
                    state[name] = torch.zeros_like(p, memory_format=torch.preserve_format)
            if self._counts:
                state['step'] = state.get('step', 0) + 1
            count = state['step'] if self._counts else 0
            params, states = lists.setdefault((state.get('do_wd', True), count), ([], []))
            params.append(p)
            states.append(state)
        for (do_wd, count), (params, states) in lists.items():
            whole = self._one_pass and not (do_wd and group['wd'])
            for part in [slice(None)] if whole else _parts(params):
                yield do_wd, count, params[part], states[part]

    def _list_step(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor], step: int,
                   *averages: list[Tensor]) -> None:
        raise NotImplementedError(f'{type(self).__name__} has to define _list_step')


def _average(averages: list[Tensor], grads: list[Tensor], mom: float, dampening: bool) -> None:
    torch._foreach_mul_(averages, mom)
    torch._foreach_add_(averages, grads, alpha=1 - mom if dampening else 1.)


def _average_squares(averages: list[Tensor], grads: list[Tensor], sqr_mom: float) -> None:
    torch._foreach_mul_(averages, sqr_mom)
    torch._foreach_addcmul_(averages, grads, grads, value=1 - sqr_mom)


def _root(sqr_avgs: list[Tensor], bias: float, eps: float) -> list[Tensor]:
    """`sqrt(sqr_avg / bias) + eps`: the denominator of the Adam family."""
    denoms = torch._foreach_sqrt(sqr_avgs)  # one new list: on the CPU fresh memory costs more than arithmetic
    if bias != 1:
        torch._foreach_div_(denoms, math.sqrt(bias))
    torch._foreach_add_(denoms, eps)
    return denoms


class SGD(_ListOptimizer):
    """Stochastic gradient descent, with momentum if `mom` is nonzero when it is made."""

    _one_pass = True

    @tells_near_match
    def __init__(self, params: Any, lr: float | slice, mom: float = 0., wd: float = 0.,
                 decouple_wd: bool = True) -> None:
        """
        Args:
            params: parameters, or a list of lists of them.
            lr: learning rate.
            mom: momentum; with 0 no averages are kept and a later schedule of `mom` has no effect.
            wd: weight decay.
            decouple_wd: decay the weights directly; False adds `wd*p` to the gradient.
        """
        self._zeros = ('grad_avg',) if mom != 0 else ()
        steps = [average_grad, momentum_step] if mom != 0 else [sgd_step]
        super().__init__(params, steps, decouple_wd, lr=lr, mom=mom, wd=wd)

    def _list_step(self, group, params, grads, step, grad_avgs=None):
        mom = group['mom'] if grad_avgs else 0.
        torch_sgd(params, grads, grad_avgs or [None] * len(params), fused=_fused(params), weight_decay=0., momentum=mom,
                  lr=group['lr'], dampening=0., nesterov=False, maximize=False)
        if grad_avgs and mom == 0:  # torch leaves the buffers alone then; the average of that step is its gradient
            torch._foreach_copy_(grad_avgs, grads)


class RMSProp(_ListOptimizer):
    """RMSProp, with momentum on the gradient if `mom` is nonzero when it is made."""

    @tells_near_match
    def __init__(self, params: Any, lr: float | slice, mom: float = 0., sqr_mom: float = 0.99, eps: float = 1e-8,
                 wd: float = 0., decouple_wd: bool = True) -> None:
        """
        Args:
            params: parameters, or a list of lists of them.
            lr: learning rate.
            mom: momentum of the gradient's average; with 0 none is kept.
            sqr_mom: momentum of the squared gradient's average.
            eps: added to the denominator.
            wd: weight decay.
            decouple_wd: decay the weights directly; False adds `wd*p` to the gradient.
        """
        self._zeros = ('sqr_avg', 'grad_avg') if mom != 0 else ('sqr_avg',)
        steps = [*([average_grad] if mom != 0 else []), average_sqr_grad, rms_prop_step]
        super().__init__(params, steps, decouple_wd, lr=lr, mom=mom, sqr_mom=sqr_mom, eps=eps, wd=wd)

    def _list_step(self, group, params, grads, step, sqr_avgs, grad_avgs=None):
        _average_squares(sqr_avgs, grads, group['sqr_mom'])
        if grad_avgs:
            _average(grad_avgs, grads, group['mom'], dampening=False)
        torch._foreach_addcdiv_(params, grad_avgs or grads, _root(sqr_avgs, 1., group['eps']), value=-group['lr'])


class RAdam(_ListOptimizer):
    """Rectified Adam, or SAdam with a nonzero `beta`.

    Source: Liu et al., https://arxiv.org/abs/1908.03265
    """

    _zeros, _counts = ('grad_avg', 'sqr_avg'), True

    @tells_near_match
    def __init__(self, params: Any, lr: float | slice, mom: float = 0.9, sqr_mom: float = 0.99, eps: float = 1e-5,
                 wd: float = 0., beta: float = 0., decouple_wd: bool = True) -> None:
        """
        Args:
            params: parameters, or a list of lists of them.
            lr: learning rate.
            mom: momentum of the gradient's average.
            sqr_mom: momentum of the squared gradient's average.
            eps: added to the denominator.
            wd: weight decay.
            beta: sharpness of the softplus on the denominator, 0 for none.
            decouple_wd: decay the weights directly; False adds `wd*p` to the gradient.
        """
        steps = [partial(average_grad, dampening=True), average_sqr_grad, step_stat, radam_step]
        super().__init__(params, steps, decouple_wd, lr=lr, mom=mom, sqr_mom=sqr_mom, eps=eps, wd=wd, beta=beta)

    def _list_step(self, group, params, grads, step, grad_avgs, sqr_avgs):
        mom, sqr_mom = group['mom'], group['sqr_mom']
        _average(grad_avgs, grads, mom, dampening=True)
        _average_squares(sqr_avgs, grads, sqr_mom)
        debias1, rectified = debias(mom, 1 - mom, step), rectification(sqr_mom, step)
        if rectified is None:
            torch._foreach_add_(params, grad_avgs, alpha=-group['lr'] / debias1)
            return
        denoms = _root(sqr_avgs, debias(sqr_mom, 1 - sqr_mom, step), group['eps'])
        if group['beta']:
            denoms = [F.softplus(denom, group['beta']) for denom in denoms]
        torch._foreach_addcdiv_(params, grad_avgs, denoms, value=-group['lr'] * rectified / debias1)


class QHAdam(_ListOptimizer):
    """Quasi-hyperbolic Adam: steps along mixtures of the gradient and its averages.

    Source: Ma and Yarats, https://arxiv.org/abs/1810.06801
    """

    _zeros, _counts = ('grad_avg', 'sqr_avg'), True

    @tells_near_match
    def __init__(self, params: Any, lr: float | slice, mom: float = 0.999, sqr_mom: float = 0.999, nu_1: float = 0.7,
                 nu_2: float = 1.0, eps: float = 1e-8, wd: float = 0., decouple_wd: bool = True) -> None:
        """
        Args:
            params: parameters, or a list of lists of them.
            lr: learning rate.
            mom: momentum of the gradient's average.
            sqr_mom: momentum of the squared gradient's average.
            nu_1: the average's share in the gradient.
            nu_2: the average's share in the squared gradient.
            eps: added to the denominator.
            wd: weight decay.
            decouple_wd: decay the weights directly; False adds `wd*p` to the gradient.
        """
        steps = [partial(average_grad, dampening=True), average_sqr_grad, step_stat, qhadam_step]
        super().__init__(params, steps, decouple_wd, lr=lr, mom=mom, sqr_mom=sqr_mom, nu_1=nu_1, nu_2=nu_2,
                         eps=eps, wd=wd)

    def _list_step(self, group, params, grads, step, grad_avgs, sqr_avgs):
        mom, sqr_mom, nu_1, nu_2 = (group[name] for name in ('mom', 'sqr_mom', 'nu_1', 'nu_2'))
        _average(grad_avgs, grads, mom, dampening=True)
        _average_squares(sqr_avgs, grads, sqr_mom)
        means = torch._foreach_mul(grads, 1 - nu_1)
        torch._foreach_add_(means, grad_avgs, alpha=nu_1 / debias(mom, 1 - mom, step))
        squares = torch._foreach_mul(sqr_avgs, nu_2 / debias(sqr_mom, 1 - sqr_mom, step))
        torch._foreach_addcmul_(squares, grads, grads, value=1 - nu_2)
        torch._foreach_addcdiv_(params, means, _root(squares, 1., group['eps']), value=-group['lr'])


class Larc(_ListOptimizer):
    """Layer-wise learning rates: LARC, or LARS with `clip=False`.

    Source: You et al., https://arxiv.org/abs/1708.03888
    """

    @tells_near_match
    def __init__(self, params: Any, lr: float | slice, mom: float = 0.9, clip: bool = True, trust_coeff: float = 0.02,
                 eps: float = 1e-8, wd: float = 0., decouple_wd: bool = True) -> None:
        """
        Args:
            params: parameters, or a list of lists of them.
            lr: learning rate.
            mom: momentum; with 0 no averages are kept.
            clip: let no tensor's learning rate exceed `lr`.
            trust_coeff: how far a tensor may move relative to its norm.
            eps: added to the denominator.
            wd: weight decay.
            decouple_wd: decay the weights directly; False adds `wd*p` to the gradient.
        """
        self.clip, self._zeros = clip, ('grad_avg',) if mom != 0 else ()
        steps = [*([average_grad] if mom != 0 else []), partial(larc_layer_lr, clip=clip), larc_step]
        super().__init__(params, steps, decouple_wd, lr=lr, mom=mom, trust_coeff=trust_coeff, eps=eps, wd=wd)

    def _list_step(self, group, params, grads, step, grad_avgs=None):
        if grad_avgs:
            _average(grad_avgs, grads, group['mom'], dampening=False)
        p_norms, g_norms = torch.stack(torch._foreach_norm(params)), torch.stack(torch._foreach_norm(grads))
        local_lrs = group['lr'] * group['trust_coeff'] * p_norms / (g_norms + p_norms * group['wd'] + group['eps'])
        local_lrs = local_lrs.clamp(max=group['lr']) if self.clip else local_lrs
        torch._foreach_addcmul_(params, grad_avgs or grads, list(local_lrs.unbind()), value=-1)


class Lamb(_ListOptimizer):
    """Adam's step scaled, tensor by tensor, to the size of the weights.

    Source: You et al., https://arxiv.org/abs/1904.00962
    """

    _zeros, _counts = ('grad_avg', 'sqr_avg'), True

    @tells_near_match
    def __init__(self, params: Any, lr: float | slice, mom: float = 0.9, sqr_mom: float = 0.99, eps: float = 1e-5,
                 wd: float = 0., decouple_wd: bool = True) -> None:
        """
        Args:
            params: parameters, or a list of lists of them.
            lr: learning rate.
            mom: momentum of the gradient's average.
            sqr_mom: momentum of the squared gradient's average.
            eps: added to the denominator.
            wd: weight decay.
            decouple_wd: decay the weights directly; False adds `wd*p` to the gradient.
        """
        steps = [partial(average_grad, dampening=True), average_sqr_grad, step_stat, lamb_step]
        super().__init__(params, steps, decouple_wd, lr=lr, mom=mom, sqr_mom=sqr_mom, eps=eps, wd=wd)

    def _list_step(self, group, params, grads, step, grad_avgs, sqr_avgs):
        mom, sqr_mom = group['mom'], group['sqr_mom']
        _average(grad_avgs, grads, mom, dampening=True)
        _average_squares(sqr_avgs, grads, sqr_mom)
        updates = torch._foreach_div(grad_avgs, debias(mom, 1 - mom, step))
        torch._foreach_div_(updates, _root(sqr_avgs, debias(sqr_mom, 1 - sqr_mom, step), group['eps']))
        # sizes are roots of means over equally many elements, so their ratio is the ratio of the norms
        p_norms, update_norms = torch.stack(torch._foreach_norm(params)), torch.stack(torch._foreach_norm(updates))
        usable = (p_norms != 0) & (update_norms != 0)
        trust = torch.where(usable, (p_norms / update_norms).clamp(max=10), torch.ones_like(p_norms))
        torch._foreach_addcmul_(params, updates, list((trust * group['lr']).unbind()), value=-1)
