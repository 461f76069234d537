"""Collecting predictions: loaders of every kind in the dataset's order, their batches joined in memory taken once."""
from __future__ import annotations

import inspect
from collections import UserDict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from fastcore.foundation import L
from torch import Tensor, nn
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import IterableDataset, RandomSampler, SequentialSampler

from minifast.callback.core import GatherPredsCallback
from minifast.nested import apply, detuplify, fields_of, find_bs, leaves_of, to_concat
from minifast.torch_core import get_model, length_of, plain, retain_type, to_cpu

__all__ = ['Batches', 'Gather', 'Rows', 'inputs_and_targets', 'is_ours', 'prepare', 'whole_loader']


# ---------------------------------------------------------------- collecting

class Rows:
    """Batches of rows put into one tensor on the CPU that is allocated once, where the number of rows is known.

    Args:
        n_rows: how many rows will come, None if that is not known.
        ranks: the place of each row, [n_rows], where they come in another order than they are wanted.
        dim: the axis along which batches are joined.
    """

    def __init__(self, n_rows: int | None, ranks: Tensor | None, dim: int) -> None:
        self.n_rows, self.ranks, self.dim = n_rows, ranks, dim
        self.parts, self.out, self.filled = [], None, 0

    def add(self, x: Any) -> None:
        """Take the rows of one batch."""
        if isinstance(x, Tensor) and x.ndim == 0:
            x = x[None]
        if not (isinstance(x, Tensor) and self.n_rows and self.dim == 0 and not self.parts):
            self.parts.append(to_cpu(x))  # sync: predictions go home
            return
        if self.out is None:
            self.out = torch.empty((self.n_rows, *x.shape[1:]), dtype=x.dtype)
            self.like = retain_type(torch.empty(0), x)
        end = self.filled + len(x)
        if end > self.n_rows or x.shape[1:] != self.out.shape[1:] or x.dtype != self.out.dtype:
            self.parts = [retain_type(self._ordered(self.out[:self.filled]), self.like), to_cpu(x)]  # sync: goes home
            self.out = None
        elif self.ranks is None:
            self.out[self.filled:end].copy_(plain(x))  # sync: predictions go home
        else:
            self.out[self.ranks[self.filled:end]] = plain(x).cpu()  # sync: predictions go home
        self.filled = end

    def _ordered(self, rows: Tensor) -> Tensor:
        """The rows so far in the order in which they came."""
        return rows if self.ranks is None else self.out[self.ranks[:self.filled]]

    def result(self) -> Any:
        """All rows."""
        if self.out is not None:
            whole = self.out if self.filled == self.n_rows else self._ordered(self.out[:self.filled]).clone()
            return retain_type(whole, self.like)
        joined = to_concat(self.parts, dim=self.dim)
        if self.ranks is not None and isinstance(joined, (Tensor, L)) and len(joined) == len(self.ranks):
            order = self.ranks.argsort()
            if isinstance(joined, Tensor):
                return retain_type(plain(joined)[order], joined)
            return joined[order.tolist()]  # sync: an index that is on the CPU anyway
        return joined


class _Stack:
    """`Rows` for every tensor of nested batches."""

    def __init__(self, make: Callable[[], Rows]) -> None:
        self.make, self.rows = make, None

    def add(self, x: Any) -> None:
        """Take one batch."""
        if self.rows is None:
            self.rows = apply(lambda _: self.make(), x)
        if isinstance(x, Tensor) and isinstance(self.rows, Rows):
            self.rows.add(x)
            return
        for rows, leaf in zip(leaves_of(self.rows), leaves_of(x)):
            rows.add(leaf)

    def result(self) -> Any:
        """All batches, nested as they came; a tuple of one is opened."""
        return detuplify(apply(lambda rows: rows.result(), self.rows)) if self.rows is not None else None


