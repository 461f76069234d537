"""All benchmarks, written to benchmarks/RESULTS.md.

    python -m benchmarks                        everything, with the peers that are installed
    python -m benchmarks --quick                three minutes, without peers; prints and writes nothing
    python -m benchmarks --only loop,imports    measure these anew and leave the rest of RESULTS.md as it is

Each benchmark runs in a process of its own, so that none changes another's memory settings or threads.
"""
from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

from benchmarks.plot import draw
from benchmarks.rounds import machine

here = Path(__file__).parent
benchmarks = {'loop': 'The loop', 'imports': 'Import', 'pipeline': 'Pictures', 'training': 'Training step',
              'endtoend': 'End to end', 'inference': 'Inference', 'checkpoints': 'Checkpoints', 'growth': 'Growth',
              'accuracy': 'Accuracy', 'choosing': 'Size, architecture, epochs', 'scale': 'Many processes'}
quick = {'loop': ('small', 4), 'imports': ('small', 3), 'pipeline': ('tiny', 3), 'inference': ('small', 2)}

intro = """# Measured

Ratios of CPU time (all threads, child processes included), unless a title says otherwise. Contestants take turns in
rounds; **bold** is the median of the rounds' ratios, beside it their quartiles. Below 1.00 is faster than what the
column names. Wide quartiles mean that the machine had other work. `make bench` writes this page, one section at a
time; failed ideas are in [LOG.md](LOG.md).

![Ratios over their targets](results.png)
"""


def measure(name: str, rounds: int | None, peers: bool, size: str) -> str:
    """The section of one benchmark, made in its own process."""
    command = [sys.executable, '-W', 'ignore', '-m', f'benchmarks.{name}', '--size', size]
    command += ['--peers'] if peers else []
    command += ['--rounds', str(rounds)] if rounds else []
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, cwd=here.parent, check=True,
                          env={**os.environ, 'OMP_NUM_THREADS': '1'})
    who, _, tables = done.stdout.partition('\n\n')
    return f'## {benchmarks[name]}\n\n{who}; size `{size}`.\n\n{tables.strip()}\n'


def sections(markdown: str) -> dict[str, str]:
    """Title -> section of an earlier RESULTS.md."""
    parts = re.split(r'^(?=## )', markdown, flags=re.M)[1:]
    return {part.splitlines()[0][3:]: part.strip() + '\n' for part in parts}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--quick', action='store_true')
    parser.add_argument('--only', default=','.join(benchmarks), help='names, parted by commas')
    parser.add_argument('--rounds', type=int, help='default: what each benchmark chose')
    parser.add_argument('--size', choices=('tiny', 'small', 'full'), default='small')
    parser.add_argument('--no-peers', action='store_true')
    parser.add_argument('--out', type=Path, default=here)
    arguments = parser.parse_args()
    names = arguments.only.split(',')
    if unknown := set(names) - set(benchmarks):
        parser.error(f'{", ".join(sorted(unknown))}: no such benchmark; there are {", ".join(benchmarks)}')
    if arguments.quick:
        for name, (size, rounds) in quick.items():
            if name in names:
                print(measure(name, rounds, False, size), flush=True)
        return
    results = arguments.out / 'RESULTS.md'
    known = sections(results.read_text()) if results.exists() else {}
    for name in names:
        print(f'{name} ...', flush=True)
        known[benchmarks[name]] = measure(name, arguments.rounds, not arguments.no_peers, arguments.size)
        print(known[benchmarks[name]], flush=True)
        page = '\n'.join([intro, *(known[title] for title in benchmarks.values() if title in known)])
        results.write_text(page)
        draw(page, arguments.out / 'results.png')
    print(f'{machine()}: written to {results}')


if __name__ == '__main__':
    main()
