"""Universal logit distillation: how alike two distributions are whatever their tokens are."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from distill.losses.across import AcrossTokenizers

__all__ = ["UniversalLogitDistillation", "universal_logit_distance"]


def universal_logit_distance(student_NC: Tensor, teacher_NV: Tensor, temperature: float = 1.0) -> Tensor:
    """Sum over positions of T * sum_k |p_(k) - q_(k)|, the probabilities of each sorted from the largest on.

    p = softmax(teacher / T) and q = softmax(student / T), the shorter of the two filled up with zeros. It is the
    Wasserstein distance between the two where any token is as far from every other, and the best transport between
    tokens is free. Only as many of the longer one are sorted as the shorter one has: the others add up to the rest.
    T keeps the size of its gradient, as of :func:`total_variation`.

    Args:
        student_NC: Logits ``[N, C]``, in float32 or better.
        teacher_NV: Logits ``[N, V]``, V any number.
        temperature: T > 0.

    Returns:
        A scalar; 0 with a zero gradient for N = 0.

    Reference:
        Boizard, El Haddad, Hudelot, Colombo: Towards Cross-Tokenizer Distillation: the Universal Logit Distillation
        Loss for LLMs, TMLR 2025 (arXiv 2402.12030).
    """
    width = min(student_NC.shape[-1], teacher_NV.shape[-1])
    q, p = ((logits / temperature).softmax(-1) for logits in (student_NC, teacher_NV))
    largest_q, largest_p = (one.topk(width, -1).values for one in (q, p))
    rest = sum(one.sum() - largest.sum() for one, largest in ((q, largest_q), (p, largest_p)) if one.shape[-1] > width)
    return temperature * ((largest_p - largest_q).abs().sum() + rest)


class UniversalLogitDistillation(AcrossTokenizers):
    """T times the L1 distance of the two models' sorted probabilities, at positions that have read the same bytes.

    It knows nothing of what tokens say: a teacher that is sure of one has the student be as sure, of which one it
    is for the labels to say. Put it beside :class:`CrossEntropy`.

    Args:
        temperature: T > 0, or a schedule of it.
        weight: See :class:`DistillationLoss`.
        name: See :class:`DistillationLoss`.

    Raises:
        UserError: if the temperature is not greater than 0, or there is no teacher.
    """

    row_wise: ClassVar[bool] = True

    def compared(self, student_NC: Tensor, teacher_NV: Tensor, path_N: Tensor, temperature: float) -> Tensor:
        return universal_logit_distance(student_NC, teacher_NV, temperature)
