"""`DataBlock`: says once how items are found, split and labelled, and makes data sets and loaders of any source."""
from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from fastcore.basics import noop
from fastcore.foundation import L
from torch import Tensor

from minifast.arguments import tells_near_match
from minifast.data.collate import add_note, collate_error
from minifast.data.categorize import (Categorize, EncodedMultiCategorize, MultiCategorize, OneHotEncode,
                                      RegressionSetup)
from minifast.data.core import DataLoaders, Datasets, TfmdDL, for_loaders
from minifast.data.transform import Pipeline
from minifast.data.transforms import ItemGetter, RandomSplitter, ToTensor
from minifast.seeds import fork_rng
from minifast.terminal import listed, say, visible
from minifast.torch_core import to_device

__all__ = ['CategoryBlock', 'DataBlock', 'MultiCategoryBlock', 'RegressionBlock', 'TransformBlock']


class TransformBlock:
    """The transforms that one kind of input or target needs.

    Args:
        type_tfms: from what the getter returns to the thing itself (open a picture, look up a label).
        item_tfms: on each sample; `ToTensor` comes first.
        batch_tfms: on each batch.
        dl_type: class of the loaders, where the kind needs its own.
        dls_kwargs: arguments of the loaders.

    Example:
        >>> numbers = TransformBlock(type_tfms=lambda row: torch.tensor(row, dtype=torch.float32))
        >>> block = DataBlock(blocks=(numbers, RegressionBlock), get_x=lambda n: [n, n * n], get_y=lambda n: 2 * n)
        >>> dls = block.dataloaders(list(range(100)), bs=10)
        >>> dls.one_batch()[0].shape
        torch.Size([10, 2])
    """

    @tells_near_match
    def __init__(self, type_tfms: Any = None, item_tfms: Any = None, batch_tfms: Any = None,
                 dl_type: type[Any] | None = None, dls_kwargs: dict[Any, Any] | None = None) -> None:
        self.type_tfms, self.item_tfms, self.batch_tfms = L(type_tfms), ToTensor + L(item_tfms), L(batch_tfms)
        self.dl_type, self.dls_kwargs = dl_type, dls_kwargs or {}


@tells_near_match
def CategoryBlock(vocab: Iterable[Any] | None = None, sort: bool = True, add_na: bool = False) -> TransformBlock:
    """One class an item.

    Args:
        vocab: the classes; default: those of the training items.
        sort: sort them.
        add_na: add '#na#' for labels that are not among them.

    Example:
        >>> block = DataBlock(blocks=(ImageBlock, CategoryBlock(vocab=['cat', 'dog'])), get_items=get_image_files,
        ...                   get_y=parent_label, item_tfms=Resize(64))
        >>> dls = block.dataloaders(path, bs=8)
    """
    return TransformBlock(type_tfms=Categorize(vocab=vocab, sort=sort, add_na=add_na))


@tells_near_match
def MultiCategoryBlock(encoded: bool = False, vocab: Iterable[Any] | None = None,
                       add_na: bool = False) -> TransformBlock:
    """Any number of classes an item.

    Args:
        encoded: labels come as zeros and ones, in the order of `vocab`.
        vocab: the classes; default: those of the training items.
        add_na: add '#na#' for labels that are not among them.

    Example:
        >>> block = DataBlock(blocks=(ImageBlock, MultiCategoryBlock), get_items=get_image_files, item_tfms=Resize(64),
        ...                   get_y=lambda file: [file.parent.name, 'furry'])
        >>> dls = block.dataloaders(path, bs=8)
        >>> list(dls.vocab)
        ['cat', 'dog', 'furry']
    """
    tfms = EncodedMultiCategorize(vocab) if encoded else [MultiCategorize(vocab=vocab, add_na=add_na), OneHotEncode]
    return TransformBlock(type_tfms=tfms)


@tells_near_match
def RegressionBlock(n_out: int | None = None, c_out: int | None = None) -> TransformBlock:
    """A number, or several, an item.

    Args:
        n_out: how many; default: as the first item has.
        c_out: `n_out` under the name older code uses.

    Example:
        >>> block = DataBlock(blocks=(ImageBlock, RegressionBlock), get_items=get_image_files, item_tfms=Resize(64),
        ...                   get_y=lambda file: float(file.stem.split('_')[1]))
        >>> dls = block.dataloaders(path, bs=8)
    """
    return TransformBlock(type_tfms=RegressionSetup(c=c_out if n_out is None else n_out))


def _kind(tfm: Any) -> Any:
    """What a list of transforms has one of: a class, or a function."""
    if inspect.isfunction(tfm) and tfm.__name__ == '<lambda>':
        return id(tfm)
    if isinstance(tfm, type):
        return tfm
    if inspect.isfunction(tfm) or inspect.ismethod(tfm):
        return tfm.__qualname__
    return type(tfm)


