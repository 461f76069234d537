"""The digest of code is another one once the code, or what it rests on, is another; else it is the same, everywhere."""
from __future__ import annotations

import os
import subprocess
import sys
import types

import pytest

from minifast.codetext import code_digest, is_of_the_user, public_module

SOURCE = '''
import functools, os, helpers_of_own
LIMIT, NAMES, TABLE = 3, {'a', 'b', 'c'}, {'x': [1, 2]}
def outer(k):
    def inner(x): return x + k
    return inner
add = outer(1)
part = functools.partial(max, 7)
def helper(x, far=2): return x in {'p', 'q', 'r'} and far or LIMIT
class Base:
    mode = 'RGB'
    @property
    def size(self): return 1
class Own(Base):
    """Words."""
    @classmethod
    def create(cls, fn, *, key=5):
        # a remark
        return [helper(o) for o in add(fn)] + [NAMES, TABLE, part(fn), helpers_of_own.load(fn), os.path.join('a', 'b')]
    @staticmethod
    def still(): return create_again()
def create_again(): return Own
'''
HELPERS = 'def load(fn): return 1\n'
CHANGES = [('LIMIT, NAMES, TABLE = 3', 'LIMIT, NAMES, TABLE = 4'), ("'b', 'c'}", "'b', 'd'}"), ('[1, 2]', '[1, 3]'),
           ('x + k', 'x - k'), ('outer(1)', 'outer(2)'), ('max, 7', 'max, 8'), ('far=2', 'far=3'),
           ("'q', 'r'", "'q', 's'"),
           ("'RGB'", "'L'"), ('return 1', 'return 2'), ('key=5', 'key=6'), ("'a', 'b')", "'a', 'c')"),
           ('return create_again()', 'return create_again'), ('max, 7', 'min, 7'), ('@staticmethod', '@classmethod'),
           ('def create_again(): return Own', 'def create_again(): return Base'), ('(Base)', ''),
           ('add(fn)', 'list(fn)')]


def made(source=SOURCE, helpers=HELPERS):
    for name, text in (('helpers_of_own', helpers), ('module_of_own', source)):
        module = types.ModuleType(name)
        module.__file__ = f'/somewhere/{name}.py'
        sys.modules[name] = module
        exec(text, vars(module))
    return code_digest(sys.modules['module_of_own'].Own)


@pytest.mark.parametrize('old, new', CHANGES)
def test_each_change_of_code_counts(old, new):
    """In a class, its base, a helper, a default, a constant, a closure, a nested function."""
    assert SOURCE.count(old) >= 1 and made(SOURCE.replace(old, new, 1)) != made()


def test_helpers_of_another_module_count_and_remarks_do_not():
    """A module of the user's own that is called by its name; comments and the words of a class."""
    assert made(helpers='def load(fn): return 2\n') != made()
    assert made(SOURCE.replace('a remark', 'another').replace('Words', 'More')) == made()


def test_the_same_in_every_process():
    """Whatever order sets have there."""
    code = 'import sys; sys.path[:0] = ["tests"]; from test_codetext import made; print(made())'
    found = {subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True,
                            env={**os.environ, 'PYTHONHASHSEED': seed}).stdout for seed in '12'}
    assert found == {made() + '\n'}


def test_the_order_of_a_set_does_not_count_and_names_of_arguments_do():
    """Of a code object, too; names of variables do not."""
    one, turned, renamed, other = (compile(code, 'here', 'exec').co_consts[0] for code in (
        'def f(x): y = x in {0, 8}', 'def f(x): y = x in {8, 0}', 'def f(x): z = x in {0, 8}',
        'def f(z): y = z in {0, 8}'))
    assert repr(one.co_consts) != repr(turned.co_consts)  # or there is nothing to see
    assert code_digest(one) == code_digest(turned) == code_digest(renamed) != code_digest(other)


def test_whose_a_module_is():
    """The script's and what lies beside it are the user's, and nothing else is."""
    assert is_of_the_user('__main__') and is_of_the_user('tests.test_codetext')
    assert not any(map(is_of_the_user, ('minifast.codetext', 'json.decoder', 'torch.nn', 'numpy', 'builtins')))


def test_the_order_and_the_kinds_of_keys_do_not_count():
    """Tables by number, by text, or by both; their values do."""
    assert code_digest({1: 'a', 'b': 2, None: 3}) == code_digest({None: 3, 'b': 2, 1: 'a'})
    assert code_digest({1: 'a', 'b': 2}) != code_digest({1: 'a', 'b': 3}) != code_digest({1: 'a', 'c': 3})


def test_files_call_a_thing_by_the_module_that_it_is_imported_from(monkeypatch):
    """Python 3.13 keeps the classes of paths in `pathlib._local`, those before and behind it in `pathlib`: a name in a
    file means the same class in each. What its package does not show is called by the room that it lies in."""
    from pathlib import Path, PurePath

    from minifast.describe import build_types, describe_types, import_name
    from minifast.run.identity import _name_of
    assert public_module(Path) == public_module(PurePath) == 'pathlib'
    assert public_module(os.path.join) == os.path.__name__
    inner = types.ModuleType('shelf._inner')
    exec('class Book: pass\nclass Hidden: pass\ndef read(): pass', inner.__dict__)
    shelf = types.ModuleType('shelf')
    shelf.Book, shelf.read, shelf.Hidden = inner.Book, inner.read, int
    monkeypatch.setitem(sys.modules, 'shelf', shelf)
    assert [public_module(x) for x in (inner.Book, inner.read, inner.Hidden, 3)] == [
        'shelf', 'shelf', 'shelf._inner', '']
    assert import_name(inner.Book) == _name_of(inner.Book) == 'shelf.Book' and import_name(inner.Book()) == 'shelf.Book'
    assert build_types(describe_types([Path, str, (PurePath, bytes)])) == [PurePath, str, (PurePath, bytes)]
    assert describe_types([PurePath]) == ['pathlib.PurePath'] and import_name(Path) == 'pathlib.Path'
