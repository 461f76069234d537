"""`Learner`: a model, its data and a loss function, with every method that users call."""
from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastcore.basics import noop
from fastcore.foundation import L
from torch import nn

from minifast import inference
from minifast.arguments import tells_near_match
from minifast.callback import schedule
from minifast.callback.channelslast import ChannelsLast
from minifast.callback.core import _cast_tensor as _cast_tensor
from minifast.callback.core import before_batch_cb as before_batch_cb
from minifast.callback.core import (
    Callback,
    CancelBackwardException,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
    CancelTrainException,
    CancelValidException,
    FetchPredsCallback,
    GatherPredsCallback,
    TrainEvalCallback,
    event,
)
from minifast.callback.distributed import DistributedTrainer, LastWord, ShardedTrainer
from minifast.callback.fp16 import AMPMode, MixedPrecision
from minifast.callback.progress import ProgressCallback
from minifast.callback.recorder import AvgSmoothLoss, Recorder
from minifast.callback.recorder import _maybe_item as _maybe_item
from minifast.callback.schedule import ParamScheduler, SchedCos, combine_scheds, combined_cos
from minifast.checkpoint import load_model, save_model
from minifast.data.core import DataLoaders
from minifast.data.showing import classes_words
from minifast.distributed import barrier, is_distributed, num_distrib, pass_of_all, setup_distrib
from minifast.export import export_learner, read_export, to_onnx, to_torch
from minifast.loop import Loop
from minifast.metrics import AvgLoss, AvgMetric, Metric, ValueMetric, mk_metric
from minifast.optimizer import Adam
from minifast.seeds import fork_rng
from minifast.sharding import Units
from minifast.terminal import counted, described
from minifast.torch_core import defaults, get_model, join_path_file, to_detach, trainable_params

__all__ = ['AvgLoss', 'AvgMetric', 'AvgSmoothLoss', 'Callback', 'CancelBackwardException', 'CancelBatchException',
           'CancelEpochException', 'CancelFitException', 'CancelStepException', 'CancelTrainException',
           'CancelValidException', 'FetchPredsCallback', 'GatherPredsCallback', 'Learner', 'Metric', 'Recorder',
           'TrainEvalCallback', 'ValueMetric', 'defaults', 'event', 'load_learner', 'load_model', 'mk_metric',
           'replacing_yield', 'save_model']

_trainers = {'ddp': DistributedTrainer, 'fsdp': ShardedTrainer}

defaults.callbacks = [TrainEvalCallback, Recorder, ProgressCallback]


