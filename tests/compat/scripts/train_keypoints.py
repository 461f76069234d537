"""Key points: predictions between -1 and 1 by y_range, mean squared error."""
from fastai.vision.all import *
import drawn
from drawn import names_of

set_seed(drawn.seed)
path = drawn.points(n=40)


def get_centre(file):
    return tensor([float(o) for o in file.with_suffix('.txt').read_text().split()])


block = DataBlock(blocks=(ImageBlock, PointBlock), get_items=get_image_files, get_y=get_centre,
                  splitter=FuncSplitter(lambda o: int(o.stem) % 4 == 0), item_tfms=Resize(32, ResizeMethod.Squish),
                  batch_tfms=Normalize.from_stats(*imagenet_stats))
dls = block.dataloaders(path, bs=10, num_workers=0)
learn = vision_learner(dls, resnet18, pretrained=False, y_range=(-1, 1), n_out=2, loss_func=MSELossFlat(), metrics=mae)
learn.unfreeze()
before = learn.validate()
learn.fit_one_cycle(5, 3e-3)
preds, targets = learn.get_preds()
point, raw, p = learn.predict(path / '000.png')
learn.show_results(max_n=3)

result = dict(columns=list(learn.recorder.metric_names), loss=names_of(learn.loss_func), shapes=[preds.shape, targets.shape, raw.shape, p.shape],
              types=names_of(point, targets), range=bool((preds.abs() <= 1).all()), better=bool(learn.validate()[0] < before[0]),
              n_before=len(before), near_targets=targets.float().mean(0), point_shape=point.shape)
