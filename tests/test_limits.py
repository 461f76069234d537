"""Laws: every number of a file that sizes something is bounded before it is used, whatever it is an argument of."""
import inspect
import math
import sys
import warnings

import jsonschema
import pytest
import torch

from minifast.codetext import _registered
from minifast.data.config import transform_config, transform_from_config
from minifast.data.transform import Transform
from minifast.limits import (MODEL, TRANSFORM, Arguments, Fields, Kind, ListOf, Name, Nested, OneOf, check_arguments,
                             check_name, check_tree)
from minifast.vision import all as everything
from minifast.vision.augment import RandomResizedCrop, Resize, aug_transforms
from minifast.vision.core import PILImage

FREE = {'vocab', 'codes', 'default', 'mean', 'std', 'div', 'div_mask'}  # labels and statistics size nothing
HUGE = {'huge': 10 ** 9, 'huge float': 1e12, 'beyond floats': 10 ** 400, 'infinite': math.inf, 'not a number': math.nan,
        'negative': -10 ** 9, 'in a list': [10 ** 9, 10 ** 9], 'in a dict': {'a': 10 ** 9},
        'deep': [[[10 ** 9]]], 'deeper': [[[[[[[1]]]]]]], 'second': [8, 10 ** 9], 'long': [1] * 10 ** 5}


def named_arguments():
    """(class, argument) of every transform that a file may name."""
    found = set()
    for cls in _registered.values():
        if isinstance(cls, type) and issubclass(cls, Transform):
            found |= {(cls, name) for name in inspect.signature(cls.__init__).parameters
                      if name not in ('self', 'kwargs')}
    return sorted(found, key=lambda pair: (pair[0].__name__, pair[1]))


@pytest.mark.tally
@pytest.mark.parametrize('value', HUGE)
def test_no_argument_of_a_transform_may_be_huge(value, counted):
    """Each argument of each transform, alone and as a part of another: refused before the class is called."""
    assert everything and len(named_arguments()) > 150
    refused = total = 0
    for cls, name in named_arguments():
        config = {'class': f'{cls.__module__}.{cls.__name__}', 'kwargs': {name: HUGE[value]}}
        for tried in (config, {'class': config['class'], 'parts': [config, config]}):
            if name in FREE and value not in ('beyond floats', 'infinite', 'not a number', 'deeper'):
                continue
            total += 1
            with pytest.raises(ValueError, match=name):
                transform_from_config(tried)
            refused += 1
    counted(refused, total)


def test_parts_are_single_and_few():
    """Honest transforms are composed of a few single ones, in one list."""
    one = transform_config(Resize(8))
    for parts in ([{'class': one['class'], 'parts': [one]}], [one] * 101, [], 'x', {}, [3]):
        with pytest.raises((ValueError, TypeError)):
            transform_from_config({'class': one['class'], 'parts': parts})


@pytest.mark.parametrize('size', [1, 224, (16384, 4096), (1, 16384), 8192, [8192.0, 8192]])
def test_sizes_of_pictures_that_are_made_today_pass(size):
    """Up to 8192 x 8192, or as many pixels in another shape."""
    check_arguments({'size': size}, TRANSFORM, Kind())


@pytest.mark.parametrize('size', [0, -1, 8193, (16384, 8192), (16385, 1), 'x', True, [1, 2, 3], [None, 4], {'h': 1}])
def test_sizes_of_pictures_that_are_not_are_refused(size):
    """Too many pixels, too long a side, or no size at all."""
    with pytest.raises(ValueError, match='size'):
        check_arguments({'size': size}, TRANSFORM, Kind())


def test_augmentation_as_it_is_used_passes():
    """The usual transforms come back from their descriptions."""
    for tfm in (*aug_transforms(size=224, min_scale=.5), RandomResizedCrop(460, min_scale=.35),
                Resize((300, 200), 'pad')):
        assert transform_config(transform_from_config(transform_config(tfm))) == transform_config(tfm)


