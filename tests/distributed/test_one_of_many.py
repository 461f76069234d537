"""What one rank tells the others and how it takes what they say: their words made by hand, in one process."""
from __future__ import annotations

from contextlib import nullcontext
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import DistributedSampler, IterableDataset, TensorDataset

from minifast import distributed, sharding
from minifast.callback import distributed as room
from minifast.callback.core import (Callback, CancelBackwardException, CancelBatchException, CancelEpochException,
                                    CancelFitException, CancelStepException, CancelTrainException,
                                    CancelValidException)
from minifast.callback.distributed import (BACKWARD, COLLECTIVE, END, FAILED, FORWARD, LOSS, NEXT, START, STEP,
                                           TRAINING, VALIDATION, WELL, DistributedTrainer, LastWord, PeerError,
                                           ShardedTrainer)
from minifast.callback.training import GradientAccumulation
from minifast.data.core import DataLoaders
from minifast.data.load import DataLoader
from minifast.distributed import CHECKPOINT, LEAVING, is_alone, is_rank0_alone, on_own, pass_of_all, setup_distrib
from minifast.learner import Learner

N, RANK = 3, 1


@pytest.fixture
def others(monkeypatch):
    """A function that makes a trainer of rank 1 of 3: at each exchange in turn the others answer with changes to its
    own row, {rank: {column: value}}; then they say what it says."""
    monkeypatch.setattr(dist, 'get_rank', lambda *args: RANK)
    monkeypatch.setattr(dist, 'get_world_size', lambda *args: N)
    monkeypatch.setattr(room, 'reducing', lambda: not is_alone())
    monkeypatch.setattr(room, 'is_distributed', lambda: True)

    def made(*answers, cls=DistributedTrainer, **kwargs):
        trainer, left = cls(**kwargs), list(answers)
        trainer.sent = []

        def all_gather(rows, own, group=None):
            trainer.sent.append(own.tolist())
            answer = left.pop(0) if left else {}
            if isinstance(answer, Exception):
                raise answer
            found = own.repeat(N, 1)
            for rank, changes in answer.items():
                for column, value in changes.items():
                    found[rank, column] = value
            rows.copy_(found.flatten())
        monkeypatch.setattr(room, '_all_gather', all_gather)
        monkeypatch.setattr(room, 'gather_objects', lambda o: [o] * N)
        return trainer
    return made


STATUS, PLACE, EPOCH, PART, BATCH, ITEMS, LOSS_OF, WISH = range(8)


# ---------------------------------------------------------------- meeting

def test_a_rank_says_how_and_where_it_is_and_hears_the_sums(others):
    """Its own items, loss and wish; at the start of a fit no place in it."""
    trainer = others({0: {ITEMS: 5, LOSS_OF: .5}, 2: {ITEMS: 1, LOSS_OF: 4., WISH: LEAVING}})
    trainer._at = [4, TRAINING, 7]
    trainer.wishes += [lambda: 0, lambda: CHECKPOINT]
    assert trainer._meet(LOSS, 2, .25) == (8, 4.75) and trainer.wished == LEAVING
    assert trainer._meet(START) == (0, 0.)
    assert trainer.sent == [[WELL, LOSS, 4, TRAINING, 7, 2, .25, CHECKPOINT], [WELL, START, 0, 0, 0, 0, 0, CHECKPOINT]]
    with on_own():
        assert trainer._meet(STEP, 3, 2.) == (3, 2.) and len(trainer.sent) == 2


def test_a_wish_stands_until_the_loss_of_the_next_batch(others):
    """It is of any rank, and all know it alike from that meeting on."""
    trainer = others({}, {2: {WISH: CHECKPOINT}}, {}, {0: {WISH: LEAVING}}, {}, {})
    found = []
    for place in (LOSS, STEP, COLLECTIVE, END, STEP, LOSS):
        trainer._meet(place)
        found.append(trainer.wished)
    assert found == [0, CHECKPOINT, CHECKPOINT, LEAVING, LEAVING, 0]


def test_a_rank_that_is_gone_is_told_with_where_the_others_waited(others):
    """A connection that is closed, or a collective that nobody came to in time."""
    trainer = others(RuntimeError('Connection closed by peer'))
    with pytest.raises(PeerError, match='^rank 1 waited for the others before a step, and one has gone without a word, '
                                        'or did not come in time: Connection closed'):
        trainer._meet(STEP)


def test_a_rank_that_failed_is_named_with_its_error(others, monkeypatch):
    """Each of them, behind whatever it is told at."""
    trainer = others({0: {STATUS: FAILED}, 2: {STATUS: FAILED}}, {2: {STATUS: FAILED}})
    monkeypatch.setattr(room, 'gather_objects', lambda o: ['ValueError: a', o, 'KeyError: b'])
    with pytest.raises(PeerError, match='^rank 0 has failed with ValueError: a; rank 2 has failed with KeyError: b. '
                                        'This is rank 1, which ends with it$'):
        trainer._meet(LOSS)
    with pytest.raises(PeerError, match='rank 0 has failed'):
        trainer._tell(CancelFitException)


