"""Showing: any picture lands on the right axis with the right pixels, and matplotlib is imported only then."""
from __future__ import annotations

import itertools
import os
import pickle
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.layout_engine import TightLayoutEngine
from PIL import Image

import minifast
from minifast.data.categorize import Category, MultiCategory, TitledFloat, TitledTuple
from minifast.interpret import ClassificationInterpretation, plot_top_losses
from minifast.markers import TensorCategory, TensorImage, TensorMask, TitledTensorScalar
from minifast.run.history import History, plot_runs
from minifast.show import (get_grid, html_table, plot_loss, plot_lr_find, plot_metrics, plot_sched, short, show_image,
                           show_image_batch, show_images, show_table, show_title, show_titled_image, subplots)
from minifast.vision.data import show_batch, show_results


def test_import_costs_no_matplotlib():
    """The room, and the rooms for pictures, load neither matplotlib nor pandas nor OpenCV nor simplejpeg."""
    code = ('import sys, minifast.show, minifast.vision.augment, minifast.vision.utils\n'
            'print([m for m in ("matplotlib", "pandas", "cv2", "simplejpeg", "sklearn") if m in sys.modules])')
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout == '[]\n'


@pytest.mark.parametrize('make', [
    lambda a: a, Image.fromarray, lambda a: torch.from_numpy(a).permute(2, 0, 1),
    lambda a: TensorImage(torch.from_numpy(a).permute(2, 0, 1).float() / 255),
    lambda a: (torch.from_numpy(a).permute(2, 0, 1) / 255).half(), lambda a: a / 255], ids=list('apbfhd'))
def test_show_image_any_kind_of_picture_gives_the_same_pixels(make):
    """Array, Pillow image and tensors of any precision are drawn alike, without ticks."""
    pixels = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    ax = show_image(make(pixels))
    drawn = np.asarray(ax.images[0].get_array(), dtype=float)
    drawn = drawn if drawn.max() > 1 else drawn * 255
    np.testing.assert_allclose(drawn, pixels, atol=.6)
    assert not ax.axison


def test_show_image_grey_and_overshoot():
    """One channel is drawn without its axis; floats a little out of 0..1 draw no warning."""
    assert show_image(torch.rand(1, 6, 8)).images[0].get_array().shape == (6, 8)
    assert show_image(torch.rand(3, 6, 8) * 1.02 - .01).images[0].get_array().max() <= 1
    assert show_image(TensorMask(torch.ones(6, 8, dtype=torch.long)), vmin=0, vmax=3).images[0].get_clim() == (0, 3)


def test_show_image_goes_to_the_axis_given():
    """`ax` and `ctx` are one thing, `title` is written above, `figsize` makes the figure."""
    _, axs = subplots(1, 2)
    assert show_image(torch.rand(3, 4, 4), ctx=axs[0], title='a') is axs[0] and axs[0].get_title() == 'a'
    assert show_image(torch.rand(3, 4, 4), ax=axs[1]) is axs[1]
    assert tuple(show_image(torch.rand(3, 4, 4), figsize=(2, 3)).figure.get_size_inches()) == (2, 3)
    assert tuple(show_image(torch.rand(3, 64, 128)).figure.get_size_inches()) == (4, 2)
    assert show_titled_image((torch.rand(3, 4, 4), 7), ax=axs[0]).get_title() == '7'


def test_show_images_fills_a_row_and_switches_off_the_rest():
    """Titles follow the pictures; axes left over are blank."""
    import matplotlib.pyplot as plt
    show_images([torch.rand(3, 4, 4)] * 3, nrows=2, titles=['a', 'b', 'c'], suptitle='all')
    axs = plt.gcf().axes
    assert [len(ax.images) for ax in axs] == [1, 1, 1, 0] and [ax.get_title() for ax in axs[:3]] == ['a', 'b', 'c']
    assert not axs[3].axison
    show_image_batch((torch.rand(4, 3, 4, 4), torch.arange(4)), items=4, cols=3)
    assert [len(ax.images) for ax in plt.gcf().axes] == [1, 1, 1, 1, 0, 0]


