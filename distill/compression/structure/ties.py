"""Which features of which tensors of a model must stay or go together: classes of numbered features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

__all__ = ["FIXED", "FREE", "Place", "Ties", "varies"]

FIXED = 0
"""Label of what must stay."""

FREE = -1
"""Label of values that are whatever features are: zeros around an image."""

Place = tuple[str, int]
"""A tensor of the model, by name, and an axis of it; ``WHOLE`` for each of its values."""

WHOLE = -1


class Ties:
    """Features of a model's tensors, each with a label from 1 on, and which of them are tied to each other.

    Labels are int64 tensors on the CPU, shaped like the values whose features they name, expanded where features are
    the same along an axis.
    """

    def __init__(self) -> None:
        self._parent = [FIXED]
        self._starts: dict[Place, tuple[int, torch.Size]] = {}

    def axis(self, name: str, axis: int, size: int) -> Tensor:
        """Labels of the features along an axis of a tensor: ``[size]``."""
        return self._labels((name, axis), torch.Size([size]))

    def values(self, name: str, shape: torch.Size) -> Tensor:
        """Labels of all values of a tensor, of its shape; of a vector they are those of its axis."""
        return self._labels((name, WHOLE if len(shape) != 1 else 0), shape)

    def _labels(self, place: Place, shape: torch.Size) -> Tensor:
        if place not in self._starts:
            self._starts[place] = len(self._parent), shape
            self._parent.extend(range(len(self._parent), len(self._parent) + shape.numel()))
        start, shape = self._starts[place]
        return torch.arange(start, start + shape.numel()).view(shape)

    def unite(self, left: Tensor, right: Tensor) -> None:
        """Tie labels to each other, place by place of what they are broadcast to."""
        left, right = torch.broadcast_tensors(left, right)  # type: ignore[no-untyped-call]
        for dim in range(left.dim()):
            if left.shape[dim] > 1 and not left.stride(dim) and not right.stride(dim):
                left, right = left.narrow(dim, 0, 1), right.narrow(dim, 0, 1)
        count = len(self._parent) + 1
        pairs: Tensor = ((left + 1).flatten() * count + (right + 1).flatten()).unique()  # type: ignore[no-untyped-call]
        for pair in pairs.tolist():
            one, other = pair // count - 1, pair % count - 1
            if one != FREE and other != FREE:
                one, other = self._root(one), self._root(other)
                self._parent[max(one, other)] = min(one, other)  # what is tied to FIXED is fixed

    def fix(self, labels: Tensor) -> None:
        """Have these features stay."""
        self.unite(labels, torch.tensor(FIXED))

    def _root(self, label: int) -> int:
        while self._parent[label] != label:
            self._parent[label] = label = self._parent[self._parent[label]]
        return label

    def roots(self, labels: Tensor) -> Tensor:
        """The label that stands for each one's class; :data:`FIXED` of what must stay."""
        return torch.tensor(
            [label if label == FREE else self._root(label) for label in labels.flatten().tolist()]
        ).view(labels.shape)

    def places(self) -> Iterator[tuple[str, int, Tensor]]:
        """Name, axis and classes along it, of every tensor with features that may go.

        Of a tensor whose values were labelled one by one it is the axis along which classes differ; where there is no
        such axis, they are fixed.
        """
        found: dict[Place, Tensor] = {}
        whole = [(name, shape) for (name, axis), (_, shape) in self._starts.items() if axis == WHOLE]
        both = {name for name, axis in self._starts if axis != WHOLE} & {name for name, _ in whole}
        for (name, _), (start, shape) in self._starts.items():
            if name in both:  # read as a matrix, and value by value
                self.fix(torch.arange(start, start + shape.numel()))
        axes = {name: self._axis(self.roots(self.values(name, shape))) for name, shape in whole}
        for name, shape in whole:
            if axes[name] is None:
                self.fix(self.values(name, shape))
        for (name, axis), (start, shape) in self._starts.items():
            roots = self.roots(torch.arange(start, start + shape.numel()).view(shape))
            if axis == WHOLE:
                only = axes[name]
                if only is None:
                    continue
                axis, roots = only, roots.movedim(only, -1).flatten(0, -2)[0]
            if (roots != FIXED).any():
                found[name, axis] = roots
        for (name, axis), roots in found.items():
            yield name, axis, self.roots(roots)

    @staticmethod
    def _axis(roots: Tensor) -> int | None:
        """The only axis along which classes differ."""
        axes = [axis for axis in range(roots.dim()) if varies(roots, axis)]
        return axes[0] if len(axes) == 1 else None


def varies(labels: Tensor, dim: int) -> bool:
    """Whether labels differ along an axis."""
    if labels.shape[dim] <= 1 or not labels.stride(dim):
        return False
    return bool((labels != labels.narrow(dim, 0, 1)).any())


def expanded(labels: Tensor, shape: Sequence[int]) -> Tensor:
    """Labels of a vector of channels for ``[B, channels, ...]``."""
    return labels.view(-1, *[1] * (len(shape) - 2)).expand(tuple(shape))
