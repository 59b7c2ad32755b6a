"""What is to be expected of a teacher, by the labels that it and its student have. Light: no torch.

A teacher helps by what it knows and the labels at hand do not say: measured in ``docs/when-it-helps.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.core.retention import kept
from distill.core.utils.json_file import number_at

__all__ = ["expectation"]

_PAGE = "docs/when-it-helps.md"

_FEW = 0.1
"""Share of labelled rows up to which a teacher that saw more gained five points and more."""

_MORE = 1.5
"""Times the student's labels from which on a teacher's count as more."""


def expectation(result: Mapping[str, Any]) -> str:
    """One line on a run with a teacher; nothing where too little is known.

    Args:
        result: What a ``result.json`` holds, or as much of it as is known before the run: ``learned_from`` (training
            ``rows``, and those of them that are ``labelled``); ``teacher_learned_from`` (how many ``labelled`` rows the
            teacher was trained on, ``None`` where that is not known, and whether they are the ``same_rows``);
            ``monitor``, ``mode``, ``scores`` and ``measured``; ``teacher_check``, these four of before the
            run, where it validated nothing.
    """
    rows, labelled = (number_at(result, "learned_from", key) for key in ("rows", "labelled"))
    theirs = result.get("teacher_learned_from")
    if not rows or labelled is None or not isinstance(theirs, dict):
        return ""
    mine = f"all {rows:,} training rows are labelled" if labelled >= rows else _some(rows, labelled)
    check, beats = result.get("teacher_check"), _beats_guess(result)
    if beats is None and isinstance(check, Mapping):
        beats = _beats_guess(check)
    if beats is False:
        return f"{mine}, and the teacher is no better than a constant guess: expect nothing of it ({_PAGE})"
    teacher, gain = _of_teacher(
        labelled / rows, labelled, number_at(theirs, "labelled"), theirs.get("same_rows") is True
    )
    line = f"{mine}, and {teacher}: {gain} ({_PAGE})"
    compared = number_at(result, "scores", "alone", result.get("monitor")) is not None
    return line if compared or not labelled else f"{line}; train the baseline too"


def _some(rows: float, labelled: float) -> str:
    share = labelled / rows
    return f"{labelled:,} of {rows:,} training rows ({share:.{0 if share >= 0.01 else 2}%}) are labelled"


def _beats_guess(result: Mapping[str, Any]) -> bool | None:
    """Whether the teacher does, by more than a standard error; ``None`` where it was not scored."""
    metric, mode = result.get("monitor"), result.get("mode")
    teacher, guess = (number_at(result, "scores", who, metric) for who in ("teacher", "guess"))
    if not isinstance(metric, str) or teacher is None or guess is None:
        return None
    error = number_at(result, "measured", "standard_error") or 0.0
    return kept(teacher, teacher, guess, metric=metric, mode="max" if mode == "max" else "min", error=error) is not None


def _of_teacher(share: float, labelled: float, learned: float | None, same: bool) -> tuple[str, str]:
    """What the teacher was trained on, and what comes of that.

    Args:
        share: Of the training rows, those that are labelled.
        labelled: How many that are.
        learned: How many the teacher had, if that is known.
        same: Whether its rows are these.
    """
    if learned is not None and learned >= _MORE * max(labelled, 1):
        amount = "much" if share <= _FEW else "some" if share < 1 else "little of its answers, and much of its layers"
        return f"the teacher was trained on {learned:,} labelled ones", f"expect {amount}"
    little = "expect little beyond the labels alone" if share >= 1 else "what that gains was not measured"
    if same:
        return "the teacher was trained on the same rows", little
    if learned is not None:
        return f"the teacher was trained on no more of them ({learned:,})", little
    unless = f"{little}, unless it saw more" if share >= 1 else "expect a gain if it saw more labels than these"
    return "what the teacher was trained on is not known", unless
