"""What a training step costs beyond forward, loss, backward and step: a tiny MLP on batches in memory, one thread.

    python -m benchmarks.loop [--rounds 16] [--peers]
"""
from __future__ import annotations

import contextlib
import io
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.peers import fastai_learner, has, peer_loops
from benchmarks.rounds import as_script, run_rounds, table

bs = 64


def make_batches(n: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """`n` batches of 64 rows: float [64,64] and int64 [64]."""
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(bs, 64, generator=generator), torch.randint(0, 10, (bs,), generator=generator))
            for _ in range(n)]


def make_model() -> nn.Module:
    """The 64-64-10 MLP."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def accuracy(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Share of right answers, []."""
    return (pred.argmax(-1) == target).float().mean()


def plain_train(batches: list, scheduler: bool = False):
    """A hand-written training epoch with torch's fused SGD."""
    model = make_model()
    opt = torch.optim.SGD(model.parameters(), lr=0.01, fused=True)

    def run() -> None:
        steps = torch.optim.lr_scheduler.OneCycleLR(opt, 0.01, total_steps=len(batches)) if scheduler else None
        model.train()
        for x, y in batches:
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            opt.step()
            opt.zero_grad()
            if steps is not None:
                steps.step()
    return run


def plain_valid(batches: list):
    """A hand-written validation pass with loss and accuracy."""
    model = make_model()

    def run() -> None:
        model.eval()
        total, right, seen = torch.tensor(0.), torch.tensor(0.), 0
        with torch.no_grad():
            for x, y in batches:
                pred = model(x)
                total += F.cross_entropy(pred, y) * len(y)
                right += accuracy(pred, y) * len(y)
                seen += len(y)
        return total / seen, right / seen
    return run


def minifast_train(batches: list, bar: bool = False, one_cycle: bool = False):
    """The same epoch through Learner with recorder and accuracy; `bar` leaves the progress callback on."""
    from minifast.data.core import DataLoaders
    from minifast.learner import Learner
    opt_func = partial(torch.optim.SGD, lr=0.01, momentum=0.9 if one_cycle else 0., fused=True)
    learn = Learner(DataLoaders(batches, batches[:1]), make_model(), F.cross_entropy, opt_func, metrics=accuracy)
    if not bar:
        learn.remove_cb(learn.progress)
        learn.logger = _silent

    def run() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            if one_cycle:
                learn.fit_one_cycle(1, 0.01)
            else:
                learn.fit(1)
    return run


def minifast_valid(batches: list):
    """`Learner.validate` with accuracy."""
    from minifast.data.core import DataLoaders
    from minifast.learner import Learner
    learn = Learner(DataLoaders(batches[:1], batches), make_model(), F.cross_entropy, metrics=accuracy)
    learn.remove_cb(learn.progress)
    learn.logger = _silent
    return learn.validate


def _silent(row: object) -> None:
    """A logger that prints nothing."""


def report(rounds: int = 12, peers: bool = False, size: str = 'small') -> str:
    """The three tables as Markdown."""
    torch.set_num_threads(1)
    n_batches, n_valid = (8, 8) if size == 'tiny' else (400, 200)
    batches, valid = make_batches(n_batches), make_batches(n_valid)
    train = {'plain loop': plain_train(batches), 'minifast': minifast_train(batches),
             'minifast, progress bar': minifast_train(batches, bar=True)}
    cycle = {'plain loop + OneCycleLR': plain_train(batches, scheduler=True),
             'minifast fit_one_cycle': minifast_train(batches, one_cycle=True)}
    validate = {'plain loop': plain_valid(valid), 'minifast': minifast_valid(valid)}
    others = peer_loops(batches, make_model, accuracy) if peers else {}
    if has('fastai', peers):
        import fastai.callback.schedule  # noqa: F401  gives its Learner fit_one_cycle
        learner = fastai_learner(batches, batches[:1], make_model(), accuracy)
        cycle['fastai fit_one_cycle'] = lambda: learner.fit_one_cycle(1, 0.01)
        validate['fastai'] = fastai_learner(batches[:1], valid, make_model(), accuracy).validate
    parts = [
        '### A training step (tiny MLP, batches in memory, SGD, 1 thread)',
        table(run_rounds(train, 2 * rounds), 'plain loop', n_batches,
              target={'minifast': 1.10, 'minifast, progress bar': 1.15}),
        '### A training step with a one-cycle schedule',
        table(run_rounds(cycle, rounds), 'plain loop + OneCycleLR', n_batches, target={'minifast fit_one_cycle': 1.15}),
        '### A validation step with accuracy',
        table(run_rounds(validate, rounds), 'plain loop', n_valid, target={'minifast': 1.15})]
    if others:
        everyone = {**{name: train[name] for name in ('plain loop', 'minifast')}, **others}
        parts += ['### The same training step in other frameworks',
                  table(run_rounds(everyone, max(rounds // 2, 1)), 'plain loop', n_batches)]
    return '\n\n'.join(parts)


if __name__ == '__main__':
    as_script(report, __doc__, 16)
