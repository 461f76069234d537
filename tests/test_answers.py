"""Answers: what a loss says, what its kind says, what the data say; outputs of every form; dict batches."""
from __future__ import annotations

import collections
import dataclasses
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from small_learner import learner, pictures
from torch import nn
from torch.utils.data import DataLoader, Dataset

from minifast.answers import decoder_of
from minifast.data.block import CategoryBlock, DataBlock
from minifast.data.core import DataLoaders
from minifast.data.transforms import RandomSplitter, get_image_files, parent_label
from minifast.interpret import ClassificationInterpretation, Interpretation
from minifast.learner import Learner
from minifast.losses import FocalLoss
from minifast.vision.augment import Resize
from minifast.vision.data import ImageBlock

preds = torch.tensor([[.1, .9, .2, .3], [.8, .1, .1, .6]])


class Mine(nn.Module):
    """A loss of the user's own that tells nothing."""

    def forward(self, p, y):
        return F.cross_entropy(p, y)


@pytest.mark.parametrize('loss, answers', [
    (nn.CrossEntropyLoss(), [1, 0]), (F.cross_entropy, [1, 0]), (partial(F.cross_entropy, label_smoothing=.1), [1, 0]),
    (nn.NLLLoss(), [1, 0]), (FocalLoss(), [1, 0]), (nn.BCELoss(), (preds > .5).tolist()),
    (nn.BCEWithLogitsLoss(), (preds > 0).tolist()), (F.binary_cross_entropy, (preds > .5).tolist()),
    (nn.MSELoss(), preds.tolist()), (lambda p, y: p.sum(), preds.tolist())])
def test_the_kind_of_a_loss_decodes_where_it_is_certain(loss, answers):
    """Losses on class indices mean the largest, those on labels a threshold, any other says nothing."""
    assert decoder_of(learner(loss_func=loss))(preds).tolist() == answers


@pytest.mark.parametrize('kind', [Mine, nn.CrossEntropyLoss, nn.MSELoss])
def test_what_a_loss_says_of_answers_counts_before_what_its_kind_says(kind):
    """`decodes`, whatever else the loss is."""
    loss = kind()
    loss.decodes = lambda p: p.argmin(dim=1)
    assert decoder_of(learner(loss_func=loss))(preds).tolist() == [0, 1]



@pytest.mark.parametrize('loss', [FocalLoss(), lambda p, y: F.cross_entropy(p, y), Mine(), F.cross_entropy])
def test_a_loss_that_names_no_decoding_predicts_the_classes_of_the_data(loss, tmp_path):
    """Scores for each class of a category decode by the largest: one item, a batch, drawn results."""
    learn = pictures(tmp_path)
    learn.loss_func = loss
    name, idx, scores = learn.predict(next(tmp_path.glob('*/*.png')))
    assert idx == scores.argmax() and name == learn.dls.vocab[int(idx)]
    found, _, decoded = learn.get_preds(with_decoded=True)
    assert torch.equal(decoded, found.argmax(1))
    learn.show_results()


Pair = collections.namedtuple('Pair', 'logits features')


@dataclasses.dataclass
class Output:
    """As a library's own class of outputs."""

    logits: torch.Tensor
    features: torch.Tensor | None = None


