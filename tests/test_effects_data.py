"""What each argument says it changes is changed, third part: data, and the making of models."""
from __future__ import annotations

import csv
import inspect
import os
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from small_learner import learner, weights
from torch import nn

import minifast.vision.all as public
from minifast.callback.core import Callback
from minifast.callback.hook import HookCallback
from minifast.callback.tracker import TerminateOnNaNCallback

G = torch.Generator().manual_seed(0)


# ---------------------------------------------------------------- files

@pytest.fixture
def tree(tmp_path):
    """Files in folders, and a link to a folder outside."""
    for name in ('a.txt', 'a.png', 'one/b.txt', 'one/b.jpg', 'two/c.TXT', 'two/deep/d.png'):
        path = tmp_path / 'here' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / 'outside').mkdir()
    (tmp_path / 'outside' / 'e.txt').touch()
    os.symlink(tmp_path / 'outside', tmp_path / 'here' / 'linked')
    return tmp_path / 'here'


@pytest.mark.parametrize('options, found', [
    ({}, 'a.png a.txt linked/e.txt one/b.jpg one/b.txt two/c.TXT two/deep/d.png'),
    ({'extensions': ['.txt']}, 'a.txt linked/e.txt one/b.txt two/c.TXT'), ({'recurse': False}, 'a.png a.txt'),
    ({'folders': ['two']}, 'two/c.TXT two/deep/d.png'), ({'folders': ['.', 'one']}, 'a.png a.txt one/b.jpg one/b.txt'),
    ({'followlinks': False}, 'a.png a.txt one/b.jpg one/b.txt two/c.TXT two/deep/d.png')])
def test_files_are_looked_for_where_and_as_is_told(options, found, tree):
    """`extensions`, `recurse`, `folders`, `followlinks`, of `get_files` and of those who call it."""
    def names(files):
        return ' '.join(str(f.relative_to(tree)) for f in files)
    wanted = found.split()
    texts, images = ([o for o in wanted if o.lower().endswith(ends)] for ends in (('.txt',), ('.png', '.jpg')))
    assert names(public.get_files(tree, **options)) == found
    if 'followlinks' not in options:
        assert names(public.FileGetter(**options)(tree)) == found
    if options.keys() <= {'recurse', 'folders'}:
        assert names(public.get_text_files(tree, **options)).split() == texts
        for files in (public.get_image_files(tree, **options), public.ImageGetter(**options)(tree)):
            assert names(files).split() == images


def test_labels_and_splits_by_name_are_what_is_told():
    """`match` looks at the start alone; `valid_name`, `train_name`; `default` of what an item has not."""
    assert public.RegexLabeller(r'(\d)')('ab3') == '3' and public.RegexLabeller(r'(\w)', match=True)('ab3') == 'a'
    with pytest.raises(ValueError, match='no label'):
        public.RegexLabeller(r'(\d)', match=True)('ab3')
    items = ['train/a/1', 'test/a/2', 'valid/b/3', 'old/b/4']
    assert [list(s) for s in public.GrandparentSplitter(valid_name='test')(items)] == [[0], [1]]
    assert [list(s) for s in public.GrandparentSplitter('old', ('test', 'valid'))(items)] == [[3], [1, 2]]
    assert public.AttrGetter('name', default='none')(SimpleNamespace()) == 'none'


@pytest.fixture
def pictures(tmp_path):
    """Ten pictures in folders a and b below training and test, and tables of them."""
    for i in range(10):
        path = tmp_path / ('training' if i < 6 else 'test') / 'ab'[i % 2] / f'{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (12, 8), (20 * i, 5, 9)).save(path)
    rows = [(str(f.relative_to(tmp_path)), f.parent.name) for f in public.get_image_files(tmp_path)]
    (tmp_path / 'named.csv').write_text('\n'.join(['name,label', *map(','.join, rows)]))
    (tmp_path / 'bare.csv').write_text('\n'.join(map(';'.join, rows)))
    (tmp_path / 'quoted.csv').write_text('\n'.join(['name,label', *(f'{name},"{label}' for name, label in rows)]))
    return tmp_path


class Marked(public.PILImage):
    """A class of the user's."""


def loaders(door, path, **options):
    """Loaders by one of the doors, all from the same pictures."""
    files = list(public.get_image_files(path))
    options = {'bs': 2, 'num_workers': 0, 'valid_pct': .4, **options}
    if door == 'from_df':
        import pandas as pd
        frame = pd.DataFrame({'name': [f.relative_to(path) for f in files], 'label': [f.parent.name for f in files]})
        return public.ImageDataLoaders.from_df(frame, path, **options)
    more = {'from_folder': (), 'from_path_func': (files, public.parent_label), 'from_csv': ('named.csv',),
            'from_lists': (files, [f.parent.name for f in files])}[door]
    return getattr(public.ImageDataLoaders, door)(path, *more, **options)


@pytest.mark.parametrize('door', ['from_folder', 'from_path_func', 'from_df', 'from_csv', 'from_lists'])
def test_picture_doors_hand_on_transforms_and_the_class(door, pictures):
    """`img_cls` opens the pictures; `item_tfms` come behind, `batch_tfms` change the batch."""
    class Looks(public.Transform):
        def encodes(self, x: public.PILImage):
            opened.append(type(x))
            return x
    opened = []
    plain = loaders(door, pictures, seed=1, item_tfms=Looks(), img_cls=Marked).valid.one_batch()[0]
    assert set(opened) == {Marked}

    class Twice(public.Transform):
        order = 50

        def encodes(self, x: public.TensorImage):
            return x * 2
    torch.testing.assert_close(loaders(door, pictures, seed=1, batch_tfms=Twice()).valid.one_batch()[0], plain * 2)


