"""Predictions on loaders of every kind: order, flags, memory, events, one item, augmented items, the summary."""
from __future__ import annotations

import inspect
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, WeightedRandomSampler

from minifast import inference
from minifast.callback.core import Callback, CancelBatchException
from minifast.callback.core import _Rows as Rows
from minifast.data.core import DataLoaders, Datasets, TfmdDL
from minifast.data.transform import RandTransform, Transform
from minifast.data.load import DataLoader as OwnLoader
from minifast.inference import _prepare as prepare
from minifast.learner import Learner
from minifast.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat, MSELossFlat

N = 21
X, Y = torch.randn(N, 4), torch.arange(N) % 3


def learner(dataset=None, loss_func=None, model=None, **kwargs) -> Learner:
    """A learner on plain torch loaders whose training loader shuffles and drops its last batch."""
    dataset = dataset or TensorDataset(X, Y)
    train = DataLoader(dataset, batch_size=4, shuffle=True, drop_last=True)
    torch.manual_seed(1)
    return Learner((train, DataLoader(dataset, batch_size=8)), model or nn.Linear(4, 3),
                   loss_func=loss_func or CrossEntropyLossFlat(), default_cbs=True, **kwargs)


def expected(learn: Learner) -> torch.Tensor:
    with torch.no_grad():
        return learn.model(X).softmax(-1)


# ---------------------------------------------------------------- flags and order

def test_get_preds_all_flags_come_in_fastais_order():
    """(inputs, preds, targets, decoded, losses), on the CPU, one row an item, softmax applied."""
    learn = learner()
    inputs, preds, targets, decoded, losses = learn.get_preds(with_input=True, with_decoded=True, with_loss=True)
    assert torch.equal(inputs, X) and torch.equal(targets, Y)
    torch.testing.assert_close(preds, expected(learn))
    assert torch.equal(decoded, preds.argmax(-1))
    torch.testing.assert_close(losses, F.cross_entropy(learn.model(X), Y, reduction='none').detach())
    assert type(preds) is torch.Tensor and preds.device.type == 'cpu' and not preds.requires_grad


@pytest.mark.parametrize('flags, n', [({}, 2), ({'with_input': True}, 3), ({'with_decoded': True}, 3),
                                      ({'with_loss': True}, 3)])
def test_get_preds_single_flags_add_one_value(flags, n):
    """Predictions and targets are always there."""
    assert len(learner().get_preds(**flags)) == n


def test_get_preds_of_the_training_split_is_whole_and_in_the_datasets_order():
    """A loader that shuffles and drops its last batch gives every item once, in order."""
    learn = learner()
    for dl in (None, learn.dls[0]):
        preds, targets = learn.get_preds(ds_idx=0, dl=dl)
        assert torch.equal(targets, Y)
        torch.testing.assert_close(preds, expected(learn))


def test_get_preds_without_reorder_leaves_a_torch_loader_as_it_is():
    """`reorder=False` takes the rows as they come."""
    learn = learner()
    preds, targets = learn.get_preds(dl=learn.dls[0], reorder=False)
    assert len(preds) == 20 and not torch.equal(targets, Y[:20])


def test_get_preds_keeps_the_choice_of_a_users_sampler():
    """A weighted sampler chooses on purpose: its rows are predicted as chosen."""
    learn = learner()
    sampler = WeightedRandomSampler([1.] + [0.] * (N - 1), num_samples=10)
    preds, targets = learn.get_preds(dl=DataLoader(TensorDataset(X, Y), batch_size=4, sampler=sampler))
    assert targets.tolist() == [0] * 10 and torch.equal(preds, preds[:1].expand(10, 3))


