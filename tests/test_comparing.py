"""`minifast runs` and `minifast compare`: their tables, their JSON, and a page that stands by itself."""
from __future__ import annotations

import html
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
from minifast.comparing import _range, _ticks, differing, page, summary
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


def cells(text):
    """The tables of a page: rows of what is read in their cells."""
    return [[[html.unescape(re.sub('<.*?>', '', cell)) for cell in re.findall('<t[hd]>(.*?)</t[hd]>', row)]
             for row in re.findall('<tr>(.*?)</tr>', table)] for table in re.findall('<table>(.*?)</table>', text)]


def columns(printed):
    """The same of what a command has printed."""
    return [[re.split(' {2,}', line.strip()) for line in table.splitlines()] for table in printed.split('\n\n')]


@pytest.fixture
def three(tmp_path):
    """Runs with metrics of different kinds, settings of different lengths and a line that is none."""
    for i, name in enumerate('abc'):
        config = {'fit': {'lr': i}, 'settings': {'long': 'x' * (120 + i), 'same': 1, 'none': None if i else 'set'},
                  'callback c': {'deep': {'er': [i]}, '_own': i}, 'fit others': {'schedule of wd': [i]},
                  'fit rates': {'schedule of lr': [i] * 4 + [9] + [1.] * 4}}
        write(tmp_path / name, run(name, f'2026-01-0{i + 1}T12:34:56.789Z'), fit(**config),
              *(epoch(j, time=2000., loss=(i + 1) / (1 + j), acc=None if i else j / 4) for j in range(3)),
              *([b'bad'] if i == 1 else []),
              *([end(state=('finished', 'stopped')[i])] if i < 2 else []))
    return tmp_path


def test_the_page_tells_what_the_commands_print(three, capsys):
    """Its tables are those of `minifast runs` and `minifast compare`; and which lines were left out."""
    assert main(['runs', str(three)]) == 1
    listed = columns(capsys.readouterr().out)[0]
    assert listed[0] == ['run', 'began (UTC)', 'state', 'epochs', 'best', 'time']
    assert listed[1] == ['a', '2026-01-01 12:34', 'finished', '3', 'acc 0.5 in epoch 2', '1:40:00']
    assert [row[2:4] for row in listed[1:]] == [['finished', '3'], ['stopped', '3'], ['unfinished', '3']]
    assert main(['compare', str(three), '--html', str(three / 'p.html')]) == 1
    out, err = capsys.readouterr()
    told, settings, measured = columns(out.rpartition('the curves')[0].strip())
    assert told == [['a', 'b', 'c'], ['state', 'finished', 'stopped', 'unfinished'], ['epochs', '3', '3', '3'],
                    ['time', '1:40:00', '1:40:00', '1:40:00']]
    text = (three / 'p.html').read_text(encoding='utf-8')
    runs_there, settings_there, measured_there = cells(text)
    assert runs_there == listed and measured_there[1:] == measured[1:] and measured_there[0] == ['metric', *'abc']
    assert [[cell for cell in row if cell] for row in settings_there] == settings
    assert err.splitlines() == [f'{three / "b"}: ' + problem for problem in re.findall(
        f'<li>{three / "b"}: (.*?)</li>', text)] != []
    assert text.count('<title>3 runs compared</title>') == text.count('<h1>3 runs compared</h1>') == 1
    heads = re.findall('<h2>(.*?)</h2>', text)
    assert heads == ['Curves', 'Settings that differ', 'Best value (its epoch), last value', 'Left out']
    assert measured[1:] == [['loss', '0.333333 (2), 0.333333', '0.666667 (2), 0.666667', '1 (2), 1'],
                            ['acc', '0.5 (2), 0.5', '-', '-']]


