"""How large a number in a file may be: whatever sizes a picture, a model or a loop is bounded before it is used.

Each argument is of a kind, and each kind has its bounds; an argument that nobody named is of the narrowest kind. So a
new transform is safe before anybody thinks of it.
"""
from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ['MODEL', 'TRANSFORM', 'Kind', 'check_arguments', 'check_name', 'check_tree']

_SIDE, _PIXELS, _OUTPUTS, _LIST = 1 << 14, 1 << 26, 1 << 20, 100
_DEPTH, _INTEGER = 32, 1 << 63
_ANY = (type(None), bool, int, float, str)


class Kind(NamedTuple):
    """What values an argument may have.

    Attributes:
        low, high: bounds of each number.
        length: bound of each list.
        types: what a value, or each in a list, may be; a list itself goes without saying where `length` is not 0.
        area: two numbers, or one for both, are the sides of a picture, and their product is bounded too.
    """

    low: float = -_SIDE
    high: float = _SIDE
    length: int = _LIST
    types: tuple[type, ...] = _ANY
    area: bool = False


_label = Kind(-_INTEGER, _INTEGER, _INTEGER)  # as many as the file has bytes for
_statistic = Kind(-1e30, 1e30, _INTEGER)
_part, _factor = Kind(0, 1), Kind(0, 100)
_picture = Kind(1, _SIDE, 2, area=True)

TRANSFORM: dict[str, Kind] = {
    **dict.fromkeys(('vocab', 'codes', 'classes', 'default'), _label),
    **dict.fromkeys(('mean', 'std', 'div', 'div_mask'), _statistic),
    **dict.fromkeys(('size', 'max_sz'), _picture),
    **dict.fromkeys(('p', 'val_xtra', 'sl', 'sh'), _part),
    **dict.fromkeys(('min_scale', 'max_scale', 'valid_scale'), _factor),
    **dict.fromkeys(('ratio', 'min_zoom', 'max_zoom', 'min_aspect'), Kind(1e-3, 100)),
    'c': Kind(0, _OUTPUTS, 0), 'max_count': Kind(0, 1000, 0)}
"""The kinds of the arguments of transforms."""

_flag, _kernel = Kind(0, 0, 0, (bool, type(None))), Kind(0, 32, 3, (int, type(None)))
_never = Kind(0, 0, 0, (type(None),))

MODEL: dict[str, Kind] = {
    'arch': Kind(0, 0, 0, (str,)), 'weights': _never, 'init': _never, 'custom_head': _never,
    # a body is tried out with as many channels as it takes
    'n_out': Kind(1, _OUTPUTS, 0, (int,)), 'n_in': Kind(1, 1 << 12, 0, (int,)),
    'lin_ftrs': Kind(1, _OUTPUTS, _LIST, (int, type(None))), 'img_size': Kind(1, _OUTPUTS, 2, (int,)),
    **dict.fromkeys(('pretrained', 'concat_pool', 'pool', 'first_bn', 'bn_final', 'lin_first', 'blur', 'blur_final',
                     'self_attention', 'last_cross', 'bottle', 'bias', 'bn_1st', 'transpose'), _flag),
    'cut': Kind(-1000, 1000, 0, (int, type(None))), 'ps': Kind(0, 1, _LIST, (int, float)),
    'y_range': Kind(-1e30, 1e30, 2, (int, float, type(None))), 'bias_std': Kind(0, 1e30, 0, (int, float, type(None))),
    **dict.fromkeys(('ks', 'padding', 'dilation'), _kernel), 'groups': Kind(1, _OUTPUTS, 0, (int,)),
    **dict.fromkeys(('norm_type', 'padding_mode', 'act_cls'), Kind(0, 0, 0, (str, type(None))))}
"""The kinds of the arguments of models; there are no others."""


def check_arguments(arguments: Any, kinds: Mapping[str, Kind], others: Kind | None = None) -> None:
    """Refuse arguments that ask for more than their kinds allow, at any depth.

    Args:
        arguments: name -> value, as JSON holds it.
        kinds: of the arguments by name, also of those within others.
        others: the kind of all other arguments; None: there are no others.

    Raises:
        ValueError: a value is of another type, too large, too long or nested too deeply.
    """
    if not isinstance(arguments, dict):
        raise ValueError(f'arguments have names, {_short(arguments)} has none')
    for name, value in arguments.items():
        kind = kinds.get(name, others)
        if kind is None:
            raise ValueError(f'there is no argument {_short(name)}')
        _check(name, value, kind, kinds, 0)


def _check(name: str, value: Any, kind: Kind, kinds: Mapping[str, Kind], depth: int) -> None:
    if isinstance(value, (list, tuple, dict)) and kind.length:
        if len(value) > kind.length or depth > 4:
            raise ValueError(f'{name} holds more than {kind.length} values, or nests them more than four times')
        single = kind._replace(area=False)  # one side
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            _check(name, part, kinds.get(key, single) if isinstance(key, str) else single, kinds, depth + 1)
    elif type(value) not in kind.types:
        raise ValueError(f'{name} cannot be {_short(value)}')
    elif type(value) in (int, float) and not kind.low <= value <= kind.high:  # NaN is neither
        raise ValueError(f'{name}={_short(value)} is out of {kind.low:,}..{kind.high:,}')
    if kind.area and value is not None:
        sides = value if isinstance(value, (list, tuple)) else [value, value]
        if not all(type(side) in (int, float) for side in sides) or math.prod(sides) > _PIXELS:
            raise ValueError(f'{name}={_short(value)} is no size of a picture, or one of more than {_PIXELS:,} pixels')


def check_name(name: Any) -> str:
    """A name of something of the user's, which messages will tell.

    Raises:
        ValueError: it is no text, longer than names are, or would move the cursor of a terminal.
    """
    if not isinstance(name, str) or len(name) > 1000 or not name.isprintable():
        raise ValueError(f'{_short(name)} is no name')
    return name


def check_tree(tree: Any) -> None:
    """Refuse JSON that is nested deeply, or has numbers that are not finite or fit into no 64 bits.

    Raises:
        ValueError: it is or has.
    """
    level, depth = [tree], 0
    while level:
        if depth > _DEPTH:
            raise ValueError(f'it is nested more than {_DEPTH} times')
        below = []
        for o in level:
            if isinstance(o, (list, dict)):
                below += o.values() if isinstance(o, dict) else o
            elif isinstance(o, (int, float)) and not -_INTEGER <= o <= 2 * _INTEGER:
                raise ValueError(f'{_short(o)} is no number of a description')
        level, depth = below, depth + 1


def _short(value: Any) -> str:
    if isinstance(value, int) and abs(value) >= 1 << 64:  # the text of a long one takes long
        return f'an integer of {value.bit_length():,} bits'
    text = repr(value)
    return text if len(text) < 80 else f'{text[:76]} ...'
