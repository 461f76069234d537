"""`minifast runs` and `minifast compare`: their tables, their JSON, and a page that stands by itself."""
from __future__ import annotations

import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from small_learner import learner
from test_run_history import end, epoch, fit, run, write

from minifast.callback.training import GradientClip
from minifast.cli import main
from minifast.comparing import _range, _ticks, differing, page
from minifast.metrics import accuracy
from minifast.run.history import find_runs, plot_runs, read_run


@pytest.fixture
def two(tmp_path):
    """A folder with two runs of two rates."""
    for lr, cbs in ((1e-3, None), (1e-1, GradientClip(.5))):
        learner(metrics=accuracy).fit_one_cycle(3, lr, run=tmp_path / 'runs' / f'lr {lr:g}', cbs=cbs)
    return tmp_path / 'runs'


def test_runs_are_listed_with_their_best_value(two, capsys):
    """A line a run, the oldest first; by another metric where that is asked for."""
    write(two / 'zkilled', run(began='2999-01-01T00:00:00.000Z'), fit(), epoch(0, time=61.))
    assert main(['runs', str(two)]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ['run', 'began', '(UTC)', 'state', 'epochs', 'best', 'time']
    assert [re.split(r'\s{2,}', row)[0] for row in rows] == ['lr 0.001', 'lr 0.1', 'zkilled']
    best = read_run(two / 'lr 0.1').history.best('accuracy')
    name, began, state, epochs, found, _ = re.split(r'\s{2,}', rows[1])
    assert (state, epochs) == ('finished', '3') and re.fullmatch(r'\d{4}-\d\d-\d\d \d\d:\d\d', began)
    assert found == f'accuracy {best["accuracy"]:.6g} in epoch {best["epoch"]}'
    assert re.split(r'\s{2,}', rows[2])[2:] == ['unfinished', '1', '-', '01:01']
    assert main(['runs', str(two), '--by', 'valid_loss', '--json']) == 0
    told = json.loads(capsys.readouterr().out)
    lowest = read_run(two / 'lr 0.1').history.best('valid_loss')
    assert told[1]['metric'] == 'valid_loss' and told[1]['best'] == lowest['valid_loss']
    assert told[1]['best_epoch'] == lowest['epoch'] == 2 and told[2]['best'] is None
    assert told[1]['last']['accuracy'] == read_run(two / 'lr 0.1').history['accuracy'][-1]


def test_what_differs_between_runs_is_told_and_nothing_else(two, capsys):
    """Rates, schedule and the callback that one has; their metrics side by side; the same as JSON."""
    assert main(['compare', str(two / 'lr 0.001'), str(two / 'lr 0.1')]) == 0
    tables = capsys.readouterr().out.split('\n\n')
    settings = {cells[0]: cells[1:] for cells in (re.split(r'\s{2,}', line) for line in tables[1].splitlines())}
    assert settings == {
        'setting': ['lr 0.001', 'lr 0.1'], 'lr': ['0.001', '0.1'],
        'schedule of lr': ['4e-05 ... 0.001 ... 1e-08', '0.004 ... 0.1 ... 1e-06'],
        'callback gradient_clip.class': ['-', 'minifast.GradientClip'],
        'callback gradient_clip.max_norm': ['-', '0.5'], 'callback gradient_clip.norm_type': ['-', '2.0']}
    history = read_run(two / 'lr 0.1').history
    best = history.best('accuracy')
    assert f'{best["accuracy"]:.6g} ({best["epoch"]}), {history["accuracy"][-1]:.6g}' in tables[2]
    assert main(['compare', str(two), '--json']) == 0
    told = json.loads(capsys.readouterr().out)
    assert told['settings']['lr'] == {'lr 0.001': '0.001', 'lr 0.1': '0.1'} and len(told['settings']) == 5
    assert told['history']['lr 0.1'] == history.rows and [o['name'] for o in told['runs']] == ['lr 0.001', 'lr 0.1']


def test_later_fits_are_compared_with_their_own(tmp_path):
    """Only what differs otherwise than in the first fit is told of the second; what cannot be known differs from
    nothing; what an object keeps for itself is not told."""
    for name, lrs in (('a', (1, 3)), ('b', (2, 4)), ('c', (2,))):
        write(tmp_path / name, run(), *(fit(i, fit={'lr': lr}, settings={'seed': i if name == 'a' else '~', 'bs': name},
                                            loss={'_seen': name}) for i, lr in enumerate(lrs)))
    a, b, c = find_runs(tmp_path)
    assert differing([a, b]) == [('fit 0: lr', ['1', '2']), ('fit 0: bs', ['a', 'b']), ('fit 1: lr', ['3', '4'])]
    assert differing([b, c]) == [('fits', ['2', '1']), ('bs', ['b', 'c'])] and differing([b, b]) == []


def test_mistakes_are_told_in_a_sentence(two, tmp_path, capsys):
    """Exit code 2; lines that were left out are named on stderr, and the exit code is 1."""
    (tmp_path / 'empty').mkdir()
    for words, said in ((['runs', tmp_path / 'none'], 'is no folder'), (['runs', tmp_path / 'empty'], 'holds no runs'),
                        (['runs', two, '--by', 'acuracy'], "did you mean 'accuracy'"),
                        (['compare', two / 'lr 0.1'], 'is one run: give two or more'),
                        (['compare', two / 'lr 0.1', two / 'lr 0.1'], 'is one run'),
                        (['compare', two, tmp_path / 'empty'], 'holds no run'),
                        (['compare', two, tmp_path / 'none'], 'does not exist'),
                        (['compare', two, '--html', two / 'page.txt'], 'ends with .html'),
                        (['compare', two, '--html', tmp_path / 'none' / 'page.html'], 'cannot be written')):
        assert main([str(word) for word in words]) == 2, words
        out, err = capsys.readouterr()
        assert said in err and not out and err.count('\n') == 1
    with open(two / 'lr 0.1' / 'run.jsonl', 'a') as file:
        file.write('{"kind": "\\u001b[2Jcode"}\n')
    for words in (['runs', str(two)], ['compare', str(two)]):
        assert main(words) == 1 and 'run.jsonl is left out' in capsys.readouterr().err


# ---------------------------------------------------------------- the page

class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.open, self.texts = [], [], [], []
        self.feed(text), self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.open += [] if tag == 'meta' else [tag]

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_page_stands_by_itself(two, tmp_path, capsys):
    """No script, nothing from elsewhere, every tag closed, both themes; a figure a metric, with a curve a run."""
    file = tmp_path / 'page.html'
    assert main(['compare', str(two), '--html', str(file)]) == 0 and str(file) in capsys.readouterr().out
    text = file.read_text(encoding='utf-8')
    found = Page(text)
    assert not found.open and not {'script', 'link', 'img', 'iframe', 'object', 'foreignobject'} & set(found.tags)
    assert not [name for name, _ in found.attributes if name in ('src', 'href', 'action', 'data') or name[:2] == 'on']
    assert not re.search(r'https?:|url\(|@import', text) and "default-src 'none'" in text
    assert 'prefers-color-scheme: dark' in text and 'color-scheme: light dark' in text
    assert found.tags.count('figure') == 3 and text.count('class="curve"') == 6 and found.tags.count('circle') == 18
    value = read_run(two / 'lr 0.1').history['accuracy'][1]
    assert f'lr 0.1, epoch 1: {value:.6g}' in found.texts and 'callback gradient_clip.max_norm' in found.texts
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith('.')] == []


