"""Mutants that change nothing anybody could see, each with the reason."""
from __future__ import annotations

EQUIVALENT: dict[tuple[str, ...], str] = {}
"""(function, the lines that go, the lines that come) -> why no test can tell them apart."""
