"""Finding, splitting and labelling items; pixels to tensors, to floats, and normalized."""
from __future__ import annotations

import mimetypes
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from fastcore.foundation import L
from PIL import Image
from torch import Tensor

from minifast.arguments import tells_near_match
from minifast.codetext import keyed, registered
from minifast.data.categorize import (Categorize, Category, CategoryMap, EncodedMultiCategorize, MultiCategorize,
                                      MultiCategory, OneHotEncode, RegressionSetup, ShowTitle, TitledFloat, TitledInt,
                                      TitledStr, TitledTuple, column_named, is_missing, no_column)
from minifast.data.transform import DisplayedTransform, ItemTransform, Pipeline, Transform
from minifast.hardware import keep_freed_memory, opencv
from minifast.markers import TensorImage, TensorImageBW, TensorMask, plain, retain_type, tensor
from minifast.seeds import fork_rng
from minifast.terminal import listed, warn
from minifast.torch_core import to_device, tree_map

__all__ = ['AttrGetter', 'Categorize', 'Category', 'CategoryMap', 'ColReader', 'ColSplitter', 'EncodedMultiCategorize',
           'EndSplitter', 'FileGetter', 'FileSplitter', 'FuncSplitter', 'GrandparentSplitter', 'ImageGetter',
           'IndexSplitter', 'IntToFloatTensor', 'ItemGetter', 'MaskSplitter', 'MultiCategorize', 'MultiCategory',
           'Normalize', 'OneHotEncode', 'RandomSplitter', 'RandomSubsetSplitter', 'RegexLabeller', 'RegressionSetup',
           'ShowTitle', 'TitledFloat', 'TitledInt', 'TitledStr', 'TitledTuple', 'ToTensor', 'TrainTestSplitter',
           'broadcast_vec', 'get_c', 'get_files', 'get_image_files', 'get_text_files', 'image_extensions',
           'parent_label']

image_extensions = {ext for ext, kind in mimetypes.types_map.items() if kind.startswith('image/')} | {'.webp', '.avif'}
"""Suffixes of picture files, lower case."""

if TYPE_CHECKING:
    class Files(L):
        """A list of paths, as a type checker sees it: fastcore's `L` does not say what it holds."""

        def __iter__(self) -> Iterator[Path]: ...
        @overload
        def __getitem__(self, idx: int) -> Path: ...
        @overload
        def __getitem__(self, idx: Any) -> Files: ...
else:
    Files = L

Split = tuple[Sequence[int], ...]
"""Indices of the training items, of the validation items, and of whatever more there are."""


# ---------------------------------------------------------------- finding

def _wanted(name: str, extensions: set[str] | None) -> bool:
    """Hidden files are none of the user's, nor are the `._x.jpg` that macOS puts beside `x.jpg`."""
    return not name.startswith('.') and (not extensions or os.path.splitext(name)[1].lower() in extensions)


@tells_near_match
def get_files(path: str | Path, extensions: Iterable[str] | str | None = None, recurse: bool = True,
              folders: Iterable[str] | str | None = None, followlinks: bool = True) -> Files:
    """All files below `path`, sorted by folder and name, so that a split means the same on every machine.

    Args:
        path: a folder.
        extensions: suffixes with their dot, in any case; default: all.
        recurse: look into folders (hidden ones aside).
        folders: of the folders directly in `path`, only these; '.' stands for `path` itself.
        followlinks: go through symbolic links to folders; each folder is visited once.

    Raises:
        FileNotFoundError: there is no such folder.
        NotADirectoryError: it is a file.

    Example:
        >>> len(get_files(path, extensions='.jpg'))
        32
    """
    path, folders = Path(path), set(L(folders))
    extensions = {ext.lower() for ext in L(extensions)} or None
    if not path.is_dir():
        raise (NotADirectoryError if path.exists() else FileNotFoundError)(f'{path} is no folder: give one to look in')
    found, seen = [], set()
    for here, dirs, names in os.walk(path, followlinks=followlinks):
        real = os.path.realpath(here)
        if real in seen:  # a link that leads back
            dirs.clear()
            continue
        seen.add(real)
        top = here == str(path)
        dirs[:] = sorted(d for d in dirs if (d in folders if folders and top else not d.startswith('.')))
        if not (folders and top and '.' not in folders):
            found += [Path(here) / name for name in sorted(names) if _wanted(name, extensions)]
        if not recurse:
            break
    return L(found)


