"""Pictures as Pillow images and tensors: created from anything, shown, kept in their class, and never written
through."""
from __future__ import annotations

import copy
import io
import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from minifast.data.collate import Target
from minifast.data.config import transform_config, transform_from_config
from minifast.data.transforms import ToTensor
from minifast.markers import TensorImage, TensorImageBW, TensorMask, TensorMultiCategory, array
from minifast.vision.core import (AddMaskCodes, BBoxLabeler, LabeledBBox, OpenImage, OpenMask, PILBase, PILImage,
                                  PILImageBW, PILMask, PointScaler, TensorBBox, TensorPoint, get_annotations,
                                  gives_methods_to, image2tensor, load_image, picture_size, to_augment, to_image)

PIXELS = np.random.RandomState(0).randint(0, 256, (12, 20, 3), np.uint8)


def _png(pixels: np.ndarray = PIXELS) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, 'PNG')
    return file.getvalue()


@pytest.mark.parametrize('source', [
    'path', 'str', 'bytes', 'file', 'pillow', 'array', 'tensor', 'marked', 'float', 'float array', 'itself'])
def test_create_from_anything_gives_the_same_picture(source, tmp_path):
    """Path, text, bytes, open file, Pillow image, array and tensors of either kind are one and the same."""
    path = tmp_path / 'x.png'
    path.write_bytes(_png())
    planes = torch.from_numpy(PIXELS).permute(2, 0, 1)
    sources = {'path': path, 'str': str(path), 'bytes': _png(), 'file': io.BytesIO(_png()),
               'pillow': Image.fromarray(PIXELS), 'array': PIXELS, 'tensor': torch.from_numpy(PIXELS),
               'marked': TensorImage(planes), 'float': TensorImage(planes / 255), 'float array': PIXELS / 255,
               'itself': PILImage.create(PIXELS)}
    im = PILImage.create(sources[source])
    assert type(im) is PILImage and im.mode == 'RGB' and np.array_equal(im, PIXELS)
    assert (im.size, im.shape, im.n_px, im.aspect) == ((20, 12), (12, 20), 240, 20 / 12)


def test_classes_open_in_their_own_mode_and_become_their_own_tensor():
    """Colour, grey and mask: modes, tensor types and shapes."""
    expected = {PILImage: (TensorImage, (3, 12, 20)), PILImageBW: (TensorImageBW, (1, 12, 20)),
                PILMask: (TensorMask, (12, 20))}
    for cls, (marker, shape) in expected.items():
        x = ToTensor()(cls.create(_png(PIXELS[..., 0] if cls is PILMask else PIXELS)))
        assert type(x) is marker and tuple(x.shape) == shape and x.dtype == torch.uint8
    assert PILImage.create(_png(), mode='L').mode == 'L' and load_image(_png(), mode='RGBA').mode == 'RGBA'


@pytest.mark.parametrize('kept', [False, True], ids=['without a cache', 'with one'])
def test_a_loader_opens_files_through_the_cache_that_it_has_and_anything_else_without(kept, tmp_path):
    """The picture is the same, and its pixels may go where the batch is made."""
    asked = []

    class Kept:
        def open(self, fn, create, wrap):
            asked.append(fn)
            return create(fn)
    path, slots = tmp_path / 'x.png', object()
    path.write_bytes(_png())
    target = Target(slots, Kept() if kept else None)
    for source in (path, str(path), _png(), PIXELS):
        im = OpenImage(PILImage).encodes(source, target)
        assert type(im) is PILImage and np.array_equal(im, PIXELS) and im.slots is slots
    assert asked == ([path, str(path)] if kept else [])


