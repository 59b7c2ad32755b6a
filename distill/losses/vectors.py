"""What the losses on the vectors of texts share: which vectors they are, and the lengths to which these may be cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from torch import Tensor

from distill.core.model_spec import ModelSpec
from distill.core.numerics import at_least_float32
from distill.core.pairs import ROLE
from distill.core.schedules import Schedule
from distill.core.signals import Batch, Needs, OutputKind, Request, Signals
from distill.core.utils.errors import UserError
from distill.losses.base import DistillationLoss

__all__ = ["VectorLoss", "require_pairs"]


class VectorLoss(DistillationLoss):
    """A loss between vectors of texts, the student's and the teacher's, whose widths may differ.

    Args:
        dimensions: Numbers of the student's first features, each of which is to be a vector of its own (Matryoshka):
            the loss is the sum over them. The whole vector alone if not given.
        weight: See :class:`DistillationLoss`.
        name: See :class:`DistillationLoss`.

    Reference:
        Kusupati et al.: Matryoshka Representation Learning, NeurIPS 2022.
    """

    outputs: ClassVar[OutputKind] = "vectors"

    def __init__(
        self, dimensions: Sequence[int] | None = None, weight: float | Schedule = 1.0, name: str | None = None
    ) -> None:
        super().__init__(weight, name)
        self.dimensions = None if dimensions is None else list(dimensions)
        if self.dimensions is not None and (not self.dimensions or min(self.dimensions) < 1):
            hint = "name some from 1 to the student's width, or leave it out"
            raise UserError("must be numbers of features", key="dimensions", value=self.dimensions, hint=hint)

    @property
    def needs(self) -> Needs:
        return Needs(Request(logits=True), Request(logits=True))

    def bind(self, student: ModelSpec, teacher: ModelSpec | None) -> None:
        if self.needs.teacher:
            self.require_teacher(teacher)
        for size in self.sizes(student.hidden_size) if student.config is not None and self.dimensions else ():
            if size > student.hidden_size:
                problem = f"the student's vectors have {student.hidden_size} features"
                raise UserError(problem, key="dimensions", value=size, hint=f"give {student.hidden_size} or less")

    def sizes(self, width: int) -> list[int]:
        """The lengths to which vectors of ``width`` are cut."""
        return self.dimensions or [width]

    def prefixes(self, vectors_NE: Tensor) -> Iterator[Tensor]:
        """The student's vectors, cut to each of :attr:`dimensions`."""
        for size in self.sizes(vectors_NE.shape[-1]):
            yield vectors_NE[:, :size]

    def vectors(self, student: Signals, teacher: Signals, batch: Batch) -> tuple[Tensor, Tensor]:
        """The student's ``[N, E]`` and the teacher's ``[N, F]`` that count, in at least float32."""
        return at_least_float32(student.at(batch.mask)), at_least_float32(teacher.at(batch.mask))


def require_pairs(loss: DistillationLoss, batch: Batch, key: str) -> None:
    """Refuse a batch that lacks the texts of a role.

    Raises:
        UserError: if its texts are of no pairs.
    """
    number = {"text_pair": 1, "negative": 2}[key]
    if ROLE not in batch.extras or int(batch.extras[ROLE].max()) < number:
        what = "a second text that belongs to the first" if number == 1 else "a text that does not belong to the first"
        problem = f"{type(loss).__name__} reads {what} in each row, and the data names no column for it"
        raise UserError(problem, key=f"data.columns.{key}", hint=f"name it, or drop {type(loss).__name__}")
