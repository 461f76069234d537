"""The demo: its digits, its loaders, and (slow) what it shows."""
from __future__ import annotations

import contextlib
import io
import os
import re
import statistics
import types

import numpy as np
import pytest
import torch
from PIL import Image

from minifast import demo
from minifast.demo import digit_loaders, run_demo, write_digits


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    """The written digits."""
    return write_digits(tmp_path_factory.mktemp('demo') / 'digits')


def test_write_digits_writes_every_scan_once(digits):
    """1,797 pictures in ten classes, numbered from 0 in each; a second call changes nothing."""
    files = sorted(digits.rglob('*.png'))
    assert len(files) == 1797 and sorted(f.name for f in digits.iterdir()) == list('0123456789')
    assert [int(f.stem) for f in sorted((digits / '7').iterdir())] == list(range(179))
    with Image.open(files[0]) as picture:
        assert picture.size == (64, 64)
    before = files[0].stat().st_mtime_ns
    assert write_digits(digits) == digits and files[0].stat().st_mtime_ns == before
    assert [f.name for f in digits.parent.iterdir()] == ['digits']


def test_digits_lie_hidden_beside_their_folder_until_all_are_written(tmp_path, monkeypatch):
    """Under its name; what is left of a writing that failed is deleted."""
    save, seen = Image.Image.save, []

    def stopped(self, file):
        seen.append(file)
        if len(seen) == 3:
            raise OSError('no space left')
        save(self, file)
    monkeypatch.setattr(Image.Image, 'save', stopped)
    with pytest.raises(OSError, match='no space left'):
        write_digits(tmp_path / 'there' / 'digits')
    assert {file.parents[2] for file in seen} == {tmp_path / 'there'}
    assert all(file.parents[1].name.startswith('.digits-') for file in seen)
    assert not list((tmp_path / 'there').iterdir())


def test_digit_loaders_take_the_first_pictures_of_each_class(digits):
    """`per_class` pictures of every asked-for class train, the rest validates."""
    dls = digit_loaders(digits, '56789', per_class=20, bs=20)
    assert list(dls.vocab) == list('56789')
    assert len(dls.train_ds) == 100 and len(dls.train_ds) + len(dls.valid_ds) == 896
    assert all(int(file.stem) < 20 for file in dls.train_ds.items)


def test_turned_digits_have_a_class_for_each_digit_and_angle(digits):
    """Each picture comes four times; what validates is the last 20 of a class, in every angle."""
    dls = digit_loaders(digits, '27', turned=True)
    assert len(dls.vocab) == 8 and len(dls.valid_ds) == 2 * 20 * 4
    (upright, _), (turned, label) = dls.train_ds[0], dls.train_ds[1]
    assert dls.vocab[label] == '2 turned by 90'
    assert np.array_equal(np.asarray(turned), np.rot90(np.asarray(upright)))


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
@pytest.mark.parametrize('train', [
    lambda digits, precision: run_demo(digits.parent, precision),
    lambda digits, precision: demo._trained(None, 0, precision)], ids=['first', 'others'])
def test_every_learner_of_the_demo_trains_in_the_precision_asked_for(train, precision, digits, monkeypatch):
    """The one whose body is passed on too."""
    def stub(dls, arch, **kwargs):
        raise RuntimeError(f'asked for {kwargs["precision"]}, measuring {kwargs["metrics"].__name__}')
    monkeypatch.setattr(demo, 'vision_learner', stub)
    with pytest.raises(RuntimeError, match=f'asked for {precision}, measuring accuracy'):
        train(digits, precision)



@pytest.mark.slow
@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_demo_shows_what_transfer_is_worth(precision, tmp_path, capsys):
    """Transfer is at least 15 points of accuracy above scratch, on the mean over the seeds, in either precision; no
    table shows a loss that is out of all proportion; the files are there."""
    tuned, scratch = run_demo(tmp_path, precision)
    assert len(tuned) == len(scratch) == demo.SEEDS
    assert statistics.mean(tuned) - statistics.mean(scratch) > 0.15
    assert (tmp_path / 'predictions.png').stat().st_size > 10_000 and (tmp_path / 'digits.pth').exists()
    said = capsys.readouterr().out
    assert 'worth of transfer' in said and said.count('with probability') == 3
    losses = [float(line.split()[2]) for line in said.splitlines() if re.fullmatch(r'\d+( +[\d.:]+){4} *', line)]
    assert len(losses) == 11 and max(losses) < 10


