"""Bodies, heads, XResNets, U-Nets, weights: names, shapes and counts are fastai's (tests/data/models.json)."""
from __future__ import annotations

import copy
import functools
import hashlib
import http.server
import inspect
import json
import re
import sys
import threading
import warnings
from pathlib import Path
from typing import TypedDict

import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

from minifast.layers import Mish
from minifast.vision import models
from minifast.vision.learner import unet_learner, vision_learner
from minifast.vision.models.create import (HeadArguments, TimmBody, add_head, arch_from_name, arch_name,
                                           create_body, create_cnn_model, create_head, create_timm_model,
                                           create_unet_model, create_vision_model, cut_model, default_split,
                                           hands_on, has_pool_type, meta_of, model_recipe, update_first_layer)
from minifast.vision.models.unet import DynamicUnet, UnetArguments
from minifast.vision.models.weights import (WeightsNotFoundError, _checked_kinds, cached_file, fetch_weights,
                                            named_weights)
from minifast.vision.models.xresnet import xresnet18

FACTS = json.loads((Path(__file__).parent / 'data' / 'models.json').read_text())


def fingerprint(model: nn.Module) -> str:
    """A digest of the state dict's names, shapes and types; a weight norm's names as torch wrote them formerly."""
    names = {'parametrizations.weight.original0': 'weight_g', 'parametrizations.weight.original1': 'weight_v'}
    lines = []
    for name, value in model.state_dict().items():
        for new, old in names.items():
            name = name.replace(new, old)
        lines.append(f'{name} {tuple(value.shape)} {value.dtype}')
    return hashlib.sha256('\n'.join(lines).encode()).hexdigest()[:16]


def check(model: nn.Module, groups: list, facts: dict, n_in: int = 3) -> None:
    """Names, counts, groups and output shape of a model are the facts."""
    assert sum(p.numel() for p in model.parameters()) == facts['params']
    assert len(model.state_dict()) == facts['keys']
    assert [[len(g), sum(p.numel() for p in g)] for g in groups] == facts['groups']
    assert fingerprint(model) == facts['fingerprint']
    with torch.no_grad():
        assert list(model.eval()(torch.zeros(2, n_in, *facts['size'])).shape) == facts['out']


def arch_of(name: str):
    return getattr(models, name, None) or getattr(models.xresnet, name)


@pytest.mark.parametrize('name', FACTS['vision'])
def test_vision_model_is_fastais(name):
    """Body and head of every architecture have fastai's names, counts, group boundaries and shapes."""
    facts, arch = FACTS['vision'][name], arch_of(name)
    with torch.device('meta'):
        if 'error' in facts:  # fastai stops without a word
            with pytest.raises(ValueError, match='give cut='):
                create_vision_model(arch, 7, pretrained=False)
            return
        model = create_vision_model(arch, 7, pretrained=False)
        check(model, meta_of(arch)['split'](model), facts)


@pytest.mark.parametrize('case', FACTS['n_in'])
def test_vision_model_with_other_channels_is_fastais(case):
    """Any number of input channels changes the first layer and nothing else."""
    name, n_in = case.split(':')
    with torch.device('meta'):
        model = create_vision_model(arch_of(name), 7, pretrained=False, n_in=int(n_in))
        check(model, meta_of(arch_of(name))['split'](model), FACTS['n_in'][case], int(n_in))


@pytest.mark.parametrize('name', FACTS['xresnet'])
def test_xresnet_is_fastais(name):
    """Every XResNet has fastai's names, counts and shapes."""
    with torch.device('meta'):
        if ':' in name:
            check(xresnet18(n_out=10, c_in=4, sa=True, widen=1.5, act_cls=Mish), [], FACTS['xresnet'][name], 4)
        else:
            check(getattr(models.xresnet, name)(n_out=10), [], FACTS['xresnet'][name])


@pytest.mark.parametrize('name', FACTS['head'])
def test_head_is_fastais(name):
    """Every setting of `create_head` gives fastai's layers in fastai's order."""
    facts = FACTS['head'][name]
    head = create_head(12, 3, **facts['kwargs'])
    assert [type(m).__name__ for m in head] == facts['layers']
    assert [m.p for m in head.modules() if isinstance(m, nn.Dropout)] == facts['p']
    assert fingerprint(head) == facts['fingerprint']


UNETS = {'self_attention': {'self_attention': True, 'act_cls': 'Mish'}, 'weight_norm': {'norm_type': 'Weight'},
         'blur': {'blur': True}, 'bottle': {'bottle': True}, 'no_cross': {'last_cross': False},
         'y_range': {'y_range': [0, 1]}}


@pytest.mark.parametrize('case', [c for c in FACTS['unet'] if 'error' not in FACTS['unet'][c]])
def test_unet_is_fastais(case):
    """Every U-Net has fastai's names, counts, group boundaries and shapes, odd sizes included."""
    name, kind = case.split(':')
    facts = FACTS['unet'][case]
    with torch.device('meta'):
        model = create_unet_model(arch_of(name), 5, tuple(facts['size']), pretrained=False, **UNETS.get(kind, {}))
        check(model, meta_of(arch_of(name))['split'](model), facts)


