"""Callbacks that watch: best model kept, early stopping, plateau, the table as a file, weights averaged, graphs."""
from fastai.vision.all import *
import drawn
from drawn import names_of

set_seed(drawn.seed)
x, y = map(tensor, drawn.digits(400))
ds = list(zip(x.flatten(1), y))
dls = DataLoaders.from_dsets(ds[:320], ds[320:], bs=32, shuffle=True, num_workers=0)


def learner(**kwargs):
    learn = Learner(dls, nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)), loss_func=CrossEntropyLossFlat(), metrics=accuracy, path=Path.cwd(), **kwargs)
    learn.model_dir = 'weights'
    return learn


save = SaveModelCallback(monitor='accuracy', fname='best', with_opt=True)
learn = learner(cbs=CSVLogger(fname='history.csv'))
learn.fit_one_cycle(3, 1e-2, cbs=save)
best = float(save.best)
history = pd.read_csv(learn.path / 'history.csv')
now = float(learn.validate()[1])
every = learner()
every.fit(2, 1e-2, cbs=SaveModelCallback(fname='model', every_epoch=True))
saved = sorted(o.name for o in (learn.path / 'weights').ls())
stopped = learner(cbs=EarlyStoppingCallback(monitor='valid_loss', min_delta=100., patience=2))
stopped.fit(8, 1e-2)
plateau = learner(cbs=ReduceLROnPlateau(monitor='valid_loss', min_delta=100., patience=1, factor=10.))
plateau.fit(4, 1e-2)
lrs = plateau.recorder.lrs
nan = learner(cbs=TerminateOnNaNCallback())
nan.fit(2, 1e10)
nan_stopped = len(nan.recorder.losses) < 20
tracked = learner()
tracker = TrackerCallback(monitor='accuracy', comp=np.greater)
tracked.fit(2, 1e-2, cbs=tracker)
log = learner(cbs=[CSVLogger('log.csv', append=True)])
log.fit(1)
log.fit(1)
text = Path('log.csv').read_text().splitlines()
logged = learner(cbs=CSVLogger)
logged.fit(1)
read = logged.csv_logger.read_log()

result = dict(columns=list(history.columns), rows=len(history), saved=saved, epochs=[len(stopped.recorder.values), len(plateau.recorder.values), len(tracked.recorder.values)],
              near_lrs=[float(o) * 100 for o in lrs[::10]], best_kept=abs(best - now) < 1e-6, types=names_of(read), order=[SaveModelCallback.order > TrackerCallback.order,
              CSVLogger.order], found=[save.fname, save.every_epoch, save.monitor], header=text[0], appended=len([line for line in text if line != text[0]]), comp=save.comp is np.greater,
              tracker=[bool(tracker.new_best) in (True, False), tracker.idx], nan_stopped=nan_stopped, score_best=best)
