"""A training step of a resnet18: what the hardware's fast paths give, and what minifast adds to the same step by hand.

    python -m benchmarks.training [--rounds 3] [--size small|full]

Each contestant runs in a process of its own, as settings of the allocator are never taken back.
"""
from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.rounds import Timing, as_script, child_arguments, cpu_s, in_child, peak_mb, run_rounds, table, tell

plain = {'plain, fp32': {}, 'plain, fp32 channels_last': dict(channels_last=True),
         'plain, bf16': dict(bf16=True), 'plain, bf16 channels_last': dict(bf16=True, channels_last=True),
         'plain, bf16 channels_last, kept memory': dict(bf16=True, channels_last=True, keep=True)}
tuned = dict(bf16=True, channels_last=True, keep=True)
open_tables = {**{name: ('plain', settings) for name, settings in plain.items()},
               "minifast, precision='fp32'": ('minifast', dict(precision='fp32')),
               "minifast, precision='auto'": ('minifast', dict(precision='auto'))}
frozen_tables = {
    'plain by hand, BatchNorm trained': ('plain', dict(tuned, frozen=True)),
    'minifast': ('minifast', dict(precision='auto', frozen=True)),
    'plain by hand, BatchNorm not trained': ('plain', dict(tuned, frozen=True, train_bn=False)),
    'minifast, train_bn=False': ('minifast', dict(precision='auto', frozen=True, train_bn=False))}


def make_model() -> nn.Module:
    """Sequential(body, head) of a resnet18 for two classes."""
    from torchvision.models import resnet18

    from minifast.vision.models.create import create_vision_model
    torch.manual_seed(0)
    return create_vision_model(resnet18, 2, pretrained=False)


def _plain(batches: list, bf16: bool = False, channels_last: bool = False, keep: bool = False, frozen: bool = False,
           train_bn: bool = True) -> Callable[[], None]:
    """Training epoch by hand; `keep` raises malloc's thresholds."""
    from minifast.hardware import keep_freed_memory
    model = make_model()
    if keep:
        keep_freed_memory()
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    if frozen:
        model[0].requires_grad_(False)
        for m in model[0].modules():
            if isinstance(m, nn.BatchNorm2d):
                m.requires_grad_(train_bn)
    opt = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)

    def run() -> None:
        model.train()
        for x, y in batches:
            with torch.autocast('cpu', torch.bfloat16, enabled=bf16):
                pred = model(x)
            F.cross_entropy(pred.float(), y).backward()
            opt.step()
            opt.zero_grad()
    return run


def _minifast(batches: list, precision: str, frozen: bool = False, train_bn: bool = True) -> Callable[[], None]:
    """The same epoch by `vision_learner(...).fit`."""
    from torchvision.models import resnet18

    from minifast.vision.all import DataLoaders, vision_learner
    torch.manual_seed(0)
    learn = vision_learner(DataLoaders(batches), resnet18, pretrained=False, normalize=False, n_out=2,
                           loss_func=F.cross_entropy, precision=precision, train_bn=train_bn)
    learn.remove_cb(learn.progress)
    learn.logger = lambda row: None
    if frozen:
        learn.freeze()
    return lambda: learn.fit(1)


def child(contestant: str, px: int, bs: int, steps: int) -> Timing:
    """Warm up with an epoch, measure one: seconds a step."""
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)
    batches = [(torch.randn(bs, 3, px, px, generator=g), torch.randint(0, 2, (bs,), generator=g))
               for _ in range(steps)]
    who, settings = {**open_tables, **frozen_tables}[contestant]
    run = {'plain': _plain, 'minifast': _minifast}[who](batches, **settings)
    run()
    wall, cpu = time.perf_counter(), cpu_s()
    run()
    return Timing((time.perf_counter() - wall) / steps, (cpu_s() - cpu) / steps, peak_mb())


def _optimizer_steps(make: Callable) -> Callable[[], None]:
    """Ten steps of an optimizer on a resnet18's weights, with gradients that stay."""
    params = [p for p in make_model().parameters()]
    opt = make(params, lr=1e-5)
    for p in params:
        p.grad = torch.full_like(p, 1e-3)

    def run() -> None:
        for _ in range(10):
            opt.step()
    return run


def optimizer_table(rounds: int) -> str:
    """An optimizer's step over that of torch's fused one."""
    from minifast.optimizer import SGD, Adam, as_optimizer
    torch.set_num_threads(1)
    adam, sgd = partial(torch.optim.AdamW, fused=True), partial(torch.optim.SGD, momentum=0.9, fused=True)
    pairs = {'torch.optim.AdamW(fused=True)': adam, 'minifast Adam': Adam,
             'minifast around torch.optim.AdamW(fused=True)': partial(as_optimizer, adam),
             'torch.optim.SGD(fused=True)': sgd, 'minifast SGD': partial(SGD, mom=0.9)}
    results = run_rounds({name: _optimizer_steps(make) for name, make in pairs.items()}, 4 * rounds)
    by_adam = {name: result for name, result in results.items() if 'SGD' not in name}
    by_sgd = {name: result for name, result in results.items() if 'SGD' in name}
    target = {name: 1.05 for name in results if name.startswith('minifast')}
    return '\n\n'.join(('### An optimizer step on the weights of a resnet18 (1 thread)',
                        table(by_adam, 'torch.optim.AdamW(fused=True)', per=10, unit='ms', target=target),
                        '### The same for SGD with momentum',
                        table(by_sgd, 'torch.optim.SGD(fused=True)', per=10, unit='ms', target=target)))


def report(rounds: int = 3, peers: bool = False, size: str = 'small') -> str:
    """The tables as Markdown."""
    settings = {'tiny': dict(px=32, bs=4, steps=1), 'small': dict(px=160, bs=16, steps=2),
                'full': dict(px=224, bs=32, steps=4)}[size]
    what = f'{settings["px"]} px, batch {settings["bs"]}, 1 thread'
    fast, hand = 'plain, bf16 channels_last, kept memory', 'plain by hand, BatchNorm trained'
    results = [run_rounds({name: in_child('benchmarks.training', name, **settings) for name in names}, rounds, 0)
               for names in (open_tables, frozen_tables)]
    own = {name: results[0][name] for name in (fast, "minifast, precision='auto'")}
    return '\n\n'.join((
        f'### A training step of a resnet18 ({what})', table(results[0], 'plain, fp32', unit='ms'),
        '### The same, over the same step by hand', table(own, fast, unit='ms',
                                                          target={"minifast, precision='auto'": 1.05}),
        f'### A training step with a frozen body ({what}; bf16, channels_last, kept memory)',
        table(results[1], hand, unit='ms', target={'minifast': 1.05}),
        optimizer_table(rounds)))


if __name__ == '__main__':
    if child_arguments():
        name, given = child_arguments()
        tell(child(name, **given))
    else:
        as_script(report, __doc__, 3)
