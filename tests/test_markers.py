"""Markers: a view, a copy or a move of a picture is a picture; arithmetic is plain; models see plain tensors."""
from __future__ import annotations

import copy
import pickle
import types
from typing import NamedTuple

import numpy as np
import pytest
import torch
from fastcore.foundation import L
from PIL import Image
from torch import Tensor, nn

from minifast.data.core import DataLoaders
from minifast.data.load import DataLoader
from minifast.learner import Learner
from minifast.losses import CrossEntropyLossFlat
from minifast.markers import (TensorBase, TensorCategory, TensorImage, TensorImageBW, TensorMask, array, as_torchvision,
                              cast, explode_types, from_torchvision, plain, retain_meta, retain_type, retain_types,
                              tensor)
from minifast.vision.core import PILImage, PILMask, TensorBBox, TensorPoint


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


def test_each_part_of_a_sample_is_what_torchvision_knows_it_as():
    """Pictures, masks, points and boxes, as tensors and as pictures of Pillow's; others stay what they are."""
    from torchvision import tv_tensors
    picture, mask = PILImage.create(np.zeros((4, 6, 3), np.uint8)), PILMask.create(np.ones((4, 6), np.uint8))
    points, boxes = TensorPoint(torch.tensor([[1., 2]])), TensorBBox(torch.tensor([[1., 2, 3, 4]]))
    for like in (picture, TensorImage(torch.zeros(3, 4, 6)), TensorImageBW(torch.zeros(2, 1, 4, 6))):
        sample = (7, points, boxes, like)
        seen = [as_torchvision(part, sample) for part in sample]
        assert seen[0] == 7 and [type(o) for o in seen[1:3]] == [tv_tensors.KeyPoints, tv_tensors.BoundingBoxes]
        assert seen[1].canvas_size == seen[2].canvas_size == (4, 6) and seen[2].format.value == 'XYXY'
        assert torch.equal(plain(seen[1]), plain(points)) and torch.equal(plain(seen[2]), plain(boxes))
    assert seen[3].__class__ is tv_tensors.Image and as_torchvision(picture, (picture,)) is picture
    for made in (as_torchvision(mask, (mask,)), as_torchvision(TensorMask(torch.ones(4, 6)), ())):
        assert type(made) is tv_tensors.Mask and made.shape[-2:] == (4, 6) and (made == 1).all()
    assert type(as_torchvision(TensorCategory(torch.tensor(1)), ())) is Tensor
    with pytest.raises(TypeError, match='the sample has none'):
        as_torchvision(points, (points, 7))


def test_what_torchvision_returns_is_of_the_class_of_what_it_was_given():
    """Of tensors, pictures of Pillow's, and places, which know the size of their picture then; attributes stay."""
    from torchvision import tv_tensors
    x = torch.ones(3, 4, 6)
    mask = TensorMask(torch.ones(4, 6), codes=['a'])
    made = from_torchvision(tv_tensors.Mask(x), mask)
    assert type(made) is TensorMask and made.codes == ['a']
    assert type(from_torchvision(tv_tensors.Image(x), PILImage.create(np.zeros((4, 6, 3), np.uint8)))) is TensorImage
    assert type(from_torchvision(tv_tensors.Mask(x), PILMask.create(np.ones((4, 6), np.uint8)))) is TensorMask
    assert type(from_torchvision(tv_tensors.Image(x), Image.new('RGB', (6, 4)))) is TensorImage
    assert type(from_torchvision(tv_tensors.Image(x), 7)) is Tensor
    points = TensorPoint(torch.tensor([[1., 2]]), sort=False, img_size=(9, 9))
    back = from_torchvision(tv_tensors.KeyPoints(torch.tensor([[2., 3]]), canvas_size=(4, 6)), points)
    assert type(back) is TensorPoint and back.tolist() == [[2, 3]] and (back.img_size, back.sort) == ((6, 4), False)


@pytest.mark.parametrize('cls, colours', [(TensorImage, 'viridis'), (TensorImageBW, 'Greys'), (TensorMask, 'tab20')])
def test_a_kind_is_drawn_in_its_own_way_unless_another_is_asked_for(cls, colours):
    """Its colours; masks half seen through, and without numbers between their codes."""
    image = cls(torch.rand(4, 6)).show().images[0]
    assert image.cmap.name == colours and cls(torch.rand(4, 6)).show(cmap='hot').images[0].cmap.name == 'hot'
    if cls is TensorMask:
        assert (image.get_alpha(), image.get_interpolation(), image.get_gid()) == (.5, 'nearest', 'mask')
        mask = TensorMask(torch.tensor([[0, 1, 2]]), codes=['a', 'b'])
        shown = mask.show(vmax=5)
        assert shown.images[0].get_clim() == (0, 5) and np.ma.getmaskarray(shown.images[0].get_array()).tolist() == [
            [False, False, True]]
        assert plain(mask).tolist() == [[0, 1, 2]] and mask.show(ctx=shown) is shown and len(shown.images) == 2


