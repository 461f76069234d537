"""Laws: whatever a file holds, no public loader runs any of it, hangs, or eats the memory."""
import io
import itertools
import json
import random
import resource
import subprocess
import sys
import warnings
import zipfile
from copy import deepcopy
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from minifast.callback.checkpoint import newest_checkpoint
from minifast.checkpoint import load_model
from minifast.data.core import DataLoaders
from minifast.data.load import DataLoader
from minifast.data.transform import Pipeline
from minifast.data.transforms import Normalize, ToTensor
from minifast.learner import Learner, load_learner
from minifast.losses import CrossEntropyLossFlat
from minifast.optimizer import Adam
from minifast.tensorfile import DamagedFileError, UnsafeFileError, read_tensors, write_atomic
from minifast.vision.augment import RandomResizedCrop, Resize, aug_transforms
from minifast.vision.core import BadImageError, OpenImage, PILImage, imagenet_stats
from minifast.vision.data import ImageDataLoaders
from minifast.vision.learner import vision_learner
from minifast.vision.models.weights import read_weights
from minifast.vision.models.xresnet import xresnet18
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


@pytest.mark.tally
@pytest.mark.parametrize('loader', LOADERS)
def test_no_hostile_file_runs_or_loads(tmp_path, loader, counted):
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
    counted(refused, refused)
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


# Something of each kind of JSON, and names that must not be followed
_ODD = [None, -1, 0, 1e308, 1e400, float('nan'), 2 ** 40, 10 ** 30, 10 ** 400, 3.5, True, '', '\0', '1', '\ud800', [],
        {}, [[[]]], [None], [1e400], {'a': [['x']]}, {'tensor': [[1], 2]}, {'user': []}, 'os.system', 'torch.hub.load',
        'minifast.callback.core.Callback', 'minifast.as_fastai.x', 'minifast.vision.widgets.x', 'timm.create_model',
        'torchvision.models.resnet81', 'minifast.data.load.os.system', {'class': 'os.system', 'kwargs': {}},
        {'function': 'minifast.data.external.untar_data'}]


def json_mutants(text, n, seed):
    """`n` texts in which values of the JSON are exchanged, left out or added; every fourth has spoilt characters."""
    draw, spoilt = random.Random(seed), mutants(text.encode(), n, seed)
    for number in range(n):
        if number % 4 == 0:
            yield next(spoilt).decode('utf-8', 'replace')
            continue
        tree = json.loads(text)
        for _ in range(draw.randint(1, 3)):
            at, keys = tree, list(tree)
            while keys:
                key = draw.choice(keys)
                if isinstance(at[key], (dict, list)) and at[key] and draw.random() < .8:
                    at = at[key]
                    keys = list(at) if isinstance(at, dict) else list(range(len(at)))
                    continue
                how = draw.randrange(3)
                if how == 0:
                    at[key] = deepcopy(draw.choice(_ODD))
                elif how == 1:
                    del at[key]
                elif isinstance(at, dict):
                    at['new'] = deepcopy(draw.choice(_ODD))
                else:
                    at.append(deepcopy(draw.choice(_ODD)))
                break
        yield json.dumps(tree)


