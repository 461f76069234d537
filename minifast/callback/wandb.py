"""Weights & Biases: losses, hyper-parameters, metrics, settings, predictions, models and data sets of a run."""
from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minifast.arguments import tells_near_match
from minifast.callback.tracking import ExperimentLogger, Step, settings_of
from minifast.data.transform import typedispatch
from minifast.markers import TensorCategory, TensorImage, TensorMask
from minifast.show import new_axis
from minifast.terminal import say
from minifast.torch_core import as_tuple

__all__ = ['WandbCallback', 'log_dataset', 'log_model', 'wandb_process']


def _run_or_error(who: str) -> Any:
    import wandb
    if wandb.run is None:
        raise ValueError(f'{who} writes into a running run: call wandb.init() before')
    return wandb.run


class WandbCallback(ExperimentLogger):
    """Sends a training to the run that `wandb.init()` has started.

    Losses and hyper-parameters go by step, metrics by epoch, predictions as a table at the end. Each step is sent when
    it is done, which waits for the device: the run's own step counts them, and what else is logged while a fit runs
    (`wandb.log` in a callback) closes the step it falls into. With `log_model` the file that a SaveModelCallback wrote
    is uploaded, without one the weights at the end of the fit.

    Args:
        log: what `wandb.watch` follows: 'gradients', 'parameters', 'all' or None.
        log_preds: send predictions.
        log_preds_every_epoch: after each epoch, not only at the end.
        log_model: upload the model.
        model_name: its name; default: that of the SaveModelCallback, else 'model'.
        log_dataset: upload the folder of the data: True for `dls.path`, or a folder.
        dataset_name: its name; default: the folder's.
        valid_dl: the loader to predict on; default: `n_preds` items of the validation set, drawn with `seed`.
        n_preds: how many predictions.
        seed: of the draw.
        reorder: as in `get_preds`.

    Raises:
        ValueError: when a fit starts and `wandb.init()` was not called, or `log_dataset` is no folder.
    """

    flush_s = 0.  # wandb takes nothing for a step that is behind its own

    @tells_near_match
    def __init__(self, log: str | None = None, log_preds: bool = True, log_preds_every_epoch: bool = False,
                 log_model: bool = False, model_name: str | None = None, log_dataset: bool | str | Path = False,
                 dataset_name: str | None = None, valid_dl: Any = None, n_preds: int = 36, seed: int = 12345,
                 reorder: bool = True) -> None:
        self.log, self.log_preds, self.log_preds_every_epoch = log, log_preds, log_preds_every_epoch
        self.log_model, self.model_name, self.log_dataset, self.dataset_name = (log_model, model_name, log_dataset,
                                                                                dataset_name)
        self.valid_dl, self.n_preds, self.seed, self.reorder = valid_dl, n_preds, seed, reorder
        self._watching = False

    def start(self) -> None:
        import wandb
        run = _run_or_error('WandbCallback')
        # a run may hold an earlier fit: steps and epochs go on behind it
        self._step0, self._epoch0 = run.step, math.ceil(run.summary.get('epoch', 0)) if run.step else 0
        self._wandb_step, self._n_logged = run.step - 1, 0
        if self.goes_on:  # a resumed training: steps that the run holds already are there to the same bits
            self._step0, self._epoch0, self._wandb_step = (self.goes_on[k] for k in ('step0', 'epoch0', 'wandb_step'))
            self._n_logged = run.step
        wandb.config.update(settings_of(self.learn), allow_val_change=True)
        if self.log is not None:
            wandb.watch(self.learn.model, log=self.log)
            self._watching = True
        if self.log_dataset:
            folder = Path(self.learn.dls.path if self.log_dataset is True else self.log_dataset)
            if not folder.is_dir() or folder == Path('.'):
                raise ValueError(f'log_dataset needs the folder of the data and got {str(folder)!r}')
            log_dataset(folder, name=self.dataset_name)
        if self.log_model and self.model_name is not None and hasattr(self.learn, 'save_model'):
            self.learn.save_model.fname = self.model_name
        self._preds = self.log_preds
        if self._preds and self.valid_dl is None:
            self._preds = self._choose_items()

    def place(self) -> dict[str, Any]:
        """Where this fit began in the run, and the step of the run that was logged last."""
        return {'step0': self._step0, 'epoch0': self._epoch0, 'wandb_step': self._wandb_step}

    def _choose_items(self) -> bool:
        dls = self.learn.dls
        valid = getattr(dls, 'valid_ds', None)
        if not hasattr(dls, 'test_dl') or not hasattr(valid, 'items'):
            say('WandbCallback logs no predictions: these loaders cannot make a test_dl; valid_dl= takes another')
            return False
        items = getattr(valid.items, 'iloc', valid.items)
        idxs = random.Random(self.seed).sample(range(len(valid)), min(self.n_preds, len(valid)))
        self.valid_dl = dls.test_dl([items[i] for i in idxs], with_labels=True)
        return True

    def log_steps(self, steps: Sequence[Step]) -> None:
        import wandb
        for step in steps:
            self._wandb_step = self._step0 + step.train_iter - 1
            if self._wandb_step < self._n_logged:
                continue
            wandb.log({'epoch': self._epoch0 + step.epoch, 'train_loss': step.train_loss, 'raw_loss': step.raw_loss,
                       'train_samples_per_sec': step.items_a_second, **step.hypers}, step=self._wandb_step)

    def log_epoch(self, numbers: dict[str, float]) -> None:
        import wandb
        epoch = self._epoch0 + self.learn.epoch + 1
        if self._wandb_step >= self._n_logged or not self._has_epoch(epoch, numbers):
            # where the epoch's last step is there and the epoch is not, it goes with the next step
            wandb.log({'epoch': epoch, **numbers}, step=max(self._wandb_step, self._n_logged))
        self._numbers = numbers
        if self._preds and self.log_preds_every_epoch:
            self.log_predictions()

    def _has_epoch(self, epoch: int, numbers: dict[str, float]) -> bool:
        """Whether the training that was killed has logged this epoch: an exact resume measures the same numbers."""
        import wandb
        last = wandb.run.summary
        same = all(str(last.get(name)) == str(value) for name, value in numbers.items())
        return last.get('epoch', 0) > epoch or last.get('epoch', 0) == epoch and same

    def log_predictions(self) -> None:
        """Send a table of items with their targets and predictions; what goes wrong here is told, training goes on."""
        import wandb
        learn = self.learn
        try:
            inputs, preds, targets, decoded = learn.get_preds(dl=self.valid_dl, with_input=True, with_decoded=True,
                                                              reorder=self.reorder)
            b = as_tuple(inputs) + as_tuple(targets)
            x, y, samples, outs = self.valid_dl.show_results(b, decoded, show=False, max_n=self.n_preds)
            wandb.log(wandb_process(x, y, samples, outs, preds), step=self._wandb_step)
        except Exception as error:
            self._preds = False
            say(f'WandbCallback logs no predictions: {error!r}')

    def after_fit(self) -> None:
        super().after_fit()
        if not self._started:  # no epoch was left to train
            return
        self._flush()
        if self._preds and not self.log_preds_every_epoch:
            self.log_predictions()
        if self.log_model:
            self._upload_model()

    def _upload_model(self) -> None:
        save = getattr(self.learn, 'save_model', None)
        path = getattr(save, 'last_saved_path', None)
        name = self.model_name or getattr(save, 'fname', 'model')
        if path is None:
            path = self.learn.save(name, with_opt=False)
        log_model(path, name=name, metadata=getattr(self, '_numbers', {}))

    def finish(self, completed: bool) -> None:
        import wandb
        if self._watching:
            wandb.unwatch(self.learn.model)
            self._watching = False
        if wandb.run is not None:
            wandb.log({})  # closes the last step


