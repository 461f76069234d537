"""Laws of exports: one file of data that predicts the same bits elsewhere, and from which no code ever runs."""
import contextlib
import json
import re
import resource
import subprocess
import sys
import textwrap
from collections import OrderedDict
from functools import partial
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import TensorDataset

from minifast import losses
from minifast.callback.core import Callback, CancelFitException
from minifast.callback.mixup import MixUp
from minifast.callback.progress import CSVLogger
from minifast.data.block import DataBlock, MultiCategoryBlock, RegressionBlock, TransformBlock
from minifast.data.core import DataLoaders, TfmdLists
from minifast.data.transforms import (IndexSplitter, IntToFloatTensor, Normalize, ToTensor, get_image_files,
                                      parent_label)
from minifast.describe import (_registered, build_kinds, build_loss, build_model, describe_kinds, describe_loss,
                               is_known_arch)
from minifast.learner import Learner, load_learner
from minifast.limits import EXPORT, json_schema
from minifast.markers import TensorImage, TensorMultiCategory
from minifast.tensorfile import DamagedFileError, UnsafeFileError, copied, read_tensors, write_atomic
from minifast.vision.augment import Resize, aug_transforms
from minifast.vision.core import PILImage, PILImageBW, imagenet_stats
from minifast.vision.data import (BBoxBlock, BBoxLblBlock, CategoryBlock, ImageBlock, ImageDataLoaders, MaskBlock,
                                  PointBlock)
from minifast.vision.learner import unet_learner, vision_learner
from minifast.vision.models.create import create_unet_model
from minifast.vision.models.tvm import resnet18
from minifast.vision.core import PointScaler, TensorPoint

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'tools'))

import make_schema  # noqa: E402


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    """Twelve pictures in the folders of two classes."""
    folder, draw = tmp_path_factory.mktemp('pictures'), np.random.RandomState(0)
    for label in ('cat', 'dog'):
        (folder / label).mkdir()
        for i in range(6):
            Image.fromarray(draw.randint(0, 255, (40, 36, 3), dtype=np.uint8)).save(folder / label / f'{i}.png')
    return folder


def loaders(folder, **kwargs):
    tfms = {'item_tfms': Resize(32), 'batch_tfms': [*aug_transforms(), Normalize.from_stats(*imagenet_stats)]}
    return ImageDataLoaders.from_folder(folder, valid_pct=0.3, seed=1, bs=4, num_workers=0, device='cpu',
                                        **{**tfms, **kwargs})


@pytest.fixture(scope='module')
def exported(pictures, tmp_path_factory):
    """A learner of pictures, and its export."""
    torch.manual_seed(0)
    learn = vision_learner(loaders(pictures), resnet18, pretrained=False, path=tmp_path_factory.mktemp('export'))
    learn.model.eval()
    return learn, learn.export()


class UserNet(nn.Module):
    """A model class that minifast does not know."""

    def __init__(self, n_out=2):
        super().__init__()
        self.layer = nn.Linear(4, n_out)

    def forward(self, x):
        return self.layer(x)


def plain_learner(loss_func=F.cross_entropy, **kwargs):
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(16, 4), torch.randint(0, 2, (16,)))
    dls = DataLoaders(TorchLoader(data, batch_size=8, shuffle=True), TorchLoader(data, batch_size=8))
    return Learner(dls, UserNet(), loss_func=loss_func, **kwargs)


# ---------------------------------------------------------------- the same predictions

def test_the_loaded_learner_predicts_the_same_bits(exported, pictures):
    """`predict`, `test_dl` and `get_preds` of the loaded learner equal the exported one's, classes included."""
    learn, file = exported
    assert file == learn.path / 'export.pkl'
    loaded = load_learner(file)
    for item in (pictures / 'cat' / '1.png', str(pictures / 'dog' / '2.png'),
                 np.asarray(Image.open(pictures / 'dog' / '3.png'))):
        ours, theirs = learn.predict(item), loaded.predict(item)
        assert ours[0] == theirs[0] and type(theirs[0]).__name__ == 'Category'
        assert torch.equal(ours[1], theirs[1]) and torch.equal(ours[2], theirs[2])
    files = get_image_files(pictures)
    assert torch.equal(learn.get_preds(dl=learn.dls.test_dl(files))[0],
                       loaded.get_preds(dl=loaded.dls.test_dl(files))[0])
    assert list(loaded.dls.vocab) == ['cat', 'dog'] and loaded.dls.c == 2 and len(loaded.dls.train_ds) == 0


@pytest.mark.filterwarnings('ignore:.*load_learner.file, model=')
def test_a_learner_on_samples_without_a_label_is_loaded_with_such_samples(pictures, tmp_path):
    """Pictures alone, of which a batch is a tensor and no tuple; so is the loaded learner's."""
    lists = TfmdLists(get_image_files(pictures), [PILImage.create], splits=[[0, 1, 2, 3], [4, 5]])
    dls = lists.dataloaders(bs=2, after_item=[Resize(8), ToTensor()], after_batch=[IntToFloatTensor()], num_workers=0)
    learn = Learner(dls, nn.Flatten(), loss_func=losses.MSELossFlat(), path=tmp_path)
    loaded = load_learner(learn.export(), model=nn.Flatten())
    batches = [o.dls.test_dl(lists.items[:2]).one_batch() for o in (learn, loaded)]
    assert all(type(b) is TensorImage and b.shape == (2, 3, 8, 8) for b in batches) and torch.equal(*batches)


def test_an_export_of_a_loaded_learner_is_the_same_export(exported, tmp_path):
    """Loading and exporting again changes nothing."""
    _, file = exported
    again = load_learner(file).export(tmp_path / 'again.pkl')
    first, second = (json.loads(read_tensors(f)['meta']) for f in (file, again))
    first.pop('made_with')
    second.pop('made_with')
    assert first == second


