"""Laws of tensor files and of `save_model`/`load_model`: whole or not at all, checked before used, never code."""
import ast
import errno
import functools
import io
import os
import random
import re
import subprocess
import sys
import textwrap
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from fastcore.foundation import L
from small_learner import learner
from torch import nn

from minifast import checkpoint as room
from minifast.checkpoint import check_opt_state, load_model, load_opt_state, load_weights, make_room, save_model
from minifast.markers import TensorImage
from minifast.optimizer import SGD, Adam, Lookahead, OptimWrapper
from minifast.tensorfile import (Copies, DamagedFileError, UnsafeFileError, copied, read_tensors, storable,
                                 write_atomic)
from minifast.torch_core import get_model, trainable_params

ROOT = Path(__file__).resolve().parent.parent


def make_model(n_out=2, n_in=4):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(n_in, 3), nn.BatchNorm1d(3), nn.Linear(3, n_out))


def trained(opt_func=Adam, **kwargs):
    model = make_model(**kwargs)
    opt = opt_func(list(model.parameters()), lr=0.1)
    for _ in range(2):
        model(torch.randn(8, 4)).square().mean().backward()
        opt.step()
        opt.zero_grad()
    return model, opt


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


CONTENT = {'text': 'é', 'number': 3, 'real': 0.1, 'none': None, 'yes': True, 'bytes': b'ab', 'big': 2 ** 70,
           'tuple': (1, (2.5, 'x')), 'list': [torch.arange(5), torch.randn(2, 3, dtype=torch.float64)],
           7: torch.tensor([True, False]), 'half': torch.randn(4).half(), 'empty': torch.empty(0, 3),
           'bf16': torch.randn(3).bfloat16(), 'scalar': torch.tensor(2.), 'size': torch.Size([1, 2])}


# ---------------------------------------------------------------- the file

def test_what_is_written_is_read_back_bit_for_bit(tmp_path):
    """Tensors of all kinds and nested plain data come back the same, and plain torch reads the file too."""
    write_atomic(tmp_path / 'a.pth', CONTENT)
    assert same(read_tensors(tmp_path / 'a.pth'), CONTENT)
    assert same(torch.load(tmp_path / 'a.pth', weights_only=True), CONTENT)
    assert [p.name for p in tmp_path.iterdir()] == ['a.pth']


def test_a_stream_takes_and_gives_the_same_bytes():
    """An open stream stands for a file on both sides."""
    stream = io.BytesIO()
    write_atomic(stream, CONTENT)
    stream.seek(0)
    assert same(read_tensors(stream), CONTENT)


def test_foreign_containers_become_plain_ones():
    """Arrays become tensors; numpy numbers, L, named tuples and text types become plain; anything else is named."""
    found = storable({'a': np.arange(3), 'b': np.float64(2), 'c': L(1, 2), 'd': Path('x') / 'y', 'e': np.uint32([5])})
    assert same(found, {'a': torch.arange(3), 'b': 2., 'c': [1, 2], 'd': 'x/y', 'e': torch.tensor([5])})
    with pytest.raises(TypeError, match=r"the state\['cb'\]\[1\] is a function"):
        storable({'cb': [1, test_foreign_containers_become_plain_ones]}, 'the state')


def test_metadata_of_a_state_dict_survives_and_holds_versions_only(tmp_path):
    """Modules read old weights by their version; nothing else in that place is believed."""
    state = nn.Sequential(nn.BatchNorm1d(2)).state_dict()
    state._metadata['0']['assign_to_params_buffers'] = True
    write_atomic(tmp_path / 'a.pth', copied(state))
    assert read_tensors(tmp_path / 'a.pth')._metadata == {'': {'version': 1}, '0': {'version': 2}}


def damaged_copies(data, n_flips, n_cuts, n_zeroed, seed=0):
    """(what was done, damaged bytes): flipped bits, cut ends and zeroed blocks at random places."""
    draw = random.Random(seed)
    for _ in range(n_flips):
        place, copy = draw.randrange(len(data) * 8), bytearray(data)
        copy[place // 8] ^= 1 << place % 8
        yield f'bit {place}', bytes(copy)
    for _ in range(n_cuts):
        length = draw.randrange(len(data))
        yield f'cut to {length}', data[:length]
    while n_zeroed:
        start, copy = draw.randrange(len(data)), bytearray(data)
        end = min(start + draw.choice([1, 16, 512, 4096]), len(data))
        copy[start:end] = bytes(end - start)
        if bytes(copy) != data:
            n_zeroed -= 1
            yield f'zeroed {start}-{end}', bytes(copy)


def loaded_silently(path, data, n_flips, n_cuts, n_zeroed):
    loaded, n = [], 0
    for what, copy in damaged_copies(data, n_flips, n_cuts, n_zeroed):
        path.write_bytes(copy)
        n += 1
        try:
            read_tensors(path)
        except (DamagedFileError, UnsafeFileError):
            continue
        loaded.append(what)
    return loaded, n


def test_damage_anywhere_in_the_file_is_noticed(tmp_path):
    """No flipped bit, cut end or zeroed block loads, wherever it is: payload, index, headers or padding."""
    model, opt = trained()
    save_model(tmp_path / 'a.pth', model, opt)
    loaded, n = loaded_silently(tmp_path / 'b.pth', (tmp_path / 'a.pth').read_bytes(), 200, 40, 40)
    assert not loaded and n == 280


def test_damage_to_the_contents_of_a_file_from_elsewhere_is_noticed(tmp_path):
    """A file of plain `torch.save` has no seal: what loads after a flipped bit has the same contents."""
    torch.save(CONTENT, tmp_path / 'a.pth')
    for what, copy in damaged_copies((tmp_path / 'a.pth').read_bytes(), 150, 20, 0):
        (tmp_path / 'b.pth').write_bytes(copy)
        try:
            assert same(read_tensors(tmp_path / 'b.pth'), CONTENT), what
        except (DamagedFileError, UnsafeFileError):
            continue


@pytest.mark.parametrize('make', [lambda p: None, lambda p: p.write_bytes(b''), lambda p: p.mkdir()],
                         ids=['absent', 'empty', 'folder'])
def test_what_is_no_file_gets_a_clear_error(tmp_path, make):
    """Absent, empty, a folder: the error names the path."""
    make(tmp_path / 'a.pth')
    with pytest.raises((FileNotFoundError, DamagedFileError, IsADirectoryError), match='a.pth'):
        read_tensors(tmp_path / 'a.pth')


# ---------------------------------------------------------------- what is written can be read

def exactly(a, b):
    """Whether two tensors are the same kind of tensor with the same bits, whatever torch can compare."""
    if (a.dtype, a.layout, a.shape, a.is_quantized) != (b.dtype, b.layout, b.shape, b.is_quantized):
        return False
    if a.layout is torch.sparse_coo:
        return torch.equal(a._indices(), b._indices()) and exactly(a._values(), b._values())
    if a.layout is not torch.strided:
        return torch.equal(a.to_dense(), b.to_dense()) and a.values().shape == b.values().shape
    if a.is_quantized:
        return a.qscheme() == b.qscheme() and torch.equal(a, b)
    bits = [x.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8) for x in (a, b)]
    return torch.equal(*bits)


