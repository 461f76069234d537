"""Laws of the small things that scripts know by name: hot codes, types of nested values, functions as modules."""
from __future__ import annotations

import dataclasses
from collections import UserDict, namedtuple
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from fastcore.foundation import L
from torch import nn

from minifast import torch_core
from minifast.markers import TensorCategory, TensorImage, TensorMask, explode_types, retain_meta, retain_types
from minifast.torch_core import (apply, apply_init, apply_leaf, bn_bias_params, cond_init, default_device, defaults,
                                 detach_parallel, display_df, find_device, flatten_check, get_empty_df, get_model,
                                 grad_module, init_default, ismin_torch, join_path_file, leaves_of, length_of, logit,
                                 make_cross_image, master_bar, norm_bias_params, notmax_torch, np_func, one_hot,
                                 one_hot_decode, one_param, params, progress_bar, requires_grad, split_model,
                                 to_concat, to_detach, to_device, to_float, to_half, to_np, to_parallel,
                                 trainable_params, tree_map, unsqueeze, unsqueeze_)


@pytest.mark.parametrize('codes', [[0, 2], (0, 2), torch.tensor([0, 2]), np.array([0, 2])], ids=type)
def test_one_hot_there_and_back(codes):
    """Ones at the codes, whatever they come in; a single code, and none."""
    hot = one_hot(codes, 3)
    assert hot.dtype == torch.uint8 and hot.tolist() == [1, 0, 1]
    assert list(one_hot_decode(hot)) == [0, 2] and list(one_hot_decode(hot, vocab='abc')) == ['a', 'c']
    assert one_hot(1, 3).tolist() == [0, 1, 0] and one_hot([], 2).tolist() == [0, 0]
    assert one_hot(torch.tensor(1), 3).tolist() == [0, 1, 0] and one_hot(torch.tensor([]), 2).tolist() == [0, 0]


def test_logit_undoes_the_sigmoid_and_stays_finite():
    """Also at 0 and 1."""
    x = torch.tensor([-2., 0., 3.])
    torch.testing.assert_close(logit(x.sigmoid()), x, atol=1e-5, rtol=1e-5)
    assert logit(torch.tensor([0., 1.])).isfinite().all()


def test_function_of_arrays_becomes_one_of_tensors():
    """Its name stays."""
    @np_func
    def largest(x, axis=None):
        assert isinstance(x, np.ndarray)
        return x.max(axis=axis)
    assert torch.equal(largest(torch.tensor([[1., 2.], [4., 3.]]), axis=0), torch.tensor([4., 3.]))
    assert largest.__name__ == 'largest'


def test_autograd_function_as_a_module():
    """Forward and backward are the function's."""
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x

        @staticmethod
        def backward(ctx, grad):
            return 7 * grad
    module = grad_module(Double)()
    x = torch.ones(2, requires_grad=True)
    module(x).sum().backward()
    assert isinstance(module, nn.Module) and x.grad.tolist() == [7, 7] and type(module).__name__ == 'Double'


def test_empty_rows_are_as_many_as_asked_for_each_its_own():
    """To be filled with whatever is shown."""
    rows = get_empty_df(3)
    rows[0]['text'], rows[1]['category'] = 'a', 3
    assert [dict(row) for row in rows] == [{'text': 'a'}, {'category': 3}, {}] and get_empty_df(0) == []



def test_cross_has_a_row_and_a_column():
    """In one plane, or the row red and the column green."""
    grey, colour = make_cross_image(), make_cross_image(bw=False)
    assert grey.shape == (5, 5) and grey.sum() == 9 and grey[2].sum() == grey[:, 2].sum() == 5
    assert colour.shape == (3, 5, 5) and colour[0, 2].sum() == colour[1, :, 2].sum() == 5 and colour.sum() == 10


def test_types_of_a_nested_batch_and_back():
    """What `explode_types` says, `retain_types` gives to plain tensors; tensors marked already stay."""
    b = (TensorImage(torch.zeros(1)), (TensorMask(torch.zeros(1)), torch.ones(2)), TensorCategory(torch.tensor(1)))
    types = explode_types(b)
    assert types == {tuple: [TensorImage, {tuple: [TensorMask, torch.Tensor]}, TensorCategory]}
    bare = (torch.zeros(1), (torch.zeros(1), torch.ones(2)), torch.tensor(1))
    assert explode_types(retain_types(bare, typs=types)) == explode_types(retain_types(bare, b)) == types
    assert type(retain_types(torch.zeros(1), TensorImage(torch.zeros(1)))) is TensorImage
    assert explode_types(retain_types([torch.zeros(1)], [TensorImage(torch.zeros(1))])) == {list: [TensorImage]}
    pair, image = namedtuple('Pair', 'a b'), TensorImage(torch.zeros(1))
    assert explode_types(retain_types(pair(bare[0], 3), pair(image, 3))) == {pair: [TensorImage, int]}
    assert len(retain_types([torch.zeros(1), torch.zeros(1)], [image])) == 2