def test_settings_of_the_learner_come_back(pictures, tmp_path):
    """Both ends of a slice of rates, decay, momenta; whatever the model did before, the loaded one predicts."""
    for lr in (slice(1e-5, 1e-3), slice(None, 1e-3), .25):
        learn = vision_learner(loaders(pictures), resnet18, pretrained=False, path=tmp_path, lr=lr, wd=.125,
                               moms=(.9, .8, .85))
        learn.model.train()
        loaded = load_learner(learn.export())
        assert loaded.lr == lr and loaded.wd == .125 and tuple(loaded.moms) == (.9, .8, .85)
        assert not any(m.training for m in loaded.model.modules())


def test_a_vocab_of_the_user_comes_back(pictures, tmp_path):
    """Names that were set on the loaders, in place of those of the data."""
    learn = vision_learner(loaders(pictures), resnet18, pretrained=False, path=tmp_path)
    learn.dls.vocab = ['Felis', 'Canis']
    assert list(load_learner(learn.export()).dls.vocab) == ['Felis', 'Canis']


def test_an_export_loads_in_another_folder_and_process_without_the_script(exported, pictures, tmp_path):
    """A new process that knows nothing but the file predicts the same; nothing in the file tells where it was made."""
    learn, file = exported
    moved = tmp_path / 'moved.pkl'
    moved.write_bytes(file.read_bytes())
    assert str(pictures).encode() not in moved.read_bytes() and b'PosixPath' not in moved.read_bytes()
    script = textwrap.dedent('''
        import sys
        from minifast.learner import load_learner
        name, index, probs = load_learner(sys.argv[1]).predict(sys.argv[2])
        print(name, int(index), [p.hex() for p in probs.tolist()])
    ''')
    done = subprocess.run([sys.executable, '-c', script, moved, pictures / 'cat' / '0.png'], cwd=ROOT,
                          capture_output=True, text=True)
    name, index, probs = learn.predict(pictures / 'cat' / '0.png')
    assert done.stdout == f'{name} {int(index)} {[p.hex() for p in probs.tolist()]}\n', done.stderr


def test_a_unet_for_masks_comes_back(pictures, tmp_path):
    """A segmentation learner is rebuilt with its codes."""
    masks = tmp_path / 'masks'
    masks.mkdir()
    for file in get_image_files(pictures):
        Image.fromarray(np.zeros((40, 36), dtype=np.uint8)).save(masks / f'{file.parent.name}{file.name}')

    def mask_of(file):
        return masks / f'{file.parent.name}{file.name}'
    block = DataBlock(blocks=(ImageBlock, MaskBlock(['none', 'some'])), get_items=get_image_files, get_y=mask_of,
                      item_tfms=Resize(32))
    dls = block.dataloaders(pictures, bs=2, num_workers=0, device='cpu')
    learn = unet_learner(dls, resnet18, pretrained=False, path=tmp_path)
    learn.model.eval()
    loaded = load_learner(learn.export())
    file = pictures / 'cat' / '0.png'
    assert torch.equal(learn.predict(file)[2], loaded.predict(file)[2])
    assert list(loaded.dls.valid.after_item.vocab) == ['none', 'some']


class Linear(nn.Module):
    """One layer on all pixels; `n_out` numbers, or as many maps."""

    def __init__(self, n_out, n_in=3, maps=False):
        super().__init__()
        self.layer = nn.Conv2d(n_in, n_out, 1) if maps else nn.Sequential(nn.Flatten(), nn.Linear(n_in * 64, n_out))

    def forward(self, x):
        return self.layer(x)


def number_of(file):
    return int(file.stem) + (file.parent.name == 'dog')


def corners(file):
    return torch.tensor([[0., 0.], [36., 40.]])


BLOCKS = {  # blocks of the targets, how they are found, the model's arguments, the loss
    'points': ([PointBlock], corners, (4,), losses.MSELossFlat),
    'points, y first': ([TransformBlock(type_tfms=TensorPoint.create, item_tfms=PointScaler(y_first=True))], corners,
                        (4,), losses.MSELossFlat),
    'boxes': ([BBoxBlock], lambda file: [[0, 0, 20, 10]], (4,), losses.MSELossFlat),
    'boxes and labels': ([BBoxBlock, BBoxLblBlock], [lambda file: [[0, 0, 20, 10]], lambda file: ['a']], (4,),
                         losses.MSELossFlat),
    'boxes, labels known': ([BBoxBlock, BBoxLblBlock(vocab=['a', 'b'], add_na=False)],
                            [lambda file: [[0, 0, 20, 10]], lambda file: ['b']], (4,), losses.MSELossFlat),
    'categories': ([CategoryBlock(vocab=['dog', 'cat'], sort=False, add_na=True)], parent_label, (3,),
                   losses.CrossEntropyLossFlat),
    'several categories': ([MultiCategoryBlock], lambda file: list('abc'[:number_of(file) % 3 + 1]), (3,),
                           losses.BCEWithLogitsLossFlat),
    'encoded categories': ([MultiCategoryBlock(encoded=True, vocab=['a', 'b'])], lambda file: [1, 0], (2,),
                           losses.BCEWithLogitsLossFlat),
    'a number': ([RegressionBlock], lambda file: float(number_of(file)), (1,), losses.MSELossFlat),
    'numbers': ([RegressionBlock(n_out=2)], lambda file: [1., number_of(file)], (2,), losses.L1LossFlat),
    'grey': ([CategoryBlock], parent_label, (2, 1), losses.FocalLossFlat),
    'masks': ([MaskBlock], lambda file: np.zeros((40, 36), np.uint8), (2, 3, True),
              partial(losses.CrossEntropyLossFlat, axis=1)),
    'masks with names': ([MaskBlock(['x', 'y'])], lambda file: np.zeros((40, 36), np.uint8), (2, 3, True),
                         partial(losses.CrossEntropyLossFlat, axis=1)),
    'pictures': ([ImageBlock], None, (3, 3, True), losses.MSELossFlat)}


