"""Data-parallel training: many processes that train one model, whole or in shares, as one would, and end together."""
from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from fastcore.basics import noop
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import IterableDataset

from minifast import distributed, sharding
from minifast.arguments import tells_near_match
from minifast.callback.core import (Callback, CancelBackwardException, CancelBatchException, CancelEpochException,
                                    CancelException, CancelFitException, CancelStepException, CancelTrainException,
                                    CancelValidException)
from minifast.data.stream import kind_of
from minifast.distributed import (PeerError, from_first, gather_objects, gather_rows, host_group, is_distributed,
                                  is_rank0_alone, is_shared, reducing)
from minifast.markers import plain
from minifast.sharding import Units, in_shares, put_in_shares
from minifast.terminal import listed
from minifast.torch_core import find_bs, length_of

__all__ = ['DistributedTrainer', 'PeerError', 'ShardedTrainer']


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

_all_gather = getattr(dist, 'all_gather_single', None) or dist.all_gather_into_tensor  # the older name


class DistributedTrainer(Callback):
    """Trains a learner with the processes that were started together: each on its share of every batch.

    A `Learner` attaches it where the environment says that several processes train, as torchrun does. torch's
    DistributedDataParallel sums the gradients; it is kept beside `learn.model`, which stays the user's own, and called
    for training alone. The gradients of a step are the means over the batch of all processes, whatever each has of it,
    and `learn.loss` is that batch's from `after_loss` on. Buffers, such as the statistics of batch norm, are the first
    process's at the end of each training part.

    What happens on one rank happens on all. Ranks tell each other that they are well once a step, behind the loss: one
    exchange of 64 bytes a rank between hosts, in which the loss goes along on a CPU; on a GPU there is one all_reduce
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
        wishes: functions that say what this rank wishes: nothing (0), a `CHECKPOINT`, or one and to leave then
            (`LEAVING`); asked whenever ranks meet.
        wished: the most that a rank has wished since the loss of the running training batch; all know it alike.

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
        self._rows: Tensor | None = None  # of an exchange, [ranks * columns]
        self._own_norms: list[tuple[nn.Module, str, nn.Module]] = []
        self.wishes: list[Callable[[], int]] = []
        self.wished = 0

    def state_dict(self) -> dict[str, Any]:
        """Nothing: what is kept here belongs to the running processes."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing is done with `state`, see `state_dict`."""

    # ------------------------------------------------------------ the shares of the data

    def share_out(self, dls: Any) -> None:
        """Have those of the loaders `dls` that are ours make this rank's share."""
        for dl in dls:
            if self._is_shareable(dl):
                dl.share_out(self.rank, self.n_ranks)

    def take_back(self, dls: Any) -> None:
        """Undo `share_out(dls)`."""
        for dl in dls:
            if self._is_shareable(dl):
                dl.share_out(0, 1)

    @staticmethod
    def _is_shareable(dl: Any) -> bool:
        return hasattr(type(dl), 'share_out') and dl.shareable

    def _check_loader(self, dl: Any) -> None:
        dataset = getattr(dl, 'dataset', None)
        n = length_of(dataset) if kind_of(dataset) is None else None
        if n is not None and n < self.n_ranks:
            raise ValueError(f'the {n} training items are too few for {self.n_ranks} processes, of which some would '
                             f'never have one: start at most {n}')
        if is_shared(dl) or self.n_ranks == 1:
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
        kind = kind_of(dataset)
        if kind is not None and hasattr(type(dl), 'share_out'):
            raise ValueError(f'the stream of the training loader ({type(dataset).__name__}) cannot be shared out by '
                             f'{self.n_ranks} processes: {kind.why_not_shared(dataset)}')
        raise ValueError(f'the training loader ({type(dl).__name__}) cannot be shared out by {self.n_ranks} processes: '
                         'it needs data with indices in a loader of minifast, or a torch loader with a '
                         'DistributedSampler')

    # ------------------------------------------------------------ a fit

    def prepare(self) -> None:
        """Called where the learner is to make an optimizer."""

    def before_fit(self) -> None:
        if not self._in_touch():
            return
        distributed.before_collective.append(self._ask)
        self.wished = 0
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
        return {'number of training items': length_of(getattr(learn.dls.train, 'dataset', None)),
                'training items': _checksum(learn.dls.train), 'stream': _stream_facts(learn.dls.train),
                'number of training batches': length_of(learn.dls.train),
                'batch size': getattr(learn.dls.train, 'batch_size', None),
                'number of validation items': length_of(getattr(learn.dls[1], 'dataset', None))
                if len(learn.dls) > 1 else None,
                **self._what_is_shared(), 'number of epochs': learn.n_epoch,
                'optimizer': type(learn.opt).__name__}

    def _what_is_shared(self) -> dict[str, Any]:
        weights = list(self.learn.model.named_parameters())
        shapes = ' '.join(f'{name}{tuple(p.shape)}{p.dtype}{p.requires_grad}' for name, p in weights)
        return {'parameters of the model': f'{len(weights)} of {sum(p.numel() for _, p in weights)} numbers, checksum '
                                           f'{zlib.crc32(shapes.encode())}'}

    def _compare(self, rank: int, first: dict[str, Any], found: dict[str, Any]) -> None:
        differs = [f'{name} ({first[name]} and {found[name]})' for name in first if first[name] != found[name]]
        if differs:
            raise ValueError(f'rank 0 and rank {rank} do not train the same: {", ".join(differs)} differ. All '
                             'processes need the same script and the same data')

    def before_epoch(self) -> None:
        if self._in_touch():
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
                _Called(model), device_ids=[device] if device.type == 'cuda' else None, broadcast_buffers=False,
                find_unused_parameters=self.find_unused_parameters)
        _settle(learn.wrapped)
        for b in model.buffers():
            dist.broadcast(b, 0)
        self._wrapped_for = made_for

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

    def forward_starts(self) -> None:
        """What a training's forward pass needs; behind it `sync` is true again."""
        if self._own_norms:  # which put numbers together on the way
            self._meet(FORWARD)
        self.learn.wrapped.require_backward_grad_sync = self.sync
        self.sync = True

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

    @property
    def is_between_steps(self) -> bool:
        """Whether a checkpoint can be written: gradients that each process has for itself may have no place in it."""
        return True

    def broadcast_buffers(self) -> None:
        """Give all ranks the buffers of the first, after which what they measure is one model's."""
        self._ask()
        for b in self.learn.model.buffers():
            dist.broadcast(b, 0)

    def before_validate(self) -> None:
        dl = self.learn.dl
        if self._in_touch():
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

    def _in_touch(self) -> bool:
        """Whether the ranks tell each other how they are: not in what each does on its own."""
        return reducing()

    def _where(self, place: int) -> tuple[int, int, int]:
        return (0, 0, 0) if place == START else tuple(self._at)

    def _exchange(self, place: int, status: int, n_items: int = 0, loss: float = 0.) -> list[list[float]]:
        wish = max((wish() for wish in self.wishes), default=0)
        own = torch.tensor([status, place, *self._where(place), n_items, loss, wish], dtype=torch.float64)
        if self._rows is None:  # once: a tensor for each row, anew each time, is a fifth of what this takes
            self._rows = own.new_empty(self.n_ranks * len(own))
        try:
            _all_gather(self._rows, own, group=host_group())
        except RuntimeError as error:  # as torch has it for a connection that is closed, and for the timeout
            raise PeerError(f'rank {self.rank} waited for the others {_places[place]}, and one has gone without a '
                            f'word, or did not come in time: {error}') from error
        found = self._rows.view(self.n_ranks, -1).tolist()  # sync: none, numbers of the hosts
        self.wished = max(0 if place == LOSS else self.wished, *(int(row[7]) for row in found))
        return found

    def _meet(self, place: int, n_items: int = 0, loss: float = 0.) -> tuple[int, float]:
        """Ask whether all ranks are well and here; returns their items and losses, summed.

        Raises:
            PeerError: one has failed, or is elsewhere in the loop.
            CancelException: one has cancelled a part of the loop that this rank is in.
        """
        if not self._in_touch():
            return n_items, loss
        while True:
            rows = self._exchange(place, WELL, n_items, loss)
            if any(row[0] == FAILED for row in rows):
                self._raise_failure(gather_objects(None))
            if not any(row[0] for row in rows):
                if self._are_together(rows):
                    return int(sum(row[5] for row in rows)), sum(row[6] for row in rows)
                continue
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
        status, _, *where = row[:5]
        here = list(self._where(place))
        if status in (WELL, FAILED) or place == START:
            return False
        depth = {CancelFitException: 0, CancelEpochException: 1, CancelTrainException: 2,
                 CancelValidException: 2}.get(_raised_for[status], 3)
        return where[:depth] == here[:depth] and not (depth == 3 and (place in (END, NEXT) or here[1] != TRAINING))

    def _are_together(self, rows: list[list[float]]) -> bool:
        """Whether this rank goes on from here; else it asks again.

        Raises:
            PeerError: a rank is elsewhere in the loop.
        """
        own = rows[self.rank]
        for rank, row in enumerate(rows):
            if row[1:5] != own[1:5]:
                raise PeerError(f'the ranks have come apart: rank {self.rank} is {_told_place(own)}, rank {rank} '
                                f'{_told_place(row)}. Do their loaders give the same number of batches, and do all '
                                'ranks call the same methods?')
        return True

    def from_first(self, make: Callable[[], Any], starting: bool = False) -> Any:
        """What `make` returns on the first rank, on all; an error of it ends all.

        Args:
            make: called on the first rank alone; its result is data that pickle takes.
            starting: the fit has not begun.
        """
        made = make() if self.rank == 0 else None
        self._meet(START if starting else COLLECTIVE)
        return from_first(made)

    def check_same(self, facts: dict[str, Any]) -> None:
        """Refuse a fit that is about to start where one of the `facts`, name -> data, is not the same on all ranks.

        Raises:
            ValueError: it is not.
        """
        self._meet(START)
        told = gather_objects(facts)
        for rank, found in enumerate(told):
            self._compare(rank, told[0], found)

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
        if self._answering or not self._in_touch():
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
        """Tell the others that this rank ends with `error`; they end too."""
        if 'find_unused_parameters' in str(error) and hasattr(error, 'add_note'):
            error.add_note('with minifast: learn.to_distributed(find_unused_parameters=True)')
        if isinstance(error, PeerError) or error is self._told or not self._in_touch():
            return
        self._told = error
        try:
            self._exchange(START, FAILED)
            gather_objects(f'{type(error).__name__}: {error}')
        except PeerError as lost:  # the others have gone, and this rank has an error of its own
            if hasattr(error, 'add_note'):
                error.add_note(f'the other ranks could not be told: {lost}')