@pytest.mark.parametrize('kind', ['pairs', 'lists', 'generator', 'stream', 'one', 'dict'])
def test_get_preds_on_any_iterable_of_batches(kind):
    """Pairs, lists, generators, streams without a length and single batches are loaders."""
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(zip(X, Y))
    batches = [(X[:10], Y[:10]), (X[10:], Y[10:])]
    dl = {'pairs': batches, 'lists': [list(b) for b in batches], 'generator': (b for b in batches), 'one': [(X, Y)],
          'stream': DataLoader(Stream(), batch_size=6), 'dict': [{'x': X, 'y': Y}]}[kind]
    learn = learner()
    preds, targets = learn.get_preds(dl=dl)
    torch.testing.assert_close(preds, expected(learn))
    assert torch.equal(targets, Y)


def test_get_preds_without_targets():
    """Targets are None where the loader has none; a loss cannot be had then."""
    learn = learner()
    for dl in ([(X,)], DataLoader(TensorDataset(X), batch_size=5), DataLoader(X, batch_size=5)):
        preds, targets = learn.get_preds(dl=dl)
        torch.testing.assert_close(preds, expected(learn))
        assert targets is None
    with pytest.raises(ValueError, match='needs targets'):
        learn.get_preds(dl=[(X,)], with_loss=True)


def test_get_preds_own_activation_gets_all_predictions_at_once():
    """`act` replaces the loss function's activation and sees the whole set; decoding follows it."""
    learn = learner()
    preds, _, decoded = learn.get_preds(act=lambda p: p - p.mean(0), with_decoded=True)
    torch.testing.assert_close(preds.mean(0), torch.zeros(3), atol=1e-6, rtol=0)
    assert torch.equal(decoded, preds.argmax(-1))


def test_get_preds_own_activation_is_behind_the_answers_also_where_no_predictions_are_kept():
    """`act` with `with_decoded`, and `with_preds=False`."""
    learn = learner()
    wanted = learn.get_preds(with_decoded=True, act=torch.neg)
    preds, targs, decoded = learn.get_preds(with_decoded=True, act=torch.neg, with_preds=False)
    assert preds is None and torch.equal(targs, Y) and torch.equal(decoded, wanted[2])
    assert torch.equal(decoded, wanted[0].argmax(-1))
    assert not torch.equal(decoded, learn.get_preds(with_decoded=True)[2])


def test_get_preds_with_preds_false_keeps_decoded_and_losses():
    """What is not asked for is None and is never held."""
    preds, targets, decoded, losses = learner().get_preds(with_preds=False, with_targs=False, with_decoded=True,
                                                          with_loss=True)
    assert preds is None and targets is None and decoded.shape == losses.shape == (N,)


@pytest.mark.parametrize('loss_func, decode', [
    (nn.CrossEntropyLoss(), lambda p: p.argmax(1)), (F.cross_entropy, lambda p: p.argmax(1)),
    (nn.MSELoss(), lambda p: p), (nn.BCEWithLogitsLoss(), lambda p: p > 0), (lambda p, y: p.sum(), lambda p: p)])
def test_get_preds_with_torchs_losses_gives_raw_predictions_and_decodes_classes(loss_func, decode):
    """torch's losses have no activation, so predictions are the model's output; class losses mean the largest."""
    targets = F.one_hot(Y, 3).float() if isinstance(loss_func, (nn.MSELoss, nn.BCEWithLogitsLoss)) else Y
    learn = learner(TensorDataset(X, targets), loss_func=loss_func)
    preds, _, decoded = learn.get_preds(with_decoded=True)
    torch.testing.assert_close(preds, learn.model(X).detach())
    assert torch.equal(decoded, decode(preds))


def test_get_preds_of_losses_that_are_not_reduced_by_item():
    """A loss with several numbers an item is averaged over the item."""
    learn = learner(TensorDataset(X, F.one_hot(Y, 3).float()), loss_func=BCEWithLogitsLossFlat())
    losses = learn.get_preds(with_loss=True)[2]
    wanted = F.binary_cross_entropy_with_logits(learn.model(X), F.one_hot(Y, 3).float(), reduction='none').mean(1)
    torch.testing.assert_close(losses, wanted.detach())
    assert learn.loss_func.reduction == 'mean'


