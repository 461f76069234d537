"""The table of epochs and the bar under it, in a terminal, a notebook and as plain lines; its rows in a CSV file."""
from __future__ import annotations

import html
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from fastcore.basics import noop
from fastcore.imports import in_notebook
from tqdm import tqdm

from minifast.arguments import tells_near_match
from minifast.callback.core import Callback
from minifast.callback.recorder import format_time
from minifast.show import html_table, new_axis
from minifast.terminal import printable
from minifast.torch_core import length_of

__all__ = ['CSVLogger', 'ProgressCallback', 'ShowGraphCallback']

refresh_s = 0.1
"""A bar is redrawn, and the loss fetched from the device for it, at most this often."""


def _cells(row: Sequence[Any]) -> list[str]:
    return [f'{cell:.6f}' if isinstance(cell, float) else printable(cell, sys.stdout) for cell in row]


class _PlainTable:
    """One line an epoch, for logs and pipes: nothing is redrawn."""

    header: str | None = None

    def __init__(self) -> None:
        self.widths: list[int] = []

    def write(self, row: Sequence[Any]) -> None:
        """Print one row; the first one is the header, sets the columns' widths, and waits for what follows it."""
        cells = _cells(row)
        self.widths = self.widths or [max(8, len(cell)) + 2 for cell in cells]
        widths = self.widths + [10] * (len(cells) - len(self.widths))
        line = ''.join(cell.ljust(width) for cell, width in zip(cells, widths))
        if self.header is None:
            self.header = line  # what a resume says stands above its table
            return
        self.show_header()
        self.print_line(line)

    def show_header(self) -> None:
        """Print the header that waits."""
        if self.header:
            self.print_line(self.header)
            self.header = ''

    def print_line(self, line: str) -> None:
        """Print a finished line."""
        print(line, flush=True)

    def start_bar(self, total: int | None, what: str) -> None:
        """A pass over a loader begins, of `total` batches where that is known; `what` says which."""
        self.show_header()

    def update_bar(self, done: int, comment: str) -> None:
        """`done` batches of the pass are behind us; `comment` stands behind the bar."""

    def end_bar(self) -> None:
        """The pass is over or was left."""

    def close(self) -> None:
        """The fit has ended."""
        self.show_header()
        self.end_bar()


