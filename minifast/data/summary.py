"""The way of one batch, told step by step."""
from __future__ import annotations

from typing import Any

from torch import Tensor

from minifast.data.collate import collate_error, noted
from minifast.data.pipeline import Pipeline
from minifast.seeds import looking
from minifast.terminal import say, visible
from minifast.torch_core import to_device

__all__ = ['print_summary']


def _short(x: Any) -> str:
    if isinstance(x, (tuple, list)):
        inner = ', '.join(_short(o) for o in x)
        return f'({inner})' if isinstance(x, tuple) else f'[{inner}]'
    if not isinstance(x, Tensor) or (x.numel() <= 20 and x.ndim <= 1):
        return str(x)
    return f'{type(x).__name__} of size {"x".join(map(str, x.shape))}, {str(x.dtype).removeprefix("torch.")}'


def _types(x: Any) -> str:
    return f'({", ".join(_types(o) for o in x)})' if isinstance(x, tuple) else type(x).__name__


def _walk(pipeline: Pipeline, x: Any, item: str) -> Any:
    """`x` through a pipeline, with each step printed; an error tells step, item and types."""
    say(f'  {pipeline}')
    say('    starting from')
    say(f'      {_short(x)}')
    for f in pipeline.fs:
        try:
            new = f(x, split_idx=pipeline.split_idx)
        except Exception as error:
            say(f'    applying {f.name} failed.')
            raise noted(error, visible(f'raised by {f.name}, given {item} as {_types(x)}: {_short(x)[:300]}')) from None
        x = new
        if f.name != 'noop':
            say(f'    applying {f.name} gives')
            say(f'      {_short(x)}')
    return x


def print_summary(dblock: Any, source: Any, bs: int = 4, show_batch: bool = False, **kwargs: Any) -> None:
    """See `DataBlock.summary`."""
    say('Setting-up type transforms pipelines')
    dls = dblock.dataloaders(source, bs=bs, num_workers=0, verbose=True)
    dl, dset = dls.train, dls.train_ds
    dl._prepare()
    bs = min(bs, len(dset))
    with looking():
        print('\nBuilding one sample')
        item = dl._item_name(0)
        for tl in dset.tls:
            _walk(tl.tfms, tl.items.iloc[0] if hasattr(tl.items, 'iloc') else tl.items[0], item)
        sample = dset[0]
        say()
        say(f'Final sample: {_short(sample)}')
        print('\n\n\nBuilding one batch')
        samples = [_walk(dl.after_item, sample, item)] if len(dl.after_item) else [sample]
        print(f'\nAdding the next {bs - 1} samples')
        samples += [dl.after_item(dset[i]) for i in range(1, bs)]
        if len(dl.before_batch):
            print('\nApplying before_batch to the list of samples')
            samples = _walk(dl.before_batch, samples, 'the samples')
        print('\nCollating items in a batch')
        b = _collated(dl, samples)
        if len(dl.after_batch):
            print('\nApplying batch_tfms to the batch built')
            _walk(dl.after_batch, to_device(b, dls.device), 'the batch')
        else:
            print('\nNo batch_tfms to apply')
            say(f'  {_short(b)}')
    if show_batch:
        dls.show_batch(**kwargs)


def _collated(dl: Any, samples: list) -> Any:
    try:
        return dl.retain(dl.create_batch(samples), samples)
    except Exception as error:
        print("Error! It's not possible to collate your items in a batch")
        raise collate_error(error, samples, [dl._item_name(i) for i in range(len(samples))]) from None
