"""Notebooks in JupyterLab, as a user sees them: they run, and what they show can be read in the light and the dark."""
from __future__ import annotations

import contextlib
import re

import pytest

pytestmark = pytest.mark.browser
THEMES = ['JupyterLab Light', 'JupyterLab Dark']
NOTEBOOKS = ['00_quickstart', '06_experiments', 'gallery']
IN_SIGHT = {'00_quickstart', 'gallery'}
"""Where a training shows its bar and its table."""


PROMPTS = 'found => found.map(one => one.innerText.trim())'


def prompts(page):
    """What stands before the cells of code."""
    return page.eval_on_selector_all('.jp-CodeCell .jp-InputPrompt', PROMPTS)


def start_all(page):
    """Run all cells by the menu, which does nothing before the kernel is there."""
    from playwright.sync_api import TimeoutError
    for _ in range(40):
        for answer in page.query_selector_all('.jp-Dialog .jp-mod-accept'):  # which kernel, say
            answer.click()
        with contextlib.suppress(TimeoutError):  # a dialog came up meanwhile
            page.click('.lm-MenuBar-itemLabel:text-is("Run")', timeout=5000)
            page.click('.lm-Menu-itemLabel:text-is("Run All Cells")', timeout=5000)
        page.wait_for_timeout(3000)
        if any(prompt != '[ ]:' for prompt in prompts(page)):
            return
    raise AssertionError('no cell has begun to run')


@pytest.fixture(scope='module')
def ran(chromium, lab):
    """A function: a page on which a notebook has run from top to bottom, each once for a theme; and what its bars said
    on the way."""
    done = {}

    def of(name, theme):
        if (name, theme) not in done:
            page = chromium.new_page(viewport={'width': 1000, 'height': 1400})
            # a workspace of its own: else the notebook before it is opened too, and may be the one that is run
            page.goto(f'{lab(theme)}/lab/workspaces/{name}/tree/{name}.ipynb')
            page.wait_for_selector('.jp-Notebook .jp-CodeCell', timeout=120_000)
            page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', timeout=120_000)
            start_all(page)
            bars, idle = set(), 0
            for _ in range(1200):  # five minutes
                bars |= set(page.eval_on_selector_all(
                    '.jp-OutputArea-output progress', 'found => found.map(bar => bar.parentElement?.innerText ?? "")'))
                if all(re.fullmatch(r'\[\d+\]:', prompt) for prompt in prompts(page)):
                    break
                status = page.get_attribute('.jp-Notebook-ExecutionIndicator', 'data-status')
                idle = idle + 1 if status == 'idle' else 0
                if idle == 40:  # what was asked for before the kernel listened is lost, and its cells wait for ever
                    start_all(page)
                    idle = 0
                page.wait_for_timeout(250)
            done[name, theme] = page, bars
        return done[name, theme]
    return of


@pytest.fixture(params=[(name, theme) for name in NOTEBOOKS for theme in THEMES], ids=' '.join)
def shown(request, ran):
    """Name, theme, page and what bars said of a notebook that has run."""
    return *request.param, *ran(*request.param)


def test_every_cell_has_run_without_an_error(shown, shot):
    """Nothing red: no traceback, no warning."""
    name, theme, page, _ = shown
    height = page.evaluate('document.querySelector(".jp-WindowedPanel-outer").scrollHeight')
    page.set_viewport_size({'width': 1000, 'height': height + 120})  # the notebook scrolls in its own frame
    shot(page, f'{name}-{theme.split()[-1].lower()}')
    assert prompts(page) and all(re.fullmatch(r'\[\d+\]:', prompt) for prompt in prompts(page)), prompts(page)
    told = page.eval_on_selector_all('[data-mime-type="application/vnd.jupyter.stderr"]',
                                     'found => found.map(one => one.innerText)')
    assert not told, told


def test_pictures_and_tables_are_there_and_nothing_is_raw(shown, raw):
    """Pictures, the table of epochs; no address of an object, no control character, no `\\n` in a quoted text."""
    name, _, page, _ = shown
    assert page.locator('.jp-OutputArea-output img').count() >= 2
    assert bool(page.locator('.jp-OutputArea-output table').count()) is (name in IN_SIGHT)
    assert raw(page) == []


def test_a_bar_tells_epoch_time_and_loss(shown):
    """While the training runs, where it does so in sight."""
    name, *_, bars = shown
    assert bool(bars) is (name in IN_SIGHT)
    told = r'\d+/\d+', r'\d\d:\d\d', r'\d\.\d'
    assert not bars or any(all(re.search(what, bar) for what in told) for bar in bars), bars


def test_figures_suit_the_theme(shown, corners):
    """Their ground is the page's, or nearly: a white slab on a dark page is none."""
    found = corners(shown[2])
    assert found and all(alpha < 32 for alpha in found), found


@pytest.mark.parametrize('theme', THEMES)
def test_objects_say_what_they_are(ran, theme):
    """A sentence for learner, recorder and loaders; tables for the history and the summary."""
    page, _ = ran('gallery', theme)
    outputs = page.eval_on_selector_all('.jp-CodeCell', """found => found.slice(-7).map(cell => [
        ...cell.querySelectorAll('.jp-OutputArea-executeResult .jp-RenderedText, .jp-OutputArea-executeResult table')
        ].map(one => one.innerText))""")
    assert all(len(texts) == 1 for texts in outputs), outputs
    learn, recorder, dls, train, history, summary, prediction = (texts[0].strip() for texts in outputs)
    assert learn.startswith('Learner: Sequential, ')
    assert learn.endswith(' parameters, 10 classes, 6 epochs in the last fit, cpu')
    assert recorder.startswith('Recorder: 6 epochs, at the end train_loss ')
    assert dls == 'ImageDataLoaders: 320 + 80 pictures 32x32, 10 classes, bs 16, cpu'
    assert train == 'TfmdDL: 320 pictures 32x32, 10 classes, bs 16, cpu'
    assert page.locator('.jp-CodeCell').nth(-3).locator('tr').count() == 7 and history.split()[:2] == ['fit', 'epoch']
    assert summary.count('\n') > 15 and 'Layer (type)         Output Shape' in summary and "'" not in summary[:1]
    assert prediction.startswith("('"), prediction


@pytest.mark.parametrize('theme', THEMES)
def test_lr_find_names_its_suggestions(ran, theme):
    """As numbers in words, beside the figure, whose legend has them too."""
    page, _ = ran('gallery', theme)
    told = page.eval_on_selector_all('.jp-OutputArea-executeResult', 'found => found.map(one => one.innerText)')
    assert any(re.search(r'minimum=\S+e-\d\d, steep=', text) for text in told), told
