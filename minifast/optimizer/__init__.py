"""Optimizers under fastai's names, defaults and numbers, on torch's fused and multi-tensor kernels.

An optimizer is composed of step functions. One is called as `f(p, **state, **hypers)`, once a step for every parameter
that has a gradient; it changes `p` or its gradient in place, or returns a dict, which becomes part of the parameter's
state. A `defaults` attribute on it gives the hypers it needs a value. The functions of this room do the same for lists
of parameters at once (`f.on_lists`), and an optimizer that is composed of such functions alone runs those.
"""
from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial, wraps
from typing import Any

import torch
import torch.nn.functional as F
from fastcore.foundation import L
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim.adam import adam as torch_adam
from torch.optim.sgd import sgd as torch_sgd

from minifast.arguments import tells_near_match
from minifast.optimizer.groups import (Hypers, OptimWrapper, _as_groups, _BaseOptimizer, as_optimizer, detuplify_pg,
                                       pytorch_hp_map, set_item_pg)
from minifast.sharding import own_part, share_like

__all__ = ['Adam', 'Hypers', 'Lamb', 'Larc', 'Lookahead', 'OptimWrapper', 'Optimizer', 'QHAdam', 'RAdam', 'RMSProp',
           'SGD', '_update', 'adam_step', 'as_optimizer', 'average_grad', 'average_sqr_grad', 'debias', 'detuplify_pg',
           'l2_reg', 'lamb_step', 'larc_layer_lr', 'larc_step', 'momentum_step', 'pytorch_hp_map', 'qhadam_step',
           'radam_step', 'ranger', 'rms_prop_step', 'set_item_pg', 'sgd_step', 'step_stat', 'weight_decay']

# ---------------------------------------------------------------- optimizers composed of step functions


def _update(state: dict, new: Any = None) -> dict:
    """Merge `new`, what a step function returned, into a parameter's `state`; anything but a dict is ignored."""
    if isinstance(new, dict):
        state.update(new)
    return state


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