def test_user_subclass_has_its_say():
    """`_open_args`, `_show_args`, `_tensor_cls` and `show` of a subclass are used, and operations keep its class."""
    class Inverted(PILBase):
        _open_args, _show_args, _tensor_cls = {'mode': 'L'}, {'cmap': 'bone'}, TensorImageBW

        def show(self, ctx=None, **kwargs):
            return super().show(ctx=ctx, title='mine', **kwargs)

    im = Inverted.create(_png())
    assert im.mode == 'L' and type(im.resize((5, 5))) is Inverted and type(im.copy()) is Inverted
    ax = im.show()
    assert ax.get_title() == 'mine' and ax.images[0].cmap.name == 'bone'
    assert type(ToTensor()(im)) is TensorImageBW


def test_array_behind_a_picture_is_pillows_as_soon_as_pillow_needs_it():
    """Reading through Pillow gives the same pixels; writing changes neither the source nor a picture sharing it."""
    held = PILImage.from_pixels(PIXELS.copy())
    shared = PILImage(held)
    assert held.getpixel((3, 2)) == tuple(PIXELS[2, 3]) and held.pixels is None
    held.putpixel((0, 0), (1, 2, 3))
    assert np.array_equal(shared, PIXELS) and tuple(np.asarray(held)[0, 0]) == (1, 2, 3)
    plain = Image.fromarray(PIXELS)
    cast = PILImage(plain)
    cast.putpixel((0, 0), (1, 2, 3))
    assert np.array_equal(plain, PIXELS)
    for im in (PILImage.create(PIXELS), PILImageBW.create(_png())):
        for again in (pickle.loads(pickle.dumps(im)), copy.deepcopy(im), copy.copy(im), im.copy()):
            assert type(again) is type(im) and np.array_equal(again, im) and again.size == im.size
    assert PILImage.create(PIXELS) == PILImage.create(PIXELS)


@pytest.mark.parametrize('cls, shape', [(PILImage, (6, 4, 3)), (PILImageBW, (6, 4)), (PILMask, (6, 4))])
def test_a_tensor_of_an_array_has_its_pixels_and_may_be_written_to(cls, shape):
    """Colours come first, one where there are none, none for masks; an array that nobody may write to is copied."""
    pixels = np.random.RandomState(1).randint(0, 9, shape, np.uint8)
    for writeable in (True, False):
        given = pixels.copy()
        given.setflags(write=writeable)
        x = cls.from_pixels(given).to_tensor()
        want = torch.from_numpy(pixels.transpose(2, 0, 1) if len(shape) == 3 else pixels)
        assert type(x) is cls._tensor_cls and torch.equal(torch.Tensor(x).reshape(want.shape), want.float())
        x.zero_()
        assert given.any() != writeable


def test_methods_scripts_call_on_pillow_images():
    """`Image.open(...)` has to_thumb and its kin, and nothing of Pillow's own was replaced."""
    im = Image.open(io.BytesIO(_png()))
    assert im.to_thumb(10).size == (10, 6) and im.to_thumb(4, 10).size[1] <= 4 and im.size == (20, 12)
    assert im.shape == (12, 20) and im.reshape(6, 10).size == (10, 6) and im.resize_max(max_h=6).size == (10, 6)
    assert im.resize_max(max_px=60).size == (10, 6) and im.resize_max(max_w=100).size == (20, 12)
    assert Image.open(io.BytesIO(im.to_bytes_format())).size == (20, 12)
    assert np.array_equal(to_image(torch.from_numpy(PIXELS).permute(2, 0, 1)), PIXELS)
    assert to_image(PIXELS / 255).mode == 'RGB' and to_image(np.zeros((4, 4, 4), np.uint8)).mode == 'CMYK'
    assert image2tensor(PIXELS).shape == (3, 12, 20)
    assert repr(PILImage.create(PIXELS)) == 'PILImage mode=RGB size=20x12'


