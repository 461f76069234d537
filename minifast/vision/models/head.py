"""Heads: what turns the features of a body into predictions."""
from __future__ import annotations

from collections.abc import Callable, Sequence

from fastcore.foundation import L
from torch import nn

from minifast.arguments import tells_near_match
from minifast.layers import AdaptiveConcatPool2d, Flatten, LinBnDrop, SigmoidRange
from minifast.torch_core import apply_init

__all__ = ['add_head', 'create_head']


@tells_near_match
def create_head(nf: int, n_out: int, lin_ftrs: Sequence[int] | None = None, ps: float | Sequence[float] = 0.5,
                pool: bool = True, concat_pool: bool = True, first_bn: bool = True, bn_final: bool = False,
                lin_first: bool = False, y_range: Sequence[float] | None = None) -> nn.Sequential:
    """A head for features [B,nf,h,w] (or [B,nf] without `pool`): pooling, then blocks of norm, dropout, linear, ReLU.

    Args:
        nf: channels of the features.
        n_out: numbers to predict for each item.
        lin_ftrs: sizes of the hidden layers, default one of 512; `[]` for none.
        ps: dropout of each block; a single number is that of the last block, the others get half of it.
        pool: start with pooling.
        concat_pool: pool by maximum and mean side by side, which doubles the features, instead of by mean.
        first_bn: batch norm in the first block.
        bn_final: batch norm on the output.
        lin_first: linear layer before norm and dropout in each block.
        y_range: (low, high) of a sigmoid on the output, for regression.

    Raises:
        ValueError: `ps` has neither one number nor one for each block.
    """
    sizes = [nf * 2 if pool and concat_pool else nf, *([512] if lin_ftrs is None else lin_ftrs), n_out]
    n_blocks, ps = len(sizes) - 1, list(L(ps))
    if len(ps) == 1:
        ps = [ps[0] / 2] * (n_blocks - 1) + ps
    if len(ps) != n_blocks:
        raise ValueError(f'ps={ps} has {len(ps)} numbers for {n_blocks} dropouts (lin_ftrs={lin_ftrs}): '
                         'give one for each, or a single one')
    layers: list[nn.Module] = []
    if pool:
        layers += [AdaptiveConcatPool2d() if concat_pool else nn.AdaptiveAvgPool2d(1), Flatten()]
    # a linear layer that comes first has its block's dropout behind it: the first one then stands before all blocks
    if lin_first:
        layers.append(nn.Dropout(ps.pop(0)))
    for i, (n_in, n_block, p) in enumerate(zip(sizes[:-1], sizes[1:], ps)):
        last = i == n_blocks - 1
        layers += LinBnDrop(n_in, n_block, bn=first_bn or i > 0, p=p, act=None if last else nn.ReLU(inplace=True),
                            lin_first=lin_first)
    if lin_first:
        layers.append(nn.Linear(sizes[-2], n_out))
    if bn_final:
        layers.append(nn.BatchNorm1d(n_out, momentum=0.01))
    if y_range is not None:
        layers.append(SigmoidRange(*y_range))
    return nn.Sequential(*layers)


@tells_near_match
def add_head(body: nn.Module, nf: int | None, n_out: int, init: Callable | None = nn.init.kaiming_normal_,
             head: nn.Module | None = None, concat_pool: bool = True, pool: bool = True,
             lin_ftrs: Sequence[int] | None = None, ps: float | Sequence[float] = 0.5, first_bn: bool = True,
             bn_final: bool = False, lin_first: bool = False, y_range: Sequence[float] | None = None) -> nn.Sequential:
    """`Sequential(body, head)`, the head's layers initialised with `init`.

    Args:
        body: gives features [B,nf,h,w].
        nf: channels of the features; not needed with a `head`.
        n_out: numbers to predict for each item.
        init: for the weights of all layers of the head but the norms; None leaves them.
        head: a head of your own; default: `create_head` with the other arguments.
        concat_pool, pool, lin_ftrs, ps, first_bn, bn_final, lin_first, y_range: see `create_head`.
    """
    if head is None:
        head = create_head(nf, n_out, concat_pool=concat_pool, pool=pool, lin_ftrs=lin_ftrs, ps=ps, first_bn=first_bn,
                           bn_final=bn_final, lin_first=lin_first, y_range=y_range)
    if init is not None:
        apply_init(head, init)
    return nn.Sequential(body, head)