class Learner(Loop):
    """A model, its data and a loss function, and the loop that trains it.

    Args:
        dls: `DataLoaders`, or a pair of plain torch loaders. A batch is a tuple of inputs and targets.
        model: any module; called with the inputs of a batch.
        loss_func: called with the prediction and the targets, returns a scalar; default: what the data suggest.
        opt_func: `Adam` and its kin, or any torch optimizer class, which then runs exactly as written.
        lr: default learning rate, a number or a `slice` over the parameter groups.
        splitter: model -> list of parameter lists (groups that can be frozen and get their own learning rate).
        cbs: callbacks, instances or classes.
        metrics: functions of (prediction, target) averaged over the validation set, `Metric`s, or torchmetrics objects.
        path: folder for everything saved; default: that of the data.
        model_dir: subfolder for `save` and `load`.
        wd: default weight decay.
        wd_bn_bias: decay norm layers and biases too.
        train_bn: go on training BatchNorm in frozen groups.
        moms: default momentum schedule (start, middle, end).
        default_cbs: add `defaults.callbacks`.
        strategy: how processes that torchrun started train together: 'ddp', each on its share of every batch; 'fsdp',
            as that, and each keeps a share only of weights and optimizer, for models that are larger than one process;
            None, not at all, which makes a fit an error there. One process trains as ever.

    Raises:
        RuntimeError: the environment says that several processes train and not where they meet.
        ValueError: no loss function was given and the data suggest none.

    Example:
        >>> net = nn.Sequential(SimpleCNN([3, 16, 32]), nn.Linear(32, dls.c))
        >>> learn = Learner(dls, net, loss_func=nn.CrossEntropyLoss(), metrics=accuracy)
        >>> learn.fit(3, lr=1e-2)
    """

    @tells_near_match
    def __init__(self, dls: Any, model: nn.Module, loss_func: Callable[..., Any] | None = None,
                 opt_func: Callable[..., Any] = Adam, lr: float | slice = defaults.lr,
                 splitter: Callable[..., Any] = trainable_params, cbs: Any = None, metrics: Any = None,
                 path: str | Path | None = None, model_dir: str | Path = 'models', wd: float | None = None,
                 wd_bn_bias: bool = False, train_bn: bool = True, moms: tuple[float, float, float] = (0.95, 0.85, 0.95),
                 default_cbs: bool = True, strategy: str | None = 'ddp') -> None:
        if strategy not in (*_trainers, None):
            raise ValueError(f"strategy={strategy!r} is neither 'ddp', 'fsdp' nor None")
        dls = dls if hasattr(dls, 'train') else DataLoaders(*dls)
        if loss_func is None:
            loss_func = getattr(dls, 'loss_func', None)
            if loss_func is None:
                raise ValueError('the data suggest no loss function: give one, Learner(dls, model, loss_func=...)')
        super().__init__(dls, model, loss_func, opt_func, lr, splitter, metrics, wd, wd_bn_bias, train_bn)
        self.path = Path(path) if path is not None else Path(getattr(dls, 'path', None) or '.')
        self.model_dir, self.moms, self.default_cbs, self.strategy = model_dir, moms, default_cbs, strategy
        self.add_cbs(defaults.callbacks if default_cbs else None)
        if strategy is not None and num_distrib() > 1:
            self.to_distributed(sync_bn=False)
        self.add_cbs(cbs)
        self('after_create')

    def __repr__(self) -> str:
        return described(self, _words)

    # ------------------------------------------------------------ training

    @tells_near_match
    def fit_one_cycle(self, n_epoch: int, lr_max: float | slice | None = None, div: float = 25.,
                      div_final: float = 1e5, pct_start: float = 0.25, wd: float | None = None, moms: Any = None,
                      cbs: Any = None, reset_opt: bool = False, start_epoch: int = 0, checkpoint: Any = None,
                      resume: bool | str = False, run: Any = None) -> None:
        """Fit with the one-cycle policy: the learning rate rises from `lr_max/div` and falls to `lr_max/div_final`.

        Args:
            n_epoch: number of epochs.
            lr_max: the highest learning rate, a number or a `slice` over the parameter groups; default: `self.lr`.
            div: divides the rate at the start.
            div_final: divides the rate at the end.
            pct_start: the share of the fit in which the rate rises, 0-1.
            moms: momentum at the start, the peak and the end; default: `self.moms`.
            wd, cbs, reset_opt, start_epoch, checkpoint, resume, run: as in `fit`.

        Source: Smith and Topin, "Super-convergence", arXiv 1708.07120.

        Example:
            >>> learn.fit_one_cycle(5, lr_max=1e-3, cbs=SaveModelCallback(monitor='accuracy'))
            >>> learn.fit_one_cycle(5, slice(1e-5, 1e-3))  # the first layers at 1e-5, the head at 1e-3
        """
        lr_max = self._peak_lrs(lr_max)
        scheds = {'lr': combined_cos(pct_start, lr_max / div, lr_max, lr_max / div_final),
                  'mom': combined_cos(pct_start, *(self.moms if moms is None else moms))}
        self.fit(n_epoch, cbs=ParamScheduler(scheds) + L(cbs), reset_opt=reset_opt, wd=wd, start_epoch=start_epoch,
                 **_given(checkpoint=checkpoint, resume=resume, run=run))

    @tells_near_match
    def fit_flat_cos(self, n_epoch: int, lr: float | slice | None = None, div_final: float = 1e5,
                     pct_start: float = 0.75, wd: float | None = None, cbs: Any = None, reset_opt: bool = False,
                     start_epoch: int = 0, checkpoint: Any = None, resume: bool | str = False,
                     run: Any = None) -> None:
        """Fit at a constant learning rate that falls in a cosine from `pct_start` on.

        Args:
            n_epoch: number of epochs.
            lr: the constant rate, a number or a `slice` over the parameter groups; default: `self.lr`.
            div_final: divides the rate at the end.
            pct_start: the share of the fit at the constant rate, 0-1.
            wd, cbs, reset_opt, start_epoch, checkpoint, resume, run: as in `fit`.

        Example:
            >>> learn.fit_flat_cos(2, 1e-3)
        """
        lr = self._peak_lrs(lr)
        scheds = {'lr': combined_cos(pct_start, lr, lr, lr / div_final)}
        self.fit(n_epoch, cbs=ParamScheduler(scheds) + L(cbs), reset_opt=reset_opt, wd=wd, start_epoch=start_epoch,
                 **_given(checkpoint=checkpoint, resume=resume, run=run))

    @tells_near_match
    def fit_sgdr(self, n_cycles: int, cycle_len: int, lr_max: float | slice | None = None, cycle_mult: int = 2,
                 cbs: Any = None, reset_opt: bool = False, wd: float | None = None, start_epoch: int = 0,
                 checkpoint: Any = None, resume: bool | str = False, run: Any = None) -> None:
        """Fit `n_cycles` cosine cycles with warm restarts, each `cycle_mult` times as long as the one before.

        Args:
            n_cycles: number of cycles.
            cycle_len: epochs of the first one.
            lr_max: the rate each cycle starts with, a number or a `slice` over the groups; default: `self.lr`.
            cycle_mult: how many times as long each next cycle is.
            wd, cbs, reset_opt, start_epoch, checkpoint, resume, run: as in `fit`.

        Source: Loshchilov and Hutter, "SGDR", arXiv 1608.03983.

        Example:
            >>> learn.fit_sgdr(2, 1, lr_max=1e-3)  # 1 epoch, then 2
        """
        lr_max = self._peak_lrs(lr_max)
        n_epoch = cycle_len * sum(cycle_mult ** i for i in range(n_cycles))
        pcts = [cycle_len * cycle_mult ** i / n_epoch for i in range(n_cycles)]
        scheds = {'lr': combine_scheds(pcts, [SchedCos(lr_max, 0) for _ in pcts])}
        self.fit(n_epoch, cbs=ParamScheduler(scheds) + L(cbs), reset_opt=reset_opt, wd=wd, start_epoch=start_epoch,
                 **_given(checkpoint=checkpoint, resume=resume, run=run))

    def fine_tune(self, epochs: int, base_lr: float = 2e-3, freeze_epochs: int = 1, lr_mult: float = 100,
                  pct_start: float = 0.3, div: float = 5.0, **kwargs: Any) -> None:
        """Train the head for `freeze_epochs` with the body frozen, then everything for `epochs` at lower rates.

        Args:
            epochs: epochs of the whole model.
            base_lr: the head's highest rate at first; afterwards half of it.
            freeze_epochs: epochs of the head alone.
            lr_mult: by how much the first layers' rate is lower than the head's.
            pct_start, div: of the second phase, as in `fit_one_cycle`.
            kwargs: for both calls of `fit_one_cycle`.

        Example:
            >>> learn = vision_learner(dls, resnet18, metrics=accuracy)
            >>> learn.fine_tune(3)
        """
        with _replaced(self, 'fine_tune_phase', 0):
            self.freeze()
            self.fit_one_cycle(freeze_epochs, slice(base_lr), pct_start=0.99, **kwargs)
            base_lr /= 2
            self.fine_tune_phase = 1
            self.unfreeze()
            self.fit_one_cycle(epochs, slice(base_lr / lr_mult, base_lr), pct_start=pct_start, div=div, **kwargs)

    def _peak_lrs(self, lr: float | slice | None) -> np.ndarray:
        """The learning rate of each parameter group, shape [n_groups]."""
        if self.opt is None:
            self.create_opt()
        self.opt.set_hyper('lr', self.lr if lr is None else lr)
        lrs = [hyper['lr'] for hyper in self.opt.hypers]
        return lrs[0] if len(lrs) == 1 else np.array(lrs)  # numpy is slow at single numbers

    @tells_near_match
    def freeze_to(self, n: int) -> None:
        """Freeze the parameter groups before group `n` (negative: counted from the last); BatchNorm goes on training.

        Raises:
            ValueError: there is only one group, so nothing can be frozen: the learner needs a splitter.

        Example:
            >>> learn.freeze_to(-2)  # trains the last two groups of layers
        """
        if self.opt is None:
            self.create_opt()
        self.opt.freeze_to(n)
        self.opt.clear_state()

    def freeze(self) -> None:
        """Train the last parameter group only.

        Example:
            >>> learn.freeze()
            >>> learn.fit_one_cycle(1, 2e-3)  # the head alone
            >>> learn.unfreeze()
        """
        self.freeze_to(-1)

    def unfreeze(self) -> None:
        """Train all parameter groups.

        Example:
            >>> learn.freeze(), learn.fit(1), learn.unfreeze()
            >>> learn.fit(1, slice(1e-5, 1e-3))
        """
        self.freeze_to(0)

    lr_find = schedule.lr_find

    # ------------------------------------------------------------ looking at data: validation and prediction

    def __enter__(self) -> Learner:
        self(['before_fit', 'before_epoch'])
        return self

    def __exit__(self, error_type: type | None, error: BaseException | None, traceback: Any) -> None:
        if error is None:
            self(['after_epoch', 'after_fit'])

    @contextmanager
    def validation_context(self, cbs: Any = None, inner: bool = False) -> Iterator[Learner]:
        """Room for a pass without training: no table, callbacks `cbs` added, random state put back.

        Args:
            cbs: callbacks for the block.
            inner: a fit or a validation is already running and its callbacks know.
        """
        with (self.no_logging(), self.no_mbar(), fork_rng(anew=True), _replaced(self, 'fit_seed', None),
              self.added_cbs(cbs)):
            if inner:
                yield self
            elif self._depth:
                with self._inside_a_fit():
                    yield self
            else:
                with self._running(), self:
                    yield self

    @tells_near_match
    def validate(self, ds_idx: int = 1, dl: Any = None, cbs: Any = None) -> Sequence[float]:
        """Loss and metrics of one pass without training: `[loss, *metrics]`, plain floats.

        Args:
            ds_idx: which split, where `dl` is None.
            dl: the loader to measure on.
            cbs: callbacks for this pass.

        Example:
            >>> loss, accuracy = learn.validate()
            >>> learn.validate(dl=learn.dls.test_dl(files, with_labels=True))
        """
        dl = self.dls[ds_idx] if dl is None else dl
        with pass_of_all(dl), self.validation_context(cbs=cbs):
            rows = self.recorder.values  # those of this pass: behind it the recorder shows the training's again
            self._do_epoch_validate(ds_idx, dl)
        return rows[-1]

    get_preds = inference.get_preds
    predict = inference.predict
    tta = inference.tta
    show_results = inference.show_results
    summary = inference.summary

    # ------------------------------------------------------------ files

    @tells_near_match
    def save(self, file: Any, with_opt: bool = True, pickle_protocol: int | None = None) -> Any:
        """Write model and optimizer state to `path/model_dir/file.pth`; returns the path.

        Args:
            file: the name, without `.pth`, or an open binary stream.
            with_opt: write the optimizer's state too.
            pickle_protocol: taken and without meaning, as in `export`.

        Example:
            >>> learn.save('stage-1')  # models/stage-1.pth below learn.path
        """
        file = join_path_file(file, self.path / self.model_dir, ext='.pth')
        save_model(file, self.own_model, self.opt, with_opt=with_opt)
        return file

    @tells_near_match
    def load(self, file: Any, with_opt: bool = True, device: Any = None, strict: bool = True) -> Learner:
        """Read what `save` wrote; a file can only hold tensors, never code.

        Args:
            file: the name, without `.pth`, or an open binary stream.
            with_opt: read the optimizer's state too.
            device: taken for old scripts; the weights go to where the model is.
            strict: the names in the file and the model must be the same.

        Raises:
            FileNotFoundError, DamagedFileError, UnsafeFileError: the file is missing, damaged, or no data.
            ValueError: the weights or the optimizer's state do not fit.

        Example:
            >>> learn.fit(1)
            >>> learn.save('stage-1')  # models/stage-1.pth
            >>> learn.load('stage-1')
        """
        if self.opt is None and with_opt:
            self.create_opt()
        device = getattr(self.dls, 'device', None) if device is None else device
        file = join_path_file(file, self.path / self.model_dir, ext='.pth')
        if self.ranks is not None:
            barrier()  # the first process may still be writing it
        load_model(file, self.own_model, self.opt, with_opt=with_opt, device=device, strict=strict)
        return self

    @tells_near_match
    def export(self, fname: str | Path = 'export.pkl', pickle_protocol: int | None = None) -> Path:
        """Write everything that prediction needs to `path/fname`, as data without code; read it with `load_learner`.

        `pickle_protocol` is taken, as packages that publish models give it, and without meaning: nothing is pickled.

        Example:
            >>> learn.export('pets.pth')  # to learn.path
            >>> again = load_learner(learn.path/'pets.pth')
        """
        return export_learner(self, self.path / fname)

    to_torch = to_torch

    @tells_near_match
    def to_onnx(self, fname: str | Path, size: tuple[int, ...] | None = None, activation: bool = True) -> Path:
        """Write `to_torch` as an ONNX file to `path/fname`; returns the path.

        Args:
            fname: name of the file.
            size, activation: as in `minifast.export.to_onnx`.
        """
        return to_onnx(self, self.path / fname, size=size, activation=activation)

    # ------------------------------------------------------------ settings for a block

    def no_logging(self) -> Any:
        """Print no table inside the block.

        Example:
            >>> with learn.no_logging():
            ...     learn.fit(1)
        """
        return _replaced(self, 'logger', noop)

    def no_mbar(self) -> Any:
        """Show no bar over the epochs inside the block."""
        return _replaced(self, 'create_mbar', False)

    @contextmanager
    def no_bar(self) -> Iterator[Learner]:
        """Show neither bar nor table inside the block.

        Example:
            >>> with learn.no_bar(), learn.no_logging():
            ...     learn.fit(1)
        """
        with self.removed_cbs(self._grab_cbs(ProgressCallback)):
            yield self

    def loss_not_reduced(self) -> Any:
        """One loss an item instead of their mean inside the block."""
        loss = self.own_loss  # what MixUp and its kin put in its place reduces by the user's
        if hasattr(loss, 'reduction'):
            return _replaced(loss, 'reduction', 'none')
        if not _takes_reduction(loss):
            raise ValueError(f'the losses of single items are wanted, and {loss!r} gives one of a batch: '
                             "let it take `reduction`, as in def loss(pred, targ, reduction='mean'), or have it as an "
                             "attribute that may be 'none'")
        return _replaced(self, 'loss_func', partial(loss, reduction='none'))

    to_detach = staticmethod(to_detach)

    # ------------------------------------------------------------ precision and memory format

    def to_fp16(self, **kwargs: Any) -> Learner:
        """Train in float16 mixed precision; `**kwargs` go to torch's `GradScaler`.

        Example:
            >>> learn = learn.to_fp16()
        """
        return self.to_fp32().add_cb(MixedPrecision(**kwargs))

    def to_bf16(self) -> Learner:
        """Train in bfloat16 mixed precision."""
        return self.to_fp32().add_cb(MixedPrecision(amp_mode=AMPMode.BF16))

    def to_fp32(self) -> Learner:
        """Train in float32 throughout."""
        return self.remove_cb(MixedPrecision)

    @tells_near_match
    def to_channelslast(self, to_bf16: bool | None = None) -> Learner:
        """Keep model and pictures in channels-last format, faster on most hardware; in bfloat16 if `to_bf16`."""
        self.remove_cb(ChannelsLast).add_cb(ChannelsLast())
        return self.to_bf16() if to_bf16 else self

    def to_contiguous(self) -> Learner:
        """Undo `to_channelslast`."""
        self.remove_cb(ChannelsLast)
        self.model.to(memory_format=torch.contiguous_format)
        return self

    @contextmanager
    def distrib_ctx(self, sync_bn: bool = True, in_notebook: bool = False) -> Iterator[Learner]:
        """A block that scripts put around training for several processes; in one process it changes nothing.

        Args:
            sync_bn: as in `to_distributed`.
            in_notebook: taken as fastai takes it, and without meaning.

        Raises:
            RuntimeError: several processes were started, and the environment does not tell where they meet.
        """
        before = self.ranks
        self.to_distributed(sync_bn)
        try:
            yield self
        finally:
            if before is None:
                self.detach_distributed()
            else:
                self.ranks.sync_bn = before.sync_bn

    @tells_near_match
    def to_distributed(self, sync_bn: bool = True, find_unused_parameters: bool = False, strategy: str | None = None,
                       units: Units | None = None) -> Learner:
        """Train with the processes that were started together, as a `Learner` does by itself; nothing in one process,
        but where a group of one runs.

        Args:
            sync_bn: batch norm over the batch of all processes, where the model is on a GPU.
            find_unused_parameters: for models of which a step may leave parameters unused.
            strategy: 'ddp' or 'fsdp', see `Learner`; default: as it was, 'ddp' where it was None.
            units: for 'fsdp', which modules are gathered on their own: classes of modules, a function of a module, or
                the least number of parameters of a repeated block, see `minifast.sharding.units_of`. A model that is
                in shares already keeps its own.

        Raises:
            ValueError: another strategy, or units where there is none.
            RuntimeError: several processes were started, and the environment does not tell where they meet.
        """
        strategy = strategy or self.strategy or 'ddp'
        if strategy not in _trainers or (units is not None and strategy != 'fsdp'):
            raise ValueError(f"strategy={strategy!r} is neither 'ddp' nor 'fsdp'" if strategy not in _trainers else
                             "units= are what strategy='fsdp' gathers, and here it is 'ddp'")
        self.strategy = strategy
        if num_distrib() > 1 or is_distributed():
            setup_distrib()
            units = getattr(self.ranks, 'units', None) if units is None else units
            self.detach_distributed()
            given = {'units': units} if self.strategy == 'fsdp' else {}
            self.ranks = _trainers[self.strategy](sync_bn, find_unused_parameters, **given)
            self.add_cbs([self.ranks, LastWord(self.ranks)])
            self.ranks.share_out(self.dls)
        return self

    def detach_distributed(self) -> Learner:
        """Undo `to_distributed`; a fit in several processes is an error then."""
        if self.ranks is not None:
            self.ranks.take_back(self.dls)
            self.ranks = None
        return self.remove_cbs([DistributedTrainer, LastWord])

    def compile(self, **kwargs: Any) -> Learner:
        """Compile the model in place by `torch.compile`, with its `**kwargs`; names of parameters stay."""
        self.model.compile(**kwargs)
        return self


