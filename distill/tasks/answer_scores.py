"""Exact match and F1 of answers, each question once, however many windows its context has."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.text.squad import squad
from torchmetrics.utilities import dim_zero_cat

__all__ = ["PerQuestion", "answer_scores"]


def answer_scores(answer: str, references: Sequence[str]) -> tuple[float, float]:
    """Exact match and F1 in [0, 1] of an answer with the best of its references, as SQuAD's script has them.

    Texts are compared in small letters, without punctuation, articles and doubled blanks; an empty answer is right
    where there is no reference, and wrong elsewhere.
    """
    known = list(references) or [""]
    answers: dict[str, list[str] | list[int]] = {"text": known, "answer_start": [0] * len(known)}
    expected: dict[str, str | dict[str, list[str] | list[int]]] = {"answers": answers, "id": ""}
    found = squad([{"prediction_text": answer, "id": ""}], [expected])
    return float(found["exact_match"]) / 100, float(found["f1"]) / 100


class PerQuestion(Metric):
    """The mean over questions of a score in [0, 1]: of the answer of a question's most certain window, or of none.

    A question is not answered where that is more likely, in each of its windows, than any answer in one of them. A
    window that comes twice counts once, so loaders of several ranks may repeat rows.

    :attr:`standard_error`, known after :meth:`compute`, is that of the mean.
    """

    is_differentiable = False
    full_state_update = False
    windows: list[Tensor]
    standard_error: Tensor | None = None

    def __init__(self) -> None:
        super().__init__()
        self.add_state("windows", [], dist_reduce_fx="cat")

    def update(
        self, question: Tensor, window: Tensor, certainty: Tensor, value: Tensor, none: Tensor, unanswered: Tensor
    ) -> None:
        """Add windows, ``[W]`` each; of a rank that has none empty ones.

        Args:
            question: A number of each window's question.
            window: Its number among those of the question.
            certainty: The log-probability of its best answer.
            value: What that scores.
            none: The log-probability of no answer; minus infinity where there always is one.
            unanswered: What no answer scores.
        """
        exact = torch.float32 if question.device.type == "mps" else torch.float64  # Apple's have nothing longer
        parts = (question, window, certainty, value, none, unanswered)
        self.windows.append(torch.stack([part.to(exact) for part in parts], 1))

    def compute(self) -> Tensor:
        values = self.of_questions()
        self.standard_error = values.std(correction=0) / max(1, len(values)) ** 0.5
        return (values.mean() if len(values) else values.new_tensor(math.nan)).float()

    def of_questions(self) -> Tensor:
        """The score of each question, ``[Q]``."""
        rows = dim_zero_cat(self.windows) if len(self.windows) else torch.zeros(0, 6)
        question, window, certainty, value, none, unanswered = rows.unbind(1)
        numbers, at = torch.unique(question, return_inverse=True)
        unknown = rows.new_full((len(numbers),), torch.inf)
        best = (-unknown).scatter_reduce(0, at, certainty, "amax")
        least = unknown.scatter_reduce(0, at, none, "amin")
        # Of windows that are as certain the first one of the context, whatever rank had it.
        chosen = unknown.scatter_reduce(0, at, torch.where(certainty == best[at], window, torch.inf), "amin")
        answered, left = rows.new_zeros(len(numbers)), rows.new_zeros(len(numbers))
        answered = answered.scatter(0, at[window == chosen[at]], value[window == chosen[at]])
        left = left.scatter(0, at, unanswered)
        return torch.where(least > best, left, answered)