@pytest.mark.filterwarnings('ignore:.*load_learner.file, model=')  # which is what the law is not about
@pytest.mark.tally
@pytest.mark.parametrize('name', BLOCKS)
def test_a_learner_of_every_kind_of_target_comes_back(pictures, tmp_path, name):
    """Predictions, decoded batches, names, numbers of outputs and a second export are those of the exported one."""
    blocks, get_y, args, loss = BLOCKS[name]
    picture = ImageBlock(PILImageBW) if name == 'grey' else ImageBlock
    dls = DataBlock([picture, *blocks], get_items=get_image_files, get_y=get_y, n_inp=1, item_tfms=Resize(8, 'squish'),
                    splitter=IndexSplitter([0, 1])).dataloaders(pictures, bs=4, num_workers=0, device='cpu')
    learn = Learner(dls, Linear(*args), loss_func=loss(), path=tmp_path)
    learn.model.eval()
    loaded = load_learner(learn.export(), model=Linear(*args))
    file = pictures / 'cat' / '0.png'

    def said(one):
        if len(blocks) == 1:
            return repr(one.predict(file, with_input=True))
        return repr(one.get_preds(dl=one.dls.test_dl([file])))  # one answer for two targets is nothing to show
    assert said(learn) == said(loaded)
    batch = learn.dls.valid.one_batch()
    assert repr(learn.dls.valid.decode_batch(batch)) == repr(loaded.dls.valid.decode_batch(batch))
    for attribute in ('vocab', 'c'):
        ours, theirs = (getattr(one.dls, attribute, None) for one in (learn, loaded))
        assert (list(ours) == list(theirs)) if attribute == 'vocab' and ours is not None else ours == theirs
    loaded.export('again.pkl')
    again = load_learner(tmp_path / 'again.pkl', model=Linear(*args))
    assert said(again) == said(loaded)
    first, second = (meta_of(tmp_path / file) for file in ('export.pkl', 'again.pkl'))
    assert {**first, 'made_with': 0} == {**second, 'made_with': 0}


# ---------------------------------------------------------------- what is the user's own

def test_two_lambdas_are_told_apart_and_a_second_export_keeps_their_names(pictures, tmp_path):
    """Functions of one name are numbered in the order that the warning tells, and each goes back to its place."""
    block = DataBlock(blocks=(ImageBlock, CategoryBlock), get_items=get_image_files, get_x=lambda file: file,
                      get_y=lambda file: file.parent.name, item_tfms=Resize(8, 'squish'),
                      batch_tfms=[lambda x: x / 7 if x.is_floating_point() else x])
    dls = block.dataloaders(pictures, bs=4, num_workers=0, device='cpu')
    learn = Learner(dls, Linear(2), losses.CrossEntropyLossFlat(), path=tmp_path)
    learn.model.eval()
    with pytest.warns(UserWarning, match='load_learner') as told:
        file = learn.export()
    name = re.search(r"'([^']*<lambda>)': ", str(told[0].message))[1]
    assert f"'{name}#3': ..." in str(told[0].message) and f"'{name}#2'" not in str(told[0].message)
    item = pictures / 'cat' / '0.png'
    for _ in range(2):
        functions = {name: lambda file: file, f'{name}#3': lambda x: x / 7 if x.is_floating_point() else x}
        loaded = load_learner(file, model=Linear(2), functions=functions)
        assert torch.equal(loaded.predict(item)[2], learn.predict(item)[2])
        with pytest.warns(UserWarning, match='load_learner'):  # loaded without them and written again
            file = load_learner(file, model=Linear(2)).export(tmp_path / 'again.pkl')


@pytest.mark.filterwarnings('ignore:.*load_learner.file, model=')  # which is what the law is not about
def test_an_export_in_the_middle_of_a_fit_tells_the_loss_of_the_user(pictures, tmp_path):
    """MixUp stands in for the loss just then, and a wrapper for the model."""
    class Midway(Callback):
        order = 90

        def after_step(self):
            self.learn.model = nn.Sequential(self.learn.model)
            self.learn.export('within.pkl')
            self.learn.save('within')
            raise CancelFitException

    learn = Learner(loaders(pictures, item_tfms=Resize(8), batch_tfms=None), Linear(2),
                    losses.CrossEntropyLossFlat(weight=torch.tensor([1., 2.])), path=tmp_path)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, cbs=[MixUp(), Midway()])
    loaded = load_learner(tmp_path / 'within.pkl', model=Linear(2))
    assert type(loaded.loss_func) is losses.CrossEntropyLossFlat and loaded.loss_func.func.weight.tolist() == [1, 2]
    assert list(read_tensors(tmp_path / 'models' / 'within.pth')['model']) == list(Linear(2).state_dict())


def test_functions_of_the_user_are_named_and_never_needed_to_predict(pictures, tmp_path):
    """A lambda as label function and one as loss, a CSV log open: the export succeeds, loads and predicts."""
    block = DataBlock(blocks=(ImageBlock, CategoryBlock), get_items=get_image_files,
                      get_y=lambda file: file.parent.name, item_tfms=Resize(32))
    dls = block.dataloaders(pictures, bs=4, num_workers=0, device='cpu')
    learn = vision_learner(dls, resnet18, pretrained=False, path=tmp_path, cbs=CSVLogger,
                           loss_func=lambda pred, target: F.cross_entropy(pred, target))
    with learn.no_bar():
        learn.fit(1)
    with pytest.warns(UserWarning, match=r"to measure losses with it, load_learner\(file, functions={'.*<lambda>"):
        file = learn.export()
    loaded = load_learner(file)
    files = get_image_files(pictures)
    ours, theirs = (one.get_preds(dl=one.dls.test_dl(files))[0] for one in (learn, loaded))
    assert torch.equal(ours, theirs)
    with pytest.raises(NotImplementedError, match='lambda'):
        loaded.loss_func(torch.zeros(1, 2), torch.zeros(1))


def shout(file):
    """A function of the user's that predictions need."""
    return file


def test_a_function_that_predictions_need_is_asked_for_by_name(pictures, tmp_path):
    """`get_x` of the user's stands in the way until it is handed in."""
    block = DataBlock(blocks=(ImageBlock, CategoryBlock), get_items=get_image_files, get_x=shout, get_y=parent_label,
                      item_tfms=Resize(32))
    learn = vision_learner(block.dataloaders(pictures, bs=4, num_workers=0, device='cpu'), resnet18,
                           pretrained=False, path=tmp_path)
    learn.model.eval()
    item, name = pictures / 'cat' / '0.png', f'{__name__}.shout'
    with pytest.warns(UserWarning, match=rf"to predict with it, load_learner\(file, functions={{'{name}': ...}}\)"):
        file = learn.export()
    with pytest.raises(NotImplementedError, match=name):
        load_learner(file).predict(item)
    assert torch.equal(load_learner(file, functions={name: shout}).predict(item)[2], learn.predict(item)[2])


