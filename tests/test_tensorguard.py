"""Laws of the index of tensor files: what it says is taken as data, in time and memory in proportion to the file."""
import io
import pickle
import struct
import sys
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from minifast.tensorfile import UnsafeFileError, read_tensors, storable
from minifast.tensorguard import DamagedFileError, _large
from minifast.tensorguard import _NAMES, ODD_KEYS, Instructions, Kind, Values
from tests.hostile.make import again, number, tensor_index, text, torch_zip


def read(index, records=None):
    return read_tensors(io.BytesIO(torch_zip(index, records)))


def stored(x, **kwargs):
    stream = io.BytesIO()
    torch.save(x, stream, **kwargs)
    stream.seek(0)
    return stream


def peak_mib(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1] / 2 ** 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize('other', [False, True], ids=['of fastai', 'of another library'])
def test_exports_of_fastai_are_told_how_to_be_converted(other):
    """As pickles, and as the zip of such a one; of what others wrote nobody can say that."""
    name = 'fastbook' if other else 'fastai'
    for data in (f'\x80\x02c{name}.learner\nLearner\n)R.'.encode('latin1'),
                 torch_zip(f'\x80\x02c{name}.learner\nLearner\n)R.'.encode('latin1'))):
        with pytest.raises(UnsafeFileError) as caught:
            read_tensors(io.BytesIO(data))
        told = ('It looks like an export of fastai. To convert it: under fastai, in the session that made it, '
                "learn.save('model', with_opt=False); then under minifast build the same learner, "
                "learn.load('model', with_opt=False) and learn.export()") in str(caught.value)
        assert told is not other


# ---------------------------------------------------------------- as much as the file has

BYTES = b'c_codecs\nencode\nq\x00' + text('x' * 100_000) + b'q\x01' + text('latin1') + b'q\x02\x86R'
ONE_BY_ONE = {
    'a long text as bytes': again(BYTES, b'h\x00h\x01h\x02\x86R', 20_000),
    'an empty dict': again(b'ccollections\nOrderedDict\nq\x00)R', b'h\x00)R', 50_000),
    'a list': b'\x80\x02]q\x00(' + b'N' * 10_000 + b'e](' + b'h\x00' * 40 + b'e\x86.',
    'a view of a record': b'\x80\x02](' + tensor_index((4,), (1,), 4)[2:-1].replace(b')RtRs', b')Rtq\x07Rs')
                          + b'ctorch._utils\n_rebuild_tensor_v2\nq\x08h\x07R' + b'h\x08h\x07R' * 20_000 + b'e.'}


@pytest.mark.parametrize('name', ONE_BY_ONE)
def test_what_is_mentioned_again_and_again_is_made_once(name):
    """Bytes of a text, a list, a view of a record: thousands of mentions of one thing take the memory of one."""
    assert peak_mib(lambda: read(ONE_BY_ONE[name], {'0': bytes(16)})) < 40


def test_a_view_that_is_mentioned_twice_is_one_tensor():
    """The same numbers of the same record in the same shape are one tensor, others share its memory."""
    x = torch.arange(6.)
    found = read_tensors(stored({'a': x, 'b': x.view(6), 'c': x.view(2, 3)}))
    assert found['a'] is found['b'] and found['c'] is not found['a']
    found['a'][0] = 7
    assert found['c'][0, 0] == 7


def test_a_list_that_unfolds_beyond_reason_is_refused_wherever_it_lies():
    """Lists of lists of lists, each mentioned ten times: refused before anybody walks them."""
    laughs = b'\x80\x02]q\x00' + b''.join(b']q' + bytes([i]) + b'(' + (b'h' + bytes([i - 1])) * 10 + b'e'
                                          for i in range(1, 9))
    with pytest.raises(UnsafeFileError, match='beyond reason'):
        read(laughs + b'.')


