"""Squared error of the logits."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from distill.core.signals import Batch
from distill.losses.blockwise import sum_over_rows
from distill.losses.logit_loss import LogitLoss

__all__ = ["LogitMSE", "logit_mse"]


def logit_mse(student_NC: Tensor, teacher_NC: Tensor) -> Tensor:
    """Sum over positions of the mean over classes of (student - teacher)^2.

    Args:
        student_NC: Logits ``[N, C]``, any float dtype; computed in float32 or better.
        teacher_NC: Logits ``[N, C]``; never written to.

    Returns:
        A scalar in at least float32; 0 with a zero gradient for N = 0.

    Reference:
        Ba, Caruana: Do Deep Nets Really Need to be Deep?, NeurIPS 2014 (there half the sum over classes).
        Kim et al.: Comparing Kullback-Leibler Divergence and Mean Squared Error Loss in KD, IJCAI 2021.
    """
    return sum_over_rows(lambda s, t: (s - t).square().mean(-1).sum(), student_NC, teacher_NC)


class LogitMSE(LogitLoss):
    """Mean squared error of the logits; also the distillation loss of regression heads (C = 1).

    Args:
        weight: See :class:`DistillationLoss`.
        name: See :class:`DistillationLoss`.

    Raises:
        UserError: if there is no teacher.
    """

    row_wise: ClassVar[bool] = True

    @property
    def why_not_positions(self) -> str:
        return "is the mean over all classes"

    def summed(self, student_NC: Tensor, teacher_NC: Tensor, batch: Batch) -> Tensor:
        return logit_mse(student_NC, teacher_NC)
