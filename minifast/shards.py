"""A state in shares as files: each process writes its parts, and any number of processes reads them; without a pickle.

torch.distributed.checkpoint writes and reads the parts, in its layout of safetensors files. Beside them lies an index,
a tensor file (`minifast.tensorfile`): what is no tensor, and of every file its size and checksum. It names the folder
of the parts and is replaced in one move, behind them, so that there is always the old state or the new one.
"""
from __future__ import annotations

import math
import re
import secrets
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata

from minifast.checkpoint import check_opt_state, load_opt_state
from minifast.distributed import PeerError, ask, gather_objects, host_group, is_distributed, rank_distrib
from minifast.hardware import crc32
from minifast.sharding import cut, own_part
from minifast.tensorfile import DamagedFileError, UnsafeFileError, read_tensors, storable, way_out_of, write_atomic
from minifast.terminal import listed
from minifast.torch_core import get_model

__all__ = ['INDEX', 'Saving', 'load_cut', 'load_sharded', 'load_shares', 'save_sharded', 'save_shares']

INDEX, FORMAT, VERSION = 'index.pth', 'minifast-shards', 1
_PARTS, _FILE = re.compile(r'parts-[0-9a-f]{16}'), re.compile(r'shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors')
_BLOCK = 1 << 24

Path_ = tuple[Any, ...]
"""The keys on the way to a tensor."""

_background: list[Any] = []
"""torch's default group, and behind it one of the same processes for what is written in the background."""


# ---------------------------------------------------------------- a model and its optimizer

def save_shares(folder: str | Path, model: nn.Module, opt: Any = None, background: bool = False) -> Path | Saving:
    """Write a model and the state of its optimizer, each process its parts; `load_shares` reads them.

    Args:
        folder, background: see `save_sharded`.
        model: in shares, or whole.
        opt: its optimizer; None: the model alone.

    Raises:
        OSError, TypeError, ValueError, PeerError: see `save_sharded`.
    """
    state = {'model': get_model(model).state_dict(), 'opt': None if opt is None else opt.state_dict()}
    return save_sharded(folder, state, background)


def load_shares(folder: str | Path, model: nn.Module, opt: Any = None) -> None:
    """Read what `save_shares` wrote, on as many processes or others; names and shapes are compared before.

    Args:
        folder: of the files.
        model: in shares, or whole; its tensors are filled in place.
        opt: gets the state of the optimizer; None: it is left.

    Raises:
        FileNotFoundError, DamagedFileError, UnsafeFileError, PeerError: see `load_sharded`.
        ValueError: it is the state of another model, or has none of an optimizer.
    """
    folder, own = Path(folder), get_model(model).state_dict()
    params = [] if opt is None else [p for group in opt.param_groups for p in group['params']]

    def room(path: Path_, shape: torch.Size, dtype: torch.dtype) -> Tensor | None:
        if path[:1] == ('model',):
            return own.get(path[1]) if len(path) == 2 else None
        if opt is None or path[:1] != ('opt',):
            return None
        like = [params[key] for key in path if type(key) is int and 0 <= key < len(params)][:1]
        if like and like[0].shape == shape:
            return torch.empty_like(like[0], dtype=dtype, requires_grad=False)
        return torch.empty(shape, dtype=dtype)

    def check(found: dict[str, Any]) -> None:
        names = {path[1] for path in _paths(found['state']).values() if path[0] == 'model'}
        if names != {name for name, value in own.items() if isinstance(value, Tensor)}:
            raise ValueError(f'{folder} does not fit this {type(model).__name__}: {_differing(names, set(own))}. Build '
                             'the model that was saved')
    state = _load(folder, room, check)
    if opt is None:
        return
    if not isinstance(state.get('opt'), dict):
        raise ValueError(f'{folder} holds no state of an optimizer: leave opt out')
    _on_all(partial(check_opt_state, opt, state['opt'], folder))
    load_opt_state(opt, state['opt'], folder)


def _differing(found: set[str], own: set[str]) -> str:
    parts = [f'{listed(sorted(own - found), 5)} are missing'] if own - found else []
    return '; '.join(parts + ([f'{listed(sorted(found - own), 5)} are unknown to it'] if found - own else []))


# ---------------------------------------------------------------- writing

