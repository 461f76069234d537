"""Key points: PointBlock, points in [-1, 1] following the picture through resizing and padding."""
from fastai.vision.all import *
from drawn import names_of, points

path = points()


def get_centre(file):
    return tensor([[float(o) for o in file.with_suffix('.txt').read_text().split()]])


block = DataBlock(blocks=(ImageBlock, PointBlock), get_items=get_image_files, get_y=get_centre,
                  splitter=FuncSplitter(lambda o: int(o.stem) % 4 == 0), item_tfms=Resize(32, ResizeMethod.Squish),
                  batch_tfms=[Normalize.from_stats(*imagenet_stats)])
dls = block.dataloaders(path, bs=4, num_workers=0)
crop = block.new(item_tfms=Resize(32), batch_tfms=aug_transforms(do_flip=False, max_rotate=5)).dataloaders(
    path, bs=4, num_workers=0)
pad = block.new(item_tfms=Resize(32, method='pad', pad_mode=PadMode.Zeros)).dataloaders(path, bs=4, num_workers=0)
x, y = dls.one_batch()
dls.show_batch(max_n=4)


def valid_points(dls):
    found = {}
    dl = dls.valid
    for file, point in zip(dl.dataset.items, first(dl)[1]):
        found[file.name] = point.reshape(-1).tolist()
    return [found[name] for name in sorted(found)]


image, point = dls.valid_ds[0]
cx, cy = crop.one_batch()
decoded = dls.valid.decode_batch(first(dls.valid))[0]

result = dict(
    shapes=[x.shape, y.shape, cx.shape, cy.shape], types=names_of(x, y, image, point, *decoded),
    dtypes=[str(x.dtype), str(y.dtype)], near_squish=valid_points(dls), near_crop=valid_points(crop),
    near_pad=valid_points(pad), item_point_shape=point.shape, inside=bool((y.abs() <= 1).all()),
    n=[len(dls.train_ds), len(dls.valid_ds)])
