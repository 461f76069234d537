"""Markers: a view, a copy or a move of a picture is a picture; arithmetic is plain; models see plain tensors."""
from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from fastcore.foundation import L
from torch import Tensor, nn

from minifast.data.core import DataLoaders
from minifast.data.load import DataLoader
from minifast.learner import Learner
from minifast.losses import CrossEntropyLossFlat
from minifast.markers import (TensorCategory, TensorImage, TensorImageBW, TensorMask, as_torchvision, from_torchvision,
                              plain, tensor)
from minifast.vision.core import TensorBBox, TensorPoint


class Thermal(TensorImage):
    """A picture of the user's own."""


KINDS = (TensorImage, TensorImageBW, TensorMask, TensorPoint, TensorBBox, TensorCategory, Thermal)
VIEWS = {
    'permute': lambda o: o.permute(0, 2, 3, 1), 'torch.permute': lambda o: torch.permute(o, (0, 2, 3, 1)),
    '[0]': lambda o: o[0], '[-1, 0]': lambda o: o[-1, 0], 'slice': lambda o: o[:, :1, ::2], '[None]': lambda o: o[None],
    '[...]': lambda o: o[..., 0], '[list]': lambda o: o[[1, 0]], '[mask]': lambda o: o[torch.tensor([True, False])],
    'iterate': lambda o: next(iter(o)), 'unpack': lambda o: [*o][1], 'flip': lambda o: o.flip(-1),
    'torch.flip': lambda o: torch.flip(o, [-1]), 'reversed': lambda o: reversed(o), 'view': lambda o: o.view(2, -1),
    'view dtype': lambda o: o.view(torch.int32), 'view_as': lambda o: o.view_as(plain(o)),
    'reshape': lambda o: o.reshape(-1), 'flatten': lambda o: o.flatten(1), 'unsqueeze': lambda o: o.unsqueeze(0),
    'squeeze': lambda o: o.unsqueeze(0).squeeze(0), 'transpose': lambda o: o.transpose(1, 2), 'mT': lambda o: o.mT,
    'T': lambda o: o[0, 0].T, 'swapaxes': lambda o: o.swapaxes(0, 1), 'movedim': lambda o: o.movedim(1, -1),
    'to': lambda o: o.to(torch.float64), 'to device': lambda o: o.to('cpu'), 'cpu': lambda o: o.cpu(),
    'float': lambda o: o.float(), 'half': lambda o: o.half(), 'double': lambda o: o.double(),
    'byte': lambda o: o.byte(),
    'long': lambda o: o.long(), 'bfloat16': lambda o: o.bfloat16(), 'type': lambda o: o.type(torch.float16),
    'type_as': lambda o: o.type_as(torch.ones(1)), 'clone': lambda o: o.clone(), 'detach': lambda o: o.detach(),
    'data': lambda o: o.data, 'contiguous': lambda o: o.mT.contiguous(), 'chunk': lambda o: o.chunk(2)[1],
    'split': lambda o: o.split(1)[0], 'torch.split': lambda o: torch.split(o, 1)[1], 'unbind': lambda o: o.unbind()[0],
    'tensor_split': lambda o: o.tensor_split(2)[0], 'expand': lambda o: o[:1].expand(3, -1, -1, -1),
    'expand_as': lambda o: o[:1].expand_as(plain(o)), 'repeat': lambda o: o.repeat(2, 1, 1, 1),
    'narrow': lambda o: o.narrow(0, 0, 1), 'select': lambda o: o.select(0, 1), 'rot90': lambda o: o.rot90(1, (2, 3)),
    'index_select': lambda o: o.index_select(0, torch.tensor([0])), 'stack': lambda o: torch.stack([o, o]),
    'stack of a tuple': lambda o: torch.stack((o, o), dim=1), 'cat': lambda o: torch.cat([o, o]),
    'by keyword': lambda o: torch.cat(tensors=[o, o], dim=1), 'concat': lambda o: torch.concat([*o]),
    'copy': copy.copy, 'deepcopy': copy.deepcopy, 'pickle': lambda o: pickle.loads(pickle.dumps(o)),
    'parts of a view': lambda o: o.permute(1, 0, 2, 3)[0].float().unsqueeze(0).cpu()}
ARITHMETIC = {'+': lambda o: o + 1, 'r-': lambda o: 1 - o, '==': lambda o: o == o, 'mean': lambda o: o.float().mean(),
              'sigmoid': lambda o: o.float().sigmoid(), 'where': lambda o: torch.where(plain(o) > 0, o, 0),
              'argmax': lambda o: o.argmax(1), 'matmul': lambda o: o.float() @ o.float().mT,
              'stack of unequals': lambda o: torch.stack([o, plain(o)]),
              'plain first': lambda o: torch.cat([plain(o), o]),
              'index of a plain one': lambda o: torch.arange(2000)[o.long().clamp(0)], 'interpolate': lambda o:
              nn.functional.interpolate(o.float(), scale_factor=2), 'max': lambda o: o.max(1)[0]}


@pytest.mark.parametrize('view', VIEWS)
def test_views_copies_and_moves_keep_the_marker(view):
    """The class and its attributes stay with the elements, and the elements are those of the plain tensor."""
    values = torch.arange(2 * 3 * 8 * 8, dtype=torch.float32).view(2, 3, 8, 8)
    for kind in KINDS:
        made, want = (VIEWS[view](o) for o in (kind(values, img_size=(8, 8)), values))
        assert type(made) is kind and made.img_size == (8, 8)
        assert type(want) is Tensor and made.dtype == want.dtype and torch.equal(plain(made), want)


