"""`TfmdDL`, a loader with pipelines that can be undone and shown; `DataLoaders`, training and validation together."""
from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from fastcore.basics import Inf
from fastcore.foundation import L
from torch import Tensor

from minifast.arguments import known_kwargs, tells_near_match
from minifast.data.categorize import Category
from minifast.data.load import DataLoader, hook_names
from minifast.data.pipeline import Pipeline
from minifast.data.showing import show_batch, show_results
from minifast.lookup import lookup
from minifast.markers import TensorBase, TensorCategory, TensorImage, explode_types
from minifast.seeds import looking
from minifast.terminal import say
from minifast.torch_core import batch_to_samples, default_device, detuplify, to_cpu, to_device

__all__ = ['DataLoaders', 'TfmdDL']

_pipelines = ('after_item', 'before_batch', 'after_batch')


class TfmdDL(DataLoader):
    """A `DataLoader` whose `after_item`, `before_batch` and `after_batch` are pipelines, set up with the loader, undone
    by `decode`, and shown.

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

    def new(self, dataset: Any = None, cls: type | None = None, **kwargs: Any) -> TfmdDL:
        """A loader like this one, of `dataset` if given, with some arguments changed; nothing is set up again."""
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
            self._kinds = _kinds_of(self._small_batch())
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
        """A batch with its batch transforms undone, on the CPU."""
        return to_cpu(self.after_batch.decode(_marked(b, self._batch_kinds())))

    def decode_batch(self, b: Any, max_n: int = 9, full: bool = True) -> L:
        """Up to `max_n` samples of a batch with all transforms undone; unless `full`, only until they can be shown."""
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
        return show_batch(*self._pre_show_batch(b, max_n=max_n), ctxs=ctxs, max_n=max_n, **kwargs)

    def _repeated(self) -> TfmdDL:
        return self.new(get_idxs=lambda: Inf.zeros, num_workers=0, sampler=None, batch_sampler=None, shuffle=False)

    def show_results(self, b: Any, out: Any, max_n: int = 9, ctxs: Any = None, show: bool = True,
                     **kwargs: Any) -> Any:
        """Show samples of a batch with their targets and the decoded predictions `out`."""
        x, y, samples = self._pre_show_batch(b, max_n=max_n)
        both = type(b)([*b[:self.n_inp], *(out if isinstance(out, (tuple, list, L)) else (out,))])
        x_out, _, outs = self._pre_show_batch(both, max_n=max_n)
        if samples is None:
            results = (x, x_out, None, None)
        else:
            results = (x, y, samples, L(tuple(o[self.n_inp:]) for o in outs))
        return show_results(*results, ctxs=ctxs, max_n=max_n, **kwargs) if show else results


def _kinds_of(b: Any) -> Any:
    if isinstance(b, (tuple, list, L)):
        return tuple(_kinds_of(o) for o in b)
    return type(b) if isinstance(b, TensorBase) else None


def _marked(b: Any, kinds: Any) -> Any:
    """A batch whose plain tensors carry the marker types that the loader's batches have."""
    if isinstance(b, (tuple, list, L)):
        kinds = kinds if isinstance(kinds, tuple) else ()
        return tuple(_marked(o, kind) for o, kind in zip(b, [*kinds, *[None] * len(b)]))
    return kinds(b) if isinstance(kinds, type) and isinstance(b, Tensor) and not isinstance(b, TensorBase) else b


_elsewhere = {'size': 'give item_tfms=Resize(...), or a size to aug_transforms',
              **dict.fromkeys(('tfms', 'ds_tfms', 'transform'), 'give item_tfms= and batch_tfms=')}


def for_loaders(door: Callable, kwargs: dict[str, Any], *inner: Callable, dl_type: Any = None) -> dict[str, Any]:
    """The keywords that a door, what it calls and our loaders know; the others are told and left out, see
    `known_kwargs`.

    Args:
        inner: functions that the keywords are handed on to.
        dl_type: class of the loaders: one of the user's own may take more, so nothing is left out then.
    """
    dl_type = kwargs.get('dl_type') or dl_type or TfmdDL
    if not dl_type.__module__.startswith('minifast.'):
        return kwargs
    makers = (door, *inner, dl_type.__init__, TfmdDL.__init__, DataLoader.__init__)
    names = {name for f in makers for name in inspect.signature(f).parameters}
    names = names - {'self', 'kwargs', 'source', 'dblock', 'dataset'} | {*hook_names, 'collate_fn', 'worker_init_fn'}
    for_valid = {name for name in kwargs if name.startswith('val_') and name[4:] in names}
    return known_kwargs(door.__qualname__, kwargs, sorted(names | for_valid), _elsewhere)


