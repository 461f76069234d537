"""Fetching pictures, checking a folder of them, and making them smaller once and for all."""
from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import urllib.parse
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from fastcore.foundation import L
from PIL import Image

from minifast.arguments import as_side, tells_near_match
from minifast.data.archives import disk_name
from minifast.data.external import fetch_file, open_url
from minifast.data.transforms import get_image_files, image_extensions
from minifast.terminal import nobody_watches, visible
from minifast.torch_core import defaults
from minifast.vision.core import BILINEAR, load_image
from minifast.vision.decode import (MAX_FILE_BYTES, BadImageError, inspect_image, jpeg_header, open_image,
                                    picture_suffixes, read_image_file, to_mode)

__all__ = ['Finding', 'FolderSurvey', 'PictureFolder', 'check_folder', 'download_images', 'look_at_folder',
           'resize_image', 'resize_images', 'resize_to', 'search_images_bing', 'search_images_serpapi', 'survey_folder',
           'verify_image', 'verify_images', 'why_unreadable']


def _each(func: Callable, items: Sequence, n_workers: int, desc: str | None = None) -> list:
    """`func` of each item, in threads: decoding and waiting leave the interpreter free. `desc` names a bar."""
    from tqdm.auto import tqdm
    with ThreadPoolExecutor(max(n_workers, 1)) as pool:
        return list(tqdm(pool.map(func, items), total=len(items), desc=desc, disable=nobody_watches(desc is not None)))


# ---------------------------------------------------------------- fetching

def _name_and_suffix(url: str) -> tuple[str, str]:
    """Of the file at an address: what is no part of a plain name in them becomes an underscore."""
    address = Path(urllib.parse.unquote(urllib.parse.urlsplit(url).path).replace('\\', '/'))
    stem = ''.join('_' if c in '<>:"|?*' or visible(c) != c else c for c in address.stem)
    suffix = address.suffix if re.fullmatch(r'\.\w{1,8}', address.suffix, re.ASCII) else '.jpg'
    return disk_name(stem.lstrip('.')[:60]), suffix


def _fetch_picture(url: str, dest: Path, timeout: float, preserve_filename: bool) -> tuple[str, str] | None:
    try:
        stem, suffix = _name_and_suffix(url)
        name = stem if preserve_filename and stem else str(uuid.uuid4())
        target, count = dest / f'{name}{suffix}', 1
        while preserve_filename and target.exists():
            target, count = dest / f'{name}{count}{suffix}', count + 1
        return _fetched(url, target, timeout)
    except (OSError, ValueError) as e:
        return url, str(e)


def _fetched(url: str, target: Path, timeout: float) -> None:
    try:
        fetch_file(url, target, timeout=timeout, progress=False, retries=0, max_bytes=MAX_FILE_BYTES)
    finally:
        target.with_name(target.name + '.part').unlink(missing_ok=True)  # there is no other attempt


@tells_near_match
def download_images(dest: str | Path, url_file: Path | None = None, urls: Iterable[str] | None = None,
                    max_pics: int = 1000, n_workers: int = 8, timeout: float = 4, preserve_filename: bool = False) -> L:
    """Fetch pictures into the folder `dest`.

    A picture larger than `minifast.vision.decode.MAX_FILE_BYTES`, which could not be opened, is not fetched.

    Args:
        dest: a folder; made if it is not there.
        url_file: text file with an address a line; its first `max_pics` are fetched.
        urls: addresses, instead of `url_file`.
        max_pics: how many lines of `url_file` are read.
        n_workers: threads.
        timeout: seconds without a byte before a picture is given up.
        preserve_filename: keep the names of the addresses (numbered if they repeat); else they are random.

    Returns:
        (address, reason) of each that could not be fetched.

    Example:
        >>> for url, reason in download_images('bears/grizzly', urls=urls): print(url, reason)
    """
    if urls is None:
        lines = Path(url_file).read_text(encoding='utf-8', errors='surrogateescape').splitlines()
        urls = [line.strip() for line in lines if line.strip()][:max_pics]
    dest = Path(dest)
    dest.mkdir(parents=True, exist_ok=True)
    if preserve_filename:
        n_workers = 1  # so that two of the same name do not meet
    return L(_each(lambda url: _fetch_picture(url, dest, timeout, preserve_filename), list(urls), n_workers)).filter()


