"""Heads, neurons and layers that are taken out, so that the model is smaller and faster in fact.

A configuration of transformers gives one number of heads and neurons for all layers. So the configuration stays that of
the model before, and what was removed is a step of ``compression.json``, which :func:`rebuild` does once more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from distill.compression.structure.masking import features
from distill.compression.structure.shapes import set_shapes, tell_shape
from distill.compression.structure.units import UNIT_KINDS, UnitKind, Units, find_units, layer_modules
from distill.core.internals.torch import own_buffers, own_modules, own_parameters
from distill.core.layer_config import keep_in_config
from distill.core.orientation import output_axis
from distill.core.utils.errors import UserError

__all__ = ["keep_units", "rebuild", "remove_layers", "remove_units"]

_HEADS = ("num_attention_heads", "num_heads", "n_heads")
_HEADS_WIDTH = ("all_head_size", "split_size")
"""What attention modules call the number of their heads, and the width of all of them together."""


def keep_units(model: nn.Module, kind: UnitKind, kept: Mapping[int, Sequence[int]], key: str) -> None:
    """Take out, in place, all units but ``kept``.

    What a linear map carries besides its weight goes with it: masks of the weight's shape, scales of its outputs.

    Args:
        model: Of transformers.
        kind: ``heads``, ``neurons`` or ``hidden``.
        kept: Layer (1 is the first; 0 for ``hidden``) -> the units that stay, 0 is the first. Others keep all.
        key: What asks for it, for error messages.

    Raises:
        UserError: if a layer has no such units, or would have none left.
    """
    layers = {units.layer: units for units in find_units(model, kind, key)}
    for layer, stay in kept.items():
        if layer not in layers or not stay or not set(stay) <= set(range(layers[layer].count)):
            raise UserError(
                f"the model has no such {kind} in layer {layer}", key=key, value=list(stay), hint="check the layers"
            )
        units = layers[layer]
        chosen = torch.zeros(units.count, dtype=torch.bool)
        chosen[list(stay)] = True
        if not chosen.all():
            remove_units(model, [(units, chosen)])


def remove_units(model: nn.Module, chosen: Sequence[tuple[Units, Tensor]]) -> None:
    """Take out, in place, all units but the chosen ones (boolean, ``[units]``) of each of these."""
    holders = _holders(model)
    # Before the weights, beside which buffers of their shape would be cut too.
    for (name, axis), gone in _gone(chosen, "buffers").items():
        owner, _, own = name.rpartition(".")
        module = model.get_submodule(owner)
        buffer = module.get_buffer(own)
        own_buffers(module)[own] = buffer.index_select(axis, _left(buffer.shape[axis], gone))
        tell_shape(module, buffer.shape)
    for (name, axis), gone in _gone(chosen, "slices").items():
        old = model.get_parameter(name)
        index = _left(old.shape[axis], gone)
        new = nn.Parameter(old.detach().index_select(axis, index), requires_grad=old.requires_grad)
        for module, own in holders[name]:
            if own == "weight":
                _shrink_beside(module, old, axis, index)
            setattr(module, own, new)
            tell_shape(module, old.shape)
    for units, stay in chosen:
        if units.kind == "heads":
            for layer in _layers_of(model, units):
                _tell_heads(layer, units.count, int(stay.sum()))


def _gone(chosen: Sequence[tuple[Units, Tensor]], where: Literal["slices", "buffers"]) -> dict[tuple[str, int], Tensor]:
    """Tensor and axis -> the features along it that go, of all units together: each tensor is cut once."""
    gone: dict[tuple[str, int], list[Tensor]] = {}
    for units, stay in chosen:
        for part in getattr(units, where):
            gone.setdefault((part.parameter, part.axis), []).append(features(part, ~stay.to(part.features.device)))
    return {place: torch.cat(those) for place, those in gone.items()}


def _left(size: int, gone: Tensor) -> Tensor:
    """The places along an axis that are not gone."""
    return torch.ones(size, dtype=torch.bool, device=gone.device).index_fill(0, gone, False).nonzero().flatten()


def _holders(model: nn.Module) -> dict[str, list[tuple[nn.Module, str]]]:
    """Every module, and name in it, that holds a parameter: several where layers share it. By the parameter's name."""
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, parameter in own_parameters(module).items():
            if parameter is not None:
                places.setdefault(id(parameter), []).append((module, name))
    return {name: places[id(parameter)] for name, parameter in model.named_parameters()}


