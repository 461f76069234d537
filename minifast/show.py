"""Pictures with matplotlib, which is imported when something is first shown: images, losses, metrics, schedules.

Every figure of the package is made by `subplots`: it has no background and writes in a grey that is read on light and
dark pages alike, unless the user has chosen a style (`plt.style.use`), and nothing in it overlaps.
"""
from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from fastcore.foundation import L
from fastcore.imports import in_notebook
from torch import Tensor

from minifast.arguments import tells_near_match
from minifast.terminal import print_table, say, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ['get_grid', 'show_image', 'show_image_batch', 'show_images', 'show_title', 'show_titled_image', 'subplots']

# ---------------------------------------------------------------- figures

INK = '#7a7a7a'
"""Of text and lines: its contrast is 4.3 on white, and 4.4 on the #111111 of JupyterLab's dark theme."""

# Jupyter lays a white or a dark slab under a figure whose ticks are all dark or all light, by its own measure, of which
# these two greys lie on either side
_on_any_page = {'figure.facecolor': '#ffffff00', 'axes.facecolor': 'none', 'legend.framealpha': 0.,
                'xtick.color': '#7f7f7f', 'ytick.color': '#818181',
                **dict.fromkeys(('axes.edgecolor', 'axes.labelcolor', 'text.color'), INK)}

_margins = ('left', 'right', 'bottom', 'top', 'wspace', 'hspace')


def _look() -> dict[str, Any]:
    """matplotlib's settings for a figure that suits every page; none where the user has chosen other colours."""
    from matplotlib import rcParams, rcParamsDefault
    return {} if any(rcParams[name] != rcParamsDefault[name] for name in _on_any_page) else _on_any_page


@cache
def _layout_engine() -> type:
    from matplotlib import rcParams
    from matplotlib.layout_engine import ConstrainedLayoutEngine, TightLayoutEngine

    class Layout(TightLayoutEngine):
        """Room for every title and label, pictures close together, titles as large as there is room for them.

        Of matplotlib's tight kind, so that a script's `plt.tight_layout()` is no change that it warns of; a figure
        whose margins were set by hand is left as it is.
        """

        _colorbar_gridspec = False

        def __init__(self) -> None:
            super().__init__()
            self._margins = {name: rcParams[f'figure.subplot.{name}'] for name in _margins}

        def execute(self, fig: Figure) -> None:
            if {name: getattr(fig.subplotpars, name) for name in _margins} != self._margins:
                return
            constrained = ConstrainedLayoutEngine(compress=True)
            constrained.execute(fig)
            if _shrink_titles(fig):
                constrained.execute(fig)

        def __reduce__(self) -> tuple:
            return TightLayoutEngine, ()  # a pickled figure needs nothing of ours

    return Layout


def _shrink_titles(fig: Figure) -> bool:
    """Make each title of an axis, and that of the figure, as small as it must be not to touch; whether one was."""
    centres = sorted({round((ax.bbox.x0 + ax.bbox.x1) / 2) for ax in fig.axes})
    between = [b - a for a, b in zip(centres, centres[1:]) if b - a > 1]
    room = min([2 * centres[0], 2 * (fig.bbox.width - centres[-1]), *between]) if centres else 0
    rooms = [(ax.title, room) for ax in fig.axes if ax.get_title()] + [(fig._suptitle, fig.bbox.width)] * bool(
        fig.get_suptitle())
    shrunk = False
    for title, room in rooms:
        width = title.get_window_extent().width
        if width > .98 * room:
            title.set_fontsize(title.get_fontsize() * .95 * room / width)
            shrunk = True
    return shrunk


class _Drawn(list):
    """The axes of a drawing; where they are the last thing of a notebook's cell nothing is written below it."""

    def _ipython_display_(self) -> None:
        """Nothing: the drawing is there already."""


def drawn(axes: Any) -> Any:
    """What a drawing function returned, a list of axes that a notebook does not print."""
    return _Drawn(axes) if isinstance(axes, list) else axes


