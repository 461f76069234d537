"""What a description in a file may say: one table of names, types and sizes.

Every description is checked by it before anything is made of it; `docs/export.schema.json` is written from it.

Each argument is of a kind, and each kind has its bounds; an argument that nobody named is of the narrowest kind. So a
new transform is safe before anybody thinks of it.
"""
from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

__all__ = ['EXPORT', 'MODEL', 'RECIPE', 'TRANSFORM', 'Arguments', 'Fields', 'Kind', 'ListOf', 'Name', 'Nested', 'OneOf',
           'Rule', 'check_arguments', 'check_name', 'check_tree', 'json_schema']

_SIDE, _PIXELS, _OUTPUTS, _LIST = 1 << 14, 1 << 26, 1 << 20, 100
_DEPTH, _NAME, _INTEGER = 32, 1000, 1 << 63
_ANY = (type(None), bool, int, float, str)


# ---------------------------------------------------------------- the words of the table

class Rule:
    """What a value may be."""

    def check(self, value: Any, place: str) -> None:
        """Refuse what the value may not be.

        Args:
            value: as JSON holds it.
            place: where it stands, for the message.

        Raises:
            ValueError: it is something else.
        """
        raise NotImplementedError

    def schema(self, shared: dict[str, Any]) -> dict[str, Any]:
        """The rule in the words of JSON Schema; `shared` gets what is told once and referred to."""
        raise NotImplementedError


@dataclass(frozen=True)
class Kind(Rule):
    """What values an argument may have.

    Attributes:
        low, high: bounds of each number.
        length: bound of each list.
        types: what a value, or each in a list, may be; a list itself goes without saying where `length` is not 0.
        area: two numbers, or one for both, are the sides of a picture, and their product is bounded too.
        choices: the only values, where they are few.
    """

    low: float = -_SIDE
    high: float = _SIDE
    length: int = _LIST
    types: tuple[type, ...] = _ANY
    area: bool = False
    choices: tuple[Any, ...] = ()

    def check(self, value: Any, place: str) -> None:
        _check(place, value, self, {}, 0)

    def schema(self, shared: dict[str, Any]) -> dict[str, Any]:
        words = {type(None): 'null', bool: 'boolean', str: 'string', int: 'integer', float: 'number'}
        types = [words[t] for t in self.types if t is not int or float not in self.types]
        found: dict[str, Any] = {}
        if self.length:
            types, found = [*types, 'array', 'object'], {'maxItems': self.length, 'maxProperties': self.length}
        if {int, float} & set(self.types):
            found |= {'minimum': self.low, 'maximum': self.high}
        if self.choices:
            found['enum'] = list(self.choices)
        return {'type': types if len(types) > 1 else types[0], **found}


@dataclass(frozen=True)
class Name(Rule):
    """The name of a thing, ours or the user's. Which names there are, closed lists say where they are looked up."""

    def check(self, value: Any, place: str) -> None:
        check_name(value, f'{place}=')

    def schema(self, shared: dict[str, Any]) -> dict[str, Any]:
        return {'type': 'string', 'maxLength': _NAME}


@dataclass(frozen=True)
class Fields(Rule):
    """An object with these names and no others.

    Attributes:
        required: what has to be there: name -> rule.
        optional: what may be there.
    """

    required: Mapping[str, Rule]
    optional: Mapping[str, Rule] = field(default_factory=dict)

    def check(self, value: Any, place: str) -> None:
        if not isinstance(value, dict):
            raise ValueError(f'{place or "it"} cannot be {_short(value)}')
        rules = {**self.required, **self.optional}
        for name, part in value.items():
            if name not in rules:
                raise ValueError(f'{place or "it"} has no {_short(name)}')
            rules[name].check(part, f'{place}.{name}' if place else name)
        for name in self.required:
            if name not in value:
                raise ValueError(f'{place or "it"} lacks {name}')

    def schema(self, shared: dict[str, Any]) -> dict[str, Any]:
        rules = {**self.required, **self.optional}
        return {**_object(self.required), 'additionalProperties': False,
                'properties': {name: rule.schema(shared) for name, rule in rules.items()}}


