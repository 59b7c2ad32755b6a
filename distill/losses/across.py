"""What losses share that compare a student with a teacher of another tokenizer.

Both models read the same text, each in its own tokens. They can be compared where both have read up to the same byte
(``Batch.extras[TEACHER_AT]``, made with the data): the texts that they then predict begin at the same place. That is
not yet the same event. A token is predicted together with where it ends, and a text that begins with the token ``in``
is no text that begins with ``ing``; so what such a loss compares is exact only up to tokenization.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from distill.core.lazy_logits import LazyLogits
from distill.core.schedules import Schedule
from distill.core.signals import TEACHER_AT, Batch, Signals
from distill.losses.base import LossSum, counted
from distill.losses.blockwise import sum_over_rows
from distill.losses.logit_loss import SoftenedLoss

__all__ = ["AcrossTokenizers"]


class AcrossTokenizers(SoftenedLoss):
    """A loss between the predictions of two models of different tokenizers. A subclass gives :meth:`compared`.

    A prediction with no partner at the teacher adds nothing, and counts all the same: so all terms of an objective have
    one count, and the gradient is that of one large batch for any number of micro-batches and ranks.

    Args:
        temperature: T > 0, or a schedule of it.
        weight: See :class:`DistillationLoss`.
        name: See :class:`DistillationLoss`.
    """

    across_tokenizers: ClassVar[bool] = True

    def __init__(
        self, temperature: float | Schedule = 1.0, weight: float | Schedule = 1.0, name: str | None = None
    ) -> None:
        super().__init__(temperature, weight, name)
        self.described = ""

    def meet_tokenizers(self, student: Any, teacher: Any) -> None:
        """Learn which tokens the models predict.

        Args:
            student: Its tokenizer, of transformers.
            teacher: Likewise.
        """

    @abstractmethod
    def compared(self, student_NC: Tensor, teacher_NV: Tensor, temperature: float) -> Tensor:
        """The sum over N positions, each of one place in the text, for logits in at least float32."""

    def divergence(self, student_NC: Tensor, teacher_NC: Tensor, temperature: float) -> Tensor:
        return sum_over_rows(
            lambda student_nC, teacher_nV: self.compared(student_nC, teacher_nV, temperature), student_NC, teacher_NC
        )

    def forward(self, student: Signals, teacher: Signals, batch: Batch) -> LossSum:
        assert student.logits is not None
        counts, at = batch.mask, batch.extras.get(TEACHER_AT)  # of one tokenizer each position is its own partner
        if at is not None:
            counts = at >= 0 if counts is None else counts & (at >= 0)
        (student_NC,) = counted(counts, student.logits.flatten(0, -2))
        temperature = self.temperature(batch.step, batch.total_steps)
        lazy = teacher.lazy_logits
        if lazy is None:
            assert teacher.logits is not None
            (teacher_NV,) = counted(counts, teacher.logits.flatten(0, -2))
            total = self.divergence(student_NC, teacher_NV, temperature)
        else:
            total = self._over_hidden(student_NC, lazy.at(counts), temperature)
        return LossSum(total, batch.count)

    def _over_hidden(self, student_NC: Tensor, teacher: LazyLogits, temperature: float) -> Tensor:
        def formula(student_nC: Tensor, hidden_nH: Tensor) -> Tensor:
            with torch.no_grad():
                teacher_nV = replace(teacher, hidden=hidden_nH).block(slice(None))
            return self.compared(student_nC, teacher_nV, temperature)

        return sum_over_rows(formula, student_NC, teacher.hidden)
