"""Heads, neurons and layers that are switched off, as if they were removed already."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from distill.structure.architectures import Slice, Units

__all__ = ["LayerSwitch", "dropped", "features"]


def features(part: Slice, chosen: Tensor) -> Tensor:
    """The features of the ``chosen`` units (boolean, ``[units]``) along the slice's axis, ascending."""
    return part.features[chosen].flatten().sort().values


def dropped(units: Units, mask: Tensor) -> list[tuple[str, int, Tensor]]:
    """What is zero where units are gone: parameter, axis, and indices along it.

    Both sides of such a unit are zero, and so are the gradients of both: it cannot come back.

    Args:
        units: Of one layer.
        mask: Which stay, boolean, ``[units]``.
    """
    gone = [(part.parameter, part.axis, features(part, ~mask)) for part in units.slices]
    return [(name, axis, index) for name, axis, index in gone if len(index)]


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
