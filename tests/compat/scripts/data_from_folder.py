"""Pictures sorted into folders: train/valid folders, and one folder split at random."""
from fastai.vision.all import *
from drawn import colour_folders, names_of

path = colour_folders()
dls = ImageDataLoaders.from_folder(path, valid='valid', item_tfms=Resize(32), bs=6, num_workers=0,
                                   batch_tfms=Normalize.from_stats(*imagenet_stats))
x, y = dls.one_batch()
vx, vy = map(torch.cat, zip(*dls.valid))
order = sorted(range(len(vx)), key=lambda i: dls.valid_ds.items[i].name)  # folders are listed in any order
image, label = dls.train_ds[0]
decoded = dls.valid.decode((TensorImage(vx), TensorCategory(vy)))
shown = dls.valid.decode_batch((vx, vy), max_n=4)
dls.show_batch(max_n=4)
dls.valid.show_batch(max_n=3, nrows=1)

split = ImageDataLoaders.from_folder(path / 'train', valid_pct=0.25, seed=7, item_tfms=Resize(32, ResizeMethod.Squish),
                                     bs=4, val_bs=8, shuffle=False, num_workers=0)
sx, sy = split.one_batch()

result = dict(
    vocab=dls.vocab, o2i=dls.vocab.o2i, c=dls.c, n=[dls.n, dls.train.n, dls.valid.n], bs=[dls.bs, dls.valid.bs],
    lengths=[len(dls), len(dls.train), len(dls.valid), len(dls.train_ds), len(dls.valid_ds)],
    shapes=[x.shape, y.shape, vx.shape, vy.shape], dtypes=[str(x.dtype), str(y.dtype)],
    types=names_of(x, y, image, label, decoded[0], *dls.valid.one_batch(), dls.train, dls.train_ds, dls.vocab), size=image.size,
    valid_labels=vy[order], shown_types=names_of(*shown[0]), shown_labels=[str(o[1]) in dls.vocab for o in shown],
    valid_items=sorted(o.name for o in dls.valid_ds.items), near_range=[float(vx.min()), float(vx.max())],
    pixels=decoded[0][order] / 255, decoded_dtype=str(decoded[0].dtype), n_inp=dls.n_inp, device=dls.device.type,
    split_lengths=[len(split.train_ds), len(split.valid_ds), split.bs, split.valid.bs], split_shapes=[sx.shape, sy.shape],
    loss=names_of(dls.loss_func) if getattr(dls, 'loss_func', None) else None, path=dls.path.name)