def test_settings_are_told_by_their_place_and_in_short(three):
    """What is obvious without the part it stands in; of a schedule the start, the highest and the end; what is longer
    than 120 characters cut there."""
    rows = dict(differing(find_runs(three)))
    assert rows == {'lr': ['0', '1', '2'], 'long': ['x' * 120, 'x' * 116 + ' ...', 'x' * 116 + ' ...'],
                    'none': ['set', '', ''], 'callback c.deep.er': ['[0]', '[1]', '[2]'],
                    'fit rates.schedule of lr': ['0 ... 9 ... 1', '1 ... 9 ... 1', '2 ... 9 ... 1'],
                    'fit others.schedule of wd': ['[0]', '[1]', '[2]']}


def test_a_run_in_numbers_has_all_that_is_known_of_it(three, tmp_path):
    """By these names; of a run that measured nothing the rest."""
    a, b, _ = find_runs(three)
    found = summary(a)
    assert found == {'name': 'a', 'path': str(three / 'a'), 'began': '2026-01-01T12:34:56.789Z', 'state': 'finished',
                     'epochs': 3, 'metric': 'acc', 'best': .5, 'best_epoch': 2,
                     'last': {'loss': pytest.approx(1 / 3), 'acc': .5}, 'duration_s': 6000, 'git': None, 'problems': []}
    lowest = summary(a, 'loss')
    assert (lowest['metric'], lowest['best_epoch']) == ('loss', 2) and lowest['best'] == pytest.approx(1 / 3)
    assert len(summary(b)['problems']) == 1 and summary(b)['best'] is None
    bare = summary(read_run(write(tmp_path / 'bare', run('bare'))))
    assert bare['last'] == {} and [bare[name] for name in ('epochs', 'best', 'best_epoch', 'git')] == [0, *[None] * 3]
    assert summary(a, 'never')['best'] is None


def test_runs_of_one_name_are_told_apart_and_equal_ones_have_no_settings(tmp_path, capsys):
    """By their folders."""
    for where in ('x', 'y'):
        write(tmp_path / where / 'same', run('same'), fit(), epoch(0, loss=1.), end())
    folders = [str(tmp_path / where / 'same') for where in ('x', 'y')]
    assert main(['compare', *folders]) == 0
    out = capsys.readouterr().out
    assert columns(out)[0][0] == folders and 'no setting differs' in out.splitlines()
    assert '<p>none</p>' in page(find_runs(tmp_path / 'x')) and 'Left out' not in page(find_runs(tmp_path / 'x'))
    assert main(['compare', *folders, '--json']) == 0
    assert json.loads(capsys.readouterr().out)['settings'] == {}


def test_a_curve_lies_where_its_axes_say(tmp_path):
    """Each point at the height of its value and above its epoch; numbers beside the lines that cross the figure."""
    values = [.5, 2., 1.25, 3.5, 3., .75, 1., 2.25, 1.75, 3.25, 2.5, .5]
    write(tmp_path / 'a', run(), fit(), *(epoch(i, v=value) for i, value in enumerate(values)))
    figure = re.search('<figure>(.*?)</figure>', page(find_runs(tmp_path)), re.DOTALL)[1]
    width, height = map(int, re.search(r'viewBox="0 0 (\d+) (\d+)" role', figure).groups())
    pattern = r'class="grid" x1="(\S+)" x2="(\S+)" y1="(\S+)" y2="(\S+)"/><text x="(\S+)" y="(\S+)" [^>]*>(\S+)</text>'
    lines = [tuple(map(float, found)) for found in re.findall(pattern, figure)]
    assert len(lines) >= 3 and all(y1 == y2 == at and x < x1 < x2 < width for x1, x2, y1, y2, x, at, _ in lines)
    (*_, top, most), (*_, bottom, least) = lines[-1], lines[0]
    assert top < bottom and most > least
    epochs = {int(number): float(x) for x, y, number in re.findall(
        r'<text x="(\S+)" y="(\S+)" text-anchor="middle">(\d+)</text>', figure) if bottom < float(y) < height}
    assert {0, 2, 10} <= set(epochs) and all(x1 < lines[0][1] + 1 for x1 in epochs.values())
    points = re.findall(r'cx="(\S+)" cy="(\S+)" r="3" [^>]*><title>(\S+), epoch (\d+): (\S+)</title>', figure)
    assert [(name, int(number), float(value)) for *_, name, number, value in points] == [
        ('a', i, value) for i, value in enumerate(values)]
    left, right = lines[0][:2]
    for x, y, _, number, value in points:
        assert float(y) == pytest.approx(bottom - (float(value) - least) / (most - least) * (bottom - top), abs=.2)
        assert float(x) == pytest.approx(left + (right - left) * int(number) / 11, abs=.1)
        assert int(number) not in epochs or float(x) == epochs[int(number)]
        assert 0 < float(y) < height
    path = re.search(r'class="curve" [^>]* d="M(\S+(?: L\S+)*)"', figure)[1]
    assert path.split(' L') == [f'{x},{y}' for x, y, *_ in points]
    alone = re.search(r'cx="(\S+)" cy="(\S+)"', page([read_run(write(tmp_path / 'b', run(), fit(), epoch(0, v=1.)))]))
    assert float(alone[1]) == pytest.approx((left + right) / 2) and top - 50 < float(alone[2]) < bottom + 50

    text = page([read_run(write(tmp_path / 'c', run(), fit(), epoch(0, v=None)))])
    assert re.findall(r'text-anchor="end">(.*?)<', text) == ['0', '0.2', '0.4', '0.6', '0.8', '1']  # never measured


