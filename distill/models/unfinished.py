"""A student whose compressions have not finished: it still holds masks, ranges and weights that are not rounded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from distill.compression.pruning.rankings import MASK
from distill.compression.pruning.weights import name_beside
from distill.compression.quantization.layers import quantized_layers
from distill.compression.structure.channel_plan import CHANNEL_MASK
from distill.compression.structure.low_rank import LowRankLinear
from distill.compression.structure.units import UNIT_KINDS
from distill.core.internals.torch import own_buffers, own_parameters
from distill.core.record import steps_of
from distill.core.utils.errors import UserError

__all__ = ["refuse_unfinished"]

_UNITS = {CHANNEL_MASK} | {f"{unit}_mask" for unit in ("layer", *UNIT_KINDS.values())}


def refuse_unfinished(student: nn.Module, steps: Sequence[Mapping[str, Any]] | None = None) -> None:
    """Refuse a student that compressions are still at work on.

    Args:
        student: Not changed.
        steps: What was done to it; :func:`steps_of` it if not given.

    Raises:
        UserError: naming the layer, and what finishes it.
    """
    rounded = (name for name, layer in quantized_layers(student).items() if layer.mode != "frozen")
    name = next(rounded, None)
    if name is None:
        name = next((name for name, module in student.named_modules() if _masked(module)), None)
    if name is None:
        name = next(iter(_unrecorded(student, steps_of(student) if steps is None else steps)), None)
    if name is not None:
        problem = f"{name or 'it'} is still being compressed"
        hint = "call distill.finish(trainer) once it is trained: that puts its zeros, parts and integers in place"
        raise UserError(problem, key="student", value=type(student).__name__, hint=hint)


def _masked(module: nn.Module) -> bool:
    masks = own_buffers(module).keys() & (_UNITS | {name_beside(own, MASK) for own in own_parameters(module)})
    return bool(masks)


def _unrecorded(student: nn.Module, steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """Maps that are products of two under a name of which no step says so: whoever loads them would not know."""
    found = dict(student.named_modules(remove_duplicate=False))
    named = {name for step in steps if step.get("kind") == "low_rank" for name in step["modules"]}
    known = {id(found[name]) for name in named & found.keys()}
    return [name for name, module in found.items() if isinstance(module, LowRankLinear) and id(module) not in known]
