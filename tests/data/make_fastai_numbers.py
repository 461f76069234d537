"""Write the numbers fastai gives, for tests that compare with them. Run under an interpreter that has fastai:

    python tests/data/make_fastai_numbers.py

It writes `optimizers.json`, `losses.json`, `layers.json` and `metrics.json` beside itself. Inputs are made by `ramp`, a
formula instead of a generator, so that both sides see the same bits on every torch version.
"""
from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

HERE = Path(__file__).parent

OPTIMIZERS = {
    'Adam': ('Adam', {}), 'Adam l2': ('Adam', {'wd': 0.1, 'decouple_wd': False}),
    'SGD': ('SGD', {}), 'SGD mom': ('SGD', {'mom': 0.9, 'wd': 0.1}),
    'SGD l2': ('SGD', {'wd': 0.1, 'decouple_wd': False}),
    'RMSProp': ('RMSProp', {}), 'RMSProp mom': ('RMSProp', {'mom': 0.9, 'wd': 0.1}),
    'RAdam': ('RAdam', {'wd': 0.1}), 'RAdam l2 sadam': ('RAdam', {'beta': 20., 'wd': 0.1, 'decouple_wd': False}),
    'QHAdam': ('QHAdam', {'wd': 0.1}), 'QHAdam nu': ('QHAdam', {'nu_1': 0.5, 'nu_2': 0.6}),
    'Larc': ('Larc', {'wd': 0.1}), 'Larc noclip': ('Larc', {'clip': False, 'mom': 0., 'trust_coeff': 0.5}),
    'Lamb': ('Lamb', {'wd': 0.1}), 'ranger': ('ranger', {'k': 3}),
}


def ramp(*shape: int, phase: float = 0.) -> Tensor:
    """Numbers between -1 and 1 without a random generator."""
    n = math.prod(shape)
    return torch.tensor([math.sin(1.7 * i + phase + 0.3 * i * i) for i in range(n)], dtype=torch.float32).view(shape)


def optimizer_run(optimizer: object, n_steps: int = 8) -> list[list[list[float]]]:
    """Parameters after each of some steps of a fixed little run, in which the schedule moves and one joins late."""
    groups = [[ramp(3, 2).requires_grad_(), ramp(2, phase=1).requires_grad_()],
              [ramp(4, 2, phase=2).requires_grad_(), ramp(1, phase=3).requires_grad_()]]
    opt = optimizer(groups, lr=slice(0.01, 0.1))
    for p in (groups[0][1], groups[1][1]):
        opt.state[p]['do_wd'] = False
    seen = []
    for step in range(n_steps):
        if step == 3:
            opt.set_hypers(lr=[0.02, 0.05], mom=0.8)
        for i, p in enumerate(groups[0] + groups[1]):
            # the last parameter joins late, as after unfreezing: its step count differs from its group's
            p.grad = None if i == 3 and step < 2 else p.detach() * 0.5 + ramp(*p.shape, phase=step + i)
        opt.step()
        seen.append([p.detach().flatten().tolist() for p in groups[0] + groups[1]])
    return seen


def optimizers() -> dict:
    """Every named optimizer with its settings, by label."""
    import fastai.optimizer as fo
    return {label: optimizer_run(partial(getattr(fo, name), **kwargs)) for label, (name, kwargs) in OPTIMIZERS.items()}


