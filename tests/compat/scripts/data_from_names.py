"""Labels in the file names: a function of the name, a regular expression of the name and of the path."""
from fastai.vision.all import *
from drawn import names_of, pets

path = pets()
files = get_image_files(path / 'images').sorted()


def is_cat(name):
    return name[0].isupper()


cats = ImageDataLoaders.from_name_func(path, files, is_cat, valid_pct=0.25, seed=42, item_tfms=Resize(28), bs=4,
                                       num_workers=0)
breeds = ImageDataLoaders.from_name_re(path, files, r'(.+)_\d+.png$', valid_pct=0.25, seed=42, bs=4, num_workers=0,
                                       item_tfms=Resize(36), batch_tfms=aug_transforms(size=28, min_scale=0.75))
by_path = ImageDataLoaders.from_path_re(path, files, r'/([^/]+)_\d+.png$', seed=3, item_tfms=Resize(28), bs=4,
                                        num_workers=0)
by_func = ImageDataLoaders.from_path_func(path, files, lambda o: o.name.split('_')[0], seed=3, bs=4, num_workers=0,
                                          item_tfms=RandomResizedCrop(28, min_scale=0.5))
lists = ImageDataLoaders.from_lists(path, files, [is_cat(f.name) for f in files], seed=5, bs=4, num_workers=0,
                                    item_tfms=Resize(28, method='pad', pad_mode='zeros'))
x, y = cats.one_batch()
bx, by = breeds.one_batch()
vx = first(breeds.valid)[0]
cats.show_batch(max_n=4)
breeds.show_batch(max_n=4, unique=True)
labeller = using_attr(RegexLabeller(r'(.+)_\d+.png$'), 'name')

result = dict(
    cat_vocab=list(cats.vocab), breed_vocab=list(breeds.vocab), path_vocab=list(by_path.vocab), c=[cats.c, breeds.c],
    cat_valid=[o.name for o in cats.valid_ds.items], breed_valid=[o.name for o in breeds.valid_ds.items],
    path_valid=[o.name for o in by_path.valid_ds.items], lists_valid=[lists.vocab[o] for _, o in lists.valid_ds],
    cat_train=[o.name for o in cats.train_ds.items], labels=[labeller(o) for o in files[:8]],
    shapes=[x.shape, y.shape, bx.shape, by.shape, vx.shape, first(by_func.valid)[0].shape],
    types=names_of(x, y, bx, by, *cats.train_ds[0]), label_text=[cats.vocab[o[1]] for o in cats.train_ds],
    valid_pixels=first(cats.valid)[0], aug_valid_pixels=vx, crop_valid_pixels=first(by_func.valid)[0],
    pad_pixels=first(lists.valid)[0], item_tfms=[type(f).__name__ for f in cats.after_item.fs],
    after_item=[type(f).__name__ for f in breeds.after_item.fs],
    after_batch=type(breeds.after_batch.fs[0]).__name__)