def test_a_model_class_of_the_user_is_asked_for_by_name(tmp_path):
    """`load_learner(file, model=...)` fills it, which the export says too; another model is refused."""
    learn = plain_learner(path=tmp_path)
    with pytest.warns(UserWarning, match=r'to predict with it, load_learner\(file, model=UserNet\(\.\.\.\)\)$') as told:
        file = learn.export()
    assert [warning.filename for warning in told] == [__file__]
    with pytest.raises(ValueError, match=r'UserNet.*model=UserNet\(\.\.\.\)'):
        load_learner(file)
    with pytest.raises(ValueError, match='another number of outputs'):
        load_learner(file, model=UserNet(3))
    loaded = load_learner(file, model=UserNet())
    x = torch.randn(1, 4)
    assert torch.equal(learn.model(x), loaded.model(x)) and loaded.loss_func is F.cross_entropy
    assert torch.equal(learn.predict(x[0])[2], loaded.predict(x[0])[2])


@pytest.mark.filterwarnings('ignore:.*load_learner.file, model=')  # which is what the law is not about
def test_a_changed_model_has_no_recipe(exported, tmp_path):
    """A layer changed by hand, even one without weights, is not what the recipe makes: the model is asked for."""
    learn = load_learner(exported[1])
    learn.model[1][-2] = nn.Dropout(0.1)
    with pytest.raises(ValueError, match='model='):
        load_learner(learn.export(tmp_path / 'a.pkl'))


def test_a_pickle_module_is_refused(exported):
    """The old argument is answered with the reason."""
    with pytest.raises(ValueError, match='no pickle'):
        load_learner(exported[1], pickle_module=json)


def test_kinds_of_a_batch_come_back_by_name_and_nothing_else_does():
    """Nested as they were; one of the user's is a plain tensor; other classes and names of ours are refused."""
    kinds = (TensorImage, (None, TensorMultiCategory))
    assert build_kinds(json.loads(json.dumps(describe_kinds(kinds))), 'file') == kinds
    assert build_kinds(['my.Marker', None], 'file') == (None, None)
    for name in ('minifast.vision.core.PILImage', 'minifast.markers.TensorNothing', 'minifast', ''):
        with pytest.raises(UnsafeFileError, match='file: .* is no kind of tensor'):
            build_kinds([name], 'file')


# ---------------------------------------------------------------- losses

@pytest.mark.parametrize('loss', [
    losses.CrossEntropyLossFlat(axis=1, weight=torch.tensor([1., 2.]), label_smoothing=0.1),
    losses.FocalLossFlat(gamma=3.), losses.LabelSmoothingCrossEntropyFlat(eps=0.2),
    losses.LabelSmoothingCrossEntropy(eps=0.3), losses.BCEWithLogitsLossFlat(thresh=0.7),
    losses.BCEWithLogitsLossFlat(pos_weight=torch.tensor([1., 2.])), losses.MSELossFlat(), losses.L1LossFlat(),
    losses.BCELossFlat(), losses.DiceLoss(smooth=1e-3), nn.CrossEntropyLoss(label_smoothing=0.2),
    nn.HuberLoss(delta=2.), F.cross_entropy, F.mse_loss],
                         ids=lambda loss: getattr(loss, '__name__', type(loss).__name__))
def test_a_loss_comes_back_with_its_settings(loss):
    """The same number, activation and decoding from the description, after a trip through JSON."""
    again = build_loss(json.loads(json.dumps(describe_loss(loss))), {}, 'file')
    pred = torch.rand(4, 2)
    target = torch.rand(4, 2) if 'BCE' in repr(loss) or 'MSE' in repr(loss) or 'L1' in repr(loss) or 'Huber' in repr(
        loss) or loss is F.mse_loss else torch.tensor([0, 1, 1, 0])
    if not isinstance(loss, losses.DiceLoss):
        assert torch.equal(loss(pred, target), again(pred, target))
    for name in ('activation', 'decodes'):
        assert hasattr(loss, name) == hasattr(again, name)
        if hasattr(loss, name):
            assert torch.equal(getattr(loss, name)(pred), getattr(again, name)(pred))


class CrossEntropyLoss(nn.CrossEntropyLoss):
    """The user's own, of the name of one of torch's."""

    def forward(self, pred, target):
        return 7 * super().forward(pred, target)


class FocalLoss(losses.FocalLoss):
    """The user's own, of the name of one of ours."""


@pytest.mark.parametrize('kind', [CrossEntropyLoss, FocalLoss])
def test_a_loss_of_the_users_that_bears_the_name_of_one_of_ours_is_the_users(kind):
    """Whoever loads the export has to hand it in."""
    assert describe_loss(kind())['user'].endswith(f'test_export.{kind.__name__}')



# ---------------------------------------------------------------- lies

def meta_of(file):
    return json.loads(read_tensors(file)['meta'])


