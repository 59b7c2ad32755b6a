"""Data: sources, tokenized samples, deterministic batches, and the data module that joins them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill.data.text import TextData

__all__ = ["TextData"]


def __getattr__(name: str) -> Any:
    # The tasks draw their random numbers from here, and the data module needs the tasks: it has to come later.
    if name == "TextData":
        from distill.data.text import TextData

        return TextData
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
