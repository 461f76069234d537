"""Exact resume on a GPU: the same bits with dropout, averages, scalers and augmentation there, by each writer."""
from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from gpu_learner import silent
from torch import nn

from minifast.callback.checkpoint import CheckpointCallback, newest_checkpoint
from minifast.callback.core import Callback
from minifast.data.core import DataLoaders
from minifast.learner import Learner
from minifast.optimizer import Adam
from minifast.tensorfile import read_tensors
from tests.resume.training import Kill, differences, killed_and_resumed, outcome, run, undisturbed

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).resolve().parents[2]


def spec_of(device, **spec):
    return {'device': device.type, 'reproducible': True, **spec}


def check(spec, found):
    expected = undisturbed(json.dumps(spec, sort_keys=True))
    assert not differences(expected, found), f'{differences(expected, found)} differ'


KINDS = [{}, {'cbs': ['ema']}, {'cbs': ['accumulate']}, {'cbs': ['fp16']}, {'cbs': ['bf16', 'mixup']},
         {'cbs': ['fp16', 'accumulate', 'ema']}, {'loader': 'torch'}, {'loader': 'pictures'},
         {'loader': 'pictures', 'fit': 'fine_tune', 'workers': 2, 'cbs': ['fp16']}]


@pytest.mark.parametrize('background', [True, False], ids=['own thread', 'in the loop'])
@pytest.mark.parametrize('kind', KINDS, ids=str)
def test_a_killed_training_resumes_to_the_same_bits(device, reproducible, tmp_path, kind, background):
    """Killed in a step and then between two others: weights, optimizer, losses, predictions and what is drawn next."""
    spec = spec_of(device, **kind)
    learn = killed_and_resumed({**spec, 'every': 1, 'background': background}, tmp_path,
                               [(3, 'after_backward'), (8, 'after_step')])
    check(spec, outcome(learn))


@pytest.mark.parametrize('kind', [{'cbs': ['ema']}, {'loader': 'pictures', 'cbs': ['fp16']}], ids=str)
def test_a_training_killed_by_the_system_resumes_in_a_new_process(device, reproducible, tmp_path, kind):
    """SIGKILL in a step, another process, another seed: the GPU's generator too goes on from the file."""
    spec = spec_of(device, **kind)

    def attempt(**more):
        text = json.dumps({**spec, 'folder': str(tmp_path / 'c'), 'every': 1, 'out': str(tmp_path / 'out'), **more})
        return subprocess.run([sys.executable, '-W', 'ignore', '-m', 'tests.resume.training', text], cwd=ROOT,
                              text=True, capture_output=True)
    killed = attempt(kill_at=8, how='kill')
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = attempt(resume=True, seed=99)
    assert resumed.returncode == 0, resumed.stderr
    check(spec, read_tensors(tmp_path / 'out'))


# ---------------------------------------------------------------- what is written while the training goes on

class Keep(Callback):
    """Keeps a copy of weights and averages, on their device, behind every step."""

    order, run_valid, not_carried = 900, False, ('kept',)

    def __init__(self):
        self.kept = {}

    def after_batch(self):
        state = self.opt.state
        self.kept[self.train_iter] = ([p.detach().clone() for p in self.model.parameters()],
                                      [state[p]['grad_avg'].clone() for p in self.model.parameters()])


