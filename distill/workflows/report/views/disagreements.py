"""The samples on which two models part."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Parted", "part_in_classes", "part_in_numbers", "part_in_sets"]


@dataclass(frozen=True)
class Parted:
    """A prediction in which two models differ.

    Attributes:
        place: Among the predictions.
        by: How far they are apart; the largest comes first.
        first: What the first says: a class, a number, or the class of a set in which they are furthest apart.
        second: Likewise.
        first_sure: The probability that the first gives it; ``None`` of numbers.
        second_sure: Likewise. Of a set: that the class belongs to it.
    """

    place: int
    by: float
    first: float
    second: float
    first_sure: float | None
    second_sure: float | None


def part_in_classes(first: Tensor, second: Tensor, most: int) -> list[Parted]:
    """Predictions of which the two name different classes, those first of which both are sure.

    The order is by min(max p, max q), the confidence of the one that is less sure.

    Args:
        first: Logits ``[P, C]``.
        second: Likewise.
        most: How many are given.
    """
    (p, a), (q, b) = (logits.double().softmax(-1).max(-1) for logits in (first, second))
    by = torch.where(a != b, torch.minimum(p, q), -torch.inf)
    return [
        Parted(i, float(by[i]), int(a[i]), int(b[i]), float(p[i]), float(q[i]))
        for i in _largest(by, most)
        if a[i] != b[i]
    ]


def part_in_sets(first: Tensor, second: Tensor, most: int) -> list[Parted]:
    """Predictions of which a class is in the one's set and not in the other's, by |p - q| of that class.

    Args:
        first: Logits ``[P, C]``, each a yes or no.
        second: Likewise.
        most: How many are given.
    """
    p, q = first.double().sigmoid(), second.double().sigmoid()
    apart = torch.where((first > 0) != (second > 0), (p - q).abs(), -torch.inf)
    by, at = apart.max(-1)
    return [
        Parted(i, float(by[i]), int(at[i]), int(at[i]), float(p[i, at[i]]), float(q[i, at[i]]))
        for i in _largest(by, most)
        if by[i].isfinite()
    ]


def part_in_numbers(first: Tensor, second: Tensor, most: int) -> list[Parted]:
    """Predictions that are numbers, ``[P]`` or ``[P, 1]``, the furthest apart first."""
    a, b = first.double().flatten(), second.double().flatten()
    by = (a - b).abs()
    return [Parted(i, float(by[i]), float(a[i]), float(b[i]), None, None) for i in _largest(by, most)]


def _largest(values: Tensor, most: int) -> list[int]:
    order: list[int] = values.argsort(descending=True, stable=True)[:most].tolist()
    return order
