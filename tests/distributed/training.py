"""Run by torchrun, or alone: each `part` trains or measures, and rank 0 writes what came out as one tensor file.

STRATEGY=fsdp in the environment has the model in shares, each linear layer a unit of its own.
The batch of all processes has 12 items whatever their number, and 43 items are 3 full batches and one of 7.
"""
from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import torch
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
from minifast.seeds import set_seed
from minifast.sharding import whole

N, BS = 43, 12
STRATEGY = os.environ.get('STRATEGY', 'ddp')


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
    learn = joined(Learner(loaders() if dls is None else dls, model(), **{'strategy': STRATEGY, **kwargs}))
    learn.remove_cb(learn.progress)
    learn.logger = lambda row: None
    set_seed(5)
    return learn


def joined(learn):
    """A learner whose linear layers are gathered one by one, where it has its model in shares."""
    return learn.to_distributed(sync_bn=False, units=nn.Linear) if learn.strategy == 'fsdp' else learn


def weights(learn):
    """All weights in one row."""
    return torch.cat([whole(p.detach(), on_all=True).flatten() for p in learn.model.parameters()])


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
    'clipping_largest': lambda: fitted(cbs=[GradientClip(.02, float('inf'))]),
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
    found['few'] = few[0]
    if rank == 0 or STRATEGY == 'fsdp':  # a model in shares is called by all
        found['one'] = learn.predict(items()[0][0][None])[2]
    return found


@part
def torch_loader():
    """A plain torch loader with the sampler that torch wants for it; 36 items, so that none is taken twice."""
    from torch.utils.data import DataLoader as TorchLoader
    from torch.utils.data import DistributedSampler
    ranks, data = max(num_distrib(), 1), items(36)
    sampler = DistributedSampler(data, num_replicas=ranks, rank=rank_distrib(), shuffle=False)
    valid = DataLoader(items(), global_bs=BS)
    return fitted(dls=DataLoaders(TorchLoader(data, BS // ranks, sampler=sampler), valid))


@part
def foreign_validation():
    """Torch's loader without a sampler: every process validates all of it."""
    from torch.utils.data import DataLoader as TorchLoader
    train = DataLoader(items(), global_bs=BS, shuffle=True)
    return fitted(dls=DataLoaders(train, TorchLoader(items(), 10)), metrics=accuracy)


@part
def search():
    """`lr_find`, which ends at the same step on all ranks and leaves no trace, then a training."""
    learn = learner(loss_func=nn.CrossEntropyLoss(label_smoothing=.5))
    before = weights(learn).clone() if rank_distrib() == 0 else weights(learn)
    found = learn.lr_find(num_it=200, show_plot=False, end_lr=1e6)
    n_steps = gather_objects(len(learn.recorder.lr_search[0]))
    assert n_steps == n_steps[:1] * len(n_steps) and n_steps[0] < 200, n_steps
    assert torch.equal(before, weights(learn)) or rank_distrib()
    learn.fit(1)
    return {'found': torch.tensor([found.valley]), 'n_steps': torch.tensor(n_steps[0]), 'weights': weights(learn)}


@part
def tuned():
    """`fine_tune`: the body frozen, then not."""
    learn = learner(splitter=lambda m: [list(m[:2].parameters()), list(m[2:].parameters())])
    learn.fine_tune(2, 1e-2)
    return {'weights': weights(learn), 'row': torch.tensor(learn.recorder.values[-1], dtype=torch.float64)}


def picture_learner():
    """Pictures that are cropped and augmented, item by item and batch by batch, with batch norm and dropout."""
    import numpy as np
    from minifast.data.block import DataBlock
    from minifast.data.categorize import CategoryBlock
    from minifast.data.transforms import IndexSplitter
    from minifast.vision.augment import RandomResizedCrop, aug_transforms
    from minifast.vision.core import PILImage
    from minifast.vision.data import ImageBlock
    pixels = np.random.default_rng(1).integers(0, 256, (N, 20, 20, 3), np.uint8)
    block = DataBlock((ImageBlock, CategoryBlock), splitter=IndexSplitter(range(30, N)),
                      get_x=lambda i: PILImage.create(pixels[i]), get_y=lambda i: str(i % 3),
                      item_tfms=RandomResizedCrop(16, min_scale=.6), batch_tfms=aug_transforms(xtra_tfms=None))
    dls = block.dataloaders(range(N), global_bs=BS, drop_last=False, num_workers=0)
    torch.manual_seed(2)
    net = nn.Sequential(nn.Conv2d(3, 2, 5, 4), nn.Flatten(), nn.Linear(18, 3))
    learn = joined(Learner(dls, net, opt_func=SGD, lr=.01, metrics=accuracy, strategy=STRATEGY))
    learn.remove_cb(learn.progress)
    learn.logger = lambda row: None
    set_seed(5)
    return learn


@part
def pictures():
    """The same pixels, and predictions on augmented ones."""
    learn, seen = picture_learner(), Seen()
    learn.fit(2, cbs=seen)
    found = dict(zip(('tta', 'targets'), learn.tta(n=2)))
    return {'seen': seen.rows(), 'weights': weights(learn), **found}


if __name__ == '__main__':
    from safetensors.torch import save_file
    torch.use_deterministic_algorithms(True)
    for name in sys.argv[2].split(','):
        out = {key: value.contiguous() for key, value in PARTS[name]().items()}
        if rank_distrib() == 0:
            save_file(out, Path(sys.argv[1]) / f'{name}_{max(num_distrib(), 1)}.safetensors')
