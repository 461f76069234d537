"""Makers of hostile files. Each payload, if it ever ran, would leave a marker file behind.

`hostile_files(folder, marker)` yields (name, path): pickle payloads in every container that some loader of PyTorch
knows, zips that lie, and JSON that does. No file does more than create the marker.
"""
from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import torch

# ---------------------------------------------------------------- payloads: pickles that touch the marker


class Call:
    """Pickles as a call of `func(*args)`."""

    def __init__(self, func, *args):
        self.call = (func, args)

    def __reduce__(self):
        return self.call


class Build:
    """Pickles as an object whose `__setstate__` is fed by the file."""

    def __init__(self, func, state):
        self.func, self.state = func, state

    def __reduce__(self):
        return self.func, (), self.state


def by_hand(module: str, name: str, *args: str) -> bytes:
    """A call written in opcodes, so that no class of ours is named."""
    return (b'c' + f'{module}\n{name}\n'.encode() + b'('
            + b''.join(b'X' + struct.pack('<I', len(arg)) + arg.encode() for arg in args) + b'tR.')


def payloads(marker: Path) -> dict[str, bytes]:
    """Name -> pickle."""
    import builtins
    import functools
    import importlib
    import shutil
    import subprocess
    touch = f"open({str(marker)!r}, 'w').close()"
    shell = f'touch {marker}'
    text = struct.pack('<I', len(touch))
    made = {
        'system': pickle.dumps(Call(os.system, shell), protocol=2),
        'popen': pickle.dumps(Call(subprocess.Popen, ['touch', str(marker)]), protocol=2),
        'check_output': pickle.dumps(Call(subprocess.check_output, ['touch', str(marker)]), protocol=2),
        'exec': pickle.dumps(Call(builtins.exec, touch), protocol=2),
        'eval': pickle.dumps(Call(builtins.eval, touch), protocol=2),
        'open': pickle.dumps(Call(builtins.open, str(marker), 'w'), protocol=2),
        'pathlib': pickle.dumps(Call(Path.touch, marker), protocol=4),
        'copyfile': pickle.dumps(Call(shutil.copyfile, __file__, str(marker)), protocol=2),
        'partial': pickle.dumps(Call(functools.partial(os.system, shell)), protocol=2),
        'methodcaller': by_hand('operator', 'methodcaller', 'system', shell),
        'getattr': pickle.dumps(Call(builtins.getattr, 'x', 'join'), protocol=2),
        'import_module': pickle.dumps(Call(importlib.import_module, 'antigravity'), protocol=2),
        'protocol 4': pickle.dumps(Call(os.system, shell), protocol=4),
        'protocol 5': pickle.dumps(Call(os.system, shell), protocol=5),
        'protocol 0': pickle.dumps(Call(os.system, shell), protocol=0),
        'posix by hand': by_hand('posix', 'system', shell),
        'builtins by hand': by_hand('builtins', 'exec', touch),
        '__builtin__ by hand': by_hand('__builtin__', 'exec', touch),
        'inst opcode': b'(S' + repr(shell).encode() + b'\nios\nsystem\n.',
        'obj opcode': b'(cos\nsystem\nX' + struct.pack('<I', len(shell)) + shell.encode() + b'o.',
        'stack global': b'\x80\x04\x8c\x02os\x8c\x06system\x93X' + struct.pack('<I', len(shell)) + shell.encode()
                        + b'\x85R.',
        'build': pickle.dumps(Build(io.StringIO, ('x', None, 0, {'y': Call(os.system, shell)})), protocol=2),
        'newobj': b'\x80\x02csubprocess\nPopen\n]X' + struct.pack('<I', len(shell)) + shell.encode() + b'a\x85\x81.',
        'in a dict': pickle.dumps({'model': {'w': Call(os.system, shell)}, 'opt': {}}, protocol=2),
        'as a key': pickle.dumps({Call(os.system, shell): 1}, protocol=2),
        'deep in lists': pickle.dumps([[[[[Call(os.system, shell)]]]]], protocol=2),
        'cut after the payload': pickle.dumps([Call(os.system, shell), 1, 2], protocol=2)[:-6],
        'torch.load within': by_hand('torch', 'load', str(marker.with_name('inner.pkl'))),
        'torch.hub': by_hand('torch.hub', 'load', 'a/b', 'c'),
        'torch.jit': by_hand('torch.jit', 'load', str(marker.with_name('inner.pkl'))),
        'numpy exec': by_hand('numpy.testing._private.utils', 'runstring', touch, '{}'),
        'torch compile': by_hand('torch.utils._config_module', 'exec', touch),
        'code object': b'\x80\x02cmarshal\nloads\nX' + text + touch.encode() + b'\x85R.',
        'fastai export': b'\x80\x02cfastai.learner\nLearner\n)\x81}X\x05\x00\x00\x00modelcos\nsystem\nX'
                         + struct.pack('<I', len(shell)) + shell.encode() + b'\x85Rsb.',
        'minifast function': by_hand('minifast.tensorfile', 'write_atomic', str(marker), 'x'),
        'minifast stand-in': by_hand('minifast.tensorfile', '_saved_number', 'x'),
    }
    marker.with_name('inner.pkl').write_bytes(made['system'])
    return made