def test_show_title_on_axes_rows_and_nowhere(capsys):
    """Above an axis a second title goes below the first; a table's row gets a cell; else it is printed."""
    import pandas as pd
    ax = get_grid(1)[0]
    show_title('dog', ctx=ax)
    show_title('cat', ctx=ax, color='red')
    assert ax.get_title() == 'dog\ncat' and ax.title.get_color() == 'red'
    row = show_title('b', ctx=show_title('a', ctx=pd.Series(dtype=object), label='text'), label='text')
    assert dict(row) == {'text': 'a', 'text_': 'b'}
    show_title('printed')
    assert capsys.readouterr().out == 'printed\n'


@pytest.mark.parametrize('n, kwargs, shape', [(9, {}, (3, 3)), (5, {}, (2, 3)), (4, {'nrows': 1}, (1, 4)), (1, {}, (1,
                                                                                                                    1)),
                                              (5, {'ncols': 2}, (3, 2)), (3, {'double': True}, (1, 6)), (0, {}, (1,
                                                                                                                 1))])
def test_get_grid_has_n_axes_as_square_as_can_be(n, kwargs, shape):
    """`n` axes (twice as many if doubled) of a grid of rows and columns; the others are blank."""
    fig, axs = get_grid(n, return_fig=True, title='t', **kwargs)
    assert len(axs) == max(n, 1) * (2 if kwargs.get('double') else 1)
    assert fig.axes[0].get_gridspec().get_geometry() == shape
    assert [ax.axison for ax in fig.axes] == [i < len(axs) for i in range(len(fig.axes))]
    assert get_grid(4, flatten=False).shape == (2, 2)


def test_get_grid_hands_on_what_the_figure_is_asked_for():
    """Its size, shared axes, a title in bold; each axis is one of its own in reading order."""
    fig, axs = get_grid(4, figsize=(5, 3), title='words', return_fig=True, sharex=True)
    assert tuple(fig.get_size_inches()) == (5, 3) and axs[0].get_shared_x_axes().joined(axs[0], axs[3])
    assert (fig.get_suptitle(), fig._suptitle.get_weight(), fig._suptitle.get_size()) == ('words', 'bold', 14)
    assert axs == fig.axes and get_grid(1, return_fig=True)[0].get_suptitle() == ''
    assert tuple(get_grid(6, imsize=2, return_fig=True)[0].get_size_inches()) == (6, 4)


# ---------------------------------------------------------------- every figure

NAMES = ['american_staffordshire_terrier', 'cat', 'dog', 'an owl']


def pictures(n, label=Category):
    """`n` samples of a picture and a label."""
    return [(TensorImage(torch.rand(3, 8, 8)), label(NAMES[i % 4])) for i in range(n)]


def a_matrix(**kwargs):
    """A confusion matrix of four classes, one of a long name."""
    interp = ClassificationInterpretation.__new__(ClassificationInterpretation)
    interp.vocab, interp._answers = NAMES, (torch.arange(24) % 4, torch.arange(24) % 3)
    interp.plot_confusion_matrix(**kwargs)


def masks(samples):
    """Samples of a picture and a mask of two of three codes."""
    for i, (picture, _) in enumerate(samples):
        mask = TensorMask(torch.randint(i % 2, 2 + i % 2, (8, 8)))
        mask.codes = ['the ground below', 'sky', 'animal']
        yield picture, mask


X, Y, M = TensorImage(torch.zeros(9, 3, 8, 8)), TensorCategory(torch.zeros(9)), TensorMask(torch.zeros(9, 8, 8))
RECORDER = types.SimpleNamespace(
    metric_names=['epoch', 'train_loss', 'valid_loss', 'accuracy', 'roc_auc_score', 'f1_score', 'time'], add_time=True,
    values=[[1.5, 1.25, .33, .5, .123], [1.375, 1.225, .4, .75, .321], [1.3, 1.2, .5, .8, .4]], iters=[5, 10, 15],
    losses=[torch.tensor(1 / i) for i in range(1, 15)], lrs=[10. ** i for i in range(-9, 5)],
    hps={'lr': [1, 2], 'mom': [3, 4]})
