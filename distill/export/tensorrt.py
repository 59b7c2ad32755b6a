"""The target ``tensorrt``: an ONNX graph that TensorRT builds an engine of, by its rules for integers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from distill.core.utils.errors import UserError
from distill.export.onnx.convert import frozen_layers
from distill.export.onnx.write import MODEL, Onnx, OnnxInt8

__all__ = ["TensorRT", "rewrite", "violations"]

_DYNAMIC = ("DynamicQuantizeLinear", "MatMulInteger", "ConvInteger")


class TensorRT(Onnx):
    """``model.onnx`` whose integers are pairs of QuantizeLinear and DequantizeLinear, all of them symmetric.

    TensorRT takes zero points of 0 alone, int8 on both sides, one scale for an input, and scales that are constants
    (https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html). The graph is
    held against these rules and run in onnxruntime; no engine is built.
    """

    name = "tensorrt"
    integers = True

    def write(self, student: nn.Module, folder: Path, example: dict[str, Tensor]) -> dict[str, Any]:
        layers = frozen_layers(student)
        if not layers:
            return super().write(student, folder, example)
        report = OnnxInt8("vnni").write(student, folder, example)  # which keeps int8
        import onnx

        model = onnx.load(folder / MODEL)
        rewrite(model.graph)
        if found := next(violations(model.graph), None):
            hint = "train with activations: {symmetric: true} and embeddings: null, or export it with --to onnx"
            raise UserError(f"TensorRT does not take it: {found}", key="--to", value=self.name, hint=hint)
        for file in folder.glob(f"{MODEL}*"):
            file.unlink()
        onnx.save(model, folder / MODEL)
        return report


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
