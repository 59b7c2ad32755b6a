"""What is to be known of a language model's logits to judge it, position by position, without all of them at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.core.lazy_logits import LazyLogits
from distill.core.numerics import at_least_float32
from distill.core.signals import IGNORE, Batch, Signals
from distill.core.sparse_logits import SparseLogits

__all__ = ["LogitRows", "TokenScores"]

_BLOCK = 2**23
"""Logits that are there at once: 32 MiB of float32."""


@dataclass(frozen=True)
class TokenScores:
    """Scores of each position ``[B, T]``; 0 where none is counted.

    Attributes:
        nats: -log p(label), in at least float32; 0 where the label is :data:`~distill.core.signals.IGNORE`.
        predicted: The most likely token.
        undefined: Whether one of the logits is NaN.
        acceptance: sum over tokens of min(p, q) of teacher and student: how likely a token that the student proposes
            is accepted by the teacher (Leviathan et al.: Fast Inference from Transformers via Speculative Decoding,
            ICML 2023), which is 1 less the total variation. ``None`` without a teacher.
        width: Logits of a position.
    """

    nats: Tensor
    predicted: Tensor
    undefined: Tensor
    acceptance: Tensor | None
    width: int

    @classmethod
    @torch.no_grad()
    def of(cls, signals: Signals, batch: Batch, teacher: Signals | None = None) -> TokenScores:
        """Of one batch.

        Args:
            signals: With logits, lazy or not.
            batch: With labels ``[B, T]``, and a mask, or all positions count.
            teacher: The teacher's, likewise; its vocabulary may be padded to another width.
        """
        assert batch.labels is not None
        labels, mask = batch.labels, batch.mask
        places = torch.arange(labels.numel(), device=labels.device) if mask is None else mask.flatten().nonzero()[:, 0]
        ours, theirs = LogitRows(signals, mask), None if teacher is None else LogitRows(teacher, mask)
        # Made before the blocks: what is kept of one would lie where its logits were, and the next would find no room.
        nats, accepted = (labels.new_zeros(labels.numel(), dtype=ours.dtype) for _ in range(2))
        predicted, undefined = torch.zeros_like(labels).flatten(), labels.new_zeros(labels.numel(), dtype=torch.bool)
        size = max(1, _BLOCK // ours.width)
        for start in range(0, len(places), size):
            block = slice(start, start + size)
            logits, at = ours.at(block), places[block]
            wanted = labels.flatten()[at]
            nats.index_copy_(0, at, F.cross_entropy(logits, wanted, ignore_index=IGNORE, reduction="none"))
            predicted.index_copy_(0, at, logits.argmax(-1))
            undefined.index_copy_(0, at, logits.amax(-1).isnan())  # the largest is NaN where any of them is
            if theirs is not None:
                accepted.index_copy_(0, at, _overlap(logits, theirs.at(block)))
        shape = labels.shape
        acceptance = None if theirs is None else accepted.view(shape)
        return cls(nats.view(shape), predicted.view(shape), undefined.view(shape), acceptance, ours.width)


class LogitRows:
    """The logits of the positions that count, a block at a time.

    Args:
        signals: With logits, lazy or not, or sparse ones, which are of these positions alone.
        mask: Which positions count; ``None`` where all do.

    Attributes:
        width: Logits of a position.
        dtype: Of the logits: at least float32.
    """

    def __init__(self, signals: Signals, mask: Tensor | None) -> None:
        self._rows: LazyLogits | SparseLogits | Tensor
        if signals.lazy_logits is not None:
            self._rows, self.width = signals.lazy_logits.at(mask).detached(), signals.lazy_logits.width
            of, self._count = self._rows.hidden, len(self._rows.hidden)
        elif signals.sparse_logits is not None:
            self._rows, self.width = signals.sparse_logits, signals.sparse_logits.width
            of, self._count = self._rows.values, len(self._rows)
        else:
            of = self._rows = signals.at(mask)
            self.width, self._count = of.shape[-1], len(of)
        self.dtype = torch.promote_types(of.dtype, torch.float32)

    def __len__(self) -> int:
        return self._count

    def at(self, block: slice) -> Tensor:
        """Some of them, ``[n, C]``, in at least float32."""
        if isinstance(self._rows, Tensor):
            return at_least_float32(self._rows[block])
        return self._rows.block(block)

    def blocks(self) -> Iterator[Tensor]:
        """All of them, in blocks of a size that is the same for all models of one width."""
        size = max(1, _BLOCK // self.width)
        for start in range(0, len(self), size):
            yield self.at(slice(start, start + size))


def _overlap(student_nV: Tensor, teacher_nV: Tensor) -> Tensor:
    """sum over tokens of min(softmax(teacher), softmax(student)), ``[n]``."""
    width = min(student_nV.shape[-1], teacher_nV.shape[-1])
    q, p = (logits[:, :width].softmax(-1) for logits in (student_nV, teacher_nV))
    return torch.minimum(p, q).sum(-1)
