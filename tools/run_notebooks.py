"""Runs notebooks and stores their outputs in them: `python tools/run_notebooks.py 04 05`, or all of nbs/.

Each runs from top to bottom in a kernel and an empty folder of its own, with this checkout's minifast. What is stored
is what a reader needs: no displays that were emptied again, no times of cells, no state of widgets.
"""
from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import nbclient
import nbformat

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / 'nbs'
LIMIT_S = 300
"""A cell may take."""


def run(book: nbformat.NotebookNode, folder: Path) -> None:
    """Execute `book` in `folder`, which gets a folder `work` to write to; outputs are put into the book."""
    work = folder / 'work'
    work.mkdir(parents=True)
    environ = {**os.environ, 'IPYTHONDIR': str(folder / 'ipython'), 'PYTHONPATH': str(ROOT),
               'MATPLOTLIBRC': str(NBS / 'matplotlibrc'), 'MPLCONFIGDIR': str(folder / 'matplotlib')}
    environ.pop('MPLBACKEND', None)  # the kernel's own draws into the notebook
    nbclient.NotebookClient(book, timeout=LIMIT_S, kernel_name='python3', record_timing=False,
                            resources={'metadata': {'path': str(work)}}).execute(env=environ)


def is_empty(output: nbformat.NotebookNode) -> bool:
    """Whether a display shows nothing: a progress bar leaves such a one behind when it is done."""
    return output.output_type == 'display_data' and output.data.get('text/html') == ''


def tidy(book: nbformat.NotebookNode) -> None:
    """Leave in `book` what a reader needs."""
    book.metadata.pop('widgets', None)
    for cell in book.cells:
        if cell.cell_type == 'code':
            cell.outputs = [output for output in cell.outputs if not is_empty(output)]


def computed_s() -> float:
    """Processor seconds of all child processes that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def main() -> None:
    """Run those whose names begin with one of the arguments, and say how long each took, and how long it computed."""
    files = [file for file in sorted(NBS.glob('*.ipynb')) if file.name.startswith(tuple(sys.argv[1:]) or '')]
    if not files:
        sys.exit(f'no notebook in {NBS} has a name that begins with {" or ".join(sys.argv[1:])}')
    for file in files:
        book, start, before = nbformat.read(file, as_version=4), time.perf_counter(), computed_s()
        with tempfile.TemporaryDirectory() as folder:
            run(book, Path(folder))
        tidy(book)
        nbformat.write(book, file)
        print(f'{file.name:45} {time.perf_counter() - start:5.1f} s, {computed_s() - before:5.1f} s of a processor, '
              f'{file.stat().st_size / 1000:.0f} kB', flush=True)


if __name__ == '__main__':
    main()
