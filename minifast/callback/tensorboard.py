"""TensorBoard: losses, hyper-parameters, metrics, the model's graph, predictions and embeddings as event files."""
from __future__ import annotations

import os
import secrets
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minifast.answers import activation_of, decoder_of
from minifast.arguments import tells_near_match
from minifast.callback.core import Callback
from minifast.callback.tracking import ExperimentLogger, Step
from minifast.data.transform import typedispatch
from minifast.markers import TensorCategory, TensorImage
from minifast.seeds import fork_rng
from minifast.show import get_grid
from minifast.terminal import visible
from minifast.torch_core import find_device, plain, to_cpu, to_device

__all__ = ['TensorBoardBaseCallback', 'TensorBoardCallback', 'TensorBoardProjectorCallback', 'tensorboard_log']


def _writer(log_dir: str | Path | None, suffix: str = '') -> Any:
    from torch.utils.tensorboard import SummaryWriter
    return SummaryWriter(log_dir=log_dir, filename_suffix=suffix)


def _cut_back(folder: Path, suffix: str, sizes: dict[str, int]) -> None:
    """Take what a training has written behind a checkpoint off its event files again; others' stay as they are."""
    for file in folder.glob(f'events.out.tfevents.*{suffix}'):
        if file.name not in sizes:
            file.unlink()
        elif file.stat().st_size > sizes[file.name]:
            os.truncate(file, sizes[file.name])


class _Features:
    """The outputs of a layer over one validation, with pictures and classes, for the projector."""

    def __init__(self, learn: Any, layer: nn.Module | None) -> None:
        layer = learn.model[1][1] if layer is None else layer
        self.learn, self.vectors, self.pictures, self.classes = learn, [], [], []
        self.hook = layer.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.vectors.append(to_cpu(output.detach()))

    def add_batch(self) -> None:
        """The batch whose prediction was just made."""
        x = to_cpu(plain(self.learn.x).detach())
        low, high = (getattr(x.flatten(1), name)(1)[0].view(-1, *[1] * (x.ndim - 1)) for name in ('min', 'max'))
        self.pictures.append((x - low) / (high - low).clamp(min=1e-12))
        if len(self.learn.yb):
            y = plain(self.learn.yb[0])
            self.classes += (y if y.ndim == 1 else y.flatten(1)[:, 0]).tolist()  # sync: a validation that is drawn

    def write(self, writer: Any) -> None:
        """Send the embedding, with names of classes where the loader knows them."""
        vocab = getattr(self.learn.dl, 'vocab', None)
        names = [str(vocab[i]) for i in self.classes] if vocab and self.classes else None
        vectors = torch.cat(self.vectors).flatten(1)
        writer.add_embedding(vectors, metadata=names, label_img=torch.cat(self.pictures),
                             global_step=self.learn.train_iter)

    def remove(self) -> None:
        """Take the hook off."""
        self.hook.remove()


class TensorBoardBaseCallback(ExperimentLogger):
    """What the callbacks for TensorBoard share: the writer and the projector."""

    writer = features = None

    def _write_features(self) -> None:
        features, self.features = self.features, None
        if features is not None:
            features.remove()
            if features.vectors:
                features.write(self.writer)

    def after_pred(self) -> None:
        if self.features is not None and not self.learn.training:
            self.features.add_batch()

    def after_validate(self) -> None:
        self._write_features()

    def _close(self) -> None:
        if self.features is not None:
            self.features.remove()
            self.features = None
        if self.writer is not None:
            self.writer.close()
            self.writer = None


