"""What trainings measured, by name: the rows of one, what the folder of a run tells, and curves drawn together.

A run's folder is plain text and is only read: nothing in it is ever run, and what is no line of a run is named and left
out.
"""
from __future__ import annotations

import html
import json
import math
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, overload

from minifast.arguments import near_match, tells_near_match
from minifast.terminal import visible

__all__ = ['History', 'Run', 'find_runs', 'plot_runs', 'read_run']

FILE = 'run.jsonl'
"""The file of a run in its folder."""
FORMAT = 1

KEYS = ('fit', 'epoch', 'time')
"""Columns of a row that are no measured numbers."""


# ---------------------------------------------------------------- rows by name

_LOWER = re.compile(r'loss|error|(?<![a-z])(r?mse|mae|msle|(exp_)?rmspe|perplexity|brier\w*|distance)(?![a-z])')


def _lower_is_better(name: str) -> bool:
    """Whether a smaller value of the metric `name` is the better one."""
    return bool(_LOWER.search(name.lower()))


def main_metric(columns: Iterable[str]) -> str | None:
    """The one of the `columns` by which a run is judged: its first metric, else a loss; None where nothing is."""
    measured = [name for name in columns if name not in KEYS]
    metrics = [name for name in measured if not name.startswith('train_') and not name.endswith('loss')]
    return next((name for name in (*metrics, 'valid_loss', *measured) if name in measured), None)


def cell(value: Any) -> str:
    """A value of a row as it is shown."""
    return '' if value is None else f'{value:.6g}' if isinstance(value, float) else str(value)


class History(Sequence):
    """What a training measured: a sequence of rows, one an epoch, whose columns are reached by name.

    A row is a dict: `fit`, the number of the fit from 0 (`fine_tune` is two), `epoch` within it, the losses and metrics
    as in the table of epochs, and `time`, seconds. A value is None where a part of the epoch was cancelled.

    Args:
        rows: the rows.

    Attributes:
        rows: the rows, dicts of name -> value.

    Example:
        >>> learn.fine_tune(2)
        >>> learn.recorder.history['accuracy']
        [0.8125, 0.9375, 0.9531]
        >>> learn.recorder.history[-1]['valid_loss']
        0.1873
        >>> best = learn.recorder.history.best('accuracy')
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        self.rows: list[dict[str, Any]] = [dict(row) for row in rows]

    @property
    def columns(self) -> list[str]:
        """The names, in the order of the table."""
        found = dict.fromkeys(name for row in self.rows for name in row)
        return [*(name for name in found if name != 'time'), *(['time'] if 'time' in found else [])]

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, at: str) -> list[Any]: ...
    @overload
    def __getitem__(self, at: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, at: slice) -> History: ...

    def __getitem__(self, at: str | int | slice) -> Any:
        if isinstance(at, slice):
            return History(self.rows[at])
        if not isinstance(at, str):
            return self.rows[at]
        columns = self.columns
        if at not in columns:
            raise KeyError(f'{at!r} was not measured{near_match(at, columns)}; there are {", ".join(columns)}')
        return [row.get(at) for row in self.rows]

    def best(self, metric: str | None = None) -> dict[str, Any] | None:
        """The row with the best value of a metric; None where it was never a finite number.

        Args:
            metric: a column; lower is better for losses, errors and distances. Default: the first metric, else the
                validation loss.

        Raises:
            KeyError: it was not measured.
        """
        metric = main_metric(self.columns) if metric is None else metric
        if metric is None or not self.rows:
            return None
        known = [row for row, value in zip(self.rows, self[metric])
                 if isinstance(value, (int, float)) and math.isfinite(value)]
        choose = min if _lower_is_better(metric) else max
        return choose(known, key=lambda row: row[metric], default=None)

    def to_df(self) -> Any:
        """The rows as a pandas DataFrame.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError('to_df needs pandas: pip install "minifast[pandas]"; without it, history[name] '
                                      'is a column and history[i] a row') from error
        return pd.DataFrame(self.rows, columns=self.columns)

    def _cells(self) -> list[list[str]]:
        columns = self.columns
        return [columns, *([cell(row.get(name)) for name in columns] for row in self.rows)]

    def __repr__(self) -> str:
        rows = [[visible(text) for text in row] for row in self._cells()]
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines = ['  '.join(text.rjust(width) for text, width in zip(row, widths)) for row in rows]
        return '\n'.join(lines) or 'History()'

    def _repr_html_(self) -> str:
        head, *rows = [''.join(f'<td>{html.escape(visible(text))}</td>' for text in row) for row in self._cells()]
        return f'<table><tr>{head.replace("td>", "th>")}</tr>{"".join(f"<tr>{row}</tr>" for row in rows)}</table>'


