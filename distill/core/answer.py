"""What a model says of a row to a person, and how a script that needs no package of ours prints it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

__all__ = ["MASK", "NONE", "Answer", "Script", "alternatives", "digits", "named", "rounded"]

Answer = dict[str, Any]
"""Names to what JSON can hold."""

NONE = "-"
"""In a line of text, what stands where nothing is said."""

MASK = "[MASK]"
"""In an example, what stands for the tokenizer's mask token."""


class Script(NamedTuple):
    """How a script of a few lines shows what a model says.

    Attributes:
        prints: Lines of Python that print it: they know ``text``, its ``inputs``, and ``logits``, whose first row is
            the text's.
        labels: Whether they name classes, by ``labels``: id as text -> name.
    """

    prints: tuple[str, ...]
    labels: bool = False


def rounded(value: Tensor) -> float:
    """Six digits: more of them differ from batch to batch."""
    return float(f"{float(value):.6g}")


def digits(score: float | None) -> str:
    """A score as a line of text has it."""
    return NONE if score is None else f"{score:.4f}"


def named(label: str | None, score: float | None) -> list[str]:
    """A label and its score as two fields of a line."""
    return [NONE if label is None else label, digits(score)]


def alternatives(found: Mapping[str, float | None] | Iterable[tuple[str | None, float | None]]) -> list[str]:
    """Labels and their scores as fields of one line."""
    pairs = found.items() if isinstance(found, Mapping) else found
    return [part for label, score in pairs for part in named(label, score)]