def lie(kind, meta):
    """Change one thing in the description."""
    kwargs, data = meta['model']['recipe']['kwargs'], meta['data']
    {'builder': lambda: meta['model']['recipe'].update(builder='os.system'),
     'builder of minifast': lambda: meta['model']['recipe'].update(builder='minifast.data.external.untar_data'),
     'arch': lambda: kwargs.update(arch='os.system'),
     'arch url': lambda: kwargs.update(arch='hf-hub:someone/something'),
     'other arch': lambda: kwargs.update(arch='torchvision.models.resnet34'),
     'weights': lambda: kwargs.update(weights='https://example.com/x.pth'),
     'pretrained': lambda: kwargs.update(pretrained=True),
     'absurd size': lambda: kwargs.update(n_out=10 ** 12),
     'large size': lambda: kwargs.update(n_out=10 ** 6),
     'many layers': lambda: kwargs.update(lin_ftrs=[8] * 10 ** 5),
     'unknown argument': lambda: kwargs.update(evil=1),
     'text for a number': lambda: kwargs.update(ps='x'),
     'no recipe kwargs': lambda: meta['model'].update(recipe={'builder': 'x'}),
     'recipe a list': lambda: meta['model'].update(recipe=[1]),
     'loss': lambda: meta.update(loss={'class': 'os.system', 'kwargs': {'command': 'true'}}),
     'loss function': lambda: meta.update(loss={'function': 'torch.nn.functional.__builtins__'}),
     'loss of minifast': lambda: meta.update(loss={'class': 'minifast.losses.BaseLoss', 'kwargs': {'loss_cls': 'x'}}),
     'loss arguments': lambda: meta['loss'].update(kwargs={'weight': 'x', 'evil': 1}),
     'transform': lambda: data['after_item'].append({'class': 'os.system', 'kwargs': {}, 'order': 0,
                                                     'split_idx': None}),
     'no transform': lambda: data['after_item'].append({'class': 'minifast.learner.Learner', 'kwargs': {}, 'order': 0,
                                                        'split_idx': None}),
     'function': lambda: data['items'][0]['tfms'].append({'function': 'minifast.tensorfile.write_atomic',
                                                          'order': 0, 'split_idx': None}),
     'download': lambda: data['items'][0]['tfms'].append({'function': 'minifast.data.external.untar_data',
                                                          'order': 0, 'split_idx': None}),
     'hidden name': lambda: data['items'][0]['tfms'].append({'function': 'minifast.data.pipeline.importlib.reload',
                                                             'order': 0, 'split_idx': None}),
     'absurd picture': lambda: data['after_item'].append({'class': 'minifast.vision.augment.Resize',
                                                          'kwargs': {'size': 10 ** 9}, 'order': 0, 'split_idx': None}),
     'transforms a text': lambda: data.update(after_item='x'),
     'transform a number': lambda: data.update(after_item=[3]),
     'order': lambda: data['after_item'][0].update(order='x'),
     'items': lambda: data.update(items=[]),
     'items a number': lambda: data.update(items=[3]),
     'types': lambda: data['items'][0].update(types=[{}]),
     'kinds': lambda: data.update(kinds=['minifast.markers.torch']),
     'bs': lambda: data.update(bs=-1),
     'n_inp': lambda: data.update(n_inp='x'),
     'set by user': lambda: data.update(set_by_user={'__class__': 1}),
     'setting': lambda: meta['learner'].update(lr='x'),
     'unknown setting': lambda: meta['learner'].update(opt_func='os.system'),
     'no data': lambda: meta.pop('data'),
     'data a list': lambda: meta.update(data=[])}[kind]()


LIES = ('builder', 'builder of minifast', 'arch', 'arch url', 'other arch', 'weights', 'pretrained', 'absurd size',
        'large size', 'many layers', 'unknown argument', 'text for a number', 'no recipe kwargs',
        'recipe a list', 'loss', 'loss function', 'loss of minifast', 'loss arguments', 'transform', 'no transform',
        'function', 'download', 'hidden name', 'absurd picture', 'transforms a text', 'transform a number',
        'order', 'items', 'items a number', 'types', 'kinds', 'bs', 'n_inp', 'set by user', 'setting',
        'unknown setting', 'no data', 'data a list')


@pytest.mark.parametrize('kind', LIES)
def test_a_description_that_lies_is_refused(exported, tmp_path, kind):
    """Names outside of minifast, absurd sizes, wrong kinds: one clear error, before anything is made of them."""
    found = copied(read_tensors(exported[1]))
    meta = json.loads(found['meta'])
    lie(kind, meta)
    write_atomic(tmp_path / 'a.pkl', {**found, 'meta': json.dumps(meta)})
    with pytest.raises(UnsafeFileError, match='a.pkl'):
        load_learner(tmp_path / 'a.pkl')


@pytest.mark.tally
def test_no_name_in_a_description_makes_anything_be_imported(counted):
    """Every name in every place, in a fresh process where torchvision and timm are not loaded: refused (or, for what is
    the user's, a stand-in made), and `sys.modules` and `sys.meta_path` are what they were."""
    script = textwrap.dedent('''
        import sys
        import minifast.learner
        assert not {'torchvision', 'timm'} & set(sys.modules)
        from tests.hostile.names import try_names
        print(*try_names())
    ''')
    done = subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    held, total = map(int, done.stdout.split())
    counted(held, total)
    assert held == total > 900


def test_architectures_are_known_without_importing_them():
    """The names that are told by source are those that the packages have."""
    from minifast.vision.models import tvm, xresnet
    functions = {name for name in tvm.__all__ if not isinstance(getattr(tvm, name), type)}
    for name in tvm.__all__:
        assert is_known_arch(f'torchvision.models.{name}') == _registered('torchvision', name) == (name in functions)
    ours = [name for name in xresnet.__all__ if name not in ('XResNet', 'init_cnn')]
    assert len(ours) > 25 and all(is_known_arch(f'minifast.vision.models.xresnet.{name}') for name in ours)
    import timm
    for name in ('resnet10t', 'vit_base_patch16_224', 'vit_base_patch16_224.augreg_in21k', 'tf_efficientnet_b0_ap'):
        assert _registered('timm', name.partition('.')[0]) and (timm.is_model(name) or name == 'tf_efficientnet_b0_ap')
    for name in ('url', 'create_model', 'resnet', '', '_cfg', 'load_pretrained', 'ResNet', 'register_model'):
        assert not _registered('timm', name) and not is_known_arch(name)


