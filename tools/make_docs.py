"""Writes what the documentation site takes from the code: the reference by task, the command line, the table of names.

`docs/conf.py` calls it when the site is built; what it writes into docs/ is ignored by git, as it is always made anew.
"""
from __future__ import annotations

import argparse
import importlib.util
import inspect
import json
import re
import shutil
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / 'docs'

# ---------------------------------------------------------------- the reference, by task

TASKS: dict[str, tuple[str, str, list[str]]] = {
    'learner': ('Training, predicting, exporting', 'A `Learner` holds a model, its data and a loss, and trains it.', [
        'learner', 'vision.learner', 'checkpoint', 'export', 'hub', 'shards', 'inference', 'answers']),
    'data': ('Data: from items to batches', 'Which files, which labels, which split, and the loaders over them.', [
        'data.block', 'vision.data', 'data.core', 'data.load', 'data.transforms', 'data.categorize', 'data.collate',
        'data.sampler', 'data.transform', 'data.showing', 'data.external', 'data.archives']),
    'pictures': ('Pictures, masks, points and boxes', 'What an item is once it is opened, and looking after folders.', [
        'vision.core', 'vision.decode', 'vision.utils', 'vision.widgets']),
    'augmentation': ('Augmentation', 'Changes to pictures that keep their labels true.', [
        'vision.augment', 'vision.crop', 'vision.geometry', 'vision.light']),
    'models': ('Models and layers', 'Bodies with pretrained weights, heads, U-Nets, and the layers they are made of.', [
        'vision.models.create', 'vision.models.unet', 'vision.models.xresnet', 'vision.models.weights', 'layers']),
    'losses': ('Losses', 'Each knows how its predictions become probabilities and answers.', ['losses']),
    'metrics': ('Metrics', 'Numbers for people, measured on the validation set.', [
        'metrics', 'metrics.base', 'metrics.scores']),
    'optimizers': ('Optimizers', 'Steppers and their hyper-parameters by parameter group.', [
        'optimizer', 'optimizer.groups']),
    'schedules': ('Learning rates and schedules', 'Hyper-parameters as functions of the position in the fit.', [
        'callback.schedule']),
    'callbacks': ('Callbacks', 'Everything around the loop. The [guide](../callbacks.md) tells how to write one.', [
        'callback.core', 'callback.recorder', 'callback.progress', 'callback.tracker', 'callback.training',
        'callback.mixup', 'callback.fp16', 'callback.channelslast', 'callback.checkpoint', 'callback.resume',
        'run.folder', 'callback.hook', 'callback.preds', 'callback.data', 'plugins', 'testing', 'test_utils']),
    'trackers': ('Runs and experiment trackers', 'The numbers of a run, written down, compared, sent elsewhere.', [
        'callback.runlog', 'run.history', 'callback.tracking', 'callback.tensorboard', 'callback.wandb',
        'callback.mlflow']),
    'interpretation': ('Interpretation', 'Where the model goes wrong.', ['interpret', 'show']),
    'processes': ('Many processes', 'One training on several processes, GPUs or machines.', [
        'distributed', 'callback.distributed']),
    'tensors': ('Tensors, seeds and small tools', 'Tensors with a meaning, random states, and what scripts expect to '
                                                  'find.', [
        'markers', 'seeds', 'torch_core', 'arguments', 'codetext', 'environment', 'tensorguard', 'imports']),
}
"""Page -> title, first sentence, rooms in the order of the page."""

WHOLE = {'answers', 'environment', 'export', 'plugins', 'shards', 'test_utils', 'testing', 'vision.widgets'}
"""Rooms with names that a script imports from there: no namespace hands them out."""