def ramp(shape, phase) -> torch.Tensor:
    n = int(torch.Size(shape).numel())
    return torch.sin(1.7 * torch.arange(n, dtype=torch.float64) + phase).float().view(shape)


NUMBERS = {
    'resnet18': lambda: (create_vision_model(models.resnet18, 7, pretrained=False), (64, 64)),
    'resnet18 lin_first': lambda: (create_vision_model(models.resnet18, 7, pretrained=False, lin_first=True,
                                                       bn_final=True, y_range=(-1, 2)), (64, 64)),
    'xresnet18': lambda: (xresnet18(n_out=5), (64, 64)),
    'xse_resnext18': lambda: (models.xresnet.xse_resnext18(n_out=5), (64, 64)),
    'unet': lambda: (create_unet_model(models.resnet18, 3, (32, 48), pretrained=False), (33, 47)),
    'unet blur': lambda: (create_unet_model(xresnet18, 3, (32, 32), pretrained=False, blur=True, y_range=(0, 1),
                                            last_cross=False), (32, 32)),
    'unet weight_norm': lambda: (create_unet_model(models.resnet18, 3, (32, 32), pretrained=False,
                                                   norm_type='Weight'), (32, 32)),
}


@pytest.mark.parametrize('name', NUMBERS)
def test_forward_gives_fastais_numbers(name):
    """With equal weights, made by a formula, every model gives the numbers that fastai's gives."""
    model, size = NUMBERS[name]()
    with torch.no_grad():
        for i, (key, value) in enumerate(model.state_dict().items()):
            if key.endswith('running_var'):
                value.copy_(1 + ramp(value.shape, i) ** 2)
            elif value.is_floating_point():
                value.copy_(ramp(value.shape, i) * 1.5 / max(value[0].numel(), 1) ** 0.5)
        out = model.eval()(ramp((2, 3, *size), 0)).as_subclass(torch.Tensor)
    wanted = torch.tensor(FACTS['numbers'][name])
    torch.testing.assert_close(out.flatten()[::max(out.numel() // 12, 1)], wanted, rtol=1e-4, atol=1e-5)


def test_every_architecture_in_the_facts_names_its_groups():
    """The table of architectures covers what fastai cuts, two parameter groups for all others."""
    groups = {name: len(f['groups']) for name, f in FACTS['vision'].items() if 'groups' in f}
    assert groups['resnet18'] == groups['densenet121'] == groups['vgg16_bn'] == groups['alexnet'] == 3
    assert groups['efficientnet_b0'] == 2


def test_unet_bottle_halves_the_last_block():
    """`bottle=True` builds a model that runs (fastai's does not)."""
    model = create_unet_model(models.resnet18, 2, (32, 32), pretrained=False, bottle=True).eval()
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 2, 32, 32)


def test_unet_can_be_copied_after_a_training_step_and_keeps_nothing():
    """No batch stays behind on the model, so a copy costs weights only and gives the same bits."""
    model = create_unet_model(xresnet18, 2, (32, 32), pretrained=False)
    x = torch.randn(2, 3, 32, 32)
    model(x).sum().backward()
    assert not hasattr(x, 'orig') or x.orig is None
    twin = copy.deepcopy(model).eval()
    assert torch.equal(twin(x), model.eval()(x))


@pytest.mark.parametrize('kwargs', [{}, {'last_cross': False, 'y_range': (0, 1)}, {'self_attention': True}], ids=str)
def test_every_layer_of_a_unet_takes_part(kwargs):
    """Each runs, once a picture, and each parameter gets a gradient."""
    model, ran = create_unet_model(xresnet18, 2, (32, 32), pretrained=False, **kwargs), []
    for layer in [*model.layers[0], *model.layers[1:]]:
        layer.register_forward_hook(lambda layer, i, o: ran.append(layer))
    model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert ran == [*model.layers[0], *model.layers[1:]]
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_unet_runs_other_sizes_than_it_was_laid_out_for():
    """The way up follows the picture's size, odd ones too."""
    model = create_unet_model(models.resnet18, 2, (64, 64), pretrained=False).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 33, 50)).shape == (1, 2, 33, 50)


def test_unet_is_laid_out_with_pictures_of_the_size_that_was_asked_for():
    """No others are shown to the encoder, which may take none but those."""
    class Placed(nn.Conv2d):
        def __init__(self):
            super().__init__(3, 4, 3, 2, 1)
            self.place = nn.Parameter(torch.zeros(4, 16, 24))

        def forward(self, x):
            return super().forward(x) + self.place
    model = DynamicUnet(nn.Sequential(Placed(), nn.Conv2d(4, 8, 3, 2, 1)), 2, (32, 48)).eval()
    assert model(torch.randn(1, 3, 32, 48)).shape == (1, 2, 32, 48)


def test_unet_of_a_timm_name_is_refused():
    """A string is a timm name, which a U-Net cannot be laid out on."""
    with pytest.raises(ValueError, match='models.resnet34'):
        create_unet_model('resnet18', 2, (32, 32), pretrained=False)


# ---------------------------------------------------------------- arguments that are handed on

HANDED_ON = [(create_head, HeadArguments, door) for door in (vision_learner, create_vision_model, create_timm_model,
                                                             add_head)]
HANDED_ON += [(DynamicUnet, UnetArguments, door) for door in (unet_learner, create_unet_model)]


