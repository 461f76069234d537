"""Mutants that change nothing anybody could see, each with the reason."""
from __future__ import annotations

EQUIVALENT: dict[tuple[str, ...], str] = {
    ('steep', '-if len(lrs) < 2:', '+if len(lrs) <= 2:'):
        'of two points there is one slope: the first point is where it is steepest',
    ('WandbCallback._has_epoch', "-return last.get('epoch', 0) > epoch or last.get('epoch', 0) == epoch and same",
     "+return last.get('epoch', 0) > epoch or last.get('epoch', None) == epoch and same"):
        'epochs are counted from 1, so that a run without one equals neither default',
}
"""(function, the lines that go, the lines that come) -> why no test can tell them apart."""