@tells_near_match
def get_image_files(path: str | Path, recurse: bool = True, folders: Iterable[str] | str | None = None) -> Files:
    """All picture files below `path`, by their suffix, sorted by folder and name.

    Args:
        path: a folder.
        recurse: look into folders (hidden ones aside).
        folders: of the folders directly in `path`, only these; '.' stands for `path` itself.

    Raises:
        FileNotFoundError, NotADirectoryError: there is no such folder.

    Example:
        >>> files = get_image_files(path, folders=['cat', 'dog'])
        >>> len(files)
        32
    """
    return get_files(path, extensions=image_extensions, recurse=recurse, folders=folders)


@tells_near_match
def get_text_files(path: str | Path, recurse: bool = True, folders: Iterable[str] | str | None = None) -> Files:
    """All `.txt` files below `path`; `recurse` and `folders` as in `get_files`."""
    return get_files(path, extensions=['.txt'], recurse=recurse, folders=folders)


@tells_near_match
def FileGetter(suf: str = '', extensions: Iterable[str] | None = None, recurse: bool = True,
               folders: Iterable[str] | None = None) -> Callable[[Path], L]:
    """A function that finds the files below `path/suf`; `extensions`, `recurse` and `folders` as in `get_files`."""
    def _get(o: Path, extensions: Any = extensions, recurse: bool = recurse, folders: Any = folders) -> L:
        return get_files(Path(o) / suf, extensions, recurse, folders)
    return _get


@tells_near_match
def ImageGetter(suf: str = '', recurse: bool = True, folders: Iterable[str] | None = None) -> Callable[[Path], L]:
    """A function that finds the picture files below `path/suf`; `recurse` and `folders` as in `get_files`."""
    def _get(o: Path, recurse: bool = recurse, folders: Any = folders) -> L:
        return get_image_files(Path(o) / suf, recurse, folders)
    return _get


@registered
class ItemGetter(ItemTransform):
    """`x[i]`, of a tuple too."""

    _retain = False

    def __init__(self, i: Any) -> None:
        super().__init__()
        self.i = i

    def encodes(self, x: Any) -> Any:
        """Element `i` of `x`."""
        return x[self.i]


@registered
class AttrGetter(ItemTransform):
    """`x.nm`, of a tuple too; `default` where `x` has no such attribute."""

    _retain = False

    def __init__(self, nm: str, default: Any = None) -> None:
        super().__init__()
        self.nm, self.default = nm, default

    def encodes(self, x: Any) -> Any:
        """The attribute of `x`, or the default."""
        return getattr(x, self.nm, self.default)


# ---------------------------------------------------------------- splitting

def _permutation(n: int, seed: int | None) -> L:
    """`n` indices in the order torch's generator gives after `seed`; with a seed the global one is put back."""
    if seed is None:
        return L(torch.randperm(n).tolist())
    with fork_rng():
        torch.manual_seed(seed)
        return L(torch.randperm(n).tolist())


@tells_near_match
def RandomSplitter(valid_pct: float = 0.2, seed: int | None = None) -> Callable[[Sequence[Any]], Split]:
    """Split at random; the same `seed` and number of items give the same split everywhere, and fastai's.

    Args:
        valid_pct: the share of the validation set, 0..1.
        seed: of the draw; None: another split each time.

    Example:
        >>> train, valid = RandomSplitter(valid_pct=0.2, seed=42)(range(10))
        >>> len(train), len(valid)
        (8, 2)
    """
    def _split(o: Sequence) -> Split:
        order, cut = _permutation(len(o), seed), int(valid_pct * len(o))
        return order[cut:], order[:cut]
    return _split


