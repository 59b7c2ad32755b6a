"""Alpha-beta divergence: a family of two numbers with forward and reverse KL at its corners."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn.functional import log_softmax

from distill.core.schedules import Schedule
from distill.core.utils.errors import UserError
from distill.losses.blockwise import sum_over_rows
from distill.losses.logit_loss import SoftenedLoss

__all__ = ["AlphaBeta", "alpha_beta"]


def alpha_beta(
    student_NC: Tensor, teacher_NC: Tensor, alpha: float = 0.5, beta: float = 0.5, temperature: float = 1.0
) -> Tensor:
    """Sum over positions of T^2 * D(p, q), of p = softmax(teacher / T) and q = softmax(student / T).

    With s = alpha + beta, and as the limits of this where one of them is 0::

        D = 1 / (alpha beta) * sum_c (alpha / s * p_c^s + beta / s * q_c^s - p_c^alpha q_c^beta)

    (1, 0) is forward KL, (0, 1) reverse KL, (0.5, 0.5) four times the squared Hellinger distance, (1, 1) half the
    squared error of the probabilities. The gradient on log q_c is q_c^beta (q_c^alpha - p_c^alpha) / alpha: a
    smaller alpha looks more at classes of a large ratio of p to q, a larger beta at those that the student believes in.

    Args:
        student_NC: Logits ``[N, C]``, any float dtype; computed in float32 or better.
        teacher_NC: Logits ``[N, C]``; never written to.
        alpha: 0 or more.
        beta: 0 or more, not both 0.
        temperature: T > 0.

    Returns:
        A scalar in at least float32; 0 with a zero gradient for N = 0.

    References:
        Wang et al.: ABKD: Pursuing a Proper Allocation of the Probability Mass in Knowledge Distillation via
        Alpha-Beta-Divergence, ICML 2025.
        Cichocki, Cruces, Amari: Generalized Alpha-Beta Divergences and Their Application to Robust Nonnegative Matrix
        Factorization, Entropy 2011 (the limits).
    """

    def formula(student_nC: Tensor, teacher_nC: Tensor) -> Tensor:
        log_q = log_softmax(student_nC / temperature, dim=-1)
        log_p = log_softmax(teacher_nC / temperature, dim=-1)
        if beta == 0:
            divergence = _limit(log_p, log_q, alpha)
        elif alpha == 0:
            divergence = _limit(log_q, log_p, beta)
        else:
            both = alpha + beta
            parts = alpha / both * (both * log_p).exp() + beta / both * (both * log_q).exp()
            divergence = (parts - (alpha * log_p + beta * log_q).exp()).sum() / (alpha * beta)
        return temperature**2 * divergence

    return sum_over_rows(formula, student_NC, teacher_NC)


def _limit(log_a: Tensor, log_b: Tensor, power: float) -> Tensor:
    """Sum of (a^k log(a^k / b^k) - a^k + b^k) / k^2, which at k = 1 is KL(a || b)."""
    a, b = (power * log_a).exp(), (power * log_b).exp()
    return (a * power * (log_a - log_b) - a + b).sum() / power**2


class AlphaBeta(SoftenedLoss):
    """T^2 times the alpha-beta divergence of the softened predictions.

    Args:
        alpha: 0 or more. See :func:`alpha_beta`.
        beta: 0 or more; (1, 0) is forward KL, (0, 1) reverse KL.
        temperature: T > 0, or a schedule of it.
        weight: See :class:`DistillationLoss`.
        name: See :class:`DistillationLoss`.

    Raises:
        UserError: if alpha or beta is negative, both are 0, the temperature is out of range, or there is no teacher.
    """

    row_wise: ClassVar[bool] = True

    def __init__(
        self,
        alpha: float = 0.5,
        beta: float = 0.5,
        temperature: float | Schedule = 1.0,
        weight: float | Schedule = 1.0,
        name: str | None = None,
    ) -> None:
        super().__init__(temperature, weight, name)
        for key, value in (("alpha", alpha), ("beta", beta)):
            if not 0 <= value < float("inf"):
                hint = "below 0 the rarest classes outweigh all others: give 0 to 1.2"
                raise UserError("must be 0 or more", key=key, value=value, hint=hint)
        if alpha == beta == 0:
            hint = "give (1, 0) for forward KL, (0, 1) for reverse KL, or both"
            raise UserError("alpha and beta must not both be 0", key="alpha", value=alpha, hint=hint)
        self.alpha, self.beta = alpha, beta

    def divergence(self, student_NC: Tensor, teacher_NC: Tensor, temperature: float) -> Tensor:
        return alpha_beta(student_NC, teacher_NC, self.alpha, self.beta, temperature)
