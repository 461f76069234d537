"""Augmentation: everything in a sample moves together, randomness comes from the generator, pixels are fastai's."""
from __future__ import annotations

import ast
import colorsys
import itertools
import json
import math
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image



from minifast.data.config import transform_config, transform_from_config
from minifast.data.transform import Pipeline, is_known
from minifast.data.transforms import IntToFloatTensor, Normalize
from minifast.markers import TensorImage, TensorMask, plain
from minifast.seeds import SampleGenerator, key_seed
from minifast.vision import all as public
from minifast.vision import augment as A
from minifast.vision import crop
from minifast.vision.core import PILImage, PILMask, TensorBBox, TensorPoint
from minifast.vision.crop import _window_by, crop_pad, dihedral
from minifast.vision.geometry import dihedral_mat, flip_mat, move, resample, rotate_mat, zoom_mat
from minifast.vision.light import (_slice, apply_light, brightness_light, contrast_light, hsv2rgb, rgb2hsv,
                                   saturation_light, shift_hue)

FASTAI = np.load(Path(__file__).parent / 'data' / 'vision.npz')
FOUR = [0., 3., -20., 45.]
WIDTH, HEIGHT = 120, 90


def _dot(x: int, y: int, radius: int = 3) -> np.ndarray:
    rows, cols = np.mgrid[:HEIGHT, :WIDTH]
    return (((cols - x) ** 2 + (rows - y) ** 2 <= radius ** 2)[..., None] * np.uint8([255, 255, 255]))


def _centre(pixels) -> tuple[float, float]:
    """Where the light of [H,W] is, (x, y)."""
    pixels = np.asarray(pixels, dtype=float)
    rows, cols = np.mgrid[:pixels.shape[0], :pixels.shape[1]]
    return (pixels * cols).sum() / pixels.sum(), (pixels * rows).sum() / pixels.sum()


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize('k', range(8))
def test_symmetries_are_those_of_pillow_by_number_for_every_kind_of_picture(k, monkeypatch):
    """As in fastai: 0 leaves it, the others are Pillow's; tensors alone and in batches, with OpenCV and without."""
    pixels = np.random.RandomState(0).randint(0, 4, (2, 5, 7, 3), np.uint8)

    def turned(picture):
        return np.asarray(picture.transpose(Image.Transpose(k - 1)) if k else picture)
    wanted = torch.from_numpy(np.stack([turned(Image.fromarray(x)) for x in pixels])).permute(0, 3, 1, 2)
    planes = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    for kind, x, y in ((TensorImage, planes, wanted), (TensorImage, planes[0], wanted[0]),
                       (TensorMask, planes[:, 0], wanted[:, 0]), (TensorMask, planes[0, 0], wanted[0, 0])):
        found = dihedral(kind(x), k)
        assert type(found) is kind and torch.equal(plain(found), y)
    for has_opencv in (True, False):
        if not has_opencv:
            monkeypatch.setattr(crop, 'opencv', lambda: None)
        found = dihedral(PILImage.create(pixels[0]), k)
        assert type(found) is PILImage and np.array_equal(found, wanted[0].permute(1, 2, 0))


def test_pixels_are_mirrored_by_opencv_where_it_is(monkeypatch):
    """It takes a tenth of the time."""
    asked = []
    monkeypatch.setattr(crop, 'opencv', lambda: types.SimpleNamespace(flip=lambda x, way: asked.append(x) or x))
    pixels = np.zeros((5, 7, 3), np.uint8)
    for k in range(8):
        dihedral(PILImage.from_pixels(pixels), k)
    assert len(asked) == 6


BY_HAND = {'rotate': {'max_deg': 40, 'draw': 40.}, 'zoom': {'draw': .5, 'draw_x': .2, 'draw_y': .8},
           'warp': {'draw_x': .3, 'draw_y': -.2}, 'dihedral_batch': {'draw': 4.}, 'flip_batch': {'draw': 1.}}


@pytest.mark.parametrize('name', BY_HAND)
def test_masks_without_a_channel_are_moved_by_hand_as_those_with_one(name):
    """Of wide pictures too: what is as wide as high stays so."""
    mask = torch.from_numpy(np.random.RandomState(0).randint(0, 9, (2, 12, 20), np.uint8))
    found = getattr(TensorMask(mask), name)(p=1., **BY_HAND[name])
    with_channel = getattr(TensorMask(mask[:, None]), name)(p=1., **BY_HAND[name])
    assert torch.equal(found, with_channel[:, 0]) and not torch.equal(found, mask)


# ---------------------------------------------------------------- each sample its own numbers

OF_BATCHES = {
    'Brightness': A.Brightness(.5, p=.7), 'Contrast': A.Contrast(.5, p=.7), 'Saturation': A.Saturation(.5, p=.7),
    'Hue': A.Hue(.3, p=.7), 'Flip': A.Flip(), 'Dihedral': A.Dihedral(.7), 'Rotate': A.Rotate(40, p=.7),
    'Zoom': A.Zoom(.8, 2.5, p=.7, size=40), 'Warp': A.Warp(.3, p=.7), 'RandomErasing': A.RandomErasing(1., sl=.1),
    'RandomResizedCropGPU': A.RandomResizedCropGPU(40, min_scale=.3)}
BASES = {'AffineCoordTfm', 'SpaceTfm', 'LightingTfm', 'HSVTfm', 'DeterministicFlip', 'DeterministicDihedral'}
"""The last two draw nothing: they go through their values batch by batch."""


def test_batch_transforms_are_all_listed():
    """A new one meets the law below."""
    found = {name for name, cls in vars(public).items() if isinstance(cls, type) and issubclass(
        cls, (A.AffineCoordTfm, A.SpaceTfm, A.RandomErasing))}
    assert found - BASES == OF_BATCHES.keys()


@pytest.mark.parametrize('name, dtype', [*((name, torch.float32) for name in (*OF_BATCHES, 'all')),
                                         *((name, torch.uint8) for name in (*OF_BATCHES, 'all')
                                           if name not in ('Hue', 'RandomErasing'))])