@pytest.mark.parametrize('operation', ARITHMETIC)
def test_arithmetic_is_plain(operation):
    """What is computed from a picture is none until somebody says so."""
    assert type(ARITHMETIC[operation](TensorImage(torch.ones(2, 3, 8, 8)))) is Tensor


def test_what_is_no_tensor_stays_what_it_is_and_views_share_memory_and_graph():
    """Names of types, sizes and numbers; a view is of the same memory and has the same gradient."""
    x = TensorImage(torch.zeros(2, 3, 4, 4))
    assert x.type() == 'torch.FloatTensor' and x.size() == x.shape == (2, 3, 4, 4) and x[0, 0, 0, 0].item() == 0
    x[0].permute(1, 2, 0)[0, 0] = 1
    assert x.sum() == 3 and x.to(torch.float32) is x and x.contiguous() is x
    leaf = torch.ones(1, 2, 2, requires_grad=True)
    (TensorImage(leaf)[0].flip(0) * torch.tensor([[1., 2], [3, 4]])).sum().backward()
    assert torch.equal(leaf.grad, torch.tensor([[[3., 4], [1, 2]]]))


@pytest.mark.parametrize('workers', (0, 2))
def test_markers_travel_from_workers_and_model_and_loss_see_plain_tensors(workers):
    """Batches carry markers, whoever made them; nothing that a step runs does."""
    seen = []

    class Looks(nn.Linear):
        def forward(self, x):
            seen.append(type(x))
            return super().forward(x.flatten(1))

    class Loss(CrossEntropyLossFlat):
        def __call__(self, pred, targ):
            seen.extend([type(pred), type(targ)])
            return super().__call__(pred, targ)

    data = [(TensorImage(torch.full((3, 2, 2), float(i))), TensorCategory(torch.tensor(i % 2))) for i in range(6)]
    dls = DataLoaders(*[DataLoader(data, bs=3, num_workers=workers) for _ in range(2)], device='cpu')
    assert [type(o) for o in dls.one_batch()] == [TensorImage, TensorCategory]
    learn = Learner(dls, Looks(12, 2), Loss())
    learn.remove_cb(learn.progress)
    learn.logger = print
    learn.fit(1)
    assert set(seen) == {Tensor}
    x, _, y = learn.get_preds(with_input=True)
    assert isinstance(x, TensorImage) and isinstance(x[0].permute(1, 2, 0), TensorImage) and type(y) is Tensor


@pytest.mark.parametrize('x, wanted', [
    (3, torch.int64), (3., torch.float32), (True, torch.bool), ([1, 2], torch.int64), ([1., 2], torch.float32),
    ((1, 2), torch.int64), (L(1., 2.), torch.float32), (L(True, False), torch.bool), (np.arange(2), torch.int64),
    (np.ones(2), torch.float32), (np.ones(2, np.uint8), torch.uint8), (np.ones(2, np.uint16), torch.int32),
    ([np.ones(2), np.ones(2)], torch.float32), ([torch.ones(2), torch.zeros(2)], torch.float32),
    (torch.ones(2, dtype=torch.float64), torch.float64), (torch.ones(2, dtype=torch.int8), torch.int8)], ids=repr)
def test_tensor_keeps_the_kind_of_number_but_for_double_precision_that_nobody_asked_for(x, wanted):
    """Integers and booleans stay; 64-bit floats of Python and numpy become float32, unless `dtype` says otherwise."""
    assert tensor(x).dtype == wanted
    assert tensor(x, dtype=torch.float64).dtype == torch.float64 and tensor(x, dtype=torch.int16).dtype == torch.int16


def test_tensor_takes_several_numbers_and_shares_memory_where_it_can():
    """Memory that may not be written is copied."""
    assert tensor(1, 2, 3).tolist() == [1, 2, 3] and tensor(1., 2).dtype == torch.float32
    x = np.arange(3)
    tensor(x)[0] = 7
    assert x[0] == 7
    x.flags.writeable = False
    tensor(x)[0] = 8
    assert x[0] == 7 and tensor(kept := torch.ones(1)) is kept


@pytest.mark.parametrize('kind, n', [(TensorPoint, 2), (TensorBBox, 4)])
def test_places_in_a_batch_are_pixels_for_torchvision_and_come_back_as_they_were(kind, n):
    """In -1..1 of their picture here, from its left upper corner there; class, shape and size of the picture stay."""
    picture, places = TensorImage(torch.zeros(2, 3, 8, 6)), kind(torch.rand(2, 5, n) * 2 - 1)
    seen = as_torchvision(places, (picture, places))
    wanted = (plain(places) + 1) / 2 * torch.tensor([6., 8.] * (n // 2))
    torch.testing.assert_close(seen.as_subclass(Tensor), wanted.flatten(0, 1))
    assert seen.canvas_size == (8, 6)
    back = from_torchvision(seen, places)
    assert type(back) is kind and back.img_size == (6, 8)
    torch.testing.assert_close(plain(back), plain(places), rtol=0, atol=1e-6)