# label -> (name, positional arguments, keyword arguments, shape of the input); `norm_type` by its name
LAYERS = {
    'conv': ('ConvLayer', (3, 4), {}, (2, 3, 6, 6)),
    'conv no norm sigmoid': ('ConvLayer', (3, 4), {'norm_type': None, 'act_cls': 'Sigmoid', 'ks': 1}, (2, 3, 5, 5)),
    'conv weight norm': ('ConvLayer', (3, 4), {'norm_type': 'Weight', 'stride': 2}, (2, 3, 6, 6)),
    'conv spectral': ('ConvLayer', (3, 4), {'norm_type': 'Spectral'}, (2, 3, 6, 6)),
    'conv instance': ('ConvLayer', (3, 4), {'norm_type': 'Instance', 'bn_1st': False}, (2, 3, 6, 6)),
    'conv 1d': ('ConvLayer', (3, 4), {'ndim': 1, 'act_cls': 'Mish'}, (2, 3, 8)),
    'conv transposed': ('ConvLayer', (3, 4), {'transpose': True, 'ks': 2, 'stride': 2, 'norm_type': 'BatchZero'},
                        (2, 3, 4, 4)),
    'lin': ('LinBnDrop', (5, 3), {}, (4, 5)), 'lin first': ('LinBnDrop', (5, 3), {'lin_first': True}, (4, 5)),
    'concat pool': ('AdaptiveConcatPool2d', (), {}, (2, 3, 5, 5)),
    'concat pool 1d': ('AdaptiveConcatPool1d', (2,), {}, (2, 3, 5)),
    'pool flatten': ('PoolFlatten', ('Cat',), {}, (2, 3, 5, 5)),
    'shuffle': ('PixelShuffle_ICNR', (4, 2), {}, (2, 4, 3, 3)),
    'shuffle blur': ('PixelShuffle_ICNR', (4, 2), {'blur': True, 'norm_type': None}, (2, 4, 3, 3)),
    'self attention': ('SelfAttention', (16,), {}, (2, 16, 3, 3)),
    'pooled attention': ('PooledSelfAttention2d', (16,), {}, (2, 16, 4, 4)),
    'simple attention': ('SimpleSelfAttention', (8,), {'ks': 1}, (2, 8, 3, 3)),
    'res': ('ResBlock', (1, 4, 8), {'stride': 2}, (2, 4, 6, 6)),
    'res 4': ('ResBlock', (4, 2, 4), {'act_cls': 'SiLU', 'sa': True, 'pool_first': False, 'stride': 2}, (2, 8, 6, 6)),
    'se': ('SEModule', (16, 4), {}, (2, 16, 3, 3)), 'se block': ('SEBlock', (1, 16, 16), {}, (2, 16, 4, 4)),
    'resnext': ('SEResNeXtBlock', (1, 64, 64), {'groups': 4}, (1, 64, 3, 3)),
    'separable': ('SeparableBlock', (1, 8, 16), {}, (2, 8, 4, 4)),
    'cnn': ('SimpleCNN', ((3, 4, 5),), {}, (2, 3, 9, 9)),
    'embedding': ('Embedding', (7, 3), {}, None), 'bn flat': ('BatchNorm1dFlat', (3,), {}, (2, 4, 3)),
    'range': ('SigmoidRange', (-1, 3), {}, (2, 3)), 'batch norm': ('BatchNorm', (3,), {'ndim': 1}, (4, 3)),
    'max pool': ('MaxPool', (3,), {'stride': 2}, (1, 2, 7, 7)), 'avg pool': ('AvgPool', (2,), {'ndim': 1}, (1, 2, 7)),
}


def layer_run(room: object, name: str, args: tuple, kwargs: dict, shape: tuple[int, ...] | None) -> dict:
    """Size, weights and output of one layer of the module `room`, seeded; attention is switched on by its gamma."""
    kwargs = {k: getattr(torch.nn, v) if k == 'act_cls' else room.NormType[v] if k == 'norm_type' and v else v
              for k, v in kwargs.items()}
    torch.manual_seed(0)
    layer = getattr(room, name)(*args, **kwargs)
    found = {'shapes': sorted(list(p.shape) for p in layer.parameters()),
             'weights': round(sum(p.detach().double().abs().sum().item() for p in layer.parameters()), 6)}
    for param_name, p in layer.named_parameters():
        if param_name.endswith('gamma'):
            p.data.fill_(0.5)
    x = torch.tensor([0, 3, 6]) if shape is None else ramp(*shape)
    out = layer(x)
    return {**found, 'shape': list(out.shape), 'output': [round(o, 6) for o in out.detach().flatten().tolist()]}


def layers() -> dict:
    """Every layer by its label."""
    import fastai.layers as room
    return {label: layer_run(room, *spec) for label, spec in LAYERS.items()}


