"""What every test may rely on: no display, a known seed, figures closed, and the repository's own minifast."""
from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault('MPLBACKEND', 'Agg')
# Models of tests are tiny: a second thread brings nothing, and on a busy machine threads wait for each other
os.environ.setdefault('OMP_NUM_THREADS', '1')

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def known_start():
    """Each test starts from the same generator states, whatever ran before it, and leaves no open figure."""
    import random

    import numpy as np
    import torch
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    yield
    if 'matplotlib.pyplot' in sys.modules:
        sys.modules['matplotlib.pyplot'].close('all')


@pytest.fixture(scope='session')
def root() -> Path:
    """The folder that holds setup.cfg."""
    return ROOT
