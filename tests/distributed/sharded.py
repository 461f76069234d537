"""Run by torchrun with STRATEGY=fsdp, or alone: what is special about a model in shares; ranks write what they met."""
from __future__ import annotations

import json
import sys
import warnings
from functools import partial
from pathlib import Path

import torch
from failing import agreed, met
from safetensors.torch import save_file
from torch import nn
from training import items, learner, loaders, weights
from writing import CONTRACT

from minifast.callback.core import Callback, CancelFitException
from minifast.callback.training import EMA, GradientAccumulation
from minifast.distributed import barrier, gather_objects, num_distrib, rank_distrib, setup_distrib
from minifast.learner import load_learner
from minifast.metrics import accuracy
from minifast.optimizer import SGD, Adam, Lamb, Larc, Lookahead, QHAdam, RAdam, RMSProp
from minifast.sharding import in_shares, is_share, whole_state
from minifast.shards import load_shares, save_sharded, save_shares
from minifast.test_utils import synth_learner
from minifast.testing import check_callback

OPTIMIZERS = {
    'SGD': SGD, 'L2': partial(SGD, mom=.9, decouple_wd=False, wd=.1), 'Adam': Adam, 'RMSProp': partial(RMSProp, mom=.9),
    'RAdam': RAdam, 'QHAdam': QHAdam, 'Larc': Larc, 'Lamb': Lamb,
    'Lookahead': lambda ps, **kw: Lookahead(Adam(ps, **kw)),
    'torch.SGD': partial(torch.optim.SGD, momentum=.9, nesterov=True), 'torch.AdamW': torch.optim.AdamW,
    'torch.Adagrad': torch.optim.Adagrad, 'torch.RMSprop': torch.optim.RMSprop}


def optimizers():
    """The weights that each optimizer ends in, and those after its state went through a file and a further epoch."""
    found = {}
    for name, opt_func in OPTIMIZERS.items():
        learn = learner(opt_func=opt_func, lr=.01)
        learn.fit(2)
        found[name] = weights(learn)
        learn.save(name)
        learn.fit(1)
        again = learner(opt_func=opt_func, lr=.01)
        again.load(name)
        again.fit(1)
        found[f'{name}, loaded'] = weights(again)
    return found


def files(folder):
    """Weights, optimizer, export and average, written by these processes for any others."""
    torch.manual_seed(4)
    learn = learner(opt_func=Adam, path=folder, cbs=EMA(.5))
    learn.fit(2)
    learn.save('kept')
    learn.export('kept.pkl')
    average = learn.ema.averaged_model()
    module = learn.to_torch()
    x = items()[:5][0]
    return {'average': torch.cat([p.detach().flatten() for p in average.parameters()]), 'module': module(x).detach(),
            'preds': learn.get_preds()[0], 'weights': weights(learn)}


def go_on(folder, n):
    """The weights that a training goes on to from what `files` wrote on `n` processes, and what the export predicts."""
    learn = learner(opt_func=Adam, path=folder)
    learn.load(folder / n / 'models' / 'kept')
    learn.fit(1)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # it asks for the loss function
        export = load_learner(folder / n / 'kept.pkl', model=nn.Sequential(*learner().model))
    export.dls = loaders()
    return {'weights': weights(learn), 'preds': export.get_preds()[0]}


def parts_of(learn):
    """Copies of all weights and averages of a training, whole."""
    state = {'model': learn.model.state_dict(), 'opt': learn.opt.state_dict()['state']}
    whole_ones = whole_state(state, on_all=True)
    found = {**whole_ones['model'], **{f'{i}.{name}': torch.as_tensor(x) for i, values in whole_ones['opt'].items()
                                       for name, x in values.items()}}
    return {name: x.clone() for name, x in found.items()}


def keep(folder, n):
    """A training that is kept in parts while it goes on."""
    learn = learner(opt_func=Adam)
    learn.fit(2)
    found, saving = parts_of(learn), save_shares(folder / f'parts_{n}', learn.model, learn.opt, background=True)
    learn.fit(1)
    saving.result()
    return found