def test_ranks_that_have_come_apart_say_where_each_is(others):
    """Another place, epoch, part or batch."""
    for column, value, told in ((PLACE, STEP, 'before a step in epoch 4, batch 7 of training'),
                                (EPOCH, 5, 'behind a loss in epoch 5, batch 7 of training'),
                                (PART, VALIDATION, 'behind a loss in epoch 4, batch 7 of validation'),
                                (BATCH, 8, 'behind a loss in epoch 4, batch 8 of training')):
        trainer = others({2: {column: value}})
        trainer._at = [4, TRAINING, 7]
        with pytest.raises(PeerError, match='^the ranks have come apart: rank 1 is behind a loss in epoch 4, batch 7 '
                                            f'of training, rank 2 {told}. Do their loaders'):
            trainer._meet(LOSS)


# ---------------------------------------------------------------- cancelling

SOON = {CancelStepException: 1, CancelBackwardException: 2, CancelBatchException: 3, CancelTrainException: 4,
        CancelValidException: 5, CancelEpochException: 6, CancelFitException: 7}
HERE, NEXT_BATCH, NEXT_PART, NEXT_EPOCH = {}, {BATCH: 8}, {PART: VALIDATION}, {EPOCH: 5}


@pytest.mark.parametrize('error', SOON)
@pytest.mark.parametrize('where', [HERE, NEXT_BATCH, NEXT_PART, NEXT_EPOCH], ids=['here', 'batch', 'part', 'epoch'])
def test_what_a_rank_cancels_is_cancelled_on_those_that_are_in_it(others, error, where):
    """A fit everywhere, an epoch in that epoch, a part in that part, less than that in that batch; others ask again."""
    trainer = others({2: {STATUS: SOON[error], **where}})
    trainer._at = [4, TRAINING, 7]
    reach = {CancelFitException: (HERE, NEXT_BATCH, NEXT_PART, NEXT_EPOCH),
             CancelEpochException: (HERE, NEXT_BATCH, NEXT_PART), CancelTrainException: (HERE, NEXT_BATCH),
             CancelValidException: (HERE, NEXT_BATCH)}.get(error, (HERE,))
    with pytest.raises(error) if where in reach else nullcontext():
        trainer._meet(LOSS)
    assert trainer._answering is (where in reach) and len(trainer.sent) == 2 - (where in reach)


@pytest.mark.parametrize('place, part, error, raised', [
    (LOSS, VALIDATION, CancelBatchException, False), (END, TRAINING, CancelBatchException, False),
    (NEXT, TRAINING, CancelStepException, False), (START, TRAINING, CancelFitException, False),
    (NEXT, TRAINING, CancelTrainException, True), (LOSS, VALIDATION, CancelValidException, True),
    (END, TRAINING, CancelEpochException, True), (END, TRAINING, CancelFitException, True)])
def test_a_batch_is_cancelled_in_trainings_alone_and_not_behind_it(others, place, part, error, raised):
    """In a validation each rank has its own batches; at the start of a fit nothing of one is there to be cancelled."""
    trainer = others({0: {STATUS: SOON[error]}})
    trainer._at = [0, part, 0]
    with pytest.raises(error) if raised else nullcontext():
        trainer._meet(place)


@pytest.mark.parametrize('error, event', [(CancelTrainException, 'after_cancel_train'),
                                          (CancelValidException, 'after_cancel_validate')])
def test_a_part_that_another_cancels_at_its_very_end_is_told_to_be_cancelled_here(others, error, event):
    """What was recorded of it is left out as it is there; the loop goes on."""
    trainer, told = others({0: {STATUS: SOON[error]}}), []
    trainer.learn = told.append
    trainer._meet(END)
    assert told == [event] and trainer._answering


def test_of_two_cancels_the_graver_one_is_done_by_both(others):
    """But a training and a validation, neither of which holds the other; an answer is not told again."""
    for own, other, raised in ((CancelStepException, CancelFitException, True),
                               (CancelFitException, CancelStepException, False),
                               (CancelBatchException, CancelBatchException, False),
                               (CancelTrainException, CancelValidException, False),
                               (CancelBatchException, CancelEpochException, True)):
        trainer = others({2: {STATUS: SOON[other]}, 0: {STATUS: WELL}})
        trainer._at = [0, TRAINING, 0]
        with pytest.raises(other) if raised else nullcontext():
            trainer._tell(own)
        assert trainer.sent[0][:2] == [SOON[own], COLLECTIVE] and trainer._answering is raised
        trainer._answering = True
        trainer._tell(own)
        assert len(trainer.sent) == 1 and not trainer._answering


@pytest.mark.parametrize('event, error', [
    ('step', CancelStepException), ('backward', CancelBackwardException), ('batch', CancelBatchException),
    ('train', CancelTrainException), ('validate', CancelValidException), ('epoch', CancelEpochException),
    ('fit', CancelFitException)])
def test_each_cancel_is_told_as_what_it_is(others, event, error):
    """By its place among them."""
    trainer = others()
    getattr(trainer, f'after_cancel_{event}')()
    assert [row[0] for row in trainer.sent] == [SOON[error]]


def test_an_error_is_told_with_the_way_out_where_there_is_one(others, monkeypatch):
    """Unused parameters; and where nobody listens any more the error itself says so."""
    told = []
    trainer = others()
    monkeypatch.setattr(room, 'gather_objects', told.append)
    error = RuntimeError('... find_unused_parameters=True ...')
    trainer.failed(error)
    assert error.__notes__ == ['with minifast: learn.to_distributed(find_unused_parameters=True)']
    assert trainer.sent[0][:2] == [FAILED, START] and told == [f'RuntimeError: {error}']
    trainer = others(RuntimeError('closed'))
    trainer.failed(error := KeyError('x'))
    assert error.__notes__[0].startswith('the other ranks could not be told: rank 1 waited')
    sharded = others(cls=ShardedTrainer)
    sharded.failed(error := RuntimeError('got mixed torch.Tensor and DTensor'))
    assert "learn.to_distributed(strategy='fsdp', units=...)" in error.__notes__[0] and len(sharded.sent) == 1


