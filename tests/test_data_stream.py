"""Laws of streams: each item once an epoch whoever reads, an order that is keyed, and a resume at any batch."""
from __future__ import annotations

import gc
import io
import json
import random
import re
import tarfile
import warnings
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import webdataset as wds
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import IterableDataset

from minifast.callback.checkpoint import CheckpointCallback
from minifast.callback.distributed import DistributedTrainer
from minifast.data.core import DataLoaders
from minifast.data.load import DataLoader
from minifast.data.sampler import Position
from minifast.data.stream import Reader, Reading, kind_of, own_shuffle
from minifast.learner import Learner
from minifast.losses import MSELossFlat
from minifast.seeds import set_seed
from minifast.tensorfile import storable
from minifast.training_state import inexact_loaders
from tests.distributed.streaming import StopAfter, Stopped, hugging_face, ordered, web, write_shards

# webdataset leaves the closing of its files to Python
pytestmark = [pytest.mark.filterwarnings('ignore::ResourceWarning'),
              pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')]

KINDS = {'webdataset': lambda shards: web(shards, True).map(lambda item: item[0]),
         'webdataset in order': lambda shards: web(shards, False).map(lambda item: item[0]),
         'datasets': lambda shards: hugging_face(shards, True),
         'datasets in order': lambda shards: ordered(shards, True)}
MAPPED = {'datasets mapped': lambda shards: ordered(shards, True).map(lambda item: {'i': item['i']})}
N = 32
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope='module', autouse=True)
def left_open():
    """Files that are left to Python are closed here, where that is no error, and not within a test of another room."""
    yield
    gc.collect()


@pytest.fixture(scope='module')
def shards(tmp_path_factory):
    """Four shards of each kind, of 5, 7, 9 and 11 items."""
    folder = tmp_path_factory.mktemp('streams') / 'shards'
    assert write_shards(folder) == N
    return sorted(folder.iterdir())


def loader(kind, shards, **kwargs):
    """Batches of four items."""
    return DataLoader({**KINDS, **MAPPED}[kind](shards), **{'bs': 4, 'num_workers': 0, **kwargs})


def numbers(batch):
    """The items of a batch."""
    return [int(i) for i in (batch['i'] if isinstance(batch, dict) else batch).flatten()]


def run(dl, seed=3, epoch=0, start=0, stream=None):
    """The batches of a pass, as numbers of items."""
    dl.load_state_dict({'seed': seed, 'epoch': epoch, 'batch': start, 'stream': stream})
    return [numbers(b) for b in dl]


def flat(batches):
    """All items."""
    return [i for batch in batches for i in batch]


class Plain(IterableDataset):
    """A stream of no library."""

    def __iter__(self):
        yield 1


def drawing(item):
    """An item with numbers from the global generators."""
    n = item['i'] if isinstance(item, dict) else int(item)
    return torch.tensor([n, random.random(), float(torch.rand(()))], dtype=torch.float64)


# ---------------------------------------------------------------- each item once, in an order that is keyed

@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('kind', KINDS)
def test_items_come_once_an_epoch_in_an_order_of_seed_and_epoch(shards, kind, workers):
    """What its library shuffles is another order in another epoch and by another seed, and the same for the same."""
    dl = loader(kind, shards, num_workers=workers)
    first, second, other_seed = run(dl), run(dl, epoch=1), run(dl, seed=4)
    assert sorted(flat(first)) == sorted(flat(second)) == sorted(flat(other_seed)) == list(range(N))
    shuffled = 'order' not in kind
    assert (first != second) is shuffled and (first != other_seed) is shuffled
    assert (flat(first) == list(range(N))) is (not shuffled and workers == 0)
    assert run(loader(kind, shards, num_workers=workers)) == first


