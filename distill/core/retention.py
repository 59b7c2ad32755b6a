"""How much of what a teacher learned a student kept: pure functions of scores. Light: no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from distill.core.utils.json_file import number_at

__all__ = ["kept", "kept_of", "percent", "ratio"]

_LOGARITHMIC = ("perplexity",)
"""Metrics that are compared by their logarithm: of a perplexity that is the nats a token takes."""


def kept(
    student: float, teacher: float, guess: float, *, metric: str, mode: str = "max", error: float = 0.0
) -> float | None:
    """(student - guess) / (teacher - guess) in percent: 0 for the guess, 100 for the teacher.

    Perplexities are taken by their logarithm, nats: of 828 beside a teacher of 17, where frequencies alone give 900,
    2 % are kept, and their ratio means nothing.

    Args:
        student: Its score.
        teacher: Likewise.
        guess: That of a prediction that looks at no input.
        metric: Which score it is.
        mode: ``max`` or ``min``: which direction is better.
        error: The score's standard error.

    Returns:
        ``None`` where the teacher does not beat the guess by more than ``error``, or a score is not finite.
    """
    ahead = teacher - guess if mode == "max" else guess - teacher
    if not ahead > error or not all(map(math.isfinite, (student, teacher, guess))):
        return None
    if metric in _LOGARITHMIC:
        student, teacher, guess = (math.log(max(value, 1e-300)) for value in (student, teacher, guess))
    return 100 * (student - guess) / (teacher - guess)


def ratio(student: float, teacher: float, mode: str) -> float | None:
    """student / teacher in percent, inverted where less is better: what published tables give.

    ``None`` where no ratio means anything: a teacher or student at or below 0.
    """
    if not (student > 0 and teacher > 0):
        return None
    return 100 * (student / teacher if mode == "max" else teacher / student)


def kept_of(result: Mapping[str, Any]) -> float | None:
    """What the run of this ``result.json`` kept by the metric that it is judged by, read off its scores."""
    metric, mode = result.get("monitor"), result.get("mode")
    if not isinstance(metric, str) or mode not in ("max", "min"):
        return None
    scores = result.get("scores")
    student, teacher, guess = (number_at(scores, who, metric) for who in ("student", "teacher", "guess"))
    if student is None or teacher is None or guess is None:
        return None
    error = number_at(result, "measured", "standard_error") or 0.0
    return kept(student, teacher, guess, metric=metric, mode=mode, error=error)


def percent(value: float | None) -> str:
    """A number of percent as tables show it; ``-`` for none, and no minus before what is rounded to zero."""
    return "-" if value is None else f"{round(value, 1) + 0.0:.1f} %"
