"""`vision_learner` and `unet_learner`: what they build, freeze, normalize and keep, on our data and plain loaders."""
from __future__ import annotations

import json
import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from small_learner import pictures
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from minifast.callback.core import Callback
from minifast.callback.fp16 import MixedPrecision
from minifast.callback.tracking import settings_of
from minifast.interpret import ClassificationInterpretation, SegmentationInterpretation
from minifast.layers import NormType
from minifast.learner import Learner, load_learner
from minifast.losses import CrossEntropyLossFlat
from minifast.metrics import accuracy
from minifast.vision import learner as room
from minifast.vision.augment import Resize, aug_transforms
from minifast.vision.core import PILImage, imagenet_stats
from minifast.vision.data import ImageDataLoaders, SegmentationDataLoaders
from minifast.vision.learner import (cnn_learner, create_head, create_unet_model, create_vision_model, unet_learner,
                                     vision_learner)
from minifast.vision.models import resnet18
from minifast.vision.models.xresnet import xresnet18

NAMES = ('blue', 'green', 'red')


def tiny(pretrained: bool = False) -> nn.Module:
    """A small architecture of the user's own."""
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
                         nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(8, 5))


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """Noisy pictures of one colour each, in a folder a class; beside each a mask file of two halves."""
    root, noise = tmp_path_factory.mktemp('colours'), np.random.default_rng(0)
    for channel, name in enumerate(reversed(NAMES)):
        (root / 'images' / name).mkdir(parents=True)
        for i in range(8):
            pixels = noise.integers(0, 90, (16, 16, 3), dtype=np.uint8)
            pixels[..., channel] += 120
            Image.fromarray(pixels).save(root / 'images' / name / f'{i}.png')
    (root / 'masks').mkdir()
    for i in range(8):
        Image.fromarray(np.repeat(np.uint8([0, 1]), 8)[None].repeat(16, 0)).save(root / 'masks' / f'{i}.png')
    return root


@pytest.fixture
def dls(folder):
    """The folder as loaders."""
    return ImageDataLoaders.from_folder(folder / 'images', valid_pct=0.25, seed=1, bs=6, num_workers=0,
                                        batch_tfms=aug_transforms(size=16))


def plain_loaders(n: int = 12) -> tuple[DataLoader, DataLoader]:
    data = TensorDataset(torch.randn(n, 3, 32, 32), torch.arange(n) % 3)
    return DataLoader(data, batch_size=4, shuffle=True), DataLoader(data, batch_size=4)


def normalizers(dls) -> list:
    return [tfm for tfm in dls.after_batch.fs if type(tfm).__name__ == 'Normalize']


# ---------------------------------------------------------------- building

def test_vision_learner_freezes_a_pretrained_body_and_trains_the_head_and_batchnorm(dls, tmp_path):
    """Pretrained: only the head and the body's norms take gradients; from scratch: everything."""
    torch.save(xresnet18().state_dict(), tmp_path / 'w.pth')
    learn = vision_learner(dls, xresnet18, weights=tmp_path / 'w.pth', loss_func=CrossEntropyLossFlat())
    body, head = learn.model
    assert not any(p.requires_grad for m in body.modules() if isinstance(m, nn.Conv2d) for p in m.parameters())
    assert all(p.requires_grad for m in body.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters())
    assert all(p.requires_grad for p in head.parameters()) and len(learn.opt.param_lists) == 3
    learn.unfreeze()
    assert all(p.requires_grad for p in learn.model.parameters())
    scratch = vision_learner(dls, xresnet18, pretrained=False)
    assert scratch.opt is None and all(p.requires_grad for p in scratch.model.parameters())


def test_vision_learner_normalizes_once_and_only_what_is_pretrained(dls, folder, tmp_path):
    """ImageNet statistics are appended for pretrained bodies, not twice, not from scratch, not if not wanted."""
    torch.save(xresnet18().state_dict(), tmp_path / 'w.pth')
    vision_learner(dls, xresnet18, pretrained=False)
    vision_learner(dls, xresnet18, weights=tmp_path / 'w.pth', normalize=False)
    vision_learner(dls, xresnet18, weights=tmp_path / 'w.pth', n_in=1)
    assert not normalizers(dls)
    for _ in range(2):
        vision_learner(dls, xresnet18, weights=tmp_path / 'w.pth')
    found, = normalizers(dls)
    assert found.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


def test_vision_learner_keeps_its_arguments_where_trackers_read_them(dls):
    """`arch n_out normalize pretrained` are attributes of the learner."""
    learn = vision_learner(dls, tiny, pretrained=False, normalize=False)
    assert (learn.arch, learn.n_out, learn.normalize, learn.pretrained) == (tiny, 3, False, False)


