"""What a model says of a row to a person, and how a script that needs no package of ours prints it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from distill.core.signals import Batch

__all__ = [
    *("LOGITS", "MASK", "NONE", "Answer", "Answering", "Script"),
    *("alternatives", "cells", "digits", "named", "rounded"),
]

Answer = dict[str, Any]
"""Names to what JSON can hold."""

NONE = "-"
"""In a line of text, what stands where nothing is said."""

MASK = "[MASK]"
"""In an example, what stands for the tokenizer's mask token."""


LOGITS = "model(**inputs).logits"
"""Where most models of transformers have them."""


class Script(NamedTuple):
    """How a script of a few lines shows what a model says.

    Attributes:
        prints: Lines of Python that print it: they know ``text``, its ``inputs``, and ``logits``, whose first row is
            the text's.
        labels: Whether they name classes, by ``labels``: id as text -> name.
        logits: The logits of a ``model`` of transformers, as an expression of its ``inputs``.
    """

    prints: tuple[str, ...]
    labels: bool = False
    logits: str = LOGITS


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


def cells(row: Mapping[str, Any]) -> list[Any]:
    """What a row holds, as it is shown: a picture by its path, where it has one."""
    return [_cell(value) for value in row.values()]


def _cell(value: Any) -> Any:
    value = value.get("path") or NONE if isinstance(value, Mapping) else value
    return NONE if isinstance(value, bytes) else value


class Answering:
    """What the predictions of a task are to a person: as it stands, the logits themselves.

    Attributes:
        labels: Names of the classes; ``None`` where there are none.
        shown: What the roles of a row are called to a person, where that is not their own name.
    """

    labels: list[str] | None
    shown: ClassVar[Mapping[str, str]] = {}

    def joined(self, parts: Sequence[Answer]) -> Answer:
        """The answer to a row from those of its samples, in their order."""
        return parts[0]

    @property
    def ranks(self) -> bool:
        """Whether a prediction has alternatives, which can be named beside it."""
        return self.labels is not None

    def refuse_row(self, features: Mapping[str, Any], tokenizer: Any) -> tuple[str, str] | None:
        """Why a row cannot be answered, and what mends it; ``None`` where it can."""
        return None

    def answers(
        self, logits: Tensor, batch: Batch, rows: Sequence[Mapping[str, Any]], tokenizer: Any, top: int | None
    ) -> list[Answer]:
        """What a model says of each row.

        Args:
            logits: ``[B, C]`` or ``[B, T, C]``, on the host.
            batch: Made by :meth:`ask`.
            rows: Role -> text, of the batch's samples.
            tokenizer: The model's.
            top: How many alternatives are named; ``None`` names none beside the prediction.
        """
        return [{"logits": [rounded(value) for value in row.flatten()]} for row in logits]

    def nothing(self, row: Mapping[str, Any]) -> Answer:
        """The answer to a row of which the tokenizer makes nothing."""
        return {"logits": []}

    def fields(self, row: Mapping[str, Any], answer: Answer) -> list[list[str]]:
        """An answer as lines of text: the fields of each."""
        return [[" ".join(map(digits, answer["logits"])), *row.values()]]

    def script(self) -> Script:
        """How a few lines of Python print what a model says of a text."""
        return Script(("print(logits[0].tolist(), text)",))

    def pipeline_arguments(self, max_length: int) -> dict[str, Any]:
        """What :attr:`pipeline` must be told besides the text, so that it reads as in training."""
        return {}
