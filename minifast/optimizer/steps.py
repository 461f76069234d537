"""The arithmetic of the optimizers, one parameter at a time: what `Optimizer(cbs=[...])` is composed of.

A step function is called as `f(p, **state, **hypers)` once a step for every parameter that has a gradient. It changes
`p` or its gradient in place, or returns a dict, which becomes part of the parameter's state. A `defaults` attribute on
the function gives the hypers it needs a value. The named optimizers in `minifast.optimizer` do the same on whole lists.
"""
from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ['adam_step', 'average_grad', 'average_sqr_grad', 'debias', 'l2_reg', 'lamb_step', 'larc_layer_lr',
           'larc_step', 'momentum_step', 'qhadam_step', 'radam_step', 'rectification', 'rms_prop_step', 'sgd_step',
           'step_stat', 'weight_decay']


def debias(mom: float, damp: float, step: int) -> float:
    """The total weight an average with momentum `mom` has seen after `step` steps, each step weighing `damp`."""
    return damp * (1 - mom**step) / (1 - mom)


def rectification(sqr_mom: float, step: int) -> float | None:
    """RAdam's factor on the step, None while the variance of the squares is still unbounded.

    Source: Liu et al., On the Variance of the Adaptive Learning Rate and Beyond, https://arxiv.org/abs/1908.03265
    """
    r_inf = 2 / (1 - sqr_mom) - 1
    r = r_inf - 2 * step * sqr_mom**step / (1 - sqr_mom**step)
    return math.sqrt((r - 4) * (r - 2) * r_inf / ((r_inf - 4) * (r_inf - 2) * r)) if r > 5 else None


def weight_decay(p: Tensor, lr: float, wd: float, do_wd: bool = True, **kwargs: Any) -> None:
    """Shrink `p` by the factor `1 - lr*wd` (decoupled weight decay)."""
    if do_wd and wd != 0:
        p.data.mul_(1 - lr * wd)


weight_decay.defaults = {'wd': 0.}


def l2_reg(p: Tensor, lr: float, wd: float, do_wd: bool = True, **kwargs: Any) -> None:
    """Add `wd*p` to the gradient of `p` (weight decay as a term of the loss)."""
    if do_wd and wd != 0:
        p.grad.data.add_(p.data, alpha=wd)


l2_reg.defaults = {'wd': 0.}


def average_grad(p: Tensor, mom: float, dampening: bool = False, grad_avg: Tensor | None = None, **kwargs: Any) -> dict:
    """Moving average of the gradient in the state `grad_avg`; a sum with decay unless `dampening`."""
    grad_avg = torch.zeros_like(p.grad.data) if grad_avg is None else grad_avg
    return {'grad_avg': grad_avg.mul_(mom).add_(p.grad.data, alpha=1 - mom if dampening else 1.)}


average_grad.defaults = {'mom': 0.9}


def average_sqr_grad(p: Tensor, sqr_mom: float, dampening: bool = True, sqr_avg: Tensor | None = None,
                     **kwargs: Any) -> dict:
    """Moving average of the squared gradient in the state `sqr_avg`."""
    sqr_avg = torch.zeros_like(p.grad.data) if sqr_avg is None else sqr_avg
    damp = 1 - sqr_mom if dampening else 1.
    return {'sqr_avg': sqr_avg.mul_(sqr_mom).addcmul_(p.grad.data, p.grad.data, value=damp)}


average_sqr_grad.defaults = {'sqr_mom': 0.99}


def step_stat(p: Tensor, step: int = 0, **kwargs: Any) -> dict:
    """Count the steps `p` has taken in the state `step`."""
    return {'step': step + 1}


def sgd_step(p: Tensor, lr: float, **kwargs: Any) -> None:
    """Step against the gradient."""
    p.data.add_(p.grad.data, alpha=-lr)


def momentum_step(p: Tensor, lr: float, grad_avg: Tensor, **kwargs: Any) -> None:
    """Step against the averaged gradient."""
    p.data.add_(grad_avg, alpha=-lr)


def rms_prop_step(p: Tensor, lr: float, sqr_avg: Tensor, eps: float, grad_avg: Tensor | None = None,
                  **kwargs: Any) -> None:
    """Step against the (averaged) gradient over the root of its averaged square."""
    p.data.addcdiv_(p.grad if grad_avg is None else grad_avg, sqr_avg.sqrt().add_(eps), value=-lr)