DTYPES = list({str(x): x for x in vars(torch).values() if isinstance(x, torch.dtype) and not re.search(
    r'\.(u?int[1-7]|qu?int\w+)$', str(x))}.values())
EYE, BYTES = torch.eye(4), torch.arange(12, dtype=torch.uint8)
with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # that sparse tensors are new and quantized ones old
    QUANTIZED = {'quantized': torch.quantize_per_tensor(EYE, .1, 3, torch.quint8),
                 'quantized by channel': torch.quantize_per_channel(EYE, torch.rand(4), torch.zeros(4).long(), 0,
                                                                    torch.qint8),
                 'quantized to 32 bits': torch.quantize_per_tensor(EYE, .1, 3, torch.qint32)}
    SPARSE = {'coo': EYE.to_sparse(), 'csr': EYE.to_sparse_csr(), 'csc': EYE.to_sparse_csc(),
              'bsr': EYE.to_sparse_bsr((2, 2)), 'bsc': EYE.to_sparse_bsc((2, 2)),
              'uncoalesced': torch.sparse_coo_tensor([[0, 0], [1, 1]], [1., 2.], (4, 4), check_invariants=True)}
WRITABLE = {
    **{str(dtype): torch.arange(16, dtype=torch.uint8).remainder(2).view(dtype) for dtype in DTYPES}, **SPARSE,
    **QUANTIZED,
    'no numbers': torch.empty(0, 3), 'one number': torch.tensor(3.), 'strides': EYE[:, ::2], 'turned': EYE[:2].t(),
    'a part': torch.arange(100.)[40:50], 'expanded': torch.ones(1).expand(1000),
    'a number expanded': torch.ones(()).expand(3, 3),
    'channels last': torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    'a rest of bytes': BYTES[:8].view(torch.float32),
    'conjugate': torch.randn(3, dtype=torch.complex64).conj(),
    'negative': torch.randn(3, dtype=torch.complex64).conj().imag,
    'parameter': nn.Parameter(torch.ones(3)), 'subclass': torch.ones(3).as_subclass(type('Mine', (torch.Tensor,), {})),
    'marker': TensorImage(torch.ones(3, 2, 2)), 'fortran': torch.from_numpy(np.asfortranarray(np.eye(3)))}
UNWRITABLE = {
    'small numbers': lambda: torch.zeros(2, dtype=torch.uint8).view(torch.uint4),
    'meta': lambda: torch.empty(3, device='meta'), 'lazy': nn.UninitializedParameter,
    'lazy buffer': nn.UninitializedBuffer,
    'nested': lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), 'opaque': lambda: EYE.to_mkldnn(),
    'jagged': lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
    'half bytes': lambda: torch.quantize_per_channel(EYE, torch.ones(4), torch.zeros(4), 0, torch.quint4x2),
    'float scales': lambda: torch.quantize_per_channel(EYE, torch.ones(4), torch.zeros(4), 0, torch.quint8),
    'a function': lambda: print, 'a set': lambda: {1}, 'complex': lambda: 1j, 'a long number': lambda: 1 << 3000,
    'an odd key': lambda: {(1, (2,)): 1}, 'a path as a key': lambda: {Path('x'): 1},
    'a dtype as a key': lambda: {torch.int8: 1},
    'long doubles': lambda: np.ones(2, dtype=np.longdouble), 'texts of numpy': lambda: np.array(['a']),
    'a deep list': lambda: functools.reduce(lambda x, _: [x], range(200), 1), 'many odd keys': lambda: dict.fromkeys(
        ((i, 0) for i in range(2000))), 'dates': lambda: np.datetime64('2020-01-01'),
    'itself': lambda: (lambda x: x.append(x) or x)([])}


class Holds(nn.Module):
    """Holds a tensor beside its weights, as a buffer."""

    def __init__(self, x):
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.register_buffer('held', x)


@pytest.mark.tally
@pytest.mark.filterwarnings('ignore:.*experimental')
@pytest.mark.parametrize('name', WRITABLE)
def test_every_tensor_that_is_written_is_read_equal(tmp_path, name):
    """Every kind of number, layout, view and class: equal from the file, the stream, a copy, and in a model."""
    x = WRITABLE[name]
    write_atomic(tmp_path / 'a.pth', storable({'x': x, 'again': x}))
    found = read_tensors(tmp_path / 'a.pth')
    assert exactly(found['x'], x) and exactly(found['again'], x)
    assert exactly(copied(found)['x'], x) and exactly(Copies()(storable({'x': x}))['x'], x)
    model, twin = Holds(x.detach()), Holds(torch.empty_like(x.detach()))
    opt, other = (Adam(list(m.parameters()), lr=.1) for m in (model, twin))
    save_model(tmp_path / 'b.pth', model, opt)
    load_model(tmp_path / 'b.pth', twin, other)
    assert exactly(twin.held, x.detach()) and torch.equal(twin.layer.weight, model.layer.weight)


