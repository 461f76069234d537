"""All of the data rooms: from items to loaders."""
from minifast.torch_basics import *
from minifast.data.sampler import *
from minifast.data.transform import *
from minifast.data.transforms import *
from minifast.data.load import *
from minifast.data.core import *
from minifast.data.block import *
from minifast.data.external import *