def _texts(metadata: dict[str, Any] | None) -> dict[str, str]:
    return {name: str(value) for name, value in (metadata or {}).items()}


def log_dataset(path: str | Path, name: str | None = None, metadata: dict[str, Any] | None = None,
                description: str = 'raw dataset') -> None:
    """Upload a folder as an artifact that the run uses; its subfolder `models` is left out.

    Args:
        path: the folder.
        name: of the artifact; default: the folder's.
        metadata: kept beside it as texts.
        description: of the artifact.

    Raises:
        ValueError: no running run, or no such folder.
    """
    import wandb
    run, path = _run_or_error('log_dataset'), Path(path)
    if not path.is_dir():
        raise ValueError(f'log_dataset needs a folder and got {str(path)!r}')
    name = name or path.name
    artifact = wandb.Artifact(name=name, type='dataset', metadata=_texts(metadata), description=description)
    for part in sorted(path.iterdir()):
        if part.is_dir() and part.name != 'models':
            artifact.add_dir(str(part.resolve()), name=part.name)
        elif part.is_file():
            artifact.add_file(str(part.resolve()))
    (run.log_artifact if run.offline else run.use_artifact)(artifact)  # offline, wandb knows no use of artifacts


def log_model(path: str | Path, name: str | None = None, metadata: dict[str, Any] | None = None,
              description: str = 'trained model') -> None:
    """Upload a file of weights as an artifact of the run.

    Args:
        path: the file.
        name: of the artifact; default: from the run's id.
        metadata: kept beside it as texts.
        description: of the artifact.

    Raises:
        ValueError: no running run, or no such file.
    """
    import wandb
    run, path = _run_or_error('log_model'), Path(path)
    if not path.is_file():
        raise ValueError(f'log_model needs a file and got {str(path)!r}')
    name = name or f'run-{run.id}-model'
    artifact = wandb.Artifact(name=name, type='model', metadata=_texts(metadata), description=description)
    artifact.add_file(str(path), name=str(Path(name).with_suffix('.pth')))
    run.log_artifact(artifact)


