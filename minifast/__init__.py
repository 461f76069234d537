"""minifast: fastai's way of training on plain PyTorch, decided once and then run as a flat table.

Nothing heavy is imported here: `import minifast` is free, `from minifast.vision.all import *` is the door that scripts
and notebooks use.
"""

__version__ = '0.1.0'

import minifast.reexports as _reexports  # noqa: E402, F401  before any other room is imported
