"""What losses share that compare a student with a teacher of another tokenizer.

Both models read the same text, each in its own tokens. They can be compared where both have read up to the same byte
(``Batch.extras[TEACHER_AT]``, made with the data): the texts that they then predict begin at the same place. That is
not yet the same event. A token is predicted together with where it ends, and a text that begins with the token ``in``
is no text that begins with ``ing``; so what such a loss compares is exact only up to tokenization.

Where a token of the teacher's is several of the student's, its prediction also says how they follow each other
(``Batch.extras[TEACHER_PATH]``); which losses read that off it, they say in ``within``.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from distill.core.lazy_logits import LazyLogits
from distill.core.schedules import Schedule
from distill.core.signals import TEACHER_AT, TEACHER_PATH, Batch, Signals
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

    within: bool = False
    """Whether predictions within a token of the teacher's are compared too."""

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
    def compared(self, student_NC: Tensor, teacher_NV: Tensor, path_N: Tensor, temperature: float) -> Tensor:
        """The sum over N positions, each of one place in the text, for logits in at least float32.

        Args:
            student_NC: Logits ``[N, C]``.
            teacher_NV: Logits ``[N, V]``.
            path_N: What the student has read since the teacher's position (:data:`TEACHER_PATH`); 0 everywhere unless
                :attr:`within`.
            temperature: T > 0.
        """

    def divergence(self, student_NC: Tensor, teacher_NC: Tensor, temperature: float) -> Tensor:
        return self._summed(student_NC, teacher_NC, _here(student_NC), temperature)

    def _summed(self, student_NC: Tensor, teacher_NV: Tensor, path_N: Tensor, temperature: float) -> Tensor:
        def formula(student_nC: Tensor, teacher_nV: Tensor, path_n: Tensor) -> Tensor:
            return self.compared(student_nC, teacher_nV, path_n, temperature)

        return sum_over_rows(formula, student_NC, teacher_NV, path_N)

    def forward(self, student: Signals, teacher: Signals, batch: Batch) -> LossSum:
        assert student.logits is not None
        counts = self._compared_at(batch)
        (student_NC,) = counted(counts, student.logits.flatten(0, -2))
        path = batch.extras.get(TEACHER_PATH)
        path_N = _here(student_NC) if path is None else counted(counts, path.flatten())[0]
        temperature = self.temperature(batch.step, batch.total_steps)
        lazy = teacher.lazy_logits
        if lazy is None:
            assert teacher.logits is not None
            (teacher_NV,) = counted(counts, teacher.logits.flatten(0, -2))
            total = self._summed(student_NC, teacher_NV, path_N, temperature)
        else:
            total = self._over_hidden(student_NC, lazy.at(counts), path_N, temperature)
        return LossSum(total, batch.count)

    def _compared_at(self, batch: Batch) -> Tensor | None:
        """Which positions are compared, ``[B, T]``; ``None`` for all."""
        at, path = batch.extras.get(TEACHER_AT), batch.extras.get(TEACHER_PATH)
        if at is None:  # of one tokenizer each position is its own partner
            return batch.mask
        partner = at >= 0 if path is None or self.within else (at >= 0) & (path == 0)
        return partner if batch.mask is None else batch.mask & partner

    def _over_hidden(self, student_NC: Tensor, teacher: LazyLogits, path_N: Tensor, temperature: float) -> Tensor:
        def formula(student_nC: Tensor, hidden_nH: Tensor, path_n: Tensor) -> Tensor:
            with torch.no_grad():
                teacher_nV = replace(teacher, hidden=hidden_nH).block(slice(None))
            return self.compared(student_nC, teacher_nV, path_n, temperature)

        return sum_over_rows(formula, student_NC, teacher.hidden, path_N)


def _here(rows: Tensor) -> Tensor:
    """Of every row, that both models have read the same bytes before it."""
    return torch.zeros(len(rows), dtype=torch.long, device=rows.device)
