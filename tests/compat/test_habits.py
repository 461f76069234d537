"""Habits of notebooks and plugin packages, as they were found in 46 notebooks and 36 packages: what they patch, read, set
and pass, one small training each. Expectations are fastai's."""
from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import drawn  # noqa: E402

from minifast.test_utils import synth_learner  # noqa: E402
from minifast.vision.all import *  # noqa: E402

for name in [name for name in globals() if name.startswith('test')]:
    del globals()[name]  # fastcore's assertions; pytest would take them for tests


def quiet(**kwargs):
    """A small learner that prints nothing."""
    learn = synth_learner(n_trn=4, **kwargs)
    learn.remove_cb(ProgressCallback)
    learn.logger = noop
    return learn


@pytest.fixture
def colours(tmp_path):
    """A folder of pictures of three colours."""
    drawn.folder = tmp_path
    return drawn.colour_folders(n_train=4, n_valid=2)


@pytest.fixture
def picture_dls(colours):
    """Their loaders."""
    return ImageDataLoaders.from_folder(colours, item_tfms=Resize(16), bs=4, num_workers=0)


def picture_learner(dls, **kwargs):
    """A silent learner on them."""
    learn = Learner(dls, nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
                    **{'loss_func': CrossEntropyLossFlat(), **kwargs})
    learn.remove_cb(ProgressCallback)
    learn.logger = noop
    return learn


# ---------------------------------------------------------------- patching

def test_patched_callback_call_is_the_one_that_runs(monkeypatch):
    """A package that replaces `Callback.__call__` sees every event of every callback."""
    seen, original = [], Callback.__call__

    def call(self, event_name):
        seen.append((self.name, event_name))
        return original(self, event_name)
    monkeypatch.setattr(Callback, '__call__', call)
    quiet().fit(1)
    assert ('recorder', 'after_batch') in seen and ('train_eval', 'before_fit') in seen
    assert seen.count(('train_eval', 'after_step')) == 4


def test_patched_call_one_sees_all_events(monkeypatch):
    """So does one that replaces `Learner._call_one`, by every name of every event."""
    seen, original = [], Learner._call_one

    def call_one(self, event_name):
        seen.append(event_name)
        return original(self, event_name)
    monkeypatch.setattr(Learner, '_call_one', call_one)
    quiet(cbs=Callback(after_step=noop)).fit(1)
    assert {'before_fit', 'before_epoch', 'before_train', 'after_step', 'after_validate', 'after_fit'} <= set(seen)


def test_patched_all_batches_and_fit_run(monkeypatch):
    """`all_batches`, `one_batch` and `fit` may be replaced; `fit_one_cycle` and `fine_tune` go through `fit`."""
    calls = []
    for name in ('all_batches', 'one_batch', 'fit'):
        def method(self, *args, _name=name, _original=getattr(Learner, name), **kwargs):
            calls.append(_name)
            return _original(self, *args, **kwargs)
        monkeypatch.setattr(Learner, name, method)
    learn = quiet()
    learn.fit_one_cycle(1)
    assert calls.count('fit') == 1 and calls.count('all_batches') == 2 and calls.count('one_batch') == 6
    learn.fine_tune(1)
    assert calls.count('fit') == 3


def test_patched_recorder_methods_run(monkeypatch):
    """Hooks of the Recorder that are replaced on the class run, also those it did not have."""
    seen, original = [], Recorder.after_epoch

    def after_epoch(self):
        original(self)
        seen.append(self.values[-1])
    monkeypatch.setattr(Recorder, 'after_epoch', after_epoch)
    monkeypatch.setattr(Recorder, 'after_step', lambda self: seen.append('step'))
    quiet().fit(1)
    assert seen.count('step') == 4 and len(seen) == 5


def test_patch_adds_methods_and_properties_to_learner():
    """fastcore's `@patch` works on Learner, Callback and DataLoaders."""
    @patch
    def twice(self: Learner):
        return self.lr * 2

    @patch(as_prop=True)
    def n_batches(self: DataLoaders):
        return len(self.train)
    learn = quiet()
    try:
        assert learn.twice() == learn.lr * 2 and learn.dls.n_batches == 4
    finally:
        del Learner.twice, DataLoaders.n_batches


# ---------------------------------------------------------------- callbacks and learner