MALFORMED = {
    'huge lr': lambda m: m['learner'].update(lr=10 ** 400),
    'infinite lr': lambda m: m['learner'].update(lr=1e400),
    'moms long': lambda m: m['learner'].update(moms=[.9] * 10 ** 4),
    'wd a flag': lambda m: m['learner'].update(wd=True),
    'huge order': lambda m: first_of(m).update(order=10 ** 400),
    'order of NaN': lambda m: first_of(m).update(order=float('nan')),
    'order a flag': lambda m: first_of(m).update(order=True),
    'no order': lambda m: first_of(m).pop('order'),
    'split_idx a list': lambda m: first_of(m).update(split_idx=[1]),
    'user a list': lambda m: first_of(m).update(user=[]),
    'kwargs a list': lambda m: first_of(m).update(kwargs=[1]),
    'kwargs a number': lambda m: first_of(m).update(kwargs=1),
    'transforms nested': lambda m: m['data'].update(after_item=[[m['data']['after_item']]]),
    'max_count': lambda m: m['data']['after_batch'].append({
        'class': 'minifast.vision.light_tfms.RandomErasing', 'kwargs': {'max_count': 10 ** 9}, 'order': 100,
        'split_idx': 0}),
    'vocab a number': lambda m: vocab_of(m, 3),
    'vocab nested': lambda m: vocab_of(m, [['a'], ['b']]),
    'vocab mixed': lambda m: vocab_of(m, ['a', 3], True),
    'loss of a list': lambda m: m.update(loss={'user': []}),
    'loss has 3': lambda m: m.update(loss={'user': 'x', 'has': 3}),
    'loss function a list': lambda m: m.update(loss={'function': []}),
    'loss class a number': lambda m: m.update(loss={'class': 3, 'kwargs': {}}),
    'loss nothing': lambda m: m.update(loss={}),
    'loss weight ragged': lambda m: m.update(loss=loss_with([[1], [1, 2]])),
    'loss weight huge': lambda m: m.update(loss=loss_with([10 ** 30])),
    'loss weight text': lambda m: m.update(loss=loss_with(['x'])),
    'loss weight deep': lambda m: m.update(loss=loss_with([[[[[[[[1]]]]]]]])),
    'loss weight none': lambda m: m.update(loss=loss_with(None)),
    'kinds deep': lambda m: m['data'].update(kinds=json.loads('[' * 900 + ']' * 900)),
    'kinds a number': lambda m: m['data'].update(kinds=3),
    'types a dict': lambda m: m['data']['items'][0].update(types={}),
    'types nested': lambda m: m['data']['items'][0].update(types=[[['str']]]),
    'bs a text': lambda m: m['data'].update(bs='4'), 'bs a flag': lambda m: m['data'].update(bs=True),
    'bs huge': lambda m: m['data'].update(bs=1 << 40),
    'more inputs than items': lambda m: m['data'].update(n_inp=7),
    'single a text': lambda m: m['data'].update(single='x'),
    'items 20': lambda m: m['data'].update(items=m['data']['items'] * 20),
    'c huge': lambda m: m['data']['set_by_user'].update(c=1 << 40),
    'own a list': lambda m: m['data'].update(set_by_user=[]), 'own none': lambda m: m['data'].pop('set_by_user'),
    'recipe a text': lambda m: m['model'].update(recipe='x'),
    'recipe false': lambda m: m['model'].update(recipe=False),
    'recipe empty': lambda m: m['model'].update(recipe={}),
    'kwargs of the recipe a list': lambda m: m['model']['recipe'].update(kwargs=[1]),
    'builder a list': lambda m: m['model']['recipe'].update(builder=[]),
    'no arch': lambda m: m['model']['recipe']['kwargs'].pop('arch')}


def first_of(meta):
    return meta['data']['after_item'][0]


def loss_with(weight):
    return {'class': 'minifast.losses.CrossEntropyLossFlat', 'kwargs': {'weight': {'tensor': weight}}}


def vocab_of(meta, vocab, sort=False):
    categorize = next(tfm for tfm in meta['data']['items'][1]['tfms'] if str(tfm.get('class')).endswith('Categorize'))
    categorize['kwargs'].update(vocab=vocab, sort=sort)


@pytest.mark.tally
@pytest.mark.parametrize('kind', MALFORMED)
def test_a_malformed_description_is_refused_and_nothing_else(exported, monkeypatch, kind):
    """Wrong kinds, numbers that are none, nesting: the one documented error, which names the file."""
    found = copied(read_tensors(exported[1]))
    meta = json.loads(found['meta'])
    MALFORMED[kind](meta)
    monkeypatch.setattr('minifast.export.read_tensors', lambda path: {**found, 'meta': json.dumps(meta)})
    with pytest.raises(UnsafeFileError, match='a.pkl'):
        load_learner('a.pkl')


@pytest.mark.tally
@pytest.mark.parametrize('text', [
    lambda t: t[:-1] + ', "learner": {}}', lambda t: t.replace('"order": 1', '"order": NaN'),
    lambda t: t.replace('"order": 1', '"order": -Infinity'), lambda t: t.replace('"order": 1', '"order": 1e999'),
    lambda t: t.replace('"order": 1', f'"order": {"9" * 5000}'),
    lambda t: t[:-1] + ', "x": [' + '[],' * 300_000 + '1]}',
    lambda t: t[:-1] + ', "x": ' + '[' * 40 + ']' * 40 + '}', lambda t: t[:-1] + ', "x": [' + '1,' * 5_000_000 + '1]}',
    lambda t: t[:-1] + ', "x": ' + '{"a":' * 3000 + '1' + '}' * 3000 + '}', lambda t: t[:50], lambda t: t + 'x'],
    ids=['twice', 'nan', 'infinity', 'beyond', 'digits', 'many lists', 'deep', 'many', 'deep dicts', 'cut', 'longer'])
def test_json_that_is_none_is_refused_and_nothing_else(exported, monkeypatch, text):
    """Names given twice, numbers that JSON does not know, more values than a description has."""
    found = copied(read_tensors(exported[1]))
    changed = text(found['meta'])
    assert changed != found['meta']
    monkeypatch.setattr('minifast.export.read_tensors', lambda path: {**found, 'meta': changed})
    with pytest.raises(UnsafeFileError, match='a.pkl'):
        load_learner('a.pkl')


