"""Pretrained weights: from torchvision's own list and cache, or from a file that can hold tensors only, never code."""
from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from minifast.arguments import near_match
from minifast.checkpoint import check_model_state
from minifast.data.external import open_url, waiting
from minifast.tensorfile import read_tensors

__all__ = ['WeightsNotFoundError', 'as_weights_file', 'cached_file', 'channels_of', 'check_fit', 'fetch_weights',
           'fill_body', 'guarded_reads', 'named_weights', 'read_weights', 'state_of']

_weights_suffixes = ('.pth', '.pt', '.bin', '.safetensors')


class WeightsNotFoundError(FileNotFoundError):
    """Pretrained weights are neither in the cache nor to be had; the message says which file is wanted and where."""


# ---------------------------------------------------------------- torchvision's weights

def named_weights(arch: Callable[..., Any], weights: Any = None) -> Any:
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
    """Where torch keeps the file of `url`: `checkpoints/` in its hub folder (`TORCH_HOME`, `torch.hub.set_dir`)."""
    return Path(torch.hub.get_dir()) / 'checkpoints' / Path(urlparse(url).path).name


def fetch_weights(url: str) -> dict[str, Any]:
    """The state dict at `url`: from torch's cache where it is there, else downloaded into it and checked by its hash.

    Raises:
        WeightsNotFoundError: it is not in the cache and the address cannot be reached.
    """
    file = cached_file(url)
    if not file.exists():
        with waiting(file):
            if not file.exists():
                _fetch_weights(url, file)
    return read_weights(file)


def _fetch_weights(url: str, file: Path) -> None:
    try:
        # torch's own download waits without limit for a host that never answers
        open_url(url, timeout=5).close()
        file.parent.mkdir(parents=True, exist_ok=True)
        digest = re.search(r'-([0-9a-f]{8,})\.', file.name)
        torch.hub.download_url_to_file(url, str(file), digest and digest[1])
    except (OSError, RuntimeError) as error:
        raise WeightsNotFoundError(
            f'the pretrained weights {file.name} are not on this machine and could not be downloaded ({error}). '
            f'Either get {url} elsewhere and put it at {file}, '
            'or give a file of your own (weights=FILE), or start without (pretrained=False)') from error


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
        ValueError: it holds no state dict, or tensors of a kind that no weights are of.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f'there is no weights file {file}')
    try:
        if file.suffix == '.safetensors':
            return safetensors.torch.load_file(file)
        found = read_tensors(file, old=True)  # weights older than 2020 are no zips and carry no checksums
    except Exception as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f'{file} is no file of tensors (or holds code, which is never run): {why}. '
                         "Write one with torch.save(model.state_dict(), ...)") from error
    if not isinstance(found, Mapping):
        raise ValueError(f'{file} holds a {type(found).__name__}, no state dict: write one with '
                         'torch.save(model.state_dict(), ...)')
    return dict(_checked_kinds(found, file))


def _checked_kinds(found: Mapping[str, Any], file: Any) -> Mapping[str, Any]:
    """`found`, without tensors that hold no plain numbers: those cannot be copied into weights, nor looked at."""
    for name, value in found.items():
        if isinstance(value, Mapping):
            _checked_kinds(value, file)
        elif isinstance(value, Tensor) and (value.layout != torch.strided or value.is_meta or value.is_quantized
                                            or value.is_nested):
            kind = ('meta' if value.is_meta else 'quantized' if value.is_quantized else
                    'nested' if value.is_nested else str(value.layout).rpartition('.')[2])
            raise ValueError(f'{file}: {name!r} is a {kind} tensor, which weights are not: save it dense and with its '
                             'numbers, value.dequantize() or value.to_dense()')
    return found


_one_at_a_time = threading.RLock()