def test_a_picture_of_an_odd_shape_makes_no_window_of_gigabytes():
    """'pad' keeps the picture whole: its window is as flat as the result, and as high as the picture."""
    picture = PILImage.create(torch.zeros(130, 8, 3, dtype=torch.uint8).numpy())
    with pytest.raises(ValueError, match="another method than 'pad'"):
        Resize((1, 16384), 'pad')(picture, split_idx=1)
    assert Resize((1, 4), 'pad')(picture, split_idx=1).size == (4, 1)


@pytest.mark.parametrize('kwargs, word', [
    ({'n_in': 1 << 13}, 'n_in'), ({'n_out': 0}, 'n_out'), ({'n_out': True}, 'n_out'), ({'n_out': '3'}, 'n_out'),
    ({'n_out': 3.5}, 'n_out'), ({'lin_ftrs': [8] * 101}, 'lin_ftrs'), ({'lin_ftrs': [[8]] * 101}, 'lin_ftrs'),
    ({'padding': 10 ** 6}, 'padding'), ({'ks': 10 ** 6}, 'ks'), ({'dilation': -1}, 'dilation'),
    ({'img_size': [1 << 21, 4]}, 'img_size'), ({'img_size': [4, 4, 4]}, 'img_size'), ({'ps': [2.]}, 'ps'),
    ({'cut': 10 ** 9}, 'cut'), ({'custom_head': {'class': 'x'}}, 'custom_head'), ({'weights': 'x.pth'}, 'weights'),
    ({'features_only': True}, 'features_only'), ({'pretrained_cfg_overlay': {'file': 'x'}}, 'pretrained_cfg_overlay')])
def test_arguments_of_models_have_their_kinds_and_there_are_no_others(kwargs, word):
    """A recipe may say what minifast's recipes say."""
    with pytest.raises(ValueError, match=word):
        check_arguments(kwargs, MODEL)


def test_arguments_within_others_have_their_own_kinds():
    """By name, where a value has names; a side within a size is a single one, and no size itself."""
    kinds = {'size': Kind(1, 100, 9, (int,), area=True), 'few': Kind(0, 3, 9, (int,)), 'many': Kind(0, 1000, 9, (int,))}
    check_arguments({'few': {'many': 1000}, 'many': [{'few': 3}]}, kinds)
    for nested in ({'few': {'other': 4}}, {'many': {'few': 4}}, {'many': [{'few': 4}]}, {'size': {'few': 4}}):
        with pytest.raises(ValueError, match='=4 is out of 0..3'):
            check_arguments(nested, kinds)
    with pytest.raises(ValueError, match='no argument'):
        check_arguments({'none': 1}, kinds)
    check_arguments({'none': 1}, kinds, Kind(0, 1, 0, (int,)))


def test_trees_are_flat_and_their_numbers_are_numbers():
    """Depth, infinity and integers of more than 64 bits."""
    deep = 1
    for _ in range(50):
        deep = {'a': [deep]}
    for tree in (deep, [math.inf], {'a': math.nan}, [10 ** 400], [-10 ** 40]):
        with pytest.raises(ValueError):
            check_tree(tree)
    check_tree({'a': [1, 2.5, 'x', None, True, {'b': [[-1e-300]]}], 'b': 2 ** 63 - 1})


def test_names_do_not_move_a_cursor():
    """What messages tell is printable."""
    assert check_name('my_module.<lambda>') == 'my_module.<lambda>'
    for name in ('a\x1b[2Jb', 'a\nb', 'a\u202eb', 'x' * 1001, 3, None, ['a'], '\udce9'):
        with pytest.raises(ValueError):
            check_name(name)


HIDDEN = ('minifast.as_fastai.Anything', 'minifast.__main__.main', 'minifast.vision.widgets.ImagesCleaner',
          'minifast.data.load.os.system', 'minifast.data.transform.inspect.exit', 'minifast.data.external.untar_data',
          'minifast.data.external.urllib.request.urlopen', 'minifast.data.transforms.Path', 'minifast.learner.Learner',
          'minifast.vision.core.Image.open', 'minifast.vision.core.PILImage.open', 'minifast.vision.core._cache',
          'minifast.data.transforms.__builtins__', 'minifast.vision.augment.Learner',
          'minifast.vision.core.fit.create', 'minifast.vision.item_tfms._Window',
          'minifast.vision.item_tfms.Resize.__init__', 'minifast.vision.crop.opencv',
          'minifast.vision.item_tfms.Resize.create', 'torch.hub.load', 'torchvision.transforms.Resize',
          'timm.create_model',
          'os.system', 'builtins.eval', 'minifast', '', '.', '..create', 'minifast.vision.core.', None, 3, [], {})


