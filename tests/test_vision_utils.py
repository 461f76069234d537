"""Fetching and shrinking folders of pictures."""
from __future__ import annotations

import http.server
import io
import json
import os
import threading
import urllib.parse
from functools import partial

import numpy as np
import pytest
from PIL import Image

from minifast.data.transforms import RandomSplitter
from minifast.vision.core import load_image
from minifast.vision.utils import (check_folder, download_images, look_at_folder, resize_image, resize_images,
                                   resize_to, search_images_bing, search_images_serpapi, survey_folder, verify_image,
                                   why_unreadable)

PIXELS = np.random.RandomState(0).randint(0, 256, (60, 100, 3), np.uint8)


def _jpeg() -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, 'JPEG')
    return file.getvalue()


@pytest.fixture
def url():
    class _Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            found = self.path.startswith('/good')
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(_jpeg() if found else b'')

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': .01}, daemon=True)
    thread.start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
    server.server_close()
    thread.join()


def test_download_images_fetches_what_there_is_and_names_the_rest(url, tmp_path):
    """Every good address becomes a file under a random name, each bad one is returned with its reason."""
    failed = download_images(tmp_path, urls=[f'{url}/good1.jpg?w=3', f'{url}/bad.jpg', f'{url}/good2', 'nonsense'])
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2 and all(f.suffix == '.jpg' and verify_image(f) for f in files)
    assert sorted(f[0].split('/')[-1] for f in failed) == ['bad.jpg', 'nonsense'] and '404' in str(failed)


def test_download_images_gives_up_a_picture_when_it_is_told_to(url, tmp_path, monkeypatch):
    """After 4 seconds without a byte, or as long as was asked for."""
    waited = []
    monkeypatch.setattr('minifast.vision.utils.fetch_file', lambda *args, timeout, **kwargs: waited.append(timeout))
    download_images(tmp_path, urls=[f'{url}/a.png'])
    download_images(tmp_path, urls=[f'{url}/a.png'], timeout=.5)
    assert waited == [4, .5]


@pytest.mark.parametrize('n_workers', [1, 3])
def test_download_images_waits_for_as_many_at_once_as_it_is_told(n_workers, tmp_path, monkeypatch):
    """`n_workers`: that many wait for one another, and no more are there."""
    together, here = threading.Barrier(n_workers, timeout=20), []
    most = []

    def fetch(url, *args, **kwargs):
        here.append(url)
        together.wait()
        most.append(len(here))
        together.wait()
        here.remove(url)
    monkeypatch.setattr('minifast.vision.utils.fetch_file', fetch)
    assert not download_images(tmp_path, urls=[f'http://h/{i}.png' for i in range(6)], n_workers=n_workers)
    assert most == [n_workers] * 6


def test_download_images_from_a_file_keeps_names_when_asked(url, tmp_path):
    """A text file of addresses, its first `max_pics`; repeated names are numbered."""
    (tmp_path / 'urls.txt').write_text('\n'.join([f'{url}/good/a.jpg', f'{url}/good/b/a.jpg', f'{url}/good/c.jpg']))
    download_images(tmp_path / 'out', url_file=tmp_path / 'urls.txt', max_pics=2, preserve_filename=True)
    assert sorted(f.name for f in (tmp_path / 'out').iterdir()) == ['a.jpg', 'a1.jpg']


NAMES = {'/good/a.jpg': 'a.jpg', '/good/..%2f..%2fb.jpg': 'b.jpg', '/good/%2e%2e': None, '/good/..': None,
         '/good/%2fetc%2fc.jpg': 'c.jpg', '/good/..%5c..%5cd.jpg': 'd.jpg', '/good/e%1b%5b2K.jpg': 'e_[2K.jpg',
         '/good/f%0ag.jpg': 'f_g.jpg', '/good/h%00i.jpg': 'h_i.jpg', '/good/.htaccess': 'htaccess.jpg',
         '/good/C%3aj.jpg': 'C_j.jpg', '/good/k.jp%2fg': None, '/good/l.j%20g': 'l.jpg', '/good/m.%1b': 'm.jpg',
         '/good/n' + 'n' * 999 + '.png': 'n' * 60 + '.png', '/good/gr%c3%b6%c3%9fe.png': 'größe.png',
         '/good/caf%e9.png': 'caf\ufffd.png', '/good/%e2%80%aeo.jpg': '_o.jpg'}


