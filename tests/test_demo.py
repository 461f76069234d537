"""The demo: its digits, its loaders, and (slow) what it shows."""
from __future__ import annotations

import pytest
from PIL import Image

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


def test_digit_loaders_take_the_first_pictures_of_each_class(digits):
    """`per_class` pictures of every asked-for class train, the rest validates."""
    dls = digit_loaders(digits, '56789', per_class=20, bs=20)
    assert list(dls.vocab) == list('56789')
    assert len(dls.train_ds) == 100 and len(dls.train_ds) + len(dls.valid_ds) == 896
    assert all(int(file.stem) < 20 for file in dls.train_ds.items)


@pytest.mark.slow
def test_demo_shows_what_transfer_is_worth(tmp_path, capsys):
    """Transfer is at least 15 points of accuracy above scratch, and the files are there."""
    with_transfer, without = run_demo(tmp_path)
    assert with_transfer - without > 0.15
    assert (tmp_path / 'predictions.png').stat().st_size > 10_000 and (tmp_path / 'digits.pth').exists()
    said = capsys.readouterr().out
    assert 'worth of transfer' in said and said.count('with probability') == 3
