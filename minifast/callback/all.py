"""All callbacks.

Written by tools/make_namespaces.py from the rooms' `__all__` (`make namespaces`).
"""
from minifast.callback.core import (
    Callback, CancelBackwardException, CancelBatchException, CancelEpochException, CancelFitException,
    CancelStepException, CancelTrainException, CancelValidException, compile_hooks, event, events, FetchPredsCallback,
    GatherPredsCallback, hooks_of, TrainEvalCallback,
)

__all__ = [
    'Callback', 'CancelBackwardException', 'CancelBatchException', 'CancelEpochException', 'CancelFitException',
    'CancelStepException', 'CancelTrainException', 'CancelValidException', 'compile_hooks', 'event', 'events',
    'FetchPredsCallback', 'GatherPredsCallback', 'hooks_of', 'TrainEvalCallback',
]
