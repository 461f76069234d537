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
    if hasattr(caught.value, 'add_note'):
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


@pytest.mark.parametrize('asked, told', [((), True), ((False,), False), ((True,), True)], ids=str)
def test_the_block_for_several_processes_hands_on_whether_batchnorm_is_of_all(asked, told, monkeypatch):
    """`sync_bn` of the block is that of `to_distributed`; unless told otherwise it is of all processes."""
    seen = []
    monkeypatch.setattr(Learner, 'to_distributed', lambda self, sync_bn: seen.append(sync_bn))
    with make_learner().distrib_ctx(*asked):
        assert seen == [told]


def test_the_block_for_several_processes_changes_nothing_in_one(monkeypatch):
    """A script written for several processes runs in one; where several cannot meet it is told what to do."""
    learn, twin = make_learner(), make_learner()
    torch.manual_seed(2)
    with learn.distrib_ctx(sync_bn=False):
        learn.fit(1)
    torch.manual_seed(2)
    twin.fit(1)
    assert same_weights(learn.model, twin.model)
    assert learn.to_distributed().detach_distributed() is learn
    monkeypatch.setenv('WORLD_SIZE', '2')
    with pytest.raises(RuntimeError, match='RANK, MASTER_ADDR, MASTER_PORT are not set.*torchrun'), learn.distrib_ctx():
        pass
    with pytest.raises(RuntimeError, match='cannot meet'):
        make_learner()
    with pytest.raises(RuntimeError, match='2 processes were started and this learner has not joined them'):
        learn.fit(1)
    with pytest.raises(ValueError, match="strategy='dpp' is neither"):
        make_learner(strategy='dpp')


@pytest.mark.parametrize('call, near', [
    (lambda learn: learn.fit(1, lrr=1), 'lr'), (lambda learn: learn.fit_one_cycle(1, lr_maxx=1), 'lr_max'),
    (lambda learn: learn.lr_find(start=1), 'start_lr'), (lambda learn: learn.load('x', stric=True), 'strict'),
    (lambda learn: Learner(learn.dls, learn.model, metric=accuracy), 'metrics'),
    (lambda learn: learn.fit_sgdr(1, 1, reset_opts=True), 'reset_opt')])
def test_an_unknown_keyword_is_refused_with_the_nearest(call, near):
    """A misspelt keyword argument is a TypeError at once, with what was meant."""
    with pytest.raises(TypeError, match='unexpected keyword argument' f".*did you mean '{near}'"):
        call(make_learner())


# ---------------------------------------------------------------- loaders without batches, with a wrong length or none

class Says:
    """A loader that gives `n` batches and says something else; `said` None: it has no length."""

    def __init__(self, n, said, dataset=None):
        self.n, self.said, self.dataset, self.passes = n, said, dataset, 0

    def __iter__(self):
        self.passes += 1
        x, y = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0])
        return iter([(x, y)] * (self.n if isinstance(self.n, int) else self.n[self.passes - 1]))

    def __len__(self):
        if self.said is None:
            raise TypeError('no length')
        return self.said


def on(train, valid=None, **kwargs):
    valid = Says(2, 2) if valid is None else valid
    return quiet(Learner((train, valid), make_model(), loss_func=F.cross_entropy, opt_func=SGD, **kwargs))


fits = {'fit': lambda learn: learn.fit(2), 'fit_one_cycle': lambda learn: learn.fit_one_cycle(2),
        'fine_tune': lambda learn: learn.fine_tune(1), 'fit_flat_cos': lambda learn: learn.fit_flat_cos(2),
        'fit_sgdr': lambda learn: learn.fit_sgdr(1, 1), 'lr_find': lambda learn: learn.lr_find(show_plot=False)}


@pytest.mark.parametrize('name', fits)
def test_a_fit_without_a_batch_is_refused_with_the_numbers(name):
    """Fewer items than a batch, where the last one is dropped: every way to train says so and changes nothing."""
    items = TensorDataset(torch.randn(5, 6), torch.zeros(5).long())
    learn = on(TorchLoader(items, batch_size=8, drop_last=True),
               splitter=lambda m: [list(m[:2].parameters()), list(m[2:].parameters())])
    before = copy.deepcopy(learn.model.state_dict())
    with pytest.raises(ValueError, match='5 items, bs=8, drop_last=True.*bs=5'):
        fits[name](learn)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), learn.model.state_dict().values()))
    learn.dls = DataLoaders(TorchLoader(items, batch_size=5, drop_last=True), Says(2, 2))
    learn.fit(1)


@pytest.mark.parametrize('train, words', [
    (lambda: TorchLoader(TensorDataset(torch.empty(0, 6))), '0 items'), (lambda: Says(0, 3), 'yields nothing'),
    (lambda: Says(0, None), 'yields nothing'), (lambda: [], 'yields nothing')])