def test_points_and_boxes_scale_to_the_picture_beside_them_and_back():
    """In a sample the picture's size counts, alone `img_size`; without either the message says what to do."""
    im = PILImage.create(PIXELS)
    points, boxes = TensorPoint.create([[5, 3], [20, 12]]), TensorBBox.create([[0, 0, 10, 6]])
    scaler = PointScaler()
    _, scaled, scaled_boxes = scaler((im, points, boxes))
    assert type(scaled) is TensorPoint and type(scaled_boxes) is TensorBBox
    torch.testing.assert_close(scaled.as_subclass(torch.Tensor), torch.tensor([[-.5, -.5], [1., 1.]]))
    torch.testing.assert_close(scaled_boxes.as_subclass(torch.Tensor), torch.tensor([[-1., -1., 0., 0.]]))
    _, again, boxes_again = scaler.decode((TensorImage(torch.rand(3, 12, 20)), scaled, scaled_boxes))
    assert torch.equal(again, points) and torch.equal(boxes_again, boxes)
    assert torch.equal(scaler.decode(scaled), points)
    assert torch.equal(PointScaler(y_first=True)((im, TensorPoint.create([[3, 5]])))[1][0], scaled[0])
    assert torch.equal(PointScaler(do_scale=False)((im, scaled))[1], scaled)
    with pytest.raises(ValueError, match='img_size'):
        scaler(points)


def test_boxes_and_labels_are_shown_together():
    """A decoded sample has its labels beside its boxes; padding is not drawn."""
    labeler = BBoxLabeler()
    labeler.vocab = ['#na#', 'cat', 'dog']
    boxes = TensorBBox(torch.tensor([[1., 1, 5, 5], [2, 2, 9, 9], [0, 0, 0, 0]]))
    sample = (PILImage.create(PIXELS), boxes, TensorMultiCategory(torch.tensor([2, 1, 0])))
    _, _, labeled = labeler.decode(sample)
    assert isinstance(labeled, LabeledBBox) and labeled.lbl == ['dog', 'cat', '#na#'] and labeled.bbox is boxes
    ax = labeled.show(ctx=sample[0].show())
    assert [t.get_text() for t in ax.texts] == ['dog', 'cat'] and len(ax.patches) == 2
    ax = TensorPoint.create([[3, 4]]).show(ctx=sample[0].show())
    assert ax.collections[0].get_offsets().tolist() == [[3, 4]]


def test_get_annotations_reads_coco(tmp_path):
    """Boxes become corners; pictures without any are left out."""
    (tmp_path / 'a.json').write_text(json.dumps({
        'categories': [{'id': 1, 'name': 'cat'}, {'id': 2, 'name': 'dog'}],
        'images': [{'id': 7, 'file_name': 'x.jpg'}, {'id': 8, 'file_name': 'y.jpg'}],
        'annotations': [{'image_id': 7, 'category_id': 2, 'bbox': [1, 2, 3, 4]},
                        {'image_id': 7, 'category_id': 1, 'bbox': [0, 0, 1, 1]}]}))
    names, labelled = get_annotations(tmp_path / 'a.json', prefix='p/')
    assert names == ['p/x.jpg'] and labelled == [([[1, 2, 4, 6], [0, 0, 1, 1]], ['dog', 'cat'])]


def test_masks_know_their_codes_and_openers_survive_as_data():
    """Codes give vocab and c; what opens our classes can be exported, what opens the user's says why not."""
    tfm = AddMaskCodes(['sky', 'road'])
    assert tfm.c == 2 and tfm.decode(TensorMask(torch.zeros(2, 2))).codes == ['sky', 'road']
    grey = _png(PIXELS[..., 0])
    for opener in (OpenImage(PILImageBW), OpenMask()):
        again = transform_from_config(json.loads(json.dumps(transform_config(opener))))
        assert type(again) is type(opener) and again.kind is opener.kind
        assert np.array_equal(again(grey), opener(grey))
    with pytest.raises(TypeError, match='code of your own'):
        transform_config(OpenImage(type('Own', (PILImage,), {})))