class _TerminalTable(_PlainTable):
    """Rows with a tqdm bar under them that goes away when its pass ends."""

    bar: tqdm | None = None

    def print_line(self, line: str) -> None:
        tqdm.write(line)

    def start_bar(self, total: int | None, what: str) -> None:
        self.show_header()
        form = '{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {elapsed}<{remaining}{postfix}'
        self.bar = tqdm(total=total, desc=what, bar_format=form, leave=False, dynamic_ncols=True, mininterval=0,
                        file=sys.stdout)

    def update_bar(self, done: int, comment: str) -> None:
        self.bar.set_postfix_str(comment, refresh=False)
        self.bar.update(done - self.bar.n)

    def end_bar(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


class _NotebookTable(_PlainTable):
    """One HTML table that grows in place, with a bar under it."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.total, self.what, self.began_s, self.display = 0, '', 0., None

    def write(self, row: Sequence[Any]) -> None:
        self.rows.append(_cells(row))
        if len(self.rows) > 1:
            self.draw('')

    def show_header(self) -> None:
        if len(self.rows) == 1:
            self.draw('')

    def start_bar(self, total: int | None, what: str) -> None:
        self.total, self.what, self.began_s = total, what, time.perf_counter()

    def update_bar(self, done: int, comment: str) -> None:
        bar = f'<progress value="{done}" max="{self.total}" style="width:300px"></progress> ' if self.total else ''
        passed = time.perf_counter() - self.began_s
        left = f' < {format_time(passed * (self.total - done) / done)}' if self.total else ''
        told = f'{self.what} {done}/{self.total or "?"} {format_time(passed)}{left} {comment}'.strip()
        self.draw(bar + html.escape(told))

    def end_bar(self) -> None:
        if self.display is not None:
            self.draw('')

    def draw(self, below: str) -> None:
        """Show the table as it is now, `below` under it."""
        from IPython.display import HTML, display
        page = HTML(html_table(self.rows) + below)  # a pass without rows, such as `predict`, leaves no empty table
        if self.display is None:
            self.display = display(page, display_id=True)
        else:
            self.display.update(page)


class ProgressCallback(Callback):
    """Prints the table of epochs and, where somebody watches, a progress bar.

    In a terminal the bar is tqdm's, in a notebook an HTML one: which epoch of how many, the batches of the pass, the
    time it has taken and still takes, the smoothed loss, and how long the whole fit still takes. Where the output is a
    file or a pipe there is one plain line an epoch. A refresh, at most ten a second, is the only time the loss is
    fetched from the device.
    """

    order, watches_only, only_rank0 = 60, True, True
    not_carried = ('*',)  # times of this process and a bar on this screen
    table: _PlainTable | None = None
    _first: tuple[float, int] | None = None  # second and place of the fit's first batch

    def before_fit(self) -> None:
        if self.table is not None:  # a validation inside the fit
            return
        self._first, self._searches, self._begins = None, False, True
        if in_notebook():
            self.table = _NotebookTable()
        else:
            self.table = _TerminalTable() if sys.stdout.isatty() else _PlainTable()
        self.old_logger = self.logger
        if self.logger is not noop:
            self.learn.logger = self._write_stats
            if hasattr(self.learn, 'recorder'):
                self._write_stats(self.recorder.metric_names)

    def before_epoch(self) -> None:
        if self._begins and self.old_logger is not noop and hasattr(self.learn, 'recorder'):
            for row in self.recorder.rows_of_fit():  # the epochs before a resume
                self._write_stats(row)
        self._begins = False

    def _write_stats(self, row: Sequence[Any]) -> None:
        if self.table is not None:
            self.table.write(row)

    def _what(self) -> str:
        learn = self.learn
        if learn.predicting or not learn.fitting:
            return 'predicting' if learn.predicting else 'validating'
        return f'epoch {learn.epoch + 1}/{learn.n_epoch}{"" if learn.training else " validating"}'

    def _start_bar(self) -> None:
        # a plain table has no bar, so nothing is ever due and no loss is fetched for it
        self._next_refresh = float('inf') if self.table is None or type(self.table) is _PlainTable else 0.
        if self.table is None or self._searches:
            return
        self._searches = self.learn.searching  # one bar for all of its short epochs
        if self._searches:
            self.table.start_bar(self.learn.lr_finder.num_it, 'looking for a learning rate')
        else:
            self.table.start_bar(length_of(self.dl), self._what())

    def _end_bar(self) -> None:
        if self.table is not None and not self._searches:
            self.table.end_bar()

    before_train = before_validate = _start_bar
    after_train = after_validate = _end_bar

    def _fit_left(self, now: float) -> str:
        """How long the fit still takes, '' where that is not known: all of its batches are taken to last as long."""
        learn = self.learn
        sizes = [length_of(learn.dls[i]) for i in range(min(len(learn.dls), 2))]
        if not learn.fitting or self._searches or learn.predicting or None in sizes:
            return ''
        place = learn.epoch * sum(sizes) + (0 if learn.training else sizes[0]) + self.iter
        self._first = self._first or (now, place)
        began_s, first = self._first
        seconds = (now - began_s) / max(place - first, 1) * max(learn.n_epoch * sum(sizes) - place - 1, 0)
        return f'fit {format_time(seconds)} left' if place > first else ''

    def after_batch(self) -> None:
        now = time.perf_counter()
        if now < self._next_refresh:
            return
        self._next_refresh = now + refresh_s
        loss = self.learn.smooth_loss if self.learn.training else None
        told = '' if loss is None else f'loss {float(loss):.4f}'  # sync: a refresh
        done = self.learn.train_iter if self._searches else self.iter + 1
        self.table.update_bar(done, ', '.join(filter(None, [told, self._fit_left(now)])))

    def cleanup_fit(self) -> None:
        if self.table is not None:
            self.table.close()
            self.table = None
            self.learn.logger = self.old_logger


class ShowGraphCallback(Callback):
    """Draws training and validation loss after every epoch: one growing figure in a notebook, one figure at the end
    elsewhere.

    Example:
        >>> learn.fit(2, cbs=ShowGraphCallback())
    """

    order, run_valid, watches_only, only_rank0 = 65, False, True, True
    not_carried = ('*',)  # a figure on this screen

    def before_fit(self) -> None:
        self.run = not (self.learn.searching or self.learn.predicting)
        self.display = None

    def after_epoch(self) -> None:
        if in_notebook() and self.run:
            self._draw()

    def after_fit(self) -> None:
        if not in_notebook():
            self._draw()

    def _draw(self) -> None:
        import matplotlib.pyplot as plt
        if len(self.recorder.losses) < 2:
            return
        ax = self.recorder.plot_loss(skip_start=0, ax=new_axis())
        self.graph_ax = ax
        if in_notebook():
            from IPython.display import display
            if self.display is None:
                self.display = display(ax.figure, display_id=True)
            else:
                self.display.update(ax.figure)
            plt.close(ax.figure)


class CSVLogger(Callback):
    """Writes the table of epochs to `learn.path/fname`.

    A resumed training leaves the file that a training without an interruption would have left: rows behind the
    checkpoint, and a row that was cut in the middle, are taken off and written anew.

    Args:
        fname: the file's name.
        append: keep what the file holds; the header is then written to an empty file only.

    Example:
        >>> learn.fit(2, cbs=CSVLogger('history.csv'))
        >>> (learn.path/'history.csv').read_text().split(',')[0]
        'epoch'
    """

    order, watches_only, only_rank0 = 60, True, True
    file: BinaryIO | None = None

    @tells_near_match
    def __init__(self, fname: str | Path = 'history.csv', append: bool = False) -> None:
        self.fname, self.append = Path(fname), append
        self._began_at, self._rows = 0, ''  # bytes that were there before this fit, and what it has written

    def read_log(self) -> Any:
        """The file as a pandas DataFrame."""
        import pandas as pd
        return pd.read_csv(self.path / self.fname)

    def before_fit(self) -> None:
        if self.file is None and self.learn.fitting:
            target = Path(self.path) / self.fname
            self._began_at, self._rows = target.stat().st_size if self.append and target.exists() else 0, ''

    def before_train(self) -> None:
        # not before_fit: a validate() by hand must not write over the table of the training
        if self.file is not None or self.learn.searching:
            return
        target = Path(self.path) / self.fname
        target.parent.mkdir(parents=True, exist_ok=True)
        self.file = target.open('r+b' if target.exists() else 'x+b')
        self._write_again()
        self.old_logger, self.learn.logger = self.logger, self._write_line

    def _write_again(self) -> None:
        """Let the file hold what was there before this fit, and the fit's rows."""
        at = min(self._began_at, self.file.seek(0, 2))
        torn = False
        if at:
            self.file.seek(at - 1)
            torn = self.file.read(1) != b'\n'  # of a training that died while it wrote
        self.file.seek(at)
        self.file.truncate()
        if not self._rows:
            self._rows = '\n' if torn else '' if at else self._line(self.recorder.metric_names)
        self.file.write(self._bytes(self._rows))
        self.file.flush()

    @staticmethod
    def _line(row: Sequence[Any]) -> str:
        return ','.join(str(cell) for cell in row) + '\n'

    @staticmethod
    def _bytes(text: str) -> bytes:
        return text.encode(errors='backslashreplace')  # a name may hold what is no text

    def _write_line(self, row: Sequence[Any]) -> None:
        line = self._line(row)
        self._rows += line
        self.file.write(self._bytes(line))
        self.file.flush()
        self.old_logger(row)

    def cleanup_fit(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None
            self.learn.logger = self.old_logger

    def state_dict(self) -> dict[str, Any]:
        """Where this fit's rows begin, in bytes, and the rows, for a checkpoint."""
        return {'began_at': self._began_at, 'rows': self._rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`, a `state_dict()`."""
        self._began_at, self._rows = state['began_at'], state['rows']
        if self.file is not None:
            self._write_again()
