"""States in shares as files, in one process: what comes back, what is refused, and what stays when a save fails."""
from __future__ import annotations

import json
import pickle
import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.testing._internal.distributed import fake_pg  # noqa: F401  registers the backend `fake`

from minifast import shards as room
from minifast.distributed import PeerError
from minifast.hardware import crc32
from minifast.optimizer import Adam, Lookahead, OptimWrapper
from minifast.shards import INDEX, _group_behind, _is_all_of, load_sharded, load_shares, save_sharded, save_shares
from minifast.tensorfile import DamagedFileError, UnsafeFileError, read_tensors, write_atomic

INFO = 'DCP_SHARDING_INFO'


def state():
    """Tensors of several kinds and shapes, one twice, and plain data."""
    x = torch.arange(12.).reshape(3, 4)
    return {'w': x, 'again': x, 'cut': x.T, 'half': x.half(), 'whole': torch.arange(3), 'one': torch.tensor(2.5),
            'none': torch.zeros(0, 3), 'bits': torch.tensor([True, False]),
            'opt': [{'a.b': x + 1, 7: 'text'}, (1, None)], 'opt.0.a': {'b': x + 2}}


def equal(a, b):
    """Whether two states are the same, tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(equal(x, b[key]) for key, x in a.items())
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return a == b


def test_a_state_comes_back_and_tensors_are_filled_in_place(tmp_path):
    """What the given state lacks comes back too, plain data as they were saved."""
    assert save_sharded(tmp_path / 'kept', state()) == tmp_path / 'kept'
    own = torch.zeros(3, 4)
    found = load_sharded(tmp_path / 'kept', {'w': own, 'one': 'not asked'})
    assert equal(found, state()) and found['w'] is own and found['again'] is not own
    assert equal(load_sharded(tmp_path / 'kept', None), state())


def test_a_further_save_replaces_the_state_when_it_is_complete(tmp_path, monkeypatch):
    """One set of parts lies there; while a save is under way or fails, that of before."""
    save_sharded(tmp_path, {'x': torch.ones(2)})
    saving = save_sharded(tmp_path, {'x': torch.zeros(2)}, background=True)
    assert saving.done() and load_sharded(tmp_path, {})['x'].tolist() == [1, 1]
    saving.result()
    assert load_sharded(tmp_path, {})['x'].tolist() == [0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == [INDEX, saving.parts.name]
    for x, says in ((torch.ones(2, dtype=torch.complex128), 'could not be written.*untouched'),
                    (torch.eye(2).to_sparse(), "cannot hold 'x', a tensor of torch.float32 in the layout")):
        with pytest.raises(TypeError, match=says):
            save_sharded(tmp_path, {'x': x})
    assert load_sharded(tmp_path, {})['x'].tolist() == [0, 0] and len(list(tmp_path.iterdir())) == 2


def test_what_is_written_behind_the_training_is_agreed_on_by_the_hosts():
    """By a group of its own, which takes tensors of hosts whatever the training goes by; one for each world."""
    assert _group_behind() is None
    try:
        for _ in range(2):
            dist.init_process_group('fake', store=dist.HashStore(), rank=0, world_size=1)
            group = _group_behind()
            assert group is _group_behind() is not dist.group.WORLD
            assert (dist.get_backend(group), dist.get_backend()) == ('gloo', 'fake')
            dist.destroy_process_group()
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


@pytest.mark.parametrize('make', [
    lambda ps: Adam(ps, .1), lambda ps: Lookahead(Adam(ps, .1), k=2),
    lambda ps: OptimWrapper(ps, torch.optim.AdamW, lr=.1)])
def test_a_model_and_its_optimizer_go_on_as_if_nothing_had_been(tmp_path, make):
    """Also one whose weights are tied."""
    def made():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
        model[2].weight = model[0].weight
        return model, make([list(model[:1].parameters()), list(model[1:].parameters())[:-2] + [model[2].bias]])

    def train(model, opt, n):
        for i in range(n):
            model(torch.randn(4, 3, generator=torch.Generator().manual_seed(i))).square().sum().backward()
            opt.step()
            opt.zero_grad()
        return model.state_dict()
    first = made()
    train(*first, 3)
    save_shares(tmp_path, *first)
    second = made()
    load_shares(tmp_path, *second)
    assert second[0][2].weight is second[0][0].weight
    assert equal(dict(train(*second, 3)), dict(train(*first, 3)))


def test_another_state_is_refused_before_anything_is_changed(tmp_path):
    """Other names, other shapes, no optimizer."""
    save_shares(tmp_path, nn.Linear(2, 2))
    for other, says in ((nn.Linear(2, 2, bias=False), 'bias are unknown to it'), (nn.Linear(2, 3), r'shape \[2'),
                        (nn.Sequential(nn.Linear(2, 2)), '0.bias, 0.weight are missing; bias, weight are unknown')):
        before = [p.clone() for p in other.parameters()]
        with pytest.raises(ValueError, match=says):
            load_shares(tmp_path, other)
        assert all(map(torch.equal, before, other.parameters()))
    model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match='holds no state of an optimizer'):
        load_shares(tmp_path, model, Adam(list(model.parameters()), .1))
    with pytest.raises(ValueError, match='has no model.other: it is another state'):
        load_sharded(tmp_path, {'model': {'other': torch.ones(1)}})


def test_of_many_names_that_differ_five_are_told_and_how_many_more(tmp_path):
    """Of what is missing and of what is unknown alike."""
    many = nn.Sequential(*(nn.Linear(1, 1) for _ in range(4)))
    told = '0.bias, 0.weight, 1.bias, 1.weight, 2.bias and 3 more are '
    save_shares(tmp_path / 'many', many)
    save_shares(tmp_path / 'one', nn.Linear(1, 1))
    for saved, model, words in (('many', nn.Linear(1, 1), f'bias, weight are missing; {told}unknown to it. Build the'),
                                ('one', many, f'{told}missing; bias, weight are unknown to it. Build the')):
        with pytest.raises(ValueError, match=f': {words}'):
            load_shares(tmp_path / saved, model)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    """A file, a folder with files of others, a folder that cannot be made."""
    (tmp_path / 'file').write_text('x')
    with pytest.raises(FileExistsError, match='name a folder of its own'):
        save_sharded(tmp_path, {'x': torch.ones(1)})
    with pytest.raises(FileExistsError, match='is a file'):
        save_sharded(tmp_path / 'file', {'x': torch.ones(1)})
    with pytest.raises(OSError, match='could not be made.*Way out'):
        save_sharded(tmp_path / 'file' / 'below', {'x': torch.ones(1)})
    assert [path.name for path in tmp_path.iterdir()] == ['file']


# ---------------------------------------------------------------- damaged and made-up files

class Runs:
    """What a pickle of this would do."""

    def __reduce__(self):
        return exec, ('raise SystemExit("code in a file was run")',)


@pytest.fixture
def kept(tmp_path):
    """A folder with a state, and its one file of parts."""
    save_sharded(tmp_path / 'kept', {'x': torch.arange(6.).reshape(2, 3), 'y': torch.ones(2), 'n': 5})
    return tmp_path / 'kept', next((tmp_path / 'kept').glob('parts-*/*'))


def rewrite(folder, change):
    """Write the index anew, changed."""
    index = read_tensors(folder / INDEX)
    change(index)
    write_atomic(folder / INDEX, index)


def rewrite_parts(folder, file, change, tensors=None):
    """Write the file of parts anew with other places of its parts, and an index that knows of it."""
    with safe_open(file, 'pt') as found:
        held, info = {name: found.get_tensor(name) for name in found.keys()}, found.metadata()
    told = change(json.loads(info[INFO]))
    info[INFO] = told if isinstance(told, str) else json.dumps(told)
    save_file(held if tensors is None else tensors, file, info)
    rewrite(folder, lambda index: index['files'].update({file.name: [file.stat().st_size, crc32(file.read_bytes())]}))


def refused(folder, error, says):
    """The state is not read, with a message that names the place."""
    with pytest.raises(error, match=says) as caught:
        load_sharded(folder, {'x': torch.zeros(2, 3)})
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize('damage, error, says', [
    (lambda d, f: f.unlink(), FileNotFoundError, 'lacks shard-00001.*take an older'),
    (lambda d, f: (d / INDEX).unlink(), FileNotFoundError, 'holds no finished state'),
    (lambda d, f: shutil.rmtree(d), FileNotFoundError, 'holds no finished state'),
    (lambda d, f: shutil.rmtree(f.parent), FileNotFoundError, 'lacks shard-00001'),
    (lambda d, f: f.write_bytes(f.read_bytes()[:-3]), DamagedFileError, 'shard-00001.* is not what was written'),
    (lambda d, f: f.write_bytes(f.read_bytes()[:-3] + b'abc'), DamagedFileError, 'is not what was written'),
    (lambda d, f: f.write_bytes(b''), DamagedFileError, 'is not what was written'),
    (lambda d, f: (d / INDEX).write_bytes(b''), DamagedFileError, 'index.pth is empty'),
    (lambda d, f: (d / INDEX).write_bytes((d / INDEX).read_bytes()[:-9]), (DamagedFileError, UnsafeFileError), INDEX),
    (lambda d, f: shutil.copy(f, f.with_name('shard-00002-model-00001-of-00001.safetensors')), UnsafeFileError,
     'the index does not name'),
    (lambda d, f: (d / INDEX).write_bytes(pickle.dumps(Runs())), (UnsafeFileError, DamagedFileError), INDEX),
    (lambda d, f: torch.save(Runs(), d / INDEX), UnsafeFileError, INDEX),
    (lambda d, f: torch.save({'x': torch.ones(1)}, d / INDEX), ValueError, 'no index of a state in shares')])
def test_damaged_files_are_refused_by_name(kept, damage, error, says):
    """Missing, cut short, changed, too many, and pickles."""
    damage(*kept)
    refused(kept[0], error, says)


def test_a_pickle_beside_the_parts_is_never_read(kept):
    """torch's own metadata, as its other format has them."""
    (kept[1].parent / '.metadata').write_bytes(pickle.dumps(Runs()))
    assert load_sharded(kept[0], {})['n'] == 5