class Gather(GatherPredsCallback):
    """Collects a validation pass batch by batch, so that no more than the result is ever held.

    Activation and decoding run where the predictions are, batch by batch.
    """

    name = 'gather_preds'  # plugins ask for this name to know that predictions are being made

    def __init__(self, make: Callable[[int], Rows], act: Callable, decodes: Callable | None = None,
                 **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.make, self.act, self.decodes = partial(make, self.concat_dim), act, decodes

    def before_validate(self) -> None:
        self.last = None
        self.inputs, self.preds, self.targets, self.decoded, self.losses = (_Stack(self.make) for _ in range(5))

    def before_batch(self) -> None:
        self.last = self.learn.pred  # a cancelled batch leaves the one before it here

    def after_batch(self) -> None:
        learn = self.learn
        if learn.pred is None or learn.pred is self.last:
            return
        preds, targets = (learn.to_detach(x, cpu=False) for x in (learn.pred, learn.yb))
        if self.save_preds is not None:
            torch.save(to_cpu(preds), self.save_preds / str(learn.iter))  # sync: written to a file
        if self.save_targs is not None:
            torch.save(to_cpu(targets[0]), self.save_targs / str(learn.iter))  # sync: written to a file
        preds = self.act(preds)
        if self.with_input:
            detached = learn.to_detach(learn.xb, cpu=False)
            self.inputs.add(tuple(retain_type(new, x) for new, x in zip(detached, learn.xb)))
        if self.with_preds:
            self.preds.add(preds)
        if self.decodes is not None:
            self.decoded.add(self.decodes(preds))
        if self.with_targs and len(targets):
            self.targets.add(targets)
        if self.with_loss:
            self.losses.add(learn.to_detach(self._loss_of_items(), cpu=False))

    def _loss_of_items(self) -> Tensor:
        if not len(self.learn.yb):
            raise ValueError('with_loss=True needs targets, and the loader has none')
        loss, bs = plain(self.learn.loss), find_bs(self.learn.yb)
        return loss if loss.numel() == bs else loss.view(bs, -1).mean(1)

    def after_validate(self) -> None:
        for name in ('inputs', 'preds', 'targets', 'decoded', 'losses'):
            setattr(self, name, getattr(self, name).result())


# ---------------------------------------------------------------- batches and loaders of all kinds

_target_names = ('labels', 'label', 'label_ids', 'targets', 'target', 'y')
"""What data sets call the targets, where their items are dicts."""


def inputs_and_targets(b: Any, model: nn.Module, n_inp: int | None = None) -> tuple[tuple, tuple]:
    """The inputs and the targets of a batch, each a tuple.

    Of a dict, what is called `labels` (or `label`, `label_ids`, `targets`, `target`, `y`) is the target, and the rest
    are the inputs, in the order in which the model's `forward` names them.

    Args:
        b: a tuple, list or dict.
        model: its `forward` gives a dict's inputs their order.
        n_inp: how many elements of a tuple are inputs; default: all but the last.

    Raises:
        ValueError: a dict whose entries do not fit `forward`.
    """
    named = fields_of(b)
    if named is None:
        n_inp = max(len(b) - 1, 1) if n_inp is None else n_inp
        return tuple(b[:n_inp]), tuple(b[n_inp:])
    inputs = [name for name in named if name not in _target_names]
    takes = list(inspect.signature(get_model(model).forward).parameters)
    if len(inputs) != 1 or inputs[0] in takes[1:]:
        inputs = sorted(inputs, key=lambda name: takes.index(name) if name in takes else len(takes))
        if not inputs or inputs != takes[:len(inputs)]:
            raise ValueError(f'the loader gives dicts of {", ".join(named)}, and {type(model).__name__}.forward takes '
                             f'{", ".join(takes)}: name the targets `labels` and the inputs as the first arguments of '
                             'forward, or give the loader a collate_fn that makes tuples (input, ..., target)')
    return tuple(named[name] for name in inputs), tuple(named[name] for name in named if name in _target_names)


class Batches:
    """Batches of any iterable as tuples (or dicts, which the loop takes apart), with a length."""

    def __init__(self, batches: Any, n: int) -> None:
        self.batches, self.n, self.dataset = batches, n, getattr(batches, 'dataset', None)

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[tuple]:
        for b in self.batches:
            yield b if isinstance(b, (tuple, list, dict, UserDict)) else (b,)


class _Constant:
    """Returns the same value each time it is called; unlike a lambda it can travel to a worker process."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __call__(self) -> Any:
        return self.value


def is_ours(dl: Any) -> bool:
    """Whether a loader is one of minifast's, which tells its order and can be made anew with changes."""
    return hasattr(dl, 'get_idxs') and hasattr(dl, 'new')


def whole_loader(dl: Any) -> Any:
    """The loader with every item once, in the dataset's order, where it is one that can be told so."""
    if is_ours(dl):
        return dl.new(shuffle=False, drop_last=False)
    if not isinstance(dl, TorchLoader) or isinstance(dl.dataset, IterableDataset) or dl.batch_size is None:
        return dl
    shuffled = type(dl.sampler) is RandomSampler and not dl.sampler.replacement and len(dl.sampler) == len(dl.dataset)
    if not shuffled and not (dl.drop_last and type(dl.sampler) is SequentialSampler):
        return dl  # a sampler of the user's own chooses the items on purpose
    return TorchLoader(dl.dataset, batch_size=dl.batch_size, num_workers=dl.num_workers, collate_fn=dl.collate_fn,
                       pin_memory=dl.pin_memory, timeout=dl.timeout, worker_init_fn=dl.worker_init_fn,
                       multiprocessing_context=dl.multiprocessing_context, prefetch_factor=dl.prefetch_factor)


def prepare(dl: Any, reorder: bool) -> tuple[Any, int | None, Tensor | None]:
    """A loader to predict on, how many rows it gives (None: not known), and each row's place (None: as they come).

    Args:
        dl: a loader of ours or of torch, or any iterable of batches.
        reorder: bring the rows of a shuffled loader into the dataset's order.
    """
    if is_ours(dl):
        dl = dl.new(drop_last=False) if dl.drop_last else dl
        if dl.n is None:  # a stream
            return Batches(dl, 0), None, None
        if dl.bs is None or getattr(dl, 'batch_sampler', None) is not None or not reorder:
            return dl, None, None
        idxs = list(dl.get_idxs())
        n_rows = len(idxs)
        if idxs == sorted(idxs):
            return dl, n_rows, None
        ranks = torch.tensor(idxs).argsort(stable=True).argsort()
        return dl.new(get_idxs=_Constant(idxs)), n_rows, ranks
    if isinstance(dl, TorchLoader):
        dl = whole_loader(dl) if reorder else dl
        sized = dl.batch_size is not None and not isinstance(dl.dataset, IterableDataset)
        n_rows = len(dl.sampler) if sized else None
        return Batches(dl, length_of(dl) or 0), n_rows, None
    batches = dl if hasattr(dl, '__len__') else list(dl)  # a generator: its batches are kept
    n_rows = sum(find_bs(b) for b in batches) if isinstance(batches, (list, tuple, L)) else None
    return Batches(batches, len(batches)), n_rows, None
