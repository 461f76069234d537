"""A loop bent by callbacks: inputs changed, a second loss, batches skipped, training stopped, a scheduler, mixed samples."""
from fastai.vision.all import *
import drawn
from drawn import names_of

set_seed(drawn.seed)
x, y = map(tensor, drawn.digits(400))
dls = DataLoaders.from_dsets(list(zip(x[:320].flatten(1), y[:320])), list(zip(x[320:].flatten(1), y[320:])), bs=32, num_workers=0,
                             shuffle=True)


class Flatter(Callback):
    run_valid = False

    def before_batch(self):
        self.learn.xb = (self.xb[0] * 2 - 1,)
        self.learn.yb = (self.y,)


class SecondLoss(Callback):
    order = 5

    def after_loss(self):
        if self.training:
            self.learn.loss_grad = self.loss_grad + 1e-4 * sum(p.pow(2).sum() for p in self.model.parameters())


class Book(Callback):
    def __init__(self):
        self.seen = []

    def before_fit(self):
        self.seen.append(('fit', self.n_epoch))

    def after_batch(self):
        if self.training:
            self.seen.append((self.iter, self.train_iter, round(float(self.pct_train), 4), tuple(self.pred.shape)))

    def after_epoch(self):
        self.seen.append(('epoch', self.epoch, len(self.recorder.log)))
        self.learn.note = self.epoch


class SkipSome(Callback):
    def before_batch(self):
        if self.training and self.iter == 3:
            raise CancelBatchException

    def after_train(self):
        if self.epoch == 2:
            raise CancelFitException


class NoStep(Callback):
    run_valid = False

    def before_step(self):
        if self.train_iter == 2:
            raise CancelStepException


class WeightedMetric(Metric):
    def reset(self):
        self.right, self.n = 0., 0

    def accumulate(self, learn):
        self.right += (learn.pred.argmax(1) == learn.y).float().sum()
        self.n += len(learn.y)

    @property
    def value(self):
        return self.right / self.n

    @property
    def name(self):
        return 'right'


def net():
    return nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))


book = Book()
learn = Learner(dls, net(), loss_func=CrossEntropyLossFlat(), metrics=[accuracy, WeightedMetric()], cbs=[Flatter, SecondLoss(), NoStep()])
learn.fit(4, 1e-2, cbs=[book, SkipSome()])
names = [cb.name for cb in learn.cbs if cb.name != 'cast_to_tensor']
scheds = {'lr': combine_scheds([0.3, 0.7], [SchedCos(1e-4, 1e-2), SchedCos(1e-2, 1e-5)]), 'mom': SchedLin(0.9, 0.8)}
second = Learner(dls, net(), loss_func=CrossEntropyLossFlat(), metrics=accuracy, cbs=[GradientClip(0.5), GradientAccumulation(32)])
second.fit(1, cbs=ParamScheduler(scheds))
mixed = Learner(dls, net(), loss_func=CrossEntropyLossFlat(), metrics=accuracy, cbs=MixUp(0.4))
mixed.fit(4, 2e-2)
cut = Learner(dls, net(), loss_func=LabelSmoothingCrossEntropy(), metrics=accuracy)
cut.add_cb(TerminateOnNaNCallback())
cut.remove_cb(TerminateOnNaNCallback)
with cut.added_cbs(Book()):
    inside = [cb.name for cb in cut.cbs if cb.name != 'cast_to_tensor']
cut.fit(3, 2e-2)
learn('before_fit')
split = learn._split(dls.one_batch())

result = dict(columns=list(mixed.recorder.metric_names), seen=book.seen, names=names, inside=inside, note=learn.note, hps=sorted(second.recorder.hps),
              near_lrs=[o * 100 for o in second.recorder.hps['lr']], near_moms=second.recorder.hps['mom'], rows=len(learn.recorder.values),
              find=names_of(learn.book) if hasattr(learn, 'book') else None, n_losses=len(learn.recorder.losses), split=names_of(split),
              score_mixed=float(mixed.recorder.values[-1][2]), score_smoothed=float(cut.recorder.values[-1][2]))