@pytest.mark.parametrize('change, error, says', [
    (lambda i: i.update(version=9), ValueError, 'install a newer one'),
    (lambda i: i.update(parts='../../etc'), UnsafeFileError, 'makes no sense'),
    (lambda i: i.update(parts=5), UnsafeFileError, 'makes no sense'),
    (lambda i: i['files'].update({'../x': [1, 1]}), UnsafeFileError, 'makes no sense'),
    (lambda i: i['files'].update({next(iter(i['files'])): [1]}), UnsafeFileError, 'makes no sense'),
    (lambda i: i['tensors'].update(z=[torch.Size([1]), torch.float32]), UnsafeFileError, 'makes no sense'),
    (lambda i: i['tensors'].update(y=[torch.Size([1 << 40]), torch.float32]), UnsafeFileError, 'makes no sense'),
    (lambda i: i['tensors'].update(y=[torch.Size([next(iter(i['files'].values()))[0]]), torch.float32]),
     UnsafeFileError, 'makes no sense'),  # as many numbers as the file has bytes
    (lambda i: i['tensors'].update(y=[torch.Size([1]), torch.float32]), UnsafeFileError, 'not the whole'),
    (lambda i: i['tensors'].update(y=[torch.Size([2]), torch.int32]), UnsafeFileError, 'not the whole'),
    (lambda i: i.update(state={'list': 5}), UnsafeFileError, 'makes no sense'),
    (lambda i: i.update(state=[]), UnsafeFileError, 'makes no sense'),
    (lambda i: i.update(state={'data': 1}), UnsafeFileError, 'makes no sense')])