@pytest.mark.parametrize('n_index', [0, 1000, 3_000_000])
def test_a_file_may_unfold_to_a_million_values_and_four_a_byte_of_its_index(n_index):
    """As honest files do, which say each once; no more, however it is mentioned."""
    row = [None] * 999  # with itself a thousand
    limit = (1_000_000 + 4 * n_index) // 1000
    for n, fits in ((limit - 1, True), (limit + 1, False)):
        values = Values(Path('a file'), None, n_index, 0)
        if fits:
            assert values.make([row] * n) == [row] * n
        else:
            with pytest.raises(UnsafeFileError, match='a file: .* beyond reason'):
                values.make([row] * n)


DICT, L_OBJECT = b'ccollections\nOrderedDict\n)R', b'cfastcore.foundation\nL\n)\x81'
ITEMS = b'}' + text('items') + b']K\x07as'


@pytest.mark.parametrize('target', [DICT, L_OBJECT + ITEMS + b'b', b']', b'}', b'N', b'K\x01', text('a')])
@pytest.mark.parametrize('state', [b'}', b']', b'N', b')', b'K\x01', text('_metadata'), ITEMS])
def test_a_state_is_taken_by_what_has_one_and_refused_elsewhere(target, state):
    """A dict by an ordered dict, the first one by an object; nothing that a file says is passed over in silence."""
    assert read(b'\x80\x02' + L_OBJECT + ITEMS + b'b.') == [7] and read(b'\x80\x02' + DICT + b'}b.') == {}
    if target == DICT and state in (b'}', ITEMS):
        assert read(b'\x80\x02' + target + state + b'b.') == {}
    else:
        with pytest.raises(UnsafeFileError, match='a state for something that has none'):
            read(b'\x80\x02' + target + state + b'b.')


@pytest.mark.parametrize('key, fits', [
    (b'M\x01\x00', True), (number(-3), True), (b'G' + struct.pack('>d', .5), True), (text('a') + b'K\x01\x86', True),
    (b'N', True), (b'\x88', True), (number(2 ** 70), True), (b')', True), (b']', False), (b')\x85', False),
    (b'(' + b'K\x01' * 33 + b't', False), (b'c_codecs\nencode\n' + text('a') + text('latin1') + b'\x86R', False),
    (b'ctorch\nfloat32\n', False)])
def test_keys_are_texts_and_numbers_or_short_tuples_of_them(key, fits):
    """Anything else as a key of a dict is refused before it is hashed."""
    if fits:
        assert len(read(b'\x80\x02}' + key + b'Ns.')) == 1
    else:
        with pytest.raises(UnsafeFileError, match='as a key'):
            read(b'\x80\x02}' + key + b'Ns.')


def test_no_name_of_the_index_is_ever_looked_up():
    """Following an index imports nothing and calls nothing: all names are known beforehand, calls are notes."""
    before = set(sys.modules)
    index = b'\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x02tR.'
    noted = Instructions(Path('x'), index).follow()
    assert noted.args == (1, 2) and noted.name is _NAMES['torch._utils _rebuild_tensor_v2']
    for name in ('antigravity x', 'minifast.as_fastai x', 'torch.hub load', 'torch os', 'collections Counter'):
        with pytest.raises(UnsafeFileError, match='which is no tensor'):
            Instructions(Path('x'), b'c' + name.replace(' ', '\n').encode() + b'\n.').follow()
    assert set(sys.modules) == before
    # whatever a name is worth is made by methods of `Values`, or is a kind of number
    made = (None, *vars(Values))
    for name, known in _NAMES.items():
        assert isinstance(known, (torch.dtype, Kind)) or known.make in made, name


# ---------------------------------------------------------------- what honest files say