class Two(nn.Module):
    """Two inputs, two outputs."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 2)

    def forward(self, a, b):
        return {'sum': self.lin(a + b), 'parts': (self.lin(a), self.lin(b))}


def test_get_preds_nested_inputs_and_outputs_keep_their_form():
    """Several inputs come back as a tuple, a model's dicts and tuples as they are, each tensor whole."""
    learn = learner(TensorDataset(X, X + 1, Y), loss_func=lambda p, y: p['sum'].sum(), model=Two())
    inputs, preds, targets = learn.get_preds(with_input=True)
    assert torch.equal(inputs[1], X + 1) and torch.equal(targets, Y)
    assert preds['sum'].shape == (N, 2) and [p.shape for p in preds['parts']] == [(N, 2)] * 2


class Ragged(nn.Module):
    """The width of the output depends on the batch."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return x[:, :1].expand(-1, len(x)) + self.w


def test_get_preds_of_different_shapes_comes_as_a_list():
    """Rows of different shapes cannot be one tensor: a list of all rows."""
    learn = learner(loss_func=lambda p, y: p.sum(), model=Ragged())
    preds, _ = learn.get_preds(dl=[(X[:10], Y[:10]), (X[10:], Y[10:])])
    assert len(preds) == N and preds[0].shape == (10,) and preds[-1].shape == (11,)


# ---------------------------------------------------------------- memory, randomness, events

def test_rows_are_written_into_memory_taken_once():
    """Every batch lands in the one tensor that is returned; no second copy is made, also when rows are reordered."""
    for ranks in (None, torch.randperm(N)):
        rows = Rows(N, ranks, 0)
        rows.add(X[:8])
        place = rows.out.data_ptr()
        rows.add(X[8:])
        result = rows.result()
        assert result.data_ptr() == place
        assert torch.equal(result if ranks is None else result[ranks], X)


def test_rows_fewer_than_announced_and_more_than_announced():
    """The announced number is a plan, not a promise."""
    fewer, more = Rows(N, None, 0), Rows(10, None, 0)
    fewer.add(X[:8])
    more.add(X[:8])
    more.add(X[8:])
    assert torch.equal(fewer.result(), X[:8]) and torch.equal(more.result(), X)
    assert fewer.result().untyped_storage().nbytes() == 8 * 4 * 4


class Draws(Callback):
    """Draws from every global generator in each batch."""

    def before_batch(self):
        random.random(), np.random.rand(), torch.rand(1)


def test_get_preds_leaves_no_trace_in_the_generators():
    """Predicting, on one item too, changes no global generator, whatever draws meanwhile."""
    learn = learner(model=nn.Sequential(nn.Linear(4, 3), nn.Dropout()))
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    learn.get_preds(ds_idx=0, cbs=Draws())
    learn.predict(X[0])
    assert random.getstate() == before[0] and np.array_equal(np.random.get_state()[1], before[1])
    assert torch.equal(torch.get_rng_state(), before[2])


class Trace(Callback):
    """Writes down the events and whether the learner says that predictions are being made."""

    def __init__(self):
        self.seen = []

    def before_fit(self):
        self.seen.append('before_fit')
        self.gathering = hasattr(self, 'gather_preds')

    def before_epoch(self):
        self.seen.append('before_epoch')

    def before_validate(self):
        self.seen.append('before_validate')

    def before_batch(self):
        self.seen.append('before_batch')

    def after_batch(self):
        self.seen.append('after_batch')

    def after_validate(self):
        self.seen.append('after_validate')

    def after_epoch(self):
        self.seen.append('after_epoch')

    def after_fit(self):
        self.seen.append('after_fit')


def test_get_preds_fires_fastais_events_and_tells_plugins():
    """A pass is a fit with validation only; plugins find `learn.gather_preds` while it runs and not behind it."""
    learn, trace = learner(), Trace()
    learn.get_preds(dl=[(X, Y)], cbs=trace)
    inner = 'before_validate before_batch after_batch after_validate'.split()
    assert trace.seen == ['before_fit', 'before_epoch', *inner, 'after_epoch', 'after_fit']
    assert trace.gathering and not hasattr(learn, 'gather_preds')
    learn, trace = learner(), Trace()
    learn.get_preds(dl=[(X, Y)], cbs=trace, inner=True)
    assert trace.seen == inner


class SkipFirst(Callback):
    """Cancels the first batch before its forward."""

    def before_batch(self):
        if self.iter == 0:
            raise CancelBatchException


def test_get_preds_of_a_cancelled_batch_are_left_out():
    """A batch without a forward gives no rows (and not the rows of the batch before it)."""
    preds, targets = learner().get_preds(cbs=SkipFirst())
    assert torch.equal(targets, Y[8:]) and len(preds) == N - 8


def test_get_preds_after_an_error_leaves_the_learner_as_it_was():
    """Callback, loss reduction and logger are put back."""
    learn = learner()
    cbs = list(learn.cbs)
    with pytest.raises(RuntimeError):
        learn.get_preds(dl=[(torch.zeros(2, 7), Y[:2])], with_loss=True)
    assert list(learn.cbs) == cbs and learn.loss_func.reduction == 'mean' and learn.logger is print
    assert len(learn.get_preds()[0]) == N


def test_get_preds_saves_batches_as_tensor_files(tmp_path):
    """`save_preds` and `save_targs` write one file a batch, readable without code."""
    (tmp_path / 'p').mkdir(), (tmp_path / 't').mkdir()
    learn = learner()
    learn.get_preds(save_preds=tmp_path / 'p', save_targs=tmp_path / 't')
    read = torch.cat([torch.load(tmp_path / 't' / str(i), weights_only=True) for i in range(3)])
    assert torch.equal(read, Y) and len(list((tmp_path / 'p').iterdir())) == 3


def test_get_preds_unknown_keyword_is_refused():
    """A misspelt flag is an error."""
    with pytest.raises(TypeError, match='with_inputs'):
        learner().get_preds(with_inputs=True)


def test_prepare_orders_what_can_be_ordered():
    """Loaders of torch: order and number of rows are found without running them."""
    dl, n_rows, ranks = prepare(DataLoader(TensorDataset(X), batch_size=4, shuffle=True), reorder=True)
    assert n_rows == N and ranks is None and torch.equal(torch.cat([b[0] for b in dl]), X)
    subset = Subset(TensorDataset(X), [3, 1])
    assert torch.equal(next(iter(prepare(DataLoader(subset, batch_size=2), True)[0]))[0], X[[3, 1]])


def test_prepare_announces_no_rows_where_the_user_says_which_are_in_a_batch():
    """A sampler of batches decides about the rows and their order, whatever the batch size beside it is."""
    dl = OwnLoader(TensorDataset(X, Y), bs=4, batch_sampler=[[5, 3], [0]])
    assert prepare(dl, reorder=True) == (dl, None, None)
    assert learner().get_preds(dl=dl)[1].tolist() == Y[[5, 3, 0]].tolist()


# ---------------------------------------------------------------- one item

class Pictures(Dataset):
    """A dataset in torchvision's style: pictures through `transform`, names in `classes`."""

    classes = ('cat', 'dog', 'owl')

    def __init__(self):
        self.transform = lambda image: torch.full((4,), float(np.asarray(image)[0, 0, 0]) / 255)

    def __getitem__(self, i):
        return X[i], int(Y[i])

    def __len__(self):
        return N


