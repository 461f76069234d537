"""Every kind of bad picture is read right, left out as documented, or raises the one error; nothing hangs."""
from __future__ import annotations

import io
import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin
from sklearn.datasets import load_sample_images

from minifast.data.transforms import image_extensions
from minifast.vision.core import PILImage, PILImageBW, PILMask, load_image
from minifast.vision.decode import (FORMATS, TURNS, UPRIGHT, BadImageError, Turn, WaitingJpeg, array_pixels,
                                    decode_image, decode_jpeg, inspect_image, jpeg_header, picture_suffixes, scale_for)
from minifast.vision.utils import check_folder, resize_image, verify_image, verify_images

ODD = os.fsdecode('größe 猫\n.jpg'.encode())
"""The same bytes of a name whatever the system takes names for."""
PHOTO = np.ascontiguousarray(load_sample_images().images[0][60:180, 100:260])


def _bytes(im: Image.Image | np.ndarray, format: str, **kwargs) -> bytes:
    file = io.BytesIO()
    (Image.fromarray(im) if isinstance(im, np.ndarray) else im).save(file, format, **kwargs)
    return file.getvalue()


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))


def _png_of_size(w: int, h: int) -> bytes:
    """A PNG that says it is w x h and holds no pixels."""
    header = _chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, 8, 2, 0, 0, 0))
    return b'\x89PNG\r\n\x1a\n' + header + _chunk(b'IDAT', b'') + _chunk(b'IEND', b'')


def _jpeg_of_size(w: int, h: int) -> bytes:
    """A JPEG whose header says it is w x h."""
    data = bytearray(_bytes(PHOTO, 'JPEG'))
    at = data.index(b'\xff\xc0')
    data[at + 5:at + 9] = struct.pack('>HH', h, w)
    return bytes(data)


def _text_bomb() -> bytes:
    info = PngImagePlugin.PngInfo()
    for i in range(80):
        info.add_text(f'k{i}', 'x' * 1_000_000, zip=True)
    return _bytes(PHOTO, 'PNG', pnginfo=info)


def _palette() -> Image.Image:
    return Image.fromarray(PHOTO).quantize(16)


