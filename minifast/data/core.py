"""Items through pipelines to samples, split, and turned into loaders: `Datasets`, `TfmdDL`, `DataLoaders`."""
from __future__ import annotations

import functools
import inspect
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from fastcore.basics import Inf
from fastcore.foundation import L
from PIL import Image
from torch import Tensor
from torch.utils.data import WeightedRandomSampler

from minifast.arguments import known_kwargs, lookup, tells_near_match
from minifast.data.collate import add_note
from minifast.data.load import DataLoader, hook_names
from minifast.data.sampler import ORDER, order
from minifast.data.showing import (ForeignSamples, get_show_batch_func, guessed_kind, repr_of_items, repr_of_loaders,
                                   show_batch, show_results)
from minifast.data.stream import kind_of
from minifast.data.transform import Pipeline, RandTransform, gather_attrs, is_known
from minifast.markers import TensorBase, explode_types
from minifast.seeds import fork_rng, keyed_generator
from minifast.show import drawn
from minifast.terminal import say
from minifast.torch_core import batch_to_samples, default_device, detuplify, to_cpu, to_device

if TYPE_CHECKING:
    from minifast.data.categorize import CategoryMap

__all__ = ['DataLoader', 'DataLoaders', 'Datasets', 'FilteredBase', 'TfmdDL', 'TfmdLists', 'decode_at',
           'get_show_batch_func', 'show_at', 'show_batch', 'show_results', 'test_set']


# ---------------------------------------------------------------- loaders

_pipelines = ('after_item', 'before_batch', 'after_batch')


class TfmdDL(DataLoader):
    """A `DataLoader` whose transforms are pipelines: set up with the loader, undone by `decode`, and shown.

    Args:
        dataset: the data set.
        bs: items a batch.
        shuffle: another order each epoch.
        num_workers: None has it decided by the time the first batch takes.
        verbose: print what is set up.
        do_setup: set up the transforms.
        **kwargs: see `DataLoader`.
    """

    def __init__(self, dataset: Any = None, bs: int | None = 64, shuffle: bool = False, num_workers: int | None = None,
                 verbose: bool = False, do_setup: bool = True, **kwargs: Any) -> None:
        pipelines = {name: Pipeline(kwargs.pop(name, None)) for name in _pipelines}
        super().__init__(dataset, bs=bs, shuffle=shuffle, num_workers=num_workers, **kwargs)
        for name, pipeline in pipelines.items():
            setattr(self, name, pipeline)
        if do_setup:
            for name, pipeline in pipelines.items():
                if verbose:
                    say(f'Setting up {name}: {pipeline}')
                pipeline.setup(self)

    def new(self, dataset: Any = None, cls: type[Any] | None = None, **kwargs: Any) -> TfmdDL:
        """A loader like this one, of `dataset` and class `cls` if given, with the arguments in `kwargs` changed;
        nothing is set up again."""
        made = super().new(dataset, cls, **{'do_setup': False, **kwargs})
        if hasattr(made, '_kinds'):
            made._kinds = self._kinds
        return made

    _kinds: Any = None

    def _prepare(self) -> None:
        split_idx = getattr(self.dataset, 'split_idx', None)
        for name in _pipelines:
            pipeline = getattr(self, name)
            if isinstance(pipeline, Pipeline):
                pipeline.split_idx = split_idx

    @property
    def n_inp(self) -> int:
        """How many elements of a batch are inputs."""
        found = getattr(self.dataset, 'n_inp', None)
        if found is not None:
            return found
        kinds = self._batch_kinds()
        return max(len(kinds) - 1, 1) if isinstance(kinds, (tuple, list)) else 1

    def _batch_kinds(self) -> Any:
        """The marker type of each part of a batch, nested as the batch is."""
        if self._kinds is None:
            self._kinds = _kinds_of(self._small_batch(), lambda o: type(o) if isinstance(o, TensorBase) else None)
        return self._kinds

    def _small_batch(self) -> Any:
        return self.new(bs=None if self.prebatched else 1, batch_sampler=None, drop_last=False, shuffle=False,
                        num_workers=0).one_batch()

    @functools.cached_property
    def _types(self) -> Any:
        """The types of a batch, `{tuple: [TensorImage, TensorCategory]}`, as scripts of fastai read them."""
        return explode_types(self._small_batch())

    # ------------------------------------------------------------ undoing

    def decode(self, b: Any) -> Any:
        """The batch `b` with its batch transforms undone, on the CPU."""
        return to_cpu(self.after_batch.decode(_marked(b, self._batch_kinds())))

    def decode_batch(self, b: Any, max_n: int = 9, full: bool = True) -> L:
        """Up to `max_n` samples of `b` with all transforms undone; unless `full`, only until they can be shown."""
        return self._decode_batch(self.decode(b), max_n, full)

    def _decode_batch(self, b: Any, max_n: int = 9, full: bool = True) -> L:
        samples = batch_to_samples(b, max_n=max_n)
        decode = getattr(self.dataset, 'decode', None)
        return L(self._decode_sample(sample, decode, full) for sample in samples)

    def _decode_sample(self, sample: Any, decode: Any, full: bool) -> Any:
        sample = self.after_item.decode(self.before_batch.decode(sample))
        return sample if decode is None else decode(sample, full=full)

    # ------------------------------------------------------------ showing

    def _pre_show_batch(self, b: Any, max_n: int = 9) -> tuple[Any, Any, L | None]:
        """(inputs, targets, decoded samples) for `show_batch`."""
        b = self.decode(b)
        if hasattr(b, 'show'):
            return b, None, None
        samples = self._decode_batch(b, max_n, full=False)
        if not isinstance(b, (tuple, list, L)):
            b, samples = [b], L((sample,) for sample in samples)
        return detuplify(b[:self.n_inp]), detuplify(b[self.n_inp:]), samples

    def show_batch(self, b: Any = None, max_n: int = 9, ctxs: Any = None, show: bool = True, unique: bool = False,
                   **kwargs: Any) -> Any:
        """Show samples of a batch with their targets.

        Args:
            b: a batch; default: one of a pass of its own.
            max_n: how many samples.
            ctxs: an axis or table row for each.
            show: False returns what would be shown.
            unique: the same item again and again, to see its augmentations.
            **kwargs: for the grid and each element's `show`: `nrows`, `ncols`, `figsize`, `cmap`, ...
        """
        if b is None:
            b = self._repeated().one_batch() if unique else self.one_batch()
        if not show:
            return self._pre_show_batch(b, max_n=max_n)
        return drawn(show_batch(*self._pre_show_batch(b, max_n=max_n), ctxs=ctxs, max_n=max_n, **kwargs))

    def _repeated(self) -> TfmdDL:
        return self.new(get_idxs=lambda: Inf.zeros, num_workers=0, sampler=None, batch_sampler=None, shuffle=False)

    def show_results(self, b: Any, out: Any, max_n: int = 9, ctxs: Any = None, show: bool = True,
                     **kwargs: Any) -> Any:
        """Show samples of the batch `b` with their targets and the decoded predictions `out`; `max_n`, `ctxs`, `show`
        and `**kwargs` as in `show_batch`."""
        x, y, samples = self._pre_show_batch(b, max_n=max_n)
        both = type(b)([*b[:self.n_inp], *(out if isinstance(out, (tuple, list, L)) else (out,))])
        x_out, _, outs = self._pre_show_batch(both, max_n=max_n)
        if samples is None:
            results = (x, x_out, None, None)
        else:
            results = (x, y, samples, L(tuple(o[self.n_inp:]) for o in outs))
        return drawn(show_results(*results, ctxs=ctxs, max_n=max_n, **kwargs)) if show else results