def test_what_the_first_makes_is_made_by_it_alone(others, monkeypatch):
    """And asked for where all are well: in a fit, or before one has begun."""
    trainer, made = others(), []
    monkeypatch.setattr(room, 'from_first', lambda o: ('from first', o))
    trainer._at = [2, TRAINING, 3]
    assert trainer.from_first(lambda: made.append(1)) == ('from first', None)
    assert trainer.from_first(lambda: made.append(1), True) == ('from first', None) and not made
    assert [row[1:5] for row in trainer.sent] == [[COLLECTIVE, 2, TRAINING, 3], [START, 0, 0, 0]]
    trainer.rank = 0
    assert trainer.from_first(lambda: 5) == ('from first', 5)


# ---------------------------------------------------------------- what is trained

def test_a_fit_that_is_another_on_some_rank_is_refused_by_what_differs(others, monkeypatch):
    """Each thing by its name with both values; nothing is said of what is the same."""
    trainer = others()
    monkeypatch.setattr(room, 'gather_objects', lambda o: [o, o, {**o, 'b': 3, 'c': 0}])
    with pytest.raises(ValueError, match=r'^rank 0 and rank 2 do not train the same: b \(2 and 3\), c \(4 and 0\) '
                                         r'differ\. All processes need'):
        trainer.check_same({'a': 1, 'b': 2, 'c': 4})
    monkeypatch.setattr(room, 'gather_objects', lambda o: [o] * 3)
    trainer.check_same({'a': 1})
    assert [row[1] for row in trainer.sent] == [START, START]


def data(n=24):
    """Rows and classes."""
    return TensorDataset(torch.arange(5. * n).reshape(n, 5), torch.arange(n) % 3)


def learner(*loaders, model=None):
    """A silent learner."""
    learn = Learner(DataLoaders(*loaders), model or nn.Linear(5, 3), nn.CrossEntropyLoss(), torch.optim.SGD,
                    strategy=None)
    learn.remove_cb(learn.progress)
    learn.n_epoch = 7
    return learn


def test_ranks_compare_items_batches_model_optimizer_and_epochs(others):
    """In few bytes, under names that an error can say."""
    trainer = others()
    trainer.learn = learner(DataLoader(data(24), 4), DataLoader(data(9), 4))
    trainer.learn.create_opt()
    found = trainer._what_is_trained()
    weights = found.pop('parameters of the model')
    assert found == {'number of training items': 24, 'training items': None, 'stream': None,
                     'number of training batches': 6, 'batch size': 4, 'number of validation items': 9,
                     'number of epochs': 7, 'optimizer': type(trainer.learn.opt).__name__}
    assert weights.startswith('2 of 18 numbers, checksum ')
    others_weights = set()
    for model in (nn.Linear(5, 3), nn.Linear(3, 5), nn.Linear(5, 3).double(), nn.Linear(5, 3, bias=False),
                  nn.Linear(5, 3).requires_grad_(False), nn.Sequential(nn.Linear(5, 3))):
        trainer.learn = SimpleNamespace(model=model)
        others_weights.add(str(trainer._what_is_shared()))
    assert len(others_weights) == 6 and str({'parameters of the model': weights}) in others_weights
    trainer.learn = learner(DataLoader(data(24), 4))
    assert trainer._what_is_trained()['number of validation items'] is None


@pytest.mark.parametrize('items', [
    None, len, dict, {1: 2}.items, iter([1]), SimpleNamespace(iloc=1, __len__=len),
    type('Frame', (list,), {'iloc': 1})([1, 2])])
def test_data_without_a_list_of_items_have_no_checksum(items):
    """Nor have methods of that name, and tables."""
    assert room._checksum(SimpleNamespace(dataset=SimpleNamespace(items=items))) is None
    assert room._checksum([1]) is None and room._checksum(SimpleNamespace(dataset=[1])) is None


def test_items_are_compared_by_their_names_some_hundred_of_them(tmp_path):
    """Of files the names and not the folders; of other things their kinds."""
    def of(items):
        return room._checksum(SimpleNamespace(dataset=SimpleNamespace(items=items)))
    names = [tmp_path / f'{i}.png' for i in range(600)]
    moved = [tmp_path / 'other' / f'{i}.png' for i in range(600)]
    assert of(names) == of(moved) != of(names[::-1])
    assert of(names) != of([*names[:512], tmp_path / 'x.png', *names[513:]])
    assert of(names) == of([names[0], tmp_path / 'x.png', *names[2:]])  # every second is looked at
    assert of(names[:300]) != of([*names[:299], tmp_path / 'x.png'])
    assert of([1, 2]) == of([3, 4]) != of([1, 2.]) and of([1]) != of([1, 1]) and of([]) is not None


class Numbers(IterableDataset):
    """A stream of nobody's kind."""

    def __iter__(self):
        return iter(range(9))


