"""Hard targets where each class is a yes or no of its own: binary cross entropy."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from distill.core.signals import OutputKind
from distill.losses.base import counted
from distill.losses.blockwise import sum_over_rows
from distill.losses.label_loss import LabelLoss

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


class BinaryCrossEntropy(LabelLoss):
    """Binary cross entropy of the student with the labels of a task whose samples have any number of classes.

    Reads no teacher. Samples without a label add nothing; the mean is over all samples, so that all terms of an
    objective share one count.

    Args:
        weight: See :class:`DistillationLoss`.
        name: See :class:`DistillationLoss`.

    Raises:
        UserError: if the data has no labels, or a task has one class a sample.
    """

    outputs: ClassVar[OutputKind] = "labels"

    def summed(self, logits: Tensor, labels: Tensor, mask: Tensor | None) -> Tensor:
        return binary_cross_entropy(*counted(mask, logits, labels))
