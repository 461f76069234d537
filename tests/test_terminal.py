"""What comes from files cannot steer a terminal, forge a line or end the program; what can be read stays as it is."""
from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import subprocess
import sys
import types
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from minifast.cli import main
from minifast.terminal import listed, nobody_watches, printable, say, visible, warn

ORDERS = {**{f'C0 {i:#x}': chr(i) for i in range(32)}, 'DEL': '\x7f', **{f'C1 {i:#x}': chr(i) for i in range(128, 160)},
          **{f'{i:#x}': chr(i) for i in (*range(0x2028, 0x202f), *range(0x2066, 0x206a))},
          **{f'surrogate {i:#x}': chr(i) for i in (0xd800, 0xdbff, 0xdc00, 0xdc80, 0xdce9, 0xdcff, 0xdfff)}}
HONEST = ['größe', '猫', 'e\u0301', '👩\u200d🔬', '🏴\U000e0067\U000e007f', 'שלום', '\u200fעברית', 'a\\b', 'ﷺ',
          '\xa0', '\xad', "'\"", '<b>', '{x}', '%s', '\ufffd', 'ñ', '\U0010ffff']


@pytest.mark.tally
def test_every_order_to_a_terminal_is_escaped_and_nothing_else(counted):
    """Controls, line separators, turns of direction and surrogates; letters of all writings, joined emoji, marks."""
    right = [visible(f'a{o}b') == 'a' + o.encode('unicode_escape', 'surrogatepass').decode() + 'b'
             for o in ORDERS.values()]
    same = [visible(text) == text for text in HONEST]
    counted(sum(right) + sum(same), len(right) + len(same))
    assert all(right) and all(same)
    assert visible('a\n\tb', keep='\n') == 'a\n\\tb' and visible(7) == '7'


@pytest.mark.parametrize('encoding, text', [('utf-8', 'größe 猫'), ('latin-1', 'größe \\u732b'),
                                            ('ascii', 'gr\\xf6\\xdfe \\u732b')])
def test_say_writes_what_the_stream_can_and_one_line(encoding, text):
    """What the encoding lacks is escaped, whatever the stream would do with it."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding, errors='strict', newline='')
    say('größe 猫', stream, flush=True)
    say('\nforged\udce9', stream, flush=True)
    assert raw.getvalue().decode(encoding) == f'{text}\n\\nforged\\udce9\n'
    assert printable('ö\x1b', io.StringIO()) == 'ö\\x1b'


def test_a_long_list_is_cut_and_says_so():
    """With the number of the others, or as it is asked for."""
    assert listed(iter('abc'), 3) == 'a, b, c' and listed('abc', 2) == 'a, b and 1 more' and listed([], 2) == ''
    assert listed(range(9), 2, ', ...') == '0, 1, ...'


def test_warn_is_visible_and_names_the_caller():
    """The line that is shown is that of whoever called the function that warns."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        (lambda: warn('a\x1b]0;x\x07'))()
    assert str(caught[0].message) == 'a\\x1b]0;x\\x07' and caught[0].filename == __file__


# ---------------------------------------------------------------- the doors

EVIL = '\x1b]0;pwned\x07\x1b[2K\r\nforged  row\u202e\x9b31m'
IN_NAMES = os.fsdecode(EVIL.encode())
"""The same bytes whatever the system takes names for."""
RAW = ('\x1b', '\x07', '\r', '\u202e', '\x9b', '\nforged')


def _says_nothing_raw(text):
    return 'pwned' in text and not any(o in text for o in RAW)


def _pictures(folder, classes=('a', 'b'), n=6):
    for i, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for k in range(n):
            Image.fromarray(np.full((40, 40, 3), 40 * k + i, np.uint8)).save(folder / name / f'{k}.png')
    return folder


def _check(tmp_path):
    _pictures(tmp_path / 'p')
    (tmp_path / 'p' / 'a' / f'x{IN_NAMES}.jpg').write_bytes(b'')
    (tmp_path / 'p' / f'empty{IN_NAMES}').mkdir()
    return main(['check', str(tmp_path / 'p')])