@tells_near_match
def search_images_serpapi(term: str, engine: str = 'bing_images', key: str | None = None, max_images: int = 150) -> L:
    """Addresses of pictures from SerpApi (https://serpapi.com).

    Args:
        term: what to search for.
        engine: one of SerpApi's picture engines.
        key: your key there; default: the environment variable SERPAPI_KEY.
        max_images: at most so many.

    Raises:
        ValueError: there is no key.
    """
    key = key or os.environ.get('SERPAPI_KEY')
    if not key:
        raise ValueError('searching needs a key of SerpApi: pass key= or set SERPAPI_KEY '
                         '(https://serpapi.com/manage-api-key)')
    found: dict[str, None] = {}
    url = 'https://serpapi.com/search?' + urllib.parse.urlencode({'engine': engine, 'q': term, 'api_key': key})
    while url and len(found) < max_images:
        with open_url(url) as response:
            page = json.load(response)
        found.update(dict.fromkeys(o['original'] for o in page.get('images_results', ())))
        following = page.get('serpapi_pagination', {}).get('next')
        if following and not following.startswith('https://serpapi.com/'):
            break  # nobody else is told the key
        url = following and f'{following}&{urllib.parse.urlencode({"api_key": key})}'
    return L(list(found))[:max_images]


@tells_near_match
def search_images_bing(term: str, key: str | None = None, max_images: int = 150) -> L:
    """`search_images_serpapi` with Bing; `term`, `key` and `max_images` as there."""
    return search_images_serpapi(term, 'bing_images', key, max_images)


# ---------------------------------------------------------------- checking

def why_unreadable(fn: str | Path) -> str | None:
    """Why `fn` cannot be read as a picture, in words; None if it can."""
    return _look_at(Path(fn)).error


def verify_image(fn: str | Path) -> bool:
    """Whether `fn` can be read as a picture."""
    return why_unreadable(fn) is None


def verify_images(fns: Iterable[Path]) -> L:
    """Those of `fns` that cannot be read as pictures.

    Example:
        >>> for file in verify_images(get_image_files(path)): file.unlink()
    """
    fns = list(fns)
    return L(fn for fn, good in zip(fns, _each(verify_image, fns, defaults.cpus)) if not good)


class Finding(NamedTuple):
    """One thing to say of a folder.

    Args:
        path: the file.
        kind: what kind of trouble.
        reason: the words for it, which follow the file's name.
    """

    path: Path
    kind: str
    reason: str

    @property
    def serious(self) -> bool:
        """Whether a training would stop, or its result be wrong."""
        return self.kind not in ('left out', 'duplicate')


class PictureFolder(NamedTuple):
    """How a folder of pictures is laid out for the training of a classifier.

    Attributes:
        path: the folder.
        train: name of the training part inside, None where the classes lie directly in `path`.
        valid: name of the validation part inside, None likewise.
        valid_pct: share that is drawn to validate with where there is no such part.
        counts: pictures a class: of the training part, or of all of which a part is drawn to validate with.
        valid_counts: pictures a class of the validation part; empty where it is drawn.
        n_train: how many pictures are trained on.
        findings: why no classifier can be trained on it; none where one can.
    """

    path: Path
    train: str | None
    valid: str | None
    valid_pct: float
    counts: dict[str, int]
    valid_counts: dict[str, int]
    n_train: int
    findings: list[Finding]


_PARTS = {'train': 'train', 'training': 'train', 'valid': 'valid', 'val': 'valid', 'validation': 'valid',
          'test': 'test'}
_LAYOUT = 'give a folder that holds one folder of pictures a class, for example pets/cat/1.jpg and pets/dog/1.jpg'
_SAME = 'give both parts the same classes'


