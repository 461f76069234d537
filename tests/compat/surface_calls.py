"""Calls that show whether a keyword argument is taken where the signature says `**kwargs`."""
from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from PIL import Image as pillow


def kwarg_calls(o: dict[str, Any]) -> dict[str, Callable]:
    """'callable(keyword)' -> a call with that keyword."""
    calls: dict[str, Callable] = {}

    def add(key: str, function: Callable, **values: Any) -> None:
        calls.update({f'{key}({name})': partial(function, **{name: value}) for name, value in values.items()})
    for part in (_layers_and_losses, _optimizers, _transforms, _loaders, _factories, _models, _pictures):
        part(o, o['ns'], add)
    return calls


def _layers_and_losses(o: dict[str, Any], ns: Any, add: Callable) -> None:
    preds, targets = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])

    def loss(cls: Any, **kwargs: Any) -> None:
        cls(**kwargs)(preds, targets)
    add('CrossEntropyLossFlat', partial(loss, ns.CrossEntropyLossFlat), ignore_index=1, weight=torch.ones(3))
    add('LabelSmoothingCrossEntropy', partial(loss, ns.LabelSmoothingCrossEntropy), eps=0.2, reduction='sum')
    add('ConvLayer', lambda **kwargs: ns.ConvLayer(4, 4, **kwargs)(torch.rand(2, 4, 8, 8)), groups=2)
    add('ResBlock', lambda **kwargs: ns.ResBlock(1, 4, 4, **kwargs)(torch.rand(2, 4, 8, 8)), act_cls=torch.nn.ReLU,
        norm_type=ns.NormType.Instance)
    add('AccumMetric', lambda **kwargs: ns.AccumMetric(lambda p, t, **kw: len(kw), **kwargs)(preds.argmax(1), targets), k=1,
        sample_weight=None, specificity=1)


def _optimizers(o: dict[str, Any], ns: Any, add: Callable) -> None:
    def one() -> list:
        return [torch.nn.Parameter(torch.ones(2))]
    values = dict(lr=1e-3, mom=0.9, wd=0.01, eps=1e-5, sqr_mom=0.99, beta=0., beta1=0.9, beta2=0.9, beta3=0.9,
                  nu_1=0.7, nu_2=1.0, trust_coeff=0.1, decouple_wd=True)

    def own(**kwargs: Any) -> None:
        def step(p: Any, lr: float, **kw: Any) -> None:
            p.data.add_(p.grad, alpha=-lr)
        opt = ns.Optimizer(one(), [step], **{'lr': 1e-3, **kwargs})
        assert kwargs.keys() <= opt.hypers[0].keys()
    add('Optimizer', own, **values)
    add('OptimWrapper', lambda **kwargs: ns.OptimWrapper(one(), torch.optim.SGD, **{'lr': 0.1, **kwargs}), lr=0.1)
    add('OptimWrapper', lambda **kwargs: ns.OptimWrapper(one(), torch.optim.SGD, lr=0.1, momentum=0.5, **kwargs),
        nesterov=True, weight_decay=0.1)
    add('OptimWrapper', lambda **kwargs: ns.OptimWrapper(one(), torch.optim.SGD, lr=0.1, **kwargs), momentum=0.5)


def _transforms(o: dict[str, Any], ns: Any, add: Callable) -> None:
    add('RandTransform', ns.RandTransform, p=0.5, enc=lambda x: x)
    add('AffineCoordTfm', ns.AffineCoordTfm, mode='nearest', size=8)
    add('Pipeline', ns.Pipeline, as_item=True)
    add('Categorize', ns.Categorize, vocab=['a'])
    add('TensorPoint', lambda **kwargs: ns.TensorPoint.create([[1., 2.]], **kwargs), img_size=(8, 8))
    add('TensorPoint', lambda **kwargs: ns.TensorPoint(torch.ones(1, 2), **kwargs), sz=(8, 8))
    add('tensor', lambda **kwargs: ns.tensor([1, 2], **kwargs), dtype=torch.float16)


