"""Hard targets: cross entropy with the labels, and squared error where the labels are numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.core.numerics import at_least_float32
from distill.core.schedules import Schedule
from distill.core.signals import IGNORE, Batch, OutputKind
from distill.core.utils.errors import UserError
from distill.losses.base import counted
from distill.losses.blockwise import sum_over_rows
from distill.losses.label_loss import LabelLoss
from distill.losses.softened import Softened

__all__ = ["CrossEntropy", "cross_entropy", "regression_mse", "soft_cross_entropy"]


def cross_entropy(
    student_NC: Tensor, labels_N: Tensor, label_smoothing: float = 0.0, class_weights_C: Tensor | None = None
) -> Tensor:
    """Sum over positions of -sum_c t[c] * w[c] * log softmax(student)[c], t = (1 - s) * onehot(label) + s / C.

    Args:
        student_NC: Logits ``[N, C]``, any float dtype; computed in float32 or better.
        labels_N: Classes ``[N]``; positions labelled ``IGNORE`` add nothing.
        label_smoothing: s in [0, 1).
        class_weights_C: w ``[C]``; ones if not given. The *sum* is weighted; the mean is still over positions.

    Returns:
        A scalar in at least float32; 0 with a zero gradient where no position counts.
    """

    def formula(student_nC: Tensor, labels_n: Tensor) -> Tensor:
        weight = None if class_weights_C is None else class_weights_C.to(student_nC.dtype)
        return F.cross_entropy(
            student_nC, labels_n, weight, ignore_index=IGNORE, reduction="sum", label_smoothing=label_smoothing
        )

    return sum_over_rows(formula, student_NC, labels_N)


def soft_cross_entropy(
    student_NC: Tensor, targets_NC: Tensor, label_smoothing: float = 0.0, class_weights_C: Tensor | None = None
) -> Tensor:
    """Sum over positions of -sum_c t[c] * w[c] * log softmax(student)[c], t = (1 - s) * target + s / C.

    Args:
        student_NC: Logits ``[N, C]``, any float dtype; computed in float32 or better.
        targets_NC: Rows of probabilities ``[N, C]``; rows with a NaN are no labels and add nothing.
        label_smoothing: s in [0, 1).
        class_weights_C: w ``[C]``; ones if not given.
    """

    def formula(student_nC: Tensor, targets_nC: Tensor) -> Tensor:
        known_n = ~targets_nC.isnan().any(-1)
        weight = None if class_weights_C is None else class_weights_C.to(student_nC.dtype)
        target = targets_nC.nan_to_num().to(student_nC.dtype)
        each = F.cross_entropy(student_nC, target, weight, reduction="none", label_smoothing=label_smoothing)
        return (each * known_n).sum()

    return sum_over_rows(formula, student_NC, targets_NC)


def regression_mse(student_N: Tensor, labels_N: Tensor) -> Tensor:
    """Sum over samples of (student - label)^2, in at least float32; a label that is NaN is none and adds nothing."""
    labels_N = at_least_float32(labels_N)
    return ((at_least_float32(student_N) - labels_N.nan_to_num()) * ~labels_N.isnan()).square().sum()


class CrossEntropy(LabelLoss):
    """Cross entropy of the student with the labels; with float labels and a head of one output, squared error.

    A label is a class, or a row of probabilities over all classes (mixup, several annotators). Reads no teacher.
    Positions outside ``batch.mask`` or without a label (-100; NaN among numbers) add nothing; the mean is over the
    positions inside the mask, so that all terms of an objective share one count.

    Args:
        label_smoothing: Share of the target spread over all classes, in [0, 1).
        class_weights: Weight of each class, 0 or more; all 1 if not given.
        weight: See :class:`DistillationLoss`.
        name: See :class:`DistillationLoss`.

    Raises:
        UserError: if an argument is out of range, the data has no labels, or the number of class weights is
            not that of the classes.
    """

    row_wise: ClassVar[bool] = True

    def __init__(
        self,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
        weight: float | Schedule = 1.0,
        name: str | None = None,
    ) -> None:
        super().__init__(weight, name)
        if not 0 <= label_smoothing < 1:
            raise UserError("must lie in [0, 1)", key="label_smoothing", value=label_smoothing, hint="0.1 is usual")
        if class_weights is not None and (
            not class_weights or not all(0 <= value < math.inf for value in class_weights) or not any(class_weights)
        ):
            raise UserError(
                "must be numbers of 0 or more, not all 0", key="class_weights", value=class_weights, hint="or leave out"
            )
        self.label_smoothing = label_smoothing
        self.class_weights: Tensor | None
        # Not persistent: they are part of the configuration, and a checkpoint must not override it.
        self.register_buffer(
            "class_weights", None if class_weights is None else torch.tensor(class_weights), persistent=False
        )

    outputs: ClassVar[OutputKind] = "classes"

    @property
    def why_not_positions(self) -> str:
        if self.label_smoothing:
            return "spreads label_smoothing over all classes"
        return "weighs classes by class_weights" if self.class_weights is not None else ""

    def summed(self, logits: Tensor, labels: Tensor, mask: Tensor | None) -> Tensor:
        if labels.is_floating_point() and labels.dim() == logits.dim() and logits.shape[-1] > 1:
            self._check_rows(logits, labels)
            self._check_weights(logits.shape[-1])
            student_NC, targets_NC = counted(mask, logits.flatten(0, -2), labels.flatten(0, -2))
            return soft_cross_entropy(student_NC, targets_NC, self.label_smoothing, self.class_weights)
        student_NC, labels_N = counted(mask, logits.flatten(0, -2), labels.flatten())
        if labels_N.is_floating_point():
            self._check_regression(student_NC.shape[-1])
            return regression_mse(student_NC.squeeze(-1), labels_N)
        self._check_weights(student_NC.shape[-1])
        return cross_entropy(student_NC, labels_N, self.label_smoothing, self.class_weights)

    def closed_form(
        self, at: Callable[..., Softened], batch: Batch, gradient_nV: Tensor | None, factor: float
    ) -> Tensor | None:
        labels_n = batch.labels
        if labels_n is None or labels_n.is_floating_point() or self.class_weights is not None:
            return None
        soft, share = at(1.0, alone=True), self.label_smoothing
        known_n1, target_n1 = (labels_n != IGNORE)[:, None], labels_n.clamp(min=0)[:, None]
        if gradient_nV is not None:
            gradient_nV.addcmul_(soft.q, known_n1.to(soft.q.dtype), value=factor)
            gradient_nV.scatter_add_(1, target_n1, known_n1 * torch.full_like(soft.q[:, :1], -factor * (1 - share)))
            if share:
                gradient_nV.sub_(known_n1 * (factor * share / soft.q.shape[-1]))
        expected_n = soft.student.gather(1, target_n1)[:, 0]
        if share:
            expected_n = (1 - share) * expected_n + share * soft.student.mean(-1)
        return ((soft.student_normalizers - expected_n) * known_n1[:, 0]).sum()

    def _check_rows(self, logits: Tensor, labels: Tensor) -> None:
        problem, hint = "", "give one probability for each output, or a class as an integer"
        if labels.shape != logits.shape:
            problem = f"labels are rows of {list(labels.shape)}, and logits are {list(logits.shape)}"
        elif labels.device.type == "cpu":  # on a device a look would make every step wait
            wrong = ((labels.sum(-1) - 1).abs() > 1e-3) | (labels < 0).any(-1)  # of a NaN neither holds
            if bool(wrong.any()):
                problem, hint = "rows of labels must be probabilities that add up to 1", "divide each row by its sum"
        if problem:
            raise UserError(problem, key=self.name, hint=hint)

    def _check_weights(self, classes: int) -> None:
        if self.class_weights is not None and len(self.class_weights) != classes:
            raise UserError(
                f"must be one for each of the {classes} classes",
                key="class_weights",
                value=self.class_weights.tolist(),
                hint="give as many weights as classes",
            )

    def _check_regression(self, width: int) -> None:
        if width != 1:
            raise UserError(
                "labels that are numbers need a head of one output",
                key=self.name,
                value=width,
                hint="set num_labels: 1",
            )
        if self.label_smoothing or self.class_weights is not None:
            key = "label_smoothing" if self.label_smoothing else "class_weights"
            raise UserError("is for classes, and the labels are numbers", key=key, hint="leave it out")
