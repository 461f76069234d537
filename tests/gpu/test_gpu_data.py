"""Data and prediction on a GPU: the numbers of the CPU, however batches are made and sent."""
from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from gpu_learner import loaders, make_pictures, resnet, small
from torch import nn

from minifast.callback.core import Callback
from minifast.callback.mixup import CutMix, MixUp
from minifast.data.load import DataLoader
from minifast.data.transform import Pipeline
from minifast.learner import load_learner
from minifast.markers import TensorImage, TensorMask
from minifast.vision.augment import (
    Brightness, Contrast, Dihedral, Hue, Normalize, RandomErasing, RandomResizedCropGPU, Resize, Rotate, Saturation,
    Warp, Zoom, aug_transforms)
from minifast.vision.core import imagenet_stats

pytestmark = pytest.mark.gpu


# ---------------------------------------------------------------- batch transforms

TFMS = {'aug_transforms': lambda: aug_transforms(max_warp=.2), 'warp': lambda: Warp(.3, p=1.),
        'rotate': lambda: Rotate(30, p=1.), 'zoom': lambda: Zoom(1., 2., p=1.), 'dihedral': lambda: Dihedral(p=1.),
        'crop': lambda: RandomResizedCropGPU(32), 'brightness': lambda: Brightness(p=1.),
        'contrast': lambda: Contrast(p=1.), 'saturation': lambda: Saturation(p=1.), 'hue': lambda: Hue(p=1.),
        'normalize': lambda: Normalize.from_stats(*imagenet_stats, cuda=False),
        'erasing': lambda: RandomErasing(p=1., max_count=3)}


@pytest.mark.parametrize('tfms', TFMS.values(), ids=TFMS)
def test_a_batch_transform_gives_the_numbers_of_the_cpu(device, reproducible, tfms):
    """The same draws, pictures within 1e-4 of 1, and of a mask all but one class in a thousand (ties of rounding)."""
    g = torch.Generator().manual_seed(3)
    coarse = torch.rand(8, 3, 6, 6, generator=g)
    x = nn.functional.interpolate(coarse, 48, mode='bicubic').clamp(0, 1)
    mask = torch.randint(0, 5, (8, 48, 48), generator=g)

    def out(where):
        b = TensorImage(x.clone()).to(where), TensorMask(mask.clone()).to(where)
        return Pipeline(tfms(), split_idx=0)(b, generator=torch.Generator().manual_seed(4))
    (a, m), (b, n) = out('cpu'), out(device)
    assert b.device == device and type(b) is type(a) is TensorImage and type(n) is TensorMask
    torch.testing.assert_close(torch.Tensor(b.cpu()), torch.Tensor(a), rtol=1e-4, atol=1e-4)
    assert (n.cpu().as_subclass(torch.Tensor) == m.as_subclass(torch.Tensor)).float().mean() > .999


def test_batches_are_the_same_for_any_number_of_workers(device, tmp_path):
    """0, 2 and 4 worker processes, and threads: the same bits on the GPU."""
    make_pictures(tmp_path)
    tfms = [*aug_transforms(), Normalize.from_stats(*imagenet_stats)]

    def batches(**kwargs):
        dls = loaders(tmp_path, batch_tfms=tfms, **kwargs)
        dls.train.begin(3, 1)
        return [tuple(map(plain, b)) for b in dls.train]

    def plain(x):
        return x.as_subclass(torch.Tensor)
    expected = batches()
    assert len(expected) == 4 and {x.device for b in expected for x in b} == {device}
    for kwargs in ({'num_workers': 2}, {'num_workers': 4}, {'num_workers': 2, 'multiprocessing_context': 'thread'}):
        for b, other in zip(expected, batches(**kwargs), strict=True):
            assert all(map(torch.equal, b, other)), kwargs


