"""Ctrl-C anywhere: afterwards the learner is as before, and its next gradient is that of an undisturbed twin."""
import copy
import multiprocessing
import os
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from minifast.callback.core import Callback
from minifast.callback.fp16 import AMPMode, MixedPrecision
from minifast.callback.mixup import MixUp
from minifast.callback.training import EMACallback, GradientAccumulation
from minifast.learner import Learner
from minifast.losses import CrossEntropyLossFlat

in_a_fit = ('before_fit', 'before_epoch', 'before_train', 'before_batch', 'after_pred', 'after_loss', 'before_backward',
            'after_backward', 'before_step', 'after_step', 'after_batch', 'before_validate', 'after_validate',
            'after_fit')
in_a_pass = ('before_fit', 'before_epoch', 'before_validate', 'before_batch', 'after_pred', 'after_loss', 'after_batch',
             'after_validate', 'after_epoch', 'after_fit')
contexts = {
    'plain': (None, lambda learn, press: learn.fit(2, cbs=press), in_a_fit),
    'mixup': (MixUp, lambda learn, press: learn.fit(2, cbs=press), in_a_fit),
    'bf16': (lambda: MixedPrecision(AMPMode.BF16), lambda learn, press: learn.fit(2, cbs=press), in_a_fit),
    'accumulation': (lambda: GradientAccumulation(12), lambda learn, press: learn.fit(2, cbs=press), in_a_fit),
    'ema': (EMACallback, lambda learn, press: learn.fit(2, cbs=press), in_a_fit),
    'lr_find': (None, lambda learn, press: learn.add_cb(press).lr_find(num_it=8, show_plot=False), in_a_fit[:11]),
    'get_preds': (None, lambda learn, press: learn.get_preds(cbs=press), in_a_pass),
    'validate': (None, lambda learn, press: learn.validate(cbs=press), in_a_pass)}


class CtrlC(Callback):
    """Presses Ctrl-C once, at the second batch where there are batches."""

    order = 1000

    def __init__(self, where):
        self.where = where
        setattr(self, where, self.press)

    def press(self):
        batches = self.where in ('before_batch', 'after_pred', 'after_loss', 'before_backward', 'after_backward',
                                 'before_step', 'after_step', 'after_batch')
        if not batches or self.iter == 1:
            raise KeyboardInterrupt


def make_learner(make_cb):
    torch.manual_seed(0)
    x, y = torch.randn(24, 5), torch.randint(0, 3, (24,))
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 3))
    loaders = [DataLoader(TensorDataset(x, y), batch_size=6, shuffle=shuffle) for shuffle in (True, False)]
    learn = Learner(loaders, model, CrossEntropyLossFlat(), cbs=None if make_cb is None else make_cb())
    learn.logger = print_nothing
    return learn


def print_nothing(row):
    """A logger whose identity is checked."""


def surroundings(learn):
    """All that an interrupt must leave as it was."""
    return {'callbacks': [type(cb) for cb in learn.cbs if not isinstance(cb, CtrlC)], 'logger': learn.logger,
            'loss': learn.loss_func, 'reduction': learn.loss_func.reduction, 'bars': learn.create_mbar,
            'grad': torch.is_grad_enabled(), 'autocast': torch.is_autocast_enabled('cpu'),
            'running': [cb.run for cb in learn.cbs], 'children': len(multiprocessing.active_children()),
            'attributes': {'lr_finder', 'gather_preds', 'param_scheduler'} & set(vars(learn)),
            'bar': learn.progress.table}


def next_weights(learn, weights):
    """The weights after one more epoch from `weights`, with a new optimizer."""
    learn.model.load_state_dict(weights)
    learn.opt = None
    torch.manual_seed(3)
    learn.fit(1)
    return learn.model.state_dict()


@pytest.mark.tally
@pytest.mark.parametrize('context, where', [(name, where) for name, (_, _, events) in contexts.items()
                                            for where in events])
def test_ctrl_c_leaves_no_trace(context, where):
    """Callbacks, logger, loss, autocast, gradients, bars and child processes are as before; the next bits are a
    twin's."""
    make_cb, action, _ = contexts[context]
    learn = make_learner(make_cb)
    before, press = surroundings(learn), CtrlC(where)
    weights_before = copy.deepcopy(learn.model.state_dict())
    with pytest.raises(KeyboardInterrupt):
        action(learn, press)
    learn.remove_cb(press)
    assert surroundings(learn) == before
    assert all(p.grad is None or not p.grad.any() for p in learn.model.parameters())
    if context in ('lr_find', 'get_preds', 'validate'):
        for name, value in learn.model.state_dict().items():
            assert torch.equal(value, weights_before[name]), f'{name} was changed'
    weights = copy.deepcopy(learn.model.state_dict())
    ours, twins = next_weights(learn, weights), next_weights(make_learner(make_cb), weights)
    for name, value in twins.items():
        assert torch.equal(value, ours[name]), name


CELLS = ['''
import os, sys, torch
sys.path.insert(0, os.getcwd())
from tests.resume.training import DEFAULTS, differences, make_learner, outcome, set_seed
def started(workers):
    learn = make_learner({**DEFAULTS, 'workers': workers})
    set_seed(7)
    return learn
''', '''
learn = started(WORKERS)
class Slow(__import__('minifast.callback.core').callback.core.Callback):
    def after_batch(self):
        print('batch', flush=True)
        import time; time.sleep(0.1)
learn.fit(3, checkpoint=FOLDER, cbs=Slow)
''', '''
from multiprocessing import active_children
print('left', active_children(), [type(cb).__name__ for cb in learn.cbs])
learn.fit(3, checkpoint=FOLDER, resume=True)
resumed, twin = outcome(learn), started(0)
twin.fit(3)
print('differ', differences(outcome(twin), resumed))
''']


@pytest.mark.tally
@pytest.mark.filterwarnings('default')  # the kernel manager's own
@pytest.mark.parametrize('workers', [0, 2])
def test_a_notebooks_stop_button_leaves_a_learner_that_goes_on(tmp_path, workers):
    """A kernel is interrupted in the middle of an epoch: a checkpoint, KeyboardInterrupt, and the next cell resumes to
    the bits of a training that nobody stopped."""
    from jupyter_client import manager
    root = str(Path(__file__).resolve().parent.parent)
    kernels, client = manager.start_new_kernel(cwd=root, env={**os.environ, 'PYTHONPATH': root})
    try:
        def run(cell, stop_at=None):
            client.execute(cell.replace('FOLDER', repr(str(tmp_path / 'c'))).replace('WORKERS', str(workers)))
            text, error, printed = '', '', 0
            while True:
                message = client.get_iopub_msg(timeout=100)
                kind, content = message['msg_type'], message['content']
                if kind == 'stream':
                    text += content['text']
                    printed += content['text'].count('batch')
                    if stop_at is not None and printed >= stop_at:
                        kernels.interrupt_kernel()
                        stop_at = None
                elif kind == 'error':
                    error = content['ename']
                elif kind == 'status' and content['execution_state'] == 'idle':
                    return text, error
        assert run(CELLS[0]) == ('', '')
        text, error = run(CELLS[1], stop_at=4)
        assert error == 'KeyboardInterrupt' and 'the checkpoint is in' in text, (text, error)
        text, error = run(CELLS[2])
        assert error == '' and 'left []' in text and 'resumed from' in text and 'differ []' in text, (text, error)
        assert 'CheckpointCallback' not in text and 'Slow' not in text
    finally:
        client.stop_channels()
        kernels.shutdown_kernel(now=True)