@pytest.mark.tally
@pytest.mark.parametrize('preserve', [True, False])
def test_no_address_of_a_picture_names_a_file_elsewhere(preserve, url, tmp_path, counted):
    """Whatever is escaped in it: one plain name in the folder, or a random one."""
    (tmp_path / 'mine.jpg').write_bytes(b'mine')
    inside = 0
    for path, name in NAMES.items():
        out = tmp_path / 'deep' / 'out'
        assert not download_images(out, urls=[url + path], preserve_filename=preserve)
        found, = out.iterdir()
        right = name is None or not preserve or found.name == os.fsdecode(name.encode())
        inside += found.is_file() and right
        assert right, path
        found.unlink()
    counted(inside, len(NAMES))
    assert sorted(o.name for o in tmp_path.rglob('*') if o.is_file()) == ['mine.jpg']


def test_download_images_leaves_nothing_but_pictures(url, tmp_path, monkeypatch):
    """No lock for each of a thousand: their names are nobody else's."""
    temporary = tmp_path / 'temporary'
    temporary.mkdir()
    monkeypatch.setattr('tempfile.tempdir', str(temporary))
    assert not download_images(tmp_path / 'out', urls=[f'{url}/good.jpg'] * 2)
    assert len(list((tmp_path / 'out').iterdir())) == 2 and not list(temporary.iterdir())


def test_download_images_goes_on_after_nonsense(url, tmp_path, monkeypatch):
    """Addresses that are none, other schemes, and what is larger than any picture that is opened are named."""
    bad = ['http://[x/a.jpg', 'file:///etc/hostname', '', 'ftp://127.0.0.1/a.jpg', f'{url}/good\x1b.jpg', 'a\0b']
    failed = download_images(tmp_path, urls=[*bad, f'{url}/good.jpg'])
    assert {f[0] for f in failed} == set(bad) and len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr('minifast.vision.utils.MAX_FILE_BYTES', 99)
    (_, reason), = download_images(tmp_path, urls=[f'{url}/good.jpg'])
    assert '99 bytes' in reason and len(list(tmp_path.iterdir())) == 1


def test_search_tells_its_key_to_nobody_else(monkeypatch):
    """The next page is asked for where the first one was."""
    pages = [{'images_results': [{'original': 'a'}], 'serpapi_pagination': {'next': 'https://else.where/search?x'}}]
    asked = []

    def answer(url):
        asked.append(url)
        return io.BytesIO(json.dumps(pages[0]).encode())
    monkeypatch.setattr('minifast.vision.utils.open_url', answer)
    assert list(search_images_bing('cats', key='k')) == ['a'] and len(asked) == 1


@pytest.mark.parametrize('search', [partial(search_images_serpapi, key='k'), partial(search_images_bing, key='k'),
                                    partial(search_images_serpapi, engine='google_images', key='k')])
def test_search_asks_for_the_words_with_the_key_at_an_engine_of_pictures(search, monkeypatch):
    """Bing's unless another is named; each address once, and no more of them than asked for."""
    asked = []

    def answer(url):
        asked.append(dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(url).query)))
        return io.BytesIO(json.dumps({'images_results': [{'original': o} for o in 'aabc']}).encode())
    monkeypatch.setattr('minifast.vision.utils.open_url', answer)
    assert list(search('two cats', max_images=2)) == ['a', 'b']
    assert asked == [{'engine': search.keywords.get('engine', 'bing_images'), 'q': 'two cats', 'api_key': 'k'}]


def test_search_without_a_key_says_where_to_get_one(monkeypatch):
    """No request is made without a key."""
    monkeypatch.delenv('SERPAPI_KEY', raising=False)
    with pytest.raises(ValueError, match='SERPAPI_KEY'):
        search_images_bing('cats')