@pytest.mark.tally
@pytest.mark.parametrize('name', UNWRITABLE)
def test_what_no_file_can_hold_is_refused_before_a_byte_is_written(tmp_path, name):
    """It is named with its place and a way out, and the old file stays."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of torch about tensors that are new or old
        made = UNWRITABLE[name]()
    with pytest.raises(TypeError, match=r"the state\['x'\]\[1\]") as caught:
        storable({'x': [1, made]}, 'the state')
    assert ': ' in str(caught.value) or name in ('a deep list', 'itself')


def test_plain_values_of_every_kind_come_back(tmp_path):
    """Numbers, texts, bytes, keys: what `storable` takes, the file gives back."""
    x = {'': '', 'lone': '\ud800', 'bytes': [b'', b'\0\xff', b'a' * 1000], 'long': 2 ** 1999, 'low': -2 ** 1999,
         'nan': [float('inf'), -0.0], 1: {2 ** 40: 1, -5: 2, .5: 3, True: 4, None: 5, ('a', 1, None): 6, (): 7},
         'dtype': torch.float8_e5m2, 'device': [torch.device('cpu'), torch.device('cuda', 1)], 'size': torch.Size([]),
         'deep': functools.reduce(lambda x, _: [x], range(70), 1), 'tuples': ((), ((),), (((1,),),)),
         'number': np.uint64(2 ** 64 - 1), 'many': np.array([2 ** 64 - 1], dtype=np.uint64),
         'turned': np.ones(2, '>f4')}
    write_atomic(tmp_path / 'a.pth', storable(x))
    found = read_tensors(tmp_path / 'a.pth')
    assert found.pop('number') == 2 ** 64 - 1 and found.pop('many').tolist() == [2 ** 64 - 1]
    assert torch.equal(found.pop('turned'), torch.ones(2))
    assert same(found, {k: v for k, v in x.items() if k not in ('number', 'many', 'turned')})


def test_what_is_shared_is_written_once_and_shared_again(tmp_path):
    """Tied weights, a block under many names, other kinds of numbers on the same bytes: equal, and no longer."""
    block = nn.Linear(300, 300)
    model = nn.ModuleList([block] * 24)
    save_model(tmp_path / 'a.pth', model, None)
    state = read_tensors(tmp_path / 'a.pth')
    assert (tmp_path / 'a.pth').stat().st_size < 500_000 and len(state) == 48
    assert len({id(x) for x in state.values()}) == 2
    write_atomic(tmp_path / 'b.pth', Copies()(storable(model.state_dict())))
    assert (tmp_path / 'b.pth').stat().st_size < 500_000
    one = copied(state)
    one['0.weight'].zero_()
    assert not one['23.weight'].any() and state['0.weight'].any()
    twin = nn.ModuleList([nn.Linear(300, 300)] * 24)
    load_model(tmp_path / 'a.pth', twin, None, with_opt=False)
    assert torch.equal(twin[7].weight, block.weight)
    z = torch.randn(3, dtype=torch.complex64)
    parts = torch.view_as_real(z)
    write_atomic(tmp_path / 'c.pth', {'z': z, 'parts': parts, 'bytes': parts.view(torch.uint8)})
    found = read_tensors(tmp_path / 'c.pth')
    assert torch.equal(found['z'], z) and torch.equal(found['parts'], torch.view_as_real(z))


def weight_norm():
    return nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), nn.Linear(3, 2))


def spectral_norm():
    return nn.Sequential(torch.nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3)), nn.Linear(3, 2))


def tied():
    first, last = nn.Linear(4, 4), nn.Linear(4, 4)
    last.weight = first.weight
    return nn.Sequential(first, last)


def with_state():
    class Counts(nn.Linear):
        def get_extra_state(self):
            return {'n': getattr(self, 'n', 3), 'x': torch.ones(2)}

        def set_extra_state(self, state):
            self.n = state['n']
    return Counts(4, 2)


MODELS = {'weight norm': weight_norm, 'spectral norm': spectral_norm, 'tied': tied, 'extra state': with_state,
          'recurrent': lambda: nn.LSTM(4, 3, num_layers=2), 'parallel': lambda: nn.DataParallel(nn.Linear(4, 2)),
          'compiled': lambda: torch.compile(nn.Linear(4, 2)),
          'parallel, compiled': lambda: nn.DataParallel(torch.compile(nn.Linear(4, 2))),
          'frozen expanded': lambda: frozen_expanded(), 'complex': lambda: nn.Linear(4, 2, dtype=torch.complex64),
          'half': lambda: nn.Linear(4, 2).half(),
          'shared parts': lambda: nn.ParameterList([nn.Parameter(x) for x in torch.randn(3, 4)])}


def frozen_expanded():
    model = nn.Linear(4, 2)
    model.extra = nn.Parameter(torch.ones(1).expand(5), requires_grad=False)
    return model


@pytest.mark.tally
@pytest.mark.parametrize('name', MODELS)
def test_every_model_that_is_saved_loads_equal(tmp_path, name):
    """Parametrized, tied, wrapped, compiled, recurrent models, in themselves and without their wrapper."""
    model, twin = MODELS[name](), MODELS[name]()
    model = model.eval()
    opt, other = (Adam(trainable_params(m), lr=.1) for m in (model, twin))
    save_model(tmp_path / 'a.pth', model, opt)
    load_model(tmp_path / 'a.pth', twin, other)
    assert same(dict(get_model(model).state_dict()), dict(get_model(twin).state_dict()))
    assert not any(k.startswith(('module.', '_orig_mod.')) for k in read_tensors(tmp_path / 'a.pth')['model'])


def test_the_optimizer_knows_parameters_that_no_group_holds_and_saves_without_them(tmp_path):
    """Marks on a teacher's norm layers stay where they are through a save and a load."""
    model, outside = make_model(), nn.BatchNorm1d(2)
    opt = Adam(list(model.parameters()), lr=.1)
    opt.state[outside.weight]['do_wd'] = False
    save_model(tmp_path / 'a.pth', model, opt)
    load_model(tmp_path / 'a.pth', model, opt)
    assert opt.state[outside.weight] == {'do_wd': False} and len(opt.state_dict()['param_groups'][0]['params']) == 6
    assert not set(opt.state_dict()['state']) - set(range(6))


def test_the_file_that_was_checked_is_the_file_that_is_loaded(tmp_path):
    """One open for the checks and for the tensors: a name that is moved in between changes nothing."""
    write_atomic(tmp_path / 'a.pth', {'x': torch.zeros(3)})
    write_atomic(tmp_path / 'b.pth', {'x': torch.ones(3)})
    opened = []

    def watch(event, args):
        if event == 'open' and str(args[0]).endswith('a.pth') and watching:
            opened.append(args[0])
    watching = True
    sys.addaudithook(watch)
    found = read_tensors(tmp_path / 'a.pth')
    watching = False
    assert len(opened) == 1
    os.replace(tmp_path / 'b.pth', tmp_path / 'a.pth')
    assert torch.equal(found['x'], torch.zeros(3))
    found['x'][0] = 5  # of memory, not of the file
    assert torch.equal(read_tensors(tmp_path / 'a.pth')['x'], torch.ones(3))


# ---------------------------------------------------------------- storage that fails

@pytest.mark.tally
@pytest.mark.parametrize('step', ['open', 'fsync', 'replace'])
@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT, errno.EACCES])
def test_a_failing_storage_keeps_the_last_good_file(tmp_path, monkeypatch, step, code):
    """Disk full, I/O error, read-only, quota, permission at any step: old file whole, nothing left over, all said."""
    path = tmp_path / 'a.pth'
    write_atomic(path, {'x': 1})

    def fail(*args, **kwargs):
        raise OSError(code, os.strerror(code))
    monkeypatch.setattr(*{'open': ('builtins.open', fail), 'fsync': (os, 'fsync', fail),
                          'replace': (os, 'replace', fail)}[step])
    with pytest.raises(OSError, match='a.pth could not be written: .*last good one, untouched. Way out: ') as caught:
        write_atomic(path, {'x': 2})
    monkeypatch.undo()
    assert caught.value.errno == code
    assert read_tensors(path) == {'x': 1} and [p.name for p in tmp_path.iterdir()] == ['a.pth']


