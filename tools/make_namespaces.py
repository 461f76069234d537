"""Writes the namespace modules: what `from minifast.vision.all import *` and its kin give, as explicit import lists.

The lists are made from the rooms' `__all__`, so a name is made public in one place only. Run `make namespaces` after a
public name came or went; tests/test_namespaces.py fails while a list is out of date and says so.
"""
from __future__ import annotations

import ast
import re
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 120


class Namespace(NamedTuple):
    """One generated module: its first line, the namespaces it includes whole, its rooms, and imports from elsewhere."""

    doc: str
    includes: list[str]
    rooms: list[str]
    foreign: dict[str, str] = {}


TORCH = {
    'torch': 'torch nn Tensor as_tensor ByteTensor DoubleTensor FloatTensor HalfTensor LongTensor',
    'torch.nn': 'functional as F',
    'torch.utils.data': 'BatchSampler IterableDataset RandomSampler Sampler SequentialSampler default_collate '
                        'default_convert get_worker_info',
}
TORCHVISION = {
    'torchvision.models': 'AlexNet ConvNeXt DenseNet EfficientNet GoogLeNet GoogLeNetOutputs Inception3 '
                          'InceptionOutputs MaxVit MNASNet MobileNetV2 MobileNetV3 RegNet ResNet ShuffleNetV2 '
                          'SqueezeNet SwinTransformer VGG VisionTransformer '
                          'alexnet convnext_base convnext_large convnext_small convnext_tiny densenet121 densenet161 '
                          'densenet169 densenet201 efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 '
                          'efficientnet_b4 efficientnet_b5 efficientnet_b6 efficientnet_b7 efficientnet_v2_l '
                          'efficientnet_v2_m efficientnet_v2_s googlenet inception_v3 maxvit_t mnasnet0_5 mnasnet0_75 '
                          'mnasnet1_0 mnasnet1_3 mobilenet_v2 mobilenet_v3_large mobilenet_v3_small regnet_x_16gf '
                          'regnet_x_1_6gf regnet_x_32gf regnet_x_3_2gf regnet_x_400mf regnet_x_800mf regnet_x_8gf '
                          'regnet_y_128gf regnet_y_16gf regnet_y_1_6gf regnet_y_32gf regnet_y_3_2gf regnet_y_400mf '
                          'regnet_y_800mf regnet_y_8gf resnet101 resnet152 resnet18 resnet34 resnet50 resnext101_32x8d '
                          'resnext101_64x4d resnext50_32x4d shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 '
                          'shufflenet_v2_x2_0 squeezenet1_0 squeezenet1_1 swin_b swin_s swin_t swin_v2_b swin_v2_s '
                          'swin_v2_t vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn vit_b_16 vit_b_32 '
                          'vit_h_14 vit_l_16 vit_l_32 wide_resnet101_2 wide_resnet50_2',
    'PIL': 'Image',
    'minifast.vision': 'models',
}

NAMESPACES = {
    'torch_basics': Namespace(
        'Standard library, fastcore and torch names, with our tensors, layers and losses.', ['imports'],
        ['arguments', 'torch_core', 'markers', 'seeds', 'show', 'layers', 'losses'], TORCH),
    'data/all': Namespace(
        'All of the data rooms: from items to loaders.', ['torch_basics'],
        ['data/sampler', 'data/pipeline', 'data/transforms', 'data/load', 'data/core', 'data/block', 'data/external']),
    'basics': Namespace(
        'All that trains a model, without pictures: `from minifast.basics import *`.', ['data/all'],
        ['optimizer', 'metrics', 'callback/core', 'callback/recorder', 'checkpoint', 'inference', 'interpret',
         'learner']),
    'callback/all': Namespace('All callbacks.', [], ['callback/*']),
    'vision/all': Namespace(
        'All of minifast for pictures: `from minifast.vision.all import *`.', ['basics', 'callback/all'],
        # the rooms below augment are its parts: what scripts use of them it hands on
        ['distributed', 'vision/core', 'vision/augment', 'vision/data', 'vision/utils', 'vision/learner',
         'vision/models/*'], TORCHVISION),
}


