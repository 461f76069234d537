"""Models, losses and transforms as plain data, and made again from it: the vocabulary of exports.

Only what minifast and torch define is ever made from a description. Code of the user's is written down by its import
name and has to be handed in again; until then a stand-in takes its place, which says so where it is needed.
"""
from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from fastcore.basics import noop
from PIL import Image
from torch import Tensor, nn

from minifast import losses, markers
from minifast.data.pipeline import Pipeline, mk_transform, transform_config, transform_from_config
from minifast.data.transform import Transform
from minifast.tensorguard import UnsafeFileError
from minifast.torch_core import get_model, looking
from minifast.vision import core, points

__all__ = ['UserLoss', 'UserTransform', 'build_kinds', 'build_loss', 'build_model', 'build_pipeline', 'build_types',
           'describe_kinds', 'describe_loss', 'describe_model', 'describe_pipeline', 'describe_types', 'import_name']


def import_name(obj: Any) -> str:
    """The dotted name under which a class, a function or an object's class could be imported."""
    owner = obj if hasattr(obj, '__qualname__') else type(obj)
    return f'{getattr(owner, "__module__", "?")}.{owner.__qualname__}'


# ---------------------------------------------------------------- models

_BUILDERS = ('create_vision_model', 'create_unet_model')
_SIZES = ('n_out', 'n_in', 'lin_ftrs', 'img_size')
_FLAGS = ('concat_pool', 'pool', 'first_bn', 'bn_final', 'lin_first', 'blur', 'blur_final', 'self_attention',
          'last_cross', 'bottle', 'cut', 'ps', 'y_range', 'norm_type', 'ks', 'padding', 'bias', 'bn_1st', 'transpose',
          'bias_std', 'groups', 'dilation', 'padding_mode')
_SIZE_LIMIT, _LIST_LIMIT = 1 << 20, 100


def describe_model(learn: Any) -> dict[str, Any]:
    """The class of the model and, where a recipe makes exactly this model, the recipe."""
    model = get_model(learn.own_model)
    recipe = vars(learn).get('recipe')
    if recipe is not None:
        with torch.device('meta'), looking():
            again = _call_recipe(recipe)
        # the text of a module tells classes and arguments of all layers: a changed model is not what the recipe makes
        if repr(again) != repr(model) or _shapes(again) != _shapes(model):
            recipe = None
    return {'class': import_name(model), 'recipe': recipe}


