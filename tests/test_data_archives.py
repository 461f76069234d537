"""Archives from anybody: nothing is written, linked or left outside of the folder; refused or whole."""
from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from minifast.data import archives
from minifast.data.archives import extract_archive, links_stay

posix = pytest.mark.skipif(os.name == 'nt', reason='links need rights on this system')


def file(name, body=b'x', mode=0o644):
    return name, tarfile.REGTYPE, body, mode


def link(name, target, kind=tarfile.SYMTYPE):
    return name, kind, target, 0o777


def folder(name):
    return name, tarfile.DIRTYPE, b'', 0o755


def tar_of(*members, compressed=gzip.compress):
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode='w', format=tarfile.PAX_FORMAT) as tar:
        for name, kind, body, mode in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.mtime = kind, mode, 1e9
            if kind == tarfile.REGTYPE:
                info.size = len(body)
            elif isinstance(body, str):
                info.linkname = body
            tar.addfile(info, io.BytesIO(body if isinstance(body, bytes) else b''))
    return compressed(held.getvalue())


KINDS = {tarfile.SYMTYPE: stat.S_IFLNK, tarfile.REGTYPE: stat.S_IFREG, tarfile.DIRTYPE: stat.S_IFDIR,
         tarfile.FIFOTYPE: stat.S_IFIFO, tarfile.CHRTYPE: stat.S_IFCHR, tarfile.BLKTYPE: stat.S_IFBLK}


def zip_of(*members):
    held = io.BytesIO()
    with zipfile.ZipFile(held, 'w') as zipped:
        for name, kind, body, mode in members:
            info = zipfile.ZipInfo(name + '/' * (kind == tarfile.DIRTYPE))
            info.create_system, info.external_attr = 3, (KINDS[kind] | mode) << 16
            zipped.writestr(info, body)
    return held.getvalue()


def a_long_chain(*last):
    """Links whose way is longer than any path may be, so that `os.path.realpath` gives up on it."""
    members, path = [], ''
    for step in 'abcdefghijklmnop':
        members += [folder(f'{path}{"d" * 247}'), link(f'{path}{step}', 'd' * 247)]
        path += 'd' * 247 + '/'
    long = f'{"/".join("abcdefghijklmnop")}/{"l" * 254}'
    return *members, link(long, '../' * 16), *(o(long) for o in last)