def test_cbs_and_metrics_are_L_and_defaults_are_read(monkeypatch):
    """`learn.cbs.attrgot('name')`, `learn.metrics.attrgot('name')`; callbacks added to `defaults.callbacks` are in every
    new learner."""
    class Extra(Callback):
        pass
    monkeypatch.setattr(defaults, 'callbacks', [*defaults.callbacks, Extra])
    learn = quiet(metrics=[mae, mse])
    assert isinstance(learn.cbs, L) and isinstance(learn.metrics, L) and 'extra' in learn.cbs.attrgot('name')
    assert list(learn.metrics.attrgot('name')) == ['mae', 'mse']
    assert learn.extra is learn.cbs[-1] and learn.ordered_cbs('after_fit') is not None


def test_callback_reads_learner_and_model(picture_dls):
    """A callback finds what is missing on the learner and then on the model; setting shadows."""
    class Reads(Callback):
        def before_fit(self):
            self.found = [self.lr, self.n_epoch, len(list(self.learn.modules())), self.model is self.learn.model]
            self.xb = 'mine'

        def before_batch(self):
            assert self.xb == 'mine' and isinstance(self.learn.xb, tuple)
    learn = picture_learner(picture_dls, cbs=Reads())
    learn.model.note = 'on the model'
    learn.fit(1)
    assert learn.reads.found == [learn.lr, 1, 5, True] and learn.note == learn.reads.note == 'on the model'


def test_recorder_options_and_inner_names():
    """`train_metrics`, `valid_metrics`, `add_time`, `_train_mets`, `_valid_mets` and a loss set from outside."""
    learn = quiet(metrics=mae)
    learn.recorder.train_metrics = True
    learn.recorder.add_time = False
    learn.fit(1)
    assert learn.recorder.metric_names == ['epoch', 'train_loss', 'train_mae', 'valid_loss', 'valid_mae']
    assert len(learn.recorder.values[-1]) == 4 == len(learn.recorder.log) - 1
    assert [len(learn.recorder._train_mets), len(learn.recorder._valid_mets)] == [2, 2]
    learn.recorder.loss = AvgLoss()
    learn.recorder.train_metrics = False
    learn.fit(1)
    assert list(learn.recorder.metric_names) == ['epoch', 'train_loss', 'valid_loss', 'mae']


def test_batch_is_read_again_after_each_event():
    """Model, loss and backward use `xb`, `yb`, `pred`, `loss_func`, `loss_grad` as the hooks left them."""
    class Changes(Callback):
        def before_batch(self):
            self.learn.kept, self.learn.yb = self.learn.yb, ()
            self.learn.xb = [x * 0 for x in self.learn.xb]

        def after_pred(self):
            assert (self.learn.pred == self.learn.model.b).all()
            self.learn.pred, self.learn.yb = self.learn.pred * 0 + 1, [torch.zeros_like(self.learn.kept[0])]

        def after_loss(self):
            assert float(self.learn.loss.detach()) == 1
            self.learn.loss_grad = self.learn.model.a.sum() * 3
            self.learn.loss = torch.tensor(7.)

        def after_backward(self):
            self.learn.grads = [None if p.grad is None else float(p.grad) for p in self.learn.model.parameters()]
    learn = quiet(cbs=Changes())
    learn.fit(1)
    assert learn.grads[0] == 3 and learn.grads[1] in (None, 0)
    assert float(learn.recorder.losses[-1]) == pytest.approx(7.) and learn.recorder.values[-1][1] == pytest.approx(7.)


def test_detection_of_searches_and_predictions():
    """`hasattr(self, 'lr_finder')`, `'gather_preds'` tell a callback where it runs."""
    class Where(Callback):
        def __init__(self):
            self.seen = []

        def before_fit(self):
            self.seen.append((hasattr(self, 'lr_finder'), hasattr(self, 'gather_preds'), hasattr(self, 'save_model')))
    learn = quiet(cbs=Where())
    learn.fit(1)
    learn.lr_find(num_it=3, show_plot=False)
    learn.get_preds()
    learn.validate()
    assert learn.where.seen == [(False, False, False), (True, False, False), (False, True, False), (False, False, False)]