def test_array_takes_pictures_generators_and_lists():
    """As `np.array` does, and what is no sequence is gone through."""
    mask = PILMask.create(np.eye(4, dtype=np.uint8))
    assert np.array_equal(array(mask), np.eye(4)) and array(mask).dtype == np.uint8
    assert array(i * i for i in range(3)).tolist() == array([0, 1, 4]).tolist() == [0, 1, 4]
    assert array(torch.ones(2, 3)).shape == (2, 3) and array(5.).shape == ()


# ---------------------------------------------------------------- one way in for a picture

class Fourfold(PILImage):
    """A class of the user's own, with transparency."""

    _open_args = {'mode': 'RGBA'}


def _colours():
    a = np.zeros((12, 20, 3), np.uint8)
    a[:6, :, 0], a[:, :8, 1], a[8:, 16:, 2], a[2:5, 2:9] = 250, 220, 255, (120, 90, 200)
    return a


def _in_mode(mode):
    a = _colours()
    if mode == 'P transparent':
        im = Image.fromarray(a).quantize(6)
        im.info['transparency'] = 2
        return im
    if mode in ('I;16', 'I', 'F'):
        return Image.fromarray({'I;16': a[..., 0].astype(np.uint16) * 257, 'I': a[..., 0].astype(np.int32) * 257,
                                'F': (a[..., 0] / 255).astype(np.float32)}[mode])
    if mode == 'LAB':
        return Image.merge('LAB', Image.fromarray(a).split())
    im = Image.fromarray(a).convert({'La': 'LA', 'RGBa': 'RGBA'}.get(mode, mode))
    return im.convert(mode) if im.mode != mode else im


def _save(im, path, **kwargs):
    file = path / ('p.tif' if im.mode in ('I;16', 'I', 'F', 'CMYK', 'YCbCr', 'LAB') else 'p.png')
    im.save(file, **kwargs)
    return file


MODES = ('RGB', 'L', 'P', 'P transparent', '1', 'I;16', 'I', 'F', 'LA', 'RGBA', 'CMYK', 'YCbCr', 'LAB')


@pytest.mark.filterwarnings('ignore:.*holds colours and no codes')
@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('cls', (PILImage, PILImageBW, PILMask, Fourfold))
@pytest.mark.parametrize('orientation', (1, 6))
def test_every_form_of_a_picture_gives_the_pixels_of_its_file(mode, cls, orientation, tmp_path):
    """File, bytes, BytesIO, opened (read or not yet) and its array: one mode, upright once, and so on for a copy."""
    if cls is PILMask and mode in ('I;16', 'I', 'F'):
        return  # codes above 255
    if orientation != 1 and mode in ('I;16', 'CMYK'):
        return  # TIFF by Pillow's memory map, which mistakes turned pictures
    im, exif = _in_mode(mode), Image.Exif()
    exif[0x0112] = orientation
    file = _save(im, tmp_path, exif=exif)
    want = cls.create(file)
    assert want.mode == cls._open_args['mode'] and want.size == ((20, 12) if orientation == 1 else (12, 20))
    stream, read = io.BytesIO(file.read_bytes()), Image.open(file)
    read.load()
    forms = {'str': str(file), 'bytes': file.read_bytes(), 'stream': stream, 'stream read once': stream,
             'opened': Image.open(file), 'read': read, 'read before': read, 'ours': want}
    if orientation == 1 and not (cls is PILMask and mode == '1') and mode in ('RGB', 'L', '1', 'I;16', 'LA', 'RGBA'):
        forms['array'] = np.array(im)
        forms['tensor'] = torch.from_numpy(np.array(im).astype(np.int32 if mode == 'I;16' else np.array(im).dtype))
    for name, form in forms.items():
        made = cls.create(form)
        assert type(made) is cls and made.mode == want.mode, name
        assert np.array_equal(np.array(made), np.array(want)), name


