"""Interleaved rounds: every contestant runs once a round, so that a noisy machine is so for all; medians are compared.

Ratios are of CPU time, all threads and child processes together: it hardly notices who else is busy on the machine,
as the time on the clock does.
"""
from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch


class Timing(NamedTuple):
    """What a contestant that measures itself returns: seconds on the clock and of the CPU, and its peak memory."""

    wall_s: float
    cpu_s: float
    peak_mb: float = 0.


@dataclass
class Result:
    """One contestant's seconds, wall and CPU, and peak memory, one of each a round."""

    name: str
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    peak_mb: list[float] = field(default_factory=list)

    def median(self, what: str = 'cpu_s') -> float:
        """The median of the rounds."""
        return statistics.median(getattr(self, what))


def run_rounds(contestants: dict[str, Callable[[], object]], rounds: int = 12, warmup: int = 2) -> dict[str, Result]:
    """Run all contestants in turn, `warmup` rounds unmeasured, then `rounds` measured ones with alternating order."""
    results = {name: Result(name) for name in contestants}
    order = list(contestants)
    for i in range(warmup + rounds):
        for name in order if i % 2 else order[::-1]:
            gc.collect()
            timing = measure(contestants[name])
            if i >= warmup:
                for what, value in timing._asdict().items():
                    getattr(results[name], what).append(value)
    return results


def measure(contestant: Callable[[], object]) -> Timing:
    """One run; a contestant that returns a `Timing` has measured itself."""
    wall, cpu = time.perf_counter(), cpu_s()
    timing = contestant()
    return timing if isinstance(timing, Timing) else Timing(time.perf_counter() - wall, cpu_s() - cpu)


def cpu_s() -> float:
    """CPU seconds of this process and of its children that have ended."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def peak_mb() -> float:
    """The most memory this process ever held, in MB; a process that was forked may start with its parent's."""
    status = Path('/proc/self/status')
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith('VmHWM'))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_child(module: str, contestant: str, **settings: object) -> Callable[[], Timing]:
    """A contestant in a fresh process, for what would change its neighbours: memory settings, threads, peak memory.

    `module` is run with `--contestant NAME --settings JSON` and prints the fields of its `Timing` as JSON last.
    """
    command = [sys.executable, '-W', 'ignore', '-m', module, '--contestant', contestant, '--settings',
               json.dumps(settings)]

    def run() -> Timing:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f'{" ".join(command)} failed:\n{done.stderr[-3000:]}')
        return Timing(**json.loads(done.stdout.splitlines()[-1]))
    return run


def ratios(results: dict[str, Result], base: str, what: str = 'cpu_s') -> dict[str, tuple[float, float, float]]:
    """Each contestant's time over that of `base`, round by round: median, lower and upper quartile."""
    found = {}
    for name, result in results.items():
        each = [a / b for a, b in zip(getattr(result, what), getattr(results[base], what))]
        low, middle, high = statistics.quantiles(each, n=4, method='inclusive') if len(each) > 1 else each * 3
        found[name] = (middle, low, high)
    return found


def table(results: dict[str, Result], base: str, per: float = 1, unit: str = 'us', what: str = 'cpu_s',
          target: dict[str, float] | None = None) -> str:
    """A Markdown table: the median time of one of `per` steps, its ratio to `base` with quartiles, the target."""
    scale = {'s': 1, 'ms': 1e3, 'us': 1e6, 'MB': 1}[unit]
    lines = [f'| | {unit} | over {base} | quartiles | target |', '|---|---|---|---|---|']
    for name, (middle, low, high) in ratios(results, base, what).items():
        wanted = f'{target[name]:.2f}' if target and name in target else ''
        time_each = results[name].median(what) / per * scale
        lines.append(f'| {name} | {time_each:,.1f} | **{middle:.2f}** | {low:.2f} - {high:.2f} | {wanted} |')
    return '\n'.join(lines)


def machine() -> str:
    """The machine and the versions in words."""
    cpuinfo = Path('/proc/cpuinfo')
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    cpu = next((line.split(':')[1].strip() for line in lines if line.startswith('model name')), platform.processor())
    flags = next((line for line in lines if line.startswith('flags')), '')
    fast = ', '.join(word for word, flag in (('AMX', 'amx_bf16'), ('AVX512-BF16', 'avx512_bf16')) if flag in flags)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    gpu = f', {torch.cuda.get_device_name()}' if torch.cuda.is_available() else ', no GPU'
    return (f'{cpu or "unknown CPU"} ({fast or "no fast bfloat16"}), {cores} cores{gpu}; Python '
            f'{platform.python_version()}, torch {torch.__version__}')


def as_script(report: Callable[..., str], doc: str, rounds: int) -> None:
    """The command line of one benchmark."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=rounds)
    parser.add_argument('--peers', action='store_true', help='with the other frameworks that are installed')
    parser.add_argument('--size', choices=('tiny', 'small', 'full'), default='small')
    arguments = parser.parse_args()
    print(machine(), report(arguments.rounds, arguments.peers, arguments.size), sep='\n\n')


def child_arguments() -> tuple[str, dict] | None:
    """(contestant, settings) where this process was started by `in_child`."""
    if '--contestant' not in sys.argv:
        return None
    parser = argparse.ArgumentParser()
    parser.add_argument('--contestant')
    parser.add_argument('--settings', type=json.loads)
    arguments = parser.parse_args()
    return arguments.contestant, arguments.settings


def tell(timing: Timing) -> None:
    """Print a `Timing` for `in_child`."""
    print(json.dumps(timing._asdict()))
