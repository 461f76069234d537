"""Laws of the layers: fastai's shapes, first weights and outputs, and torch's own conveniences kept."""
from __future__ import annotations

import copy
import json
from collections import OrderedDict
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from make_fastai_numbers import LAYERS, layer_run
from torch import nn

import minifast.layers as layers
from minifast.layers import (Cat, ConvLayer, Flatten, Lambda, LinBnDrop, MaxPool, MergeLayer, NoneReduce, NormType,
                             PartialLambda, PixelShuffle_ICNR, ProdLayer, ResBlock, ResizeBatch, SequentialEx,
                             SimpleSelfAttention, TimeDistributed, View, children_and_parameters, flatten_model,
                             has_children, icnr_init, in_channels, init_linear, sequential, sigmoid, trunc_normal_)
from minifast.torch_core import Module, TensorBase, TensorImage

NUMBERS = json.loads((Path(__file__).parent / 'data' / 'layers.json').read_text(encoding='utf-8'))['numbers']


@pytest.mark.parametrize('label', LAYERS)
def test_layer_equals_fastai_from_the_same_seed(label):
    """Shapes of the parameters, their first values and the output are fastai's under one seed."""
    got, want = layer_run(layers, *LAYERS[label]), NUMBERS[label]
    assert got['shapes'] == want['shapes'] and got['shape'] == want['shape']
    assert got['weights'] == pytest.approx(want['weights'], rel=1e-6)
    torch.testing.assert_close(torch.tensor(got['output']), torch.tensor(want['output']), rtol=1e-5, atol=1e-5)


def test_conv_layer_order_and_bias():
    """Norm before activation unless asked otherwise; a bias only without a batch or instance norm."""
    assert [type(m).__name__ for m in ConvLayer(3, 4)] == ['Conv2d', 'BatchNorm2d', 'ReLU']
    assert [type(m).__name__ for m in ConvLayer(3, 4, bn_1st=False)] == ['Conv2d', 'ReLU', 'BatchNorm2d']
    assert ConvLayer(3, 4)[0].bias is None and ConvLayer(3, 4, norm_type=None)[0].bias is not None
    assert type(ConvLayer(3, 4, xtra=nn.Dropout(0.1))[-1]) is nn.Dropout
    assert len(ConvLayer(3, 4, norm_type=None, act_cls=None)) == 1


def test_conv_layer_wrong_ndim_and_keyword_are_refused():
    """Four dimensions and a misspelt keyword raise."""
    with pytest.raises(ValueError, match='ndim=4'):
        ConvLayer(3, 4, ndim=4)
    with pytest.raises(TypeError, match='dilatation'):
        ConvLayer(3, 4, dilatation=2)


@pytest.mark.parametrize('lin_first', [False, True])
@pytest.mark.parametrize('act', [None, nn.Sigmoid()], ids=['no activation', 'an activation'])
@pytest.mark.parametrize('bn', [False, True])
def test_lin_bn_drop_has_what_is_asked_for_in_its_order(bn, act, lin_first):
    """Norm and dropout, then the linear layer and its activation, or the other way round; a bias without a norm."""
    for p in (0., .3):
        made = LinBnDrop(3, 4, bn=bn, p=p, act=act, lin_first=lin_first)
        linear = ['Linear', *(['Sigmoid'] if act else [])]
        around = [*(['BatchNorm1d'] if bn else []), *(['Dropout'] if p else [])]
        assert [type(m).__name__ for m in made] == (linear + around if lin_first else around + linear)
        layers_of = {type(m): m for m in made}
        assert (layers_of[nn.Linear].bias is None) is bn and layers_of.get(nn.Sigmoid) is act
        assert not bn or layers_of[nn.BatchNorm1d].num_features == (4 if lin_first else 3)
        assert not p or layers_of[nn.Dropout].p == p


def test_batch_zero_starts_the_residual_branch_as_almost_nothing():
    """The last norm of a block has weight 0, so a new block passes its input on."""
    block = ResBlock(1, 4, 4)
    assert torch.equal(block.convpath[-1][1].weight, torch.zeros(4))
    x = torch.rand(2, 4, 5, 5)
    torch.testing.assert_close(block(x), x, atol=2e-3, rtol=0)


def test_weight_norm_loads_a_checkpoint_with_fastai_names():
    """`weight_g` and `weight_v` of an old checkpoint go into today's parametrization."""
    layer = PixelShuffle_ICNR(4, 2)
    conv = layer[0][0]
    old = {'0.0.bias': conv.bias.detach().clone(), '0.0.weight_g': torch.full((8, 1, 1, 1), 2.),
           '0.0.weight_v': torch.ones(8, 4, 1, 1)}
    layer.load_state_dict(old)
    torch.testing.assert_close(conv.weight, torch.ones(8, 4, 1, 1))


