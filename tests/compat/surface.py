"""How much of what public code uses of fastai a library answers: names, attributes of live objects, keyword arguments.

    python tests/compat/surface.py minifast
    python tests/compat/surface.py fastai

Names are imported from the module where fastai keeps them and, unless they are private there, from `vision.all`.
Attributes are read from a tiny learner that has been trained, some inside a batch, and written where code writes them.
Keyword arguments are in the signature, or a call with them goes through.
"""
from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import drawn  # noqa: E402
from surface_calls import kwarg_calls  # noqa: E402

SURFACE = json.loads((HERE.parent / 'data' / 'surface.json').read_text(encoding='utf-8'))
IN_BATCH = 'xb yb x y pred loss loss_grad dl iter n_iter training epoch n_epoch pct_train'.split()


def module_of(library: str, module: str) -> str | None:
    """The library's module for one of fastai's, None for modules of other packages."""
    return library + module[len('fastai'):] if module.split('.')[0] == 'fastai' else None


def find(module: str, name: str) -> Any:
    """The object, or None where module or name do not exist."""
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None


def missing_names(library: str) -> list[str]:
    """Names that are not where fastai has them."""
    public = vars(importlib.import_module(f'{library}.vision.all'))
    missing = []
    for name, fact in SURFACE['names'].items():
        home = module_of(library, fact['module'])
        if home is not None and find(home, name) is None:
            missing.append(f'{name} (in {home})')
        elif home is None and name not in public:
            missing.append(f'{name} (in vision.all)')
        elif name not in public and not name.startswith('_') and fact['module'] not in PRIVATE:
            missing.append(f'{name} (in vision.all)')
    return missing


PRIVATE = {'fastai.vision.gan', 'fastai.callback.wandb', 'fastai.callback.tensorboard', 'fastai.test_utils',
           'fastcore.basics', 'fastcore.script', 'fastcore.xtras', 'fastcore.foundation'}
"""Modules whose names `from fastai.vision.all import *` does not promise."""


def _kept(cls: type) -> Any:
    """A callback that notes what a learner shows inside a training batch."""
    class Peek(cls):
        order = 100

        def after_batch(self) -> None:
            if self.training:
                self.learn.seen = {name: getattr(self.learn, name, None) for name in IN_BATCH}
    return Peek()


def live(library: str) -> dict[str, Any]:
    """One object or class for every owner of attributes in the surface file."""
    import matplotlib
    matplotlib.use('Agg')
    ns = importlib.import_module(f'{library}.vision.all')
    path = drawn.colour_folders(n_train=4, n_valid=2)
    Path.BASE_PATH = path
    block = ns.DataBlock((ns.ImageBlock, ns.CategoryBlock), get_items=ns.get_image_files, get_y=ns.parent_label,
                         splitter=ns.GrandparentSplitter(), item_tfms=ns.Resize(16))
    dsets = block.datasets(path)
    dls = block.dataloaders(path, bs=4, num_workers=0)
    dls.loss_func = ns.CrossEntropyLossFlat()
    learn = ns.vision_learner(dls, ns.xresnet18, pretrained=False, metrics=ns.accuracy, path=path,
                              cbs=[_kept(ns.Callback), ns.ActivationStats()])
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-4)
        interp = ns.ClassificationInterpretation.from_learner(learn)
        learn.fit(1, 1e-4)
    image = ns.PILImage.create(ns.get_image_files(path)[0])
    return {
        'ns': ns, 'path': path, 'block': block, 'learn': learn, 'dls': dls, 'dsets': dsets, 'interp': interp,
        'ClassificationInterpretation': ns.ClassificationInterpretation, 'Interpretation': ns.Interpretation,
        'Interp': interp, 'DataBlock': block, 'DataLoader': dls.train, 'DataLoaders': dls, 'Datasets': dsets,
        'GANLearner': getattr(ns, 'GANLearner', None), 'Image': ns.Image, 'ImageDataLoaders': ns.ImageDataLoaders,
        'L': ns.L([1, 2]), 'Learner': learn, 'NormType': ns.NormType, 'Normalize': ns.Normalize,
        'Optimizer': learn.opt, 'PILImage': image, 'PILImageBW': ns.PILImageBW, 'PILMask': ns.PILMask,
        'PadMode': ns.PadMode, 'Path': path, 'Pipeline': dsets.tfms[1], 'Recorder': learn.recorder,
        'ResizeMethod': ns.ResizeMethod, 'SegmentationDataLoaders': ns.SegmentationDataLoaders,
        'TfmdLists': dsets.tls[0], 'TrackerCallback': ns.TrackerCallback(), 'Vocab': dls.vocab,
        'model_meta': ns.model_meta}


