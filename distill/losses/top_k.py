"""Forward KL over the teacher's most likely classes, all others taken together as one."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from distill.core.schedules import Schedule
from distill.core.signals import Batch
from distill.core.utils.errors import UserError
from distill.losses.blockwise import sum_over_rows
from distill.losses.hinton import hinton_kl
from distill.losses.logit_loss import SoftenedLoss
from distill.losses.softened import Softened

__all__ = ["TopKKL", "top_k_kl"]


def top_k_kl(student_NC: Tensor, teacher_NC: Tensor, k: int, temperature: float = 1.0) -> Tensor:
    """Sum over positions of T^2 * (sum over c in K of p_c log(p_c / q_c) + p_rest log(p_rest / q_rest)).

    K are the teacher's k most likely classes, p = softmax(teacher / T), q = softmax(student / T), and p_rest and q_rest
    what is left of 1: with that bucket the student is told how much the others are to get together, and how they
    share it is its own affair. It is at most :func:`hinton_kl`, and equal to it for k >= C.

    Args:
        student_NC: Logits ``[N, C]``, any float dtype; computed in float32 or better.
        teacher_NC: Logits ``[N, C]``; never written to.
        k: 1 or more.
        temperature: T > 0.

    Returns:
        A scalar in at least float32; 0 with a zero gradient for N = 0.
    """
    if k >= student_NC.shape[-1]:
        return hinton_kl(student_NC, teacher_NC, temperature)

    def formula(student_nC: Tensor, teacher_nC: Tensor) -> Tensor:
        top = teacher_nC.topk(k, dim=-1).indices
        log_q, rest_q = _split(log_softmax(student_nC / temperature, dim=-1), top)
        log_p, rest_p = _split(log_softmax(teacher_nC / temperature, dim=-1), top)
        return temperature**2 * ((log_p.exp() * (log_p - log_q)).sum() + (rest_p.exp() * (rest_p - rest_q)).sum())

    return sum_over_rows(formula, student_NC, teacher_NC)


def _split(log_probabilities: Tensor, top: Tensor) -> tuple[Tensor, Tensor]:
    """Those of ``top``, and that of all others together: summed, as 1 less the top's would be rounding alone."""
    rest = log_probabilities.scatter(-1, top, float("-inf")).logsumexp(-1)
    return log_probabilities.gather(-1, top), rest


class TopKKL(SoftenedLoss):
    """T^2 * KL(teacher || student) over the teacher's k most likely classes and one bucket for the rest.

    The tail of a large vocabulary is where a teacher knows least.

    Args:
        k: How many classes are compared one by one, 1 or more.
        temperature: T > 0, or a schedule of it.
        weight: See :class:`DistillationLoss`.
        name: See :class:`DistillationLoss`.

    Raises:
        UserError: if k or the temperature is out of range, or there is no teacher.
    """

    row_wise: ClassVar[bool] = True

    def __init__(
        self,
        k: int = 50,
        temperature: float | Schedule = 1.0,
        weight: float | Schedule = 1.0,
        name: str | None = None,
    ) -> None:
        super().__init__(temperature, weight, name)
        if k < 1:
            raise UserError("must be 1 or more", key="k", value=k, hint="50 keeps nearly all of a sure teacher's mass")
        self.k = k

    def divergence(self, student_NC: Tensor, teacher_NC: Tensor, temperature: float) -> Tensor:
        return top_k_kl(student_NC, teacher_NC, self.k, temperature)

    def closed_form(
        self, at: Callable[..., Softened], batch: Batch, gradient_nV: Tensor | None, factor: float
    ) -> Tensor | None:
        temperature = self.temperature(batch.step, batch.total_steps)
        soft = at(temperature)
        if self.k >= soft.q.shape[-1]:
            return None
        top = soft.p.topk(self.k, dim=-1).indices
        q, p, rest = soft.q.gather(-1, top), soft.p.gather(-1, top), soft.q.scatter(-1, top, 0)
        tiny = torch.finfo(q.dtype).tiny
        rest_q = rest.sum(-1, keepdim=True).clamp(min=tiny)
        rest_p = soft.p.scatter(-1, top, 0).sum(-1, keepdim=True).clamp(min=tiny)
        if gradient_nV is not None:
            # d/dz_j = T (q_j - p_j) in the top, and T q_j (1 - p_rest / q_rest) in the rest.
            gradient_nV = gradient_nV[:, : soft.q.shape[-1]]
            gradient_nV.addcmul_(rest, 1 - rest_p / rest_q, value=factor * temperature)
            gradient_nV.scatter_add_(-1, top, (factor * temperature) * (q - p))
        apart = soft.difference.gather(-1, top) / temperature
        apart = apart - (soft.teacher_normalizers - soft.student_normalizers)[:, None]
        return temperature**2 * ((p * apart).sum() + (rest_p * (rest_p / rest_q).log()).sum())