def test_doors_of_folders_and_lists_are_what_is_told(pictures):
    """`train`, `valid` name folders; `y_block` is the kind of the labels; `suff`, `folder`."""
    dls = public.ImageDataLoaders.from_folder(pictures, train='training', valid='test', bs=2, num_workers=0)
    assert (dls.train.n, dls.valid.n) == (6, 4)
    files = list(public.get_image_files(pictures))
    dls = public.ImageDataLoaders.from_lists(pictures, files, [[1., 2.]] * 10, y_block=public.RegressionBlock(2), bs=2,
                                             num_workers=0)
    assert dls.one_batch()[1].shape == (2, 2)


@pytest.mark.parametrize('file, options', [('named.csv', {}), ('bare.csv', {'header': None, 'delimiter': ';'}),
                                           ('quoted.csv', {'quoting': csv.QUOTE_NONE})])
def test_tables_are_read_as_is_told(file, options, pictures):
    """`header`, `delimiter`, `quoting`: ten pictures of two classes come of it, and of another reading they do not."""
    def read(**options):
        return public.ImageDataLoaders.from_csv(pictures, file, bs=2, num_workers=0, **options)
    dls = read(**options)
    assert dls.train.n + dls.valid.n == 10 and [v.strip('"') for v in dls.vocab] == ['a', 'b']
    for name in options:
        try:
            other = read(**{k: v for k, v in options.items() if k != name})
            assert other.train.n + other.valid.n != 10
        except (ValueError, KeyError, IndexError, TypeError) as error:
            assert file in ''.join([str(error), *getattr(error, '__notes__', ())])


def test_segmentation_pictures_are_opened_by_the_class_that_is_told(pictures):
    """`img_cls`, and `codes`."""
    opened = []

    class Seen(public.PILImage):
        @classmethod
        def create(cls, *args, **kwargs):
            opened.append(cls)
            return super().create(*args, **kwargs)
    files = list(public.get_image_files(pictures))

    dls = public.SegmentationDataLoaders.from_label_func(
        pictures, files, lambda file: np.zeros((8, 12), np.uint8), codes=['x', 'y'], img_cls=Seen, bs=2, num_workers=0)
    dls.one_batch()
    assert opened and set(opened) == {Seen} and public.get_c(dls) == 2 and list(dls.after_item.vocab) == ['x', 'y']


# ---------------------------------------------------------------- blocks and loaders

def test_blocks_are_what_is_told():
    """`dl_type`, `dls_kwargs`, `add_na`, `c_out`, `getters`, `verbose`."""
    class Own(public.TfmdDL):
        pass

    class Other(public.TfmdDL):
        pass
    block = partial(public.DataBlock, splitter=public.IndexSplitter([0]))
    items = list(range(6))
    made = block(blocks=(public.TransformBlock, public.TransformBlock(dl_type=Other, dls_kwargs={'bs': 3})),
                 getters=[lambda o: o * 10, float])
    dls = made.dataloaders(items, num_workers=0)
    assert isinstance(dls.train, Other) and dls.train.bs == 3 and dls.valid_ds[0] == (0, 0.)
    assert [x for x, _ in dls.train_ds] == [10, 20, 30, 40, 50]
    assert isinstance(block(blocks=(public.TransformBlock(dl_type=Other),), dl_type=Own).dataloaders(
        items, num_workers=0).train, Own)
    columns = public.DataBlock.from_columns(getters=[public.ItemGetter(1), public.ItemGetter(0)],
                                            splitter=public.IndexSplitter([0]))
    assert columns.datasets(([1, 2, 3], [4, 5, 6])).train[0] == (5, 2)
    labels = block(blocks=(public.TransformBlock, public.MultiCategoryBlock(add_na=True)), get_y=lambda o: ['u'])
    assert list(labels.dataloaders(items, num_workers=0).vocab) == ['#na#', 'u']
    for options in ({'c_out': 4}, {'n_out': 4}):
        numbers = block(blocks=(public.TransformBlock, public.RegressionBlock(**options)), get_y=lambda o: [1.] * 4)
        assert numbers.dataloaders(items, num_workers=0).c == 4
    assert public.OneHotEncode(c=5).c == 5 and public.RegressionSetup(c=3).c == 3


def test_making_of_data_is_told_where_it_is_asked_for(capsys):
    """`verbose`: items and splits are printed, else nothing."""
    block = public.DataBlock(get_items=lambda source: list(range(6)), splitter=public.IndexSplitter([0]))
    for call in (block.datasets, partial(block.dataloaders, num_workers=0),
                 lambda s, **k: block.weighted_dataloaders(s, [1] * 6, num_workers=0, **k)):
        call('somewhere')
        assert 'Found 6 items' not in capsys.readouterr().out
        call('somewhere', verbose=True)
        printed = capsys.readouterr().out
        assert 'Found 6 items' in printed and '5,1' in printed


