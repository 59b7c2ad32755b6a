"""Means over all places of an image, written as the pool that a runtime has in integers."""

from __future__ import annotations

from typing import Any

__all__ = ["write_global_pools"]


def write_global_pools(graph: Any) -> None:
    """Make each mean over height and width of integers, whose result is rounded, a ``GlobalAveragePool``.

    The exporter writes ``ReduceMean`` for an adaptive pool to one place; of that onnxruntime has no form in integers.

    Args:
        graph: An ``onnx_ir.Graph`` whose values have shapes; it is changed.
    """
    import onnx_ir

    for node in list(graph):
        if node.op_type != "ReduceMean" or not _of_integers(node) or _places(node) is None:
            continue
        pool = onnx_ir.Node("", "GlobalAveragePool", [node.inputs[0]], name=node.name)
        pool.outputs[0].name, pool.outputs[0].shape = node.outputs[0].name, node.outputs[0].shape
        pool.outputs[0].dtype = node.outputs[0].dtype
        graph.insert_before(node, pool)
        node.outputs[0].replace_all_uses_with(pool.outputs[0])
        graph.remove(node, safe=True)


def _of_integers(node: Any) -> bool:
    source, readers = node.inputs[0].producer(), node.outputs[0].uses()
    rounded = bool(readers) and all(use.node.op_type == "QuantizeLinear" for use in readers)
    return rounded and source is not None and source.op_type == "DequantizeLinear"


def _places(node: Any) -> set[int] | None:
    """The dimensions behind the channels, if those are what the mean is over, and stay as dimensions of one."""
    shape, axes = node.inputs[0].shape, node.inputs[1].const_value if len(node.inputs) > 1 else None
    kept = node.attributes.get("keepdims")
    if shape is None or axes is None or (kept is not None and not kept.as_int()):
        return None
    rank = len(shape)
    over = {int(axis) % rank for axis in axes.numpy()}
    return over if over == set(range(2, rank)) else None