def test_each_run_has_a_line_of_its_own_kind_and_many_metrics_are_named(tmp_path):
    """By colour and dashes, the same beside its name; the last of 25 metrics is not drawn."""
    for i in range(17):
        write(tmp_path / f'{i:02d}', run(f'{i:02d}'), fit(), epoch(0, **{f'm{j:02d}': 1. for j in range(25)}))
    text = page(find_runs(tmp_path))
    keys = re.findall(r'stroke="(\S+)" stroke-width="4"( stroke-dasharray="[\d ]+")?/></svg>(\d\d)</t', text)
    kind = {name: (colour, dash) for colour, dash, name in keys}
    assert len(kind) == len(set(kind.values())) == 17
    drawn = re.findall(r'class="curve" stroke="(\S+?)"( stroke-dasharray="[\d ]+")? d=', text)
    assert drawn == [kind[f'{i:02d}'] for i in range(17)] * 24
    for colour, _ in set(kind.values()):
        name = colour.removeprefix('var(').removesuffix(')')
        assert len(re.findall(rf'{name}: #[0-9a-f]{{6}};', text)) == 2
    assert re.findall('<figcaption>(.*?)</figcaption>', text) == [f'm{j:02d}' for j in range(24)]
    assert '<p>and m24</p>' in text


@pytest.mark.parametrize('n, points', [(200, 200), (201, 0)])
def test_a_long_curve_has_no_points_to_point_at(n, points, tmp_path):
    """From the 201st on."""
    write(tmp_path / 'a', run(), fit(), *(epoch(i, v=i / 7) for i in range(n)))
    text = page(find_runs(tmp_path))
    assert text.count('<circle') == points and len(re.search(' d="(.*?)"', text)[1].split()) == n


@pytest.mark.parametrize('values, low, high', [([0., 1.], -.04, 1.04), ([-3., 7.], -3.4, 7.4), ([5.], 4.5, 5.5),
                                               ([100., 100.], 90., 110.), ([0.], -.5, .5), ([-20.], -22., -18.)])
def test_an_axis_has_room_around_its_values(values, low, high):
    """A twenty-fifth of their span; around a single one a tenth of it, or a half."""
    assert _range(values) == pytest.approx((low, high))


@pytest.mark.parametrize('low, high, ticks', [(0, 1, [0, .2, .4, .6, .8, 1]), (-.04, 1.04, [0, .5, 1]),
                                              (0, 10, [0, 2, 4, 6, 8, 10]), (-3.4, 7.4, [0, 5]),
                                              (0, 5, [0, 1, 2, 3, 4, 5]), (90, 110, [90, 95, 100, 105, 110])])
def test_ticks_are_round_and_both_ends_are_among_them(low, high, ticks):
    """Steps of 1, 2 or 5, five of them at most."""
    assert _ticks(low, high) == pytest.approx(ticks)


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
