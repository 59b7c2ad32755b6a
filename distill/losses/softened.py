"""What losses at one temperature share of some rows of logits, for those that know their gradient in closed form."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from distill.core.internals.torch import softmax_into

__all__ = ["Scratch", "Softened"]


class Scratch:
    """Memory for what is computed of some rows, used again for the next: fresh pages would cost as much as the sums."""

    def __init__(self) -> None:
        self._buffers: list[Tensor] = []
        self._used = 0

    def take(self, like: Tensor) -> Tensor:
        """A tensor of the shape of ``like``, ``[n, V]``, of no particular values."""
        if self._used == len(self._buffers) or self._buffers[self._used].numel() < like.numel():
            self._buffers[self._used : self._used + 1] = [like.new_empty(like.numel())]
        self._used += 1
        return self._buffers[self._used - 1][: like.numel()].view(like.shape)

    def free(self) -> None:
        """Forget all that was taken."""
        self._used = 0


class Softened:
    """Student's and teacher's distributions at a temperature T, each computed once, and when it is asked for.

    A softmax is cheaper than a logarithm of one and an exponential: the logarithms of its normalizers follow from its
    largest element, which is at least 1 / V.

    Args:
        student_nV: Logits ``[n, V]``, in at least float32.
        teacher_nV: Likewise, or none; of two widths the shared range is compared.
        temperature: T > 0.
        scratch: Where the distributions are kept.
    """

    def __init__(self, student_nV: Tensor, teacher_nV: Tensor | None, temperature: float, scratch: Scratch) -> None:
        self.temperature, self._scratch = temperature, scratch
        width = student_nV.shape[-1] if teacher_nV is None else min(student_nV.shape[-1], teacher_nV.shape[-1])
        self.student, self.teacher = student_nV[:, :width], None if teacher_nV is None else teacher_nV[:, :width]

    @cached_property
    def q(self) -> Tensor:
        """softmax(student / T), ``[n, V]``."""
        return self._softmax(self.student)

    @cached_property
    def p(self) -> Tensor:
        """softmax(teacher / T), ``[n, V]``."""
        assert self.teacher is not None
        return self._softmax(self.teacher)

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
        """KL(p || q), summed over the rows."""
        assert self.teacher is not None
        apart = (_dot(self.p, self.teacher) - _dot(self.p, self.student)) / self.temperature
        return apart + (self.student_normalizers - self.teacher_normalizers).sum()

    def reverse_kl(self) -> Tensor:
        """KL(q || p), summed over the rows."""
        assert self.teacher is not None
        apart = (_dot(self.q, self.student) - _dot(self.q, self.teacher)) / self.temperature
        return apart + (self.teacher_normalizers - self.student_normalizers).sum()

    def _softmax(self, logits: Tensor) -> Tensor:
        if self.temperature != 1:
            logits = torch.div(logits, self.temperature, out=self._scratch.take(logits))
        return softmax_into(logits, self._scratch.take(logits))


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """The sum of all products, without a tensor of them where both lie in one piece."""
    if one.is_contiguous() and other.is_contiguous():
        return torch.dot(one.view(-1), other.view(-1))
    return (one * other).sum()
