"""Streams: data that are read from start to end, shared out by rank and worker, and found again after a restart.

Data sets of webdataset and of Hugging Face `datasets` are read through their own libraries, which are imported by
whoever made them: all processes and their workers read a part each, and what shuffles them is keyed by (seed, epoch).
Any other iterable is read by one worker of one process.
"""
from __future__ import annotations

import copy
import itertools
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import FunctionType, MethodType
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import get_worker_info

from minifast.data.collate import BatchRequest, FetchedBatch
from minifast.data.sampler import BATCH, ITEM, ORDER, Position
from minifast.data.workers import fork_cpu_rng, seed_cpu
from minifast.seeds import key_seed
from minifast.terminal import say, warn
from minifast.torch_core import length_of

__all__ = ['Reader', 'Reading', 'evened', 'kind_of', 'own_shuffle', 'read']


class Reader(NamedTuple):
    """One of those who read a stream together.

    Attributes:
        rank: of its process.
        n_ranks: how many processes read.
        worker: which one of its process.
        n_workers: how many workers of each process read.
    """

    rank: int = 0
    n_ranks: int = 1
    worker: int = 0
    n_workers: int = 1


# ---------------------------------------------------------------- webdataset

class _WebDataset:
    """What a `webdataset.DataPipeline` gives: shards are shared out by rank, and those of a rank by worker.

    It keeps no state, so a resume reads from the beginning and passes over what was handed out before.
    """

    @staticmethod
    def part(dataset: Any, reader: Reader, key: int) -> Any:
        """What a reader reads in one pass: a pipeline of its own, whose shuffles begin anew and draw from `key`."""
        import webdataset as wds
        by_rank, by_worker, missing = (wds.split_by_node, wds.single_node_only), wds.split_by_worker, []
        if _shard_list(dataset) is not None and not _splits_itself(dataset):
            missing += [] if any(stage in by_rank for stage in dataset.pipeline) else [wds.split_by_node]
            missing += [] if by_worker in dataset.pipeline else [by_worker]
        stages: list[Any] = []
        for i, stage in enumerate([*dataset.pipeline[:1], *missing, *dataset.pipeline[1:]]):
            if stage in by_rank:
                stages.append(partial(_every, reader.n_ranks, reader.rank))
                key = key_seed(key, reader.rank)  # only behind it: before it all ranks must draw alike
            elif stage is by_worker:
                stages.append(partial(_every, reader.n_workers, reader.worker))
                key = key_seed(key, reader.worker)
            elif stage is not wds.compat.check_empty or reader.n_ranks * reader.n_workers == 1:
                stages.append(_keyed_stage(stage, reader, key_seed(key, i)))
        made = copy.copy(dataset)
        made.pipeline = stages
        return made

    @staticmethod
    def state(part: Any) -> None:
        """None: there is none."""

    @staticmethod
    def resume(part: Any, state: Any) -> None:
        """Never called, see `state`."""

    @staticmethod
    def why_not_shared(dataset: Any) -> str | None:
        """Why ranks cannot be given a part each."""
        import webdataset as wds
        split = any(stage in (wds.split_by_node, wds.single_node_only) for stage in dataset.pipeline)
        if _shard_list(dataset) is not None and _splits_itself(dataset) and not split:
            return ('nothing tells whether the function behind its shards shares them out: put '
                    'webdataset.split_by_node there, or nodesplitter=webdataset.split_by_node')
        if _shard_list(dataset) is not None or _is_random(dataset.pipeline[0]):
            return None
        return (f'its first stage ({type(dataset.pipeline[0]).__name__}) is no list of shards: '
                'webdataset.SimpleShardList is')

    @staticmethod
    def why_inexact(dataset: Any) -> str | None:
        """Why it would not be read again as it was."""
        import webdataset as wds
        first = dataset.pipeline[0]
        if isinstance(first, wds.shardlists.DirectoryShardList):
            return 'it yields whatever shards lie in a folder at that time: give a list of shards'
        if any(getattr(stage, 'f', None) is wds.resampled.f for stage in dataset.pipeline):
            return 'webdataset.resampled draws from the system: webdataset.ResampledShards can be seeded'
        return None

    @staticmethod
    def facts(dataset: Any) -> str:
        """What all ranks must have in common, and a resume with what went before, in few bytes."""
        names = [url.rpartition('/')[2] for url in _shard_list(dataset) or []]
        stages = [getattr(getattr(stage, 'f', stage), '__name__', type(stage).__name__) for stage in dataset.pipeline]
        return f'{len(names)} shards, checksum {zlib.crc32(" ".join(names).encode())}; {", ".join(stages)}'