class Named(collections.OrderedDict):
    """A dict whose entries are attributes too."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


class Net(nn.Module):
    """Wraps its output."""

    def __init__(self, wrap):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        self.wrap = wrap

    def forward(self, x):
        return self.wrap(self.body(x))


def first(p):
    return p[0] if isinstance(p, tuple) else p['logits'] if isinstance(p, dict) else p.logits


def loss_of_first(p, y, reduction='mean'):
    return F.cross_entropy(first(p), y, reduction=reduction)


wraps = {'dict': lambda o: {'logits': o, 'features': o[:, :1]}, 'dict of one': lambda o: {'logits': o},
         'dataclass': lambda o: Output(o), 'named dict': lambda o: Named(logits=o, features=o[:, :1]),
         'tuple': lambda o: (o, o[:, :1]), 'namedtuple': lambda o: Pair(o, o[:, :1])}


@pytest.mark.parametrize('half', [False, True])
@pytest.mark.parametrize('name', wraps)
def test_outputs_of_every_form_are_trained_predicted_and_shown(name, half, tmp_path):
    """Each keeps its form and every tensor in it is whole; the one with a score for each class is the answer."""
    learn = pictures(tmp_path)
    learn.model, learn.loss_func, learn.logger = Net(wraps[name]), loss_of_first, lambda row: None
    if half:
        learn.to_bf16()
    learn.fit(1)
    assert len(learn.validate()) == 1
    found, targets, decoded, losses = learn.get_preds(with_decoded=True, with_loss=True)
    assert type(found) is type(learn.model.wrap(torch.zeros(1, 2))) and len(targets) == len(losses) == 8
    assert torch.equal(decoded, first(found).argmax(1)) and first(found).shape == (8, 2)
    label, idx, scores = learn.predict(next(tmp_path.glob('*/*.png')))
    assert first(scores).shape == (2,) and label == learn.dls.vocab[int(idx)]
    averaged, _ = learn.tta(n=2)
    assert first(averaged).shape == (8, 2)
    learn.show_results()
    Interpretation.from_learner(learn).plot_top_losses(2)
    assert ClassificationInterpretation.from_learner(learn).confusion_matrix().sum() == 8


def test_outputs_that_cannot_be_told_apart_are_refused_with_what_to_give(tmp_path):
    """Two entries that both could be the answer: showing says that the loss must decode; numbers come all the same."""
    learn = pictures(tmp_path)
    learn.model, learn.loss_func = Net(lambda o: {'logits': o, 'other': o}), loss_of_first
    assert learn.get_preds()[0]['other'].shape == (8, 2)
    file = next(tmp_path.glob('*/*.png'))
    for show in (lambda: learn.predict(file), learn.show_results,
                 lambda: Interpretation.from_learner(learn).plot_top_losses(2)):
        with pytest.raises(ValueError, match=r'\(loss_of_first\) has .* a dict of logits, other, is not one answer'):
            show()
    with pytest.raises(ValueError, match='one target and one output'):
        ClassificationInterpretation.from_learner(learn).confusion_matrix()


class Heads(nn.Module):
    """Two heads on one body."""

    def __init__(self):
        super().__init__()
        self.body, self.a, self.b = Net(lambda o: o), nn.Linear(2, 2), nn.Linear(2, 3)

    def forward(self, x):
        return self.a(self.body(x)), self.b(self.body(x))


def both(p, a, b, reduction='mean'):
    return F.cross_entropy(p[0], a, reduction=reduction) + F.cross_entropy(p[1], b, reduction=reduction)


class Both:
    """A loss that decodes for both heads."""

    reduction = 'mean'

    def __call__(self, p, a, b):
        return both(p, a, b, self.reduction)

    def activation(self, p):
        return tuple(o.softmax(-1) for o in p)

    def decodes(self, p):
        return tuple(o.argmax(-1) for o in p)


@pytest.mark.parametrize('loss', [both, Both()])
def test_two_heads_answer_two_targets(loss, tmp_path):
    """Each output belongs to the target in its place, with its own classes; numbers of both come back."""
    pictures(tmp_path)
    block = DataBlock((ImageBlock, CategoryBlock, CategoryBlock), n_inp=1, get_items=get_image_files,
                      get_y=[parent_label, lambda f: int(f.stem) % 3], splitter=RandomSplitter(seed=1),
                      item_tfms=Resize(16))
    learn = Learner(block.dataloaders(tmp_path, bs=4, num_workers=0), Heads(), loss_func=loss)
    (a, b), (i, j), scores = learn.predict(next(tmp_path.glob('*/*.png')))
    assert a == learn.dls.vocab[0][int(i)] and b == str(learn.dls.vocab[1][int(j)])
    assert [s.shape for s in scores] == [(2,), (3,)] and i == scores[0].argmax() and j == scores[1].argmax()
    averaged, targets = learn.tta(n=2)
    assert [s.shape[1] for s in averaged] == [2, 3] and len(targets) == 2
    assert [len(s) for s in learn.tta(n=1, use_max=True)[0]] == [len(targets[0])] * 2
    learn.show_results(), Interpretation.from_learner(learn).plot_top_losses(2)


def test_losses_of_items_from_a_loss_that_cannot_are_refused():
    """Interpretation needs one loss an item: a lambda without `reduction` says what to give."""
    learn = learner(loss_func=lambda p, y: F.cross_entropy(p, y))
    with pytest.raises(ValueError, match="def loss\\(pred, targ, reduction='mean'\\)"):
        Interpretation.from_learner(learn)


# ---------------------------------------------------------------- batches that are dicts

X, Y = torch.randn(12, 5), torch.arange(12) % 3


class Items(Dataset):
    """Items as dicts."""

    def __init__(self, *names):
        self.names = names

    def __len__(self):
        return 12

    def __getitem__(self, i):
        values = {'labels': Y[i], 'mask': torch.ones(5), 'ids': X[i], 'y': Y[i], 'other': Y[i]}
        return {name: values[name] for name in self.names}


class Forward(nn.Module):
    """Names its inputs."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(5, 3)

    def forward(self, ids, mask=None, position=None):
        return self.lin(ids * (1 if mask is None else mask))