def _train_on_loose(tmp_path):
    _pictures(tmp_path / 'p')
    (tmp_path / 'p' / f'x{IN_NAMES}.jpg').write_bytes(b'')
    return main(['train', str(tmp_path / 'p')])


def _train_on_broken(tmp_path):
    _pictures(tmp_path / 'p')
    (tmp_path / 'p' / 'a' / f'x{IN_NAMES}.jpg').write_bytes(b'x')
    return main(['train', str(tmp_path / 'p'), '--weights', 'none', '--size', '32', '--epochs', '1', '--workers', '0',
                 '--bs', '4', '--lr', '.1', '--out', str(tmp_path / 'out')])


def _bad_argument(tmp_path):
    with pytest.raises(SystemExit) as stop:
        main(['train', 'x', f'--lr={EVIL}'])
    return stop.value.code


def _model(tmp_path, *vocab):
    from minifast.vision.all import ImageDataLoaders, Resize, resnet18, vision_learner
    dls = ImageDataLoaders.from_folder(_pictures(tmp_path / 'p'), valid_pct=.3, seed=1, item_tfms=Resize(32), bs=2,
                                       num_workers=0, device='cpu')
    learn = vision_learner(dls, resnet18, pretrained=False)
    dls.vocab, learn.path = list(vocab), tmp_path
    return learn.export('m.pth')


def _predict(tmp_path):
    return main(['predict', str(_model(tmp_path, f'a{EVIL}', f'b{EVIL}')), str(tmp_path / 'p' / 'a')])


def _predict_json(tmp_path):
    return main(['predict', str(_model(tmp_path, f'a{EVIL}\x7f', f'b{EVIL}')), str(tmp_path / 'p' / 'a'), '--json'])


def _predict_unknown_model(tmp_path):
    import json

    from minifast.tensorfile import write_atomic
    meta = {'model': {'class': f'x.{EVIL}', 'recipe': None}, 'loss': {}, 'learner': {}, 'data': {}}
    write_atomic(tmp_path / 'm.pth', {'format': 'minifast-export', 'version': 1, 'meta': json.dumps(meta),
                                      'model': torch.nn.Linear(1, 1).state_dict()})
    return main(['predict', str(tmp_path / 'm.pth'), str(_pictures(tmp_path / 'p'))])


def _plugins(tmp_path):
    from minifast import plugins
    return plugins.show_plugins()


def _fault(tmp_path):
    return main(['check', str(_pictures(tmp_path / 'p'))])


def _table_of_epochs(tmp_path):
    from minifast.test_utils import synth_learner

    def measure(pred, y):
        return (pred - y).abs().mean()
    measure.__name__ = f'm{EVIL}'
    synth_learner(metrics=measure).fit(1)


def _summary(tmp_path):
    from minifast.vision.all import CategoryBlock, DataBlock, ImageBlock, get_image_files, parent_label
    block = DataBlock((ImageBlock, CategoryBlock), get_items=get_image_files, get_y=parent_label)
    block.summary(_pictures(tmp_path / 'p', (f'a{IN_NAMES}', f'b{IN_NAMES}')))


def _label(tmp_path):
    from minifast.show import show_title
    show_title(f'cat{EVIL}')


def _report(tmp_path):
    from minifast.torch_core import display_df
    import pandas as pd
    display_df(pd.DataFrame({'label': [f'cat{EVIL}']}))


DOORS = {'check': (_check, 1), 'train, loose': (_train_on_loose, 2), 'train, broken': (_train_on_broken, 2),
         'argument': (_bad_argument, 2), 'predict': (_predict, 0), 'predict --json': (_predict_json, 0),
         'predict, error': (_predict_unknown_model, 2), 'plugins': (_plugins, 1), 'fault': (_fault, 1),
         'epochs': (_table_of_epochs, None), 'summary': (_summary, None), 'label': (_label, None),
         'report': (_report, None)}