@pytest.mark.tally
def test_a_name_is_found_only_where_it_was_registered(counted, monkeypatch):
    """Names of other rooms, foreign names in ours, chains, hidden ones: refused, and no module looks about for them."""
    for room in {o.__module__ for o in _registered.values()}:
        monkeypatch.setattr(sys.modules[room], '__getattr__', lambda name: pytest.fail(f'asked for {name}'),
                            raising=False)
    before, finders, refused = set(sys.modules), list(sys.meta_path), 0
    for name in HIDDEN:
        for config in ({'class': name, 'kwargs': {}}, {'function': name}, {'class': name, 'parts': [{'class': name}]}):
            with pytest.raises(ValueError):
                transform_from_config(config)
            refused += 1
    counted(refused, 3 * len(HIDDEN))
    assert set(sys.modules) == before and sys.meta_path == finders


def test_a_warning_of_an_argument_is_no_other_error():
    """With warnings as errors, too, what cannot be made is a ValueError or a warning of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        with pytest.raises((ValueError, UserWarning)):
            transform_from_config({'class': 'minifast.vision.item_tfms.Resize', 'kwargs': {'size': 4, 'method': 'x'}})


@pytest.mark.parametrize('wrap', [lambda x: [x], lambda x: {'a': x}], ids=['lists', 'names'])
def test_arguments_nest_their_values_four_times_and_no_deeper(wrap):
    """As the message says: lists in lists and names in names, where one level holds the values themselves."""
    value = wrap(1)
    for _ in range(4):
        value = wrap(value)
    check_arguments({'x': value}, {'x': Kind(0, 1, 9, (int,))})
    with pytest.raises(ValueError, match='nests them more than four times'):
        check_arguments({'x': wrap(value)}, {'x': Kind(0, 1, 9, (int,))})


RULES = {
    'name': (Name(), ['x', '', 3, None, []]),
    'kind': (Kind(0, 3, 0, (int,)), [0, 3, 4, -1, 'x', [1]]),
    'kind of choices': (Kind(0, 9, 0, (str,), choices=('a', 'b')), ['a', 'b', 'c', 3]),
    'kind of lists': (Kind(0, 3, 2, (int,)), [3, 4, [], [1, 2], [1, 2, 3], 'x']),
    'fields': (Fields({'a': Name()}, {'b': Kind(0, 3, 0, (int,))}),
               [{'a': 'x'}, {'a': 'x', 'b': 3}, {'a': 'x', 'b': 4}, {'a': 3}, {'b': 3}, {'a': 'x', 'c': 1}, {}, []]),
    'list': (ListOf(Name(), 1, 2, Kind(0, 3, 0, (int,))), [[1], [1, 'x'], ['x'], [1, 2], [], [1, 'x', 'x'], {}, 3]),
    'nested': (Nested('deep', Name()), ['x', ['x', ['y', []]], [['x'], 3], 3, {}]),
    'one of several': (OneOf((Fields({'a': Name()}), Fields({'b': Name()}), Name())),
                       [{'a': 'x'}, {'b': 'x'}, 'x', {'a': 3}, {'b': 'x', 'a': 'x'}, {}, 3]),
    'arguments': (Arguments('those', {'a': Kind(0, 3, 0, (int,)), 'b': Kind(0, 9, 5, (int,))}, None, ('a',)),
                  [{'a': 3}, {'a': 3, 'b': 9}, {'a': 3, 'b': {'a': 1}}, {'a': 3, 'b': {'a': 4}}, {'a': 4}, {'b': 1},
                   {'a': 1, 'c': 1}, 3]),
    'arguments and others': (Arguments('these', {'a': Kind(0, 3, 0, (int,))}, Kind(0, 1, 0, (int,))),
                             [{'a': 3}, {'c': 1}, {'c': 2}, {}])}


@pytest.mark.parametrize('kind', RULES)
def test_a_rule_and_its_schema_allow_the_same(kind):
    """What another reader refuses by the published schema is what ours refuses, rule by rule."""
    rule, values = RULES[kind]
    shared = {}
    schema = rule.schema(shared)
    theirs = jsonschema.Draft202012Validator({**schema, '$defs': shared})
    theirs.check_schema(theirs.schema)

    def ours(value):
        try:
            rule.check(value, 'it')
        except ValueError:
            return False
        return True
    allowed = [ours(value) for value in values]
    assert [theirs.is_valid(value) for value in values] == allowed and True in allowed and False in allowed


READ = {
    'of objects': (OneOf((Fields({'a': Name()}), Fields({'b': Name()}), Fields({'c': Kind(0, 9)}))),
                   [{'a': 'x'}, {'b': 'x'}, {'c': 3}],
                   [{'a': 3}, {'a': 'x', 'b': 'x'}, {'b': 3}, {'c': 10}, {'d': 'x'}, {}, 'x', ['a'], None]),
    'an object or a name': (OneOf((Fields({'a': Name()}), Name())), [{'a': 'x'}, 'x'],
                            [{'a': 3}, {'b': 'x'}, 3, ['x']]),
    'a name or an object': (OneOf((Name(), Fields({'a': Name()}))), ['x', {'a': 'x'}],
                            [{'a': 3}, {'b': 'x'}, 3, ['x']]),
    'a list whose first one is another': (ListOf(Kind(0, 9, types=(int,)), 1, 3, first=Name()),
                                          [['x'], ['x', 1], ['x', 1, 2]],
                                          [[], [1], ['x', 'x'], ['x', 10], ['x', 1, 2, 3], 'x']),
    'a list of any length': (ListOf(Name()), [[], ['x'], ['x'] * 9], [[1], ['x', 1], 'x', {'x': 'x'}]),
    'a named list': (ListOf(ListOf(Name(), 1), name='lists'), [[], [['x']]], [[[]], ['x'], [[1]]])}


@pytest.mark.parametrize('kind', READ)
def test_a_rule_allows_what_its_schema_allows(kind):
    """And tells of an object what is wrong with that one which its first name makes it."""
    rule, right, wrong = READ[kind]
    shared = {}
    schema = {**rule.schema(shared), '$defs': shared}
    jsonschema.Draft202012Validator.check_schema(schema)
    theirs = jsonschema.Draft202012Validator(schema)
    for value in right:
        rule.check(value, 'it')
        assert theirs.is_valid(value), value
    for value in wrong:
        with pytest.raises(ValueError):
            rule.check(value, 'it')
        assert not theirs.is_valid(value), value
    with pytest.raises(ValueError, match='^it.a=3'):
        READ['of objects'][0].check({'a': 3}, 'it')


@pytest.mark.parametrize('rule, value, told', [
    (Fields({'a': Kind(0, 3)}), {'a': 4}, 'it.a=4 is out of 0..3'),
    (ListOf(Kind(0, 3)), [3, 4], r'it\[1\]=4 is out of 0..3'),
    (Nested('deep', Kind(0, 3)), [[3], [3, 4]], r'it\[1\]\[1\]=4 is out of 0..3'),
    (Arguments('those', {'a': Kind(0, 3)}), {'a': 4}, 'it.a=4 is out of 0..3'),
    (Arguments('those', {}, Kind(0, 3)), {'b': 4}, 'it.b=4 is out of 0..3'),
    (Arguments('those', {}, Kind(0, 3), ('a',)), {'b': 3}, 'it lacks a'),
    (Fields({'a': ListOf(Arguments('those', {'b': Kind(0, 3)}))}), {'a': [{'b': 4}]}, r'it.a\[0\].b=4 is out of 0..3')])
def test_what_is_wrong_is_told_with_its_place(rule, value, told):
    """From the description's own name down to the value."""
    with pytest.raises(ValueError, match=f'^{told}'):
        rule.check(value, 'it')