OUT = {
    'parent': [file('../evil')], 'climbing': [file('a/../../evil')], 'absolute': [file('/tmp/minifast-evil')],
    'drive': [file('C:\\evil')], 'drive relative': [file('C:evil')], 'backslashes': [file('a\\..\\..\\evil')],
    'share': [file('\\\\host\\share')], 'folder up': [folder('../evil')],
    'link up': [link('out', '..')], 'link up and through': [link('out', '..'), file('out/evil')],
    'link absolute': [link('out', '/tmp')], 'link to nothing absolute': [link('out', '/none')],
    'link climbing': [link('in', 'a/../..')], 'link deep climbing': [link('a/b', '../../x')],
    'link of links': [folder('a/b'), link('a/up', '..'), link('out', 'a/up/..')],
    'link of links, the first last': [link('out', 'a/up/..'), folder('a/b'), link('a/up', '..')],
    'link of links of links': [link('one', 'a/b'), link('a/b', '..'), link('two', 'one/..')],
    'links in a ring': [link('a', 'b'), link('b', 'a')], 'link to itself': [link('a', 'a')],
    'case': [link('A', '.'), link('b', 'a/..')], 'case up': [link('A', 'x/y'), folder('x/y'), link('b', 'a/../../..')],
    'spelling': [link('\u00e9', '.'), link('b', 'e\u0301/..')],
    'through a link within': [folder('a'), link('l', 'a'), file('l/x')],
    'file for a link': [file('a'), link('l', 'a'), file('l', b'y')],
    'link for a file': [file('l'), link('l', 'a')], 'link for a folder': [file('l/x'), link('l', 'a')],
    'folder for a link': [link('l', 'a'), folder('l')], 'file for a folder': [folder('a'), file('a')],
    'folder for a file': [file('a'), file('a/b')], 'link twice': [link('l', 'a'), link('l', 'b')],
    'pipe': [link('p', '', tarfile.FIFOTYPE)], 'device': [link('p', '', tarfile.CHRTYPE)],
    'disk': [link('p', '', tarfile.BLKTYPE)],
}
TAR_ONLY = {
    'hard link up': [link('h', '../../etc/hostname', tarfile.LNKTYPE)],
    'hard link absolute': [link('h', '/etc/hostname', tarfile.LNKTYPE)],
    'hard link to nothing': [link('h', 'none', tarfile.LNKTYPE)],
    'hard link to a link': [file('a'), link('l', 'a'), link('h', 'l', tarfile.LNKTYPE)],
    'hard link through a link': [file('a/x'), link('l', 'a'), link('h', 'l/x', tarfile.LNKTYPE)],
    'hard link to a folder': [folder('a'), link('h', 'a', tarfile.LNKTYPE)],
    'hard link to what comes later': [link('h', 'a', tarfile.LNKTYPE), file('a')],
    'a chain beyond PATH_MAX': a_long_chain(lambda long: link('out', f'{long}/../../home'),
                                            lambda _: link('h', 'out/victim', tarfile.LNKTYPE), lambda _: file('h')),
    'a chain beyond PATH_MAX, a file': a_long_chain(lambda long: link('out', f'{long}/../../home'),
                                                    lambda _: file('out/victim')),
    'a chain beyond PATH_MAX, a link only': a_long_chain(lambda long: link('out', f'{long}/../../home')),
}
ALL_OUT = [*((f'{kind}: {name}', make, members) for name, members in OUT.items()
             for kind, make in (('tar', tar_of), ('zip', zip_of))),
           *((f'tar: {name}', tar_of, members) for name, members in TAR_ONLY.items())]


def everything(top):
    """All that is there, with what is in it."""
    return {str(o.relative_to(top)): (o.read_bytes() if o.is_file() and not o.is_symlink() else '')
            for o in sorted(top.rglob('*'))}


@pytest.mark.tally
@posix
@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_no_archive_leads_out_of_its_folder(tmp_path, counted):
    """Refused with the member's name, nothing written anywhere, nothing kept."""
    (tmp_path / 'home').mkdir()
    (tmp_path / 'home' / 'victim').write_text('mine')
    held = 0
    for name, make, members in ALL_OUT:
        archive = tmp_path / 'archive'
        archive.write_bytes(make(file('good/file'), *members))
        before = everything(tmp_path)
        with pytest.raises(ValueError, match='not extracted') as caught:
            extract_archive(archive, tmp_path / 'data' / 'set')
        assert len(str(caught.value)) > 40, name
        assert everything(tmp_path) == {**before, 'data': ''}, name
        shutil.rmtree(tmp_path / 'data')
        held += 1
    counted(held, len(ALL_OUT))
    assert not Path('/tmp/minifast-evil').exists()


