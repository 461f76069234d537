"""Boxes with labels: annotations read from a COCO file, batches padded to the same number of boxes."""
from fastai.vision.all import *
from drawn import coco, names_of

path = coco()
images, annotations = get_annotations(path / 'train.json')
img2bbox = dict(zip(images, annotations))
block = DataBlock(blocks=(ImageBlock, BBoxBlock, BBoxLblBlock), n_inp=1, splitter=IndexSplitter([1, 2, 3, 4]),
                  get_items=lambda p: get_image_files(p / 'train').sorted(),
                  getters=[noop, lambda o: img2bbox[o.name][0], lambda o: img2bbox[o.name][1]],
                  item_tfms=Resize(32, method='squish'))
dls = block.dataloaders(path, bs=4, num_workers=0)
flipped = block.new(batch_tfms=[Flip(p=1.)]).dataloaders(path, bs=4, num_workers=0)
x, boxes, labels = dls.one_batch()
vx, vboxes, vlabels = first(dls.valid)
fx, fboxes, flabels = first(flipped.train)
dls.show_batch(max_n=4)

result = dict(
    images=images, annotations=annotations[:3], vocab=list(dls.vocab), n_inp=dls.n_inp,
    shapes=[x.shape, boxes.shape[::2], vx.shape, vboxes.shape, vlabels.shape], types=names_of(x, boxes, labels, *dls.valid_ds[0]),
    dtypes=[str(boxes.dtype), str(labels.dtype)], valid_labels=vlabels, near_boxes=vboxes, c=getattr(dls, 'c', None),
    valid=[o.name for o in dls.valid_ds.items], inside=bool((fboxes.abs() <= 1).all()),
    ordered=bool((fboxes[..., 2:] >= fboxes[..., :2]).all()), pixels=vx)