def test_export_in_after_fit_with_lambda_loss(picture_dls, tmp_path):
    """Callbacks given to `fit` are still attached in `after_fit`, and an export made there succeeds, optimizer and lambda
    loss included."""
    class Exports(Callback):
        def after_fit(self):
            if not hasattr(self, 'gather_preds'):
                self.learn.export(tmp_path / 'exported.pkl')
                self.attached = self in self.learn.cbs
    exports = Exports()
    learn = picture_learner(picture_dls, loss_func=lambda p, t: F.cross_entropy(p, t))
    with pytest.warns(UserWarning, match='holds data, no code'):  # fastai's would not even load without the script
        learn.fit(1, cbs=exports)
    assert exports.attached and (tmp_path / 'exported.pkl').exists() and learn.opt is not None


def test_loop_driven_by_hand():
    """`learn('before_fit')`, `_split`, `one_batch` and `with learn.no_logging()` drive a loop from outside."""
    learn = quiet()
    learn.create_opt()
    learn.epoch, learn.n_epoch = 0, 1
    learn('before_fit')
    learn('before_epoch')
    learn.dl = learn.dls.train
    learn('before_train')
    with learn.no_logging(), learn.no_bar():
        before = learn.model.a.item()
        learn._split(learn.dls.one_batch())
        learn.iter, learn.n_iter = 0, 4
        learn.one_batch(0, learn.dls.one_batch())
    assert learn.model.a.item() != before and len(learn.xb) == len(learn.yb) == 1


def test_vision_learner_keeps_its_arguments(picture_dls):
    """Trackers read `arch n_out normalize pretrained splitter train_bn wd wd_bn_bias opt_func.__name__`."""
    learn = vision_learner(picture_dls, xresnet18, pretrained=False, metrics=accuracy, wd=0.1, train_bn=False)
    assert learn.arch is xresnet18 and learn.pretrained is False and learn.normalize is True
    assert learn.wd == 0.1 and learn.train_bn is False and learn.wd_bn_bias is False and callable(learn.splitter)
    assert learn.opt_func.__name__ == 'Adam' and learn.n_out == 3
    learn.create_opt()
    assert len(learn.opt.param_lists) == 3


# ---------------------------------------------------------------- optimizers

def test_optimizer_inner_state():
    """`param_lists`, `all_params`, `hypers`, `state[p]`, `clear_state`, `frozen_idx`, `set_hyper` with a slice."""
    learn = quiet(opt_func=Adam)
    learn.fit(1)
    opt = learn.opt
    assert len(opt.param_lists) == 1 and len(opt.all_params()) == 2 and opt.frozen_idx == 0
    p = opt.param_lists[0][0]
    assert {'grad_avg', 'sqr_avg', 'step'} <= set(opt.state[p]) and set(opt.hypers[0]) >= {'lr', 'mom', 'wd', 'eps'}
    opt.set_hyper('lr', 0.5)
    assert opt.hypers[-1]['lr'] == 0.5 and opt.param_groups[0]['lr'] == 0.5
    opt.clear_state()
    assert 'grad_avg' not in opt.state[p]


def test_optimizers_made_of_own_steps():
    """`partial(Optimizer, cbs=[...], mom=...)`, `SGD(params, lr)` used bare, `moms=(0,0,0)`, groups for OptimWrapper."""
    def my_step(p, lr, grad_avg=None, **kwargs):
        p.data.add_(grad_avg, alpha=-lr)

    def my_average(p, mom, grad_avg=None, **kwargs):
        return {'grad_avg': p.grad.data * (1 - mom) + (0 if grad_avg is None else grad_avg * mom)}
    learn = quiet(opt_func=partial(Optimizer, cbs=[weight_decay, my_average, my_step], mom=0.9))
    learn.fit_one_cycle(1, 0.1, moms=(0, 0, 0))
    assert learn.opt.hypers[0]['mom'] == 0
    model = nn.Linear(2, 1)
    opt = SGD(model.parameters(), 0.1)
    before = model.weight.detach().clone()
    model(torch.ones(1, 2)).sum().backward()
    opt.step()
    opt.zero_grad()
    assert torch.allclose(model.weight, before - 0.1)
    wrapped = OptimWrapper([{'params': [model.weight], 'lr': 0.3}, {'params': [model.bias]}], torch.optim.AdamW, lr=0.1)
    assert [h['lr'] for h in wrapped.hypers] == [0.3, 0.1]


def test_recorder_hps_hold_what_was_scheduled():
    """`recorder.hps` has the scheduled hyper-parameters only."""
    learn = quiet()
    learn.fit_one_cycle(1, 0.1)
    assert sorted(learn.recorder.hps) == ['lr', 'mom'] and len(learn.recorder.hps['lr']) == 4
    learn.fit(1, cbs=ParamScheduler({'lr': SchedLin(0.1, 0.01)}))
    assert sorted(learn.recorder.hps) == ['lr']