def save_sharded(folder: str | Path, state: Any, background: bool = False) -> Path | Saving:
    """Write a state, each process its parts; every process must call it. One process alone writes all.

    Args:
        folder: for the index and the parts; what was saved there before stays until the new state is complete.
        state: nested dicts, lists and tuples of tensors, in shares (`DTensor`) or whole, and of plain data; of what is
            whole on all processes one writes its own.
        background: copy the tensors, go on and write meanwhile; the state is complete when `result()` of what comes
            back has been called, on every process. One process alone writes at once.

    Returns:
        The folder; a `Saving` for one that is written in the background.

    Raises:
        OSError: the storage failed; what was saved before is untouched.
        TypeError: there is something in the state that no file can hold.
        PeerError: another process has failed.
    """
    saving = Saving(Path(folder), state, background)
    return saving if background else saving.result()


class Saving:
    """A state that is being written, see `save_sharded`.

    Args:
        folder: where to.
        state: nested dicts and lists of tensors, numbers and texts.
        background: write while the training goes on; in one process it is written at once.
    """

    def __init__(self, folder: Path, state: Any, background: bool) -> None:
        ask()
        self.folder, background = folder, background and is_distributed()
        tensors, outline = _on_all(partial(_taken_apart, state, folder))
        self.parts = folder / gather_objects(f'parts-{secrets.token_hex(8)}')[0]
        self.index = {'format': FORMAT, 'version': VERSION, 'parts': self.parts.name, 'state': outline,
                      'tensors': {name: [x.shape, x.dtype] for name, x in tensors.items()}}
        _on_all(self._make_folder)
        writer = dcp.HuggingFaceStorageWriter(str(self.parts), save_distributed=True)
        group = _group_behind() if background else host_group()
        given = {'storage_writer': writer, 'process_group': group, 'no_dist': not is_distributed()}
        self._written = dcp.async_save(tensors, **given) if background else None
        if not background:
            self._tell(partial(dcp.save, tensors, **given))

    def _make_folder(self) -> None:
        if rank_distrib():
            return
        if self.folder.exists() and not self.folder.is_dir():
            raise FileExistsError(f'{self.folder} is a file: name a folder')
        if self.folder.exists() and any(self.folder.iterdir()) and not (self.folder / INDEX).exists():
            raise FileExistsError(f'{self.folder} holds other files: name a folder of its own')
        try:
            self.parts.mkdir(parents=True)
        except OSError as error:
            raise OSError(error.errno, f'{self.parts} could not be made: {error.strerror}. Way out: '
                                       f'{way_out_of(error)}') from error

    def _tell(self, write: Callable[[], Any]) -> None:
        """Write, or have written; an error of any process comes to all of them."""
        try:
            with _no_word_of_one_process():
                write()
        except CheckpointException as error:
            rank, (cause, _) = next(iter(error.failures.items()))
            _on_all(self._remove_parts)
            said = f'{self.folder} could not be written: {cause} (rank {rank}). What was saved before is untouched'
            if isinstance(cause, OSError):
                raise OSError(cause.errno, f'{said}. Way out: {way_out_of(cause)}') from error
            raise TypeError(f'{said}. Keep such tensors elsewhere') from error

    def _remove_parts(self) -> None:
        if not rank_distrib():
            shutil.rmtree(self.parts, ignore_errors=True)

    def done(self) -> bool:
        """Whether this process has written its parts."""
        return self._written is None or self._written.done()

    def result(self) -> Path:
        """Wait for the parts, make the state complete and return the folder; every process must call it.

        Raises:
            OSError: the storage failed; what was saved before is untouched.
            TypeError: there is something in the state that no file can hold.
            PeerError: another process has failed.
        """
        ask()
        if self._written is not None:
            self._tell(self._written.result)
        own = _on_all(self._own_files)
        self.index['files'] = {name: told for found in gather_objects(own) for name, told in found.items()}
        _on_all(self._finish)
        return self.folder

    def _own_files(self) -> dict[str, list[int]]:
        return {file.name: [file.stat().st_size, _checksum(file)]
                for file in sorted(self.parts.glob(f'shard-{rank_distrib() + 1:05d}-*'))}

    def _finish(self) -> None:
        if rank_distrib():
            return
        index = self.folder / INDEX
        before = _read_index(index)['parts'] if index.exists() else None
        write_atomic(index, self.index)
        if before is not None:
            shutil.rmtree(self.folder / before, ignore_errors=True)