@pytest.mark.parametrize('n_ranks', [2, 3, 5])
@pytest.mark.parametrize('kind', KINDS)
def test_ranks_read_a_part_each_and_leave_out_nothing(shards, kind, n_ranks):
    """Also where there are fewer shards than ranks, and where they cannot be shared out evenly."""
    parts = []
    for rank in range(n_ranks):
        dl = loader(kind, shards)
        dl.share_out(rank, n_ranks)
        parts.append(flat(run(dl, epoch=1)))
    assert sorted(flat(parts)) == list(range(N)) and sum(map(bool, parts)) > 1


@pytest.mark.parametrize('kind', ['webdataset', 'datasets in order'])
def test_ranks_with_workers_read_a_part_each(shards, kind):
    """Two processes with two workers are four readers, and no two items are drawn for alike."""
    parts = []
    for rank in range(2):
        dl = loader(kind, shards, num_workers=2, after_item=drawing)
        dl.share_out(rank, 2)
        dl.begin(3, 0)
        parts.append(torch.cat(list(dl)))
    found = torch.cat(parts)
    assert sorted(found[:, 0].tolist()) == list(range(N)) and all(map(len, parts))
    assert len(set(found[:, 1].tolist())) == len(set(found[:, 2].tolist())) == N


def test_what_a_rank_was_given_by_the_library_stays_its_part(shards):
    """A data set that the script has split for its ranks is not split again, and neither is a pipeline."""
    from datasets.distributed import split_dataset_by_node
    stream = hugging_face(shards, True)
    dl = DataLoader(split_dataset_by_node(stream, 1, 2), bs=4)
    dl.share_out(1, 2)
    plain = loader('datasets', shards)
    plain.share_out(1, 2)
    assert run(dl) == run(plain)
    urls = [str(p) for p in shards if p.suffix == '.tar']
    said = wds.WebDataset(urls, shardshuffle=False, nodesplitter=wds.split_by_node).decode()
    dl, plain = DataLoader(said.map(lambda s: s['x.json']['i']), bs=4), loader('webdataset in order', shards)
    dl.share_out(1, 2)
    plain.share_out(1, 2)
    assert run(dl) == run(plain) and len(flat(run(dl))) == 7 + 11


def test_a_pipeline_by_hand_is_shared_out_too(shards):
    """With no stage that splits, and with one of its own only for workers."""
    urls = [str(p) for p in shards if p.suffix == '.tar']
    for own in ([], [wds.split_by_worker], [wds.shuffle(4), wds.split_by_node, wds.split_by_worker]):
        stages = [wds.SimpleShardList(urls), *own, wds.tarfile_to_samples(), wds.shuffle(5), wds.decode(),
                  wds.map(lambda s: s['x.json']['i'])]
        parts = []
        for rank in range(2):
            dl = DataLoader(wds.DataPipeline(*stages), bs=4)
            dl.share_out(rank, 2)
            parts.append(flat(run(dl)))
        assert sorted(flat(parts)) == list(range(N)) and all(parts), own
    rest = [wds.tarfile_to_samples(), wds.decode(), wds.map(lambda s: s['x.json']['i'])]
    dl = DataLoader(wds.DataPipeline(wds.SimpleShardList(urls), *rest), bs=4, num_workers=2)
    assert sorted(flat(run(dl))) == list(range(N))
    parts = []
    for rank in range(2):  # whose seed is the time of day
        dl = DataLoader(wds.DataPipeline(wds.SimpleShardList(urls, seed=True), *rest), bs=4)
        dl.share_out(rank, 2)
        parts.append(flat(run(dl)))
    assert sorted(flat(parts)) == list(range(N)) and run(dl, epoch=1) != run(dl)


def test_shards_drawn_with_replacement_are_keyed(shards):
    """`ResampledShards` has no end: the pipeline's `with_epoch` gives it one, and seed and epoch say what is drawn."""
    urls = [str(p) for p in shards if p.suffix == '.tar']

    def drawn(rank, epoch, n_ranks=2):
        stream = wds.WebDataset(urls, resampled=True, shardshuffle=False).decode().map(lambda s: s['x.json']['i'])
        dl = DataLoader(stream.with_epoch(20), bs=4)
        dl.share_out(rank, n_ranks)
        return run(dl, epoch=epoch)
    first = drawn(0, 0)
    assert len(flat(first)) == 20 and drawn(0, 0) == first
    assert drawn(0, 1) != first and drawn(1, 0) != first


