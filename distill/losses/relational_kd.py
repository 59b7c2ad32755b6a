"""Distances and angles between samples."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from distill.core.numerics import at_least_float32, full_precision
from distill.core.schedules import Schedule
from distill.core.stacks import Stack
from distill.losses.base import check_not_negative, check_some
from distill.losses.embedding_loss import EmbeddingLoss

__all__ = ["RelationalKD", "relational_angle", "relational_distance"]


def relational_distance(student_BE: Tensor, teacher_BF: Tensor, valid_B: Tensor) -> Tensor:
    """Mean over ordered pairs i != j of valid samples of huber(|t_i - t_j| / mu_t, |s_i - s_j| / mu_s).

    mu is the model's mean distance over these pairs; huber(x, y) is (x - y)^2 / 2 where |x - y| <= 1, and
    |x - y| - 1/2 elsewhere.

    Args:
        student_BE: Embeddings ``[B, E]``, any float dtype; computed in float32 or better.
        teacher_BF: Embeddings ``[B, F]``; never written to.
        valid_B: Which samples count, boolean ``[B]``.

    Returns:
        A scalar in at least float32; 0 with a zero gradient for fewer than two valid samples.

    Reference:
        Park, Kim, Lu, Cho: Relational Knowledge Distillation, CVPR 2019.
    """
    pairs_BB = _pairs(valid_B)
    count = pairs_BB.sum().clamp(min=1)

    def relative(embeddings: Tensor) -> Tensor:
        distances_BB = _differences(embeddings)[1] * pairs_BB
        return distances_BB / (distances_BB.sum() / count).clamp(min=1e-12)

    losses_BB = smooth_l1_loss(relative(student_BE), relative(teacher_BF), reduction="none")
    return (losses_BB * pairs_BB).sum() / count


def relational_angle(student_BE: Tensor, teacher_BF: Tensor, valid_B: Tensor) -> Tensor:
    """Mean over ordered triples of distinct valid samples of huber(cos angle t_i t_j t_k, cos angle s_i s_j s_k).

    The angle is the one at t_j. Takes B^2 * E + B^3 numbers of memory. Arguments, result and paper as for
    :func:`relational_distance`; 0 for fewer than three valid samples.
    """
    pairs_BB = _pairs(valid_B)
    triples_BBB = pairs_BB[:, :, None] & pairs_BB[:, None, :] & pairs_BB[None, :, :]  # corner first, then the two ends

    def cosines(embeddings: Tensor) -> Tensor:
        differences_BBE, distances_BB = _differences(embeddings)
        units_BBE = differences_BBE / torch.where(distances_BB > 0, distances_BB, 1)[..., None]
        with full_precision(units_BBE):
            return units_BBE @ units_BBE.transpose(1, 2)

    losses_BBB = smooth_l1_loss(cosines(student_BE), cosines(teacher_BF), reduction="none")
    return (losses_BBB * triples_BBB).sum() / triples_BBB.sum().clamp(min=1)


def _pairs(valid_B: Tensor) -> Tensor:
    """Which ordered pairs are of two different valid samples, boolean ``[B, B]``."""
    different = ~torch.eye(len(valid_B), dtype=torch.bool, device=valid_B.device)
    return valid_B[:, None] & valid_B[None, :] & different


def _differences(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """x_j - x_i as ``[i, j, E]`` and its length; taken directly, as products of near samples would cancel."""
    x = at_least_float32(embeddings)
    differences_BBE = x[None, :, :] - x[:, None, :]
    squares_BB = differences_BBE.square().sum(-1)
    # The square root of 0 has no derivative: 0 stands for it, as a coincidence has no direction.
    apart = squares_BB > 0
    return differences_BBE, torch.where(apart, torch.where(apart, squares_BB, 1).sqrt(), 0)


class RelationalKD(EmbeddingLoss):
    """distance_weight * distance + angle_weight * angle loss between the samples of a micro-batch.

    Coupled to the micro-batch: see :class:`~distill.losses.embedding_loss.EmbeddingLoss`.

    Args:
        distance_weight: Factor of :func:`relational_distance`, 0 or more.
        angle_weight: Factor of :func:`relational_angle`, 0 or more.
        student_layer: Layer of the student whose tokens' mean embeds a sample; -1 is the last.
        teacher_layer: Layer of the teacher, likewise.
        taps: One student module -> teacher module by name, flattened; instead of the layers.
        stack: Of encoder-decoders, ``encoder`` or ``decoder``: whose layers are compared.
        weight: See :class:`DistillationLoss`.
        name: See :class:`DistillationLoss`.

    Raises:
        UserError: if an argument is out of range, or there is no teacher, layer or module of that name.
    """

    def __init__(
        self,
        distance_weight: float = 1.0,
        angle_weight: float = 2.0,
        student_layer: int = -1,
        teacher_layer: int = -1,
        taps: dict[str, str] | None = None,
        stack: Stack | None = None,
        weight: float | Schedule = 1.0,
        name: str | None = None,
    ) -> None:
        super().__init__(student_layer, teacher_layer, taps, stack, weight, name)
        check_not_negative("distance_weight", distance_weight)
        check_not_negative("angle_weight", angle_weight)
        check_some(distance_weight=distance_weight, angle_weight=angle_weight)
        self.distance_weight, self.angle_weight = distance_weight, angle_weight

    def mean_loss(self, student_BE: Tensor, teacher_BF: Tensor, valid_B: Tensor) -> Tensor:
        total = self.distance_weight * relational_distance(student_BE, teacher_BF, valid_B)
        if self.angle_weight:
            total = total + self.angle_weight * relational_angle(student_BE, teacher_BF, valid_B)
        return total
