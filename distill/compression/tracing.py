"""A traced pass: its operations as a graph, by what each of them read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from distill.compression.operations import LAYER, listening
from distill.core.internals.torch import tensors_in, version

__all__ = ["RESULT", "Operation", "Recorder", "recorded"]

RESULT = ".result"
"""What reads what a pass gives."""


@dataclass(eq=False)
class Operation:
    """One operation: what made a tensor.

    Attributes:
        kind: Of :data:`~distill.compression.operations.KINDS`, ``layer``, the name of another function after a dot, or
            nothing, of what a pass was given: its inputs, parameters, constants.
        module: Whose forward called it.
        place: The how manieth of its pass it is; ``None`` where it is not counted.
        inputs: What made the tensors that it read.
        layer: The layer that it is.
    """

    kind: str
    module: nn.Module | None = None
    place: int | None = None
    inputs: Sequence[Operation] = ()
    layer: nn.Module | None = None


class Recorder:
    """Notes the operations of a pass.

    Attributes:
        operations: In order.
        passes: The kinds of operations of each pass of each module.
    """

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.passes: dict[nn.Module, list[tuple[str, ...]]] = {}
        self._made: dict[int, tuple[Tensor, Operation]] = {}

    def of(self, tensor: Tensor) -> Operation:
        """What made it."""
        return self._made.setdefault(id(tensor), (tensor, Operation("")))[1]

    def left(self, module: nn.Module, kinds: Sequence[str]) -> None:
        """See :class:`~distill.compression.operations.Listener`."""
        self.passes.setdefault(module, []).append(tuple(kinds))

    def call(self, module: nn.Module, place: int | None, kind: str, run: Callable[[], Any], given: Any) -> Any:
        """See :class:`~distill.compression.operations.Listener`."""
        read = tensors_in(given)
        makers, versions = [self.of(tensor) for tensor in read], [version(tensor) for tensor in read]
        result = run()
        changed = [tensor for tensor, before in zip(read, versions, strict=True) if version(tensor) != before]
        for tensor in changed:  # whoever holds it on holds something else now
            self._made[id(tensor)] = tensor, Operation("")
        made = tensors_in(result)
        if not made or (place is None and not changed and any(made[0] is tensor for tensor in read)):
            return result  # no tensor, or the very one that was read
        layer = given[0] if kind == LAYER else None
        operation = Operation(kind, module, place, makers, layer)
        self.operations.append(operation)
        if isinstance(result, Tensor):
            result = result.view_as(result)  # so that what was changed in place has two names
            made = [result]
        for tensor in made:
            self._made[id(tensor)] = tensor, operation
        return result


def recorded(run: Callable[[], Any]) -> Recorder:
    """The operations of a pass of a model that is watched (:func:`~distill.compression.operations.watch`)."""
    recorder = Recorder()
    with listening(recorder):
        result = run()
    made = [recorder.of(tensor) for tensor in tensors_in(result)]
    recorder.operations.append(Operation(RESULT, inputs=made))
    return recorder