@pytest.mark.parametrize('cb', [MixUp, CutMix])
def test_blends_are_those_of_the_cpu(device, tmp_path, cb):
    """MixUp and CutMix draw on the host: the same pairs, places and weights."""
    seen = {}

    class Look(Callback):
        order, run_valid = 80, False

        def before_batch(self):
            mixing = next(c for c in self.learn.cbs if isinstance(c, cb))
            parts = [self.x, mixing.yb1[0], mixing.lam]
            seen.setdefault(self.dls.device.type, []).append([torch.Tensor(p.cpu()) for p in parts])
    make_pictures(tmp_path)
    for where in {torch.device('cpu'), device}:
        torch.manual_seed(3)
        small(loaders(tmp_path, where)).fit(1, 0., cbs=[cb(), Look()])
    assert len(seen['cpu']) == 4
    torch.testing.assert_close(seen[device.type], seen['cpu'], rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- the way to the device

class Filled:
    """100 items of 200,000 numbers, each filled with its own index."""

    def __len__(self):
        return 100

    def __getitem__(self, i):
        return torch.full((200_000,), float(i)), i


@pytest.mark.parametrize('how', [{}, {'pin_memory': False}, {'num_workers': 2}, {'num_workers': 2, 'pin_memory': False},
                                 {'num_workers': 2, 'multiprocessing_context': 'spawn'},
                                 {'num_workers': 3, 'multiprocessing_context': 'thread'}], ids=str)
def test_no_batch_is_overwritten_on_its_way(device, how):
    """While the GPU is kept busy and nobody waits, 50 batches are sent: behind it each holds its own numbers."""
    dl = DataLoader(Filled(), bs=2, device=device, **how)
    weight, kept = torch.randn(1024, 1024, device=device), []
    for x, y in dl:
        for _ in range(20 if device.type == 'cuda' else 1):  # the queue grows: uploads wait behind it
            weight = (weight @ weight).clamp(-1, 1)
        kept.append((x.amin(1), x.amax(1), y))
    assert len(kept) == 50 and weight.isfinite().all()
    for i, (low, high, y) in enumerate(kept):
        assert low.tolist() == high.tolist() == y.tolist() == [2 * i, 2 * i + 1]


@pytest.mark.parametrize('how', [{}, {'num_workers': 2}, {'num_workers': 2, 'multiprocessing_context': 'thread'}],
                         ids=str)
def test_batches_for_a_gpu_lie_in_page_locked_memory(cuda, tmp_path, how):
    """Unasked, however they are made, with their markers; not where it is declined."""
    make_pictures(tmp_path)
    for pin_memory, pinned in ((None, True), (True, True), (False, False)):
        dl = loaders(tmp_path, pin_memory=pin_memory, **how).train
        sent = []
        dl._upload = lambda host, sent=sent: sent.append(host.data) or host
        dl.after_batch = Pipeline()
        list(dl)
        assert len(sent) == 4 and {x.is_pinned() for b in sent for x in b} == {pinned}
        assert {type(b[0]) for b in sent} == {TensorImage}


# ---------------------------------------------------------------- prediction

def twins(device, folder, **kwargs):
    """The same trained learner on the CPU and on the device."""
    tfms = [*aug_transforms(), Normalize.from_stats(*imagenet_stats)]
    make_pictures(folder)
    one, two = (resnet(loaders(folder, where, batch_tfms=tfms), precision='fp32', **kwargs)
                for where in ('cpu', device))
    one.fit(1)
    two.model.load_state_dict(one.model.state_dict())
    return one, two


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_predictions_are_those_of_the_cpu(device, reproducible, tmp_path):
    """`get_preds`, `predict` and `validate` within 1e-3, `tta` within 2e-3, on the CPU."""
    one, two = twins(device, tmp_path)
    for a, b in zip(one.get_preds(with_input=True, with_loss=True), two.get_preds(with_input=True, with_loss=True),
                    strict=True):
        assert b.device.type == 'cpu'
        close(torch.Tensor(b.float()), torch.Tensor(a.float()))
    file = sorted(tmp_path.rglob('*.png'))[3]
    found, expected = two.predict(file), one.predict(file)
    assert found[0] == expected[0] and found[2].device.type == 'cpu'
    close(found[2], expected[2])
    assert list(two.validate()) == pytest.approx(list(one.validate()), rel=1e-3)
    torch.manual_seed(1)
    preds, _ = one.tta()
    torch.manual_seed(1)
    again, _ = two.tta()
    torch.testing.assert_close(again, preds, rtol=0, atol=2e-3)  # pictures are resampled on the device


def test_lr_find_is_that_of_the_cpu_and_leaves_no_trace(device, reproducible, tmp_path):
    """The losses it sees are those of the CPU within 2%, and weights and the GPU's generator stay as they were."""
    make_pictures(tmp_path)
    seen = []
    for where in ('cpu', device):
        learn = small(loaders(tmp_path, where))
        before = copy.deepcopy(learn.model.state_dict())
        torch.manual_seed(2)
        learn.lr_find(num_it=30, show_plot=False, end_lr=.1)
        seen.append([float(loss) for loss in learn.recorder.losses])
        drawn = torch.rand(3, device=where)
        torch.manual_seed(2)
        assert torch.equal(drawn, torch.rand(3, device=where))
        assert all(torch.equal(w.cpu(), before[name]) for name, w in learn.model.state_dict().items())
    assert len(seen[0]) == 30 and seen[1] == pytest.approx(seen[0], rel=.02)


@pytest.mark.parametrize('cpu', [True, False])
def test_an_exported_learner_predicts_on_either_device(device, reproducible, tmp_path, cpu):
    """Exported from the GPU: `load_learner` puts it on the CPU, or with `cpu=False` on the GPU; same predictions."""
    _, learn = twins(device, tmp_path)
    learn.validate()
    learn.export(tmp_path / 'export.pkl')
    assert {p.device for p in learn.model.parameters()} == {device}
    loaded = load_learner(tmp_path / 'export.pkl', cpu=cpu)
    file = sorted(tmp_path.rglob('*.png'))[3]
    assert {p.device.type for p in loaded.model.parameters()} == {'cpu' if cpu else device.type}
    found, expected = loaded.predict(file), learn.predict(file)
    assert found[0] == expected[0]
    close(found[2], expected[2])


def test_pictures_arrive_as_they_are_on_the_cpu(device, tmp_path):
    """Through the whole pipeline of a validation loader, uint8 across the bus: the same numbers arrive."""
    make_pictures(tmp_path)
    one, two = (loaders(tmp_path, where, item_tfms=Resize(48)).valid for where in ('cpu', device))
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(torch.Tensor(b[0].cpu()), torch.Tensor(a[0]), rtol=0, atol=1e-6)
        assert torch.equal(torch.Tensor(b[1].cpu().float()), torch.Tensor(a[1].float()))


def test_metrics_are_those_of_the_cpu(device, reproducible, tmp_path):
    """Sums kept on the device and metrics of scikit-learn, which need the host: the same rows."""
    from minifast.metrics import F1Score, Perplexity, RocAucBinary, accuracy
    one, two = twins(device, tmp_path)
    rows = []
    for learn in (one, two):
        learn.metrics = [accuracy, F1Score(), RocAucBinary(), Perplexity(), partial(accuracy, axis=-1)]
        rows.append(list(learn.validate()))
    assert rows[1] == pytest.approx(rows[0], rel=1e-3)
