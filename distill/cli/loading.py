"""What is said while a command loads what it needs, which takes seconds. Light."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from types import ModuleType

__all__ = ["saying_what_loads"]

_SLOW = "torch"
"""All that takes long is imported with it, or after it."""


class _Finder(MetaPathFinder):
    """Finds nothing, and says once that something slow is looked for."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if name == _SLOW and self in sys.meta_path:
            sys.meta_path.remove(self)
            print("distill: loading torch, transformers and Lightning ...", file=sys.stderr, flush=True)


@contextmanager
def saying_what_loads() -> Iterator[None]:
    """Say on stderr when torch begins to be imported, inside the block, so that nobody waits in silence.

    Of the processes of a run the first one says so.
    """
    finder = _Finder()
    if _SLOW not in sys.modules and os.environ.get("LOCAL_RANK", "0") == "0":
        sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        if finder in sys.meta_path:
            sys.meta_path.remove(finder)
