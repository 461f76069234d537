"""Pictures in blocks and loaders: every way to make them, every kind of target, and how batches of them look."""
from __future__ import annotations

import copy
import io
import shutil
import weakref

import numpy as np
import pandas as pd
import pytest
import torch
from fastcore.foundation import L
from PIL import Image
from torch import nn

from minifast.data import transforms
from minifast.data.block import CategoryBlock, DataBlock, MultiCategoryBlock, RegressionBlock, TransformBlock
from minifast.data.collate import Slots, Target
from minifast.data.core import DataLoaders, Datasets
from minifast.data.transform import Pipeline, Transform
from minifast.data.sampler import ITEM
from minifast.data.transforms import (ByteTable, Category, IntToFloatTensor, Normalize, RandomSplitter, ToTensor, get_c,
                                      get_image_files, parent_label)
from minifast.export import to_torch
from minifast.learner import Learner
from minifast.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat, MSELossFlat
from minifast.markers import (TensorCategory, TensorImage, TensorImageBW, TensorMask, TensorMultiCategory,
                              plain)
from minifast.seeds import keyed_generator
from minifast.show import get_grid
from minifast.vision.augment import (Brightness, DihedralItem, FlipItem, RandomCrop, RandomResizedCrop, RatioResize,
                                     Resize, aug_transforms)
from minifast.vision.core import (BadImageError, BBoxLabeler, OpenImage, PILImage, PILImageBW, PILMask, TensorBBox,
                                  TensorPoint, imagenet_stats)
from minifast.vision.data import (BBoxBlock, BBoxLblBlock, ImageBlock, ImageDataLoaders, MaskBlock, PointBlock,
                                  SegmentationDataLoaders, bb_pad, clip_remove_empty, show_batch, show_results)

