"""The cache of opened pictures: the same batches from cold and warm, whatever happens to the files."""
from __future__ import annotations

import importlib.metadata
import io
import os
import random
import signal
import struct
import subprocess
import sys
import time
import types
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from minifast.data.block import DataBlock, RegressionBlock, TransformBlock
from minifast.data.cache import OpenedPictures, PictureCache, _decoders, _rooms
from minifast.data.transforms import IndexSplitter, get_image_files
from minifast.learner import Learner
from minifast.vision.augment import FlipItem, RandomResizedCrop, RatioResize, Resize
from minifast.vision.core import PILImage, PILImageBW, TensorPoint
from minifast.vision.data import ImageBlock, ImageDataLoaders, PointBlock, SegmentationDataLoaders

TFMS = {'decoded': [FlipItem(), RandomResizedCrop(16)], 'resized': [RatioResize(30), RandomResizedCrop(16)],
        'all of it': Resize(16, method='squish')}

WORKERS = [{}, {'num_workers': 2}, {'num_workers': 2, 'multiprocessing_context': 'thread'}]
WORKERS_IDS = ['here', 'processes', 'threads']


@pytest.fixture
def folder(tmp_path):
    """Twelve pictures of noise, every second one a PNG, in two classes."""
    rng = np.random.RandomState(0)
    for i in range(12):
        (tmp_path / 'pets' / 'ab'[i % 2]).mkdir(parents=True, exist_ok=True)
        pixels = rng.randint(0, 255, (32 + i, 40, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / 'pets' / 'ab'[i % 2] / f'{i}.{"jpg" if i % 3 else "png"}', quality=95)
    return tmp_path / 'pets'


def loaders(folder, item_tfms=TFMS['resized'], **kwargs):
    return ImageDataLoaders.from_folder(folder, valid_pct=.25, seed=1, item_tfms=item_tfms, bs=3, device='cpu',
                                        **{'num_workers': 0, **kwargs})


def batches(dls, epoch=3):
    for i, dl in enumerate(dls.loaders):
        dl.begin(7 + i, epoch)
    return torch.cat([x for dl in dls.loaders for x, _ in dl])


def entries(cache):
    return [entry for entry in cache.rglob('*') if entry.is_file()]


@pytest.mark.parametrize('tfms', TFMS)
@pytest.mark.parametrize('workers', WORKERS, ids=WORKERS_IDS)
def test_cold_and_warm_batches_are_the_same_bits(tfms, workers, folder, tmp_path):
    """Also for another number of workers; next to those without a cache they differ by rounding at most."""
    cold = batches(loaders(folder, TFMS[tfms], cache=tmp_path / 'cache', **workers))
    assert len(entries(tmp_path / 'cache')) == 12
    warm = batches(loaders(folder, TFMS[tfms], cache=tmp_path / 'cache'))
    assert torch.equal(cold, warm)
    assert ((warm - batches(loaders(folder, TFMS[tfms]))).abs() * 255).max() < 1.5

@pytest.mark.parametrize('tfms', TFMS)
@pytest.mark.parametrize('workers', WORKERS, ids=WORKERS_IDS)
def test_what_a_model_draws_is_the_same_beside_a_cold_and_a_warm_cache(tfms, workers, folder, tmp_path):
    """The weights of a net with dropout, after two epochs of which the first one fills the cache."""
    def trained(**kwargs):
        torch.manual_seed(0)
        dls = loaders(folder, TFMS[tfms], cache=tmp_path / 'cache', **kwargs)
        learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(768, 8), nn.Dropout(.5), nn.Linear(8, 2)))
        with learn.no_bar(), learn.no_logging():
            learn.fit(2, .01)
        return torch.cat([p.detach().flatten() for p in learn.model.parameters()]), torch.get_rng_state()

    cold, warm, here = trained(**workers), trained(**workers), trained()
    assert torch.equal(cold[0], warm[0]) and torch.equal(warm[0], here[0])
    assert torch.equal(cold[1], warm[1]) and torch.equal(warm[1], here[1])


@pytest.mark.parametrize('tfms', TFMS)
def test_later_epochs_do_not_look_into_the_files(tfms, folder, tmp_path, monkeypatch):
    """Nothing is read of a picture that is in the cache."""
    dls = loaders(folder, TFMS[tfms], cache=tmp_path / 'cache')
    before = batches(dls)
    monkeypatch.setattr('minifast.vision.core.read_image_file', lambda file: pytest.fail(f'{file} is read'))
    assert torch.equal(batches(dls), before)