class TensorBoardCallback(TensorBoardBaseCallback):
    """Writes event files: smoothed loss and hyper-parameters by step; metrics and pictures with predictions by epoch.

    Predictions are drawn where the validation loader can show them; for a type of your own, add a `tensorboard_log`.

    Args:
        log_dir: folder; default: a new one in `runs`.
        trace_model: write the graph of the model, in evaluation mode and float32.
        log_preds: draw predictions on a validation batch after each epoch.
        n_preds: how many.
        projector: send the activations of `layer` over the validation set to the projector.
        layer: default: `model[1][1]`.

    Example:
        >>> learn.fit(1, cbs=TensorBoardCallback(log_dir='logs', log_preds=False))
    """

    @tells_near_match
    def __init__(self, log_dir: str | Path | None = None, trace_model: bool = True, log_preds: bool = True,
                 n_preds: int = 9, projector: bool = False, layer: nn.Module | None = None) -> None:
        self.log_dir, self.trace_model, self.log_preds, self.n_preds = log_dir, trace_model, log_preds, n_preds
        self.projector, self.layer = projector, layer

    def start(self) -> None:
        at = self.goes_on
        self._suffix = at.get('suffix') or f'.{secrets.token_hex(4)}'  # tells this training's files from others'
        if at:
            _cut_back(Path(at['log_dir']), self._suffix, at['files'])
        self._traced = at.get('traced', not self.trace_model)
        self.writer = _writer(at.get('log_dir', self.log_dir), self._suffix)

    def place(self) -> dict[str, Any]:
        """The folder, and how long this training's files in it are."""
        self.writer.flush()
        folder = Path(self.writer.log_dir)
        files = {file.name: file.stat().st_size for file in folder.glob(f'events.out.tfevents.*{self._suffix}')}
        return {'log_dir': str(folder), 'suffix': self._suffix, 'files': files, 'traced': self._traced}

    def before_batch(self) -> None:
        super().before_batch()
        if not self._traced and self.learn.training:
            self._traced = True
            self._trace()

    def _trace(self) -> None:
        """Write the graph; the model runs in evaluation mode, so that neither statistics nor random streams move on."""
        model, xb = self.learn.model, [plain(x).clone() if isinstance(x, Tensor) else x for x in self.learn.xb]
        modes = [(m, m.training) for m in model.modules()]
        model.eval()
        try:
            with (fork_rng(), torch.no_grad(), torch.autocast(find_device(xb).type, enabled=False),
                  warnings.catch_warnings()):
                # torch's writer still uses torch's old tracer; nobody here can change that
                warnings.filterwarnings('ignore', '.*torch.jit.trace', FutureWarning)
                warnings.filterwarnings('ignore', '.*torch.jit.trace', DeprecationWarning)
                self.writer.add_graph(model, xb)
        finally:
            for m, training in modes:
                m.training = training

    def log_steps(self, steps: Sequence[Step]) -> None:
        for step in steps:
            for name, value in {'train_loss': step.train_loss, **step.hypers}.items():
                self.writer.add_scalar(name, value, step.train_iter, walltime=step.time_s)

    def before_validate(self) -> None:
        if self.projector and self.writer is not None:
            self.features = _Features(self.learn, self.layer)

    def log_epoch(self, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, self.learn.train_iter)
        if self.log_preds and len(self.learn.dls) > 1 and hasattr(self.learn.dls[1], 'show_results'):
            self._log_predictions()

    def _log_predictions(self) -> None:
        learn, dl = self.learn, self.learn.dls[1]
        with fork_rng(), torch.no_grad():
            b = dl.one_batch()
            xb = to_device(b[:dl.n_inp], find_device(list(learn.model.parameters())))
            modes = [(m, m.training) for m in learn.model.modules()]
            learn.model.eval()
            try:
                preds = learn.model(*[plain(x) if isinstance(x, Tensor) else x for x in xb])
            finally:
                for m, training in modes:
                    m.training = training
            decoded = decoder_of(learn)(activation_of(learn.own_loss)(preds))
        x, y, samples, outs = dl.show_results(b, to_cpu(decoded), show=False, max_n=self.n_preds)
        tensorboard_log(x, y, samples, outs, self.writer, learn.train_iter)

    def finish(self, completed: bool) -> None:
        self._close()


class TensorBoardProjectorCallback(TensorBoardBaseCallback):
    """Sends the activations of a layer to the projector while `get_preds` runs.

    Args:
        log_dir: folder; default: a new one in `runs`.
        layer: default: `model[1][1]`.
    """

    @tells_near_match
    def __init__(self, log_dir: str | Path | None = None, layer: nn.Module | None = None) -> None:
        self.log_dir, self.layer = log_dir, layer

    def before_fit(self) -> None:
        self.run = self.learn.predicting

    def before_batch(self) -> None:
        pass

    before_epoch = Callback.before_epoch
    after_batch = after_train = after_epoch = Callback.after_epoch

    def before_validate(self) -> None:
        if self.learn.predicting:
            self.writer, self.features = _writer(self.log_dir), _Features(self.learn, self.layer)

    def cleanup_fit(self) -> None:
        self._close()


def _figure(n: int, **kwargs: Any) -> tuple[Any, list]:
    figure, axes = get_grid(n, return_fig=True, **kwargs)
    return figure, list(axes)


@typedispatch
def tensorboard_log(x: object, y: object, samples: Any, outs: Any, writer: Any, step: int) -> None:
    """Draw samples with predictions as one figure; chosen by the types of `x` and `y`, so it can be added to.

    Args:
        x: the inputs of the batch.
        y: its targets.
        samples: decoded samples.
        outs: decoded predictions, a tuple for each sample.
        writer: the SummaryWriter.
        step: of the figure.
    """
    figure, axes = _figure(len(samples), double=True)
    for i, (sample, out) in enumerate(zip(samples, outs)):
        left, right = axes[2 * i:2 * i + 2]
        for ax, parts in ((left, sample), (right, (sample[0], *out))):
            for part in parts:
                if hasattr(part, 'show'):
                    part.show(ctx=ax)
    writer.add_figure('Sample results', figure, step)


@typedispatch
def tensorboard_log(x: TensorImage, y: TensorCategory, samples: Any, outs: Any, writer: Any, step: int) -> None:  # noqa: F811
    """Pictures with their class and under it the predicted one, green where it is right."""
    figure, axes = _figure(len(samples))
    for (picture, target, *_), (out, *_), ax in zip(samples, outs, axes):
        picture.show(ctx=ax)
        right = str(out) == str(target)
        ax.set_title(f'{visible(target)}\n{visible(out)}', color='green' if right else 'red')
    writer.add_figure('Sample results', figure, step)
