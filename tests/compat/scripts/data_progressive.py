"""The same block at growing sizes, its summary, test loaders, and what the loaders print."""
import contextlib
import io

from fastai.vision.all import *
from drawn import colour_folders, names_of

path = colour_folders()
block = DataBlock(blocks=(ImageBlock, CategoryBlock), get_items=get_image_files, get_y=parent_label,
                  splitter=GrandparentSplitter(valid_name='valid'), item_tfms=Resize(40))


def get_dls(bs, size):
    return block.new(item_tfms=Resize(size), batch_tfms=[*aug_transforms(size=size, min_scale=0.75),
                     Normalize.from_stats(*imagenet_stats)]).dataloaders(path, bs=bs, num_workers=0)


shapes = [get_dls(bs, size).one_batch()[0].shape for bs, size in ((8, 16), (4, 32))]
with contextlib.redirect_stdout(io.StringIO()) as printed:
    block.summary(path)
steps = [line.strip() for line in printed.getvalue().splitlines()]
dls = get_dls(4, 32)
files = get_image_files(path / 'valid').sorted()
test = dls.test_dl(files, bs=5)
labelled = dls.test_dl(files, with_labels=True)
one, = first(test)
tx, ty = first(labelled)
pictures = dls.test_dl([PILImage.create(f) for f in files[:3]])
arrays = dls.test_dl([np.array(PILImage.create(f)) for f in files[:2]])
again = dls.train.new(bs=2)
test.show_batch(max_n=2)
Path.BASE_PATH = path
shown = repr(files[0])
Path.BASE_PATH = None

result = dict(
    shapes=shapes, summary=[any(s.startswith(head) for s in steps) for head in (
        'Setting-up type transforms pipelines', 'Collecting items', 'Found 36 items', '2 datasets of sizes 24,12',
        'Building one sample', 'Final sample:')],
    test=[len(test), test.n, test.bs, one.shape], vocab=list(dls.vocab), labels=ty, shape=tx.shape, pixels=dls.valid.decode((tx, ty))[0][:4] / 255, pictures=first(pictures)[0].shape,
    arrays=first(arrays)[0].shape, again=[again.bs, again.n, len(again)],
    after_batch=[type(dls.after_batch.fs[i]).__name__ for i in (0, -1)], base_path=shown, types=names_of(one, tx, ty, files, dls.after_item, again),
    ls=[o.name for o in path.ls().sorted()], verify=len(verify_images(files)))
