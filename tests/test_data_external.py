"""Fetching and extracting data sets: whole or not at all, and nothing outside of the folder."""
from __future__ import annotations

import hashlib
import http.server
import io
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest

from minifast.data.external import (URLs, download_data, download_file, extract_archive, fastai_cfg, fastai_path,
                                    untar_data)

CONTENT = bytes(range(256)) * 4096


class _Server(http.server.ThreadingHTTPServer):
    """Serves `files`, honours ranges, and breaks the first `cuts` answers off in the middle."""

    def __init__(self) -> None:
        super().__init__(('127.0.0.1', 0), _Handler)
        self.files, self.cuts, self.ranges, self.hits, self.knows_ranges = {}, 0, [], 0, True

    def url(self, name: str) -> str:
        return f'http://127.0.0.1:{self.server_port}/{name}'


class _Handler(http.server.BaseHTTPRequestHandler):

    def do_GET(self) -> None:
        self.server.hits += 1
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
        self.send_header('Content-Length', str(len(body) - start))
        self.end_headers()
        cut = self.server.cuts > 0
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