def test_ready_batches_and_a_length_that_is_told(shards):
    """A pipeline that makes batches itself, and one that says how many items it has, which is no bound."""
    ready = web(shards, False).batched(5)
    assert [len(b[0]) for b in DataLoader(ready, bs=None)] == [5] * 6 + [2]
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', '.*with_length.*')  # that it is no bound
        told = web(shards, False).map(lambda item: item[0]).with_length(12)
    dl = DataLoader(told, bs=4)
    assert len(dl) == 3 and sorted(flat(run(dl))) == list(range(N))
    dl.share_out(0, 3)
    assert len(dl) == 1


ORDERS = {
    'shuffle': lambda urls: [wds.SimpleShardList(urls), wds.tarfile_to_samples(), wds.shuffle(9, initial=9)],
    'detshuffle': lambda urls: [wds.SimpleShardList(urls), wds.tarfile_to_samples(), wds.detshuffle(9, 9, seed=1)],
    'detshuffle of shards': lambda urls: [wds.SimpleShardList(urls), wds.detshuffle(9, 9, 1), wds.tarfile_to_samples()],
    'seeded list': lambda urls: [wds.SimpleShardList(urls, seed=1), wds.tarfile_to_samples()],
    'resampled': lambda urls: [wds.ResampledShards(urls, 4), wds.tarfile_to_samples()]}


@pytest.mark.parametrize('order', ORDERS)
def test_whatever_a_pipeline_shuffles_by_is_keyed_and_begins_anew(order, shards):
    """By seed and epoch: the same in a second pass and in another pipeline, another one otherwise; the pipeline that
    was given is left as it is."""
    urls = [str(p) for p in shards if p.suffix == '.tar']

    def made():
        rest = (wds.decode(), wds.map(lambda s: s['x.json']['i']))
        return DataLoader(wds.DataPipeline(*ORDERS[order](urls), *rest), bs=4)
    dl = made()
    stages = [*dl.dataset.pipeline]
    first, again, second, other_seed = run(dl), run(dl), run(dl, epoch=1), run(dl, seed=4)
    assert first == again == run(made()) and len({str(o) for o in (first, second, other_seed)}) == 3
    assert all(a is b for a, b in zip(dl.dataset.pipeline, stages, strict=True))


def test_a_shuffle_keeps_the_buffer_that_it_was_told(shards):
    """By place or by name; what was not told is webdataset's: with a buffer of one nothing moves."""
    urls = [str(p) for p in shards if p.suffix == '.tar']

    def items(*stage):
        rest = (wds.tarfile_to_samples(), wds.decode(), wds.map(lambda s: s['x.json']['i']))
        return flat(run(DataLoader(wds.DataPipeline(wds.SimpleShardList(urls), *rest, *stage), bs=4)))
    assert items(wds.shuffle(1, initial=1)) == items(wds.shuffle(1, 1)) == items(wds.shuffle(bufsize=1, initial=1)) == [
        *range(N)]
    near = items(wds.shuffle(3, initial=3))
    assert near == items(wds.shuffle(3, 3)) != [*range(N)]
    assert near[-1] > 20 and max(i - place for place, i in enumerate(near)) <= 3
    far = items(wds.shuffle())
    assert sorted(far) == [*range(N)] and max(i - place for place, i in enumerate(far)) > 9
    assert far == items(wds.shuffle(1000, 100)) == items(wds.shuffle(1000))


