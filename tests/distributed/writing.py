"""Run by torchrun: what prints, writes and sends acts on rank 0; the contract of callbacks; saving and loading."""
from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

from training import learner, weights

from minifast.callback.core import Callback
from minifast.callback.progress import CSVLogger, ProgressCallback, ShowGraphCallback
from minifast.callback.tracker import (EarlyStoppingCallback, ReduceLROnPlateau, SaveModelCallback,
                                       TerminateOnNaNCallback)
from minifast.callback.tracking import ExperimentLogger
from minifast.callback.training import EMA, BnFreeze, GradientAccumulation, GradientClip, ShortEpochCallback
from minifast.distributed import barrier, gather_objects, rank_distrib
from minifast.metrics import accuracy
from minifast.testing import check_callback

CONTRACT = [CSVLogger, ProgressCallback, ShowGraphCallback, EarlyStoppingCallback, ReduceLROnPlateau,
            SaveModelCallback, TerminateOnNaNCallback, EMA, BnFreeze, GradientAccumulation, GradientClip,
            ShortEpochCallback]


class Looks(Callback):
    """Predicts in the first process alone, as a callback that sends pictures of results does."""

    only_rank0, order = True, 90

    def after_epoch(self):
        self.seen = len(self.learn.get_preds(inner=True)[0])


class Sends(ExperimentLogger):
    """An experiment tracker that keeps what it is sent."""

    def __init__(self):
        self.epochs, self.steps = [], 0

    def log_steps(self, steps):
        self.steps += len(steps)

    def log_epoch(self, numbers):
        self.epochs.append(numbers)


def contract():
    """The callbacks that keep the contract under several processes."""
    return [make.__name__ for make in CONTRACT if check_callback(make) is not None]


def told(folder):
    """What a fit with a table, a file and a tracker leaves on each rank."""
    learn, printed = learner(metrics=accuracy, path=folder), io.StringIO()
    learn.add_cb(ProgressCallback())
    learn.logger = print
    looks, sends = Looks(), Sends()
    with redirect_stdout(printed):
        learn.fit(2, cbs=[CSVLogger(), SaveModelCallback(), looks, sends])
    barrier()
    return {'printed': printed.getvalue(), 'looks': vars(looks).get('seen'), 'rows': len(sends.epochs),
            'steps': sends.steps, 'csv': (folder / 'history.csv').read_text().splitlines()}


def saved(folder):
    """The weights that every rank reads are those that the first has written, and they are the same."""
    learn = learner(path=folder)
    learn.fit(1)
    kept = weights(learn)
    learn.save('kept')
    learn.fit(1)
    learn.load('kept')
    learn.export('kept.pkl')
    found = gather_objects(weights(learn).tolist())
    return {'same': bool((weights(learn) == kept).all()), 'on all': len({str(w) for w in found}) == 1,
            'files': sorted(p.name for p in folder.rglob('kept*')) if rank_distrib() == 0 else []}


if __name__ == '__main__':
    out = Path(sys.argv[1])
    parts = {'contract': contract(), 'told': told(out / 'told'), 'saved': saved(out / 'saved')}
    (out / f'rank_{rank_distrib()}.json').write_text(json.dumps(parts), encoding='utf-8')
