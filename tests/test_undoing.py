"""Test time augmentation of what lies in a picture: brought back to its place before it is averaged, or refused."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader as TorchLoader

from minifast import undoing
from minifast.data.block import CategoryBlock, DataBlock
from minifast.data.core import DataLoaders
from minifast.data.transform import RandTransform, Transform
from minifast.data.transforms import IntToFloatTensor, ToTensor, get_image_files
from minifast.learner import Learner
from minifast.losses import CrossEntropyLossFlat, MSELossFlat
from minifast.markers import TensorImage, TensorMask, plain
from minifast.undoing import place_of_targets
from minifast.vision.augment import (AffineCoordTfm, Brightness, DeterministicDihedral, Dihedral, DihedralItem, Flip,
                                     FlipItem, RandomCrop, RandomErasing, RandomResizedCrop, RandomResizedCropGPU,
                                     Resize, Rotate, Warp, Zoom, aug_transforms)
from minifast.vision.data import BBoxBlock, ImageBlock, MaskBlock, PointBlock

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Five grey pictures, 48x48 and 64x48, whose upper left part is bright; and their masks."""
    path = tmp_path_factory.mktemp('spots')
    for part in ('square', 'wide', 'masks'):
        (path / part).mkdir()
    for name, w in (('square', 48), ('wide', 64)):
        y, x = np.mgrid[0:48, 0:w]
        for i in range(5):
            bright = (x < w * (.25 + .08 * i)) & (y < 40)
            Image.fromarray(np.where(bright, 230, 60).astype(np.uint8)).save(path / name / f'{name}{i}.png')
            Image.fromarray(bright.astype(np.uint8)).save(path / 'masks' / f'{name}{i}.png')
    return path


class Pixel(nn.Module):
    """Right at every pixel; at half the size too."""

    def __init__(self, stride=1):
        super().__init__()
        self.stride, self.w = stride, nn.Parameter(torch.ones(1))

    def forward(self, x):
        v = (x.mean(1, keepdim=True)[..., ::self.stride, ::self.stride] - .57) * 20 * self.w
        return torch.cat([-v, v], 1)


def on_all(items):
    """Trained and validated on all."""
    return range(len(items)), range(len(items))


def masks(folder, kind='square', item_tfms=None, batch_tfms=None, model=None, items=None, splitter=on_all, **kwargs):
    block = DataBlock(blocks=(ImageBlock, MaskBlock(['dark', 'bright'])), get_y=lambda f: folder / 'masks' / f.name,
                      splitter=splitter, item_tfms=item_tfms, batch_tfms=batch_tfms)
    dls = block.dataloaders(items or get_image_files(folder / kind), bs=2, device='cpu', **kwargs)
    return quiet(Learner(dls, model or Pixel(), CrossEntropyLossFlat(axis=1)))


def quiet(learn):
    learn.remove_cb(learn.progress)
    learn.logger = print
    return learn


@pytest.mark.parametrize('splitter', [lambda o: (range(2, 5), range(2)), lambda o: (range(3), range(3, 5)),
                                      lambda o: ([4], [0, 1, 2, 3])])
def test_each_part_of_the_items_comes_back(folder, splitter):
    """Whatever the splitter has given to the training: what is predicted are the items of the validation."""
    items, flipped = get_image_files(folder / 'square'), dict(batch_tfms=Flip(p=1.))
    preds, targets = masks(folder, items=items, splitter=splitter, **flipped).tta(n=1)
    whole, all_targets = masks(folder, items=items, **flipped).tta(n=1)
    chosen = [*splitter(items)[1]]
    assert torch.equal(targets, all_targets[chosen])
    torch.testing.assert_close(preds, whole[chosen], rtol=0, atol=1e-6)