def test_what_hits_one_file_on_this_disk_is_refused(tmp_path, monkeypatch):
    """Where names that differ in case or spelling are one file, the second is refused; elsewhere they are two."""
    (tmp_path / 'x.tar').write_bytes(tar_of(file('A', b'1'), file('a', b'2')))
    made, opened = [], os.open

    def same_name(path, flags, *args, **kwargs):
        if not flags & os.O_EXCL:
            return opened(path, flags, *args, **kwargs)
        if str(path).lower() in made:
            raise FileExistsError(path)
        made.append(str(path).lower())
        return opened(path, flags, *args)
    monkeypatch.setattr(os, 'open', same_name)
    with pytest.raises(ValueError, match="'a' that hits the same file"):
        extract_archive(tmp_path / 'x.tar', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


INSIDE = {'beside': ('c/d', '../a/b'), 'down': ('l', 'a'), 'to a link': ('l2', 'c/d'), 'to its folder': ('a/l', '..'),
          'to nothing': ('n', 'none'), 'dots': ('a/m', './../a/./b'), 'round': ('a/r', '../a/../a/b')}


@posix
@pytest.mark.parametrize('make', [tar_of, zip_of])
def test_links_inside_stay_links(make, tmp_path):
    """What ends in the folder is kept as it is, in tar and zip."""
    (tmp_path / 'x').write_bytes(make(file('a/b', b'body'), *(link(*o) for o in INSIDE.values())))
    out = extract_archive(tmp_path / 'x', tmp_path / 'out')
    for name, target in INSIDE.values():
        assert os.readlink(out / name) == target
        assert (out / name).resolve().is_relative_to(out.resolve())
    assert (out / 'l2').read_bytes() == b'body' and links_stay(out)


@pytest.mark.parametrize('target, stays', [('b', True), ('c:/b', False), ('c:b', False), ('a\\..\\..\\b', False),
                                           ('\\\\host\\share', False), ('b:stream', False)])
def test_letters_that_lead_elsewhere_on_windows_alone_are_refused_there(target, stays, monkeypatch):
    """Drives, shares and backslashes; elsewhere they are letters of a name."""
    assert archives._stays(('l',), {('l',): target})
    with monkeypatch.context() as patched:
        patched.setattr(os, 'name', 'nt')
        found = archives._stays(('l',), {('l',): target})
    assert found is stays


@posix
def test_links_stay_asks_every_link(tmp_path):
    """On the disk, for folders that others have unpacked."""
    (tmp_path / 'top' / 'a').mkdir(parents=True)
    assert links_stay(tmp_path / 'top')
    (tmp_path / 'top' / 'a' / 'l').symlink_to('..')
    assert links_stay(tmp_path / 'top') and not links_stay(tmp_path / 'top' / 'a')
    (tmp_path / 'top' / 'm').symlink_to(tmp_path / 'top')
    assert not links_stay(tmp_path / 'top')


@pytest.mark.parametrize('make', [tar_of, zip_of])
def test_files_come_with_the_rights_of_new_files(make, tmp_path):
    """No setuid, nothing that others may write; programs stay programs; a file that is there twice is the later one."""
    with pytest.warns(UserWarning, match='Duplicate') if make is zip_of else pytest.MonkeyPatch().context():
        data = make(folder('d'), file('d/plain', b'old', 0o7777), file('d/run', b'x', 0o6755),
                    file('d/secret', b'x', 0), file('./d//plain', b'new', 0o666), file('d/plain', b'new', 0o666))
    (tmp_path / 'x').write_bytes(data)
    umask = os.umask(0o022)
    try:
        out = extract_archive(tmp_path / 'x', tmp_path / 'out')
    finally:
        os.umask(umask)
    modes = {o.name: stat.S_IMODE(o.stat().st_mode) for o in (out / 'd').iterdir()}
    if os.name != 'nt':
        assert modes == {'plain': 0o644, 'run': 0o755, 'secret': 0o644}
    assert (out / 'd' / 'plain').read_bytes() == b'new'


@pytest.mark.parametrize('make', [tar_of, zip_of])
@pytest.mark.parametrize('flag', ['O_NOFOLLOW', 'O_BINARY'])
def test_files_are_written_on_systems_without_some_flags(flag, make, tmp_path, monkeypatch):
    """Windows has no `O_NOFOLLOW`, all others no `O_BINARY`; bytes come as they are."""
    monkeypatch.delattr(os, flag, raising=False)
    (tmp_path / 'x').write_bytes(make(file('a', b'one\r\ntwo\n')))
    assert (extract_archive(tmp_path / 'x', tmp_path / 'out') / 'a').read_bytes() == b'one\r\ntwo\n'


def test_hard_links_are_files_and_times_are_kept(tmp_path):
    """Changing one of the two leaves the other; a time of another world is passed over."""
    data = bytearray(tar_of(file('a', b'body'), link('h', 'a', tarfile.LNKTYPE), compressed=bytes))
    (tmp_path / 'x').write_bytes(data)
    out = extract_archive(tmp_path / 'x', tmp_path / 'out')
    (out / 'h').write_bytes(b'other')
    assert (out / 'a').read_bytes() == b'body' and (out / 'a').stat().st_mtime == 1e9
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode='w') as tar:
        info = tarfile.TarInfo('a')
        info.pax_headers = {'mtime': '1e300'}
        tar.addfile(info)
    (tmp_path / 'y').write_bytes(held.getvalue())
    assert (extract_archive(tmp_path / 'y', tmp_path / 'out2') / 'a').exists()