SCHEDULED = types.SimpleNamespace(hps={'lr': [1, 2, 3], 'mom': [3, 4, 5], 'wd': [5, 6, 7]})
TOP = [(NAMES[0],)] * 5, torch.rand(5, 4), torch.rand(5)
FIGURES = {
    'batch': lambda: show_batch(X, Y, pictures(9)),
    'small batch': lambda: show_batch(X, Y, pictures(8), nrows=1, figsize=(8, 1.4)),
    'results': lambda: show_results(X, Y, pictures(9), [(s[1],) for s in pictures(9)]),
    'small results': lambda: show_results(X, Y, pictures(10), [(s[1],) for s in pictures(10)], nrows=2,
                                          figsize=(7, 3.6)),
    'masks': lambda: show_batch(X, M, [*masks(pictures(4))]),
    'results of masks': lambda: show_results(X, M, [*masks(pictures(3))],
                                             [s[1:] for s in masks(pictures(3))]),
    'top losses': lambda: plot_top_losses(X, Y, pictures(5), *TOP, nrows=1),
    'top losses of masks': lambda: plot_top_losses(X, M, [*masks(pictures(3))], [s[1:] for s in masks(pictures(3))],
                                                   None, torch.rand(3)),
    'images': lambda: show_images([torch.rand(3, 8, 8)] * 3, titles=NAMES[:3], suptitle='words', imsize=2),
    'grid': lambda: [ax.set(title=NAMES[0], xlabel='x', ylabel='y') for ax in get_grid(4, title=str(NAMES))],
    'confusions': lambda: a_matrix(), 'shares': lambda: a_matrix(normalize=True),
    'metrics': lambda: plot_metrics(RECORDER), 'loss': lambda: plot_loss(RECORDER, show_epochs=True),
    'schedule': lambda: plot_sched(RECORDER),
    'search': lambda: plot_lr_find(RECORDER, suggestions=[(1e-3, .2)], nms=['valley']),
    'runs': lambda: plot_runs({name: History([{'accuracy': .1}, {'accuracy': .9}]) for name in 'ab'}),
}


def boxes(fig):
    """(text, its place in pixels) of all that is written in a figure, in axes that are drawn."""
    from matplotlib.text import Text
    legends = fig.legends + [ax.get_legend() for ax in fig.axes if ax.get_legend()]
    words = [fig._suptitle] if fig._suptitle else []
    words += [ax.title for ax in fig.axes] + [text for legend in legends for text in legend.findobj(Text)]
    for ax in fig.axes:
        if ax.axison:
            words += [*ax.texts, ax.xaxis.label, ax.yaxis.label]
            words += [tick.label1 for axis in (ax.xaxis, ax.yaxis) for tick in axis._update_ticks()]
    return [(text, text.get_window_extent()) for text in words if text.get_text() and text.get_visible()]


def contrast(colour, page):
    """Of a colour on a page, 1 to 21. Source: WCAG 2.2, "contrast ratio"."""
    from matplotlib.colors import to_rgb

    def luminance(c):
        linear = [x / 12.92 if x <= .04045 else ((x + .055) / 1.055) ** 2.4 for x in to_rgb(c)]
        return sum(x * weight for x, weight in zip(linear, (.2126, .7152, .0722)))
    low, high = sorted((luminance(colour), luminance(page)))
    return (high + .05) / (low + .05)


@pytest.mark.parametrize('kind', FIGURES)
def test_every_figure_is_read_on_light_and_dark_pages_and_nothing_in_it_overlaps(kind):
    """No background; all that is written, and the frames, have a contrast of 3 on white, on black and on Jupyter's
    dark grey; no two texts touch, none lies on another axis, and none is cut off."""
    import matplotlib.pyplot as plt
    FIGURES[kind]()
    fig = plt.figure(1)
    fig.canvas.draw()
    assert [patch.get_facecolor()[3] for patch in (fig.patch, *(ax.patch for ax in fig.axes))] == [0] * (
        1 + len(fig.axes))
    found = boxes(fig)
    assert found
    on_pixels = [text for ax in fig.axes for text in ax.texts]
    colours = {text.get_color() for text, _ in found if text not in on_pixels}
    colours |= {spine.get_edgecolor() for ax in fig.axes for spine in ax.spines.values()}
    assert all(contrast(colour, page) > 3 for colour in colours for page in ('white', 'black', '#111111'))
    for (one, a), (other, b) in itertools.combinations(found, 2):
        assert not a.padded(-.5).overlaps(b.padded(-.5)), (one.get_text(), other.get_text())
    for text, box in found:
        assert box.x0 > -1 and box.y0 > -1 and box.x1 < fig.bbox.width + 1 and box.y1 < fig.bbox.height + 1, text
        assert text in on_pixels or text.axes is None or not [
            ax for ax in fig.axes if ax is not text.axes and box.padded(-1).overlaps(ax.bbox)], text