@pytest.mark.parametrize('dl, says', [
    (lambda: DataLoader(data(2), 1), 'the 2 training items are too few for 3 processes, of which some would never have '
                                     'one: start at most 2'),
    (lambda: TorchLoader(Numbers()), 'one of torch that reads a stream'),
    (lambda: TorchLoader(data(), 4), 'torch without a DistributedSampler, so each of 3 processes'),
    (lambda: [1, 2, 3], r'the training loader \(list\) cannot be shared out by 3 processes: it needs data'),
    (lambda: TorchLoader(data(), 4, sampler=DistributedSampler(data(), 3, 0)), None),
    (lambda: DataLoader(data(3), 4), None)])
def test_a_loader_that_gives_all_ranks_the_same_is_refused(others, dl, says):
    """Each kind with its way out; one process alone takes any."""
    trainer, dl = others(), dl()
    trainer.share_out([dl])
    with pytest.raises(ValueError, match=says) if says else nullcontext():
        trainer._check_loader(dl)
    trainer.take_back([dl])
    trainer.n_ranks = 1
    trainer._check_loader(dl)


def test_our_loaders_make_a_ranks_share_until_they_are_taken_back(others):
    """In a training what stands in for an item that is not there, too; loaders of others are left."""
    trainer, ours = others(), DataLoader(TensorDataset(torch.arange(10)), 3)
    trainer.share_out([ours, [1]])
    assert (ours.share.rank, ours.share.n_ranks, ours.share.fill) == (1, 3, False)
    trainer.learn = SimpleNamespace(dl=ours, model=nn.Linear(1, 1), epoch=0, training=True)
    trainer._wrapped_for = (id(trainer.learn.model), *map(id, trainer.learn.model.parameters()))
    trainer.before_train()
    assert (ours.share.rank, ours.share.n_ranks, ours.share.fill, ours.share.any_has) == (1, 3, True, None)
    assert trainer._at == [0, TRAINING, 0]
    trainer.before_validate()
    assert ours.share.fill is False and trainer._at == [0, VALIDATION, 0] and not is_alone()
    trainer.take_back([ours, [1]])
    assert (ours.share.rank, ours.share.n_ranks) == (0, 1)


def test_a_stream_is_shared_out_with_the_word_of_all_whether_any_has_a_batch(others):
    """While it is trained on; whoever reads it by hand afterwards need not wait for others."""
    trainer, shares = others({}, {0: {ITEMS: 1}}, {}), []
    dl = type('Stream', (), {'shareable': True, 'indexed': False,
                             'share_out': lambda self, *args, **kwargs: shares.append((args, kwargs))})()
    trainer.learn = SimpleNamespace(dl=dl, model=nn.Linear(1, 1), epoch=0, fitting=False)
    trainer._wrapped_for = (id(trainer.learn.model), *map(id, trainer.learn.model.parameters()))
    trainer.before_train()
    any_has = shares[0][1]['any_has']
    assert shares == [((1, 3), {'fill': True, 'any_has': any_has})]
    assert (any_has(False), any_has(False), any_has(True)) == (False, True, True)
    assert [row[1] for row in trainer.sent] == [NEXT] * 3 and [row[5] for row in trainer.sent] == [0, 0, 1]
    trainer.after_train()
    assert shares[1] == ((1, 3), {}) and trainer.sent[3][1] == END


def test_torchs_sampler_hears_of_the_epoch_and_a_validation_that_all_have_is_each_ranks_own(others):
    """So nothing of it is put together."""
    trainer, sampler = others(), DistributedSampler(data(), 3, 0)
    shared, plain = TorchLoader(data(), 4, sampler=sampler), TorchLoader(data(), 4)
    trainer.learn = SimpleNamespace(dl=shared, model=nn.Linear(1, 1), epoch=5)
    trainer._wrapped_for = (id(trainer.learn.model), *map(id, trainer.learn.model.parameters()))
    trainer.before_train()
    assert sampler.epoch == 5
    trainer.before_validate()
    assert not is_alone()
    trainer.learn.dl = plain
    trainer.before_validate()
    assert is_alone() and not is_rank0_alone()
    LastWord(trainer).after_validate()
    assert not is_alone()
    trainer.leave_own()


@pytest.fixture
def fit(others):
    """A trainer at the start of a fit of a learner, and the callbacks that were added."""
    def started(*cbs, fitting=True, **kwargs):
        trainer = others(**kwargs)
        learn = learner(DataLoader(data(), 4, num_workers=0))
        learn.create_opt()
        trainer.share_out(learn.dls)
        learn.add_cbs([trainer, LastWord(trainer), *cbs])
        learn._compile()
        learn.fitting, learn.fit_seed, learn.logger = fitting, 5, 'logger'
        trainer.before_fit()
        return trainer
    yield started
    distributed.before_collective.clear()


def test_a_fit_begins_with_the_seeds_of_the_first_and_its_log(fit, monkeypatch):
    """All draw by its seed; the others print nothing; behind the fit all is as it was."""
    monkeypatch.setattr(torch, 'initial_seed', lambda: 77)
    trainer = fit()
    learn = trainer.learn
    assert (learn.fit_seed, trainer.seed, learn.logger) == (5, 77, room.noop)
    assert [row[1] for row in trainer.sent] == [START] and distributed.before_collective == [trainer._ask]
    trainer.sync = False
    trainer._answering = True
    trainer.cleanup_fit()
    assert learn.logger == 'logger' and not distributed.before_collective and trainer.sync and not trainer._answering
    trainer.rank = 0
    trainer.before_fit()
    assert learn.logger == 'logger'


def test_a_prediction_asks_how_all_are_and_compares_nothing(fit):
    """Only a fit does."""
    trainer = fit(fitting=False)
    assert not trainer.sent and trainer.seed is None and distributed.before_collective == [trainer._ask]


