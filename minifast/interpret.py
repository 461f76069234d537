"""Where a model goes wrong: the items with the largest losses, and which classes are taken for which."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from fastcore.foundation import L
from torch import Tensor
from torch.utils.data import default_collate
from typing_extensions import Self

from minifast.answers import check_answers, class_names, with_name
from minifast.arguments import tells_near_match
from minifast.data.transform import dispatch
from minifast.inference import unmeasured, whole_loader
from minifast.show import get_grid, short, show_image, show_table, subplots
from minifast.terminal import counted, described, visible
from minifast.torch_core import (TensorCategory, TensorImage, TensorMask, TensorMultiCategory, as_tuple, flatten_check,
                                 is_listy, item_find, plain)
from minifast.vision.data import joined, name_codes

__all__ = ['ClassificationInterpretation', 'Interpretation', 'SegmentationInterpretation', 'plot_top_losses']


class Interpretation:
    """The losses of all items of a loader, and the items behind them.

    Args:
        learn: the learner.
        dl: the loader that was predicted.
        losses: one loss an item, float [n].
        act: applied to predictions; default: the loss function's activation.

    Example:
        >>> interp = Interpretation.from_learner(learn)
        >>> interp.plot_top_losses(9)
    """

    @tells_near_match
    def __init__(self, learn: Any, dl: Any = None, losses: Tensor | None = None, act: Any = None) -> None:
        if losses is None:
            raise TypeError(f'{type(self).__name__} is made of losses that are there already, and got none: '
                            f'{type(self).__name__}.from_learner(learn) predicts and works them out')
        self.learn, self.dl, self.losses, self.act = learn, dl, losses, act

    @classmethod
    @tells_near_match
    def from_learner(cls, learn: Any, ds_idx: int = 1, dl: Any = None, act: Any = None) -> Self:
        """Predict a split, or the loader `dl`, and keep the losses.

        Args:
            learn: the learner.
            ds_idx: which of its loaders, 0 for training and 1 for validation.
            dl: another loader instead.
            act: applied to predictions; default: the loss function's activation.

        Raises:
            ValueError: the loader has no targets.

        Example:
            >>> interp = Interpretation.from_learner(learn)  # of the validation set
            >>> interp.plot_top_losses(4)
        """
        if dl is None:
            dl = whole_loader(learn.dls[ds_idx])
        losses = learn.get_preds(dl=dl, with_loss=True, with_preds=False, with_targs=False, act=act)[-1]
        return cls(learn, dl, plain(losses), act)

    def __repr__(self) -> str:
        return described(self, lambda o: f'{counted(len(o.losses), "item")}, mean loss {short(float(o.losses.mean()))}')

    def _items(self) -> Any:
        """What the loader's dataset is made of: anything that `[index]` or a pandas `.iloc` works on."""
        items = getattr(self.dl, 'items', None)
        return getattr(items, 'iloc', L(items)) if items is not None else None

    def __getitem__(self, idxs: Any) -> tuple:
        """Inputs, predictions, targets, decoded predictions and losses of the items `idxs`."""
        idxs = idxs.tolist() if isinstance(idxs, Tensor) else list(idxs) if is_listy(idxs) else [idxs]
        items = self._items()
        if items is None:
            dl = [(getattr(self.dl, 'collate_fn', None) or default_collate)([self.dl.dataset[i] for i in idxs])]
        else:
            dl = self.learn.dls.test_dl(items[idxs], with_labels=True)
        with unmeasured(self.learn):
            found = self.learn.get_preds(dl=dl, with_input=True, with_decoded=True, act=self.act, reorder=False)
        return (*found, self.losses[idxs])

    @tells_near_match
    def top_losses(self, k: int | None = None, largest: bool = True, items: bool = False) -> tuple[Any, ...]:
        """The `k` largest losses and their indices, sorted; all where `k` is None.

        Args:
            k: how many.
            largest: False for the smallest.
            items: return the items too.

        Example:
            >>> losses, places = Interpretation.from_learner(learn).top_losses(3)
            >>> len(losses)
            3
        """
        losses, idxs = self.losses.topk(len(self.losses) if k is None else min(k, len(self.losses)), largest=largest)
        return (losses, idxs, self._items()[idxs.tolist()]) if items else (losses, idxs)

    def plot_top_losses(self, k: int | Sequence[int], largest: bool = True, **kwargs: Any) -> None:
        """Draw the items with the `k` largest (or smallest) losses.

        Args:
            k: how many, or which places in the ranking.
            largest: False for the smallest.
            kwargs: for the drawing: `nrows`, `ncols`, `figsize`.

        Example:
            >>> Interpretation.from_learner(learn).plot_top_losses(4, nrows=2)
        """
        if isinstance(k, int):
            losses, idxs = self.top_losses(k, largest)
        else:
            losses, idxs = (o[list(k)] for o in self.top_losses(None, largest))
        inputs, preds, targets, decoded, _ = self[idxs]
        check_answers(self.learn, decoded)
        inputs, targets, decoded = as_tuple(inputs), as_tuple(targets), as_tuple(decoded)
        preds = preds if isinstance(preds, Tensor) else item_find(preds)  # of several outputs, the first one's scores
        if not hasattr(self.dl, 'show_batch'):
            names = getattr(self, 'vocab', None)
            samples = L(zip(inputs[0], [with_name(names, t) for t in targets[0]]))
            _plot_titled(samples, L((with_name(names, d),) for d in decoded[0]), preds, losses, **kwargs)
            return
        x, y, samples = self.dl.show_batch(inputs + targets, max_n=len(idxs), show=False)
        _, _, outs = self.dl.show_batch(inputs + decoded, max_n=len(idxs), show=False)
        plot_top_losses(x, y, samples, outs.itemgot(slice(len(inputs), None)), preds, losses, **kwargs)

    def show_results(self, idxs: Any, **kwargs: Any) -> None:
        """Draw the items `idxs` with target and prediction; `**kwargs` go to the loader's `show_results`."""
        inputs, _, targets, decoded, _ = self[idxs]
        check_answers(self.learn, decoded)
        n = len(idxs) if is_listy(idxs) or isinstance(idxs, Tensor) else 1
        self.dl.show_results(as_tuple(inputs) + as_tuple(targets), as_tuple(decoded), max_n=n, **kwargs)