SETTINGS = {'item_tfms': Resize(16), 'bs': 4, 'device': 'cpu'}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Red cats and blue dogs, 32x24, in train and valid, and a mask of each."""
    path = tmp_path_factory.mktemp('pets')
    rng = np.random.RandomState(0)
    for part, n in (('train', 8), ('valid', 4)):
        for label, channel in (('cat', 0), ('dog', 2)):
            (path / part / label).mkdir(parents=True)
            for i in range(n // 2):
                pixels = rng.randint(0, 60, (24, 32, 3), np.uint8)
                pixels[6:18, 8:24, channel] = 230
                Image.fromarray(pixels).save(path / part / label / f'{label}_{i}.{"png" if i else "jpg"}')
    (path / 'masks').mkdir()
    for f in get_image_files(path / 'train'):
        Image.fromarray((np.asarray(PILImage.create(f)).max(-1) > 128).astype(np.uint8)).save(
            path / 'masks' / f'{f.stem}.png')
    return path


def _mask_of(f):
    return f.parent.parent.parent / 'masks' / f'{f.stem}.png'


def _files(path):
    return get_image_files(path, folders=['train', 'valid'])


def _frame(path):
    files = _files(path)
    return pd.DataFrame({'name': [str(f.relative_to(path).with_suffix('')) for f in files],
                         'label': [f.parent.name for f in files],
                         'kinds': ['a b' if 'cat' in str(f) else 'b' for f in files],
                         'is_valid': [f.parent.parent.name == 'valid' for f in files],
                         'suffix': [f.suffix for f in files]})


FACTORIES = {
    'from_folder': lambda p: ImageDataLoaders.from_folder(p, **SETTINGS),
    'from_folder pct': lambda p: ImageDataLoaders.from_folder(p / 'train', valid_pct=.25, seed=1, **SETTINGS),
    'from_folder vocab': lambda p: ImageDataLoaders.from_folder(p, vocab=['dog', 'cat'], **SETTINGS),
    'from_path_func': lambda p: ImageDataLoaders.from_path_func(p, _files(p), parent_label, seed=1, **SETTINGS),
    'from_name_func': lambda p: ImageDataLoaders.from_name_func(p, _files(p), lambda n: n[:3], **SETTINGS),
    'from_path_re': lambda p: ImageDataLoaders.from_path_re(p, _files(p), r'/([^/]+)_\d+.\w+$', **SETTINGS),
    'from_name_re': lambda p: ImageDataLoaders.from_name_re(p, _files(p), r'^(\w+)_\d+', **SETTINGS),
    'from_lists': lambda p: ImageDataLoaders.from_lists(p, _files(p), [f.parent.name for f in _files(p)], **SETTINGS),
}


@pytest.mark.parametrize('name', FACTORIES)
def test_factory_gives_batches_of_pictures_and_categories(name, folder):
    """Each way of naming the labels gives float pictures in 0..1, codes, and the same two classes."""
    dls = FACTORIES[name](folder)
    x, y = dls.one_batch()
    assert type(x) is TensorImage and x.shape == (4, 3, 16,
                                                  16) and x.dtype == torch.float32 and 0 <= x.min() <= x.max() <= 1
    assert type(y) is TensorCategory and y.dtype == torch.int64
    assert sorted(dls.vocab) == ['cat', 'dog'] and dls.c == get_c(dls) == 2
    red_first = x[:, 0].mean((1, 2)) > x[:, 2].mean((1, 2))
    assert torch.equal(red_first, y.as_subclass(torch.Tensor) == dls.vocab.o2i['cat'])


@pytest.mark.parametrize('kwargs', [{}, {'valid_pct': .25, 'seed': 1}], ids=['folders', 'at random'])
def test_a_vocabulary_that_is_given_counts_classes_without_a_picture_too(kwargs, folder):
    """However the pictures are split: the codes are those of the classes that were said, not of those that are here."""
    source = folder / 'train' if kwargs else folder
    dls = ImageDataLoaders.from_folder(source, vocab=['ant', 'dog', 'bird', 'cat'], **kwargs, **SETTINGS)
    assert sorted(dls.vocab) == ['ant', 'bird', 'cat', 'dog'] and dls.c == 4
    codes = {item.parent.name: int(dl.dataset[i][1]) for dl in dls for i, item in enumerate(dl.dataset.items)}
    assert codes == {name: dls.vocab.o2i[name] for name in ('cat', 'dog')}


def test_tables_and_lists_choose_the_kind_of_target(folder):
    """Columns, delimiters, folders and suffixes of a table; floats and lists of labels."""
    frame = _frame(folder)
    png = frame[frame.suffix == '.png']
    dls = ImageDataLoaders.from_df(png, folder, fn_col='name', label_col='label', suff='.png', valid_col='is_valid',
                                   **SETTINGS)
    assert len(dls.train_ds) == 6 and len(dls.valid_ds) == 2 and list(dls.vocab) == ['cat', 'dog']
    png.to_csv(folder / 'labels.csv', index=False)
    dls = ImageDataLoaders.from_csv(folder, label_col='kinds', label_delim=' ', suff='.png', seed=1, **SETTINGS)
    y = dls.one_batch()[1]
    assert type(y) is TensorMultiCategory and y.shape == (4, 2) and list(dls.vocab) == ['a', 'b']
    files = _files(folder)
    numbers = ImageDataLoaders.from_lists(folder, files, [float(i) for i in range(len(files))], **SETTINGS)
    assert numbers.one_batch()[1].dtype == torch.float32 and get_c(numbers) == 1
    several = ImageDataLoaders.from_lists(folder, files, [['a', 'b'], ['b', 'c']] * (len(files) // 2), **SETTINGS)
    assert several.one_batch()[1].shape == (4, 3)


def test_unknown_keyword_names_the_near_match(folder):
    """A slip of the pen is not swallowed: the script runs on, as it does with fastai, and is told what was left out."""
    with pytest.warns(UserWarning, match="'item_tfm' .*did you mean 'item_tfms'"):
        ImageDataLoaders.from_folder(folder, item_tfm=Resize(16))
    with pytest.warns(UserWarning, match="'size' .*item_tfms=Resize"):
        ImageDataLoaders.from_folder(folder, size=16, **SETTINGS)
    with pytest.warns(UserWarning, match=r"from_csv\(\) takes no keyword argument 'label_colum' .*'label_col'"):
        frame = _frame(folder)
        frame[frame.suffix == '.png'].to_csv(folder / 'all.csv', index=False)
        ImageDataLoaders.from_csv(folder, 'all.csv', suff='.png', label_colum=1, label_col='label', **SETTINGS)


def test_segmentation_masks_move_with_their_pictures(folder):
    """After cropping and all augmentations a mask still covers the bright part of its picture."""
    dls = SegmentationDataLoaders.from_label_func(
        folder, get_image_files(folder / 'train'), _mask_of, codes=['back', 'pet'], valid_pct=.25, bs=4, device='cpu',
        item_tfms=RandomResizedCrop(32, min_scale=.6), batch_tfms=aug_transforms(max_lighting=0, pad_mode='zeros'))
    x, y = dls.one_batch()
    assert type(y) is TensorMask and y.dtype == torch.int64 and y.shape == (4, 32, 32) and get_c(dls) == 2
    bright = x.amax(1) > .55
    assert (bright == (y.as_subclass(torch.Tensor) == 1)).float().mean() > .95
    assert isinstance(dls.train_ds.loss_func, CrossEntropyLossFlat)
    assert dls.train.decode_batch((x, y))[0][1].codes == ['back', 'pet']


def _points(f):
    return [[8, 6], [24, 18]]


def _boxes(f):
    return [[8, 6, 24, 18]] if f.suffix == '.jpg' else [[8, 6, 24, 18], [0, 0, 8, 6]]


def _box_labels(f):
    return [f.parent.name] if f.suffix == '.jpg' else [f.parent.name, 'corner']


def _block(*blocks, **kwargs) -> DataBlock:
    return DataBlock(blocks=blocks, get_items=get_image_files, splitter=RandomSplitter(seed=1),
                     item_tfms=Resize(32, method='squish'), **kwargs)


def test_points_are_scaled_and_shown_in_pixels(folder):
    """In a batch -1..1, decoded pixels of the resized picture; the loss is the squared error of c numbers."""
    dls = _block(ImageBlock, PointBlock, get_y=_points).dataloaders(folder / 'train', bs=4, device='cpu')
    x, y = dls.one_batch()
    assert type(y) is TensorPoint and y.shape == (4, 2, 2) and get_c(dls) == 4
    torch.testing.assert_close(y[0].as_subclass(torch.Tensor), torch.tensor([[-.5, -.5], [.5, .5]]))
    assert isinstance(dls.train_ds.loss_func, type(MSELossFlat()))
    assert dls.train.decode_batch((x, y))[0][1].tolist() == [[8, 8], [24, 24]]


def test_boxes_are_padded_to_one_shape_and_labelled(folder):
    """Samples of one and two boxes share a batch; what was filled up is '#na#' and not shown."""
    block = _block(ImageBlock, BBoxBlock, BBoxLblBlock, getters=[lambda f: f, _boxes, _box_labels], n_inp=1)
    dls = block.dataloaders(folder / 'train', bs=6, device='cpu')
    x, boxes, labels = dls.one_batch()
    assert type(boxes) is TensorBBox and boxes.shape == (6, 2, 4) and labels.shape == (6, 2)
    assert list(dls.vocab) == ['#na#', 'cat', 'corner', 'dog']
    filled = labels[:, 1] == 0
    assert filled.any() and (boxes[filled][:, 1] == 0).all()
    labeled = dls.train.decode_batch((x, boxes, labels))[0][2]
    torch.testing.assert_close(labeled.bbox[0].as_subclass(torch.Tensor), torch.tensor([8., 8, 24, 24]))


def test_boxes_bear_the_names_that_are_told(folder):
    """`vocab` of `BBoxLabeler`, over the loader's."""
    block = _block(ImageBlock, BBoxBlock, BBoxLblBlock, getters=[lambda f: f, _boxes, _box_labels], n_inp=1)
    dls = block.dataloaders(folder / 'train', bs=6, device='cpu')
    b = dls.one_batch()
    of_loader, own = BBoxLabeler(), BBoxLabeler(vocab=['nothing', 'Katze', 'Ecke', 'Hund'])
    for labeler in (of_loader, own):
        labeler.setup(dls.train)
    names = [set(labeler.decode((b[0][0], b[1][0], b[2][0]))[2].lbl) for labeler in (of_loader, own)]
    assert names[0] <= {'#na#', 'cat', 'corner', 'dog'} and names[1] <= {'nothing', 'Katze', 'Ecke', 'Hund'}