JPEG, PNG = _bytes(PHOTO, 'JPEG', quality=95), _bytes(PHOTO, 'PNG')
RAMP16 = np.tile(np.linspace(0, 65535, 160).astype(np.uint16), (120, 1))
DAMAGED = JPEG[:len(JPEG) // 2] + bytes(200) + JPEG[len(JPEG) // 2 + 200:]
WRONG_CRC = bytearray(PNG)
WRONG_CRC[30] ^= 1


def _grey_rgb(a: np.ndarray) -> np.ndarray:
    return np.repeat(a[..., None], 3, 2)


# name of the file -> (bytes, the pixels it must give, how far they may be off on average)
RIGHT = {
    'plain.jpg': (JPEG, PHOTO, 4),
    'progressive.jpg': (_bytes(PHOTO, 'JPEG', quality=95, progressive=True), PHOTO, 4),
    'grey.jpg': (_bytes(PHOTO[..., 1], 'JPEG', quality=95), _grey_rgb(PHOTO[..., 1]), 2),
    'cmyk.jpg': (_bytes(Image.fromarray(PHOTO).convert('CMYK'), 'JPEG', quality=95), PHOTO, 4),
    'rotated.jpg': (_bytes(np.rot90(PHOTO), 'JPEG', quality=95, exif=_exif(6)), PHOTO, 4),
    'mirrored.jpg': (_bytes(PHOTO.swapaxes(0, 1), 'JPEG', quality=95, exif=_exif(5)), PHOTO, 4),
    'rotated.png': (_bytes(np.rot90(PHOTO), 'PNG', exif=_exif(6)), PHOTO, 0),
    'broken_exif.jpg': (_bytes(PHOTO, 'JPEG', quality=95, exif=b'Exif\0\0II*\0\xff\xff\xff\xff'), PHOTO, 4),
    'trailing.jpg': (JPEG + b'\0' * 1000, PHOTO, 4),
    'jpeg_named.png': (JPEG, PHOTO, 4),
    'png_named.jpg': (PNG, PHOTO, 0),
    'plain.png': (PNG, PHOTO, 0),
    'rgba.png': (_bytes(np.dstack([PHOTO, PHOTO[..., 0]]), 'PNG'), PHOTO, 0),
    'grey_alpha.png': (_bytes(Image.fromarray(PHOTO[..., 1]).convert('LA'), 'PNG'), _grey_rgb(PHOTO[..., 1]), 0),
    'one_bit.png': (_bytes(Image.fromarray(PHOTO[..., 1] > 128), 'PNG'), _grey_rgb((PHOTO[...,
                                                                                          1] > 128) * np.uint8(255)),
                    0),
    'sixteen_bit.png': (_bytes(RAMP16, 'PNG'), _grey_rgb((RAMP16 / 257).round().astype(np.uint8)), 0),
    'palette.png': (_bytes(_palette(), 'PNG'), np.asarray(_palette().convert('RGB')), 0),
    'palette_clear.png': (_bytes(_palette(), 'PNG', transparency=bytes(range(0, 256, 16))),
                          np.asarray(_palette().convert('RGB')), 0),
    'palette_key.png': (_bytes(_palette(), 'PNG', transparency=3), np.asarray(_palette().convert('RGB')), 0),
    'plain.gif': (_bytes(_palette(), 'GIF'), np.asarray(_palette().convert('RGB')), 0),
    'moving.gif': (_bytes(_palette(), 'GIF', save_all=True, append_images=[Image.new('P', (160, 120))]),
                   np.asarray(_palette().convert('RGB')), 0),
    'plain.webp': (_bytes(PHOTO, 'WEBP', lossless=True), PHOTO, 0),
    'plain.avif': (_bytes(PHOTO, 'AVIF', quality=95), PHOTO, 4),
    'plain.tif': (_bytes(PHOTO, 'TIFF'), PHOTO, 0),
    'float.tif': (_bytes(Image.fromarray(PHOTO[..., 1].astype(np.float32) / 255), 'TIFF'), _grey_rgb(PHOTO[..., 1]), 0),
    'plain.bmp': (_bytes(PHOTO, 'BMP'), PHOTO, 0),
    'one_pixel.png': (_bytes(PHOTO[:1, :1], 'PNG'), PHOTO[:1, :1], 0),
    'strip.png': (_bytes(np.resize(PHOTO, (1, 5000, 3)), 'PNG'), np.resize(PHOTO, (1, 5000, 3)), 0),
    ODD: (JPEG, PHOTO, 4),
    'damaged_body.jpg': (DAMAGED, PHOTO, 120),  # the documented one: decoders fill in, `check_folder` says 'damaged'
}

# name of the file -> (bytes, a word of the reason)
WRONG = {
    'empty.jpg': (b'', 'zero bytes'),
    'truncated.jpg': (JPEG[:len(JPEG) * 2 // 3], 'truncated'),
    'truncated.png': (PNG[:len(PNG) // 2], 'truncated'),
    'header_only.jpg': (JPEG[:300], 'damaged|format'),
    'wrong_crc.png': (bytes(WRONG_CRC), 'damaged|format'),
    'text.jpg': (b'this is no picture\n' * 20, 'text'),
    'page.jpg': (b'<!DOCTYPE html><html><body>404</body></html>', 'HTML'),
    'drawing.png': (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"></svg>', 'SVG'),
    'noise.jpg': (bytes(range(7, 256)) * 40, 'format'),
    'bomb_169.png': (_png_of_size(13000, 13000), 'larger|pixels'),
    'bomb_400.png': (_png_of_size(20000, 20000), 'larger|pixels'),
    'bomb_400.jpg': (_jpeg_of_size(20000, 20000), '400,000,000 pixels'),
    'text_bomb.png': (_text_bomb(), 'damaged'),
    'odd_float.tif': (_bytes(Image.fromarray(np.linspace(-5, 9000, 400, dtype=np.float32).reshape(20, 20)), 'TIFF'),
                      'values go from'),
    'no_end.gif': (_bytes(_palette(), 'GIF')[:60], 'damaged|truncated|format'),
    'cut.tif': (_bytes(PHOTO, 'TIFF')[:200], 'damaged|format'),
}
pytestmark = pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning', 'ignore:Truncated File Read')


@pytest.mark.parametrize('name', RIGHT)
def test_create_readable_kind_gives_its_pixels(name, tmp_path):
    """From a path, from bytes and from an open file the same right pixels come, in RGB and upright."""
    data, pixels, off = RIGHT[name]
    (tmp_path / name).write_bytes(data)
    im = PILImage.create(tmp_path / name)
    assert im.mode == 'RGB' and im.size == (pixels.shape[1], pixels.shape[0])
    assert np.abs(np.asarray(im).astype(int) - pixels).mean() <= off
    assert np.array_equal(im, PILImage.create(data)) and np.array_equal(im, PILImage.create(io.BytesIO(data)))


@pytest.mark.parametrize('name', WRONG)
def test_create_unreadable_kind_raises_the_one_error(name, tmp_path):
    """The error names the file, the reason and a way out, and travels between processes."""
    data, word = WRONG[name]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(BadImageError, match=word) as caught:
        PILImage.create(path)
    assert all(words in str(caught.value) for words in (str(path), 'minifast check', "on_error='skip'"))
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value) and again.path == path
    assert isinstance(caught.value, OSError) and isinstance(caught.value, ValueError)


def test_an_open_file_that_is_no_picture_is_told_by_the_name_it_was_opened_by(tmp_path):
    """As one that is given by its path."""
    path = tmp_path / 'text.jpg'
    path.write_bytes(WRONG['text.jpg'][0])
    told = []
    with open(path, 'rb') as file:
        for source in (path, file):
            with pytest.raises(BadImageError) as caught:
                PILImage.create(source)
            told.append(str(caught.value))
    assert told[0] == told[1] and str(path) in told[1]


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _unreadable(path: Path) -> None:
    path.write_bytes(JPEG)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip('root reads everything')


@pytest.mark.parametrize('make, word', [
    (_pipe, 'named pipe'), (Path.mkdir, 'a folder'), (lambda p: p.symlink_to(p.with_name('none.jpg')), 'link to'),
    (lambda p: p.symlink_to(p), 'link to'), (lambda p: None, 'No such file'), (_unreadable, 'Permission'),
], ids=['pipe', 'folder', 'dangling', 'looping', 'deleted', 'unreadable'])
@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='no pipes or links on this system')
def test_create_what_is_no_file_raises_and_never_waits(make, word, tmp_path):
    """A pipe is not opened, a link that leads nowhere is named with its target."""
    path = tmp_path / 'x.jpg'
    make(path)
    with pytest.raises(BadImageError, match=word):
        PILImage.create(path)


def test_table_holds_the_48_kinds():
    """The table is complete: 30 read, 16 refused by content, 6 by what they are; hidden ones are the listing's."""
    assert len(RIGHT) + len(WRONG) + 6 >= 48


def test_check_folder_finds_each_kind_and_nothing_else(tmp_path):
    """One pass names every unreadable file, and no readable one but the damaged body."""
    for name, (data, *_) in {**RIGHT, **WRONG}.items():
        (tmp_path / 'train' / 'a').mkdir(parents=True, exist_ok=True)
        (tmp_path / 'train' / 'a' / name).write_bytes(data)
    found = check_folder(tmp_path, progress=False)
    kinds = {k: {f.path.name for f in found if f.kind == k} for k in ('bad', 'damaged', 'duplicate')}
    assert kinds['bad'] == set(WRONG)
    assert kinds['damaged'] == {'damaged_body.jpg'}
    assert kinds['duplicate'] == {'plain.jpg', 'plain.png', ODD, 'jpeg_named.png', 'png_named.jpg'} - {
        min('plain.jpg', ODD, 'jpeg_named.png'), min('plain.png', 'png_named.jpg')}


def test_check_folder_structure_of_a_data_set(tmp_path):
    """Copies across train and valid, classes only in valid, empty folders, loops and what is left out are all named."""
    for name, data in {'train/a/1.jpg': JPEG, 'valid/a/2.jpg': JPEG, 'valid/b/3.png': PNG, 'train/a/._1.jpg': b'mac',
                       'train/a/.ipynb_checkpoints/1.jpg': JPEG, 'train/a/noext': PNG}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / 'train' / 'c').mkdir()
    (tmp_path / 'train' / 'loop').symlink_to(tmp_path)
    found = {(str(f.path.relative_to(tmp_path)), f.kind) for f in check_folder(tmp_path, progress=False)}
    assert found == {('valid/a/2.jpg', 'duplicate across parts'), ('valid/b', 'class without training'), ('train/c',
                                                                                                          'empty'),
                     ('train/loop', 'left out'), ('train/a/._1.jpg', 'left out'), ('train/a/.ipynb_checkpoints',
                                                                                   'left out'),
                     ('train/a/noext', 'left out')}
    with pytest.raises(ValueError, match='no folder'):
        check_folder(tmp_path / 'none')


def test_verify_images_returns_the_unreadable(tmp_path):
    """What fails is returned in order, as an L of paths."""
    for name, data in {'a.jpg': JPEG, 'b.jpg': JPEG[:500], 'c.png': PNG, 'd.png': b''}.items():
        (tmp_path / name).write_bytes(data)
    assert [o.name for o in verify_images(sorted(tmp_path.iterdir()))] == ['b.jpg', 'd.png']


def test_masks_keep_their_codes(tmp_path):
    """A mask's numbers are classes: palette indices and 16-bit values are kept, never scaled or mixed to grey."""
    codes = np.arange(160, dtype=np.uint8)[None].repeat(120, 0)
    coloured = Image.fromarray(codes)
    coloured.putpalette(list(np.random.RandomState(0).randint(0, 255, 768)))
    for data in (_bytes(coloured, 'PNG'), _bytes(codes, 'PNG'), _bytes(codes.astype(np.uint16), 'PNG')):
        assert np.array_equal(PILMask.create(data), codes)
    with pytest.raises(BadImageError, match='class codes'):
        PILMask.create(_bytes(RAMP16, 'PNG'))


def test_fast_path_gives_pillows_pixels():
    """simplejpeg and Pillow decode to the same bytes, in colour and grey."""
    for data in (JPEG, _bytes(PHOTO[..., 0], 'JPEG'), _bytes(PHOTO, 'JPEG', subsampling=0), _bytes(PHOTO, 'JPEG',
                                                                                                   progressive=True)):
        assert np.array_equal(decode_image(data), np.asarray(Image.open(io.BytesIO(data)).convert('RGB')))
        assert np.array_equal(PILImageBW.create(data), np.asarray(Image.open(io.BytesIO(data)).convert('L')))
        assert np.array_equal(load_image(data), np.asarray(Image.open(io.BytesIO(data))))


def test_fast_path_is_for_what_it_decodes_to_pillows_pixels():
    """Colours as they are or of grey, grey of grey; grey of colours and other modes are left to Pillow."""
    grey = _bytes(PHOTO[..., 0], 'JPEG')
    for data, mode, shape in ((JPEG, 'RGB', 3), (JPEG, None, 3), (JPEG, 'L', None), (JPEG, 'RGBA', None),
                              (grey, 'L', 2), (grey, None, 2), (grey, 'RGB', 3), (grey, 'CMYK', None)):
        found = decode_jpeg(data, jpeg_header(data), mode)
        assert (found if found is None else found.ndim) == shape


@pytest.mark.parametrize('orientation', range(1, 9))
def test_orientation_fast_path_agrees_with_pillow(orientation):
    """All eight orientations of EXIF come out upright, as ImageOps.exif_transpose has them, also when scaled."""
    from PIL import ImageOps
    data = _bytes(PHOTO, 'JPEG', quality=95, exif=_exif(orientation))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(decode_image(data), upright)
    small = decode_jpeg(data, jpeg_header(data), 'RGB', scale=2)
    assert np.abs(small.astype(int) - np.asarray(upright.resize(small.shape[1::-1], Image.Resampling.BOX))).mean() < 3


def test_turns_are_the_group_of_the_square():
    """Two in a row are one of the eight; each has an inverse; where a turned window comes from is where it is read."""
    picture = np.arange(5 * 7).reshape(5, 7)
    assert len(set(TURNS)) == 8 and set(UPRIGHT.values()) == set(TURNS)
    for first in TURNS:
        turned = first.of(picture)
        assert turned.shape[::-1] == first.of_size((7, 5)) and Turn() in [first.then(other) for other in TURNS]
        left, top, right, bottom = first.source((1, 0, 4, 2), (7, 5))
        assert np.array_equal(turned[0:2, 1:4], first.of(picture[top:bottom, left:right]))
        for second in TURNS:
            assert np.array_equal(second.of(turned), first.then(second).of(picture)) and first.then(second) in TURNS


def test_scale_for_keeps_twice_the_pixels_needed():
    """A scale is used only where the picture stays twice as large as needed on both sides."""
    assert [scale_for((side, side), (100, 100)) for side in (100, 399, 400, 799, 800, 1600, 9999)] == [1, 1, 2, 2, 4,
                                                                                                       8, 8]
    assert scale_for((4000, 399), (100, 100)) == 1
    assert scale_for((400, 800), (100, 200)) == scale_for((800, 400), (200, 100)) == 2
    assert scale_for((400, 800), (200, 100)) == 1 and scale_for((4, 4), (0, 0)) == 2


@pytest.mark.parametrize('scale', [2, 4, 8])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_scaled_pixels_lie_where_they_say(orientation, scale):
    """A ramp in both directions, whose sides the scale does not divide: each pixel has the values of its place."""
    ramp = np.stack(np.broadcast_arrays(np.arange(157)[None], np.arange(115)[:, None], 0), -1).astype(np.uint8)
    turned = Image.fromarray(ramp)
    undone = next(o for o in range(1, 9) if np.array_equal(UPRIGHT[o].of(UPRIGHT[orientation].of(ramp)), ramp))
    jpeg = WaitingJpeg.of(_bytes(Image.fromarray(np.ascontiguousarray(UPRIGHT[undone].of(ramp))), 'JPEG', quality=100,
                                 subsampling=0, exif=_exif(orientation)), None)
    assert jpeg.size == turned.size and np.abs(jpeg.decode().astype(int) - ramp).mean() < 2
    scaled = jpeg.scaled(scale)
    y, x = np.mgrid[:scaled.pixels.shape[0], :scaled.pixels.shape[1]]
    found = scaled.pixels[..., :2] - ((np.stack([x, y], -1) + .5) * scale - scaled.offset - .5)
    assert scaled.scale == scale and np.abs(found[1:-1, 1:-1].mean((0, 1))).max() < .5
    assert jpeg.scaled(1) is None


def test_arrays_of_any_numbers_are_pictures():
    """Bytes as they are, 16 bits divided by 257, floats of either range, truth values black and white."""
    wide = np.array([[0, 257, 65535], [256, 300, 1000]])
    for dtype in (np.uint16, np.int32, np.int64, np.uint32):
        assert array_pixels(wide.astype(dtype)).tolist() == [[0, 1, 255], [1, 1, 4]]
    small = np.array([[0, 2, 255]])
    for dtype in (np.uint8, np.int8, np.int16, np.int64, np.float16, np.float32, np.float64):
        codes = small if dtype is not np.int8 else small.clip(0, 127)
        for kept in (array_pixels(codes.astype(dtype)), array_pixels(codes.astype(dtype), codes=True)):
            assert kept.dtype == np.uint8 and kept.tolist() == codes.tolist()
    assert array_pixels(np.array([[-5e-4, .5, 1.0005]])).tolist() == [[0, 128, 255]]
    assert array_pixels(np.array([[True, False]])).tolist() == [[255, 0]]
    assert array_pixels(np.array([[True, False]]), codes=True).tolist() == [[1, 0]]
    assert array_pixels(np.zeros((2, 3, 1))).shape == (2, 3) and array_pixels(np.zeros((2, 3, 4))).shape == (2, 3, 4)
    own = np.zeros((2, 2, 3), np.uint8)
    assert not np.shares_memory(array_pixels(own), own)
    for wrong, words in ((np.zeros((3, 8, 8)), 'channels come first'), (np.zeros((1, 8, 8, 3)), 'one item of a batch'),
                         (np.zeros((8, 8, 5)), '1 to 4 channels'), (np.zeros((0, 8)), 'meant are numbers'),
                         (np.array([['a']]), 'meant are numbers'), (np.array([[-1, 5]]), 'from -1 to 5'),
                         (np.array([[0, 65536]]), 'to 65536'), (np.array([[.5, 256.]]), 'from 0.5 to 256'),
                         (np.array([[-.01, .5]]), 'undo a normalization')):
        with pytest.raises(ValueError, match=words):
            array_pixels(wrong)


@pytest.mark.parametrize('mode, low, high, grey', [
    ('F', 0, 1, [0, 255]), ('F', 0, 255, [0, 255]), ('F', 0, 1.5, [0, 2]), ('F', 0, 256, None), ('F', -1, 255, None),
    ('I', 0, 255, [0, 255]), ('I', 0, 65535, [0, 255]), ('I', 0, 65536, None), ('I', -1, 255, None)])
def test_numbers_of_a_file_are_scaled_or_refused(mode, low, high, grey):
    """Floats in 0..1 and 0..255, whole numbers in 0..255 and 0..65535; of others nobody knows what they mean."""
    data = _bytes(Image.fromarray(np.array([[low, high]], {'F': np.float32, 'I': np.int32}[mode])), 'TIFF')
    if grey is None:
        with pytest.raises(BadImageError, match=f'its values go from {low:g} to {high:g}'):
            PILImageBW.create(data)
    else:
        assert np.asarray(PILImageBW.create(data)).tolist() == [grey]


def test_palettes_become_the_grey_of_their_colours():
    """In a picture; only a mask keeps the indices."""
    data = _bytes(_palette(), 'PNG')
    assert np.array_equal(decode_image(data, 'L'), _palette().convert('RGB').convert('L'))
    assert np.array_equal(decode_image(data, 'L', codes=True), _palette())
    assert np.array_equal(decode_image(data, 'RGB', codes=True), _palette().convert('RGB'))


# ---------------------------------------------------------------- formats

PROGRAM = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 10 10
%%EndComments
(a program) pop
showpage
%%EOF
"""
DOS_EPS = b'\xc5\xd0\xd3\xc6' + struct.pack('<II', 32, len(PROGRAM)) + bytes(20) + PROGRAM


def _iptc() -> bytes:
    """A container that Pillow opens what lies in it with, whatever that is."""
    def field(record: int, number: int, body: bytes) -> bytes:
        return bytes([0x1c, record, number]) + struct.pack('>H', len(body)) + body
    return (field(3, 60, b'\1\0') + field(3, 65, b'\0') + field(3, 20, b'\0\x0a') + field(3, 30, b'\0\x0a')
            + field(3, 120, b'\1') + field(8, 10, PROGRAM))


REFUSED = {'PostScript': (PROGRAM, 'PostScript'), 'PostScript of DOS': (DOS_EPS, 'PostScript'),
           'Photoshop': (b'8BPS\0\1' + bytes(500), 'Photoshop'), 'PDF': (b'%PDF-1.7\n' + bytes(500), 'PDF'),
           'metafile': (b'\xd7\xcd\xc6\x9a\0\0' + bytes(500), 'metafile'),
           'enhanced metafile': (b'\1\0\0\0' + bytes(36) + b' EMF' + bytes(500), 'metafile'),
           'FlashPix': (b'\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1' + bytes(2000), 'container'),
           'HDF5': (b'\x89HDF\r\n\x1a\n' + bytes(500), 'HDF5'),
           'GRIB': (b'GRIB' + bytes(3) + b'\1' + bytes(500), 'GRIB'),
           'BUFR': (b'BUFR' + bytes(500), 'BUFR'), 'film': (b'\0\0\1\xb3' + bytes(500), 'film'),
           'IPTC': (_iptc(), 'format'),
           'brush': (struct.pack('>IIIII', 29, 2, 4, 4, 1) + b'GIMP' + bytes(5) + bytes(16), 'format'),
           'registered later': (b'LATER' + bytes(99), 'format')}
OPENERS = {'PILImage': PILImage.create, 'PILImageBW': PILImageBW.create, 'PILMask': PILMask.create,
           'load_image': load_image, 'bytes': lambda f: PILImage.create(f.read_bytes()),
           'a stream': lambda f: PILImage.create(io.BytesIO(f.read_bytes())), 'an open file': lambda f: _opened(f),
           'deferred': lambda f: PILImage.deferred(f).load(),
           'decode_image': lambda f: decode_image(f.read_bytes(), 'L'),
           'codes': lambda f: decode_image(f.read_bytes(), 'L', codes=True),
           'inspect_image': lambda f: inspect_image(f.read_bytes())}


def _opened(path):
    with open(path, 'rb') as file:
        return load_image(file)


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A stand-in for every program that a reader might start, and a reader that a package has registered: each leaves a
    flag."""
    flag = tmp_path / 'flag'
    (tmp_path / 'bin').mkdir()
    for name in ('gs', 'gswin64c', 'gswin32c', 'djpeg', 'convert'):
        (tmp_path / 'bin' / name).write_text(f'#!/bin/sh\necho ran >> {flag}\nexit 0\n')
        (tmp_path / 'bin' / name).chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path / "bin"}{os.pathsep}{os.environ["PATH"]}')
    monkeypatch.setattr('PIL.EpsImagePlugin.gs_binary', None)

    class Later(ImageFile.ImageFile):
        format = 'LATER'

        def _open(self):
            flag.write_text('opened')
            self._size, self._mode = (1, 1), 'L'

    def accept(prefix):
        if prefix.startswith(b'LATER'):
            flag.write_text('asked')
        return prefix.startswith(b'LATER')
    Image.init()
    Image.register_open('LATER', Later, accept)
    Image.register_extension('LATER', '.later')
    picture_suffixes.cache_clear()
    yield flag
    Image.ID.remove('LATER')
    del Image.OPEN['LATER'], Image.EXTENSION['.later']
    picture_suffixes.cache_clear()


@pytest.mark.tally
@pytest.mark.parametrize('kind', REFUSED)
def test_no_door_opens_what_may_start_a_program(kind, programs, tmp_path, counted):
    """By content, whatever a file is called: refused with the format and the way out, at every door."""
    data, word = REFUSED[kind]
    safe, doors = 0, 0
    (tmp_path / 'p').mkdir()
    for suffix in ('.jpg', '.png', '.eps', '.later'):
        path = tmp_path / 'p' / f'cat{suffix}'
        path.write_bytes(data)
        for create in OPENERS.values():
            with pytest.raises(BadImageError, match=word) as caught:
                create(path)
            assert 'hand an array to PILImage.create' in str(caught.value)
            doors, safe = doors + 1, safe + (not programs.exists())
        resize_image(path.name, tmp_path / 'out', src=tmp_path / 'p', max_size=4)
        safe += not verify_image(path) and not (tmp_path / 'out' / path.name).exists() and not programs.exists()
        doors += 1
    found = {f.path.name: f.kind for f in check_folder(tmp_path / 'p', progress=False)}
    assert found['cat.jpg'] == 'bad' and found['cat.eps'] == found['cat.later'] == 'left out' and not programs.exists()
    counted(safe, doors)
    assert safe == doors


def test_the_stand_in_is_live(programs):
    """The law above is not true for want of a program: Pillow, left to itself, starts it, and asks who registered."""
    for data in (PROGRAM, REFUSED['registered later'][0]):
        with pytest.raises(Exception):
            Image.open(io.BytesIO(data)).load()
        assert programs.exists()
        programs.unlink()


def test_formats_are_all_that_pillow_has_and_cover_what_is_listed():
    """Every suffix that `get_image_files` lists and Pillow can read by itself is still opened."""
    Image.init()
    assert set(FORMATS) - {'HEIF'} <= set(Image.OPEN) and len(set(FORMATS)) == len(FORMATS)
    readable = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN or kind == 'MPO'}
    assert (image_extensions & readable) - {'.wmf', '.emf'} <= picture_suffixes()
    out = {'.eps', '.ps', '.wmf', '.emf', '.psd', '.pdf', '.h5', '.grib', '.bufr', '.iim', '.fpx', '.mic', '.gbr'}
    assert not picture_suffixes() & out


@pytest.mark.parametrize('kind', ['GIF', 'BMP', 'DIB', 'PPM', 'PNG', 'TIFF', 'WEBP', 'AVIF', 'JPEG2000', 'ICO', 'ICNS',
                                  'PCX', 'SGI', 'TGA', 'DDS', 'QOI', 'XBM', 'MPO'])
def test_formats_that_are_written_are_read(kind):
    """In the way Pillow reads them."""
    mode = '1' if kind == 'XBM' else 'RGB'
    data = _bytes(Image.fromarray(PHOTO).convert(mode).resize((32, 32)), kind)
    assert np.array_equal(PILImage.create(data), np.asarray(Image.open(io.BytesIO(data)).convert('RGB')))


def test_a_decoder_for_heif_that_was_registered_is_used():
    """The suffixes are listed, so what a user has registered for them goes on working."""
    class Heif(ImageFile.ImageFile):
        format = 'HEIF'

        def _open(self):
            self._size, self._mode, self.tile = (1, 1), 'L', []

        def load(self):
            self.im = Image.new('L', (1, 1), 7).im
    assert 'HEIF' not in Image.OPEN
    with pytest.raises(BadImageError, match='format'):
        decode_image(b'\0\0\0\x18ftypheic', None)
    Image.register_open('HEIF', Heif, lambda prefix: prefix[4:12] == b'ftypheic')
    try:
        assert np.asarray(decode_image(b'\0\0\0\x18ftypheic', None)).tolist() == [[7]]
    finally:
        Image.ID.remove('HEIF')
        del Image.OPEN['HEIF']


@pytest.mark.parametrize('format', ['PNG', 'JPEG', 'BMP', 'GIF'])
def test_a_picture_that_is_opened_and_not_read_yet_is_read_wherever_its_file_stands(format, tmp_path):
    """By name or in an open file; workers that were forked meanwhile have read from the same open file."""
    path = tmp_path / f'x.{format.lower()}'
    path.write_bytes(_bytes(PHOTO, format))
    wanted = np.asarray(PILImage.create(path))
    with open(path, 'rb') as file, Image.open(path) as by_name, Image.open(file) as in_file, \
            Image.open(io.BytesIO(path.read_bytes())) as in_memory:
        for im in (by_name, in_file, in_memory):
            if im is not in_memory:
                os.lseek(im.fp.fileno(), 0, os.SEEK_END)
            assert np.array_equal(PILImage.create(im), wanted)
            assert np.array_equal(PILImage.create(im), wanted)  # it is read now
