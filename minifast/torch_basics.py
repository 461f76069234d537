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
from minifast.arguments import check_kwargs, near_match, tells_near_match
from minifast.torch_core import (
    apply, apply_init, apply_leaf, array, batch_to_samples, batchnorm_types, bn_bias_params, cast, concat, cond_init,
    default_device, defaults, detach_parallel, detuplify, display_df, distrib_barrier, doc, fields_of, find_bs,
    find_device, flatten_check, get_empty_df, get_first, get_model, get_random_states, grad_module, init_default,
    ismin_torch, item_find, join_path_file, key_seed, keyed_generator, length_of, logit, looking, make_cross_image,
    master_bar, maybe_gather, Module, nested_reorder, no_random, norm_bias_params, norm_types, notmax_torch, np_func,
    num_distrib, one_hot, one_hot_decode, one_param, params, plain, progress_bar, rank_distrib, requires_grad,
    retain_type, seeded, set_random_states, set_seed, split_model, tensor, TensorBase, TensorCategory,
    TensorFlowField, TensorImage, TensorImageBase, TensorImageBW, TensorMask, TensorMultiCategory, TitledTensorScalar,
    to_concat, to_cpu, to_detach, to_device, to_float, to_half, to_np, to_parallel, trainable_params, unsqueeze,
    unsqueeze_,
)
from minifast.markers import explode_types, retain_meta, retain_types
from minifast.show import get_grid, show_image, show_image_batch, show_images, show_title, show_titled_image, subplots
from minifast.layers import (
    adaptive_pool, AdaptiveAvgPool, AdaptiveConcatPool1d, AdaptiveConcatPool2d, AvgPool, BatchNorm, BatchNorm1dFlat,
    Cat, children_and_parameters, ConvLayer, Debugger, Embedding, Flatten, flatten_model, has_children, icnr_init,
    Identity, in_channels, init_linear, inplace_relu, InstanceNorm, Lambda, LinBnDrop, MaxPool, MergeLayer, Mish,
    mish, MishJit, NoneReduce, NormType, ParameterModule, PartialLambda, PixelShuffle_ICNR, PooledSelfAttention2d,
    PoolFlatten, PoolType, ProdLayer, ResBlock, ResizeBatch, SEBlock, SelfAttention, SEModule, SeparableBlock,
    sequential, SequentialEx, SEResNeXtBlock, sigmoid, sigmoid_, sigmoid_range, SigmoidRange, SimpleCNN,
    SimpleSelfAttention, Swish, swish, SwishJit, TimeDistributed, ToTensorBase, trunc_normal_, View, vleaky_relu,
)
from minifast.losses import (
    BaseLoss, BCELossFlat, BCEWithLogitsLossFlat, CrossEntropyLossFlat, DiceLoss, FocalLoss, FocalLossFlat,
    L1LossFlat, LabelSmoothingCrossEntropy, LabelSmoothingCrossEntropyFlat, MSELossFlat,
)

__all__ = [
    'adaptive_pool', 'AdaptiveAvgPool', 'AdaptiveConcatPool1d', 'AdaptiveConcatPool2d', 'apply', 'apply_init',
    'apply_leaf', 'array', 'as_tensor', 'AvgPool', 'BaseLoss', 'batch_to_samples', 'BatchNorm', 'BatchNorm1dFlat',
    'batchnorm_types', 'BatchSampler', 'BCELossFlat', 'BCEWithLogitsLossFlat', 'bn_bias_params', 'ByteTensor', 'cast',
    'Cat', 'check_kwargs', 'children_and_parameters', 'concat', 'cond_init', 'ConvLayer', 'CrossEntropyLossFlat',
    'Debugger', 'default_collate', 'default_convert', 'default_device', 'defaults', 'detach_parallel', 'detuplify',
    'DiceLoss', 'display_df', 'distrib_barrier', 'doc', 'DoubleTensor', 'Embedding', 'explode_types', 'F',
    'fields_of', 'find_bs', 'find_device', 'Flatten', 'flatten_check', 'flatten_model', 'FloatTensor', 'FocalLoss',
    'FocalLossFlat', 'get_empty_df', 'get_first', 'get_grid', 'get_model', 'get_random_states', 'get_worker_info',
    'grad_module', 'HalfTensor', 'has_children', 'icnr_init', 'Identity', 'in_channels', 'init_default',
    'init_linear', 'inplace_relu', 'InstanceNorm', 'ismin_torch', 'item_find', 'IterableDataset', 'join_path_file',
    'key_seed', 'keyed_generator', 'L1LossFlat', 'LabelSmoothingCrossEntropy', 'LabelSmoothingCrossEntropyFlat',
    'Lambda', 'length_of', 'LinBnDrop', 'logit', 'LongTensor', 'looking', 'make_cross_image', 'master_bar', 'MaxPool',
    'maybe_gather', 'MergeLayer', 'Mish', 'mish', 'MishJit', 'Module', 'MSELossFlat', 'near_match', 'nested_reorder',
    'nn', 'no_random', 'NoneReduce', 'norm_bias_params', 'norm_types', 'NormType', 'notmax_torch', 'np_func',
    'num_distrib', 'one_hot', 'one_hot_decode', 'one_param', 'ParameterModule', 'params', 'PartialLambda',
    'PixelShuffle_ICNR', 'plain', 'PooledSelfAttention2d', 'PoolFlatten', 'PoolType', 'ProdLayer', 'progress_bar',
    'RandomSampler', 'rank_distrib', 'requires_grad', 'ResBlock', 'ResizeBatch', 'retain_meta', 'retain_type',
    'retain_types', 'Sampler', 'SEBlock', 'seeded', 'SelfAttention', 'SEModule', 'SeparableBlock', 'sequential',
    'SequentialEx', 'SequentialSampler', 'SEResNeXtBlock', 'set_random_states', 'set_seed', 'show_image',
    'show_image_batch', 'show_images', 'show_title', 'show_titled_image', 'sigmoid', 'sigmoid_', 'sigmoid_range',
    'SigmoidRange', 'SimpleCNN', 'SimpleSelfAttention', 'split_model', 'subplots', 'Swish', 'swish', 'SwishJit',
    'tells_near_match', 'Tensor', 'tensor', 'TensorBase', 'TensorCategory', 'TensorFlowField', 'TensorImage',
    'TensorImageBase', 'TensorImageBW', 'TensorMask', 'TensorMultiCategory', 'TimeDistributed', 'TitledTensorScalar',
    'to_concat', 'to_cpu', 'to_detach', 'to_device', 'to_float', 'to_half', 'to_np', 'to_parallel', 'torch',
    'ToTensorBase', 'trainable_params', 'trunc_normal_', 'unsqueeze', 'unsqueeze_', 'View', 'vleaky_relu',
]
__all__ += _imports.__all__