def subplots(nrows: int = 1, ncols: int = 1, figsize: tuple[float, float] | None = None, imsize: float = 3,
             suptitle: str | None = None, **kwargs: Any) -> tuple[Figure, np.ndarray]:
    """A figure and its axes, as an array also where there is one.

    Args:
        nrows: rows.
        ncols: columns.
        figsize: width and height in inches; default: `imsize` for each picture.
        imsize: inches a picture.
        suptitle: title of the whole figure.
        **kwargs: go to `matplotlib.pyplot.subplots`.

    Example:
        >>> fig, (left, right) = subplots(1, 2, figsize=(6, 3))
    """
    import matplotlib.pyplot as plt
    if figsize is None:
        # matplotlib keeps no room for the title of small figures
        extra = 0.6 if suptitle is not None and imsize <= 2 else 0
        figsize = (ncols * imsize, nrows * imsize + extra)
    if not {'layout', 'tight_layout', 'constrained_layout', 'gridspec_kw'} & kwargs.keys():
        kwargs['layout'] = _layout_engine()()
    # it loads the backend, whose own settings, such as that figures are shown behind a cell, would end with the block
    plt.draw_if_interactive()
    with plt.rc_context(_look()):
        fig, axs = plt.subplots(nrows, ncols, figsize=figsize, **kwargs)
        if suptitle is not None:
            fig.suptitle(suptitle)
    return fig, np.array([axs]) if nrows * ncols == 1 else axs


def new_axis(figsize: tuple[float, float] | None = None) -> Axes:
    """The axis of a new figure of `figsize` inches; default: matplotlib's."""
    import matplotlib.pyplot as plt
    return subplots(figsize=figsize or tuple(plt.rcParams['figure.figsize']))[1][0]


def add_legend(where: Axes | Figure, **kwargs: Any) -> None:
    """A legend of an axis or a figure in the colours of the figure; `**kwargs` as for matplotlib's `legend`."""
    import matplotlib.pyplot as plt
    with plt.rc_context(_look()):
        where.legend(**kwargs)


def _pixels(im: Any) -> np.ndarray:
    """Any picture as an array that `imshow` takes: [H,W] or [H,W,C], in the range of its dtype."""
    if isinstance(im, Tensor):
        im = im.detach().cpu()  # sync: shown to a person
        im = im.as_subclass(Tensor).float() if im.is_floating_point() else im.as_subclass(Tensor)
        if im.ndim == 3 and im.shape[0] < 5:
            im = im.permute(1, 2, 0)
        im = im.numpy()
    im = np.asarray(im)
    if im.ndim == 3 and im.shape[-1] == 1:
        im = im[..., 0]
    if im.ndim == 3 and im.dtype.kind == 'f':
        im = im.clip(0, 1)  # a decoded batch overshoots by rounding; matplotlib would warn for each picture
    return im