@pytest.mark.parametrize('event, place', [
    ('after_pred', BACKWARD), ('after_loss', BACKWARD), ('before_backward', BACKWARD), ('after_backward', STEP),
    ('before_step', STEP), ('after_cancel_backward', STEP), ('after_step', None), ('before_batch', None)])
def test_ranks_meet_before_a_backward_pass_and_a_step_where_callbacks_have_a_say(fit, event, place):
    """Before the one that comes behind the event."""
    trainer = fit(Callback(**{event: lambda self: None}))
    assert trainer._meets == {BACKWARD: place == BACKWARD, STEP: place == STEP}
    word, sent = next(cb for cb in trainer.learn.cbs if isinstance(cb, LastWord)), len(trainer.sent)
    trainer.learn.loss_grad, trainer._weight = torch.tensor(2.), .75
    word.before_backward()
    word.before_step()
    assert trainer.learn.loss_grad == 1.5 and [row[1] for row in trainer.sent[sent:]] == [place] * (place is not None)


def test_without_targets_a_rank_weighs_its_gradients_as_they_are(others):
    """Nobody knows how many items there are; the mean of the ranks is taken."""
    trainer = others()
    trainer.learn = SimpleNamespace(yb=(), loss_grad=torch.tensor(3.))
    trainer.after_loss()
    word = LastWord(trainer)
    word.learn = trainer.learn
    word.before_backward()
    assert trainer.learn.loss_grad == 3 and not trainer.sent


@pytest.mark.parametrize('reduction, loss, stands_in, n_others, weight, wanted', [
    ('mean', torch.tensor(2.), False, 6, 2 / 8 * 3, (2 * 2 + 5 * 6) / 8),
    ('none', torch.tensor([1., 3.]), False, 6, 2 / 8 * 3, (2 * 2 + 5 * 6) / 8),
    ('mean', torch.tensor(2.), True, 6, 0, 5.), ('sum', torch.tensor(2.), False, 6, 3, 2 + 5 * 6),
    ('sum', torch.tensor(2.), True, 6, 0, 5 * 6), ('mean', torch.tensor(2.), True, 0, 0, 0)])
def test_a_ranks_loss_counts_by_its_items(others, reduction, loss, stands_in, n_others, weight, wanted):
    """The loss of all is their mean over all items, or their sum; a stand-in's items are another rank's."""
    trainer = others({0: {ITEMS: n_others, LOSS_OF: 5. * n_others}, 2: {ITEMS: 0, LOSS_OF: 0}})
    trainer.learn = SimpleNamespace(yb=(torch.zeros(2),), loss=loss.clone().requires_grad_(),
                                    dl=SimpleNamespace(stands_in=stands_in),
                                    own_loss=SimpleNamespace(reduction=reduction))
    trainer.after_loss()
    assert trainer._weight == pytest.approx(weight) and float(trainer.learn.loss) == pytest.approx(wanted)
    assert trainer.n_items == n_others + (0 if stands_in else 2) and trainer.learn.loss.dtype == loss.dtype
    assert not trainer.learn.loss.requires_grad and trainer.learn.loss.ndim == 0


def test_gradients_are_sent_once_and_then_as_ever(others):
    """`sync` is of one batch."""
    trainer = others()
    trainer.learn = SimpleNamespace(wrapped=SimpleNamespace(require_backward_grad_sync=None))
    trainer.sync = False
    for wanted in (False, True):
        trainer.forward_starts()
        assert trainer.learn.wrapped.require_backward_grad_sync is wanted and trainer.sync
    assert not trainer.sent
    trainer._own_norms = [1]  # they put numbers together in the forward pass
    trainer.forward_starts()
    assert [row[1] for row in trainer.sent] == [FORWARD]
    trainer.learn = SimpleNamespace(iter=6)
    trainer.before_batch()
    assert trainer._at[2] == 6


def test_the_batch_of_all_and_where_a_ranks_rows_are_in_it(others, monkeypatch):
    """Every third from its own on; of stand-ins the first rows, and none are given away."""
    trainer, given = others(), []
    monkeypatch.setattr(room, 'gather_rows', lambda x: given.append(x) or torch.arange(7))
    part = torch.ones(2)
    for stands_in, own in ((False, [1, 4]), (True, [0, 1])):
        trainer.learn = SimpleNamespace(dl=SimpleNamespace(stands_in=stands_in))
        gathered, rows = trainer.batch_of_all([part, part])
        assert len(gathered) == 2 and rows.tolist() == own
        assert all(x is (None if stands_in else part) for x in given[-2:])


@pytest.mark.parametrize('bs, n_acc, sent', [
    (2, 12, [False, True]), (2, 11, [False, True]), (2, 13, [False, False, True]), (2, 6, [True]), (None, 12, [True])])
def test_gradients_that_are_added_up_are_sent_where_a_step_may_follow(bs, n_acc, sent):
    """As many items as all ranks can have at most, three of two each; or the last batch of the epoch."""
    cb, ranks = GradientAccumulation(n_acc), SimpleNamespace(n_ranks=3, n_items=6, sync=None)
    for i, wanted in enumerate(sent):
        cb.learn = SimpleNamespace(ranks=ranks, iter=i, n_iter=9,
                                   dl=SimpleNamespace(**({'batch_size': bs} if bs else {})))
        cb.before_batch()
        assert ranks.sync is wanted and cb._items() == 6
        cb.count += 6
    cb.count, cb.learn.iter = 0, 8
    cb.before_batch()
    assert ranks.sync
    cb.learn.iter = 7
    cb.before_batch()
    assert ranks.sync is (3 * (bs or n_acc) >= n_acc)