@contextmanager
def guarded_reads() -> Iterator[dict[str, Mapping[str, Any]]]:
    """While another library makes a model here, what it reads with `torch.load` is read by `read_weights` instead.

    Whatever the library asks for (some releases of timm turn `weights_only` off for some of their arguments), files of
    weights are data. Other threads read as they did.

    Yields:
        What was read so far, by file.
    """
    reader, real, real_safe, seen, busy = threading.get_ident(), torch.load, safetensors.torch.load_file, {}, []

    def guarded(read: Callable, f: Any, *args: Any, own: Callable, **kwargs: Any) -> Any:
        if threading.get_ident() != reader or busy:  # ours reads with torch's in the end
            return read(f, *args, **kwargs)
        busy.append(True)
        try:
            seen[str(f)] = found = own(f)
        finally:
            busy.clear()
        return found

    def read(f: Any) -> Any:
        return read_weights(f) if isinstance(f, (str, Path)) else read_tensors(f)

    def read_safe(f: Any) -> dict[str, Tensor]:
        return _checked_kinds(real_safe(f), f)

    with _one_at_a_time:
        torch.load = partial(guarded, real, own=read)
        safetensors.torch.load_file = partial(guarded, real_safe, own=read_safe)
        try:
            yield seen
        finally:
            torch.load, safetensors.torch.load_file = real, real_safe


def state_of(found: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of the state dict `found`, taken out of what training scripts wrap it in, under today's names."""
    for key in ('model', 'state_dict', 'model_state_dict'):
        if isinstance(found.get(key), Mapping):
            found = found[key]
    return {_today(name): value for name, value in found.items() if isinstance(value, Tensor)}


def _today(name: str) -> str:
    """A name without the prefix of a parallel model; torchvision's densenet files write `norm.1` for `norm1`."""
    return re.sub(r'(denselayer\d+\.(?:norm|relu|conv))\.(\d)', r'\1\2', name.removeprefix('module.'))


def channels_of(state: Mapping[str, Tensor], n_in: int) -> int:
    """The input channels of the model whose weights are `state`, if that is `n_in`; else 3."""
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
        ValueError: a weight of the body is missing, has another shape or numbers of another kind, or a variance is
            negative; nothing is changed then.
    """
    own = body.state_dict(keep_vars=True)
    # under their names in the whole model, in the body alone, in body and head
    owners = [model, body, nn.Sequential(body)]
    namings = [{id(value): name for name, value in owner.state_dict(keep_vars=True).items()} for owner in owners]
    names = [{name: naming.get(id(value), '') for name, value in own.items()} for naming in namings]
    owner, best = max(zip(owners, names), key=lambda pair: sum(given in state for given in pair[1].values()))
    missing = [f'{given or name} {_shape(own[name])}' for name, given in best.items()
               if not name.endswith('num_batches_tracked') and _shape(state.get(given)) != _shape(own[name])]
    if missing:
        raise ValueError(f'{source} does not fit {type(model).__name__}: {len(missing)} of the {len(own)} tensors of '
                         f'its body are missing or of another shape, such as {missing[0]}; the file holds {len(state)} '
                         f'tensors, such as {", ".join(list(state)[:3]) or "none"}')
    check_model_state(owner, {given: _wide(state[given]) for given in best.values() if given in state}, source,
                      strict=False)
    with torch.no_grad():
        for name, value in own.items():
            if best[name] in state:
                value.copy_(state[best[name]])


def check_fit(model: nn.Module, state: Mapping[str, Any], source: str) -> None:
    """Check those weights that have the name and the shape of one of `model`, as `check_model_state` does.

    Args:
        model: what they are for.
        state: tensors by name.
        source: where they come from, for messages.

    Raises:
        ValueError: one has numbers of another kind, or a variance is negative.
    """
    own, state = model.state_dict(), {_today(name): value for name, value in state.items() if isinstance(name, str)}
    fitting = {name: _wide(value) for name, value in state.items()
               if isinstance(value, Tensor) and name in own and _shape(value) == _shape(own[name])}
    check_model_state(model, fitting, source, strict=False)


def _wide(x: Tensor) -> Tensor:
    """`x`, floats of one byte in a type that can be added up."""
    return x.float() if x.is_floating_point() and x.element_size() == 1 else x


def _shape(x: Tensor | None) -> tuple[int, ...] | None:
    return None if x is None else tuple(x.shape)