def test_vision_learner_head_arguments_reach_the_head(dls):
    """Every argument of `create_head` may be given."""
    learn = vision_learner(dls, tiny, pretrained=False, lin_ftrs=[6], ps=0.1, concat_pool=False, bn_final=True,
                           y_range=(0, 1), n_out=2)
    wanted = create_head(8, 2, lin_ftrs=[6], ps=0.1, concat_pool=False, bn_final=True, y_range=(0, 1))
    assert str(learn.model[1]) == str(wanted)
    own = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    assert vision_learner(dls, tiny, pretrained=False, custom_head=own).model[1] is own


def test_vision_learner_number_of_outputs_comes_from_the_data_or_is_asked_for(dls):
    """Classes are counted; plain loaders do not tell, and the error says what to do."""
    assert vision_learner(dls, tiny, pretrained=False).model[1][-1].out_features == 3
    with pytest.raises(ValueError, match='pass n_out='):
        vision_learner(plain_loaders(), tiny, pretrained=False)


def test_vision_learner_misspelt_argument_names_the_near_match(dls):
    """A misspelt argument is an error in both builders."""
    with pytest.raises(TypeError, match="did you mean 'pretrained'"):
        vision_learner(dls, tiny, pretraind=False)
    with pytest.raises(TypeError, match="did you mean 'self_attention'"):
        unet_learner(dls, resnet18, pretrained=False, n_out=2, self_atention=True)


def test_vision_learner_warns_under_its_old_name(dls):
    """`cnn_learner` builds the same and says what it is called now."""
    with pytest.warns(UserWarning, match='vision_learner'):
        assert cnn_learner(dls, tiny, pretrained=False).n_out == 3


def test_vision_learner_without_weights_and_network_says_what_is_missing(dls, tmp_path, monkeypatch):
    """No cache, no network: file, address, place and the other ways, within seconds; nothing is left in the data."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    for name in ('http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY'):
        monkeypatch.setenv(name, 'http://127.0.0.1:9')  # nobody listens there
    with pytest.raises(room.WeightsNotFoundError, match=r'resnet18-f37072fd\.pth.*weights=FILE.*pretrained=False'):
        vision_learner(dls, resnet18)
    with pytest.raises(room.WeightsNotFoundError, match=r'resnet18-f37072fd\.pth'):
        room.create_body(resnet18)
    assert not normalizers(dls)


def test_vision_learner_recipe_rebuilds_the_model(dls):
    """The recipe is JSON and leads to a model that takes the weights; own code has none."""
    learn = vision_learner(dls, xresnet18, pretrained=False, ps=0.2, y_range=(0, 1))
    recipe = json.loads(json.dumps(learn.recipe))
    module, _, name = recipe['builder'].rpartition('.')
    assert module == room.__name__
    getattr(room, name)(**recipe['kwargs']).load_state_dict(learn.model.state_dict())
    assert vision_learner(dls, tiny, pretrained=False).recipe is None
    assert vision_learner(dls, xresnet18, pretrained=False, custom_head=nn.Flatten()).recipe is None


@pytest.mark.parametrize('name', 'model_meta create_body create_head default_split has_pool_type TimmBody add_head '
                                 'create_vision_model create_timm_model create_unet_model cut_model'.split())
def test_vision_learner_room_hands_out_the_builders(name):
    """Old imports find the builders in this room."""
    assert hasattr(room, name)


def test_vision_learner_on_plain_torch_loaders_trains_and_predicts():
    """A pair of plain loaders is data enough."""
    learn = vision_learner(plain_loaders(), tiny, n_out=3, pretrained=False, loss_func=nn.CrossEntropyLoss())
    learn.fit(1)
    preds, targets = learn.get_preds()
    assert preds.shape == (12, 3) and targets.shape == (12,)
    assert learn.predict(torch.randn(3, 32, 32))[2].shape == (3,)
    assert 'Conv2d' in str(learn.summary())


# ---------------------------------------------------------------- the whole path on pictures

@pytest.fixture(scope='module')
def trained(folder):
    """A small model that has learnt the three colours."""
    torch.manual_seed(0)
    dls = ImageDataLoaders.from_folder(folder / 'images', valid_pct=0.25, seed=1, bs=6, num_workers=0)
    learn = vision_learner(dls, tiny, pretrained=False, metrics=accuracy, ps=0.)
    learn.fit_one_cycle(6, 2e-2)
    return learn


def test_trained_learner_predicts_colours_from_every_kind_of_item(trained, folder):
    """Path, text, bytes, picture and array of one file give (name, index, probabilities), the same each time."""
    file = folder / 'images' / 'red' / '0.png'
    assert trained.validate()[1] > 0.8
    name, idx, probs = trained.predict(file)
    assert str(name) == 'red' and int(idx) == 2 and probs.argmax() == 2 and probs.sum() == pytest.approx(1)
    for item in (str(file), file.read_bytes(), PILImage.create(file), np.asarray(Image.open(file))):
        again = trained.predict(item)
        assert str(again[0]) == 'red'
        torch.testing.assert_close(again[2], probs)
    picture, *_ = trained.predict(file, with_input=True)
    assert picture.shape[-2:] == (16, 16)


def test_trained_learner_test_dl_with_and_without_labels(trained, folder):
    """Targets are None where the test loader has no labels."""
    files = sorted((folder / 'images').rglob('*.png'))[:5]
    preds, targets = trained.get_preds(dl=trained.dls.test_dl(files))
    assert targets is None and preds.shape == (5, 3)
    labelled, targets = trained.get_preds(dl=trained.dls.test_dl(files, with_labels=True))
    torch.testing.assert_close(labelled, preds)
    assert targets.tolist() == [0] * 5


def test_trained_learner_shuffled_loader_comes_back_in_order(trained):
    """The training loader shuffles and drops its last batch: all items come back in the dataset's order."""
    preds, targets = trained.get_preds(ds_idx=0)
    assert targets.tolist() == [int(y) for _, y in trained.dls.train_ds]
    shuffled, again = trained.get_preds(dl=trained.dls.train.new(shuffle=True, drop_last=False))
    assert torch.equal(targets, again)
    torch.testing.assert_close(shuffled, preds)