def _every(n: int, first: int, items: Iterable) -> Iterator:
    """Each `n`-th, as `webdataset.split_by_node` and `split_by_worker` have it, by numbers that are given."""
    return itertools.islice(items, first, None, n)


def _shard_list(dataset: Any) -> list[str] | None:
    """The shards of a pipeline; None where it does not begin with a list of them."""
    import webdataset as wds
    first = dataset.pipeline[0]
    return list(first.urls) if isinstance(first, wds.SimpleShardList) else None


def _is_random(stage: Any) -> bool:
    """Whether a stage draws shards with replacement, so that there is nothing to be shared out."""
    import webdataset as wds
    return isinstance(stage, wds.ResampledShards)


def _splits_itself(dataset: Any) -> bool:
    """Whether the stage behind the shards is a function of the user's own, which may be a `nodesplitter`."""
    import webdataset as wds
    second = next(iter(dataset.pipeline[1:]), None)
    ours = wds.split_by_node, wds.single_node_only, wds.split_by_worker
    return isinstance(second, (FunctionType, MethodType, partial)) and second not in ours


def _keyed_stage(stage: Any, reader: Reader, key: int) -> Any:
    """A stage as it was before any pass, and what it draws, drawn from `key`."""
    import webdataset as wds
    if isinstance(stage, wds.filters.FilterFunction) and stage.f is wds.filters.shuffle.f:
        said = {**dict(zip(('bufsize', 'initial'), stage.args)), **stage.kw}
        return wds.detshuffle(said.get('bufsize', 1000), said.get('initial', 100), seed=key)
    shuffles = isinstance(stage, wds.SimpleShardList) and stage.seed is not None
    if not (shuffles or _is_random(stage) or isinstance(stage, wds.detshuffle)):
        return stage
    stage = copy.copy(stage)
    stage.seed, stage.epoch = key, -1
    if _is_random(stage):
        stage.deterministic, stage.worker_seed = True, partial(key_seed, reader.rank, reader.worker)
    return stage


# ---------------------------------------------------------------- Hugging Face datasets

class _HuggingFace:
    """What a `datasets.IterableDataset` gives: the library shares it out by rank and by worker, and keeps its state.

    The state does not hold what lies in a shuffle buffer, nor does it fit tables, so those are read from the beginning
    after a restart, and what was handed out before is passed over.
    """

    @staticmethod
    def part(dataset: Any, reader: Reader, key: int) -> Any:
        """What a rank reads in one pass; the library itself asks which worker reads."""
        from datasets.distributed import split_dataset_by_node
        split = dataset._distributed
        part = copy.copy(dataset) if split is not None and split.world_size == reader.n_ranks else (
            split_dataset_by_node(dataset, reader.rank, reader.n_ranks))
        part._epoch = int(dataset._epoch)  # its own, which other passes do not share
        if _generators(dataset):
            part.set_epoch(1 + key % (2 ** 31 - 1))
        return part

    @staticmethod
    def state(part: Any) -> Any:
        """Where it stands; None where the library's state would not lead to the same items."""
        buffered = any(type(node).__name__ == 'BufferShuffledExamplesIterable' for node in _nodes(part._ex_iterable))
        tables = part._formatting is not None and part._formatting.is_table
        return None if buffered or tables else part.state_dict()

    @staticmethod
    def resume(part: Any, state: Any) -> None:
        """Let the next pass over `part` go on where `state` was taken."""
        part.load_state_dict(state)

    @staticmethod
    def why_not_shared(dataset: Any) -> str | None:
        """Why ranks cannot be given a part each."""
        if 'no seed' in map(_seed_of, _generators(dataset)):
            return 'it is shuffled without a seed, so each process would have an order of its own: .shuffle(seed=0)'
        return None

    @staticmethod
    def why_inexact(dataset: Any) -> str | None:
        """Why it would not be read again as it was."""
        if 'no seed' in map(_seed_of, _generators(dataset)):
            return 'it is shuffled without a seed, so its order is another after a restart: .shuffle(seed=0) has one'
        return None

    @staticmethod
    def facts(dataset: Any) -> str:
        """What all ranks must have in common, and a resume with what went before, in few bytes."""
        nodes = [type(node).__name__ for node in _nodes(dataset._ex_iterable)]
        seeds = [_seed_of(generator) for generator in _generators(dataset)]
        return f'{dataset._ex_iterable.num_shards} shards; {", ".join(nodes)}; seeds {seeds}'