@dataclass(frozen=True)
class ListOf(Rule):
    """A list of `least` to `most` values that `of` allows.

    Attributes:
        first: the rule of the first one, where it has one of its own.
        name: under which the schema tells it once.
    """

    of: Rule
    least: int = 0
    most: int = _LIST
    first: Rule | None = None
    name: str = ''

    def check(self, value: Any, place: str) -> None:
        if not isinstance(value, list) or not self.least <= len(value) <= self.most:
            raise ValueError(f'{place}={_short(value)} is no list of {self.least} to {self.most}')
        for i, part in enumerate(value):
            (self.of if i or self.first is None else self.first).check(part, f'{place}[{i}]')

    def schema(self, shared: dict[str, Any]) -> dict[str, Any]:
        first = {} if self.first is None else {'prefixItems': [self.first.schema(shared)]}
        least = {'minItems': self.least} if self.least else {}
        found = {'type': 'array', **least, 'maxItems': self.most, **first, 'items': self.of.schema(shared)}
        if not self.name:
            return found
        shared[self.name] = found
        return {'$ref': f'#/$defs/{self.name}'}


@dataclass(frozen=True)
class Nested(Rule):
    """What `of` allows, or a list of such, or of lists; `name` is what the schema calls it."""

    name: str
    of: Rule

    def check(self, value: Any, place: str) -> None:
        if isinstance(value, list) and len(value) <= _LIST:
            for i, part in enumerate(value):
                self.check(part, f'{place}[{i}]')
        else:
            self.of.check(value, place)

    def schema(self, shared: dict[str, Any]) -> dict[str, Any]:
        again = {'$ref': f'#/$defs/{self.name}'}
        shared[self.name] = {'anyOf': [self.of.schema(shared), {'type': 'array', 'maxItems': _LIST, 'items': again}]}
        return again


@dataclass(frozen=True)
class OneOf(Rule):
    """What one of several rules allows. Of objects, the first name that one must have tells it from those behind it.

    Attributes:
        rules: tried in their order.
    """

    rules: tuple[Rule, ...]

    def check(self, value: Any, place: str) -> None:
        *others, last = self.rules
        for rule in others:
            if isinstance(rule, Fields) and isinstance(value, dict) and next(iter(rule.required)) in value:
                return rule.check(value, place)
            try:
                return rule.check(value, place)
            except ValueError:
                continue
        return last.check(value, place)

    def schema(self, shared: dict[str, Any]) -> dict[str, Any]:
        return {'anyOf': [rule.schema(shared) for rule in self.rules]}


@dataclass(frozen=True)
class Arguments(Rule):
    """Named arguments, see `check_arguments`.

    Attributes:
        name: what the schema calls them.
        kinds: by name, also of those within others.
        others: the kind of all others; None: there are no others.
        required: the names that have to be there.
    """

    name: str
    kinds: Mapping[str, Kind]
    others: Kind | None = None
    required: tuple[str, ...] = ()

    def check(self, value: Any, place: str) -> None:
        check_arguments(value, self.kinds, self.others, f'{place}.')
        for name in self.required:
            if name not in value:
                raise ValueError(f'{place} lacks {name}')

    def schema(self, shared: dict[str, Any]) -> dict[str, Any]:
        if self.name not in shared:
            own = shared[self.name] = {'properties': {}}
            own['properties'] |= {name: self._deep(name, kind, shared) for name, kind in self.kinds.items()}
        rest = False if self.others is None else self._deep('others', self.others, shared)
        return {**_object(self.required), '$ref': f'#/$defs/{self.name}', 'unevaluatedProperties': rest}

    def _deep(self, name: str, kind: Kind, shared: dict[str, Any]) -> dict[str, Any]:
        """A value of a kind, or lists or objects of it, in which named arguments are of their own kinds again."""
        if not kind.length:
            return kind.schema(shared)
        twins = [other for other, known in self.kinds.items() if known == kind]  # told once, under the first name
        name = f'{self.name}.{(twins or [name])[0]}'
        again = {'$ref': f'#/$defs/{name}'}
        if name not in shared:
            shared[name] = {}
            shared[name]['anyOf'] = [
                replace(kind, length=0).schema(shared), {'type': 'array', 'maxItems': kind.length, 'items': again},
                {'type': 'object', 'maxProperties': kind.length, '$ref': f'#/$defs/{self.name}',
                 'unevaluatedProperties': again}]
        return again