# ---------------------------------------------------------------- joining, and what is done alone

def test_one_process_joins_nobody_and_a_group_of_one_has_its_hosts(monkeypatch):
    """Whatever the environment lacks; a group of the script's own stays as it is."""
    for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'):
        monkeypatch.delenv(name, raising=False)
    for size in (None, '0', '1'):
        if size:
            monkeypatch.setenv('WORLD_SIZE', size)
        assert setup_distrib() == 1 and not dist.is_initialized()
    monkeypatch.setenv('WORLD_SIZE', '2')
    with pytest.raises(RuntimeError, match='^WORLD_SIZE=2 processes are to train together and RANK, MASTER_ADDR, '
                                           'MASTER_PORT are not set'):
        setup_distrib()
    monkeypatch.setenv('RANK', '0'), monkeypatch.setenv('MASTER_ADDR', 'x')
    with pytest.raises(RuntimeError, match='together and MASTER_PORT is not set'):
        setup_distrib()
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    try:
        assert distributed.host_group() is None
        assert setup_distrib() == 1
        group = distributed.host_group()
        assert setup_distrib() == 1 and distributed.host_group() is group is not dist.group.WORLD
    finally:
        distributed.teardown_distrib()
    assert not dist.is_initialized() and distributed.host_group() is None
    distributed.teardown_distrib()


def test_what_is_done_alone_may_be_the_firsts_or_each_ranks():
    """In nested blocks too, and behind an error the block is over."""
    assert not is_alone() and not is_rank0_alone()
    with on_own():
        assert is_alone() and not is_rank0_alone()
        with on_own(only_rank0=True):
            assert is_alone() and is_rank0_alone()
        assert is_alone() and not is_rank0_alone()
    with pytest.raises(ZeroDivisionError), on_own(True):
        raise ZeroDivisionError
    assert not is_alone()
    ours = DataLoader(data(), 4)
    with pass_of_all(ours):
        assert is_alone() and not is_rank0_alone()
    ours.share_out(0, 2)
    with pass_of_all(ours):
        assert not is_alone()


@pytest.mark.parametrize('n_gpus, given, env, backend, device', [
    (0, None, {}, 'gloo', None), (4, None, {'LOCAL_RANK': '2', 'LOCAL_WORLD_SIZE': '4'}, 'nccl', 2),
    (2, None, {'LOCAL_RANK': '3', 'LOCAL_WORLD_SIZE': '4'}, 'gloo', 1), (1, None, {}, 'nccl', 0),
    (4, 3, {'LOCAL_RANK': '1', 'LOCAL_WORLD_SIZE': '2'}, 'nccl', 3), (1, None, {'LOCAL_WORLD_SIZE': '1'}, 'nccl', 0),
    (3, 4, {'LOCAL_RANK': '1', 'LOCAL_WORLD_SIZE': '4'}, 'gloo', 1)])
def test_gpus_are_taken_one_a_process_or_shared(monkeypatch, n_gpus, given, env, backend, device):
    """NCCL where each process of the machine has one; else gloo, and they are taken in turn."""
    joined, chosen, left = [], [], []
    for name in ('LOCAL_RANK', 'LOCAL_WORLD_SIZE'):
        monkeypatch.delenv(name, raising=False)
    for name, value in {'RANK': '0', 'WORLD_SIZE': '4', 'MASTER_ADDR': 'x', 'MASTER_PORT': '1', **env}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: n_gpus)
    monkeypatch.setattr(torch.cuda, 'set_device', chosen.append)
    monkeypatch.setattr(distributed, '_join', lambda *args: joined.append(args))
    monkeypatch.setattr(distributed, '_host', [])
    monkeypatch.setattr(distributed.atexit, 'register', left.append)
    monkeypatch.setattr(dist, 'new_group', lambda **kwargs: kwargs)
    monkeypatch.setattr(dist, 'get_world_size', lambda: 4)
    assert setup_distrib(given, timeout_s=7) == 4
    seven = timedelta(seconds=7)
    assert joined == [(backend, seven)] and chosen == ([] if device is None else [device])
    assert left == [distributed.teardown_distrib]
    assert distributed._host[1] == {'backend': 'gloo', 'timeout': seven}


@pytest.mark.parametrize('restarts, machines, again', [
    (None, '1', False), ('0', '1', False), ('2', '1', True), ('2', '2', False), ('2', None, False)])
def test_processes_that_are_started_again_meet_under_another_name(monkeypatch, restarts, machines, again):
    """On one machine torchrun keeps its store, with the addresses of those that are gone."""
    given = []
    for name, value in (('TORCHELASTIC_RESTART_COUNT', restarts), ('GROUP_WORLD_SIZE', machines)):
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    monkeypatch.setattr(dist, 'init_process_group', lambda *args, **kwargs: given.append((args, kwargs)))
    monkeypatch.setattr(dist, 'rendezvous', lambda url, timeout: iter([(f'store of {url} {timeout}', 3, 4)]))
    monkeypatch.setattr(dist, 'PrefixStore', lambda prefix, store: (prefix, store))
    distributed._join('gloo', 9)
    assert given == [(('gloo',), {'store': ('restart-2', 'store of env:// 9'), 'rank': 3, 'world_size': 4, 'timeout': 9}
                      if again else {'timeout': 9})]


