"""What datasets keeps to itself: what a data set is known by.

Written against datasets 5.2; ``tests/core/internals/test_datasets.py`` holds it.
"""

from __future__ import annotations

from typing import Any

__all__ = ["fingerprint"]


def fingerprint(dataset: Any) -> str:
    """A text that is another one whenever the rows, or what was done to them, are others."""
    return dataset._fingerprint  # type: ignore[no-any-return]