class ClassificationInterpretation(Interpretation):
    """`Interpretation` of a classifier: which classes are taken for which. `vocab` holds the classes' names.

    Args:
        learn: the learner.
        dl: the loader that was predicted.
        losses: one loss an item, float [n].
        act: applied to predictions; default: the loss function's activation.

    Example:
        >>> interp = ClassificationInterpretation.from_learner(learn)
        >>> interp.plot_confusion_matrix()
        >>> interp.most_confused(min_val=2)
    """

    @tells_near_match
    def __init__(self, learn: Any, dl: Any = None, losses: Tensor | None = None, act: Any = None) -> None:
        super().__init__(learn, dl, losses, act)
        self.vocab = class_names(learn, dl)
        self._answers = None

    def answers(self) -> tuple[Tensor, Tensor]:
        """Class indices of predictions and targets, int64 [n], predicted once."""
        if self._answers is None:
            _, targets, decoded = self.learn.get_preds(dl=self.dl, with_decoded=True, with_preds=False, act=self.act)
            if not isinstance(decoded, Tensor) or not isinstance(targets, Tensor):
                raise ValueError('a confusion matrix is of one target and one output, and these are '
                                 f'{len(as_tuple(targets))} and {len(as_tuple(decoded))} ({type(decoded).__name__}): '
                                 'give the loss function `decodes` that returns one tensor, or count with '
                                 'learn.get_preds(with_decoded=True)')
            self._answers = flatten_check(decoded, targets)
            if self.vocab is None:
                self.vocab = [str(i) for i in range(int(torch.cat(self._answers).max()) + 1)]
        return self._answers

    def confusion_matrix(self) -> np.ndarray:
        """Counts, int64 [n_classes, n_classes]: a row for each actual class, a column for each predicted one."""
        decoded, targets = self.answers()
        n = len(self.vocab)
        known = (targets >= 0) & (targets < n) & (decoded >= 0) & (decoded < n)  # codes such as 255 mark no class
        cells = targets[known].long() * n + decoded[known].long()
        return torch.bincount(cells, minlength=n * n).view(n, n).numpy()

    def plot_confusion_matrix(self, normalize: bool = False, title: str = 'Confusion matrix', cmap: str = 'Blues',
                              norm_dec: int = 2, plot_txt: bool = True, **kwargs: Any) -> None:
        """Draw the confusion matrix.

        Args:
            normalize: fractions of each actual class instead of counts.
            title: above the matrix; the default says so where it is normalized.
            cmap: matplotlib's colours.
            norm_dec: decimals of fractions.
            plot_txt: write the numbers.
            kwargs: for `matplotlib.pyplot.figure`: `figsize`, `dpi`.

        Example:
            >>> ClassificationInterpretation.from_learner(learn).plot_confusion_matrix(normalize=True)
        """
        cm, n = self.confusion_matrix(), len(self.vocab)
        if normalize:
            cm = cm / cm.sum(axis=1, keepdims=True).clip(min=1)
            title = 'Normalized confusion matrix' if title == 'Confusion matrix' else title
        numbers = [f'{x:.{norm_dec}f}' if normalize else str(x) for x in cm.flat] if plot_txt else []
        letters = max(map(len, numbers), default=1)
        # 3 inches for the names, and 6 points a letter and 12 a class at least
        kwargs.setdefault('figsize', (max(6.4, 3 + n * max(6 * letters, 12) / 72),) * 2 if n > 8 else (6.4, 4.8))
        ax = subplots(**kwargs)[1][0]
        ax.imshow(cm, interpolation='nearest', cmap=cmap)
        ax.set_xticks(np.arange(n), [visible(v) for v in self.vocab], rotation=90)
        ax.set_yticks(np.arange(n), [visible(v) for v in self.vocab])
        for (i, j), number in zip(np.ndindex(cm.shape), numbers):
            ax.text(j, i, number, ha='center', va='center', size=10 if n <= 8 else 8,
                    color='white' if cm[i, j] > cm.max() / 2 else 'black')
        ax.set(title=title, xlabel='Predicted', ylabel='Actual')
        ax.grid(False)

    @tells_near_match
    def most_confused(self, min_val: int = 1) -> list[tuple[Any, Any, int]]:
        """`(actual, predicted, how often)` of every confusion seen at least `min_val` times, most frequent first.

        Example:
            >>> ClassificationInterpretation.from_learner(learn).most_confused(min_val=2)
        """
        cm = self.confusion_matrix()
        np.fill_diagonal(cm, 0)
        found = [(self.vocab[i], self.vocab[j], int(cm[i, j])) for i, j in np.argwhere(cm >= min_val)]
        return sorted(found, key=lambda confusion: confusion[2], reverse=True)

    def print_classification_report(self) -> None:
        """Print precision, recall, F1 and number of items of each class, and their means.

        Example:
            >>> ClassificationInterpretation.from_learner(learn).print_classification_report()
        """
        print(_report(self.confusion_matrix(), [visible(v) for v in self.vocab]))


