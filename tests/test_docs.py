"""The documentation says what is so: its code runs, its links lead somewhere, its lists are whole."""
from __future__ import annotations

import ast
import inspect
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from minifast import plugins
from minifast.callback import core as callback_core
from minifast.vision import all as public

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'tools'))

import make_docs  # noqa: E402
import run_docs  # noqa: E402

DOCS = ROOT / 'docs'
COPIED = {'notebooks', 'measured', 'reference', 'generated', 'changelog.md'}
"""What the build writes into docs/."""
PAGES = sorted(page for page in DOCS.rglob('*.md') if page.relative_to(DOCS).parts[0] not in COPIED)
ELSEWHERE = {'streams.md': 'needs shards: tests/test_data_stream.py runs it'}
RUN = [page for page in run_docs.pages() if page.name not in ELSEWHERE]


def name_of(page: Path) -> str:
    """A page below docs/, in the ids of tests."""
    return page.relative_to(DOCS).with_suffix('').as_posix()


# ---------------------------------------------------------------- code

@pytest.mark.docs
@pytest.mark.filterwarnings('default:.*holds data, no code')  # two pages export a model of their own
@pytest.mark.parametrize('page', RUN, ids=name_of)
def test_code_of_a_page_runs_and_prints_what_the_page_shows(page, tmp_path):
    """As one script, from top to bottom; numbers may differ, words may not."""
    for block, printed in run_docs.run(page, tmp_path):
        if block.output is not None:
            assert run_docs.in_words(printed) == run_docs.in_words(block.output), (
                f'line {block.line}; run: python tools/run_docs.py --write {name_of(page)}.md')


def test_code_that_is_shown_only_is_python():
    """Blocks of ```py, which other libraries or machines would run, are no typing mistakes."""
    shown = [(page, code) for page in PAGES
             for code in re.findall(r'^```py\n(.*?)^```', page.read_text(encoding='utf-8'), re.MULTILINE | re.DOTALL)]
    assert len(shown) > 5
    for page, code in shown:
        ast.parse(code, filename=name_of(page))


OBJECTS = {'learn': public.Learner, 'dls': public.DataLoaders, 'block': public.DataBlock,
           'interp': public.ClassificationInterpretation, 'ImageDataLoaders': public.ImageDataLoaders}
ELSEWHERE_DEFINED = {'Net', 'MyNet', 'StopAt', 'Classifier', 'Trainer', 'ModelCheckpoint'}
"""Classes that a page or another library has of its own."""


def calls(page: Path) -> list[ast.Call]:
    """The calls in the code within the text of a page, and in what is shown only."""
    text = page.read_text(encoding='utf-8')
    shown = re.findall(r'^```py\n(.*?)^```', text, re.MULTILINE | re.DOTALL)
    inline = re.findall(r'`([^`]+)`', re.sub(r'^```.*?^```', '', text, flags=re.MULTILINE | re.DOTALL))
    found = []
    for code in [*shown, *(' '.join(code.split()) for code in inline)]:
        try:
            found += [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
        except SyntaxError:  # a file name, an option
            continue
    return found


def test_calls_in_the_text_are_of_names_and_arguments_that_are_there():
    """What a page says can be called so: names of the house with a capital, methods of a learner and its data."""
    wrong, n = [], 0
    for page in PAGES:
        for call in calls(page):
            name, thing = ast.unparse(call.func), None
            if isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) in OBJECTS:
                thing = getattr(OBJECTS[ast.unparse(call.func.value)], call.func.attr, 'missing')
            elif isinstance(call.func, ast.Name) and name[0].isupper() and name not in ELSEWHERE_DEFINED:
                thing = getattr(public, name, 'missing')
            elif inspect.isfunction(getattr(public, name, None)):
                thing = getattr(public, name)
            if thing is None:
                continue
            n += 1
            taken = inspect.signature(thing).parameters if thing != 'missing' else {}
            takes_any = any(p.kind is p.VAR_KEYWORD for p in getattr(taken, 'values', dict)())
            wrong += [(name_of(page), ast.unparse(call))] if thing == 'missing' or not takes_any and {
                k.arg for k in call.keywords if k.arg} - set(taken) else []
    assert n > 90
    assert not wrong


def test_pictures_behind_code_are_there_and_small():
    """Each is drawn by the block before it, and has no ground of its own, which would be a slab on a dark page."""
    pictures = [(page, block.picture) for page in run_docs.pages() for block in run_docs.blocks(page) if block.picture]
    assert len(pictures) > 20
    for page, picture in pictures:
        assert (page.parent / picture).stat().st_size < 100_000, picture
        assert Image.open(page.parent / picture).convert('RGBA').getpixel((1, 1))[3] == 0, picture


def test_packages_of_callbacks_are_registered_where_they_are_looked_for():
    """The entry-point group of every pyproject.toml that is shown is the one that `minifast plugins` reads."""
    groups = [group for page in [*PAGES, ROOT / 'CONTRIBUTING.md']
              for group in re.findall(r'entry-points\."(.+?)"', page.read_text(encoding='utf-8'))]
    assert len(groups) >= 2 and set(groups) == {plugins.group}


# ---------------------------------------------------------------- links

def links(page: Path) -> list[str]:
    """The targets of the links and pictures of a page, those in code left out."""
    text = re.sub(r'^```.*?^```|`[^`\n]*`', '', page.read_text(encoding='utf-8'), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r'\]\(([^)\s]+)\)', text)