def test_worth_is_told_as_mean_and_spread(capsys):
    """A row a seed, then both figures."""
    demo._print_worth([0.9, 0.7], [0.5, 0.5])
    said = capsys.readouterr().out
    assert 'seed 1' in said and '+20.0 points' in said
    assert re.search(r'mean +80\.0% +50\.0% +\+30\.0 points', said) and re.search(r'spread +14\.1 +0\.0 +14\.1', said)


class Pupil:
    """In the place of a learner: what it is asked for."""

    made = []

    def __init__(self, dls, arch, **kwargs):
        self.dls, self.asked, self.body = dls, [(arch.__name__, kwargs)], torch.nn.Linear(1, 1)
        self.drawn = float(torch.rand(()))  # as weights are
        self.model, self.path, self.logger = [self.body], None, print
        self.made.append(self)

    def fit_one_cycle(self, *args, **kwargs):
        self.asked.append(('fit_one_cycle', args, kwargs))

    def fine_tune(self, *args, **kwargs):
        self.asked.append(('fine_tune', args, kwargs))

    def remove_cb(self, cb):
        self.asked.append(('quiet', cb.__name__))

    def validate(self, dl):
        self.validated = dl
        return [1., .5 + len(self.made) / 100]

    def predict(self, file):
        return file.parent.name, torch.tensor(1), torch.tensor([.25, .75])

    def show_results(self, **kwargs):
        import matplotlib.pyplot as plt
        plt.figure()

    def export(self, name):
        (self.path / name).write_text('model')
        return self.path / name


@pytest.fixture(scope='module')
def pupils(digits, tmp_path_factory):
    """The learners of a whole demo, what it returned and what it said, and its folder."""
    out = tmp_path_factory.mktemp('shown')
    (out / 'digits').symlink_to(digits)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:
        patch.setattr(demo, 'vision_learner', Pupil)
        patch.setattr(Pupil, 'made', [])
        patch.setattr(demo.gc, 'collect', lambda: None)  # which takes a second, for each learner
        found = run_demo(out, 'fp32')
        made = Pupil.made
    return made, found, said.getvalue(), out


def test_both_sides_of_the_demo_are_given_the_same(pupils):
    """Pictures, head, seeds, rate and epochs; but for what is known already, which the first one has learnt from other
    digits."""
    (teacher, shown, *others), (tuned, scratch), *_ = pupils
    assert len(others) == 2 * demo.SEEDS and teacher.asked[0] == (
        'resnet18', {'pretrained': False, 'metrics': demo.accuracy, 'precision': 'fp32'})
    (_, (epochs, rate), _), = teacher.asked[1:]
    assert epochs == 5 and 1e-3 < rate < 1e-2
    assert {name[0] for name in teacher.dls.vocab} == set('01234') and len(teacher.dls.vocab) == 20
    with_body, without = others[:demo.SEEDS], others[demo.SEEDS:]
    assert {str(o.asked[0]) for o in [shown, *others]} == {str(('resnet18', {
        'pretrained': False, 'lin_ftrs': [], 'metrics': demo.accuracy, 'precision': 'fp32'}))}
    assert [o.drawn for o in with_body] == [o.drawn for o in without]
    assert len({o.drawn for o in with_body}) == demo.SEEDS and shown.drawn == with_body[0].drawn
    for o in [shown, *with_body]:
        assert all(torch.equal(a, b) for a, b in zip(o.body.parameters(), teacher.body.parameters()))
        name, (epochs, rate), kwargs = o.asked[-1]
        assert (name, epochs, rate, kwargs) == ('fine_tune', demo.EPOCHS, demo.LR, {'lr_mult': 5})
    for o in without:
        assert not torch.equal(o.body.weight, teacher.body.weight)
        assert o.asked[-1] == ('fit_one_cycle', (demo.EPOCHS + 1, demo.LR), {})  # fine_tune has one for the head
    assert shown.asked[1][0] == 'fine_tune' and all(o.asked[1] == ('quiet', 'ProgressCallback') for o in others)
    assert shown.logger is print and all(o.logger is not print for o in others)
    assert len({id(o.dls.train) for o in [shown, *others]}) == len({id(o.validated) for o in others}) == 1
    assert list(shown.dls.vocab) == list('56789') and len(shown.dls.train_ds) == 25 and others[0].validated is (
        shown.dls.valid)
    assert (shown.dls.train.bs, teacher.dls.train.bs) == (8, 64) and all(len(o.dls.loaders) == 1 for o in others)
    assert tuned == [pytest.approx(.5 + i / 100) for i in range(3, 13)]
    assert scratch == [pytest.approx(.5 + i / 100) for i in range(13, 23)]


