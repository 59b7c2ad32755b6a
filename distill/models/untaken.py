"""Tensors in a file of weights that nothing of the model takes: what computes is then not what was saved."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import nn

from distill.core.record import LOST, LOST_HINT, RECORD
from distill.core.utils.errors import UserError

__all__ = ["INTEGER_WEIGHTS", "refuse_unrecorded_integers", "refuse_untaken"]

INTEGER_WEIGHTS = "integers.safetensors"
"""Of a student that keeps integers: under the usual name transformers would take no weight of it, and make them up."""

_OURS = frozenset(
    {
        "weight_scale",
        "weight_zero_point",
        "weight_integers",
        "input_scale",
        "input_zero_point",
        "output_scales",
        "output_zero_points",
        "weight_mask",
    }
)
"""What a layer that was compressed here has beside its weight."""


def refuse_unrecorded_integers(folder: Path, key: str, value: object) -> None:
    """Refuse integers without the record that says how they become weights.

    Raises:
        UserError: naming the record.
    """
    if (folder / INTEGER_WEIGHTS).is_file() and not (folder / RECORD).is_file():
        raise UserError(f"{LOST} ({INTEGER_WEIGHTS})", key=key, value=value, hint=LOST_HINT)


def refuse_untaken(model: nn.Module, unexpected: Iterable[str], folder: Path, key: str, value: object) -> None:
    """Refuse weights of which a part stands beside a layer's own, and is taken by nothing: a scale, a mask, a bias.

    Heads of other tasks are no layers of the model, and what a model computes anew (positions) is a buffer of it.

    Args:
        model: As it was made.
        unexpected: Names in the file that the model does not have; those of a base model lack its prefix.
        folder: Where the file is.
        key: The configuration key of the folder.
        value: As the user wrote it.

    Raises:
        UserError: naming the first of them.
    """

    def has_weights(layer: nn.Module) -> bool:
        return next(layer.parameters(recurse=False), None) is not None

    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    layers = {one: module for name, module in model.named_modules() for one in (name, name.removeprefix(prefix))}
    for name in sorted(unexpected):
        place, _, own = name.rpartition(".")
        layer = layers.get(place)
        if layer is None or not has_weights(layer) or own in dict(layer.named_buffers(recurse=False)):
            continue
        if own in _OURS and not (folder / RECORD).is_file():
            raise UserError(f"{LOST}, and they hold {name}", key=key, value=value, hint=LOST_HINT)
        if own in _OURS:
            problem = f"the weights hold {name}, and no step of {RECORD} makes it"
            raise UserError(problem, key=key, value=value, hint=LOST_HINT)
        problem = f"the weights hold {name}, and {place}, as config.json has it, is a {type(layer).__name__} without it"
        raise UserError(problem, key=key, value=value, hint="correct config.json, or save the model anew")
