"""Quantized layers in a saved student: rebuilding them, and their weights as integers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from distill.compression.own_pass import guard
from distill.compression.quantization.layers import QuantizedLayer, quantized_layers
from distill.compression.quantization.lifecycle import freeze_structure
from distill.compression.quantization.outputs import rebuild_outputs, record_outputs
from distill.compression.quantization.scheme import LayerScheme
from distill.compression.quantization.weights import Grid

__all__ = ["INTEGERS", "Store", "pack", "rebuild", "step_of", "unpack"]

Store = Literal["float", "integers"]
"""How weights are kept: floats on the grid under the plain names, or the integers themselves."""

INTEGERS = "weight_integers"
"""Name of a layer's integers in a packed state."""


def step_of(layers: Mapping[str, QuantizedLayer], store: Store = "float") -> dict[str, Any]:
    """The step of ``compression.json`` that says how these frozen layers were quantized."""
    modules = {name: layer.scheme.record() for name, layer in layers.items()}
    outputs = record_outputs(layers)
    return {"kind": "quantize", "store": store, "modules": modules} | ({"outputs": outputs} if outputs else {})


def rebuild(model: nn.Module, step: Mapping[str, Any]) -> None:
    """Give a plain ``model`` frozen layers, whose buffers and weights are for a state dict to fill."""
    for name, record in step["modules"].items():
        freeze_structure(model.get_submodule(name), LayerScheme.of(record))
    if outputs := step.get("outputs"):
        rebuild_outputs(model, quantized_layers(model), outputs)
    guard(model)


def pack(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A state dict with the frozen layers' weights as integers, two to a byte up to 4 bits.

    ``<layer>.weight`` becomes ``<layer>.weight_integers``; the scales stay beside it. What is shared is kept once,
    under the first of its names.

    Args:
        state: Of ``model``, with tied weights once or more.
        model: With frozen layers.
    """
    packed, done = dict(state), set[int]()
    for name, layer in quantized_layers(model).items():
        if layer.mode != "frozen" or packed.pop(f"{name}.weight", None) is None or id(layer.weight) in done:
            continue
        integers = layer.integers()
        packed[f"{name}.{INTEGERS}"] = _nibbles(integers) if layer.scheme.weights.bits <= 4 else integers
        done.add(id(layer.weight))
    first: dict[Any, str] = {}
    return {name: tensor for name, tensor in packed.items() if first.setdefault(_place(tensor), name) == name}


def unpack(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The state dict of the model that was packed, to the bit; what is shared under all its names.

    Args:
        state: Packed, or not.
        model: Of the structure that was packed; its values do not matter.
    """
    whole = dict(state)
    for name, layer in quantized_layers(model).items():
        integers = whole.pop(f"{name}.{INTEGERS}", None)
        if integers is None:
            continue
        if layer.scheme.weights.bits <= 4:
            integers = _from_nibbles(integers, layer.weight.shape)
        zero_point = whole.get(f"{name}.weight_zero_point")
        whole[f"{name}.weight"] = layer.dequantize(integers, Grid(whole[f"{name}.weight_scale"], zero_point))
    places = {name: _place(tensor) for name, tensor in model.state_dict().items()}
    kept = {place: whole[name] for name, place in places.items() if name in whole}
    return whole | {name: kept[place] for name, place in places.items() if name not in whole and place in kept}


def _place(tensor: Tensor) -> tuple[Any, ...]:
    """The same for tensors that are one in memory."""
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _nibbles(integers: Tensor) -> Tensor:
    """Two integers of 4 bits to a byte, the first in the lower half, flat."""
    flat = integers.flatten()
    low, high = nn.functional.pad(flat, (0, flat.numel() % 2)).view(-1, 2).unbind(1)
    return (low & 15).to(torch.uint8) | ((high & 15).to(torch.uint8) << 4)


def _from_nibbles(packed: Tensor, shape: torch.Size) -> Tensor:
    flat = torch.stack([packed & 15, packed >> 4], dim=1).to(torch.int8).flatten()[: shape.numel()]
    return ((flat ^ 8) - 8).view(shape)
