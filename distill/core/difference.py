"""Standard errors of the difference of two models on the same samples. Light: no torch.

References:
    McNemar: Note on the Sampling Error of the Difference between Correlated Proportions, Psychometrika 1947.
"""

from __future__ import annotations

import math

__all__ = ["error_apart", "error_paired", "within"]


def error_apart(error: float, score: float | None, one: float, other: float, *, metric: str, predictions: int) -> float:
    """The standard error of the difference of two scores of which nothing is known but themselves.

    sqrt(e_1^2 + e_2^2), as if the samples were others. Where models agree it is too large, and a difference is then
    said to be none rather than to be one.

    Args:
        error: That of ``score``, the only one that was measured. An accuracy p of N predictions has
            sqrt(p (1 - p) / N), as much wider as the measured one is; another score has the measured one.
        score: The student's.
        one: A score.
        other: Another one.
        metric: Which score they are.
        predictions: N.
    """
    if metric != "accuracy" or not predictions or score is None:
        return math.hypot(error, error)
    wider = _spread(error, score, predictions)
    return wider * math.hypot(_binomial(one, predictions), _binomial(other, predictions))


def error_paired(error: float, score: float, agreement: float, predictions: int) -> float:
    """The standard error of the difference of two accuracies on the same samples, if both models are equally good.

    sqrt((1 - a) / N), where a is the part of the predictions that are the same: only the others can tell the models
    apart (McNemar). Of those that differ, both may be wrong, so that it is at least what it would be.

    Args:
        error: Of one of the two.
        score: That one.
        agreement: a.
        predictions: N.
    """
    return _spread(error, score, predictions) * math.sqrt(max(0.0, 1 - agreement) / predictions)


def within(difference: float, error: float) -> bool:
    """Whether it is no more than one standard error: one answer of N that is another is 1 / N apart, which is one."""
    return abs(difference) <= error * (1 + 1e-6)


def _binomial(score: float, predictions: int) -> float:
    return math.sqrt(max(0.0, score * (1 - score)) / predictions)


def _spread(error: float, score: float, predictions: int) -> float:
    """How much wider the error is than that of predictions that do not hang together, as tokens of a text do."""
    alone = _binomial(score, predictions)
    return max(1.0, error / alone) if alone else 1.0
