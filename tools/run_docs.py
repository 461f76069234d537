"""Runs the code of the documentation, each page as a reader who copies its blocks one after the other into one script.

`python tools/run_docs.py recipes/segmentation.md` runs a page; `--write` also puts down what came of it: a picture
behind a block is the figure that the block drew, a block of ```` ```text ```` behind it is what it printed. Blocks of
```` ```python ```` run, those of ```` ```py ```` are only shown: what another library or another machine would run.
Of blocks of ```` ```console ```` with an output behind them the lines `$ minifast ...` run.
"""
from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / 'docs'
BLOCK = re.compile(r'^```(?P<kind>python|console)\n(?P<code>.*?)^```\n(?:\n!\[[^\]]*\]\((?P<picture>[^)]+)\)\n)?'
                   r'(?:\n```text\n(?P<output>.*?)^```\n)?', re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A block of code, the path of the picture that it draws, and what it prints; None where the page shows none."""

    code: str
    picture: str | None
    output: str | None
    line: int


def pages() -> list[Path]:
    """The pages with code that runs."""
    return [page for page in sorted(DOCS.rglob('*.md')) if any(blocks(page))]


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page that run, in order."""
    if not {'notebooks', 'measured', 'reference'} & set(page.relative_to(DOCS).parts):
        text = page.read_text(encoding='utf-8')
        for found in filter(_runs, BLOCK.finditer(text)):
            code, picture, output = found.group('code', 'picture', 'output')
            if found['kind'] == 'console':
                words = [shlex.split(line)[2:] for line in code.splitlines() if line.startswith('$ minifast ')]
                code = ''.join(f'import minifast.cli; minifast.cli.main({argv})\n' for argv in words)
            yield Block(code, picture, output, text[:found.start()].count('\n') + 2)


def _runs(found: re.Match[str]) -> bool:
    return found['kind'] == 'python' or found['output'] is not None


def run(page: Path, folder: Path, write: bool = False) -> Iterator[tuple[Block, str]]:
    """Run a page in a folder and give each block with what it printed; an error names page and line.

    Args:
        page: the page.
        folder: where its files go; the current folder while it runs.
        write: save its figures and put down its outputs.
    """
    import matplotlib.pyplot as plt
    script = ModuleType('__main__')
    vars(script)['__file__'] = str(page)
    told: list[tuple[Block, str]] = []
    with contextlib.chdir(folder) if sys.version_info >= (3, 11) else _chdir(folder):
        for block in blocks(page):
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                # empty lines before it, so that a traceback names the line of the page
                exec(compile('\n' * (block.line - 1) + block.code, str(page), 'exec'), vars(script))
            if block.picture and not plt.get_fignums():
                raise AssertionError(f'{page.name}, line {block.line}: the block draws no figure for {block.picture}')
            if block.picture and write:
                _save(plt.gcf(), page.parent / block.picture)
            plt.close('all')
            told.append((block, printed.getvalue()))
            yield told[-1]
    if write:
        _put_down(page, told)


@contextlib.contextmanager
def _chdir(folder: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _save(figure, file: Path) -> None:
    """A figure as a small PNG without a background: 128 colours are enough for plots and small pictures."""
    from PIL import Image
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=80, bbox_inches='tight')
    file.parent.mkdir(exist_ok=True)
    Image.open(drawn).convert('RGBA').quantize(128, Image.Quantize.FASTOCTREE).save(file, optimize=True)


def _put_down(page: Path, told: list[tuple[Block, str]]) -> None:
    text = page.read_text(encoding='utf-8')
    outputs = iter(printed for _, printed in told)

    def with_output(found: re.Match[str]) -> str:
        printed = next(outputs) if _runs(found) else ''
        if found['output'] is None:
            return found[0]
        start, end = (at - found.start() for at in found.span('output'))
        return found[0][:start] + readable(printed) + found[0][end:]
    page.write_text(BLOCK.sub(with_output, text), encoding='utf-8')


def readable(printed: str) -> str:
    """What was printed, without blanks at the ends of its lines."""
    return ''.join(line.rstrip() + '\n' for line in printed.rstrip().split('\n'))


def in_words(printed: str) -> list[str]:
    """What was printed without its numbers, which differ from machine to machine."""
    return re.sub(r'[-+]?[\d.:]+(?:e[-+]?\d+)?|nan|inf', '#', printed).split()


def main() -> None:
    """Run the pages that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('pages', nargs='*', help='pages, below docs/; default: all')
    parser.add_argument('--write', action='store_true', help='save figures and put down outputs')
    args = parser.parse_args()
    for page in [DOCS / name for name in args.pages] or pages():
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            for block, printed in run(page, Path(folder), args.write):
                if len(args.pages) == 1:
                    print(f'--- line {block.line}\n{printed}', end='')
        print(f'{page.relative_to(DOCS)}: {time.perf_counter() - began:.1f} s', flush=True)


if __name__ == '__main__':
    main()