def test_loaders_lie_where_is_told(tmp_path):
    """`path`, through every door."""
    pairs = [(torch.zeros(2), 0)] * 8
    block = public.DataBlock(splitter=public.IndexSplitter([0]))
    dl = public.DataLoader(pairs, bs=2)
    for dls in (public.DataLoaders(dl, dl, path=tmp_path),
                public.DataLoaders.from_dsets(pairs, pairs, bs=2, num_workers=0, path=tmp_path),
                public.DataLoaders.from_dblock(block, pairs, path=tmp_path, num_workers=0),
                block.dataloaders(pairs, path=tmp_path, num_workers=0),
                block.weighted_dataloaders(pairs, [1] * 8, path=tmp_path, num_workers=0),
                public.Datasets(pairs, splits=[[0, 1], [2]]).dataloaders(path=tmp_path, num_workers=0)):
        assert dls.path == tmp_path


def test_loaders_by_a_block_are_as_told():
    """`bs`, `val_bs`, `shuffle`, `device` of `from_dblock`; `shuffle_train`, `val_shuffle`, `n`, `drop_last`,
    `dl_kwargs` of data sets."""
    items = list(range(20))
    block = public.DataBlock(blocks=(public.TransformBlock,), splitter=public.IndexSplitter(range(6)))
    dls = public.DataLoaders.from_dblock(block, items, bs=4, val_bs=3, shuffle=False, device='meta', num_workers=0)
    assert [dl.bs for dl in dls] == [4, 3] and not dls.train.shuffle and str(dls.device) == 'meta'
    dsets = block.datasets(items)
    made = partial(dsets.dataloaders, bs=4, num_workers=0)
    assert made().train.shuffle and not made(shuffle=False).train.shuffle
    with pytest.warns(DeprecationWarning, match='now called shuffle'):
        assert not made(shuffle_train=False).train.shuffle
    assert made(val_shuffle=True).valid.shuffle and not made().valid.shuffle
    assert made().train.drop_last and not made(drop_last=False).train.drop_last
    assert [len(list(made(n=8).train)), len(list(made().train))] == [2, 3]
    assert [dl.bs for dl in made(dl_kwargs=[{}, {'bs': 2}])] == [4, 2]


# ---------------------------------------------------------------- statistics, scores, steps

