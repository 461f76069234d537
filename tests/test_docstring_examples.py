"""The examples of docstrings run, each by itself, in a folder that holds what their words take for granted."""
from __future__ import annotations

import doctest
import functools
import importlib
import json
import pkgutil
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import minifast
from minifast.vision import all as vision

NOT_HERE = {'plugins.load_plugin': 'needs an installed plugin', 'vision.utils.download_images': 'needs a network'}
MEASURED = {'run.history.History'}
"""Their numbers come from a training: another's are as good."""
MASKS = ['SegmentationDataLoaders', 'MaskBlock', 'unet_learner', 'SegmentationInterpretation']
"""Whose examples are about masks: `dls` and `learn` are of such there."""


DOORS = '''
Resize get_image_files Learner ImageDataLoaders error_rate DataBlock Callback vision_learner ImageBlock
RandomSplitter PILImage accuracy aug_transforms CategoryBlock load_learner Normalize parent_label unet_learner
RandomResizedCrop DataLoaders CrossEntropyLossFlat ClassificationInterpretation set_seed verify_images tensor
Adam TensorImage SaveModelCallback download_images IntToFloatTensor DataLoader ColReader TransformBlock
accuracy_multi Datasets show_image Recorder Flatten ToTensor GrandparentSplitter resize_images ranger Pipeline
LabelSmoothingCrossEntropy PILImageBW default_device MaskBlock SGD FuncSplitter IndexSplitter MSELossFlat Metric
get_grid MultiCategoryBlock PILMask Categorize FlipItem params Transform CancelFitException GradientAccumulation
to_detach CancelBatchException OptimWrapper TrackerCallback SegmentationDataLoaders RegexLabeller ConvLayer
Rotate create_head create_body RegressionBlock SigmoidRange TfmdLists slide valley top_k_accuracy TensorMask
SchedCos ColSplitter Zoom get_files ItemTransform ParamScheduler combine_scheds hook_outputs AccumMetric
CSVLogger RandomCrop flatten_check to_np BCEWithLogitsLossFlat LinBnDrop Dice DiceMulti Learner.fine_tune
DataBlock.dataloaders DataLoaders.show_batch Learner.predict PILImage.create Learner.fit_one_cycle
Learner.get_preds DataLoaders.test_dl Learner.export Learner.lr_find Learner.to_fp16 Learner.unfreeze
Learner.save Learner.load Learner.fit ImageDataLoaders.from_folder ClassificationInterpretation.from_learner
Learner.freeze ImageDataLoaders.from_df DataLoaders.one_batch Recorder.plot_loss ImageDataLoaders.from_name_func
Learner.validate Learner.tta PILMask.create Datasets.dataloaders DataBlock.datasets DataBlock.summary
SegmentationDataLoaders.from_label_func Learner.fit_flat_cos Learner.summary ImageDataLoaders.from_name_re
Learner.no_logging PILImageBW.create Recorder.plot_sched
'''.split()
"""What at least four of 337 surveyed scripts, notebooks and plugins call."""


class Checker(doctest.OutputChecker):
    """An example without an output shows a call, whose answer may be anything."""

    def __init__(self, measured=False):
        self.measured = measured

    def check_output(self, want, got, optionflags):
        if self.measured:
            want, got = (re.sub(r'\d+\.\d+', '0.0', text) for text in (want, got))
        return not want or super().check_output(want, got, optionflags)


def examples():
    """All examples of the package, by the name of what they belong to."""
    finder, found = doctest.DocTestFinder(exclude_empty=True), {}
    for room in pkgutil.walk_packages(minifast.__path__, 'minifast.'):
        if not room.name.endswith('__main__'):
            for test in finder.find(importlib.import_module(room.name)):
                if test.examples and test.name.removeprefix('minifast.') not in NOT_HERE:
                    found[test.name.removeprefix('minifast.')] = test
    return found


EXAMPLES = examples()


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """A `TORCH_HOME` with the files that torchvision would download: what is drawn by chance stands in."""
    from torchvision import models
    home = tmp_path_factory.mktemp('torch')
    (home / 'hub' / 'checkpoints').mkdir(parents=True)
    for arch in ('resnet18', 'resnet34'):
        file = models.get_model_weights(arch).DEFAULT.url.split('/')[-1]
        torch.save(models.get_model(arch).state_dict(), home / 'hub' / 'checkpoints' / file)
    return home


def pets(folder):
    """Pictures of cats and dogs, by name: cat/cat_0.jpg."""
    for name, colour in (('cat', 40), ('dog', 200)):
        (folder / name).mkdir(parents=True)
        for i in range(16):
            Image.new('RGB', (40 + i, 34), (colour, colour + i, colour - i)).save(folder / name / f'{name}_{i}.jpg')


def streets(folder):
    """Pictures and their masks, as CamVid names them."""
    for part in ('images', 'labels'):
        (folder / part).mkdir(parents=True)
    for i in range(8):
        mask = np.zeros((32, 40), np.uint8)
        mask[16:] = 1
        Image.fromarray(mask).save(folder / 'labels' / f'{i}_P.png')
        Image.fromarray(np.repeat(mask[..., None] * 200, 3, 2)).save(folder / 'images' / f'{i}.png')


@pytest.fixture
def given(request, tmp_path, monkeypatch, weights):
    """What examples take for granted: the public names, `path`, `files`, `dls`, `learn`, and files where they work."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('TORCH_HOME', str(weights))
    path, own = Path('data'), {'num_workers': 0, 'device': 'cpu'}
    if any(word in request.node.name for word in MASKS):
        streets(path)
        dls = vision.SegmentationDataLoaders.from_label_func(
            path, vision.get_image_files(path / 'images'), lambda file: path / 'labels' / f'{file.stem}_P.png',
            codes=['sky', 'road'], bs=2, **own)
        learn = vision.unet_learner(dls, vision.resnet18, pretrained=False)
    else:
        pets(path)
        shutil.copy(path / 'cat' / 'cat_0.jpg', 'cat.jpg')
        (path / 'train.json').write_text(json.dumps({
            'categories': [{'id': 1, 'name': 'cat'}], 'images': [{'id': 7, 'file_name': 'cat_0.jpg'}],
            'annotations': [{'image_id': 7, 'category_id': 1, 'bbox': [2, 3, 10, 12]}]}))
        dls = vision.ImageDataLoaders.from_folder(path, valid_pct=.5, seed=1, item_tfms=vision.Resize(32), bs=8, **own)
        learn = vision.vision_learner(dls, 'test_resnet', pretrained=False, metrics=vision.accuracy)  # timm's, tiny
    return {**vars(vision), 'path': path, 'files': vision.get_image_files(path), 'dls': dls, 'learn': learn}


@pytest.mark.parametrize('name', sorted(EXAMPLES))
def test_example_runs(name, given):
    """And answers as it says."""
    test, told = EXAMPLES[name], []
    room = {key: value for key, value in test.globs.items() if key != 'annotations'}  # a reader has not imported it
    test.globs = {**room, **given, '__name__': '__main__'}  # and what is defined there is the reader's
    runner = doctest.DocTestRunner(Checker(name in MEASURED), verbose=False,
                                   optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert not runner.run(test, out=told.append, clear_globs=False).failed, ''.join(told)


@pytest.mark.parametrize('name', DOORS)
def test_what_is_called_most_has_an_example(name):
    """In the reference a reader sees first how it is used."""
    found = functools.reduce(getattr, name.split('.'), vision)
    assert '>>> ' in found.__doc__
