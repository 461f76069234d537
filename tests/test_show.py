"""Showing: any picture lands on the right axis with the right pixels, and matplotlib is imported only then."""
from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from minifast.markers import TensorImage, TensorMask
from minifast.show import (get_grid, show_image, show_image_batch, show_images, show_title, show_titled_image,
                           subplots)


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