@tells_near_match
def RandomSubsetSplitter(train_sz: float, valid_sz: float, seed: int | None = None) -> Callable[[Sequence[Any]], Split]:
    """Random subsets: `train_sz` and `valid_sz` are parts of the whole, 0..1; `seed` as in `RandomSplitter`.

    Example:
        >>> train, valid = RandomSubsetSplitter(train_sz=0.5, valid_sz=0.1, seed=42)(range(100))
        >>> len(train), len(valid)
        (50, 10)
    """
    if not (0 < train_sz < 1 and 0 < valid_sz < 1 and train_sz + valid_sz <= 1):
        raise ValueError(f'train_sz {train_sz} and valid_sz {valid_sz} must lie between 0 and 1 and not exceed 1 '
                         'together')

    def _split(o: Sequence) -> Split:
        n_train, n_valid = int(len(o) * train_sz), int(len(o) * valid_sz)
        order = _permutation(len(o), seed)
        return order[:n_train], order[n_train:n_train + n_valid]
    return _split


@tells_near_match
def TrainTestSplitter(test_size: float = 0.2, random_state: int | None = None, stratify: Any = None,
                      train_size: float | None = None, shuffle: bool = True) -> Callable[..., Split]:
    """Split with scikit-learn's `train_test_split`, for instance stratified by labels.

    Args:
        test_size: the validation set: a share of the items (a float, 0..1) or their number (an int).
        random_state: seed of the draw; None: numpy's global generator.
        stratify: a label an item; both sets keep the shares of the labels.
        train_size: likewise as `test_size`; default: all others.
        shuffle: False cuts off the end instead of drawing; not with `stratify`.

    Example:
        >>> train, valid = TrainTestSplitter(test_size=0.25, random_state=42, stratify=[0, 1] * 8)(range(16))
        >>> len(train), len(valid)
        (12, 4)
    """
    def _split(o: Sequence, **kwargs: Any) -> Split:
        from sklearn.model_selection import train_test_split
        train, valid = train_test_split(list(range(len(o))), test_size=test_size, random_state=random_state,
                                        stratify=stratify, train_size=train_size, shuffle=shuffle)
        return L(train), L(valid)
    return _split


def IndexSplitter(valid_idx: Iterable[int]) -> Callable[[Sequence[Any]], Split]:
    """The items at `valid_idx` for validation, all others for training.

    Example:
        >>> IndexSplitter([1, 3])(range(5))
        ([0, 2, 4], [1, 3])
    """
    def _split(o: Sequence) -> Split:
        valid = [int(i) for i in valid_idx]
        chosen = {i % len(o) if i < 0 else i for i in valid}
        return L(i for i in range(len(o)) if i not in chosen), L(valid)
    return _split


@tells_near_match
def EndSplitter(valid_pct: float = 0.2, valid_last: bool = True) -> Callable[[Sequence[Any]], Split]:
    """The end of the items for validation, for data in order of time.

    Args:
        valid_pct: the share of the validation set, 0..1.
        valid_last: False takes the first items instead.

    Example:
        >>> EndSplitter(valid_pct=0.25)(range(8))  # the last quarter, as for frames of a film
        ([0, 1, 2, 3, 4, 5], [6, 7])
    """
    if not 0 < valid_pct < 1:
        raise ValueError(f'valid_pct must lie between 0 and 1, not {valid_pct}')

    def _split(o: Sequence) -> Split:
        indices, cut = L(range(len(o))), int(valid_pct * len(o))
        return (indices[:len(o) - cut], indices[len(o) - cut:]) if valid_last else (indices[cut:], indices[:cut])
    return _split


@tells_near_match
def GrandparentSplitter(train_name: str | Sequence[str] = 'train',
                        valid_name: str | Sequence[str] = 'valid') -> Callable[[Sequence[Any]], Split]:
    """By the name of the folder above the class folder: `train/cat/1.jpg`, `valid/cat/2.jpg`.

    Args:
        train_name: the folder, or the folders, of the training set.
        valid_name: those of the validation set.

    Example:
        >>> files = [Path('train/cat/1.jpg'), Path('train/dog/2.jpg'), Path('valid/cat/3.jpg')]
        >>> GrandparentSplitter()(files)
        ([0, 1], [2])
    """
    def _split(o: Sequence) -> Split:
        names = [Path(f).parent.parent.name for f in o]
        splits = tuple(L(i for name in L(wanted) for i, found in enumerate(names) if found == name)
                       for wanted in (train_name, valid_name))
        if len(o) and not len(splits[0]):
            shown = listed(map(repr, sorted(set(names))), 10, ', ...')
            raise ValueError(f'none of {len(o)} items is for training: no class folder lies in a folder '
                             f'{" or ".join(map(repr, L(train_name)))}, only in {shown}. Name them, '
                             'GrandparentSplitter(train_name=, valid_name=), or split at random with RandomSplitter()')
        return splits
    return _split


