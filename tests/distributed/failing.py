"""Run by torchrun: rank 1 alone fails, cancels or is interrupted in one event; each rank writes what it met.

The learner goes on being used: after each failure all ranks train together once more, and their weights are compared.
"""
from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path

import torch
from torch.utils.data import TensorDataset
from training import BS, items, learner, loaders, weights

from minifast.callback.core import (Callback, CancelBackwardException, CancelBatchException, CancelEpochException,
                                    CancelFitException, CancelStepException, CancelTrainException,
                                    CancelValidException, events)
from minifast.callback.mixup import MixUp
from minifast.data.core import DataLoaders
from minifast.data.load import DataLoader
from minifast.distributed import gather_objects, rank_distrib, setup_distrib

CANCELS = {'fit': CancelFitException, 'epoch': CancelEpochException, 'train': CancelTrainException,
           'validate': CancelValidException, 'batch': CancelBatchException, 'backward': CancelBackwardException,
           'step': CancelStepException}
EVENTS = [name for name in events if name != 'after_create' and 'cancel' not in name]
WHERE = {'fit': ['before_fit', 'before_batch', 'after_step', 'after_batch', 'after_epoch'],
         'epoch': ['before_epoch', 'before_batch', 'after_loss', 'after_batch', 'before_validate'],
         'train': ['before_train', 'after_pred', 'after_loss', 'after_step', 'after_batch'],
         'validate': ['before_validate', 'after_loss', 'after_batch'],
         'batch': ['before_batch', 'after_pred', 'after_loss', 'before_backward', 'after_backward', 'before_step'],
         'backward': ['before_backward'], 'step': ['before_step']}


class Once(Callback):
    """Raises `error` in one event of one rank, at batch 1 of epoch 1 where it is one of a batch."""

    def __init__(self, event, error, rank=1, order=0, training=True):
        self.event, self.error, self.rank, self.training_only = event, error, rank, training
        self.order, self.done = order, False
        setattr(self, event, self._raise)

    def _raise(self):
        learn = self.learn
        inside = self.event in EVENTS[EVENTS.index('before_batch'):EVENTS.index('after_batch') + 1]
        if self.done or rank_distrib() != self.rank or inside and (
                learn.iter != 1 or learn.training != self.training_only):
            return
        if self.event not in ('before_fit', 'after_fit', 'cleanup_fit') and learn.epoch != 1:
            return
        self.done = True
        raise self.error


class Counts(Callback):
    """How often the events that matter came."""

    order = -200

    def before_fit(self):
        self.n = {'steps': 0, 'cancelled': []}

    def after_step(self):
        self.n['steps'] += 1

    def after_cancel_fit(self):
        self.n['cancelled'].append('fit')

    def after_cancel_epoch(self):
        self.n['cancelled'].append('epoch')

    def after_cancel_train(self):
        self.n['cancelled'].append('train')

    def after_cancel_validate(self):
        self.n['cancelled'].append('validate')

    def after_cancel_batch(self):
        self.n['cancelled'].append('batch')


def met(f):
    """What a rank met: the error's type and text, or None."""
    try:
        f()
    except BaseException as error:
        if '-v' in sys.argv:
            traceback.print_exc()
        return [type(error).__name__, str(error)]
    return None


def agreed(learn):
    """Whether all ranks can train together, and do so with the same weights."""
    learn.fit(1)
    return len({str(w) for w in gather_objects(weights(learn).tolist())}) == 1


def errors():
    """An error of a hook of rank 1, in each event."""
    found = {}
    for mix in (False, True):
        learn = learner(cbs=MixUp() if mix else None)
        for event in EVENTS if not mix else ('after_step', 'after_batch'):
            error = met(lambda: learn.fit(2, cbs=Once(event, ValueError(f'in {event}'))))
            found[f'{event}{" mixed" if mix else ""}'] = [error, agreed(learn)]
    learn = learner()
    found['interrupt'] = [met(lambda: learn.fit(2, cbs=Once('after_step', KeyboardInterrupt()))), agreed(learn)]
    early = Once('after_validate', ValueError('before the recorder'), order=-50)
    found['before the recorder'] = [met(lambda: learn.fit(2, cbs=early)), agreed(learn)]
    return found


def data_errors():
    """An item, a target, and the loss of one rank."""
    found = {}

    class Broken(TensorDataset):
        def __getitem__(self, i):
            if i == 4:  # of the second of two ranks, were the order not shuffled
                raise OSError('item 4 cannot be read')
            return super().__getitem__(i)

    def fit_on(train):
        dls = DataLoaders(DataLoader(train, global_bs=BS, num_workers=0), DataLoader(items(), global_bs=BS))
        learn = learner(dls)
        found_error = met(lambda: learn.fit(1))
        learn.dls = loaders()
        return [found_error, agreed(learn)]
    found['item'] = fit_on(Broken(*items().tensors))
    x, y = items().tensors
    found['target'] = fit_on(TensorDataset(x, torch.where(torch.arange(len(y)) == 4, 9, y)))
    return found


def cancels():
    """Each Cancel exception of rank 1 in the events where it means something."""
    found = {}
    for part, wheres in WHERE.items():
        for event in wheres:
            learn, counts = learner(), Counts()
            once = Once(event, CANCELS[part], training=part != 'validate')
            error = met(lambda: learn.fit(3, cbs=[once, counts]))
            row = [len(r) for r in learn.recorder.values]
            found[f'{part} in {event}'] = [error, counts.n['steps'], counts.n['cancelled'], row,
                                           weights(learn).tolist(), agreed(learn)]
    return found


def different():
    """Ranks that do not train the same."""
    rank, found = rank_distrib(), {}
    found['data'] = met(lambda: learner(loaders(n=43 - rank)).fit(1))
    other = learner()
    if rank == 1:
        other.model.append(torch.nn.Linear(4, 4))
    found['model'] = met(lambda: other.fit(1))
    found['epochs'] = met(lambda: learner().fit(1 + rank))
    unused = learner()
    unused.model[0].unused = torch.nn.Linear(2, 2)
    found['unused'] = met(lambda: unused.fit(1))
    found['unused allowed'] = met(lambda: unused.to_distributed(find_unused_parameters=True).fit(1))
    found['few'] = met(lambda: learner(loaders(n=1)).fit(1))
    found['lists'] = met(lambda: learner(DataLoaders([items()[:8]], [items()[:8]])).fit(1))
    plain = torch.utils.data.DataLoader(items(), 4)
    found['torch'] = met(lambda: learner(DataLoaders(plain, plain)).fit(1))
    found['global_bs'] = met(lambda: DataLoader(items(), global_bs=13))
    found['not joined'] = met(lambda: learner(strategy=None).fit(1))
    short = learner()
    short.dls.train.get_idxs = lambda: range(43 - 20 * rank)
    found['order'] = met(lambda: short.fit(1))
    found['afterwards'] = agreed(learner())
    return found


if __name__ == '__main__':
    setup_distrib(timeout_s=20)
    told = {name: globals()[name]() for name in sys.argv[2].split(',')}
    Path(sys.argv[1], f'rank_{rank_distrib()}.json').write_text(json.dumps(told), encoding='utf-8')