def test_tta_averages_augmented_predictions(trained, folder):
    """beta=1 is the plain prediction, beta=0 the augmented mean; None gives both; the data come back as they were."""
    plain, targets = trained.get_preds()
    torch.testing.assert_close(trained.tta(beta=1., n=2)[0], plain)
    augmented, again = trained.tta(beta=None, n=3)[0]
    torch.testing.assert_close(again, plain)
    mixed, tta_targets = trained.tta(n=3)
    torch.testing.assert_close(mixed, torch.lerp(augmented, plain, 0.25))
    assert torch.equal(tta_targets, targets)
    assert (trained.tta(n=2, use_max=True)[0] >= plain - 1e-6).all()
    torch.testing.assert_close(trained.get_preds()[0], plain)


def test_tta_augments_differently_each_time(trained, folder):
    """Each of the n passes draws its own augmentation, and the whole is repeatable."""
    tfms = [Resize(16), *aug_transforms(max_rotate=45, p_affine=1.)]
    dls = ImageDataLoaders.from_folder(folder / 'images', valid_pct=0.25, seed=1, bs=6, num_workers=0,
                                       item_tfms=tfms[:1], batch_tfms=tfms[1:])
    learn = vision_learner(dls, tiny, pretrained=False, ps=0.)
    learn.model.load_state_dict(trained.model.state_dict())
    one, _ = learn.tta(n=1, beta=None)[0]
    two, plain = learn.tta(n=2, beta=None)[0]
    assert not torch.equal(one, plain) and not torch.equal(one, two)
    assert torch.equal(learn.tta(n=2, beta=None)[0][0], two)


def test_show_results_titles_target_and_prediction(trained):
    """Each picture carries its target and the prediction."""
    trained.show_results(max_n=4)
    titles = [ax.get_title() for ax in plt.gcf().axes if ax.get_title()]
    assert len(titles) == 4 and all(len(title.split('\n')) == 2 for title in titles)


def test_a_learner_says_in_a_sentence_what_it_is(trained):
    """Architecture, size, classes, epochs of the last fit, device; it never raises."""
    assert re.fullmatch(r'Learner: \w+, [\d.,]+( M)? parameters, \d+ classes, \d+ epochs? in the last fit, cpu',
                        repr(trained))
    large = vision_learner(trained.dls, resnet18, pretrained=False)
    n = sum(p.numel() for p in large.model.parameters())
    assert repr(large) == f'Learner: resnet18, {n / 1e6:.1f} M parameters, {len(NAMES)} classes, no fit yet, cpu'
    assert repr(Learner.__new__(Learner)).startswith('<minifast.learner.Learner object at')


def test_summary_ends_with_the_settings(trained):
    """Layers, counts, optimizer, loss and callbacks."""
    text = str(trained.summary())
    n = sum(p.numel() for p in trained.model.parameters())
    assert f'Total params: {n:,}' in text and 'Optimizer used' in text and 'Model unfrozen' in text