def _write(file, data):
    """As long as it was, and written when it was."""
    status = file.stat()
    file.write_bytes(data.ljust(status.st_size, b'\0'))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def _rename(file, data):
    """Another file, as long and as old, takes its name."""
    status, other = file.stat(), file.with_suffix('.new')
    other.write_bytes(data.ljust(status.st_size, b'\0'))
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(file)


def _later(file, data):
    """As long as it was, written later."""
    file.write_bytes(data.ljust(file.stat().st_size, b'\0'))


def _longer(file, data):
    file.write_bytes(data.ljust(file.stat().st_size + 1, b'\0'))


def _linked(file, data):
    """A link to another file in its place."""
    status, other = file.stat(), file.with_suffix('.new')
    _write(file, data)
    file.rename(other)
    file.symlink_to(other)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))


CHANGES = {'written, times put back': _write, 'replaced, times put back': _rename, 'later': _later, 'longer': _longer,
           'a link': _linked}


@pytest.mark.tally
@pytest.mark.parametrize('change', CHANGES)
@pytest.mark.parametrize('tfms', ['decoded', 'resized'])
def test_no_changed_picture_comes_out_of_the_cache(change, tfms, folder, tmp_path, counted):
    """However it was changed, and whatever was done to hide it."""
    dls = loaders(folder, TFMS[tfms], cache=tmp_path / 'cache')
    batches(dls)
    grey = io.BytesIO()
    Image.fromarray(np.full((34, 40, 3), 128, np.uint8)).save(grey, 'JPEG')
    files = get_image_files(folder)
    for file in files:
        CHANGES[change](file, grey.getvalue())
    new = (batches(dls) * 255 - 128).abs().amax((1, 2, 3)) < 3
    counted(int(new.sum()), len(files))
    assert new.all()


@pytest.mark.parametrize('field', ['st_size', 'st_ino', 'st_mtime_ns', 'st_ctime_ns'])
def test_each_thing_that_tells_a_file_apart_counts(field, tmp_path):
    """Size, inode, time of writing, time of change."""
    class Status:
        st_size, st_ino, st_mtime_ns, st_ctime_ns = 1, 2 ** 64 - 1, 3, -4

    cache, pixels, status = PictureCache(tmp_path / 'cache'), np.zeros((4, 4, 3), np.uint8), Status()
    cache.keep('x', 'key', pixels, status)
    assert np.array_equal(cache.find('x', 'key', status), pixels)
    setattr(status, field, 7)
    assert cache.find('x', 'key', status) is None


def test_colour_and_grey_of_one_file_through_one_cache(folder, tmp_path):
    """Each class that opens has entries of its own."""
    made = {}
    for cache in (None, tmp_path / 'cache', tmp_path / 'cache'):
        for kind in (PILImage, PILImageBW):
            made.setdefault(kind, []).append(batches(loaders(folder, TFMS['resized'], img_cls=kind, cache=cache)))
    for kind, (plain, cold, warm) in made.items():
        assert plain.shape == cold.shape and torch.equal(cold, warm) and ((cold - plain).abs() * 255).max() < 1.5
    assert made[PILImage][0].shape[1] == 3 and made[PILImageBW][0].shape[1] == 1
    assert len(entries(tmp_path / 'cache')) == 24


def _own(shift, mode='RGB'):
    """A user's class that opens pictures, and a helper that it calls; other arguments are another state of its code."""
    source = f"""
from minifast.vision.core import PILImage
import numpy as np
SHIFT = {shift}
def shifted(pixels): return np.minimum(pixels, 255 - SHIFT) + np.uint8(SHIFT)
class Own(PILImage):
    _open_args = {{'mode': {mode!r}}}
    @classmethod
    def create(cls, fn, **kwargs):
        return super().create(shifted(np.asarray(PILImage.create(fn))))
"""
    module = types.ModuleType('own_pictures')
    module.__file__ = '/somewhere/own_pictures.py'
    sys.modules['own_pictures'] = module
    exec(source, vars(module))
    return module.Own


def test_a_class_whose_code_was_changed_opens_anew(folder, tmp_path):
    """Its own code, a function that it calls, a constant of its module, a setting; the same code does not."""
    def made(*args):
        x = batches(loaders(folder, TFMS['decoded'], img_cls=_own(*args), cache=tmp_path / 'cache'))
        return x, len(entries(tmp_path / 'cache'))
    (first, n), (again, same), (other, more) = made(0), made(0), made(60)
    assert torch.equal(first, again) and n == same == 12 and more == 24 and (other - first).mean() > .05
    assert made(60, 'L')[1] == 36


