"""Processes that keep a part of the model each train as one does, and what is special about such a model.

What is marked `dist` says the same of all parts of the training and of 3 processes.
"""
from __future__ import annotations

import json
import re
import sys

import pytest
import torch
from launch import HERE, assert_same, run_together
from safetensors.torch import load_file
from sharded import parts_of
from test_distributed import met_alike
from torch import nn
from training import PARTS, learner
from writing import CONTRACT

from minifast.data.transforms import RandomSplitter, get_image_files
from minifast.learner import load_learner
from minifast.optimizer import Adam
from minifast.sharding import put_in_shares, units_of, whole_model
from minifast.shards import load_shares

SHORT = ('sgd', 'adamw', 'one_left', 'accumulation', 'clipping_largest', 'ema', 'predictions', 'tuned')


@pytest.mark.parametrize('name', SHORT)
def test_two_processes_with_a_part_each_give_what_one_gives(outcomes, name):
    """Also where a process has no item in a batch, in training and in a validation."""
    assert_same(name, outcomes(1)[name], outcomes(2, 'fsdp', SHORT)[name])


@pytest.mark.slow
@pytest.mark.parametrize('name', PARTS)
def test_three_processes_with_a_part_each_give_what_one_gives(outcomes, name):
    """Every part of the training."""
    print(f'{name} in shares on 3 processes: {assert_same(name, outcomes(1)[name], outcomes(3, "fsdp")[name]):.1e}')