def test_an_index_that_makes_no_sense_is_refused(kept, change, error, says):
    """Paths that lead elsewhere, sizes that no file has, tensors that are nowhere."""
    rewrite(kept[0], change)
    refused(kept[0], error, says)


@pytest.mark.parametrize('change', [
    lambda info: {**info, 'x': {'saved_offsets': [1, 0]}}, lambda info: {**info, 'x': {'saved_offsets': [-1, 0]}},
    lambda info: {**info, 'x': {'saved_offsets': [0]}}, lambda info: {**info, 'x': {'saved_offsets': ['a', 0]}},
    lambda info: {**info, 'x': {}}, lambda info: {**info, 'x': 5}, lambda info: [], lambda info: '{',
    lambda info: '[' * 100_000, lambda info: {**info, 'y': {'saved_offsets': [1 << 70]}}])
def test_parts_that_tell_no_sense_of_their_place_are_refused(kept, change):
    """Whatever their checksums are."""
    rewrite_parts(*kept, change)
    refused(kept[0], UnsafeFileError, 'parts-')


def cut(offset, size, draw):
    """Parts of a box, cut at random and no grid."""
    axes = [axis for axis, n in enumerate(size) if n > 1]
    if not axes or draw.random() < .25:
        return [(offset, size)]
    axis = draw.choice(axes)
    at = draw.randrange(1, size[axis])
    first = size[:axis] + (at,) + size[axis + 1:]
    rest = size[:axis] + (size[axis] - at,) + size[axis + 1:]
    behind = offset[:axis] + (offset[axis] + at,) + offset[axis + 1:]
    return cut(offset, first, draw) + cut(behind, rest, draw)