def test_other_decoders_and_other_code_of_ours_open_anew(folder, tmp_path, monkeypatch):
    """Versions are part of the key; within a process they are asked for once."""
    batches(loaders(folder, cache=tmp_path / 'cache'))
    found = _decoders()
    assert {'Pillow', 'torch', 'minifast', 'code'} <= set(found)
    for name in found:
        monkeypatch.setattr('minifast.data.cache._decoders', lambda name=name: {**found, name: 'another'})
        key = OpenedPictures(PictureCache(tmp_path), loaders(folder).train.after_item).key
        monkeypatch.undo()
        assert key != OpenedPictures(PictureCache(tmp_path), loaders(folder).train.after_item).key


def test_every_package_that_decodes_or_resizes_is_part_of_the_key(monkeypatch):
    """With its version, where it is installed."""
    packages = {'Pillow', 'simplejpeg', 'opencv-python-headless', 'opencv-python'}
    for missing in packages:
        def version(name, missing=missing):
            if name == missing:
                raise importlib.metadata.PackageNotFoundError(name)
            return f'{name} 7'
        monkeypatch.setattr(importlib.metadata, 'version', version)
        found = _decoders.__wrapped__()
        assert {name: found[name] for name in packages & set(found)} == {
            name: f'{name} 7' for name in packages - {missing}}


def test_a_cache_of_the_release_before_is_not_hit(folder, tmp_path):
    """Its header was another one."""
    cache, pixels = PictureCache(tmp_path / 'cache'), np.zeros((4, 4, 3), np.uint8)
    file = get_image_files(folder)[0]
    cache.keep(file, 'key', pixels, file.stat())
    entry = cache.entry(file, 'key')
    fields = struct.pack('<qQBIII', file.stat().st_size, file.stat().st_mtime_ns, 0, 4, 4, 3).ljust(42, b'\0')
    entry.write_bytes(struct.pack('<18sI', b'minifast picture 1', zlib.crc32(fields + bytes(48))) + fields + bytes(48))
    assert cache.find(file, 'key', file.stat()) is None


def test_names_that_are_no_utf8_are_kept_and_found(folder, tmp_path):
    """As they come from old zips and Windows shares."""
    odd = folder / 'a' / os.fsdecode(b'caf\xe9.jpg')
    get_image_files(folder)[0].rename(odd)
    cold = batches(loaders(folder, cache=tmp_path / 'cache'))
    assert torch.equal(batches(loaders(folder, cache=tmp_path / 'cache')), cold)
    assert len(entries(tmp_path / 'cache')) == 12


def test_a_file_that_was_changed_is_opened_anew(folder, tmp_path):
    """So is one that was there under other transforms; the cache holds one entry a picture and way."""
    dls = loaders(folder, cache=tmp_path / 'cache')
    before = batches(dls)
    for file in get_image_files(folder):
        Image.fromarray(np.full((40, 40, 3), 128, np.uint8)).save(file)
    assert not torch.equal(batches(dls), before) and len(entries(tmp_path / 'cache')) == 12
    assert (batches(dls) * 255 - 128).abs().max() < 3
    batches(loaders(folder, TFMS['decoded'], cache=tmp_path / 'cache'))
    assert len(entries(tmp_path / 'cache')) == 24


def test_a_damaged_entry_is_made_again(folder, tmp_path):
    """A flipped bit anywhere, a part missing, nothing left."""
    dls, draw = loaders(folder, cache=tmp_path / 'cache'), random.Random(0)
    before = batches(dls)
    held = {entry: entry.read_bytes() for entry in entries(tmp_path / 'cache')}
    for n in range(40):
        entry, data = draw.choice(sorted(held.items()))
        spoilt = bytearray(data)
        at = draw.randrange(64) if n % 4 == 0 else draw.randrange(64, len(data))
        spoilt[at] ^= 1 << draw.randrange(8)
        entry.write_bytes(spoilt[:draw.randrange(len(data))] if n % 3 == 0 else spoilt)
        assert torch.equal(batches(dls), before)
        assert entry.read_bytes() == data