def show_image(im: Any, ax: Axes | None = None, figsize: tuple[float, float] | None = None, title: Any = None,
               ctx: Axes | None = None, **kwargs: Any) -> Axes:
    """Draw a picture on an axis and return the axis.

    Args:
        im: PIL picture, array [H,W(,C)] or tensor [C,H,W] or [H,W]; floats in 0..1.
        ax: the axis; a new figure where both it and `ctx` are None.
        figsize: inches of a new figure; default: 1 to 5 by the picture's pixels.
        title: written above.
        ctx: another name of `ax`.
        **kwargs: go to `imshow` (`cmap`, `vmin`, `vmax`, `interpolation`, `alpha`, ...).

    Example:
        >>> show_image(PILImage.create(files[0]), title='a cat', figsize=(3, 3))
    """
    im = _pixels(im)
    ax = ctx if ax is None else ax
    if ax is None:
        ax = new_axis(figsize or tuple(min(5, max(1, side // 32)) for side in (im.shape[1], im.shape[0])))
    ax.imshow(im, **kwargs)
    if title is not None:
        ax.set_title(visible(title, keep='\n'))
    ax.axis('off')
    return ax


def show_titled_image(o: Sequence[Any], **kwargs: Any) -> Axes:
    """`show_image` of a pair `o`, (picture, title); `**kwargs` as there."""
    return show_image(o[0], title=str(o[1]), **kwargs)


def show_images(ims: Sequence[Any], nrows: int = 1, ncols: int | None = None, titles: Sequence[Any] | None = None,
                **kwargs: Any) -> None:
    """Draw several pictures in one figure.

    Args:
        ims: the pictures, as `show_image` takes them.
        nrows: rows.
        ncols: columns; default: as many as are needed.
        titles: one a picture.
        **kwargs: go to `subplots` (`figsize`, `imsize`, `suptitle`).

    Example:
        >>> show_images([PILImage.create(file) for file in files[:6]], nrows=2, titles=range(6), imsize=2)
    """
    ncols = ncols or math.ceil(len(ims) / nrows)
    axs = subplots(nrows, ncols, **kwargs)[1].flatten()
    titles = [None] * len(ims) if titles is None else titles
    for im, title, ax in zip(ims, titles, axs):
        show_image(im, ax=ax, title=title)
    for ax in axs[len(ims):]:
        ax.set_axis_off()


def show_image_batch(b: Sequence[Any], show: Any = show_titled_image, items: int = 9, cols: int = 3,
                     figsize: tuple[float, float] | None = None, **kwargs: Any) -> None:
    """Draw the first pictures of a batch.

    Args:
        b: (pictures, titles).
        show: draws one sample (picture, title) on `ax=`.
        items: how many.
        cols: columns, at most.
        figsize: width and height in inches; default: 3 for each picture.
        **kwargs: go to `show`.
    """
    items = min(items, len(b[0]))
    cols = min(cols, items)
    rows = math.ceil(items / cols)
    axs = subplots(rows, cols, figsize=figsize or (cols * 3, rows * 3))[1].flatten()
    for *sample, ax in zip(*b, axs):
        show(sample, ax=ax, **kwargs)
    for ax in axs[items:]:
        ax.set_axis_off()


def short(o: Any) -> str:
    """`o` for a title or a table: floats with three digits, the one thing in a tuple without the tuple.

    Example:
        >>> short(0.7142857313156128), short((0.5089981555938721,)), short((1234.56, 0.25))
        ('0.714', '0.509', '(1235, 0.25)')
    """
    if isinstance(o, (float, np.floating)):
        return f'{o:.0f}' if 999.5 <= abs(o) < 1e15 else f'{o:.3g}'
    if isinstance(o, tuple):
        return short(o[0]) if len(o) == 1 else f'({", ".join(map(short, o))})'
    return str(o)


def show_title(o: Any, ax: Any = None, ctx: Any = None, label: str | None = None, color: str | None = None,
               **kwargs: Any) -> Any:
    """Write `o` above an axis, into a row of a table (a pandas Series), or print it where there is neither.

    Args:
        o: what to write; a second title of the same axis goes below the first.
        ax: the axis or row, which is returned.
        ctx: another name of `ax`.
        label: the column of a table; default: `text`.
        color: of a title above an axis; default: the one it has.
        **kwargs: nothing is done with them.
    """
    ax = ctx if ax is None else ax
    if ax is None:
        say(o)
    elif hasattr(ax, 'set_title'):
        # a second title (prediction below target) goes on its own line
        before = ax.title.get_text()
        text = visible(o, keep='\n')  # surrogates have no letters to draw
        ax.set_title(f'{before}\n{text}' if before else text, **({} if color is None else {'color': color}))
    else:
        name = label or 'text'
        while name in ax:  # a table's second column of the same name
            name += '_'
        ax[name] = o
    return ax


def get_grid(n: int, nrows: int | None = None, ncols: int | None = None, figsize: tuple[float, float] | None = None,
             double: bool = False, title: str | None = None, return_fig: bool = False, flatten: bool = True,
             **kwargs: Any) -> Any:
    """`n` axes in a grid as square as can be; what is left over of the last row is switched off.

    Args:
        n: number of axes.
        nrows: rows; default from `ncols`, else the root of `n`.
        ncols: columns; default from `nrows`.
        figsize: width and height in inches; default: 3 for each axis.
        double: two axes for each of the `n`, side by side (target and prediction).
        title: title of the figure.
        return_fig: return (figure, axes).
        flatten: a flat list of `n` axes; else the array as matplotlib made it.
        **kwargs: go to `subplots` (`imsize`, `sharex`, ...).

    Example:
        >>> for ax, file in zip(get_grid(4, figsize=(4, 4)), files): show_image(PILImage.create(file), ax=ax)
    """
    n = max(n, 1)
    if nrows:
        ncols = ncols or math.ceil(n / nrows)
    elif ncols:
        nrows = math.ceil(n / ncols)
    else:
        nrows = int(math.sqrt(n))
        ncols = math.ceil(n / nrows)
    if double:
        ncols, n = ncols * 2, n * 2
    if title is not None:
        kwargs['suptitle'] = title
    fig, axs = subplots(nrows, ncols, figsize=figsize, **kwargs)
    if title is not None:
        fig._suptitle.set(weight='bold', size=14)
    if flatten:
        axs = _Drawn(axs.flatten())
        for ax in axs[n:]:
            ax.set_axis_off()
        del axs[n:]
    return (fig, axs) if return_fig else axs


# ---------------------------------------------------------------- tables

def html_table(rows: Iterable[Sequence[str]]) -> str:
    """Rows of text as an HTML table whose first row is its head; '' without rows."""
    lines = [''.join(f'<t{"d" if i else "h"}>{html.escape(cell)}</t{"d" if i else "h"}>' for cell in row)
             for i, row in enumerate(rows)]
    return f'<table border="1">{"".join(f"<tr>{line}</tr>" for line in lines)}</table>' if lines else ''


def show_table(rows: Sequence[Sequence[str]]) -> None:
    """Show rows of text, the first of which is the head: a table in a notebook, aligned columns elsewhere."""
    if in_notebook():
        from IPython.display import HTML, display
        display(HTML(html_table(rows)))
        return
    print_table(rows)


# ---------------------------------------------------------------- what a recorder kept

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

    Example:
        >>> learn.fit(2)
        >>> learn.recorder.plot_loss()
    """
    import matplotlib.pyplot as plt
    ax = ax or (plt.gca() if plt.get_fignums() else new_axis())
    losses = [float(loss) for loss in recorder.losses[skip_start:]]
    (ax.loglog if log else ax.plot)(range(skip_start, skip_start + len(losses)), losses, label='train')
    for end in recorder.iters if show_epochs else ():
        ax.axvline(end, color='grey', ls=':')
    if with_valid and 'valid_loss' in recorder.metric_names:
        column = recorder.metric_names.index('valid_loss') - 1
        drawn = [(end, row[column]) for end, row in zip(recorder.iters, recorder.values)
                 if end >= skip_start and len(row) > column]
        ax.plot([end for end, _ in drawn], [loss for _, loss in drawn], marker='.', label='valid')
        add_legend(ax)
    ax.set(ylabel='loss', xlabel='steps', title='learning curve')
    return ax


@tells_near_match
def plot_metrics(recorder: Any, nrows: int | None = None, ncols: int | None = None, figsize: Any = None) -> Any:
    """Draw every column of the table by epoch, one axis a metric, both losses on one; returns the axes.

    Example:
        >>> learn.fit(2)
        >>> learn.recorder.plot_metrics()
    """
    columns = list(recorder.metric_names[1:-1] if recorder.add_time else recorder.metric_names[1:])
    losses = [name for name in columns if name.endswith('loss')]
    panels = [losses] + [[name] for name in columns if name not in losses]
    axes = get_grid(len(panels), nrows=nrows, ncols=ncols, figsize=figsize)
    for ax, names in zip(axes, panels):
        for name in names:
            ax.plot([row[columns.index(name)] for row in recorder.values], marker='.', label=name)
        ax.set(xlabel='epoch', title=' and '.join(names))
        ax.xaxis.get_major_locator().set_params(integer=True)
        if len(names) > 1:
            add_legend(ax)
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
    lrs, losses = getattr(recorder, 'lr_search', None) or (recorder.lrs, recorder.losses)
    end = -skip_end if 0 < skip_end < len(lrs) else None
    ax = new_axis()
    ax.plot(lrs[:end], [float(loss) for loss in losses[:end]])
    ax.set(xscale='log', xlabel='Learning Rate', ylabel='Loss', title='Learning rate search')
    for i, (point, name) in enumerate(zip(suggestions or (), nms or ())):
        ax.plot(*point, 'o', label=f'{name} {point[0]:.1e}', c=f'C{i + 1}')
    if suggestions:
        add_legend(ax, loc='best')
    return ax.figure if return_fig else None


@tells_near_match
def plot_sched(recorder: Any, keys: Any = None, figsize: tuple[float, float] | None = None) -> Any:
    """Draw the scheduled hyper-parameters by step; returns the axes.

    Args:
        recorder: of the learner that was fit.
        keys: which of them, by default all.
        figsize: width and height in inches.

    Raises:
        ValueError: one that no schedule has set in the last fit.

    Example:
        >>> learn.fit_one_cycle(2)
        >>> learn.recorder.plot_sched()
    """
    hps = getattr(recorder, 'hps', {})
    names = list(hps) if keys is None else list(L(keys))
    unknown = [name for name in names if name not in hps]
    if unknown or not names:
        raise ValueError(f'plot_sched: the last fit scheduled {list(hps) or "nothing"}, not {unknown or "anything"}')
    rows, columns = (len(names) + 1) // 2, min(2, len(names))
    axes = get_grid(len(names), rows, columns, figsize=figsize or (6 * columns, 4 * rows))
    for name, ax in zip(names, axes):
        ax.plot(hps[name])
        ax.set(xlabel='step', ylabel=name)
    return axes
