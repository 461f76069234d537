"""Laws of the loop: the oracle, the order of events, what a Cancel exception skips, what an error leaves."""
import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import TensorDataset

from minifast.callback import core
from minifast.callback.core import Callback, events
from minifast.data.core import DataLoaders
from minifast.learner import Learner
from minifast.metrics import accuracy
from minifast.optimizer import SGD, Adam


def make_data(n=48, bs=8, shuffle=True):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(n, 6, generator=generator), torch.randint(0, 3, (n,), generator=generator)
    train, valid = TensorDataset(x, y), TensorDataset(x[:20], y[:20])
    return TorchLoader(train, batch_size=bs, shuffle=shuffle), TorchLoader(valid, batch_size=bs)


def make_model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))


def plain_loop(train, valid, model, opt, n_epoch):
    for _ in range(n_epoch):
        model.train()
        for xb, yb in train:
            loss = F.cross_entropy(model(xb), yb)
            loss.backward()
            opt.step()
            opt.zero_grad()
        model.eval()
        with torch.no_grad():
            for xb, yb in valid:
                F.cross_entropy(model(xb), yb)
    return model


def quiet(learn):
    learn.remove_cb(learn.progress)
    learn.logger = lambda row: None
    return learn


def make_learner(cbs=None, opt_func=SGD, **kwargs):
    train, valid = make_data()
    dls = DataLoaders(train, valid)
    return quiet(Learner(dls, make_model(), F.cross_entropy, opt_func, lr=0.1, cbs=cbs, **kwargs))


def same_weights(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize('opt', [
    partial(torch.optim.SGD, lr=0.1), partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1),
    partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.), partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.1),
    partial(torch.optim.SGD, lr=0.1, fused=True)], ids=['sgd', 'sgd-wd', 'adamw', 'adamw-wd', 'sgd-fused'])
def test_fit_without_callbacks_ends_in_the_bits_of_a_plain_loop(opt):
    """The oracle: with shuffling, dropout, BatchNorm and validation no bit differs from twelve plain lines."""
    train, valid = make_data()
    expected = make_model()
    torch.manual_seed(7)
    plain_loop(train, valid, expected, opt(expected.parameters()), 3)

    learn = quiet(Learner(DataLoaders(train, valid), make_model(), loss_func=F.cross_entropy, opt_func=opt))
    torch.manual_seed(7)
    learn.fit(3)
    assert same_weights(learn.model, expected)


@pytest.mark.parametrize('wd', [0., 0.1])
def test_our_adam_takes_torchs_fused_steps(wd):
    """Our Adam is torch's fused AdamW with other defaults: the same bits."""
    train, valid = make_data()
    expected = make_model()
    torch.manual_seed(7)
    opt = torch.optim.AdamW(expected.parameters(), lr=1e-2, betas=(0.9, 0.99), eps=1e-5, weight_decay=wd, fused=True)
    plain_loop(train, valid, expected, opt, 3)
    learn = quiet(Learner((train, valid), make_model(), loss_func=F.cross_entropy, opt_func=Adam, wd_bn_bias=True))
    torch.manual_seed(7)
    learn.fit(3, lr=1e-2, wd=wd)
    assert same_weights(learn.model, expected)


def test_watching_changes_no_bit():
    """Metrics, a recorder, more validation and a callback that looks leave every weight as it was without them."""
    class Look(Callback):
        def after_batch(self):
            assert self.loss is not None and self.pct_train >= 0
            if self.training and self.iter == 2:
                self.learn.validate()
                self.learn.get_preds()

    bare = make_learner()
    torch.manual_seed(3)
    bare.fit(2)
    watched = make_learner(cbs=Look, metrics=accuracy)
    torch.manual_seed(3)
    watched.fit(2)
    assert same_weights(bare.model, watched.model)
    assert len(watched.recorder.values) == 2 and len(watched.recorder.losses) == 12


class Trace(Callback):
    """Notes every event."""

    def __init__(self):
        self.seen = []


for _event in events:
    def _note(self, name=_event):
        self.seen.append(name)
    setattr(Trace, _event, _note)


batch = ['before_batch', 'after_pred', 'after_loss', 'before_backward', 'after_backward', 'before_step', 'after_step',
         'after_batch']
valid_batch = ['before_batch', 'after_pred', 'after_loss', 'after_batch']
fit = (['before_fit', 'before_epoch', 'before_train'] + batch * 6 + ['after_train', 'before_validate'] + valid_batch * 3
       + ['after_validate', 'after_epoch', 'after_fit', 'cleanup_fit'])