@pytest.mark.parametrize('source, names, door', HANDED_ON, ids=lambda x: getattr(x, '__name__', None))
def test_arguments_that_are_handed_on_are_shown_as_they_are_where_they_are_used(source, names, door):
    """Names, types, defaults and words: what `help` shows of a head is what `create_head` says of it."""
    used, shown = inspect.signature(source).parameters, inspect.signature(door).parameters
    assert all(p.annotation == 'Any' for p in shown.values() if p.kind is p.VAR_KEYWORD)
    assert set(names.__annotations__) == {name for name, p in used.items() if p.default is not p.empty}
    for name, hint in names.__annotations__.items():
        assert shown[name].default is used[name].default and shown[name].annotation == hint.__forward_arg__
        assert set(used[name].annotation.split(' | ')) <= set(hint.__forward_arg__.split(' | '))
        words = re.search(rf'^    {name}: .*(\n {{8}}.*)*', inspect.getdoc(source), re.MULTILINE)[0]
        assert words in inspect.getdoc(door)
    assert '**' not in door.__doc__


def test_arguments_that_are_handed_on_may_be_given_by_position_and_only_once():
    """As where they are written out."""
    given = dict(pretrained=False, weights=None, cut=None, n_in=3, init=None, custom_head=None)
    by_name = create_vision_model(xresnet18, 2, **given, concat_pool=False, pool=True, lin_ftrs=[8])
    by_place = create_vision_model(xresnet18, 2, *given.values(), False, True, [8])
    assert repr(by_place) == repr(by_name) and by_name[1][2].num_features == 512
    with pytest.raises(TypeError, match='concat_pool'):
        create_vision_model(xresnet18, 2, *given.values(), False, concat_pool=True)
    with pytest.raises(TypeError, match="did you mean 'concat_pool'"):
        create_vision_model(xresnet18, 2, concatpool=False)


# ---------------------------------------------------------------- cutting

def test_has_pool_type_looks_inside():
    """A pooling layer is found at any depth."""
    assert has_pool_type(nn.Sequential(nn.Sequential(nn.AdaptiveAvgPool2d(1))))
    assert not has_pool_type(nn.Sequential(nn.Conv2d(1, 1, 1)))


@pytest.mark.parametrize('arch', [models.resnet18, models.squeezenet1_1, xresnet18], ids=lambda arch: arch.__name__)
def test_create_body_makes_the_model_of_a_function(arch):
    """As earlier releases of fastai took one."""
    torch.manual_seed(0)
    body = create_body(arch, n_in=1, pretrained=False)
    torch.manual_seed(0)
    known = create_body(arch(), n_in=1, pretrained=False)
    assert all(map(torch.equal, body.state_dict().values(), known.state_dict().values()))
    assert body(torch.zeros(2, 1, 64, 64)).ndim == 4


def test_create_body_cuts_before_the_last_pooling_child():
    """Without `cut` the body ends before the last child that pools."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.MaxPool2d(2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert [type(m) for m in create_body(model)] == [nn.Conv2d, nn.MaxPool2d, nn.ReLU]


def test_cut_model_takes_an_index_or_a_function_and_nothing_else():
    """`cut` is a place or a function."""
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    assert len(cut_model(model, 1)) == 1 and cut_model(model, lambda m: m[1]) is model[1]
    with pytest.raises(TypeError, match="cut='layer4'"):
        cut_model(model, 'layer4')


def test_default_split_body_and_head():
    """Two groups that hold all parameters once."""
    model = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 3))
    assert [len(g) for g in default_split(model)] == [2, 2]


@pytest.mark.parametrize('n_in', [1, 2, 5])
def test_first_layer_keeps_what_it_has_learnt(n_in):
    """One channel: the sum; two: one and a half times the first two; more: zeros beyond the third."""
    model = nn.Sequential(nn.Conv2d(3, 2, 3, stride=2, padding=1, bias=False))
    old = model[0].weight.detach().clone()
    update_first_layer(model, n_in, pretrained=True)
    new = model[0].weight.detach()
    assert model[0].stride == (2, 2) and model[0].bias is None and new.shape == (2, n_in, 3, 3)
    if n_in == 1:
        torch.testing.assert_close(new, old.sum(1, keepdim=True))
    elif n_in == 2:
        torch.testing.assert_close(new, old[:, :2] * 1.5)
    else:
        assert torch.equal(new[:, :3], old) and not new[:, 3:].any()


def test_first_layer_of_another_kind_is_refused():
    """Only a Conv2d of three channels can take other channels."""
    with pytest.raises(ValueError, match='Conv2d of 3 channels'):
        update_first_layer(nn.Sequential(nn.Linear(3, 4)), 1, True)


def test_head_refuses_a_wrong_number_of_dropouts():
    """One dropout or one for each block; fastai drops layers silently."""
    with pytest.raises(ValueError, match='3 numbers for 2'):
        create_head(4, 2, ps=[.1, .2, .3])


def test_models_namespace_has_torchvision_and_ours():
    """`models.<name>` gives torchvision's own function; `models.all` has the XResNets too."""
    from torchvision.models import resnet18
    assert models.resnet18 is resnet18
    from minifast.vision.models import all as everything
    assert everything.xresnet50_deep and everything.DynamicUnet is DynamicUnet and everything.resnet50


