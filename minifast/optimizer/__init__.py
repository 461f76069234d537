"""Optimizers under fastai's names, defaults and numbers, on torch's fused and multi-tensor kernels."""
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from fastcore.foundation import L
from torch import Tensor
from torch.optim.adam import adam as torch_adam

from minifast.arguments import tells_near_match
from minifast.optimizer.base import Hypers, Optimizer, _BaseOptimizer, _evaluate, _update, detuplify_pg, set_item_pg
from minifast.optimizer.lists import SGD, Lamb, Larc, QHAdam, RAdam, RMSProp, _fused
from minifast.optimizer.steps import (adam_step, average_grad, average_sqr_grad, debias, l2_reg, lamb_step,
                                      larc_layer_lr, larc_step, momentum_step, qhadam_step, radam_step, rms_prop_step,
                                      sgd_step, step_stat, weight_decay)
from minifast.optimizer.wrap import OptimWrapper, as_optimizer, pytorch_hp_map

__all__ = ['Adam', 'Hypers', 'Lamb', 'Larc', 'Lookahead', 'OptimWrapper', 'Optimizer', 'QHAdam', 'RAdam', 'RMSProp',
           'SGD', '_update', 'adam_step', 'as_optimizer', 'average_grad', 'average_sqr_grad', 'debias', 'detuplify_pg',
           'l2_reg', 'lamb_step', 'larc_layer_lr', 'larc_step', 'momentum_step', 'pytorch_hp_map', 'qhadam_step',
           'radam_step', 'ranger', 'rms_prop_step', 'set_item_pg', 'sgd_step', 'step_stat', 'weight_decay']


class Adam(Optimizer):
    """Adam with decoupled weight decay (AdamW), on torch's fused kernel.

    Source: Kingma and Ba, https://arxiv.org/abs/1412.6980; Loshchilov and Hutter, https://arxiv.org/abs/1711.05101
    """

    @tells_near_match
    def __init__(self, params: Any, lr: float | slice, mom: float = 0.9, sqr_mom: float = 0.99, eps: float = 1e-5,
                 wd: float = 0.01, decouple_wd: bool = True) -> None:
        """
        Args:
            params: parameters, or a list of lists of them.
            lr: learning rate.
            mom: momentum of the gradient's average (beta 1).
            sqr_mom: momentum of the squared gradient's average (beta 2).
            eps: added to the denominator.
            wd: weight decay.
            decouple_wd: decay the weights directly (AdamW); False adds `wd*p` to the gradient (Adam).
        """
        self.decouple_wd = decouple_wd
        steps = [weight_decay if decouple_wd else l2_reg, partial(average_grad, dampening=True), average_sqr_grad,
                 step_stat, adam_step]
        super().__init__(params, steps, lr=lr, mom=mom, sqr_mom=sqr_mom, eps=eps, wd=wd)

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> Any:
        """One step; `closure` re-evaluates the model first, as in torch."""
        loss = _evaluate(closure)
        for group in self.param_groups:
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
        return loss

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

    Source: Zhang et al., Lookahead Optimizer: k steps forward, 1 step back, https://arxiv.org/abs/1907.08610
    """

    def __init__(self, opt: _BaseOptimizer, k: int = 6, alpha: float = 0.5) -> None:
        """
        Args:
            opt: the optimizer that takes the fast steps.
            k: fast steps to each slow one.
            alpha: how far the slow weights move towards the fast ones, 0-1.
        """
        self.opt, self.k, self.alpha = opt, k, alpha
        self._start()

    def _start(self) -> None:
        self.count, self.slow_weights = 0, None

    def _torch_names(self):
        return self.opt._torch_names()

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of the optimizer inside."""
        return self.opt.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.opt.param_groups = groups

    @property
    def state(self) -> dict[Tensor, dict]:
        """The state of the optimizer inside."""
        return self.opt.state

    @property
    def frozen_idx(self) -> int:
        """The first group that is trained."""
        return self.opt.frozen_idx

    @frozen_idx.setter
    def frozen_idx(self, n: int) -> None:
        self.opt.frozen_idx = n

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> Any:
        """A fast step, and after every `k` of them a slow one."""
        if self.slow_weights is None:
            self.slow_weights = L([L([p.detach().clone() for p in ps]) for ps in self.param_lists])
        loss = self.opt.step(closure)
        self.count += 1
        if self.count % self.k == 0:
            for slow, fast in zip(self.slow_weights, self.param_lists):
                slow, fast = list(slow), list(fast)
                torch._foreach_lerp_(slow, fast, self.alpha)
                torch._foreach_copy_(fast, slow)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients."""
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
        """Load what `state_dict()` made."""
        sd = dict(sd)
        self.count, slow = sd.pop('count'), sd.pop('slow_weights')
        self.opt.load_state_dict(sd)
        if slow is not None:  # copied: later steps change them in place
            slow = L([L([s.detach().to(p, copy=True) for s, p in zip(ws, ps)])
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
    """
    inner = RAdam(params, lr, mom=mom, sqr_mom=sqr_mom, eps=eps, wd=wd, beta=beta, decouple_wd=decouple_wd)
    return Lookahead(inner, k=k, alpha=alpha)
