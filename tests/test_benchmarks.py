"""Every benchmark runs, at its smallest size, for one round; what it measures is nobody's business here."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

root = Path(__file__).parents[1]
names = ['loop', 'imports', 'pipeline', 'training', 'endtoend', 'inference', 'checkpoints', 'growth',
         'accuracy', 'choosing', 'scale']
pytestmark = pytest.mark.skipif(not (root / 'benchmarks').is_dir(), reason='benchmarks are not part of the wheel')


def _run(*arguments):
    done = subprocess.run([sys.executable, '-W', 'ignore', '-m', *arguments], cwd=root, text=True, capture_output=True,
                          env={**os.environ, 'OMP_NUM_THREADS': '1'})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize('name', [name if name in ('loop', 'growth') else
                                  pytest.param(name, marks=pytest.mark.slow) for name in names])
def test_benchmark_tiny_writes_a_table(name):
    """Law: a benchmark ends well and prints Markdown tables that name minifast or its steps."""
    printed = _run(f'benchmarks.{name}', '--rounds', '1', '--size', 'tiny')
    assert '|---|' in printed
    assert 'minifast' in printed or name == 'growth'


@pytest.mark.slow
def test_benchmark_gpu_tiny_writes_numbers(tmp_path):
    """Law: without a GPU it can be tried, and each table's ratios are in the file, those of the base being 1."""
    printed = _run('benchmarks.gpu', '--rounds', '1', '--size', 'tiny', '--json', str(tmp_path / 'gpu.json'))
    tables = json.loads((tmp_path / 'gpu.json').read_text())['tables']
    assert len(tables) == printed.count('\n|---') == 8
    assert all(found['contestants'][found['base']]['ratio'] == 1 for found in tables.values())


def test_main_only_one_section_keeps_the_others(tmp_path):
    """Law: measuring one benchmark anew leaves the other sections of the page as they were, and draws the picture."""
    (tmp_path / 'RESULTS.md').write_text('# Measured\n\n## Import\n\nkept\n\n## Growth\n\nreplaced\n')
    _run('benchmarks', '--only', 'growth', '--size', 'tiny', '--rounds', '1', '--no-peers', '--out', str(tmp_path))
    page = (tmp_path / 'RESULTS.md').read_text()
    assert 'kept' in page and 'replaced' not in page
    assert (tmp_path / 'results.png').stat().st_size > 0


def test_every_benchmark_is_on_the_page_and_tested():
    """Law: what `python -m benchmarks` runs is what lies in the folder and what is tested here."""
    sys.path.insert(0, str(root))
    try:
        from benchmarks.__main__ import benchmarks
    finally:
        sys.path.remove(str(root))
    assert list(benchmarks) == names
    assert all(find_spec(f'benchmarks.{name}') for name in names)