def test_every_figure_is_made_in_one_room():
    """Where it gets the look that suits every page, which matplotlib's own does not."""
    rooms = [file.name for file in sorted(Path(minifast.__file__).parent.rglob('*.py'))
             if re.search(r'plt\.(subplots|figure)\(', file.read_text(encoding='utf-8'))]
    assert rooms == ['show.py']


def test_the_style_that_a_user_has_chosen_is_left_alone():
    """Its colours are seen in all of the figure; behind it ours are back, and matplotlib's settings are as ever."""
    import matplotlib.pyplot as plt
    before = dict(plt.rcParams)
    with plt.style.context('dark_background'):
        ax = plot_loss(RECORDER)
        colours = {ax.figure.get_facecolor(), *(s.get_edgecolor() for s in ax.spines.values())}
        assert colours == {(0, 0, 0, 1), (1, 1, 1, 1)} and ax.title.get_color() == 'white'
        assert {text.get_color() for text in ax.get_legend().get_texts()} == {'white'}
    assert dict(plt.rcParams) == before and plot_loss(RECORDER, ax=subplots()[1][0]).figure.get_facecolor()[3] == 0


def test_a_script_may_lay_a_figure_out_itself():
    """`tight_layout` and `subplots_adjust` mean what they mean elsewhere, without a warning; `layout=` is obeyed; a
    figure can be pickled."""
    import matplotlib.pyplot as plt
    fig, axs = get_grid(4, return_fig=True)
    plt.tight_layout()
    fig, axs = get_grid(4, return_fig=True)
    fig.subplots_adjust(left=.4, right=.6)
    fig.canvas.draw()
    assert axs[0].get_position(original=True).x0 == pytest.approx(.4)
    assert subplots(layout='none')[0].get_layout_engine() is None
    assert subplots(constrained_layout=False)[0].get_layout_engine() is None
    assert isinstance(subplots(tight_layout=True)[0].get_layout_engine(), TightLayoutEngine)
    pickle.loads(pickle.dumps(get_grid(2, title='kept', return_fig=True)[0])).canvas.draw()
    fig, axs = get_grid(2, return_fig=True)
    fig.colorbar(axs[0].imshow(np.eye(3)))
    fig.canvas.draw()
    assert len(fig.axes) == 3


@pytest.mark.parametrize('draw', [lambda: get_grid(2), lambda: plot_metrics(RECORDER), lambda: plot_sched(RECORDER)])
def test_at_the_end_of_a_cell_axes_are_not_listed(draw):
    """The drawing is there already; it is a list all the same."""
    from IPython.core.formatters import DisplayFormatter
    assert DisplayFormatter().format(draw()) == ({}, {}) and len(draw()) >= 2
    assert DisplayFormatter().format([1])[0] == {'text/plain': '[1]'}


def test_metrics_have_whole_epochs_and_a_legend_where_there_are_two_lines():
    """The losses; and a single epoch, which has no line, is seen."""
    axs = plot_metrics(RECORDER)
    axs[0].figure.canvas.draw()
    assert [ax.get_legend() is not None for ax in axs] == [True, False, False, False]
    assert all(float(tick).is_integer() for ax in axs for tick in ax.get_xticks())
    assert all(line.get_marker() != 'None' for ax in axs for line in ax.lines)