def in_shares(n, folder, parts, *args):
    """What each rank says of the parts of `sharded.py`."""
    run_together(n, HERE / 'sharded.py', folder, ','.join(parts), *args, cwd=folder, strategy='fsdp', timeout_s=240)
    return [{name: json.loads((folder / f'{name}_{rank}.json').read_text(encoding='utf-8')) for name in parts
             if (folder / f'{name}_{rank}.json').exists()} for rank in range(n)]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Where the files of one process and of two lie."""
    return tmp_path_factory.mktemp('sharded')


@pytest.fixture(scope='module')
def two(folder):
    """What two processes say."""
    return in_shares(2, folder, ['plain', 'accumulating', 'bad_use', 'files', 'keep', 'refused'])


def test_the_model_stays_the_one_that_was_given_and_no_process_holds_all_of_it(two):
    """The same object and names; parameters and averages are cut; linear layers are units, as the script says."""
    for rank in two:
        assert rank['plain'] == {'same': True, 'names': True, 'held': [339, 230], 'all': True, 'always': [True],
                                 'units': ['', '1', '3']}


def test_gradients_are_sent_where_a_step_follows(two):
    """What was added up in a fit that was cancelled is not in the next one."""
    for rank in two:
        assert rank['accumulating'] == {'there': [False, True, True], 'no step': True, 'forgotten': 0.}


@pytest.mark.parametrize('scene, says', [
    ('scalar', "ValueError: scale are single numbers, .* shape \\[1\\], or train with strategy='ddp'"),
    ('kinds', r'ValueError: Sequential has parameters of torch.float\d\d, torch.float\d\d.*learn.model.float\(\)'),
    ('added', 'ValueError: the model has got 4.weight, 4.bias since it was put in shares.*before its first fit'),
    ('made before', r'ValueError: the optimizer was made before.*learn.create_opt\(\), or fit\(..., reset_opt=True\)'),
    ('given', r'ValueError: the optimizer holds no parameter of the model.*learn.create_opt\(\)'),
    ('alone', '(RuntimeError: |PeerError: rank 0 has failed with RuntimeError: )with strategy=.fsdp.*only_rank0'),
    ('units', "ValueError: units= are what strategy='fsdp' gathers, and here it is 'ddp'"),
    ('name', "ValueError: strategy='zero' is neither 'ddp' nor 'fsdp'"),
    ('models', 'ValueError: rank 0 and rank 1 do not train the same: parameters of the model'),
    ('reaches in', 'RuntimeError: .*mixed torch.Tensor and DTensor')])
def test_what_cannot_work_in_shares_says_what_can(two, scene, says):
    """On all ranks, and then they train on together."""
    for rank in two:
        found = rank['bad_use']
        assert re.match(says, ': '.join(found[scene]), re.DOTALL), found[scene]
        assert found['made anew'] is None and found['alone, afterwards'] and found['afterwards']
        assert sys.version_info < (3, 11) or 'units=' in found['notes'][0]


def test_files_of_a_model_in_shares_are_those_of_one_process(two, folder):
    """Weights, optimizer, export and average, written by two and by one, are read by one and go on alike."""
    run_together(1, HERE / 'sharded.py', folder, 'files', cwd=folder)
    ones, twos = load_file(folder / 'files_1.safetensors'), load_file(folder / 'files_2.safetensors')
    for name, value in ones.items():
        torch.testing.assert_close(twos[name], value, rtol=1e-5, atol=2e-6, msg=name)
    kept = [torch.load(folder / f'{n}/models/kept.pth') for n in (1, 2)]
    models = [found['model'] for found in kept]
    assert models[0].keys() == models[1].keys() and models[0]._metadata == models[1]._metadata
    assert kept[0]['opt']['param_groups'] == kept[1]['opt']['param_groups']
    torch.testing.assert_close(kept[1], kept[0], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize('written', [1, 2])
def test_files_are_read_by_any_number_of_processes(two, folder, written):
    """Weights, and the optimizer with them: one epoch more ends in the same weights."""
    if written == 1:
        run_together(1, HERE / 'sharded.py', folder, 'files', cwd=folder)
    for n in (1, 2, 3):
        run_together(n, HERE / 'sharded.py', folder, 'go_on', written, cwd=folder, strategy='fsdp')
    alone = load_file(folder / 'go_on_1.safetensors')
    for n in (2, 3):
        torch.testing.assert_close(load_file(folder / f'go_on_{n}.safetensors'), alone, rtol=1e-5, atol=2e-6)


@pytest.mark.slow
def test_every_optimizer_steps_on_parts_as_on_the_whole(tmp_path):
    """Those that measure a whole tensor too; and their states are saved and loaded."""
    run_together(1, HERE / 'sharded.py', tmp_path, 'optimizers', cwd=tmp_path)
    in_shares(3, tmp_path, ['optimizers'])
    alone, together = (load_file(tmp_path / f'optimizers_{n}.safetensors') for n in (1, 3))
    for name, value in alone.items():
        atol = 3e-5 if 'RMS' in name else 1e-6  # it divides by the root of squares that are nearly nothing
        torch.testing.assert_close(together[name], value, rtol=2e-6, atol=atol, msg=name)


@pytest.mark.slow
def test_what_stands_around_a_training_works_in_shares(tmp_path):
    """Half precision, freezing, the contract of callbacks; whole tensors are the first process's."""
    shapes = [[5, 108], [5], [4, 5], [4]]
    for rank, found in enumerate(in_shares(2, tmp_path, ['around'])):
        assert found['around'] == {'still': True, 'frozen': [False, True], 'whole': [None] * 4 if rank else shapes,
                                   'contract': [make.__name__ for make in CONTRACT]}


@pytest.mark.dist
def test_ranks_in_shares_end_and_cancel_together(tmp_path):
    """As whole ones do."""
    run_together(2, HERE / 'failing.py', tmp_path, 'errors,cancels', cwd=tmp_path, strategy='fsdp', timeout_s=240)
    ranks = [json.loads((tmp_path / f'rank_{rank}.json').read_text(encoding='utf-8')) for rank in range(2)]
    for event, (error, again) in ranks[1]['errors'].items():
        other, also = ranks[0]['errors'][event]
        assert again and also and (event == 'cleanup_fit' or f'rank 1 has failed with {error[0]}' in other[1]), event
    for where in ranks[0]['cancels']:
        met_alike([rank['cancels'][where] for rank in ranks], *where.split(' in '))


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='limits what a process may allocate, as Linux counts')
def test_two_processes_train_a_model_that_does_not_fit_into_one(tmp_path, monkeypatch):
    """Within 620 MB each: weights, gradients and Adam's averages are 768 MB, and half of that for each of two."""
    monkeypatch.setenv('MALLOC_MMAP_THRESHOLD_', '65536')  # freed memory is given back, else holes in it are counted

    def run(n, room, strategy):
        run_together(n, HERE / 'larger.py', tmp_path, room, cwd=tmp_path, strategy=strategy)
        return [json.loads((tmp_path / f'rank_{rank}.json').read_text(encoding='utf-8')) for rank in range(n)]
    with pytest.raises(AssertionError, match='can.t allocate memory'):
        run(1, 620, 'ddp')
    (alone,), two = run(1, 5000, 'ddp'), run(2, 620, 'fsdp')
    told = [f'{rank["held"]:.0f} MB, {rank["peak"]} MB allocated at the end' for rank in (alone, *two)]
    print(f'held by one process: {told[0]}; by each of two: {"; ".join(told[1:])}')
    assert alone['held'] == alone['all'] > 570
    for rank in two:
        assert rank['held'] == pytest.approx(alone['all'] / 2, rel=.001)
        assert rank['losses'] == pytest.approx(alone['losses'], abs=1e-6)