def test_normalisation_is_by_what_is_told():
    """`mean`, `std`; `dim` and `ndim` say which axis of how many the channels are."""
    x = public.TensorImage(torch.rand(2, 3, 4, 4, generator=G))
    mean, std = torch.tensor([.1, .2, .3]), torch.tensor([.5, .6, .7])
    expected = (x - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    for tfm in (public.Normalize(mean=mean, std=std), public.Normalize.from_stats(mean, std, cuda=False)):
        torch.testing.assert_close(tfm(x), expected)
    tfm = public.Normalize.from_stats(mean, std, dim=2, ndim=3, cuda=False)
    assert tuple(tfm.mean.shape) == (1, 1, 3)


def accumulated(metric, preds, targs):
    """What a metric's function is given of one batch."""
    metric.reset()
    metric.accumulate(SimpleNamespace(pred=preds, y=targs))
    return metric.value


def test_a_function_of_all_predictions_gets_what_is_told():
    """Classes, probabilities, labels; arrays; targets first; flat or not; a name."""
    def both(a, b, **kwargs):
        return a, b
    x, y = torch.randn(6, 3, generator=G), torch.randint(0, 3, (6,), generator=G)
    metric = partial(public.AccumMetric, both)
    assert torch.equal(accumulated(metric(dim_argmax=-1), x, y)[0], x.argmax(-1))
    labels = torch.randint(0, 2, (6, 3), generator=G)
    assert torch.equal(accumulated(metric(activation='sigmoid', flatten=False), x, labels)[0], x.sigmoid())
    assert torch.equal(accumulated(metric(thresh=.2, flatten=False), x, labels)[0], x >= .2)
    assert accumulated(metric(), x, labels)[0].shape == (18,)
    softmax = accumulated(metric(activation='softmax', dim_argmax=-1, flatten=False), x, y)[0]
    torch.testing.assert_close(softmax, x.softmax(-1))
    first, second = accumulated(metric(dim_argmax=-1, invert_arg=True, to_np=True), x, y)
    assert isinstance(first, np.ndarray) and np.array_equal(first, y.numpy()) and not np.array_equal(first, second)
    assert metric(name='mine').name == 'mine' and metric().name == 'both'
    assert public.TorchMetric(SimpleNamespace(), name='mine').name == 'mine'
    assert public.LossMetric('loss_a', 'a').name == 'a'


def test_a_score_of_scikit_learn_is_given_what_is_told():
    """`is_class`, `thresh`, `axis`, `activation` of `skm_to_fastai`."""
    def both(true, pred):
        return true, pred
    x, y = torch.randn(6, 3, generator=G), torch.randint(0, 3, (6,), generator=G)
    labels = torch.randint(0, 2, (6, 3), generator=G)
    make = partial(public.skm_to_fastai, both)
    assert np.array_equal(accumulated(make(), x, y)[1], x.argmax(-1))
    assert np.array_equal(accumulated(make(axis=0), x.T, y)[1], x.argmax(-1))
    assert np.array_equal(accumulated(make(is_class=False, flatten=False), x, labels)[1], x)
    assert np.array_equal(accumulated(make(thresh=.7, flatten=False), x, labels)[1], x.sigmoid() >= .7)
    probabilities = accumulated(make(is_class=False, activation='sigmoid', flatten=False), x, labels)[1]
    assert np.allclose(probabilities, x.sigmoid())


def test_correlations_look_at_what_is_told():
    """`dim_argmax`: of classes; `nan_policy`, `axis` reach scipy."""
    import scipy.stats
    x, y = torch.randn(9, 3, generator=G), torch.randint(0, 3, (9,), generator=G)
    for make, func in ((public.PearsonCorrCoef, scipy.stats.pearsonr),
                       (public.SpearmanCorrCoef, scipy.stats.spearmanr)):
        assert accumulated(make(dim_argmax=-1), x, y) == pytest.approx(func(x.argmax(-1), y).statistic)
    a, b = torch.rand(9, generator=G), torch.rand(9, generator=G)
    a[2] = float('nan')
    assert np.isnan(public.SpearmanCorrCoef()(a, b))
    assert public.SpearmanCorrCoef(nan_policy='omit')(a, b) == pytest.approx(
        scipy.stats.spearmanr(a, b, nan_policy='omit').statistic)
    two = torch.rand(2, 9, generator=G)
    found = public.SpearmanCorrCoef(axis=1, flatten=False)(two, two.flip(0))
    assert np.allclose(found, scipy.stats.spearmanr(two, two.flip(0), axis=1).statistic)


def parameter():
    """A parameter with a gradient."""
    p = nn.Parameter(torch.tensor([1., 2.]))
    p.grad = torch.tensor([.5, -1.])
    return p


def test_steps_of_an_optimizer_do_as_told():
    """`do_wd`, `dampening`, `step`, and averages that are there or not."""
    for decay, look in ((public.weight_decay, lambda p: p.detach()), (public.l2_reg, lambda p: p.grad)):
        p, q = parameter(), parameter()
        before = look(q).clone()
        decay(p, lr=.1, wd=.5), decay(q, lr=.1, wd=.5, do_wd=False)
        assert not torch.equal(look(p), before) and torch.equal(look(q), before)
    p = parameter()
    there = torch.tensor([2., 4.])
    for average, grads, name, keep in ((public.average_grad, p.grad, 'grad_avg', {'mom': .9}),
                                       (public.average_sqr_grad, p.grad**2, 'sqr_avg', {'sqr_mom': .9})):
        for dampening, share in ((True, .1), (False, 1.)):
            torch.testing.assert_close(average(p, dampening=dampening, **keep)[name], grads * share)
            found = average(p, dampening=dampening, **{name: there.clone()}, **keep)[name]
            torch.testing.assert_close(found, there * .9 + grads * share)
    assert public.step_stat(p, step=4) == {'step': 5}
    for step, others in ((public.rms_prop_step, {'sqr_avg': there, 'eps': 0.}), (public.larc_step, {'local_lr': .1})):
        moved = []
        for grad_avg in (None, torch.tensor([3., 3.])):
            p = parameter()
            step(p, lr=.1, grad_avg=grad_avg, **others)
            moved.append(p.detach())
        assert not torch.equal(*moved)


def test_lookahead_goes_as_far_as_alpha_says():
    """`alpha` of the way from the slow weights to the fast ones, each `k` steps."""
    for make in (partial(public.ranger, k=1), lambda ps, lr, alpha: public.Lookahead(public.Adam(ps, lr=lr), k=1,
                                                                                     alpha=alpha)):
        steps = []
        for alpha in (.25, 1.):
            p = parameter()
            before = p.detach().clone()
            make([p], lr=.1, alpha=alpha).step()
            steps.append(p.detach() - before)
        torch.testing.assert_close(steps[0], steps[1] * .25)


@pytest.mark.parametrize('make', [partial(public.OptimWrapper, opt=torch.optim.SGD, lr=.1),
                                  lambda ps: public.Lookahead(public.Adam(ps, lr=.1))])
def test_gradients_are_set_to_none_or_to_zero(make):
    """`set_to_none` of every optimizer."""
    for set_to_none in (True, False):
        p = parameter()
        make([p]).zero_grad(set_to_none=set_to_none)
        assert (p.grad is None) is set_to_none


# ---------------------------------------------------------------- callbacks

def test_gradients_are_looked_at_where_told():
    """`grads=False`: a gradient that is not finite does not end the fit."""
    class Spoils(Callback):
        def after_backward(self):
            if self.train_iter == 1:
                next(self.model.parameters()).grad.fill_(float('inf'))
    for grads in (True, False):
        learn = learner()
        learn.fit(1, .1, cbs=[Spoils(), TerminateOnNaNCallback(grads=grads)])
        assert bool(next(learn.model.parameters()).isfinite().all()) is grads


def test_hooks_of_a_training_are_as_told():
    """`every`, `remove_end`, `is_forward`, `detach`, `cpu`, `include_paramless`, `modules`."""
    class Keeps(HookCallback):
        order = 99

        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.seen = []

        def hook(self, m, i, o):
            first = o[0] if isinstance(o, tuple) else o
            self.seen.append((type(m).__name__, isinstance(o, tuple), first.requires_grad))

    def watched(**options):
        cb = Keeps(**options)
        learn = learner()
        learn.fit(1, .1, cbs=cb)
        return cb, learn
    cb, learn = watched()
    assert [name for name, *_ in cb.seen] == ['Linear'] * 8 and not any(grad for *_, grad in cb.seen)  # validation too
    assert {name for name, *_ in watched(include_paramless=True)[0].seen} == {'Flatten', 'Linear'}
    assert len(watched(every=2)[0].seen) == 2
    assert all(backward for _, backward, _ in watched(is_forward=False)[0].seen)
    assert any(grad for *_, grad in watched(detach=False)[0].seen)
    for remove_end in (True, False):
        cb, learn = watched(remove_end=remove_end)
        before = len(cb.seen)
        learn.model(torch.zeros(1, 3, 6, 6))
        assert (len(cb.seen) == before) is remove_end
        cb.hooks.remove()


def test_a_learner_is_loaded_as_told(tmp_path):
    """`strict=False`: what the file has not is left as it is."""
    learn = learner(path=tmp_path)
    learn.save('m')
    deeper = learner(path=tmp_path, model=nn.Sequential(nn.Flatten(), nn.Linear(108, 4), nn.BatchNorm1d(4)))
    with pytest.raises((ValueError, RuntimeError)):
        deeper.load('m')
    deeper.load('m', strict=False, with_opt=False)
    assert torch.equal(deeper.model[1].weight, weights(learn)['1.weight'])


# ---------------------------------------------------------------- models

HEADS = {'concat_pool': False, 'pool': False, 'lin_ftrs': [7], 'ps': .3, 'first_bn': False, 'bn_final': True,
         'lin_first': True, 'y_range': (0, 1)}


def text_of(head):
    """The layers of a head, as they print themselves."""
    return '\n'.join(repr(layer) for layer in head)


@pytest.mark.parametrize('option', HEADS)
def test_heads_are_made_as_told(option):
    """Through `add_head`, `create_vision_model` and timm's door the head is that of `create_head`, and not the plain
    one."""
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    told = {option: HEADS[option]}
    wanted = text_of(public.create_head(4, 2, **told))
    assert wanted != text_of(public.create_head(4, 2))
    assert text_of(public.add_head(body, 4, 2, **told)[1]) == wanted

    def arch(pretrained=False):
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 9))
    for cut in (1, lambda m: m[:1]):
        model = public.create_vision_model(arch, 2, pretrained=False, cut=cut, **told)
        assert text_of(model[1]) == wanted and len(model[0]) == 1
    if option != 'pool':
        timm_model, _ = public.create_timm_model('test_resnet', 2, pretrained=False, **told)
        assert text_of(timm_model[1]) != text_of(public.create_timm_model('test_resnet', 2, pretrained=False)[0][1])


