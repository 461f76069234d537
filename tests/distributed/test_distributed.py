"""Several processes train as one does: the same batches, weights, metrics and predictions; and they end together.

What is marked `dist` says the same of 3 and 4 processes; `make test-dist` runs that too and prints how equal they are.
"""
from __future__ import annotations

import re

import pytest
from failing import EVENTS, WHERE
from launch import HERE, assert_same, by_rank, run_together
from safetensors.torch import load_file
from training import PARTS
from writing import CONTRACT

FULL = [2, *(pytest.param(n, marks=pytest.mark.dist) for n in (3, 4))]
FAILING = [2, pytest.param(3, marks=pytest.mark.slow)]


@pytest.mark.parametrize('n', FULL)
@pytest.mark.parametrize('name', PARTS)
def test_several_processes_give_what_one_gives(outcomes, name, n):
    """At the same batch of all: items and pixels bit for bit; weights, losses, metrics, predictions within 1e-6."""
    print(f'{name} on {n} processes: {assert_same(name, outcomes(1)[name], outcomes(n)[name]):.1e}')


@pytest.mark.dist
def test_processes_that_a_script_starts_itself_train_as_one(outcomes, tmp_path):
    """A group of the script's own says how many there are, where the environment does not: never a silent copy."""
    run_together(1, HERE / 'spawned.py', tmp_path, cwd=tmp_path)
    assert_same('sgd', outcomes(1)['sgd'], load_file(tmp_path / 'sgd.safetensors'))


def test_laws_can_fail(outcomes):
    """The trainings compared are of different kinds, and they learn."""
    ends = {name: found['weights'] for name, found in outcomes(1).items() if 'losses' in found}
    assert len({str(w.tolist()) for w in ends.values()}) > len(ends) - 4  # metrics and validation change no weight
    assert all(found['losses'][-1] < found['losses'][0] for name, found in outcomes(1).items()
               if name in ('sgd', 'adamw', 'weighted', 'accumulation'))


@pytest.mark.dist
def test_six_lines_of_the_readme_give_the_accuracy_they_give_alone(tmp_path):
    """At the same batch of all; batch norm has the statistics of a process, so that the bits are others."""
    readme = (HERE.parent.parent / 'README.md').read_text(encoding='utf-8')
    script = re.search(r'```python\n(.*?)```', readme, re.DOTALL)[1]
    assert len(script.splitlines()) == 6
    script = script.replace('Resize(32))', 'Resize(32), global_bs=64)')
    tell = "print('error', learn.recorder.values[-1][-1] if rank_distrib() == 0 else '')"
    (tmp_path / 'six.py').write_text(script + tell)
    found = []
    for n in (1, 2):
        out = run_together(n, tmp_path / 'six.py', cwd=tmp_path, timeout_s=240)
        found.append(float(re.search(r'^error (\S+)', out, re.MULTILINE)[1]))
    print(f'error rate of the six lines: {found[0]:.4f} alone, {found[1]:.4f} on two processes')
    assert max(found) < .12 and abs(found[0] - found[1]) < .06


# ---------------------------------------------------------------- ending together

@pytest.fixture(scope='module')
def failures(tmp_path_factory):
    """A function: what each of n ranks met in the scenes of `failing.py`, each number run once."""
    done = {}

    def of(n):
        if n not in done:
            done[n] = by_rank(n, 'failing.py', tmp_path_factory.mktemp(f'failures_{n}'),
                              'errors,data_errors,cancels,different')
        return done[n]
    return of


@pytest.mark.parametrize('n', FAILING)
def test_an_error_on_one_rank_ends_all_with_its_rank_named(failures, n):
    """In whatever event: its own error there, one that names the rank on the others; then all can train again."""
    scenes = failures(n)[1]['errors']
    assert set(EVENTS) < scenes.keys()
    for event in scenes:
        found = [rank['errors'][event] for rank in failures(n)]
        assert all(again for _, again in found), event
        (kind, text), others = found[1][0], [error for error, _ in found[:1] + found[2:]]
        assert kind == ('KeyboardInterrupt' if event == 'interrupt' else 'ValueError')
        if event == 'cleanup_fit':  # the fit is over
            assert others == [None] * (n - 1)
            continue
        for other_kind, other_text in others:
            assert other_kind == 'PeerError' and f'rank 1 has failed with {kind}: {text}' in other_text, event


