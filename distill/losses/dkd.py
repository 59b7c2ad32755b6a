"""Decoupled distillation: the target class and the others, weighted apart."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from distill.core.schedules import Schedule
from distill.core.signals import IGNORE, Batch, OutputKind
from distill.core.utils.errors import UserError
from distill.losses.base import check_not_negative, check_positive, check_some, counted
from distill.losses.blockwise import sum_over_rows
from distill.losses.logit_loss import LogitLoss

__all__ = ["DecoupledKD", "decoupled_kd"]


def decoupled_kd(
    student_NC: Tensor,
    teacher_NC: Tensor,
    labels_N: Tensor,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    """Sum over positions of T^2 * (alpha * TCKD + beta * NCKD).

    With p the teacher's and q the student's softened probabilities and y the label:
    TCKD = KL of the pair (p[y], 1 - p[y]) from (q[y], 1 - q[y]); NCKD = KL of the teacher's from
    the student's distribution over the classes other than y, renormalized.
    For alpha = 1 and beta = 1 - p[y] it would be :func:`~distill.losses.hinton.hinton_kl`.

    Args:
        student_NC: Logits ``[N, C]``, any float dtype; computed in float32 or better.
        teacher_NC: Logits ``[N, C]``; never written to.
        labels_N: Classes ``[N]``; positions labelled ``IGNORE`` add nothing.
        alpha: Weight of the target class's part.
        beta: Weight of the other classes' part.
        temperature: T > 0.

    Returns:
        A scalar in at least float32; 0 with a zero gradient for N = 0.

    Reference:
        Zhao, Cui, Song, Qiu, Liang: Decoupled Knowledge Distillation, CVPR 2022.
    """

    def formula(student_nC: Tensor, teacher_nC: Tensor, labels_n: Tensor) -> Tensor:
        known = labels_n != IGNORE
        target = torch.where(known, labels_n, 0)[:, None]
        q_pair, q_others = _decoupled(student_nC / temperature, target)
        p_pair, p_others = _decoupled(teacher_nC / temperature, target)
        tckd = (p_pair.exp() * (p_pair - q_pair)).sum(-1)
        nckd = (p_others.exp() * (p_others - q_others)).sum(-1)
        return temperature**2 * ((alpha * tckd + beta * nckd) * known).sum()

    return sum_over_rows(formula, student_NC, teacher_NC, labels_N)


def _decoupled(logits_NC: Tensor, target_N1: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities (target, not target) ``[N, 2]``, and of the other classes among themselves ``[N, C]``."""
    # A finite stand-in for -inf: its probability is exactly 0 and 0 * (finite) is no NaN.
    others = logits_NC.scatter(1, target_N1, torch.finfo(logits_NC.dtype).min / 4)
    pair = torch.cat([logits_NC.gather(1, target_N1), others.logsumexp(-1, keepdim=True)], dim=-1)
    return log_softmax(pair, dim=-1), log_softmax(others, dim=-1)


class DecoupledKD(LogitLoss):
    """T^2 * (alpha * TCKD + beta * NCKD): soft targets in which confidence does not mute the other classes.

    Needs labels. With two classes only the target's part is left.

    Args:
        alpha: Weight of the target class's part, 0 or more.
        beta: Weight of the other classes' part, 0 or more.
        temperature: T > 0, or a schedule of it.
        weight: See :class:`DistillationLoss`.
        name: See :class:`DistillationLoss`.

    Raises:
        UserError: if an argument is out of range, there is no teacher, or the data has no classes as labels.
    """

    row_wise: ClassVar[bool] = True
    reads_labels: ClassVar[bool] = True
    outputs: ClassVar[OutputKind] = "classes"

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float | Schedule = 4.0,
        weight: float | Schedule = 1.0,
        name: str | None = None,
    ) -> None:
        super().__init__(weight, name)
        self.temperature = check_positive("temperature", temperature)
        check_not_negative("alpha", alpha)
        check_not_negative("beta", beta)
        check_some(alpha=alpha, beta=beta)
        self.alpha, self.beta = alpha, beta

    def summed(self, student_NC: Tensor, teacher_NC: Tensor, batch: Batch) -> Tensor:
        if batch.labels is None or batch.labels.is_floating_point():
            raise UserError(
                "DecoupledKD needs classes as labels", key=self.name, hint="use HintonKL where there are none"
            )
        (labels_N,) = counted(batch.mask, batch.labels.flatten())
        temperature = self.temperature(batch.step, batch.total_steps)
        return decoupled_kd(student_NC, teacher_NC, labels_N, self.alpha, self.beta, temperature)
