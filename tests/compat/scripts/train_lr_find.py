"""Finding the learning rate: suggestions, the recorder's curve, weights put back, discriminative rates and schedules."""
from fastai.vision.all import *
import drawn
from drawn import names_of

set_seed(drawn.seed)
x, y = map(tensor, drawn.digits(600))
ds = list(zip(x.unsqueeze(1), y))
dls = DataLoaders.from_dsets(ds[:480], ds[480:], bs=16, shuffle=True, num_workers=0)
model = nn.Sequential(ConvLayer(1, 16, stride=2), ConvLayer(16, 32, stride=2), AdaptiveAvgPool(), Flatten(), nn.Linear(32, 10))
learn = Learner(dls, model, loss_func=CrossEntropyLossFlat(), metrics=accuracy)
before = [p.detach().clone() for p in model.parameters()]
lrs = learn.lr_find(suggest_funcs=(minimum, steep, valley, slide))
same = all(torch.equal(a, b) for a, b in zip(before, model.parameters()))
lr = learn.lr_find(show_plot=False).valley
short = learn.lr_find(start_lr=1e-5, end_lr=1, num_it=50, suggest_funcs=valley)
learn.fit_one_cycle(4, 1e-2, div=10, pct_start=0.3, wd=0.01, moms=(0.95, 0.85, 0.95))
schedule = [learn.recorder.hps['lr'][i] for i in (0, 20, -1)]
momentum = [learn.recorder.hps['mom'][i] for i in (0, 20, -1)]
shapes = [SchedLin(0, 2)(0.5), SchedCos(0, 2)(0.5), SchedNo(1, 2)(0.9), SchedExp(1, 4)(0.5), SchedPoly(0, 4, 2)(0.5),
          combine_scheds([0.25, 0.75], [SchedLin(0, 1), SchedCos(1, 0)])(0.5), combined_cos(0.25, 0.5, 1., 0.)(0.5)]

result = dict(fields=list(lrs._fields), name=type(lrs).__name__, same=same, short=list(short._fields), near_curves=shapes,
              sensible=all(1e-7 <= o <= 10 for o in lrs), lr_type=names_of(lr), near_lr=[o * 100 for o in schedule], near_mom=momentum, columns=list(learn.recorder.metric_names),
              hps=sorted(learn.recorder.hps), score_accuracy=float(learn.recorder.values[-1][2]), close=bool(1e-4 < lr < 1e-1))