def test_a_search_is_titled():
    """And returns its figure where that is asked for."""
    assert plot_lr_find(RECORDER).axes[0].get_title() == 'Learning rate search'
    assert plot_lr_find(RECORDER, return_fig=False) is None
    marked = plot_lr_find(RECORDER, suggestions=[(1e-3, .2), (2e-2, .4)], nms=['valley', 'slide']).axes[0].lines[1:]
    assert [(*map(float, line.get_xydata()[0]), line.get_label()) for line in marked] == [
        (1e-3, .2, 'valley 1.0e-03'), (2e-2, .4, 'slide 2.0e-02')]


@pytest.mark.parametrize('draw, inches', [
    (lambda: show_image(torch.rand(3, 16, 100)), (3, 1)), (lambda: show_image(torch.rand(3, 31, 4000)), (5, 1)),
    (lambda: show_images([torch.rand(3, 4, 4)] * 3), (9, 3)),
    (lambda: show_images([torch.rand(3, 4, 4)] * 3, nrows=2, imsize=2), (4, 4)),
    (lambda: show_images([torch.rand(3, 4, 4)] * 3, imsize=2, suptitle='a'), (6, 2.6)),
    (lambda: show_images([torch.rand(3, 4, 4)] * 3, suptitle='a'), (9, 3)),
    (lambda: show_images([torch.rand(3, 4, 4)] * 3, ncols=2, nrows=2, figsize=(5, 7)), (5, 7)),
    (lambda: show_image_batch((torch.rand(12, 3, 4, 4), range(12))), (9, 9)),
    (lambda: show_image_batch((torch.rand(2, 3, 4, 4), range(2))), (6, 3)),
    (lambda: show_image_batch((torch.rand(9, 3, 4, 4), range(9)), items=5, cols=4), (12, 6)),
    (lambda: show_image_batch((torch.rand(9, 3, 4, 4), range(9)), figsize=(5, 7)), (5, 7)),
    (lambda: get_grid(6, double=True), (18, 6)), (lambda: subplots(3, 2), (6, 9)),
    (lambda: plot_metrics(RECORDER, ncols=4, figsize=(5, 7)), (5, 7)),
    (lambda: plot_metrics(RECORDER, nrows=1), (12, 3)), (lambda: plot_metrics(RECORDER, ncols=1), (3, 12)),
    (lambda: plot_sched(RECORDER), (12, 4)), (lambda: plot_sched(RECORDER, 'lr'), (6, 4)),
    (lambda: plot_sched(SCHEDULED), (12, 8)), (lambda: plot_sched(RECORDER, figsize=(5, 7)), (5, 7))])
def test_a_figure_has_room_for_what_is_in_it_or_the_size_asked_for(draw, inches):
    """Three inches a picture, one to five by its pixels where it is alone; six by four a curve."""
    import matplotlib.pyplot as plt
    draw()
    assert tuple(plt.gcf().get_size_inches()) == pytest.approx(inches)


def curve(line):
    """Its points and its name."""
    return [list(map(float, o)) for o in (line.get_xdata(), line.get_ydata())] + [line.get_label()]


def test_losses_are_drawn_at_their_steps():
    """Both behind the steps that are left out; with the ends of epochs, and in logarithms, where asked for; on the axis
    given, or the one there is."""
    ax = plot_loss(RECORDER)
    steps, losses, name = curve(ax.lines[0])
    assert (steps, name) == (list(range(5, 14)), 'train') and losses == pytest.approx([1 / i for i in range(6, 15)])
    assert curve(ax.lines[1]) == [[5, 10, 15], [1.25, 1.225, 1.2], 'valid'] and len(ax.lines) == 2
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ('steps', 'loss', 'learning curve')
    assert ax.get_xscale() == ax.get_yscale() == 'linear' and ax.get_legend() and plot_loss(RECORDER) is ax
    own = get_grid(2)[1]
    assert plot_loss(RECORDER, skip_start=6, with_valid=False, log=True, show_epochs=True, ax=own) is own
    assert curve(own.lines[0])[0] == list(range(6, 14)) and own.get_xscale() == own.get_yscale() == 'log'
    assert [curve(line)[0] for line in own.lines[1:]] == [[5, 5], [10, 10], [15, 15]] and not own.get_legend()
    assert len({line.get_color() for line in own.lines}) == 2
    assert curve(plot_loss(RECORDER, skip_start=6, ax=get_grid(1)[0]).lines[1])[0] == [10, 15]
    bare = types.SimpleNamespace(metric_names=['epoch', 'train_loss', 'time'], losses=[1., 2.], iters=[2], values=[[1]])
    assert len(plot_loss(bare, skip_start=0, ax=get_grid(1)[0]).lines) == 1


