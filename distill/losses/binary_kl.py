"""Soft targets where each class is a yes or no of its own: the KL divergence of Bernoulli distributions."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from distill.core.schedules import Schedule
from distill.core.signals import OutputKind
from distill.losses.blockwise import sum_over_rows
from distill.losses.logit_loss import SoftenedLoss

__all__ = ["BinaryKL", "binary_kl"]


def binary_kl(student_NC: Tensor, teacher_NC: Tensor, temperature: float = 1.0) -> Tensor:
    """Sum over samples of T^2 times the mean over classes of KL(Bernoulli(p) || Bernoulli(q)).

    p = sigmoid(teacher / T), q = sigmoid(student / T), and KL = p log(p / q) + (1 - p) log((1 - p) / (1 - q)). The
    factor T^2 keeps the size of the gradient independent of the temperature: it is T * (q - p) / C.

    Args:
        student_NC: Logits ``[N, C]``, any float dtype; computed in float32 or better.
        teacher_NC: Logits ``[N, C]``; never written to.
        temperature: T > 0.

    Returns:
        A scalar in at least float32; 0 with a zero gradient for N = 0.

    Reference:
        Yang et al.: Multi-Label Knowledge Distillation, ICCV 2023 (one binary problem a label).
    """

    def formula(student_nC: Tensor, teacher_nC: Tensor) -> Tensor:
        s, t = student_nC / temperature, teacher_nC / temperature
        yes = t.sigmoid() * (logsigmoid(t) - logsigmoid(s))
        no = (-t).sigmoid() * (logsigmoid(-t) - logsigmoid(-s))
        return temperature**2 * (yes + no).mean(-1).sum()

    return sum_over_rows(formula, student_NC, teacher_NC)


class BinaryKL(SoftenedLoss):
    """T^2 * KL(teacher || student) of each class's yes or no, for tasks whose samples have any number of classes.

    Args:
        temperature: T > 0, or a schedule of it.
        weight: See :class:`DistillationLoss`.
        name: See :class:`DistillationLoss`.

    Raises:
        UserError: if the temperature is not greater than 0, there is no teacher, or a task has one class a sample.
    """

    outputs: ClassVar[OutputKind] = "labels"

    def __init__(
        self, temperature: float | Schedule = 2.0, weight: float | Schedule = 1.0, name: str | None = None
    ) -> None:
        super().__init__(temperature, weight, name)

    def divergence(self, student_NC: Tensor, teacher_NC: Tensor, temperature: float) -> Tensor:
        return binary_kl(student_NC, teacher_NC, temperature)
