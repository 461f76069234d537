"""Pairs of pictures: a Transform of one's own with typed results, show and show_batch by type."""
from fastai.vision.all import *
from drawn import names_of, pets

path = pets()
files = get_image_files(path / 'images').sorted()


def label_func(file):
    return re.match(r'^(.*)_\d+.png$', file.name).groups()[0]


class SiameseImage(fastuple):
    def show(self, ctx=None, **kwargs):
        if len(self) > 2:
            img1, img2, similarity = self
        else:
            img1, img2 = self
            similarity = 'Undetermined'
        if not isinstance(img1, Tensor):
            if img2.size != img1.size:
                img2 = img2.resize(img1.size)
            t1, t2 = tensor(img1), tensor(img2)
            t1, t2 = t1.permute(2, 0, 1), t2.permute(2, 0, 1)
        else:
            t1, t2 = img1, img2
        line = t1.new_zeros(t1.shape[0], t1.shape[1], 10)
        return show_image(torch.cat([t1, line, t2], dim=2), title=similarity, ctx=ctx, **kwargs)


class SiameseTransform(Transform):
    def __init__(self, files, label_func, splits):
        self.labels = files.map(label_func).unique()
        self.lbl2files = {l: L(f for f in files if label_func(f) == l) for l in self.labels}
        self.label_func = label_func
        self.valid = {f: self._draw(f) for f in files[splits[1]]}

    def encodes(self, f):
        f2, t = self.valid.get(f, self._draw(f))
        img1, img2 = PILImage.create(f), PILImage.create(f2)
        return SiameseImage(img1, img2, t)

    def _draw(self, f):
        same = len(f.name) % 2 == 0
        cls = self.label_func(f)
        if not same:
            cls = L(l for l in self.labels if l != cls)[0]
        return self.lbl2files[cls][0], same


splits = RandomSplitter(seed=42)(files)
tfm = SiameseTransform(files, label_func, splits)
tls = TfmdLists(files, tfm, splits=splits)
typedispatch = globals().get('typedispatch', dispatch)  # the name of it before fastai 2.8
dls = tls.dataloaders(after_item=[Resize(28), ToTensor], bs=4, num_workers=0,
                      after_batch=[IntToFloatTensor, Normalize.from_stats(*imagenet_stats)])
batch = dls.one_batch()
vbatch = first(dls.valid)


@typedispatch
def show_batch(x: SiameseImage, y, samples, ctxs=None, max_n=6, nrows=None, ncols=2, figsize=None, **kwargs):
    if ctxs is None:
        ctxs = get_grid(min(x[0].shape[0], max_n), nrows=None, ncols=ncols, figsize=figsize)
    for i, ctx in enumerate(ctxs):
        SiameseImage(x[0][i], x[1][i], ['Not similar', 'Similar'][x[2][i].item()]).show(ctx=ctx)


dls.show_batch()
tls.valid[0].show()


class ImageTuple(fastuple):
    @classmethod
    def create(cls, fns):
        return cls(tuple(PILImage.create(f) for f in fns))

    def show(self, ctx=None, **kwargs):
        return show_image(torch.cat([tensor(self[0]), tensor(self[1])], dim=1), ctx=ctx, **kwargs)


def ImageTupleBlock():
    return TransformBlock(type_tfms=ImageTuple.create, batch_tfms=IntToFloatTensor)


pairs = [[files[i], files[(i * 7) % len(files)], i % 2] for i in range(len(files))]
siamese = DataBlock(blocks=(ImageTupleBlock, CategoryBlock), get_items=lambda _: pairs, get_x=lambda t: t[:2],
                    get_y=lambda t: t[2], splitter=RandomSplitter(seed=42), item_tfms=Resize(28),
                    batch_tfms=[Normalize.from_stats(*imagenet_stats)])
bdls = siamese.dataloaders(path, bs=4, num_workers=0)
bx, by = bdls.one_batch()

result = dict(
    splits=[list(splits[0]), list(splits[1])], types=names_of(tls.train[0], *tls.train[0]),
    shapes=[o.shape for o in batch], valid_shapes=[o.shape for o in vbatch], dtypes=[str(o.dtype) for o in batch],
    targets=vbatch[2], pixels=vbatch[0] / 4, second_pixels=vbatch[1] / 4, labels=list(tfm.labels), lengths=[len(tls), len(tls.train),
    len(tls.valid), len(dls.train)], block_types=names_of(bx, bx[0], by), block_shapes=[bx[0].shape, bx[1].shape, by.shape],
    block_vocab=[str(o) for o in bdls.vocab], block_valid=[o[0].name for o in bdls.valid_ds.items])