def _nodes(node: Any) -> Iterator[Any]:
    """A node of what `datasets` reads from, and all below it."""
    yield node
    below = [node.ex_iterable] if hasattr(node, 'ex_iterable') else getattr(node, 'ex_iterables', ())
    for other in below:
        yield from _nodes(other)


def _generators(dataset: Any) -> list[np.random.Generator]:
    """Those that shuffle a data set or choose between several."""
    found = [getattr(node, 'generator', None) for node in _nodes(dataset._ex_iterable)]
    return [generator for generator in found if isinstance(generator, np.random.Generator)]


def _seed_of(generator: np.random.Generator) -> str:
    """The seed that a generator was made with, 'no seed' where the system has drawn one, of 128 bits."""
    found = getattr(generator.bit_generator.seed_seq, 'entropy', None)
    return 'no seed' if isinstance(found, int) and found >= 2 ** 64 else str(found)


def kind_of(dataset: Any) -> Any:
    """What can be done with the stream `dataset` through the library it is of; None: neither of those."""
    wds, hugging_face = sys.modules.get('webdataset'), sys.modules.get('datasets')
    if isinstance(dataset, getattr(hugging_face, 'IterableDataset', ())):
        return _HuggingFace
    if isinstance(dataset, getattr(wds, 'DataPipeline', ())) and dataset.pipeline:
        return _WebDataset
    return None


def own_shuffle(dataset: Any) -> str:
    """How the stream `dataset` is shuffled instead of by its loader, for a message; '' where `kind_of` is None."""
    return '' if kind_of(dataset) is None else ', and shuffle it by its own .shuffle(...), keyed by (seed, epoch)'


# ---------------------------------------------------------------- a pass

@dataclass
class Reading:
    """How a process reads a stream in one pass, and where its workers stand: what a resume needs.

    Attributes:
        kind: what its library can do; None: of another stream, which one worker reads.
        rank: of the process.
        n_ranks: how many processes read.
        n_workers: how many workers of this process.
        bs: items a batch.
        turn: whose batch comes next; workers take turns, also when some have come to their end.
        done: how many batches of each worker were handed out.
        states: what its library says of each worker's place behind those; None: nothing.
        left_out: batches that are made again, and left out by the process that asked for them.
    """

    kind: Any
    rank: int
    n_ranks: int
    n_workers: int
    bs: int | None
    turn: int = 0
    done: list[int] = field(default_factory=list)
    states: list[Any] = field(default_factory=list)
    left_out: int = 0

    @classmethod
    def of(cls, dl: Any, at: Position, n_workers: int) -> Reading:
        """The reading of a pass of the loader `dl` that begins at the position `at`, by `n_workers` workers."""
        kind = kind_of(dl.dataset)
        n_ranks = dl.share.parts if kind else 1
        n_workers = n_workers if kind else 1
        reading = cls(kind, dl.share.rank if n_ranks > 1 else 0, n_ranks, n_workers, dl.bs, done=[0] * n_workers,
                      states=[None] * n_workers)
        if kind is not None and at.batch:
            reading._go_on(at, type(dl.dataset).__name__)
        elif n_workers == 1:
            reading.done[0] = at.batch
        return reading

    def _go_on(self, at: Position, name: str) -> None:
        then = at.stream or {}
        places = [(then.get('n_ranks', self.n_ranks), then.get('n_workers', self.n_workers)),
                  (self.n_ranks, self.n_workers)]
        if places[0] != places[1]:
            told = [f'{ranks} processes with {workers} workers each' for ranks, workers in places]
            warn(f'the stream ({name}) was read by {told[0]}, and is by {told[1]} now, which share it out otherwise: '
                 'in this epoch some items come twice and others not at all')
        if (self.rank, self.bs, *places[1], at.batch) == tuple(
                then.get(name) for name in ('rank', 'bs', 'n_ranks', 'n_workers', 'batch')):
            self.turn, self.done, self.states = then['turn'], list(then['done']), list(then['states'])
        elif self.n_workers == 1:
            self.done[0] = at.batch
        else:
            self.left_out = at.batch
        read_anew = any(done and state is None for done, state in zip(self.done, self.states))
        if (read_anew or self.left_out) and not self.rank:
            say(f'the stream ({name}) is read from its beginning, and {at.batch} batches of it are passed over')

    def state(self, batch: int) -> dict[str, Any]:
        """What `Position.stream` takes, where `batch` batches were handed out."""
        found = {name: getattr(self, name) for name in ('rank', 'n_ranks', 'n_workers', 'bs', 'turn')}
        return {**found, 'batch': batch, 'done': list(self.done), 'states': list(self.states)}

    def handed_out(self, reader: tuple[int, int, Any]) -> None:
        """Note that a batch has gone out, and what its worker said of itself: `FetchedBatch.reader`."""
        worker, self.done[worker], self.states[worker] = reader
        self.turn = (worker + 1) % self.n_workers

    def numbered(self, made: Iterator[FetchedBatch], start: int) -> Iterator[FetchedBatch]:
        """The batches of all workers, `made`, numbered as they come, from `start` on."""
        number = start - self.left_out
        for host in made:
            if host.reader is not None:
                host.number, number = number, number + 1
                if host.number >= start:
                    yield host


