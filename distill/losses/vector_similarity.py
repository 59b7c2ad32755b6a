"""Which texts are near each other: the cosines within a batch, as the teacher has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import kl_div, normalize

from distill.core.numerics import at_least_float32, full_precision
from distill.core.schedules import Schedule
from distill.core.signals import Batch, Signals
from distill.core.utils.errors import check_choice
from distill.losses.base import LossSum, check_positive
from distill.losses.vectors import VectorLoss

__all__ = ["VectorSimilarity", "cosines", "similarity_kl", "similarity_mse"]


def cosines(first_ME: Tensor, second_NE: Tensor) -> Tensor:
    """cos(first_i, second_j), ``[M, N]``, in at least float32."""
    ours, theirs = (normalize(at_least_float32(part), dim=-1) for part in (first_ME, second_NE))
    with full_precision(ours):
        return ours @ theirs.T


def similarity_mse(student_BE: Tensor, teacher_BF: Tensor) -> Tensor:
    """Mean over ordered pairs i != j of (cos(s_i, s_j) - cos(t_i, t_j))^2.

    Args:
        student_BE: Vectors ``[B, E]``.
        teacher_BF: Vectors ``[B, F]``; never written to.

    Returns:
        A scalar in at least float32; 0 with a zero gradient for fewer than two texts.
    """
    ours, theirs = _others(student_BE), _others(teacher_BF)
    return (ours - theirs).square().sum() / max(1, ours.numel())


def similarity_kl(student_BE: Tensor, teacher_BF: Tensor, temperature: float) -> Tensor:
    """Mean over texts i of KL(p_i || q_i), p_i = softmax over j != i of cos(t_i, t_j) / T, q_i likewise of the student.

    Args:
        student_BE: Vectors ``[B, E]``.
        teacher_BF: Vectors ``[B, F]``; never written to.
        temperature: T. Cosines lie in [-1, 1], so that it is far below 1.

    Returns:
        A scalar in nats, in at least float32; 0 with a zero gradient for fewer than two texts.

    Reference:
        Fang et al.: SEED: Self-supervised Distillation for Visual Representation, ICLR 2021 (with a queue of texts).
    """
    ours, theirs = _others(student_BE) / temperature, _others(teacher_BF) / temperature
    if not ours.numel():
        return ours.sum()
    return kl_div(ours.log_softmax(-1), theirs.log_softmax(-1), log_target=True, reduction="batchmean")


def _others(vectors_BE: Tensor) -> Tensor:
    """The cosines of each vector with the others, ``[B, B - 1]``."""
    count = len(vectors_BE)
    different = ~torch.eye(count, dtype=torch.bool, device=vectors_BE.device)
    return cosines(vectors_BE, vectors_BE)[different].view(count, max(0, count - 1))


class VectorSimilarity(VectorLoss):
    """How alike texts of a micro-batch are to each other: the student's cosines are to be the teacher's.

    Widths may differ, and nothing is mapped. The texts of a micro-batch are compared with each other, so the loss
    depends on how the batch is split, and 1 x 8 is not 8 x 1: its total is the mean over the micro-batch times
    ``batch.count``.

    Args:
        kind: ``mse`` (:func:`similarity_mse`) or ``kl`` (:func:`similarity_kl`), which looks at the nearest texts.
        temperature: T of ``kl``, or a schedule of it.
        dimensions: See :class:`~distill.losses.vectors.VectorLoss`.
        weight: See :class:`DistillationLoss`.
        name: See :class:`DistillationLoss`.

    Raises:
        UserError: if an argument is out of range, or there is no teacher.
    """

    def __init__(
        self,
        kind: Literal["mse", "kl"] = "mse",
        temperature: float | Schedule = 0.05,
        dimensions: Sequence[int] | None = None,
        weight: float | Schedule = 1.0,
        name: str | None = None,
    ) -> None:
        super().__init__(dimensions, weight, name)
        check_choice("kind", kind, ("mse", "kl"))
        self.kind, self.temperature = kind, check_positive("temperature", temperature)

    def forward(self, student: Signals, teacher: Signals, batch: Batch) -> LossSum:
        ours_NE, theirs_NF = self.vectors(student, teacher, batch)
        temperature = self.temperature(batch.step, batch.total_steps)
        means = [
            similarity_mse(part, theirs_NF) if self.kind == "mse" else similarity_kl(part, theirs_NF, temperature)
            for part in self.prefixes(ours_NE)
        ]
        return LossSum(torch.stack(means).sum() * batch.count, batch.count)
