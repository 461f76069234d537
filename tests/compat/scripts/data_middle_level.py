"""The middle level: Transform, Pipeline, TfmdLists, Datasets, splits, decoding, loaders with own pipelines."""
from fastai.vision.all import *
from drawn import colour_folders, names_of

path = colour_folders()
files = get_image_files(path).sorted()
splits = GrandparentSplitter(train_name='train', valid_name='valid')(files)


class Plus(Transform):
    order = 5

    def __init__(self, n):
        self.n = n

    def setups(self, items):
        self.n_items = len(items)

    def encodes(self, x: int):
        return x + self.n

    def decodes(self, x: int):
        return x - self.n


class OnlyTrain(Transform):
    split_idx = 0

    def encodes(self, x):
        return x * 10


plus = Plus(3)
numbers = TfmdLists([1, 2, 3, 4, 5, 6], [OnlyTrain(), plus], splits=[[0, 1, 2, 3], [4, 5]])
pipe = Pipeline([Plus(1), lambda x: x * 2])
tfms = [[PILImage.create], [parent_label, Categorize()]]
dsets = Datasets(files, tfms, splits=splits)
item = dsets.train[0]
dls = dsets.dataloaders(bs=4, after_item=[Resize(24), ToTensor()], after_batch=[IntToFloatTensor(),
                        Normalize.from_stats(*imagenet_stats)], num_workers=0)
x, y = dls.one_batch()
vx, vy = first(dls.valid)
three = Datasets(files, tfms, splits=[list(splits[0])[:12], list(splits[0])[12:], list(splits[1])])
three_dls = three.dataloaders(bs=4, after_item=[Resize(24), ToTensor()], num_workers=0)
hand = DataLoaders(TfmdDL(dsets.train, bs=6, shuffle=True, after_item=[Resize(20), ToTensor()], drop_last=True,
                          num_workers=0),
                   TfmdDL(dsets.valid, bs=5, after_item=[Resize(20), ToTensor()], after_batch=[IntToFloatTensor()],
                          num_workers=0))
dsets.show(item)
dls.show_batch(max_n=2)
cat = Categorize(vocab=['a', 'b'], add_na=True)
multi = MultiCategorize(vocab=['a', 'b', 'c'])

result = dict(
    numbers=[list(numbers.train), list(numbers.valid), plus.n_items], decoded=[numbers.decode(20), Plus(2).decode(5)],
    pipe=pipe(3), pipe_names=[type(f).__name__ for f in Pipeline([Plus(1), OnlyTrain()]).fs], vocab=list(dsets.vocab),
    types=names_of(*item, x, y, dsets.tls, dsets.tfms), shapes=[x.shape, y.shape, vx.shape],
    lengths=[len(dsets), len(dsets.train), len(dsets.valid), dsets.n_inp, dsets.n_subsets],
    three=[len(three_dls), three.n_subsets, len(three.subset(2)), three_dls[2].n, len(three_dls[1])],
    hand=[len(hand.train), len(hand.valid), *first(hand.train)[0].shape, str(first(hand.train)[0].dtype),
          str(first(hand.valid)[0].dtype)], decoded_item=[names_of(*dsets.decode(item)), str(dsets.decode(item)[1])],
    cat=[int(cat('b')), str(cat.decode(1)), len(cat.vocab)], multi=[list(multi(['a', 'c'])), list(multi.decode([0, 1]))],
    valid_labels=vy, pixels=dls.valid.decode((vx, vy))[0] / 255, items=[o.name for o in dsets.valid.items],
    splits=[list(map(int, s)) for s in splits], tuple_len=len(item), repr_types=names_of(dsets.train, numbers.train))
