"""What of a transformer can be removed: which features of which parameters belong to a head, a neuron, a coordinate.

The names of the parameters and what their axes run over are those of :data:`distill.core.architectures.FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from distill.compression.structure.low_rank import LowRankLinear
from distill.core.architectures import FAMILIES, Family, Role, Widths, layer_list
from distill.core.orientation import input_axis
from distill.core.utils.errors import UserError

__all__ = ["UNIT_KINDS", "Slice", "UnitKind", "Units", "find_units", "heads_in_group", "layer_modules"]

UnitKind = Literal["heads", "neurons", "hidden", "channels"]

UNIT_KINDS: Mapping[UnitKind, str] = {"heads": "head", "neurons": "neuron", "hidden": "hidden"}
"""What is removed of transformers -> its name in the singular, with which its buffers begin (``head_mask``)."""

_ROLES: Mapping[UnitKind, tuple[Role, ...]] = {
    "heads": ("heads", "kv_heads", "fused"),
    "neurons": ("ffn",),
    "hidden": ("hidden",),
}


@dataclass(frozen=True)
class Slice:
    """The features of one axis of a parameter, by the unit that they belong to.

    Attributes:
        parameter: Its name in the model; or that of a buffer.
        axis: Of the parameter.
        features: Indices along the axis, ``[units, features of a unit]``, on the parameter's device.
        reads: Whether this is a map after the units, which reads what they put out.
    """

    parameter: str
    axis: int
    features: Tensor
    reads: bool


@dataclass(frozen=True)
class Units:
    """The heads, or the feed-forward neurons, of one layer, or the coordinates of the residual stream of all layers; or
    the channels of a net that are in the same tensors.

    Set to zero in every slice, a unit adds nothing. Under grouped-query attention a unit of the heads is a head of keys
    and values with its query heads.

    Attributes:
        kind: ``heads``, ``neurons``, ``hidden`` or ``channels``.
        layer: 1 is the first; 0 stands for the whole model. Of channels a number that counts their groups.
        owner: Name of the layer's module, or of the model (empty), which carries the mask; of channels that of the map
            that makes them.
        slices: Where the units' weights are.
        buffers: Likewise in the model's buffers, such as running means.
    """

    kind: UnitKind
    layer: int
    owner: str
    slices: tuple[Slice, ...]
    buffers: tuple[Slice, ...] = ()

    @property
    def count(self) -> int:
        return len(self.slices[0].features)

    @property
    def readers(self) -> tuple[Slice, ...]:
        """The columns of the maps that read the units' output: one map, or for the residual stream many."""
        return tuple(part for part in self.slices if part.reads)


def layer_modules(model: nn.Module, key: str) -> tuple[str, nn.ModuleList]:
    """Name and list of the layers of a model whose architecture is known.

    Args:
        model: The student.
        key: What asks for it, for error messages.

    Raises:
        UserError: naming the architectures that are, if this one is not.
    """
    _family(model, key)
    assert isinstance(model, PreTrainedModel)
    name = layer_list(model)
    layers = model.get_submodule(name)
    assert isinstance(layers, nn.ModuleList)
    return name, layers


def find_units(model: nn.Module, kind: UnitKind, key: str) -> list[Units]:
    """The units of every layer; a layer that shares its parameters with an earlier one is passed over.

    Args:
        model: Of transformers.
        kind: ``heads`` or ``neurons``; or ``hidden``, of which there is one entry for the whole model.
        key: What asks for it, for error messages.

    Raises:
        UserError: if the architecture is not known, or the layers are not built as it builds them.
    """
    family = _family(model, key)
    prefix, layers = layer_modules(model, key)
    size = _sizes(model)
    whole = kind == "hidden"
    found: dict[int, list[Slice]] = {layer: [] for layer in range(len(layers) + 1)}
    for name, parameter in model.named_parameters():
        if not (whole or name.startswith(f"{prefix}.")) or not name.endswith((".weight", ".bias")):
            continue  # what else a module holds beside its weight, such as scales, is no weight of a unit
        layer = 0 if whole else int(name.removeprefix(f"{prefix}.").partition(".")[0]) + 1
        for axis, role in enumerate(_axes(model, family, name, key)):
            if role in _ROLES[kind]:
                features = _by_unit(parameter.shape[axis], size[role], fused=role == "fused").to(parameter.device)
                found[layer].append(Slice(name, axis, features, _reads(model, name, axis)))
    owners = {layer: f"{prefix}.{layer - 1}" if layer else "" for layer in found}
    return [Units(kind, layer, owners[layer], tuple(slices)) for layer, slices in found.items() if slices]


def _family(model: nn.Module, key: str) -> Family:
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if not isinstance(model, PreTrainedModel) or kind not in FAMILIES:
        raise UserError(
            f"it is known how {', '.join(FAMILIES)} are built, and this is {kind or type(model).__name__}",
            key=key,
            hint="take a student of one of them, or GradualMagnitudePruning, which needs to know no architecture",
        )
    return FAMILIES[kind]


def heads_in_group(model: nn.Module) -> int:
    """How many query heads share one head of keys and values, and so are one unit; of a known architecture."""
    widths = Widths.of(model.config, FAMILIES[model.config.model_type])  # type: ignore[union-attr, index]
    return widths.heads // widths.kv_heads


def _sizes(model: nn.Module) -> dict[Role, int]:
    """Features of one unit along an axis of each role."""
    widths = Widths.of(model.config, FAMILIES[model.config.model_type])  # type: ignore[union-attr, index]
    one = widths.head_dim
    return {"heads": heads_in_group(model) * one, "kv_heads": one, "fused": 3 * one, "ffn": 1, "hidden": 1}


def _axes(model: nn.Module, family: Family, name: str, key: str) -> tuple[Role, ...]:
    """What the axes of a layer's parameter run over; of a factor, the axis between the two is nobody's."""
    module, _, kind = name.rpartition(".")
    owner, _, factor = module.rpartition(".")
    try:
        if not isinstance(model.get_submodule(owner), LowRankLinear):
            return family.axes(name)
        (out,), weight = family.axes(f"{owner}.bias"), family.axes(f"{owner}.weight")
    except UserError as error:
        raise UserError(
            f"what the axes of {name} run over is not known", key=key, hint="use a student with the usual layers"
        ) from error
    if factor == "up":
        return (out, None) if kind == "weight" else (out,)
    return None, weight[1] if weight[0] == out else weight[0]


def _reads(model: nn.Module, name: str, axis: int) -> bool:
    module = model.get_submodule(name.rpartition(".")[0])
    return name.endswith(".weight") and axis == input_axis(module) and not isinstance(module, nn.Embedding)


def _by_unit(size: int, per_unit: int, *, fused: bool) -> Tensor:
    """The indices of an axis by unit; where queries, keys and values lie side by side, a unit has a part of each."""
    index = torch.arange(size)
    if fused:
        return index.view(3, -1, per_unit // 3).transpose(0, 1).reshape(-1, per_unit)
    return index.view(-1, per_unit)