@pytest.mark.parametrize('n_ranks, workers', [(1, 0), (2, 0), (2, 2), (1, 2)])
def test_what_is_drawn_for_a_batch_is_drawn_for_no_other(n_ranks, workers, shards):
    """Of whatever reader and epoch; and again the same."""
    def drawn(samples):
        return [random.random(), float(torch.rand(()))]

    def all_drawn():
        found = []
        for rank in range(n_ranks):
            dl = loader('webdataset', shards, num_workers=workers, create_batch=drawn)
            dl.share_out(rank, n_ranks)
            for seed, epoch in ((3, 0), (3, 1), (4, 0)):
                dl.begin(seed, epoch)
                found += [tuple(b) for b in dl]
        return found
    found = all_drawn()
    assert len(found) >= 24 and all(len(set(draws)) == len(found) for draws in zip(*found))
    assert all_drawn() == found


def test_a_reader_without_a_shard_is_none_that_has_found_nothing(shards):
    """webdataset takes an empty pass for a mistake: it is one only where one reader reads it all."""
    urls = [str(shards[i]) for i in range(len(shards)) if shards[i].suffix == '.tar'][:1]
    empty = [wds.SimpleShardList(urls), wds.tarfile_to_samples(), wds.compat.check_empty]
    kind = kind_of(wds.DataPipeline(*empty))
    for n_ranks, n_workers, is_kept in ((1, 1, True), (2, 1, False), (1, 2, False)):
        part = kind.part(wds.DataPipeline(*empty), Reader(0, n_ranks, 0, n_workers), 3)
        assert (wds.compat.check_empty in part.pipeline) is is_kept


def test_pipelines_of_other_stages_are_other_streams(shards):
    """Functions by their names, stages of webdataset by what they do, others by their class; and other shards, by their
    number and their names."""
    urls = [str(p) for p in shards if p.suffix == '.tar']

    def own(source):
        yield from source

    def other(source):
        yield from source

    class Stage:
        def __call__(self, source):
            yield from source

    def facts(*stages, urls=urls):
        stream = wds.DataPipeline(wds.SimpleShardList(urls), wds.tarfile_to_samples(), *stages)
        return kind_of(stream).facts(stream)
    told = [facts(), facts(own), facts(other), facts(Stage()), facts(wds.map(len)), facts(wds.select(len)),
            facts(wds.map(len), own), facts(own, wds.map(len)), facts(urls=urls[:3]), facts(urls=urls[1:])]
    assert len(set(told)) == len(told) and told[0].startswith('4 shards, checksum ')
    assert facts(wds.map(len)) == facts(wds.map(str)) and len(told[0]) < 120
    assert all(name in facts(own, Stage(), wds.map(len)) for name in ('own', 'Stage', 'map', 'SimpleShardList'))


def test_a_position_tells_who_reads_and_where_each_worker_stands(shards):
    """Of the batches that were handed out, not of those that lie ready; workers take turns."""
    dl = loader('datasets in order', shards, num_workers=2)
    dl.share_out(1, 2)
    dl.begin(3, 0)
    batches, told = iter(dl), []
    for _ in range(3):
        next(batches)
        told.append(dl.state_dict()['stream'])
    batches.close()
    assert [{name: o[name] for name in ('rank', 'n_ranks', 'n_workers', 'bs')} for o in told] == [
        {'rank': 1, 'n_ranks': 2, 'n_workers': 2, 'bs': 4}] * 3
    assert [(o['turn'], o['batch'], o['done']) for o in told] == [(1, 1, [1, 0]), (0, 2, [1, 1]), (1, 3, [2, 1])]
    assert [[state is None for state in o['states']] for o in told] == [[False, True], [False, False], [False, False]]


def test_a_library_s_stream_has_its_reason_or_none(shards):
    """Where it is drawn with replacement nothing has to be shared out; a function with a splitter behind it will do."""
    urls = [str(p) for p in shards if p.suffix == '.tar']
    drawn = wds.DataPipeline(wds.ResampledShards(urls), wds.tarfile_to_samples())
    split = wds.DataPipeline(wds.SimpleShardList(urls), lambda source: source, wds.split_by_node)
    alone = wds.DataPipeline(wds.SimpleShardList(urls), lambda source: source, wds.single_node_only)
    for stream in (drawn, split, alone):
        assert kind_of(stream).why_not_shared(stream) is None and kind_of(stream).why_inexact(stream) is None
    assert kind_of(Plain()) is None and kind_of([1]) is None
    assert own_shuffle(Plain()) == '' and '.shuffle(...), keyed by (seed, epoch)' in own_shuffle(drawn)