# ---------------------------------------------------------------- predictions

def _picture(x: Any, **kwargs: Any) -> Any:
    """A picture tensor [C,H,W] as wandb takes it."""
    import wandb
    pixels = x.permute(1, 2, 0).numpy()  # sync: a decoded sample, on the CPU already
    if pixels.dtype.kind == 'f':
        pixels = (pixels.clip(0, 1) * 255).round().astype(np.uint8)
    return wandb.Image(pixels, **kwargs)


def _drawn(parts: Sequence[Any], caption: str) -> Any:
    """Things that show themselves, drawn over each other."""
    import matplotlib.pyplot as plt
    import wandb
    ax = new_axis()
    for part in parts:
        if hasattr(part, 'show'):
            part.show(ctx=ax)
    drawn = wandb.Image(ax.figure, caption=caption)
    plt.close(ax.figure)
    return drawn


@typedispatch
def wandb_process(x: object, y: object, samples: Any, outs: Any, preds: Any) -> dict[str, Any]:
    """What `wandb.log` gets for samples and predictions; chosen by the types of `x` and `y`, so it can be added to.

    Args:
        x: the inputs of the batch.
        y: its targets.
        samples: decoded samples, each a tuple.
        outs: decoded predictions, a tuple for each sample.
        preds: the predictions as the activation left them.
    """
    return {'Inputs': [_drawn(sample[:1], 'Input data') for sample in samples],
            'Predictions': [_drawn((sample[0], *out), 'Prediction') for sample, out in zip(samples, outs)],
            'Ground_Truth': [_drawn(sample, 'Ground truth') for sample in samples]}


@typedispatch
def wandb_process(x: TensorImage, y: TensorCategory, samples: Any, outs: Any, preds: Any) -> dict[str, Any]:  # noqa: F811
    """A table of pictures with their classes."""
    import wandb
    table = wandb.Table(columns=['Input image', 'Ground_Truth', 'Predictions'])
    for (picture, target), out in zip(samples, outs):
        table.add_data(_picture(picture), str(target), str(out[0] if len(out) == 1 else out))
    return {'Prediction_Samples': table}


@typedispatch
def wandb_process(x: TensorImage, y: TensorMask, samples: Any, outs: Any, preds: Any) -> dict[str, Any]:  # noqa: F811
    """A table of pictures with their masks laid over."""
    import wandb
    codes = getattr(outs[0][0], 'codes', None)
    labels = {i: str(code) for i, code in enumerate(range(preds.shape[1]) if codes is None else codes)}
    table = wandb.Table(columns=['Input Image', 'Ground_Truth', 'Predictions'])
    for (picture, target), out in zip(samples, outs):
        masks = {name: {'mask_data': np.asarray(mask).astype(np.uint8), 'class_labels': labels}
                 for name, mask in (('Ground_Truth', target), ('Prediction', out[0]))}
        table.add_data(_picture(picture), *(_picture(picture, masks={name: mask}) for name, mask in masks.items()))
    return {'Prediction_Samples': table}