@pytest.mark.tally
def test_a_folder_that_is_gone_a_folder_in_the_way_and_a_link(tmp_path):
    """A missing folder and a folder of that name are named; a link to another file system is followed."""
    with pytest.raises(FileNotFoundError, match='gone/a.pth could not be written.*make it'):
        write_atomic(tmp_path / 'gone' / 'a.pth', {})
    with pytest.raises(IsADirectoryError, match='choose another name'):
        write_atomic(tmp_path, {})
    (tmp_path / 'far').mkdir()
    (tmp_path / 'link.pth').symlink_to(tmp_path / 'far' / 'a.pth')
    write_atomic(tmp_path / 'link.pth', {'x': 1})
    assert (tmp_path / 'link.pth').is_symlink() and read_tensors(tmp_path / 'far' / 'a.pth') == {'x': 1}


@pytest.mark.tally
@pytest.mark.skipif(os.name != 'posix', reason='limits and devices of POSIX')
def test_a_limit_in_the_middle_of_a_write_keeps_the_last_good_file(tmp_path):
    """The operating system cuts the write off after 64 KiB: an OSError, and the old file is whole."""
    script = textwrap.dedent(f'''
        import resource, signal, torch
        from minifast.tensorfile import write_atomic
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        write_atomic({str(tmp_path / "a.pth")!r}, {{'x': 1}})
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
        try:
            write_atomic({str(tmp_path / "a.pth")!r}, {{'x': torch.zeros(100000)}})
        except OSError as error:
            print(error)
    ''')
    done = subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True)
    assert 'raise the limit' in done.stdout and 'untouched' in done.stdout, done.stderr
    assert read_tensors(tmp_path / 'a.pth') == {'x': 1} and len(list(tmp_path.iterdir())) == 1


KILLED_SAVES = textwrap.dedent('''
    import os, random, signal, sys, time
    import torch
    from pathlib import Path
    from minifast.tensorfile import read_tensors, write_atomic
    folder, n = Path(sys.argv[1]), int(sys.argv[2])
    draw, path, lost = random.Random(0), folder / 'a.pth', 0
    last = -1
    for round in range(n):
        ends = os.pipe()
        child = os.fork()
        if child == 0:
            step = last
            while True:
                step += 1
                write_atomic(path, {'step': step, 'x': torch.full((200_000,), step)})
                os.write(ends[1], b'.')
        while last < 0 and not path.exists():
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ends[1])
        finished = last + len(os.read(ends[0], 1 << 16))
        os.close(ends[0])
        found = read_tensors(path)
        assert torch.equal(found['x'], torch.full((200_000,), found['step'])), 'a mixture'
        assert finished <= found['step'] <= finished + 1, (finished, found['step'])
        last = found['step']
        del found
    print(n, [p.name for p in folder.iterdir() if not (p.name.startswith('.a.pth.') and p.suffix == '.tmp')])
''')


def killed_saves(folder, n):
    done = subprocess.run([sys.executable, '-c', KILLED_SAVES, folder, str(n)], cwd=ROOT, capture_output=True,
                          text=True)
    assert done.stdout == f"{n} ['a.pth']\n", done.stdout + done.stderr


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_a_kill_inside_a_save_leaves_the_old_file_or_the_new(tmp_path):
    """SIGKILL at random moments of a save: the last finished one loads, whole; temporary files alone are beside it."""
    killed_saves(tmp_path, 15)


# ---------------------------------------------------------------- models and optimizers

@pytest.mark.parametrize('opt_func', [Adam, SGD, lambda ps, lr: Lookahead(SGD(ps, lr, mom=0.9)),
                                      lambda ps, lr: OptimWrapper(ps, torch.optim.AdamW, lr=lr)],
                         ids=['adam', 'sgd', 'lookahead', 'torch'])
def test_model_and_optimizer_come_back_and_train_on_alike(tmp_path, opt_func):
    """After a load, the same batch gives the same step, bit for bit."""
    model, opt = trained(opt_func)
    save_model(tmp_path / 'a.pth', model, opt)
    twin = make_model()
    twin_opt = opt_func(list(twin.parameters()), lr=0.5)
    load_model(tmp_path / 'a.pth', twin, twin_opt)
    x = torch.randn(8, 4)
    for m, o in ((model, opt), (twin, twin_opt)):
        m(x).square().mean().backward()
        o.step()
        o.zero_grad()
    assert same(dict(model.state_dict()), dict(twin.state_dict()))
    assert same(opt.state_dict(), twin_opt.state_dict())


@pytest.mark.parametrize('opt_func', [Adam, lambda ps, lr: OptimWrapper(ps, torch.optim.AdamW, lr=lr, fused=True),
                                      lambda ps, lr: Lookahead(Adam(ps, lr))], ids=['adam', 'torch', 'lookahead'])
@pytest.mark.parametrize('saved, loaded', [(torch.channels_last, torch.contiguous_format),
                                           (torch.contiguous_format, torch.channels_last)], ids=['to plain', 'to last'])
def test_a_model_in_another_memory_format_loads_and_trains(tmp_path, opt_func, saved, loaded):
    """Weights and averages saved in one memory format go into a model of the other, and the next step works."""
    def make(memory_format):
        torch.manual_seed(0)
        model = nn.Conv2d(3, 4, 3).to(memory_format=memory_format)
        return model, opt_func(list(model.parameters()), lr=0.1)

    def step(model, opt):
        model(torch.ones(1, 3, 5, 5)).square().mean().backward()
        opt.step()
        opt.zero_grad()
    model, opt = make(saved)
    step(model, opt)
    save_model(tmp_path / 'a.pth', model, opt)
    twin, twin_opt = make(loaded)
    load_model(tmp_path / 'a.pth', twin, twin_opt)
    step(model, opt)
    step(twin, twin_opt)
    torch.testing.assert_close(model.weight, twin.weight)


@pytest.mark.parametrize('opt_func', [Adam, lambda ps, lr: OptimWrapper(ps, torch.optim.AdamW, lr=lr),
                                      lambda ps, lr: Lookahead(Adam(ps, lr))], ids=['adam', 'torch', 'lookahead'])
def test_what_an_optimizer_loads_lies_in_its_own_memory(tmp_path, opt_func):
    """Where it has kept its averages before, so that no file stays mapped and nobody who holds them loses them."""
    def averages(opt):
        held = getattr(opt, 'opt', opt).state
        return {(i, name): value for i, p in enumerate(model.parameters()) for name, value in held[p].items()
                if isinstance(value, torch.Tensor) and value.ndim}
    model, opt = trained(opt_func)
    save_model(tmp_path / 'a.pth', model, opt)
    wanted = copied(averages(opt))
    before = averages(opt)
    for value in before.values():
        value.zero_()
    load_model(tmp_path / 'a.pth', model, opt)
    found = averages(opt)
    assert len(found) >= 12 and same(wanted, found)
    assert all(found[key].data_ptr() == value.data_ptr() for key, value in before.items())


