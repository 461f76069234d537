"""What several processes cost: minifast against torch's DistributedDataParallel by hand, bytes sent, checkpoints.

    python -m benchmarks.scale [--rounds 12] [--size tiny|small|full]

Each number of processes is one job of torchrun, in which all contestants take turns on the same batches, so that
whoever else is busy on the machine is so for all. Bytes are those that the kernel says the process's own sockets sent.
"""
from __future__ import annotations

import dataclasses
import json
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset

from benchmarks.loop import make_model as make_mlp
from benchmarks.rounds import (
    Result,
    Timing,
    as_script,
    child_arguments,
    cpu_s,
    run_rounds,
    table,
)

warmup = 5
"""Steps at the start of a segment that are not measured: in the second one DDP rebuilds its buckets."""


def make_conv() -> nn.Module:
    """Three convolutions for pictures of 32 px and ten classes: 24,000 weights."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(),
                         nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(64, 10))


def make_resnet() -> nn.Module:
    """torchvision's resnet18 for ten classes: 11.2 million weights."""
    from torchvision.models import resnet18
    torch.manual_seed(1)
    return resnet18(num_classes=10)


models: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, int]] = {
    'MLP 64-64-10': (make_mlp, (64,), 64, 100), 'conv net, 32 px': (make_conv, (3, 32, 32), 32, 30),
    'resnet18, 32 px': (make_resnet, (3, 32, 32), 16, 6)}
"""Name -> its maker, the shape of an item, the batch size of a process, the steps that are measured in a round."""


# ---------------------------------------------------------------- one of the processes

def sent_bytes() -> int:
    """What the TCP sockets of this process have sent so far, by Linux's `tcp_info`; 0 where there is none."""
    total = 0
    for fd in os.listdir('/proc/self/fd') if hasattr(socket, 'TCP_INFO') else ():
        try:
            if not os.readlink(f'/proc/self/fd/{fd}').startswith('socket:'):
                continue
            with socket.socket(fileno=os.dup(int(fd))) as s:
                info = s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 208)
        except OSError:  # closed meanwhile, or no TCP
            continue
        total += struct.unpack_from('Q', info, 200)[0] if len(info) >= 208 else 0  # tcpi_bytes_sent
    return total


class Watch:
    """Times the steps of a segment from the `warmup`th on, and counts what they send.

    A segment's time is that of its fastest tenth: a step in which one of the processes had to wait for a core is not
    what is compared. `means` has them in.
    """

    def __init__(self, steps: int) -> None:
        self.steps, self.sent, self.means = steps, [], []

    def before_step(self, i: int) -> None:
        """Step `i` begins; all processes begin the first measured one together."""
        if i == warmup:
            dist.barrier()
            self._at, self._from = [], (cpu_s(), sent_bytes())
        if i >= warmup:
            self._at.append(time.perf_counter())

    def after_step(self, i: int) -> None:
        """Step `i` is done."""
        if i == warmup + self.steps - 1:
            self._at.append(time.perf_counter())
            cpu, sent = cpu_s(), sent_bytes()
            each = [b - a for a, b in zip(self._at, self._at[1:])]
            fast = statistics.quantiles(each, n=10, method='inclusive')[0]
            self.timing = Timing(fast, (cpu - self._from[0]) / self.steps)
            self.means.append(statistics.mean(each))
            self.sent.append((sent - self._from[1]) / self.steps)


def loader(shape: tuple[int, ...], bs: int, steps: int) -> Any:
    """Batches in memory, the same for all: floats [bs,*shape] and classes [bs] in each process."""
    from minifast.data.load import DataLoader
    g, n = torch.Generator().manual_seed(0), bs * (warmup + steps) * dist.get_world_size()
    data = TensorDataset(torch.randn(n, *shape, generator=g), torch.randint(0, 10, (n,), generator=g))
    return DataLoader(data, bs, drop_last=True)


def by_hand(make: Callable[[], nn.Module], dl: Any, watch: Watch, tells_loss: bool = False) -> Callable[[], Timing]:
    """DDP as in torch's tutorial, with its fused SGD; `tells_loss` adds the loss of the batch of all processes."""
    model = make()
    ddp = DistributedDataParallel(model)
    opt = torch.optim.SGD(model.parameters(), lr=.01, fused=True)
    dl.share_out(dist.get_rank(), dist.get_world_size())

    def run() -> Timing:
        ddp.train()
        for i, (x, y) in enumerate(dl):
            watch.before_step(i)
            loss = F.cross_entropy(ddp(x), y)
            loss.backward()
            if tells_loss:
                dist.all_reduce(loss.detach())
            opt.step()
            opt.zero_grad()
            watch.after_step(i)
        return watch.timing
    run.model = model
    return run


def by_minifast(make: Callable[[], nn.Module], dl: Any, watch: Watch, every: int | None = None) -> Callable[[], Timing]:
    """The same by `Learner.fit`; `every` writes a checkpoint every so many steps, into a folder that is new."""
    from minifast.callback.checkpoint import CheckpointCallback
    from minifast.callback.core import Callback
    from minifast.data.core import DataLoaders
    from minifast.distributed import from_first
    from minifast.learner import Learner

    class Watched(Callback):
        order, run_valid = 10 ** 7, False

        def before_batch(self) -> None:
            watch.before_step(self.learn.iter)

        def after_batch(self) -> None:
            watch.after_step(self.learn.iter)

    learn = Learner(DataLoaders(dl), make(), F.cross_entropy, partial(torch.optim.SGD, fused=True), lr=.01)
    learn.remove_cb(learn.progress)
    learn.logger = lambda row: None

    def run() -> Timing:
        with tempfile.TemporaryDirectory() as own:
            folder = Path(from_first(own))
            learn.fit(1, cbs=[Watched(), *([CheckpointCallback(folder, every=every)] if every else [])])
            dist.barrier()
            run.size = max((f.stat().st_size for f in folder.rglob('*') if f.is_file()), default=0)
            dist.barrier()
        return watch.timing
    run.model = learn.model
    return run