def test_resize_images_in_place_and_elsewhere(tmp_path):
    """The longer side is at most `max_size`, smaller ones are copied, folders keep their shape, bad files are left."""
    src = tmp_path / 'src'
    (src / 'deep').mkdir(parents=True)
    Image.fromarray(PIXELS).save(src / 'large.png')
    Image.fromarray(PIXELS[:20, :30]).save(src / 'deep' / 'small.png')
    Image.fromarray(PIXELS).convert('RGBA').save(src / 'alpha.png')
    (src / 'bad.jpg').write_bytes(b'nothing')
    resize_images(src, max_size=50, recurse=True, dest=tmp_path / 'out')
    sizes = {f.name: load_image(f).size for f in (tmp_path / 'out').rglob('*.png')}
    assert sizes == {'large.png': (50, 30), 'small.png': (30, 20), 'alpha.png': (50, 30)}
    assert load_image(tmp_path / 'out' / 'alpha.png').mode == 'RGB' and not (tmp_path / 'out' / 'bad.jpg').exists()
    resize_images(src, max_size=40, dest=src)
    assert load_image(src / 'large.png').size == (40, 24) and (src / 'bad.jpg').read_bytes() == b'nothing'
    assert load_image(src / 'deep' / 'small.png').size == (30, 20)
    assert not [f for f in src.rglob('*') if '.part' in f.name]


def test_resize_image_resume_and_format(tmp_path):
    """`resume` leaves what is there, `ext` writes another format."""
    Image.fromarray(PIXELS).save(tmp_path / 'a.png')
    resize_image('a.png', tmp_path / 'out', src=tmp_path, max_size=20, ext='.jpg', quality=50)
    made = tmp_path / 'out' / 'a.jpg'
    assert made.read_bytes()[:2] == b'\xff\xd8' and load_image(made).size == (20, 12)
    before = made.read_bytes()
    resize_image('a.png', tmp_path / 'out', src=tmp_path, max_size=10, ext='.jpg', resume=True)
    assert made.read_bytes() == before
    assert resize_to(Image.fromarray(PIXELS), 50) == (50, 30) and resize_to(Image.fromarray(PIXELS), 30, True) == (50,
                                                                                                                   30)


def test_listing_names_what_is_left_out_and_what_is_empty(tmp_path):
    """With the kind and the words for it; a folder that only holds folders is not empty."""
    for name in ('a/1.jpg', 'a/notes.txt', 'b/c/2.png', 'b/c/.3.png', '.d/4.png', 'e/list.csv'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode() + _jpeg())
    (tmp_path / 'f').mkdir()
    (tmp_path / 'a' / 'up').symlink_to(tmp_path)
    said = {(f.path.relative_to(tmp_path).as_posix(), f.kind, f.reason) for f in check_folder(tmp_path, progress=False)
            if f.kind != 'bad'}
    assert said == {('a/notes.txt', 'left out', "no picture by its suffix '.txt'"),
                    ('b/c/.3.png', 'left out', 'a hidden file'), ('.d', 'left out', 'a hidden folder'),
                    ('e/list.csv', 'left out', "no picture by its suffix '.csv'"),
                    ('e', 'empty', 'a folder without pictures'), ('f', 'empty', 'a folder without pictures'),
                    ('a/up', 'left out', 'a link to a folder that was listed already')}


