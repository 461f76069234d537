"""Pictures in folders, a convolutional net, one cycle; prediction, test set, saving, loading, exporting."""
from fastai.vision.all import *
import drawn
from drawn import names_of

set_seed(drawn.seed)
path = drawn.digit_folder(n=400)
dls = ImageDataLoaders.from_folder(path, valid_pct=0.25, seed=42, item_tfms=Resize(16), bs=32, num_workers=0)
model = nn.Sequential(ConvLayer(3, 16, stride=2), ConvLayer(16, 32, stride=2), AdaptiveAvgPool(), Flatten(),
                      nn.Linear(32, 10))
learn = Learner(dls, model, metrics=[accuracy, error_rate, top_k_accuracy], opt_func=ranger)
learn.fit_one_cycle(4, 1e-2)
names = list(learn.recorder.metric_names)
score = float(learn.recorder.values[-1][2])
probs, targets = learn.get_preds()
_, _, decoded = learn.get_preds(with_decoded=True)
everything = learn.get_preds(ds_idx=1, with_input=True, with_decoded=True, with_loss=True)
files = get_image_files(path).sorted()
label, index, p = learn.predict(files[0])
picture = learn.predict(PILImage.create(files[0]))
test = dls.test_dl(files[:7])
test_probs, none = learn.get_preds(dl=test)
tta, _ = learn.tta(n=2)
saved = learn.save('small')
valid = learn.validate()
learn.load('small')
learn.export('export.pkl')
again = load_learner(path / 'export.pkl')
again_label, _, again_p = again.predict(files[0])
learn.show_results(max_n=4)

net = vision_learner(dls, resnet18, pretrained=False, metrics=error_rate, cbs=[ShowGraphCallback()] if False else None)
net.fit(1, 1e-3, cbs=ShortEpochCallback(pct=0.2))
net.freeze()
groups = len(net.opt.param_lists)

result = dict(
    columns=names, row=len(learn.recorder.values[-1]), epochs=len(learn.recorder.values), shapes=[probs.shape, targets.shape,
    decoded.shape, test_probs.shape, tta.shape, p.shape], everything=[o.shape for o in everything], none=none is None,
    types=names_of(label, index, p, probs, targets, picture[0], again), label=str(label) in dls.vocab, near_sum=float(probs.sum()) / 100,
    saved=[saved.name, saved.parent.name], valid=[len(valid), names_of(valid)], same=bool(torch.allclose(p, again_p, atol=1e-5)), again=again_label == label,
    log=len(learn.recorder.log), n_losses=len(learn.recorder.losses), n_lrs=len(learn.recorder.lrs), iters=list(learn.recorder.iters),
    hypers=sorted(learn.opt.hypers[0]), groups=groups, frozen=net.opt.frozen_idx, body_head=len(net.model), again_vocab=list(again.dls.vocab),
    score_accuracy=score, score_get_preds=float(accuracy(probs, targets)), near_lr=learn.recorder.lrs[:3] + learn.recorder.lrs[-2:])
