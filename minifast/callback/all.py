"""All callbacks.

Written by tools/make_namespaces.py from the rooms' `__all__` (`make namespaces`).
"""
from minifast.callback.channelslast import ChannelsLast
from minifast.callback.checkpoint import (
    CheckpointCallback, checkpoints_in, fit_was_done, FolderInUseError, newest_checkpoint,
)
from minifast.callback.core import (
    before_batch_cb, Callback, CancelBackwardException, CancelBatchException, CancelEpochException,
    CancelFitException, CancelStepException, CancelTrainException, CancelValidException, compile_hooks, event, events,
    FetchPredsCallback, GatherPredsCallback, hooks_of, TrainEvalCallback,
)
from minifast.callback.data import CollectDataCallback, PartialDL, WeightedDL
from minifast.callback.fp16 import AMPMode, AutoPrecision, MixedPrecision
from minifast.callback.hook import (
    ActivationStats, dummy_eval, has_params, Hook, hook_output, hook_outputs, HookCallback, Hooks, layer_info,
    model_sizes, module_summary, num_features_model, total_params,
)
from minifast.callback.mixup import CutMix, MixHandler, MixUp, reduce_loss
from minifast.callback.mlflow import MLflowCallback
from minifast.callback.preds import MCDropoutCallback
from minifast.callback.progress import CSVLogger, ProgressCallback, ShowGraphCallback
from minifast.callback.recorder import format_time, Recorder, SmoothLoss
from minifast.callback.schedule import (
    annealer, combine_scheds, combined_cos, lr_find, LRFinder, minimum, ParamScheduler, sched_cos, sched_exp,
    sched_lin, sched_no, SchedCos, SchedExp, SchedLin, SchedNo, SchedPoly, slide, steep, SuggestionMethod, valley,
)
from minifast.callback.tensorboard import (
    tensorboard_log, TensorBoardBaseCallback, TensorBoardCallback, TensorBoardProjectorCallback,
)
from minifast.callback.tracker import (
    EarlyStoppingCallback, ReduceLROnPlateau, SaveModelCallback, TerminateOnNaNCallback, TrackerCallback,
)
from minifast.callback.tracking import ExperimentLogger, settings_of, Step
from minifast.callback.training import (
    bn_types, BnFreeze, CastToTensor, EMA, EMACallback, GradientAccumulation, GradientClip, set_bn_eval,
    ShortEpochCallback, SkipToEpoch,
)
from minifast.callback.wandb import log_dataset, log_model, wandb_process, WandbCallback

__all__ = [
    'ActivationStats', 'AMPMode', 'annealer', 'AutoPrecision', 'before_batch_cb', 'bn_types', 'BnFreeze', 'Callback',
    'CancelBackwardException', 'CancelBatchException', 'CancelEpochException', 'CancelFitException',
    'CancelStepException', 'CancelTrainException', 'CancelValidException', 'CastToTensor', 'ChannelsLast',
    'CheckpointCallback', 'checkpoints_in', 'CollectDataCallback', 'combine_scheds', 'combined_cos', 'compile_hooks',
    'CSVLogger', 'CutMix', 'dummy_eval', 'EarlyStoppingCallback', 'EMA', 'EMACallback', 'event', 'events',
    'ExperimentLogger', 'FetchPredsCallback', 'fit_was_done', 'FolderInUseError', 'format_time',
    'GatherPredsCallback', 'GradientAccumulation', 'GradientClip', 'has_params', 'Hook', 'hook_output',
    'hook_outputs', 'HookCallback', 'Hooks', 'hooks_of', 'layer_info', 'log_dataset', 'log_model', 'lr_find',
    'LRFinder', 'MCDropoutCallback', 'minimum', 'MixedPrecision', 'MixHandler', 'MixUp', 'MLflowCallback',
    'model_sizes', 'module_summary', 'newest_checkpoint', 'num_features_model', 'ParamScheduler', 'PartialDL',
    'ProgressCallback', 'Recorder', 'reduce_loss', 'ReduceLROnPlateau', 'SaveModelCallback', 'sched_cos', 'sched_exp',
    'sched_lin', 'sched_no', 'SchedCos', 'SchedExp', 'SchedLin', 'SchedNo', 'SchedPoly', 'set_bn_eval', 'settings_of',
    'ShortEpochCallback', 'ShowGraphCallback', 'SkipToEpoch', 'slide', 'SmoothLoss', 'steep', 'Step',
    'SuggestionMethod', 'tensorboard_log', 'TensorBoardBaseCallback', 'TensorBoardCallback',
    'TensorBoardProjectorCallback', 'TerminateOnNaNCallback', 'total_params', 'TrackerCallback', 'TrainEvalCallback',
    'valley', 'wandb_process', 'WandbCallback', 'WeightedDL',
]
