"""Fetching and extracting data sets: whole or not at all, and nothing outside of the folder."""
from __future__ import annotations

import hashlib
import http.server
import io
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from minifast.data.external import (URLs, download_data, download_file, extract_archive, fastai_cfg, fastai_path,
                                    open_url, untar_data)
from minifast.data.transforms import get_image_files

CONTENT = bytes(range(256)) * 4096


class _Server(http.server.ThreadingHTTPServer):
    """Serves `files`, honours ranges, and breaks the first `cuts` answers off in the middle."""

    def __init__(self) -> None:
        super().__init__(('127.0.0.1', 0), _Handler)
        self.files, self.cuts, self.ranges, self.hits, self.knows_ranges = {}, 0, [], 0, True
        self.redirects, self.tells_length, self.pause_s = {}, True, 0.

    def url(self, name: str) -> str:
        return f'http://127.0.0.1:{self.server_port}/{name}'


class _Handler(http.server.BaseHTTPRequestHandler):

    def do_GET(self) -> None:
        self.server.hits += 1
        if (redirect := self.server.redirects.get(self.path[1:])) is not None:
            self.send_response(redirect[0])
            self.send_header('Location', redirect[1])
            self.send_header('Content-Length', '0')
            self.end_headers()
            return
        body = self.server.files.get(self.path[1:])
        if body is None:
            self.send_error(404)
            return
        asked = self.headers.get('Range') if self.server.knows_ranges else None
        self.server.ranges.append(asked)
        start = int(asked[6:-1]) if asked else 0
        if asked and start >= len(body):
            self.send_error(416)
            return
        self.send_response(206 if asked else 200)
        if self.server.tells_length:
            self.send_header('Content-Length', str(len(body) - start))
        self.end_headers()
        cut = self.server.cuts > 0
        time.sleep(self.server.pause_s)
        self.server.cuts -= cut
        self.wfile.write(body[start:start + (len(body) - start) // 2] if cut else body[start:])

    def log_message(self, *args: object) -> None:
        """Silence."""


@pytest.fixture
def server():
    made = _Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={'poll_interval': 0.01}, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def _tgz(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w:gz') as tar:
        for info, body in members:
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return file.getvalue()


def _link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b''


def test_download_interrupted_twice_goes_on_where_it_stopped(server, tmp_path):
    """A broken connection costs only what had not come: each further request asks for the rest, the file is the
    same."""
    server.files['x.bin'], server.cuts = CONTENT, 2
    got = download_file(server.url('x.bin'), tmp_path / 'x.bin', progress=False)
    assert got.read_bytes() == CONTENT
    half, quarter = len(CONTENT) // 2, len(CONTENT) // 4
    assert server.ranges == [None, f'bytes={half}-', f'bytes={half + quarter}-']


def test_download_given_up_keeps_the_part_and_no_file(server, tmp_path):
    """A file that is there is whole: until then its bytes are in .part, from which the next call goes on."""
    server.files['x.bin'], server.cuts = CONTENT, 1
    with pytest.raises(OSError, match='continued next time'):
        download_file(server.url('x.bin'), tmp_path / 'x.bin', retries=0, progress=False)
    assert [o.name for o in tmp_path.iterdir()] == ['x.bin.part']
    download_file(server.url('x.bin'), tmp_path / 'x.bin', retries=0, progress=False)
    assert [o.name for o in tmp_path.iterdir()] == ['x.bin'] and (tmp_path / 'x.bin').read_bytes() == CONTENT


def test_download_part_of_server_without_ranges_starts_again(server, tmp_path):
    """A server that ignores Range sends everything, and nothing is appended twice."""
    server.files['x.bin'], server.knows_ranges = CONTENT, False
    (tmp_path / 'x.bin.part').write_bytes(CONTENT[:100])
    assert download_file(server.url('x.bin'), tmp_path / 'x.bin', progress=False).read_bytes() == CONTENT


def test_download_part_longer_than_the_file_starts_again(server, tmp_path):
    """A part that cannot belong to the file is thrown away."""
    server.files['x.bin'] = CONTENT
    (tmp_path / 'x.bin.part').write_bytes(CONTENT * 2)
    assert download_file(server.url('x.bin'), tmp_path / 'x.bin', progress=False).read_bytes() == CONTENT


def test_download_wrong_checksum_removes_the_file(server, tmp_path):
    """What has the wrong SHA-256 does not stay, neither fresh nor from the cache."""
    server.files['x.bin'] = CONTENT
    with pytest.raises(ValueError, match='SHA-256'):
        download_file(server.url('x.bin'), tmp_path / 'x.bin', checksum='0' * 64, progress=False)
    assert list(tmp_path.iterdir()) == []
    right = hashlib.sha256(CONTENT).hexdigest()
    assert download_file(server.url('x.bin'), tmp_path / 'x.bin', checksum=right, progress=False).exists()
    (tmp_path / 'x.bin').write_bytes(b'changed')
    with pytest.raises(ValueError, match='SHA-256'):
        download_file(server.url('x.bin'), tmp_path / 'x.bin', checksum=right, progress=False)


def test_download_missing_address_and_wrong_scheme_say_so(server, tmp_path):
    """404 is not tried again; addresses that are not of the web are refused."""
    with pytest.raises(OSError, match='404'):
        download_file(server.url('none'), tmp_path / 'x', progress=False)
    assert server.hits == 1
    with pytest.raises(ValueError, match='http'):
        download_file('file:///etc/hostname', tmp_path / 'x')


def test_untar_data_fetches_once_and_returns_the_folder(server, tmp_path):
    """The second call touches no network; force_download does."""
    server.files['pets.tgz'] = _tgz((tarfile.TarInfo('pets-v2/train/a.txt'), b'hello'))
    url = server.url('pets.tgz')
    path = untar_data(url, base=tmp_path)
    assert path == tmp_path / 'data' / 'pets' and (path / 'train' / 'a.txt').read_bytes() == b'hello'
    assert (tmp_path / 'archive' / 'pets.tgz').exists()
    assert untar_data(url, base=tmp_path) == path and server.hits == 1
    server.files['pets.tgz'] = _tgz((tarfile.TarInfo('pets-v2/train/a.txt'), b'new'))
    assert (untar_data(url, base=tmp_path, force_download=True) / 'train' / 'a.txt').read_bytes() == b'new'
    assert sorted(o.name for o in (tmp_path / 'data').iterdir()) == ['pets']


@pytest.mark.parametrize('name, dest', [('x.tar.gz', 'x'), ('x.y.tar.bz2', 'x.y'), ('x.tgz', 'x'), ('x.zip', 'x'),
                                        ('x', 'x'), ('x.tar.gz?w=1/../y', 'x'), ('x.tgz#a/b', 'x'), ('x.tgz/', 'x')])
def test_untar_data_names_the_folder_after_the_archive(name, dest, server, tmp_path):
    """Without its suffixes, and without what stands behind the path of the address."""
    server.files[name.split('#')[0]] = _tgz((tarfile.TarInfo('top/a.txt'), b'x'))
    path = untar_data(server.url(name), base=tmp_path)
    assert path == tmp_path / 'data' / dest and (path / 'a.txt').exists()


def test_untar_data_of_a_mac_has_one_top(server, tmp_path):
    """What macOS puts beside the only folder does not count, and is not kept."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as zipped:
        zipped.writestr('pets/a.txt', 'A')
        zipped.writestr('__MACOSX/pets/._a.txt', 'mac')
    server.files['x.zip'] = file.getvalue()
    path = untar_data(server.url('x.zip'), base=tmp_path)
    assert [str(o.relative_to(path)) for o in path.rglob('*')] == ['a.txt']
    assert [o.name for o in (tmp_path / 'data').iterdir()] == ['x']


def test_untar_data_takes_a_checksum_in_capitals(server, tmp_path):
    """As some pages print them."""
    server.files['x.tgz'] = _tgz((tarfile.TarInfo('top/a.txt'), b'x'))
    right = hashlib.sha256(server.files['x.tgz']).hexdigest().upper()
    assert untar_data(server.url('x.tgz'), base=tmp_path, checksum=right).is_dir()
    assert untar_data(server.url('x.tgz'), base=tmp_path, checksum=right, force_download=True).is_dir()


A_FILE = tarfile.TarInfo('set/a/1.jpg'), b'x'
TOPS = {'up': [A_FILE, _link('set/l', '..')], 'up and down': [A_FILE, _link('set/l', '../other')],
        'a neighbour': [A_FILE, _link('set/a/l', '../../other')], 'only a link': [_link('set', '.')],
        'a link to nothing': [_link('set', 'none')], 'by way of a link': [A_FILE, _link('set/b', 'a'), _link(
            'set/l', 'b/../../x')], 'a top beside': [A_FILE, _link('l', 'set')], 'to the mac': [
                A_FILE, (tarfile.TarInfo('__MACOSX/x'), b'x'), _link('set/l', '../__MACOSX')],
        'inside': [A_FILE, _link('set/l', 'a')], 'a file': [(tarfile.TarInfo('set'), b'x')]}


@pytest.mark.tally
@pytest.mark.parametrize('top', TOPS)
def test_no_link_leads_out_of_the_data_set(top, server, tmp_path):
    """After the only folder was moved up, too: where a link would then lead out, it is not moved."""
    (tmp_path / 'data' / 'other').mkdir(parents=True)
    (tmp_path / 'data' / 'x').symlink_to('other')
    (tmp_path / 'data' / 'me.jpg').write_bytes(b'mine')
    server.files['set.tgz'] = _tgz(*TOPS[top])
    for _ in range(2):  # over what is there already
        path = untar_data(server.url('set.tgz'), base=tmp_path, force_download=True)
        assert not path.is_symlink() and path == tmp_path / 'data' / 'set'
        assert all(o.resolve().is_relative_to(path.resolve()) for o in path.rglob('*'))
        assert all(o.resolve().is_relative_to(path.resolve()) for o in get_image_files(path))
    assert sorted(o.name for o in (tmp_path / 'data').iterdir()) == ['me.jpg', 'other', 'set', 'x']
    if top == 'inside':
        assert (path / 'l' / '1.jpg').read_bytes() == b'x'


def test_untar_data_judges_what_others_have_extracted(server, tmp_path):
    """A function of the user's is called, and what it leaves is looked through before it becomes the data set."""
    def extract(archive, folder):
        (folder / 'set').mkdir(parents=True)
        (folder / 'set' / 'l').symlink_to('/')
    server.files['set.tgz'] = _tgz()
    with pytest.raises(ValueError, match='lead out'):
        untar_data(server.url('set.tgz'), base=tmp_path, extract_func=extract)
    assert list((tmp_path / 'data').iterdir()) == []


BAD_NAMES = ['', '..', '.', '...', '.tgz', '..tgz', '...tgz', '.tar.gz', '..zip', '...tar.gz', 'a\\b.tgz', 'C:x.tgz',
             'a\x1b[2K.tgz', 'a\nb.tgz', 'a\0.tgz', 'a\udce9.tgz', '..?x.tgz', '../', '..#x', '...zip']


@pytest.mark.tally
def test_no_name_of_an_address_leads_out(tmp_path, counted):
    """Refused before anything is fetched, with what to do instead; escapes of addresses are no separators."""
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / 'mine').write_text('mine')
    refused = 0
    for name in BAD_NAMES:
        url = f'http://127.0.0.1:9/a/{name}' if name else 'http:///'
        with pytest.raises(ValueError, match='does not end in the name of a file'):
            untar_data(url, base=tmp_path, force_download=True)
        with pytest.raises(ValueError, match='does not end in the name of a file'):
            URLs.path(url)
        refused += 1
    counted(refused, len(BAD_NAMES))
    assert [str(o.relative_to(tmp_path)) for o in sorted(tmp_path.rglob('*'))] == ['data', 'data/mine']
    assert URLs.path('http://h/%2e%2e%2fx.tgz').name == '%2e%2e%2fx.tgz' and URLs.path() == fastai_path('archive')


@pytest.mark.tally
@pytest.mark.parametrize('target', ['file:///etc/hostname', 'ftp://127.0.0.1:9/x', 'data:,x', 'jar:x', '//\0',
                                    'FILE:/x', 'javascript:x', 'gopher://x/'])
@pytest.mark.parametrize('code', [301, 302, 307])
def test_no_redirect_leaves_the_web(code, target, server, tmp_path):
    """Only http and https are followed."""
    server.redirects['x.bin'] = code, target
    with pytest.raises(OSError):
        download_file(server.url('x.bin'), tmp_path / 'x', progress=False, retries=0)
    assert not (tmp_path / 'x').exists()


def test_a_redirect_within_the_web_is_followed(server, tmp_path):
    """By a full address, and by a path."""
    server.files['y.bin'] = CONTENT
    for target in (server.url('y.bin'), '/y.bin', 'y.bin'):
        server.redirects['x.bin'] = 302, target
        assert download_file(server.url('x.bin'), tmp_path / 'x', force=True, progress=False).read_bytes() == CONTENT


@pytest.mark.parametrize('url', ['file:///etc/hostname', 'ftp://127.0.0.1/x', 'data:,x', 'http://[x/', 'nonsense'])
def test_open_url_knows_the_web_alone(url):
    """One kind of error for all that cannot be opened."""
    with pytest.raises(OSError):
        open_url(url, timeout=1)


def test_each_download_asks_for_the_proxy_anew(server, tmp_path, monkeypatch):
    """urllib keeps its first opener for the whole process, and with it a proxy that has long been unset."""
    server.files['x.bin'] = CONTENT
    for name in ('no_proxy', 'NO_PROXY'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('http_proxy', 'http://127.0.0.1:9')
    with pytest.raises(OSError, match='could not be fetched'):
        download_file(server.url('x.bin'), tmp_path / 'x', progress=False, retries=0)
    monkeypatch.delenv('http_proxy')
    assert download_file(server.url('x.bin'), tmp_path / 'x', progress=False).read_bytes() == CONTENT


@pytest.mark.parametrize('announced', [True, False])
def test_what_is_too_large_is_given_up_at_once(announced, server, tmp_path, monkeypatch):
    """By the length that is announced, by what comes, and by what the disk has room for."""
    server.files['x.bin'], server.tells_length = CONTENT, announced
    said = f'{len(CONTENT):,} bytes' if announced else 'no length and goes on'
    with pytest.raises(ValueError, match=f'sends {said}: more than the 1,000 bytes'):
        download_file(server.url('x.bin'), tmp_path / 'x', max_bytes=1000, progress=False)
    assert list(tmp_path.iterdir()) == [] and server.hits == 1
    if announced:
        monkeypatch.setattr('shutil.disk_usage', lambda path: type('Usage', (), {'free': 999}))
        with pytest.raises(ValueError, match='more than the 999 bytes'):
            download_file(server.url('x.bin'), tmp_path / 'x', progress=False)
    else:
        got = download_file(server.url('x.bin'), tmp_path / 'x', max_bytes=len(CONTENT), progress=False)
        assert got.read_bytes() == CONTENT


def test_an_answer_that_is_none_is_an_os_error(tmp_path):
    """Whatever stands behind the port."""
    with socket.create_server(('127.0.0.1', 0)) as listening:
        def answer():
            for _ in range(2):
                talking, _ = listening.accept()
                with talking:
                    talking.recv(9999)
                    talking.sendall(b'\0\xff no http at all\r\n\r\n')
        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with pytest.raises(OSError, match='could not be fetched after 2'):
            download_file(f'http://127.0.0.1:{listening.getsockname()[1]}/x', tmp_path / 'x', retries=1, progress=False)
        thread.join()


def test_untar_data_zip_with_several_tops_keeps_them_all(server, tmp_path):
    """An archive without one folder at its top becomes a folder named after it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as zipped:
        zipped.writestr('a.txt', 'A')
        zipped.writestr('b/c.txt', 'C')
    server.files['two.zip'] = file.getvalue()
    path = untar_data(server.url('two.zip'), data=tmp_path / 'here', archive=tmp_path / 'arch', base=tmp_path)
    assert path == tmp_path / 'here' / 'two' and (path / 'b' / 'c.txt').read_text() == 'C'


@pytest.mark.parametrize('members', [
    [(tarfile.TarInfo('../evil.txt'), b'x')],
    [(tarfile.TarInfo('/tmp/minifast-evil.txt'), b'x')],
    [(tarfile.TarInfo('a/../../evil.txt'), b'x')],
    [(tarfile.TarInfo('C:\\evil.txt'), b'x')],
    [_link('out', '..'), (tarfile.TarInfo('out/evil.txt'), b'x')],
    [_link('out', '/tmp'), (tarfile.TarInfo('out/evil.txt'), b'x')],
    [_link('in', 'a/../..')],
    [_link('hard', '../../etc/hostname', tarfile.LNKTYPE)],
    [_link('pipe', '', tarfile.FIFOTYPE)],
], ids=['parent', 'absolute', 'climbing', 'drive', 'link-up', 'link-absolute', 'link-climbing', 'hard-link', 'pipe'])
def test_extract_archive_that_leads_outside_is_refused(members, tmp_path):
    """Nothing is written outside of the folder, and nothing is kept inside."""
    archive = tmp_path / 'bad.tgz'
    archive.write_bytes(_tgz((tarfile.TarInfo('good.txt'), b'x'), *members))
    with pytest.raises(ValueError, match='not extracted'):
        extract_archive(archive, tmp_path / 'deep' / 'out')
    assert sorted(o.name for o in tmp_path.rglob('*')) == ['bad.tgz', 'deep']
    assert not Path('/tmp/minifast-evil.txt').exists()


def test_extract_archive_zip_that_leads_outside_is_refused(tmp_path):
    """The same holds for zip."""
    with zipfile.ZipFile(tmp_path / 'bad.zip', 'w') as zipped:
        zipped.writestr('../evil.txt', 'x')
    with pytest.raises(ValueError, match='not extracted'):
        extract_archive(tmp_path / 'bad.zip', tmp_path / 'out')
    assert [o.name for o in tmp_path.iterdir()] == ['bad.zip']


def test_extract_archive_links_inside_stay_links(tmp_path):
    """A link within the archive is harmless and kept."""
    (tmp_path / 'ok.tgz').write_bytes(_tgz((tarfile.TarInfo('a/b.txt'), b'x'), _link('c/d.txt', '../a/b.txt')))
    out = extract_archive(tmp_path / 'ok.tgz', tmp_path / 'out')
    assert (out / 'c' / 'd.txt').read_bytes() == b'x'


@pytest.mark.parametrize('body', [b'no archive at all', _tgz((tarfile.TarInfo('a'), CONTENT))[:-2000]], ids=['text',
                                                                                                             'cut'])
def test_extract_archive_damaged_keeps_nothing(body, tmp_path):
    """A damaged archive leaves no half of a data set behind."""
    (tmp_path / 'bad.tgz').write_bytes(body)
    with pytest.raises(ValueError, match='bad.tgz'):
        extract_archive(tmp_path / 'bad.tgz', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_extract_archive_into_a_used_folder_is_refused(tmp_path):
    """What lies in a folder already is neither replaced nor removed."""
    (tmp_path / 'mine.txt').write_text('mine')
    (tmp_path / 'ok.tgz').write_bytes(_tgz((tarfile.TarInfo('mine.txt'), b'theirs')))
    with pytest.raises(ValueError, match='not empty'):
        extract_archive(tmp_path / 'ok.tgz', tmp_path)
    assert (tmp_path / 'mine.txt').read_text() == 'mine'


# each gets its data as every rank of a training does, which all begin with the same lines
RANK = """
import sys, threading
from pathlib import Path
import minifast.vision.models.weights as weights
from minifast.data.external import untar_data
import torch
url, home = sys.argv[1:]
torch.hub.set_dir(home)
print(flush=True)
sys.stdin.readline()
folder = untar_data(url + 'set.tgz', base=home)
print(*sorted(len(file.read_bytes()) for file in Path(folder).rglob('*.txt')), flush=True)
print(weights.fetch_weights(url + 'net-%s.pth')['w'].tolist(), flush=True)
"""


def test_processes_that_begin_together_fetch_once_and_each_has_the_whole(server, tmp_path):
    """An archive and pretrained weights that come slowly: one of three processes fetches, the others wait for it."""
    file = io.BytesIO()
    torch.save({'w': torch.arange(3.)}, file)
    digest = hashlib.sha256(file.getvalue()).hexdigest()[:8]
    noise = np.random.default_rng(0).bytes(1 << 16)
    server.files = {'set.tgz': _tgz(*((tarfile.TarInfo(f'set/{i}.txt'), noise[i:]) for i in range(20))),
                    f'net-{digest}.pth': file.getvalue()}
    server.pause_s = .3
    ranks = [subprocess.Popen([sys.executable, '-c', RANK % digest, server.url(''), str(tmp_path)], text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)]
    for rank in ranks:
        rank.stdout.readline()  # its imports are done
    for rank in ranks:
        rank.stdin.write('\n')
        rank.stdin.flush()
    sizes = ' '.join(str(len(noise) - i) for i in range(19, -1, -1))
    for rank in ranks:
        out, err = rank.communicate(timeout=60)
        assert out.splitlines() == [sizes, '[0.0, 1.0, 2.0]'], err
    assert server.hits == 3  # the weights are asked for twice: whether the host answers, then all of it
    assert not list(tmp_path.rglob('*.lock'))


def test_config_follows_fastai_home_and_its_file(tmp_path, monkeypatch):
    """Data sets fetched by fastai are found: same variable, same file, same names."""
    monkeypatch.setenv('FASTAI_HOME', str(tmp_path))
    assert fastai_path('archive') == tmp_path / 'archive' and fastai_cfg()['model'] == 'models'
    (tmp_path / 'config.ini').write_text('[DEFAULT]\ndata = /elsewhere\n')
    assert fastai_path('data') == Path('/elsewhere') and fastai_cfg().data == '/elsewhere'
    assert URLs.path(URLs.PETS) == tmp_path / 'archive' / 'oxford-iiit-pet.tgz'


def test_download_data_goes_to_the_archive_folder(server, tmp_path, monkeypatch):
    """Without a name the file goes where `URLs.path` says."""
    monkeypatch.setenv('FASTAI_HOME', str(tmp_path))
    server.files['m.bin'] = CONTENT
    assert download_data(server.url('m.bin')) == tmp_path / 'archive' / 'm.bin'
    assert download_data(server.url('m.bin'), c_key='model') == tmp_path / 'models' / 'm.bin'
    assert download_data(server.url('m.bin'), tmp_path / 'mine' / 'x') == tmp_path / 'mine' / 'x'


def test_untar_data_extracts_into_the_folder_of_the_entry_that_is_told(server, tmp_path):
    """`c_key`."""
    server.files['m.tgz'] = _tgz((tarfile.TarInfo('m/weights'), b''))
    for c_key, folder in (('data', 'data'), ('model', 'models')):
        assert untar_data(server.url('m.tgz'), c_key=c_key, base=tmp_path) == tmp_path / folder / 'm'
        assert (tmp_path / folder / 'm' / 'weights').exists()


def test_download_data_fetches_again_checks_and_gives_up_as_told(server, tmp_path, monkeypatch):
    """`force_download`, `checksum`, `timeout`, as `download_file`."""
    url, file = server.url('x.bin'), tmp_path / 'x.bin'
    for body, force_download, found in ((b'old', False, b'old'), (b'new', False, b'old'), (b'new', True, b'new')):
        server.files['x.bin'] = body
        assert download_data(url, file, force_download=force_download).read_bytes() == found
    with pytest.raises(ValueError, match='expected 00'):
        download_data(url, file, checksum='00')
    assert not file.exists()
    server.pause_s = .5
    for download in (download_data, partial(download_file, retries=0)):
        with pytest.raises(OSError, match='timed out'):
            download(url, file, timeout=.02)
        assert download(url, file, timeout=20).read_bytes() == b'new'
        file.unlink()


def test_files_beside_the_script_come_first(tmp_path, monkeypatch):
    """Archives in `data`, models in `models`; what is not there is where the configuration says."""
    monkeypatch.setattr(URLs, 'LOCAL_PATH', tmp_path / 'here')
    monkeypatch.setenv('FASTAI_HOME', str(tmp_path / 'home'))
    places = {'archive': ('data', 'archive'), 'model': ('models', 'models')}
    for c_key, (beside, configured) in places.items():
        (tmp_path / 'here' / beside).mkdir(parents=True)
        (tmp_path / 'here' / beside / f'{c_key}.bin').write_bytes(b'')
    for c_key, (beside, configured) in places.items():
        assert URLs.path(f'http://h/{c_key}.bin', c_key) == tmp_path / 'here' / beside / f'{c_key}.bin'
        assert URLs.path('http://h/other.bin', c_key) == tmp_path / 'home' / configured / 'other.bin'


@pytest.mark.parametrize('python', ['3.10', '3.11'])
def test_download_right_checksum_keeps_the_file(python, server, tmp_path, monkeypatch):
    """In upper or lower case, by the function of Python 3.11 or without it."""
    if python == '3.10':
        monkeypatch.delattr(hashlib, 'file_digest', raising=False)
    elif not hasattr(hashlib, 'file_digest'):
        pytest.skip('this Python has no hashlib.file_digest')
    server.files['x.bin'], checksum = CONTENT, hashlib.sha256(CONTENT).hexdigest()
    for said in (checksum, checksum.upper()):
        got = download_file(server.url('x.bin'), tmp_path / 'x.bin', checksum=said, progress=False)
        assert got.read_bytes() == CONTENT
    assert server.hits == 1


def test_progress_of_a_download_is_told_in_bytes(server, tmp_path, capsys, monkeypatch):
    """How much of how much, and how fast; nothing where none was asked for, or nobody looks: in a log file."""
    server.files['x.bin'] = CONTENT
    download_file(server.url('x.bin'), tmp_path / 'logged')
    monkeypatch.setattr('sys.stderr.isatty', lambda: True, raising=False)
    download_file(server.url('x.bin'), tmp_path / 'silent', progress=False)
    assert capsys.readouterr() == ('', '')
    download_file(server.url('x.bin'), tmp_path / 'told')
    said = capsys.readouterr().err
    assert said.startswith('\rtold: ') and '1.05M/1.05M [' in said and said.rstrip().endswith('B/s]')
