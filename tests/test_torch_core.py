"""Laws of the small things that scripts know by name: hot codes, types of nested values, functions as modules."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from minifast.markers import TensorCategory, TensorImage, TensorMask, explode_types, retain_meta, retain_types
from minifast.torch_core import grad_module, logit, make_cross_image, np_func, one_hot, one_hot_decode


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


def test_meta_is_told_to_what_asks_for_it():
    """Anything else comes back as it is."""
    class Kept:
        def set_meta(self, x, as_copy=False):
            self.meta = x, as_copy
    kept = Kept()
    assert retain_meta('x', kept, as_copy=True) is kept and kept.meta == ('x', True)
    assert retain_meta('x', 3) == 3