def test_cnn_model_is_the_old_name():
    """The old name works and says so."""
    with pytest.warns(UserWarning, match='create_vision_model'):
        create_cnn_model(xresnet18, 2, pretrained=False)


# ---------------------------------------------------------------- names and recipes

@pytest.mark.parametrize('arch', [models.resnet18, models.densenet121, xresnet18, models.xresnet.xse_resnext50])
def test_arch_name_round_trip(arch):
    """A name leads back to the same function."""
    assert arch_from_name(arch_name(arch)) is arch


def test_arch_name_own_function_has_none_and_unknown_names_are_refused():
    """A user's function is code, so it has no name; a wrong name tells the near match; timm names pass."""
    assert arch_name(lambda pretrained=False: nn.Linear(1, 1)) is None
    assert arch_from_name('vit_tiny.augreg') == 'vit_tiny.augreg'
    with pytest.raises(ValueError, match='resnet18'):
        arch_from_name('torchvision.models.resnet81')


def test_recipe_builds_the_same_model_from_json():
    """The recipe is data: read back from JSON it gives a model that takes the first one's weights."""
    kwargs = dict(n_out=3, n_in=1, lin_ftrs=[8], ps=[0., .5], y_range=(0, 5), concat_pool=False)
    model = create_vision_model(xresnet18, pretrained=False, **kwargs)
    recipe = json.loads(json.dumps(model_recipe(create_vision_model, xresnet18, custom_head=None, **kwargs)))
    assert recipe['builder'] == 'minifast.vision.learner.create_vision_model'
    twin = create_vision_model(**recipe['kwargs'])
    twin.load_state_dict(model.state_dict())
    x = torch.randn(2, 1, 64, 64)
    assert torch.equal(twin.eval()(x), model.eval()(x))
    assert model_recipe(create_vision_model, xresnet18, custom_head=nn.Linear(1, 1)) is None
    assert model_recipe(create_vision_model, lambda: None) is None


def test_unet_recipe_names_activation_and_norm():
    """Activation and norm type travel by name."""
    from minifast.layers import NormType
    kwargs = dict(n_out=2, img_size=torch.Size((32, 32)), act_cls=nn.Mish, norm_type=NormType.Weight)
    recipe = json.loads(json.dumps(model_recipe(create_unet_model, models.resnet18, **kwargs)))
    assert fingerprint(create_unet_model(**recipe['kwargs'])) == fingerprint(
        create_unet_model(models.resnet18, pretrained=False, **kwargs))


# ---------------------------------------------------------------- pretrained weights

def tiny(pretrained: bool = False) -> nn.Module:
    """An architecture of the user's."""
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(4, 5))


@pytest.mark.parametrize('kind', ['whole', 'body', 'learner', 'wrapped', 'safetensors'])
def test_weights_file_fills_the_body(tmp_path, kind):
    """A file with the whole model, the body alone or a learner's model fills the body bit for bit."""
    source = tiny()
    body = nn.Sequential(*list(source.children())[:2])
    saved = {'whole': source, 'body': body, 'learner': nn.Sequential(body, nn.Linear(1, 1)), 'wrapped': source,
             'safetensors': source}[kind].state_dict()
    file = tmp_path / f'w.{"safetensors" if kind == "safetensors" else "pth"}'
    if kind == 'safetensors':
        from safetensors.torch import save_file
        save_file(saved, file)
    else:
        if kind == 'wrapped':
            saved = {'model': {f'module.{k}': v for k, v in saved.items()}, 'epoch': 3}
        torch.save(saved, file)
    for given in (file, str(file)):
        model = create_vision_model(tiny, 2, weights=given)
        assert all(torch.equal(a, b) for a, b in zip(model[0].state_dict().values(), body.state_dict().values()))


def test_weights_file_fills_the_body_of_a_unet(tmp_path):
    """Bit for bit, with the pretrained ones of that name out of reach."""
    source = xresnet18()
    torch.save(source.state_dict(), tmp_path / 'w.pth')
    encoder = create_unet_model(xresnet18, 2, (32, 32), weights=tmp_path / 'w.pth').layers[0].state_dict()
    assert len(encoder) > 90 and all(torch.equal(encoder[name], source.state_dict()[name]) for name in encoder)


def test_a_timm_body_ends_where_it_is_told():
    """`cut`: the index of a child, or a function; the whole model without it."""
    import timm
    model, x = timm.create_model('test_resnet', num_classes=0).eval(), torch.randn(1, 3, 32, 32)
    assert torch.equal(TimmBody(model)(x), model.forward_features(x))
    for cut in (1, lambda m: m.conv1):
        assert torch.equal(TimmBody(model, cut=cut)(x), model.conv1(x))


def test_weights_file_for_other_channels(tmp_path):
    """A file of a colour model is folded into one channel; a file of a grey model is taken as it is."""
    source = tiny()
    torch.save(source.state_dict(), tmp_path / 'colour.pth')
    model = create_vision_model(tiny, 2, weights=tmp_path / 'colour.pth', n_in=1)
    torch.testing.assert_close(model[0][0].weight, source[0].weight.sum(1, keepdim=True))
    torch.save(model.state_dict(), tmp_path / 'grey.pth')
    again = create_vision_model(tiny, 2, weights=tmp_path / 'grey.pth', n_in=1)
    assert torch.equal(again[0][0].weight, model[0][0].weight)