class Outputs(dict):
    """A library's own class of outputs."""


@dataclasses.dataclass(frozen=True)
class Scores:
    """Outputs by name, one of which may be missing."""

    logits: Any
    aux: Any = None


Pair = namedtuple('Pair', 'x y')


def test_tree_map_walks_several_trees_at_once_and_keeps_their_containers():
    """Leaves that lie in the same place come together; by name in dicts, whatever their order; None is a leaf."""
    a = Pair(L(1, None), [Outputs(p=2, q=(3,)), UserDict(r=4), Scores(5)])
    b = (L(10, 20), [{'q': [30], 'p': 40}, {'r': 50}, Scores(60, aux=70)])
    both = tree_map(lambda x, y: (x, y), a, b)
    assert both == Pair(L([(1, 10), (None, 20)]), [Outputs(p=(2, 40), q=((3, 30),)), UserDict(r=(4, 50)),
                                                   Scores((5, 60))])
    assert [type(o) for o in (both, both.x, *both.y)] == [Pair, L, Outputs, UserDict, Scores]
    assert list(leaves_of(a)) == [1, None, 2, 3, 4, 5] and a.y[0] == {'p': 2, 'q': (3,)}
    assert apply(lambda x, by, minus: x * by - minus, [2, (3,)], 10, minus=1) == [19, (29,)]
    with pytest.raises(ValueError, match='zip'):
        tree_map(max, [1, 2], [1])
    with pytest.raises(KeyError, match='q'):
        tree_map(max, {'p': 1, 'q': 2}, {'p': 1})


def test_to_concat_joins_batches_of_any_nesting():
    """Tensors along an axis, numbers stacked, marked as the first; what is no tensor, or does not fit, as one list."""
    def batch(n):
        return Pair(TensorImage(torch.full((n, 2), float(n))), Outputs(loss=torch.tensor(float(n)), name='ab'))
    x, y = to_concat([batch(1), batch(2)])
    assert type(x) is TensorImage and x.tolist() == [[1, 1], [2, 2], [2, 2]]
    assert type(y) is Outputs and y['loss'].tolist() == [1, 2] and y['name'] == ['ab', 'ab']
    assert to_concat([torch.ones(2, 1), torch.zeros(2, 2)], dim=1).tolist() == [[1, 0, 0], [1, 0, 0]]
    apart = to_concat([torch.ones(1, 2), torch.ones(1, 3)])
    assert type(apart) is L and [len(o) for o in apart] == [2, 3] and to_concat([]) == []
    assert to_concat(['a', 'b']) == ['a', 'b'] == to_concat([('a',), ('b',)])[0]


def test_meta_is_told_to_what_asks_for_it():
    """Anything else comes back as it is."""
    class Kept:
        def set_meta(self, x, as_copy=False):
            self.meta = x, as_copy
    kept = Kept()
    assert retain_meta('x', kept, as_copy=True) is kept and kept.meta == ('x', True)
    assert retain_meta('x', 3) == 3


# ---------------------------------------------------------------- devices and kinds of numbers

def test_nested_batches_change_their_numbers_and_keep_the_rest():
    """Each tensor at any depth, marker types with it, integers and what is no tensor as they are."""
    x = TensorImage(torch.rand(2, 3, requires_grad=True) * 2)
    b = (x, [TensorMask(torch.tensor([1, 2])), 'name'], {'n': 3})
    for change, dtype in ((to_half, torch.float16), (to_float, torch.float32)):
        image, (mask, name), n = change(b)
        assert type(image) is TensorImage and image.dtype == dtype and type(mask) is TensorMask and name == 'name'
        assert mask.dtype == torch.int64 and n == {'n': 3}
    moved = to_device(b, 'meta')
    assert type(moved[0]) is TensorImage and moved[0].device.type == moved[1][0].device.type == 'meta'
    assert to_device(b, 'cpu')[0] is x
    detached = to_detach(b)
    assert type(detached[0]) is torch.Tensor and not detached[0].requires_grad and detached[1][1] == 'name'
    assert to_detach(moved, cpu=False)[0].device.type == 'meta'
    arrays = to_np(b)
    assert isinstance(arrays[0], np.ndarray) and arrays[1][0].tolist() == [1, 2] and arrays[1][1] == 'name'
    assert find_device(moved) == torch.device('meta') and find_device(['name']) is None
    assert length_of([1, 2]) == 2 and length_of(iter([])) is None


