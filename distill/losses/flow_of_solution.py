"""How a student's features change from layer to layer follows how its teacher's do."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_max_pool2d

from distill.core.numerics import at_least_float32, full_precision
from distill.core.schedules import Schedule
from distill.losses.feature_maps import Maps, PerSampleMapLoss, key_of, through

__all__ = ["FlowOfSolution", "flow_matrix", "flow_of_solution"]


def flow_matrix(
    first_BHWE: Tensor, second_BHWF: Tensor, first_valid: Tensor | None = None, second_valid: Tensor | None = None
) -> Tensor:
    """G = Σ_hw a_hw b_hwᵀ / (H W) of each sample, of two maps of one model, the larger one max-pooled to the smaller.

    Args:
        first_BHWE: Feature map of the earlier module, ``[B, H, W, E]``.
        second_BHWF: Of the later one, ``[B, H', W', F]``.
        first_valid: Which places of the earlier one hold a token, boolean ``[B, H, W]``; H W then counts those that do.
        second_valid: And of the later one, ``[B, H', W']``.

    Returns:
        ``[B, E, F]``.
    """
    size = tuple(min(pair) for pair in zip(first_BHWE.shape[1:3], second_BHWF.shape[1:3], strict=True))

    def pooled(maps: Tensor) -> Tensor:
        return maps if maps.shape[1:3] == size else adaptive_max_pool2d(maps.movedim(-1, 1), size).movedim(1, -1)

    def places(maps: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        maps = at_least_float32(maps)
        if valid is None:
            return pooled(maps).flatten(1, 2), maps.new_ones(len(maps), size[0] * size[1])
        # Padding is never the largest; and is 0 where nothing else falls on a place.
        kept = pooled(valid[..., None].to(maps.dtype))
        maps = pooled(maps.masked_fill(~valid[..., None], -torch.inf)).masked_fill(kept == 0, 0)
        return maps.flatten(1, 2), kept.flatten(1)

    (first, valid_BP), (second, second_valid_BP) = places(first_BHWE, first_valid), places(second_BHWF, second_valid)
    count_B = (valid_BP * second_valid_BP).sum(1).clamp(min=1)
    with full_precision(first):
        return first.mT @ second / count_B[:, None, None]


def flow_of_solution(student_BEF: Tensor, teacher_BEF: Tensor) -> Tensor:
    """‖G_s - G_t‖², the sum of the squares of all entries, of each sample.

    Args:
        student_BEF: Flow matrices (:func:`flow_matrix`) ``[B, E, F]``; computed in float32 or better.
        teacher_BEF: Flow matrices ``[B, E, F]``; never written to.

    Returns:
        ``[B]``.

    Reference:
        Yim, Joo, Bae, Kim: A Gift from Knowledge Distillation, CVPR 2017, equations 1 and 2; its λ is the weight.
    """
    return (at_least_float32(student_BEF) - at_least_float32(teacher_BEF)).square().sum((1, 2))


class FlowOfSolution(PerSampleMapLoss):
    """Squared error of the flow (FSP) matrices between each tapped module and the next, the mean over these.

    The paper has networks of one width. Where widths differ, the student's features are mapped to the teacher's by a
    1x1 convolution, which is trained with the student, saved with the run, and no part of the student. Maps of student
    and teacher may be of different sizes: their matrices are not.

    Args:
        taps: Student module -> teacher module by name, at least two, in the order of the network: the flow is that from
            each to the next.
        weight: See :class:`DistillationLoss`.
        name: See :class:`DistillationLoss`.

    Raises:
        UserError: if there is no teacher, no such module, its output is no feature map, or there is one pair alone.
    """

    least: ClassVar[int] = 2

    def __init__(self, taps: dict[str, str], weight: float | Schedule = 1.0, name: str | None = None) -> None:
        super().__init__(taps, weight, name)
        self.regressors = nn.ModuleDict()

    def make(self, key: str, width: int, teacher_width: int, device: torch.device | None) -> None:
        if width != teacher_width and key not in self.regressors:
            self.regressors[key] = nn.Linear(width, teacher_width, device=device)

    def per_sample(self, maps: list[Maps]) -> Tensor:
        ours = [self._mapped(pair) for pair in maps]
        losses = []
        for mine, (first, second) in zip(pairwise(ours), pairwise(maps), strict=True):
            student = flow_matrix(*mine, first.student_valid, second.student_valid)
            teacher = flow_matrix(first.teacher, second.teacher, first.teacher_valid, second.teacher_valid)
            losses.append(flow_of_solution(student, teacher))
        return torch.stack(losses).mean(0)

    def _mapped(self, pair: Maps) -> Tensor:
        key = key_of(pair.name)
        return through(self.regressors[key], pair.student) if key in self.regressors else pair.student