def _bound(dl: Any) -> int | None:
    """How many items a reader reads at most; what a stream of a library says of its length is no bound."""
    told = kind_of(dl.dataset) is not None and dl.n == length_of(dl.dataset)
    return None if told else dl.n


def read(maker: Any, reading: Reading) -> Iterator[FetchedBatch]:
    """The batches of one reader, wherever that is.

    Args:
        maker: the `BatchMaker` of a pass.
        reading: from where on.
    """
    dl, own, kind = maker.dl, maker.generators, reading.kind
    seed, epoch, bound, size = maker.at.seed, maker.at.epoch, _bound(dl), dl.bs or 1
    info = get_worker_info()
    reader = Reader(reading.rank, reading.n_ranks, 0 if info is None else info.id, reading.n_workers)
    done, state = reading.done[reader.worker], reading.states[reader.worker]
    key = key_seed(seed, ORDER, epoch)
    with fork_cpu_rng(own):
        seed_cpu(key, own)
        dataset = dl.dataset if kind is None else kind.part(dl.dataset, reader, key)
        if state is not None:
            kind.resume(dataset, state)
        items = None if dataset is None else iter(dataset)  # create_item may need none
    if reader.worker < reading.turn:  # torch asks the first worker first
        yield FetchedBatch(-1, None)
    for number in itertools.count(0 if state is None else done):
        n = size if bound is None else max(min(size, bound - number * size), 0)
        of_all = (number * reader.n_workers + reader.worker) * reader.n_ranks + reader.rank
        pairs = [(None, key_seed(seed, ITEM, epoch, of_all * size + i)) for i in range(n)]
        dl.it = items  # another pass may have begun meanwhile
        with fork_cpu_rng(own):
            if number < done and items is not None:
                made = _passed_over(items, own, pairs)
            else:
                made = maker.assemble(BatchRequest(number, key_seed(seed, BATCH, epoch, of_all), pairs))
        if pairs and number >= done and not (made.ended and (dl.drop_last or made.data is None)):
            made.reader = reader.worker, number + 1, None if kind is None else kind.state(dataset)
            yield made
        if made.ended or not pairs:
            return


def evened(made: Iterator[FetchedBatch], any_has: Callable[[bool], bool], first: Callable[[], FetchedBatch], run: Any
           ) -> Iterator[FetchedBatch]:
    """A process's batches of a stream, and behind them stand-ins until no other process has one either.

    Args:
        made: the batches.
        any_has: as `Share` has it.
        first: a batch to stand in where this process has none.
        run: the pass, whose `stand_ins` are noted.
    """
    last, number = None, run.at.batch
    while True:
        host = next(made, None)
        if host is not None and host.data is None:
            yield host
            continue
        if not any_has(host is not None):
            return
        if host is None:
            last = first() if last is None else last
            host = FetchedBatch(number, last.data, seeds=last.seeds)
            run.stand_ins.add(number)
        last, number = host, host.number + 1
        yield host


def _passed_over(items: Iterator, own: Sequence[Any], pairs: list) -> FetchedBatch:
    """A batch that was handed out before a resume: read, and not made."""
    made = FetchedBatch(-1, None)
    for _, seed in pairs:
        seed_cpu(seed, own)
        made.ended = made.ended or next(items, made) is made
    return made