def missing_attributes(library: str, objects: dict[str, Any]) -> list[str]:
    """Attributes that the live objects do not have, or that cannot be written where code writes them."""
    missing = []
    for key, fact in SURFACE['attributes'].items():
        owner_name, name = key.split('.')
        owner = objects[owner_name]
        try:
            if owner_name == 'Learner' and name in IN_BATCH:
                ok = objects['learn'].seen[name] is not None
                value = objects['learn'].seen[name]
            else:
                value = getattr(owner, name)
                ok = True
            if ok and fact['written'] and not inspect.isclass(owner):
                setattr(owner, name, value)
        except AttributeError as error:
            missing.append(f'{key} ({error})'.replace('\n', ' ')[:150])
            continue
        if not ok:
            missing.append(key)
    return missing


def accepts(function: Any, name: str) -> bool | None:
    """Whether a signature names a keyword argument; None where `**kwargs` leaves it open."""
    try:
        parameters = inspect.signature(function.__init__ if inspect.isclass(function) else function).parameters
    except (TypeError, ValueError):
        return None
    if name in parameters and parameters[name].kind is not inspect.Parameter.POSITIONAL_ONLY:
        return True
    return None if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()) else False


def missing_kwargs(library: str, objects: dict[str, Any]) -> list[str]:
    """Keyword arguments that are refused."""
    calls = kwarg_calls(objects)
    missing = []
    for key, name in all_kwargs():
        owner, _, attribute = key.partition('.')
        if attribute:
            function = getattr(objects[owner], attribute, None)
        else:
            fact = SURFACE['names'][key]
            function = find(module_of(library, fact['module']) or fact['module'], key) or getattr(
                objects['ns'], key, None)
        if function is None:
            missing.append(f'{key}({name}=)')
            continue
        answer = accepts(function, name)
        if answer is None or (not answer and f'{key}({name})' in calls):
            answer = _call_works(calls, key, name)
        if not answer:
            missing.append(f'{key}({name}=)' + ('' if isinstance(answer, bool) else ' unknown'))
    return missing


def all_kwargs() -> list[tuple[str, str]]:
    """Every (callable, keyword argument) of the surface file."""
    facts = {**SURFACE['names'], **SURFACE['attributes']}
    return [(key, name) for key, fact in facts.items() for name in fact['kwargs']]


def _call_works(calls: dict[str, Any], key: str, name: str) -> bool | None:
    call = calls.get(f'{key}({name})')
    if call is None:
        return None
    try:
        call()
    except Exception as error:  # whatever goes wrong, the keyword does not work
        print(f'  {key}({name}=): {type(error).__name__}: {error}', file=sys.stderr)
        return False
    return True


def missing_others(library: str) -> tuple[list[str], list[str]]:
    """Names seen once and re-exports that are in no public namespace of the library."""
    public = set(vars(importlib.import_module(f'{library}.vision.all'))) | {'__version__'}
    modules = {module_of(library, fact['module']) for fact in SURFACE['names'].values()} - {None}
    for module in (*modules, f'{library}.learner', f'{library}.torch_basics', f'{library}.callback.core'):
        with contextlib.suppress(ImportError):
            public |= set(vars(importlib.import_module(module)))
    return ([name for name in SURFACE['once'] if name not in public],
            [name for name in SURFACE['reexports'] if name not in public])


def report(library: str) -> dict[str, tuple[int, list[str]]]:
    """Section -> (how many there are, the missing ones)."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as temporary:
        drawn.folder = Path(temporary)
        os.chdir(temporary)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                names, objects = missing_names(library), live(library)
                attributes = missing_attributes(library, objects)
                kwargs = missing_kwargs(library, objects)
                once, reexports = missing_others(library)
        finally:
            os.chdir(before)
    return {'names': (len(SURFACE['names']), names), 'attributes': (len(SURFACE['attributes']), attributes),
            'keyword arguments': (len(all_kwargs()), kwargs), 'names seen once': (len(SURFACE['once']), once),
            're-exports': (len(SURFACE['reexports']), reexports)}


def main() -> None:
    """Print the report of the library named on the command line."""
    from left_out import reason_for
    for section, (total, missing) in report(sys.argv[1]).items():
        print(f'{section}: {total - len(missing)} of {total}')
        for line in missing:
            reason = reason_for(line)
            print(f'  missing: {line}' + (f' - left out: {reason}' if reason else ''))


if __name__ == '__main__':
    main()
