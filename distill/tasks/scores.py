"""Metrics that torchmetrics lacks: ratios of exact sums, for tasks that predict one token at a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric

from distill.signals import IGNORE

__all__ = ["BitsPerByte", "Perplexity", "Ratio", "negative_log_likelihood"]


class Ratio(Metric):
    """Sum of numerators over sum of denominators, over all batches and ranks; NaN while there are none."""

    is_differentiable = False
    full_state_update = False
    numerator: Tensor
    denominator: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Millions of small terms add up: float32 would lose them. Apple's devices have nothing longer.
        exact = torch.float32 if torch.backends.mps.is_available() else torch.float64
        self.add_state("numerator", torch.zeros((), dtype=exact), dist_reduce_fx="sum")
        self.add_state("denominator", torch.zeros((), dtype=exact), dist_reduce_fx="sum")

    def update(self, numerator: Tensor, denominator: Tensor) -> None:
        """Add one batch's numerator and denominator, scalars or arrays to sum up."""
        self.numerator = self.numerator + numerator.sum()
        self.denominator = self.denominator + denominator.sum()

    def compute(self) -> Tensor:
        return (self.numerator / self.denominator).float()


class Perplexity(Ratio):
    """exp of the mean negative log likelihood in nats: numerator the likelihoods, denominator the predictions."""

    def compute(self) -> Tensor:
        return (self.numerator / self.denominator).exp().float()


class BitsPerByte(Ratio):
    """Negative log likelihood in bits over the bytes of text predicted: comparable across tokenizers."""

    def compute(self) -> Tensor:
        return (self.numerator / (math.log(2) * self.denominator)).float()


def negative_log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p(label) in nats for every label, in float32; 0 where it is :data:`IGNORE`.

    Args:
        logits: ``[..., C]``.
        labels: ``[...]``.

    Returns:
        ``[...]``.
    """
    flat = functional.cross_entropy(
        logits.flatten(0, -2).float(), labels.flatten(), ignore_index=IGNORE, reduction="none"
    )
    return flat.view_as(labels)
