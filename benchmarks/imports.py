"""What `import minifast.vision.all` costs, against importing torch and torchvision alone: CPU time of fresh processes.

    python -m benchmarks.imports [--rounds 10]
"""
from __future__ import annotations

import argparse
import subprocess
import sys

from benchmarks.rounds import machine, run_rounds, table

statements = {'torch + torchvision': 'import torch, torchvision', 'minifast.vision.all': 'import minifast.vision.all'}
peer_statements = {'fastai.vision.all': 'import fastai.vision.all', 'lightning': 'import lightning'}


def report(rounds: int = 10, peers: bool = False) -> str:
    """The table as Markdown."""
    chosen = {**statements, **(peer_statements if peers else {})}
    contestants = {name: (lambda code=code: subprocess.run([sys.executable, '-W', 'ignore', '-c', code], check=True))
                   for name, code in chosen.items()}
    results = run_rounds(contestants, rounds)
    return '### Import, CPU seconds\n\n' + table(results, 'torch + torchvision', unit='s', what='cpu_s',
                                                 target={'minifast.vision.all': 1.10})


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--rounds', type=int, default=10)
    parser.add_argument('--peers', action='store_true')
    arguments = parser.parse_args()
    print(machine(), report(arguments.rounds, arguments.peers), sep='\n\n')