def room_files(rooms: list[str]) -> list[Path]:
    """The files of the named rooms; `*` stands for all files of a folder, a folder's name for its own `__init__.py`."""
    files: list[Path] = []
    for room in rooms:
        folder = ROOT / 'minifast' / room / '__init__.py'
        found = [folder] if folder.exists() else sorted((ROOT / 'minifast').glob(f'{room}.py'))
        files += [f for f in found if (f == folder or f.stem not in ('__init__', 'all')) and f not in files]
    return files


def public_names(file: Path) -> list[str]:
    """The names in the `__all__` of a room, without those that only plugins import by their private names.

    Raises:
        SystemExit: the room has no `__all__` written out as a list of strings.
    """
    for node in ast.parse(file.read_text(encoding='utf-8')).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', None) == '__all__':
            names = [name for name in ast.literal_eval(node.value) if not name.startswith('_')]
            return sorted(names, key=lambda name: (name.lower(), name))
    raise SystemExit(f'{file.relative_to(ROOT)} has no __all__: list its public names there')


def module_name(file: Path) -> str:
    """`minifast/data/core.py` -> `minifast.data.core`, `minifast/layers/__init__.py` -> `minifast.layers`."""
    return '.'.join(file.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')


def _import(module: str, names: list[str]) -> str:
    line = f'from {module} import {", ".join(names)}'
    if len(line) <= WIDTH:
        return line
    body = textwrap.wrap(', '.join(names), WIDTH - 6, break_long_words=False)
    return f'from {module} import (\n    ' + '\n    '.join(body) + ',\n)'


def foreign_imports(foreign: dict[str, str]) -> dict[str, list[str]]:
    """`{'torch.nn': 'functional as F'}` -> `{'torch.nn': ['functional as F']}`."""
    return {module: re.findall(r'\w+ as \w+|\w+', names) for module, names in foreign.items()}


def source_of(name: str) -> str:
    """The text of one namespace module.

    A name that two rooms hand out (one re-exports the other's) is imported from the first of them.
    """
    space = NAMESPACES[name]
    imports, own = [], []
    for module, names in foreign_imports(space.foreign).items():
        if names[:1] == [module]:
            imports.append(f'import {module}')
        imports.append(_import(module, [n for n in names if n != module]))
        own += [n.split()[-1] for n in names]
    for file in room_files(space.rooms):
        names = [n for n in public_names(file) if n not in own]
        if names:
            imports.append(_import(module_name(file), names))
            own += names
    included = [(i.replace('/', '.'), '_' + i.replace('/', '_')) for i in space.includes]
    lines = [f'"""{space.doc}', '',
             "Written by tools/make_namespaces.py from the rooms' `__all__` (`make namespaces`).", '"""']
    for module, alias in included:
        package, _, leaf = f'minifast.{module}'.rpartition('.')
        lines += [f'from {package} import {leaf} as {alias}', f'from minifast.{module} import *']
    own = sorted(own, key=lambda n: (n.lower(), n))
    body = textwrap.wrap(', '.join(map(repr, own)), WIDTH - 6, break_long_words=False)
    if own:
        lines += [*imports, '', '__all__ = [', *('    ' + line for line in body)]
        lines[-1] += ','
        lines += [']']
    else:
        lines += ['', '__all__ = []']
    lines += [f'__all__ += {alias}.__all__' for _, alias in included]
    return '\n'.join(lines) + '\n'


def main() -> None:
    """Write every namespace module whose text changed."""
    for name in NAMESPACES:
        file, text = ROOT / 'minifast' / f'{name}.py', source_of(name)
        if not file.exists() or file.read_text(encoding='utf-8') != text:
            file.write_text(text, encoding='utf-8')
            print(f'wrote {file.relative_to(ROOT)}')


if __name__ == '__main__':
    sys.exit(main())
