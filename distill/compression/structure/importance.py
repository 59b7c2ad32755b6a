"""How much heads, feed-forward neurons and layers matter, and which of them go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from distill.compression.structure.units import Slice, Units

__all__ = [
    "choose",
    "choose_globally",
    "layer_change",
    "layer_magnitude",
    "layer_taylor",
    "magnitude",
    "output_norm",
    "per_unit",
    "remembered",
    "taylor",
]

MEMORY = 0.99
"""How much of the importance measured so far the next step keeps: about the last hundred steps count."""


def per_unit(values: Tensor, part: Slice) -> Tensor:
    """Sums of ``values``, of the parameter's shape, over what belongs to each unit: ``[units]``, float32."""
    others = [axis for axis in range(values.dim()) if axis != part.axis]
    sums = values.float().sum(others) if others else values.float()
    return sums[part.features].sum(1)


def _total(units: Units, values: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([per_unit(values[part.parameter], part) for part in units.slices]).sum(0)


def magnitude(units: Units, weights: Mapping[str, Tensor]) -> Tensor:
    """The L2 norm of all weights of a unit, ``[units]``.

    Args:
        units: Of one layer.
        weights: Parameters by name.
    """
    return _total(units, {part.parameter: weights[part.parameter].detach().square() for part in units.slices}).sqrt()


def taylor(units: Units, weights: Mapping[str, Tensor]) -> Tensor:
    """|sum over a unit's weights of w * dL/dw|, ``[units]``: to first order the change of the loss without it.

    "Are Sixteen Heads Really Better than One?" (Michel et al., 2019); "Importance Estimation for Neural Network
    Pruning" (Molchanov et al., 2019).

    Args:
        units: Of one layer.
        weights: Parameters by name; those without a gradient count as having a gradient of zero.
    """
    parts = [(part, weights[part.parameter]) for part in units.slices]
    products = {part.parameter: w.detach() * w.grad for part, w in parts if w.grad is not None}
    sums = [per_unit(products[part.parameter], part) for part, _ in parts if part.parameter in products]
    return torch.stack(sums).sum(0).abs() if sums else torch.zeros(units.count, device=parts[0][1].device)


def output_norm(units: Units, weights: Mapping[str, Tensor], squares: Tensor) -> Tensor:
    """The norm of what a unit adds, inputs taken as uncorrelated: sqrt(sum_j ||x_j||^2 * ||W_j||^2), ``[units]``.

    j runs over the unit's features, x_j is a feature over all positions and W_j the column that reads it; where several
    maps do, the columns of all, and all that they read. For one feature of one map this is the norm of the scores of
    Wanda, "A Simple and Effective Pruning Approach for Large Language Models" (Sun et al., 2024).

    Args:
        units: Of one layer.
        weights: Parameters by name.
        squares: ||x_j||^2 of every feature, ``[features]``.
    """
    parts = [(part, weights[part.parameter].detach().float()) for part in units.readers]
    columns = torch.stack([weight.square().sum(1 - part.axis) for part, weight in parts]).sum(0)
    return (columns * squares)[units.readers[0].features].sum(1).sqrt()


def layer_magnitude(layer: Sequence[Units], weights: Mapping[str, Tensor]) -> Tensor:
    """The L2 norm of the weights of a layer's heads and neurons, a number.

    Args:
        layer: Its heads and its neurons.
        weights: Parameters by name.
    """
    norm: Tensor = torch.cat([magnitude(units, weights) for units in layer]).norm()
    return norm


def layer_taylor(layer: Sequence[Units], weights: Mapping[str, Tensor]) -> Tensor:
    """|sum of w * dL/dw| over the maps by which a layer adds to its input, a number.

    Args:
        layer: Its heads and its neurons.
        weights: Parameters by name.
    """
    maps = [weights[part.parameter] for units in layer for part in units.readers]
    sums = [(w.detach() * w.grad).float().sum() for w in maps if w.grad is not None]
    return torch.stack(sums).sum().abs() if sums else torch.zeros((), device=maps[0].device)


def layer_change(squares: Tensor) -> Tensor:
    """How much a layer f changes its input: ||f(x) - x|| / ||x||, a number.

    Args:
        squares: ||f(x) - x||^2 and ||x||^2.
    """
    return (squares[0] / squares[1].clamp(min=torch.finfo(torch.float32).tiny)).sqrt()


def choose(importance: Tensor, mask: Tensor, removed: int) -> Tensor:
    """The mask of the units that stay when the ``removed`` least important are gone; gone ones do not come back.

    Args:
        importance: ``[units]``; of equal ones the first go first.
        mask: Which stayed so far, boolean, ``[units]``.
        removed: How many are gone in the end, of all.
    """
    order = importance.masked_fill(~mask, -torch.inf).argsort(stable=True)
    kept = mask.clone()
    kept[order[:removed]] = False
    return kept


def choose_globally(importances: Sequence[Tensor], masks: Sequence[Tensor], removed: int) -> list[Tensor]:
    """The same over several layers at once, each of which keeps at least one unit.

    Importances are compared as multiples of the mean over the units of their layer that stayed so far: how large
    weights, gradients and activations are differs from layer to layer.
    """
    ranked = []
    for importance, mask in zip(importances, masks, strict=True):
        scores = importance / (importance * mask).sum().clamp(min=torch.finfo(torch.float32).tiny) * mask.sum()
        best = scores.masked_fill(~mask, -torch.inf).argmax()
        ranked.append(scores.index_fill(0, best, torch.inf))
    kept = choose(torch.cat(ranked), torch.cat(list(masks)), removed)
    return list(torch.split(kept, [len(mask) for mask in masks]))


def remembered(averages: Sequence[Tensor], scores: Sequence[Tensor]) -> list[Tensor]:
    """Moving averages with the scores of a step, as multiples of their mean: so steps count alike, large losses too."""
    mean = torch.cat(list(scores)).mean().clamp(min=torch.finfo(torch.float32).tiny)
    # A gradient that overflowed in half precision, whose step is skipped, says nothing.
    new = [(score / mean).nan_to_num(0.0, 0.0, 0.0) for score in scores]
    return [average * MEMORY + score * (1 - MEMORY) for average, score in zip(averages, new, strict=True)]
