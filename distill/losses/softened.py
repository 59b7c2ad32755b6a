"""What losses at one temperature share of some rows of logits, for those that know their gradient in closed form."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

__all__ = ["Softened"]


class Softened:
    """Student's and teacher's distributions at a temperature T, each computed once, and when it is asked for.

    A softmax is cheaper than a logarithm of one and an exponential: the logarithms of its normalizers follow from its
    largest element, which is at least 1 / V.

    Args:
        student_nV: Logits ``[n, V]``, in at least float32.
        teacher_nV: Likewise, or none; of two widths the shared range is compared.
        temperature: T > 0.
    """

    def __init__(self, student_nV: Tensor, teacher_nV: Tensor | None, temperature: float) -> None:
        self.temperature = temperature
        width = student_nV.shape[-1] if teacher_nV is None else min(student_nV.shape[-1], teacher_nV.shape[-1])
        self.student, self.teacher = student_nV[:, :width], None if teacher_nV is None else teacher_nV[:, :width]

    @cached_property
    def q(self) -> Tensor:
        """softmax(student / T), ``[n, V]``."""
        return _softmax(self.student, self.temperature)

    @cached_property
    def p(self) -> Tensor:
        """softmax(teacher / T), ``[n, V]``."""
        assert self.teacher is not None
        return _softmax(self.teacher, self.temperature)

    @cached_property
    def student_normalizers(self) -> Tensor:
        """logsumexp(student / T), ``[n]``."""
        return self.student.amax(-1) / self.temperature - self.q.amax(-1).log()

    @cached_property
    def teacher_normalizers(self) -> Tensor:
        """logsumexp(teacher / T), ``[n]``."""
        assert self.teacher is not None
        return self.teacher.amax(-1) / self.temperature - self.p.amax(-1).log()

    @cached_property
    def difference(self) -> Tensor:
        """teacher - student, ``[n, V]``."""
        assert self.teacher is not None
        return self.teacher - self.student

    def forward_kl(self) -> Tensor:
        """KL(p || q) of every row, ``[n]``."""
        apart: Tensor = torch.linalg.vecdot(self.p, self.difference) / self.temperature
        return apart - self.teacher_normalizers + self.student_normalizers

    def reverse_kl(self) -> Tensor:
        """KL(q || p) of every row, ``[n]``."""
        apart: Tensor = torch.linalg.vecdot(self.q, self.difference) / self.temperature
        return self.teacher_normalizers - self.student_normalizers - apart


def _softmax(logits: Tensor, temperature: float) -> Tensor:
    return (logits if temperature == 1 else logits / temperature).softmax(-1)
