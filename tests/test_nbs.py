"""Every notebook runs from a clean kernel; its own assertions are the tests."""
from __future__ import annotations

from pathlib import Path

import pytest

import nbclient
import nbformat

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / 'nbs').glob('*.ipynb'))


def test_there_are_notebooks():
    """The story has its three chapters at least."""
    assert {'00_quickstart', '01_autograd', '02_data'} <= {file.stem for file in NOTEBOOKS}


@pytest.mark.parametrize('file', NOTEBOOKS, ids=lambda file: file.stem)
@pytest.mark.filterwarnings('default')  # the kernel manager's own, not the notebook's
def test_notebook_runs(file, tmp_path, monkeypatch):
    """Executed top to bottom in an empty folder, no cell raises."""
    monkeypatch.setenv('IPYTHONDIR', str(tmp_path / 'ipython'))
    monkeypatch.setenv('PYTHONPATH', str(file.parent.parent))
    (tmp_path / 'work').mkdir()
    book = nbformat.read(file, as_version=4)
    nbclient.NotebookClient(book, timeout=300, kernel_name='python3',
                            resources={'metadata': {'path': str(tmp_path / 'work')}}).execute()


@pytest.mark.parametrize('file', NOTEBOOKS, ids=lambda file: file.stem)
def test_notebook_is_small_and_was_run(file):
    """Committed outputs are whole (every code cell ran, in order) and small enough to read a change of."""
    book = nbformat.read(file, as_version=4)
    assert file.stat().st_size < 300_000
    assert [c.execution_count for c in book.cells if c.cell_type == 'code'] == list(
        range(1, 1 + sum(c.cell_type == 'code' for c in book.cells)))
