"""Generalized Jensen-Shannon divergence: between forward and reverse KL."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from distill.core.schedules import Schedule
from distill.core.utils.errors import UserError
from distill.losses.blockwise import sum_over_rows
from distill.losses.hinton import hinton_kl
from distill.losses.logit_loss import SoftenedLoss
from distill.losses.reverse import reverse_kl

__all__ = ["JensenShannon", "jensen_shannon"]


def jensen_shannon(student_NC: Tensor, teacher_NC: Tensor, beta: float = 0.5, temperature: float = 1.0) -> Tensor:
    """Sum over positions of T^2 * (beta * KL(p || m) + (1 - beta) * KL(q || m)), m = beta * p + (1 - beta) * q.

    p = softmax(teacher / T), q = softmax(student / T). At both ends the formula is 0 for any student. What
    it tends to *in proportion* is stood in for it, as is usual: JSD / beta tends to KL(p || q) for
    beta -> 0, and JSD / (1 - beta) to KL(q || p) for beta -> 1. So beta = 0 is forward KL, beta = 1 reverse KL,
    and the value (not the direction of the gradient) jumps there by these factors.

    Args:
        student_NC: Logits ``[N, C]``, any float dtype; computed in float32 or better.
        teacher_NC: Logits ``[N, C]``; never written to.
        beta: The teacher's share in the mixture, in [0, 1].
        temperature: T > 0.

    Returns:
        A scalar in at least float32; 0 with a zero gradient for N = 0.

    Reference:
        Agarwal et al.: On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes (GKD),
        ICLR 2024.
    """
    if beta == 0:
        return hinton_kl(student_NC, teacher_NC, temperature)
    if beta == 1:
        return reverse_kl(student_NC, teacher_NC, temperature)

    def formula(student_nC: Tensor, teacher_nC: Tensor) -> Tensor:
        q = log_softmax(student_nC / temperature, dim=-1)
        p = log_softmax(teacher_nC / temperature, dim=-1)
        mixture = torch.logaddexp(p + math.log(beta), q + math.log1p(-beta))
        divergence = beta * (p.exp() * (p - mixture)) + (1 - beta) * (q.exp() * (q - mixture))
        return temperature**2 * divergence.sum()

    return sum_over_rows(formula, student_NC, teacher_NC)


class JensenShannon(SoftenedLoss):
    """T^2 times the generalized Jensen-Shannon divergence of the softened predictions.

    Args:
        beta: The teacher's share in the mixture, in [0, 1]; 0 stands for forward KL, 1 for reverse KL
            (see :func:`jensen_shannon`).
        temperature: T > 0, or a schedule of it.
        weight: See :class:`DistillationLoss`.
        name: See :class:`DistillationLoss`.

    Raises:
        UserError: if beta or the temperature is out of range, or there is no teacher.
    """

    row_wise: ClassVar[bool] = True

    def __init__(
        self,
        beta: float = 0.5,
        temperature: float | Schedule = 1.0,
        weight: float | Schedule = 1.0,
        name: str | None = None,
    ) -> None:
        super().__init__(temperature, weight, name)
        if not 0 <= beta <= 1:
            raise UserError("must lie in [0, 1]", key="beta", value=beta, hint="0.5 weighs both directions the same")
        self.beta = beta

    def divergence(self, student_NC: Tensor, teacher_NC: Tensor, temperature: float) -> Tensor:
        return jensen_shannon(student_NC, teacher_NC, self.beta, temperature)
