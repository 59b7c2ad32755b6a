"""What a teacher scores on the data that its student is judged by, and where the two agree."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from distill.signals import Batch
from distill.tasks.base import Task
from distill.teachers.base import TeacherSource

__all__ = ["TeacherScores"]


class TeacherScores:
    """Runs a teacher over a validation's data once, and remembers its classes from then on.

    Attributes:
        scores: Its figures by metric; empty before the first validation has ended.
    """

    def __init__(self, teacher: TeacherSource, task: Task) -> None:
        self._teacher, self._task = teacher, task
        self._metrics = task.metrics()
        self._predictions: dict[tuple[int, ...], Tensor] = {}
        self.scores: dict[str, float] = {}

    def to(self, device: torch.device) -> Self:
        """Move the teacher, and what judges it."""
        self._teacher.to(device)
        for metric in self._metrics.values():
            metric.to(device)
        return self

    def clear(self) -> None:
        """Forget all, as other data comes, whose ids begin at 0 again."""
        self.scores = {}
        self._predictions.clear()

    def agrees(self, predicted: Tensor | None, batch: Batch) -> Tensor | None:
        """Where the student predicts what the teacher does, of the positions that count; 1.0 or 0.0.

        Args:
            predicted: The student's classes; ``None`` where predictions are no classes, and so is the result.
            batch: Of which the model runs only the first time it is seen.
        """
        expected = self._predict(batch)
        if expected is None or predicted is None:
            return None
        same = predicted == expected.to(predicted.device)
        return (same if batch.mask is None else same[batch.mask]).float()

    def conclude(self) -> dict[str, float]:
        """The scores that the validation which ends has found; empty where they were known."""
        if self.scores:
            return {}
        self.scores = {name: float(metric.compute()) for name, metric in self._metrics.items()}
        for metric in self._metrics.values():
            metric.reset()
        return self.scores

    def _predict(self, batch: Batch) -> Tensor | None:
        key = (*batch.ids, *batch.input_digests.tolist()) if batch.ids is not None else None
        if key is not None and key in self._predictions:
            return self._predictions[key]
        signals = self._teacher.evaluate(batch)
        assert signals.logits is not None
        if not self.scores:
            self._task.update(self._metrics, signals.logits, batch)
        predicted = self._task.predict(signals.logits)
        if key is not None and predicted is not None:
            self._predictions[key] = predicted.to(torch.int32).cpu()
        return predicted