def test_interpretation_of_pictures(trained):
    """Classes by name, the worst pictures drawn under prediction, target, loss and probability."""
    interp = ClassificationInterpretation.from_learner(trained)
    assert list(interp.vocab) == list(NAMES)
    assert interp.confusion_matrix().sum() == len(trained.dls.valid_ds)
    interp.plot_top_losses(3)
    titles = [ax.get_title() for ax in plt.gcf().axes if ax.get_title()]
    assert len(titles) == 3 and all(title.split('/')[1].strip() in NAMES for title in titles)
    losses, _, items = interp.top_losses(2, items=True)
    assert len(losses) == len(items) == 2 and Path(items[0]).suffix == '.png'
    interp.show_results([0, 1])
    interp.show_results([0, 1], nrows=2, figsize=(3, 5))
    assert plt.gcf().axes[0].get_subplotspec().get_gridspec().get_geometry() == (2, 1)
    assert tuple(plt.gcf().get_size_inches()) == (3, 5)
    _, _, _, decoded, _ = interp[[0, 1]]
    assert [ax.get_title().split('\n')[1] for ax in plt.gcf().axes] == [NAMES[i] for i in decoded]


# ---------------------------------------------------------------- segmentation

@pytest.fixture
def masks(folder):
    """Pictures with masks of two halves."""
    files = sorted((folder / 'images' / 'red').glob('*.png'))
    return SegmentationDataLoaders.from_label_func(folder, files, lambda f: folder / 'masks' / f.name,
                                                   codes=['left', 'right'], bs=4, valid_pct=0.25, seed=0, num_workers=0)


def test_unet_learner_is_laid_out_for_the_pictures(masks, tmp_path):
    """Classes from the codes, size from a batch, the body frozen where it is pretrained; it trains and interprets."""
    torch.save(xresnet18().state_dict(), tmp_path / 'w.pth')
    learn = unet_learner(masks, xresnet18, weights=tmp_path / 'w.pth', blur=True)
    assert learn.n_out == 2 and len(learn.opt.param_lists) == 3 and learn.blur
    assert not learn.model.layers[0][0][0].weight.requires_grad
    assert learn.recipe['kwargs']['img_size'] == [16, 16]
    learn.fit(1)
    preds, targets, decoded = learn.get_preds(with_decoded=True)
    assert preds.shape == (2, 2, 16, 16) and targets.shape == decoded.shape == (2, 16, 16)
    torch.testing.assert_close(preds.sum(1), torch.ones(2, 16, 16))
    interp = SegmentationInterpretation.from_learner(learn)
    interp.plot_top_losses(2)
    assert [ax.get_title().split(';')[0] for ax in plt.gcf().axes] == ['input', 'target', 'pred'] * 2
    learn.show_results(max_n=2)


def test_unet_learner_normalizes_as_its_pretrained_body_knows_it(masks, tmp_path):
    """Unless it is told not to, by `normalize=False`."""
    torch.save(xresnet18().state_dict(), tmp_path / 'w.pth')
    plain = masks.valid.one_batch()[0]
    unet_learner(masks, xresnet18, weights=tmp_path / 'w.pth', normalize=False)
    assert torch.equal(masks.valid.one_batch()[0], plain)
    unet_learner(masks, xresnet18, weights=tmp_path / 'w.pth')
    mean, std = (torch.tensor(v)[:, None, None] for v in imagenet_stats)
    torch.testing.assert_close(masks.valid.one_batch()[0].as_subclass(torch.Tensor),
                               (plain.as_subclass(torch.Tensor) - mean) / std)


@pytest.mark.parametrize('kwargs', [
    dict(n_in=1, cut=-5, last_cross=False, norm_type=NormType.Weight), dict(bottle=True, init=None),
    dict(blur=True, blur_final=False, y_range=(0, 1), act_cls=nn.GELU)])
def test_unet_learner_hands_the_arguments_of_the_model_on(masks, kwargs):
    """Its model is the one that `create_unet_model` makes of them, to the bit, and no other."""
    models = []
    for given in (kwargs, {}):
        torch.manual_seed(0)
        models.append(unet_learner(masks, xresnet18, pretrained=False, **given).model)
        torch.manual_seed(0)
        models.append(create_unet_model(xresnet18, 2, (16, 16), pretrained=False, **given))
    learnt, made, plain, _ = ({name: value for name, value in m.state_dict().items()} for m in models)
    assert repr(models[0]) == repr(models[1]) and all(torch.equal(learnt[name], made[name]) for name in made)
    assert repr(models[0]) != repr(models[2]) or any(not torch.equal(learnt[name], plain[name]) for name in plain)