class DataLoaders:
    """A training loader, a validation loader, and whatever more there are.

    Loaders of torch are as good as ours. An attribute it does not have is looked for on the training loader, and from
    there on its data set: `dls.vocab`, `dls.c`, `dls.show_batch()`, `dls.one_batch()`.

    Args:
        *loaders: the loaders.
        path: where a `Learner` puts files.
        device: where batches go; default: as the loaders say.

    Example:
        >>> dls = DataLoaders(train_loader, valid_loader)
        >>> xb, yb = dls.one_batch()
    """

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

    @property
    def train(self) -> Any:
        """The training loader, None where there is no loader at all."""
        return self.loaders[0] if self.loaders else None

    @train.setter
    def train(self, dl: Any) -> None:
        self.loaders[0] = dl

    @property
    def valid(self) -> Any:
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
        """One training batch on the device; leaves no trace in the randomness."""
        if hasattr(self._split(0), 'one_batch'):
            return self.train.one_batch()
        with looking():
            b = next(iter(self.train))
        return b if self.device is None else to_device(b, self.device)

    def show_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Show samples of a training batch, see `TfmdDL.show_batch`."""
        if hasattr(self._split(0), 'show_batch'):
            return self.train.show_batch(*args, **kwargs)
        b = args[0] if args else kwargs.pop('b', None)
        b = self.one_batch() if b is None else b
        dl = TfmdDL(_Shown(self.train.dataset, len(b)), num_workers=0)
        dl._kinds = _guessed_kinds(b)
        return dl.show_batch(_marked(b, dl._kinds), *args[1:], **kwargs)

    def show_plan(self) -> None:
        """Print for each loader what happens to an item and a batch, and where."""
        for i, dl in enumerate(self.loaders):
            print(f'{["training", "validation"][i] if i < 2 else f"loader {i}"}:')
            dl.show_plan() if hasattr(dl, 'show_plan') else say(f'{type(dl).__name__}, left as it is')

    # ------------------------------------------------------------ changing

    @tells_near_match
    def add_tfms(self, tfms: Any, event: str, loaders: Any = None) -> None:
        """Add transforms to a pipeline of the loaders.

        Args:
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
    def from_dsets(cls, *ds: Any, path: str | Path = '.', bs: int = 64, device: Any = None, dl_type: type = TfmdDL,
                   **kwargs: Any) -> DataLoaders:
        """Loaders of data sets, the first for training (shuffled, without a last batch that is not full).

        Args:
            *ds: anything with `[i]` and `len`.
            dl_type: class of the loaders.
            **kwargs: arguments of the loaders; a tuple gives each loader its own, but for transforms. A `val_...`, such
                as `val_bs`, goes to all but the first without its `val_`.
        """
        shuffled = (True, *[False] * (len(ds) - 1))
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
        """Loaders as `DataBlock.dataloaders` makes them from `source`."""
        dls = dblock.dataloaders(source, path=path, bs=bs, val_bs=val_bs, shuffle=shuffle, device=device, **kwargs)
        return dls if isinstance(dls, cls) else cls(*dls.loaders, path=dls.path, device=dls.device)


class _Shown:
    """What a foreign data set tells about showing its samples: the names of its classes, where it has them."""

    def __init__(self, dataset: Any, n_parts: int) -> None:
        self.classes, self.n_inp = getattr(dataset, 'classes', None), max(n_parts - 1, 1)

    def decode(self, o: Any, full: bool = True) -> tuple:
        """A sample with its class as text."""
        names = self.classes
        return tuple(Category(names[int(part)] if names is not None else int(part))
                     if isinstance(part, TensorCategory) else part for part in o)


def _guessed_kinds(b: Sequence) -> Any:
    """What the tensors of a foreign batch seem to be: [B,1 or 3,H,W] pictures, int64 [B] classes."""
    if isinstance(b, (tuple, list)):
        return tuple(_guessed_kinds(o) for o in b)
    if not isinstance(b, Tensor):
        return None
    if b.ndim == 4 and b.shape[1] in (1, 3):
        return TensorImage
    return TensorCategory if b.dtype == torch.long and b.ndim == 1 else None