def _group_behind() -> Any:
    if not is_distributed():
        return None
    if not _background or _background[0] is not dist.group.WORLD:
        _background[:] = dist.group.WORLD, dist.new_group(backend='gloo')
    return _background[1]


def _taken_apart(state: Any, folder: Path) -> tuple[dict[str, Tensor], Any]:
    """The tensors of a state by name, and the rest of it, with names in their places."""
    tensors: dict[str, Tensor] = {}
    memory: set[int] = set()

    def apart(x: Any, path: Path_) -> dict[str, Any]:
        if isinstance(x, Tensor):
            name = '.'.join(map(str, path))
            while name in tensors:
                name += "'"
            if x.layout is not torch.strided or x.is_quantized:
                raise TypeError(f'{folder} cannot hold {name!r}, a tensor of {x.dtype} in the layout {x.layout}: keep '
                                'x.to_dense() or x.dequantize()')
            x = x.detach().contiguous()
            start = own_part(x).untyped_storage().data_ptr()
            tensors[name] = x.clone() if start in memory else x  # a file has each byte once
            memory.add(start)
            return {'tensor': name}
        if isinstance(x, dict):
            return {'keys': list(x), 'values': [apart(value, (*path, key)) for key, value in x.items()]}
        if isinstance(x, (list, tuple)) and type(x) is not torch.Size:
            return {'tuple' if isinstance(x, tuple) else 'list': [apart(v, (*path, i)) for i, v in enumerate(x)]}
        return {'data': x}
    return tensors, storable(apart(state, ()), f'the state for {folder}')


def _on_all(f: Callable[[], Any]) -> Any:
    """`f()`, where it succeeds on all processes.

    Raises:
        PeerError: it has failed on another one; where it fails on this one its error comes. What is wrong with a file
            is the same error on all.
    """
    error = value = None
    try:
        value = f()
    except Exception as found:  # told to the others, and raised
        error = found
    told = gather_objects(error if isinstance(error, NOT_WHOLE) else error and f'{type(error).__name__}: {error}')
    for of_file in told:
        if isinstance(of_file, NOT_WHOLE):
            raise of_file
    if error is not None:
        raise error
    failed = [f'rank {rank} has failed with {text}' for rank, text in enumerate(told) if text]
    if failed:
        raise PeerError(f'{"; ".join(failed)}. This is rank {rank_distrib()}, which ends with it')
    return value


@contextmanager
def _no_word_of_one_process() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='torch.distributed is disabled, unavailable or uninitialized')
        yield


def _checksum(file: Path) -> int:
    crc = 0
    with open(file, 'rb') as stream:
        while block := stream.read(_BLOCK):
            crc = crc32(block, crc)
    return crc


# ---------------------------------------------------------------- reading

