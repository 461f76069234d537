"""Run by torchrun, or alone: each `part` trains or measures, and rank 0 writes what came out as one tensor file.

The batch of all processes has 12 items whatever their number, and 43 items are 3 full batches and one of 7.
"""
from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from minifast.callback.core import Callback
from minifast.callback.mixup import CutMix, MixUp
from minifast.callback.training import EMA, GradientAccumulation, GradientClip
from minifast.data.core import DataLoaders, WeightedDL
from minifast.data.load import DataLoader
from minifast.distributed import gather_objects, num_distrib, rank_distrib
from minifast.learner import Learner
from minifast.metrics import F1Score, RocAuc, accuracy
from minifast.optimizer import SGD
from minifast.torch_core import set_seed

N, BS = 43, 12


def items(n=N):
    """Pictures [n,3,6,6] and their classes, 0-3."""
    g = torch.Generator().manual_seed(7)
    return TensorDataset(torch.randn(n, 3, 6, 6, generator=g), torch.randint(0, 4, (n,), generator=g))


def loaders(train=DataLoader, n=N, **kwargs):
    """Shuffled training batches, the last one not full, and the same items to validate on."""
    return DataLoaders(train(items(n), global_bs=BS, shuffle=True, drop_last=False, num_workers=0, **kwargs),
                       DataLoader(items(), global_bs=BS, num_workers=0))


def model():
    """Some hundred weights, other ones on each rank: those of rank 0 count."""
    torch.manual_seed(3 + rank_distrib())
    return nn.Sequential(nn.Flatten(), nn.Linear(108, 5), nn.Tanh(), nn.Linear(5, 4))


def learner(dls=None, **kwargs):
    """A silent learner, its random streams set."""
    kwargs = {'opt_func': partial(SGD, mom=.9), 'lr': .05, 'loss_func': nn.CrossEntropyLoss(), **kwargs}
    learn = Learner(loaders() if dls is None else dls, model(), **kwargs)
    learn.remove_cb(learn.progress)
    learn.logger = lambda row: None
    set_seed(5)
    return learn


def weights(learn):
    """All weights in one row."""
    return torch.cat([p.detach().flatten() for p in learn.model.parameters()])


class Seen(Callback):
    """Keeps what the model is given, of all ranks, in the order of the batch of all."""

    order, run_valid = 5, False

    def before_fit(self):
        self.batches, self.losses = [], []

    def before_batch(self):
        stands_in = getattr(self.learn.dl, 'stands_in', False)
        own = [] if stands_in else list(zip(self.learn.xb[0].flatten(1).tolist(), self.learn.yb[0].tolist()))
        parts = gather_objects(own)
        self.batches += [parts[i % len(parts)][i // len(parts)] for i in range(sum(map(len, parts)))]

    def after_batch(self):
        self.losses.append(float(self.learn.loss.detach()))

    def rows(self):
        """What was seen, [items, values]."""
        return torch.tensor([[*x, float(y)] for x, y in self.batches], dtype=torch.float64)


def fitted(*, n_epoch=5, cbs=(), **kwargs):
    """Weights after 20 steps, the losses on the way, and the last row of the table."""
    learn, seen = learner(**kwargs), Seen()
    learn.fit(n_epoch, cbs=[seen, *cbs])
    row = torch.tensor(learn.recorder.values[-1], dtype=torch.float64)
    return {'weights': weights(learn), 'losses': torch.tensor(seen.losses), 'row': row, 'seen': seen.rows()}


PARTS = {
    'sgd': fitted,
    'adamw': lambda: fitted(opt_func=torch.optim.AdamW, lr=.01),
    'sum': lambda: fitted(loss_func=nn.CrossEntropyLoss(reduction='sum'), lr=.01),
    'one_left': lambda: fitted(dls=loaders(n=37)),
    'accumulation': lambda: fitted(cbs=[GradientAccumulation(24)]),
    'clipping': lambda: fitted(cbs=[GradientClip(.2)]),
    'ema': lambda: fitted(cbs=[EMA(.7)]),
    'mixup': lambda: fitted(cbs=[MixUp()]),
    'cutmix': lambda: fitted(cbs=[CutMix()]),
    'weighted': lambda: fitted(dls=loaders(WeightedDL, wgts=[1 + i % 5 for i in range(N)])),
    'metrics': lambda: fitted(metrics=[accuracy, F1Score(average='macro'), RocAuc()]),
}


def part(f):
    """Have a function as a part of its name."""
    PARTS[f.__name__] = f
    return f


@part
def predictions():
    """`get_preds` of both loaders, `validate`, `predict`."""
    learn = learner(metrics=accuracy)
    learn.fit(1)
    found = {'valid': torch.tensor(learn.validate(), dtype=torch.float64)}
    for i in range(2):
        x, preds, targets, decoded, losses = learn.get_preds(i, with_input=True, with_decoded=True, with_loss=True)
        found |= {f'x{i}': x, f'preds{i}': preds, f'targets{i}': targets, f'decoded{i}': decoded, f'losses{i}': losses}
    few = learn.get_preds(dl=learn.dls[1].new(TensorDataset(*items()[:1])))
    rank = rank_distrib()
    found |= {'few': few[0], 'one': learn.predict(items()[0][0][None])[2]} if rank == 0 else {'few': few[0]}
    return found


if __name__ == '__main__':
    from safetensors.torch import save_file
    torch.use_deterministic_algorithms(True)
    for name in sys.argv[2].split(','):
        out = {key: value.contiguous() for key, value in PARTS[name]().items()}
        if rank_distrib() == 0:
            save_file(out, Path(sys.argv[1]) / f'{name}_{max(num_distrib(), 1)}.safetensors')
