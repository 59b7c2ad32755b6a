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
        parts: list[tuple[Tensor, ...]] = []
        size = max(1, _BLOCK // ours.width)
        for start in range(0, len(places), size):
            block = slice(start, start + size)
            logits = ours.at(block)
            nats = F.cross_entropy(logits, labels.flatten()[places[block]], ignore_index=IGNORE, reduction="none")
            accepted = () if theirs is None else (_overlap(logits, theirs.at(block)),)
            parts.append((nats, logits.argmax(-1), logits.isnan().any(-1), *accepted))
        if not parts:
            parts = [tuple(labels.new_zeros(0, dtype=kind) for kind in (torch.float32, torch.int64, torch.bool))]
            parts = parts if theirs is None else [(*parts[0], parts[0][0])]
        of_all = [torch.cat(found) for found in zip(*parts, strict=True)]
        spread = [one.new_zeros(labels.numel()).index_copy_(0, places, one).view(labels.shape) for one in of_all]
        return cls(spread[0], spread[1], spread[2], spread[3] if theirs is not None else None, ours.width)


class LogitRows:
    """The logits of the positions that count, a block at a time.

    Args:
        signals: With logits, lazy or not.
        mask: Which positions count; ``None`` where all do.

    Attributes:
        width: Logits of a position.
    """

    def __init__(self, signals: Signals, mask: Tensor | None) -> None:
        self._rows: LazyLogits | Tensor
        if signals.lazy_logits is not None:
            self._rows, self.width = signals.lazy_logits.at(mask).detached(), signals.lazy_logits.width
        else:
            self._rows = signals.at(mask)
            self.width = self._rows.shape[-1]

    def __len__(self) -> int:
        return len(self._rows if isinstance(self._rows, Tensor) else self._rows.hidden)

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
