"""From the bytes of a file to the right pixels, or one error that names the file and a way out.

JPEG goes through libjpeg-turbo (simplejpeg) straight into an array, at a half, quarter or eighth of the size where less
is needed; everything else, and every JPEG that simplejpeg does not like, goes through Pillow, whose verdict counts.
"""
from __future__ import annotations

import io
import os
import stat
import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from minifast.terminal import visible, warn

__all__ = ['BadImageError', 'FORMATS', 'JpegHeader', 'MIRROR', 'ScaledPixels', 'TURNS', 'Turn', 'UPRIGHT',
           'WaitingJpeg', 'array_pixels', 'check_pixels', 'decode_image', 'decode_jpeg', 'inspect_image', 'jpeg_header',
           'open_image', 'opened_image', 'picture_suffixes', 'read_image_file', 'scale_for', 'to_mode']

MAX_FILE_BYTES = 2 ** 29
"""Larger files are refused before they are read."""

FORMATS = ('JPEG', 'PNG', 'GIF', 'BMP', 'PPM', 'WEBP', 'TIFF', 'AVIF', 'HEIF', 'CUR', 'DDS', 'DIB', 'FITS', 'ICNS',
           'ICO', 'JPEG2000', 'PCX', 'QOI', 'SGI', 'SUN', 'XBM', 'XPM', 'TGA')
"""The formats that are opened, whatever a file is called: pixels that Pillow decodes by itself (HEIF: where the user
has registered a decoder for it).

Left out is what starts a program (EPS), is handed on to whoever registered for it (WMF, EMF, BUFR, GRIB, HDF5), holds
other files of any format (IPTC, FPX, MIC), is seldom a photograph (PSD, GBR, ...), or is brought by a package that
registers itself with Pillow.
"""

_REFUSED = {b'%!PS': 'PostScript, a program', b'\xc5\xd0\xd3\xc6': 'PostScript, a program', b'%PDF': 'a PDF document',
            b'8BPS': 'a Photoshop document', b'\xd7\xcd\xc6\x9a': 'a Windows metafile, a drawing without pixels',
            b'\x01\0\0\0': 'an enhanced metafile, a drawing without pixels',
            b'\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1': 'a container of other files (FlashPix, Microsoft)',
            b'\x89HDF': 'HDF5', b'GRIB': 'GRIB', b'BUFR': 'BUFR', b'\0\0\x01\xb3': 'a film'}
"""How formats that are not opened begin, and what they are."""
_WAY_OUT = 'convert it, or open it with your own function and hand an array to PILImage.create'

QUALITY_GAP = 2.0
"""A scaled JPEG keeps at least this many times the pixels that the following resize makes, per side.

Below it the cheap scaling shows: at 2.0 the mean difference to decoding in full is under 0.75 of 255 on photographs, at
1.0 up to 2.6. Pillow's `thumbnail` holds to the same number.
"""

_STEPS = {'La': ('LA',), 'RGBa': ('RGBA',), 'PA': ('RGBA',), 'HSV': ('RGB',), 'LAB': ('RGB',)}
"""Modes that Pillow converts to few others -> what lies on the way."""
_ORIENTATION_TAG = 0x0112


