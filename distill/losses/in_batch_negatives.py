"""Pairs that belong together, against all else in the batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from distill.core.pairs import ROLE, partners
from distill.core.schedules import Schedule
from distill.core.signals import Batch, Needs, Request, Signals
from distill.losses.base import LossSum, check_positive
from distill.losses.vector_similarity import cosines
from distill.losses.vectors import VectorLoss, require_pairs

__all__ = ["InBatchNegatives", "in_batch_negatives"]


def in_batch_negatives(texts_PE: Tensor, others_NE: Tensor, place_P: Tensor, temperature: float) -> Tensor:
    """Mean over texts i of -log softmax_j(cos(texts_i, others_j) / T) at j = place_i.

    Args:
        texts_PE: Vectors ``[P, E]``.
        others_NE: Vectors ``[N, E]`` of what belongs to them, and of what does not.
        place_P: Which of the others belongs to each text, ``[P]``.
        temperature: T > 0.

    Returns:
        A scalar in nats, in at least float32; 0 with a zero gradient for P = 0.

    Reference:
        Henderson et al.: Efficient Natural Language Response Suggestion for Smart Reply, 2017.
        van den Oord, Li, Vinyals: Representation Learning with Contrastive Predictive Coding, 2018.
    """
    scores_PN = cosines(texts_PE, others_NE) / temperature
    return cross_entropy(scores_PN, place_P, reduction="sum") / max(1, len(texts_PE))


class InBatchNegatives(VectorLoss):
    """Each text is to be nearest to its own second text among all second texts (and negatives) of the micro-batch.

    It reads no teacher. The rows of a micro-batch are each other's negatives, so the loss depends on how the batch is
    split, and ranks do not see each other's: its total is the mean over the micro-batch's pairs times ``batch.count``.
    Rows with the same second text are taken for negatives of each other: leave such duplicates out of the data.

    Args:
        temperature: T > 0, or a schedule of it. 0.05 is what sentence-transformers calls a scale of 20.
        dimensions: See :class:`~distill.losses.vectors.VectorLoss`.
        weight: See :class:`DistillationLoss`.
        name: See :class:`DistillationLoss`.

    Raises:
        UserError: if the temperature is not above 0, or the rows of the data are no pairs.
    """

    def __init__(
        self,
        temperature: float | Schedule = 0.05,
        dimensions: Sequence[int] | None = None,
        weight: float | Schedule = 1.0,
        name: str | None = None,
    ) -> None:
        super().__init__(dimensions, weight, name)
        self.temperature = check_positive("temperature", temperature)

    @property
    def needs(self) -> Needs:
        return Needs(student=Request(logits=True))

    def forward(self, student: Signals, teacher: Signals, batch: Batch) -> LossSum:
        require_pairs(self, batch, "text_pair")
        vectors = student.at(batch.mask)
        texts, theirs = partners(batch, 0, 1)
        others = (batch.extras[ROLE] > 0).nonzero().flatten()
        place = torch.searchsorted(others, theirs)
        temperature = self.temperature(batch.step, batch.total_steps)
        means = [in_batch_negatives(v[texts], v[others], place, temperature) for v in self.prefixes(vectors)]
        return LossSum(torch.stack(means).sum() * batch.count, batch.count)
