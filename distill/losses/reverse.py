"""Reverse KL divergence: the student keeps to what the teacher finds likely."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from distill.core.signals import Batch
from distill.losses.blockwise import sum_over_rows
from distill.losses.logit_loss import SoftenedLoss
from distill.losses.softened import Softened

__all__ = ["ReverseKL", "reverse_kl"]


def reverse_kl(student_NC: Tensor, teacher_NC: Tensor, temperature: float = 1.0) -> Tensor:
    """Sum over positions of T^2 * KL(softmax(student / T) || softmax(teacher / T)).

    Args:
        student_NC: Logits ``[N, C]``, any float dtype; computed in float32 or better.
        teacher_NC: Logits ``[N, C]``; never written to.
        temperature: T > 0.

    Returns:
        A scalar in at least float32; 0 with a zero gradient for N = 0.

    Reference:
        Gu, Dong, Wei, Huang: MiniLLM: Knowledge Distillation of Large Language Models, ICLR 2024.
    """

    def formula(student_nC: Tensor, teacher_nC: Tensor) -> Tensor:
        student_logp = log_softmax(student_nC / temperature, dim=-1)
        teacher_logp = log_softmax(teacher_nC / temperature, dim=-1)
        return temperature**2 * (student_logp.exp() * (student_logp - teacher_logp)).sum()

    return sum_over_rows(formula, student_NC, teacher_NC)


class ReverseKL(SoftenedLoss):
    """T^2 * KL(student || teacher) of the softened predictions.

    Forward KL (:class:`HintonKL`) spreads the student over all that the teacher does; reverse KL seeks one
    mode that it can follow. On the data's own tokens, or on the student's (``model.on_policy``).

    Args:
        temperature: T > 0, or a schedule of it.
        weight: See :class:`DistillationLoss`.
        name: See :class:`DistillationLoss`.

    Raises:
        UserError: if the temperature is not greater than 0, or there is no teacher.
    """

    row_wise: ClassVar[bool] = True

    def divergence(self, student_NC: Tensor, teacher_NC: Tensor, temperature: float) -> Tensor:
        return reverse_kl(student_NC, teacher_NC, temperature)

    def closed_form(
        self, at: Callable[..., Softened], batch: Batch, gradient_nV: Tensor | None, factor: float
    ) -> Tensor:
        temperature = self.temperature(batch.step, batch.total_steps)
        soft = at(temperature)
        if gradient_nV is not None:
            # d/dz_j = T q_j (log(q_j / p_j) - KL), and log(q_j / p_j) - KL = mean_q(difference) - difference_j, over T.
            mean = torch.linalg.vecdot(soft.q, soft.difference)[:, None]
            gradient_nV[:, : soft.q.shape[-1]].addcmul_(soft.q, mean - soft.difference, value=factor)
        return temperature**2 * soft.reverse_kl()
