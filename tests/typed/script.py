"""A training script on tensors."""
from functools import partial

import torch
from torch import nn
from torch.utils.data import TensorDataset

from minifast.basics import *
from minifast.callback.all import *

data = TensorDataset(torch.randn(64, 8), torch.randint(0, 2, (64,)))
dls = DataLoaders(DataLoader(data, bs=8, shuffle=True), DataLoader(data, bs=8))
learn = Learner(dls, nn.Linear(8, 2), loss_func=nn.CrossEntropyLoss(), opt_func=partial(Adam, wd=0.1),
                metrics=[accuracy, F1Score(average='macro')])
found = learn.lr_find()
learn.fit_one_cycle(3, found.valley, cbs=[SaveModelCallback(monitor='accuracy'), EarlyStoppingCallback(patience=2)],
                    checkpoint='checkpoints', resume=True)
learn.fit(1, 1e-3, wd=0.01)
learn.freeze()
learn.fine_tune(2, 1e-3)
learn.unfreeze()
preds, targets = learn.get_preds()
print(preds.argmax(1) == targets)
loss, error, _ = learn.validate()
print(loss + error, learn.predict(data[0][0])[1])
learn.save('kept', with_opt=True)
learn.load('kept')
learn.export('model.pth')
again = load_learner('model.pth')
print(again.dls.vocab, again.recorder.values, learn.opt.hypers[0]['lr'])
