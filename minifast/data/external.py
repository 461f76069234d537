"""Data sets from the network: addresses, a download that can be resumed, and an extraction that stays in its folder."""
from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from configparser import ConfigParser
from pathlib import Path, PurePosixPath
from typing import Any

from minifast.arguments import tells_near_match

__all__ = ['DataConfig', 'URLs', 'download_data', 'download_file', 'extract_archive', 'fastai_cfg', 'fastai_path',
           'untar_data']

_FOLDERS = {'data': 'data', 'archive': 'archive', 'storage': 'tmp', 'model': 'models'}
_CHUNK = 2 ** 18


class DataConfig:
    """Where things from the network are kept: `config['data']`, `config.path('archive')`.

    The folder is `$FASTAI_HOME`, else `~/.fastai`, so that data sets fetched before are found again; a `config.ini`
    there may name other places.
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
        """The folder of an entry; relative ones are below the configuration's own folder."""
        return self.config_path / Path(self.d[key]).expanduser()


def fastai_cfg() -> DataConfig:
    """The configuration that says where data, archives and models are kept."""
    return DataConfig(Path(os.environ.get('FASTAI_HOME', '~/.fastai')).expanduser())


def fastai_path(folder: str) -> Path:
    """The local folder for 'data', 'archive', 'model' or 'storage'."""
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
        """Where the file of an address is kept: beside the script (`data/` or `models/`) if it is there, else by
        `c_key`."""
        name = url.split('/')[-1]
        beside = URLs.LOCAL_PATH / ('models' if c_key == 'model' else 'data') / name
        return beside if beside.exists() else fastai_path(c_key) / name


# ---------------------------------------------------------------- download

def _sha256(path: Path) -> str:
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest() if hasattr(hashlib, 'file_digest') else \
            hashlib.sha256(file.read()).hexdigest()


def _request(url: str, start: int, timeout: float) -> Any:
    headers = {'User-Agent': 'minifast'}
    if start:
        headers['Range'] = f'bytes={start}-'
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)


def _fetch(url: str, part: Path, timeout: float, progress: bool) -> None:
    """Fetch into `part`, from where an earlier attempt stopped if the server can do that."""
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
        length = response.headers.get('Content-Length')
        total = None if length is None else start + int(length)
        with open(part, 'ab' if start else 'wb') as file, \
                tqdm(total=total, initial=start, unit='B', unit_scale=True, desc=part.stem,
                     disable=not progress) as bar:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and part.stat().st_size != total:
        raise OSError(f'{url} sent {part.stat().st_size:,} of {total:,} bytes and stopped: run it again, '
                      'it goes on from there')


@tells_near_match
def download_file(url: str, dest: str | Path, checksum: str | None = None, force: bool = False, timeout: float = 30,
                  progress: bool = True, retries: int = 3) -> Path:
    """Fetch `url` into the file `dest`, which appears only when it is whole.

    What an interrupted attempt left in `dest.part` is continued.

    Args:
        checksum: SHA-256 of the file in hex; checked also when the file is there already.
        force: fetch again what is there.
        timeout: seconds without a byte before an attempt is given up.
        retries: attempts after a broken connection.

    Raises:
        ValueError: the address is no http(s), or the checksum differs (the file is removed).
        OSError: the file could not be fetched.
    """
    if not url.startswith(('http://', 'https://')):
        raise ValueError(f'{url!r} is no http:// or https:// address')
    dest = Path(dest)
    part = dest.with_name(dest.name + '.part')
    if force:
        dest.unlink(missing_ok=True)
        part.unlink(missing_ok=True)
    if not dest.exists():
        dest.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(retries + 1):
            try:
                _fetch(url, part, timeout, progress)
                break
            except urllib.error.HTTPError as e:
                raise OSError(f'{url} answers {e.code} {e.reason}: check the address') from e
            except OSError as e:
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
    """Fetch the archive at `url` (default: into the archive folder) and return its path."""
    return download_file(url, URLs.path(url, c_key) if fname is None else fname, checksum, force_download, timeout)