def test_clip_remove_empty_and_bb_pad():
    """Boxes are cut at the picture's edge; those wholly outside go with their labels."""
    boxes = TensorBBox(torch.tensor([[-2., -.5, .5, .5], [1.5, 0, 2, 1], [0, 0, 1, 1]]))
    kept, labels = clip_remove_empty(boxes, TensorMultiCategory(torch.tensor([1, 2, 3])))
    assert kept.tolist() == [[-1, -.5, .5, .5], [0, 0, 1, 1]] and labels.tolist() == [1, 3]
    assert type(kept) is TensorBBox and type(labels) is TensorMultiCategory
    image = TensorImage(torch.rand(3, 4, 4))
    samples = [(image, boxes, labels.new_tensor([1, 2, 3])), (image, boxes[2:], labels.new_tensor([7]))]
    first, second = bb_pad(samples, pad_idx=9)
    assert len(first[1]) == len(second[1]) == 2 and second[2].tolist() == [7, 9]


def test_middle_level_and_by_hand_give_the_same_batch(folder):
    """Datasets with lists of transforms, and everything called by hand, are the same as the ready-made loaders."""
    files = get_image_files(folder / 'train')
    tfms = [[PILImage.create], [parent_label, lambda o: int(o == 'dog')]]
    dsets = Datasets(files, tfms, splits=[list(range(6)), [6, 7]])
    normalize = Normalize.from_stats(*imagenet_stats, cuda=False)
    dl = dsets.dataloaders(bs=2, after_item=[Resize(16), ToTensor], after_batch=[IntToFloatTensor(), normalize],
                           device='cpu').valid
    x, y = next(iter(dl))
    ims = torch.stack([Resize(16)(PILImage.create(f), split_idx=1).to_tensor() for f in files[6:]]).float() / 255
    mean, std = (torch.tensor(s)[:, None, None] for s in imagenet_stats)
    torch.testing.assert_close(x.as_subclass(torch.Tensor), (ims - mean) / std)
    assert type(dsets[0][0]) is PILImage and y.tolist() == [1, 1]


@pytest.mark.parametrize('settings', [{'num_workers': 2}, {'num_workers': 2, 'multiprocessing_context': 'thread'}],
                         ids=['processes', 'threads'])
def test_batches_are_the_same_for_any_workers(settings, folder):
    """Crops and flips are a function of seed, epoch and index; light and geometry of seed and step."""
    def _batches(**kwargs):
        dls = ImageDataLoaders.from_folder(folder, item_tfms=RandomResizedCrop(16), batch_tfms=aug_transforms(), bs=4,
                                           device='cpu', **kwargs)
        dls.train.begin(7, 3)
        return [x for x, _ in dls.train]
    alone, together = _batches(num_workers=0), _batches(**settings)
    assert len(alone) == 2 and all(map(torch.equal, alone, together))


@pytest.mark.parametrize('item_tfms', [[FlipItem(), RandomResizedCrop(16)], Resize(20), [Resize(20), RandomCrop(16)],
                                       [RatioResize(30), RandomResizedCrop(16)],
                                       [Resize(16), DihedralItem()], Resize(16, method='pad')],
                         ids=['crop and flip', 'resize', 'resize, then crop', 'twice', 'dihedral', 'pad'])
@pytest.mark.parametrize('bs', [3, 8])
def test_a_batch_is_its_items_whatever_batch_they_are_in(item_tfms, bs, folder):
    """Pixels are written straight into their batch, and come out as if each picture had a batch of its own."""
    dls = [ImageDataLoaders.from_folder(folder, item_tfms=item_tfms, bs=n, device='cpu', num_workers=0,
                                        after_batch=Normalize.from_stats(*imagenet_stats)) for n in (bs, 1)]
    for dl in dls:
        dl.train.begin(7, 3)
    batches, single = ([x for x, _ in dl.train] for dl in dls)
    assert len(batches) == 8 // bs and torch.equal(torch.cat(batches), torch.cat(single)[:8 // bs * bs])
    assert len({x.data_ptr() for x in batches}) == len(batches)


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('flipped', [False, True])
def test_a_window_of_a_jpeg_is_resized_before_it_is_turned(orientation, flipped, tmp_path):
    """In a loader the turn and the mirroring wait until the window is small: the same picture within rounding."""
    from sklearn.datasets import load_sample_images
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(load_sample_images().images[0][:240, :320]).save(tmp_path / 'a.jpg', quality=95, exif=exif)
    tfms = [FlipItem(p=float(flipped)), RandomResizedCrop(64, min_scale=.3)]
    block = DataBlock(blocks=(ImageBlock, RegressionBlock), get_y=lambda f: 1., item_tfms=tfms,
                      splitter=lambda o: ([0], [0]))
    dl = block.dataloaders([tmp_path / 'a.jpg'], bs=1, device='cpu').train
    dl.begin(5, 2)
    inside = (next(iter(dl))[0][0] * 255).round()
    im, generator = PILImage.create(tmp_path / 'a.jpg'), keyed_generator(5, ITEM, 2, 0)
    for tfm in tfms:
        im = tfm(im, split_idx=0, generator=generator)
    assert (inside - torch.from_numpy(np.array(im)).permute(2, 0, 1)).abs().max() <= 1


def test_bytes_become_floats_by_a_table_of_the_same_numbers():
    """Light and normalization of bytes by a table: bit for bit what the transforms make of all pixels."""
    x = TensorImage(torch.randint(0, 256, (4, 3, 20, 24), dtype=torch.uint8))
    tfms = [IntToFloatTensor(), *aug_transforms(max_lighting=.4, p_lighting=1.)[1:],
            Normalize.from_stats(*imagenet_stats, cuda=False)]
    for memory_format in (torch.contiguous_format, torch.channels_last):
        batch = (x.contiguous(memory_format=memory_format).as_subclass(TensorImage), TensorCategory([0, 1, 0, 1]))
        made, _ = ByteTable(tfms)(batch, split_idx=0, generator=torch.Generator().manual_seed(1))
        plain, generator = batch, torch.Generator().manual_seed(1)
        for tfm in tfms:
            plain = tfm(plain, split_idx=0, **({'generator': generator} if tfm.takes_generator else {}))
        assert type(made) is type(plain[0]) and made.is_contiguous(memory_format=memory_format)
        assert torch.equal(made, plain[0])


class _Sees(Transform):
    """Notes the shapes of what it is given."""

    def encodes(self, x: torch.Tensor):
        self.seen = [*getattr(self, 'seen', ()), tuple(x.shape)]
        return x