def nested(n):
    """A list in a list, `n` times."""
    found = 1
    for _ in range(n):
        found = [found]
    return found


@pytest.mark.parametrize('check, right, wrong', [
    (check_tree, nested(32), nested(33)), (check_tree, -2 ** 63, -2 ** 63 - 1), (check_tree, 2 ** 64, 2 ** 64 + 1),
    (check_tree, {'a': [nested(30)]}, {'a': [nested(31)]}), (check_name, 'x' * 1000, 'x' * 1001),
    (ListOf(Name(), 1, 2).check, ['a', 'b'], ['a', 'b', 'c']), (ListOf(Name(), 1, 2).check, ['a'], []),
    (ListOf(Name()).check, ['a'] * 100, ['a'] * 101), (Nested('n', Name()).check, ['a'] * 100, ['a'] * 101),
    (Kind(1, 3, 2).check, [1, 3], [1, 3, 1]), (Kind(1, 3, 2).check, 3, 3.1), (Kind(1, 3, 2).check, 1, .9),
    (Kind(1, 3, 2).check, {'a': 1, 'b': 2}, {'a': 1, 'b': 2, 'c': 3}), (Kind(0, 9, 0).check, 9, [9]),
    (Kind(0, 9, types=(str,)).check, ['a', 'b'], ['a', 1]), (Kind(0, 9, types=(str, int)).check, ['a', 9], ['a', 10]),
    (Kind(choices=(1, 2), length=0).check, 2, 3), (Kind(0, 1, 0, (int,)).check, 1, True),
    (Kind(1, 1 << 14, 2, area=True).check, [1 << 14, 1 << 12], [1 << 14, (1 << 12) + 1]),
    (Kind(1, 1 << 14, 2, area=True).check, 1 << 13, (1 << 13) + 1),
    (Kind(1, 1 << 14, 2, area=True).check, None, 'x')])