@pytest.mark.filterwarnings('ignore:.*quantize')
def test_quantized_and_sparse_tensors_with_false_parts_are_refused():
    """Indices outside of the shape, as many scales as there are no channels: refused as torch does or before."""
    whole = torch.sparse_coo_tensor([[0, 2]], [1., 2.], (3,), check_invariants=True)
    data = stored(whole).getvalue()
    assert torch.equal(read_tensors(io.BytesIO(data)).to_dense(), whole.to_dense())
    spoilt = data.replace(b'K\x03\x85', b'K\x02\x85')  # the shape is [2]
    assert spoilt != data
    index = bytes(spoilt[spoilt.index(b'\x80\x02'):spoilt.index(b'PK\x07\x08')])
    with pytest.raises(UnsafeFileError, match='size is inconsistent|found index|out of bounds|index'):
        read(index, {'0': struct.pack('<2q', 0, 2), '1': struct.pack('<2f', 1, 2)})
    q = torch.quantize_per_channel(torch.ones(2, 3), torch.ones(2), torch.zeros(2, dtype=torch.int64), 0, torch.qint8)
    data = stored(q).getvalue()
    assert torch.equal(read_tensors(io.BytesIO(data)), q)


@pytest.mark.parametrize('names', [
    ['data.pkl'], ['a/b'], ['a/b/data.pkl'], ['a/DATA.pkl'], ['a/data.pkl', 'b/data.pkl'], ['a/data.pkl', 'b/c'],
    ['a/b', 'c/data.pkl'], ['a/data.pkl', 'b']], ids=' '.join)