class Turn(NamedTuple):
    """One of the eight symmetries of a square.

    Args:
        mirror_x: left and right are mirrored.
        mirror_y: then top and bottom are.
        swap: then the axes are swapped.
    """

    mirror_x: bool = False
    mirror_y: bool = False
    swap: bool = False

    def then(self, other: Turn) -> Turn:
        """This one and then the `other`, as one."""
        x, y = (other.mirror_y, other.mirror_x) if self.swap else (other.mirror_x, other.mirror_y)
        return Turn(self.mirror_x != x, self.mirror_y != y, self.swap != other.swap)

    def of(self, pixels: np.ndarray) -> np.ndarray:
        """`pixels` [H,W(,C)] turned, in the same memory."""
        pixels = pixels[::-1 if self.mirror_y else 1, ::-1 if self.mirror_x else 1]
        return pixels.swapaxes(0, 1) if self.swap else pixels

    def of_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """What becomes of `size`, a (width, height), or of any pair along the axes."""
        return size[::-1] if self.swap else size

    def source(self, box: Sequence[int], size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Where `box`, (left, top, right, bottom) of a turned picture, lies in the picture itself, of `size`."""
        left, top, right, bottom = (box[i] for i in (1, 0, 3, 2)) if self.swap else box
        if self.mirror_x:
            left, right = size[0] - right, size[0] - left
        if self.mirror_y:
            top, bottom = size[1] - bottom, size[1] - top
        return left, top, right, bottom


MIRROR = Turn(mirror_x=True)
TURNS = (Turn(), MIRROR, Turn(mirror_y=True), Turn(mirror_x=True, swap=True), Turn(mirror_x=True, mirror_y=True),
         Turn(mirror_y=True, swap=True), Turn(swap=True), Turn(True, True, True))
"""The eight symmetries in the order of `Dihedral` and `DihedralItem`."""
UPRIGHT = dict(enumerate((TURNS[k] for k in (0, 1, 4, 2, 6, 5, 7, 3)), start=1))
"""EXIF orientation -> what turns the stored picture upright."""


class BadImageError(UnidentifiedImageError, ValueError):
    """A file that cannot be read as a picture: the one error for everything that can be wrong with it.

    It is also an `OSError` and a `ValueError`, so code that catches what Pillow raises goes on working.

    Attributes:
        path: the file, None where the bytes came from elsewhere.
        reason: what is wrong, in words.
    """

    def __init__(self, path: Any, reason: str) -> None:
        self.path, self.reason = path, reason
        where = 'the bytes given' if path is None else f"'{path}'"
        super().__init__(visible(f'{where} cannot be read as a picture: {reason}. `minifast check FOLDER` lists every '
                                 "such file, on_error='skip' in the DataLoader leaves them out and counts them"))

    def __reduce__(self) -> tuple:
        return type(self), (self.path, self.reason)  # OSError's own way would hand over the message alone


class JpegHeader(NamedTuple):
    """What the first bytes of a JPEG say.

    Args:
        size: (width, height) as stored.
        colorspace: 'YCbCr', 'RGB', 'Gray' or 'GRAY'.
        turn: what turns it upright.
    """

    size: tuple[int, int]
    colorspace: str
    turn: Turn


@cache
def _simplejpeg() -> ModuleType | None:
    try:
        import simplejpeg
    except ImportError:  # no wheel for this machine: Pillow decodes
        return None
    return simplejpeg


def read_image_file(path: str | Path) -> bytes:
    """The bytes of the regular file `path`.

    Raises:
        BadImageError: it is missing, unreadable, empty, too large, or no regular file (a named pipe is never opened, as
            that would wait for ever).
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            kind = {stat.S_IFDIR: 'a folder', stat.S_IFIFO: 'a named pipe', stat.S_IFSOCK: 'a socket'}.get(
                stat.S_IFMT(status.st_mode), 'a device')
            raise BadImageError(path, f'it is {kind} and no regular file')
        if status.st_size == 0:
            raise BadImageError(path, 'it holds zero bytes')
        if status.st_size > MAX_FILE_BYTES:
            raise BadImageError(path, f'it holds {status.st_size:,} bytes, more than the limit of {MAX_FILE_BYTES:,} '
                                      '(minifast.vision.decode.MAX_FILE_BYTES)')
        with open(path, 'rb', buffering=0) as file:
            return file.read()
    except BadImageError:
        raise
    except OSError as e:
        linked = f'a link to {os.readlink(path)!r}: ' if os.path.islink(path) else ''
        raise BadImageError(path, linked + (e.strerror or str(e))) from e


def open_image(data: bytes) -> Image.Image:
    """The package's one door to Pillow's readers: a picture of one of `FORMATS`, its pixels not yet decoded.

    Args:
        data: the file's bytes.

    Raises:
        PIL.UnidentifiedImageError: it is none of them; others see `decode_image`.
    """
    formats = [name for name in FORMATS if name != 'HEIF' or name in Image.OPEN]
    return Image.open(io.BytesIO(data), formats=formats)


@cache
def picture_suffixes() -> frozenset[str]:
    """The suffixes of `FORMATS`; asking makes Pillow import all of its formats."""
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items()
                     if kind in FORMATS and kind in Image.OPEN or kind == 'MPO')  # MPO is opened as a JPEG