@pytest.mark.tally
@pytest.mark.parametrize('door', DOORS)
def test_no_door_lets_an_order_out(door, tmp_path, capsys, monkeypatch):
    """File names, class names, the model's class, names of metrics and plugins, labels, error texts of files."""
    if door == 'plugins':
        from minifast import plugins
        monkeypatch.setattr(plugins, 'find_plugins', lambda: [plugins.Plugin(f'x{EVIL}', f'no.such{EVIL}:Y', EVIL)])
    if door == 'fault':
        def broken(*args, **kwargs):
            raise RuntimeError(f'no{EVIL}')
        monkeypatch.setattr('minifast.commands.survey_folder', broken)
    run, code = DOORS[door]
    assert run(tmp_path) == code
    out, err = capsys.readouterr()
    assert _says_nothing_raw(out + err), (out + err)


def test_errors_and_warnings_that_name_files_are_visible(tmp_path):
    """The message of the one error of pictures, and of the warning of those left out."""
    from minifast.tensorfile import DamagedFileError
    from minifast.vision.all import BadImageError, ImageDataLoaders, PILImage, Resize
    bad = _pictures(tmp_path / 'p') / 'a' / f'x{IN_NAMES}.png'
    bad.write_bytes(b'')
    with pytest.raises(BadImageError) as caught:
        PILImage.create(bad)
    assert _says_nothing_raw(str(caught.value)) and caught.value.path == bad
    assert _says_nothing_raw(str(DamagedFileError(f'{bad} is damaged')))
    dls = ImageDataLoaders.from_folder(tmp_path / 'p', valid_pct=.3, seed=1, item_tfms=Resize(32), bs=4, num_workers=0,
                                       device='cpu', on_error='skip')
    with pytest.warns(UserWarning, match='left out') as told:
        for dl in dls.loaders:
            list(dl)
    assert all(_says_nothing_raw(str(o.message)) for o in told)


# ---------------------------------------------------------------- names that are no text

ODD = [b'caf\xe9', b'\xff\xfe', 'größe 猫'.encode(), b'\x80\x1b[2K']
USED = '''
import os, sys, warnings
warnings.simplefilter('error')
warnings.filterwarnings('ignore', category=DeprecationWarning)
warnings.filterwarnings('ignore', 'Glyph')  # a font without them
os.environ['MPLBACKEND'] = 'Agg'
from minifast.vision.all import *
from minifast.cli import main
folder, out = Path(sys.argv[1]), Path(sys.argv[2])
def make(**kwargs):
    return ImageDataLoaders.from_folder(folder, valid_pct=.3, seed=1, item_tfms=Resize(32), bs=4, num_workers=0,
                                        device='cpu', **kwargs)
dls = make(cache=out / 'cache')
assert sum(len(x) for dl in dls for x, y in dl) == sum(len(dl.dataset) for dl in dls)
assert len([o for o in (out / 'cache').rglob('*') if o.is_file()]) == sum(len(dl.dataset) for dl in dls)
dls.show_batch()
plt.gcf().canvas.draw()
learn = vision_learner(make(), resnet18, pretrained=False, metrics=accuracy, cbs=CSVLogger(), path=out)
learn.fit(1)
learn.show_results()
plt.gcf().canvas.draw()
ClassificationInterpretation.from_learner(learn).plot_confusion_matrix()
plt.gcf().canvas.draw()
file = learn.export('m.pth')
assert list(load_learner(file).dls.vocab) == list(learn.dls.vocab) == sorted(os.listdir(folder))
assert load_learner(file).predict(get_image_files(folder)[0])[0] in learn.dls.vocab
assert main(['check', str(folder)]) == 0
assert main(['predict', str(file), *map(str, get_image_files(folder))]) == 0
assert main(['predict', '--json', str(file), str(folder)]) == 0
'''