def test_without_an_optimizer_the_file_is_a_plain_state_dict(tmp_path):
    """`with_opt=False` writes the state dict alone; loading it without saying so warns about the fresh optimizer."""
    model, opt = trained()
    save_model(tmp_path / 'a.pth', model, opt, with_opt=False)
    assert list(torch.load(tmp_path / 'a.pth', weights_only=True)) == list(model.state_dict())
    load_model(tmp_path / 'a.pth', make_model(), None, with_opt=False)
    with pytest.warns(UserWarning, match='holds no optimizer state'):
        load_model(tmp_path / 'a.pth', *trained())


def test_a_file_saved_by_fastai_loads_with_its_optimizer():
    """fastai's `learn.save` after a schedule (its lists and numpy numbers inside) is read as data."""
    model = make_model()
    opt = Adam(list(model.parameters()), lr=0.1)
    load_model(ROOT / 'tests' / 'data' / 'fastai_saved.pth', model, opt)
    assert opt.hypers[0]['lr'] == pytest.approx(0.00075, rel=1e-3) and opt.hypers[0]['wd'] == 0.01
    assert all(state['step'] == 2 for _, _, state, _ in opt.all_params())
    model(torch.randn(8, 4)).square().mean().backward()
    opt.step()


def change(name, value):
    def _change(state):
        state['model'][name] = value(state['model'][name])
    return _change


def change_opt(func):
    def _change(state):
        func(state['opt'])
    return _change


def set_state(name, value):
    def _set(opt):
        opt['state'][0][name] = value(opt['state'][0][name])
    return change_opt(_set)


HOSTILE_TENSORS = {
    'missing': (lambda s: s['model'].pop('0.weight'), "1 of its 9 weights are missing: '0.weight'"),
    'extra': (lambda s: s['model'].update(more=torch.ones(1)), "1 are unknown to it: 'more'"),
    'other model': (lambda s: s.update(model=nn.Linear(2, 2).state_dict()), 'are missing'),
    'wrapped': (lambda s: s.update(model=OrderedDict((f'module.{k}', v) for k, v in s['model'].items())),
                'DataParallel'),
    'shape': (change('2.bias', lambda t: torch.ones(5)), r'\[5\], the model has \[2\]'),
    'transposed': (change('0.weight', lambda t: t.T), r'\[4, 3\], the model has \[3, 4\]'),
    'no axis': (change('2.bias', lambda t: torch.tensor(1.)), r'has the shape \[\]'),
    'integers': (change('2.bias', lambda t: t.long()), 'torch.int64, the model torch.float32'),
    'complex': (change('2.bias', lambda t: t.to(torch.complex64)), 'torch.complex64'),
    'no tensor': (change('2.bias', lambda t: [1., 2.]), 'is a list, not a tensor'),
    'negative variance': (change('1.running_var', lambda t: -t), 'running_var is negative'),
    'negative count': (change('1.num_batches_tracked', lambda t: t - 100), 'num_batches_tracked is negative'),
    'opt: state of none': (change_opt(lambda o: o['state'].update({99: o['state'][0]})), 'state for'),
    'opt: groups': (change_opt(lambda o: o['param_groups'].append(dict(o['param_groups'][0]))), '2 parameter groups'),
    'opt: parameters': (change_opt(lambda o: o['param_groups'][0]['params'].append(9)), 'has 7 parameters, this one 6'),
    'opt: shape': (set_state('grad_avg', lambda t: t[:1]), "'grad_avg' of parameter 0 has the shape"),
    'opt: negative': (set_state('sqr_avg', lambda t: t - 1e3), 'is negative, which no training makes'),
    'opt: rate': (change_opt(lambda o: o['param_groups'][0].update(lr=float('nan'))), "'lr' of group 0 is nan"),
    'opt: negative rate': (change_opt(lambda o: o['param_groups'][0].update(lr=-1.)), "'lr' of group 0 is -1"),
    'opt: malformed': (lambda s: s.update(opt={'state': 3}), 'no optimizer state that could be read'),
    'opt: no state': (change_opt(lambda o: o.pop('state')), 'no optimizer state that could be read'),
    'opt: no groups': (change_opt(lambda o: o.pop('param_groups')), 'no optimizer state that could be read'),
    'opt: a number': (lambda s: s.update(opt=3), 'no optimizer state that could be read'),
    'opt: nothing': (lambda s: s.update(opt=None), 'no optimizer state that could be read'),
    'opt: a list': (lambda s: s.update(opt=[1, 2]), 'no optimizer state'),
}


@pytest.mark.tally
@pytest.mark.parametrize('kind', HOSTILE_TENSORS)
def test_tensors_that_do_not_fit_are_refused_before_anything_changes(tmp_path, kind):
    """Another model's weights, impossible values, an optimizer that does not fit: an error with the place and a way
    out, and model and optimizer are as before."""
    func, message = HOSTILE_TENSORS[kind]
    model, opt = trained()
    save_model(tmp_path / 'a.pth', model, opt)
    state = copied(read_tensors(tmp_path / 'a.pth'))
    func(state)
    write_atomic(tmp_path / 'a.pth', state)
    other, other_opt = trained(SGD), None
    model, opt = other[0], Adam(list(other[0].parameters()), lr=0.3)
    before, before_opt = copied(dict(model.state_dict())), copied(opt.state_dict())
    with pytest.raises(ValueError, match=message) as caught:
        load_model(tmp_path / 'a.pth', model, opt)
    assert 'a.pth' in str(caught.value) and other_opt is None
    assert same(before, dict(model.state_dict())) and same(before_opt, opt.state_dict())


@pytest.mark.tally
@pytest.mark.parametrize('func, message', [
    (change('0.weight', lambda t: t * float('nan')), '0.weight has values that are not finite'),
    (change('0.weight', lambda t: t / 0), '0.weight has values that are not finite'),
    (change('1.running_mean', lambda t: t * float('nan')), 'running_mean has values that are not finite'),
    (change('0.weight', lambda t: t.half()), '0.weight is torch.float16 in the file'),
    (change('0.weight', lambda t: t.double()), '0.weight is torch.float64 in the file'),
    (set_state('grad_avg', lambda t: t * float('nan')), 'grad_avg of the optimizer for parameter 0')],
    ids=['nan', 'inf', 'nan in batchnorm', 'half', 'double', 'nan in optimizer'])
def test_tensors_that_are_suspicious_are_named_in_a_warning(tmp_path, func, message):
    """What fits and may be meant, and is more likely a mistake, is loaded and named."""
    model, opt = trained()
    save_model(tmp_path / 'a.pth', model, opt)
    state = copied(read_tensors(tmp_path / 'a.pth'))
    func(state)
    write_atomic(tmp_path / 'a.pth', state)
    with pytest.warns(UserWarning, match=message):
        load_model(tmp_path / 'a.pth', model, opt)


