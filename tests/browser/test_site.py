"""The built documentation in a browser: pages are found by search, and read in the light and the dark."""
from __future__ import annotations

import functools
import http.server
import threading
from pathlib import Path

import pytest

pytestmark = pytest.mark.browser
SITE = Path(__file__).resolve().parents[2] / 'build' / 'docs'


@pytest.fixture(scope='module')
def site():
    """The address of the built site."""
    assert (SITE / 'index.html').is_file(), 'the site is not built: make docs'
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=SITE)
    handler.log_message = lambda *args: None
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize('asked, page', [('fit_one_cycle', 'reference/'), ('class weights', 'recipes/imbalance'),
                                         ('resume', 'recipes/resume'), ('torchrun', 'recipes/many_processes')])
def test_search_finds_what_is_asked_for(chromium, site, asked, page):
    """Among the first ten."""
    tab = chromium.new_page()
    tab.goto(f'{site}/search.html?q={asked.replace(" ", "+")}')
    tab.wait_for_function('/found/.test(document.querySelector(".search-summary")?.innerText)', timeout=30_000)
    found = tab.eval_on_selector_all('ul.search li a', 'found => found.slice(0, 10).map(one => one.href)')
    assert any(page in address for address in found), found
    tab.close()


@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('page', ['index', 'tutorial', 'recipes/segmentation', 'gallery', 'reference/learner'])
def test_pages_are_drawn_without_errors(chromium, site, shot, page, scheme):
    """No script fails, no picture is missing, nothing is wider than a narrow window."""
    tab, errors = chromium.new_page(viewport={'width': 900, 'height': 1200}, color_scheme=scheme), []
    tab.on('pageerror', lambda error: errors.append(str(error)))
    tab.on('response', lambda answer: errors.append(answer.url) if answer.status >= 400 else None)
    tab.goto(f'{site}/{page}.html')
    tab.wait_for_load_state('networkidle')
    shot(tab, f'site-{page.replace("/", "-")}-{scheme}')
    assert not errors
    assert tab.evaluate('document.documentElement.scrollWidth') <= 900
    broken = tab.eval_on_selector_all('img', 'found => found.filter(one => !one.naturalWidth).map(one => one.src)')
    assert not broken
    tab.close()