def _merged(*lists: Any) -> L:
    """One list of transforms; of one kind the last one counts, at the place of the first."""
    merged: dict[Any, Any] = {}
    for tfm in (t for tfms in lists for t in L(tfms)):
        merged[_kind(tfm)] = tfm
    return L(t() if isinstance(t, type) else t for t in merged.values())


class DataBlock:
    """How to get from a source (a folder, a table) to samples.

    Args:
        blocks: a `TransformBlock` (or a function that makes one) for each element of a sample.
        dl_type: class of the loaders.
        getters: a function of an item for each element.
        n_inp: how many elements are inputs; default: all but the last.
        item_tfms: on each sample; they take the place of the blocks' of the same class.
        batch_tfms: on each batch, likewise.
        get_items: source -> items.
        splitter: items -> indices of training and of validation items; default: 20% at random.
        get_x: a function of an item, or a list of `n_inp` of them.
        get_y: a function of an item, or a list of one for each target.

    Raises:
        ValueError: the numbers of functions and of blocks do not fit.

    Example:
        >>> block = DataBlock(blocks=(ImageBlock, CategoryBlock), get_items=get_image_files, get_y=parent_label,
        ...                   splitter=RandomSplitter(seed=42), item_tfms=Resize(224))
        >>> dls = block.dataloaders(path)
    """

    get_items = get_x = get_y = splitter = None
    blocks, dl_type = (TransformBlock, TransformBlock), TfmdDL

    @tells_near_match
    def __init__(self, blocks: Any = None, dl_type: type[Any] | None = None, getters: Any = None,
                 n_inp: int | None = None, item_tfms: Any = None, batch_tfms: Any = None,
                 get_items: Callable[..., Any] | None = None, splitter: Callable[..., Any] | None = None,
                 get_y: Any = None, get_x: Any = None) -> None:
        given = {'get_items': get_items, 'splitter': splitter, 'get_x': get_x, 'get_y': get_y}
        self.__dict__.update({name: f for name, f in given.items() if f is not None})
        blocks = [b() if callable(b) else b for b in L(self.blocks if blocks is None else blocks)]
        self.type_tfms = L(b.type_tfms for b in blocks)
        self.default_item_tfms = _merged(*(b.item_tfms for b in blocks))
        self.default_batch_tfms = _merged(*(b.batch_tfms for b in blocks))
        self.dl_type = next((d for d in (dl_type, *(b.dl_type for b in reversed(blocks))) if d is not None),
                            self.dl_type)
        self.dls_kwargs = {name: value for b in blocks for name, value in b.dls_kwargs.items()}
        self.n_inp = max(1, len(blocks) - 1) if n_inp is None else n_inp
        self.getters = [noop] * len(blocks) if getters is None else list(L(getters))
        self._take_getters('get_x', 0, self.n_inp, 'input')
        self._take_getters('get_y', self.n_inp, len(blocks), 'target')
        if len(self.getters) != len(blocks):
            raise ValueError(f'{len(self.getters)} getters for {len(blocks)} blocks: give each block one')
        self.new(item_tfms, batch_tfms)

    def _take_getters(self, name: str, start: int, stop: int, what: str) -> None:
        own = getattr(self, name)
        if own is None:
            return
        fs = list(own) if isinstance(own, (list, tuple, L)) else [own]
        if len(fs) != stop - start:
            raise ValueError(f'{name} contains {len(fs)} functions, but must contain {stop - start} (one for each '
                             f'{what}). If you meant several one after the other, put them into a Pipeline')
        self.getters[start:stop] = fs

    @tells_near_match
    def new(self, item_tfms: Any = None, batch_tfms: Any = None) -> DataBlock:
        """Set other `item_tfms` and `batch_tfms`, over those of the blocks; returns the block.

        Example:
            >>> block = DataBlock(blocks=(ImageBlock, CategoryBlock), get_items=get_image_files, get_y=parent_label)
            >>> small, large = block.new(item_tfms=Resize(32)), block.new(item_tfms=Resize(64))
        """
        self.item_tfms = _merged(self.default_item_tfms, item_tfms)
        self.batch_tfms = _merged(self.default_batch_tfms, batch_tfms)
        return self

    @classmethod
    def from_columns(cls, blocks: Any = None, getters: Any = None, get_items: Callable[..., Any] | None = None,
                     **kwargs: Any) -> DataBlock:
        """A block for sources that come as columns: `(xs, ys)`, or what `get_items` makes of the source.

        Args:
            blocks: as for `DataBlock`; default: two without transforms.
            getters: a function of a row for each block; default: the i-th takes column i.
            get_items: source -> columns of equal length.
            **kwargs: as for `DataBlock`.
        """
        n = 2 if blocks is None else len(L(blocks))
        getters = [ItemGetter(i) for i in range(n)] if getters is None else getters
        return cls(blocks=blocks, getters=getters, get_items=partial(_rows, get_items), **kwargs)

    def _type_pipelines(self) -> list[L]:
        return [L(getter.fs if isinstance(getter, Pipeline) else getter) + tfms
                for getter, tfms in zip(self.getters, self.type_tfms)]

    @tells_near_match
    def datasets(self, source: Any, verbose: bool = False) -> Datasets:
        """Find the items of `source`, split them, and set up the transforms; tell each step if `verbose`.

        Raises:
            ValueError: there are no items.

        Example:
            >>> block = DataBlock(blocks=(ImageBlock, CategoryBlock), get_items=get_image_files, get_y=parent_label)
            >>> dsets = block.datasets(path)
            >>> picture, label = dsets.train[0]
        """
        self.source = source
        if verbose:
            say(f'Collecting items from {source}')
        items = source if self.get_items is None else self.get_items(source)
        if verbose:
            print(f'Found {len(items)} items')
        if not len(items):
            shown = str(source) if isinstance(source, (str, Path)) else f'the source (a {type(source).__name__})'
            got = '' if self.get_items is None else f': get_items={_called(self.get_items)} found none'
            raise ValueError(f'no items in {shown}{got}{_holds(source)}')
        splits = (self.splitter or RandomSplitter())(items)
        if verbose:
            print(f'{len(splits)} datasets of sizes {",".join(str(len(s)) for s in splits)}')
        if not len(splits[0]):
            raise ValueError(f'no training items: the splitter {_called(self.splitter)} put all {len(items)} elsewhere')
        return Datasets(items, tfms=self._type_pipelines(), splits=splits, dl_type=self.dl_type, n_inp=self.n_inp,
                        verbose=verbose)

    def dataloaders(self, source: Any, path: str | Path = '.', verbose: bool = False, **kwargs: Any) -> DataLoaders:
        """Loaders of a source.

        Args:
            source: what `get_items` takes, or the items.
            path: where a `Learner` puts files.
            verbose: print each step.
            **kwargs: see `FilteredBase.dataloaders`: `bs`, `val_bs`, `shuffle`, `device`, `num_workers`, ...;
                `item_tfms` and `batch_tfms` take the place of the block's own for these loaders.

        Example:
            >>> block = DataBlock(blocks=(ImageBlock, CategoryBlock), get_items=get_image_files, get_y=parent_label,
            ...                   item_tfms=Resize(64))
            >>> dls = block.dataloaders(path, bs=8)
        """
        kwargs = self._for_loaders(**for_loaders(self.dataloaders, {**kwargs}, Datasets.dataloaders, self._for_loaders,
                                                 dl_type=self.dl_type))
        return self.datasets(source, verbose=verbose).dataloaders(path=path, verbose=verbose, **kwargs)

    def weighted_dataloaders(self, source: Any, wgts: Sequence[float], path: str | Path = '.', verbose: bool = False,
                             **kwargs: Any) -> DataLoaders:
        """Loaders of a source whose training items are drawn with replacement, as often as their weights say.

        Args:
            source: see `dataloaders`.
            wgts: a weight an item of the source, of any sum; only those of training items are looked at.
            path: where a `Learner` puts files.
            verbose: print each step.
            **kwargs: see `dataloaders`.

        Raises:
            ValueError: there are not as many weights as items.
        """
        kwargs, dsets = self._for_loaders(**kwargs), self.datasets(source, verbose=verbose)
        if len(wgts) != len(dsets):
            raise ValueError(f'{len(wgts)} weights for {len(dsets)} items: give one an item')
        for_train = np.asarray(wgts)[dsets.splits[0]]
        return dsets.weighted_dataloaders(for_train, path=path, verbose=verbose, **kwargs)

    def _for_loaders(self, item_tfms: Any = None, batch_tfms: Any = None, **kwargs: Any) -> dict:
        return {'after_item': _merged(self.item_tfms, item_tfms), 'after_batch': _merged(self.batch_tfms, batch_tfms),
                **self.dls_kwargs, **kwargs}

    def summary(self, source: Any, bs: int = 4, show_batch: bool = False, **kwargs: Any) -> None:
        """Print how a sample and a batch of a source come about, step by step, exactly as `dataloaders` makes them.

        Args:
            source: see `dataloaders`.
            bs: items of the batch.
            show_batch: show it too.
            **kwargs: for `show_batch`.

        Example:
            >>> block = DataBlock(blocks=(ImageBlock, CategoryBlock), get_items=get_image_files, get_y=parent_label,
            ...                   item_tfms=Resize(64))
            >>> block.summary(path)
        """
        _tell(self, source, bs, show_batch, **kwargs)


