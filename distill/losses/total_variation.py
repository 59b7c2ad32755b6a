"""Total variation: what a draft's tokens are rejected at in speculative decoding."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from distill.core.signals import Batch
from distill.losses.blockwise import sum_over_rows
from distill.losses.logit_loss import SoftenedLoss
from distill.losses.softened import Softened

__all__ = ["TotalVariation", "total_variation"]


def total_variation(student_NC: Tensor, teacher_NC: Tensor, temperature: float = 1.0) -> Tensor:
    """Sum over positions of T * 1/2 * sum_c |p_c - q_c|, p = softmax(teacher / T), q = softmax(student / T).

    At T = 1 it is 1 less the acceptance sum_c min(p_c, q_c): the share of the student's proposals that the teacher
    rejects where the student is its draft. T, and not T^2, keeps the size of its gradient, which does not shrink as
    p and q become alike.

    Args:
        student_NC: Logits ``[N, C]``, any float dtype; computed in float32 or better.
        teacher_NC: Logits ``[N, C]``; never written to.
        temperature: T > 0.

    Returns:
        A scalar in at least float32; 0 with a zero gradient for N = 0.

    References:
        Wen, Li, Du, Mou: f-Divergence Minimization for Sequence-Level Knowledge Distillation, ACL 2023.
        Zhou et al.: DistillSpec: Improving Speculative Decoding via Knowledge Distillation, ICLR 2024.
    """

    def formula(student_nC: Tensor, teacher_nC: Tensor) -> Tensor:
        q = (student_nC / temperature).softmax(-1)
        p = (teacher_nC / temperature).softmax(-1)
        return temperature * 0.5 * (p - q).abs().sum()

    return sum_over_rows(formula, student_NC, teacher_NC)


class TotalVariation(SoftenedLoss):
    """T times the total variation of the softened predictions; at T = 1 it is 1 less the acceptance.

    Args:
        temperature: T > 0, or a schedule of it: that at which a draft's tokens are sampled.
        weight: See :class:`DistillationLoss`.
        name: See :class:`DistillationLoss`.

    Raises:
        UserError: if the temperature is not greater than 0, or there is no teacher.
    """

    row_wise: ClassVar[bool] = True

    def divergence(self, student_NC: Tensor, teacher_NC: Tensor, temperature: float) -> Tensor:
        return total_variation(student_NC, teacher_NC, temperature)

    def closed_form(
        self, at: Callable[..., Softened], batch: Batch, gradient_nV: Tensor | None, factor: float
    ) -> Tensor:
        temperature = self.temperature(batch.step, batch.total_steps)
        soft = at(temperature)
        apart = soft.q - soft.p
        if gradient_nV is not None:
            # d/dz_j = q_j (g_j - sum_c q_c g_c), g = sign(q - p) / 2, and T times 1 / T.
            signs = apart.sign()
            mean = torch.linalg.vecdot(soft.q, signs)[:, None]
            gradient_nV[:, : soft.q.shape[-1]].addcmul_(soft.q, signs - mean, value=0.5 * factor)
        return temperature * 0.5 * apart.abs_().sum()
