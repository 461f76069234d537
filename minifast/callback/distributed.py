"""Data-parallel training: many processes that train one model as one process would, and that end together."""
from __future__ import annotations

import warnings
import zlib
from typing import Any

import torch
import torch.distributed as dist
from fastcore.basics import noop
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import IterableDataset

from minifast import distributed
from minifast.arguments import tells_near_match
from minifast.callback.core import (Callback, CancelBackwardException, CancelBatchException, CancelEpochException,
                                    CancelException, CancelFitException, CancelStepException, CancelTrainException,
                                    CancelValidException)
from minifast.distributed import gather_objects, gather_rows, host_group, is_shared, reducing
from minifast.data.stream import kind_of
from minifast.markers import plain
from minifast.torch_core import find_bs, length_of

__all__ = ['DistributedTrainer', 'PeerError']


class PeerError(RuntimeError):
    """Another process of the training has failed; the message names it and its error."""


WELL, FAILED = 0, 9
_cancels = {CancelStepException: 1, CancelBackwardException: 2, CancelBatchException: 3, CancelTrainException: 4,
            CancelValidException: 5, CancelEpochException: 6, CancelFitException: 7}
"""What a rank tells the others of itself, the graver the higher."""
_raised_for = {status: error for error, status in _cancels.items()}

FORWARD, LOSS, BACKWARD, STEP, END, COLLECTIVE, START, NEXT = range(8)
"""Where in the loop ranks meet."""
NO_PART, TRAINING, VALIDATION = range(3)
_parts = 'no part', 'training', 'validation'
_places = ('before a forward pass', 'behind a loss', 'before a backward pass', 'before a step', 'at the end of a part',
           'before numbers are put together', 'at the start of a fit', 'before the next batch of a stream')