MOVES = {'flip': ([], Flip(p=1.)), 'dihedral': ([], Dihedral(p=1.)),
         'one after the other': ([], DeterministicDihedral()),
         'rotate': ([], Rotate(max_deg=30, p=1.)), 'zoom': ([], Zoom(max_zoom=1.5, p=1.)),
         'warp': ([], Warp(magnitude=.3, p=1.)),
         'all': ([], aug_transforms(flip_vert=True, max_rotate=45, p_affine=1.)),
         'all, another size': ([], aug_transforms(size=(36, 40))), 'flip item': (FlipItem(p=1.), []),
         'dihedral item': (DihedralItem(), []), 'flips of both': (FlipItem(p=1.), Flip(p=1.)),
         'random crop': (RandomResizedCrop(48, min_scale=.4), []), 'cut out': (RandomCrop(40), Flip(p=1.)),
         'crop of the batch': ([], RandomResizedCropGPU(48, min_scale=.5)),
         'everything': ([DihedralItem(), RandomResizedCrop(48, min_scale=.5)], [*aug_transforms(), RandomErasing(p=0)])}


@pytest.mark.parametrize('way', MOVES)
@pytest.mark.parametrize('use_max', (False, True))
def test_masks_come_back_to_their_place(way, use_max, folder):
    """A model that is right at every pixel stays so, whatever moved its pictures."""
    learn = masks(folder, item_tfms=MOVES[way][0], batch_tfms=MOVES[way][1])
    preds, targets = learn.get_preds()
    augmented, plain_preds = learn.tta(n=3, beta=None, use_max=False)[0] if not use_max else (
        learn.tta(n=3, use_max=True)[0], preds)
    assert torch.equal(plain_preds, preds) and augmented.shape == preds.shape
    assert (preds.argmax(1) == targets).float().mean() > .99
    right = (augmented.argmax(1) == targets).float().mean()
    assert right > (.9 if use_max else .95), right
    if use_max:
        assert (augmented >= preds).all()
    else:
        torch.testing.assert_close(learn.tta(n=3)[0], torch.lerp(augmented, preds, .25))


def test_flips_are_undone_to_the_pixel_and_wide_pictures_where_they_are_seen(folder):
    """A mirrored prediction mirrored is itself; of a window elsewhere what was not seen counts for nothing."""
    learn = masks(folder, batch_tfms=Flip(p=1.))
    augmented, preds = learn.tta(n=2, beta=None)[0]
    torch.testing.assert_close(augmented, preds, atol=1e-4, rtol=1e-4)
    half = masks(folder, batch_tfms=Dihedral(p=1., draw=3.), model=Pixel(2))
    half.loss_func = lambda pred, targ: CrossEntropyLossFlat(axis=1)(pred, targ[:, ::2, ::2])
    half.loss_func.activation = lambda x: x.softmax(1)
    assert half.tta(n=2)[0].shape[-2:] == (24, 24)
    for method in ('crop', 'pad', 'squish'):
        learn = masks(folder, 'wide', [Resize(40, method), FlipItem()])
        preds, targets = learn.get_preds()
        assert (learn.tta(n=4, beta=.01)[0].argmax(1) == targets).float().mean() > .96


class ByPlace(Pixel):
    """Answers by the place alone: one class on the left, the other one on the right."""

    def forward(self, x):
        v = torch.linspace(-1, 1, x.shape[-1]).expand(len(x), 1, *x.shape[-2:]) * self.w
        return torch.cat([-v, v], 1)


def test_what_is_said_of_a_mirrored_picture_is_mirrored(folder):
    """The pictures of the augmented passes are those of training, and the answers come back by the same way."""
    augmented, preds = masks(folder, batch_tfms=Flip(p=1.), model=ByPlace()).tta(n=2, beta=None)[0]
    torch.testing.assert_close(augmented, preds.flip(-1), atol=1e-4, rtol=1e-4)
    assert (augmented - preds).abs().max() > .5


@pytest.mark.parametrize('settings', ({'num_workers': 2}, {'shuffle': True}, {'cache': True}), ids=str)
def test_the_order_of_items_workers_and_caches_do_not_matter(settings, folder, tmp_path):
    """Predictions without labels, of the shuffled training items, from workers and from a cache are the same ones."""
    settings = {**settings, **({'cache': tmp_path / 'kept'} if 'cache' in settings else {})}
    tfms = Resize(40, 'squish'), aug_transforms()
    torch.manual_seed(3)
    want = masks(folder, 'wide', *tfms).tta(n=2)[0]
    learn = masks(folder, 'wide', *tfms, **settings)
    for kwargs in ({}, {'ds_idx': 0}, {'dl': learn.dls.test_dl(get_image_files(folder / 'wide'))}):
        torch.manual_seed(3)
        torch.testing.assert_close(learn.tta(n=2, **kwargs)[0], want)