LOSSES = {
    'ce': ('CrossEntropyLossFlat', {}, 'class'), 'ce axis': ('CrossEntropyLossFlat', {'axis': 1}, 'mask'),
    'ce weight': ('CrossEntropyLossFlat', {'weight': [1., 2., 3.]}, 'class'),
    'ce ignore sum': ('CrossEntropyLossFlat', {'ignore_index': 1, 'reduction': 'sum'}, 'class'),
    'ce smooth': ('CrossEntropyLossFlat', {'label_smoothing': 0.2}, 'class'),
    'ls': ('LabelSmoothingCrossEntropy', {'eps': 0.2}, 'class'),
    'ls flat': ('LabelSmoothingCrossEntropyFlat', {}, 'class'),
    'ls flat mask': ('LabelSmoothingCrossEntropyFlat', {'axis': 1, 'reduction': 'sum'}, 'mask'),
    'focal': ('FocalLoss', {'gamma': 1.5}, 'class'), 'focal flat': ('FocalLossFlat', {'axis': 1}, 'mask'),
    'focal weight': ('FocalLossFlat', {'weight': [1., 2., 3.]}, 'class'),
    'bce logits': ('BCEWithLogitsLossFlat', {}, 'multi'),
    'bce pos': ('BCEWithLogitsLossFlat', {'pos_weight': [1., 2., 3.], 'thresh': 0.3}, 'multi'),
    'bce': ('BCELossFlat', {}, 'prob'), 'mse': ('MSELossFlat', {}, 'float'), 'l1': ('L1LossFlat', {}, 'float'),
    'dice': ('DiceLoss', {}, 'mask'),
    'dice square': ('DiceLoss', {'square_in_union': True, 'reduction': 'mean', 'smooth': 1.}, 'mask'),
}


def loss_inputs(kind: str) -> tuple[Tensor, Tensor]:
    """Predictions and targets of one kind."""
    if kind == 'mask':
        return ramp(2, 3, 4, 5) * 3, (torch.arange(40) * 7 % 3).view(2, 4, 5)
    if kind == 'class':
        return ramp(4, 3) * 3, torch.tensor([0, 2, 1, 2])
    if kind == 'multi':
        return ramp(4, 3) * 3, (ramp(4, 3, phase=1) > 0).long()
    if kind == 'prob':
        return ramp(4, 3).sigmoid(), (ramp(4, 3, phase=1) > 0).long()
    return ramp(4, 1), ramp(4, phase=2)


def loss_run(room: object, name: str, kwargs: dict, kind: str) -> dict:
    """Loss with its own reduction and (where it has one) without, its gradient, activation and decoding."""
    kwargs = {k: torch.tensor(v) if isinstance(v, list) else v for k, v in kwargs.items()}
    loss, (pred, targ) = getattr(room, name)(**kwargs), loss_inputs(kind)
    pred.requires_grad_()
    value = loss(pred, targ)
    value.backward()
    found = {'value': value.item(), 'grad': pred.grad.flatten().tolist()}
    for method in ('activation', 'decodes'):
        # fastai's label smoothing looks along the last axis whatever its `axis` is: not compared
        if kind in ('class', 'multi') and name != 'FocalLoss' or name == 'CrossEntropyLossFlat':
            found[method] = getattr(loss, method)(pred.detach()).flatten().tolist()
    loss.reduction = 'none'  # sorted: fastai flattens a mask by columns
    return {**found, 'none': sorted(loss(pred.detach(), targ).flatten().tolist())}


def losses() -> dict:
    """Every loss by its label."""
    import fastai.losses as room
    return {label: loss_run(room, *spec) for label, spec in LOSSES.items()}