def _object(required: Iterable[str]) -> dict[str, Any]:
    return {'type': 'object', 'required': list(required)} if required else {'type': 'object'}


# ---------------------------------------------------------------- the table

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
    'pretrained': Kind(0, 0, 0, (bool, type(None)), choices=(False, None)),
    **dict.fromkeys(('concat_pool', 'pool', 'first_bn', 'bn_final', 'lin_first', 'blur', 'blur_final',
                     'self_attention', 'last_cross', 'bottle', 'bias', 'bn_1st', 'transpose'), _flag),
    'cut': Kind(-1000, 1000, 0, (int, type(None))), 'ps': Kind(0, 1, _LIST, (int, float)),
    'y_range': Kind(-1e30, 1e30, 2, (int, float, type(None))), 'bias_std': Kind(0, 1e30, 0, (int, float, type(None))),
    **dict.fromkeys(('ks', 'padding', 'dilation'), _kernel), 'groups': Kind(1, _OUTPUTS, 0, (int,)),
    **dict.fromkeys(('norm_type', 'padding_mode', 'act_cls'), Kind(0, 0, 0, (str, type(None))))}
"""The kinds of the arguments of models; there are no others."""

_number, _count = Kind(-1e30, 1e30, 0, (int, float)), Kind(1, _OUTPUTS, 0, (int, type(None)))

RECIPE = Fields({'builder': Kind(0, 0, 0, (str,), choices=tuple(
    f'minifast.vision.{home}.create_{kind}_model' for home in ('learner', 'models.create')
    for kind in ('vision', 'unet'))), 'kwargs': Arguments('model', MODEL, required=('arch',))})
"""How a model is built: by which function of ours, with which arguments."""

_weights = Kind(-1e30, 1e30, 1 << 24)
_loss_arguments = Arguments('loss', {'weight': _weights, 'pos_weight': _weights}, Kind(-1e9, 1e9, 0))
_loss = OneOf((Fields({'user': Name()}, {'has': ListOf(Name())}), Fields({'function': Name()}),
               Fields({'class': Name(), 'kwargs': _loss_arguments})))

_order = {'order': Kind(-1e9, 1e9, 0, (int, float)), 'split_idx': Kind(0, 100, 0, (int, type(None)))}
_single = {'class': Name(), 'kwargs': Arguments('transform', TRANSFORM, Kind())}
_transforms = ListOf(OneOf((Fields({'user': Name(), **_order}), Fields({'function': Name(), **_order}),
                         Fields({'parts': ListOf(Fields(_single), 1), 'class': Name(), **_order}),
                         Fields({**_single, **_order}))), name='transforms')

_element = Fields({'tfms': _transforms}, {'types': OneOf((_never, ListOf(OneOf((ListOf(Name()), Name())))))})
_data = Fields(
    {'set_by_user': Arguments('set_by_user', {'vocab': TRANSFORM['vocab'], 'c': Kind(0, _OUTPUTS, _LIST)})},
    {'items': OneOf((_never, ListOf(_element, 1, 19))), 'classes': TRANSFORM['vocab'], 'bs': _count,
     'n_inp': _count, 'single': Kind(0, 0, 0, (bool, type(None))), 'kinds': Nested('marker', OneOf((_never, Name()))),
     **dict.fromkeys(('after_item', 'before_batch', 'after_batch'), _transforms)})
