"""Callbacks that packages register: found without an import, listed, refused with a reason."""
from __future__ import annotations

import sys

import pytest

from minifast.cli import main
from minifast.plugins import find_plugins, load_plugin

MODULE = '''
from minifast.callback.core import Callback

class GoodCallback(Callback):
    def after_batch(self):
        self.seen = self.iter

class SloppyCallback(Callback):
    def before_fit(self):
        self.learn.logger = print

not_a_callback = 3
'''
POINTS = '''
[minifast.callbacks]
good = my_plugins:GoodCallback
sloppy = my_plugins:SloppyCallback
number = my_plugins:not_a_callback
gone = my_plugins:NoSuchCallback
absent = no_such_package_at_all:Callback
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package `my-plugins 1.2` that registers five callbacks, of which two are right."""
    (tmp_path / 'my_plugins.py').write_text(MODULE)
    info = tmp_path / 'my_plugins-1.2.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text('Metadata-Version: 2.1\nName: my-plugins\nVersion: 1.2\n')
    (info / 'entry_points.txt').write_text(POINTS)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop('my_plugins', None)


def ours():
    """The plugins of the test's package; the environment may hold others."""
    return [plugin for plugin in find_plugins() if plugin.package == 'my-plugins 1.2']


def test_plugins_are_found_without_importing_them(package):
    """Finding reads metadata only."""
    assert [plugin.name for plugin in ours()] == ['absent', 'gone', 'good', 'number', 'sloppy']
    assert 'my_plugins' not in sys.modules


def test_load_plugin_gives_the_class_and_names_what_there_is(package):
    """A name gives its class; a wrong name, a missing class and an object that is no callback say what is wrong."""
    assert load_plugin('good').__name__ == 'GoodCallback'
    with pytest.raises(ValueError, match="'goood'.*good"):
        load_plugin('goood')
    with pytest.raises(ImportError, match='my-plugins 1.2 registers my_plugins:NoSuchCallback'):
        load_plugin('gone')
    with pytest.raises(TypeError, match='no Callback class'):
        load_plugin('number')


def test_command_lists_plugins_and_checks_them(package, capsys):
    """`minifast plugins` shows one line each and exits with 1 where one cannot be loaded; --check trains with each."""
    assert main(['plugins']) == 1
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines['good'].endswith('ok') and lines['sloppy'].endswith('ok') and 'my-plugins 1.2' in lines['good']
    assert 'ModuleNotFoundError' in lines['absent'] and 'TypeError' in lines['number']
    assert main(['plugins', '--check']) == 1
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert lines['good'].endswith('ok') and 'logger' in lines['sloppy']
