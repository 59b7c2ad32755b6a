"""Which units of one ranking are pruned: exact counts, and of equals some all over the layers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy
import torch
from torch import Tensor

__all__ = ["choose", "comparable", "count_at", "exchange", "lowest", "on_one_scale", "protect", "spared"]

SPARED = 0.25
"""Of what an equal share would leave a layer, this part stays at least."""


def count_at(sparsity: float, units: int) -> int:
    """How many of ``units`` are pruned at a sparsity: the nearest integer, halves rounded up."""
    return math.floor(sparsity * units + 0.5)


def lowest(values: Tensor, count: int) -> Tensor:
    """Which are the ``count`` lowest, boolean.

    Of equal values it takes some all over, by an order that is the same for the same number of them: the first would
    be whole rows of a matrix.

    Args:
        values: ``[N]``, without NaN.
        count: From 0 to N.
    """
    if count == 0:
        return torch.zeros_like(values, dtype=torch.bool)
    limit = _smallest(values, count)
    below, ties = values < limit, (values == limit).nonzero().squeeze(1)
    wanted = count - int(below.count_nonzero())
    if wanted < len(ties):
        ties = _shuffled(ties)[:wanted]
    below[ties] = True
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


def comparable(scores: Tensor) -> Tensor:
    """Scores of one layer as multiples of their root mean square, on which a ranking over several layers compares them.

    How large the weights of a layer are says little of what they do: norms, residual sums and the next layer undo it.
    Divided so, scores are the same whatever factor the layer's weights are multiplied by, and their order within the
    layer stays; of magnitudes this is a weight's part in the layer's Frobenius norm, as in Lee et al.: Layer-adaptive
    Sparsity for the Magnitude-based Pruning (LAMP), ICLR 2021, which divides by what of that norm is yet to be pruned.
    The mean is over all weights of the layer, pruned ones included, so that it hardly moves while the least go.

    Args:
        scores: Finite; ``[...]``.
    """
    # Of multiples of the largest, whose squares are numbers still.
    largest = scores.abs().max().clamp(min=torch.finfo(scores.dtype).tiny)
    scores = scores / largest
    return scores / scores.square().mean().sqrt().clamp(min=torch.finfo(scores.dtype).tiny)


def on_one_scale(costs: Tensor, blind: Tensor) -> Tensor:
    """Costs of two kinds of units as the part of its own kind that costs less than a unit, in [0, 1).

    Ranked by it, the same part of both kinds is pruned, and the one kind's costs are nothing to the other.

    Args:
        costs: ``[units]``; minus infinity where pruned already, and so it stays.
        blind: Which are of the other kind, boolean ``[units]``. Where all or none are, costs stay as they are.
    """
    if blind.all() or not blind.any():
        return costs
    parts = torch.empty_like(costs)
    for kind in (blind, ~blind):
        places = _shuffled(kind.nonzero().squeeze(1))
        order = costs[places].argsort(stable=True)
        parts[places[order]] = torch.arange(len(places), device=costs.device).to(costs.dtype) / len(places)
    return parts.masked_fill(costs == -math.inf, -math.inf)


def _shuffled(places: Tensor) -> Tensor:
    """In an order that is the same for the same number of them."""
    return places[torch.randperm(len(places), generator=torch.Generator().manual_seed(0)).to(places.device)]


def spared(sizes: Sequence[int], pruned: int) -> list[int]:
    """How many units each layer keeps at least, so that none is wiped out by a ranking over several.

    At least one, and a quarter (:data:`SPARED`) of what an equal share would leave it: at a sparsity s, a layer's own
    is at most 1 - (1 - s) / 4.

    Args:
        sizes: Units of each layer.
        pruned: How many of them all go in the end; at most all but one a layer.
    """
    kept = sum(sizes) - pruned
    least = [max(1, int(SPARED * size * kept / sum(sizes))) for size in sizes]
    return least if sum(least) <= kept else [1] * len(sizes)


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


def exchange(costs: Tensor, gradients: Tensor, count: int, share: float) -> Tensor:
    """Which units are pruned, boolean, where a ``share`` of the kept ones is given for pruned ones of large gradient.

    The ``count`` cheapest are dropped, and as many more as are exchanged; of these those of the largest gradient come
    back. Units without a gradient are not exchanged, and the share is not of them: they could leave, and never come
    back, and in their stead more of the others would be exchanged than there are to learn anew.

    Args:
        costs: ``[units]``; minus infinity where pruned already, infinity where a cap protects.
        gradients: Magnitudes ``[units]``, 0 where there is none (or it is not finite).
        count: How many are pruned in the end.
        share: Of the kept units that have a gradient, those that may be exchanged.

    Reference:
        Evci, Gale, Menick, Castro, Elsen: Rigging the Lottery, ICML 2020.
    """
    dropped, moved = choose(costs, count), gradients > 0
    more = costs.masked_fill(dropped | ~moved, math.inf)
    swapped = count_at(share, int((moved & ~dropped).count_nonzero()))
    swapped = min(swapped, int((more < math.inf).count_nonzero()))
    dropped = dropped | lowest(more, swapped)
    grown = lowest((-gradients).masked_fill(~(dropped & moved), math.inf), swapped)
    return dropped & ~grown