class Bag(collections.UserDict):
    """What a tokenizer gives: a dict that is none, and that slices its entries."""

    def __getitem__(self, key):
        return {k: v[key] for k, v in self.data.items()} if isinstance(key, slice) else self.data[key]


def bags(items):
    return Bag(torch.utils.data.default_collate(items))


@pytest.mark.parametrize('names, collate', [
    (('ids', 'labels'), None), (('labels', 'ids'), None), (('mask', 'ids', 'labels'), None),
    (('ids', 'mask', 'y'), None), (('labels', 'mask', 'ids'), bags)])
def test_a_batch_that_is_a_dict_is_taken_apart_by_names(names, collate):
    """Targets by their name, inputs in the order of `forward`: the training of the same batches as tuples."""
    def make(items, collate_fn):
        torch.manual_seed(0)
        loaders = [DataLoader(items, 4, collate_fn=collate_fn) for _ in range(2)]
        learn = Learner(DataLoaders(*loaders), Forward(), loss_func=nn.CrossEntropyLoss(), lr=.1)
        learn.remove_cb(learn.progress)
        learn.logger = lambda row: None
        return learn
    learn, twin = make(Items(*names), collate), make(list(zip(X, Y)), None)
    for each in (learn, twin):
        each.fit(2)
    assert torch.equal(learn.model.lin.weight, twin.model.lin.weight) and learn.validate() == twin.validate()
    found, targets = learn.get_preds()
    assert torch.equal(targets, Y) and torch.equal(found, twin.get_preds()[0])
    assert 'Linear' in str(learn.summary()) and learn.show_results(max_n=2) is None


@pytest.mark.parametrize('names', [('ids', 'position', 'labels'), ('ids', 'other'), ('labels',)])
def test_a_dict_that_does_not_fit_forward_is_refused_with_its_names(names):
    """What belongs where is not guessed."""
    items = [{name: torch.zeros(5) if name != 'labels' else torch.tensor(1) for name in names}] * 4
    learn = Learner(DataLoaders(DataLoader(items, 4), DataLoader(items, 4)), Forward(), loss_func=nn.CrossEntropyLoss())
    with pytest.raises(ValueError, match=f'dicts of {", ".join(names)}.*forward takes ids, mask, position.*collate_fn'):
        learn.fit(1)


def test_a_dict_beside_its_target_goes_to_the_model_as_it_is():
    """A tuple (dict, target) is a batch with one input, for models that open it themselves."""
    class Opens(Forward):
        def forward(self, batch):
            return super().forward(**batch)
    items = [({'ids': x, 'mask': torch.ones(5)}, y) for x, y in zip(X, Y)]
    learn = Learner(DataLoaders(DataLoader(items, 4), DataLoader(items, 4)), Opens(), loss_func=nn.CrossEntropyLoss())
    learn.remove_cb(learn.progress)
    learn.fit(1)
    inputs, found, targets = learn.get_preds(with_input=True)
    assert torch.equal(inputs['ids'], X) and torch.equal(targets, Y) and found.shape == (12, 3)