@pytest.mark.parametrize('n', [2, 3, 8])
def test_the_codes_of_masks_are_as_far_apart_as_colours_are(n):
    """The first has the first colour of the map, the last the last; a single one the first."""
    import matplotlib
    mask = TensorMask(torch.arange(n).view(1, n))
    mask.codes = [f'code {i}' for i in range(n)]
    drawn, colours = mask.show().images[0], matplotlib.colormaps['tab20']
    assert drawn.to_rgba(0) == pytest.approx(colours(0.)) and drawn.to_rgba(n - 1) == pytest.approx(colours(1.))
    assert len({drawn.to_rgba(code) for code in range(n)}) == n
    mask = TensorMask(torch.zeros(1, 2))
    mask.codes = ['one']
    assert mask.show().images[0].to_rgba(0) == pytest.approx(colours(0.))


def test_tensors_and_arrays_of_all_kinds_of_things():
    """Of pictures and their lists, empty ones and generators; where they go is said by name."""
    grey = Image.new('L', (2, 1), 7)
    assert tensor(grey).tolist() == [[7, 7]] and tensor(grey).dtype == torch.uint8
    assert tensor([]).shape == (0,) and tensor(L([1, 2], [3, 4])).tolist() == [[1, 2], [3, 4]]
    assert tensor([np.ones(2), [3, 4]]).tolist() == [[1, 1], [3, 4]] and tensor(7).shape == ()
    assert tensor(np.float64(2)).dtype == torch.float32 and tensor(1, 2., dtype=torch.float16).dtype == torch.float16
    assert tensor(np.array([1, 65535], np.uint16)).tolist() == [1, 65535]
    assert array(i for i in range(3)).tolist() == [0, 1, 2] and array(torch.ones(2), dtype=np.int8).dtype == np.int8
    assert array([1, 2], ndmin=2).shape == (1, 2) and array(grey).tolist() == [[7, 7]]
    assert array(3).shape == array(np.float32(3)).shape == () and array('ab').shape == ()


class Pair(NamedTuple):
    """Two things by name."""

    x: object
    y: object


def test_types_are_retained_in_what_is_nested_alike():
    """By an example, or by the types that it had; tuples, lists and pairs by name stay such; what is marked stays."""
    marked = (TensorImage(torch.ones(2)), [TensorMask(torch.ones(2), codes=['a']), 7])
    kinds = explode_types(marked)
    assert kinds == {tuple: [TensorImage, {list: [TensorMask, int]}]}
    bare = (torch.zeros(2), [torch.zeros(2), 8])
    for made in (retain_types(bare, marked), retain_types(bare, typs=kinds)):
        assert explode_types(made) == kinds and made[1][1] == 8
    assert retain_types(bare, marked)[1][0].codes == ['a']
    kept = retain_types((TensorMask(torch.ones(1)), torch.ones(1)), typs={tuple: [TensorBase, Tensor]})
    assert [type(o) for o in kept] == [TensorMask, Tensor]
    assert [type(o) for o in retain_types((torch.ones(1), torch.ones(1)), (marked[0],))] == [Tensor, Tensor]
    pair = retain_types(Pair(torch.ones(1), 2), Pair(marked[0], 3))
    assert type(pair) is Pair and type(pair.x) is TensorImage and pair.y == 2
    assert type(retain_types([torch.ones(1)], (marked[0],))) is list
    new = retain_type(torch.zeros(2), marked[1][0])
    assert type(new) is TensorMask and new.codes == ['a'] and retain_type(new, marked[1][0]) is new
    assert retain_type(5, marked[0]) == 5 and type(retain_type(torch.ones(1), torch.ones(1))) is Tensor


def test_meta_is_set_by_whom_it_concerns():
    """As a copy or not; who has no such method stays."""
    told = []
    taker = types.SimpleNamespace(set_meta=lambda x, as_copy: told.append((x, as_copy)))
    assert retain_meta('x', taker) is taker and retain_meta('y', taker, as_copy=True) is taker
    assert told == [('x', False), ('y', True)] and retain_meta('x', 7) == 7


def test_a_mark_shares_its_storage_and_keeps_its_attributes():
    """Made, cast and taken off; a copy has its own."""
    x = torch.zeros(2)
    made = TensorImage.create(x, img_size=(4, 6))
    made[0] = 1
    assert x[0] == 1 and made.img_size == (4, 6)
    mask = cast(made, TensorMask)
    assert type(mask) is TensorMask and mask.img_size == (4, 6) and cast(made, TensorImage) is made
    assert type(cast(made, Tensor)) is Tensor and not cast(made, Tensor).__dict__ and plain(made)[0] == 1
    assert plain(x) is x and plain('a') == 'a'
    copied = copy.deepcopy(made)
    copied[1] = 5
    assert x[1] == 0 and copied.img_size == (4, 6)
    mixed = torch.stack([made, TensorMask(x)])
    assert type(mixed) is Tensor