@pytest.mark.parametrize('x, seen', [
    (TensorImage(torch.zeros(2, 3, 20, 24, dtype=torch.uint8)), (2, 3, 16, 16)),
    (TensorImageBW(torch.zeros(2, 1, 20, 24, dtype=torch.uint8)), (2, 1, 16, 16)),
    (TensorImage(torch.zeros(2, 3, 20, 24, dtype=torch.uint8, device='meta')), (2, 3, 20, 24)),
    (TensorImage(torch.zeros(2, 3, 20, 24)), (2, 3, 20, 24)),
    (torch.zeros(2, 3, 20, 24, dtype=torch.uint8), (2, 3, 20, 24)),
    (TensorMask(torch.zeros(2, 20, 24, dtype=torch.uint8)), (2, 20, 24))],
    ids='bytes grey device floats unmarked mask'.split())
def test_transforms_of_a_table_see_the_256_values_alone(x, seen):
    """Of marked bytes on the CPU, however many pixels there are; anything else is theirs as it is."""
    sees = _Sees()
    made = ByteTable([sees])(x)
    assert sees.seen == [seen] and made.shape == x.shape and type(made) is type(x)


def test_without_opencv_a_table_is_what_its_transforms_are(monkeypatch):
    """The same generator, the same split, the same numbers."""
    x = TensorImage(torch.randint(0, 256, (4, 3, 20, 24), dtype=torch.uint8))
    tfms = [IntToFloatTensor(), Brightness(p=.5), Normalize.from_stats(*imagenet_stats, cuda=False)]
    for split_idx in (0, 1):
        made = []
        for there in (True, False):
            if not there:
                monkeypatch.setattr(transforms, 'opencv', lambda: None)
            made.append(ByteTable(tfms)(x, split_idx=split_idx, generator=torch.Generator().manual_seed(1)))
        assert torch.equal(*made) and type(made[0]) is type(made[1]) is TensorImage
        monkeypatch.undo()


@pytest.mark.parametrize('tabled', (True, False))
@pytest.mark.parametrize('channels, stats', ((1, (3, 3)), (1, (1, 1)), (3, (1, 1)), (3, (3, 3)), (1, (4, 4)),
                                             (1, (1, 3)), (1, (3, 1))))
def test_normalize_broadcasts_with_and_without_the_table(channels, stats, tabled):
    """Statistics of several channels make as many of a grey picture, on bytes and floats, a mask beside it or not."""
    x = torch.arange(2 * channels * 20 * 24).view(2, channels, 20, 24).remainder(256).to(torch.uint8)
    mean, std = torch.linspace(.1, .5, stats[0]), torch.linspace(.2, .4, stats[1])
    want = (x.float() / 255 - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)
    tfms = [IntToFloatTensor(), Normalize.from_stats(mean, std, cuda=False)]
    marker, mask = TensorImageBW if channels == 1 else TensorImage, TensorMask(torch.ones(2, 20, 24))
    for pictures in (x, x.float() / 255):
        made = Pipeline([ByteTable(tfms)] if tabled else tfms)((marker(pictures), mask))
        assert type(made[0]) is marker and made[0].shape == want.shape and made[1].dtype == torch.int64
        torch.testing.assert_close(plain(made[0]), want, atol=1e-6, rtol=1e-6)
    back = tfms[1].decode(made[0])
    torch.testing.assert_close(plain(back), (x.float() / 255).expand(want.shape), atol=1e-6, rtol=1e-5)


def test_grey_pictures_with_colour_statistics_are_what_a_deployed_model_takes(folder):
    """One channel becomes three by the statistics, also where a user's transform stands before them, and in a module
    that is deployed."""
    class Darker(Transform):
        order = 20
        def encodes(self, x: TensorImage): return x * .5
    for between in ([Darker()], [Brightness(p=1.)], []):
        dls = ImageDataLoaders.from_folder(folder, img_cls=PILImageBW, batch_tfms=[
            *between, Normalize.from_stats(*imagenet_stats, cuda=False)], **SETTINGS)
        assert all(dl.one_batch()[0].shape[1:] == (3, 16, 16) for dl in dls)
        assert dls.valid.decode(dls.valid.one_batch())[0].shape[1] == 3
    learn = Learner(dls, nn.Sequential(nn.Conv2d(3, 2, 16), nn.Flatten()), loss_func=CrossEntropyLossFlat())
    file = get_image_files(folder)[0]
    byte = Resize(16)(PILImageBW.create(file), split_idx=1).to_tensor()
    want = learn.predict(file)[2]
    torch.testing.assert_close(to_torch(learn)(plain(byte)[None])[0], want, atol=1e-5, rtol=1e-5)


def test_bad_picture_names_file_and_index_or_is_left_out(folder, tmp_path):
    """The error names path, index and the way out; on_error='skip' leaves the picture out and lists it."""
    good = get_image_files(folder / 'train')
    bad = tmp_path / 'bad.jpg'
    bad.write_bytes(good[0].read_bytes()[:400] if good[0].suffix == '.jpg' else b'nothing')
    files = [*good[:5], bad]
    block = DataBlock(blocks=(ImageBlock, CategoryBlock(vocab=['cat', 'dog'])), get_y=lambda f: 'cat',
                      splitter=lambda o: ([0, 1, 5, 2], [3, 4]), item_tfms=Resize(16))
    with pytest.raises(BadImageError, match='bad.jpg') as caught:
        block.dataloaders(files, bs=4, device='cpu', shuffle=False).train.one_batch()
    assert 'item 2' in str(caught.value.__notes__)
    dl = block.dataloaders(files, bs=4, device='cpu', on_error='skip').train
    with pytest.warns(UserWarning, match='1 items were left out'):
        sizes = [len(x) for x, _ in dl]
    assert sum(sizes) == 3 and 'bad.jpg' in dl.skipped[0][1]


# ---------------------------------------------------------------- how batches look


def _axes():
    import matplotlib.pyplot as plt
    return plt.gcf().axes