def _shapes(model: nn.Module) -> dict[str, tuple]:
    return {name: tuple(value.shape) for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def _call_recipe(recipe: Mapping[str, Any]) -> nn.Module:
    home = importlib.import_module('minifast.vision.models.create')
    return getattr(home, recipe['builder'].rpartition('.')[2])(**recipe['kwargs'])


def build_model(recipe: Any, state: Mapping[str, Tensor], file: Any) -> nn.Module:
    """The model that a recipe describes; it is first laid out without memory and compared with the weights `state`.

    Raises:
        UnsafeFileError: the recipe is none of minifast's, or asks for another model than the weights are of.
    """
    _check_recipe(recipe, file)
    try:
        with torch.device('meta'), looking():
            outline = _call_recipe(recipe)
    except Exception as error:  # a builder may raise anything for arguments that make no sense
        raise UnsafeFileError(f'{file}: its model cannot be built ({error})') from error
    wanted = {name: tuple(value.shape) for name, value in state.items() if isinstance(value, Tensor)}
    if _shapes(outline) != wanted:
        raise UnsafeFileError(f'{file}: its weights are not those of the model that it describes')
    with looking():
        return _call_recipe(recipe)


def _check_recipe(recipe: Any, file: Any) -> None:
    def refuse(what: str) -> None:
        raise UnsafeFileError(f'{file}: the recipe of its model {what}, which no export of minifast does')
    if not isinstance(recipe, dict) or set(recipe) != {'builder', 'kwargs'} or not isinstance(recipe['kwargs'], dict):
        refuse('is malformed')
    home, _, builder = str(recipe['builder']).rpartition('.')
    if home not in ('minifast.vision.learner', 'minifast.vision.models.create') or builder not in _BUILDERS:
        refuse(f'names {recipe["builder"]!r}')
    for name, value in recipe['kwargs'].items():
        if isinstance(value, list) and (len(value) > _LIST_LIMIT or any(isinstance(v, (list, dict)) for v in value)):
            refuse(f'gives a long list for {name!r}')
        if name == 'arch':
            if not isinstance(value, str) or not re.fullmatch(r'[\w.]+', value):
                refuse(f'names the architecture {value!r}')
        elif name == 'pretrained' or name == 'init':
            if value:
                refuse(f'has {name}={value!r}')
        elif name == 'act_cls':
            if value not in torch.nn.modules.activation.__all__:
                refuse(f'names the activation {value!r}')
        elif name in _SIZES:
            sizes = value if isinstance(value, list) else [value]
            if not all(s is None or (isinstance(s, int) and 0 < s <= _SIZE_LIMIT) for s in sizes):
                refuse(f'has {name}={value!r}')
        elif name == 'custom_head' or name == 'weights':
            if value is not None:
                refuse(f'has {name}={value!r}')
        elif name not in _FLAGS:
            refuse(f'has an argument {name!r}')


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


def describe_loss(loss: Any, named: dict[str, list] | None = None) -> dict[str, Any]:
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

    Raises:
        UnsafeFileError: it names anything but a loss of minifast's or torch's.
    """
    config = config if isinstance(config, dict) else {}
    if 'user' in config:
        return functions.get(config['user']) or UserLoss(str(config['user']), config.get('has', []))
    home, _, name = str(config.get('function') or config.get('class')).rpartition('.')
    if 'function' in config and home == 'torch.nn.functional' and name in _functions:
        return getattr(F, name)
    cls = None
    if home == 'torch.nn' and name in nn.modules.loss.__all__:
        cls = getattr(nn, name)
    elif home == 'minifast.losses' and name in _own_losses:
        cls = getattr(losses, name)
    if cls is None or not isinstance(config.get('kwargs'), dict):
        raise UnsafeFileError(f'{file}: its loss is {config!r}, which is none of minifast or torch')
    try:
        return cls(**{k: torch.tensor(v['tensor']) if isinstance(v, dict) else v for k, v in config['kwargs'].items()})
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        raise UnsafeFileError(f'{file}: its loss {name} cannot be made ({error})') from error


class UserLoss:
    """Stands for a loss of the user's after an export is loaded."""

    def __init__(self, name: str, has: Any) -> None:
        """
        Args:
            name: the import name.
            has: which of `activation` and `decodes` it had.
        """
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

def describe_pipeline(tfms: Any, named: dict[str, list] | None = None) -> list[dict[str, Any]]:
    """Transforms as data, one dict each, with `order` and `split_idx`; the user's as `{'user': import name}`.

    Args:
        tfms: the transforms.
        named: import name -> the user's objects that were given it, here and in calls before. A second object of one
            name, as lambdas are, is called `name#2`.
    """
    found = []
    for tfm in tfms:
        if isinstance(tfm, Pipeline):
            found += describe_pipeline(tfm, named)
            continue
        if isinstance(tfm, UserTransform):  # of an export that was loaded without it: still called what it was
            found.append({'user': tfm.user_name, 'order': tfm.order, 'split_idx': tfm.split_idx})
            continue
        try:
            config = transform_config(tfm)
        except TypeError:
            name = _user_name(tfm)
            config = {'function': name} if name in _harmless else {'user': _own_name(name, _user_code(tfm), named)}
        found.append({**config, 'order': tfm.order, 'split_idx': tfm.split_idx})
    return found


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


_harmless = {'fastcore.imports.noop': noop, 'builtins.str': str, 'builtins.int': int, 'builtins.float': float,
             'builtins.bool': bool, 'pathlib.Path': Path}
_PIXEL_LIMIT = 1 << 14
_functions_from = ('minifast.data.transforms', 'minifast.data.core', 'minifast.vision.core', 'minifast.torch_core',
                   'minifast.markers', 'minifast.vision.points')
_functions_of_batches = ('minifast.vision.data.bb_pad',)


def build_pipeline(configs: Any, functions: Mapping[str, Callable], file: Any) -> list[Transform]:
    """The transforms that `describe_pipeline` described; nothing is set up anew.

    Raises:
        UnsafeFileError: one names anything but a transform of minifast's.
    """
    made = []
    if not isinstance(configs, list) or len(configs) > _LIST_LIMIT:
        raise UnsafeFileError(f'{file}: its transforms are no list of transforms')
    for config in configs:
        try:
            tfm = _build_transform(config, functions)
            tfm.order, tfm.split_idx = float(config['order']), config['split_idx']
        except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, RecursionError, IndexError) as error:
            raise UnsafeFileError(f'{file}: one of its transforms cannot be made ({error})') from error
        made.append(tfm)
    return made


