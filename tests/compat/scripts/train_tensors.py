"""Plain tensors, torch's own data loaders and model, metrics and losses that are functions."""
from fastai.vision.all import *
import drawn
from drawn import names_of

set_seed(drawn.seed)
x, y = map(tensor, drawn.digits(600))
train_ds, valid_ds = (torch.utils.data.TensorDataset(x[part].flatten(1), y[part]) for part in (slice(0, 480), slice(480, 600)))
train_dl = torch.utils.data.DataLoader(train_ds, batch_size=32, shuffle=True)
valid_dl = torch.utils.data.DataLoader(valid_ds, batch_size=60)
dls = DataLoaders(train_dl, valid_dl)
model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
learn = Learner(dls, model, loss_func=F.cross_entropy, opt_func=partial(SGD, mom=0.9), metrics=accuracy, wd=0.01, lr=0.1)
learn.fit(5)
first_columns, first_values = list(learn.recorder.metric_names), len(learn.recorder.values)
learn.fit(2, lr=0.02, reset_opt=True)
score = float(learn.recorder.values[-1][2])
with learn.no_bar(), learn.no_logging():
    learn.opt_func = Adam
    learn.fit_one_cycle(1, 1e-3, reset_opt=True)
ours = DataLoaders(DataLoader(list(zip(x[:480].flatten(1), y[:480])), bs=32, shuffle=True, num_workers=0),
                   DataLoader(list(zip(x[480:].flatten(1), y[480:])), bs=64, num_workers=0))
simple = Learner(ours, nn.Linear(64, 10), loss_func=nn.CrossEntropyLoss(), metrics=[accuracy, lambda p, t: (p.argmax(1) != t).float().mean()],
                 opt_func=partial(OptimWrapper, opt=torch.optim.AdamW))
simple.fit(3, 1e-2)
simple_score = float(simple.recorder.values[-1][2])
preds, targets = simple.get_preds()
other = simple.get_preds(dl=[(x[:5].flatten(1), y[:5])])

result = dict(columns=first_columns, n=first_values, simple_columns=list(simple.recorder.metric_names), shapes=[preds.shape, targets.shape, other[0].shape],
              hypers=sorted(learn.opt.hypers[0]), train_len=len(dls.train), n_iters=len(learn.recorder.losses), has_vocab=hasattr(dls, 'vocab'),
              has_c=hasattr(dls, 'c'), opt=[isinstance(learn.opt, Optimizer), isinstance(simple.opt, OptimWrapper)], score_accuracy=score, score_simple=simple_score,
              near_final=learn.recorder.lrs[-1], validate=len(simple.validate()), predict_type=names_of(preds, targets))
