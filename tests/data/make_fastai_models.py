"""Facts about fastai's vision models, written to models.json. Run under an interpreter that has fastai:

    python tests/data/make_fastai_models.py

Every model is built on the meta device (shapes without numbers), so the whole list takes seconds.
"""
import hashlib
import json
import warnings
from pathlib import Path

import torch
from fastai.vision.all import Mish, NormType, create_head, create_unet_model, create_vision_model, models
from fastai.vision.learner import _default_meta, model_meta
from torch import nn

warnings.simplefilter('ignore')
CUT = ('resnet18 resnet34 resnet50 resnet101 resnet152 squeezenet1_0 squeezenet1_1 densenet121 densenet161 densenet169 '
       'densenet201 vgg11_bn vgg13_bn vgg16_bn vgg19_bn alexnet').split()
UNCUT = ('resnext50_32x4d wide_resnet50_2 vgg16 mobilenet_v2 mobilenet_v3_small efficientnet_b0 mnasnet1_0 '
         'convnext_tiny').split()
XRESNETS = [name for name in models.xresnet.__all__ if name.startswith(('xresne', 'xse_'))]
HEADS = {'default': {}, 'no_concat': {'concat_pool': False}, 'no_pool': {'pool': False},
         'lin_ftrs': {'lin_ftrs': [32, 16], 'ps': [.1, .2, .3]},
         'lin_first': {'lin_first': True}, 'no_first_bn': {'first_bn': False}, 'bn_final': {'bn_final': True},
         'y_range': {'y_range': [0, 5]}, 'ps_zero': {'ps': 0.}, 'empty_lin_ftrs': {'lin_ftrs': []}}
UNETS = {'default': {}, 'self_attention': {'self_attention': True, 'act_cls': Mish},
         'weight_norm': {'norm_type': NormType.Weight}, 'blur': {'blur': True}, 'bottle': {'bottle': True},
         'no_cross': {'last_cross': False}, 'y_range': {'y_range': [0, 1]}, 'odd_size': {}}


def fingerprint(model):
    """A short digest of the state dict's names, shapes and types, in order."""
    text = '\n'.join(f'{k} {tuple(v.shape)} {v.dtype}' for k, v in model.state_dict().items())
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def facts(model, groups, size, n_in=3):
    """Names, counts, group boundaries and the output shape of one model."""
    with torch.no_grad():
        out = model.eval()(torch.zeros(2, n_in, *size))
    return {'keys': len(model.state_dict()), 'fingerprint': fingerprint(model),
            'params': sum(p.numel() for p in model.parameters()),
            'groups': [[len(g), sum(p.numel() for p in g)] for g in groups], 'size': list(size), 'out': list(out.shape)}


def ramp(shape, phase):
    """Numbers between -1 and 1 without a random generator."""
    n = int(torch.Size(shape).numel())
    return torch.sin(1.7 * torch.arange(n, dtype=torch.float64) + phase).float().view(shape)


def numbers(model, size):
    """The first numbers of the output, for weights made by a formula in the order of the state dict."""
    with torch.no_grad():
        for i, (name, value) in enumerate(model.state_dict().items()):
            if name.endswith('running_var'):
                value.copy_(1 + ramp(value.shape, i) ** 2)
            elif value.is_floating_point():
                value.copy_(ramp(value.shape, i) * 1.5 / max(value[0].numel(), 1) ** 0.5)
        out = model.eval()(ramp((2, 3, *size), 0))
    return [round(float(v), 6) for v in out.flatten()[::max(out.numel() // 12, 1)]]


NUMBERS = {
    'resnet18': lambda: (create_vision_model(models.resnet18, 7, pretrained=False), (64, 64)),
    'resnet18 lin_first': lambda: (create_vision_model(models.resnet18, 7, pretrained=False, lin_first=True,
                                                       bn_final=True, y_range=(-1, 2)), (64, 64)),
    'xresnet18': lambda: (models.xresnet.xresnet18(n_out=5), (64, 64)),
    'xse_resnext18': lambda: (models.xresnet.xse_resnext18(n_out=5), (64, 64)),
    'unet': lambda: (create_unet_model(models.resnet18, 3, (32, 48), pretrained=False), (33, 47)),
    'unet blur': lambda: (create_unet_model(models.xresnet.xresnet18, 3, (32, 32), pretrained=False, blur=True,
                                            y_range=(0, 1), last_cross=False), (32, 32)),
    'unet weight_norm': lambda: (create_unet_model(models.resnet18, 3, (32, 32), pretrained=False,
                                                   norm_type=NormType.Weight), (32, 32)),
}


def vision(arch, n_in=3):
    meta = model_meta.get(arch, _default_meta)
    model = create_vision_model(arch, 7, pretrained=False, n_in=n_in)
    return facts(model, meta['split'](model), (128, 128), n_in)


def main():
    table = {'vision': {}, 'n_in': {}, 'xresnet': {}, 'head': {}, 'unet': {}}
    with torch.device('meta'):
        for name in CUT + UNCUT:
            try:
                table['vision'][name] = vision(getattr(models, name))
            except StopIteration as error:
                table['vision'][name] = {'error': repr(error)}
        for name in ('xresnet18', 'xresnet50'):
            table['vision'][name] = vision(getattr(models.xresnet, name))
        for name in ('resnet18', 'densenet121', 'alexnet'):
            for n_in in (1, 2, 4, 6):
                table['n_in'][f'{name}:{n_in}'] = vision(getattr(models, name), n_in)
        for name in XRESNETS:
            try:
                table['xresnet'][name] = facts(getattr(models.xresnet, name)(n_out=10), [], (128, 128))
            except Exception as error:
                table['xresnet'][name] = {'error': repr(error)}
        sized = models.xresnet.xresnet18(n_out=10, c_in=4, sa=True, widen=1.5, act_cls=Mish)
        table['xresnet']['xresnet18:c_in=4,sa,widen=1.5,Mish'] = facts(sized, [], (128, 128), 4)
        for name, kwargs in HEADS.items():
            head = create_head(12, 3, **kwargs)
            table['head'][name] = {'fingerprint': fingerprint(head), 'layers': [type(m).__name__ for m in head],
                                   'p': [m.p for m in head.modules() if isinstance(m, nn.Dropout)], 'kwargs': kwargs}
        for arch in ('resnet18', 'resnet34', 'xresnet18', 'vgg11_bn'):
            for name, kwargs in UNETS.items():
                if arch != 'resnet18' and name not in ('default', 'odd_size'):
                    continue
                size = (37, 45) if name == 'odd_size' else (64, 96)
                fn = getattr(models, arch, None) or getattr(models.xresnet, arch)
                try:
                    model = create_unet_model(fn, 5, size, pretrained=False, **kwargs)
                    table['unet'][f'{arch}:{name}'] = facts(model, model_meta[fn]['split'](model), size)
                except Exception as error:
                    table['unet'][f'{arch}:{name}'] = {'error': repr(error)}
    table['numbers'] = {name: numbers(*make()) for name, make in NUMBERS.items()}
    target = Path(__file__).with_name('models.json')
    target.write_text(json.dumps(table, indent=1).replace('\n    ', ' ') + '\n')
    print(target, {k: len(v) for k, v in table.items()})
    print([(k, n, f['error']) for k, v in table.items() for n, f in v.items() if 'error' in f])


if __name__ == '__main__':
    main()