def _exif_orientation(data: bytes) -> int:
    """The orientation 1..8 of a JPEG's EXIF block, 1 where there is none or it is damaged."""
    try:
        at = 2
        while data[at + 1] != 0xe1 or data[at + 4:at + 10] != b'Exif\0\0':
            if data[at] != 0xff or not 0xe0 <= data[at + 1] <= 0xef:
                return 1  # the application's segments come before all others
            at += 2 + int.from_bytes(data[at + 2:at + 4], 'big')
        tiff = data[at + 10:at + 10 + 65536]
        order = {b'II': '<', b'MM': '>'}[tiff[:2]]
        first, = struct.unpack_from(order + 'I', tiff, 4)
        count, = struct.unpack_from(order + 'H', tiff, first)
        for i in range(count):
            tag, _, _, value = struct.unpack_from(order + 'HHIH', tiff, first + 2 + 12 * i)
            if tag == _ORIENTATION_TAG:
                return value if value in UPRIGHT else 1
    except (IndexError, KeyError, struct.error):
        return 1
    return 1


def jpeg_header(data: bytes) -> JpegHeader | None:
    """Size, colours and orientation of a JPEG `data` (bytes) that the fast path can decode; None for anything else."""
    library = _simplejpeg()
    if library is None or data[:3] != b'\xff\xd8\xff':
        return None
    try:
        height, width, colorspace, _ = library.decode_jpeg_header(data)
    except ValueError:
        return None
    if colorspace not in ('YCbCr', 'Gray', 'GRAY', 'RGB'):
        return None  # CMYK and YCCK have Adobe's inversion, which Pillow knows
    return JpegHeader((width, height), colorspace, UPRIGHT[_exif_orientation(data)])


def check_pixels(width: int, height: int, path: Any = None) -> None:
    """Refuse a picture of more pixels than `PIL.Image.MAX_IMAGE_PIXELS` (None: no limit).

    Args:
        width: pixels.
        height: pixels.
        path: named in the error; None for bytes from elsewhere.

    Raises:
        BadImageError: it is too large.
    """
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise BadImageError(path, f'{width}x{height} are {width * height:,} pixels, more than the limit of {limit:,} '
                                  'that keeps memory bounded (set PIL.Image.MAX_IMAGE_PIXELS if you trust it)')


def scale_for(crop: tuple[float, float], target: tuple[int, int]) -> int:
    """The largest of 8, 4, 2, 1 by which a JPEG may be scaled down while decoding, when `crop` becomes `target` pixels.

    Both are (width, height). Only these scales: libjpeg-turbo has vector code for them, its other scales take longer
    than decoding in full.
    """
    gap = min(crop[0] / max(target[0], 1), crop[1] / max(target[1], 1))
    return next((k for k in (8, 4, 2) if gap >= k * QUALITY_GAP), 1)


def decode_jpeg(data: bytes, header: JpegHeader, mode: str | None, scale: int = 1) -> np.ndarray | None:
    """Decode a JPEG into uint8 [H,W,3] or [H,W], upright; None where Pillow should have a look.

    Args:
        data: the file's bytes.
        header: from `jpeg_header`.
        mode: 'RGB' or 'L'; None keeps what the file has.
        scale: 1, 2, 4 or 8: both sides divided by it, rounded up.
    """
    pixels = _decode_stored(data, header, mode, scale)
    return None if pixels is None else np.ascontiguousarray(header.turn.of(pixels))