def test_icnr_upsamples_without_checkerboard():
    """At the start the `scale**2` outputs that become one patch are equal."""
    weight = icnr_init(torch.empty(8, 3, 1, 1))
    assert all(torch.equal(weight[i], weight[i + j]) for i in (0, 4) for j in range(4))
    up = PixelShuffle_ICNR(4, 2, norm_type=None, act_cls=None)(torch.rand(1, 4, 3, 3))
    assert torch.equal(up[..., ::2, ::2], up[..., 1::2, 1::2])


def test_init_linear_chooses_by_activation():
    """ReLU-like activations get kaiming, sigmoid-like xavier, unknown ones torch's own, a class may say itself."""
    def weight(act, **kwargs):
        torch.manual_seed(0)
        m = nn.Linear(4, 4)
        torch.manual_seed(1)
        init_linear(m, act, bias_std=0, **kwargs)
        assert torch.equal(m.bias, torch.zeros(4))
        return m.weight.detach()
    torch.manual_seed(1)
    kaiming = nn.init.kaiming_uniform_(torch.empty(4, 4))
    torch.manual_seed(1)
    xavier = nn.init.xavier_uniform_(torch.empty(4, 4))
    torch.manual_seed(0)
    own = nn.Linear(4, 4).weight.detach()

    class Said(nn.Module):
        __default_init__ = nn.init.zeros_
    for act, want in ((nn.ReLU(), kaiming), (F.leaky_relu, kaiming), (nn.SiLU(), kaiming), (layers.mish, kaiming),
                      (nn.Sigmoid(), xavier), (torch.tanh, xavier), (None, own), (Said(), torch.zeros(4, 4))):
        assert torch.equal(weight(act), want), act
    assert torch.equal(weight(nn.ReLU(), init=nn.init.ones_), torch.ones(4, 4))
    assert torch.equal(weight(nn.ReLU(), init=None), own)


def test_trunc_normal_stays_within_two_deviations():
    """No value is further than two standard deviations from the mean."""
    x = trunc_normal_(torch.empty(1000), mean=1., std=0.5)
    assert (x - 1).abs().max() <= 1 and x.std() > 0.3


def test_sigmoid_never_reaches_its_ends():
    """Its logarithm stays finite."""
    assert sigmoid(torch.tensor([-1e3, 1e3])).log().isfinite().all()


def test_shape_layers():
    """Lambda, Flatten, View, ResizeBatch and their like do what a line of torch does, also on strided input."""
    x = torch.rand(2, 3, 4).transpose(1, 2)
    assert torch.equal(Flatten()(x), x.flatten(1)) and torch.equal(Flatten(full=True)(x), x.flatten())
    assert View(3, 8)(torch.rand(24)).shape == (3, 8) and ResizeBatch(2, 6)(torch.rand(2, 12)).shape == (2, 2, 6)
    assert torch.equal(Lambda(torch.exp)(x), x.exp()) and torch.equal(PartialLambda(torch.sum, dim=1)(x), x.sum(1))
    assert repr(Lambda(torch.exp)) == 'Lambda(exp)' and repr(Lambda(partial(torch.sum, dim=1))).startswith(
        'Lambda(functools.partial(')
    assert type(layers.ToTensorBase(TensorImage)(x)) is TensorImage and type(layers.ToTensorBase()(x)) is TensorBase
    assert repr(Flatten()) == 'Flatten(full=False)' and repr(layers.SigmoidRange(0, 5)) == 'SigmoidRange(low=0, high=5)'
    assert repr(PartialLambda(torch.sum, dim=1)) == "PartialLambda(sum, {'dim': 1})"


def test_sequential_takes_functions():
    """Functions become Lambda layers; an OrderedDict keeps its names."""
    assert torch.equal(sequential(nn.Identity(), lambda x: x * 2)(torch.ones(2)), torch.full((2,), 2.))
    assert list(dict(sequential(OrderedDict(a=nn.Identity())).named_children())) == ['a']


def test_sequential_ex_gives_every_layer_the_blocks_input():
    """Merging adds, multiplies or concatenates the block's input; the input is not kept alive afterwards."""
    x = torch.rand(2, 3)
    double = Lambda(lambda t: t * 2)
    assert torch.equal(SequentialEx(double, MergeLayer())(x), x * 2 + x)
    assert torch.equal(SequentialEx(double, MergeLayer(dense=True))(x), torch.cat([x * 2, x], 1))
    out = SequentialEx(double, double, ProdLayer())(x)
    assert torch.equal(out, x * 4 * x) and out.orig is None and x.orig is None
    block = SequentialEx(double)
    block.append(MergeLayer())
    block.insert(0, double)
    block.extend([double])
    assert len(block.layers) == 4 and block[0] is double


def test_cat_puts_outputs_side_by_side():
    """Each layer sees the same input."""
    assert Cat([nn.Identity(), Lambda(torch.exp)])(torch.zeros(2, 3)).shape == (2, 6)


