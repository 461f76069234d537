"""The standard library, numpy and fastcore names that a notebook expects after one `import *`.

Libraries that are slow to import or optional (matplotlib, pandas, scipy, requests, yaml) are here under their usual
names and are imported at the first use of one of their attributes, so that `import minifast.vision.all` costs little
more than torch and torchvision.
"""
from __future__ import annotations

import bz2
import collections
import concurrent.futures
import csv
import enum
import functools
import glob
import hashlib
import importlib
import inspect
import io
import itertools
import json
import math
import mimetypes
import multiprocessing
import numbers
import operator
import os
import pickle
import platform
import random
import re
import shutil
import string
import sys
import tarfile
import tempfile
import threading
import time
import types
import typing
import urllib.request
import warnings
import zipfile
from collections import Counter, OrderedDict, defaultdict, namedtuple
from collections.abc import Callable, Generator, Iterable, Iterator, MutableMapping, MutableSequence, Sequence
from concurrent.futures import as_completed
from contextlib import contextmanager, redirect_stdout
from copy import copy, deepcopy
from datetime import datetime
from enum import Enum, IntEnum
from functools import partial, reduce
from itertools import dropwhile, starmap, takewhile, zip_longest
from multiprocessing import Lock, Process, Queue, queues
from numbers import Number, Real
from operator import attrgetter, itemgetter, methodcaller
from pathlib import Path
from pdb import set_trace
from textwrap import TextWrapper
from types import (
    BuiltinFunctionType, BuiltinMethodType, FunctionType, LambdaType, MethodType, ModuleType, SimpleNamespace,
)
from typing import Any, Dict, List, Optional, Set, Tuple, TypeVar, Union
from urllib.request import urlopen
from warnings import warn

import numpy as np
from fastcore.basics import (
    AttrDict, Float, GetAttr, Inf, Int, NotStr, NullType, PrettyString, Self, ShowPrint, Stateful, Str, StrEnum,
    ValEnum, add, argwhere, attrdict, basic_repr, camel2snake, chunked, class2attr, compile_re, copy_func, custom_dir,
    cycle, detuplify, eq, even_mults, fastuple, filter_dict, filter_ex, filter_keys, filter_values, first, flatten,
    ge, gen, get_class, getattrs, getcallable, groupby, gt, hasattrs, ifnone, ignore_exceptions, in_, instantiate,
    is_, is_array, is_not, kindsort, last, last_index, le, listify, lt, map_ex, maps, mapt, maybe_attr, merge,
    mk_class, mod, mul, ne, negate, nested_attr, nested_callable, nested_idx, not_, null, num_cpus, num_methods, only,
    otherwise, partialler, patch, patch_to, properties, range_of, renumerate, replicate, req, risinstance, setattrs,
    setify, snake2camel, sorted_ex, stop, store_attr, str_enum, strcat, sub, tonull, true, truediv, try_attrs,
    tuplify, type_hints, typed, uniqueify, using_attr, val2idx, with_cast, wrap_class, zip_cycle,
)
from fastcore.foundation import (
    CollBase, L, add_docs, coll_repr, docs, is_bool, is_indexer, mask2idxs, product, working_directory,
)
from fastcore.imports import (
    IN_COLAB, IN_IPYTHON, IN_JUPYTER, IN_NOTEBOOK, NoneType, all_equal, any_is_instance, array_equal, df_equal,
    equals, in_colab, in_ipython, in_jupyter, in_notebook, is_coll, is_iter, isinstance_str, noop, noops,
)
from fastcore.meta import (
    BypassNewMeta, FixSigMeta, NewChkMeta, PrePostInitMeta, delegates, funcs_kwargs, method, use_kwargs,
    use_kwargs_dict,
)
from fastcore.net import urljson, urlread, urlretrieve, urlsave
from fastcore.parallel import ProcessPoolExecutor, ThreadPoolExecutor, parallel, startproc, startthread, threaded
from fastcore.script import bool_arg, call_parse
from fastcore.test import (
    TEST_IMAGE, TEST_IMAGE_BW, ExceptionExpected, exception, is_close, nequals, test, test_close, test_eq,
    test_eq_type, test_fail, test_fig_exists, test_is, test_ne, test_shuffled, test_stdout, test_warns,
)
from fastcore.xtras import (
    Config, ContextManagers, EventTimer, IterLen, ReindexCollection, SaveReturn, bunzip, dict2obj, expand_wildcards,
    globtastic, image_size, is_listy, is_namedtuple, join_path_file, load_pickle, loads, maybe_open, mkdir,
    modified_env, modify_exception, obj2dict, open_file, partial_format, repr_dict, round_multiple, save_pickle,
    shufflish, sparkline, str_diff, trace, truncstr, type2str, unqid, untar_dir, walk,
)
from numpy import array, ndarray