@pytest.mark.parametrize('page', [*PAGES, ROOT / 'README.md', ROOT / 'CHANGELOG.md'], ids=lambda page: page.stem)
def test_relative_links_lead_somewhere(page):
    """A file that is there, or a page of the reference, which is written when the site is built."""
    for target in links(page):
        file, _, anchor = target.partition('#')
        if target.startswith(('http:', 'https:', 'mailto:')):
            continue
        found = (page.parent / file).resolve() if file else page
        written = found.relative_to(ROOT).as_posix()
        if written.startswith('docs/reference/'):
            assert found.name in make_docs.TASKS, target
        elif written.startswith('docs/notebooks/'):
            assert (ROOT / 'nbs' / found.name).is_file(), target
        else:
            assert found.is_file() or written == 'docs/changelog.md', target
            assert not anchor or anchor in anchors(found), target


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub and the site name them in addresses."""
    headings = re.findall(r'^#+ (.*)$', page.read_text(encoding='utf-8'), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


def test_every_page_is_in_a_table_of_contents():
    """No page is reached by search alone."""
    listed = {DOCS / 'index.md'}
    for page in PAGES:
        text = page.read_text(encoding='utf-8')
        for block in re.findall(r'^```\{toctree\}\n(.*?)^```', text, re.MULTILINE | re.DOTALL):
            for entry in block.split('\n'):
                name = re.sub(r'.*<(.*)>', r'\1', entry.strip())
                if name and not name.startswith(':'):
                    listed.add((page.parent / f'{name}.md').resolve())
    assert not set(PAGES) - listed


# ---------------------------------------------------------------- what is written from the code

def test_reference_has_every_public_name_of_the_house_once():
    """What `from minifast.vision.all import *` gives of the house's own, and what scripts import from a room."""
    found = [f'{module.__name__}.{name}' for _, module, names in make_docs.documented() for name in names]
    assert len(set(found)) == len(found) > 500
    missing = {f'{obj.__module__}.{name}' for name, obj in make_docs.public().items()
               if not name.startswith('_') and isinstance(obj, (type, type(name_of)))
               and obj.__module__.startswith('minifast.') and obj.__name__ == name}
    assert not sorted(missing - set(found))


def test_docstrings_become_restructured_text_that_means_the_same():
    """Code stays code, stars and trailing underscores are themselves, examples are left alone."""
    lines = ['`x` and `y`s of **kwargs, ``z``, 2 * x_, a `b', 'c`', '>>> f(*a)', ':class:`Learner`']
    make_docs.as_restructured_text(None, 'function', 'f', None, None, lines)
    assert '\n'.join(lines) == (
        '``x`` and ``y``\\ s of \\*\\*kwargs, ``z``, 2 \\* x\\_, a ``b c``\n>>> f(*a)\n:class:`Learner`')


def test_command_line_page_names_every_command_and_option():
    """From the parser itself."""
    text = make_docs.command_line()
    for name, parser in make_docs.commands().items():
        section = text.split(f'## minifast {name}\n')[1].split('\n## ')[0]
        for action in parser._actions:
            assert all(f'`{option}' in section for option in action.option_strings), (name, action.option_strings)
            assert action.option_strings or action.metavar in section


def test_events_are_drawn_in_the_order_of_the_loop():
    """The drawing of the guide has each event once, where the loop has it, and its table each way out."""
    page = (DOCS / 'callbacks.md').read_text(encoding='utf-8')
    drawn = re.findall(r'^ *(\w+_\w+)', page.split('## The events')[1].split('```')[1], re.MULTILINE)
    assert tuple(drawn) == callback_core.events
    ways_out = {name for name in callback_core.__all__ if name.startswith('Cancel')}
    assert set(re.findall(r'^\| `(Cancel\w+)` \|', page, re.MULTILINE)) == ways_out


def test_order_page_has_every_callback():
    """By rising order, the order in which their hooks run."""
    rows = re.findall(r'^\| (-?\d+) \| (.*) \|$', make_docs.orders(), re.MULTILINE)
    assert [int(order) for order, _ in rows] == sorted(int(order) for order, _ in rows)
    assert {'TrainEvalCallback', 'Recorder', 'ProgressCallback', 'MixUp'} <= set(re.findall(
        r'\{py:class\}`~[\w.]+\.(\w+)`', str(rows)))


def test_gallery_has_every_plot():
    """Each method that draws, of a learner and what belongs to it, is called or named there."""
    page = (DOCS / 'gallery.md').read_text(encoding='utf-8')
    drawing = {method for _, module, names in make_docs.documented() for name in names
               if isinstance(cls := getattr(module, name), type) for method in vars(cls)
               if re.match('plot_|color_|show_batch|show_results', method)}
    assert len(drawing) > 8
    assert not {method for method in drawing if f'.{method}(' not in page}


def test_table_of_fastais_names_is_of_names_that_are_there():
    """Each name that public code uses is in the table, and is here unless the table says why not."""
    text, public = make_docs.fastai_names(), make_docs.public()
    rows = re.findall(r'^\| `(\w+)` \| (\d+) \| (.*) \|$', text, re.MULTILINE)
    assert len(rows) > 230
    assert not [name for name, _, where in rows if where.startswith('`from minifast.vision.all') and name not in public]