def _shrink_beside(module: nn.Module, weight: Tensor, axis: int, index: Tensor) -> None:
    """Masks of the weight, and scales and the like that hold one value, or row of values, an output."""
    out = output_axis(module)
    outputs = weight.shape[out]
    beside = {name: parameter for name, parameter in own_parameters(module).items() if name not in ("weight", "bias")}
    for name, tensor in (*own_buffers(module).items(), *beside.items()):
        if tensor is None:
            continue
        if tensor.shape == weight.shape:
            small = tensor.detach().index_select(axis, index)
        elif axis == out and tensor.dim() and tensor.shape[0] == outputs:
            small = tensor.detach().index_select(0, index)
        elif axis == out and tensor.dim() == 1 and name == "weight_scale":  # trained, and several an output
            small = tensor.detach().view(outputs, -1).index_select(0, index).flatten()
        else:
            continue
        setattr(module, name, nn.Parameter(small, tensor.requires_grad) if name in beside else small)


def _layers_of(model: nn.Module, units: Units) -> list[nn.Module]:
    """The layer, and those that share its parameters."""
    weight = dict(model.named_parameters())[units.slices[0].parameter]
    inside = units.slices[0].parameter.removeprefix(f"{units.owner}.")
    _, layers = layer_modules(model, "remove")
    return [layer for layer in layers if dict(layer.named_parameters()).get(inside) is weight]


def _tell_heads(layer: nn.Module, before: int, after: int) -> None:
    for module in layer.modules():
        for name in (*_HEADS, *_HEADS_WIDTH):
            count = getattr(module, name, None)
            if isinstance(count, int):
                setattr(module, name, count * after // before)


def remove_layers(model: nn.Module, kept: Sequence[int], key: str) -> None:
    """Take out, in place, all layers but ``kept`` (1 is the first); the configuration gives the new depth.

    Raises:
        UserError: if the architecture is not known, or its layers know how deep they are.
    """
    _, layers = layer_modules(model, key)
    config: Any = model.config
    if getattr(config, "scale_attn_by_inverse_layer_idx", False):
        raise UserError(
            "attention is scaled by the number of its layer, which removing others would change",
            key=key,
            hint="keep all layers, or take a student without scale_attn_by_inverse_layer_idx",
        )
    left = {str(i): layers[number - 1] for i, number in enumerate(kept)}
    own_modules(layers).clear()
    own_modules(layers).update(left)
    for i, layer in enumerate(layers):
        for module in layer.modules():
            if isinstance(getattr(module, "layer_idx", None), int):
                module.layer_idx = i  # type: ignore[assignment]
    keep_in_config(config, kept)


def rebuild(model: nn.Module, step: Mapping[str, Any]) -> None:
    """Take out of ``model`` what ``step`` says was removed; the values are for the caller to load.

    Args:
        model: Of transformers, of the structure before.
        step: ``heads``, ``neurons`` and ``hidden``: layer -> the units that stayed; ``shapes``: of the tensors that
            lost channels.

    Raises:
        UserError: if this is not the model that it was removed from.
    """
    for kind in UNIT_KINDS:
        kept = {int(layer): list(map(int, stay)) for layer, stay in step.get(kind, {}).items()}
        if kept:
            keep_units(model, kind, kept, "compression.json")
    set_shapes(model, step.get("shapes", {}))