def test_heads_and_bodies_of_ones_own_are_taken():
    """`head`, `custom_head`, `init`, `n_in`, `cut`."""
    own = nn.Linear(4, 2)
    assert public.add_head(nn.Identity(), None, 2, head=own, init=None)[1] is own
    made = public.add_head(nn.Identity(), 4, 2, init=nn.init.zeros_)
    assert not any(m.weight.any() for m in made.modules() if isinstance(m, nn.Linear))
    arch = public.xresnet18
    with torch.device('cpu'):
        model = public.create_vision_model(arch, 2, pretrained=False, custom_head=own, n_in=1, init=None)
        assert model[1] is own and model[0][0][0].in_channels == 1
        timm_model, _ = public.create_timm_model('test_resnet', 2, pretrained=False, n_in=1, init=nn.init.zeros_)
        assert timm_model.eval()(torch.zeros(1, 1, 32, 32)).shape == (1, 2)
        assert not any(m.weight.any() for m in timm_model[1].modules() if isinstance(m, nn.Linear))
        assert public.create_timm_model('test_resnet', 2, pretrained=False, custom_head=own, init=None)[0][1] is own
        whole = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        assert len(public.create_body(whole)) == 2 and len(public.create_body(whole, cut=1)) == 1
        assert len(public.body_of(whole, n_in=2, pretrained=False, cut=lambda m: m[:1])) == 1
        grey = public.body_of(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1)), n_in=1, pretrained=True)
        assert grey[0].in_channels == 1


SMALL = torch.randn(1, 3, 32, 32, generator=G)


def kinds_in(model):
    return {type(m).__name__ for m in model.modules()}


def test_xresnets_are_built_as_told():
    """`p`, `c_in`, `n_out`, `stem_szs`, `widen`, `sa`, `act_cls`, `ndim`, `ks`, `stride`."""
    make = partial(public.XResNet, public.ResBlock, 1, [1, 1, 1, 1])
    net = make(p=.3, n_out=7, stem_szs=(8, 8, 64), widen=.5, sa=True, act_cls=nn.SiLU, ks=5)
    assert net.eval()(SMALL).shape == (1, 7) and net[-2].p == .3 and net[-1].in_features == 256
    assert net[0][0].out_channels == 8 and net[0][0].kernel_size == (5, 5)
    assert {'SiLU', 'SimpleSelfAttention'} <= kinds_in(net) and 'SimpleSelfAttention' not in kinds_in(make())
    assert make(c_in=1)[0][0].in_channels == 1 and make(stride=3)[0][0].stride == (3, 3)
    assert make(ndim=1).eval()(SMALL[:, :, 0]).shape == (1, 1000)