def test_no_bit_of_an_entry_goes_unseen(tmp_path):
    """Each of its header's 512 flipped, and the first and last of its pixels, in either layout and with no channels."""
    cache, file, draw = PictureCache(tmp_path / 'cache'), tmp_path / 'picture', np.random.RandomState(0)
    file.write_bytes(b'a picture')
    planes, pixels, grey = (draw.randint(0, 255, shape, np.uint8) for shape in ((3, 8, 4), (8, 4, 3), (8, 4)))
    for n, made in enumerate((planes.transpose(1, 2, 0), pixels, grey)):
        cache.keep(file, str(n), made, file.stat())
        entry = cache.entry(file, str(n))
        held = entry.read_bytes()
        for bit in (*range(64 * 8 + 8), len(held) * 8 - 1):
            spoilt = bytearray(held)
            spoilt[bit // 8] ^= 1 << bit % 8
            entry.write_bytes(spoilt)
            assert cache.find(file, str(n), file.stat()) is None, bit
        entry.write_bytes(held)
        assert np.array_equal(cache.find(file, str(n), file.stat()), made)


def test_the_cache_stays_within_its_bound(folder, tmp_path):
    """It says once that it is full, and training goes on with what is not in it being decoded."""
    cache = PictureCache(tmp_path / 'cache', gb=12e-6)
    with pytest.warns(UserWarning, match='is full') as caught:
        made = batches(loaders(folder, cache=cache))
    assert len(caught) == 1 and 0 < sum(entry.stat().st_size for entry in entries(tmp_path / 'cache')) <= 12_000
    assert torch.equal(made, batches(loaders(folder, cache=tmp_path / 'other')))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert torch.equal(made, batches(loaders(folder, cache=cache)))


def test_what_other_processes_have_kept_counts_against_the_bound(tmp_path):
    """The bound is that of the folder: room for four entries is room for four, however many processes come and go."""
    file, pixels = tmp_path / 'picture', np.zeros((100, 100), np.uint8)
    file.write_bytes(b'a picture')
    PictureCache(tmp_path / 'one').keep(file, '', pixels, file.stat())
    size = entries(tmp_path / 'one')[0].stat().st_size
    for process in range(3):
        cache = PictureCache(tmp_path / 'cache', gb=4.5 * size * 1e-9)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter('always')
            for n in range(2):
                cache.keep(file, f'{process} {n}', pixels, file.stat())
        assert [entry.stat().st_size for entry in entries(tmp_path / 'cache')] == [size] * min(2 * process + 2, 4)
        assert ['is full' in str(w.message) for w in told] == ([True] if process == 2 else [])
        _rooms.clear()  # another process knows nothing of this one


def test_a_storage_that_fails_is_told_and_training_goes_on(folder, tmp_path):
    """Here the folder's name is taken by a file."""
    (tmp_path / 'cache').write_text('')
    with pytest.warns(UserWarning, match='decoded and not kept'):
        made = batches(loaders(folder, cache=tmp_path / 'cache'))
    assert torch.equal(made, batches(loaders(folder, cache=tmp_path / 'other')))


def test_a_missing_picture_is_named_as_without_a_cache(folder, tmp_path):
    """The error is that of opening it, also where it was in the cache."""
    dls = loaders(folder, cache=tmp_path / 'cache')
    batches(dls)
    dls.train.dataset.items[0].unlink()
    with pytest.raises(OSError, match='cannot be read as a picture'):
        batches(dls)


def test_new_items_go_past_it(folder, tmp_path):
    """A picture that is open already, a path: both are predicted as without a cache."""
    dls = loaders(folder, cache=tmp_path / 'cache')
    file = get_image_files(folder)[0]
    held, (plain,) = dls.test_dl([PILImage.create(file)]).one_batch(), dls.test_dl([file]).one_batch()
    assert torch.equal(*held, plain) and not (tmp_path / 'cache').exists()
    assert torch.equal(plain, loaders(folder).test_dl([file]).one_batch()[0])


def test_masks_and_points_go_through_it_and_what_cannot_is_refused(folder, tmp_path):
    """A mask keeps its codes, a point its place; a picture that the user's function opened would miss the resizing."""
    files = get_image_files(folder)
    for file in files:
        codes = (np.asarray(PILImage.create(file))[..., 0] > 99).astype(np.uint8)
        Image.fromarray(codes).save(file.with_suffix('.bmp'))
    made = []
    for cache in (None, tmp_path / 'cache', tmp_path / 'cache'):
        dls = SegmentationDataLoaders.from_label_func(folder, files, lambda f: f.with_suffix('.bmp'), codes='ab',
                                                      item_tfms=TFMS['all of it'], bs=3, device='cpu', seed=1,
                                                      cache=cache)
        dls.train.begin(7, 0)
        made.append(torch.cat([y for _, y in dls.train]))
    assert torch.equal(made[0], made[1]) and torch.equal(made[1], made[2]) and set(made[0].unique().tolist()) == {0, 1}

    def points(cache):
        block = DataBlock(blocks=(ImageBlock, PointBlock), get_items=get_image_files, item_tfms=TFMS['all of it'],
                          splitter=IndexSplitter([0]),
                          get_y=lambda f: TensorPoint.create([[10., 12.]]))
        dls = block.dataloaders(folder, bs=3, device='cpu', cache=cache)
        dls.train.begin(7, 0)
        return torch.cat([y for _, y in dls.train])
    assert torch.equal(points(None), points(tmp_path / 'points')) and entries(tmp_path / 'points')

    def own(cache):
        block = DataBlock(blocks=(ImageBlock, TransformBlock(PILImageBW.create)), get_items=get_image_files,
                          splitter=IndexSplitter([0]), item_tfms=TFMS['all of it'])
        dls = block.dataloaders(folder, bs=3, device='cpu', cache=cache)
        dls.train.begin(7, 0)
        return torch.cat([y for _, y in dls.train])
    with pytest.raises(TypeError, match='resized=False'):
        own(tmp_path / 'own')
    assert torch.equal(own(PictureCache(tmp_path / 'own', resized=False)), own(None))


def test_a_picture_of_other_channels_is_opened_each_time(folder, tmp_path):
    """Only what comes back as it was is kept."""
    class RGBA(PILImage):
        _open_args = {'mode': 'RGBA'}

    block = DataBlock(blocks=(ImageBlock(RGBA), RegressionBlock), get_items=get_image_files, get_y=lambda f: 1.,
                      splitter=IndexSplitter([0]), item_tfms=TFMS['all of it'])
    made = []
    for cache in (None, tmp_path / 'cache'):
        dls = block.dataloaders(folder, bs=3, device='cpu', cache=cache)
        dls.train.begin(7, 0)
        made.append(torch.cat([x for x, _ in dls.train]))
    assert made[0].shape[1] == 4 and torch.equal(*made) and not entries(tmp_path / 'cache')


def test_what_a_process_is_writing_stays_and_what_ended_ones_have_left_goes(folder, tmp_path):
    """Told apart by the process in its name; a folder that is full of what is being written is full."""
    cache = tmp_path / 'cache'
    batches(loaders(folder, cache=cache))
    first = entries(cache)[0]
    with subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE) as other:
        mine = [first.with_name(f'{first.name}.{pid}-{i}.tmp') for i, pid in enumerate((other.pid, other.pid))]
        for file in mine:
            file.write_bytes(b'x' * 1000)
        held = sum(entry.stat().st_size for entry in cache.glob('??/*'))
        assert PictureCache(cache)._tidy() == held and all(file.exists() for file in mine)
        other.communicate(b'')
    assert PictureCache(cache)._tidy() == held - 2000 and not any(file.exists() for file in mine) and first.exists()