@pytest.mark.tally
@pytest.mark.parametrize('locale', [pytest.param({}, id='utf-8', marks=pytest.mark.faults), pytest.param(
    {'LC_ALL': 'C', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'}, id='C')])
@pytest.mark.skipif(sys.platform in ('win32', 'darwin'), reason='names are text on this system')
def test_names_that_are_no_utf8_work_everywhere(locale, tmp_path, counted):
    """Classes and pictures with such names are checked, cached, shown, trained on, exported and predicted."""
    for name in ODD:
        folder = os.path.join(os.fsencode(tmp_path), b'p', name)
        os.makedirs(folder)
        for i in range(4):
            pixels = np.random.RandomState(i).randint(0, 255, (34, 34, 3), np.uint8)
            pixels[0, 0] = name[-1]  # no two the same
            with open(os.path.join(folder, name + b'%d.png' % i), 'wb') as file:
                Image.fromarray(pixels).save(file, 'PNG')
    env = {**os.environ, 'PYTHONIOENCODING': 'utf-8:strict', **locale}
    if locale:
        del env['PYTHONIOENCODING']
    done = subprocess.run([sys.executable, '-c', USED, tmp_path / 'p', tmp_path / 'out'], env=env, capture_output=True)
    counted(len(ODD) * (done.returncode == 0), len(ODD))
    assert done.returncode == 0, done.stderr.decode(errors='replace')[-3000:]
    assert b'\xe9' not in done.stdout and b'\x1b' not in done.stdout and rb'caf\udce9' in done.stdout


def test_say_ends_a_line_and_nothing_is_an_empty_one(capsys):
    """To where it is told."""
    say(), say('a\nb'), say(3, file=sys.stderr, flush=True)
    assert capsys.readouterr() == ('\na\\nb\n', '3\n')


def test_rows_without_a_terminal_are_lines_of_columns(capsys):
    """As wide as their headings and two blanks, at least ten; cells stand at the left, numbers have six digits."""
    from minifast.callback.progress import _PlainTable
    table = _PlainTable()
    for row in (['epoch', 'train_loss', 'a_very_long_name'], [0, 1.5, None], [10, 1 / 3, 'x', 'more']):
        table.write(row)
    assert capsys.readouterr().out.splitlines() == [
        'epoch     train_loss  a_very_long_name  ', '0         1.500000    None              ',
        '10        0.333333    x                 more      ']


def test_the_bar_is_as_wide_as_the_window_is_now(monkeypatch, capsys):
    """It follows when the window is made smaller or larger within a pass, and goes away behind it."""
    from minifast.callback.progress import _TerminalTable
    window, table = [100], _TerminalTable()
    monkeypatch.setattr('tqdm.std._screen_shape_wrapper', lambda: lambda file: (window[0], 24))
    table.start_bar(4, 'epoch 1/3')
    for done, window[0] in enumerate((100, 50, 80), 1):
        capsys.readouterr()
        table.update_bar(done, 'x')
        line = capsys.readouterr().out.strip('\r').rstrip()
        assert line.startswith('epoch 1/3') and f' {done}/4 00:00<' in line and window[0] - 2 <= len(line) <= window[0]
    table.end_bar()
    assert capsys.readouterr().out.split('\r')[1].isspace() and table.bar is None


def test_the_bar_tells_the_loss_of_the_training_and_none_of_the_validation(monkeypatch):
    """The smoothed one; which pass it is, how many of its batches are done, and how long the fit still takes.

    A second passes from batch to batch here: of twelve batches, ten are left behind the second.
    """
    from small_learner import learner

    from minifast.callback import progress

    class Table(progress._PlainTable):
        def write(self, row):
            """Nothing."""

        def start_bar(self, total, what):
            told.append((total, what))

        def update_bar(self, done, comment):
            told.append((done, comment))
    told = []
    monkeypatch.setattr(progress, 'in_notebook', lambda: True)
    monkeypatch.setattr(progress, '_NotebookTable', Table)
    monkeypatch.setattr(progress, 'refresh_s', 0)
    monkeypatch.setattr(progress, 'time', types.SimpleNamespace(perf_counter=itertools.count().__next__))
    learn = learner(n=24, cbs=progress.ProgressCallback(), loss_func=lambda pred, y: pred.sum() * 0 + 2.5)
    learn.fit(2)
    left = [f'fit 00:{seconds:02d} left' for seconds in range(11, -1, -1)]
    assert told == [
        (3, 'epoch 1/2'), (1, 'loss 2.5000'), *[(i, f'loss 2.5000, {left[i - 1]}') for i in (2, 3)],
        (3, 'epoch 1/2 validating'), *[(i, left[2 + i]) for i in (1, 2, 3)],
        (3, 'epoch 2/2'), *[(i, f'loss 2.5000, {left[5 + i]}') for i in (1, 2, 3)],
        (3, 'epoch 2/2 validating'), *[(i, left[8 + i]) for i in (1, 2, 3)]]
    told.clear()
    learn.validate(), learn.get_preds()
    assert told == [(3, 'validating'), (1, ''), (2, ''), (3, ''), (3, 'predicting'), (1, ''), (2, ''), (3, '')]
    told.clear()
    learn.lr_find(num_it=7, show_plot=False)  # in fits of three batches
    assert told == [(7, 'looking for a learning rate'), *[(i, 'loss 2.5000') for i in range(1, 8)]]


@pytest.mark.parametrize('follows, shown', [(lambda table: table.write([0]), 2), (lambda table: table.close(), 1),
                                            (lambda table: table.start_bar(None, ''), 1)], ids=['row', 'end', 'bar'])
@pytest.mark.parametrize('kind', ['_PlainTable', '_TerminalTable', '_NotebookTable'])
def test_headings_wait_for_what_follows_them(kind, follows, shown, monkeypatch, capsys):
    """What is said before the first batch, as by a resume, stands above the table and not in it; they come once."""
    from minifast.callback import progress
    pages = []
    monkeypatch.setitem(sys.modules, 'IPython.display', types.SimpleNamespace(
        HTML=str, display=lambda page, display_id: pages.append(page) or types.SimpleNamespace(update=pages.append)))

    def lines():
        text = capsys.readouterr().out.replace('\r', '\n')
        rows = [line.split() for line in text.splitlines() if line.strip() in ('epoch', '0')]
        return rows if kind != '_NotebookTable' else pages[-1].split('<tr>')[1:] if pages else []
    table = getattr(progress, kind)()
    table.write(['epoch'])
    assert not lines()
    follows(table)
    if kind == '_NotebookTable' and not pages:
        table.update_bar(1, '')  # a bar is drawn when there is something to show
    assert len(lines()) == shown
    table.close()
    assert kind == '_NotebookTable' or not lines()


def test_rows_in_a_notebook_are_one_table_that_grows_with_a_bar_below(monkeypatch):
    """Headings in its first row; what names hold is text and no markup; a pass without rows shows no empty table."""
    from minifast.callback.progress import _NotebookTable
    shown = []
    handle = types.SimpleNamespace(update=lambda page: shown.append(('again', page)))
    monkeypatch.setitem(sys.modules, 'IPython.display', types.SimpleNamespace(
        HTML=str, display=lambda page, display_id: shown.append(('new', page)) or handle))
    table = _NotebookTable()
    table.end_bar()
    assert not shown
    clock = iter([0, 3, 10, 70])
    monkeypatch.setattr('minifast.callback.progress.time', types.SimpleNamespace(perf_counter=clock.__next__))
    table.start_bar(4, 'epoch 1/3')
    table.update_bar(2, '<b>')
    table.write(['epoch', 'loss<i>'])
    table.write([0, .5])
    table.start_bar(None, 'validating')
    table.update_bar(3, 'loss 0.25')
    table.end_bar()
    grid = '<table border="1"><tr><th>epoch</th><th>loss&lt;i&gt;</th></tr><tr><td>0</td><td>0.500000</td></tr></table>'
    assert shown == [
        ('new', '<progress value="2" max="4" style="width:300px"></progress> '
                'epoch 1/3 2/4 00:03 &lt; 00:03 &lt;b&gt;'),
        ('again', grid), ('again', grid + 'validating 3/? 01:00 loss 0.25'), ('again', grid)]


@pytest.mark.parametrize('wanted, notebook, disable', [(True, True, False), (True, False, None), (False, True, True),
                                                       (False, False, True)])
def test_a_bar_is_for_a_notebook_and_else_for_a_terminal(wanted, notebook, disable, monkeypatch):
    """tqdm's None says: unless it is a terminal; what is not wanted is nowhere."""
    monkeypatch.setattr('minifast.terminal.in_notebook', lambda: notebook)
    assert nobody_watches(wanted) is disable


LONG_AND_SHORT = '''
import time
from minifast.vision.all import *
from small_learner import data, linear
n = 120
x, y = (t.repeat(8, *[1] * (t.dim() - 1))[:n] for t in data())
dls = DataLoaders(*[DataLoader(list(zip(x, y)), bs=4, num_workers=0) for _ in range(2)])
learn = Learner(dls, linear(), loss_func=CrossEntropyLossFlat(), metrics=[accuracy, error_rate])
slow = Callback(after_batch=lambda self: time.sleep(.02))
learn.lr_find(num_it=10, show_plot=False)
learn.fit(2, cbs=slow)
learn.get_preds(cbs=slow)
print(learn), print(dls), print(learn.summary())
'''


def started(script, stdout):
    """A process that runs a script, its output and its errors going to a file descriptor."""
    paths = os.pathsep.join([os.path.dirname(__file__), os.path.dirname(os.path.dirname(__file__))])
    known = {key: value for key, value in os.environ.items() if key not in ('COLUMNS', 'LINES')}
    return subprocess.Popen([sys.executable, '-c', script], stdin=subprocess.DEVNULL, stdout=stdout, stderr=stdout,
                            env={**known, 'PYTHONPATH': paths, 'OMP_NUM_THREADS': '1'})


def test_a_log_file_has_whole_lines_and_nothing_that_steers(tmp_path):
    """A training, a search and a prediction: three lines of a table, and no bar."""
    with (tmp_path / 'log').open('w') as log:
        ended = started(LONG_AND_SHORT, log).wait()
    text = (tmp_path / 'log').read_bytes().decode()
    assert ended == 0, text
    assert not re.search(r'[\x00-\x09\x0b-\x1f\x7f%]', text), text
    assert [line.split()[0] for line in text.splitlines()[:4]] == ['epoch', '0', '1', 'Learner:']


@pytest.mark.skipif(sys.platform == 'win32', reason='has no pseudo terminals')
def test_nothing_is_wider_than_a_terminal_of_80_columns():
    """Table, bars, summary and what objects say; bars go away again, and nothing else is written over."""
    import fcntl
    import pty
    import struct
    import termios
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 80, 0, 0))
    process, parts = started(LONG_AND_SHORT, theirs), []
    os.close(theirs)
    with contextlib.suppress(OSError):  # the end, on Linux
        while part := os.read(ours, 1 << 16):
            parts.append(part)
    os.close(ours)
    text = b''.join(parts).decode().replace('\r\n', '\n')
    assert process.wait() == 0, text
    assert not re.search(r'[\x00-\x09\x0b-\x0c\x0e-\x1f\x7f]', text)
    written = [over for line in text.split('\n') for over in line.split('\r')]
    assert max(map(len, written)) <= 80, max(written, key=len)
    bars = [over for over in written if '%|' in over]
    assert {bar.split(' ')[0] for bar in bars} == {'looking', 'epoch', 'predicting'}
    assert re.search(r'epoch 2/2 +\d+%\|.+\| \d+/30 00:0\d<00:0\d, loss \d\.\d{4}, fit 00:\d\d left', '\n'.join(bars))
    lines = [line.rpartition('\r')[2].rstrip() for line in text.split('\n')]  # what stays
    assert not any('%|' in line for line in lines)
    assert [line.split()[0] for line in lines if line][:4] == ['epoch', '0', '1', 'Learner:']
