"""Predictions: on a loader, on one item, on augmented items, as pictures; and the summary of a model.

Works with our loaders and with anything that yields batches: plain torch loaders, a list of (input, target) pairs.
"""
from __future__ import annotations

import inspect
from collections import UserDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from fastcore.basics import PrettyString, noop
from fastcore.foundation import L
from torch import Tensor, nn
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import IterableDataset, RandomSampler, SequentialSampler, default_collate

from minifast.answers import activation_of, check_answers, class_names, decoder_of, with_name
from minifast.arguments import tells_near_match
from minifast.callback.core import Callback, GatherPredsCallback
from minifast.callback.hook import module_summary
from minifast.distributed import on_own, pass_of_all
from minifast.seeds import fork_rng
from minifast.terminal import say
from minifast.torch_core import (apply, as_tuple, detuplify, fields_of, find_bs, get_model, item_find, length_of,
                                 plain, tree_map)

__all__ = ['get_preds', 'predict', 'show_results', 'summary', 'tta']


class _Tta(Callback):
    """Nothing but the name, which tells trackers that predictions are being made."""

    name = 'gather_preds'


# ---------------------------------------------------------------- predictions

def get_preds(learn: Any, ds_idx: int = 1, dl: Any = None, with_input: bool = False, with_decoded: bool = False,
              with_loss: bool = False, act: Callable[..., Any] | None = None, inner: bool = False,
              reorder: bool = True, cbs: Any = None, **kwargs: Any) -> tuple[Any, ...]:
    """Predictions and targets on the CPU, in the order of the dataset.

    Of several processes each predicts its share, and each gets the rows of all, so all must ask.

    Args:
        learn: the learner.
        ds_idx: which split to predict, 0 for training, where `dl` is None.
        dl: what to predict instead: a loader of ours or of torch, or any iterable of batches such as `[(x, y)]`.
        with_input: return the inputs too.
        with_decoded: return the answers (class indices, ...) too.
        with_loss: return one loss an item too.
        act: applied to all predictions at once; default: the loss function's activation, batch by batch.
        inner: called while a fit or a validation runs: fire no events around the pass.
        reorder: bring the rows of a shuffled loader into the dataset's order.
        cbs: callbacks for this pass.
        **kwargs: `save_preds`, `save_targs`, `with_preds`, `with_targs`, `concat_dim` of `GatherPredsCallback`.

    Returns:
        `(inputs, preds, targets, decoded, losses)`: those that were asked for, in this order; targets are None where
        the loader has none. No more memory is used than the result takes, plus one batch.

    Example:
        >>> probabilities, targets = learn.get_preds()  # of the validation set
        >>> probabilities, _ = learn.get_preds(dl=learn.dls.test_dl(files))
    """
    dl, n_rows, ranks = _prepare(whole_loader(learn.dls[ds_idx]) if dl is None else dl, reorder)
    decodes, with_preds = decoder_of(learn) if with_decoded else None, kwargs.pop('with_preds', True)
    gather = GatherPredsCallback(with_input, with_loss, n_rows=n_rows, ranks=ranks,
                                 with_preds=with_preds or (with_decoded and act is not None),
                                 act=activation_of(learn.own_loss) if act is None else noop,
                                 decodes=decodes if act is None else None, **kwargs)
    _run(learn, dl, gather, inner, cbs)
    preds, decoded = gather.preds, gather.decoded
    if act is not None and preds is not None:
        preds = act(preds)
        decoded = decodes(preds) if with_decoded else None
    asked = [(with_input, gather.inputs), (True, preds if with_preds else None), (True, gather.targets),
             (with_decoded, decoded), (with_loss, gather.losses)]
    return tuple(value for wanted, value in asked if wanted)


def _run(learn: Any, dl: Any, gather: GatherPredsCallback, inner: bool, cbs: Any = None) -> None:
    """One validation pass over `dl` that fills `gather`."""
    with pass_of_all(dl), learn.validation_context(cbs=L(cbs) + [gather], inner=inner):
        if gather.with_loss:
            with learn.loss_not_reduced():
                learn._do_epoch_validate(dl=dl)
        else:
            learn._do_epoch_validate(dl=dl)