@tells_near_match
def look_at_folder(folder: str | Path, valid_pct: float = 0.2) -> PictureFolder:
    """How a folder is laid out, and all that `minifast train` refuses about it; no picture is opened.

    The class of a picture is the name of the folder it lies in. Where `folder` holds the parts train and valid (under
    one of their usual names) these are meant; of train and test, which is nothing to validate with, train alone.

    Args:
        folder: the folder.
        valid_pct: share of the pictures that is drawn to validate with where there is no such part, 0..1.

    Raises:
        ValueError: `folder` is no folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f'{folder} {"is a file" if folder.exists() else "does not exist"}: {_LAYOUT}')
    names = sorted(o.name for o in folder.iterdir() if o.is_dir() and o.name.lower() in _PARTS)
    parts = {_PARTS[name.lower()]: name for name in reversed(names)}
    if parts.keys() == {'train', 'test'}:
        return look_at_folder(folder / parts['train'], valid_pct)
    train, valid = (parts['train'], parts['valid']) if {'train', 'valid'} <= parts.keys() else (None, None)
    roots = [folder / train, folder / valid] if valid else [folder]
    files = {root: get_image_files(root) for root in roots}
    counts = [dict(sorted(Counter(file.parent.name for file in found if file.parent != root).items()))
              for root, found in files.items()]
    n = sum(counts[0].values())
    n_valid = 0 if valid else int(valid_pct * n)
    findings = [finding for root, found in files.items()
                for finding in _misplaced(root, found, _SAME if root.name == valid else _LAYOUT)]
    if not findings:
        findings = _lonely_classes([file for found in files.values() for file in found], folder)
    if not findings and (kind_and_reason := _too_little(counts[0], None if valid else n_valid, valid_pct)):
        findings = [Finding(folder, *kind_and_reason)]
    return PictureFolder(folder, train, valid, valid_pct, counts[0], counts[1] if valid else {}, n - n_valid, findings)


def _misplaced(root: Path, files: Sequence[Path], way_out: str) -> list[Finding]:
    """Of a folder of classes: that it holds no pictures, or holds some itself."""
    loose = [file for file in files if file.parent == root]
    if loose:
        others = f' (one of {len(loose):,})' if len(loose) > 1 else ''
        return [Finding(loose[0], 'outside a class', f'lies directly in {root}{others}: move each picture into a '
                                                     'folder named after its class')]
    return [] if files else [Finding(root, 'empty', f'holds no pictures: {way_out}')]


def _too_little(counts: dict[str, int], n_valid: int | None, valid_pct: float) -> tuple[str, str] | None:
    """What kind of finding these classes are, and its reason; `n_valid` is None where other pictures validate."""
    n = sum(counts.values())
    if len(counts) == 1:
        return 'one class', (f'holds pictures of one class only, {next(iter(counts))!r}: a classifier needs two '
                             'classes or more, each in a folder of its own')
    if n_valid is not None and n < 10:
        return 'too few', f'holds {n} pictures: 10 is the least to train and to validate with'
    if n_valid is not None and not 0 < n_valid < n - 1:
        left = 'is none to validate' if n_valid == 0 else 'leaves fewer than two to train'
        return 'too few', f'holds {n} pictures, of which a share of {valid_pct:g} {left} with'
    return None


_OWN = re.compile(r'.+\.(pth|pkl|distcp)|history\.csv|(run|items)-[0-9a-f]+\.jsonl?|\.(in-use|metadata)')
_OWN_FOLDERS = ('models', 'checkpoints')
"""What `learn.save`, `learn.export`, `CSVLogger` and checkpoints write: `learn.path` is the folder of the pictures."""


def _listing(folder: Path) -> tuple[list[Path], list[Finding], list[Path]]:
    """The pictures below `folder` as `get_image_files` lists them, what it leaves out, and files of minifast's own."""
    files, findings, own, seen = [], [], [], set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            findings.append(Finding(Path(parent), 'left out', 'a link to a folder that was listed already'))
            folders.clear()
            continue
        seen.add(real)
        for name in sorted(o for o in folders if o.startswith('.')):
            findings.append(Finding(Path(parent, name), 'left out', 'a hidden folder'))
        folders[:] = sorted(o for o in folders if not o.startswith('.'))
        before = len(files) + len(own)
        for name in sorted(names):
            path = Path(parent, name)
            if _OWN.fullmatch(name):
                own.append(path)
            elif name.startswith('.'):
                findings.append(Finding(path, 'left out', 'a hidden file'))
            elif path.suffix.lower() not in image_extensions:
                known = path.suffix.lower() in picture_suffixes()
                findings.append(Finding(path, 'left out', f'a picture whose suffix {path.suffix!r} is not looked for: '
                                        'rename it' if known else f'no picture by its suffix {path.suffix!r}'))
            else:
                files.append(path)
        if len(files) + len(own) == before and not folders and os.path.basename(parent) not in _OWN_FOLDERS:
            findings.append(Finding(Path(parent), 'empty', 'a folder without pictures'))
    return files, findings, own