def test_parts_are_the_whole_where_each_number_lies_in_one_of_them():
    """By counting them: parts that touch are fine however they are cut; one that is moved, lost, doubled or grown is
    not."""
    draw, seen = random.Random(0), set()
    for i in range(600):
        shape = tuple(draw.randint(1, 4) for _ in range(draw.randint(1, 3)))
        boxes = cut((0,) * len(shape), shape, draw)
        draw.shuffle(boxes)
        at, axis = draw.randrange(len(boxes)), draw.randrange(len(shape))
        offset, size = boxes[at]
        grown = tuple(n + (i == axis) for i, n in enumerate(size))
        moved = tuple(n + draw.choice((-1, 1)) * (i == axis) for i, n in enumerate(offset))
        boxes[at:at + 1] = [[(offset, size)], [], [(offset, size)] * 2, [(offset, grown)], [(moved, size)]][i % 5]
        counts = torch.zeros(shape, dtype=torch.int64)
        within = all(0 <= o and o + n <= whole for o, s in boxes for o, n, whole in zip(o, s, shape))
        for offset, size in boxes if within else ():
            counts[tuple(slice(o, o + n) for o, n in zip(offset, size))] += 1
        wanted = within and bool((counts == 1).all())
        assert _is_all_of(torch.Size(shape), [SimpleNamespace(offsets=o, sizes=s) for o, s in boxes]) is wanted
        seen.add((i % 5, wanted))
    assert seen >= {(0, True), *((kind, False) for kind in range(1, 5))}


def test_files_with_other_tensors_than_the_index_names_are_refused(kept):
    """One more, and one less."""
    rewrite_parts(*kept, lambda info: {**info, 'z': {'saved_offsets': [0]}},
                  {'x': torch.ones(2, 3), 'y': torch.ones(2), 'z': torch.ones(1)})
    refused(kept[0], UnsafeFileError, 'other tensors than the index names')
    rewrite_parts(*kept, lambda info: info, {'x': torch.ones(2, 3)})
    refused(kept[0], UnsafeFileError, 'other tensors than the index names')


def test_names_of_the_folder_are_paths_or_texts(tmp_path):
    """Both."""
    save_sharded(str(tmp_path / 'kept'), {'x': torch.ones(1)})
    assert load_sharded(Path(tmp_path, 'kept'), {})['x'].tolist() == [1]


# ---------------------------------------------------------------- one of several processes

FILE, GONE = DamagedFileError('a file'), FileNotFoundError('is gone')


@pytest.mark.parametrize('own, others, raised, says', [
    (None, None, None, None), (None, 'KeyError: 1', PeerError, '^rank 1 has failed with KeyError: 1. This is rank 0, '
                                                               'which ends with it$'),
    (KeyError('x'), None, KeyError, 'x'), (KeyError('x'), 'OSError: y', KeyError, 'x'),
    (None, FILE, DamagedFileError, 'a file'),
    (KeyError('x'), GONE, FileNotFoundError, 'is gone'), (UnsafeFileError('own'), None, UnsafeFileError, 'own'),
    (UnsafeFileError('own'), FILE, UnsafeFileError, 'own')])
def test_what_fails_on_one_process_ends_all(monkeypatch, own, others, raised, says):
    """Each with its own error, those without one with a word of it; a broken file is the same error on all."""
    told = []
    monkeypatch.setattr(room, 'gather_objects', lambda o: told.append(o) or [o, others])

    def f():
        if own is not None:
            raise own
        return 5
    if raised is None:
        assert room._on_all(f) == 5
    else:
        with pytest.raises(raised, match=says):
            room._on_all(f)
    assert told == [own if isinstance(own, room.NOT_WHOLE) else own and "KeyError: 'x'"]


@pytest.fixture
def second(monkeypatch):
    """This process is the second of two, which nobody waits for."""
    monkeypatch.setattr(room, 'rank_distrib', lambda: 1)
    monkeypatch.setattr(room, 'is_distributed', lambda: True)
    monkeypatch.setattr(dist, 'get_world_size', lambda: 2)


def test_each_process_looks_at_its_share_of_the_files(kept, second):
    """All look which are there."""
    other = kept[1].with_name('shard-00002-model-00001-of-00001.safetensors')
    shutil.copy(kept[1], other)
    rewrite(kept[0], lambda index: index['files'].update({other.name: index['files'][kept[1].name]}))
    seen = []
    kept[1].write_bytes(b'damaged')
    index = room._verified(kept[0], lambda index: seen.append(index['state']))
    assert sorted(index['files']) == [kept[1].name, other.name] and seen == [index['state']]
    other.write_bytes(other.read_bytes()[:-1] + b'x')
    with pytest.raises(DamagedFileError, match=f'{other.name} is not what was written'):
        room._verified(kept[0], lambda index: None)


