"""What `import minifast.vision.all` costs, against importing torch and torchvision alone: CPU time of fresh processes.

    python -m benchmarks.imports [--rounds 10] [--peers]
"""
from __future__ import annotations

import compileall
import subprocess
import sys
from importlib.util import find_spec

import minifast
from benchmarks.rounds import as_script, run_rounds, table

statements = {'torch + torchvision': 'import torch, torchvision', 'minifast.vision.all': 'import minifast.vision.all'}
peer_statements = {'fastai.vision.all': 'import fastai.vision.all', 'lightning': 'import lightning',
                   'ignite.engine': 'import ignite.engine', 'skorch': 'import skorch',
                   'accelerate': 'import accelerate'}


def report(rounds: int = 10, peers: bool = False, size: str = 'small') -> str:
    """The table as Markdown."""
    compileall.compile_dir(minifast.__path__[0], quiet=1)  # as pip does with what it installs, the peers among it
    there = {name: code for name, code in peer_statements.items() if peers and find_spec(name.split('.')[0])}
    contestants = {name: (lambda code=code: subprocess.run([sys.executable, '-W', 'ignore', '-c', code], check=True))
                   for name, code in {**statements, **there}.items()}
    results = run_rounds(contestants, rounds, warmup=1)
    return '### Import, fresh processes\n\n' + table(results, 'torch + torchvision', unit='s',
                                                     target={'minifast.vision.all': 1.10})


if __name__ == '__main__':
    as_script(report, __doc__, 10)