TARGETS = {
    'category': ((ImageBlock, CategoryBlock), {'get_y': parent_label}),
    'several': ((ImageBlock, MultiCategoryBlock), {'get_y': lambda f: [f.parent.name, 'pet']}),
    'number': ((ImageBlock, RegressionBlock), {'get_y': lambda f: 1.5}),
    'mask': ((ImageBlock, MaskBlock(['back', 'pet'])), {'get_y': _mask_of}),
    'points': ((ImageBlock, PointBlock), {'get_y': _points}),
    'boxes': ((ImageBlock, BBoxBlock, BBoxLblBlock), {'getters': [lambda f: f, _boxes, _box_labels], 'n_inp': 1}),
    'picture': ((ImageBlock, ImageBlock(PILImageBW)), {}),
}


@pytest.mark.parametrize('kind', TARGETS)
def test_show_batch_each_kind_of_target_is_drawn_on_its_picture(kind, folder):
    """One axis a sample (two for pairs of pictures), with its picture and its target, as large as the picture."""
    blocks, kwargs = TARGETS[kind]
    dls = _block(*blocks, **kwargs).dataloaders(folder / 'train', bs=4, device='cpu')
    dls.show_batch(max_n=3, figsize=(4, 4))
    axs = [ax for ax in _axes() if ax.images]
    assert len(axs) == (6 if kind == 'picture' else 3)
    seen = {'category': lambda ax: ax.get_title() in ('cat', 'dog'),
            'several': lambda ax: ax.get_title().endswith(';pet'),
            'number': lambda ax: ax.get_title() == '1.5', 'mask': lambda ax: len(ax.images) == 2,
            'points': lambda ax: len(ax.collections) == 1,
            'boxes': lambda ax: len(ax.patches) >= 1 and len(ax.texts) >= 1,
            'picture': lambda ax: len(ax.images) == 1}[kind]
    assert all(map(seen, axs))
    assert all(ax.get_xlim() == (-.5, 31.5) and ax.get_ylim() == (31.5, -.5) for ax in axs)


@pytest.mark.parametrize('kind', TARGETS)
def test_batches_and_results_are_drawn_where_and_as_many_as_asked(kind, folder):
    """On the axes given, `max_n` of them; else in a grid of so many rows, of that size; nothing with `show=False`."""
    import matplotlib.pyplot as plt
    blocks, kwargs = TARGETS[kind]
    dls = _block(*blocks, **kwargs).dataloaders(folder / 'train', bs=4, device='cpu')
    b, wide = dls.one_batch(), kind in ('mask', 'points')
    doors = {'batch': (lambda **kw: dls.show_batch(b, **kw), 2 if kind == 'picture' else 1),
             'results': (lambda **kw: dls.show_results(b, b[1] if len(b) == 2 else b[1:], **kw),
                         3 if kind == 'picture' else 2 if wide else 1)}
    for show, width in doors.values():
        for n in (1, 2):
            axs = list(get_grid(n * width, figsize=(3, 5)))
            before = plt.get_fignums()
            assert {*show(max_n=n, ctxs=axs[:])} <= {*axs} and plt.get_fignums() == before
            assert all(ax.images for ax in axs)
        show(max_n=2, figsize=(3, 5))
        assert tuple(plt.gcf().get_size_inches()) == (3, 5)
        before = plt.get_fignums()
        x, y, samples, *outs = show(max_n=2, show=False)
        assert type(x) is type(b[0]) and len(samples) == 2 and plt.get_fignums() == before
        assert all(len(o) == 2 and len(o[0]) == len(b) - 1 for o in outs)


@pytest.mark.parametrize('asked, shape', [({'nrows': 3}, (3, 1)), ({'nrows': 1}, (1, 3)), ({'ncols': 2}, (2, 2))],
                         ids=str)
