"""How alike two models' vectors of the same texts are, whatever their widths."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

__all__ = ["neighbours"]

_FEWEST = 3  # cosines of a text with others, of which a correlation says something
_DIGITS = 6  # of a cosine in float32: what differs beyond is rounding, and no order


def neighbours(student_BE: Tensor, teacher_BF: Tensor) -> tuple[Tensor, Tensor]:
    """For each text, Spearman's correlation of the student's cosines to the other texts with the teacher's.

    Cosines are rounded to six digits, so that a model which gives every text one vector orders none.

    Args:
        student_BE: Vectors ``[B, E]``.
        teacher_BF: Vectors ``[B, F]`` of the same texts.

    Returns:
        The correlations ``[B]``, 0 where one of the two gives all the same cosine, and how much each counts: 1, or 0
        for all where a text has fewer than three others beside it.
    """
    count = len(student_BE)
    if count <= _FEWEST:
        return torch.zeros(count), torch.zeros(count)
    ranks = [_ranks(_others(vectors)) for vectors in (student_BE, teacher_BF)]
    ours, theirs = (rank - rank.mean(-1, keepdim=True) for rank in ranks)
    spread = (ours.square().sum(-1) * theirs.square().sum(-1)).sqrt()
    correlations = torch.where(spread > 0, (ours * theirs).sum(-1) / spread.clamp(min=1e-12), 0.0)
    undefined = student_BE.isnan().any() | teacher_BF.isnan().any()
    correlations = torch.where(undefined, torch.nan, correlations)
    return correlations, torch.ones_like(correlations)


def _others(vectors_BE: Tensor) -> Tensor:
    """The cosines of each vector with the others, ``[B, B - 1]``."""
    units = normalize(vectors_BE.double(), dim=-1)
    cosines_BB = (units @ units.T).round(decimals=_DIGITS)
    different = ~torch.eye(len(units), dtype=torch.bool, device=units.device)
    return cosines_BB[different].view(len(units), -1)


def _ranks(values_BN: Tensor) -> Tensor:
    """Ranks within each row, from 1; equal values share the mean of theirs."""
    ordered = values_BN.sort(-1).values
    below = torch.searchsorted(ordered, values_BN.contiguous())
    within = torch.searchsorted(ordered, values_BN.contiguous(), right=True)
    return (below + within + 1).double() / 2