# ---------------------------------------------------------------- where it stands

@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('kind', ['webdataset', 'datasets', 'datasets in order'])
def test_a_pass_goes_on_from_any_batch(shards, kind, workers):
    """By its state and by its position alone: the same items, and what is drawn for them."""
    def made(start=0, **kwargs):
        dl = loader(kind, shards, num_workers=workers, after_item=drawing)
        dl.load_state_dict({'seed': 3, 'epoch': 1, 'batch': start, **kwargs})
        return dl
    dl, states, whole = made(), [], []
    for b in dl:
        whole.append(b)
        states.append(json.loads(json.dumps(storable(dl.state_dict()))))
    assert sorted(torch.cat(whole)[:, 0].tolist()) == list(range(N))
    for start in range(1, len(whole) + 1, 1 if workers == 0 else 4):
        for stream in (None, states[start - 1]['stream']):
            rest = list(made(start, stream=stream))
            assert len(rest) == len(whole) - start
            assert all(torch.equal(a, b) for a, b in zip(rest, whole[start:])), (start, stream)


def test_the_state_of_the_library_is_gone_by_where_it_has_one(shards, monkeypatch, capsys):
    """What was handed out is then not read again; else it is, and that is told."""
    read = []
    generate = datasets.iterable_dataset.IterableDataset.load_state_dict
    monkeypatch.setattr(datasets.iterable_dataset.IterableDataset, 'load_state_dict',
                        lambda self, state: (read.append(state), generate(self, state))[1])
    for kind, goes_by_state in (('datasets in order', True), ('datasets', False), ('webdataset', False)):
        dl = loader(kind, shards)
        dl.begin(3, 0)
        batches = iter(dl)
        next(batches)
        next(batches)
        state = dl.state_dict()
        batches.close()
        assert run(dl, start=2, stream=state['stream']) and bool(read) is goes_by_state
        told = (f'the stream ({type(dl.dataset).__name__}) is read from its beginning, and 2 batches of it are passed '
                'over')
        assert capsys.readouterr().out.splitlines() == ([] if goes_by_state else [told])
        read.clear()


@pytest.mark.parametrize('form, has_state', [(None, True), ('torch', True), ('numpy', True), ('arrow', False),
                                             ('pandas', False)])
def test_where_a_stream_of_tables_stands_is_not_told(form, has_state, shards):
    """The library's state says so of rows alone."""
    stream = ordered(shards, True).with_format(form)
    kind = kind_of(stream)
    part = kind.part(stream, Reader(), 3)
    next(iter(part))
    assert (kind.state(part) is not None) is has_state


@pytest.mark.parametrize('kind', ['webdataset', 'datasets', *MAPPED])
def test_a_look_leaves_a_running_pass_and_its_state_alone(shards, kind):
    """`one_batch` in the middle reads a pass of its own."""
    dl = loader(kind, shards)
    whole = run(dl)
    dl.begin(3, 0)
    batches = iter(dl)
    found = [numbers(next(batches)) for _ in range(3)]
    state = dl.state_dict()
    dl.one_batch()
    assert dl.state_dict() == state
    found.append(numbers(next(batches)))
    state = dl.state_dict()
    assert found + [numbers(b) for b in batches] == whole
    assert run(dl, start=4, stream=state['stream']) == whole[4:]


def test_another_number_of_readers_is_told(shards):
    """The rest of that epoch cannot be the rest of the order of then."""
    dl = loader('datasets in order', shards)
    dl.begin(3, 0)
    batches = iter(dl)
    next(batches)
    state = dl.state_dict()['stream']
    batches.close()
    other = loader('datasets in order', shards)
    other.share_out(1, 2)
    with pytest.warns(UserWarning, match='was read by 1 processes with 1 workers each, and is by 2 processes with 1 '):
        assert run(other, start=1, stream=state)
    assert run(other, epoch=1)  # and nothing is told of the next


