"""Laws of transforms: who is applied to what, what class comes out, in what order, and what can be written as data."""
from __future__ import annotations

import collections
import collections.abc
import functools
import pickle
import random
from typing import Annotated, Any, Callable, Literal, NewType, Optional, Protocol, TypeVar

import numpy as np
import pytest
import torch
from fastcore.foundation import L
from PIL import Image
from torchvision import transforms as v1
from torchvision.transforms import v2

from minifast.codetext import keyed, registered
from minifast.data import transforms
from minifast.data.config import transform_config, transform_from_config
from minifast.data.transform import (DisplayedTransform, InplaceTransform, ItemTransform, Overloads, Pipeline,
                                     RandTransform, Transform, compose_tfms, is_known, mk_transform, retain,
                                     typedispatch)
from minifast.data.transforms import Categorize, IntToFloatTensor, MultiCategorize, Normalize, ToTensor
from minifast.markers import TensorCategory, TensorImage, TensorImageBW, TensorMask
from minifast.seeds import keyed_generator
from minifast.vision.core import PILImage


class Halve(Transform):
    def encodes(self, x: TensorImage):
        return x / 2

    def encodes(self, x: int | float):  # noqa: F811
        return x * 10

    def decodes(self, x: TensorImage):
        return x * 2


class Thirds(Halve):
    def encodes(self, x: TensorImage):
        return x / 3


def image(value=6., cls=TensorImage):
    return cls(torch.full((3, 2, 2), value))


def test_transform_applies_by_the_annotation_of_its_first_argument():
    """What has no function for its type passes unchanged, the very object."""
    text, mask = 'x', TensorMask(torch.ones(2, 2))
    assert Halve()(text) is text and Halve()(mask) is mask
    assert Halve()(4) == 40
    assert torch.equal(Halve()(image()).as_subclass(torch.Tensor), torch.full((3, 2, 2), 3.))


def test_transform_on_a_tuple_transforms_each_element():
    """A tuple is a sample; named tuples and lists are items."""
    a, b, c = Halve()((image(), 3, 'y'))
    assert type(a) is TensorImage and b == 30 and c == 'y'
    assert Halve()([1, 2]) == [1, 2]


def test_transform_subclass_overrides_a_type_and_inherits_the_others():
    """The functions of a class come before those of its bases, type by type."""
    assert Thirds()(image())[0, 0, 0] == 2 and Thirds()(4) == 40
    assert len(Halve().encodes.func.__self__) == 2


def test_transform_nearest_type_wins():
    """A subclass of an annotated type is taken by the nearest annotation."""
    class Both(Transform):
        def encodes(self, x: torch.Tensor):
            return 'tensor'

        def encodes(self, x: TensorImage):  # noqa: F811
            return 'image'

        def encodes(self, x: Any):  # noqa: F811
            return 'anything'
    tfm = Both()
    assert (tfm(image(cls=TensorImageBW)), tfm(torch.ones(1)), tfm(3)) == ('image', 'tensor', 'anything')


def test_decorator_adds_a_type_to_a_class_and_its_subclasses_later():
    """`@SomeTransform def encodes(self, x: T)` extends the class after instances have run."""
    class Base(Transform):
        def encodes(self, x: int):
            return x + 1

    class Child(Base):
        pass
    tfm = Child()
    assert tfm('a') == 'a'

    @Base
    def encodes(self, x: str):
        return x * 2
    assert tfm('a') == 'aa' and tfm(1) == 2


