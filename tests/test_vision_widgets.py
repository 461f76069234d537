"""The cleaner of a notebook: what it shows and what is read off its menus; it does nothing to the files itself."""
from __future__ import annotations

import io
import subprocess
import sys

import pandas as pd
import pytest
from PIL import Image
from small_learner import learner, pictures
from torch import nn

from minifast.learner import Learner
from minifast.losses import CrossEntropyLossFlat
from minifast.vision import widgets
from minifast.vision.augment import Resize
from minifast.vision.data import ImageDataLoaders


@pytest.fixture
def cleaner(tmp_path):
    return widgets.ImageClassifierCleaner(pictures(tmp_path / 'pictures'), max_n=3)


def test_a_class_of_a_split_is_shown_largest_loss_first(cleaner, tmp_path):
    """Both menus choose anew; together all files of both splits are behind them."""
    learn, seen = pictures(tmp_path / 'again'), []
    for split, dl in enumerate(learn.dls.loaders):
        losses = dict(zip(dl.dataset.items, learn.get_preds(ds_idx=split, with_loss=True)[2].tolist()))
        whole = widgets.ImageClassifierCleaner(learn, max_n=99)
        for label in learn.dls.vocab:
            whole.dd_cats.value, whole.dd_ds.index = label, split
            assert {file.parent.name for file in whole.fns} <= {label}
            assert list(whole.fns) == sorted(whole.fns, key=lambda file: -losses[file])
            assert len(whole.widget.children) == len(whole.fns)
            seen += whole.fns
    assert sorted(seen) == sorted(file for dl in learn.dls.loaders for file in dl.dataset.items) and len(seen) == 16
    assert len(cleaner.fns) <= 3 and cleaner.dd_ds.options == ('Train', 'Valid')


def test_what_is_chosen_is_read_off_and_nothing_else_happens(tmp_path):
    """Indices to delete, and (index, label) to move; a new choice of files starts over."""
    files = sorted(pictures(tmp_path / 'p').dls.train.dataset.items)[:4]
    cleaner = widgets.ImagesCleaner(['dark', 'light'])
    cleaner.set_fns(files)
    assert cleaner.values() == ['<Keep>'] * 4 and cleaner.delete() == [] and cleaner.change() == []
    for i, chosen in ((1, '<Delete>'), (3, 'light')):
        cleaner.widget.children[i].children[1].value = chosen
    assert cleaner.delete() == [1] and cleaner.change() == [(3, 'light')] and all(file.exists() for file in files)
    cleaner.set_fns(files[:2])
    assert cleaner.values() == ['<Keep>'] * 2


def test_a_picture_is_shown_small_and_whole():
    """Its shape is kept."""
    shown = widgets.widget(Image.new('RGB', (400, 100), 'red'), height=60, width=80)
    assert Image.open(io.BytesIO(shown.value)).size == (80, 20) and shown.layout.height == '60px'


def test_a_notebook_gets_menus_and_row(cleaner, monkeypatch):
    """Both kinds of cleaner show themselves at the end of a cell."""
    shown = []
    monkeypatch.setattr('IPython.display.display', shown.append)
    cleaner._ipython_display_()
    widgets.ImagesCleaner()._ipython_display_()
    assert list(shown[0].children) == [cleaner.dd_cats, cleaner.dd_ds, cleaner.widget] and len(shown) == 2


@pytest.mark.parametrize('make', ['table', 'lists'])
def test_files_are_found_in_rows_and_pairs(make, tmp_path):
    """Items need not be the files themselves."""
    files = sorted(pictures(tmp_path).dls.train_ds.items)
    labels = [file.parent.name for file in files]
    how = dict(valid_pct=.5, seed=1, item_tfms=Resize(16), bs=4, num_workers=0)
    if make == 'table':
        dls = ImageDataLoaders.from_df(pd.DataFrame({'f': [str(f.relative_to(tmp_path)) for f in files], 'l': labels}),
                                       tmp_path, **how)
    else:
        dls = ImageDataLoaders.from_lists(tmp_path, files, labels, **how)
    cleaner = widgets.ImageClassifierCleaner(Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(768, 2)),
                                                     loss_func=CrossEntropyLossFlat()))
    seen = []
    for split in (0, 1):
        for label in dls.vocab:
            cleaner.dd_cats.value, cleaner.dd_ds.index = label, split
            assert {file.parent.name for file in cleaner.fns} <= {label}
            seen += cleaner.fns
    assert sorted(seen) == files


def test_other_data_are_refused():
    """Batches of tensors have no files to clean."""
    learn = learner()
    learn.dls.vocab = list('abcd')
    with pytest.raises(TypeError, match='picture files.*ImageDataLoaders.from_folder'):
        widgets.ImageClassifierCleaner(learn)


def test_without_ipywidgets_the_way_out_is_told():
    """In a process of its own, in which it cannot be found."""
    code = ('import sys; sys.modules["ipywidgets"] = None\n'
            'try: import minifast.vision.widgets\n'
            'except ImportError as error: print(error)')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120)
    assert "pip install 'minifast[widgets]'" in done.stdout