UNET = {'blur': True, 'self_attention': True, 'y_range': (2., 3.), 'last_cross': False, 'bottle': True,
        'act_cls': nn.SiLU, 'init': nn.init.zeros_, 'norm_type': public.NormType.Weight}


@pytest.mark.parametrize('option', UNET)
def test_unets_are_built_as_told(option):
    """Each option makes another net, through both doors; and what it says."""
    def arch(pretrained=False):
        torch.manual_seed(0)
        return nn.Sequential(*[nn.Conv2d(3 if i == 0 else 16, 16, 3, 2, 1) for i in range(4)], nn.AdaptiveAvgPool2d(1))
    encoder = nn.Sequential(*list(arch())[:-1])
    made = [public.DynamicUnet(encoder, 2, (32, 32), **{option: UNET[option]}),
            public.create_unet_model(arch, 2, (32, 32), pretrained=False, cut=4, **{option: UNET[option]})]
    plain = public.DynamicUnet(encoder, 2, (32, 32))
    for net in made:
        out = net.eval()(SMALL).detach()
        assert out.shape == (1, 2, 32, 32)
        if option == 'y_range':
            assert 2 < out.min() and out.max() < 3
        elif option == 'init':
            assert not any(block.conv1[0].weight.any() for block in net.modules()
                           if isinstance(block, public.UnetBlock))
        elif option in ('blur', 'bottle', 'last_cross'):
            assert repr(net) != repr(plain)
        else:
            name = {'self_attention': 'SelfAttention', 'act_cls': 'SiLU', 'norm_type': 'ParametrizedConv2d'}[option]
            assert name in kinds_in(net) and (name not in kinds_in(plain))
    blocks = [public.UnetBlock(8, 4, **({option: UNET[option]} if option in inspect.signature(
        public.UnetBlock).parameters else {})) for _ in range(1)]
    assert blocks[0](torch.zeros(1, 8, 4, 4), torch.zeros(1, 4, 8, 8)).shape == (1, 8, 8, 8)


def test_blocks_of_a_unet_are_built_as_told():
    """`final_div`, `hook`; `blur_final` is about the last block alone; `mode` of the last resize."""
    below, skip = torch.zeros(1, 8, 4, 4), torch.rand(1, 4, 8, 8, generator=G)
    assert public.UnetBlock(8, 4, final_div=False)(below, skip).shape == (1, 4, 8, 8)
    assert public.UnetBlock(8, 4, hook=SimpleNamespace(stored=skip))(below).shape == (1, 8, 8, 8)
    encoder = nn.Sequential(*[nn.Conv2d(3 if i == 0 else 16, 16, 3, 2, 1) for i in range(3)])
    blurred = [[any(isinstance(m, nn.AvgPool2d) for m in block.modules()) for block in public.DynamicUnet(
        encoder, 2, (32, 32), blur=True, blur_final=blur_final) if isinstance(block, public.UnetBlock)]
        for blur_final in (True, False)]
    assert blurred[0] == [True] * len(blurred[0]) and blurred[1] == [True] * (len(blurred[1]) - 1) + [False]
    big = torch.rand(1, 1, 8, 8, generator=G)
    for mode in ('nearest', 'bilinear'):
        block = public.SequentialEx(nn.AvgPool2d(2, 2), public.ResizeToOrig(mode=mode))
        torch.testing.assert_close(block(big), F.interpolate(F.avg_pool2d(big, 2, 2), (8, 8), mode=mode))


def test_pictures_are_written_as_told(tmp_path):
    """`n_channels`, `img_format`, `ext`, `resample`, `resume`, `max_workers` of `resize_image` and `resize_images`."""
    source = tmp_path / 'in'
    source.mkdir()
    pixels = (torch.rand(20, 30, 4, generator=G) * 255).byte().numpy()
    Image.fromarray(pixels, 'RGBA').save(source / 'a.png')

    def each(**options):
        for i, call in enumerate((partial(public.resize_image, 'a.png', src=source), partial(
                public.resize_images, source, max_workers=2))):
            dest = tmp_path / f'out{i}{sorted(options)}'
            for _ in range(2):
                call(dest=dest, **options)
            yield dest, call

    def written(path):
        with Image.open(path) as im:
            return im.mode, im.format, max(im.size), {tuple(p) for p in np.asarray(im).reshape(-1, 3).tolist()} if (
                im.mode == 'RGB') else set()
    for dest, _ in each(max_size=10):
        assert written(dest / 'a.png')[:3] == ('RGB', 'PNG', 10)
    for dest, _ in each(max_size=10, n_channels=4):
        assert written(dest / 'a.png')[0] == 'RGBA'
    for dest, _ in each(max_size=10, ext='.dat', img_format='JPEG'):
        assert written(dest / 'a.dat')[1] == 'JPEG'
    for dest, _ in each(max_size=10, resample=public.NEAREST):
        old = {tuple(p) for p in pixels[..., :3].reshape(-1, 3).tolist()}
        assert written(dest / 'a.png')[3] <= old
    for dest, call in each(max_size=10, n_channels=3):
        (dest / 'a.png').write_bytes(b'kept')
        call(dest=dest, max_size=10, resume=True)
        assert (dest / 'a.png').read_bytes() == b'kept'
        call(dest=dest, max_size=10)
        assert (dest / 'a.png').read_bytes() != b'kept'