class Means(nn.Module):
    """Mean colour to two classes."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return self.layer(x.mean((2, 3)))


def exports(folder):
    """Names and contents of exports of several kinds, and a function that makes the model which they need."""
    for i in range(8):
        (folder / 'ab'[i % 2]).mkdir(exist_ok=True)
        Image.fromarray(np.full((20, 24, 3), 30 * i, np.uint8)).save(folder / 'ab'[i % 2] / f'{i}.jpg')
    dls = ImageDataLoaders.from_folder(folder, valid_pct=.25, seed=0, item_tfms=Resize(16), bs=2, device='cpu',
                                       batch_tfms=[*aug_transforms(), Normalize.from_stats(*imagenet_stats)])
    pairs = [(torch.zeros(3, 4, 4), torch.tensor(0))] * 2
    plain = [torch.utils.data.DataLoader(pairs, batch_size=2) for _ in range(2)]
    weighted = CrossEntropyLossFlat(weight=torch.tensor([1., 2.]), label_smoothing=.1)
    learners = {'pictures': Learner(dls, Means(), CrossEntropyLossFlat(), path=folder),
                'plain': Learner(plain, Means(), weighted, path=folder),
                'recipe': vision_learner(plain, xresnet18, n_out=2, loss_func=nn.BCEWithLogitsLoss(), path=folder,
                                         pretrained=False, lin_ftrs=[8], y_range=(0, 1))}
    for name, learn in learners.items():
        yield name, read_tensors(learn.export(f'{name}.pkl')), Means if name != 'recipe' else lambda: None


def fuzz_exports(folder, n):
    """How many exports with another description were loaded or refused, nothing imported for it; anything else
    fails."""
    loaded = refused = 0
    for seed, (name, whole, model) in enumerate(exports(folder)):
        meta = json.loads(whole['meta'])
        # a model takes long to build: what is known to be right is left away, and the rest is changed
        text = json.dumps({**meta, 'made_with': {}} if name != 'recipe' else {'model': meta['model'], 'learner': {}})
        share = n // 10 if name != 'pictures' else n - 2 * (n // 10)
        for mutant in json_mutants(text, share, seed):
            if name == 'recipe':
                mutant = mutant[:-1] + f', "data": {json.dumps(meta["data"])}, "loss": {json.dumps(meta["loss"])}}}'
            before, finders = set(sys.modules), list(sys.meta_path)
            with patch('minifast.export.read_tensors', return_value={**whole, 'meta': mutant}), (
                    warnings.catch_warnings()):
                warnings.simplefilter('error')
                try:
                    learn = load_learner('mutant.pkl', model=model())
                except UnsafeFileError as error:
                    assert 'mutant.pkl' in str(error)
                    refused += 1
                except ValueError as error:
                    # an export without a recipe asks for the model
                    assert name == 'recipe' and 'which is not made by minifast' in str(error)
                    refused += 1
                else:
                    assert type(learn.model) is Means or name == 'recipe'
                    loaded += 1
            assert (set(sys.modules) == before or name == 'recipe') and sys.meta_path == finders
    return loaded, refused


def fuzz_pictures(folder, n):
    """How many pictures were opened or refused, alone and in a loader; anything else fails."""
    pixels, opened, refused = np.random.RandomState(0).randint(0, 255, (40, 48, 3), np.uint8), 0, 0
    tfms = [OpenImage(), RandomResizedCrop(16), ToTensor()]
    for suffix in ('.jpg', '.png', '.gif', '.bmp'):
        whole = io.BytesIO()
        Image.fromarray(pixels).save(whole, {'.jpg': 'jpeg'}.get(suffix, suffix[1:]))
        for number, copy in enumerate(mutants(whole.getvalue(), n // 4, 2)):
            path = folder / f'mutant{suffix}'
            path.write_bytes(copy)
            try:
                if number % 2:
                    PILImage.create(path)
                else:
                    x, = next(iter(DataLoader([(path,)], bs=1, after_item=Pipeline(tfms))))
                    assert x.shape == (1, 3, 16, 16)
                opened += 1
            except BadImageError as error:
                assert path.name in str(error)
                refused += 1
    return opened, refused


def test_mutants_of_a_file_are_read_or_refused_and_nothing_else(tmp_path):
    """A fuzzer over bytes and over the index behind right checksums: no crash, no hang, no other error."""
    assert fuzz(tmp_path, 1500)[1] > 1000


@pytest.mark.filterwarnings('ignore:.*load_learner.file, model=')  # which is what the law is not about
def test_mutants_of_exports_are_loaded_or_refused_and_nothing_else(tmp_path):
    """What describes the pipeline may say anything: it names transforms of ours or the file is refused."""
    loaded, refused = fuzz_exports(tmp_path, 400)
    assert loaded + refused == 400 and refused > 200


def test_mutants_of_pictures_are_opened_or_refused_and_nothing_else(tmp_path):
    """One error for whatever a decoder trips over, in loaders and by hand."""
    opened, refused = fuzz_pictures(tmp_path, 400)
    assert opened + refused == 400 and refused > 100


@pytest.mark.tally
def test_a_sharded_checkpoint_is_refused_and_its_pickle_not_read(tmp_path):
    """A folder of torch.distributed.checkpoint, whose `.metadata` is a pickle, in the place of a file."""
    from torch.distributed.checkpoint import save
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # that one process saves alone
        save({'weight': torch.zeros(3)}, checkpoint_id=tmp_path / 'sharded', no_dist=True)
    marker, folder = tmp_path / 'marker', tmp_path / 'sharded'
    dcp_to_torch_save(folder, tmp_path / 'one.pth')  # the way out that is named
    assert torch.equal(read_tensors(tmp_path / 'one.pth')['weight'], torch.zeros(3))
    for payload in payloads(marker).values():
        (folder / '.metadata').write_bytes(payload)
        for name in LOADERS.keys() - {'resume', 'a stream', 'learn.load'}:
            with pytest.raises(REFUSALS, match='dcp_to_torch_save|no weights file'):
                LOADERS[name](folder)
            with pytest.raises(REFUSALS, match='metadata'):
                LOADERS[name](folder / '.metadata')
        (tmp_path / 'c' / 'checkpoint-000001.pth').mkdir(parents=True, exist_ok=True)
        (tmp_path / 'c' / 'checkpoint-000001.pth' / '.metadata').write_bytes(payload)
        with warnings.catch_warnings(), pytest.raises(REFUSALS):
            warnings.simplefilter('ignore')
            newest_checkpoint(tmp_path / 'c')
        assert not marker.exists()


@pytest.mark.faults
@pytest.mark.filterwarnings('ignore:.*load_learner.file, model=')  # which is what the law is not about
@pytest.mark.parametrize('fuzzer, n', [(fuzz, 60_000), (fuzz_exports, 20_000), (fuzz_pictures, 20_000)],
                         ids=['checkpoints', 'exports', 'pictures'])
def test_many_mutants_are_read_or_refused_and_nothing_else(tmp_path, fuzzer, n, counted):
    """The same with 100,000 mutants in all."""
    read, refused = fuzzer(tmp_path, n)
    counted(read + refused, n)
    assert read + refused == n and refused > n // 4
