"""A U-Net on masks: own accuracy that leaves the ground out, weighted loss, Dice, predictions as masks."""
from fastai.vision.all import *
import drawn
from drawn import names_of

set_seed(drawn.seed)
path = drawn.camvid(n=24)
codes = np.loadtxt(path / 'codes.txt', dtype=str)
dls = SegmentationDataLoaders.from_label_func(path, get_image_files(path / 'images').sorted(),
                                              lambda o: path / 'labels' / f'{o.stem}_P.png', codes=codes, bs=8, seed=42,
                                              item_tfms=Resize(32, method='squish'), num_workers=0)


def acc_shape(inp, targ):
    targ = targ.squeeze(1)
    mask = targ != 0
    return (inp.argmax(dim=1)[mask] == targ[mask]).float().mean()


def pixel_acc(inp, targ):
    return (inp.argmax(dim=1) == targ).float().mean()


learn = unet_learner(dls, resnet18, pretrained=False, n_out=3, metrics=[pixel_acc, DiceMulti(), acc_shape], self_attention=True,
                     loss_func=CrossEntropyLossFlat(axis=1, weight=tensor([0.5, 1., 1.])), act_cls=Mish, wd=1e-2)
n_params = sum(p.numel() for p in learn.model.parameters())
learn.fit_one_cycle(4, slice(3e-3))
names, score = list(learn.recorder.metric_names), float(learn.recorder.values[-1][2])
preds, masks = learn.get_preds()
mask, shown, probs = learn.predict(path / 'images' / '000.png')
learn.show_results(max_n=2)
interp = SegmentationInterpretation.from_learner(learn)
interp.plot_top_losses(k=2)

result = dict(columns=names, shapes=[preds.shape, masks.shape, shown.shape, probs.shape], types=names_of(masks, mask), n_params=n_params,
              groups=len(learn.opt.param_lists), near_sum=preds.sum(1).mean(), values=set(shown.flatten().tolist()) <= {0, 1, 2},
              hypers=len(learn.opt.hypers), score_pixels=score)
