"""What a teacher scores on the data that its student is judged by, and where the two agree."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from distill.core.context_scores import ContextScores
from distill.core.pairs import REFERENCE
from distill.core.signals import Batch, Signals
from distill.core.task import Task, TokenTask
from distill.core.teacher import TeacherSource
from distill.core.teacher_inputs import of_teacher
from distill.core.token_scores import TokenScores

__all__ = ["TeacherScores"]


class TeacherScores:
    """Runs a teacher over a validation's data once, and remembers its classes from then on.

    Attributes:
        scores: Its scores by metric; empty before the first validation has ended.
        by_context: Likewise by the length of the context (:meth:`ContextScores.record`), where that is known.
    """

    def __init__(self, teacher: TeacherSource, task: Task) -> None:
        self._teacher, self._task = teacher, task
        self._metrics, self._agreement, self._acceptance = task.metrics(), MeanMetric(), MeanMetric()
        self._predictions: dict[tuple[int, ...], Tensor] = {}
        self._vectors: dict[tuple[int, ...], Tensor] = {}
        self._of_other_data, self._of_text = False, False
        self.scores: dict[str, float] = {}
        self._contexts = ContextScores() if isinstance(task, TokenTask) and task.reads_on else None
        self.by_context: dict[str, Any] = {}

    def to(self, device: torch.device) -> Self:
        """Move the teacher, and what judges it."""
        self._teacher.to(device)
        for metric in (*self._metrics.values(), self._agreement, self._acceptance, self._contexts):
            if metric is not None:
                metric.to(device)
        return self

    def clear(self) -> None:
        """Forget all, as other data comes, whose ids begin at 0 again."""
        self.by_context = {}
        self.scores = {}
        self._predictions.clear()
        self._vectors.clear()
        self._of_other_data = True

    @property
    def measures_acceptance(self) -> bool:
        """Whether it can be said how many of the student's tokens the teacher accepts: where tokens are predicted."""
        return isinstance(self._task, TokenTask) and self._teacher.known_scores is None

    def beside(self, batch: Batch) -> Batch:
        """``batch`` with the vectors that the teacher has for it, which runs only the first time it is seen.

        Without a model, as of a recording, it is left as it is.
        """
        if self._teacher.known_scores is not None:
            return batch
        key = None if batch.ids is None else (*batch.ids, *batch.input_digests.tolist())
        vectors = None if key is None else self._vectors.get(key)
        if vectors is None:
            vectors = self._teacher.evaluate(batch).logits
            assert vectors is not None
            if key is not None:
                self._vectors[key] = vectors.cpu()
        device = next(iter(batch.inputs.values())).device
        return replace(batch, extras=batch.extras | {REFERENCE: vectors.to(device)})

    def compare(self, predicted: Tensor | None, batch: Batch, student: Signals | None = None) -> None:
        """Judge the teacher by a batch, and count where the student predicts what it does.

        Args:
            predicted: The student's classes; ``None`` where predictions are no classes.
            batch: Of which the model runs only the first time it is seen.
            student: Where the acceptance is to be measured, for which the model runs every time.
        """
        if self._teacher.known_scores is not None:  # it does not run
            return
        if self._task.outputs == "vectors":
            if not self.scores:
                beside = self.beside(batch)
                self._task.score(self._metrics, Signals(beside.extras[REFERENCE]), beside)
            return
        if (theirs := of_teacher(batch)) is not None:  # of its own tokens: there is nothing to compare by position
            if not self.scores:
                self._of_text = True
                self._judge(self._teacher.evaluate_lazily(theirs), theirs, None)
            return
        key = (*batch.ids, *batch.input_digests.tolist()) if batch.ids is not None else None
        expected = None if key is None else self._predictions.get(key)
        if expected is None or student is not None:
            signals = self._teacher.evaluate_lazily(batch)
            if student is not None:
                self._accept(student, signals, batch)
            if expected is None:
                expected = self._judge(signals, batch, key)
        if expected is not None and predicted is not None:
            same = predicted == expected.to(predicted.device)
            self._agreement.update((same if batch.mask is None else same[batch.mask]).float())

    def compute(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """What the validation that ends has found: the teacher's scores, empty where they were known; and what compares
        the student with it, ``agreement`` and ``acceptance`` as far as they were measured."""
        measured = {"agreement": self._agreement, "acceptance": self._acceptance}
        compared = {name: mean.compute() for name, mean in measured.items() if mean.update_called}
        for mean in measured.values():
            mean.reset()
        if self._contexts is not None and self._contexts.update_called:  # the model has run over the data
            found = self._contexts.record()
            self.by_context = {name: part for name, part in found.items() if not self._of_text or name != "perplexity"}
            self._contexts.reset()
        if self.scores:
            return {}, compared
        if (known := self._teacher.known_scores) is not None:
            self.scores = {} if self._of_other_data else dict(known)
            return self.scores, compared
        found = {name: float(metric.compute()) for name, metric in self._metrics.items() if self._says(name)}
        vectors = self._task.outputs == "vectors"
        self.scores = {name: value for name, value in found.items() if not (vectors and math.isnan(value))}
        for metric in self._metrics.values():
            metric.reset()
        return self.scores, compared

    def _says(self, metric: str) -> bool:
        """Whether a metric of the teacher says something beside the student's."""
        return not self._of_text or (isinstance(self._task, TokenTask) and metric in self._task.of_text)

    def _judge(self, signals: Signals, batch: Batch, key: tuple[int, ...] | None) -> Tensor | None:
        """The classes of the teacher, which are remembered."""
        metrics = self._task.metrics() if self.scores else self._metrics
        scored = self._task.score(metrics, signals, batch)
        predicted = scored.classes
        if self._contexts is not None and isinstance(scored.by, TokenScores):
            self._contexts.update(scored.by, batch)
        if key is not None and predicted is not None:
            self._predictions[key] = predicted.to(torch.int32).cpu()
        return predicted

    def _accept(self, student: Signals, teacher: Signals, batch: Batch) -> None:
        accepted = TokenScores.of(student, batch, teacher).acceptance
        assert accepted is not None
        self._acceptance.update(accepted if batch.mask is None else accepted[batch.mask])
