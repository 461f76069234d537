"""`minifast runs` and `minifast compare`: tables of runs, what differs between them, and a page with their curves."""
from __future__ import annotations

import argparse
import html
import json
import math
import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from minifast.arguments import near_match
from minifast.callback.recorder import format_time
from minifast.commands import UserMistake
from minifast.run.differences import in_short
from minifast.run.history import KEYS, Run, cell, find_runs, main_metric, read_run
from minifast.run.identity import UNKNOWN
from minifast.tensorfile import way_out_of
from minifast.terminal import listed, print_table, say, say_json, visible

__all__ = ['compare', 'differing', 'page', 'runs', 'summary']

MISSING = '-'
MOST_CHARACTERS = 120
"""Of one value in a table."""
_OBVIOUS = ('fit', 'schedule', 'settings')
"""Parts of the settings whose entries say by themselves what they are."""


# ---------------------------------------------------------------- runs

def summary(run: Run, metric: str | None = None) -> dict[str, Any]:
    """A run in numbers.

    Args:
        run: the run.
        metric: what it is judged by; default: its first metric, else its validation loss.
    """
    columns = run.history.columns
    metric = main_metric(columns) if metric is None else metric
    best = run.history.best(metric) if metric in columns else None
    last = run.history[-1] if len(run.history) else {}
    return {'name': run.name, 'path': str(run.path), 'began': run.began, 'state': run.state, 'epochs': len(run.history),
            'metric': metric, 'best': best and best[metric], 'best_epoch': best and _place(run, best),
            'last': {name: value for name, value in last.items() if name not in KEYS},
            'duration_s': round(run.duration_s, 3), 'git': run.fits[-1]['git'] if run.fits else None,
            'problems': run.problems}


def _place(run: Run, row: dict[str, Any]) -> int:
    """The number of an epoch through all fits."""
    return next(i for i, other in enumerate(run.history) if other is row)


def _best_of(told: dict[str, Any]) -> str:
    if told['best'] is None:
        return MISSING
    return f'{told["metric"]} {cell(told["best"])} in epoch {told["best_epoch"]}'


def _tell_problems(found: Sequence[Run]) -> int:
    for run in found:
        for problem in run.problems:
            say(f'{run.path}: {problem}', sys.stderr)
    return 1 if any(run.problems for run in found) else 0


def _checked(metric: str | None, found: Sequence[Run]) -> None:
    columns = list(dict.fromkeys(name for run in found for name in run.history.columns if name not in KEYS))
    if metric is not None and metric not in columns:
        raise UserMistake(f'--by {metric}: no run has measured it{near_match(metric, columns)}; there are '
                          f'{listed(columns, 20) or "no metrics"}')


def runs(args: argparse.Namespace) -> int:
    """`minifast runs`: a line a run, the oldest first, or JSON; 1 where a line of a file was left out.

    Args:
        args: `folder`, `by` and `json`.

    Raises:
        UserMistake: there is no such folder, or no run in it.
    """
    try:
        found = find_runs(args.folder)
    except FileNotFoundError as mistake:
        raise UserMistake(str(mistake)) from mistake
    if not found:
        raise UserMistake(f'{args.folder} holds no runs: fit(..., run={str(args.folder / "NAME")!r}) writes one')
    _checked(args.by, found)
    told = [summary(run, args.by) for run in found]
    if args.json:
        say_json(told)
    else:
        print_table([['run', 'began (UTC)', 'state', 'epochs', 'best', 'time'], *(
            [run['name'], run['began'][:16].replace('T', ' '), run['state'], str(run['epochs']), _best_of(run),
             format_time(run['duration_s'])] for run in told)])
    return _tell_problems(found)


# ---------------------------------------------------------------- what differs