# ---------------------------------------------------------------- the wrapped model

def test_what_stands_in_for_a_model_touches_every_weight_that_is_trained_and_moves_none():
    """Its gradients are zeros laid out as they would be, sparse where the layer's are."""
    model = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Linear(4, 3), nn.Linear(3, 2))
    model[2].weight.requires_grad_(False)
    called = room._Called(model)
    assert torch.equal(called(torch.tensor([1])), model(torch.tensor([1])))
    called(stand_in=True).backward()
    grads = [p.grad for p in model.parameters()]
    assert [grad is None for grad in grads] == [False, False, False, True, False]
    assert grads[0].layout is torch.sparse_coo and not any(grad.to_dense().any() for grad in grads if grad is not None)
    channels_last = nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)
    room._Called(channels_last)(stand_in=True).backward()
    assert channels_last.weight.grad.stride() == channels_last.weight.stride()


def test_gradients_that_were_there_survive_the_settling():
    """It takes two backward passes of the stand-in."""
    model, calls = nn.Linear(2, 2), []
    model.weight.grad = kept = torch.ones(2, 2)

    def wrapped(stand_in):
        calls.append((stand_in, model.weight.grad is None))
        return room._Called(model)(stand_in=True)
    wrapped.parameters = model.parameters
    room._settle(wrapped)
    assert calls == [(True, True)] * 2 and model.weight.grad is kept and model.bias.grad is None


def test_a_model_is_wrapped_anew_where_other_weights_are_trained(others, monkeypatch):
    """All ranks meet before it; behind the fit the model's own layers are back."""
    trainer, model, wrapped = others(), nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1)), []
    dl = DataLoader(TensorDataset(torch.arange(10)), 3)
    trainer.learn = SimpleNamespace(dl=dl, model=model, epoch=0, wrapped=None)
    trainer._wrap = lambda made_for: wrapped.append(made_for) or setattr(trainer, '_wrapped_for', made_for)
    for trained in (True, True, False, False):
        model[0].weight.requires_grad_(trained)
        trainer.before_train()
    assert len(wrapped) == 2 and [row[1] for row in trainer.sent] == [COLLECTIVE] * 2
    hooks, norm = [], model[1]
    model[1] = nn.Identity()
    trainer.learn.wrapped = SimpleNamespace(_remove_autograd_hooks=lambda: hooks.append(1))
    trainer._own_norms = [(model, '1', norm)]
    trainer._unwrap()
    assert hooks == [1] and trainer.learn.wrapped is None and trainer._wrapped_for is None
    assert model[1] is norm and trainer._own_norms == []


def test_buffers_are_the_firsts_behind_a_training_part_of_a_fit(others, monkeypatch):
    """And, with what callbacks have put in their place, where a validation begins; not in what a rank does alone."""
    sent = []
    monkeypatch.setattr(dist, 'broadcast', lambda x, src: sent.append((x, src)))
    trainer = others()
    trainer._at = [0, TRAINING, 5]
    norm = nn.BatchNorm1d(2)
    trainer.learn = SimpleNamespace(dl=[1], model=norm, fitting=True)
    word = LastWord(trainer)
    word.learn = trainer.learn
    for event in (trainer.after_train, word.before_validate):
        event()
        assert [(id(x), src) for x, src in sent] == [(id(b), 0) for b in norm.buffers()]
        sent.clear()
    assert [row[1:5] for row in trainer.sent] == [[END, 0, TRAINING, 0], [COLLECTIVE, 0, TRAINING, 0],
                                                  [COLLECTIVE, 0, TRAINING, 0]]
    trainer.learn.fitting = False
    trainer.after_train(), word.before_validate()
    trainer.learn.fitting = True
    with on_own():
        trainer.after_train(), word.before_validate()
    assert not sent


# ---------------------------------------------------------------- a model in shares

@pytest.fixture
def sharded(others):
    """As `others`, a trainer of a model in shares."""
    def made(*answers, **kwargs):
        return others(*answers, cls=ShardedTrainer, **kwargs)
    yield made
    sharding.before_forward.clear(), distributed.before_collective.clear()


def test_gradients_that_were_not_sent_have_no_place_in_a_checkpoint(sharded):
    """Until a backward pass that sends them is over."""
    trainer, told = sharded(), []
    trainer.learn = SimpleNamespace(own_model=SimpleNamespace(set_requires_gradient_sync=told.append))
    assert trainer.is_between_steps
    found = []
    for trainer.sync in (True, False, False, True):
        trainer.forward_starts()
        found.append(trainer.is_between_steps)
        trainer.after_backward()
        found.append(trainer.is_between_steps)
        assert trainer.sync
    assert told == [True, False, False, True]
    assert found == [True, True, False, False, False, False, False, True]


def test_a_call_of_a_model_in_shares_needs_all_processes(sharded):
    """They meet before it, but where this one goes along with the others'; a callback of the first alone cannot."""
    trainer = sharded()
    trainer._before_call()
    assert trainer.sent[0][1] == FORWARD and trainer._has_run
    with on_own():
        trainer._before_call()  # a validation of each rank's own still needs all
    assert len(trainer.sent) == 2
    with on_own(True), pytest.raises(RuntimeError, match="^with strategy='fsdp' a model is called by all processes"):
        trainer._before_call()
    trainer._goes_along = True
    trainer._before_call()
    assert len(trainer.sent) == 2


