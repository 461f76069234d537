"""Laws: whatever a file holds, no public loader runs any of it, hangs, or eats the memory."""
import resource
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from minifast.callback.checkpoint import newest_checkpoint
from minifast.checkpoint import load_model
from minifast.optimizer import Adam
from minifast.tensorfile import read_tensors
from tests.hostile.make import CONTAINERS, hostile_files, payloads

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


LOADERS = {'read_tensors': read_tensors, 'a stream': read_a_stream, 'load_model': load_into_a_model,
           'resume': resume_from}


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