def _rows(get_items: Callable | None, source: Any) -> L:
    columns = L(source if get_items is None else get_items(source))
    lengths = [len(column) for column in columns if hasattr(column, '__len__')]
    if len(set(lengths)) > 1:
        raise ValueError(f'columns of {" and ".join(map(str, lengths))} elements: an item has one of each, such as a '
                         'picture and its label')
    return columns.zip()


def _called(f: Any) -> str:
    f = f.func if isinstance(f, partial) else f
    name = 'RandomSplitter' if f is None else getattr(f, '__qualname__', type(f).__name__)
    return name.replace('.<locals>._split', '')


def _holds(source: Any) -> str:
    """What is in a folder, for messages."""
    if not isinstance(source, (str, Path)) or not Path(source).is_dir():
        return ''
    inside = sorted(o for o in Path(source).iterdir() if not o.name.startswith('.'))
    folders = [repr(o.name) for o in inside if o.is_dir()]
    kinds = sorted({o.suffix or repr(o.name) for o in inside if o.is_file()})
    parts = [f'{what} {listed(names, 10, ", ...")}'
             for what, names in (('the folders', folders), ('files of the kinds', kinds)) if names]
    return f'; there {"are" if parts else "is nothing"} {" and ".join(parts)}'.rstrip()


# ---------------------------------------------------------------- the way of one batch, printed step by step

