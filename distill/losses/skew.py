"""Skewed KL divergence: forward KL to a mixture, so that the gradient stays bounded."""

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

__all__ = ["SkewKL", "skew_kl"]


def skew_kl(student_NC: Tensor, teacher_NC: Tensor, alpha: float = 0.1, temperature: float = 1.0) -> Tensor:
    """Sum over positions of T^2 * KL(p || alpha * p + (1 - alpha) * q).

    p = softmax(teacher / T), q = softmax(student / T). For alpha = 0 it is :func:`hinton_kl`.

    Args:
        student_NC: Logits ``[N, C]``, any float dtype; computed in float32 or better.
        teacher_NC: Logits ``[N, C]``; never written to.
        alpha: The teacher's share in the mixture, in [0, 1).
        temperature: T > 0.

    Returns:
        A scalar in at least float32; 0 with a zero gradient for N = 0.

    Reference:
        Ko, Kim, Chen, Yun: DistiLLM: Towards Streamlined Distillation for Large Language Models, ICML 2024.
    """
    if alpha == 0:
        return hinton_kl(student_NC, teacher_NC, temperature)

    def formula(student_nC: Tensor, teacher_nC: Tensor) -> Tensor:
        q = log_softmax(student_nC / temperature, dim=-1)
        p = log_softmax(teacher_nC / temperature, dim=-1)
        mixture = torch.logaddexp(p + math.log(alpha), q + math.log1p(-alpha))
        return temperature**2 * (p.exp() * (p - mixture)).sum()

    return sum_over_rows(formula, student_NC, teacher_NC)


class SkewKL(SoftenedLoss):
    """T^2 * KL(teacher || mixture of teacher and student) of the softened predictions.

    Args:
        alpha: The teacher's share in the mixture, in [0, 1).
        temperature: T > 0, or a schedule of it.
        weight: See :class:`DistillationLoss`.
        name: See :class:`DistillationLoss`.

    Raises:
        UserError: if alpha or the temperature is out of range, or there is no teacher.
    """

    row_wise: ClassVar[bool] = True

    def __init__(
        self,
        alpha: float = 0.1,
        temperature: float | Schedule = 1.0,
        weight: float | Schedule = 1.0,
        name: str | None = None,
    ) -> None:
        super().__init__(temperature, weight, name)
        if not 0 <= alpha < 1:
            raise UserError("must lie in [0, 1)", key="alpha", value=alpha, hint="at 1 the loss is 0 for any student")
        self.alpha = alpha

    def divergence(self, student_NC: Tensor, teacher_NC: Tensor, temperature: float) -> Tensor:
        return skew_kl(student_NC, teacher_NC, self.alpha, temperature)