@tells_near_match
def predict(learn: Any, item: Any, rm_type_tfms: Any = None, with_input: bool = False) -> tuple[Any, ...]:
    """The prediction for one item.

    Args:
        learn: the learner.
        item: what the data are made of: a path, a picture, an array, bytes, a tensor.
        rm_type_tfms: how many type transforms of the data to leave out; default: those before the item's type.
        with_input: return the item as the model sees it, decoded, first.

    Returns:
        `(decoded target, its tensor, predictions)`, for a category `('cat', tensor(0), tensor([0.9, 0.1]))`.

    Example:
        >>> label, index, probabilities = learn.predict('cat.jpg')
        >>> confidence = float(probabilities[index])
    """
    dls = learn.dls
    ours = hasattr(dls[1 if len(dls) > 1 else 0], 'decode_batch')
    dl = dls.test_dl([item], rm_type_tfms=rm_type_tfms, num_workers=0) if ours else [_plain_batch(learn, item)]
    with on_own():  # whoever asks need not wait for other processes
        inputs, preds, _, decoded = get_preds(learn, dl=dl, with_input=True, with_decoded=True)
    first, probs = _row(decoded, 0), _row(preds, 0)
    if ours:
        check_answers(learn, decoded)
        n_inp = getattr(dls, 'n_inp', -1)
        shown = dls.decode_batch(as_tuple(inputs) + as_tuple(decoded))[0]
        shown_input, shown_target = detuplify(shown[:n_inp]), detuplify(shown[n_inp:])
    else:
        shown_input, shown_target = detuplify(_row(inputs, 0)), apply(partial(with_name, _names(learn)), first)
    result = shown_target, first, probs
    return (shown_input, *result) if with_input else result


def _row(x: Any, i: int) -> Any:
    """What belongs to item `i`, nested as it is."""
    return apply(lambda rows: rows[i] if isinstance(rows, (Tensor, L)) else rows, x)


def _plain_batch(learn: Any, item: Any) -> tuple:
    """A batch of one item for learners on plain torch datasets; a picture goes through the dataset's `transform`.

    Raises:
        TypeError: the item is no tensor and the dataset has no `transform` that makes one.
    """
    loader = learn.dls[1 if len(learn.dls) > 1 else 0]
    dataset = loader.dataset
    while not hasattr(dataset, 'transform') and hasattr(dataset, 'dataset'):
        dataset = dataset.dataset  # a Subset
    parts = item if isinstance(item, tuple) else (item,)
    if not all(isinstance(part, Tensor) for part in parts):
        transform = getattr(dataset, 'transform', None)
        if transform is None:
            raise TypeError(f'predict takes what the dataset yields as input, a tensor; got a {type(item).__name__}, '
                            f'and {type(dataset).__name__} has no `transform` that would make a tensor of it')
        from minifast.vision.core import PILImage, PILImageBW
        with fork_rng():
            seen = dataset[0]
        seen = item_find(seen)
        grey = isinstance(seen, Tensor) and seen.ndim == 3 and seen.shape[0] == 1
        parts = (transform((PILImageBW if grey else PILImage).create(item)),)
    collate = getattr(loader, 'collate_fn', None) or default_collate
    b = collate([parts])
    return tuple(b) if isinstance(b, (tuple, list)) else (b,)


def _names(learn: Any) -> Sequence | None:
    return class_names(learn, learn.dls[len(learn.dls) - 1])


@tells_near_match
def tta(learn: Any, ds_idx: int = 1, dl: Any = None, n: int = 4, item_tfms: Any = None, batch_tfms: Any = None,
        beta: float | None = 0.25, use_max: bool = False) -> tuple[Any, ...]:
    """Predictions averaged with those on `n` augmented versions (test time augmentation).

    Args:
        learn: the learner.
        ds_idx: which split, where `dl` is None.
        dl: a loader of ours to predict instead.
        n: how many times to augment, with the training set's transforms.
        item_tfms: item transforms instead of those of the data.
        batch_tfms: batch transforms instead of those of the data.
        beta: weight of the plain predictions; None returns both, `(augmented, plain)`.
        use_max: take the largest instead of the mean.

    Returns:
        `(preds, targets)`. Masks, pictures, points and boxes are first brought back to where they lie without
        augmentation; what an augmented version did not show counts for nothing.

    Raises:
        ValueError: the predictions lie in the picture, and a transform cannot be undone; the message names it.

    Example:
        >>> probabilities, targets = learn.tta(n=4)
    """
    dl = whole_loader(learn.dls[ds_idx]) if dl is None else dl
    if not hasattr(getattr(dl, 'dataset', None), 'set_split_idx'):
        raise TypeError(f'tta augments with the transforms of the data, and {type(dl).__name__} has none: '
                        'it needs a loader made by a DataBlock, ImageDataLoaders or Datasets')
    given = {'after_item': item_tfms, 'after_batch': batch_tfms}
    if any(tfms is not None for tfms in given.values()):
        dl = dl.new(**{stage: tfms for stage, tfms in given.items() if tfms is not None})
    dl, n_rows, ranks = _prepare(dl, reorder=True)
    from minifast.undoing import Undo, place_of_targets
    if n and (place := place_of_targets(learn, dl)) is not None:
        return _tta_in_place(learn, Undo(dl, place), n_rows, ranks, n, beta, use_max)

    augmented = None
    with pass_of_all(dl), learn.validation_context(cbs=_Tta()):
        for i in range(n):
            learn.epoch = i
            dl.begin(torch.initial_seed(), i)  # other augmentations each time, the same ones in every run
            preds = _pass_of_split(learn, dl, n_rows, ranks, 0).preds
            if augmented is None:
                augmented = preds
            else:
                augmented = tree_map(torch.maximum if use_max else torch.Tensor.add_, augmented, preds)
        plain_pass = _pass_of_split(learn, dl, n_rows, ranks, 1)
    augmented = augmented if use_max else apply(lambda x: x.div_(n), augmented)
    return _blended(augmented, plain_pass.preds, beta, use_max), plain_pass.targets


