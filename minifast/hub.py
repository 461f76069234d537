"""Models on the Hugging Face Hub: a learner is published with a card that says what it is, and loaded from there.

The files are those that huggingface_hub's own functions for fastai write and read, so `push_to_hub_fastai` and
`from_pretrained_fastai` work on them too, behind `import minifast.as_fastai`. Nothing that is loaded can run code.
"""
from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import minifast
from minifast.answers import class_names
from minifast.learner import Learner, load_learner

__all__ = ['from_pretrained', 'model_card', 'push_to_hub']

FILE, CARD = 'model.pkl', 'README.md'


def _huggingface_hub() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError('huggingface_hub is not installed: pip install minifast[hub]') from error
    return huggingface_hub


def model_card(learn: Learner, repo_id: str = 'NAME/MODEL') -> str:
    """What a model is, as Markdown with the Hub's header: architecture, classes, data, training, results, use.

    Args:
        learn: the learner; what it does not know is left out.
        repo_id: under which name the model is published, for the example.
    """
    hub = _huggingface_hub()
    model, recorder = learn.model, getattr(learn, 'recorder', None)
    arch = getattr(getattr(learn, 'arch', None), '__name__', None) or type(model).__name__
    names = class_names(learn, None)
    classes = [] if names is None else [str(name) for name in names]
    row = recorder.values[-1] if recorder is not None and recorder.values else []
    columns = recorder.metric_names[1:1 + len(row)] if row else []
    header = hub.ModelCardData(library_name='minifast', tags=['minifast', 'fastai'],
                               metrics=[name for name in columns if not name.endswith('_loss')] or None)
    lines = ['---', header.to_yaml(), '---', '', f'# {repo_id.rpartition("/")[2]}', '',
             f'A {arch} of {sum(p.numel() for p in model.parameters()):,} parameters, trained with '
             f'minifast {minifast.__version__}.', '']
    if classes:
        shown = ', '.join(classes[:50]) + (f' and {len(classes) - 50} more' if len(classes) > 50 else '')
        lines += ['## Classes', '', f'{len(classes)}: {shown}', '']
    if row:
        lines += ['## Results', '', f'On {len(learn.dls.valid_ds):,} items for validation, after '
                  f'{len(recorder.values)} epochs on {len(learn.dls.train_ds):,}:', '',
                  '| ' + ' | '.join(columns) + ' |', '|---' * len(columns) + '|',
                  '| ' + ' | '.join(f'{float(value):.4g}' for value in row) + ' |', '']
    return '\n'.join([*lines, '## Use', '', '```python', 'from minifast.hub import from_pretrained',
                      f"learn = from_pretrained('{repo_id}')", 'learn.predict(...)', '```', '',
                      'The file holds data alone: loading it runs no code.', ''])


def push_to_hub(learn: Learner, repo_id: str, *, private: bool | None = None, token: str | None = None,
                message: str = 'A model trained with minifast', branch: str | None = None,
                endpoint: str | None = None) -> str:
    """Publish a learner, made by `learn.export`, with a `model_card`; returns the address of the commit.

    Args:
        learn: the learner.
        repo_id: 'name/model'; made where it is not there. A card that is there already stays.
        private: whether others may not see it; None: as the account has it.
        token: of the account; default: as `hf auth login` has kept it.
        message: of the commit.
        branch: to which it goes; default: 'main'.
        endpoint: address of the Hub; default: HF_ENDPOINT, or the public one.

    Raises:
        ImportError: huggingface_hub is not installed; the message names the extra.
    """
    hub = _huggingface_hub()
    api = hub.HfApi(endpoint=endpoint, token=token)
    name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    with tempfile.TemporaryDirectory() as folder:
        learn.export(Path(folder).resolve() / FILE)
        if not api.file_exists(name, CARD, revision=branch):
            (Path(folder) / CARD).write_text(model_card(learn, name), encoding='utf-8')
        return str(api.upload_folder(repo_id=name, folder_path=folder, commit_message=message, revision=branch))


def from_pretrained(repo_id: str | Path, revision: str | None = None, *, token: str | None = None,
                    endpoint: str | None = None, **given: Any) -> Learner:
    """The learner that `push_to_hub` has published, or one in a folder.

    Args:
        repo_id: 'name/model', or a folder with the files.
        revision: branch, tag or commit; default: 'main'.
        token: for what is private.
        endpoint: as `push_to_hub` has it.
        **given: of `load_learner`: `model`, functions of the author's.

    Raises:
        FileNotFoundError: there is no file of a model; names what is there.
        UnsafeFileError: the file is a pickle, as fastai writes it, which is not loaded.
    """
    if os.path.isdir(repo_id):
        folder = Path(repo_id)
    else:
        folder = Path(_huggingface_hub().snapshot_download(str(repo_id), revision=revision, token=token,
                                                           endpoint=endpoint, allow_patterns=[FILE, CARD]))
    if not (folder / FILE).is_file():
        there = ', '.join(sorted(path.name for path in folder.iterdir())) or 'nothing'
        raise FileNotFoundError(f'{repo_id} has no {FILE}, which push_to_hub writes: there is {there}')
    return load_learner(folder / FILE, **given)
