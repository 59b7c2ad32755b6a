"""A student whose compressions have not finished: it still holds masks, ranges and weights that are not rounded."""

from __future__ import annotations

from torch import nn

from distill.compression.pruning.rankings import MASK
from distill.compression.pruning.weights import name_beside
from distill.compression.quantization.layers import quantized_layers
from distill.compression.structure.units import UNIT_KINDS
from distill.core.internals.torch import own_buffers, own_parameters
from distill.core.utils.errors import UserError

__all__ = ["refuse_unfinished"]

_UNITS = {f"{unit}_mask" for unit in ("layer", *UNIT_KINDS.values())}


def refuse_unfinished(student: nn.Module) -> None:
    """Refuse a student that compressions are still at work on.

    Raises:
        UserError: naming the layer, and what finishes it.
    """
    rounded = (name for name, layer in quantized_layers(student).items() if layer.mode != "frozen")
    name = next(rounded, None)
    if name is None:
        name = next((name for name, module in student.named_modules() if _masked(module)), None)
    if name is not None:
        problem = f"{name or 'it'} is still being compressed"
        hint = "call distill.finish(trainer) once it is trained: that puts its zeros, parts and integers in place"
        raise UserError(problem, key="student", value=type(student).__name__, hint=hint)


def _masked(module: nn.Module) -> bool:
    masks = own_buffers(module).keys() & (_UNITS | {name_beside(own, MASK) for own in own_parameters(module)})
    return bool(masks)
