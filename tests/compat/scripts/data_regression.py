"""Numbers as targets and several inputs: RegressionBlock, getters, n_inp, from_columns, two targets."""
from fastai.vision.all import *
from drawn import labelled_csv, names_of

path = labelled_csv()
df = pd.read_csv(path / 'labels.csv')
rows = [[path / 'train' / f'{r.fname}.png', r.labels.split()[0], r.area] for r in df.itertuples()]

block = DataBlock(blocks=(ImageBlock, CategoryBlock, RegressionBlock), n_inp=1, getters=[ItemGetter(0), ItemGetter(1),
                  ItemGetter(2)], splitter=TrainTestSplitter(test_size=0.25, random_state=42), item_tfms=Resize(24))
dls = block.dataloaders(rows, bs=4, num_workers=0)
x, colour, area = dls.one_batch()
two_inputs = DataBlock(blocks=(ImageBlock, ImageBlock(cls=PILImageBW), RegressionBlock(n_out=2)), n_inp=2,
                       get_x=[ItemGetter(0), ItemGetter(0)], get_y=lambda o: [o[2], 1 - o[2]],
                       splitter=RandomSplitter(0.25, seed=1), item_tfms=[Resize(24), FlipItem(p=0.)])
two_dls = two_inputs.dataloaders(rows, bs=4, num_workers=0)
first_x, second_x, pair = two_dls.one_batch()
columns = DataBlock.from_columns(blocks=(ImageBlock, CategoryBlock), splitter=EndSplitter(valid_pct=0.25),
                                 get_items=lambda rs: [[r[0] for r in rs], [r[1] for r in rs]], item_tfms=Resize(24))
column_dls = columns.dataloaders(rows, bs=4, num_workers=0)

result = dict(
    shapes=[o.shape for o in (x, colour, area, first_x, second_x, pair)], dtypes=[str(o.dtype) for o in (x, colour, area,
    second_x, pair)], types=names_of(x, colour, area, first_x, second_x, pair, *two_dls.train_ds[0]),
    n_inp=[dls.n_inp, two_dls.n_inp, column_dls.n_inp], c=[dls.c, two_dls.c, column_dls.c],
    vocab=[list(column_dls.vocab), list(dls.vocab)], valid=[o[0].name for o in dls.valid_ds.items],
    two_valid=[o[0].name for o in two_dls.valid_ds.items], targets=first(two_dls.valid)[2],
    column_labels=[column_dls.vocab[o[1]] for o in column_dls.valid_ds], grey_pixels=first(two_dls.valid)[1])