def test_transforms_that_are_given_stand_in_for_those_of_the_data(folder):
    """`item_tfms` and `batch_tfms` of `tta`: predictions are those of data that have them."""
    tfms = Resize(40, 'squish'), aug_transforms()
    torch.manual_seed(3)
    want = masks(folder, 'wide', *tfms).tta(n=2)[0]
    learn = masks(folder, 'wide', Resize(40, 'squish'))
    torch.manual_seed(3)
    found = learn.tta(n=2, item_tfms=[tfms[0], ToTensor()], batch_tfms=[IntToFloatTensor(), *tfms[1]])[0]
    torch.testing.assert_close(found, want)


def test_what_brings_pictures_back_is_float32(folder, monkeypatch):
    """Not every device has float64."""
    seen, resample = [], undoing.resample
    monkeypatch.setattr(undoing, 'resample', lambda x, m, *args, **kwargs: (
        seen.append(m.dtype), resample(x, m, *args, **kwargs))[1])
    masks(folder, 'wide', Resize(40, 'squish'), aug_transforms()).tta(n=1)
    assert {*seen} == {torch.float32}


def test_each_picture_is_brought_back_to_its_own_place(folder):
    """Square and wide ones in one loader lie differently in what is cut out of them, batch by batch."""
    items = [*get_image_files(folder / 'square'), *get_image_files(folder / 'wide')]
    learn = masks(folder, item_tfms=Resize(40, 'crop'), batch_tfms=Flip(p=1.), items=items)
    targets = learn.get_preds()[1]
    right = (learn.tta(n=3, beta=None)[0][0].argmax(1) == targets).float().mean((1, 2))
    assert right.min() > .96, right


def test_what_lies_where_is_asked_of_the_validation_loader_for_items_without_labels(folder):
    """That of the training may be one of torch's, which does not know; where there is no other, it is asked."""
    learn = masks(folder)
    without = learn.dls.test_dl(get_image_files(folder / 'square'))
    assert place_of_targets(learn, without) is place_of_targets(learn, learn.dls.valid) is TensorMask
    foreign = TorchLoader([(torch.zeros(3, 4, 4), 0)] * 4)
    ours = learn.dls.valid
    for loaders, kind in (([foreign, ours], TensorMask), ([ours, foreign], None), ([ours], TensorMask)):
        learn.dls = DataLoaders(*loaders)
        assert place_of_targets(learn, without) is kind


class Spot(nn.Module):
    """Where the bright part's centre lies, [B,2] in -1..1; or a box around it, [B,4]."""

    def __init__(self, box=False):
        super().__init__()
        self.box, self.w = box, nn.Parameter(torch.zeros(1))

    def forward(self, x):
        bright = (x.mean(1) > .57).float()
        cols, rows = (torch.linspace(-1, 1, n) for n in (x.shape[-1], x.shape[-2]))
        total = bright.sum((1, 2))
        centre = torch.stack([(bright * cols).sum((1, 2)), (bright * rows[:, None]).sum((1, 2))], 1) / total[:, None]
        return torch.cat([centre - .1, centre + .1], 1) + self.w if self.box else centre + self.w


def points(folder, box=False, item_tfms=None, batch_tfms=None):
    block = DataBlock(blocks=(ImageBlock, BBoxBlock if box else PointBlock), item_tfms=item_tfms, batch_tfms=batch_tfms,
                      splitter=lambda o: (range(len(o)), range(len(o))),
                      get_y=lambda f: [[5., 5, 9, 9]] if box else [[5., 5.]])
    kwargs = {'before_batch': None} if box else {}
    dls = block.dataloaders(get_image_files(folder / 'square'), bs=2, device='cpu', **kwargs)
    return quiet(Learner(dls, Spot(box), MSELossFlat()))