def test_the_first_process_alone_makes_and_removes_what_all_use(tmp_path, second):
    """The folder, the index, and what a failed save has left; each tells its own files with size and checksum."""
    saving = room.Saving.__new__(room.Saving)
    saving.folder, saving.parts, saving.index = tmp_path / 'f', tmp_path / 'f' / 'parts-1', {}
    saving._make_folder()
    assert not saving.folder.exists()
    saving.parts.mkdir(parents=True)
    for rank in (1, 2):
        (saving.parts / f'shard-0000{rank}-x').write_bytes(b'abc' * rank)
    saving._remove_parts()
    saving._finish()
    assert len(list(saving.parts.iterdir())) == 2 and not (saving.folder / INDEX).exists()
    assert saving._own_files() == {'shard-00002-x': [6, crc32(b'abcabc')]}


@pytest.mark.parametrize('cause, raised, says', [
    (OSError(28, 'No space left on device'), OSError, 'No space left.*rank 3.*untouched. Way out: '),
    (ValueError('odd'), TypeError, 'could not be written: odd .rank 3.. What was saved before is untouched. Keep')])
def test_a_save_that_failed_on_some_process_leaves_nothing_of_it(tmp_path, cause, raised, says):
    """Its cause and the process are told, and the way out."""
    def fails():
        raise CheckpointException('failed', {3: (cause, None)})
    saving = save_sharded(tmp_path / 'f', {'x': torch.ones(2)}, background=True)
    assert saving.parts.is_dir()
    with pytest.raises(raised, match=says) as caught:
        saving._tell(fails)
    assert not saving.parts.exists() and caught.value.__cause__ is not None
    assert raised is TypeError or caught.value.errno == 28


def test_a_read_that_failed_on_some_process_says_where(kept, monkeypatch):
    """Whatever torch met behind all checks."""
    def fails(*args, **kwargs):
        raise CheckpointException('failed', {3: (OSError('gone'), None)})
    monkeypatch.setattr(room.dcp, 'load', fails)
    with pytest.raises(DamagedFileError, match=r'cannot be read: OSError: gone \(rank 3\). Take an older one, or save'):
        load_sharded(kept[0], None)


def test_all_is_asked_before_anything_is_read_or_written(tmp_path, monkeypatch):
    """Once at the beginning, once at the end of a save."""
    asked = []
    monkeypatch.setattr(room, 'ask', lambda: asked.append(1))
    saving = save_sharded(tmp_path / 'f', {'x': torch.ones(2)}, background=True)
    assert len(asked) == 1
    saving.result()
    assert len(asked) == 2
    load_sharded(tmp_path / 'f', None)
    assert len(asked) == 3


def test_numbers_of_another_family_are_those_of_another_model(tmp_path):
    """A float is read into a double, and not into integers."""
    save_sharded(tmp_path / 'f', {'x': torch.ones(2)})
    own = torch.zeros(2, dtype=torch.float64)
    assert load_sharded(tmp_path / 'f', {'x': own})['x'] is own and own.tolist() == [1, 1]
    with pytest.raises(ValueError, match=r"'x' has the shape \[2\] and torch.float32, where \[2\] and torch.int64 are"):
        load_sharded(tmp_path / 'f', {'x': torch.zeros(2, dtype=torch.int64)})


def test_the_state_of_an_optimizer_is_read_as_its_weights_lie(tmp_path):
    """In their memory format where it has their shape; what belongs to no weight is as it was."""
    def made(memory_format):
        torch.manual_seed(0)
        model = nn.Conv2d(3, 4, 3).to(memory_format=memory_format)
        opt = Adam(list(model.parameters()), .1)
        model(torch.ones(1, 3, 5, 5)).sum().backward()
        opt.step()
        return model, opt
    save_shares(tmp_path, *made(torch.contiguous_format))
    model, opt = made(torch.channels_last)
    kept = opt.state[model.weight].items()
    wanted = {name: value.clone() for name, value in kept if isinstance(value, torch.Tensor)}
    for value in opt.state[model.weight].values():
        if isinstance(value, torch.Tensor):
            value.zero_()
    load_shares(tmp_path, model, opt)
    for name, value in wanted.items():
        found = opt.state[model.weight][name]
        torch.testing.assert_close(found, value)
        assert found.stride() == value.stride()


def test_a_background_save_is_done_when_its_parts_are_written():
    """In one process at once."""
    saving = room.Saving.__new__(room.Saving)
    for saving._written, wanted in ((None, True), (SimpleNamespace(done=lambda: False), False),
                                    (SimpleNamespace(done=lambda: True), True)):
        assert saving.done() is wanted
