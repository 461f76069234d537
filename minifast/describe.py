"""Models, losses and transforms as plain data, and made again from it: the vocabulary of exports.

Only what minifast and torch define is ever made from a description. Code of the user's is written down by its import
name and has to be handed in again; until then a stand-in takes its place, which says so where it is needed.
"""
from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from fastcore.basics import noop
from PIL import Image
from torch import Tensor, nn

from minifast import losses, markers
from minifast.codetext import public_module
from minifast.data.config import named_in_file, transform_config, transform_from_config
from minifast.data.transform import Pipeline, Transform, mk_transform
from minifast.layers import NormType
from minifast.limits import RECIPE
from minifast.seeds import fork_rng
from minifast.tensorguard import UnsafeFileError
from minifast.vision import augment as _augment  # noqa: F401  the rooms whose transforms a file may name are loaded
from minifast.vision import data as _data  # noqa: F401

__all__ = ['UserLoss', 'UserTransform', 'build_kinds', 'build_loss', 'build_model', 'build_pipeline', 'build_types',
           'describe_kinds', 'describe_loss', 'describe_model', 'describe_pipeline', 'describe_types', 'import_name',
           'is_known_arch', 'refusing']


def import_name(obj: Any) -> str:
    """The dotted name under which `obj`, a class, a function or else an object's class, could be imported."""
    owner = obj if hasattr(obj, '__qualname__') else type(obj)
    return f'{public_module(owner) or "?"}.{owner.__qualname__}'


@contextmanager
def refusing(file: Any, what: str) -> Iterator[None]:
    """Whatever goes wrong inside is the fault of `file`: one error, which names it and says `what` failed.

    Raises:
        UnsafeFileError: anything was raised inside.
    """
    try:
        yield
    except UnsafeFileError:
        raise
    except Exception as error:  # a constructor may raise anything for arguments that make no sense
        said = ' '.join(str(error)[:300].split()) or type(error).__name__  # in one line
        raise UnsafeFileError(f'{file}: {what} ({said})') from error


# ---------------------------------------------------------------- models

_CHOICES = {'act_cls': nn.modules.activation.__all__, 'norm_type': tuple(NormType.__members__),
            'padding_mode': ('zeros', 'reflect', 'replicate', 'circular')}
_UNET_PIXELS = 1 << 22


def describe_model(learn: Any, model: nn.Module) -> dict[str, Any]:
    """The class of `model`, which is that of `learn`, and the recipe, where one makes exactly this model."""
    recipe = vars(learn).get('recipe')
    if recipe is not None:
        with torch.device('meta'), fork_rng():
            again = _call_recipe(recipe)
        # the text of a module tells classes and arguments of all layers: a changed model is not what the recipe makes
        if repr(again) != repr(model) or _shapes(again) != _shapes(model) or not _readable(recipe):
            recipe = None
    return {'class': import_name(model), 'recipe': recipe}


def _readable(recipe: Any) -> bool:
    try:
        _check_recipe(recipe, 'the export')
    except UnsafeFileError:
        return False
    return True