@pytest.mark.parametrize('background', [True, False], ids=['own thread', 'in the loop'])
def test_a_checkpoint_holds_its_own_step_and_none_behind_it(device, tmp_path, background):
    """50 MB of weights, steps that are queued faster than they run: each file has the bits of the step it is named
    for, though the next one changes them in place."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1024, 4096), nn.ReLU(), nn.Linear(4096, 1024), nn.ReLU(), nn.Linear(1024, 4))
    batches = [(torch.randn(64, 1024), torch.randint(0, 4, (64,))) for _ in range(8)]
    learn, keep = silent(Learner(DataLoaders(batches), model, F.cross_entropy, Adam)), Keep()
    learn.dls.device = device
    learn.fit(1, 1e-2, cbs=[keep, CheckpointCallback(tmp_path, every=1, keep=20, background=background)])
    files = sorted(tmp_path.glob('checkpoint-*.pth'))
    seen = set()
    for file in files:
        found = read_tensors(file)
        at = found['train_iter']
        if at:
            ps, averages = keep.kept[at]
            assert all(torch.equal(a, b.cpu()) for a, b in zip(found['model'].values(), ps, strict=True)), at
            assert all(torch.equal(found['opt']['state'][i]['grad_avg'], b.cpu()) for i, b in enumerate(averages)), at
            seen.add(at)
    assert seen == set(range(1, 9))


# ---------------------------------------------------------------- from one device to another

def on(device):
    torch.manual_seed(1)
    g = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(.2), nn.Linear(16, 3))
    batches = [(torch.randn(8, 6, generator=g), torch.randint(0, 3, (8,), generator=g)) for _ in range(4)]
    learn = silent(Learner(DataLoaders(batches, batches), model, F.cross_entropy, Adam))
    learn.dls.device = device
    return learn


class First(Callback):
    """Keeps weights and optimizer as they are before the first batch, and where they are."""

    order, not_carried = 2000, ('found', 'averages', 'devices')

    def __init__(self):
        self.found = None

    def before_train(self):
        if self.found is None:
            self.found = {name: w.detach().cpu().clone() for name, w in self.model.state_dict().items()}
            states = [s for s in map(self.opt.state.get, self.model.parameters()) if s and 'sqr_avg' in s]
            self.averages = [s['sqr_avg'].cpu().clone() for s in states]
            self.devices = {v.device.type for s in states for v in s.values() if isinstance(v, torch.Tensor)}


@pytest.mark.parametrize('there, here', [(None, 'cpu'), ('cpu', None), (None, None)],
                         ids=['GPU to CPU', 'CPU to GPU', 'GPU to GPU'])
@pytest.mark.parametrize('background', [True, False], ids=['own thread', 'in the loop'])
def test_a_checkpoint_goes_on_on_another_device(device, tmp_path, there, here, background):
    """Weights and averages arrive bit for bit, on the device of the learner that goes on, and it trains to the end."""
    there, here = (device if where is None else torch.device(where) for where in (there, here))
    checkpoints = functools.partial(CheckpointCallback, tmp_path, background=background)
    with pytest.raises(ZeroDivisionError):
        on(there).fit(3, cbs=[checkpoints(), Kill(2, 'before_train')])
    _, state = newest_checkpoint(tmp_path)
    learn, first = on(here), First()
    learn.fit(3, cbs=[checkpoints(), first], resume=True)
    assert state['position']['epoch'] == 1 and all(torch.equal(w, first.found[k]) for k, w in state['model'].items())
    averages = [state['opt']['state'][i]['sqr_avg'] for i in range(len(first.averages))]
    assert len(averages) == 6 and all(map(torch.equal, averages, first.averages)) and first.devices == {here.type}
    assert len(learn.recorder.values) == 3 and all(p.isfinite().all() for p in learn.model.parameters())


def test_a_checkpoint_of_a_gpu_goes_on_where_there_is_none(cuda, tmp_path):
    """A process that sees no GPU: the training goes on, and it is told that the GPU's randomness starts anew."""
    spec = spec_of(cuda, folder=str(tmp_path / 'c'), every=1)
    with pytest.raises(ZeroDivisionError):
        run({**spec, 'kill_at': 9})
    text = json.dumps({**spec, 'device': 'cpu', 'resume': True, 'out': str(tmp_path / 'out')})
    done = subprocess.run([sys.executable, '-m', 'tests.resume.training', text], cwd=ROOT, text=True,
                          capture_output=True, env={**os.environ, 'CUDA_VISIBLE_DEVICES': ''})
    assert done.returncode == 0, done.stderr
    assert 'the checkpoint has generator states of 1 GPUs, here are 0' in done.stderr
    assert all(w.isfinite().all() for w in read_tensors(tmp_path / 'out')['model'].values())


# ---------------------------------------------------------------- save, load, export

@pytest.mark.parametrize('there, here', [(None, 'cpu'), ('cpu', None)], ids=['GPU to CPU', 'CPU to GPU'])
def test_saved_weights_and_optimizer_load_on_another_device(device, tmp_path, there, here):
    """`save` on one device and `load` on another: the same bits, the optimizer's state beside its weights."""
    there, here = (device if where is None else torch.device(where) for where in (there, here))
    one, two = on(there), on(here)
    one.fit(1), two.fit(1)
    file = one.save(tmp_path / 'm')
    two.load(file.with_suffix(''))
    for a, b in zip(one.model.state_dict().values(), two.model.state_dict().values(), strict=True):
        assert torch.equal(a.cpu(), b.cpu()) and b.device.type == here.type
    for p, q in zip(one.model.parameters(), two.model.parameters(), strict=True):
        a, b = one.opt.state[p], two.opt.state[q]
        assert all(torch.equal(a[k].cpu(), b[k].cpu()) for k in ('grad_avg', 'sqr_avg', 'step'))
        assert {b[k].device.type for k in ('grad_avg', 'sqr_avg', 'step')} == {here.type}
    two.fit(1)