def public() -> dict[str, Any]:
    """What `from minifast.vision.all import *` gives."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return dict(vars(importlib.import_module('minifast.vision.all')))


def documented() -> Iterator[tuple[str, ModuleType, list[str]]]:
    """(page, room, the classes and functions of that room that users call, in the order of its source)."""
    names = public()
    for page, (_, _, rooms) in TASKS.items():
        for room in rooms:
            module = importlib.import_module(f'minifast.{room}')
            found = [name for name, obj in vars(module).items()
                     if (inspect.isclass(obj) or inspect.isfunction(obj))
                     and obj.__module__ == module.__name__ and obj.__name__ == name
                     and (names.get(name) is obj or room in WHOLE and name in module.__all__)]
            yield page, module, sorted(found, key=lambda name: _line(getattr(module, name)))


def _line(obj: Any) -> int:
    return inspect.getsourcelines(inspect.unwrap(obj))[1]


def reference() -> dict[Path, str]:
    """The pages of the reference, as reStructuredText for autodoc."""
    parts: dict[str, list[str]] = {page: [] for page in TASKS}
    for page, module, names in documented():
        if names:
            title = f'``{module.__name__}``'
            parts[page] += [title, '-' * len(title), '', f'.. module:: {module.__name__}', '',
                            _first_paragraph(module), '', '.. autosummary::', '   :nosignatures:', '',
                            *(f'   {name}' for name in names), '']
            for name in names:
                kind = 'class' if inspect.isclass(getattr(module, name)) else 'function'
                # what a learner does stands in one place, whichever class of it has the method
                whole = ['   :inherited-members:'] if name == 'Learner' else []
                parts[page] += [f'.. auto{kind}:: {name}', *whole, '']
    pages = {}
    for page, (title, sentence, _) in TASKS.items():
        pages[DOCS / 'reference' / f'{page}.rst'] = '\n'.join(
            [title, '=' * len(title), '', _rst(sentence), '', *parts[page]])
    return pages


def _first_paragraph(module: ModuleType) -> str:
    lines = inspect.cleandoc(module.__doc__ or '').split('\n\n')[0].split('\n')
    as_restructured_text(None, 'module', module.__name__, module, None, lines)
    return '\n'.join(lines)


def _rst(sentence: str) -> str:
    """A markdown link and code as reStructuredText."""
    return re.sub(r'`(\w+)`', r'``\1``', re.sub(r'\[(.*?)\]\(\.\./(.*?)\.md\)', r':doc:`\1 <../\2>`', sentence))


def as_restructured_text(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """A docstring as the house writes them, in which `x` is code and a star is a star, for Sphinx: changed in place."""
    text = '\n'.join(lines)
    code = r'(^[ ]*(?:>>>|\.\.\. ).*$|``.+?``|(?<!:)`[^`]+`|:[a-z:]+:`[^`]+`)'
    parts = re.split(code, text, flags=re.MULTILINE | re.DOTALL)
    for i, part in enumerate(parts):
        if i % 2 == 0:
            parts[i] = re.sub(r'[*|]|(?<=\w)_(?!\w)', r'\\\g<0>', part)
        elif part.startswith('`') and not part.startswith('``'):
            follows = parts[i + 1][:1]
            code = ' '.join(part.strip('`').split())
            parts[i] = f'``{code}``' + ('\\ ' if follows.isalnum() or follows == '`' else '')
    lines[:] = ''.join(parts).split('\n')


def readable_signature(app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None,
                       returns: str | None) -> tuple[str | None, str | None]:
    """A signature whose defaults are names: `Adam` instead of `<class 'minifast.optimizer.Adam'>`."""
    if signature:
        signature = re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>", r'\1', signature)
        signature = re.sub(r'<(?:built-in )?(?:function|method) ([\w.]+)[^>]*>', r'\1', signature)
        signature = re.sub(r'<(\w+\.\w+): [^>]*>', r'\1', signature)
    return signature, returns


def internal() -> list[tuple[str, str]]:
    """What signatures name and the reference leaves out: names of the house's own."""
    shown = {f'{module.__name__}.{name}' for _, module, names in documented() for name in names}
    found = set()
    for room in sorted((ROOT / 'minifast').rglob('*.py')):
        dotted = '.'.join(room.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')
        for name in re.findall(r'^class (\w+)|^(\w+) = ', room.read_text(encoding='utf-8'), re.MULTILINE):
            found.add(f'{dotted}.{name[0] or name[1]}')
    return [('py:class', re.escape(name)) for name in sorted(found - shown)]


# ---------------------------------------------------------------- the command line

def commands() -> dict[str, argparse.ArgumentParser]:
    """Command -> its parser, in the order of the help."""
    from minifast.cli import build_parser
    found = next(a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(found.choices)


def command_line() -> str:
    """A section for each command: what it does, its arguments and options with their defaults."""
    parts = []
    for name, parser in commands().items():
        usage = textwrap.fill(' '.join(parser.format_usage().removeprefix('usage: ').split()), 100,
                              subsequent_indent='    ', break_on_hyphens=False)
        parts += [f'## minifast {name}', '', parser.description or _help_of(name), '', '```console', usage, '```', '']
        rows = [(_spelled(action), _explained(action)) for action in parser._actions]
        parts += ['| argument | meaning |', '|---|---|', *(f'| {names} | {words} |' for names, words in rows), '']
    return '\n'.join(parts)


def _help_of(command: str) -> str:
    from minifast.cli import build_parser
    listed = next(a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))._choices_actions
    words = next(action.help for action in listed if action.dest == command)
    return words[0].upper() + words[1:] + '.'


def _spelled(action: argparse.Action) -> str:
    """`--bs N`, or the name of what stands without an option."""
    takes = '' if action.nargs == 0 else f' {action.metavar or action.dest.upper()}'
    return ', '.join(f'`{option}{takes}`' for option in action.option_strings) or f'`{action.metavar}`'


def _explained(action: argparse.Action) -> str:
    words = (action.help or '').replace('|', '\\|')
    default = action.default
    if not action.option_strings or action.nargs == 0 or default in (None, argparse.SUPPRESS):
        return words
    return f'{words} (default: `{default}`)'


# ---------------------------------------------------------------- callbacks by order

def orders() -> str:
    """A table of all callbacks by the `order` of their hooks."""
    from minifast.callback.core import Callback
    found: dict[int, list[str]] = {}
    for _, module, names in documented():
        for name in names:
            cls = getattr(module, name)
            if inspect.isclass(cls) and issubclass(cls, Callback) and isinstance(cls.order, int):
                found.setdefault(cls.order, []).append(f'{{py:class}}`~{module.__name__}.{name}`')
    rows = [f'| {order} | {", ".join(sorted(classes))} |' for order, classes in sorted(found.items())]
    return '\n'.join(['| order | callbacks |', '|---|---|', *rows, ''])


# ---------------------------------------------------------------- fastai's names

def fastai_names() -> str:
    """The names that public fastai code uses, by how many sources use them, and where they are here."""
    surface = json.loads((ROOT / 'tests' / 'data' / 'surface.json').read_text(encoding='utf-8'))
    names, left_out = public(), _left_out()
    rows = []
    for name, fact in sorted(surface['names'].items(), key=lambda pair: (-pair[1]['sources'], pair[0])):
        if name in left_out:
            where = left_out[name]
        elif name in names:
            where = '`from minifast.vision.all import *`'
        else:
            where = f'`from {"minifast" + fact["module"].removeprefix("fastai")} import {name}`'
        rows.append(f'| `{name}` | {fact["sources"]} | {where} |')
    return '\n'.join(['| name | sources | here |', '|---|---|---|', *rows, ''])


def _left_out() -> dict[str, str]:
    """Name -> why it is not there, as the tests know it."""
    spec = importlib.util.spec_from_file_location('left_out', ROOT / 'tests' / 'compat' / 'left_out.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.LEFT_OUT


# ---------------------------------------------------------------- pages that lie elsewhere

COPIES = {'nbs': 'notebooks', 'benchmarks': 'measured', 'CHANGELOG.md': 'changelog.md'}
"""Pages outside docs/, which Sphinx cannot reach: where they lie, and where in docs/ they are copied to."""


def copy_pages() -> None:
    """Copy them anew, so that a page that is gone is gone from the site."""
    for source, target in COPIES.items():
        if (ROOT / source).is_file():
            shutil.copy(ROOT / source, DOCS / target)
            continue
        shutil.rmtree(DOCS / target, ignore_errors=True)
        (DOCS / target).mkdir()
        for file in sorted((ROOT / source).iterdir()):
            if file.suffix in ('.md', '.ipynb', '.png'):
                shutil.copy(file, DOCS / target)


def lead_to_copies(app: Any, page: str, source: list[str]) -> None:
    """Links that lead out of docs/, as readers of the repository need them, lead to the copies on the site."""
    for outside, inside in COPIES.items():
        source[0] = re.sub(rf'\]\(((?:\.\./)*)\.\./{re.escape(outside)}(?=[/)#])', rf'](\g<1>{inside}', source[0])


# ---------------------------------------------------------------- llms.txt

def write_llms(app: Any, exception: Exception | None) -> None:
    """`llms.txt` at the root of the site: each page with its first sentence, for readers that are programs."""
    if exception is not None or app.builder.name != 'html':
        return
    lines = ['# minifast', '', '> A fastai-style training framework on PyTorch: the same names and callbacks, faster, '
             'exactly resumable, with model files that are data and never code.', '']
    for page in _in_order(app.env.toctree_includes, 'index'):
        said = f': {_first_sentence(app.env.get_doctree(page))}'.rstrip(': ')
        lines.append(f'- [{app.env.titles[page].astext()}]({app.builder.get_target_uri(page)}){said}')
    (Path(app.outdir) / 'llms.txt').write_text('\n'.join(lines) + '\n', encoding='utf-8')


def _in_order(below: dict[str, list[str]], page: str) -> list[str]:
    """The pages below one, as the tables of contents have them."""
    return [one for inner in below.get(page, ()) for one in (inner, *_in_order(below, inner))]


def _first_sentence(doctree: Any) -> str:
    from docutils import nodes
    paragraph = next(doctree.findall(nodes.paragraph), None)
    words = ' '.join(paragraph.astext().split()) if paragraph else ''
    return re.split(r'(?<=[.?:]) ', words)[0].rstrip(':')


def write_pages() -> None:
    """Write all generated pages, where they differ from what is there: Sphinx reads again what has changed."""
    parts = {DOCS / 'generated' / f'{make.__name__}.md': make() for make in (command_line, orders, fastai_names)}
    for file, text in {**reference(), **parts}.items():
        file.parent.mkdir(exist_ok=True)
        if not file.exists() or file.read_text(encoding='utf-8') != text:
            file.write_text(text, encoding='utf-8')


if __name__ == '__main__':
    write_pages()
