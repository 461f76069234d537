"""Writes fastai_rates.json: what every preset of the learner sets, batch by batch and group by group.

Run it where fastai is installed: `python tests/data/make_fastai_rates.py`. The tests call `rates` with minifast.
"""
from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    """Three groups, the first two with a norm layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))
        self.neck = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5))
        self.head = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.neck(self.body(x).relu()).relu())


def groups(model: Net) -> list[list[nn.Parameter]]:
    """One list a part."""
    return [list(part.parameters()) for part in (model.body, model.neck, model.head)]


def learner(ns: ModuleType, **kwargs: Any) -> Any:
    """A learner on 32 drawn rows in batches of 8."""
    g = torch.Generator().manual_seed(7)
    data = TensorDataset(torch.randn(32, 4, generator=g), torch.randint(0, 2, (32,), generator=g))
    dls = ns.DataLoaders(DataLoader(data, 8), DataLoader(data, 8))
    return ns.Learner(dls, Net(), loss_func=ns.CrossEntropyLossFlat(), splitter=groups, **kwargs)


def watched(ns: ModuleType, learn: Any, fit: Any) -> list[list[list[float]]]:
    """[batch][group] -> lr, mom, wd and how many of its tensors train, as they are at the step."""
    class Watch(ns.Callback):
        """Behind the scheduler, which works in before_batch."""

        order, run_valid = 90, False

        def before_step(self) -> None:
            seen.append([[float(h['lr']), float(h['mom']), float(h['wd']), sum(p.requires_grad for p in ps)]
                         for h, ps in zip(self.opt.hypers, self.opt.param_lists)])

    seen: list = []
    with learn.no_bar(), learn.no_logging():
        learn.add_cb(Watch())
        fit(learn)
    return seen


def rates(ns: ModuleType) -> dict[str, Any]:
    """Preset with arguments -> what `watched` saw."""
    fits = {
        'fit': lambda o: o.fit(1), 'fit lr': lambda o: o.fit(1, 1e-2),
        'fit slice': lambda o: o.fit(1, slice(1e-4, 1e-2)),
        'fit slice end': lambda o: o.fit(1, slice(1e-2)), 'fit wd': lambda o: o.fit(1, wd=.3),
        'fit lr, then fit': lambda o: (o.fit(1, 1.), o.fit(1)),
        'one cycle': lambda o: o.fit_one_cycle(2), 'one cycle lr': lambda o: o.fit_one_cycle(2, 1e-2),
        'one cycle slice': lambda o: o.fit_one_cycle(2, slice(1e-4, 1e-2)),
        'one cycle all': lambda o: o.fit_one_cycle(2, 1e-2, div=5., div_final=10., pct_start=.5, wd=.2,
                                                   moms=(.9, .8, .7)),
        'flat cos': lambda o: o.fit_flat_cos(2), 'flat cos all': lambda o: o.fit_flat_cos(2, slice(1e-2), 10., .5, .2),
        'sgdr': lambda o: o.fit_sgdr(2, 1), 'sgdr all': lambda o: o.fit_sgdr(2, 1, slice(1e-2), 3, wd=.2),
        'fine tune': lambda o: o.fine_tune(2), 'fine tune lr': lambda o: o.fine_tune(2, 1e-2),
        'fine tune all': lambda o: o.fine_tune(2, 1e-2, 2, 10, .5, 2., wd=.2, moms=(.9, .8, .7), div_final=10.),
        'frozen': lambda o: (o.freeze(), o.fit(1)), 'frozen to 1': lambda o: (o.freeze_to(1), o.fit(1)),
        'frozen, unfrozen': lambda o: (o.freeze(), o.fit(1), o.unfreeze(), o.fit(1)),
    }
    kinds = {'': {}, 'wd ': {'wd': .1}, 'lr slice ': {'lr': slice(1e-4, 1e-3)}, 'moms ': {'moms': (.9, .7, .8)},
             'train_bn=False ': {'train_bn': False}}
    found = {}
    for kind, kwargs in kinds.items():
        for name, fit in fits.items() if not kind else [(n, fits[n]) for n in ('fit', 'one cycle', 'fine tune')]:
            found[kind + name] = watched(ns, learner(ns, **kwargs), fit)
    found['decayed'] = {str(wd_bn_bias): decayed(learner(ns, wd_bn_bias=wd_bn_bias)) for wd_bn_bias in (False, True)}
    return found


def decayed(learn: Any) -> list[str]:
    """The names of the parameters that weight decay touches."""
    learn.create_opt()
    return [name for name, p in learn.model.named_parameters() if learn.opt.state[p].get('do_wd', True)]


if __name__ == '__main__':
    import fastai.vision.all as fastai_namespace
    made = rates(fastai_namespace)
    lines = ',\n'.join(f'{json.dumps(name)}: {json.dumps(values)}' for name, values in made.items())
    Path(__file__).with_name('fastai_rates.json').write_text('{' + lines + '}\n')
