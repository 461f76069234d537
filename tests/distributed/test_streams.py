"""Streams under several processes: no item twice and none lost, equal steps, and a resume to the same items.

What is marked `dist` has 3 processes, what is `slow` has workers; `make test-dist` prints the items lost or doubled.
"""
from __future__ import annotations

import json
from collections import Counter

import pytest
from launch import HERE, run_together
from streaming import KINDS, write_shards

N_EPOCHS = 3


@pytest.fixture(scope='module')
def outcomes(tmp_path_factory):
    """A function: what each rank wrote of all kinds on n processes with some workers, run once."""
    folder, done = tmp_path_factory.mktemp('streams'), {}
    n_items = write_shards(folder / 'shards')

    def of(n, workers):
        if (n, workers) not in done:
            run_together(n, HERE / 'streaming.py', folder, ','.join(KINDS), workers, cwd=folder, timeout_s=300)
            done[n, workers] = {kind: [json.loads((folder / f'{kind}-{workers}-{n}-{rank}.json').read_text())
                                       for rank in range(n)] for kind in KINDS}
        return done[n, workers], n_items
    return of


FULL = [(2, 0), pytest.param(3, 0, marks=pytest.mark.dist), pytest.param(2, 2, marks=pytest.mark.slow)]


def steps(rank, epoch, training=True):
    """What a rank was given in one part of an epoch: [epoch, training, stands in, items] of each batch."""
    return [row for row in rank['whole'] if row[0] == epoch and row[1] is training]


def own(rows):
    """The items in it that are not another's."""
    return [items for _, _, stands_in, items in rows if not stands_in]


@pytest.mark.parametrize('n, workers', FULL)
@pytest.mark.parametrize('kind', KINDS)
def test_ranks_share_a_stream(outcomes, kind, n, workers):
    """Each item once an epoch, in training and in validation; equal steps though parts are unequal; other orders in
    other epochs where the stream shuffles; and afterwards the same model and the same row of the table."""
    found, n_items = outcomes(n, workers)
    ranks = found[kind]
    for epoch in range(N_EPOCHS):
        for training in (True, False):
            times = Counter(i for rank in ranks for items in own(steps(rank, epoch, training)) for i in items)
            wrong = sum(abs(times[i] - 1) for i in {*times, *range(n_items)})
            print(f'{kind} on {n} processes with {workers} workers: items lost or doubled {wrong}')
            assert wrong == 0
        assert len({len(steps(rank, epoch)) for rank in ranks}) == 1
    all_ranks = [rank for of_kind in found.values() for rank in of_kind]
    assert any(row[2] for rank in all_ranks for row in rank['whole']), 'no rank ended before the others'
    for rank in ranks:
        assert rank['cancelled'] == [row for row in rank['whole'] if row[0] == 0]  # and all went on
        same = own(steps(rank, 0)) == own(steps(rank, 1))
        assert same is (kind == 'ordered')
        assert rank['weights'] == ranks[0]['weights'] and rank['row'] == ranks[0]['row']
        assert sorted(rank['predicted']) == list(range(n_items))


@pytest.mark.parametrize('n, workers', FULL)
@pytest.mark.parametrize('kind', KINDS)
def test_a_training_on_a_stream_goes_on_where_it_stood(outcomes, kind, n, workers):
    """In the middle of an epoch, also behind the end of some ranks' parts: the same items on each rank, and weights."""
    for rank in outcomes(n, workers)[0][kind]:
        trained = [row for row in rank['whole'] if row[1]]
        assert len(rank['resumed']) == 2
        for resumed in rank['resumed']:
            stop = resumed['stop']
            assert 0 < stop < len(trained) and trained[stop][0] == trained[stop - 1][0], 'between two epochs'
            after = [row for row in resumed['after'] if row[1]]
            assert [row for row in resumed['before'] if row[1]] == trained[:stop]
            assert len(after) == len(trained) - stop and own(after) == own(trained[stop:])
            assert [row[2] for row in after] == [row[2] for row in trained[stop:]]
            assert resumed['weights'] == rank['weights']
