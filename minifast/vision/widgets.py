"""Cleaning up a data set in a notebook: which pictures to delete, which to give another label.

`from minifast.vision.widgets import *` also gives the widgets that small applications in notebooks are made of.
"""
from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fastcore.foundation import L
from torch import Tensor

from minifast.torch_core import defaults
from minifast.vision.core import PILImage

try:
    from ipywidgets import (HTML, Box, Button, Checkbox, Dropdown, FileUpload, HBox, Image, Label, Layout, Output, VBox,
                            widgets)
except ImportError as error:
    raise ImportError("these are notebook widgets: pip install 'minifast[widgets]'") from error

__all__ = ['HTML', 'Box', 'Button', 'Checkbox', 'Dropdown', 'FileUpload', 'HBox', 'ImageClassifierCleaner',
           'ImagesCleaner', 'Label', 'Layout', 'Output', 'VBox', 'carousel', 'widget', 'widgets']

KEEP, DELETE = '<Keep>', '<Delete>'


def widget(im: Any, height: int = 128, width: int = 256) -> Image:
    """A picture that fits into `height` x `width` pixels, as a widget.

    Args:
        im: whatever `PILImage.create` takes.
    """
    small = PILImage.create(im)
    small.thumbnail((width, height))
    png = io.BytesIO()
    small.save(png, 'PNG')
    return Image(value=png.getvalue(), format='png', layout=Layout(height=f'{height}px', width='max-content'))


def carousel(children: Iterable[Any] = (), **layout: Any) -> Box:
    """Widgets in a row that scrolls.

    Args:
        children: the widgets.
        **layout: of the row, as `ipywidgets.Layout` takes it, such as `width='100%'`.
    """
    return Box(list(children), layout=Layout(**{'overflow': 'scroll hidden', 'display': 'flex', **layout}))


class ImagesCleaner:
    """Pictures in a row with a menu below each: keep it, delete it, or one of `opts`.

    Nothing is done to the files: `delete` and `change` say what was chosen.

    Args:
        opts: further entries of the menus.
        height: pixels of a picture.
        width: pixels of a picture.
        max_n: most pictures that are shown.

    Attributes:
        fns: the files shown.
        widget: what a notebook shows.
    """

    def __init__(self, opts: Iterable[Any] = (), height: int = 128, width: int = 256, max_n: int = 30) -> None:
        self.opts, self.height, self.width, self.max_n = (KEEP, DELETE, *opts), height, width, max_n
        self.fns, self.widget = L(), carousel(width='100%')

    def set_fns(self, fns: Iterable[str | Path]) -> None:
        """Show the files `fns`, the first `max_n` of them."""
        self.fns = L(fns)[:self.max_n]
        with ThreadPoolExecutor(defaults.cpus) as pool:
            pictures = list(pool.map(lambda file: widget(file, self.height, self.width), self.fns))
        self.widget.children = [VBox([picture, Dropdown(options=self.opts, layout=Layout(width='max-content'))])
                                for picture in pictures]

    def values(self) -> L:
        """What is chosen for each file."""
        return L(below.value for _, below in (column.children for column in self.widget.children))

    def delete(self) -> L:
        """Indices of the files to be deleted: `for i in cleaner.delete(): cleaner.fns[i].unlink()`."""
        return L(i for i, chosen in enumerate(self.values()) if chosen == DELETE)

    def change(self) -> L:
        """(index, what was chosen) of the files to be moved: `shutil.move(cleaner.fns[i], path/label)`."""
        return L((i, chosen) for i, chosen in enumerate(self.values()) if chosen not in (KEEP, DELETE))

    def _ipython_display_(self) -> None:
        from IPython.display import display
        display(self.widget)


class ImageClassifierCleaner(ImagesCleaner):
    """An `ImagesCleaner` for a trained classifier: one class of a split at a time, the largest losses first.

    Args:
        learn: its items are picture files with one class each.
        **kwargs: see `ImagesCleaner`.

    Raises:
        TypeError: they are not.

    Example:
        >>> cleaner = ImageClassifierCleaner(learn)
        >>> cleaner
        >>> for i in cleaner.delete(): cleaner.fns[i].unlink()
        >>> for i, label in cleaner.change(): shutil.move(str(cleaner.fns[i]), path/label)
    """

    def __init__(self, learn: Any, **kwargs: Any) -> None:
        vocab = list(learn.dls.vocab)
        super().__init__(vocab, **kwargs)
        self._ranked = [_by_loss(learn, i, vocab) for i in range(2)]
        self.dd_cats, self.dd_ds = Dropdown(options=vocab), Dropdown(options=('Train', 'Valid'))
        for menu in (self.dd_cats, self.dd_ds):
            menu.observe(self.on_change_ds, 'value')
        self.on_change_ds()

    def on_change_ds(self, change: Any = None) -> None:
        """Show the class and the split that the menus say; `change`, what a menu tells, is not looked at."""
        self.set_fns(self._ranked[self.dd_ds.index][self.dd_cats.value])

    def _ipython_display_(self) -> None:
        from IPython.display import display
        display(VBox([self.dd_cats, self.dd_ds, self.widget]))


def _files_of(dataset: Any) -> list | None:
    """The file of each item: the item itself, or what is read out of it, as from a row of a table; None: no files."""
    items = getattr(dataset, 'items', None)
    if items is None:
        return None
    items = [items.iloc[i] for i in range(len(items))] if hasattr(items, 'iloc') else list(items)
    fs = iter(dataset.tls[0].tfms.fs if hasattr(dataset, 'tls') else ())
    while not all(isinstance(item, (str, Path)) for item in items):
        getter = next(fs, None)
        if getter is None:
            return None
        items = [item if isinstance(item, (str, Path)) else getter(item) for item in items]
    return items


def _by_loss(learn: Any, ds_idx: int, vocab: Sequence) -> dict[Any, list[Path]]:
    """The files of each class, those with the largest loss first."""
    items = _files_of(learn.dls[ds_idx].dataset)
    if items is None:
        raise TypeError('a cleaner shows picture files: the data of this learner have to be made from paths, as by '
                        'ImageDataLoaders.from_folder')
    _, targets, losses = learn.get_preds(ds_idx=ds_idx, with_loss=True)
    if not isinstance(targets, Tensor) or targets.ndim != 1:
        raise TypeError('a cleaner needs one class an item')
    codes, ranked = targets.tolist(), {label: [] for label in vocab}
    for i in losses.argsort(descending=True, stable=True).tolist():
        ranked[vocab[codes[i]]].append(Path(items[i]))
    return ranked
