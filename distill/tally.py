"""What a validation counts besides its metrics: how often each class is the label, and how often it is predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from distill.signals import IGNORE, Batch

__all__ = ["Counts", "Tally"]


@dataclass(frozen=True)
class Counts:
    """The predictions of one validation, of all ranks.

    Attributes:
        total: Predictions that were scored.
        labels: How often each class is the label, ``[C]``; empty where labels are no classes.
        predictions: How often the student predicts it, ``[C]``.
        sums: Sums of the batches' extras (the bytes of a language model's text, say).
    """

    total: int = 0
    labels: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    predictions: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    sums: Mapping[str, float] = field(default_factory=dict)

    def __add__(self, other: Counts) -> Counts:
        names = [*self.sums, *(name for name in other.sums if name not in self.sums)]
        return Counts(
            self.total + other.total,
            _added(self.labels, other.labels),
            _added(self.predictions, other.predictions),
            {name: self.sums.get(name, 0.0) + other.sums.get(name, 0.0) for name in names},
        )


class Tally:
    """Counts a validation's batches on this rank."""

    def __init__(self) -> None:
        self._counts = Counts()

    def add(self, predicted: Tensor | None, batch: Batch, classes: int) -> None:
        """Count a batch.

        Args:
            predicted: Classes, of the shape of the labels; ``None`` where predictions are no classes.
            batch: With its labels; without, nothing is counted.
            classes: How many there are, C.
        """
        labels = batch.labels
        if labels is None:
            return
        sums = {name: float(values.sum()) for name, values in batch.extras.items()}
        if predicted is not None and predicted.dtype is torch.bool and labels.is_floating_point():
            # A sample has any number of classes: that one is predicted for all does not make a constant.
            scored = ~labels.isnan().any(-1)
            often = (labels[scored] > 0.5).sum(0).cpu()
            self._counts += Counts(int(scored.sum()), often, sums=sums)
            return
        if predicted is None or labels.is_floating_point() or labels.shape != predicted.shape:
            scored = (~labels.isnan()).sum() if labels.is_floating_point() else batch.count
            self._counts += Counts(int(scored), sums=sums)
            return
        valid = (labels != IGNORE) if batch.mask is None else (labels != IGNORE) & batch.mask
        mine, theirs = (torch.bincount(of[valid], minlength=classes).cpu() for of in (predicted, labels))
        self._counts += Counts(int(theirs.sum()), theirs, mine, sums)

    def take(self, ranks: int) -> Counts:
        """What all ranks have counted since the last time; all of them call this."""
        mine, self._counts = self._counts, Counts()
        if ranks == 1:
            return mine
        parts: Sequence[Any] = [None] * ranks
        torch.distributed.all_gather_object(parts, mine)
        return sum(parts, Counts())


def _added(one: Tensor, other: Tensor) -> Tensor:
    """The sum of two counts, of which one may know fewer classes."""
    total = torch.zeros(max(len(one), len(other)), dtype=torch.int64)
    total[: len(one)] += one
    total[: len(other)] += other
    return total
