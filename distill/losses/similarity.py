"""Which samples look alike to the model."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import normalize

from distill.core.numerics import at_least_float32, full_precision
from distill.losses.embedding_loss import EmbeddingLoss

__all__ = ["SimilarityPreserving", "similarity_preserving"]


def similarity_preserving(student_BE: Tensor, teacher_BF: Tensor, valid_B: Tensor) -> Tensor:
    """|G_t - G_s|_F^2 / b^2 over the b valid samples, with G = Q Q^T, each of its rows divided by its length.

    Args:
        student_BE: Embeddings Q ``[B, E]``, any float dtype; computed in float32 or better.
        teacher_BF: Embeddings ``[B, F]``; never written to.
        valid_B: Which samples count, boolean ``[B]``.

    Returns:
        A scalar in at least float32; 0 with a zero gradient where no sample is valid.

    Reference:
        Tung, Mori: Similarity-Preserving Knowledge Distillation, ICCV 2019.
    """

    def similarities(embeddings: Tensor) -> Tensor:
        q = at_least_float32(embeddings) * valid_B[:, None]
        with full_precision(q):
            return normalize(q @ q.T, dim=1)

    squares_BB = (similarities(teacher_BF) - similarities(student_BE)).square()
    return squares_BB.sum() / valid_B.sum().clamp(min=1).square()


class SimilarityPreserving(EmbeddingLoss):
    """Squared error of the samples' similarities to each other within a micro-batch.

    Coupled to the micro-batch: see :class:`~distill.losses.embedding_loss.EmbeddingLoss`.

    Args:
        student_layer: Layer of the student whose tokens' mean embeds a sample; -1 is the last.
        teacher_layer: Layer of the teacher, likewise.
        taps: One student module -> teacher module by name, flattened; instead of the layers.
        stack: Of encoder-decoders, ``encoder`` or ``decoder``: whose layers are compared.
        weight: See :class:`DistillationLoss`.
        name: See :class:`DistillationLoss`.

    Raises:
        UserError: if there is no teacher, layer or module of that name.
    """

    def mean_loss(self, student_BE: Tensor, teacher_BF: Tensor, valid_B: Tensor) -> Tensor:
        return similarity_preserving(student_BE, teacher_BF, valid_B)