def test_a_bound_is_the_last_value_that_passes(check, right, wrong):
    """Of depths, numbers, lengths, lists and areas."""
    place = () if check in (check_tree,) else ('it',)
    check(right, *place)
    with pytest.raises(ValueError):
        check(wrong, *place)


@pytest.mark.parametrize('rule, value, told', [
    (Fields({'a': Name()}), 3, 'it cannot be 3'), (Fields({'a': Name()}), {'b': 1}, "it has no 'b'"),
    (Fields({'a': Name()}), {}, 'it lacks a'), (Name(), 'a\nb', r"it='a\nb' is no name"),
    (ListOf(Name(), 1, 2), 'x', "it='x' is no list of 1 to 2"), (Kind(0, 3, 0, (int,)), 'x', "it cannot be 'x'"),
    (Kind(0, 3000), 4000, 'it=4000 is out of 0..3,000'), (Kind(0, 3, 2), [1, 2, 3], 'it holds more than 2 values, or '
                                                        'nests them more than four times'),
    (Kind(choices=('a',)), 'b', "it cannot be 'b'"), (Kind(0, 3), 1 << 64, 'it=an integer of 65 bits is out of 0..3'),
    (Kind(0, 3, 0, (int,)), 'x' * 78, 'it cannot be ' + repr('x' * 78)[:76] + ' ...'),
    (Kind(0, 3, 0, (int,)), 'x' * 77, 'it cannot be ' + repr('x' * 77)), (Kind(0, 3), (1 << 64) - 1,
                                                                        f'it={(1 << 64) - 1} is out of 0..3'),
    (Kind(1, 9999, 2, area=True), [9000, 9000], 'it=[9000, 9000] is no size of a picture, or one of more than '
                                                '67,108,864 pixels'),
    (Arguments('those', {}), 3, 'arguments have names, 3 has none'),
    (Arguments('those', {}), {'b': 1}, "there is no argument 'b'")])
def test_what_is_refused_is_told_as_it_was_given(rule, value, told):
    """Whole where it is short; a long integer by its bits, and the description itself as `it`."""
    with pytest.raises(ValueError) as error:
        rule.check(value, 'it')
    assert str(error.value) == told
    if isinstance(rule, Fields):
        with pytest.raises(ValueError) as error:
            rule.check(value, '')
        assert str(error.value) == told