def _words(learn: Learner) -> str:
    """`resnet18, 11.7 M parameters, 10 classes, 3 epochs in the last fit, cpu`."""
    recipe, parameters = vars(learn).get('recipe'), list(learn.model.parameters())
    n = sum(p.numel() for p in parameters)
    size = f'{n / 1e6:.1f} M' if n >= 1e6 else f'{n:,}'
    epochs = learn.recorder.n_epochs if hasattr(learn, 'recorder') else 0
    name = recipe['kwargs']['arch'].rpartition('.')[2] if recipe else type(get_model(learn.own_model)).__name__
    return ', '.join([name,
                      f'{size} parameters', *classes_words(learn.dls),
                      f'{counted(epochs, "epoch")} in the last fit' if epochs else 'no fit yet',
                      str(parameters[0].device if parameters else getattr(learn.dls, 'device', None) or 'cpu')])


def _takes_reduction(loss_func: Callable) -> bool:
    try:
        taken = inspect.signature(getattr(loss_func, 'forward', loss_func)).parameters
    except ValueError:  # written in C
        return True
    return 'reduction' in taken or any(p.kind is p.VAR_KEYWORD for p in taken.values())


def _given(**kwargs: Any) -> dict[str, Any]:
    """The arguments that were given: a plugin may have put a `fit` in place that knows nothing of the others."""
    return {name: value for name, value in kwargs.items() if value}


