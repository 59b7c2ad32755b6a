"""Direction of the last hidden states."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cosine_similarity

from distill.core.model_spec import ModelSpec
from distill.core.numerics import at_least_float32
from distill.core.schedules import Schedule
from distill.core.signals import Batch, Needs, Request, Signals
from distill.core.stacks import Stack
from distill.core.utils.errors import UserError
from distill.losses.base import DistillationLoss, LossSum, check_stack

__all__ = ["CosineHidden", "cosine_distance"]


def cosine_distance(student_BTH: Tensor, teacher_BTH: Tensor, weights_BT: Tensor) -> Tensor:
    """Sum over positions of weight * (1 - cos(student, teacher)).

    Args:
        student_BTH: Hidden states ``[B, T, H]``, any float dtype; computed in float32 or better.
        teacher_BTH: Hidden states ``[B, T, H]``; never written to.
        weights_BT: Weights ``[B, T]``, 0 on padding.

    Returns:
        A scalar in at least float32; 0 with a zero gradient where all weights are 0.

    Reference:
        Sanh, Debut, Chaumond, Wolf: DistilBERT, a distilled version of BERT, 2019.
    """
    similarity = cosine_similarity(at_least_float32(student_BTH), at_least_float32(teacher_BTH), dim=-1)
    return (weights_BT * (1 - similarity)).sum()


class CosineHidden(DistillationLoss):
    """1 - cos of student's and teacher's hidden states, averaged over a sample's real tokens.

    Args:
        student_layer: Layer of the student; 0 is the embedding output, -1 the last.
        teacher_layer: Layer of the teacher, likewise.
        stack: Of encoder-decoders, ``encoder`` or ``decoder``: whose layers are compared.
        weight: See :class:`DistillationLoss`.
        name: See :class:`DistillationLoss`.

    Raises:
        UserError: if there is no teacher or no such layer, or the hidden sizes differ.
    """

    def __init__(
        self,
        student_layer: int = -1,
        teacher_layer: int = -1,
        stack: Stack | None = None,
        weight: float | Schedule = 1.0,
        name: str | None = None,
    ) -> None:
        super().__init__(weight, name)
        self.stack = check_stack(stack)
        self.student_layer, self.teacher_layer = student_layer, teacher_layer

    @property
    def needs(self) -> Needs:
        return Needs(
            student=Request(hidden_states=frozenset({self.student_layer})),
            teacher=Request(hidden_states=frozenset({self.teacher_layer})),
        )

    def bind(self, student: ModelSpec, teacher: ModelSpec | None) -> None:
        teacher = self.require_teacher(teacher)
        student.layer(self.student_layer, "student_layer")
        teacher.layer(self.teacher_layer, "teacher_layer")
        if student.hidden_size != teacher.hidden_size:
            raise UserError(
                f"CosineHidden needs the teacher's hidden size, {teacher.hidden_size}",
                key=f"{student.key}.hidden_size",
                value=student.hidden_size,
                hint="use FitNetHint with kind: cosine, which learns a map between them",
            )

    def forward(self, student: Signals, teacher: Signals, batch: Batch) -> LossSum:
        ours = student.hidden_states[self.student_layer]
        theirs = teacher.hidden_states[self.teacher_layer]
        return LossSum(cosine_distance(ours, theirs, batch.token_weights(ours)), batch.count)