def test_predict_of_a_plain_dataset():
    """A tensor in, the class (its name where the dataset has names), its index and the probabilities out."""
    learn = learner()
    decoded, idx, probs = learn.predict(X[3])
    torch.testing.assert_close(probs, expected(learn)[3])
    assert decoded == idx == probs.argmax() and probs.shape == (3,)
    learn = learner(Subset(Pictures(), range(N)))
    name, idx, probs = learn.predict(X[3])
    assert name == Pictures.classes[idx]
    given, *rest = learn.predict(X[3], with_input=True)
    assert torch.equal(given, X[3]) and rest[0] == name


def test_predict_of_a_picture_goes_through_the_datasets_transform(tmp_path):
    """Path, bytes, array and Pillow image are the same picture."""
    from PIL import Image
    image = Image.fromarray(np.full((5, 6, 3), 200, np.uint8))
    image.save(tmp_path / 'a.png')
    learn = learner(Pictures())
    wanted = learn.predict(torch.full((4,), 200 / 255))[2]
    file = tmp_path / 'a.png'
    for item in (image, file, str(file), file.read_bytes(), np.asarray(image)):
        torch.testing.assert_close(learn.predict(item)[2], wanted)
    with pytest.raises(TypeError, match='TensorDataset has no `transform`'):
        learner().predict(tmp_path / 'a.png')