def load_sharded(folder: str | Path, state: Any) -> Any:
    """Read a state that `save_sharded` wrote, on as many processes or others; every process must call it.

    Everything is verified before anything is changed. Nothing in the files is ever run, and no pickle is read.

    Args:
        folder: of the files.
        state: of the same form; its tensors are filled in place and cut as they are. What it lacks comes back whole.

    Returns:
        The state with plain data as they were saved.

    Raises:
        FileNotFoundError: nothing was saved there, or a file of it is gone.
        DamagedFileError: bytes are missing or changed.
        UnsafeFileError: a file is no data, or claims what no honest file claims.
        ValueError: a tensor of `state` is not there, or has another shape.
        PeerError: another process has failed.
    """
    own = {tuple(path): x for path, x in _tensors_in(state, ())}
    folder = Path(folder)

    def check(found: dict[str, Any]) -> None:
        missing = own.keys() - set(_paths(found['state']).values())
        if missing:
            names = sorted('.'.join(map(str, path)) for path in missing)
            raise ValueError(f'{folder} has no {listed(names, 5)}: it is another state')

    def room(path: Path_, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        return own[path] if path in own else torch.empty(shape, dtype=dtype)
    return _load(folder, room, check)


def load_cut(folder: str | Path, model: nn.Module) -> dict[str, Tensor]:
    """Read tensors by name that `save_sharded` wrote into `folder` as a dict, in shares where `model` is in them.

    Raises:
        FileNotFoundError, DamagedFileError, UnsafeFileError, PeerError: see `load_sharded`.
    """
    return _load(Path(folder), lambda path, shape, dtype: cut(shape, dtype, model), lambda found: None)


def _tensors_in(state: Any, path: Path_) -> Iterator[tuple[Path_, Tensor]]:
    if isinstance(state, Tensor):
        yield path, state
    elif isinstance(state, dict):
        for key, value in state.items():
            yield from _tensors_in(value, (*path, key))
    elif isinstance(state, (list, tuple)):
        for i, value in enumerate(state):
            yield from _tensors_in(value, (*path, i))


NOT_WHOLE = DamagedFileError, UnsafeFileError, FileNotFoundError
"""What is raised, on all processes, for files that are not what was written."""

Room = Callable[[Path_, torch.Size, torch.dtype], Tensor | None]


def _load(folder: Path, room: Room, check: Callable[[dict], None]) -> Any:
    """The state, each tensor in what `room(path, shape, dtype)` gives for it; without those for which it gives none."""
    ask()
    index = _on_all(partial(_verified, folder, check))
    tensors: dict[str, Tensor] = _on_all(partial(_rooms, index, room, folder))
    reader = _on_all(partial(_Reader, folder / index['parts'], index['tensors']))
    try:
        with _no_word_of_one_process():
            dcp.load({name: x.detach() for name, x in tensors.items()}, storage_reader=reader,
                     process_group=host_group(), no_dist=not is_distributed())
    except CheckpointException as error:
        rank, (cause, _) = next(iter(error.failures.items()))
        raise DamagedFileError(f'{folder} cannot be read: {type(cause).__name__}: {cause} (rank {rank}). Take an older '
                               'one, or save it again') from error
    return _together(index['state'], tensors)


def _verified(folder: Path, check: Callable[[dict], None]) -> dict[str, Any]:
    """The index, behind a look at every byte; each process looks at its share of the files."""
    index = _read_index(folder / INDEX)
    check(index)
    parts, names = folder / index['parts'], sorted(index['files'])
    there = sorted(file.name for file in parts.glob('*.safetensors')) if parts.is_dir() else []
    if set(there) != set(names):
        lost = [name for name in names if name not in there]
        if lost:
            raise FileNotFoundError(f'{parts} lacks {listed(lost, 4)}: take an older state, or save it again')
        raise UnsafeFileError(f'{parts} holds {listed([n for n in there if n not in names], 4)}, which the index does '
                              'not name: remove what does not belong there')
    n_ranks = dist.get_world_size() if is_distributed() else 1
    for name in names[rank_distrib()::n_ranks]:
        file, (size, crc) = parts / name, index['files'][name]
        if not file.is_file() or file.stat().st_size != size or _checksum(file) != crc:
            raise DamagedFileError(f'{file} is not what was written: take an older state, or save it again')
    return index


def _read_index(file: Path) -> dict[str, Any]:
    if not file.exists():
        raise FileNotFoundError(f'{file.parent} holds no finished state in shares, {file.name} is not there: one is '
                                'written by minifast.shards.save_sharded')
    found = read_tensors(file)
    if not isinstance(found, dict) or found.get('format') != FORMAT:
        raise ValueError(f'{file} is no index of a state in shares')
    if type(found.get('version')) is not int or not 0 < found['version'] <= VERSION:
        raise ValueError(f'{file} has the version {found.get("version")!r}, this minifast reads up to {VERSION}: '
                         'install a newer one')
    files, tensors = found.get('files'), found.get('tensors')
    good = (isinstance(found.get('parts'), str) and _PARTS.fullmatch(found['parts']) and isinstance(files, dict)
            and all(isinstance(name, str) and _FILE.fullmatch(name) and _are_counts(told, 2)
                    for name, told in files.items())
            and isinstance(tensors, dict) and all(isinstance(name, str) and isinstance(told, list) and len(told) == 2
                                                  and type(told[0]) is torch.Size and isinstance(told[1], torch.dtype)
                                                  for name, told in tensors.items()))
    told = sum(math.prod(shape) * dtype.itemsize for shape, dtype in tensors.values()) if good else 0
    if not good or set(_paths(found.get('state'), file)) != set(tensors) or told > sum(n for n, _ in files.values()):
        raise UnsafeFileError(f'{file} makes no sense: it was not written by minifast.shards.save_sharded')
    return found


def _are_counts(x: Any, n: int | None = None) -> bool:
    return isinstance(x, (list, tuple)) and n in (None, len(x)) and all(type(v) is int and v >= 0 for v in x)


def _paths(node: Any, file: Path | None = None, path: Path_ = ()) -> dict[str, Path_]:
    """The names of the tensors in an outline, and the keys on the way to each.

    Raises:
        UnsafeFileError: it is no outline.
    """
    kind = next(iter(node), None) if isinstance(node, dict) else None
    if kind == 'tensor' and isinstance(node[kind], str):
        return {node[kind]: path}
    if kind == 'data':
        return {}
    if kind in ('list', 'tuple') and isinstance(node[kind], list):
        pairs = list(enumerate(node[kind]))
    elif kind == 'keys' and isinstance(node[kind], list) and isinstance(node.get('values'), list):
        pairs = list(zip(node['keys'], node['values'], strict=False))
    else:
        raise UnsafeFileError(f'{file} makes no sense: it was not written by minifast.shards.save_sharded')
    return {name: found for key, value in pairs for name, found in _paths(value, file, (*path, key)).items()}


def _rooms(index: dict[str, Any], room: Room, folder: Path) -> dict[str, Tensor]:
    """Where each tensor is read to, by its name."""
    found = {}
    for name, path in _paths(index['state']).items():
        shape, dtype = index['tensors'][name]
        own = room(path, shape, dtype)
        if own is None:
            continue
        if own.shape != shape or own.is_floating_point() != dtype.is_floating_point:
            raise ValueError(f'{folder}: {name!r} has the shape {list(shape)} and {dtype}, where {list(own.shape)} and '
                             f'{own.dtype} are wanted: it is the state of another model')
        found[name] = own
    return found


def _together(node: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    kind = next(iter(node))
    if kind == 'tensor':
        return tensors.get(node[kind])
    if kind == 'data':
        return node[kind]
    if kind == 'keys':
        return {key: _together(value, tensors) for key, value in zip(node['keys'], node['values'])}
    values = [_together(value, tensors) for value in node[kind]]
    return tuple(values) if kind == 'tuple' else values


class _Reader(dcp.HuggingFaceStorageReader):
    """torch's reader, which believes what the files say of their parts if it fits what the index says.

    Args:
        parts: the folder of the files.
        tensors: the shape and the kind of numbers of each tensor, by its name.

    Raises:
        UnsafeFileError: the parts of a tensor are not the whole of it.
    """

    def __init__(self, parts: Path, tensors: dict[str, Any]) -> None:
        super().__init__(str(parts))
        try:
            self.found = super().read_metadata()
        except Exception as error:  # whatever a made-up header leads to
            raise UnsafeFileError(f'{parts}: a file in it tells no sense of its parts ({error!r:.200})') from error
        if self.found.state_dict_metadata.keys() != tensors.keys():
            raise UnsafeFileError(f'{parts}: its files hold other tensors than the index names')
        for name, (shape, dtype) in tensors.items():
            told = self.found.state_dict_metadata[name]
            if told.properties.dtype != dtype or not _is_all_of(shape, told.chunks):
                raise UnsafeFileError(f'{parts}: the parts of {name!r} are not the whole of it')
            told.size = shape

    def read_metadata(self) -> Metadata:
        """Where each part of each tensor lies."""
        return self.found


def _is_all_of(shape: torch.Size, chunks: list[Any]) -> bool:
    """Whether parts of a tensor are all of it, and none lies on another."""
    boxes = [(tuple(chunk.offsets), tuple(chunk.sizes)) for chunk in chunks]
    if not all(_are_counts(offset, len(shape)) and len(size) == len(shape)
               and all(o + s <= n for o, s, n in zip(offset, size, shape)) for offset, size in boxes):
        return False
    boxes = sorted((offset, size) for offset, size in boxes if math.prod(size))
    if sum(math.prod(size) for _, size in boxes) != math.prod(shape):
        return False
    if all(size[1:] == tuple(shape[1:]) for _, size in boxes):  # rows, as FSDP cuts them
        return all(a[0][0] + a[1][0] <= b[0][0] for a, b in zip(boxes, boxes[1:])) if shape else len(boxes) == 1
    return not any(all(ao < bo + bs and bo < ao + as_ for ao, as_, bo, bs in zip(*a, *b))
                   for i, a in enumerate(boxes) for b in boxes[:i])
