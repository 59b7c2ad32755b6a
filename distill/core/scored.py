"""What a batch's signals predict, and what a prediction that looks at nothing scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor
from torchmetrics import Metric

from distill.core.token_scores import TokenScores

__all__ = ["Guess", "Scored", "guess_at_random"]


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


def guess_at_random(metrics: Mapping[str, Metric]) -> Guess | None:
    """What an order drawn at random scores, by those metrics that rank, which know it once they are computed.

    Args:
        metrics: By name, computed; those that have it as ``chance``.
    """
    chances = {name: getattr(metric, "chance", None) for name, metric in metrics.items()}
    known = {name: float(one) for name, one in chances.items() if isinstance(one, Tensor) and one.isfinite()}
    return Guess(known, "an order at random") if known else None
