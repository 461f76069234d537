"""Pictures in a `DataBlock`: the blocks, ready-made loaders, and how batches look."""
from __future__ import annotations

import csv
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastcore.basics import using_attr
from fastcore.foundation import L
from torch import Tensor

from minifast.arguments import tells_near_match
from minifast.codetext import registered
from minifast.data.block import CategoryBlock, DataBlock, MultiCategoryBlock, RegressionBlock, TransformBlock
from minifast.data.categorize import column_named, is_missing
from minifast.data.collate import add_note
from minifast.data.core import DataLoaders, Datasets, for_loaders, show_batch, show_results
from minifast.data.transform import typedispatch
from minifast.data.transforms import (ColReader, ColSplitter, GrandparentSplitter, IntToFloatTensor, MultiCategorize,
                                      RandomSplitter, RegexLabeller, get_image_files, parent_label)
from minifast.markers import TensorCategory, TensorImage, TensorMask, cast, plain
from minifast.show import add_legend, get_grid
from minifast.terminal import listed, visible, warn
from minifast.vision.core import (AddMaskCodes, BBoxLabeler, OpenImage, OpenMask, PILImage, PILMask, PointScaler,
                                  TensorBBox, TensorPoint, TensorPointCreate)

__all__ = ['BBoxBlock', 'BBoxLblBlock', 'ImageBlock', 'ImageDataLoaders', 'MaskBlock', 'PointBlock',
           'SegmentationDataLoaders', 'bb_pad', 'clip_remove_empty', 'get_grid', 'show_batch', 'show_results']


# ---------------------------------------------------------------- blocks

@tells_near_match
def ImageBlock(cls: type[Any] = PILImage) -> TransformBlock:
    """Pictures, opened as `cls` (`PILImageBW` for grey ones); in a batch floats in 0..1.

    Example:
        >>> block = DataBlock(blocks=(ImageBlock(PILImageBW), CategoryBlock), get_items=get_image_files,
        ...                   get_y=parent_label, item_tfms=Resize(64))
        >>> block.dataloaders(path, bs=8).one_batch()[0].shape
        torch.Size([8, 1, 64, 64])
    """
    return TransformBlock(type_tfms=OpenImage(cls), batch_tfms=IntToFloatTensor)


@tells_near_match
def MaskBlock(codes: Any = None) -> TransformBlock:
    """Segmentation masks; `codes` are the names of the classes in the order of their codes, None without names.

    Example:
        >>> block = DataBlock(blocks=(ImageBlock, MaskBlock(codes=['sky', 'road'])), get_items=get_image_files,
        ...                   get_y=lambda file: path/'labels'/f'{file.stem}_P.png')
        >>> dls = block.dataloaders(path/'images', bs=2)
    """
    return TransformBlock(type_tfms=OpenMask(PILMask), item_tfms=AddMaskCodes(codes=codes), batch_tfms=IntToFloatTensor)


PointBlock = TransformBlock(type_tfms=TensorPointCreate, item_tfms=PointScaler)
"""Points (x, y) in pixels of the picture; in a batch in -1..1."""