def _leaves(x: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Nested settings as (name, value in words)."""
    if isinstance(x, dict) and len(path) < 12:
        for name, value in x.items():
            if not name.startswith('_'):  # what an object keeps for itself
                yield from _leaves(value, (*path, name))
    else:
        yield '.'.join(path[path[0] in _OBVIOUS if len(path) > 1 else 0:]), _said(x, path)


def _said(x: Any, path: tuple[str, ...]) -> str:
    if path and path[-1].startswith('schedule of'):
        try:
            x = in_short(x)
        except (TypeError, ValueError, IndexError):  # not written by us
            pass
    text = x if isinstance(x, str) else '' if x is None else json.dumps(x)
    return text if len(text) <= MOST_CHARACTERS else f'{text[:MOST_CHARACTERS - 4]} ...'


def differing(found: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """The settings in which runs differ: (name, the value of each run).

    Of later fits, such as the second of `fine_tune`, what differs otherwise than in the first.

    Args:
        found: the runs.
    """
    numbers = [str(len(run.fits)) for run in found]
    rows = [('fits', numbers)] if len(set(numbers)) > 1 else []
    first: dict[str, list[str]] = {}
    common = min((len(run.fits) for run in found), default=0)
    for i in range(common):
        told = [dict(_leaves({**run.fits[i]['config'], 'environment': run.fits[i]['environment'],
                              'git': run.fits[i]['git']})) for run in found]
        for name in dict.fromkeys(name for fit in told for name in fit):
            values = [fit.get(name, MISSING) for fit in told]
            known = {value for value in values if value != UNKNOWN}
            if len(known) > 1 and values != first.get(name):
                rows.append((name if common == 1 else f'fit {i}: {name}', values))
            if i == 0:
                first[name] = values
    return rows


def _measured(found: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(name for run in found for name in run.history.columns if name not in KEYS))


def _metric_rows(found: Sequence[Run]) -> list[list[str]]:
    """A row a metric: the best value of each run with its epoch, and the last one."""
    rows = []
    for metric in _measured(found):
        cells = []
        for run in found:
            told = summary(run, metric)
            cells.append(MISSING if told['best'] is None else
                         f'{cell(told["best"])} ({told["best_epoch"]}), {cell(told["last"].get(metric)) or MISSING}')
        rows.append([metric, *cells])
    return rows


def _chosen(folders: Sequence[Path]) -> list[Run]:
    """The runs of folders, each that of a run or of several, and each run once."""
    found: dict[str, Run] = {}
    for folder in folders:
        try:
            there = find_runs(folder) if folder.is_dir() else [read_run(folder)]
        except FileNotFoundError as mistake:
            raise UserMistake(str(mistake)) from mistake
        if not there:
            raise UserMistake(f'{folder} holds no run: give folders that fit(..., run=FOLDER) has written')
        found |= {os.path.realpath(run.path): run for run in there}
    chosen = list(found.values())
    if len(chosen) < 2:
        raise UserMistake(f'{folders[0]} is one run: give two or more, or a folder that holds them')
    names = [run.name for run in chosen]
    for run in chosen:
        run.name = run.name if names.count(run.name) == 1 else str(run.path)
    return chosen


def compare(args: argparse.Namespace) -> int:
    """`minifast compare`: what differs between runs and what they measured, as tables, JSON, or a page with curves.

    Args:
        args: `folders`, `html` and `json`.

    Raises:
        UserMistake: fewer than two runs, or a page that cannot be written.
    """
    found = _chosen(args.folders)
    if args.html is not None:
        _write_page(args.html, page(found))
    settings = differing(found)
    names = [run.name for run in found]
    if args.json:
        say_json({'runs': [summary(run) for run in found],
                  'settings': {name: dict(zip(names, values)) for name, values in settings},
                  'history': {run.name: run.history.rows for run in found}})
        return _tell_problems(found)
    print_table([['', *names],
                 *([what, *(cell(summary(run)[what]) for run in found)] for what in ('state', 'epochs')),
                 ['time', *(format_time(run.duration_s) for run in found)]])
    say()
    print_table([['setting', *names], *([name, *values] for name, values in settings)])
    if not settings:
        say('no setting differs')
    say()
    print_table([['best (its epoch), last', *names], *_metric_rows(found)])
    if args.html is not None:
        say(f'the curves are in {args.html}')
    return _tell_problems(found)


# ---------------------------------------------------------------- the page

MOST_POINTS, MOST_FIGURES = 1000, 24
"""Drawn of one curve, and on one page."""
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 480, 260, 62, 12, 10, 40
"""Of a figure, and its margins."""

_LIGHT = ('#0067a5', '#c8500a', '#00785a', '#a8457f', '#8a6d00', '#3f7fbf', '#6a3d9a', '#5c5c5c')
_DARK = ('#5cb3ff', '#ff9d5c', '#4fd1a5', '#f19ccc', '#e6c84f', '#a5cdf5', '#c5a3f0', '#b8b8b8')

_STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #1d2126; --soft: #59626c; --line: #d8dde2; %s }
@media (prefers-color-scheme: dark) { :root { --page: #14171a; --text: #e6e9ec; --soft: #a2abb4; --line: #363c43; %s } }
body { background: var(--page); color: var(--text); font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto;
  max-width: 68rem; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin: 2rem 0 .6rem }
.wide { overflow-x: auto } table { border-collapse: collapse }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .9rem .3rem 0; text-align: left; vertical-align: top;
  overflow-wrap: anywhere; min-width: 5rem }
th { color: var(--soft); font-weight: 600 } td { font-variant-numeric: tabular-nums }
.figures { display: grid; gap: 1.2rem; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%%), 1fr)) }
figure { margin: 0 } figcaption { font-weight: 600 }
svg { display: block; height: auto; width: 100%% } svg text { fill: var(--soft); font-size: 12px }
.grid { stroke: var(--line) } .curve { fill: none; stroke-width: 2; stroke-linejoin: round }
.key { display: inline-block; height: .75em; margin-right: .4em; vertical-align: baseline; width: 1.6em }
"""


def _text(x: Any) -> str:
    """Text of others on the page: shown, and neither markup nor an order to the browser."""
    return html.escape(visible(x))


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells that are markup already, the first one being the header."""
    lines = [''.join(f'<t{kind}>{text}</t{kind}>' for text in row)
             for row, kind in zip(rows, ['h', *'d' * (len(rows) - 1)])]
    return f'<div class="wide"><table>{"".join(f"<tr>{line}</tr>" for line in lines)}</table></div>'


def _key(i: int) -> str:
    dash = f' stroke-dasharray="{_dash(i)}"' if _dash(i) else ''
    return (f'<svg class="key" viewBox="0 0 32 12" aria-hidden="true"><line x1="0" x2="32" y1="6" y2="6" '
            f'stroke="var(--c{i % len(_LIGHT)})" stroke-width="4"{dash}/></svg>')


def _dash(i: int) -> str:
    return ('', '7 4', '2 4', '9 3 2 3')[i // len(_LIGHT) % 4]


def _step(span: float, n: int) -> float:
    """The round number by which about `n` ticks cover `span`."""
    size = 10. ** math.floor(math.log10(span / n))
    return next((size * by for by in (1, 2, 5) if span / (size * by) <= n), size * 10)


def _ticks(low: float, high: float, n: int = 5) -> list[float]:
    step = _step(high - low, n)
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _range(values: Sequence[float]) -> tuple[float, float]:
    """The range of an axis: that of the values, with room around."""
    low, high = min(values), max(values)
    room = (high - low) * 0.04
    if room <= max(abs(low), abs(high)) * 1e-9 or room < 1e-290:
        room = max(abs(high) * 0.1, 0.5)
    return low - room, high + room


def _figure(metric: str, found: Sequence[Run]) -> str:
    """The curves of a metric as SVG."""
    curves = [(i, run.name, [(x, value) for x, value in enumerate(run.history[metric]) if value is not None])
              for i, run in enumerate(found) if metric in run.history.columns]
    values = [value for _, _, points in curves for _, value in points]
    low, high = _range(values) if values else (0., 1.)
    if not math.isfinite(high - low):
        return f'<figure><figcaption>{_text(metric)}</figcaption>its values are too large to draw</figure>'
    last = max((x for _, _, points in curves for x, _ in points), default=0)

    def at(x: float, y: float) -> str:
        across = LEFT + (WIDTH - LEFT - RIGHT) * (x / last if last else 0.5)
        return f'{across:.1f},{TOP + (HEIGHT - TOP - BOTTOM) * (high - y) / (high - low):.1f}'
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{_text(metric)} by epoch">']
    for y in _ticks(low, high):
        _, height = at(0, y).split(',')
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height}" y2="{height}"/>'
                     f'<text x="{LEFT - 6}" y="{height}" dy=".35em" text-anchor="end">{y:.4g}</text>')
    for x in range(0, last + 1, max(1, int(_step(max(last, 1), 8)))):
        parts.append(f'<text x="{at(x, low).split(",")[0]}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{x}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">epoch</text>')
    parts += [_curve(i, name, points, at) for i, name, points in curves]
    return f'<figure><figcaption>{_text(metric)}</figcaption>{"".join(parts)}</svg></figure>'


def _curve(i: int, name: str, points: list[tuple[int, float]], at: Any) -> str:
    """A line through what was measured, broken where nothing was, with the numbers where one points at it."""
    points = points[::math.ceil(len(points) / MOST_POINTS) or 1]
    stride = points[1][0] - points[0][0] if len(points) > 1 else 1
    path = ' '.join(f'{"L" if n and x - points[n - 1][0] <= stride else "M"}{at(x, y)}'
                    for n, (x, y) in enumerate(points))
    colour, dash = f'var(--c{i % len(_LIGHT)})', f' stroke-dasharray="{_dash(i)}"' if _dash(i) else ''
    drawn = f'<path class="curve" stroke="{colour}"{dash} d="{path}"/>'
    for x, y in points if len(points) <= 200 else ():
        across, height = at(x, y).split(',')
        drawn += (f'<circle cx="{across}" cy="{height}" r="3" fill="{colour}"><title>{_text(name)}, epoch {x}: '
                  f'{cell(y)}</title></circle>')
    return drawn


def page(found: Sequence[Run]) -> str:
    """One HTML page without scripts and without anything from elsewhere: runs, curves, settings and metrics.

    Args:
        found: the runs.
    """
    names = [f'{_key(i)}{_text(run.name)}' for i, run in enumerate(found)]
    told = [summary(run) for run in found]
    table = _table([['run', 'began (UTC)', 'state', 'epochs', 'best', 'time'], *(
        [name, *map(_text, (run['began'][:16].replace('T', ' '), run['state'], run['epochs'], _best_of(run),
                            format_time(run['duration_s'])))] for name, run in zip(names, told))])
    metrics, settings = _measured(found), differing(found)
    more = f'<p>and {listed(map(_text, metrics[MOST_FIGURES:]), 20)}</p>' if len(metrics) > MOST_FIGURES else ''
    figures = ''.join(_figure(metric, found) for metric in metrics[:MOST_FIGURES])
    differ = _table([['setting', *names], *([_text(o) for o in (name, *values)] for name, values in settings)])
    measured = _table([['metric', *names], *([_text(o) for o in row] for row in _metric_rows(found))])
    left_out = ''.join(f'<li>{_text(run.path)}: {_text(problem)}</li>' for run in found for problem in run.problems)
    colours = [' '.join(f'--c{i}: {colour};' for i, colour in enumerate(row)) for row in (_LIGHT, _DARK)]
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{len(found)} runs compared</title><style>{_STYLE % tuple(colours)}</style></head><body>
<h1>{len(found)} runs compared</h1>
{table}
<h2>Curves</h2><div class="figures">{figures}</div>{more}
<h2>Settings that differ</h2>{differ if settings else '<p>none</p>'}
<h2>Best value (its epoch), last value</h2>{measured}
{f'<h2>Left out</h2><ul>{left_out}</ul>' if left_out else ''}
</body></html>
"""


def _write_page(file: Path, text: str) -> None:
    if file.suffix.lower() not in ('.html', '.htm'):
        raise UserMistake(f'--html {file}: give a name that ends with .html')
    temporary = file.with_name(f'.{file.name}.{secrets.token_hex(4)}.tmp')
    try:
        temporary.write_text(text, encoding='utf-8')
        os.replace(temporary, file)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        why = f'({error.strerror or error}): {way_out_of(error)}'
        raise UserMistake(f'--html {file} cannot be written {why}') from error