# ---------------------------------------------------------------- extraction

def _inside(name: str, folder: Path) -> Path:
    """The path of an archive's member below `folder`.

    Raises:
        ValueError: it would lie elsewhere.
    """
    pure = PurePosixPath(name.replace('\\', '/'))
    if pure.is_absolute() or '..' in pure.parts or (pure.parts and ':' in pure.parts[0]):
        raise ValueError(f'the archive has a member {name!r}, which would be written outside of {folder}: '
                         'it was not extracted')
    return folder / pure


def _extract_tar(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as tar:
        for member in tar:
            _inside(member.name, folder)
            if member.issym() or member.islnk():
                target = PurePosixPath(member.linkname)
                target = target if member.islnk() else PurePosixPath(member.name).parent / target
                depth = 0
                for step in target.parts:  # a link may climb within the archive, never above its top
                    depth += -1 if step == '..' else 0 if step == '.' else 1
                    if depth < 0:
                        break
                if target.is_absolute() or depth < 0:
                    raise ValueError(f'the archive has a link {member.name!r} to {member.linkname!r}, outside of '
                                     f'{folder}: it was not extracted')
            elif not (member.isfile() or member.isdir()):
                raise ValueError(f'the archive has a device or pipe {member.name!r}: it was not extracted')
            # the standard filter checks again what is on the disk by now, such as a folder replaced by a link
            tar.extract(member, folder, filter='data')


def _extract_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as zipped:
        for info in zipped.infolist():
            _inside(info.filename, folder)
        zipped.extractall(folder)  # zipfile writes links as plain files


def extract_archive(archive: str | Path, folder: str | Path) -> Path:
    """Extract a .tar(.gz|.bz2|.xz), .tgz or .zip into the empty or new `folder`, and nowhere else.

    Raises:
        ValueError: a member or link leads outside, the format is not known (nothing stays in `folder` then), or
            `folder` holds something already.
    """
    archive, folder = Path(archive), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ValueError(f'{folder} is not empty: name a new folder, so that nothing of yours is mixed up or replaced')
    try:
        if zipfile.is_zipfile(archive):
            _extract_zip(archive, folder)
        elif tarfile.is_tarfile(archive):
            _extract_tar(archive, folder)
        else:
            raise ValueError(f'{archive} is neither a tar nor a zip archive: delete it and fetch it again')
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as e:
        shutil.rmtree(folder, ignore_errors=True)
        raise ValueError(f'{archive} could not be extracted ({e}): nothing was kept of it') from e
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


@tells_near_match
def untar_data(url: str, archive: str | Path | None = None, data: str | Path | None = None, c_key: str = 'data',
               force_download: bool = False, base: str | Path | None = None, checksum: str | None = None,
               extract_func: Callable[[Path, Path], Any] = extract_archive) -> Path:
    """Fetch the archive at `url` and extract it, each once; the path of the extracted folder (or single file).

    Args:
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
    name = url.split('?')[0].rstrip('/').split('/')[-1]
    dest = folder / _stem(name)
    if dest.exists() and not force_download:
        return dest
    fetched = download_file(url, archives / name, checksum, force_download)
    # extracted beside and renamed: what is in `dest` is whole, also after a kill
    unpacking = folder / f'.{dest.name}.{os.getpid()}.part'
    shutil.rmtree(unpacking, ignore_errors=True)
    extract_func(fetched, unpacking)
    found = [o for o in unpacking.iterdir() if o.name != '__MACOSX']
    if dest.is_dir():
        shutil.rmtree(dest)
    elif dest.exists():
        dest.unlink()
    if len(found) == 1 and found[0].is_dir():
        found[0].replace(dest)
        shutil.rmtree(unpacking)
    else:
        unpacking.replace(dest)
    return dest


def _stem(name: str) -> str:
    for suffix in ('.tar.gz', '.tar.bz2', '.tar.xz', '.tgz', '.tar', '.zip'):
        if name.endswith(suffix):
            return name[:-len(suffix)]
    return name
