"""Answers that stand in a context: how data gives them, where they stand, and the most likely one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["LONGEST", "Place", "best_spans", "given_answers", "place", "span_within"]

LONGEST = 30
"""Tokens of an answer at the most, as usual for SQuAD."""


class Place(NamedTuple):
    """Where an answer stands in its context.

    Attributes:
        start: Its first character.
        text: It.
        moved: Whether the data says another place, or none.
    """

    start: int
    text: str
    moved: bool


def given_answers(value: Any, start: Any = None) -> list[tuple[str, int | None]] | None:
    """The answers of a row as data gives them: texts, each with its place where there is one.

    Args:
        value: SQuAD's ``{"text": [...], "answer_start": [...]}``, a list of ``{"text": ..., "answer_start": ...}``, a
            list of texts, or one text.
        start: Of the last two, where the first character stands: a number, or a list of them.

    Returns:
        ``None`` where the row has no label (null, an empty text); an empty list where it says that there is no answer.

    Raises:
        ValueError: saying what is wrong.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, Mapping):
        value, start = value.get("text"), value.get("answer_start")
        if value is None:
            return None
    if isinstance(value, Sequence) and not isinstance(value, str):
        if value and all(isinstance(one, Mapping) for one in value):
            return [answer for one in value for answer in given_answers(one) or ()]
        texts, starts = list(value), list(start) if isinstance(start, Sequence) else [start] * len(value)
    else:
        texts, starts = [value], [start]
    if len(texts) != len(starts):
        raise ValueError(f"has {len(texts)} texts and {len(starts)} places")
    for text, at in zip(texts, starts, strict=True):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"has the text {text!r}")
        if at is not None and (not isinstance(at, (int, float)) or isinstance(at, bool) or at != int(at)):
            raise ValueError(f"has the place {at!r}")
    return [(text, None if at is None else int(at)) for text, at in zip(texts, starts, strict=True)]


def place(context: str, text: str, start: int | None) -> Place:
    """Where ``text`` stands in its context: where the data says, or else where it stands once.

    Raises:
        ValueError: if it does not, or which of several places is meant is not said.
    """
    if start is not None and start >= 0 and context.startswith(text, start):
        return Place(start, text, False)
    first = context.find(text)
    if first < 0:
        raise ValueError("which does not stand in its context")
    if context.find(text, first + 1) >= 0:
        said = "and no place is given" if start is None else f"and not at {start}"
        raise ValueError(f"which stands in its context several times, {said}")
    return Place(first, text, True)


def span_within(
    place: Place, starts: NDArray[np.int64], ends: NDArray[np.int64], inside: NDArray[np.bool_]
) -> tuple[int, int] | None:
    """The first and the last token of an answer; ``None`` where a window does not hold all of it.

    Args:
        place: The answer.
        starts: Of each token its first character, ``[T]``.
        ends: And that behind its last, ``[T]``.
        inside: Which tokens are the context's, ``[T]``.
    """
    first = place.start + len(place.text) - len(place.text.lstrip())
    behind = place.start + len(place.text.rstrip())
    tokens = np.flatnonzero(inside)
    if not len(tokens) or first < starts[tokens[0]] or behind > ends[tokens[-1]]:
        return None
    touched = tokens[(ends[tokens] > first) & (starts[tokens] < behind)]
    return (int(touched[0]), int(touched[-1])) if len(touched) else None


def best_spans(start_BT: Tensor, end_BT: Tensor, inside_BT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The span of each row whose start and end are the most likely together: at most :data:`LONGEST` tokens.

    Args:
        start_BT: Log-probabilities of a start at each position.
        end_BT: And of an end.
        inside_BT: Where both may be.

    Returns:
        Its score (the sum of the two; minus infinity where no position may be), first and last position, ``[B]``. Of
        several as likely the shortest, and of these the first.
    """
    start, end = (x.masked_fill(~inside_BT, -torch.inf) for x in (start_BT, end_BT))
    score = start.new_full(start.shape[:1], -torch.inf)
    first, last = (torch.zeros(len(start), dtype=torch.long, device=start.device) for _ in range(2))
    length = start.shape[1]
    for more in range(min(LONGEST, length)):
        found, at = (start[:, : length - more] + end[:, more:]).max(1)
        better = found > score
        score = torch.where(better, found, score)
        first, last = torch.where(better, at, first), torch.where(better, at + more, last)
    return score, first, last
