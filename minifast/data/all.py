"""All of the data rooms: from items to loaders.

Written by tools/make_namespaces.py from the rooms' `__all__` (`make namespaces`).
"""
from minifast import torch_basics as _torch_basics
from minifast.torch_basics import *

__all__ = []
__all__ += _torch_basics.__all__
