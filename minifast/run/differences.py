"""How two runs differ, in words: another data set, model, loss or optimizer, or another setting of the same run."""
from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minifast.run.identity import UNKNOWN, Column, RunIdentity, Tables
from minifast.terminal import listed, visible

__all__ = ['Difference', 'differences']


@dataclass
class Difference:
    """What was and what is.

    Attributes:
        part: the part of the identity.
        what: the setting.
        then, now: its values.
        severe: another run altogether, and no setting of the same one.
        text: the difference in words where then and now alone do not say it.
    """

    part: str
    what: str
    then: Any
    now: Any
    severe: bool
    text: str = ''

    def __str__(self) -> str:
        text = self.text or f'{self.what} was {_shown(self.then)} and is {_shown(self.now)}'
        return visible(text)  # names of files and classes come from elsewhere


def _shown(x: Any) -> str:
    text = x if isinstance(x, str) else json.dumps(x)
    return text if len(text) <= 120 else f'{text[:110]}...'


_MISSING = 'not there'
_severe = ('data', 'model', 'loss', 'optimizer')


def _same_name(a: Any, b: Any) -> bool:
    """A function of the script goes by its own name where the script is run, and by a longer one where imported."""
    return isinstance(a, str) and isinstance(b, str) and (a.endswith(f'.{b}') or b.endswith(f'.{a}'))


_rooms = re.compile(r'\bminifast\.(\w+\.)+')
"""The modules in the name of a class or function of ours, which files of earlier releases hold."""


def _alike(a: Any, b: Any) -> bool:
    """Whether two leaves say the same, as far as both are known."""
    if a == b or UNKNOWN in (a, b):
        return True
    texts = isinstance(a, str) and isinstance(b, str)
    if texts and _rooms.sub('minifast.', a) == _rooms.sub('minifast.', b):
        return True
    return texts and '(~)' in a + b and a.partition('(')[0] == b.partition('(')[0]  # a layer before its first batch


def _walk(then: Any, now: Any, path: tuple = ()) -> Iterable[tuple[tuple, Any, Any]]:
    """The leaves that differ: (names on the way, value then, value now)."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in {**then, **now}:
            if key.startswith('code ') and not (key in then and key in now):
                continue  # compiled by another Python: cannot be told
            yield from _walk(then.get(key, _MISSING), now.get(key, _MISSING), (*path, key))
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for i, (a, b) in enumerate(zip(then, now)):
            yield from _walk(a, b, (*path, i))
    elif not _alike(then, now) and not (path and path[-1] in ('function', 'class') and _same_name(then, now)):
        yield path, then, now


def _path_name(part: str, path: tuple) -> str:
    return ' '.join([f'the {part}', *(f'[{p}]' if isinstance(p, int) else repr(p) for p in path)]) if path else (
        f'the {part}')


def differences(then: Mapping[str, Any], now: RunIdentity, tables: Tables | None,
                state_keepers: Iterable[str] = ()) -> list[Difference]:
    """How the run `now` differs from the parts of the one of `then`.

    Of data, model, loss and optimizer the first difference each, of everything else one a setting.

    Args:
        then: the parts from a checkpoint.
        now: the run that is about to start.
        tables: the item lists of then, None where they are lost.
        state_keepers: names of callbacks whose coming and going is told with their state.
    """
    found = [*_data_differences(then.get('data', {}), now, tables)]
    a, b = dict(then), dict(now.parts)
    a['settings'] = {'number of processes': 1, **a.get('settings', {})}  # earlier releases knew of one alone
    if a.get('environment', {}).get('torch') != b['environment']['torch']:
        a['model'], b['model'] = _without_details(a.get('model', {})), _without_details(b['model'])
    for part in _severe[1:]:
        leaves = list(_walk(a.get(part, {}), b[part]))
        hard = [leaf for leaf in leaves if not any(str(p).startswith('code') for p in leaf[0])]
        for path, old, new in hard[:1]:
            more = f' (and {len(hard) - 1} more differences)' if len(hard) > 1 else ''
            more += ': it is another model, or one with another number of outputs' if part == 'model' else ''
            severe = part != 'loss' or not (_is_function(a.get('loss')) and _is_function(b['loss']))
            found.append(Difference(part, part, old, new, severe, f'{_path_name(part, path)} was {_shown(old)} and is '
                                                                  f'{_shown(new)}{more}'))
        if leaves and not hard:
            found.append(Difference(part, part, None, None, False, f'{_path_name(part, leaves[0][0][:-1])}: its code '
                                                                   'is not what it was'))
    for part in ('schedule', 'transforms', 'settings', 'environment'):
        found += _soft_differences(part, a.get(part, {}), b[part], set(state_keepers))
    return found


def _is_function(loss: Any) -> bool:
    """Whether a loss is a plain function: it has no state that another one could take, which one it is is a setting."""
    return isinstance(loss, dict) and 'function' in loss


def _without_details(model: Mapping[str, Any]) -> dict[str, Any]:
    # how torch prints its modules changes with its version
    return {**model, 'modules': {k: v.partition('(')[0] for k, v in model.get('modules', {}).items()}}


def _soft_differences(part: str, then: Mapping, now: Mapping, state_keepers: set[str]) -> Iterable[Difference]:
    for key in {**then, **now}:
        old, new = then.get(key, _MISSING), now.get(key, _MISSING)
        if _MISSING in (old, new) and (key.startswith('callback ') and not _changes_the_training(key, old, new)
                                       or key.removeprefix('callback ') in state_keepers):
            continue
        leaves = list(_walk(old, new))
        if not leaves:
            continue
        path, old_leaf, new_leaf = leaves[0]
        if part == 'transforms':  # training and validation share what is shared
            path = path[1:]
        what = key if part != 'transforms' else f'the transform {key}'
        if key.startswith('schedule of'):
            old_leaf, new_leaf = in_short(old), in_short(new)
        elif path:
            what = _path_name(what.removeprefix('the '), path)
        yield Difference(part, key, old_leaf, new_leaf, False,
                         f'{what} was {_shown(old_leaf)} and is {_shown(new_leaf)}')


def in_short(course: Any) -> Any:
    """A schedule by its values at the start, where it is highest, and at the end, of the last group."""
    if not isinstance(course, list) or len(course) != 9:
        return course
    return ' ... '.join(f'{v[-1] if isinstance(v, list) else v:g}' for v in (course[0], max(course), course[-1]))


def _changes_the_training(key: str, old: Any, new: Any) -> bool:
    """Of a callback that came or went: those of ours do; what a user's does to the training cannot be told."""
    there = new if old == _MISSING else old
    return isinstance(there, dict) and str(there.get('class', '')).startswith('minifast.')