def test_a_loader_that_gives_nothing_is_refused(train, words):
    """An empty set, an empty list and an iterable that ends at once, whatever length it claims."""
    with pytest.raises(ValueError, match=words):
        on(train()).fit(1)


def test_a_learner_keeps_the_loaders_that_it_is_given():
    """The object itself, whatever has loaders; of loaders in a row it makes one."""
    train, valid = Says(2, 2), Says(2, 2)
    given = DataLoaders(train, valid)
    assert Learner(given, make_model(), loss_func=F.cross_entropy).dls is given
    for row in ([train, valid], (train, valid)):
        assert [*Learner(row, make_model(), loss_func=F.cross_entropy).dls] == [train, valid]


def test_a_loader_that_is_used_up_is_told_and_the_fit_goes_on():
    """A generator gives its batches once: the epochs behind are told of."""
    learn = on(Says((3, 0), None))
    with pytest.warns(UserWarning, match='gave no batch in epoch 1.*used up'):
        learn.fit(2)
    assert len(learn.recorder.losses) == 3


@pytest.mark.parametrize('inner', [False, True])
def test_a_block_for_looking_has_its_callbacks_and_tells_of_a_fit_unless_one_runs(inner):
    """`cbs` are there inside alone; `inner`: that of the fit that runs is told already."""
    learn, told = make_learner(), []

    class Tells(Callback):
        def __call__(self, event_name):
            told.append(event_name)
    with learn.validation_context(cbs=Tells(), inner=inner) as same:
        assert same is learn and any(isinstance(cb, Tells) for cb in learn.cbs)
        learn('before_validate')
    assert not any(isinstance(cb, Tells) for cb in learn.cbs)
    found = [event for event in told if event in ('before_fit', 'before_epoch', 'before_validate', 'after_epoch',
                                                  'after_fit')]
    assert found == (['before_validate'] if inner else
                     ['before_fit', 'before_epoch', 'before_validate', 'after_epoch', 'after_fit'])


def test_fits_of_no_epoch_and_validations_on_purpose_stay_silent():
    """No epoch needs no batch; a learner without a validation loader, or one that only looks, is meant so."""
    learn = on([])
    learn.fit(0), learn.validate()
    quiet(Learner(DataLoaders(Says(2, 2)), make_model(), loss_func=F.cross_entropy, opt_func=SGD)).fit(1)
    with pytest.warns(UserWarning, match='validation loader has no batch'):
        on(Says(2, 2), []).fit(1)


@pytest.mark.parametrize('said', [2, 4, 7, None])
def test_the_position_in_a_fit_stays_between_0_and_1_and_ends_at_1(said):
    """Whatever length a loader of 4 batches claims: each epoch ends in its place, the next is planned by counting."""
    at = []

    class Note(Callback):
        run_valid = False

        def before_batch(self):
            at.append(self.pct_train)

        def after_train(self):
            at.append(self.pct_train)
    learn = on(Says(4, said), cbs=Note)
    if said in (4, None):
        learn.fit(2)
    else:
        with pytest.warns(UserWarning, match=f'says that an epoch has {said} batches and gave 4') as told:
            learn.fit(2)
            learn.fit(1)
        assert len(told) == 1
    assert all(0 <= pct <= 1 for pct in at) and at[:10] == sorted(at[:10])
    assert at[4] == .5 and at[5:10] == [.5, .625, .75, .875, 1.] and learn.n_iter is not None
    assert len(learn.recorder.losses) == (8 if said in (4, None) else 4)


def test_a_schedule_needs_a_length_and_takes_a_counted_one():
    """Without a length nothing can be planned: refused with the way out, which works; `lr_find` needs none."""
    learn = on(Says(4, None))
    learn.lr_find(num_it=6, show_plot=False)
    with pytest.raises(ValueError, match='has no length.*__len__'):
        on(Says(4, None)).fit_one_cycle(1)
    learn.fit(1)
    learn.fit_one_cycle(1, .1)
    assert learn.recorder.lrs[-1] < .03 and max(learn.recorder.lrs) == pytest.approx(.1)


# ---------------------------------------------------------------- callbacks that are there already

class Count(Callback):
    """Counts epochs."""

    n = 0

    def after_epoch(self):
        self.n += 1


@pytest.mark.parametrize('given', [lambda cb: cb, lambda cb: [cb, cb], lambda cb: Count])
def test_a_callback_of_learner_and_fit_runs_once_and_stays(given):
    """Given again as the instance or its class, it is the one that is there."""
    cb = Count()
    learn = make_learner(cb)
    learn.fit(2, cbs=given(cb))
    learn.fit(1)
    assert cb.n == 3 and cb.learn is learn and learn.count is cb and list(learn.cbs).count(cb) == 1


