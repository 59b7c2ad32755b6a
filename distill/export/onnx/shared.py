"""A table that is also a head: stored once."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["share_transposed"]


def share_transposed(graph: Any) -> None:
    """Have a matrix that is another one, transposed, be computed from it.

    An exporter folds the transposition of a linear map into its weight. Of a head that is tied to the embeddings this
    makes a second copy, which is most of a small language model's file.

    Args:
        graph: An ``onnx_ir.Graph``, which is changed.
    """
    import onnx_ir

    found: dict[tuple[Any, ...], list[Any]] = {}
    for value in list(graph.initializers.values()):
        if value.const_value is None or len(value.const_value.shape) != 2 or min(value.const_value.shape) < 2:
            continue
        matrix = value.const_value.numpy()
        same = found.get(_key(matrix.T), [])
        twin = next((one for one in same if np.array_equal(one.const_value.numpy(), matrix.T)), None)
        if twin is None:
            found.setdefault(_key(matrix), []).append(value)
            continue
        node = onnx_ir.node("Transpose", [twin], {"perm": [1, 0]})
        node.outputs[0].name = f"{value.name}.transposed"
        value.replace_all_uses_with(node.outputs[0])
        graph.insert_before(graph[0], node)
        del graph.initializers[value.name]


def _key(matrix: Any) -> tuple[Any, ...]:
    """What equal matrices have in common, cheaply."""
    return matrix.shape, matrix.dtype.str, matrix[0, :8].tobytes(), matrix[:8, 0].tobytes()