def test_weights_file_that_does_not_fit_says_what_is_missing(tmp_path):
    """A file of another architecture, no file, and a file with code are refused in words."""
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / 'linear.pth')
    with pytest.raises(ValueError, match='does not fit.*missing or of another shape'):
        create_vision_model(tiny, 2, weights=tmp_path / 'linear.pth')
    with pytest.raises(FileNotFoundError, match='nowhere.pth'):
        create_vision_model(tiny, 2, weights=tmp_path / 'nowhere.pth')
    torch.save(tiny(), tmp_path / 'code.pth')
    with pytest.raises(ValueError, match='never run'):
        create_vision_model(tiny, 2, weights=tmp_path / 'code.pth')
    torch.save([1, 2], tmp_path / 'list.pth')
    with pytest.raises(ValueError, match='no state dict'):
        create_vision_model(tiny, 2, weights=tmp_path / 'list.pth')
    with pytest.raises(ValueError, match='no named weights'):
        create_vision_model(tiny, 2, weights='IMAGENET1K_V1')


def spoilt(kind: str, state: dict) -> dict:
    """A state dict with one value that no training makes: a convolution's weight, or a batch norm's variance."""
    name = next(name for name, value in state.items() if value.ndim == 4)
    w, var = state[name], next(name for name in state if name.endswith('running_var'))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # quantization and nesting say that they are going, or coming
        made = {
            'negative variance': lambda: (var, -torch.ones_like(state[var])),
            'NaN': lambda: (name, torch.full_like(w, torch.nan)),
            'infinite': lambda: (name, torch.full_like(w, torch.inf)),
            'int64': lambda: (name, torch.full(w.shape, 3)), 'int8': lambda: (name, w.to(torch.int8)),
            'bool': lambda: (name, w > 0), 'complex': lambda: (name, w.to(torch.complex64)),
            'float8': lambda: (name, w.to(torch.float8_e4m3fn)), 'half': lambda: (name, w.half()),
            'sparse': lambda: (name, w.to_sparse()), 'meta': lambda: (name, w.to('meta')),
            'quantized': lambda: (name, torch.quantize_per_tensor(w, .1, 0, torch.quint8)),
            'other shape': lambda: (name, w[:1])}[kind]()
    return {**state, made[0]: made[1]}


REFUSED = ('negative variance', 'int64', 'int8', 'bool', 'complex', 'sparse', 'meta', 'quantized', 'other shape')
TOLD, TAKEN = ('NaN', 'infinite', 'half'), ('float8',)
CONTAINERS = {
    'zip': lambda state, file: torch.save(state, file), 'wrapped': lambda state, file: torch.save(
        {'model': {f'module.{k}': v for k, v in state.items()}}, file),
    'old': lambda state, file: torch.save(state, file, _use_new_zipfile_serialization=False),
    'safetensors': lambda state, file: safetensors.torch.save_file(state, file)}


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('made, kind', [
    (lambda w: w.to_sparse(), 'sparse_coo'), (lambda w: w.to_sparse_csr(), 'sparse_csr'),
    (lambda w: w.to('meta'), 'meta'),
    (lambda w: torch.quantize_per_tensor(w, .1, 0, torch.quint8), 'quantized'),
    (lambda w: torch.nested.nested_tensor([w, w]), 'nested')], ids='coo csr meta quantized nested'.split())
def test_a_tensor_that_holds_no_plain_numbers_is_told_by_its_name_and_kind(made, kind):
    """Wherever in the file it is."""
    with pytest.raises(ValueError, match=f"^w.pth: 'a' is a {kind} tensor, which weights are not"):
        _checked_kinds({'model': {'b': torch.ones(2), 'a': made(torch.eye(3))}}, 'w.pth')


def doors():
    """Functions of a file that fill a model with it: of ours, of torchvision, of timm."""
    from minifast.vision.learner import unet_learner, vision_learner

    def data(n_in=3):
        pairs = [(torch.zeros(n_in, 32, 32), torch.tensor(0)), (torch.ones(n_in, 32, 32), torch.tensor(1))]
        return [torch.utils.data.DataLoader(pairs, batch_size=2) for _ in range(2)]

    def cached(file):
        where = cached_file(models.MobileNet_V3_Small_Weights.DEFAULT.url)
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_bytes(file.read_bytes())
        return create_body(models.mobilenet_v3_small)
    large, small = models.mobilenet_v3_small(weights=None).state_dict(), tiny().state_dict()
    loss = nn.CrossEntropyLoss()
    return {
        'own architecture': (small, lambda file: create_vision_model(tiny, 2, weights=file)),
        'other channels': (small, lambda file: create_vision_model(tiny, 2, weights=file, n_in=1)),
        'vision_learner': (small, lambda file: vision_learner(data(), tiny, n_out=2, weights=file,
                                                              loss_func=loss).model),
        'unet_learner': (small, lambda file: unet_learner(data(), tiny, n_out=2, weights=file, loss_func=loss).model),
        'a path as text': (small, lambda file: create_vision_model(tiny, 2, weights=str(file))),
        'cache': (large, cached)}