@pytest.mark.parametrize('asked', [None, True, False])
def test_detached_numbers_are_those_of_all_ranks_where_that_is_asked(asked, monkeypatch):
    """Each tensor of the nested batch, unless told otherwise; what is no tensor stays."""
    monkeypatch.setattr(torch_core, 'gather', lambda x, axis=0: torch.cat([x, x + 10], axis))  # as of two ranks
    x = torch.ones(1, requires_grad=True)
    found = torch_core.to_detach((TensorImage(x), [x * 2, 'text']), **({} if asked is None else {'gather': asked}))
    wanted = [[1, 11], [2, 12]] if asked is not False else [[1], [2]]
    assert [found[0].tolist(), found[1][0].tolist()] == wanted and found[1][1] == 'text'
    assert all(type(o) is torch.Tensor and not o.requires_grad for o in (found[0], found[1][0]))


def test_default_device_is_what_was_set_or_there(monkeypatch):
    """Asked for by name, by the defaults, or left to what there is."""
    monkeypatch.setattr(torch.accelerator, 'current_accelerator', lambda check_available=False: None)
    cpu = torch.device('cpu')
    assert default_device() == default_device(False) == cpu
    for wanted in (True, 0, 1):
        with pytest.raises(ValueError, match='sees none'):
            default_device(wanted)
    monkeypatch.setattr(defaults, 'device', 'meta')
    assert default_device() == torch.device('meta') and default_device(False) == cpu
    monkeypatch.setattr(defaults, 'device', None)
    monkeypatch.setattr(defaults, 'use_cuda', True)
    with pytest.raises(ValueError, match='sees none'):
        default_device()
    monkeypatch.setattr(torch.accelerator, 'current_accelerator',
                        lambda check_available=False: torch.device('cuda') if check_available else None)
    monkeypatch.setattr(torch.accelerator, 'current_device_index', lambda: 2)
    assert default_device() == default_device(True) == torch.device('cuda', 2)
    assert default_device(False) == cpu and default_device(1) == torch.device('cuda', 1)
    monkeypatch.setattr(defaults, 'use_cuda', False)
    assert default_device() == cpu


# ---------------------------------------------------------------- modules and parameters

def test_parameters_of_norm_layers_and_biases():
    """All of a norm layer's, the biases of others where asked for, at any depth."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1, bias=False)),
                          nn.LayerNorm(3))
    norms, conv = [*model[1][0].parameters()], model[0]
    for function in (norm_bias_params, bn_bias_params):
        assert {id(p) for p in function(model, False)} == {*map(id, norms), *map(id, model[2].parameters())}
        assert {id(p) for p in function(model)} == {id(p) for p in (*norms, *model[2].parameters(), conv.bias)}
    conv.weight.requires_grad_(False)
    assert len(params(model)) == 7 and len(trainable_params(model)) == 6
    assert all(p is not conv.weight for p in trainable_params(model)) and one_param(model) is conv.weight
    assert not requires_grad(model) and requires_grad(model[1]) and requires_grad(nn.ReLU()) is False


def test_initialisation_of_what_is_trained():
    """Weights by the function, biases zero; norm layers and frozen ones stay."""
    def model():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 2), nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2)))
    ones, changed = nn.init.ones_, model()
    changed[1][1].requires_grad_(False)
    frozen = changed[1][1].weight.clone()
    apply_init(changed, ones)
    assert torch.equal(changed[0].weight, torch.ones(2, 3)) and not changed[0].bias.any()
    assert torch.equal(changed[1][1].weight, frozen) and changed[1][1].bias.any()
    nn.init.constant_(changed[1][0].bias, 3.), cond_init(changed[1][0], ones)
    assert changed[1][0].bias.tolist() == [3., 3.]
    layer = nn.Linear(3, 2)
    before = layer.weight.clone()
    assert init_default(layer, None) is layer and torch.equal(layer.weight, before) and not layer.bias.any()
    torch.manual_seed(1)
    init_default(layer)
    torch.manual_seed(1)
    assert torch.equal(layer.weight, nn.init.kaiming_normal_(torch.empty(2, 3)))
    seen = []
    apply_leaf(changed, seen.append)
    assert seen == [changed[0], changed[1][0], changed[1][1], changed[1], changed]


def test_model_inside_its_wrappers():
    """What parallel training and compilation wrap around comes off, in whichever order, and only that."""
    class Learner:
        model = nn.Linear(2, 2)
    model, learn = Learner.model, Learner()
    assert get_model(nn.DataParallel(torch.compile(model))) is get_model(torch.compile(nn.DataParallel(model))) is model
    assert get_model(model) is model and isinstance(to_parallel(model), nn.DataParallel)
    assert to_parallel(learn) is learn and isinstance(learn.model, nn.DataParallel)
    assert detach_parallel(learn) is learn and learn.model is model and detach_parallel(to_parallel(model)) is model


def test_split_model_cuts_before_each_module():
    """All modules stay, in their order."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 3), nn.Tanh())
    groups = split_model(model, [model[0], model[2]])
    assert [[*map(type, g)] for g in groups] == [[nn.Linear, nn.ReLU], [nn.Linear, nn.Tanh]]
    assert groups[1][0] is model[2] and all(isinstance(g, nn.Sequential) for g in groups)