@pytest.mark.parametrize('n', FAILING)
def test_data_of_one_rank_that_cannot_be_used_end_all(failures, n):
    """An item that cannot be read, a target that is no class."""
    for scene, kind in (('item', 'OSError'), ('target', 'ValueError')):
        found = [rank['data_errors'][scene] for rank in failures(n)]
        kinds = [error[0] for error, _ in found]
        assert sorted(kinds) == sorted([kind, *['PeerError'] * (n - 1)])
        rank = kinds.index(kind)
        assert all(f'rank {rank} has failed with {kind}' in error[1] for error, _ in found if error[0] == 'PeerError')
        assert all(again for _, again in found)


STEPS = {'fit': (5, 8), 'epoch': (8, 12), 'train': (8, 10), 'validate': (12, 12), 'batch': (11, 11),
         'backward': (12, 12), 'step': (12, 12)}
"""Of the 12 steps of three epochs how many are made, at least and at most: others learn it within one step."""


@pytest.mark.parametrize('n', FAILING)
@pytest.mark.parametrize('part, event', [(part, event) for part, found in WHERE.items() for event in found])
def test_a_cancel_on_one_rank_cancels_on_all(failures, part, event, n):
    """The same steps are made on all, the rest is trained together, and the weights are the same."""
    met_alike([rank['cancels'][f'{part} in {event}'] for rank in failures(n)], part, event)


def met_alike(found, part, event):
    """What the ranks say of a cancelled part."""
    n = len(found)
    errors, steps, cancelled, _, weights, again = zip(*found)
    assert errors == (None,) * n and again == (True,) * n
    assert len(set(steps)) == 1 and len({str(c) for c in cancelled}) == 1
    assert cancelled[0] == ([] if part in ('backward', 'step') else [part])
    if event != 'before_fit':
        least, most = STEPS[part]
        assert least <= steps[0] <= most
        assert len({str(w) for w in weights}) == 1


@pytest.mark.parametrize('n', FAILING)
@pytest.mark.parametrize('scene, says', [
    ('data', r'ValueError.*rank 0 and rank \d do not train the same: number of training items \(43 and 4'),
    ('model', r'ValueError.*parameters of the model \(4 of 569 numbers.* and 6 of 589'),
    ('epochs', r'ValueError.*number of epochs \(1 and 2\)'), ('unused', 'RuntimeError.*find_unused_parameters=True'),
    ('few', r'ValueError.*the 1 training items are too few for \d processes.*start at most 1'),
    ('lists', r'ValueError.*\(list\) cannot be shared out by \d processes'),
    ('torch', 'ValueError.*without a DistributedSampler.*give it'),
    ('global_bs', r'ValueError.*global_bs=13 cannot be shared out evenly by \d processes: give a multiple of'),
    ('not joined', r"RuntimeError.*has not joined them.*strategy='ddp'"),
    ('order', 'PeerError.*the ranks have come apart: rank .* rank .* the same number of batches')])
def test_bad_use_is_told_on_all_ranks(failures, scene, says, n):
    """Other data or another script on a rank, and what cannot be shared out."""
    for rank in failures(n):
        assert re.match(says, ': '.join(rank['different'][scene]), re.DOTALL), rank['different'][scene]
        assert rank['different']['unused allowed'] is None and rank['different']['afterwards'] is True


# ---------------------------------------------------------------- writing

def test_what_writes_acts_on_the_first_rank(tmp_path):
    """One table, one file, one tracker; every rank may read what was saved; callbacks keep their contract."""
    first, second = by_rank(2, 'writing.py', tmp_path)
    assert first['contract'] == second['contract'] == [make.__name__ for make in CONTRACT]
    told = first['told']
    assert [line.split()[0] for line in told['printed'].splitlines()] == ['epoch', '0', 'epoch', '1', 'epoch']
    assert len(told['csv']) == 3 and told['csv'] == second['told']['csv']
    assert (told['looks'], told['rows'], told['steps']) == (43, 2, 8)
    assert (second['told']['printed'], second['told']['looks'], second['told']['rows']) == ('', None, 0)
    assert first['saved'] == {'same': True, 'on all': True, 'files': ['kept.pkl', 'kept.pth']}
    assert second['saved']['same'] and second['saved']['on all']
