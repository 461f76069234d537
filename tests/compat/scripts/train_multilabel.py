"""Several labels a picture: thresholded accuracy, F1, a partial as metric, thresholds tried on predictions."""
from fastai.vision.all import *
import drawn
from drawn import names_of

set_seed(drawn.seed)
path = drawn.labelled_csv(n=72)
df = pd.read_csv(path / 'labels.csv')
block = DataBlock(blocks=(ImageBlock, MultiCategoryBlock), splitter=ColSplitter('is_valid'),
                  get_x=ColReader('fname', pref=f'{path}/train/', suff='.png'),
                  get_y=ColReader('labels', label_delim=' '), item_tfms=Resize(32))
dls = block.dataloaders(df, bs=9, num_workers=0)
model = nn.Sequential(ConvLayer(3, 16, stride=2), ConvLayer(16, 32, stride=2), ConvLayer(32, 32, stride=2), AdaptiveAvgPool(),
                      Flatten(), nn.Linear(32, dls.c))
f1 = F1ScoreMulti(thresh=0.5, average='samples')
f1.name = 'F1(samples)'
learn = Learner(dls, model, metrics=[partial(accuracy_multi, thresh=0.5), f1])
learn.fit_one_cycle(8, 1e-2)
names = list(learn.recorder.metric_names)
score = float(learn.recorder.values[-1][2])
preds, targets = learn.get_preds()
thresholds = [round(float(accuracy_multi(preds, targets, thresh=t, sigmoid=False)), 4) for t in (0.2, 0.5, 0.8)]
learn.metrics = partial(accuracy_multi, thresh=0.1)
again = learn.validate()
labels, flags, p = learn.predict(path / 'train' / 'im000.png')
learn.show_results(max_n=3)

result = dict(columns=names, loss=names_of(learn.loss_func), shapes=[preds.shape, targets.shape, flags.shape, p.shape],
              types=names_of(labels, flags, p), again=len(again), in_range=bool(((preds >= 0) & (preds <= 1)).all()),
              targets=targets.sum(0), label_types=names_of(*list(labels)[:1]) in ([], ['str']), n_thresholds=len(thresholds),
              dtype=str(flags.dtype), score_accuracy=score)