@pytest.mark.tally
@pytest.mark.parametrize('size', [[1 << 20, 1 << 20], [1 << 20, 33], [4097, 1000], [640, 481], [129, 96]])
def test_a_unet_is_built_again_without_a_large_picture(tmp_path, size):
    """Whatever size a recipe tells, no layer sees more than a small picture; the layers are those of the size."""
    kwargs = dict(arch='torchvision.models.squeezenet1_1', pretrained=False, init=None, n_out=2, n_in=3)
    reference = create_unet_model(**kwargs, img_size=size if max(size) < 1000 else (64 + size[0] % 2, 64 + size[1] % 2))
    seen, forward = [], nn.Conv2d.forward

    def watched(self, x):
        if x.device.type != 'meta':
            seen.append(x.shape[-1] * x.shape[-2])
        return forward(self, x)
    nn.Conv2d.forward = watched
    try:
        recipe = {'builder': 'minifast.vision.learner.create_unet_model', 'kwargs': {**kwargs, 'img_size': size}}
        model = build_model(recipe, reference.state_dict(), 'file')
    finally:
        nn.Conv2d.forward = forward
    assert 0 < max(seen) <= 128 ** 2 and repr(model) == repr(reference)


@pytest.mark.tally
@pytest.mark.parametrize('kwargs', [{'lin_ftrs': [1 << 20] * 100}, {'n_out': 1 << 20}, {'n_in': 1 << 12},
                                    {'lin_ftrs': [1] * 100, 'n_out': 1 << 20}], ids=str)
def test_a_model_larger_than_its_file_takes_no_memory(kwargs):
    """The shapes are compared before a layer is made."""
    recipe = {'builder': 'minifast.vision.learner.create_vision_model', 'kwargs': {
        'arch': 'torchvision.models.squeezenet1_1', 'pretrained': False, 'init': None, 'n_out': 2, **kwargs}}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UnsafeFileError, match='not those of the model'):
        build_model(recipe, OrderedDict(w=torch.ones(1)), 'file')
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


def test_what_is_beyond_a_description_is_refused_when_it_is_written(pictures, tmp_path):
    """A size that no reader would take is told of at the export, and the old file stays."""
    learn = plain_learner(path=tmp_path)
    learn.dls = loaders(pictures, item_tfms=Resize(8200), batch_tfms=None)
    (tmp_path / 'export.pkl').write_bytes(b'old')
    with pytest.raises(ValueError, match='Resize.*cannot be exported.*8200'):
        learn.export()
    assert (tmp_path / 'export.pkl').read_bytes() == b'old'


@pytest.mark.filterwarnings('ignore:.*load_learner.file, model=')  # which is what the law is not about
def test_a_recipe_that_no_reader_takes_is_not_written(tmp_path):
    """An activation or a size that recipes do not have: the model is asked for, and what is given is filled."""
    pairs = [(torch.zeros(3, 8, 8), torch.zeros(8, 8).long())] * 2
    dls = DataLoaders(*[TorchLoader(pairs, batch_size=2) for _ in range(2)])
    for kwargs in ({'act_cls': nn.Identity}, {'y_range': (0, 1e40)}):
        learn = unet_learner(dls, resnet18, n_out=2, pretrained=False, loss_func=F.cross_entropy, path=tmp_path,
                             **kwargs)
        file = learn.export()
        assert meta_of(file)['model']['recipe'] is None
        with pytest.raises(ValueError, match='which is not made by minifast'):
            load_learner(file)


def test_what_is_the_users_is_still_so_in_the_export_of_an_export(pictures, tmp_path):
    """Names of functions and losses travel on, whether or not they were handed in meanwhile."""
    block = DataBlock(blocks=(ImageBlock, CategoryBlock), get_items=get_image_files, get_x=shout, get_y=parent_label,
                      item_tfms=Resize(32))
    dls = block.dataloaders(pictures, bs=4, num_workers=0, device='cpu')
    learn = Learner(dls, nn.Flatten(), loss_func=user_loss, path=tmp_path)
    with pytest.warns(UserWarning, match='test_export.shout.*test_export.user_loss'):
        first = learn.export()
    with pytest.warns(UserWarning, match='test_export.shout.*test_export.user_loss'):
        second = load_learner(first, model=nn.Flatten()).export(tmp_path / 'b.pkl')
    third = load_learner(second, model=nn.Flatten(), functions={f'{__name__}.shout': shout})
    assert meta_of(first)['data'] == meta_of(second)['data'] and meta_of(first)['loss'] == meta_of(second)['loss']
    assert third.dls.valid_ds is not None and f'{__name__}.user_loss' in repr(third.loss_func)


def user_loss(pred, target):
    return pred.sum()


@pytest.mark.parametrize('change, message', [
    (lambda f: f.update(format='x'), 'no export'), (lambda f: f.update(version=99), 'install a newer one'),
    (lambda f: f.update(meta='{'), 'malformed'), (lambda f: f.update(meta='[' * 100_000), 'malformed'),
    (lambda f: f.update(meta='{"a":' * 100_000), 'malformed'), (lambda f: f.update(meta='[]'), 'lacks'),
    (lambda f: f.update(meta=b'{}'), 'malformed'), (lambda f: f.update(model=[1]), 'holds no weights'),
    (lambda f: f.update(model=OrderedDict(w=torch.ones(1))), 'not those of the model'),
    (lambda f: f.update(model={**f['model'], '0.0.weight': torch.ones(3)}), 'not those of the model'),
    (lambda f: f.update(model={k: -v for k, v in f['model'].items()}), 'negative')],
    ids=['format', 'version', 'json', 'deep list', 'deep dict', 'no dict', 'bytes', 'no model', 'other weights',
         'shape', 'negative variance'])
def test_a_file_that_lies_is_refused(exported, tmp_path, change, message):
    """Wrong format, broken or endlessly nested JSON, other weights: one clear error."""
    found = copied(read_tensors(exported[1]))
    change(found)
    write_atomic(tmp_path / 'a.pkl', found)
    with pytest.raises(ValueError, match=message):
        load_learner(tmp_path / 'a.pkl')


def test_a_description_is_a_text_of_bounded_length(exported, monkeypatch):
    """64 MiB, as the format says; one letter more, or no text at all, is refused before it is looked into."""
    found = copied(read_tensors(exported[1]))
    full = found['meta'] + ' ' * ((64 << 20) - len(found['meta']))
    for meta, allowed in ((full, True), (full + ' ', False), (None, False), (3, False), (list(found['meta']), False)):
        monkeypatch.setattr('minifast.export.read_tensors', lambda path, meta=meta: {**found, 'meta': meta})
        with contextlib.nullcontext() if allowed else pytest.raises(UnsafeFileError, match='a.pkl.*is malformed'):
            load_learner('a.pkl')