def test_a_folder_is_looked_at_as_it_is_laid_out(tmp_path):
    """Classes in it, or in its parts under one of their usual names; of train and test train alone is meant."""
    for name in ('p/Training/a/1.jpg', 'p/Training/b/deep/a/2.jpg', 'p/Training/b/3.jpg', 'p/val/b/4.jpg',
                 'p/test/c/5.jpg', 'q/train/a/6.jpg', 'q/test/a/7.jpg', 'r/train/8.jpg', 'r/bus/9.jpg'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    p, q, r = (look_at_folder(tmp_path / name) for name in 'pqr')
    assert p[1:] == ('Training', 'val', .2, {'a': 2, 'b': 1}, {'b': 1}, 3, [])
    assert q.path == tmp_path / 'q' / 'train' and q.counts == {'a': 1} and q.findings[0].kind == 'one class'
    assert (r.train, r.valid, r.counts) == (None, None, {'bus': 1, 'train': 1}) and r.findings[0].kind == 'too few'
    with pytest.raises(ValueError, match='does not exist: give a folder that holds one folder of pictures a class'):
        look_at_folder(tmp_path / 'none')


@pytest.mark.parametrize('n, valid_pct, n_train', [(12, .2, 10), (12, .5, 6), (12, .08, None), (12, .09, 11),
                                                  (12, .83, 3), (12, .84, 2), (12, .92, None), (10, .2, 8),
                                                  (9, .2, None)])
def test_too_few_pictures_to_train_and_to_validate_with(n, valid_pct, n_train, tmp_path):
    """Ten in all, one to validate with and two, the least that batch normalization takes, to train with; as the split
    that is made of them has."""
    for i in range(n):
        (tmp_path / 'ab'[i % 2]).mkdir(exist_ok=True)
        (tmp_path / 'ab'[i % 2] / f'{i}.png').touch()
    found = look_at_folder(tmp_path, valid_pct=valid_pct)
    assert [f.kind for f in found.findings] == ([] if n_train else ['too few'])
    train, valid = RandomSplitter(valid_pct)(range(n))
    assert found.n_train == len(train) and (bool(n_train) == (n >= 10 and len(train) >= 2 and len(valid) >= 1))
    assert n_train in (None, len(train))


def test_survey_knows_sizes_upright_and_alpha_of_any_kind(tmp_path):
    """A picture that lies on its side counts as it is shown; a palette with a transparent entry has alpha too."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / 'side.jpg', exif=exif)
    Image.fromarray(PIXELS).save(tmp_path / 'a.png')
    Image.fromarray(PIXELS).quantize(4).save(tmp_path / 'b.png', transparency=1)
    Image.fromarray(PIXELS).convert('LA').save(tmp_path / 'c.png')
    (tmp_path / 'bad.png').write_bytes(b'nothing')
    found = survey_folder(tmp_path, n_workers=1, progress=False)
    assert found.sizes == {(100, 60): 3, (60, 100): 1} and [f.name for f in found.alpha] == ['b.png', 'c.png']
    assert [(f.kind, f.serious) for f in found.findings] == [('bad', True)] and not found.own
    assert why_unreadable(tmp_path / 'bad.png') == found.findings[0].reason
    assert why_unreadable(tmp_path / 'a.png') is None


def test_what_minifast_has_written_is_its_own_and_a_class_of_that_name_is_none(tmp_path):
    """Models, exports, histories and checkpoints are no findings, wherever they are; a folder of them is not empty."""
    own = ['a/x.pth', 'checkpoints/checkpoint-000001.pth', 'checkpoints/run-0af.jsonl', 'checkpoints/items-9.json',
           'checkpoints/.in-use', 'checkpoints/checkpoint-000001-shares/__0_0.distcp',
           'checkpoints/checkpoint-000001-shares/.metadata', 'old/history.csv', 'x.pkl']
    for name in [*own, 'a/1.jpg', 'models/1.jpg', 'list.json', 'b/.hidden']:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(_jpeg())
    (tmp_path / 'b' / 'models').mkdir()
    found = survey_folder(tmp_path, progress=False)
    assert {f.relative_to(tmp_path).as_posix() for f in found.own} == set(own)
    assert {(f.path.name, f.kind) for f in found.findings if f.kind != 'duplicate'} == {
        ('list.json', 'left out'), ('.hidden', 'left out')}
    assert look_at_folder(tmp_path).counts == {'a': 1, 'models': 1}


def test_suffixes_that_a_training_looks_for_are_those_that_are_checked(tmp_path):
    """What it would stop at is bad; a picture that it would pass over is told, with the way out."""
    for name in ('a.svg', 'b.jfif', 'c.txt'):
        (tmp_path / name).write_bytes(_jpeg() if name == 'b.jfif' else b'nothing')
    assert [(f.path.name, f.kind, f.reason) for f in check_folder(tmp_path, progress=False)] == [
        ('b.jfif', 'left out', "a picture whose suffix '.jfif' is not looked for: rename it"),
        ('c.txt', 'left out', "no picture by its suffix '.txt'"), ('a.svg', 'bad', 'it is text and no picture')]


@pytest.mark.parametrize('watched', [True, False])
def test_the_bar_of_a_check_is_for_who_watches(tmp_path, monkeypatch, watched):
    """A terminal gets one, a log file nothing that would have to be wiped out again."""
    Image.new('RGB', (4, 4)).save(tmp_path / 'a.png')
    screen = io.StringIO()
    monkeypatch.setattr(screen, 'isatty', lambda: watched, raising=False)
    monkeypatch.setattr('sys.stderr', screen)
    check_folder(tmp_path, n_workers=1)
    assert ('check' in screen.getvalue()) is watched and (screen.getvalue() != '') is watched
    screen.seek(0)
    screen.truncate()
    check_folder(tmp_path, n_workers=1, progress=False)
    assert screen.getvalue() == ''