@pytest.mark.parametrize('part, own, theirs, same_epoch, together', [
    (VALIDATION, END, FORWARD, True, [True, False]), (VALIDATION, FORWARD, END, True, [False, True]),
    (VALIDATION, END, END, True, [False, True]), (VALIDATION, FORWARD, FORWARD, True, [False, True]),
    (TRAINING, END, FORWARD, True, None), (VALIDATION, END, FORWARD, False, None),
    (VALIDATION, END, COLLECTIVE, True, None)])
def test_who_has_no_batch_left_goes_along_with_the_validation_of_the_others(sharded, part, own, theirs, same_epoch,
                                                                          together):
    """Whose batch it is counts for nothing then; everywhere else ranks that are elsewhere have come apart."""
    trainer, went = sharded(), []
    trainer._go_along = lambda: went.append(1)
    rows = [[0, place, epoch, part, batch, 0, 0, 0] for place, epoch, batch in (
        (theirs, 4 if same_epoch else 5, 7), (own, 4, 7), (theirs, 4 if same_epoch else 5, 7))]
    if together is None:
        with pytest.raises(PeerError, match='come apart'):
            trainer._are_together(rows)
    else:
        goes_on = trainer._are_together(rows)
        assert [bool(went), goes_on] == together


def test_going_along_takes_the_last_batch_or_any(sharded):
    """Its result is nobody's; behind it calls need all again."""
    trainer, seen = sharded(), []

    def model(*xb):
        seen.append((trainer._goes_along, [x.tolist() for x in xb]))
        if len(seen) == 2:
            raise ZeroDivisionError
    batch = torch.ones(1), torch.zeros(1), torch.full((1,), 2.)
    trainer.learn = SimpleNamespace(xb=(torch.ones(2),), model=model, _n_inp=None, _set_device=lambda b: b, dl=[batch])
    trainer._go_along()
    with pytest.raises(ZeroDivisionError):
        trainer._go_along()
    assert not trainer._goes_along
    trainer.learn.xb = ()
    trainer._go_along()
    trainer.learn._n_inp = 1
    trainer._go_along()
    trainer.learn.dl, trainer.learn._n_inp = SimpleNamespace(one_batch=lambda: batch[:1]), None
    trainer._go_along()
    assert [xb for _, xb in seen] == [[[1, 1]], [[1, 1]], [[1], [0]], [[1]], [[1]]] and all(along for along, _ in seen)


def test_what_was_made_before_the_model_was_put_in_shares_is_refused(sharded, monkeypatch):
    """A model that is whole, weights that were added, an optimizer of other weights."""
    trainer = sharded()
    model = nn.Linear(1, 1)
    opt = SimpleNamespace(param_groups=[{'params': list(model.parameters())[:1]}])
    trainer.learn = SimpleNamespace(own_model=model, opt=opt)
    with pytest.raises(ValueError, match='the optimizer was made before the model is put in shares'):
        trainer._check_shares()
    monkeypatch.setattr(room, 'in_shares', lambda model: True)
    with pytest.raises(ValueError, match='^the model has got weight, bias since it was put in shares'):
        trainer._check_shares()
    monkeypatch.setattr(sharding, 'is_share', lambda p: True)
    trainer._check_shares()
    opt.param_groups = [{'params': [torch.ones(1)]}]
    with pytest.raises(ValueError, match='^the optimizer holds no parameter of the model'):
        trainer._check_shares()


def test_a_model_is_put_in_shares_once_where_all_have_the_same(sharded, monkeypatch):
    """By the units that are said; where a step may leave weights unused torch is told."""
    done = []
    monkeypatch.setattr(room, 'put_in_shares', lambda model, units: done.append((model, units)))
    for unused in (False, True):
        trainer = sharded(find_unused_parameters=unused, units=nn.Linear)
        model = nn.Linear(1, 1)
        model.set_reduce_scatter_unused_params = done.append
        trainer.learn = SimpleNamespace(own_model=model, model=model)
        trainer.check_same = done.append
        trainer.prepare()
        assert list(done[0]) == ['parameters of the model'] and done[1] == (model, nn.Linear)
        assert done[2:] == [True] * unused
        done.clear()
    monkeypatch.setattr(room, 'in_shares', lambda model: True)
    trainer.prepare()
    assert not done


def test_a_fit_of_a_model_in_shares_hears_of_each_call_and_forgets_what_a_broken_one_left(sharded, monkeypatch):
    """On all ranks where one has something left; behind the fit calls are nobody's business any more."""
    found = []
    monkeypatch.setattr(DistributedTrainer, 'before_fit', lambda self: None)
    monkeypatch.setattr(DistributedTrainer, 'cleanup_fit', lambda self: found.append('cleaned'))
    for fitting, unsent, wanted in ((True, [False, True, False], ['checked', 'forgot']),
                                    (True, [False] * 3, ['checked']), (False, [True] * 3, [])):
        trainer = sharded()
        trainer.learn = SimpleNamespace(fitting=fitting)
        trainer._check_shares, trainer._forget_unsent = lambda: found.append('checked'), lambda: found.append('forgot')
        monkeypatch.setattr(room, 'gather_objects', lambda o, unsent=unsent: unsent)
        trainer.before_fit()
        assert found == wanted and sharding.before_forward == [trainer._before_call]
        found.clear()
        trainer.cleanup_fit()
        trainer.cleanup_fit()
        assert not sharding.before_forward and found == ['cleaned'] * 2
        found.clear()
