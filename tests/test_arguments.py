"""Sizes: one meaning of a size at every door that takes one, and words for what is none."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from fastcore.foundation import L
from PIL import Image
from torch import nn

from minifast.arguments import as_side, as_size
from minifast.callback.hook import dummy_eval
from minifast.vision.augment import (CropPad, Flip, OldRandomCrop, RandomCrop, RandomResizedCrop, RandomResizedCropGPU,
                                     RatioResize, Resize, Rotate, Zoom, aug_transforms)
from minifast.markers import TensorImage
from minifast.vision.models.unet import DynamicUnet
from minifast.vision.utils import resize_images, resize_to

NO_SIZE = (('224', TypeError, 'the number, 224'), (b'16', TypeError, 'the number, 16'), ('big', TypeError, 'text'),
           (True, TypeError, 'True'), (np.True_, TypeError, 'True'), (None, TypeError, 'None'), ({}, TypeError, '{}'),
           (0, ValueError, 'from 1 on'), (-16, ValueError, '-16'), (16.5, ValueError, 'whole'),
           (float('nan'), ValueError, 'nan'), (float('inf'), ValueError, 'inf'), (torch.tensor(-1), ValueError, '-1'))
DOORS = {'Resize': Resize, 'RandomResizedCrop': RandomResizedCrop, 'CropPad': CropPad, 'RandomCrop': RandomCrop,
         'OldRandomCrop': OldRandomCrop, 'RandomResizedCropGPU': RandomResizedCropGPU, 'as_size': as_size,
         'Flip': lambda size: Flip(size=size), 'Zoom': lambda size: Zoom(size=size),
         'Rotate': lambda size: Rotate(size=size), 'aug_transforms': lambda size: aug_transforms(size=size),
         'window': lambda size: aug_transforms(size=size, min_scale=.5),
         'dummy_eval': lambda size: dummy_eval(nn.Conv2d(3, 1, 1), size),
         'unet': lambda size: DynamicUnet(nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 8, 3, 2, 1)), 2, size),
         'by hand': lambda size: TensorImage(torch.rand(1, 3, 8, 8)).affine_coord(sz=size)}
MAY_BE_NONE = ('Flip', 'Zoom', 'Rotate', 'aug_transforms', 'by hand')
SIDES = {'RatioResize': RatioResize, 'resize_to': lambda side: resize_to(Image.new('L', (8, 8)), side),
         'resize_images': lambda side: resize_images('.', max_size=side, dest='/nowhere'), 'as_side': as_side}


@pytest.mark.parametrize('size', (16, 16., np.int64(16), np.float32(16), torch.tensor(16), torch.tensor(16.),
                                  np.array(16), (16, 16), [16, 16.], L(16, 16), torch.tensor([16, 16]),
                                  torch.Size([16, 16]), np.array([16., 16.])))
def test_size_means_the_same_as_whatever_it_comes(size):
    """Whole numbers of any kind, and pairs of any kind, are ints."""
    assert as_size(size) == (16, 16) and all(type(side) is int for side in as_size(size))
    picture = Image.new('RGB', (24, 20))
    for tfm in (Resize(size), RandomResizedCrop(size), CropPad(size), RandomCrop(size)):
        assert tfm.size == (16, 16) and tfm(picture, split_idx=0).size == (16, 16)
    for tfm in (Flip(size=size), RandomResizedCropGPU(size), aug_transforms(size=size)[0]):
        assert tfm(TensorImage(torch.rand(2, 3, 24, 20)), split_idx=0).shape[-2:] == (16, 16)


def test_size_of_two_is_height_and_width():
    """(height, width), as everywhere but in Pillow."""
    assert as_size((8, np.int64(20))) == (8, 20)
    assert Resize([8, 20.])(Image.new('RGB', (24, 20))).size == (20, 8)


@pytest.mark.parametrize('door', DOORS)
@pytest.mark.parametrize('size, error, words', NO_SIZE)
def test_what_is_no_size_is_refused_in_words(door, size, error, words):
    """Text, truth values, fractions and what is not above zero: named, with what is meant, before anything is made."""
    if size is None and door in MAY_BE_NONE:
        return
    for wrong in (size, (16, size)):
        with pytest.raises(error, match=words):
            DOORS[door](wrong)


@pytest.mark.parametrize('size', ((16,), (3, 16, 16), [], '16,16'))
def test_size_of_another_number_of_sides_is_refused(size):
    """One side or two."""
    with pytest.raises((ValueError, TypeError), match='size is'):
        Resize(size)


@pytest.mark.parametrize('door', SIDES)
@pytest.mark.parametrize('side, error, words', NO_SIZE)
def test_what_is_no_side_is_refused_in_words(door, side, error, words, tmp_path, monkeypatch):
    """The same for those that take one side."""
    monkeypatch.chdir(tmp_path)
    if side is None and door == 'resize_images':
        return
    with pytest.raises(error, match=words):
        SIDES[door](side)
    assert RatioResize(np.float64(8)).max_sz == 8
