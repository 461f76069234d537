"""JupyterLab with notebooks of `nbs/`, on loopback, and a page of headless Chromium that looks at it."""
from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from tools.run_docs import DOCS, blocks

ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / 'build' / 'browser'
CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
QUIET = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
         '--disable-component-update', '--disable-sync']
"""Root may start it, and it looks for nothing in the network."""


SAID = ['learn', 'learn.recorder', 'dls', 'dls.train', 'learn.recorder.history', 'learn.summary()',
        'learn.predict(files[0])']
"""What a user looks at by its name in a cell."""


def gallery():
    """A notebook of every plot, with the code of the page that shows them, and behind these what objects say."""
    codes = [block.code.rstrip() for block in blocks(DOCS / 'gallery.md')]
    kernel = {'name': 'python3', 'display_name': 'Python 3', 'language': 'python'}  # else a dialog asks for one
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in codes + SAID],
                                    metadata={'kernelspec': kernel})


@pytest.fixture(scope='session')
def chromium():
    """The browser; without one a test fails and says how to get it."""
    assert CHROMIUM, 'no Chromium was found: apt-get install chromium, or another way to have `chromium` on the path'
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


GROUND = '''found => found.map(picture => {
    const canvas = document.createElement('canvas');
    canvas.width = canvas.height = 4;
    const pen = canvas.getContext('2d');
    pen.drawImage(picture, 0, 0, 4, 4, 0, 0, 4, 4);
    return pen.getImageData(0, 0, 1, 1).data[3];
})'''
"""How solid the corners of pictures are: a white slab on a dark page is 255, what lets the page through 0."""


@pytest.fixture
def corners():
    """A function: how solid the corner of each figure of a page is, 0 to 255."""
    return lambda page: page.eval_on_selector_all('.jp-OutputArea-output img', GROUND)


@pytest.fixture
def raw():
    """A function: texts of outputs with an address of an object, a control character or a `\\n` in a quoted text."""
    def of(page):
        texts = page.eval_on_selector_all('.jp-OutputArea-output', 'found => found.map(one => one.innerText)')
        return [text for text in texts if re.search(r' at 0x[0-9a-f]{6,}|[\x00-\x08\x0b-\x1f]|\\n', text)]
    return of


@pytest.fixture
def shot():
    """A function: a picture of the page, kept in build/browser to be looked at."""
    SHOTS.mkdir(parents=True, exist_ok=True)

    def take(page, name):
        page.screenshot(path=SHOTS / f'{name}.png', full_page=True)
    return take


@pytest.fixture(scope='session')
def lab(tmp_path_factory):
    """A function: the address of a JupyterLab in a theme, in whose folder the notebooks lie."""
    servers = {}

    def start(theme):
        if theme in servers:
            return servers[theme][1]
        folder = tmp_path_factory.mktemp(theme.split()[-1].lower())
        for file in (ROOT / 'nbs').glob('*.ipynb'):
            book = nbformat.read(file, as_version=4)
            for cell in book.cells:
                if cell.cell_type == 'code':
                    cell.outputs, cell.execution_count = [], None
            nbformat.write(book, folder / file.name)
        nbformat.write(gallery(), folder / 'gallery.ipynb')
        settings = folder / '.settings'
        settings.mkdir()
        (settings / 'overrides.json').write_text(json.dumps({
            '@jupyterlab/apputils-extension:themes': {'theme': theme},
            '@jupyterlab/apputils-extension:notification': {'fetchNews': 'false', 'checkForUpdates': False},
            # all cells are drawn, also those that would have to be scrolled to
            '@jupyterlab/notebook-extension:tracker': {'windowingMode': 'none'}}))
        log = folder / '.log'
        environ = {**os.environ, 'PYTHONPATH': str(ROOT), 'JUPYTER_CONFIG_DIR': str(folder / '.config'),
                   'JUPYTER_DATA_DIR': str(folder / '.data'), 'IPYTHONDIR': str(folder / '.ipython')}
        environ.pop('MPLBACKEND', None)  # the kernel's own draws into the page
        with log.open('w') as stream:
            started = subprocess.Popen(
                [sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', '--ip=127.0.0.1', '--port=0',
                 '--IdentityProvider.token=', '--ServerApp.password=', f'--ServerApp.root_dir={folder}',
                 f'--LabApp.app_settings_dir={settings}', '--ServerApp.disable_check_xsrf=True'],
                stdout=stream, stderr=subprocess.STDOUT, env=environ, cwd=folder)
        until = time.monotonic() + 120
        while (found := re.search(r'http://127\.0\.0\.1:(\d+)/lab', log.read_text())) is None:
            assert started.poll() is None and time.monotonic() < until, log.read_text()[-3000:]
            time.sleep(.2)
        servers[theme] = started, f'http://127.0.0.1:{found[1]}'
        return servers[theme][1]
    yield start
    for started, _ in servers.values():
        started.terminate()  # it ends its kernels first, each of which may take its time
    for started, _ in servers.values():
        try:
            started.wait(90)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()