@pytest.mark.parametrize('kwargs', [{}, {'low_mem': True}, {'tdim': 2}], ids=str)
def test_time_distributed_equals_a_loop_over_steps(kwargs):
    """Every step goes through the module alone, for one and for two outputs."""
    x, linear = torch.rand(2, 3, 3, 5), nn.Linear(5, 4)
    want = torch.stack([linear(step) for step in x.unbind(kwargs.get('tdim', 1))], kwargs.get('tdim', 1))
    torch.testing.assert_close(TimeDistributed(linear, **kwargs)(x), want)

    class Two(nn.Module):
        def forward(self, x):
            return linear(x), x
    got = TimeDistributed(Two(), **kwargs)(x)
    torch.testing.assert_close(got[0], want)
    assert torch.equal(got[1], x)


def test_max_pool_obeys_ceil_mode():
    """The partial window at the edge is kept when asked."""
    assert MaxPool(2)(torch.rand(1, 1, 5, 5)).shape[-1] == 2
    assert MaxPool(2, ceil_mode=True)(torch.rand(1, 1, 5, 5)).shape[-1] == 3


@pytest.mark.parametrize('ndim', (1, 2, 3))
def test_pools_are_torchs_in_each_number_of_dimensions(ndim):
    """As fastai has them: windows of 2 side by side where nothing else is said, and an average of all that there is."""
    x = torch.rand(2, 3, *[7] * ndim)
    for ours, torchs, told in ((layers.MaxPool, 'MaxPool', 2), (layers.AvgPool, 'AvgPool', 2),
                               (layers.AdaptiveAvgPool, 'AdaptiveAvgPool', 1)):
        theirs = getattr(nn, f'{torchs}{ndim}d')(told)
        made = [ours(ndim=ndim), *([ours()] if ndim == 2 else [])]
        assert all(type(layer) is type(theirs) and torch.equal(layer(x), theirs(x)) for layer in made)


def test_symmetric_attention_has_a_symmetric_weight():
    """With `sym` the used weight is its own transpose; a wider kernel cannot be and is refused."""
    layer = SimpleSelfAttention(4, sym=True)
    layer(torch.rand(1, 4, 3, 3)).sum().backward()
    torch.testing.assert_close(layer.conv.weight_orig[..., 0], layer.conv.weight_orig[..., 0].T)
    with pytest.raises(ValueError, match='ks=1'):
        SimpleSelfAttention(4, ks=3, sym=True)


def test_module_needs_no_super_init():
    """A subclass of Module sets layers without calling its base, as fastai's users do."""
    class Own(Module):
        def __init__(self):
            self.layer = nn.Linear(2, 2)
    assert len(list(Own().parameters())) == 2


def test_flatten_model_lists_leaves_and_lone_parameters():
    """Every leaf in order; a parameter that belongs to no child appears as a module."""
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.scale = nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Parameter(torch.ones(1))
    m = Own()
    assert [type(o).__name__ for o in flatten_model(m)] == ['Linear', 'ReLU', 'ParameterModule']
    assert children_and_parameters(m)[1].val is m.scale
    assert has_children(m) and not has_children(nn.ReLU())


def test_in_channels_finds_the_first_convolution():
    """The number of input channels, or an error that names the model."""
    assert in_channels(nn.Sequential(nn.ReLU(), nn.Conv2d(5, 2, 1), nn.Conv2d(2, 2, 1))) == 5
    with pytest.raises(ValueError, match='Linear has no 2d convolution'):
        in_channels(nn.Linear(2, 2))


def test_none_reduce_gives_one_loss_an_item_and_restores():
    """For losses with a `reduction` and for functions that take one, also when an error leaves the block."""
    loss, pred, targ = nn.CrossEntropyLoss(), torch.rand(4, 3), torch.tensor([0, 1, 2, 0])
    with NoneReduce(loss) as unreduced:
        assert unreduced(pred, targ).shape == (4,)
    assert loss.reduction == 'mean'
    with NoneReduce(partial(F.cross_entropy, label_smoothing=0.1)) as unreduced:
        assert unreduced(pred, targ).shape == (4,)
    with pytest.raises(ZeroDivisionError), NoneReduce(loss):
        raise ZeroDivisionError
    assert loss.reduction == 'mean'


def test_norm_types_have_fastais_names_and_order():
    """Checkpoints and configurations name them."""
    assert [o.name for o in NormType] == ['Batch', 'BatchZero', 'Weight', 'Spectral', 'Instance', 'InstanceZero']


@pytest.mark.parametrize('make', [partial(ResBlock, 4, 4, 4, stride=2, reduction=4, sa=True),
                                  partial(PixelShuffle_ICNR, 16), partial(layers.SelfAttention, 16)],
                         ids=['res', 'shuffle', 'attention'])
def test_blocks_can_be_copied(make):
    """A deep copy, norms included, gives the same output."""
    block = make().eval()
    x = torch.rand(2, 16, 4, 4)
    assert torch.equal(copy.deepcopy(block)(x), block(x))