def _shapes(model: nn.Module) -> dict[str, tuple]:
    return {name: tuple(value.shape) for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def _call_recipe(recipe: Mapping[str, Any]) -> nn.Module:
    home = importlib.import_module('minifast.vision.models.create')
    return getattr(home, recipe['builder'].rpartition('.')[2])(**recipe['kwargs'])


def build_model(recipe: Any, state: Mapping[str, Tensor], file: Any) -> nn.Module:
    """The model that a recipe describes; it is first laid out without memory and compared with the weights `state`.

    No memory is asked for that the file has no bytes for: layers are compared with its weights before they are made.

    Args:
        recipe: as `describe_model` gave it, from a file.
        state: the weights of the file, by name.
        file: named in messages.

    Raises:
        UnsafeFileError: the recipe is none of minifast's, or asks for another model than the weights are of.
    """
    _check_recipe(recipe, file)
    outline = _outline(recipe, file)
    wanted = {name: tuple(value.shape) for name, value in state.items() if isinstance(value, Tensor)}
    if _shapes(outline) != wanted:
        raise UnsafeFileError(f'{file}: its weights are not those of the model that it describes')
    with refusing(file, 'its model cannot be built'), fork_rng():
        return _call_recipe(_small(recipe, outline, file))


def _outline(recipe: Mapping[str, Any], file: Any) -> nn.Module:
    with refusing(file, 'its model cannot be built'), torch.device('meta'), fork_rng():
        return _call_recipe(recipe)


def _small(recipe: dict[str, Any], outline: nn.Module, file: Any) -> dict[str, Any]:
    """A recipe of the same layers for which no large picture is made: a U-Net is laid out by running its body.

    Which layers halve a size depends on what is left when it is divided by 64, and not on how often 64 goes into it.
    """
    size = recipe['kwargs'].get('img_size')
    if size is None or max(size) <= 128:
        return recipe
    small = {**recipe, 'kwargs': {**recipe['kwargs'], 'img_size': [side if side <= 128 else side % 64 + 64
                                                                   for side in size]}}
    if repr(_outline(small, file)) == repr(outline):
        return small
    if math.prod(size) > _UNET_PIXELS:
        raise UnsafeFileError(f'{file}: its U-Net is laid out for pictures of the size {size}, which is too large to '
                              'try out')
    return recipe


def _check_recipe(recipe: Any, file: Any) -> None:
    """Refuse what no export of minifast says; nothing is imported to decide about it."""
    with refusing(file, 'the recipe of its model makes no sense'):
        RECIPE.check(recipe, 'recipe')
    kwargs, wrong = recipe['kwargs'], None
    for name, known in _CHOICES.items():
        if kwargs.get(name) not in (None, *known):
            wrong = f'has {name}={kwargs[name]!r:.200}'
    if not is_known_arch(kwargs['arch']):
        wrong = f'names the architecture {kwargs["arch"]!r:.200} (import first what code of yours registers)'
    if wrong is not None:
        raise UnsafeFileError(f'{file}: the recipe of its model {wrong}, which no export of minifast does')


def is_known_arch(arch: Any) -> bool:
    """Whether `arch` names an architecture of torchvision, ours or timm, told without importing any of them."""
    home, _, name = arch.rpartition('.') if isinstance(arch, str) else ('', '', '')
    if home == 'minifast.vision.models.xresnet':
        ours = Path(__file__).parent / 'vision' / 'models' / 'xresnet.py'
        return _defines(ours, rf'^{re.escape(name)} = _(plain|se)\(')
    if home == 'torchvision.models':
        models = sys.modules.get(home)
        return _registered('torchvision', name) if models is None else name in models.list_models()
    model, _, tag = arch.partition('.') if isinstance(arch, str) else ('', '', '')
    if not re.fullmatch(r'\w+', model) or not re.fullmatch(r'[\w-]*', tag):
        return False
    timm = sys.modules.get('timm')  # where it is loaded, models of the user's may be registered too
    return (timm is not None and timm.is_model(model)) or _registered('timm', model)


def _registered(package: str, name: str) -> bool:
    """Whether the source of a package registers a model under this name, or under a newer one for it."""
    spec, name = importlib.util.find_spec(package), re.escape(name)
    folders = spec.submodule_search_locations if spec is not None else None
    pattern = rf"^@register_model\b(.*\n@.*)*.*\ndef {name}\(|^register_model_deprecations\([^}}]*'{name}': "
    return any(_defines(file, pattern) for folder in folders or ()
               for file in sorted(Path(folder, 'models').glob('*.py')))


def _defines(file: Path, pattern: str) -> bool:
    return re.search(pattern, file.read_text(encoding='utf-8'), re.MULTILINE) is not None


# ---------------------------------------------------------------- losses

_flat = {nn.BCELoss: 'BCELossFlat', nn.MSELoss: 'MSELossFlat', nn.L1Loss: 'L1LossFlat'}
_own_losses = tuple(name for name in losses.__all__ if name != 'BaseLoss')
_functions = ('binary_cross_entropy', 'binary_cross_entropy_with_logits', 'cross_entropy', 'huber_loss', 'kl_div',
              'l1_loss', 'mse_loss', 'multi_margin_loss', 'multilabel_margin_loss', 'multilabel_soft_margin_loss',
              'nll_loss', 'poisson_nll_loss', 'smooth_l1_loss', 'soft_margin_loss')


def _arguments(obj: Any) -> dict[str, Any]:
    """The constructor's arguments, as kept under their names, where they differ from their defaults."""
    found = {}
    for name, parameter in inspect.signature(type(obj).__init__).parameters.items():
        value = getattr(obj, name, parameter.default)
        if name in ('self', 'args', 'kwargs', 'size_average', 'reduce') or value is parameter.default:
            continue
        if isinstance(value, Tensor):
            value = {'tensor': value.tolist()}  # sync: a weight for each class, once an export
        if value != parameter.default:
            found[name] = value
    return found


def describe_loss(loss: Any, named: dict[str, list[Any]] | None = None) -> dict[str, Any]:
    """A loss as data: `{'class', 'kwargs'}` or `{'function'}` for ours and torch's, `{'user'}` for anything else.

    Args:
        loss: the loss function.
        named: see `describe_pipeline`.
    """
    for name in _functions:
        if loss is getattr(F, name):
            return {'function': f'torch.nn.functional.{name}'}
    kind = type(loss)
    if kind.__module__ == 'torch.nn.modules.loss' and kind.__name__ in nn.modules.loss.__all__:
        return {'class': f'torch.nn.{kind.__name__}', 'kwargs': _arguments(loss)}
    if isinstance(loss, losses.BaseLoss) and kind.__module__ == losses.__name__:
        name = _flat.get(type(loss.func)) if kind is losses.BaseLoss else kind.__name__
        if name is not None:
            kwargs = {**_arguments(loss.func), **{k: v for k, v in _arguments(loss).items() if k == 'thresh'}}
            kwargs['axis'] = loss.axis
            if not loss.flatten and 'pos_weight' not in kwargs:
                kwargs['flatten'] = False
            return {'class': f'minifast.losses.{name}', 'kwargs': kwargs}
    elif kind.__module__ == losses.__name__ and kind.__name__ in _own_losses:
        return {'class': f'minifast.losses.{kind.__name__}', 'kwargs': _arguments(loss)}
    name = loss.name if isinstance(loss, UserLoss) else _own_name(import_name(loss), loss, named)
    return {'user': name, 'has': [n for n in ('activation', 'decodes') if hasattr(loss, n)]}


def build_loss(config: Any, functions: Mapping[str, Any], file: Any) -> Any:
    """The loss that `describe_loss` described.

    Args:
        config: the description, checked (`minifast.limits.EXPORT`).
        functions: import name -> the user's code that was handed in again.
        file: named in messages.

    Raises:
        UnsafeFileError: it names anything but a loss of minifast's or torch's.
    """
    with refusing(file, f'its loss {config!r:.200} cannot be made'):
        if 'user' in config:
            given = functions.get(config['user'])
            return UserLoss(config['user'], config.get('has', [])) if given is None else given
        if 'function' in config:
            home, _, name = config['function'].rpartition('.')
            if home == 'torch.nn.functional' and name in _functions:
                return getattr(F, name)
            raise ValueError('it is no loss of torch')
        home, _, name = config['class'].rpartition('.')
        if home == 'torch.nn' and name in nn.modules.loss.__all__:
            cls = getattr(nn, name)
        elif home == 'minifast.losses' and name in _own_losses:
            cls = getattr(losses, name)
        else:
            raise ValueError('it is none of minifast or torch')
        return cls(**{k: torch.tensor(v['tensor']) if isinstance(v, dict) else v
                      for k, v in config['kwargs'].items()})


class UserLoss:
    """Stands for a loss of the user's after an export is loaded.

    Args:
        name: the import name.
        has: which of `activation` and `decodes` it had.
    """

    def __init__(self, name: str, has: Any) -> None:
        self.name = name
        if 'activation' in has:
            self.activation = self._ask
        if 'decodes' in has:
            self.decodes = self._ask

    def __repr__(self) -> str:
        return f'UserLoss({self.name})'

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """
        Raises:
            NotImplementedError: always, with what to do.
        """
        return self._ask()

    def _ask(self, *args: Any) -> Any:
        raise NotImplementedError(f"the exported learner used a loss of its author's, {self.name}, and exports hold no "
                                  'code: set learn.loss_func to it')


# ---------------------------------------------------------------- transforms

def describe_pipeline(tfms: Any, named: dict[str, list[Any]] | None = None) -> list[dict[str, Any]]:
    """Transforms as data, one dict each, with `order` and `split_idx`; the user's as `{'user': import name}`.

    Args:
        tfms: the transforms.
        named: import name -> the user's objects that were given it, here and in calls before. A second object of one
            name, as lambdas are, is called `name#2`.

    Raises:
        ValueError: one has larger arguments than a description may have.
    """
    found = []
    for tfm in tfms:
        if isinstance(tfm, Pipeline):
            found += describe_pipeline(tfm, named)
            continue
        if isinstance(tfm, UserTransform):  # of an export that was loaded without it: still called what it was
            found.append({'user': tfm.user_name, 'order': tfm.order, 'split_idx': tfm.split_idx})
            continue
        found.append({**_describe_transform(tfm, named), 'order': tfm.order, 'split_idx': tfm.split_idx})
    return found


def _describe_transform(tfm: Any, named: dict[str, list] | None) -> dict[str, Any]:
    config = None
    try:
        config = transform_config(tfm)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # they were given when it was made
            transform_from_config(config)  # what is written can be read
        return config
    except TypeError:
        pass  # code of the user's, or what cannot be told as data
    except ValueError as error:
        if 'function' not in config:
            raise ValueError(f'{tfm.name} cannot be exported: {error}') from error
    name = _user_name(tfm)
    return {'function': name} if name in _plain_functions else {'user': _own_name(name, _user_code(tfm), named)}


def _user_code(tfm: Any) -> Any:
    return tfm.encodes.entries[0].func if type(tfm) is Transform and '_name' in vars(tfm) else tfm


def _user_name(tfm: Any) -> str:
    return import_name(_user_code(tfm))


def _own_name(name: str, obj: Any, named: dict[str, list] | None) -> str:
    """`name`, with a number behind it where another object has the name already."""
    others = [] if named is None else named.setdefault(name, [])
    number = next((i for i, other in enumerate(others, 1) if other is obj), len(others) + 1)
    if number > len(others):
        others.append(obj)
    return name if number == 1 else f'{name}#{number}'


_plain_functions = {'fastcore.imports.noop': noop, 'builtins.str': str, 'builtins.int': int, 'builtins.float': float,
                    'builtins.bool': bool, 'pathlib.Path': Path}


def build_pipeline(configs: Any, functions: Mapping[str, Callable[..., Any]], file: Any) -> list[Transform]:
    """The transforms that `describe_pipeline` described; nothing is set up anew.

    Args:
        configs: the descriptions, checked (`minifast.limits.EXPORT`).
        functions: import name -> the user's code that was handed in again.
        file: named in messages.

    Raises:
        UnsafeFileError: one names anything but a transform of minifast's.
    """
    with refusing(file, 'its transforms cannot be made'):
        return [_build_transform(config, functions) for config in configs]


def _build_transform(config: Mapping[str, Any], functions: Mapping[str, Callable]) -> Transform:
    if 'user' in config:
        given = functions.get(config['user'])
        tfm = UserTransform(config['user']) if given is None else mk_transform(given)
    elif 'function' in config and config['function'] in _plain_functions:
        tfm = mk_transform(_plain_functions[config['function']])
    else:
        tfm = transform_from_config(config)
    tfm.order, tfm.split_idx = float(config['order']), config['split_idx']
    return tfm


_plain_types = {import_name(t): t for t in (
    str, int, float, bool, bytes, list, tuple, dict, PurePath, np.ndarray, Tensor, Image.Image)}


class _NoSuchType:
    """Stands for a type of the user's, by its name: no item is of it."""

    import_name = ''


def describe_types(types: Any) -> list[Any] | None:
    """The `types` of an item before each transform, by name; any kind of path is a `PurePath`."""
    if types is None:
        return None
    return [describe_types(t) if isinstance(t, tuple) else
            'pathlib.PurePath' if issubclass(t, PurePath) else t.import_name if issubclass(t, _NoSuchType) else
            import_name(t) for t in types]


def build_types(names: list[Any] | None) -> list[Any] | None:
    """The types that `describe_types` gave as `names`."""
    return None if names is None else [tuple(build_types(name)) if isinstance(name, list) else _type(name)
                                       for name in names]


def _type(name: str) -> type:
    # classes of pictures and of marked tensors, and a few of Python; no other is looked up by a file's word
    return _marked(name) or _plain_types.get(name) or type('_NoSuchType', (_NoSuchType,), {'import_name': name})


def describe_kinds(kinds: Any) -> Any:
    """The marker types `kinds` of the parts of a batch, nested as the batch is, by name; None for plain tensors."""
    if isinstance(kinds, (tuple, list)):
        return [describe_kinds(kind) for kind in kinds]
    return None if kinds is None else import_name(kinds)


def build_kinds(names: Any, file: Any) -> Any:
    """The marker types that `describe_kinds` gave as `names`, read from `file`.

    Raises:
        UnsafeFileError: one is no marker type of minifast's.
    """
    if isinstance(names, list):
        return tuple(build_kinds(name, file) for name in names)
    if names is None:
        return None
    found = _marked(names)
    if found is None or not issubclass(found, markers.TensorBase):
        if not names or names.startswith('minifast'):
            raise UnsafeFileError(f'{file}: {names[:200]!r} is no kind of tensor')
        return None  # a marker of the user's: its batches decode as plain tensors
    return found


def _marked(name: Any) -> type | None:
    """A class of the rooms of pictures and marked tensors."""
    found = named_in_file(name)
    return found if isinstance(found, type) else None


class UserTransform(Transform):
    """Stands for a transform or function of the user's after an export is loaded.

    Args:
        name: its import name.
    """

    keyed = True

    def __init__(self, name: str) -> None:
        super().__init__()
        self.user_name = name

    def __repr__(self) -> str:
        return f'UserTransform({self.user_name})'

    def encodes(self, x: Any) -> Any:
        """Refuse `x`.

        Raises:
            NotImplementedError: always, with what to do.
        """
        raise NotImplementedError(f'the exported learner needs a function of its author\'s, {self.user_name}, and '
                                  'exports hold no code: import or define it and give it, '
                                  f'load_learner(file, functions={{{self.user_name!r}: ...}})')