@pytest.mark.parametrize('error', [KeyboardInterrupt, ZeroDivisionError])
def test_a_callback_of_learner_and_fit_stays_behind_an_error(error):
    """Also where the fit ends early."""
    def fail(self):
        raise error
    cb = Count()
    learn = make_learner(cb)
    with pytest.raises(error):
        learn.fit(1, cbs=[cb, Callback(after_step=fail)])
    learn.fit(1)
    assert cb.n == 1 and cb.learn is learn and [type(c).__name__ for c in learn.cbs][-1] == 'Count'


def test_two_callbacks_of_one_class_both_run():
    """Two instances are two callbacks; behind the fit the learner's own has its name again."""
    own, other = Count(), Count()
    learn = make_learner(own)
    learn.fit(1, cbs=other)
    assert own.n == other.n == 1 and learn.count is own and other.learn is None


def test_a_callback_that_went_to_another_learner_within_a_block_stays_there():
    """What a block added and somebody took off is no more the block's to take off."""
    cb, learn, other = Count(), make_learner(), make_learner()
    with learn.added_cbs(cb):
        learn.remove_cb(cb)
        other.add_cb(cb)
    assert cb.learn is other and other.count is cb and cb not in learn.cbs


def test_a_callback_added_again_or_taken_off_within_stays_once():
    """Added in a hook, in a block and by hand: once; what a hook took off is not put back by the fit."""
    cb, late = Count(), Count()
    learn = make_learner([cb, Callback(before_epoch=lambda self: self.learn.add_cb(cb))])
    with learn.added_cbs(cb):
        learn.add_cb(cb).fit(1, cbs=late)
    assert cb.n == 1 and list(learn.cbs).count(cb) == 1
    learn.fit(1, cbs=[late, Callback(after_train=lambda self: self.learn.remove_cb(late))])
    assert late.n == 1 and late not in learn.cbs and cb.n == 2


def test_callbacks_taken_off_for_a_block_come_back_in_their_places():
    """Order of equal callbacks and `learn.cbs[-1]` do not change; one that was not attached is not attached behind."""
    cbs, stranger = [Count(), Callback(), Count()], Count()
    learn = make_learner(cbs)
    before = list(learn.cbs)
    with learn.removed_cbs([cbs[0], stranger]), learn.no_bar():
        assert cbs[0] not in learn.cbs
    assert list(learn.cbs) == before and stranger.learn is None and learn.count is cbs[2]
    with learn.removed_cbs(Count):
        assert not hasattr(learn, 'count')
    assert list(learn.cbs) == before


def test_a_callback_that_was_off_runs_in_the_next_fit():
    """`run` is True again behind a fit."""
    class Off(Callback):
        def before_epoch(self):
            self.run = False
    cb = Off()
    make_learner(cbs=cb).fit(1)
    assert cb.run is True


def test_a_model_without_parameters_gets_its_batches_where_the_loaders_say():
    """With parameters they say it."""
    learn = make_learner()
    learn.dls.device = torch.device('meta')
    learn._find_device()
    assert learn._device == torch.device('cpu')
    learn.model = nn.Identity()
    learn._find_device()
    assert learn._device == torch.device('meta')


def test_a_hook_that_scales_the_loss_in_place_leaves_what_is_reported():
    """The gradients are those of the scaled loss, the record is the model's own."""
    class Scale(Callback):
        run_valid = False

        def before_backward(self):
            self.learn.loss_grad.mul_(3.)

        def before_step(self):
            self.seen = self.loss.item(), self.loss_grad.item(), self.model[0].weight.grad.clone()
    scale, learn = Scale(), make_learner()
    xb, yb = next(iter(learn.dls.train))
    learn.dls = DataLoaders([(xb, yb)], [(xb, yb)])
    model = copy.deepcopy(learn.model)
    torch.manual_seed(5)
    learn.fit(1, cbs=scale)
    torch.manual_seed(5)
    loss = F.cross_entropy(model.train()(xb), yb)
    (3 * loss).backward()
    assert scale.seen[0] == loss.item() and scale.seen[1] == pytest.approx(3 * loss.item())
    torch.testing.assert_close(scale.seen[2], model[0].weight.grad)