class ShardedTrainer(DistributedTrainer):
    """Trains as its base does, and each process keeps only a part of every parameter, gradient and optimizer's average.

    The model is put in shares where its optimizer is made, by torch's `fully_shard`, and stays in them behind the fit:
    the same object with the same names, its parameters `DTensor`s. For a forward and a backward pass the parts of a
    unit are put together, see `minifast.sharding.units_of`; so each call of the model needs all processes, that for one
    prediction too. They meet before it. In a validation a process without an item in the last batch goes along with the
    others' pass. `learn.save`, `load` and `export` work with whole tensors and need all processes as well.

    Args:
        sync_bn, find_unused_parameters: as the base has them; with `sync_bn` the layers stay SyncBatchNorm.
        units: which modules are gathered on their own, see `minifast.sharding.units_of`.

    Source: Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", arXiv 2304.11277.
    """

    @tells_near_match
    def __init__(self, sync_bn: bool = False, find_unused_parameters: bool = False, units: Units | None = None) -> None:
        super().__init__(sync_bn, find_unused_parameters)
        self.units, self._synced = units, True
        self._goes_along = self._has_run = self._unsent = False

    def prepare(self) -> None:
        """Put the model in shares, for an optimizer of these.

        Raises:
            ValueError: the ranks have different models, or one with parameters that cannot be cut.
        """
        model = self.learn.own_model
        if in_shares(model):
            return
        self.check_same(self._what_is_shared())
        first = next(model.parameters(), None)
        if self.sync_bn and first is not None and first.device.type != 'cpu':
            _with_synced_norms(model)
        put_in_shares(model, self.units)
        if self.find_unused_parameters:
            model.set_reduce_scatter_unused_params(True)

    def before_fit(self) -> None:
        sharding.before_forward.append(self._before_call)
        super().before_fit()
        if self.learn.fitting:
            self._check_shares()
            if any(gather_objects(self._unsent)):
                self._forget_unsent()

    def _check_shares(self) -> None:
        learn = self.learn
        if not in_shares(learn.own_model):
            raise ValueError("the optimizer was made before the model is put in shares, as strategy='fsdp' wants: "
                             'learn.create_opt(), or fit(..., reset_opt=True), makes it anew')
        named = dict(learn.own_model.named_parameters())
        added = [name for name, p in named.items() if not sharding.is_share(p)]
        if added:
            raise ValueError(f'the model has got {listed(added, 6)} since it was put in shares, which each process '
                             'would train for itself: change a model before its first fit')
        held = {id(p) for group in learn.opt.param_groups for p in group['params']}
        if not any(id(p) in held for p in named.values()):
            raise ValueError('the optimizer holds no parameter of the model, which has been put in shares since: as '
                             'opt_func give a class or a function that makes one, then learn.create_opt()')

    @property
    def is_between_steps(self) -> bool:
        return not self._unsent

    def _wrap(self, made_for: Any) -> None:
        for b in self.learn.model.buffers():
            dist.broadcast(b, 0)
        self._wrapped_for = made_for

    def _unwrap(self) -> None:
        model, self._wrapped_for = self.learn.own_model, None
        if self._has_run and in_shares(model) and hasattr(model, 'reset_iter_state'):  # torch 2.14 has it
            model.reset_iter_state()  # an error or a cancel may have come between a forward and its backward pass
        self._has_run = False

    def forward_starts(self) -> None:
        """Let gradients be sent or not; the meeting is `_before_call`'s."""
        self.learn.own_model.set_requires_gradient_sync(self.sync)
        self._synced, self._unsent, self.sync = self.sync, self._unsent or not self.sync, True

    def after_backward(self) -> None:
        if self._synced:
            self._unsent = False

    def _forget_unsent(self) -> None:
        """Drop gradients that a fit which ended early has added up and not sent; they hang on the whole weights."""
        model, self._unsent = self.learn.own_model, False
        for unit in filter(in_shares, model.modules()):
            unit.unshard()
            model.zero_grad()
            unit.reshard()

    def cleanup_fit(self) -> None:
        if self._before_call in sharding.before_forward:
            sharding.before_forward.remove(self._before_call)
        super().cleanup_fit()

    # ------------------------------------------------------------ a call of the model

    def _in_touch(self) -> bool:
        return is_distributed()

    def _before_call(self) -> None:
        """
        Raises:
            RuntimeError: the other processes do not come here.
        """
        if self._goes_along:
            return
        if is_rank0_alone():
            raise RuntimeError("with strategy='fsdp' a model is called by all processes together, and this callback, "
                               'which has only_rank0 = True, runs in the first alone: let it run in all, and write '
                               "where minifast.distributed.rank_distrib() is 0; or train with strategy='ddp'")
        self._meet(FORWARD)
        self._has_run = True

    def _are_together(self, rows: list[list[float]]) -> bool:
        own = rows[self.rank]
        if own[3] == VALIDATION and {row[1] for row in rows} == {FORWARD, END} and all(row[2:4] == own[2:4]
                                                                                      for row in rows):
            if own[1] == END:
                self._go_along()
            return own[1] == FORWARD
        return super()._are_together(rows)

    def _go_along(self) -> None:
        """Make a forward pass whose result nobody wants: others have a batch more."""
        learn = self.learn
        xb = learn.xb
        if not any(isinstance(x, Tensor) for x in xb):  # there has been no batch here
            batch = learn._set_device(learn.dl.one_batch() if hasattr(learn.dl, 'one_batch') else next(iter(learn.dl)))
            xb = batch[:learn._n_inp if learn._n_inp is not None else max(len(batch) - 1, 1)]
        self._goes_along = True
        try:
            learn.model(*map(plain, xb))
        finally:
            self._goes_along = False

    def failed(self, error: BaseException) -> None:
        if 'mixed torch.Tensor and DTensor' in str(error) and hasattr(error, 'add_note'):
            error.add_note('with minifast: weights in shares are used outside of a call of the module that they belong '
                           "to. learn.to_distributed(strategy='fsdp', units=...) with fewer or larger units may help")
        super().failed(error)


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
        self.trainer.forward_starts()

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
    place, epoch, part, i = map(int, row[1:5])
    return f'{_places[place]} in epoch {epoch}, batch {i} of {_parts[part]}'