def _kinds_of(b: Any, kind_of: Callable[[Any], type | None]) -> Any:
    return tuple(_kinds_of(o, kind_of) for o in b) if isinstance(b, (tuple, list, L)) else kind_of(b)


def _marked(b: Any, kinds: Any) -> Any:
    """A batch whose plain tensors carry the marker types that the loader's batches have."""
    if isinstance(b, (tuple, list, L)):
        kinds = kinds if isinstance(kinds, tuple) else ()
        return tuple(_marked(o, kind) for o, kind in zip(b, [*kinds, *[None] * len(b)]))
    return kinds(b) if isinstance(kinds, type) and isinstance(b, Tensor) and not isinstance(b, TensorBase) else b


class _DrawnDL(TfmdDL):
    """A loader one argument of which, `_draw`, is about its items: a loader of others is made without it."""

    _draw: ClassVar[str]

    def new(self, dataset: Any = None, cls: type | None = None, **kwargs: Any) -> TfmdDL:
        """A loader like this one, of `dataset` if given, with some arguments changed."""
        draw = {self._draw: getattr(self, self._draw)} if dataset is None and cls is None else {}
        return super().new(dataset, cls, **{**draw, **kwargs})


class WeightedDL(_DrawnDL):
    """Where it shuffles, draws as many items as there are, with replacement and as often as their weights say.

    Args:
        dataset: the data set.
        bs: items a batch.
        wgts: a weight an item, of any sum; default: all the same.
        **kwargs: see `TfmdDL`.

    Raises:
        ValueError: there are not as many weights as items.
    """

    _draw = 'wgts'

    def __init__(self, dataset: Any = None, bs: int | None = 64, wgts: Sequence[float] | None = None,
                 **kwargs: Any) -> None:
        super().__init__(dataset, bs=bs, **kwargs)
        self.wgts = None if wgts is None else torch.as_tensor(wgts, dtype=torch.double)
        if wgts is not None and len(wgts) != self.n:
            raise ValueError(f'{len(wgts)} weights for {self.n} items: give one an item')

    def get_idxs(self) -> Any:
        """The indices of a pass, a function of the weights, the seed and the epoch."""
        if self.wgts is None or not self.shuffle:
            return super().get_idxs()
        return list(WeightedRandomSampler(self.wgts, self.n,
                                          generator=keyed_generator(self._at.seed, ORDER, self._at.epoch)))