# ---------------------------------------------------------------- data

def test_three_splits_and_ready_batches(colours):
    """`dls[2]`, `dsets.subset(2)`, `validate(ds_idx=2)`, `get_preds(ds_idx=2)`, `get_preds(dl=[(x, y)])`, `dls.cuda()`."""
    files = get_image_files(colours)
    dsets = Datasets(files, [[PILImage.create], [parent_label, Categorize()]], splits=[
        range(0, 18, 2), [1, 3, 5, 7], [9, 11, 13, 15, 17]])
    dls = dsets.dataloaders(bs=2, after_item=[Resize(16), ToTensor], after_batch=IntToFloatTensor, num_workers=0)
    dls.cuda()
    dls.to(torch.device('cpu'))
    learn = picture_learner(dls, metrics=accuracy)
    assert len(dls) == 3 and dls[2].n == 5 == len(dsets.subset(2)) and len(learn.validate(ds_idx=2)) == 2
    assert learn.get_preds(ds_idx=2)[0].shape == (5, 3)
    x, y = first(dls[2])
    assert learn.get_preds(dl=[(x, y)])[0].shape == (2, 3)


def test_get_idxs_may_be_assigned(picture_dls):
    """`dls.train.get_idxs = lambda: ...` decides the order and the number of items."""
    picture_dls.train.get_idxs = lambda: [3, 3, 3, 3]
    picture_dls.train.after_item = Pipeline([Resize(16, 'squish'), ToTensor])
    x, y = picture_dls.one_batch()
    assert (x[0] == x[1]).all() and len(set(y.tolist())) == 1 and len(list(picture_dls.train)) == 1


def test_categorize_is_an_attribute_and_tfms_can_be_added(picture_dls):
    """`dls.categorize.decode(i)`, `dls.add_tfms`, `dls.after_batch.fs`, vocab and c assigned."""
    assert str(picture_dls.categorize.decode(1)) == 'green'
    picture_dls.add_tfms([Normalize.from_stats(*imagenet_stats)], 'after_batch')
    assert type(picture_dls.after_batch.fs[-1]).__name__ == 'Normalize' and float(picture_dls.one_batch()[0].min()) < 0
    picture_dls.vocab, picture_dls.c = ['a', 'b', 'c'], 3
    assert picture_dls.vocab == ['a', 'b', 'c']


def test_two_targets_have_two_vocabs(colours):
    """`dls.vocab` is a list of vocabs, and `c` of numbers, where two blocks give one."""
    block = DataBlock((ImageBlock, CategoryBlock, CategoryBlock), n_inp=1, get_items=get_image_files,
                      get_y=[parent_label, lambda o: o.parent.parent.name], splitter=RandomSplitter(seed=1),
                      item_tfms=Resize(16))
    dls = block.dataloaders(colours, bs=4, num_workers=0)
    assert [list(v) for v in dls.vocab] == [['blue', 'green', 'red'], ['train', 'valid']] and list(dls.c) == [3, 2]
    assert len(dls.one_batch()) == 3
    tensors = DataLoaders.from_dsets([(torch.ones(2), torch.ones(1))] * 4, [(torch.ones(2), torch.ones(1))] * 4, bs=2,
                                     num_workers=0)
    assert not hasattr(tensors, 'vocab') and not hasattr(tensors, 'c')


def test_bool_vocab_stays_and_predict_gives_text(colours):
    """A label function that answers a question gives the vocab `[False, True]`; the prediction is 'True' or 'False'."""
    files = get_image_files(colours)
    dls = ImageDataLoaders.from_name_func(colours, files, lambda name: name.startswith('red'), bs=4, item_tfms=Resize(16),
                                          num_workers=0, seed=1)
    learn = picture_learner(dls)
    learn.model[-1] = nn.Linear(4, 2)
    label, index, probs = learn.predict(files[0])
    assert list(dls.vocab) == [False, True] and str(label) in ('True', 'False') and probs.shape == (2,)
    assert learn.dls.vocab[index] is (str(label) == 'True')


