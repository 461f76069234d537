"""Import lines of public code that take a name from a room other than its own."""
from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from minifast.learner import Learner

TAKEN = {
    'callback.schedule': 'Learner fit_one_cycle fine_tune fit_flat_cos CancelFitException valley steep minimum lr_find',
    'vision.learner': 'load_learner models resnet18 params _update_first_layer _resnet_split has_pool_type model_meta',
    'vision.core': 'IntToFloatTensor ToTensor imagenet_stats PILImage TensorImage',
    'vision.augment': 'imagenet_stats test_eq Normalize RandTransform ResizeMethod',
    'torch_core': 'delegates L nn torch default_device TensorMask Module',
    'data.core': 'Transform DataLoader Pipeline',
    'data.block': 'collate_error fa_collate fa_convert DataLoaders',
    'callback.core': 'store_attr CancelBatchException TrainEvalCallback',
    'callback.tracker': 'Union shutil SaveModelCallback',
    'callback.hook': 'summary find_bs module_summary total_params',
    'distributed': 'distrib_ctx to_distributed rank0_first',
    'metrics': 'L rmse top_k_accuracy',
}


@pytest.mark.parametrize('room', TAKEN)
def test_names_are_found_where_public_code_imports_them(room):
    """As fastai's modules have them through star imports and patches."""
    module = importlib.import_module(f'minifast.{room}')
    assert not [name for name in TAKEN[room].split() if getattr(module, name, None) is None]


def test_they_are_the_same_objects():
    """Methods are those of the learner, called with it."""
    from minifast.callback.schedule import Learner as found
    from minifast.callback.schedule import fit_one_cycle
    assert found is Learner and fit_one_cycle is Learner.fit_one_cycle


def test_a_name_that_nobody_has_is_an_error_as_ever():
    """Also a private one, and one with a typing error."""
    for name in ('Leaner', '_one_ahead', '__nothing__'):
        with pytest.raises(ImportError, match=f"cannot import name '{name}' from 'minifast.learner'"):
            exec(f'from minifast.learner import {name}')
    with pytest.raises(AttributeError, match="module 'minifast.vision' has no attribute 'nothing'"):
        importlib.import_module('minifast.vision').nothing


def test_nothing_is_imported_until_a_name_is_missed():
    """And submodules of a package are still submodules."""
    code = ('import sys; from minifast.data import load; from minifast.callback import schedule\n'
            'assert load.__name__ == "minifast.data.load" and "minifast.vision" not in sys.modules\n'
            'schedule.Learner; assert "minifast.vision.all" in sys.modules')
    subprocess.run([sys.executable, '-c', code], check=True, timeout=120)