# ---------------------------------------------------------------- further: geometry by hand, predictions, pipelines

PICTURES = public.TensorImage(torch.rand(8, 3, 12, 12, generator=G) + .1)
BY_HAND = {'flip_batch': {}, 'dihedral_batch': {}, 'rotate': {'max_deg': 60}, 'zoom': {'min_zoom': .4, 'max_zoom': .6},
           'warp': {'magnitude': .4}}


@pytest.mark.parametrize('name', BY_HAND)
def test_geometry_by_hand_is_as_told(name):
    """`size`, `mode`, `pad_mode`, `align_corners`, `batch`, `generator`, and how much."""
    def moved(x=PICTURES, **options):
        return getattr(x.clone(), name)(**{'p': 1., 'generator': torch.Generator().manual_seed(1), **BY_HAND[name],
                                           **options})
    assert moved(size=(7, 9)).shape == (8, 3, 7, 9)
    assert torch.isin(moved(size=(7, 9), mode='nearest'), PICTURES).all()
    assert not torch.isin(moved(size=(7, 9)), PICTURES).all()
    assert not torch.equal(moved(size=(7, 9), align_corners=True), moved(size=(7, 9), align_corners=False))
    assert torch.equal(moved(), moved()) and (name == 'flip_batch' or not torch.equal(
        moved(), moved(generator=torch.Generator().manual_seed(2))))
    same = public.TensorImage(PICTURES[:1].expand(8, 3, 12, 12).clone())
    one = moved(same, batch=True)
    assert torch.equal(one, one[:1].expand_as(one))
    if name not in ('flip_batch', 'dihedral_batch'):
        each = moved(same, batch=False)
        assert not torch.equal(each, each[:1].expand_as(each))
        assert (moved(pad_mode='zeros') == 0).any() and not (moved() == 0).any()
        for option in BY_HAND[name]:
            assert not torch.equal(moved(), moved(**{option: BY_HAND[name][option] * .9}))


def test_positions_are_moved_as_told():
    """`affine_coord`: by a function, read by `mode`, beyond the edge by `pad_mode`."""
    def half(xy, invert=False):
        return xy * (.5 if invert else 2)
    x = PICTURES
    for options, law in (({'pad_mode': 'zeros'}, lambda y: (y == 0).any()),
                         ({'mode': 'nearest'}, lambda y: torch.isin(y, x).all()),
                         ({'pad_mode': 'border'}, lambda y: not (y == 0).any())):
        assert law(x.clone().affine_coord(coord_tfm=half, **options))
    assert not torch.equal(x.clone().affine_coord(coord_tfm=half, align_corners=True),
                           x.clone().affine_coord(coord_tfm=half, align_corners=False))


def gathered(cb):
    """The callback after a validation of 8 items in two batches."""
    learn = learner(n=8, bs=4)
    with learn.loss_not_reduced() if cb.with_loss else learn.no_logging():
        learn.validate(cbs=cb)
    return cb


def test_predictions_are_gathered_as_told(tmp_path):
    """What is kept, along which axis it is joined, what is written as well."""
    gather = public.GatherPredsCallback
    cb = gathered(gather())
    assert cb.preds.shape == (8, 4) and cb.targets.shape == (8,) and cb.inputs is None is cb.losses is cb.decoded
    assert gathered(gather(with_input=True)).inputs.shape == (8, 3, 6, 6)
    assert gathered(gather(with_preds=False)).preds is None and gathered(gather(with_targs=False)).targets is None
    assert gathered(gather(with_loss=True)).losses.shape == (8,)
    assert gathered(gather(concat_dim=1, with_targs=False)).preds.shape == (4, 8)
    for folder, option, kept in ((tmp_path / 'preds', gather(save_preds=tmp_path / 'preds'), cb.preds),
                                 (tmp_path / 'targs', gather(save_targs=tmp_path / 'targs'), cb.targets)):
        folder.mkdir()
        gathered(option)
        assert sorted(f.name for f in folder.iterdir()) == ['0', '1']
        assert torch.equal(torch.cat([torch.load(folder / name) for name in '01']), kept)


def test_predictions_are_worked_on_and_put_in_place_as_told():
    """`act` and `decodes`, batch by batch; `ranks`, the place of each row, of `n_rows`."""
    gather, plain, sizes = public.GatherPredsCallback, gathered(public.GatherPredsCallback()), []

    def act(preds):
        sizes.append(len(preds))
        return preds.softmax(-1)
    cb = gathered(gather(act=act, decodes=lambda preds: preds.argmax(-1)))
    assert torch.equal(cb.preds, plain.preds.softmax(-1)) and sizes == [4, 4]
    assert torch.equal(cb.decoded, plain.preds.argmax(-1))
    backwards = gathered(gather(n_rows=8, ranks=torch.arange(7, -1, -1)))
    assert torch.equal(backwards.preds, plain.preds.flip(0)) and torch.equal(backwards.targets, plain.targets.flip(0))