class SegmentationInterpretation(Interpretation):
    """`Interpretation` of a segmentation model; its top losses show picture, target and prediction side by side.

    Example:
        >>> interp = SegmentationInterpretation.from_learner(learn)
        >>> interp.plot_top_losses(2)
    """


def _report(cm: np.ndarray, names: list[str]) -> str:
    """The usual table of scores from a confusion matrix."""
    hits, support, predicted = np.diag(cm), cm.sum(axis=1), cm.sum(axis=0)
    precision, recall = hits / predicted.clip(min=1), hits / support.clip(min=1)
    f1 = 2 * hits / (support + predicted).clip(min=1)
    total = max(support.sum(), 1)
    width = max(*map(len, names), len('weighted avg'))

    def line(name: str, scores: Sequence[float], n: int) -> str:
        return f'{name:>{width}} ' + ''.join(f' {score:>9.2f}' for score in scores) + f' {n:>9}'

    scores = np.stack([precision, recall, f1])
    lines = [' ' * (width + 1) + ''.join(f' {head:>9}' for head in ('precision', 'recall', 'f1-score', 'support')), '']
    lines += [line(name, scores[:, i], support[i]) for i, name in enumerate(names)]
    lines += ['', f'{"accuracy":>{width}}  {"":>9} {"":>9} {hits.sum() / total:>9.2f} {support.sum():>9}',
              line('macro avg', scores.mean(axis=1), support.sum()),
              line('weighted avg', (scores * support).sum(axis=1) / total, support.sum()), '']
    return '\n'.join(lines)


# ---------------------------------------------------------------- drawing

