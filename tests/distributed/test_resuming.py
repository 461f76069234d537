"""Several processes are killed and go on: to the same bits where as many go on, in the same order where others do."""
from __future__ import annotations

import json
import shutil

import pytest
import torch
from launch import HERE, run_together

from minifast.run.folder import shares_of
from minifast.tensorfile import read_tensors
from minifast.training_state import _digest_of, of_rank

SCRIPT = HERE / 'resuming.py'


def told(folder, name, n):
    """What each of n ranks has written."""
    return [json.loads((folder / f'{name}_{rank}.json').read_text(encoding='utf-8')) for rank in range(n)]


def seen_by_all(ranks):
    """The items that all ranks saw, in the order of the batch of all: [[epoch, batch, items], ...]."""
    found = []
    for rows in zip(*(rank['seen'] for rank in ranks)):
        parts = [row[2] for row in rows]
        found.append([*rows[0][:2], [parts[i % len(parts)][i // len(parts)] for i in range(sum(map(len, parts)))]])
    return found


def largest_difference(a, b):
    """Between the weights, and the rows of the table, of two ranks."""
    return max(float((torch.tensor(a[what], dtype=torch.float64) - torch.tensor(b[what], dtype=torch.float64)).abs()
                     .max()) for what in ('weights', 'rows'))


def cut(source, target, steps):
    """A folder of checkpoints as it was after so many steps; those of models in shares are of every second step."""
    shutil.copytree(source, target)
    at = [read_tensors(file)['position'] for file in sorted(target.glob('checkpoint-*.pth'))]
    for file, position in zip(sorted(target.glob('checkpoint-*.pth')), at):
        if position['epoch'] * 4 + position['batch'] > steps or position['done']:
            file.unlink()


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """A function: the folder in which n processes have trained undisturbed, each number once; with `killed` a second
    training in which a process was killed and torchrun has started all again."""
    folder, done = tmp_path_factory.mktemp('whole'), set()

    def of(n, killed=False, strategy='ddp'):
        place = folder / strategy
        if (n, killed, strategy) not in done:
            place.mkdir(exist_ok=True)
            jobs = [{'out': f'plain{n}', 'folder': f'p{n}', 'kind': 'plain'}]
            if killed:
                ends = {'how': 'kill', 'at': 6, 'rank': n - 1}
                jobs += [{'out': f'own{n}', 'folder': f'o{n}', 'kind': 'own'},
                         {'out': f'killed{n}', 'folder': f'k{n}', 'kind': 'own', 'ends': ends}]
            run_together(n, SCRIPT, json.dumps(jobs), cwd=place, restarts=int(killed), strategy=strategy)
            done.update({(n, killed, strategy), (n, False, strategy)})
        return place
    return of


FULL = [('ddp', 2), *(pytest.param(*case, marks=pytest.mark.dist) for case in [('ddp', 4), ('fsdp', 2), ('fsdp', 3)]),
        pytest.param('ddp', 3, marks=pytest.mark.slow)]


@pytest.mark.parametrize('strategy, n', FULL)
def test_a_killed_process_changes_nothing(whole, strategy, n):
    """All go on from the newest checkpoint: the same bits on each rank, its own random numbers and statistics too."""
    folder = whole(n, True, strategy)
    assert (folder / f'k{n}.log').read_text() == '.'
    alone, killed = told(folder, f'own{n}', n), told(folder, f'killed{n}', n)
    assert killed == alone
    assert len({str(rank['drawn']) for rank in alone}) == n  # each has a stream of its own
    assert len({str(rank['weights']) for rank in alone}) == 1


MORE = [('ddp', 2, 'ddp', 1, 5),
        *(pytest.param(*case, marks=pytest.mark.dist) for case in [
            ('ddp', 2, 'ddp', 3, 7), ('ddp', 4, 'ddp', 2, 9), ('fsdp', 2, 'fsdp', 3, 4), ('fsdp', 3, 'ddp', 1, 6)]),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [
            ('ddp', 1, 'ddp', 2, 5), ('fsdp', 2, 'ddp', 2, 8), ('ddp', 3, 'fsdp', 2, 10), ('ddp', 1, 'fsdp', 4, 2)])]


@pytest.mark.parametrize('before, n, after, m, steps', MORE)
def test_others_go_on_where_some_have_stopped(whole, tmp_path, before, n, after, m, steps):
    """Written by n processes, gone on with by m, of whole models or of such in shares: the items of each batch in the
    same order, weights within 1e-6."""
    folder = whole(n, (before, n) == ('ddp', 2), before)
    cut(folder / f'p{n}', tmp_path / 'c', steps)
    job = {'out': 'rest', 'folder': 'c', 'kind': 'plain'}
    run_together(m, SCRIPT, json.dumps([job]), cwd=tmp_path, strategy=after)
    undisturbed, rest = told(folder, f'plain{n}', n), told(tmp_path, 'rest', m)
    assert seen_by_all(rest)[steps - 12:] == seen_by_all(undisturbed)[steps:]
    difference = largest_difference(undisturbed[0], rest[0])
    print(f'{n} {before} -> {m} {after} processes after step {steps}: weights and table differ by {difference:.1e}')
    assert difference < 1e-6


def damaged(shares, how):
    """One byte changed, the part of a process gone, or the index cut short."""
    part, index = min(shares.glob('parts-*/*')), next(shares.glob('*.pth'))
    if how == 'changed':
        part.write_bytes(part.read_bytes()[:-1] + b'?')
    elif how == 'gone':
        part.unlink()
    else:
        index.write_bytes(index.read_bytes()[:100])


@pytest.mark.dist
def test_a_checkpoint_whose_shares_are_damaged_is_passed_over(whole, tmp_path):
    """All processes go on from the one before, to the same bits."""
    folder, hows, before = whole(2, True, 'fsdp'), ('changed', 'gone', 'cut short'), []
    for how in hows:
        cut(folder / 'o2', tmp_path / how, 8)
        *_, last, newest = sorted((tmp_path / how).glob('checkpoint-*.pth'))
        damaged(shares_of(newest), how)
        before.append(f'resumed from {how}/{last.name}')
    said = run_together(2, SCRIPT, json.dumps([{'out': how, 'folder': how, 'kind': 'own'} for how in hows]),
                        cwd=tmp_path, strategy='fsdp')
    assert [line.partition(':')[0] for line in said.splitlines() if line.startswith('resumed')] == before
    assert [told(tmp_path, how, 2) for how in hows] == [told(folder, 'own2', 2)] * 3


@pytest.mark.dist
@pytest.mark.parametrize('how, at, rank, every', [('term', 6, 1, 0), ('term', 8, 0, 0), ('fail', 9, 0, 2)])
def test_a_signal_or_an_error_of_one_rank_changes_nothing(tmp_path, how, at, rank, every):
    """A signal writes a checkpoint of all, also behind an epoch's last batch; an error goes back to the one before."""
    ends = {'how': how, 'at': at, 'rank': rank}
    jobs = [{'out': 'whole', 'folder': 'w', 'kind': 'own'},
            {'out': 'part', 'folder': 'p', 'kind': 'own', 'ends': ends, 'every': every}]
    run_together(2, SCRIPT, json.dumps(jobs), cwd=tmp_path, restarts=1)
    assert (tmp_path / 'p.log').read_text() == '.'
    assert told(tmp_path, 'part', 2) == told(tmp_path, 'whole', 2)


@pytest.mark.dist
def test_twenty_kills_at_any_moment_change_nothing(tmp_path):
    """A process is killed (SIGKILL) 20 times at random moments, torchrun starts all again: the same bits."""
    ends = {'how': 'anytime', 'times': 20, 'within_s': .25}
    jobs = [{'out': 'whole', 'folder': 'w', 'kind': 'own', 'n_epoch': 20},
            {'out': 'part', 'folder': 'p', 'kind': 'own', 'n_epoch': 20, 'ends': ends, 'slow_s': .1}]
    run_together(2, SCRIPT, json.dumps(jobs), cwd=tmp_path, restarts=20, timeout_s=900)
    kills = len((tmp_path / 'p.log').read_text())
    part, whole = told(tmp_path, 'part', 2), told(tmp_path, 'whole', 2)
    lost = sum(a != b for rank in range(2) for a, b in zip(part[rank]['seen'], whole[rank]['seen'], strict=True))
    print(f'kills survived {kills * (part == whole)}/{kills}, batches lost, doubled or changed {lost}')
    assert kills == 20 and part == whole


# ---------------------------------------------------------------- without processes

def state_of_two():
    """What the first of two ranks has, with what the second has of its own: numbers, a gradient, one thing less."""
    own = {'generators': {'global': 'second'}, 'metrics': {None: [2]}, 'grads': {0: torch.tensor([4.])},
           'model': {'mean': torch.tensor([7.])}}
    return {'model': {'weight': torch.ones(1), 'mean': torch.tensor([5.])}, 'generators': {'global': 'first'},
            'metrics': [1], 'grads': {0: torch.tensor([1.]), 1: torch.tensor([3.])}, 'callbacks': {'a': 1, 'b': 2},
            'ranks': [{'own': {}, 'gone': []}, {'own': own, 'gone': [['callbacks', 'b'], ['grads', 1]]}]}


def test_each_of_as_many_ranks_gets_its_own():
    """And what the first one alone has is the first one's alone."""
    first, second = (of_rank(state_of_two(), rank, 2) for rank in range(2))
    assert first == {k: v for k, v in state_of_two().items() if k != 'ranks'}
    assert second['generators'] == {'global': 'second'} and second['metrics'] == [2]
    assert second['model'] == {'weight': torch.ones(1), 'mean': torch.tensor([7.])}
    assert second['callbacks'] == {'a': 1} and second['grads'] == {0: torch.tensor([4.])}


@pytest.mark.parametrize('n', [1, 3])
def test_others_get_the_first_ones_and_the_mean_of_the_gradients(n):
    """Of what a step of two ranks would have taken: a rank that has no gradient counts as one of zero."""
    for rank in range(n):
        found = of_rank(state_of_two(), rank, n)
        assert found.pop('grads') == {0: torch.tensor([2.5]), 1: torch.tensor([1.5])}
        assert found == {k: v for k, v in state_of_two().items() if k not in ('ranks', 'grads')}


@pytest.mark.parametrize('ranks', [[{}], 7, [{'own': {'model': 3}, 'gone': []}], [{'own': [], 'gone': []}],
                                   [{'own': {}, 'gone': [1]}], [{'own': {}, 'gone': [['nowhere', 'x']]}]])
def test_what_ranks_hold_is_named_where_it_makes_no_sense(ranks):
    """A file that was made up is named."""
    with pytest.raises(ValueError, match='^made-up.pth does not say what each of its processes held'):
        of_rank({**state_of_two(), 'ranks': ranks}, 0, 1, 'made-up.pth')


def test_a_file_of_one_process_is_each_ranks():
    """Written alone: everybody goes on from the same."""
    state = {k: v for k, v in state_of_two().items() if k != 'ranks'}
    assert of_rank(state, 0, 1) == state
    assert of_rank(state, 2, 3) == state


def test_what_is_the_same_has_the_same_digest():
    """Whatever layout and place; another number, type, shape, name or order has another one."""
    x = torch.arange(6.).reshape(2, 3)
    same = [{'a': x, 'b': [1, 'two', None]}, {'a': x.t().contiguous().t(), 'b': [1, 'two', None]}]
    others = [{'a': x + 1e-7, 'b': [1, 'two', None]}, {'a': x.double(), 'b': [1, 'two', None]},
              {'a': x.reshape(3, 2), 'b': [1, 'two', None]}, {'a': x, 'c': [1, 'two', None]},
              {'a': x, 'b': ['two', 1, None]}, {'a': x, 'b': [1, 'two']}, {'a': x, 'b': [1, 'two', [None]]},
              {'a': x.to_sparse(), 'b': [1, 'two', None]}]
    digests = [_digest_of(value) for value in same + others]
    assert digests[0] == digests[1] and len(set(digests)) == 1 + len(others)