# ---------------------------------------------------------------- the folder of a run

MOST_BYTES, LINE_BYTES, MOST_PROBLEMS, DEPTH = 64 << 20, 1 << 20, 20, 4
"""What is read of a file and of one of its lines, told of what is wrong with it, and how deep runs are looked for."""


@dataclass
class Run:
    """A training as its folder tells it, see `read_run`.

    Attributes:
        path: the folder.
        name: its name, below the folder of runs where that was given.
        began: when, UTC, such as 2026-11-27T20:15:00.000Z.
        state: 'finished'; 'stopped', by an error or Ctrl-C; 'unfinished', where it runs still or was killed;
            'unreadable'.
        duration_s: seconds of training.
        history: its rows.
        fits: of each fit `config`, `environment`, `git` and `began`.
        problems: lines that are none of a run's and were left out, in words.
    """

    path: Path
    name: str
    began: str = field(default='', init=False)
    state: str = field(default='unfinished', init=False)
    duration_s: float = field(default=0., init=False)
    history: History = field(default_factory=History, init=False)
    fits: list[dict[str, Any]] = field(default_factory=list, init=False)
    problems: list[str] = field(default_factory=list, init=False)


def read_run(path: str | Path) -> Run:
    """The run that `fit(..., run=path)` wrote.

    Args:
        path: its folder, or the file in it.

    Raises:
        FileNotFoundError: there is none.

    Example:
        >>> learn.fit(2, 1e-3, run='runs/lr 1e-3')
        >>> run = read_run('runs/lr 1e-3')
        >>> run.state, run.history.best('accuracy')['epoch']
    """
    path = Path(path)
    file = path / FILE if path.is_dir() else path
    folder = Path(os.path.abspath(file)).parent
    run = Run(file.parent, folder.name)
    try:
        stream = _opened(file)
    except FileNotFoundError:
        raise FileNotFoundError(f'{file} does not exist: give a folder that fit(..., run=FOLDER) has written') from None
    except (OSError, ValueError) as error:
        run.problems, run.state = [f'{FILE} cannot be read: {getattr(error, "strerror", None) or error}'], 'unreadable'
        return run
    reader = _Reader(run)
    with stream:
        for number, line in enumerate(_lines(stream), 1):
            reader.take(number, line)
    reader.finish()
    return run


def find_runs(folder: str | Path) -> list[Run]:
    """All runs in a folder and the folders below it, the oldest first; links are not followed.

    Args:
        folder: the folder of runs; also that of a single one.

    Raises:
        FileNotFoundError: it is no folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f'{folder} is no folder: give the one that holds the runs, such as runs for '
                                "fit(..., run='runs/first')")
    runs = []
    for place, names, files in os.walk(folder):
        depth = len(Path(place).relative_to(folder).parts)
        names[:] = sorted(names) if depth < DEPTH else []
        if FILE in files and os.path.exists(os.path.join(place, FILE)):  # no link to nowhere
            runs.append(read_run(place))
            runs[-1].name = Path(place).relative_to(folder).as_posix() if depth else runs[-1].name
    return sorted(runs, key=lambda run: (run.began, run.name))


def _opened(file: Path) -> BinaryIO:
    """A regular file; a pipe would keep us waiting, a device may do anything."""
    flags = os.O_RDONLY | getattr(os, 'O_NONBLOCK', 0) | getattr(os, 'O_BINARY', 0)
    descriptor = os.open(file, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError('it is no regular file')
    return open(descriptor, 'rb')


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Its lines; one that is too long without what is too much of it."""
    left = MOST_BYTES
    while (line := stream.readline(min(LINE_BYTES + 1, left))):
        left -= len(line)
        yield line
        while len(line) > LINE_BYTES and not line.endswith(b'\n'):  # the rest of it
            line = stream.readline(min(LINE_BYTES + 1, left))
            left -= len(line)


