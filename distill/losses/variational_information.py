"""What a student's features tell about its teacher's, by a lower bound of their mutual information."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from distill.core.numerics import at_least_float32
from distill.core.schedules import Schedule
from distill.losses.base import check_positive
from distill.losses.feature_maps import Maps, PerSampleMapLoss, key_of, of_one_size, place_mean, through

__all__ = ["VariationalInformation", "negative_log_likelihood"]

_LEAST = 1e-5  # of a variance


def negative_log_likelihood(
    mean_BHWF: Tensor, teacher_BHWF: Tensor, variance_F: Tensor, valid_BHW: Tensor | None = None
) -> Tensor:
    """The mean over places and features of ½ ((t - μ)² / σ² + ln σ²), of each sample.

    It is -ln q(t | s) / (H W F) of a Gaussian q, without the constant ½ ln 2π. Maximizing it maximizes a lower bound of
    the mutual information I(t; s). It may be negative.

    Args:
        mean_BHWF: What the student predicts of the teacher, μ, ``[B, H, W, F]``; computed in float32 or better.
        teacher_BHWF: The teacher's features t, ``[B, H, W, F]``; never written to.
        variance_F: σ² of each feature, ``[F]``.
        valid_BHW: Which places count, boolean; all of them by default.

    Returns:
        ``[B]``.

    Reference:
        Ahn, Hu, Damianou, Lawrence, Dai: Variational Information Distillation for Knowledge Transfer, CVPR 2019,
        arXiv:1904.05835, equation 4; there the sum over places and features.
    """
    squares = (at_least_float32(teacher_BHWF) - at_least_float32(mean_BHWF)).square()
    return place_mean((squares / variance_F + variance_F.log()) / 2, valid_BHW).mean(1)


class VariationalInformation(PerSampleMapLoss):
    """Negative log-likelihood of the teacher's features under Gaussians that the student's predict; a mean over pairs.

    The means are three 1x1 convolutions with ReLU between them; the variance of each feature is ln(1 + e^α) + 1e-5 with
    α trained. Both are trained with the student, saved with the run, and no part of the student. The paper's batch norm
    in the means is left out: it would tie samples to their batch. Maps of different sizes are averaged to the smaller
    height and width, which is said.

    Args:
        taps: Student module -> teacher module by name.
        variance: At the beginning.
        weight: See :class:`DistillationLoss`.
        name: See :class:`DistillationLoss`.

    Raises:
        UserError: if there is no teacher, no such module, its output is no feature map, or the variance is not above 0.
    """

    def __init__(
        self, taps: dict[str, str], variance: float = 5.0, weight: float | Schedule = 1.0, name: str | None = None
    ) -> None:
        super().__init__(taps, weight, name)
        check_positive("variance", variance)
        self.variance = variance
        self.means = nn.ModuleDict()
        self.alphas = nn.ParameterDict()

    def make(self, key: str, width: int, teacher_width: int, device: torch.device | None) -> None:
        if key in self.means:
            return
        layers: list[nn.Module] = []
        for before in (width, teacher_width, teacher_width):
            layers += [nn.Linear(before, teacher_width, device=device), nn.ReLU()]
        self.means[key] = nn.Sequential(*layers[:-1])
        start = max(self.variance - _LEAST, _LEAST)
        alpha = start + math.log(-math.expm1(-start))  # ln(e^v - 1), of a large v too
        self.alphas[key] = nn.Parameter(torch.full((teacher_width,), alpha, device=device))

    def per_sample(self, maps: list[Maps]) -> Tensor:
        losses = []
        for pair in maps:
            student, teacher = of_one_size(pair.student, pair.teacher, pair.name)
            key = key_of(pair.name)
            mean = through(self.means[key], student)
            variance_F = softplus(self.alphas[key].to(student.dtype)) + _LEAST
            losses.append(negative_log_likelihood(mean, teacher, variance_F, pair.student_valid))
        return torch.stack(losses).mean(0)