@pytest.mark.parametrize('left_out, wanted', [(None, 12.), (0, 12.), (1, 6.), (2, 3.)])
def test_predict_leaves_out_as_many_transforms_as_it_is_told(left_out, wanted):
    """`rm_type_tfms`; without it those before the item's type."""
    def twice(x):
        return 2 * x
    dls = Datasets([1, 2], [[twice, twice], [float]]).dataloaders(bs=2, device='cpu', num_workers=0)

    class Shown(nn.Module):
        def forward(self, x):
            return x.float()
    learn = Learner(dls, Shown(), loss_func=MSELossFlat())
    assert learn.predict(3, rm_type_tfms=left_out)[2] == wanted


def test_show_results_are_of_the_first_items_or_of_some_at_random(monkeypatch):
    """`shuffle=False`: in the order of the data; else another choice for each seed, and each time."""
    dls = Datasets(list(range(40)), [[float], [float]]).dataloaders(bs=4, device='cpu', num_workers=0)
    learn, shown = Learner(dls, nn.Flatten(0), loss_func=MSELossFlat()), []
    monkeypatch.setattr(TfmdDL, 'show_results', lambda self, b, out, **kwargs: shown.append(b[0].tolist()))
    for shuffle, seed in ((False, 1), (False, 2), (True, 1), (True, 1), (True, 2)):
        torch.manual_seed(seed)
        learn.show_results(0, shuffle=shuffle)
    assert shown[0] == shown[1] == [0, 1, 2, 3]
    assert len(set(map(tuple, shown))) == 4  # of those at random each is another


def test_show_results_of_plain_loaders(capsys):
    """Vectors are printed as lines; pictures are drawn with target and prediction."""
    learner().show_results(max_n=2)
    assert capsys.readouterr().out.count('prediction') == 2
    pictures = TensorDataset(torch.rand(6, 3, 8, 8), Y[:6])
    axs = learner(pictures, model=nn.Sequential(nn.Flatten(), nn.Linear(192, 3))).show_results(max_n=4)
    assert len(axs) == 4 and axs[0].get_title()


def test_tta_of_a_plain_loader_says_what_it_needs():
    """Augmenting needs transforms; a plain loader has none."""
    with pytest.raises(TypeError, match='tta augments with the transforms of the data'):
        learner().tta()


@pytest.mark.parametrize('beta, use_max, wanted', [
    (.25, False, [.75, 2.]), (0., False, [1., 2.]), (1., False, [0., 2.]), (.25, True, [1., 2.]),
    (None, True, [1., 2.])])
def test_tta_blends_the_plain_predictions_in(beta, use_max, wanted):
    """`beta` of them, or the larger of both; nested predictions in their form; without either both are given."""
    def augmented():
        return {'a': torch.tensor([1., 2.]), 'b': (torch.tensor([1., 2.]),)}
    plain = {'a': torch.tensor([0., 2.]), 'b': (torch.tensor([0., 2.]),)}
    found = inference._blended(augmented(), plain, beta, use_max)
    assert found['a'].tolist() == found['b'][0].tolist() == wanted
    both = inference._blended(augmented(), plain, None, False)
    assert type(both) is tuple and [o['a'].tolist() for o in both] == [[1., 2.], [0., 2.]]


class Raised(RandTransform):
    """More by one in training, by two in the second pass of it, and so on."""

    n = 0

    def encodes(self, x: torch.Tensor):
        return x + 1 + self.n