def test_predictions_are_fetched_as_told():
    """`ds_idx`, `dl`, `with_input`, `with_decoded`, `cbs`, `reorder`."""
    seen = []

    class Counts(Callback):
        def before_batch(self):
            seen.append(self.training)

    def fetched(**options):
        cb, learn = public.FetchPredsCallback(**options), learner()
        learn.dls.loaders[1] = torch.utils.data.DataLoader(learn.dls[1].dataset, 16)
        asked = {}
        learn.get_preds = lambda **kwargs: asked.update(kwargs)
        learn.fit(1, .1, cbs=[cb, counts])
        return asked
    counts, dl = Counts(), learner().dls[0]
    told = {'ds_idx': 0, 'dl': dl, 'with_input': True, 'with_decoded': True, 'reorder': False}
    assert {k: v for k, v in fetched(**told).items() if k in told} == told
    assert {k: fetched()[k] for k in told} == {'ds_idx': 1, 'dl': None, 'with_input': False, 'with_decoded': False,
                                               'reorder': True}
    for off, n in ((None, 6 + 2), ((counts,), 6)):  # training, validation, and what is fetched
        seen.clear()
        learn = learner()
        learn.dls.loaders[1] = torch.utils.data.DataLoader(learn.dls[1].dataset, 16)
        learn.fit(1, .1, cbs=[public.FetchPredsCallback(cbs=off), counts])
        assert len(seen) == n


class Split(public.Transform):
    """A transform for one split, which sees what it was set up with."""

    split_idx = 1

    def setups(self, items):
        self.n = len(items)

    def encodes(self, x):
        return x + 10

    def decodes(self, x):
        return x - 10


def test_lists_of_items_are_set_up_as_told(capsys):
    """`split_idx`, `do_setup`, `train_setup`, `types`, `verbose`, `dl_type`, `tls`, `n_inp`."""
    class Own(public.TfmdDL):
        pass
    make = partial(public.TfmdLists, [1, 2, 3], Split, splits=[[0, 1], [2]])
    assert [list(make(split_idx=i)) for i in (0, 1)] == [[1, 2, 3], [11, 12, 13]]
    assert [make(train_setup=t).tfms.fs[0].n for t in (True, False)] == [2, 3]
    assert not hasattr(make(do_setup=False).tfms.fs[0], 'n')
    assert make(do_setup=False, types=[int, int]).types == [int, int]
    assert 'Setting up' in (make(verbose=True), capsys.readouterr().out)[1]
    assert isinstance(make(dl_type=Own).dataloaders(bs=1, num_workers=0).train, Own)
    lists = [make(), make(split_idx=1)]
    dsets = public.Datasets(tls=lists, n_inp=2)
    assert dsets[0] == (1, 11) and dsets.n_inp == 2 and public.Datasets(tls=lists).n_inp == 1


def test_pipelines_and_transforms_are_called_as_told():
    """`split_idx` of a call and of decoding; `generator` for those that draw from one; `as_item`; `train_setup`."""
    tfm = Split()
    assert [tfm(1, split_idx=i) for i in (0, 1)] == [1, 11] and [tfm.decode(11, split_idx=i) for i in (0, 1)] == [11, 1]
    noisy = public.RandomErasing(p=1., sl=.2)
    x = public.TensorImage(torch.zeros(2, 3, 16, 16))
    for call in (noisy, public.Pipeline([noisy])):
        a, b, c = (call(x.clone(), split_idx=0, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2))
        assert torch.equal(a, b) and not torch.equal(a, c)
    assert public.compose_tfms(3, [lambda x: x + 1, lambda x: x * 2]) == 8
    assert public.compose_tfms(3, [lambda x: x + 1, lambda x: x * 2], reverse=True) == 7
    assert public.compose_tfms(18, [Split()], is_enc=False, split_idx=1) == 8

    def decides(b, split_idx):
        calls.append(split_idx)
    calls = []
    public.RandTransform(enc=lambda x: x, before_call=decides)(3, split_idx=0)
    assert calls == [0]


def test_names_of_classes_are_shown_as_told():
    """`sep`, `color`."""
    import matplotlib.pyplot as plt
    ax = public.MultiCategory(['a', 'b']).show(ctx=plt.subplots()[1], sep=' + ', color='red')
    assert ax.get_title() == 'a + b' and ax.title.get_color() == 'red'


def test_a_rate_is_suggested_as_told():
    """`slide`: `thresh` ends the walk from the right, `adjust_value` is a factor."""
    lrs = np.geomspace(1e-6, 1., 60)
    losses = np.concatenate([np.full(30, 2.), np.linspace(2., 1., 15), np.linspace(1., 9., 15)**2])
    rate, _ = public.slide(lrs, losses, 60)
    assert public.slide(lrs, losses, 60, adjust_value=.5)[0] == pytest.approx(rate / 2)
    assert public.slide(lrs, losses, 60, thresh=99.)[0] > rate


def test_masks_are_opened_as_told():
    """`codes` keeps the indices of a palette; `kind` is the class that opens."""
    im = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), 'L').convert('P')
    im.putpalette([9, 9, 9, 200, 200, 200, 90, 90, 90] + [0] * (256 * 3 - 9))
    assert np.asarray(public.load_image(im, mode='L', codes=True)).tolist() == [[0, 1], [2, 1]]
    assert np.asarray(public.load_image(im, mode='L')).tolist() == [[9, 200], [90, 200]]

    class Own(public.PILMask):
        pass
    assert type(public.OpenMask(kind=Own)(np.zeros((2, 2), np.uint8))) is Own