# label -> (name, positional arguments, keyword arguments, kind of data)
METRICS = {
    **{f'{name} {kind}': (name, (), {}, kind) for name, kind in (
        ('accuracy', 'class'), ('error_rate', 'class'), ('accuracy_multi', 'multi'), ('foreground_acc', 'mask'),
        ('mse', 'float'), ('mae', 'float'), ('msle', 'float'), ('rmse', 'float'), ('exp_rmspe', 'float'),
        ('F1Score', 'binary'), ('Precision', 'binary'), ('Recall', 'binary'), ('Jaccard', 'binary'),
        ('BrierScore', 'binary'), ('RocAucBinary', 'binary'), ('APScoreBinary', 'binary'),
        ('BalancedAccuracy', 'class'), ('CohenKappa', 'class'), ('HammingLoss', 'class'),
        ('MatthewsCorrCoef', 'class'), ('MatthewsCorrCoef', 'binary'), ('RocAuc', 'class'),
        ('F1ScoreMulti', 'multi'), ('PrecisionMulti', 'multi'), ('RecallMulti', 'multi'),
        ('JaccardMulti', 'multi'), ('HammingLossMulti', 'multi'), ('RocAucMulti', 'multi'), ('APScoreMulti', 'multi'),
        ('ExplainedVariance', 'float'), ('R2Score', 'float'), ('PearsonCorrCoef', 'float'),
        ('SpearmanCorrCoef', 'float'), ('Dice', 'binary mask'), ('JaccardCoeff', 'binary mask'), ('DiceMulti', 'mask'),
        ('JaccardCoeffMulti', 'mask'), ('AvgLoss', 'class'), ('AvgSmoothLoss', 'class'), ('Perplexity', 'class'))},
    **{f'{name} {average}': (name, (), {'average': average}, 'class')
       for name in ('F1Score', 'Precision', 'Recall', 'Jaccard') for average in ('micro', 'macro', 'weighted')},
    **{f'{name} {average}': (name, (), {'average': average}, 'multi')
       for name in ('F1ScoreMulti', 'JaccardMulti', 'RocAucMulti', 'APScoreMulti')
       for average in ('micro', 'weighted', 'samples') if (name, average) != ('RocAucMulti', 'samples')},  # nan here
    'FBeta': ('FBeta', (2.,), {'average': 'macro', 'labels': [0, 2]}, 'class'),
    'FBetaMulti': ('FBetaMulti', (0.5,), {'average': 'samples', 'thresh': 0.3}, 'multi'),
    'F1Score no average': ('F1Score', (), {'average': None}, 'class'),
    'F1Score other label': ('F1Score', (), {'pos_label': 0}, 'binary'),
    'F1Score mask': ('F1Score', (), {'average': 'macro', 'axis': 1}, 'mask'),
    'RocAuc weighted': ('RocAuc', (), {'average': 'weighted'}, 'class'),
    'BalancedAccuracy adjusted': ('BalancedAccuracy', (), {'adjusted': True}, 'class'),
    'CohenKappa linear': ('CohenKappa', (), {'weights': 'linear'}, 'class'),
    'CohenKappa quadratic': ('CohenKappa', (), {'weights': 'quadratic'}, 'class'),
}


def metric_batches(kind: str) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Batches of different sizes: (prediction, target, loss)."""
    batches = []
    for i, bs in enumerate((5, 8, 3)):
        if 'mask' in kind:
            c = 2 if 'binary' in kind else 4  # class 3 is never a target and seldom predicted
            pred, targ = ramp(bs, c, 3, 4, phase=i), (torch.arange(bs * 12) * 7 // 3 % min(c, 3)).view(bs, 3, 4)
        elif kind == 'float':
            pred, targ = ramp(bs, 1, phase=i), ramp(bs, phase=i + 0.4)
            pred, targ = (pred * 4).round() / 8, (targ * 4).round() / 8  # with ties
        elif kind == 'multi':
            pred, targ = ramp(bs, 4, phase=i) * 3, (ramp(bs, 4, phase=i + 0.7) > 0).long()
        else:
            c = 2 if kind == 'binary' else 3
            pred, targ = (ramp(bs, c, phase=i) * 5).round() / 2, torch.arange(i, i + bs) * 5 % 7 % c
        batches.append((pred, targ, pred.abs().mean()))
    return batches


def metric_run(room: object, mk_metric: object, name: str, args: tuple, kwargs: dict, kind: str) -> dict:
    """The name and value of a metric after some batches; a class or factory is called, a function of a batch is not."""
    import types
    metric = getattr(room, name)
    metric = metric(*args, **kwargs) if name[0].isupper() else metric
    metric = mk_metric(metric)
    metric.reset()
    for pred, targ, loss in metric_batches(kind):
        metric.accumulate(types.SimpleNamespace(pred=pred, y=targ, yb=(targ,), xb=(pred,), loss=loss, training=False,
                                                to_detach=lambda x: x.detach()))
    value = metric.value
    return {'name': metric.name, 'value': value.tolist() if hasattr(value, 'tolist') else value}


def metrics() -> dict:
    """Every metric by its label."""
    import fastai.learner
    import fastai.metrics as room
    for name in ('AvgLoss', 'AvgSmoothLoss'):
        setattr(room, name, getattr(fastai.learner, name))
    return {label: metric_run(room, fastai.learner.mk_metric, *spec) for label, spec in METRICS.items()}


if __name__ == '__main__':
    import fastai
    for make in (optimizers, layers, losses, metrics):
        note = f'fastai {fastai.__version__}, torch {torch.__version__}, made by {Path(__file__).name}'
        (HERE / f'{make.__name__}.json').write_text(json.dumps({'made': note, 'numbers': make()}))