@pytest.mark.parametrize('n', [1, 3])
def test_tta_augments_as_the_training_does(n):
    """The mean or the largest of `n` passes with the transforms of the training, beside one of the validation's."""
    raised = Raised()
    dls = DataLoaders(*[TfmdDL(Datasets([*range(6)], [[lambda i: X[i]], [lambda i: Y[i]]], splits=[[], [*range(6)]],
                                        n_inp=1).valid, bs=4, after_batch=raised) for _ in range(2)])
    learn = Learner(dls, nn.Identity(), loss_func=lambda pred, y: pred.sum(), default_cbs=True, cbs=Callback(
        after_validate=lambda self: setattr(raised, 'n', raised.n + 1)))
    for use_max, more in ((False, (n + 1) / 2), (True, n)):
        raised.n = 0
        found = learn.tta(n=n, use_max=use_max, beta=0)
        torch.testing.assert_close(found[0], X[:6] + more)
        raised.n = 0
        assert torch.equal(found[1], Y[:6])
    (augmented, preds), _ = learn.tta(n=n, beta=None)
    torch.testing.assert_close(augmented, X[:6] + (n + 1) / 2)
    assert torch.equal(preds, X[:6])


class Doubled(Transform):
    """Twice as much."""

    def encodes(self, x: torch.Tensor):
        return 2 * x


@pytest.mark.parametrize('given, wanted', [('item_tfms', 2.), ('batch_tfms', 4.)])
def test_tta_takes_transforms_instead_of_those_of_one_stage(given, wanted):
    """And leaves the other stage as the data have it: items are raised, batches are as they are."""
    class Up(Transform):
        def encodes(self, x: torch.Tensor):
            return x + 1
    ones = torch.ones(6, 2)
    dls = DataLoaders(*[TfmdDL(Datasets([*range(6)], [[lambda i: ones[i]], [lambda i: Y[i]]], splits=[[], [*range(6)]],
                                        n_inp=1).valid, bs=4, after_item=Up()) for _ in range(2)])
    learn = Learner(dls, nn.Identity(), loss_func=lambda pred, y: pred.sum())
    assert torch.equal(learn.tta(n=1, **{given: Doubled()})[0], torch.full((6, 2), wanted))


def test_summary_of_a_plain_learner():
    """Layers, shapes, parameters, optimizer, loss and callbacks in one text."""
    learn = learner(model=nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))
    before = torch.get_rng_state()
    summary = learn.summary()
    text = str(summary)
    assert repr(summary) == text and isinstance(summary, str)  # at the end of a cell it is read as it is printed
    assert 'Linear' in text and '8 x 8' not in text and 'Total params: 67' in text
    assert 'FlattenedLoss' in text and 'TrainEvalCallback' in text
    assert torch.equal(torch.get_rng_state(), before)


def test_a_summary_ends_with_how_the_model_is_trained():
    """Optimizer, loss function and callbacks in their order; what is frozen where there is an optimizer."""
    learn = learner(cbs=Callback())
    told = ['Optimizer used: ' + str(learn.opt_func), 'Loss function: ' + str(learn.loss_func), '']
    callbacks = ['Callbacks:', '  - TrainEvalCallback', '  - Callback', '  - Recorder', '  - ProgressCallback']
    assert learn.summary().split('\n')[-8:] == [*told, *callbacks]
    learn.create_opt()
    assert learn.summary().split('\n')[-10:] == [*told, 'Model unfrozen', '', *callbacks]


def test_both_doors_have_the_same_defaults():
    """A function of this room and the method of its name."""
    shared = [name for name in inference.__all__ if callable(getattr(Learner, name, None))]
    assert {'get_preds', 'tta', 'show_results'} <= set(shared)
    for name in shared:
        ours, method = (inspect.signature(o).parameters for o in (getattr(inference, name), getattr(Learner, name)))
        for argument in ours.keys() & method.keys() - {'self'}:
            assert ours[argument].default == method[argument].default, (name, argument)
