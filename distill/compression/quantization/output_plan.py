"""What is rounded between layers: a pure function of the operations of a pass.

A runtime multiplies the integers of a convolution only where its output is rounded too, and adds, multiplies, joins and
pools integers only where all that these read is. So there is a point, a tensor with a grid of its own,

* behind each convolution of integers, past its batch norm and its ReLU, unless one layer alone reads it and rounds it;
* at what an addition, a product, a concatenation or an average pool reads, if all of it comes from layers of integers,
  from such operations, or is rounded for a convolution anyway; and behind it, past its ReLU.

Layers that read a point read it on its grid: one tensor has one grid, whoever reads it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from distill.compression.operations import LAYER
from distill.compression.tracing import RESULT, Operation

__all__ = ["OutputPlan", "plan_outputs"]

_INTEGER = frozenset({"add", "mul", "cat", "pool"})
"""Operations that onnxruntime has in integers."""

_POINTWISE = frozenset({"hardswish", "hardsigmoid", "sigmoid", "silu", "gelu", "relu", "clamp"})
"""Operations that it computes in floats, whose results may well be rounded."""

_FOLLOWING = frozenset({"relu", "clamp"})
"""What it takes into the rounding of what lies before."""

_SAME = frozenset(
    {
        *(".flatten", ".unflatten", ".view", ".view_as", ".reshape", ".contiguous", ".clone"),
        *(".permute", ".transpose", ".movedim", ".moveaxis", ".swapaxes", ".squeeze", ".unsqueeze", ".expand"),
        *(".__getitem__", ".chunk", ".split", ".narrow", ".unbind", ".pixel_shuffle", ".channel_shuffle"),
        *(".max_pool1d", ".max_pool2d", ".max_pool3d"),
    }
)
"""Functions whose results hold nothing but values that they read."""


@dataclass(frozen=True)
class OutputPlan:
    """Points, and who reads them.

    Attributes:
        points: The operations whose results are rounded, in the order of the pass.
        read: Layer -> what made its input, at each of its calls.
    """

    points: Sequence[Operation] = ()
    read: Mapping[nn.Module, Sequence[Operation]] = field(default_factory=dict)


def plan_outputs(operations: Sequence[Operation], layers: Collection[nn.Module]) -> OutputPlan:
    """Where to round.

    Args:
        operations: Of a pass, in order.
        layers: Those whose products are of integers.
    """
    graph = _Graph(operations, layers)
    potential, chosen = set[Operation](), list[Operation]()
    for operation in operations:
        if operation.layer in layers:
            potential.add(graph.end(operation))
        elif operation.kind in _INTEGER and all(source in potential for source in graph.sources(operation)):
            chosen.append(operation)
            potential.add(graph.end(operation))
        elif operation.place is not None and _may_be_rounded(graph, operation, potential):
            potential.add(operation)
    points = dict.fromkeys(graph.end(one) for one in operations if graph.convolves(one) and not graph.read_by_one(one))
    for operation in chosen:
        points |= dict.fromkeys([*graph.sources(operation), graph.end(operation)])
    order = [operation for operation in operations if operation in points and operation.place is not None]
    return OutputPlan(order, graph.read())


def _may_be_rounded(graph: _Graph, operation: Operation, potential: Collection[Operation]) -> bool:
    """Whether it is rounded for a convolution anyway, or is a function of what is rounded."""
    if any(graph.convolves(reader) for reader in graph.readers(operation)):
        return True
    return operation.kind in _POINTWISE and all(source in potential for source in graph.sources(operation))


class _Graph:
    def __init__(self, operations: Sequence[Operation], layers: Collection[nn.Module]) -> None:
        self.operations, self.layers = operations, layers
        self.direct: dict[Operation, list[Operation]] = {}
        for operation in operations:
            for made in dict.fromkeys(operation.inputs):
                self.direct.setdefault(made, []).append(operation)

    def convolves(self, operation: Operation) -> bool:
        """Whether it is a convolution of integers."""
        return operation.layer in self.layers and isinstance(operation.layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d))

    def readers(self, operation: Operation) -> Iterator[Operation]:
        """What reads its values."""
        for reader in self.direct.get(operation, ()):
            if reader.kind in _SAME:
                yield from self.readers(reader)
            else:
                yield reader

    def sources(self, operation: Operation) -> list[Operation]:
        """What made the values that it reads."""
        return [_source(made) for made in operation.inputs]

    def end(self, operation: Operation) -> Operation:
        """The last of an operation, the batch norm of a layer, and a ReLU, each read by the next alone."""
        followers = ["batch_norm"] if operation.kind == LAYER else []
        while True:
            readers = self.direct.get(operation, ())
            if len(readers) != 1 or readers[0].place is None or readers[0].inputs[0] is not operation:
                return operation
            if readers[0].kind not in _FOLLOWING and readers[0].kind not in followers:
                return operation
            operation, followers = readers[0], []

    def read_by_one(self, operation: Operation) -> bool:
        """Whether a single layer reads what comes of it, or nothing but who has asked for the pass."""
        readers = list(self.readers(self.end(operation)))
        return all(reader.kind == RESULT for reader in readers) or (
            len(readers) == 1 and readers[0].layer in self.layers
        )

    def read(self) -> dict[nn.Module, list[Operation]]:
        """Layer -> what made its input, at each of its calls."""
        found: dict[nn.Module, list[Operation]] = {}
        for operation in self.operations:
            if operation.layer is not None and operation.layer in self.layers and operation.inputs:
                found.setdefault(operation.layer, []).append(_source(operation.inputs[0]))
        return found


def _source(operation: Operation) -> Operation:
    while operation.kind in _SAME:
        operation = operation.inputs[0]
    return operation