class DistributedTrainer(Callback):
    """Trains a learner with the processes that were started together: each on its share of every batch.

    A `Learner` attaches it where the environment says that several processes train, as torchrun does. torch's
    DistributedDataParallel sums the gradients; it is kept beside `learn.model`, which stays the user's own, and called
    for training alone. The gradients of a step are the means over the batch of all processes, whatever each has of it,
    and `learn.loss` is that batch's from `after_loss` on. Buffers, such as the statistics of batch norm, are the first
    process's at the end of each training part.

    What happens on one rank happens on all. Ranks tell each other that they are well once a step, behind the loss: one
    exchange of 56 bytes a rank between hosts, in which the loss goes along on a CPU; on a GPU there is one all_reduce
    of it more. There is another exchange before a backward pass and before a step if callbacks have a say there, and
    one before each collective outside of a step. A rank whose callback raises ends with its own error, the others with
    a `PeerError` that names it; a Cancel exception cancels on all. So no rank waits for one that has left, but where
    torch itself or code of the user's is in a collective; that ends by `setup_distrib`'s timeout.

    Args:
        sync_bn: batch norm over the batch of all processes: torch's SyncBatchNorm, which needs a GPU; on a CPU layers
            stay as they are.
        find_unused_parameters: for models of which a step may leave parameters unused; costs a walk over the graph.

    Attributes:
        seed: the first rank's, for what is drawn for a batch of all.
        n_items: items of the running batch in all processes, known from `after_loss` on.
        sync: set False in `before_batch` where no step follows the batch, so that gradients are not sent.

    Source: Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel Training", arXiv 2006.15704.
    """

    order, run_valid, identifies_run = -100, False, False

    @tells_near_match
    def __init__(self, sync_bn: bool = False, find_unused_parameters: bool = False) -> None:
        self.sync_bn, self.find_unused_parameters = sync_bn, find_unused_parameters
        self.rank, self.n_ranks = dist.get_rank(), dist.get_world_size()
        self.n_items, self.sync, self._weight = 0, True, 1.
        self._wrapped_for: Any = None
        self._at = [0, NO_PART, 0]  # epoch, part, batch
        self.seed: int | None = None
        self._answering, self._told, self._on_own = False, None, False
        self._meets = {BACKWARD: False, STEP: False}
        self._kept: dict[str, Any] = {}
        self._own_norms: list[tuple[nn.Module, str, nn.Module]] = []

    def state_dict(self) -> dict[str, Any]:
        """Nothing: what is kept here belongs to the running processes."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing, see `state_dict`."""

    # ------------------------------------------------------------ the shares of the data

    def share_out(self, dls: Any) -> None:
        """Have the loaders that are ours make this rank's share."""
        for dl in dls:
            if self._is_shareable(dl):
                dl.share_out(self.rank, self.n_ranks)

    def take_back(self, dls: Any) -> None:
        """Undo `share_out`."""
        for dl in dls:
            if self._is_shareable(dl):
                dl.share_out(0, 1)

    @staticmethod
    def _is_shareable(dl: Any) -> bool:
        return hasattr(type(dl), 'share_out') and dl.shareable

    def _check_loader(self, dl: Any) -> None:
        if is_shared(dl):
            return
        if isinstance(dl, TorchLoader) and isinstance(dl.dataset, IterableDataset):
            raise ValueError('the training loader is one of torch that reads a stream, and nobody could tell whether '
                             f'{self.n_ranks} processes read the same: give the data set of webdataset or datasets to '
                             'minifast.data.load.DataLoader(dataset, bs=...), which shares it out')
        if isinstance(dl, TorchLoader):
            raise ValueError('the training loader is one of torch without a DistributedSampler, so each of '
                             f'{self.n_ranks} processes would train on all of it: give it '
                             'sampler=torch.utils.data.DistributedSampler(dataset), or use '
                             'minifast.data.load.DataLoader, which is shared out by itself')
        kind = kind_of(getattr(dl, 'dataset', None))
        if kind is not None and hasattr(type(dl), 'share_out'):
            raise ValueError(f'the stream of the training loader ({type(dl.dataset).__name__}) cannot be shared out by '
                             f'{self.n_ranks} processes: {kind.why_not_shared(dl.dataset)}')
        raise ValueError(f'the training loader ({type(dl).__name__}) cannot be shared out by {self.n_ranks} processes: '
                         'it needs data with indices in a loader of minifast, or a torch loader with a '
                         'DistributedSampler')

    # ------------------------------------------------------------ a fit

    def before_fit(self) -> None:
        if not reducing():
            return
        distributed.before_collective.append(self._ask)
        learn, self._at = self.learn, [0, NO_PART, 0]
        self._kept['logger'] = learn.logger
        if self.rank:
            learn.logger = noop
        if not learn.fitting:
            return
        self._meet(START)
        heard = {BACKWARD: ('after_pred', 'after_loss', 'before_backward'),
                 STEP: ('after_cancel_backward', 'after_backward', 'before_step')}
        others = {place: any(not isinstance(cb, (DistributedTrainer, LastWord)) for name in names
                             for cb in learn.ordered_cbs(name)) for place, names in heard.items()}
        facts = gather_objects({'seed': learn.fit_seed, 'own': torch.initial_seed(), 'heard': others,
                                'what': self._what_is_trained()})
        for rank, found in enumerate(facts):
            self._compare(rank, facts[0]['what'], found['what'])
        self._check_loader(learn.dls.train)
        learn.fit_seed, self.seed = facts[0]['seed'], facts[0]['own']
        self._meets = {place: any(found['heard'][place] for found in facts) for place in heard}

    def _what_is_trained(self) -> dict[str, Any]:
        """What must be the same on all ranks, in few bytes."""
        learn = self.learn
        weights = list(learn.model.named_parameters())
        shapes = ' '.join(f'{name}{tuple(p.shape)}{p.dtype}{p.requires_grad}' for name, p in weights)
        told = f'{len(weights)} of {sum(p.numel() for _, p in weights)} numbers, checksum {zlib.crc32(shapes.encode())}'
        return {'number of training items': length_of(getattr(learn.dls.train, 'dataset', None)),
                'training items': _checksum(learn.dls.train), 'stream': _stream_facts(learn.dls.train),
                'number of training batches': length_of(learn.dls.train),
                'batch size': getattr(learn.dls.train, 'batch_size', None),
                'number of validation items': length_of(getattr(learn.dls[1], 'dataset', None))
                if len(learn.dls) > 1 else None,
                'parameters of the model': told, 'number of epochs': learn.n_epoch,
                'optimizer': type(learn.opt).__name__}

    def _compare(self, rank: int, first: dict[str, Any], found: dict[str, Any]) -> None:
        differs = [f'{name} ({first[name]} and {found[name]})' for name in first if first[name] != found[name]]
        if differs:
            raise ValueError(f'rank 0 and rank {rank} do not train the same: {", ".join(differs)} differ. All '
                             'processes need the same script and the same data')

    def before_epoch(self) -> None:
        if reducing():
            self._at = [self.learn.epoch if self.learn.fitting else 0, NO_PART, 0]

    def before_batch(self) -> None:
        self._at[2] = self.learn.iter

    def before_train(self) -> None:
        learn = self.learn
        self._at[1:] = TRAINING, 0
        dl = learn.dl
        if self._is_shareable(dl):
            dl.share_out(self.rank, self.n_ranks, fill=True, any_has=None if dl.indexed else self._any_has)
        elif hasattr(getattr(dl, 'sampler', None), 'set_epoch') and isinstance(dl, TorchLoader):
            dl.sampler.set_epoch(learn.epoch)
        trained = [id(p) for p in learn.model.parameters() if p.requires_grad]
        made_for = (id(learn.model), *trained)
        if self._wrapped_for != made_for:
            self._unwrap()
            self._ask()
            self._wrap(made_for)

    def _wrap(self, made_for: Any) -> None:
        learn, model = self.learn, self.learn.model
        device = next(model.parameters()).device
        if self.sync_bn and device.type != 'cpu':
            self._own_norms = _with_synced_norms(model)
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', message='.*broadcast_buffers.*', category=FutureWarning)
            learn.wrapped = DistributedDataParallel(
                model, device_ids=[device] if device.type == 'cuda' else None, broadcast_buffers=False,
                find_unused_parameters=self.find_unused_parameters)
        for b in model.buffers():
            dist.broadcast(b, 0)
        self._wrapped_for, self._n_synced = made_for, 0

    def _unwrap(self) -> None:
        learn = self.learn
        if learn.wrapped is not None:
            learn.wrapped._remove_autograd_hooks()  # they would go on summing while somebody else holds the wrapper
        learn.wrapped, self._wrapped_for = None, None
        for parent, name, norm in self._own_norms:
            setattr(parent, name, norm)
        self._own_norms = []

    def after_loss(self) -> None:
        learn = self.learn
        if not len(learn.yb):
            return
        own = 0 if getattr(learn.dl, 'stands_in', False) else find_bs(learn.yb)
        loss = plain(learn.loss).detach()
        loss = loss if loss.ndim == 0 else loss.mean()
        sums = getattr(learn.own_loss, 'reduction', 'mean') == 'sum'
        weighted = loss * (min(own, 1) if sums else own) if own else torch.zeros_like(loss)  # not the stand-in's
        here = loss.device.type == 'cpu'
        self.n_items, total = self._meet(LOSS, own, float(weighted) if here else 0.)  # sync: none, on the CPU
        n = 1 if sums else max(self.n_items, 1)
        self._weight = (min(own, 1) if sums else own) / n * self.n_ranks
        if here:
            learn.loss = torch.tensor(total / n, dtype=loss.dtype)
        else:
            dist.all_reduce(weighted)
            learn.loss = weighted / n

    def batch_of_all(self, parts: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """The batch of all ranks, in the order of the data, and where in it this rank's rows are.

        Args:
            parts: tensors [n,...] of this rank's batch.
        """
        stands_in, n = getattr(self.learn.dl, 'stands_in', False), len(parts[0])
        gathered = [gather_rows(None if stands_in else part) for part in parts]
        own = torch.arange(len(gathered[0]))[slice(self.rank, None, self.n_ranks)]
        return gathered, torch.arange(n) if stands_in else own

    def _any_has(self, own: bool) -> bool:
        """Whether any rank has another batch of a stream: the others' parts may be longer than this one's."""
        return self._meet(NEXT, int(own))[0] > 0

    def after_train(self) -> None:
        dl = self.learn.dl
        if self._is_shareable(dl) and not dl.indexed:  # whoever reads it by hand need not wait for others
            dl.share_out(self.rank, self.n_ranks)
        self._end_of_part()
        if reducing() and self.learn.fitting:
            self.broadcast_buffers()

    def broadcast_buffers(self) -> None:
        """Give all ranks the buffers of the first, after which what they measure is one model's."""
        self._ask()
        for b in self.learn.model.buffers():
            dist.broadcast(b, 0)

    def before_validate(self) -> None:
        dl = self.learn.dl
        if reducing():
            self._at[1:] = VALIDATION, 0  # in which ranks may have fewer batches than others
        if self._is_shareable(dl) and is_shared(dl):
            dl.share_out(self.rank, self.n_ranks)
        if reducing() and not is_shared(dl):  # each rank has all of it
            self._on_own = distributed.on_own()
            self._on_own.__enter__()

    def after_validate(self) -> None:
        self._end_of_part()

    def leave_own(self) -> None:
        """The validation of a loader that each rank has all of is over."""
        if self._on_own:
            self._on_own, own = False, self._on_own
            own.__exit__(None, None, None)

    def cleanup_fit(self) -> None:
        self.leave_own()
        if self._ask in distributed.before_collective:
            distributed.before_collective.remove(self._ask)
        vars(self.learn).update(self._kept)
        self._kept, self._answering, self.sync = {}, False, True
        self._unwrap()

    # ------------------------------------------------------------ ending together

    def _where(self, place: int) -> tuple[int, int, int]:
        return (0, 0, 0) if place == START else tuple(self._at)

    def _exchange(self, place: int, status: int, n_items: int = 0, loss: float = 0.) -> list[list[float]]:
        own = torch.tensor([status, place, *self._where(place), n_items, loss], dtype=torch.float64)
        rows = [torch.empty_like(own) for _ in range(self.n_ranks)]
        try:
            dist.all_gather(rows, own, group=host_group())
        except RuntimeError as error:  # as torch has it for a connection that is closed, and for the timeout
            raise PeerError(f'rank {self.rank} waited for the others {_places[place]}, and one has gone without a '
                            f'word, or did not come in time: {error}') from error
        return torch.stack(rows).tolist()  # sync: none, numbers of the hosts

    def _meet(self, place: int, n_items: int = 0, loss: float = 0.) -> tuple[int, float]:
        """Ask whether all ranks are well and here; returns their items and losses, summed.

        Raises:
            PeerError: one has failed, or is elsewhere in the loop.
            CancelException: one has cancelled a part of the loop that this rank is in.
        """
        if not reducing():
            return n_items, loss
        while True:
            rows = self._exchange(place, WELL, n_items, loss)
            if any(row[0] == FAILED for row in rows):
                self._raise_failure(gather_objects(None))
            if not any(row[0] for row in rows):
                self._check_same_place(rows)
                return int(sum(row[5] for row in rows)), sum(row[6] for row in rows)
            self._answer(max((row[0] for row in rows if self._concerns(row, place)), default=WELL), place)

    def _answer(self, status: int, place: int) -> None:
        """Cancel as another rank has done."""
        if status == WELL:
            return
        error = _raised_for[status]
        if place == END and status in (_cancels[CancelTrainException], _cancels[CancelValidException]):
            self._answering = True  # the part is over here; what was recorded of it is left out as it is there
            self.learn('after_cancel_train' if error is CancelTrainException else 'after_cancel_validate')
            return
        self._answering = True
        raise error

    def _concerns(self, row: list[float], place: int) -> bool:
        """Whether this rank is in the part of the loop that another one has cancelled."""
        status, _, *where, _, _ = row
        here = list(self._where(place))
        if status in (WELL, FAILED) or place == START:
            return False
        depth = {CancelFitException: 0, CancelEpochException: 1, CancelTrainException: 2,
                 CancelValidException: 2}.get(_raised_for[status], 3)
        return where[:depth] == here[:depth] and not (depth == 3 and (place in (END, NEXT) or here[1] != TRAINING))

    def _check_same_place(self, rows: list[list[float]]) -> None:
        own = rows[self.rank]
        for rank, row in enumerate(rows):
            if row[1:5] != own[1:5]:
                raise PeerError(f'the ranks have come apart: rank {self.rank} is {_told_place(own)}, rank {rank} '
                                f'{_told_place(row)}. Do their loaders give the same number of batches, and do all '
                                'ranks call the same methods?')

    def _raise_failure(self, texts: list[str | None]) -> None:
        failed = [f'rank {rank} has failed with {text}' for rank, text in enumerate(texts) if text]
        raise PeerError(f'{"; ".join(failed)}. This is rank {self.rank}, which ends with it')

    def _ask(self) -> None:
        self._meet(COLLECTIVE)

    def _end_of_part(self) -> None:
        self._at[2] = 0
        self._meet(END)

    def _tell(self, error: type[CancelException]) -> None:
        """Tell the others that a hook of this rank has cancelled a part of the loop."""
        if self._answering or not reducing():
            self._answering = False
            return
        own = _cancels[error]
        rows = self._exchange(COLLECTIVE, own)
        if any(row[0] == FAILED for row in rows):
            self._raise_failure(gather_objects(None))
        graver = max((row[0] for row in rows if self._concerns(row, COLLECTIVE)), default=own)
        if graver > own and {graver, own} != {4, 5}:
            self._answering = True
            raise _raised_for[graver]

    def after_cancel_step(self) -> None:
        self._tell(CancelStepException)

    def after_cancel_backward(self) -> None:
        self._tell(CancelBackwardException)

    def after_cancel_batch(self) -> None:
        self._tell(CancelBatchException)

    def after_cancel_train(self) -> None:
        self._tell(CancelTrainException)

    def after_cancel_validate(self) -> None:
        self._tell(CancelValidException)

    def after_cancel_epoch(self) -> None:
        self._tell(CancelEpochException)

    def after_cancel_fit(self) -> None:
        self._tell(CancelFitException)

    def fit_ends(self) -> None:
        """Nobody has failed until here."""
        self._meet(START)

    def failed(self, error: BaseException) -> None:
        """Tell the others that this rank ends with an error; they end too."""
        if 'find_unused_parameters' in str(error) and hasattr(error, 'add_note'):
            error.add_note('with minifast: learn.to_distributed(find_unused_parameters=True)')
        if isinstance(error, PeerError) or error is self._told or not reducing():
            return
        self._told = error
        try:
            self._exchange(START, FAILED)
            gather_objects(f'{type(error).__name__}: {error}')
        except PeerError as lost:  # the others have gone, and this rank has an error of its own
            if hasattr(error, 'add_note'):
                error.add_note(f'the other ranks could not be told: {lost}')


class LastWord(Callback):
    """What `DistributedTrainer` does behind all other callbacks of an event."""

    order, run_valid, identifies_run = 10 ** 6, False, False

    def __init__(self, trainer: DistributedTrainer) -> None:
        self.trainer = trainer

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing."""

    def before_batch(self) -> None:
        trainer, wrapped = self.trainer, self.learn.wrapped
        if trainer._n_synced < 2 or trainer._own_norms:  # in these torch itself puts numbers together on the way
            trainer._meet(FORWARD)
        wrapped.require_backward_grad_sync = trainer.sync
        trainer._n_synced += trainer.sync
        trainer.sync = True

    def before_backward(self) -> None:
        trainer = self.trainer
        if trainer._meets[BACKWARD]:
            trainer._meet(BACKWARD)
        self.learn.loss_grad = self.learn.loss_grad * trainer._weight

    def before_step(self) -> None:
        if self.trainer._meets[STEP]:
            self.trainer._meet(STEP)

    def before_validate(self) -> None:
        if reducing() and self.learn.fitting:
            self.trainer.broadcast_buffers()  # those that an average has put in their place too

    def after_validate(self) -> None:
        self.trainer.leave_own()


def _told_place(row: list[float]) -> str:
    _, place, epoch, part, i, _, _ = map(int, row)
    return f'{_places[place]} in epoch {epoch}, batch {i} of {_parts[part]}'


def _checksum(dl: Any) -> int | None:
    """Of some hundred of a loader's items, by their names; None where they have none."""
    items = getattr(getattr(dl, 'dataset', None), 'items', None)
    if items is None or callable(items) or not hasattr(items, '__len__') or hasattr(items, 'iloc'):
        return None
    step = max(len(items) // 256, 1)
    return zlib.crc32(' '.join(str(getattr(items[i], 'name', type(items[i]).__name__))
                               for i in range(0, len(items), step)).encode())


def _stream_facts(dl: Any) -> str | None:
    """What a stream is made of, None for other data."""
    dataset = getattr(dl, 'dataset', None)
    kind = kind_of(dataset)
    return None if kind is None else kind.facts(dataset)


def _with_synced_norms(model: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """Put torch's SyncBatchNorm in the place of batch norm layers, with the same parameters and buffers; returns what
    stood where."""
    replaced = []
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.modules.batchnorm._BatchNorm) and not isinstance(child, nn.SyncBatchNorm):
                setattr(parent, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
                replaced.append((parent, name, child))
    return replaced