def test_pictures_have_the_methods_of_augmentation():
    """`TensorImage.rotate/zoom/warp/affine_coord(..., draw=, p=)`, `aug_transforms(batch=True)`, `flip_batch`."""
    torch.manual_seed(0)
    x = TensorImage(torch.rand(2, 3, 16, 16))
    for y in (x.rotate(draw=30, p=1.), x.zoom(draw=1.2, p=1.), x.warp(draw_x=0.2, draw_y=0., p=1.),
              x.affine_coord(mat=torch.eye(3)[None, :2].repeat(2, 1, 1))):
        assert y.shape == x.shape and isinstance(y, TensorImage)
    assert (x.rotate(draw=30, p=1.) != x).any()
    pipe = Pipeline(aug_transforms(size=8, batch=True), split_idx=0)
    one = torch.rand(1, 3, 16, 16).repeat(4, 1, 1, 1)
    y = pipe(TensorImage(one))
    assert y.shape == (4, 3, 8, 8) and torch.allclose(y[0], y[3], atol=1e-5)


def test_normalize_without_statistics_takes_a_batch(colours):
    """`Normalize()` measures the first batch."""
    dls = ImageDataLoaders.from_folder(colours, item_tfms=Resize(16), batch_tfms=Normalize(), bs=12, num_workers=0)
    x = dls.one_batch()[0]
    assert abs(float(x.mean())) < 0.1 and abs(float(x.std()) - 1) < 0.1


def test_own_random_transform_in_fastais_style(colours):
    """A RandTransform with `before_call` and `encodes` by type draws once for a sample and in training only."""
    class Paint(RandTransform):
        split_idx = 0

        def __init__(self, p=1.):
            super().__init__(p=p)

        def before_call(self, b, split_idx):
            super().before_call(b, split_idx)
            self.value = random.randint(1, 3)

        def encodes(self, x: PILImage):
            return PILImage.create(np.full((16, 16, 3), self.value, dtype=np.uint8))
    dls = ImageDataLoaders.from_folder(colours, item_tfms=[Resize(16), Paint()], bs=4, num_workers=0)
    x = dls.train.one_batch()[0] * 255
    assert set(x.round().unique().tolist()) <= {1., 2., 3.} and (dls.valid.one_batch()[0] * 255).max() > 3


# ---------------------------------------------------------------- looking

def test_activation_stats_plots(picture_dls):
    """`plot_layer_stats`, `color_dim`, `layer_stats`, `hist` of ActivationStats."""
    learn = picture_learner(picture_dls, cbs=ActivationStats(with_hist=True))
    learn.fit(1)
    stats = learn.activation_stats
    stats.plot_layer_stats(0)
    stats.color_dim(0)
    assert len(stats.layer_stats(0)) == 3 and stats.hist(0).shape[0] > 0


def test_before_batch_cb_changes_the_batch():
    """The decorator `before_batch_cb` makes a callback of a function."""
    @before_batch_cb
    def doubled(self, xb, yb):
        return tuple(x * 2 for x in xb), yb
    seen = []
    learn = quiet(cbs=[doubled, Callback(after_pred=lambda self: seen.append(float(self.xb[0].abs().mean())))])
    learn.fit(1)
    assert seen and isinstance(doubled, Callback)


def test_losses_have_reduction_and_stored_arguments():
    """`loss_func.reduction` is read and set; `loss_not_reduced` uses it."""
    loss = CrossEntropyLossFlat()
    assert loss.reduction == 'mean'
    loss.reduction = 'none'
    assert loss(torch.randn(4, 3), torch.tensor([0, 1, 2, 0])).shape == (4,)


def test_delegates_on_modules_and_transforms():
    """fastcore's decorator sets the signature of a class; a subclass has its own again."""
    @delegates(nn.Conv2d)
    class Own(Module):
        def __init__(self, n, **kwargs):
            self.conv = nn.Conv2d(n, n, 3, **kwargs)

    class Further(Own):
        def __init__(self, m):
            super().__init__(m)

    @delegates()
    class Smaller(Resize):
        def __init__(self, size, share=2, **kwargs):
            super().__init__(size // share, **kwargs)
    names = [list(inspect.signature(cls).parameters) for cls in (Own, Further, Smaller)]
    assert names[0][:3] == ['n', 'stride', 'padding'] and names[1] == ['m']
    assert names[2][:4] == ['size', 'share', 'method', 'pad_mode']
    assert Own(2, bias=False).conv.bias is None and Smaller(64).size == (32, 32)