def _short(x: Any) -> str:
    if isinstance(x, (tuple, list)):
        inner = ', '.join(_short(o) for o in x)
        return f'({inner})' if isinstance(x, tuple) else f'[{inner}]'
    if not isinstance(x, Tensor) or (x.numel() <= 20 and x.ndim <= 1):
        return str(x)
    return f'{type(x).__name__} of size {"x".join(map(str, x.shape))}, {str(x.dtype).removeprefix("torch.")}'


def _types(x: Any) -> str:
    return f'({", ".join(_types(o) for o in x)})' if isinstance(x, tuple) else type(x).__name__


def _walk(pipeline: Pipeline, x: Any, item: str) -> Any:
    """`x` through a pipeline, with each step printed; an error tells step, item and types."""
    say(f'  {pipeline}')
    say('    starting from')
    say(f'      {_short(x)}')
    for f in pipeline.fs:
        try:
            new = f(x, split_idx=pipeline.split_idx)
        except Exception as error:
            say(f'    applying {f.name} failed.')
            given = visible(f'raised by {f.name}, given {item} as {_types(x)}: {_short(x)[:300]}')
            raise add_note(error, given) from None
        x = new
        if f.name != 'noop':
            say(f'    applying {f.name} gives')
            say(f'      {_short(x)}')
    return x


def _tell(dblock: DataBlock, source: Any, bs: int, show_batch: bool, **kwargs: Any) -> None:
    say('Setting-up type transforms pipelines')
    dls = dblock.dataloaders(source, bs=bs, num_workers=0, verbose=True)
    dl, dset = dls.train, dls.train_ds
    dl._prepare()
    bs = min(bs, len(dset))
    with fork_rng():
        print('\nBuilding one sample')
        item = dl._item_name(0)
        for tl in dset.tls:
            _walk(tl.tfms, tl.items.iloc[0] if hasattr(tl.items, 'iloc') else tl.items[0], item)
        sample = dset[0]
        say()
        say(f'Final sample: {_short(sample)}')
        print('\n\n\nBuilding one batch')
        samples = [_walk(dl.after_item, sample, item)] if len(dl.after_item) else [sample]
        print(f'\nAdding the next {bs - 1} samples')
        samples += [dl.after_item(dset[i]) for i in range(1, bs)]
        if len(dl.before_batch):
            print('\nApplying before_batch to the list of samples')
            samples = _walk(dl.before_batch, samples, 'the samples')
        print('\nCollating items in a batch')
        b = _collated(dl, samples)
        if len(dl.after_batch):
            print('\nApplying batch_tfms to the batch built')
            _walk(dl.after_batch, to_device(b, dls.device), 'the batch')
        else:
            print('\nNo batch_tfms to apply')
            say(f'  {_short(b)}')
    if show_batch:
        dls.show_batch(**kwargs)


def _collated(dl: Any, samples: list) -> Any:
    try:
        return dl.retain(dl.create_batch(samples), samples)
    except Exception as error:
        print("Error! It's not possible to collate your items in a batch")
        raise collate_error(error, samples, [dl._item_name(i) for i in range(len(samples))]) from None