def test_outside_of_fits_the_loop_stands_at_a_beginning():
    """Before the first one as behind each."""
    def stands(learn):
        return {name: getattr(learn, name) for name in ('start_epoch', 'start_batch', 'fit_seed', 'fitting')}
    learn = make_learner()
    before, within = stands(learn), []
    assert before == {'start_epoch': 0, 'start_batch': 0, 'fit_seed': None, 'fitting': False}
    learn.fit(3, start_epoch=1, cbs=Callback(before_epoch=lambda cb: within.append(stands(cb.learn))))
    assert [found['start_epoch'] for found in within] == [1, 1] and all(found['fitting'] for found in within)
    assert stands(learn) == before


def test_a_model_with_a_reset_is_reset_once_a_fit_before_its_first_batch():
    """As recurrent ones are, which keep their state from batch to batch; what validates alone resets it too."""
    class Keeps(nn.Sequential):
        seen, resets = 0, ()

        def reset(self):
            self.resets += (self.seen,)

        def forward(self, x):
            self.seen += 1
            return super().forward(x)
    train, valid = make_data()
    model = Keeps(*make_model())
    learn = quiet(Learner(DataLoaders(train, valid), model, F.cross_entropy, SGD, lr=.1))
    learn.fit(2)
    assert model.resets == (0,) and model.seen == 2 * (len(train) + len(valid))
    learn.fit(1)
    assert model.resets == (0, 2 * (len(train) + len(valid)))



def test_freezing_forgets_the_averages_of_all_groups():
    """What is frozen and thawed later does not go on from a mean of long ago."""
    learn = make_learner(opt_func=Adam, splitter=lambda m: [list(m[0].parameters()), list(m[1:].parameters())])
    learn.fit(1)
    assert any('grad_avg' in state for state in learn.opt.state.values())
    learn.freeze()
    assert not any('grad_avg' in state for state in learn.opt.state.values())
    learn.fit(1)
    learn.unfreeze()
    assert not any('grad_avg' in state for state in learn.opt.state.values())


def test_no_logging_holds_the_rows_back_for_its_block():
    """And no longer."""
    learn, rows = make_learner(), []
    learn.logger = rows.append
    with learn.no_logging():
        learn.fit(1)
    assert not rows
    learn.fit(1)
    assert rows


def test_the_printed_loop_nests_events_and_names_who_takes_part(capsys):
    """All events in their order, each one deeper than the part it is in, with the callbacks in the order they run."""
    learn = make_learner()
    learn.show_training_loop()
    lines = [line.split(': ', 1) for line in capsys.readouterr().out.splitlines()]
    depths = {name.strip(): (len(name) - len(name.lstrip())) // 2 for name, _ in lines}
    assert tuple(depths) == events
    for depth, part in enumerate(('fit', 'epoch', 'train', 'batch')):
        assert depths[f'before_{part}'] == depths[f'after_{part}'] == depth
    assert depths['before_validate'] == depths['after_validate'] == 2 and depths['cleanup_fit'] == 0
    assert {depths[name] for name in ('after_pred', 'after_loss', 'before_step', 'after_step')} == {4}
    told = dict((name.strip(), who) for name, who in lines)
    assert told['before_fit'] == 'TrainEvalCallback, Recorder' and told['after_loss'] == '-'


def test_the_users_model_is_the_one_that_a_callback_wraps_and_not_one_that_it_replaces():
    """Within a fit; what a callback trains instead is what will be saved."""
    class Instead(Callback):
        def __init__(self, make):
            self.make = make

        def before_fit(self):
            self.before = self.learn.model
            self.learn.model = self.make(self.learn.model)

        def after_fit(self):
            self.own, self.now = self.learn.own_model, self.learn.model

    for make, kept in ((nn.Sequential, True), (copy.deepcopy, False), (lambda model: model, True)):
        learn, cb = make_learner(), Instead(make)
        learn.fit(1, cbs=cb)
        assert cb.own is (cb.before if kept else cb.now)


def test_a_callback_called_by_hand_gives_what_its_hook_gives():
    """Or None where it does not take part; behind a fit it takes part again."""
    cb = Callback(after_epoch=lambda self: 7, after_pred=lambda self: '')
    assert cb('after_epoch') == 7 and cb('after_pred') == '' and cb('before_fit') is None
    cb.run = False
    assert cb('after_epoch') is None and cb('after_fit') is None
    assert cb.run and cb('after_epoch') == 7


@pytest.mark.parametrize('said', ['meta', None])
def test_a_fit_brings_model_and_loss_to_the_device_of_the_loaders(said, monkeypatch):
    """And where they say none, to the default one."""
    monkeypatch.setattr(core, 'default_device', lambda: torch.device('meta' if said is None else 'cpu'))
    learn = make_learner()
    learn.loss_func, learn.dls.device = nn.CrossEntropyLoss(weight=torch.ones(3)), said
    learn.train_eval('before_fit')
    assert learn.model[0].weight.device.type == learn.loss_func.weight.device.type == 'meta'
