"""Which process this is."""

from __future__ import annotations

from lightning_fabric.utilities.rank_zero import rank_zero_only

__all__ = ["is_rank_zero"]


def is_rank_zero() -> bool:
    """Whether this is the process that writes and prints; from the environment until a Trainer says more."""
    return getattr(rank_zero_only, "rank", 0) == 0