def with_timm():
    """The doors through timm: our argument, and those of `timm.create_model`."""
    import timm
    state = timm.create_model('test_resnet', num_classes=0).state_dict()
    configuration = timm.models.get_pretrained_cfg('test_resnet').to_dict()

    def made(**kwargs):
        return lambda file: create_timm_model('test_resnet', 2, **{
            k: v(file) if callable(v) else v for k, v in kwargs.items()})[0]
    return {
        'timm, weights': (state, made(weights=lambda file: file)),
        'timm, checkpoint_path': (state, made(pretrained=False, checkpoint_path=str)),
        'timm, overlay': (state, made(pretrained_cfg_overlay=lambda file: {'file': str(file), 'num_classes': 0})),
        'timm, url': (state, made(pretrained_cfg_overlay=lambda file: {
            'url': file.as_uri(), 'hf_hub_id': None, 'num_classes': 0})),
        'timm, configuration': (state, made(pretrained_cfg=lambda file: {
            **configuration, 'file': str(file), 'num_classes': 0}))}


@pytest.mark.tally
@pytest.mark.parametrize('container', [
    pytest.param(name, marks=pytest.mark.faults if name in ('wrapped', 'old') else ()) for name in CONTAINERS])
def test_values_of_a_weights_file_are_checked_at_every_door(tmp_path, torch_home, container, counted):
    """What no training makes is refused with the file's name, what is odd is named in a warning; good files fill."""
    held = total = 0
    suffix = 'safetensors' if container == 'safetensors' else 'pth'
    kinds = set(REFUSED + TOLD + TAKEN) - ({'sparse', 'meta', 'quantized'} if suffix == 'safetensors' else {'float8'})
    for door, (state, fill) in {**doors(), **with_timm()}.items():
        if (container, door) in (('safetensors', 'cache'), ('safetensors', 'timm, url'), ('wrapped', 'timm, url')):
            continue  # those files end in .pth, and timm takes its own as they are
        for kind in (None, *sorted(kinds - {'other shape'} if door == 'other channels' else kinds)):
            file, total = tmp_path / f'{total}.{suffix}', total + 1
            CONTAINERS[container](state if kind is None else spoilt(kind, state), file)
            name = cached_file(models.MobileNet_V3_Small_Weights.DEFAULT.url).name if door == 'cache' else file.name
            with warnings.catch_warnings(record=True) as found:
                warnings.simplefilter('always')
                if kind in REFUSED:
                    with pytest.raises((ValueError, RuntimeError), match=f'{name}|size mismatch'):
                        fill(file)
                else:
                    first = next(p for p in fill(file).parameters() if p.ndim == 4)
                    wanted = next(v for v in state.values() if v.ndim == 4)
                    assert kind or torch.equal(first, wanted if first.shape == wanted.shape else wanted.sum(1, True))
            assert any(name in str(w.message) for w in found) == (kind in TOLD), (door, kind)
            held += 1
            file.unlink()
    counted(held, total)


@pytest.mark.tally
@pytest.mark.parametrize('payload', ['system', 'exec', 'in a dict', 'protocol 4'])
def test_no_release_of_timm_unpickles(tmp_path, monkeypatch, torch_home, payload):
    """Whatever timm asks torch for, with `weights_only=False` too: data are read of a file, and nothing is run."""
    from tests.hostile.make import CONTAINERS as containers
    from tests.hostile.make import payloads
    marker, real = tmp_path / 'marker', torch.load

    class Old:
        """A release that reads its arguments as older ones do."""

        @staticmethod
        def create_model(name, **kwargs):
            assert torch.load is not real
            torch.load(kwargs['checkpoint_path'], map_location='cpu', weights_only=False)

    monkeypatch.setitem(sys.modules, 'timm', Old)
    for container, wrap in containers.items():
        file = tmp_path / f'{container}.pth'
        file.write_bytes(wrap(payloads(marker)[payload]))
        for given in (str(file), file):
            with pytest.raises(ValueError, match=f'{container}.pth'):
                create_timm_model('resnet10t', 2, checkpoint_path=given)
        with open(file, 'rb') as stream, pytest.raises(ValueError):
            create_timm_model('resnet10t', 2, checkpoint_path=stream)
        assert not marker.exists() and torch.load is real


def test_other_threads_read_as_they_did_while_timm_makes_a_model(tmp_path, monkeypatch):
    """The guard is for the thread that makes the model, and gone afterwards, after an error too."""
    from concurrent.futures import ThreadPoolExecutor

    from minifast.vision.models.weights import guarded_reads
    torch.save([1, 2], tmp_path / 'list.pth')
    with guarded_reads() as seen, ThreadPoolExecutor(1) as other:
        assert other.submit(torch.load, tmp_path / 'list.pth').result() == [1, 2]
        with pytest.raises(ValueError, match='no state dict'):
            torch.load(tmp_path / 'list.pth')
        torch.save({'a': torch.ones(1)}, tmp_path / 'state.pth')
        assert torch.load(tmp_path / 'state.pth')['a'] == 1 and list(seen) == [str(tmp_path / 'state.pth')]
    assert torch.load(tmp_path / 'list.pth') == [1, 2]


