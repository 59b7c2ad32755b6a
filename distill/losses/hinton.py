"""Soft targets: forward KL divergence at a temperature."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import log_softmax

from distill.core.schedules import Constant, Schedule
from distill.core.signals import Batch
from distill.losses.blockwise import sum_over_rows
from distill.losses.logit_loss import SoftenedLoss
from distill.losses.softened import Softened

__all__ = ["HintonKL", "hinton_kl"]


def hinton_kl(student_NC: Tensor, teacher_NC: Tensor, temperature: float = 1.0) -> Tensor:
    """Sum over positions of T^2 * KL(softmax(teacher / T) || softmax(student / T)).

    The factor T^2 keeps the size of the gradient independent of the temperature, as its derivative is
    T * (softmax(student / T) - softmax(teacher / T)).

    Args:
        student_NC: Logits ``[N, C]``, any float dtype; computed in float32 or better.
        teacher_NC: Logits ``[N, C]``; never written to.
        temperature: T > 0.

    Returns:
        A scalar in at least float32; 0 with a zero gradient for N = 0.

    Reference:
        Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015.
    """

    def formula(student_nC: Tensor, teacher_nC: Tensor) -> Tensor:
        student_logp = log_softmax(student_nC / temperature, dim=-1)
        teacher_logp = log_softmax(teacher_nC / temperature, dim=-1)
        return temperature**2 * (teacher_logp.exp() * (teacher_logp - student_logp)).sum()

    return sum_over_rows(formula, student_NC, teacher_NC)


class HintonKL(SoftenedLoss):
    """T^2 * KL(teacher || student) of the softened predictions, the classic distillation loss.

    Args:
        temperature: T > 0, or a schedule of it.
        weight: See :class:`DistillationLoss`.
        name: See :class:`DistillationLoss`.

    Raises:
        UserError: if the temperature is not greater than 0, or there is no teacher.
    """

    row_wise: ClassVar[bool] = True

    @property
    def takes_samples(self) -> bool:
        return isinstance(self.temperature, Constant) and self.temperature.value == 1

    def __init__(
        self, temperature: float | Schedule = 2.0, weight: float | Schedule = 1.0, name: str | None = None
    ) -> None:
        super().__init__(temperature, weight, name)

    def divergence(self, student_NC: Tensor, teacher_NC: Tensor, temperature: float) -> Tensor:
        return hinton_kl(student_NC, teacher_NC, temperature)

    def closed_form(
        self, at: Callable[..., Softened], batch: Batch, gradient_nV: Tensor | None, factor: float
    ) -> Tensor:
        temperature = self.temperature(batch.step, batch.total_steps)
        soft = at(temperature)
        if gradient_nV is not None:
            gradient_nV = gradient_nV[:, : soft.q.shape[-1]]
            gradient_nV.add_(soft.q, alpha=factor * temperature).sub_(soft.p, alpha=factor * temperature)
        return temperature**2 * soft.forward_kl()