class _Look(NamedTuple):
    """Of one file: digest of its bytes, error, complaint of the decoder, (width, height) upright, an alpha channel."""

    digest: str | None = None
    error: str | None = None
    words: str | None = None
    size: tuple[int, int] | None = None
    alpha: bool = False


def _look_at(path: Path) -> _Look:
    digest = None
    try:
        data = read_image_file(path)
        digest = hashlib.blake2b(data, digest_size=16).hexdigest()
        words = inspect_image(data, path)
    except BadImageError as e:
        return _Look(digest, e.reason)
    if (header := jpeg_header(data)) is not None:
        return _Look(digest, None, words, header.turn.of_size(header.size))
    with open_image(data) as image:
        return _Look(digest, None, words, image.size, image.has_transparency_data)


def _part(path: Path, folder: Path) -> str | None:
    return next((_PARTS[o.lower()] for o in path.relative_to(folder).parts[:-1] if o.lower() in _PARTS), None)


def _duplicates(files: list[Path], digests: list[str | None], folder: Path) -> list[Finding]:
    findings, groups = [], defaultdict(list)
    for path, digest in zip(files, digests):
        if digest is not None:
            groups[digest].append(path)
    for first, *others in groups.values():
        for path in others:
            parts = _part(first, folder), _part(path, folder)
            across = None not in parts and parts[0] != parts[1]
            words = f'the same bytes as {first}'
            findings.append(Finding(path, 'duplicate across parts' if across else 'duplicate',
                                    f'{words}: one is in {parts[0]}, one in {parts[1]}' if across else words))
    return findings


def _lonely_classes(files: list[Path], folder: Path) -> list[Finding]:
    """Class folders of a validation part that the training part does not have."""
    classes = defaultdict(dict)
    for path in files:
        part = _part(path, folder)
        if part is not None and _PARTS.get(path.parent.name.lower()) is None:
            classes[part].setdefault(path.parent.name, path.parent)
    if not classes['train']:
        return []
    return [Finding(where, 'class without training', f'is a class of the {part} part that the train part does not '
                                                     f'have: {_SAME}')
            for part in ('valid', 'test') for name, where in sorted(classes[part].items())
            if name not in classes['train']]


class FolderSurvey(NamedTuple):
    """What is known of a folder once every picture in it was read.

    Attributes:
        findings: what is wrong with which file, see `check_folder`.
        sizes: (width, height) in pixels, upright -> how many pictures have it.
        alpha: pictures with an alpha channel, which a training does not see.
        own: files that minifast has written, which a training passes over.
    """

    findings: list[Finding]
    sizes: Counter[tuple[int, int]]
    alpha: list[Path]
    own: list[Path]