def test_a_sample_is_augmented_alike_in_whatever_part_of_a_batch_it_stands(name, dtype):
    """Two or three processes, each with its share of the rows, make bit for bit what one makes of them all."""
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (11, 3, 96, 120), generator=draw, dtype=torch.uint8)
    batch = (TensorImage(pixels if dtype == torch.uint8 else pixels / 255),
             TensorMask(pixels[:, 0] // 64), TensorPoint(torch.rand(11, 5, 2, generator=draw) * 2 - 1))
    keys = [key_seed(3, i) for i in range(11)]
    if name == 'all':
        tfm = Pipeline([IntToFloatTensor(), *A.aug_transforms(size=40, max_zoom=2.5, max_warp=.3)])
    else:
        tfm = OF_BATCHES[name]

    def made(rows):
        part = tuple(o[rows].clone() for o in batch)
        return tfm(part, split_idx=0, generator=SampleGenerator(7, [keys[i] for i in range(11)[rows]]))

    whole = made(slice(None))
    for n in (2, 3):
        for rank in range(n):
            for new, all_new in zip(made(slice(rank, None, n)), whole, strict=True):
                assert torch.equal(plain(new), plain(all_new)[rank::n])
    other = tfm(tuple(o.clone() for o in batch), split_idx=0, generator=SampleGenerator(8, [k + 1 for k in keys]))
    assert any(not torch.equal(plain(a), plain(b)) for a, b in zip(other, whole))


# ---------------------------------------------------------------- together

ITEM_TFMS = [A.Resize(64), A.Resize((64, 80)), A.Resize(64, method='pad', pad_mode='zeros'), A.RandomCrop(200),
             A.Resize(64, method='squish'), A.RandomResizedCrop(64, min_scale=.7), A.RandomCrop(84), A.CropPad(150),
             A.CropPad((60, 80)), A.FlipItem(1.), A.DihedralItem(), A.RatioResize(70)]


@pytest.mark.parametrize('tfm', ITEM_TFMS, ids=lambda t: t.name[:40])
@pytest.mark.parametrize('split_idx', [0, 1])
def test_item_tfm_dot_is_found_where_its_point_and_box_say(tfm, split_idx):
    """Picture, mask, point and box of a sample are moved by the same draw: within a pixel of each other."""
    for seed in range(4):
        x, y = 63, 46
        dot = _dot(x, y)
        point = TensorPoint(torch.tensor([[(x + .5) * 2 / WIDTH - 1, (y + .5) * 2 / HEIGHT - 1]]))
        box = TensorBBox(torch.tensor([[(x - 3) * 2 / WIDTH - 1, (y - 3) * 2 / HEIGHT - 1,
                                        (x + 4) * 2 / WIDTH - 1, (y + 4) * 2 / HEIGHT - 1]]))
        sample = PILImage.create(dot), PILMask.create(dot[..., 0] // 255), point, box
        im, mask, moved, moved_box = tfm(sample, split_idx=split_idx, generator=_generator(seed))
        assert (type(im), type(mask), type(moved), type(moved_box)) == (PILImage, PILMask, TensorPoint, TensorBBox)
        assert im.size == mask.size
        found = np.array(_centre(np.asarray(im)[..., 0]))
        half = np.array(im.size) / 2
        assert np.abs(found - ((moved[0].numpy() + 1) * half - .5)).max() < 1
        corners = moved_box[0].numpy()
        assert np.abs(found - (((corners[:2] + corners[2:]) / 2 + 1) * half - .5)).max() < 1
        assert np.abs(found - np.array(_centre(mask))).max() < 1


@pytest.mark.parametrize('cls', [A.RandomCrop, A.OldRandomCrop, A.Resize, A.RandomResizedCrop, A.FlipItem,
                                 A.DihedralItem])
def test_the_name_shows_how_often_and_another_name_takes_its_place(cls):
    """`p` as it was given, also where every sample is treated."""
    size = () if cls in (A.FlipItem, A.DihedralItem) else (8,)
    assert cls(*size, p=.25).p == .25 and "'p': 0.25" in cls(*size, p=.25).name
    if size:
        assert cls(*size, nm='mine').name == 'mine'


BATCH_TFMS = [A.aug_transforms(flip_vert=True, max_rotate=30, max_warp=.2)[0], A.aug_transforms(size=100)[0],
              A.aug_transforms(size=80, min_scale=.8)[0], A.Rotate(45, p=1.), A.Zoom(1, 1.3, p=1.), A.Warp(.2, p=1.),
              A.Dihedral(1.), A.Flip(1.), A.RandomResizedCropGPU((60, 100), min_scale=.7)]


@pytest.mark.parametrize('tfm', BATCH_TFMS, ids=lambda t: '+'.join(type(p).__name__ for p in t.parts))
@pytest.mark.parametrize('split_idx', [0, 1])
def test_batch_tfm_dot_is_found_where_its_point_and_box_say(tfm, split_idx):
    """The same for a batch, in which each sample has its own draw."""
    places = [(60 + i, 46 - i) for i in range(8)]
    x = torch.stack([torch.from_numpy(_dot(*p)).permute(2, 0, 1) for p in places]).float() / 255
    scale = torch.tensor([2 / (WIDTH - 1), 2 / (HEIGHT - 1)])
    points = torch.tensor(places)[:, None] * scale - 1
    boxes = torch.cat([(torch.tensor(places)[:, None] + d) * scale - 1 for d in (-3, 3)], -1)
    batch = TensorImage(x), TensorMask((x[:, 0] > .5).long()), TensorPoint(points), TensorBBox(boxes)
    moved, masks, moved_points, moved_boxes = tfm(batch, split_idx=split_idx, generator=_generator(1))
    assert type(moved) is TensorImage and type(masks) is TensorMask and masks.dtype == torch.int64
    half = (np.array([moved.shape[-1], moved.shape[-2]]) - 1) / 2
    for i in range(8):
        found = np.array(_centre(moved[i, 0]))
        assert np.abs(found - (moved_points[i, 0].numpy() + 1) * half).max() < 1
        assert np.abs(found - np.array(_centre(masks[i]))).max() < 1
        corners = moved_boxes[i, 0].numpy()
        assert np.abs(found - ((corners[:2] + corners[2:]) / 2 + 1) * half).max() < 1.5


def test_points_are_cropped_by_the_picture_of_their_sample_wherever_that_stands():
    """Before or behind it, alone by `img_size`; of points without either it is said what to do."""
    im, point = PILImage.create(_dot(63, 46)), TensorPoint(torch.tensor([[.1, -.2]]))
    for tfm in (A.Resize(64), A.RandomCrop(50)):
        behind, before = (tfm(sample, split_idx=0, generator=_generator(1)) for sample in ((im, point), (point, im)))
        alone = tfm(TensorPoint(plain(point), img_size=im.size), split_idx=0, generator=_generator(1))
        assert torch.equal(behind[1], before[0]) and torch.equal(behind[1], alone)
        with pytest.raises(ValueError, match='img_size'):
            tfm(point, split_idx=0)


def _bent(coords, invert=False):
    """A user's function of positions: across by a part of how far down, which is undone exactly."""
    shift = .3 * coords[..., 1:] ** 2 * (-1 if invert else 1)
    return torch.cat([coords[..., :1] + shift, coords[..., 1:]], -1)


@pytest.mark.parametrize('made', [
    lambda bend: [bend], lambda bend: [bend, A.Zoom(max_zoom=2., draw=1.7, draw_x=.3, draw_y=.6, p=1.)],
    lambda bend: [bend, A.Warp(draw_x=.2, draw_y=-.15, p=1.)],
    lambda bend: [A.Warp(draw_x=.2, draw_y=-.15, p=1.), bend]],
    ids=['bent', 'bent and zoomed', 'bent, then warped', 'warped, then bent'])
def test_points_and_boxes_follow_pixels_through_functions_of_positions(made):
    """A picture whose values are its own positions shows where each pixel was read: a point from there comes here."""
    tfm, *others = made(A.AffineCoordTfm(coord_fs=_bent, align_corners=True))
    for other in others:
        tfm.compose(other)
    ramp = torch.linspace(-1, 1, 65)
    picture = TensorImage(torch.stack(torch.meshgrid(ramp, ramp, indexing='xy'))[None])
    read_at = plain(tfm(picture, split_idx=0))[0]
    pixels = [(24, 32), (32, 40), (36, 28), (30, 30)]
    here = torch.tensor([[float(ramp[col]), float(ramp[row])] for row, col in pixels])
    there = torch.stack([read_at[:, row, col] for row, col in pixels])
    assert there.abs().max() < .95 and (there - here).abs().max() > .01
    torch.testing.assert_close(plain(tfm(TensorPoint(there[None]), split_idx=0))[0], here, atol=2e-3, rtol=0)
    box = plain(tfm(TensorBBox(torch.cat([there, there], -1)[None]), split_idx=0))[0]
    torch.testing.assert_close(box, torch.cat([here, here], -1), atol=2e-3, rtol=0)



def test_a_resize_outlives_the_mode_it_was_first_called_in():
    """In inference mode and behind it, in the same thread, on a size that was not there before."""
    im = PILImage.create(np.random.RandomState(0).randint(0, 255, (30, 41, 3), np.uint8))
    tfm = A.Resize((17, 23), 'squish')
    with torch.inference_mode():
        first = np.array(tfm(im, split_idx=1))
    again = np.array(tfm(im, split_idx=1))
    with torch.inference_mode():
        last = np.array(tfm(im, split_idx=1))
    assert np.array_equal(first, again) and np.array_equal(again, last)


def test_aug_transforms_resamples_once(monkeypatch):
    """All geometry of a batch is one call of grid_sample, also with a random crop among it."""
    calls = []
    real = torch.nn.functional.grid_sample
    monkeypatch.setattr(torch.nn.functional, 'grid_sample', lambda *a, **k: calls.append(1) or real(*a, **k))
    x = TensorImage(torch.rand(2, 3, 16, 16))
    for tfm in A.aug_transforms(flip_vert=True, size=12, min_scale=.5):
        x = tfm(x, split_idx=0)
    assert x.shape == (2, 3, 12, 12) and len(calls) == 1


# ---------------------------------------------------------------- whose randomness

@pytest.mark.parametrize('tfm', [*ITEM_TFMS[:7], *ITEM_TFMS[9:11]], ids=lambda t: t.name[:40])
def test_item_tfm_randomness_comes_from_the_generator_alone(tfm):
    """Equal generators give equal results, others differ for random ones; the global generators are not touched."""
    im = PILImage.create(np.random.RandomState(0).randint(0, 255, (HEIGHT, WIDTH, 3), np.uint8))
    before = torch.get_rng_state()
    first, again = (np.asarray(tfm(im, split_idx=0, generator=_generator(3))) for _ in range(2))
    assert np.array_equal(first, again) and torch.equal(torch.get_rng_state(), before)
    assert is_known(tfm) and 'generator' not in vars(tfm)


def test_batch_tfms_randomness_comes_from_the_generator_alone():
    """Geometry, light, hue and erasing of a batch too."""
    tfms = [*A.aug_transforms(xtra_tfms=[A.Saturation(), A.Hue(), A.RandomErasing(p=1.)])]
    x = TensorImage(torch.rand(4, 3, 20, 24))
    before = torch.get_rng_state()

    def _run(seed):
        out, generator = x.clone(), _generator(seed)
        for tfm in tfms:
            out = tfm(TensorImage(out.as_subclass(torch.Tensor).clone()), split_idx=0, generator=generator)
        return out

    assert all(is_known(tfm) for tfm in tfms)
    assert torch.equal(_run(1), _run(1)) and not torch.equal(_run(1), _run(2))
    assert torch.equal(torch.get_rng_state(), before)


def test_functions_of_the_user_are_not_taken_for_ours():
    """A chain with the user's own function is unknown to the loader, which then takes the safe way."""
    def _twist(x):
        return torch.eye(3).expand(x.shape[0], 3, 3)
    tfm = A.AffineCoordTfm(aff_fs=_twist)
    x = TensorImage(torch.rand(2, 3, 8, 8))
    assert not is_known(tfm) and not is_known(A.Rotate(draw=lambda x: torch.zeros(x.shape[0])))
    torch.testing.assert_close(tfm(x, split_idx=0), x, rtol=0, atol=1e-5)


def test_validation_leaves_batches_alone():
    """Without a new size nothing is resampled in validation, and lights are for training."""
    x = TensorImage(torch.rand(2, 3, 8, 8))
    for tfm in A.aug_transforms():
        assert tfm(x, split_idx=1) is x


# ---------------------------------------------------------------- equal to fastai

VALID = [k for k in FASTAI if k.startswith('valid/') and k.count('/') == 1]


@pytest.mark.parametrize('key', VALID)
def test_validation_pixels_are_fastais(key):
    """Deterministic crops and resizes: pixels within 1/255 on average, masks and points equal."""
    kind, *args = key.removeprefix('valid/').split('|')
    args = [ast.literal_eval(a) if a[0] in '(0123456789' else a for a in args]
    kwargs = {'val_xtra': .3} if key.endswith('Crop|(40, 64)') else {'pad_mode': 'reflection'} if '100)' in key else {}
    tfm = getattr(A, kind)(*args, **kwargs)
    source = FASTAI['source']
    points = TensorPoint(torch.tensor([[-.5, .25], [.75, -.125]]))
    sample = PILImage.create(source), PILMask.create((source[..., 0] // 32).astype(np.uint8)), points
    im, mask, points = tfm(sample, split_idx=1)
    assert np.abs(np.asarray(im).astype(int) - FASTAI[key]).mean() < .1
    assert np.array_equal(mask, FASTAI[f'{key}/mask'])
    if kind != 'RandomResizedCrop':  # there fastai forgets the margin for points; ours are found by the test with dots
        np.testing.assert_allclose(points, FASTAI[f'{key}/points'], atol=1e-6)


GEOMETRY = {
    'rotate': {'draw': FOUR}, 'zoom': {'draw': [1., 1.3, .8, 2.], 'draw_x': .3, 'draw_y': .8},
    'warp': {'draw_x': [0., .2, -.3, .1], 'draw_y': [0., .1, .2, -.3]},
    'flip_batch': {'draw': [0, 1, 0, 1]}, 'dihedral_batch': {'draw': [3, 1, 2, 7]}}
LIGHT = {'brightness': [.5, .3, .7, .9], 'contrast': [1., .5, 1.5, 2.], 'saturation': [1., .5, 0., 2.],
         'hue': [0., .5, .1, 1.3]}


def _batch() -> TensorImage:
    return TensorImage(torch.from_numpy(FASTAI['batch']).float())


@pytest.mark.parametrize('name', GEOMETRY)
def test_batch_geometry_pixels_are_fastais(name):
    """With given draws each way of padding, and a smaller size, gives fastai's pixels."""
    for how, kwargs in {**{m: {'pad_mode': m} for m in ('zeros', 'border', 'reflection')},
                        'small': {'size': 12}}.items():
        ours = getattr(_batch(), name)(p=1., **GEOMETRY[name], **kwargs)
        np.testing.assert_allclose(ours, FASTAI[f'batch/{name}|{how}'], atol=1e-3)


@pytest.mark.parametrize('name', LIGHT)
def test_batch_light_pixels_are_fastais(name):
    """With given draws brightness, contrast, saturation and hue give fastai's pixels."""
    np.testing.assert_allclose(getattr(_batch(), name)(p=1., draw=LIGHT[name]), FASTAI[f'batch/{name}'], atol=1e-3)


def test_composed_pixels_are_fastais():
    """Joined into one resampling and one pass, the chain is fastai's chain."""
    geometry = [A.Rotate(p=1., **GEOMETRY['rotate']), A.Zoom(p=1., **GEOMETRY['zoom']),
                A.Warp(p=1., **GEOMETRY['warp'])]
    light = [A.Brightness(draw=LIGHT['brightness'], p=1.), A.Contrast(draw=LIGHT['contrast'], p=1.),
             A.Saturation(draw=LIGHT['saturation'], p=1.)]
    for tfms, key in ((geometry, 'batch/all|geometry'), (light, 'batch/all|light')):
        tfm, = A.setup_aug_tfms(tfms)
        np.testing.assert_allclose(tfm(_batch(), split_idx=0), FASTAI[key], atol=1e-3)
        assert len(tfms[0].parts) == 1  # the caller's own stay as they were
    points = torch.tensor([[-.5, .25], [.75, -.125]])[None].repeat(4, 1, 1)
    for tfm in geometry:
        moved = tfm((_batch(), TensorPoint(points)), split_idx=0)[1]
        np.testing.assert_allclose(moved, FASTAI[f'points/{type(tfm).__name__}'], atol=1e-6)


def test_draws_are_distributed_as_fastais():
    """Means and deviations of 20,000 drawn matrices agree."""
    many = torch.zeros(20000, 1, 1, 1)
    drawn = {'flip': flip_mat(many, p=.5), 'rotate': rotate_mat(many, max_deg=10, p=.75),
             'dihedral': dihedral_mat(many, p=.5), 'zoom': zoom_mat(many, max_zoom=1.3, p=.75)}
    for name, m in drawn.items():
        flat = m.reshape(-1, 9)
        np.testing.assert_allclose(torch.cat([flat.mean(0), flat.std(0)]), FASTAI[f'drawn/{name}'], atol=.03)


def test_names_orders_and_splits_are_fastais():
    """What pipelines sort and filter by."""
    assert [t.order for t in (A.CropPad(1), A.RandomCrop(1), A.Resize(1), A.RandomResizedCrop(1), A.RatioResize(1),
                              A.FlipItem(), A.Flip(), A.RandomResizedCropGPU(1), A.Brightness(), A.Hue(),
                              A.RandomErasing())] == [0, 1, 1, 1, 1, 0, 30, 30, 40, 40, 100]
    assert [t.split_idx for t in (A.Resize(1), A.FlipItem(), A.Flip(), A.Brightness())] == [None, 0, None, 0]
    assert [type(t).__name__ for t in A.aug_transforms()] == ['AffineCoordTfm', 'LightingTfm']
    assert A.aug_transforms(do_flip=False, max_rotate=0, max_zoom=1., max_lighting=0, max_warp=0) == []


# ---------------------------------------------------------------- the rest

def test_light_of_bytes_is_the_light_of_floats():
    """uint8 pictures go through a table and come out as the floats would, rounded."""
    x = torch.randint(0, 256, (4, 3, 9, 7), dtype=torch.uint8)
    tfm, = A.setup_aug_tfms([A.Brightness(draw=LIGHT['brightness'], p=1.), A.Contrast(draw=LIGHT['contrast'], p=1.)])
    of_bytes, of_floats = tfm(TensorImage(x), split_idx=0), tfm(TensorImage(x / 255), split_idx=0)
    assert of_bytes.dtype == torch.uint8
    torch.testing.assert_close(of_bytes.float(), of_floats * 255, rtol=0, atol=.51)


def test_item_tfm_arrays_and_pillow_images_agree():
    """A decoded JPEG (an array) and a Pillow image of the same pixels are resized to the same picture, bit for bit."""
    pixels = FASTAI['source']
    held = PILImage.create(pixels)
    pillow = PILImage.create(pixels)
    pillow.load()
    assert held.pixels is not None and pillow.pixels is None
    for tfm in ITEM_TFMS:
        a, b = (np.asarray(tfm(im, split_idx=0, generator=_generator(5))) for im in (held, pillow))
        assert np.array_equal(a, b)


def test_random_erasing_stays_within_its_bounds():
    """At most `max_count` rectangles of at most `sh` of the area are filled with noise, the rest is untouched."""
    for seed in range(20):
        x = TensorImage(torch.full((2, 3, 40, 50), 7.))
        erased = A.RandomErasing(p=1., sh=.3, max_count=3)(x.clone().as_subclass(TensorImage), split_idx=0,
                                                         generator=_generator(seed))
        assert (erased != 7.).float().mean() <= .35


@pytest.mark.parametrize('tfm', [A.Resize((64, 80), method='pad', pad_mode='border'), A.RandomResizedCrop(64,
                                                                                                          min_scale=.5),
                                 A.FlipItem(.3), A.RandomErasing(max_count=2), *A.aug_transforms(size=64,
                                                                                                 min_scale=.7)],
                         ids=lambda t: type(t).__name__)
def test_tfm_survives_as_data(tfm):
    """Through json and back a transform does the same, and its parts are there again."""
    again = transform_from_config(json.loads(json.dumps(transform_config(tfm))))
    if tfm.order < 10:
        x = PILImage.create(np.random.RandomState(0).randint(0, 255, (HEIGHT, WIDTH, 3), np.uint8))
    else:
        x = TensorImage(torch.rand(2, 3, 20, 20))
    a, b = (np.asarray(t(x, split_idx=0, generator=_generator(9))) for t in (tfm, again))
    assert np.array_equal(a, b) and repr(tfm) == repr(again)


def test_wrong_arguments_say_what_is_right():
    """Messages name the values that are taken."""
    im = PILImage.create(FASTAI['source'])
    with pytest.raises(ValueError, match='border'):
        A.Resize(64, method='pad', pad_mode='mirror')(im)
    with pytest.raises(ValueError, match='min_zoom'):
        A.Zoom(2., 1.)(TensorImage(torch.rand(1, 3, 4, 4)), split_idx=0)
    with pytest.raises(TypeError, match='siez'):
        A.Resize(siez=64)
    with pytest.raises(ValueError, match='one a sample'):
        _batch().rotate(draw=[1., 2.], p=1.)


@pytest.mark.parametrize('pad_mode', ['zeros', 'border', 'reflection'])
@pytest.mark.parametrize('memory', [torch.contiguous_format, torch.channels_last])
def test_geometry_of_bytes_is_the_geometry_of_floats(pad_mode, memory):
    """uint8 pictures on the CPU go through OpenCV and come out as the floats would, within 2/255 on average."""
    x = (_batch() * 255).round().to(torch.uint8).as_subclass(torch.Tensor).contiguous(memory_format=memory)
    mask = TensorMask(x[:, 0].contiguous())
    for align_corners, size in ((True, None), (False, (30, 20))):
        tfms = [A.Rotate(p=1., draw=FOUR, pad_mode=pad_mode, align_corners=align_corners, size=size),
                A.Zoom(p=1., **GEOMETRY['zoom']), A.Warp(p=1., **GEOMETRY['warp'])]
        tfm, = A.setup_aug_tfms(tfms)
        of_bytes, of_mask = tfm((TensorImage(x), mask), split_idx=0)
        of_floats, of_long = tfm((TensorImage(x.float()), TensorMask(mask.as_subclass(torch.Tensor).long())),
                                 split_idx=0)
        assert of_bytes.dtype == of_mask.dtype == torch.uint8
        assert of_bytes.is_contiguous(memory_format=memory) and type(of_mask) is TensorMask
        assert (of_bytes.float() - of_floats).abs().mean() < 2
        assert (of_mask.long() != of_long).float().mean() < .05


def test_an_unknown_way_of_resizing_crops_and_says_so():
    """As in scripts with a word that fastai takes without a word."""
    with pytest.warns(UserWarning, match="'squeeze' is none of 'crop', 'pad' and 'squish'"):
        resize = A.Resize(8, method='squeeze')
    picture = PILImage.create(np.random.RandomState(0).randint(0, 255, (20, 30, 3), np.uint8))
    assert np.array_equal(resize(picture, split_idx=1), A.Resize(8)(picture, split_idx=1))


# ---------------------------------------------------------------- what is drawn: how often, from where to where

MANY = 20_000


def _drawn(tfm):
    """What a batch transform draws for many samples at once."""
    batch = TensorImage(torch.zeros(1, 1, 1, 1).expand(MANY, 3, 8, 8))
    return tfm.draw((batch,), 0, _generator(3))


def _degrees(m):
    return torch.atan2(m[:, 0, 1], m[:, 0, 0]) * 180 / torch.pi


def _tilts(m, axis):
    """How far the corner (-1, -1) is moved along an axis: the tilt the other way."""
    corner = torch.tensor([-1., -1., 1.])
    moved = torch.linalg.solve(m, corner.expand(len(m), 3))
    return -1 - moved[:, axis] / moved[:, 2]


VALUES = {
    'rotate': (lambda p: A.Rotate(30, p=p), lambda d: _degrees(d[0]), -30., 30., 0., False),
    'zoom': (lambda p: A.Zoom(1.2, 1.6, p=p), lambda d: 1 / d[0][:, 0, 0], 1.2, 1.6, 1., False),
    'warp down': (lambda p: A.Warp(.3, p=p), lambda d: _tilts(d[0], 0), -.3, .3, 0., False),
    'warp across': (lambda p: A.Warp(.3, p=p), lambda d: _tilts(d[0], 1), -.3, .3, 0., False),
    'brightness': (lambda p: A.Brightness(.4, p=p), lambda d: d[0].offset.sigmoid(), .3, .7, .5, False),
    'contrast': (lambda p: A.Contrast(.4, p=p), lambda d: d[0].scale, .6, 1 / .6, 1., True),
    'saturation': (lambda p: A.Saturation(.4, p=p), lambda d: d[0].mix, .6, 1 / .6, 1., True),
    'hue': (lambda p: A.Hue(.2, p=p), lambda d: d[0], .8, 1.25, 0., True),
}
"""Name -> transform with probability p, what it drew, from where, to where, what leaves a sample alone, logarithmic?"""


@pytest.mark.parametrize('name', VALUES)
@pytest.mark.parametrize('p', [0., .3, 1.])
def test_drawn_values_lie_in_the_told_range_for_the_told_share_of_samples(name, p):
    """Uniform (or uniform in the logarithm) from end to end with probability p, else what changes nothing."""
    make, value_of, low, high, neutral, logarithmic = VALUES[name]
    values = value_of(_drawn(make(p))).double()
    moved = values[(values - neutral).abs() > 1e-5]
    assert abs(len(moved) / MANY - p) < .011
    if not p:
        return
    ends = torch.tensor([low, high], dtype=torch.float64)
    moved, ends = (moved.log(), ends.log()) if logarithmic else (moved, ends)
    uniform = ((moved - ends[0]) / (ends[1] - ends[0])).sort().values
    # the largest distance between the distribution and the uniform one (Kolmogorov-Smirnov, far beyond chance)
    assert (uniform - torch.linspace(0, 1, len(uniform), dtype=torch.float64)).abs().max() < 2.5 / len(uniform) ** .5


@pytest.mark.parametrize('p', [0., .3, 1.])
def test_drawn_mirrors_and_symmetries_come_as_often_as_told(p):
    """Of a batch: `Flip` mirrors a share p; `Dihedral` takes each of the eight symmetries for p/8."""
    assert abs(float((_drawn(A.Flip(p))[0][:, 0, 0] < 0).float().mean()) - p) < .011
    kinds, counts = _drawn(A.Dihedral(p))[0].reshape(MANY, 9).unique(dim=0, return_counts=True)
    assert len(kinds) == (8 if p else 1)
    own = (kinds == torch.eye(3).flatten()).all(1)
    assert abs(float(counts[own]) / MANY - (1 - p * 7 / 8)) < .011
    assert (counts[~own] / MANY - p / 8).abs().max() < .011 if p else True


@pytest.mark.parametrize('p', [0., .3, 1.])
def test_drawn_item_mirrors_and_symmetries_come_as_often_as_told(p):
    """Of an item: the same for `FlipItem` and `DihedralItem`, seen on the picture."""
    picture, g, n = PILImage.create(np.random.RandomState(0).randint(0, 255, (5, 5, 3), np.uint8)), _generator(1), 4000
    flips = [tfm.draw((picture,), 0, g) for tfm in [A.FlipItem(p)] for _ in range(n)]
    assert abs(sum(k is not None for k in flips) / n - p) < .025 and set(flips) <= {None, 1}
    turns = [tfm.draw((picture,), 0, g) for tfm in [A.DihedralItem(p)] for _ in range(n)]
    assert abs(sum(k is not None for k in turns) / n - p) < .025
    counts = np.bincount([k for k in turns if k is not None], minlength=8) / n
    assert np.abs(counts - p / 8).max() < .02
    assert np.array_equal(np.asarray(A.FlipItem(1.)(picture, split_idx=0)), np.asarray(picture)[:, ::-1])
    assert np.array_equal(np.asarray(A.FlipItem(1.)(picture, split_idx=1)), np.asarray(picture))


def _windows(tfm, orig, n=2000):
    g = _generator(4)
    picture = PILImage.create(np.zeros((orig[1], orig[0], 3), np.uint8))
    found = [tfm.window(orig, tfm.draw((picture,), 0, g)[0]) for _ in range(n)]
    return np.array([(*size, *corner) for size, corner, _ in found], dtype=float)


@pytest.mark.parametrize('tfm, orig, spare', [(A.RandomCrop(40), (100, 70), (60, 30)),
                                              (A.Resize(40), (100, 40), (60, 0)),
                                              (A.Resize(40, 'pad'), (100, 40), (0, -60)),
                                              (A.Resize((40, 20)), (40, 160), (0, 80))], ids=str)
def test_windows_in_training_lie_anywhere_and_in_validation_in_the_middle(tfm, orig, spare):
    """From one border to the other, on both axes at once; with padding the picture may lie anywhere in its frame."""
    corners = _windows(tfm, orig)[:, 2:]
    for axis in (0, 1):
        low, high = sorted((0, spare[axis]))
        assert corners[:, axis].min() <= low + 1 and corners[:, axis].max() >= high - 1
        assert low <= corners[:, axis].min() and corners[:, axis].max() <= high
        assert abs(corners[:, axis].mean() - spare[axis] / 2) <= max(.03 * abs(spare[axis]), .51)
    picture = PILImage.create(np.zeros((orig[1], orig[0], 3), np.uint8))
    middle = tfm.window(orig, tfm.draw((picture,), 1, None)[0])[1]
    assert middle == (int(spare[0] / 2), int(spare[1] / 2))


def test_random_resized_crop_takes_areas_and_aspects_as_told():
    """Areas uniform in min_scale..max_scale, aspects uniform in the logarithm of the ratio, windows anywhere."""
    tfm = A.RandomResizedCrop(32, min_scale=.2, max_scale=.5, ratio=(.5, 2.))
    w, h, left, top = _windows(tfm, (4000, 4000)).T
    for u in ((w * h / 16e6 - .2) / .3, np.log(w / h) / np.log(4) + .5, left / (4000 - w), top / (4000 - h)):
        u = np.sort(u)
        assert np.abs(u - np.linspace(0, 1, len(u))).max() < .05
    assert np.abs(np.corrcoef([w * h, w / h, left / (4000 - w), top / (4000 - h)]) - np.eye(4)).max() < .1


def test_random_resized_crop_keeps_a_margin_in_validation():
    """The whole picture is stretched to the size and 14 % more, rounded up to 8 pixels, and the middle of it kept."""
    picture = PILImage.create(np.random.RandomState(0).randint(0, 255, (300, 400, 3), np.uint8))
    for kwargs, side in (({}, 152), ({'val_xtra': .5}, 192), ({'val_xtra': 0.}, 128)):
        whole = np.asarray(A.Resize(side, 'squish')(picture, split_idx=1))
        cut = (side - 128) // 2
        kept = np.asarray(A.RandomResizedCrop(128, **kwargs)(picture, split_idx=1))
        assert np.array_equal(kept, whole[cut:cut + 128, cut:cut + 128])


@pytest.mark.parametrize('size, left, top', [((30, 40), 20, 15), ((45, 60), 10, 7), ((60, 80), 0, 0)])
def test_the_window_of_a_batch_in_validation_is_the_middle(size, left, top):
    """On both axes: where it is as large as the result, its pixels are those of the picture."""
    x = TensorImage(torch.rand(2, 3, 60, 80, generator=_generator(0)))
    found = A.RandomResizedCropGPU(size, valid_scale=size[0] / 60)(x, split_idx=1)
    torch.testing.assert_close(plain(found), plain(x)[..., top:top + size[0], left:left + size[1]], atol=1e-5, rtol=0)


def test_ratio_resize_makes_the_longer_side_as_told():
    """The aspect stays, and a pixel of the shorter side."""
    for shape, size in (((90, 120), (70, 52)), ((120, 90), (52, 70)), ((10, 400), (70, 1)), ((400, 10), (1, 70))):
        picture = PILImage.create(np.zeros((*shape, 3), np.uint8))
        assert A.RatioResize(70)(picture, split_idx=0).size == size


def test_what_is_applied_to_normalised_pictures_comes_back_within_bounds():
    """Taken back to 0..1 as plain numbers; the pictures given stay."""
    x = TensorImage(torch.rand(2, 3, 4, 4, generator=_generator(0)))
    before, norm, seen = x.clone(), Normalize.from_stats([.5, .4, .3], [.2, .3, .4], cuda=False), []
    found = A.norm_apply_denorm(x, lambda o: seen.append(plain(o).clone()) or o.mul_(2), norm)
    mean, std = (torch.tensor(o)[:, None, None] for o in ([.5, .4, .3], [.2, .3, .4]))
    torch.testing.assert_close(seen[0], (plain(before) - mean) / std)
    torch.testing.assert_close(found, (2 * plain(before) - mean).clamp(0, 1))
    assert type(found) is torch.Tensor and torch.equal(x, before)


def test_random_erasing_erases_what_is_told():
    """With probability p, one to max_count rectangles that share sl..sh of the area; normal noise; no other pixel."""
    n, shares, counts, noise = 300, [], set(), []
    for seed in range(n):
        x = TensorImage(torch.full((2, 3, 60, 80), 7.))
        tfm, g = A.RandomErasing(p=.4, sl=.1, sh=.3, max_count=3), _generator(seed)
        drawn = tfm.draw((x,), 0, g)
        if drawn is None:
            continue
        erased = tfm.apply(x, drawn)
        hole = (erased != 7.).any(1)
        inside = torch.zeros(60, 80, dtype=torch.bool)
        for top, bottom, left, right in drawn[0]:
            inside[top:bottom, left:right] = True
        assert torch.equal(hole, inside.expand(2, 60, 80))
        counts.add(len(drawn[0]))
        shares.append(sum((b - t) * (r - le) for t, b, le, r in drawn[0]) / 4800)
        noise.append(erased[erased != 7.])
    assert abs(len(shares) / n - .4) < .09 and counts == {1, 2, 3}
    assert .08 < min(shares) < .13 and .26 < max(shares) < .32 and abs(np.mean(shares) - .2) < .02
    noise = torch.cat(noise)
    assert abs(float(noise.mean())) < .01 and abs(float(noise.std()) - 1) < .01
    for p, moved in ((0., False), (1., True)):
        x = TensorImage(torch.full((1, 3, 20, 20), 7.))
        assert bool((A.RandomErasing(p=p, sl=.1)(x, split_idx=0, generator=_generator(0)) != 7.).any()) == moved
    x = TensorImage(torch.full((1, 3, 20, 20), 7.))
    assert torch.equal(A.RandomErasing(p=1.)(x, split_idx=1), torch.full((1, 3, 20, 20), 7.))


ALL_BATCH = {'Flip': A.Flip, 'Dihedral': A.Dihedral, 'Rotate': A.Rotate, 'Zoom': lambda p: A.Zoom(1.2, 1.5, p=p),
             'Warp': A.Warp, 'Brightness': A.Brightness, 'Contrast': A.Contrast, 'Saturation': A.Saturation,
             'Hue': A.Hue}


@pytest.mark.parametrize('name', ALL_BATCH)
def test_batch_tfm_does_something_in_training_with_p_1_and_nothing_else(name):
    """Nothing with p=0, nothing in validation; with p=1 pictures of a batch change, each in a way of its own."""
    x = torch.rand(16, 3, 12, 12)

    def largest_change(p, split_idx):
        made = ALL_BATCH[name](p=p)(TensorImage(x.clone()), split_idx=split_idx, generator=_generator(1))
        return (plain(made) - x).abs().flatten(1).amax(1)
    assert largest_change(0., 0).max() < 1e-5 and largest_change(1., 1).max() == 0
    moved = largest_change(1., 0) > 1e-3
    assert moved.float().mean() > .7


def test_batch_true_draws_once_for_a_batch():
    """One value for all samples of it, another one for the next batch."""
    for make in (A.Flip, A.Rotate, A.Brightness, A.Dihedral):
        drawn = _drawn(make(p=1., batch=True))
        value = drawn[0] if isinstance(drawn, tuple) else drawn[0].offset
        assert torch.equal(value, value[:1].expand(value.shape))


@pytest.mark.parametrize('name', ['lighting', 'hsv'])
def test_a_function_of_logits_or_of_hue_is_applied_to_marked_pictures(name):
    """One that changes nothing gives the picture, marked as it was; one that changes something another one."""
    x = TensorImage(torch.rand(2, 3, 5, 6, generator=_generator(0)) * .8 + .1)
    seen, light = [], torch.tensor([1., 1., .5])[:, None, None]
    made = getattr(x, name)(lambda values: seen.append(values) or values)
    assert type(made) is TensorImage and type(seen[0]) is torch.Tensor
    torch.testing.assert_close(plain(made), plain(x), atol=1e-5, rtol=0)
    darker = getattr(x, name)(lambda values: values - 1 if name == 'lighting' else values * light)
    assert type(darker) is TensorImage and (darker < x).all()


def test_deterministic_flips_and_symmetries_go_on_from_batch_to_batch():
    """Plain, mirrored, plain; and the eight symmetries in turn."""
    x = TensorImage(torch.rand(2, 3, 6, 6))
    flip, turn = A.DeterministicFlip(), A.DeterministicDihedral()
    seen = [flip(TensorImage(plain(x).clone()), split_idx=0) for _ in range(4)]
    for i, found in enumerate(seen):
        torch.testing.assert_close(plain(found), plain(x).flip(-1) if i % 2 else plain(x), atol=1e-5, rtol=0)
    seen = torch.stack([plain(turn(TensorImage(plain(x).clone()), split_idx=0)) for _ in range(9)])
    torch.testing.assert_close(seen[0], seen[8], atol=1e-5, rtol=0)
    apart = torch.cdist(seen[:8].flatten(1), seen[:8].flatten(1)) + 9 * torch.eye(8)
    assert apart.min() > .1


def test_aug_transforms_take_each_of_their_arguments():
    """What each says is what the transforms in it draw: probabilities, ranges, which of them there are."""
    def parts(**kwargs):
        return {type(part).__name__: part for tfm in A.aug_transforms(**kwargs) for part in tfm.parts}
    told = parts(mult=1., do_flip=True, max_rotate=25., min_zoom=1.2, max_zoom=1.4, max_lighting=.3, max_warp=.15,
                 p_affine=.6, p_lighting=.9)
    for name, arguments in {'Flip': {'p': .5}, 'Rotate': {'max_deg': 25., 'p': .6}, 'Brightness': {'p': .9},
                            'Zoom': {'min_zoom': 1.2, 'max_zoom': 1.4, 'p': .6}, 'Warp': {'magnitude': .15, 'p': .6},
                            'Contrast': {'max_lighting': .3, 'p': .9}}.items():
        assert {key: getattr(told[name], key) for key in arguments} == arguments
    assert told['Brightness'].max_lighting == .3
    assert {'Flip', 'Dihedral'} & set(parts(do_flip=False)) == set() and 'Dihedral' in parts(flip_vert=True)
    assert 'Flip' not in parts(flip_vert=True)
    twice = parts(mult=2.)
    assert (twice['Rotate'].max_deg, twice['Warp'].magnitude, twice['Brightness'].max_lighting) == (20., .4, .4)
    for name, left_out in {'Rotate': {'max_rotate': 0}, 'Zoom': {'max_zoom': 1.}, 'Warp': {'max_warp': 0},
                           'Brightness': {'max_lighting': 0}}.items():
        assert name in parts() and name not in parts(**left_out)
    for kwargs in ({'size': 8}, {'size': (8, 6), 'min_scale': .5}):
        window = parts(**kwargs).get('RandomResizedCropGPU')
        assert (window is None) == ('min_scale' not in kwargs)
    assert window.min_scale == .5 and window.ratio == (1, 1) and window.max_scale == 1.
    x = TensorImage(torch.rand(2, 3, 20, 20))
    tfm, *_ = A.aug_transforms(size=(8, 6), min_scale=.5)
    assert tfm(x, split_idx=0).shape[-2:] == tfm(x, split_idx=1).shape[-2:] == (8, 6)
    extra = A.RandomErasing(p=1.)
    assert [type(t).__name__ for t in A.aug_transforms(xtra_tfms=extra)][-1] == 'RandomErasing'
    assert len(A.aug_transforms(xtra_tfms=[extra, A.Hue()])) == len(A.aug_transforms()) + 2


@pytest.mark.parametrize('scale', [.3, .48, .7])
def test_a_mirrored_picture_is_read_like_the_picture(scale):
    """Whether it is shrunk before it is read does not hang on which corner reaches farthest: a skew each way."""
    x, skew = torch.rand(1, 3, 48, 48, generator=_generator(0)), scale * torch.tensor([[1., 1], [0, 1]])
    found = []
    for sx, sy in ((1., 1.), (-1., 1.), (1., -1.), (-1., -1.)):
        turn = torch.diag(torch.tensor([sx, sy]))
        m = torch.eye(3)[None].clone()
        m[0, :2, :2] = turn @ skew @ turn
        flipped = [axis for axis, sign in ((3, sx), (2, sy)) if sign < 0]
        found.append(resample(x.flip(flipped), m, size=20).flip(flipped))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize('align_corners', [True, False])
def test_affine_grid_is_torchs(align_corners):
    """Positions of the corner pixels' centres, or of their edges."""
    theta = torch.tensor([[[.9, .2, .1], [0., 1.1, -.2]]])
    found = A.affine_grid(TensorImage(theta), (1, 3, 4, 5), align_corners=align_corners)
    wanted = torch.nn.functional.affine_grid(theta, [1, 3, 4, 5], align_corners=align_corners)
    assert torch.equal(plain(found), wanted)
    assert type(found).__name__ == 'TensorFlowField'


@pytest.mark.parametrize('size', [(1, 1), (1, 50), (50, 1), (1, 2), (2, 1), (3, 3)], ids=str)
@pytest.mark.parametrize('ratio', [(3 / 4, 4 / 3), (1, 1), (9, 10), (.1, .11)], ids=str)
def test_a_random_window_lies_in_the_picture_and_has_pixels(size, ratio):
    """However thin the picture; where no draw fits, the middle in the nearest shape."""
    for u, scale in itertools.product(range(20), ((.5, 1.), (.02, .1))):
        (w, h), (left, top) = _window_by([.5] * 2 + [u / 20, .5] * 10, size, scale, ratio)
        assert 1 <= w <= size[0] and 1 <= h <= size[1] and 0 <= left <= size[0] - w and 0 <= top <= size[1] - h
    crop = A.RandomResizedCrop(8, min_scale=.5, ratio=ratio)
    picture = PILImage.create(np.zeros((*size[::-1], 3), np.uint8))
    assert crop(picture, split_idx=0, generator=_generator(0)).size == (8, 8)


@pytest.mark.parametrize('marker, channels', [(TensorImage, (3,)), (TensorMask, ())])
@pytest.mark.parametrize('size', [None, (12, 30), (5, 6)])
@pytest.mark.parametrize('dtype', [torch.uint8, torch.float32])
def test_no_matrix_is_that_of_standing_still(marker, channels, size, dtype):
    """Bytes and floats, of pictures and masks, in their own size, larger, and so small that pixels are averaged."""
    x = marker(torch.randint(0, 256, (2, *channels, 16, 20), generator=torch.Generator().manual_seed(0)).to(dtype))
    same = torch.eye(3).expand(2, 3, 3)
    without, still = (move(x, m, size, 'bilinear', 'nearest', 'reflection', True) for m in (None, same))
    assert without.shape == (2, *channels, *(size or (16, 20))) and type(without) is type(still) is marker
    assert torch.equal(without, still)
    if size is None:
        torch.testing.assert_close(plain(without), plain(x).to(without.dtype), atol=1e-3, rtol=0)


@pytest.mark.parametrize('times', [2, 4, 8])
def test_a_picture_made_many_times_smaller_is_the_mean_of_its_pixels(times):
    """None is passed over, so that it does not shimmer."""
    x = torch.rand(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    small = resample(x, size=(64 // times, 32 // times), align_corners=False)
    torch.testing.assert_close(small, x.unfold(2, times, times).unfold(3, times, times).mean((-2, -1)))


@pytest.mark.parametrize('mode', ['RGB', 'L', 'RGBA', 'LA', 'CMYK', 'P', '1', 'I', 'F'])
def test_a_window_of_a_picture_of_pillows_is_a_picture_of_its_mode(mode):
    """With its palette; the pixels are those Pillow cuts out, and Pillow's too where it is resized, +-1 in RGB."""
    im = Image.fromarray(np.random.RandomState(0).randint(0, 255, (30, 40, 3), np.uint8)).convert(mode)
    cut = im.crop((5, 6, 25, 26))
    kept, smaller = (crop_pad(im, (20, 20), (5, 6), im.size, resize_to=to) for to in (None, (7, 9)))
    for made, wanted in ((kept, cut), (smaller, cut.resize((7, 9), Image.Resampling.BILINEAR))):
        assert (made.mode, made.size, made.getpalette()) == (mode, wanted.size, im.getpalette())
        apart = np.abs(np.asarray(made).astype(float) - np.asarray(wanted).astype(float)).max()
        assert apart <= (mode == 'RGB' and made is smaller)


# ---------------------------------------------------------------- colours

COLOURS = [(0., 0., 0.), (1., 1., 1.), (.5, .5, .5), (1., 0., 0.), (0., 1., 0.), (0., 0., 1.), (1., 1., 0.),
           (0., 1., 1.), (1., 0., 1.), (.2, .4, .6), (.6, .4, .2), (.4, .6, .2), (.6, .2, .4), (.2, .6, .4),
           (.4, .2, .6), (.9, .9, .1), (.1, .9, .9), (.9, .1, .9), (.3, .3, .7), (.05, 0., .02)]


def _picture_of(colours):
    """[1,3,1,n]"""
    return torch.tensor(colours).T[None, :, None]


def test_hue_saturation_and_value_are_those_of_python():
    """Of primary, mixed and grey colours, there and back; greys have the hue 0."""
    hsv = rgb2hsv(_picture_of(COLOURS))
    wanted = _picture_of([colorsys.rgb_to_hsv(*colour) for colour in COLOURS])
    torch.testing.assert_close(hsv, wanted, atol=1e-6, rtol=0)
    torch.testing.assert_close(hsv2rgb(hsv), _picture_of(COLOURS), atol=1e-6, rtol=0)


@pytest.mark.parametrize('shift', [0., .1, .5, .95, 1.25, -.3])
def test_a_hue_is_turned_round_the_circle_by_parts_of_it(shift):
    """Each sample by its own; bytes as floats, rounded."""
    x, turns = _picture_of(COLOURS).repeat(2, 1, 1, 1), torch.tensor([shift, 0.])
    found = shift_hue(x, turns)
    hsv = [colorsys.rgb_to_hsv(*colour) for colour in COLOURS]
    wanted = _picture_of([colorsys.hsv_to_rgb((h + shift) % 1, s, v) for h, s, v in hsv])
    torch.testing.assert_close(found[:1], wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(found[1:], x[1:], atol=1e-5, rtol=0)
    of_bytes = shift_hue(TensorImage((x * 255).round().to(torch.uint8)), turns)
    assert of_bytes.dtype == torch.uint8 and type(of_bytes) is TensorImage
    assert (plain(of_bytes).float() - found * 255).abs().max() <= 3


def _by_hand(x, change):
    """A function of the logit of a number."""
    x = min(max(x, 1e-7), 1 - 1e-7)
    return 1 / (1 + math.exp(-change(math.log(x / (1 - x)))))


@pytest.mark.parametrize('kind, value, change', [
    ('brightness', .5, lambda z, grey: z), ('brightness', .8, lambda z, grey: z + math.log(4)),
    ('brightness', .2, lambda z, grey: z - math.log(4)), ('contrast', 1., lambda z, grey: z),
    ('contrast', .5, lambda z, grey: z / 2), ('contrast', 2., lambda z, grey: 2 * z),
    ('saturation', 1., lambda z, grey: z), ('saturation', 0., lambda z, grey: grey),
    ('saturation', .25, lambda z, grey: .25 * z + .75 * grey)])
def test_light_is_changed_in_logits(kind, value, change):
    """By a summand, a factor, or towards the luma of the logits; the transform and the method do the same."""
    colour = (.2, .4, .7)
    logits = [math.log(c / (1 - c)) for c in colour]
    grey = .2989 * logits[0] + .587 * logits[1] + .114 * logits[2]
    wanted = [_by_hand(c, lambda z: change(z, grey)) for c in colour]
    x = TensorImage(_picture_of([colour]))
    for made in (getattr(x, kind)(draw=value, p=1.), getattr(A, kind.title())(draw=value, p=1.)(x, split_idx=0)):
        assert type(made) is TensorImage
        torch.testing.assert_close(plain(made), _picture_of([wanted]), atol=1e-4, rtol=0)
    bytewise = getattr(A, kind.title())(draw=value, p=1.).bytewise
    assert bytewise is (kind != 'saturation')


def test_lights_are_joined_in_their_order():
    """One map does what the two do one after the other, with and without a saturation in either."""
    lights = {'b': brightness_light, 'c': contrast_light, 's': saturation_light}
    x = TensorImage(torch.rand(2, 3, 4, 5, generator=_generator(0)) * .8 + .1)
    drawn = {name: f(x, draw=[.3, .8], p=1.) for name, f in lights.items()}
    for first, second in itertools.product(drawn, repeat=2):
        one_by_one = apply_light(apply_light(x, drawn[first]), drawn[second])
        torch.testing.assert_close(plain(apply_light(x, drawn[first].then(drawn[second]))), plain(one_by_one),
                                   atol=2e-3, rtol=0)
    joined, = A.setup_aug_tfms([A.Contrast(draw=[.3, .8], p=1.), A.Saturation(draw=[.3, .8], p=1.)])
    torch.testing.assert_close(plain(joined(x, split_idx=0)), plain(apply_light(x, drawn['c'].then(drawn['s']))))
    dark = A.LightingTfm(lambda values: values - 1)
    mixed = A.LightingTfm([*A.Contrast(draw=[.3, .8], p=1.).fs, *dark.fs])
    wanted = torch.sigmoid(torch.logit(plain(apply_light(x, drawn['c']))) - 1)
    torch.testing.assert_close(plain(mixed(x, split_idx=0)), wanted, atol=1e-4, rtol=0)
    assert type(mixed(x, split_idx=0)) is TensorImage and not mixed.takes_generator and not mixed.bytewise


def test_a_function_of_the_user_sees_each_batch_before_it_is_called():
    """By its `before_call`, where it has one, in a space of its own."""
    class Darker:
        def before_call(self, x):
            self.seen = x.shape

        def __call__(self, values):
            return values / 2
    x, darker = TensorImage(torch.rand(2, 3, 4, 5)), Darker()
    tfm = A.SpaceTfm(darker, lambda picture, f: f(plain(picture)), p=.3)
    made = tfm((x, torch.zeros(2)), split_idx=0)[0]
    assert darker.seen == x.shape and type(made) is TensorImage and torch.equal(plain(made), plain(x) / 2)
    hued = A.HSVTfm(lambda values: values * torch.tensor([1., 1., .5])[:, None, None])(x, split_idx=0)
    torch.testing.assert_close(plain(hued).amax(1), plain(x).amax(1) / 2)


@pytest.mark.parametrize('kind', ['brightness', 'contrast', 'saturation', 'hue'])
def test_light_drawn_by_hand_is_that_of_the_transform(kind):
    """With the same arguments and generator; each argument has an effect, one value for all where that is asked for."""
    x = TensorImage(torch.rand(64, 3, 4, 4, generator=_generator(0)) * .8 + .1)
    most = 'max_hue' if kind == 'hue' else 'max_lighting'
    for kwargs in ({}, {most: .4}, {'p': 1.}, {'p': 1., 'batch': True}, {'draw': .3, 'p': .4}):
        by_hand = getattr(x, kind)(**kwargs, generator=_generator(1))
        again = getattr(A, kind.title())(**kwargs)(x, split_idx=0, generator=_generator(1))
        torch.testing.assert_close(plain(by_hand), plain(again), atol=1e-5, rtol=0)
        moved = (plain(by_hand) - plain(x)).abs().flatten(1).amax(1) > 1e-4
        share = kwargs.get('p', .75)
        assert moved.all() if share == 1 else abs(float(moved.float().mean()) - share) < .2
    changes = [getattr(A, kind.title())(**{most: top}, p=1.).draw((x,), 0, _generator(1))[0] for top in (.1, .4)]
    small, large = changes if kind == 'hue' else [torch.stack([o for o in c if o is not None]) for c in changes]
    assert not torch.equal(small, large)


@pytest.mark.parametrize('area, starts, length', [(16., 7, 4), (81., 2, 9), (100., 1, 10), (144., 1, 12)])
def test_a_stretch_that_is_erased_lies_anywhere_within(area, starts, length):
    """From the first place to the last; one that is as long as the side, or longer, begins with it."""
    g = _generator(0)
    found = [_slice(area, 10, g) for _ in range(200)]
    assert {start for start, _ in found} == set(range(starts)) and {end - start for start, end in found} == {length}
