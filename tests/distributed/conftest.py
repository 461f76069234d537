"""What several test files of this folder compare: the trainings of `training.py`, each run once."""
from __future__ import annotations

import pytest
from launch import HERE, run_together
from safetensors.torch import load_file
from training import PARTS


@pytest.fixture(scope='session')
def outcomes(tmp_path_factory):
    """A function: what parts of `training.py`, all by default, gave on n processes."""
    done = {}

    def of(n, strategy='ddp', parts=tuple(PARTS)):
        if (n, strategy, parts) not in done:
            folder = tmp_path_factory.mktemp('outcomes')
            run_together(n, HERE / 'training.py', folder, ','.join(parts), cwd=folder, strategy=strategy)
            done[n, strategy, parts] = {name: load_file(folder / f'{name}_{n}.safetensors') for name in parts}
        return done[n, strategy, parts]
    return of
