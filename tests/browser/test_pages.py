"""Notebooks outside JupyterLab: as pages of nbconvert, and on a ground that has no style sheet of Jupyter's."""
from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import nbformat
import pytest

pytestmark = pytest.mark.browser
BOOK = sorted((Path(__file__).resolve().parents[2] / 'nbs').glob('*.ipynb'))
WIDTH = 1000

GROUNDS = {'light': ('#ffffff', '#3b3b3b'), 'dark': ('#1f1f1f', '#cccccc')}
"""The editor's ground and text in the standard themes of VS Code."""

FAINT = '''() => {
    const parts = color => (color.match(/[\\d.]+/g) ?? []).map(Number);
    const light = color => {
        const linear = x => x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4;
        const [r, g, b] = parts(color).map(x => linear(x / 255));
        return .2126 * r + .7152 * g + .0722 * b;
    };
    const ground = one => {
        const color = getComputedStyle(one).backgroundColor;
        return parts(color)[3] === 0 && one.parentElement ? ground(one.parentElement) : color;
    };
    const texts = [...document.querySelectorAll('body *')].filter(one =>
        [...one.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.textContent.trim()));
    return texts.filter(one => {
        const [low, high] = [light(getComputedStyle(one).color), light(ground(one))].sort((a, b) => a - b);
        return (high + .05) / (low + .05) < 4.5;
    }).map(one => one.textContent);
}'''
"""Texts whose contrast to their ground is less than what WCAG 2 asks for at level AA."""


@pytest.fixture(scope='module', params=GROUNDS)
def converted(request, tmp_path_factory):
    """Theme and folder: the book as pages of HTML."""
    folder = tmp_path_factory.mktemp(request.param)
    subprocess.run([sys.executable, '-m', 'nbconvert', '--log-level=ERROR', '--to=html', f'--theme={request.param}',
                    f'--output-dir={folder}', *BOOK], check=True)
    return request.param, folder


@pytest.mark.parametrize('file', BOOK, ids=lambda file: file.stem[:2])
def test_converted_to_html_a_notebook_can_be_read(chromium, converted, shot, corners, raw, file):
    """Every figure is there and none a slab of its own ground; nothing is raw, and nothing wider than the window."""
    theme, folder = converted
    tab = chromium.new_page(viewport={'width': WIDTH, 'height': 1400})
    tab.goto((folder / f'{file.stem}.html').as_uri(), wait_until='domcontentloaded')
    tab.wait_for_selector('.jp-Notebook')
    shot(tab, f'html-{file.stem}-{theme}')
    outputs = [output for cell in nbformat.read(file, 4).cells for output in cell.get('outputs', [])]
    assert tab.locator('.jp-OutputArea-output img').count() == sum('image/png' in o.get('data', {}) for o in outputs)
    assert not tab.eval_on_selector_all('img', 'found => found.filter(one => !one.naturalWidth).map(one => one.alt)')
    assert all(alpha < 32 for alpha in corners(tab))
    assert raw(tab) == []
    assert tab.evaluate('document.documentElement.scrollWidth') <= WIDTH
    tab.close()


@pytest.mark.parametrize('theme', GROUNDS)
def test_what_a_notebook_shows_needs_no_style_of_jupyters(chromium, shot, theme, monkeypatch):
    """Table, bar and history on VS Code's grounds: every text can be read, the bar and the table's cells are seen."""
    from small_learner import learner

    from minifast.callback.progress import ProgressCallback
    shown = []
    monkeypatch.setitem(sys.modules, 'IPython.display', types.SimpleNamespace(
        HTML=str, display=lambda page, display_id: shown.append(page) or types.SimpleNamespace(update=shown.append)))
    monkeypatch.setattr('minifast.callback.progress.in_notebook', lambda: True)
    monkeypatch.setattr('minifast.callback.progress.refresh_s', 0)
    learn = learner(n=24, cbs=ProgressCallback())
    learn.fit(3)
    with_bar = [page for page in shown if '<progress' in page and '<table' in page]
    ground, text = GROUNDS[theme]
    tab = chromium.new_page(viewport={'width': WIDTH, 'height': 400})
    tab.set_content(f'<body style="background: {ground}; color: {text}; font: 13px sans-serif">'
                    f'<div>{with_bar[-1]}</div><div>{learn.recorder.history._repr_html_()}</div>')
    shot(tab, f'plain-{theme}')
    assert tab.evaluate(FAINT) == []
    bar = tab.locator('progress').bounding_box()
    assert bar['width'] == 300 and bar['height'] > 4
    assert tab.locator('tr').count() > 6
    tab.close()