def test_a_zip_is_one_of_torchs_where_its_index_lies_in_its_only_folder(names):
    """Of any other is said what it is not, and nothing in it is read."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, 'w') as archive:
        for name in names:
            archive.writestr(name, b'\x80\x02K\x01.')
    stream.seek(0)
    with pytest.raises(UnsafeFileError, match='is a zip, but not one written by torch.save'):
        read_tensors(stream)



def test_numbers_of_another_byte_order_are_turned():
    """A file of a big-endian machine: integers, reals, complex and the newer kinds alike."""
    for x in (torch.arange(3), torch.tensor([1.5, -2.]), torch.tensor([1 + 2j]),
              torch.tensor([258], dtype=torch.uint16)):
        data, width = x.numpy().tobytes(), x.dtype.itemsize // (2 if x.is_complex() else 1)
        turned = b''.join(data[i:i + width][::-1] for i in range(0, len(data), width))
        whole = stored(x).getvalue()
        index = whole[whole.index(b'\x80\x02'):whole.index(b'PK\x07\x08')]
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, 'w') as archive:
            for name, content in {'data.pkl': index, 'byteorder': b'big', 'data/0': turned}.items():
                archive.writestr(f'x/{name}', content)
        stream.seek(0)
        assert torch.equal(read_tensors(stream), x)


@pytest.mark.parametrize('kind', ['float64', 'float32', 'float16', 'int64', 'int32', 'int16', 'int8', 'uint64',
                                  'uint32', 'uint16', 'uint8', 'bool_'])
def test_numbers_of_numpy_are_numbers_of_python(kind):
    """Of each kind, as schedules of fastai keep them, in either byte order; of other kinds none."""
    made = getattr(np, kind)(1.5)
    found = read_tensors(stored({'lr': made, 'as': [made]}))
    assert found == {'lr': made.item(), 'as': [made.item()]} and type(found['lr']) is type(made.item())
    whole = pickle.dumps(made.astype(made.dtype.newbyteorder('>')), protocol=2)
    assert read(whole) == made.item()


@pytest.mark.parametrize('number', [np.complex64(1), np.datetime64('2020-01-01'), np.str_('a')])
def test_numbers_of_numpy_that_are_no_reals_are_refused(number):
    """Nothing of a training is one."""
    with pytest.raises(UnsafeFileError):
        read_tensors(stored({'lr': number}))


def test_views_conjugates_and_odd_storages_of_other_writers_are_read():
    """What plain `torch.save` writes of views: strides, offsets, conjugate and negative bits, storages with a rest."""
    x = torch.randn(4, 3, dtype=torch.complex64)
    odd = torch.arange(10, dtype=torch.uint8)[:8].view(torch.float32)
    for view in (x.t(), x[1:, ::2], x.conj(), x.conj().imag, x.real, torch.ones(1).expand(50), odd, torch.empty(0, 3),
                 torch.tensor(3.), nn.Parameter(torch.ones(2)), torch.ones(2).requires_grad_()):
        found = read_tensors(stored(view))
        assert torch.equal(found, view) and found.stride() == view.stride() and found.dtype == view.dtype
        assert type(found) is type(view) and found.requires_grad == view.requires_grad
        assert found.is_conj() == view.is_conj() and found.is_neg() == view.is_neg()


@pytest.mark.parametrize('settings', [
    b'\x89ccollections\nOrderedDict\n)Rctorch\nquint8\n', b'\x89ccollections\nOrderedDict\n)Rctorch\nqint32\n',
    b'\x89ccollections\nOrderedDict\n)RK\x05', b'\x89ccollections\nOrderedDict\n)R' + text('float32'),
    b'\x89ccollections\nOrderedDict\n)R]', b'K\x00ccollections\nOrderedDict\n)Rctorch\nfloat32\n',
    b'N]ctorch\nfloat32\n', b'\x89' + ITEMS + b'ctorch\nfloat32\n'],
    ids=['quint8', 'qint32', 'a number', 'a text', 'a list', 'gradient 0', 'gradient None', 'hooks'])
def test_settings_that_no_tensor_has_are_refused(settings):
    """A kind of numbers that a plain tensor cannot have, or that is none; a gradient that is no yes or no; hooks."""
    head = tensor_index((4,), (1,), 4).replace(b'_v2', b'_v3').removesuffix(b'\x89ccollections\nOrderedDict\n)RtRs.')
    usual = b'\x89ccollections\nOrderedDict\n)Rctorch\nint32\n'
    assert read(head + usual + b'tRs.', {'0': struct.pack('<4i', 1, 2, 3, 4)})['w'].tolist() == [1, 2, 3, 4]
    with pytest.raises(UnsafeFileError, match='a tensor with settings that no tensor has'):
        read(head + settings + b'tRs.', {'0': bytes(16)})


def test_a_record_that_is_mentioned_as_several_kinds_is_read_as_each():
    """The same bytes as numbers of two kinds, whole or in part, as other writers store views."""
    def mention(kind, n):
        return tensor_index((n,), (1,), n, kind=kind)[:-1].partition(b'ctorch._utils')
    index = b'\x80\x02]('
    for kind, n in (('Float', 2), ('Int', 2), ('Int', 1), ('Float', 2)):
        _, name, rest = mention(kind, n)
        index += name + rest.removesuffix(b's')
    a, b, c, d = read(index + b'e.', {'0': struct.pack('<2f', 1., -2.)})
    assert a.tolist() == [1, -2] and a is d and a.dtype == torch.float32
    assert b.dtype == c.dtype == torch.int32 and torch.equal(b, a.view(torch.int32)) and torch.equal(c, b[:1])


@pytest.mark.faults
def test_a_long_list_of_tensors_in_a_wide_zip_is_read():
    """More records than the short end of a zip can count."""
    found = read_tensors(stored([torch.tensor([i]) for i in range(66_000)]))
    assert len(found) == 66_000 and all(int(found[i]) == i for i in (0, 1, 65_535, 65_536, 65_999))


OLD = {'dict': OrderedDict(a=torch.arange(3), b=torch.randn(2, 2)),
       'parameter': {'w': nn.Parameter(torch.ones(2))}, 'half': torch.ones(3).half(),
       'nothing': torch.empty(0), 'shared': (lambda x: [x, x.t(), x[1:]])(torch.eye(3))}


@pytest.mark.parametrize('name', OLD)
def test_files_of_torch_before_1_6_are_read_where_they_are_asked_for(name, tmp_path):
    """The old format, read as `torch.load` does; only for weights, and never where a checkpoint is meant."""
    file = tmp_path / 'old.pth'
    torch.save(OLD[name], file, _use_new_zipfile_serialization=False)
    found, theirs = read_tensors(file, old=True), torch.load(file, weights_only=True)
    flat = torch.utils._pytree.tree_leaves
    assert all(torch.equal(a, b) and a.stride() == b.stride() for a, b in zip(flat(found), flat(theirs), strict=True))
    with pytest.raises(UnsafeFileError, match='a pickle'):
        read_tensors(file)
    whole = file.read_bytes()
    for n in range(0, len(whole), 7):
        file.write_bytes(whole[:n])
        with pytest.raises(ValueError, match='old.pth'):
            read_tensors(file, old=True)


def test_what_python_2_wrote_is_read():
    """Dicts as lists of pairs, short texts, parameters with a state: the weights of 2016 and 2017."""
    record = (b'ctorch._utils\n_rebuild_tensor\n((U\x07storagectorch\nFloatStorage\nU\x01aU\x03cpuK\x02NtQ'
              b'K\x00K\x02\x85K\x01\x85tR')
    state = (b'ccollections\nOrderedDict\n](](U\x01wctorch.nn.parameter\nParameter\n)\x81(' + record
             + b'NNN\x88tbee\x85R.')
    head = b''.join(pickle.dumps(x, protocol=2) for x in (0x1950a86a20f9469cfc6c, 1001, {'little_endian': True}))
    tail = pickle.dumps(['a'], protocol=2) + struct.pack('<q2f', 2, 1.5, -2)
    found = read_tensors(io.BytesIO(head + b'\x80\x02' + state + tail), old=True)
    assert list(found) == ['w'] and found['w'].tolist() == [1.5, -2]


INTEGERS = [0, 1, 255, 256, 65535, 65536, 2 ** 31 - 1, 2 ** 31, 2 ** 63 - 1]
WRITTEN = {'integers': [*INTEGERS, *(-i for i in INTEGERS), -2 ** 63], 'floats': [0., -1.5, 1e300, float('inf')],
           'texts': ['', 'a', 'größe 猫', 'x' * 255, 'x' * 256, '\ud800'], 'truth': [True, False, None],
           'tuples': [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)], 'bytes': [b'', b'\0\xff', b'x' * 300],
           'empty': [[], {}, OrderedDict()], 'dicts': {'a': {1: 2}, (1, 'b'): [], None: 0, True: 1},
           'mentioned': [(a := ['deep']), a, {'again': a}], 'many names': [[str(i), str(i)] for i in range(400)]}


@pytest.mark.parametrize('name', WRITTEN)
def test_every_instruction_of_a_pickle_gives_its_value(name):
    """Numbers, texts and containers of every length that has an instruction of its own, as torch writes them."""
    wanted = WRITTEN[name]
    found = read_tensors(stored(wanted))
    assert found == wanted and repr(found) == repr(wanted)
    assert [*map(type, found)] == [*map(type, wanted)]


@pytest.mark.parametrize('of', [lambda i: i, lambda i: -i, lambda i: 2 ** 32 - 1 - i, str],
                         ids='up down 32bit text'.split())
def test_any_number_of_whole_numbers_and_texts_are_keys(of):
    """Whole numbers of 32 bits, as those of the state of an optimizer."""
    wanted = {of(i): i for i in range(ODD_KEYS + 500)}
    assert read_tensors(stored(wanted)) == wanted and list(storable(wanted)) == list(wanted)


@pytest.mark.parametrize('of', [lambda i: (i,), lambda i: i + .5, lambda i: 2 ** 32 + i, lambda i: -2 ** 33 - i],
                         ids='tuple float large negative'.split())
def test_other_keys_are_as_many_as_can_be_read_back(of):
    """Tuples, floats and large numbers, whose places in a dict anybody may choose: what is written is read."""
    wanted = {of(i): i for i in range(ODD_KEYS)}
    assert read_tensors(stored(wanted)) == wanted and list(storable(wanted)) == list(wanted)
    with pytest.raises(TypeError, match=f'more than {ODD_KEYS} keys that are neither'):
        storable({of(i): i for i in range(ODD_KEYS + 1)})


def wide_zip(end=(), **changes):
    """A zip with the second end of large ones, some of whose fields are changed."""
    whole = torch_zip(b'\x80\x02]K\x07a.')
    at = whole.rindex(b'PK\x05\x06')
    n, size, start = (struct.unpack_from(f'<{kind}', whole, at + place)[0] for kind, place in (('H', 10), ('L', 12),
                                                                                            ('L', 16)))
    fields = {'magic': b'PK\x06\x06', 'n_bytes': 44, 'made': 45, 'needed': 45, 'disk': 0, 'first': 0, 'here': n,
              'n': n, 'size': size, 'start': start, 'at': at, **changes}
    first = [0, 0, n, n, size, start, 0]
    for place, value in end:
        first[place] = value
    *wide, locator = fields.values()
    return (whole[:at] + struct.pack('<4sQ2H2L4Q', *wide) + struct.pack('<4sLQL', b'PK\x06\x07', 0, locator, 1)
            + struct.pack('<4s4H2LH', b'PK\x05\x06', *first))


FULL16, FULL32 = 0xFFFF, 0xFFFFFFFF


@pytest.mark.parametrize('end', [[], [(2, FULL16), (3, FULL16)], [(4, FULL32)], [(5, FULL32)],
                                 [(3, FULL16), (4, FULL32), (5, FULL32)]])
def test_two_ends_of_a_zip_that_agree_are_read(end):
    """A field of the first end says the same as that of the second, or refers to it."""
    assert read_tensors(io.BytesIO(wide_zip(end))) == [7]


@pytest.mark.parametrize('changes', [{'magic': b'PK\x06\x05'}, {'n_bytes': 45}, {'disk': 1}, {'first': 1}, {'here': 9},
                                     {'n': 9, 'here': 9}, {'n': 2}, {'size': 9}, {'start': 9}, {'at': 9}])
def test_two_ends_of_a_zip_that_differ_are_refused(changes):
    """Any field, whether the first end refers to the second or not."""
    refers = [(2, FULL16), (3, FULL16), (4, FULL32), (5, FULL32)]
    for end in ([], refers, *([o] for o in refers)):
        with pytest.raises((DamagedFileError, UnsafeFileError)):
            read_tensors(io.BytesIO(wide_zip(end, **changes)))
    for place, value in ((0, 1), (1, 1), (3, 2), (4, 9), (5, 9)):
        with pytest.raises((DamagedFileError, UnsafeFileError)):
            read_tensors(io.BytesIO(wide_zip([(place, value)])))


@pytest.mark.parametrize('extra, wanted', [
    (struct.pack('<2H2Q', 1, 16, 2 ** 33, 2 ** 34), [2 ** 33, 5, 2 ** 34]),
    (struct.pack('<2H3x2H2Q', 7, 3, 1, 16, 2 ** 33, 6), [2 ** 33, 5, 6]),
    (struct.pack('<2HQ', 1, 8, 2 ** 33), [2 ** 33, 5, FULL32]), (struct.pack('<2HQ', 2, 8, 1), [FULL32, 5, FULL32]),
    (b'', [FULL32, 5, FULL32]), (b'\x01\x00\x00', [FULL32, 5, FULL32]), (b'\x07\x00\x00\x00', [FULL32, 5, FULL32])])
def test_numbers_of_four_gigabytes_stand_in_the_extra_field(extra, wanted):
    """In their order, behind whatever else is there; other numbers stay."""
    assert _large(extra, FULL32, 5, FULL32) == wanted and _large(extra, 1, 2, 3) == [1, 2, 3]
