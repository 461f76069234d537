"""All that trains a model, without pictures: `from minifast.basics import *`."""
from minifast.data.all import *
from minifast.optimizer import *
from minifast.metrics import *
from minifast.callback.core import *
from minifast.callback.recorder import *
from minifast.checkpoint import *
from minifast.inference import *
from minifast.interpret import *
from minifast.learner import *