def test_not_strict_takes_what_fits(tmp_path):
    """Missing and unknown names pass with strict=False; another shape never does."""
    model, _ = trained()
    save_model(tmp_path / 'a.pth', model, None)
    bigger = nn.Sequential(*make_model(), nn.Linear(2, 2))
    load_model(tmp_path / 'a.pth', bigger, None, with_opt=False, strict=False)
    assert torch.equal(bigger[0].weight, model[0].weight)
    with pytest.raises(ValueError, match='another number of outputs'):
        load_model(tmp_path / 'a.pth', make_model(n_out=7), None, with_opt=False, strict=False)


def test_a_module_that_refuses_its_state_is_told_with_the_file(tmp_path):
    """What a module of the user's says of its extra state comes behind the file's name."""
    class Refuses(nn.Linear):
        def get_extra_state(self):
            return {'n': 3}

        def set_extra_state(self, state):
            raise TypeError('n of now is 4')
    model = Refuses(4, 2)
    save_model(tmp_path / 'a.pth', model, None)
    file = re.escape(str(tmp_path / 'a.pth'))
    with pytest.raises(ValueError, match=f'^{file} does not fit Refuses: .*n of now is 4'):
        load_model(tmp_path / 'a.pth', model, None, with_opt=False)


def test_weights_that_were_given_are_not_those_that_are_filled():
    """Whatever the model does to its tensors afterwards, the state that filled them stays; sparse buffers, too."""
    class Net(nn.Module):
        def __init__(self, value):
            super().__init__()
            self.w = nn.Parameter(torch.full((3,), value))
            self.register_buffer('sparse', (torch.eye(3) * value).to_sparse())
    model, state = Net(1.), Net(2.).state_dict()
    load_weights(model, state, 'a.pth')
    assert torch.equal(model.sparse.to_dense(), torch.eye(3) * 2) and torch.equal(model.w, state['w'])
    with torch.no_grad():
        model.sparse.mul_(5), model.w.mul_(5)
    assert torch.equal(state['sparse'].to_dense(), torch.eye(3) * 2) and state['w'].tolist() == [2.] * 3


# ---------------------------------------------------------------- no code, anywhere

def forbidden(tree):
    """Calls in a syntax tree that could run what a file says."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == 'weights_only' and not (
                isinstance(node.value, ast.Constant) and node.value.value is True):
            yield node.value.lineno, 'weights_only'
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in ('eval', 'exec', 'compile', '__import__', 'pickle.load', 'pickle.loads', 'cloudpickle.loads',
                        'joblib.load', 'yaml.load', 'yaml.unsafe_load', 'yaml.full_load', 'marshal.loads', 'dill.load',
                        'pickle.Unpickler', 'pd.read_pickle', 'shelve.open', 'os.system', 'runpy.run_path'):
                yield node.lineno, name
            keywords = {k.arg for k in node.keywords}
            if name in ('torch.load', 'torch.hub.load_state_dict_from_url') and 'weights_only' not in keywords:
                yield node.lineno, f'{name} without weights_only=True'
            if name in ('np.load', 'numpy.load') and 'allow_pickle' in keywords:
                yield node.lineno, 'allow_pickle'
            if name == 'torch.hub.load':
                yield node.lineno, name


def test_no_syntax_tree_of_the_package_unpickles_or_evaluates():
    """No `pickle.load`, no `weights_only=False`, no `eval`, no unsafe YAML, on any path of the package."""
    found = [f'{path.relative_to(ROOT)}:{line}: {what}' for path in (ROOT / 'minifast').rglob('*.py')
             for line, what in forbidden(ast.parse(path.read_text(encoding='utf-8')))]
    assert not found, '\n'.join(found)


def test_the_search_for_forbidden_calls_finds_them():
    """The law above is not true for want of looking."""
    for code in ('eval(x)', 'torch.load(f)', 'torch.load(f, weights_only=False)', 'pickle.load(f)',
                 'np.load(f, allow_pickle=True)'):
        assert list(forbidden(ast.parse(code))), code


def test_files_with_a_compressed_record_are_refused(tmp_path):
    """A record that may unpack to any size (a zip bomb) is not unpacked."""
    torch.save({'x': torch.zeros(1000)}, tmp_path / 'a.pth')
    with zipfile.ZipFile(tmp_path / 'a.pth') as old, zipfile.ZipFile(tmp_path / 'b.pth', 'w',
                                                                     zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    with pytest.raises(UnsafeFileError, match='compressed'):
        read_tensors(tmp_path / 'b.pth')




# ---------------------------------------------------------------- the long versions

@pytest.mark.faults
def test_two_hundred_kills_inside_a_save(tmp_path, counted):
    """200 of 200: the old file or the new, of one piece, nothing left over."""
    killed_saves(tmp_path, 200)
    counted(200, 200)


@pytest.mark.faults
def test_a_thousand_flipped_bits(tmp_path, counted):
    """1,000 flipped bits, 200 cut ends, 200 zeroed blocks: none loads."""
    model, opt = trained()
    save_model(tmp_path / 'a.pth', model, opt)
    loaded, n = loaded_silently(tmp_path / 'b.pth', (tmp_path / 'a.pth').read_bytes(), 1000, 200, 200)
    counted(n - len(loaded), n)
    assert not loaded and n == 1400


def test_a_learner_saves_and_loads_as_much_as_it_is_told(tmp_path):
    """The weights alone or with the optimizer; other layers only where it need not be strict."""
    learn = learner(path=tmp_path)
    learn.fit(1)
    weights_only, whole = learn.save('weights', with_opt=False), learn.save('whole')
    assert read_tensors(weights_only).keys() == learn.model.state_dict().keys()
    assert {'model', 'opt'} <= read_tensors(whole).keys()
    other = learner(path=tmp_path, model=nn.Sequential(*learner().model, nn.Linear(4, 4)))
    with pytest.raises((ValueError, RuntimeError)):
        other.load('weights', with_opt=False)
    other.load('weights', with_opt=False, strict=False)
    assert torch.equal(other.model[1].weight, learn.model[1].weight)


def test_weights_are_read_to_where_the_model_is_whatever_device_is_told(tmp_path):
    """As old scripts tell one; the optimizer's numbers lie beside them, and the learner trains on."""
    learn, other = learner(path=tmp_path), learner(path=tmp_path)
    learn.fit(1)
    learn.save('a')
    assert other.load('a', device='meta') is other
    assert all(torch.equal(p, q) for p, q in zip(learn.model.parameters(), other.model.parameters(), strict=True))
    other.fit(1)
    assert {p.device.type for p in other.model.parameters()} == {'cpu'}


def test_a_state_of_groups_without_parameters_is_refused():
    """Of whatever number: no group says whose it is."""
    opt = torch.optim.SGD(make_model().parameters(), .1, momentum=.9)
    for number in (0, 3, 99):
        state = {'param_groups': [{'lr': .1}], 'state': {number: {'momentum_buffer': torch.zeros(3, 4)}}}
        with pytest.raises(ValueError, match=f"x.pth: its optimizer has a state for 'number {number}', this one has 6"):
            check_opt_state(opt, state, 'x.pth')


