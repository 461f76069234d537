"""What a recorder kept, as pictures: losses, metrics, schedules and the search for a learning rate."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastcore.foundation import L

from minifast.arguments import tells_near_match
from minifast.show import get_grid

__all__ = ['plot_loss', 'plot_lr_find', 'plot_metrics', 'plot_sched']


@tells_near_match
def plot_loss(recorder: Any, skip_start: int = 5, with_valid: bool = True, log: bool = False,
              show_epochs: bool = False, ax: Any = None) -> Any:
    """Draw the smoothed training loss by step and the validation loss by epoch; returns the matplotlib axis.

    Args:
        recorder: of the learner that was fit.
        skip_start: leave out this many first steps.
        with_valid: draw the validation loss too.
        log: both axes logarithmic.
        show_epochs: mark the ends of epochs.
        ax: the axis to draw on.
    """
    import matplotlib.pyplot as plt
    ax = ax or plt.gca()
    losses = [float(loss) for loss in recorder.losses[skip_start:]]
    (ax.loglog if log else ax.plot)(range(skip_start, skip_start + len(losses)), losses, label='train')
    for end in recorder.iters if show_epochs else ():
        ax.axvline(end, color='grey', ls=':')
    if with_valid and 'valid_loss' in recorder.metric_names:
        column = recorder.metric_names.index('valid_loss') - 1
        drawn = [(end, row[column]) for end, row in zip(recorder.iters, recorder.values)
                 if end >= skip_start and len(row) > column]
        ax.plot([end for end, _ in drawn], [loss for _, loss in drawn], label='valid')
        ax.legend()
    ax.set(ylabel='loss', xlabel='steps', title='learning curve')
    return ax


@tells_near_match
def plot_metrics(recorder: Any, nrows: int | None = None, ncols: int | None = None, figsize: Any = None) -> Any:
    """Draw every column of the table by epoch, one axis a metric, both losses on one; returns the axes."""
    columns = list(recorder.metric_names[1:-1] if recorder.add_time else recorder.metric_names[1:])
    losses = [name for name in columns if name.endswith('loss')]
    panels = [losses] + [[name] for name in columns if name not in losses]
    axes = get_grid(len(panels), nrows=nrows, ncols=ncols, figsize=figsize)
    for ax, names in zip(axes, panels):
        for name in names:
            ax.plot([row[columns.index(name)] for row in recorder.values], label=name)
        ax.set(xlabel='epoch', title=' and '.join(names))
        ax.legend()
    return axes


def plot_lr_find(recorder: Any, skip_end: int = 5, return_fig: bool = True,
                 suggestions: Sequence[tuple[float, float]] | None = None, nms: Sequence[str] | None = None) -> Any:
    """Draw the loss by learning rate of the last `lr_find`, with marks for suggestions.

    Args:
        recorder: of the learner that searched.
        skip_end: leave out this many last steps.
        return_fig: return the figure.
        suggestions: points (learning rate, loss) to mark.
        nms: their names.
    """
    import matplotlib.pyplot as plt
    lrs, losses = getattr(recorder, 'lr_search', None) or (recorder.lrs, recorder.losses)
    end = -skip_end if 0 < skip_end < len(lrs) else None
    figure, ax = plt.subplots(1, 1)
    ax.plot(lrs[:end], [float(loss) for loss in losses[:end]])
    ax.set(xscale='log', xlabel='Learning Rate', ylabel='Loss')
    for i, (point, name) in enumerate(zip(suggestions or (), nms or ())):
        ax.plot(*point, 'o', label=name, c=f'C{i + 1}')
    if suggestions:
        ax.legend(loc='best')
    return figure if return_fig else None


@tells_near_match
def plot_sched(recorder: Any, keys: Any = None, figsize: tuple[float, float] | None = None) -> Any:
    """Draw the scheduled hyper-parameters by step; returns the axes.

    Args:
        recorder: of the learner that was fit.
        keys: which of them, by default all.
        figsize: width and height in inches.

    Raises:
        ValueError: one that no schedule has set in the last fit.
    """
    import matplotlib.pyplot as plt
    hps = getattr(recorder, 'hps', {})
    names = list(hps) if keys is None else list(L(keys))
    unknown = [name for name in names if name not in hps]
    if unknown or not names:
        raise ValueError(f'plot_sched: the last fit scheduled {list(hps) or "nothing"}, not {unknown or "anything"}')
    rows, columns = (len(names) + 1) // 2, min(2, len(names))
    _, axes = plt.subplots(rows, columns, figsize=figsize or (6 * columns, 4 * rows), squeeze=False)
    for name, ax in zip(names, axes.flat):
        ax.plot(hps[name])
        ax.set(xlabel='step', ylabel=name)
    return axes
