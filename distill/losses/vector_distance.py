"""Distance of a text's vector to the teacher's, through a learned map where widths differ."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from distill.core.model_spec import ModelSpec
from distill.core.schedules import Schedule
from distill.core.signals import Batch, Signals
from distill.core.utils.errors import UserError, check_choice
from distill.losses.base import LossSum
from distill.losses.cosine import cosine_distance
from distill.losses.vectors import VectorLoss

__all__ = ["VectorCosine", "VectorMSE", "vector_mse"]


def vector_mse(student_NF: Tensor, teacher_NF: Tensor) -> Tensor:
    """Sum over texts of |student - teacher|^2: over the features too, as of unit vectors a mean shrinks with the width.

    Args:
        student_NF: Vectors ``[N, F]``, in at least float32.
        teacher_NF: Vectors ``[N, F]``; never written to.

    Returns:
        A scalar; 0 with a zero gradient for N = 0.

    Reference:
        Reimers, Gurevych: Making Monolingual Sentence Embeddings Multilingual using Knowledge Distillation, EMNLP 2020
        (there the mean over the features).
    """
    return (student_NF - teacher_NF).square().sum()


class VectorDistance(VectorLoss):
    """A distance of the student's vector to the teacher's. A subclass gives :meth:`distance`.

    Where the widths differ a linear map takes the student's to the teacher's: one for each of :attr:`dimensions`,
    trained with the student, saved with the run, and no part of the student. As the map can turn and stretch, the
    student's own cosines follow the teacher's less closely than the mapped vectors do;
    :class:`~distill.losses.VectorSimilarity` beside it takes care of them.

    Args:
        projection: ``auto`` makes the map where the widths differ, ``always`` everywhere, ``never`` nowhere.
        dimensions: See :class:`~distill.losses.vectors.VectorLoss`.
        weight: See :class:`DistillationLoss`.
        name: See :class:`DistillationLoss`.

    Raises:
        UserError: if an argument is out of range, there is no teacher, or the widths differ where no map may be made.
    """

    def __init__(
        self,
        projection: Literal["auto", "always", "never"] = "auto",
        dimensions: Sequence[int] | None = None,
        weight: float | Schedule = 1.0,
        name: str | None = None,
    ) -> None:
        super().__init__(dimensions, weight, name)
        check_choice("projection", projection, ("auto", "always", "never"))
        self.projection = projection
        self.projections = nn.ModuleDict()

    def bind(self, student: ModelSpec, teacher: ModelSpec | None) -> None:
        super().bind(student, teacher)
        theirs = self.require_teacher(teacher)
        if student.config is None or theirs.config is None:  # of plain modules widths are seen when they are there
            return
        for size in self.sizes(student.hidden_size):
            self._project(student, size, theirs.hidden_size)

    def _project(self, student: ModelSpec, size: int, width: int) -> None:
        if size != width and self.projection == "never":
            problem = f"the student's vectors have {size} features and the teacher's {width}"
            raise UserError(problem, key="projection", value=self.projection, hint="set projection: auto")
        if str(size) in self.projections and self.projections[str(size)].weight.shape == (width, size):
            return
        if size != width or self.projection == "always":
            like = next(student.model.parameters(), None)
            self.projections[str(size)] = nn.Linear(
                size, width, bias=False, device=None if like is None else like.device
            )

    @abstractmethod
    def distance(self, student_NF: Tensor, teacher_NF: Tensor) -> Tensor:
        """The sum over the texts, of vectors of one width."""

    def forward(self, student: Signals, teacher: Signals, batch: Batch) -> LossSum:
        ours_NE, theirs_NF = self.vectors(student, teacher, batch)
        totals = [self.distance(self._mapped(part, theirs_NF), theirs_NF) for part in self.prefixes(ours_NE)]
        return LossSum(torch.stack(totals).sum(), batch.count)

    def _mapped(self, student_NE: Tensor, teacher_NF: Tensor) -> Tensor:
        name = str(student_NE.shape[-1])
        if name in self.projections:
            projection = self.projections[name]
            student_NE = projection(student_NE.to(next(projection.parameters()).dtype))
        if student_NE.shape != teacher_NF.shape:
            ours, theirs = student_NE.shape[-1], teacher_NF.shape[-1]
            problem = f"the student's vectors have {ours} features and the teacher's {theirs}, and no map was made"
            hint = "name models of transformers, or use VectorSimilarity, which knows no width"
            raise UserError(problem, key="projection", value=self.projection, hint=hint)
        return student_NE


class VectorMSE(VectorDistance):
    """|student - teacher|^2 of a text's vectors (:func:`vector_mse`). Arguments: :class:`VectorDistance`."""

    def distance(self, student_NF: Tensor, teacher_NF: Tensor) -> Tensor:
        return vector_mse(student_NF, teacher_NF)


class VectorCosine(VectorDistance):
    """1 - cos(student, teacher) of a text's vectors. Arguments: :class:`VectorDistance`."""

    def distance(self, student_NF: Tensor, teacher_NF: Tensor) -> Tensor:
        weights_N1 = torch.ones(len(student_NF), 1, device=student_NF.device)
        return cosine_distance(student_NF[:, None], teacher_NF[:, None], weights_N1)
