"""Tensors in a file of weights that nothing of the model takes: what computes is then not what was saved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import safe_open
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

_NO_PART = frozenset(
    {
        *("inv_freq", "position_ids", "token_type_ids", "masked_bias"),
        *("relative_position_index", "relative_coords_table", "num_batches_tracked"),
        "mask_token",
    }
)
"""What a model computes anew, and what stands for hidden patches in pretraining alone."""


def refuse_unrecorded_integers(folder: Path, key: str, value: object) -> None:
    """Refuse integers without the record that says how they become weights.

    Raises:
        UserError: naming the record.
    """
    if (folder / INTEGER_WEIGHTS).is_file() and not (folder / RECORD).is_file():
        raise UserError(f"{LOST} ({INTEGER_WEIGHTS})", key=key, value=value, hint=LOST_HINT)


def refuse_untaken(
    model: nn.Module, unexpected: Iterable[str], folder: Path, key: str, value: object, *, any_head: bool = False
) -> None:
    """Refuse weights of which a part stands beside a layer's own, or below a layer that the model has.

    What a model computes anew (positions) or needs in pretraining alone is no part of it, nor is a bias of zeros.

    Args:
        model: As it was made.
        unexpected: Names in the file that the model does not have; those of a base model lack its prefix.
        folder: Where the file is.
        key: The configuration key of the folder.
        value: As the user wrote it.
        any_head: Whether the head may have been another task's: what stands outside the base model is then not asked.

    Raises:
        UserError: naming the first of them.
    """
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    layers = {name.removeprefix(prefix): module for name, module in model.named_modules()}
    base = getattr(model, "base_model", model)
    layers[""] = base if _has_weights(base) else model
    made_as = getattr(getattr(model, "config", None), "architectures", None) or ()
    foreign = type(model).__name__ not in made_as
    for name in sorted(unexpected):
        parent, _, own = name.removeprefix(prefix).rpartition(".")
        place, layer = _nearest(parent, layers)
        beside = place == parent and _has_weights(layer)
        computed = place == parent and own in dict(layer.named_buffers(recurse=False))
        if not (beside or _numbered(place)) or computed or own in _NO_PART:
            continue
        if own in _OURS:
            problem = f"the weights hold {name}, and no step of {RECORD} makes it"
            problem = problem if (folder / RECORD).is_file() else f"{LOST}, and they hold {name}"
            raise UserError(problem, key=key, value=value, hint=LOST_HINT)
        other_head = foreign and any_head and layer not in {*base.modules()}
        if other_head or (own.endswith("bias") and _is_zero(folder, name, prefix)):
            continue
        kind = f"{place or 'the model'}, as config.json has it, is a {type(layer).__name__}"
        problem = f"the weights hold {name}, and {kind} without it"
        raise UserError(problem, key=key, value=value, hint="correct config.json, or save the model anew")


def _has_weights(layer: nn.Module) -> bool:
    return next(layer.parameters(recurse=False), None) is not None


def _nearest(place: str, layers: Mapping[str, nn.Module]) -> tuple[str, nn.Module]:
    """The innermost module of the model that ``place`` is in, the model itself at the most."""
    while place not in layers:
        place = place.rpartition(".")[0]
    return place, layers[place]


def _numbered(place: str) -> bool:
    """Whether ``place`` is within one of several layers."""
    return any(part.isdecimal() for part in place.split("."))


def _is_zero(folder: Path, name: str, prefix: str) -> bool:
    """Whether a tensor in the files of ``folder`` is all zeros."""
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            for stored in {name, name.removeprefix(prefix), prefix + name} & {*tensors.keys()}:
                return not tensors.get_tensor(stored).any()
    return False