def _build_transform(config: Mapping[str, Any], functions: Mapping[str, Callable]) -> Transform:
    if 'user' in config:
        given = functions.get(config['user'])
        return UserTransform(str(config['user'])) if given is None else mk_transform(given)
    if 'function' in config and config['function'] in _harmless:
        return mk_transform(_harmless[config['function']])
    if 'function' in config:
        # pictures are opened and names are cut by functions; everything else that minifast can do is none of a file's
        home = str(config['function']).removesuffix('.create').rpartition('.')[0]
        if home not in _functions_from and config['function'] not in _functions_of_batches:
            raise ValueError(f'{config["function"]!r} is no function for items')
    for part in config.get('parts', [config]):
        size = part.get('kwargs', {}).get('size')
        if any(isinstance(s, (int, float)) and s > _PIXEL_LIMIT for s in (size if isinstance(size, list) else [size])):
            raise ValueError(f'pictures of the size {size} are beyond reason')
    return transform_from_config({k: v for k, v in config.items() if k in ('class', 'kwargs', 'parts', 'function')})


_plain_types = {f'{t.__module__}.{t.__qualname__}': t for t in (
    str, int, float, bool, bytes, list, tuple, dict, PurePath, np.ndarray, Tensor, Image.Image)}


_rooms_of_types = {room.__name__: room for room in (core, markers, points)}


class _NoSuchType:
    """Stands for a type of the user's, by its name: no item is of it."""

    import_name = ''


def describe_types(types: Any) -> list | None:
    """The types of an item before each transform, by name; any kind of path is a `PurePath`."""
    if types is None:
        return None
    return [describe_types(t) if isinstance(t, tuple) else
            'pathlib.PurePath' if issubclass(t, PurePath) else t.import_name if issubclass(t, _NoSuchType) else
            import_name(t) for t in types]


def build_types(names: Any, file: Any) -> list | None:
    """The types that `describe_types` named.

    Raises:
        UnsafeFileError: it is no list of names.
    """
    if names is None:
        return None
    found = []
    for name in names if isinstance(names, list) and len(names) <= _LIST_LIMIT else [None]:
        if isinstance(name, list) and all(isinstance(n, str) for n in name):
            found.append(tuple(build_types(name, file)))
        elif isinstance(name, str):
            # classes of pictures and of marked tensors, and a few of Python; no other is looked up by a file's word
            home, _, cls = name.rpartition('.')
            own = getattr(_rooms_of_types.get(home), cls, None)
            own = own if isinstance(own, type) else _plain_types.get(name)
            found.append(own or type('_NoSuchType', (_NoSuchType,), {'import_name': name}))
        else:
            raise UnsafeFileError(f'{file}: the types of its items are malformed')
    return found


def describe_kinds(kinds: Any) -> Any:
    """The marker types of the parts of a batch, nested as the batch is, by name; None for plain tensors."""
    if isinstance(kinds, (tuple, list)):
        return [describe_kinds(kind) for kind in kinds]
    return None if kinds is None else import_name(kinds)


def build_kinds(names: Any, file: Any) -> Any:
    """The marker types that `describe_kinds` named.

    Raises:
        UnsafeFileError: one is no marker type of minifast's.
    """
    if isinstance(names, list) and len(names) <= _LIST_LIMIT:
        return tuple(build_kinds(name, file) for name in names)
    home, _, name = str(names).rpartition('.')
    found = getattr(_rooms_of_types.get(home), name, None)
    if names is not None and not (isinstance(found, type) and issubclass(found, markers.TensorBase)):
        if home.startswith('minifast'):
            raise UnsafeFileError(f'{file}: {name} is no kind of tensor')
        return None  # a marker of the user's: its batches decode as plain tensors
    return found


class UserTransform(Transform):
    """Stands for a transform or function of the user's after an export is loaded.

    Args:
        name: its import name.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.user_name = name

    def __repr__(self) -> str:
        return f'UserTransform({self.user_name})'

    def encodes(self, x: Any) -> Any:
        """
        Raises:
            NotImplementedError: always, with what to do.
        """
        raise NotImplementedError(f'the exported learner needs a function of its author\'s, {self.user_name}, and '
                                  'exports hold no code: import or define it and give it, '
                                  f'load_learner(file, functions={{{self.user_name!r}: ...}})')
