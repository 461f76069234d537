"""Labels in a table: from_df and from_csv, one label and several, a validation column."""
from fastai.vision.all import *
from drawn import labelled_csv, names_of

path = labelled_csv()
df = pd.read_csv(path / 'labels.csv')
df['colour'] = df.labels.str.split(' ').str[0]

one = ImageDataLoaders.from_df(df, path, folder='train', suff='.png', fn_col='fname', label_col='colour',
                               valid_col='is_valid', item_tfms=Resize(24), bs=4, num_workers=0)
many = ImageDataLoaders.from_df(df, path, folder='train', suff='.png', fn_col='fname', label_col='labels',
                                label_delim=' ', seed=42, item_tfms=Resize(24), bs=4, num_workers=0)
csv = ImageDataLoaders.from_csv(path, csv_fname='labels.csv', folder='train', suff='.png', label_delim=' ',
                                valid_col='is_valid', item_tfms=Resize(24), bs=4, num_workers=0)
area = ImageDataLoaders.from_df(df, path, folder='train', suff='.png', label_col='area', y_block=RegressionBlock,
                                valid_col='is_valid', item_tfms=Resize(24), bs=4, num_workers=0)
x, y = one.one_batch()
mx, my = many.one_batch()
ax, ay = area.one_batch()
many.show_batch(max_n=4)
area.show_batch(max_n=4)
test = many.test_dl(df.head(5))
labelled = many.test_dl(df.head(5), with_labels=True)

result = dict(
    vocab=list(one.vocab), many_vocab=list(many.vocab), csv_vocab=list(csv.vocab), c=[one.c, many.c, csv.c, area.c],
    shapes=[x.shape, y.shape, mx.shape, my.shape, ax.shape, ay.shape], dtypes=[str(o.dtype) for o in (y, my, ay)],
    types=names_of(x, y, my, ay, *many.train_ds[0]), valid_rows=one.valid_ds.items.fname.tolist(),
    random_rows=many.valid_ds.items.fname.tolist(), csv_rows=csv.valid_ds.items.fname.tolist(),
    label=str(many.valid_ds[0][1]), one_hot=first(many.valid)[1], areas=first(area.valid)[1],
    test=[len(first(test)), len(first(labelled)), test.n], test_labels=first(labelled)[1],
    pixels=first(one.valid)[0])
