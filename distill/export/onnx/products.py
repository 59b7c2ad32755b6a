"""Which layers of an exported student a runtime multiplies as integers, and why the others not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distill.compression.quantization.convolutions import QuantizedConv, QuantizedConvTranspose
from distill.compression.quantization.layers import QuantizedEmbedding, QuantizedLayer, multiplies_integers
from distill.export.onnx.convert import frozen_layers
from distill.export.onnx.runtime import INTEGER_MATMULS, optimized

__all__ = ["products"]

_INTEGERS = ".integers"
_ROOT = "model."


def products(path: Path, student: nn.Module) -> dict[str, Any]:
    """What of the student is multiplied as integers in the graph that onnxruntime makes of the file to run it.

    Args:
        path: The file, made by :func:`~distill.export.onnx.convert.with_integers`.
        student: With frozen layers.

    Returns:
        ``integer_products``, how many layers are; ``float_products``, why each other one is not, by its name;
        ``integer_matmuls``, how often which operator is in the graph.
    """
    import onnx

    nodes = [node for node in optimized(path).node if node.op_type in INTEGER_MATMULS]
    counts = Counter(node.op_type for node in nodes)
    graph = onnx.load(path, load_external_data=False).graph
    stored, read = _names(tensor.name for tensor in graph.initializer), _names(x for node in nodes for x in node.input)
    layers = {name: one for name, one in frozen_layers(student).items() if not isinstance(one, QuantizedEmbedding)}
    names = _all_names(student, layers)
    integer = {name for name in layers if names[name] & read}
    # Of equal integers the exporter keeps one, under one of the names.
    merged = {name for name in layers if not names[name] & stored and _equal(layers[name], integer, layers)}
    rounded = _rounded(graph)
    why = {
        name: _reason(layer, bool(names[name] & rounded))
        for name, layer in layers.items()
        if name not in integer | merged
    }
    return {
        "integer_products": len(layers) - len(why),
        "float_products": why,
        "integer_matmuls": {name: counts[name] for name in sorted(counts)},
    }


def _names(tensors: Iterable[str]) -> set[str]:
    """The layers whose integers are among these tensors."""
    return {name.removeprefix(_ROOT).split(_INTEGERS)[0] for name in tensors if _INTEGERS in name}


def _all_names(student: nn.Module, layers: Mapping[str, QuantizedLayer]) -> dict[str, set[str]]:
    """All names under which each layer stands."""
    known: dict[nn.Module, set[str]] = {}
    for name, module in student.named_modules(remove_duplicate=False):
        known.setdefault(module, set()).add(name)
    return {name: known[layer] for name, layer in layers.items()}


def _equal(layer: QuantizedLayer, names: Iterable[str], layers: Mapping[str, QuantizedLayer]) -> bool:
    others = (layers[name] for name in names if layers[name].weight.shape == layer.weight.shape)
    return any(torch.equal(layer.integers(), other.integers()) for other in others)


def _rounded(graph: Any) -> set[str]:
    """The layers whose output is rounded, past what a runtime takes into the rounding."""
    readers: dict[str, list[Any]] = {}
    made = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found = set()
    for node in graph.node:
        weights = [
            made[name].input[0] for name in node.input if name in made and made[name].op_type == "DequantizeLinear"
        ]
        if node.op_type != "Conv" or not _names(weights):
            continue
        after = readers.get(node.output[0], [])
        while len(after) == 1 and after[0].op_type in ("Relu", "Clip", "MaxPool"):
            after = readers.get(after[0].output[0], [])
        if after and all(one.op_type == "QuantizeLinear" for one in after):
            found |= _names(weights)
    return found


def _reason(layer: QuantizedLayer, rounded: bool) -> str:
    """Why a product is of floats."""
    weights, inputs = layer.scheme.weights, layer.scheme.activations
    conv = isinstance(layer, QuantizedConv)
    reasons = (
        (isinstance(layer, QuantizedConvTranspose), "a runtime multiplies no integers in transposed convolutions"),
        (inputs is None, "its inputs are not rounded"),
        (weights.group_size is not None, "its weights are rounded in groups"),
        (max(weights.bits, inputs.bits if inputs else 0) > 8, "it has more than 8 bits"),
        (conv and not layer.static, "its inputs have a scale for each sample"),
        (conv and not weights.symmetric, "its weights have a zero point"),
        (not multiplies_integers(layer), "a runtime has no such product of integers"),
        (conv and not rounded, "its output is not rounded"),
    )
    return next((said for holds, said in reasons if holds), "onnxruntime makes none of it")