PICTURES = """
from minifast.vision.all import *
from minifast.demo import write_digits
from minifast.sharding import in_shares
dls = ImageDataLoaders.from_folder(write_digits('digits'), valid_pct=0.2, seed=42, item_tfms=Resize(32), global_bs=64)
learn = vision_learner(dls, resnet18, pretrained=False, metrics=error_rate, precision='fp32')
learn.to_distributed(strategy='fsdp').fit_one_cycle(1, 5e-3)
assert [name for name, m in learn.model.named_modules() if in_shares(m)] == ['', '0', '0.6.1', '0.7.0', '0.7.1']
learn.export(Path.cwd() / 'export.pkl')
preds, decoded = learn.get_preds()[0], [str(learn.predict(item)[0]) for item in dls.valid_ds.items[:3]]
if rank_distrib() == 0:
    torch.save({'preds': preds, 'decoded': decoded}, 'preds.pth')
"""


@pytest.mark.slow
def test_a_vision_learner_in_shares_is_exported_and_predicts_in_one_process(tmp_path, monkeypatch):
    """Its blocks of a million numbers are units; batch norm, the recipe of the model, transforms and classes too."""
    (tmp_path / 'pictures.py').write_text(PICTURES)
    run_together(2, tmp_path / 'pictures.py', cwd=tmp_path, timeout_s=240)
    kept, learn = torch.load(tmp_path / 'preds.pth'), load_learner(tmp_path / 'export.pkl')
    monkeypatch.chdir(tmp_path)
    items = get_image_files('digits')
    items = [items[i] for i in RandomSplitter(.2, 42)(items)[1]]
    torch.testing.assert_close(learn.get_preds(dl=learn.dls.test_dl(items))[0], kept['preds'], rtol=1e-4, atol=1e-5)
    assert [str(learn.predict(item)[0]) for item in items[:3]] == kept['decoded']


# ---------------------------------------------------------------- files of parts

def test_one_process_reads_what_two_have_written_in_parts(two, folder):
    """Weights and averages, bit for bit as they were when they were kept, and not as the training went on."""
    learn = learner(opt_func=Adam)
    learn.create_opt()
    load_shares(folder / 'parts_2', learn.model, learn.opt)
    found, kept = parts_of(learn), load_file(folder / 'keep_2.safetensors')
    assert found.keys() == kept.keys() and all(torch.equal(found[name], x) for name, x in kept.items())
    assert len(list(folder.glob('parts_2/*/*'))) == 2 and not list(folder.rglob('.metadata'))


@pytest.mark.slow
def test_any_number_of_processes_reads_what_any_number_has_written_in_parts(tmp_path):
    """Fewer and more, 1 to 4 of them, bit for bit."""
    for n, parts, written in ((4, 'keep', ''), (3, 'take,keep', '4'), (2, 'take,keep', '4+3'),
                              (1, 'take,keep', '4+3+2'), (4, 'take', '4+3+2+1')):
        run_together(n, HERE / 'sharded.py', tmp_path, parts, written, cwd=tmp_path, strategy='fsdp')
        if written:
            kept = {f'{ranks}: {name}': x for ranks in written.split('+')
                    for name, x in load_file(tmp_path / f'keep_{ranks}.safetensors').items()}
            found = load_file(tmp_path / f'take_{n}.safetensors')
            assert found.keys() == kept.keys() and all(torch.equal(found[name], x) for name, x in kept.items())


