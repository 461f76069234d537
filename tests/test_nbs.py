"""Every notebook runs from a clean kernel, its own assertions are the tests; what is stored of it suits a reader."""
from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import nbformat
from tools import run_notebooks

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / 'nbs').glob('*.ipynb'))
CHAPTERS = ['quickstart', 'autograd', 'data', 'the_loop', 'callbacks', 'transfer_learning', 'experiments', 'resume',
            'speed', 'many_processes', 'write_a_plugin', 'from_fastai', 'segmentation_points_multilabel', 'deploy']
QUICK = '01_autograd', '02_data'
"""These run in `make test`, the others in `make test-nbs`; the story of the quickstart is run for the README."""

each_notebook = pytest.mark.parametrize('file', NOTEBOOKS, ids=lambda file: file.stem)


def read(file: Path) -> nbformat.NotebookNode:
    return nbformat.read(file, as_version=4)


def code_of(book: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in book.cells if cell.cell_type == 'code']


def texts(output: nbformat.NotebookNode) -> list[str]:
    """What of an output is text: all of it but pictures."""
    data = {kind: text for kind, text in output.get('data', {}).items() if not kind.startswith('image/')}
    return [output.get('text', ''), *map(str, data.values())]


def test_the_chapters_are_numbered_in_their_order():
    """The book has these chapters, and a name begins with the place of its chapter."""
    assert [file.stem for file in NOTEBOOKS] == [f'{i:02d}_{name}' for i, name in enumerate(CHAPTERS)]


@pytest.mark.parametrize('file', [
    pytest.param(file, id=file.stem, marks=[] if file.stem in QUICK else pytest.mark.notebooks) for file in NOTEBOOKS])
@pytest.mark.filterwarnings('default')  # the kernel manager's own, not the notebook's
def test_notebook_runs(file, tmp_path):
    """Executed top to bottom in an empty folder, no cell raises."""
    run_notebooks.run(read(file), tmp_path)


@each_notebook
def test_notebook_is_small_and_was_run(file):
    """Committed outputs are whole (every code cell ran, in order) and small enough to read a change of."""
    book = read(file)
    assert file.stat().st_size < 300_000
    assert len(book.cells) <= 25
    assert [cell.execution_count for cell in code_of(book)] == list(range(1, 1 + len(code_of(book))))


@each_notebook
def test_notebook_begins_with_a_title_and_ends_with_what_it_proves(file):
    """The first cell has the one title of the page, and the last code asserts."""
    book = read(file)
    titles = [line for cell in book.cells if cell.cell_type == 'markdown' for line in cell.source.splitlines()
              if line.startswith('# ')]
    assert titles == book.cells[0].source.splitlines()[:1]
    assert any(isinstance(line, ast.Assert) for line in ast.walk(ast.parse(code_of(book)[-1].source)))


@each_notebook
def test_links_lead_to_other_chapters(file):
    """Where notebooks are pages of a site the other folders of the checkout are not beside them."""
    text = '\n'.join(cell.source for cell in read(file).cells if cell.cell_type == 'markdown')
    assert set(re.findall(r'\]\(([^)]+)\)', text)) <= {other.name for other in NOTEBOOKS}


@each_notebook
def test_stored_outputs_can_be_read_on_a_page(file):
    """No error, nothing that was emptied again, no widget, no control character, no path or address of the machine."""
    book = read(file)
    assert 'widgets' not in book.metadata
    for output in [output for cell in code_of(book) for output in cell.outputs]:
        assert output.output_type != 'error'
        assert not run_notebooks.is_empty(output)
        assert not any('widget' in kind for kind in output.get('data', {}))
        for text in texts(output):
            assert not re.search(r'[\x00-\x08\x0b-\x1f\x7f]', text), text
            assert not re.search(r'/(tmp|home|root|work|Users)/| at 0x[0-9a-f]+', text), text
