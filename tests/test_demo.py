"""The demo: its digits, its loaders, and (slow) what it shows."""
from __future__ import annotations

import re
import statistics

import numpy as np
import pytest
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