class PartialDL(_DrawnDL):
    """Draws `partial_n` of the items, another part each epoch, so that an epoch is a short one.

    Args:
        dataset: the data set.
        bs: items a batch.
        partial_n: how many; default: all, as `TfmdDL`.
        **kwargs: see `TfmdDL`.
    """

    _draw = 'partial_n'

    def __init__(self, dataset: Any = None, bs: int | None = 64, partial_n: int | None = None, **kwargs: Any) -> None:
        super().__init__(dataset, bs=bs, **kwargs)
        self.partial_n = min(partial_n, self.n) if partial_n else None

    def get_idxs(self) -> Any:
        """The indices of a pass, a function of the seed and the epoch."""
        if self.partial_n is None:
            return super().get_idxs()
        return order(self.n, self._at.seed, self._at.epoch)[:self.partial_n]

    def __len__(self) -> int:
        return super().__len__() if self.partial_n is None else self._batches_of(self.partial_n)


_elsewhere = {'size': 'give item_tfms=Resize(...), or a size to aug_transforms',
              **dict.fromkeys(('tfms', 'ds_tfms', 'transform'), 'give item_tfms= and batch_tfms=')}


def for_loaders(func: Callable, kwargs: dict[str, Any], *inner: Callable, dl_type: Any = None) -> dict[str, Any]:
    """The keyword arguments that `func` can hand on to loaders; others are warned of and left out, see `known_kwargs`.

    Args:
        func: what was called with them.
        kwargs: the keyword arguments.
        *inner: functions that they are handed on to, which may take more.
        dl_type: class of the loaders: one of the user's own may take more, so nothing is left out then.
    """
    dl_type = kwargs.get('dl_type') or dl_type or TfmdDL
    if dl_type not in (DataLoader, TfmdDL, WeightedDL, PartialDL):
        return kwargs
    makers = (func, *inner, dl_type.__init__, TfmdDL.__init__, DataLoader.__init__)
    names = {name for f in makers for name in inspect.signature(f).parameters}
    names = names - {'self', 'kwargs', 'source', 'dblock', 'dataset'} | {*hook_names, 'collate_fn', 'worker_init_fn'}
    for_valid = {name for name in kwargs if name.startswith('val_') and name[4:] in names}
    return known_kwargs(func.__qualname__, kwargs, sorted(names | for_valid), _elsewhere)