def _decode_stored(data: bytes, header: JpegHeader, mode: str | None, scale: int = 1) -> np.ndarray | None:
    """The same without turning it upright."""
    grey = header.colorspace.upper() == 'GRAY'
    if mode is None:
        mode = 'L' if grey else 'RGB'
    if mode not in ('RGB', 'L') or (mode == 'L' and not grey):
        return None  # Pillow's own grey from colours, so that pixels are the same everywhere
    width, height = (-(-side // scale) for side in header.size)
    size = {} if scale == 1 else {'min_width': width, 'min_height': height}
    try:
        pixels = _simplejpeg().decode_jpeg(data, 'RGB' if mode == 'RGB' else 'GRAY', **size)
    except ValueError:
        return None
    return pixels[..., 0] if mode == 'L' else pixels


class ScaledPixels(NamedTuple):
    """An upright picture at 1/`scale` of its size, or a part of it.

    Args:
        pixels: uint8 [H,W,3].
        scale: 1, 2, 4 or 8.
        offset: (x, y): pixel (x, y) of the picture lies at ((x, y) + offset) / scale of `pixels`.
    """

    pixels: np.ndarray
    scale: int
    offset: tuple[int, int]


class WaitingJpeg(NamedTuple):
    """The bytes of a JPEG whose header was read and whose pixels are still to be decoded.

    Args:
        data: the file's bytes.
        header: from `jpeg_header`.
        path: named in errors; None for bytes from elsewhere.
    """

    data: bytes
    header: JpegHeader
    path: Any

    @classmethod
    def of(cls, data: bytes, path: Any) -> WaitingJpeg | None:
        """The JPEG of the bytes `data`, None for bytes that the fast path does not take; `path` is named in errors.

        Raises:
            BadImageError: the header names more pixels than the limit.
        """
        header = jpeg_header(data)
        if header is None:
            return None
        check_pixels(*header.size, path)
        return cls(data, header, path)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the upright picture."""
        return self.header.turn.of_size(self.header.size)

    def decode(self) -> np.ndarray:
        """All pixels, uint8 [H,W,3].

        Raises:
            BadImageError: the file is damaged.
        """
        pixels = decode_jpeg(self.data, self.header, 'RGB')
        return np.asarray(decode_image(self.data, 'RGB', self.path)) if pixels is None else pixels

    def mirrored(self) -> WaitingJpeg:
        """The picture mirrored left and right."""
        return self._replace(header=self.header._replace(turn=self.header.turn.then(MIRROR)))

    def window(self, box: Sequence[int]) -> tuple[np.ndarray, Turn] | None:
        """The pixels within `box` (left, top, right, bottom) as they are stored, and how they have still to be turned.

        What is made of a window is smaller than the picture, so it is cheaper to turn.

        Returns:
            None where Pillow should have a look.
        """
        stored = _decode_stored(self.data, self.header, 'RGB')
        if stored is None:
            return None
        left, top, right, bottom = self.header.turn.source(box, self.header.size)
        return stored[top:bottom, left:right], self.header.turn

    def scaled(self, scale: int) -> ScaledPixels | None:
        """The pixels at 1/`scale` of both sides; None for 1, and where Pillow should have a look."""
        pixels = None if scale == 1 else decode_jpeg(self.data, self.header, 'RGB', scale)
        if pixels is None:
            return None
        turn, (width, height) = self.header.turn, self.header.size
        # the last column and row may be filled up to whole pixels; in a mirrored picture they come first
        offset = -width % scale * turn.mirror_x, -height % scale * turn.mirror_y
        return ScaledPixels(pixels, scale, turn.of_size(offset))


def decode_image(data: bytes, mode: str | None = 'RGB', path: Any = None,
                 codes: bool = False) -> np.ndarray | Image.Image:
    """Decode any picture, upright, as an array (JPEG) or a Pillow image (the rest).

    Args:
        data: the file's bytes.
        mode: Pillow's mode wanted, None for the file's own.
        path: named in errors.
        codes: the picture is a mask: palette indices and 16-bit values are class codes and kept as they are.

    Raises:
        BadImageError: the bytes are damaged, no picture, or a bomb.
    """
    header = None if codes else jpeg_header(data)
    if header is not None:
        check_pixels(*header.size, path)
        pixels = decode_jpeg(data, header, mode)
        if pixels is not None:
            return pixels
    try:
        im = open_image(data)
        check_pixels(*im.size, path)
        im.load()
        im = ImageOps.exif_transpose(im)
        return im if mode is None else to_mode(im, mode, path, codes)
    except BadImageError:
        raise
    except UnidentifiedImageError as e:
        raise BadImageError(path, _what_it_is(data)) from e
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as e:
        raise BadImageError(path, f'it is larger than memory should hold ({e})') from e
    except Exception as e:  # Pillow's readers raise whatever their parsers trip over: struct.error, SyntaxError ...
        raise BadImageError(path, f'it is damaged ({e})') from e


def _what_it_is(data: bytes) -> str:
    what = next((what for magic, what in _REFUSED.items() if data.startswith(magic)), None)
    if what is not None:
        return f'it is {what}, which is not opened: {_WAY_OUT}'
    start = data[:512].lstrip().lower()
    if start.startswith(b'<') and b'<svg' in data[:4096].lower():
        return 'it is SVG, a drawing without pixels'
    if start.startswith(b'<'):
        return 'it is HTML or XML and no picture'
    if b'\0' not in start and start.isascii():
        return 'it is text and no picture'
    return f'it is in no format that is opened (minifast.vision.decode.FORMATS): {_WAY_OUT}'


def to_mode(im: Image.Image, mode: str, path: Any = None, codes: bool = False) -> Image.Image:
    """`im.convert(mode)` without Pillow's silent clipping of more than 8 bits.

    16-bit greys are divided by 257, floats in 0..1 multiplied by 255, floats and 32-bit integers in 0..255 kept. With
    `codes` values and palette indices are kept as they are. `path` is named in errors.

    Raises:
        BadImageError: values that no rule above maps to 0..255.
    """
    if im.mode == mode:
        return im
    if codes and mode == 'L' and im.mode in ('RGB', 'RGBA'):
        _warn_of_colours(im, path)
    if im.mode == 'P':
        if codes and mode == 'L':
            return Image.fromarray(np.asarray(im))
        return im.convert('RGBA').convert(mode)  # straight to RGB Pillow mistakes some transparent palettes
    if im.mode == 'F' or im.mode[0] == 'I':
        im = Image.fromarray(_eight_bit_values(np.asarray(im), path, codes))
    for through in _STEPS.get(im.mode, ()):
        im = im if im.mode == mode else im.convert(through)
    return im if im.mode == mode else im.convert(mode)


_warned: list[Any] = []


def _warn_of_colours(im: Image.Image, path: Any) -> None:
    """Say once that a mask holds colours: their shades of grey are hardly the codes that were meant."""
    red, green, blue = im.split()[:3]
    if not _warned and not red.tobytes() == green.tobytes() == blue.tobytes():
        _warned.append(path)
        warn(f"{'a mask' if path is None else repr(str(path))} holds colours and no codes: their shades of grey are "
             'taken for codes. Let get_y give a mask whose values are 0, 1, 2, ...')


def opened_image(im: Image.Image, mode: str | None, codes: bool = False) -> Image.Image:
    """A picture that was opened elsewhere as `decode_image` makes it of its file: loaded, upright, converted to `mode`.

    An orientation in its EXIF block has still to be obeyed, as whatever turns a picture upright takes it out.

    Args:
        im: the picture.
        mode: Pillow's mode wanted, None for its own.
        codes: the picture is a mask, as in `decode_image`.

    Raises:
        BadImageError: it was not read from its file yet, and that is damaged; or see `to_mode`.
    """
    path = getattr(im, 'filename', None) or None
    try:
        check_pixels(*im.size, path)
        _forget_place(getattr(im, 'fp', None))
        im.load()
        if im.getexif().get(_ORIENTATION_TAG, 1) != 1:
            im = ImageOps.exif_transpose(im)
        return im if mode is None else to_mode(im, mode, path, codes)
    except BadImageError:
        raise
    except Exception as e:  # as in decode_image
        raise BadImageError(path or 'an opened picture', f'it is damaged ({e})') from e


def _forget_place(file: Any) -> None:
    """Let a file that is still to be read look anew where it stands: workers forked from here share its place."""
    if isinstance(file, io.BufferedReader) and not file.closed:
        at = file.tell()
        file.seek(0, os.SEEK_END)  # leaves what was read ahead
        file.seek(at)


def array_pixels(x: np.ndarray, codes: bool = False) -> np.ndarray:
    """An array as the pixels of a picture, uint8 [H,W] or [H,W,C], in memory of its own.

    Args:
        x: [H,W] or [H,W,C] with C up to 4; truth values are black and white, the rest is taken as `to_mode` takes the
            values of a file.
        codes: a mask: values are codes, and so are truth values.

    Raises:
        ValueError: its shape or values are no picture's.
    """
    shown = f'an array of shape {x.shape} and {x.dtype} is no picture'
    if x.dtype.kind not in 'buif' or x.ndim not in (2, 3) or not x.size or (x.ndim == 3 and x.shape[-1] > 4):
        first = x.ndim == 3 and x.shape[0] <= 4
        raise ValueError(f'{shown}: meant are numbers [H,W] or [H,W,C] with 1 to 4 channels' + (
            '; the channels come first here: give x.transpose(1, 2, 0), or torch.from_numpy(x)' if first else
            '; take one item of a batch' if x.ndim == 4 else ''))
    x = x[..., 0] if x.ndim == 3 and x.shape[-1] == 1 else x
    if x.dtype == bool:
        x = x.astype(np.uint8) * (1 if codes else 255)
    elif x.dtype not in (np.uint8, np.uint16):
        x = x.astype(np.float32 if x.dtype.kind == 'f' else np.int64)
        low, high = x.min(), x.max()
        if x.dtype.kind == 'f' and -1e-3 <= low and high <= 1 + 1e-3:
            x = x.clip(0, 1)  # what a resampling oversteps
        elif not (0 <= low and high <= (65535 if x.dtype.kind == 'i' else 255)):
            raise ValueError(f'{shown}: its values go from {low:g} to {high:g}, meant are bytes 0..255, 16 bits '
                             '0..65535, or floats in 0..1 or 0..255; undo a normalization first')
        x = x.astype(np.int32) if x.dtype.kind == 'i' else x
    return np.array(x if x.dtype == np.uint8 else _eight_bit_values(x, None, codes), order='C')


def _eight_bit_values(values: np.ndarray, path: Any, codes: bool) -> np.ndarray:
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    if codes and 0 <= low and high <= 255:
        values = values.astype(np.uint8)
    elif codes:
        raise BadImageError(path, f'as a mask it holds class codes {low}..{high}, and codes go from 0 to 255')
    elif values.dtype == np.uint16 or (values.dtype == np.int32 and 0 <= low and 255 < high <= 65535):
        values = ((values.astype(np.int64) * 255 + 32895) >> 16).astype(np.uint8)  # round(v / 257)
    elif values.dtype.kind == 'f' and 0 <= low and high <= 1:
        values = (values * 255).round().astype(np.uint8)
    elif 0 <= low and high <= 255:
        values = values.round().astype(np.uint8)
    else:
        raise BadImageError(path, f'its values go from {low:g} to {high:g}, and it is not known how they map to '
                                  '0..255; open it with your own function and hand an array to PILImage.create')
    return values


def inspect_image(data: bytes, path: Any = None) -> str | None:
    """Decode a picture only to see whether it can be: the decoder's complaint about a damaged body, None if it is well.

    Args:
        data: the file's bytes.
        path: named in errors.

    Raises:
        BadImageError: as `decode_image`.
    """
    words = None
    if (header := jpeg_header(data)) is not None:
        check_pixels(*header.size, path)
        try:
            _simplejpeg().decode_jpeg(data, 'GRAY')
            return None
        except ValueError as e:
            words = f'the decoder complains ({e}): parts of the picture may be wrong'
    decode_image(data, 'RGB', path)
    return words