def test_page_shows_what_others_wrote_and_obeys_none_of_it(tmp_path):
    """Names of runs, metrics and settings are text, however they read."""
    evil = '</td><script>alert(1)</script>\x1b[2J'
    for name in ('a<b onload=x>', 'b"\'&'):
        write(tmp_path / name, run(), fit(fit={evil: name}), epoch(0, **{evil: 1.}), b'bad', end())
    found = Page(page(find_runs(tmp_path)))
    assert not found.open and 'script' not in found.tags and not [a for a, _ in found.attributes if a == 'onload']
    assert any('alert(1)' in text for text in found.texts) and '\x1b' not in ''.join(found.texts)
    assert any('left out' in text for text in found.texts) and 'a<b onload=x>' in found.texts


def test_curves_of_any_numbers_are_drawn(tmp_path):
    """One point, equal ones, gaps, tiny and huge ones, none, long ones; axes have a few round numbers."""
    rows = [epoch(i, one=None if i else 1., same=2., gap=None if i == 2 else float(i), tiny=i * 5e-324, none=None,
                  huge=(-1) ** i * 1.7e308, big=1e300 + i, falls=-i / 7) for i in range(5)]
    write(tmp_path / 'a', run(), fit(), *rows)
    write(tmp_path / 'b', run(), fit(), *(epoch(i, long=i % 7) for i in range(2500)))
    text = page(find_runs(tmp_path))
    assert 'nan' not in text and 'inf' not in text.replace('minifast', '') and 'too large to draw' in text
    paths = dict(re.findall(r'aria-label="(\w+) by epoch">.*?class="curve" [^>]* d="([^"]*)"', text))
    assert len(paths['long'].split()) <= 1000 and paths['gap'].count('M') == 2 and paths['same'].count('L') == 4
    assert len(re.findall(r'<figure>', text)) == 9 and paths['none'] == ''
    for low, high in ((0, 1), (-3.7, 12), (.91, .93), (1e-9, 5e-9), (-1e6, 1e12)):
        ticks = _ticks(*_range([low, high]))
        assert 2 <= len(ticks) <= 6 and all(a < b for a, b in zip(ticks, ticks[1:]))
        steps = {f'{b - a:.3e}'[0] for a, b in zip(ticks, ticks[1:])}
        assert steps <= {'1', '2', '5'}


# ---------------------------------------------------------------- the page of documentation

def test_what_the_documentation_shows_runs(tmp_path, monkeypatch, capsys):
    """Its script, in small, and its commands, one after the other; its table names the kinds of lines there are."""
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parent.parent / 'docs' / 'runs.md').read_text(encoding='utf-8')
    script, commands = (re.search(rf'```{kind}\n(.*?)```', text, re.DOTALL)[1] for kind in ('py', 'console'))
    small = re.sub(r'vision_learner\(.*\)', 'learner(metrics=accuracy)', script)
    exec(compile(small, 'docs/runs.md', 'exec'), {'learner': learner, 'accuracy': accuracy, 'plot_runs': plot_runs})
    ax = plt.gca()
    assert [line.get_label() for line in ax.lines] == ['lr 0.001', 'lr 0.01', 'lr 0.1']
    plt.close('all')
    for line in commands.splitlines():
        assert main(shlex.split(line)[1:]) == 0, line
    assert 'lr 0.01' in capsys.readouterr().out and Page((tmp_path / 'runs.html').read_text()).tags.count('figure') == 3
    kinds = {json.loads(line)['kind'] for line in (tmp_path / 'runs' / 'lr 0.1' / 'run.jsonl').read_text().splitlines()}
    assert kinds | {'resumed'} == set(re.findall(r'^\| `(\w+)` \|', text, re.MULTILINE)) - {'kind'}
