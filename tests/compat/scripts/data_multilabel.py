"""Several labels a picture with the data block: column readers, splitters, vocab, a second block made by new."""
from fastai.vision.all import *
from drawn import labelled_csv, names_of

path = labelled_csv()
df = pd.read_csv(path / 'labels.csv')


def splitter(df):
    train = df.index[~df['is_valid']].tolist()
    valid = df.index[df['is_valid']].tolist()
    return train, valid


block = DataBlock(blocks=(ImageBlock, MultiCategoryBlock), splitter=splitter,
                  get_x=ColReader('fname', pref=str(path / 'train') + os.path.sep, suff='.png'),
                  get_y=ColReader('labels', label_delim=' '), item_tfms=Resize(24), batch_tfms=[Brightness(p=0.)])
dsets = block.datasets(df)
dls = block.dataloaders(df, bs=4, num_workers=0)
x, y = dls.one_batch()
vx, vy = dls.valid.one_batch()
dls.show_batch(nrows=1, ncols=3)
vocab = ['blue', 'circle', 'green', 'red', 'square', 'triangle', 'unseen']
fixed = block.new(item_tfms=Resize(20))
fixed_dls = fixed.dataloaders(df, bs=4, num_workers=0)
given = DataBlock((ImageBlock, MultiCategoryBlock(vocab=vocab)), get_x=lambda r: path / 'train' / f'{r["fname"]}.png',
                  get_y=lambda r: r['labels'].split(' '), splitter=ColSplitter('is_valid'), item_tfms=Resize(20))
given_dls = given.dataloaders(df, bs=4, num_workers=0)
idxs = torch.where(dsets.train[0][1] == 1.)[0]

result = dict(
    vocab=list(dls.vocab), vocab_again=list(dsets.train.vocab), given=list(given_dls.vocab), c=[dls.c, given_dls.c],
    shapes=[x.shape, y.shape, fixed_dls.one_batch()[0].shape, given_dls.one_batch()[1].shape],
    types=names_of(x, y, *dsets.train[0], *dsets.valid[0]), dtypes=[str(x.dtype), str(y.dtype)], n=[len(dsets.train),
    len(dsets.valid), len(dsets)], first_label=[dsets.vocab[int(i)] for i in idxs], valid_labels=vy, pixels=vx,
    decoded=str(dls.valid.decode_batch((vx, vy))[0][1]), splits=[list(dsets.splits[0]), list(dsets.splits[1])],
    items=[str(o) for o in dsets.items.fname.tolist()[:3]])
