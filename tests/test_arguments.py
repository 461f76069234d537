"""Laws of arguments: unknown keywords are refused with the nearest name, or told and left out where fastai passes over
them; a size has one meaning at every door that takes one, and words for what is none."""
from __future__ import annotations

import inspect
import pickle

import numpy as np
import pytest
import torch
from fastcore.foundation import L
from PIL import Image
from torch import nn

import minifast.vision.all as public
from minifast import arguments
from minifast.arguments import as_side, as_size, known_kwargs, tells_near_match
from minifast.callback.core import Callback
from minifast.callback.hook import dummy_eval
from minifast.data.core import DataLoaders, TfmdDL, WeightedDL
from minifast.data.load import DataLoader
from minifast.learner import Learner
from minifast.losses import CrossEntropyLossFlat
from minifast.markers import TensorImage
from minifast.test_utils import synth_learner
from minifast.vision.augment import (CropPad, Flip, OldRandomCrop, RandomCrop, RandomResizedCrop, RandomResizedCropGPU,
                                     RatioResize, Resize, Rotate, Zoom, aug_transforms)
from minifast.vision.models.unet import DynamicUnet
from minifast.vision.utils import resize_images, resize_to

PAIRS = [(torch.zeros(2), 0)] * 8

FUNCTIONS = """
CategoryBlock MultiCategoryBlock RegressionBlock MaskBlock BBoxLblBlock TransformBlock DataBlock TfmdLists
RandomSplitter RandomSubsetSplitter TrainTestSplitter EndSplitter GrandparentSplitter get_files
get_image_files FileGetter ImageGetter RegexLabeller ColReader AttrGetter
Resize RandomCrop CropPad RandomResizedCrop RandomResizedCropGPU RatioResize Flip DeterministicFlip
Dihedral Rotate Zoom Warp Brightness Contrast Saturation Hue RandomErasing aug_transforms AffineCoordTfm Normalize
IntToFloatTensor Categorize MultiCategorize PointScaler AddMaskCodes
Learner create_body create_head create_vision_model load_learner download_images untar_data
download_data
SaveModelCallback EarlyStoppingCallback ReduceLROnPlateau TerminateOnNaNCallback CSVLogger MixUp CutMix
GradientAccumulation GradientClip ShortEpochCallback WandbCallback TensorBoardCallback EMACallback
CheckpointCallback MixedPrecision
Precision Recall F1Score FBeta RocAuc CohenKappa Dice JaccardCoeff FocalLoss LabelSmoothingCrossEntropy

Adam SGD RMSProp RAdam Lamb Larc QHAdam ranger
""".split()
METHODS = {'Learner': 'fit fit_one_cycle fit_flat_cos fit_sgdr lr_find validate predict tta export save load',
           'DataBlock': 'new datasets from_columns', 'DataLoaders': 'add_tfms',
           'ClassificationInterpretation': 'from_learner most_confused',
           'Recorder': 'plot_loss plot_sched'}
DOORS = {**{name: getattr(public, name) for name in FUNCTIONS if hasattr(public, name)},
         **{f'{owner}.{name}': getattr(getattr(public, owner), name)
            for owner, names in METHODS.items() for name in names.split()}}


def _options(door) -> list[str]:
    """The keyword arguments that a door names."""
    parameters = inspect.signature(door).parameters.values()
    return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != 'self' and len(p.name) > 3]


@pytest.mark.parametrize('name', DOORS)
def test_misspelt_keyword_of_our_own_is_refused_with_the_one_that_was_meant(name):
    """Whatever else is missing in the call."""
    door = DOORS[name]
    option = max(_options(door), key=len)
    with pytest.raises(TypeError, match=f'unexpected keyword argument .*did you mean {option!r}'):
        door(**{f'{option}_': 1})


def test_doors_are_found():
    """Every name on the list is there."""
    assert [name for name in FUNCTIONS if not hasattr(public, name)] == []


def _loaders():
    return DataLoaders.from_dsets(PAIRS, PAIRS, bs=4, num_workers=0)