@pytest.mark.parametrize('in_file, asked, has_opt, told', [
    (True, True, True, False), (True, True, False, False), (True, False, True, False), (False, True, True, True),
    (False, True, False, True), (False, False, True, False)])
def test_of_a_file_as_much_is_loaded_as_it_has_and_is_wanted(tmp_path, in_file, asked, has_opt, told):
    """An optimizer that would start anew is told, but where nobody asked for its state."""
    model, opt = trained()
    save_model(tmp_path / 'a.pth', model, opt if in_file else None)
    twin, twin_opt = make_model(), None
    if has_opt:
        twin_opt = Adam(list(twin.parameters()), lr=.5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        load_model(tmp_path / 'a.pth', twin, twin_opt, asked, device='cpu')
    said = f'{tmp_path / "a.pth"} holds no optimizer state'
    assert [str(w.message).startswith(said) for w in caught] == [True] * told
    assert same(dict(twin.state_dict()), dict(model.state_dict()))
    assert not has_opt or (twin_opt.hypers[0]['lr'] == .1) is (in_file and asked)


def test_what_is_no_state_of_weights_is_refused(tmp_path):
    """A list; a model of that name that is none is a weight like another."""
    for state, says in (([1], 'holds a list, not the weights of a model'),
                        ({'model': 1, 'opt': 2}, 'does not fit this'),
                        ({'model': {}, 'opt': 2}, '6 of its 6 weights are missing|are missing')):
        write_atomic(tmp_path / 'a.pth', state)
        with pytest.raises(ValueError, match=f'^{re.escape(str(tmp_path))}/a.pth {says}'):
            load_model(tmp_path / 'a.pth', make_model(), None)
    with pytest.raises(ValueError, match='^x holds a list where the weights of a model should be'):
        room.check_model_state(make_model(), [1], 'x')


def test_the_first_process_writes_the_file_of_a_whole_model(tmp_path, monkeypatch):
    """Of several it alone."""
    monkeypatch.setattr(room, 'rank_distrib', lambda: 1)
    save_model(tmp_path / 'a.pth', *trained())
    assert not list(tmp_path.iterdir())


KINDS = {'float': torch.float32, 'half': torch.float16, 'int': torch.int64, 'byte': torch.uint8, 'bool': torch.bool,
         'complex': torch.complex64, 'float8': torch.float8_e4m3fn}


@pytest.mark.parametrize('theirs, ours, fits', [
    ('float', 'float', True), ('half', 'float', True), ('float', 'half', True), ('int', 'byte', True),
    ('float8', 'float', True), ('bool', 'int', True), ('int', 'float', False), ('float', 'int', False),
    ('complex', 'float', False), ('float', 'complex', False), ('complex', 'complex', True), ('complex', 'int', False)])
def test_numbers_of_one_kind_go_into_numbers_of_its_family(theirs, ours, fits):
    """Which torch can convert and which stay what they are; a layout is never another."""
    a, b = torch.ones(2, 2).to(KINDS[theirs]), torch.ones(2, 2).to(KINDS[ours])
    assert room._convertible(a, b) is fits
    sparse = torch.eye(2).to_sparse()
    assert not room._convertible(sparse, torch.eye(2)) and not room._convertible(torch.eye(2), sparse)
    assert room._convertible(sparse, sparse)


def test_kinds_of_numbers_are_named_with_a_layout_that_is_not_the_usual():
    """As an error says them."""
    assert room._kind(torch.ones(1)) == 'torch.float32'
    assert room._kind(torch.eye(2).to_sparse()) == 'torch.float32 in the layout torch.sparse_coo'


NAN = float('nan')


@pytest.mark.parametrize('x, finite, negative', [
    (torch.tensor([1., 2.]), True, False), (torch.tensor([1., NAN]), False, False),
    (torch.tensor([-1., 2.]), True, True),
    (torch.full((4,), 3e38), True, False), (torch.full((4,), -3e38), True, True), (torch.tensor([-0.]), True, False),
    (torch.tensor([-float('inf')]), False, True), (torch.tensor([3, -2]), True, True), (torch.tensor([3]), True, False),
    (torch.tensor([250], dtype=torch.uint8), True, False), (torch.zeros(0), True, False),
    (torch.tensor([1 + 2j]), True, False), (torch.tensor([1 - 2j]), True, True),
    (torch.tensor([complex(1, NAN)]), False, False),
    (torch.tensor([1 - 2j]).conj(), True, False), (torch.tensor([[0., -1.], [0, 0]]).to_sparse(), True, True),
    (torch.tensor([[0., NAN], [0, 0]]).to_sparse(), False, False),
    (torch.tensor([[0., -1.], [0, 0]]).to_sparse().coalesce(), True, True),
    (torch.tensor([1., -2.]).to(torch.float8_e4m3fn), True, True),
    (torch.tensor([1., NAN]).to(torch.float8_e4m3fn), False, False),
    (torch.tensor([1.]).half(), True, False), (torch.tensor([True]), True, False),
    (torch.ones(2, dtype=torch.uint8).view(torch.bits8), True, False)])
def test_numbers_of_every_kind_are_looked_at(x, finite, negative):
    """Whether all are finite, whether any is below nothing; a sum that overflows is no sign of it."""
    assert room._finite(x) is finite
    if not x.isnan().any() if x.layout is torch.strided and x.dtype.itemsize > 1 else finite:
        assert room._negative(x) is negative


def test_tensors_without_room_get_some_before_they_are_filled():
    """One number that is seen many times, and sparse buffers with fewer places; others keep their memory."""
    model = nn.Module()
    model.wide, model.one = nn.Parameter(torch.zeros(1).expand(3)), nn.Parameter(torch.zeros(1).expand(1))
    model.plain = nn.Parameter(torch.zeros(3, 2))
    model.register_buffer('sparse', torch.zeros(3, 3).to_sparse())
    model.register_buffer('none', None)
    model.inner = nn.Module()
    model.inner.register_buffer('sparse', torch.zeros(2, 2).to_sparse().double())
    model.lazy = nn.LazyLinear(2)
    plain, own = model.plain.data_ptr(), model.sparse
    state = {'sparse': torch.eye(3).to_sparse(), 'inner.sparse': torch.eye(2).to_sparse(), 'none': torch.ones(1)}
    make_room(model, state)
    assert model.wide.stride() == (1,) and model.plain.data_ptr() == plain
    assert model.sparse is not own and model.sparse._nnz() == 3
    assert model.inner.sparse._nnz() == 2 and model.inner.sparse.dtype == torch.float64
    kept = model.sparse
    make_room(model, {'sparse': torch.eye(3)})
    assert model.sparse is kept  # of another layout: whoever loads it refuses it
    state['sparse'].mul_(5)
    assert model.sparse.to_dense().sum() == 3


class Tied(torch.optim.SGD):
    """Keeps one tensor under two names, a list, and something for a parameter of no group."""


def test_the_state_of_an_optimizer_keeps_what_it_shares_and_what_it_has_beside(tmp_path):
    """A tensor of two names stays one; lists are copies; what is kept for parameters of no group stays."""
    p, other = nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(1))
    opt = Tied([p], .1)
    average, rows, empty = torch.ones(2, 3), [torch.ones(1)], opt.state_dict()
    opt.state[other]['seen'] = 3
    state = {**empty, 'state': {0: {'a': average, 'b': average, 'rows': rows, 'n': 4}}}
    load_opt_state(opt, state, 'file')
    held = opt.state[p]
    assert held['a'] is held['b'] is not average and held['a'].tolist() == average.tolist() and held['n'] == 4
    assert held['rows'][0] is not rows[0] and held['rows'][0].tolist() == [1] and opt.state[other] == {'seen': 3}
    own = held['a']
    load_opt_state(opt, {**empty, 'state': {0: {'a': torch.zeros(2, 3)}}}, 'file')
    assert opt.state[p]['a'] is own and own.sum() == 0
    with pytest.raises(ValueError, match='^file does not fit Tied: '):
        load_opt_state(opt, {'state': {}, 'param_groups': []}, 'file')


