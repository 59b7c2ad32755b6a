"""Which units of one ranking are pruned: exact counts, ties by position."""

from __future__ import annotations

import math

import numpy
import torch
from torch import Tensor

__all__ = ["choose", "count_at", "exchange", "lowest", "protect"]


def count_at(sparsity: float, units: int) -> int:
    """How many of ``units`` are pruned at a sparsity: the nearest integer, halves rounded up."""
    return math.floor(sparsity * units + 0.5)


def lowest(values: Tensor, count: int) -> Tensor:
    """Which are the ``count`` lowest, boolean; of equal values the first.

    Args:
        values: ``[N]``, without NaN.
        count: From 0 to N.
    """
    if count == 0:
        return torch.zeros_like(values, dtype=torch.bool)
    limit = _smallest(values, count)
    below, ties = values < limit, (values == limit).nonzero().squeeze(1)
    below[ties[: count - int(below.count_nonzero())]] = True
    return below


def _smallest(values: Tensor, count: int) -> Tensor:
    """The ``count``-th smallest."""
    if values.device.type != "cpu":
        return values.sort().values[count - 1]  # kthvalue is refused where only deterministic kernels may run
    # Of 5 million weights numpy finds it in 10 ms, torch in 105; but not among as many that are equal.
    count -= _pruned(values)
    if count <= 0:
        return torch.tensor(-math.inf)
    array = values.numpy()
    return torch.tensor(numpy.partition(array[array > -math.inf], count - 1)[count - 1])


def protect(costs: Tensor, most: int) -> Tensor:
    """``costs`` with all but the ``most`` lowest infinite: the cap of a layer within a larger ranking."""
    return costs if most >= costs.numel() else costs.masked_fill(~lowest(costs, most), math.inf)


def choose(costs: Tensor, count: int) -> Tensor:
    """Which units are pruned, boolean: the ``count`` cheapest.

    What is pruned already costs minus infinity; it stays pruned, also where ``count`` is smaller.
    """
    return lowest(costs, max(count, _pruned(costs)))


def _pruned(costs: Tensor) -> int:
    """How many are pruned already."""
    return int((costs == -math.inf).count_nonzero())


def exchange(costs: Tensor, gradients: Tensor, count: int, swapped: int) -> Tensor:
    """Which units are pruned, boolean, where ``swapped`` kept ones are given for pruned ones of large gradient.

    The ``count + swapped`` cheapest are dropped; of these the ``swapped`` of the largest gradient come back.

    Args:
        costs: ``[units]``; minus infinity where pruned already, infinity where a cap protects.
        gradients: Magnitudes ``[units]``, not negative.
        count: How many are pruned in the end.
        swapped: How many may be exchanged.

    Reference:
        Evci, Gale, Menick, Castro, Elsen: Rigging the Lottery, ICML 2020.
    """
    count = max(count, _pruned(costs))
    swapped = min(swapped, int((costs < math.inf).count_nonzero()) - count)
    dropped = lowest(costs, count + swapped)
    grown = lowest((-gradients).masked_fill(~dropped, math.inf), swapped)
    return dropped & ~grown
