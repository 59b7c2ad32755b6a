"""Several teachers as one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from distill.core.numerics import at_least_float32
from distill.core.signals import Batch, Request, Signals
from distill.core.teacher import TeacherSource
from distill.core.utils.errors import UserError
from distill.models.teachers.several import Several

__all__ = ["Ensemble", "weighted_mean"]


def weighted_mean(logits: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """sum over i of w_i * z_i, with the weights w normalized to 1; in at least float32.

    softmax(mean / T) is the normalized geometric mean of the softmax(z_i / T), at every temperature T.

    Args:
        logits: Tensors ``[..., C]`` of one shape.
        weights: As many, greater than 0.
    """
    total = sum(weights)
    return torch.stack([w / total * at_least_float32(z) for z, w in zip(logits, weights, strict=True)]).sum(0)


class Ensemble(Several):
    """The weighted mean of several teachers' logits.

    Args:
        sources: The teachers; of one vocabulary, or of the same classes in the same order.
        weights: How much each counts, greater than 0; normalized here. Equal if not given.

    Raises:
        UserError: if a weight is not greater than 0, or there are not as many weights as teachers.
    """

    def __init__(self, sources: Sequence[TeacherSource], weights: Sequence[float] | None = None) -> None:
        super().__init__(sources)
        weights = [1.0] * len(sources) if weights is None else weights
        if len(weights) != len(sources):
            raise UserError(
                f"{len(sources)} teachers need as many weights",
                key="model.teacher",
                value=list(weights),
                hint="give one weight each",
            )
        for number, weight in enumerate(weights):
            if not 0 < weight < float("inf"):
                raise UserError(
                    "must be greater than 0",
                    key=f"model.teacher.{number}.weight",
                    value=weight,
                    hint="leave the teacher out, or give it a weight",
                )
        self.weights = [weight / sum(weights) for weight in weights]

    @property
    def fingerprint(self) -> str:
        parts = [f"{s.fingerprint} {w!r}" for s, w in zip(self.sources, self.weights, strict=True)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def signals(self, batch: Batch, request: Request) -> Signals:
        self._only_logits(request)
        return self._mean([source.signals(batch, request) for source in self.sources]) if request else Signals()

    def evaluate(self, batch: Batch) -> Signals:
        return self._mean([source.evaluate(batch) for source in self.sources])

    def _mean(self, signals: Sequence[Signals]) -> Signals:
        return Signals(logits=weighted_mean(self._of_one_width(signals), self.weights))
