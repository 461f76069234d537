"""Draws docs/architecture.svg from the imports, and writes the list of rooms in docs/architecture.md.

The floors are those of setup.cfg, from the top down; rooms on the way of one batch (`tests/way.py`) are numbered in
the order in which it reaches them. `make generated` runs it; tests/test_architecture.py fails while one is stale.
"""
from __future__ import annotations

import ast
import configparser
import json
import os
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / 'minifast'
PAGE, DRAWING = ROOT / 'docs' / 'architecture.md', ROOT / 'docs' / 'architecture.svg'
START, END = '<!-- rooms: written by tools/make_architecture.py -->\n', '<!-- end of rooms -->\n'
FLOORS = ('doors', 'learner', 'models', 'training', 'pictures', 'data', 'tensors', 'ground')
WIDTH, LEFT, RIGHT, LINE, CHAR = 1060, 92, 120, 30, 7.3


def module_of(file: Path) -> str:
    """`minifast/data/core.py` -> `minifast.data.core`; a package's `__init__` -> the package."""
    return '.'.join(file.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')


def docstring_lines(text: str) -> set[int]:
    """The lines of a file's docstrings, those of names and attributes too."""
    strings = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Expr)
               and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str))
    return {line for node in strings for line in range(node.lineno, node.end_lineno + 1)}


@cache
def trees() -> dict[str, ast.Module]:
    """All rooms; files that only mark a folder as a package are none."""
    parsed = {module_of(f): ast.parse(f.read_text(encoding='utf-8')) for f in sorted(PACKAGE.rglob('*.py'))}
    return {module: tree for module, tree in parsed.items() if len(tree.body) > 1 and module != 'minifast'}


def floors() -> dict[str, list[str]]:
    """Floor -> its rooms, from the top down, each once."""
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg', encoding='utf-8')
    lines = config['importlinter:contract:floors']['layers'].strip().splitlines()
    named = [(i, part.strip(' ()')) for i, line in enumerate(lines) for part in re.split(r'[|:]', line)]
    found: dict[str, list[str]] = {floor: [] for floor in FLOORS}
    for module in trees():
        # the longest name that fits is the floor's: minifast.vision.all is not where minifast.vision is
        fits = [(len(name), i) for i, name in named if module == name or module.startswith(name + '.')]
        found[FLOORS[max(fits)[1]]].append(module)
    return found


def imports() -> set[tuple[str, str]]:
    """(room, room that it imports), also inside functions."""
    found = set()
    for module, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith('minifast'):
                inner = {f'{node.module}.{alias.name}' for alias in node.names} & trees().keys()
                found |= {(module, other) for other in inner or {node.module} & trees().keys()}
            elif isinstance(node, ast.Import):
                found |= {(module, alias.name) for alias in node.names if alias.name in trees()}
    return {(a, b) for a, b in found if a != b}


@cache
def measured() -> dict:
    """What tests/way.py measures, in a process of its own, in which nothing else was profiled or imported."""
    done = subprocess.run([sys.executable, '-W', 'ignore', str(ROOT / 'tests' / 'way.py'), '--json'], cwd=ROOT,
                          capture_output=True, text=True, check=True,
                          env={**os.environ, 'MPLBACKEND': 'Agg', 'PYTHONPATH': str(ROOT)})
    return json.loads(done.stdout)


def way() -> list[str]:
    """The rooms on the way of one batch, in the order in which it reaches them."""
    return [module_of(PACKAGE / name) for name in measured()['rooms']]


def short(module: str) -> str:
    """A room's name within the package."""
    return module.removeprefix('minifast.')


def drawing() -> str:
    """The floors as bands, their rooms as boxes; on the right how many imports lead from floor to floor."""
    number = {module: i for i, module in enumerate(way(), 1)}
    parts, middle, y = [], {}, 12
    for floor, rooms in floors().items():
        boxes, x, top = [], LEFT, y + 8
        for module in sorted(rooms, key=lambda m: (number.get(m, 999), m)):
            text = f'{number[module]} {short(module)}' if module in number else short(module)
            wide = round(len(text) * CHAR + 14)
            if x + wide > WIDTH - RIGHT:
                x, top = LEFT, top + LINE
            kind = 'way' if module in number else 'room'
            boxes.append(f'<rect class="{kind}" x="{x}" y="{top}" width="{wide}" height="22" rx="4"/>'
                         f'<text x="{x + 7}" y="{top + 15}">{escape(text)}</text>')
            x += wide + 7
        height = top + LINE - y
        parts.append(f'<rect class="floor" x="4" y="{y}" width="{WIDTH - RIGHT - 2}" height="{height}" rx="6"/>'
                     f'<text class="name" x="14" y="{y + 23}">{floor}</text>' + ''.join(boxes))
        middle[floor] = y + height / 2
        y += height + 8
    home = {module: floor for floor, rooms in floors().items() for module in rooms}
    counted = Counter((home[a], home[b]) for a, b in imports() if home[a] != home[b])
    for (upper, lower), n in sorted(counted.items()):
        apart = FLOORS.index(lower) - FLOORS.index(upper)
        x0, y0, y1 = WIDTH - RIGHT + 2, middle[upper] + 4, middle[lower] - 4
        reach = 10 + 17 * apart
        curve = f'M{x0} {y0:.0f} C{x0 + reach} {y0:.0f} {x0 + reach} {y1:.0f} {x0} {y1:.0f}'
        parts.append(f'<path class="down" d="{curve}" stroke-width="{min(0.6 + n / 12, 5):.1f}">'
                     f'<title>{upper} imports {lower}: {n} times</title></path>')
    style = ('text{font:12px ui-monospace,monospace;fill:#1b2733}.name{font-weight:700}.floor{fill:#eef2f6}'
             '.room{fill:#fff;stroke:#c3ccd6}.way{fill:#ffe9b8;stroke:#d9a520}'
             '.down{fill:none;stroke:#5b7a99;stroke-opacity:.55}')
    note = (f'<text x="{LEFT}" y="{y + 12}">1 to {len(number)}: the way of one batch. Curves: imports from floor to '
            'floor, all of them downwards.</text>')
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 24}" role="img" '
            f'aria-label="The eight floors and their rooms"><style>{style}</style>'
            f'<rect width="100%" height="100%" fill="#fff"/>\n' + '\n'.join(parts) + f'\n{note}</svg>\n')


def first_line(module: str) -> str:
    """The first sentence of a room's docstring, in one line."""
    return (ast.get_docstring(trees()[module]) or '').split('\n\n')[0].replace('\n', ' ').rstrip('.')


def rooms_listed() -> str:
    """The rooms floor by floor, a line each."""
    lines = []
    for floor, rooms in floors().items():
        lines += [f'**{floor}**', '', '| room | what is in it |', '|---|---|']
        lines += [f'| `{short(m)}` | {first_line(m)} |' for m in sorted(rooms)] + ['']
    return '\n'.join(lines)


def page() -> str:
    """docs/architecture.md with its list of rooms as it should be."""
    text = PAGE.read_text(encoding='utf-8')
    return text[:text.index(START) + len(START)] + '\n' + rooms_listed() + text[text.index(END):]


def written() -> dict[Path, str]:
    """The two files as they should be."""
    return {PAGE: page(), DRAWING: drawing()}


def main() -> None:
    """Write what is stale."""
    for file, text in written().items():
        if not file.exists() or file.read_text(encoding='utf-8') != text:
            file.write_text(text, encoding='utf-8')
            print(f'wrote {file.relative_to(ROOT)}')


if __name__ == '__main__':
    sys.exit(main())
