"""Data sets from the network: addresses, a download that can be resumed, and an extraction that stays in its folder."""
from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from configparser import ConfigParser
from pathlib import Path
from typing import Any

from filelock import FileLock

from minifast.arguments import tells_near_match
from minifast.data.archives import extract_archive, links_stay
from minifast.terminal import nobody_watches, visible

__all__ = ['DataConfig', 'URLs', 'download_data', 'download_file', 'extract_archive', 'fastai_cfg', 'fastai_path',
           'untar_data']

_FOLDERS = {'data': 'data', 'archive': 'archive', 'storage': 'tmp', 'model': 'models'}
_CHUNK = 2 ** 18


class DataConfig:
    """Where things from the network are kept: `config['data']`, `config.path('archive')`.

    The folder is `$FASTAI_HOME`, else `~/.fastai`, so that data sets fetched before are found again; a `config.ini`
    there may name other places.

    Args:
        folder: the configuration's own folder; relative entries lie below it.
    """

    def __init__(self, folder: Path) -> None:
        self.config_path = folder
        self.config_file = folder / 'config.ini'
        parser = ConfigParser()
        parser.read(self.config_file)
        self.d = {**_FOLDERS, **parser['DEFAULT']}
        self.data, self.archive, self.storage, self.model = (self.d[k] for k in _FOLDERS)

    def __getitem__(self, key: str) -> str:
        return self.d[key]

    def path(self, key: str) -> Path:
        """The folder of the entry `key`, such as 'data'; relative ones are below the configuration's own."""
        return self.config_path / Path(self.d[key]).expanduser()


def fastai_cfg() -> DataConfig:
    """The configuration that says where data, archives and models are kept."""
    return DataConfig(Path(os.environ.get('FASTAI_HOME', '~/.fastai')).expanduser())


def fastai_path(folder: str) -> Path:
    """The local folder for `folder`: 'data', 'archive', 'model' or 'storage'."""
    return fastai_cfg().path(folder)


class URLs:
    """Addresses of the data sets of the fastai course and of a few others."""

    LOCAL_PATH = Path.cwd()
    MDL = 'http://files.fast.ai/models/'
    GOOGLE = 'https://storage.googleapis.com/'
    S3 = 'https://s3.amazonaws.com/fast-ai-'
    URL = f'{S3}sample/'
    S3_IMAGE = f'{S3}imageclas/'
    S3_IMAGELOC = f'{S3}imagelocal/'
    S3_AUDI = f'{S3}audio/'
    S3_NLP = f'{S3}nlp/'
    S3_COCO = f'{S3}coco/'
    S3_MODEL = f'{S3}modelzoo/'

    ADULT_SAMPLE = f'{URL}adult_sample.tgz'
    BIWI_SAMPLE = f'{URL}biwi_sample.tgz'
    CAMVID_TINY = f'{URL}camvid_tiny.tgz'
    CIFAR = f'{URL}cifar10.tgz'
    DOGS = f'{URL}dogscats.tgz'
    HUMAN_NUMBERS = f'{URL}human_numbers.tgz'
    IMDB_SAMPLE = f'{URL}imdb_sample.tgz'
    ML_SAMPLE = f'{URL}movie_lens_sample.tgz'
    MNIST_SAMPLE = f'{URL}mnist_sample.tgz'
    MNIST_TINY = f'{URL}mnist_tiny.tgz'
    PLANET_SAMPLE = f'{URL}planet_sample.tgz'
    PLANET_TINY = f'{URL}planet_tiny.tgz'

    CALTECH_101 = f'{S3_IMAGE}caltech_101.tgz'
    CARS = f'{S3_IMAGE}stanford-cars.tgz'
    CIFAR_100 = f'{S3_IMAGE}cifar100.tgz'
    CUB_200_2011 = f'{S3_IMAGE}CUB_200_2011.tgz'
    FLOWERS = f'{S3_IMAGE}oxford-102-flowers.tgz'
    FOOD = f'{S3_IMAGE}food-101.tgz'
    IMAGENETTE = f'{S3_IMAGE}imagenette2.tgz'
    IMAGENETTE_160 = f'{S3_IMAGE}imagenette2-160.tgz'
    IMAGENETTE_320 = f'{S3_IMAGE}imagenette2-320.tgz'
    IMAGEWANG = f'{S3_IMAGE}imagewang.tgz'
    IMAGEWANG_160 = f'{S3_IMAGE}imagewang-160.tgz'
    IMAGEWANG_320 = f'{S3_IMAGE}imagewang-320.tgz'
    IMAGEWOOF = f'{S3_IMAGE}imagewoof2.tgz'
    IMAGEWOOF_160 = f'{S3_IMAGE}imagewoof2-160.tgz'
    IMAGEWOOF_320 = f'{S3_IMAGE}imagewoof2-320.tgz'
    LSUN_BEDROOMS = f'{S3_IMAGE}bedroom.tgz'
    MNIST = f'{S3_IMAGE}mnist_png.tgz'
    MNIST_VAR_SIZE_TINY = f'{S3_IMAGE}mnist_var_size_tiny.tgz'
    PETS = f'{S3_IMAGE}oxford-iiit-pet.tgz'

    BIWI_HEAD_POSE = f'{S3_IMAGELOC}biwi_head_pose.tgz'
    CAMVID = f'{S3_IMAGELOC}camvid.tgz'
    COCO_SAMPLE = f'{S3_COCO}coco_sample.tgz'
    COCO_TINY = f'{S3_COCO}coco_tiny.tgz'
    PASCAL_2007 = f'{S3_IMAGELOC}pascal_2007.tgz'
    PASCAL_2012 = f'{S3_IMAGELOC}pascal_2012.tgz'
    SIIM_SMALL = f'{S3_IMAGELOC}siim_small.tgz'
    TCGA_SMALL = f'{S3_IMAGELOC}tcga_small.tgz'

    AG_NEWS = f'{S3_NLP}ag_news_csv.tgz'
    IMDB = f'{S3_NLP}imdb.tgz'
    ML_100k = 'https://files.grouplens.org/datasets/movielens/ml-100k.zip'
    WIKITEXT = f'{S3_NLP}wikitext-103.tgz'
    WIKITEXT_TINY = f'{S3_NLP}wikitext-2.tgz'

    @staticmethod
    def path(url: str = '.', c_key: str = 'archive') -> Path:
        """Where the file of `url` is kept: in `data/` or `models/` beside the script if there, else by `c_key`."""
        name = '' if url == '.' else _file_name_of(url)
        beside = URLs.LOCAL_PATH / ('models' if c_key == 'model' else 'data') / name
        return beside if beside.exists() else fastai_path(c_key) / name