# ---------------------------------------------------------------- containers

def torch_zip(index: bytes, records: dict[str, bytes] | None = None, name: str = 'archive') -> bytes:
    """The zip that `torch.save` writes, around any index."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, 'w') as archive:
        archive.writestr(f'{name}/data.pkl', index)
        archive.writestr(f'{name}/byteorder', b'little')
        for key, data in (records or {}).items():
            archive.writestr(f'{name}/data/{key}', data)
        archive.writestr(f'{name}/version', b'3\n')
    return stream.getvalue()


def sealed(data: bytes) -> bytes:
    """With the seal that minifast's own files carry."""
    seal = b'minifast crc32 %08x' % zlib.crc32(data)
    return data[:-2] + len(seal).to_bytes(2, 'little') + seal


def torch_tar(index: bytes) -> bytes:
    """The tar of torch before 0.4."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode='w', format=tarfile.USTAR_FORMAT) as archive:
        for name, data in (('sys_info', pickle.dumps({'little_endian': True}, protocol=2)), ('pickle', index),
                           ('tensors', index), ('storages', index)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def torch_legacy(index: bytes) -> bytes:
    """The stream of pickles that torch wrote before 1.6."""
    magic = pickle.dumps(0x1950a86a20f9469cfc6c, protocol=2)
    return magic + pickle.dumps(1001, protocol=2) + pickle.dumps({'little_endian': True}, protocol=2) + index


CONTAINERS = {'raw': lambda p: p, 'zip': torch_zip, 'sealed zip': lambda p: sealed(torch_zip(p)), 'tar': torch_tar,
              'legacy': torch_legacy, 'gzip': gzip.compress}


# ---------------------------------------------------------------- zips that lie

def tensor_index(size: tuple, stride: tuple, numel: int, offset: int = 0, key: str = '0', kind: str = 'Float') -> bytes:
    """An index of one tensor, saying anything about its size."""
    def number(n):
        return b'\x8a' + bytes([len(raw := n.to_bytes(9, 'little', signed=True))]) + raw

    def numbers(values):
        return b'(' + b''.join(map(number, values)) + b't'

    def text(value):
        return b'X' + struct.pack('<I', len(value)) + value.encode()
    return (b'\x80\x02}' + text('w') + b'ctorch._utils\n_rebuild_tensor_v2\n((' + text('storage')
            + f'ctorch\n{kind}Storage\n'.encode() + text(key) + text('cpu') + number(numel) + b'tQ' + number(offset)
            + numbers(size) + numbers(stride) + b'\x89ccollections\nOrderedDict\n)RtRs.')


def zips(folder: Path) -> dict[str, bytes]:
    """Name -> a zip whose structure lies."""
    data = bytes(16)
    good = tensor_index((4,), (1,), 4)
    nested = b'\x80\x02' + b']' * 100_000 + b'a' * 99_999 + b'.'
    laughs = b'\x80\x02]q\x00' + b''.join(b']q' + bytes([i]) + b'(' + (b'h' + bytes([i - 1])) * 10 + b'e'
                                          for i in range(1, 40)) + b'.'
    made = {
        'absurd shape': torch_zip(tensor_index((2 ** 40,), (1,), 2 ** 40), {'0': data}),
        'absurd shape of a small storage': torch_zip(tensor_index((2 ** 40,), (1,), 4), {'0': data}),
        'one number seen a trillion times': torch_zip(tensor_index((2 ** 40,), (0,), 4), {'0': data}),
        'overflowing shape': torch_zip(tensor_index((2 ** 40, 2 ** 40), (1, 1), 4), {'0': data}),
        'negative shape': torch_zip(tensor_index((-4,), (1,), 4), {'0': data}),
        'negative stride': torch_zip(tensor_index((4,), (-1,), 4), {'0': data}),
        'negative storage': torch_zip(tensor_index((4,), (1,), -4), {'0': data}),
        'offset behind the storage': torch_zip(tensor_index((4,), (1,), 4, offset=2 ** 30), {'0': data}),
        'negative offset': torch_zip(tensor_index((4,), (1,), 4, offset=-64), {'0': data}),
        'missing record': torch_zip(good),
        'short record': torch_zip(good, {'0': data[:3]}),
        'record of another place': torch_zip(tensor_index((4,), (1,), 4, key='../../../etc/passwd'), {'0': data}),
        'unknown storage': torch_zip(tensor_index((4,), (1,), 4, kind='Evil'), {'0': data}),
        'traversal': torch_zip(good, {'../../../../evil': data}),
        'absolute name': torch_zip(good, {'0': data}, name='/tmp'),
        'drive name': torch_zip(good, {'0': data}, name='C:'),
        'two tops': _zip({'a/data.pkl': good, 'b/data.pkl': good}),
        'no index': _zip({'archive/version': b'3\n'}),
        'an empty zip': _zip({}),
        'another zip': _zip({'word/document.xml': b'<x/>'}),
        'torchscript': _zip({'a/data.pkl': good, 'a/constants.pkl': b'.', 'a/code/x.py': b'1'}),
        'zip bomb': _zip({'archive/data.pkl': good, 'archive/data/0': bytes(50_000_000)}, zipfile.ZIP_DEFLATED),
        'index bomb': _zip({'archive/data.pkl': b'\x80\x02' + b'N0' * 20_000_000 + b'N.'}, zipfile.ZIP_DEFLATED),
        'nested lists': torch_zip(nested),
        'billion laughs': torch_zip(laughs),
        'no opcodes': torch_zip(b''),
        'noise as an index': torch_zip(bytes(range(256))),
        'huge text length': torch_zip(b'\x80\x02\x8d' + struct.pack('<Q', 2 ** 60) + b'x.'),
        'huge number length': torch_zip(b'\x80\x02\x8b' + struct.pack('<i', 2 ** 30) + b'x.'),
        'unmatched opcodes': torch_zip(b'\x80\x02tRbu.'),
        'bytes behind the end': torch_zip(good, {'0': data}) + b'PK\x05\x06' + bytes(18) + b'x',
        'stolen comment': _commented(torch_zip(good, {'0': data}), b'hello'),
        'wrong seal': _commented(torch_zip(good, {'0': data}), b'minifast crc32 00000000'),
        'overlapping records': _overlapping(good, data),
        'noise': bytes(range(256)) * 10,
        'text': b'hello world\n' * 20,
        'hdf5': b'\x89HDF\r\n\x1a\n' + bytes(100),
    }
    bombs = {f'index: {name}': torch_zip(index) for name, index in index_bombs().items()}
    return made | bombs | two_readers(good, data)


# ---------------------------------------------------------------- an index that makes much of little

def text(value: str) -> bytes:
    """The instruction for a text."""
    raw = value.encode('utf-8', 'surrogatepass')
    return b'X' + struct.pack('<I', len(raw)) + raw


def number(n: int) -> bytes:
    """The instruction for a whole number of any size."""
    raw = n.to_bytes(n.bit_length() // 8 + 1, 'little', signed=True)
    return b'\x8a' + bytes([len(raw)]) + raw


def again(before: bytes, call: bytes, n: int) -> bytes:
    """A list of the results of a call that puts its parts into the memo, and of `n` more with those."""
    return b'\x80\x02](' + before + call * n + b'e.'


def index_bombs() -> dict[str, bytes]:
    """Name -> an index of less than a megabyte that asks for gigabytes or hours."""
    encode, ordered, size = b'c_codecs\nencode\nq\x00', b'ccollections\nOrderedDict\nq\x00', b'ctorch\nSize\nq\x00'
    pairs = b''.join(b'M' + struct.pack('<H', i) + b'K\x00\x86' for i in range(50_000))
    letters = ''.join(map(chr, range(0x10000, 0x10000 + 150_000)))
    same_hash = b''.join(number(i * ((1 << 61) - 1)) + b'N' for i in range(40_000))
    doubled = b''.join(b'h' + bytes([i - 1]) + b'h' + bytes([i - 1]) + b'\x86q' + bytes([i]) for i in range(1, 120))
    many = b'(' + b'K\x01' * 200_000 + b't'
    return {
        'a text in a wide alphabet, again and again': again(
            encode + text('x' * 400_000) + b'q\x01' + text('utf_32') + b'q\x02\x86R', b'h\x00h\x01h\x02\x86R', 20_000),
        'a slow alphabet': b'\x80\x02' + encode + text(letters) + text('punycode') + b'\x86R.',
        'an alphabet that unpacks': again(encode + text('x') + b'q\x01' + text('zip') + b'q\x02\x86R',
                                          b'h\x00h\x01h\x02\x86R', 10),
        'a dict of a list, again and again': again(ordered + b'](' + pairs + b'eq\x01\x85R', b'h\x00h\x01\x85R',
                                                    50_000),
        'a shape of a tuple, again and again': again(size + many + b'q\x01\x85R', b'h\x00h\x01\x85R', 50_000),
        'a call with a long tuple': again(size + many + b'q\x01R', b'h\x00h\x01R', 50_000),
        'numbers of one hash as keys': b'\x80\x02}(' + same_hash + b'u.',
        'tuples within tuples as a key': b'\x80\x02}' + text('parts') + b'()q\x00' + doubled + b'tsh\x77Ns.',
        'a list in itself': b'\x80\x02]q\x00h\x00a.',
        'a dict in its own metadata': b'\x80\x02' + ordered + b')Rq\x01}' + text('a') + b'h\x01sb'
                                      + text('a') + b'h\x01s.',
        'a set': b'\x80\x02c__builtin__\nset\n](K\x01K\x02e\x85R.',
        'a counter': b'\x80\x02ccollections\nCounter\n}\x85R.',
        'megabytes of zeros': b'\x80\x02c__builtin__\nbytearray\n' + number(10 ** 12) + b'\x85R.',
        'a parameter of a parameter': b'\x80\x02' + b'ctorch._utils\n_rebuild_parameter\n' * 3000 + b'N'
                                      + b'\x89N\x87R' * 3000 + b'.',
        'a name alone': b'\x80\x02]ctorch._utils\n_rebuild_tensor_v2\na.',
        'a number as a name': b'\x80\x02K\x01)R.',
        'a state for a number': b'\x80\x02K\x01}b.',
        'a sparse tensor of nothing': b'\x80\x02ctorch._utils\n_rebuild_sparse_tensor\n'
                                      b'ctorch.serialization\n_get_layout\n' + text('torch.sparse_coo')
                                      + b'\x85R(NNNt\x86R.',
        'a layout': b'\x80\x02ctorch.serialization\n_get_layout\n' + text('torch.sparse_coo') + b'\x85R.',
        'a device of a kilobyte': b'\x80\x02ctorch\ndevice\n' + text('c' * 1000) + b'\x85R.',
        'a number of another kind': b'\x80\x02cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n' + text('O8')
                                    + b'\x89\x88\x87R' + b'c_codecs\nencode\n' + text('12345678') + text('latin1')
                                    + b'\x86R\x86R.'}


# ---------------------------------------------------------------- zips that two readers may read in two ways

def two_readers(index: bytes, data: bytes) -> dict[str, bytes]:
    """Name -> a zip in which readers may find different records."""
    other = b'\x80\x02}' + text('other') + b'K\x07s.'
    rest = {'x/byteorder': b'little', 'x/version': b'3\n', 'x/data/0': data}
    whole = torch_zip(index, {'0': data})
    at = whole.index(b'PK\x01\x02')
    end = len(whole) - 22
    n_entries, size, start = struct.unpack('<H2L', whole[end + 10:end + 20])

    def patched(place: int, new: bytes) -> bytes:
        return whole[:place] + new + whole[place + len(new):]
    wide = struct.pack('<4sQ2H2L4Q', b'PK\x06\x06', 44, 45, 45, 0, 0, n_entries - 1, n_entries - 1, size, start)
    locator = struct.pack('<4sLQL', b'PK\x06\x07', 0, end, 1)
    return {
        'two readers: DATA.PKL first': _zip({'x/DATA.PKL': other, 'x/data.pkl': index, **rest}),
        'two readers: DATA.PKL last': _zip({'x/data.pkl': index, **rest, 'x/DATA.PKL': other}),
        'two readers: X/data.pkl': _zip({'x/data.pkl': index, **rest, 'X/data.pkl': other}),
        'two readers: data.pkl twice': _doubled({'x/data.pkl': index, **rest}, 'x/data.pkl', other),
        'two readers: a record twice': _doubled({'x/data.pkl': index, **rest}, 'x/data/0', bytes(16)),
        'two readers: a record under a backslash': _zip({'x/data.pkl': index, **rest, 'x\\data.pkl': other}),
        'two readers: a record under a dot': _zip({'x/data.pkl': index, **rest, 'x/./data.pkl': other}),
        'two readers: a record under nothing': _zip({'x/data.pkl': index, **rest, 'x//data.pkl': other}),
        'two readers: a top of nothing': _zip({'/data.pkl': index}),
        'two readers: bytes before the zip': b'PK\x03\x04' + bytes(60) + whole,
        'two readers: another zip before the zip': torch_zip(other) + whole,
        'two readers: another name at the record': patched(30, b'archive/data.pkX'),
        'two readers: another size at the record': patched(22, struct.pack('<L', 7)),
        'two readers: a packed record': patched(8, b'\x08\0'),
        'two readers: a packed entry': patched(at + 10, b'\x08\0'),
        'two readers: a record beyond the end': patched(at + 42, struct.pack('<L', len(whole))),
        'two readers: a record in the directory': patched(at + 42, struct.pack('<L', at)),
        'two readers: fewer entries than there are': patched(end + 8, struct.pack('<2H', n_entries - 1, n_entries - 1)),
        'two readers: more entries than there are': patched(end + 8, struct.pack('<2H', n_entries + 1, n_entries + 1)),
        'two readers: entries on another disk': patched(end + 8, struct.pack('<2H', 1, n_entries)),
        'two readers: a second end in the comment': _commented(whole, whole[end:]),
        'two readers: a wide end that contradicts': whole[:end] + wide + locator + whole[end:],
        'two readers: a wide end without its start': whole[:end] + locator + whole[end:]}


def _doubled(records: dict[str, bytes], name: str, data: bytes) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, 'w') as archive:
        warnings.simplefilter('ignore')  # that the name is there already
        for record, content in (*records.items(), (name, data)):
            archive.writestr(record, content)
    return stream.getvalue()


def _zip(records: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, 'w', method) as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    return stream.getvalue()


def _commented(data: bytes, comment: bytes) -> bytes:
    return data[:-2] + len(comment).to_bytes(2, 'little') + comment


def _overlapping(index: bytes, data: bytes) -> bytes:
    """Two entries of the directory that point to the same bytes."""
    whole = bytearray(torch_zip(index, {'0': data, '1': data}))
    entries = [i for i in range(len(whole)) if whole[i:i + 4] == b'PK\x01\x02']
    whole[entries[3] + 42:entries[3] + 46] = whole[entries[2] + 42:entries[2] + 46]
    return bytes(whole)


# ---------------------------------------------------------------- JSON that lies

def export_with(meta: object, state: dict | None = None) -> bytes:
    """An export file whose JSON text is `meta` (a str as it is)."""
    text = meta if isinstance(meta, str) else json.dumps(meta)
    stream = io.BytesIO()
    torch.save({'format': 'minifast-export', 'version': 1, 'meta': text,
                'model': OrderedDict(w=torch.zeros(2)) if state is None else state}, stream)
    return stream.getvalue()


# ---------------------------------------------------------------- all

def hostile_files(folder: Path, marker: Path) -> Iterator[tuple[str, Path]]:
    """Every payload raw and in the zip, some of them in every container, and all zips that lie."""
    made = {}
    found = payloads(marker)
    for name, payload in found.items():
        for container in ('raw', 'zip'):
            made[f'{name} ({container})'] = CONTAINERS[container](payload)
    for name in ('system', 'exec', 'in a dict', 'protocol 4', 'fastai export'):
        for container in ('sealed zip', 'tar', 'legacy', 'gzip'):
            made[f'{name} ({container})'] = CONTAINERS[container](found[name])
    made |= zips(folder)
    for i, (name, data) in enumerate(made.items()):
        path = folder / f'hostile-{i:03d}.pth'
        path.write_bytes(data)
        yield name, path
