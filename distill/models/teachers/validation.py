"""What a teacher scores on the data that its student is judged by, and where the two agree."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from distill.core.signals import Batch
from distill.core.task import Task
from distill.core.teacher import TeacherSource

__all__ = ["TeacherScores"]


class TeacherScores:
    """Runs a teacher over a validation's data once, and remembers its classes from then on.

    Attributes:
        scores: Its scores by metric; empty before the first validation has ended.
    """

    def __init__(self, teacher: TeacherSource, task: Task) -> None:
        self._teacher, self._task = teacher, task
        self._metrics, self._agreement = task.metrics(), MeanMetric()
        self._predictions: dict[tuple[int, ...], Tensor] = {}
        self.scores: dict[str, float] = {}

    def to(self, device: torch.device) -> Self:
        """Move the teacher, and what judges it."""
        self._teacher.to(device)
        for metric in (*self._metrics.values(), self._agreement):
            metric.to(device)
        return self

    def clear(self) -> None:
        """Forget all, as other data comes, whose ids begin at 0 again."""
        self.scores = {}
        self._predictions.clear()

    def compare(self, predicted: Tensor | None, batch: Batch) -> None:
        """Judge the teacher by a batch, and count where the student predicts what it does.

        Args:
            predicted: The student's classes; ``None`` where predictions are no classes.
            batch: Of which the model runs only the first time it is seen.
        """
        expected = self._predict(batch)
        if expected is not None and predicted is not None:
            same = predicted == expected.to(predicted.device)
            self._agreement.update((same if batch.mask is None else same[batch.mask]).float())

    def conclude(self) -> tuple[dict[str, float], Tensor | None]:
        """What the validation that ends has found: the teacher's scores, empty where they were known; the agreement."""
        agreement = self._agreement.compute() if self._agreement.update_called else None
        self._agreement.reset()
        if self.scores:
            return {}, agreement
        self.scores = {name: float(metric.compute()) for name, metric in self._metrics.items()}
        for metric in self._metrics.values():
            metric.reset()
        return self.scores, agreement

    def _predict(self, batch: Batch) -> Tensor | None:
        key = (*batch.ids, *batch.input_digests.tolist()) if batch.ids is not None else None
        if key is not None and key in self._predictions:
            return self._predictions[key]
        signals = self._teacher.evaluate_lazily(batch)
        metrics = self._task.metrics() if self.scores else self._metrics
        predicted = self._task.score(metrics, signals, batch).classes
        if key is not None and predicted is not None:
            self._predictions[key] = predicted.to(torch.int32).cpu()
        return predicted