def _pass_of_split(learn: Any, dl: Any, n_rows: int | None, ranks: Tensor | None, split_idx: int,
                   then: Callable = noop) -> GatherPredsCallback:
    """One pass of `tta` with the transforms of a split; `then` is applied to each batch of predictions."""
    activation = activation_of(learn.own_loss)
    gather = GatherPredsCallback(n_rows=n_rows, ranks=ranks, act=lambda preds: then(activation(preds)))
    with dl.dataset.set_split_idx(split_idx):
        _run(learn, dl, gather, inner=True)
    return gather


def _blended(augmented: Any, preds: Any, beta: float | None, use_max: bool) -> Any:
    """What `tta` makes of the augmented predictions and the plain ones."""
    if use_max:
        return tree_map(torch.maximum, augmented, preds)
    return (augmented, preds) if beta is None else tree_map(partial(torch.lerp, weight=beta), augmented, preds)


def _tta_in_place(learn: Any, undo: Any, n_rows: int | None, ranks: Tensor | None, n: int, beta: float | None,
                  use_max: bool) -> tuple:
    """`tta` of predictions that lie somewhere in the picture."""
    def augmented_pass(i: int) -> Tensor:
        learn.epoch = i
        undo.dl.begin(torch.initial_seed(), i)
        return _pass_of_split(learn, undo.dl, n_rows, ranks, 0, undo.back).preds

    with pass_of_all(undo.dl), learn.validation_context(cbs=[_Tta(), undo]):
        plain_pass = _pass_of_split(learn, undo.dl, n_rows, ranks, 1, undo.keep)
        augmented = undo.mean(augmented_pass, n, plain_pass.preds, use_max)
    return _blended(augmented, plain_pass.preds, beta, use_max), plain_pass.targets


def show_results(learn: Any, ds_idx: int = 1, dl: Any = None, max_n: int = 9, shuffle: bool = True,
                 **kwargs: Any) -> Any:
    """Draw some items with target and prediction.

    Args:
        learn: the learner.
        ds_idx: which split, where `dl` is None.
        dl: the loader to take a batch from.
        max_n: at most so many items.
        shuffle: choose them at random, others each time; False: the first ones. A plain loader, and `dl`, have an order
            of their own.
        kwargs: for the drawing, such as `figsize`, `nrows`, `ncols`.
    """
    with fork_rng():
        if dl is None:
            dl = learn.dls[ds_idx]
            dl = dl.another_look(shuffle=shuffle) if _is_ours(dl) else dl
        b = dl.one_batch() if hasattr(dl, 'one_batch') else next(iter(_Batches(dl, 0)))
    with unmeasured(learn):
        decoded = get_preds(learn, dl=[b], with_decoded=True)[2]
    if hasattr(dl, 'show_results'):
        check_answers(learn, decoded)
        return dl.show_results(b, decoded, max_n=max_n, **kwargs)
    inputs, targets = inputs_and_targets(b, learn.model, getattr(learn.dls, 'n_inp', None))
    return _show_plain(learn, inputs + targets, decoded, max_n, **kwargs)


@contextmanager
def unmeasured(learn: Any) -> Iterator[None]:
    """No metrics inside the block: of a few items they mean nothing, and some cannot be worked out."""
    metrics = learn.metrics
    learn.metrics = []
    try:
        yield
    finally:
        learn.metrics = metrics


