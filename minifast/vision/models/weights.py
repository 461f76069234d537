"""Pretrained weights: from torchvision's own list and cache, or from a file that can hold tensors only, never code."""
from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
import torchvision
from torch import Tensor, nn

from minifast.arguments import near_match
from minifast.tensorfile import read_tensors

__all__ = ['WeightsNotFoundError', 'as_weights_file', 'cached_file', 'channels_of', 'fetch_weights', 'fill_body',
           'named_weights', 'read_weights', 'state_of']

_weights_suffixes = ('.pth', '.pt', '.bin', '.safetensors')


class WeightsNotFoundError(FileNotFoundError):
    """Pretrained weights are neither in the cache nor to be had; the message says which file is wanted and where."""


# ---------------------------------------------------------------- torchvision's weights

def named_weights(arch: Callable, weights: Any = None) -> Any:
    """The torchvision weights that are meant, a member of the architecture's own `..._Weights`.

    Args:
        arch: a torchvision architecture, such as `resnet18`.
        weights: a member, its name (`'IMAGENET1K_V1'`, `'ResNet18_Weights.IMAGENET1K_V1'`, `'DEFAULT'`), or None for
            torchvision's first ones.

    Raises:
        ValueError: there are no weights of this name for this architecture.
    """
    enum = torchvision.models.get_model_weights(arch)
    if isinstance(weights, enum):
        return weights
    if not isinstance(weights, (str, type(None))):
        raise ValueError(f'weights={weights!r} are not for {arch.__name__}: choose from {_members(enum)}, '
                         'or give the path of a file')
    if weights is None:
        weights = 'IMAGENET1K_V1' if 'IMAGENET1K_V1' in enum.__members__ else 'DEFAULT'
    name = weights.removeprefix(f'{enum.__name__}.')
    if name not in enum.__members__:
        raise ValueError(f'there are no weights {weights!r} for {arch.__name__}{near_match(name, enum.__members__)} '
                         f'Choose from {_members(enum)}, or give the path of a file')
    return enum[name]


def _members(enum: Any) -> str:
    return ', '.join(repr(name) for name in enum.__members__)


def cached_file(url: str) -> Path:
    """Where torch keeps the file of this URL: `checkpoints/` in its hub folder (`TORCH_HOME`, `torch.hub.set_dir`)."""
    return Path(torch.hub.get_dir()) / 'checkpoints' / Path(urlparse(url).path).name


def fetch_weights(url: str) -> dict[str, Any]:
    """The state dict at `url`: from torch's cache where it is there, else downloaded into it and checked by its hash.

    Raises:
        WeightsNotFoundError: it is not in the cache and the address cannot be reached.
    """
    file = cached_file(url)
    if not file.exists():
        try:
            # torch's own download waits without limit for a host that never answers
            urllib.request.urlopen(url, timeout=5).close()
            return torch.hub.load_state_dict_from_url(url, map_location='cpu', check_hash=True, weights_only=True)
        except (OSError, RuntimeError) as error:
            raise WeightsNotFoundError(
                f'the pretrained weights {file.name} are not on this machine and could not be downloaded ({error}). '
                f'Either get {url} elsewhere and put it at {file}, '
                'or give a file of your own (weights=FILE), or start without (pretrained=False)') from error
    return read_weights(file)


# ---------------------------------------------------------------- files

def as_weights_file(weights: Any) -> Path | None:
    """The path that `weights` means: a `Path`, or a string with a folder or the suffix of a weights file; else None."""
    if isinstance(weights, Path):
        return weights
    is_path = isinstance(weights, str) and (
        Path(weights).suffix in _weights_suffixes or '/' in weights or Path(weights).is_file())
    return Path(weights) if is_path else None


def read_weights(file: str | Path) -> dict[str, Any]:
    """Read a state dict from a `.safetensors` file or one that `torch.save` wrote; code in it is refused.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no state dict.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f'there is no weights file {file}')
    if file.suffix == '.safetensors':
        from safetensors.torch import load_file
        return load_file(file)
    try:
        found = read_tensors(file, old=True)  # weights older than 2020 are no zips and carry no checksums
    except Exception as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f'{file} is no file of tensors (or holds code, which is never run): {why}. '
                         "Write one with torch.save(model.state_dict(), ...)") from error
    if not isinstance(found, Mapping):
        raise ValueError(f'{file} holds a {type(found).__name__}, no state dict: write one with '
                         'torch.save(model.state_dict(), ...)')
    return dict(found)


def state_of(found: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a state dict, taken out of what training scripts wrap it in, under today's names."""
    for key in ('model', 'state_dict', 'model_state_dict'):
        if isinstance(found.get(key), Mapping):
            found = found[key]
    return {_today(name): value for name, value in found.items() if isinstance(value, Tensor)}


def _today(name: str) -> str:
    """A name without the prefix of a parallel model; torchvision's densenet files write `norm.1` for `norm1`."""
    return re.sub(r'(denselayer\d+\.(?:norm|relu|conv))\.(\d)', r'\1\2', name.removeprefix('module.'))


def channels_of(state: Mapping[str, Tensor], n_in: int) -> int:
    """The input channels of the model whose weights these are, if that is `n_in`; else 3."""
    first = next((value for value in state.values() if value.ndim == 4), None)
    return n_in if first is not None and first.shape[1] == n_in else 3


def fill_body(body: nn.Module, model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Fill a body with the weights of the whole model, of the body alone, or of a learner's model (body and head).

    Args:
        body: shares its layers with `model`.
        model: the whole model the body was cut from; it knows the whole model's names.
        state: tensors by name. What belongs to a head is passed over.
        source: where they come from, for messages.

    Raises:
        ValueError: a weight of the body is missing or has another shape.
    """
    own = body.state_dict(keep_vars=True)
    whole_names = {id(value): name for name, value in model.state_dict(keep_vars=True).items()}
    namings = [{name: whole_names.get(id(value), '') for name, value in own.items()},  # as in the whole model
               {name: name for name in own}, {name: f'0.{name}' for name in own}]  # body alone; body and head
    best = max(namings, key=lambda naming: sum(given in state for given in naming.values()))
    missing = [f'{given or name} {_shape(own[name])}' for name, given in best.items()
               if not name.endswith('num_batches_tracked') and _shape(state.get(given)) != _shape(own[name])]
    if missing:
        raise ValueError(f'{source} does not fit {type(model).__name__}: {len(missing)} of the {len(own)} tensors of '
                         f'its body are missing or of another shape, such as {missing[0]}; the file holds {len(state)} '
                         f'tensors, such as {", ".join(list(state)[:3]) or "none"}')
    with torch.no_grad():
        for name, value in own.items():
            if best[name] in state:
                value.copy_(state[best[name]])


def _shape(x: Tensor | None) -> tuple[int, ...] | None:
    return None if x is None else tuple(x.shape)