def take(folder, written):
    """What is read of states that so many processes have written."""
    found = {}
    for n in written.split('+'):
        learn = learner(opt_func=Adam)
        learn.create_opt()
        load_shares(folder / f'parts_{n}', learn.model, learn.opt)
        found |= {f'{n}: {name}': x for name, x in parts_of(learn).items()}
    return found


def refused(folder):
    """What is said of a file that is not what was written, and of one that the last process cannot write."""
    learn, found = learner(opt_func=Adam), {}
    learn.fit(1)
    save_shares(folder / 'refused', learn.model, learn.opt)
    if rank_distrib() == 0:
        file = max((folder / 'refused').glob('parts-*/*'))
        file.write_bytes(file.read_bytes()[:-1] + b'?')
    barrier()
    found['damaged'] = met(lambda: load_shares(folder / 'refused', learn.model, learn.opt))
    other = learner(opt_func=Adam)
    other.model[3] = nn.Linear(5, 4, bias=False)
    other.create_opt()
    found['another'] = met(lambda: load_shares(folder / 'refused', other.model))
    state = {'x': torch.ones(3), 'y': object() if rank_distrib() else 1}
    found['no data'] = met(lambda: save_sharded(folder / 'new', state))
    found['left'] = sorted(path.name for path in (folder / 'new').glob('*'))
    return {**found, 'afterwards': agreed(learn)}


# ---------------------------------------------------------------- what each rank says

class Grads(Callback):
    """Whether there are gradients behind each backward pass."""

    order, run_valid = -5, False

    def before_fit(self):
        self.there = []

    def after_backward(self):
        self.there.append(next(self.learn.model.parameters()).grad is not None)


class Parts(Callback):
    """Whether the parameters are parts at the end of every batch, and between forward and backward pass."""

    def before_fit(self):
        self.seen = set()

    def after_pred(self):
        self.seen.add(all(map(is_share, self.learn.model.parameters())))

    after_batch = after_pred


class Ends(Callback):
    """Ends a fit behind the second backward pass, in the first process alone."""

    run_valid = False

    def after_backward(self):
        if rank_distrib() == 0 and self.learn.iter == 1:
            raise CancelFitException


class Looks(Callback):
    """Predicts in the first process alone."""

    only_rank0 = True

    def after_epoch(self):
        self.learn.get_preds(inner=True)


def plain(folder):
    """The model is the one that was given; no process holds all of it."""
    learn = learner()
    model, names, parts = learn.model, list(learn.model.state_dict()), Parts()
    learn.fit(1, cbs=parts)
    held = sum(p.to_local().numel() for p in model.parameters())
    state = [x for values in learn.opt.state.values() for x in values.values() if isinstance(x, torch.Tensor)]
    units = [name for name, m in model.named_modules() if in_shares(m)]
    same, names_too = model is learn.model and isinstance(model, nn.Sequential), names == list(model.state_dict())
    return {'same': same, 'names': names_too, 'always': list(parts.seen),
            'held': gather_objects(held), 'all': all(map(is_share, [*model.parameters(), *state])), 'units': units}


def accumulating(folder):
    """Gradients are sent where a step follows; those of a fit that ends before it are forgotten."""
    seen, learn = Grads(), learner(dls=loaders(n=36))
    learn.fit(1, cbs=[seen, GradientAccumulation(24)])
    found = {'there': seen.there}
    other = learner(dls=loaders(n=36))
    other.create_opt()
    other.model.load_state_dict(learn.model.state_dict())
    before = weights(learn)
    learn.fit(1, cbs=[Ends(), GradientAccumulation(200)])  # no step before the end
    found['no step'] = bool((weights(learn) == before).all())
    ends = []
    for one in (learn, other):
        one.opt.clear_state()
        torch.manual_seed(3)
        one.fit(1, lr=.05)
        ends.append(weights(one))
    return {**found, 'forgotten': float((ends[0] - ends[1]).abs().max())}