__all__ = [
    'add', 'add_docs', 'all_equal', 'Any', 'any_is_instance', 'argwhere', 'array', 'array_equal',
    'as_completed', 'AttrDict', 'attrdict', 'attrgetter', 'basic_repr', 'bool_arg', 'BuiltinFunctionType',
    'BuiltinMethodType', 'bunzip', 'BypassNewMeta', 'bz2', 'call_parse', 'Callable', 'camel2snake', 'chunked',
    'class2attr', 'coll_repr', 'CollBase', 'collections', 'compile_re', 'concurrent', 'Config', 'contextmanager',
    'ContextManagers', 'copy', 'copy_func', 'Counter', 'csv', 'custom_dir', 'cycle', 'datetime', 'deepcopy',
    'defaultdict', 'delegates', 'detuplify', 'df_equal', 'Dict', 'dict2obj', 'docs', 'dropwhile', 'Enum', 'enum',
    'eq', 'equals', 'even_mults', 'EventTimer', 'exception', 'ExceptionExpected', 'expand_wildcards', 'fastuple',
    'filter_dict', 'filter_ex', 'filter_keys', 'filter_values', 'first', 'FixSigMeta', 'flatten', 'Float',
    'funcs_kwargs', 'FunctionType', 'functools', 'ge', 'gen', 'Generator', 'get_class', 'GetAttr', 'getattrs',
    'getcallable', 'glob', 'globtastic', 'groupby', 'gt', 'hasattrs', 'hashlib', 'ifnone', 'ignore_exceptions',
    'image_size', 'in_', 'IN_COLAB', 'in_colab', 'IN_IPYTHON', 'in_ipython', 'IN_JUPYTER', 'in_jupyter',
    'IN_NOTEBOOK', 'in_notebook', 'Inf', 'inspect', 'instantiate', 'Int', 'IntEnum', 'io', 'is_', 'is_array',
    'is_bool', 'is_close', 'is_coll', 'is_indexer', 'is_iter', 'is_listy', 'is_namedtuple', 'is_not',
    'isinstance_str', 'itemgetter', 'Iterable', 'Iterator', 'IterLen', 'itertools', 'join_path_file', 'json',
    'kindsort', 'L', 'LambdaType', 'last', 'last_index', 'LazyModule', 'le', 'List', 'listify', 'load_pickle',
    'loads', 'Lock', 'lt', 'map_ex', 'maps', 'mapt', 'mask2idxs', 'math', 'matplotlib', 'maybe_attr', 'maybe_open',
    'merge', 'method', 'methodcaller', 'MethodType', 'mimetypes', 'mk_class', 'mkdir', 'mod', 'modified_env',
    'modify_exception', 'ModuleType', 'mul', 'multiprocessing', 'MutableMapping', 'MutableSequence', 'namedtuple',
    'ndarray', 'ndimage', 'ne', 'negate', 'nequals', 'nested_attr', 'nested_callable', 'nested_idx', 'NewChkMeta',
    'NoneType', 'noop', 'noops', 'not_', 'NotStr', 'np', 'null', 'NullType', 'num_cpus', 'num_methods', 'Number',
    'numbers', 'obj2dict', 'only', 'open_file', 'operator', 'Optional', 'OrderedDict', 'os', 'otherwise', 'parallel',
    'partial', 'partial_format', 'partialler', 'patch', 'patch_to', 'Path', 'pd', 'pickle', 'platform', 'plt',
    'PrePostInitMeta', 'PrettyString', 'Process', 'ProcessPoolExecutor', 'product', 'properties', 'Queue', 'queues',
    'random', 'range_of', 're', 'Real', 'redirect_stdout', 'reduce', 'ReindexCollection', 'renumerate', 'replicate',
    'repr_dict', 'req', 'requests', 'risinstance', 'round_multiple', 'save_pickle', 'SaveReturn', 'scipy', 'Self',
    'Sequence', 'Set', 'set_trace', 'setattrs', 'setify', 'ShowPrint', 'shufflish', 'shutil', 'SimpleNamespace',
    'snake2camel', 'sorted_ex', 'sparkline', 'starmap', 'startproc', 'startthread', 'Stateful', 'stop', 'store_attr',
    'Str', 'str_diff', 'str_enum', 'strcat', 'StrEnum', 'string', 'string_classes', 'sub', 'sys', 'takewhile',
    'tarfile', 'tempfile', 'test', 'test_close', 'test_eq', 'test_eq_type', 'test_fail', 'test_fig_exists',
    'TEST_IMAGE', 'TEST_IMAGE_BW', 'test_is', 'test_ne', 'test_shuffled', 'test_stdout', 'test_warns', 'TextWrapper',
    'threaded', 'threading', 'ThreadPoolExecutor', 'time', 'tonull', 'trace', 'true', 'truediv', 'truncstr',
    'try_attrs', 'Tuple', 'tuplify', 'type2str', 'type_hints', 'typed', 'types', 'TypeVar', 'typing', 'Union',
    'uniqueify', 'unqid', 'untar_dir', 'urljson', 'urllib', 'urlopen', 'urlread', 'urlretrieve', 'urlsave',
    'use_kwargs', 'use_kwargs_dict', 'using_attr', 'val2idx', 'ValEnum', 'walk', 'warn', 'warnings', 'with_cast',
    'working_directory', 'wrap_class', 'yaml', 'zip_cycle', 'zip_longest', 'zipfile',
]


class LazyModule(ModuleType):
    """Stands for a module until its first attribute is read, and hands every read and write on to it.

    `import matplotlib.pyplot` takes a seventh of the time of `import torch`: a script that plots nothing need not wait.
    """

    def __init__(self, name: str) -> None:
        """Args: name: the full name of the module to import when needed."""
        super().__init__(name, f'Imported when first used: {name}')

    def __getattr__(self, name: str) -> Any:
        """An attribute of the real module (Python asks here only for what this object does not have itself)."""
        return getattr(importlib.import_module(self.__name__), name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute of the real module."""
        setattr(importlib.import_module(self.__name__), name, value)

    def __dir__(self) -> list[str]:
        """The names of the real module, for completion in a notebook."""
        return dir(importlib.import_module(self.__name__))


matplotlib = LazyModule('matplotlib')
plt = LazyModule('matplotlib.pyplot')
pd = LazyModule('pandas')
scipy = LazyModule('scipy')
ndimage = LazyModule('scipy.ndimage')
requests = LazyModule('requests')
yaml = LazyModule('yaml')
string_classes = (str, bytes)