@pytest.mark.parametrize('mode, rgb, grey', (('HSV', 'RGB', 'L'), ('La', 'RGB', 'L'), ('RGBa', 'RGB', 'L')))
def test_opened_pictures_in_modes_no_file_has(mode, rgb, grey):
    """By the way Pillow knows."""
    im = _in_mode(mode)
    for cls, wanted in ((PILImage, rgb), (PILImageBW, grey)):
        assert PILImage.create(im).mode == 'RGB' and cls.create(im).mode == wanted


def test_arrays_of_any_numbers_are_scaled_as_files_are():
    """16 bits and floats by their range, truth values black and white, and as codes 0 and 1 in a mask."""
    bytes_ = _colours()
    for x in (bytes_, bytes_.astype(np.uint16) * 257, bytes_ / 255, (bytes_ / 255).astype(np.float16),
              bytes_.astype(np.int64), bytes_.astype(np.float32), torch.from_numpy(bytes_).permute(2, 0, 1),
              TensorImage(torch.from_numpy(bytes_).permute(2, 0, 1) / 255)):
        assert np.abs(np.array(PILImage.create(x)).astype(int) - bytes_).max() <= (0 if x.dtype != np.float16 else 1)
    flags = bytes_[..., 0] > 0
    assert np.array_equal(np.array(PILImageBW.create(flags)), flags * np.uint8(255))
    assert np.array_equal(np.array(PILMask.create(flags)), flags) and np.array(PILMask.create(flags)).max() == 1


@pytest.mark.parametrize('x, words', (
    (np.zeros((3, 20, 20), np.uint8), r'\[H,W,C\].*channels come first'),
    (np.zeros((2, 8, 8, 3)), 'one item of a batch'),
    (np.zeros(8, np.uint8), r'\[H,W\]'), (np.zeros((0, 4), np.uint8), r'\[H,W\]'), (np.array([['a']]), 'numbers'),
    (np.full((4, 4, 3), -2.), 'undo a normalization'), (np.full((4, 4), 1e5), '0..65535'),
    (np.full((4, 4), np.nan), 'nan'), (np.full((4, 4), -1), 'from -1'), (torch.full((3, 8, 8), 300.), '300')))
def test_arrays_that_are_no_picture_are_refused_in_words(x, words):
    """Another order of axes, a batch, values that nobody can map: nothing is clipped in silence."""
    with pytest.raises(ValueError, match=words):
        PILImage.create(x)


@pytest.mark.parametrize('x', (None, 5, ['a.png'], {'bytes': b''}))
def test_what_is_no_form_of_a_picture_is_refused(x):
    """A number is no open file."""
    with pytest.raises(TypeError, match='is no picture'):
        PILImage.create(x)


def test_methods_given_to_other_classes_replace_none_of_theirs():
    """What is public is given, and only where the class has no such name."""
    class Other:
        def kept(self) -> str:
            return 'its own'

    @gives_methods_to(Other)
    class Methods:
        size = property(lambda self: 7)

        def kept(self) -> str:
            return 'given'

        def new(self) -> str:
            return 'given'

        def _hidden(self) -> None:
            """Stays where it is."""

    assert (Other().kept(), Other().new(), Other().size) == ('its own', 'given', 7) and not hasattr(Other, '_hidden')
    assert Methods().kept() == 'given' and Image.fromarray(PIXELS).aspect == 20 / 12


def test_random_numbers_are_drawn_for_the_first_picture_or_else_the_first_tensor():
    """However deeply it lies; a batch without a tensor is a TypeError with the way out."""
    first, second, picture = torch.zeros(1), torch.zeros(2), TensorImage(torch.zeros(3, 4, 5))
    assert to_augment((3, [first, (second,)], 'x')) is first and to_augment(second) is second
    assert to_augment((first, [second, (picture,)], TensorMask(torch.zeros(1)))) is picture
    assert picture_size((first, [picture])) == (5, 4) and picture_size((first,)) is None
    assert picture_size([3, (PILImage.create(PIXELS), picture)]) == (20, 12)
    with pytest.raises(TypeError, match='is ToTensor among the transforms'):
        to_augment((3, ['x']))
