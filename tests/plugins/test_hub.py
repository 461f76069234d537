"""A learner is published on the Hugging Face Hub and loaded from there, by our functions and by the Hub's own for
fastai; the Hub is a stand-in on loopback."""
from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import pytest
import torch
from hub_server import hub
from huggingface_hub import constants

import minifast
from minifast.hub import from_pretrained, model_card, push_to_hub
from minifast.metrics import accuracy
from minifast.tensorguard import UnsafeFileError
from minifast.test_utils import RegModel, synth_learner
from tests.gpu_learner import silent
from tests.small_learner import learner

pytestmark = pytest.mark.filterwarnings('ignore:.*load_learner.file, model=')  # the model is the tests' own
HERE = Path(__file__).resolve().parent


@pytest.fixture(autouse=True)
def server(stand_in):
    """The stand-in, asked nothing and empty."""
    stand_in.repos.clear()
    stand_in.private.clear()
    stand_in.asked.clear()
    return stand_in


@pytest.fixture(scope='module')
def stand_in(tmp_path_factory):
    """One for all; what is loaded is cached in a folder of its own."""
    with pytest.MonkeyPatch.context() as patch, hub() as server:
        cache = tmp_path_factory.mktemp('cache')
        patch.setattr(constants, 'HF_HUB_CACHE', str(cache))
        patch.setattr(constants, 'HF_HUB_DISABLE_XET', True)
        server.environ = {**os.environ, 'HF_ENDPOINT': server.url, 'HF_HOME': str(cache), 'HF_HUB_DISABLE_XET': '1',
                          'HF_TOKEN': 'hf_own', 'PYTHONPATH': os.pathsep.join([str(HERE.parents[1]), str(HERE)])}
        yield server


@pytest.fixture
def trained():
    """A small learner behind a fit."""
    learn = silent(synth_learner())
    learn.fit(1)
    return learn


def test_what_was_published_predicts_the_same(server, trained):
    """The file and the card are there, asked for with the token, and the learner comes back."""
    address = push_to_hub(trained, 'me/line', token='hf_secret', endpoint=server.url)
    assert address.startswith(f'{server.url}/me/line/commit/')
    assert server.repos['me/line'].keys() == {'README.md', 'model.pkl'}
    sent = [who for way, path, who in server.asked if path.endswith(('create', 'commit/main'))]
    assert sent == ['Bearer hf_secret'] * 2
    again, x = from_pretrained('me/line', endpoint=server.url, model=RegModel()), torch.rand(4, 1)
    assert torch.equal(again.model(x), trained.model(x))


@pytest.mark.parametrize('private', [True, False])
def test_a_repository_is_as_private_as_it_is_asked_for(private, server, trained):
    """When it is made."""
    push_to_hub(trained, 'me/new', private=private, token='hf_secret', endpoint=server.url)
    assert server.private == {'me/new': private}


def test_a_card_says_what_the_model_is_and_is_written_once(server, trained):
    """Its results as the table had them; one that somebody has written stays."""
    push_to_hub(trained, 'me/carded', token='hf_secret', endpoint=server.url)
    card = server.repos['me/carded']['README.md'].decode()
    _, loss = trained.recorder.values[-1]
    assert card == model_card(trained, 'me/carded')
    assert f'{loss:.4g} |' in card and '2 parameters' in card and "from_pretrained('me/carded')" in card
    server.repos['me/carded']['README.md'] = b'my own words'
    push_to_hub(trained, 'me/carded', token='hf_secret', endpoint=server.url)
    assert server.repos['me/carded']['README.md'] == b'my own words'


def test_a_card_of_a_learner_that_knows_little_leaves_out_what_it_does_not_know():
    """No fit, no classes: no table and no list."""
    card = model_card(silent(synth_learner()))
    assert '## Use' in card and '## Results' not in card and '## Classes' not in card


def test_a_card_names_the_classes():
    """As many as are read; the others are counted."""
    learn = learner()
    learn.dls.vocab = [f'class {i}' for i in range(60)]
    card = model_card(learn)
    assert '60: class 0, class 1, ' in card and card.count('class 49') == 1 and 'and 10 more' in card


@pytest.mark.parametrize('files, error, says', [
    ({'model.pkl': pickle.dumps(print)}, UnsafeFileError, 'pickle'),
    ({'README.md': b'nothing else'}, FileNotFoundError, 'me/other has no model.pkl.*there is README.md')])
def test_what_is_no_export_of_ours_is_refused(server, files, error, says):
    """A pickle, as fastai publishes, is not run; a repository without a model says what it has."""
    server.repos['me/other'] = files
    with pytest.raises(error, match=says):
        from_pretrained('me/other', endpoint=server.url)


def test_a_folder_is_as_good(trained, tmp_path):
    """As `from_pretrained_fastai` takes one."""
    trained.export(tmp_path / 'model.pkl')
    assert torch.equal(from_pretrained(tmp_path, model=RegModel()).model.a, trained.model.a)


def test_the_hubs_own_functions_for_fastai_publish_and_load(server, tmp_path):
    """Unedited, behind `import minifast.as_fastai`; and our function loads what they have published."""
    code = '''
        import minifast.as_fastai
        from fastai.vision.all import *
        from huggingface_hub import from_pretrained_fastai, push_to_hub_fastai
        from minifast.demo import write_digits
        pictures = write_digits('digits')
        dls = ImageDataLoaders.from_folder(pictures, valid_pct=.5, item_tfms=Resize(32), bs=8, num_workers=0)
        learn = vision_learner(dls, squeezenet1_1, pretrained=False)
        push_to_hub_fastai(learn, repo_id='me/digits', config={'size': 32})
        again, file = from_pretrained_fastai('me/digits'), dls.valid_ds.items[0]
        assert list(again.dls.vocab) == list('0123456789')
        assert torch.equal(again.predict(file)[2], learn.predict(file)[2])
        from minifast.hub import from_pretrained
        assert torch.equal(from_pretrained('me/digits').predict(file)[2], learn.predict(file)[2])
    '''
    done = subprocess.run([sys.executable, '-c', textwrap.dedent(code)], capture_output=True, text=True, cwd=tmp_path,
                          timeout=120, env=server.environ)
    assert done.returncode == 0, done.stderr[-3000:]
    assert server.repos['me/digits'].keys() >= {'README.md', 'config.json', 'model.pkl', 'pyproject.toml'}