def test_the_demo_tells_what_it_does_and_where_it_is(pupils):
    """In three numbered parts; the worth, pictures with their probability, and the files."""
    (_, shown, *_), _, said, out = pupils
    assert re.findall(r'^(\d)\. ', said, re.MULTILINE) == ['1', '2', '3']
    assert said.startswith(f'1,797 scans of handwritten digits are in {out / "digits"}\n')
    rows = re.findall(r'^(seed \d|mean|spread) ', said, re.MULTILINE)
    assert rows == [*(f'seed {i}' for i in range(10)), 'mean', 'spread'] and '-10.0 points' in said
    files = shown.dls.valid_ds.items
    told = [f'{file} is a {file.parent.name} with probability 0.75' for file in (files[0], files[len(files) // 2],
                                                                               files[-1])]
    assert [line for line in said.splitlines() if 'probability' in line] == told
    assert f'Accuracy on {len(files)} other pictures of the digits 5-9' in said and len(files) == 896 - 25
    for name in ('predictions.png', 'digits.pth'):
        assert f'{out / name}\n' in said and (out / name).exists()
    assert re.search(r'^\d+ s in all$', said, re.MULTILINE)


def test_loaders_of_digits_have_the_sizes_asked_for(digits):
    """All but the last twenty of a class train unless fewer are asked for; small pictures, made here."""
    for kwargs, bs, sizes in (({}, 32, None), ({'bs': 16, 'per_class': 3}, 16, [3, 3])):
        dls = digit_loaders(digits, '46', **kwargs)
        for name, n_train in zip('46', sizes or [len(list((digits / name).iterdir())) - 20 for name in '46']):
            there, kept = ([int(file.stem) for file in part.items if file.parent.name == name]
                           for part in (dls.train_ds, dls.valid_ds))
            assert sorted(there) == list(range(n_train)) and sorted(there + kept) == list(range(len(there + kept)))
        assert (dls.train.bs, dls.valid.bs, dls.train.num_workers) == (bs, 128, 0)
    assert dls.train.dataset[0][0].size == (64, 64) and dls.valid.one_batch()[0].shape[1:] == (3, 32, 32)


def test_a_scan_is_written_with_its_greys(tmp_path, monkeypatch):
    """Black is 0 and white 255, at eight times the size; a writing that another process has overtaken is dropped."""
    scans = types.SimpleNamespace(images=np.stack([np.full((8, 8), value) for value in (0., 16., 8.)]),
                                  target=np.array([3, 3, 1]))
    monkeypatch.setattr('sklearn.datasets.load_digits', lambda: scans)
    folder = write_digits(str(tmp_path / 'deep' / 'digits'))
    greys = {file.relative_to(folder).as_posix(): np.asarray(Image.open(file)) for file in folder.rglob('*.png')}
    assert {name: set(grey.flatten().tolist()) for name, grey in greys.items()} == {
        '3/000.png': {0}, '3/001.png': {255}, '1/000.png': {128}}
    assert folder.stat().st_mode & 0o777 == 0o755
    first = tmp_path / 'first'

    def overtaken(self, target):
        first.mkdir()
        raise OSError('not empty')
    monkeypatch.setattr('pathlib.Path.rename', overtaken)
    assert write_digits(first) == first and not list(first.iterdir())
    assert sorted(file.name for file in tmp_path.iterdir()) == ['deep', 'first']
    monkeypatch.setattr('pathlib.Path.rename', lambda self, target: os.stat(tmp_path / 'none'))
    with pytest.raises(FileNotFoundError):
        write_digits(tmp_path / 'second')