def test_events_come_in_order():
    """One epoch of six training and three validation batches fires exactly this sequence."""
    trace = Trace()
    learn = make_learner(trace)
    assert trace.seen == ['after_create']
    trace.seen.clear()
    learn.fit(1)
    assert trace.seen == fit


@pytest.mark.parametrize('where, what, expected', [
    ('before_batch', 'Batch', lambda: ['before_batch', 'after_cancel_batch', 'after_batch']),
    ('after_loss', 'Batch', lambda: ['before_batch', 'after_pred', 'after_loss', 'after_cancel_batch', 'after_batch']),
    ('before_step', 'Step', lambda: batch[:6] + ['after_cancel_step', 'after_step', 'after_batch']),
    ('before_backward', 'Backward',
     lambda: batch[:4] + ['after_cancel_backward', 'after_backward', 'before_step', 'after_step', 'after_batch'])])
def test_a_cancel_exception_skips_to_its_own_after_event(where, what, expected):
    """`after_cancel_*` and then `after_*` follow; everything between is skipped."""
    def cancel(self):
        if self.training and self.iter == 0:
            raise getattr(core, f'Cancel{what}Exception')
    trace, stop = Trace(), Callback(**{where: cancel})
    learn = make_learner([trace, stop])
    trace.seen.clear()
    learn.fit(1)
    assert trace.seen[3:3 + len(expected())] == expected()
    assert trace.seen[-3:] == ['after_epoch', 'after_fit', 'cleanup_fit']


@pytest.mark.parametrize('what, tail', [
    ('Train', ['after_cancel_train', 'after_train', 'before_validate']),
    ('Epoch', ['after_cancel_epoch', 'after_epoch', 'before_epoch']),
    ('Fit', ['after_cancel_fit', 'after_fit', 'cleanup_fit'])])
def test_cancel_of_an_outer_part_leaves_the_inner_ones(what, tail):
    """From a batch the loop goes straight to the cancelled part's own `after` events."""
    def cancel(self):
        if self.training and self.epoch == 0:
            raise getattr(core, f'Cancel{what}Exception')
    trace = Trace()
    learn = make_learner([trace, Callback(after_pred=cancel)])
    trace.seen.clear()
    learn.fit(2)
    assert trace.seen[3:5] == ['before_batch', 'after_pred']
    assert trace.seen[5:8] == tail


def test_an_error_in_a_hook_keeps_its_type_and_names_callback_and_event():
    """The traceback is the user's own; a note says where it came from."""
    class Broken(Callback):
        def after_pred(self):
            raise KeyError('lost')
    with pytest.raises(KeyError, match='lost') as caught:
        make_learner(Broken).fit(1)
    if hasattr(caught.value, '__notes__'):
        assert caught.value.__notes__ == ['raised by callback Broken in after_pred']


@pytest.mark.parametrize('where', ['after_backward', 'before_batch', 'after_loss', 'before_step', 'after_step'])
def test_ctrl_c_leaves_the_next_gradient_bit_equal(where):
    """After an interrupt anywhere in a batch the gradients are clear: the next fit equals an undisturbed twin's."""
    class CtrlC(Callback):
        def __init__(self):
            self.due = True

    def press(self):
        if self.due:
            self.due = False
            raise KeyboardInterrupt
    setattr(CtrlC, where, press)
    learn = make_learner(Trace)
    with pytest.raises(KeyboardInterrupt):
        learn.fit(1, cbs=CtrlC())
    assert learn.trace.seen[-1] == 'cleanup_fit'
    twin = make_learner()
    twin.model.load_state_dict(learn.model.state_dict())
    twin.create_opt()
    learn.create_opt()
    for one in (learn, twin):
        torch.manual_seed(5)
        one.fit(1)
    assert same_weights(learn.model, twin.model)


def test_callbacks_may_come_and_go_inside_hooks():
    """A callback added in a hook hears the next event, a removed one no more."""
    class Late(Callback):
        seen = 0

        def after_batch(self):
            self.seen += 1
            if self.seen == 2:
                self.learn.remove_cb(self)

    late = Late()
    learn = make_learner(Callback(before_train=lambda self: self.learn.add_cb(late)))
    learn.fit(1)
    assert late.seen == 2 and late.learn is None