def _loaders(o: dict[str, Any], ns: Any, add: Callable) -> None:
    dls, dsets, block, path = o['dls'], o['dsets'], o['block'], o['path']
    no_workers = dict(num_workers=0)

    def used(loaders: Any) -> None:
        next(iter(loaders[1]))
    tfms = [ns.Resize(16), ns.ToTensor()]
    add('Datasets', lambda **kwargs: ns.Datasets([1, 2, 3], [[lambda x: x]], **kwargs), splits=[[0], [1, 2]],
        train_setup=False, do_setup=False)
    add('TfmdLists', lambda **kwargs: ns.TfmdLists(**{'items': [1, 2], 'tfms': [lambda x: x], **kwargs}), do_setup=False,
        splits=[[0], [1]], tfms=[lambda x: x])
    add('TfmdDL', lambda **kwargs: ns.TfmdDL(dsets.train, **no_workers, **kwargs), after_item=tfms, after_batch=[],
        device='cpu', drop_last=True)
    add('DataBlock.dataloaders', lambda **kwargs: used(block.dataloaders(path, **{**no_workers, **kwargs})), bs=2,
        val_bs=2, num_workers=0, pin_memory=False, batch_tfms=[], item_tfms=ns.Resize(8), device='cpu')
    add('DataBlock.dataloaders', lambda **kwargs: block.dataloaders(path, num_workers=1, **kwargs), prefetch_factor=2)
    add('DataBlock.from_columns', lambda **kwargs: ns.DataBlock.from_columns(
        **{'blocks': (ns.ImageBlock, ns.CategoryBlock), **kwargs}), item_tfms=None, batch_tfms=None,
        splitter=ns.RandomSplitter(), get_items=lambda o: o)
    add('DataLoader.new', dls.train.new, bs=2, shuffle=False, drop_last=True, num_workers=0, after_batch=[])
    add('DataLoaders.from_dsets', lambda **kwargs: ns.DataLoaders.from_dsets([1], [2], **no_workers, **kwargs),
        after_batch=[], pin_memory=False, bs=1)
    add('DataLoaders.test_dl', lambda **kwargs: dls.test_dl(dls.valid_ds.items, **{**no_workers, **kwargs}), bs=2,
        num_workers=0, after_batch=[], rm_type_tfms=None, with_label=True)
    add('Datasets.dataloaders', lambda **kwargs: dsets.dataloaders(**{**no_workers, **kwargs}), bs=2, after_item=tfms,
        after_batch=[], num_workers=0, device='cpu')
    add('TfmdLists.dataloaders', lambda **kwargs: dsets.tls[1].dataloaders(**no_workers, **kwargs), bs=2,
        after_item=[], after_batch=[])
    show = dict(max_n=2, nrows=1, ncols=2, figsize=(2, 2), vmin=0, vmax=1, cmap='gray', show=True, unique=True, rows=1)
    add('DataLoaders.show_batch', dls.show_batch, **show)
    add('DataLoader.show_batch', dls.train.show_batch, **show)
    add('DataLoader.show_results', lambda **kwargs: dls.train.show_results(
        dls.train.one_batch(), torch.tensor([0] * 4), **kwargs), max_n=2, show=True)