@tells_near_match
def survey_folder(folder: str | Path, n_workers: int | None = None, progress: bool = True) -> FolderSurvey:
    """Read every picture below `folder` once: what is wrong with which, and of what sizes they are.

    `n_workers`, `progress` and the error are those of `check_folder`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"'{folder}' is no folder: name the one that holds your pictures")
    files, findings, own = _listing(folder)
    looks = _each(_look_at, files, n_workers or defaults.cpus, 'check' if progress else None)
    for path, look in zip(files, looks):
        if look.error is not None:
            findings.append(Finding(path, 'bad', look.error))
        elif look.words is not None:
            findings.append(Finding(path, 'damaged', look.words))
    findings += _duplicates(files, [look.digest for look in looks], folder) + _lonely_classes(files, folder)
    return FolderSurvey(findings, Counter(look.size for look in looks if look.size is not None),
                        [path for path, look in zip(files, looks) if look.alpha], own)


@tells_near_match
def check_folder(folder: str | Path, n_workers: int | None = None, progress: bool = True) -> list[Finding]:
    """Read every picture below `folder` once and say what is wrong with which.

    Kinds of findings:
        'bad': cannot be read; a training would stop there.
        'damaged': can be read, but the decoder complains; look at it.
        'duplicate': the same bytes as another.
        'duplicate across parts': one is in train, one in valid; results look better than they are.
        'class without training': a class of the validation part that the training part does not have.
        'empty': a folder without pictures.
        'left out': hidden, or no picture by its suffix; `get_image_files` passes it over.

    Args:
        folder: the folder.
        n_workers: threads; default `defaults.cpus`.
        progress: show a bar, in a notebook or a terminal; a log file gets none.

    Raises:
        ValueError: `folder` is no folder.
    """
    return survey_folder(folder, n_workers, progress).findings


# ---------------------------------------------------------------- resizing

@tells_near_match
def resize_to(img: Image.Image, targ_sz: int, use_min: bool = False) -> tuple[int, int]:
    """(width, height) at which the longer side (`use_min`: the shorter) of `img` is `targ_sz`, the aspect kept."""
    w, h = img.size
    ratio = as_side(targ_sz, 'targ_sz') / (min if use_min else max)(w, h)
    return int(w * ratio), int(h * ratio)


def resize_image(file: str | Path, dest: str | Path, src: str | Path = '.', max_size: int | None = None,
                 n_channels: int = 3, ext: str | None = None, img_format: str | None = None, resample: int = BILINEAR,
                 resume: bool = False, **kwargs: Any) -> None:
    """Write `src/file` to `dest/file`, no side longer than `max_size`; what cannot be read is passed over.

    Args:
        file: path below `src`.
        dest: folder to write to.
        src: folder to read from.
        max_size: pixels of the longer side; None keeps the size.
        n_channels: convert to RGB when 3.
        ext: suffix of the written file, e.g. '.png'; default: as it was.
        img_format: Pillow's name of the format; default: by the suffix.
        resample: Pillow's filter.
        resume: leave alone what is in `dest` already.
        **kwargs: go to Pillow's `save` (`quality`, ...).
    """
    max_size = None if max_size is None else as_side(max_size, 'max_size')
    source, target = Path(src) / file, Path(dest) / file
    if ext is not None:
        target = target.with_suffix(ext)
    if resume and target.exists():
        return
    try:
        img = load_image(source)
    except BadImageError:
        return  # as documented; `verify_images` and `check_folder` list them
    target.parent.mkdir(parents=True, exist_ok=True)
    too_large = max_size is not None and max(img.size) > max_size
    if not too_large and len(img.getbands()) == n_channels and ext is None:
        if source.resolve() != target.resolve():
            shutil.copy2(source, target)
        return
    if n_channels == 3:
        img = to_mode(img, 'RGB', source)
    if too_large:
        img = img.resize(tuple(max(side, 1) for side in resize_to(img, max_size)), resample=resample)
    # beside and renamed: resizing a folder in place and interrupted leaves no half pictures
    part = target.with_name(f'.{target.stem}.part{target.suffix}')
    img.save(part, img_format, **kwargs)
    part.replace(target)


def resize_images(path: str | Path, max_workers: int | None = None, max_size: int | None = None, recurse: bool = False,
                  dest: str | Path = '.', n_channels: int = 3, ext: str | None = None, img_format: str | None = None,
                  resample: int = BILINEAR, resume: bool | None = None, **kwargs: Any) -> None:
    """`resize_image` for each picture of a folder.

    Args:
        path: the folder.
        max_workers: threads; default `defaults.cpus`.
        max_size: the longer side at most, in pixels; None: as it is.
        n_channels: convert to RGB when 3.
        ext: suffix of the written files; default: as it was.
        img_format: Pillow's name of the format; default: by the suffix.
        resample: Pillow's filter.
        resume: leave out what is in `dest` already.
        recurse: the folders below it too.
        dest: folder to write to; may be `path` itself.
        **kwargs: go to Pillow's `save` (`quality`, ...).

    Example:
        >>> resize_images('photos', dest='photos-400', max_size=400, recurse=True)
    """
    path, dest = Path(path), Path(dest)
    max_size = None if max_size is None else as_side(max_size, 'max_size')  # before anything is written
    dest.mkdir(parents=True, exist_ok=True)
    files = [o.relative_to(path) for o in _listing(path)[0]]
    files = files if recurse else [o for o in files if len(o.parts) == 1]
    _each(lambda file: resize_image(file, dest, path, max_size, n_channels, ext, img_format, resample, bool(resume),
                                    **kwargs),
          files, defaults.cpus if max_workers is None else max_workers)
