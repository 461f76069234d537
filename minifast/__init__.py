"""minifast: fastai's way of training on plain PyTorch, decided once and then run as a flat table.

Nothing heavy is imported here: `import minifast` is free, `from minifast.vision.all import *` is the door that scripts
and notebooks use.
"""

__version__ = '0.1.0'

import sys as _sys

from minifast.reexports import RoomFinder as _RoomFinder

# by name: after a reload the finder in place is of an older class
if not any(type(finder).__module__ == _RoomFinder.__module__ for finder in _sys.meta_path):
    _sys.meta_path.insert(0, _RoomFinder())
