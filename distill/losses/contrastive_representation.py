"""A student's representation of a sample is told from those that the teacher has of other samples."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, normalize

from distill.core.numerics import at_least_float32, full_precision
from distill.core.schedules import Schedule
from distill.core.signals import IGNORE, Batch, Signals
from distill.losses.base import LossSum, check_positive
from distill.losses.feature_maps import FeatureMapLoss, Maps, key_of, place_mean, through
from distill.losses.features import valid_samples

__all__ = ["ContrastiveRepresentation", "contrastive"]


def contrastive(
    student_BE: Tensor, teacher_BE: Tensor, negatives_BB: Tensor, valid_B: Tensor, temperature: float, odds: float
) -> Tensor:
    """-(1/n) Σ_i [ln h(i, i) + Σ_j ln(1 - h(i, j))] over the n valid samples i and the negatives j of each.

    h(i, j) = e^z / (e^z + odds) with z = g_s,i · g_t,j / temperature, g of length 1: the probability that both are of
    one sample.

    Args:
        student_BE: Embeddings ``[B, E]``, any length and float dtype; computed in float32 or better.
        teacher_BE: The teacher's, ``[B, E]``.
        negatives_BB: Which of the teacher's samples (second axis) each of the student's is told from, boolean.
        valid_B: Which samples count, boolean.
        temperature: τ.
        odds: Of a pair being of two samples, N / M: N negatives for each of M samples.

    Returns:
        A scalar in at least float32; 0 with a zero gradient where no sample is valid.

    Reference:
        Tian, Krishnan, Isola: Contrastive Representation Distillation, ICLR 2020, arXiv:1910.10699, equations 17 to 19.
    """
    ours, theirs = (normalize(at_least_float32(one), dim=1) for one in (student_BE, teacher_BE))
    with full_precision(ours):
        logits_BB = ours @ theirs.mT / temperature - math.log(odds)  # h is its sigmoid
    positive_B = logsigmoid(logits_BB.diagonal())
    negative_B = (logsigmoid(-logits_BB) * (negatives_BB & valid_B)).sum(1)
    return -((positive_B + negative_B) * valid_B).sum() / valid_B.sum().clamp(min=1)


class ContrastiveRepresentation(FeatureMapLoss):
    """Contrastive representation distillation, with the other samples of the micro-batch as negatives.

    The paper keeps a memory of every sample's embedding, and draws 16,384 negatives of it; here they are the
    micro-batch's other samples: no memory has to be saved, resumed or made equal over ranks, and none is stale. So take
    large batches. Where labels are known, samples of one class are no negatives of each other, as in the paper.

    An embedding is the mean of a feature map over its places (or ``[B, F]`` as it is), mapped to ``size`` dimensions by
    a linear map for each model. Both are trained with the student, saved with the run, and no part of it. Coupled to
    the micro-batch: its total is the mean over the micro-batch's samples times ``batch.count``.

    Args:
        taps: Student module -> teacher module by name: what stands before the classifier.
        size: Dimensions of the embeddings.
        temperature: τ.
        odds: N / M of the paper, where it is 16,384 / 50,000 on CIFAR-100; larger pushes other samples away less.
        weight: See :class:`DistillationLoss`; 0.8 in the paper.
        name: See :class:`DistillationLoss`.

    Raises:
        UserError: if there is no teacher, no such module, or a number is not above 0.
    """

    flat: ClassVar[bool] = True

    def __init__(
        self,
        taps: dict[str, str],
        size: int = 128,
        temperature: float = 0.07,
        odds: float = 0.33,
        weight: float | Schedule = 1.0,
        name: str | None = None,
    ) -> None:
        super().__init__(taps, weight, name)
        for key, value in (("size", size), ("temperature", temperature), ("odds", odds)):
            check_positive(key, value)
        self.size, self.temperature, self.odds = size, temperature, odds
        self.heads = nn.ModuleDict()

    def make(self, key: str, width: int, teacher_width: int, device: torch.device | None) -> None:
        if key not in self.heads:
            both = [nn.Linear(one, self.size, device=device) for one in (width, teacher_width)]
            self.heads[key] = nn.ModuleList(both)

    def forward(self, student: Signals, teacher: Signals, batch: Batch) -> LossSum:
        maps = list(self.maps(student, teacher, batch))
        valid_B = valid_samples(batch, maps[0].student)
        negatives_BB = _of_other_classes(batch, len(valid_B), valid_B.device)
        total = torch.stack([self._loss(pair, negatives_BB, valid_B) for pair in maps]).mean()
        return LossSum(total * batch.count, batch.count)

    def _loss(self, pair: Maps, negatives_BB: Tensor, valid_B: Tensor) -> Tensor:
        heads: nn.ModuleList = self.heads[key_of(pair.name)]  # type: ignore[assignment]
        sides = (pair.student, pair.student_valid), (pair.teacher, pair.teacher_valid)
        ours, theirs = (through(head, place_mean(*side)) for head, side in zip(heads, sides, strict=True))
        return contrastive(ours, theirs, negatives_BB, valid_B, self.temperature, self.odds)


def _of_other_classes(batch: Batch, count: int, device: torch.device) -> Tensor:
    """Which pairs of samples are of two classes, as far as that is known, and of two samples, ``[B, B]``."""
    others = ~torch.eye(count, dtype=torch.bool, device=device)
    labels = batch.labels
    if labels is None or labels.dim() != 1 or labels.is_floating_point():
        return others
    known = labels != IGNORE
    return others & ~((labels[:, None] == labels) & known & known[:, None])