def _checksum(dl: Any) -> int | None:
    """Of some hundred of a loader's items, by their names; None where they have none."""
    items = getattr(getattr(dl, 'dataset', None), 'items', None)
    if items is None or callable(items) or not hasattr(items, '__len__') or hasattr(items, 'iloc'):
        return None
    step = max(len(items) // 256, 1)
    return zlib.crc32(' '.join(str(getattr(items[i], 'name', type(items[i]).__name__))
                               for i in range(0, len(items), step)).encode())


class _Called(nn.Module):
    """A model as it is called, and a stand-in for it that costs nothing and uses all parameters."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *xb: Any, stand_in: bool = False) -> Any:
        if not stand_in:
            return self.model(*xb)
        sparse = {m.weight for m in self.model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag)) and m.sparse}
        first = torch.zeros(1, dtype=torch.long, device=next(self.parameters()).device)
        # gradients laid out as their weights are, which torch looks at
        return sum((p * torch.zeros_like(p) if p not in sparse else nn.functional.embedding(first, p, sparse=True) * 0)
                   .sum() for p in self.model.parameters() if p.requires_grad)


def _settle(wrapped: DistributedDataParallel) -> None:
    """Have torch lay out the gradients for good, which it does behind its first backward pass.

    Another layout sums the numbers of three and more ranks in another order: a training that goes on after a restart
    would begin with the first layout again, and would not end in the same bits.
    """
    params = list(wrapped.parameters())
    kept = [p.grad for p in params]
    for _ in range(2):
        for p in params:
            p.grad = None
        wrapped(stand_in=True).backward()
    for p, grad in zip(params, kept):
        p.grad = grad


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