def _factories(o: dict[str, Any], ns: Any, add: Callable) -> None:
    path, cls = o['path'], ns.ImageDataLoaders
    files = ns.get_image_files(path)
    common = {'item_tfms': ns.Resize(8), 'num_workers': 0, 'bs': 2}
    values = dict(bs=2, batch_tfms=[], item_tfms=ns.Resize(8), device='cpu', valid_pct=0.3, seed=1, size=8)

    def named(function: Callable, *args: Any) -> Callable:
        return lambda **kwargs: function(*args, **{**common, **kwargs})
    add('ImageDataLoaders.from_folder', named(cls.from_folder, path), **values)
    add('ImageDataLoaders.from_name_func', named(cls.from_name_func, path, files, lambda n: n[0]), **values)
    add('ImageDataLoaders.from_name_re', named(cls.from_name_re, path, files, r'^([a-z]+)'), **values)
    add('ImageDataLoaders.from_path_func', named(cls.from_path_func, path, files, ns.parent_label), **values)
    frame = ns.pd.DataFrame({'name': [str(f.relative_to(path)) for f in files], 'label': [f.parent.name for f in files]})
    add('ImageDataLoaders.from_df', named(cls.from_df, frame, path), shuffle=False, **values)
    frame.assign(name=[name[:-4] for name in frame.name]).to_csv(path / 'labels.csv', index=False)
    csv = {**values, 'label_delim': None, 'folder': ''}
    add('ImageDataLoaders.from_csv', lambda **kwargs: cls.from_csv(path, 'labels.csv', **{
        'suff': '.png', **common, **kwargs}), suff='.png', **csv)
    add('SegmentationDataLoaders.from_label_func', lambda **kwargs: ns.SegmentationDataLoaders.from_label_func(
        path, files, lambda f: f, codes=['a'], **{**common, **kwargs}), bs=2, batch_tfms=[])


def _models(o: dict[str, Any], ns: Any, add: Callable) -> None:
    for name in ('xresnet18', 'xresnet34', 'xresnet50', 'xresnet101'):
        add(name, getattr(ns, name), c_in=1, n_out=2, act_cls=torch.nn.SiLU, ndim=1, sa=True)
    for name in ('resnet18', 'resnet34', 'vgg16_bn'):
        add(name, partial(_on_meta, getattr(ns, name)), num_classes=2, pretrained=False)
    add('cnn_learner', lambda **kwargs: ns.cnn_learner(o['dls'], ns.xresnet18, **{'pretrained': False, **kwargs}),
        cbs=[], loss_func=torch.nn.CrossEntropyLoss(), metrics=ns.accuracy, opt_func=ns.SGD, y_range=(0, 1),
        pretrained=False)
    add('unet_learner', lambda **kwargs: ns.unet_learner(o['dls'], ns.xresnet18, pretrained=False, n_out=2, **kwargs),
        n_in=1, config={})
    add('cnn_learner', lambda **kwargs: ns.cnn_learner(o['dls'], ns.xresnet18, pretrained=False, **kwargs), config={})
    add('create_cnn_model', lambda **kwargs: ns.create_cnn_model(ns.xresnet18, 2, pretrained=False, **kwargs),
        y_range=(0, 1))
    learn, interp = o['learn'], o['interp']
    add('Learner.show_results', learn.show_results, max_n=2, nrows=1, figsize=(2, 2), vmin=0, vmax=1, cmap='gray', rows=1)
    add('Interp.plot_confusion_matrix', interp.plot_confusion_matrix, dpi=60, figsize=(2, 2))
    add('Interp.plot_top_losses', partial(interp.plot_top_losses, 2), nrows=1, figsize=(2, 2))
    learn.lr_find(num_it=5, show_plot=False)
    add('Recorder.plot_lr_find', lambda **kwargs: learn.recorder.plot_lr_find(**{'suggestions': [(0.1, 1.)], 'nms': ['a'],
                                                                                 **kwargs}),
        suggestions=[(0.1, 1.)], nms=['a'], lr_min=0.1, lr_steep=0.1)


def _on_meta(arch: Callable, **kwargs: Any) -> None:
    with torch.device('meta'), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # torchvision says that `pretrained` has become `weights`
        arch(**kwargs)


def _pictures(o: dict[str, Any], ns: Any, add: Callable) -> None:
    image = o['PILImage']
    add('PILImage.show', image.show, alpha=0.5, figsize=(2, 2), ctx=None)
    add('PILImage.resize', partial(image.resize, (4, 4)), resample=pillow.Resampling.BILINEAR)
    add('show_image', partial(ns.show_image, image), cmap='gray', interpolation='nearest')
    add('get_grid', partial(ns.get_grid, 2), sharex=True, sharey=True)
    batch = o['dls'].decode_batch(o['dls'].one_batch(), max_n=2)
    x, y = o['dls'].one_batch()
    add('show_batch', partial(ns.show_batch, x, y, batch), ctxs=None, max_n=2, nrows=1, ncols=2)