SWALLOWED = {
    'DataLoader': lambda **k: DataLoader(PAIRS, **k), 'TfmdDL': lambda **k: TfmdDL(PAIRS, **k),
    'WeightedDL': lambda **k: WeightedDL(PAIRS, wgts=[1] * 8, **k), 'new': lambda **k: _loaders().train.new(**k),
    'from_dsets': lambda **k: DataLoaders.from_dsets(PAIRS, PAIRS, bs=4, **k),
    'test_dl': lambda **k: _loaders().test_dl(PAIRS, **k),
    'block': lambda **k: public.DataBlock((public.TransformBlock, public.CategoryBlock), get_y=str).dataloaders(
        list('ababab'), **k),
    'from_dblock': lambda **k: DataLoaders.from_dblock(
        public.DataBlock((public.TransformBlock, public.CategoryBlock), get_y=str), list('ababab'), **k),
    'datasets': lambda **k: public.Datasets(list('abcd'), [[str]]).dataloaders(**k),
    'weighted': lambda **k: public.Datasets(list('abcd'), [[str]]).weighted_dataloaders([1] * 4, **k),
}


@pytest.mark.parametrize('door', SWALLOWED.values(), ids=SWALLOWED)
def test_keyword_that_fastai_passes_over_is_told_and_left_out(door):
    """The script runs on; the warning names the keyword and the nearest one and points at the script."""
    with pytest.warns(UserWarning, match="no keyword argument 'num_worker' .*did you mean 'num_workers'") as told:
        door(num_worker=3)
    assert len(told) == 1 and told[0].filename == __file__
    assert door(num_workers=0) is not None


def test_loader_class_of_the_users_own_gets_its_keywords():
    """Nothing is left out that it may take."""
    class Own(TfmdDL):
        def __init__(self, dataset=None, colour=None, **kwargs):
            self.colour = colour
            super().__init__(dataset, **kwargs)
    dsets = public.Datasets(list('abcd'), [[str]], splits=[[0, 1], [2, 3]])
    assert dsets.dataloaders(dl_type=Own, colour='red', num_workers=0).train.colour == 'red'
    assert DataLoaders.from_dsets(PAIRS, dl_type=Own, colour='red', num_workers=0).train.colour == 'red'


def test_what_is_meant_for_validation_goes_to_its_loaders():
    """`val_bs` and its kin, through every door that makes several loaders."""
    dls = DataLoaders.from_dsets(PAIRS, PAIRS, PAIRS, bs=4, val_bs=8, num_workers=0)
    assert [dl.bs for dl in dls] == [4, 8, 8] and [dl.shuffle for dl in dls] == [True, False, False]
    assert [dl.bs for dl in DataLoaders.from_dsets(PAIRS, PAIRS, bs=(2, 3), num_workers=0)] == [2, 3]
    dsets = public.Datasets(list('abcd'), [[str]], splits=[[0, 1], [2, 3]])
    for dls in (dsets.dataloaders(bs=1, val_bs=2, val_drop_last=True, num_workers=0),
                dsets.weighted_dataloaders([1, 1], bs=1, val_bs=2, val_drop_last=True, num_workers=0)):
        assert [dl.bs for dl in dls] == [1, 2] and dls.valid.drop_last


def test_decorated_function_is_what_it_was():
    """Signature, result and errors of its own."""
    @tells_near_match
    def door(first, second=2):
        """Adds."""
        return first + second
    assert list(inspect.signature(door).parameters) == ['first', 'second'] and door.__doc__ == 'Adds.'
    assert door(1) == 3 and door(first=1, second=1) == 2
    with pytest.raises(TypeError, match='missing 1 required'):
        door(second=1)
    with pytest.raises(TypeError, match='any keyword'):
        tells_near_match(lambda first, **rest: rest)


def test_hints_say_where_a_meaning_is_to_be_had():
    """For names that mean something elsewhere."""
    with pytest.warns(UserWarning, match=r'f\(\) takes no keyword argument .size. and leaves it out; ask Resize'):
        assert known_kwargs('f', {'size': 1, 'bs': 2}, ['bs'], {'size': 'ask Resize'}) == {'bs': 2}


@pytest.mark.filterwarnings('ignore:.*load_learner.file, model=')  # which is what the law is not about
def test_files_take_a_pickle_protocol_without_meaning(tmp_path):
    """Packages that publish models give one."""
    learn = Learner(_loaders(), nn.Linear(2, 2), loss_func=CrossEntropyLossFlat(), path=tmp_path)
    assert learn.export('a.pkl', pickle_protocol=4).read_bytes() == learn.export('b.pkl').read_bytes()
    assert learn.save('m', pickle_protocol=2).exists()