@pytest.mark.parametrize('compressed', [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_every_compression_that_is_promised(compressed, tmp_path):
    """By content, whatever the file is called."""
    (tmp_path / 'x').write_bytes(tar_of(file('größe 猫/b', b'body'), compressed=compressed))
    out = extract_archive(tmp_path / 'x', tmp_path / 'out')
    assert (out / os.fsdecode('größe 猫'.encode()) / 'b').read_bytes() == b'body'


def _bomb_tar():
    return tar_of(file('a', bytes(3 << 20)))


def _bomb_zip():
    held = io.BytesIO()
    with zipfile.ZipFile(held, 'w', zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr('a', bytes(3 << 20))
    return held.getvalue()


def _bomb_of_nothings():
    return tar_of(*(file(f'{i}', b'') for i in range(600)))


def _bomb_of_folders():
    return tar_of(*(folder(f'{i}') for i in range(600)))


def _bomb_of_copies():
    return tar_of(file('a', os.urandom(1000)), *(link(f'{i}', 'a', tarfile.LNKTYPE) for i in range(600)))


def _bomb_sparse():
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode='w', format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo('a')
        info.pax_headers = {'GNU.sparse.major': '1', 'GNU.sparse.minor': '0', 'GNU.sparse.name': 'a',
                            'GNU.sparse.realsize': str(1 << 40)}
        body = f'1\n{(1 << 40) - 1}\n1\n'.encode().ljust(512, b'\0') + b'x'
        info.size = len(body)
        tar.addfile(info, io.BytesIO(body))
    return held.getvalue()


def _bomb_header():
    info = tarfile.TarInfo('x')
    info.type, info.size = tarfile.XHDTYPE, 1 << 33
    return gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 25))


def _bomb_name():
    info = tarfile.TarInfo('x')
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 33
    return gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 25))


BOMBS = [o for name, o in sorted(globals().items()) if name.startswith('_bomb_')]


@pytest.mark.tally
@pytest.mark.parametrize('bomb', BOMBS, ids=lambda o: o.__name__[6:])
def test_no_bomb_fills_disk_or_memory(bomb, tmp_path, monkeypatch):
    """More than a limit in all, and more than so many times the archive; a header's size is no order either."""
    monkeypatch.setattr(archives, '_ALWAYS', 1 << 20)
    (tmp_path / 'x').write_bytes(bomb())
    monkeypatch.setattr(archives, 'MAX_RATIO', 20)
    with pytest.raises(ValueError, match='MAX_RATIO|impossible size'):
        extract_archive(tmp_path / 'x', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_the_disk_is_a_limit_too(tmp_path, monkeypatch):
    """Before it is full."""
    (tmp_path / 'x').write_bytes(tar_of(file('a', os.urandom(9000))))
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: type('Usage', (), {'free': 8000}))
    with pytest.raises(ValueError, match='8,000 bytes, which is more than the disk has left'):
        extract_archive(tmp_path / 'x', tmp_path / 'out')