# ---------------------------------------------------------------- differences of the data

def _data_differences(then: Mapping[str, Any], now: RunIdentity, tables: Tables | None) -> Iterable[Difference]:
    data = now.parts['data']
    old, new = then.get('items', {}), data['items']
    touched = None
    for name in {**old, **new}:
        if old.get(name) == new.get(name):
            continue
        if tables is None:
            if _without_times(old.get(name)) != _without_times(new.get(name)):
                yield Difference('data', 'items', None, None, True, _lost(name, old, new))
                return
            continue
        text, suspicious = _first_item(name, tables.get(name, {}), now.tables.get(name, {}))
        if text:
            moved = '' if text.endswith('contents') else _gone_and_new(tables, now.tables)
            yield Difference('data', 'items', None, None, True, text + moved)
            return
        touched = touched or suspicious
    for path, was, is_ in _walk({k: v for k, v in then.items() if k != 'items'},
                                {k: v for k, v in data.items() if k != 'items'}):
        yield Difference('data', 'data', was, is_, True,
                         f'{_path_name("data", path)} was {_shown(was)} and is {_shown(is_)}')
        return
    if touched:
        yield Difference('data', 'times of change', None, None, False, touched)


def _without_times(columns: Any) -> Any:
    return columns and {key: {k: v for k, v in digests.items() if k != 'times'} for key, digests in columns.items()}


def _lost(name: str, then: Mapping, now: Mapping) -> str:
    n_then, n_now = (next((c['n'] for c in found.get(name, {}).values()), 0) for found in (then, now))
    return (f'the {name} items were {n_then:,} and are {n_now:,}, and they are others (the list of then is gone from '
            'the folder, so that the first difference cannot be named)')


def _first_item(name: str, then: Mapping[str, Column], now: Mapping[str, Column]) -> tuple[str, str | None]:
    """The first item of a list that is another, in words; else what is only suspicious."""
    none = Column([])
    pairs = {key: (then.get(key, none), now.get(key, none)) for key in {**then, **now}
             if key == 'item' or (key in then and key in now)}
    touched = None
    for i in range(max((len(c.texts) for pair in pairs.values() for c in pair), default=0)):
        for a, b in pairs.values():
            why = _item_differs(i, a, b)
            if why == 'time':
                touched = touched or (f'{b.texts[i]} has another time of change and the same size; its contents were '
                                      'not compared')
            elif why:
                was, is_ = (', '.join(('' if key == 'item' else f'{key} ') + pair[k].tell(i)
                                      for key, pair in pairs.items() if i < len(pair[k].texts)) for k in (0, 1))
                if was == is_:
                    return f'{name} item {i}, {is_}, has other contents', None
                other = ' and so has other contents' if why == 'contents' else ''
                return f'{name} item {i} was {was or "not there"} and is {is_ or "not there any more"}{other}', None
    return '', touched


def _item_differs(i: int, a: Column, b: Column) -> str:
    if i >= len(a.texts) or i >= len(b.texts):
        return 'there' if len(a.texts) != len(b.texts) else ''
    if a.texts[i] != b.texts[i] and UNKNOWN not in (a.texts[i], b.texts[i]):
        return 'name'
    contents = _both(a.contents, b.contents, i)
    if _both(a.sizes, b.sizes, i) is False or contents is False:
        return 'contents'
    return 'time' if contents is None and _both(a.times, b.times, i) is False else ''


def _both(a: Sequence, b: Sequence, i: int) -> bool | None:
    """Whether two values that are known are the same; None where one is not."""
    if i >= len(a) or i >= len(b) or a[i] is None or b[i] is None:
        return None
    return a[i] == b[i]


def _gone_and_new(then: Tables, now: Tables) -> str:
    """Names that are in no list any more, and those that were in none."""
    old, new = ({text for columns in tables.values() if 'item' in columns for text in columns['item'].texts}
                for tables in (then, now))
    told = [f'{listed(sorted(names), 3)} {what}'
            for names, what in ((new - old, 'new'), (old - new, 'gone')) if names]
    return f' ({"; ".join(told)})' if told else ' (the same items, in another order or split)' if old == new else ''