def test_what_one_process_refuses_all_hear_of(two):
    """A file that is not what was written, another model, data that are none; and they train on together."""
    says = {'damaged': 'DamagedFileError: .*shard-00002-.* is not what was written: take an older',
            'another': 'ValueError: .* does not fit this .*Sequential: 3.bias are unknown to it. Build the model',
            'no data': 'TypeError: .* is a object, which no tensor file can hold'}
    for scene, text in says.items():
        found = [': '.join(rank['refused'][scene]) for rank in two]
        assert any(re.search(text, said) for said in found), found
        assert all(re.match(f'(PeerError: rank . has failed with )?{text}', said) for said in found)
    assert all(rank['refused']['afterwards'] and rank['refused']['left'] == [] for rank in two)


# ---------------------------------------------------------------- which modules are gathered on their own

class Block(nn.Module):
    """A block that calls its layers, and looks into one of them."""

    def __init__(self, n=4):
        super().__init__()
        self.attention, self.linear = nn.MultiheadAttention(n, 2), nn.Linear(n, n)

    def forward(self, x):
        return self.linear(self.attention(x, x, x)[0])


def names(model, units=None):
    """The names of the units."""
    return [name for name, _ in units_of(model, units)]


def test_repeated_blocks_of_some_size_are_units():
    """Elements of containers, not what lies inside of an element; small ones go with the module around them."""
    model = nn.ModuleDict({'stem': nn.Linear(4, 4), 'blocks': nn.ModuleList([Block() for _ in range(3)])})
    n = sum(p.numel() for p in Block().parameters())
    assert names(model, n) == ['blocks.2', 'blocks.1', 'blocks.0', '']
    assert names(model, n + 1) == names(model) == ['']
    assert names(model, 20) == ['blocks.2', 'blocks.1', 'blocks.0', 'stem', '']
    deep = nn.Sequential(nn.Sequential(Block(), Block(), nn.Linear(4, 4)), nn.Linear(4, 2))
    assert names(deep, 20) == ['0.2', '0.1', '0.0', '']
    assert names(deep, n) == ['0.1', '0.0', '']


def test_units_by_class_and_by_function():
    """One class, several, or whatever the function says; containers that are never called are none."""
    model = nn.Sequential(nn.ModuleList([nn.Linear(2, 2)]), Block())
    assert names(model, nn.Linear) == ['1.linear', '1.attention.out_proj', '0.0', '']
    assert names(model, (nn.Linear, Block)) == ['1.linear', '1.attention.out_proj', '1', '0.0', '']
    assert names(model, lambda m: not isinstance(m, nn.Linear)) == ['1.attention', '1', '']


def test_modules_that_share_a_parameter_are_gathered_together():
    """A unit holds all places of a parameter."""
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), nn.Linear(4, 4))
    assert names(model, 1) == ['1', '0.1', '0.0', '']
    model[1].weight = model[0][0].weight
    assert names(model, 1) == ['0.1', '']
    model[1].weight, model[0][1].weight = nn.Parameter(torch.ones(4, 4)), model[0][0].weight
    assert names(model, 1) == ['1', '0', '']


@pytest.mark.parametrize('model, says', [
    (nn.Flatten(), 'without parameters'), (nn.LazyLinear(2), 'let it see a batch first'),
    (nn.Linear(2, 2, device='meta'), "weight, bias lie on the device 'meta'")])
def test_a_model_that_cannot_be_cut_is_left_as_it_is(model, says):
    """Before any process waits for another."""
    with pytest.raises(ValueError, match=says):
        put_in_shares(model)


def test_a_whole_copy_of_a_model_in_no_shares_is_a_copy():
    """As `copy.deepcopy` has it."""
    model = nn.Linear(2, 2)
    again = whole_model(model)
    assert again is not model and torch.equal(again.weight, model.weight) and type(again) is nn.Linear