def _show_plain(learn: Any, b: tuple, decoded: Any, max_n: int, **kwargs: Any) -> Any:
    """Draw a batch of a plain loader: pictures titled with target and prediction, anything else as printed lines."""
    x, targets = plain(b[0]), b[-1] if len(b) > 1 else None
    n = min(max_n, len(x))
    name = partial(with_name, _names(learn))
    targets = [name(targets[i]) for i in range(n)] if targets is not None else [None] * n
    answers = [apply(name, _row(decoded, i)) for i in range(n)]
    if not (x.ndim == 4 and x.shape[1] in (1, 3)):
        for i in range(n):
            say(f'{i}: target {targets[i]}, prediction {answers[i]}')
        return None
    from minifast.show import get_grid, show_image, show_title
    axs = get_grid(n, title='Target/Prediction', **kwargs)
    for ax, picture, target, answer in zip(axs, x, targets, answers):
        lo, hi = picture.aminmax()
        # a plain dataset does not say how it normalized: the range of the picture is shown
        show_image((picture - lo) / (hi - lo).clamp(min=1e-6), ctx=ax, cmap='gray')
        show_title(target, ctx=ax)
        show_title(answer, ctx=ax, color='green' if str(target) == str(answer) else 'red')
    return axs


def summary(learn: Any) -> str:
    """A table of the layers of `learn` with output shapes and parameters, then optimizer, loss and callbacks.

    A `str` that is its own repr: at the end of a notebook's cell it is read as it is printed.

    Example:
        >>> print(learn.summary())
    """
    with fork_rng():
        dl = learn.dls[0]
        b = dl.one_batch() if hasattr(dl, 'one_batch') else next(iter(_Batches(dl, 0)))
    inputs, _ = inputs_and_targets(b, learn.model, getattr(learn.dls, 'n_inp', None))
    text = module_summary(learn, *inputs)
    text += f'Optimizer used: {learn.opt_func}\nLoss function: {learn.loss_func}\n\n'
    if learn.opt is not None:
        frozen = learn.opt.frozen_idx
        text += 'Model unfrozen\n\n' if frozen == 0 else f'Model frozen up to parameter group #{frozen}\n\n'
    return PrettyString(text + 'Callbacks:\n' + '\n'.join(f'  - {cb}' for cb in learn.cbs.sorted('order')))


# ---------------------------------------------------------------- batches and loaders of all kinds

_target_names = ('labels', 'label', 'label_ids', 'targets', 'target', 'y')
"""What data sets call the targets, where their items are dicts."""


def inputs_and_targets(b: Any, model: nn.Module, n_inp: int | None = None) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
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


class _Batches:
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


def _is_ours(dl: Any) -> bool:
    """Whether a loader is one of minifast's, which tells its order and can be made anew with changes."""
    return hasattr(dl, 'get_idxs') and hasattr(dl, 'new')


def whole_loader(dl: Any) -> Any:
    """The loader with every item once, in the dataset's order, where it is one that can be told so."""
    if _is_ours(dl):
        return dl.new(shuffle=False, drop_last=False)
    if not isinstance(dl, TorchLoader) or isinstance(dl.dataset, IterableDataset) or dl.batch_size is None:
        return dl
    shuffled = type(dl.sampler) is RandomSampler and not dl.sampler.replacement and len(dl.sampler) == len(dl.dataset)
    if not shuffled and not (dl.drop_last and type(dl.sampler) is SequentialSampler):
        return dl  # a sampler of the user's own chooses the items on purpose
    return TorchLoader(dl.dataset, batch_size=dl.batch_size, num_workers=dl.num_workers, collate_fn=dl.collate_fn,
                       pin_memory=dl.pin_memory, timeout=dl.timeout, worker_init_fn=dl.worker_init_fn,
                       multiprocessing_context=dl.multiprocessing_context, prefetch_factor=dl.prefetch_factor)


def _prepare(dl: Any, reorder: bool) -> tuple[Any, int | None, Tensor | None]:
    """A loader to predict on, how many rows it gives (None: not known), and each row's place (None: as they come).

    Args:
        dl: a loader of ours or of torch, or any iterable of batches.
        reorder: bring the rows of a shuffled loader into the dataset's order.
    """
    if _is_ours(dl):
        dl = dl.new(drop_last=False) if dl.drop_last else dl
        if dl.n is None:  # a stream
            return _Batches(dl, 0), None, None
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
        return _Batches(dl, length_of(dl) or 0), n_rows, None
    batches = dl if hasattr(dl, '__len__') else list(dl)  # a generator: its batches are kept
    n_rows = sum(find_bs(b) for b in batches) if isinstance(batches, (list, tuple, L)) else None
    return _Batches(batches, len(batches)), n_rows, None
