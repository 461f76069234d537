"""Pictures with masks: SegmentationDataLoaders and the data block, codes, nearest resizing of the mask."""
from fastai.vision.all import *
from drawn import camvid, names_of

path = camvid()
codes = np.loadtxt(path / 'codes.txt', dtype=str)
files = get_image_files(path / 'images').sorted()


def label_func(file):
    return path / 'labels' / f'{file.stem}_P{file.suffix}'


dls = SegmentationDataLoaders.from_label_func(path, fnames=files, label_func=label_func, codes=codes, bs=4, seed=42,
                                              item_tfms=Resize(32, method=ResizeMethod.Squish), num_workers=0)
block = DataBlock(blocks=(ImageBlock, MaskBlock(codes)), get_items=get_image_files, get_y=label_func,
                  splitter=FuncSplitter(lambda o: int(o.stem) % 4 == 0), item_tfms=Resize(24),
                  batch_tfms=[*aug_transforms(size=20), Normalize.from_stats(*imagenet_stats)])
block_dls = block.dataloaders(path / 'images', bs=4, num_workers=0)
x, y = dls.one_batch()
vx, vy = first(dls.valid)
bx, by = block_dls.one_batch()
bvx, bvy = first(block_dls.valid)
image, mask = dls.valid_ds[0]
dls.show_batch(max_n=4, vmin=0, vmax=2)
order = sorted(range(len(block_dls.valid_ds)), key=lambda i: block_dls.valid_ds.items[i].name)

result = dict(
    codes=[str(o) for o in getattr(vy, 'codes', codes)], shapes=[x.shape, y.shape, bx.shape,
    by.shape, bvx.shape, bvy.shape], types=names_of(x, y, image, mask), dtypes=[str(x.dtype), str(y.dtype)],
    valid=[o.name for o in dls.valid_ds.items], block_valid=sorted(o.name for o in block_dls.valid_ds.items),
    values=sorted(set(vy.flatten().tolist())), aug_values=sorted(set(by.flatten().tolist()) | {0, 1, 2}),
    pixels=vx, masks=vy.float() / 2, block_masks=torch.stack([torch.as_tensor(bvy[i]) for i in order]).float() / 2,
    mask_size=mask.size, mask_shape=mask.shape)
