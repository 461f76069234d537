"""Laws of the fast paths: they change speed and memory, never what is predicted or saved."""
import os
import platform
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from minifast.callback.core import Callback
from minifast.callback.fp16 import AutoPrecision
from minifast.hardware import fast_paths, is_running, keep_freed_memory
from minifast.learner import Learner


class Watch(Callback):
    """Notes the type that convolutions compute in."""

    order = 11

    def __init__(self):
        self.training_types, self.other_types = set(), set()

    def after_pred(self):
        autocast = torch.is_autocast_enabled('cpu')
        (self.training_types if self.learn.fitting else self.other_types).add(autocast)


def make_learner(size=64):
    torch.manual_seed(0)
    x, y = torch.randn(16, 3, size, size), torch.randint(0, 2, (16,))
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                          nn.Linear(8, 2))
    loaders = [DataLoader(TensorDataset(x, y), batch_size=8) for _ in range(2)]
    learn = Learner(loaders, model, F.cross_entropy, cbs=[AutoPrecision, Watch])
    learn.remove_cb(learn.progress)
    learn.logger = lambda row: None
    return learn


def test_auto_precision_trains_in_bf16_where_it_is_fast_and_predicts_in_float32():
    """Autocast is on in a fit exactly where the hardware is fast at it, and never in get_preds."""
    learn = make_learner()
    learn.fit(1)
    preds, _ = learn.get_preds()
    assert learn.watch.training_types == {fast_paths('cpu').bf16}
    assert learn.watch.other_types == {False} and preds.dtype == torch.float32
    learn.model.eval()
    with torch.no_grad():
        expected = learn.model(learn.dls[1].dataset.tensors[0])
    # a batch of another size may be summed in another order; bf16 would be 1e-3 off
    torch.testing.assert_close(preds, expected, rtol=1e-6, atol=1e-6)
    assert all(p.dtype == torch.float32 for p in learn.model.parameters())


def test_auto_precision_trains_small_pictures_in_float32_on_a_cpu():
    """Below 64 pixels a CPU's bfloat16 convolutions may leave gradients uninitialised: they are not used."""
    learn = make_learner(size=16)
    learn.fit(1)
    assert learn.watch.training_types == {False}


def test_auto_precision_is_taken_off_by_to_fp32():
    """`to_fp32` leaves plain float32 training."""
    learn = make_learner().to_fp32()
    assert not learn._grab_cbs(AutoPrecision)
    learn.fit(1)
    assert learn.watch.training_types == {False}


def test_malloc_thresholds_are_left_alone_where_the_user_set_them():
    """A user's own setting of glibc's malloc wins."""
    code = 'from minifast.hardware import keep_freed_memory; print(keep_freed_memory())'
    env = {**os.environ, 'MALLOC_TRIM_THRESHOLD_': '131072'}
    done = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == 'False'
    assert keep_freed_memory() in (True, False)


@pytest.mark.skipif(not sys.platform.startswith('linux') or platform.libc_ver()[0] != 'glibc', reason='no glibc')
def test_freed_memory_stays_with_the_process():
    """In blocks below glibc's threshold for mappings of their own, and above it: what was freed is not handed back."""
    code = """
from pathlib import Path
from minifast.hardware import keep_freed_memory
kept = keep_freed_memory()
resident = lambda: int(Path('/proc/self/statm').read_text().split()[1]) * 4096 >> 20
before, blocks = resident(), [bytearray(b'x' * (100 << 20)), *(bytearray(b'x' * 4096) for i in range(25 * 1024))]
del blocks
print(kept, resident() - before)"""
    env = {k: v for k, v in os.environ.items() if not k.startswith('MALLOC_') and k not in (
        'LD_PRELOAD', 'GLIBC_TUNABLES')}
    done = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True, check=True)
    kept, grown = done.stdout.split()
    assert kept == 'True' and int(grown) > 150


def test_a_process_is_running_until_it_has_ended():
    """Whoever it belongs to."""
    with subprocess.Popen([sys.executable, '-c', 'import sys; sys.stdin.read()'], stdin=subprocess.PIPE) as process:
        assert is_running(process.pid) and is_running(os.getpid()) and is_running(1)
    assert not is_running(process.pid) and not is_running(2 ** 40)