class Optimizer(_BaseOptimizer, torch.optim.Optimizer):
    """An optimizer composed of step functions, and the base of the named ones; it is a `torch.optim.Optimizer`.

    `state[p]` holds what the steps keep (`grad_avg`, `sqr_avg`, `step`) and two settings: `do_wd` False means no weight
    decay for `p`, `force_train` True means `p` trains while its group is frozen.

    Args:
        params: parameters, a list of lists of them (one for each group), or torch's list of dicts.
        cbs: step functions, called in turn for each parameter with a gradient.
        train_bn: has no effect here; it belongs to the Learner.
        defaults: hyper-parameters, each a number, a list or a slice as in `set_hyper`.

    Example:
        >>> w = torch.ones(2, requires_grad=True); w.grad = torch.ones(2)
        >>> def sign_step(p, lr, **kwargs): p.data.sub_(p.grad.sign() * lr)
        >>> Optimizer([w], cbs=[sign_step], lr=0.5).step(); w.tolist()
        [0.5, 0.5]
    """

    _keep_on_clear = ('force_train', 'do_wd')
    _one_pass = False  # the step without weight decay reads its lists once, so parts that fit the cache gain nothing

    def __init__(self, params: Any, cbs: Callable[..., Any] | Iterable[Callable[..., Any]],
                 train_bn: bool | None = None, **defaults: Any) -> None:
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
    def step(self, closure: Callable[..., Any] | None = None) -> Any:
        """One step; `closure` re-evaluates the model first, as in torch."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step_group(group)
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        functions = [getattr(cb, 'func', cb) for cb in self.cbs]
        if not all([hasattr(function, 'on_lists') for function in functions]):
            self._step_one_by_one(group)
            return
        hypers = {name: value for name, value in group.items() if name != 'params'}
        averages = [name for function in functions for name in function.averages]
        for (do_wd, step), (params, states) in self._alike(group, averages).items():
            at_once = self._one_pass and not (do_wd and group['wd'])
            for part in [slice(None)] if at_once else _parts(params):
                own = states[part]
                values = {'do_wd': do_wd, 'step': step, **hypers}
                for name in averages:
                    values[name] = [state[name] for state in own]
                self._step_lists(params[part], [p.grad for p in params[part]], values)
                if values['step'] != step:
                    for state in own:
                        state['step'] = values['step']

    def _step_one_by_one(self, group: dict[str, Any]) -> None:
        hypers = dict(Hypers(group))
        for p in group['params']:
            if p.grad is not None:
                state = self.state[p]
                for cb in self.cbs:
                    state = _update(state, cb(p, **{**state, **hypers}))

    def _alike(self, group: dict[str, Any], averages: list[str]) -> dict[tuple[bool, int], tuple[list, list]]:
        """(weight decay?, steps taken) -> the parameters with a gradient and their states; mostly two lists."""
        lists: dict[tuple[bool, int], tuple[list[Tensor], list[dict]]] = {}
        for p in group['params']:
            if p.grad is not None:
                state = self.state[p]
                for name in averages:
                    if name not in state:
                        state[name] = torch.zeros_like(p, memory_format=torch.preserve_format)
                params, states = lists.setdefault((state.get('do_wd', True), state.get('step', 0)), ([], []))
                params.append(p)
                states.append(state)
        return lists

    def _step_lists(self, params: list[Tensor], grads: list[Tensor], values: dict[str, Any]) -> None:
        """Run the step functions on a list of parameters; `values` are their hypers, numbers and lists of averages."""
        for cb in self.cbs:
            on_lists, given = getattr(cb, 'func', cb).on_lists, getattr(cb, 'keywords', None)
            values.update(on_lists(params, grads, **({**given, **values} if given else values)) or {})

    def clear_state(self) -> None:
        """Forget averages and counts; `do_wd` and `force_train` stay."""
        for p, _, state, _ in self.all_params():
            self.state[p] = {k: state[k] for k in self._keep_on_clear if k in state}

    def state_dict(self) -> dict[str, Any]:
        """Torch's format, without what is kept for parameters that no group holds, such as frozen norm layers."""
        everything, held = self.state, {p for group in self.param_groups for p in group['params']}
        try:
            self.state = {p: values for p, values in everything.items() if p in held or not isinstance(p, Tensor)}
            return super().state_dict()
        finally:
            self.state = everything

    def load_state_dict(self, sd: dict[str, Any]) -> None:
        """Load `sd`, made by `state_dict()` (torch's format) or saved by fastai (`hypers` and a list `state`).

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


# ---------------------------------------------------------------- step functions


def _one_of(value: Any) -> Any:
    return value[0] if isinstance(value, list) else value


def _steps_lists(*averages: str, **defaults: float) -> Callable:
    """Make a step function of a function that steps lists: `f(p, **state, **hypers)` steps lists of one.

    The function itself, as `f.on_lists(params, grads, **state, **hypers)`, gets the tensors of the state as lists.

    Args:
        averages: tensors of the state that it updates, which start at zero.
        defaults: hypers for an optimizer that is given none.
    """
    def decorate(on_lists: Callable) -> Callable:
        @wraps(on_lists)
        def step(p: Tensor, *args: Any, **values: Any) -> dict | None:
            grads = [p.grad if p.grad is None else p.grad.data]
            args = [[arg] if isinstance(arg, Tensor) else arg for arg in args]
            values = {name: [value] if isinstance(value, Tensor) else value for name, value in values.items()}
            new = on_lists([p.data], grads, *args, **values)
            return new and {name: _one_of(value) for name, value in new.items()}
        signature = inspect.signature(on_lists)
        of_p = inspect.Parameter('p', inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation='Tensor')
        step.__signature__ = signature.replace(parameters=[of_p, *[*signature.parameters.values()][2:]])
        step.on_lists, step.averages, step.defaults = on_lists, averages, defaults
        return step
    return decorate


def debias(mom: float, damp: float, step: int) -> float:
    """The total weight an average with momentum `mom` has seen after `step` steps, each step weighing `damp`."""
    return damp * (1 - mom**step) / (1 - mom)


def _rectification(sqr_mom: float, step: int) -> float | None:
    """RAdam's factor on the step, None while the variance of the squares is still unbounded.

    Source: Liu et al., On the Variance of the Adaptive Learning Rate and Beyond, https://arxiv.org/abs/1908.03265
    """
    r_inf = 2 / (1 - sqr_mom) - 1
    r = r_inf - 2 * step * sqr_mom**step / (1 - sqr_mom**step)
    return math.sqrt((r - 4) * (r - 2) * r_inf / ((r_inf - 4) * (r_inf - 2) * r)) if r > 5 else None


def _root(sqr_avgs: list[Tensor], bias: float, eps: float) -> list[Tensor]:
    """`sqrt(sqr_avg / bias) + eps`: the denominator of the Adam family."""
    denoms = torch._foreach_sqrt(sqr_avgs)  # one new list: on the CPU fresh memory costs more than arithmetic
    if bias != 1:
        torch._foreach_div_(denoms, math.sqrt(bias))
    torch._foreach_add_(denoms, eps)
    return denoms


@_steps_lists(wd=0.)
def weight_decay(params: list[Tensor], grads: list[Tensor], lr: float, wd: float, do_wd: bool = True,
                 **kwargs: Any) -> None:
    """Shrink `p` by the factor `1 - lr*wd` (decoupled weight decay).

    Args:
        params: parameters, changed in place; one of them, as `p`, where the function steps one.
        grads: their gradients, of the same shapes; where it steps one, `p.grad`.
        lr: learning rate.
        wd: weight decay; 0 for none.
        do_wd: False leaves `p` as it is.
        kwargs: state and hypers that other step functions need.
    """
    if do_wd and wd != 0:
        torch._foreach_mul_(params, 1 - lr * wd)


@_steps_lists(wd=0.)
def l2_reg(params: list[Tensor], grads: list[Tensor], lr: float, wd: float, do_wd: bool = True, **kwargs: Any) -> None:
    """Add `wd*p` to the gradient of `p`, in place (weight decay as a term of the loss).

    Args:
        params, grads, wd, do_wd, kwargs: as for `weight_decay`.
        lr: has no effect.
    """
    if do_wd and wd != 0:  # in place, so that a callback after the step sees the same gradients as in fastai
        torch._foreach_add_(grads, params, alpha=wd)


@_steps_lists('grad_avg', mom=0.9)
def average_grad(params: list[Tensor], grads: list[Tensor], mom: float, dampening: bool = False,
                 grad_avg: list[Tensor] | None = None, **kwargs: Any) -> dict[Any, Any]:
    """Moving average of the gradient of `p` in the state `grad_avg`; a sum with decay unless `dampening`.

    Args:
        params, grads, kwargs: as for `weight_decay`.
        mom: the share of the old average that stays, 0..1.
        dampening: weigh the new gradient by `1 - mom`; False adds all of it.
        grad_avg: the averages so far, changed in place; None for zeros.
    """
    grad_avg = [torch.zeros_like(grad) for grad in grads] if grad_avg is None else grad_avg
    torch._foreach_mul_(grad_avg, mom)
    torch._foreach_add_(grad_avg, grads, alpha=1 - mom if dampening else 1.)
    return {'grad_avg': grad_avg}


@_steps_lists('sqr_avg', sqr_mom=0.99)
def average_sqr_grad(params: list[Tensor], grads: list[Tensor], sqr_mom: float, dampening: bool = True,
                     sqr_avg: list[Tensor] | None = None, **kwargs: Any) -> dict[Any, Any]:
    """Moving average of the squared gradient of `p` in the state `sqr_avg`.

    Args:
        params, grads, kwargs: as for `weight_decay`.
        sqr_mom: the share of the old average that stays, 0..1.
        dampening: weigh the new square by `1 - sqr_mom`; False adds all of it.
        sqr_avg: the averages so far, changed in place; None for zeros.
    """
    sqr_avg = [torch.zeros_like(grad) for grad in grads] if sqr_avg is None else sqr_avg
    torch._foreach_mul_(sqr_avg, sqr_mom)
    torch._foreach_addcmul_(sqr_avg, grads, grads, value=1 - sqr_mom if dampening else 1.)
    return {'sqr_avg': sqr_avg}


@_steps_lists()
def step_stat(params: list[Tensor], grads: list[Tensor], step: int = 0, **kwargs: Any) -> dict[Any, Any]:
    """Count the steps `p` has taken in the state `step`; `params`, `grads` and `kwargs` as for `weight_decay`."""
    return {'step': step + 1}


@_steps_lists()
def sgd_step(params: list[Tensor], grads: list[Tensor], lr: float, **kwargs: Any) -> None:
    """Step against the gradient, `p -= lr*p.grad`; `params`, `grads` and `kwargs` as for `weight_decay`."""
    torch._foreach_add_(params, grads, alpha=-lr)


@_steps_lists()
def momentum_step(params: list[Tensor], grads: list[Tensor], lr: float, grad_avg: list[Tensor], **kwargs: Any) -> None:
    """Step against the averaged gradient, `p -= lr*grad_avg`; `params`, `grads` and `kwargs` as for `weight_decay`."""
    torch._foreach_add_(params, grad_avg, alpha=-lr)


@_steps_lists(eps=1e-8)
def rms_prop_step(params: list[Tensor], grads: list[Tensor], lr: float, sqr_avg: list[Tensor], eps: float,
                  grad_avg: list[Tensor] | None = None, **kwargs: Any) -> None:
    """Step of `p` against the (averaged) gradient over the root of its averaged square.

    Args:
        params, grads, kwargs: as for `weight_decay`.
        lr: learning rate.
        sqr_avg: the averages of `average_sqr_grad`.
        eps: added to the root.
        grad_avg: the averages of `average_grad`; None for the gradients themselves.
    """
    torch._foreach_addcdiv_(params, grads if grad_avg is None else grad_avg, _root(sqr_avg, 1., eps), value=-lr)


@_steps_lists()
def adam_step(params: list[Tensor], grads: list[Tensor], lr: float, mom: float, step: int, sqr_mom: float,
              grad_avg: list[Tensor], sqr_avg: list[Tensor], eps: float, **kwargs: Any) -> None:
    """Adam's step of `p`: both averages without their bias towards zero.

    Args:
        params, grads, kwargs: as for `weight_decay`.
        lr: learning rate.
        mom: momentum of the gradient's average (beta 1), below 1.
        step: steps taken, this one included.
        sqr_mom: momentum of the squared gradient's average (beta 2), below 1.
        grad_avg: the averages of `average_grad` with `dampening`.
        sqr_avg: the averages of `average_sqr_grad`.
        eps: added to the root of the squares.

    Source: Kingma and Ba, https://arxiv.org/abs/1412.6980
    """
    denoms = _root(sqr_avg, debias(sqr_mom, 1 - sqr_mom, step), eps)
    torch._foreach_addcdiv_(params, grad_avg, denoms, value=-lr / debias(mom, 1 - mom, step))


@_steps_lists()
def radam_step(params: list[Tensor], grads: list[Tensor], lr: float, mom: float, step: int, sqr_mom: float,
               grad_avg: list[Tensor], sqr_avg: list[Tensor], eps: float, beta: float, **kwargs: Any) -> None:
    """Adam's step of `p`, rectified in its first steps; a nonzero `beta` smooths the denominator (SAdam).

    Args:
        params, grads, lr, mom, step, sqr_mom, grad_avg, sqr_avg, eps, kwargs: as for `adam_step`.
        beta: sharpness of the softplus on the denominator, 0 for none.
    """
    debias1, rectified = debias(mom, 1 - mom, step), _rectification(sqr_mom, step)
    if rectified is None:
        torch._foreach_add_(params, grad_avg, alpha=-lr / debias1)
        return
    denoms = _root(sqr_avg, debias(sqr_mom, 1 - sqr_mom, step), eps)
    if beta:
        denoms = [F.softplus(denom, beta) for denom in denoms]
    torch._foreach_addcdiv_(params, grad_avg, denoms, value=-lr * rectified / debias1)


@_steps_lists()
def qhadam_step(params: list[Tensor], grads: list[Tensor], lr: float, mom: float, sqr_mom: float,
                sqr_avg: list[Tensor], nu_1: float, nu_2: float, step: int, grad_avg: list[Tensor], eps: float,
                **kwargs: Any) -> None:
    """Adam's step of `p` on mixtures of the plain gradient and the averages.

    Args:
        params, grads, lr, mom, sqr_mom, sqr_avg, step, grad_avg, eps, kwargs: as for `adam_step`.
        nu_1: the average's share in the gradient, 0..1; with 1 for both it is Adam.
        nu_2: the average's share in the squared gradient, 0..1.

    Source: Ma and Yarats, Quasi-hyperbolic momentum and Adam for deep learning, https://arxiv.org/abs/1810.06801
    """
    means = torch._foreach_mul(grads, 1 - nu_1)
    torch._foreach_add_(means, grad_avg, alpha=nu_1 / debias(mom, 1 - mom, step))
    squares = torch._foreach_mul(sqr_avg, nu_2 / debias(sqr_mom, 1 - sqr_mom, step))
    torch._foreach_addcmul_(squares, grads, grads, value=1 - nu_2)
    torch._foreach_addcdiv_(params, means, _root(squares, 1., eps), value=-lr)


@_steps_lists(trust_coeff=0.02, wd=0., eps=1e-8)
def larc_layer_lr(params: list[Tensor], grads: list[Tensor], lr: float, trust_coeff: float, wd: float, eps: float,
                  clip: bool = True, **kwargs: Any) -> dict[Any, Any]:
    """The learning rate of one tensor from the norms of weight and gradient, at most `lr` if `clip`.

    It is `lr * trust_coeff * |p| / (|p.grad| + wd * |p| + eps)`; `params`, `grads` and `kwargs` as for `weight_decay`.

    Source: You et al., Large Batch Training of Convolutional Networks, https://arxiv.org/abs/1708.03888
    """
    p_norms, g_norms = torch.stack(torch._foreach_norm(params)), torch.stack(torch._foreach_norm(grads))
    local_lrs = lr * trust_coeff * p_norms / (g_norms + p_norms * wd + eps)
    return {'local_lr': list((local_lrs.clamp(max=lr) if clip else local_lrs).unbind())}


@_steps_lists()
def larc_step(params: list[Tensor], grads: list[Tensor], local_lr: list[Tensor] | float,
              grad_avg: list[Tensor] | None = None, **kwargs: Any) -> None:
    """Step of `p` against the (averaged) gradient by the tensor's own learning rate.

    Args:
        params, grads, kwargs: as for `weight_decay`.
        local_lr: what `larc_layer_lr` gives: one number for each parameter.
        grad_avg: the averages of `average_grad`; None for the gradients themselves.
    """
    local_lrs = local_lr if isinstance(local_lr, list) else [p.new_tensor(local_lr) for p in params]
    torch._foreach_addcmul_(params, grads if grad_avg is None else grad_avg, local_lrs, value=-1)


@_steps_lists()
def lamb_step(params: list[Tensor], grads: list[Tensor], lr: float, mom: float, step: int, sqr_mom: float,
              grad_avg: list[Tensor], sqr_avg: list[Tensor], eps: float, **kwargs: Any) -> None:
    """Adam's step of `p` scaled by the ratio of the sizes of weight and step, at most 10.

    `params`, `grads`, `lr`, `mom`, `step`, `sqr_mom`, `grad_avg`, `sqr_avg`, `eps` and `kwargs` as for `adam_step`.

    Source: You et al., Large Batch Optimization for Deep Learning, https://arxiv.org/abs/1904.00962
    """
    updates = torch._foreach_div(grad_avg, debias(mom, 1 - mom, step))
    torch._foreach_div_(updates, _root(sqr_avg, debias(sqr_mom, 1 - sqr_mom, step), eps))
    # sizes are roots of means over equally many elements, so their ratio is the ratio of the norms
    p_norms, update_norms = torch.stack(torch._foreach_norm(params)), torch.stack(torch._foreach_norm(updates))
    usable = (p_norms != 0) & (update_norms != 0)
    trust = torch.where(usable, (p_norms / update_norms).clamp(max=10), torch.ones_like(p_norms))
    torch._foreach_addcmul_(params, updates, list((trust * lr).unbind()), value=-1)


# ---------------------------------------------------------------- the named ones

# Devices whose fused Adam and SGD kernels torch has had for long; elsewhere torch chooses.
_FUSED_DEVICES = ('cpu', 'cuda')


def _fused(params: list[Tensor]) -> bool:
    return params[0].device.type in _FUSED_DEVICES and all(p.is_floating_point() for p in params)


class _Decayed(Optimizer):
    """Weight decay, decoupled or as a term of the loss, before the step functions of a named optimizer."""

    def __init__(self, params: Any, cbs: list[Callable], decouple_wd: bool, **defaults: Any) -> None:
        self.decouple_wd = decouple_wd
        super().__init__(params, [weight_decay if decouple_wd else l2_reg, *cbs], **defaults)


class SGD(_Decayed):
    """Stochastic gradient descent, with momentum if `mom` is nonzero when it is made.

    Args:
        params: parameters, or a list of lists of them.
        lr: learning rate.
        mom: momentum; with 0 no averages are kept and a later schedule of `mom` has no effect.
        wd: weight decay.
        decouple_wd: decay the weights directly; False adds `wd*p` to the gradient.

    Example:
        >>> learn = Learner(dls, learn.model, opt_func=partial(SGD, mom=0.9))
    """

    _one_pass = True

    @tells_near_match
    def __init__(self, params: Any, lr: float | slice, mom: float = 0., wd: float = 0.,
                 decouple_wd: bool = True) -> None:
        steps = [average_grad, momentum_step] if mom != 0 else [sgd_step]
        super().__init__(params, steps, decouple_wd, lr=lr, mom=mom, wd=wd)

    def _step_lists(self, params: list[Tensor], grads: list[Tensor], values: dict[str, Any]) -> None:
        (weight_decay if self.decouple_wd else l2_reg).on_lists(params, grads, **values)
        grad_avg = values.get('grad_avg')
        mom = values['mom'] if grad_avg else 0.
        fused = _fused(params) and not isinstance(params[0], DTensor)  # torch has it for whole tensors only
        torch_sgd(params, grads, grad_avg or [None] * len(params), fused=fused, weight_decay=0., momentum=mom,
                  lr=values['lr'], dampening=0., nesterov=False, maximize=False)
        if grad_avg and mom == 0:  # torch leaves the buffers alone then; the average of that step is its gradient
            torch._foreach_copy_(list(map(own_part, grad_avg)), list(map(own_part, grads)))


class RMSProp(_Decayed):
    """RMSProp, with momentum on the gradient if `mom` is nonzero when it is made.

    Args:
        params: parameters, or a list of lists of them.
        lr: learning rate.
        mom: momentum of the gradient's average; with 0 none is kept.
        sqr_mom: momentum of the squared gradient's average.
        eps: added to the denominator.
        wd: weight decay.
        decouple_wd: decay the weights directly; False adds `wd*p` to the gradient.

    Example:
        >>> learn = Learner(dls, learn.model, opt_func=partial(RMSProp, sqr_mom=0.99))
    """

    @tells_near_match
    def __init__(self, params: Any, lr: float | slice, mom: float = 0., sqr_mom: float = 0.99, eps: float = 1e-8,
                 wd: float = 0., decouple_wd: bool = True) -> None:
        steps = [*([average_grad] if mom != 0 else []), average_sqr_grad, rms_prop_step]
        super().__init__(params, steps, decouple_wd, lr=lr, mom=mom, sqr_mom=sqr_mom, eps=eps, wd=wd)


class RAdam(_Decayed):
    """Rectified Adam, or SAdam with a nonzero `beta`.

    Args:
        params: parameters, or a list of lists of them.
        lr: learning rate.
        mom: momentum of the gradient's average.
        sqr_mom: momentum of the squared gradient's average.
        eps: added to the denominator.
        wd: weight decay.
        beta: sharpness of the softplus on the denominator, 0 for none.
        decouple_wd: decay the weights directly; False adds `wd*p` to the gradient.

    Source: Liu et al., https://arxiv.org/abs/1908.03265

    Example:
        >>> learn = Learner(dls, learn.model, opt_func=RAdam)
    """

    @tells_near_match
    def __init__(self, params: Any, lr: float | slice, mom: float = 0.9, sqr_mom: float = 0.99, eps: float = 1e-5,
                 wd: float = 0., beta: float = 0., decouple_wd: bool = True) -> None:
        steps = [partial(average_grad, dampening=True), average_sqr_grad, step_stat, radam_step]
        super().__init__(params, steps, decouple_wd, lr=lr, mom=mom, sqr_mom=sqr_mom, eps=eps, wd=wd, beta=beta)


class QHAdam(_Decayed):
    """Quasi-hyperbolic Adam: steps along mixtures of the gradient and its averages.

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

    Source: Ma and Yarats, https://arxiv.org/abs/1810.06801

    Example:
        >>> learn = Learner(dls, learn.model, opt_func=QHAdam)
    """

    @tells_near_match
    def __init__(self, params: Any, lr: float | slice, mom: float = 0.999, sqr_mom: float = 0.999, nu_1: float = 0.7,
                 nu_2: float = 1.0, eps: float = 1e-8, wd: float = 0., decouple_wd: bool = True) -> None:
        steps = [partial(average_grad, dampening=True), average_sqr_grad, step_stat, qhadam_step]
        super().__init__(params, steps, decouple_wd, lr=lr, mom=mom, sqr_mom=sqr_mom, nu_1=nu_1, nu_2=nu_2,
                         eps=eps, wd=wd)


class Larc(_Decayed):
    """Layer-wise learning rates: LARC, or LARS with `clip=False`.

    Args:
        params: parameters, or a list of lists of them.
        lr: learning rate.
        mom: momentum; with 0 no averages are kept.
        clip: let no tensor's learning rate exceed `lr`.
        trust_coeff: how far a tensor may move relative to its norm.
        eps: added to the denominator.
        wd: weight decay.
        decouple_wd: decay the weights directly; False adds `wd*p` to the gradient.

    Source: You et al., https://arxiv.org/abs/1708.03888

    Example:
        >>> learn = Learner(dls, learn.model, opt_func=Larc)
    """

    @tells_near_match
    def __init__(self, params: Any, lr: float | slice, mom: float = 0.9, clip: bool = True, trust_coeff: float = 0.02,
                 eps: float = 1e-8, wd: float = 0., decouple_wd: bool = True) -> None:
        self.clip = clip
        steps = [*([average_grad] if mom != 0 else []), partial(larc_layer_lr, clip=clip), larc_step]
        super().__init__(params, steps, decouple_wd, lr=lr, mom=mom, trust_coeff=trust_coeff, eps=eps, wd=wd)


class Lamb(_Decayed):
    """Adam's step scaled, tensor by tensor, to the size of the weights.

    Args:
        params: parameters, or a list of lists of them.
        lr: learning rate.
        mom: momentum of the gradient's average.
        sqr_mom: momentum of the squared gradient's average.
        eps: added to the denominator.
        wd: weight decay.
        decouple_wd: decay the weights directly; False adds `wd*p` to the gradient.

    Source: You et al., https://arxiv.org/abs/1904.00962

    Example:
        >>> learn = Learner(dls, learn.model, opt_func=Lamb)
    """

    @tells_near_match
    def __init__(self, params: Any, lr: float | slice, mom: float = 0.9, sqr_mom: float = 0.99, eps: float = 1e-5,
                 wd: float = 0., decouple_wd: bool = True) -> None:
        steps = [partial(average_grad, dampening=True), average_sqr_grad, step_stat, lamb_step]
        super().__init__(params, steps, decouple_wd, lr=lr, mom=mom, sqr_mom=sqr_mom, eps=eps, wd=wd)


class Adam(_Decayed):
    """Adam with decoupled weight decay (AdamW), on torch's fused kernel.

    Args:
        params: parameters, or a list of lists of them.
        lr: learning rate.
        mom: momentum of the gradient's average (beta 1).
        sqr_mom: momentum of the squared gradient's average (beta 2).
        eps: added to the denominator.
        wd: weight decay.
        decouple_wd: decay the weights directly (AdamW); False adds `wd*p` to the gradient (Adam).

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> opt = Adam([list(model[0].parameters()), list(model[2].parameters())], lr=slice(1e-4, 1e-3))
        >>> [hyper['lr'] for hyper in opt.hypers]
        [0.0001, 0.001]

    Source: Kingma and Ba, https://arxiv.org/abs/1412.6980; Loshchilov and Hutter, https://arxiv.org/abs/1711.05101
    """

    @tells_near_match
    def __init__(self, params: Any, lr: float | slice, mom: float = 0.9, sqr_mom: float = 0.99, eps: float = 1e-5,
                 wd: float = 0.01, decouple_wd: bool = True) -> None:
        steps = [partial(average_grad, dampening=True), average_sqr_grad, step_stat, adam_step]
        super().__init__(params, steps, decouple_wd, lr=lr, mom=mom, sqr_mom=sqr_mom, eps=eps, wd=wd)

    def _step_group(self, group: dict[str, Any]) -> None:
        lists: dict[bool, tuple[list, ...]] = {True: ([], [], [], [], []), False: ([], [], [], [], [])}
        for p in group['params']:
            grad = p.grad
            if grad is None:
                continue
            state = self.state[p]
            if 'step' not in state:
                self._init_state(p, state)
            params, grads, grad_avgs, sqr_avgs, steps = lists[state.get('do_wd', True)]
            params.append(p)
            grads.append(grad)
            grad_avgs.append(state['grad_avg'])
            sqr_avgs.append(state['sqr_avg'])
            steps.append(state['step'])
        for do_wd, (params, grads, grad_avgs, sqr_avgs, steps) in lists.items():
            if params:
                torch_adam(params, grads, grad_avgs, sqr_avgs, [], steps, fused=_fused(params), amsgrad=False,
                           grad_scale=getattr(self, 'grad_scale', None), found_inf=getattr(self, 'found_inf', None),
                           has_complex=any(map(torch.is_complex, params)), maximize=False, lr=group['lr'],
                           beta1=group['mom'], beta2=group['sqr_mom'], eps=group['eps'],
                           weight_decay=group['wd'] if do_wd else 0., decoupled_weight_decay=self.decouple_wd)

    @property
    def _step_supports_amp_scaling(self) -> bool:
        # a GradScaler then hands its scale to the fused kernel, and the host need not wait for the check for infinities
        return all(_fused(group['params']) for group in self.param_groups if group['params'])

    def _init_state(self, p: Tensor, state: dict[str, Any]) -> None:
        state['grad_avg'] = torch.zeros_like(p, memory_format=torch.preserve_format)
        state['sqr_avg'] = torch.zeros_like(p, memory_format=torch.preserve_format)
        state['step'] = torch.zeros((), dtype=torch.float32, device=self._counts_on(p))

    @staticmethod
    def _counts_on(p: Tensor) -> torch.device:
        # the fused kernel counts on the device, torch's other path on the CPU
        return p.device if _fused([p]) else torch.device('cpu')

    def _after_load(self) -> None:
        for p, state in self.state.items():
            if 'step' in state:
                state['step'] = torch.as_tensor(state['step'], dtype=torch.float32, device=self._counts_on(p))


class Lookahead(_BaseOptimizer):
    """Every `k` steps pull the weights back towards a slow copy of them.

    Args:
        opt: the optimizer that takes the fast steps.
        k: fast steps to each slow one.
        alpha: how far the slow weights move towards the fast ones, 0-1.

    Source: Zhang et al., Lookahead Optimizer: k steps forward, 1 step back, https://arxiv.org/abs/1907.08610

    Example:
        >>> learn = Learner(dls, learn.model, opt_func=lambda params, **kwargs: Lookahead(RAdam(params, **kwargs)))
    """

    def __init__(self, opt: _BaseOptimizer, k: int = 6, alpha: float = 0.5) -> None:
        self.opt, self.k, self.alpha = opt, k, alpha
        self._start()

    def _start(self) -> None:
        self.count, self.slow_weights = 0, None

    def _torch_names(self):
        return self.opt._torch_names()

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of the optimizer inside; settable."""
        return self.opt.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.opt.param_groups = groups

    @property
    def state(self) -> dict[Tensor, dict[Any, Any]]:
        """The state of the optimizer inside."""
        return self.opt.state

    @property
    def frozen_idx(self) -> int:
        """The first group that is trained; settable."""
        return self.opt.frozen_idx

    @frozen_idx.setter
    def frozen_idx(self, n: int) -> None:
        self.opt.frozen_idx = n

    @torch.no_grad()
    def step(self, closure: Callable[..., Any] | None = None) -> Any:
        """A fast step, and after every `k` of them a slow one; `closure` re-evaluates the model first, as in torch."""
        if self.slow_weights is None:
            self.slow_weights = L([L([p.detach().clone() for p in ps]) for ps in self.param_lists])
        loss = self.opt.step(closure)
        self.count += 1
        if self.count % self.k == 0:
            for slow, fast in zip(self.slow_weights, self.param_lists):
                slow, fast = list(map(own_part, slow)), list(map(own_part, fast))
                torch._foreach_lerp_(slow, fast, self.alpha)
                torch._foreach_copy_(fast, slow)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients; `set_to_none` False makes them zeros instead of None."""
        self.opt.zero_grad(set_to_none=set_to_none)

    def clear_state(self) -> None:
        """Forget the optimizer's averages and the slow weights."""
        self.opt.clear_state()
        self._start()

    def state_dict(self) -> dict[str, Any]:
        """The inner optimizer's state with `count` and `slow_weights` (lists of tensors)."""
        slow = None if self.slow_weights is None else [list(ps) for ps in self.slow_weights]
        return {**self.opt.state_dict(), 'count': self.count, 'slow_weights': slow}

    def load_state_dict(self, sd: dict[str, Any]) -> None:
        """Load `sd`, what `state_dict()` made."""
        sd = dict(sd)
        self.count, slow = sd.pop('count'), sd.pop('slow_weights')
        self.opt.load_state_dict(sd)
        if slow is not None:  # copied: later steps change them in place
            slow = L([L([share_like(s, p).detach().to(p, copy=True) for s, p in zip(ws, ps)])
                      for ws, ps in zip(slow, self.param_lists)])
        self.slow_weights = slow

    def _table_title(self) -> str:
        return f'Lookahead(k={self.k}, alpha={self.alpha}) of {type(self.opt).__name__}'


@tells_near_match
def ranger(params: Any, lr: float | slice, mom: float = 0.95, wd: float = 0.01, eps: float = 1e-6, k: int = 6,
           alpha: float = 0.5, sqr_mom: float = 0.99, beta: float = 0., decouple_wd: bool = True) -> Lookahead:
    """`Lookahead` around `RAdam`.

    Args:
        params: parameters, or a list of lists of them.
        lr: learning rate.
        mom: momentum of the gradient's average.
        wd: weight decay.
        eps: added to the denominator.
        k: fast steps to each slow one.
        alpha: how far the slow weights move, 0-1.
        sqr_mom: momentum of the squared gradient's average.
        beta: sharpness of the softplus on the denominator, 0 for none.
        decouple_wd: decay the weights directly.

    Example:
        >>> learn = Learner(dls, learn.model, opt_func=ranger)
        >>> learn.fit_flat_cos(2, 1e-3)
    """
    inner = RAdam(params, lr, mom=mom, sqr_mom=sqr_mom, eps=eps, wd=wd, beta=beta, decouple_wd=decouple_wd)
    return Lookahead(inner, k=k, alpha=alpha)