@pytest.mark.parametrize('make', [tar_of, zip_of])
def test_an_archive_may_take_all_that_is_left(make, tmp_path, monkeypatch):
    """To the last byte; where one byte less is free it is refused."""
    taken, take = [], archives._Tree.take
    (tmp_path / 'x').write_bytes(make(folder('d'), file('d/a', BODY), file('b', b'')))
    with monkeypatch.context() as patched:
        patched.setattr(archives._Tree, 'take', lambda self, n: taken.append(n) or take(self, n))
        extract_archive(tmp_path / 'x', tmp_path / 'first')
    assert sum(taken) >= len(BODY)
    for missing in (0, 1):
        free = sum(taken) - missing
        monkeypatch.setattr(shutil, 'disk_usage', lambda path, free=free: type('Usage', (), {'free': free}))
        if missing:
            with pytest.raises(ValueError, match=f'unpacks to more than {free:,} bytes'):
                extract_archive(tmp_path / 'x', tmp_path / 'out')
            continue
        assert (extract_archive(tmp_path / 'x', tmp_path / 'all') / 'd' / 'a').read_bytes() == BODY


def _cut(data):
    return data[:len(data) - 700]


def _flipped(data):
    return data[:len(data) // 2] + bytes([data[len(data) // 2] ^ 255]) + data[len(data) // 2 + 1:]


def _encrypted(data):
    data = bytearray(data)
    for magic, at in ((b'PK\x03\x04', 6), (b'PK\x01\x02', 8)):
        data[data.index(magic) + at] |= 1
    return bytes(data)


def _unknown_method(data):
    data = bytearray(data)
    for magic, at in ((b'PK\x03\x04', 8), (b'PK\x01\x02', 10)):
        data[data.index(magic) + at] = 77
    return bytes(data)


BODY = random.Random(0).randbytes(5000)
DAMAGED = {**{f'{name} {spoil.__name__}': (lambda make=make, spoil=spoil: spoil(make(file('a', BODY))))
              for name, make in (('gz', tar_of), ('bz2', lambda o: tar_of(o, compressed=bz2.compress)),
                                 ('xz', lambda o: tar_of(o, compressed=lzma.compress)), ('zip', zip_of))
              for spoil in (_cut, _flipped)},
           'zip encrypted': lambda: _encrypted(zip_of(file('a', BODY))),
           'zip unknown': lambda: _unknown_method(zip_of(file('a', BODY))),
           'tar cut': lambda: tar_of(file('a', BODY), compressed=bytes)[:3000],
           'text': lambda: b'no archive at all', 'nothing': lambda: b'', 'gz of nothing': lambda: gzip.compress(b''),
           'gz magic': lambda: b'\x1f\x8b', 'a lonely zip end': lambda: b'PK\x05\x06' + b'\xff' * 18}


@pytest.mark.tally
@pytest.mark.parametrize('kind', DAMAGED)
def test_no_half_of_a_damaged_archive_stays(kind, tmp_path):
    """One error that names the archive, or that of the disk; an empty folder where there was none is removed."""
    (tmp_path / 'bad').write_bytes(DAMAGED[kind]())
    with pytest.raises((ValueError, OSError)):
        extract_archive(tmp_path / 'bad', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('error', [KeyboardInterrupt, OSError('no room'), MemoryError])
def test_interrupted_leaves_nothing(error, tmp_path, monkeypatch):
    """A Ctrl-C, a full disk."""
    (tmp_path / 'x').write_bytes(tar_of(file('a'), file('b')))

    def stop(self, n):
        if self.made:
            raise error
    monkeypatch.setattr(archives._Tree, 'take', stop)
    with pytest.raises(type(error) if isinstance(error, OSError) else error):
        extract_archive(tmp_path / 'x', tmp_path / 'out')
    assert [o.name for o in tmp_path.iterdir()] == ['x']
