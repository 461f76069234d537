"""Pictures in folders, a convolutional net, one cycle; prediction, test set, saving, loading, exporting."""
from fastai.vision.all import *
import drawn
from drawn import names_of

set_seed(drawn.seed)
path = drawn.digit_folder(n=300)
dls = ImageDataLoaders.from_folder(path, valid_pct=0.25, seed=42, item_tfms=Resize(16), bs=32, num_workers=0)
model = nn.Sequential(ConvLayer(3, 16, stride=2), ConvLayer(16, 32, stride=2), AdaptiveAvgPool(), Flatten(),
                      nn.Linear(32, 10))
learn = Learner(dls, model, metrics=[accuracy, error_rate, top_k_accuracy])
learn.fit_one_cycle(6, 2e-2)
names = list(learn.recorder.metric_names)
row, epochs, iters = len(learn.recorder.values[-1]), len(learn.recorder.values), list(learn.recorder.iters)
score = float(learn.recorder.values[-1][2])
log, losses, lrs = list(learn.recorder.log), len(learn.recorder.losses), learn.recorder.lrs
probs, targets = learn.get_preds()
after = len(learn.final_record)
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
learn.show_results(max_n=4)

net = vision_learner(dls, xresnet18, pretrained=False, metrics=error_rate)
net.fit(1, 1e-3, cbs=ShortEpochCallback(pct=0.2))
net.freeze()
groups, frozen = len(net.opt.param_lists), net.opt.frozen_idx
net.export('export.pkl')
again = load_learner(path / 'export.pkl')
net_label, _, net_p = net.predict(files[0])
again_label, _, again_p = again.predict(files[0])

result = dict(
    columns=names, row=row, epochs=epochs, shapes=[probs.shape, targets.shape,
    decoded.shape, test_probs.shape, tta.shape, p.shape], everything=[o.shape for o in everything], none=none is None,
    types=names_of(label, index, p, probs, targets, picture[0], again), label=str(label) in dls.vocab, near_sum=float(probs.sum()) / 100,
    saved=[saved.name, saved.parent.name], valid=[len(valid), names_of(valid)], after_get_preds=after, same=bool(torch.allclose(net_p, again_p, atol=1e-5)), again=again_label == net_label,
    log=len(log), n_losses=losses, n_lrs=len(lrs), log_types=names_of(*log),
    hypers=sorted(learn.opt.hypers[0]), groups=groups, frozen=frozen, body_head=len(net.model), again_vocab=list(again.dls.vocab),
    score_accuracy=score, score_get_preds=float(accuracy(probs, targets)), iters=iters, near_lr=lrs[:3] + lrs[-2:])
