"""Hard targets where each class is a yes or no of its own: binary cross entropy."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from distill.core.signals import Batch, Needs, OutputKind, Request, Signals
from distill.core.utils.errors import UserError
from distill.losses.base import DistillationLoss, LossSum, counted
from distill.losses.blockwise import sum_over_rows

__all__ = ["BinaryCrossEntropy", "binary_cross_entropy"]


def binary_cross_entropy(student_NC: Tensor, labels_NC: Tensor) -> Tensor:
    """Sum over samples of the mean over classes of -(y log sigmoid(s) + (1 - y) log sigmoid(-s)).

    The mean over the classes is that of torch's ``BCEWithLogitsLoss``, and of transformers under
    ``problem_type: multi_label_classification``.

    Args:
        student_NC: Logits s ``[N, C]``, any float dtype; computed in float32 or better.
        labels_NC: y in [0, 1], ``[N, C]``; samples that are NaN have no label and add nothing.

    Returns:
        A scalar in at least float32; 0 with a zero gradient where no sample has a label.
    """

    def formula(student_nC: Tensor, labels_nC: Tensor) -> Tensor:
        known = ~labels_nC.isnan()
        each = binary_cross_entropy_with_logits(
            student_nC, labels_nC.nan_to_num().to(student_nC.dtype), reduction="none"
        )
        return (each * known).mean(-1).sum()

    return sum_over_rows(formula, student_NC, labels_NC)


class BinaryCrossEntropy(DistillationLoss):
    """Binary cross entropy of the student with the labels of a task whose samples have any number of classes.

    Reads no teacher. Samples without a label add nothing; the mean is over all samples, so that all terms of an
    objective share one count.

    Args:
        weight: See :class:`DistillationLoss`.
        name: See :class:`DistillationLoss`.

    Raises:
        UserError: if the data has no labels, or a task has one class a sample.
    """

    reads_labels: ClassVar[bool] = True
    outputs: ClassVar[OutputKind] = "labels"

    @property
    def needs(self) -> Needs:
        return Needs(student=Request(logits=True))

    def forward(self, student: Signals, teacher: Signals, batch: Batch) -> LossSum:
        if batch.labels is None:
            raise UserError(
                "binary cross entropy needs labels", key=self.name, hint="add labels to the data, or drop the loss"
            )
        if student.logits is None:
            raise RuntimeError("logits were not requested of this forward pass")
        student_NC, labels_NC = counted(batch.mask, student.logits, batch.labels)
        return LossSum(binary_cross_entropy(student_NC, labels_NC), batch.count)
