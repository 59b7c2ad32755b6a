"""Scales over groups of inputs, which cannot lose some of their members."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from distill.compression.quantization.layers import QuantizedLayer
from distill.compression.structure.units import Units
from distill.core.orientation import input_axis
from distill.core.utils.errors import UserError

__all__ = ["refuse_cut_groups"]


def refuse_cut_groups(student: nn.Module, units: Sequence[Units], key: str, fraction: float) -> None:
    """Refuse scales over groups of inputs that lose some of their members: the others would be rounded anew.

    Raises:
        UserError: naming the map.
    """
    for kind, part in ((one.kind, part) for one in units for part in one.slices):
        name, _, own = part.parameter.rpartition(".")
        module = student.get_submodule(name)
        inputs = own == "weight" and part.axis == input_axis(module)
        if inputs and isinstance(module, QuantizedLayer) and module.scheme.weights.group_size is not None:
            problem = f"{name} has a scale for every {module.scheme.weights.group_size} inputs, of which {kind} go"
            hint = "quantize it per channel (overrides), or remove in a run before"
            raise UserError(problem, key=f"{key}.{kind}", value=fraction, hint=hint)
