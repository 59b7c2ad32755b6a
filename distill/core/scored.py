"""What a batch's signals predict, and what a prediction that looks at nothing scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from distill.core.token_scores import TokenScores

__all__ = ["Guess", "Scored"]


class Guess(NamedTuple):
    """The best prediction that looks at no input.

    Attributes:
        scores: Its scores, by metric.
        says: What it predicts, in words.
    """

    scores: Mapping[str, float]
    says: str


class Scored(NamedTuple):
    """What a batch's signals predict.

    Attributes:
        classes: ``[...]``; ``None`` where predictions are no classes.
        by: The logits ``[..., C]``, or what is known of them where they were not there as a whole.
    """

    classes: Tensor | None
    by: Tensor | TokenScores
