"""What turns a model's output into answers: what the loss function says, else what its kind and the data tell."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from fastcore.basics import noop
from torch import Tensor

from minifast.data.categorize import Categorize, MultiCategorize
from minifast.losses import level_of, takes_classes
from minifast.torch_core import as_tuple, fields_of, is_listy
from minifast.vision.core import AddMaskCodes

__all__ = ['activation_of', 'check_answers', 'class_names', 'decoder_of', 'with_name']


def activation_of(loss_func: Any) -> Callable[..., Any]:
    """What turns the model's output into predictions: the `activation` of `loss_func`, else nothing."""
    return getattr(loss_func, 'activation', None) or noop


def decoder_of(learn: Any) -> Callable[..., Any]:
    """What makes answers of predictions of `learn`: what the loss function says, else its kind or that of the targets.

    Losses on class indices mean the class of the largest output, and so do predictions that have as many columns as
    a target has classes. Of several outputs each belongs to the target in its place.
    """
    loss_func = learn.own_loss
    known = getattr(loss_func, 'decodes', None)
    if known is not None:
        return known
    func = loss_func.func if isinstance(loss_func, partial) else loss_func
    threshold, on_classes = level_of(func), takes_classes(func) or getattr(func, 'y_int', False)

    def decode(preds: Any) -> Any:
        if isinstance(preds, Tensor) and on_classes:
            return preds.argmax(dim=1)
        if isinstance(preds, Tensor) and threshold is not None:
            return preds > threshold
        return _by_targets(preds, _numbers_of_classes(learn))
    return decode


def class_names(learn: Any, dl: Any) -> Sequence[Any] | None:
    """The names of the classes as the data keep them, None where they do not; the last target's of several.

    Args:
        learn: the learner.
        dl: the loader that is asked before the other data of the learner.
    """
    vocab = getattr(dl, 'vocab', None)
    vocab = getattr(learn.dls, 'vocab', None) if vocab is None else vocab
    dataset = getattr(dl, 'dataset', None)
    while vocab is None and dataset is not None:
        vocab, dataset = getattr(dataset, 'classes', None), getattr(dataset, 'dataset', None)
    last = vocab[-1] if is_listy(vocab) and len(vocab) else None
    return last if hasattr(last, '__len__') and not isinstance(last, (str, bytes)) else vocab


def with_name(names: Sequence[Any] | None, answer: Any) -> Any:
    """The name of a class where `answer` is an index (int64 []) and there are `names`, else the answer itself."""
    is_index = isinstance(answer, Tensor) and answer.ndim == 0 and not answer.is_floating_point()
    return names[int(answer)] if names is not None and is_index else answer  # sync: one answer for a person


def _numbers_of_classes(learn: Any) -> list[int | None]:
    """For each target of the data: how many classes it is one of, None where it is something else or not known."""
    dataset = getattr(learn.dls[len(learn.dls) - 1], 'dataset', None)
    tls = list(getattr(dataset, 'tls', None) or ())[getattr(dataset, 'n_inp', 1):]
    return [next((len(tfm.vocab) for tfm in getattr(tl.tfms, 'fs', ()) if _is_of_classes(tfm)), None) for tl in tls]


def _is_of_classes(tfm: Any) -> bool:
    one_of = isinstance(tfm, Categorize) and not isinstance(tfm, MultiCategorize)
    return (one_of or isinstance(tfm, AddMaskCodes)) and getattr(tfm, 'vocab', None) is not None


def _by_targets(preds: Any, classes: list[int | None]) -> Any:
    """Predictions with those on classes decoded, as far as outputs and targets belong together without a doubt."""
    def fits(out: Any, n: int | None) -> bool:
        return isinstance(out, Tensor) and out.ndim > 1 and out.is_floating_point() and out.shape[1] == n
    named = fields_of(preds)
    several = list(named.values()) if named is not None else list(preds) if is_listy(preds) else [preds]
    if named is None and is_listy(preds) and len(several) == len(classes) > 1:
        return tuple(out.argmax(dim=1) if fits(out, n) else out for out, n in zip(several, classes))
    if len(classes) != 1:
        return preds
    found = [out for out in several if isinstance(out, Tensor)]
    found = found if len(found) == 1 else [out for out in found if fits(out, classes[0])]
    if len(found) != 1:
        return preds
    return found[0].argmax(dim=1) if fits(found[0], classes[0]) else found[0]


def check_answers(learn: Any, answers: Any) -> None:
    """Refuse to show what is no answer for the targets of the data.

    Args:
        learn: the learner.
        answers: decoded predictions.

    Raises:
        ValueError: says what the loss function must be given.
    """
    classes = _numbers_of_classes(learn)
    several = as_tuple(answers)
    as_many = not classes or len(several) == len(classes)
    if fields_of(answers) is None and as_many and not any(map(_is_undecided, several, classes)):
        return
    name = getattr(learn.own_loss, '__name__', None) or type(learn.own_loss).__name__
    targets = ' and '.join('one without classes' if n is None else f'one of {n} classes' for n in classes)
    raise ValueError(f'the loss function ({name}) has no `decodes`, and what the model gives, {_kind_of(answers)}, is '
                     f'not one answer for each target{f" ({targets})" if targets else ""}: write one. Give a loss '
                     'function with `decodes(self, preds)` that returns a tensor for each target (class indices [B] '
                     'for a category), and where the outputs are scores `activation(self, preds)`')


def _is_undecided(answer: Any, n_classes: int | None) -> bool:
    scores = n_classes is not None and isinstance(answer, Tensor) and answer.is_floating_point()
    return scores and (answer.ndim == 4 or (answer.ndim == 2 and answer.shape[1] > 1))


def _kind_of(x: Any) -> str:
    named = fields_of(x)
    if named is not None:
        return f'a dict of {", ".join(named)}'
    if is_listy(x):
        return f'{len(x)} outputs ({", ".join(map(_kind_of, x))})'
    return str(list(x.shape)) if isinstance(x, Tensor) else type(x).__name__
