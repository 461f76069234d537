"""Run by torchrun: each rank measures its share of the batches; rank 0 writes the values to the file given.

Shares are unequal, so that no metric can pass by averaging over ranks.
"""
from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / 'data'))
from make_fastai_numbers import METRICS, metric_batches  # noqa: E402

import minifast.metrics as metrics  # noqa: E402

LABELS = ['accuracy class', 'rmse float', 'F1Score macro', 'RocAuc class', 'F1ScoreMulti samples', 'Dice binary mask',
          'DiceMulti mask', 'AvgLoss class', 'Perplexity class']


def measure(label: str, rank: int) -> float:
    """The value of one metric: rank 0 saw the first batch, rank 1 the others."""
    name, args, kwargs, kind = METRICS[label]
    metric = getattr(metrics, name)
    metric = metrics.mk_metric(metric(*args, **kwargs) if name[0].isupper() else metric)
    metric.reset()
    for pred, targ, loss in metric_batches(kind)[slice(0, 1) if rank == 0 else slice(1, None)]:
        metric.accumulate(SimpleNamespace(pred=pred, y=targ, yb=(targ,), loss=loss))
    return float(metric.value)


if __name__ == '__main__':
    dist.init_process_group('gloo')
    values = {label: measure(label, dist.get_rank()) for label in LABELS}
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(values), encoding='utf-8')
    dist.destroy_process_group()