@contextmanager
def _replaced(obj: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute for the block."""
    old = getattr(obj, name)
    setattr(obj, name, value)
    try:
        yield
    finally:
        setattr(obj, name, old)


replacing_yield = _replaced
"""The name that fastai has for it."""


@tells_near_match
def load_learner(fname: str | Path, cpu: bool = True, pickle_module: Any = None, model: nn.Module | None = None,
                 functions: dict[str, Callable[..., Any]] | None = None) -> Learner:
    """The learner that `learn.export` wrote, ready to predict; its data are empty and keep transforms and classes.

    Args:
        fname: the file.
        cpu: predict on the CPU; False: where new learners run.
        pickle_module: not supported: an export is data, and nothing in it is ever run.
        model: the model to fill, for exports of a model class of the user's own.
        functions: the user's own functions, transforms and losses, by the names that the export asks for.

    Raises:
        FileNotFoundError, DamagedFileError, UnsafeFileError: the file is missing, damaged, or no data.
        ValueError: it is no export, or needs a model that is not given or does not fit.

    Example:
        >>> file = learn.export('pets.pth')  # in learn.path
        >>> label, index, probabilities = load_learner(file).predict('cat.jpg')
    """
    if pickle_module is not None:
        raise ValueError('load_learner reads exports that hold no pickle: leave pickle_module out. An export made by '
                         'fastai is refused; the message then tells how to convert it')
    found = read_export(fname, cpu=cpu, model=model, functions=functions)
    learn = Learner(**found['learner'])
    learn.recipe = found['recipe']
    return learn