def test_weights_that_timm_does_not_know_by_name_are_a_file(tmp_path):
    """A text that is no path is answered with how timm names its weights."""
    with pytest.raises(ValueError, match='resnet10t.TAG'):
        create_timm_model('resnet10t', 2, weights='IMAGENET1K_V1')


@pytest.fixture
def torch_home(tmp_path, monkeypatch):
    """An empty cache of torch's, away from the user's own."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    return tmp_path / 'torch' / 'hub' / 'checkpoints'


def test_pretrained_comes_from_torchs_cache(torch_home):
    """A file under torchvision's name in torch's cache is what `pretrained=True` loads, whole and into a body."""
    from torchvision.models import ResNet18_Weights
    source = models.resnet18(weights=None)
    torch_home.mkdir(parents=True)
    torch.save(source.state_dict(), torch_home / 'resnet18-f37072fd.pth')
    for weights in (None, 'DEFAULT', 'IMAGENET1K_V1', 'ResNet18_Weights.IMAGENET1K_V1', ResNet18_Weights.DEFAULT):
        body = create_vision_model(models.resnet18, 2, weights=weights)[0]
        assert torch.equal(body[0].weight, source.conv1.weight)
        assert torch.equal(body[7][1].bn2.weight, source.layer4[1].bn2.weight)
    with pytest.raises(ValueError, match="did you mean 'IMAGENET1K_V1'"):
        create_vision_model(models.resnet18, 2, weights='IMAGENET1K_V2')
    with pytest.warns(UserWarning, match='although pretrained=False'):
        create_vision_model(models.resnet18, 2, pretrained=False, weights='DEFAULT')


def test_pretrained_without_network_says_which_file_goes_where(torch_home, monkeypatch):
    """With neither cache nor network the error names the file, its address, its place and the two other ways."""
    for name in ('http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY'):
        monkeypatch.setenv(name, 'http://127.0.0.1:9')  # nobody listens there
    with pytest.raises(FileNotFoundError) as seen:
        create_vision_model(models.resnet18, 2)
    words = str(seen.value)
    assert 'https://download.pytorch.org/models/resnet18-f37072fd.pth' in words
    assert str(torch_home / 'resnet18-f37072fd.pth') in words
    assert 'weights=FILE' in words and 'pretrained=False' in words
    assert not (torch_home / 'resnet18-f37072fd.pth').exists()
    with pytest.raises(FileNotFoundError, match='xrn50_940.pth'):
        models.xresnet.xresnet50(pretrained=True)
    with pytest.raises(ValueError, match='only for xresnet50'):
        xresnet18(pretrained=True)


def test_densenet_file_with_its_old_names(tmp_path):
    """torchvision's published densenet files spell `norm1` as `norm.1`; they fill the body all the same."""
    source = models.densenet121(weights=None)
    old = {k.replace('.norm1.', '.norm.1.').replace('.conv2.', '.conv.2.'): v for k, v in source.state_dict().items()}
    torch.save(old, tmp_path / 'densenet.pth')
    body = create_vision_model(models.densenet121, 2, weights=tmp_path / 'densenet.pth', custom_head=nn.Identity())[0]
    layer, wanted = body[0].denseblock1.denselayer2, source.features.denseblock1.denselayer2
    assert torch.equal(layer.conv2.weight, wanted.conv2.weight)


# ---------------------------------------------------------------- timm

def test_timm_absent_says_how_to_install(monkeypatch):
    """A string is timm's name; without timm the error tells the command, and torchvision's function of that name."""
    monkeypatch.setitem(__import__('sys').modules, 'timm', None)
    with pytest.raises(ImportError, match=r'pip install "minifast\[timm\]"; .*models.resnet18'):
        create_timm_model('resnet18', 2)


@pytest.mark.parametrize('pools', [True, False])
def test_timm_body_lets_the_head_pool_only_what_is_not_pooled(pools):
    """A timm model with a pool size gives feature maps, one without gives vectors."""
    model = nn.Linear(3, 4)
    model.default_cfg = {'pool_size': (7, 7) if pools else None}
    model.forward_features = lambda x: x[..., None, None]
    body = TimmBody(model)
    assert body(torch.zeros(2, 3)).shape == ((2, 3, 1, 1) if pools else (2, 4))


def test_a_timm_name_trains_and_its_export_is_built_again(tmp_path):
    """Any name of timm's makes a body that trains, exports and loads to the same prediction."""
    from minifast.learner import load_learner
    from minifast.vision.learner import vision_learner
    x, y = torch.rand(8, 3, 32, 32), torch.tensor([0, 1] * 4)
    loaders = [torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=4) for _ in range(2)]
    learn = vision_learner(loaders, 'resnet10t', n_out=2, pretrained=False, loss_func=torch.nn.CrossEntropyLoss(),
                           path=tmp_path)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
    expected, _ = learn.get_preds(dl=loaders[1])
    again, _ = load_learner(learn.export()).get_preds(dl=loaders[1])
    assert torch.equal(again, expected)


HEADS = [{}, {'lin_ftrs': [8, 6]}, {'lin_ftrs': []}, {'ps': [.1, .2]}, {'ps': .3}, {'first_bn': False},
         {'bn_final': True}, {'lin_first': True}, {'y_range': (0, 5)}, {'concat_pool': False}]


