"""Names that a description might tell, and all places where it may tell one."""
import json
import sys

from torch import nn

from minifast import export
from minifast.learner import load_learner
from minifast.tensorfile import UnsafeFileError

NAMES = ('minifast.as_fastai', 'minifast.as_fastai.Anything', 'minifast.__main__', 'minifast.__main__.main',
         'minifast.vision.widgets.ImagesCleaner', 'minifast.vision.all.Resize', 'minifast.cli.main',
         'minifast.data.load.os.system', 'minifast.data.external.urllib.request.urlopen', 'minifast.markers.Learner',
         'minifast.vision.core.ImagesCleaner', 'minifast.vision.core.PILImage.open', 'minifast.losses.Learner',
         'minifast.losses.functools.partial', 'torch.nn.quantized', 'torch.nn.functional.torch.hub.load',
         'torch.hub.load', 'torch.onnx.export', 'torch._dynamo.x', 'torchvision.models.resnet81',
         'torchvision.models.ResNet18_Weights', 'torchvision.models.get_model', 'torchvision.datasets.utils.x',
         'minifast.vision.models.xresnet.XResNet', 'minifast.vision.models.create.importlib', 'timm',
         'timm.create_model', 'timm.models.resnet.resnet18',
         'os.system', 'antigravity', 'this', 'hf-hub:a/b', 'local-dir:/tmp/x', '../x',
         'url', 'a' * 5000, '\x1b[2J', '', 3, [], {'a': 1})


def places(name):
    """A description for each place where a name may stand; which of them are those of the user's, that may be any."""
    tfm, order = {'order': 0, 'split_idx': None}, {'kwargs': {}, 'order': 0, 'split_idx': None}
    data = {'set_by_user': {}, 'bs': 2, 'n_inp': 1, 'items': [{'tfms': [], 'types': None}]}
    whole = {'model': {'class': 'x', 'recipe': None}, 'loss': {'class': 'minifast.losses.MSELossFlat', 'kwargs': {}},
             'learner': {}, 'data': data}
    kwargs = {'arch': 'torchvision.models.resnet18', 'pretrained': False, 'init': None, 'n_out': 2}
    for kind in ('class', 'function'):
        for stage in ('after_item', 'before_batch', 'after_batch'):
            yield f'{kind} in {stage}', False, {**whole, 'data': {**data, stage: [{kind: name, **order}]}}
        yield f'{kind} of an item', False, {**whole, 'data': {**data, 'items': [{'tfms': [{kind: name, **order}]}]}}
        parts = {'class': 'minifast.vision.batch_tfms.Flip', 'parts': [{kind: name, 'kwargs': {}}] * 2, **tfm}
        yield f'{kind} in parts', False, {**whole, 'data': {**data, 'after_batch': [parts]}}
        yield f'loss {kind}', False, {**whole, 'loss': {kind: name, 'kwargs': {}}}
    opened = {'class': 'minifast.vision.core.OpenImage', 'kwargs': {'kind': name}, **tfm}
    yield 'kind of picture', False, {**whole, 'data': {**data, 'after_item': [opened]}}
    for key in ('builder', 'arch', 'act_cls', 'norm_type', 'padding_mode', 'custom_head', 'init', 'weights'):
        given = {**kwargs, key: name, 'img_size': [64, 64]}
        recipe = {'builder': 'minifast.vision.learner.create_unet_model', 'kwargs': given}
        recipe = recipe if key != 'builder' else {'builder': name, 'kwargs': kwargs}
        yield key, False, {**whole, 'model': {'class': 'x', 'recipe': recipe}}
    yield 'setting', False, {**whole, 'learner': {'opt_func': name}}
    yield 'name of a setting', False, {**whole, 'learner': {str(name): 1}}
    yield 'user', True, {**whole, 'data': {**data, 'after_item': [{'user': name, **tfm}]}}
    yield 'user loss', True, {**whole, 'loss': {'user': name, 'has': []}}
    yield 'kinds', True, {**whole, 'data': {**data, 'kinds': [name]}}
    yield 'types', True, {**whole, 'data': {**data, 'items': [{'tfms': [], 'types': [name]}]}}
    yield 'class of the model', True, {**whole, 'model': {'class': name, 'recipe': None}}


def try_names():
    """In a process that knows `load_learner` only: tries all names in all places; returns how many of how many held."""
    held, total = 0, 0
    model, state = nn.Linear(1, 1), nn.Linear(1, 1).state_dict()
    for name in NAMES:
        for place, free, meta in places(name):
            found = {'format': 'minifast-export', 'version': 1, 'meta': json.dumps(meta), 'model': state}
            export.read_tensors = lambda path, found=found: found
            before, finders = set(sys.modules), list(sys.meta_path)
            total += 1
            try:
                load_learner('some.pkl', model=None if meta['model']['recipe'] else model)
                assert free, (place, name)
            except UnsafeFileError as error:
                said = str(error)
                assert 'some.pkl' in said and said.isprintable() and len(said) < 600, (place, said)
            assert set(sys.modules) == before and sys.meta_path == finders, (place, name, set(sys.modules) - before)
            held += 1
    return held, total