def test_unet_learner_config_is_the_old_way(masks):
    """`config=` still works, with a warning."""
    with pytest.warns(UserWarning, match='config=') as told:
        learn = unet_learner(masks, xresnet18, pretrained=False, config={'self_attention': True})
    assert any(type(m).__name__ == 'SelfAttention' for m in learn.model.modules())
    assert told[0].filename == __file__


@pytest.mark.parametrize('normalize', (True, False))
def test_settings_of_a_vision_learner_say_what_it_was_made_of(dls, normalize):
    """For services that log: architecture, outputs, whether pretrained, whether normalized."""
    own = settings_of(vision_learner(dls, tiny, pretrained=False, n_out=5, normalize=normalize))['Learner']
    assert (own['n_out'], own['pretrained'], own['normalize']) == (5, False, normalize) and 'tiny' in own['arch']


def test_create_vision_model_is_the_room_s_builder():
    """The builder in this room is the one of the models."""
    from minifast.vision.models import create
    assert create_vision_model is create.create_vision_model


@pytest.mark.parametrize('train_bn', (True, False))
def test_frozen_body_takes_part_in_autograd_only_for_the_batchnorm_that_is_trained(dls, train_bn):
    """Below the cut no convolution has a gradient; without trained BatchNorm nothing there is recorded at all."""
    learn = vision_learner(dls, tiny, pretrained=False, train_bn=train_bn)
    learn.freeze()
    recorded, gradients = [], []
    hook = learn.model[0].register_forward_hook(lambda module, x, features: recorded.append(features.requires_grad))
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, cbs=Callback(after_backward=lambda self: gradients.append(
            {type(m) for m in self.model[0].modules() for p in m.parameters(recurse=False) if p.grad is not None})))
    hook.remove()
    trained = recorded[:len(gradients)]
    assert trained and set(trained) == {train_bn}
    assert all(kinds == ({nn.BatchNorm2d} if train_bn else set()) for kinds in gradients)


@pytest.mark.filterwarnings('ignore:.*load_learner.file, model=')  # which is what the law is not about
def test_compiled_learner_freezes_searches_saves_and_exports_as_an_uncompiled_one(dls, tmp_path):
    """`learn.compile()` changes speed only: the same losses through freeze, lr_find and unfreeze, the same names in
    files, and an export that loads without it. The backend traces as inductor does and needs no C compiler."""
    def train(compiled: bool):
        torch.manual_seed(0)
        learn = vision_learner(dls, tiny, pretrained=False, metrics=accuracy, path=tmp_path)
        learn.remove_cb(learn.progress)
        learn.logger = lambda row: None
        if compiled:
            assert learn.compile(backend='aot_eager') is learn
        learn.freeze()
        learn.fit(1)
        learn.lr_find(num_it=3, show_plot=False)
        learn.unfreeze()
        learn.fit(1)
        return learn

    plain, compiled = train(False), train(True)
    assert torch._dynamo.utils.counters['stats']['unique_graphs'] > 0
    for name, expected in plain.model.state_dict().items():
        torch.testing.assert_close(compiled.model.state_dict()[name], expected, atol=1e-4, rtol=1e-3)
    item = dls.valid_ds.items[0]
    expected = compiled.predict(item)[2]
    compiled.save('compiled')
    torch.testing.assert_close(plain.load('compiled').predict(item)[2], expected)
    exported = load_learner(compiled.export('compiled.pkl'), model=train(False).model)
    torch.testing.assert_close(exported.predict(item)[2], expected)


@pytest.mark.parametrize('precision', ['auto', 'bf16', 'fp16', 'fp32'])
def test_what_is_added_for_the_precision_comes_before_the_users_callbacks(precision, tmp_path):
    """`learn.cbs[-1]` is theirs; a precision of their own takes the place of ours."""
    dls = pictures(tmp_path).dls
    for make in (vision_learner, unet_learner):
        own = Callback()
        learn = make(dls, xresnet18, n_out=2, pretrained=False, cbs=own, precision=precision)
        assert learn.cbs[-1] is own and len(learn._grab_cbs(MixedPrecision)) == (precision != 'fp32')
        half = MixedPrecision('bf16')
        learn = make(dls, xresnet18, n_out=2, pretrained=False, cbs=[own, half], precision=precision)
        assert list(learn._grab_cbs(MixedPrecision)) == [half] and list(learn.cbs[-2:]) == [own, half]
        assert list(learn.to_fp32().cbs[-1:]) == [own]
