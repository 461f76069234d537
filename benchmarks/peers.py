"""The tiny training epoch of `benchmarks.loop` in the other frameworks; those that are not installed are left out."""
from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F


def fastai_learner(train: list, valid: list, model: torch.nn.Module, accuracy: Callable, bar: bool = False) -> Any:
    """fastai's Learner on batches in memory, with recorder and accuracy."""
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import SGD
    learn = Learner(DataLoaders(train, valid), model, F.cross_entropy, SGD, lr=0.01, metrics=accuracy)
    if not bar and hasattr(learn, 'progress'):
        learn.remove_cb(learn.progress)
    learn.logger = lambda row: None
    return learn


class _Batches:
    """Batches in memory as something that is no list: Lightning takes a list for several loaders."""

    def __init__(self, batches: list) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def _quiet(f: Callable, *args: Any) -> Callable:
    def run() -> None:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), \
                warnings.catch_warnings():
            warnings.simplefilter('ignore')
            f(*args)
    return run


def _fastai(batches: list, make_model: Callable, accuracy: Callable) -> dict[str, Callable]:
    silent = fastai_learner(batches, batches[:1], make_model(), accuracy)
    barred = fastai_learner(batches, batches[:1], make_model(), accuracy, bar=True)
    return {'fastai': _quiet(silent.fit, 1), 'fastai, progress bar': _quiet(barred.fit, 1)}


def _lightning(batches: list, make_model: Callable, accuracy: Callable) -> dict[str, Callable]:
    import lightning
    logging.getLogger('lightning.pytorch').setLevel(logging.ERROR)

    class Module(lightning.LightningModule):
        """The MLP; `logged` tells Lightning the loss of each step, as its guides do."""

        def __init__(self, logged: bool) -> None:
            super().__init__()
            self.model, self.logged = make_model(), logged

        def training_step(self, batch: tuple, batch_idx: int) -> torch.Tensor:
            loss = F.cross_entropy(self.model(batch[0]), batch[1])
            if self.logged:
                self.log('train_loss', loss, prog_bar=True)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    off = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)

    def fit(module: Module, folder: str, **settings: Any) -> None:
        trainer = lightning.Trainer(max_epochs=1, accelerator='cpu', default_root_dir=folder, **settings)
        trainer.fit(module, _Batches(batches))

    def defaults(module: Module) -> None:
        with tempfile.TemporaryDirectory() as folder:
            fit(module, folder)

    return {'Lightning, everything off': _quiet(lambda: fit(Module(False), '.', **off)),
            'Lightning, defaults': _quiet(lambda: defaults(Module(True)))}


def _ignite(batches: list, make_model: Callable, accuracy: Callable) -> dict[str, Callable]:
    from ignite.engine import create_supervised_trainer
    from ignite.metrics import RunningAverage
    model = make_model()
    opt = torch.optim.SGD(model.parameters(), lr=0.01, fused=True)
    bare = create_supervised_trainer(model, opt, F.cross_entropy)
    averaged = create_supervised_trainer(model, opt, F.cross_entropy)
    RunningAverage(output_transform=lambda loss: loss).attach(averaged, 'loss')
    return {'Ignite, bare': lambda: bare.run(batches, max_epochs=1),
            'Ignite, running loss': lambda: averaged.run(batches, max_epochs=1)}


def _skorch(batches: list, make_model: Callable, accuracy: Callable) -> dict[str, Callable]:
    from skorch import NeuralNetClassifier

    def iterator(dataset: Any, **settings: Any) -> list:
        return batches

    net = NeuralNetClassifier(make_model, criterion=torch.nn.CrossEntropyLoss, optimizer=torch.optim.SGD,
                              optimizer__fused=True, lr=0.01, max_epochs=1, train_split=None, iterator_train=iterator,
                              callbacks__print_log=None, classes=list(range(10)))
    net.initialize()
    x, y = batches[0]
    return {'skorch': _quiet(lambda: net.partial_fit(x, y))}


def _accelerate(batches: list, make_model: Callable, accuracy: Callable) -> dict[str, Callable]:
    from accelerate import Accelerator
    accelerator = Accelerator(cpu=True)
    model = make_model()
    model, opt = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.01, fused=True))

    def run() -> None:
        model.train()
        for x, y in batches:
            loss = F.cross_entropy(model(x), y)
            accelerator.backward(loss)
            opt.step()
            opt.zero_grad()
    return {'accelerate': run}


def peer_loops(batches: list, make_model: Callable, accuracy: Callable) -> dict[str, Callable]:
    """Name -> one training epoch, for every framework that is installed."""
    makers = {'fastai': _fastai, 'lightning': _lightning, 'ignite': _ignite, 'skorch': _skorch,
              'accelerate': _accelerate}
    loops: dict[str, Callable] = {}
    for package, maker in makers.items():
        if find_spec(package):
            loops.update(maker(batches, make_model, accuracy))
    return loops


def has(package: str, peers: bool) -> bool:
    """Whether peers are asked for and this one is installed."""
    return peers and find_spec(package) is not None