def test_each_metric_is_drawn_by_epoch_under_its_name():
    """Both losses in one; the time, where there is one, in none."""
    axs = plot_metrics(RECORDER)
    assert [[curve(line) for line in ax.lines] for ax in axs[:2]] == [
        [[[0, 1, 2], [1.5, 1.375, 1.3], 'train_loss'], [[0, 1, 2], [1.25, 1.225, 1.2], 'valid_loss']],
        [[[0, 1, 2], [.33, .4, .5], 'accuracy']]]
    assert [ax.get_title() for ax in axs] == ['train_loss and valid_loss', 'accuracy', 'roc_auc_score', 'f1_score']
    assert {ax.get_xlabel() for ax in axs} == {'epoch'}
    untimed = types.SimpleNamespace(metric_names=['epoch', 'valid_loss', 'last'], add_time=False, values=[[1., 2.]])
    assert [ax.get_title() for ax in plot_metrics(untimed)] == ['valid_loss', 'last']


@pytest.mark.parametrize('skip_end, left', [(5, 9), (1, 13), (0, 14), (14, 14)])
def test_a_search_leaves_out_its_end(skip_end, left):
    """Where losses are past all bounds; all of them are drawn where nothing else would be left."""
    ax = plot_lr_find(RECORDER, skip_end=skip_end).axes[0]
    rates, losses, _ = curve(ax.lines[0])
    assert rates == RECORDER.lrs[:left] and losses == pytest.approx([1 / i for i in range(1, left + 1)])
    assert (ax.get_xscale(), ax.get_xlabel(), ax.get_ylabel()) == ('log', 'Learning Rate', 'Loss')
    assert not ax.get_legend() and len(plot_lr_find(RECORDER).axes[0].lines[0].get_xdata()) == 9
    searched = types.SimpleNamespace(lr_search=([1., 2.], [3., 4.]), lrs=[], losses=[])
    assert curve(plot_lr_find(searched, skip_end=0).axes[0].lines[0])[:2] == [[1, 2], [3, 4]]
    ax = plot_lr_find(RECORDER, suggestions=[(1e-3, .2), (2e-2, .4)], nms=['valley', 'slide']).axes[0]
    assert len({line.get_color() for line in ax.lines}) == 3 and len(ax.get_legend().get_texts()) == 2


def test_what_was_scheduled_is_drawn_by_step():
    """All of it in its order, or what is asked for; of what was not, what there is is told."""
    axs = plot_sched(SCHEDULED)
    assert [(*curve(ax.lines[0])[:2], ax.get_xlabel(), ax.get_ylabel()) for ax in axs] == [
        ([0, 1, 2], hps, 'step', name) for name, hps in SCHEDULED.hps.items()]
    assert [ax.get_ylabel() for ax in plot_sched(SCHEDULED, ['wd', 'lr'])] == ['wd', 'lr']
    for keys, told in (('lrs', r"scheduled \['lr', 'mom', 'wd'\], not \['lrs'\]"), ([], 'not anything')):
        with pytest.raises(ValueError, match=told):
            plot_sched(SCHEDULED, keys)
    with pytest.raises(ValueError, match='scheduled nothing'):
        plot_sched(types.SimpleNamespace())


def test_a_table_has_one_head_and_its_cells_are_text(monkeypatch, capsys):
    """In HTML where a notebook shows it, in columns elsewhere."""
    rows = [['a', '<b>'], ['1', '2'], ['3', '&']]
    made = ('<table border="1"><tr><th>a</th><th>&lt;b&gt;</th></tr><tr><td>1</td><td>2</td></tr>'
            '<tr><td>3</td><td>&amp;</td></tr></table>')
    assert html_table(rows) == made and html_table([]) == ''
    show_table(rows)
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == rows
    shown = []
    monkeypatch.setattr('minifast.show.in_notebook', lambda: True)
    monkeypatch.setattr('IPython.display.display', shown.append)
    show_table(rows)
    assert [o.data for o in shown] == [made] and not capsys.readouterr().out


