"""All of the data rooms: from items to loaders.

Written by tools/make_namespaces.py from the rooms' `__all__` (`make namespaces`).
"""
from minifast import torch_basics as _torch_basics
from minifast.torch_basics import *
from minifast.data.sampler import (
    BATCH, chunks, ITEM, ItemKeys, ORDER, order, ORDER_NAMES, order_state, order_untouched, Position, privately,
    share, tell_epoch, whole,
)
from minifast.data.pipeline import (
    compose_tfms, dispatch, DisplayedTransform, gather_attrs, InplaceTransform, is_known, ItemTransform, keyed,
    mk_transform, Overloads, Pipeline, RandTransform, retain, Transform, transform_config, transform_from_config,
    typedispatch,
)
from minifast.data.transforms import (
    AttrGetter, broadcast_vec, Categorize, Category, CategoryMap, ColReader, ColSplitter, EncodedMultiCategorize,
    EndSplitter, FileGetter, FileSplitter, FuncSplitter, get_c, get_files, get_image_files, get_text_files,
    GrandparentSplitter, image_extensions, ImageGetter, IndexSplitter, IntToFloatTensor, ItemGetter, MaskSplitter,
    MultiCategorize, MultiCategory, Normalize, OneHotEncode, parent_label, RandomSplitter, RandomSubsetSplitter,
    RegexLabeller, RegressionSetup, ShowTitle, TitledFloat, TitledInt, TitledStr, TitledTuple, ToTensor,
    TrainTestSplitter,
)
from minifast.data.load import (
    BatchMaker, collate_error, DataLoader, fa_collate, fa_convert, Plan, SkipItemException, why_empty,
)
from minifast.data.core import (
    DataLoaders, Datasets, decode_at, FilteredBase, get_show_batch_func, show_at, show_batch, show_results, test_set,
    TfmdDL, TfmdLists,
)
from minifast.data.block import CategoryBlock, DataBlock, MultiCategoryBlock, RegressionBlock, TransformBlock
from minifast.data.external import (
    DataConfig, download_data, download_file, extract_archive, fastai_cfg, fastai_path, untar_data, URLs,
)

__all__ = [
    'AttrGetter', 'BATCH', 'BatchMaker', 'broadcast_vec', 'Categorize', 'Category', 'CategoryBlock', 'CategoryMap',
    'chunks', 'collate_error', 'ColReader', 'ColSplitter', 'compose_tfms', 'DataBlock', 'DataConfig', 'DataLoader',
    'DataLoaders', 'Datasets', 'decode_at', 'dispatch', 'DisplayedTransform', 'download_data', 'download_file',
    'EncodedMultiCategorize', 'EndSplitter', 'extract_archive', 'fa_collate', 'fa_convert', 'fastai_cfg',
    'fastai_path', 'FileGetter', 'FileSplitter', 'FilteredBase', 'FuncSplitter', 'gather_attrs', 'get_c', 'get_files',
    'get_image_files', 'get_show_batch_func', 'get_text_files', 'GrandparentSplitter', 'image_extensions',
    'ImageGetter', 'IndexSplitter', 'InplaceTransform', 'IntToFloatTensor', 'is_known', 'ITEM', 'ItemGetter',
    'ItemKeys', 'ItemTransform', 'keyed', 'MaskSplitter', 'mk_transform', 'MultiCategorize', 'MultiCategory',
    'MultiCategoryBlock', 'Normalize', 'OneHotEncode', 'ORDER', 'order', 'ORDER_NAMES', 'order_state',
    'order_untouched', 'Overloads', 'parent_label', 'Pipeline', 'Plan', 'Position', 'privately', 'RandomSplitter',
    'RandomSubsetSplitter', 'RandTransform', 'RegexLabeller', 'RegressionBlock', 'RegressionSetup', 'retain', 'share',
    'show_at', 'show_batch', 'show_results', 'ShowTitle', 'SkipItemException', 'tell_epoch', 'test_set', 'TfmdDL',
    'TfmdLists', 'TitledFloat', 'TitledInt', 'TitledStr', 'TitledTuple', 'ToTensor', 'TrainTestSplitter', 'Transform',
    'transform_config', 'transform_from_config', 'TransformBlock', 'typedispatch', 'untar_data', 'URLs', 'whole',
    'why_empty',
]
__all__ += _torch_basics.__all__