def FuncSplitter(func: Callable[[Any], bool]) -> Callable[[Sequence[Any]], Split]:
    """The items for which `func` is true for validation.

    Example:
        >>> FuncSplitter(lambda name: name.startswith('valid'))(['a.jpg', 'valid_1.jpg', 'b.jpg'])
        ([0, 2], [1])
    """
    def _split(o: Sequence) -> Split:
        return MaskSplitter([func(item) for item in o])(o)
    return _split


def MaskSplitter(mask: Iterable[bool]) -> Callable[[Sequence[Any]], Split]:
    """The items where `mask` is true for validation.

    Example:
        >>> MaskSplitter([False, True, False])(range(3))
        ([0, 2], [1])
    """
    def _split(o: Sequence) -> Split:
        chosen = list(mask)
        if len(chosen) != len(o):
            raise ValueError(f'a mask of {len(chosen)} for {len(o)} items: give one True or False an item')
        return IndexSplitter([i for i, valid in enumerate(chosen) if valid])(o)
    return _split


def FileSplitter(fname: str | Path) -> Callable[[Sequence[Any]], Split]:
    """The items whose file name is a line of the file `fname` for validation."""
    valid = set(os.fsdecode(Path(fname).read_bytes()).splitlines())  # as names of files are read
    return FuncSplitter(lambda item: Path(item).name in valid)


@tells_near_match
def ColSplitter(col: str | int = 'is_valid', on: Any = None) -> Callable[[Any], Split]:
    """The rows of a DataFrame where column `col` is true (or equals `on`, or is in the list `on`) for validation.

    Example:
        >>> rows = pd.DataFrame({'name': ['a', 'b', 'c'], 'is_valid': [False, True, False]})
        >>> ColSplitter()(rows)
        ([0, 2], [1])
    """
    def _split(o: Any) -> Split:
        if not hasattr(o, 'iloc'):
            raise TypeError(f'ColSplitter splits the rows of a pandas DataFrame and got {type(o).__name__}')
        column = column_named(o, col)
        if on is not None:
            return MaskSplitter(list(column.isin(on) if isinstance(on, (list, tuple, L)) else column == on))(o)
        _check_validity(column)
        return MaskSplitter(list(column.values.astype('bool')))(o)
    return _split


def _check_validity(column: Any) -> None:
    """Refuse cells that say neither yes nor no: Python takes NaN and the text 'False' for true."""
    empty = column.index[column.isna().to_numpy()]
    if len(empty):
        raise ValueError(f'column {column.name!r} says which rows are for validation and is empty in {len(empty)} of '
                         f'them, first in row {empty[0]!r}: fill them, df[{column.name!r}].fillna(False), or leave the '
                         'rows out')
    texts = [o for o in column.unique() if isinstance(o, str)]
    if texts:
        raise ValueError(f'column {column.name!r} says which rows are for validation and holds text '
                         f'({listed(map(repr, texts), 5, "")}), which counts as true whatever it says: give '
                         f'ColSplitter({column.name!r}, on={texts[0]!r}), or a column of True and False')
    others = [o for o in column.unique() if o not in (0, 1)]
    if others:
        warn(f'column {column.name!r} says which rows are for validation and holds {listed(others, 5, "")}: every row '
             f'that is not 0 is for validation. For one of several folds give ColSplitter({column.name!r}, on=...)')


# ---------------------------------------------------------------- labelling

@registered
def parent_label(o: str | Path) -> str:
    """The name of the folder that the file `o` lies in.

    Example:
        >>> parent_label('pets/cat/1.jpg')
        'cat'
    """
    return (o if isinstance(o, Path) else Path(o)).parent.name


