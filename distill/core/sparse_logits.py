"""Logits of which only some tokens have a value of their own; what a recorded teacher may give."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["SparseLogits"]


@dataclass(frozen=True)
class SparseLogits:
    """Of row i the logits base + rest[i], but for values[i, j] at the tokens ids[i, j].

    Attributes:
        ids: ``[N, K]``, int64; a token that stands there twice has one value.
        values: ``[N, K]``, float32.
        rest: ``[N]``, float32.
        base: ``[V]``, float32.
    """

    ids: Tensor
    values: Tensor
    rest: Tensor
    base: Tensor

    @property
    def width(self) -> int:
        """V, the number of logits of a position."""
        return len(self.base)

    def __len__(self) -> int:
        return len(self.ids)

    def block(self, part: slice) -> Tensor:
        """The logits of some rows, ``[n, V]``."""
        return (self.base + self.rest[part, None]).scatter_(1, self.ids[part], self.values[part])