@dispatch
def plot_top_losses(x: Any, y: Any, samples: Any, outs: Any, raws: Any, losses: Any, nrows: int | None = None,
                    ncols: int | None = None, figsize: tuple[float, float] | None = None, **kwargs: Any) -> None:
    """Draw items with the losses the model makes on them; overload it for types of your own.

    Args:
        x: inputs of the batch, which decide by their type.
        y: targets of the batch, which decide by their type.
        samples: decoded items `(input, target)`.
        outs: decoded predictions `(answer,)`.
        raws: predictions [n, ...].
        losses: [n].
        nrows, ncols, figsize: of the grid.
        kwargs: for `show`.

    Raises:
        TypeError: there is no drawing for these types.
    """
    if not isinstance(x, TensorImage):
        raise TypeError(f'plot_top_losses draws pictures; for {type(x).__name__} and {type(y).__name__} write one: '
                        '@dispatch def plot_top_losses(x: MyInput, y: MyTarget, samples, outs, raws, losses, **kwargs)')
    grid = dict(nrows=nrows, ncols=ncols, figsize=figsize)
    if isinstance(y, TensorMask):
        _plot_masks(samples, outs, losses, figsize, **kwargs)
    elif isinstance(y, TensorMultiCategory):
        _plot_labels(samples, outs, raws, losses, **grid, **kwargs)
    elif isinstance(y, TensorCategory):
        _plot_titled(samples, outs, raws, losses, **grid, **kwargs)
    else:
        _plot_shown(samples, outs, losses, **grid, **kwargs)


def _draw(picture: Any, ax: Any, **kwargs: Any) -> None:
    """A picture that knows how to show itself, or a tensor [C,H,W] of a plain dataset in its own range."""
    if hasattr(picture, 'show'):
        picture.show(ctx=ax, **kwargs)
        return
    lo, hi = picture.aminmax()
    show_image((picture - lo) / (hi - lo).clamp(min=1e-6), ctx=ax, cmap='gray', **kwargs)


def _plot_titled(samples: L, outs: L, raws: Tensor, losses: Tensor, nrows: int | None = None, ncols: int | None = None,
                 figsize: tuple[float, float] | None = None, **kwargs: Any) -> None:
    """Each picture under prediction, target, loss and the probability of the prediction."""
    axs = get_grid(len(samples), nrows=nrows, ncols=ncols, figsize=figsize, title='Prediction/Actual/Loss/Probability')
    for ax, sample, out, raw, loss in zip(axs, samples, outs, raws, losses.tolist()):
        _draw(sample[0], ax, **kwargs)
        ax.set_title(visible(f'{out[0]}/{sample[1]} / {loss:.2f} / {raw.max():.2f}'))


def _plot_labels(samples: L, outs: L, raws: Tensor, losses: Tensor, nrows: int | None = None, ncols: int | None = None,
                 figsize: tuple[float, float] | None = None, **kwargs: Any) -> None:
    """The pictures, numbered, and a table of their labels, predictions, probabilities and losses."""
    axs = get_grid(len(samples), nrows=nrows, ncols=ncols, figsize=figsize)
    rows = [['', 'target', 'predicted', 'probabilities', 'loss']]
    for i, (ax, sample, out, raw, loss) in enumerate(zip(axs, samples, outs, raws.tolist(), losses.tolist())):
        sample[0].show(ctx=ax, title=f'Image {i}', **kwargs)
        rows.append([str(i), joined(sample[1]), joined(out[0]), ' '.join(f'{p:.4f}' for p in raw), f'{loss:.4f}'])
    show_table(rows)


def _plot_masks(samples: L, outs: L, losses: Tensor, figsize: tuple[float, float] | None = None, **kwargs: Any) -> None:
    """A row for each item: picture, target, prediction with its loss."""
    axs = get_grid(len(samples) * 3, nrows=len(samples), ncols=3, figsize=figsize, title='Input | Target | Prediction')
    for i, (sample, out, loss) in enumerate(zip(samples, outs, losses.tolist())):
        shown = ((sample[0], 'input'), (sample[1], 'target'), (out[0], f'pred; loss = {loss:.4f}'))
        for ax, (picture, title) in zip(axs[3 * i:], shown):
            alone = {'alpha': 1} if isinstance(picture, TensorMask) else {}  # no picture shows through
            picture.show(ctx=ax, **{**alone, **kwargs})
            ax.set_title(visible(title, keep='\n'))
    name_codes(axs, samples)


def _plot_shown(samples: L, outs: L, losses: Tensor, nrows: int | None = None, ncols: int | None = None,
                figsize: tuple[float, float] | None = None, **kwargs: Any) -> None:
    """Points, boxes, pictures, numbers: target and prediction beside each other, each drawn as it shows itself."""
    axs = get_grid(len(samples), nrows=nrows, ncols=ncols, figsize=figsize, double=True, title='Target/Prediction')
    for ax, sample in zip(axs[::2], samples):
        for part in sample:
            part.show(ctx=ax, **kwargs)
    for ax, sample, out, loss in zip(axs[1::2], samples, outs, losses.tolist()):
        for part in (sample[0], *out):
            part.show(ctx=ax, **kwargs)
        ax.set_title(f'{ax.get_title()}\nloss = {loss:.4f}'.strip())
