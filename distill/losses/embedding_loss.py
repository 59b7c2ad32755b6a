"""What the losses on relations between samples share: one vector a sample, and the coupling of a micro-batch."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from distill.core.model_spec import ModelSpec
from distill.core.schedules import Schedule
from distill.core.signals import Batch, Needs, Request, Signals
from distill.core.stacks import Stack
from distill.core.utils.errors import UserError
from distill.losses.base import DistillationLoss, LossSum, check_stack
from distill.losses.features import sample_embeddings, valid_samples

__all__ = ["EmbeddingLoss"]


class EmbeddingLoss(DistillationLoss):
    """A loss between the samples of one micro-batch. A subclass gives :meth:`mean_loss`.

    A sample's embedding is the mean of the hidden states over its real tokens or, with ``taps``, the output of
    one module of each model, flattened. Widths may differ. The samples of a micro-batch are compared with
    each other, so the loss depends on how the batch is split, and 1 x 8 is not 8 x 1: its total is the mean
    over the micro-batch's relations times ``batch.count``.

    Args:
        student_layer: Layer of the student; 0 is the embedding output, -1 the last.
        teacher_layer: Layer of the teacher, likewise.
        taps: One student module -> teacher module by name; instead of the layers.
        stack: Of encoder-decoders, ``encoder`` or ``decoder``: whose layers are compared.
        weight: See :class:`DistillationLoss`.
        name: See :class:`DistillationLoss`.
    """

    def __init__(
        self,
        student_layer: int = -1,
        teacher_layer: int = -1,
        taps: dict[str, str] | None = None,
        stack: Stack | None = None,
        weight: float | Schedule = 1.0,
        name: str | None = None,
    ) -> None:
        super().__init__(weight, name)
        self.stack = check_stack(stack)
        if taps is not None and len(taps) != 1:
            raise UserError(
                "must name one student module and one teacher module",
                key="taps",
                value=taps,
                hint="write {student_module: teacher_module}",
            )
        if taps is not None and stack is not None:
            raise UserError("is for layers, and 'taps' are named", key="stack", value=stack, hint="drop one of the two")
        self.student_layer, self.teacher_layer, self.taps = student_layer, teacher_layer, taps

    @property
    def needs(self) -> Needs:
        if self.taps is not None:
            return Needs(Request(taps=frozenset(self.taps)), Request(taps=frozenset(self.taps.values())))
        return Needs(
            student=Request(hidden_states=frozenset({self.student_layer})),
            teacher=Request(hidden_states=frozenset({self.teacher_layer})),
        )

    def bind(self, student: ModelSpec, teacher: ModelSpec | None) -> None:
        teacher = self.require_teacher(teacher)
        if self.taps is None:
            student.layer(self.student_layer, "student_layer")
            teacher.layer(self.teacher_layer, "teacher_layer")
            return
        for mine, other in self.taps.items():
            student.module(mine, "taps")
            teacher.module(other, "taps")

    @abstractmethod
    def mean_loss(self, student_BE: Tensor, teacher_BF: Tensor, valid_B: Tensor) -> Tensor:
        """The mean over the relations between the valid samples; 0 where there are none."""

    def forward(self, student: Signals, teacher: Signals, batch: Batch) -> LossSum:
        if self.taps is None:
            ours, theirs = student.hidden_states[self.student_layer], teacher.hidden_states[self.teacher_layer]
        else:
            ((mine, other),) = self.taps.items()
            ours, theirs = student.taps[mine], teacher.taps[other]
        student_BE, teacher_BF = (sample_embeddings(f, batch, pool=self.taps is None) for f in (ours, theirs))
        mean = self.mean_loss(student_BE, teacher_BF, valid_samples(batch, student_BE))
        return LossSum(mean * batch.count, batch.count)
