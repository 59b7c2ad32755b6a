"""A causal language model's scores by how much of its text it had read: is it worse with a long context?"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from distill.core.signals import IGNORE, Batch
from distill.core.token_scores import TokenScores

__all__ = ["EDGES", "ContextScores"]

EDGES = (64, 256, 1024, 4096, 16384)
"""The most tokens of context of each part but the last, which has no end."""


class ContextScores(Metric):
    """Sums by part: negative log likelihoods in nats, predictions, and bytes of text, over all batches and ranks.

    A token belongs to the part that holds the number of tokens from which it was predicted: those of its own document
    before it, the start token included, within the block or window that was read.
    """

    is_differentiable = False
    full_state_update = False
    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        exact = torch.float32 if torch.backends.mps.is_available() else torch.float64
        self.add_state("sums", torch.zeros(3, len(EDGES) + 1, dtype=exact), dist_reduce_fx="sum")

    def update(self, scores: TokenScores, batch: Batch) -> None:
        """Add a batch; its ``bytes`` are among the extras, or not known."""
        labels = batch.labels
        assert labels is not None
        positions = batch.inputs.get("position_ids")
        if positions is None:
            positions = torch.arange(labels.shape[1], device=labels.device).expand_as(labels)
        part = torch.bucketize(positions + 1, torch.tensor(EDGES, device=labels.device))
        size = batch.extras.get("bytes", torch.zeros_like(labels))
        values = torch.stack([scores.nats, labels != IGNORE, size]).to(self.sums.dtype)
        self.sums = self.sums.index_add(1, part.flatten(), values.flatten(1))

    def compute(self) -> Tensor:
        """``[3, parts]``: nats, predictions, bytes."""
        return self.sums

    def record(self) -> dict[str, Any]:
        """The parts that hold predictions: ``context`` in words, ``predictions``, ``perplexity``, ``bits_per_byte``.

        Bits per byte are ``None`` where no text was predicted (ends alone).
        """
        found: dict[str, list[Any]] = {"context": [], "predictions": [], "perplexity": [], "bits_per_byte": []}
        for place, (nats, count, size) in enumerate(self.compute().T.tolist()):
            if not count:
                continue
            first = EDGES[place - 1] + 1 if place else 1
            found["context"].append(f"{first:,}-{EDGES[place]:,}" if place < len(EDGES) else f"{first:,} or more")
            found["predictions"].append(int(count))
            found["perplexity"].append(_finite(_exp(nats / count)))
            found["bits_per_byte"].append(_finite(nats / math.log(2) / size) if size else None)
        return found


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