@pytest.mark.parametrize('then, now, told', [
    ({}, {}, ''),
    ({'n_workers': 2}, {}, '1 processes with 2 workers each, and is by 1 processes with 1 workers each now'),
    ({'n_ranks': 3}, {}, '3 processes with 1 workers each, and is by 1 processes with 1 workers each now'),
    ({}, {'n_workers': 2}, '1 processes with 1 workers each, and is by 1 processes with 2 workers each now'),
    ({'n_ranks': 2, 'n_workers': 2}, {'n_ranks': 2, 'n_workers': 2}, ''),
    (None, {'n_ranks': 2, 'n_workers': 2}, '')])
def test_a_state_of_other_readers_is_not_gone_by(then, now, told, capsys):
    """Processes or workers, which is told with both numbers; one of the same readers is, and one that is not known is
    read anew."""
    was = {'rank': 0, 'n_ranks': 1, 'n_workers': 1, 'bs': 4}
    of = Reading(None, **{**was, **now}, done=[0] * now.get('n_workers', 1), states=[None] * now.get('n_workers', 1))
    n = (then or {}).get('n_workers', 1)
    stream = then if then is None else {**was, **then, 'batch': 5, 'turn': n - 1, 'done': [3] * n, 'states': ['at'] * n}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        of._go_on(Position(3, batch=5, stream=stream), 'Stream')
    assert [str(w.message).partition(' was read by ')[2].partition(', which')[0] for w in caught] == [told] * bool(told)
    gone_by = then is not None and not told
    assert (of.states == ['at'] * of.n_workers) is gone_by and (of.done == [3] * of.n_workers) is gone_by
    assert of.turn == (n - 1 if gone_by else 0) and of.left_out == (5 if not gone_by and of.n_workers > 1 else 0)
    assert gone_by or of.n_workers > 1 or of.done == [5]
    anew = 'the stream (Stream) is read from its beginning, and 5 batches of it are passed over'
    assert capsys.readouterr().out.splitlines() == [anew] * (not gone_by)


# ---------------------------------------------------------------- ranks that end earlier

@pytest.mark.parametrize('start', [0, 1, 6])
def test_a_rank_that_has_ended_stands_in_as_long_as_another_has_a_batch(shards, start):
    """With its last batch, or, where it has none in this pass, with the first of the whole stream; its own are none."""
    dl = loader('webdataset', shards)
    dl.share_out(0, 4)
    own = run(dl)
    asked = []

    def any_has(has):
        asked.append(has)
        return len(asked) <= 8 - start
    dl.share_out(0, 4, True, any_has)
    dl.begin(3, 0, start)
    found = [(dl.stands_in, numbers(b), dl.state_dict()['batch']) for b in dl]
    expected = own[start:]
    assert [items for stands_in, items, _ in found if not stands_in] == expected and len(found) == 8 - start
    assert [stands_in for stands_in, *_ in found] == [False] * len(expected) + [True] * (8 - start - len(expected))
    assert all(items for _, items, _ in found) and [batch for *_, batch in found] == list(range(start + 1, 9))
    assert asked == [True] * len(expected) + [False] * (9 - start - len(expected))
    alone = loader('webdataset', shards)
    assert len(expected) or found[0][1] == run(alone)[0]


# ---------------------------------------------------------------- a training

def learner(dls):
    """One weight."""
    torch.manual_seed(0)
    learn = Learner(dls, nn.Linear(1, 1), loss_func=MSELossFlat(), lr=1e-4)
    learn.remove_cb(learn.progress)
    learn.logger = lambda row: None
    set_seed(5)
    return learn


def to_pair(item):
    """Input and target."""
    n = torch.tensor([float(item['i'] if isinstance(item, dict) else item)])
    return n, n / 10