@pytest.mark.parametrize('kind', ['category', 'picture'])
def test_batches_are_drawn_in_as_many_rows_and_columns_as_asked(kind, asked, shape, folder):
    """Pairs of pictures side by side take two columns each."""
    import matplotlib.pyplot as plt
    blocks, kwargs = TARGETS[kind]
    _block(*blocks, **kwargs).dataloaders(folder / 'train', bs=4, device='cpu').show_batch(max_n=3, **asked)
    rows, columns = plt.gcf().axes[0].get_subplotspec().get_gridspec().get_geometry()
    assert (rows, columns // (2 if kind == 'picture' else 1)) == shape


@pytest.mark.parametrize('kind', ['category', 'mask', 'points', 'picture'])
def test_show_results_sets_prediction_beside_target(kind, folder):
    """Categories are green or red, masks and points come twice, pictures three times."""
    blocks, kwargs = TARGETS[kind]
    dls = _block(*blocks, **kwargs).dataloaders(folder / 'train', bs=4, device='cpu')
    b = dls.one_batch()
    samples = dls.train.decode_batch(b)
    outs = L((Category('cat') if kind == 'category' else s[1],) for s in samples)
    show_results(b[0], b[1], samples, outs, max_n=2)
    axs = [ax for ax in _axes() if ax.images]
    assert len(axs) == {'category': 2, 'mask': 4, 'points': 4, 'picture': 6}[kind]
    for i in (0, 1):  # those of a sample side by side
        places = [ax.get_subplotspec() for ax in axs[i * len(axs) // 2:(i + 1) * len(axs) // 2]]
        assert len({place.rowspan for place in places}) == 1
    if kind == 'picture':
        assert places[0].get_gridspec().get_geometry() == (2, 3)
    for ax, sample in zip(axs, samples):
        if kind == 'category':
            assert ax.get_title() == f'{sample[1]}\ncat'
            assert ax.title.get_color() == ('green' if sample[1] == 'cat' else 'red')
    show_batch(b[0], b[1], samples, max_n=2, nrows=1)
    assert len([ax for ax in _axes() if ax.images]) == (4 if kind == 'picture' else 2)


def test_mask_by_hand_shows_and_loads(folder):
    """`PILMask.create(...).show(ctx=..., vmin=..., vmax=...)` over its picture."""
    f = get_image_files(folder / 'train')[0]
    ax = PILMask.create(_mask_of(f)).show(ctx=PILImage.create(f).show(figsize=(2, 2)), vmin=0, vmax=5, alpha=.4)
    assert len(ax.images) == 2 and ax.images[1].get_clim() == (0, 5) and ax.images[1].get_alpha() == .4


@pytest.mark.parametrize('orientation', [1, 6])
def test_large_jpeg_in_a_loader_is_decoded_at_a_part_of_its_size(orientation, tmp_path, monkeypatch):
    """Only in a loader, only where twice the pixels needed are left, and with the same picture within 1/255."""
    from sklearn.datasets import load_sample_images

    from minifast.vision import decode
    scales, real = [], decode._decode_stored
    monkeypatch.setattr(decode, '_decode_stored', lambda data, header, mode, scale=1: scales.append(scale)
                        or real(data, header, mode, scale))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(load_sample_images().images[1]).resize((1280, 854)).save(tmp_path / 'a.jpg', quality=95, exif=exif)
    for tfm, expected in ((Resize(128, method='squish'), 2), (Resize(100), 4), (Resize(300), 1)):
        block = DataBlock(blocks=(ImageBlock, RegressionBlock), get_y=lambda f: 1., item_tfms=tfm,
                          splitter=lambda o: ([0], [0]))
        dl = block.dataloaders([tmp_path / 'a.jpg'], bs=1, device='cpu').valid
        scales.clear()
        inside = (dl.one_batch()[0][0] * 255).round().numpy().transpose(1, 2, 0)
        assert scales == [expected]
        im = PILImage.create(tmp_path / 'a.jpg')
        assert im.size == ((854, 1280) if orientation == 6 else (1280, 854)) and scales[1:] == [1]
        assert np.abs(inside - np.asarray(tfm(im, split_idx=1)).astype(int)).mean() < 1


# ---------------------------------------------------------------- one way in for a picture

RESIZE = Resize(16, 'squish')


@pytest.mark.parametrize('workers', [{'num_workers': 0}, {'num_workers': 2, 'multiprocessing_context': 'thread'}])
def test_pixels_go_straight_to_their_place_in_the_batch(workers, folder, monkeypatch):
    """A resized picture lies in the memory of its batch: collating copies none; code of the user's gets its own."""
    found = []
    filled_by = Slots.filled_by
    monkeypatch.setattr(Slots, 'filled_by', lambda self, tensors: found.append(filled_by(self, tensors)) or found[-1])
    dls = ImageDataLoaders.from_folder(folder, **{**SETTINGS, **workers, 'item_tfms': Resize(10)})
    assert len(list(dls.valid)) == 1
    assert [b.shape for b in found if b is not None] == [(4, 3, 10, 10)]
    found.clear()
    own = ImageDataLoaders.from_folder(folder, **{**SETTINGS, **workers, 'item_tfms': [Resize(10), lambda x: x]})
    assert len(list(own.valid)) == 1 and not found


def test_a_picture_waits_to_be_decoded_only_for_a_loader(folder):
    """Called by hand the transform opens it whole; handed a target it may leave that to the transforms behind."""
    file = next(f for f in get_image_files(folder / 'train') if f.suffix == '.jpg')
    by_hand, in_loader = OpenImage()(file), OpenImage().encodes(file, target=Target())
    assert by_hand._waiting is None and in_loader._waiting is not None
    assert np.array_equal(np.asarray(by_hand), np.asarray(in_loader))

    class Own(OpenImage):
        def encodes(self, fn):
            return PILImage.create(fn)
    assert OpenImage.takes_target and not Own.takes_target
    splits = RandomSplitter(seed=1)(get_image_files(folder))
    dsets = Datasets(get_image_files(folder), [[Own()]], splits=splits)
    assert dsets.dataloaders(bs=2, after_item=[Resize(8), ToTensor], num_workers=0).one_batch()[0].shape == (2, 3, 8, 8)


def _forms(file):
    with Image.open(file) as im:
        im.load()
        im = im.copy()
    opened = Image.open(file)
    weakref.finalize(opened, opened.fp.close)
    return {'path': file, 'str': str(file), 'bytes': file.read_bytes(), 'stream': io.BytesIO(file.read_bytes()),
            'opened': opened, 'loaded': im, 'palette held': PILImage(im)}


@pytest.mark.parametrize('suffix, side', [('png', 16), ('png', 96), ('jpg', 16), ('jpg', 96)])
def test_every_form_of_a_picture_is_resized_to_the_same_pixels(suffix, side, tmp_path):
    """Bit for bit; but a file that is decoded at a part of its size, as a large JPEG is, differs from what is held."""
    file = tmp_path / f'p.{suffix}'
    Image.fromarray(np.random.RandomState(0).randint(0, 255, (120, 160, 3), np.uint8)).save(file)
    with Image.open(file) as im:
        pixels = np.array(im)
    forms, tensor_ = _forms(file), torch.from_numpy(pixels).permute(2, 0, 1)
    held = {'array': pixels, 'tensor': tensor_, 'TensorImage': TensorImage(tensor_), 'PILImage': PILImage.create(file),
            **{name: forms.pop(name) for name in ('opened', 'loaded', 'palette held')}}
    block = DataBlock(blocks=(ImageBlock, CategoryBlock(vocab=[0])), get_y=lambda o: 0, item_tfms=Resize(side))
    dl = block.dataloaders([file] * 4, bs=1, num_workers=0, device='cpu').test_dl([*forms.values(), *held.values()])
    seen = torch.cat([b[0] for b in dl])
    for i, name in enumerate(forms):
        assert torch.equal(seen[i], seen[0]), name
    for i, name in enumerate(held, len(forms)):
        assert torch.equal(seen[i], seen[-1]), name
    assert torch.equal(seen[0], seen[-1]) == ((suffix, side) != ('jpg', 16))


@pytest.mark.filterwarnings('ignore:labels. all . labels are')
@pytest.mark.parametrize('cls, mode', ((PILImage, 'P'), (PILImageBW, 'RGBA'), (PILImage, '1'), (PILImageBW, 'I;16')))
def test_every_door_opens_a_picture_in_the_same_way(cls, mode, tmp_path):
    """predict, test_dl, get_preds, and rows of lists, tables and pairs: the prediction is that of the file."""
    file = tmp_path / 'p.png'
    a = np.zeros((20, 24, 3), np.uint8)
    a[:10, :, 0], a[:, :8, 1] = 250, 220
    im = Image.fromarray(a[..., 0].astype(np.uint16) * 257) if mode == 'I;16' else Image.fromarray(a).convert(mode)
    im.save(file)
    block = DataBlock(blocks=(ImageBlock(cls), CategoryBlock(vocab=['x', 'y'])), get_y=lambda o: 'x', item_tfms=RESIZE,
                      splitter=lambda o: (range(len(o)), [0]))
    dls = block.dataloaders([file] * 4, bs=2, device='cpu')
    net = nn.Sequential(nn.Conv2d(3 if cls is PILImage else 1, 2, 16), nn.Flatten())
    learn = Learner(dls, net, loss_func=CrossEntropyLossFlat())
    want = learn.predict(file)[2]
    for name, form in _forms(file).items():
        assert torch.equal(learn.predict(form)[2], want), name
    torch.testing.assert_close(learn.get_preds(dl=dls.test_dl([*_forms(file).values()]))[0], want.expand(7, -1))
    rows = [form for name, form in _forms(file).items()]
    table = pd.DataFrame({'f': rows[2:], 'y': ['x'] * 5})
    made = (block.dataloaders(rows, bs=7, device='cpu', shuffle=False),
            ImageDataLoaders.from_df(table, img_cls=cls, valid_pct=.2, seed=0, item_tfms=RESIZE, bs=2),
            ImageDataLoaders.from_lists('.', rows, ['x'] * 7, img_cls=cls, item_tfms=RESIZE, bs=2))
    for dls in made:
        pixels = dls.test_dl([file]).one_batch()[0][0]
        assert all(torch.equal(x, pixels) for x in dls.valid.one_batch()[0])
    by_rows = Learner(made[0], net, loss_func=CrossEntropyLossFlat())
    assert torch.equal(by_rows.predict(rows[-1])[2], want) and torch.equal(by_rows.predict(file)[2], want)


def test_pictures_opened_and_not_read_yet_are_read_by_forked_workers_in_every_epoch(tmp_path):
    """Workers of one epoch after another share the place in each file."""
    rows, want = [], []
    for i in range(4):
        want.append(np.random.RandomState(i).randint(0, 255, (90, 90, 3), np.uint8))
        Image.fromarray(want[-1]).save(tmp_path / f'{i}.png')
        rows.append(Image.open(tmp_path / f'{i}.png'))
    block = DataBlock(blocks=(ImageBlock, CategoryBlock(vocab=[0])), get_y=lambda o: 0,
                      splitter=lambda o: (range(4), [0]))
    dl = block.dataloaders(rows, bs=2, num_workers=2, shuffle=False, device='cpu').train
    for _ in range(2):
        seen = torch.cat([x for x, _ in dl])
        assert torch.equal((plain(seen) * 255).round().byte(), torch.from_numpy(np.stack(want)).permute(0, 3, 1, 2))
    for im in rows:
        im.close()


def test_predict_for_a_plain_dataset_opens_pictures_as_the_dataset_does(tmp_path):
    """Grey where its own pictures are, whatever form the picture has."""
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / 'p.png')

    class Pictures(torch.utils.data.Dataset):
        def __init__(self, mode):
            self.mode = mode
            self.transform = lambda im: torch.from_numpy(np.array(im, np.float32)).reshape(8, 8, -1).permute(2, 0, 1)

        def __len__(self):
            return 2

        def __getitem__(self, i):
            return self.transform(Image.new(self.mode, (8, 8))), i

    for mode, n in (('L', 1), ('RGB', 3)):
        dl = torch.utils.data.DataLoader(Pictures(mode), 2)
        learn = Learner(DataLoaders(dl, dl), nn.Sequential(nn.Conv2d(n, 2, 8), nn.Flatten()), CrossEntropyLossFlat())
        want = learn.predict(tmp_path / 'p.png')[2]
        for form in ((tmp_path / 'p.png').read_bytes(), np.arange(64, dtype=np.uint8).reshape(8, 8)):
            assert torch.equal(learn.predict(form)[2], want)


# ---------------------------------------------------------------- masks of other codes


def _masked(folder, tmp_path, mode, values, codes=('dark', 'bright'), loss=None, n_out=2, **kwargs):
    for f in get_image_files(folder / 'train'):
        a = np.asarray(Image.open(folder / 'masks' / f'{f.stem}.png')).copy()
        mask = Image.fromarray(np.array(values, np.uint8)[a])
        if mode == 'P':
            mask.putpalette([90, 90, 90, 250, 0, 0, 0, 250, 0])
            assert mask.mode == 'P'
        mask = mask.convert(mode) if mode == '1' else mask
        mask.save(tmp_path / f'{f.stem}.png')
    dls = SegmentationDataLoaders.from_label_func(folder, get_image_files(folder / 'train'),
                                                  lambda f: tmp_path / f'{f.stem}.png', codes=list(codes),
                                                  seed=0, **{**SETTINGS, **kwargs})
    learn = Learner(dls, nn.Conv2d(3, n_out, 1), loss or CrossEntropyLossFlat(axis=1))
    learn.remove_cb(learn.progress)
    learn.logger = lambda row: None
    return learn


@pytest.mark.parametrize('mode, values, loss, n_out, words', (
    ('L', (0, 255), None, 2, r'hold the codes 0, 255.*0\.\.1.*div_mask=255.*seen in item \d+ '),
    ('1', (0, 255), None, 2, r'0, 255.*one bit.*div_mask=255'),
    ('L', (0, 255), BCEWithLogitsLossFlat(), 1, 'yes or no.*div_mask=255'),
    ('L', (0, 7), None, 2, r'hold the codes 0, 7.*MaskBlock\(codes'), ('L', (1, 2), None, 2, 'codes 1, 2'),
    ('L', (1, 255), None, 2, 'ignore_index=255'), ('L', (0, 255), nn.CrossEntropyLoss(), 2, 'div_mask=255')))
def test_masks_of_other_codes_are_named_with_their_items_and_the_way_out(mode, values, loss, n_out, words, folder,
                                                                         tmp_path):
    """In the first batch, by the codes seen; not a binary loss either trains on 255."""
    learn = _masked(folder, tmp_path, mode, values, loss=copy.deepcopy(loss), n_out=n_out)
    with pytest.raises(ValueError, match=words):
        learn.fit(1)
    with pytest.raises(ValueError, match=words):
        _masked(folder, tmp_path, mode, values, loss=copy.deepcopy(loss), n_out=n_out).validate()


@pytest.mark.parametrize('mode, values, kwargs, loss', (
    ('L', (0, 255), {'batch_tfms': IntToFloatTensor(div_mask=255)}, None),
    ('1', (0, 255), {'batch_tfms': IntToFloatTensor(div_mask=255)}, None), ('P', (0, 1), {}, None),
    ('L', (0, 1), {'codes': ('a', 'b', 'c')}, None),
    ('L', (0, 255), {}, CrossEntropyLossFlat(axis=1, ignore_index=255))))
def test_masks_train_by_the_way_out_and_palettes_are_codes(mode, values, kwargs, loss, folder, tmp_path):
    """What the words say works; indices of a palette are codes, more names than codes are no fault."""
    learn = _masked(folder, tmp_path, mode, values, loss=loss, **kwargs)
    assert set(learn.dls.one_batch()[1].unique().tolist()) <= ({0, 255} if loss else {0, 1})
    learn.fit(1)
    assert torch.isfinite(torch.tensor(learn.recorder.values[-1])).all()


def test_a_mask_of_colours_is_told_once_by_its_name(folder, tmp_path, monkeypatch):
    """Shades of grey are no codes; a mask whose channels are alike is one of codes."""
    monkeypatch.setattr('minifast.vision.decode._warned', [])
    grey = np.tile(np.array([[0, 1], [2, 1]], np.uint8)[..., None], 3)
    Image.fromarray(grey).save(tmp_path / 'grey.png')
    assert np.array_equal(np.array(PILMask.create(tmp_path / 'grey.png')), grey[..., 0])
    Image.fromarray(grey * np.array([9, 20, 3], np.uint8)).save(tmp_path / 'colours.png')
    with pytest.warns(UserWarning, match='colours.png.*holds colours'):
        PILMask.create(tmp_path / 'colours.png')
    PILMask.create(Image.open(tmp_path / 'colours.png'))


def test_what_cannot_be_collated_is_told_by_its_kind(folder):
    """Points and boxes of another number and pictures of another size have each their own way out; an error of the
    user's own code gets none of them."""
    def failing(*blocks, get_y, **kwargs):
        block = DataBlock(blocks, get_items=get_image_files, splitter=RandomSplitter(0.), get_y=get_y,
                          **{'item_tfms': Resize(16), **kwargs})
        with pytest.raises((RuntimeError, ValueError)) as caught:
            block.dataloaders(folder / 'train', bs=8, num_workers=0).one_batch()
        return '\n'.join([str(caught.value), *getattr(caught.value, '__notes__', [])])
    points = failing(ImageBlock, PointBlock, get_y=lambda f: [[1, 2]] * (1 + int(f.stem[-1])))
    assert 'as many points each' in points and 'Resize' not in points
    assert 'item_tfms=Resize(224)' in failing(ImageBlock, MaskBlock, get_y=lambda f: np.zeros(
        (8 + int(f.stem[-1]), 8), np.uint8), item_tfms=None)
    numbers = failing(ImageBlock, TransformBlock, get_y=lambda f: torch.zeros(1 + int(f.stem[-1])))
    assert 'as many numbers of each item' in numbers and 'Resize' not in numbers
    two = [[0, 0, 9, 9], [0, 0, 4, 4]]
    boxes = failing(ImageBlock, BBoxBlock, BBoxLblBlock, get_y=[lambda f: two, lambda f: ['a']], n_inp=1)
    assert '2 boxes and 1 labels' in boxes and 'Resize' not in boxes
    other_numbers = failing(ImageBlock, BBoxBlock, get_y=lambda f: [[0, 0, 9, 9]] * (1 + int(f.stem[-1])))
    assert 'BBoxLblBlock' in other_numbers  # as many boxes each need no labels to be filled up by


def test_folders_that_are_not_as_said_are_told_with_what_is_there(folder, tmp_path):
    """Folders of another name, no folders, nothing at all, no pictures, an empty class."""
    def make(path, **kwargs):
        return ImageDataLoaders.from_folder(path, **{**SETTINGS, **kwargs})
    shutil.copytree(folder / 'train', tmp_path / 'Train')
    with pytest.raises(ValueError, match=r"no folder 'train' .*from_folder\(train='Train'\)"):
        make(tmp_path)
    with pytest.raises(ValueError, match="no folder 'train' .*'cat', 'dog'.*valid_pct"):
        make(tmp_path / 'Train')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ValueError, match='no items in .*there is nothing'):
        make(tmp_path / 'empty', valid_pct=.2)
    (tmp_path / 'empty' / 'a.txt').write_text('a')
    with pytest.raises(ValueError, match=r'no items in .*files of the kinds \.txt'):
        make(tmp_path / 'empty', valid_pct=.2)
    (tmp_path / 'Train' / 'bird').mkdir()
    with pytest.warns(UserWarning, match='no class is made of empty folders: .*bird'):
        assert list(make(tmp_path / 'Train', valid_pct=.3, seed=1).vocab) == ['cat', 'dog']


def test_tables_and_lists_that_do_not_fit_are_refused_at_once(folder):
    """A file name that is missing, a delimiter of another kind, unequal lists, a first label that is empty."""
    frame, files = _frame(folder), _files(folder)
    with pytest.raises(ValueError, match="row 0 of column 'name' names no file"):
        ImageDataLoaders.from_df(frame.assign(name=[None, *frame.name[1:]]), folder, fn_col='name', label_col='label')
    frame.to_csv(folder / 'semicolon.csv', sep=';', index=False)
    with pytest.raises(KeyError) as caught:
        ImageDataLoaders.from_csv(folder, 'semicolon.csv', **SETTINGS)
    assert 'semicolon.csv' in str(getattr(caught.value, '__notes__', caught.value)) and 'delimiter' in str(
        getattr(caught.value, '__notes__', caught.value))
    with pytest.raises(ValueError, match=f'{len(files)} file names and 2 labels'):
        ImageDataLoaders.from_lists(folder, files, ['a', 'b'], **SETTINGS)
    with pytest.raises(ValueError, match='has no label'):
        ImageDataLoaders.from_lists(folder, files, [float('nan'), *(f.parent.name for f in files[1:])], **SETTINGS)
    named = pd.Series([f.parent.name for f in files], index=range(7, 7 + len(files)))
    assert list(ImageDataLoaders.from_lists(folder, files, named, **SETTINGS).vocab) == ['cat', 'dog']


def test_loaders_of_masks_say_how_many_codes_there_are(folder):
    """Their names are kept by a transform of items."""
    dls = _block(ImageBlock, MaskBlock(['back', 'pet', 'sky']), get_y=_mask_of).dataloaders(folder / 'train', bs=4)
    assert ' pictures 32x32, 3 classes, bs 4' in repr(dls)
