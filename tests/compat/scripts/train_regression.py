"""One number a picture: RegressionBlock, range of the output, fine_tune in two phases, a schedule of one's own."""
from fastai.vision.all import *
import drawn
from drawn import names_of

set_seed(drawn.seed)
path = drawn.labelled_csv(n=72)
dls = ImageDataLoaders.from_csv(path, 'labels.csv', folder='train', suff='.png', label_col='area', y_block=RegressionBlock,
                                valid_col='is_valid', item_tfms=Resize(32), bs=9, num_workers=0)
learn = vision_learner(dls, xresnet18, pretrained=False, y_range=(0., 0.4), metrics=[rmse, R2Score()])
learn.fine_tune(2, 3e-3, freeze_epochs=1)
columns, values = list(learn.recorder.metric_names), len(learn.recorder.values)
lr, mom, wd = (learn.opt.hypers[-1][name] for name in ('lr', 'mom', 'wd'))
learn.fit_flat_cos(1, slice(1e-4, 1e-3), pct_start=0.5)
flat = learn.recorder.hps['lr'] if 'lr' in learn.recorder.hps else learn.recorder.lrs
learn.fit_sgdr(1, 1, lr_max=1e-3)
preds, targets = learn.get_preds()
number, raw, p = learn.predict(path / 'train' / 'im000.png')
learn.recorder.plot_loss()
learn.recorder.plot_sched()

result = dict(columns=columns, values=values, c=dls.c, loss=names_of(learn.loss_func), shapes=[preds.shape, targets.shape, raw.shape],
              types=names_of(number), groups=len(learn.opt.hypers), n_flat=len(flat), near_hypers=[mom, wd], range=bool(((preds > 0) & (preds < 0.4)).all()),
              near_lrs=[h['lr'] * 100 for h in learn.opt.hypers], frozen=learn.opt.frozen_idx, hps=sorted(learn.recorder.hps))