@pytest.mark.parametrize('kind, workers', [('webdataset', 0), ('datasets', 0), ('datasets in order', 0),
                                           ('datasets in order', 2), ('webdataset', 2)])
def test_a_training_that_died_in_the_middle_of_an_epoch_goes_on_to_the_same_bits(shards, tmp_path, capsys, kind,
                                                                                 workers):
    """Order, items, steps: the weights and the last row of the table are those of one that was never stopped."""
    def made():
        return learner(DataLoaders(loader(kind, shards, num_workers=workers, after_item=to_pair),
                                   loader(kind, shards, after_item=to_pair)))

    def checkpoints():
        return CheckpointCallback(tmp_path, every=1, background=False)
    whole = made()
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)  # a resume will be exact
        whole.fit(2)
        with pytest.raises(Stopped):
            made().fit(2, cbs=[StopAfter(11), checkpoints()])
        resumed = made()
        resumed.fit(2, cbs=checkpoints(), resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), resumed.model.parameters()))
    assert list(resumed.recorder.values[-1]) == list(whole.recorder.values[-1])
    assert ('is read from its beginning' in capsys.readouterr().out) is (kind != 'datasets in order')


def test_predictions_cover_the_stream(shards):
    """Each item once, in the order of the stream."""
    learn = learner(DataLoaders(*(loader('webdataset in order', shards, after_item=to_pair) for _ in range(2))))
    _, targets = learn.get_preds()
    assert (targets.flatten() * 10).round().tolist() == list(range(N))


def test_loaders_of_streams_shuffle_and_leave_out_nothing(shards):
    """`from_dsets`, which shuffles other data and leaves out their last batch."""
    dls = DataLoaders.from_dsets(KINDS['datasets'](shards), KINDS['datasets in order'](shards), bs=5)
    assert sorted(flat(map(numbers, dls.train))) == flat(map(numbers, dls.valid)) == list(range(N))


def test_the_page_on_streams_runs(tmp_path, monkeypatch):
    """Its code, on shards of small pictures; a second time the run is found to be done."""
    code = re.findall(r'```python\n(.*?)```', (ROOT / 'docs' / 'streams.md').read_text(encoding='utf-8'), re.DOTALL)[0]
    (tmp_path / 'shards').mkdir()
    for i in range(32):
        with tarfile.open(tmp_path / 'shards' / f'{i % 4}.tar', 'a') as tar:
            picture = io.BytesIO()
            Image.fromarray(np.full((6, 6, 3), 8 * i, np.uint8)).save(picture, 'png')
            for name, data in ((f'{i}.png', picture.getvalue()), (f'{i}.cls', b'%d' % (i % 10))):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    monkeypatch.chdir(tmp_path)
    namespace = {}
    exec(code, namespace)
    assert len(namespace['learn'].recorder.values) == 2 and 'accuracy' in namespace['learn'].recorder.metric_names
    assert len(namespace['learn'].recorder.lrs) == 6


# ---------------------------------------------------------------- mistakes

def test_what_cannot_be_read_again_is_told(shards, tmp_path):
    """Each with its way out; and nothing of those that can."""
    unseeded = hugging_face(shards, False).shuffle(buffer_size=4)
    growing = wds.DataPipeline(wds.shardlists.DirectoryShardList(f'{tmp_path}/'), wds.tarfile_to_samples())
    system = wds.DataPipeline(wds.SimpleShardList(['a.tar']), wds.resampled(), wds.tarfile_to_samples())
    told = inexact_loaders([DataLoader(stream, bs=4) for stream in (unseeded, growing, system)])
    for text, way_out in zip(told, ('.shuffle(seed=0)', 'give a list of shards', 'ResampledShards'), strict=True):
        assert way_out in text
    assert inexact_loaders([loader(kind, shards) for kind in KINDS]) == []
    assert 'goes on from any batch' in inexact_loaders([TorchLoader(hugging_face(shards, False), batch_size=4)])[0]