def test_a_damaged_export_is_refused(exported, tmp_path):
    """A flipped bit is noticed."""
    data = bytearray(exported[1].read_bytes())
    data[len(data) // 2] ^= 4
    (tmp_path / 'a.pkl').write_bytes(data)
    with pytest.raises(DamagedFileError, match='a.pkl'):
        load_learner(tmp_path / 'a.pkl')


@pytest.mark.filterwarnings('ignore:.*load_learner.file, model=')  # which is what the law is not about
def test_the_published_schema_is_that_of_the_table_and_every_export_fits_it(exported, pictures, tmp_path):
    """Each name that the schema tells is written by some export, and none besides."""
    published = make_schema.FILE.read_text(encoding='utf-8')
    assert published == make_schema.text(json_schema()) + '\n', 'run: make generated'
    schema = json.loads(published)
    check = jsonschema.Draft202012Validator(schema)
    check.check_schema(schema)
    named = vision_learner(loaders(pictures, item_tfms=[Resize(32), shout]), resnet18, pretrained=False, path=tmp_path)
    with pytest.warns(UserWarning, match='test_export.shout'):
        metas = [meta_of(file) for file in (exported[1], plain_learner(path=tmp_path).export(), named.export('n.pkl'))]
    for meta in metas:
        check.validate(meta)
        assert set(meta) == set(schema['properties'])
    for part in ('model', 'data', 'learner'):
        assert {name for meta in metas for name in meta[part]} == set(schema['properties'][part]['properties'])


BEYOND_A_SCHEMA = {  # names that there are not, one thing by another, areas, depths
    'arch', 'arch url', 'other arch', 'loss', 'loss function', 'loss of minifast', 'transform', 'no transform',
    'function', 'download', 'hidden name', 'large size', 'kinds', 'more inputs than items', 'vocab nested',
    'vocab mixed', 'vocab a number', 'loss weight ragged', 'loss weight text', 'loss weight none', 'loss weight deep',
    'loss weight huge', 'loss arguments'}
NOT_FOR_A_SCHEMA = {'order of NaN', 'kinds deep'}  # no JSON, and deeper than the package `jsonschema` can go


@pytest.mark.parametrize('kind', sorted({*LIES, *MALFORMED} - NOT_FOR_A_SCHEMA))
def test_the_schema_tells_other_readers_what_ours_refuses(exported, kind):
    """An implementation of the standard and the table agree about every hostile description, up to what no schema can
    say."""
    meta = meta_of(exported[1])
    if kind in LIES:
        lie(kind, meta)
    else:
        MALFORMED[kind](meta)
    theirs = jsonschema.Draft202012Validator(json_schema()).is_valid(meta)
    if kind in BEYOND_A_SCHEMA:
        assert theirs
        return
    assert not theirs
    with pytest.raises(ValueError):
        EXPORT.check(meta, '')


# ---------------------------------------------------------------- without minifast

@pytest.mark.tally
def test_to_torch_gives_the_probabilities_of_predict(exported, pictures):
    """A plain module of bytes or floats in, probabilities out, within 1e-5 of `predict`."""
    learn, _ = exported
    module = learn.to_torch()
    file = pictures / 'cat' / '0.png'
    pixels = learn.dls.test_dl([file]).dataset[0][0]
    picture = Resize(32)(pixels, split_idx=1)
    x = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
    torch.testing.assert_close(module(x)[0], learn.predict(file)[2], atol=1e-5, rtol=0)
    torch.testing.assert_close(module(x.float() / 255)[0], learn.predict(file)[2], atol=1e-5, rtol=0)
    raw = learn.to_torch(activation=False)(x)
    assert not torch.allclose(raw, module(x)) and torch.allclose(raw.softmax(-1), module(x), atol=1e-5)


@pytest.mark.tally
def test_an_exported_program_runs_where_minifast_cannot_be_imported(exported, tmp_path):
    """`torch.export` of it, loaded in a process that has no minifast, gives the same probabilities."""
    module, x = exported[0].to_torch(), torch.rand(2, 3, 32, 32)
    torch.export.save(torch.export.export(module, (x,)), tmp_path / 'model.pt2')
    torch.save(x, tmp_path / 'x.pth')
    script = textwrap.dedent(f'''
        import sys
        sys.modules['minifast'] = None
        import torch
        program = torch.export.load({str(tmp_path / "model.pt2")!r}).module()
        torch.save(program(torch.load({str(tmp_path / "x.pth")!r})), {str(tmp_path / "y.pth")!r})
    ''')
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(torch.load(tmp_path / 'y.pth'), module(x), atol=1e-5, rtol=0)


@pytest.mark.tally
@pytest.mark.filterwarnings('ignore::DeprecationWarning', 'ignore::FutureWarning', 'ignore::UserWarning')
def test_an_onnx_file_predicts_what_the_learner_predicts(tmp_path):
    """Normalize, model and activation in one file, equal to get_preds within 1e-5 without minifast."""
    import onnxruntime as runtime
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    from minifast.learner import Learner
    from minifast.losses import CrossEntropyLossFlat
    torch.manual_seed(0)
    x, y = torch.rand(6, 3, 16, 16), torch.tensor([0, 1, 2] * 2)
    loaders = [DataLoader(TensorDataset(x, y), batch_size=3) for _ in range(2)]
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 3))
    learn = Learner(loaders, model, CrossEntropyLossFlat(), path=tmp_path)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
    session = runtime.InferenceSession(str(learn.to_onnx('model.onnx')))
    found = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    torch.testing.assert_close(found, learn.get_preds()[0], rtol=0, atol=1e-5)
    learn.model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    session = runtime.InferenceSession(str(learn.to_onnx('raw.onnx', size=(3, 9, 11), activation=False)))
    x = torch.rand(2, 3, 9, 11)
    found = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    torch.testing.assert_close(found, learn.model(x).detach(), rtol=0, atol=1e-5)