def exchanges(n: int = 300) -> Timing:
    """One all_gather of 64 bytes a process between hosts, as there is one a step."""
    row = torch.zeros(8, dtype=torch.float64)
    rows = [torch.empty_like(row) for _ in range(dist.get_world_size())]
    wall, cpu = time.perf_counter(), cpu_s()
    for _ in range(n):
        dist.all_gather(rows, row)
    return Timing((time.perf_counter() - wall) / n, (cpu_s() - cpu) / n)


def process(name: str, rounds: int, steps: int) -> dict[str, Any]:
    """What one process of a job measures."""
    torch.set_num_threads(1)
    dist.init_process_group('gloo')
    make, shape, bs, most = models[name]
    steps = min(steps, most)
    makers = {'DDP by hand': partial(by_hand, make), 'DDP by hand, telling the loss of all': partial(
                  by_hand, make, tells_loss=True), 'minifast': partial(by_minifast, make)}
    if name.startswith('resnet'):
        makers[f'minifast, a checkpoint every {steps} steps'] = partial(by_minifast, make, every=steps)
    watches = {who: Watch(steps) for who in makers}
    runs = {who: maker(dl=loader(shape, bs, steps), watch=watches[who]) for who, maker in makers.items()}
    results = run_rounds(runs, rounds, 1)
    *_, plain, last = watches.values()
    weights = [nn.utils.parameters_to_vector(run.model.parameters()).detach() for run in runs.values()]
    largest = max(float((w - weights[0]).abs().max()) for w in weights)
    assert largest < 1e-4, f'the contestants did not make the same steps: {largest}'
    found = {'results': {who: dataclasses.asdict(result) for who, result in results.items()},
             'sent': {who: statistics.median(watch.sent) for who, watch in watches.items()},
             'exchange': statistics.median(exchanges().wall_s for _ in range(5)), 'largest': largest,
             'size': getattr(list(runs.values())[-1], 'size', 0),
             'checkpoint': steps * statistics.median(b - a for a, b in zip(plain.means, last.means)),
             'bytes': 4 * weights[0].numel()}
    dist.destroy_process_group()
    return found


# ---------------------------------------------------------------- the jobs and their tables

def job(n: int, name: str, rounds: int, steps: int) -> dict[str, Any]:
    """What the first of `n` processes found."""
    settings = json.dumps({'rounds': rounds, 'steps': steps})
    command = [sys.executable, '-W', 'ignore', '-m', 'torch.distributed.run', '--standalone', f'--nproc-per-node={n}',
               '-m', 'benchmarks.scale', '--contestant', name, '--settings', settings]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    if done.returncode:
        raise RuntimeError(f'{" ".join(command)} failed:\n{done.stderr[-3000:]}')
    found = json.loads(done.stdout.splitlines()[-1])
    return {**found, 'results': {who: Result(**result) for who, result in found['results'].items()}}


def report(rounds: int = 12, peers: bool = False, size: str = 'small') -> str:
    """The tables as Markdown."""
    counts, names = {'tiny': ((2,), list(models)[:1]), 'small': ((1, 2), list(models)),
                     'full': ((1, 2, 4), list(models))}[size]
    base, parts, sent, waits = 'DDP by hand', [], [], {}
    for name in names:
        for n in counts:
            found = job(n, name, rounds, 10 if size == 'tiny' else 10 ** 6)
            waits.setdefault(n, []).append(found['exchange'])
            results = found['results']
            parts += [f'### A step of {n} process{"es" if n > 1 else ""}, on the clock: {name}',
                      table(results, base, unit='us', what='wall_s', target={'minifast': 1 / .97}),
                      '#### The same, CPU time of the first process', table(results, base, unit='us')]
            cells = ' | '.join(f'{found["sent"][who]:,.0f}' for who in list(results)[:3])
            sent.append(f'| {name} | {n} | {found["bytes"]:,} | {2 * (n - 1) / n * found["bytes"]:,.0f} | {cells} |')
            if found['size']:
                parts.append(f'A checkpoint is {found["size"]:,} bytes and costs the loop '
                             f'{found["checkpoint"] * 1e3:,.1f} ms.')
    head = (f'| | processes | bytes of gradients | `2 (N-1) / N` of them | {" | ".join(list(results)[:3])} |\n'
            '|---|---|---|---|---|---|---|')
    each = ', '.join(f'{statistics.median(found) * 1e6:,.0f} us among {n}' for n, found in waits.items())
    return '\n\n'.join((*parts, '### Bytes that the first process sends a step', '\n'.join([head, *sent]),
                        f'An all_gather of 64 bytes a process between hosts takes {each}.'))


if __name__ == '__main__':
    if child_arguments():
        name, given = child_arguments()
        found = process(name, **given)
        if os.environ['RANK'] == '0':
            print(json.dumps(found))
    else:
        as_script(report, __doc__, 12)