@pytest.mark.parametrize('box', (False, True))
@pytest.mark.parametrize('item_tfms, batch_tfms', (
    (None, Flip(p=1.)), (None, Dihedral(p=1.)), (FlipItem(p=1.), None), (DihedralItem(), Flip()),
    (Resize(40, 'squish'), Rotate(max_deg=15, p=1.)), (None, aug_transforms(max_warp=0, max_zoom=1))))
def test_points_and_boxes_come_back_to_their_place(box, item_tfms, batch_tfms, folder):
    """Points move by the other way round, and a mirrored box has its corners in order."""
    learn = points(folder, box, item_tfms, batch_tfms)
    augmented, preds = learn.tta(n=3, beta=None)[0]
    assert augmented.shape == preds.shape == (5, 4 if box else 2)
    moved_far = .12 if isinstance(batch_tfms, (Rotate, list)) else 1e-3  # a part of the picture is cut off
    assert (augmented - preds).abs().max() < moved_far
    if box:
        assert (augmented[:, :2] < augmented[:, 2:]).all()


class Mirrored(RandTransform):
    """A user's own."""

    def encodes(self, x: TensorImage): return x.flip(-1)


class Swirled(Transform):
    """Another, in training only."""

    split_idx = 0

    def encodes(self, x: TensorImage): return x.roll(3, -1)


def _bent(coords, invert=False):
    return coords + .2 * coords.flip(-1) ** 2 * (-1 if invert else 1)


@pytest.mark.parametrize('tfms, words', (
    (Mirrored(), 'Mirrored'), (Swirled(), 'Swirled'), (AffineCoordTfm(coord_fs=_bent), 'function of positions')))
def test_what_cannot_be_undone_is_refused_by_name(tfms, words, folder):
    """Nothing is averaged of which it is not known where it lies."""
    with pytest.raises(ValueError, match=words):
        masks(folder, batch_tfms=tfms).tta(n=2)


@pytest.mark.parametrize('kwargs, words', (
    ({'item_tfms': RandomResizedCrop(40)}, 'RandomResizedCrop'), ({'item_tfms': RandomCrop(40)}, 'RandomCrop'),
    ({'batch_tfms': aug_transforms(size=40, min_scale=.5)}, 'RandomResizedCropGPU')))
def test_points_that_may_be_cut_off_are_refused_by_name(kwargs, words, folder):
    """A model cannot say where a point is that it does not see."""
    with pytest.raises(ValueError, match=words):
        points(folder, **kwargs).tta(n=2)


def test_torchvisions_flips_are_refused_and_light_is_not(folder):
    """By its own name."""
    from torchvision.transforms import v2
    with pytest.raises(ValueError, match='RandomHorizontalFlip'):
        masks(folder, item_tfms=v2.RandomHorizontalFlip()).tta(n=2)
    learn = masks(folder, item_tfms=v2.ColorJitter(.01), batch_tfms=Brightness(max_lighting=.01))
    assert (learn.tta(n=2)[0].argmax(1) == learn.get_preds()[1]).float().mean() > .99


def test_classes_are_averaged_as_they_come(folder):
    """What lies nowhere in the picture is the plain mean of the passes, to the bit, with transforms of any kind."""
    block = DataBlock(blocks=(ImageBlock, CategoryBlock(vocab=[0, 1])), get_y=lambda f: int(f.stem[-1]) % 2,
                      splitter=lambda o: (range(5), range(5)), batch_tfms=[*aug_transforms(), Mirrored()])
    dls = block.dataloaders(get_image_files(folder / 'square'), bs=2, device='cpu')
    net = nn.Sequential(nn.Conv2d(3, 2, 8, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    learn = quiet(Learner(dls, net, CrossEntropyLossFlat()))
    torch.manual_seed(5)
    augmented, preds = learn.tta(n=2, beta=None)[0]
    want = []
    dl = dls.valid.new()
    with dl.dataset.set_split_idx(0):
        for i in range(2):
            dl.begin(5, i)
            want.append(torch.cat([net(plain(b[0])).softmax(-1) for b in dl]).detach())
    assert torch.equal(augmented, (want[0] + want[1]) / 2) and torch.equal(preds, learn.get_preds()[0])
