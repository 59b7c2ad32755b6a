"""Relations instead of values: correlation between and within classes."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cosine_similarity, softmax

from distill.core.numerics import at_least_float32
from distill.core.schedules import Schedule
from distill.losses.base import check_not_negative, check_some
from distill.losses.logit_loss import SoftenedLoss

__all__ = ["DIST", "dist_kd"]

_EPSILON = 1e-5
"""Variation, relative to the largest value, below which a correlation counts as undefined (0)."""


def dist_kd(
    student_NC: Tensor, teacher_NC: Tensor, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0
) -> Tensor:
    """N * T^2 * (beta * inter + gamma * intra), with p = softmax(teacher / T), q = softmax(student / T).

    inter = mean over positions n of 1 - pearson(q[n, :], p[n, :]);
    intra = mean over classes c of 1 - pearson(q[:, c], p[:, c]), and 0 for N = 1, where it is undefined.

    Args:
        student_NC: Logits ``[N, C]``, any float dtype; computed in float32 or better.
        teacher_NC: Logits ``[N, C]``; never written to.
        beta: Weight of the inter-class relation.
        gamma: Weight of the intra-class relation.
        temperature: T > 0.

    Returns:
        A scalar in at least float32; 0 with a zero gradient for N = 0.

    Reference:
        Huang, You, Wang, Qian, Xu: Knowledge Distillation from A Stronger Teacher, NeurIPS 2022.
    """
    q = softmax(at_least_float32(student_NC) / temperature, dim=-1)
    p = softmax(at_least_float32(teacher_NC) / temperature, dim=-1)
    total = beta * (1 - _pearson(q, p, dim=1)).sum()
    if len(q) > 1:
        total = total + gamma * len(q) * (1 - _pearson(q, p, dim=0)).mean()
    return temperature**2 * total


def _pearson(x: Tensor, y: Tensor, dim: int) -> Tensor:
    """Correlation of two non-negative tensors along ``dim``."""
    # It does not depend on the scale, so the scale is taken out first: columns of rare classes, with
    # probabilities of 1e-9, would else drown in the guard against a division by zero.
    x, y = (t / t.detach().amax(dim, keepdim=True).clamp(min=1e-30) for t in (x, y))
    return cosine_similarity(x - x.mean(dim, keepdim=True), y - y.mean(dim, keepdim=True), dim=dim, eps=_EPSILON)


class DIST(SoftenedLoss):
    """Pearson correlation of the softened predictions, per position and per class.

    The intra-class part correlates positions of one micro-batch with each other, so it depends on how the
    batch is split: larger micro-batches give better estimates, and 1 x 8 is not 8 x 1.

    Args:
        beta: Weight of the inter-class relation (per position), 0 or more.
        gamma: Weight of the intra-class relation (per class, over the micro-batch), 0 or more.
        temperature: T > 0, or a schedule of it.
        weight: See :class:`DistillationLoss`.
        name: See :class:`DistillationLoss`.

    Raises:
        UserError: if an argument is out of range, or there is no teacher.
    """

    def __init__(
        self,
        beta: float = 1.0,
        gamma: float = 1.0,
        temperature: float | Schedule = 1.0,
        weight: float | Schedule = 1.0,
        name: str | None = None,
    ) -> None:
        super().__init__(temperature, weight, name)
        check_not_negative("beta", beta)
        check_not_negative("gamma", gamma)
        check_some(beta=beta, gamma=gamma)
        self.beta, self.gamma = beta, gamma

    @property
    def why_not_positions(self) -> str:
        return "correlates over all classes, and each of them over the samples"

    def divergence(self, student_NC: Tensor, teacher_NC: Tensor, temperature: float) -> Tensor:
        return dist_kd(student_NC, teacher_NC, self.beta, self.gamma, temperature)
