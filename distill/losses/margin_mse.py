"""How much nearer what belongs to a query is than what does not, as the teacher has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from distill.core.pairs import partners
from distill.core.schedules import Schedule
from distill.core.signals import Batch, Signals
from distill.core.utils.errors import check_choice
from distill.losses.base import LossSum
from distill.losses.vectors import VectorLoss, require_pairs

__all__ = ["MarginMSE", "margin_mse"]

_TEXTS = 3  # of a row: query, positive, negative


def margin_mse(student_P: Tensor, teacher_P: Tensor) -> Tensor:
    """Sum over rows of (student margin - teacher margin)^2, a margin s(query, positive) - s(query, negative).

    Args:
        student_P: The student's margins ``[P]``, in at least float32.
        teacher_P: The teacher's.

    Returns:
        A scalar; 0 with a zero gradient for P = 0.

    Reference:
        Hofstaetter et al.: Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation,
        2020.
    """
    return (student_P - teacher_P).square().sum()


class MarginMSE(VectorLoss):
    """Squared error of the margins of a row's query, positive and negative, for retrieval.

    A row is three texts and so three predictions; its error counts for each, and the loss is exact however a batch is
    divided.

    Args:
        similarity: Of two vectors: ``cosine``, or ``dot``, their product.
        dimensions: See :class:`~distill.losses.vectors.VectorLoss`.
        weight: See :class:`DistillationLoss`.
        name: See :class:`DistillationLoss`.

    Raises:
        UserError: if there is no teacher, or the rows of the data have no negative.
    """

    def __init__(
        self,
        similarity: Literal["cosine", "dot"] = "cosine",
        dimensions: Sequence[int] | None = None,
        weight: float | Schedule = 1.0,
        name: str | None = None,
    ) -> None:
        super().__init__(dimensions, weight, name)
        check_choice("similarity", similarity, ("cosine", "dot"))
        self.similarity = similarity

    def forward(self, student: Signals, teacher: Signals, batch: Batch) -> LossSum:
        require_pairs(self, batch, "negative")
        ours_NE, theirs_NF = self.vectors(student, teacher, batch)
        expected = self._margins(theirs_NF, batch)
        totals = [margin_mse(self._margins(part, batch), expected) for part in self.prefixes(ours_NE)]
        return LossSum(_TEXTS * torch.stack(totals).sum(), batch.count)

    def _margins(self, vectors: Tensor, batch: Batch) -> Tensor:
        near, far = (self._similarity(vectors, *partners(batch, 0, number)) for number in (1, 2))
        return near - far

    def _similarity(self, vectors: Tensor, first: Tensor, second: Tensor) -> Tensor:
        ours, theirs = vectors[first], vectors[second]
        return cosine_similarity(ours, theirs, dim=-1) if self.similarity == "cosine" else (ours * theirs).sum(-1)
