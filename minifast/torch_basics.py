"""Standard library, fastcore and torch names, with our tensors, layers and losses.

Written by tools/make_namespaces.py from the rooms' `__all__` (`make namespaces`).
"""
from minifast import imports as _imports
from minifast.imports import *
import torch
from torch import nn, Tensor, as_tensor, ByteTensor, DoubleTensor, FloatTensor, HalfTensor, LongTensor
from torch.nn import functional as F
from torch.utils.data import (
    BatchSampler, IterableDataset, RandomSampler, Sampler, SequentialSampler, default_collate, default_convert,
    get_worker_info,
)
from minifast.arguments import check_kwargs, near_match
from minifast.torch_core import (
    apply, apply_init, apply_leaf, array, batch_to_samples, batchnorm_types, bn_bias_params, cast, concat, cond_init,
    default_device, defaults, detach_parallel, detuplify, display_df, find_bs, find_device, flatten_check,
    get_empty_df, get_first, get_model, get_random_states, init_default, ismin_torch, item_find, join_path_file,
    key_seed, keyed_generator, looking, master_bar, maybe_gather, Module, nested_reorder, no_random, norm_bias_params,
    norm_types, notmax_torch, num_distrib, one_param, params, plain, progress_bar, rank_distrib, requires_grad,
    retain_type, seeded, set_random_states, set_seed, split_model, tensor, TensorBase, TensorCategory,
    TensorFlowField, TensorImage, TensorImageBase, TensorImageBW, TensorMask, TensorMultiCategory, TitledTensorScalar,
    to_concat, to_cpu, to_detach, to_device, to_float, to_half, to_np, to_parallel, trainable_params, unsqueeze,
    unsqueeze_,
)

__all__ = [
    'apply', 'apply_init', 'apply_leaf', 'array', 'as_tensor', 'batch_to_samples', 'batchnorm_types', 'BatchSampler',
    'bn_bias_params', 'ByteTensor', 'cast', 'check_kwargs', 'concat', 'cond_init', 'default_collate',
    'default_convert', 'default_device', 'defaults', 'detach_parallel', 'detuplify', 'display_df', 'DoubleTensor',
    'F', 'find_bs', 'find_device', 'flatten_check', 'FloatTensor', 'get_empty_df', 'get_first', 'get_model',
    'get_random_states', 'get_worker_info', 'HalfTensor', 'init_default', 'ismin_torch', 'item_find',
    'IterableDataset', 'join_path_file', 'key_seed', 'keyed_generator', 'LongTensor', 'looking', 'master_bar',
    'maybe_gather', 'Module', 'near_match', 'nested_reorder', 'nn', 'no_random', 'norm_bias_params', 'norm_types',
    'notmax_torch', 'num_distrib', 'one_param', 'params', 'plain', 'progress_bar', 'RandomSampler', 'rank_distrib',
    'requires_grad', 'retain_type', 'Sampler', 'seeded', 'SequentialSampler', 'set_random_states', 'set_seed',
    'split_model', 'Tensor', 'tensor', 'TensorBase', 'TensorCategory', 'TensorFlowField', 'TensorImage',
    'TensorImageBase', 'TensorImageBW', 'TensorMask', 'TensorMultiCategory', 'TitledTensorScalar', 'to_concat',
    'to_cpu', 'to_detach', 'to_device', 'to_float', 'to_half', 'to_np', 'to_parallel', 'torch', 'trainable_params',
    'unsqueeze', 'unsqueeze_',
]
__all__ += _imports.__all__