class Api:
    """In the place of huggingface_hub: what it is asked for, and whether there is a card."""

    def __init__(self, has_card):
        self.has_card, self.asked = has_card, []

    def HfApi(self, **kwargs):
        self.asked.append(('HfApi', kwargs))
        return self

    def ModelCardData(self, **kwargs):
        self.asked.append(('card', kwargs))
        return types.SimpleNamespace(to_yaml=lambda: 'header')

    def create_repo(self, name, **kwargs):
        self.asked.append(('create', (name, kwargs)))
        return types.SimpleNamespace(repo_id=f'me/{name}')

    def file_exists(self, *args, **kwargs):
        self.asked.append(('exists', (args, kwargs)))
        return self.has_card

    def upload_folder(self, folder_path, **kwargs):
        self.asked.append(('upload', (sorted(os.listdir(folder_path)), kwargs)))
        return Path('address')

    def snapshot_download(self, *args, **kwargs):
        self.asked.append(('download', (args, kwargs)))
        return self.folder


@pytest.mark.parametrize('has_card', [True, False])
def test_what_is_asked_for_reaches_the_hub(has_card, trained, tmp_path, monkeypatch):
    """Message, branch, token and address; the name is the whole one that the Hub answers with."""
    api = Api(has_card)
    monkeypatch.setattr('minifast.hub._huggingface_hub', lambda: api)
    assert push_to_hub(trained, 'line', private=True, token='t', message='why', branch='b', endpoint='e') == 'address'
    told = dict(api.asked)
    assert told['HfApi'] == {'endpoint': 'e', 'token': 't'}
    assert told['create'] == ('line', {'private': True, 'exist_ok': True})
    assert told['exists'] == (('me/line', 'README.md'), {'revision': 'b'})
    assert told['upload'] == (['README.md'] * (not has_card) + ['model.pkl'], {
        'repo_id': 'me/line', 'commit_message': 'why', 'revision': 'b'})
    assert ('card' in told) is not has_card
    api.folder = tmp_path
    trained.export(tmp_path / 'model.pkl')
    assert from_pretrained('me/line', 'v1', token='t', endpoint='e', model=RegModel()).model.a == trained.model.a
    (name, ), kwargs = dict(api.asked)['download']
    assert name == 'me/line' and kwargs == {'revision': 'v1', 'token': 't', 'endpoint': 'e',
                                            'allow_patterns': ['model.pkl', 'README.md']}


def test_a_card_is_laid_out_as_the_hub_reads_it(trained, monkeypatch):
    """A header with what was measured, losses apart; sections of data, results and use, each behind an empty line."""
    api = Api(False)
    monkeypatch.setattr('minifast.hub._huggingface_hub', lambda: api)
    learn = learner(metrics=accuracy)
    learn.recorder.values, learn.recorder.metric_names = [[.5, .25, .875], [.25, 1234.5678, 1.]], [
        'epoch', 'train_loss', 'valid_loss', 'accuracy', 'time']
    learn.dls.vocab = ['red', 'blue']
    n_train, n_valid = len(learn.dls.train_ds), len(learn.dls.valid_ds)
    n = sum(p.numel() for p in learn.model.parameters())
    assert model_card(learn, 'me/net').split('\n') == [
        '---', 'header', '---', '', '# net', '',
        f'A {type(learn.model).__name__} of {n:,} parameters, trained with minifast {minifast.__version__}.', '',
        '## Classes', '', '2: red, blue', '', '## Results', '',
        f'On {n_valid:,} items for validation, after 2 epochs on {n_train:,}:', '',
        '| train_loss | valid_loss | accuracy |', '|---|---|---|', '| 0.25 | 1235 | 1 |', '', '## Use', '', '```python',
        'from minifast.hub import from_pretrained', "learn = from_pretrained('me/net')", 'learn.predict(...)', '```',
        '', 'The file holds data alone: loading it runs no code.', '']
    (_, header), = api.asked
    assert header == {'library_name': 'minifast', 'tags': ['minifast', 'fastai'], 'metrics': ['accuracy']}
    learn.arch, learn.dls.vocab = types.SimpleNamespace(__name__='resnet'), [f'class {i}' for i in range(51)]
    card = model_card(learn)
    assert 'A resnet of' in card and '51: class 0, ' in card and 'class 49 and 1 more' in card and '# MODEL' in card
    learn.dls.vocab = learn.dls.vocab[:50]
    assert 'class 49\n' in model_card(learn)
    api.asked.clear()
    learn.recorder.values = []
    assert '## Results' not in model_card(learn) and api.asked[0][1]['metrics'] is None


def test_without_the_package_the_extra_is_named(monkeypatch, tmp_path):
    """And an empty folder is told to hold nothing."""
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(ImportError, match=r'pip install minifast\[hub\]'):
        from_pretrained('me/none')
    with pytest.raises(FileNotFoundError, match='there is nothing'):
        from_pretrained(tmp_path)
    for name in ('b', 'a'):
        (tmp_path / name).touch()
    with pytest.raises(FileNotFoundError, match=f'{tmp_path} has no model.pkl.*there is a, b$'):
        from_pretrained(tmp_path)
