"""What a type checker flags: the lines that say so, and no others."""
from minifast.vision.all import *

dls = ImageDataLoaders.from_folder('pictures', valid_pct=0.2, item_tfms=Resize(32))
learn = vision_learner(dls, resnet18, metrics=error_rate)
learn.fit_one_cycel(3)  # flagged: reportAttributeAccessIssue
learn.fit_one_cycle(3, lr_mx=1e-3)  # flagged: reportCallIssue
learn.fit_one_cycle('3')  # flagged: reportArgumentType
learn.lr_find(show_plto=False)  # flagged: reportCallIssue
SaveModelCallback(monitr='accuracy')  # flagged: reportCallIssue
