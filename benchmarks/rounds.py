"""Interleaved rounds: every contestant runs once a round, so that a noisy machine is noisy for all; medians are compared."""
from __future__ import annotations

import gc
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch


@dataclass
class Result:
    """One contestant's seconds, wall and CPU, one of each a round."""

    name: str
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    def median(self, what: str = 'wall_s') -> float:
        """The median of the rounds, in seconds."""
        return statistics.median(getattr(self, what))


def run_rounds(contestants: dict[str, Callable[[], object]], rounds: int = 12, warmup: int = 2) -> dict[str, Result]:
    """Run all contestants in turn, `warmup` rounds unmeasured, then `rounds` measured ones with alternating order."""
    results = {name: Result(name) for name in contestants}
    order = list(contestants)
    for i in range(warmup + rounds):
        for name in order if i % 2 else order[::-1]:
            gc.collect()
            wall, cpu = time.perf_counter(), _cpu_s()
            contestants[name]()
            wall, cpu = time.perf_counter() - wall, _cpu_s() - cpu
            if i >= warmup:
                results[name].wall_s.append(wall)
                results[name].cpu_s.append(cpu)
    return results


def _cpu_s() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def ratios(results: dict[str, Result], base: str, what: str = 'wall_s') -> dict[str, tuple[float, float, float]]:
    """Each contestant's time over that of `base`, round by round: median, lower and upper quartile."""
    found = {}
    for name, result in results.items():
        each = [a / b for a, b in zip(getattr(result, what), getattr(results[base], what))]
        low, middle, high = statistics.quantiles(each, n=4) if len(each) > 1 else each * 3
        found[name] = (middle, low, high)
    return found


def table(results: dict[str, Result], base: str, per: int = 1, unit: str = 'us', what: str = 'wall_s',
          target: dict[str, float] | None = None) -> str:
    """A Markdown table: the median time of one of `per` steps, its ratio to `base` with quartiles, the target."""
    scale = {'s': 1, 'ms': 1e3, 'us': 1e6}[unit]
    lines = [f'| | {unit} | over {base} | quartiles | target |', '|---|---|---|---|---|']
    for name, (middle, low, high) in ratios(results, base, what).items():
        wanted = f'{target[name]:.2f}' if target and name in target else ''
        time_each = results[name].median(what) / per * scale
        lines.append(f'| {name} | {time_each:,.1f} | **{middle:.2f}** | {low:.2f} - {high:.2f} | {wanted} |')
    return '\n'.join(lines)


def machine() -> str:
    """The machine and the versions in words."""
    cpu = next((line.split(':')[1].strip() for line in Path('/proc/cpuinfo').read_text().splitlines()
                if line.startswith('model name')), platform.processor()) if Path('/proc/cpuinfo').exists() else '?'
    cores = len(os.sched_getaffinity(0))
    gpu = f', {torch.cuda.get_device_name()}' if torch.cuda.is_available() else ', no GPU'
    return (f'{cpu}, {cores} cores{gpu}; Python {platform.python_version()}, torch {torch.__version__}, '
            f'{torch.backends.cpu.get_cpu_capability()}')