# ---------------------------------------------------------------- sizes

NO_SIZE = (('224', TypeError, 'the number, 224'), (b'16', TypeError, 'the number, 16'), ('big', TypeError, 'text'),
           (b'\xff', TypeError, 'text'), (True, TypeError, 'True'), (np.True_, TypeError, 'True'),
           (None, TypeError, 'None'), ({}, TypeError, '{}'),
           (0, ValueError, 'from 1 on'), (-16, ValueError, '-16'), (16.5, ValueError, 'whole'),
           (float('nan'), ValueError, 'nan'), (float('inf'), ValueError, 'inf'), (torch.tensor(-1), ValueError, '-1'))
SIZE_DOORS = {'Resize': Resize, 'RandomResizedCrop': RandomResizedCrop, 'CropPad': CropPad, 'RandomCrop': RandomCrop,
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


@pytest.mark.parametrize('door', SIZE_DOORS)
@pytest.mark.parametrize('size, error, words', NO_SIZE)
def test_what_is_no_size_is_refused_in_words(door, size, error, words):
    """Text, truth values, fractions and what is not above zero: named, with what is meant, before anything is made."""
    if size is None and door in MAY_BE_NONE:
        return
    for wrong in (size, (16, size)):
        with pytest.raises(error, match=words):
            SIZE_DOORS[door](wrong)


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


# ---------------------------------------------------------------- attributes that are looked for elsewhere

class OfClass(property):
    """A property of a class, as libraries have them: it is asked with the class."""

    def __get__(self, obj, owner=None):
        return self.fget(owner.__name__)


@pytest.mark.parametrize('of', [property, OfClass])
@pytest.mark.parametrize('base', [Callback, DataLoader, DataLoaders])
def test_a_property_that_fails_says_so_in_its_own_words(base, of):
    """On classes that pass attributes on, a property of any kind is not called missing where it raises."""
    class Mine(base):
        def __init__(self):
            """Nothing to look in."""

        @of
        def size(self):
            raise AttributeError(f'{self if isinstance(self, str) else "it"} knows no size yet')
    with pytest.raises(AttributeError, match='^(Mine|it) knows no size yet$'):
        Mine().size


# ---------------------------------------------------------------- attributes that are not there

def test_an_attribute_that_is_nowhere_names_the_nearest_one():
    """A learner's methods, what it hands on to its model, what is known of loaders only when they have it."""
    learn = synth_learner()
    for owner, name, nearest in ((learn, 'fit_one_cycel', 'fit_one_cycle'), (learn, 'recordr', 'recorder'),
                                 (learn.dls, 'vocb', 'vocab'), (learn.dls, 'one_bacth', 'one_batch'),
                                 (learn.recorder, 'plot_losss', 'plot_loss')):
        with pytest.raises(AttributeError, match=f"^'{name}' was found neither on .*, did you mean '{nearest}'\\?$"):
            getattr(owner, name)
    with pytest.raises(AttributeError, match="^'nothing_like_it' was found neither on Learner nor on RegModel$"):
        learn.nothing_like_it


def test_an_attribute_that_is_nowhere_is_told_by_other_processes_too():
    """The error goes from a worker to the one who waits for it with its words and its name."""
    with pytest.raises(AttributeError) as found:
        synth_learner().fit_one_cycel
    again = pickle.loads(pickle.dumps(found.value))
    assert str(again) == str(found.value) and found.value.name == 'fit_one_cycel'


def test_whether_an_attribute_is_there_is_asked_without_a_search(monkeypatch):
    """`hasattr` asks for many that are not."""
    def search(*args):
        raise AssertionError('searched')
    monkeypatch.setattr(arguments, 'near_match', search)
    assert not hasattr(synth_learner(), 'fit_one_cycel')


def test_the_check_of_arguments_is_not_seen_in_a_traceback():
    """IPython and pytest leave out frames that say so; a user's error shows the user's call and what it called."""
    @tells_near_match
    def fails(x):
        raise KeyError(x)
    with pytest.raises(KeyError) as caught:
        fails(x=1)
    frames, at = [], caught.value.__traceback__
    while at is not None:
        frames.append((at.tb_frame.f_code.co_name, '__tracebackhide__' in at.tb_frame.f_locals))
        at = at.tb_next
    assert frames[1:] == [('checked', True), ('fails', False)]