def test_plugins_may_patch_the_protected_methods(monkeypatch):
    """A patched `Callback.__call__`, `Learner._call_one` or an overridden `_step` is what runs."""
    called = []
    original = Callback.__call__

    def spy(self, name):
        called.append((type(self).__name__, name))
        return original(self, name)
    monkeypatch.setattr(Callback, '__call__', spy)
    make_learner().fit(1)
    assert ('Recorder', 'after_batch') in called and ('TrainEvalCallback', 'before_fit') in called
    monkeypatch.undo()

    class NoStep(Learner):
        def _step(self):
            called.append('step')
    learn = quiet(NoStep(make_data(), make_model(), loss_func=F.cross_entropy))
    before = copy.deepcopy(list(learn.model.parameters()))
    learn.fit(1)
    assert called.count('step') == 6
    assert all(torch.equal(p, q) for p, q in zip(learn.model.parameters(), before))


def test_a_callback_reads_through_and_writes_only_through_learn():
    """`self.xb` reads the learner; setting it shadows on the callback; `self.learn.xb` is what the model sees."""
    seen = {}

    class Double(Callback):
        def before_batch(self):
            self.learn.xb = tuple(x * 0 for x in self.xb)
            self.note = 1

        def after_pred(self):
            seen['x'] = self.x.abs().sum().item()
            seen['missing'] = hasattr(self, 'no_such_attribute')
            seen['model'] = self.body is self.learn.model.body if hasattr(self.learn.model, 'body') else None
    make_learner(Double).fit(1)
    assert seen == {'x': 0., 'missing': False, 'model': None}


def test_a_misspelt_event_warns_with_the_nearest_name():
    """A method that looks like an event and is none is told at class definition."""
    with pytest.warns(UserWarning, match="did you mean 'before_fit'"):
        type('Old', (Callback,), {'begin_fit': lambda self: None})
    with pytest.raises(TypeError, match="did you mean 'after_epoch'"):
        Callback(after_epochs=lambda self: None)


def test_recorder_keeps_one_row_an_epoch_and_one_loss_a_step():
    """Columns, rows, losses, rates and iteration counts have fastai's shapes."""
    learn = make_learner(metrics=[accuracy])
    learn.fit(2)
    recorder = learn.recorder
    assert list(recorder.metric_names) == ['epoch', 'train_loss', 'valid_loss', 'accuracy', 'time']
    assert [len(row) for row in recorder.values] == [3, 3] and all(isinstance(v, float) for v in recorder.values[-1])
    assert len(recorder.losses) == len(recorder.lrs) == 12 and list(recorder.iters) == [6, 12]
    assert recorder.losses[0].ndim == 0 and torch.equal(learn.smooth_loss, recorder.losses[-1])
    assert list(learn.final_record) == list(recorder.values[-1])
    loss, acc = learn.validate()
    assert loss == pytest.approx(recorder.values[-1][1] if len(recorder.values) == 2 else loss, abs=1e-6)
    assert 0 <= acc <= 1


def test_cleanup_runs_for_every_callback_even_if_one_fails():
    """One failing cleanup does not keep the others from theirs."""
    seen = []

    def fail(self):
        raise OSError('disk')
    learn = make_learner([Callback(cleanup_fit=lambda self: seen.append('first')), Callback(cleanup_fit=fail),
                          Callback(cleanup_fit=lambda self: seen.append('last'))])
    with pytest.raises(OSError, match='disk'):
        learn.fit(1)
    assert seen == ['last', 'first']


def test_the_block_for_several_processes_changes_nothing_in_one(monkeypatch):
    """A script written for several processes runs in one; under a launcher it is told what to do."""
    learn, twin = make_learner(), make_learner()
    torch.manual_seed(2)
    with learn.distrib_ctx(sync_bn=False):
        learn.fit(1)
    torch.manual_seed(2)
    twin.fit(1)
    assert same_weights(learn.model, twin.model)
    assert learn.to_distributed().detach_distributed() is learn
    monkeypatch.setenv('WORLD_SIZE', '2')
    with pytest.raises(RuntimeError, match='without torchrun'), learn.distrib_ctx():
        pass


@pytest.mark.parametrize('call, near', [
    (lambda learn: learn.fit(1, lrr=1), 'lr'), (lambda learn: learn.fit_one_cycle(1, lr_maxx=1), 'lr_max'),
    (lambda learn: learn.lr_find(start=1), 'start_lr'), (lambda learn: learn.load('x', stric=True), 'strict'),
    (lambda learn: Learner(learn.dls, learn.model, metric=accuracy), 'metrics'),
    (lambda learn: learn.fit_sgdr(1, 1, reset_opts=True), 'reset_opt')])
def test_an_unknown_keyword_is_refused_with_the_nearest(call, near):
    """A misspelt keyword argument is a TypeError at once, with what was meant."""
    with pytest.raises(TypeError, match='unexpected keyword argument' f".*did you mean '{near}'"):
        call(make_learner())