def test_what_cannot_be_shared_out_says_why(shards, tmp_path):
    """A loader of such a stream is not shareable, and its kind says what to do."""
    urls = [str(p) for p in shards if p.suffix == '.tar']
    trainer = DistributedTrainer.__new__(DistributedTrainer)
    trainer.n_ranks = 2
    own = wds.WebDataset(urls, shardshuffle=False, nodesplitter=lambda src: src)
    growing = wds.DataPipeline(wds.shardlists.DirectoryShardList(f'{tmp_path}/'), wds.tarfile_to_samples())
    unseeded = hugging_face(shards, False).shuffle(buffer_size=4)
    for stream, why in ((own, 'nothing tells whether the function behind its shards shares them out: put '
                         'webdataset.split_by_node there, or nodesplitter=webdataset.split_by_node'),
                        (growing, 'its first stage (DirectoryShardList) is no list of shards: '
                         'webdataset.SimpleShardList is'),
                        (unseeded, 'it is shuffled without a seed, so each process would have an order of its own: '
                         '.shuffle(seed=0)')):
        assert not DataLoader(stream, bs=4).shareable
        assert kind_of(stream).why_not_shared(stream) == why
        with pytest.raises(ValueError, match='cannot be shared out by 2 processes: .*' + re.escape(why)):
            trainer._check_loader(DataLoader(stream, bs=4))
    assert all(loader(kind, shards).shareable for kind in KINDS)

    assert not DataLoader(Plain(), bs=4).shareable and DataLoader([1], bs=4).shareable
    with pytest.raises(ValueError, match='it needs data with indices'):
        trainer._check_loader(DataLoader(Plain(), bs=4))
    with pytest.raises(ValueError, match='give the data set of webdataset or datasets to'):
        trainer._check_loader(TorchLoader(hugging_face(shards, False), batch_size=4))


def test_ranks_and_resumes_compare_what_a_stream_is_made_of(shards):
    """Shards, stages and seeds; where the shards lie does not count, nor what a library draws for itself."""
    def facts(stream):
        return kind_of(stream).facts(stream)
    for kind in KINDS.values():
        assert facts(kind(shards)) == facts(kind(shards)) != facts(kind(shards[2:]))
    assert facts(web(shards, True)) != facts(web(shards, False))
    assert facts(web(shards, True)) == facts(wds.WebDataset(
        [f'elsewhere/{p.name}' for p in shards if p.suffix == '.tar'], shardshuffle=9).shuffle(5).decode().map(len))
    plain = hugging_face(shards, False)
    assert len({facts(plain), facts(plain.shuffle(seed=1)), facts(plain.shuffle(seed=2)), facts(plain.map(len))}) == 4


def test_n_says_the_length_and_bounds_each_reader(shards):
    """The first items of one reader; of several none reads more, so that nothing is lost where `n` is of all."""
    dl = loader('datasets in order', shards, n=10)
    assert len(dl) == 3 and flat(run(dl)) == list(range(10))
    parts = []
    for rank in range(2):
        dl = loader('datasets in order', shards, n=N)
        dl.share_out(rank, 2)
        parts.append(flat(run(dl)))
        assert len(dl) == 4
    assert sorted(flat(parts)) == list(range(N))


def test_a_shuffle_of_the_loader_names_that_of_the_stream(shards):
    """A stream has no indices to be shuffled."""
    with pytest.raises(ValueError, match='shuffle it by its own .shuffle'):
        loader('datasets', shards, shuffle=True)


def test_positions_of_other_data_say_nothing_of_streams(shards):
    """The state of a loader with indices stays three numbers."""
    assert DataLoader([1, 2], bs=1).state_dict() == {'seed': 0, 'epoch': 0, 'batch': 0}
    assert Position(1).stream is None
    plain = DataLoader(Plain(), bs=1)
    assert list(plain) and plain.state_dict() == {'seed': torch.initial_seed(), 'epoch': 0, 'batch': 1}
