"""Writes the tree of rooms at the end of README.md: the floors of setup.cfg from the ground up, a line for each room.

`make tree` runs it; tests/test_readme.py fails while the tree is out of date.
"""
from __future__ import annotations

import ast
import configparser
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADING = '## The rooms'
INTRO = f'''{HEADING}

From the ground up; a room imports only from lines below its floor (`setup.cfg` holds the floors, the tests keep them).

'''


def first_line(file: Path) -> str:
    """The first sentence of a room's docstring, in one line."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding='utf-8'))) or ''
    return text.split('\n\n')[0].replace('\n', ' ').rstrip('.')


def rooms() -> list[Path]:
    """All files of the package but those that only mark a folder as a package."""
    files = sorted((ROOT / 'minifast').rglob('*.py'))
    return [f for f in files if f.stem != '__init__' or len(ast.parse(f.read_text(encoding='utf-8')).body) > 1
            and f.parent.name != 'minifast']


def floors() -> list[Path]:
    """The rooms from the ground floor up; those that no floor names come last."""
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg', encoding='utf-8')
    lines = config['importlinter:contract:floors']['layers'].strip().splitlines()
    named = [part.strip(' ()') for line in reversed(lines) for part in re.split(r'[|:]', line)]

    def floor(file: Path) -> tuple[int, str]:
        module = '.'.join(file.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')
        return next((i for i, n in enumerate(named) if module == n or module.startswith(n + '.')), len(named)), module
    return sorted(rooms(), key=floor)


def tree() -> str:
    """The README's last section."""
    lines = ['minifast/']
    for file in floors():
        lines.append(f'  {file.relative_to(ROOT / "minifast").as_posix():26} {first_line(file)}')
    return INTRO + '```text\n' + '\n'.join(lines) + '\n```\n'


def main() -> None:
    """Replace the last section of README.md."""
    file = ROOT / 'README.md'
    text = file.read_text(encoding='utf-8')
    new = text[:text.index(HEADING)] + tree()
    if new != text:
        file.write_text(new, encoding='utf-8')
        print('wrote README.md')


if __name__ == '__main__':
    sys.exit(main())