# ---------------------------------------------------------------- download

def _sha256(path: Path) -> str:
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest() if hasattr(hashlib, 'file_digest') else \
            hashlib.sha256(file.read()).hexdigest()


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Redirects within the web; urllib itself would follow one to ftp."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """The next request, None to refuse it."""
        if not newurl.startswith(('http://', 'https://')):
            raise urllib.error.HTTPError(req.full_url, code, f'a redirect to {newurl!r}, which is no http:// or '
                                                             'https:// address', headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def open_url(url: str | urllib.request.Request, timeout: float = 30) -> Any:
    """`urllib.request.urlopen` for http and https and nothing else, also behind redirects.

    With an opener of its own: urllib keeps its first one, and the proxy that was set then, for the whole process.

    Raises:
        OSError: it could not be opened.
    """
    opener = urllib.request.OpenerDirector()
    for handler in (urllib.request.ProxyHandler, urllib.request.HTTPHandler, urllib.request.HTTPSHandler,
                    urllib.request.HTTPDefaultErrorHandler, urllib.request.HTTPErrorProcessor,
                    urllib.request.UnknownHandler, _Redirects):
        opener.add_handler(handler())
    try:
        return opener.open(url, timeout=timeout)
    except (http.client.HTTPException, ValueError) as error:  # an answer, or an address, that is none
        raise OSError(f'{type(error).__name__}: {error}') from error


def _file_name_of(url: str) -> str:
    """The name of the file at an address, as it is written there.

    Raises:
        ValueError: it is no name of a file: empty, `.`, `..`, or with a separator or a control character in it.
    """
    name = re.split('[?#]', url)[0].rstrip('/').split('/')[-1]
    if not name.strip('.') or not _stem(name).strip('.') or visible(name) != name or any(c in name for c in '\\:'):
        raise ValueError(f'{url!r} does not end in the name of a file: download it with download_file(url, dest) and '
                         'name the file yourself')
    return name


def _request(url: str, start: int, timeout: float) -> Any:
    headers = {'User-Agent': 'minifast'}
    if start:
        headers['Range'] = f'bytes={start}-'
    return open_url(urllib.request.Request(url, headers=headers), timeout)


def _fetch(url: str, part: Path, timeout: float, progress: bool, max_bytes: int | None) -> None:
    """Fetch into `part`, from where an earlier attempt stopped if the server can do that.

    Raises:
        _TooLargeError: more bytes are announced, or come, than `max_bytes` or the disk has room for.
        OSError: it broke off.
    """
    from tqdm.auto import tqdm
    start = part.stat().st_size if part.exists() else 0
    try:
        response = _request(url, start, timeout)
    except urllib.error.HTTPError as e:
        if e.code != 416 or not start:  # 416: nothing lies behind `start`; the part is whole, or of another file
            raise
        part.unlink()
        start, response = 0, _request(url, 0, timeout)
    with response:
        if response.status != 206:  # the server sends the whole file again
            start = 0
        length = response.headers.get('Content-Length') or ''
        total = start + int(length) if length.isdecimal() else None
        room = shutil.disk_usage(part.parent).free + start
        limit = room if max_bytes is None else min(max_bytes, room)
        if total is not None and total > limit:
            raise _TooLargeError(_too_large(url, f'{total:,} bytes', limit))
        with open(part, 'ab' if start else 'wb') as file, \
                tqdm(total=total, initial=start, unit='B', unit_scale=True, desc=visible(part.stem),
                     disable=nobody_watches(progress)) as bar:
            while chunk := response.read(_CHUNK):
                if max_bytes is not None and file.tell() + len(chunk) > max_bytes:
                    raise _TooLargeError(_too_large(url, 'no length and goes on', max_bytes))
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and part.stat().st_size != total:
        raise OSError(f'{url} sent {part.stat().st_size:,} of {total:,} bytes and stopped: run it again, '
                      'it goes on from there')


class _TooLargeError(ValueError):
    """There is no use in another attempt."""


def _too_large(url: str, what: str, limit: int) -> str:
    return f'{url} sends {what}: more than the {limit:,} bytes that are allowed, or that the disk has left'


def waiting(file: Path) -> FileLock:
    """A context in which no other process of this user on this machine is, that has asked for the same `file`.

    The processes of one training begin by the same lines: one of them fetches, the others find what it has fetched. The
    lock lies in the system's folder for temporary files, so that none is left beside the data.
    """
    user = str(getattr(os, 'getuid', int)())
    name = hashlib.blake2b(os.fsencode(os.path.abspath(file)), digest_size=12).hexdigest()
    return FileLock(Path(tempfile.gettempdir(), f'minifast-{user}-{name}.lock'))


@tells_near_match
def download_file(url: str, dest: str | Path, checksum: str | None = None, force: bool = False, timeout: float = 30,
                  progress: bool = True, retries: int = 3, max_bytes: int | None = None) -> Path:
    """Fetch `url` into the file `dest`, which appears only when it is whole.

    What an interrupted attempt left in `dest.part` is continued. Of several processes that ask for the same file at
    once, one fetches it.

    Args:
        url: an address with http or https.
        dest: the file.
        checksum: SHA-256 of the file in hex; checked also when the file is there already.
        force: fetch again what is there.
        timeout: seconds without a byte before an attempt is given up.
        progress: show a bar, in a notebook or a terminal; a log file gets none.
        retries: attempts after a broken connection.
        max_bytes: the largest file that is taken; default: what the disk has room for.

    Raises:
        ValueError: the address is no http(s), the file is too large, or the checksum differs (the file is removed).
        OSError: the file could not be fetched.
    """
    with waiting(Path(dest)):
        return fetch_file(url, Path(dest), checksum, force, timeout, progress, retries, max_bytes)


def fetch_file(url: str, dest: Path, checksum: str | None = None, force: bool = False, timeout: float = 30,
               progress: bool = True, retries: int = 3, max_bytes: int | None = None) -> Path:
    """`download_file` into a `dest` that no other process asks for: without a lock, whose file would stay; `url`,
    `checksum`, `force`, `timeout`, `progress`, `retries` and `max_bytes` are as there."""
    if not url.startswith(('http://', 'https://')):
        raise ValueError(f'{url!r} is no http:// or https:// address')
    part = dest.with_name(dest.name + '.part')
    if force:
        dest.unlink(missing_ok=True)
        part.unlink(missing_ok=True)
    if not dest.exists():
        dest.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(retries + 1):
            try:
                _fetch(url, part, timeout, progress, max_bytes)
                break
            except _TooLargeError:
                part.unlink(missing_ok=True)
                raise
            except urllib.error.HTTPError as e:
                raise OSError(f'{url} answers {e.code} {e.reason}: check the address') from e
            except (OSError, http.client.HTTPException) as e:
                if attempt == retries:
                    raise OSError(f'{url} could not be fetched after {retries + 1} attempts ({e}); what came is '
                                  f'kept in {part} and continued next time') from e
        checked = part
    else:
        checked = dest
    if checksum is not None and (found := _sha256(checked)) != checksum.lower():
        checked.unlink()
        raise ValueError(f'{url} has SHA-256 {found}, expected {checksum}: the file was removed; fetch it again, '
                         'or ask who gave you the checksum')
    if checked is part:
        part.replace(dest)
    return dest


@tells_near_match
def download_data(url: str, fname: str | Path | None = None, c_key: str = 'archive', force_download: bool = False,
                  timeout: float = 30, checksum: str | None = None) -> Path:
    """Fetch the archive at `url` and return its path.

    Args:
        url: an address with http or https.
        fname: the file to write; default: `URLs.path(url, c_key)`.
        c_key: the configuration's entry, see `DataConfig`.
        force_download: fetch again what is there.
        timeout, checksum: as in `download_file`.
    """
    return download_file(url, URLs.path(url, c_key) if fname is None else fname, checksum, force_download, timeout)


@tells_near_match
def untar_data(url: str, archive: str | Path | None = None, data: str | Path | None = None, c_key: str = 'data',
               force_download: bool = False, base: str | Path | None = None, checksum: str | None = None,
               extract_func: Callable[[Path, Path], Any] = extract_archive) -> Path:
    """Fetch the archive at `url` and extract it, each once; the path of the extracted folder.

    The only folder of an archive becomes that folder, as long as no link in it leads further up. Of several processes
    that ask for the same archive at once, one fetches and extracts it.

    Args:
        url: of a zip or tar archive.
        archive: folder for archives, over the configuration's.
        data: folder to extract into, over the configuration's.
        c_key: the configuration's entry to extract into ('data', 'model').
        force_download: fetch and extract anew.
        base: folder of the configuration; default `$FASTAI_HOME` or `~/.fastai`.
        checksum: SHA-256 of the archive in hex.
        extract_func: called with (archive, folder) instead of `extract_archive`.

    Raises:
        ValueError: checksum or archive are not as they should be.
        OSError: it could not be fetched.
    """
    config = fastai_cfg() if base is None else DataConfig(Path(base).expanduser())
    archives = config.path('archive') if archive is None else config.config_path / Path(archive).expanduser()
    folder = config.path(c_key) if data is None else config.config_path / Path(data).expanduser()
    name = _file_name_of(url)
    dest = folder / _stem(name)
    if dest.exists() and not force_download:
        return dest
    with waiting(dest):
        if not dest.exists() or force_download:
            fetched = download_file(url, archives / name, checksum, force_download)
            _extract(fetched, dest, url, extract_func)
    return dest


def _extract(archive: Path, dest: Path, url: str, extract_func: Callable[[Path, Path], Any]) -> None:
    # extracted beside and renamed: what is in `dest` is whole, also after a kill
    unpacking = dest.parent / f'.{dest.name}.{os.getpid()}.part'
    shutil.rmtree(unpacking, ignore_errors=True)
    try:
        extract_func(archive, unpacking)
        found = [o for o in unpacking.iterdir() if o.name != '__MACOSX']
        if not links_stay(unpacking):
            raise ValueError(f'{url} has links that lead out of its folder: nothing was kept of it')
        # its only folder becomes ours, unless a link of it would lead out of there
        only = len(found) == 1 and found[0].is_dir() and not found[0].is_symlink() and links_stay(found[0])
        whole = found[0] if only else unpacking
        if dest.is_dir() and not dest.is_symlink():
            shutil.rmtree(dest)
        else:
            dest.unlink(missing_ok=True)
        whole.replace(dest)
    finally:
        shutil.rmtree(unpacking, ignore_errors=True)


def _stem(name: str) -> str:
    for suffix in ('.tar.gz', '.tar.bz2', '.tar.xz', '.tgz', '.tar', '.zip'):
        if name.endswith(suffix):
            return name[:-len(suffix)]
    return name
