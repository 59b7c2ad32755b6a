"""Gradients of the mean over all predictions of an optimizer step, whatever its micro-batches and ranks."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.optim import Optimizer

from distill.core.internals.torch import scale
from distill.training.sharding import local

__all__ = ["GlobalMean", "power_of_two"]


def power_of_two(predictions: int, micro_batches: int) -> float:
    """By what the sums of a step are divided until its true count is known: they are then about as large as means.

    In float16 the gradient of a sum would overflow where that of the mean does not; of float32 the bits stay the same.

    Args:
        predictions: Of one micro-batch.
        micro_batches: Of a step.
    """
    return float(2 ** math.ceil(math.log2(max(1, predictions) * micro_batches)))


class GlobalMean:
    """Makes of the sums of a step's micro-batches the gradient of their mean over all valid predictions.

    With one rank and no accumulation the count of the one micro-batch is the global count, and dividing the loss by
    it saves a pass over the gradients. Otherwise sums are back-propagated, and the gradients scaled once all of the
    step's predictions are counted.

    Attributes:
        predictions: Of the run's first micro-batch, on the rank with the most; part of a checkpoint.
    """

    def __init__(self) -> None:
        self.predictions: int | None = None
        self._micro_batches, self._ranks = 1, 1
        self._counted: Tensor | None = None
        self._divided_by = 1.0

    def begin(self, micro_batches: int, ranks: int) -> None:
        """Set how many micro-batches a step has, and how many ranks there are."""
        self._micro_batches, self._ranks = micro_batches, ranks

    def forget(self) -> None:
        """Begin a step anew, as a run does."""
        self._counted = None

    def loss(self, total: Tensor, count: Tensor) -> Tensor:
        """What is back-propagated of a micro-batch.

        Args:
            total: The objective, summed over its predictions.
            count: How many these are.
        """
        if self._micro_batches == 1 and self._ranks == 1:
            return total / count.clamp(min=1)
        if self.predictions is None:
            most = count.clone()
            if self._ranks > 1:
                torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
            self.predictions = max(1, int(most))  # read from the device once a run
        self._counted = count if self._counted is None else self._counted + count
        self._divided_by = power_of_two(self.predictions, self._micro_batches)
        return total * self._micro_batches / self._divided_by  # undoes Lightning's division

    def average(self, optimizer: Optimizer) -> None:
        """Scale the gradients that the micro-batches have left, if that is still to be done."""
        if self._counted is None:
            return
        counted = self._counted.clone()
        if self._ranks > 1:
            torch.distributed.all_reduce(counted)
        # DDP and FSDP average over the ranks.
        factor = self._divided_by * self._ranks / counted.clamp(min=1)
        parameters = (p for group in optimizer.param_groups for p in group["params"])
        scale([local(p.grad) for p in parameters if p.grad is not None], factor)
        self._counted = None
