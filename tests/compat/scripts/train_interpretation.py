"""Looking at a trained model: confusion matrix, top losses, most confused, report, hooks, summaries."""
from fastai.vision.all import *
import contextlib
import io
import drawn
from drawn import names_of

set_seed(drawn.seed)
path = drawn.digit_folder(n=300)
dls = ImageDataLoaders.from_folder(path, valid_pct=0.3, seed=42, item_tfms=Resize(16), bs=30, num_workers=0)
model = nn.Sequential(ConvLayer(3, 16, stride=2), ConvLayer(16, 32, stride=2), AdaptiveAvgPool(), Flatten(), nn.Linear(32, 10))
learn = Learner(dls, model, loss_func=CrossEntropyLossFlat(), metrics=accuracy, cbs=ActivationStats(with_hist=True))
learn.fit_one_cycle(6, 2e-2)
score = float(learn.recorder.values[-1][2])
stats = learn.activation_stats.stats
interp = ClassificationInterpretation.from_learner(learn)
matrix = interp.confusion_matrix()
losses, idxs = interp.top_losses(9)
interp.plot_confusion_matrix(figsize=(4, 4), dpi=60)
interp.plot_top_losses(4, nrows=2, figsize=(5, 5))
confused = interp.most_confused(min_val=1)
with contextlib.redirect_stdout(io.StringIO()) as printed:
    interp.print_classification_report()
summary = str(learn.summary())
with hook_output(model[0]) as hook:
    learn.model.eval()(dls.one_batch()[0])
    kept = hook.stored.shape
with hook_outputs([model[0], model[1]]) as hooks:
    learn.model(dls.one_batch()[0])
    sizes = [h.stored.shape for h in hooks]


class HookBwd:
    def __init__(self, module):
        self.hook = module.register_full_backward_hook(self.hook_func)

    def hook_func(self, module, gi, go):
        self.stored = go[0].detach().clone()

    def __enter__(self, *args):
        return self

    def __exit__(self, *args):
        self.hook.remove()


x, = first(dls.test_dl([dls.valid_ds.items[0]]))
with HookBwd(learn.model[1]) as hook_gradient:
    with Hook(learn.model[1], lambda m, i, o: o.detach().clone()) as hook:
        output = learn.model.eval()(x)
        act = hook.stored
    output[0, 3].backward()
    grad = hook_gradient.stored
cam = (grad[0].mean(dim=[1, 2], keepdim=True) * act[0]).sum(0)
learn.recorder.plot_loss(skip_start=1)
interp.show_results([0, 1, 2])

result = dict(matrix=[matrix.shape, int(matrix.sum())], losses=[losses.shape, idxs.shape, bool((losses[:-1] >= losses[1:]).all())], n_stats=[len(stats), len(stats[0])],
              stat_keys=sorted(stats[0][0]), confused=[len(confused) > 0, names_of(confused[0]), len(confused[0])], report='precision' in printed.getvalue(), vocab=list(interp.vocab),
              summary=['Total params: 5,34' in summary or 'Total params' in summary, 'Total trainable params' in summary], kept=kept, sizes=sizes, cam=cam.shape, types=names_of(interp),
              model_sizes=[list(o) for o in model_sizes(learn.model, (16, 16))][:2], features=num_features_model(learn.model[:2]), score_accuracy=score)
