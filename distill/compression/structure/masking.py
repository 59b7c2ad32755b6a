"""Heads, neurons and layers that are switched off, as if they were removed already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from distill.compression.structure.units import Slice, Units

__all__ = ["LayerSwitch", "factors", "features"]


def features(part: Slice, chosen: Tensor) -> Tensor:
    """The features of the ``chosen`` units (boolean, ``[units]``) along the slice's axis, ascending."""
    return part.features[chosen].flatten().sort().values


def factors(units: Units, mask: Tensor, weights: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    """What sets units that are gone to zero: a parameter's name, and 0 or 1 for each place along its axis.

    Both sides of such a unit are zero, and so are the gradients of both: it cannot come back.

    Args:
        units: Of one layer.
        mask: Which stay, boolean, ``[units]``.
        weights: Parameters by name.
    """
    if mask.all():
        return []
    found = []
    for part in units.slices:
        weight = weights[part.parameter]
        factor = weight.new_ones(weight.shape[part.axis]).index_fill(0, features(part, ~mask), 0.0)
        found.append((part.parameter, factor.view(-1, *[1] * (weight.dim() - part.axis - 1))))
    return found


class LayerSwitch:
    """A forward hook of a layer: where the mask says that it is gone, its output is its input.

    The layer still runs, so that all of its parameters have gradients, of zero.

    Args:
        layers: Whose buffer ``layer_mask``, boolean, ``[layers]``, says which stay.
        index: Of the layer.
    """

    def __init__(self, layers: nn.ModuleList, index: int) -> None:
        self.layers, self.index = layers, index

    def __call__(self, _module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return torch.where(self.layers.get_buffer("layer_mask")[self.index], output, args[0])
