"""Laws: whatever a file holds, no public loader runs any of it, hangs, or eats the memory."""
import itertools
import random
import resource
import subprocess
import sys
import warnings
import zipfile

import pytest
import torch
from torch import nn

from minifast.callback.checkpoint import newest_checkpoint
from minifast.checkpoint import load_model
from minifast.data.core import DataLoaders
from minifast.learner import Learner, load_learner
from minifast.optimizer import Adam
from minifast.tensorfile import DamagedFileError, UnsafeFileError, read_tensors, write_atomic
from minifast.vision.models.weights import read_weights
from tests.hostile.make import CONTAINERS, hostile_files, payloads, sealed, torch_zip

REFUSALS = (ValueError, OSError, TypeError)  # UnsafeFileError and DamagedFileError are ValueErrors


def load_into_a_model(path):
    model = nn.Linear(2, 1)
    load_model(path, model, Adam(list(model.parameters()), lr=0.1))


def resume_from(path):
    folder = path.parent / 'as_checkpoint'
    folder.mkdir(exist_ok=True)
    (folder / 'checkpoint-000001.pth').write_bytes(path.read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        newest_checkpoint(folder)


def read_a_stream(path):
    with open(path, 'rb') as stream:
        read_tensors(stream)


def load_into_a_learner(path):
    data = [(torch.zeros(2, 2), torch.zeros(2, dtype=torch.long))]
    learn = Learner(DataLoaders(data, data), nn.Linear(2, 1), loss_func=nn.CrossEntropyLoss(), path=path.parent,
                    model_dir='.')
    learn.load(path.stem)


LOADERS = {'read_tensors': read_tensors, 'a stream': read_a_stream, 'load_model': load_into_a_model,
           'resume': resume_from, 'learn.load': load_into_a_learner, 'load_learner': load_learner,
           'weights=FILE': read_weights}


@pytest.mark.parametrize('loader', LOADERS)
def test_no_hostile_file_runs_or_loads(tmp_path, loader):
    """Every hostile file through every loader: refused with one clear error that names the file; no marker appears."""
    marker = tmp_path / 'marker'
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = 0
    for name, path in hostile_files(tmp_path, marker):
        with pytest.raises(REFUSALS) as caught:
            LOADERS[loader](path)
        assert not marker.exists(), f'{name} ran'
        message = str(caught.value)
        assert len(message) > 20 and (path.name in message or 'as_checkpoint' in message or loader == 'a stream'), (
            name, message)
        refused += 1
        path.unlink()
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert refused >= 100
    assert grown_mib < 600


@pytest.mark.skipif(sys.platform == 'win32', reason='the payloads use a POSIX shell')
def test_the_payloads_are_live(tmp_path):
    """The law above is not true for want of poison: read as Python's pickle does, they run."""
    marker, script = tmp_path / 'marker', tmp_path / 'read.py'
    script.write_text('import pickle, sys; pickle.loads(open(sys.argv[1], "rb").read())')
    live, made = 0, payloads(marker)
    for name in ('system', 'popen', 'exec', 'open', 'protocol 4', 'posix by hand', 'inst opcode', 'fastai export'):
        marker.unlink(missing_ok=True)
        (tmp_path / 'payload').write_bytes(made[name])
        subprocess.run([sys.executable, '-S', script, tmp_path / 'payload'], capture_output=True)
        live += marker.exists()
    assert live >= 7


def test_what_torch_accepts_and_we_refuse_is_still_never_run(tmp_path):
    """Plain torch.load(weights_only=True) refuses the payloads as well; ours stands in front of it."""
    for i, payload in enumerate(payloads(tmp_path / 'marker').values()):
        path = tmp_path / f'{i}.pth'
        path.write_bytes(CONTAINERS['zip'](payload))
        try:
            torch.load(path, weights_only=True)
        except Exception:
            pass
        assert not (tmp_path / 'marker').exists()


# ---------------------------------------------------------------- mutants

def mutants(data, n, seed):
    """`n` copies with a few bytes of the index or the structure overwritten, cut, doubled or swapped."""
    draw = random.Random(seed)
    for _ in range(n):
        copy = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            place, kind = draw.randrange(len(copy)), draw.randrange(5)
            if kind == 0:
                copy[place] = draw.randrange(256)
            elif kind == 1:
                del copy[place:place + draw.randint(1, 30)]
            elif kind == 2:
                copy[place:place] = bytes(draw.randrange(256) for _ in range(draw.randint(1, 8)))
            elif kind == 3:
                other = draw.randrange(len(copy))
                copy[place:place + 8] = copy[other:other + 8]
            else:
                copy[place:place + 4] = draw.choice([b'\xff' * 4, bytes(4), b'\x7f\xff\xff\xff'])
        yield bytes(copy)


def resealed(data):
    """A zip with right checksums around an index that was tampered with: the guards behind the checksums must hold."""
    return sealed(torch_zip(data, {'0': bytes(48), '1': bytes(16)}))


def fuzz(folder, n):
    """How many mutants were read, refused, and anything else."""
    write_atomic(folder / 'whole.pth', {'model': nn.Linear(4, 3).state_dict(), 'opt': {'a': [1, 2.5, 'x', None, (3,)]}})
    whole, path = (folder / 'whole.pth').read_bytes(), folder / 'mutant.pth'
    with zipfile.ZipFile(folder / 'whole.pth') as archive:
        record = archive.getinfo('archive/data.pkl')
        with archive.open(record) as stream:
            stream._expected_crc = None  # the records of our files have none of their own
            index = stream.read()
    read, refused = 0, 0
    for copy in itertools.chain(mutants(whole, n // 2, 0), map(resealed, mutants(index, n // 2, 1))):
        path.write_bytes(copy)
        try:
            read_tensors(path)
            read += 1
        except (DamagedFileError, UnsafeFileError):
            refused += 1
    return read, refused


def test_mutants_of_a_file_are_read_or_refused_and_nothing_else(tmp_path):
    """A fuzzer over bytes and over the index behind right checksums: no crash, no hang, no other error."""
    assert fuzz(tmp_path, 1500)[1] > 1000


@pytest.mark.faults
def test_many_mutants_of_a_file_are_read_or_refused_and_nothing_else(tmp_path):
    """The same with 100,000 mutants."""
    assert fuzz(tmp_path, 100_000)[1] > 70_000