def test_decorator_adds_what_a_class_had_not_and_the_class_above_has_it_not():
    """A first function of its own is the class's alone; what it has from above goes on."""
    class Base(Transform):
        def encodes(self, x: int):
            return x + 1

    class Child(Base):
        pass

    @Child
    def encodes(self, x: str):
        return x * 2

    @Child
    def decodes(self, x: str):
        return x[:len(x) // 2]
    tfm, above = Child(), Base()
    assert (tfm('a'), tfm(1), tfm.decode('aa')) == ('aa', 2, 'a')
    assert (above('a'), above(1), above.decode('aa')) == ('a', 2, 'aa')


def test_what_else_a_transform_is_called_with_reaches_its_functions():
    """By position or by name, encoding and decoding, for each element of a sample."""
    class Scale(Transform):
        def encodes(self, x: int, by, plus=0):
            return x * by + plus

        def decodes(self, x: int, by, plus=0):
            return (x - plus) // by
    tfm = Scale()
    assert (tfm(3, 2), tfm(3, by=2), tfm(3, 2, plus=1), tfm((3, 4), 2, 1)) == (6, 6, 7, (7, 9))
    assert (tfm.decode(7, 2, 1), tfm.decode((7, 9), 2, plus=1)) == (3, (3, 4))
    assert Transform(lambda x, by: x * by)(3, 2) == 6

    class Repeat(Transform):
        @staticmethod
        def encodes(x: str, by=1):
            return x * by
    again = Repeat()
    assert (again('ab', 2), again('ab', by=2), again.encodes('ab', 2), again.encodes('ab', by=2)) == ('abab',) * 4
    assert (tfm.encodes(3, by=2), tfm.decodes(7, 2, plus=1)) == (6, 3)


def test_decorator_on_another_name_is_refused():
    """A function with `self` that is no way of encoding is a mistake."""
    with pytest.raises(TypeError, match='encodes, decodes, setups'):
        @Halve
        def encode(self, x: int):
            return x


@pytest.mark.parametrize('cls', [TensorImage, TensorImageBW, TensorMask])
def test_result_keeps_the_marker_of_its_argument(cls):
    """A plain tensor computed from a marker is marked again, attributes included."""
    x = cls(torch.ones(2, 2))
    x.img_size = (2, 2)
    out = Transform(lambda t: t.as_subclass(torch.Tensor) + 1)(x)
    assert type(out) is cls and out.img_size == (2, 2)


def test_result_annotation_decides_over_the_argument():
    """`-> T` marks as T, `-> None` leaves the result alone."""
    def as_mask(x: TensorImage) -> TensorMask:
        return x + 0

    def plain(x: TensorImage) -> None:
        return x + 0
    assert type(Transform(as_mask)(image())) is TensorMask
    assert type(Transform(plain)(image())) is torch.Tensor


def test_retain_gives_the_class_that_is_told():
    """`returns`: that one, None: the result as it is; without it that of the argument."""
    new, old = torch.ones(2, 2), image()
    assert type(retain(new, old)) is TensorImage and type(retain(new, old, returns=TensorMask)) is TensorMask
    assert retain(new, old, returns=None) is new


def test_result_numbers_are_never_cast():
    """True + 2 is 3, not True."""
    assert Transform(lambda x: x + 2)(True) == 3


def test_pil_result_keeps_its_class():
    """A function that returns one of Pillow's own pictures gives back the subclass it got."""
    from minifast.vision.core import PILImage
    flip = Transform(lambda im: Image.fromarray(np.asarray(im)[::-1].copy()))
    out = flip(PILImage.create(np.zeros((4, 5, 3), np.uint8)))
    assert type(out) is PILImage and out.size == (5, 4)


def test_split_idx_limits_where_a_transform_runs():
    """0: training only; 1: validation only; None: both."""
    tfm = Transform(lambda x: x + 1, split_idx=0)
    assert [tfm(1, split_idx=i) for i in (0, 1, None)] == [2, 1, 1]
    pipeline = Pipeline([tfm, lambda x: x * 10])
    assert pipeline(1) == 10
    pipeline.split_idx = 0
    assert pipeline(1) == 20


def test_a_pass_calls_a_transform_only_where_it_has_something_to_do():
    """In the other split it is no step; it is handed what it asks for; a call of its own is always made."""
    class OfTraining(Halve):
        split_idx = 0

    class Decides(OfTraining):
        def __call__(self, x, split_idx=None, **kwargs):
            return 'called', split_idx

    class Asks(Transform):
        def encodes(self, x: int, target=None):
            return target
    assert OfTraining().step(1) is None and Halve().step(1).call(3) == OfTraining().step(0).call(3) == 30
    assert [Decides().step(i).call(3) for i in (0, 1)] == [('called', 0), ('called', 1)]
    step = Asks().step(None)
    assert step.takes == ('target',) and step.call(3, target='there') == 'there'


def test_item_transform_sees_the_whole_sample():
    """An ItemTransform is given all elements at once and returns a sample."""
    class Swap(ItemTransform):
        def encodes(self, xy):
            x, y = xy
            return y, x
    assert Swap()((1, 2)) == (2, 1)


@pytest.mark.parametrize('back', [tuple, list, L], ids=lambda t: t.__name__)
def test_item_transform_keeps_the_kind_of_a_sample(back):
    """Of a class of the user's, whatever the elements come back in; one thing alone, and what keeps nothing, stays."""
    class Sample(tuple):
        pass

    class Swap(ItemTransform):
        def encodes(self, xy):
            assert type(xy) is list
            return back([xy[1], xy[0]])

        def decodes(self, xy):
            return back([xy[1], xy[0]])

    class Bare(Swap):
        _retain = False

    class First(ItemTransform):
        def encodes(self, xy):
            return xy[0]
    for kind in (tuple, Sample):
        for found in (Swap()(kind((1, 2))), Swap().decode(kind((1, 2)))):
            assert type(found) is kind and found == (2, 1)
        assert First()(kind((1, 2))) == 1 and type(Bare()(kind((1, 2)))) is back


def test_inplace_transform_returns_what_it_was_given():
    """The result of an InplaceTransform is its argument."""
    class Append(InplaceTransform):
        def encodes(self, x: list):
            x.append(1)
    x = []
    assert Append()(x) is x and x == [1]


def test_pipeline_sorts_by_order_and_decodes_backwards():
    """Stable by `order`; decode is the mirror image."""
    first = Transform(lambda x: x + 1, lambda x: x - 1, order=1)
    last = Transform(lambda x: x * 2, lambda x: x / 2, order=2)
    pipeline = Pipeline([last, first])
    assert list(pipeline.fs) == [first, last]
    assert pipeline(3) == 8 and pipeline.decode(8) == 3
    assert compose_tfms(3, [first, last]) == 8


def test_decoding_goes_only_as_far_as_it_takes_to_show():
    """Unless it is `full`: what can show itself, or a sample of such, is left as it is; anything else goes back."""
    class Tenfold(Transform):
        def encodes(self, x: torch.Tensor):
            return x * 10

        def decodes(self, x: torch.Tensor):
            return x / 10
    pipe, x = Pipeline([Tenfold()]), image(60.)
    for shown in (x, (x, x)):
        assert pipe.decode(shown, full=False) is shown
    assert pipe.decode(x)[0, 0, 0] == 6 and pipe.decode((x, x))[1][0, 0, 0] == 6
    back = pipe.decode((x, torch.tensor(20.)), full=False)
    assert back[0][0, 0, 0] == 6 and back[1] == 2


def test_pipeline_prints_its_names():
    """`Pipeline: a -> b`, transforms with arguments show them."""
    def double(x):
        return x
    assert repr(Pipeline([double, IntToFloatTensor(), ToTensor])) == (
        f"Pipeline: {double.__qualname__} -> ToTensor -> IntToFloatTensor -- {{'div': 255.0, 'div_mask': 1}}")


def test_pipeline_finds_attributes_on_its_transforms():
    """`pipeline.vocab` and `pipeline.categorize`; a miss names who was asked."""
    pipeline = Pipeline([str, Categorize(vocab=['b', 'a'])])
    assert list(pipeline.vocab) == ['a', 'b'] and pipeline.categorize is pipeline[1]
    with pytest.raises(AttributeError, match='Pipeline'):
        pipeline.nothing
    assert not hasattr(pipeline, '_private')


def test_pipeline_setup_gives_each_transform_the_items_as_the_ones_before_leave_them():
    """Categorize behind a labeller sees labels."""
    from minifast.data.core import TfmdLists
    lists = TfmdLists([1, 12, 3], [lambda x: len(str(x)), Categorize()])
    assert list(lists.vocab) == [1, 2] and lists[1] == 1


class Parted(list):
    """Items of which the first two are for training."""

    @property
    def train(self):
        return self[:2]


class Seen(Transform):
    def setups(self, items):
        self.items = list(items)


class SeenTraining(Seen):
    train_setup = True


def test_setup_shows_the_training_items_alone_where_it_is_told_so():
    """By `train_setup`, of one transform or of a pipeline; what the class says comes first."""
    alone, first, items = Seen(), SeenTraining(), Parted('abc')
    for train_setup, seen in ((True, ['a', 'b']), (False, ['a', 'b', 'c'])):
        alone.setup(items, train_setup)
        Pipeline([together := Seen()]).setup(items, train_setup=train_setup)
        first.setup(items, train_setup)
        assert (alone.items, together.items, first.items) == (seen, seen, ['a', 'b'])


def test_pipeline_of_items_hands_samples_over_whole():
    """`as_item`, also where a pass calls its steps; else each element by itself."""
    def told(x):
        return f'{x}!'
    for as_item, wanted in ((True, '[1, 2]!'), (None, ('1!', '2!'))):
        pipeline = Pipeline(told, as_item=as_item)
        step, = pipeline.steps()
        assert pipeline((1, 2)) == step.call((1, 2)) == wanted


def test_mk_transform_takes_types_functions_and_refuses_the_rest():
    """A transform class is instantiated, a function wrapped, a number refused."""
    assert isinstance(mk_transform(ToTensor), ToTensor) and mk_transform(len)('abc') == 3
    with pytest.raises(TypeError, match='3 is no transform'):
        mk_transform(3)


def test_unresolvable_annotation_is_explained():
    """With postponed annotations a class that only a function knows cannot be found, and the error says what to do."""
    class Local:
        pass
    with pytest.raises(TypeError, match='module level'):
        class Uses(Transform):
            def encodes(self, x: 'Local'):
                return x


def test_an_annotation_that_chooses_nothing_need_not_be_found():
    """That of a result, and those of a function, which is applied to whatever comes; another one of them still is."""
    class Adds(Transform):
        def encodes(self, x: int) -> 'NowhereToBeFound':  # noqa: F821
            return x + 1
    assert Adds()(1) == 2 and Adds()('a') == 'a'

    def halve(x: 'NowhereToBeFound'):  # noqa: F821
        return x / 2
    assert mk_transform(halve)(3) == 1.5 and Transform(halve)(3) == 1.5


def test_transforms_travel_between_processes():
    """Pickling keeps functions and settings."""
    tfm = pickle.loads(pickle.dumps(Pipeline([Transform(len), Categorize(vocab=['a', 'b'])])))
    assert tfm[0]('abc') == 3 and list(tfm.vocab) == ['a', 'b']


# ---------------------------------------------------------------- randomness

class Keyed(RandTransform):
    supports = (int,)

    def draw(self, sample, split_idx, generator):
        return int(torch.randint(1000, (), generator=generator))

    def apply(self, x, params):
        return x + params


class Stateful(RandTransform):
    def before_call(self, b, split_idx):
        super().before_call(b, split_idx)
        self.amount = 5

    def encodes(self, x: int):
        return x + self.amount


def test_rand_transform_draws_once_for_all_parts():
    """Both ints of a sample get the same number, the text passes, and the generator alone decides."""
    runs = [Keyed()((0, 0, 'a'), split_idx=0, generator=keyed_generator(1, 2)) for _ in range(2)]
    assert runs[0] == runs[1] and runs[0][0] == runs[0][1] and runs[0][2] == 'a'
    assert Keyed()((0,), split_idx=1) == (0,)


def test_pipeline_hands_the_generator_to_what_draws():
    """What it draws is the generator's alone; the others are called as ever."""
    def drawn(seed):
        return Pipeline([Keyed(), Seen()])(0, split_idx=0, generator=keyed_generator(seed))
    assert drawn(1) == drawn(1) == Keyed()(0, split_idx=0, generator=keyed_generator(1)) != drawn(2)


class Plain(Keyed):
    """Computes on plain values: what comes out is of no class of its own."""

    supports = (TensorImage, PILImage)

    def apply(self, x, params):
        return x.as_subclass(torch.Tensor) + 1 if isinstance(x, torch.Tensor) else Image.fromarray(255 - np.array(x))


def test_rand_transform_gives_back_the_class_of_its_argument():
    """A picture in, the same kind of picture out, whatever `apply` computes with."""
    opened = PILImage.create(np.zeros((2, 2, 3), np.uint8))
    for x in (image(), image(cls=TensorImageBW), opened):
        assert type(Plain()(x, split_idx=0)) is type(x)
    assert np.asarray(Plain()(opened, split_idx=0)).min() == 255


def test_rand_transform_keeps_the_kind_of_a_sample():
    """A sample of a class of the user's, within another one, too; a named tuple is an item, and no sample."""
    class Sample(tuple):
        pass
    Named = collections.namedtuple('Named', 'a b')
    x = Sample((1, 'a', Sample((2, 'b')), (3,), Named(4, 5)))
    made = Keyed()(x, split_idx=0)
    assert [type(o) for o in (made, *made)] == [Sample, int, str, Sample, tuple, Named]
    moved, = {made[0] - 1, made[2][0] - 2, made[3][0] - 3}
    assert moved and made == (1 + moved, 'a', (2 + moved, 'b'), (3 + moved,), (4, 5))


def test_rand_transform_that_draws_takes_functions_for_further_types():
    """Given to an instance, or added to a class; the annotation of the result decides about its class."""
    def mask(x: float) -> TensorMask:
        return torch.full((1,), x)

    class Wider(Keyed):
        pass

    @Wider
    def encodes(self, x: str) -> TensorImage:
        return torch.ones(len(x))
    given, added = Keyed(enc=mask)((3., 'ab'), split_idx=0), Wider()((3., 'ab'), split_idx=0)
    assert type(given[0]) is TensorMask and given[0].tolist() == [3.] and given[1] == 'ab'
    assert type(added[1]) is TensorImage and added[1].tolist() == [1., 1.] and added[0] == 3.
    assert Keyed(enc=mask)(0, split_idx=0, generator=keyed_generator(1)) == Keyed()(
        0, split_idx=0, generator=keyed_generator(1))


def test_rand_transform_before_call_style():
    """`before_call` sets the state that `encodes` reads; `p` decides whether anything happens."""
    assert Stateful()((1, 'a'), split_idx=0) == (6, 'a')
    assert Stateful(p=0.)((1, 'a'), split_idx=0) == (1, 'a')


def test_rand_transform_refuses_unknown_arguments():
    """A mistyped keyword names the near one."""
    for cls in (RandTransform, Stateful):
        with pytest.raises(TypeError, match=rf"^{cls.__name__}\(\) got .* 'split_id', did you mean 'split_idx'"):
            cls(split_id=0)


def test_is_known_only_where_all_randomness_is_ours():
    """Ours are; anything that runs user code or torchvision's is not."""
    from minifast.vision.augment import FlipItem
    assert is_known(Pipeline([ToTensor, FlipItem(), Categorize(), len]))
    for unknown in (lambda x: x, Keyed(), Stateful(), v2.RandomHorizontalFlip(), torch.rand, Halve()):
        assert not is_known(mk_transform(unknown)), unknown


class Tenth(Transform):
    keyed = True

    def encodes(self, x: int):
        return x / 10


class Jitter(Transform):
    keyed = True

    def encodes(self, x: int, generator=None):
        return x + int(torch.randint(1000, (), generator=generator))


class Draws(Keyed):
    keyed = True


def test_transforms_of_the_user_are_known_where_they_say_so():
    """Of a class by itself, of a function by the decorator; who has an argument `generator` is handed one."""
    @keyed
    def _label(x):
        return x
    assert all(map(is_known, (Tenth(), Jitter(), Draws(), mk_transform(_label), Pipeline([Tenth, _label]))))
    assert (Jitter.takes_generator, Draws.takes_generator, Tenth.takes_generator) == (True, True, False)
    pipeline = Pipeline([Tenth(), Jitter()])
    made = [pipeline(5, split_idx=0, generator=keyed_generator(1, 2)) for _ in range(2)]
    assert made[0] == made[1] and Jitter()(5, generator=keyed_generator(1, 2)) >= 5


def test_what_was_declared_of_one_thing_is_not_said_of_another():
    """Neither of a class derived from it, nor of functions added to it later, nor of a function that wraps another."""
    @keyed
    def _label(x):
        return x

    @functools.wraps(_label)
    def _wrapper(x):
        return _label(x) + random.random()

    class Derived(Tenth):
        def encodes(self, x: float):
            return x + random.random()

    class Added(Transform):
        keyed = True

        def encodes(self, x: int):
            return x

    class Cropped(transforms.ToTensor):
        pass

    class Stated(Stateful):
        keyed = True
    assert is_known(Added())

    @Added
    def encodes(self, x: float):
        return x + random.random()
    for unknown in (Derived(), Added(), Cropped(), Stated(), mk_transform(_wrapper)):
        assert not is_known(unknown), unknown


def test_every_transform_of_ours_is_keyed():
    """But for the way that users' own random transforms are written, and torchvision's."""
    from minifast.vision import all as everything
    classes, ours = [Transform], {}
    while classes:
        cls = classes.pop()
        classes += cls.__subclasses__()
        if cls.__module__.startswith('minifast.'):
            ours[cls.__name__] = cls.keyed
    assert everything and len(ours) > 45 and {name for name in ours if not ours[name]} == {'TorchvisionTransform'}


# ---------------------------------------------------------------- torchvision

def test_torchvision_v2_moves_picture_mask_and_boxes_together():
    """One draw: a flip flips all parts of a sample or none, the label passes, markers stay."""
    from minifast.vision.core import PILImage, PILMask
    from minifast.vision.core import TensorBBox, TensorPoint
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[:, 0] = 255
    mask = np.zeros((4, 6), np.uint8)
    mask[:, 0] = 1
    sample = (PILImage.create(pixels), PILMask.create(mask), TensorPoint.create([[0., 1.]]),
              TensorBBox.create([[0., 0., 1., 2.]]), TensorCategory(torch.tensor(3)))
    im, m, point, box, label = Pipeline([v2.RandomHorizontalFlip(1.), ToTensor])(sample)
    assert type(im) is TensorImage and im[0, 0, -1] == 255 and im[0, 0, 0] == 0
    assert type(m) is TensorMask and m[0, -1] == 1 and m[0, 0] == 0
    assert type(box) is TensorBBox and box.tolist() == [[5., 0., 6., 2.]]
    assert type(point) is TensorPoint and point[0, 0] >= 5 and label == 3


def test_torchvision_v1_is_given_the_pictures_only():
    """The older transforms know one picture; the label passes."""
    tfm = mk_transform(v1.ToTensor())
    x, y = tfm((Image.new('RGB', (4, 3)), TensorCategory(torch.tensor(1))))
    assert type(x) is TensorImage and x.shape == (3, 3, 4) and y == 1


def test_torchvision_batch_transform_leaves_labels():
    """On a batch the pictures are transformed and the int64 labels stay as they are."""
    x, y = TensorImage(torch.randint(0, 255, (4, 3, 8, 8), dtype=torch.uint8)), TensorCategory(torch.arange(4))
    flipped, labels = mk_transform(v2.RandomHorizontalFlip(1.))((x, y))
    assert torch.equal(flipped.as_subclass(torch.Tensor), x.as_subclass(torch.Tensor).flip(-1))
    assert torch.equal(labels, y) and type(labels) is TensorCategory


@pytest.mark.parametrize('tfm', [v1.RandomHorizontalFlip(1.), v2.RandomHorizontalFlip(1.)], ids=['v1', 'v2'])
def test_torchvision_gives_back_what_it_was_given(tfm):
    """A lone picture is a picture again, a sample of one a sample of one."""
    held, tensor = Image.new('RGB', (4, 3)), image()
    for x in (held, tensor):
        assert type(mk_transform(tfm)(x)) is type(x)
        made = mk_transform(tfm)((x,))
        assert type(made) is tuple and [type(part) for part in made] == [type(x)]


# ---------------------------------------------------------------- typedispatch

def test_a_table_chooses_by_as_many_arguments_as_it_is_told_and_looks_in_its_parents():
    """`n_args`; what has no function of its own is the nearest parent's."""
    def number(x: int):
        return 'number'

    def any_number(x: int):
        return 'any number'

    def words(x: str, y: str):
        return 'words'

    def mixed(x: str, y: int = 0):
        return 'mixed'
    near, far = Overloads('f').add(number), Overloads('f').add(any_number)
    table = Overloads('f', parents=(near, far)).add(mixed)
    swapped = Overloads('f', parents=(far, near)).add(mixed)
    assert (table(1), table('a'), swapped(1)) == ('number', 'mixed', 'any number')
    with pytest.raises(TypeError, match='no function for .int.'):
        Overloads('f').add(mixed)(1)
    by_one, by_two = (Overloads('f', n_args=n).add(mixed).add(words) for n in (1, 2))
    assert (by_one('a', 1), by_two('a', 1), by_two('a', 'b')) == ('words', 'mixed', 'words')


def test_typedispatch_chooses_by_all_annotated_arguments():
    """The nearest types win, argument by argument; a later function of the same types replaces the earlier."""
    @typedispatch
    def fancy_show(x, y):
        return 'any'

    @typedispatch
    def fancy_show(x: TensorImage, y):  # noqa: F811
        return 'image'

    @typedispatch
    def fancy_show(x: TensorImage, y: TensorMask):  # noqa: F811
        return 'mask'
    mask = TensorMask(torch.ones(2, 2))
    assert (fancy_show(1, 2), fancy_show(image(), 2), fancy_show(image(), mask)) == ('any', 'image', 'mask')

    @typedispatch
    def fancy_show(x: TensorImage, y):  # noqa: F811
        return 'newer'
    assert fancy_show(image(), 2) == 'newer'


class Sized(Protocol):
    """A protocol that `isinstance` may not ask about."""

    def __len__(self): ...


def test_typedispatch_knows_classes_by_what_they_can_do():
    """Abstract classes and protocols of Python, further than any base and nearer than anything."""
    @typedispatch
    def told(x):
        return 'any'

    @typedispatch
    def told(x: collections.abc.Sized):  # noqa: F811
        return 'sized'

    @typedispatch
    def told(x: Sized):  # noqa: F811
        return 'never'
    assert [told(x) for x in ('ab', [], {}, image(), 3)] == ['sized'] * 4 + ['any']

    @typedispatch
    def told(x: torch.Tensor):  # noqa: F811
        return 'tensor'
    assert [told(x) for x in (image(), 'ab', 3)] == ['tensor', 'sized', 'any']


Length = NewType('Length', int)


@pytest.mark.parametrize('hint, taken', [
    (Literal['a'], [3, 'a', len]), (Length, [3, 'a', len]), (Any, [3, 'a', len]), (Callable, [len]),
    (collections.abc.Callable, [len]), (Optional[int], [3]), (Annotated[str, 'a name'], ['a']), (list[int], []),
    (TypeVar('T', bound=str), ['a']), (TypeVar('T'), [3, 'a', len])], ids=str)
def test_an_annotation_takes_things_of_the_classes_that_it_stands_for(hint, taken):
    """One that stands for none takes anything, as none at all does."""
    def encodes(x):
        return 'taken'
    encodes.__annotations__['x'] = hint
    tfm = Transform(encodes)
    assert [x for x in (3, 'a', len) if tfm(x) == 'taken'] == taken


def test_a_function_of_a_table_is_taken_out_by_its_classes():
    """As plugins do to show their own types in the way of all others; the arguments left out may be anything."""
    @typedispatch
    def plain_show(x, y):
        return 'any'

    @typedispatch
    def plain_show(x: TensorImage, y):  # noqa: F811
        return plain_show[object](x, y) + ' image'
    assert plain_show(image(), 2) == 'any image' and plain_show[TensorImage](1, 2) == 'any image'
    assert plain_show[TensorMask, int](1, 2) == 'any'
    with pytest.raises(KeyError, match='_plain_typed has no function for .str.'):
        typedispatch(_plain_typed)[str]


def _plain_typed(x: int):
    return x


# ---------------------------------------------------------------- as data

@pytest.mark.parametrize('tfm', [
    ToTensor(), IntToFloatTensor(div_mask=2), Normalize.from_stats([0.1, 0.2, 0.3], [1., 2., 3.], cuda=False),
    Categorize(vocab=['b', 'a']), Categorize(vocab=['b', 'a'], sort=False), Categorize(vocab=['b'], add_na=True),
    MultiCategorize(vocab=['b', 'a'])], ids=lambda t: type(t).__name__)
def test_transform_config_makes_the_same_transform_again(tfm):
    """Through json and back: the same class and attributes."""
    import json
    again = transform_from_config(json.loads(json.dumps(transform_config(tfm))))
    assert type(again) is type(tfm)
    for name, value in vars(tfm).items():
        other = vars(again)[name]
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(other, value)
        elif name == 'vocab':
            assert list(other) == list(value) and other.o2i == value.o2i


def test_transform_config_of_our_functions_and_refusal_of_the_users():
    """Functions of ours go by name; code of the user's is refused with a sentence."""
    config = transform_config(mk_transform(transforms.parent_label))
    assert config == {'function': 'minifast.parent_label'}
    assert transform_from_config(config)('a/b/c.png') == 'b'
    for user in (lambda x: x, Halve(), v2.Identity(), Keyed()):
        with pytest.raises(TypeError, match='code of your own'):
            transform_config(mk_transform(user))


@pytest.mark.parametrize('wrap', [lambda x: x, lambda x: [x], lambda x: ([x],), lambda x: {'a': x},
                                  lambda x: {'a': [1, {'b': x}]}])
def test_a_value_that_is_no_data_is_told_with_its_transform_however_deep(wrap):
    """The export names whom to look at."""
    tfm = IntToFloatTensor()
    tfm.div = wrap(1j)
    with pytest.raises(TypeError, match=r'^IntToFloatTensor was made with 1j, which cannot be written as data$'):
        transform_config(tfm)



@pytest.mark.parametrize('name', ['minifast.ToTensor', 'minifast.data.transforms.ToTensor',
                                  'minifast.vision.somewhere.ToTensor'])
def test_names_in_files_are_those_of_things_not_of_rooms(name):
    """What is written has no room in it; files that name one are read, whatever has become of it."""
    assert type(transform_from_config({'class': name, 'kwargs': {}})) is ToTensor
    assert transform_config(ToTensor()) == {'class': 'minifast.ToTensor', 'kwargs': {'order': 5}}


@pytest.mark.parametrize('name', ['ToTensor', 'minifast.a.b.c.ToTensor', 'minifast.cli.ToTensor', 'minifast..ToTensor',
                                  'other.ToTensor', 'minifast.ToTensor.encodes', 'minifast.ToTensor.create',
                                  'minifast.Halve', 'minifast._Target', 'minifast.ByteTable', 'minifast.ToTensor\n',
                                  'minifast.vision.all.ToTensor', 'minifast.PILImage', 'minifast.parent_label'])
def test_names_of_nothing_registered_are_refused(name):
    """Chains, other packages, classes of the user's, and things that are no transform."""
    with pytest.raises(ValueError, match='is no transform of minifast'):
        transform_from_config({'class': name, 'kwargs': {}})


def test_a_name_in_files_stands_for_one_thing():
    """A second one of that name is refused, so a class of the user's never takes the place of ours."""
    class ToTensor(transforms.ToTensor):
        pass
    with pytest.raises(ValueError, match="'ToTensor' stands for"):
        registered(ToTensor)
    with pytest.raises(TypeError, match='code of your own'):
        transform_config(ToTensor())


@pytest.mark.parametrize('config', [
    {'function': 'os.system'}, {'class': 'builtins.eval', 'kwargs': {}},
    {'function': 'minifast.data.transforms.os.remove'}, {'class': 'minifast.learner.Learner', 'kwargs': {}},
    {'function': 'minifast.data.external.untar_data'}, {'class': 'minifast.data.transforms.Nothing', 'kwargs': {}},
    {'function': 'minifast.data.load.DataLoader.__class__'},
    {'class': 'minifast.data.transforms.get_files', 'kwargs': {'path': '/'}}])
def test_transform_from_config_makes_nothing_but_transforms_of_minifast(config):
    """A hostile description is refused before anything is called."""
    with pytest.raises(ValueError):
        transform_from_config(config)


def test_displayed_transform_shows_its_arguments():
    """The name carries the constructor's arguments, tensors as their numbers."""
    class Shown(DisplayedTransform):
        def __init__(self, a, b=2):
            super().__init__()
            self.a, self.b = a, b
    assert Shown(torch.tensor([1.])).name == "Shown -- {'a': [1.0], 'b': 2}"


def test_what_merely_bears_the_name_of_one_of_ours_is_not_ours():
    """An object of the user's that was told to look like a function of this package."""
    class Noisy:
        def __init__(self, f):
            functools.update_wrapper(self, f)

        def __call__(self, x):
            return x + np.random.rand()
    assert Noisy(transforms.get_image_files).__module__.startswith('minifast')
    assert not is_known(mk_transform(Noisy(transforms.get_image_files)))
