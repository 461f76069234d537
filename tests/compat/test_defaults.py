"""Every default of an argument that fastai and minifast share has fastai's value, or stands here with its reason.

The values are read from fastai by `tests/data/make_fastai_defaults.py`.
"""
from __future__ import annotations

import inspect
import json
from pathlib import Path

import minifast.vision.all as ours

RECORDED = json.loads((Path(__file__).parents[1] / 'data' / 'fastai_defaults.json').read_text())['defaults']

OTHER_ON_PURPOSE = {
    ('DataLoader', 'persistent_workers'): 'None: kept where starting them is slow',
    ('DataLoader', 'pin_memory'): 'None: where the device is CUDA',
    ('DataLoader', 'timeout'): 'workers that hang are an error that names the items, not a wait for ever',
    ('DeterministicDihedral', 'align_corners'): "as the other geometry; fastai's None means False in torch",
    ('PartialDL', 'bs'): "a `TfmdDL`'s 64: with None the items would be batches",
    ('WeightedDL', 'bs'): "a `TfmdDL`'s 64: with None the items would be batches",
    ('MultiCategory.show', 'color'): 'None: the colour that the axis writes in, which suits its background',
    ('show_title', 'color'): 'None: the colour that the axis writes in, which suits its background',
    ('TfmdLists', 'use_list'): 'None is the same to it',
    ('default_device', 'use'): 'None is the same to it',
    ('get_show_batch_func', 'samples_typ'): 'the type that stands for any in our table',
    ('get_show_batch_func', 'x_typ'): 'the type that stands for any in our table',
    ('get_show_batch_func', 'y_typ'): 'the type that stands for any in our table',
    ('load_learner', 'pickle_module'): 'nothing is unpickled',
    ('Learner.export', 'pickle_protocol'): 'nothing is pickled',
    ('Learner.save', 'pickle_protocol'): 'nothing is pickled',
    ('resize_images', 'max_workers'): 'None: as many as there are cores',
}
MARKERS = ('TensorImage', 'TensorImageBW', 'TensorMask', 'TensorPoint', 'TensorBBox')
OTHER_ON_PURPOSE |= {(f'{marker}.{method}', name): 'None: what suits the kind of tensor'
                     for marker in MARKERS for method in ('affine_coord', 'dihedral_batch', 'warp', 'zoom')
                     for name in ('mode', 'pad_mode')}


def as_recorded(value):
    """A default as the file has it: plain values, sequences as lists, functions and classes by name."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return {'value': value}
    if isinstance(value, (list, tuple)):
        return {'value': [as_recorded(v)['value'] for v in value]}
    return {'name': getattr(value, '__name__', None)}


def found(name):
    """What we call so, None where we have no such thing."""
    obj = ours
    for part in name.split('.'):
        obj = getattr(obj, part, None)
    return obj


def shared():
    """(function, argument, fastai's default, ours)."""
    for name, recorded in RECORDED.items():
        try:
            parameters = inspect.signature(found(name)).parameters
        except (TypeError, ValueError):  # not there, or without a signature
            continue
        for argument, theirs in recorded.items():
            if argument in parameters and parameters[argument].default is not inspect.Parameter.empty:
                yield name, argument, theirs, as_recorded(parameters[argument].default)


def test_defaults_are_fastais():
    """One line for each that is another: a change of a number that people rely on is a decision with a reason."""
    pairs = list(shared())
    assert len(pairs) > 1500
    other = {(name, argument): (theirs, own) for name, argument, theirs, own in pairs if theirs != own}
    assert {place: values for place, values in other.items() if place not in OTHER_ON_PURPOSE} == {}


def test_defaults_other_on_purpose_are_still_other():
    """The list of reasons does not outlive the differences."""
    other = {(name, argument) for name, argument, theirs, own in shared() if theirs != own}
    stale = {place for place in OTHER_ON_PURPOSE if place[0].split('.')[0] not in MARKERS} - other
    assert not stale