@registered
class RegexLabeller:
    r"""The first group of a regular expression, found in an item's path (with `/` between folders on every system).

    Args:
        pat: the expression, with one group.
        match: look at the start only.

    Example:
        >>> RegexLabeller(r'(.+)_\d+.jpg$')('great_pyrenees_173.jpg')
        'great_pyrenees'
    """

    @tells_near_match
    def __init__(self, pat: str | re.Pattern, match: bool = False) -> None:
        self.pat = re.compile(pat)
        if not self.pat.groups:
            raise ValueError(f'the pattern {self.pat.pattern!r} has no group: put parentheses around the part that is '
                             "the label, as in r'/([^/]+)_\\d+.jpg$'")
        self.matcher = self.pat.match if match else self.pat.search

    def __call__(self, o: Any) -> str:
        text = str(o).replace(os.sep, '/')
        found = self.matcher(text)
        if found is None:
            raise ValueError(f'no label in {text!r}: the pattern {self.pat.pattern!r} does not fit it')
        return found.group(1)


@registered
class ColReader(DisplayedTransform):
    """The values of columns of a row.

    Args:
        cols: a name or position, or several.
        pref: put before the value; a Path is a folder.
        suff: put behind it.
        label_delim: split the value here into several labels.

    Example:
        >>> get_x = ColReader('name', pref=path / 'train', suff='.jpg')
        >>> get_y = ColReader('labels', label_delim=' ')
        >>> get_y({'name': '0001', 'labels': 'cat dog'})
        ['cat', 'dog']
    """

    def __init__(self, cols: Any, pref: str | Path = '', suff: str = '', label_delim: str | None = None) -> None:
        super().__init__()
        self.cols, self.suff, self.label_delim = L(cols), suff, label_delim
        self.pref = str(pref) + os.path.sep if isinstance(pref, Path) else pref

    def _one(self, row: Any, col: Any) -> Any:
        try:
            if isinstance(col, int):
                value = row.iloc[col] if hasattr(row, 'iloc') else row[col]
            else:
                value = getattr(row, col) if col in getattr(row, '_fields', ()) else row[col]
        except (KeyError, IndexError):
            if not hasattr(row, 'index') or not hasattr(row, 'iloc'):
                raise
            raise KeyError(no_column(col, row.index)) from None
        named = isinstance(col, int) and self.label_delim is not None and hasattr(row, 'index')
        return self._made(value, row.index[col] if named and hasattr(row, 'iloc') else col)

    def _made(self, value: Any, col: Any) -> Any:
        """What a cell means."""
        if self.label_delim is not None:
            if not isinstance(value, str):
                return self._no_text(value, col)
            return value.split(self.label_delim) if len(value) else []
        if isinstance(value, (bytes, bytearray, Image.Image, np.ndarray, Tensor)) or hasattr(value, 'read'):
            return value  # a picture that lies in the table itself
        return value if not self.pref and not self.suff else f'{self.pref}{value}{self.suff}'

    def _no_text(self, value: Any, col: Any) -> Any:
        """A list of labels as it is, an empty cell to whoever asks for labels; anything else cannot be split."""
        if is_missing(value) or isinstance(value, (list, tuple, set, np.ndarray, L)):
            return value
        raise TypeError(f'column {col!r} holds {value!r} ({type(value).__name__}), and label_delim='
                        f'{self.label_delim!r} splits text: leave label_delim out for one label a row, or make text of '
                        f'the column, df[{col!r}].astype(str)')

    def whole_column(self, table: Any) -> list[Any] | None:
        """What it gives for all rows of the DataFrame `table`; None where that is not what it does, row by row."""
        own = type(self).__call__ is ColReader.__call__ and type(self)._one is ColReader._one
        if not own or len(self.cols) != 1 or not hasattr(table, 'columns'):
            return None
        col = self.cols[0]
        column = column_named(table, col)
        return [self._made(value, column.name) for value in column.tolist()]

    def __call__(self, o: Any, **kwargs: Any) -> Any:
        if len(self.cols) == 1:
            return self._one(o, self.cols[0])
        return L(self._one(o, col) for col in self.cols)


def get_c(dls: Any) -> int:
    """How many numbers a model for these data gives: what `dls.c` says, else the number of classes, else 0."""
    for where in ('c', 'train.after_item.c', 'train.after_batch.c'):
        found = dls
        for name in where.split('.'):
            found = getattr(found, name, None)
        if found:
            return found
    vocab = getattr(dls, 'vocab', None) or []
    if len(vocab) and isinstance(vocab[-1], (list, tuple, L, CategoryMap)):
        vocab = vocab[-1]
    return len(vocab)


# ---------------------------------------------------------------- pixels

