"""Writes vision.npz: pixels, points and drawn values as fastai computes them.

Run with an interpreter that has fastai: `python tests/data/make_fastai_vision.py`. The test beside reads the file only.
"""
# ruff: noqa: E402, F401, F403, F405
from functools import partial
from pathlib import Path

import numpy as np
import torch
from fastai.vision.all import *
from sklearn.datasets import load_sample_images

out = {}
china = load_sample_images().images[0]
small = np.asarray(Image.fromarray(china).resize((90, 60), Image.Resampling.LANCZOS))
out['source'] = small
mask = (small[..., 0] // 32).astype(np.uint8)


def valid(name, tfm):
    im, points = PILImage.create(small), TensorPoint(torch.tensor([[-.5, .25], [.75, -.125]]), img_size=(90, 60))
    out[f'valid/{name}'] = np.asarray(tfm(im, split_idx=1))
    out[f'valid/{name}/mask'] = np.asarray(tfm(PILMask.create(mask), split_idx=1))
    tfm.before_call(im, split_idx=1) if hasattr(tfm, 'before_call') else None
    out[f'valid/{name}/points'] = np.asarray(Pipeline([tfm], split_idx=1)((im, points))[1])


for method in ('crop', 'pad', 'squish'):
    for size in (48, (40, 64)):
        for pad_mode in ('zeros', 'border', 'reflection') if method == 'pad' else ('reflection',):
            valid(f'Resize|{size}|{method}|{pad_mode}', Resize(size, method=method, pad_mode=pad_mode))
valid('RandomResizedCrop|48', RandomResizedCrop(48))
valid('RandomResizedCrop|(40, 64)', RandomResizedCrop((40, 64), val_xtra=0.3))
valid('RandomCrop|44', RandomCrop(44))
valid('CropPad|76', CropPad(76))
valid('CropPad|(40, 100)', CropPad((40, 100), pad_mode='reflection'))

batch = TensorImage(torch.from_numpy(small).permute(2, 0, 1)[None].repeat(4, 1, 1, 1).float() / 255)
coarse = TensorImage(torch.nn.functional.interpolate(batch, (24, 36), mode='area'))
coarse = TensorImage(coarse.half().float())  # so that the file's half precision holds it exactly
out['batch'] = coarse.numpy()
four = [0., 3., -20., 45.]
ops = {
    'rotate': lambda x, **k: x.rotate(draw=four, p=1., **k),
    'zoom': lambda x, **k: x.zoom(draw=[1., 1.3, .8, 2.], draw_x=.3, draw_y=.8, p=1., **k),
    'warp': lambda x, **k: x.warp(draw_x=[0., .2, -.3, .1], draw_y=[0., .1, .2, -.3], p=1., **k),
    'flip_batch': lambda x, **k: x.flip_batch(draw=[0, 1, 0, 1], p=1., **k),
    'dihedral_batch': lambda x, **k: x.dihedral_batch(draw=[3, 1, 2, 7], p=1., **k),
}
for name, op in ops.items():
    for pad_mode in ('zeros', 'border', 'reflection'):
        out[f'batch/{name}|{pad_mode}'] = op(coarse.clone(), pad_mode=pad_mode).numpy()
    out[f'batch/{name}|small'] = op(coarse.clone(), size=12).numpy()
points = torch.tensor([[-.5, .25], [.75, -.125]])[None].repeat(4, 1, 1)
for tfm in (Rotate(draw=four, p=1.), Zoom(draw=[1., 1.3, .8, 2.], draw_x=.3, draw_y=.8, p=1.),
            Warp(draw_x=[0., .2, -.3, .1], draw_y=[0., .1, .2, -.3], p=1.), Flip(draw=[0, 1, 0, 1], p=1.)):
    moved = Pipeline([tfm], split_idx=0)((coarse.clone(), TensorPoint(points.clone())))[1]
    out[f'points/{type(tfm).__name__}'] = np.asarray(moved)
for tfm in setup_aug_tfms([Rotate(draw=four, p=1.), Zoom(draw=[1., 1.3, .8, 2.], draw_x=.3, draw_y=.8, p=1.),
                           Warp(draw_x=[0., .2, -.3, .1], draw_y=[0., .1, .2, -.3], p=1.)]):
    out['batch/all|geometry'] = np.asarray(Pipeline([tfm], split_idx=0)(coarse.clone()))
out['batch/brightness'] = coarse.clone().brightness(draw=[.5, .3, .7, .9], p=1.).numpy()
out['batch/contrast'] = coarse.clone().contrast(draw=[1., .5, 1.5, 2.], p=1.).numpy()
out['batch/saturation'] = coarse.clone().saturation(draw=[1., .5, 0., 2.], p=1.).numpy()
out['batch/hue'] = coarse.clone().hue(draw=[0., .5, .1, 1.3], p=1.).numpy()
for tfm in setup_aug_tfms([Brightness(draw=[.5, .3, .7, .9], p=1.), Contrast(draw=[1., .5, 1.5, 2.], p=1.),
                           Saturation(draw=[1., .5, 0., 2.], p=1.)]):
    out['batch/all|light'] = np.asarray(Pipeline([tfm], split_idx=0)(coarse.clone()))

# distributions: what a large batch draws
many = torch.zeros(20000, 1, 1, 1)
torch.manual_seed(0), random.seed(0)
from fastai.vision.augment import flip_mat, rotate_mat, zoom_mat, dihedral_mat
for name, f in {'flip': partial(flip_mat, p=.5), 'rotate': partial(rotate_mat, max_deg=10, p=.75),
                'dihedral': partial(dihedral_mat, p=.5), 'zoom': partial(zoom_mat, max_zoom=1.3, p=.75)}.items():
    m = f(TensorImage(many)).reshape(-1, 9)
    out[f'drawn/{name}'] = torch.cat([m.mean(0), m.std(0)]).numpy()
halves = {k: v.astype(np.float16) if v.dtype == np.float32 and k.startswith('batch') else v for k, v in out.items()}
np.savez_compressed(Path(__file__).with_name('vision.npz'), **halves)