@pytest.mark.parametrize('kwargs', HEADS, ids=str)
@pytest.mark.parametrize('arch', [models.squeezenet1_1, 'test_resnet'], ids=['torchvision', 'timm'])
def test_settings_of_the_head_reach_it(arch, kwargs):
    """Whoever makes the model."""
    with torch.device('meta'):
        body, head = create_vision_model(arch, 7, pretrained=False, init=None, **kwargs)
        nf = next(o for o in head.modules() if isinstance(o, (nn.BatchNorm1d, nn.Linear)))
        nf = nf.in_features if isinstance(nf, nn.Linear) else nf.num_features
        nf = nf if kwargs.get('concat_pool') is False else nf // 2
        assert str(head) == str(create_head(nf, 7, **kwargs))


@pytest.mark.parametrize('arch', [models.squeezenet1_1, 'test_resnet'], ids=['torchvision', 'timm'])
def test_head_is_initialised_as_told_or_is_the_users(arch):
    """With the function, or left as torch makes it; a head of the user's takes the body's features as they are."""
    ones = [m for m in create_vision_model(arch, 7, pretrained=False, init=nn.init.ones_)[1].modules()
            if isinstance(m, nn.Linear)]
    assert ones and all(torch.equal(m.weight, torch.ones_like(m.weight)) for m in ones)
    own = [m for m in create_vision_model(arch, 7, pretrained=False, init=None)[1].modules()
           if isinstance(m, nn.Linear)]
    assert own and all(m.weight.abs().max() <= m.in_features ** -.5 for m in own)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = create_vision_model(arch, 7, pretrained=False, custom_head=head, n_in=1)
    assert model[1] is head and model.eval()(torch.zeros(1, 1, 64, 64)).ndim == 2


@pytest.mark.parametrize('arch', [models.resnet18, models.resnet50, models.densenet121], ids=lambda a: a.__name__)
def test_weights_by_any_of_their_names_and_others_are_refused_with_those_there_are(arch):
    """A member, its name with and without that of its class; torchvision's first ones where nothing is said."""
    enum = torchvision.models.get_model_weights(arch)
    for name, member in enum.__members__.items():
        assert named_weights(arch, name) is named_weights(arch, f'{enum.__name__}.{name}') is member
        assert named_weights(arch, member) is member
    assert named_weights(arch) is enum.IMAGENET1K_V1
    there = ', '.join(map(repr, enum.__members__))
    assert there.startswith("'IMAGENET1K_V1'")
    for wrong, text in (('IMAGENET1K_V9', f"there are no weights 'IMAGENET1K_V9' for {arch.__name__}"),
                        (3, f'weights=3 are not for {arch.__name__}: choose from {there}, or give the path of a file')):
        with pytest.raises(ValueError) as told:
            named_weights(arch, wrong)
        assert str(told.value).startswith(text)
        assert str(told.value).endswith(f'hoose from {there}, or give the path of a file')
    with pytest.raises(ValueError, match="did you mean 'IMAGENET1K_V1'"):
        named_weights(arch, 'IMAGENET1K_1')


def test_weights_are_fetched_once_into_torchs_cache_whether_or_not_its_folder_is_there(torch_home, tmp_path):
    """Checked by the digits of the hash in the name; a file of another hash is refused and not kept."""
    source = tmp_path / 'source'
    source.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=source)) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            for i in range(2):
                torch.save({'w': torch.full((2,), float(i))}, source / 'net.pth')
                digest = hashlib.sha256((source / 'net.pth').read_bytes()).hexdigest()
                file = (source / 'net.pth').rename(source / f'net{i}-{digest[:8]}.pth')
                url = f'http://127.0.0.1:{server.server_port}/{file.name}'
                assert fetch_weights(url)['w'].tolist() == [i, i]
                file.unlink()
                assert fetch_weights(url)['w'].tolist() == [i, i] and (torch_home / file.name).exists()
            torch.save({}, source / 'other-00000000.pth')
            with pytest.raises(WeightsNotFoundError, match='invalid hash'):
                fetch_weights(f'http://127.0.0.1:{server.server_port}/other-00000000.pth')
        finally:
            server.shutdown()
    assert len(list(torch_home.iterdir())) == 2


class Handed(TypedDict, total=False):
    low: float
    alone: int


def _source(n, low=0., high=1., other=2, alone=3, last=4):
    """It.

    Args:
        n: how many.
        low, high: bounds,
            both of them.
        other, last: nothing of ours.
        alone: by itself.
    """


@hands_on(_source, Handed)
def _door(n, **handed):
    """The door.

    Args:
        n: how many doors.
        **handed: of `_source`.
    """
    return n, handed


def test_a_function_that_hands_arguments_on_tells_their_words():
    """Those of each argument that it hands on, also where several share a line, and none of another's."""
    assert inspect.getdoc(_door).splitlines()[2:] == [
        'Args:', '    n: how many doors.', '    low, high: bounds,', '        both of them.', '    alone: by itself.']
    assert str(inspect.signature(_door)).replace("'", '') == '(n, *, low: float = 0.0, alone: int = 3)'
    assert _door(2, low=5.) == (2, {'low': 5.})
    with pytest.raises(TypeError, match='alone'):
        _door(2, alon=5)
