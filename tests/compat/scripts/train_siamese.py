"""Two pictures in, same or not out: own Transform, own model with one body, splitter in two groups, freeze."""
from fastai.vision.all import *
import drawn
from drawn import names_of

set_seed(drawn.seed)
path = drawn.colour_folders(n_train=16, n_valid=8)
files = get_image_files(path).sorted()
splits = GrandparentSplitter(valid_name='valid')(files)


class SiameseTransform(Transform):
    def __init__(self, files):
        self.by_label = {l: [f for f in files if parent_label(f) == l] for l in sorted({parent_label(f) for f in files})}

    def encodes(self, f):
        i = int(f.stem.split('_')[1])
        label, names = parent_label(f), list(self.by_label)
        other = label if i % 2 else names[(names.index(label) + 1) % 3]
        second = self.by_label[other][(i * 5 + 1) % len(self.by_label[other])]
        return PILImage.create(f), PILImage.create(second), torch.tensor(int(i % 2))


class SiameseModel(Module):
    def __init__(self, encoder, head):
        self.encoder, self.head = encoder, head

    def forward(self, x1, x2):
        return self.head(torch.cat([self.encoder(x1), self.encoder(x2)], dim=1))


def loss_func(out, targ):
    return nn.CrossEntropyLoss()(out, targ.long())


def siamese_splitter(model):
    return [params(model.encoder), params(model.head)]


tls = TfmdLists(files, SiameseTransform(files), splits=splits)
dls = tls.dataloaders(after_item=[Resize(24), ToTensor], after_batch=[IntToFloatTensor, Normalize.from_stats(*imagenet_stats)], bs=8,
                      num_workers=0)
encoder = nn.Sequential(ConvLayer(3, 16, stride=2), ConvLayer(16, 32, stride=2))
head = nn.Sequential(AdaptiveAvgPool(), Flatten(), LinBnDrop(64, 32, act=nn.ReLU()), nn.Linear(32, 2))
learn = Learner(dls, SiameseModel(encoder, head), loss_func=loss_func, splitter=siamese_splitter, metrics=accuracy)
learn.freeze()
frozen = [p.requires_grad for p in learn.model.encoder.parameters()]
learn.fit_one_cycle(2, 1e-2)
learn.unfreeze()
learn.fit_one_cycle(4, slice(1e-3, 1e-2))
score = float(learn.recorder.values[-1][2])
preds, targets = learn.get_preds()

result = dict(columns=list(learn.recorder.metric_names), n_inp=dls.n_inp, shapes=[o.shape for o in dls.one_batch()] + [preds.shape, targets.shape],
              frozen=frozen, groups=len(learn.opt.param_lists), near_lrs=[h['lr'] * 1000 for h in learn.opt.hypers], targets=targets,
              types=names_of(*dls.one_batch()), score_accuracy=score)