def _count(x: Any) -> int:
    if type(x) is not int or not 0 <= x < 1 << 31:
        raise ValueError('a number of a fit or an epoch is none')
    return x


def _number(x: Any) -> float | None:
    if x is None:
        return None
    if type(x) not in (int, float) or not math.isfinite(x := float(x)):
        raise ValueError('a value is no finite number')
    return x


def _dict(x: Any) -> dict[str, Any]:
    if not isinstance(x, dict):
        raise ValueError('a part of it is no object')
    return x


def _text(x: Any) -> str:
    return x[:200] if isinstance(x, str) else ''


class _Reader:
    """Puts a run together from its lines.

    Args:
        run: is filled.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.fits = run, {}
        self.ends: dict[int, dict[str, Any]] = {}
        self.rows: dict[int, list[dict[str, Any]]] = {}
        self.left_out = 0

    def take(self, number: int, line: bytes) -> None:
        """One line, with its newline."""
        try:
            if not line.endswith(b'\n'):
                raise ValueError('it is cut short' if len(line) <= LINE_BYTES else 'it is too long')
            found = _dict(json.loads(line.decode()))
            kind = found.get('kind')
            takes = {'run': self._run, 'fit': self._fit, 'resumed': self._resumed, 'epoch': self._epoch,
                     'end': self._end}.get(kind if isinstance(kind, str) else '')
            if takes is None:
                raise ValueError('its kind is not known')
            takes(found)
        except (ValueError, OverflowError, RecursionError) as error:
            self.left_out += 1
            if self.left_out <= MOST_PROBLEMS:
                why = 'it is no JSON' if isinstance(error, (json.JSONDecodeError, UnicodeError)) else error
                self.run.problems.append(f'line {number} of {FILE} is left out: {why}')

    def _run(self, line: dict[str, Any]) -> None:
        if line.get('format') != FORMAT:
            raise ValueError(f'it is of format {str(line.get("format"))[:20]}, and this release reads {FORMAT}')
        self.run.began = _text(line.get('began'))

    def _fit(self, line: dict[str, Any]) -> None:
        fit = {'config': _dict(line.get('config')), 'environment': _dict(line.get('environment')),
               'git': _text(line.get('git')) or None, 'began': _text(line.get('began')), 'more': bool(line.get('more'))}
        self.fits[_count(line.get('fit'))] = fit

    def _resumed(self, line: dict[str, Any]) -> None:
        self.ends.pop(_count(line.get('fit')), None)

    def _epoch(self, line: dict[str, Any]) -> None:
        metrics = _dict(line.get('metrics'))
        if len(metrics) > 1000 or metrics.keys() & set(KEYS):
            raise ValueError('its metrics are too many, or go by names that are taken')
        row = {'fit': _count(line.get('fit')), 'epoch': _count(line.get('epoch')),
               **{name: _number(value) for name, value in metrics.items()}}
        if 'time' in line:
            row['time'] = _number(line['time'])
        self.rows.setdefault(row['fit'], []).append(row)

    def _end(self, line: dict[str, Any]) -> None:
        if line.get('state') not in ('finished', 'stopped'):
            raise ValueError('a fit ends otherwise')
        self.ends[_count(line.get('fit'))] = {'state': line['state'], 'duration_s': _number(line.get('duration_s'))}

    def finish(self) -> None:
        """All lines are read."""
        run = self.run
        if self.left_out > MOST_PROBLEMS:
            run.problems.append(f'{self.left_out - MOST_PROBLEMS} more lines are left out')
        run.fits = [fit for _, fit in sorted(self.fits.items())]
        run.history = History(row for _, rows in sorted(self.rows.items()) for row in rows)
        numbers = sorted({*self.fits, *self.rows})
        if numbers and numbers[-1] in self.ends and not self.fits.get(numbers[-1], {}).get('more'):
            run.state = self.ends[numbers[-1]]['state']
        for fit in numbers:
            told = self.ends.get(fit, {}).get('duration_s')
            run.duration_s += told or sum(row.get('time') or 0. for row in self.rows.get(fit, ()))


# ---------------------------------------------------------------- several runs

def _history_of(run: Any) -> History:
    """What a learner, its recorder, a run or its folder measured."""
    if isinstance(run, (str, os.PathLike)):
        return read_run(run).history
    for name in ('recorder', 'history'):
        run = getattr(run, name, run)
    if not isinstance(run, History):
        raise TypeError(f'a {type(run).__name__} is no run: give a learner, its recorder, or the folder of a run')
    return run


def _name_of(run: Any, number: int) -> str:
    """What a run is called that was given without a name: after its folder, else by its number."""
    if isinstance(run, (str, os.PathLike)):
        return Path(os.path.abspath(run)).name
    if isinstance(run, Run):
        return run.name
    learn = getattr(run, 'learn', run)
    logged = list(getattr(learn, 'logged_runs', {}).values())
    return logged[-1]['folder'] if logged else f'run {number}'


def _named(runs: Any) -> dict[str, History]:
    """Runs by name, each once; see `plot_runs`."""
    if isinstance(runs, (str, os.PathLike)):
        found = find_runs(runs)
        if not found:
            raise ValueError(f'{runs} holds no runs: fit(..., run=FOLDER) writes them')
        return {run.name: run.history for run in found}
    if isinstance(runs, Mapping):
        return {str(name): _history_of(run) for name, run in runs.items()}
    named: dict[str, History] = {}
    for number, run in enumerate(runs if isinstance(runs, (list, tuple)) else [runs], 1):
        name = _name_of(run, number)
        named[name if name not in named else f'{name} ({number})'] = _history_of(run)
    return named


@tells_near_match
def plot_runs(runs: Any, metric: str | None = None, ax: Any = None) -> Any:
    """Draw a metric of several runs by epoch, one curve a run; returns the matplotlib axis.

    Epochs are counted through all fits of a run.

    Args:
        runs: name -> run, or a list of runs, or a folder of them. A run is a learner, a recorder, a `History`, a `Run`,
            or the folder of one.
        metric: a column of `History`; default: the first metric of the first run, else its validation loss.
        ax: the axis to draw on; default: a new figure's.

    Raises:
        ValueError: no run has measured the metric, or there is no run.

    Example:
        >>> slow, fast = (vision_learner(dls, resnet18, metrics=accuracy) for _ in range(2))
        >>> slow.fit(2, 1e-3, run='runs/slow'), fast.fit(2, 1e-2, run='runs/fast')
        >>> plot_runs({'1e-3': slow, '1e-2': fast}, 'accuracy')
        >>> plot_runs('runs', 'valid_loss')  # all that fit(..., run='runs/NAME') wrote there
    """
    named = _named(runs)
    columns = list(dict.fromkeys(name for history in named.values() for name in history.columns))
    metric = main_metric(columns) if metric is None else metric
    if metric not in columns:
        raise ValueError(f'plot_runs: no run has measured {metric!r}{near_match(str(metric), columns)}; there are '
                         f'{", ".join(columns) or "no rows"}')
    from matplotlib.ticker import MaxNLocator

    from minifast.show import add_legend, new_axis
    ax = new_axis() if ax is None else ax
    for name, history in named.items():
        if metric in history.columns:
            values = [math.nan if value is None else float(value) for value in history[metric]]
            ax.plot(range(len(values)), values, marker='o', markersize=3, label=visible(name))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel='epoch', ylabel=visible(metric), title=visible(metric))
    add_legend(ax)
    return ax