class DataLoaders:
    """A training loader, a validation loader, and whatever more there are.

    Loaders of torch are as good as ours. An attribute it does not have is looked for on the training loader, and from
    there on its data set: `dls.vocab`, `dls.c`, `dls.show_batch()`, `dls.one_batch()`.

    Args:
        *loaders: the loaders.
        path: where a `Learner` puts files.
        device: where batches go; default: as the loaders say.

    Example:
        >>> numbers = [(torch.rand(8), n % 2) for n in range(100)]
        >>> dls = DataLoaders(DataLoader(numbers[:80], bs=16, shuffle=True), DataLoader(numbers[80:], bs=16))
        >>> xb, yb = dls.one_batch()
    """

    vocab: CategoryMap

    def __init__(self, *loaders: Any, path: str | Path = '.', device: Any = None) -> None:
        self.loaders, self.path = list(loaders), Path(path)
        if device is not None:
            self.device = device

    def __getattr__(self, name: str) -> Any:
        return lookup(self, name, 'train')

    def __getitem__(self, i: int) -> Any:
        return self.loaders[i]

    def __len__(self) -> int:
        return len(self.loaders)

    def __iter__(self) -> Iterator:
        return iter(self.loaders)

    __repr__ = repr_of_loaders

    @property
    def train(self) -> TfmdDL:
        """The training loader, None where there is no loader at all."""
        return self.loaders[0] if self.loaders else None

    @train.setter
    def train(self, dl: Any) -> None:
        self.loaders[0] = dl

    @property
    def valid(self) -> TfmdDL:
        """The validation loader."""
        return self._split(1)

    @valid.setter
    def valid(self, dl: Any) -> None:
        self.loaders[1:2] = [dl]

    @property
    def train_ds(self) -> Any:
        """The training data set."""
        return self._split(0).dataset

    @property
    def valid_ds(self) -> Any:
        """The validation data set."""
        return self.valid.dataset

    def _split(self, i: int) -> Any:
        if i >= len(self.loaders):
            raise IndexError(f'these DataLoaders have {len(self.loaders)} loaders and no number {i}: '
                             'DataLoaders(train_loader, valid_loader)')
        return self.loaders[i]

    # ------------------------------------------------------------ where batches go

    @property
    def device(self) -> torch.device | None:
        """Where batches go, None where nothing says."""
        return self.__dict__.get('_device') or getattr(self.train, '_device', None)

    @device.setter
    def device(self, device: Any) -> None:
        self._device = None if device is None else torch.device(device)
        for dl in self.loaders:
            if isinstance(dl, DataLoader):
                dl.to(self._device)

    @tells_near_match
    def to(self, device: Any) -> DataLoaders:
        """Send the batches of all loaders to `device`."""
        self.device = device
        return self

    def cuda(self) -> DataLoaders:
        """Send batches to the accelerator where there is one, to the CPU else."""
        return self.to(default_device())

    def cpu(self) -> DataLoaders:
        """Send batches to the CPU."""
        return self.to('cpu')

    # ------------------------------------------------------------ looking

    def one_batch(self) -> Any:
        """One training batch on the device; leaves no trace in the randomness.

        Example:
            >>> xb, yb = dls.one_batch()
            >>> xb.shape
            torch.Size([8, 3, 32, 32])
        """
        if hasattr(self._split(0), 'one_batch'):
            return self.train.one_batch()
        with fork_rng():
            b = next(iter(self.train))
        return b if self.device is None else to_device(b, self.device)

    def show_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Show samples of a training batch; `*args` and `**kwargs` are those of `TfmdDL.show_batch`.

        Example:
            >>> dls.show_batch(max_n=4, nrows=1)
        """
        if hasattr(self._split(0), 'show_batch'):
            return self.train.show_batch(*args, **kwargs)
        b = args[0] if args else kwargs.pop('b', None)
        b = self.one_batch() if b is None else b
        dl = TfmdDL(ForeignSamples(self.train.dataset, len(b)), num_workers=0)
        dl._kinds = _kinds_of(b, guessed_kind)
        return dl.show_batch(_marked(b, dl._kinds), *args[1:], **kwargs)

    def show_plan(self) -> None:
        """Print for each loader what happens to an item and a batch, and where.

        Example:
            >>> dls.show_plan()
        """
        for i, dl in enumerate(self.loaders):
            print(f'{["training", "validation"][i] if i < 2 else f"loader {i}"}:')
            dl.show_plan() if hasattr(dl, 'show_plan') else say(f'{type(dl).__name__}, left as it is')

    # ------------------------------------------------------------ changing

    @tells_near_match
    def add_tfms(self, tfms: Any, event: str, loaders: Any = None) -> None:
        """Add transforms to a pipeline of the loaders.

        Args:
            tfms: one, or several.
            event: 'after_item', 'before_batch' or 'after_batch'.
            loaders: numbers, or 'train' and 'valid'; default: all.
        """
        numbers = {'train': 0, 'valid': 1}
        for i in range(len(self.loaders)) if loaders is None else L(loaders):
            getattr(self[numbers.get(i, i)], event).add(L(tfms))

    def new_empty(self) -> DataLoaders:
        """The same loaders without items, with all that was learned from them (vocab, statistics)."""
        made = [dl.new(dl.dataset.new_empty()) for dl in self.loaders]
        return type(self)(*made, path=self.path, device=self.device)

    def test_dl(self, test_items: Any, rm_type_tfms: Any = None, with_labels: bool = False, **kwargs: Any) -> Any:
        """A loader of new items, transformed as the validation items are.

        Args:
            test_items: items like those of the training: paths, rows of a DataFrame, pictures, ...
            rm_type_tfms: how many of the first type transforms to leave out; default: found out by the item's type.
            with_labels: make targets too.
            **kwargs: changed arguments of the loader: `bs`, `num_workers`, `after_item`, ...

        Example:
            >>> new = dls.test_dl(['cat.jpg'])  # no labels
            >>> predictions, _ = learn.get_preds(dl=new)
            >>> predictions.shape
            torch.Size([1, 2])
        """
        dl = self.valid if len(self.loaders) > 1 else self.train
        kwargs = for_loaders(self.test_dl, kwargs, dl_type=type(dl))
        make = getattr(dl.dataset, 'test_set', None)
        test_ds = test_items if make is None else make(test_items, rm_tfms=rm_type_tfms, with_labels=with_labels)
        if hasattr(dl, 'new'):
            # what is predicted once need not be kept
            return dl.new(test_ds, **{'shuffle': False, 'drop_last': False, 'cache': None, **kwargs})
        settings = {'bs': dl.batch_size, 'create_batch': dl.collate_fn, 'device': self.device, **kwargs}
        return DataLoader(test_ds, **settings)

    @classmethod
    def from_dsets(cls, *ds: Any, path: str | Path = '.', bs: int = 64, device: Any = None, dl_type: type[Any] = TfmdDL,
                   **kwargs: Any) -> DataLoaders:
        """Loaders of data sets, the first for training (shuffled, without a last batch that is not full).

        Args:
            *ds: anything with `[i]` and `len`.
            path: where a `Learner` puts files.
            bs: items a batch.
            device: where batches go; default: as the loaders say.
            dl_type: class of the loaders.
            **kwargs: arguments of the loaders; a tuple gives each loader its own, but for transforms. A `val_...`, such
                as `val_bs`, goes to all but the first without its `val_`.

        Example:
            >>> numbers = [(torch.rand(8), n % 2) for n in range(100)]
            >>> dls = DataLoaders.from_dsets(numbers[:80], numbers[80:], bs=16)
        """
        shuffled = (not any(map(kind_of, ds[:1])), *[False] * (len(ds) - 1))  # a stream shuffles itself, if at all
        kwargs = for_loaders(cls.from_dsets, kwargs, dl_type=dl_type)
        for_valid = {name[4:]: value for name, value in kwargs.items() if name.startswith('val_')}
        kwargs = {'shuffle': shuffled, 'drop_last': shuffled, 'bs': bs,
                  **{name: value for name, value in kwargs.items() if not name.startswith('val_')}}

        def _own(name: str, value: Any, i: int) -> Any:
            if name in _pipelines:
                return Pipeline(value)
            return value[i] if isinstance(value, (tuple, list, L)) and len(value) == len(ds) else value
        each = [{**kwargs, **(for_valid if i else {})} for i in range(len(ds))]
        made = [dl_type(d, **{name: _own(name, value, i) for name, value in each[i].items()})
                for i, d in enumerate(ds)]
        return cls(*made, path=path, device=device)

    @classmethod
    def from_dblock(cls, dblock: Any, source: Any, path: str | Path = '.', bs: int = 64, val_bs: int | None = None,
                    shuffle: bool = True, device: Any = None, **kwargs: Any) -> DataLoaders:
        """Loaders of `dblock.dataloaders(source)`, with `path`, `bs`, `val_bs`, `shuffle`, `device`, `**kwargs`."""
        dls = dblock.dataloaders(source, path=path, bs=bs, val_bs=val_bs, shuffle=shuffle, device=device, **kwargs)
        return dls if isinstance(dls, cls) else cls(*dls.loaders, path=dls.path, device=dls.device)


# ---------------------------------------------------------------- items

def _as_items(items: Any) -> Any:
    """Items that can be indexed: tables and arrays as they are, anything else as a list."""
    if hasattr(items, 'iloc') or isinstance(items, (np.ndarray, Tensor, list)):
        return items
    return [] if items is None else list(items) if isinstance(items, Iterable) else [items]


def _is_one(idx: Any) -> bool:
    """Whether `idx` is the index of one item."""
    return isinstance(idx, (int, np.integer)) or (isinstance(idx, Tensor) and idx.ndim == 0)


def _item(items: Any, i: Any) -> Any:
    """One item; of a table, its row."""
    return items.iloc[int(i)] if hasattr(items, 'iloc') else items[int(i)]


def _subset(items: Any, idx: Any) -> Any:
    """The items of several indices, a mask or a slice, in the kind of container they come from."""
    idx = _indices(idx)
    if hasattr(items, 'iloc'):
        return items.iloc[idx]
    return items[idx] if isinstance(items, (np.ndarray, Tensor)) or isinstance(idx, slice) else [items[i] for i in idx]


def _indices(idx: Any) -> Any:
    """A slice as it is; a mask or any collection as a list of ints."""
    if isinstance(idx, slice):
        return idx
    idx = list(idx)
    if idx and isinstance(idx[0], (bool, np.bool_)):
        return [i for i, chosen in enumerate(idx) if chosen]
    return [int(i) for i in idx]


class FilteredBase:
    """What `TfmdLists` and `Datasets` share: subsets by `splits`, and loaders of them.

    Attributes:
        _dl_type: class of the loaders.
        _dbunch_type: class that holds them.
    """

    _dl_type, _dbunch_type = TfmdDL, DataLoaders

    @property
    def n_subsets(self) -> int:
        """Number of splits."""
        return len(self.splits)

    @property
    def train(self) -> Any:
        """The first subset."""
        return self.subset(0)

    @property
    def valid(self) -> Any:
        """The second subset."""
        return self.subset(1)

    def overlapping_splits(self) -> L:
        """How often each item occurs that occurs in several splits."""
        counts = Counter(i for split in self.splits if not isinstance(split, slice) for i in split)
        return L(n for n in counts.values() if n > 1)

    def __iter__(self) -> Iterator:
        return (self[i] for i in range(len(self)))

    def dataloaders(self, bs: int = 64, shuffle_train: bool | None = None, shuffle: bool = True,
                    val_shuffle: bool = False, n: int | None = None, path: str | Path = '.',
                    dl_type: type[Any] | None = None, dl_kwargs: list[dict[Any, Any]] | None = None, device: Any = None,
                    drop_last: bool | None = None, val_bs: int | None = None, **kwargs: Any) -> DataLoaders:
        """A loader a subset, the first one shuffled.

        Args:
            bs: items a batch.
            shuffle_train: `shuffle` under the name older code uses.
            shuffle: shuffle the training items.
            val_shuffle: shuffle the others.
            n: use the first `n` training items.
            path: where a `Learner` puts files.
            dl_type: class of the loaders.
            dl_kwargs: arguments for each loader alone.
            device: where batches go; default: `default_device()`.
            drop_last: leave out a last training batch that is not full; default: as `shuffle`.
            val_bs: items a batch of the others; any `val_...` goes to them without its `val_`.
            **kwargs: arguments of all loaders: `after_item`, `after_batch`, `num_workers`, ...

        Example:
            >>> dsets = Datasets(files, [[PILImage.create, Resize(32), ToTensor], [parent_label, Categorize]], n_inp=1)
            >>> dls = dsets.dataloaders(bs=4, after_batch=IntToFloatTensor)
        """
        if shuffle_train is not None:
            warnings.warn('shuffle_train is now called shuffle', DeprecationWarning, stacklevel=2)
            shuffle = shuffle_train
        dl_kwargs = [{}] * self.n_subsets if dl_kwargs is None else dl_kwargs
        device = default_device() if device is None else device
        kwargs = for_loaders(self.dataloaders, kwargs, dl_type=dl_type or self._dl_type)
        for_valid = {name[4:]: value for name, value in kwargs.items() if name.startswith('val_')}
        kwargs = {name: value for name, value in kwargs.items() if not name.startswith('val_')}
        first = {'bs': bs, 'shuffle': shuffle, 'drop_last': shuffle if drop_last is None else drop_last, 'n': n,
                 'device': device}
        train = (dl_type or self._dl_type)(self.subset(0), **{**kwargs, **first, **dl_kwargs[0]})
        others = {'bs': val_bs or bs, 'shuffle': val_shuffle, 'n': None, 'drop_last': False}
        # what the training loader has set up is shared; only what is said anew is made anew
        kwargs = {name: value for name, value in kwargs.items() if name not in ('after_item', 'before_batch',
                                                                               'after_batch', 'verbose')}
        rest = [train.new(self.subset(i), **{**kwargs, **others, **for_valid, **dl_kwargs[i]})
                for i in range(1, self.n_subsets)]
        return self._dbunch_type(train, *rest, path=path, device=device)

    def weighted_dataloaders(self, wgts: Sequence[float], bs: int = 64, **kwargs: Any) -> DataLoaders:
        """Loaders whose training items are drawn with replacement, as often as their weights say.

        Args:
            wgts: a weight a training item, of any sum.
            bs: items a batch.
            **kwargs: see `dataloaders`.
        """
        return self._drawn_by(WeightedDL, {'wgts': wgts}, bs=bs, **kwargs)

    def partial_dataloaders(self, partial_n: int, bs: int = 64, **kwargs: Any) -> DataLoaders:
        """Loaders of which the training one draws `partial_n` items an epoch.

        Args:
            partial_n: how many.
            bs: items a batch.
            **kwargs: see `dataloaders`.
        """
        return self._drawn_by(PartialDL, {'partial_n': partial_n}, bs=bs, **kwargs)

    def _drawn_by(self, dl_type: type, for_train: dict, **kwargs: Any) -> DataLoaders:
        return self.dataloaders(dl_type=dl_type, dl_kwargs=[for_train, *[{}] * (self.n_subsets - 1)], **kwargs)


class TfmdLists(FilteredBase):
    """Items, each seen through a pipeline.

    Args:
        items: a list, array or DataFrame (whose rows are the items).
        tfms: transforms, functions, or a pipeline that is set up already.
        use_list: no matter; old scripts give it.
        do_setup: set up the transforms.
        split_idx: 0 for training items, 1 for validation items.
        train_setup: set up with the training items only.
        splits: indices of each subset; default: all for training.
        types: the type of an item before each transform; default: found out with the first item.
        verbose: print what is set up.
        dl_type: class of the loaders.

    Example:
        >>> tl = TfmdLists(files, [PILImage.create, Resize(16), ToTensor])
        >>> tl[0].shape
        torch.Size([3, 16, 16])
    """

    @tells_near_match
    def __init__(self, items: Any, tfms: Any = None, use_list: bool | None = None, do_setup: bool = True,
                 split_idx: int | None = None, train_setup: bool = True, splits: Any = None, types: Any = None,
                 verbose: bool = False, dl_type: type[Any] | None = None) -> None:
        self.items = _as_items(items)
        self.splits = L(_indices(s) for s in ([slice(None), []] if splits is None else splits))
        if dl_type is not None:
            self._dl_type = dl_type
        tfms = tfms.tfms if isinstance(tfms, TfmdLists) else tfms
        do_setup = do_setup and not isinstance(tfms, Pipeline)
        self.tfms = Pipeline(tfms, split_idx=split_idx)
        self.types, self.split_idx = types, split_idx
        if do_setup:
            if verbose:
                say(f'Setting up {self.tfms}')
            self.setup(train_setup=train_setup)

    def __getattr__(self, name: str) -> Any:
        return lookup(self, name, 'tfms')

    def setup(self, train_setup: bool = True) -> None:
        """Set up the transforms, by training items if `train_setup`; find out what type an item has before each."""
        self.tfms.setup(self, train_setup)
        if len(self):
            x = _item(self.items, self._first_training_index())
            self.types = []
            with fork_rng():
                for f in self.tfms.fs:
                    self.types.append(getattr(f, 'input_types', None) or type(x))
                    x = _tried(f, x)
                self.types.append(type(x))

    def _first_training_index(self) -> int:
        split = self.splits[0]
        return 0 if isinstance(split, slice) or not len(split) else split[0]

    def _new(self, items: Any, split_idx: int | None = None, **kwargs: Any) -> TfmdLists:
        split_idx = self.split_idx if split_idx is None else split_idx
        return type(self)(items, **{'tfms': self.tfms, 'do_setup': False, 'types': self.types, 'split_idx': split_idx,
                                    'splits': self.splits, 'dl_type': self._dl_type, **kwargs})

    def subset(self, i: int) -> TfmdLists:
        """The items of split `i`, with the same transforms."""
        return self._new(_subset(self.items, self.splits[i]), split_idx=i)

    def new_empty(self) -> TfmdLists:
        """The same transforms without items."""
        return self._new([])

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, idx: Any) -> Any:
        if type(idx) is int or _is_one(idx):  # nearly always the first, without a call
            return self.tfms(_item(self.items, idx))
        picked = _subset(self.items, idx)
        rows = (picked.iloc[i] for i in range(len(picked))) if hasattr(picked, 'iloc') else picked
        return L(self.tfms(o) for o in rows)

    def __call__(self, o: Any, **kwargs: Any) -> Any:
        return self.tfms(o, **kwargs)

    def decode(self, o: Any, **kwargs: Any) -> Any:
        """Undo the transforms of `o`; `**kwargs` are those of `Pipeline.decode`."""
        return self.tfms.decode(o, **kwargs)

    def show(self, o: Any, **kwargs: Any) -> Any:
        """Show the transformed item `o`; `**kwargs` are those of `Pipeline.show`."""
        return self.tfms.show(o, **kwargs)

    __repr__ = repr_of_items

    def elements(self) -> tuple[Any, Pipeline] | None:
        """The items, and what becomes of one; None where an item is more than that."""
        return (self.items, self.tfms) if type(self).__getitem__ is _getitem_of[TfmdLists] else None

    def unknown_transforms(self) -> list[str]:
        """Transforms that may draw from the global generators."""
        own = [] if type(self).__getitem__ is _getitem_of[TfmdLists] else [type(self).__name__]
        return own + [f.name for f in self.tfms.fs if not is_known(f) or isinstance(f, RandTransform)]

    def infer_idx(self, x: Any) -> int:
        """The number of the first transform that takes `x`: a path is opened, a picture no more.

        Raises:
            TypeError: none does.
        """
        types = self.types or []
        for i, wanted in enumerate(types):
            if isinstance(x, wanted):
                # an opened picture is of whatever mode: where ours opens pictures it is what makes them all alike
                opener = next((j for j, f in enumerate(self.tfms.fs[:i]) if _opens_pictures(f)), i)
                return opener if isinstance(x, Image.Image) else i
        paths = (str, PurePath)
        for i, f in enumerate(self.tfms.fs):
            wanted = types[i] if i < len(types) else ()
            named = any(issubclass(t, paths) for t in (wanted if isinstance(wanted, tuple) else (wanted,)))
            # `PILImage.create` and its like take whatever a picture can be made of
            if (named and isinstance(x, paths)) or f.name.endswith('.create'):
                return i
        shown = ', '.join(sorted({t.__name__ for w in types for t in (w if isinstance(w, tuple) else (w,))}))
        raise TypeError(f'an item of one of the types {shown} is expected and a {type(x).__name__} was given')

    def infer(self, x: Any) -> Any:
        """`x` through the transforms from the first one on that takes it."""
        for f in self.tfms.fs[self.infer_idx(x):]:
            x = f(x, split_idx=self.split_idx)
        return x

    def test_set(self, test_items: Any, rm_tfms: int | None = None, with_labels: bool = False) -> TfmdLists:
        """`test_items` without the first `rm_tfms` transforms, see `test_set`; `with_labels` changes nothing here."""
        made = self._new(test_items, split_idx=1)
        if rm_tfms is None:
            rm_tfms = self.infer_idx(_item(made.items, 0)) if len(made) else 0
        made.tfms.fs = made.tfms.fs[rm_tfms:]
        return made


def _opens_pictures(f: Any) -> bool:
    """Whether it is `PILImage.create` or its like, as we wrote it, which takes pictures too."""
    funcs = [entry.func for entry in getattr(f.encodes, 'entries', ())] if f.name.endswith('.create') else []
    create = getattr(getattr(f, 'kind', None), 'create', funcs[0] if funcs else None)
    return getattr(create, 'takes_pictures', False)


def _tried(f: Any, x: Any) -> Any:
    try:
        return f(x)
    except Exception as error:
        raise add_note(error, f'raised by the transform {f.name} on the first item, a {type(x).__name__}: '
                           f'{str(x)[:300]}') from None


class Datasets(FilteredBase):
    """A sample an item: a tuple with one element for each list of transforms.

    Args:
        items: a list, array or DataFrame.
        tfms: a list of transforms for each element of the sample.
        tls: instead of both: ready `TfmdLists`.
        n_inp: how many elements are inputs; default: all but the last.
        dl_type: class of the loaders.
        **kwargs: see `TfmdLists`, above all `splits`.

    Example:
        >>> dsets = Datasets(files, [[PILImage.create], [parent_label, Categorize]], splits=RandomSplitter()(files))
        >>> picture, label = dsets.train[0]
    """

    def __init__(self, items: Any = None, tfms: Any = None, tls: Any = None, n_inp: int | None = None,
                 dl_type: type[Any] | None = None, **kwargs: Any) -> None:
        if dl_type is not None:
            self._dl_type = dl_type
        if tls is None or not len(tls):
            tls = [TfmdLists(items, t, **kwargs) for t in ([None] if tfms is None else L(tfms))]
        self.tls = L(tls)
        self.n_inp = max(1, len(self.tls) - 1) if n_inp is None else n_inp

    def __getattr__(self, name: str) -> Any:
        return gather_attrs(self, name, 'tls')

    def __getitem__(self, it: Any) -> Any:
        parts = [tl[it] for tl in self.tls]
        return tuple(parts) if type(it) is int or _is_one(it) else list(zip(*parts))

    def __len__(self) -> int:
        return len(self.tls[0])

    __repr__ = repr_of_items

    @property
    def splits(self) -> L:
        """Indices of each subset."""
        return self.tls[0].splits

    @property
    def split_idx(self) -> int | None:
        """0 for training items, 1 for validation items."""
        return self.tls[0].tfms.split_idx

    @property
    def items(self) -> Any:
        """The items before any transform."""
        return self.tls[0].items

    @items.setter
    def items(self, items: Any) -> None:
        for tl in self.tls:
            tl.items = _as_items(items)

    def _with(self, tls: Iterable[TfmdLists], n_inp: int | None = None) -> Datasets:
        return type(self)(tls=L(tls), n_inp=self.n_inp if n_inp is None else n_inp, dl_type=self._dl_type)

    def subset(self, i: int) -> Datasets:
        """The items of split `i`."""
        return self._with(tl.subset(i) for tl in self.tls)

    def new_empty(self) -> Datasets:
        """The same transforms without items."""
        return self._with(tl.new_empty() for tl in self.tls)

    def decode(self, o: Any, full: bool = True) -> tuple[Any, ...]:
        """The sample `o` with all transforms undone; unless `full`, only until it can be shown."""
        return tuple(tl.decode(part, full=full) for part, tl in zip(o, self.tls))

    def show(self, o: Any, ctx: Any = None, **kwargs: Any) -> Any:
        """Show the sample `o`, all of its elements in one context `ctx`; `**kwargs` go to each of them."""
        for part, tl in zip(o, self.tls):
            ctx = tl.show(part, ctx=ctx, **kwargs)
        return ctx

    @contextmanager
    def set_split_idx(self, i: int | None) -> Iterator[Datasets]:
        """Transform as split `i` inside the block: 0 augments validation items too."""
        before = [tl.tfms.split_idx for tl in self.tls]
        try:
            for tl in self.tls:
                tl.tfms.split_idx = i
            yield self
        finally:
            for tl, split_idx in zip(self.tls, before):
                tl.tfms.split_idx = split_idx

    def elements(self) -> list[tuple[Any, Pipeline]] | None:
        """For each element of a sample what `TfmdLists.elements` says; None where a sample is more than them."""
        found = [tl.elements() for tl in self.tls] if type(self).__getitem__ is _getitem_of[Datasets] else [None]
        return None if None in found else found

    def unknown_transforms(self) -> list[str]:
        """Transforms that may draw from the global generators."""
        own = [] if type(self).__getitem__ is _getitem_of[Datasets] else [type(self).__name__]
        return own + [name for tl in self.tls for name in tl.unknown_transforms()]

    def test_set(self, test_items: Any, rm_tfms: Any = None, with_labels: bool = False) -> Datasets:
        """The function `test_set` for `test_items`, `rm_tfms` (also a list, one for each element) and `with_labels`."""
        tls = self.tls if with_labels else self.tls[:self.n_inp]
        removed = rm_tfms if isinstance(rm_tfms, (tuple, list, L)) else [rm_tfms] * len(tls)
        made = [tl.test_set(test_items, rm) for tl, rm in zip(tls, removed)]
        return self._with(made, self.n_inp if with_labels else max(len(made), 1))


_getitem_of = {cls: cls.__getitem__ for cls in (TfmdLists, Datasets)}
"""As they are written above: a script may have put another in the place of one."""


def decode_at(o: Any, idx: int) -> Any:
    """The decoded sample at `idx` of `o`, such as `Datasets`."""
    return o.decode(o[idx])


def show_at(o: Any, idx: int, **kwargs: Any) -> Any:
    """Show the sample at `idx` of `o`, such as `Datasets`; `**kwargs` are those of its `show`."""
    return o.show(o[idx], **kwargs)


def test_set(dsets: Datasets | TfmdLists, test_items: Any, rm_tfms: Any = None, with_labels: bool = False) -> Any:
    """New items through the transforms of `dsets`, as validation items.

    Args:
        dsets: whose transforms they are.
        test_items: items like those of the training.
        rm_tfms: how many of the first transforms to leave out; default: those that the item's type is beyond.
        with_labels: make targets too.
    """
    if not isinstance(dsets, (Datasets, TfmdLists)):
        raise TypeError(f'test_set needs the transforms of Datasets or TfmdLists and got {type(dsets).__name__}')
    return dsets.test_set(test_items, rm_tfms=rm_tfms, with_labels=with_labels)


test_set.__test__ = False  # pytest takes it for a test by its name
