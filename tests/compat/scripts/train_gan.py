"""GAN style: two networks and two optimizers in one loop, driven by a callback that does the steps itself."""
from fastai.vision.all import *
import drawn
from drawn import names_of

set_seed(drawn.seed)
x, _ = map(tensor, drawn.digits(256))
pairs = [(torch.randn(16), o.flatten() * 2 - 1) for o in x]
dls = DataLoaders.from_dsets(pairs[:192], pairs[192:], bs=32, num_workers=0)
generator = nn.Sequential(nn.Linear(16, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.Tanh())
critic = nn.Sequential(nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1))


class GAN(Module):
    def __init__(self, generator, critic):
        self.generator, self.critic = generator, critic

    def forward(self, noise):
        return self.generator(noise)


def splitter(model):
    return L(model.generator, model.critic).map(params)


class TwoSteps(Callback):
    run_valid = False

    def before_fit(self):
        self.learn.critic_opt = self.opt_func(L(params(self.model.critic)), lr=1e-3)
        self.critic_losses = []

    def after_pred(self):
        fake = self.pred.detach()
        real_score, fake_score = self.model.critic(self.y), self.model.critic(fake)
        loss = F.softplus(-real_score).mean() + F.softplus(fake_score).mean()
        loss.backward()
        self.learn.critic_opt.step()
        self.learn.critic_opt.zero_grad()
        self.critic_losses.append(loss.item())

    def after_step(self):
        self.learn.critic_opt.zero_grad()


def generator_loss(fake, real):
    return F.softplus(-critic(fake)).mean()


learn = Learner(dls, GAN(generator, critic), loss_func=generator_loss, splitter=splitter, opt_func=partial(Adam, mom=0., sqr_mom=0.99, wd=0.),
                cbs=TwoSteps(), lr=1e-3)
learn.opt_func = partial(Adam, mom=0., sqr_mom=0.99, wd=0.)
start = [p.detach().clone() for p in generator.parameters()]
learn.fit(3)
moved = [bool((a != b).any()) for a, b in zip(start, generator.parameters())]
losses = list(learn.two_steps.critic_losses)
made, _ = learn.get_preds()

result = dict(columns=list(learn.recorder.metric_names), n=len(losses), moved=moved, shape=made.shape, groups=len(learn.opt.param_lists),
              range=bool((made.abs() <= 1).all()), finite=all(map(math.isfinite, losses)), names=[cb.name for cb in learn.cbs if cb.name != 'cast_to_tensor'],
              learning=losses[-1] < losses[0], near_hypers=[learn.opt.hypers[0]['mom'], learn.opt.hypers[0]['wd']])
