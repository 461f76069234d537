"""Run by torchrun, or alone: trainings on streams; each rank writes which items it was given, step by step.

The shards are of unequal length, so that some ranks come to their end before others.
"""
from __future__ import annotations

import io
import json
import sys
import tarfile
import warnings
from functools import partial
from pathlib import Path

import datasets
import torch
import webdataset as wds
from torch import nn

from minifast.callback.checkpoint import CheckpointCallback
from minifast.callback.core import Callback, CancelBatchException
from minifast.data.core import DataLoaders
from minifast.data.load import DataLoader
from minifast.distributed import num_distrib, rank_distrib
from minifast.learner import Learner
from minifast.losses import MSELossFlat
from minifast.optimizer import SGD
from minifast.seeds import set_seed


def write_shards(folder, n_shards=4):
    """Tar files and files of JSON lines in `folder`, of 5, 7, 9 ... items that are numbered through; returns how many
    items there are."""
    folder.mkdir()
    n = 0
    for shard in range(n_shards):
        numbers = range(n, n + 5 + 2 * shard)
        texts = [json.dumps({'i': i}) for i in numbers]
        (folder / f'{shard}.jsonl').write_text('\n'.join(texts) + '\n')
        with tarfile.open(folder / f'{shard}.tar', 'w') as tar:
            for i, text in zip(numbers, texts):
                member = tarfile.TarInfo(f'{i:04d}.x.json')
                member.size = len(text)
                tar.addfile(member, io.BytesIO(text.encode()))
        n += len(numbers)
    return n


def numbered(sample):
    """An item by its number: input and target."""
    n = torch.tensor([float(sample['x.json']['i'])])
    return n, n / 10


def from_dict(sample):
    """The same of `datasets`."""
    return torch.tensor([float(sample['i'])]), torch.tensor([sample['i'] / 10])


def web(shards, shuffled):
    """Tar files."""
    stream = wds.WebDataset([str(p) for p in shards if p.suffix == '.tar'], shardshuffle=9 if shuffled else False)
    return (stream.shuffle(5) if shuffled else stream).decode().map(numbered)


def hugging_face(shards, shuffled):
    """Lines of JSON."""
    files = [str(p) for p in shards if p.suffix == '.jsonl']
    stream = datasets.load_dataset('json', data_files=files, split='train', streaming=True)
    return stream.shuffle(seed=1, buffer_size=5) if shuffled else stream


def ordered(shards, shuffled):
    """The same, never shuffled, so that the library's state is what a resume goes by."""
    return hugging_face(shards, False)


KINDS = {'web': web, 'hugging_face': hugging_face, 'ordered': ordered}


class Seen(Callback):
    """Keeps the items of each training step and validation batch: [epoch, training, stands in, items]."""

    order = 5

    def before_fit(self):
        self.seen = []

    def state_dict(self):
        """Nothing: what was seen before a restart is not seen again."""
        return {}

    def load_state_dict(self, state):
        """Nothing."""

    def before_batch(self):
        stands_in = self.learn.training and bool(self.learn.dl.stands_in)
        self.seen.append([self.learn.epoch, self.learn.training, stands_in, self.learn.xb[0].flatten().int().tolist()])


class Stopped(Exception):
    """A training has died."""


class StopAfter(Callback):
    """Ends all ranks behind so many steps, when the checkpoint of the last one is written."""

    order = 2000

    def __init__(self, n):
        self.n = n

    def after_batch(self):
        if self.learn.training and self.learn.train_iter == self.n:
            raise Stopped


class CancelOnFirst(Callback):
    """Cancels a batch on the first rank alone, behind its step, where the others may be at the next batch already."""

    def after_step(self):
        if rank_distrib() == 0 and self.learn.iter == 1:
            raise CancelBatchException


def learner(kind, shards, workers):
    """One weight and one batch norm, which no stand-in may touch."""
    make = partial(DataLoader, num_workers=workers, bs=4)
    after = {} if kind == 'web' else {'after_item': from_dict}
    dls = DataLoaders(make(KINDS[kind](shards, True), **after), make(KINDS[kind](shards, False), **after))
    torch.manual_seed(0)
    learn = Learner(dls, nn.Linear(1, 1), loss_func=MSELossFlat(), opt_func=SGD, lr=1e-4)
    learn.remove_cb(learn.progress)
    learn.logger = lambda row: None
    set_seed(5)
    return learn


def trained(kind, shards, workers, folder):
    """Three epochs, whole; and anew, broken off in the middle of the second and gone on with."""
    found = {}
    learn, seen = learner(kind, shards, workers), Seen()
    learn.fit(3, cbs=seen)
    found['whole'], n_steps = seen.seen, sum(training for _, training, *_ in seen.seen)
    found['weights'] = [p.tolist() for p in learn.model.parameters()]
    found['row'] = list(map(float, learn.recorder.values[-1]))
    preds, targets = learn.get_preds()
    found['predicted'] = (targets * 10).round().int().flatten().tolist()
    learn, seen = learner(kind, shards, workers), Seen()
    learn.fit(1, cbs=[seen, CancelOnFirst()])
    found['cancelled'] = seen.seen
    for stop in (n_steps // 3 + 2, n_steps - 1):  # early in the second epoch, and where some ranks have nothing more
        checkpoints = partial(CheckpointCallback, folder / f'{kind}-{workers}-{max(num_distrib(), 1)}-{stop}', every=1,
                              background=False)
        learn, seen = learner(kind, shards, workers), Seen()
        try:
            learn.fit(3, cbs=[seen, StopAfter(stop), checkpoints()])
        except Stopped:
            broken_off = seen.seen
        learn, seen = learner(kind, shards, workers), Seen()
        learn.fit(3, cbs=[seen, checkpoints()], resume=True)
        found['resumed'] = [*found.get('resumed', []), {'stop': stop, 'before': broken_off, 'after': seen.seen,
                             'weights': [p.tolist() for p in learn.model.parameters()]}]
    return found


if __name__ == '__main__':
    warnings.simplefilter('error')
    warnings.simplefilter('ignore', ResourceWarning)  # webdataset leaves the closing of its files to Python
    folder = Path(sys.argv[1])
    for kind in sys.argv[2].split(','):
        for workers in map(int, sys.argv[3].split(',')):
            shards = sorted((folder / 'shards').iterdir())
            out = trained(kind, shards, workers, folder)
            name = f'{kind}-{workers}-{max(num_distrib(), 1)}-{rank_distrib()}.json'
            (folder / name).write_text(json.dumps(out))
