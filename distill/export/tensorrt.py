"""The target ``tensorrt``: an ONNX graph that TensorRT builds an engine of, by its rules for integers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from distill.compression.quantization.layers import (
    QuantizedEmbedding,
    QuantizedLayer,
    QuantizedLinear,
    QuantizedTransposedLinear,
    multiplies_integers,
)
from distill.export.fit import Obstacle, Unfit
from distill.export.onnx.convert import frozen_layers
from distill.export.onnx.graph import rewrite_file
from distill.export.onnx.nibbles import block_of
from distill.export.onnx.write import MODEL, Onnx, OnnxInt8

__all__ = ["TensorRT", "rewrite", "violations"]

_HINT = "train with activations: {symmetric: true} and embeddings: null"

_DYNAMIC = ("DynamicQuantizeLinear", "MatMulInteger", "ConvInteger")


class TensorRT(Onnx):
    """``model.onnx`` whose integers are pairs of QuantizeLinear and DequantizeLinear, all of them symmetric.

    TensorRT takes zero points of 0 alone, int8 on both sides, one scale for an input, and scales that are constants
    (https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html). The graph is
    held against these rules and run in onnxruntime; no engine is built.
    """

    name = "tensorrt"
    integers = True

    def obstacles(self, student: nn.Module) -> Iterator[Obstacle]:
        found = (_against(name, layer) for name, layer in frozen_layers(student).items())
        if (why := next(filter(None, found), None)) is not None:
            yield Obstacle(why, "quantize", _HINT)

    def write(self, student: nn.Module, folder: Path, example: dict[str, Tensor]) -> dict[str, Any]:
        layers = frozen_layers(student)
        if not layers:
            return super().write(student, folder, example)
        report = OnnxInt8("vnni").write(student, folder, example)  # which keeps int8
        import onnx

        model = onnx.load(folder / MODEL)
        rewrite(model.graph)
        if found := next(violations(model.graph), None):
            raise Unfit(self.name, student, [Obstacle(found, "quantize", _HINT)])
        rewrite_file(model, folder / MODEL)
        return report


def _against(name: str, layer: QuantizedLayer) -> str | None:
    """The rule that a layer breaks, as far as its scheme tells; :func:`violations` sees the rest in the graph."""
    weights, inputs = layer.scheme.weights, layer.scheme.activations
    if isinstance(layer, QuantizedEmbedding) and weights.format == "int":
        return f"{name} looks up integers"
    if inputs is not None and not layer.static:
        return f"the scale of {name}'s inputs is computed (dynamic), and not a constant"
    if _in_nibbles(layer):
        return f"{name} is computed by MatMulNBits, an operator that it has not"
    symmetric = weights.symmetric and (inputs is None or inputs.symmetric)
    return None if symmetric or not multiplies_integers(layer) else f"what {name} rounds has a zero point"


def _in_nibbles(layer: QuantizedLayer) -> bool:
    """Whether its weights are stored two to a byte."""
    if not isinstance(layer, (QuantizedLinear, QuantizedTransposedLinear)) or multiplies_integers(layer):
        return False
    width = layer.weight.shape[isinstance(layer, QuantizedLinear)]
    scheme = layer.scheme.weights
    return scheme.format == "int" and scheme.bits <= 4 and block_of(width, layer.weight_scale) is not None


def rewrite(graph: Any) -> None:
    """Say the same in TensorRT's words: bytes around 128 are int8 around 0, and biases are floats.

    Args:
        graph: An ``onnx.GraphProto``, which is changed.
    """
    from onnx import numpy_helper

    kept = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    zero = numpy_helper.from_array(np.zeros((), np.int8), "tensorrt.zero")
    for node in list(graph.node):
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or not set(node.input[1:]) <= kept.keys():
            continue
        point = kept[node.input[2]] if len(node.input) > 2 else None
        if node.op_type == "DequantizeLinear" and node.input[0] in kept and kept[node.input[0]].dtype == np.int32:
            steps, scale = kept[node.input[0]], kept[node.input[1]]
            graph.initializer.append(numpy_helper.from_array((steps * scale).astype(np.float32), node.output[0]))
            graph.node.remove(node)
        elif point is not None and point.dtype == np.uint8 and point.ndim == 0 and int(point) == 128:
            node.input[2] = zero.name
    graph.initializer.append(zero)
    used = {name for node in graph.node for name in node.input}
    for one in [one for one in graph.initializer if one.name not in used]:
        graph.initializer.remove(one)


def violations(graph: Any) -> Iterator[str]:
    """What TensorRT does not take of a graph, each by the layer and the rule."""
    from onnx import numpy_helper

    kept = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    for node in graph.node:
        if node.op_type in _DYNAMIC or node.domain not in ("", "ai.onnx"):
            yield f"{_layer(node)} is computed by {node.op_type}, an operator that it has not"
        if node.op_type == "Gather" and node.input[0] in kept and kept[node.input[0]].dtype in (np.int8, np.uint8):
            yield f"{_layer(node)} looks up integers"
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        scale, point = (kept.get(name) for name in (*node.input[1:], "")[:2])
        if scale is None:
            yield f"the scale of {_layer(node)} is computed, and not a constant"
        elif scale.ndim > (1 if node.input[0] in kept else 0):
            yield f"{_layer(node)} has {scale.size} scales, where one is allowed"
        if point is None or point.dtype != np.int8 or point.any():
            yield f"what {_layer(node)} rounds has a zero point"


def _layer(node: Any) -> str:
    """The layer that a node is of, by the name of what it holds."""
    for name in reversed(node.input):
        if name.startswith("model.") and name.count(".") > 1:
            return str(name.removeprefix("model.").rsplit(".", 1)[0].removesuffix(".input"))
    return node.op_type if not node.output else str(node.output[0])
