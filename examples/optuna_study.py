"""Look for a learning rate and a width with Optuna, which ends trials that lag behind the others.

`pip install "minifast[optuna]"`, then `python optuna_study.py 20` for 20 trials; afterwards `minifast runs study` lists
them, and `minifast compare study --html study.html` draws them.
"""
import sys

import optuna
from sklearn.datasets import load_digits

from minifast.vision.all import *

x, y = map(torch.tensor, load_digits(return_X_y=True))
digits = list(zip(x.float() / 16, y))
dls = DataLoaders.from_dsets(digits[:1400], digits[1400:], bs=64)

def objective(trial):
    class Prune(Callback):
        order = 60  # behind the recorder, which makes the row
        def after_epoch(self):
            trial.report(self.recorder.history[-1]['accuracy'], self.epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
    width, lr = trial.suggest_int('width', 8, 64, log=True), trial.suggest_float('lr', 1e-5, 1, log=True)
    net = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
    learn = Learner(dls, net, CrossEntropyLossFlat(), metrics=accuracy, cbs=Prune)
    learn.fit_one_cycle(5, lr, run=f'study/trial {trial.number}')
    return learn.recorder.history.best('accuracy')['accuracy']

study = optuna.create_study(direction='maximize', sampler=optuna.samplers.TPESampler(seed=1),
                            pruner=optuna.pruners.MedianPruner(n_startup_trials=1))
study.optimize(objective, n_trials=int(sys.argv[1]))