KILLED = '''
import sys
from minifast.vision.all import *
dls = ImageDataLoaders.from_folder(sys.argv[1], valid_pct=.25, seed=1, bs=3, device='cpu', num_workers=0,
                                   item_tfms=[RatioResize(30), RandomResizedCrop(16)], cache=sys.argv[2])
print('ready', flush=True)
while True:
    for entry in Path(sys.argv[2]).rglob('*'):
        if entry.is_file(): entry.unlink()
    for _ in dls.train: pass
'''


def killed(folder, cache, n):
    """How many kills of a process that fills the cache left it such that the batches are the same."""
    wanted, draw, same = batches(loaders(folder)), random.Random(0), 0
    for _ in range(n):
        with subprocess.Popen([sys.executable, '-c', KILLED, folder, cache], stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b'ready\n'
            time.sleep(draw.random() / 10)
            process.send_signal(signal.SIGKILL)
        _rooms.clear()  # as in a process that starts
        same += bool(((batches(loaders(folder, cache=cache)) - wanted).abs() * 255).max() < 1.5)
        assert not list(cache.rglob('*.tmp')), 'what a killed process left is swept'
    return same


def test_a_kill_leaves_no_half_entry(folder, tmp_path):
    """Whenever it comes."""
    assert killed(folder, tmp_path / 'cache', 2) == 2


@pytest.mark.faults
def test_twenty_kills_leave_no_half_entry(folder, tmp_path, counted):
    """20 of 20."""
    same = killed(folder, tmp_path / 'cache', 20)
    counted(same, 20)
    assert same == 20
