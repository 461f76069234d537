"""Datasets of one's own: plain lists and torch datasets in DataLoaders, test_dl, new loaders, callbacks of the loader."""
from fastai.vision.all import *
from drawn import digits, names_of
from torch.utils.data import TensorDataset

images, labels = map(tensor, digits(80))
train = L(zip(images[:60].unsqueeze(1), labels[:60]))
valid = TensorDataset(images[60:].unsqueeze(1), labels[60:])
dl = DataLoader(train, bs=16, shuffle=False, num_workers=0)
vdl = DataLoader(valid, batch_size=16, num_workers=0)
dls = DataLoaders(dl, vdl)
x, y = dls.one_batch()
from_dsets = DataLoaders.from_dsets(list(train), list(valid), bs=8, num_workers=0, after_batch=[], device='cpu')
x8, y8 = first(from_dsets.valid)
dropped = dl.new(bs=32, drop_last=True)
torch_dls = DataLoaders(torch.utils.data.DataLoader(valid, batch_size=8), torch.utils.data.DataLoader(valid, batch_size=4))


class Doubles(DataLoader):
    def before_iter(self):
        super().before_iter()
        self.count = 0

    def create_item(self, s):
        self.count += 1
        return 2 * self.count if self.count < 7 else stop()


letters = DataLoader(string.ascii_lowercase, bs=4, drop_last=False, num_workers=0)
generated = L(Doubles(bs=4, num_workers=0))
collated = DataLoader([1, 2, 3, 4, 5], bs=2, create_batch=lambda b: sum(b), num_workers=0)
padded = DataLoader([[1], [2, 3], [4, 5, 6]], bs=3, num_workers=0,
                    before_batch=lambda b: [tensor(o + [0] * (3 - len(o))) for o in b])
indexed = dl.new(bs=4)
indexed.get_idxs = lambda: [5, 4, 3, 2, 1]

result = dict(
    shapes=[x.shape, y.shape, x8.shape], dtypes=[str(x.dtype), str(y.dtype)], lengths=[len(dl), len(vdl), len(dropped), dl.n,
    len(dls), len(torch_dls.train), len(torch_dls.valid), len(from_dsets.train), len(from_dsets.valid)],
    labels=y, torch_shapes=[o.shape for o in first(torch_dls.valid)], letters=[list(o) for o in L(letters)[:2]],
    n_letters=len(letters), generated=[o.tolist() for o in generated], collated=list(collated), padded=first(padded),
    indexed=[o[1].tolist() for o in indexed], bs=[dl.bs, vdl.bs, dropped.bs], shuffle=[dl.shuffle, dl.drop_last],
    types=names_of(dls, dl, vdl), sums=[round(float(b[0].sum()), 2) for b in dl])
