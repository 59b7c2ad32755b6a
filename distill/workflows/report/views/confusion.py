"""Which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distill.core.signals import IGNORE
from distill.workflows.report.views.blocks import Block, Cell, Column, Matrix, Table

__all__ = ["confused", "confusion", "confusion_block"]

_WIDEST = 6
"""Classes of which a matrix fits on a phone."""

_MOST = 15


def confusion(labels: Tensor, decisions: Tensor, classes: int) -> Tensor:
    """How often class i is taken for class j: counts ``[C, C]``, int64.

    Args:
        labels: ``[P]``; those that are none (:data:`~distill.core.signals.IGNORE`) are left out.
        decisions: ``[P]``.
        classes: C.
    """
    counted = labels != IGNORE
    places = labels[counted].long() * classes + decisions[counted].long()
    return torch.bincount(places, minlength=classes * classes).view(classes, classes)


def confused(counts: Tensor, most: int = _MOST) -> list[tuple[int, int, int]]:
    """The classes that are taken for others, (is, taken for, how often), the most frequent first."""
    wrong = counts.clone().fill_diagonal_(0)
    order = wrong.flatten().argsort(descending=True, stable=True)[:most].tolist()
    pairs = ((place // len(wrong), place % len(wrong)) for place in order)
    return [(is_, said, int(wrong[is_, said])) for is_, said in pairs if wrong[is_, said]]


def confusion_block(who: str, counts: Tensor, names: Sequence[str]) -> Block:
    """A matrix of few classes; of many the pairs that are confused most often."""
    if len(names) <= _WIDEST:
        return Matrix(who, names, counts.tolist())
    rows = [
        [Cell(names[is_]), Cell(names[said]), Cell(f"{count:,}", count / int(counts[is_].sum()))]
        for is_, said, count in confused(counts)
    ]
    columns = [Column("class", numeric=False), Column("taken for", numeric=False), Column("how often")]
    return Table(f"{who}: the classes confused most often, of {len(names):,}", columns, rows)
