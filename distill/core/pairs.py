"""Texts of one sample that stand in a batch as rows of their own, and how they find each other."""

from __future__ import annotations

from torch import Tensor

from distill.core.signals import Batch

__all__ = ["REFERENCE", "ROLE", "ROW", "partners"]

ROW = "sentence_row"
"""Of a batch's extras: which sample each text is of, ``[B]``; missing where each is one by itself."""

ROLE = "sentence_role"
"""Of a batch's extras: which of its sample's texts it is, ``[B]``: 0 the text, 1 what belongs to it, 2 what doesn't."""

REFERENCE = "reference_vectors"
"""Of an evaluation's batch: the teacher's vectors ``[B, D]``, with which metrics compare."""


def partners(batch: Batch, first: int, second: int) -> tuple[Tensor, Tensor]:
    """The places of texts of the role ``first``, and beside each that of its sample's text of the role ``second``.

    A text whose partner is not in the batch (of which rows were taken) is left out; a sample that is there more than
    once, as in the last batch of several ranks, finds its first.
    """
    rows, roles = batch.extras[ROW], batch.extras[ROLE]
    ours, theirs = (roles == first).nonzero().flatten(), (roles == second).nonzero().flatten()
    same = rows[ours][:, None] == rows[theirs][None, :]
    found = same.any(1)
    return ours[found], theirs[same.int().argmax(1)[found]] if len(theirs) else theirs
