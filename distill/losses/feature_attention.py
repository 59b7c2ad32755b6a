"""Where a convolutional student looks follows where its teacher does."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from distill.core.numerics import at_least_float32
from distill.losses.feature_maps import Maps, PerSampleMapLoss, of_one_size

__all__ = ["FeatureAttention", "feature_attention"]


def feature_attention(student_BHWE: Tensor, teacher_BHWF: Tensor) -> Tensor:
    """½ ‖q_s / ‖q_s‖ - q_t / ‖q_t‖‖ of each sample, with q = vec(Σ_f |a_f|²) over all places, all norms Euclidean.

    Args:
        student_BHWE: Feature maps ``[B, H, W, E]``, any float dtype; computed in float32 or better.
        teacher_BHWF: Feature maps ``[B, H, W, F]`` of the same height and width; never written to.

    Returns:
        ``[B]``, between 0 and √½ (attention has no negative place).

    Reference:
        Zagoruyko, Komodakis: Paying More Attention to Attention, ICLR 2017, arXiv:1612.03928, equation 2 with p = 2;
        its β is the weight. Implementations that average the squares over places have H W times less, squared.
    """

    def attention(maps: Tensor) -> Tensor:
        return normalize(at_least_float32(maps).square().sum(-1).flatten(1), dim=1)

    distance_B: Tensor = torch.linalg.vector_norm(attention(student_BHWE) - attention(teacher_BHWF), dim=1)
    return distance_B / 2


class FeatureAttention(PerSampleMapLoss):
    """Attention transfer of feature maps: the mean over pairs of modules (the paper sums them).

    Nothing is trained, and widths may differ. Maps of different sizes are averaged to the smaller height and width,
    which is said. For attention maps of transformers see :class:`~distill.losses.attention.AttentionTransfer`.

    Args:
        taps: Student module -> teacher module by name: the ends of the stages of a network.
        weight: See :class:`DistillationLoss`.
        name: See :class:`DistillationLoss`.

    Raises:
        UserError: if there is no teacher, no such module, or its output is no feature map.
    """

    def per_sample(self, maps: list[Maps]) -> Tensor:
        losses = [feature_attention(*of_one_size(pair.student, pair.teacher, pair.name)) for pair in maps]
        return torch.stack(losses).mean(0)
