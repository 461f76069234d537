"""Standard library, fastcore and torch names, with our tensors, layers and losses.

A namespace hands on what its rooms list in their `__all__` and has no list of its own; `x as x` tells type checkers
that a name from elsewhere is meant to be handed on.
"""
from minifast.imports import *
import torch as torch
from torch import (
    nn as nn, Tensor as Tensor, as_tensor as as_tensor, ByteTensor as ByteTensor, DoubleTensor as DoubleTensor,
    FloatTensor as FloatTensor, HalfTensor as HalfTensor, LongTensor as LongTensor,
)
from torch.utils.data import (
    BatchSampler as BatchSampler, IterableDataset as IterableDataset, RandomSampler as RandomSampler,
    Sampler as Sampler, SequentialSampler as SequentialSampler, default_collate as default_collate,
    default_convert as default_convert, get_worker_info as get_worker_info,
)
from minifast.arguments import *
from minifast.torch_core import *
from minifast.markers import *
from minifast.show import *
from minifast.layers import *
from minifast.losses import *

F = nn.functional