def test_a_tree_tells_what_is_wrong_in_it():
    """Its depth, or the number."""
    for tree, told in ((nested(33), 'it is nested more than 32 times'),
                       ([{'a': 1e20}], '1e+20 is no number of a description')):
        with pytest.raises(ValueError) as error:
            check_tree(tree)
        assert str(error.value) == told


@pytest.mark.parametrize('kind, schema', [
    (Kind(0, 3, 0, (int,)), {'type': 'integer', 'minimum': 0, 'maximum': 3}),
    (Kind(0, 3, 0, (int, float)), {'type': 'number', 'minimum': 0, 'maximum': 3}),
    (Kind(0, 3, 0, (bool, type(None))), {'type': ['boolean', 'null']}), (Kind(0, 3, 0, (str,)), {'type': 'string'}),
    (Kind(-1, 3, 5, (float,)), {'type': ['number', 'array', 'object'], 'minimum': -1, 'maximum': 3, 'maxItems': 5,
                                'maxProperties': 5}),
    (Kind(0, 0, 0, (str,), choices=('a', 'b')), {'type': 'string', 'enum': ['a', 'b']}),
    (Name(), {'type': 'string', 'maxLength': 1000}),
    (ListOf(Name()), {'type': 'array', 'maxItems': 100, 'items': {'type': 'string', 'maxLength': 1000}}),
    (ListOf(Name(), 2, 3, first=Kind(0, 0, 0, (str,))), {
        'type': 'array', 'minItems': 2, 'maxItems': 3, 'prefixItems': [{'type': 'string'}],
        'items': {'type': 'string', 'maxLength': 1000}}),
    (Fields({'a': Kind(0, 0, 0, (str,))}, {'b': Kind(0, 0, 0, (bool,))}), {
        'type': 'object', 'required': ['a'], 'additionalProperties': False,
        'properties': {'a': {'type': 'string'}, 'b': {'type': 'boolean'}}}),
    (Fields({}), {'type': 'object', 'additionalProperties': False, 'properties': {}})])
def test_a_rule_in_the_words_of_the_standard(kind, schema):
    """Other readers see these: what is said once is said in its place."""
    shared = {}
    assert kind.schema(shared) == schema and not shared


def test_what_many_rules_share_is_told_once():
    """Under the name of the rule, and of the first argument of a kind; all others, by the name `others`."""
    many = Kind(0, 3, 5, (int,))
    shared = {}
    rule = Arguments('those', {'a': many, 'b': many, 'c': Kind(0, 1, 0, (int,))}, Kind(0, 9, 2, (int,)), ('a',))
    told = rule.schema(shared)
    assert told == {'type': 'object', 'required': ['a'], '$ref': '#/$defs/those',
                    'unevaluatedProperties': {'$ref': '#/$defs/those.others'}}
    assert shared.keys() == {'those', 'those.a', 'those.others'}
    again = {'$ref': '#/$defs/those.a'}
    assert shared['those'] == {'properties': {'a': again, 'b': again, 'c': {'type': 'integer', 'minimum': 0,
                                                                            'maximum': 1}}}
    assert shared['those.a'] == {'anyOf': [
        {'type': 'integer', 'minimum': 0, 'maximum': 3}, {'type': 'array', 'maxItems': 5, 'items': again},
        {'type': 'object', 'maxProperties': 5, '$ref': '#/$defs/those', 'unevaluatedProperties': again}]}
    assert Arguments('bare', {}).schema(shared) == {'type': 'object', '$ref': '#/$defs/bare',
                                                    'unevaluatedProperties': False}
    assert ListOf(Name(), name='named').schema(shared) == {'$ref': '#/$defs/named'}
    assert shared['named'] == ListOf(Name()).schema({})
    assert Nested('deep', Name()).schema(shared) == {'$ref': '#/$defs/deep'}
    assert shared['deep'] == {'anyOf': [Name().schema({}), {'type': 'array', 'maxItems': 100,
                                                            'items': {'$ref': '#/$defs/deep'}}]}