@registered
class ToTensor(Transform):
    """Pictures as tensors: uint8 [C,H,W], masks [H,W]; what knows its own `to_tensor` is asked.

    Example:
        >>> picture = ToTensor()(PILImage.create(files[0]))
        >>> type(picture).__name__, picture.dtype
        ('TensorImage', torch.uint8)
    """

    order = 5

    def encodes(self, o: object) -> object:
        """The tensor of the picture `o`; anything else passes."""
        if hasattr(o, 'to_tensor'):
            return o.to_tensor()
        if isinstance(o, Image.Image):
            pixels = np.array(o)
            pixels = pixels[..., None] if pixels.ndim == 2 else pixels
            return (TensorImageBW if pixels.shape[-1] == 1 else TensorImage)(torch.from_numpy(pixels).permute(2, 0, 1))
        return o


@registered
class IntToFloatTensor(DisplayedTransform):
    """Pictures from 0..255 to floats in 0..1, masks to int64; floats are left as they are.

    Args:
        div: what pictures are divided by.
        div_mask: what masks are divided by, where codes are spread over 0..255.

    Example:
        >>> IntToFloatTensor()(TensorImage(torch.full((1, 1, 1), 255, dtype=torch.uint8)))
        TensorImage([[[1.]]])
    """

    order = 10

    def __init__(self, div: float = 255., div_mask: int = 1) -> None:
        super().__init__()
        self.div, self.div_mask = div, div_mask

    @property
    def makes_floats(self) -> bool:
        """Whether the largest byte becomes 1, and masks stay as they are."""
        return (self.div, self.div_mask) == (255., 1)

    def encodes(self, o: TensorImage) -> Any:
        """The uint8 pictures `o` as float32."""
        return o if o.is_floating_point() else plain(o).float().div_(self.div)

    def encodes(self, o: TensorMask) -> Any:  # noqa: F811
        """The masks `o` as int64 codes."""
        return plain(o).long() if self.div_mask == 1 else (plain(o).long() / self.div_mask).long()

    def decodes(self, o: TensorImage) -> Any:
        """The floats `o` back to whole numbers."""
        return (plain(o).clamp(0., 1.) * self.div).long() if self.div else o


def broadcast_vec(dim: int, ndim: int, *t: Any, cuda: bool = True) -> list[Tensor]:
    """The vectors `t` shaped so that they lie along axis `dim` of `ndim`; on the default device if `cuda`."""
    shape = [1] * ndim
    shape[dim] = -1
    vectors = [plain(tensor(o)).view(shape) for o in t]
    return to_device(vectors) if cuda else vectors