def test_numbers_in_titles_have_three_digits():
    """Of whatever kind: one number, one of a list, several; what is chosen of nothing is told."""
    cases = [(TitledFloat(.7142857313156128), '0.714'), (TitledTuple([.5089981555938721]), '0.509'),
             (TitledTuple([1234.56, .25]), '(1235, 0.25)'), (TitledFloat(-1.5), '-1.5'), (TitledFloat(1e-5), '1e-05'),
             (TitledFloat(999.4), '999'), (TitledFloat(1000.4), '1000'), (TitledFloat(-1e15), '-1e+15'),
             (TitledFloat('nan'), 'nan'), (MultiCategory([]), '(none)'), (MultiCategory(['a', 'b']), 'a;b'),
             (TitledTensorScalar(torch.tensor(20.984)), '21')]
    for value, title in cases:
        assert value.show(ctx=get_grid(1)[0]).get_title() == title
    assert short(7) == '7' and short(True) == 'True' and short('0.12345') == '0.12345'
    assert short(999.4) == '999' and short(999.5) == short(999.6) == '1000' and short(-999.6) == '-1000'


def test_a_code_has_one_colour_in_all_masks_and_the_legend():
    """Whatever codes a mask has; what is no code is not drawn and not in the legend."""
    samples = [*masks(pictures(2))]
    samples[1][1][0, 0] = 255
    axs = show_batch(X, M, samples)
    drawn = [ax.images[1] for ax in axs]
    assert np.ma.is_masked(drawn[1].get_array()[0, 0]) and drawn[0].to_rgba(1) == drawn[1].to_rgba(1)
    legend = axs[0].figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ['the ground below', 'sky', 'animal']
    assert [patch.get_facecolor() for patch in legend.get_patches()] == [drawn[0].to_rgba(code) for code in range(3)]
    axs = get_grid(2)
    show_batch(X, M, samples, ctxs=axs), show_batch(X, Y, pictures(2), ctxs=get_grid(2))
    assert not axs[0].figure.legends


def test_points_are_seen_on_their_own_colour_and_names_of_boxes_stay_in_their_picture():
    """Points have a rim; they are some pixels wide."""
    from minifast.vision.core import LabeledBBox, TensorBBox, TensorPoint
    ax = TensorPoint.create([(1, 2)]).show(ctx=show_image(torch.zeros(3, 8, 8)))
    points = ax.collections[0]
    assert contrast(points.get_edgecolor()[0], points.get_facecolor()[0]) > 3 and points.get_sizes()[0] >= 40
    LabeledBBox(TensorBBox.create([[1, 1, 3, 3]]), NAMES).show(ctx=ax)
    assert ax.texts and all(text.get_clip_on() for text in ax.texts)


IN_A_NOTEBOOK = """
from IPython.core.interactiveshell import InteractiveShell
InteractiveShell.instance()
from minifast.show import show_image, show_images, subplots
import torch
subplots()  # the first figure loads the backend
import matplotlib, matplotlib.pyplot as plt
from matplotlib_inline.backend_inline import _fetch_figure_metadata
for draw in (subplots, lambda: show_image(torch.rand(3, 4, 4)), lambda: show_images([torch.rand(3, 4, 4)] * 3)):
    draw()
    assert matplotlib.is_interactive()
    assert _fetch_figure_metadata(plt.gcf()) is None
"""


def test_jupyter_shows_every_figure_and_lays_no_slab_under_it():
    """Whoever loads Jupyter's backend: it shows figures behind each cell, and takes ours for neither dark nor light."""
    environ = {**os.environ, 'MPLBACKEND': 'module://matplotlib_inline.backend_inline'}
    done = subprocess.run([sys.executable, '-c', IN_A_NOTEBOOK], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
