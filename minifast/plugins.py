"""Callbacks of other packages: found by the entry-point group `minifast.callbacks`, listed by `minifast plugins`.

A package registers its callbacks in its metadata and needs no import of its own to be found:

    [options.entry_points]
    minifast.callbacks =
        tracker = my_package.callbacks:TrackerCallback
"""
from __future__ import annotations

import importlib.metadata
import inspect
from typing import NamedTuple

from minifast.callback.core import Callback
from minifast.terminal import print_table, say
from minifast.testing import check_callback

__all__ = ['Plugin', 'find_plugins', 'group', 'load_plugin']

group = 'minifast.callbacks'
"""The entry-point group."""


class Plugin(NamedTuple):
    """A registered callback: its `name`, its class (`target`: 'module:Class') and the `package` that brings it."""

    name: str
    target: str
    package: str

    def load(self) -> type[Callback]:
        """Import the callback's class.

        Raises:
            ImportError: the package cannot be imported or has no such class.
            TypeError: what is registered is no `Callback` class.
        """
        try:
            found = importlib.metadata.EntryPoint(self.name, self.target, group).load()
        except AttributeError as error:
            raise ImportError(f'{self.package} registers {self.target} and has no such class: {error}') from error
        if not (inspect.isclass(found) and issubclass(found, Callback)):
            raise TypeError(f'{self.package} registers {self.target}, which is no Callback class but {found!r}')
        return found


def find_plugins() -> list[Plugin]:
    """All registered callbacks, by name; nothing of theirs is imported."""
    points = importlib.metadata.entry_points(group=group)
    return sorted(Plugin(point.name, point.value, f'{point.dist.name} {point.dist.version}' if point.dist else '?')
                  for point in points)


def load_plugin(name: str) -> type[Callback]:
    """The callback class registered as `name`.

    Raises:
        ValueError: nothing is registered under that name; the message lists what is.

    Example:
        >>> learn.fit(1, cbs=load_plugin('tracker')())
    """
    plugins = find_plugins()
    found = next((plugin for plugin in plugins if plugin.name == name), None)
    if found is None:
        names = ', '.join(plugin.name for plugin in plugins) or 'none'
        raise ValueError(f'no package registers a callback {name!r} in the entry-point group {group}; there are: '
                         f'{names}')
    return found.load()


def _state(plugin: Plugin, check: bool) -> str:
    """'ok', or what is wrong; whatever a plugin raises belongs into the table, not on the user's screen."""
    try:
        callback = plugin.load()
        if check:
            check_callback(callback)
    except Exception as error:
        return f'{type(error).__name__}: {error}'.split('\n')[0]
    return 'ok'


def show_plugins(check: bool = False) -> int:
    """`minifast plugins`: a line a registered callback; 1 if one of them does not work, else 0.

    Args:
        check: run each, made without arguments, through `minifast.testing.check_callback`.
    """
    plugins = find_plugins()
    if not plugins:
        say(f'No installed package registers callbacks in the entry-point group {group}.')
        return 0
    states = [_state(plugin, check) for plugin in plugins]
    print_table([['callback', 'class', 'package', 'state'],
                 *([*plugin, state] for plugin, state in zip(plugins, states, strict=True))])
    return 0 if all(state == 'ok' for state in states) else 1
