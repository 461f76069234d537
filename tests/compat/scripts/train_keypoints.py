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
net = vision_learner(dls, xresnet18, pretrained=False, y_range=(-1, 1), n_out=2, loss_func=MSELossFlat(), metrics=mae)
before = net.validate()
net_point = net.predict(path / '000.png')
model = nn.Sequential(ConvLayer(3, 16, stride=2), ConvLayer(16, 32, stride=2), ConvLayer(32, 32, stride=2), Flatten(),
                      nn.Linear(512, 2), SigmoidRange(-1.1, 1.1))
learn = Learner(dls, model, loss_func=MSELossFlat(), metrics=mae)
learn.fit_one_cycle(10, 1e-2)
score = 1 - float(learn.recorder.values[-1][2])
preds, targets = learn.get_preds()
point, raw, p = learn.predict(path / '000.png')
learn.show_results(max_n=3)

result = dict(
    columns=list(learn.recorder.metric_names), loss=names_of(learn.loss_func, net.loss_func), n_before=len(before),
    shapes=[preds.shape, targets.shape, raw.shape, p.shape, net_point[1].shape], types=names_of(point, targets, net_point[0]),
    range=bool((preds.abs() <= 1.1).all()), near_targets=targets.float().mean(0), point_shape=point.shape, score_closeness=score)