# ---------------------------------------------------------------- shapes, files, versions, bars

def test_axes_are_added_where_they_are_asked_for():
    """At the end by default, one or several, in place too."""
    for add in (unsqueeze, unsqueeze_):
        assert add(torch.zeros(2, 3)).shape == (2, 3, 1) and add(torch.zeros(2, 3), 0, 2).shape == (1, 1, 2, 3)
        assert add(torch.zeros(2, 3), n=2).shape == (2, 3, 1, 1)
    x = torch.zeros(2)
    assert unsqueeze(x) is not x and unsqueeze_(x) is x and x.shape == (2, 1)


def test_flatten_check_wants_as_many_on_both_sides():
    """Markers come off, and what is not contiguous is laid out anew."""
    inp, targ = flatten_check(TensorImage(torch.rand(2, 3)).transpose(0, 1), TensorMask(torch.zeros(6)))
    assert inp.shape == targ.shape == (6,) and type(inp) is type(targ) is torch.Tensor
    with pytest.raises(AssertionError, match='hold 6 elements, targets 5'):
        flatten_check(torch.rand(2, 3), torch.zeros(5))


def test_path_of_a_file_in_a_folder_that_comes_to_be(tmp_path):
    """With its suffix, however deep the folder; an open file is left alone."""
    wanted = tmp_path / 'a' / 'b' / 'model.pth'
    for folder in (tmp_path / 'a' / 'b', str(tmp_path / 'a' / 'b')):
        assert join_path_file('model', folder, '.pth') == wanted and wanted.parent.is_dir() and not wanted.exists()
    with wanted.open('w') as stream:
        assert join_path_file(stream, tmp_path / 'c') is stream and not (tmp_path / 'c').exists()
    assert join_path_file(wanted.name, tmp_path / 'a' / 'b') == wanted


def test_versions_are_compared_by_their_numbers(monkeypatch):
    """Not as texts; what is built behind the number counts for nothing."""
    monkeypatch.setattr(torch, '__version__', '2.10.1+cu128')
    assert ismin_torch('2.9') and ismin_torch('2.10.1') and ismin_torch('2.10') and not ismin_torch('2.10.2')
    assert not ismin_torch('2.11') and notmax_torch('2.10.2') and notmax_torch('3') and not notmax_torch('2.10.1')
    assert not notmax_torch('2.9')


def test_bars_show_what_they_are_told(capsys):
    """All items come; texts, lengths, nesting and silence are tqdm's."""
    bar = progress_bar(iter('abc'), total=3, comment='words', leave=False)
    assert bar.total == 3 and bar.desc.startswith('words') and not bar.leave and not bar.disable and bar.pos == 0
    assert list(bar) == ['a', 'b', 'c'] and 'words' in capsys.readouterr().err
    assert progress_bar('abc', desc='more').desc.startswith('more') and progress_bar('abc').leave
    outer = master_bar('ab', total=2)
    inner = progress_bar('abc', parent=outer)
    assert outer.total == 2 and inner.total == 3 and inner.pos == -1
    inner.close(), outer.close(), capsys.readouterr()
    assert list(progress_bar('abc', display=False)) == ['a', 'b', 'c'] and capsys.readouterr().err == ''
    with pytest.raises(TypeError, match='comment'):
        progress_bar('abc', coment='words')


def test_table_is_printed_line_by_line(capsys):
    """Where no notebook shows it."""
    table = pd.DataFrame({'a': [1, 2], 'b': ['x', 'y']})
    display_df(table)
    assert capsys.readouterr().out == table.to_string() + '\n'
