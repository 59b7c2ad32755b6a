"""Predictions that are places in a text: of which positions one is chosen, and logits at all others."""

from __future__ import annotations

from torch import Tensor

from distill.core.signals import Batch

__all__ = ["CANDIDATES", "NEVER", "among_candidates"]

CANDIDATES = "candidates"
"""Of a batch's extras: which positions may be predicted, boolean ``[B, T]``; each row has at least one."""

NEVER = -1e4
"""The logit of a position that is none of them. Its probability is 0 at any temperature that is used, and its logarithm
a number: 0 times minus infinity would be none. Half precision holds it."""


def among_candidates(logits: Tensor, batch: Batch) -> Tensor:
    """Logits ``[B, K, T]`` with :data:`NEVER` where a position cannot be predicted; their gradient is 0 there."""
    return logits.masked_fill(~batch.extras[CANDIDATES][:, None], NEVER)