def bad_use(folder):
    """What cannot work, and whether all ranks train together afterwards."""
    found = {}
    learn = learner()
    learn.model.scale = nn.Parameter(torch.tensor(1.))
    found['scalar'] = met(lambda: learn.fit(1))
    learn = learner()
    learn.model[1].half()
    learn.to_distributed(units=lambda m: False)
    found['kinds'] = met(lambda: learn.fit(1))
    learn = learner()
    learn.fit(1)
    learn.model.append(nn.Linear(4, 4))
    found['added'] = met(lambda: learn.fit(1, reset_opt=True))
    learn = learner(strategy='ddp')
    learn.fit(1)
    learn.to_distributed(strategy='fsdp')
    found['made before'] = met(lambda: learn.fit(1))
    found['made anew'] = met(lambda: learn.fit(1, reset_opt=True))
    other = learner()
    other.opt_func = torch.optim.SGD(other.model.parameters(), lr=.1)
    found['given'] = met(lambda: other.fit(1))
    learn = learner()
    found['alone'] = met(lambda: learn.fit(1, cbs=Looks()))
    found['alone, afterwards'] = agreed(learn)
    found['units'] = met(lambda: learner().to_distributed(strategy='ddp', units=nn.Linear))
    found['name'] = met(lambda: learner().to_distributed(strategy='zero'))
    found['models'] = met(lambda: different_models().fit(1))

    class Reaches(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(108, 4))

        def forward(self, x):
            return nn.functional.linear(x.flatten(1), self.inner[0].weight)
    learn = learner()
    learn.model = Reaches()
    notes = []

    def fit():
        try:
            learn.fit(1)
        except Exception as error:
            notes.extend(getattr(error, '__notes__', ()))
            raise
    found['reaches in'], found['notes'] = met(fit), notes
    return {**found, 'afterwards': agreed(learner())}


def different_models():
    """Learners with other models on other ranks."""
    learn = learner()
    if rank_distrib():
        learn.model.append(nn.Linear(4, 4))
    return learn


def around(folder):
    """Half precision, a block, freezing in between, and the contract of callbacks."""
    learn = learner(metrics=accuracy, splitter=lambda m: [list(m[:2].parameters()), list(m[2:].parameters())])
    found = {}
    with learn.distrib_ctx():
        learn.to_bf16().fit(1)
    found['still'] = in_shares(learn.model) and learn.ranks is not None
    learn.to_fp32().freeze()
    before = weights(learn)
    learn.fit(1)
    moved = weights(learn) != before
    found['frozen'] = [bool(moved[:545].any()), bool(moved[545:].any())]
    found['contract'] = [make.__name__ for make in CONTRACT if check_callback(make, synth_in_shares) is not None]
    found['whole'] = [None if x is None else x.shape for x in whole_state(dict(learn.model.state_dict())).values()]
    return found


def synth_in_shares(**kwargs):
    """`synth_learner` with its model in shares, which torch does with hooks that stay."""
    learn = synth_learner(**kwargs, strategy='fsdp')
    learn.create_opt()
    return learn


if __name__ == '__main__':
    setup_distrib(timeout_s=30)
    out, n = Path(sys.argv[1]), max(num_distrib(), 1)
    torch.use_deterministic_algorithms(True)
    for name in sys.argv[2].split(','):
        if name in ('plain', 'accumulating', 'bad_use', 'around', 'refused'):
            (out / f'{name}_{rank_distrib()}.json').write_text(json.dumps(globals()[name](out)), encoding='utf-8')
            continue
        found = {'optimizers': optimizers, 'files': partial(files, out / str(n)),
                 'keep': partial(keep, out, n), 'go_on': partial(go_on, out, sys.argv[-1]),
                 'take': partial(take, out, sys.argv[-1])}[name]()
        if rank_distrib() == 0:
            save_file({key: x.contiguous() for key, x in found.items()}, out / f'{name}_{n}.safetensors')
