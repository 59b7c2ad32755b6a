"""What an evaluation comes to: the student's scores, its teacher's, and how alike the two are."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import Trainer

from distill.core.context_scores import ContextScores
from distill.core.signals import Batch, Signals
from distill.core.task import TokenTask
from distill.core.teacher import TeacherSource
from distill.core.token_scores import TokenScores
from distill.models.teachers.validation import TeacherScores
from distill.tasks import Task
from distill.training.evidence import Evidence

__all__ = ["Judge"]


class Judge:
    """Judges a student, and its teacher, by the batches of an evaluation.

    No module: with weights of half precision (bf16-true) the counts of metrics would be rounded to it.

    Args:
        task: Of both.
        teacher: If there is one.

    Attributes:
        metrics: The student's.
        teacher: What the teacher scores; ``None`` without one.
        evidence: What is measured besides metrics.
    """

    def __init__(self, task: Task, teacher: TeacherSource | None) -> None:
        self._task, self.metrics, self.evidence = task, task.metrics(), Evidence()
        self._contexts = ContextScores() if isinstance(task, TokenTask) and task.reads_on else None
        self.teacher = None if teacher is None else TeacherScores(teacher, task)

    @property
    def measures_acceptance(self) -> bool:
        """Whether an evaluation outside of training measures the acceptance; the teacher then runs each time."""
        return self.teacher is not None and self.teacher.measures_acceptance

    def to(self, device: torch.device) -> None:
        """Move the metrics, and the teacher."""
        for metric in (*self.metrics.values(), *self._by_context):
            metric.to(device)
        if self.teacher is not None:
            self.teacher.to(device)

    @property
    def _by_context(self) -> list[ContextScores]:
        return [] if self._contexts is None else [self._contexts]

    def add(self, signals: Signals, batch: Batch, trainer: Trainer) -> None:
        """Judge a batch.

        Args:
            signals: The student's, with logits.
            batch: That it has read.
            trainer: Whose sanity check is looked at by nobody.
        """
        scored = self._task.score(self.metrics, signals, self._beside_teacher(batch))
        if trainer.sanity_checking:
            return
        self.evidence.add(scored, batch)
        if self._contexts is not None and isinstance(scored.by, TokenScores):
            self._contexts.update(scored.by, batch)
        if self.teacher is not None:
            accepts = self.measures_acceptance and trainer.state.fn != "fit"
            self.teacher.compare(scored.classes, batch, signals if accepts else None)

    def _beside_teacher(self, batch: Batch) -> Batch:
        """The batch with the teacher's vectors, where metrics compare with them."""
        if self.teacher is None or self._task.outputs != "vectors":
            return batch
        return self.teacher.beside(batch)

    def compute(self, split: str, trainer: Trainer) -> dict[str, Any]:
        """All scores by name, when an evaluation ends; on every rank."""
        scores: dict[str, Any] = {f"{split}/{name}": metric.compute().float() for name, metric in self.metrics.items()}
        if not trainer.sanity_checking:
            self.evidence.compute(self._task, self.metrics, trainer)
        if self._task.outputs == "vectors":  # which of them there is, depends on the data and the models
            monitored = f"{split}/{self._task.monitor}"
            scores = {name: value for name, value in scores.items() if name == monitored or not value.isnan()}
        for metric in self.metrics.values():
            metric.reset()
        if self.teacher is not None and not trainer.sanity_checking:
            found, compared = self.teacher.compute()
            scores |= {f"teacher/{name}": value for name, value in found.items()}
            scores |= {f"{split}/{name}": value for name, value in compared.items()}
        if self._contexts is not None and not trainer.sanity_checking:
            theirs = {} if self.teacher is None or not self.teacher.by_context else {"teacher": self.teacher.by_context}
            self.evidence.found["by_context"] = {**theirs, "student": self._contexts.record()}
            self._contexts.reset()
        return scores