_settings = Fields({}, {
    'lr': OneOf((ListOf(_number, 2, 2, first=replace(_number, types=(int, float, type(None)))), _number)),
    'wd': replace(_number, types=(int, float, type(None))), 'moms': ListOf(_number, 0, 3),
    **dict.fromkeys(('wd_bn_bias', 'train_bn', 'channels_last'), Kind(0, 0, 0, (bool,)))})

EXPORT = Fields({'model': Fields({'class': Name()}, {'recipe': OneOf((_never, RECIPE))}), 'loss': _loss,
                 'data': _data, 'learner': _settings}, {'made_with': Arguments('made_with', {}, _label)})
"""The description in an export."""


def json_schema() -> dict[str, Any]:
    """The table as JSON Schema, for other readers and writers of exports: `docs/export.schema.json`.

    What a reader here refuses beyond it: sizes of pictures by their product, arguments that are nested more than four
    times, names that move a cursor, and names of nothing that there is.
    """
    shared: dict[str, Any] = {}
    return {'$schema': 'https://json-schema.org/draft/2020-12/schema',
            'title': 'The description inside a minifast export, format version 1', **EXPORT.schema(shared),
            '$defs': shared}


# ---------------------------------------------------------------- checks that stand on their own

def check_arguments(arguments: Any, kinds: Mapping[str, Kind], others: Kind | None = None, place: str = '') -> None:
    """Refuse arguments that ask for more than their kinds allow, at any depth.

    Args:
        arguments: name -> value, as JSON holds it.
        kinds: of the arguments by name, also of those within others.
        others: the kind of all other arguments; None: there are no others.
        place: what stands before the names in messages.

    Raises:
        ValueError: a value is of another type, too large, too long or nested too deeply.
    """
    if not isinstance(arguments, dict):
        raise ValueError(f'arguments have names, {_short(arguments)} has none')
    for name, value in arguments.items():
        kind = kinds.get(name, others)
        if kind is None:
            raise ValueError(f'there is no argument {_short(name)}')
        _check(f'{place}{name}', value, kind, kinds, 0)


def _check(name: str, value: Any, kind: Kind, kinds: Mapping[str, Kind], depth: int) -> None:
    if isinstance(value, (list, tuple, dict)) and kind.length:
        if len(value) > kind.length or depth > 4:
            raise ValueError(f'{name} holds more than {kind.length} values, or nests them more than four times')
        if str in kind.types and set(map(type, value)) == {str} and not (kind.area or isinstance(value, dict)):
            return  # labels, of which there may be millions
        single = replace(kind, area=False) if kind.area else kind  # one side
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            _check(name, part, kinds.get(key, single) if isinstance(key, str) else single, kinds, depth + 1)
    elif type(value) not in kind.types:
        raise ValueError(f'{name} cannot be {_short(value)}')
    elif type(value) in (int, float) and not kind.low <= value <= kind.high:  # NaN is neither
        raise ValueError(f'{name}={_short(value)} is out of {kind.low:,}..{kind.high:,}')
    elif kind.choices and value not in kind.choices:
        raise ValueError(f'{name} cannot be {_short(value)}')
    if kind.area and value is not None:
        sides = value if isinstance(value, (list, tuple)) else [value, value]
        if not all(type(side) in (int, float) for side in sides) or math.prod(sides) > _PIXELS:
            raise ValueError(f'{name}={_short(value)} is no size of a picture, or one of more than {_PIXELS:,} pixels')


def check_name(name: Any, place: str = '') -> str:
    """A name, which messages will tell, as it is.

    Args:
        name: of a thing of ours or of the user's.
        place: what stands before it in the message.

    Raises:
        ValueError: it is no text, longer than names are, or would move the cursor of a terminal.
    """
    if not isinstance(name, str) or len(name) > _NAME or not name.isprintable():
        raise ValueError(f'{place}{_short(name)} is no name')
    return name


def check_tree(tree: Any) -> None:
    """Refuse a `tree` of JSON that is nested deeply, or has numbers that are not finite or fit into no 64 bits.

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
