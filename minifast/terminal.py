"""Text of others on a screen: what would steer the terminal, or forge a line, is shown escaped; lists are cut short."""
from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any, TextIO

from fastcore.imports import in_notebook

__all__ = ['counted', 'described', 'listed', 'print_table', 'say', 'say_json', 'say_once', 'visible', 'warn']

_STEERING = re.compile(r'[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]')
"""Controls (C0 with escape and newlines, DEL, C1), line separators, what turns the direction of writing round, and
surrogates: bytes of file names that are no UTF-8."""


def _escape(match: re.Match) -> str:
    code = ord(match[0])
    return {9: '\\t', 10: '\\n', 13: '\\r'}.get(code) or (f'\\x{code:02x}' if code < 256 else f'\\u{code:04x}')


def visible(text: Any, keep: str = '') -> str:
    r"""`str(text)` with every character that is an order to a terminal as its escape; all that can be read stays.

    Args:
        keep: characters that are left alone, such as '\n' where lines are wanted.

    Example:
        >>> visible('größe 猫\x1b[2K')
        'größe 猫\\x1b[2K'
    """
    return _STEERING.sub(lambda match: match[0] if match[0] in keep else _escape(match), str(text))


def listed(names: Iterable[Any], n: int, rest: str = ' and {} more') -> str:
    """The first `n` of some names, for a message.

    Args:
        names: the names; anything is shown as its `str`.
        n: how many are shown.
        rest: what stands for the others, `{}` being their number.
    """
    names = [str(name) for name in names]
    return ', '.join(names[:n]) + (rest.format(len(names) - n) if len(names) > n else '')


def counted(n: int, thing: str) -> str:
    """`n` and what there are so many of, `1 epoch` or `1,200 epochs`; `thing` is one of them."""
    return f'{n:,} {thing}{"" if n == 1 else "s"}'


def described(o: object, words: Callable[[Any], str]) -> str:
    """A repr: the name of the class of `o`, and a sentence about it, in `visible` characters.

    Args:
        o: the object.
        words: makes the sentence of it. What it raises is not raised here: a repr is asked for of half-made objects
            too, by debuggers and in messages about other errors; it is then the usual one.
    """
    try:
        return visible(f'{type(o).__name__}: {words(o)}')
    except Exception:
        return object.__repr__(o)


def say(text: Any = '', file: TextIO | None = None, flush: bool = False) -> None:
    """Print one line, `visible`, whatever the encoding of the stream: what it lacks is escaped too.

    Args:
        text: one line; newlines in it are escaped.
        file: default `sys.stdout`.
        flush: whether it has to be there at once.
    """
    file = sys.stdout if file is None else file
    print(printable(text, file), file=file, flush=flush)


def say_once(text: Any = '') -> None:
    """`say(text)`, of several processes by the first."""
    from minifast.distributed import rank_distrib  # brings torch, for which the command line does not wait
    if rank_distrib() == 0:
        say(text)


def print_table(rows: list[list[str]]) -> None:
    """Print `rows` in columns, as wide as their longest cell; a header is just the first row."""
    rows = [[printable(cell, sys.stdout) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        say('  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def say_json(found: Any) -> None:
    """Print `found` as JSON for machines: escaped by its rules is all but ASCII, and the control that these leave."""
    print(json.dumps(found, indent=2).replace('\x7f', '\\u007f'))


def printable(text: Any, file: TextIO) -> str:
    """`visible(text)` in the characters that the stream `file` can write."""
    encoding = getattr(file, 'encoding', None) or 'utf-8'
    return visible(text).encode(encoding, 'backslashreplace').decode(encoding)


def nobody_watches(wanted: bool = True) -> bool | None:
    """tqdm's `disable` for a bar that is `wanted` or not: a terminal and a notebook get one, and a log file none."""
    return not wanted or (False if in_notebook() else None)


def warn(text: str) -> None:
    """The warning `text`, one visible line, given at the nearest line that is not in this package."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get('__name__', '').split('.')[0] == 'minifast':
        level, frame = level + 1, frame.f_back
    warnings.warn(visible(text), stacklevel=level)