@pytest.mark.parametrize('own, used', [
    (lambda: torch.zeros(2, 3), True), (lambda: torch.zeros(3, 2), False), (lambda: torch.zeros(3, 2).T, False),
    (lambda: torch.zeros(2, 3).double(), False), (lambda: torch.zeros(2, 3, device='meta'), False),
    (lambda: 3, False), (lambda: None, False)])
def test_what_is_read_goes_into_memory_that_is_as_it_has_to_be(own, used):
    """Of its shape, order, kind and place; else into new memory, laid out as the weight's."""
    own, value = own(), torch.arange(6.).reshape(2, 3)
    p = nn.Parameter(torch.zeros(2, 3))
    found = room._placed(value, p, own)
    assert (found is own) is used and torch.equal(found, value) and not found.requires_grad
    assert found is not value and found.stride() == p.stride()


def test_what_has_no_plain_layout_goes_where_the_weight_is():
    """As a copy, without a look at its memory."""
    value = torch.eye(3).to_sparse()
    found = room._placed(value, nn.Parameter(torch.zeros(3, 3, device='meta')), None)
    assert found.device.type == 'meta' and found.layout is torch.sparse_coo
    here = room._placed(value, nn.Parameter(torch.zeros(3, 3)), None)
    assert here is not value and torch.equal(here.to_dense(), torch.eye(3))
    last = nn.Parameter(torch.zeros(2, 3, 4, 5).contiguous(memory_format=torch.channels_last))
    assert room._placed(torch.ones(2, 3, 4, 5), last, None).stride() == last.stride()
    assert room._placed(torch.ones(2, 3), last, None).stride() == (3, 1)


def test_batch_norm_is_looked_at_by_its_name():
    """Wherever it lies, the model itself included."""
    for model, name in ((nn.BatchNorm1d(2), 'running_var'), (nn.Sequential(nn.BatchNorm1d(2)), '0.running_var')):
        state = model.state_dict()
        state[name] = torch.tensor([1., -1.])
        with pytest.raises(ValueError, match=f'{name} is negative, which no training can make'):
            room.check_model_state(model, state, 'x')
    other = nn.Module()
    other.register_buffer('running_var', torch.ones(2))
    room.check_model_state(other, {'running_var': torch.tensor([1., -1.])}, 'x')


def test_the_state_of_an_optimizer_is_known_by_the_places_of_its_parameters():
    """Whatever numbers its groups give them; what is refused is named by its place."""
    ps = [nn.Parameter(torch.zeros(n)) for n in (1, 2, 3)]
    opt = torch.optim.SGD([{'params': ps[:1]}, {'params': ps[1:]}], .1)
    groups = [{'params': [7], 'lr': .1}, {'params': [5, 9], 'lr': .1}]
    check_opt_state(opt, {'param_groups': groups, 'state': {9: {'momentum_buffer': torch.zeros(3)},
                                                            7: {'momentum_buffer': torch.zeros(1)}}}, 'x')
    for number, n, place in ((9, 2, 2), (7, 3, 0), (5, 1, 1)):
        with pytest.raises(ValueError, match=rf"x: 'momentum_buffer' of parameter {place} has the shape \[{n}\], the "):
            check_opt_state(opt, {'param_groups': groups, 'state': {number: {'momentum_buffer': torch.zeros(n)}}}, 'x')
    with pytest.raises(ValueError, match='group 1 of its optimizer has 1 parameters, this one 2'):
        check_opt_state(opt, {'param_groups': [groups[0], {'params': [1]}], 'state': {}}, 'x')
    with pytest.raises(ValueError, match='the parameter groups of its optimizer are malformed'):
        check_opt_state(opt, {'param_groups': [1, 2], 'state': {}}, 'x')
    for name, value, bad in (('eps', -1., True), ('mom', -1., False), ('mom', float('inf'), True), ('lr', -1, False)):
        state = {'hypers': [{}, {name: value}], 'state': [{}, {}, {'x': 1}]}
        with pytest.raises(ValueError, match=f"the hyper-parameter '{name}' of group 1 is {value}") if bad else \
                warnings.catch_warnings():
            check_opt_state(opt, state, 'x')
    shared = torch.full((1,), NAN)
    with pytest.warns(UserWarning, match="^x: 'a of the optimizer for parameter 0 has values that are not finite'$"):
        check_opt_state(opt, {'hypers': [{}, {}], 'state': [{'a': shared, 'b': shared}]}, 'x')


def test_a_wrapped_models_names_say_what_they_were_saved_from():
    """Of DataParallel and of torch.compile, each its own."""
    model = nn.Linear(1, 1)
    for prefix, told in (('module.', 'a DataParallel wrapper'), ('_orig_mod.', 'what torch.compile returned')):
        with pytest.raises(ValueError, match=f"2 of its 2 weights are missing: 'weight', 'bias'; 2 are unknown to it: "
                                             f"'{prefix}weight', '{prefix}bias'; the names start with '{prefix}': they "
                                             f'were saved from inside {told}. Build the model that was saved'):
            room.check_model_state(model, {prefix + k: v for k, v in model.state_dict().items()}, 'x')
    with pytest.raises(ValueError) as caught:
        room.check_model_state(model, {'weight': torch.ones(1, 1)}, 'x')
    assert 'unknown' not in str(caught.value) and 'names start' not in str(caught.value)
    room.check_model_state(model, {'weight': torch.ones(1, 1), 'more': 3}, 'x', strict=False)
