"""What a validation counts besides its metrics: how often each class is the label, and how often it is predicted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from distill.core.signals import IGNORE, Batch
from distill.core.token_scores import TokenScores

__all__ = ["Counts", "Moments", "Tally", "counted_positions", "most_common"]


@dataclass(frozen=True)
class Moments:
    """Numbers summed up: how many there are, their mean, and the sum of their squared distances from it.

    Two of them add up as Chan, Golub and LeVeque have it (Updating formulae and a pairwise algorithm for computing
    sample variances, 1979), which cancels nothing.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, values: Tensor) -> Moments:
        """Of values of any shape."""
        values = values.detach().cpu().double()
        mean = float(values.mean()) if values.numel() else 0.0
        return cls(values.numel(), mean, float((values - mean).square().sum()))

    def __add__(self, other: Moments) -> Moments:
        if not (self.count and other.count):
            return self if self.count else other
        count, apart = self.count + other.count, other.mean - self.mean
        squares = self.squares + other.squares + apart**2 * self.count * other.count / count
        return Moments(count, self.mean + apart * other.count / count, squares)

    @property
    def deviation(self) -> float:
        """The standard deviation; 0 of none."""
        return math.sqrt(self.squares / self.count) if self.count else 0.0


@dataclass(frozen=True)
class Counts:
    """The predictions of one validation, of all ranks.

    Attributes:
        total: Predictions that were scored.
        labels: How often each class is the label, ``[C]``; empty where labels are no classes.
        predictions: How often the model predicts it, ``[C]``.
        sums: Sums of the batches' extras (the bytes of a language model's text, say).
        sets: Whether a sample has any number of classes, as its label and as its prediction.
        numbers: The labels and the predictions where both are numbers.
        undefined: Predictions that were scored though an output was NaN.
    """

    total: int = 0
    labels: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    predictions: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    sums: Mapping[str, float] = field(default_factory=dict)
    sets: bool = False
    numbers: tuple[Moments, Moments] = (Moments(), Moments())
    undefined: int = 0

    def __add__(self, other: Counts) -> Counts:
        names = [*self.sums, *(name for name in other.sums if name not in self.sums)]
        return Counts(
            self.total + other.total,
            _added(self.labels, other.labels),
            _added(self.predictions, other.predictions),
            {name: self.sums.get(name, 0.0) + other.sums.get(name, 0.0) for name in names},
            self.sets or other.sets,
            (self.numbers[0] + other.numbers[0], self.numbers[1] + other.numbers[1]),
            self.undefined + other.undefined,
        )


def most_common(often: Tensor, rows: int, sets: bool = False) -> tuple[list[int], float]:
    """What most rows have, and their share.

    Args:
        often: How often each class occurs, ``[C]``.
        rows: Of how many rows, or other predictions.
        sets: Whether a row has any number of classes. The set of those that more than half of the rows have is then
            what at least 1 - sum_c min(n_c, rows - n_c) / rows of them have: all of them just where this is 1.
    """
    if not sets:
        most = int(often.argmax())
        return [most], int(often[most]) / rows
    others = int(torch.minimum(often, rows - often).sum())
    return (often * 2 > rows).nonzero().flatten().tolist(), max(0.0, 1 - others / rows)


class Tally:
    """Counts a validation's batches on this rank."""

    def __init__(self) -> None:
        self._counts = Counts()

    def add(self, predicted: Tensor | None, batch: Batch, by: Tensor | TokenScores) -> None:
        """Count a batch.

        Args:
            predicted: Classes, of the shape of the labels; ``None`` where predictions are no classes.
            batch: With its labels; without, nothing is counted.
            by: The logits ``[..., C]`` that it was predicted from, or what is known of them.
        """
        labels = batch.labels
        if labels is None:
            return
        sums = {name: float(values.sum()) for name, values in batch.extras.items()}
        sets = predicted is not None and predicted.dtype is torch.bool and labels.is_floating_point()
        valid = counted_positions(labels, batch.mask, sets)
        count = int(valid.sum())
        if isinstance(by, TokenScores):
            width, undefined = by.width, int(by.undefined[valid].sum())
        else:
            width, undefined = by.shape[-1], int(by[valid].isnan().any(-1).sum()) if valid.shape == by.shape[:-1] else 0
        found = Counts(count, sums=sums, undefined=undefined)
        if (
            isinstance(by, Tensor)
            and predicted is None
            and labels.is_floating_point()
            and by.shape == (*valid.shape, 1)
        ):
            numbers = Moments.of(labels[valid]), Moments.of(by[valid])
            found = replace(found, numbers=numbers)
        elif predicted is not None and sets:
            theirs, mine = (labels[valid] > 0.5).sum(0).cpu(), predicted[valid].sum(0).cpu()
            found = replace(found, labels=theirs, predictions=mine, sets=True)
        elif predicted is not None and not labels.is_floating_point() and labels.shape == predicted.shape:
            mine, theirs = (torch.bincount(of[valid], minlength=width).cpu() for of in (predicted, labels))
            found = replace(found, labels=theirs, predictions=mine)
        self._counts += found

    def take(self, ranks: int) -> Counts:
        """What all ranks have counted since the last time; all of them call this."""
        mine, self._counts = self._counts, Counts()
        if ranks == 1:
            return mine
        parts: Sequence[Any] = [None] * ranks
        torch.distributed.all_gather_object(parts, mine)
        return sum(parts, Counts())


def counted_positions(labels: Tensor, mask: Tensor | None, sets: bool) -> Tensor:
    """Which predictions have a label, boolean, ``[...]``: of ``sets`` a row is one prediction."""
    if labels.is_floating_point():
        return ~labels.isnan().any(-1) if sets else ~labels.isnan()
    return labels != IGNORE if mask is None else (labels != IGNORE) & mask


def _added(one: Tensor, other: Tensor) -> Tensor:
    """The sum of two counts, of which one may know fewer classes."""
    total = torch.zeros(max(len(one), len(other)), dtype=torch.int64)
    total[: len(one)] += one
    total[: len(other)] += other
    return total