@registered
class Normalize(DisplayedTransform):
    """Pictures with mean 0 and standard deviation 1 in each channel.

    Args:
        mean: a number a channel, or a tensor that fits a batch; default: measured on one batch. Three numbers make
            three channels of a grey picture.
        std: likewise.
        axes: axes of a batch that the statistics are measured over.

    Example:
        >>> Normalize.from_stats(*imagenet_stats)(TensorImage(torch.rand(2, 3, 8, 8))).shape
        torch.Size([2, 3, 8, 8])
    """

    order = 99
    parameters = L('mean', 'std')

    def __init__(self, mean: Any = None, std: Any = None, axes: tuple[int, ...] = (0, 2, 3)) -> None:
        super().__init__()
        self.mean, self.std, self.axes = self._shaped(mean), self._shaped(std), axes

    @staticmethod
    def _shaped(stat: Any) -> Tensor | None:
        if stat is None:
            return None
        stat = plain(tensor(stat)).float()
        return stat.view(1, -1, 1, 1) if stat.ndim < 2 else stat

    @classmethod
    def from_stats(cls, mean: Any, std: Any, dim: int = 1, ndim: int = 4, cuda: bool = True) -> Normalize:
        """From known statistics, such as `Normalize.from_stats(*imagenet_stats)`.

        Args:
            mean: a number for each channel, of pixels in 0..1.
            std: likewise.
            dim: the dimension of the channels in a batch.
            ndim: dimensions of a batch.
            cuda: put them on the default device now; they follow the batch to its device anyway.
        """
        return cls(*broadcast_vec(dim, ndim, mean, std, cuda=cuda))

    def setups(self, dl: Any) -> None:
        """Measure on one batch of the loader `dl` what was not given."""
        if self.mean is None or self.std is None:
            x = plain(dl.one_batch()[0]).float()
            self.mean, self.std = x.mean(self.axes, keepdim=True), x.std(self.axes, keepdim=True) + 1e-7

    def _stats(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.mean is None or self.std is None:
            raise ValueError('Normalize() has no statistics yet: put it into batch_tfms, or use '
                             'Normalize.from_stats(mean, std)')
        if self.mean.device != x.device:  # once, then they stay where the batches are
            self.mean, self.std = self.mean.to(x.device), self.std.to(x.device)
        return self.mean, self.std

    @property
    def bytewise(self) -> bool:
        """Whether each value of a channel is treated alike: there is one mean and one deviation a channel."""
        return all(stat is not None and stat.ndim == 4 and stat.shape[0] == stat.shape[2] == stat.shape[3] == 1
                   for stat in (self.mean, self.std))

    def encodes(self, x: TensorImage) -> Any:
        """The pictures `x`, normalized."""
        mean, std = self._stats(x)
        centred = plain(x).sub(mean)
        return centred.div_(std) if std.numel() <= mean.numel() else centred.div(std)

    def decodes(self, x: TensorImage) -> Any:
        """The pictures `x` as they were."""
        mean, std = self._stats(x)
        scaled = plain(x).mul(std)
        return scaled.add_(mean) if mean.numel() <= std.numel() else scaled.add(mean)


# ---------------------------------------------------------------- transforms of single bytes as one table

@keyed
class ByteTable(Transform):
    """Transforms that treat each value of a channel alike, in one pass over the bytes: the same numbers, sooner.

    A batch is exchanged for one whose pictures hold each byte once; what the transforms make of that is the table.

    Args:
        tfms: in their order; the first one makes floats.
    """

    def __init__(self, tfms: Any) -> None:
        super().__init__()
        self.tfms = Pipeline()
        self.tfms.fs += tfms  # in this order, whatever theirs says

    @property
    def name(self) -> str:
        """What the transforms are called."""
        return self.tfms.name

    @property
    def takes_generator(self) -> bool:
        """Whether a generator may be handed to it."""
        return self.tfms.takes_generator

    def __call__(self, b: Any, split_idx: int | None = None, generator: torch.Generator | None = None) -> Any:
        if opencv() is None:
            return self.tfms(b, split_idx=split_idx, generator=generator)
        keep_freed_memory()  # the floats of a batch are the largest piece of memory that comes and goes
        return tree_map(_looked_up, b, self.tfms(tree_map(_probe, b), split_idx=split_idx, generator=generator))


def _is_bytes(x: Any) -> bool:
    marked, x = isinstance(x, TensorImage), plain(x)
    return marked and x.dtype == torch.uint8 and x.ndim == 4 and x.device.type == 'cpu'


def _probe(x: Any) -> Any:
    """In place of pictures others of 16x16 pixels that hold the values 0..255."""
    if not _is_bytes(x):
        return x
    return retain_type(torch.arange(256, dtype=torch.uint8).view(16, 16).repeat(*x.shape[:2], 1, 1), x)


def _looked_up(x: Any, made: Any) -> Any:
    """`made` from a probe of `x`, as large as `x` where that is pictures."""
    return retain_type(_look_up(plain(x), plain(made).flatten(2)), made) if _is_bytes(x) else made


def _look_up(x: Tensor, table: Tensor) -> Tensor:
    """uint8 [B,C,H,W] exchanged for what the table [B,C,256] says, in the same memory format.

    Of one channel (C = 1) the table may make several: statistics of three channels make a grey picture three.
    """
    if not x.is_contiguous():
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        x = x.contiguous()
        return _look_up(x, table).contiguous(memory_format=torch.channels_last if channels_last else
                                             torch.contiguous_format)
    cv2, made = opencv(), np.empty((*table.shape[:2], *x.shape[2:]), table.numpy().dtype)
    planes_of = x.expand(-1, table.shape[1], -1, -1).numpy()
    for planes, rows, targets in zip(planes_of, table.contiguous().numpy(), made):
        for plane, row, target in zip(planes, rows, targets):
            cv2.LUT(plane, row, dst=target)
    return torch.from_numpy(made)
