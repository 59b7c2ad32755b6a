"""Weights whose products this machine would cut off, opened so that it computes them all the same.

A file whose weights are int8 of the full range is for processors with VNNI, or ARM. Older x86 ones add two products of
a byte and such a weight in 16 bits, which hold no more than 2¹⁵ - 1: what they compute is wrong, and nothing says so
(:mod:`distill.export.onnx.isa`). The same integers as uint8, 128 higher, are multiplied exactly there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from distill.core.utils.errors import UserError
from distill.export.onnx.isa import SAFE, host_isa

__all__ = ["for_this_machine", "without_saturation"]

LARGEST = 2**31 - 1
"""Bytes of a graph that is opened from memory."""

_WEIGHT_AND_ZERO_POINT = {"DequantizeLinear": (0, 2), "MatMulInteger": (1, 3)}
"""Operator -> which of its inputs the weights are, and which their zero points."""


def for_this_machine(path: Path) -> str | bytes:
    """What onnxruntime is to open: the file, or where this machine would compute it wrongly, the same graph of uint8.

    Raises:
        UserError: if the graph has more bytes than can be opened from memory.
    """
    if host_isa() != "avx2":
        return str(path)
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception:  # a DecodeError of protobuf's, which onnxruntime says better
        return str(path)
    if not any(node.op_type in _WEIGHT_AND_ZERO_POINT for node in model.graph.node):
        return str(path)
    onnx.load_external_data_for_model(model, str(path.parent))
    if not without_saturation(model.graph):
        return str(path)
    if model.ByteSize() > LARGEST:
        problem = "this processor cuts off products of its int8 weights, and 2 GB of them cannot be opened otherwise"
        raise UserError(problem, key="--isa", value=str(path), hint="export with --isa avx2, or open it elsewhere")
    return bytes(model.SerializeToString())


def without_saturation(graph: Any) -> bool:
    """Store int8 weights beyond :data:`~distill.export.onnx.isa.SAFE` as uint8, and their zero points 128 higher.

    Args:
        graph: An ``onnx.GraphProto`` with its weights in it, which is changed. It computes the same.

    Returns:
        Whether there were any.
    """
    from onnx import numpy_helper

    kept = {one.name: one for one in graph.initializer}
    changed = False
    for node in graph.node:
        if node.op_type not in _WEIGHT_AND_ZERO_POINT:
            continue
        at, zero = _WEIGHT_AND_ZERO_POINT[node.op_type]
        weight = numpy_helper.to_array(kept[node.input[at]]) if node.input[at] in kept else np.zeros(0, np.uint8)
        if weight.dtype != np.int8 or np.abs(weight.astype(np.int16)).max(initial=0) <= SAFE:
            continue
        point = kept.get(node.input[zero]) if len(node.input) > zero else None
        like = numpy_helper.to_array(point) if point is not None else _zeros(node, kept)
        for place, values in ((at, weight), (zero, like)):
            name = f"{node.input[place] if len(node.input) > place else node.output[0]}.uint8"
            if name not in kept:
                kept[name] = numpy_helper.from_array((values.astype(np.int16) + 128).astype(np.uint8), name)
                graph.initializer.append(kept[name])
            node.input.extend([""] * (place + 1 - len(node.input)))
            node.input[place] = name
        changed = True
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for one in [one for one in graph.initializer if changed and one.name not in used]:
        graph.initializer.remove(one)
    return changed


def _zeros(node: Any, kept: dict[str, Any]) -> Any:
    """Zero points that are not in the graph, which are 0: one for each scale of a DequantizeLinear."""
    from onnx import numpy_helper

    scale = kept.get(node.input[1]) if node.op_type == "DequantizeLinear" else None
    return np.zeros(() if scale is None else numpy_helper.to_array(scale).shape, np.int8)
