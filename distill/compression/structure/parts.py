"""A student's layers and what can be removed of them, with the buffers that say what is switched off."""

from __future__ import annotations

from torch import Tensor, nn

from distill.compression.structure.units import UNIT_KINDS, UnitKind, Units, find_units, heads_in_group, layer_modules
from distill.core.internals.torch import own_parameters

__all__ = ["Parts"]


class Parts:
    """A student's layers and the units in them, found once and used at every step.

    Args:
        student: Of a known architecture.
        hidden: Whether the coordinates of the residual stream are looked for too.
        key: What asks for it, for error messages.

    Raises:
        UserError: if the architecture is not known.
    """

    def __init__(self, student: nn.Module, key: str, *, hidden: bool = False) -> None:
        self.student = student
        _, self.layers = layer_modules(student, key)
        kinds = [kind for kind in UNIT_KINDS if hidden or kind != "hidden"]
        self.units: dict[UnitKind, list[Units]] = {kind: find_units(student, kind, key) for kind in kinds}
        self.weights = dict(student.named_parameters())

    def counts(self, kind: UnitKind) -> list[int]:
        """How many units each layer has."""
        return [units.count for units in self.units[kind]]

    def each(self, kind: UnitKind) -> str:
        """What stands behind their number, where a unit is several heads."""
        group = heads_in_group(self.student) if kind == "heads" else 1
        return f" groups of {group} query heads that share one of keys and values" if group > 1 else ""

    @property
    def norms(self) -> list[nn.Module]:
        """The norms of the residual stream: modules whose weight is a vector over it. None if it is not looked at."""
        slices = [part for units in self.units.get("hidden", []) for part in units.slices]
        vectors = {id(self.weights[part.parameter]) for part in slices if self.weights[part.parameter].dim() == 1}
        return [module for module in self.student.modules() if id(own_parameters(module).get("weight")) in vectors]

    def mask(self, units: Units) -> Tensor:
        """Which of the units stay, boolean, ``[units]``: a buffer of their layer."""
        return self.student.get_submodule(units.owner).get_buffer(f"{UNIT_KINDS[units.kind]}_mask")

    def measured(self, units: Units) -> Tensor:
        """The moving average of their importance, ``[units]``: likewise."""
        return self.student.get_submodule(units.owner).get_buffer(f"{UNIT_KINDS[units.kind]}_importance")

    @property
    def by_layer(self) -> list[tuple[Units, ...]]:
        """The heads and the neurons of each layer."""
        return list(zip(self.units["heads"], self.units["neurons"], strict=True))