@registered
def clip_remove_empty(bbox: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes clipped to the picture, without those that lie outside, and their labels.

    Args:
        bbox: [n,4], in -1..1.
        label: [n].

    Raises:
        ValueError: there are not as many labels as boxes.
    """
    boxes, labels = plain(bbox).clamp(-1, 1), plain(label)
    if len(boxes) != len(labels):
        raise ValueError(f'a picture has {len(boxes)} boxes and {len(labels)} labels: each box needs one, in the same '
                         'order')
    kept = (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])
    return cast(boxes[kept], type(bbox)), cast(labels[kept], type(label))


def _clipped(sample: tuple, i: int) -> tuple[Tensor, Tensor]:
    if len(sample) < 3:
        raise ValueError(f'boxes are filled up together with their labels, and a sample has {len(sample)} elements: '
                         'give the blocks (ImageBlock, BBoxBlock, BBoxLblBlock)')
    try:
        return clip_remove_empty(*sample[1:3])
    except ValueError as error:
        raise add_note(error, f'it is sample {i} of its batch') from None


@registered
@tells_near_match
def bb_pad(samples: Sequence[tuple[Any, ...]], pad_idx: int = 0) -> list[tuple[Any, ...]]:
    """Samples (picture, boxes, labels) with as many boxes each.

    Pictures alone, as predictions have them, and as many boxes each without labels stay as they are.

    Args:
        samples: what a batch is made of.
        pad_idx: label of the empty boxes that fill up.
    """
    if all(len(s) == 1 for s in samples) or {len(s) == 2 and len(s[1]) for s in samples} == {len(samples[0][-1])}:
        return list(samples)
    clipped = [(s[0], *_clipped(s, i), *s[3:]) for i, s in enumerate(samples)]
    most = max(len(s[2]) for s in clipped)

    def _fill(x: Tensor, value: float) -> Tensor:
        missing = plain(x).new_full((most - len(x), *x.shape[1:]), value)
        return cast(torch.cat([plain(x), missing]), type(x))

    return [(s[0], _fill(s[1], 0), _fill(s[2], pad_idx), *s[3:]) for s in clipped]


BBoxBlock = TransformBlock(type_tfms=TensorBBox.create, item_tfms=PointScaler, dls_kwargs={'before_batch': bb_pad})
"""Boxes (left, top, right, bottom) in pixels of the picture; in a batch in -1..1, as many a sample."""


@tells_near_match
def BBoxLblBlock(vocab: Sequence[Any] | None = None, add_na: bool = True) -> TransformBlock:
    """Labels of boxes.

    Args:
        vocab: all labels there are; default: those of the training items, sorted.
        add_na: put '#na#', the label of boxes that only fill up, at index 0.
    """
    return TransformBlock(type_tfms=MultiCategorize(vocab=vocab, add_na=add_na), item_tfms=BBoxLabeler)


# ---------------------------------------------------------------- loaders

def _known(factory: Callable, kwargs: dict[str, Any], *inner: Callable) -> dict[str, Any]:
    """The keywords that a factory, those it calls and the loaders know."""
    return for_loaders(factory, kwargs, *inner, DataLoaders.from_dblock, DataBlock.dataloaders, Datasets.dataloaders)


def _train_and_valid(path: str | Path, train: str, valid: str) -> L:
    """The pictures below two folders.

    Raises:
        ValueError: there are none for training; the message says what is there.
    """
    found = get_image_files(path, folders=[train, valid])
    there = sorted(o.name for o in Path(path).iterdir() if o.is_dir() and not o.name.startswith('.'))
    if not any((Path(path) / name).is_dir() for name in L(train)):
        alike = {name.lower(): name for name in there}
        guess = ', '.join(f'{what}={alike[name.lower()]!r}' for what, name in (('train', train), ('valid', valid))
                          if isinstance(name, str) and name.lower() in alike)
        folders = f'the folders {", ".join(map(repr, there[:10]))}' if there else 'no folders'
        raise ValueError(f'{path} has no folder {train!r} of pictures for training; it has {folders}. '
                         + (f'Did you mean from_folder({guess})?' if guess else
                            'Give their names as train= and valid=, or valid_pct=0.2 where it holds a folder for each '
                            'class'))
    return found


def _tell_of_empty_folders(path: str | Path, items: Sequence[Path]) -> None:
    """Warn of class folders without a picture: no class is made of them."""
    filled = {Path(folder) for folder in {os.path.dirname(file) for file in items}}
    beside = sorted(folder for above in {folder.parent for folder in filled} for folder in above.iterdir()
                    if folder.is_dir() and folder not in filled and not folder.name.startswith('.'))
    classes = {folder.name for folder in filled}
    empty = [folder for folder in beside if folder.name not in classes and not any(folder.iterdir())]
    if empty:
        shown = listed(empty, 5, ', ...')
        warn(f'labels: no class is made of empty folders: {shown}. Fill them, or give vocab= with all classes')


def _check_columns(df: Any, fn_col: int | str, cols: Sequence) -> None:
    """Refuse a table without one of the columns, or with a row that names no file."""
    for col in cols:
        column_named(df, col)
    names = column_named(df, fn_col)
    empty = names.index[names.isna().to_numpy()]
    if len(empty):
        raise ValueError(f'row {empty.tolist()[0]!r} of column {names.name!r} names no file, as {len(empty)} of '
                         f'{len(names)} do: leave such rows out with df.dropna(subset=[{names.name!r}])')


class ImageDataLoaders(DataLoaders):
    """Loaders of pictures and their labels, made from folders, names, tables or lists.

    All take what `DataBlock.dataloaders` takes besides (`bs`, `val_bs`, `num_workers`, `device`, `shuffle`, ...), and
    have these arguments in common:

    Args:
        path: folder of the data; models and exports are saved there.
        valid_pct: part of the items that is validated on, 0..1, drawn at random.
        seed: of that draw, for the same parts each time.
        item_tfms: transforms of each sample on its own, such as `Resize(224)`.
        batch_tfms: transforms of a batch on its device, such as `aug_transforms()`.
        img_cls: how pictures are opened: `PILImage`, or `PILImageBW` for grey ones.

    Example:
        >>> dls = ImageDataLoaders.from_folder(path, valid_pct=0.2, item_tfms=Resize(64), bs=8,
        ...                                    batch_tfms=aug_transforms())
        >>> xb, yb = dls.one_batch()
        >>> xb.shape, list(dls.vocab)
        (torch.Size([8, 3, 64, 64]), ['cat', 'dog'])
    """

    @classmethod
    def from_folder(cls, path: str | Path, train: str = 'train', valid: str = 'valid', valid_pct: float | None = None,
                    seed: int | None = None, vocab: Sequence[Any] | None = None, item_tfms: Any = None,
                    batch_tfms: Any = None, img_cls: type[Any] = PILImage, **kwargs: Any) -> DataLoaders:
        """Pictures in folders named after their class, below `train` and `valid`.

        Args:
            path: folder of the data; models and exports are saved there.
            train: name of the folder of the training part.
            valid: name of that of the validation part.
            valid_pct: split all pictures below `path` at random instead.
            seed: of that split; None: another one each time.
            vocab: the classes, which are sorted; default: the names of the folders.
            item_tfms: transforms of one item, before it becomes part of a batch.
            batch_tfms: transforms of a batch, on its device.
            img_cls: what pictures are opened as.
            **kwargs: of `DataLoaders`: `bs`, `num_workers`, `device`, ...

        Example:
            >>> dls = ImageDataLoaders.from_folder(path, valid_pct=0.2, seed=42, item_tfms=Resize(128), bs=32)
        """
        kwargs = _known(cls.from_folder, kwargs)
        if valid_pct is None:
            splitter, get_items = GrandparentSplitter(train, valid), partial(_train_and_valid, train=train, valid=valid)
        else:
            splitter, get_items = RandomSplitter(valid_pct, seed=seed), get_image_files
        dblock = DataBlock(blocks=(ImageBlock(img_cls), CategoryBlock(vocab=vocab)), get_items=get_items,
                           splitter=splitter, get_y=parent_label, item_tfms=item_tfms, batch_tfms=batch_tfms)
        dls = cls.from_dblock(dblock, path, path=path, **kwargs)
        if vocab is None:
            _tell_of_empty_folders(path, [item for dl in dls for item in getattr(dl.dataset, 'items', ())])
        return dls

    @classmethod
    def from_path_func(cls, path: str | Path, fnames: Sequence[Any], label_func: Callable[..., Any],
                       valid_pct: float = 0.2, seed: int | None = None, item_tfms: Any = None, batch_tfms: Any = None,
                       img_cls: type[Any] = PILImage, **kwargs: Any) -> DataLoaders:
        """Pictures labelled by a function of their path.

        Args:
            path: folder of the loaders; models and exports are saved there.
            fnames: paths of the pictures.
            label_func: called with a path.
            valid_pct: the share of the validation set, drawn at random.
            seed: of that split; None: another one each time.
            item_tfms: transforms of one item, before it becomes part of a batch.
            batch_tfms: transforms of a batch, on its device.
            img_cls: what pictures are opened as.
            **kwargs: of `DataLoaders`: `bs`, `num_workers`, `device`, ...

        Example:
            >>> dls = ImageDataLoaders.from_path_func(path, files, lambda file: file.parent.name, item_tfms=Resize(64))
        """
        kwargs = _known(cls.from_path_func, kwargs)
        dblock = DataBlock(blocks=(ImageBlock(img_cls), CategoryBlock), splitter=RandomSplitter(valid_pct, seed=seed),
                           get_y=label_func, item_tfms=item_tfms, batch_tfms=batch_tfms)
        return cls.from_dblock(dblock, fnames, path=path, **kwargs)

    @classmethod
    def from_name_func(cls, path: str | Path, fnames: Sequence[Any], label_func: Callable[..., Any],
                       **kwargs: Any) -> DataLoaders:
        """Pictures labelled by a function of their file name.

        Args:
            path: the folder of the loaders.
            fnames: the files.
            label_func: from a file's name to its label.
            **kwargs: see `from_path_func`.

        Example:
            >>> def label_of(name): return name.split('_')[0]
            >>> dls = ImageDataLoaders.from_name_func(path, files, label_of, item_tfms=Resize(64))
        """
        kwargs = _known(cls.from_name_func, kwargs, cls.from_path_func)
        return cls.from_path_func(path, fnames, using_attr(label_func, 'name'), **kwargs)

    @classmethod
    def from_path_re(cls, path: str | Path, fnames: Sequence[Any], pat: str, **kwargs: Any) -> DataLoaders:
        r"""Pictures labelled by the first group of a regular expression on their path.

        Args:
            path: folder of the loaders; models and exports are saved there.
            fnames: paths of the pictures.
            pat: the expression, which is searched for in the path; folders end with a slash there.
            **kwargs: see `from_path_func`.

        Example:
            >>> dls = ImageDataLoaders.from_path_re(path, files, r'/([^/]+)_\d+.jpg$', item_tfms=Resize(64))
        """
        kwargs = _known(cls.from_path_re, kwargs, cls.from_path_func)
        return cls.from_path_func(path, fnames, RegexLabeller(pat), **kwargs)

    @classmethod
    def from_name_re(cls, path: str | Path, fnames: Sequence[Any], pat: str, **kwargs: Any) -> DataLoaders:
        r"""Pictures labelled by the first group of a regular expression on their name.

        Args:
            path: folder of the loaders; models and exports are saved there.
            fnames: paths of the pictures.
            pat: the expression, which is searched for in the file's name.
            **kwargs: see `from_path_func`.

        Example:
            >>> files = get_image_files(path)
            >>> dls = ImageDataLoaders.from_name_re(path, files, r'^(.*)_\d+.jpg$', item_tfms=Resize(128))
        """
        kwargs = _known(cls.from_name_re, kwargs, cls.from_path_func)
        return cls.from_name_func(path, fnames, RegexLabeller(pat), **kwargs)

    @classmethod
    def from_df(cls, df: Any, path: str | Path = '.', valid_pct: float = 0.2, seed: int | None = None,
                fn_col: int | str = 0, folder: str | Path | None = None, suff: str = '', label_col: Any = 1,
                label_delim: str | None = None, y_block: Any = None, valid_col: int | str | None = None,
                item_tfms: Any = None, batch_tfms: Any = None, img_cls: type[Any] = PILImage,
                **kwargs: Any) -> DataLoaders:
        """Pictures and labels in the columns of a DataFrame.

        Args:
            df: a row a picture.
            path: folder of the data; models and exports are saved there.
            valid_pct: the share of the validation set, drawn at random.
            seed: of that split; None: another one each time.
            fn_col: column of file names, which follow `path`/`folder` and are followed by `suff`.
            folder: below `path`, where the pictures are; None: `path` itself.
            suff: suffix of the files, such as '.jpg', where the column leaves it out.
            label_col: column of labels, or several (then a picture has several).
            label_delim: what parts several labels in one column.
            y_block: block of the labels; default: one or several categories.
            valid_col: column that is True for the validation set; default: `valid_pct` at random.
            item_tfms: transforms of one item, before it becomes part of a batch.
            batch_tfms: transforms of a batch, on its device.
            img_cls: what pictures are opened as.
            **kwargs: of `DataLoaders`: `bs`, `num_workers`, `device`, ...

        Example:
            >>> df = pd.DataFrame({'name': ['cat/cat_0.jpg', 'dog/dog_1.jpg'] * 8, 'labels': ['red round', 'blue'] * 8})
            >>> dls = ImageDataLoaders.from_df(df, path, label_delim=' ', item_tfms=Resize(128))
        """
        kwargs = _known(cls.from_df, kwargs)
        _check_columns(df, fn_col, [fn_col, *L(label_col), *L(valid_col)])
        prefix = Path(path) if folder is None else Path(path) / folder
        if y_block is None:
            several = label_delim is not None or (isinstance(label_col, (list, tuple, L)) and len(label_col) > 1)
            y_block = MultiCategoryBlock if several else CategoryBlock
        splitter = RandomSplitter(valid_pct, seed=seed) if valid_col is None else ColSplitter(valid_col)
        dblock = DataBlock(blocks=(ImageBlock(img_cls), y_block), get_x=ColReader(fn_col, pref=prefix, suff=suff),
                           get_y=ColReader(label_col, label_delim=label_delim), splitter=splitter,
                           item_tfms=item_tfms, batch_tfms=batch_tfms)
        return cls.from_dblock(dblock, df, path=path, **kwargs)

    @classmethod
    def from_csv(cls, path: str | Path, csv_fname: str | Path = 'labels.csv', header: Any = 'infer',
                 delimiter: str | None = None, quoting: int = csv.QUOTE_MINIMAL, **kwargs: Any) -> DataLoaders:
        """Pictures and labels in the columns of a table that is read from a file.

        Args:
            path: folder of the data; models and exports are saved there.
            csv_fname: the file, below `path`.
            header: number of the row with the names of the columns, None without such a row; default: the first.
            delimiter: what parts the columns; default: a comma.
            quoting: one of the module `csv`'s constants.
            **kwargs: see `from_df`.
        """
        import pandas as pd
        kwargs = _known(cls.from_csv, kwargs, cls.from_df)
        given = {} if delimiter is None else {'delimiter': delimiter}  # None would make pandas guess, slowly
        file = Path(path) / csv_fname
        df = pd.read_csv(file, header=header, quoting=quoting, **given)
        try:
            return cls.from_df(df, path=path, **kwargs)
        except (KeyError, TypeError, ValueError) as error:
            hint = '; it has one column: is delimiter= right?' if len(df.columns) == 1 else ''
            raise add_note(error, f'the table is {file}{hint}') from None

    @classmethod
    def from_lists(cls, path: str | Path, fnames: Sequence[Any], labels: Sequence[Any], valid_pct: float = 0.2,
                   seed: int | None = None, y_block: Any = None, item_tfms: Any = None, batch_tfms: Any = None,
                   img_cls: type[Any] = PILImage, **kwargs: Any) -> DataLoaders:
        """Pictures and a list of their labels: floats are regressed, lists of labels are several categories.

        Args:
            path: folder of the loaders; models and exports are saved there.
            fnames: paths of the pictures.
            labels: one a picture.
            y_block: block of the labels; default: by what they are.
            valid_pct, seed, item_tfms, batch_tfms, img_cls, kwargs: as for `from_path_func`.

        Example:
            >>> labels = [file.parent.name for file in files]
            >>> dls = ImageDataLoaders.from_lists(path, files, labels, item_tfms=Resize(64))
        """
        kwargs = _known(cls.from_lists, kwargs)
        fnames, labels = list(fnames), list(labels)
        if len(fnames) != len(labels):
            raise ValueError(f'{len(fnames)} file names and {len(labels)} labels: give each picture one')
        if y_block is None:
            first = next((label for label in labels if not is_missing(label)), None)
            several = isinstance(first, (list, tuple, L)) and len(first) > 1
            y_block = MultiCategoryBlock if several else RegressionBlock if isinstance(first, float) else CategoryBlock
        dblock = DataBlock.from_columns(blocks=(ImageBlock(img_cls), y_block),
                                        splitter=RandomSplitter(valid_pct, seed=seed), item_tfms=item_tfms,
                                        batch_tfms=batch_tfms)
        return cls.from_dblock(dblock, (fnames, labels), path=path, **kwargs)


class SegmentationDataLoaders(DataLoaders):
    """Loaders of pictures and their masks; for the arguments see `ImageDataLoaders`.

    Example:
        >>> def mask_of(file): return path/'labels'/f'{file.stem}_P.png'
        >>> dls = SegmentationDataLoaders.from_label_func(path, get_image_files(path/'images'), mask_of,
        ...                                               codes=['sky', 'road'], bs=2)
    """

    @classmethod
    def from_label_func(cls, path: str | Path, fnames: Sequence[Any], label_func: Callable[..., Any],
                        valid_pct: float = 0.2, seed: int | None = None, codes: Any = None, item_tfms: Any = None,
                        batch_tfms: Any = None, img_cls: type[Any] = PILImage, **kwargs: Any) -> DataLoaders:
        """Pictures whose mask's file is a function of theirs.

        Args:
            path: folder of the loaders; models and exports are saved there.
            fnames: paths of the pictures.
            label_func: called with a path, returns that of the mask.
            codes: names of the classes in the order of their codes.
            valid_pct, seed, item_tfms, batch_tfms, img_cls, kwargs: as for `ImageDataLoaders.from_path_func`.

        Example:
            >>> def mask_of(file): return path/'labels'/f'{file.stem}_P.png'
            >>> files = get_image_files(path/'images')
            >>> dls = SegmentationDataLoaders.from_label_func(path, files, mask_of, codes=['sky', 'road'], bs=8)
        """
        kwargs = _known(cls.from_label_func, kwargs)
        dblock = DataBlock(blocks=(ImageBlock(img_cls), MaskBlock(codes=codes)),
                           splitter=RandomSplitter(valid_pct, seed=seed), get_y=label_func, item_tfms=item_tfms,
                           batch_tfms=batch_tfms)
        return cls.from_dblock(dblock, fnames, path=path, **kwargs)


# ---------------------------------------------------------------- how batches look

def _draw(samples: Sequence, i: int, ctxs: Sequence, **kwargs: Any) -> list:
    """Element `i` of each sample on its axis."""
    return [s[i].show(ctx=ctx, **kwargs) for s, ctx in zip(samples, ctxs)]


def joined(o: Any) -> str:
    """The text of a label, the names of several joined by semicolons."""
    return (';'.join(map(str, o)) or '(none)') if isinstance(o, (list, tuple, L)) else str(o)


def name_codes(axs: Sequence[Any], samples: Sequence[Any]) -> None:
    """A legend below the axes `axs` of a grid: the colours of the codes in the masks of `samples` that were drawn.

    Args:
        axs: axes on which decoded samples were drawn.
        samples: (picture, mask, ...) of each; nothing is done where they have no masks with names of codes.
    """
    masks = [part for sample in samples for part in sample if isinstance(part, TensorMask)]
    codes = next((part.codes for part in masks if getattr(part, 'codes', None) is not None), None)
    drawn = [image for ax in axs for image in ax.images if image.get_gid() == 'mask']
    if codes is None or not drawn:
        return
    from matplotlib.patches import Patch
    found = sorted({int(code) for image in drawn for code in np.unique(image.get_array().compressed())})
    colours = [Patch(color=drawn[-1].to_rgba(code), label=visible(codes[code])) for code in found]
    figure = drawn[-1].figure
    a_letter, longest = 0.08, max(len(colour.get_label()) for colour in colours)  # inches
    columns = int(figure.get_figwidth() / (0.6 + a_letter * longest))
    add_legend(figure, handles=colours, loc='outside lower center', ncols=min(len(colours), max(columns, 1)))


@typedispatch
def show_batch(x: TensorImage, y: Any, samples: Any, ctxs: Any = None, max_n: int = 10,  # noqa: F811
               nrows: int | None = None, ncols: int | None = None, figsize: Any = None, **kwargs: Any) -> list[Any]:
    """Pictures in a grid, with whatever belongs to each drawn on it or written above.

    Args:
        x: pictures of a batch; with `y` it says which of the functions of this name is called.
        y: targets of the batch.
        samples: (picture, target, ...) of each, decoded; what is drawn.
        ctxs: axes to draw on; default: those of a new grid.
        max_n: most samples.
        nrows, ncols: rows and columns of that grid; default: as square as can be.
        figsize: its (width, height) in inches; default: 3 for each axis.
        **kwargs: for each element's `show`.
    """
    n = min(len(samples), max_n)
    own_grid = ctxs is None
    ctxs = get_grid(n, nrows=nrows, ncols=ncols, figsize=figsize) if own_grid else ctxs
    for i in range(len(samples[0])):
        ctxs = _draw(samples[:n], i, ctxs, **kwargs)
    if own_grid:
        name_codes(ctxs, samples)
    return ctxs


@typedispatch
def show_batch(x: TensorImage, y: TensorImage, samples: Any, ctxs: Any = None, max_n: int = 10,  # noqa: F811
               nrows: int | None = None, ncols: int | None = None, figsize: Any = None, **kwargs: Any) -> list[Any]:
    """Pairs of pictures side by side.

    `x`, `y`, `samples`, `ctxs`, `max_n`, `nrows`, `ncols`, `figsize` and `kwargs` as for pictures with other targets;
    each sample has two axes.
    """
    n = min(len(samples), max_n)
    ctxs = get_grid(n, nrows=nrows, ncols=ncols, figsize=figsize, double=True) if ctxs is None else ctxs
    for i in (0, 1):
        ctxs[i::2] = _draw(samples[:n], i, ctxs[i::2], **kwargs)
    return ctxs


@typedispatch
def show_results(x: TensorImage, y: Any, samples: Any, outs: Any, ctxs: Any = None, max_n: int = 10,  # noqa: F811
                 nrows: int | None = None, ncols: int | None = None, figsize: Any = None, **kwargs: Any) -> list[Any]:
    """Pictures in a grid, above each the target and below it the prediction.

    Args:
        x, y, samples, ctxs, max_n, nrows, ncols, figsize, kwargs: as for `show_batch`.
        outs: (prediction, ...) of each sample, decoded.
    """
    n = min(len(samples), max_n)
    ctxs = get_grid(n, nrows=nrows, ncols=ncols, figsize=figsize) if ctxs is None else ctxs
    for i in range(len(samples[0])):
        ctxs = _draw(samples[:n], i, ctxs, **kwargs)
    for i in range(len(outs[0])):
        ctxs = _draw(outs[:n], i, ctxs, **kwargs)
    return ctxs


@typedispatch
def show_results(x: TensorImage, y: TensorCategory, samples: Any, outs: Any, ctxs: Any = None,  # noqa: F811
                 max_n: int = 10, nrows: int | None = None, ncols: int | None = None, figsize: Any = None,
                 **kwargs: Any) -> list[Any]:
    """Pictures in a grid, above each the target and below it the prediction, green where they agree, else red.

    Args:
        x, y, samples, ctxs, max_n, nrows, ncols, figsize, kwargs: as for `show_batch`.
        outs: (prediction,) of each sample, decoded.
    """
    n = min(len(samples), max_n)
    ctxs = get_grid(n, nrows=nrows, ncols=ncols, figsize=figsize) if ctxs is None else ctxs
    for i in (0, 1):
        ctxs = _draw(samples[:n], i, ctxs, **kwargs)
    for sample, out, ctx in zip(samples[:n], outs, ctxs):
        right = joined(sample[1]) == joined(out[0])
        out[0].show(ctx=ctx, color='green' if right else 'red', **kwargs)
    return ctxs


@typedispatch
def show_results(x: TensorImage, y: TensorMask | TensorPoint | TensorBBox, samples: Any, outs: Any,  # noqa: F811
                 ctxs: Any = None, max_n: int = 6, nrows: int | None = None, ncols: int | None = 1,
                 figsize: Any = None, **kwargs: Any) -> list[Any]:
    """Each picture twice, on the left with the target drawn in, on the right with the prediction.

    Args:
        x, y, samples, max_n, figsize, kwargs: as for `show_batch`.
        nrows, ncols: rows, and columns of pairs; default: one column.
        outs: (prediction,) of each sample, decoded.
        ctxs: two axes for each sample; default: those of a new grid.
    """
    n, own_grid = min(len(samples), max_n), ctxs is None
    if own_grid:
        ctxs = get_grid(n, nrows=nrows, ncols=ncols, figsize=figsize, double=True, title='Target/Prediction')
    for i in (0, 1):
        ctxs[::2] = _draw(samples[:n], i, ctxs[::2], **kwargs)
    for shown in (samples, outs):
        ctxs[1::2] = _draw(shown[:n], 0, ctxs[1::2], **kwargs)
    if own_grid:
        name_codes(ctxs, samples)
    return ctxs


@typedispatch
def show_results(x: TensorImage, y: TensorImage, samples: Any, outs: Any, ctxs: Any = None,  # noqa: F811
                 max_n: int = 10, figsize: Any = None, **kwargs: Any) -> list[Any]:
    """Input, target and prediction side by side.

    Args:
        x, y, samples, max_n, figsize, kwargs: as for `show_batch`.
        outs: (prediction,) of each sample, decoded.
        ctxs: three axes for each sample; default: those of a new grid.
    """
    n = min(len(samples), max_n)
    if ctxs is None:
        ctxs = get_grid(3 * n, ncols=3, figsize=figsize, title='Input/Target/Prediction')
    for i in (0, 1):
        ctxs[i::3] = _draw(samples[:n], i, ctxs[i::3], **kwargs)
    ctxs[2::3] = _draw(outs[:n], 0, ctxs[2::3], **kwargs)
    return ctxs