rms_prop_step.defaults = {'eps': 1e-8}


def adam_step(p: Tensor, lr: float, mom: float, step: int, sqr_mom: float, grad_avg: Tensor, sqr_avg: Tensor,
              eps: float, **kwargs: Any) -> None:
    """Adam's step: both averages without their bias towards zero.

    Source: Kingma and Ba, https://arxiv.org/abs/1412.6980
    """
    denom = (sqr_avg / debias(sqr_mom, 1 - sqr_mom, step)).sqrt() + eps
    p.data.addcdiv_(grad_avg, denom, value=-lr / debias(mom, 1 - mom, step))


def radam_step(p: Tensor, lr: float, mom: float, step: int, sqr_mom: float, grad_avg: Tensor, sqr_avg: Tensor,
               eps: float, beta: float, **kwargs: Any) -> None:
    """Adam's step, rectified in its first steps; a nonzero `beta` smooths the denominator (SAdam)."""
    debias1 = debias(mom, 1 - mom, step)
    rectified = rectification(sqr_mom, step)
    if rectified is None:
        p.data.add_(grad_avg, alpha=-lr / debias1)
        return
    denom = (sqr_avg / debias(sqr_mom, 1 - sqr_mom, step)).sqrt() + eps
    p.data.addcdiv_(grad_avg, F.softplus(denom, beta) if beta else denom, value=-lr * rectified / debias1)


def qhadam_step(p: Tensor, lr: float, mom: float, sqr_mom: float, sqr_avg: Tensor, nu_1: float, nu_2: float, step: int,
                grad_avg: Tensor, eps: float, **kwargs: Any) -> None:
    """Adam's step on mixtures of the plain gradient and the averages.

    Source: Ma and Yarats, Quasi-hyperbolic momentum and Adam for deep learning, https://arxiv.org/abs/1810.06801
    """
    grad = p.grad.data
    mean = (1 - nu_1) * grad + nu_1 * (grad_avg / debias(mom, 1 - mom, step))
    square = (1 - nu_2) * grad**2 + nu_2 * (sqr_avg / debias(sqr_mom, 1 - sqr_mom, step))
    p.data.addcdiv_(mean, square.sqrt() + eps, value=-lr)


def larc_layer_lr(p: Tensor, lr: float, trust_coeff: float, wd: float, eps: float, clip: bool = True,
                  **kwargs: Any) -> dict:
    """The learning rate of one tensor from the norms of weight and gradient, at most `lr` if `clip`.

    Source: You et al., Large Batch Training of Convolutional Networks, https://arxiv.org/abs/1708.03888
    """
    p_norm, g_norm = torch.norm(p.data), torch.norm(p.grad.data)
    local_lr = lr * trust_coeff * p_norm / (g_norm + p_norm * wd + eps)
    return {'local_lr': local_lr.clamp(max=lr) if clip else local_lr}


larc_layer_lr.defaults = {'trust_coeff': 0.02, 'wd': 0., 'eps': 1e-8}


def larc_step(p: Tensor, local_lr: Tensor, grad_avg: Tensor | None = None, **kwargs: Any) -> None:
    """Step against the (averaged) gradient by the tensor's own learning rate."""
    p.data.sub_((p.grad.data if grad_avg is None else grad_avg) * local_lr)


def lamb_step(p: Tensor, lr: float, mom: float, step: int, sqr_mom: float, grad_avg: Tensor, sqr_avg: Tensor,
              eps: float, **kwargs: Any) -> None:
    """Adam's step scaled by the ratio of the sizes of weight and step, at most 10.

    Source: You et al., Large Batch Optimization for Deep Learning, https://arxiv.org/abs/1904.00962
    """
    denom = (sqr_avg / debias(sqr_mom, 1 - sqr_mom, step)).sqrt() + eps
    update = grad_avg / debias(mom, 1 - mom, step) / denom
    p_size, step_size = p.data.pow(2).mean().sqrt(), update.pow(2).mean().sqrt()
    usable = (p_size != 0) & (step_size != 0)
    trust = torch.where(usable, (p_size / step_size).clamp(max=10), torch.ones_like(p_size))
    p.data.sub_(update * (lr * trust))
